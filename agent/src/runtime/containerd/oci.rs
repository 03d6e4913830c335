//! The OCI runtime spec of a container: values in, [`Spec`] out. CRI's duties towards a container are fulfilled here.
//!
//! Driven by `containers`. Pure: what must be looked up on the machine comes in as [`Host`], [`HostDevice`] and
//! [`Accounts`]. What the machine cannot give as asked is left out and said in [`Adapted`]; it fails no pod.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Mount,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use pod::spec::{self, RecursiveReadOnly, Seccomp, VolumeMount, VolumeSource};

use super::apparmor::AppArmor;
use super::capabilities::{self, CapSet};
use super::environment::environment;
use super::host::{Host, HostDevice};
use super::huge_pages::{self, HugePagesError};
use super::image_facts::ImageFacts;
use super::image_volumes;
use super::propagation;
use super::resources::{self, MemoryPolicy};
use super::seccomp::{self, localhost};
use super::selinux;
use super::sub_paths::SubPath;
use super::user::{self, Accounts, UserError};
use crate::seams::{CreateRun, OwnUsers};

/// The OCI runtime-spec version that we write: what runc 1.1 reads.
const OCI_VERSION: &str = "1.0.2";
/// Shim grouping: containers with the same value share one shim (read by containerd's runc shim from config.json).
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";
/// Open files per process, where the hard limit allows: what daemons are used to; more only makes those slow that
/// close every possible descriptor.
pub const NOFILE: u64 = 1_048_576;

/// /proc and /sys places that tell about, or reach into, the machine.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything that the spec is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub run: &'a CreateRun<'a>,
    pub image: &'a ImageFacts,
    pub accounts: &'a Accounts,
    pub host: &'a Host,
    pub apparmor: &'a AppArmor,
    /// All of the host's devices where the container is privileged; not looked at otherwise.
    pub host_devices: &'a [HostDevice],
    /// Volumes whose host path is a device node, by volume name.
    pub volume_devices: &'a BTreeMap<String, HostDevice>,
    /// Host directories of the image's VOLUMEs, by their place in the container.
    pub image_volumes: &'a BTreeMap<PathBuf, PathBuf>,
    /// Parts of volumes that are mounted instead of the whole, by the mount's place among the container's.
    pub sub_paths: &'a BTreeMap<usize, SubPath>,
    /// Whether the node can make mounts recursively read-only; Err: why not. Asked for only where it matters.
    pub recursive_read_only: &'a Result<(), String>,
    pub node_name: &'a str,
    /// An unset profile means RuntimeDefault; false: Unconfined, as in Kubernetes.
    pub seccomp_default: bool,
    pub seccomp_abi: seccomp::Abi,
    pub memory: MemoryPolicy,
    /// The file of a `Localhost` profile; empty where none is asked for.
    pub seccomp_profile: &'a [u8],
    pub huge_pages: &'a huge_pages::Node,
    /// Asked for only where it matters.
    pub selinux: &'a selinux::Node,
    /// [`OciRuntime::shim_group`](super::classes::OciRuntime::shim_group).
    pub shim_group: &'a str,
}

/// Something that was asked for and that this machine cannot give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapted {
    pub what: String,
    pub why: String,
}

impl fmt::Display for Adapted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Why no spec can be made. All but [`SpecError::NoCommand`] are CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    User(#[from] UserError),
    #[error("no command specified: neither the container nor its image has one; set command")]
    NoCommand,
    #[error("the capability {0:?} does not exist")]
    UnknownCapability(String),
    #[error("the working directory {0:?} is refused: it must be absolute, without `..`, and not below /proc")]
    WorkingDir(String),
    #[error(
        "the working directory {dir:?} is refused: it leads to {place:?}, and nothing begins in what /proc shows of processes; set workingDir, or use another image"
    )]
    WorkingDirLeads { dir: PathBuf, place: PathBuf },
    #[error("the image's volume {0:?} is refused: it must be absolute and without `..`")]
    ImageVolume(String),
    #[error("{0}")]
    Environment(String),
    #[error("the volume {0:?} is mounted but was not set up")]
    NoVolume(String),
    #[error("{place} cannot be made recursively read-only: {why}; or set recursiveReadOnly to IfPossible")]
    NoRecursion { place: String, why: String },
    #[error("user or group {0} is none of the pod's: with hostUsers: false it has those from 0 to 65535")]
    BeyondOwnUsers(u32),
    #[error(transparent)]
    HugePages(#[from] HugePagesError),
    #[error("the seccomp profile {profile:?} cannot be used: {why}")]
    SeccompProfile { profile: String, why: String },
    #[error(
        "the AppArmor profile {profile:?} is not in this node's kernel: {why}; load it (apparmor_parser -r FILE), or choose RuntimeDefault"
    )]
    NoAppArmorProfile { profile: String, why: &'static str },
}

impl SpecError {
    /// Kubernetes' reason.
    pub fn reason(&self) -> &'static str {
        match self {
            SpecError::NoCommand => "CreateContainerError",
            _ => "CreateContainerConfigError",
        }
    }
}

/// The spec, and what had to be adapted.
pub fn spec(inputs: &Inputs<'_>) -> Result<(Spec, Vec<Adapted>), SpecError> {
    let mut adapted = Vec::new();
    let (run, host) = (inputs.run, inputs.host);
    let security = &run.container.security;
    for volume in &inputs.image.config.volumes {
        if !is_plain_absolute(volume) {
            return Err(SpecError::ImageVolume(volume.clone()));
        }
        if image_volumes::is_the_kernels(&normal(volume)) {
            adapted.push(Adapted {
                what: format!("the image's volume {volume} is not made"),
                why: "the place is the kernel's".into(),
            });
        }
    }
    let capabilities = given_capabilities(inputs, &mut adapted)?;
    let mut process = process(inputs, capabilities, &mut adapted)?;
    let mounts = mounts(inputs, &mut adapted)?;

    let mut linux = Linux::default();
    linux
        .set_cgroups_path(Some(PathBuf::from(run.sandbox.cgroup.cgroups_path(&run.run.container_id()))))
        .set_namespaces(Some(namespaces(inputs)))
        .set_resources(Some(resources::of_container(inputs, &mut adapted)?))
        .set_devices(security.privileged.then(|| resources::device_nodes(inputs.host_devices)))
        .set_rootfs_propagation(propagation::of_root(&run.container.mounts))
        .set_seccomp(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let mapping = run.sandbox.users.map(|users| vec![mapping(users)]);
    linux.set_uid_mappings(mapping.clone()).set_gid_mappings(mapping);
    if !security.privileged && !security.unmasked_proc {
        let masked = MASKED_PATHS.iter().map(|path| (*path).to_owned()).chain(host.thermal.iter().cloned());
        linux.set_masked_paths(Some(masked.collect())).set_readonly_paths(Some(owned(&READONLY_PATHS)));
    }
    if !security.privileged {
        let default = || seccomp::runtime_default(capabilities, host.architecture, inputs.seccomp_abi);
        linux.set_seccomp(match &security.seccomp {
            Some(Seccomp::RuntimeDefault) => Some(default()),
            Some(Seccomp::Unconfined) => None,
            Some(Seccomp::Localhost(profile)) => Some(localhost_profile(inputs, profile, capabilities)?),
            None => inputs.seccomp_default.then(default),
        });
    }
    let labels = selinux_labels(inputs, &mut adapted);
    if let Some(selinux::Labels { process: of_process, mount }) = labels {
        process.set_selinux_label(Some(of_process));
        linux.set_mount_label(Some(mount));
    }

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(security.read_only_root));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        // The UTS namespace is joined or the host's: a name here would be set in it.
        .set_hostname(None)
        .set_domainname(None)
        .set_mounts(Some(mounts))
        .set_process(Some(process))
        .set_annotations(Some(HashMap::from([(SHIM_GROUP.to_owned(), inputs.shim_group.to_owned())])))
        .set_linux(Some(linux));
    Ok((spec, adapted))
}

fn process(inputs: &Inputs<'_>, capabilities: CapSet, adapted: &mut Vec<Adapted>) -> Result<Process, SpecError> {
    let (run, image, host) = (inputs.run, &inputs.image.config, inputs.host);
    let security = &run.container.security;
    let who = user::run_as(security, &image.user, inputs.accounts)?;
    if run.sandbox.users.is_some()
        && let Some(beyond) = [who.uid, who.gid].into_iter().chain(who.groups.clone()).find(|id| *id >= OwnUsers::COUNT)
    {
        return Err(SpecError::BeyondOwnUsers(beyond));
    }
    let environment = environment(run, image, host, inputs.node_name).map_err(SpecError::Environment)?;
    if environment.args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let mut account = User::default();
    account.set_uid(who.uid).set_gid(who.gid).set_additional_gids(Some(who.groups));
    let mut process = Process::default();
    process
        .set_terminal(Some(run.container.tty))
        .set_user(account)
        .set_args(Some(environment.args))
        .set_env(Some(environment.env))
        .set_cwd(working_dir(inputs)?)
        .set_capabilities(Some(capability_sets(capabilities)))
        .set_rlimits(Some(vec![open_files(host, adapted)]))
        .set_no_new_privileges(Some(security.allow_privilege_escalation == Some(false)))
        .set_apparmor_profile(apparmor_profile(inputs, adapted)?)
        .set_oom_score_adj(Some(resources::oom_score_adj(inputs, adapted)));
    Ok(process)
}

/// Asked for and giveable.
fn given_capabilities(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> Result<CapSet, SpecError> {
    let asked = capabilities::asked(&inputs.run.container.security).map_err(SpecError::UnknownCapability)?;
    let missing = asked.without(inputs.host.capabilities);
    if missing != CapSet::default() {
        let names: Vec<&str> = missing.names().into_iter().collect();
        adapted.push(Adapted {
            what: format!("capabilities {} not given", names.join(", ")),
            why: "containerd does not have them itself".into(),
        });
    }
    Ok(asked.and(inputs.host.capabilities))
}

/// Whether two specs, as JSON, ask for the same. The order within the capability sets is by chance; all else has one.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    // As plain JSON: reading it as a spec would bring code for everything that a runtime may be asked for.
    let read = |json: &[u8]| {
        let mut spec: serde_json::Value = serde_json::from_slice(json).ok()?;
        let sets = spec.pointer_mut("/process/capabilities").and_then(|sets| sets.as_object_mut());
        for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(|set| set.as_array_mut()) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
        Some(spec)
    };
    read(one).is_some_and(|spec| read(other) == Some(spec))
}

/// Inheritable and ambient stay empty: a program without file capabilities must not gain any by being executed.
fn capability_sets(set: CapSet) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.to_oci()))
        .set_effective(Some(set.to_oci()))
        .set_permitted(Some(set.to_oci()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

fn open_files(host: &Host, adapted: &mut Vec<Adapted>) -> PosixRlimit {
    let limit = NOFILE.min(host.nofile_hard);
    if limit < NOFILE {
        adapted.push(Adapted {
            what: format!("{limit} open files instead of {NOFILE}"),
            why: "containerd has no more itself".into(),
        });
    }
    PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .hard(limit)
        .soft(limit)
        .build()
        .expect("every field has a value")
}

fn localhost_profile(
    inputs: &Inputs<'_>,
    profile: &str,
    capabilities: CapSet,
) -> Result<oci_spec::runtime::LinuxSeccomp, SpecError> {
    let Host { architecture, kernel, .. } = *inputs.host;
    let circumstances = localhost::Circumstances { capabilities, architecture, kernel };
    localhost::profile(inputs.seccomp_profile, &circumstances)
        .map_err(|why| SpecError::SeccompProfile { profile: profile.to_owned(), why })
}

/// A privileged container has no label of its own, as with CRI.
fn selinux_labels(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> Option<selinux::Labels> {
    let security = &inputs.run.container.security;
    let asked = security.selinux.as_ref().filter(|_| !security.privileged)?;
    let labels = inputs.selinux.labels(asked, &inputs.run.run.uid);
    if labels.is_none() {
        adapted.push(Adapted { what: "no SELinux label".into(), why: "this node's kernel has SELinux off".into() });
    }
    labels
}

/// A profile that is asked for by name is a must; the default confines where this node can.
fn apparmor_profile(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> Result<Option<String>, SpecError> {
    let security = &inputs.run.container.security;
    let mut without = |why: &str| {
        adapted.push(Adapted { what: "no AppArmor profile".into(), why: why.into() });
        Ok(None)
    };
    let missing = |profile: &String, why| Err(SpecError::NoAppArmorProfile { profile: profile.clone(), why });
    match (&security.apparmor, inputs.apparmor) {
        (Some(spec::AppArmor::Unconfined), _) => Ok(None),
        (Some(spec::AppArmor::Localhost(profile)), AppArmor::Off) => missing(profile, "it has AppArmor off"),
        (Some(spec::AppArmor::Localhost(profile)), AppArmor::On { loaded, .. }) => match loaded.contains(profile) {
            true => Ok(Some(profile.clone())),
            false => missing(profile, "no such profile is loaded"),
        },
        (Some(spec::AppArmor::RuntimeDefault) | None, _) if security.privileged => Ok(None),
        (Some(spec::AppArmor::RuntimeDefault), AppArmor::Off) => without("this node's kernel has AppArmor off"),
        (None, AppArmor::Off) => Ok(None),
        (Some(spec::AppArmor::RuntimeDefault) | None, AppArmor::On { default, .. }) => match default {
            Ok(profile) => Ok(Some(profile.clone())),
            Err(why) => without(why),
        },
    }
}

/// The container's, else the image's, else `/`. The image's is untrusted, and one below `/proc/<n>/fd` has led out of
/// the container (CVE-2024-21626).
fn working_dir(inputs: &Inputs<'_>) -> Result<PathBuf, SpecError> {
    let image = Some(&inputs.image.config.working_dir).filter(|dir| !dir.is_empty());
    let Some(dir) = inputs.run.container.working_dir.as_ref().or(image) else { return Ok(PathBuf::from("/")) };
    let path = Path::new(dir);
    if !is_plain_absolute(dir) || (path.starts_with("/proc") && path.components().count() > 2) {
        return Err(SpecError::WorkingDir(dir.clone()));
    }
    Ok(path.to_owned())
}

/// Absolute, and nothing in it climbs.
fn is_plain_absolute(path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let run = inputs.run;
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)];
    if !run.template.spec.host_pid && !run.sandbox.namespaces.contains_key("pid") {
        all.push(namespace(LinuxNamespaceType::Pid, None));
    }
    let joined = [
        ("ipc", LinuxNamespaceType::Ipc),
        ("network", LinuxNamespaceType::Network),
        ("pid", LinuxNamespaceType::Pid),
        ("user", LinuxNamespaceType::User),
        ("uts", LinuxNamespaceType::Uts),
    ];
    for (name, kind) in joined {
        if let Some(path) = run.sandbox.namespaces.get(name) {
            all.push(namespace(kind, Some(path.clone())));
        }
    }
    if inputs.host.cgroup_v2 && !run.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    all
}

fn mapping(users: OwnUsers) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(users.first)
        .size(OwnUsers::COUNT)
        .build()
        .expect("every field has a value")
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// The kernel's file systems first, then files and volumes, shallow before deep.
fn mounts(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> Result<Vec<Mount>, SpecError> {
    let run = inputs.run;
    let access = if run.container.security.privileged { "rw" } else { "ro" };
    let mut kernel = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let own: Vec<PathBuf> = run.container.mounts.iter().map(|it| normal(&it.mount_path)).collect();
    // A volume on such a place replaces it; one on /dev brings the host's terminals and queues with it.
    let over_dev = own.iter().any(|path| path == Path::new("/dev"));
    kernel.retain(|it| {
        let replaced = own.contains(it.destination()) || (over_dev && it.destination().starts_with("/dev"));
        !replaced
    });

    let users = run.sandbox.users.map(|users| vec![mapping(users)]);
    // What the node's root has there is the pod's root's in the container, and the other way round.
    let mapped = |mut mount: Mount| {
        mount.set_uid_mappings(users.clone()).set_gid_mappings(users.clone());
        mount
    };
    let mut binds = Vec::new();
    for (place, source) in &run.sandbox.files {
        let place = normal(place);
        if !own.contains(&place) {
            // /etc/hosts and its like follow the root (they lie in a file system of bounded size); shared memory and last
            // words are for writing.
            let in_dev = place.starts_with("/dev");
            let words = place == normal(&run.container.last_words.path);
            if words && in_dev && over_dev {
                // Its mount point would be made in the host's /dev.
                continue;
            }
            let access = if run.container.security.read_only_root && !in_dev && !words { "ro" } else { "rw" };
            let more: &[&str] = if in_dev { &["nosuid", "nodev", "noexec"] } else { &[] };
            binds.push(mapped(bind(place, source.clone(), &[&["rbind", "rprivate", access], more].concat())));
        }
    }
    for (index, (volume, place)) in run.container.mounts.iter().zip(own).enumerate() {
        let of_volume = || run.sandbox.volumes.get(&volume.volume);
        let source = inputs.sub_paths.get(&index).map(|part| &part.bound).or_else(of_volume);
        let source = source.ok_or_else(|| SpecError::NoVolume(volume.volume.clone()))?;
        let of_spec = run.template.spec.volumes.iter().find(|it| it.name == volume.volume);
        let forced = of_spec.is_some_and(|it| it.source.is_read_only());
        let wanted = VolumeMount { read_only: volume.read_only || forced, ..volume.clone() };
        let access = volume_access(&wanted, inputs.recursive_read_only, adapted)?;
        let mut options = vec!["rbind", propagation::word(volume.propagation), access];
        let of_image = of_spec.is_some_and(|it| matches!(it.source, VolumeSource::Image(_)));
        if of_image {
            options.extend(["nosuid", "nodev", "noexec"]);
        }
        let bind = bind(place, source.clone(), &options);
        // The kernel maps neither an overlay of layers, which is only read, nor the devices' file system.
        let plain = of_image || inputs.volume_devices.contains_key(&volume.volume);
        binds.push(if plain { bind } else { mapped(bind) });
    }
    // Writable also where the root is not: that is what they are for.
    let own_copies = inputs.image_volumes.iter();
    let writable = ["rbind", "rprivate", "rw"];
    binds.extend(own_copies.map(|(place, source)| mapped(bind(place.clone(), source.clone(), &writable))));
    // Stable: equal depths stay in the manifest's order.
    binds.sort_by_key(|it| it.destination().components().count());
    kernel.extend(binds);
    Ok(kernel)
}

/// runc's word for what may be done with a volume.
fn volume_access(
    mount: &VolumeMount,
    possible: &Result<(), String>,
    adapted: &mut Vec<Adapted>,
) -> Result<&'static str, SpecError> {
    let asked = if mount.read_only { mount.recursive_read_only } else { RecursiveReadOnly::Disabled };
    match (asked, possible) {
        (RecursiveReadOnly::Disabled, _) if mount.read_only => Ok("ro"),
        (RecursiveReadOnly::Disabled, _) => Ok("rw"),
        (RecursiveReadOnly::IfPossible | RecursiveReadOnly::Enabled, Ok(())) => Ok("rro"),
        (RecursiveReadOnly::IfPossible, Err(why)) => {
            let what = format!("what is mounted below {} is not read-only", mount.mount_path);
            adapted.push(Adapted { what, why: why.clone() });
            Ok("ro")
        }
        (RecursiveReadOnly::Enabled, Err(why)) => {
            Err(SpecError::NoRecursion { place: mount.mount_path.clone(), why: why.clone() })
        }
    }
}

/// Without doubled or trailing slashes, so that places compare.
fn normal(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

fn mount(place: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(place))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(owned(options)));
    mount
}

fn bind(place: PathBuf, source: PathBuf, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(place)
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source))
        .set_options(Some(owned(options)));
    mount
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests;
