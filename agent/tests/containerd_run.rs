//! Runs on a real containerd: create, start, signal, observe, delete, and what an interruption leaves.

mod support;

use agent::seams::{Runtime as _, Wake};
use pod::observed::ContainerState;
use pod::plan::Signal;
use support::pods::{TestContainerd, TestPod, exit_code, state, woken};

#[tokio::test]
async fn a_run_starts_ends_and_is_observed_with_its_code() {
    let node = TestContainerd::start();
    let runtime = node.open();
    assert!(runtime.version().await.expect("answers").starts_with("containerd "));
    woken(&runtime, "the subscription", |it| *it == Wake::All).await;
    let pod = TestPod::new(&node, "a", "echo hello; exit 7");
    let mut run = pod.run(0, 0);

    runtime.create(&run.create).await.expect("created");
    assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Created));
    let pid = runtime.start(&run.id()).await.expect("started");
    assert!(pid > 1);
    let id = run.id();
    woken(&runtime, "the exit", |it| *it == Wake::Container(id.clone())).await;

    assert_eq!(exit_code(&runtime, &run.create.run).await, 7);
    assert!(run.output().contains("hello"));
    let of_workload = runtime.observe(Some(&pod.record.workload)).await.expect("observed");
    assert_eq!(of_workload.len(), 1);
    assert_eq!(of_workload[0].workload, pod.record.workload);
    assert!(of_workload[0].image_id.starts_with("docker.io/library/small@sha256:"), "{}", of_workload[0].image_id);
    let other = TestPod::new(&node, "b", "").record.workload;
    assert_eq!(runtime.observe(Some(&other)).await.expect("observed"), []);
}

#[tokio::test]
async fn deletion_kills_and_leaves_nothing() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", "trap '' TERM; while :; do sleep 1; done");
    let run = pod.run(0, 0);
    let pid = run.go(&runtime).await;
    assert_eq!(runtime.start(&run.id()).await.expect("runs already"), pid);
    assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Running { pid }));

    runtime.delete(&run.id()).await.expect("deleted");

    assert_eq!(runtime.observe(None).await.expect("observed"), []);
    assert_eq!(node.rows(&["tasks", "list"]), Vec::<String>::new());
    let snapshots = node.rows(&["snapshots", "list"]);
    assert!(snapshots.iter().all(|it| it.contains("Committed")), "{snapshots:?}");
    assert_eq!(node.shims(), Vec::<i32>::new());
    // And once more, when nothing is there.
    runtime.delete(&run.id()).await.expect("nothing to delete");
    runtime.signal(&run.id(), Signal::Stop).await.expect("nobody to stop");
    runtime.signal(&run.id(), Signal::Kill).await.expect("nobody to kill");
}

#[tokio::test]
async fn deletion_succeeds_at_any_moment_of_a_short_run() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", "exit 0");
    for attempt in 0..8 {
        let run = pod.run(0, attempt);
        run.go(&runtime).await;
        // Later and later after the start: the end falls into some of the deletions.
        tokio::time::sleep(std::time::Duration::from_millis(u64::from(attempt) * 3)).await;
        runtime.delete(&run.id()).await.expect("deleted");
    }
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
}

#[tokio::test]
async fn stop_and_kill_end_a_run() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done");
    for (attempt, signal, code) in [(0, Signal::Stop, 9), (1, Signal::Kill, 137)] {
        let mut run = pod.run(0, attempt);
        run.go(&runtime).await;
        tests::wait::wait_for("the trap is set", || {
            if run.output().contains("up") { Ok(()) } else { Err("no output".into()) }
        });
        runtime.signal(&run.id(), signal).await.expect("sent");
        assert_eq!(exit_code(&runtime, &run.create.run).await, code);
        // Signalling what has ended is fine.
        runtime.signal(&run.id(), signal).await.expect("gone");
        runtime.delete(&run.id()).await.expect("deleted");
    }
}

#[tokio::test]
async fn an_interrupted_create_is_healed() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", "exit 3");

    // Task lost, snapshot lost, record lost: in each case the next create makes it whole.
    for attempt in 0..3 {
        let run = pod.run(0, attempt);
        let id = run.id();
        runtime.create(&run.create).await.expect("created");
        let (ok, text) = match attempt {
            0 => node.ctr(&["tasks", "rm", "-f", &id]),
            1 => {
                node.ctr(&["tasks", "rm", "-f", &id]);
                node.ctr(&["snapshots", "rm", &id])
            }
            _ => {
                node.ctr(&["tasks", "rm", "-f", &id]);
                node.ctr(&["containers", "rm", "--keep-snapshot", &id])
            }
        };
        assert!(ok, "{text}");
        let left = state(&runtime, &run.create.run).await;
        assert!(!matches!(left, Some(ContainerState::Created | ContainerState::Running { .. })), "{left:?}");

        // ctr has removed the pipes with the task.
        let run = pod.run(0, attempt);
        runtime.create(&run.create).await.expect("created again");
        assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Created));
        // Creating what is complete changes nothing.
        let tasks = || node.rows(&["tasks", "list"]).into_iter().collect::<std::collections::BTreeSet<_>>();
        let before = tasks();
        runtime.create(&run.create).await.expect("is there");
        assert_eq!(tasks(), before);
        runtime.start(&id).await.expect("started");
        assert_eq!(exit_code(&runtime, &run.create.run).await, 3);
    }
}

#[tokio::test]
async fn a_command_that_does_not_exist_fails_with_its_name_and_leaves_nothing() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", "");
    pod.main().command = vec!["/no/such/thing".into()];
    let run = pod.run(0, 0);

    let error = match runtime.create(&run.create).await {
        Err(error) => error,
        Ok(_) => runtime.start(&run.id()).await.expect_err("nothing to run"),
    };

    assert!(error.message.contains("/no/such/thing"), "{error}");
    assert!(!error.message.contains("OCI runtime create failed"), "{error}");
    assert!(!error.unavailable);
    runtime.delete(&run.id()).await.expect("deleted");
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
}

#[tokio::test]
async fn containers_of_one_pod_share_one_shim() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", "while :; do sleep 1; done");
    pod.add("second");
    let (first, second) = (pod.run(0, 0), pod.run(1, 0));
    first.go(&runtime).await;
    second.go(&runtime).await;
    assert_eq!(node.shims().len(), 1);
    let other = TestPod::new(&node, "b", "while :; do sleep 1; done");
    other.run(0, 0).go(&runtime).await;
    assert_eq!(node.shims().len(), 2);
    runtime.delete(&first.id()).await.expect("deleted");
    assert!(matches!(state(&runtime, &second.create.run).await, Some(ContainerState::Running { .. })));
}
