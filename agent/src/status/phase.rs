//! Phase, conditions and quality of service (v1 PodStatus), from the states of the containers.

use pod::observed::SandboxState;
use pod::plan::{PodView, SHIM_SILENT, Waiting};
use pod::record::Lifecycle;
use pod::spec::RestartPolicy;
use pod::spec::{Projection, Volume, VolumeSource};
use serde_json::{Value, json};

use super::containers::{ContainerStatus, State};
use super::time;
use crate::board::Published;

/// v1 PodPhase.
pub fn phase(view: &PodView, statuses: &[ContainerStatus]) -> &'static str {
    let ended = |status: &ContainerStatus| match &status.state {
        State::Terminated(ended) => Some(ended.exit_code),
        State::Waiting { .. } => status.last.as_ref().map(|last| last.exit_code),
        State::Running { .. } => None,
    };
    if statuses.iter().any(ContainerStatus::is_running) {
        let unstarted = |s: &ContainerStatus| matches!(s.state, State::Waiting { .. }) && s.last.is_none();
        return if statuses.iter().any(unstarted) { "Pending" } else { "Running" };
    }
    let codes: Option<Vec<u32>> = statuses.iter().map(ended).collect();
    let Some(codes) = codes else { return "Pending" };
    let restarts = match view.template.spec.restart_policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => codes.iter().any(|code| *code != 0),
        RestartPolicy::Never => false,
    };
    match restarts && view.record.lifecycle != Lifecycle::Finished {
        true => "Running",
        false if codes.iter().all(|code| *code == 0) => "Succeeded",
        false => "Failed",
    }
}

/// `imagePullPolicy: Always` with an image that no registry was asked about; with its reason.
pub const NOT_REFRESHED: (&str, &str) = ("ImageNotRefreshed", "RegistryNotAsked");
/// The machine could not give all that a container asks for; with its reason.
pub const ADAPTED: (&str, &str) = ("Adapted", "NotGivenHere");

/// Changes of the pod's record that the state disk has not taken; with its reason.
pub const RECORD_OWED: (&str, &str) = ("RecordOwed", "StateDiskRefuses");

/// v1 PodCondition list, in the kubelet's order, then ours.
pub fn conditions(published: &Published, view: &PodView, statuses: &[ContainerStatus], phase: &str) -> Value {
    let admitted = view.record.admitted_at;
    let unready: Vec<&str> = statuses.iter().filter(|s| !s.is_running()).map(|s| s.name.as_str()).collect();
    let done = phase == "Succeeded" || phase == "Failed";
    let started = statuses.iter().filter_map(|status| match &status.state {
        State::Running { started_at } => *started_at,
        State::Waiting { .. } | State::Terminated(_) => None,
    });
    let ended = statuses.iter().filter_map(|status| match &status.state {
        State::Terminated(ended) => Some(ended.finished_at),
        State::Waiting { .. } => status.last.as_ref().map(|last| last.finished_at),
        State::Running { .. } => None,
    });
    let since = if unready.is_empty() { started.max() } else { ended.max() }.unwrap_or(admitted);
    let ready = match (unready.is_empty(), phase) {
        (true, _) => Ok(()),
        (false, "Succeeded") => Err(("PodCompleted", String::new())),
        (false, "Failed") => Err(("PodFailed", String::new())),
        (false, _) => Err(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))),
    };
    let network = match &view.sandbox {
        SandboxState::Connected { .. } => true,
        SandboxState::Made => view.template.spec.host_network,
        SandboxState::Absent | SandboxState::Broken { .. } => false,
    };
    // What keeps the whole pod waiting keeps its containers from starting: a plugin that is missing, a mount that fails.
    let of_pod = |wait: &&Waiting| wait.uid.as_ref() == Some(&view.record.uid) && wait.container.is_none();
    let stands = match (network, published.waiting.iter().find(of_pod)) {
        (true, _) => Ok(()),
        (false, Some(wait)) => Err((wait.reason.as_str(), wait.message.clone())),
        (false, None) => Err(("", String::new())),
    };
    let initialized = if phase == "Succeeded" { Err(("PodCompleted", String::new())) } else { Ok(()) };
    // A finished pod was initialized: only its reason is told.
    let mut initialized = condition("Initialized", &initialized, admitted);
    initialized["status"] = "True".into();
    let network_since = if done { since } else { admitted };
    let mut all = vec![
        condition("PodReadyToStartContainers", &stands, network_since),
        initialized,
        condition("Ready", &ready, since),
        condition("ContainersReady", &ready, since),
        condition("PodScheduled", &Ok(()), admitted),
    ];
    all.extend(silence(published, view));
    all.extend(no_token(view));
    all.extend(departure(statuses, NOT_REFRESHED, |it| &it.not_refreshed, admitted));
    all.extend(departure(statuses, ADAPTED, |it| &it.adapted, admitted));
    all.extend(view.owed.as_ref().map(|owed| {
        let (kind, reason) = RECORD_OWED;
        json!({"type": kind, "status": "True", "reason": reason, "message": owed.message,
            "lastTransitionTime": time(owed.since)})
    }));
    Value::Array(all)
}

/// A condition of ours, True where a volume lacks the token that it is to have.
fn no_token(view: &PodView) -> Option<Value> {
    let is_token = |source: &Projection| matches!(source, Projection::Token { .. });
    let lacks = |volume: &&Volume| match &volume.source {
        VolumeSource::Projected(projected) => projected.sources.iter().any(is_token),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) => false,
    };
    let volumes: Vec<&str> =
        view.template.spec.volumes.iter().filter(lacks).map(|volume| volume.name.as_str()).collect();
    (!volumes.is_empty()).then(|| {
        let message = format!("no service account token in {}: there is no API server to give one", volumes.join(", "));
        json!({"type": "TokenNotProjected", "status": "True", "reason": "NoApiServer", "message": message,
            "lastTransitionTime": time(view.record.admitted_at)})
    })
}

/// A condition of ours, True while nobody says how the pod's containers stand, with what is going to be done about it.
fn silence(published: &Published, view: &PodView) -> Option<Value> {
    let since = published.silent.get(&view.record.uid)?;
    let ours = |wait: &&Waiting| wait.uid.as_ref() == Some(&view.record.uid) && wait.reason == SHIM_SILENT;
    let told = published.waiting.iter().find(ours);
    let until = told.and_then(|wait| wait.until).filter(|until| *until > published.now.boot);
    let at = until.and_then(|until| published.now.wall.saturating_add(until.since(published.now.boot)).ok());
    let mut message = told.map(|wait| wait.message.clone()).unwrap_or_default();
    if let Some(at) = at {
        message = format!("{message} at {}", time(at));
    }
    Some(json!({"type": SHIM_SILENT, "status": "True", "reason": "NoAnswer", "message": message,
        "lastTransitionTime": time(since.wall)}))
}

/// A condition of ours, True where something of a container is not as its manifest asks; absent otherwise.
fn departure(
    statuses: &[ContainerStatus],
    kind: (&str, &str),
    of: impl Fn(&ContainerStatus) -> &String,
    since: jiff::Timestamp,
) -> Option<Value> {
    let told: Vec<String> =
        statuses.iter().filter(|it| !of(it).is_empty()).map(|it| format!("{}: {}", it.name, of(it))).collect();
    let (kind, reason) = kind;
    (!told.is_empty()).then(|| {
        json!({"type": kind, "status": "True", "reason": reason, "message": told.join("; "),
            "lastTransitionTime": time(since)})
    })
}

fn condition(kind: &str, holds: &Result<(), (&str, String)>, since: jiff::Timestamp) -> Value {
    let status = if holds.is_ok() { "True" } else { "False" };
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": time(since)});
    if let Err((reason, message)) = holds {
        if !reason.is_empty() {
            condition["reason"] = (*reason).into();
        }
        if !message.is_empty() {
            condition["message"] = message.as_str().into();
        }
    }
    condition
}
