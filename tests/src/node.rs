//! A node for one test: a network namespace, a containerd and an agent of its own, with every directory, name and id its own, so that
//! several run side by side and beside anything else on the machine. Dropping it ends what it started and removes what it made, also
//! after a panic; a test that is about leaks asks [`crate::audit::Traces`] before that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::audit::{Traces, cgroups_under, mounts_under};
use crate::client::{self, Answer, Output, Pod};
use crate::image::{self, Image};
use crate::process::{self, Process};
use crate::stand_in;
use crate::wait::{PATIENCE, pause, wait_for, wait_within};

/// The agent's loopback listener, the contract's default; each node has a loopback of its own.
pub const LISTEN: &str = "127.0.0.1:10348";

/// The node's own address, on an interface in its namespace that leads nowhere.
pub const NODE_ADDRESS: &str = "198.19.0.1";

pub const NODE_NAME: &str = "node-a";

/// How long ending a node's parts may take before the harness calls it a leak.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 60;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct TestNode {
    dir: tempfile::TempDir,
    /// Name of the network namespace and the containerd namespace, and with underscores the cgroup root: unique on the machine.
    id: String,
    pub cgroup_root: String,
    containerd: Option<Child>,
    agent: Option<Child>,
    flags: Vec<String>,
    /// Where another containerd than the machine's lies, with its shim and `ctr`.
    containerd_bin: Option<PathBuf>,
}

/// What a node is to have before its agent starts.
pub struct Builder {
    flags: Vec<String>,
    images: Vec<(String, Vec<u8>)>,
    manifests: Vec<(String, String)>,
    start_agent: StartAgent,
}

enum StartAgent {
    AndWaitUntilItAnswers,
    No,
}

impl Builder {
    fn with_images(mut self, images: Vec<(String, Vec<u8>)>) -> Self {
        self.images = images;
        self
    }

    /// A flag of `daemonlet agent` and its value.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    pub fn image(self, file: &str, image: &Image) -> Self {
        self.archive(file, image::oci_archive(std::slice::from_ref(image)))
    }

    pub fn archive(mut self, file: &str, bytes: Vec<u8>) -> Self {
        self.images.push((file.to_owned(), bytes));
        self
    }

    pub fn manifest(mut self, file: &str, text: &str) -> Self {
        self.manifests.push((file.to_owned(), text.to_owned()));
        self
    }

    pub fn without_agent(mut self) -> Self {
        self.start_agent = StartAgent::No;
        self
    }

    #[track_caller]
    pub fn start(self) -> TestNode {
        let mut node = TestNode::bare(self.flags);
        for (file, bytes) in &self.images {
            node.place_image(file, bytes);
        }
        for (file, text) in &self.manifests {
            node.put(file, text);
        }
        node.start_containerd();
        if let StartAgent::AndWaitUntilItAnswers = self.start_agent {
            node.start_agent();
            node.wait_agent();
        }
        node
    }
}

impl TestNode {
    /// A node with the stand-in images.
    pub fn builder() -> Builder {
        let made = [
            ("busybox.tar", stand_in::busybox()),
            ("random-generator.tar", stand_in::random_generator()),
            ("fluentd-elasticsearch.tar", stand_in::fluentd_elasticsearch()),
        ];
        let images = made
            .into_iter()
            .map(|(file, image)| (file.to_owned(), image::oci_archive(&[image.expect("busybox-static is installed")])))
            .collect();
        Self::empty_builder().with_images(images)
    }

    /// A node without any image.
    pub fn empty_builder() -> Builder {
        Builder {
            flags: Vec::new(),
            images: Vec::new(),
            manifests: Vec::new(),
            start_agent: StartAgent::AndWaitUntilItAnswers,
        }
    }

    /// A node with the stand-in images and a running agent.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    #[track_caller]
    fn bare(flags: Vec<String>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the node suites need root: they make namespaces and start containerd"
        );
        let id = format!("dlt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("dlt-").tempdir().expect("a temporary directory can be made");
        let containerd_bin = std::env::var_os("DAEMONLET_TEST_CONTAINERD_BIN").map(PathBuf::from);
        let node =
            Self { cgroup_root: id.replace('-', "_"), id, dir, containerd: None, agent: None, flags, containerd_bin };
        for made in [node.manifest_dir(), node.image_dir(), node.dir().join("containerd")] {
            fs::create_dir_all(made).expect("a directory can be made in an own directory");
        }
        node.ip(&["netns", "add", &node.id]);
        node.ip(&["-n", &node.id, "link", "set", "lo", "up"]);
        node.ip(&["-n", &node.id, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0-far"]);
        node.ip(&["-n", &node.id, "link", "set", "eth0-far", "up"]);
        node.ip(&["-n", &node.id, "addr", "add", &format!("{NODE_ADDRESS}/24"), "dev", "eth0"]);
        node.ip(&["-n", &node.id, "link", "set", "eth0", "up"]);
        node.ip(&["-n", &node.id, "route", "add", "default", "via", "198.19.0.254"]);
        node
    }

    #[track_caller]
    fn ip(&self, words: &[&str]) -> Output {
        client::run(Command::new("ip").args(words)).ok()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn manifest_dir(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    pub fn image_dir(&self) -> PathBuf {
        self.dir().join("images")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir().join("log")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.dir().join("containerd/c.sock")
    }

    /// A command that runs in the node's network namespace. `nsenter` and not `ip netns exec`, which would also hide the machine's
    /// cgroups and mounts behind a mount namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.id)).arg("--").arg(program);
        if let Some(bin) = &self.containerd_bin {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", bin.display()));
        }
        command
    }

    /// Starts containerd (again) and waits until it answers.
    #[track_caller]
    pub fn start_containerd(&mut self) {
        let dir = self.dir().join("containerd");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\noom_score = 0\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.tracing\"]\n\
             [debug]\n  level = \"warn\"\n[grpc]\n  address = \"{0}/c.sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{0}/opt\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).expect("a file can be written in an own directory");
        let mut command = self.command("containerd");
        command.arg("-c").arg(dir.join("config.toml"));
        self.containerd = Some(self.spawn(&mut command, "containerd.log"));
        wait_for("containerd answers", || match self.ctr(&["version"]) {
            Output { code: 0, .. } => Ok(()),
            other => Err(format!("{}{}", other.err, self.tail("containerd.log"))),
        });
    }

    /// Starts a background program in a session of its own, its output appended to a file of the node.
    #[track_caller]
    fn spawn(&self, command: &mut Command, log: &str) -> Child {
        let log =
            File::options().create(true).append(true).open(self.dir().join(log)).expect("a log file can be opened");
        let errors = log.try_clone().expect("a descriptor can be cloned");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// The arguments with which the agent runs on this node.
    pub fn agent_arguments(&self) -> Vec<String> {
        let dir = |path: PathBuf| path.display().to_string();
        let mut words: Vec<String> = vec!["agent".to_owned()];
        for (flag, value) in [
            ("--node-name", NODE_NAME.to_owned()),
            ("--manifest-dir", dir(self.manifest_dir())),
            ("--image-dir", dir(self.image_dir())),
            ("--state-dir", dir(self.state_dir())),
            ("--run-dir", dir(self.run_dir())),
            ("--log-dir", dir(self.log_dir())),
            ("--containerd", dir(self.containerd_socket())),
            ("--containerd-namespace", self.id.clone()),
            ("--cgroup-root", self.cgroup_root.clone()),
            ("--pod-cidr", "198.18.0.0/16".to_owned()),
            // Whatever network the machine has of its own is not the test's.
            ("--cni-conf-dir", dir(self.dir().join("net.d"))),
            ("--listen", LISTEN.to_owned()),
            // How full the machine's disk is, is not the test's affair either.
            ("--image-gc-high-threshold", "100".to_owned()),
        ] {
            if !self.flags.iter().any(|given| given == flag) {
                words.extend([flag.to_owned(), value]);
            }
        }
        words.extend(self.flags.iter().cloned());
        words
    }

    /// Starts the agent (again) without waiting for anything.
    #[track_caller]
    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "the agent of this node was started already");
        let mut command = self.command(program("daemonlet"));
        command.args(self.agent_arguments()).env_remove("NOTIFY_SOCKET");
        self.agent = Some(self.spawn(&mut command, "agent.log"));
    }

    /// Waits until the agent answers on its socket.
    #[track_caller]
    pub fn wait_agent(&mut self) {
        let socket = self.run_dir().join("daemonlet.sock");
        let mut agent = self.agent.take().expect("the agent was started");
        wait_for("the agent answers", || {
            if let Ok(Some(status)) = agent.try_wait() {
                panic!("the agent ended with {status}:\n{}", self.tail("agent.log"));
            }
            let answer = self.cli(&["get", "pods"]);
            if answer.code == 0 {
                Ok(())
            } else {
                Err(format!("{} {answer:?}\n{}", socket.display(), self.tail("agent.log")))
            }
        });
        self.agent = Some(agent);
    }

    /// Flags for the next start of the agent, e.g. after an edit that needs one.
    pub fn set_flag(&mut self, name: &str, value: &str) {
        self.flags.extend([name.to_owned(), value.to_owned()]);
    }

    pub fn agent_process(&self) -> Process {
        let child = self.agent.as_ref().expect("the agent was started");
        Process::find(child.id() as i32).expect("the agent runs")
    }

    /// Whether the agent ended by itself.
    pub fn agent_ended(&mut self) -> Option<i32> {
        self.agent.as_mut()?.try_wait().ok()?.map(|status| status.code().unwrap_or(-1))
    }

    /// Ends the agent with SIGTERM, as systemd does, and returns its exit code.
    #[track_caller]
    pub fn stop_agent(&mut self) -> i32 {
        self.end_agent(Signal::SIGTERM)
    }

    #[track_caller]
    pub fn kill_agent(&mut self) {
        self.end_agent(Signal::SIGKILL);
    }

    #[track_caller]
    fn end_agent(&mut self, signal: Signal) -> i32 {
        let mut child = self.agent.take().expect("the agent was started");
        end_child(&mut child, signal)
    }

    #[track_caller]
    pub fn restart_agent(&mut self) {
        self.stop_agent();
        self.start_agent();
        self.wait_agent();
    }

    #[track_caller]
    pub fn kill_containerd(&mut self) {
        let mut child = self.containerd.take().expect("containerd was started");
        end_child(&mut child, Signal::SIGKILL);
    }

    /// Ends containerd in order, as an upgrade of its package does. Shims and containers stay.
    #[track_caller]
    pub fn stop_containerd(&mut self) {
        let mut child = self.containerd.take().expect("containerd was started");
        end_child(&mut child, Signal::SIGTERM);
    }

    /// The programs that the next start of containerd uses: another version's, or the machine's own.
    pub fn use_containerd(&mut self, bin: Option<&Path>) {
        self.containerd_bin = bin.map(Path::to_owned);
    }

    /// containerd's own word for its version.
    #[track_caller]
    pub fn containerd_version(&self) -> String {
        let said = self.ctr(&["version"]).ok().out;
        let server = said.split("Server:").nth(1).unwrap_or_default();
        let version = server.lines().find_map(|line| line.trim().strip_prefix("Version:")).unwrap_or_default();
        version.trim().to_owned()
    }

    /// The log keeper of this node, if it runs.
    pub fn keeper(&self) -> Option<Process> {
        let keepers = process::with_command(&self.run_dir().display().to_string());
        keepers.into_iter().find(|process| {
            process.command_line().split(' ').next().is_some_and(|exe| exe.ends_with("daemonlet-logkeeper"))
        })
    }

    /// containerd's shims of this node.
    pub fn shims(&self) -> Vec<Process> {
        let mut found = process::with_command(&self.containerd_socket().display().to_string());
        found.retain(|process| process.command_line().contains("containerd-shim"));
        found
    }

    /// Puts a manifest in place with a rename.
    #[track_caller]
    pub fn put(&self, file: &str, text: &str) {
        image::place(&self.manifest_dir(), file, text.as_bytes()).expect("a manifest can be written");
    }

    #[track_caller]
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.manifest_dir().join(file)).expect("the manifest was there");
    }

    #[track_caller]
    pub fn place_image(&self, file: &str, bytes: &[u8]) {
        image::place(&self.image_dir(), file, bytes).expect("an image can be written");
    }

    /// Runs the command-line client against this node's agent.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> Output {
        let mut command = self.command(program("daemonlet"));
        client::run(command.arg("--run-dir").arg(self.run_dir()).args(words).env("NO_COLOR", "1"))
    }

    /// Runs `ctr` against this node's containerd, in the agent's containerd namespace.
    #[track_caller]
    pub fn ctr(&self, words: &[&str]) -> Output {
        self.ctr_in(&self.id, words)
    }

    #[track_caller]
    pub fn ctr_in(&self, namespace: &str, words: &[&str]) -> Output {
        let mut command = self.command("ctr");
        client::run(command.arg("--address").arg(self.containerd_socket()).args(["--namespace", namespace]).args(words))
    }

    /// The lines of a `ctr` listing without its header; none when containerd does not answer.
    pub fn ctr_lines(&self, words: &[&str]) -> BTreeSet<String> {
        let output = self.ctr(words);
        let lines = output.out.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with("KEY ") && !line.starts_with("TASK ")).collect()
    }

    /// GET from the agent's loopback listener.
    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.get_as(path, LISTEN)
    }

    /// GET from the agent's loopback listener with this Host header.
    pub fn get_as(&self, path: &str, host: &str) -> io::Result<Answer> {
        self.inside(|| client::get_tcp(LISTEN, path, host))
    }

    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let address = address.parse().map_err(io::Error::other)?;
        self.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))
    }

    /// Runs a closure on a thread that has entered the node's network namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        client::inside(&self.id, work)
    }

    /// Names of the interfaces in the node's network namespace.
    pub fn links(&self) -> BTreeSet<String> {
        let listed = client::run(Command::new("ip").args(["-n", &self.id, "-o", "link"]));
        listed
            .out
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .collect()
    }

    /// All pods that the agent shows.
    #[track_caller]
    pub fn pods(&self) -> Vec<Pod> {
        let list = self.cli(&["get", "pods", "-A", "-o", "json"]).ok().json();
        list["items"].as_array().cloned().unwrap_or_default().into_iter().map(Pod).collect()
    }

    /// The pods of one document: by exact name, `<name>-<node>`, or the DaemonSet's name.
    #[track_caller]
    pub fn pods_of(&self, name: &str) -> Vec<Pod> {
        let mut pods = self.pods();
        let own = format!("{name}-{NODE_NAME}");
        pods.retain(|pod| pod.name() == name || pod.name() == own || pod.owner() == name);
        pods
    }

    /// Waits until exactly one pod of the document exists and satisfies the condition.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, condition: impl Fn(&Pod) -> bool) -> Pod {
        wait_for(&format!("pod {name}: {what}"), || match self.pods_of(name).as_slice() {
            [pod] if condition(pod) => Ok(pod.clone()),
            seen => Err(format!("{}\n{}", summary(seen), self.tail("agent.log"))),
        })
    }

    #[track_caller]
    pub fn wait_running(&self, name: &str) -> Pod {
        self.wait_pod(name, "runs", |pod| pod.running() && pod.ready())
    }

    #[track_caller]
    pub fn wait_no_pod(&self, name: &str) {
        wait_for(&format!("no pod {name}"), || match self.pods_of(name).as_slice() {
            [] => Ok(()),
            seen => Err(summary(seen)),
        });
    }

    /// The main process of a container, by the container's id.
    #[track_caller]
    pub fn process_of(&self, container_id: &str) -> Process {
        wait_for(&format!("container {container_id} has a process"), || {
            let tasks = self.ctr(&["tasks", "ls"]).out;
            let pid = tasks
                .lines()
                .find(|line| line.starts_with(container_id))
                .and_then(|line| line.split_whitespace().nth(1));
            pid.and_then(|pid| Process::find(pid.parse().ok()?)).ok_or(tasks)
        })
    }

    /// The main process of a pod's first container.
    #[track_caller]
    pub fn process(&self, pod: &Pod) -> Process {
        self.process_of(&pod.container_id(""))
    }

    /// Runs a busybox command in the namespaces of a process. It has the view of the container, not its privileges.
    #[track_caller]
    pub fn exec(&self, process: Process, words: &[&str]) -> Output {
        client::run(
            Command::new("nsenter")
                .args(["-m", "-u", "-i", "-n", "-p", "-r", "-t", &process.pid.to_string(), "--"])
                .args(words),
        )
    }

    /// The CRI log lines of one attempt of a container.
    pub fn log_lines(&self, pod: &Pod, container: &str, attempt: u64) -> Vec<String> {
        fs::read_to_string(self.log_file(pod, container, attempt))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub fn log_file(&self, pod: &Pod, container: &str, attempt: u64) -> PathBuf {
        let dir = format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid());
        self.log_dir().join("pods").join(dir).join(container).join(format!("{attempt}.log"))
    }

    /// Waits until a container's log has a line with this text, and returns the text after the CRI prefix.
    #[track_caller]
    pub fn wait_log(&self, pod: &Pod, container: &str, text: &str) -> String {
        let attempt = pod.container(container).and_then(|status| status["restartCount"].as_u64()).unwrap_or(0);
        wait_for(&format!("{} logs {text:?}", pod.name()), || {
            let lines = self.log_lines(pod, container, attempt);
            let found = lines.iter().find(|line| line.contains(text));
            found.map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).ok_or_else(|| lines.join("\n"))
        })
    }

    /// A value of the pod's or container's cgroup, e.g. `limit("memory", process, "memory.limit_in_bytes", "memory.max")`.
    pub fn cgroup_value(&self, process: Process, controller: &str, v1: &str, v2: &str) -> String {
        let path = process.cgroup(controller).unwrap_or_default();
        let one = PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}/{v1}"));
        let two = PathBuf::from(format!("/sys/fs/cgroup{path}/{v2}"));
        fs::read_to_string(&one)
            .or_else(|_| fs::read_to_string(&two))
            .map_or_else(|e| format!("{}: {e}", one.display()), |s| s.trim().to_owned())
    }

    /// What the agent says of every file, as JSON.
    #[track_caller]
    pub fn files(&self) -> Value {
        self.cli(&["get", "files", "-o", "json"]).ok().json()
    }

    /// Waits until nothing is left of any pod. Call it after the manifests are gone, with the agent alive.
    #[track_caller]
    pub fn wait_nothing_left(&self) {
        wait_within(PATIENCE, "nothing of a pod is left", || Traces::of(self).none());
    }

    /// The last lines of one of the node's logs (`agent.log`, `containerd.log`).
    pub fn tail(&self, log: &str) -> String {
        let text = fs::read(self.dir().join(log))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {log}\n{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
    }

    /// Everything ends at once, as in a power cut: agent, keeper, containerd, shims, containers; pinned namespaces and mounts go, the
    /// state directory stays. `start_containerd` and `start_agent` are the next boot.
    pub fn power_cut(&mut self) {
        self.end_everything();
        self.unmount_everything();
        self.remove_cgroups();
        // /run is empty after a boot.
        let _ = fs::remove_dir_all(self.run_dir());
        let _ = fs::remove_dir_all(self.dir().join("containerd/state"));
        self.remove_runc_state();
        for link in self.links().iter().filter(|link| !["lo", "eth0", "eth0-far", "up0"].contains(&link.as_str())) {
            client::run(Command::new("ip").args(["-n", &self.id, "link", "del", link]));
        }
    }

    fn end_everything(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            end_child(&mut agent, Signal::SIGKILL);
        }
        let sockets = self.shim_sockets();
        let mut rest = self.shims();
        rest.extend(self.keeper());
        rest.extend(self.contained());
        if let Some(mut containerd) = self.containerd.take() {
            end_child(&mut containerd, Signal::SIGKILL);
        }
        let end = std::time::Instant::now() + CLEAN_UP;
        while !rest.is_empty() && std::time::Instant::now() < end {
            for process in &rest {
                process.signal(Signal::SIGKILL);
            }
            pause(Duration::from_millis(5));
            rest = self.shims();
            rest.extend(self.keeper());
            rest.extend(self.contained());
        }
        for socket in sockets {
            // A shim that ended in order has removed it.
            let _ = fs::remove_file(socket);
        }
    }

    /// Processes in the node's cgroups or network namespace.
    fn contained(&self) -> Vec<Process> {
        let mut found: BTreeSet<Process> = BTreeSet::new();
        for cgroup in cgroups_under(&self.cgroup_root) {
            let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|pid| Process::find(pid.parse().ok()?)));
        }
        let namespace = fs::metadata(format!("/run/netns/{}", self.id));
        if let Ok(namespace) = namespace {
            let inode = std::os::unix::fs::MetadataExt::ino(&namespace);
            found.extend(process::in_network(&format!("net:[{inode}]")));
        }
        found.into_iter().collect()
    }

    /// The shims' sockets lie in a directory shared by all containerd instances; each bundle names its own.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let bundles = self.dir().join("containerd/state/io.containerd.runtime.v2.task").join(&self.id);
        let entries = fs::read_dir(bundles).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
            .filter_map(|address| address.trim().strip_prefix("unix://").map(PathBuf::from))
            .collect()
    }

    fn unmount_everything(&self) {
        for point in mounts_under(self.dir()).iter().rev() {
            // A mount below another may have gone with it.
            let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
        }
    }

    fn remove_cgroups(&self) {
        // runc puts a container of `ctr`'s that names no cgroup under one named as the containerd namespace.
        for cgroup in [&self.cgroup_root, &self.id].into_iter().flat_map(|root| cgroups_under(root)) {
            let end = std::time::Instant::now() + CLEAN_UP;
            // The kernel lets go of a cgroup a moment after its last process.
            while fs::remove_dir(&cgroup).is_err() && cgroup.exists() && std::time::Instant::now() < end {
                pause(Duration::from_millis(5));
            }
        }
    }

    fn remove_runc_state(&self) {
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.id));
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.tail("agent.log"), self.tail("containerd.log"));
        }
        self.end_everything();
        self.unmount_everything();
        self.remove_cgroups();
        self.remove_runc_state();
        let removed = client::run(Command::new("ip").args(["netns", "del", &self.id]));
        let mut left = mounts_under(self.dir());
        left.extend(cgroups_under(&self.cgroup_root).iter().map(|path| path.display().to_string()));
        left.extend(self.contained().iter().map(Process::command_line));
        if removed.code != 0 {
            left.push(removed.err);
        }
        if !left.is_empty() {
            let complaint = format!("the harness could not remove from node {}: {left:?}", self.id);
            if std::thread::panicking() { eprintln!("{complaint}") } else { panic!("{complaint}") }
        }
    }
}

/// One of the project's programs, from the directory that these tests were built into.
pub fn program(name: &str) -> PathBuf {
    let dir = std::env::var_os("DAEMONLET_TEST_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a running program has a path");
        let deps = own.parent().expect("a program lies in a directory");
        if deps.ends_with("deps") { deps.parent().unwrap_or(deps).to_owned() } else { deps.to_owned() }
    });
    let program = dir.join(name);
    assert!(program.exists(), "{} is missing: run `cargo build --workspace` first (make test does)", program.display());
    program
}

#[track_caller]
fn end_child(child: &mut Child, signal: Signal) -> i32 {
    if let Some(process) = Process::find(child.id() as i32) {
        process.signal(signal);
    }
    wait_within(CLEAN_UP, "a program ends when told to", || match child.try_wait() {
        Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
        other => Err(format!("{other:?}")),
    })
}

/// Pods in a line each, for messages.
pub fn summary(pods: &[Pod]) -> String {
    let lines: Vec<String> = pods
        .iter()
        .map(|pod| {
            format!(
                "{}/{} phase={} ready={} status={}",
                pod.namespace(),
                pod.name(),
                pod.phase(),
                pod.ready(),
                pod.0["status"]
            )
        })
        .collect();
    if lines.is_empty() { "no such pod".to_owned() } else { lines.join("\n") }
}
