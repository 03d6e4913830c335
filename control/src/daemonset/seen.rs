//! What a decision about a DaemonSet looks at: the objects as the store holds them, as plain data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pod::name::Uid;
use pod::spec::PodTemplate;

use super::status::Status;
use crate::rollout::{History, Strategy};
use crate::selector::Selector;

/// The label of pods and ControllerRevisions that names the template they were made from.
pub const HASH_LABEL: &str = "controller-revision-hash";
/// The label by which clients older than apps/v1 tell templates apart; either label makes a pod an updated one.
pub const GENERATION_LABEL: &str = "pod-template-generation";

/// An apps/v1 DaemonSet that has been validated and given its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct DaemonSet {
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    pub generation: i64,
    /// It has a deletionTimestamp: the garbage collection is at work, and nothing is decided any more.
    pub deleting: bool,
    pub selector: Selector,
    pub template: Arc<PodTemplate>,
    /// What its ControllerRevision keeps, byte for byte (`{"spec":{"template":{…,"$patch":"replace"}}}`).
    pub template_data: Arc<str>,
    /// The annotation `deprecated.daemonset.template.generation`, when it is a number.
    pub template_generation: Option<i64>,
    pub strategy: Strategy,
    /// `minReadySeconds`.
    pub min_ready: Duration,
    /// `revisionHistoryLimit`: how many old revisions are kept beside the current one and those that pods still have.
    pub history_limit: usize,
    /// As it was written last.
    pub status: Status,
}

/// Everything of the DaemonSet's namespace and of the fleet, read at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The store's revision at which this was read. Names of new pods are made from it, so that two that decide from the same
    /// reading ask for the same pods, and the second is told that they exist.
    pub version: u64,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods that match the selector or are controlled by the DaemonSet; more do no harm.
    pub pods: Vec<Pod>,
    /// ControllerRevisions likewise, and all whose names begin with the DaemonSet's.
    pub revisions: Vec<Revision>,
}

/// A v1 Node.
///
/// `spec.unschedulable`, conditions and capacity are left out on purpose: a daemon runs on a cordoned node, and on one that is
/// not ready, perhaps because it waits for this very daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What placement judges: name, labels and taints.
    pub placed: pod::desired::Node,
    pub contact: Contact,
}

/// Whether a node can be told anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contact {
    Reached,
    /// Nothing has been heard of it. Unknown is not dead: its daemons run on.
    Lost {
        /// The last moment at which it was reached.
        since: Timestamp,
        /// As a person reads it, without a time: `no heartbeat`.
        reason: String,
    },
}

/// A v1 Pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    pub name: String,
    pub uid: Uid,
    /// `spec.nodeName`, else the node that its affinity names; None: nobody's, and left alone.
    pub node: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// The uid of the owner with `controller: true`.
    pub controller: Option<Uid>,
    pub phase: Phase,
    /// Since when the condition Ready is True, by the endpoint's clock. None: it is not. Of a node that is lost it says nothing.
    pub ready_since: Option<Timestamp>,
    pub created: Timestamp,
    /// When its deletion was asked for.
    pub deletion: Option<Timestamp>,
    /// How often its containers have been started again, all together.
    pub restarts: u32,
    /// Why it is not ready, for people: `main: CrashLoopBackOff`.
    pub trouble: Option<String>,
}

/// `status.phase`, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Pending, Running or Unknown.
    Active,
    Succeeded,
    Failed,
}

/// An apps/v1 ControllerRevision.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub controller: Option<Uid>,
    pub deleting: bool,
    /// `revision`: the highest is the newest.
    pub number: i64,
    /// `data`, byte for byte.
    pub data: Arc<str>,
}

impl Pod {
    /// Its deletion has been asked for.
    pub fn is_ending(&self) -> bool {
        self.deletion.is_some()
    }

    /// Nothing of it runs and nothing will: it does not stand in a successor's way.
    pub fn is_gone(&self) -> bool {
        self.is_ending() && self.phase != Phase::Active
    }
}

impl DaemonSet {
    /// Whether the pod was made from the present template.
    pub fn is_updated(&self, pod: &Pod, history: &History<'_>) -> bool {
        let generation = self.template_generation.map(|g| g.to_string());
        let by_generation = generation.is_some() && pod.labels.get(GENERATION_LABEL) == generation.as_ref();
        by_generation || pod.labels.get(HASH_LABEL).is_some_and(|hash| history.is_present(hash))
    }
}
