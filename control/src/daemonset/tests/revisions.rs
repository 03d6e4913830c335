//! ControllerRevisions: made, found again, renumbered, merged and cleaned up.

use super::build::{at, daemonset, node, pod, revision, unavailable};
use crate::daemonset::{DaemonSet, Decision, Failures, HASH_LABEL, Pod, Revision, Seen, Step, decide};

fn of(data: &str) -> DaemonSet {
    let mut daemonset = daemonset(unavailable(1));
    daemonset.template_data = data.into();
    daemonset
}

fn decided(daemonset: &DaemonSet, revisions: Vec<Revision>, pods: Vec<Pod>) -> Decision {
    let nodes = [("a".to_owned(), node("a"))].into();
    decide(daemonset, &Seen { version: 1, nodes, pods, revisions }, &Failures::default(), at(1000))
}

fn revision_steps(decision: &Decision) -> Vec<Step> {
    let of_pods = |s: &&Step| !matches!(s, Step::CreatePod { .. } | Step::DeletePod { .. });
    decision.steps.iter().filter(of_pods).cloned().collect()
}

#[test]
fn a_new_template_gets_the_next_number_and_pods_its_hash() {
    let decision = decided(&of("v3"), vec![revision("v1", 4), revision("v2", 9)], vec![]);
    let [Step::CreateRevision { name, hash, number: 10, data }, Step::CreatePod { hash: of_pod, .. }] =
        &decision.steps[..]
    else {
        panic!("{:?}", decision.steps)
    };
    assert_eq!((&**data, name, of_pod), ("v3", &format!("d-{hash}"), hash));
    assert_eq!(hash.len(), 10);
}

#[test]
fn the_longest_name_leaves_room_for_the_hash() {
    let mut set = of("v1");
    set.name = "d".repeat(253);
    let decision = decided(&set, vec![], vec![]);
    let [Step::CreateRevision { name, hash, .. }, Step::CreatePod { .. }] = &decision.steps[..] else {
        panic!("{:?}", decision.steps)
    };
    assert_eq!(*name, format!("{}-{hash}", "d".repeat(223)));
}

#[test]
fn a_template_with_a_revision_gets_no_other() {
    assert_eq!(revision_steps(&decided(&of("v1"), vec![revision("v1", 1)], vec![])), []);
}

#[test]
fn an_undo_makes_its_revision_the_newest() {
    let steps = revision_steps(&decided(&of("v1"), vec![revision("v1", 1), revision("v2", 2)], vec![]));
    assert_eq!(steps, [Step::RenumberRevision { name: "d-v1".into(), number: 3 }]);
}

#[test]
fn several_revisions_of_one_template_become_one_and_their_pods_are_not_updated_again() {
    let twin = Revision { name: "d-twin".into(), number: 5, ..revision("v1", 1) };
    let twin = Revision { labels: super::build::labels(&[("app", "d"), (HASH_LABEL, "twin")]), ..twin };
    let decision = decided(&of("v1"), vec![revision("v1", 1), twin], vec![pod("p", "a", "v1")]);
    let uid = pod("p", "a", "v1").uid;
    let wanted = [Step::LabelPod { uid, hash: "twin".into() }, Step::DeleteRevision { name: "d-v1".into() }];
    assert_eq!(decision.steps, wanted);
    assert_eq!(decision.status.updated_number_scheduled, 1);
}

#[test]
fn a_name_that_is_anothers_is_counted_and_another_hash_taken() {
    let first = decided(&of("v1"), vec![], vec![]);
    let [Step::CreateRevision { name, .. }, ..] = &first.steps[..] else { panic!("{:?}", first.steps) };
    assert_eq!(first.status.collision_count, None);
    let squatter = Revision { name: name.clone(), controller: None, labels: Default::default(), ..revision("x", 1) };
    let second = decided(&of("v1"), vec![squatter], vec![]);
    let [Step::CreateRevision { name: other, .. }, ..] = &second.steps[..] else { panic!("{:?}", second.steps) };
    assert_ne!(name, other);
    assert_eq!(second.status.collision_count, Some(1));
    let mut counted = of("v1");
    counted.status.collision_count = Some(1);
    let third = decided(&counted, vec![], vec![]);
    assert_eq!(third.steps[0], second.steps[0], "the count leads to the same name again");
}

#[test]
fn the_oldest_go_beyond_the_limit_but_none_that_a_pod_has() {
    let mut daemonset = of("v5");
    daemonset.history_limit = 2;
    let revisions = (1..=5).map(|n| revision(&format!("v{n}"), n)).collect();
    let steps = revision_steps(&decided(&daemonset, revisions, vec![pod("p", "a", "v1")]));
    assert_eq!(steps, [Step::DeleteRevision { name: "d-v2".into() }, Step::DeleteRevision { name: "d-v3".into() }]);
}

#[test]
fn revisions_are_adopted_and_released_like_pods() {
    let mut orphan = revision("v1", 1);
    orphan.controller = None;
    let mut unmatched = revision("v0", 0);
    unmatched.labels.remove("app");
    let steps = revision_steps(&decided(&of("v1"), vec![orphan, unmatched], vec![]));
    assert_eq!(steps, [Step::AdoptRevision { name: "d-v1".into() }, Step::ReleaseRevision { name: "d-v0".into() }]);
}

#[test]
fn a_lost_label_comes_back_from_the_name() {
    let mut bare = revision("v1", 1);
    bare.labels.remove(HASH_LABEL);
    let decision = decided(&of("v1"), vec![bare], vec![pod("p", "a", "v1")]);
    assert_eq!(decision.steps, [Step::LabelRevision { name: "d-v1".into(), hash: "v1".into() }]);
}
