//! `make run` and `make stop` as a person types them, from a project directory and in a network namespace of their own: what runs
//! after the one, and that nothing is left after the other.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::mounts_under;
use tests::client::{self, Output};
use tests::fleet::{Kubectl, condition};
use tests::manifest::daemon_set;
use tests::node::{TestNode, program};
use tests::process::{Process, in_network, with_command};
use tests::wait::wait_for;

/// A clone of the project with programs that are built already. Its network is the node's.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Project {
        let dir = tempfile::Builder::new().prefix("dlt-run-").tempdir().expect("a temporary directory can be made");
        let clone = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        for part in ["scripts", "manifests"] {
            fs::create_dir(dir.path().join(part)).expect("made");
            for entry in fs::read_dir(clone.join(part)).expect("it is there").flatten() {
                fs::copy(entry.path(), dir.path().join(part).join(entry.file_name())).expect("copied");
            }
        }
        Project { dir }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join(".run")
    }

    fn script(&self, node: &TestNode, name: &str) -> Command {
        let mut command = node.command("sh");
        command.arg(self.dir.path().join("scripts").join(name)).env("NO_COLOR", "1").env_remove("LISTEN");
        command.env("BIN_DIR", program("daemonlet").parent().expect("a program lies in a directory"));
        command
    }

    fn run(&self, node: &TestNode, containerd: Option<&Path>) -> Child {
        let said = fs::File::create(self.dir.path().join("said")).expect("made");
        let mut command = self.script(node, "run.sh");
        match containerd {
            Some(socket) => command.env("CONTAINERD", socket),
            None => command.env_remove("CONTAINERD"),
        };
        let errors = said.try_clone().expect("a descriptor can be cloned");
        command.stdin(Stdio::null()).stdout(said).stderr(errors).spawn().expect("a shell is there")
    }

    #[track_caller]
    fn wait_said(&self, shown: &mut Child, text: &str) -> String {
        wait_for(&format!("make run says {text:?}"), || {
            let said = fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
            let log = || fs::read_to_string(self.run_dir().join("agent.log")).unwrap_or_default();
            assert!(said.contains(text) || matches!(shown.try_wait(), Ok(None)), "it ended: {said}\n{}", log());
            if said.contains(text) { Ok(said) } else { Err(format!("{said}\n{}", log())) }
        })
    }

    fn dl(&self, node: &TestNode, words: &[&str]) -> Output {
        client::run(node.command(program("daemonlet")).arg("--run-dir").arg(self.run_dir().join("s")).args(words))
    }

    /// kubectl with the KUBECONFIG that `make run` printed.
    fn kubectl(&self, node: &TestNode, which: Kubectl, words: &[&str]) -> Output {
        let said = fs::read_to_string(self.dir.path().join("said")).expect("make run has said something");
        let line = said.lines().find_map(|line| line.trim().strip_prefix("export KUBECONFIG="));
        let mut command = node.command(which.program().expect("scripts/kubectl.sh has unpacked it"));
        // Its caches are this test's.
        command.args(words).env("KUBECONFIG", line.expect("the line is printed")).env("HOME", self.dir.path());
        client::run(&mut command)
    }

    /// Waits until an object's JSON says what is wanted.
    #[track_caller]
    fn wait_object(&self, node: &TestNode, which: Kubectl, words: &[&str], fit: impl Fn(&Value) -> bool) {
        wait_for(&format!("{words:?} with {which:?} kubectl"), || {
            let said = self.kubectl(node, which, &[&["get"], words, &["-o", "json"]].concat());
            match serde_json::from_str::<Value>(&said.out) {
                Ok(value) if fit(&value) => Ok(()),
                _ => Err(format!("{}{}", said.out, said.err)),
            }
        });
    }

    /// The process whose id a script wrote down.
    #[track_caller]
    fn recorded(&self, name: &str) -> Process {
        let text = fs::read_to_string(self.run_dir().join("pids").join(name)).expect("written down");
        Process::find(text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a number")).expect("it runs")
    }

    #[track_caller]
    fn stop(&self, node: &TestNode) {
        let stopped = client::run(&mut self.script(node, "stop.sh"));
        assert!(stopped.ok().out.ends_with("stop: nothing of make run is left\n"));
    }

    /// Nothing on the machine or in the node's network bears this project's names.
    #[track_caller]
    fn assert_nothing_left(&self, node: &TestNode, before: &[Process], shim_sockets: &[PathBuf]) {
        let path = self.dir.path().display().to_string();
        assert!(!self.run_dir().exists(), "{}", self.run_dir().display());
        assert_eq!(mounts_under(self.dir.path()), Vec::<String>::new());
        let left: Vec<String> = with_command(&path).iter().map(Process::command_line).collect();
        assert_eq!(left, Vec::<String>::new());
        let living: Vec<Process> = in_network(&network(node));
        assert_eq!(living, before, "{:?}", living.iter().map(Process::command_line).collect::<Vec<_>>());
        assert_eq!(node.links().into_iter().collect::<Vec<_>>(), ["eth0", "eth0-far", "lo"]);
        for tables in ["iptables-save", "ip6tables-save"] {
            let rules = client::run(&mut node.command(tables)).out;
            assert!(!rules.contains("daemonlet"), "{rules}");
        }
        assert!(shim_sockets.iter().all(|socket| !socket.exists()), "{shim_sockets:?}");
        let number =
            client::run(Command::new("sh").args(["-c", &format!("printf %s {path}/.run | cksum | cut -d ' ' -f 1")]));
        let number = number.ok().out.trim().to_owned();
        assert!(!Path::new(&format!("/run/containerd/runc/daemonlet-run-{number}")).exists());
        let cgroups =
            client::run(Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("daemonlet_run_{number}*")]));
        assert_eq!(cgroups.ok().out, "");
    }
}

fn network(node: &TestNode) -> String {
    let inode = fs::metadata(format!("/run/netns/{}", node.id())).expect("the node's network namespace is there");
    format!("net:[{}]", std::os::unix::fs::MetadataExt::ino(&inode))
}

#[test]
fn make_run_shows_running_daemons_and_make_stop_leaves_nothing() {
    // The node gives the network, and in the second half the containerd that others use as well.
    let node = TestNode::builder().without_agent().start();
    let before = in_network(&network(&node));
    let project = Project::new();
    let mut shown = project.run(&node, None);
    let said = project.wait_said(&mut shown, "Every pod is running");
    for daemon in ["random-refresher-", "fluentd-elasticsearch-"] {
        let running = |line: &str| line.contains(daemon) && line.contains(" 1/1 ") && line.contains("Running");
        assert!(said.lines().any(running), "{said}");
    }
    let (agent, endpoint) = (project.recorded("agent"), project.recorded("control"));

    // The line that sets KUBECONFIG is all that kubectl needs: the node is there, its own pods are seen, and a DaemonSet starts one more.
    for which in Kubectl::all() {
        let ready = |it: &Value| {
            it["items"].as_array().is_some_and(|all| all.iter().any(|it| condition(it, "Ready") == "True"))
        };
        project.wait_object(&node, which, &["nodes"], ready);
        let seen = project.kubectl(&node, which, &["get", "pods", "--all-namespaces"]).ok().out;
        assert!(["random-refresher-", "fluentd-elasticsearch-"].iter().all(|name| seen.contains(name)), "{seen}");
        let name = format!("{which:?}").to_lowercase();
        let applied = project.dir.path().join("applied.json");
        let daemons = daemon_set(&name).field("image", json!("k8spatterns/random-generator:1.0"));
        fs::write(&applied, daemons.text()).expect("written");
        project.kubectl(&node, which, &["apply", "-f", &applied.display().to_string()]).ok();
        project.wait_object(&node, which, &["daemonset", &name], |it| it["status"]["numberReady"] == 1);
    }

    // Ctrl-C ends the display alone, and a second `make run` finds the agent.
    Process::find(i32::try_from(shown.id()).expect("a process id")).expect("it stays").signal(Signal::SIGINT);
    shown.wait().expect("an own child can be waited for");
    let mut again = project.run(&node, None);
    project.wait_said(&mut again, &format!("the agent runs already (process {})", agent.pid));
    project.wait_said(&mut again, "Every pod is running");
    assert!(agent.alive() && endpoint.alive() && project.recorded("containerd").alive());
    // A killed agent ends the display, and nothing else.
    agent.kill_9();
    project.wait_said(&mut again, "the daemons run on");
    again.wait().expect("an own child can be waited for");
    // Neither does a killed endpoint end what it wanted; both come back as who they were.
    endpoint.kill_9();
    let mut adopting = project.run(&node, None);
    project.wait_said(&mut adopting, "Every pod is running");
    for which in Kubectl::all() {
        project.kubectl(&node, which, &["get", "nodes"]).ok();
    }
    let restarts = project.dl(&node, &["get", "pods", "-o", "json"]).ok().json();
    assert!(
        restarts["items"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|pod| { pod["status"]["containerStatuses"][0]["restartCount"] == 0 })
    );

    let bundles = fs::read_dir(project.run_dir().join("containerd/state/io.containerd.runtime.v2.task"));
    let bundles = bundles
        .expect("containerd's state")
        .flatten()
        .flat_map(|namespace| fs::read_dir(namespace.path()).into_iter().flatten().flatten());
    let addresses = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("address")).ok());
    let sockets: Vec<PathBuf> = addresses.filter_map(|it| Some(it.trim().strip_prefix("unix://")?.into())).collect();
    let is_socket = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    assert!(sockets.len() == 2 + Kubectl::all().len() && sockets.iter().all(is_socket), "{sockets:?}");
    project.stop(&node);
    adopting.wait().expect("an own child can be waited for");
    project.assert_nothing_left(&node, &before, &sockets);
    let idle = client::run(&mut project.script(&node, "stop.sh")).ok();
    assert_eq!(idle.out, "stop: nothing is running\n");

    // On somebody else's containerd, and with the agent dead when it is to stop.
    let namespaces = || node.ctr(&["namespaces", "ls", "-q"]).ok().out;
    let theirs = namespaces();
    let mut shown = project.run(&node, Some(&node.containerd_socket()));
    project.wait_said(&mut shown, "Every pod is running");
    assert_ne!(namespaces(), theirs);
    project.recorded("agent").kill_9();
    shown.wait().expect("an own child can be waited for");
    project.stop(&node);
    assert_eq!(namespaces(), theirs);
    project.assert_nothing_left(&node, &before, &[]);
}
