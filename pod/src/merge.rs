//! The snapshots of all sources to one desired set: precedence, duplicates, what is not known, and room on the node.
//!
//! Driven by the agent whenever a source, a record or the node's labels change. The answer does not depend on the
//! order in which anything is handed in. What cannot be read is never taken for gone: its workloads are held.

mod claims;
mod contents;
mod ports;
mod priorities;
mod stamp;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::content::{ContentKey, Kept};
use crate::desired::{DesiredPod, DesiredSet, Node, Origin, Source, Wanted};
use crate::manifest::{Identity, Parsed, Rejection};
use crate::name::{Uid, WorkloadKey, WorkloadKind};
use crate::placement::{self, Placement};
use crate::ports::HostPort;
use crate::record::{Lifecycle, Record};

use claims::{Claim, Claims};

pub use priorities::unresolved;
pub use stamp::stamp;

/// What one source says at present.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub source: Source,
    pub said: Said,
    /// ConfigMaps and Secrets of this source as they were good last ([`Merged::kept`]).
    pub kept: BTreeMap<ContentKey, Kept>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Everything that it holds, one entry a file.
    Files(Vec<Parsed>),
    /// Missing, unreadable or not yet tried, and no checkpoint was read: never the same as empty.
    NotHeard { reason: String },
}

/// What the merge has to know of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    pub uid: Uid,
    pub workload: WorkloadKey,
    /// The pod's own name.
    pub name: String,
    pub origin: Origin,
    /// Not terminating.
    pub live: bool,
    /// Of the node.
    pub ports: Vec<HostPort>,
}

impl From<&Record> for Recorded {
    fn from(record: &Record) -> Recorded {
        Recorded {
            uid: record.uid.clone(),
            workload: record.workload.clone(),
            name: record.name.clone(),
            origin: record.origin.clone(),
            live: !matches!(record.lifecycle, Lifecycle::Terminating { .. }),
            ports: match record.lifecycle {
                // It has ended by itself and runs no more.
                Lifecycle::Finished => Vec::new(),
                Lifecycle::Running | Lifecycle::Terminating { .. } => {
                    crate::ports::of_document(record.workload.kind, &record.document.read())
                }
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    pub set: DesiredSet,
    /// One for every document and every broken file, by source, file and line: `get files`.
    pub outcomes: Vec<Outcome>,
    /// What is good of each source's ConfigMaps and Secrets: to be handed in with the next snapshot, and kept on disk.
    pub kept: BTreeMap<(Source, ContentKey), Kept>,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub origin: Origin,
    /// None where it cannot be told, and for a file as a whole.
    pub identity: Option<Identity>,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Its pod is wanted here.
    Accepted,
    /// A kind that is accepted and does nothing.
    NoEffect { reason: String },
    /// Nothing of it is taken; a pod that was admitted from it before is kept.
    Refused { rejections: Vec<Rejection> },
    /// A DaemonSet for other nodes.
    NotForThisNode { reason: String },
    /// Another document has the same identity and comes first.
    Duplicate { winner: Origin },
    /// The node is full (Kubernetes' reason OutOfpods).
    OutOfPods { reason: String },
}

/// The one desired set.
pub fn merge(snapshots: &[Snapshot], recorded: &[Recorded], node: &Node, max_pods: usize) -> Merged {
    let mut claims = Claims::gather(snapshots, recorded);
    let said = snapshots.iter().filter(|s| matches!(s.said, Said::Files(_)));
    let heard: BTreeSet<Source> = said.map(|s| s.source).collect();
    let complete = snapshots.iter().all(|s| heard.contains(&s.source));
    let mut merged = Merged { set: DesiredSet { heard, complete, ..DesiredSet::default() }, ..Merged::default() };
    let winners = claims.winners(recorded);
    let statics = static_names(&winners, node);
    for (key, claim) in winners {
        let wanted = match claim {
            Claim::Held { reason } => Wanted::Hold { reason },
            Claim::Ends { grace } => Wanted::End { grace },
            // The endpoint has looked its class up, as Kubernetes' admission does.
            Claim::Wants(pod) if pod.object.is_some() => place(*pod, recorded, node, &statics, &mut claims),
            Claim::Wants(mut pod) => match claims.prioritise(&mut pod) {
                Ok(()) => place(*pod, recorded, node, &statics, &mut claims),
                Err(reason) => Wanted::Hold { reason },
            },
        };
        merged.set.workloads.insert(key, wanted);
    }
    circles(&mut merged.set, &mut claims);
    ports::share(&mut merged.set, recorded, &mut claims);
    limit(&mut merged.set, recorded, max_pods, &mut claims);
    (merged.kept, merged.set.contents) = claims.contents(snapshots);
    merged.outcomes = claims.into_outcomes();
    merged
}

/// Whether the pod belongs here and may have its name.
fn place(
    pod: DesiredPod,
    recorded: &[Recorded],
    node: &Node,
    statics: &BTreeMap<(String, String), Origin>,
    claims: &mut Claims,
) -> Wanted {
    // Whatever becomes of its pod, it is the document that lost.
    let winner = statics.get(&own_name(&pod, node)).filter(|_| pod.object.is_some());
    if let Some(winner) = winner {
        claims.decide(&pod.workload, &pod.origin, Fate::Duplicate { winner: winner.clone() });
    }
    if let Some(grace) = pod.object.as_ref().and_then(|object| object.ends) {
        return Wanted::End { grace };
    }
    let is_known = |uid: &Uid| recorded.iter().any(|record| record.uid == *uid);
    if pod.object.as_ref().is_some_and(|object| object.finished && !is_known(&object.uid)) {
        return Wanted::Gone;
    }
    if winner.is_some() {
        return Wanted::Gone;
    }
    if let Some(other) = object_that_gives_way(&pod, recorded, node) {
        return Wanted::Hold { reason: format!("waits until the control endpoint's pod {other} has ended") };
    }
    if let Some(reason) = name_taken(&pod, recorded, node).or_else(|| uid_taken(&pod, recorded)) {
        claims.refuse(&pod, "metadata.name", reason.clone());
        return Wanted::Hold { reason };
    }
    match (placement::decide(node, pod.workload.kind, &pod.template), pod.workload.kind) {
        (Placement::Runs, _) => allowed(pod, node, claims),
        (Placement::Stays { reason }, _) => {
            claims.decide(&pod.workload, &pod.origin, Fate::NotForThisNode { reason: reason.clone() });
            Wanted::Hold { reason }
        }
        (Placement::Not { reason }, WorkloadKind::DaemonSet) => {
            claims.decide(&pod.workload, &pod.origin, Fate::NotForThisNode { reason: reason.clone() });
            if node.provisional { Wanted::Hold { reason } } else { Wanted::Gone }
        }
        // Somebody put it into this node's directory, so it is a mistake, and a mistake stops nothing that runs.
        (Placement::Not { reason }, WorkloadKind::Pod | WorkloadKind::Control) => {
            let reason = format!("NodeAffinity: {reason}");
            claims.refuse(&pod, "spec", reason.clone());
            Wanted::Hold { reason }
        }
    }
}

/// What the node's owner does not allow is refused as a bad edit is: what runs goes on as its record says.
fn allowed(pod: DesiredPod, node: &Node, claims: &mut Claims) -> Wanted {
    let forbidden = node.allow.judge(&pod.template.spec);
    let Some(first) = forbidden.first() else { return Wanted::Run(Box::new(pod)) };
    let spec = match pod.workload.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "spec",
        WorkloadKind::DaemonSet => "spec.template.spec",
    };
    let reason = format!("{spec}.{}: {}", first.path, first.reason);
    claims.refuse_all(&pod, forbidden.into_iter().map(|it| (format!("{spec}.{}", it.path), it.reason)));
    Wanted::Forbidden { reason }
}

/// The names of pods that documents of this node ask for: pods of the control endpoint give way to them.
fn static_names(winners: &BTreeMap<WorkloadKey, Claim>, node: &Node) -> BTreeMap<(String, String), Origin> {
    let named = winners.values().filter_map(|claim| match claim {
        Claim::Wants(pod) if pod.workload.kind == WorkloadKind::Pod => Some((own_name(pod, node), pod.origin.clone())),
        Claim::Wants(_) | Claim::Held { .. } | Claim::Ends { .. } => None,
    });
    named.collect()
}

/// The pod of the control endpoint that has the name of this document's: it ends, and then the name is free.
fn object_that_gives_way<'r>(pod: &DesiredPod, recorded: &'r [Recorded], node: &Node) -> Option<&'r str> {
    let (namespace, name) = own_name(pod, node);
    let same =
        |r: &&Recorded| r.workload.kind == WorkloadKind::Control && r.name == name && r.workload.namespace == namespace;
    let statics = pod.workload.kind == WorkloadKind::Pod;
    recorded.iter().find(same).filter(|_| statics).map(|other| other.name.as_str())
}

/// Namespace and name of the pod that the document asks for. Of a DaemonSet's that is made up later.
fn own_name(pod: &DesiredPod, node: &Node) -> (String, String) {
    let WorkloadKey { namespace, kind, name } = &pod.workload;
    let name = match kind {
        WorkloadKind::Pod => format!("{name}-{}", node.name),
        WorkloadKind::DaemonSet | WorkloadKind::Control => name.clone(),
    };
    (namespace.clone(), name)
}

/// A uid is one pod's for ever, whatever the control endpoint says.
fn uid_taken(pod: &DesiredPod, recorded: &[Recorded]) -> Option<String> {
    let uid = &pod.object.as_ref()?.uid;
    let other = recorded.iter().find(|record| record.uid == *uid && record.workload != pod.workload)?;
    Some(format!("its uid is that of a pod of {}", other.workload))
}

/// A static pod's name is given; a DaemonSet's pod of the same name may be there by chance and keeps it.
fn name_taken(pod: &DesiredPod, recorded: &[Recorded], node: &Node) -> Option<String> {
    if pod.workload.kind == WorkloadKind::DaemonSet {
        return None;
    }
    let (_, name) = own_name(pod, node);
    let same =
        |r: &&Recorded| r.name == name && r.workload.namespace == pod.workload.namespace && r.workload != pod.workload;
    let other = recorded.iter().filter(same).min()?;
    Some(format!("the pod name {name} is taken by a pod of {}; rename one of them", other.workload))
}

/// Pods that are after each other in a circle: none of them could ever start. What runs of them goes on as its record says.
fn circles(set: &mut DesiredSet, claims: &mut Claims) {
    let wanted: Vec<&DesiredPod> = set
        .workloads
        .values()
        .filter_map(|wanted| match wanted {
            Wanted::Run(pod) => Some(&**pod),
            Wanted::Hold { .. } | Wanted::Forbidden { .. } | Wanted::End { .. } | Wanted::Gone => None,
        })
        .collect();
    for (key, way) in crate::after::circles(&wanted) {
        let Some(Wanted::Run(pod)) = set.workloads.get(&key) else { continue };
        let (path, reason) = crate::after::refusal(key.kind, &way);
        claims.refuse(pod, &path, reason.clone());
        set.workloads.insert(key, Wanted::Hold { reason: format!("{path}: {reason}") });
    }
}

/// `--max-pods`: who has been admitted keeps the place, newcomers come in by priority, then by name.
fn limit(set: &mut DesiredSet, recorded: &[Recorded], max_pods: usize, claims: &mut Claims) {
    let live: BTreeSet<&WorkloadKey> = recorded.iter().filter(|r| r.live).map(|r| &r.workload).collect();
    let stays = |key: &WorkloadKey| !matches!(set.wanted(key), Wanted::Gone | Wanted::End { .. });
    let kept = live.iter().filter(|key| stays(key)).count();
    let newcomers = set.workloads.iter().filter_map(|(key, wanted)| match wanted {
        Wanted::Run(pod) if !live.contains(key) => {
            Some((std::cmp::Reverse(pod.template.spec.priority), key.clone(), pod.origin.clone()))
        }
        _ => None,
    });
    let mut newcomers: Vec<_> = newcomers.collect();
    newcomers.sort();
    for (_, key, origin) in newcomers.into_iter().skip(max_pods.saturating_sub(kept)) {
        let reason = format!("OutOfpods: the node takes {max_pods} pods (--max-pods)");
        claims.decide(&key, &origin, Fate::OutOfPods { reason: reason.clone() });
        set.workloads.insert(key, Wanted::Hold { reason });
    }
}
