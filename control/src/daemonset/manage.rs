//! One pod on each node that should have one, none elsewhere; failed ones replaced. Updates are `rollout`'s.

use jiff::Timestamp;
use pod::placement::Placement;

use super::decision::{Ending, Event, EventKind};
use super::failures::Failures;
use super::local::{Health, Local, LocalPod};
use super::seen::{DaemonSet, Phase};
use super::time::earliest;
use crate::rollout::Budget;

/// What is added to while the nodes are gone through.
pub struct Draft<'a> {
    pub daemonset: &'a DaemonSet,
    pub hash: &'a str,
    pub now: Timestamp,
    pub failures: Failures,
    pub events: Vec<Event>,
    pub wake_at: Option<Timestamp>,
    /// Nodes that get a pod.
    pub creates: Vec<String>,
}

pub fn manage(local: &mut Local<'_>, budget: Budget, draft: &mut Draft<'_>) {
    if let Placement::Not { reason } = &local.place {
        let reason = reason.clone();
        local.pods.iter_mut().for_each(|p| p.end(Ending::NotHere { reason: reason.clone() }));
        return;
    }
    for pod in &mut local.pods {
        finished(local.name, pod, draft);
    }
    match budget {
        Budget::Surge(_) => {
            keep_best(local.pods.iter_mut().filter(|p| p.updated));
            keep_best(local.pods.iter_mut().filter(|p| !p.updated));
            // What a lost node's pods are worth is not known.
            if local.is_reached() {
                hand_over(local);
            }
        }
        Budget::Unavailable(_) | Budget::OnDelete => keep_best(local.pods.iter_mut()),
    }
    // With surge a successor need not wait for the end of one that ends; it waits for the second.
    let room = if matches!(budget, Budget::Surge(_)) { 1 } else { 0 };
    if local.runs() && local.pods.len() <= room && local.pods.iter().all(|p| p.pod.is_ending()) {
        draft.creates.push(local.name.to_owned());
    }
}

/// A pod that has failed or ended is deleted; its successor is a later decision's.
fn finished(node: &str, pod: &mut LocalPod<'_>, draft: &mut Draft<'_>) {
    if !pod.lives() {
        return;
    }
    let name = &pod.pod.name;
    match pod.pod.phase {
        Phase::Active => {}
        Phase::Succeeded if draft.daemonset.template.run_once() => {}
        Phase::Succeeded => {
            let message = format!("Pod {name} on node {node} has ended although a daemon runs on: it is replaced");
            draft.events.push(Event { kind: EventKind::Normal, reason: "SucceededDaemonPod", message });
            pod.end(Ending::Succeeded);
        }
        Phase::Failed => {
            if let Some(until) = draft.failures.not_before(node, draft.hash, draft.now) {
                draft.wake_at = earliest(draft.wake_at, Some(until));
                return;
            }
            pod.end(Ending::Failed);
            if pod.ended_by.is_some() {
                draft.failures.add(node, draft.hash, draft.now);
                let message = format!("Pod {name} on node {node} has failed: it is replaced");
                draft.events.push(Event { kind: EventKind::Warning, reason: "FailedDaemonPod", message });
            }
        }
    }
}

/// Of several pods that would do the same, one stays: the healthiest, of those the oldest.
fn keep_best<'p, 'a: 'p>(pods: impl Iterator<Item = &'p mut LocalPod<'a>>) {
    let mut living: Vec<_> = pods.filter(|p| p.lives()).collect();
    // They come oldest first and the sort is stable.
    living.sort_by_key(|p| std::cmp::Reverse(p.health));
    living.into_iter().skip(1).for_each(|p| p.end(Ending::Surplus));
}

/// An old pod beside a new one ends when the new one is available, or when it serves nobody itself.
fn hand_over(local: &mut Local<'_>) {
    let Some(new) = local.living().find(|p| p.updated).map(|p| p.health) else { return };
    for old in local.pods.iter_mut().filter(|p| !p.updated) {
        if new == Health::Up || old.health == Health::Down {
            old.end(Ending::Update);
        }
    }
}
