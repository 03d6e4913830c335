//! The bytes that all log files may take together, and the removal of logs nobody needs any more.
//!
//! Driven by `serve`, after turns and on requests. `rotate` decides, this file looks and removes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use keeper::protocol::Target;

use crate::beneath::{self, Beneath};
use crate::container::{Container, Now, Shared};
use crate::deleted;
use crate::log_file;
use crate::rotate::{self, Class, Kept, Kind};

const PODS: &str = "pods";
const LINKS: &str = "containers";

/// Counts what is ours beneath `pods/`, removes what is too much, and returns how many bytes that took. A file that cannot be
/// looked at or removed is passed over: the next count meets it again.
pub fn enforce(shared: &mut Shared, containers: &mut BTreeMap<u64, Container>, now: Now) -> u64 {
    let active: BTreeMap<String, u64> =
        containers.iter().map(|(key, container)| (container.target.log.clone(), *key)).collect();
    let files = count(&shared.logs, &active);
    shared.used = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    let mut taken = 0u64;
    for file in rotate::over_budget(files, shared.limits.budget) {
        let (dir, name) = file.path.rsplit_once('/').expect("a counted path has directories");
        let (current, _) = rotate::kind(name);
        let owner = active.get(&format!("{dir}/{current}")).and_then(|key| containers.get_mut(key));
        // A file that is written is rotated first. One that had lost its name goes with the rotation alone.
        let (owner, rotated) = match (file.class, owner) {
            (Class::Active, Some(owner)) => match owner.rotate(shared, now) {
                Ok(rotated) => (Some(owner), rotated),
                Err(_) => continue,
            },
            (_, owner) => (owner, Some(name.to_owned())),
        };
        if rotated.is_some_and(|name| remove(&shared.logs, dir, &name).is_err()) {
            continue;
        }
        taken = taken.saturating_add(file.bytes);
        if let Some(owner) = owner {
            owner.removed(file.bytes);
        }
        if file.class == Class::Ended {
            remove_links(&shared.logs, &file.path);
        }
    }
    shared.used = shared.used.saturating_sub(taken);
    taken
}

/// Removes a pod's log directory and every link into it.
pub fn forget(logs: &Beneath, dir: &str) -> io::Result<()> {
    let (_, pod) = dir.split_once('/').expect("a checked pod directory has two names");
    logs.remove_tree(PODS, pod)?;
    remove_links(logs, &format!("{dir}/"));
    Ok(())
}

/// Removes the logs of attempts before the one that precedes `target`'s, as the kubelet keeps one dead container: a
/// daemon that crashes for ever must not leave a file for every time.
pub fn prune_attempts(logs: &Beneath, target: &Target, active: &BTreeSet<&str>) -> io::Result<()> {
    let (dir, name) = target.log.rsplit_once('/').expect("a checked target has directories");
    let attempt = |current: &str| current.strip_suffix(".log").and_then(|n| n.parse::<u64>().ok());
    let Some(this) = attempt(name) else { return Ok(()) };
    let at = logs.dir(dir)?;
    for old in beneath::names(&at)? {
        let (current, kind) = rotate::kind(&old);
        let path = format!("{dir}/{current}");
        let earlier = attempt(current).is_some_and(|attempt| attempt.saturating_add(1) < this);
        if kind != Kind::Foreign && earlier && !active.contains(path.as_str()) {
            beneath::unlink(&at, &old)?;
            if kind == Kind::Current {
                remove_links(logs, &path);
            }
        }
    }
    Ok(())
}

fn remove(logs: &Beneath, dir: &str, name: &str) -> io::Result<()> {
    beneath::unlink(&logs.dir(dir)?, name)
}

/// Removes the links of ours whose log is `path`, or beneath it when it ends in a slash.
pub fn remove_links(logs: &Beneath, path: &str) {
    let Ok(dir) = logs.dir(LINKS) else { return };
    for name in beneath::names(&dir).unwrap_or_default() {
        let Some(text) = beneath::read_link(&dir, &name) else { continue };
        let leads =
            text.strip_prefix("../").is_some_and(|to| to == path || (path.ends_with('/') && to.starts_with(path)));
        if leads {
            let _ = beneath::unlink(&dir, &name);
        }
    }
}

/// Every log file in `pods/<pod>/<container>/` of a pod of ours, with what it is to the budget.
fn count(logs: &Beneath, active: &BTreeMap<String, u64>) -> Vec<Kept> {
    let mut files = Vec::new();
    for pod in ours(logs, &deleted::place()) {
        let kept = in_pod(logs, &pod, active);
        files.extend(kept.into_iter().map(|file| Kept { class: Class::Deleted, ..file }));
    }
    for pod in ours(logs, PODS) {
        files.extend(in_pod(logs, &pod, active));
    }
    files
}

/// The pods in a directory whose logs are ours.
fn ours(logs: &Beneath, path: &str) -> Vec<String> {
    let mut pods = children(logs, path);
    pods.retain(|pod| logs.dir(pod).is_ok_and(|pod| log_file::is_marked(&pod)));
    pods
}

fn in_pod(logs: &Beneath, pod: &str, active: &BTreeMap<String, u64>) -> Vec<Kept> {
    let mut files = Vec::new();
    for container in children(logs, pod) {
        let Ok(dir) = logs.dir(&container) else { continue };
        files.extend(names(&dir).filter_map(|name| kept(&dir, &container, &name, active)));
    }
    files
}

fn kept(dir: &OwnedFd, at: &str, name: &str, active: &BTreeMap<String, u64>) -> Option<Kept> {
    let stat = beneath::stat(dir, name).ok().flatten().filter(beneath::is_regular)?;
    let path = format!("{at}/{name}");
    let class = match rotate::kind(name).1 {
        Kind::Rotated => Class::Rotated,
        Kind::Current if active.contains_key(&path) => Class::Active,
        Kind::Current => Class::Ended,
        // What others put there is not ours to take, and must not push out what is.
        Kind::Foreign => return None,
    };
    let written = Duration::new(
        u64::try_from(stat.st_mtime).unwrap_or(0),
        u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999),
    );
    Some(Kept { path, bytes: u64::try_from(stat.st_size).unwrap_or(0), written, class })
}

fn children(logs: &Beneath, path: &str) -> Vec<String> {
    match logs.dir(path) {
        Ok(dir) => names(&dir).map(|name| format!("{path}/{name}")).collect(),
        Err(_) => Vec::new(),
    }
}

fn names(dir: &OwnedFd) -> impl Iterator<Item = String> + use<> {
    beneath::names(dir).unwrap_or_default().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use crate::log_file::LogFile;

    #[test]
    fn forgetting_a_pod_removes_its_links_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        for pod in ["a", "ab"] {
            logs.make_dirs(&format!("pods/{pod}/c")).unwrap();
            std::fs::write(root.path().join(format!("pods/{pod}/c/0.log")), "x").unwrap();
            let links = logs.make_dirs("containers").unwrap();
            beneath::link(&links, &format!("{pod}.log"), &format!("../pods/{pod}/c/0.log")).unwrap();
        }
        symlink("/etc/hostname", root.path().join("pods/a/c/planted")).unwrap();
        forget(&logs, "pods/a").unwrap();
        assert_eq!(beneath::names(&logs.dir("pods").unwrap()).unwrap(), ["ab"]);
        assert_eq!(beneath::names(&logs.dir("containers").unwrap()).unwrap(), ["ab.log"]);
        assert!(std::fs::exists("/etc/hostname").unwrap());
        forget(&logs, "pods/a").unwrap();
    }

    #[test]
    fn the_attempt_before_is_kept_and_earlier_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        let dir = logs.make_dirs("pods/a/c").unwrap();
        for name in ["1.log", "2.log", "2.log.20261122-000000", "3.log", "4.log", "5.log", "other"] {
            std::fs::write(root.path().join("pods/a/c").join(name), "x").unwrap();
        }
        let target = Target::new("pods/a/c/5.log", "containers/x.log").unwrap();
        prune_attempts(&logs, &target, &BTreeSet::from(["pods/a/c/1.log"])).unwrap();
        assert_eq!(beneath::names(&dir).unwrap(), ["1.log", "4.log", "5.log", "other"]);
    }

    #[test]
    fn logs_of_others_are_neither_counted_nor_taken() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        for pod in ["ours", "a-kubelets"] {
            logs.make_dirs(&format!("pods/{pod}/c")).unwrap();
            for name in ["0.log", "0.log.20261122-000000", "1.log"] {
                std::fs::write(root.path().join(format!("pods/{pod}/c/{name}")), "x").unwrap();
            }
        }
        let target = Target::new("pods/ours/c/1.log", "containers/x.log").unwrap();
        LogFile::open(&logs, &target.log, None).unwrap();
        LogFile::open(&logs, &target.log, None).unwrap();
        let mut counted: Vec<String> = count(&logs, &BTreeMap::new()).into_iter().map(|file| file.path).collect();
        counted.sort();
        assert_eq!(counted, ["pods/ours/c/0.log", "pods/ours/c/0.log.20261122-000000", "pods/ours/c/1.log"]);
        deleted::retire(&logs, "pods/ours", Duration::from_secs(60), Duration::from_secs(1_795_315_579)).unwrap();
        let kept = count(&logs, &BTreeMap::new());
        assert_eq!(kept.len(), 3);
        assert!(kept.iter().all(|file| file.class == Class::Deleted && file.path.starts_with("pods/.deleted/ours/c/")));
    }
}
