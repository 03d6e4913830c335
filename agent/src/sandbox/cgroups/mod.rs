//! A cgroup per pod, under a parent per quality-of-service class, in a root of our own.
//!
//! Driven by `sandbox`. With the cgroupfs driver this file writes the hierarchy itself (blocking, well under a
//! millisecond); with the systemd driver `systemd` asks for slices, and this file only finds and sweeps. The containers'
//! own cgroups below a pod's are the runtime's to make and to remove. No process is killed here, and none moved but our own that
//! holds a pod's process namespace.

pub mod hierarchy;
pub mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pod::name::Uid;
use pod::qos::{self, Cgroup, Class, weight};
use pod::spec::PodSpec;

use crate::seams::{CgroupParent, Reach};
use hierarchy::{
    Hierarchies, Left, delegate, hierarchies, make, pids, present, remove_tree, set, set_cpu_v1, set_huge_pages_v1,
    set_huge_pages_v2, set_if_there, set_v2,
};

/// What a pod's cgroup is made with. The containers' own limits lie below it and are the runtime's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Under which parent it lies.
    pub class: Class,
    pub values: Cgroup,
    /// Processes and threads; None: no limit of its own.
    pub pids_max: Option<u64>,
    /// Of a pod that says itself what it has: bytes of huge pages by the size of a page.
    pub huge_pages: BTreeMap<u64, u64>,
}

impl Limits {
    pub fn of(spec: &PodSpec, pids_max: Option<u64>) -> Limits {
        let huge_pages = spec.resources.as_ref().map(|of_pod| of_pod.huge_pages.clone()).unwrap_or_default();
        Limits { class: qos::class(spec), values: qos::of_pod(spec), pids_max, huge_pages }
    }
}

/// The name of the class's cgroup below the root; None: the root itself.
fn parent_of(class: Class) -> Option<&'static str> {
    match class {
        Class::Guaranteed => None,
        Class::Burstable => Some("burstable"),
        Class::BestEffort => Some("besteffort"),
    }
}

/// Controllers that a pod's cgroup is made in at once; the others' directories are the runtime's to make as it needs them.
const SET_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Below a pod's cgroup of version 2: that of our own process.
const OWN: &str = "init";

/// How cgroups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// systemd exactly where it runs as init (sd_booted(3)).
    pub fn detect() -> Driver {
        if fs::symlink_metadata("/run/systemd/system").is_ok_and(|m| m.is_dir()) {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup hierarchy is mounted on this node; mount one at /sys/fs/cgroup")]
    NoHierarchy,
    #[error("cannot read the table of mounts")]
    Mounts { source: io::Error },
    #[error("cannot make the cgroup {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {path}")]
    Set { path: PathBuf, value: String, source: io::Error },
    #[error("attempting to set the pod's memory limit ({limit}) below its current usage ({used})")]
    InUse { limit: u64, used: u64 },
    #[error("cannot remove the cgroup {path} (processes in it: {pids}); end them, or wait for them to end")]
    Remove { path: PathBuf, pids: String, source: io::Error },
    #[error("systemd did not {verb} {slice}")]
    Systemd { verb: &'static str, slice: String, source: zbus::Error },
    #[error("systemd did not {verb} {slice} within {seconds} s")]
    Slow { verb: &'static str, slice: String, seconds: u64 },
}

/// The pods' cgroups on this node.
#[derive(Debug)]
pub struct Cgroups {
    root: String,
    driver: Driver,
    hierarchies: Hierarchies,
    /// `cpu.shares` of every Burstable pod: their sum is their parent's.
    burstable: Mutex<BTreeMap<Uid, u64>>,
    systemd: systemd::Systemd,
}

impl Cgroups {
    /// `root` is one name without slashes. Reads what pods there are from the hierarchy.
    pub fn open(root: &str, driver: Driver) -> Result<Cgroups, CgroupError> {
        let table =
            fs::read_to_string("/proc/thread-self/mountinfo").map_err(|source| CgroupError::Mounts { source })?;
        let cgroups = Cgroups {
            root: root.to_owned(),
            driver,
            hierarchies: hierarchies(&table).ok_or(CgroupError::NoHierarchy)?,
            burstable: Mutex::default(),
            systemd: systemd::Systemd::default(),
        };
        cgroups.remember_burstable();
        Ok(cgroups)
    }

    /// The pod's cgroup as a container's `linux.cgroupsPath` takes it.
    pub fn parent(&self, uid: &Uid, class: Class) -> CgroupParent {
        match self.driver {
            Driver::Cgroupfs => CgroupParent::Cgroupfs(format!("{}/{}", self.class_path(class), pod_name(uid))),
            Driver::Systemd => CgroupParent::Systemd(systemd::pod_slice(&self.root, class, uid)),
        }
    }

    /// Makes the pod's cgroup and sets its limits. Idempotent.
    pub async fn make(self: &std::sync::Arc<Self>, uid: &Uid, limits: &Limits) -> Result<(), CgroupError> {
        match self.driver {
            Driver::Cgroupfs => {
                let (this, uid, limits) = (self.clone(), uid.clone(), limits.clone());
                super::blocking(move || this.make_directories(&uid, &limits)).await
            }
            Driver::Systemd => {
                let path = systemd::path_of(&systemd::pod_slice(&self.root, limits.class, uid));
                let place = self.main_hierarchy().join(path.trim_start_matches('/'));
                let version2 = matches!(self.hierarchies, Hierarchies::V2 { .. });
                self.systemd.start(&self.root, uid, limits, version2, &place).await?;
                if version2 {
                    // systemd does not know them.
                    set_huge_pages_v2(&place, limits)?;
                }
                let sum = self.remember(uid, limits);
                self.systemd.set_burstable(&self.root, sum, version2).await
            }
        }
    }

    /// Gives the pod's cgroup other limits, where it stands.
    pub async fn resize(
        self: &std::sync::Arc<Self>,
        uid: &Uid,
        limits: &Limits,
        reach: Reach,
    ) -> Result<(), CgroupError> {
        if !self.stands(uid, limits.class) {
            return Ok(());
        }
        let pod = self.relative(uid, limits.class);
        let values = match reach {
            Reach::Exact => {
                self.check_use(&pod, limits)?;
                limits.values
            }
            Reach::Widened => limits.values.widened_to(present(&self.hierarchies, &pod)),
        };
        self.make(uid, &Limits { values, ..limits.clone() }).await
    }

    /// Version 2 kills where a limit becomes less than what is used. Version 1 refuses it by itself, which systemd tells nobody.
    fn check_use(&self, pod: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let Some(limit) = limits.values.memory_max else { return Ok(()) };
        let file = match &self.hierarchies {
            Hierarchies::V2 { root } => root.join(pod).join("memory.current"),
            Hierarchies::V1 { controllers, .. } => match (self.driver, controllers.get("memory")) {
                (Driver::Systemd, Some(mount)) => mount.join(pod).join("memory.usage_in_bytes"),
                _ => return Ok(()),
            },
        };
        let used = fs::read_to_string(file).ok();
        match used.and_then(|text| text.trim().parse().ok()) {
            Some(used) if used > limit => Err(CgroupError::InUse { limit, used }),
            _ => Ok(()),
        }
    }

    /// Moves this process of ours into the pod's cgroup, which stands. With version 2 into one of its own below it, as processes lie in leaves
    /// only.
    pub async fn adopt(self: &std::sync::Arc<Self>, uid: &Uid, class: Class, pid: i32) -> Result<(), CgroupError> {
        if self.driver == Driver::Systemd {
            let slice = systemd::pod_slice(&self.root, class, uid);
            return self.systemd.adopt(&slice, uid, pid).await;
        }
        let (this, pod) = (self.clone(), self.relative(uid, class));
        super::blocking(move || {
            let version2 = matches!(this.hierarchies, Hierarchies::V2 { .. });
            for mount in this.setting_mounts() {
                let mut place = mount.join(&pod);
                if version2 {
                    place.push(OWN);
                    make(&place)?;
                }
                set(&place, "cgroup.procs", u64::from(pid.unsigned_abs()))?;
            }
            Ok(())
        })
        .await
    }

    /// Removes the pod's cgroup of whichever class; Ok when there is none. An error when processes stay in it.
    pub async fn remove(self: &std::sync::Arc<Self>, uid: &Uid, left: Left) -> Result<(), CgroupError> {
        if self.driver == Driver::Systemd && self.exists(uid) {
            for class in Class::ALL {
                let slice = systemd::pod_slice(&self.root, class, uid);
                if self.main_hierarchy().join(systemd::path_of(&slice).trim_start_matches('/')).exists() {
                    self.systemd.stop(&slice).await?;
                }
            }
        }
        let (this, uid) = (self.clone(), uid.clone());
        super::blocking(move || this.remove_directories(&uid, left)).await
    }

    /// Whether any directory of this pod's is left in any hierarchy.
    pub fn exists(&self, uid: &Uid) -> bool {
        self.places(uid).any(|place| place.exists())
    }

    /// Whether the pod's cgroup of this class stands where its limits are set.
    pub fn stands(&self, uid: &Uid, class: Class) -> bool {
        self.main_hierarchy().join(self.relative(uid, class)).is_dir()
    }

    /// Uids of all pods that have a directory in any hierarchy.
    pub fn list(&self) -> BTreeSet<Uid> {
        let mut found = BTreeSet::new();
        for mount in self.mounts() {
            for class in Class::ALL {
                let directory = mount.join(self.class_path(class).trim_start_matches('/'));
                let entries = fs::read_dir(directory).into_iter().flatten().flatten();
                found.extend(entries.filter_map(|entry| self.uid_of(entry.file_name().to_str()?)));
            }
        }
        found
    }

    /// With systemd: stops the slices that hold the pods', so that it lets go of their cgroups.
    pub async fn stop_classes(&self) -> Result<(), CgroupError> {
        for class in [Class::Burstable, Class::BestEffort, Class::Guaranteed] {
            let path = self.class_path(class);
            if self.driver == Driver::Systemd && self.main_hierarchy().join(path.trim_start_matches('/')).exists() {
                self.systemd.stop(&systemd::class_slice(&self.root, class)).await?;
            }
        }
        Ok(())
    }

    /// Removes the root and the classes' parents, when no pod is left in them. For taking the node down.
    pub fn remove_root(&self) -> Result<(), CgroupError> {
        for mount in self.mounts() {
            for class in [Class::Burstable, Class::BestEffort, Class::Guaranteed] {
                let path = mount.join(self.class_path(class).trim_start_matches('/'));
                match fs::remove_dir(&path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        let pids = pids(&path);
                        return Err(CgroupError::Remove { path, pids, source });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn make_directories(&self, uid: &Uid, limits: &Limits) -> Result<(), CgroupError> {
        let pod = self.relative(uid, limits.class);
        match &self.hierarchies {
            Hierarchies::V1 { controllers, .. } => {
                for mount in self.setting_mounts() {
                    self.make_parents_v1(mount, controllers)?;
                    make(&mount.join(&pod))?;
                }
                if let Some(mount) = controllers.get("cpu") {
                    set_cpu_v1(&mount.join(&pod), limits)?;
                }
                if let (Some(mount), Some(bytes)) = (controllers.get("memory"), limits.values.memory_max) {
                    set(&mount.join(&pod), "memory.limit_in_bytes", bytes)?;
                }
                if let (Some(mount), Some(pids)) = (controllers.get("pids"), limits.pids_max) {
                    set(&mount.join(&pod), "pids.max", pids)?;
                }
                if let Some(mount) = controllers.get("hugetlb").filter(|_| !limits.huge_pages.is_empty()) {
                    self.make_parents_v1(mount, controllers)?;
                    make(&mount.join(&pod))?;
                    set_huge_pages_v1(&mount.join(&pod), limits)?;
                }
            }
            Hierarchies::V2 { root } => {
                let mut path = root.clone();
                for part in pod.components() {
                    delegate(&path)?;
                    path.push(part);
                    make(&path)?;
                }
                delegate(&path)?;
                set_v2(&path, limits)?;
            }
        }
        self.set_classes(self.remember(uid, limits))
    }

    /// The root and the classes' parents in one hierarchy, with what has to be set before anything is below them.
    fn make_parents_v1(&self, mount: &Path, controllers: &BTreeMap<String, PathBuf>) -> Result<(), CgroupError> {
        for class in Class::ALL {
            let path = mount.join(self.class_path(class).trim_start_matches('/'));
            if make(&path)? && class == Class::Guaranteed && controllers.get("memory").is_some_and(|m| m == mount) {
                // Before Linux 5.11 a parent's memory limit counts its children only when told so.
                let _ = fs::write(path.join("memory.use_hierarchy"), "1");
            }
        }
        Ok(())
    }

    /// The weight of the root against the rest of the node, and of the classes against each other.
    fn set_classes(&self, burstable_shares: u64) -> Result<(), CgroupError> {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let of_class = [
            (Class::Guaranteed, qos::shares(cpus.saturating_mul(1000))),
            (Class::Burstable, burstable_shares),
            (Class::BestEffort, qos::SHARES_MIN),
        ];
        for (class, shares) in of_class {
            let relative = self.class_path(class);
            let relative = relative.trim_start_matches('/');
            match &self.hierarchies {
                Hierarchies::V1 { controllers, .. } => {
                    if let Some(mount) = controllers.get("cpu") {
                        set(&mount.join(relative), "cpu.shares", shares)?;
                    }
                }
                Hierarchies::V2 { root } => {
                    let path = root.join(relative);
                    if path.is_dir() {
                        set_if_there(&path, "cpu.weight", &weight(shares).to_string())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn remove_directories(&self, uid: &Uid, left: Left) -> Result<(), CgroupError> {
        for place in self.places(uid) {
            remove_tree(&place, left)?;
        }
        let (was_there, sum) = {
            let mut burstable = self.burstable.lock().unwrap_or_else(PoisonError::into_inner);
            (burstable.remove(uid).is_some(), burstable.values().fold(0, |sum: u64, s| sum.saturating_add(*s)))
        };
        if was_there && self.driver == Driver::Cgroupfs {
            self.set_classes(sum.clamp(qos::SHARES_MIN, qos::SHARES_MAX))?;
        }
        Ok(())
    }

    /// Notes a pod's shares; the new sum of all Burstable ones.
    fn remember(&self, uid: &Uid, limits: &Limits) -> u64 {
        let mut burstable = self.burstable.lock().unwrap_or_else(PoisonError::into_inner);
        if limits.class == Class::Burstable {
            burstable.insert(uid.clone(), limits.values.shares);
        }
        burstable
            .values()
            .fold(0, |sum: u64, shares| sum.saturating_add(*shares))
            .clamp(qos::SHARES_MIN, qos::SHARES_MAX)
    }

    /// After a restart the hierarchy says which Burstable pods there are and what they weigh.
    fn remember_burstable(&self) {
        let (mount, file) = match &self.hierarchies {
            Hierarchies::V1 { controllers, .. } => (controllers.get("cpu").cloned(), "cpu.shares"),
            Hierarchies::V2 { root } => (Some(root.clone()), "cpu.weight"),
        };
        let Some(mount) = mount else { return };
        let directory = mount.join(self.class_path(Class::Burstable).trim_start_matches('/'));
        let mut burstable = self.burstable.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_str().and_then(|name| self.uid_of(name));
            let number = fs::read_to_string(entry.path().join(file)).ok().and_then(|text| text.trim().parse().ok());
            if let (Some(uid), Some(number)) = (uid, number) {
                let version1 = matches!(self.hierarchies, Hierarchies::V1 { .. });
                burstable.insert(uid, if version1 { number } else { qos::shares_of_weight(number) });
            }
        }
    }

    fn uid_of(&self, name: &str) -> Option<Uid> {
        let uid = match self.driver {
            Driver::Cgroupfs => name.strip_prefix("pod")?.to_owned(),
            Driver::Systemd => systemd::uid_of(name)?,
        };
        super::is_safe_name(&uid).then_some(Uid(uid))
    }

    /// Absolute in the hierarchy.
    fn class_path(&self, class: Class) -> String {
        match (self.driver, parent_of(class)) {
            (Driver::Cgroupfs, None) => format!("/{}", self.root),
            (Driver::Cgroupfs, Some(parent)) => format!("/{}/{parent}", self.root),
            (Driver::Systemd, _) => systemd::path_of(&systemd::class_slice(&self.root, class)),
        }
    }

    fn relative(&self, uid: &Uid, class: Class) -> PathBuf {
        let path = match self.parent(uid, class) {
            CgroupParent::Cgroupfs(path) => path,
            CgroupParent::Systemd(slice) => systemd::path_of(&slice),
        };
        PathBuf::from(path.trim_start_matches('/'))
    }

    /// Every directory that this pod may have.
    fn places<'a>(&'a self, uid: &'a Uid) -> impl Iterator<Item = PathBuf> + 'a {
        let paths: Vec<PathBuf> = Class::ALL.iter().map(|class| self.relative(uid, *class)).collect();
        self.mounts().into_iter().flat_map(move |mount| {
            let places: Vec<PathBuf> = paths.iter().map(|path| mount.join(path)).collect();
            places
        })
    }

    fn mounts(&self) -> Vec<&Path> {
        match &self.hierarchies {
            Hierarchies::V1 { all, .. } => all.iter().map(PathBuf::as_path).collect(),
            Hierarchies::V2 { root } => vec![root],
        }
    }

    /// Version 1: the mount points of the controllers that we set, each once (cpu and cpuacct may be one).
    fn setting_mounts(&self) -> BTreeSet<&Path> {
        match &self.hierarchies {
            Hierarchies::V1 { controllers, .. } => {
                SET_CONTROLLERS.iter().filter_map(|name| controllers.get(*name)).map(PathBuf::as_path).collect()
            }
            Hierarchies::V2 { root } => BTreeSet::from([root.as_path()]),
        }
    }

    /// The hierarchy that is looked at to see whether a pod's cgroup stands.
    fn main_hierarchy(&self) -> &Path {
        match &self.hierarchies {
            Hierarchies::V1 { controllers, all } => {
                controllers.get("cpu").or_else(|| controllers.get("memory")).unwrap_or(&all[0])
            }
            Hierarchies::V2 { root } => root,
        }
    }
}

fn pod_name(uid: &Uid) -> String {
    format!("pod{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unified hierarchy of a hybrid node has no controllers, but directories it has: the order of making and
    /// removing is proved there, the values in the booted machine.
    #[tokio::test]
    async fn version_2_makes_and_removes_its_directories() {
        let root = Path::new("/sys/fs/cgroup/unified");
        if !root.join("cgroup.controllers").exists() {
            println!("no unified hierarchy beside version 1 here");
            return;
        }
        let name = format!("daemonlet_unit_{}", std::process::id());
        let cgroups = std::sync::Arc::new(Cgroups {
            root: name.clone(),
            driver: Driver::Cgroupfs,
            hierarchies: Hierarchies::V2 { root: root.into() },
            burstable: Mutex::default(),
            systemd: systemd::Systemd::default(),
        });
        let uid = Uid("0a-1b".into());
        let limits = Limits {
            class: Class::Burstable,
            values: Cgroup { shares: 102, quota_us: Some(1000), memory_max: Some(1 << 20) },
            pids_max: Some(10),
            huge_pages: BTreeMap::from([(2 << 20, 4 << 20)]),
        };
        cgroups.make(&uid, &limits).await.unwrap();
        cgroups.make(&uid, &limits).await.unwrap();
        let place = root.join(&name).join("burstable/pod0a-1b");
        assert!(place.is_dir() && cgroups.stands(&uid, Class::Burstable) && !cgroups.stands(&uid, Class::BestEffort));
        assert_eq!(cgroups.list(), BTreeSet::from([uid.clone()]));
        fs::create_dir_all(place.join("container/init")).unwrap();
        cgroups.remove(&uid, Left::Told).await.unwrap();
        assert!(!place.exists() && cgroups.list().is_empty());
        cgroups.remove_root().unwrap();
        assert!(!root.join(name).exists());
    }

    #[test]
    fn a_limit_below_the_use_is_refused_where_nobody_else_says_so() {
        let mount = tempfile::tempdir().unwrap();
        for file in ["memory.current", "memory.usage_in_bytes"] {
            fs::write(mount.path().join(file), "4097\n").unwrap();
        }
        let v1 = || {
            let controllers = BTreeMap::from([("memory".to_owned(), mount.path().to_owned())]);
            Hierarchies::V1 { controllers, all: vec![mount.path().to_owned()] }
        };
        let refused = |driver, hierarchies, memory_max| {
            let cgroups = Cgroups {
                root: "daemonlet".into(),
                driver,
                hierarchies,
                burstable: Mutex::default(),
                systemd: systemd::Systemd::default(),
            };
            let values = Cgroup { shares: 2, quota_us: None, memory_max };
            let limits = Limits { class: Class::Burstable, values, pids_max: None, huge_pages: BTreeMap::new() };
            cgroups.check_use(Path::new(""), &limits).is_err()
        };
        for driver in [Driver::Systemd, Driver::Cgroupfs] {
            let v2 = || Hierarchies::V2 { root: mount.path().to_owned() };
            assert!(refused(driver, v2(), Some(4096)) && !refused(driver, v2(), Some(4097)), "{driver:?}");
            assert!(!refused(driver, v2(), None) && !refused(driver, v1(), Some(4097)), "{driver:?}");
        }
        assert!(refused(Driver::Systemd, v1(), Some(4096)));
        // The kernel makes room first, and says so where it cannot.
        assert!(!refused(Driver::Cgroupfs, v1(), Some(4096)));
    }

    #[test]
    fn names_are_those_that_runc_expects_of_each_driver() {
        let uid = Uid("0a-1b".into());
        let cgroups = |driver| Cgroups {
            root: "daemonlet".into(),
            driver,
            hierarchies: Hierarchies::V2 { root: "/sys/fs/cgroup".into() },
            burstable: Mutex::default(),
            systemd: systemd::Systemd::default(),
        };
        let fs = cgroups(Driver::Cgroupfs);
        assert_eq!(fs.parent(&uid, Class::Guaranteed), CgroupParent::Cgroupfs("/daemonlet/pod0a-1b".into()));
        assert_eq!(fs.parent(&uid, Class::Burstable), CgroupParent::Cgroupfs("/daemonlet/burstable/pod0a-1b".into()));
        let sd = cgroups(Driver::Systemd);
        assert_eq!(
            sd.parent(&uid, Class::BestEffort),
            CgroupParent::Systemd("daemonlet-besteffort-pod0a_1b.slice".into())
        );
        assert_eq!(sd.uid_of("daemonlet-besteffort-pod0a_1b.slice"), Some(uid));
        assert_eq!(sd.uid_of("daemonlet-besteffort.slice"), None);
        assert_eq!(fs.uid_of("pod../x"), None);
    }
}
