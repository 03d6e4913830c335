//! Wakes and observations when containerd comes and goes, on a real containerd.

mod support;

use std::time::Duration;

use agent::seams::{Runtime as _, Wake};
use nix::sys::signal::{Signal as Posix, kill};
use nix::unistd::Pid;
use pod::observed::ContainerState;
use support::pods::{TestContainerd, TestPod, exit_code, state, woken};

#[tokio::test]
async fn containers_outlive_containerd_and_everybody_is_woken_when_it_is_back() {
    let mut node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let pod = TestPod::new(&node, "a", "while :; do sleep 1; done");
    let run = pod.run(0, 0);
    let pid = run.go(&runtime).await;

    node.down();
    woken(&runtime, "the stream's end", |it| *it == Wake::All).await;
    let error = runtime.observe(None).await.expect_err("containerd is down");
    assert!(error.unavailable, "{error:?}");
    assert!(error.message.contains("c.sock"), "{error}");
    assert!(runtime.create(&run.create).await.expect_err("down").unavailable);

    node.up();
    woken(&runtime, "containerd's return", |it| *it == Wake::All).await;
    assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Running { pid }));
    // The new subscription is live.
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Posix::SIGKILL).expect("ours");
    let id = run.id();
    woken(&runtime, "the exit", |it| *it == Wake::Container(id.clone())).await;
    assert_eq!(exit_code(&runtime, &run.create.run).await, 137);
}

#[tokio::test]
async fn it_opens_while_containerd_is_down_and_works_when_it_comes() {
    let mut node = TestContainerd::start();
    node.down();
    let runtime = node.open();
    assert!(runtime.version().await.expect_err("down").unavailable);
    node.up();
    woken(&runtime, "containerd's coming", |it| *it == Wake::All).await;
    runtime.version().await.expect("answers");
    let pod = TestPod::new(&node, "a", "exit 4");
    assert_eq!(pod.run(0, 0).finish(&runtime).await.0, 4);
}

#[tokio::test]
async fn a_task_that_containerd_forgot_is_no_task_unless_its_exit_was_heard() {
    let node = TestContainerd::start();
    let heard = node.open();
    woken(&heard, "the subscription", |it| *it == Wake::All).await;
    let pod = TestPod::new(&node, "a", "exit 5");
    let mut run = pod.run(0, 0);
    assert_eq!(run.finish(&heard).await.0, 5);
    let id = run.id();
    woken(&heard, "the exit", |it| *it == Wake::Container(id.clone())).await;

    // What containerd 1.7 and 2.x do to ended tasks when they restart.
    assert!(node.ctr(&["tasks", "rm", &id]).0);

    let seen = state(&heard, &run.create.run).await;
    assert!(matches!(seen, Some(ContainerState::Exited { exit_code: 5, .. })), "{seen:?}");
    let deaf = node.open();
    assert_eq!(state(&deaf, &run.create.run).await, Some(ContainerState::NoTask));
    deaf.delete(&id).await.expect("deleted");
    assert_eq!(deaf.observe(None).await.expect("observed"), []);
}

#[tokio::test]
async fn a_killed_shim_ends_its_containers() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let pod = TestPod::new(&node, "a", "while :; do sleep 1; done");
    let run = pod.run(0, 0);
    run.go(&runtime).await;
    let shims = node.shims();
    assert_eq!(shims.len(), 1);
    kill(Pid::from_raw(shims[0]), Posix::SIGKILL).expect("ours");
    let id = run.id();
    woken(&runtime, "the exit", |it| *it == Wake::Container(id.clone())).await;
    let seen = state(&runtime, &run.create.run).await;
    assert!(matches!(seen, Some(ContainerState::Exited { .. } | ContainerState::NoTask)), "{seen:?}");
    runtime.delete(&id).await.expect("deleted");
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
}

#[tokio::test]
async fn a_shim_that_does_not_answer_is_not_taken_for_a_dead_one() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", "while :; do sleep 1; done");
    let run = pod.run(0, 0);
    run.go(&runtime).await;
    let shim = Pid::from_raw(node.shims()[0]);
    kill(shim, Posix::SIGSTOP).expect("ours");
    let seen = runtime.observe(Some(run.create.workload)).await;
    kill(shim, Posix::SIGCONT).expect("ours");
    let error = seen.expect_err("nobody can know how it stands");
    assert!(error.message.contains("does not answer") && !error.unavailable, "{error:?}");
    let seen = state(&runtime, &run.create.run).await;
    assert!(matches!(seen, Some(ContainerState::Running { .. })), "{seen:?}");
    runtime.delete(&run.id()).await.expect("deleted");
}

#[tokio::test]
async fn memory_that_runs_out_is_seen_with_and_without_the_event() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let mut pod = TestPod::new(&node, "a", "exec dd if=/dev/zero of=/dev/null bs=100M count=1");
    pod.main().resources.memory_limit = Some(20 << 20);
    pod.main().resources.memory_request = Some(20 << 20);
    let run = pod.run(0, 0);
    run.go(&runtime).await;
    assert_eq!(exit_code(&runtime, &run.create.run).await, 137);
    for who in [&runtime, &node.open()] {
        let seen = state(who, &run.create.run).await;
        assert!(matches!(seen, Some(ContainerState::Exited { oom: true, .. })), "{seen:?}");
    }
}

#[tokio::test]
async fn images_that_come_and_go_wake() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    assert!(node.ctr(&["images", "tag", support::pods::IMAGE, "docker.io/library/other:1"]).0);
    woken(&runtime, "the image", |it| *it == Wake::Images).await;
    assert!(node.ctr(&["images", "rm", "docker.io/library/other:1"]).0);
    woken(&runtime, "its removal", |it| *it == Wake::Images).await;
}

#[tokio::test]
async fn what_happens_elsewhere_in_containerd_wakes_nobody() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let foreign = format!("{}-foreign", node.namespace);
    let socket = node.socket();
    let ctr = |words: &[&str]| {
        let out = std::process::Command::new("ctr").arg("-a").arg(&socket).args(["-n", &foreign]).args(words).output();
        out.expect("ctr is installed").status.success()
    };
    let archive = node.path().join("image.tar");
    assert!(ctr(&["images", "import", archive.to_str().expect("text")]));
    assert!(ctr(&["images", "rm", support::pods::IMAGE]));
    let wait = tokio::time::timeout(Duration::from_millis(300), runtime.wake());
    assert_eq!(wait.await.ok(), None);
}
