//! How an update goes over the fleet: which old pods may be taken now, and which nodes get a second pod.
//!
//! The budget counts nodes that should run the daemon and that the update can reach. It follows Kubernetes in the fields and their
//! rounding, and keeps three promises that Kubernetes breaks (kubernetes#123232):
//!
//! - **Nothing that serves is taken beyond the budget.** Old pods that are not ready serve nobody: they are replaced first and
//!   at once, so that a second update repairs what the first has broken. A ready pod is taken only while fewer than `maxUnavailable` nodes
//!   are without one, whatever the reason, and an available one while fewer than that are without an available one.
//! - **What has failed must prove itself.** A pod that was restarted, or that replaces one that was not ready, counts only when it has been ready
//!   for a while: a daemon without a readiness probe that ends at once is ready for a moment each time it starts. With `maxSurge` too, nodes without
//!   an available pod hold up the others.
//! - **A node that was lost before its update is outside the budget**, so it does not hold up the others. One that was lost after its update
//!   began is inside: the update may be what cut it off.

pub mod contents;
mod history;
mod share;

pub use history::{History, history, revision_base, revision_name};
pub use share::Share;

use crate::daemonset::{Contact, Ending, Health, Hold, Local};

/// `spec.updateStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    OnDelete,
    /// Validation has seen to it that one of both is zero.
    RollingUpdate {
        max_unavailable: Share,
        max_surge: Share,
    },
}

/// What an update may take at a time, in nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Nothing: people delete the old pods.
    OnDelete,
    /// Nodes without an available pod.
    Unavailable(usize),
    /// Nodes with a second pod beside an old one that serves, and nodes without an available pod.
    Surge(usize),
}

impl Budget {
    /// `desired`: nodes that should run the daemon, lost ones included.
    pub fn of(strategy: Strategy, desired: usize) -> Budget {
        match strategy {
            Strategy::OnDelete => Budget::OnDelete,
            Strategy::RollingUpdate { max_unavailable, max_surge } => match max_surge.of(desired) {
                // Both zero would update nothing; Kubernetes lets one node be without.
                0 => Budget::Unavailable(max_unavailable.of(desired).max(1)),
                surge => Budget::Surge(surge),
            },
        }
    }
}

/// What the rollout adds to a decision. Pods that it ends are marked where they are.
#[derive(Debug, Default)]
pub struct Rolled {
    /// Nodes that get a pod beside the one that they have.
    pub creates: Vec<String>,
    /// Old pods that serve wait for these, a node each. Empty when none waits.
    pub waits: Vec<String>,
}

/// The next portion of the update. What else happens on the nodes has been decided and marked before.
pub fn roll<'l, 'a: 'l>(locals: impl Iterator<Item = &'l mut Local<'a>>, budget: Budget) -> Rolled {
    let counted: Vec<_> = locals.filter(|l| l.runs() && l.lost_before_update().is_none()).collect();
    match budget {
        Budget::OnDelete => Rolled::default(),
        Budget::Unavailable(max) => replace(counted, max),
        Budget::Surge(max) => surge(counted, max),
    }
}

fn replace(mut counted: Vec<&mut Local<'_>>, max: usize) -> Rolled {
    let of = |health| counted.iter().filter(|l| l.health() == health).count();
    let classes = [Health::Warming, Health::Unproven, Health::Up].map(|health| (health, of(health)));
    let mut without = of(Health::Down);
    for local in counted.iter_mut().filter(|l| l.is_reached()) {
        local.pods.iter_mut().filter(|p| !p.updated && p.health == Health::Down).for_each(|p| p.end(Ending::Update));
    }
    // The worst first. What is worth less than a class is missing from it already, whether it is taken or not.
    let mut waiting = false;
    for (health, count) in classes {
        waiting |= take(&mut counted, health, max.saturating_sub(without));
        without = without.saturating_add(count);
    }
    let waits = if waiting {
        counted.iter().filter(|l| l.health() != Health::Up).map(|l| wait(l)).collect()
    } else {
        Vec::new()
    };
    Rolled { creates: Vec::new(), waits }
}

/// Ends the old pods of up to `count` nodes whose health is this one. Whether there are more such nodes.
fn take(counted: &mut [&mut Local<'_>], health: Health, count: usize) -> bool {
    let old = |l: &&mut &mut Local<'_>| l.health() == health && l.living().all(|p| !p.updated && p.hold == Hold::Owned);
    let mut candidates = counted.iter_mut().filter(old);
    for local in candidates.by_ref().take(count) {
        local.pods.iter_mut().for_each(|p| p.end(Ending::Update));
    }
    candidates.next().is_some()
}

fn surge(counted: Vec<&mut Local<'_>>, max: usize) -> Rolled {
    let serves = |l: &Local<'_>| l.living().any(|p| !p.updated && (p.health > Health::Down || !l.is_reached()));
    // A second pod that is ending still has its place: its successor comes before any other node's.
    let doubled = |l: &Local<'_>| serves(l) && l.pods.len() > 1;
    // Nothing available is risked while other nodes are without, above all because of pods that this update has made.
    let without = |l: &Local<'_>| !doubled(l) && l.health() != Health::Up;
    let mut doubles = counted.iter().filter(|l| doubled(l)).count();
    let mut risks = doubles.saturating_add(counted.iter().filter(|l| without(l)).count());
    let mut rolled = Rolled::default();
    let mut waiting = false;
    for local in counted.iter().filter(|l| l.is_reached()) {
        let mut living = local.living();
        let (Some(old), None, 1) = (living.next(), living.next(), local.pods.len()) else { continue };
        let budget = match (old.updated, old.health) {
            (true, _) => continue,
            // Beside a pod that serves nobody a new one costs nothing.
            (false, Health::Down) => None,
            (false, Health::Warming | Health::Unproven) => Some(&mut doubles),
            (false, Health::Up) => Some(&mut risks),
        };
        match budget {
            Some(spent) if *spent >= max => {
                waiting = true;
                continue;
            }
            Some(spent) => *spent += 1,
            None => {}
        }
        rolled.creates.push(local.name.to_owned());
    }
    if waiting {
        rolled.waits = counted.iter().filter(|l| doubled(l) || without(l)).map(|l| wait(l)).collect();
    }
    rolled
}

/// Why this node is not done with, for people.
fn wait(local: &Local<'_>) -> String {
    let node = local.name;
    if let Contact::Lost { since, reason } = &local.node.contact {
        return format!("{node}: lost since {since:.0} ({reason}), after its update had begun");
    }
    let newest = local.living().filter(|p| p.updated).last().or(local.living().last());
    let Some(pod) = newest else {
        return match local.pods.last() {
            Some(last) => format!("{node}: pod {} is ending", last.pod.name),
            None => format!("{node}: has no pod yet"),
        };
    };
    let name = &pod.pod.name;
    match (pod.health, &pod.pod.trouble) {
        (Health::Down, Some(trouble)) => format!("{node}: pod {name} is not ready: {trouble}"),
        (Health::Down, None) => format!("{node}: pod {name} is not ready"),
        (Health::Warming, _) => format!("{node}: pod {name} is ready, not yet for minReadySeconds"),
        (Health::Unproven, _) => format!("{node}: pod {name} is ready, not yet for long after a failure"),
        (Health::Up, _) => format!("{node}: pod {name} is available"),
    }
}
