//! ControllerRevisions: which one is the present template's, what it is numbered, and which old ones go.
//!
//! A revision is the template's if its bytes are. An undo is an edit back to an old template: its revision becomes the newest.

use std::collections::BTreeSet;

use pod::digest::letters;
use sha2::{Digest as _, Sha256};

use crate::daemonset::{ClaimedPod, DaemonSet, HASH_LABEL, Revision, Seen, Step};

/// What is before the hash in a name is cut, so that a DaemonSet with the longest name has revisions too (Kubernetes' number).
const BASE_MAX: usize = 223;

/// The name of a ControllerRevision.
pub fn revision_name(daemonset: &str, hash: &str) -> String {
    format!("{}-{hash}", revision_base(daemonset))
}

/// What the names of a DaemonSet's revisions begin with.
pub fn revision_base(daemonset: &str) -> &str {
    // Names are ASCII.
    daemonset.get(..BASE_MAX).unwrap_or(daemonset)
}

/// 27^10 values, as many letters as a revision has on a node: fits into a label beside anything.
const LETTERS: usize = 10;

/// What is decided about the revisions of a DaemonSet.
#[derive(Debug)]
pub struct History<'a> {
    /// The present template's: the value of the label on its revision and on its pods.
    pub hash: String,
    pub steps: Vec<Step>,
    /// `status.collisionCount`.
    pub collisions: Option<i32>,
    /// All of other templates, the oldest first, each with its hash.
    old: Vec<(&'a Revision, &'a str)>,
    /// Revisions with the present template's bytes that go because another stays, each with its hash.
    twins: Vec<(&'a Revision, &'a str)>,
}

/// `revisions`: the DaemonSet's own, in the order of their numbers.
pub fn history<'a>(daemonset: &DaemonSet, revisions: &[&'a Revision], seen: &Seen) -> History<'a> {
    let (mut same, old): (Vec<&'a Revision>, Vec<&'a Revision>) =
        revisions.iter().partition(|r| *r.data == *daemonset.template_data);
    let hashed = |of: Vec<&'a Revision>| of.into_iter().map(|r| (r, hash_of(daemonset, r))).collect();
    let newest = old.iter().map(|r| r.number).max().unwrap_or(0).saturating_add(1);
    let unlabelled = old.iter().filter(|r| !r.labels.contains_key(HASH_LABEL));
    let label = |r: &&Revision| Step::LabelRevision { name: r.name.clone(), hash: hash_of(daemonset, r).to_owned() };
    let mut steps: Vec<Step> = unlabelled.map(label).collect();
    let collisions = daemonset.status.collision_count;

    let Some(present) = same.pop() else {
        let (name, hash, collisions) = free_name(daemonset, seen, collisions);
        let data = daemonset.template_data.clone();
        steps.push(Step::CreateRevision { name, hash: hash.clone(), number: newest, data });
        return History { hash, steps, collisions, old: hashed(old), twins: Vec::new() };
    };
    if !present.labels.contains_key(HASH_LABEL) {
        steps.push(label(&present));
    }
    if present.number < newest {
        steps.push(Step::RenumberRevision { name: present.name.clone(), number: newest });
    }
    let hash = hash_of(daemonset, present).to_owned();
    History { hash, steps, collisions, old: hashed(old), twins: hashed(same) }
}

impl History<'_> {
    /// Pods of revisions that are one and the same get the label of the one that stays.
    pub fn relabel(&self, pods: &[ClaimedPod<'_>]) -> Vec<Step> {
        let of_twin = |h: &String| *h != self.hash && self.is_present(h);
        let merged = |p: &&ClaimedPod<'_>| p.pod.labels.get(HASH_LABEL).is_some_and(of_twin);
        let label = |p: &ClaimedPod<'_>| Step::LabelPod { uid: p.pod.uid.clone(), hash: self.hash.clone() };
        pods.iter().filter(merged).map(label).collect()
    }

    /// Deletes the twins and the oldest revisions beyond `limit`, but none that a pod still has.
    pub fn unneeded(&self, limit: usize, live: &BTreeSet<&str>) -> Vec<Step> {
        let dead = |(_, hash): &&(&Revision, &str)| !live.contains(hash);
        let delete = |(r, _): &(&Revision, &str)| Step::DeleteRevision { name: r.name.clone() };
        let beyond = self.old.len().saturating_sub(limit);
        let old = self.old.iter().filter(dead).take(beyond);
        self.twins.iter().chain(old).map(delete).collect()
    }

    /// Whether a pod with this label is of the present template, after the relabelling.
    pub fn is_present(&self, hash: &str) -> bool {
        self.hash == hash || self.twins.iter().any(|(_, twin)| *twin == hash)
    }
}

/// The label; where it has been taken away, what follows the DaemonSet's name.
fn hash_of<'a>(daemonset: &DaemonSet, revision: &'a Revision) -> &'a str {
    let label = revision.labels.get(HASH_LABEL).map(String::as_str);
    label.unwrap_or_else(|| {
        let suffix = revision.name.strip_prefix(revision_base(&daemonset.name)).and_then(|rest| rest.strip_prefix('-'));
        suffix.unwrap_or(&revision.name)
    })
}

/// A name that no object has, its hash, and how often one was taken.
fn free_name(daemonset: &DaemonSet, seen: &Seen, collisions: Option<i32>) -> (String, String, Option<i32>) {
    let taken: BTreeSet<&str> = seen.revisions.iter().map(|r| r.name.as_str()).collect();
    let mut collisions = collisions;
    loop {
        let mut sum = Sha256::new();
        sum.update(daemonset.template_data.as_bytes());
        sum.update(collisions.unwrap_or(0).to_le_bytes());
        let hash = letters(&sum.finalize(), LETTERS);
        let name = revision_name(&daemonset.name, &hash);
        if !taken.contains(name.as_str()) {
            return (name, hash, collisions);
        }
        collisions = Some(collisions.unwrap_or(0).saturating_add(1));
    }
}
