//! What a decision says: steps to write, the status, what to remember and when to look again.

use std::sync::Arc;

use jiff::Timestamp;
use pod::name::Uid;

use super::failures::Failures;
use super::status::Status;

/// What to do about a DaemonSet now.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// In this order: claims and revisions, then removals, then additions. Whoever carries them out stops at a claim or revision that fails
    /// and looks again; deletions and creations do not depend on each other, so any part of them may fail.
    pub steps: Vec<Step>,
    /// What the steps do not tell by themselves, for the DaemonSet's events.
    pub events: Vec<Event>,
    /// To be written where it differs from the one that was seen.
    pub status: Status,
    /// To be handed in next time.
    pub failures: Failures,
    /// Without any change there is something to decide then.
    pub wake_at: Option<Timestamp>,
}

/// One write. Every one is conditional on the object being what was seen (its uid, its resourceVersion).
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Become its controller. The DaemonSet itself has to be read again first: it may be gone.
    AdoptPod {
        uid: Uid,
    },
    /// Take the owner reference away: it no longer matches.
    ReleasePod {
        uid: Uid,
    },
    /// Set the label [`HASH_LABEL`](super::HASH_LABEL).
    LabelPod {
        uid: Uid,
        hash: String,
    },
    AdoptRevision {
        name: String,
    },
    ReleaseRevision {
        name: String,
    },
    CreateRevision {
        name: String,
        hash: String,
        number: i64,
        data: Arc<str>,
    },
    /// Set `revision`.
    RenumberRevision {
        name: String,
        number: i64,
    },
    LabelRevision {
        name: String,
        hash: String,
    },
    DeleteRevision {
        name: String,
    },
    DeletePod {
        uid: Uid,
        name: String,
        why: Ending,
    },
    /// From the present template, with `spec.nodeName`. AlreadyExists means that another has done it.
    CreatePod {
        name: String,
        node: String,
        hash: String,
    },
}

/// Why a pod is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its node is gone from the fleet and nobody will confirm its end: deleted at once, without grace.
    NodeGone,
    /// The node is not one for this daemon.
    NotHere {
        reason: String,
    },
    Failed,
    Succeeded,
    /// Another pod of this DaemonSet has the node.
    Surplus,
    /// Its successor takes over (`updateStrategy`).
    Update,
}

/// A v1 Event about the DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// Kubernetes' own words.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}
