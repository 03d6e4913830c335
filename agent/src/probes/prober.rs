//! Probes the runs of one workload: a task for each run that has probes, which carries them out and says what is known.
//!
//! Owned by the worker, which brings it up to date at every turn ([`Prober::follow`]) and hands what is known to the plan. A task
//! nudges the worker only when that changes. What the outcomes mean is [`Probing`]'s to say.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use pod::name::{RunKey, WorkloadKey};
use pod::observed::{Health, ProbeKind};
use pod::plan::PodView;
use pod::probe::{Begin, Found, KINDS, Probing};
use pod::record::{Lifecycle, Verdict};
use pod::spec::{Container, PodTemplate, Probe};
use pod::time::Moment;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::handlers::{Answer, Blame, NotDone, Target, probe};
use crate::events::{About, Event, Severity};
use crate::metrics::ProbeResult;
use crate::seams::{Clock, Machine};
use crate::worker::{Nudge, Shared, address_of};

/// Tries of a probe that could not be carried out: Kubernetes' number.
const TRIES_MAX: u32 = 3;
/// Different findings of one probe that become events of their own; a daemon that says the time with each failure would
/// otherwise fill the ring.
const FINDINGS_MAX: usize = 8;

/// The probes of one workload's runs.
#[derive(Debug, Default)]
pub struct Prober {
    known: Arc<Mutex<BTreeMap<RunKey, Health>>>,
    tasks: BTreeMap<RunKey, Probed>,
    /// The runs that this life of the agent has found were looked at.
    has_looked: bool,
}

#[derive(Debug)]
struct Probed {
    task: JoinHandle<()>,
    told: watch::Sender<Told>,
}

/// What a task must know and what may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    ends: bool,
    address: Option<IpAddr>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tasks.values().for_each(|probed| probed.task.abort());
    }
}

impl Prober {
    /// What is known of the runs that have probes.
    pub fn health(&self) -> BTreeMap<RunKey, Health> {
        self.known.lock().expect("nothing panics while it is held").clone()
    }

    /// Brings the tasks up to date with what was observed.
    pub fn follow<M: Machine>(
        &mut self,
        workload: &WorkloadKey,
        pods: &[PodView],
        shared: &Arc<Shared<M>>,
        nudge: &Arc<Nudge>,
    ) {
        let wanted: BTreeMap<RunKey, (&PodView, usize)> =
            pods.iter().flat_map(|view| probed(view).map(move |(run, container)| (run, (view, container)))).collect();
        let known = &self.known;
        self.tasks.retain(|run, probed| {
            let stays = wanted.contains_key(run);
            if !stays {
                // Dropped wherever it is: a command is killed, a connection closed.
                probed.task.abort();
                known.lock().expect("nothing panics while it is held").remove(run);
            }
            stays
        });
        for (run, (view, container)) in wanted {
            let told = told(view, &run);
            if let Some(probed) = self.tasks.get(&run) {
                probed.told.send_if_modified(|known| std::mem::replace(known, told) != told);
                continue;
            }
            let (teller, hears) = watch::channel(told);
            let probing = begin(view, container, &run, shared, self.has_looked);
            known.lock().expect("nothing panics while it is held").insert(run.clone(), probing.health());
            let of_run = OfRun {
                shared: shared.clone(),
                about: About {
                    kind: "Pod".into(),
                    namespace: workload.namespace.clone(),
                    name: view.record.name.clone(),
                    uid: view.record.uid.0.clone(),
                    container: Some(run.container.clone()),
                },
                id: run.container_id(),
                run: run.clone(),
                template: view.template.clone(),
                container,
                known: known.clone(),
                nudge: nudge.clone(),
                findings: BTreeMap::new(),
            };
            self.tasks.insert(run, Probed { task: tokio::spawn(of_run.follow(probing, hears)), told: teller });
        }
        self.has_looked = true;
    }
}

/// The runs of a pod that are to be probed, with their container's place.
fn probed(view: &PodView) -> impl Iterator<Item = (RunKey, usize)> {
    view.containers.iter().filter_map(|observed| {
        // One whose shim does not answer goes on as it was.
        if !observed.state.may_run() {
            return None;
        }
        let place = view.template.spec.containers.iter().position(|it| it.name == observed.run.container)?;
        let container = &view.template.spec.containers[place];
        let memory = view.record.containers.get(&container.name)?;
        // Its start is on record, and its postStart hook is over.
        let hook_is_over = container.hooks.post_start.is_none() || memory.post_started >= Some(observed.run.attempt);
        let runs = memory.started_attempt == Some(observed.run.attempt) && hook_is_over;
        (runs && !container.probes.is_empty()).then(|| (observed.run.clone(), place))
    })
}

fn told(view: &PodView, run: &RunKey) -> Told {
    let stopping = view.record.containers.get(&run.container).and_then(|memory| memory.stopping.as_ref());
    let ends = view.record.lifecycle != Lifecycle::Running || stopping.is_some_and(|it| it.attempt == run.attempt);
    Told { ends, address: address_of(view) }
}

fn begin<M: Machine>(view: &PodView, container: usize, run: &RunKey, shared: &Shared<M>, has_looked: bool) -> Probing {
    let machine = &shared.machine;
    let now = machine.clock().now().boot;
    let memory = view.record.containers.get(&run.container);
    let of_this_boot = view.record.boot_id == machine.boot_id();
    let started_at = memory.and_then(|it| it.started_moment).filter(|_| of_this_boot).unwrap_or(now);
    let verdict: Option<&Verdict> = memory.and_then(|it| it.verdict.as_ref()).filter(|it| it.attempt == run.attempt);
    let spread = || {
        let random = machine.random();
        [random[0], random[1], random[2]]
    };
    let begin = match has_looked {
        true => Begin::Started,
        false => Begin::Adopted { verdict, spread: spread() },
    };
    Probing::new(&view.template.spec.containers[container].probes, started_at, now, begin)
}

/// What the task of one run has.
struct OfRun<M> {
    shared: Arc<Shared<M>>,
    about: About,
    run: RunKey,
    id: String,
    template: Arc<PodTemplate>,
    /// Its place in the template.
    container: usize,
    known: Arc<Mutex<BTreeMap<RunKey, Health>>>,
    nudge: Arc<Nudge>,
    /// What was told as events, by probe.
    findings: BTreeMap<ProbeKind, Vec<String>>,
}

type Running = Pin<Box<dyn Future<Output = Result<Answer, NotDone>> + Send>>;

impl<M: Machine> OfRun<M> {
    /// Until it is aborted.
    async fn follow(mut self, mut probing: Probing, mut told: watch::Receiver<Told>) {
        let mut running: [Option<Running>; KINDS.len()] = Default::default();
        loop {
            let now = self.shared.machine.clock().now().boot;
            let Told { ends, address } = *told.borrow_and_update();
            if ends {
                probing.terminates();
            }
            let mut next = None;
            while let Some((kind, moment)) = probing.due() {
                if moment > now {
                    next = Some(moment);
                    break;
                }
                probing.begins(kind, now);
                running[place(kind)] = self.carry_out(kind, address);
            }
            self.say(probing.health());
            // Every arm may be dropped: what runs stays in its slot, a watch keeps what it was told, a timer is set anew.
            tokio::select! {
                (kind, answer) = first(&mut running) => {
                    let now = self.shared.machine.clock().now().boot;
                    let found = self.tell(kind, answer);
                    probing.ended(kind, found, now);
                }
                () = self.sleep_until(next) => {}
                heard = told.changed() => if heard.is_err() { return },
            }
        }
    }

    async fn sleep_until(&self, moment: Option<Moment>) {
        match moment {
            Some(moment) => self.shared.machine.clock().sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }

    fn carry_out(&self, kind: ProbeKind, address: Option<IpAddr>) -> Option<Running> {
        let (shared, template, container, id) =
            (self.shared.clone(), self.template.clone(), self.container, self.id.clone());
        of_kind(&template.spec.containers[container], kind)?;
        Some(Box::pin(async move {
            let container = &template.spec.containers[container];
            let Some(wanted) = of_kind(container, kind) else {
                return Err(NotDone("it is not asked for".into(), Blame::Asked));
            };
            let target = Target { container_id: &id, container, address };
            let mut tries = 1;
            loop {
                match probe(shared.machine.runtime(), wanted, target).await {
                    Err(_) if tries < TRIES_MAX => tries += 1,
                    answer => return answer,
                }
            }
        }))
    }

    /// What was found, told to people under Kubernetes' reasons.
    fn tell(&mut self, kind: ProbeKind, answer: Result<Answer, NotDone>) -> Found {
        let (result, reason, message, found) = match answer {
            Ok(Answer::Success) => (ProbeResult::Successful, None, String::new(), Found::Success),
            Ok(Answer::Warning(said)) => {
                let message = format!("{kind} probe warning: {said}");
                (ProbeResult::Successful, Some("ProbeWarning"), message, Found::Success)
            }
            Ok(Answer::Failure(said)) => {
                let message = format!("{kind} probe failed: {said}");
                (ProbeResult::Failed, Some("Unhealthy"), message, Found::Failure(said))
            }
            Err(NotDone(why, _)) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {why}");
                (ProbeResult::Unknown, Some("Unhealthy"), message, Found::Nothing)
            }
        };
        self.shared.board.metrics().probed(&self.about, kind, result);
        if let Some(reason) = reason {
            tracing::debug!(run = %self.run, probe = %kind, message, "probe");
            let told = self.findings.entry(kind).or_default();
            let message = if told.contains(&message) {
                message
            } else if told.len() < FINDINGS_MAX {
                told.push(message.clone());
                message
            } else {
                format!("{kind} probe: it says something else each time, which is in the agent's log at level debug")
            };
            let at = self.shared.machine.clock().now().wall;
            let (severity, about) = (Severity::Warning, self.about.clone());
            self.shared.board.record(Event { severity, reason: reason.into(), about, message, at });
        }
        found
    }

    /// Nudges only where it is another than before.
    fn say(&self, health: Health) {
        let mut known = self.known.lock().expect("nothing panics while it is held");
        // Gone: this task is about to be aborted.
        let Some(before) = known.get_mut(&self.run) else { return };
        if *before != health {
            tracing::info!(run = %self.run, started = health.started, ready = health.ready,
                failed = health.failed.as_ref().map(|failed| failed.probe.to_string()), "probes");
            *before = health;
            drop(known);
            self.nudge.again();
        }
    }
}

impl<M> Drop for OfRun<M> {
    fn drop(&mut self) {
        self.shared.board.metrics().probes_over(&self.about);
    }
}

fn of_kind(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    let probes = &container.probes;
    match kind {
        ProbeKind::Startup => probes.startup.as_ref(),
        ProbeKind::Liveness => probes.liveness.as_ref(),
        ProbeKind::Readiness => probes.readiness.as_ref(),
    }
}

fn place(kind: ProbeKind) -> usize {
    KINDS.iter().position(|it| *it == kind).expect("all kinds are listed")
}

/// The first of those that run to be done; its slot is empty then. Waits where none runs.
async fn first(running: &mut [Option<Running>; KINDS.len()]) -> (ProbeKind, Result<Answer, NotDone>) {
    poll_fn(|context| {
        for (slot, kind) in running.iter_mut().zip(KINDS) {
            if let Some(future) = slot
                && let Poll::Ready(answer) = future.as_mut().poll(context)
            {
                *slot = None;
                return Poll::Ready((kind, answer));
            }
        }
        Poll::Pending
    })
    .await
}
