//! A pod that ends, and one that has finished: nothing is started, nothing is created, everything is removed.

use super::draft::{Draft, delete, kill, pod_wait};
use super::pod::remember;
use super::run::{self, Standing};
use super::{PodView, Signal, Step, View, silence};
use crate::observed::{ContainerState, ObservedContainer, SandboxState};
use crate::time::Moment;

/// The stop signal, SIGKILL at the deadline, then every trace goes.
pub fn end(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, deadline: Moment) {
    let somebody_runs = pod.containers.iter().any(|c| c.state.may_run());
    for container in &pod.containers {
        match run::standing(view, pod, container) {
            Standing::Runs => stop(draft, view, container, deadline),
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

/// Of one that runs: the stop signal once, SIGKILL from the deadline on.
pub fn stop(draft: &mut Draft<'_>, view: &View<'_>, container: &ObservedContainer, deadline: Moment) {
    let run = &container.run;
    if deadline <= view.now.boot {
        draft.signal(kill(&run.uid, &run.container, run.attempt), "was killed and has not ended yet");
        return;
    }
    let signal = Signal::Stop;
    let step = Step::Signal { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt, signal };
    draft.signal(step, "was told to stop");
    // The grace period is the pod's: it runs out even if the stop signal cannot be delivered.
    let message = format!("{} has its grace period to stop", run.container);
    draft.wait(pod_wait(&run.uid, "Terminating", message, Some(deadline)));
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
