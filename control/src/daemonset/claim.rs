//! Which pods and revisions are the DaemonSet's: by its selector and by their controller.

use std::collections::BTreeMap;

use pod::name::Uid;

use super::decision::Step;
use super::seen::{DaemonSet, Pod, Revision, Seen};

/// What belongs to the DaemonSet.
pub struct Claimed<'a> {
    pub pods: Vec<ClaimedPod<'a>>,
    /// In the order of their numbers, then names.
    pub revisions: Vec<&'a Revision>,
    pub steps: Vec<Step>,
}

/// A pod that is the DaemonSet's.
#[derive(Clone, Copy)]
pub struct ClaimedPod<'a> {
    pub pod: &'a Pod,
    pub hold: Hold,
}

/// How firmly it is the DaemonSet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Owned,
    /// To be adopted by this decision: it has its node, but is not deleted before the adoption has been written.
    Adopted,
}

pub fn claim<'a>(daemonset: &DaemonSet, seen: &'a Seen) -> Claimed<'a> {
    let mut claimed = Claimed { pods: Vec::new(), revisions: Vec::new(), steps: Vec::new() };
    for pod in &seen.pods {
        match judge(daemonset, pod.controller.as_ref(), &pod.labels, pod.is_ending()) {
            Claim::Ours => claimed.pods.push(ClaimedPod { pod, hold: Hold::Owned }),
            Claim::Adopt => {
                claimed.steps.push(Step::AdoptPod { uid: pod.uid.clone() });
                claimed.pods.push(ClaimedPod { pod, hold: Hold::Adopted });
            }
            Claim::Release => claimed.steps.push(Step::ReleasePod { uid: pod.uid.clone() }),
            Claim::NotOurs => {}
        }
    }
    for revision in &seen.revisions {
        match judge(daemonset, revision.controller.as_ref(), &revision.labels, revision.deleting) {
            Claim::Ours if revision.deleting => {}
            Claim::Ours => claimed.revisions.push(revision),
            Claim::Adopt => {
                claimed.steps.push(Step::AdoptRevision { name: revision.name.clone() });
                claimed.revisions.push(revision);
            }
            Claim::Release => claimed.steps.push(Step::ReleaseRevision { name: revision.name.clone() }),
            Claim::NotOurs => {}
        }
    }
    claimed.revisions.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    claimed
}

enum Claim {
    Ours,
    Adopt,
    Release,
    NotOurs,
}

/// What is ending is neither adopted nor released: it goes away by itself.
fn judge(daemonset: &DaemonSet, controller: Option<&Uid>, labels: &BTreeMap<String, String>, ending: bool) -> Claim {
    let matches = daemonset.selector.matches(labels);
    match controller {
        Some(uid) if *uid != daemonset.uid => Claim::NotOurs,
        Some(_) if matches || ending => Claim::Ours,
        Some(_) => Claim::Release,
        None if matches && !ending => Claim::Adopt,
        None => Claim::NotOurs,
    }
}
