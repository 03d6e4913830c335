//! One worker per workload: observe, plan, execute, publish, wait. The only writer of its pods' records.
//!
//! Driven by `workers`, which hands it what is wanted and wakes it. A wake carries no data: it means "look again", so
//! that a container's exit, a lost event, an agent's restart and a timer share one path. Steps run side by side; each
//! one that ends leads to the next plan. A step that fails is a reason in the status and a back-off.

mod ahead;
mod contents;
mod nudge;
mod outcome;
mod owed;
mod removal;
mod silence;
mod tell;
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use pod::content::Contents;
use pod::desired::{DesiredPod, Wanted};
use pod::manifest::Context;
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::{ContainerState, Health, ImageState, ObservedContainer, SandboxState, is_no_time};
use pod::plan::{
    Delivery, Failure, HookEnd, Plan, PodView, RunStep, Signal, Step, StepKey, Stray, View, Waiting, is_unsaid, order,
    plan,
};
use pod::record::{Course, Lifecycle, Record};
use pod::time::{Moment, Now};
use pod::turns::{Standing, Turn, standing};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::board::{Board, Published, WantedSummary};
use crate::drain::Drain;
use crate::events::Severity;
use crate::execute::{Admitted, Ahead, Ground, Job, Outcome, counted, execute};
use crate::gate::Gate;
use crate::probes::prober::Prober;
use crate::records::Records;
use crate::seams::{Clock, Leave, Machine, Runtime, Sandboxes, StepError};
use crate::turns::Turns;

pub use nudge::Nudge;
use nudge::{IMAGES, LOOK, RETRY};
use owed::{Debt, Saving};
use removal::delete_key;
pub use unreadable::{UNREADABLE, unusable};

/// How soon an unreachable runtime is asked again; its coming back wakes everybody earlier.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

/// Failed admissions whose traces are still to be removed: beyond it no new one is tried before an old one is gone.
const LEFTOVERS_MAX: usize = 4;

/// Requests that wait for one worker; a person types them.
pub const REQUESTS_MAX: usize = 4;

/// What all workers share.
#[derive(Debug)]
pub struct Shared<M> {
    pub machine: M,
    pub records: Records,
    pub gate: Gate,
    pub board: Board,
    pub context: Context,
    /// Which worker a container belongs to, for routing wakes; and which uids are spoken for.
    pub directory: crate::workers::Directory,
    /// Whose turn it is among the workloads.
    pub turns: Turns,
    pub drain: Drain,
    /// ConfigMaps and Secrets. A worker is woken when they change.
    pub contents: watch::Sender<Contents>,
    /// True: finish what is in flight, plan nothing more, end.
    pub stopping: watch::Receiver<bool>,
}

/// What somebody beside the plan asks for.
#[derive(Debug)]
pub enum Request {
    /// The reply's words say what of it does not hold: none when all does.
    Delete { uid: Uid, reply: oneshot::Sender<Result<String, String>> },
    /// The pod has failed by itself: it uses more of the disk than it allows itself. Why, in Kubernetes' words.
    Evict { uid: Uid, message: String },
}

/// See the top of the file.
pub struct Worker<M: Machine> {
    key: WorkloadKey,
    shared: Arc<Shared<M>>,
    wanted: watch::Receiver<Wanted>,
    requests: mpsc::Receiver<Box<Request>>,
    nudge: Arc<Nudge>,
    /// Oldest first.
    pods: Vec<PodView>,
    /// Pods that a person wants ended and whose records do not say so yet.
    wishes: Vec<(Uid, oneshot::Sender<Result<String, String>>)>,
    /// Pods that exceed their own limits and whose records do not say yet that they end, with why.
    evictions: BTreeMap<Uid, String>,
    /// Records on their way to the disk.
    saving: BTreeMap<Uid, Saving>,
    /// Pods whose records are newer here than on disk.
    debts: BTreeMap<Uid, Debt>,
    /// Moves when the disk takes a record after it took none.
    disk_taken: watch::Receiver<()>,
    /// Why images are not as fresh as their pull policy asks, by pod and container.
    not_refreshed: BTreeMap<(Uid, String), String>,
    /// Signals that were delivered: a daemon gets one SIGTERM, not one a wake.
    delivered: BTreeMap<StepKey, Delivery>,
    /// When runs were told to start, until that is on record: one may have ended by then.
    starts: BTreeMap<RunKey, Now>,
    /// Hooks that are over.
    hooks: BTreeMap<StepKey, HookEnd>,
    /// Last lines of the logs of runs that failed without a word, until they are on record.
    last_lines: BTreeMap<RunKey, String>,
    /// Pods whose cgroups have what this revision of theirs asks for, until that is on record.
    resized: BTreeMap<Uid, u64>,
    prober: Prober,
    /// What probes say of runs.
    health: BTreeMap<RunKey, Health>,
    /// Containers of this workload that no record speaks of.
    strays: Vec<Stray>,
    /// Pods, also of strays, whose shim does not answer, and since when no look has found otherwise.
    silent: BTreeMap<Uid, Now>,
    /// When that was last looked at.
    silent_seen: Option<Moment>,
    /// Deletions that have begun and not succeeded. The container may be gone and its log pipes not: then nothing that is
    /// observed asks for the deletion again.
    deletions: BTreeMap<StepKey, RunKey>,
    /// Records of admissions that failed, of which something may be on disk all the same.
    leftovers: Vec<Record>,
    /// What was made for the pod whose admission is under way.
    ahead: Option<Box<Ahead>>,
    /// Records of which no pod can be made any more, with why. What they hold is to be given back.
    unreadable: Vec<(Record, String)>,
    failures: BTreeMap<StepKey, Failure>,
    in_flight: BTreeSet<StepKey>,
    /// Jobs that may take for ever and may be given up at any point (preparations of images, hooks), by their steps: the sender
    /// dropped ends the job.
    waits: BTreeMap<StepKey, oneshot::Sender<()>>,
    /// Images in preparation when an image came or went, resizes under way when other amounts were asked for: what they say may be
    /// about before.
    stale: BTreeSet<StepKey>,
    jobs: JoinSet<(StepKey, Result<Outcome, StepError>)>,
    /// None: the runtime has to be asked.
    looked: Option<Result<(), StepError>>,
    /// It has succeeded once.
    known: bool,
    look_again: Option<Moment>,
    /// What the node has of the pods has changed, and the runtime need not be asked for it: that would take as long as a container's
    /// snapshot.
    inspect_again: bool,
    configs: contents::Configs,
    /// The DaemonSet of which this is a pod object of the control endpoint.
    owner: Option<String>,
    turn: Turn,
}

impl<M: Machine> Worker<M> {
    /// A worker over the records that were found for its workload.
    pub fn new(
        key: WorkloadKey,
        shared: Arc<Shared<M>>,
        wanted: watch::Receiver<Wanted>,
        requests: mpsc::Receiver<Box<Request>>,
        nudge: Arc<Nudge>,
        mut records: Vec<Record>,
    ) -> Worker<M> {
        records.sort_by_key(|r| (r.generation, r.admitted_at));
        let disk_taken = shared.records.taken();
        let mut worker = Worker {
            key,
            shared,
            wanted,
            requests,
            nudge,
            pods: Vec::new(),
            wishes: Vec::new(),
            evictions: BTreeMap::new(),
            saving: BTreeMap::new(),
            debts: BTreeMap::new(),
            disk_taken,
            not_refreshed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            starts: BTreeMap::new(),
            hooks: BTreeMap::new(),
            last_lines: BTreeMap::new(),
            resized: BTreeMap::new(),
            prober: Prober::default(),
            health: BTreeMap::new(),
            strays: Vec::new(),
            silent: BTreeMap::new(),
            silent_seen: None,
            deletions: BTreeMap::new(),
            leftovers: Vec::new(),
            ahead: None,
            unreadable: Vec::new(),
            failures: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            waits: BTreeMap::new(),
            stale: BTreeSet::new(),
            jobs: JoinSet::new(),
            looked: None,
            known: false,
            look_again: None,
            inspect_again: false,
            configs: contents::Configs::default(),
            owner: None,
            turn: Turn::default(),
        };
        for record in records {
            match record.read_back(&worker.shared.context) {
                Ok(desired) => {
                    worker.owner = desired.object.as_ref().and_then(|object| object.owner.clone());
                    worker.resume_deletions(&record);
                    worker.pods.push(new_view(record, desired));
                }
                // Its containers become strays and end; the manifest, if it still stands, starts a new pod.
                Err(rejections) => worker.set_aside(record, unreadable::words(&rejections)),
            }
        }
        let now = worker.shared.machine.clock().now();
        // Until the runtime has said otherwise, what is on record may run.
        let standing = Standing { there: !worker.pods.is_empty(), ..worker.standing(now) };
        worker.shared.turns.enter(&worker.key, standing, worker.nudge.clone());
        worker
    }

    /// Runs until nothing is wanted and nothing is left, or the agent stops. Boxed, because what a future is given by value lies in
    /// it twice.
    pub async fn run(mut self: Box<Self>) {
        self.announce();
        loop {
            let stopping = *self.shared.stopping.borrow();
            if stopping && self.jobs.is_empty() {
                return;
            }
            self.take_nudges();
            if self.looked.is_none() {
                self.look().await;
            }
            if std::mem::take(&mut self.inspect_again) {
                self.inspect().await;
            }
            self.take_contents();
            let now = self.shared.machine.clock().now();
            let outdated_again = if stopping { None } else { self.remove_outdated(now) };
            self.lose_patience(now);
            self.follow_probes();
            self.take_turn(now);
            let mut planned = self.plan(now);
            self.hold_twins(&mut planned);
            self.plan_strays(&mut planned, now);
            self.plan_unreadable(&mut planned);
            self.hold_admission(&mut planned);
            if !stopping {
                self.start(std::mem::take(&mut planned.steps), now);
            }
            self.give_up(stopping);
            self.publish(planned.waiting_for, now);
            if self.is_over() {
                self.shared.board.publish(&self.key, None);
                self.shared.turns.leave(&self.key);
                return;
            }
            let moments = [
                planned.wake_at,
                self.look_again,
                self.removals_again(now),
                self.debts_again(stopping),
                self.refills_again(now),
                outdated_again,
            ];
            let wake_at = moments.into_iter().flatten().min();
            self.tidy();
            self.wait(wake_at, stopping).await;
        }
    }

    /// A map that held one entry has room for eleven also when it is empty again; a worker that waits gives that back.
    fn tidy(&mut self) {
        fn give_back<T: Default>(emptied: bool, it: &mut T) {
            if emptied {
                *it = T::default();
            }
        }
        give_back(self.saving.is_empty(), &mut self.saving);
        give_back(self.debts.is_empty(), &mut self.debts);
        give_back(self.deletions.is_empty(), &mut self.deletions);
        give_back(self.delivered.is_empty(), &mut self.delivered);
        give_back(self.leftovers.is_empty(), &mut self.leftovers);
        give_back(self.failures.is_empty(), &mut self.failures);
        give_back(self.in_flight.is_empty(), &mut self.in_flight);
        give_back(self.waits.is_empty(), &mut self.waits);
        give_back(self.stale.is_empty(), &mut self.stale);
        give_back(self.starts.is_empty(), &mut self.starts);
    }

    /// Every arm may be dropped half-way: a watch and a Notify keep what they were told, a JoinSet its results, a
    /// channel its messages, and a timer is set anew.
    async fn wait(&mut self, wake_at: Option<Moment>, stopping: bool) {
        let clock = self.shared.machine.clock();
        let timer = async {
            match wake_at {
                Some(moment) => clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        let mut told = self.shared.stopping.clone();
        let stop = async {
            // Known already: now it is the jobs that are waited for.
            if stopping || told.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut disk = self.disk_taken.clone();
        let taken = async {
            if disk.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            Some(joined) = self.jobs.join_next(), if !self.jobs.is_empty() => match joined {
                Ok((key, result)) => self.finish(key, result),
                // In release builds a panic has ended the process already.
                Err(e) => panic!("a step panicked: {e}"),
            },
            changed = self.wanted.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            Some(request) = self.requests.recv() => self.request(*request),
            () = self.nudge.told() => {}
            // It is looked at when debts are paid.
            () = taken, if !self.debts.is_empty() && !stopping => {}
            () = stop => {}
            () = timer => {
                // What is done about a silent shim rests on a look of that moment.
                let now = self.shared.machine.clock().now().boot;
                if !self.silent.is_empty() || self.look_again.is_some_and(|m| m <= now) {
                    self.looked = None;
                }
            }
        }
    }

    fn take_nudges(&mut self) {
        let flags = self.nudge.take();
        if flags & LOOK != 0 {
            self.looked = None;
        }
        if flags & IMAGES != 0 {
            self.failures.retain(|key, _| !matches!(key, StepKey::PrepareImage(..)));
            self.stale.extend(self.in_flight.iter().filter(|key| matches!(key, StepKey::PrepareImage(..))).cloned());
            for view in &mut self.pods {
                view.images.values_mut().for_each(|image| *image = ImageState::Unknown);
            }
        }
        if flags & RETRY != 0 {
            self.failures.values_mut().for_each(|failure| failure.not_before = Moment(0));
        }
    }

    /// Asks the runtime and the node what there is.
    async fn look(&mut self) {
        self.look_again = None;
        let shared = self.shared.clone();
        let asked = shared.machine.runtime().observe(Some(&self.key));
        match counted(shared.board.metrics(), "list_containers", asked).await {
            Ok(containers) => {
                self.pods.iter_mut().for_each(|view| view.containers.clear());
                self.inspect().await;
                self.note_silence(&containers);
                let known = std::mem::take(&mut self.strays);
                let now = shared.machine.clock().now();
                for container in containers {
                    shared.directory.own(&container.id, &container.run.uid, &self.key);
                    match self.pods.iter_mut().find(|v| v.record.uid == container.run.uid) {
                        Some(view) => view.containers.push(container),
                        None => self.strays.push(self.stray(container, &known)),
                    }
                }
                self.date_ends(now);
                self.looked = Some(Ok(()));
                self.known = true;
            }
            Err(e) => {
                self.look_again = Some(shared.machine.clock().now().boot.after(UNAVAILABLE_RETRY));
                // A runtime that is away says nothing about shims.
                self.silent.clear();
                self.looked = Some(Err(e));
            }
        }
    }

    /// A run that was started and has ended, the runtime does not know when: now, as far as anybody knows.
    fn date_ends(&mut self, now: Now) {
        for container in self.pods.iter_mut().flat_map(|view| &mut view.containers) {
            if let ContainerState::Exited { finished_at, .. } = &mut container.state
                && is_no_time(*finished_at)
                && self.starts.contains_key(&container.run)
            {
                *finished_at = now.wall;
            }
        }
    }

    /// Asks the node alone.
    async fn inspect(&mut self) {
        self.inspect_again = false;
        let sandboxes = self.shared.machine.sandboxes();
        for view in &mut self.pods {
            view.sandbox = sandboxes.inspect(&view.record.uid, &view.template).await;
        }
    }

    /// While the runtime does not say what runs, what is probed stays as it is.
    fn follow_probes(&mut self) {
        if matches!(self.looked, Some(Ok(()))) {
            self.prober.follow(&self.key, &self.pods, &self.shared, &self.nudge);
        }
        self.health = self.prober.health();
    }

    fn plan(&self, now: Now) -> Plan {
        if let Some(Err(e)) = &self.looked {
            let waiting = Waiting {
                uid: None,
                container: None,
                reason: "RuntimeUnavailable".into(),
                message: e.message.clone(),
                until: self.look_again,
            };
            return Plan { waiting_for: vec![waiting], ..Plan::default() };
        }
        plan(&self.whole(&self.wanted.borrow(), now))
    }

    fn standing(&self, now: Now) -> Standing {
        let wanted = self.wanted.borrow();
        let owner = match &*wanted {
            Wanted::Run(wanted) => wanted.object.as_ref().and_then(|object| object.owner.clone()),
            _ => self.owner.clone(),
        };
        standing(&self.whole(&wanted, now), owner)
    }

    /// Tells the others how this workload stands, and learns what they leave to it. A runtime that is away says nothing new.
    fn take_turn(&mut self, now: Now) {
        if matches!(self.looked, Some(Ok(()))) {
            self.shared.turns.say(&self.key, self.standing(now));
        }
        self.turn = self.shared.turns.of(&self.key);
    }

    fn whole<'a>(&'a self, wanted: &'a Wanted, now: Now) -> View<'a> {
        View {
            wanted,
            pods: &self.pods,
            failures: &self.failures,
            in_flight: &self.in_flight,
            delivered: &self.delivered,
            hooks: &self.hooks,
            last_lines: &self.last_lines,
            resized: &self.resized,
            health: &self.health,
            silent: &self.silent,
            turn: &self.turn,
            now,
            boot_id: self.shared.machine.boot_id(),
        }
    }

    fn start(&mut self, steps: Vec<Step>, now: Now) {
        for step in steps {
            let key = step.key();
            if self.in_flight.contains(&key) {
                continue;
            }
            if let Some(job) = self.job(step, now) {
                self.spawn(key, job);
            }
        }
        self.evict(now);
        self.grant_wishes(now);
        self.pay_debts(now);
        self.refill(now);
        self.remove_leftovers(now);
        self.give_back_unreadable(now);
        if matches!(self.looked, Some(Ok(()))) {
            self.delete_again(now);
        }
    }

    fn is_waiting(&self, key: &StepKey, now: Now) -> bool {
        self.failures.get(key).is_some_and(|f| f.not_before > now.boot)
    }

    fn spawn(&mut self, key: StepKey, job: Job) {
        match &job {
            Job::Delete { run, .. } => {
                self.deletions.insert(key.clone(), run.clone());
            }
            // It takes over whatever a deletion has left of the run.
            Job::Create { pod, container, attempt, .. } => {
                let container = pod.template.spec.containers[*container].name.clone();
                let run = RunKey { uid: pod.record.uid.clone(), container, attempt: *attempt };
                self.deletions.remove(&delete_key(&run));
            }
            _ => {}
        }
        self.in_flight.insert(key.clone());
        self.spawn_job(key, job);
    }

    fn spawn_job(&mut self, key: StepKey, job: Job) {
        let shared = self.shared.clone();
        let workload = self.key.clone();
        let wait = matches!(job, Job::PrepareImage { .. } | Job::Hook { .. }).then(oneshot::channel::<()>);
        let given_up = wait.map(|(wait, given_up)| {
            self.waits.insert(key.clone(), wait);
            given_up
        });
        self.jobs.spawn(async move {
            let ground = Ground {
                machine: &shared.machine,
                records: &shared.records,
                gate: &shared.gate,
                metrics: shared.board.metrics(),
            };
            let given_up = async {
                match given_up {
                    // An error is its meaning: nobody waits any more.
                    Some(given_up) => drop(given_up.await),
                    None => std::future::pending().await,
                }
            };
            let result = tokio::select! {
                biased;
                result = execute(&ground, &workload, job) => result,
                () = given_up => Ok(Outcome::GivenUp),
            };
            (key, result)
        });
    }

    /// A pod that ends waits for no image, nor does an agent that stops: the bytes that are here stay for the next one. A
    /// hook goes with its run, and when the run is told to stop.
    fn give_up(&mut self, stopping: bool) {
        let (pods, delivered) = (&self.pods, &self.delivered);
        self.waits.retain(|key, _| {
            let Some(pod) = pods.iter().find(|view| step_uid(key) == Some(&view.record.uid)) else { return false };
            let StepKey::Run(uid, container, attempt, _) = key else {
                return !stopping && pod.record.lifecycle == Lifecycle::Running;
            };
            let run = RunKey { uid: uid.clone(), container: container.clone(), attempt: *attempt };
            let runs = |c: &ObservedContainer| c.run == run && c.state.may_run();
            let told = StepKey::Run(run.uid.clone(), run.container.clone(), run.attempt, RunStep::SignalStop);
            !stopping && !delivered.contains_key(&told) && pod.containers.iter().any(runs)
        });
    }

    /// The step with all that it needs. None when what it is about went away meanwhile.
    fn job(&mut self, step: Step, now: Now) -> Option<Job> {
        let container_index =
            |view: &PodView, name: &str| view.template.spec.containers.iter().position(|c| c.name == name);
        let run = |uid: Uid, container: String, attempt: u32| RunKey { uid, container, attempt };
        match step {
            Step::Admit => {
                let Wanted::Run(wanted) = self.wanted.borrow().clone() else { return None };
                let record = self.admit(&wanted, now);
                self.shared.directory.claim(&record);
                // Until its admission is known to have succeeded.
                self.leftovers.reserve_exact(1);
                self.leftovers.push(record.clone());
                self.go_ahead(&record, &wanted);
                Some(Job::Admit { wanted, record: Box::new(record) })
            }
            Step::Remember { uid, change } => {
                self.remember(&uid, change, now);
                None
            }
            // A write that hangs would bring back what is removed.
            Step::Forget { uid } if self.saving.contains_key(&uid) => None,
            Step::PrepareImage { uid, container } => {
                let view = self.view(&uid)?;
                let index = container_index(view, &container)?;
                let news = self.image_news(view, &container, &view.template.spec.containers[index].image);
                Some(Job::PrepareImage { pod: admitted(view), container: index, news })
            }
            Step::SetUp { uid } => {
                let pod = admitted(self.view(&uid)?);
                let files = self.files_for(&pod, now);
                Some(Job::SetUp { pod, files })
            }
            Step::Connect { uid } => Some(Job::Connect { pod: admitted(self.view(&uid)?) }),
            Step::Create { uid, container, attempt } => {
                let view = self.view(&uid)?;
                let index = container_index(view, &container)?;
                let not_refreshed =
                    self.not_refreshed.get(&(uid.clone(), container.clone())).cloned().unwrap_or_default();
                let pod = admitted(view);
                let run = run(uid, container, attempt);
                let contents = self.contents_for(&run);
                let ruling = self.shared.board.ruling().filter(|_| self.key.kind == WorkloadKind::Control);
                let api = ruling.and_then(|ruling| ruling.api.clone());
                let job = Job::Create { pod, container: index, attempt, not_refreshed, contents, api };
                self.shared.directory.own(&run.container_id(), &run.uid, &self.key);
                Some(job)
            }
            Step::Resize { uid } => {
                let view = self.view(&uid)?;
                let lives = |c: &&ObservedContainer| {
                    matches!(c.state, ContainerState::Created | ContainerState::Running { .. })
                };
                // Only the next run of these is to have the new amounts. One that did not start as far as is on record may yet.
                let ends = |run: &RunKey| {
                    let restarts = view.record.course.resize.as_ref().and_then(|it| it.restarts.get(&run.container));
                    let started = view.record.remembered(&run.container).and_then(|it| it.started_attempt);
                    restarts == Some(&run.attempt) && started >= Some(run.attempt)
                };
                let runs =
                    view.containers.iter().filter(lives).map(|c| c.run.clone()).filter(|run| !ends(run)).collect();
                Some(Job::Resize { pod: admitted(view), runs })
            }
            Step::Start { uid, container, attempt } => {
                if let Some(message) = self
                    .turn
                    .waited_in_vain()
                    .filter(|_| self.view(&uid).is_some_and(|view| !order::has_run_here(view)))
                {
                    tracing::warn!(workload = %self.key, message, "not waited for any longer");
                    self.tell_exactly(&uid, Some(&container), Severity::Warning, "OldPodNotStopped", message);
                }
                let run = run(uid, container, attempt);
                self.starts.insert(run.clone(), now);
                Some(Job::Start { run })
            }
            Step::Signal { uid, container, attempt, signal } => {
                let run = run(uid, container, attempt);
                if signal == Signal::Stop {
                    self.tell(&run.uid, Some(&run.container), Severity::Normal, "Killing", "Stopping container");
                }
                Some(Job::Signal { run, signal })
            }
            Step::Hook { uid, container, attempt, hook } => {
                let view = self.view(&uid)?;
                let index = container_index(view, &container)?;
                Some(Job::Hook { pod: admitted(view), container: index, attempt, hook, address: address_of(view) })
            }
            Step::Delete { uid, container, attempt } => {
                let run = run(uid, container, attempt);
                let unsaid = self.unsaid(&run);
                Some(Job::Delete { run, unsaid })
            }
            Step::EndShim { uid } => Some(Job::EndShim { pod: self.runs_of(uid) }),
            Step::TearDown { uid } => {
                let lives = self.view(&uid).is_some_and(|view| view.record.lifecycle == Lifecycle::Running);
                let leave = if lives { Leave::Volumes } else { Leave::Nothing };
                Some(Job::TearDown { uid, leave })
            }
            Step::Forget { uid } => Some(Job::Forget { record: Box::new(self.view(&uid)?.record.clone()) }),
        }
    }

    fn admit(&self, wanted: &DesiredPod, now: Now) -> Record {
        let random = self.shared.machine.random();
        let generation = self.pods.iter().map(|v| v.record.generation).max().unwrap_or(0).saturating_add(1);
        let mut course = Course::of(&wanted.template, now);
        // Another document is another try.
        let before = self.pods.iter().map(|view| &view.record).filter(|it| it.revision == wanted.revision);
        if let Some(before) = before.max_by_key(|it| it.generation) {
            course = course.after(before, now);
        }
        Record {
            uid: match &wanted.object {
                Some(object) => object.uid.clone(),
                None => Uid(uuid::Builder::from_random_bytes(random).into_uuid().to_string()),
            },
            workload: self.key.clone(),
            name: pod_name(&self.key, &self.shared.context.node_name, random),
            revision: wanted.revision.clone(),
            origin: wanted.origin.clone(),
            document: wanted.document.clone(),
            admitted_at: now.wall,
            generation,
            boot_id: self.shared.machine.boot_id().to_owned(),
            lifecycle: Lifecycle::Running,
            containers: BTreeMap::new(),
            course,
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Delete { uid, reply } => self.wishes.push((uid, reply)),
            Request::Evict { uid, message } => {
                self.evictions.insert(uid, message);
            }
        }
    }

    /// Adopted pods are shown before the runtime has answered, should that take long.
    fn announce(&self) {
        if self.pods.is_empty() {
            return;
        }
        let message = "the container runtime has not said yet what runs".to_owned();
        let waiting = Waiting { uid: None, container: None, reason: "Pending".into(), message, until: None };
        self.shared.board.announce(&self.key, self.published(vec![waiting], self.shared.machine.clock().now()));
    }

    fn publish(&self, waiting: Vec<Waiting>, now: Now) {
        self.shared.board.publish(&self.key, Some(self.published(waiting, now)));
    }

    fn published(&self, waiting: Vec<Waiting>, now: Now) -> Published {
        Published {
            wanted: WantedSummary::from(&*self.wanted.borrow()),
            known: self.known,
            pods: self.pods.clone(),
            waiting,
            failures: self.failures.clone(),
            silent: self.silent.clone(),
            lacks_token: self.lacks_token(),
            now,
        }
    }

    fn is_over(&self) -> bool {
        matches!(*self.wanted.borrow(), Wanted::Gone | Wanted::End { .. })
            && self.pods.is_empty()
            && self.jobs.is_empty()
            && self.strays.is_empty()
            && self.deletions.is_empty()
            && self.leftovers.is_empty()
            && self.unreadable.is_empty()
            && matches!(self.looked, Some(Ok(())))
    }

    /// The record of the pod where this run is its container's last and failed without a word.
    fn unsaid(&self, run: &RunKey) -> Option<Box<Record>> {
        let record = &self.view(&run.uid)?.record;
        let last = record.containers.get(&run.container)?.last.as_ref()?;
        (last.attempt == run.attempt && is_unsaid(last)).then(|| Box::new(record.clone()))
    }

    fn view(&self, uid: &Uid) -> Option<&PodView> {
        self.pods.iter().find(|v| v.record.uid == *uid)
    }

    fn view_mut(&mut self, uid: &Uid) -> Option<&mut PodView> {
        self.pods.iter_mut().find(|v| v.record.uid == *uid)
    }
}

/// Where the pod can be reached from this node. With hostNetwork the node's address; a node without a network has itself.
pub fn address_of(view: &PodView) -> Option<IpAddr> {
    let itself = || view.template.spec.host_network.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    match &view.sandbox {
        SandboxState::Connected { ips } => ips.first().copied().or_else(itself),
        SandboxState::Made => itself(),
        SandboxState::Absent | SandboxState::Broken { .. } => None,
    }
}

fn new_view(record: Record, desired: DesiredPod) -> PodView {
    let images = desired.template.spec.containers.iter().map(|c| (c.name.clone(), ImageState::Unknown)).collect();
    PodView {
        record,
        template: desired.template,
        sandbox: SandboxState::Absent,
        containers: Vec::new(),
        images,
        owed: None,
    }
}

fn admitted(view: &PodView) -> Admitted {
    Admitted { record: view.record.clone(), template: view.template.clone() }
}

/// `<name>-<node>` for a Pod document, `<name>-<5 letters>` for a DaemonSet's pod, an object's own. A DaemonSet's long name is cut so
/// that the whole fits the 253 bytes of a DNS subdomain.
fn pod_name(key: &WorkloadKey, node: &str, random: [u8; 16]) -> String {
    // Kubernetes' alphabet for generated names: no vowels, no look-alikes.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    match key.kind {
        WorkloadKind::Pod => format!("{}-{node}", key.name),
        WorkloadKind::Control => key.name.clone(),
        WorkloadKind::DaemonSet => {
            let suffix = random[..5].iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
            let cut = key.name.len().min(253 - 6);
            format!("{}-{}", &key.name[..cut], suffix.collect::<String>())
        }
    }
}

fn step_uid(key: &StepKey) -> Option<&Uid> {
    match key {
        StepKey::Admit => None,
        StepKey::Remember(uid)
        | StepKey::PrepareImage(uid, _)
        | StepKey::SetUp(uid)
        | StepKey::Fill(uid)
        | StepKey::Connect(uid)
        | StepKey::Resize(uid)
        | StepKey::Run(uid, ..)
        | StepKey::EndShim(uid)
        | StepKey::TearDown(uid)
        | StepKey::Forget(uid) => Some(uid),
    }
}
