//! A pod's surroundings: raised before its containers, and raised anew where they were lost under them.

use super::draft::{Draft, delete, kill};
use super::pod::remember;
use super::run::{self, Standing};
use super::{Change, PodView, Step, View, order};
use crate::observed::SandboxState;

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

/// Removes what stands in lost surroundings, then what is left of them (which gives the address back). What ran is
/// remembered as ended. A container that still runs is killed, as in Kubernetes: it cannot be moved.
pub fn clear(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) {
    let uid = &pod.record.uid;
    for container in &pod.containers {
        let (name, attempt) = (&container.run.container, container.run.attempt);
        match run::standing(view, pod, container) {
            Standing::Runs => {
                draft.signal(kill(uid, name, attempt), "was killed because the pod's namespaces are gone")
            }
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
