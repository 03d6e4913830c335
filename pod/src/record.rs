//! What was admitted: a pod of a workload with all that must survive the agent. One writer, its worker; on disk in
//! the state directory. What *runs* is containerd's to know and is not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff;
use crate::desired::{DesiredPod, Origin};
use crate::manifest::{Context, Rejection, is_known_class, parse_recorded};
use crate::name::{Uid, WorkloadKey};
use crate::received::Received;
use crate::spec::{PodSpec, PodTemplate};
use crate::storage::EVICTED;
use crate::time::{Moment, Now};

/// An admitted pod. Its template is not stored twice: `manifest` reads it from `document`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub uid: Uid,
    pub workload: WorkloadKey,
    /// The pod's own name.
    pub name: String,
    pub revision: String,
    pub origin: Origin,
    /// The document as received.
    pub document: Received,
    pub admitted_at: jiff::Timestamp,
    /// Counts the admissions of this workload on this node, from 1.
    pub generation: u64,
    /// The boot in which the moments below were taken (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    pub lifecycle: Lifecycle,
    /// By container name. Boxed, because a map has room for eleven values at once and a pod has one container or two.
    pub containers: BTreeMap<String, Box<ContainerMemory>>,
    /// What few pods need.
    #[serde(default, skip_serializing_if = "is_default")]
    pub course: Course,
}

/// What has become of a pod as a whole, beside its lifecycle.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Course {
    /// Boot clock at the admission of a pod with `activeDeadlineSeconds`; None: it has none, or that was another boot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub admitted_moment: Option<Moment>,
    /// What its priority class gave the pod at its admission, where a document says what the class is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Option<Box<Classed>>,
    /// Resources that are on their way to the pod's cgroups.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resize: Option<Box<Resize>>,
    /// How often the pod was given other resources: `metadata.generation` is one more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resizes: u64,
    /// Since when the pod's network stands, or does not any more; None: it never stood.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network_since: Option<jiff::Timestamp>,
    /// How many pods of this revision before it, one right after the other, have failed by what they used of the disk.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evictions: u32,
    /// None of its containers starts before this moment of the boot clock: because of those.
    #[serde(default, skip_serializing_if = "is_default")]
    pub not_before: Option<Moment>,
    /// A container of it has been started in this boot and since the node last stood still, whatever became of it: its turn has come.
    #[serde(default, skip_serializing_if = "is_default")]
    pub begun: bool,
    /// The pod has failed, whatever becomes of its containers. Never taken back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failed: Option<Box<PodFailure>>,
}

/// A resize that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    pub since: jiff::Timestamp,
    /// What containers had before, by name: what they have until `applied`.
    pub from: BTreeMap<String, Amounts>,
    /// Runs that are to end because their containers' resizePolicy asks for new ones, by container.
    pub restarts: BTreeMap<String, u32>,
    /// The cgroups have the new amounts.
    pub applied: bool,
}

/// v1 ResourceRequirements as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    pub limits: BTreeMap<String, String>,
    pub requests: BTreeMap<String, String>,
}

/// A priority class and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classed {
    pub class: String,
    pub value: i32,
}

/// Why a pod has failed as a whole: `reason` and `message` of v1 PodStatus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFailure {
    pub reason: String,
    pub message: String,
}

impl Course {
    /// Of a pod that is admitted now.
    pub fn of(template: &PodTemplate, now: Now) -> Course {
        let PodSpec { priority, priority_class, active_deadline, .. } = &template.spec;
        let class = priority_class.as_ref().filter(|class| !is_known_class(class));
        Course {
            admitted_moment: active_deadline.map(|_| now.boot),
            priority: class.map(|class| Classed { class: class.clone(), value: *priority }.into()),
            ..Course::default()
        }
    }

    /// The same of a pod that takes the place of this one: where that has failed by what it used of the disk, there is the back-off of
    /// containers that crash, so that a pod which fills the disk as soon as it runs does not do so for ever without a pause.
    pub fn after(self, before: &Record, now: Now) -> Course {
        let evicted = matches!(&before.lifecycle, Lifecycle::Terminating { reason, .. } if reason == EVICTED);
        if !evicted {
            return self;
        }
        let lived = Duration::try_from(now.wall.duration_since(before.admitted_at)).unwrap_or_default();
        let (evictions, not_before) = backoff::after_end(before.course.evictions, lived, now.boot);
        Course { evictions, not_before, ..self }
    }
}

impl Record {
    /// What the pod was admitted as: its document read back, with what was looked up for it.
    pub fn read_back(&self, context: &Context) -> Result<DesiredPod, Vec<Rejection>> {
        let mut pod = parse_recorded(&self.document, &self.origin, context)?;
        if let Some(Classed { class, value }) = self.course.priority.as_deref() {
            let spec = &mut Arc::make_mut(&mut pod.template).spec;
            (spec.priority, spec.priority_class) = (*value, Some(class.clone()));
        }
        Ok(pod)
    }

    /// What is remembered of this container; None: it has never been started.
    pub fn remembered(&self, container: &str) -> Option<&ContainerMemory> {
        self.containers.get(container).map(Box::as_ref)
    }
}

/// Forward only; a deadline only shrinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Lifecycle {
    Running,
    Terminating {
        since: jiff::Timestamp,
        /// When SIGKILL follows.
        deadline: Moment,
        reason: String,
    },
    /// A plain pod that has finished (restartPolicy OnFailure or Never): kept for its status, nothing runs.
    Finished,
}

/// What is remembered of a container between its runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerMemory {
    /// The newest attempt that was started, when one was.
    pub started_attempt: Option<u32>,
    pub started_at: Option<jiff::Timestamp>,
    /// Boot clock at that start.
    pub started_moment: Option<Moment>,
    /// How the newest finished attempt ended.
    pub last: Option<Termination>,
    /// How the attempt before that ended, when there was one: Kubernetes' `lastState` while the newest is `state`.
    pub before: Option<Termination>,
    /// Failures in a row that count for the back-off.
    pub failures: u32,
    /// No start before this moment (CrashLoopBackOff).
    pub not_before: Option<Moment>,
    /// An init container that has run to its end in the pod's present surroundings: it is not run again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub completed: bool,
    /// The newest attempt whose postStart hook is over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub post_started: Option<u32>,
    /// The newest verdict of its probes, of the attempt that runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verdict: Option<Verdict>,
    /// A run that is to end although its pod lives on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stopping: Option<Stopping>,
}

/// What the probes of a run have found so far: kept, so that a restart of the agent changes no readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub attempt: u32,
    /// v1 ContainerStatus.started: the startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe is content, or there is none.
    pub ready: bool,
    /// Since when `ready` is as it is.
    pub since: jiff::Timestamp,
}

/// Why a run is ended while its pod lives on, and until when it may take its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub attempt: u32,
    /// When SIGKILL follows.
    pub deadline: Moment,
    /// For people: what its liveness probe found, that its hook failed …
    pub message: String,
    /// The node stops it, and not anything about it: it has not failed and is not done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub halts: bool,
}

/// What a record of a version that knew nothing of a field has in it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a run ended (v1 ContainerStateTerminated).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    pub attempt: u32,
    pub container_id: String,
    /// [`ObservedContainer::image_id`](crate::observed::ObservedContainer::image_id); empty in records of former versions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_id: String,
    /// 128 + n for a signal; 137 with reason ContainerStatusUnknown where containerd no longer knew.
    pub exit_code: u32,
    /// Completed, Error, OOMKilled, ContainerStatusUnknown, StartError.
    pub reason: String,
    pub message: String,
    pub started_at: Option<jiff::Timestamp>,
    pub finished_at: jiff::Timestamp,
    /// The node stopped it ([`Stopping::halts`]): whatever its exit code, it is to run again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub halted: bool,
}
