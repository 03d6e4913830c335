//! Against a real dbus-daemon of the test's own, on which a logind of the test's own answers.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd as Pipe;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use pod::name::WorkloadKey;
use pod::turns::{Standing, Still};
use tokio::sync::mpsc;

use super::*;
use crate::seams::SystemClock;
use crate::status::sample;
use crate::worker::Nudge;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_logind_that_waits_less_leaves_each_part_its_share() {
    let seconds = Duration::from_secs;
    let grace = Grace { total: seconds(30), critical: seconds(10) };
    assert_eq!(within(grace, seconds(60)), grace);
    assert_eq!(within(grace, seconds(6)), Grace { total: seconds(6), critical: seconds(2) });
    assert_eq!(within(grace, Duration::ZERO), Grace { total: Duration::ZERO, critical: Duration::ZERO });
}

/// A bus that ends with it.
struct Bus {
    daemon: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Bus {
    fn start() -> Bus {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "<busconfig><type>system</type><listen>unix:path={}/bus</listen><policy context=\"default\"><allow user=\"*\"/>\
             <allow own=\"*\"/><allow send_type=\"method_call\"/><allow send_type=\"signal\"/><allow send_type=\"method_return\"/>\
             <allow send_type=\"error\"/><allow receive_type=\"method_call\"/><allow receive_type=\"signal\"/>\
             <allow receive_type=\"method_return\"/><allow receive_type=\"error\"/></policy></busconfig>",
            dir.path().display()
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", dir.path().join("config").display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is one of the packages that scripts/setup.sh test installs");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Bus { daemon, address: address.trim().to_owned(), _dir: dir }
    }

    async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.address.as_str()).build().await.unwrap()
    }
}

/// What logind has of it here: its locks' other ends, and what it says.
struct Logind {
    bus: Connection,
    state: Mutex<State>,
    asked: mpsc::UnboundedSender<String>,
}

#[derive(Default)]
struct State {
    locks: Vec<Pipe>,
    preparing: bool,
    longest: Duration,
}

impl Logind {
    async fn start(bus: &Bus, state: State) -> (Arc<Logind>, mpsc::UnboundedReceiver<String>) {
        let connection = bus.connect().await;
        let mut calls = MessageStream::from(connection.clone());
        connection.request_name(DESTINATION).await.unwrap();
        let (asked, told) = mpsc::unbounded_channel();
        let logind = Arc::new(Logind { bus: connection, state: Mutex::new(state), asked });
        let answering = logind.clone();
        tokio::spawn(async move {
            while let Some(Ok(call)) = calls.next().await {
                if call.message_type() == zbus::message::Type::MethodCall {
                    answering.answer(&call).await;
                }
            }
        });
        (logind, told)
    }

    async fn answer(&self, call: &zbus::Message) {
        let header = call.header();
        match header.member().unwrap().as_str() {
            "Inhibit" => {
                let body = call.body();
                let (what, who, _, mode): (String, String, String, String) = body.deserialize().unwrap();
                let (ours, theirs) = nix::unistd::pipe().unwrap();
                self.state.lock().unwrap().locks.push(ours);
                self.bus.reply(&header, &OwnedFd::from(theirs)).await.unwrap();
                self.asked.send(format!("{who} {mode} {what}")).unwrap();
            }
            "Get" => {
                let body = call.body();
                let (_, name): (String, String) = body.deserialize().unwrap();
                let (preparing, longest) = {
                    let state = self.state.lock().unwrap();
                    (state.preparing, u64::try_from(state.longest.as_micros()).unwrap())
                };
                let value = match name.as_str() {
                    "PreparingForShutdown" => Variant::from(preparing),
                    _ => Variant::from(longest),
                };
                self.bus.reply(&header, &value).await.unwrap();
            }
            _ => {}
        }
    }

    async fn tell(&self, begins: bool) {
        let member = "PrepareForShutdown";
        self.bus.emit_signal(None::<&str>, OBJECT, INTERFACE, member, &begins).await.unwrap();
    }

    /// Ends when the newest lock is given back: its other end is closed.
    async fn given_back(&self) {
        let lock = self.state.lock().unwrap().locks.pop().unwrap();
        let lock = tokio::net::unix::pipe::Receiver::from_owned_fd(lock).unwrap();
        tokio::time::timeout(PATIENCE, lock.readable()).await.expect("the lock is given back").unwrap();
        assert_eq!(lock.try_read(&mut [0; 1]).unwrap(), 0, "its other end is closed");
    }

    fn holds(&self) -> usize {
        self.state.lock().unwrap().locks.len()
    }
}

/// A pod that runs, as the agent knows it.
struct Agent {
    turns: Turns,
    board: Board,
    key: WorkloadKey,
}

impl Agent {
    fn new() -> Agent {
        let (board, turns) = (Board::new().0, Turns::default());
        let (key, published) = sample::running();
        board.publish(&key, Some(published));
        board.set_files(Vec::new());
        let standing = Standing { there: true, ready: true, ..Standing::default() };
        turns.enter(&key, standing, Arc::new(Nudge::default()));
        Agent { turns, board, key }
    }

    fn halted(&self) -> Option<Still> {
        self.turns.of(&self.key).still
    }

    async fn until(&self, what: &str, condition: impl Fn(&Agent) -> bool) {
        let mut version = self.board.version();
        let met = async {
            while !condition(self) {
                version.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn ends(&self) {
        self.board.publish(&self.key, None);
    }
}

fn grace(seconds: u64) -> Grace {
    Grace { total: Duration::from_secs(seconds), critical: Duration::from_secs(seconds / 3) }
}

/// The agent's side until the test has seen all.
async fn beside(bus: &Bus, grace: Grace, agent: &Agent, test: impl Future<Output = ()>) {
    let connection = bus.connect().await;
    let node = Node { turns: &agent.turns, board: &agent.board, clock: &SystemClock };
    let mut pause = Duration::ZERO;
    tokio::select! {
        ended = wait_for_shutdown(&connection, grace, &node, &mut pause) => panic!("{ended:?}"),
        () = test => {}
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_shutdown_waits_until_nothing_of_any_pod_is_left() {
    let bus = Bus::start();
    let (logind, mut asked) = Logind::start(&bus, State { longest: LONG, ..State::default() }).await;
    let agent = Agent::new();
    let test = async {
        assert_eq!(asked.recv().await.unwrap(), "daemonlet delay shutdown");
        assert_eq!(agent.halted(), None);
        logind.tell(true).await;
        agent.until("the pods are told", |agent| agent.halted().is_some()).await;
        assert!(agent.board.checks()[&Check::Shutdown].is_err());
        agent.ends();
        logind.given_back().await;
        assert!(agent.turns.of(&agent.key).still.is_some(), "nothing starts any more");
    };
    beside(&bus, grace(30), &agent, test).await;
}

#[tokio::test]
async fn a_shutdown_goes_on_when_its_time_is_over_also_where_logind_leaves_less() {
    let bus = Bus::start();
    let longest = Duration::from_millis(1_500);
    let (logind, mut asked) = Logind::start(&bus, State { longest, ..State::default() }).await;
    let agent = Agent::new();
    let test = async {
        asked.recv().await.unwrap();
        let begun = SystemClock.now().boot;
        logind.tell(true).await;
        logind.given_back().await;
        let took = SystemClock.now().boot.since(begun);
        assert!(took >= Duration::from_secs(1), "{took:?}: nobody had ended");
        let kill_by = agent.halted().and_then(|still| still.kill_by).unwrap();
        assert!(kill_by.since(begun) <= Duration::from_secs(2), "{kill_by:?} is not within logind's time");
    };
    beside(&bus, grace(30), &agent, test).await;
}

#[tokio::test]
async fn a_shutdown_that_is_called_off_lets_pods_run_and_keeps_the_lock_or_takes_another() {
    let bus = Bus::start();
    let (logind, mut asked) = Logind::start(&bus, State { longest: LONG, ..State::default() }).await;
    let agent = Agent::new();
    let test = async {
        asked.recv().await.unwrap();
        logind.tell(true).await;
        agent.until("the pods are told", |agent| agent.halted().is_some()).await;
        logind.tell(false).await;
        agent.until("they may run", |agent| agent.halted().is_none()).await;
        assert!(!agent.board.checks().contains_key(&Check::Shutdown));
        assert_eq!((logind.holds(), asked.try_recv().is_err()), (1, true), "the lock is still held");
        logind.tell(true).await;
        agent.until("the pods are told", |agent| agent.halted().is_some()).await;
        agent.ends();
        logind.given_back().await;
        logind.tell(false).await;
        assert_eq!(asked.recv().await.unwrap(), "daemonlet delay shutdown");
        assert_eq!(agent.halted(), None);
    };
    beside(&bus, grace(30), &agent, test).await;
}

#[tokio::test]
async fn an_agent_that_starts_while_the_node_shuts_down_starts_nothing() {
    let bus = Bus::start();
    let state = State { longest: LONG, preparing: true, ..State::default() };
    let (logind, mut asked) = Logind::start(&bus, state).await;
    let agent = Agent::new();
    let test = async {
        agent.until("nothing is to run", |agent| agent.halted().is_some()).await;
        assert!(asked.try_recv().is_err(), "logind gives no lock then");
        logind.tell(false).await;
        assert_eq!(asked.recv().await.unwrap(), "daemonlet delay shutdown");
        assert_eq!(agent.halted(), None);
    };
    beside(&bus, grace(30), &agent, test).await;
}
