//! Pods that nobody will end: those of nodes that are gone, and terminated ones beyond what is kept to be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::daemonset::{after, earliest};

/// A pod may be a little older than its node; after this long its node is gone (Kubernetes' quarantine of orphaned pods).
pub const QUARANTINE: Duration = Duration::from_secs(40);
/// Terminated pods that are kept (Kubernetes' `terminated-pod-gc-threshold`).
const TERMINATED_MAX: usize = 12_500;

/// A pod that is bound to a node, or has terminated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Empty: none.
    pub node: String,
    /// Succeeded or Failed.
    pub terminated: bool,
    pub created: Timestamp,
}

/// What to do about pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict<'a> {
    /// To be deleted without grace: nobody is there to use it.
    pub delete: Vec<&'a Pod>,
    pub wake_at: Option<Timestamp>,
}

/// `missing`: since when each node is known to be missing, kept from one decision to the next. `removed`: nodes whose deletion was seen.
pub fn decide<'a>(
    pods: &'a [Pod],
    nodes: &BTreeSet<String>,
    removed: &BTreeSet<String>,
    missing: &mut BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Verdict<'a> {
    let mut verdict = Verdict::default();
    let homeless = |pod: &&Pod| !pod.node.is_empty() && !nodes.contains(&pod.node);
    missing.retain(|node, _| pods.iter().any(|pod| pod.node == *node) && !nodes.contains(node));
    for pod in pods.iter().filter(homeless) {
        let since = *missing.entry(pod.node.clone()).or_insert(now);
        let until = after(since, QUARANTINE);
        if removed.contains(&pod.node) || until <= now {
            verdict.delete.push(pod);
        } else {
            verdict.wake_at = earliest(verdict.wake_at, Some(until));
        }
    }
    let mut terminated: Vec<&Pod> = pods.iter().filter(|pod| pod.terminated && !homeless(pod)).collect();
    terminated.sort_by_key(|pod| pod.created);
    let beyond = terminated.len().saturating_sub(TERMINATED_MAX);
    verdict.delete.extend(terminated.into_iter().take(beyond));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, node: &str, terminated: bool) -> Pod {
        let (namespace, uid) = ("default".into(), name.into());
        Pod { namespace, name: name.into(), uid, node: node.into(), terminated, created: at(0) }
    }

    fn names(verdict: &Verdict<'_>) -> Vec<String> {
        verdict.delete.iter().map(|pod| pod.name.clone()).collect()
    }

    #[test]
    fn a_removed_node_takes_its_pods_along_and_one_that_is_not_known_has_time() {
        let pods = [pod("a", "gone", false), pod("b", "late", false), pod("c", "here", false), pod("d", "", false)];
        let nodes: BTreeSet<String> = ["here".into()].into();
        let removed: BTreeSet<String> = ["gone".into()].into();
        let mut missing = BTreeMap::new();
        let verdict = decide(&pods, &nodes, &removed, &mut missing, at(0));
        assert_eq!((names(&verdict), verdict.wake_at), (vec!["a".to_owned()], Some(at(40))));
        let verdict = decide(&pods[1..], &nodes, &BTreeSet::new(), &mut missing, at(40));
        assert_eq!(names(&verdict), ["b"]);
    }

    #[test]
    fn a_node_that_came_and_went_again_has_its_time_anew() {
        let pods = [pod("b", "late", false)];
        let mut missing = BTreeMap::new();
        decide(&pods, &BTreeSet::new(), &BTreeSet::new(), &mut missing, at(0));
        decide(&pods, &["late".into()].into(), &BTreeSet::new(), &mut missing, at(10));
        let verdict = decide(&pods, &BTreeSet::new(), &BTreeSet::new(), &mut missing, at(45));
        assert!(verdict.delete.is_empty());
    }

    #[test]
    fn the_oldest_terminated_pods_beyond_the_bound_go() {
        let nodes: BTreeSet<String> = ["here".into()].into();
        let mut pods: Vec<Pod> = (0..TERMINATED_MAX + 2).map(|n| pod(&format!("p{n}"), "here", true)).collect();
        pods[5].created = at(-2);
        pods[9].created = at(-1);
        pods.push(pod("runs", "here", false));
        let verdict = decide(&pods, &nodes, &BTreeSet::new(), &mut BTreeMap::new(), at(0));
        assert_eq!(names(&verdict), ["p5", "p9"]);
    }
}
