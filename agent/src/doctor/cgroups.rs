//! cgroups: which version is mounted, and which controllers pods can have.

use std::collections::BTreeSet;
use std::fs;

use super::Line;

/// Limits and accounts of pods need these.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

#[derive(Debug, PartialEq)]
pub enum Cgroups {
    V1(BTreeSet<String>),
    V2(BTreeSet<String>),
    Absent,
}

pub fn probe() -> Cgroups {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
    if let Ok(controllers) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return Cgroups::V2(words(controllers));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let v1 = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some("cgroup")).then(|| fields.next().unwrap_or_default())
    });
    let controllers: BTreeSet<String> = v1.flat_map(|options| options.split(',')).map(str::to_owned).collect();
    if controllers.is_empty() { Cgroups::Absent } else { Cgroups::V1(controllers) }
}

pub fn judge(found: &Cgroups) -> Line {
    const NAME: &str = "cgroups";
    let (version, controllers) = match found {
        Cgroups::V1(controllers) => ("v1", controllers),
        Cgroups::V2(controllers) => ("v2", controllers),
        Cgroups::Absent => {
            let fix = "mount cgroup2 at /sys/fs/cgroup (systemd does); where this node is a container, give it a cgroup mount";
            return Line::fail(NAME, "no cgroup hierarchy is mounted at /sys/fs/cgroup", fix);
        }
    };
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !controllers.contains(*name)).collect();
    match missing.is_empty() {
        true => Line::ok(NAME, format!("{version} with {}", NEEDED.join(", "))),
        false => Line::fail(
            NAME,
            format!("{version} without {}", missing.join(", ")),
            "enable the controllers on the kernel's command line (cgroup_enable=memory) and delegate them to this node",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_missing_controller_or_hierarchy_fails() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(judge(&Cgroups::V2(set(&["cpu", "memory", "pids", "io"]))).verdict, Verdict::Ok);
        let line = judge(&Cgroups::V2(set(&["cpu", "pids"])));
        assert_eq!((line.verdict, line.found.as_str()), (Verdict::Fail, "v2 without memory"));
        assert_eq!(judge(&Cgroups::V1(set(&["cpu"]))).verdict, Verdict::Fail);
        assert_eq!(judge(&Cgroups::Absent).verdict, Verdict::Fail);
        assert_ne!(probe(), Cgroups::Absent);
    }
}
