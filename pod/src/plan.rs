//! `plan(desired, observed, memory, now)`: the one decision. Values in, steps out; no side effects.
//!
//! Driven by the worker, after every wake and after every step that ended. All steps of one answer may run at the
//! same time; the worker never runs the same step twice at once and passes what is still in flight. A plan of a
//! converged pod is empty.

mod conflict;
mod deadline;
mod draft;
mod ending;
mod halt;
mod missed;
pub mod order;
mod orphans;
mod pod;
mod resize;
mod roles;
mod run;
mod sandbox;
mod silence;
mod strays;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::desired::Wanted;
use crate::name::{RunKey, Uid};
use crate::observed::{Health, ImageState, ObservedContainer, SandboxState};
use crate::record::{Amounts, PodFailure, Record, Stopping, Termination};
use crate::spec::PodTemplate;
use crate::time::{Moment, Now};
use crate::turns::Turn;

pub use deadline::DEADLINE_EXCEEDED;
pub use orphans::{Orphans, orphans};
pub use pod::is_unsaid;
pub use resize::RESIZE_RESTARTS;
pub use run::{FAILED_HOOK, OTHER_IMAGE, back_off, exit_reason};
pub use silence::{SHIM_PATIENCE, SHIM_SILENT};
pub use strays::{STRAY_GRACE, Stray, end_strays};

/// What to do now for one workload.
///
/// First the roles: which pod is *the* pod, which its successor, which is to end. Then each pod by itself: what it is
/// converged to follows from its role alone. Whatever is in flight, in the way of something in flight, or waits after
/// a failure is left out and named in `waiting_for`.
pub fn plan(view: &View<'_>) -> Plan {
    let mut draft = draft::Draft::new(view);
    let roles = roles::decide(view);
    for wait in roles.waiting {
        draft.wait(wait);
    }
    if roles.admit {
        draft.step(Step::Admit);
    }
    for (index, goal) in roles.goals.into_iter().enumerate() {
        pod::converge(&mut draft, view, index, goal);
    }
    draft.finish()
}

/// Everything that is known of one workload at one moment.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub wanted: &'a Wanted,
    /// Oldest first. At most two live ones: the pod and its successor.
    pub pods: &'a [PodView],
    pub failures: &'a BTreeMap<StepKey, Failure>,
    pub in_flight: &'a BTreeSet<StepKey>,
    /// Signals that this process has delivered. In memory only: a daemon gets one SIGTERM, not one a wake.
    pub delivered: &'a BTreeMap<StepKey, Delivery>,
    /// Hooks that are over. In memory only: a hook is run at least once.
    pub hooks: &'a BTreeMap<StepKey, HookEnd>,
    /// Last lines of the logs of runs that failed without a word.
    pub last_lines: &'a BTreeMap<RunKey, String>,
    /// Pods whose cgroups have been given what their revision asks for. In memory only; what it means is remembered.
    pub resized: &'a BTreeMap<Uid, u64>,
    /// What probes say of runs. In memory only; what it means is remembered in the record.
    pub health: &'a BTreeMap<RunKey, Health>,
    /// Pods whose shim does not answer, and since when no look has found otherwise. In memory only.
    pub silent: &'a BTreeMap<Uid, Now>,
    /// What the other workloads of the node leave to this one.
    pub turn: &'a Turn,
    pub now: Now,
    /// The present boot (/proc/sys/kernel/random/boot_id).
    pub boot_id: &'a str,
}

/// One pod of the workload.
#[derive(Debug, Clone)]
pub struct PodView {
    pub record: Record,
    pub template: Arc<PodTemplate>,
    pub sandbox: SandboxState,
    pub containers: Vec<ObservedContainer>,
    /// By container name.
    pub images: BTreeMap<String, ImageState>,
    /// None: `record` is as on disk.
    pub owed: Option<Owed>,
}

/// Changes of a record that are acted on and that the state disk has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub since: jiff::Timestamp,
    /// Why, and what to do.
    pub message: String,
}

/// A step that failed and waits for its next try. In memory only.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub count: u32,
    pub not_before: Moment,
    /// Kubernetes' reason (CreateContainerError, CreatePodSandboxError, ErrImagePull …).
    pub reason: String,
    pub message: String,
}

/// A signal that was delivered, or a shim that was ended. That it had no effect shows in the run that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    pub count: u32,
    /// When it was last delivered.
    pub at: Moment,
}

/// How a hook came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEnd {
    /// Why it failed, when it did.
    pub failed: Option<String>,
}

impl Delivery {
    /// Delivered once more.
    pub fn again(self, at: Moment) -> Delivery {
        Delivery { count: self.count.saturating_add(1), at }
    }
}

/// One thing to do. The executor has no policy: it does exactly this.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write a record for the wanted pod: a new uid (and, for a DaemonSet, a new name).
    Admit,
    /// Write these changed records (restart memory, lifecycle). Always safe, always first; where the disk does not take
    /// it, it is owed and the pod goes on.
    Remember {
        uid: Uid,
        change: Change,
    },
    /// Look for the container's image and unpack it.
    PrepareImage {
        uid: Uid,
        container: String,
    },
    /// Namespaces, cgroup, directories, files.
    SetUp {
        uid: Uid,
    },
    /// Give the pod's network namespace its addresses (CNI ADD).
    Connect {
        uid: Uid,
    },
    /// Snapshot, log pipes, container, task: everything but the start.
    Create {
        uid: Uid,
        container: String,
        attempt: u32,
    },
    /// The amounts of cpu and memory that the pod's document asks for, to its cgroup and those of its containers.
    Resize {
        uid: Uid,
    },
    Start {
        uid: Uid,
        container: String,
        attempt: u32,
    },
    Signal {
        uid: Uid,
        container: String,
        attempt: u32,
        signal: Signal,
    },
    /// What a container does beside its entrypoint when it has started, or before it is told to stop.
    Hook {
        uid: Uid,
        container: String,
        attempt: u32,
        hook: Hook,
    },
    /// Task, container, snapshot and log pipes of a run that does not run.
    Delete {
        uid: Uid,
        container: String,
        attempt: u32,
    },
    /// The shim that serves the pod's containers and does not answer, and with it all their processes.
    EndShim {
        uid: Uid,
    },
    /// CNI DEL, namespaces, cgroup, directories; also of a half-made sandbox.
    TearDown {
        uid: Uid,
    },
    /// Remove the record and the pod's logs: the last trace.
    Forget {
        uid: Uid,
    },
}

/// What a [`Step::Remember`] writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A run was started, or is seen running and is not yet known to have been started.
    Started { container: String, attempt: u32 },
    /// A run ended; restart memory moves on with it. `not_before` is None for a restart at once.
    /// `completed`: it was an init container, and it has done its work.
    Ended { container: String, termination: Termination, failures: u32, not_before: Option<Moment>, completed: bool },
    /// A run is to end although its pod lives on.
    Stopping { container: String, stopping: Stopping },
    /// A run's postStart hook is over.
    PostStarted { container: String, attempt: u32 },
    /// What the probes of a run find has changed.
    Verdict { container: String, attempt: u32, started: bool, ready: bool },
    /// What can be shown of why a run failed has been found: the end of its log.
    Words { container: String, attempt: u32, message: String },
    /// The pod's surroundings were lost and are made anew: its init containers run again.
    Renewed,
    /// Termination begins, or its deadline shrinks.
    Terminating { deadline: Moment, reason: String },
    /// The pod has failed as a whole: its containers end, and none runs again.
    Failed(PodFailure),
    /// All containers ended and none is to run again.
    Finished,
    /// Labels, annotations or the update strategy changed, the running thing did not: same uid, new document.
    Document { document: crate::received::Received, origin: crate::desired::Origin },
    /// The document asks for other amounts of cpu or memory and for nothing else: same uid. `from`: what its containers had;
    /// `restarts`: runs that are to end for it.
    Resize {
        document: crate::received::Received,
        origin: crate::desired::Origin,
        revision: String,
        from: BTreeMap<String, Amounts>,
        restarts: BTreeMap<String, u32>,
    },
    /// The cgroups have what the resize of this number (`Course.resizes`) asks for: a revision may come back, its number does not.
    Resized { number: u64 },
    /// Another boot: moments are void, back-off starts anew.
    NewBoot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// The image's STOPSIGNAL, else SIGTERM.
    Stop,
    Kill,
}

/// v1 Lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    PostStart,
    PreStop,
}

/// The identity of a step: what may not run twice at once, and what a failure is remembered under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKey {
    Admit,
    Remember(Uid),
    PrepareImage(Uid, String),
    SetUp(Uid),
    /// Writing the files of projected volumes anew; the worker does it by itself.
    Fill(Uid),
    Connect(Uid),
    Resize(Uid),
    Run(Uid, String, u32, RunStep),
    EndShim(Uid),
    TearDown(Uid),
    Forget(Uid),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunStep {
    Create,
    Start,
    PostStart,
    PreStop,
    SignalStop,
    SignalKill,
    Delete,
}

impl StepKey {
    /// Of [`Step::Delete`].
    pub fn removal(run: &RunKey) -> StepKey {
        run_key(&run.uid, &run.container, run.attempt, RunStep::Delete)
    }
}

impl Step {
    pub fn key(&self) -> StepKey {
        match self {
            Step::Admit => StepKey::Admit,
            Step::Remember { uid, .. } => StepKey::Remember(uid.clone()),
            Step::PrepareImage { uid, container } => StepKey::PrepareImage(uid.clone(), container.clone()),
            Step::SetUp { uid } => StepKey::SetUp(uid.clone()),
            Step::Connect { uid } => StepKey::Connect(uid.clone()),
            Step::Resize { uid } => StepKey::Resize(uid.clone()),
            Step::Create { uid, container, attempt } => run_key(uid, container, *attempt, RunStep::Create),
            Step::Start { uid, container, attempt } => run_key(uid, container, *attempt, RunStep::Start),
            Step::Signal { uid, container, attempt, signal } => {
                let step = match signal {
                    Signal::Stop => RunStep::SignalStop,
                    Signal::Kill => RunStep::SignalKill,
                };
                run_key(uid, container, *attempt, step)
            }
            Step::Hook { uid, container, attempt, hook } => {
                let step = match hook {
                    Hook::PostStart => RunStep::PostStart,
                    Hook::PreStop => RunStep::PreStop,
                };
                run_key(uid, container, *attempt, step)
            }
            Step::Delete { uid, container, attempt } => run_key(uid, container, *attempt, RunStep::Delete),
            Step::EndShim { uid } => StepKey::EndShim(uid.clone()),
            Step::TearDown { uid } => StepKey::TearDown(uid.clone()),
            Step::Forget { uid } => StepKey::Forget(uid.clone()),
        }
    }
}

fn run_key(uid: &Uid, container: &str, attempt: u32, step: RunStep) -> StepKey {
    StepKey::Run(uid.clone(), container.to_owned(), attempt, step)
}

/// What to do now, when to look again at the latest, and what is being waited for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Look again then, even if nothing wakes us.
    pub wake_at: Option<Moment>,
    /// For `why` and the status: in the order of importance.
    pub waiting_for: Vec<Waiting>,
}

/// Something that a pod waits for, in words for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub uid: Option<Uid>,
    pub container: Option<String>,
    /// Kubernetes' reason where one exists (CrashLoopBackOff, ImagePullBackOff, ContainerCreating …).
    pub reason: String,
    pub message: String,
    pub until: Option<Moment>,
}
