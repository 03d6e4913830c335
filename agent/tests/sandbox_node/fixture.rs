//! A node to test on: a thread in a new network namespace with directories and a cgroup root of its own; and pods for it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::sandbox::{Cluster, Config, Driver, NodeFiles, NodeSandboxes};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use pod::desired::{Origin, Source};
use pod::name::{Uid, WorkloadKey, WorkloadKind};
use pod::record::{Lifecycle, Record};
use pod::spec::*;

pub const PLUGINS: &str = "/usr/lib/cni";

pub struct Node {
    pub dir: tempfile::TempDir,
    pub cgroup_root: String,
    /// Where plugins are looked for; a test puts its stand-ins here.
    pub bin_dir: PathBuf,
}

impl Node {
    pub fn config(&self) -> Config {
        Config {
            run_dir: self.dir.path().join("run"),
            state_dir: self.dir.path().join("state"),
            node_name: "node".into(),
            cgroup_root: self.cgroup_root.clone(),
            cgroup_driver: Driver::Cgroupfs,
            pod_max_pids: Some(5000),
            cni_bin_dirs: vec![self.bin_dir.clone(), PLUGINS.into()],
            cni_conf_dir: self.dir.path().join("net.d"),
            pod_cidrs: vec!["198.18.0.0/15".parse().unwrap()],
            bridge: "daemonlet0".into(),
            node_files: NodeFiles { etc: self.dir.path().join("etc"), resolved: self.dir.path().join("resolved") },
            keeper: tests::node::program("daemonlet-logkeeper"),
            allowed: agent::allowed::Allowed::default(),
            cluster: Cluster::default(),
        }
    }

    pub fn open(&self) -> NodeSandboxes {
        NodeSandboxes::open(self.config()).unwrap()
    }

    pub fn pod_dir(&self, record: &Record) -> PathBuf {
        self.dir.path().join("run/pods").join(&record.uid.0)
    }

    /// Addresses that host-local has given out.
    pub fn reserved(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("run/cni/daemonlet")).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().into_string().unwrap());
        names.filter(|n| n.parse::<IpAddr>().is_ok()).collect()
    }

    /// A script that stands before the real bridge plugin.
    pub fn stand_in(&self, script: &str) {
        let path = self.bin_dir.join("bridge");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn mounts(&self) -> Vec<PathBuf> {
        let root = self.dir.path().canonicalize().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
        points.filter(|point| point.starts_with(&root)).collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path().join(&self.cgroup_root));
        mounts.chain([Path::new("/sys/fs/cgroup").join(&self.cgroup_root)]).filter(|path| path.exists()).collect()
    }
}

impl Drop for Node {
    /// After a failed test too: nothing of it stays on the machine.
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
        for root in self.cgroups() {
            let _ = Command::new("find").arg(root).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).status();
        }
    }
}

/// Runs the test on a thread with a network namespace and a runtime of its own, closes the node down and looks around.
pub fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<Node>) -> F + Send + 'static) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let dir = tempfile::Builder::new().prefix("daemonlet-sandbox").tempdir().unwrap();
        let bin_dir = dir.path().join("bin");
        fs::create_dir(&bin_dir).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/hosts"), "127.0.0.1 localhost\n198.18.9.9 neighbour\n").unwrap();
        fs::write(dir.path().join("etc/resolv.conf"), "nameserver 198.18.0.53\n").unwrap();
        let cgroup_root = format!("daemonlet_test_{}_{number}", std::process::id());
        let node = std::sync::Arc::new(Node { dir, cgroup_root, bin_dir });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            test(node.clone()).await;
            fs::remove_file(node.bin_dir.join("bridge")).ok();
            assert_eq!(node.reserved(), [""; 0], "addresses are left");
            node.open().close_down().await.unwrap();
        });
        assert_eq!(node.mounts(), Vec::<PathBuf>::new(), "mounts are left");
        assert_eq!(node.cgroups(), Vec::<PathBuf>::new(), "cgroups are left");
        // The kernel ends a network namespace, and with it the node's half of a pair, after the last mount of it is gone.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            if !links.contains("veth") && !links.contains("daemonlet0") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "links are left: {links}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    std::thread::spawn(body).join().unwrap();
}

pub fn record(uid: &str, name: &str) -> Record {
    Record {
        uid: Uid(uid.into()),
        workload: WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: name.into() },
        name: name.into(),
        revision: "r".into(),
        origin: Origin { source: Source::Static, file: "f".into(), line: 1 },
        document: serde_json::Value::Null.into(),
        admitted_at: jiff::Timestamp::UNIX_EPOCH,
        generation: 1,
        boot_id: "b".into(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Default::default(),
    }
}

/// A record with a uid that no other test uses.
pub fn pod(name: &str) -> Record {
    record(&format!("{:032x}", std::collections::hash_map::RandomState::new().hash(name)), name)
}

trait HashName {
    fn hash(&self, name: &str) -> u64;
}

impl HashName for std::collections::hash_map::RandomState {
    fn hash(&self, name: &str) -> u64 {
        std::hash::BuildHasher::hash_one(self, name)
    }
}

pub fn template() -> PodTemplate {
    let container = Container {
        name: "main".into(),
        image: "image".into(),
        pull_policy: PullPolicy::Never,
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        env_from: vec![],
        resources: Resources::default(),
        resize_policy: Default::default(),
        mounts: vec![],
        security: Security::default(),
        ports: vec![],
        stdin: false,
        tty: false,
        role: Default::default(),
        probes: Default::default(),
        hooks: Default::default(),
        last_words: Default::default(),
    };
    PodTemplate {
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: PodSpec {
            containers: vec![container],
            volumes: vec![],
            restart_policy: RestartPolicy::Always,
            termination_grace: Duration::from_secs(30),
            active_deadline: None,
            host_network: false,
            host_pid: false,
            host_ipc: false,
            own_users: false,
            share_processes: false,
            sysctls: Default::default(),
            priority: 0,
            priority_class: None,
            runtime_class: None,
            placement: Placement::default(),
            naming: Default::default(),
            image_pull_secrets: Vec::new(),
            resources: None,
        },
    }
}

/// What a command prints inside a pod's namespace.
pub fn inside(kind: &str, file: &Path, command: &[&str]) -> String {
    let output = Command::new("nsenter").arg(format!("--{kind}={}", file.display())).args(command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
