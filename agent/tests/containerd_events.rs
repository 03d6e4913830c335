//! Wakes and observations when containerd comes and goes, on a real containerd.

mod support;

use std::time::Duration;

use agent::seams::{PodRuns, Runtime as _, ShimEnd, Wake};
use nix::sys::signal::Signal as Posix;
use pod::observed::ContainerState;
use support::pods::{TestContainerd, TestPod, TestRun, exit_code, state, woken};
use tests::process::Process;

fn process(pid: i32) -> Process {
    Process::find(pid).expect("it lives")
}

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
    process(i32::try_from(pid).expect("a pid")).signal(Posix::SIGKILL);
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
    process(shims[0]).signal(Posix::SIGKILL);
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
    let other = TestPod::new(&node, "b", "while :; do sleep 1; done");
    let (run, beside) = (pod.run(0, 0), other.run(0, 0));
    run.go(&runtime).await;
    let shim = process(node.shims()[0]);
    beside.go(&runtime).await;
    shim.stop();
    let seen = state(&runtime, &run.create.run).await;
    // The next look does not wait for it: containerd, asked by somebody who does not know, is slower to give it up.
    let stranger = node.open();
    let (unharmed, still) = tokio::select! {
        biased;
        seen = stranger.observe(None) => panic!("a shim that is known to be silent held up a look: {seen:?}"),
        seen = async { (state(&runtime, &beside.create.run).await, state(&runtime, &run.create.run).await) } => seen,
    };
    shim.signal(Posix::SIGCONT);
    assert_eq!([seen, still], [Some(ContainerState::Unanswered), Some(ContainerState::Unanswered)]);
    assert!(matches!(unharmed, Some(ContainerState::Running { .. })), "{unharmed:?}");
    // It answers again: whoever wants to end it leaves it alone.
    let end = runtime.end_shim(&runs_of(&run, 0)).await.expect("asked");
    assert_eq!(end, ShimEnd::Answers);
    let seen = state(&runtime, &run.create.run).await;
    assert!(matches!(seen, Some(ContainerState::Running { .. })), "{seen:?}");
    runtime.delete(&run.id()).await.expect("deleted");
}

#[tokio::test]
async fn a_shim_that_never_answers_is_ended_with_its_containers_and_nobody_elses() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let mut pod = TestPod::new(&node, "a", "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & wait; wait");
    pod.add("second");
    // The shim is called after a run that is long gone.
    let (first, run, second) = (pod.run(0, 0), pod.run(0, 3), pod.run(1, 0));
    first.go(&runtime).await;
    let shim = node.shims()[0];
    let pids = [run.go(&runtime).await, second.go(&runtime).await];
    runtime.delete(&first.id()).await.expect("deleted");
    let other = TestPod::new(&node, "b", "while :; do sleep 1; done");
    let beside = other.run(0, 0);
    beside.go(&runtime).await;
    let foreign = process(*node.shims().iter().find(|pid| **pid != shim).expect("the other pod's"));
    process(shim).stop();
    foreign.stop();

    // Who does not know of the run that named it finds nothing, says so and kills nobody.
    let ignorant = PodRuns { newest: [("second".to_owned(), 7)].into(), ..runs_of(&run, 0) };
    let error = runtime.end_shim(&ignorant).await.expect_err("not found");
    assert!(error.message.contains("no process of it is found"), "{error}");
    assert_eq!(node.shims().len(), 2);

    let end = runtime.end_shim(&runs_of(&run, 4)).await.expect("ended");

    assert_eq!(end, ShimEnd::Ended { found: format!("shim {shim} (stopped)") });
    // The clean-up of containerd is a command of the same program.
    tests::wait::wait_for("only the other pod's shim is left", || match node.shims() {
        left if left == [foreign.pid] => Ok(()),
        left => Err(format!("{left:?}")),
    });
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "{pid} lives");
    }
    // containerd notices by itself, and the ordinary deletion does the rest.
    let id = run.id();
    woken(&runtime, "the exit", |it| *it == Wake::Container(id.clone())).await;
    for run in [&run, &second] {
        runtime.delete(&run.id()).await.expect("deleted");
        assert_eq!(state(&runtime, &run.create.run).await, None);
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc is mounted");
        assert!(!mounts.contains(&run.id()), "its root is still mounted");
        assert!(!node.runc_state(&run.id()).exists(), "runc still knows it");
    }
    foreign.signal(Posix::SIGCONT);
    // It was seen to be silent: the look that finds it answering is the one after that which asks.
    let asks = state(&runtime, &beside.create.run).await;
    if asks == Some(ContainerState::Unanswered) {
        let id = beside.id();
        woken(&runtime, "the shim's answer", |it| *it == Wake::Container(id.clone())).await;
    }
    let unharmed = state(&runtime, &beside.create.run).await;
    assert!(matches!(unharmed, Some(ContainerState::Running { .. })), "{unharmed:?}");
    runtime.delete(&beside.id()).await.expect("deleted");
    assert_eq!(node.shims(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_stopped_containerd_is_noticed_within_seconds_and_taken_up_again() {
    let node = TestContainerd::start();
    let runtime = node.open();
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let pod = TestPod::new(&node, "a", "exit 4");
    let mut run = pod.run(0, 0);
    node.process().stop();
    let begun = std::time::Instant::now();
    let version = runtime.version().await;
    let took = begun.elapsed();
    // No shim is to blame for what containerd does not say.
    let end = runtime.end_shim(&runs_of(&run, 0)).await;
    let seen = runtime.observe(Some(run.create.workload)).await;
    node.process().signal(Posix::SIGCONT);
    assert!(version.is_err() && took < Duration::from_secs(8), "{version:?} after {took:?}");
    assert!(end.is_err() && seen.is_err(), "{end:?} {seen:?}");
    assert!(runtime.version().await.is_ok());
    assert_eq!(run.finish(&runtime).await.0, 4);
    // The subscription has lost nothing.
    let id = run.id();
    woken(&runtime, "the exit", |it| *it == Wake::Container(id.clone())).await;
    runtime.delete(&id).await.expect("deleted");
}

fn runs_of(run: &TestRun<'_>, newest: u32) -> PodRuns {
    let key = &run.create.run;
    PodRuns { uid: key.uid.clone(), newest: [(key.container.clone(), newest)].into() }
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
