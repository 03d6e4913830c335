//! A pod's surroundings: raised before its containers, and raised anew where they were lost under them.

use super::draft::{Draft, delete, kill};
use super::pod::remember;
use super::run::{self, Standing};
use super::{Change, PodView, Step, View, ending, order};
use crate::lifecycle;
use crate::observed::{ObservedContainer, SandboxState};
use crate::record::{ContainerMemory, Stopping};

/// The surroundings are gone or damaged: what was created in them is of no use.
pub fn lost(pod: &PodView) -> bool {
    match pod.sandbox {
        SandboxState::Broken { .. } => true,
        SandboxState::Absent => !pod.containers.is_empty(),
        SandboxState::Made | SandboxState::Connected { .. } => false,
    }
}

/// The next step towards a complete sandbox. Images are prepared and containers created meanwhile.
pub fn raise(draft: &mut Draft<'_>, pod: &PodView) {
    let uid = pod.record.uid.clone();
    match pod.sandbox {
        SandboxState::Absent if order::must_renew(pod) => remember(draft, pod, Change::Renewed),
        SandboxState::Absent => draft.step(Step::SetUp { uid }),
        SandboxState::Made if !pod.template.spec.host_network => draft.step(Step::Connect { uid }),
        SandboxState::Made | SandboxState::Connected { .. } | SandboxState::Broken { .. } => {}
    }
}

/// Why a container ends whose surroundings are lost.
pub const LOST: &str = "the pod's namespaces, network or directories are lost and are made anew";

/// Removes what stands in lost surroundings, then what is left of them (which gives the address back). What ran is
/// remembered as ended. A container that still runs cannot be moved: it ends within its grace period, as in Kubernetes.
pub fn clear(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) {
    let uid = &pod.record.uid;
    for container in &pod.containers {
        let (name, attempt) = (&container.run.container, container.run.attempt);
        match run::standing(view, pod, container) {
            Standing::Runs => stop(draft, view, pod, container),
            Standing::Ended(ended) => remember(draft, pod, ended),
            // The whole pod waits then, before it gets here.
            Standing::Silent => {}
            Standing::Waits | Standing::Debris => draft.step(delete(uid, name, attempt)),
        }
    }
    if pod.containers.is_empty() && order::must_renew(pod) {
        remember(draft, pod, Change::Renewed);
    } else if pod.containers.is_empty() {
        draft.step(Step::TearDown { uid: uid.clone() });
    }
}

/// Within its grace period, which is on record before it begins. A run that is not the one on record has none.
fn stop(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, container: &ObservedContainer) {
    let (name, attempt) = (&container.run.container, container.run.attempt);
    let memory = pod.record.remembered(name);
    if attempt != memory.map_or(0, ContainerMemory::next_attempt) {
        return draft.signal(kill(&pod.record.uid, name, attempt), "was killed: it is not the run that is due");
    }
    if memory.is_none_or(|memory| memory.started_attempt < Some(attempt)) {
        return remember(draft, pod, Change::Started { container: name.clone(), attempt });
    }
    match memory.and_then(|memory| memory.stopping.as_ref()).filter(|stopping| stopping.attempt == attempt) {
        Some(stopping) => ending::stop(draft, view, Some(pod), container, stopping.deadline),
        None => {
            let deadline = lifecycle::deadline(&pod.template, view.now.boot);
            let stopping = Stopping { attempt, deadline, message: LOST.to_owned(), halts: false };
            remember(draft, pod, Change::Stopping { container: name.clone(), stopping });
        }
    }
}
