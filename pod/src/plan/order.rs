//! Whose turn it is among the containers of a pod: init containers one after the other, sidecars in between, main containers
//! when all are through; at the end main containers first and sidecars backwards (KEP-753). And which of them are done.

use super::PodView;
use crate::name::RunKey;
use crate::observed::{ContainerState, ObservedContainer};
use crate::record::{ContainerMemory, Lifecycle, Termination};
use crate::spec::{Container, RestartPolicy, Role, VolumeSource};

/// The pod's restart policy: a template that runs once is done where its containers have exited 0.
pub fn policy(pod: &PodView) -> RestartPolicy {
    match pod.template.spec.restart_policy {
        RestartPolicy::Always if pod.template.run_once() => RestartPolicy::OnFailure,
        policy => policy,
    }
}

/// Whether the container gets another run after this end.
pub fn restarts(pod: &PodView, container: &Container, last: &Termination) -> bool {
    if pod.record.course.failed.is_some() {
        return false;
    }
    // It did not end by itself.
    if last.halted && container.role != Role::Sidecar {
        return true;
    }
    match (container.role, policy(pod)) {
        (Role::Sidecar, _) => !winds_down(pod),
        (Role::Main, RestartPolicy::Always) => true,
        (Role::Init, RestartPolicy::Always) | (_, RestartPolicy::OnFailure) => last.exit_code != 0,
        (_, RestartPolicy::Never) => false,
    }
}

/// Whether the container has run for the last time.
pub fn done(pod: &PodView, container: &Container) -> bool {
    if pod.record.course.failed.is_some() {
        return true;
    }
    match container.role {
        Role::Init => is_through(pod, container) || failed_for_good(pod, container),
        Role::Sidecar => winds_down(pod),
        Role::Main => last(pod, container).is_some_and(|last| !restarts(pod, container, last)),
    }
}

/// Nothing is left to do for the main containers: they are done, or will never have their turn. Sidecars end now.
pub fn winds_down(pod: &PodView) -> bool {
    let spec = &pod.template.spec;
    spec.mains().all(|main| done(pod, main)) || spec.containers.iter().any(|init| failed_for_good(pod, init))
}

/// An init container that failed in a pod that restarts nothing: the pod has failed.
pub fn failed_for_good(pod: &PodView, container: &Container) -> bool {
    container.role == Role::Init
        && policy(pod) == RestartPolicy::Never
        && !is_through(pod, container)
        && last(pod, container).is_some_and(|last| last.exit_code != 0 && !last.halted)
}

/// Whether an init container has run to its end in the present surroundings. Where that was never written down, a main container
/// that had its start tells it.
pub fn is_through(pod: &PodView, container: &Container) -> bool {
    memory(pod, container).is_some_and(|memory| memory.completed) || initialized(pod)
}

/// A main container has been started in the present surroundings: no init container has to run any more.
pub fn initialized(pod: &PodView) -> bool {
    let runs =
        |main: &Container| pod.containers.iter().any(|run| run.run.container == main.name && run.state.may_run());
    pod.template.spec.mains().any(|main| started_here(pod, main) || runs(main))
}

/// Whether the pod has begun, in this boot and since the node last stood still. That its surroundings were lost meanwhile takes nothing of that back.
pub fn has_run_here(pod: &PodView) -> bool {
    pod.record.course.begun || pod.containers.iter().any(|run| run.state.may_run())
}

/// Whether every container is ready, or has done its work and done it well. What is to run once has something to get done, and is ready
/// when that is done.
pub fn all_ready(pod: &PodView) -> bool {
    let once = pod.template.run_once();
    let well = |container: &Container| last(pod, container).is_some_and(|last| last.exit_code == 0);
    let over = pod.record.lifecycle == Lifecycle::Finished || winds_down(pod);
    pod.template.spec.containers.iter().all(|container| match container.role {
        Role::Init => is_through(pod, container),
        Role::Sidecar => over || is_ready(pod, container),
        Role::Main => (!once && is_ready(pod, container)) || (done(pod, container) && well(container)),
    })
}

/// Whether the record knows of a start in this boot and, see [`must_renew`], in the present surroundings.
fn started_here(pod: &PodView, container: &Container) -> bool {
    memory(pod, container).is_some_and(|memory| memory.started_moment.is_some())
}

/// Whether what init containers have done, or that it is done, is on record of surroundings that are no more.
pub fn must_renew(pod: &PodView) -> bool {
    let spec = &pod.template.spec;
    let inits = spec.containers.iter().any(|container| container.role != Role::Main);
    let completed = pod.record.containers.values().any(|memory| memory.completed);
    inits && (completed || spec.mains().any(|main| started_here(pod, main)))
}

/// Whether the container runs and has come up: its postStart hook is over and its startup probe content (v1
/// ContainerStatus.started).
pub fn has_begun(pod: &PodView, container: &Container) -> bool {
    let due = due(pod, container);
    let run = RunKey { uid: pod.record.uid.clone(), container: container.name.clone(), attempt: due };
    let runs = pod.containers.iter().any(|c| c.run == run && matches!(c.state, ContainerState::Running { .. }));
    let memory = memory(pod, container);
    let verdict = memory.and_then(|memory| memory.verdict.as_ref()).filter(|verdict| verdict.attempt == due);
    runs && hook_is_over(pod, container)
        && (container.probes.startup.is_none() || verdict.is_some_and(|verdict| verdict.started))
}

/// Whether the container has come up and its readiness probe is content (v1 ContainerStatus.ready).
pub fn is_ready(pod: &PodView, container: &Container) -> bool {
    let due = due(pod, container);
    let verdict = memory(pod, container).and_then(|memory| memory.verdict.as_ref());
    let content = container.probes.readiness.is_none() || verdict.is_some_and(|v| v.attempt == due && v.ready);
    has_begun(pod, container) && content
}

/// Whether the postStart hook of the run that is due is over, or there is none.
pub fn hook_is_over(pod: &PodView, container: &Container) -> bool {
    let over = memory(pod, container).and_then(|memory| memory.post_started);
    container.hooks.post_start.is_none() || over >= Some(due(pod, container))
}

/// The earlier container that holds up the start of the one at `position`, where one does.
pub fn held_by(pod: &PodView, position: usize) -> Option<&Container> {
    if initialized(pod) {
        return None;
    }
    pod.template.spec.containers[..position].iter().find(|earlier| match earlier.role {
        Role::Init => !is_through(pod, earlier),
        Role::Sidecar => !has_begun(pod, earlier),
        Role::Main => false,
    })
}

/// Whether the turn of this container has not come yet, so that whatever is there of it was only created.
pub fn has_not_had_its_turn(pod: &PodView, name: &str) -> bool {
    let position = pod.template.spec.containers.iter().position(|container| container.name == name);
    position.is_some_and(|position| held_by(pod, position).is_some())
}

/// Whether a run may be created now. Creation fixes what it finds in the volumes (the program, a sub-path, a device), so whatever mounts a
/// path of the host, or shares a volume with an earlier init container or sidecar (to mount it, or to take variables out of its files), is
/// created when those are through; all others stand created by then.
pub fn may_be_created(pod: &PodView, position: usize) -> bool {
    let containers = &pod.template.spec.containers;
    let own = &containers[position];
    // Two paths of the host may be one within the other, and one of them may be a device that is still to come.
    let of_host = |name: &str| {
        let volume = pod.template.spec.volumes.iter().find(|volume| volume.name == name);
        volume.is_some_and(|volume| matches!(volume.source, VolumeSource::HostPath { .. }))
    };
    let shares =
        |earlier: &Container| earlier.role != Role::Main && earlier.mounts.iter().any(|mount| own.uses(&mount.volume));
    let alone = || !own.mounts.iter().any(|mount| of_host(&mount.volume)) && !containers[..position].iter().any(shares);
    held_by(pod, position).is_none() || alone()
}

/// Whether it is the turn of this run to be stopped: sidecars stop after everything else, the last one first.
pub fn may_stop(pod: &PodView, run: &ObservedContainer) -> bool {
    let spec = &pod.template.spec;
    let place = |name: &str| spec.containers.iter().position(|container| container.name == name);
    let is_sidecar = |name: &str| spec.container(name).is_some_and(|container| container.role == Role::Sidecar);
    let own = &run.run.container;
    let before_it = |other: &ObservedContainer| {
        other.state.may_run() && (!is_sidecar(&other.run.container) || place(&other.run.container) > place(own))
    };
    !is_sidecar(own) || !pod.containers.iter().any(|other| other.run.container != *own && before_it(other))
}

fn memory<'p>(pod: &'p PodView, container: &Container) -> Option<&'p ContainerMemory> {
    pod.record.remembered(&container.name)
}

fn last<'p>(pod: &'p PodView, container: &Container) -> Option<&'p Termination> {
    memory(pod, container)?.last.as_ref()
}

fn due(pod: &PodView, container: &Container) -> u32 {
    memory(pod, container).map_or(0, ContainerMemory::next_attempt)
}
