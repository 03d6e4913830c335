//! A container's cgroup: whether it has killed for want of memory, and the end of all that still lives in it.
//!
//! Used by `containers`, after an exit (an event says the same, but an agent that was not running has not heard it), and
//! by `shim`, which has nobody else to ask.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two looks at a cgroup whose processes were killed.
const KILLED_LOOK: Duration = Duration::from_millis(5);
/// cgroups below a container's: programs nest a few (systemd in a container); deeper is not followed.
const DEPTH_MAX: u32 = 16;

/// Whether a process in the container's cgroup was killed by the kernel for want of memory. `cgroups_path` is in the
/// form of `linux.cgroupsPath`. False where the cgroup is gone.
pub fn oom_killed(cgroups_path: &str) -> bool {
    let below = path_below_root(cgroups_path);
    let v2 = Path::new("/sys/fs/cgroup").join(&below).join("memory.events");
    let v1 = Path::new("/sys/fs/cgroup/memory").join(&below).join("memory.oom_control");
    [v2, v1].iter().filter_map(|file| fs::read_to_string(file).ok()).any(|text| oom_kills(&text) > 0)
}

/// Bytes that the cgroup uses, in version 2 of the hierarchy; None in the other.
pub fn memory_used_v2(cgroups_path: &str) -> Option<u64> {
    let file = Path::new("/sys/fs/cgroup").join(path_below_root(cgroups_path)).join("memory.current");
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Writes a file of the cgroup in version 2 of the hierarchy; what is not there, there or in the other, is passed over.
/// Blocks: to come below a lower memory.high the kernel reclaims memory before it answers.
pub fn set_v2(cgroups_path: &str, file: &str, value: &str) -> io::Result<()> {
    set(&Path::new("/sys/fs/cgroup").join(path_below_root(cgroups_path)).join(file), value)
}

fn set(place: &Path, value: &str) -> io::Result<()> {
    let written = fs::OpenOptions::new().write(true).truncate(true).open(place);
    match written.and_then(|mut file| file.write_all(value.as_bytes())) {
        // It was removed, before or after it was opened.
        Err(error) if error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(&error) == Some(Errno::NODEV) => {
            Ok(())
        }
        done => done,
    }
}

/// Whether it is the cgroup of the container with this id, as we name them: the last part bears the id, and nothing climbs.
pub fn is_of(cgroups_path: &str, container_id: &str) -> bool {
    let own = match cgroups_path.rsplit_once(':') {
        Some((_, name)) => name == container_id,
        None => cgroups_path.starts_with('/') && cgroups_path.ends_with(&format!("/{container_id}")),
    };
    own && !container_id.is_empty() && !path_below_root(cgroups_path).iter().any(|part| part == "..")
}

/// Kills whatever lives in the cgroup and below it, again and again until nothing does. False: something still does at the
/// end of `patience`. Blocks.
pub fn kill(cgroups_path: &str, patience: Duration) -> bool {
    let below = path_below_root(cgroups_path);
    let end = Instant::now() + patience;
    loop {
        let processes: BTreeSet<i32> = places(&below).iter().flat_map(|place| processes(place, 0)).collect();
        if processes.is_empty() {
            return true;
        }
        // cgroup v2 kills all at once, forks in the making too.
        let _ = fs::write(Path::new("/sys/fs/cgroup").join(&below).join("cgroup.kill"), "1");
        processes.into_iter().for_each(|pid| kill_in(pid, &below));
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(KILLED_LOOK);
    }
}

/// The cgroup in every hierarchy in which it stands.
fn places(below: &Path) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = std::iter::once(root.to_owned()).chain(hierarchies);
    roots.map(|root| root.join(below)).filter(|place| place.join("cgroup.procs").exists()).collect()
}

fn processes(place: &Path, depth: u32) -> Vec<i32> {
    let listed = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of a PID namespace that we cannot see.
    let mut all: Vec<i32> = listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    if depth < DEPTH_MAX {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let nested = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        all.extend(nested.flat_map(|entry| processes(&entry.path(), depth + 1)));
    }
    all
}

/// Kills the process if it is, once it is held by a descriptor, in the cgroup: its number may have become another's.
fn kill_in(pid: i32, below: &Path) {
    let Some(number) = Pid::from_raw(pid) else { return };
    let Ok(descriptor) = pidfd_open(number, PidfdFlags::empty()) else { return };
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let inside = |line: &str| line.splitn(3, ':').nth(2).is_some_and(|path| is_below(path, below));
    if own.lines().any(inside) {
        // What has ended meanwhile is what was wanted.
        let _ = pidfd_send_signal(&descriptor, Signal::KILL);
    }
}

/// A path of /proc/pid/cgroup, which begins at the root of our cgroup namespace.
fn is_below(path: &str, below: &Path) -> bool {
    Path::new(path.trim_start_matches('/')).starts_with(below)
}

/// The line `oom_kill N`, which both versions have.
fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// runc's two forms: `/a/b/id`, and `a-b.slice:prefix:name`, which systemd puts at a.slice/a-b.slice/prefix-name.scope.
fn path_below_root(cgroups_path: &str) -> PathBuf {
    let parts: Vec<&str> = cgroups_path.split(':').collect();
    let [slice, prefix, name] = parts[..] else { return PathBuf::from(cgroups_path.trim_start_matches('/')) };
    let mut path = PathBuf::new();
    let stem = slice.trim_end_matches(".slice");
    for (at, _) in stem.match_indices('-') {
        path.push(format!("{}.slice", &stem[..at]));
    }
    path.push(slice);
    path.push(format!("{prefix}-{name}.scope"));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_drivers_lead_to_a_directory() {
        assert_eq!(path_below_root("/daemonlet/podx/id"), Path::new("daemonlet/podx/id"));
        assert_eq!(
            path_below_root("d-burstable-podx_y.slice:daemonlet:id"),
            Path::new("d.slice/d-burstable.slice/d-burstable-podx_y.slice/daemonlet-id.scope")
        );
    }

    #[test]
    fn a_cgroup_is_the_containers_only_when_it_ends_with_its_id() {
        let id = "a".repeat(64);
        assert!(is_of(&format!("/daemonlet/podx/{id}"), &id));
        assert!(is_of(&format!("d-podx.slice:daemonlet:{id}"), &id));
        for foreign in ["/", "", "/daemonlet/podx", "/system.slice", &format!("/daemonlet/../{id}"), &id] {
            assert!(!is_of(foreign, &id), "{foreign}");
        }
        assert!(!is_of("/daemonlet/podx/", ""));
    }

    #[test]
    fn a_value_that_is_refused_is_an_error_and_a_cgroup_that_is_gone_is_none() {
        let place = tempfile::tempdir().unwrap();
        let high = place.path().join("memory.high");
        set(&high, "max").unwrap();
        assert!(!high.exists());
        fs::write(&high, "94371840").unwrap();
        set(&high, "max").unwrap();
        assert_eq!(fs::read_to_string(&high).unwrap(), "max");
        set(place.path(), "max").unwrap_err();
    }

    #[test]
    fn only_processes_below_the_cgroup_are_in_it() {
        let below = Path::new("daemonlet/podx/id");
        assert!(is_below("/daemonlet/podx/id", below) && is_below("/daemonlet/podx/id/nested", below));
        assert!(!is_below("/daemonlet/podx/id2", below) && !is_below("/", below));
    }

    #[test]
    fn the_kill_counter_is_found_in_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 0\noom_group_kill 0\n"), 0);
    }
}
