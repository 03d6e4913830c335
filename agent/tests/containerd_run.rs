//! Runs on a real containerd: create, start, signal, observe, delete, and what an interruption leaves.

mod support;

use std::fs::{File, OpenOptions};
use std::io::BufRead as _;
use std::sync::{Arc, Mutex};

use agent::seams::{RESIZE_ERROR, Runtime as _, Wake};
use containerd_client::services::v1::{Container, CreateContainerRequest, DeleteContainerRequest, container};
use pod::observed::ContainerState;
use pod::plan::Signal;
use pod::spec::Resources;
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
async fn stdin_stays_open_and_a_terminal_is_one() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let script = "test -t 0 && test -t 1 && echo terminal; echo out; echo err >&2; cat; echo stdin-ended";
    let mut pod = TestPod::new(&node, "a", script);
    pod.main().stdin = true;
    pod.add("plain");
    pod.main().tty = true;
    let fifos = || std::fs::read_dir(node.path().join("agent-run/stdin")).map_or(0, |entries| entries.count());
    for (index, said) in [(0, "err\r\nout\r\nterminal\r\n"), (1, "err\nout\n")] {
        let mut run = pod.run(index, 0);
        let pid = run.go(&runtime).await;
        support::soon("it has said everything", || match run.output() {
            all if all.len() >= said.len() => Ok(()),
            some => Err(format!("{some:?}")),
        })
        .await;
        // Of two pipes nobody knows the order.
        let mut lines: Vec<&str> = run.output().split_inclusive('\n').collect();
        lines.sort_unstable();
        assert_eq!(lines.concat(), said);
        assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Running { pid }), "cat waits");
        assert_eq!(fifos(), 1);
        runtime.delete(&run.id()).await.expect("deleted");
        assert_eq!(run.output().len(), said.len(), "nobody ended its stdin");
        assert_eq!(fifos(), 0);
    }
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
async fn deletion_succeeds_when_the_run_ends_by_itself_in_the_middle_of_it() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let ends = Exits::follow(&node);
    let mut pod = TestPod::new(&node, "a", "read word </fifo; exit 7");
    let fifo = node.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
    pod.host_path("fifo", fifo.to_str().expect("text"), "/fifo");
    let mut missed = Vec::new();
    for attempt in 0..20 {
        let run = pod.run(0, attempt);
        run.go(&runtime).await;
        // Its reader is there; it ends as soon as a word comes, and the word comes when the deletion has been refused.
        let word = OpenOptions::new().write(true).open(&fifo).expect("opened");
        let refused = Refused { id: run.id(), word: Arc::new(Mutex::new(Some(word))) };
        let told = Arc::clone(&refused.word);
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(move || refused.clone());
        let heard = tracing::subscriber::set_default(log.finish());
        runtime.delete(&run.id()).await.expect("deleted");
        drop(heard);
        assert!(told.lock().expect("nobody panics").is_none(), "the deletion of what runs was not refused");
        match ends.code_of(&run.id()) {
            7 => break,
            killed => missed.push(killed),
        }
    }
    assert!(missed.len() < 20, "the kill was always faster: {missed:?}");
    assert_eq!(runtime.observe(None).await.expect("observed"), []);
}

/// A log that ends the run when it says that the deletion of its task was refused.
#[derive(Clone)]
struct Refused {
    id: String,
    word: Arc<Mutex<Option<File>>>,
}

impl std::io::Write for Refused {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let refused = text.contains("a task is not deleted at once") && text.contains(&self.id);
        let word = if refused { self.word.lock().expect("nobody panics").take() } else { None };
        if let Some(mut word) = word {
            std::io::Write::write_all(&mut word, b"end\n")?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Exit codes as containerd's events tell them, of runs that nobody can ask for any more.
struct Exits {
    process: std::process::Child,
    lines: Arc<Mutex<String>>,
}

impl Exits {
    fn follow(node: &TestContainerd) -> Exits {
        let mut command = std::process::Command::new("ctr");
        command.arg("-a").arg(node.socket()).args(["-n", &node.namespace, "events"]);
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().expect("ctr is installed");
        let lines = Arc::new(Mutex::new(String::new()));
        let (output, told) = (process.stdout.take().expect("piped"), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                told.lock().expect("nobody panics").push_str(&(line + "\n"));
            }
        });
        let exits = Exits { process, lines };
        // An event of ours shows that it listens.
        tests::wait::wait_for("ctr hears events", || {
            node.ctr(&["images", "label", support::pods::IMAGE, "heard=yes"]);
            if exits.lines.lock().expect("nobody panics").contains("/images/update") {
                Ok(())
            } else {
                Err("none".into())
            }
        });
        exits
    }

    fn code_of(&self, id: &str) -> u32 {
        let mut code = None;
        tests::wait::wait_for("the exit is told", || {
            let lines = self.lines.lock().expect("nobody panics");
            let line = lines.lines().find(|line| line.contains("/tasks/exit") && line.contains(id));
            let event: serde_json::Value = line
                .and_then(|line| line.get(line.find('{')?..))
                .and_then(|json| serde_json::from_str(json).ok())
                .ok_or_else(|| lines.clone())?;
            // Zero is left out.
            code = Some(u32::try_from(event["exit_status"].as_u64().unwrap_or(0)).expect("small"));
            Ok(())
        });
        code.expect("it was waited for")
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
async fn a_run_is_resized_while_it_runs_and_keeps_what_it_uses() {
    let node = TestContainerd::start();
    let runtime = node.open();
    // busybox's tail keeps in memory what it may have to print: here 20 MB, for ever.
    let mut pod = TestPod::new(&node, "a", "echo up; exec tail -c 20000000 /dev/zero");
    let sized = |memory: u64, cpu: u64| Resources {
        memory_limit: Some(memory << 20),
        cpu_limit_milli: Some(cpu),
        ..Resources::default()
    };
    pod.main().resources = sized(64, 500);
    let run = pod.run(0, 0);
    let pid = run.go(&runtime).await;
    let of = |controller: &str, v1: &str, v2: &str| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        let path = |line: &&str| line.split(':').nth(1).is_some_and(|all| all.split(',').any(|one| one == controller));
        let below = |line: &str| line.splitn(3, ':').nth(2).expect("three fields").to_owned();
        let place = match table.lines().find(path) {
            Some(line) => format!("/sys/fs/cgroup/{controller}{}/{v1}", below(line)),
            None => format!("/sys/fs/cgroup{}/{v2}", below(table.lines().next().expect("one line"))),
        };
        std::fs::read_to_string(place).expect("it is there").trim().to_owned()
    };
    let memory = || of("memory", "memory.limit_in_bytes", "memory.max");
    tests::wait::wait_for("the memory is used", || {
        let used: u64 = of("memory", "memory.usage_in_bytes", "memory.current").parse().expect("a number");
        if used > 20_000_000 { Ok(()) } else { Err(used.to_string()) }
    });

    let mut container = pod.template.spec.containers[0].clone();
    container.resources = sized(96, 700);
    runtime.resize(&run.id(), &container).await.expect("it grows");
    let quota = of("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!((memory(), quota.starts_with("70000")) == ((96_u64 << 20).to_string(), true), "{quota}");

    container.resources = sized(8, 700);
    let refused = runtime.resize(&run.id(), &container).await.expect_err("it uses more");
    assert_eq!(refused.reason, RESIZE_ERROR);
    assert_eq!(memory(), (96_u64 << 20).to_string(), "{refused}");
    assert_eq!(state(&runtime, &run.create.run).await, Some(ContainerState::Running { pid }));

    runtime.signal(&run.id(), Signal::Kill).await.expect("sent");
    exit_code(&runtime, &run.create.run).await;
    runtime.resize(&run.id(), &container).await.expect("what has ended needs nothing");
    runtime.delete(&run.id()).await.expect("deleted");
    runtime.resize(&run.id(), &container).await.expect("nothing is there");
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
async fn a_bundle_that_a_killed_containerd_left_keeps_no_run_from_starting() {
    let node = TestContainerd::start();
    let runtime = node.open();
    TestPod::new(&node, "other", "sleep 1000").run(0, 0).go(&runtime).await;
    let place = std::fs::read_link(format!("/proc/{}/cwd", node.shims()[0])).expect("a shim works in its bundle");
    let pod = TestPod::new(&node, "a", "sleep 1000");
    let run = pod.run(0, 0);
    let bundle = place.parent().expect("bundles lie side by side").join(run.id());
    std::fs::create_dir_all(bundle.join("rootfs")).expect("made");
    // One that containerd may just be making is let be.
    let refused = runtime.create(&run.create).await.expect_err("it is there");
    assert!(refused.message.contains("file exists"), "{refused}");
    let directory = std::fs::File::open(&bundle).expect("made above");
    directory.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).expect("ours");

    let run = pod.run(0, 0);
    runtime.create(&run.create).await.expect("created");
    assert!(runtime.start(&run.id()).await.expect("started") > 1);
}

#[tokio::test]
async fn a_task_without_a_container_is_deleted_when_containerd_is_back() {
    let mut node = TestContainerd::start();
    let runtime = node.open();
    let (kept, lost) = (TestPod::new(&node, "kept", "sleep 1000"), TestPod::new(&node, "lost", "sleep 1000"));
    let (kept, lost) = (kept.run(0, 0), lost.run(0, 0));
    let pid = kept.go(&runtime).await;
    lost.go(&runtime).await;
    let client = runtime.client();
    let request = client.request(DeleteContainerRequest { id: lost.id() });
    client.containers().delete(request).await.expect("containerd does not ask for its task");
    assert_eq!(node.rows(&["tasks", "ls"]).len(), 2);
    // And what an agent leaves that was killed while it did this.
    let begun = Container {
        id: "b".repeat(64),
        labels: [("daemonlet.dev/stand-in".to_owned(), "true".to_owned())].into(),
        runtime: Some(container::Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
        spec: Some(prost_types::Any { type_url: String::new(), value: b"{}".to_vec() }),
        ..Container::default()
    };
    let request = client.request(CreateContainerRequest { container: Some(begun) });
    client.containers().create(request).await.expect("created");

    node.down();
    node.up();
    support::soon("nothing of it is left", || {
        let (tasks, containers) = (node.rows(&["tasks", "ls"]), node.rows(&["containers", "ls", "-q"]));
        let shims = node.shims();
        match (tasks.len(), containers.len(), shims.len()) {
            // A list of names has no header.
            (1, 0, 1) if tasks[0].starts_with(&kept.id()) => Ok(()),
            _ => Err(format!("{tasks:?} {containers:?} {shims:?}")),
        }
    })
    .await;
    assert_eq!(state(&runtime, &kept.create.run).await, Some(ContainerState::Running { pid }));
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
async fn containers_of_one_pod_that_are_made_at_once_share_one_shim() {
    let node = TestContainerd::start();
    let runtime = node.open();
    for round in 0..6 {
        let mut pod = TestPod::new(&node, &format!("a{round}"), "while :; do sleep 1; done");
        pod.add("second");
        pod.add("third");
        let (first, second, third) = (pod.run(0, 0), pod.run(1, 0), pod.run(2, 0));
        tokio::join!(first.go(&runtime), second.go(&runtime), third.go(&runtime));
        assert_eq!(node.shims().len(), 1, "round {round}");
        for run in [&first, &second, &third] {
            runtime.delete(&run.id()).await.expect("deleted");
        }
        tests::wait::wait_for("its shim ends", || match node.shims() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        });
    }
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
