//! Events for documents that are refused, or for which the node is full: a person who edits a manifest looks at the workload,
//! not at a list of files.
//!
//! ConfigMaps and Secrets are told on themselves. Driven by `desired` after each merge. A refusal is told when it is new or
//! says something else than before, and told off when the workload is taken again. Knows documents and workloads; what runs is
//! handed in.

use std::collections::BTreeMap;

use pod::content::ContentKey;
use pod::desired::Wanted;
use pod::merge::{Fate, Merged};
use pod::name::{Uid, WorkloadKey, WorkloadKind};

use crate::events::{About, Event, Severity};

/// The kubelet's reason for a pod of a file that it does not take.
const REFUSED: &str = "FailedValidation";
const ACCEPTED: &str = "ManifestAccepted";
/// The kubelet's reason for a pod for which the node has no place.
const NO_PLACE: &str = "OutOfpods";

/// Events of one kind at once: more than a person edits, and a directory full of nonsense leaves room for others' events.
/// `get files` has them all.
const AT_ONCE_MAX: usize = 100;

/// The refusals that have been told.
#[derive(Debug, Default)]
pub struct Refusals {
    told: BTreeMap<WorkloadKey, Refusal>,
    /// Of ConfigMaps and Secrets.
    contents: BTreeMap<ContentKey, String>,
}

/// Why a workload's document is not taken.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Faults(String),
    NoPlace(String),
}

impl Refusals {
    /// What is to be told after this merge, in which every source was heard. `pods`: uid and name of the pods that a
    /// workload has at present.
    pub fn follow(
        &mut self,
        merged: &Merged,
        pods: impl Fn(&WorkloadKey) -> Vec<(Uid, String)>,
        at: jiff::Timestamp,
    ) -> Vec<Event> {
        let refused = refused(merged);
        let mut events = Vec::new();
        let news = refused.iter().filter(|(key, refusal)| self.told.get(*key) != Some(*refusal));
        for (key, refusal) in news.take(AT_ONCE_MAX) {
            let pods = pods(key);
            let (reason, message) = match refusal {
                Refusal::Faults(faults) if pods.is_empty() => (REFUSED, format!("Refused: {faults}")),
                Refusal::Faults(faults) => (REFUSED, format!("Edit refused, what runs is kept as it is: {faults}")),
                Refusal::NoPlace(why) => (NO_PLACE, why.clone()),
            };
            events.push(event(Severity::Warning, reason, about(key, &pods), message, at));
        }
        for key in self.told.keys().filter(|key| !refused.contains_key(*key)).take(AT_ONCE_MAX) {
            // A document that was taken away is neither refused nor accepted.
            if let Wanted::Run(wanted) = merged.set.wanted(key) {
                let message = format!("Accepted: {}:{}", wanted.origin.file, wanted.origin.line);
                events.push(event(Severity::Normal, ACCEPTED, about(key, &pods(key)), message, at));
            }
        }
        self.told = refused;
        events.extend(self.follow_contents(merged, at));
        events
    }

    /// The same for ConfigMaps and Secrets; faults of a Secret do not quote its values.
    fn follow_contents(&mut self, merged: &Merged, at: jiff::Timestamp) -> Vec<Event> {
        let mut refused: BTreeMap<ContentKey, String> = BTreeMap::new();
        for outcome in &merged.outcomes {
            let key = outcome.identity.as_ref().and_then(|identity| identity.content());
            if let (Some(key), Fate::Refused { rejections }) = (key, &outcome.fate) {
                let faults: Vec<String> = rejections.iter().map(ToString::to_string).collect();
                refused.entry(key).or_insert_with(|| faults.join("; "));
            }
        }
        let mut events = Vec::new();
        let news = refused.iter().filter(|(key, faults)| self.contents.get(*key) != Some(*faults));
        for (key, faults) in news.take(AT_ONCE_MAX) {
            let message = match merged.set.contents.get(key) {
                Some(_) => format!("Edit refused, what was good stays: {faults}"),
                None => format!("Refused: {faults}"),
            };
            events.push(event(Severity::Warning, REFUSED, about_content(key), message, at));
        }
        let over = self.contents.keys().filter(|key| !refused.contains_key(*key));
        for key in over.filter(|key| merged.set.contents.get(key).is_some()).take(AT_ONCE_MAX) {
            events.push(event(Severity::Normal, ACCEPTED, about_content(key), "Accepted".into(), at));
        }
        self.contents = refused;
        events
    }
}

fn about_content(key: &ContentKey) -> About {
    let ContentKey { kind, namespace, name } = key;
    About { kind: kind.word().into(), namespace: namespace.clone(), name: name.clone(), ..About::default() }
}

/// Each workload of which a document is refused or has no place, or which a file that cannot be read keeps as it is.
fn refused(merged: &Merged) -> BTreeMap<WorkloadKey, Refusal> {
    let mut held: BTreeMap<&str, Vec<&WorkloadKey>> = BTreeMap::new();
    for (key, wanted) in &merged.set.workloads {
        if let Wanted::Hold { reason } = wanted {
            held.entry(reason).or_default().push(key);
        }
    }
    let mut refused: BTreeMap<WorkloadKey, Refusal> = BTreeMap::new();
    for outcome in &merged.outcomes {
        let rejections = match &outcome.fate {
            Fate::Refused { rejections } => rejections,
            Fate::OutOfPods { reason } => {
                let key = outcome.identity.as_ref().and_then(|identity| identity.workload(outcome.origin.source));
                refused.extend(key.map(|key| (key, Refusal::NoPlace(reason.clone()))));
                continue;
            }
            _ => continue,
        };
        let faults: Vec<String> = rejections.iter().map(ToString::to_string).collect();
        let keys: Vec<WorkloadKey> = match &outcome.identity {
            Some(identity) => identity.workload(outcome.origin.source).into_iter().collect(),
            None => faults.iter().filter_map(|fault| held.get(fault.as_str())).flatten().copied().cloned().collect(),
        };
        for key in keys {
            // Of two documents in the way of one workload the first is the one to look at.
            refused.entry(key).or_insert_with(|| Refusal::Faults(faults.join("; ")));
        }
    }
    // Refused beside another document that is taken: the workload is as its owner wants it.
    refused.retain(|key, _| !matches!(merged.set.wanted(key), Wanted::Run(_)));
    refused
}

/// A Pod document's pod where it has one, so that `describe pod` shows it; the document otherwise.
fn about(key: &WorkloadKey, pods: &[(Uid, String)]) -> About {
    let namespace = key.namespace.clone();
    match (key.kind, pods.last()) {
        (WorkloadKind::Pod | WorkloadKind::Control, Some((uid, name))) => {
            About { kind: "Pod".into(), namespace, name: name.clone(), uid: uid.0.clone(), container: None }
        }
        (WorkloadKind::Pod | WorkloadKind::Control, None) => {
            About { kind: "Pod".into(), namespace, name: key.name.clone(), ..About::default() }
        }
        (WorkloadKind::DaemonSet, _) => {
            About { kind: "DaemonSet".into(), namespace, name: key.name.clone(), ..About::default() }
        }
    }
}

fn event(severity: Severity, reason: &str, about: About, message: String, at: jiff::Timestamp) -> Event {
    Event { severity, reason: reason.to_owned(), about, message, at }
}

#[cfg(test)]
mod tests {
    use pod::desired::{Node, Source};
    use pod::manifest::{Context, parse};
    use pod::merge::{Said, Snapshot, merge};

    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n";

    /// A directory with one file, in which pod `a` runs already.
    struct Directory(Refusals);

    impl Directory {
        /// The events of a file's new text: severity, reason, message.
        fn says(&mut self, text: Option<&str>) -> Vec<(Severity, String, String)> {
            let context = Context { node_name: "n1".into() };
            let files = text.into_iter().map(|text| parse("a.yaml", text.as_bytes(), &context)).collect();
            let key = WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: "a".into() };
            let recorded = pod::merge::Recorded {
                uid: Uid("u".into()),
                workload: key,
                name: "a-n1".into(),
                origin: pod::desired::Origin { source: Source::Static, file: "a.yaml".into(), line: 1 },
                live: true,
                ports: Vec::new(),
            };
            let node = Node { name: "n1".into(), ..Node::default() };
            let merged = merge(
                &[Snapshot { source: Source::Static, said: Said::Files(files), kept: BTreeMap::new() }],
                &[recorded],
                &node,
                110,
            );
            let pods = |_: &WorkloadKey| vec![(Uid("u".into()), "a-n1".to_owned())];
            let events = self.0.follow(&merged, pods, jiff::Timestamp::UNIX_EPOCH);
            assert!(events.iter().all(|event| event.about.name == "a-n1" && event.about.uid == "u"), "{events:?}");
            events.into_iter().map(|event| (event.severity, event.reason, event.message)).collect()
        }
    }

    #[test]
    fn a_refused_edit_is_told_once_for_what_it_says_and_its_end_once() {
        let mut directory = Directory(Refusals::default());
        assert_eq!(directory.says(Some(GOOD)), []);
        let bad = GOOD.replace("image: i", "imagee: i");
        let told = directory.says(Some(&bad));
        let [(Severity::Warning, reason, message)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(reason, "FailedValidation");
        assert!(
            message.contains("a.yaml:4: spec.containers[0].imagee: unknown field: did you mean `image`?"),
            "{told:?}"
        );
        assert_eq!(directory.says(Some(&bad)), [], "nothing new");
        assert_eq!(directory.says(Some(&GOOD.replace("image: i", "image: []"))).len(), 1, "another fault");
        let told = directory.says(Some(GOOD));
        assert!(matches!(told.as_slice(), [(Severity::Normal, reason, _)] if reason == "ManifestAccepted"), "{told:?}");
        assert_eq!(directory.says(Some(GOOD)), []);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_on_what_it_keeps() {
        let mut directory = Directory(Refusals::default());
        let told = directory.says(Some("a: [1,\nb: }"));
        assert!(matches!(told.as_slice(), [(Severity::Warning, _, message)] if message.contains("a.yaml")), "{told:?}");
        assert_eq!(directory.says(None), [], "taken away: neither refused nor accepted");
    }

    #[test]
    fn a_refused_edit_of_a_secret_is_told_on_it_and_says_nothing_of_its_values() {
        let context = Context { node_name: "n1".into() };
        let mut refusals = Refusals::default();
        let mut says = |data: &str| {
            let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n");
            let said = Said::Files(vec![parse("s.yaml", text.as_bytes(), &context)]);
            let node = Node { name: "n1".into(), ..Node::default() };
            let merged = merge(&[Snapshot { source: Source::Static, said, kept: BTreeMap::new() }], &[], &node, 9);
            refusals.follow(&merged, |_| Vec::new(), jiff::Timestamp::UNIX_EPOCH)
        };
        assert_eq!(says("stringData: {key: hunter2}"), []);
        let told = says("data: {key: 'hunter2!'}");
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((told.about.kind.as_str(), told.reason.as_str()), ("Secret", "FailedValidation"));
        assert!(told.message.contains("s.yaml:4: data.key") && !told.message.contains("hunter2"), "{told:?}");
        assert_eq!(says("data: {key: 'hunter2!'}"), []);
        assert_eq!(says("stringData: {key: hunter2}")[0].reason, "ManifestAccepted");
    }

    #[test]
    fn a_pod_without_a_place_is_told_once_and_when_it_has_one() {
        let context = Context { node_name: "n1".into() };
        let file = |name: &str| {
            parse(&format!("{name}.yaml"), GOOD.replace("name: a", &format!("name: {name}")).as_bytes(), &context)
        };
        let mut refusals = Refusals::default();
        let mut says = |max_pods: usize| {
            let said = Said::Files(vec![file("a"), file("b")]);
            let node = Node { name: "n1".into(), ..Node::default() };
            let merged =
                merge(&[Snapshot { source: Source::Static, said, kept: BTreeMap::new() }], &[], &node, max_pods);
            let events = refusals.follow(&merged, |_| Vec::new(), jiff::Timestamp::UNIX_EPOCH);
            events.into_iter().map(|event| (event.reason, event.about.name)).collect::<Vec<_>>()
        };
        assert_eq!(says(1), [("OutOfpods".to_owned(), "b".to_owned())]);
        assert_eq!(says(1), []);
        assert_eq!(says(2), [("ManifestAccepted".to_owned(), "b".to_owned())]);
    }
}
