//! What the sandboxes have to know of their node, given by the composition root; and why they cannot be served.

use std::io;
use std::path::PathBuf;

use super::cgroups::{self, Driver};
use super::cni::cidr::Cidr;
use super::dns::Cluster;
use super::files::NodeFiles;
use crate::allowed::Allowed;

/// The bridge of an agent's pods.
pub const BRIDGE: &str = "daemonlet0";

/// What has to be known of the node.
#[derive(Debug, Clone)]
pub struct Config {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    /// `spec.nodeName`, for messages.
    pub node_name: String,
    /// One name: `daemonlet`.
    pub cgroup_root: String,
    pub cgroup_driver: Driver,
    /// Processes and threads of a pod; None: no limit.
    pub pod_max_pids: Option<u64>,
    pub cni_bin_dirs: Vec<PathBuf>,
    /// The node's own network configurations: only read.
    pub cni_conf_dir: PathBuf,
    /// One of a family, the first of which gives `podIP`.
    pub pod_cidrs: Vec<Cidr>,
    /// The bridge's name, so that several nodes may run in one network namespace; at most 15 letters.
    pub bridge: String,
    pub node_files: NodeFiles,
    /// The log keeper's program, which also holds shared process namespaces.
    pub keeper: PathBuf,
    pub cluster: Cluster,
    /// Which host paths volumes may show.
    pub allowed: Allowed,
}

/// Why the node's sandboxes cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{name:?} cannot be a cgroup root: letters, digits, `_` and `.` only")]
    CgroupRoot { name: String },
    #[error("{name:?} cannot be a bridge's name: 1 to 15 letters, digits, `-`, `_` and `.`")]
    Bridge { name: String },
    #[error("cannot prepare {path} for the pods' mounts (is CAP_SYS_ADMIN there?)")]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Cgroups(cgroups::CgroupError),
}

impl Config {
    /// Names that become paths and interfaces are what they may be.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
        if self.cgroup_root.is_empty() || self.cgroup_root.starts_with('.') || !plain(&self.cgroup_root) {
            return Err(OpenError::CgroupRoot { name: self.cgroup_root.clone() });
        }
        if self.bridge.is_empty() || self.bridge.len() > 15 || !plain(&self.bridge.replace('-', "")) {
            return Err(OpenError::Bridge { name: self.bridge.clone() });
        }
        Ok(())
    }
}
