//! A pod whose shim does not answer: containerd knows of its containers and nobody can say how they stand. Perhaps the shim
//! only has no time; perhaps it is stopped, or loops for ever. Nothing is killed on suspicion: a pod that is to run is left
//! as it is. One that is to go has its shim ended, once its deadline and then a good while more have passed.

use std::time::Duration;

use super::draft::{Draft, pod_wait};
use super::{PodView, Step, View};
use crate::name::Uid;
use crate::observed::ContainerState;
use crate::time::{Moment, Now};

/// How long a shim may be silent past the deadline of its pod before it is ended. A machine that swaps or whose disk stalls
/// makes a shim late by seconds to tens of them.
pub const SHIM_PATIENCE: Duration = Duration::from_secs(60);

/// The reason under which such a pod waits, and the type of its condition.
pub const SHIM_SILENT: &str = "ShimNotAnswering";

pub fn is_silent(pod: &PodView) -> bool {
    pod.containers.iter().any(|c| c.state == ContainerState::Unanswered)
}

/// Of a pod that is not to end.
pub fn leave(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) {
    let message = format!(
        "the containerd shim of this pod has not answered since {}: its containers are left as they are; when it does not \
         come back, delete the pod, and its shim is ended {} s after the grace period",
        since(view, &pod.record.uid).wall,
        SHIM_PATIENCE.as_secs()
    );
    draft.wait(pod_wait(&pod.record.uid, SHIM_SILENT, message, None));
}

/// Of a pod that is to be gone by `deadline`: [`SHIM_PATIENCE`] later its shim is ended. Silence counts from the deadline
/// on and only as far as it is known to be unbroken.
pub fn end(draft: &mut Draft<'_>, view: &View<'_>, uid: &Uid, deadline: Moment) {
    let since = since(view, uid);
    let due = deadline.max(since.boot).after(SHIM_PATIENCE);
    if due > view.now.boot {
        let message = format!(
            "the containerd shim of this pod has not answered since {}, so its containers cannot be stopped; unless it \
             comes back, it is killed with them",
            since.wall
        );
        draft.wait(pod_wait(uid, SHIM_SILENT, message, Some(due)));
        return;
    }
    let step = Step::EndShim { uid: uid.clone() };
    draft.signal(step, "the containerd shim of this pod was killed: containerd is to notice it and to clean up");
}

fn since(view: &View<'_>, uid: &Uid) -> Now {
    view.silent.get(uid).copied().unwrap_or(view.now)
}
