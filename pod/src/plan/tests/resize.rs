use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Model, Outcome, revision};
use crate::desired::DesiredPod;
use crate::digest;
use crate::observed::{ContainerState, ObservedContainer};
use crate::plan::{RunStep, Step, StepKey};
use crate::sample;
use crate::spec::{PodTemplate, RestartPolicy};

/// A Pod document with two containers, of which `a` has a limit of that many bytes.
fn of_size(limit: u64, other: impl Fn(&mut PodTemplate)) -> DesiredPod {
    let mut pod = revision(0, &["a", "b"]);
    pod.workload = sample::static_pod("d");
    let template = Arc::make_mut(&mut pod.template);
    template.spec.containers[0].resources.memory_limit = Some(limit);
    template.spec.containers[0].resources.memory_request = Some(1);
    other(template);
    pod.revision = digest::of_template(pod.workload.kind, &pod.template);
    pod
}

fn plain(_: &mut PodTemplate) {}

fn restarting(template: &mut PodTemplate) {
    template.spec.containers[0].resize_policy.memory_restarts = true;
}

/// A pod of 10 bytes that runs, and then is wanted as `to`.
fn resized(from: impl Fn(&mut PodTemplate), to: DesiredPod) -> Model {
    let mut model = Model::new(of_size(10, from));
    model.settle();
    model.want(to);
    model
}

/// uid and attempts of what runs.
fn runs(model: &Model) -> Vec<(String, u32)> {
    let runs = model.all_running().into_iter().map(|run| (format!("{}/{}", run.uid, run.container), run.attempt));
    runs.collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn unchanged() -> Vec<(String, u32)> {
    vec![("uid-1/a".into(), 0), ("uid-1/b".into(), 0)]
}

#[test]
fn other_amounts_resize_the_pod_that_runs() {
    let mut model = resized(plain, of_size(20, plain));
    model.settle();
    model.check_sizes();
    assert_eq!((runs(&model), model.admitted), (unchanged(), 1));
    let record = &model.pods[0].record;
    assert_eq!((&record.revision, record.course.resizes), (&of_size(20, plain).revision, 1));
    assert!(model.plan().steps.is_empty());
}

#[test]
fn resize_is_on_record_before_it_is_done_and_is_done_by_the_next_life_of_the_agent() {
    let mut model = resized(plain, of_size(20, plain));
    let first = model.begin();
    assert!(matches!(first.steps[..], [Step::Remember { .. }]), "{first:?}");
    model.end(0, Outcome::Done);
    assert!(model.pods[0].record.course.resize.is_some());
    model.restart_agent(false);
    let next = model.begin();
    assert!(next.steps.iter().any(|step| matches!(step, Step::Resize { .. })), "{next:?}");
    // It is done, and nobody hears of it.
    model.restart_agent(true);
    model.settle();
    model.check_sizes();
    assert_eq!(runs(&model), unchanged());
}

#[test]
fn policy_ends_the_run_of_its_container_and_no_other() {
    let mut model = resized(restarting, of_size(20, restarting));
    model.settle();
    model.check_sizes();
    assert_eq!(runs(&model), [("uid-1/a".to_owned(), 1), ("uid-1/b".to_owned(), 0)]);
    assert_eq!(model.admitted, 1);
    let memory = &model.pods[0].record.containers["a"];
    assert_eq!((memory.failures, memory.not_before), (0, None), "it was asked for and is no crash");
}

#[test]
fn successor_that_stands_created_in_its_back_off_is_made_anew_for_a_policy_of_restarts() {
    let mut model = Model::new(of_size(10, restarting));
    model.settle();
    for _ in 0..2 {
        let nth = model.all_running().iter().position(|run| run.container == "a").expect("it runs");
        model.exit(nth, 1);
        model.settle_for(1);
    }
    let stands = |model: &Model| {
        let created = |run: &&ObservedContainer| run.state == ContainerState::Created;
        model.pods[0].containers.iter().filter(created).map(|run| run.run.attempt).collect::<Vec<_>>()
    };
    assert_eq!(stands(&model), [2]);
    model.want(of_size(20, restarting));
    let plan = model.begin();
    assert!(matches!(plan.steps[..], [Step::Delete { attempt: 2, .. }]), "{plan:?}");
    model.end(0, Outcome::Done);
    let plan = model.begin();
    assert!(matches!(plan.steps[..], [Step::Remember { .. }]), "nothing is created with the old amounts: {plan:?}");
    model.end(0, Outcome::Done);
    model.settle_for(1);
    assert_eq!(stands(&model), [2], "still in its back-off");
    model.settle();
    model.check_sizes();
    assert_eq!((runs(&model), model.admitted), (vec![("uid-1/a".into(), 2), ("uid-1/b".into(), 0)], 1));
}

#[test]
fn what_is_created_meanwhile_is_resized_when_it_is_there() {
    let mut model = Model::new(of_size(10, plain));
    let creates = |key: &StepKey| matches!(key, StepKey::Run(_, _, _, RunStep::Create));
    while !model.in_flight.keys().any(creates) {
        model.begin();
        if !model.in_flight.keys().any(creates) {
            model.end(0, Outcome::Done);
        }
    }
    model.want(of_size(20, plain));
    let plan = model.begin();
    let nth =
        model.in_flight.values().position(|step| matches!(step, Step::Remember { .. })).expect("it is remembered");
    assert!(!plan.steps.is_empty());
    model.end(nth, Outcome::Done);
    let plan = model.begin();
    assert!(
        !plan.steps.iter().any(|step| matches!(step, Step::Resize { .. })),
        "the old creation comes first: {plan:?}"
    );
    model.settle();
    model.check_sizes();
    assert_eq!(model.admitted, 1);
}

#[test]
fn second_resize_adds_to_one_that_is_not_over() {
    let mut model = resized(plain, of_size(20, plain));
    model.begin();
    model.end(0, Outcome::Done);
    model.begin();
    model.want(of_size(30, plain));
    // The first is done when the second is on record already: that is not the second.
    while model.pods[0].record.course.resizes < 2 {
        model.begin();
        let nth = model.in_flight.values().position(|step| matches!(step, Step::Remember { .. })).expect("one of them");
        model.end(nth, Outcome::Done);
    }
    model.settle();
    model.check_sizes();
    assert_eq!((runs(&model), model.pods[0].record.course.resizes), (unchanged(), 2));
}

#[test]
fn amounts_that_come_back_are_brought_to_the_cgroups_again() {
    let mut model = resized(plain, of_size(20, plain));
    model.settle();
    let done = model.pods[0].record.course.resizes;
    // Another size gets half-way, and the former one is wanted again.
    model.want(of_size(30, plain));
    model.begin();
    model.end(0, Outcome::Done);
    model.begin();
    model.want(of_size(20, plain));
    model.settle();
    model.check_sizes();
    assert_eq!(model.pods[0].record.course.resizes, done + 2);
    // What was carried out once says nothing of a later time.
    model.resized.insert(model.pods[0].record.uid.clone(), done);
    model.want(of_size(30, plain));
    model.settle();
    model.check_sizes();
}

#[test]
fn value_of_a_class_makes_no_new_pod_and_no_resize() {
    let document = |class: Option<&str>| serde_json::json!({"spec": {"priorityClassName": class}}).into();
    let of_class = |size, class: Option<&str>, value: i32, written: Option<&str>| {
        let mut pod = of_size(size, plain);
        let spec = &mut Arc::make_mut(&mut pod.template).spec;
        (spec.priority, spec.priority_class) = (value, class.map(str::to_owned));
        pod.document = document(written);
        pod
    };
    for (class, written) in [("high", Some("high")), ("default", None)] {
        let mut model = Model::new(of_class(20, Some(class), 7, written));
        model.settle();
        let uid = model.pods[0].record.uid.clone();
        // Another value, and amounts that change while the class of those without one came or went.
        for next in [of_class(20, Some(class), 8, written), of_class(30, written, 0, written)] {
            model.want(next);
            model.settle();
            model.check_sizes();
            assert_eq!((model.pods.len(), &model.pods[0].record.uid), (1, &uid));
        }
        assert_eq!(model.pods[0].record.course.resizes, 1, "to 30, and not for the value");
    }
}

#[test]
fn whatever_else_changes_makes_a_new_pod() {
    let no_limit = |template: &mut PodTemplate| template.spec.containers[0].resources.memory_limit = None;
    let other_class = |template: &mut PodTemplate| {
        for container in &mut template.spec.containers {
            let all = &mut container.resources;
            (all.memory_limit, all.memory_request) = (Some(5), Some(5));
            (all.cpu_limit_milli, all.cpu_request_milli) = (Some(5), Some(5));
        }
    };
    let image = |template: &mut PodTemplate| template.spec.containers[1].image = "other".into();
    let storage = |template: &mut PodTemplate| {
        template.spec.containers[0].resources.limits.insert("ephemeral-storage".into(), "1Gi".into());
    };
    let finite = |template: &mut PodTemplate| {
        restarting(template);
        template.spec.restart_policy = RestartPolicy::OnFailure;
    };
    let of_daemonset = || {
        let mut pod = of_size(20, plain);
        pod.workload = sample::daemonset("d");
        pod
    };
    for (what, before, after) in [
        ("a limit that goes", of_size(10, plain), of_size(20, no_limit)),
        ("another QoS class", of_size(10, plain), of_size(20, other_class)),
        ("an image too", of_size(10, plain), of_size(20, image)),
        ("another resource", of_size(10, plain), of_size(20, storage)),
        ("a restart of what may end well", of_size(10, finite), of_size(20, finite)),
        ("a DaemonSet", DesiredPod { workload: of_daemonset().workload, ..of_size(10, plain) }, of_daemonset()),
    ] {
        let mut model = Model::new(before);
        model.settle();
        model.want(after);
        model.settle();
        assert_eq!(model.admitted, 2, "{what}");
        model.check_sizes();
    }
}
