//! `daemonlet.dev/after`: which pods are to be ready before another one starts, by name; and who goes round in circles.
//!
//! A name is that of a Pod document or of a DaemonSet as its document has it, or of a pod object of the control endpoint;
//! without a namespace it means the pod's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::desired::DesiredPod;
use crate::manifest::names;
use crate::name::{WorkloadKey, WorkloadKind};
use crate::spec::{AFTER_ANNOTATION, PodTemplate};

/// Names of one annotation: more than any daemon has to wait for, and little enough to be looked up at every change.
const NAMES_MAX: usize = 32;

/// A pod or DaemonSet as the annotation names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Named {
    /// Whether this name means the workload. `owner`: the DaemonSet of which it is a pod object.
    pub fn means(&self, key: &WorkloadKey, owner: Option<&str>) -> bool {
        self.namespace == key.namespace && (self.name == key.name || owner == Some(self.name.as_str()))
    }
}

/// What a template of a workload in `namespace` is after; each once.
pub fn of(template: &PodTemplate, namespace: &str) -> Vec<Named> {
    let Some(written) = template.annotations.get(AFTER_ANNOTATION) else { return Vec::new() };
    let named: BTreeSet<Named> = parts(written)
        .map(|part| {
            let (namespace, name) = part.split_once('/').unwrap_or((namespace, part));
            Named { namespace: namespace.to_owned(), name: name.to_owned() }
        })
        .collect();
    named.into_iter().take(NAMES_MAX).collect()
}

/// What is wrong with a value of the annotation, as the end of a sentence; None: nothing.
pub fn fault(written: &str) -> Option<String> {
    let count = parts(written).count();
    if count > NAMES_MAX {
        return Some(format!("names {count} pods, more than the {NAMES_MAX} allowed"));
    }
    if count == 0 {
        return Some("names nobody: give names of pods or DaemonSets, or leave it out".to_owned());
    }
    parts(written).find_map(|part| match part.split_once('/') {
        Some((namespace, name)) => names::dns_label(namespace).or_else(|| names::dns_subdomain(name)),
        None => names::dns_subdomain(part),
    })
}

fn parts(written: &str) -> impl Iterator<Item = &str> {
    written.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// What is refused of those that wait for each other in a circle: the field, and why.
pub fn refusal(kind: WorkloadKind, way: &str) -> (String, String) {
    let metadata = match kind {
        WorkloadKind::Pod | WorkloadKind::Control => "metadata",
        WorkloadKind::DaemonSet => "spec.template.metadata",
    };
    let path = format!("{metadata}.annotations['{AFTER_ANNOTATION}']");
    (path, format!("they wait for each other: {way}; take one of them out"))
}

/// The pods that wait for each other in a circle, each with the way round from itself to itself.
///
/// Of documents of this node alone first: an object of the control endpoint that closes a circle is the one to blame.
pub fn circles(wanted: &[&DesiredPod]) -> BTreeMap<WorkloadKey, String> {
    let statics: Vec<&DesiredPod> =
        wanted.iter().filter(|pod| pod.workload.kind != WorkloadKind::Control).copied().collect();
    let mut found = ways_round(&edges(&statics));
    let rest: Vec<&DesiredPod> = wanted.iter().filter(|pod| !found.contains_key(&pod.workload)).copied().collect();
    let closed = ways_round(&edges(&rest));
    found.extend(closed.into_iter().filter(|(key, _)| key.kind == WorkloadKind::Control));
    found
}

/// Who is after whom, of those that are there.
pub type Edges = BTreeMap<WorkloadKey, BTreeSet<WorkloadKey>>;

fn edges(pods: &[&DesiredPod]) -> Edges {
    let owner = |pod: &DesiredPod| pod.object.as_ref().and_then(|object| object.owner.clone());
    let known: Vec<(&WorkloadKey, Option<String>)> = pods.iter().map(|pod| (&pod.workload, owner(pod))).collect();
    let of_pod = |pod: &&DesiredPod| {
        let names = of(&pod.template, &pod.workload.namespace);
        let means = |name: &Named| {
            let name = name.clone();
            known.iter().filter(move |(key, owner)| name.means(key, owner.as_deref())).map(|(key, _)| (*key).clone())
        };
        let after: BTreeSet<WorkloadKey> = names.iter().flat_map(means).collect();
        (!after.is_empty()).then(|| (pod.workload.clone(), after))
    };
    pods.iter().filter_map(of_pod).collect()
}

/// For each that comes back to itself, the shortest way.
fn ways_round(edges: &Edges) -> BTreeMap<WorkloadKey, String> {
    let each = edges.keys().filter_map(|start| {
        let way = way(edges, start, start)?;
        let words: Vec<String> = way.iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
        Some((start.clone(), words.join(" after ")))
    });
    each.collect()
}

/// Whether `from` is after `to`, directly or by others.
pub fn leads(edges: &Edges, from: &WorkloadKey, to: &WorkloadKey) -> bool {
    way(edges, from, to).is_some()
}

/// The shortest way along at least one edge, both ends included.
fn way<'e>(edges: &'e Edges, from: &'e WorkloadKey, to: &WorkloadKey) -> Option<Vec<&'e WorkloadKey>> {
    let mut came_from: BTreeMap<&WorkloadKey, &WorkloadKey> = BTreeMap::new();
    let mut round = vec![from];
    while !round.is_empty() {
        let mut next = Vec::new();
        for at in round {
            for after in edges.get(at).into_iter().flatten() {
                if came_from.contains_key(after) {
                    continue;
                }
                came_from.insert(after, at);
                if after == to {
                    let mut way = vec![after];
                    let mut at = after;
                    while let Some(before) = came_from.get(at).copied() {
                        way.push(before);
                        at = before;
                        if at == from {
                            break;
                        }
                    }
                    way.reverse();
                    return Some(way);
                }
                next.push(after);
            }
        }
        round = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Object;
    use crate::name::Uid;
    use crate::sample;

    fn pod(name: &str, after: &str) -> DesiredPod {
        let mut template = sample::template(&["a"]);
        if !after.is_empty() {
            template.annotations.insert(AFTER_ANNOTATION.into(), after.into());
        }
        sample::desired(&sample::static_pod(name), template)
    }

    fn object(name: &str, owner: &str, after: &str) -> DesiredPod {
        let mut pod = pod(name, after);
        pod.workload.kind = WorkloadKind::Control;
        let owner = Some(owner.to_owned());
        pod.object = Some(Object { uid: Uid(name.into()), ends: None, finished: false, owner }.into());
        pod
    }

    fn found(pods: &[DesiredPod]) -> Vec<(String, String)> {
        let pods: Vec<&DesiredPod> = pods.iter().collect();
        circles(&pods).into_iter().map(|(key, way)| (key.name, way)).collect()
    }

    #[test]
    fn names_are_of_the_pods_own_namespace_unless_they_say_another() {
        let names = of(&pod("a", "b, other/c,b ,").template, "default");
        assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default/b", "other/c"]);
        assert_eq!(of(&pod("a", "").template, "default"), []);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(fault("b, other/c"), None);
        for (bad, word) in [("", "names nobody"), (" , ", "names nobody"), ("B", "\"B\" is not"), ("a/b/c", "is not")] {
            assert!(fault(bad).is_some_and(|why| why.contains(word)), "{bad:?}: {:?}", fault(bad));
        }
        let many = vec!["a"; NAMES_MAX + 1].join(",");
        assert!(fault(&many).is_some_and(|why| why.contains("33")));
    }

    #[test]
    fn who_waits_in_a_circle_is_told_the_way_round_and_who_only_waits_for_it_is_not() {
        let pods = [pod("a", "b"), pod("b", "c"), pod("c", "a"), pod("d", "a"), pod("e", "e")];
        let expected = [
            ("a", "default/a after default/b after default/c after default/a"),
            ("b", "default/b after default/c after default/a after default/b"),
            ("c", "default/c after default/a after default/b after default/c"),
            ("e", "default/e after default/e"),
        ];
        assert_eq!(found(&pods), expected.map(|(name, way)| (name.to_owned(), way.to_owned())));
        assert_eq!(found(&[pod("a", "b"), pod("b", "c,d"), pod("c", "d")]), []);
    }

    #[test]
    fn an_object_of_the_endpoint_that_closes_a_circle_is_refused_alone() {
        let pods = [pod("a", "b"), object("b-x7k2p", "b", "a")];
        assert_eq!(found(&pods), [("b-x7k2p".into(), "default/b-x7k2p after default/a after default/b-x7k2p".into())]);
        let pods = [pod("a", "b"), pod("b", "a"), object("c-x", "c", "a")];
        assert_eq!(found(&pods).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    }
}
