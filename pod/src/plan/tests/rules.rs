use super::model::{Model, Outcome, revision};
use std::sync::Arc;

use crate::desired::{UpdateStrategy, Wanted};
use crate::digest;
use crate::observed::{ContainerState, ImageState, SandboxState};
use crate::plan::{Change, OTHER_IMAGE, Plan, SHIM_PATIENCE, SHIM_SILENT, STRAY_GRACE, Signal, Step, Stray};
use crate::record::{Course, Lifecycle};
use crate::sample;
use crate::spec::{EnvValue, EnvVar, PodField, STANDBY_ANNOTATION};
use crate::time::{Moment, Now};

fn running(containers: &[&str]) -> Model {
    let mut model = Model::new(revision(0, containers));
    model.settle();
    model
}

fn want(model: &mut Model, n: u8, containers: &[&str]) {
    model.wanted = Wanted::Run(Box::new(revision(n, containers)));
}

/// Plans and carries out until the plan holds a step for which `stop` says so.
fn until(model: &mut Model, stop: impl Fn(&Step) -> bool) -> Plan {
    for _ in 0..100 {
        let plan = model.begin();
        if plan.steps.iter().any(&stop) {
            return plan;
        }
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
        if plan.steps.is_empty() {
            model.now = plan.wake_at.expect("it waits for a moment").0;
        }
    }
    panic!("that step never comes");
}

fn starts(step: &Step) -> bool {
    matches!(step, Step::Start { .. })
}

fn states(model: &Model, pod: usize) -> Vec<(u32, &ContainerState)> {
    model.pods[pod].containers.iter().map(|c| (c.run.attempt, &c.state)).collect()
}

#[test]
fn converged_pod_gets_no_step() {
    let model = running(&["a", "b"]);
    assert_eq!(model.plan(), Plan::default());
}

#[test]
fn adopted_pod_is_not_touched() {
    let mut model = running(&["a", "b"]);
    model.restart_agent(false);
    assert_eq!(model.plan(), Plan::default());
}

#[test]
fn upgrade_that_hashes_differently_restarts_nobody() {
    let mut model = running(&["a"]);
    model.pods[0].record.revision = "oldversion".into();
    assert_eq!(model.plan(), Plan::default());
}

#[test]
fn upgrade_that_counts_what_an_older_version_did_not_restarts_nobody() {
    let mut model = running(&["a"]);
    let scheduled_by = |name: &str| {
        let document = serde_json::json!({"spec": {"template": {"spec": {"schedulerName": name}}}});
        let mut wanted = revision(0, &["a"]);
        wanted.revision = digest::revision(wanted.workload.kind, &wanted.template, &document);
        wanted.document = document.into();
        wanted
    };
    // Edited while the older version ran, which made nothing of it.
    let edited = scheduled_by("x");
    model.wanted = Wanted::Run(Box::new(edited.clone()));
    assert!(model.plan().steps.iter().all(|step| matches!(step, Step::Remember { .. })), "{:?}", model.plan());
    // A pod of this version, and the next edit.
    model.pods[0].record.revision = edited.revision;
    model.wanted = Wanted::Run(Box::new(scheduled_by("y")));
    assert!(model.plan().steps.contains(&Step::Admit), "{:?}", model.plan());
}

#[test]
fn containers_start_in_order_and_are_created_ahead() {
    let mut model = Model::new(revision(0, &["a", "b"]));
    let plan = until(&mut model, starts);
    let of = |name: &str| plan.steps.iter().any(|s| matches!(s, Step::Start { container, .. } if container == name));
    assert!(of("a") && !of("b"), "{plan:?}");
    assert_eq!(model.pods[0].containers.len(), 2);
}

#[test]
fn container_that_cannot_start_holds_nobody_up() {
    let mut model = Model::new(revision(0, &["a", "b"]));
    until(&mut model, |s| matches!(s, Step::PrepareImage { .. }));
    model.end(0, Outcome::Refused);
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    let plan = until(&mut model, starts);
    assert!(plan.steps.iter().all(|s| !matches!(s, Step::Start { container, .. } if container == "a")));
}

#[test]
fn container_with_its_address_in_the_environment_is_created_after_the_network() {
    let mut wanted = revision(0, &["a"]);
    let value = EnvValue::Field(PodField::PodIp);
    Arc::make_mut(&mut wanted.template).spec.containers[0].env.push(EnvVar { name: "IP".into(), value });
    let mut model = Model::new(wanted);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    assert!(matches!(model.pods[0].sandbox, SandboxState::Connected { .. }));
}

#[test]
fn other_containers_are_created_while_the_network_is_connected() {
    let mut model = Model::new(revision(0, &["a"]));
    let plan = until(&mut model, |s| matches!(s, Step::Create { .. }));
    assert!(plan.steps.iter().any(|s| matches!(s, Step::Connect { .. })), "{plan:?}");
}

#[test]
fn crashing_container_starts_at_kubernetes_instants_for_ever() {
    let mut model = running(&["a"]);
    let begin = model.now;
    let mut instants = Vec::new();
    for _ in 0..8 {
        model.exit(0, 1);
        until(&mut model, starts);
        instants.push((model.now - begin) / 1000);
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
    }
    assert_eq!(instants, [0, 10, 30, 70, 150, 310, 610, 910]);
}

#[test]
fn successor_stands_created_during_the_back_off_and_the_exited_run_goes_then() {
    let mut model = running(&["a"]);
    model.exit(0, 1);
    model.settle();
    model.exit(0, 1);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    assert_eq!(model.pods[0].containers.len(), 1, "the exited run keeps the shim alive");
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    until(&mut model, |s| matches!(s, Step::Delete { .. }));
    model.end(0, Outcome::Done);
    assert_eq!(states(&model, 0), [(2, &ContainerState::Created)]);
    let plan = model.plan();
    assert_eq!(plan.waiting_for[0].reason, "CrashLoopBackOff");
    let message = "back-off 10s restarting failed container=a pod=d-1";
    assert_eq!(plan.waiting_for[0].message, message);
    assert_eq!(plan.wake_at, model.pods[0].record.containers["a"].not_before);
}

#[test]
fn pod_after_others_that_filled_the_disk_waits_created_with_the_back_off_of_crashes() {
    let evicted = |evictions: u32, lived: i64| {
        let mut before = sample::record("u");
        before.lifecycle =
            Lifecycle::Terminating { since: before.admitted_at, deadline: Moment(0), reason: "Evicted".into() };
        before.course.evictions = evictions;
        let wall = before.admitted_at + jiff::SignedDuration::from_secs(lived);
        let after = Course::default().after(&before, Now { boot: Moment(5), wall });
        (after.evictions, after.not_before)
    };
    assert_eq!(evicted(0, 1), (1, None));
    assert_eq!(evicted(2, 1), (3, Some(Moment(20_005))));
    assert_eq!(evicted(2, 700), (1, None), "it lived long enough");
    let ended = sample::record("u");
    assert_eq!(Course::default().after(&ended, Now { boot: Moment(5), wall: ended.admitted_at }), Course::default());

    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, |s| matches!(s, Step::SetUp { .. }));
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    let not_before = Moment(model.now + 20_000);
    (model.pods[0].record.course.evictions, model.pods[0].record.course.not_before) = (3, Some(not_before));
    model.settle_for(10_000);
    assert_eq!(states(&model, 0), [(0, &ContainerState::Created)]);
    let plan = model.plan();
    assert_eq!((plan.waiting_for[0].reason.as_str(), plan.wake_at), ("CrashLoopBackOff", Some(not_before)));
    model.settle();
    assert!(matches!(states(&model, 0)[..], [(0, ContainerState::Running { .. })]) && model.now > not_before.0);
}

#[test]
fn end_is_written_down_while_the_successor_is_created_and_before_anything_else_happens() {
    let mut model = running(&["a"]);
    model.exit(0, 3);
    let plan = model.plan();
    let [Step::Remember { change: Change::Ended { termination, .. }, .. }, Step::Create { attempt: 1, .. }] =
        &plan.steps[..]
    else {
        panic!("{plan:?}");
    };
    assert_eq!((termination.exit_code, termination.reason.as_str()), (3, "Error"));
}

#[test]
fn ended_run_is_removed_after_its_successor_was_started_not_beside_it() {
    let mut model = running(&["a"]);
    model.exit(0, 1);
    let plan = until(&mut model, starts);
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Delete { .. })), "{plan:?}");
    model.settle();
    assert_eq!(states(&model, 0), [(1, &ContainerState::Running { pid: 7 })]);
}

#[test]
fn run_that_containerd_forgot_ended_with_unknown_status() {
    let mut model = running(&["a"]);
    model.exit(0, 3);
    model.forget_ends();
    model.settle();
    let last = model.pods[0].record.containers["a"].last.clone().expect("it ended");
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
}

#[test]
fn interrupted_creation_is_made_again_and_is_no_restart() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    let create = model.in_flight.values().position(|s| matches!(s, Step::Create { .. })).expect("in flight");
    model.end(create, Outcome::Half);
    model.settle();
    assert_eq!(model.pods[0].record.containers["a"].next_attempt(), 0);
    assert_eq!(states(&model, 0), [(0, &ContainerState::Running { pid: 7 })]);
}

#[test]
fn standing_successor_is_started_at_once() {
    let mut wanted = revision(0, &["a"]);
    Arc::make_mut(&mut wanted.template).annotations.insert(STANDBY_ANNOTATION.into(), "true".into());
    let mut model = Model::new(wanted);
    model.settle();
    assert_eq!(states(&model, 0)[1], (1, &ContainerState::Created));
    model.exit(0, 1);
    model.begin();
    model.end(0, Outcome::Done);
    assert!(model.plan().steps.iter().any(starts));
}

#[test]
fn update_stops_the_old_pod_only_when_the_new_one_stands_created() {
    let mut model = running(&["a", "b"]);
    want(&mut model, 1, &["a", "b"]);
    until(&mut model, |s| matches!(s, Step::Remember { change: Change::Terminating { .. }, .. }));
    assert!(model.pods[1].containers.iter().all(|c| c.state == ContainerState::Created));
    assert_eq!(model.pods[1].containers.len(), 2);
    assert_eq!(model.all_running().len(), 2);
}

#[test]
fn successor_starts_when_the_old_one_has_stopped_not_when_it_is_deleted() {
    let mut model = running(&["a"]);
    want(&mut model, 1, &["a"]);
    until(&mut model, starts);
    assert_eq!(model.pods.len(), 2, "the old one is still there");
    assert!(model.all_running().is_empty());
}

#[test]
fn old_pod_runs_on_while_the_successor_cannot_be_created() {
    let mut model = running(&["a"]);
    want(&mut model, 1, &["a"]);
    for _ in 0..5 {
        let plan = until(&mut model, |s| matches!(s, Step::PrepareImage { .. }));
        let image = plan.steps.iter().position(|s| matches!(s, Step::PrepareImage { .. }));
        model.pods[1].images.insert("a".into(), ImageState::Missing { reason: "x".into(), message: "y".into() });
        let key = plan.steps[image.expect("it is there")].key();
        let nth = model.in_flight.keys().position(|k| *k == key).expect("in flight");
        model.end(nth, Outcome::Refused);
    }
    assert_eq!(model.all_running()[0].uid, model.pods[0].record.uid);
    assert!(model.plan().waiting_for.iter().any(|w| w.uid.as_ref() == Some(&model.pods[1].record.uid)));
}

#[test]
fn third_revision_replaces_the_waiting_second_and_the_first_runs_on() {
    let mut model = running(&["a"]);
    want(&mut model, 1, &["a"]);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    want(&mut model, 2, &["a"]);
    let plan = model.begin();
    let ends = |uid: &str| {
        plan.steps
            .iter()
            .any(|s| matches!(s, Step::Remember { uid: of, change: Change::Terminating { .. } } if of.0 == uid))
    };
    assert!(ends("uid-2") && !ends("uid-1"), "{plan:?}");
    assert!(plan.steps.contains(&Step::Admit));
}

#[test]
fn going_back_ends_the_successor_and_keeps_the_old_pod() {
    let mut model = running(&["a"]);
    want(&mut model, 1, &["a"]);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    want(&mut model, 0, &["a"]);
    model.settle();
    assert_eq!(model.pods.len(), 1);
    assert_eq!((model.pods[0].record.uid.0.as_str(), model.ended.len()), ("uid-1", 0));
}

#[test]
fn on_delete_waits_for_the_deletion_and_then_takes_the_newest_template() {
    let mut model = running(&["a"]);
    let mut wanted = revision(1, &["a"]);
    wanted.update = UpdateStrategy::OnDelete;
    model.wanted = Wanted::Run(Box::new(wanted.clone()));
    model.settle();
    assert_eq!(model.pods.len(), 1);
    assert_eq!(model.plan().waiting_for[0].reason, "OnDelete");
    model.delete_newest();
    model.settle();
    assert_eq!(model.pods[0].record.revision, wanted.revision);
}

#[test]
fn terminating_pod_starts_nothing() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, starts);
    model.in_flight.clear();
    model.wanted = Wanted::Gone;
    until(&mut model, |s| matches!(s, Step::Delete { .. }));
    model.settle();
    assert!(model.pods.is_empty() && model.ended.is_empty());
}

#[test]
fn grace_period_ends_in_a_kill_and_no_signal_is_sent_twice() {
    let mut model = running(&["a"]);
    model.obedient = false;
    model.wanted = Wanted::Gone;
    let signals = |plan: &Plan| {
        let signal = |s: &Step| if let Step::Signal { signal, .. } = s { Some(*signal) } else { None };
        plan.steps.iter().filter_map(signal).collect::<Vec<_>>()
    };
    let begin = model.now;
    let stop = until(&mut model, |s| matches!(s, Step::Signal { .. }));
    assert_eq!(signals(&stop), [Signal::Stop]);
    model.end(0, Outcome::Done);
    let wait = model.plan();
    assert!(wait.steps.is_empty(), "{wait:?}");
    assert_eq!(wait.wake_at.map(|at| at.0), Some(begin + 30_000));
    model.now = begin + 30_000;
    assert_eq!(signals(&model.plan()), [Signal::Kill]);
}

#[test]
fn kill_without_effect_is_repeated_with_a_back_off() {
    let mut model = running(&["a"]);
    (model.obedient, model.mortal) = (false, false);
    model.delete_newest();
    let mut kills = Vec::new();
    while kills.len() < 7 {
        until(&mut model, |s| matches!(s, Step::Signal { signal: Signal::Kill, .. }));
        kills.push(model.now);
        model.end(0, Outcome::Done);
    }
    let waits: Vec<u64> = kills.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    model.mortal = true;
    model.settle();
    assert_eq!(model.pods.len(), 1);
    assert_eq!(model.pods[0].record.generation, 2);
}

#[test]
fn stop_signal_that_hangs_does_not_hold_up_the_kill() {
    let mut model = running(&["a"]);
    model.wanted = Wanted::Gone;
    until(&mut model, |s| matches!(s, Step::Signal { .. }));
    model.pass_time(31_000);
    assert!(model.plan().steps.iter().any(|s| matches!(s, Step::Signal { signal: Signal::Kill, .. })));
}

#[test]
fn held_workload_is_kept_running_and_nothing_is_admitted_or_ended() {
    let mut model = running(&["a"]);
    model.wanted = Wanted::Hold { reason: "d.yaml:3: a bad edit".into() };
    model.exit(0, 1);
    model.settle();
    assert_eq!((model.pods.len(), model.all_running().len()), (1, 1));
    assert_eq!(model.plan().waiting_for[0].message, "d.yaml:3: a bad edit");
    let mut nothing = Model::new(revision(0, &["a"]));
    nothing.wanted = model.wanted.clone();
    assert!(nothing.plan().steps.is_empty());
}

#[test]
fn forbidden_pod_that_ran_goes_on_and_one_that_never_ran_does_not_start() {
    let forbidden = Wanted::Forbidden { reason: "a rule".into() };
    let mut model = running(&["a"]);
    model.wanted = forbidden.clone();
    model.exit(0, 1);
    model.settle();
    assert_eq!((model.pods.len(), model.all_running().len()), (1, 1));

    let mut early = Model::new(revision(0, &["a"]));
    until(&mut early, |s| matches!(s, Step::Create { .. }));
    early.wanted = forbidden;
    early.settle();
    assert_eq!((early.pods.len(), early.all_running().len()), (1, 0));
    assert!(early.plan().waiting_for.iter().any(|it| it.message == "a rule"), "it says why");
    early.wanted = Wanted::Hold { reason: "a bad edit".into() };
    early.settle();
    assert_eq!(early.all_running().len(), 1);
}

#[test]
fn reboot_is_no_failure_of_the_containers() {
    let mut model = running(&["a", "b"]);
    for _ in 0..3 {
        model.exit(0, 1);
        model.settle();
    }
    let before = model.pods[0].record.containers["a"].next_attempt();
    model.reboot();
    let begin = model.now;
    until(&mut model, starts);
    assert_eq!(model.now, begin, "it does not wait");
    model.settle();
    assert_eq!(model.pods[0].record.containers["a"].next_attempt(), before + 1);
    assert_eq!(model.admitted, 1, "the same pod");
}

#[test]
fn lost_namespaces_are_made_again_and_the_container_with_them() {
    let mut model = running(&["a"]);
    model.break_sandboxes();
    model.settle();
    assert_eq!(states(&model, 0), [(1, &ContainerState::Running { pid: 7 })]);
    assert!(matches!(model.pods[0].sandbox, SandboxState::Connected { .. }));
}

#[test]
fn what_runs_in_lost_surroundings_has_its_grace_period_and_is_restarted_afterwards() {
    let mut model = running(&["a", "b"]);
    model.obedient = false;
    model.break_sandboxes();
    let begin = model.now;
    let signals =
        |signal: Signal| move |step: &Step| matches!(step, Step::Signal { signal: found, .. } if *found == signal);
    let told = until(&mut model, signals(Signal::Stop));
    assert!(!told.steps.iter().any(signals(Signal::Kill)), "{told:?}");
    assert_eq!(model.now, begin, "it is told at once");
    // Also where the agent does not remember that it told them.
    model.restart_agent(false);
    until(&mut model, signals(Signal::Kill));
    assert_eq!(model.now - begin, 30_000);
    model.obedient = true;
    model.settle();
    assert_eq!(states(&model, 0), [(1, &ContainerState::Running { pid: 7 }), (1, &ContainerState::Running { pid: 7 })]);
    assert_eq!(model.admitted, 1, "the same pod");
}

#[test]
fn other_words_for_the_same_thing_only_change_the_record() {
    let mut model = running(&["a"]);
    let mut wanted = revision(0, &["a"]);
    wanted.document = serde_json::json!({"metadata": {"labels": {"new": "yes"}}}).into();
    model.wanted = Wanted::Run(Box::new(wanted.clone()));
    let plan = model.plan();
    assert!(matches!(&plan.steps[..], [Step::Remember { change: Change::Document { .. }, .. }]), "{plan:?}");
    model.settle();
    assert_eq!(model.pods[0].record.document, wanted.document);
}

#[test]
fn run_of_another_image_is_ended_and_followed_at_once_whatever_failed_before() {
    let mut model = running(&["a", "b"]);
    let memory = model.pods[0].record.containers.get_mut("a").unwrap();
    memory.failures = 4;
    model.pods[0].containers[0].image = "former".into();
    let plan = until(&mut model, |step| matches!(step, Step::Remember { .. }));
    let Step::Remember { change: Change::Stopping { container, stopping }, .. } = &plan.steps[0] else {
        panic!("{plan:?}")
    };
    assert_eq!((container.as_str(), stopping.attempt, stopping.message.as_str()), ("a", 0, OTHER_IMAGE));
    let begin = model.now;
    model.settle();
    assert_eq!(states(&model, 0).len(), 2);
    assert!(states(&model, 0).contains(&(1, &ContainerState::Running { pid: 7 })), "{:?}", states(&model, 0));
    assert!(model.now < begin + 10_000, "no failure of the new image is known");
    assert_eq!(model.pods[0].record.containers["a"].failures, 0);
    assert_eq!(model.pods[0].record.containers["b"].next_attempt(), 0, "its neighbour is not touched");
    assert_eq!(model.admitted, 1);
}

#[test]
fn run_that_stands_created_with_another_image_is_never_started() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, starts);
    model.restart_agent(false);
    model.pods[0].containers[0].image = "former".into();
    let plan = model.plan();
    assert!(matches!(&plan.steps[..], [Step::Delete { attempt: 0, .. }]), "{plan:?}");
}

#[test]
fn failed_step_waits_and_says_why() {
    let mut model = Model::new(revision(0, &["a"]));
    model.begin();
    model.end(0, Outcome::Refused);
    let plan = model.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.wake_at.map(|at| at.0), Some(model.now + 1_000));
    assert_eq!(plan.waiting_for[0].message, "it failed");
}

#[test]
fn deleted_pod_of_a_wanted_workload_is_replaced_at_once() {
    let mut model = running(&["a"]);
    model.obedient = false;
    model.delete_newest();
    assert!(matches!(model.pods[0].record.lifecycle, Lifecycle::Terminating { .. }));
    assert!(model.plan().steps.contains(&Step::Admit));
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    assert_eq!(model.all_running().len(), 1, "the old one still has its grace");
}

#[test]
fn created_run_that_dies_while_it_waits_is_made_again_and_is_no_restart() {
    let mut model = running(&["a"]);
    model.exit(0, 1);
    model.settle();
    model.exit(0, 1);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    model.lose_created();
    let plan = model.plan();
    assert!(plan.steps.iter().all(|s| !matches!(s, Step::Remember { .. })), "{plan:?}");
    model.settle();
    assert_eq!(states(&model, 0), [(2, &ContainerState::Running { pid: 7 })]);
}

/// containerd's zero time.
fn year_one() -> jiff::Timestamp {
    "0001-01-01T00:00:00Z".parse().unwrap()
}

#[test]
fn a_run_that_never_started_is_no_restart_whatever_the_runtime_makes_of_its_end() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    model.lose_created_at(year_one());
    let plan = model.plan();
    assert!(plan.steps.iter().all(|s| !matches!(s, Step::Remember { .. })), "{plan:?}");
    model.settle();
    assert_eq!(states(&model, 0), [(0, &ContainerState::Running { pid: 7 })]);
}

#[test]
fn an_end_of_which_nobody_knows_the_time_was_when_it_was_noticed() {
    let mut model = running(&["a"]);
    model.exit(0, 137);
    let ContainerState::Exited { finished_at, .. } = &mut model.pods[0].containers[0].state else { panic!("it ended") };
    *finished_at = year_one();
    let noticed = model.now().wall;
    let plan = model.plan();
    let ended = plan.steps.iter().find_map(|step| match step {
        Step::Remember { change: Change::Ended { termination, .. }, .. } => Some(termination.finished_at),
        _ => None,
    });
    assert_eq!(ended, Some(noticed), "{plan:?}");
}

#[test]
fn end_is_remembered_while_the_rest_of_an_ending_pod_runs() {
    let mut model = running(&["a", "b"]);
    model.obedient = false;
    model.wanted = Wanted::Gone;
    until(&mut model, |s| matches!(s, Step::Signal { .. }));
    model.exit(0, 0);
    let plan = model.plan();
    assert!(plan.steps.iter().any(|s| matches!(s, Step::Remember { change: Change::Ended { .. }, .. })), "{plan:?}");
}

#[test]
fn successor_waits_for_a_start_of_the_old_pod_that_is_in_flight() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, starts);
    model.delete_newest();
    for _ in 0..20 {
        let plan = model.begin();
        assert_eq!(plan.steps.iter().filter(|s| starts(s)).count(), 0, "{plan:?}");
        while let Some(nth) = model.in_flight.values().position(|s| !starts(s)) {
            model.end(nth, Outcome::Done);
        }
    }
    assert_eq!(model.pods[1].containers[0].state, ContainerState::Created);
}

#[test]
fn pod_whose_start_was_not_recorded_is_an_old_pod_that_runs() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, starts);
    model.restart_agent(true);
    want(&mut model, 1, &["a"]);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Running);
}

#[test]
fn run_that_ended_before_its_start_was_recorded_counts() {
    let mut model = Model::new(revision(0, &["a"]));
    until(&mut model, starts);
    model.restart_agent(true);
    model.exit(0, 1);
    model.settle();
    assert_eq!(model.pods[0].record.containers["a"].next_attempt(), 1);
}

fn ends_shim(step: &Step) -> bool {
    matches!(step, Step::EndShim { .. })
}

#[test]
fn pod_whose_shim_does_not_answer_is_left_as_it_is_for_ever() {
    let mut model = running(&["a", "b"]);
    model.fall_silent(0);
    for _ in 0..10 {
        let plan = model.plan();
        assert!(plan.steps.is_empty(), "{plan:?}");
        assert_eq!((plan.waiting_for[0].reason.as_str(), plan.wake_at), (SHIM_SILENT, None));
        model.pass_time(3_600_000);
    }
}

#[test]
fn silent_shim_of_a_pod_that_is_to_go_is_ended_after_deadline_and_patience() {
    let mut model = running(&["a", "b"]);
    model.fall_silent(0);
    model.wanted = Wanted::Gone;
    let begin = model.now;
    until(&mut model, ends_shim);
    let grace = u64::try_from(model.pods[0].template.spec.termination_grace.as_millis()).unwrap();
    assert_eq!(model.now - begin, grace + u64::try_from(SHIM_PATIENCE.as_millis()).unwrap());
    model.settle();
    assert!(model.pods.is_empty());
}

#[test]
fn silence_that_begins_after_the_deadline_has_the_whole_patience() {
    let mut model = running(&["a"]);
    (model.obedient, model.mortal, model.wanted) = (false, false, Wanted::Gone);
    until(&mut model, |s| matches!(s, Step::Signal { signal: Signal::Kill, .. }));
    model.end(0, Outcome::Refused);
    model.pass_time(600_000);
    model.fall_silent(0);
    let begin = model.now;
    until(&mut model, ends_shim);
    assert_eq!(Moment(model.now).since(Moment(begin)), SHIM_PATIENCE);
}

#[test]
fn shim_that_answers_again_is_not_ended_and_its_pod_stops_in_the_ordinary_way() {
    let mut model = running(&["a"]);
    model.fall_silent(0);
    model.wanted = Wanted::Gone;
    model.settle_for(20_000);
    assert!(!model.pods.is_empty());
    model.silent.clear();
    model.pods[0].containers[0].state = ContainerState::Running { pid: 7 };
    let plan = until(&mut model, |s| matches!(s, Step::Signal { .. }));
    assert!(matches!(plan.steps[..], [Step::Signal { signal: Signal::Stop, .. }]), "{plan:?}");
}

#[test]
fn shim_that_cannot_be_ended_is_tried_again_with_a_back_off() {
    let mut model = running(&["a"]);
    model.fall_silent(0);
    model.wanted = Wanted::Gone;
    until(&mut model, ends_shim);
    model.end(0, Outcome::Refused);
    assert!(model.plan().wake_at.is_some());
    until(&mut model, ends_shim);
    model.settle();
    assert!(model.pods.is_empty());
}

#[test]
fn successor_does_not_start_beside_a_pod_whose_shim_does_not_answer() {
    let mut model = running(&["a"]);
    model.fall_silent(0);
    want(&mut model, 1, &["a"]);
    let plan = until(&mut model, ends_shim);
    assert!(model.all_running().is_empty(), "{plan:?}");
    model.settle();
    assert_eq!(model.pods.len(), 1);
    assert_eq!(states(&model, 0), [(0, &ContainerState::Running { pid: 7 })]);
}

#[test]
fn update_waits_for_a_successor_whose_shim_does_not_answer() {
    let mut model = running(&["a"]);
    want(&mut model, 1, &["a"]);
    until(&mut model, |s| matches!(s, Step::Create { .. }));
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    model.fall_silent(1);
    model.settle();
    assert_eq!(states(&model, 0), [(0, &ContainerState::Running { pid: 7 })]);
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Running);
}

#[test]
fn stray_gets_its_stop_signal_its_grace_and_then_a_kill() {
    let mut model = running(&["a"]);
    model.obedient = false;
    let deadline = Moment(model.now).after(STRAY_GRACE);
    let mut steps = Vec::new();
    for _ in 0..3 {
        let container = model.pods[0].containers[0].clone();
        let plan = model.plan_of_strays(&[Stray { container, deadline }]);
        steps.extend(plan.steps.iter().map(|step| format!("{step:?}")));
        for step in plan.steps {
            model.in_flight.insert(step.key(), step);
            model.end(0, Outcome::Done);
        }
        model.now = plan.wake_at.map_or(model.now, |at| at.0);
    }
    let words: Vec<_> = steps.iter().map(|it| ["Stop", "Kill", "Delete"].map(|word| it.contains(word))).collect();
    assert_eq!(words[..2], [[true, false, false], [false, true, false]], "{steps:?}");
    assert!(words[2][2], "{steps:?}");
    assert!(model.now >= deadline.0);
    assert!(model.pods[0].containers.is_empty());
}
