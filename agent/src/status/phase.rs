//! Phase, conditions and quality of service (v1 PodStatus), from the states of the containers.

use pod::name::WorkloadKind;
use pod::observed::SandboxState;
use pod::plan::{PodView, SHIM_SILENT, StepKey, Waiting, order};
use pod::record::Lifecycle;
use pod::spec::{Container, Projection, RestartPolicy, Role, Volume, VolumeSource};
use pod::turns::WAITS_FOR_OTHERS;
use serde_json::{Value, json};

use super::containers::{ContainerStatus, State};
use super::time;
use crate::board::Published;

/// v1 PodPhase (the kubelet's getPhase).
pub fn phase(view: &PodView, statuses: &[ContainerStatus]) -> &'static str {
    let spec = &view.template.spec;
    if spec.containers.iter().any(|container| order::failed_for_good(view, container)) {
        return "Failed";
    }
    if view.record.course.failed.is_some() {
        // As in Kubernetes it is told when nothing of the pod runs any more.
        return match statuses.iter().any(ContainerStatus::is_running) {
            false => "Failed",
            true if is_initialized(view) => "Running",
            true => "Pending",
        };
    }
    let mains = || statuses.iter().filter(|status| status.role == Role::Main);
    if !is_initialized(view) && view.record.lifecycle != Lifecycle::Finished {
        return "Pending";
    }
    let ended = |status: &ContainerStatus| match &status.state {
        State::Terminated(ended) => Some(ended.exit_code),
        State::Waiting { .. } => status.last.as_ref().map(|last| last.exit_code),
        State::Running { .. } => None,
    };
    if mains().any(ContainerStatus::is_running) {
        let unstarted = |s: &ContainerStatus| matches!(s.state, State::Waiting { .. }) && s.last.is_none();
        return if mains().any(unstarted) { "Pending" } else { "Running" };
    }
    let codes: Option<Vec<u32>> = mains().map(ended).collect();
    let Some(codes) = codes else { return "Pending" };
    // What the node stopped is to run again, whatever its restart policy.
    let halted = mains().any(|status| {
        let last = match &status.state {
            State::Terminated(ended) => Some(ended),
            State::Waiting { .. } | State::Running { .. } => status.last.as_ref(),
        };
        last.is_some_and(|last| last.halted)
    });
    let restarts = match order::policy(view) {
        _ if halted => true,
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => codes.iter().any(|code| *code != 0),
        RestartPolicy::Never => false,
    };
    match restarts && view.record.lifecycle != Lifecycle::Finished {
        true => "Running",
        // Its sidecars are still to end.
        false if view.record.lifecycle == Lifecycle::Running && statuses.iter().any(ContainerStatus::is_running) => {
            "Running"
        }
        false if codes.iter().all(|code| *code == 0) => "Succeeded",
        false => "Failed",
    }
}

/// Every init container is through and every sidecar has come up once.
fn is_initialized(view: &PodView) -> bool {
    incomplete(view).is_empty()
}

/// Init containers and sidecars that are still to do what comes before the main containers.
fn incomplete(view: &PodView) -> Vec<&str> {
    if order::initialized(view) {
        return Vec::new();
    }
    // A main container that had its start tells it too, when it is between two runs.
    let started = |c: &Container| view.record.containers.get(&c.name).is_some_and(|m| m.started_moment.is_some());
    let inits = view.template.spec.containers.iter().filter(|container| container.role != Role::Main);
    let missing = inits.filter(|container| match container.role {
        Role::Sidecar => !order::has_begun(view, container) && !view.template.spec.mains().any(started),
        Role::Init | Role::Main => !order::is_through(view, container),
    });
    missing.map(|container| container.name.as_str()).collect()
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
    let lasting = || statuses.iter().filter(|status| status.role != Role::Init);
    let unready: Vec<&str> = lasting().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let done = phase == "Succeeded" || phase == "Failed";
    let judged = lasting().filter_map(|status| status.ready_since);
    let started = lasting().filter_map(|status| match &status.state {
        State::Running { started_at } => *started_at,
        State::Waiting { .. } | State::Terminated(_) => None,
    });
    let ended = lasting().filter_map(|status| match &status.state {
        State::Terminated(ended) => Some(ended.finished_at),
        State::Waiting { .. } => status.last.as_ref().map(|last| last.finished_at),
        State::Running { .. } => None,
    });
    let since = if unready.is_empty() { started.max() } else { ended.max() };
    let since = since.max(judged.max()).unwrap_or(admitted);
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
    let incomplete = incomplete(view);
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    let initialized = match phase {
        "Succeeded" => Err(("PodCompleted", String::new())),
        _ if incomplete.is_empty() => Ok(()),
        _ => Err(("ContainersNotInitialized", message)),
    };
    let inits = statuses.iter().filter(|status| status.role == Role::Init);
    let through = inits.filter_map(|status| match &status.state {
        State::Terminated(ended) => Some(ended.finished_at),
        State::Waiting { .. } | State::Running { .. } => None,
    });
    let mut initialized = condition("Initialized", &initialized, through.max().unwrap_or(admitted));
    if phase == "Succeeded" {
        // A finished pod was initialized: only its reason is told.
        initialized["status"] = "True".into();
    }
    let network_since = match view.record.course.network_since {
        _ if done => since,
        since => since.unwrap_or(admitted),
    };
    let mut all = vec![
        condition("PodReadyToStartContainers", &stands, network_since),
        initialized,
        condition("Ready", &ready, since),
        condition("ContainersReady", &ready, since),
        condition("PodScheduled", &Ok(()), admitted),
    ];
    all.extend(resizing(published, view));
    all.extend(silence(published, view));
    all.extend(waits_for_others(published, view));
    all.extend(no_token(published, view));
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
fn no_token(published: &Published, view: &PodView) -> Option<Value> {
    let (reason, why) = match view.record.workload.kind {
        WorkloadKind::Control if !published.lacks_token => return None,
        WorkloadKind::Control => ("NotGiven", "the control endpoint has not given one yet"),
        WorkloadKind::Pod | WorkloadKind::DaemonSet => ("NoApiServer", "only a pod of a control endpoint is given one"),
    };
    let is_token = |source: &Projection| matches!(source, Projection::Token { .. });
    let lacks = |volume: &&Volume| match &volume.source {
        VolumeSource::Projected(projected) => projected.sources.iter().any(is_token),
        VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Image(_) => false,
    };
    let volumes: Vec<&str> =
        view.template.spec.volumes.iter().filter(lacks).map(|volume| volume.name.as_str()).collect();
    (!volumes.is_empty()).then(|| {
        let message = format!("no service account token in {}: {why}", volumes.join(", "));
        json!({"type": "TokenNotProjected", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": time(view.record.admitted_at)})
    })
}

/// As in Kubernetes, while the pod's cgroups are on their way to what its document asks for, or do not get there.
fn resizing(published: &Published, view: &PodView) -> Option<Value> {
    let resize = view.record.course.resize.as_ref()?;
    let failure = published.failures.get(&StepKey::Resize(view.record.uid.clone()));
    let mut condition = condition("PodResizeInProgress", &Ok(()), resize.since);
    if let Some(failure) = failure.filter(|_| !resize.applied) {
        condition["reason"] = "Error".into();
        condition["message"] = failure.message.clone().into();
    }
    Some(condition)
}

/// A condition of ours, True while the pod's start waits for others.
fn waits_for_others(published: &Published, view: &PodView) -> Option<Value> {
    let ours = |wait: &&Waiting| wait.uid.as_ref() == Some(&view.record.uid) && wait.reason == WAITS_FOR_OTHERS;
    let told = published.waiting.iter().find(ours)?;
    Some(json!({"type": WAITS_FOR_OTHERS, "status": "True", "reason": "NotReady", "message": told.message,
        "lastTransitionTime": time(view.record.admitted_at)}))
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
    // Both are known when a run is created.
    let of_runs = statuses.iter().filter(|it| !of(it).is_empty()).filter_map(|it| match &it.state {
        State::Running { started_at } => *started_at,
        State::Waiting { .. } | State::Terminated(_) => None,
    });
    let since = of_runs.max().unwrap_or(since);
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
