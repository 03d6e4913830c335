//! A container's status (v1 ContainerStatus) from its record, its newest run and what it waits for.

use pod::observed::{ContainerState, ObservedContainer, RunUser, is_no_time};
use pod::plan::{PodView, Waiting, back_off, order};
use pod::record::{Amounts, ContainerMemory, Lifecycle, Termination};
use pod::spec::{Container, RecursiveReadOnly, Resources, Role, VolumeMount};
use serde_json::{Map, Value, json};

use super::time;
use crate::board::Published;

/// v1 ContainerStatus.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub container_id: Option<String>,
    pub restarts: u32,
    pub state: State,
    pub last: Option<Termination>,
    pub role: Role,
    /// v1 ContainerStatus.started and .ready.
    pub started: bool,
    pub ready: bool,
    /// Since when `ready` is as its readiness probe has it, where one has spoken.
    pub ready_since: Option<jiff::Timestamp>,
    /// What the machine could not give as asked; empty: all was given.
    pub adapted: String,
    /// Why its image is not as fresh as the pull policy asks; empty: it is.
    pub not_refreshed: String,
    /// Whom its present or last run began as, where that is known.
    pub user: Option<Box<RunUser>>,
}

/// v1 ContainerState.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Waiting { reason: String, message: String },
    Running { started_at: Option<jiff::Timestamp> },
    Terminated(Termination),
}

impl ContainerStatus {
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// `container`: what it is the status of; `had`: what it has until a resize has reached it.
    pub fn to_json(&self, container: &Container, had: Option<&Amounts>) -> Value {
        let mut status = Map::new();
        status.insert("name".into(), self.name.clone().into());
        status.insert("image".into(), self.image.clone().into());
        status.insert("imageID".into(), self.image_id.clone().into());
        status.insert("restartCount".into(), self.restarts.into());
        status.insert("ready".into(), self.ready.into());
        status.insert("started".into(), self.started.into());
        if let Some(id) = &self.container_id {
            status.insert("containerID".into(), format!("containerd://{id}").into());
        }
        status.insert(
            "state".into(),
            match &self.state {
                State::Waiting { reason, message } => {
                    json!({"waiting": with_message(json!({"reason": reason}), message)})
                }
                State::Running { started_at } => json!({"running": with_start(json!({}), *started_at)}),
                State::Terminated(termination) => json!({"terminated": terminated(termination)}),
            },
        );
        let last = self.last.as_ref().map_or_else(|| json!({}), |last| json!({"terminated": terminated(last)}));
        status.insert("lastState".into(), last);
        let Resources { requests, limits, .. } = &container.resources;
        let (limits_now, requests_now) = had.map_or((limits, requests), |had| (&had.limits, &had.requests));
        let both = [("limits", limits_now), ("requests", requests_now)];
        let given = both.into_iter().filter(|(_, amounts)| !amounts.is_empty());
        let given: Map<String, Value> = given.map(|(name, amounts)| (name.to_owned(), json!(amounts))).collect();
        status.insert("resources".into(), given.into());
        if !requests.is_empty() {
            status.insert("allocatedResources".into(), json!(requests));
        }
        if let Some(signal) = &container.hooks.stop_signal {
            status.insert("stopSignal".into(), signal.clone().into());
        }
        if let Some(user) = &self.user {
            let RunUser { uid, gid, groups } = user.as_ref();
            status.insert("user".into(), json!({"linux": {"uid": uid, "gid": gid, "supplementalGroups": groups}}));
        }
        if !container.mounts.is_empty() {
            status.insert("volumeMounts".into(), container.mounts.iter().map(mounted).collect());
        }
        Value::Object(status)
    }
}

/// v1 VolumeMountStatus. Whether `IfPossible` was possible is not known here: it is left out.
fn mounted(mount: &VolumeMount) -> Value {
    let mut shown = json!({"name": mount.volume, "mountPath": mount.mount_path});
    if mount.read_only {
        shown["readOnly"] = true.into();
        match mount.recursive_read_only {
            RecursiveReadOnly::Disabled => shown["recursiveReadOnly"] = "Disabled".into(),
            RecursiveReadOnly::Enabled => shown["recursiveReadOnly"] = "Enabled".into(),
            RecursiveReadOnly::IfPossible => {}
        }
    }
    shown
}

/// In the template's order.
pub fn states(published: &Published, view: &PodView) -> Vec<ContainerStatus> {
    view.template.spec.containers.iter().map(|container| state_of(published, view, container)).collect()
}

fn state_of(published: &Published, view: &PodView, container: &Container) -> ContainerStatus {
    let nothing = ContainerMemory::default();
    let memory = view.record.remembered(&container.name).unwrap_or(&nothing);
    let runs = || view.containers.iter().filter(|run| run.run.container == container.name);
    // A start that is not on record yet (the agent died in between) is seen by what runs.
    let runs_now =
        runs().filter(|run| matches!(run.state, ContainerState::Running { .. })).map(|run| run.run.attempt).max();
    let attempt = memory.started_attempt.max(runs_now);
    let current = attempt.and_then(|attempt| runs().find(|run| run.run.attempt == attempt));
    let (state, last) = match (attempt, current.map(|run| &run.state)) {
        (Some(attempt), Some(ContainerState::Running { .. })) => {
            let started_at = memory.started_at.filter(|_| memory.started_attempt == Some(attempt));
            (State::Running { started_at }, memory.last.clone())
        }
        (Some(attempt), _) if memory.last.as_ref().is_some_and(|last| last.attempt >= attempt) => {
            after_its_end(published, view, container, memory)
        }
        // As it was last known: that nobody says more is the pod's condition.
        (Some(_), Some(ContainerState::Unanswered)) => {
            (State::Running { started_at: memory.started_at }, memory.last.clone())
        }
        (Some(attempt), Some(ContainerState::Exited { exit_code, oom, finished_at })) => {
            // The worker has not written it down yet.
            let ended = Termination {
                attempt,
                container_id: current.map(|run| run.id.clone()).unwrap_or_default(),
                image_id: String::new(),
                exit_code: *exit_code,
                reason: reason(*exit_code, *oom).into(),
                message: String::new(),
                started_at: memory.started_at,
                finished_at: if is_no_time(*finished_at) { published.now.wall } else { *finished_at },
                halted: false,
            };
            (State::Terminated(ended), memory.last.clone())
        }
        // It ran, and nothing brings it back: a pod that ends is not one that is still to come.
        (Some(attempt), None | Some(ContainerState::NoTask)) if view.record.lifecycle != Lifecycle::Running => {
            let ended = Termination {
                attempt,
                container_id: current.map(|run| run.id.clone()).unwrap_or_default(),
                image_id: String::new(),
                exit_code: 137,
                reason: "ContainerStatusUnknown".into(),
                message: "the container runtime no longer knows how this run ended".into(),
                started_at: memory.started_at,
                finished_at: published.now.wall,
                halted: false,
            };
            (State::Terminated(ended), memory.last.clone())
        }
        _ => (waiting(published, view, container), memory.last.clone()),
    };
    let shown: Option<&ObservedContainer> = current.or_else(|| runs().max_by_key(|run| run.run.attempt));
    let container_id = match &state {
        State::Terminated(ended) => Some(ended.container_id.clone()).filter(|id| !id.is_empty()),
        _ => current.map(|run| run.id.clone()).or_else(|| last.as_ref().map(|last| last.container_id.clone())),
    };
    let through = container.role == Role::Init && order::is_through(view, container);
    // What is not answered for is as it was last known.
    let unanswered = current.is_some_and(|run| run.state == ContainerState::Unanswered);
    let verdict = memory.verdict.as_ref().filter(|verdict| Some(verdict.attempt) == attempt);
    let started = order::has_begun(view, container) || unanswered;
    let content = container.probes.readiness.is_none() || verdict.is_some_and(|verdict| verdict.ready);
    ContainerStatus {
        role: container.role,
        started: started && container.role != Role::Init,
        ready: through || (started && content && container.role != Role::Init),
        ready_since: verdict.map(|verdict| verdict.since),
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: match shown {
            Some(run) => run.image_id.clone(),
            None => memory.last.as_ref().map(|last| last.image_id.clone()).unwrap_or_default(),
        },
        adapted: shown.map(|run| run.adapted.clone()).unwrap_or_default(),
        not_refreshed: shown.map(|run| run.not_refreshed.clone()).unwrap_or_default(),
        user: current.and_then(|run| run.user.clone()),
        container_id,
        restarts: attempt.unwrap_or(0),
        state,
        last,
    }
}

fn after_its_end(
    published: &Published,
    view: &PodView,
    container: &Container,
    memory: &ContainerMemory,
) -> (State, Option<Termination>) {
    let Some(last) = memory.last.clone() else { return (waiting(published, view, container), None) };
    let again = order::restarts(view, container, &last) && !order::done(view, container);
    if !again || view.record.lifecycle != Lifecycle::Running {
        return (State::Terminated(last), memory.before.clone());
    }
    if let Some(wait) = wait_of(published, view, container) {
        return (wait_state(wait), Some(last));
    }
    // Where nothing could be planned (the runtime is away), the record says that its time has not come.
    match back_off(&view.record, &container.name, published.now.boot) {
        Some(wait) => (wait_state(&wait), Some(last)),
        // It is started again at this moment: Kubernetes shows the end until then.
        None => (State::Terminated(last), memory.before.clone()),
    }
}

fn waiting(published: &Published, view: &PodView, container: &Container) -> State {
    let inits = view.template.spec.containers.iter().any(|c| c.role != Role::Main);
    match wait_of(published, view, container) {
        // Also while it is created ahead of its turn: as in Kubernetes a container behind others is not shown as coming itself.
        Some(wait) if wait.reason == "ContainerCreating" && inits && container.role == Role::Main => {
            State::Waiting { reason: "PodInitializing".into(), message: wait.message.clone() }
        }
        Some(wait) => wait_state(wait),
        None => {
            let reason = if inits { "PodInitializing" } else { "ContainerCreating" };
            State::Waiting { reason: reason.into(), message: String::new() }
        }
    }
}

/// What this container waits for, else what its pod as a whole waits for.
fn wait_of<'a>(published: &'a Published, view: &PodView, container: &Container) -> Option<&'a Waiting> {
    let ours = || published.waiting.iter().filter(|wait| wait.uid.as_ref() == Some(&view.record.uid));
    let own = ours().find(|wait| wait.container.as_deref() == Some(container.name.as_str()));
    own.or_else(|| ours().find(|wait| wait.container.is_none()))
}

fn wait_state(wait: &Waiting) -> State {
    State::Waiting { reason: wait.reason.clone(), message: wait.message.clone() }
}

fn reason(exit_code: u32, oom: bool) -> &'static str {
    match (exit_code, oom) {
        (_, true) => "OOMKilled",
        (0, false) => "Completed",
        (_, false) => "Error",
    }
}

fn terminated(termination: &Termination) -> Value {
    let Termination {
        attempt: _,
        container_id,
        image_id: _,
        exit_code,
        reason,
        message,
        started_at,
        finished_at,
        halted: _,
    } = termination;
    let mut shown = json!({
        "exitCode": exit_code,
        "reason": reason,
        "finishedAt": time(*finished_at),
    });
    if !container_id.is_empty() {
        shown["containerID"] = format!("containerd://{container_id}").into();
    }
    with_message(with_start(shown, *started_at), message)
}

fn with_start(mut value: Value, started_at: Option<jiff::Timestamp>) -> Value {
    if let Some(started_at) = started_at {
        value["startedAt"] = time(started_at).into();
    }
    value
}

fn with_message(mut value: Value, message: &str) -> Value {
    if !message.is_empty() {
        value["message"] = message.into();
    }
    value
}
