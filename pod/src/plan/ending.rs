//! A pod that ends, and one that has finished: nothing is started, nothing is created, everything is removed.

use std::time::Duration;

use super::draft::{Draft, container_wait, delete, kill, pod_wait};
use super::pod::remember;
use super::run::{self, Standing};
use super::{Hook, PodView, Signal, Step, View, order, silence};
use crate::lifecycle::LAST_MOMENT;
use crate::observed::{ContainerState, ObservedContainer, SandboxState};
use crate::record::Lifecycle;
use crate::spec::Role;
use crate::time::Moment;

/// The stop signal, SIGKILL at the deadline, then every trace goes.
pub fn end(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, deadline: Moment) {
    let somebody_runs = pod.containers.iter().any(|c| c.state.may_run());
    for container in &pod.containers {
        match run::standing(view, pod, container) {
            Standing::Runs => {
                let memory = pod.record.containers.get(&container.run.container);
                let stopping = memory.and_then(|m| m.stopping.as_ref()).filter(|s| s.attempt == container.run.attempt);
                let own = stopping.map_or(deadline, |stopping| stopping.deadline.min(deadline));
                stop(draft, view, Some(pod), container, own);
                run::remember_verdict(draft, view, pod, &container.run);
            }
            Standing::Silent => silence::end(draft, view, &pod.record.uid, deadline),
            // How it ended is for the status, as long as the rest of the pod still runs. Afterwards the record goes
            // too, and removal must not depend on a disk that may be full.
            Standing::Ended(ended) if somebody_runs => remember(draft, pod, ended),
            Standing::Ended(_) | Standing::Waits | Standing::Debris => remove(draft, container),
        }
    }
    if pod.containers.is_empty() {
        let uid = pod.record.uid.clone();
        match pod.sandbox {
            SandboxState::Absent => draft.step(Step::Forget { uid }),
            SandboxState::Broken { .. } | SandboxState::Made | SandboxState::Connected { .. } => {
                draft.step(Step::TearDown { uid });
            }
        }
    }
}

/// Of one that runs: its preStop hook, the stop signal once (a sidecar's when the others have ended), SIGKILL from the
/// deadline on. Of a container without a pod only its signals are known.
pub fn stop(
    draft: &mut Draft<'_>,
    view: &View<'_>,
    pod: Option<&PodView>,
    container: &ObservedContainer,
    deadline: Moment,
) {
    let run = &container.run;
    let spec = pod.and_then(|pod| pod.template.spec.container(&run.container));
    // One run that ends while its pod lives on keeps to no order: its container starts again.
    let pod_ends = pod.is_none_or(|pod| pod.record.lifecycle != Lifecycle::Running || order::winds_down(pod))
        || view.turn.still.is_some();
    let sidecar = pod_ends && spec.is_some_and(|spec| spec.role == Role::Sidecar);
    let wait = |message: String, until: Moment| match pod_ends {
        true => pod_wait(&run.uid, "Terminating", message, Some(until)),
        false => container_wait(&run.uid, &run.container, "Terminating", message, Some(until)),
    };
    let hooked = spec.is_some_and(|spec| spec.hooks.pre_stop.is_some());
    let signal = Signal::Stop;
    let tell = Step::Signal { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt, signal };
    // The containers before a sidecar are killed at the deadline: it is not told in the same instant.
    let told_by = if sidecar { deadline.after(LAST_MOMENT) } else { deadline };
    // Who is told late has a moment all the same.
    let moment = if sidecar || hooked { LAST_MOMENT } else { Duration::ZERO };
    let kill_at = match view.delivered.get(&tell.key()) {
        Some(told) => deadline.max(told.at.after(moment)),
        None => told_by.after(moment),
    };
    let now = view.now.boot;
    if kill_at <= now {
        draft.signal(kill(&run.uid, &run.container, run.attempt), "was killed and has not ended yet");
        return;
    }
    if hooked && deadline > now {
        let hook = Hook::PreStop;
        let step = Step::Hook { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt, hook };
        if !view.hooks.contains_key(&step.key()) {
            draft.step(step);
            let message = format!("{} runs its preStop hook within its grace period", run.container);
            draft.wait(wait(message, deadline));
            return;
        }
    }
    if sidecar && told_by > now && pod.is_some_and(|pod| !order::may_stop(pod, container)) {
        let message = format!("{} stops when the containers that it serves have stopped", run.container);
        draft.wait(wait(message, told_by));
        return;
    }
    draft.signal(tell, "was told to stop");
    // The grace period runs out even if the stop signal cannot be delivered.
    let message = format!("{} has its grace period to stop", run.container);
    draft.wait(wait(message, kill_at));
}

/// A pod that has done its work keeps its record and nothing else.
pub fn clear(draft: &mut Draft<'_>, pod: &PodView) {
    for container in &pod.containers {
        let run = &container.run;
        if runs(container) {
            draft.signal(kill(&run.uid, &run.container, run.attempt), "was killed: its pod has finished");
        } else {
            remove(draft, container);
        }
    }
    if pod.containers.is_empty() && pod.sandbox != SandboxState::Absent {
        draft.step(Step::TearDown { uid: pod.record.uid.clone() });
    }
}

fn remove(draft: &mut Draft<'_>, container: &ObservedContainer) {
    draft.step(delete(&container.run.uid, &container.run.container, container.run.attempt));
}

fn runs(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}
