//! A pod of a node that is drained or shuts down: nothing of it is started, what runs is stopped in its turn, and its record
//! stays, so that it runs again afterwards as the pod that it was.

use super::draft::{self, Draft, pod_wait};
use super::pod::{remember, words};
use super::run::{self, Standing};
use super::{Change, PodView, Step, View, ending, silence};
use crate::lifecycle;
use crate::observed::{ObservedContainer, SandboxState};
use crate::record::{ContainerMemory, Stopping};
use crate::turns::Still;

pub fn converge(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, still: &Still) {
    words(draft, view, pod);
    let uid = &pod.record.uid;
    let waits = view.turn.end_waits().filter(|_| still.told_by.is_none_or(|told_by| told_by > view.now.boot));
    let message = match &waits {
        Some(waits) => format!("{}; it {waits}", still.words()),
        None => still.words(),
    };
    draft.wait(pod_wait(uid, still.reason(), message, still.told_by.filter(|_| waits.is_some())));
    if silence::is_silent(pod) {
        silence::leave(draft, view, pod);
    }
    for container in &pod.containers {
        match run::standing(view, pod, container) {
            Standing::Runs if waits.is_none() => stop(draft, view, pod, container, still),
            Standing::Runs | Standing::Silent => {}
            Standing::Ended(ended) => remember(draft, pod, ended),
            Standing::Waits | Standing::Debris => draft.step(Step::Delete {
                uid: uid.clone(),
                container: container.run.container.clone(),
                attempt: container.run.attempt,
            }),
        }
    }
    if pod.containers.is_empty() && pod.sandbox != SandboxState::Absent {
        draft.step(Step::TearDown { uid: uid.clone() });
    }
}

/// From when on the run has its grace period is on record first, and that it does not end by itself.
fn stop(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, container: &ObservedContainer, still: &Still) {
    let run = &container.run;
    let memory = pod.record.remembered(&run.container);
    // One of which the record says that it is over, and which runs all the same: no grace is kept for it any more.
    if run.attempt < memory.map_or(0, ContainerMemory::next_attempt) {
        let message = "was killed: it is not the run that is due";
        return draft.signal(draft::kill(&pod.record.uid, &run.container, run.attempt), message);
    }
    let known = memory.and_then(|memory| memory.stopping.as_ref()).filter(|known| known.attempt == run.attempt);
    let sooner = |deadline| still.kill_by.map_or(deadline, |kill_by| kill_by.min(deadline));
    let deadline = match known {
        Some(known) => sooner(known.deadline),
        None => sooner(lifecycle::deadline(&pod.template, view.now.boot)),
    };
    match known {
        Some(known) if known.deadline == deadline => {
            ending::stop(draft, view, Some(pod), container, deadline);
            run::remember_verdict(draft, view, pod, run);
        }
        _ => {
            let (container, message) = (run.container.clone(), still.words());
            let stopping = Stopping { attempt: run.attempt, deadline, message, halts: true };
            remember(draft, pod, Change::Stopping { container, stopping });
        }
    }
}
