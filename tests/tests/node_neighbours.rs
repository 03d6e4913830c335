//! Beside others on one machine: a Docker on the same containerd, iptables and cgroups notices nothing of our pods' lives and deaths.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tests::audit::cgroups_under;
use tests::client::{self, Output};
use tests::manifest::pod;
use tests::node::TestNode;
use tests::process::Process;
use tests::skip::skipped;
use tests::wait::wait_for;

/// A Docker daemon on a test's node: its containerd and its network namespace, directories below the node's. It holds no borrow of
/// the node, which goes on living and dying beside it.
struct Docker {
    bin: PathBuf,
    netns: String,
    dir: PathBuf,
    cgroup: String,
    daemon: Child,
}

impl Docker {
    /// `None` where there is none: `scripts/docker.sh`, which `make test` calls, says where one lies.
    fn start(node: &TestNode) -> Option<Docker> {
        let bin = PathBuf::from(std::env::var_os("DAEMONLET_TEST_DOCKER_BIN").filter(|bin| !bin.is_empty())?);
        let (dir, netns) = (node.dir().join("docker"), node.id().to_owned());
        std::fs::create_dir_all(&dir).expect("an own directory");
        let cgroup = format!("{netns}-docker");
        let mut command = inside(&netns, &bin, "dockerd");
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(dir.join(name));
        }
        command.arg("--containerd").arg(node.containerd_socket());
        command.args(["--cgroup-parent", &format!("/{cgroup}")]);
        command.args(["--host", &host(&dir), "--bip", "198.19.200.1/24", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        let log = std::fs::File::create(node.dir().join("docker.log")).expect("an own file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let docker = Docker { bin, netns, dir, cgroup, daemon: command.spawn().expect("nsenter is installed") };
        wait_for("Docker answers", || match docker.run(&["version"]) {
            Output { code: 0, .. } => Ok(()),
            other => Err(format!("{}{}", other.err, node.tail("docker.log"))),
        });
        Some(docker)
    }

    fn run(&self, words: &[&str]) -> Output {
        client::run(inside(&self.netns, &self.bin, "docker").args(["--host", &host(&self.dir)]).args(words))
    }

    /// What Docker knows of a container's life: its process, state and restarts, and everything that happened to it, the last of
    /// which is known. (Docker shows an event only when its second is over.)
    fn life(&self, name: &str, last: &str) -> (String, String) {
        let state =
            self.run(&["inspect", "-f", "{{.Id}} {{.State.Pid}} {{.State.Status}} {{.RestartCount}}", name]).ok().out;
        let filter = format!("container={name}");
        let events = wait_for("Docker shows its last event", || {
            let out = self.run(&["events", "--since", "0", "--until", "0s", "--filter", &filter]).ok().out;
            let ended = out.lines().last().is_some_and(|line| line.contains(&format!("container {last} ")));
            if ended { Ok(out) } else { Err(out) }
        });
        (state, events)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for id in self.run(&["ps", "-aq"]).out.lines() {
            self.run(&["rm", "-f", id]);
        }
        if let Some(process) = Process::find(self.daemon.id() as i32) {
            process.signal(Signal::SIGTERM);
        }
        // It ends its own helpers; the harness unmounts what lies below the node's directory.
        let _ = self.daemon.wait();
        for cgroup in cgroups_under(&self.cgroup) {
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

/// A program of Docker's in the node's network namespace; it finds its own ones (docker-proxy, docker-init) beside it.
fn inside(netns: &str, bin: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(bin.join(program));
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
    command
}

fn host(dir: &Path) -> String {
    format!("unix://{}", dir.join("docker.sock").display())
}

/// The node's rules without what concerns only our own bridge.
fn rules_of_others(node: &TestNode) -> Vec<String> {
    let rules = client::run(&mut node.command("iptables-save")).ok().out;
    rules.lines().filter(|line| line.starts_with("-A") && !line.contains("daemonlet")).map(str::to_owned).collect()
}

#[test]
fn docker_on_the_same_containerd_and_iptables_notices_nothing() {
    let mut node = TestNode::builder().without_agent().start();
    let Some(docker) = Docker::start(&node) else {
        skipped("DAEMONLET_TEST_DOCKER_BIN names no Docker; scripts/docker.sh fetches one");
        return;
    };
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let files = tests::image::Tarball::new().dir("www", 0o755).file("www/index.html", 0o644, b"docker\n");
    let rootfs = node.dir().join("rootfs.tar");
    std::fs::write(&rootfs, files.file("busybox", 0o755, &busybox).bytes()).expect("an own file");
    docker.run(&["import", &rootfs.display().to_string(), "neighbour:1"]).ok();
    docker.run(&["run", "-d", "--name", "neighbour", "neighbour:1", "/busybox", "httpd", "-f", "-h", "/www"]).ok();
    let address = docker.run(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "neighbour"]).ok().out;
    let (before, rules) = (docker.life("neighbour", "start"), rules_of_others(&node));

    // A pod's whole life beside it, with the agent's death in the middle, and one that is killed.
    node.start_agent();
    node.wait_agent();
    node.put("a.yaml", &pod("a").own_network().text());
    node.put("b.yaml", &pod("b").text());
    let (a, b) = (node.wait_running("a"), node.wait_running("b"));
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {} 80", address.trim());
    let asked = node.exec(node.process(&b), &["sh", "-c", &ask]);
    assert!(asked.out.contains("docker"), "the node reaches Docker's container: {asked:?}");
    node.process(&b).kill_9();
    node.wait_pod("b", "runs again", |pod| pod.running() && pod.restarts() == 1);
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    assert_eq!(node.process(&node.wait_running("a")), node.process(&a));
    assert_eq!(docker.life("neighbour", "start"), before);

    // The other way round: Docker's restart of its container, with the same containerd, is nothing to us.
    docker.run(&["restart", "-t", "0", "neighbour"]).ok();
    let restarted = docker.life("neighbour", "restart");
    assert_eq!(node.process(&node.wait_running("a")), node.process(&a));
    node.remove("a.yaml");
    node.remove("b.yaml");
    node.wait_no_pod("a");
    node.wait_no_pod("b");
    assert_eq!(docker.life("neighbour", "restart"), restarted);
    assert_eq!(rules_of_others(&node), rules);
    drop(docker);
    node.wait_nothing_left();
}

/// A kubelet's pod as its container runtime knows it, with logs in the same directory as ours: our pods' whole lives, the log
/// budget, and the deaths of agent and keeper are nothing to it.
#[test]
fn what_a_kubelet_has_in_containerd_cgroups_and_logs_is_not_touched() {
    const NAMESPACE: &str = "k8s.io";
    let mut node = TestNode::builder()
        .flag("--log-max-size", "16Ki")
        .flag("--log-max-files", "2")
        .flag("--log-budget", "64Ki")
        .without_agent()
        .start();
    let (id, uid) = (format!("{}-neighbour", node.id()), "0a1b2c3d-0000-4000-8000-000000000001");
    let archive = node.image_dir().join("busybox.tar").display().to_string();
    node.ctr_in(NAMESPACE, &["images", "import", &archive]).ok();
    let cgroup = format!("{}/kubepods/besteffort/pod{uid}/{id}", node.cgroup_root);
    let mut words = vec!["run", "-d", "--cgroup", &cgroup];
    for label in [
        "io.cri-containerd.kind=container",
        "io.kubernetes.pod.namespace=kube-system",
        "io.kubernetes.pod.name=neighbour",
    ] {
        words.extend(["--label", label]);
    }
    words.extend([tests::stand_in::BUSYBOX, &id, "sleep", "100000"]);
    node.ctr_in(NAMESPACE, &words).ok();
    let neighbour = wait_for("the neighbour's process", || {
        let tasks = node.ctr_in(NAMESPACE, &["tasks", "ls"]).out;
        let pid = tasks
            .lines()
            .find(|line| line.starts_with(&id))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        pid.and_then(Process::find).ok_or(tasks)
    });
    let known = node.ctr_in(NAMESPACE, &["containers", "info", &id]).ok().out;
    // Larger than our whole budget, and older than whatever we write.
    let logs = node.log_dir().join(format!("pods/kube-system_neighbour_{uid}/main"));
    std::fs::create_dir_all(&logs).expect("an own directory");
    for name in ["0.log", "0.log.20260101-000000", "1.log"] {
        std::fs::write(logs.join(name), "neighbour\n".repeat(10_000)).expect("an own file");
    }
    let links = node.log_dir().join("containers");
    std::fs::create_dir_all(&links).expect("an own directory");
    let link = links.join("neighbour_kube-system_main-0123.log");
    std::os::unix::fs::symlink(logs.join("1.log"), &link).expect("an own link");

    node.start_agent();
    node.wait_agent();
    let chatty = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exec sleep 100000";
    node.put("a.yaml", &pod("a").field("command", serde_json::json!(["sh", "-c", chatty])).text());
    let ours = node.wait_running("a");
    node.wait_log(&ours, "main", "line 19999");
    node.kill_agent();
    node.keeper().expect("the keeper goes on").signal(Signal::SIGKILL);
    node.start_agent();
    node.wait_agent();
    node.process(&node.wait_running("a")).kill_9();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    node.wait_log(&again, "main", "line 19999");
    let kept: u64 = std::fs::read_dir(node.log_file(&again, "main", 1).parent().expect("it lies in a directory"))
        .expect("it is there")
        .flatten()
        .map(|entry| entry.metadata().map_or(0, |found| found.len()))
        .sum();
    assert!(kept > 16 << 10, "the neighbour's bytes are not counted as ours: {kept} left");
    node.remove("a.yaml");
    node.wait_no_pod("a");

    assert!(neighbour.alive());
    assert_eq!(node.ctr_in(NAMESPACE, &["containers", "info", &id]).ok().out, known);
    for name in ["0.log", "0.log.20260101-000000", "1.log"] {
        assert_eq!(std::fs::metadata(logs.join(name)).map(|found| found.len()).ok(), Some(100_000), "{name}");
    }
    assert!(link.exists());
    node.ctr_in(NAMESPACE, &["tasks", "rm", "-f", &id]).ok();
    node.ctr_in(NAMESPACE, &["containers", "rm", &id]).ok();
    neighbour.wait_gone(tests::wait::PATIENCE);
}
