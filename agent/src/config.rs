//! The agent's configuration: flags over the configuration file over defaults, and the part of it that applies live.
//!
//! Driven by `main` once and by [`watch`] afterwards. Flags and keys are one struct, [`Settings`], read by the same
//! functions, so that they cannot drift apart. It must not know what the values are used for.

mod file;
mod value;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod::allow::{self, Allow, AllowedPath, HostNamespace, Rule};
use pod::spec::{Taint, TaintEffect};
use serde::{Deserialize, Serialize, Serializer};

pub use value::{Cidr, ControlUrl, Entry, duration, taint};
pub use watch::{Following, follow};

/// The default of `--run-dir`; client words use it too.
pub const RUN_DIR: &str = "/run/daemonlet";

/// The name of the socket for client words, beneath the run directory.
pub const SOCKET: &str = "daemonlet.sock";

/// The keeper's own defaults, which are the kubelet's: 10 MiB a file, 5 files a container; 1 GiB for all of them. A deleted pod's
/// log can be read on the next day.
const LOG_LIMITS: LogLimits =
    LogLimits { max_file_size: 10 << 20, max_files: 5, budget: 1 << 30, retention: Duration::from_secs(24 * 3600) };

/// The agent's configuration, resolved: nothing in it is optional that has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// None: the hostname at the first start, the recorded name afterwards.
    pub node_name: Option<String>,
    pub manifest_dir: PathBuf,
    pub image_dir: PathBuf,
    /// The node's own network configurations: the first one connects pods. Only read.
    pub cni_conf_dir: PathBuf,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    /// containerd's socket.
    pub containerd: PathBuf,
    pub containerd_namespace: String,
    pub listen: SocketAddr,
    pub max_pods: u32,
    /// Searched in this order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// One, or one of each family.
    pub pod_cidrs: Vec<Cidr>,
    /// Name servers of pods whose dnsPolicy asks the cluster; empty: such pods get the node's.
    pub cluster_dns: Vec<IpAddr>,
    /// The domain of a cluster's services.
    pub cluster_domain: String,
    /// The name of our cgroup beneath the hierarchy's root.
    pub cgroup_root: String,
    /// Where seccomp profiles of type Localhost lie.
    pub seccomp_dir: PathBuf,
    /// seccomp unset means RuntimeDefault unless privileged.
    pub seccomp_default: bool,
    /// RuntimeDefault lets 32-bit programs run too.
    pub seccomp_32_bit: bool,
    /// Processes and threads of a pod; None: no limit but the node's.
    pub pod_max_pids: Option<u64>,
    /// Want of memory ends the one process that the kernel picks, and not its whole container.
    pub single_process_oom_kill: bool,
    /// Containers are slowed down before they reach their memory limit.
    pub memory_qos: bool,
    /// Beside the usual runtime, by the name that a pod's `runtimeClassName` gives.
    pub runtime_classes: BTreeMap<String, RuntimeClass>,
    /// containerd's `certs.d`: a directory with a hosts.toml for each registry.
    pub registry_config: PathBuf,
    /// A docker config.json with credentials.
    pub registry_auth: Option<PathBuf>,
    /// Bytes a second of all downloads of images; None: no limit.
    pub image_pull_rate_limit: Option<u64>,
    /// When images are removed that nothing needs.
    pub image_gc: ImageGc,
    /// What the node's shutdown leaves its pods.
    pub shutdown: Grace,
    /// The keeper's program, started when nobody answers; None: beside this program.
    pub logkeeper: Option<PathBuf>,
    /// The control endpoint; None: manifests are all that there is.
    pub control: Option<ControlUrl>,
    /// What lets this node in there the first time.
    pub join_token_file: Option<PathBuf>,
    /// Where the control endpoint may ask for this node's health; None: it has heartbeats only.
    pub health_advertise: Option<String>,
    /// What was so at the start of that which applies live.
    pub live: Live,
}

/// Longer than most daemons take to end, and no longer than people wait for a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// `shutdown-grace-period` and `shutdown-grace-period-critical-pods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Zero: the shutdown does not wait.
    pub total: Duration,
    /// The last part of it.
    pub critical: Duration,
}

/// When images are removed that nothing needs: the kubelet's settings and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// Percent of containerd's disk at which removing begins; 100: never.
    pub high_threshold: u8,
    /// Percent at which it has removed enough.
    pub low_threshold: u8,
    /// An image that came or was used more recently stays.
    pub minimum_age: Duration,
    /// An image that was not used for longer goes, however empty the disk is; None: it stays.
    pub maximum_age: Option<Duration>,
}

impl Default for ImageGc {
    fn default() -> Self {
        ImageGc { high_threshold: 85, low_threshold: 80, minimum_age: Duration::from_secs(120), maximum_age: None }
    }
}

impl ImageGc {
    /// As the kubelet: the low threshold is below the high one, and images are not wanted gone before they may go.
    fn check(&self) -> Result<(), ConfigError> {
        let ImageGc { high_threshold, low_threshold, minimum_age, maximum_age } = self;
        if low_threshold >= high_threshold {
            let why = format!(
                "image-gc-low-threshold ({low_threshold}) must be below image-gc-high-threshold ({high_threshold})"
            );
            return Err(ConfigError::Unfit(why));
        }
        match maximum_age {
            Some(maximum_age) if maximum_age <= minimum_age => Err(ConfigError::Unfit(format!(
                "image-maximum-gc-age ({}s) must be above image-minimum-gc-age ({}s), or 0",
                maximum_age.as_secs(),
                minimum_age.as_secs()
            ))),
            _ => Ok(()),
        }
    }
}

/// What runs the pods of a runtime class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeClass {
    /// This OCI runtime (runc, crun …), started by containerd's usual shim.
    Program(PathBuf),
    /// A shim of its own, by containerd's name for it: `io.containerd.kata.v2` is the program `containerd-shim-kata-v2`.
    Shim(String),
}

impl RuntimeClass {
    /// Of a value that was checked: a path is a program.
    pub fn of(text: &str) -> RuntimeClass {
        match text.starts_with('/') {
            true => RuntimeClass::Program(text.into()),
            false => RuntimeClass::Shim(text.to_owned()),
        }
    }
}

/// As it is written.
impl std::fmt::Display for RuntimeClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RuntimeClass::Program(program) => program.display().fmt(f),
            RuntimeClass::Shim(name) => name.fmt(f),
        }
    }
}

/// What a change of the configuration file changes without a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Live {
    /// As configured; the automatic ones ([`automatic_labels`]) are not in it.
    pub labels: BTreeMap<String, String>,
    #[serde(serialize_with = "taints_as_text", deserialize_with = "taints_from_text")]
    pub taints: Vec<Taint>,
    pub log_limits: LogLimits,
    /// What pods may have.
    pub allow: Allow,
}

/// How large and how many log files may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes of a file beyond which it is rotated.
    pub max_file_size: u64,
    /// Files of a container, the one being written included; at least 2.
    pub max_files: u64,
    /// Bytes of all log files of the node.
    pub budget: u64,
    /// How long the log of a deleted pod is kept, as far as the budget has room for it.
    #[serde(default)]
    pub retention: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        LOG_LIMITS
    }
}

/// Flags and configuration keys, as given: None or empty where not given.
#[derive(Debug, Clone, PartialEq, Default, clap::Args)]
pub struct Settings {
    /// The node's name [default: the lower-case hostname, recorded at the first start]
    #[arg(long, value_name = "N", value_parser = value::node_name)]
    pub node_name: Option<String>,
    /// Where manifests are read from [default: /etc/daemonlet/manifests]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub manifest_dir: Option<PathBuf>,
    /// Where image archives are taken from [default: /var/lib/daemonlet/images]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub image_dir: Option<PathBuf>,
    /// The node's own CNI configurations, of which the first one connects pods; only read [default: /etc/cni/net.d]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Records and everything else that must outlive a reboot [default: /var/lib/daemonlet]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub state_dir: Option<PathBuf>,
    /// Holds pods/ and containers/ [default: /var/log]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub log_dir: Option<PathBuf>,
    /// containerd's socket [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "SOCKET", value_parser = value::path)]
    pub containerd: Option<PathBuf>,
    /// The containerd namespace in which everything lies [default: daemonlet]
    #[arg(long, value_name = "NS", value_parser = value::containerd_namespace)]
    pub containerd_namespace: Option<String>,
    /// Health, pods and metrics [default: 127.0.0.1:10348]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub listen: Option<SocketAddr>,
    /// A label of the node; may be repeated
    #[arg(long, value_name = "K=V", value_parser = value::label)]
    pub node_label: Vec<(String, String)>,
    /// A taint of the node; may be repeated
    #[arg(long, value_name = "K=V:EFFECT", value_parser = value::taint)]
    pub node_taint: Vec<Taint>,
    /// Most pods at a time [default: 110]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pods: Option<u32>,
    /// Where CNI plugins are; may be repeated [default: /opt/cni/bin and /usr/lib/cni]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Addresses of pods with a network of their own [default: 10.88.0.0/16]
    #[arg(long, value_name = "C[,C6]", value_parser = value::cidrs)]
    pub pod_cidr: Option<value::Cidrs>,
    /// A cluster's name server, for pods whose dnsPolicy asks for it; may be repeated [default: none, they get the node's]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Vec<IpAddr>,
    /// The domain of a cluster's services [default: cluster.local]
    #[arg(long, value_name = "NAME", value_parser = value::cluster_domain)]
    pub cluster_domain: Option<String>,
    /// The cgroup beneath which all pods lie [default: daemonlet]
    #[arg(long, value_name = "NAME", value_parser = value::cgroup_root)]
    pub cgroup_root: Option<String>,
    /// A log file is rotated beyond this size [default: 10Mi]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub log_max_size: Option<u64>,
    /// Log files kept of a container [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1000))]
    pub log_max_files: Option<u64>,
    /// Size of all log files of the node [default: 1Gi]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub log_budget: Option<u64>,
    /// How long a deleted pod's log is kept, as far as the budget has room for it; 0: it goes with its pod [default: 24h]
    #[arg(long, value_name = "D", value_parser = value::duration)]
    pub log_retention: Option<Duration>,
    /// Where seccomp profiles of type Localhost lie [default: /var/lib/daemonlet/seccomp]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub seccomp_dir: Option<PathBuf>,
    /// Whether an unset seccomp profile means RuntimeDefault [default: true]
    #[arg(long, value_name = "BOOL")]
    pub seccomp_default: Option<bool>,
    /// Whether RuntimeDefault lets programs built for 32 bits run on a 64-bit node; otherwise they are ended with SIGSYS
    /// [default: false]
    #[arg(long, value_name = "BOOL")]
    pub seccomp_32_bit: Option<bool>,
    /// Processes and threads that a pod may have, at most 4194304 [default: no limit but the node's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=value::PIDS_MAX))]
    pub pod_max_pids: Option<u64>,
    /// Whether want of memory ends one process and not the whole container (cgroup v2) [default: false]
    #[arg(long, value_name = "BOOL")]
    pub single_process_oom_kill: Option<bool>,
    /// Whether containers are slowed down at nine tenths of the way from their memory request to their limit: memory.high
    /// (cgroup v2) [default: false]
    #[arg(long, value_name = "BOOL")]
    pub memory_qos: Option<bool>,
    /// What runs pods of this runtimeClassName: an OCI runtime's program (/usr/bin/crun) or the name of a shim of containerd
    /// (io.containerd.kata.v2); may be repeated
    #[arg(long, value_name = "NAME=RUNTIME", value_parser = value::runtime_class)]
    pub runtime_class: Vec<(String, RuntimeClass)>,
    /// Mirrors, authorities and client certificates of registries, as containerd's hosts.toml [default:
    /// /etc/containerd/certs.d]
    #[arg(long, value_name = "D", value_parser = value::path)]
    pub registry_config: Option<PathBuf>,
    /// Credentials of registries: a docker config.json
    #[arg(long, value_name = "FILE", value_parser = value::path)]
    pub registry_auth: Option<PathBuf>,
    /// Bytes a second that all image downloads may take together [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub image_pull_rate_limit: Option<u64>,
    /// Percent of containerd's disk at which images are removed that nothing needs; 100: never [default: 85]
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    pub image_gc_high_threshold: Option<u8>,
    /// Percent at which enough of them are removed [default: 80]
    #[arg(long, value_name = "PERCENT", value_parser = value::percent)]
    pub image_gc_low_threshold: Option<u8>,
    /// An image that came or was used more recently is not removed [default: 2m]
    #[arg(long, value_name = "D", value_parser = value::duration)]
    pub image_minimum_gc_age: Option<Duration>,
    /// An image that was not used for longer is removed, however empty the disk is; 0: never [default: 0]
    #[arg(long, value_name = "D", value_parser = value::duration)]
    pub image_maximum_gc_age: Option<Duration>,
    /// How long the node's shutdown waits for pods to end, as far as logind lets it; 0: not at all [default: 30s]
    #[arg(long, value_name = "D", value_parser = value::duration)]
    pub shutdown_grace_period: Option<Duration>,
    /// The last part of it, which is for critical pods (priority 2000000000 and above) [default: a third]
    #[arg(long, value_name = "D", value_parser = value::duration)]
    pub shutdown_grace_period_critical_pods: Option<Duration>,
    /// A part of the host's tree that hostPath volumes may show, PATH:ro for reading; may be repeated, `none` for none
    /// [default: every path]
    #[arg(long, value_name = "PATH[:ro]", value_parser = value::allowed_path)]
    pub allow_host_path: Vec<Entry<AllowedPath>>,
    /// A capability that containers may add to the usual ones, ALL for all; may be repeated, `none` for none [default:
    /// every capability]
    #[arg(long, value_name = "NAME", value_parser = value::capability)]
    pub allow_capability: Vec<Entry<String>>,
    /// Whether containers may be privileged [default: true]
    #[arg(long, value_name = "BOOL")]
    pub allow_privileged: Option<bool>,
    /// A namespace of the host that pods may use (network, pid, ipc); may be repeated, `none` for none [default: all]
    #[arg(long, value_name = "KIND", value_parser = value::host_namespace)]
    pub allow_host_namespace: Vec<Entry<HostNamespace>>,
    /// A registry from which images may come, or the beginning of their names (docker.io/library); may be repeated, `none`
    /// for none [default: every registry]
    #[arg(long, value_name = "NAME", value_parser = value::registry)]
    pub allow_registry: Vec<Entry<String>>,
    /// The log keeper's program, started when none answers [default: daemonlet-logkeeper beside this program]
    #[arg(long, value_name = "PROGRAM", value_parser = value::path)]
    pub logkeeper: Option<PathBuf>,
    /// The control endpoint that pods come from and statuses go to: https://HOST, with :PORT unless it is 6444 [default: none]
    #[arg(long, value_name = "URL", value_parser = value::control)]
    pub control: Option<ControlUrl>,
    /// A file with the token by which the node joins the first time (daemonlet-control token create)
    #[arg(long, value_name = "F", value_parser = value::path)]
    pub join_token_file: Option<PathBuf>,
    /// HOST:PORT at which the control endpoint asks for this node's health [default: none, it has heartbeats only]
    #[arg(long, value_name = "ADDR", value_parser = value::host_port)]
    pub health_advertise: Option<String>,
    /// Not a flag of its own: `--run-dir` is global.
    #[arg(skip)]
    pub run_dir: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {why}", path = path.display())]
    Read { path: PathBuf, why: String },
    /// Each fault as `file:line: key: reason`, one a line.
    #[error("{}", faults.join("\n"))]
    Refused { faults: Vec<String> },
    #[error("{0}")]
    Unfit(String),
}

impl Config {
    /// Flags over the file over defaults. Blocking: reads the file.
    pub fn load(flags: &Settings, file: Option<&Path>) -> Result<Config, ConfigError> {
        let from_file = match file {
            Some(path) => file::read(path)?,
            None => Settings::default(),
        };
        let place = |by_flag: bool| match file {
            Some(file) if !by_flag => format!("the configuration file {}", file.display()),
            _ => "the agent's flags".to_owned(),
        };
        Config::resolve(flags.clone().over(from_file), |key| place(flags.gives(key)))
    }

    /// `place`: where a key of the allow-list stands, for people.
    fn resolve(settings: Settings, place: impl Fn(&str) -> String) -> Result<Config, ConfigError> {
        let Settings {
            node_name,
            manifest_dir,
            image_dir,
            cni_conf_dir,
            state_dir,
            log_dir,
            containerd,
            containerd_namespace,
            listen,
            node_label,
            node_taint,
            max_pods,
            cni_bin_dir,
            pod_cidr,
            cluster_dns,
            cluster_domain,
            cgroup_root,
            log_max_size,
            log_max_files,
            log_budget,
            log_retention,
            seccomp_dir,
            seccomp_default,
            seccomp_32_bit,
            pod_max_pids,
            single_process_oom_kill,
            memory_qos,
            runtime_class,
            registry_config,
            registry_auth,
            image_pull_rate_limit,
            image_gc_high_threshold,
            image_gc_low_threshold,
            image_minimum_gc_age,
            image_maximum_gc_age,
            shutdown_grace_period,
            shutdown_grace_period_critical_pods,
            allow_host_path,
            allow_capability,
            allow_privileged,
            allow_host_namespace,
            allow_registry,
            logkeeper,
            control,
            join_token_file,
            health_advertise,
            run_dir,
        } = settings;
        let log_limits = LogLimits {
            max_file_size: log_max_size.unwrap_or(LOG_LIMITS.max_file_size),
            max_files: log_max_files.unwrap_or(LOG_LIMITS.max_files),
            budget: log_budget.unwrap_or(LOG_LIMITS.budget),
            retention: log_retention.unwrap_or(LOG_LIMITS.retention),
        };
        if log_limits.budget < log_limits.max_file_size {
            let LogLimits { max_file_size, budget, .. } = log_limits;
            let why = format!("log-budget ({budget} bytes) must be at least log-max-size ({max_file_size} bytes)");
            return Err(ConfigError::Unfit(why));
        }
        let usual = ImageGc::default();
        let image_gc = ImageGc {
            high_threshold: image_gc_high_threshold.unwrap_or(usual.high_threshold),
            low_threshold: image_gc_low_threshold.unwrap_or(usual.low_threshold),
            minimum_age: image_minimum_gc_age.unwrap_or(usual.minimum_age),
            maximum_age: image_maximum_gc_age.filter(|age| !age.is_zero()),
        };
        image_gc.check()?;
        let total = shutdown_grace_period.unwrap_or(SHUTDOWN_GRACE);
        let shutdown = Grace { total, critical: shutdown_grace_period_critical_pods.unwrap_or(total / 3) };
        if shutdown.critical > shutdown.total {
            let why = format!(
                "shutdown-grace-period-critical-pods ({}s) is a part of shutdown-grace-period ({}s) and cannot be longer",
                shutdown.critical.as_secs(),
                shutdown.total.as_secs()
            );
            return Err(ConfigError::Unfit(why));
        }
        let allow = Allow {
            host_paths: rule(allow::HOST_PATH, allow_host_path, &place)?,
            capabilities: rule(allow::CAPABILITY, allow_capability, &place)?,
            privileged: allow_privileged.map(|is| Rule { only: vec![is], place: place(allow::PRIVILEGED) }),
            host_namespaces: rule(allow::HOST_NAMESPACE, allow_host_namespace, &place)?,
            registries: rule(allow::REGISTRY, allow_registry, &place)?,
        };
        let path = |given: Option<PathBuf>, default: &str| given.unwrap_or_else(|| PathBuf::from(default));
        let cni_bin_dirs = match cni_bin_dir.is_empty() {
            true => vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            false => cni_bin_dir,
        };
        Ok(Config {
            node_name,
            manifest_dir: path(manifest_dir, "/etc/daemonlet/manifests"),
            image_dir: path(image_dir, "/var/lib/daemonlet/images"),
            cni_conf_dir: path(cni_conf_dir, "/etc/cni/net.d"),
            state_dir: path(state_dir, "/var/lib/daemonlet"),
            run_dir: path(run_dir, RUN_DIR),
            log_dir: path(log_dir, "/var/log"),
            containerd: path(containerd, "/run/containerd/containerd.sock"),
            containerd_namespace: containerd_namespace.unwrap_or_else(|| "daemonlet".into()),
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 10348))),
            max_pods: max_pods.unwrap_or(110),
            cni_bin_dirs,
            pod_cidrs: pod_cidr.map_or_else(|| vec![Cidr::v4([10, 88, 0, 0], 16)], |cidrs| cidrs.0),
            cluster_dns,
            cluster_domain: cluster_domain.unwrap_or_else(|| "cluster.local".into()),
            cgroup_root: cgroup_root.unwrap_or_else(|| "daemonlet".into()),
            seccomp_dir: path(seccomp_dir, "/var/lib/daemonlet/seccomp"),
            seccomp_default: seccomp_default.unwrap_or(true),
            seccomp_32_bit: seccomp_32_bit.unwrap_or(false),
            pod_max_pids,
            single_process_oom_kill: single_process_oom_kill.unwrap_or(false),
            memory_qos: memory_qos.unwrap_or(false),
            runtime_classes: runtime_class.into_iter().collect(),
            registry_config: path(registry_config, "/etc/containerd/certs.d"),
            registry_auth,
            image_pull_rate_limit,
            image_gc,
            shutdown,
            logkeeper,
            control,
            join_token_file,
            health_advertise,
            live: Live { labels: node_label.into_iter().collect(), taints: unique(node_taint), log_limits, allow },
        })
    }

    /// The socket for client words.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// The keys, other than live ones, in which `new` differs: they wait for a restart.
    fn restart_keys(&self, new: &Config) -> Vec<String> {
        let Config {
            node_name,
            manifest_dir,
            image_dir,
            cni_conf_dir,
            state_dir,
            run_dir,
            log_dir,
            containerd,
            containerd_namespace,
            listen,
            max_pods,
            cni_bin_dirs,
            pod_cidrs,
            cluster_dns,
            cluster_domain,
            cgroup_root,
            seccomp_dir,
            seccomp_default,
            seccomp_32_bit,
            pod_max_pids,
            single_process_oom_kill,
            memory_qos,
            runtime_classes,
            registry_config,
            registry_auth,
            image_pull_rate_limit,
            image_gc,
            shutdown,
            logkeeper,
            control,
            join_token_file,
            health_advertise,
            live: _,
        } = self;
        let changed = [
            ("node-name", *node_name != new.node_name),
            ("manifest-dir", *manifest_dir != new.manifest_dir),
            ("image-dir", *image_dir != new.image_dir),
            ("cni-conf-dir", *cni_conf_dir != new.cni_conf_dir),
            ("state-dir", *state_dir != new.state_dir),
            ("run-dir", *run_dir != new.run_dir),
            ("log-dir", *log_dir != new.log_dir),
            ("containerd", *containerd != new.containerd),
            ("containerd-namespace", *containerd_namespace != new.containerd_namespace),
            ("listen", *listen != new.listen),
            ("max-pods", *max_pods != new.max_pods),
            ("cni-bin-dir", *cni_bin_dirs != new.cni_bin_dirs),
            ("pod-cidr", *pod_cidrs != new.pod_cidrs),
            ("cluster-dns", *cluster_dns != new.cluster_dns),
            ("cluster-domain", *cluster_domain != new.cluster_domain),
            ("cgroup-root", *cgroup_root != new.cgroup_root),
            ("seccomp-dir", *seccomp_dir != new.seccomp_dir),
            ("seccomp-default", *seccomp_default != new.seccomp_default),
            ("seccomp-32-bit", *seccomp_32_bit != new.seccomp_32_bit),
            ("pod-max-pids", *pod_max_pids != new.pod_max_pids),
            ("single-process-oom-kill", *single_process_oom_kill != new.single_process_oom_kill),
            ("memory-qos", *memory_qos != new.memory_qos),
            ("runtime-class", *runtime_classes != new.runtime_classes),
            ("registry-config", *registry_config != new.registry_config),
            ("registry-auth", *registry_auth != new.registry_auth),
            ("image-pull-rate-limit", *image_pull_rate_limit != new.image_pull_rate_limit),
            ("image-gc-high-threshold", image_gc.high_threshold != new.image_gc.high_threshold),
            ("image-gc-low-threshold", image_gc.low_threshold != new.image_gc.low_threshold),
            ("image-minimum-gc-age", image_gc.minimum_age != new.image_gc.minimum_age),
            ("image-maximum-gc-age", image_gc.maximum_age != new.image_gc.maximum_age),
            ("shutdown-grace-period", shutdown.total != new.shutdown.total),
            ("shutdown-grace-period-critical-pods", shutdown.critical != new.shutdown.critical),
            ("logkeeper", *logkeeper != new.logkeeper),
            ("control", *control != new.control),
            ("join-token-file", *join_token_file != new.join_token_file),
            ("health-advertise", *health_advertise != new.health_advertise),
        ];
        changed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
    }
}

/// None: no such key was given.
fn rule<T>(key: &str, given: Vec<Entry<T>>, place: impl Fn(&str) -> String) -> Result<Option<Rule<T>>, ConfigError> {
    let count = given.len();
    let only: Vec<T> = given
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::Nothing => None,
            Entry::One(value) => Some(value),
        })
        .collect();
    match (count, only.len()) {
        (0, _) => Ok(None),
        (1, _) => Ok(Some(Rule { only, place: place(key) })),
        (given, kept) if given == kept => Ok(Some(Rule { only, place: place(key) })),
        _ => Err(ConfigError::Unfit(format!("{key}: `none` stands alone, not beside others"))),
    }
}

impl Settings {
    /// Whether this key of the allow-list is given.
    fn gives(&self, key: &str) -> bool {
        match key {
            allow::HOST_PATH => !self.allow_host_path.is_empty(),
            allow::CAPABILITY => !self.allow_capability.is_empty(),
            allow::PRIVILEGED => self.allow_privileged.is_some(),
            allow::HOST_NAMESPACE => !self.allow_host_namespace.is_empty(),
            allow::REGISTRY => !self.allow_registry.is_empty(),
            _ => false,
        }
    }

    /// These where given, else those of `file`. Labels, taints and runtime classes are united: one given here wins over
    /// the same name, or the same key and effect, there.
    fn over(self, file: Settings) -> Settings {
        fn list<T>(own: Vec<T>, of_file: Vec<T>) -> Vec<T> {
            if own.is_empty() { of_file } else { own }
        }
        let mut node_label = file.node_label;
        node_label.retain(|(key, _)| self.node_label.iter().all(|(own, _)| own != key));
        node_label.extend(self.node_label);
        let mut node_taint = file.node_taint;
        node_taint.retain(|t| self.node_taint.iter().all(|own| (&own.key, own.effect) != (&t.key, t.effect)));
        node_taint.extend(self.node_taint);
        let mut runtime_class = file.runtime_class;
        runtime_class.retain(|(name, _)| self.runtime_class.iter().all(|(own, _)| own != name));
        runtime_class.extend(self.runtime_class);
        Settings {
            node_name: self.node_name.or(file.node_name),
            manifest_dir: self.manifest_dir.or(file.manifest_dir),
            image_dir: self.image_dir.or(file.image_dir),
            cni_conf_dir: self.cni_conf_dir.or(file.cni_conf_dir),
            state_dir: self.state_dir.or(file.state_dir),
            log_dir: self.log_dir.or(file.log_dir),
            containerd: self.containerd.or(file.containerd),
            containerd_namespace: self.containerd_namespace.or(file.containerd_namespace),
            listen: self.listen.or(file.listen),
            node_label,
            node_taint,
            max_pods: self.max_pods.or(file.max_pods),
            cni_bin_dir: list(self.cni_bin_dir, file.cni_bin_dir),
            pod_cidr: self.pod_cidr.or(file.pod_cidr),
            cluster_dns: list(self.cluster_dns, file.cluster_dns),
            cluster_domain: self.cluster_domain.or(file.cluster_domain),
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            log_max_size: self.log_max_size.or(file.log_max_size),
            log_max_files: self.log_max_files.or(file.log_max_files),
            log_budget: self.log_budget.or(file.log_budget),
            log_retention: self.log_retention.or(file.log_retention),
            seccomp_dir: self.seccomp_dir.or(file.seccomp_dir),
            seccomp_default: self.seccomp_default.or(file.seccomp_default),
            seccomp_32_bit: self.seccomp_32_bit.or(file.seccomp_32_bit),
            pod_max_pids: self.pod_max_pids.or(file.pod_max_pids),
            single_process_oom_kill: self.single_process_oom_kill.or(file.single_process_oom_kill),
            memory_qos: self.memory_qos.or(file.memory_qos),
            runtime_class,
            registry_config: self.registry_config.or(file.registry_config),
            registry_auth: self.registry_auth.or(file.registry_auth),
            image_pull_rate_limit: self.image_pull_rate_limit.or(file.image_pull_rate_limit),
            image_gc_high_threshold: self.image_gc_high_threshold.or(file.image_gc_high_threshold),
            image_gc_low_threshold: self.image_gc_low_threshold.or(file.image_gc_low_threshold),
            image_minimum_gc_age: self.image_minimum_gc_age.or(file.image_minimum_gc_age),
            image_maximum_gc_age: self.image_maximum_gc_age.or(file.image_maximum_gc_age),
            shutdown_grace_period: self.shutdown_grace_period.or(file.shutdown_grace_period),
            shutdown_grace_period_critical_pods: self
                .shutdown_grace_period_critical_pods
                .or(file.shutdown_grace_period_critical_pods),
            allow_host_path: list(self.allow_host_path, file.allow_host_path),
            allow_capability: list(self.allow_capability, file.allow_capability),
            allow_privileged: self.allow_privileged.or(file.allow_privileged),
            allow_host_namespace: list(self.allow_host_namespace, file.allow_host_namespace),
            allow_registry: list(self.allow_registry, file.allow_registry),
            logkeeper: self.logkeeper.or(file.logkeeper),
            control: self.control.or(file.control),
            join_token_file: self.join_token_file.or(file.join_token_file),
            health_advertise: self.health_advertise.or(file.health_advertise),
            run_dir: self.run_dir.or(file.run_dir),
        }
    }
}

/// The node's labels: the configured ones over the automatic ones.
pub fn node_labels(node_name: &str, live: &Live) -> BTreeMap<String, String> {
    let mut labels = automatic_labels(node_name);
    labels.extend(live.labels.clone());
    labels
}

/// The labels that a node has by itself, with Kubernetes' names of architectures (those of Go).
pub fn automatic_labels(node_name: &str) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", node_name),
        ("kubernetes.io/os", "linux"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// A taint as it is written: `key=value:Effect`, `key:Effect` without a value.
pub fn taint_text(taint: &Taint) -> String {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    match taint.value.is_empty() {
        true => format!("{}:{effect}", taint.key),
        false => format!("{}={}:{effect}", taint.key, taint.value),
    }
}

/// The machine's hostname in lower case: a node's name where none is configured or recorded.
pub fn hostname() -> Result<String, ConfigError> {
    let name =
        nix::unistd::gethostname().map_err(|why| ConfigError::Unfit(format!("cannot read the hostname: {why}")))?;
    value::node_name(&name.to_string_lossy().to_lowercase())
        .map_err(|why| ConfigError::Unfit(format!("the hostname is no node name: {why}; give one with --node-name")))
}

/// Of two taints with one key and effect the later one counts.
fn unique(taints: Vec<Taint>) -> Vec<Taint> {
    let by_key: BTreeMap<_, _> = taints.into_iter().map(|taint| ((taint.key.clone(), taint.effect), taint)).collect();
    by_key.into_values().collect()
}

fn taints_as_text<S: Serializer>(taints: &[Taint], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(taints.iter().map(taint_text))
}

fn taints_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Taint>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| value::taint(text).map_err(serde::de::Error::custom)).collect()
}
