//! Whether a container's cgroup has killed for want of memory: asked while the cgroup still stands, after an exit.
//!
//! Used by `containers`. An event says the same, but an agent that was not running has not heard it.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether a process in the container's cgroup was killed by the kernel for want of memory. `cgroups_path` is in the
/// form of `linux.cgroupsPath`. False where the cgroup is gone.
pub fn oom_killed(cgroups_path: &str) -> bool {
    let below = path_below_root(cgroups_path);
    let v2 = Path::new("/sys/fs/cgroup").join(&below).join("memory.events");
    let v1 = Path::new("/sys/fs/cgroup/memory").join(&below).join("memory.oom_control");
    [v2, v1].iter().filter_map(|file| fs::read_to_string(file).ok()).any(|text| oom_kills(&text) > 0)
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
    fn the_kill_counter_is_found_in_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("low 0\noom 1\noom_kill 0\noom_group_kill 0\n"), 0);
    }
}
