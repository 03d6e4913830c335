//! One worker per workload: observe, plan, execute, publish, wait. The only writer of its pods' records.
//!
//! Driven by `workers`, which hands it what is wanted and wakes it. A wake carries no data: it means "look again", so
//! that a container's exit, a lost event, an agent's restart and a timer share one path. Steps run side by side; each
//! one that ends leads to the next plan. A step that fails is a reason in the status and a back-off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pod::backoff;
use pod::desired::{DesiredPod, Wanted};
use pod::lifecycle::deadline;
use pod::manifest::{Context, parse_recorded};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::{ContainerState, ImageState, ObservedContainer, SandboxState};
use pod::plan::{Change, Delivery, Failure, Plan, PodView, Signal, Step, StepKey, View, Waiting, plan};
use pod::record::{Lifecycle, Record};
use pod::time::{Moment, Now};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::board::{Board, Published, WantedSummary};
use crate::events::{About, Event, Severity};
use crate::execute::{Admitted, Ground, Job, Outcome, counted, execute};
use crate::gate::Gate;
use crate::records::Records;
use crate::seams::{Clock, Machine, Prepared, Runtime, Sandboxes, StepError};

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
    /// True: finish what is in flight, plan nothing more, end.
    pub stopping: watch::Receiver<bool>,
}

/// Wakes a worker. Cheap, never blocks, coalesces.
#[derive(Debug, Default)]
pub struct Nudge {
    flags: AtomicU8,
    notify: Notify,
}

const LOOK: u8 = 1;
const IMAGES: u8 = 2;
const RETRY: u8 = 4;

impl Nudge {
    /// Something may have happened to its containers.
    pub fn look(&self) {
        self.set(LOOK);
    }

    /// An image came or went: what waits for one tries at once.
    pub fn images(&self) {
        self.set(IMAGES);
    }

    /// Everything may be different: look, and try at once what failed for want of the other side.
    pub fn all(&self) {
        self.set(LOOK | IMAGES | RETRY);
    }

    fn set(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.notify.notify_one();
    }
}

/// A person's wish.
#[derive(Debug)]
pub enum Request {
    Delete { uid: Uid, reply: oneshot::Sender<Result<(), String>> },
}

/// See the top of the file.
pub struct Worker<M: Machine> {
    key: WorkloadKey,
    shared: Arc<Shared<M>>,
    wanted: watch::Receiver<Wanted>,
    requests: mpsc::Receiver<Request>,
    nudge: Arc<Nudge>,
    /// Oldest first.
    pods: Vec<PodView>,
    /// Pods that a person wants ended and whose records do not say so yet.
    wishes: Vec<(Uid, oneshot::Sender<Result<(), String>>)>,
    /// Why images are not as fresh as their pull policy asks, by pod and container.
    not_refreshed: BTreeMap<(Uid, String), String>,
    /// Signals that were delivered: a daemon gets one SIGTERM, not one a wake.
    delivered: BTreeMap<StepKey, Delivery>,
    /// Containers of this workload that no record speaks of.
    strays: Vec<ObservedContainer>,
    /// Deletions that have begun and not succeeded. The container may be gone and its log pipes not: then nothing that is
    /// observed asks for the deletion again.
    deletions: BTreeMap<StepKey, RunKey>,
    /// Records of admissions that failed, of which something may be on disk all the same.
    leftovers: Vec<Record>,
    failures: BTreeMap<StepKey, Failure>,
    in_flight: BTreeSet<StepKey>,
    jobs: JoinSet<(StepKey, Result<Outcome, StepError>)>,
    /// None: the runtime has to be asked.
    looked: Option<Result<(), StepError>>,
    look_again: Option<Moment>,
}

impl<M: Machine> Worker<M> {
    /// A worker over the records that were found for its workload.
    pub fn new(
        key: WorkloadKey,
        shared: Arc<Shared<M>>,
        wanted: watch::Receiver<Wanted>,
        requests: mpsc::Receiver<Request>,
        nudge: Arc<Nudge>,
        mut records: Vec<Record>,
    ) -> Worker<M> {
        records.sort_by_key(|r| (r.generation, r.admitted_at));
        let mut worker = Worker {
            key,
            shared,
            wanted,
            requests,
            nudge,
            pods: Vec::new(),
            wishes: Vec::new(),
            not_refreshed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            strays: Vec::new(),
            deletions: BTreeMap::new(),
            leftovers: Vec::new(),
            failures: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            jobs: JoinSet::new(),
            looked: None,
            look_again: None,
        };
        for record in records {
            match parse_recorded(&record.document, &record.origin, &worker.shared.context) {
                Ok(desired) => {
                    worker.resume_deletions(&record);
                    worker.pods.push(new_view(record, desired));
                }
                Err(rejections) => {
                    // Its containers become strays and end; the manifest, if it still stands, starts a new pod.
                    let why = rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    tracing::error!(workload = %worker.key, uid = %record.uid, why, "a record cannot be run any more");
                }
            }
        }
        worker
    }

    /// A former life of the agent may have been cut short between a run's removal and the closing of its log pipes.
    fn resume_deletions(&mut self, record: &Record) {
        for (container, memory) in &record.containers {
            if let Some(last) = &memory.last {
                let attempt = last.attempt;
                let run = RunKey { uid: record.uid.clone(), container: container.clone(), attempt };
                self.deletions.insert(delete_key(&run), run);
            }
        }
    }

    /// Runs until nothing is wanted and nothing is left, or the agent stops.
    pub async fn run(mut self) {
        loop {
            let stopping = *self.shared.stopping.borrow();
            if stopping && self.jobs.is_empty() {
                return;
            }
            self.take_nudges();
            if self.looked.is_none() {
                self.look().await;
            }
            let now = self.shared.machine.clock().now();
            let mut planned = self.plan(now);
            self.hold_twins(&mut planned);
            if !stopping {
                self.start(std::mem::take(&mut planned.steps), now);
            }
            self.publish(planned.waiting_for, now);
            if self.is_over() {
                self.shared.board.publish(&self.key, None);
                return;
            }
            let wake_at = [planned.wake_at, self.look_again, self.removals_again(now)].into_iter().flatten().min();
            self.wait(wake_at, stopping).await;
        }
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
            Some(request) = self.requests.recv() => self.request(request),
            () = self.nudge.notify.notified() => {}
            () = stop => {}
            () = timer => {
                if self.look_again.is_some_and(|m| m <= self.shared.machine.clock().now().boot) {
                    self.looked = None;
                }
            }
        }
    }

    fn take_nudges(&mut self) {
        let flags = self.nudge.flags.swap(0, Ordering::AcqRel);
        if flags & LOOK != 0 {
            self.looked = None;
        }
        if flags & IMAGES != 0 {
            self.failures.retain(|key, _| !matches!(key, StepKey::PrepareImage(..)));
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
                for view in &mut self.pods {
                    view.containers.clear();
                    view.sandbox = shared.machine.sandboxes().inspect(&view.record.uid, &view.template).await;
                }
                self.strays.clear();
                for container in containers {
                    shared.directory.own(&container.id, &container.run.uid, &self.key);
                    match self.pods.iter_mut().find(|v| v.record.uid == container.run.uid) {
                        Some(view) => view.containers.push(container),
                        None => self.strays.push(container),
                    }
                }
                self.looked = Some(Ok(()));
            }
            Err(e) => {
                self.look_again = Some(shared.machine.clock().now().boot.after(UNAVAILABLE_RETRY));
                self.looked = Some(Err(e));
            }
        }
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
        let wanted = self.wanted.borrow();
        plan(&View {
            wanted: &wanted,
            pods: &self.pods,
            failures: &self.failures,
            in_flight: &self.in_flight,
            delivered: &self.delivered,
            now,
            boot_id: self.shared.machine.boot_id(),
        })
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
        self.grant_wishes(now);
        self.remove_leftovers(now);
        if matches!(self.looked, Some(Ok(()))) {
            self.remove_strays(now);
            self.delete_again(now);
        }
    }

    /// Ends containers that no record speaks of; but where it is not known what is wanted, and no pod can take their
    /// place, the record may only be unreadable: what runs stays until the workload's source has been heard.
    fn remove_strays(&mut self, now: Now) {
        if self.pods.is_empty() && matches!(*self.wanted.borrow(), Wanted::Hold { .. }) {
            return;
        }
        for run in self.strays.iter().map(|stray| stray.run.clone()).collect::<Vec<_>>() {
            let key = delete_key(&run);
            if !self.in_flight.contains(&key) && !self.is_waiting(&key, now) {
                tracing::warn!(workload = %self.key, %run, "a container without a record is removed");
                self.spawn(key, Job::Delete { run });
            }
        }
    }

    /// Repeats deletions that failed after the container was gone. What is still observed is the plan's to decide.
    fn delete_again(&mut self, now: Now) {
        for (key, run) in self.deletions.clone() {
            let observed = self.pods.iter().flat_map(|view| &view.containers).chain(&self.strays);
            if !observed.into_iter().any(|c| c.run == run)
                && !self.in_flight.contains(&key)
                && !self.is_waiting(&key, now)
            {
                self.spawn(key, Job::Delete { run });
            }
        }
    }

    /// A container without a record may still run: no other of its name starts beside it.
    fn hold_twins(&self, planned: &mut Plan) {
        for stray in self.strays.iter().filter(|c| !matches!(c.state, ContainerState::Exited { .. })) {
            let twin = |step: &Step| matches!(step, Step::Start { container, .. } if *container == stray.run.container);
            if let Some(Step::Start { uid, container, .. }) = planned.steps.iter().find(|step| twin(step)) {
                planned.waiting_for.push(Waiting {
                    uid: Some(uid.clone()),
                    container: Some(container.clone()),
                    reason: "ContainerCreating".into(),
                    message: format!("waits for the end of {}, a container without a record", stray.run),
                    until: None,
                });
                planned.steps.retain(|step| !twin(step));
            }
        }
    }

    /// Begins the end of pods that a person wants ended, and answers those whose end is on record.
    fn grant_wishes(&mut self, now: Now) {
        for (uid, reply) in std::mem::take(&mut self.wishes) {
            let Some(view) = self.view(&uid) else {
                let _ = reply.send(Err(format!("the pod with uid {uid} is gone already")));
                continue;
            };
            if matches!(view.record.lifecycle, Lifecycle::Terminating { .. }) {
                let _ = reply.send(Ok(()));
                continue;
            }
            let change = Change::Terminating { deadline: deadline(&view.template, now.boot), reason: "Deleted".into() };
            let step = Step::Remember { uid: uid.clone(), change };
            let key = step.key();
            if !self.in_flight.contains(&key)
                && !self.is_waiting(&key, now)
                && let Some(job) = self.job(step, now)
            {
                self.spawn(key, job);
            }
            self.wishes.push((uid, reply));
        }
    }

    fn remove_leftovers(&mut self, now: Now) {
        for record in self.leftovers.clone() {
            let key = StepKey::Forget(record.uid.clone());
            if !self.in_flight.contains(&key)
                && !self.in_flight.contains(&StepKey::Admit)
                && !self.is_waiting(&key, now)
            {
                self.spawn(key, Job::Forget { record: Box::new(record) });
            }
        }
    }

    /// When something that could not be removed, and that no plan speaks of, is tried again. What is in flight ends by
    /// itself.
    fn removals_again(&self, now: Now) -> Option<Moment> {
        let leftovers = self.leftovers.iter().map(|record| StepKey::Forget(record.uid.clone()));
        let strays = self.strays.iter().map(|stray| delete_key(&stray.run));
        let keys = leftovers.chain(strays).chain(self.deletions.keys().cloned());
        keys.filter_map(|key| self.failures.get(&key).map(|f| f.not_before)).filter(|moment| *moment > now.boot).min()
    }

    fn is_waiting(&self, key: &StepKey, now: Now) -> bool {
        self.failures.get(key).is_some_and(|f| f.not_before > now.boot)
    }

    fn spawn(&mut self, key: StepKey, job: Job) {
        let shared = self.shared.clone();
        let workload = self.key.clone();
        match &job {
            Job::Delete { run } => {
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
        self.jobs.spawn(async move {
            let ground = Ground {
                machine: &shared.machine,
                records: &shared.records,
                gate: &shared.gate,
                metrics: shared.board.metrics(),
            };
            let result = execute(&ground, &workload, job).await;
            (key, result)
        });
    }

    /// The step with all that it needs. None when what it is about went away meanwhile.
    fn job(&mut self, step: Step, now: Now) -> Option<Job> {
        let container_index =
            |view: &PodView, name: &str| view.template.spec.containers.iter().position(|c| c.name == name);
        let run = |uid: Uid, container: String, attempt: u32| RunKey { uid, container, attempt };
        match step {
            Step::Admit => {
                let Wanted::Run(wanted) = &*self.wanted.borrow() else { return None };
                if self.leftovers.len() >= LEFTOVERS_MAX {
                    return None;
                }
                let record = self.admit(wanted, now);
                self.shared.directory.claim(&record);
                // Until its admission is known to have succeeded.
                self.leftovers.push(record.clone());
                Some(Job::Admit { wanted: wanted.clone(), record: Box::new(record) })
            }
            Step::Remember { uid, change } => {
                let boot_id = self.shared.machine.boot_id().to_owned();
                let mut record = self.view(&uid)?.record.clone();
                self.tell_change(&record, &change, now);
                record.remember(change, now, &boot_id);
                Some(Job::Save { record: Box::new(record) })
            }
            Step::PrepareImage { uid, container } => {
                let view = self.view(&uid)?;
                let container = container_index(view, &container)?;
                Some(Job::PrepareImage { pod: admitted(view), container })
            }
            Step::SetUp { uid } => Some(Job::SetUp { pod: admitted(self.view(&uid)?) }),
            Step::Connect { uid } => Some(Job::Connect { pod: admitted(self.view(&uid)?) }),
            Step::Create { uid, container, attempt } => {
                let view = self.view(&uid)?;
                let index = container_index(view, &container)?;
                let not_refreshed =
                    self.not_refreshed.get(&(uid.clone(), container.clone())).cloned().unwrap_or_default();
                let job = Job::Create { pod: admitted(view), container: index, attempt, not_refreshed };
                let run = run(uid, container, attempt);
                self.shared.directory.own(&run.container_id(), &run.uid, &self.key);
                Some(job)
            }
            Step::Start { uid, container, attempt } => Some(Job::Start { run: run(uid, container, attempt) }),
            Step::Signal { uid, container, attempt, signal } => {
                let run = run(uid, container, attempt);
                if signal == Signal::Stop {
                    self.tell(&run.uid, Some(&run.container), Severity::Normal, "Killing", "Stopping container");
                }
                Some(Job::Signal { run, signal })
            }
            Step::Delete { uid, container, attempt } => Some(Job::Delete { run: run(uid, container, attempt) }),
            Step::TearDown { uid } => Some(Job::TearDown { uid }),
            Step::Forget { uid } => Some(Job::Forget { record: Box::new(self.view(&uid)?.record.clone()) }),
        }
    }

    fn admit(&self, wanted: &DesiredPod, now: Now) -> Record {
        let random = self.shared.machine.random();
        let generation = self.pods.iter().map(|v| v.record.generation).max().unwrap_or(0).saturating_add(1);
        Record {
            uid: Uid(uuid::Builder::from_random_bytes(random).into_uuid().to_string()),
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
        }
    }

    /// Takes a step's end into the view.
    fn finish(&mut self, key: StepKey, result: Result<Outcome, StepError>) {
        self.in_flight.remove(&key);
        let now = self.shared.machine.clock().now();
        match result {
            Ok(outcome) => {
                self.failures.remove(&key);
                self.succeed(outcome);
            }
            Err(error) => self.fail(key, error, now),
        }
    }

    fn succeed(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Admitted { wanted, record } => {
                tracing::info!(workload = %self.key, pod = record.name, uid = %record.uid, revision = record.revision,
                    "pod admitted");
                self.leftovers.retain(|r| r.uid != record.uid);
                self.pods.push(new_view(*record, *wanted));
            }
            Outcome::Saved { record } => {
                self.shared.directory.claim(&record);
                let reread = self.view(&record.uid).filter(|v| v.record.document != record.document).map(|_| {
                    // Labels or annotations changed: what runs is the same, its status is not.
                    parse_recorded(&record.document, &record.origin, &self.shared.context)
                });
                self.count_start(&record);
                if let Some(view) = self.view_mut(&record.uid) {
                    if let Some(Ok(desired)) = reread {
                        view.template = desired.template;
                    }
                    view.record = *record;
                }
            }
            Outcome::ImageReady { uid, container, prepared } => {
                self.image_ready(&uid, &container, prepared);
                if let Some(view) = self.view_mut(&uid) {
                    view.images.insert(container, ImageState::Ready);
                }
            }
            Outcome::SetUp { uid } => {
                if let Some(view) = self.view_mut(&uid) {
                    view.sandbox = SandboxState::Made;
                    if view.template.spec.host_network {
                        // Its addresses are the node's: the next look knows them.
                        self.looked = None;
                    }
                }
            }
            Outcome::Connected { uid, ips } => {
                if let Some(view) = self.view_mut(&uid) {
                    view.sandbox = SandboxState::Connected { ips };
                }
            }
            Outcome::Created { run, created, not_refreshed } => {
                self.tell(&run.uid, Some(&run.container), Severity::Normal, "Created", "Created container");
                let key = self.key.clone();
                if let Some(view) = self.view_mut(&run.uid) {
                    match view.containers.iter_mut().find(|c| c.run == run) {
                        Some(known) if known.state == ContainerState::NoTask => known.state = ContainerState::Created,
                        Some(_) => {}
                        None => view.containers.push(ObservedContainer {
                            id: run.container_id(),
                            workload: key,
                            run,
                            image_id: created.image_id,
                            adapted: created.adapted,
                            not_refreshed,
                            state: ContainerState::Created,
                        }),
                    }
                }
            }
            Outcome::Started { run, pid } => self.started(&run, pid),
            Outcome::Signalled { run, signal } => {
                let step = Step::Signal { uid: run.uid, container: run.container, attempt: run.attempt, signal };
                let now = self.shared.machine.clock().now().boot;
                let before = self.delivered.get(&step.key()).copied().unwrap_or_default();
                self.delivered.insert(step.key(), before.again(now));
            }
            Outcome::Deleted { run } => {
                self.shared.directory.disown(&run.container_id());
                self.deletions.remove(&delete_key(&run));
                self.strays.retain(|stray| stray.run != run);
                self.delivered.retain(|key, _| !is_of_run(key, &run));
                self.failures.retain(|key, _| !is_of_run(key, &run));
                if let Some(view) = self.view_mut(&run.uid) {
                    view.containers.retain(|c| c.run != run);
                }
            }
            Outcome::TornDown { uid } => {
                if let Some(view) = self.view_mut(&uid) {
                    view.sandbox = SandboxState::Absent;
                }
            }
            Outcome::Forgotten { uid } => {
                self.pods.retain(|v| v.record.uid != uid);
                self.leftovers.retain(|r| r.uid != uid);
                self.failures.retain(|key, _| step_uid(key) != Some(&uid));
                self.not_refreshed.retain(|(of, _), _| *of != uid);
                self.shared.directory.unclaim(&uid);
                tracing::info!(workload = %self.key, %uid, "pod gone");
            }
        }
    }

    fn started(&mut self, run: &RunKey, pid: u32) {
        self.tell(&run.uid, Some(&run.container), Severity::Normal, "Started", "Started container");
        tracing::info!(workload = %self.key, container = run.container, attempt = run.attempt, pid, "container started");
        // What was seen meanwhile is newer: a run that has ended already stays ended.
        if let Some(view) = self.view_mut(&run.uid)
            && let Some(known) = view.containers.iter_mut().find(|c| c.run == *run)
            && known.state == ContainerState::Created
        {
            known.state = ContainerState::Running { pid };
            let last = view.record.containers.get(&run.container).and_then(|memory| memory.last.as_ref());
            if let Some(reason) = last.map(|last| last.reason.clone()) {
                self.shared.board.metrics().container_restarted(&reason);
            }
        }
    }

    /// Whether the image is fresh is told once a pod and container, however often it is looked for.
    fn image_ready(&mut self, uid: &Uid, container: &str, prepared: Prepared) {
        let of = (uid.clone(), container.to_owned());
        match prepared {
            Prepared::AsAsked => {
                self.not_refreshed.remove(&of);
            }
            Prepared::NotRefreshed { message } => {
                let known = self.not_refreshed.insert(of, message.clone()).is_some();
                // A later run of a pod that was adopted: it was told when the pod was new.
                let ran = self.view(uid).is_some_and(|view| view.record.containers.contains_key(container));
                if !known && !ran {
                    self.tell(uid, Some(container), Severity::Warning, "ImageNotRefreshed", &message);
                }
            }
        }
    }

    /// The moment in which the last of a pod's containers has its first start on record.
    fn count_start(&self, record: &Record) {
        let Some(view) = self.view(&record.uid) else { return };
        let complete = |record: &Record| {
            let started =
                |name: &str| record.containers.get(name).is_some_and(|memory| memory.started_attempt.is_some());
            view.template.spec.containers.iter().all(|container| started(&container.name))
        };
        if complete(record) && !complete(&view.record) {
            let last = record.containers.values().filter_map(|memory| memory.started_at).max();
            let took = last.map(|at| Duration::try_from(at.duration_since(record.admitted_at)).unwrap_or_default());
            self.shared.board.metrics().pod_started(took.unwrap_or_default());
        }
    }

    fn fail(&mut self, key: StepKey, error: StepError, now: Now) {
        // What is there now is not what was thought.
        self.looked = None;
        let count = match (&error.unavailable, self.failures.get(&key)) {
            (true, Some(before)) => before.count,
            (true, None) => 0,
            (false, before) => before.map_or(0, |f| f.count).saturating_add(1),
        };
        let wait = if error.unavailable { UNAVAILABLE_RETRY } else { backoff::step(&key, count) };
        if let StepKey::PrepareImage(uid, container) = &key {
            let state = ImageState::Missing { reason: error.reason.into(), message: error.message.clone() };
            if let Some(view) = self.view_mut(uid) {
                view.images.insert(container.clone(), state);
            }
        }
        if let StepKey::Run(uid, container, _, pod::plan::RunStep::Create) = &key
            && let Some(view) = self.view_mut(uid)
        {
            // Perhaps it failed because the image went away.
            view.images.insert(container.clone(), ImageState::Unknown);
        }
        tracing::warn!(workload = %self.key, step = ?key, reason = error.reason, message = error.message, count,
            "step failed");
        if let Some(uid) = step_uid(&key) {
            let container = step_container(&key);
            self.tell(&uid.clone(), container, Severity::Warning, event_reason(error.reason), &error.message);
        }
        let failure =
            Failure { count, not_before: now.boot.after(wait), reason: error.reason.into(), message: error.message };
        self.failures.insert(key, failure);
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Delete { uid, reply } => self.wishes.push((uid, reply)),
        }
    }

    fn publish(&self, waiting: Vec<Waiting>, now: Now) {
        let published = Published {
            wanted: WantedSummary::from(&*self.wanted.borrow()),
            pods: self.pods.clone(),
            waiting,
            failures: self.failures.clone(),
            now,
        };
        self.shared.board.publish(&self.key, Some(published));
    }

    fn is_over(&self) -> bool {
        matches!(*self.wanted.borrow(), Wanted::Gone)
            && self.pods.is_empty()
            && self.jobs.is_empty()
            && self.strays.is_empty()
            && self.deletions.is_empty()
            && self.leftovers.is_empty()
            && matches!(self.looked, Some(Ok(())))
    }

    fn view(&self, uid: &Uid) -> Option<&PodView> {
        self.pods.iter().find(|v| v.record.uid == *uid)
    }

    fn view_mut(&mut self, uid: &Uid) -> Option<&mut PodView> {
        self.pods.iter_mut().find(|v| v.record.uid == *uid)
    }

    fn tell_change(&self, record: &Record, change: &Change, now: Now) {
        if let Change::Ended { container, termination, not_before, .. } = change {
            tracing::info!(workload = %self.key, container, attempt = termination.attempt,
                exit_code = termination.exit_code, reason = termination.reason, "container ended");
            if let Some(until) = not_before.filter(|until| *until > now.boot) {
                let wait = until.since(now.boot).as_secs();
                let message = format!("Back-off {wait}s restarting failed container {container}");
                self.tell(&record.uid, Some(container), Severity::Warning, "BackOff", &message);
            }
        }
    }

    fn tell(&self, uid: &Uid, container: Option<&str>, severity: Severity, reason: &str, message: &str) {
        let Some(view) = self.view(uid) else { return };
        let message = match container {
            Some(container) if severity == Severity::Normal => format!("{message} {container}"),
            _ => message.to_owned(),
        };
        self.shared.board.record(Event {
            severity,
            reason: reason.to_owned(),
            about: About {
                kind: "Pod".into(),
                namespace: self.key.namespace.clone(),
                name: view.record.name.clone(),
                uid: uid.0.clone(),
                container: container.map(str::to_owned),
            },
            message,
            at: self.shared.machine.clock().now().wall,
        });
    }
}

fn new_view(record: Record, desired: DesiredPod) -> PodView {
    let images = desired.template.spec.containers.iter().map(|c| (c.name.clone(), ImageState::Unknown)).collect();
    PodView { record, template: desired.template, sandbox: SandboxState::Absent, containers: Vec::new(), images }
}

fn admitted(view: &PodView) -> Admitted {
    Admitted { record: view.record.clone(), template: view.template.clone() }
}

/// `<name>-<node>` for a Pod document, `<name>-<5 letters>` for a DaemonSet's pod. A DaemonSet's long name is cut so
/// that the whole fits the 253 bytes of a DNS subdomain.
fn pod_name(key: &WorkloadKey, node: &str, random: [u8; 16]) -> String {
    // Kubernetes' alphabet for generated names: no vowels, no look-alikes.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    match key.kind {
        WorkloadKind::Pod => format!("{}-{node}", key.name),
        WorkloadKind::DaemonSet => {
            let suffix = random[..5].iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
            let cut = key.name.len().min(253 - 6);
            format!("{}-{}", &key.name[..cut], suffix.collect::<String>())
        }
    }
}

fn delete_key(run: &RunKey) -> StepKey {
    Step::Delete { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt }.key()
}

fn is_of_run(key: &StepKey, run: &RunKey) -> bool {
    matches!(key, StepKey::Run(uid, container, attempt, _) if (uid, container, *attempt) == (&run.uid, &run.container, run.attempt))
}

fn step_uid(key: &StepKey) -> Option<&Uid> {
    match key {
        StepKey::Admit => None,
        StepKey::Remember(uid)
        | StepKey::PrepareImage(uid, _)
        | StepKey::SetUp(uid)
        | StepKey::Connect(uid)
        | StepKey::Run(uid, ..)
        | StepKey::TearDown(uid)
        | StepKey::Forget(uid) => Some(uid),
    }
}

fn step_container(key: &StepKey) -> Option<&str> {
    match key {
        StepKey::PrepareImage(_, container) | StepKey::Run(_, container, ..) => Some(container),
        _ => None,
    }
}

/// The event's reason for a step's: Kubernetes has fewer of them.
fn event_reason(reason: &str) -> &str {
    match reason {
        "CreatePodSandboxError" => "FailedCreatePodSandBox",
        "FailedMount" => "FailedMount",
        _ => "Failed",
    }
}
