//! Where the time of one run goes, on a containerd that is already there: ours beside containerd's own.
//!
//! `create_times SOCKET NAMESPACE IMAGE [RUNS]` prints medians in milliseconds of create, start and delete of a
//! container that ends at once, and of observing it; the log shows the parts of each create. It leaves
//! nothing behind.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use agent::runtime::containerd::{Config, Containerd};
use agent::seams::{CgroupParent, CreateRun, ImageWanted, Runtime as _, Sandbox};
use pod::desired::{Origin, Source};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::record::{Lifecycle, Record};
use pod::spec::{Container, Placement, PodSpec, PodTemplate, PullPolicy, Resources, RestartPolicy, Security};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, socket, namespace, image, rest @ ..] = &words[..] else {
        eprintln!("usage: create_times SOCKET NAMESPACE IMAGE [RUNS]");
        std::process::exit(2);
    };
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let runs: u32 = rest.first().and_then(|text| text.parse().ok()).unwrap_or(20);
    let runtime = Containerd::open(Config { namespace: namespace.clone(), ..Config::new(socket, "node") })
        .expect("the namespace is valid");
    let dir = std::env::temp_dir().join(format!("create-times-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("made");

    let uid = Uid(uuid::Uuid::new_v4().to_string());
    let container = Container {
        name: "main".into(),
        image: image.clone(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec!["true".into()],
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
            containers: vec![container.clone()],
            volumes: vec![],
            restart_policy: RestartPolicy::Never,
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
        workload: WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: "times".into() },
        name: "times-node".into(),
        revision: "r".into(),
        origin: Origin { source: Source::Static, file: String::new(), line: 1 },
        document: serde_json::Value::Null.into(),
        admitted_at: jiff::Timestamp::UNIX_EPOCH,
        generation: 1,
        boot_id: String::new(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Default::default(),
    };
    let cgroup = format!("/create-times-{uid}");
    let sandbox = Sandbox { cgroup: CgroupParent::Cgroupfs(cgroup.clone()), ..Sandbox::default() };
    runtime.prepare_image(ImageWanted::quietly(&container)).await.expect("the image is there");

    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for attempt in 0..runs {
        let pipe = |name: &str| {
            let path = dir.join(format!("{attempt}-{name}"));
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
            let mut options = std::fs::OpenOptions::new();
            let reader = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).expect("opened");
            (path, reader)
        };
        let ((stdout, _out), (stderr, _err)) = (pipe("out"), pipe("err"));
        let run = CreateRun {
            run: RunKey { uid: uid.clone(), container: "main".into(), attempt },
            workload: &record.workload,
            record: &record,
            template: &template,
            container: &container,
            sandbox: &sandbox,
            stdout,
            stderr,
            not_refreshed: "",
        };
        let id = run.run.container_id();
        let mut took = |name: &'static str, from: Instant| times.entry(name).or_default().push(from.elapsed());
        let from = Instant::now();
        runtime.create(&run).await.expect("created");
        took("1 create", from);
        let from = Instant::now();
        runtime.observe(Some(&record.workload)).await.expect("observed");
        took("2 observe", from);
        let from = Instant::now();
        runtime.start(&id).await.expect("started");
        took("3 start", from);
        let from = Instant::now();
        runtime.delete(&id).await.expect("deleted");
        took("4 delete", from);
    }
    for (name, mut all) in times {
        all.sort();
        let ms = |at: usize| all[at.min(all.len() - 1)].as_secs_f64() * 1000.0;
        println!("{name}: median {:.1} ms, from {:.1} to {:.1}", ms(all.len() / 2), ms(0), ms(all.len()));
    }
    std::fs::remove_dir_all(&dir).expect("removed");
    for root in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten() {
        let _ = std::fs::remove_dir(root.path().join(&cgroup[1..]));
    }
}
