//! What is counted, and what is computed when somebody scrapes: the kubelet's names where it has one, else `daemonlet_`.
//!
//! The core observes through the few functions here; `/metrics` calls [`encode`]. Gauges are never kept in step: they
//! are computed from the board at the scrape.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pod::observed::{ContainerState, ProbeKind};
use pod::probe::KINDS;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::board::{Board, FileState, WantedSummary};
use crate::events::About;

/// Label pairs of one sample.
type Labels = Vec<(String, String)>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// Seconds; a start takes tens of milliseconds, a stop up to its grace period.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds, the kubelet's: a pull may take an hour.
const PULL_BUCKETS: [f64; 14] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];

/// The kubelet's classes of image sizes: each from this many bytes on.
const SIZE_CLASSES: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10 << 20, "10MB-100MB"),
    (100 << 20, "100MB-500MB"),
    (500 << 20, "500MB-1GB"),
    (1 << 30, "1GB-5GB"),
    (5 << 30, "5GB-10GB"),
    (10 << 30, "10GB-20GB"),
    (20 << 30, "20GB-30GB"),
    (30 << 30, "30GB-40GB"),
    (40 << 30, "40GB-60GB"),
    (60 << 30, "60GB-100GB"),
    (100 << 30, "GT100GB"),
];

/// The counters and histograms of one agent.
#[derive(Debug, Clone)]
pub struct Metrics {
    runtime_operations: Family<Labels, Counter>,
    runtime_errors: Family<Labels, Counter>,
    runtime_durations: Family<Labels, Histogram>,
    worker_durations: Family<Labels, Histogram>,
    start_durations: Histogram,
    restarts: Family<Labels, Counter>,
    started_pods: Counter,
    start_errors_of_pods: Counter,
    started_containers: Family<Labels, Counter>,
    start_errors: Family<Labels, Counter>,
    images_collected: Family<Labels, Counter>,
    pull_durations: Family<Labels, Histogram>,
    probes: Family<Labels, Counter>,
}

/// What came of a probe, in the kubelet's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    Successful,
    Failed,
    /// It could not be carried out.
    Unknown,
}

impl ProbeResult {
    const ALL: [(ProbeResult, &str); 3] =
        [(ProbeResult::Successful, "successful"), (ProbeResult::Failed, "failed"), (ProbeResult::Unknown, "unknown")];
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            runtime_operations: Family::default(),
            runtime_errors: Family::default(),
            runtime_durations: Family::new_with_constructor(histogram),
            worker_durations: Family::new_with_constructor(histogram),
            start_durations: histogram(),
            restarts: Family::default(),
            started_pods: Counter::default(),
            start_errors_of_pods: Counter::default(),
            started_containers: Family::default(),
            start_errors: Family::default(),
            images_collected: Family::default(),
            pull_durations: Family::new_with_constructor(|| Histogram::new(PULL_BUCKETS)),
            probes: Family::default(),
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    /// One call of the runtime (`create_container`, `start_container` …) has ended.
    pub fn runtime_operation(&self, operation: &str, took: Duration, ok: bool) {
        let labels = label("operation_type", operation);
        self.runtime_operations.get_or_create(&labels).inc();
        self.runtime_durations.get_or_create(&labels).observe(took.as_secs_f64());
        if !ok {
            self.runtime_errors.get_or_create(&labels).inc();
        }
    }

    /// One step of a worker (`create`, `sync`, `terminate` …) has ended.
    pub fn pod_worker(&self, operation: &str, took: Duration) {
        self.worker_durations.get_or_create(&label("operation_type", operation)).observe(took.as_secs_f64());
    }

    /// A probe of this container was carried out.
    pub fn probed(&self, about: &About, kind: ProbeKind, result: ProbeResult) {
        self.probes.get_or_create(&probe_labels(about, kind, result)).inc();
    }

    /// The run is not probed any more: a counter for every pod that ever was would grow for ever.
    pub fn probes_over(&self, about: &About) {
        for kind in KINDS {
            for (result, _) in ProbeResult::ALL {
                self.probes.remove(&probe_labels(about, kind, result));
            }
        }
    }

    /// From a pod's admission to all of its containers having been started.
    pub fn pod_started(&self, took: Duration) {
        self.start_durations.observe(took.as_secs_f64());
    }

    /// The surroundings of a pod were made, or could not be.
    pub fn sandbox_made(&self, ok: bool) {
        self.started_pods.inc();
        if !ok {
            self.start_errors_of_pods.inc();
        }
    }

    /// A container was started; else the reason why it could not be created or started.
    pub fn container_started(&self, outcome: Result<(), &str>) {
        self.started_containers.get_or_create(&label("container_type", "container")).inc();
        if let Err(reason) = outcome {
            let labels = [("code", reason), ("container_type", "container")];
            let labels: Labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            self.start_errors.get_or_create(&labels).inc();
        }
    }

    /// An image was removed (`reason`: space, age).
    pub fn image_collected(&self, reason: &str) {
        self.images_collected.get_or_create(&label("reason", reason)).inc();
    }

    /// An image of this many bytes was pulled.
    pub fn image_pulled(&self, size: u64, took: Duration) {
        let class = SIZE_CLASSES.iter().rev().find(|(from, _)| size > *from).map_or("N/A", |(_, class)| class);
        self.pull_durations.get_or_create(&label("image_size_in_bytes", class)).observe(took.as_secs_f64());
    }

    /// A container is started once more after it ended (`reason`: Error, Completed, OOMKilled …).
    pub fn container_restarted(&self, reason: &str) {
        self.restarts.get_or_create(&label("reason", reason)).inc();
    }
}

/// The same in Prometheus' older text format (0.0.4), which is what a kubelet answers with unless it is asked for the other.
pub fn encode_classic(board: &Board) -> String {
    classic(&encode(board))
}

/// What differs: a counter is declared with its suffix, and units and the end are not told.
fn classic(exposition: &str) -> String {
    let mut out = String::with_capacity(exposition.len());
    let mut help: Option<(&str, &str)> = None;
    for line in exposition.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => help = Some((name, text.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
                }
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// The whole exposition in OpenMetrics text.
pub fn encode(board: &Board) -> String {
    let metrics = board.metrics();
    let mut registry = Registry::default();
    registry.register(
        "kubelet_runtime_operations",
        "Calls of the container runtime",
        metrics.runtime_operations.clone(),
    );
    registry.register(
        "kubelet_runtime_operations_errors",
        "Failed calls of the runtime",
        metrics.runtime_errors.clone(),
    );
    let durations = metrics.runtime_durations.clone();
    registry.register("kubelet_runtime_operations_duration_seconds", "How long calls of the runtime took", durations);
    let durations = metrics.worker_durations.clone();
    registry.register("kubelet_pod_worker_duration_seconds", "How long steps of pod workers took", durations);
    let durations = metrics.start_durations.clone();
    registry.register(
        "kubelet_pod_start_duration_seconds",
        "From a pod's admission to its last container's start",
        durations,
    );
    registry.register(
        "daemonlet_container_restarts",
        "Containers started again after an end",
        metrics.restarts.clone(),
    );
    let (started, failed) = (metrics.started_pods.clone(), metrics.start_errors_of_pods.clone());
    registry.register("kubelet_started_pods", "Pods whose surroundings were made, or tried to", started);
    registry.register("kubelet_started_pods_errors", "Pods whose surroundings could not be made", failed);
    let started = metrics.started_containers.clone();
    registry.register("kubelet_started_containers", "Containers started, or tried to", started);
    let failed = metrics.start_errors.clone();
    registry.register("kubelet_started_containers_errors", "Containers that could not be created or started", failed);
    let collected = metrics.images_collected.clone();
    let probes = metrics.probes.clone();
    registry.register("prober_probe", "Probes carried out, by what came of them", probes);
    registry.register("kubelet_image_garbage_collected", "Images removed, by reason", collected);
    let durations = metrics.pull_durations.clone();
    registry.register("kubelet_image_pull_duration_seconds", "How long pulls took, by the image's size", durations);
    gauges(&mut registry, board);
    process(&mut registry);
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("writing to a string cannot fail");
    out
}

fn gauges(registry: &mut Registry, board: &Board) {
    let mut running_pods = 0_u64;
    let mut owed = 0_u64;
    let mut containers: BTreeMap<&str, u64> = ["created", "exited", "running", "unknown"].map(|s| (s, 0)).into();
    let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
    let mut workloads: BTreeMap<&str, u64> = ["held", "leaving", "wanted"].map(|s| (s, 0)).into();
    for published in board.workloads().values() {
        let state = match published.wanted {
            WantedSummary::Run { .. } => "wanted",
            WantedSummary::Hold { .. } => "held",
            WantedSummary::Gone => "leaving",
        };
        *workloads.entry(state).or_default() += 1;
        for wait in &published.waiting {
            *waiting.entry(wait.reason.clone()).or_default() += 1;
        }
        for pod in &published.pods {
            let mut runs = false;
            for container in &pod.containers {
                let state = match container.state {
                    ContainerState::NoTask | ContainerState::Unanswered => "unknown",
                    ContainerState::Created => "created",
                    ContainerState::Running { .. } => "running",
                    ContainerState::Exited { .. } => "exited",
                };
                runs |= state == "running";
                *containers.entry(state).or_default() += 1;
            }
            // What has ended for good is not kept at the runtime, and is shown as ended.
            let ended = |name: &String| {
                let last = pod.record.remembered(name).and_then(|memory| memory.last.as_ref());
                last.is_some() && !pod.containers.iter().any(|run| run.run.container == *name)
            };
            let gone = pod.template.spec.containers.iter().filter(|container| ended(&container.name)).count();
            *containers.entry("exited").or_default() += u64::try_from(gone).unwrap_or(0);
            running_pods += u64::from(runs);
            owed += u64::from(pod.owed.is_some());
        }
    }
    let running = Gauge::<i64>::default();
    running.set(i64::try_from(running_pods).unwrap_or(i64::MAX));
    registry.register("kubelet_running_pods", "Pods with a running container", running);
    let owing = Gauge::<i64>::default();
    owing.set(i64::try_from(owed).unwrap_or(i64::MAX));
    registry.register("daemonlet_records_owed", "Pods whose record the state disk has not taken", owing);
    let samples = containers.iter().map(|(state, n)| (label("container_state", state), *n));
    set(registry, "kubelet_running_containers", "Containers by state", samples);
    let desired = workloads.get("wanted").copied().unwrap_or(0);
    set(registry, "kubelet_desired_pods", "Pods that documents ask for", [(label("static", "true"), desired)]);
    set(registry, "kubelet_node_name", "The node's name; always 1", [(label("node", &board.node().name), 1)]);
    let samples = workloads.iter().map(|(state, n)| (label("state", state), *n));
    set(registry, "daemonlet_workloads", "Workloads by what is wanted of them", samples);
    let samples = waiting.iter().map(|(reason, n)| (label("reason", reason), *n));
    set(registry, "daemonlet_waiting", "What pods wait for, by reason", samples);
    let mut files: BTreeMap<FileState, u64> = BTreeMap::new();
    for file in board.files().iter() {
        *files.entry(file.state).or_default() += 1;
    }
    let samples = files.iter().map(|(state, n)| (label("state", &format!("{state:?}")), *n));
    set(registry, "daemonlet_manifest_documents", "Documents of manifest files by verdict", samples);
    let checks = board.checks();
    let samples = checks.iter().map(|(check, outcome)| (label("check", check.name()), u64::from(outcome.is_ok())));
    set(registry, "daemonlet_check_ok", "Readiness checks; 1 is ok", samples);
    let version = label("version", env!("CARGO_PKG_VERSION"));
    set(registry, "daemonlet_build", "The running version; always 1", [(version, 1)]);
}

/// The names of Prometheus' own process collector.
fn process(registry: &mut Registry) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // Fields are counted after the name, which may hold blanks and parentheses.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0.0);
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as f64;
    let cpu = Counter::<f64, AtomicU64>::default();
    cpu.inc_by((field(14) + field(15)) / ticks);
    registry.register("process_cpu_seconds", "Processor time, user and system", cpu);
    gauge(registry, "process_virtual_memory_bytes", "Virtual memory", field(23));
    gauge(registry, "process_resident_memory_bytes", "Resident memory", field(24) * page);
    let boot = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|seconds| seconds.trim().parse::<f64>().ok())
    });
    if let Some(boot) = boot {
        gauge(registry, "process_start_time_seconds", "Start, seconds since 1970", boot + field(22) / ticks);
    }
    let open = std::fs::read_dir("/proc/self/fd").map(|dir| dir.count()).unwrap_or(0);
    gauge(registry, "process_open_fds", "Open descriptors", open as f64);
    if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        gauge(registry, "process_max_fds", "Most descriptors that may be open", soft as f64);
    }
}

fn probe_labels(about: &About, kind: ProbeKind, result: ProbeResult) -> Labels {
    let word = ProbeResult::ALL.into_iter().find(|(of, _)| *of == result).map_or("", |(_, word)| word);
    let pairs = [
        ("container", about.container.clone().unwrap_or_default()),
        ("namespace", about.namespace.clone()),
        ("pod", about.name.clone()),
        ("pod_uid", about.uid.clone()),
        ("probe_type", kind.to_string()),
        ("result", word.to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

fn label(name: &str, value: &str) -> Labels {
    vec![(name.to_owned(), value.to_owned())]
}

fn set(registry: &mut Registry, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in samples {
        family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    registry.register(name, help, family);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = FloatGauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_the_kubelets_names_and_what_was_counted() {
        let (board, _commands) = Board::new();
        board.set_node(|node| node.name = "n1".into());
        board.metrics().runtime_operation("start_container", Duration::from_millis(8), false);
        board.metrics().sandbox_made(true);
        board.metrics().sandbox_made(false);
        board.metrics().container_started(Ok(()));
        board.metrics().container_started(Err("CreateContainerError"));
        board.metrics().image_collected("space");
        board.metrics().image_pulled(11 << 20, Duration::from_secs(2));
        let text = encode(&board);
        for line in [
            "kubelet_image_garbage_collected_total{reason=\"space\"} 1",
            "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"10MB-100MB\"} 1",
            "kubelet_started_pods_total 2",
            "kubelet_started_pods_errors_total 1",
            "kubelet_started_containers_total{container_type=\"container\"} 2",
            "kubelet_started_containers_errors_total{code=\"CreateContainerError\",container_type=\"container\"} 1",
            "kubelet_running_pods 0",
            "kubelet_running_containers{container_state=\"running\"} 0",
            "kubelet_node_name{node=\"n1\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"start_container\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"start_container\"} 1",
            "daemonlet_check_ok{check=\"containerd\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_older_text_format_declares_counters_by_their_whole_names_and_ends_without_a_word() {
        let (board, _commands) = Board::new();
        board.metrics().sandbox_made(true);
        let text = encode_classic(&board);
        assert!(text.contains("\n# TYPE kubelet_started_pods_total counter\nkubelet_started_pods_total 1\n"), "{text}");
        assert!(text.contains("# HELP kubelet_started_pods_total Pods whose"), "{text}");
        assert!(text.contains("# TYPE kubelet_pod_start_duration_seconds histogram\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&text), samples(&encode(&board)));
    }

    #[test]
    fn what_has_run_to_its_end_is_counted_as_exited() {
        let (board, _commands) = Board::new();
        let (key, mut published) = crate::status::sample::running();
        let pod = &mut published.pods[0];
        pod.containers.clear();
        pod.record.containers.entry("c".into()).or_default().last = Some(crate::status::sample::ended(0, 0));
        board.publish(&key, Some(published));
        let text = encode(&board);
        assert!(text.contains("\nkubelet_running_containers{container_state=\"exited\"} 1\n"), "{text}");
    }

    #[test]
    fn the_process_is_measured() {
        let (board, _commands) = Board::new();
        let text = encode(&board);
        let resident: f64 = text
            .lines()
            .find_map(|l| l.strip_prefix("process_resident_memory_bytes "))
            .expect("the sample is there")
            .parse()
            .unwrap();
        assert!(resident > 1e5, "{resident} bytes resident");
    }
}
