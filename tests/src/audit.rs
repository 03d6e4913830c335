//! What a node has on the machine: containers, snapshots, mounts, cgroups, addresses, processes. For "nothing leaks": a look before and
//! after must show the same, and a look at the end must show nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::node::TestNode;

/// One kind of trace a line; every trace is a name that a person can look for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    pub containers: BTreeSet<String>,
    pub tasks: BTreeSet<String>,
    /// Snapshots that a container writes to; those of images stay as long as their images.
    pub active_snapshots: BTreeSet<String>,
    pub leases: BTreeSet<String>,
    /// Mount points under the node's run and state directories: pinned namespaces, tmpfs, container roots.
    pub mounts: BTreeSet<String>,
    /// Directories of pods and containers under the node's cgroup root, without the root and its QoS parents.
    pub cgroups: BTreeSet<String>,
    /// Addresses that CNI's host-local keeps for this node.
    pub addresses: BTreeSet<String>,
    /// veth interfaces in the node's network namespace.
    pub links: BTreeSet<String>,
    pub shims: BTreeSet<String>,
    /// FIFOs that containers write their output to.
    pub fifos: BTreeSet<String>,
    /// Directories and files kept for a pod in the run and state directories, by the uid in their name.
    pub pod_directories: BTreeSet<String>,
}

impl Traces {
    pub fn of(node: &TestNode) -> Self {
        Self {
            containers: node.ctr_lines(&["containers", "ls", "-q"]),
            tasks: node.ctr_lines(&["tasks", "ls", "-q"]),
            active_snapshots: node
                .ctr_lines(&["snapshots", "ls"])
                .into_iter()
                .filter(|line| line.ends_with("Active"))
                .collect(),
            leases: node.ctr_lines(&["leases", "ls", "-q"]),
            mounts: pod_mounts(node),
            cgroups: shown(cgroups_under(&node.cgroup_root).into_iter().filter(|path| is_pods(path)).collect()),
            addresses: host_local_addresses(node.dir()),
            links: node.links().into_iter().filter(|link| link.starts_with("veth")).collect(),
            shims: node.shims().iter().map(|shim| shim.command_line()).collect(),
            fifos: files_under(&node.run_dir(), &std::os::unix::fs::FileTypeExt::is_fifo),
            pod_directories: pod_directories(node),
        }
    }

    fn rows(&self) -> [(&'static str, &BTreeSet<String>); 11] {
        let Self {
            containers,
            tasks,
            active_snapshots,
            leases,
            mounts,
            cgroups,
            addresses,
            links,
            shims,
            fifos,
            pod_directories,
        } = self;
        [
            ("containers", containers),
            ("tasks", tasks),
            ("active snapshots", active_snapshots),
            ("leases", leases),
            ("mounts", mounts),
            ("cgroups", cgroups),
            ("addresses", addresses),
            ("links", links),
            ("shims", shims),
            ("fifos", fifos),
            ("pod directories", pod_directories),
        ]
    }

    /// `Err` names everything that is still there.
    pub fn none(&self) -> Result<(), String> {
        if self.rows().iter().all(|(_, found)| found.is_empty()) { Ok(()) } else { Err(self.to_string()) }
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, found) in self.rows() {
            if !found.is_empty() {
                writeln!(f, "  {kind}: {found:?}")?;
            }
        }
        Ok(())
    }
}

/// Mounts of pods. containerd's own follow its tasks, and the directory that all pods' mounts lie under is one mount for ever.
fn pod_mounts(node: &TestNode) -> BTreeSet<String> {
    let shared = node.run_dir().join("pods").display().to_string();
    mounts_under(node.dir()).into_iter().filter(|mount| !mount.contains("/containerd/") && *mount != shared).collect()
}

/// Mount points at or under this directory, from /proc/self/mountinfo, in the order in which they were mounted.
pub fn mounts_under(dir: &Path) -> Vec<String> {
    let prefix = dir.display().to_string();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| *point == prefix || point.starts_with(&format!("{prefix}/")))
        .map(|point| point.replace("\\040", " "))
        .collect()
}

/// The places where cgroups may lie: every v1 hierarchy, the hybrid's v2 one, or the one v2 tree.
fn cgroup_hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    let entries = fs::read_dir(&top).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// All cgroup directories whose path begins with `root` in any hierarchy, or there beneath the cgroup in which the tests run: a
/// runtime puts a path that does not begin with a slash there. Children before parents.
pub fn cgroups_under(root: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own: BTreeSet<&str> =
        own.lines().filter_map(|line| Some(line.splitn(3, ':').nth(2)?.trim_matches('/'))).collect();
    let mut found = Vec::new();
    for hierarchy in cgroup_hierarchies() {
        for place in own.iter().copied().chain([""]).collect::<BTreeSet<_>>() {
            descend(&hierarchy.join(place).join(root), &mut found);
        }
    }
    found
}

fn descend(dir: &Path, found: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            descend(&entry.path(), found);
        }
    }
    found.push(dir.to_owned());
}

/// A pod's own cgroup or one of its containers', by the `pod<uid>` in its path.
fn is_pods(path: &Path) -> bool {
    path.iter().any(|part| part.to_str().is_some_and(|part| part.contains("pod") && has_uid(&part.replace('_', "-"))))
}

/// host-local keeps one file an address, named by it, under the directory that our CNI configuration gives as `dataDir`.
fn host_local_addresses(dir: &Path) -> BTreeSet<String> {
    files_under(dir, &fs::FileType::is_file)
        .into_iter()
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok()))
        .collect()
}

/// What lies in the run and state directories (containerd's own apart) under a name with a pod's uid in it.
fn pod_directories(node: &TestNode) -> BTreeSet<String> {
    let mut found = files_under(&node.run_dir(), &|_| true);
    found.extend(files_under(&node.state_dir(), &|_| true));
    found.into_iter().filter(|path| path.split('/').any(has_uid)).collect()
}

/// Whether the name holds a uid: 8-4-4-4-12 hexadecimal digits.
fn has_uid(name: &str) -> bool {
    let uid_like = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    (0..name.len().saturating_sub(35)).any(|at| name.get(at..at + 36).is_some_and(uid_like))
}

/// Everything of the given type under a directory, containerd's own directories left out. Symlinks are not followed.
fn files_under(dir: &Path, wanted: &dyn Fn(&fs::FileType) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if wanted(&kind) {
            found.insert(entry.path().display().to_string());
        }
        if kind.is_dir() && entry.file_name() != "containerd" {
            found.append(&mut files_under(&entry.path(), wanted));
        }
    }
    found
}

fn shown(paths: Vec<PathBuf>) -> BTreeSet<String> {
    paths.into_iter().map(|path| path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_found_inside_a_name() {
        assert!(has_uid("pod0f8fad5b-d9cb-469f-a165-70867728950e.slice"));
        assert!(!has_uid("cgroup-of-no-pod-with-many-dashes-in-its-name"));
    }
}
