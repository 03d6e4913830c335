//! Ends that nobody wrote down: the state disk did not take them, and what knew of them is gone. containerd's labels
//! carry the attempt, so that what is observed shows that they happened. Without this an attempt would be used twice.

use super::run::over;
use super::{Change, PodView, View};
use crate::observed::{ContainerState, ObservedContainer};
use crate::record::{ContainerMemory, Termination};
use crate::spec::Role;

/// The newest end that the record does not know of, of the first of the pod's containers that has one.
pub fn end(view: &View<'_>, pod: &PodView) -> Option<Change> {
    pod.template.spec.containers.iter().find_map(|container| end_of(view, pod, &container.name))
}

fn end_of(view: &View<'_>, pod: &PodView, name: &str) -> Option<Change> {
    let nothing = ContainerMemory::default();
    let memory = pod.record.remembered(name).unwrap_or(&nothing);
    let due = memory.next_attempt();
    let runs = || pod.containers.iter().filter(|c| c.run.container == name);
    let later = || runs().filter(|c| c.run.attempt > due);
    let attempt = if let Some(running) = later().filter(|c| is_running(c)).map(|c| c.run.attempt).max() {
        // Never two of one name: whatever came before it has ended.
        running - 1
    } else if let Some(run) = runs().find(|c| c.run.attempt == due) {
        // A successor is only made of a run that was started. One whose start is on record is the plan's to remember.
        let untold = run.state == ContainerState::NoTask && memory.started_attempt < Some(due);
        if !untold || later().next().is_none() {
            return None;
        }
        due
    } else if let Some(successor) = later().map(|c| c.run.attempt).min() {
        // A run is removed when its end is known and its successor stands.
        successor - 1
    } else {
        // What was started and is not there any more has ended.
        memory.started_attempt.filter(|started| *started >= due)?
    };
    let seen = runs().find(|c| c.run.attempt == attempt && over(c));
    let termination = seen.and_then(as_seen).unwrap_or_else(|| Termination {
        attempt,
        container_id: seen.map(|c| c.id.clone()).unwrap_or_default(),
        image_id: seen.map(|c| c.image_id.clone()).unwrap_or_default(),
        exit_code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "how this run ended was not written down".into(),
        started_at: memory.started_at.filter(|_| memory.started_attempt == Some(attempt)),
        finished_at: view.now.wall,
        halted: false,
    });
    let halted = memory.stopping.as_ref().is_some_and(|stopping| stopping.halts && stopping.attempt == attempt);
    let termination = Termination { halted, ..termination };
    let init = pod.template.spec.container(name).is_some_and(|container| container.role == Role::Init);
    let completed = init && !halted && termination.exit_code == 0;
    let (container, failures) = (name.to_owned(), memory.failures);
    Some(Change::Ended { container, termination, failures, not_before: None, completed })
}

fn is_running(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

fn as_seen(container: &ObservedContainer) -> Option<Termination> {
    let ContainerState::Exited { exit_code, oom, finished_at } = &container.state else { return None };
    Some(Termination {
        attempt: container.run.attempt,
        container_id: container.id.clone(),
        image_id: container.image_id.clone(),
        exit_code: *exit_code,
        reason: super::run::exit_reason(*exit_code, *oom).into(),
        message: super::run::exit_message(*exit_code).into(),
        started_at: None,
        finished_at: *finished_at,
        halted: false,
    })
}
