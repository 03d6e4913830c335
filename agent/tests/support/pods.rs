//! A private containerd for one test, and pods to run in it. Everything has its own names and is gone at the end.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::runtime::containerd::{Config, Containerd};
use agent::seams::{CgroupParent, CreateRun, Runtime as _, Sandbox, Wake};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use pod::desired::{Origin, Source};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::ContainerState;
use pod::record::{Lifecycle, Record};
use pod::spec::{
    Container, HostPathKind, Placement, PodSpec, PodTemplate, PullPolicy, Resources, RestartPolicy, Security, Volume,
    VolumeMount, VolumeSource,
};
use tests::image::{Image, oci_archive};
use tests::process::Process;
use tests::wait::wait_for;

/// How long anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const IMAGE: &str = "docker.io/library/small:1";

/// A containerd with its own root, state, socket and namespace.
pub struct TestContainerd {
    dir: tempfile::TempDir,
    /// containerd's namespace and the root of our cgroups.
    pub namespace: String,
    child: Option<Child>,
}

impl TestContainerd {
    /// Started, with the image `docker.io/library/small:1` (busybox) in it.
    pub fn start() -> TestContainerd {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let dir = tempfile::Builder::new().prefix("dl-").tempdir_in("/tmp").expect("temporary directory");
        let mut it = TestContainerd { dir, namespace: format!("t{}", &unique[..12]), child: None };
        let at = it.dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\noom_score = 0\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\n  address = \"{at}/c.sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{at}/opt\"\n"
        );
        fs::write(it.dir.path().join("config.toml"), config).expect("written");
        it.up();
        it.import(&Image::busybox(IMAGE).expect("busybox-static is installed"));
        it
    }

    pub fn import(&self, image: &Image) {
        let file = self.dir.path().join("image.tar");
        fs::write(&file, oci_archive(std::slice::from_ref(image))).expect("written");
        let file = file.to_str().expect("text").to_owned();
        let out = self.ctr(&["images", "import", &file]);
        assert!(out.0, "import: {}", out.1);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts containerd and waits until it answers.
    pub fn up(&mut self) {
        let log = OpenOptions::new().append(true).create(true).open(self.dir.path().join("log")).expect("opened");
        let child = Command::new("containerd")
            .arg("-c")
            .arg(self.dir.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        self.child = Some(child);
        wait_for("containerd answers", || {
            let (ok, text) = self.ctr(&["version"]);
            if ok { Ok(()) } else { Err(text) }
        });
    }

    /// Kills containerd; shims and containers stay.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// containerd's own process.
    pub fn process(&self) -> Process {
        let child = self.child.as_ref().expect("it is up");
        Process::find(i32::try_from(child.id()).expect("a pid")).expect("it lives")
    }

    /// Where runc keeps what it knows of a container.
    pub fn runc_state(&self, id: &str) -> PathBuf {
        Path::new("/run/containerd/runc").join(&self.namespace).join(id)
    }

    pub fn ctr(&self, words: &[&str]) -> (bool, String) {
        let out = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--connect-timeout", "2s", "--namespace", &self.namespace])
            .args(words)
            .output()
            .expect("ctr is installed");
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Lines of a listing without its header.
    pub fn rows(&self, words: &[&str]) -> Vec<String> {
        let (ok, text) = self.ctr(words);
        assert!(ok, "{text}");
        text.lines().skip(1).map(str::to_owned).collect()
    }

    /// Our runtime over it.
    pub fn open(&self) -> Containerd {
        self.open_with(|_| {})
    }

    pub fn open_with(&self, change: impl FnOnce(&mut Config)) -> Containerd {
        let mut config = Config::new(self.socket(), "node-1");
        change(&mut config);
        let (state_dir, run_dir) = (self.dir.path().join("agent"), self.dir.path().join("agent-run"));
        Containerd::open(Config { namespace: self.namespace.clone(), state_dir, run_dir, ..config })
            .expect("the namespace is valid")
    }

    /// Pids of this containerd's shims, those that serve containers.
    pub fn shims(&self) -> Vec<i32> {
        let socket = self.socket().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            // The same program's commands come and go.
            let serves = !line.split('\0').any(|word| word == "start" || word == "delete");
            if serves && line.contains("containerd-shim") && line.contains(&socket) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for TestContainerd {
    fn drop(&mut self) {
        // A test that failed may have left something stopped, for which ctr would wait for ever.
        for stopped in self.shims().into_iter().chain(self.child.as_ref().and_then(|it| it.id().try_into().ok())) {
            let _ = kill(Pid::from_raw(stopped), Signal::SIGCONT);
        }
        if self.child.is_none() {
            self.up();
        }
        for id in self.ctr(&["containers", "list", "-q"]).1.lines() {
            self.ctr(&["tasks", "rm", "-f", id]);
            self.ctr(&["containers", "rm", id]);
        }
        self.down();
        for shim in self.shims() {
            let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
        }
        let below = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|it| it.starts_with(&below)) {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
        remove_cgroups(&self.namespace);
        // runc's state is the machine's, not this containerd's; empty, once its containers are gone.
        let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(&self.namespace));
    }
}

/// The cgroup of this name in every hierarchy, with what is below.
fn remove_cgroups(name: &str) {
    let roots = fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten().map(|entry| entry.path());
    for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove_tree(&root.join(name));
    }
}

fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// A pod with one container `main`, and what is needed to run it.
pub struct TestPod {
    pub record: Record,
    pub template: PodTemplate,
    pub sandbox: Sandbox,
    dir: PathBuf,
}

impl TestPod {
    /// `sh -c script` in the test image.
    pub fn new(node: &TestContainerd, name: &str, script: &str) -> TestPod {
        let uid = Uid(uuid::Uuid::new_v4().to_string());
        let container = Container {
            name: "main".into(),
            image: IMAGE.into(),
            pull_policy: PullPolicy::IfNotPresent,
            command: vec!["sh".into(), "-c".into(), script.into()],
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
        let template = PodTemplate {
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: PodSpec {
                containers: vec![container],
                volumes: vec![],
                restart_policy: RestartPolicy::Always,
                termination_grace: Duration::from_secs(30),
                active_deadline: None,
                host_network: true,
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
        };
        let record = Record {
            uid: uid.clone(),
            workload: WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: name.into() },
            name: format!("{name}-node-1"),
            revision: "r1".into(),
            origin: Origin { source: Source::Static, file: "test.yaml".into(), line: 1 },
            document: serde_json::Value::Null.into(),
            admitted_at: jiff::Timestamp::UNIX_EPOCH,
            generation: 1,
            boot_id: String::new(),
            lifecycle: Lifecycle::Running,
            containers: BTreeMap::new(),
            course: Default::default(),
        };
        let sandbox = Sandbox {
            cgroup: CgroupParent::Cgroupfs(format!("/{}/pod{uid}", node.namespace)),
            hostname: "the-host".into(),
            ..Sandbox::default()
        };
        let dir = node.path().join(format!("pod-{uid}"));
        fs::create_dir_all(&dir).expect("made");
        TestPod { record, template, sandbox, dir }
    }

    pub fn main(&mut self) -> &mut Container {
        &mut self.template.spec.containers[0]
    }

    /// A second container in the same pod.
    pub fn add(&mut self, name: &str) {
        let mut more = self.template.spec.containers[0].clone();
        more.name = name.into();
        self.template.spec.containers.push(more);
    }

    /// Mounts a host path.
    pub fn host_path(&mut self, name: &str, host: &str, place: &str) {
        self.sandbox.volumes.insert(name.into(), host.into());
        let mount = VolumeMount { volume: name.into(), mount_path: place.into(), ..VolumeMount::default() };
        self.main().mounts.push(mount);
    }

    /// Mounts a host path of this type.
    pub fn host_path_of(&mut self, kind: HostPathKind, name: &str, host: &str, place: &str) {
        let source = VolumeSource::HostPath { path: host.into(), kind };
        self.template.spec.volumes.push(Volume { name: name.into(), source });
        self.host_path(name, host, place);
    }

    /// One run of the container at this index, with its output pipes open.
    pub fn run(&self, index: usize, attempt: u32) -> TestRun<'_> {
        let container = &self.template.spec.containers[index];
        let run = RunKey { uid: self.record.uid.clone(), container: container.name.clone(), attempt };
        fs::create_dir_all(&self.dir).expect("made");
        let pipe = |name: &str| {
            let path = self.dir.join(format!("{}-{attempt}-{name}", run.container));
            if !path.exists() {
                mkfifo(&path, Mode::S_IRWXU).expect("made");
            }
            let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).expect("opened");
            (path, reader)
        };
        let ((stdout, out), (stderr, err)) = (pipe("out"), pipe("err"));
        let create = CreateRun {
            run,
            workload: &self.record.workload,
            record: &self.record,
            template: &self.template,
            container,
            sandbox: &self.sandbox,
            stdout,
            stderr,
            not_refreshed: "",
        };
        TestRun { create, out, err, text: String::new() }
    }
}

pub struct TestRun<'a> {
    pub create: CreateRun<'a>,
    out: File,
    err: File,
    text: String,
}

impl TestRun<'_> {
    pub fn id(&self) -> String {
        self.create.run.container_id()
    }

    /// All output so far, of both streams.
    pub fn output(&mut self) -> &str {
        for pipe in [&mut self.out, &mut self.err] {
            let mut bytes = [0; 65536];
            while let Ok(n) = pipe.read(&mut bytes) {
                if n == 0 {
                    break;
                }
                self.text.push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        }
        &self.text
    }

    /// Creates and starts.
    pub async fn go(&self, runtime: &Containerd) -> u32 {
        runtime.create(&self.create).await.expect("created");
        runtime.start(&self.id()).await.expect("started")
    }

    /// Runs to its end; exit code and output.
    pub async fn finish(&mut self, runtime: &Containerd) -> (u32, String) {
        self.go(runtime).await;
        let code = exit_code(runtime, &self.create.run).await;
        (code, self.output().to_owned())
    }
}

/// The state of one run, as observed by asking for all.
pub async fn state(runtime: &Containerd, run: &RunKey) -> Option<ContainerState> {
    let all = runtime.observe(None).await.expect("observed");
    all.into_iter().find(|it| it.run == *run).map(|it| it.state)
}

/// Waits for the run's end.
pub async fn exit_code(runtime: &Containerd, run: &RunKey) -> u32 {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = state(runtime, run).await;
        if let Some(ContainerState::Exited { exit_code, .. }) = seen {
            return exit_code;
        }
        assert!(Instant::now() < end, "{run} has not ended: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a wake that satisfies.
pub async fn woken(runtime: &Containerd, what: &str, wanted: impl Fn(&Wake) -> bool) {
    let wait = async { while !wanted(&runtime.wake().await) {} };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no wake: {what}"));
}
