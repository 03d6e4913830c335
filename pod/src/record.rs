//! What was admitted: a pod of a workload with all that must survive the agent. One writer, its worker; on disk in
//! the state directory. What *runs* is containerd's to know and is not here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::desired::Origin;
use crate::name::{Uid, WorkloadKey};
use crate::time::Moment;

/// An admitted pod. Its template is not stored twice: `manifest` reads it from `document`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub uid: Uid,
    pub workload: WorkloadKey,
    /// The pod's own name.
    pub name: String,
    pub revision: String,
    pub origin: Origin,
    /// The document as received.
    pub document: Arc<serde_json::Value>,
    pub admitted_at: jiff::Timestamp,
    /// Counts the admissions of this workload on this node, from 1.
    pub generation: u64,
    /// The boot in which the moments below were taken (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    pub lifecycle: Lifecycle,
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
}

/// Forward only; a deadline only shrinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Lifecycle {
    Running,
    Terminating {
        since: jiff::Timestamp,
        /// When SIGKILL follows.
        deadline: Moment,
        reason: String,
    },
    /// A plain pod that has finished (restartPolicy OnFailure or Never): kept for its status, nothing runs.
    Finished,
}

/// What is remembered of a container between its runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerMemory {
    /// The newest attempt that was started, when one was.
    pub started_attempt: Option<u32>,
    pub started_at: Option<jiff::Timestamp>,
    /// Boot clock at that start.
    pub started_moment: Option<Moment>,
    /// How the newest finished attempt ended.
    pub last: Option<Termination>,
    /// How the attempt before that ended, when there was one: Kubernetes' `lastState` while the newest is `state`.
    pub before: Option<Termination>,
    /// Failures in a row that count for the back-off.
    pub failures: u32,
    /// No start before this moment (CrashLoopBackOff).
    pub not_before: Option<Moment>,
}

/// How a run ended (v1 ContainerStateTerminated).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    pub attempt: u32,
    pub container_id: String,
    /// 128 + n for a signal; 137 with reason ContainerStatusUnknown where containerd no longer knew.
    pub exit_code: u32,
    /// Completed, Error, OOMKilled, ContainerStatusUnknown, StartError.
    pub reason: String,
    pub message: String,
    pub started_at: Option<jiff::Timestamp>,
    pub finished_at: jiff::Timestamp,
}
