//! The fleet node by node: what of the DaemonSet is there and how it is.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use pod::name::WorkloadKind;
use pod::placement::{self, Placement};

use super::claim::{ClaimedPod, Hold};
use super::decision::Ending;
use super::failures::Failures;
use super::seen::{Contact, DaemonSet, Node, Phase, Pod, Seen};
use super::time::{after, earliest};
use crate::rollout::History;

/// A node that was heard last at a moment may have been told things for this long after it: it is called lost later than it is
/// (Kubernetes waits 50 s), and what reached it may be why no answer came.
const DOUBT: Duration = Duration::from_secs(60);

/// After a failure this long without another is success: Kubernetes' first wait of a crashing container.
const PROOF: Duration = Duration::from_secs(10);

/// One node and the DaemonSet's pods there.
pub struct Local<'a> {
    pub name: &'a str,
    pub node: &'a Node,
    pub place: Placement,
    /// Without those that are gone. Oldest first, then by name.
    pub pods: Vec<LocalPod<'a>>,
}

pub struct LocalPod<'a> {
    pub pod: &'a Pod,
    pub hold: Hold,
    pub updated: bool,
    /// As Kubernetes counts it in the status: ready for minReadySeconds.
    pub available: bool,
    pub health: Health,
    /// This decision deletes it.
    pub ended_by: Option<Ending>,
}

/// What a pod is worth to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Not ready, or on a node that is lost.
    Down,
    /// Ready, but not yet for minReadySeconds.
    Warming,
    /// Available, but it has failed, or the one before it, and it has not been ready for long since. A daemon without a readiness probe
    /// that ends at once is ready for a moment each time.
    Unproven,
    /// Available; also one that runs once and has done so.
    Up,
}

impl<'a> LocalPod<'a> {
    /// It stays, as far as is known.
    pub fn lives(&self) -> bool {
        !self.pod.is_ending() && self.ended_by.is_none()
    }

    /// To be deleted by this decision, unless something forbids it.
    pub fn end(&mut self, why: Ending) {
        if self.hold == Hold::Owned && self.lives() {
            self.ended_by = Some(why);
        }
    }
}

impl<'a> Local<'a> {
    pub fn runs(&self) -> bool {
        self.place == Placement::Runs
    }

    pub fn living(&self) -> impl Iterator<Item = &LocalPod<'a>> {
        self.pods.iter().filter(|p| p.lives())
    }

    /// The best of what lives here; Down where nothing does.
    pub fn health(&self) -> Health {
        self.living().map(|p| p.health).max().unwrap_or(Health::Down)
    }

    pub fn is_reached(&self) -> bool {
        self.node.contact == Contact::Reached
    }

    /// The node was lost before the present template could reach it: nothing made from that template was there while it may
    /// have been reached, and nothing was told to end there. Since when and why.
    pub fn lost_before_update(&self) -> Option<(Timestamp, &str)> {
        let Contact::Lost { since, reason } = &self.node.contact else { return None };
        let doubtful = after(*since, DOUBT);
        let touched = |p: &LocalPod<'_>| {
            p.updated && p.pod.created <= doubtful || p.pod.deletion.is_some_and(|asked| asked <= doubtful)
        };
        (!self.pods.iter().any(touched)).then_some((*since, reason.as_str()))
    }
}

/// Every node with its pods, by name, and the pods whose nodes do not exist.
pub struct Fleet<'a> {
    pub nodes: BTreeMap<&'a str, Local<'a>>,
    pub homeless: Vec<ClaimedPod<'a>>,
    /// When a pod that is ready becomes available.
    pub wake_at: Option<Timestamp>,
}

pub fn gather<'a>(
    daemonset: &DaemonSet,
    seen: &'a Seen,
    pods: &[ClaimedPod<'a>],
    history: &History<'_>,
    failures: &Failures,
    now: Timestamp,
) -> Fleet<'a> {
    let local = |(name, node): (&'a String, &'a Node)| {
        let place = placement::decide(&node.placed, WorkloadKind::DaemonSet, &daemonset.template);
        (name.as_str(), Local { name, node, place, pods: Vec::new() })
    };
    let mut fleet = Fleet { nodes: seen.nodes.iter().map(local).collect(), homeless: Vec::new(), wake_at: None };
    for claimed in pods {
        let ClaimedPod { pod, hold } = *claimed;
        let Some(node) = pod.node.as_deref() else { continue };
        let Some(local) = fleet.nodes.get_mut(node) else {
            fleet.homeless.push(*claimed);
            continue;
        };
        if pod.is_gone() {
            continue;
        }
        let mut health = if local.is_reached() { health(daemonset, pod, now) } else { Health::Down };
        let available = health == Health::Up;
        let failed = pod.restarts > 0 || failures.is_broken(node);
        let proven_at = pod.ready_since.map(|ready| after(ready, PROOF));
        if available && failed && pod.phase == Phase::Active && proven_at.is_none_or(|then| now < then) {
            health = Health::Unproven;
        }
        let wakes = match health {
            Health::Warming => pod.ready_since.map(|ready| after(ready, daemonset.min_ready)),
            Health::Unproven => proven_at,
            Health::Down | Health::Up => None,
        };
        fleet.wake_at = earliest(fleet.wake_at, wakes);
        let updated = daemonset.is_updated(pod, history);
        local.pods.push(LocalPod { pod, hold, updated, available, health, ended_by: None });
    }
    for local in fleet.nodes.values_mut() {
        local.pods.sort_by(|a, b| (a.pod.created, &a.pod.name).cmp(&(b.pod.created, &b.pod.name)));
    }
    fleet
}

fn health(daemonset: &DaemonSet, pod: &Pod, now: Timestamp) -> Health {
    match (pod.phase, pod.ready_since) {
        (Phase::Succeeded, _) if daemonset.template.run_once() => Health::Up,
        (Phase::Active, Some(ready)) if after(ready, daemonset.min_ready) <= now => Health::Up,
        // A clock that runs ahead must not make an unproven pod a proven one, but without minReadySeconds there is nothing to prove.
        (Phase::Active, Some(_)) if daemonset.min_ready.is_zero() => Health::Up,
        (Phase::Active, Some(_)) => Health::Warming,
        (Phase::Succeeded | Phase::Failed, _) | (Phase::Active, None) => Health::Down,
    }
}
