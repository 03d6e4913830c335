//! Several workloads of one node that are after each other: whatever happens in whatever order, none starts before those that
//! it is after are ready, and none ends before those that are after it and end too.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{Model, Outcome};
use crate::desired::{DesiredPod, Wanted};
use crate::name::{Uid, WorkloadKey};
use crate::observed::{ContainerState, Health, SandboxState};
use crate::plan::{Change, Plan, RunStep, Step, StepKey, order};
use crate::record::Lifecycle;
use crate::sample;
use crate::spec::{AFTER_ANNOTATION, Handler, Probe, RUN_ONCE_ANNOTATION};
use crate::time::Moment;
use crate::turns::{Halt, NODE_DRAINED, Shutdown, Standing, Turn, WAITS_FOR_OTHERS, decide};

struct Node {
    models: BTreeMap<WorkloadKey, Model>,
    halt: Option<Halt>,
    /// The DaemonSet of which all of them are pod objects.
    owner: Option<String>,
    /// Whether nobody is after himself.
    in_order: bool,
    /// What is to run once has done its work whenever the node comes to rest.
    finishes: bool,
}

/// What the workload `name` asks for.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    after: &'static str,
    probed: bool,
    once: bool,
    priority: i32,
}

const fn shape(name: &'static str, after: &'static str) -> Shape {
    Shape { name, after, probed: false, once: false, priority: 0 }
}

fn wanted(shape: Shape, version: u8) -> DesiredPod {
    let mut template = sample::template(&["main"]);
    template.labels.insert("version".into(), version.to_string());
    if !shape.after.is_empty() {
        template.annotations.insert(AFTER_ANNOTATION.into(), shape.after.into());
    }
    if shape.once {
        template.annotations.insert(RUN_ONCE_ANNOTATION.into(), "true".into());
    }
    template.spec.containers[0].probes.readiness = shape.probed.then(|| Probe {
        handler: Handler::Exec(vec!["ask".into()]),
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 1,
        grace: None,
    });
    template.spec.priority = shape.priority;
    sample::desired(&sample::daemonset(shape.name), template)
}

impl Node {
    fn new(shapes: &[Shape]) -> Node {
        let model = |shape: &Shape| (sample::daemonset(shape.name), Model::new(wanted(*shape, 0)));
        Node { models: shapes.iter().map(model).collect(), halt: None, owner: None, in_order: true, finishes: false }
    }

    fn model(&mut self, name: &str) -> &mut Model {
        self.models.get_mut(&sample::daemonset(name)).unwrap()
    }

    fn turns(&self) -> BTreeMap<WorkloadKey, Turn> {
        let owned = |model: &Model| Standing { owner: self.owner.clone(), ..model.standing() };
        decide(&self.models.iter().map(|(key, model)| (key.clone(), owned(model))).collect(), self.halt.as_ref())
    }

    /// One plan of one workload, checked against how the others stand.
    fn begin(&mut self, key: &WorkloadKey) -> Plan {
        let turn = self.turns().remove(key).unwrap_or_default();
        self.models.get_mut(key).unwrap().turn = turn;
        let before: Vec<Step> = self.models[key].in_flight.values().cloned().collect();
        let plan = self.models.get_mut(key).unwrap().begin();
        for step in plan.steps.iter().filter(|step| !before.contains(step)) {
            self.check(key, step);
        }
        plan
    }

    fn check(&self, key: &WorkloadKey, step: &Step) {
        let model = &self.models[key];
        if self.halt.is_some() {
            use Step::{Connect, Create, PrepareImage, SetUp, Start};
            let begins =
                matches!(step, PrepareImage { .. } | SetUp { .. } | Connect { .. } | Create { .. } | Start { .. });
            assert!(!begins, "{step:?} on a node that is to stand still");
        }
        match step {
            Step::Start { uid, .. } if self.in_order => {
                let pod = model.pods.iter().find(|pod| pod.record.uid == *uid).unwrap();
                if order::has_run_here(pod) {
                    return;
                }
                for name in model.standing().after {
                    let other = self.models.get(&sample::daemonset(&name.name));
                    assert!(
                        other.is_some_and(|other| other.standing().ready),
                        "{key} starts and {name} is not ready: {:#?}",
                        other.map(|other| &other.pods)
                    );
                }
            }
            Step::Remember { change: Change::Stopping { stopping, .. }, .. } if stopping.halts && self.in_order => {
                for (other, it) in &self.models {
                    let standing = it.standing();
                    let after = standing.after.iter().any(|it| it.name == key.name);
                    assert!(!(after && standing.there), "{key} is stopped before {other}");
                }
            }
            Step::Remember { change: Change::Terminating { .. }, .. } if model.wanted == Wanted::Gone => {
                let name = format!("default/{}", key.name);
                for (other, it) in &self.models {
                    let standing = it.standing();
                    let after = standing.after.iter().any(|name_of| name_of.to_string() == name);
                    assert!(!(after && standing.ends && standing.there), "{key} ends before {other}");
                }
            }
            _ => {}
        }
    }

    /// Until nobody has anything to do, time passing as the plans ask, probes content.
    fn settle(&mut self) {
        let keys: Vec<WorkloadKey> = self.models.keys().cloned().collect();
        for _ in 0..4_000 {
            let mut wakes = Vec::new();
            let mut idle = true;
            for key in &keys {
                let plan = self.begin(key);
                let model = self.models.get_mut(key).unwrap();
                idle &= model.in_flight.is_empty();
                wakes.extend(plan.wake_at);
                while !model.in_flight.is_empty() {
                    model.end(0, Outcome::Done);
                }
                idle &= !probe(model, true);
                if self.finishes && model.standing().after.is_empty() && once(model) && !model.all_running().is_empty()
                {
                    model.exit(0, 0);
                    idle = false;
                }
            }
            if idle {
                let Some(at) = wakes.into_iter().min() else { return };
                self.set_time(at.0 + 1);
            }
        }
        panic!("they do not come to rest");
    }

    fn set_time(&mut self, now: u64) {
        self.models.values_mut().for_each(|model| model.now = model.now.max(now));
    }

    fn runs(&self) -> Vec<&str> {
        let runs = self.models.iter().filter(|(_, model)| !model.all_running().is_empty());
        runs.map(|(key, _)| key.name.as_str()).collect()
    }

    fn waits(&mut self, name: &str) -> Vec<String> {
        let plan = self.begin(&sample::daemonset(name));
        let words = plan.waiting_for.into_iter().filter(|wait| wait.reason == WAITS_FOR_OTHERS);
        words.map(|wait| wait.message).collect()
    }
}

fn once(model: &Model) -> bool {
    matches!(&model.wanted, Wanted::Run(wanted) if wanted.template.run_once())
}

/// What the readiness probes of all that runs say. False: they said so before.
fn probe(model: &mut Model, ready: bool) -> bool {
    let mut changed = false;
    for run in model.all_running() {
        let health = Health { started: true, ready, failed: None };
        changed |= model.health.insert(run, health.clone()) != Some(health);
    }
    changed
}

#[test]
fn a_pod_stands_created_until_what_it_is_after_is_ready() {
    let mut node = Node::new(&[Shape { probed: true, ..shape("a", "") }, shape("b", "a")]);
    for _ in 0..20 {
        for name in ["a", "b"] {
            node.begin(&sample::daemonset(name));
            let model = node.model(name);
            while !model.in_flight.is_empty() {
                model.end(0, Outcome::Done);
            }
        }
    }
    assert_eq!(node.runs(), ["a"], "it runs and is not ready");
    assert_eq!(node.waits("b"), ["waits until default/a is ready (daemonlet.dev/after)"]);
    assert_eq!(node.model("b").pods[0].containers[0].state, ContainerState::Created);
    node.settle();
    assert_eq!(node.runs(), ["a", "b"]);
}

#[test]
fn a_name_that_this_node_does_not_have_is_waited_for_and_said() {
    let mut node = Node::new(&[shape("b", "a,other/c")]);
    node.settle();
    assert_eq!(node.runs(), Vec::<&str>::new());
    let [said] = &node.waits("b")[..] else { panic!("it says so once") };
    assert_eq!(said.matches("runs no pod or DaemonSet of that name").count(), 2, "{said}");
    assert!(said.contains("default/a") && said.contains("other/c"), "{said}");
}

#[test]
fn one_that_has_run_once_counts_as_ready_and_one_that_failed_does_not() {
    let mut node = Node::new(&[Shape { once: true, ..shape("a", "") }, shape("b", "a")]);
    node.settle();
    assert_eq!(node.runs(), ["a"]);
    node.model("a").exit(0, 1);
    node.settle();
    assert_eq!(node.runs(), ["a"], "it is run again, and has done nothing so far");
    node.model("a").exit(0, 0);
    node.settle();
    assert_eq!(node.model("a").pods[0].record.lifecycle, Lifecycle::Finished);
    assert_eq!(node.runs(), ["b"]);
}

#[test]
fn what_runs_goes_on_and_is_restarted_whatever_becomes_of_those_before_it() {
    let mut node = Node::new(&[Shape { probed: true, ..shape("a", "") }, shape("b", "a")]);
    node.settle();
    probe(node.model("a"), false);
    let uid = node.model("b").pods[0].record.uid.clone();
    node.model("b").restart_agent(false);
    node.model("b").exit(0, 1);
    for _ in 0..10 {
        for name in ["a", "b"] {
            let plan = node.begin(&sample::daemonset(name));
            let model = node.model(name);
            while !model.in_flight.is_empty() {
                model.end(0, Outcome::Done);
            }
            let now = plan.wake_at.map_or(0, |at| at.0 + 1);
            node.set_time(now);
        }
    }
    assert!(!node.turns().is_empty(), "what it is after is not ready");
    assert!(node.model("b").running(&uid, "main", 1));
}

#[test]
fn an_old_pod_runs_until_the_new_one_may_start() {
    let mut node = Node::new(&[shape("b", "")]);
    node.settle();
    node.model("b").want(wanted(shape("b", "a"), 1));
    node.settle();
    let uids: Vec<Uid> = node.model("b").all_running().into_iter().map(|run| run.uid).collect();
    assert_eq!(uids, [Uid("uid-1".into())]);
    assert_eq!(node.waits("b").len(), 1, "the new pod says so");
    let a = shape("a", "");
    node.models.insert(sample::daemonset("a"), Model::new(wanted(a, 0)));
    let now = node.model("b").now;
    node.set_time(now);
    node.settle();
    assert_eq!(node.runs(), ["a", "b"]);
    assert_eq!(node.model("b").pods.len(), 1);
}

#[test]
fn who_ends_together_ends_in_the_reverse_order_and_who_ends_alone_waits_for_nobody() {
    let shapes = [shape("a", ""), shape("b", "a"), shape("c", "b")];
    let mut node = Node::new(&shapes);
    node.settle();
    for name in ["a", "c"] {
        node.model(name).wanted = Wanted::Gone;
    }
    node.settle();
    assert_eq!(node.runs(), ["b"]);
    let mut node = Node::new(&shapes);
    node.settle();
    node.models.values_mut().for_each(|model| model.wanted = Wanted::Gone);
    // That the order is kept is checked at each step.
    node.settle();
    assert!(node.models.values().all(|model| model.pods.is_empty()));
}

#[test]
fn one_that_never_ends_holds_up_the_others_only_so_long() {
    let mut node = Node::new(&[shape("a", ""), shape("b", "a")]);
    node.settle();
    node.model("b").obedient = false;
    node.model("b").mortal = false;
    node.models.values_mut().for_each(|model| model.wanted = Wanted::Gone);
    let begun = node.model("b").now;
    while !node.model("a").pods.is_empty() {
        for name in ["a", "b"] {
            node.begin(&sample::daemonset(name));
            let model = node.model(name);
            while !model.in_flight.is_empty() {
                model.end(0, Outcome::Done);
            }
        }
        let now = node.model("b").now + 100;
        node.set_time(now);
        assert!(now - begun < 60_000, "it waits for ever");
    }
    assert_eq!(node.runs(), ["b"]);
}

/// A pod of the DaemonSet `slow` that is being ended and takes its time, and its successor.
fn succeeded(mortal: bool) -> Node {
    let mut node = Node::new(&[shape("slow-1", "")]);
    node.owner = Some("slow".into());
    node.settle();
    let old = node.model("slow-1");
    (old.wanted, old.obedient, old.mortal) = (Wanted::Gone, false, mortal);
    let now = old.now;
    node.models.insert(sample::daemonset("slow-2"), Model::new(wanted(shape("slow-2", ""), 0)));
    node.set_time(now);
    node
}

/// A round of plans, and what of the new pod's start they say.
fn round(node: &mut Node) -> Option<String> {
    let mut said = None;
    for name in ["slow-1", "slow-2"] {
        let plan = node.begin(&sample::daemonset(name));
        let model = node.model(name);
        while !model.in_flight.is_empty() {
            model.end(0, Outcome::Done);
        }
        said = plan.waiting_for.into_iter().map(|wait| wait.message).find(|it| it.contains("one pod of a DaemonSet"));
    }
    let now = node.model("slow-1").now + 100;
    node.set_time(now);
    said
}

#[test]
fn two_pods_of_one_daemonset_of_the_endpoint_never_run_at_once() {
    let mut node = succeeded(true);
    let mut said = false;
    while !node.model("slow-1").pods.is_empty() {
        said |= round(&mut node).is_some_and(|said| said.contains("slow-1"));
        assert!(node.runs().len() < 2, "{:?}", node.runs());
    }
    assert!(said, "it says what it waits for");
    node.settle();
    assert_eq!(node.runs(), ["slow-2"]);
}

#[test]
fn an_old_pod_that_never_ends_holds_up_its_successor_only_so_long() {
    let mut node = succeeded(false);
    let begun = node.model("slow-1").now;
    while node.runs() != ["slow-1", "slow-2"] {
        round(&mut node);
        assert!(node.model("slow-1").now - begun < 60_000, "it waits for ever");
    }
    let turn = node.turns().remove(&sample::daemonset("slow-2")).unwrap();
    assert!(turn.waited_in_vain().is_some_and(|said| said.contains("slow-1")), "{turn:?}");
}

#[test]
fn a_surging_pod_starts_beside_the_one_that_nobody_ends() {
    let mut node = succeeded(true);
    node.model("slow-1").wanted = Wanted::Run(Box::new(wanted(shape("slow-1", ""), 0)));
    node.settle();
    assert_eq!(node.runs(), ["slow-1", "slow-2"]);
}

#[test]
fn who_was_admitted_in_a_circle_waits_for_nobody_in_it() {
    let mut node = Node::new(&[shape("a", "b"), shape("b", "a"), shape("c", "a")]);
    node.in_order = false;
    node.settle();
    assert_eq!(node.runs(), ["a", "b", "c"]);
}

fn drained(node: &Node) -> Option<Halt> {
    Some(Halt::Drained { since: node.models.values().next().unwrap().now().wall })
}

/// The order in which containers are told to stop from now on.
fn stops(node: &mut Node) -> Vec<String> {
    let keys: Vec<WorkloadKey> = node.models.keys().cloned().collect();
    let mut told = Vec::new();
    for _ in 0..200 {
        for key in &keys {
            let plan = node.begin(key);
            told.extend(plan.steps.iter().filter(|step| matches!(step, Step::Signal { .. })).map(|_| key.name.clone()));
            let model = node.models.get_mut(key).unwrap();
            while !model.in_flight.is_empty() {
                model.end(0, Outcome::Done);
            }
        }
    }
    told
}

#[test]
fn a_drained_node_stops_by_priority_and_order_and_runs_the_same_pods_again_afterwards() {
    let shapes = [
        // What is after it is important, and so is what that one writes at its end.
        shape("shipper", ""),
        Shape { priority: 2_000_001_000, ..shape("a", "shipper") },
        shape("b", ""),
        Shape { priority: 1000, ..shape("c", "b") },
        Shape { priority: 5, ..shape("d", "") },
    ];
    let mut node = Node::new(&shapes);
    node.settle();
    node.halt = drained(&node);
    assert_eq!(stops(&mut node), ["d", "c", "b", "a", "shipper"]);
    assert_eq!(node.runs(), Vec::<&str>::new());
    for model in node.models.values() {
        assert!(model.pods[0].containers.is_empty() && model.pods[0].sandbox == SandboxState::Absent);
    }
    // Also a new agent, a new document and one more crash of it start nothing.
    node.models.values_mut().for_each(|model| model.restart_agent(false));
    node.model("d").want(wanted(shapes[4], 1));
    node.settle();
    assert_eq!(node.runs(), Vec::<&str>::new());
    let said = node.begin(&sample::daemonset("d")).waiting_for;
    assert!(said.iter().any(|wait| wait.reason == NODE_DRAINED && wait.message.contains("undrain")), "{said:?}");
    node.halt = None;
    node.settle();
    assert_eq!(node.runs(), ["a", "b", "c", "d", "shipper"]);
    let uids: Vec<String> = ["a", "d"].map(|name| node.model(name).pods[0].record.uid.0.clone()).into();
    assert_eq!(uids, ["uid-1", "uid-2"], "only what has another document is another pod");
    assert_eq!(node.model("a").pods[0].record.containers["main"].failures, 0, "that it was stopped is no failure");
}

#[test]
fn one_that_has_ended_and_cannot_be_removed_holds_up_a_drain_only_so_long() {
    let mut node = Node::new(&[shape("a", ""), shape("b", "a")]);
    node.settle();
    node.halt = drained(&node);
    node.in_order = false;
    let begun = node.model("b").now;
    while node.runs() != Vec::<&str>::new() {
        for name in ["a", "b"] {
            node.begin(&sample::daemonset(name));
            let model = node.model(name);
            while let Some(key) = model.in_flight.keys().next() {
                let refused = name == "b" && matches!(key, StepKey::Run(.., RunStep::Delete));
                model.end(0, if refused { Outcome::Refused } else { Outcome::Done });
            }
        }
        let now = node.model("b").now + 100;
        node.set_time(now);
        assert!(now - begun < 120_000, "it waits for ever");
    }
    assert_eq!(node.model("b").pods[0].containers.len(), 1, "it is still there");
}

#[test]
fn what_a_drain_cuts_short_is_not_done_and_is_run_again() {
    let mut node = Node::new(&[Shape { once: true, ..shape("a", "") }]);
    node.settle();
    node.halt = drained(&node);
    node.settle();
    let last = node.model("a").pods[0].record.containers["main"].last.clone().unwrap();
    assert!(last.halted && node.model("a").pods[0].record.lifecycle == Lifecycle::Running, "{last:?}");
    node.model("a").reboot();
    node.halt = None;
    node.settle();
    assert_eq!(node.runs(), ["a"]);
}

#[test]
fn a_shutdown_is_over_in_its_time_although_nobody_obeys() {
    let shapes = [shape("a", ""), shape("b", "a"), Shape { priority: 2_000_001_000, ..shape("c", "") }];
    let mut node = Node::new(&shapes);
    node.settle();
    node.models.values_mut().for_each(|model| model.obedient = false);
    // Who is late is told all the same.
    node.in_order = false;
    let begun = node.model("a").now;
    let (ordinary, critical) = (Duration::from_secs(20), Duration::from_secs(10));
    node.halt = Some(Halt::ShuttingDown(Shutdown { begun: Moment(begun), ordinary, critical }));
    let mut ended = BTreeMap::new();
    while node.model("a").now < begun + 40_000 {
        for name in ["a", "b", "c"] {
            node.begin(&sample::daemonset(name));
            let model = node.model(name);
            while !model.in_flight.is_empty() {
                model.end(0, Outcome::Done);
            }
            if model.all_running().is_empty() {
                ended.entry(name).or_insert(model.now - begun);
            }
        }
        let now = node.model("a").now + 100;
        node.set_time(now);
    }
    let within = |name: &str, from: u64, to: u64| assert!((from..=to).contains(&ended[name]), "{name}: {ended:?}");
    within("b", 19_000, 20_500);
    within("a", 19_000, 20_500);
    within("c", 29_000, 30_500);
}

#[derive(Debug, Clone)]
enum Event {
    Plan(usize),
    End(usize, usize, Outcome),
    Exit(usize, u32),
    Probe(usize, bool),
    Want(usize, u8),
    Gone(usize),
    AllGone,
    Drain(bool),
    RestartAgent,
    Reboot,
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![8 => Just(Outcome::Done), 1 => Just(Outcome::Refused), 1 => Just(Outcome::Unheard)];
    prop_oneof![
        20 => (0_usize..4).prop_map(Event::Plan),
        40 => (0_usize..4, 0_usize..4, outcome).prop_map(|(of, n, o)| Event::End(of, n, o)),
        4 => (0_usize..4, 0_u32..2).prop_map(|(of, code)| Event::Exit(of, code)),
        8 => (0_usize..4, any::<bool>()).prop_map(|(of, ready)| Event::Probe(of, ready)),
        3 => (0_usize..4, 0_u8..3).prop_map(|(of, version)| Event::Want(of, version)),
        2 => (0_usize..4).prop_map(Event::Gone),
        1 => Just(Event::AllGone),
        3 => any::<bool>().prop_map(Event::Drain),
        1 => Just(Event::RestartAgent),
        1 => Just(Event::Reboot),
        3 => (1_u64..100_000).prop_map(Event::Time),
    ]
}

const SHAPES: [Shape; 4] = [
    Shape { probed: true, ..shape("a", "") },
    Shape { once: true, ..shape("b", "") },
    Shape { probed: true, ..shape("c", "a,b") },
    shape("d", "c"),
];

proptest! {
    #[test]
    fn none_starts_before_its_time_and_all_run_in_the_end(events in proptest::collection::vec(event(), 0..200)) {
        let mut node = Node::new(&SHAPES);
        for event in events {
            let model = |node: &mut Node, of: usize| -> WorkloadKey {
                node.models.keys().nth(of).unwrap().clone()
            };
            match event {
                Event::Plan(of) => {
                    let key = model(&mut node, of);
                    node.begin(&key);
                }
                Event::End(of, nth, outcome) => node.model(SHAPES[of].name).end(nth, outcome),
                Event::Exit(of, code) => node.model(SHAPES[of].name).exit(0, code),
                Event::Probe(of, ready) => drop(probe(node.model(SHAPES[of].name), ready)),
                Event::Want(of, version) => node.model(SHAPES[of].name).want(wanted(SHAPES[of], version)),
                Event::Gone(of) => node.model(SHAPES[of].name).wanted = Wanted::Gone,
                Event::AllGone => node.models.values_mut().for_each(|model| model.wanted = Wanted::Gone),
                Event::Drain(drain) => node.halt = if drain { drained(&node) } else { None },
                Event::RestartAgent => node.models.values_mut().for_each(|model| model.restart_agent(true)),
                Event::Reboot => node.models.values_mut().for_each(Model::reboot),
                Event::Time(ms) => {
                    let now = node.model("a").now + ms;
                    node.set_time(now);
                }
            }
        }
        for shape in SHAPES {
            node.model(shape.name).want(wanted(shape, 0));
        }
        node.halt = drained(&node);
        node.settle();
        prop_assert_eq!(node.runs(), Vec::<&str>::new());
        node.halt = None;
        node.finishes = true;
        node.settle();
        for shape in SHAPES {
            let model = node.model(shape.name);
            let finished = model.pods.iter().any(|pod| pod.record.lifecycle == Lifecycle::Finished);
            prop_assert!(finished || model.all_running().len() == 1, "{} does not run: {:#?}", shape.name, model.pods);
        }
        node.models.values_mut().for_each(|model| model.wanted = Wanted::Gone);
        node.settle();
        prop_assert!(node.models.values().all(|model| model.pods.is_empty()));
    }
}
