//! Which pods there are to be, one rule a test.

use std::time::Duration;

use pod::name::Uid;
use pod::spec::TaintEffect;

use super::build::{at, daemonset, labels, lost, node, pod, revision, surge, tainted, template, unavailable};
use crate::daemonset::{DaemonSet, Decision, Failures, HASH_LABEL, Node, Phase, Pod, Seen, Step, decide};
use crate::rollout::Strategy;
use crate::selector::Selector;

/// Everything is of the template `v1`, which has its revision.
fn seen(nodes: Vec<Node>, pods: Vec<Pod>) -> Seen {
    let nodes = nodes.into_iter().map(|n| (n.placed.name.clone(), n)).collect();
    Seen { version: 7, nodes, pods, revisions: vec![revision("v1", 1)] }
}

fn decided(daemonset: &DaemonSet, seen: &Seen) -> Decision {
    decide(daemonset, seen, &Failures::default(), at(1000))
}

/// The steps in short: `+node`, `-pod`, others by their debug names.
fn short(decision: &Decision) -> Vec<String> {
    let short = |step: &Step| match step {
        Step::CreatePod { node, .. } => format!("+{node}"),
        Step::DeletePod { name, why, .. } => format!("-{name} {why:?}"),
        other => format!("{other:?}"),
    };
    decision.steps.iter().map(short).collect()
}

fn steps(nodes: Vec<Node>, pods: Vec<Pod>) -> Vec<String> {
    short(&decided(&daemonset(unavailable(1)), &seen(nodes, pods)))
}

fn ending(mut pod: Pod) -> Pod {
    pod.deletion = Some(at(900));
    pod
}

fn in_phase(mut pod: Pod, phase: Phase) -> Pod {
    pod.phase = phase;
    pod.ready_since = None;
    pod
}

fn unready(mut pod: Pod) -> Pod {
    pod.ready_since = None;
    pod
}

#[test]
fn every_node_that_should_gets_one_pod() {
    assert_eq!(steps(vec![node("a"), node("b")], vec![pod("p", "a", "v1")]), ["+b"]);
}

#[test]
fn nodes_that_are_not_selected_get_none_and_lose_theirs() {
    let mut other = node("a");
    other.placed.labels.clear();
    assert_eq!(steps(vec![other.clone()], vec![]), [""; 0]);
    let ended = steps(vec![other], vec![pod("p", "a", "v1"), ending(pod("q", "a", "v1"))]);
    assert!(ended.len() == 1 && ended[0].starts_with("-p NotHere"), "{ended:?}");
}

#[test]
fn no_schedule_keeps_new_pods_away_and_leaves_the_old_one_even_in_an_update() {
    let stays = tainted("a", TaintEffect::NoSchedule);
    assert_eq!(steps(vec![stays.clone()], vec![]), [""; 0]);
    let mut updated = daemonset(unavailable(1));
    updated.template_data = "v2".into();
    let decision = decided(&updated, &seen(vec![stays], vec![unready(pod("p", "a", "v1"))]));
    assert!(!short(&decision).iter().any(|s| s.starts_with('-')));
    assert_eq!(decision.status.number_misscheduled, 1);
    assert!(decision.status.conditions[0].message.starts_with("a: keeps its old pod, for the node's taint k=v"));
}

#[test]
fn no_execute_ends_the_pod() {
    let ended = steps(vec![tainted("a", TaintEffect::NoExecute)], vec![pod("p", "a", "v1")]);
    assert!(ended[0].starts_with("-p NotHere"), "{ended:?}");
}

#[test]
fn a_pod_that_ends_is_waited_for_unless_nothing_of_it_runs() {
    assert_eq!(steps(vec![node("a")], vec![ending(pod("p", "a", "v1"))]), [""; 0]);
    assert_eq!(steps(vec![node("a")], vec![ending(in_phase(pod("p", "a", "v1"), Phase::Failed))]), ["+a"]);
}

#[test]
fn with_surge_one_pod_that_ends_is_not_waited_for_and_two_are() {
    let surging = daemonset(surge(1));
    let one = decided(&surging, &seen(vec![node("a")], vec![ending(pod("p", "a", "v1"))]));
    assert_eq!(short(&one), ["+a"]);
    let two = seen(vec![node("a")], vec![ending(pod("p", "a", "v1")), ending(pod("q", "a", "v1"))]);
    assert_eq!(short(&decided(&surging, &two)), [""; 0]);
}

#[test]
fn with_surge_an_old_pod_goes_when_its_successor_is_available_or_it_serves_nobody() {
    let mut surging = daemonset(surge(1));
    surging.template_data = "v2".into();
    let beside = |old: Pod, new: Pod| {
        let mut seen = seen(vec![node("a")], vec![old, new]);
        seen.revisions.push(revision("v2", 2));
        short(&decided(&surging, &seen))
    };
    assert_eq!(beside(pod("old", "a", "v1"), pod("new", "a", "v2")), ["-old Update"]);
    assert_eq!(beside(pod("old", "a", "v1"), unready(pod("new", "a", "v2"))), [""; 0]);
    assert_eq!(beside(unready(pod("old", "a", "v1")), unready(pod("new", "a", "v2"))), ["-old Update"]);
}

#[test]
fn of_several_pods_on_a_node_the_healthier_stays_then_the_older() {
    let mut younger = pod("a-younger", "a", "v1");
    younger.created = at(5);
    assert_eq!(steps(vec![node("a")], vec![younger.clone(), pod("older", "a", "v1")]), ["-a-younger Surplus"]);
    let sick = unready(pod("older", "a", "v1"));
    assert_eq!(steps(vec![node("a")], vec![younger, sick]), ["-older Surplus"]);
}

#[test]
fn pods_of_nodes_that_are_gone_go_at_once_even_when_they_end() {
    let ended = steps(vec![], vec![pod("p", "gone", "v1"), ending(pod("q", "gone", "v1"))]);
    assert_eq!(ended, ["-p NodeGone", "-q NodeGone"]);
}

#[test]
fn a_pod_that_no_node_was_named_for_is_left_alone() {
    let mut nobodys = pod("p", "a", "v1");
    nobodys.node = None;
    assert_eq!(steps(vec![node("a")], vec![nobodys]), ["+a"]);
}

#[test]
fn failed_pods_are_replaced_with_a_growing_wait() {
    let daemonset = daemonset(unavailable(1));
    let seen = seen(vec![node("a")], vec![in_phase(pod("p", "a", "v1"), Phase::Failed)]);
    let first = decide(&daemonset, &seen, &Failures::default(), at(1000));
    assert_eq!(short(&first), ["-p Failed"]);
    assert_eq!(first.events[0].reason, "FailedDaemonPod");
    let again = decide(&daemonset, &seen, &first.failures, at(1000));
    assert_eq!((short(&again), again.wake_at), (vec![], Some(at(1001))));
    let second = decide(&daemonset, &seen, &again.failures, at(1001));
    assert_eq!(short(&second), ["-p Failed"]);
    let third = decide(&daemonset, &seen, &second.failures, at(1001));
    assert_eq!(third.wake_at, Some(at(1003)));
}

#[test]
fn a_pod_that_ended_is_replaced_unless_it_was_to_run_once() {
    let done = in_phase(pod("p", "a", "v1"), Phase::Succeeded);
    assert_eq!(steps(vec![node("a")], vec![done.clone()]), ["-p Succeeded"]);
    let mut once = daemonset(unavailable(1));
    once.template = template("daemonlet.dev/run-once: 'true'");
    let decision = decided(&once, &seen(vec![node("a")], vec![done]));
    assert_eq!(short(&decision), [""; 0]);
    assert_eq!((decision.status.number_available, decision.status.number_ready), (1, 0));
}

#[test]
fn orphans_that_match_are_adopted_and_have_their_node() {
    let mut orphan = pod("p", "a", "v1");
    orphan.controller = None;
    assert_eq!(steps(vec![node("a")], vec![orphan.clone()]), ["AdoptPod { uid: Uid(\"uid-p\") }"]);
    let beside = steps(vec![node("a")], vec![orphan.clone(), pod("q", "a", "v1")]);
    assert!(!beside.contains(&"-p Surplus".to_owned()), "an orphan is deleted before it is ours: {beside:?}");
    assert_eq!(steps(vec![node("a")], vec![ending(orphan)]), ["+a"]);
}

#[test]
fn pods_that_no_longer_match_are_released_and_others_pods_are_not_touched() {
    let mut unmatched = pod("p", "a", "v1");
    unmatched.labels = labels(&[("app", "else"), (HASH_LABEL, "v1")]);
    assert_eq!(steps(vec![node("a")], vec![unmatched]), ["ReleasePod { uid: Uid(\"uid-p\") }", "+a"]);
    let mut anothers = pod("p", "gone", "v1");
    anothers.controller = Some(Uid("another".into()));
    assert_eq!(steps(vec![], vec![anothers]), [""; 0]);
}

#[test]
fn a_daemonset_that_is_being_deleted_or_selects_everything_does_nothing() {
    let mut deleting = daemonset(unavailable(1));
    deleting.deleting = true;
    let decision = decided(&deleting, &seen(vec![node("a")], vec![]));
    assert_eq!((decision.steps.len(), decision.status), (0, deleting.status));
    let mut greedy = daemonset(unavailable(1));
    greedy.selector = Selector::default();
    let decision = decided(&greedy, &seen(vec![node("a")], vec![]));
    assert_eq!((decision.steps.len(), decision.events[0].reason), (0, "SelectingAll"));
}

#[test]
fn two_that_decide_from_the_same_reading_ask_for_the_same_pods() {
    let daemonset = daemonset(unavailable(1));
    let first = seen(vec![node("a"), node("b")], vec![]);
    assert_eq!(decided(&daemonset, &first), decided(&daemonset, &first));
    let later = Seen { version: 8, ..first.clone() };
    let names = |decision: Decision| {
        let name = |s: Step| match s {
            Step::CreatePod { name, .. } => name,
            other => panic!("{other:?}"),
        };
        decision.steps.into_iter().map(name).collect::<Vec<_>>()
    };
    let (these, those) = (names(decided(&daemonset, &first)), names(decided(&daemonset, &later)));
    assert!(these.iter().chain(&those).collect::<std::collections::BTreeSet<_>>().len() == 4, "{these:?} {those:?}");
    assert!(these.iter().all(|n| n.len() == 7 && n.starts_with("d-")), "{these:?}");
}

#[test]
fn no_more_than_kubernetes_number_is_made_at_a_time_and_the_rest_at_once() {
    let nodes = (0..600).map(|n| node(&format!("n{n}"))).collect();
    let decision = decided(&daemonset(unavailable(1)), &seen(nodes, vec![]));
    assert_eq!((decision.steps.len(), decision.wake_at), (250, Some(at(1000))));
}

#[test]
fn a_lost_node_without_a_pod_gets_one_for_when_it_is_back() {
    assert_eq!(steps(vec![lost("a", 10)], vec![]), ["+a"]);
}

#[test]
fn an_old_client_tells_updated_pods_by_their_generation() {
    let mut updated = daemonset(Strategy::OnDelete);
    updated.template_generation = Some(3);
    let mut by_generation = pod("p", "a", "else");
    by_generation.labels.insert("pod-template-generation".into(), "3".into());
    let decision = decided(&updated, &seen(vec![node("a")], vec![by_generation.clone()]));
    assert_eq!(decision.status.updated_number_scheduled, 1);
    by_generation.labels.insert("pod-template-generation".into(), "2".into());
    let decision = decided(&updated, &seen(vec![node("a")], vec![by_generation]));
    assert_eq!(decision.status.updated_number_scheduled, 0);
}

#[test]
fn ready_becomes_available_after_min_ready_seconds_and_that_is_waited_for() {
    let mut daemonset = daemonset(unavailable(1));
    daemonset.min_ready = Duration::from_secs(30);
    let mut young = pod("p", "a", "v1");
    young.ready_since = Some(at(980));
    let seen = seen(vec![node("a")], vec![young]);
    let before = decide(&daemonset, &seen, &Failures::default(), at(1009));
    assert_eq!((before.status.number_ready, before.status.number_available), (1, 0));
    assert_eq!(before.wake_at, Some(at(1010)));
    let then = decide(&daemonset, &seen, &Failures::default(), at(1010));
    assert_eq!((then.status.number_available, then.wake_at), (1, None));
}
