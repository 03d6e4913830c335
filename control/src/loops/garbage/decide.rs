//! What is nobody's any more: objects whose owners are gone, and owners that wait for what they own. Pure.
//!
//! As Kubernetes: an object goes when all its owners are gone; an owner that is deleted in the foreground goes after those that block it; one that
//! is deleted as an orphaner leaves its dependents behind without a reference to it.

use std::collections::{BTreeMap, BTreeSet};

/// An object that has owners, or that waits for its dependents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub id: Id,
    pub owners: Vec<Owner>,
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// The finalizer `foregroundDeletion`.
    pub foreground: bool,
    /// The finalizer `orphan`.
    pub orphan: bool,
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Its place in the table of kinds.
    pub kind: usize,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub uid: String,
    /// `blockOwnerDeletion`.
    pub blocks: bool,
    /// What is known, as of the moment of all things or later, of what this very reference names: two may name one uid, and one of them
    /// wrongly. None: of a kind that we do not have, and left to others.
    pub known: Option<Ownership>,
}

/// What is known of an owner. Of two that an object says of one uid, the later one here counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ownership {
    /// Looked for under the name of the reference: it is not there, or is another with another uid.
    Gone,
    /// It is deleted and waits for its dependents.
    Waits,
    Lives,
}

/// One write, conditional on the uid of what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take the references to these owners away.
    Disown {
        id: Id,
        owners: Vec<String>,
    },
    /// Its references no longer block: it and its owner wait for each other.
    Unblock {
        id: Id,
    },
    Delete {
        id: Id,
        propagation: Propagation,
    },
    /// Take this finalizer away: what it waited for has happened.
    Finish {
        id: Id,
        finalizer: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The finalizer of an owner that goes last.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner that leaves its dependents behind.
pub const ORPHAN: &str = "orphan";

/// `things`: all that have owners or wait, as of one moment.
pub fn decide(things: &[Thing]) -> Vec<Step> {
    let mut dependents: BTreeMap<&str, Vec<&Thing>> = BTreeMap::new();
    for thing in things {
        let named: BTreeSet<&str> = thing.owners.iter().map(|owner| owner.uid.as_str()).collect();
        named.into_iter().for_each(|uid| dependents.entry(uid).or_default().push(thing));
    }
    let of = |thing: &Thing| dependents.get(thing.id.uid.as_str()).map_or(&[][..], Vec::as_slice);
    let mut steps = Vec::new();
    for thing in things {
        if thing.deleting && thing.orphan {
            steps.extend(leave_behind(thing, of(thing)));
        } else if thing.deleting && thing.foreground {
            let blocked = of(thing).iter().any(|d| d.owners.iter().any(|o| o.uid == thing.id.uid && o.blocks));
            if !blocked {
                steps.push(Step::Finish { id: thing.id.clone(), finalizer: FOREGROUND });
            }
        }
        steps.extend(disowned(thing, of(thing)));
    }
    steps
}

fn leave_behind(owner: &Thing, dependents: &[&Thing]) -> Vec<Step> {
    if dependents.is_empty() {
        return vec![Step::Finish { id: owner.id.clone(), finalizer: ORPHAN }];
    }
    let disown = |d: &&Thing| Step::Disown { id: d.id.clone(), owners: vec![owner.id.uid.clone()] };
    dependents.iter().map(disown).collect()
}

/// What follows for an object from what its owners are.
fn disowned(thing: &Thing, dependents: &[&Thing]) -> Vec<Step> {
    let id = || thing.id.clone();
    let cyclic = dependents.iter().any(|d| d.deleting && d.foreground);
    let known = |owner: &Owner| thing.owners.iter().filter(|it| it.uid == owner.uid).filter_map(|it| it.known).max();
    let is = |owner: &Owner, what| known(owner) == Some(what);
    let waited_for = thing.owners.iter().any(|owner| is(owner, Ownership::Waits));
    let blocks = thing.owners.iter().any(|owner| owner.blocks);
    let unblock = (waited_for && cyclic && blocks).then(|| Step::Unblock { id: id() });
    if thing.deleting {
        return unblock.into_iter().collect();
    }
    let (useless, needed): (Vec<&Owner>, Vec<&Owner>) =
        thing.owners.iter().partition(|owner| is(owner, Ownership::Gone) || is(owner, Ownership::Waits));
    if useless.is_empty() {
        return Vec::new();
    }
    if !needed.is_empty() {
        return vec![Step::Disown { id: id(), owners: useless.iter().map(|owner| owner.uid.clone()).collect() }];
    }
    let propagation = match thing {
        Thing { orphan: true, .. } => Propagation::Orphan,
        Thing { foreground: true, .. } => Propagation::Foreground,
        _ if waited_for && !dependents.is_empty() => Propagation::Foreground,
        _ => Propagation::Background,
    };
    unblock.into_iter().chain([Step::Delete { id: id(), propagation }]).collect()
}

#[cfg(test)]
mod tests;
