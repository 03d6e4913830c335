//! The part of a pod that we run, as our own types. Made only by `manifest`, which has already refused what is not
//! here; read by everything below. Pod-level defaults (security context) are resolved into each container.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::content::{ContentKind, Hidden};

/// A pod as a document or a DaemonSet's template asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodTemplate {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub spec: PodSpec,
}

/// `spec` of v1 Pod, as far as it is honoured.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSpec {
    /// In the order of starts: init containers and sidecars first, then the main ones, each as the document has them. At
    /// least one main container.
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub restart_policy: RestartPolicy,
    /// `terminationGracePeriodSeconds`; default 30 s.
    pub termination_grace: Duration,
    /// `activeDeadlineSeconds`: how long after its admission the pod has failed; Pod documents only.
    pub active_deadline: Option<Duration>,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// `hostUsers: false`: the pod has users of its own, of which none is one of the node's. Never with anything else of the node's.
    pub own_users: bool,
    /// `shareProcessNamespace`: never with `host_pid`.
    pub share_processes: bool,
    /// `securityContext.sysctls`: values of the pod's own namespaces by their names with dots. Only those that Kubernetes calls safe.
    pub sysctls: BTreeMap<String, String>,
    /// `priority`, or the value of a well-known `priorityClassName`; `merge` looks up the others. 0 otherwise.
    pub priority: i32,
    pub priority_class: Option<String>,
    /// `runtimeClassName`: which of the node's configured runtimes; None: its usual one.
    pub runtime_class: Option<String>,
    pub placement: Placement,
    pub naming: Naming,
    /// Names of Secrets in the pod's namespace, with which its images are pulled.
    pub image_pull_secrets: Vec<String>,
    /// `resources`: what the pod has as a whole (KEP-2837), defaulted; None: what its containers have together.
    pub resources: Option<Box<Resources>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// How the pod is called, and how its containers find others by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Naming {
    /// `hostname`; None: the pod's name.
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    /// `setHostnameAsFQDN`.
    pub fqdn_as_hostname: bool,
    /// `hostnameOverride`: all that the pod is called, whatever the three above say. Never with the node's network.
    pub hostname_override: Option<String>,
    pub dns_policy: DnsPolicy,
    /// `dnsConfig`; empty where absent.
    pub dns: DnsConfig,
    pub host_aliases: Vec<HostAlias>,
}

/// v1 DNSPolicy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsPolicy {
    #[default]
    ClusterFirst,
    ClusterFirstWithHostNet,
    /// The node's own.
    Default,
    /// `dnsConfig` alone.
    None,
}

/// v1 PodDNSConfig, within Kubernetes' limits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DnsConfig {
    pub nameservers: Vec<IpAddr>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

/// One word of resolv.conf(5)'s `options`: `name` or `name:value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: IpAddr,
    pub hostnames: Vec<String>,
}

/// Which nodes the pod may run on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Placement {
    /// `nodeName`: only this node, when set.
    pub node_name: Option<String>,
    pub node_selector: BTreeMap<String, String>,
    /// `affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution`: None when absent; any term may match.
    pub required_terms: Option<Vec<NodeSelectorTerm>>,
    pub tolerations: Vec<Toleration>,
}

/// All requirements of a term must hold; a term with none matches nothing (Kubernetes).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeSelectorTerm {
    /// `matchExpressions`: over labels.
    pub labels: Vec<Requirement>,
    /// `matchFields`: only `metadata.name` exists.
    pub fields: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// v1 NodeSelectorOperator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// v1 Toleration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Toleration {
    /// None with `exists`: tolerates every key.
    pub key: Option<String>,
    /// `operator: Exists`; otherwise Equal.
    pub exists: bool,
    pub value: String,
    /// None: every effect.
    pub effect: Option<TaintEffect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// v1 Taint of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: TaintEffect,
}

/// v1 Container, as far as it is honoured.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub name: String,
    /// As written. `image_reference` in the runtime makes it canonical.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Replaces the image's entrypoint when not empty; `$(VAR)` not yet expanded.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty; `$(VAR)` not yet expanded.
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    pub env: Vec<EnvVar>,
    /// `envFrom`: what `env` says wins, then what stands later here.
    pub env_from: Vec<EnvFrom>,
    pub resources: Resources,
    pub resize_policy: ResizePolicy,
    pub mounts: Vec<VolumeMount>,
    /// Effective: the container's own fields over the pod's.
    pub security: Security,
    /// `ports[]`: for show, for named ports, and for ports of the node that lead here.
    pub ports: Vec<ContainerPort>,
    pub stdin: bool,
    pub tty: bool,
    pub role: Role,
    pub probes: Probes,
    pub hooks: Hooks,
    pub last_words: LastWords,
}

impl Container {
    /// Whether it mounts the volume, or takes variables out of its files.
    pub fn uses(&self, volume: &str) -> bool {
        let reads = |var: &EnvVar| matches!(&var.value, EnvValue::File { volume: of, .. } if of == volume);
        self.mounts.iter().any(|mount| mount.volume == volume) || self.env.iter().any(reads)
    }
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// One of `initContainers`: runs to its end before the next begins.
    Init,
    /// One of `initContainers` with `restartPolicy: Always`: starts in its turn, runs as long as the pod, stops after the main
    /// ones (KEP-753).
    Sidecar,
    /// One of `containers`.
    #[default]
    Main,
}

/// v1 Probe by kind.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probes {
    /// Until it succeeds the others do not run, and the container has not started.
    pub startup: Option<Probe>,
    /// Fails: the container is ended, and its restart policy decides.
    pub liveness: Option<Probe>,
    /// Fails: the container is not ready.
    pub readiness: Option<Probe>,
}

impl Probes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Probes::default()
    }
}

/// v1 Probe, with Kubernetes' defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub handler: Handler,
    /// `initialDelaySeconds`: from the container's start.
    pub initial_delay: Duration,
    /// At least 1 s.
    pub period: Duration,
    /// At least 1 s.
    pub timeout: Duration,
    /// Successes in a row that count; at least 1.
    pub success_threshold: u32,
    /// Failures in a row that count; at least 1.
    pub failure_threshold: u32,
    /// The grace period of a container that is ended because of this probe; None: the pod's.
    pub grace: Option<Duration>,
}

/// What a probe or a hook does (v1 ProbeHandler, LifecycleHandler).
#[derive(Debug, Clone, PartialEq)]
pub enum Handler {
    /// Command and arguments, run in the container without a shell. Not empty.
    Exec(Vec<String>),
    HttpGet(HttpGet),
    /// Only probes.
    TcpSocket {
        host: Option<String>,
        port: PortReference,
    },
    /// grpc.health.v1.Health/Check; only probes.
    Grpc {
        port: u16,
        service: String,
    },
    /// Only hooks.
    Sleep(Duration),
}

/// v1 HTTPGetAction.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpGet {
    /// Perhaps with a query; `/` where absent.
    pub path: String,
    pub port: PortReference,
    /// None: the pod's address.
    pub host: Option<String>,
    pub scheme: Scheme,
    /// In the document's order; one name may come twice.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// A port by its number, or by its name among the container's `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortReference {
    Number(u16),
    Name(String),
}

/// v1 Lifecycle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hooks {
    /// Runs beside the entrypoint; the container has not started before it is over.
    pub post_start: Option<Handler>,
    /// Runs before the stop signal, within the grace period.
    pub pre_stop: Option<Handler>,
    /// `stopSignal`, such as `SIGUSR1`; None: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
}

/// Where a container may say why it ended (`terminationMessagePath`, `terminationMessagePolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// Absolute, in the container.
    pub path: String,
    /// `FallbackToLogsOnError`: of one that failed without a word, the end of its log.
    pub or_log: bool,
}

impl Default for LastWords {
    fn default() -> Self {
        LastWords { path: "/dev/termination-log".into(), or_log: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EnvVar {
    pub name: String,
    pub value: EnvValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum EnvValue {
    /// `value`, with `$(VAR)` not yet expanded.
    Literal(String),
    /// `valueFrom.fieldRef`.
    Field(PodField),
    /// `valueFrom.resourceFieldRef`.
    Resource { container: String, resource: ContainerResource, divisor: Quantity },
    /// `valueFrom.configMapKeyRef`, `valueFrom.secretKeyRef`; [`crate::resolve`] makes it a value.
    Content { kind: ContentKind, name: String, key: String, optional: bool },
    /// `valueFrom.fileKeyRef`: of a file in an emptyDir of the pod ([`crate::env_file`]); `path` is relative, without `..`.
    File { volume: String, path: String, key: String, optional: bool },
    /// A value of a ConfigMap, a Secret or a file: UTF-8 without NUL, never expanded.
    Known(Hidden),
}

/// v1 EnvFromSource: all values of a document as variables, each with this before its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFrom {
    pub kind: ContentKind,
    pub name: String,
    pub prefix: String,
    pub optional: bool,
}

/// The fields that `fieldRef` may name in an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodField {
    Name,
    Namespace,
    Uid,
    Label(String),
    Annotation(String),
    NodeName,
    ServiceAccountName,
    HostIp,
    HostIps,
    PodIp,
    PodIps,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerResource {
    LimitsCpu,
    LimitsMemory,
    LimitsEphemeralStorage,
    RequestsCpu,
    RequestsMemory,
    RequestsEphemeralStorage,
    /// Of pages of one size: `hugepages-2Mi`.
    LimitsHugePages(String),
    RequestsHugePages(String),
}

/// A Kubernetes quantity in thousandths of its base unit (`100m` is 100, `200Mi` is 209,715,200,000). Saturating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    pub milli: i128,
}

/// `resources`, with Kubernetes' defaulting done: a limit without request is also the request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_request_milli: Option<u64>,
    pub cpu_limit_milli: Option<u64>,
    /// Bytes.
    pub memory_request: Option<u64>,
    pub memory_limit: Option<u64>,
    /// As written, for the status: canonical `resources` of the document.
    pub limits: BTreeMap<String, String>,
    pub requests: BTreeMap<String, String>,
    /// Of `limits`: bytes of huge pages by the size of a page in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Of a container in a pod with resources of its own.
    pub within: Option<Box<Within>>,
}

/// What a pod with resources of its own gives a container that lacks a limit (KEP-2837).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Within {
    pub cpu_limit_milli: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    pub huge_pages: BTreeMap<u64, u64>,
    /// The container's equal part of the memory that the pod requests beyond what its containers do, in bytes.
    pub memory_share: u64,
}

impl Resources {
    /// The container's own limit, else its pod's.
    pub fn effective_cpu_limit_milli(&self) -> Option<u64> {
        self.cpu_limit_milli.or_else(|| self.within.as_ref()?.cpu_limit_milli)
    }

    /// The container's own limit, else its pod's; bytes.
    pub fn effective_memory_limit(&self) -> Option<u64> {
        self.memory_limit.or_else(|| self.within.as_ref()?.memory_limit)
    }

    /// Bytes of huge pages by the size of a page: the container's own, else its pod's.
    pub fn effective_huge_pages(&self) -> &BTreeMap<u64, u64> {
        let of_pod = self.within.as_deref().map(|within| &within.huge_pages);
        of_pod.filter(|_| self.huge_pages.is_empty()).unwrap_or(&self.huge_pages)
    }
}

/// `resizePolicy`: whether other amounts need a new run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResizePolicy {
    pub cpu_restarts: bool,
    pub memory_restarts: bool,
}

/// The effective securityContext of a container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Security {
    pub privileged: bool,
    /// None: what the image says, else 0.
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: bool,
    pub read_only_root: bool,
    /// None: allowed (no_new_privs stays off), as in Kubernetes.
    pub allow_privilege_escalation: Option<bool>,
    /// Names without `CAP_`, upper case; `ALL` possible.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    pub seccomp: Option<Seccomp>,
    /// None: the runtime's default unless privileged.
    pub apparmor: Option<AppArmor>,
    pub selinux: Option<SeLinux>,
    /// `procMount: Unmasked`: only in a pod with users of its own.
    pub unmasked_proc: bool,
}

/// `supplementalGroupsPolicy` (KEP-3619).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupsPolicy {
    /// The groups that the image's /etc/group has the user in are added.
    #[default]
    Merge,
    /// Only what the pod says.
    Strict,
}

/// `seLinuxOptions`: parts of a label; None: the node's usual one. At least one is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeLinux {
    pub user: Option<String>,
    pub role: Option<String>,
    pub kind: Option<String>,
    pub level: Option<String>,
}

/// `appArmorProfile`, or the annotation that preceded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    RuntimeDefault,
    Unconfined,
    /// A profile that somebody loads on the node, by its name in the kernel. Never empty.
    Localhost(String),
}

/// `seccompProfile`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    RuntimeDefault,
    Unconfined,
    /// A file below the node's directory of profiles: relative, never empty, without `..`.
    Localhost(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPort {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: String,
    /// With hostNetwork always the port itself.
    pub host_port: Option<u16>,
    /// None: every address of the node.
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct VolumeMount {
    /// A volume's name: always one of the pod's.
    pub volume: String,
    pub mount_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
    pub recursive_read_only: RecursiveReadOnly,
    /// None: the whole volume.
    pub sub_path: Option<SubPath>,
}

/// What of a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubPath {
    /// `subPath`: relative, without `..`.
    Literal(String),
    /// `subPathExpr`: the same with `$(VAR)` not yet expanded.
    Expression(String),
}

/// `mountPropagation`: whether mounts that are made after the container's start cross its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Propagation {
    #[default]
    None,
    /// Those of the node appear in the container.
    HostToContainer,
    /// And those of the container on the node. Privileged containers only.
    Bidirectional,
}

/// `recursiveReadOnly`: whether what is mounted below a read-only mount is read-only too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecursiveReadOnly {
    #[default]
    Disabled,
    IfPossible,
    Enabled,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Debug, Clone, PartialEq)]
pub enum VolumeSource {
    HostPath {
        path: String,
        kind: HostPathKind,
    },
    EmptyDir(EmptyDir),
    /// configMap, secret and downwardAPI volumes are projected ones of one source.
    Projected(Projected),
    Image(ImageVolume),
}

/// v1 ImageVolumeSource (KEP-4639): the files of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// As written, like a container's image.
    pub reference: String,
    pub pull_policy: PullPolicy,
}

impl VolumeSource {
    /// Nobody writes to it, whatever a mount says (Kubernetes, since CVE-2017-1002102).
    pub fn is_read_only(&self) -> bool {
        matches!(self, VolumeSource::Projected(_) | VolumeSource::Image(_))
    }
}

/// v1 ProjectedVolumeSource: files made of documents and of the pod itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Projected {
    /// Later ones win over earlier ones.
    pub sources: Vec<Projection>,
    /// Permission bits of files whose item names none.
    pub default_mode: u32,
    /// The pod's `fsGroup`: who may read it beside root.
    pub group: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Projection {
    /// A ConfigMap or Secret; without items all of its keys.
    Content {
        kind: ContentKind,
        name: String,
        items: Vec<KeyToPath>,
        optional: bool,
    },
    Downward(Vec<DownwardFile>),
    /// `serviceAccountToken`: given by the control endpoint to its own pods, left out elsewhere.
    Token {
        path: String,
        audience: String,
        expiration_seconds: u64,
    },
}

/// v1 KeyToPath. The path is relative to the volume and never climbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// v1 DownwardAPIVolumeFile.
#[derive(Debug, Clone, PartialEq)]
pub struct DownwardFile {
    pub path: String,
    pub mode: Option<u32>,
    pub value: DownwardValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DownwardValue {
    Field(DownwardField),
    Resource { container: String, resource: ContainerResource, divisor: Quantity },
}

/// The fields that `fieldRef` may name in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownwardField {
    Name,
    Namespace,
    Uid,
    Labels,
    Annotations,
    Label(String),
    Annotation(String),
}

/// v1 EmptyDirVolumeSource: begins empty with the pod and goes with it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmptyDir {
    pub medium: Medium,
    /// Bytes; None (as 0): no limit of its own.
    pub size_limit: Option<u64>,
    /// The pod's `fsGroup`: who it belongs to beside root.
    pub group: Option<u32>,
}

/// Where an emptyDir's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    #[default]
    Disk,
    Memory,
    /// Pages of this many bytes; None: of the node's usual size.
    HugePages(Option<u64>),
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// `""`: no check; a directory is made where nothing is.
    Unset,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The annotation of a template whose containers are done when they have exited 0.
pub const RUN_ONCE_ANNOTATION: &str = "daemonlet.dev/run-once";

/// The annotation that keeps a created successor waiting beside each running container.
pub const STANDBY_ANNOTATION: &str = "daemonlet.dev/standby";

/// The annotation with the names of pods that are to be ready before this one starts, and that end after it.
pub const AFTER_ANNOTATION: &str = "daemonlet.dev/after";

/// The annotation that makes a new pod where a ConfigMap or Secret that the template uses holds something else.
pub const RESTART_ON_CONFIG_CHANGE_ANNOTATION: &str = "daemonlet.dev/restart-on-config-change";

/// Written by `merge` beside it: a digest of what they hold, so that it is part of the revision and of the record.
pub const CONFIG_DIGEST_ANNOTATION: &str = "daemonlet.dev/config-digest";

/// Kubernetes' annotations for the bandwidth of a pod with a network of its own, in bits a second.
pub const INGRESS_BANDWIDTH_ANNOTATION: &str = "kubernetes.io/ingress-bandwidth";
pub const EGRESS_BANDWIDTH_ANNOTATION: &str = "kubernetes.io/egress-bandwidth";

impl PodTemplate {
    /// Whether a created successor is to stand by ([`STANDBY_ANNOTATION`]).
    pub fn standby(&self) -> bool {
        self.annotations.get(STANDBY_ANNOTATION).is_some_and(|v| v == "true")
    }

    /// Whether other values in what it uses make a new pod ([`RESTART_ON_CONFIG_CHANGE_ANNOTATION`]).
    pub fn restarts_on_config_change(&self) -> bool {
        self.annotations.get(RESTART_ON_CONFIG_CHANGE_ANNOTATION).is_some_and(|v| v == "true")
    }

    /// Whether a container that exited 0 is done ([`RUN_ONCE_ANNOTATION`]); one that fails is run again.
    pub fn run_once(&self) -> bool {
        self.annotations.get(RUN_ONCE_ANNOTATION).is_some_and(|v| v == "true")
    }
}

impl PodSpec {
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Every image that the pod needs: its containers' and its volumes', as written.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let volumes = self.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Image(of) => Some(of.reference.as_str()),
            VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Projected(_) => None,
        });
        self.containers.iter().map(|container| container.image.as_str()).chain(volumes)
    }

    /// The image volumes that this container mounts, each once, with their names.
    pub fn image_volumes<'a>(&'a self, container: &'a Container) -> impl Iterator<Item = (&'a str, &'a ImageVolume)> {
        self.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Image(of) => {
                let mounted = container.mounts.iter().any(|mount| mount.volume == volume.name);
                mounted.then_some((volume.name.as_str(), of))
            }
            VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Projected(_) => None,
        })
    }

    /// The containers of `spec.containers`.
    pub fn mains(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.role == Role::Main)
    }
}
