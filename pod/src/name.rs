//! Keys and names: parsed once, valid for ever.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What a document asks to run: the identity that stays while its pods come and go.
///
/// The pod's own name differs: a static pod is `<name>-<node>`, a DaemonSet's pod `<name>-<5 letters>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadKey {
    pub namespace: String,
    pub kind: WorkloadKind,
    /// `metadata.name` of the document.
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    Pod,
    DaemonSet,
    /// A pod object of the control endpoint: name and uid are the object's own.
    Control,
}

impl fmt::Display for WorkloadKey {
    /// `pod/ns/name`, `ds/ns/name` or `control/ns/name`; also the value of the containerd label that finds a workload's containers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Pod => "pod",
            WorkloadKind::DaemonSet => "ds",
            WorkloadKind::Control => "control",
        };
        write!(f, "{kind}/{}/{}", self.namespace, self.name)
    }
}

/// A pod's uid: lower-case hexadecimal UUID (`metadata.uid`), new for every new pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Uid(pub String);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run of one container of one pod: the unit that containerd knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    pub uid: Uid,
    /// `containers[].name`.
    pub container: String,
    /// 0 for the first run; equals the restart count that Kubernetes shows, and names the log file.
    pub attempt: u32,
}

impl RunKey {
    /// The container's id in containerd: 64 hexadecimal digits, derived, so that creating twice meets itself.
    ///
    /// Unique across all containerd instances of a host (runc keeps its state by id outside their roots) because the
    /// uid is.
    pub fn container_id(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{}/{}/{}", self.uid, self.container, self.attempt));
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.uid, self.container, self.attempt)
    }
}
