//! The conditions that we set on a DaemonSet: which nodes an update has not reached, and for which it waits. Kubernetes sets
//! none; those of others stay as they are.

use jiff::Timestamp;
use pod::placement::Placement;

use super::local::{Fleet, Local};
use super::seen::DaemonSet;
use super::status::Condition;
use crate::rollout::Budget;

/// True: some nodes keep an old pod, or none, until they are back or take pods again.
pub const NODES_BEHIND: &str = "daemonlet.dev/NodesBehind";
/// True: the update goes on when pods that it has made are available.
pub const ROLLOUT_WAITS: &str = "daemonlet.dev/RolloutWaits";

/// Nodes that a message names; more are counted. A status is read by people and written often.
const NAMED: usize = 10;

/// The conditions of the status that is written now. `waits`: what the rollout waits for, a node each.
pub fn updated(
    daemonset: &DaemonSet,
    fleet: &Fleet<'_>,
    budget: Budget,
    waits: &[String],
    now: Timestamp,
) -> Vec<Condition> {
    let behind: Vec<String> = match budget {
        Budget::OnDelete => Vec::new(),
        Budget::Unavailable(_) | Budget::Surge(_) => fleet.nodes.values().filter_map(behind).collect(),
    };
    let mut conditions = daemonset.status.conditions.clone();
    set(&mut conditions, NODES_BEHIND, ["NodesNotReached", "AllNodesReached"], &behind, now);
    set(&mut conditions, ROLLOUT_WAITS, ["PodsNotAvailable", "NothingToWaitFor"], waits, now);
    conditions
}

/// Why the present template is not to be expected on this node.
fn behind(local: &Local<'_>) -> Option<String> {
    if local.living().any(|p| p.updated) {
        return None;
    }
    match &local.place {
        Placement::Runs => {
            let (since, reason) = local.lost_before_update()?;
            Some(format!("{}: lost since {since:.0} ({reason}), updated when it is back", local.name))
        }
        Placement::Stays { reason } => {
            local.living().next()?;
            Some(format!("{}: keeps its old pod, for {reason}", local.name))
        }
        Placement::Not { .. } => None,
    }
}

/// `reasons`: when there are such nodes, and when there are none any more. A condition that was never true is not shown.
fn set(conditions: &mut Vec<Condition>, name: &str, reasons: [&str; 2], nodes: &[String], now: Timestamp) {
    let (status, reason) = if nodes.is_empty() { ("False", reasons[1]) } else { ("True", reasons[0]) };
    let message = named(nodes);
    let Some(known) = conditions.iter_mut().find(|c| *c.name == *name) else {
        if !nodes.is_empty() {
            conditions.push(Condition {
                name: name.into(),
                status: status.into(),
                reason: reason.into(),
                message: message.into(),
                last_transition: now,
            });
        }
        return;
    };
    if *known.status != *status {
        known.last_transition = now;
    }
    (known.status, known.reason, known.message) = (status.into(), reason.into(), message.into());
}

fn named(nodes: &[String]) -> String {
    let mut message = nodes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if let Some(more) = nodes.len().checked_sub(NAMED).filter(|more| *more > 0) {
        message.push_str(&format!("; and {more} more"));
    }
    message
}
