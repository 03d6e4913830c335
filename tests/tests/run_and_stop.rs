//! `make run` and `make stop` as a person types them, from a project directory and in a network namespace of their own: what runs
//! after the one, and that nothing is left after the other.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::mounts_under;
use tests::client::{self, Output};
use tests::fleet::{Kubectl, condition};
use tests::image::{Image, Layout, Tarball};
use tests::manifest::{OBEDIENT, daemon_set, pod};
use tests::node::{TestNode, program};
use tests::process::{Process, in_network, with_command};
use tests::scripted_registry::ScriptedRegistry;
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

    /// With its output on a terminal of this many columns; `said` holds what came out of that.
    fn run_on_terminal(&self, node: &TestNode, columns: usize) -> Child {
        let script = self.script(node, "run.sh");
        let mut command = node.command("script");
        for (name, value) in script.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let shown = format!("stty rows 24 cols {columns}; exec sh {}/scripts/run.sh", self.dir.path().display());
        command
            .args(["-qefc", &shown])
            .arg(self.dir.path().join("said"))
            .env_remove("NO_COLOR")
            .env_remove("CONTAINERD");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("script is there")
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

/// The rows that a terminal of this many columns and no end shows after this was written to it.
fn screen(written: &str, columns: usize) -> Vec<String> {
    let mut rows: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut left = written.chars();
    while let Some(next) = left.next() {
        match next {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                let sequence: String = left.by_ref().skip(1).take_while(|it| !matches!(it, 'J')).collect();
                let up = sequence.split_once('A').map_or("", |(up, _)| up);
                // Up by so many, and all below is cleared: nothing else is sent.
                row -= up.parse::<usize>().unwrap_or_else(|_| panic!("{sequence:?}"));
                rows.truncate(row + 1);
                rows[row].truncate(column);
            }
            other => {
                if column == columns {
                    (row, column) = (row + 1, 0);
                }
                rows.resize_with(rows.len().max(row + 1), Vec::new);
                let at = &mut rows[row];
                at.resize(at.len().max(column + 1), ' ');
                at[column] = other;
                column += 1;
            }
        }
        rows.resize_with(rows.len().max(row + 1), Vec::new);
    }
    rows.into_iter().map(|row| row.into_iter().collect()).collect()
}

#[test]
fn make_run_draws_a_pull_on_a_terminal_and_leaves_nothing_of_it() {
    const COLUMNS: usize = 50;
    let node = TestNode::builder().without_agent().start();
    let project = Project::new();
    for entry in fs::read_dir(project.dir.path().join("manifests")).expect("made").flatten() {
        fs::remove_file(entry.path()).expect("removed");
    }
    let registry = ScriptedRegistry::on(node.inside(|| TcpListener::bind("127.0.0.1:0")).expect("a port is free"));
    let noise: Vec<u8> = (0_u32..1 << 19).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = Image::busybox("any:1").expect("busybox-static is installed").cmd(&["sh", "-c", OBEDIENT]);
    let layer = Tarball::new().file("noise", 0o644, &noise).bytes();
    let name = registry.push("a/repository/with/a/name/that/is/long", "v1", &Layout::of(&[image.layer(layer)]));
    registry.slow(300 << 10);
    fs::write(project.dir.path().join("manifests/a.yaml"), pod("a").field("image", json!(name)).text())
        .expect("written");
    let mut shown = project.run_on_terminal(&node, COLUMNS);
    let now = || screen(&fs::read_to_string(project.dir.path().join("said")).unwrap_or_default(), COLUMNS);
    let drawn = wait_for("the bar is drawn", || {
        let rows = now();
        // Folded where the terminal ends.
        let all = rows.concat();
        let whole = all.contains("[###") && all.contains("-]") && all.contains("% (") && all.contains(", layer ");
        if whole && all.contains("iB/s, ") && all.contains("s left") { Ok(rows) } else { Err(rows.join("\n")) }
    });
    registry.slow(0);
    project.wait_said(&mut shown, "Every pod is running");
    let rows = now();
    let count = |part: &str| rows.iter().filter(|row| row.contains(part)).count();
    assert_eq!((count("NAMESPACE"), count("[##"), count("left")), (1, 0, 0), "{drawn:#?}\nand then {rows:#?}");
    assert_eq!(count("1/1"), 1, "{rows:#?}");
    project.stop(&node);
    shown.wait().expect("an own child can be waited for");
}

#[test]
fn what_is_pulled_is_drawn_from_the_table_of_images() {
    let table = "IMAGE   SIZE   STATE   FILE\n\
                 busybox:1   1.0 MiB   Imported   busybox.tar\n\
                 r:5000/a:1   300.0 MiB   Pulling: 45% (135.0 MiB of 300.0 MiB), layer 4 of 10, 5.1 MiB/s, 32s left   <none>\n\
                 b:1   300.0 MiB   Pulling: 100% (300.0 MiB of 300.0 MiB), layer 10 of 10, unpacking   <none>\n\
                 c:1   0 B   Pulling: asks the registry   <none>\n\
                 d:1   0 B   BackOff: 12% of it came, then nothing   <none>\n";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/pulls.awk");
    let draw = |columns: u32| {
        let mut awk = Command::new("sh");
        awk.args(["-c", "printf %s \"$0\" | awk -v columns=\"$2\" -f \"$1\"", table]).arg(&program);
        client::run(awk.arg(columns.to_string())).ok().out
    };
    let rest = "c:1  Pulling: asks the registry\nd:1  BackOff: 12% of it came, then nothing\n";
    let wide = "r:5000/a:1\n[##########-------------] 45% (135.0 MiB of 300.0 MiB), layer 4 of 10, 5.1 MiB/s, 32s left\n\
                b:1\n[###############################] 100% (300.0 MiB of 300.0 MiB), layer 10 of 10, unpacking\n";
    assert_eq!(draw(90), format!("{wide}{rest}"));
    assert!(draw(20).contains("\n[##---] 45% (135.0 MiB"), "{}", draw(20));
    assert_eq!(draw(0), format!("r:5000/a:1  Pulling: 40%\nb:1  Pulling: 100%\n{rest}"));
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
