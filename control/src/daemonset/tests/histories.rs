//! All histories: whatever happens to the fleet in whatever order, every decision is right and it converges in the end.

use std::time::Duration;

use pod::spec::{Taint, TaintEffect};
use proptest::prelude::*;

use super::build::{at, node, surge, unavailable};
use super::world::World;
use crate::daemonset::{Contact, HASH_LABEL, Phase};
use crate::rollout::{Share, Strategy as Update};

#[derive(Debug, Clone)]
enum Happens {
    /// A decision; steps whose bit is set fail.
    Decide {
        fails: u64,
    },
    Seconds(i64),
    Settle(usize),
    Edit {
        bad: bool,
    },
    /// Back to the template of an older revision.
    Undo(usize),
    Change(Update),
    MinReady(u64),
    Grace(i64),
    Lose(usize),
    Return(usize),
    Remove(usize),
    Join(usize),
    Taint(usize, TaintEffect),
    Untaint(usize),
    /// The node gets or loses the label that the daemon asks for.
    Relabel(usize),
    UserDeletes(usize),
    Fails(usize),
    Ends(usize),
    Flaps(usize),
    Orphaned(usize),
    /// No longer matches the selector.
    Unmatched(usize),
    /// Another decider has been quicker: a second pod on the node.
    Doubled(usize),
    HistoryLimit(usize),
}

const NODES: usize = 6;

fn strategy() -> impl Strategy<Value = Update> {
    prop_oneof![
        (1..4_u32).prop_map(unavailable),
        (1..4_u32).prop_map(surge),
        Just(Update::OnDelete),
        (1..101_u32)
            .prop_map(|p| Update::RollingUpdate { max_unavailable: Share::Percent(p), max_surge: Share::Count(0) }),
        (1..101_u32)
            .prop_map(|p| Update::RollingUpdate { max_unavailable: Share::Count(0), max_surge: Share::Percent(p) }),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let n = || 0..NODES;
    let pod = || 0..12_usize;
    prop_oneof![
        8 => prop_oneof![3 => Just(0), 1 => any::<u64>()].prop_map(|fails| Happens::Decide { fails }),
        4 => prop_oneof![1..5_i64, 30..90_i64, Just(2000)].prop_map(Happens::Seconds),
        8 => n().prop_map(Happens::Settle),
        3 => any::<bool>().prop_map(|bad| Happens::Edit { bad }),
        1 => (0..4_usize).prop_map(Happens::Undo),
        1 => strategy().prop_map(Happens::Change),
        1 => prop_oneof![Just(0), Just(10)].prop_map(Happens::MinReady),
        1 => prop_oneof![Just(0), Just(30), Just(300)].prop_map(Happens::Grace),
        2 => n().prop_map(Happens::Lose),
        2 => n().prop_map(Happens::Return),
        1 => n().prop_map(Happens::Remove),
        2 => n().prop_map(Happens::Join),
        1 => (n(), prop_oneof![Just(TaintEffect::NoSchedule), Just(TaintEffect::NoExecute)]).prop_map(|(n, e)| Happens::Taint(n, e)),
        1 => n().prop_map(Happens::Untaint),
        1 => n().prop_map(Happens::Relabel),
        1 => pod().prop_map(Happens::UserDeletes),
        1 => pod().prop_map(Happens::Fails),
        1 => pod().prop_map(Happens::Ends),
        2 => pod().prop_map(Happens::Flaps),
        1 => pod().prop_map(Happens::Orphaned),
        1 => pod().prop_map(Happens::Unmatched),
        1 => n().prop_map(Happens::Doubled),
        1 => (0..4_usize).prop_map(Happens::HistoryLimit),
    ]
}

fn apply(world: &mut World, event: &Happens) {
    let name = |n: &usize| format!("n{n}");
    let now = at(world.second);
    match event {
        Happens::Decide { fails } => {
            world.decide(|n| fails >> (n % 64) & 1 == 1);
        }
        Happens::Seconds(seconds) => world.second += seconds,
        Happens::Settle(n) => world.settle(&name(n)),
        Happens::Edit { bad } => world.edit(if *bad { "bad" } else { "good" }),
        Happens::Undo(n) => {
            if let Some(revision) = world.seen.revisions.get(*n) {
                world.daemonset.template_data = revision.data.clone();
                world.daemonset.generation += 1;
            }
        }
        Happens::Change(strategy) => world.daemonset.strategy = *strategy,
        Happens::MinReady(seconds) => world.daemonset.min_ready = Duration::from_secs(*seconds),
        Happens::Grace(seconds) => world.grace = *seconds,
        Happens::Lose(n) => {
            if let Some(node) = world.seen.nodes.get_mut(&name(n)) {
                node.contact = Contact::Lost { since: now, reason: "no heartbeat".into() };
            }
        }
        Happens::Return(n) => {
            if let Some(node) = world.seen.nodes.get_mut(&name(n)) {
                node.contact = Contact::Reached;
            }
        }
        Happens::Remove(n) => {
            world.seen.nodes.remove(&name(n));
        }
        Happens::Join(n) => {
            world.seen.nodes.entry(name(n)).or_insert_with(|| node(&name(n)));
        }
        Happens::Taint(n, effect) => {
            if let Some(node) = world.seen.nodes.get_mut(&name(n)) {
                node.placed.taints = vec![Taint { key: "k".into(), value: "v".into(), effect: *effect }];
            }
        }
        Happens::Untaint(n) => {
            if let Some(node) = world.seen.nodes.get_mut(&name(n)) {
                node.placed.taints.clear();
            }
        }
        Happens::Relabel(n) => {
            if let Some(node) = world.seen.nodes.get_mut(&name(n))
                && node.placed.labels.remove("daemon").is_none()
            {
                node.placed.labels.insert("daemon".into(), "yes".into());
            }
        }
        Happens::Doubled(n) => {
            let made = format!("double-{}-{}", world.seen.version, world.seen.pods.len());
            let hash = world.seen.revisions.first().map(|r| r.labels[HASH_LABEL].clone());
            let known = world.seen.pods.iter().any(|p| p.name == made);
            if let (Some(hash), false) = (hash, known) {
                world.add_pod(&made, &name(n), &hash);
            }
        }
        Happens::HistoryLimit(limit) => world.daemonset.history_limit = *limit,
        Happens::UserDeletes(n) => {
            if let Some(uid) = world.seen.pods.get(*n).map(|pod| pod.uid.clone()) {
                world.ask(&uid);
            }
        }
        Happens::Fails(n) | Happens::Ends(n) | Happens::Flaps(n) | Happens::Orphaned(n) | Happens::Unmatched(n) => {
            let Some(pod) = world.seen.pods.get_mut(*n) else { return };
            match event {
                Happens::Fails(_) => pod.phase = Phase::Failed,
                Happens::Ends(_) => pod.phase = Phase::Succeeded,
                Happens::Flaps(_) => pod.ready_since = None,
                Happens::Orphaned(_) => pod.controller = None,
                _ => {
                    pod.labels.insert("app".into(), "other".into());
                }
            }
        }
    }
}

/// All faults end, and people stop changing things.
fn heal(world: &mut World) {
    world.edit("good");
    for node in world.seen.nodes.values_mut() {
        node.contact = Contact::Reached;
    }
}

fn converged(world: &World) {
    let ours = |p: &&crate::daemonset::Pod| p.controller.as_ref().is_some_and(|c| c.0 == "ds");
    for (name, node) in &world.seen.nodes {
        let here: Vec<_> = world.seen.pods.iter().filter(ours).filter(|p| p.node.as_ref() == Some(name)).collect();
        let labelled = node.placed.labels.contains_key("daemon");
        let repels = |e| node.placed.taints.iter().any(|t| t.effect == e);
        if !labelled || repels(TaintEffect::NoExecute) {
            assert!(here.is_empty(), "{name} still has a pod");
        } else if repels(TaintEffect::NoSchedule) {
            assert!(here.len() <= 1, "{name} has {} pods", here.len());
        } else {
            assert_eq!(here.len(), 1, "{name} has {} pods", here.len());
            assert!(here[0].ready_since.is_some() || world.daemonset.strategy == Update::OnDelete, "{name}");
            let data = &world.daemonset.template_data;
            let revision = world.seen.revisions.iter().find(|r| r.data == *data).unwrap();
            let updated = here[0].labels[HASH_LABEL] == revision.labels[HASH_LABEL];
            assert!(updated || world.daemonset.strategy == Update::OnDelete, "{name} was not updated");
        }
    }
    let homeless = world.seen.pods.iter().filter(ours).filter_map(|p| p.node.as_ref());
    assert!(homeless.into_iter().all(|n| world.seen.nodes.contains_key(n)));
    let status = &world.daemonset.status;
    if world.daemonset.strategy != Update::OnDelete {
        assert_eq!(status.number_available, status.desired_number_scheduled);
        assert_eq!(status.updated_number_scheduled, status.desired_number_scheduled);
        assert!(status.conditions.iter().all(|c| *c.status == *"False" || c.message.contains("taint")), "{status:?}");
    }
    let live = |hash: &str| world.seen.pods.iter().any(|p| p.labels[HASH_LABEL] == hash);
    let old = world.seen.revisions.iter().filter(|r| r.data != world.daemonset.template_data);
    let unused = old.filter(|r| !live(&r.labels[HASH_LABEL])).count();
    assert!(unused <= world.daemonset.history_limit, "{unused} unused revisions are kept");
    let mut numbers: Vec<_> = world.seen.revisions.iter().map(|r| (r.number, r.data.clone())).collect();
    numbers.sort();
    assert_eq!(numbers.last().map(|n| &n.1), Some(&world.daemonset.template_data), "the newest is the present one");
}

proptest! {
    #[test]
    fn every_decision_is_right_and_the_fleet_converges(
        first in strategy(),
        events in prop::collection::vec(happens(), 1..50),
    ) {
        let mut world = World::new(first, NODES - 1);
        world.run();
        for event in &events {
            apply(&mut world, event);
        }
        heal(&mut world);
        world.run();
        converged(&world);
    }

    #[test]
    fn a_healthy_fleet_keeps_all_but_the_budget_through_any_updates(
        max in 1..4_usize,
        min_ready in prop_oneof![Just(0_u64), Just(10)],
        events in prop::collection::vec(prop_oneof![
            3 => Just(None),
            1 => any::<bool>().prop_map(Some),
        ], 1..60),
    ) {
        let mut world = World::new(unavailable(max as u32), NODES);
        world.daemonset.min_ready = Duration::from_secs(min_ready);
        world.run();
        for event in events {
            match event {
                Some(bad) => world.edit(if bad { "bad" } else { "good" }),
                None => {
                    world.decide(|_| false);
                    world.second += 3;
                    world.settle_all();
                }
            }
            prop_assert!(world.ready() + max >= NODES, "{} of {NODES} are left", world.ready());
        }
    }
}
