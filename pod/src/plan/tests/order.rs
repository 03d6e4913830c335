//! Init containers, sidecars, hooks and verdicts: whose turn it is, and what ends a run.

use std::sync::Arc;
use std::time::Duration;

use super::model::{Model, Outcome, revision};
use crate::desired::{DesiredPod, Wanted};
use crate::lifecycle::LAST_MOMENT;
use crate::name::RunKey;
use crate::observed::{ContainerState, Health, ProbeFailure, ProbeKind};
use crate::plan::{Change, FAILED_HOOK, Hook, Plan, RunStep, Signal, Step, StepKey, order};
use crate::record::Lifecycle;
use crate::sample;
use crate::spec::{Container, Handler, Probe, RUN_ONCE_ANNOTATION, RestartPolicy, Role};

/// A pod with these containers: `i…` init containers, `s…` sidecars, the others main ones.
fn pod(containers: &[&str], change: impl FnOnce(&mut crate::spec::PodTemplate)) -> DesiredPod {
    let mut wanted = revision(0, containers);
    let template = Arc::make_mut(&mut wanted.template);
    for container in &mut template.spec.containers {
        container.role = match &container.name[..1] {
            "i" => Role::Init,
            "s" => Role::Sidecar,
            _ => Role::Main,
        };
    }
    change(template);
    sample::desired(&wanted.workload, template.clone())
}

fn model(containers: &[&str]) -> Model {
    Model::new(pod(containers, |_| {}))
}

fn of<'t>(template: &'t mut crate::spec::PodTemplate, name: &str) -> &'t mut Container {
    template.spec.containers.iter_mut().find(|container| container.name == name).unwrap()
}

fn probe() -> Probe {
    let second = Duration::from_secs(1);
    Probe {
        handler: Handler::Exec(vec!["true".into()]),
        initial_delay: Duration::ZERO,
        period: second,
        timeout: second,
        success_threshold: 1,
        failure_threshold: 1,
        grace: None,
    }
}

/// Carries out what is planned until nothing is left to do at this moment; no init container ends by itself.
fn rest(model: &mut Model) -> Plan {
    for _ in 0..100 {
        let plan = model.begin();
        if model.in_flight.is_empty() {
            return plan;
        }
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
    }
    panic!("it does not come to rest");
}

/// Names of what runs, sorted.
fn running(model: &Model) -> Vec<String> {
    let mut names: Vec<String> = model.all_running().into_iter().map(|run| run.container).collect();
    names.sort();
    names
}

fn end(model: &mut Model, name: &str, exit_code: u32) {
    let nth = model.all_running().iter().position(|run| run.container == name).expect("it runs");
    model.exit(nth, exit_code);
}

fn say(model: &mut Model, name: &str, health: Health) {
    let run = model.all_running().into_iter().find(|run| run.container == name).expect("it runs");
    model.health.insert(run, health);
}

fn told(plan: &Plan) -> Vec<(&str, Signal)> {
    let signal = |step| match step {
        &Step::Signal { ref container, signal, .. } => Some((container.as_str(), signal)),
        _ => None,
    };
    plan.steps.iter().filter_map(signal).collect()
}

fn waits_for(plan: &Plan, container: &str) -> (String, String) {
    let wait = plan.waiting_for.iter().find(|wait| wait.container.as_deref() == Some(container)).expect("it waits");
    (wait.reason.clone(), wait.message.clone())
}

#[test]
fn init_containers_run_one_after_the_other_and_the_main_ones_when_all_are_through() {
    let mut model = model(&["i1", "i2", "a"]);
    let plan = rest(&mut model);
    assert_eq!(running(&model), ["i1"]);
    assert_eq!(waits_for(&plan, "a").0, "PodInitializing");
    assert_eq!(waits_for(&plan, "i2").1, "waits until the init container i1 has run to its end");
    // All stand created: a start takes a fifth of a creation.
    assert_eq!(model.pods[0].containers.len(), 3);
    end(&mut model, "i1", 0);
    rest(&mut model);
    assert_eq!(running(&model), ["i2"]);
    end(&mut model, "i2", 0);
    rest(&mut model);
    assert_eq!(running(&model), ["a"]);
    assert_eq!(model.pods[0].containers.len(), 1, "what has run to its end goes when another stands");
}

#[test]
fn init_container_that_fails_runs_again_after_its_back_off() {
    let mut model = model(&["i1", "a"]);
    rest(&mut model);
    for _ in 0..2 {
        end(&mut model, "i1", 1);
        rest(&mut model);
    }
    let plan = rest(&mut model);
    assert_eq!(running(&model), Vec::<String>::new());
    assert_eq!(waits_for(&plan, "i1").0, "CrashLoopBackOff");
    model.now = plan.wake_at.unwrap().0;
    rest(&mut model);
    assert_eq!(running(&model), ["i1"]);
}

#[test]
fn pod_that_restarts_nothing_has_failed_with_its_init_container_and_its_sidecars_stop() {
    let wanted = pod(&["s1", "i1", "a"], |template| template.spec.restart_policy = RestartPolicy::Never);
    let mut model = Model::new(wanted);
    rest(&mut model);
    assert_eq!(running(&model), ["i1", "s1"]);
    end(&mut model, "i1", 3);
    model.settle();
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Finished);
    assert!(model.pods[0].record.containers.get("a").is_none_or(|memory| memory.started_attempt.is_none()));
}

#[test]
fn init_container_that_is_through_is_not_run_again_by_a_restart_of_agent_or_container() {
    let mut model = model(&["i1", "a"]);
    model.settle();
    model.restart_agent(false);
    end(&mut model, "a", 1);
    model.settle();
    assert_eq!(running(&model), ["a"]);
    assert_eq!(model.pods[0].record.containers["i1"].next_attempt(), 1);
}

#[test]
fn init_containers_run_again_in_new_surroundings_and_in_a_new_boot() {
    for reboots in [false, true] {
        let mut model = model(&["i1", "a"]);
        model.settle();
        if reboots {
            model.reboot();
        } else {
            model.break_sandboxes();
        }
        rest(&mut model);
        assert_eq!(running(&model), ["i1"], "reboots: {reboots}");
        model.settle();
        assert_eq!(running(&model), ["a"]);
        assert_eq!(model.pods[0].record.containers["i1"].next_attempt(), 2);
    }
}

#[test]
fn what_shares_a_volume_with_an_init_container_is_created_after_it() {
    let mount = || sample::mount("v", "/v");
    let wanted = pod(&["i1", "a", "b"], |template| {
        of(template, "i1").mounts.push(mount());
        of(template, "a").mounts.push(mount());
    });
    let mut model = Model::new(wanted);
    rest(&mut model);
    let created = |model: &Model, name: &str| model.pods[0].containers.iter().any(|c| c.run.container == name);
    assert!(!created(&model, "a") && created(&model, "b"));
    end(&mut model, "i1", 0);
    rest(&mut model);
    assert_eq!(running(&model), ["a", "b"]);
}

#[test]
fn sidecar_lets_the_next_one_start_when_its_startup_probe_is_content() {
    let wanted = pod(&["s1", "i1", "a"], |template| of(template, "s1").probes.startup = Some(probe()));
    let mut model = Model::new(wanted);
    let plan = rest(&mut model);
    assert_eq!(running(&model), ["s1"]);
    assert_eq!(waits_for(&plan, "i1").1, "waits until the sidecar s1 has started");
    say(&mut model, "s1", Health { started: true, ready: true, failed: None });
    rest(&mut model);
    assert_eq!(running(&model), ["i1", "s1"]);
    // Known from the record: the probes of a new agent have said nothing yet.
    model.restart_agent(false);
    model.settle();
    assert_eq!(running(&model), ["a", "s1"]);
    end(&mut model, "s1", 0);
    model.settle();
    assert_eq!(running(&model), ["a", "s1"], "a sidecar is always started again");
}

#[test]
fn sidecars_stop_after_the_main_containers_the_last_one_first() {
    let mut model = model(&["s1", "s2", "a"]);
    model.settle();
    model.obedient = false;
    model.wanted = Wanted::Gone;
    let mut order = Vec::new();
    for _ in 0..3 {
        let plan = rest(&mut model);
        assert!(plan.steps.is_empty());
        let told: Vec<RunKey> = model
            .all_running()
            .into_iter()
            .filter(|run| {
                let signal = Signal::Stop;
                let (uid, container) = (run.uid.clone(), run.container.clone());
                let step = Step::Signal { uid, container, attempt: run.attempt, signal };
                model.delivered.contains_key(&step.key())
            })
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        order.push(told[0].container.clone());
        end(&mut model, &told[0].container.clone(), 0);
    }
    assert_eq!(order, ["a", "s2", "s1"]);
    model.settle();
    assert!(model.pods.is_empty());
}

#[test]
fn sidecar_has_a_moment_when_the_others_have_used_up_the_grace_period() {
    let mut model = model(&["s1", "a"]);
    model.settle();
    model.obedient = false;
    model.wanted = Wanted::Gone;
    rest(&mut model);
    model.pass_time(30_000);
    let plan = model.begin();
    assert_eq!(told(&plan), [("a", Signal::Kill)]);
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    rest(&mut model);
    assert_eq!(running(&model), ["s1"]);
    let plan = rest(&mut model);
    assert_eq!(plan.wake_at.map(|at| at.0 - model.now), Some(LAST_MOMENT.as_millis() as u64));
    model.settle();
    assert!(model.pods.is_empty());
}

#[test]
fn sidecar_that_is_condemned_is_told_at_once_and_starts_again_beside_the_main_containers() {
    let wanted = pod(&["s1", "a"], |template| of(template, "s1").probes.liveness = Some(probe()));
    let mut model = Model::new(wanted);
    model.settle();
    let begun = model.now;
    let failed = Some(ProbeFailure { probe: ProbeKind::Liveness, message: "no".into() });
    say(&mut model, "s1", Health { started: true, ready: true, failed });
    rest(&mut model);
    assert_eq!((running(&model), model.now), (vec!["a".to_owned(), "s1".to_owned()], begun));
    assert_eq!(model.pods[0].record.containers["s1"].next_attempt(), 1);
}

#[test]
fn main_container_of_an_initialized_pod_waits_for_no_sidecar() {
    let wanted = pod(&["i1", "s1", "a"], |template| of(template, "s1").probes.startup = Some(probe()));
    let mut model = Model::new(wanted);
    model.settle();
    say(&mut model, "s1", Health { started: true, ready: true, failed: None });
    model.settle();
    for _ in 0..3 {
        end(&mut model, "a", 1);
        rest(&mut model);
        if running(&model).contains(&"s1".to_owned()) {
            end(&mut model, "s1", 1);
        }
        let plan = rest(&mut model);
        model.now = plan.wake_at.map_or(model.now, |at| at.0);
        rest(&mut model);
    }
    model.settle();
    assert!(running(&model).contains(&"a".to_owned()), "{:?}", running(&model));
}

#[test]
fn sidecars_of_a_pod_whose_main_containers_are_done_stop_and_the_pod_has_finished() {
    let wanted = pod(&["s1", "a"], |template| template.spec.restart_policy = RestartPolicy::OnFailure);
    let mut model = Model::new(wanted);
    model.settle();
    end(&mut model, "a", 0);
    model.settle();
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Finished);
    assert_eq!(model.pods[0].record.containers["s1"].next_attempt(), 1);
}

#[test]
fn what_runs_once_is_done_when_it_has_exited_0_and_stays_so() {
    let wanted = pod(&["a"], |template| {
        template.annotations.insert(RUN_ONCE_ANNOTATION.into(), "true".into());
    });
    let mut model = Model::new(wanted);
    model.settle();
    end(&mut model, "a", 1);
    model.settle();
    assert_eq!(running(&model), ["a"], "it is run until it succeeds");
    end(&mut model, "a", 0);
    model.settle();
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Finished);
    model.reboot();
    model.settle();
    assert_eq!((running(&model).len(), model.admitted), (0, 1));
}

#[test]
fn run_that_its_liveness_probe_condemns_ends_within_the_probes_grace_and_starts_again() {
    let wanted = pod(&["a"], |template| {
        let grace = Some(Duration::from_secs(5));
        of(template, "a").probes.liveness = Some(Probe { grace, ..probe() });
    });
    let mut model = Model::new(wanted);
    model.settle();
    model.obedient = false;
    let failed = Some(ProbeFailure { probe: ProbeKind::Liveness, message: "no".into() });
    say(&mut model, "a", Health { started: true, ready: true, failed });
    rest(&mut model);
    // On record: an agent that restarts now goes on with it, whatever its probes find.
    model.restart_agent(false);
    let begun = model.now;
    let plan = rest(&mut model);
    assert_eq!(plan.wake_at.map(|at| at.0 - begun), Some(5_000));
    model.settle();
    assert_eq!(running(&model), ["a"]);
    let memory = &model.pods[0].record.containers["a"];
    assert_eq!((memory.next_attempt(), &memory.stopping, &memory.verdict), (1, &None, &None));
}

#[test]
fn verdicts_are_remembered_and_survive_the_agent() {
    let wanted = pod(&["a"], |template| of(template, "a").probes.readiness = Some(probe()));
    let mut model = Model::new(wanted);
    model.settle();
    let is_ready = |model: &Model| {
        let pod = &model.pods[0];
        order::is_ready(pod, &pod.template.spec.containers[0])
    };
    assert!(!is_ready(&model), "nothing is ready before its probe has said so");
    say(&mut model, "a", Health { started: true, ready: true, failed: None });
    rest(&mut model);
    model.restart_agent(false);
    assert!(is_ready(&model));
    end(&mut model, "a", 1);
    model.settle();
    assert!(!is_ready(&model), "another run has to prove itself");
}

#[test]
fn container_has_begun_and_the_next_one_starts_when_its_post_start_hook_is_over() {
    let wanted = pod(&["a", "b"], |template| {
        of(template, "a").hooks.post_start = Some(Handler::Exec(vec!["true".into()]));
    });
    let mut model = Model::new(wanted);
    let hooked = |step: &Step| matches!(step, Step::Hook { hook: Hook::PostStart, .. });
    let plan = loop {
        let plan = model.begin();
        if plan.steps.iter().any(hooked) {
            break plan;
        }
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
    };
    assert!(plan.steps.iter().all(|step| !matches!(step, Step::Start { .. })), "{plan:?}");
    assert_eq!(running(&model), ["a"]);
    assert!(!order::has_begun(&model.pods[0], &model.pods[0].template.spec.containers[0]));
    while !model.in_flight.is_empty() {
        model.end(0, Outcome::Done);
    }
    rest(&mut model);
    assert_eq!(running(&model), ["a", "b"]);
    model.restart_agent(false);
    assert!(!model.begin().steps.iter().any(hooked), "it is on record that the hook is over");
}

#[test]
fn container_whose_post_start_hook_fails_is_ended_and_starts_again() {
    let wanted = pod(&["a"], |template| {
        of(template, "a").hooks.post_start = Some(Handler::Exec(vec!["false".into()]));
    });
    let mut model = Model::new(wanted);
    model.hooks_work = false;
    let stops = |step: &Step| matches!(step, Step::Remember { change: Change::Stopping { stopping, .. }, .. } if stopping.message == FAILED_HOOK);
    let mut seen = false;
    for _ in 0..60 {
        seen |= model.begin().steps.iter().any(stops);
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
    }
    assert!(seen);
    let memory = &model.pods[0].record.containers["a"];
    assert!(memory.next_attempt() >= 1 && memory.failures >= 1);
}

#[test]
fn pre_stop_hook_runs_before_the_signal_and_is_given_up_at_the_deadline() {
    let hook = || pod(&["a"], |template| of(template, "a").hooks.pre_stop = Some(Handler::Exec(vec!["x".into()])));
    let hooked = |step: &Step| matches!(step, Step::Hook { hook: Hook::PreStop, .. });
    for hangs in [false, true] {
        let mut model = Model::new(hook());
        model.settle();
        model.obedient = false;
        model.wanted = Wanted::Gone;
        model.begin();
        model.end(0, Outcome::Done);
        let plan = model.begin();
        assert!(plan.steps.iter().any(hooked) && told(&plan).is_empty(), "{plan:?}");
        if hangs {
            model.pass_time(30_000);
        } else {
            model.pass_time(29_500);
            model.end(0, Outcome::Done);
        }
        let plan = model.begin();
        assert_eq!(told(&plan), [("a", Signal::Stop)], "hangs: {hangs}");
        let delivered = model.now;
        let is_stop = |key: &StepKey| matches!(key, StepKey::Run(_, _, _, RunStep::SignalStop));
        let stop = model.in_flight.keys().position(is_stop);
        model.end(stop.unwrap(), Outcome::Done);
        let plan = model.plan();
        assert_eq!(plan.wake_at.map(|at| at.0 - delivered), Some(LAST_MOMENT.as_millis() as u64), "hangs: {hangs}");
        assert_eq!(model.pods[0].containers[0].state, ContainerState::Running { pid: 7 });
    }
}
