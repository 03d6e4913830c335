//! What is wanted of this node: the values that flow from sources through `merge` to the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::allow::Allow;
use crate::content::{Content, ContentKey, Contents};
use crate::name::{Uid, WorkloadKey, WorkloadKind};
use crate::received::Received;
use crate::secret::{DockerConfig, SecretKey};
use crate::spec::{PodTemplate, Taint};

/// Where a document came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    pub source: Source,
    /// The file's path as the user knows it (static source).
    pub file: String,
    /// The line on which the document starts, from 1.
    pub line: u32,
}

/// Ordered by precedence: static beats control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Static,
    Control,
}

impl Source {
    pub const ALL: [Source; 2] = [Source::Static, Source::Control];

    /// The one that workloads of this kind come from.
    pub fn of(kind: WorkloadKind) -> Source {
        match kind {
            WorkloadKind::Control => Source::Control,
            WorkloadKind::Pod | WorkloadKind::DaemonSet => Source::Static,
        }
    }
}

/// A pod that this node is to run for a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredPod {
    pub workload: WorkloadKey,
    /// Shared: the desired set, its worker and the board hold the same one.
    pub template: Arc<PodTemplate>,
    /// Equal revisions are the same running thing (`digest`): lower-case letters and digits, at most 10 of them.
    pub revision: String,
    pub update: UpdateStrategy,
    pub origin: Origin,
    /// The document as received: what the record keeps.
    pub document: Received,
    /// Of a pod of the control endpoint.
    pub object: Option<Box<Object>>,
}

/// What the control endpoint has decided of one of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `metadata.uid`: another uid under the same name is another pod.
    pub uid: Uid,
    /// It is to end (`deletionTimestamp`), with this much time to do so (`deletionGracePeriodSeconds`).
    pub ends: Option<Duration>,
    /// It has run to its end, or has failed: a node without a record of it does not run it once more.
    pub finished: bool,
    /// The DaemonSet that owns it.
    pub owner: Option<String>,
}

/// `spec.updateStrategy` of a DaemonSet; a Pod document always rolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateStrategy {
    RollingUpdate,
    OnDelete,
}

/// What the merge of all sources says of one workload.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Run this.
    Run(Box<DesiredPod>),
    /// Keep what its records say: its document is unreadable or refused at present, its source has not been heard
    /// from, or its newest wish cannot be taken.
    Hold { reason: String },
    /// As [`Wanted::Hold`], by a rule of the node's owner: what never ran is not started either.
    Forbidden { reason: String },
    /// Its pod object is being deleted: end it within this time, which may become shorter.
    End { grace: Duration },
    /// No source wants it and all have been heard: end it.
    Gone,
}

/// The merged desired set. A workload that is not listed is [`Wanted::Gone`] where the source that it would come from has been heard, else held:
/// one that is silent holds up no other, and one that nobody asks any more takes nothing away.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DesiredSet {
    pub workloads: BTreeMap<WorkloadKey, Wanted>,
    /// Sources that have been heard from, or whose checkpoint was read.
    pub heard: BTreeSet<Source>,
    /// All that were asked have been.
    pub complete: bool,
    /// ConfigMaps and Secrets; of those that cannot be read at present what they last said.
    pub contents: Contents,
}

impl DesiredSet {
    /// Credentials of registries: Secrets of the types that hold them.
    pub fn logins(&self) -> BTreeMap<SecretKey, DockerConfig> {
        let login = |(key, content): (&ContentKey, &Arc<Content>)| {
            let login = content.login()?;
            Some((SecretKey { namespace: key.namespace.clone(), name: key.name.clone() }, login))
        };
        self.contents.iter().filter_map(login).collect()
    }

    /// What this set says of `key`.
    pub fn wanted(&self, key: &WorkloadKey) -> Wanted {
        match self.workloads.get(key) {
            Some(wanted) => wanted.clone(),
            None if self.heard.contains(&Source::of(key.kind)) => Wanted::Gone,
            None => Wanted::Hold {
                reason: match Source::of(key.kind) {
                    Source::Static => "the manifest directory has not been read yet".into(),
                    Source::Control => "the control endpoint has not been heard from since the agent's start".into(),
                },
            },
        }
    }
}

/// What placement looks at: the node's name, labels and taints (`unschedulable` is deliberately absent); and what its owner
/// allows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub allow: Allow,
    /// Labels and taints may be others: those that count have not been read yet. What they send away stays meanwhile.
    pub provisional: bool,
}
