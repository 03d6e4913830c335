//! Namespaces that are deleted: emptied kind by kind, then let go. While something is left, conditions say what and what it waits for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock;

/// What is left of a kind in a namespace that is being emptied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Left {
    /// `pods`, `daemonsets.apps`.
    pub resource: String,
    pub count: usize,
    /// How many of them wait for each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// Why they could not be deleted.
    pub failure: Option<String>,
}

/// What to write about a namespace whose deletion was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is empty: its own finalizer `kubernetes` is taken away.
    LetGo,
    /// Something is left; `status.conditions` as they should be.
    Waits(Vec<Value>),
}

/// `before`: `status.conditions` as they are.
pub fn decide(left: &[Left], before: &[Value], now: Timestamp) -> Verdict {
    let some: Vec<&Left> = left.iter().filter(|l| l.count > 0).collect();
    let failed: Vec<&Left> = left.iter().filter(|l| l.failure.is_some()).collect();
    if some.is_empty() && failed.is_empty() {
        return Verdict::LetGo;
    }
    let content = some.iter().map(|l| format!("{} has {} resource instances", l.resource, l.count));
    let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in some.iter().flat_map(|l| &l.finalizers) {
        let sum = waits.entry(finalizer).or_default();
        *sum = sum.saturating_add(*count);
    }
    let waits = waits.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
    let failures = failed.iter().filter_map(|l| Some(format!("{}: {}", l.resource, l.failure.as_deref()?)));
    // Kubernetes' words: clients wait for these conditions by their names.
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ["", "ResourcesDiscovered"],
            "",
            "All resources successfully discovered",
            Vec::new(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ["", "ParsedGroupVersions"],
            "",
            "All legacy kube types successfully parsed",
            Vec::new(),
        ),
        (
            "NamespaceDeletionContentFailure",
            ["ContentDeletionFailed", "ContentDeleted"],
            "Some content could not be deleted: ",
            "All content successfully deleted, may be waiting on finalization",
            failures.collect(),
        ),
        (
            "NamespaceContentRemaining",
            ["SomeResourcesRemain", "ContentRemoved"],
            "Some resources are remaining: ",
            "All content successfully removed",
            content.collect(),
        ),
        (
            "NamespaceFinalizersRemaining",
            ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
            "Some content in the namespace has finalizers remaining: ",
            "All content-preserving finalizers finished",
            waits.collect::<Vec<String>>(),
        ),
    ];
    let condition = |(name, reasons, problem, fine, list): (&str, [&str; 2], &str, &str, Vec<String>)| {
        let holds = !list.is_empty();
        let message = if holds { format!("{problem}{}", list.join(", ")) } else { fine.to_owned() };
        let status = if holds { "True" } else { "False" };
        let known = before.iter().find(|c| c["type"] == name && c["status"] == status);
        let since = known.map_or_else(|| json!(clock::seconds(now)), |c| c["lastTransitionTime"].clone());
        let reason = if holds { reasons[0] } else { reasons[1] };
        json!({"type": name, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
    };
    Verdict::Waits(rows.into_iter().map(condition).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pods(count: usize, finalizer: Option<&str>) -> Left {
        let finalizers = finalizer.map(|f| (f.to_owned(), count)).into_iter().collect();
        Left { resource: "pods".into(), count, finalizers, failure: None }
    }

    fn of<'a>(verdict: &'a Verdict, name: &str) -> &'a Value {
        let Verdict::Waits(conditions) = verdict else { panic!("it is let go") };
        conditions.iter().find(|c| c["type"] == name).unwrap()
    }

    #[test]
    fn an_empty_namespace_is_let_go_and_no_other() {
        assert_eq!(decide(&[pods(0, None)], &[], at(0)), Verdict::LetGo);
        let verdict = decide(&[pods(2, None), pods(0, None)], &[], at(0));
        assert_eq!(of(&verdict, "NamespaceContentRemaining")["status"], "True");
        assert_eq!(
            of(&verdict, "NamespaceContentRemaining")["message"],
            "Some resources are remaining: pods has 2 resource instances"
        );
        assert_eq!(of(&verdict, "NamespaceFinalizersRemaining")["status"], "False");
        let unknown = Left { failure: Some("the store does not answer".into()), ..pods(0, None) };
        let verdict = decide(&[unknown], &[], at(0));
        assert_eq!(of(&verdict, "NamespaceDeletionContentFailure")["status"], "True");
    }

    #[test]
    fn finalizers_are_named_and_moments_of_change_stay() {
        let first = decide(&[pods(1, Some("example.com/keep"))], &[], at(0));
        let message =
            "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances";
        assert_eq!(of(&first, "NamespaceFinalizersRemaining")["message"], message);
        let Verdict::Waits(before) = first.clone() else { panic!() };
        assert_eq!(decide(&[pods(1, Some("example.com/keep"))], &before, at(100)), first);
        let later = decide(&[pods(1, None)], &before, at(100));
        assert_eq!(of(&later, "NamespaceFinalizersRemaining")["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(of(&later, "NamespaceContentRemaining")["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
