//! What a DaemonSet wants of the fleet: which pods to create, delete and claim, which revisions to keep, and its status.
//!
//! [`decide`] is the one decision. Whoever keeps the store calls it whenever anything that it looks at has changed, or when
//! [`Decision::wake_at`] has come, carries out the steps and writes the status. It starts from what exists and from nothing
//! else but the [`Failures`] of before, so that a lost event, a step that failed and an endpoint that starts anew are one case: look again.
//!
//! It follows Kubernetes' DaemonSet controller. The differences:
//!
//! - An update never takes a pod that serves beyond the budget, whatever fails and however often the template changes (`rollout`).
//! - With `maxSurge` too, nodes without an available pod hold up the update of the others.
//! - A node that was lost before its update is left alone, named in a condition and updated when it is back.
//! - Where an untolerated NoSchedule taint keeps new pods away, an old pod stays as it is: no update ends it for good.
//! - Of two pods on a node the healthier stays, not the older.

mod claim;
mod conditions;
mod decision;
mod failures;
mod local;
mod manage;
mod naming;
mod seen;
mod status;
#[cfg(test)]
mod tests;
mod time;

use jiff::Timestamp;

pub(crate) use claim::{ClaimedPod, Hold};
pub use decision::{Decision, Ending, Event, EventKind, Step};
pub use failures::Failures;
pub(crate) use local::{Health, Local};
pub use naming::slow_start;
pub use seen::{Contact, DaemonSet, GENERATION_LABEL, HASH_LABEL, Node, Phase, Pod, Revision, Seen};
pub use status::{Condition, Status};
pub(crate) use time::{after, earliest};

use crate::rollout::{self, Budget, History};
use manage::Draft;
use naming::PodNames;

/// Creations of one decision, and deletions: Kubernetes' number. What is beyond is decided again at once.
const BURST: usize = 250;

/// What to do about `daemonset`, given everything that was seen and what is remembered of failed pods.
pub fn decide(daemonset: &DaemonSet, seen: &Seen, failures: &Failures, now: Timestamp) -> Decision {
    if daemonset.deleting {
        return nothing(daemonset, failures);
    }
    if daemonset.selector.is_empty() {
        let message = "The selector is empty and would take every pod of the namespace: nothing is done".to_owned();
        let event = Event { kind: EventKind::Warning, reason: "SelectingAll", message };
        return Decision { events: vec![event], ..nothing(daemonset, failures) };
    }
    let claimed = claim::claim(daemonset, seen);
    let history = rollout::history(daemonset, &claimed.revisions, seen);
    let mut fleet = local::gather(daemonset, seen, &claimed.pods, &history, failures, now);
    let counts = status::count(daemonset, fleet.nodes.values());
    let budget = Budget::of(daemonset.strategy, fleet.nodes.values().filter(|l| l.runs()).count());

    let mut draft = Draft {
        daemonset,
        hash: &history.hash,
        now,
        failures: failures.clone(),
        events: Vec::new(),
        wake_at: fleet.wake_at,
        creates: Vec::new(),
    };
    draft.failures.prune(&history.hash, now, |node| seen.nodes.contains_key(node));
    for local in fleet.nodes.values_mut() {
        manage::manage(local, budget, &mut draft);
    }
    let rolled = rollout::roll(fleet.nodes.values_mut(), budget);
    draft.creates.extend(rolled.creates);
    for local in fleet.nodes.values().filter(|l| l.is_reached()) {
        draft.failures.note(local);
    }

    let status = Status {
        observed_generation: daemonset.generation,
        collision_count: history.collisions,
        conditions: conditions::updated(daemonset, &fleet, budget, &rolled.waits, now),
        ..counts
    };
    let live_hashes = claimed.pods.iter().filter_map(|p| p.pod.labels.get(HASH_LABEL).map(String::as_str));
    let unneeded = history.unneeded(daemonset.history_limit, &live_hashes.collect());
    let (deletes, creates) = (deletions(&fleet), creations(daemonset, seen, &history, &draft.creates));
    let cut = deletes.len() > BURST || creates.len() > BURST;

    let mut steps = claimed.steps;
    steps.extend(history.relabel(&claimed.pods));
    steps.extend(history.steps);
    steps.extend(unneeded);
    steps.extend(deletes.into_iter().take(BURST));
    steps.extend(creates.into_iter().take(BURST));
    Decision {
        steps,
        events: draft.events,
        status,
        failures: draft.failures,
        wake_at: earliest(draft.wake_at, cut.then_some(now)),
    }
}

fn nothing(daemonset: &DaemonSet, failures: &Failures) -> Decision {
    Decision {
        steps: Vec::new(),
        events: Vec::new(),
        status: daemonset.status.clone(),
        failures: failures.clone(),
        wake_at: None,
    }
}

/// Pods of nodes that do not exist first: nobody else ends them.
fn deletions(fleet: &local::Fleet<'_>) -> Vec<Step> {
    let delete = |pod: &Pod, why| Step::DeletePod { uid: pod.uid.clone(), name: pod.name.clone(), why };
    let homeless = fleet.homeless.iter().filter(|p| p.hold == claim::Hold::Owned);
    let homeless = homeless.map(|p| delete(p.pod, Ending::NodeGone));
    let local = fleet.nodes.values().flat_map(|l| &l.pods);
    let local = local.filter_map(|p| Some(delete(p.pod, p.ended_by.clone()?)));
    homeless.chain(local).collect()
}

fn creations(daemonset: &DaemonSet, seen: &Seen, history: &History<'_>, nodes: &[String]) -> Vec<Step> {
    let mut names = PodNames::new(daemonset, seen);
    let create =
        |node: &String| Step::CreatePod { name: names.next(node), node: node.clone(), hash: history.hash.clone() };
    nodes.iter().map(create).collect()
}
