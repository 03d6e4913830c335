//! The kernel's cgroup files: which hierarchies there are, directories made and removed, values written.
//!
//! Driven by `cgroups`; blocking, microseconds each, except that a removal waits a little for processes that are just
//! ending. Must not know pods' names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod::qos::{Bounds, CPU_PERIOD_US, page_name, weight};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{CgroupError, Limits};
use crate::mountinfo;

/// A process that was just killed leaves its cgroup within milliseconds.
const REMOVE_TRIES: u32 = 12;
/// From this try on, after a tenth of a second, what is still there is ended.
const KILL_TRIES: u32 = 8;
/// Doubled with each try up to [`REMOVE_PAUSE_MAX`]: together about half a second.
const REMOVE_PAUSE: Duration = Duration::from_millis(1);
const REMOVE_PAUSE_MAX: Duration = Duration::from_millis(100);
/// What a container's runtime builds below a pod's cgroup is two or three deep.
const DEPTH_MAX: u32 = 16;
/// Where the kernel's hierarchies are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// Version 1 or hybrid: a mount point per controller, and all mount points, the named and the unified ones too.
    V1 { controllers: BTreeMap<String, PathBuf>, all: Vec<PathBuf> },
    /// Version 2 alone.
    V2 { root: PathBuf },
}

/// Reads the hierarchies from a mountinfo table; None without any.
pub fn hierarchies(mountinfo: &str) -> Option<Hierarchies> {
    const CONTROLLERS: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "net_cls",
        "net_prio",
        "perf_event",
        "hugetlb",
        "rdma",
    ];
    let mut controllers = BTreeMap::new();
    let mut all = Vec::new();
    let mut unified = None;
    // Each hierarchy has a device number. Further mounts of it are views of parts of it, containers' and other agents'.
    let mut seen = BTreeSet::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        if !right.starts_with("cgroup") || !left.split(' ').nth(2).is_some_and(|device| seen.insert(device)) {
            continue;
        }
        let Some(point) = left.split(' ').nth(4).map(|field| PathBuf::from(mountinfo::unescape(field))) else {
            continue;
        };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup2") => {
                unified.get_or_insert_with(|| point.clone());
                all.push(point);
            }
            Some("cgroup") => {
                for option in right.nth(1).unwrap_or("").split(',').filter(|o| CONTROLLERS.contains(o)) {
                    controllers.entry(option.to_owned()).or_insert_with(|| point.clone());
                }
                all.push(point);
            }
            _ => {}
        }
    }
    match unified {
        Some(root) if controllers.is_empty() => Some(Hierarchies::V2 { root }),
        _ if all.is_empty() => None,
        _ => Some(Hierarchies::V1 { controllers, all }),
    }
}

/// Makes one directory; whether it was not there.
pub fn make(path: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(CgroupError::Make { path: path.to_owned(), source }),
    }
}

/// Version 2: children of this cgroup may use every controller that it has itself and that we or the runtime set.
pub fn delegate(path: &Path) -> Result<(), CgroupError> {
    const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
    let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default();
    let (offered, given) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    let wanted: Vec<String> =
        WANTED.iter().filter(|name| has(&offered, name) && !has(&given, name)).map(|name| format!("+{name}")).collect();
    if wanted.is_empty() { Ok(()) } else { set_if_there(path, "cgroup.subtree_control", &wanted.join(" ")) }
}

pub fn set_cpu_v1(path: &Path, limits: &Limits) -> Result<(), CgroupError> {
    set(path, "cpu.shares", limits.values.shares)?;
    if let Some(quota) = limits.values.quota_us {
        // A kernel without CFS bandwidth control has no such files; the pod then runs without the limit.
        set_if_there(path, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
        set_if_there(path, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    Ok(())
}

pub fn set_v2(path: &Path, limits: &Limits) -> Result<(), CgroupError> {
    set_if_there(path, "cpu.weight", &weight(limits.values.shares).to_string())?;
    if let Some(quota) = limits.values.quota_us {
        set_if_there(path, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
    }
    if let Some(bytes) = limits.values.memory_max {
        set_if_there(path, "memory.max", &bytes.to_string())?;
    }
    if let Some(pids) = limits.pids_max {
        set_if_there(path, "pids.max", &pids.to_string())?;
    }
    set_huge_pages_v2(path, limits)
}

/// Of a size that the kernel does not have there is nothing to limit.
pub fn set_huge_pages_v1(path: &Path, limits: &Limits) -> Result<(), CgroupError> {
    limits.huge_pages.iter().try_for_each(|(size, bytes)| {
        set_if_there(path, &format!("hugetlb.{}.limit_in_bytes", page_name(*size)), &bytes.to_string())
    })
}

pub fn set_huge_pages_v2(path: &Path, limits: &Limits) -> Result<(), CgroupError> {
    limits.huge_pages.iter().try_for_each(|(size, bytes)| {
        set_if_there(path, &format!("hugetlb.{}.max", page_name(*size)), &bytes.to_string())
    })
}

/// What a pod's cgroup is limited to at present. A file that is missing or says nothing that is known limits nothing.
pub fn present(hierarchies: &Hierarchies, pod: &Path) -> Bounds {
    let read = |mount: &Path, file: &str| fs::read_to_string(mount.join(pod).join(file)).unwrap_or_default();
    match hierarchies {
        Hierarchies::V1 { controllers, .. } => {
            let of =
                |controller: &str, file| controllers.get(controller).map(|mount| read(mount, file)).unwrap_or_default();
            bounds_v1(&of("cpu", "cpu.cfs_quota_us"), &of("memory", "memory.limit_in_bytes"))
        }
        Hierarchies::V2 { root } => bounds_v2(&read(root, "cpu.max"), &read(root, "memory.max")),
    }
}

/// No limit is -1 for the processor and the greatest number of whole pages for memory.
fn bounds_v1(quota: &str, memory: &str) -> Bounds {
    const MEMORY_UNLIMITED: u64 = 1 << 62;
    let memory_max = memory.trim().parse().ok().filter(|bytes| *bytes < MEMORY_UNLIMITED);
    Bounds { quota_us: quota.trim().parse().ok(), memory_max }
}

fn bounds_v2(cpu: &str, memory: &str) -> Bounds {
    let quota_us = cpu.split_whitespace().next().and_then(|quota| quota.parse().ok());
    Bounds { quota_us, memory_max: memory.trim().parse().ok() }
}

pub fn set(path: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    write_existing(&path.join(file), &value.to_string())
}

/// Like [`set`], but a file that this kernel does not have is passed over.
pub fn set_if_there(path: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = path.join(file);
    if path.exists() { write_existing(&path, value) } else { Ok(()) }
}

fn write_existing(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| CgroupError::Set { path: path.to_owned(), value: value.to_owned(), source })
}

/// What becomes of processes that are left in a pod's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// They are ended: the pod was made by this agent or one before it. A container whose shim died while it was cleaned up after belongs to
    /// nobody any more.
    Ended,
    /// They stay and are told: the cgroup's name alone may be that of another agent's pod.
    Told,
}

/// Removes a pod's cgroup and what a runtime forgot below it. Waits a little for processes that are just ending.
pub fn remove_tree(path: &Path, left: Left) -> Result<(), CgroupError> {
    let mut pause = REMOVE_PAUSE;
    for attempt in 1.. {
        match remove_once(path, DEPTH_MAX) {
            Ok(()) => return Ok(()),
            Err(source) if attempt >= REMOVE_TRIES => {
                return Err(CgroupError::Remove { path: path.to_owned(), pids: pids(path), source });
            }
            Err(_) => {
                if left == Left::Ended && attempt >= KILL_TRIES {
                    end_processes(path);
                }
                std::thread::sleep(pause);
                pause = pause.saturating_mul(2).min(REMOVE_PAUSE_MAX);
            }
        }
    }
    Ok(())
}

fn remove_once(path: &Path, depth: u32) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if depth == 0 => return Err(error),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path(), depth - 1)?;
        }
    }
    fs::remove_dir(path)
}

/// Sends SIGKILL to every process in a cgroup and below it.
fn end_processes(path: &Path) {
    for (directory, pid) in members(path) {
        // By a descriptor that was opened while it was a member, so that a number that was given out again hits nobody else.
        let Some(process) = Pid::from_raw(pid) else { continue };
        let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        if procs(&directory).contains(&pid) && pidfd_send_signal(&descriptor, Signal::KILL).is_ok() {
            tracing::warn!(pid, cgroup = %directory.display(), "ended a process that was left in a pod's cgroup");
        }
    }
}

/// The processes of one cgroup.
fn procs(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The processes of a cgroup and of all below it, each with where it is.
fn members(path: &Path) -> Vec<(PathBuf, i32)> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        found.extend(procs(&directory).into_iter().map(|pid| (directory.clone(), pid)));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        waiting.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}

/// Process ids in a cgroup and below it, a few, for an error's text.
pub fn pids(path: &Path) -> String {
    const SHOWN: usize = 8;
    let found: Vec<String> = members(path).iter().take(SHOWN).map(|(_, pid)| pid.to_string()).collect();
    if found.is_empty() { "none seen".into() } else { found.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_written_in_three_ways() {
        let none = Bounds { quota_us: None, memory_max: None };
        assert_eq!(bounds_v1("-1\n", "9223372036854771712\n"), none);
        assert_eq!(bounds_v2("max 100000\n", "max\n"), none);
        let both = Bounds { quota_us: Some(5000), memory_max: Some(4096) };
        assert_eq!(bounds_v1("5000\n", "4096\n"), both);
        assert_eq!(bounds_v2("5000 100000\n", "4096\n"), both);
    }

    /// In a version 1 hierarchy where this machine has one, else in the one of version 2.
    #[test]
    fn what_nobody_ended_is_ended_with_its_cgroup() {
        let top = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
        let top = top.into_iter().find(|top| top.join("cgroup.procs").exists()).expect("cgroups are mounted");
        let place = top.join(format!("daemonlet_left_{}", std::process::id()));
        let inner = place.join("container");
        fs::create_dir_all(&inner).unwrap();
        let mut left = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(inner.join("cgroup.procs"), left.id().to_string()).unwrap();
        assert_eq!(pids(&place), left.id().to_string());
        // Its parent is to reap it, or it would stay a member.
        let waiting = std::thread::spawn(move || left.wait().unwrap());
        assert!(matches!(remove_tree(&place, Left::Told), Err(CgroupError::Remove { .. })));
        remove_tree(&place, Left::Ended).unwrap();
        assert!(!place.exists() && !waiting.join().unwrap().success());
    }

    #[test]
    fn hybrid_is_version_1_and_unified_alone_is_version_2() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Some(Hierarchies::V1 { controllers, all }) = hierarchies(hybrid) else { panic!("not version 1") };
        assert_eq!(controllers["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!((controllers.len(), all.len()), (3, 4));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(hierarchies(unified), Some(Hierarchies::V2 { root: "/sys/fs/cgroup".into() }));
        assert_eq!(hierarchies("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
