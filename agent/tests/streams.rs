//! Streams over the agent's socket, opened and cut off at every instant by the other end: nothing stays of them (CVE-2025-64329).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::board::Board;
use agent::config::SOCKET;
use agent::exec::frames::{Ask, Frame as _, Frames, Heard, Said};
use agent::fake::{FakeExec, FakeMachine, World};
use agent::gate::Gate;
use agent::http::{Doors, exec};
use agent::records::Records;
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::{DesiredSet, Wanted};
use pod::manifest::{Context, Document, parse};
use pod::observed::{ContainerState, ObservedContainer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Opened and cut off in all: seconds, on a busy machine too. DAEMONLET_TEST_STREAMS=10000 is the long proof.
const STREAMS: usize = 2_000;
/// Before the first measure: what is made once (buffers, the allocator's own) is there then.
const WARM_UP: usize = 300;
/// At a time: below every bound of the door.
const AT_ONCE: usize = 16;
/// What memory may differ by, for all streams together: the allocator's rounding. One leaked KiB for each is twice that.
const MEMORY_MAX: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent on a machine in memory in which one pod runs, with its socket.
struct Agent {
    socket: PathBuf,
    uid: String,
    _dir: tempfile::TempDir,
    _desired: watch::Sender<DesiredSet>,
    _stop: watch::Sender<bool>,
    _end: oneshot::Sender<()>,
}

impl Agent {
    async fn start() -> Agent {
        let context = Context { node_name: "n1".into() };
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: main, image: image}]}}";
        let document = parse("a.yaml", text.as_bytes(), &context).documents.pop().map(|it| it.result);
        let Some(Ok(Document::Workload(pod))) = document else { panic!("{document:?}") };
        let world = World::new(1);
        world.state().images.insert("image".into());
        let scripted = |output: &str, hangs| FakeExec { exit_code: 3, output: output.into(), hangs };
        world.state().execs.insert("says".into(), scripted(&"x".repeat(1000), false));
        world.state().execs.insert("hangs".into(), scripted("", true));
        let (board, commands) = Board::new();
        let wanted = DesiredSet {
            workloads: [(pod.workload.clone(), Wanted::Run(pod))].into(),
            complete: true,
            heard: pod::desired::Source::ALL.into(),
            ..DesiredSet::default()
        };
        let (desired, receiver) = watch::channel(wanted);
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            machine: FakeMachine::new(world, Instant::now()),
            records: Records::new(Path::new("/state")),
            gate: Gate::new(2),
            board: board.clone(),
            context,
            directory: Directory::default(),
            contents: watch::Sender::default(),
            turns: Default::default(),
            drain: agent::drain::Drain::new(Path::new("/state")),
            stopping,
        });
        tokio::spawn(agent::exec::serve::follow(board.take_execs(), shared.clone()));
        tokio::spawn(Workers::new(shared, receiver, commands).run(Vec::new(), || {}));
        let dir = tempfile::tempdir().expect("a directory");
        let doors = Doors::open(dir.path(), "127.0.0.1:0".parse().expect("an address")).await.expect("open");
        let (end, ended) = oneshot::channel::<()>();
        tokio::spawn(doors.serve(board.clone(), async move { drop(ended.await) }));
        let mut version = board.version();
        let running = async {
            loop {
                version.mark_unchanged();
                let all = board.workloads();
                let lives = |it: &ObservedContainer| matches!(it.state, ContainerState::Running { .. });
                let runs =
                    |pod: &agent::board::Published| pod.pods.iter().any(|view| view.containers.iter().any(lives));
                if let Some(pod) = all.values().find(|it| runs(it)) {
                    return pod.pods[0].record.uid.0.clone();
                }
                version.changed().await.expect("the board lives");
            }
        };
        let uid = timeout(PATIENCE, running).await.expect("the pod runs");
        Agent { socket: dir.path().join(SOCKET), uid, _dir: dir, _desired: desired, _stop: stop, _end: end }
    }
}

/// One stream, cut off at one of ten instants.
async fn stream(socket: &Path, uid: &str, instant: usize) {
    let mut to = UnixStream::connect(socket).await.expect("the socket answers");
    let upgrade = format!(
        "POST /v1/exec HTTP/1.1\r\nhost: daemonlet\r\nconnection: upgrade\r\nupgrade: {}\r\ncontent-length: 0\r\n\r\n",
        exec::PROTOCOL
    );
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: daemonlet\r\nconnection: close\r\n\r\n");
    let ask = |word: &str| {
        let (uid, container, command) = (uid.to_owned(), "main".to_owned(), vec![word.to_owned()]);
        Said::Ask(Ask { uid, container, command, stdin: true, terminal: None }).encode()
    };
    let send = async |to: &mut UnixStream, bytes: &[u8]| to.write_all(bytes).await.expect("it is taken");
    match instant {
        0 => {}
        1 => send(&mut to, &upgrade.as_bytes()[..40]).await,
        2 => send(&mut to, upgrade.as_bytes()).await,
        3..=7 => {
            send(&mut to, upgrade.as_bytes()).await;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(to.read_u8().await.expect("an answer"));
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
            match instant {
                3 => {}
                4 => send(&mut to, &ask("hangs")[..9]).await,
                5 => send(&mut to, &ask("hangs")).await,
                6 => {
                    send(&mut to, &ask("hangs")).await;
                    send(&mut to, &Said::Stdin("typed".into()).encode()).await;
                    // It has been taken: the command hangs by now.
                    let mut frames = Frames::default();
                    let frame: Option<Heard> = exec::next(&mut to, &mut frames).await.expect("a frame");
                    assert_eq!(frame, Some(Heard::Taken(5)));
                }
                _ => {
                    send(&mut to, &ask("says")).await;
                    let (mut frames, mut last) = (Frames::default(), None);
                    while let Some(frame) = exec::next::<Heard>(&mut to, &mut frames).await.expect("a frame") {
                        last = Some(frame);
                    }
                    assert_eq!(last, Some(Heard::Exited(3)));
                }
            }
        }
        8 => {
            send(&mut to, get("/v1/pods?watch=1").as_bytes()).await;
            to.read_u8().await.expect("an answer");
        }
        _ => {
            send(&mut to, get("/v1/events").as_bytes()).await;
            to.read_to_end(&mut Vec::new()).await.expect("an answer");
        }
    }
}

async fn streams(agent: &Agent, count: usize) {
    let (turns, mut all) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for n in 0..count {
        let turn = turns.clone().acquire_owned().await.expect("it stays open");
        let (socket, uid) = (agent.socket.clone(), agent.uid.clone());
        all.spawn(async move {
            timeout(PATIENCE, stream(&socket, &uid, n % 10)).await.expect("a stream ends");
            drop(turn);
        });
        while let Some(ended) = all.try_join_next() {
            ended.expect("a stream that is not answered");
        }
    }
    while let Some(ended) = all.join_next().await {
        ended.expect("a stream that is not answered");
    }
}

/// Descriptors and tasks.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count();
    (descriptors, tokio::runtime::Handle::current().metrics().num_alive_tasks())
}

/// Bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kilobytes.and_then(|it| it.parse::<usize>().ok()).expect("a number") << 10
}

#[tokio::test]
async fn nothing_stays_of_streams_that_are_cut_off() {
    let agent = Agent::start().await;
    let before = held();
    let settled = async || {
        let more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
        while more(held()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let count = std::env::var("DAEMONLET_TEST_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(STREAMS);
    streams(&agent, WARM_UP).await;
    timeout(PATIENCE, settled()).await.unwrap_or_else(|_| panic!("{before:?} before, {:?} after the first", held()));
    let memory = resident();
    let begun = std::time::Instant::now();
    streams(&agent, count).await;
    timeout(PATIENCE, settled()).await.unwrap_or_else(|_| panic!("{before:?} before, {:?} after", held()));
    let grown = resident().saturating_sub(memory);
    println!("{count} streams in {:?}: {:?} descriptors and tasks, {grown} bytes more", begun.elapsed(), held());
    assert!(grown < MEMORY_MAX, "{grown} bytes more than before {count} streams");
}

#[tokio::test]
async fn commands_beyond_the_bound_are_refused_with_a_sentence_and_room_comes_back() {
    let agent = Agent::start().await;
    let upgraded = async || {
        let mut to = UnixStream::connect(&agent.socket).await.expect("the socket answers");
        let head = format!(
            "POST /v1/exec HTTP/1.1\r\nhost: daemonlet\r\nconnection: upgrade\r\nupgrade: {}\r\n\r\n",
            exec::PROTOCOL
        );
        to.write_all(head.as_bytes()).await.expect("it is taken");
        let mut answer = [0; 512];
        let read = to.read(&mut answer).await.expect("an answer");
        (to, String::from_utf8_lossy(&answer[..read]).into_owned())
    };
    let mut open = Vec::new();
    let refused = loop {
        let (to, answer) = upgraded().await;
        if !answer.starts_with("HTTP/1.1 101 ") {
            break answer;
        }
        open.push(to);
        assert!(open.len() < 1000, "no bound");
    };
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too many commands"), "{refused}");
    drop(open);
    let room = async { while !upgraded().await.1.starts_with("HTTP/1.1 101 ") {} };
    timeout(PATIENCE, room).await.expect("room comes back");
}
