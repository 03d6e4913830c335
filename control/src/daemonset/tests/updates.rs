//! Updates of a fleet that works, told as stories: what is taken when.

use std::time::Duration;

use super::build::{at, lost, surge, unavailable};
use super::world::World;
use crate::daemonset::{Contact, Failures, Phase, Step};
use crate::rollout::Strategy;

/// A fleet of `nodes` whose daemons all serve.
fn serving(strategy: Strategy, nodes: usize) -> World {
    let mut world = World::new(strategy, nodes);
    world.run();
    assert_eq!(world.ready(), nodes);
    world
}

fn lose(world: &mut World, name: &str) {
    let since = world.second;
    world.seen.nodes.insert(name.into(), lost(name, since));
}

fn condition(world: &World, name: &str) -> Option<(String, String)> {
    let found = world.daemonset.status.conditions.iter().find(|c| *c.name == *name)?;
    Some((found.status.to_string(), found.message.to_string()))
}

#[test]
fn an_update_goes_over_all_nodes_and_never_takes_more_than_it_may() {
    let mut world = serving(unavailable(2), 9);
    world.edit("good");
    assert_eq!(world.run(), 7);
    assert_eq!(world.updated(), 9);
}

#[test]
fn with_surge_no_node_is_ever_without_a_pod_that_serves() {
    let mut world = serving(surge(2), 9);
    world.edit("good");
    assert_eq!(world.run(), 9);
    assert_eq!((world.updated(), world.seen.pods.len()), (9, 9));
}

#[test]
fn bad_updates_one_after_the_other_take_no_more_than_the_first() {
    for strategy in [unavailable(2), surge(2)] {
        let mut world = serving(strategy, 6);
        for _ in 0..8 {
            world.edit("bad");
            world.run();
            let least = if strategy == surge(2) { 6 } else { 4 };
            assert_eq!(world.ready(), least);
            let broken = world.seen.pods.iter().filter(|p| p.ready_since.is_none()).count();
            assert_eq!(broken, 2);
        }
        world.edit("good");
        world.run();
        assert_eq!(world.updated(), 6);
    }
}

#[test]
fn daemons_that_are_ready_for_a_moment_only_do_not_eat_up_the_fleet() {
    for (strategy, least) in [(unavailable(1), 6), (surge(1), 6)] {
        let mut world = serving(strategy, 8);
        for _ in 0..6 {
            world.edit("flash");
            for _ in 0..40 {
                world.decide(|_| false);
                world.second += 1;
                world.settle_all();
            }
        }
        let steady = world.seen.pods.iter().filter(|p| p.created == at(0) && p.ready_since == Some(at(1))).count();
        assert!(steady >= least, "{steady} of 8 are left");
        world.edit("good");
        world.run();
        assert_eq!(world.updated(), 8);
        assert_eq!(world.failures, Failures::default(), "who has proven itself is as good as any");
    }
}

#[test]
fn the_node_that_a_bad_update_broke_is_the_first_of_the_next() {
    for strategy in [unavailable(1), surge(1)] {
        let mut world = serving(strategy, 3);
        for _ in 0..2 {
            world.edit("bad");
            world.run();
            let broken = world.seen.pods.iter().find(|p| p.ready_since.is_none()).unwrap();
            assert_eq!(broken.node.as_deref(), Some("n0"));
        }
    }
}

#[test]
fn a_second_update_within_min_ready_seconds_does_not_take_what_the_first_has_made() {
    let mut world = World::new(unavailable(1), 5);
    world.daemonset.min_ready = Duration::from_secs(60);
    world.decide(|_| false);
    world.settle_all();
    assert_eq!(world.ready(), 5);
    world.edit("good");
    assert_eq!(world.run(), 4);
    assert_eq!(world.updated(), 5);
}

#[test]
fn what_serves_nobody_is_replaced_first_and_at_once() {
    let mut world = serving(unavailable(1), 5);
    for pod in &mut world.seen.pods[2..] {
        pod.ready_since = None;
    }
    world.edit("good");
    let decision = world.decide(|_| false);
    assert_eq!(decision.steps.iter().filter(|s| matches!(s, Step::DeletePod { .. })).count(), 3);
    assert_eq!(world.ready(), 2);
}

#[test]
fn a_waiting_rollout_names_the_node_and_the_reason() {
    let mut world = serving(unavailable(1), 3);
    world.edit("bad");
    world.run();
    for pod in &mut world.seen.pods {
        pod.trouble = pod.ready_since.is_none().then(|| "main: CrashLoopBackOff".to_owned());
    }
    world.run();
    let (status, message) = condition(&world, "daemonlet.dev/RolloutWaits").unwrap();
    let name = &world.seen.pods.iter().find(|p| p.ready_since.is_none()).unwrap().name;
    assert_eq!((status.as_str(), message), ("True", format!("n0: pod {name} is not ready: main: CrashLoopBackOff")));
    let since = world.daemonset.status.conditions[0].last_transition;
    world.second += 100;
    world.run();
    assert_eq!(world.daemonset.status.conditions[0].last_transition, since, "nothing has changed");
    world.edit("good");
    world.run();
    assert_eq!(condition(&world, "daemonlet.dev/RolloutWaits").unwrap(), ("False".into(), String::new()));
}

#[test]
fn nodes_lost_before_their_update_do_not_block_it_are_named_and_catch_up() {
    for strategy in [unavailable(1), surge(1)] {
        let mut world = serving(strategy, 5);
        lose(&mut world, "n1");
        lose(&mut world, "n3");
        world.second += 100;
        world.edit("good");
        world.run();
        assert_eq!(world.updated(), 3);
        let (status, message) = condition(&world, "daemonlet.dev/NodesBehind").unwrap();
        let since = at(world.seen.nodes["n1"].since());
        let each = |n: &str| format!("{n}: lost since {since} (no heartbeat), updated when it is back");
        assert_eq!((status.as_str(), message), ("True", [each("n1"), each("n3")].join("; ")));
        for name in ["n1", "n3"] {
            world.seen.nodes.get_mut(name).unwrap().contact = Contact::Reached;
        }
        let fewest = world.run();
        assert_eq!((world.updated(), fewest), (5, if strategy == surge(1) { 5 } else { 4 }));
        assert_eq!(condition(&world, "daemonlet.dev/NodesBehind").unwrap().0, "False");
    }
}

#[test]
fn a_node_lost_after_its_update_began_holds_up_the_others() {
    let mut world = serving(unavailable(1), 3);
    world.edit("good");
    world.decide(|_| false);
    lose(&mut world, "n0");
    world.second += 1000;
    world.run();
    assert_eq!(world.updated(), 0);
    let (_, message) = condition(&world, "daemonlet.dev/RolloutWaits").unwrap();
    assert!(message.contains("n0: lost since") && message.ends_with("after its update had begun"), "{message}");
    world.seen.nodes.get_mut("n0").unwrap().contact = Contact::Reached;
    world.run();
    assert_eq!(world.updated(), 3);
}

#[test]
fn on_delete_waits_for_people_and_gives_them_the_new_template() {
    let mut world = serving(Strategy::OnDelete, 3);
    world.edit("good");
    world.run();
    assert_eq!((world.updated(), world.daemonset.status.updated_number_scheduled), (0, 0));
    world.seen.pods[0].deletion = Some(at(world.second));
    world.run();
    assert_eq!((world.updated(), world.daemonset.status.updated_number_scheduled), (1, 1));
    assert_eq!(condition(&world, "daemonlet.dev/RolloutWaits"), None);
}

#[test]
fn conditions_of_others_stay_as_they_are() {
    let mut world = serving(unavailable(1), 2);
    let foreign = crate::daemonset::Condition {
        name: "example.com/Blessed".into(),
        status: "True".into(),
        reason: "Because".into(),
        message: "by hand".into(),
        last_transition: at(3),
    };
    world.daemonset.status.conditions.push(foreign.clone());
    world.edit("bad");
    world.run();
    assert_eq!(world.daemonset.status.conditions.len(), 2);
    assert_eq!(world.daemonset.status.conditions[0], foreign);
}

#[test]
fn a_failed_pod_of_an_old_template_does_not_wait_out_its_back_off() {
    let mut world = serving(unavailable(1), 1);
    for _ in 0..4 {
        world.seen.pods[0].phase = Phase::Failed;
        world.decide(|_| false);
        world.decide(|_| false);
    }
    world.seen.pods[0].phase = Phase::Failed;
    let waits = world.decide(|_| false);
    assert!(waits.steps.is_empty() && waits.wake_at.is_some());
    world.edit("good");
    let replaced = world.decide(|_| false);
    assert!(replaced.steps.iter().any(|s| matches!(s, Step::DeletePod { .. })));
}
