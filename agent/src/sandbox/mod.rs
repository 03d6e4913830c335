//! Pods' surroundings on this node: namespaces, network, cgroups, volumes and files, made without a pause container.
//!
//! Driven by the workers through [`Sandboxes`]. [`NodeSandboxes`] here is the order of things; each folder or file below
//! knows one of them: `namespaces` (with `netlink`), `holder`, `cni` (with `record`), `cgroups`, `volumes`, `files` (with `mounts`),
//! `addresses`, `listeners`; `watch` looks at what stands. None of it knows containers, plans or containerd.
//!
//! Where things are, for a pod `U`:
//!
//! ```text
//! <run-dir>/pods/U/                   a small file system in memory, and in it:
//!     ns/{net,ipc,uts,pid,user}       pinned namespaces       made                      set-up ended
//!     users                           the first of its own users, by the node's number
//!     etc/{hosts,…}                   files for containers    shm                       /dev/shm
//!     volumes/empty-dir/NAME          emptyDirs in memory     subpaths/C/N/I            the runtime's, while it creates C
//!     volumes/projected/NAME          files of ConfigMaps, Secrets and the pod itself
//! <run-dir>/holders/U                 the process behind a shared pid
//! <run-dir>/network/U.json            CNI record              <run-dir>/cni/daemonlet   reservations
//! <state-dir>/network/U.json          that of a network of the node's
//! <state-dir>/pods/U/volumes          what containers wrote: empty-dir/NAME, and VOLUMEs of images, made by the runtime
//! <cgroup>/<root>/…/podU              cgroup
//! ```
//!
//! One unmount takes a pod's whole directory away with all that is pinned in it. Surroundings that are lost while their pod
//! lives leave their emptyDirs behind, also those in memory.
//!
//! What takes long or may hang runs on tokio's blocking threads or in plugins; `inspect` and the small files of `cni` are
//! done inline, in tens of microseconds.

mod addresses;
mod called;
pub mod cgroups;
pub mod cni;
mod config;
mod dns;
mod files;
pub mod follow;
mod holder;
mod inspect;
mod listeners;
mod mounts;
mod namespaces;
mod netlink;
mod record;
mod users;
pub mod volumes;
pub mod watch;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pod::name::{RunKey, Uid};
use pod::observed::SandboxState;
use pod::qos;
use pod::record::Record;
use pod::spec::{HostPathKind, PodSpec, PodTemplate, VolumeSource};

use crate::seams::{Leave, Projected, RESIZE_ERROR, Reach, Sandbox, Sandboxes, StepError, Warned};
use crate::threads;
use called::Called;
use cgroups::Cgroups;
use cgroups::Limits;
use cgroups::hierarchy::Left;
use cni::wishes::Wishes;
use cni::{Network, NetworkConfig, PodNames};

use volumes::{Places, Wanted, When};

pub use cgroups::Driver;
pub use config::{BRIDGE, Config, OpenError};
pub use dns::Cluster;
pub use files::NodeFiles;

/// Kubernetes' reasons.
const CREATE: &str = "CreatePodSandboxError";
const KILL: &str = "KillPodSandboxError";
const MOUNT: &str = "FailedMount";

/// As much shared memory as containerd's CRI gives a pod, and a little for the files.
const POD_DIR_OPTIONS: &str = "size=65m,mode=0700";
/// A hostPath on a dead network file system hangs for ever; after this the pod says so and is tried again.
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(10);
/// Threads that a pod's hanging hostPaths may hold: as many as it may have containers created at once.
const LOOKS_MAX: usize = 16;

/// The real [`Sandboxes`].
#[derive(Debug, Clone)]
pub struct NodeSandboxes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    cgroups: Arc<Cgroups>,
    network: Network,
    node_addresses: addresses::NodeAddresses,
    /// How many threads look at a pod's volumes just now.
    looking: Mutex<BTreeMap<Uid, usize>>,
    /// Pods that have lost their network, and how, until their surroundings are taken away.
    lost: Mutex<BTreeMap<Uid, String>>,
    ranges: users::Ranges,
}

impl NodeSandboxes {
    /// Prepares the pods' directory and reads what cgroups there are. Blocking, a millisecond; call it once, at start.
    pub fn open(config: Config) -> Result<NodeSandboxes, OpenError> {
        config.check()?;
        let pods = config.run_dir.join("pods");
        let prepared = mounts::make_shared_root(&pods)
            .and_then(|()| fs::set_permissions(&pods, fs::Permissions::from_mode(0o700)));
        prepared.map_err(|source| OpenError::Directory { path: pods, source })?;
        let cgroups = Cgroups::open(&config.cgroup_root, config.cgroup_driver).map_err(OpenError::Cgroups)?;
        let network = Network::new(NetworkConfig {
            bridge: config.bridge.clone(),
            cidrs: config.pod_cidrs.clone(),
            bin_dirs: config.cni_bin_dirs.clone(),
            conf_dir: config.cni_conf_dir.clone(),
            notes: record::Notes { run: config.run_dir.join("network"), disk: config.state_dir.join("network") },
            reservations: config.run_dir.join("cni"),
            run_dir: config.run_dir.clone(),
        });
        let shared = Shared {
            config,
            cgroups: Arc::new(cgroups),
            network,
            node_addresses: addresses::NodeAddresses::default(),
            looking: Mutex::default(),
            lost: Mutex::default(),
            ranges: users::Ranges::default(),
        };
        Ok(NodeSandboxes { shared: Arc::new(shared) })
    }

    /// Ends plugins that a killed agent left running, and frees addresses that are taken and name nobody, which no pod's
    /// tear-down finds. Once, at start, before a pod is connected; what the address plugin is just writing looks the same.
    /// Blocking, milliseconds; seconds where a plugin is stuck in the kernel.
    pub fn free_nobodys_addresses(&self) -> Result<(), StepError> {
        self.shared.network.end_survivors().map_err(|error| step(KILL, &error))?;
        self.shared.network.sweep_empty_reservations().map_err(|error| step(KILL, &error))
    }

    /// The node's addresses, IPv4 first, one of a family; none while it has no network.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        self.shared.node_addresses.get(&self.shared.config.bridge)
    }

    /// The same as they are just now.
    fn look_at_node_ips(&self) -> Vec<IpAddr> {
        self.shared.node_addresses.look(&self.shared.config.bridge)
    }

    /// Takes away what all pods share: the bridge, packet rules, parents of cgroups, the mount at the pods' directory.
    /// For taking the node down, when no pod is left.
    pub async fn close_down(&self) -> Result<(), StepError> {
        let shared = self.shared.clone();
        shared.network.remove_node_network().await.map_err(|message| StepError::new(KILL, message))?;
        shared.cgroups.stop_classes().await.map_err(|error| step(KILL, &error))?;
        blocking(move || {
            shared.cgroups.remove_root().map_err(|error| step(KILL, &error))?;
            let pods = shared.config.run_dir.join("pods");
            mounts::unmount(&pods).map_err(|error| step(KILL, &error))
        })
        .await
    }
}

impl Sandboxes for NodeSandboxes {
    async fn inspect(&self, uid: &Uid, template: &PodTemplate) -> SandboxState {
        if is_safe_name(&uid.0) { self.shared.inspect(uid, template) } else { SandboxState::Absent }
    }

    async fn fill(&self, uid: &Uid, files: &Projected) -> Result<(), StepError> {
        check_uid(uid, MOUNT)?;
        let (shared, uid, files) = (self.shared.clone(), uid.clone(), files.clone());
        let filled = blocking(move || {
            let pod_dir = shared.pod_dir(&uid);
            mounts::tmpfs(&pod_dir, POD_DIR_OPTIONS)?;
            volumes::projected::prepare(&pod_dir)?;
            let place = volumes::projected::place(&pod_dir);
            files
                .iter()
                .try_for_each(|(volume, files)| volumes::projected::write(&place.join(volume), files).map(|_| ()))
        });
        filled.await.map_err(|error: io::Error| StepError::new(MOUNT, format!("cannot write the pod's files: {error}")))
    }

    async fn set_up(&self, record: &Record, template: &PodTemplate) -> Result<Vec<Warned>, StepError> {
        let uid = &record.uid;
        check_uid(uid, CREATE)?;
        let shared = &self.shared;
        let called = shared.called(record, template)?;
        // An address of a namespace that is gone is given back before there is a new one.
        let netns = shared.netns(uid);
        if shared.network.is_stale(uid, &netns).map_err(|e| step(CREATE, &e))? {
            shared.network.disconnect(uid, Some(&netns)).await.map_err(|e| step(CREATE, &e))?;
        }
        let making = {
            let (shared, uid) = (shared.clone(), uid.clone());
            let (naming, namespace) = (template.spec.naming.clone(), record.workload.namespace.clone());
            let (host_network, host_ipc) = (template.spec.host_network, template.spec.host_ipc);
            let (sysctls, own_users) = (template.spec.sysctls.clone(), template.spec.own_users);
            blocking(move || {
                let (called, naming, namespace) = (&called, &naming, namespace.as_str());
                let wanted = files::Wanted { called, naming, namespace, host_network, host_ipc };
                shared.make(&uid, &wanted, &sysctls, own_users).map_err(|error| step(CREATE, &*error))
            })
        };
        // What has no type is made, where nothing is, with the first container that mounts it (as CRI does). Where there are
        // rules for host paths it is looked at nonetheless: better now than when a predecessor has been stopped.
        let mut checked = template.spec.clone();
        if shared.config.allowed.host_paths().is_none() {
            checked
                .volumes
                .retain(|volume| !matches!(volume.source, VolumeSource::HostPath { kind: HostPathKind::Unset, .. }));
        }
        let limits = Limits::of(&template.spec, shared.config.pod_max_pids);
        let cgroup = async { shared.cgroups.make(uid, &limits).await.map_err(|e| step(CREATE, &e)) };
        if checked.volumes.iter().any(volumes::needs_pod_dir) {
            let (made, grouped) = tokio::join!(making, cgroup);
            made?;
            grouped?;
            shared.volumes(uid, &checked, When::SetUp).await?;
        } else {
            let (made, grouped, mounted) = tokio::join!(making, cgroup, shared.volumes(uid, &checked, When::SetUp));
            made?;
            grouped?;
            mounted?;
        }
        if template.spec.share_processes {
            shared.hold(uid, &template.spec).await?;
        }
        fs::write(shared.pod_dir(uid).join("made"), "").map_err(|e| step(CREATE, &e))?;
        Ok(shared.warned(record, template))
    }

    async fn resize(&self, uid: &Uid, template: &PodTemplate, reach: Reach) -> Result<(), StepError> {
        check_uid(uid, RESIZE_ERROR)?;
        // How many processes it may have stays as it was made.
        let limits = Limits::of(&template.spec, None);
        self.shared.cgroups.resize(uid, &limits, reach).await.map_err(|e| step(RESIZE_ERROR, &e))
    }

    async fn connect(&self, record: &Record, template: &PodTemplate) -> Result<Vec<IpAddr>, StepError> {
        check_uid(&record.uid, CREATE)?;
        if template.spec.host_network {
            return Ok(self.node_ips());
        }
        let shared = &self.shared;
        let names = PodNames { namespace: &record.workload.namespace, name: &record.name };
        let wishes = shared.wishes(record, template).map_err(|error| step(CREATE, &error))?;
        let ports = pod::ports::of_spec(&template.spec);
        if !ports.is_empty()
            && shared.network.addresses(&record.uid, &shared.netns(&record.uid)).is_ok_and(|a| a.is_none())
        {
            let root = shared.config.cgroup_root.clone();
            if let Some(taken) = blocking(move || listeners::taken(&ports, &root)).await {
                return Err(StepError::new(CREATE, taken));
            }
        }
        let connected = shared.network.connect(&record.uid, names, &shared.netns(&record.uid), &wishes).await;
        let addresses = connected.map_err(|error| step(CREATE, &error))?;
        let called = shared.called(record, template)?;
        files::write_hosts(&shared.pod_dir(&record.uid), &called, &template.spec.naming.host_aliases, &addresses)
            .map_err(|error| step(CREATE, &error))?;
        Ok(addresses)
    }

    async fn describe(&self, record: &Record, template: &PodTemplate) -> Result<Sandbox, StepError> {
        let (uid, spec) = (&record.uid, &template.spec);
        check_uid(uid, CREATE)?;
        let shared = &self.shared;
        let ns = shared.pod_dir(uid).join("ns");
        let kinds = namespaces::own_kinds(spec.host_network, spec.host_ipc);
        let pod_ips = if spec.host_network {
            self.node_ips()
        } else {
            let known = shared.network.addresses(uid, &shared.netns(uid));
            known.map_err(|error| step(CREATE, &error))?.unwrap_or_default()
        };
        let mut namespaces: BTreeMap<_, _> =
            kinds.iter().map(|kind| (kind.oci().to_owned(), ns.join(kind.file()))).collect();
        if spec.share_processes {
            namespaces.insert(holder::FILE.to_owned(), shared.holder(uid).pin());
        }
        let users = match spec.own_users {
            true => {
                namespaces.insert(users::FILE.to_owned(), ns.join(users::FILE));
                let lost =
                    || StepError::new(CREATE, "it is not known any more which users the pod has: its set-up is gone");
                Some(users::noted(&shared.pod_dir(uid)).ok_or_else(lost)?)
            }
            false => None,
        };
        Ok(Sandbox {
            users,
            namespaces,
            cgroup: shared.cgroups.parent(uid, qos::class(spec)),
            files: files::places(&shared.pod_dir(uid), spec.host_ipc),
            volumes: shared.volumes(uid, spec, When::Create).await?,
            hostname: shared.called(record, template)?.kernel,
            host_ips: self.node_ips(),
            pod_ips,
        })
    }

    async fn tear_down(&self, uid: &Uid, leave: Leave) -> Result<(), StepError> {
        check_uid(uid, KILL)?;
        let shared = self.shared.clone();
        // A directory of ours proves whose cgroup it is; its name alone does not, where two agents share a root.
        let is_ours = shared.pod_dir(uid).exists() || shared.state_dir(uid).exists();
        let left = if is_ours { Left::Ended } else { Left::Told };
        // Each part is tried whatever became of the one before it; the first error is told.
        let netns = shared.netns(uid);
        let disconnected = shared.network.disconnect(uid, Some(&netns)).await.map_err(|e| step(KILL, &e));
        if disconnected.is_ok() {
            shared.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
        // Before the directories: an agent that is killed in between finds by them again whose the processes in the cgroup are. For the same
        // reason they stay as long as the cgroup does.
        let holder = shared.holder(uid);
        let let_go = blocking(move || holder.end().map_err(|error| step(KILL, &error))).await;
        let ungrouped = shared.cgroups.remove(uid, left).await.map_err(|e| step(KILL, &e));
        if ungrouped.is_err() && is_ours {
            return disconnected.and(let_go).and(ungrouped);
        }
        let removed = {
            let (shared, uid) = (shared.clone(), uid.clone());
            blocking(move || shared.remove(&uid, leave).map_err(|error| step(KILL, &*error))).await
        };
        disconnected.and(let_go).and(removed).and(ungrouped)
    }

    fn make_words(&self, run: &RunKey) -> Result<PathBuf, StepError> {
        check_uid(&run.uid, CREATE)?;
        words::make(&self.shared.pod_dir(&run.uid), run).map_err(|error| {
            let place = &self.shared.config.run_dir;
            StepError::new(CREATE, format!("cannot make the file for last words below {}: {error}", place.display()))
        })
    }

    fn last_words(&self, run: &RunKey) -> Option<String> {
        check_uid(&run.uid, CREATE).ok()?;
        words::read(&self.shared.pod_dir(&run.uid), run)
    }

    fn remove_words(&self, run: &RunKey) {
        if is_safe_name(&run.uid.0) {
            words::remove(&self.shared.pod_dir(&run.uid), run);
        }
    }

    async fn list(&self) -> Result<Vec<Uid>, StepError> {
        let shared = self.shared.clone();
        blocking(move || {
            let mut found = shared.network.known().map_err(|error| step(KILL, &error))?;
            found.extend(shared.cgroups.list());
            let (run_dir, state_dir) = (&shared.config.run_dir, &shared.config.state_dir);
            for directory in [run_dir.join("pods"), run_dir.join("holders"), state_dir.join("pods")] {
                found.extend(uids_in(&directory).map_err(|error| step(KILL, &error))?);
            }
            Ok(found.into_iter().collect())
        })
        .await
    }
}

impl Shared {
    fn pod_dir(&self, uid: &Uid) -> PathBuf {
        self.config.run_dir.join("pods").join(&uid.0)
    }

    fn state_dir(&self, uid: &Uid) -> PathBuf {
        self.config.state_dir.join("pods").join(&uid.0)
    }

    fn netns(&self, uid: &Uid) -> PathBuf {
        self.pod_dir(uid).join("ns/net")
    }

    fn holder(&self, uid: &Uid) -> holder::Place {
        holder::Place { note: self.config.run_dir.join("holders").join(&uid.0), ns: self.pod_dir(uid).join("ns") }
    }

    /// Has somebody hold the pod's shared process namespace, in the pod's other namespaces and in its cgroup.
    async fn hold(self: &Arc<Self>, uid: &Uid, spec: &PodSpec) -> Result<(), StepError> {
        let place = self.holder(uid);
        if place.is_held().map_err(|error| step(CREATE, &error))? {
            return Ok(());
        }
        let (kinds, own_users) = (namespaces::own_kinds(spec.host_network, spec.host_ipc), spec.own_users);
        let starting = {
            let (place, uid, program) = (place.clone(), uid.clone(), self.config.keeper.clone());
            blocking(move || {
                place.end()?;
                let way = if own_users { holder::Way::AmongOwnUsers } else { holder::Way::Through(&kinds) };
                holder::start(&program, &uid, &place.ns, way)
            })
        };
        let ready = starting.await.map_err(|error| step(CREATE, &error))?;
        self.cgroups.adopt(uid, qos::class(spec), ready.pid).await.map_err(|error| step(CREATE, &error))?;
        blocking(move || ready.stay(&place)).await.map_err(|error| step(CREATE, &error))
    }

    fn called(&self, record: &Record, template: &PodTemplate) -> Result<Called, StepError> {
        match template.spec.host_network {
            true => Ok(Called::as_the_node(&self.config.node_name)),
            false => Called::of(record, template, &self.config.cluster.domain).map_err(|error| step(CREATE, &error)),
        }
    }

    /// What of the pod's resolv.conf is not as its node, its cluster and itself say together.
    fn warned(&self, record: &Record, template: &PodTemplate) -> Vec<Warned> {
        let (naming, host_network) = (&template.spec.naming, template.spec.host_network);
        let of_node = (&self.config.node_files, &self.config.cluster);
        files::dns_warnings(naming, host_network, &record.workload.namespace, of_node).unwrap_or_default()
    }

    fn wishes(&self, record: &Record, template: &PodTemplate) -> Result<Wishes, files::FilesError> {
        let places = (&self.config.node_files, &self.config.cluster);
        let dns = files::dns_settings(&template.spec.naming, false, &record.workload.namespace, places)?;
        Ok(Wishes::of(template, &dns, &self.config.pod_cidrs))
    }

    /// Namespaces and files. Blocking.
    fn make(
        &self,
        uid: &Uid,
        wanted: &files::Wanted<'_>,
        sysctls: &BTreeMap<String, String>,
        own_users: bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let pod_dir = self.pod_dir(uid);
        let ns = pod_dir.join("ns");
        mounts::tmpfs(&pod_dir, POD_DIR_OPTIONS)?;
        let kinds = namespaces::own_kinds(wanted.host_network, wanted.host_ipc);
        let mut pins = kinds.iter().map(|kind| kind.file()).chain(own_users.then_some(users::FILE));
        if !pins.all(|file| namespaces::is_pinned(&ns.join(file))) {
            // It would be in those that were.
            self.holder(uid).end()?;
            let hostname = &wanted.called.kernel;
            if own_users {
                namespaces::remove(&ns)?;
                fs::create_dir_all(&ns)?;
                let users = self.ranges.take(&self.config.run_dir.join("pods"), uid)?;
                let made = users::make(&self.config.keeper, uid, &ns, &users::Wanted { users, hostname, sysctls });
                if made.is_err() {
                    namespaces::remove(&ns)?;
                }
                made?;
            } else {
                namespaces::make(&ns, &namespaces::Wanted { kinds: &kinds, hostname, sysctls })?;
            }
        }
        Ok(files::make(&pod_dir, wanted, &self.config.node_files, &self.config.cluster)?)
    }

    /// Namespaces, files, directories: everything but network and cgroup. Blocking.
    fn remove(&self, uid: &Uid, leave: Leave) -> Result<(), Box<dyn std::error::Error>> {
        self.holder(uid).end()?;
        let (pod_dir, state_dir) = (self.pod_dir(uid), self.state_dir(uid));
        // A container that has the whole node's tree mounted keeps a copy of this mount: at least it keeps no memory.
        let _ = crate::remove::tree(&pod_dir.join("shm"));
        if leave == Leave::Volumes {
            volumes::kept::remove_others(&state_dir)?;
            if mounts::is_mount_root(&pod_dir) && volumes::kept::some(&pod_dir) {
                return Ok(volumes::kept::remove_others(&pod_dir)?);
            }
        }
        // Everything that is mounted below goes with it, and only from here; what a former version or a stranger left beside is
        // removed too.
        mounts::seclude_below(&pod_dir)?;
        mounts::unmount(&pod_dir)?;
        if absent_is_fine(fs::remove_dir(&pod_dir)).is_err() {
            mounts::unmount_below(&pod_dir)?;
            crate::remove::tree(&pod_dir)?;
        }
        if leave == Leave::Nothing && state_dir.exists() {
            // Containers write there: nothing mounted below may be emptied by the removal, and links are not followed.
            mounts::unmount_below(&state_dir)?;
            crate::remove::tree(&state_dir)?;
        }
        Ok(())
    }

    /// Resolves the volumes on a blocking thread, and gives up waiting when it takes too long.
    async fn volumes(
        self: &Arc<Self>,
        uid: &Uid,
        spec: &PodSpec,
        when: When,
    ) -> Result<BTreeMap<String, PathBuf>, StepError> {
        if spec.volumes.is_empty() {
            return Ok(BTreeMap::new());
        }
        {
            let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
            let count = looking.entry(uid.clone()).or_default();
            if *count >= LOOKS_MAX {
                let hangs = "a hostPath of this pod still does not answer; is its file system gone?";
                return Err(StepError::new(MOUNT, hangs));
            }
            *count += 1;
        }
        let (this, uid, wanted) = (self.clone(), uid.clone(), Wanted::of(spec, self.config.allowed.host_paths(), when));
        let resolving = blocking(move || {
            let places = Places { disk: this.state_dir(&uid), memory: this.pod_dir(&uid) };
            let resolved = volumes::resolve(&wanted, &places).map_err(|error| step(MOUNT, &error));
            let mut looking = this.looking.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = looking.get_mut(&uid) {
                *count -= 1;
                if *count == 0 {
                    looking.remove(&uid);
                }
            }
            resolved
        });
        let seconds = VOLUMES_TIMEOUT.as_secs();
        let hangs = |_| {
            StepError::new(
                MOUNT,
                format!("a hostPath of this pod did not answer within {seconds} s; is its file system gone?"),
            )
        };
        tokio::time::timeout(VOLUMES_TIMEOUT, resolving).await.map_err(hangs)?
    }
}

/// Whether a uid or the like may be a file's name: letters, digits, `-`; it may not climb.
fn is_safe_name(name: &str) -> bool {
    const NAME_MAX: usize = 64;
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn check_uid(uid: &Uid, reason: &'static str) -> Result<(), StepError> {
    if is_safe_name(&uid.0) {
        return Ok(());
    }
    Err(StepError::new(reason, format!("the uid {:?} cannot name a pod: letters, digits and `-` only", uid.0)))
}

fn uids_in(directory: &Path) -> io::Result<Vec<Uid>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_str().filter(|name| is_safe_name(name)).map(|name| Uid(name.to_owned())));
    }
    Ok(found)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs a closure that may take a while beside the single thread of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match threads::in_turn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only when the runtime goes down, and then nobody polls us again.
            Err(_) => std::future::pending().await,
        },
    }
}

fn step(reason: &'static str, error: &dyn std::error::Error) -> StepError {
    StepError::new(reason, chain(error))
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
