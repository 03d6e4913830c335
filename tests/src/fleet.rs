//! A control endpoint for one test, and nodes that join it: a network namespace with a bridge in which `daemonlet-control` listens where it
//! does by default, and a cable from there to each node. Known by the contract only: flags, files, kubectl.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{self, Output};
use crate::node::{Builder, TestNode, program};
use crate::process::Process;
use crate::wait::{wait_for, wait_within};

/// Where the endpoint is on the nodes' network.
pub const ADDRESS: &str = "198.19.7.1";

/// How long the endpoint may take to end, and the harness to undo what it made.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(20);

/// Lines of its log that a failed test prints.
const TAIL_LINES: usize = 80;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Which kubectl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kubectl {
    /// Debian 12's, 1.20.
    Debian,
    /// The newest.
    Current,
}

impl Kubectl {
    /// Those that this machine has.
    pub fn all() -> Vec<Kubectl> {
        [Kubectl::Debian, Kubectl::Current].into_iter().filter(|which| which.program().is_some()).collect()
    }

    /// Where scripts/kubectl.sh unpacks it.
    pub fn program(self) -> Option<PathBuf> {
        let name = match self {
            Kubectl::Debian => "debian",
            Kubectl::Current => "current",
        };
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubectl").join(name);
        program.exists().then_some(program)
    }
}

/// An endpoint. Dropped, it is ended by its process id and its namespace is removed; nodes are to be dropped before it.
pub struct TestControl {
    dir: tempfile::TempDir,
    /// Of its network namespace.
    id: String,
    process: Option<Child>,
    flags: Vec<String>,
    nodes: AtomicU32,
}

impl TestControl {
    #[track_caller]
    pub fn start() -> TestControl {
        TestControl::with_flags(&[])
    }

    #[track_caller]
    pub fn with_flags(flags: &[&str]) -> TestControl {
        let id = format!("dlc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("dlc-").tempdir().expect("a temporary directory can be made");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut control = TestControl { dir, id, process: None, flags, nodes: AtomicU32::new(0) };
        control.ip(&["netns", "add", &control.id]);
        control.ip(&["-n", &control.id, "link", "set", "lo", "up"]);
        control.ip(&["-n", &control.id, "link", "add", "fleet0", "type", "bridge"]);
        control.ip(&["-n", &control.id, "addr", "add", &format!("{ADDRESS}/24"), "dev", "fleet0"]);
        control.ip(&["-n", &control.id, "link", "set", "fleet0", "up"]);
        control.up();
        control
    }

    #[track_caller]
    fn ip(&self, words: &[&str]) -> Output {
        client::run(Command::new("ip").args(words)).ok()
    }

    /// A command in the endpoint's network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.id)).arg("--").arg(program);
        command
    }

    /// Runs a closure on a thread that has entered the endpoint's network namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        client::inside(&self.id, work)
    }

    /// The name of its network namespace.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the endpoint (again) and waits until it is ready.
    #[track_caller]
    pub fn up(&mut self) {
        assert!(self.process.is_none(), "the endpoint was started already");
        let log = File::options().create(true).append(true).open(self.dir.path().join("control.log"));
        let log = log.expect("a log file can be opened");
        let errors = log.try_clone().expect("a descriptor can be cloned");
        let mut command = self.command(program("daemonlet-control"));
        command.arg("serve").arg("--data-dir").arg(self.data_dir()).args(&self.flags).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let mut child = command.spawn().expect("daemonlet-control can be started");
        wait_for("the endpoint is ready", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the endpoint ended with {status}:\n{}", self.tail());
            }
            match self.kubectl(&["get", "--raw", "/readyz"]) {
                Output { code: 0, .. } => Ok(()),
                other => Err(format!("{other:?}\n{}", self.tail())),
            }
        });
        self.process = Some(child);
    }

    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.end(Signal::SIGTERM)
    }

    #[track_caller]
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) -> i32 {
        let mut child = self.process.take().expect("the endpoint was started");
        if let Some(process) = Process::find(child.id() as i32) {
            process.signal(signal);
        }
        wait_within(CLEAN_UP, "the endpoint ends when told to", || match child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            other => Err(format!("{other:?}")),
        })
    }

    pub fn process(&self) -> Process {
        let child = self.process.as_ref().expect("the endpoint was started");
        Process::find(child.id() as i32).expect("the endpoint runs")
    }

    /// Debian's kubectl with the administrator's kubeconfig.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> Output {
        client::run(&mut self.kubectl_command(Kubectl::Debian, words))
    }

    pub fn kubectl_command(&self, which: Kubectl, words: &[&str]) -> Command {
        let mut command = self.command(which.program().expect("scripts/kubectl.sh has unpacked it"));
        command.args(words).env("KUBECONFIG", self.data_dir().join("admin.kubeconfig"));
        // Its caches are this test's.
        command.env("HOME", self.dir.path());
        command
    }

    #[track_caller]
    pub fn get(&self, words: &[&str]) -> Value {
        self.kubectl(&[&["get"], words, &["-o", "json"]].concat()).ok().json()
    }

    /// Writes a file beside the endpoint and returns its path.
    #[track_caller]
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("a file can be written in an own directory");
        path.display().to_string()
    }

    #[track_caller]
    pub fn token(&self) -> String {
        let mut command = self.command(program("daemonlet-control"));
        let output = client::run(command.args(["token", "create", "--data-dir"]).arg(self.data_dir())).ok();
        output.out.trim().to_owned()
    }

    /// A node with the stand-in images that joins this endpoint with a token of its own.
    #[track_caller]
    pub fn node(&self, name: &str) -> TestNode {
        self.node_with(TestNode::builder(), name, &self.token())
    }

    /// A node made otherwise, with this join token.
    #[track_caller]
    pub fn node_with(&self, builder: Builder, name: &str, token: &str) -> TestNode {
        let token = self.file(&format!("{name}.token"), token);
        let mut node = builder.flag("--node-name", name).without_agent().start();
        self.connect(&node);
        node.set_flag("--control", &format!("https://{ADDRESS}:6444"));
        node.set_flag("--join-token-file", &token);
        node.start_agent();
        node.wait_agent();
        node
    }

    /// Lays the cable.
    #[track_caller]
    pub fn connect(&self, node: &TestNode) {
        let number = self.nodes.fetch_add(1, Ordering::Relaxed) + 10;
        let (far, address) = (format!("to{number}"), format!("198.19.7.{number}/24"));
        self.ip(&["-n", node.id(), "link", "add", "up0", "type", "veth", "peer", "name", &far, "netns", &self.id]);
        self.ip(&["-n", node.id(), "addr", "add", &address, "dev", "up0"]);
        self.ip(&["-n", node.id(), "link", "set", "up0", "up"]);
        self.ip(&["-n", &self.id, "link", "set", &far, "master", "fleet0", "up"]);
    }

    /// The cable is pulled, or put back.
    #[track_caller]
    pub fn cable(&self, node: &TestNode, state: &str) {
        self.ip(&["-n", node.id(), "link", "set", "up0", state]);
    }

    /// Waits until an object's JSON says what is wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, words: &[&str], condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let output = self.kubectl(&[&["get"], words, &["-o", "json"]].concat());
            match serde_json::from_str::<Value>(&output.out) {
                Ok(value) if output.code == 0 && condition(&value) => Ok(value),
                _ => Err(format!("{}{}\n{}", output.out, output.err, self.tail())),
            }
        })
    }

    #[track_caller]
    pub fn wait_node_ready(&self, name: &str) -> Value {
        self.wait(&format!("node {name} is ready"), &["node", name], |node| condition(node, "Ready") == "True")
    }

    /// The last lines that the endpoint wrote.
    pub fn tail(&self) -> String {
        let text = fs::read(self.dir.path().join("control.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("--- control.log\n{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
    }
}

/// The status of a condition of an object; empty: it has none.
pub fn condition(object: &Value, name: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == name);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

impl Drop for TestControl {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = client::run(Command::new("ip").args(["netns", "del", &self.id]));
        if removed.code != 0 {
            eprintln!("the harness could not remove network namespace {}: {}", self.id, removed.err);
        }
    }
}
