//! A small runtime, disk and clock in one: just enough for a plan to be carried out, badly if need be. It checks what
//! must hold at every instant while it does so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::backoff;
use crate::desired::{DesiredPod, Wanted};
use crate::lifecycle;
use crate::name::{RunKey, Uid, WorkloadKey};
use crate::observed::{ContainerState, Health, ImageState, ObservedContainer, ProbeFailure, ProbeKind, SandboxState};
use crate::plan::conflict::conflict;
use crate::plan::{
    Change, Delivery, Failure, HookEnd, Owed, Plan, PodView, RunStep, SHIM_PATIENCE, Signal, Step, StepKey, Stray,
    View, end_strays, plan,
};
use crate::record::{Course, Lifecycle, Record};
use crate::sample;
use crate::spec::{PodTemplate, Resources, Role};
use crate::time::{Moment, Now};
use crate::turns::{Standing, Turn, standing};

pub struct Model {
    pub workload: WorkloadKey,
    pub wanted: Wanted,
    pub pods: Vec<PodView>,
    pub failures: BTreeMap<StepKey, Failure>,
    pub in_flight: BTreeMap<StepKey, Step>,
    pub delivered: BTreeMap<StepKey, Delivery>,
    pub hooks: BTreeMap<StepKey, HookEnd>,
    pub last_lines: BTreeMap<RunKey, String>,
    /// Whether hooks succeed.
    pub hooks_work: bool,
    pub resized: BTreeMap<Uid, u64>,
    pub health: BTreeMap<RunKey, Health>,
    pub silent: BTreeMap<Uid, Now>,
    pub turn: Turn,
    pub now: u64,
    pub boot: u32,
    /// Whether daemons end when they are told to stop.
    pub obedient: bool,
    /// Whether a kill ends what it is sent to.
    pub mortal: bool,
    /// Runs that ended: for sure, or (false) such that nobody can know whether they had run.
    pub ended: BTreeMap<RunKey, bool>,
    pub admitted: u32,
    /// Whether the disk takes no write.
    pub full: bool,
    /// What the cgroups of runs have: the container's resources when they were made, or when they were resized.
    sizes: BTreeMap<RunKey, Resources>,
    /// The pods as they were when steps in flight began.
    begun: BTreeMap<StepKey, (Arc<PodTemplate>, u64)>,
    /// By revision.
    documents: BTreeMap<String, Arc<PodTemplate>>,
    disk: BTreeMap<Uid, Record>,
    deadlines: BTreeMap<Uid, (String, Moment)>,
    /// Init containers that have run to their end since the pod's surroundings were made.
    through: BTreeSet<(Uid, String)>,
    /// The newest attempt of each container that was started.
    newest: BTreeMap<(Uid, String), u32>,
}

/// How a step in flight comes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    Done,
    /// Failed without effect.
    Refused,
    /// Failed with half of its effect.
    Half,
    /// It took effect and nobody heard of it.
    Unheard,
}

impl Model {
    pub fn new(wanted: DesiredPod) -> Model {
        Model {
            documents: BTreeMap::from([(wanted.revision.clone(), wanted.template.clone())]),
            workload: wanted.workload.clone(),
            wanted: Wanted::Run(Box::new(wanted)),
            pods: Vec::new(),
            failures: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            delivered: BTreeMap::new(),
            hooks: BTreeMap::new(),
            last_lines: BTreeMap::new(),
            hooks_work: true,
            resized: BTreeMap::new(),
            health: BTreeMap::new(),
            silent: BTreeMap::new(),
            turn: Turn::default(),
            now: 1_000_000,
            boot: 0,
            obedient: true,
            mortal: true,
            ended: BTreeMap::new(),
            admitted: 0,
            full: false,
            sizes: BTreeMap::new(),
            begun: BTreeMap::new(),
            disk: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            through: BTreeSet::new(),
            newest: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Now {
        let wall = jiff::Timestamp::from_millisecond(1_800_000_000_000 + i64::try_from(self.now).unwrap()).unwrap();
        Now { boot: Moment(self.now), wall }
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub fn plan(&self) -> Plan {
        let plan = self.view(plan);
        self.check_plan(&plan);
        plan
    }

    pub fn plan_of_strays(&self, strays: &[Stray]) -> Plan {
        self.view(|view| end_strays(view, strays))
    }

    /// How it stands for the others on the node.
    pub fn standing(&self) -> Standing {
        self.view(|view| standing(view, None))
    }

    fn view<T>(&self, of: impl Fn(&View<'_>) -> T) -> T {
        let in_flight = self.in_flight.keys().cloned().collect();
        let boot_id = self.boot_id();
        let view = View {
            wanted: &self.wanted,
            pods: &self.pods,
            failures: &self.failures,
            in_flight: &in_flight,
            delivered: &self.delivered,
            hooks: &self.hooks,
            last_lines: &self.last_lines,
            resized: &self.resized,
            health: &self.health,
            silent: &self.silent,
            turn: &self.turn,
            now: self.now(),
            boot_id: &boot_id,
        };
        of(&view)
    }

    /// Plans, and puts the steps in flight.
    pub fn begin(&mut self) -> Plan {
        let plan = self.plan();
        for step in &plan.steps {
            if let Step::Create { uid, .. } | Step::Resize { uid } = step {
                let pod = self.pods.iter().find(|pod| pod.record.uid == *uid).unwrap();
                self.begun.insert(step.key(), (pod.template.clone(), pod.record.course.resizes));
            }
            self.in_flight.insert(step.key(), step.clone());
        }
        plan
    }

    /// Ends the `nth` step in flight.
    pub fn end(&mut self, nth: usize, outcome: Outcome) {
        if self.in_flight.is_empty() {
            return;
        }
        let key = self.in_flight.keys().nth(nth % self.in_flight.len()).unwrap().clone();
        let step = self.in_flight.remove(&key).unwrap();
        match outcome {
            Outcome::Done if self.full && step == Step::Admit => self.fail(key),
            Outcome::Done => {
                self.carry_out(step.clone());
                self.failures.remove(&key);
                match step {
                    Step::Signal { .. } | Step::EndShim { .. } => {
                        let now = Moment(self.now);
                        let before = self.delivered.get(&key).copied().unwrap_or_default();
                        self.delivered.insert(key, before.again(now));
                    }
                    Step::Resize { uid } => {
                        self.resized.insert(uid, self.begun[&key].1);
                    }
                    Step::Hook { .. } => {
                        let failed = (!self.hooks_work).then(|| "the hook failed".to_owned());
                        self.hooks.insert(key, HookEnd { failed });
                    }
                    Step::Start { uid, container, attempt } if self.running(&uid, &container, attempt) => {
                        self.remember(&uid, Change::Started { container, attempt });
                    }
                    _ => {}
                }
            }
            Outcome::Unheard if self.full && step == Step::Admit => {}
            Outcome::Unheard => self.carry_out(step),
            Outcome::Refused => self.fail(key),
            Outcome::Half => {
                self.half(step);
                self.fail(key);
            }
        }
        self.check_runs();
    }

    fn fail(&mut self, key: StepKey) {
        let count = self.failures.get(&key).map_or(1, |f| f.count + 1);
        let not_before = Moment(self.now).after(backoff::step(&key, count));
        let failure = Failure { count, not_before, reason: "Error".into(), message: "it failed".into() };
        self.failures.insert(key, failure);
    }

    /// The disk takes no write any more, or again: what is owed is written then.
    pub fn fill_disk(&mut self, full: bool) {
        self.full = full;
        if !full {
            for pod in &mut self.pods {
                pod.owed = None;
                self.disk.insert(pod.record.uid.clone(), pod.record.clone());
            }
        }
    }

    /// Plans and carries out until nothing is left to do, time passing as the plan asks. Returns the passes it took.
    pub fn settle(&mut self) -> u32 {
        for pass in 0..2_000 {
            let plan = self.begin();
            if self.in_flight.is_empty() {
                match plan.wake_at {
                    Some(at) => self.now = self.now.max(at.0) + 1,
                    None if self.end_init() => {}
                    None => return pass,
                }
            }
            while !self.in_flight.is_empty() {
                self.end(0, Outcome::Done);
            }
        }
        panic!("it does not come to rest: {:#?}", self.plan());
    }

    /// An init container that runs has done its work.
    pub fn end_init(&mut self) -> bool {
        let runs = self.all_running();
        let init = |run: &RunKey| self.role(run) == Role::Init;
        let Some(nth) = runs.iter().position(init) else { return false };
        self.exit(nth, 0);
        true
    }

    fn role(&self, run: &RunKey) -> Role {
        let pod = self.pods.iter().find(|pod| pod.record.uid == run.uid).unwrap();
        pod.template.spec.container(&run.container).unwrap().role
    }

    /// Plans and carries out for that long, in milliseconds.
    pub fn settle_for(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let plan = self.begin();
            while !self.in_flight.is_empty() {
                self.end(0, Outcome::Done);
            }
            if plan.steps.is_empty() {
                self.now = plan.wake_at.map_or(end, |at| at.0.min(end));
            }
        }
    }

    // What happens to the node.

    pub fn pass_time(&mut self, ms: u64) {
        self.now += ms;
    }

    /// The `nth` running container ends by itself.
    pub fn exit(&mut self, nth: usize, exit_code: u32) {
        let now = self.now().wall;
        let runs: Vec<RunKey> = self.all_running();
        let Some(run) = runs.get(nth.checked_rem(runs.len()).unwrap_or(0)).cloned() else { return };
        self.set(&run, ContainerState::Exited { exit_code, oom: false, finished_at: now });
        let sure = self.knows_start(&run);
        if exit_code == 0 {
            self.through.insert((run.uid.clone(), run.container.clone()));
        }
        self.ended.insert(run, sure);
    }

    /// The liveness probe of the `nth` running container has failed often enough.
    pub fn condemn(&mut self, nth: usize) {
        let runs = self.all_running();
        let Some(run) = runs.get(nth.checked_rem(runs.len()).unwrap_or(0)) else { return };
        let failed = Some(ProbeFailure { probe: ProbeKind::Liveness, message: "it does not answer".into() });
        self.health.insert(run.clone(), Health { started: true, ready: false, failed });
    }

    /// What waits for its start dies.
    pub fn lose_created(&mut self) {
        self.lose_created_at(self.now().wall);
    }

    /// The same, and the runtime says that it was then.
    pub fn lose_created_at(&mut self, finished_at: jiff::Timestamp) {
        for run in self.all(|s| *s == ContainerState::Created) {
            self.set(&run, ContainerState::Exited { exit_code: 137, oom: false, finished_at });
            self.ended.insert(run, false);
        }
    }

    /// containerd restarts and no longer knows what ended.
    pub fn forget_ends(&mut self) {
        for run in self.all(|s| matches!(s, ContainerState::Exited { .. })) {
            if self.knows_start(&run) {
                self.set(&run, ContainerState::NoTask);
            }
        }
    }

    /// From now on nobody says how the containers of this pod stand.
    pub fn fall_silent(&mut self, pod: usize) {
        self.silent.insert(self.pods[pod].record.uid.clone(), self.now());
        self.pods[pod].containers.iter_mut().for_each(|c| c.state = ContainerState::Unanswered);
    }

    pub fn break_sandboxes(&mut self) {
        for pod in &mut self.pods {
            if pod.sandbox != SandboxState::Absent {
                pod.sandbox = SandboxState::Broken { reason: "somebody unmounted it".into() };
            }
        }
    }

    pub fn restart_agent(&mut self, takes_effect: bool) {
        while takes_effect && !self.in_flight.is_empty() {
            self.end(0, Outcome::Unheard);
        }
        self.in_flight.clear();
        self.failures.clear();
        self.delivered.clear();
        self.hooks.clear();
        self.health.clear();
        self.resized.clear();
        for pod in &mut self.pods {
            pod.images.clear();
            if pod.owed.take().is_some() {
                let uid = pod.record.uid.clone();
                pod.record = self.disk[&uid].clone();
                if let Some(template) = self.documents.get(&pod.record.revision) {
                    pod.template = template.clone();
                }
                self.deadlines.remove(&uid);
                // What was deleted before the disk had it on record, nobody can count: only what is left tells of runs.
                for ((of, name), newest) in &mut self.newest {
                    if *of == uid {
                        let left = pod.containers.iter().filter(|c| c.run.container == *name).map(|c| c.run.attempt);
                        let known = pod.record.containers.get(name).and_then(|memory| memory.started_attempt);
                        *newest = left.chain(known).max().map_or(0, |told| told.min(*newest));
                    }
                }
                let known = |run: &RunKey| {
                    let memory = pod.record.containers.get(&run.container);
                    memory.is_some_and(|m| m.started_attempt >= Some(run.attempt))
                };
                let untold = self.ended.iter_mut().filter(|(run, _)| run.uid == uid && !known(run));
                untold.for_each(|(_, sure)| *sure = false);
            }
        }
    }

    /// Somebody types `delete pod`.
    pub fn delete_newest(&mut self) {
        let Some(pod) = self.pods.last() else { return };
        let (uid, deadline) = (pod.record.uid.clone(), lifecycle::deadline(&pod.template, Moment(self.now)));
        if pod.record.boot_id == self.boot_id() {
            self.remember(&uid, Change::Terminating { deadline, reason: "deleted by hand".into() });
        }
    }

    pub fn reboot(&mut self) {
        self.restart_agent(false);
        self.through.clear();
        for run in self.all(|s| matches!(s, ContainerState::Running { .. })) {
            let sure = self.knows_start(&run);
            self.ended.insert(run, sure);
        }
        for run in self.all(|s| matches!(s, ContainerState::Exited { .. })) {
            if !self.knows_start(&run) {
                self.ended.insert(run, false);
            }
        }
        for run in self.all(|_| true) {
            self.set(&run, ContainerState::NoTask);
        }
        for pod in &mut self.pods {
            pod.sandbox = match pod.sandbox {
                SandboxState::Absent => SandboxState::Absent,
                _ => SandboxState::Broken { reason: "/run was emptied".into() },
            };
        }
        self.boot += 1;
        self.now = 10_000;
    }

    // What is so.

    pub fn running(&self, uid: &Uid, container: &str, attempt: u32) -> bool {
        let run = RunKey { uid: uid.clone(), container: container.to_owned(), attempt };
        self.all_running().contains(&run)
    }

    pub fn all_running(&self) -> Vec<RunKey> {
        self.all(|s| matches!(s, ContainerState::Running { .. }))
    }

    fn all(&self, which: impl Fn(&ContainerState) -> bool) -> Vec<RunKey> {
        let containers = self.pods.iter().flat_map(|p| &p.containers);
        containers.filter(|c| which(&c.state)).map(|c| c.run.clone()).collect()
    }

    fn knows_start(&self, run: &RunKey) -> bool {
        let pod = self.pods.iter().find(|p| p.record.uid == run.uid).unwrap();
        pod.record.containers.get(&run.container).is_some_and(|m| m.started_attempt >= Some(run.attempt))
    }

    fn set(&mut self, run: &RunKey, state: ContainerState) {
        let pod = self.pod(&run.uid).unwrap();
        pod.containers.iter_mut().find(|c| c.run == *run).unwrap().state = state;
    }

    fn pod(&mut self, uid: &Uid) -> Option<&mut PodView> {
        self.pods.iter_mut().find(|p| p.record.uid == *uid)
    }

    fn remember(&mut self, uid: &Uid, change: Change) {
        let (now, boot_id, full) = (self.now(), self.boot_id(), self.full);
        if let Some(pod) = self.pods.iter_mut().find(|pod| pod.record.uid == *uid) {
            pod.record.remember(change, now, &boot_id);
            if let Some(template) = self.documents.get(&pod.record.revision) {
                pod.template = template.clone();
            }
            if full {
                pod.owed = Some(Owed { since: now.wall, message: "no space".into() });
            } else {
                let record = pod.record.clone();
                self.disk.insert(uid.clone(), record);
            }
        }
    }

    fn carry_out(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Admit => self.admit(),
            Step::Remember { uid, change } => self.remember(&uid, change),
            Step::PrepareImage { uid, container } => {
                self.pod(&uid).unwrap().images.insert(container, ImageState::Ready);
            }
            Step::SetUp { uid } => {
                let pod = self.pod(&uid).unwrap();
                assert!(pod.sandbox == SandboxState::Absent, "set up over {:?}", pod.sandbox);
                pod.sandbox = SandboxState::Made;
            }
            Step::Connect { uid } => {
                let pod = self.pod(&uid).unwrap();
                if pod.sandbox == SandboxState::Made {
                    pod.sandbox = SandboxState::Connected { ips: Vec::new() };
                }
            }
            Step::Create { uid, container, attempt } => self.create(&uid, &container, attempt, ContainerState::Created),
            Step::Resize { uid } => {
                let template = self.begun[&StepKey::Resize(uid.clone())].0.clone();
                let pod = self.pods.iter().find(|pod| pod.record.uid == uid).unwrap();
                let lives = |c: &&ObservedContainer| {
                    matches!(c.state, ContainerState::Created | ContainerState::Running { .. })
                };
                for run in pod.containers.iter().filter(lives) {
                    let resources = template.spec.container(&run.run.container).unwrap().resources.clone();
                    self.sizes.insert(run.run.clone(), resources);
                }
            }
            Step::Start { uid, container, attempt } => {
                let run = RunKey { uid, container, attempt };
                if self.all(|s| *s == ContainerState::Created).contains(&run) {
                    let newest = self.newest.entry((run.uid.clone(), run.container.clone())).or_default();
                    assert!(*newest <= attempt, "{run} is started after attempt {newest}");
                    *newest = attempt;
                    self.check_order(&run);
                    self.set(&run, ContainerState::Running { pid: 7 });
                }
            }
            Step::Signal { uid, container, attempt, signal } => {
                let heeded = if signal == Signal::Kill { self.mortal } else { self.obedient };
                if self.running(&uid, &container, attempt) && heeded {
                    let run = RunKey { uid, container, attempt };
                    self.set(&run, ContainerState::Exited { exit_code: 143, oom: false, finished_at: now.wall });
                    let sure = self.knows_start(&run);
                    self.ended.insert(run, sure);
                }
            }
            Step::Hook { .. } => {}
            Step::Delete { uid, container, attempt } => {
                assert!(!self.running(&uid, &container, attempt), "deleted while it ran");
                self.last_lines
                    .insert(RunKey { uid: uid.clone(), container: container.clone(), attempt }, "it says".into());
                let pod = self.pod(&uid).unwrap();
                pod.containers.retain(|c| c.run.container != container || c.run.attempt != attempt);
            }
            Step::EndShim { uid } => {
                assert!(self.silent.remove(&uid).is_some(), "a shim was ended that answers");
                for run in self.all(|s| *s == ContainerState::Unanswered) {
                    self.set(&run, ContainerState::NoTask);
                }
            }
            Step::TearDown { uid } => {
                let pod = self.pod(&uid).unwrap();
                assert!(pod.containers.is_empty(), "torn down under containers");
                pod.sandbox = SandboxState::Absent;
                self.through.retain(|(of, _)| *of != uid);
            }
            Step::Forget { uid } => {
                let pod = self.pod(&uid).unwrap();
                assert!(pod.containers.is_empty() && pod.sandbox == SandboxState::Absent, "forgotten too early");
                assert!(matches!(pod.record.lifecycle, Lifecycle::Terminating { .. }), "forgotten alive");
                self.pods.retain(|p| p.record.uid != uid);
                self.disk.remove(&uid);
            }
        }
    }

    fn half(&mut self, step: Step) {
        match step {
            Step::Create { uid, container, attempt } => self.create(&uid, &container, attempt, ContainerState::NoTask),
            Step::SetUp { uid } => {
                self.pod(&uid).unwrap().sandbox = SandboxState::Broken { reason: "half made".into() };
            }
            _ => {}
        }
    }

    fn create(&mut self, uid: &Uid, container: &str, attempt: u32, state: ContainerState) {
        let workload = self.workload.clone();
        let run = RunKey { uid: uid.clone(), container: container.to_owned(), attempt };
        let pod = self.pods.iter_mut().find(|pod| pod.record.uid == *uid).unwrap();
        assert!(pod.containers.iter().all(|c| c.run != run), "created twice");
        let id = run.container_id();
        let key = StepKey::Run(uid.clone(), container.to_owned(), attempt, RunStep::Create);
        let resources = self.begun[&key].0.spec.container(container).unwrap().resources.clone();
        self.sizes.insert(run.clone(), resources);
        pod.containers.push(ObservedContainer {
            id,
            workload,
            run,
            image_id: String::new(),
            adapted: String::new(),
            not_refreshed: String::new(),
            image: String::new(),
            user: None,
            state,
        });
    }

    fn admit(&mut self) {
        let Wanted::Run(wanted) = self.wanted.clone() else { return };
        self.admitted += 1;
        let record = Record {
            uid: Uid(format!("uid-{}", self.admitted)),
            workload: wanted.workload.clone(),
            name: format!("{}-{}", wanted.workload.name, self.admitted),
            revision: wanted.revision,
            origin: wanted.origin,
            document: wanted.document,
            admitted_at: self.now().wall,
            generation: u64::from(self.admitted),
            boot_id: self.boot_id(),
            lifecycle: Lifecycle::Running,
            containers: BTreeMap::new(),
            course: Course::of(&wanted.template, self.now()),
        };
        self.disk.insert(record.uid.clone(), record.clone());
        self.pods.push(PodView {
            record,
            template: wanted.template,
            sandbox: SandboxState::Absent,
            containers: Vec::new(),
            images: BTreeMap::new(),
            owed: None,
        });
    }

    /// What wants a document says, for pods that are given another.
    pub fn want(&mut self, wanted: DesiredPod) {
        self.documents.insert(wanted.revision.clone(), wanted.template.clone());
        self.wanted = Wanted::Run(Box::new(wanted));
    }

    /// Every container that runs has the resources that its pod's document asks for.
    pub fn check_sizes(&self) {
        for run in self.all_running() {
            let pod = self.pods.iter().find(|pod| pod.record.uid == run.uid).unwrap();
            let asked = &pod.template.spec.container(&run.container).unwrap().resources;
            assert_eq!(self.sizes.get(&run), Some(asked), "{run} has not the size that it is to have");
            assert_eq!(pod.record.course.resize, None, "a resize is not over");
        }
    }

    // What must always hold.

    /// A main container starts when every init container has run to its end, and none of them runs beside another.
    fn check_order(&self, run: &RunKey) {
        let pod = self.pods.iter().find(|pod| pod.record.uid == run.uid).unwrap();
        let spec = &pod.template.spec;
        let before = spec.containers.iter().take_while(|container| container.name != run.container);
        let role = self.role(run);
        for init in before.filter(|container| container.role == Role::Init && role != Role::Sidecar) {
            let key = (run.uid.clone(), init.name.clone());
            assert!(self.through.contains(&key), "{run} starts before {} has run to its end", init.name);
        }
    }

    /// Never two running containers of one name, and never two pods of the workload that run.
    fn check_runs(&mut self) {
        let running = self.all_running();
        let pods: BTreeSet<&Uid> = running.iter().map(|r| &r.uid).collect();
        assert!(pods.len() <= 1, "two pods run: {running:?}");
        let names: BTreeSet<&String> = running.iter().map(|r| &r.container).collect();
        assert!(names.len() == running.len(), "a container runs twice: {running:?}");
        for pod in &self.pods {
            let Lifecycle::Terminating { deadline, .. } = pod.record.lifecycle else {
                assert!(!self.deadlines.contains_key(&pod.record.uid), "a terminating pod came back to life");
                continue;
            };
            // Moments of different boots cannot be compared.
            let boot = pod.record.boot_id.clone();
            let known = self.deadlines.entry(pod.record.uid.clone()).or_insert((boot.clone(), deadline));
            assert!(known.0 != boot || deadline <= known.1, "a deadline grew");
            *known = (boot, deadline);
        }
    }

    fn check_plan(&self, plan: &Plan) {
        for (i, step) in plan.steps.iter().enumerate() {
            let key = step.key();
            let busy = self.in_flight.keys().find(|other| conflict(other, &key));
            assert!(busy.is_none(), "{key:?} collides with {busy:?} in flight");
            assert!(plan.steps[..i].iter().all(|other| !conflict(&other.key(), &key)), "{key:?} collides");
            if let Some(failure) = self.failures.get(&key) {
                assert!(failure.not_before.0 <= self.now, "{key:?} is tried too early");
            }
            self.check_step(step);
        }
        if let Some(at) = plan.wake_at {
            assert!(at.0 > self.now, "a wake in the past turns the loop hot");
        }
    }

    fn check_step(&self, step: &Step) {
        let of = |uid: &Uid| self.pods.iter().find(|p| p.record.uid == *uid).unwrap();
        match step {
            Step::PrepareImage { uid, .. }
            | Step::SetUp { uid }
            | Step::Connect { uid }
            | Step::Create { uid, .. }
            | Step::Start { uid, .. } => {
                assert!(of(uid).record.lifecycle == Lifecycle::Running, "{step:?} of a pod that ends");
                if let Step::Start { container, .. } = step {
                    let memory = of(uid).record.containers.get(container);
                    let not_before = memory.and_then(|m| m.not_before).unwrap_or_default();
                    assert!(not_before.0 <= self.now, "started during its back-off");
                }
            }
            Step::Remember { uid, change: Change::Terminating { .. } } => self.check_end(of(uid)),
            Step::EndShim { uid } => {
                let Lifecycle::Terminating { deadline, .. } = of(uid).record.lifecycle else {
                    panic!("the shim of a pod is ended that is not to end");
                };
                let since = deadline.max(self.silent[uid].boot);
                assert!(Moment(self.now).since(since) >= SHIM_PATIENCE, "a shim is ended too early");
            }
            _ => {}
        }
    }

    /// What runs is ended only when it is not wanted, or when its successor stands created.
    fn check_end(&self, pod: &PodView) {
        let Wanted::Run(_) = self.wanted else {
            assert!(self.wanted == Wanted::Gone, "something is ended although its document is held");
            return;
        };
        let runs = pod.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. }));
        let created = |p: &&PodView| {
            p.record.uid != pod.record.uid
                && p.record.lifecycle == Lifecycle::Running
                && p.template.spec.containers.iter().all(|c| p.containers.iter().any(|o| o.run.container == c.name))
        };
        assert!(!runs || self.pods.iter().any(|p| created(&p)), "stopped before its successor stood created");
    }
}

/// Revision `n` of a workload with these containers.
pub fn revision(n: u8, containers: &[&str]) -> DesiredPod {
    let mut template = sample::template(containers);
    template.spec.containers[0].image = format!("busybox:{n}");
    sample::desired(&sample::daemonset("d"), template)
}
