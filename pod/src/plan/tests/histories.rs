//! Whatever happens in whatever order: what must hold holds throughout, and afterwards everything is as wanted.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{Model, Outcome, revision};
use crate::desired::{DesiredPod, UpdateStrategy, Wanted};
use crate::observed::ContainerState;
use crate::record::Lifecycle;
use crate::sample;
use crate::spec::{Container, Handler, RestartPolicy, Role, STANDBY_ANNOTATION};

#[derive(Debug, Clone)]
enum Event {
    Plan,
    End(usize, Outcome),
    Want(u8, u8),
    OnDelete(u8),
    Hold,
    Forbid,
    Gone,
    Exit(usize, u32),
    LoseCreated,
    ForgetEnds,
    BreakSandboxes,
    RestartAgent(bool),
    Reboot,
    Delete,
    Time(u64),
    Obedient(bool),
    FillDisk(bool),
    Condemn(usize),
    HooksWork(bool),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        8 => Just(Outcome::Done),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Half),
        1 => Just(Outcome::Unheard),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => Just(Event::Plan),
        40 => (0_usize..8, outcome()).prop_map(|(n, o)| Event::End(n, o)),
        5 => (0_u8..3, 0_u8..3).prop_map(|(n, size)| Event::Want(n, size)),
        1 => (0_u8..3).prop_map(Event::OnDelete),
        1 => Just(Event::Hold),
        1 => Just(Event::Forbid),
        1 => Just(Event::Gone),
        6 => (0_usize..4, 0_u32..2).prop_map(|(n, code)| Event::Exit(n, code)),
        1 => Just(Event::LoseCreated),
        1 => Just(Event::ForgetEnds),
        1 => Just(Event::BreakSandboxes),
        1 => any::<bool>().prop_map(Event::RestartAgent),
        1 => Just(Event::Reboot),
        1 => Just(Event::Delete),
        4 => (1_u64..400_000).prop_map(Event::Time),
        1 => any::<bool>().prop_map(Event::Obedient),
        2 => any::<bool>().prop_map(Event::FillDisk),
        2 => (0_usize..4).prop_map(Event::Condemn),
        1 => any::<bool>().prop_map(Event::HooksWork),
    ]
}

/// What varies between workloads.
#[derive(Debug, Clone)]
struct Shape {
    containers: usize,
    standby: bool,
    host_network: bool,
    inits: usize,
    sidecars: usize,
    hooks: bool,
    /// A Pod document's, which is resized where only amounts change.
    document: bool,
    resize_restarts: bool,
}

impl Shape {
    /// How many containers run in a pod that is as wanted.
    fn running(&self) -> usize {
        self.containers + self.sidecars
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let bools = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1_usize..3, bools, 0_usize..3, 0_usize..3).prop_map(
        |(containers, (standby, host_network, hooks, document, resize_restarts), inits, sidecars)| Shape {
            containers,
            standby,
            host_network,
            inits,
            sidecars,
            hooks,
            document,
            resize_restarts,
        },
    )
}

fn wanted(n: u8, size: u8, shape: &Shape, update: UpdateStrategy) -> DesiredPod {
    let mut pod = revision(n, &["a", "b"][..shape.containers]);
    let spec = &mut Arc::make_mut(&mut pod.template).spec;
    spec.host_network = shape.host_network;
    // Sidecars stand among the init containers.
    let before = (0..shape.inits.max(shape.sidecars)).flat_map(|n| {
        let init = (n < shape.inits).then(|| Container { role: Role::Init, ..sample::container(&format!("i{n}")) });
        let sidecar =
            (n < shape.sidecars).then(|| Container { role: Role::Sidecar, ..sample::container(&format!("s{n}")) });
        init.into_iter().chain(sidecar)
    });
    spec.containers.splice(0..0, before.collect::<Vec<_>>());
    for container in spec.containers.iter_mut().filter(|container| container.role != Role::Init) {
        container.resources.memory_limit = Some(1 + u64::from(size));
        container.resize_policy.memory_restarts = shape.resize_restarts;
    }
    if shape.hooks {
        for container in spec.containers.iter_mut().filter(|container| container.role != Role::Init) {
            container.hooks.post_start = Some(Handler::Sleep(Duration::from_secs(1)));
            container.hooks.pre_stop = Some(Handler::Sleep(Duration::from_secs(1)));
        }
    }
    if shape.standby {
        Arc::make_mut(&mut pod.template).annotations.insert(STANDBY_ANNOTATION.into(), "true".into());
    }
    pod.update = update;
    if shape.document {
        pod.workload = sample::static_pod("d");
    }
    pod.revision = crate::digest::of_template(pod.workload.kind, &pod.template);
    pod
}

fn apply(model: &mut Model, shape: &Shape, event: Event) {
    match event {
        Event::Plan => {
            model.begin();
        }
        Event::End(n, outcome) => model.end(n, outcome),
        Event::Want(n, size) => model.want(wanted(n, size, shape, UpdateStrategy::RollingUpdate)),
        Event::OnDelete(n) => model.want(wanted(n, 0, shape, UpdateStrategy::OnDelete)),
        Event::Hold => model.wanted = Wanted::Hold { reason: "a bad edit".into() },
        Event::Forbid => model.wanted = Wanted::Forbidden { reason: "a rule".into() },
        Event::Gone => model.wanted = Wanted::Gone,
        Event::Exit(n, code) => model.exit(n, code),
        Event::LoseCreated => model.lose_created(),
        Event::ForgetEnds => model.forget_ends(),
        Event::BreakSandboxes => model.break_sandboxes(),
        Event::RestartAgent(takes_effect) => model.restart_agent(takes_effect),
        Event::Reboot => model.reboot(),
        Event::Delete => model.delete_newest(),
        Event::Time(ms) => model.pass_time(ms),
        Event::Obedient(obedient) => model.obedient = obedient,
        Event::FillDisk(full) => model.fill_disk(full),
        Event::Condemn(n) => model.condemn(n),
        Event::HooksWork(work) => model.hooks_work = work,
    }
}

/// Every ended run was counted once, and none that cannot have run.
fn check_restart_counts(model: &Model) {
    for pod in &model.pods {
        for container in &pod.template.spec.containers {
            let of = |sure: bool| {
                let ended = model.ended.iter().filter(|(_, s)| **s == sure);
                ended.filter(|(run, _)| run.uid == pod.record.uid && run.container == container.name).count()
            };
            let (sure, perhaps) = (of(true), of(false));
            let counted = pod.record.containers.get(&container.name).map_or(0, |m| m.next_attempt()) as usize;
            assert!((sure..=sure + perhaps).contains(&counted), "{counted} of {sure} and perhaps {perhaps} more");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_as_wanted(shape in shape(), events in prop::collection::vec(event(), 0..120)) {
        let mut model = Model::new(wanted(0, 0, &shape, UpdateStrategy::RollingUpdate));
        for event in events {
            apply(&mut model, &shape, event);
        }
        model.fill_disk(false);
        model.hooks_work = true;
        model.settle();
        let last = model.plan();
        prop_assert!(last.steps.is_empty(), "a converged pod gets no step: {last:?}");
        check_restart_counts(&model);
        model.check_sizes();
        let live = || model.pods.iter().filter(|p| p.record.lifecycle == Lifecycle::Running);
        match &model.wanted {
            Wanted::End { .. } | Wanted::Gone => prop_assert!(model.pods.is_empty(), "traces are left"),
            Wanted::Hold { .. } => {
                prop_assert!(live().count() == 0 || model.all_running().len() == shape.running());
            }
            // What never ran does not start.
            Wanted::Forbidden { .. } => {
                prop_assert!([0, shape.running()].contains(&model.all_running().len()));
            }
            Wanted::Run(wanted) => {
                prop_assert_eq!(model.all_running().len(), shape.running());
                if wanted.update == UpdateStrategy::RollingUpdate {
                    prop_assert_eq!(model.pods.len(), 1);
                    prop_assert_eq!(&model.pods[0].record.revision, &wanted.revision);
                    let created = model.pods[0].containers.iter().filter(|c| c.state == ContainerState::Created);
                    prop_assert_eq!(created.count(), if shape.standby { shape.running() } else { 0 });
                }
            }
        }
    }

    #[test]
    fn a_pod_that_may_finish_does_so_once(
        policy in prop_oneof![Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
        exits in prop::collection::vec((0_usize..4, 0_u32..2), 0..12),
    ) {
        let mut first = revision(0, &["a", "b"]);
        Arc::make_mut(&mut first.template).spec.restart_policy = policy;
        first.revision = crate::digest::of_template(first.workload.kind, &first.template);
        let mut model = Model::new(first);
        model.settle();
        for (nth, code) in exits {
            model.exit(nth, code);
            model.settle();
            check_restart_counts(&model);
            prop_assert_eq!(model.admitted, 1);
        }
        for _ in 0..2 {
            model.exit(0, 0);
            model.settle();
        }
        prop_assert_eq!(&model.pods[0].record.lifecycle, &Lifecycle::Finished);
        prop_assert!(model.pods[0].containers.is_empty());
        model.wanted = Wanted::Gone;
        model.settle();
        prop_assert!(model.pods.is_empty());
    }
}
