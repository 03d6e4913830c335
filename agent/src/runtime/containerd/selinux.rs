//! SELinux labels of containers that ask for them (`seLinuxOptions`): what the node's policy gives to containers, with the parts
//! that the pod sets.
//!
//! Driven by `containers` ([`Node::read`], only where a container asks) and `oci`. The policy of containers names their labels in
//! `contexts/lxc_contexts`, which every container runtime reads. Volumes keep the labels that they have on the node.

use std::fs;
use std::path::Path;

use pod::name::Uid;
use pod::spec::SeLinux;
use sha2::{Digest as _, Sha256};

/// Where the kernel's interface lies.
const KERNEL: &str = "/sys/fs/selinux/enforce";
const ETC: &str = "/etc/selinux";
/// Categories of a level in the usual policies: c0 to c1023.
const CATEGORIES: u16 = 1024;
/// Used where the policy does not say.
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILE: &str = "system_u:object_r:container_file_t:s0";

/// Whether this node has SELinux, and what its policy gives to containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Off,
    On { process: String, file: String },
}

/// OCI `process.selinuxLabel` and `linux.mountLabel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    pub process: String,
    pub mount: String,
}

impl Node {
    /// Blocking, microseconds: files of the kernel and of /etc.
    pub fn read() -> Node {
        match Path::new(KERNEL).exists() {
            false => Node::Off,
            true => Node::on(Path::new(ETC)),
        }
    }

    fn on(etc: &Path) -> Node {
        let config = fs::read_to_string(etc.join("config")).unwrap_or_default();
        let policy = value(&config, "SELINUXTYPE").filter(|name| !name.contains('/')).unwrap_or("targeted".to_owned());
        let contexts = fs::read_to_string(etc.join(policy).join("contexts/lxc_contexts")).unwrap_or_default();
        let label = |key, usual: &str| value(&contexts, key).unwrap_or_else(|| usual.to_owned());
        Node::On { process: label("process", PROCESS), file: label("file", FILE) }
    }

    /// None where the node has no SELinux.
    pub fn labels(&self, asked: &SeLinux, pod: &Uid) -> Option<Labels> {
        let Node::On { process, file } = self else { return None };
        let SeLinux { user, role, kind, level } = asked;
        let level = level.clone().unwrap_or_else(|| own_level(pod));
        let (user, level) = (user.as_deref(), Some(level.as_str()));
        Some(Labels {
            process: with(process, [user, role.as_deref(), kind.as_deref(), level]),
            mount: with(file, [user, None, None, level]),
        })
    }
}

/// A label's user, role, type and level (which may have colons), replaced where there is something else.
fn with(label: &str, parts: [Option<&str>; 4]) -> String {
    let mut own = label.splitn(4, ':');
    let all: Vec<&str> =
        parts.into_iter().map(|part| (own.next(), part)).filter_map(|(own, part)| part.or(own)).collect();
    all.join(":")
}

/// Two categories of the pod's own, the same at every start: its containers may share files, and others' are not theirs.
fn own_level(pod: &Uid) -> String {
    let hash = Sha256::digest(pod.0.as_bytes());
    let category = |at: usize| u16::from_be_bytes([hash[at], hash[at + 1]]) % CATEGORIES;
    let (one, other) = (category(0), category(2));
    let other = if one == other { (other + 1) % CATEGORIES } else { other };
    format!("s0:c{},c{}", one.min(other), one.max(other))
}

/// `key=value` or `key = "value"`.
fn value(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_sets_replaces_what_the_policy_gives() {
        let etc = tempfile::tempdir().expect("made");
        let contexts = etc.path().join("mls/contexts");
        fs::create_dir_all(&contexts).expect("made");
        fs::write(etc.path().join("config"), "# it\nSELINUX=enforcing\nSELINUXTYPE=mls\n").expect("written");
        let text = "process = \"system_u:system_r:ours_t:s0\"\nfile = \"system_u:object_r:ours_file_t:s0\"\n";
        fs::write(contexts.join("lxc_contexts"), text).expect("written");
        let (node, uid) = (Node::on(etc.path()), Uid("0a".into()));
        let asked = SeLinux { kind: Some("spc_t".into()), level: Some("s0:c1,c2".into()), ..SeLinux::default() };
        let labels = node.labels(&asked, &uid).expect("on");
        assert_eq!(labels.process, "system_u:system_r:spc_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:ours_file_t:s0:c1,c2");
        let asked = SeLinux { user: Some("u".into()), role: Some("r".into()), ..SeLinux::default() };
        let labels = node.labels(&asked, &uid).expect("on");
        assert!(
            labels.process.starts_with("u:r:ours_t:s0:c") && labels.mount.starts_with("u:object_r:ours_file_t:s0:c")
        );
        assert_eq!(node.labels(&asked, &uid), Some(labels), "the same at every start");
        assert_eq!(Node::Off.labels(&asked, &uid), None);
        assert!(matches!(Node::on(Path::new("/nowhere")), Node::On { process, .. } if process == PROCESS));
    }
}
