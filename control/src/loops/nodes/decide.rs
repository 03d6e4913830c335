//! What is said of a node: its conditions and taints, from what was heard of it. Pure.
//!
//! Unknown is not dead: a node of which nothing is heard keeps its daemons, and whoever asks is told since when nothing was heard.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::contacts::{GRACE, Health, Heard};
use crate::daemonset::after;

/// A node that was never heard has this long (`node-startup-grace-period`).
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// A condition that stays as it is gets a new heartbeat this often (`nodeStatusReportFrequency`).
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5 * 60);
/// Why nothing is known, in conditions of nodes and pods.
pub const STATUS_UNKNOWN: &str = "NodeStatusUnknown";
const NEVER_HEARD: &str = "NodeStatusNeverUpdated";

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that an agent reports and that are unknown when it is silent, each with the taint that it stands for while it is True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// A v1 Node, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub conditions: Vec<Condition>,
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
}

/// v1 NodeCondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub name: String,
    pub status: Status,
    pub reason: String,
    pub message: String,
    /// `lastHeartbeatTime`: what the condition says was heard then.
    pub heartbeat: Timestamp,
    /// `lastTransitionTime`.
    pub transition: Timestamp,
}

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    True,
    False,
    Unknown,
}

/// v1 Taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// As Kubernetes writes it.
    pub effect: String,
    /// `timeAdded`.
    pub added: Option<Timestamp>,
}

/// What to write about a node, and when to look again without any change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// To be put in the place of those of the same name; empty when all are as they should be.
    pub conditions: Vec<Condition>,
    /// All taints of the node; None when they are as they should be.
    pub taints: Option<Vec<Taint>>,
    pub reach: Reach,
    pub look_at: Timestamp,
}

/// Whether the node is there, for its pods' conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Heard,
    Silent,
}

pub fn decide(seen: &Seen, heard: &Heard, now: Timestamp) -> Verdict {
    let grace = if heard.ever { GRACE } else { STARTUP_GRACE };
    let silent_at = after(heard.at, grace);
    let reach = if now < silent_at { Reach::Heard } else { Reach::Silent };
    let known = seen.conditions.iter().find(|c| c.name == "Ready");
    // A node that was not heard yet is as it was before this endpoint began to listen.
    let waits = reach == Reach::Heard && !heard.ever;
    let mut conditions = Vec::new();
    if !waits {
        conditions.extend(ready(known, heard, reach, now));
    }
    if reach == Reach::Silent {
        conditions.extend(seen.conditions.iter().filter_map(|c| unknown(c, heard, now)));
    }
    let status = |name: &str| {
        let of = |from: &[Condition]| from.iter().find(|c| c.name == name).map(|c| c.status);
        of(&conditions).or_else(|| of(&seen.conditions))
    };
    let taints = taints(seen, status, now);

    let mut look_at = if reach == Reach::Heard { silent_at } else { after(now, HEARTBEAT_EVERY) };
    if reach == Reach::Heard && heard.ever {
        let heartbeat = conditions.iter().find(|c| c.name == "Ready").or(known).map_or(now, |c| c.heartbeat);
        look_at = look_at.min(after(heartbeat, HEARTBEAT_EVERY));
        // What is due already waits for the next sign of life.
        look_at = look_at.max(after(now, Duration::from_secs(1)));
    }
    let taints = (taints != seen.taints).then_some(taints);
    Verdict { conditions, taints, reach, look_at }
}

/// The condition Ready, if it has to be written.
fn ready(known: Option<&Condition>, heard: &Heard, reach: Reach, now: Timestamp) -> Option<Condition> {
    let (status, reason, message) = match (reach, &heard.health) {
        (Reach::Heard, Health::Ready) => (Status::True, "AgentReady", "daemonlet says that it is ready".to_owned()),
        (Reach::Heard, Health::NotReady { why }) => (Status::False, "AgentNotReady", why.clone()),
        (Reach::Silent, _) if known.is_none() && !heard.ever => {
            (Status::Unknown, NEVER_HEARD, "Nothing has ever been heard of the node.".to_owned())
        }
        (Reach::Silent, _) => {
            let reason = if known.is_some_and(|c| c.reason == NEVER_HEARD) { NEVER_HEARD } else { STATUS_UNKNOWN };
            (Status::Unknown, reason, format!("{}; its daemons run on as far as is known.", heard.silence()))
        }
    };
    let same = known.is_some_and(|c| c.status == status && c.reason == reason);
    let heartbeat = match reach {
        Reach::Heard => heard.at,
        // When nothing was heard since this endpoint started, the last that is known was written by another.
        Reach::Silent => match known {
            Some(c) if !heard.ever || c.status == Status::Unknown => c.heartbeat,
            _ => heard.at,
        },
    };
    let said_anew = known.is_some_and(|c| c.message != message && reach == Reach::Heard);
    let stale = reach == Reach::Heard && known.is_some_and(|c| after(c.heartbeat, HEARTBEAT_EVERY) <= heard.at);
    if same && !said_anew && !stale {
        return None;
    }
    let transition = known.filter(|c| c.status == status).map_or(now, |c| c.transition);
    Some(Condition { name: "Ready".into(), status, reason: reason.into(), message, heartbeat, transition })
}

/// What the agent said of its pressures is no longer known.
fn unknown(condition: &Condition, heard: &Heard, now: Timestamp) -> Option<Condition> {
    let reported = PRESSURES.iter().any(|(name, _)| *name == condition.name);
    (reported && condition.status != Status::Unknown).then(|| Condition {
        status: Status::Unknown,
        reason: STATUS_UNKNOWN.into(),
        message: format!("{}.", heard.silence()),
        transition: now,
        ..condition.clone()
    })
}

/// The taints that conditions stand for; all others stay as they are.
fn taints(seen: &Seen, status: impl Fn(&str) -> Option<Status>, now: Timestamp) -> Vec<Taint> {
    let ready = status("Ready");
    let mut wanted: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    // Of a node that has not said anything yet nothing is known: what it came with stays.
    for effect in ready.iter().flat_map(|_| ["NoSchedule", "NoExecute"]) {
        wanted.insert((NOT_READY, effect), ready == Some(Status::False));
        wanted.insert((UNREACHABLE, effect), ready == Some(Status::Unknown));
    }
    wanted.insert((UNSCHEDULABLE, "NoSchedule"), seen.cordoned);
    for (condition, key) in PRESSURES {
        wanted.insert((key, "NoSchedule"), status(condition) == Some(Status::True));
    }
    let is_wanted = |taint: &&Taint| wanted.get(&(taint.key.as_str(), taint.effect.as_str())) != Some(&false);
    let mut taints: Vec<Taint> = seen.taints.iter().filter(is_wanted).cloned().collect();
    for ((key, effect), wanted) in wanted {
        if wanted && !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint { key: key.into(), value: String::new(), effect: effect.into(), added: Some(now) });
        }
    }
    taints
}

#[cfg(test)]
mod tests;
