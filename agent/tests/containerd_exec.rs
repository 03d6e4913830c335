//! Commands in containers on a real containerd: whose process they are, their streams, their end, and what they leave.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::exec::{Caller, Exec, ExecError, ExecStreams, OUTPUT_PIECES_MAX, Stage, Stream, TerminalSize};
use agent::probes::handlers::{Answer, Target, probe};
use agent::runtime::containerd::Containerd;
use agent::seams::Runtime as _;
use bytes::Bytes;
use pod::spec::{Handler, Probe};
use support::pods::{TestContainerd, TestPod, TestRun};
use support::soon;
use tokio::sync::{mpsc, watch};

const DAEMON: &str = "trap 'exit 0' TERM; while :; do sleep 1; done";

/// Exit code and both outputs of `sh -c script`.
async fn shell(runtime: &Containerd, id: &str, script: &str) -> (Result<u32, ExecError>, String, String) {
    run(runtime, id, &["sh", "-c", script], None).await
}

async fn run(
    runtime: &Containerd,
    id: &str,
    words: &[&str],
    stdin: Option<&str>,
) -> (Result<u32, ExecError>, String, String) {
    run_telling(runtime, id, words, stdin, None).await
}

/// `stage` is told when containerd has answered that the command runs.
async fn run_telling(
    runtime: &Containerd,
    id: &str,
    words: &[&str],
    stdin: Option<&str>,
    stage: Option<watch::Sender<Stage>>,
) -> (Result<u32, ExecError>, String, String) {
    let command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let (output, pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let (typed, read) = mpsc::channel(1);
    let streams = ExecStreams { stdin: stdin.map(|_| read), output, stage, size: None };
    let typing = async move {
        if let Some(text) = stdin {
            typed.send(Bytes::from(text.to_owned())).await.expect("it is read");
        }
        drop(typed);
    };
    let exec = Exec { id, command: &command, terminal: None, caller: Caller::Node };
    let (code, (), (out, err)) = tokio::join!(runtime.exec(exec, streams), typing, collect(pieces));
    (code, out, err)
}

async fn collect(mut pieces: mpsc::Receiver<(Stream, Bytes)>) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((stream, bytes)) = pieces.recv().await {
        match stream {
            Stream::Out => out.extend_from_slice(&bytes),
            Stream::Err => err.extend_from_slice(&bytes),
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

fn exec_dir(node: &TestContainerd) -> PathBuf {
    node.path().join("agent-run/exec")
}

/// Names of what is left in the directory of the commands' pipes.
fn left(node: &TestContainerd, run: &TestRun<'_>) -> Result<(), String> {
    let entries = std::fs::read_dir(exec_dir(node).join(run.id())).into_iter().flatten();
    match entries.count() {
        0 => Ok(()),
        some => Err(format!("{some} commands are left")),
    }
}

/// Waits until no pipes of commands are left, and no process with this word.
async fn nothing_left(node: &TestContainerd, run: &TestRun<'_>, word: &str) {
    soon("nothing of the commands is left", || match processes(&run.id(), word) {
        0 => left(node, run),
        some => Err(format!("{some} processes")),
    })
    .await;
}

/// Waits until so many processes have this word.
async fn running_all(id: &str, word: &str, count: usize) {
    soon("the processes run", || match processes(id, word) {
        all if all >= count => Ok(()),
        some => Err(format!("{some} of {count} processes run")),
    })
    .await;
}

/// Processes of the container whose command line has this word.
fn processes(id: &str, word: &str) -> usize {
    let of = |pid: &Path| {
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        let cgroup = std::fs::read_to_string(pid.join("cgroup")).unwrap_or_default();
        cgroup.contains(id) && String::from_utf8_lossy(&line).split('\0').any(|it| it == word)
    };
    std::fs::read_dir("/proc").expect("proc is mounted").flatten().filter(|entry| of(&entry.path())).count()
}

#[tokio::test]
async fn a_command_is_the_containers_own_user_environment_and_limits() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let mut pod = TestPod::new(&node, "a", DAEMON);
    let main = pod.main();
    main.security.run_as_user = Some(1234);
    main.security.run_as_group = Some(2345);
    main.security.supplemental_groups = vec![3456];
    main.security.allow_privilege_escalation = Some(false);
    main.security.capabilities_drop = vec!["ALL".into()];
    main.working_dir = Some("/tmp".into());
    main.env.push(pod::spec::EnvVar { name: "A".into(), value: pod::spec::EnvValue::Literal("from the spec".into()) });
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let script = "id; echo $A; pwd; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /proc/self/fd; \
                  cat /proc/self/oom_score_adj /proc/1/oom_score_adj; ulimit -n";
    let (code, out, err) = shell(&runtime, &run_.id(), script).await;
    assert_eq!((code, err.as_str()), (Ok(0), ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].contains("uid=1234") && lines[0].contains("gid=2345") && lines[0].contains("3456"), "{out}");
    assert_eq!(lines[1..3], ["from the spec", "/tmp"], "{out}");
    assert!(out.contains("CapEff:\t0000000000000000") && out.contains("NoNewPrivs:\t1"), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    // 0, 1, 2 and the directory that ls reads: nothing of ours, of the shim or of runc.
    assert!(out.contains("\n0\n1\n2\n3\n") && !out.contains("\n4\n"), "{out}");
    runtime.delete(&run_.id()).await.expect("deleted");
}

#[tokio::test]
async fn streams_are_apart_and_the_exit_code_is_the_commands() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let id = run_.id();
    assert_eq!(
        shell(&runtime, &id, "echo out; echo err >&2; exit 7").await,
        (Ok(7), "out\n".to_owned(), "err\n".to_owned())
    );
    assert_eq!(shell(&runtime, &id, "kill -KILL $$").await.0, Ok(137));
    let (code, out, _) = run(&runtime, &id, &["cat"], Some("typed")).await;
    assert_eq!((code, out.as_str()), (Ok(0), "typed"));
    // More than all pipes hold.
    let (code, out, _) = shell(&runtime, &id, "dd if=/dev/zero bs=1024 count=1024 2>/dev/null").await;
    assert_eq!((code, out.len()), (Ok(0), 1 << 20));
    // What stays in the background keeps the pipes open and the answer waiting no longer than a moment.
    let begun = Instant::now();
    assert_eq!(shell(&runtime, &id, "sleep 300 & echo over").await.1, "over\n");
    assert!(begun.elapsed() < Duration::from_secs(30));

    let (code, ..) = run(&runtime, &id, &["/no/such/program"], None).await;
    assert!(matches!(&code, Err(ExecError::NotStarted(why)) if why.contains("/no/such/program")), "{code:?}");
    nothing_left(&node, &run_, "/no/such/word").await;
    runtime.delete(&id).await.expect("deleted");
    assert!(!exec_dir(&node).join(&id).exists());
    assert_eq!(shell(&runtime, &id, "true").await.0, Err(ExecError::NotRunning));
}

/// Real commands, cut off at different instants of their start and run; thousands of streams are `streams.rs`'s.
const CUT_OFF: u64 = 40;

#[tokio::test]
async fn nothing_stays_of_commands_that_are_cut_off_at_any_instant() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let id = run_.id();
    assert_eq!(shell(&runtime, &id, "echo warm").await.0, Ok(0));
    nothing_left(&node, &run_, "3333").await;
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count();
    let before = descriptors();
    for n in 0..CUT_OFF {
        // From the first request to a command that has run for a while: a start takes some 40 ms.
        let cut = Duration::from_millis(n * 4);
        let words = ["sh", "-c", "echo said; exec sleep 3333"];
        let _cut_off = tokio::time::timeout(cut, run(&runtime, &id, &words, Some("typed"))).await;
    }
    nothing_left(&node, &run_, "3333").await;
    soon("their descriptors are closed", || match descriptors() {
        after if after <= before => Ok(()),
        after => Err(format!("{before} descriptors before, {after} after")),
    })
    .await;
    runtime.delete(&id).await.expect("deleted");
}

#[tokio::test]
async fn a_dropped_command_is_killed_with_what_it_started() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let id = run_.id();
    let script = "sleep 1111 & (sleep 1111; true) & sleep 1111";
    let running = shell(&runtime, &id, script);
    let watching = running_all(&id, "1111", 3);
    tokio::select! {
        ended = running => panic!("{ended:?}"),
        () = watching => {}
    }
    nothing_left(&node, &run_, "1111").await;
    // The daemon beside it lives.
    assert_eq!(shell(&runtime, &id, "true").await.0, Ok(0));
    runtime.delete(&id).await.expect("deleted");
}

#[tokio::test]
async fn a_killed_agents_commands_are_taken_away_at_the_next_start() {
    let node = TestContainerd::start();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    let id = run_.id();
    {
        // An agent whose tasks all end in the middle.
        let id = id.clone();
        let create = run_.create.clone();
        let (run_dir, namespace, socket) = (node.path().join("agent-run"), node.namespace.clone(), node.socket());
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let loop_ = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("made");
                loop_.block_on(async {
                    let config = agent::runtime::containerd::Config::new(socket, "node-1");
                    let config = agent::runtime::containerd::Config {
                        namespace,
                        run_dir,
                        state_dir: node.path().join("agent"),
                        ..config
                    };
                    let runtime = Containerd::open(config).expect("opened");
                    runtime.create(&create).await.expect("created");
                    runtime.start(&id).await.expect("started");
                    let (tell, mut stage) = watch::channel(Stage::default());
                    let words = ["sh", "-c", "sleep 2222 & sleep 2222"];
                    let running = run_telling(&runtime, &id, &words, None, Some(tell));
                    let watching = async {
                        // Of a start that is cut off containerd forgets the process.
                        stage.wait_for(|stage| *stage == Stage::Runs).await.expect("it is told");
                        running_all(&id, "2222", 2).await;
                    };
                    tokio::select! {
                        ended = running => panic!("{ended:?}"),
                        () = watching => {}
                    }
                });
                loop_.shutdown_background();
            });
        });
    }
    assert_eq!(processes(&id, "2222"), 2, "the dead agent killed nobody");
    let runtime = node.open();
    nothing_left(&node, &run_, "2222").await;
    runtime.delete(&id).await.expect("deleted");
}

#[tokio::test]
async fn a_terminal_has_the_size_that_it_is_given() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let id = run_.id();
    let command: Vec<String> = ["sh"].map(str::to_owned).into();
    let size = TerminalSize { columns: 91, rows: 17 };
    let (output, mut pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let (typed, stdin) = mpsc::channel(1);
    let (sizes, newest) = watch::channel(size);
    let streams = ExecStreams { stdin: Some(stdin), output, stage: None, size: Some(newest) };
    let running =
        runtime.exec(Exec { id: &id, command: &command, terminal: Some(size), caller: Caller::Person }, streams);
    let talking = async {
        let mut said = String::new();
        typed.send("busybox stty size; echo $TERM\n".into()).await.expect("read");
        while !(said.contains("17 91") && said.contains("xterm")) {
            let (stream, bytes) = pieces.recv().await.expect("it runs");
            assert_eq!(stream, Stream::Out);
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        sizes.send_replace(TerminalSize { columns: 120, rows: 40 });
        // It is on its way, and so is the question.
        while !said.contains("40 120") {
            typed.send("busybox stty size\n".into()).await.expect("read");
            let (_, bytes) = pieces.recv().await.expect("it runs");
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        typed.send("exit 5\n".into()).await.expect("read");
        while pieces.recv().await.is_some() {}
    };
    let (code, ()) = tokio::join!(running, talking);
    assert_eq!(code, Ok(5));
    runtime.delete(&id).await.expect("deleted");
}

#[tokio::test]
async fn exec_probe_fails_by_its_code_and_by_its_timeout() {
    let node = TestContainerd::start();
    let runtime = node.open();
    let pod = TestPod::new(&node, "a", DAEMON);
    let run_ = pod.run(0, 0);
    run_.go(&runtime).await;
    let id = run_.id();
    let target = Target { container_id: &id, container: run_.create.container, address: None };
    let of = |words: &[&str]| Probe {
        handler: Handler::Exec(words.iter().map(|word| (*word).to_owned()).collect()),
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(3),
        success_threshold: 1,
        failure_threshold: 1,
        grace: None,
    };
    assert_eq!(probe(&runtime, &of(&["true"]), target).await, Ok(Answer::Success));
    let failed = probe(&runtime, &of(&["sh", "-c", "echo one; echo two >&2; exit 1"]), target).await;
    assert!(matches!(&failed, Ok(Answer::Failure(why)) if why.contains("one") && why.contains("two")), "{failed:?}");
    let late = probe(&runtime, &of(&["sleep", "3333"]), target).await;
    assert_eq!(late, Ok(Answer::Failure("command \"sleep 3333\" timed out after 3s".into())));
    nothing_left(&node, &run_, "3333").await;
    assert!(probe(&runtime, &of(&["/no/such/program"]), target).await.is_err(), "it says nothing about the container");
    runtime.delete(&id).await.expect("deleted");
}
