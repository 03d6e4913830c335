//! `daemonlet.dev/after`: which pods are to be ready before another one starts, by name; and who goes round in circles.
//!
//! A name is that of a Pod document or of a DaemonSet as its document has it, or of a pod object of the control endpoint;
//! without a namespace it means the pod's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    let mut found = ways_round(&statics);
    let rest: Vec<&DesiredPod> = wanted.iter().filter(|pod| !found.contains_key(&pod.workload)).copied().collect();
    let closed = ways_round(&rest);
    found.extend(closed.into_iter().filter(|(key, _)| key.kind == WorkloadKind::Control));
    found
}

/// Who is after whom, of those that are there.
pub type Edges = BTreeMap<WorkloadKey, BTreeSet<WorkloadKey>>;

/// Ways that are spelled out: nobody reads more of them, and each takes a search of its own.
const WAYS_MAX: usize = 20;
/// Pods named of one way.
const STEPS_MAX: usize = 32;

/// For each that comes back to itself, the shortest way.
fn ways_round(pods: &[&DesiredPod]) -> BTreeMap<WorkloadKey, String> {
    let after: Vec<Vec<Named>> = pods.iter().map(|pod| of(&pod.template, &pod.workload.namespace)).collect();
    if after.iter().all(Vec::is_empty) {
        return BTreeMap::new();
    }
    let owner = |pod: &'_ DesiredPod| pod.object.as_ref().and_then(|object| object.owner.clone());
    let owners: Vec<Option<String>> = pods.iter().map(|pod| owner(pod)).collect();
    let names = Names::new(pods.iter().zip(&owners).map(|(pod, owner)| (&pod.workload, owner.as_deref())));
    let graph = Graph::new(&names, pods.iter().zip(&after).map(|(pod, after)| (&pod.workload, after.as_slice())));
    let rounds = graph.rounds();
    let members = graph.pods.iter().enumerate().filter(|(at, _)| rounds[*at].is_some());
    let each = members.enumerate().map(|(nth, (at, key))| {
        let words = match nth < WAYS_MAX {
            true => spell(&graph.way_round(at, &rounds)),
            false => format!("{}/{} after others that are after it", key.namespace, key.name),
        };
        ((*key).clone(), words)
    });
    each.collect()
}

fn spell(way: &[&WorkloadKey]) -> String {
    let mut words: Vec<String> = way.iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
    if let (Some(last), true) = (words.last().cloned(), words.len() > STEPS_MAX) {
        let more = words.len() - STEPS_MAX;
        words.truncate(STEPS_MAX - 1);
        words.extend([format!("{more} more"), last]);
    }
    words.join(" after ")
}

/// Whom each name means.
#[derive(Debug)]
pub struct Names<'k> {
    /// By namespace and name.
    of: BTreeMap<&'k str, BTreeMap<&'k str, Vec<&'k WorkloadKey>>>,
}

impl<'k> Names<'k> {
    /// Of these, each with the DaemonSet of which it is a pod object.
    pub fn new(all: impl Iterator<Item = (&'k WorkloadKey, Option<&'k str>)>) -> Names<'k> {
        let mut of: BTreeMap<&str, BTreeMap<&str, Vec<&WorkloadKey>>> = BTreeMap::new();
        for (key, owner) in all {
            let named = of.entry(key.namespace.as_str()).or_default();
            named.entry(key.name.as_str()).or_default().push(key);
            if let Some(owner) = owner.filter(|owner| *owner != key.name) {
                named.entry(owner).or_default().push(key);
            }
        }
        Names { of }
    }

    pub fn of(&self, name: &Named) -> &[&'k WorkloadKey] {
        let named = self.of.get(name.namespace.as_str()).and_then(|named| named.get(name.name.as_str()));
        named.map_or(&[], Vec::as_slice)
    }

    /// Of those that come back to themselves, in which round: those of one lead to each other.
    pub fn rounds<'a>(
        &self,
        after: impl Iterator<Item = (&'a WorkloadKey, &'a [Named])>,
    ) -> BTreeMap<&'a WorkloadKey, usize> {
        let graph = Graph::new(self, after);
        let rounds = graph.rounds();
        graph.pods.iter().zip(rounds).filter_map(|(key, round)| Some((*key, round?))).collect()
    }
}

/// Pods, and behind them the names that they are after: each name leads to all whom it means, so that there are never more edges than
/// names are written and means are meant.
struct Graph<'a> {
    pods: Vec<&'a WorkloadKey>,
    next: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(names: &Names<'_>, after: impl Iterator<Item = (&'a WorkloadKey, &'a [Named])>) -> Graph<'a> {
        let (pods, after): (Vec<&WorkloadKey>, Vec<&[Named]>) = after.unzip();
        let places: BTreeMap<&WorkloadKey, usize> = pods.iter().enumerate().map(|(at, key)| (*key, at)).collect();
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); pods.len()];
        let mut known: BTreeMap<&Named, usize> = BTreeMap::new();
        for (at, named) in after.into_iter().enumerate() {
            for name in named {
                let place = *known.entry(name).or_insert_with(|| {
                    next.push(names.of(name).iter().filter_map(|key| places.get(*key).copied()).collect());
                    next.len() - 1
                });
                next[at].push(place);
            }
        }
        Graph { pods, next }
    }

    /// For each place the round that it is in: those of one lead to each other (Tarjan's strongly connected components, of more than
    /// one place). Without recursion: a way may be as long as there are documents.
    fn rounds(&self) -> Vec<Option<usize>> {
        const UNSEEN: usize = usize::MAX;
        let count = self.next.len();
        let (mut seen, mut low) = (vec![UNSEEN; count], vec![0; count]);
        let (mut open, mut is_open) = (Vec::new(), vec![false; count]);
        let mut rounds = vec![None; count];
        let (mut number, mut round) = (0, 0);
        for root in 0..count {
            // A place, and which of its edges is next.
            let mut way = if seen[root] == UNSEEN { vec![(root, 0)] } else { Vec::new() };
            while let Some((at, edge)) = way.last_mut() {
                let at = *at;
                if *edge == 0 {
                    (seen[at], low[at]) = (number, number);
                    number += 1;
                    open.push(at);
                    is_open[at] = true;
                }
                let to = self.next[at].get(*edge).copied();
                *edge += 1;
                match to {
                    Some(to) if seen[to] == UNSEEN => way.push((to, 0)),
                    Some(to) if is_open[to] => low[at] = low[at].min(seen[to]),
                    Some(_) => {}
                    None => {
                        way.pop();
                        if let Some((before, _)) = way.last() {
                            low[*before] = low[*before].min(low[at]);
                        }
                        if low[at] == seen[at] {
                            let from =
                                open.iter().rposition(|it| *it == at).expect("it was pushed when it was first met");
                            let members = open.split_off(from);
                            members.iter().for_each(|it| is_open[*it] = false);
                            if members.len() > 1 {
                                members.iter().for_each(|it| rounds[*it] = Some(round));
                                round += 1;
                            }
                        }
                    }
                }
            }
        }
        rounds
    }

    /// The shortest way of a member of a round back to itself, both ends included.
    fn way_round(&self, start: usize, rounds: &[Option<usize>]) -> Vec<&'a WorkloadKey> {
        const UNSEEN: usize = usize::MAX;
        let mut came_from = vec![UNSEEN; self.next.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front().filter(|_| came_from[start] == UNSEEN) {
            for to in self.next[at].iter().filter(|to| rounds[**to] == rounds[start]) {
                if came_from[*to] == UNSEEN {
                    came_from[*to] = at;
                    queue.push_back(*to);
                }
            }
        }
        let mut way = vec![start];
        let mut at = came_from[start];
        // A member of a round comes back to itself.
        while at != UNSEEN && at != start {
            way.push(at);
            at = came_from[at];
        }
        way.push(start);
        way.reverse();
        // Names stand between pods.
        way.into_iter().filter_map(|at| self.pods.get(at).copied()).collect()
    }
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

    /// Each had a search of its own, and each name was looked for among all: minutes.
    #[test]
    fn ten_thousand_documents_are_judged_in_a_moment() {
        let long = |last: &str| -> Vec<DesiredPod> {
            let after = |at: usize| if at == 9_999 { last.to_owned() } else { format!("p{:05}", at + 1) };
            (0..10_000).map(|at| pod(&format!("p{at:05}"), &after(at))).collect()
        };
        let began = std::time::Instant::now();
        assert_eq!(found(&long("")), []);
        let round = found(&long("p00000"));
        assert_eq!(round.len(), 10_000);
        assert!(round[0].1.contains("9969 more after default/p00000"), "{}", round[0].1);
        let every: Vec<DesiredPod> = (0..5_000).map(|at| object(&format!("o{at}"), "all", "all,x")).collect();
        assert_eq!(found(&every).len(), 5_000);
        // Two seconds of a processor in the slowest of builds; others may want it too.
        assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
    }
}
