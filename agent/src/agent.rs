//! The composition root: makes everything, joins it, and waits for the end. The only place that names all modules.
//!
//! Order at start: doors (one agent a run directory), records, sources, then READY. Nothing waits for containerd, for
//! the network or for a pod. Order at the end: no new steps, steps in flight finish, doors close; containers run on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use pod::manifest::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::allowed::Allowed;
use crate::board::{Board, Check, ImageOutcome};
use crate::checkpoint::{self, Checkpoint, Sealing};
use crate::collect::Collector;
use crate::config::{self, Config, Following, Settings};
use crate::contents;
use crate::desired;
use crate::disk::Disk;
use crate::doctor;
use crate::drain::Drain;
use crate::events::{self, About, Event, Severity};
use crate::exec;
use crate::execute::chain;
use crate::gate::Gate;
use crate::http::Doors;
use crate::image_pull::ImagePull;
use crate::image_words;
use crate::logs::{self, Pipes};
use crate::records::Records;
use crate::refusals::Refusals;
use crate::registry;
use crate::runtime::containerd::images::Images;
use crate::runtime::containerd::seccomp::Abi;
use crate::runtime::containerd::{self, Containerd, MemoryPolicy, OciRuntime};
use crate::sandbox::watch::Finding;
use crate::sandbox::{self, NodeSandboxes};
use crate::seams::{Clock, Machine, SystemClock};
use crate::shutdown;
use crate::sources::remote::Remote;
use crate::sources::{image_dir, static_dir};
use crate::storage::Storage;
use crate::turns::Turns;
use crate::uplink::{self, Uplink};
use crate::worker::{self, Shared};
use crate::workers::{BEAT, Directory, Workers};

/// How long steps in flight may take once the agent is to stop; systemd's own patience is longer. What is cut short is
/// completed or replaced by the next start.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The checkpoint takes a few milliseconds, one that is sealed 50 more. Nothing is merged meanwhile.
const OPENED_WITHIN: Duration = Duration::from_secs(1);

/// Silence of the workers' loop after which the agent says that it hangs.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The real machine.
pub struct NodeMachine {
    runtime: Containerd,
    sandboxes: NodeSandboxes,
    logs: Pipes,
    boot_id: String,
}

impl Machine for NodeMachine {
    type Runtime = Containerd;
    type Sandboxes = NodeSandboxes;
    type Logs = Pipes;
    type Files = Disk;
    type Clock = SystemClock;

    fn runtime(&self) -> &Containerd {
        &self.runtime
    }

    fn sandboxes(&self) -> &NodeSandboxes {
        &self.sandboxes
    }

    fn logs(&self) -> &Pipes {
        &self.logs
    }

    fn files(&self) -> &Disk {
        &Disk
    }

    fn clock(&self) -> &SystemClock {
        &SystemClock
    }

    fn random(&self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

/// What `main` hands over.
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    /// The flags as given: they win over the configuration file whenever it is read again.
    pub flags: Settings,
    /// The configuration file, followed while the agent runs.
    pub config_file: Option<PathBuf>,
}

/// Runs the agent until SIGTERM or SIGINT. Err only for what makes a start impossible.
pub async fn run(start: Start) -> anyhow::Result<()> {
    let Start { config, flags, config_file } = start;
    let doors = Doors::open(&config.run_dir, config.listen).await?;
    let (board, commands) = Board::new();
    let events = events::kept::Places::new(&config.run_dir, &config.state_dir);
    board.restore_events(events.load(&Disk).await);
    let node_name = node_name(&config)?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read /proc/sys/kernel/random/boot_id: is /proc mounted?")?
        .trim()
        .to_owned();
    let following = config::follow(config.clone(), flags, config_file);
    let records = Records::new(&config.state_dir);
    let context = Context { node_name: node_name.clone() };
    // Opening what is sealed takes a while in which everything else is read.
    let checkpoint = Checkpoint::new(&config.state_dir, Disk).sealed_by(Sealing::default());
    let remote = config.control.is_some().then(|| Remote::new(checkpoint, context.clone()));
    let snapshots = remote.as_ref().map(Remote::snapshots);
    let mut opening = remote.map(|mut remote| {
        tokio::spawn(async move {
            remote.restore().await;
            remote
        })
    });
    let loaded = records.load(&Disk, |record| worker::unusable(record, &context)).await?;
    for (uid, why) in &loaded.damaged {
        tracing::error!(%uid, why, "no generation of a record can be read: its pod is not adopted");
        let message = format!(
            "No generation of the record of pod {uid} is whole: its containers are ended once their workload's source was heard, \
             and a manifest that stands starts a new pod ({why})"
        );
        let about = About { kind: "Node".into(), name: node_name.clone(), ..About::default() };
        let (severity, reason) = (Severity::Warning, worker::UNREADABLE.to_owned());
        board.record(Event { severity, reason, about, message, at: SystemClock.now().wall });
    }

    let store = contents::Store::new(&config.state_dir);
    let random = uuid::Uuid::new_v4().into_bytes();
    let kept = match store.load(&Disk, random).await {
        Ok(kept) => kept,
        // A disk that is full or read-only keeps no daemon from running.
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                "kept ConfigMaps and Secrets cannot be read: they are those of the manifests alone"
            );
            contents::Loaded { salt: random.to_vec(), all: contents::All::new() }
        }
    };

    let allowed = Allowed::new(config.live.allow.clone());
    let machine = machine(&config, &node_name, boot_id, following.clone(), &allowed)?;
    if let Err(error) = machine.sandboxes.free_nobodys_addresses() {
        tracing::warn!(
            reason = error.message,
            "what a killed agent or a power cut left of pods' networks stays for now"
        );
    }
    describe_node(&board, &config, &node_name, &machine);
    let images = machine.runtime.images().clone();
    let (stop, stopping) = watch::channel(false);
    let directory = Directory::default();
    for record in &loaded.records {
        directory.claim(record);
    }
    board.await_first_look(loaded.records.iter().map(|record| record.workload.clone()));
    let shared = Arc::new(Shared {
        machine,
        records,
        gate: Gate::new(starts_at_once()),
        board: board.clone(),
        context: context.clone(),
        directory,
        turns: Turns::default(),
        drain: Drain::new(&config.state_dir),
        contents: watch::Sender::default(),
        stopping,
    });

    // What the endpoint wanted last counts before anything is merged, but a machine that is slow to open it holds up no manifest. Its pods
    // stay as their records say until then.
    let remote = match &mut opening {
        Some(opening) => tokio::time::timeout(OPENED_WITHIN, opening).await.ok(),
        None => None,
    };
    let remote = remote.transpose().context("the control endpoint's checkpoint cannot be read")?;
    let (given, tokens) = snapshots.as_ref().map(|_| watch::channel(uplink::Given::new())).unzip();
    let manifests = static_dir::follow(config.manifest_dir.clone(), context, &config.state_dir);
    // What a record's pod uses is found before any manifest is.
    let contents = contents::counting(&kept.all);
    let (desired_sender, desired_set) =
        watch::channel(pod::desired::DesiredSet { contents, ..pod::desired::DesiredSet::default() });
    let (good, good_contents) = watch::channel(kept.all.clone());
    tokio::spawn(store.follow(Disk, kept.all.clone(), good_contents));
    let merging = desired::Merging {
        node_name: node_name.clone(),
        max_pods: config.max_pods,
        manifests,
        control: snapshots.zip(tokens).map(|(snapshots, tokens)| desired::Control { snapshots, tokens }),
        knows_no_control: config.control.is_none()
            && matches!(config.state_dir.join(checkpoint::DIRECTORY).try_exists(), Ok(false)),
        following: following.clone(),
        shared: shared.clone(),
        allowed,
        desired: desired_sender,
        refusals: Refusals::default(),
        kept: kept.all,
        good,
        salt: kept.salt,
    };
    let (heard, ready) = tokio::sync::oneshot::channel();
    tokio::spawn(desired::follow(merging, heard));
    tokio::spawn(hand_on_secrets(images.clone(), desired_set.clone()));
    tokio::spawn(publish_pulls(board.clone(), images.pulls()));
    images.count_in(board.metrics().clone());
    let collector = Collector::new(images.clone(), config.image_gc, board.clone(), desired_set.clone());
    let collector = Arc::new(collector);
    tokio::spawn(image_words::serve(board.take_image_words(), images.clone(), Arc::clone(&collector)));
    tokio::spawn(exec::serve::follow(board.take_execs(), shared.clone()));
    tokio::spawn(async move { collector.follow(&SystemClock).await });
    let storage = Storage {
        layers: shared.machine.runtime.layers(),
        board: board.clone(),
        state_dir: config.state_dir.clone(),
        log_dir: config.log_dir.clone(),
    };
    tokio::spawn(storage.follow(&SystemClock));
    let (image_outcomes, image_dir) = image_dir::follow(config.image_dir.clone(), images);
    tokio::spawn(image_dir);
    tokio::spawn(publish_images(board.clone(), image_outcomes));
    tokio::spawn(logs::supervise(
        config.run_dir.clone(),
        config.log_dir.clone(),
        keeper_program(&config)?,
        following.clone(),
    ));
    tokio::spawn(publish_config(board.clone(), following));
    tokio::spawn(follow_node_network(board.clone(), shared.machine.sandboxes.clone()));
    tokio::spawn(watch_connections(board.clone(), shared.machine.sandboxes.clone()));
    tokio::spawn(watch_network(board.clone(), config.cni_conf_dir.clone(), config.cni_bin_dirs.clone()));

    if let (Some(url), Some(opening), Some(given)) = (config.control.clone(), opening, given) {
        let settings = uplink::Settings {
            url,
            join_token_file: config.join_token_file.clone(),
            health_advertise: config.health_advertise.clone(),
            node_name,
            state_dir: config.state_dir.clone(),
        };
        board.expect_control(settings.url.to_string());
        let shared = shared.clone();
        tokio::spawn(Box::pin(async move {
            let remote = match remote {
                Some(remote) => remote,
                None => opening.await.expect("a task of ours that panicked is our own bug"),
            };
            Uplink::new(settings, shared, remote, Disk, given).run().await;
        }));
    }

    if !config.shutdown.total.is_zero() {
        tokio::spawn(Box::pin(shutdown::follow(config.shutdown, shared.clone())));
    }

    let progress = Arc::new(AtomicU64::new(0));
    let beat = beat(board.clone(), progress.clone());
    tokio::spawn(watch_progress(board.clone(), progress));
    let workers = tokio::spawn(Workers::new(shared.clone(), desired_set, commands).run(loaded.records, beat));
    let (end_events, events_end) = tokio::sync::oneshot::channel();
    let keeping_events = tokio::spawn(events::kept::keep(Disk, board.clone(), events, events_end));
    let mut doors_stop = stop.subscribe();
    let doors = tokio::spawn(doors.serve(board, async move {
        // An error means that the sender is gone, and with it the agent.
        let _ = doors_stop.wait_for(|stop| *stop).await;
    }));

    // The directory has been tried once, whether or not it is there.
    let _ = ready.await;
    tell_systemd(&[NotifyState::Ready]);
    tracing::info!("ready");
    let ended = until_told_to_stop(workers).await?;
    tell_systemd(&[NotifyState::Stopping]);
    stop.send_replace(true);
    if tokio::time::timeout(STOP_MAX, ended).await.is_err() {
        tracing::warn!("steps in flight were cut short; the next start completes them");
    }
    // Both end within their own bounds.
    drop(end_events);
    let _ = tokio::join!(doors, keeping_events);
    tracing::info!("stopped; containers run on");
    Ok(())
}

/// The workers' task, once a signal says that the agent is to stop. Err when the workers ended by themselves.
async fn until_told_to_stop(mut workers: tokio::task::JoinHandle<()>) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok(workers),
        _ = interrupt.recv() => Ok(workers),
        ended = &mut workers => {
            ended.context("the workers' loop panicked")?;
            anyhow::bail!("the workers' loop ended without having been told to")
        }
    }
}

fn machine(
    config: &Config,
    node_name: &str,
    boot_id: String,
    following: watch::Receiver<Following>,
    allowed: &Allowed,
) -> anyhow::Result<NodeMachine> {
    let mut runtime = containerd::Config::new(&config.containerd, node_name);
    runtime.namespace.clone_from(&config.containerd_namespace);
    runtime.state_dir.clone_from(&config.state_dir);
    runtime.run_dir.clone_from(&config.run_dir);
    runtime.allowed = allowed.clone();
    runtime.seccomp_dir.clone_from(&config.seccomp_dir);
    runtime.seccomp_default = config.seccomp_default;
    runtime.memory =
        MemoryPolicy { single_process_oom_kill: config.single_process_oom_kill, throttled: config.memory_qos };
    runtime.seccomp_abi = if config.seccomp_32_bit { Abi::With32Bit } else { Abi::Native };
    let oci_runtime = |class: &config::RuntimeClass| match class {
        config::RuntimeClass::Program(program) => OciRuntime::by_program(program),
        config::RuntimeClass::Shim(name) => OciRuntime::by_shim(name),
    };
    runtime.classes = config.runtime_classes.iter().map(|(name, class)| (name.clone(), oci_runtime(class))).collect();
    runtime.pulls.rate_limit = config.image_pull_rate_limit;
    runtime.pulls.registry = registry::Settings {
        hosts_dir: Some(config.registry_config.clone()),
        auth_file: config.registry_auth.clone(),
        proxy: registry::Proxy::from_environment(),
        ..registry::Settings::default()
    };
    let pod_cidrs = config.pod_cidrs.iter().map(|cidr| cidr.to_string().parse()).collect::<Result<_, _>>()?;
    let sandboxes = sandbox::Config {
        run_dir: config.run_dir.clone(),
        state_dir: config.state_dir.clone(),
        node_name: node_name.to_owned(),
        cgroup_root: config.cgroup_root.clone(),
        cgroup_driver: sandbox::Driver::detect(),
        pod_max_pids: config.pod_max_pids,
        cni_bin_dirs: config.cni_bin_dirs.clone(),
        cni_conf_dir: config.cni_conf_dir.clone(),
        pod_cidrs,
        bridge: sandbox::BRIDGE.to_owned(),
        node_files: sandbox::NodeFiles::default(),
        keeper: keeper_program(config)?,
        allowed: allowed.clone(),
        cluster: sandbox::Cluster { dns: config.cluster_dns.clone(), domain: config.cluster_domain.clone() },
    };
    Ok(NodeMachine {
        runtime: Containerd::open(runtime)?,
        sandboxes: NodeSandboxes::open(sandboxes)?,
        logs: Pipes::new(&config.run_dir, &config.log_dir, following),
        boot_id,
    })
}

fn describe_node(board: &Board, config: &Config, node_name: &str, machine: &NodeMachine) {
    board.set_node(|node| {
        node.name = node_name.to_owned();
        node.cgroup = cgroup_description();
        node.addresses = machine.sandboxes.node_ips();
        node.boot_id.clone_from(&machine.boot_id);
        node.log_dir.clone_from(&config.log_dir);
        node.manifest_dir.clone_from(&config.manifest_dir);
        node.image_dir.clone_from(&config.image_dir);
        node.state_dir.clone_from(&config.state_dir);
        node.containerd.clone_from(&config.containerd);
        node.containerd_namespace.clone_from(&config.containerd_namespace);
        node.cni_bin_dirs.clone_from(&config.cni_bin_dirs);
        node.cni_conf_dir.clone_from(&config.cni_conf_dir);
        node.pod_cidrs.clone_from(&config.pod_cidrs);
        node.cgroup_root.clone_from(&config.cgroup_root);
        node.registry_config.clone_from(&config.registry_config);
        node.registry_auth.clone_from(&config.registry_auth);
        node.listen = config.listen.to_string();
        node.max_pods = config.max_pods;
        node.shutdown_grace = config.shutdown.total.as_secs();
        node.runtime_classes =
            config.runtime_classes.iter().map(|(name, class)| (name.clone(), class.to_string())).collect();
    });
}

/// `v2/systemd`, for people.
fn cgroup_description() -> String {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let driver = match sandbox::Driver::detect() {
        sandbox::Driver::Systemd => "systemd",
        sandbox::Driver::Cgroupfs => "cgroupfs",
    };
    format!("{}/{driver}", if unified { "v2" } else { "v1" })
}

/// The configured name, the one recorded at the first start, or the hostname, which is recorded now: a node that is
/// renamed by DHCP must not look like another one.
fn node_name(config: &Config) -> anyhow::Result<String> {
    let path = config.state_dir.join("node-name");
    if let Some(name) = &config.node_name {
        return Ok(name.clone());
    }
    if let Ok(recorded) = std::fs::read_to_string(&path) {
        let recorded = recorded.trim();
        if !recorded.is_empty() {
            return Ok(recorded.to_owned());
        }
    }
    let name = config::hostname()?;
    let beside = path.with_extension("new");
    std::fs::create_dir_all(&config.state_dir)
        .and_then(|()| std::fs::write(&beside, format!("{name}\n")))
        .and_then(|()| std::fs::rename(&beside, &path))
        .with_context(|| format!("cannot record the node's name in {}: see --state-dir", path.display()))?;
    Ok(name)
}

/// As many containers are created at once as keep the processors busy: a creation waits for the disk and for fork
/// about as long as it computes.
fn starts_at_once() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) * 2
}

fn keeper_program(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.logkeeper {
        Some(program) => Ok(program.clone()),
        None => {
            let own = std::env::current_exe().context("cannot find this program's own path: see --logkeeper")?;
            Ok(own.parent().unwrap_or(Path::new("/usr/bin")).join("daemonlet-logkeeper"))
        }
    }
}

async fn publish_images(board: Board, mut outcomes: watch::Receiver<Vec<ImageOutcome>>) {
    while outcomes.changed().await.is_ok() {
        let newest = outcomes.borrow_and_update().clone();
        board.set_images(newest);
    }
}

async fn publish_pulls(board: Board, mut pulls: watch::Receiver<Vec<ImagePull>>) {
    while pulls.changed().await.is_ok() {
        let newest = pulls.borrow_and_update().clone();
        board.set_pulls(newest);
    }
}

/// Secrets lie among the manifests; what they open is the registries'.
async fn hand_on_secrets(images: Images, mut desired: watch::Receiver<pod::desired::DesiredSet>) {
    loop {
        let logins = desired.borrow_and_update().logins();
        images.set_secrets(logins);
        if desired.changed().await.is_err() {
            return;
        }
    }
}

async fn publish_config(board: Board, mut following: watch::Receiver<Following>) {
    loop {
        let Following { live, needs_restart, fault } = following.borrow_and_update().clone();
        board.set_live(live, needs_restart, fault);
        if following.changed().await.is_err() {
            return;
        }
    }
}

/// A node may get its address after its daemons, and another one later: status and files follow, and what waits for it goes on.
async fn follow_node_network(board: Board, sandboxes: NodeSandboxes) {
    let pods = || {
        let workloads = board.workloads();
        let views = workloads.values().flat_map(|published| published.pods.iter());
        views.map(|view| (view.record.clone(), view.template.clone())).collect()
    };
    let found = |addresses: &[std::net::IpAddr]| {
        if board.node().addresses != addresses {
            tracing::info!(?addresses, "the node's addresses are others now");
            board.set_node(|node| node.addresses = addresses.to_vec());
            board.retry();
        }
    };
    sandbox::follow::follow(sandboxes, board.settled(), pods, found).await;
}

/// Configurations and plugins come and go with packages: /readyz follows them, and pods that wait for them try again.
async fn watch_network(board: Board, conf_dir: PathBuf, bin_dirs: Vec<PathBuf>) {
    let directories = std::iter::once(conf_dir.clone()).chain(bin_dirs.clone()).collect();
    let mut last = None;
    let look = || {
        let now = doctor::cni_ready(&conf_dir, &bin_dirs);
        if last.as_ref().is_some_and(|last| *last != now) {
            match &now {
                Ok(()) => tracing::info!("pods with a network of their own can be connected"),
                Err(reason) => tracing::warn!(reason, "pods with a network of their own cannot be connected"),
            }
            board.retry();
        }
        board.set_check(Check::Cni, now.clone());
        last = Some(now);
    };
    sandbox::cni::follow::follow(directories, look).await;
}

/// Pods' connections after a start and after somebody flushed packet rules: what is found is an event of the pod.
async fn watch_connections(board: Board, sandboxes: NodeSandboxes) {
    let tell = |uid: &pod::name::Uid, finding: &Finding| {
        let (severity, reason, message) = match finding {
            Finding::Mended(why) => {
                (Severity::Normal, "NetworkMended", format!("was missing and is there again: {why}"))
            }
            Finding::Fault(why) => (Severity::Warning, "FailedNetworkCheck", why.clone()),
            Finding::Over => {
                (Severity::Normal, "NetworkSound", "its plugins are content with its network again".into())
            }
            Finding::Gone(why) => (
                Severity::Warning,
                "SandboxChanged",
                format!("Pod sandbox changed, it will be killed and re-created: {why}"),
            ),
        };
        tracing::warn!(pod = %uid, reason, message, "a pod's network");
        let workloads = board.workloads();
        let views = workloads.values().flat_map(|published| &published.pods);
        for view in views.filter(|view| view.record.uid == *uid) {
            let about = About {
                kind: "Pod".into(),
                namespace: view.record.workload.namespace.clone(),
                name: view.record.name.clone(),
                uid: uid.0.clone(),
                container: None,
            };
            let at = SystemClock.now().wall;
            board.record(Event { severity, reason: reason.into(), about, message: message.clone(), at });
        }
        if matches!(finding, Finding::Gone(_)) {
            board.retry();
        }
    };
    sandboxes.watch_connections(tell).await;
}

/// Called by the workers' loop at every turn: pets systemd's watchdog and shows that the loop moves.
fn beat(board: Board, progress: Arc<AtomicU64>) -> impl FnMut() {
    let mut last = 0;
    move || {
        let now = SystemClock.now().boot.0;
        progress.store(now, Ordering::Relaxed);
        board.set_check(Check::Loop, Ok(()));
        if now.saturating_sub(last) >= u64::try_from(BEAT.as_millis()).unwrap_or(u64::MAX) / 2 {
            last = now;
            tell_systemd(&[NotifyState::Watchdog]);
        }
    }
}

async fn watch_progress(board: Board, progress: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(SILENCE_MAX).await;
        let silence = Duration::from_millis(SystemClock.now().boot.0.saturating_sub(progress.load(Ordering::Relaxed)));
        if silence > SILENCE_MAX {
            board.set_check(Check::Loop, Err(format!("the workers' loop has not moved for {} s", silence.as_secs())));
        }
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!(error = %e, "systemd does not take our state");
    }
}
