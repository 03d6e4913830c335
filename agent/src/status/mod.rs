//! What is published, as v1 Pod JSON: for `get pods`, `/pods`, `describe`.
//!
//! Driven by the doors. Pure: the board's values and the node's facts in, JSON out. It decides nothing about a pod; a
//! time that Kubernetes shows is one that the record remembers, so that the same pod looks the same after a restart.

mod containers;
mod log_run;
pub mod node;
mod phase;
pub mod ready;
pub mod why;

#[cfg(test)]
pub mod sample;
#[cfg(test)]
mod tests;

use pod::downward;
use pod::name::WorkloadKind;
use pod::observed::SandboxState;
use pod::plan::PodView;
use pod::record::Lifecycle;
use pod::spec::{RestartPolicy, Role};
use pod::storage::EVICTED;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

pub use log_run::run_shown;

use crate::board::{Board, NodeFacts, Published};

/// All pods of the board as a v1 PodList in JSON, by namespace and name.
pub fn pod_list(board: &Board) -> String {
    let items: Vec<String> = pods(board, |pod| pod.to_string()).into_iter().map(|(_, pod)| pod).collect();
    format!(r#"{{"apiVersion":"v1","items":[{}],"kind":"PodList","metadata":{{}}}}"#, items.join(","))
}

/// All pods, by what sorts and identifies them: namespace, name, uid. Each is handed to `shown` before the next one is made: as text
/// it takes a tenth of the memory.
pub fn pods<T>(board: &Board, shown: impl Fn(Value) -> T) -> Vec<((String, String, String), T)> {
    let node = board.node();
    let mut pods = Vec::new();
    for published in board.workloads().values() {
        for view in &published.pods {
            let record = &view.record;
            let key = (record.workload.namespace.clone(), record.name.clone(), record.uid.0.clone());
            pods.push((key, shown(pod(published, view, &node))));
        }
    }
    pods.sort_by(|(a, _), (b, _)| a.cmp(b));
    pods
}

/// One pod as v1 Pod.
pub fn pod(published: &Published, view: &PodView, node: &NodeFacts) -> Value {
    let statuses = containers::states(published, view);
    let mut status = Map::new();
    let phase = phase::phase(view, &statuses);
    status.insert("phase".into(), phase.into());
    status.insert("conditions".into(), phase::conditions(published, view, &statuses, phase));
    if let Some(failure) = view.record.course.failed.as_ref().filter(|_| phase == "Failed") {
        status.insert("reason".into(), failure.reason.clone().into());
        status.insert("message".into(), failure.message.clone().into());
    }
    if let Lifecycle::Terminating { reason, .. } = &view.record.lifecycle
        && reason == EVICTED
    {
        status.insert("reason".into(), EVICTED.into());
    }
    status.insert("observedGeneration".into(), generation(view).into());
    status.insert("qosClass".into(), pod::qos::class(&view.template.spec).to_string().into());
    status.insert("startTime".into(), time(view.record.admitted_at).into());
    if let Some(address) = node.addresses.first() {
        status.insert("hostIP".into(), address.to_string().into());
        status.insert("hostIPs".into(), ips(&node.addresses));
    }
    let pod_ips = match &view.sandbox {
        SandboxState::Connected { ips } => ips.as_slice(),
        SandboxState::Made if view.template.spec.host_network => node.addresses.as_slice(),
        SandboxState::Absent | SandboxState::Broken { .. } | SandboxState::Made => &[],
    };
    if let Some(address) = pod_ips.first() {
        status.insert("podIP".into(), address.to_string().into());
        status.insert("podIPs".into(), ips(pod_ips));
    }
    if let Some(of_pod) = &view.template.spec.resources {
        status.insert("resources".into(), json!({"limits": of_pod.limits, "requests": of_pod.requests}));
        status.insert("allocatedResources".into(), json!(of_pod.requests));
    }
    let resize = view.record.course.resize.as_deref().filter(|resize| !resize.applied);
    let had = |name: &str| resize.and_then(|resize| resize.from.get(name));
    let of = |inits: bool| -> Vec<Value> {
        let both = statuses.iter().zip(&view.template.spec.containers);
        let listed = both.filter(|(status, _)| (status.role != Role::Main) == inits);
        listed.map(|(status, container)| status.to_json(container, had(&container.name))).collect()
    };
    let inits = of(true);
    if !inits.is_empty() {
        status.insert("initContainerStatuses".into(), Value::Array(inits));
    }
    status.insert("containerStatuses".into(), Value::Array(of(false)));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(published, view),
        "spec": spec(view, node),
        "status": status,
    })
}

/// Counts what a pod is given of other specifications under the same uid: resizes.
fn generation(view: &PodView) -> u64 {
    view.record.course.resizes.saturating_add(1)
}

/// RFC 3339 in whole seconds, as Kubernetes' metav1.Time.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn metadata(published: &Published, view: &PodView) -> Value {
    let record = &view.record;
    let labels = downward::labels(record, &view.template);
    let annotations = downward::annotations(record, &view.template);
    let mut metadata = match record.workload.kind {
        WorkloadKind::Pod | WorkloadKind::DaemonSet => Map::new(),
        WorkloadKind::Control => of_object(view),
    };
    if record.workload.kind == WorkloadKind::DaemonSet {
        metadata.insert("generateName".into(), format!("{}-", record.workload.name).into());
        metadata.insert("ownerReferences".into(), json!([owner(view)]));
    }
    metadata.insert("name".into(), record.name.clone().into());
    metadata.insert("namespace".into(), record.workload.namespace.clone().into());
    metadata.insert("uid".into(), record.uid.0.clone().into());
    metadata.insert("generation".into(), generation(view).into());
    if record.workload.kind != WorkloadKind::Control {
        metadata.insert("creationTimestamp".into(), time(record.admitted_at).into());
    }
    metadata.insert("annotations".into(), json!(annotations));
    if !labels.is_empty() {
        metadata.insert("labels".into(), json!(labels));
    }
    if let Lifecycle::Terminating { since, deadline, .. } = &record.lifecycle {
        // The deadline is on the boot clock, which ticks like the wall clock but starts elsewhere.
        let now = published.now;
        let left = deadline.since(now.boot);
        let over = now.boot.since(*deadline);
        let at = now.wall.saturating_add(left).and_then(|at| at.saturating_sub(over)).unwrap_or(now.wall);
        metadata.insert("deletionTimestamp".into(), time(at).into());
        let grace = at.duration_since(*since).as_secs().max(0);
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    Value::Object(metadata)
}

/// What the control endpoint's object says of itself and of who owns it.
fn of_object(view: &PodView) -> Map<String, Value> {
    const TAKEN: [&str; 4] = ["generateName", "ownerReferences", "creationTimestamp", "resourceVersion"];
    let document = view.record.document.read();
    let said = |field: &&str| Some(((*field).to_owned(), document["metadata"].get(field)?.clone()));
    TAKEN.iter().filter_map(said).collect()
}

/// The DaemonSet document as the owner. It has no uid of its own on a node without a control endpoint: one is derived
/// from its name, so that it stays.
fn owner(view: &PodView) -> Value {
    let workload = &view.record.workload;
    let document = view.record.document.read();
    let uid = match document.pointer("/metadata/uid").and_then(Value::as_str) {
        Some(uid) => uid.to_owned(),
        None => {
            let hash: String = Sha256::digest(workload.to_string()).iter().map(|b| format!("{b:02x}")).collect();
            let (a, b, c, d, e) = (&hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32]);
            format!("{a}-{b}-8{c}-8{d}-{e}")
        }
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "name": workload.name,
        "uid": uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The specification as received, placed on this node.
fn spec(view: &PodView, node: &NodeFacts) -> Value {
    let place = match view.record.workload.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "/spec",
        WorkloadKind::DaemonSet => "/spec/template/spec",
    };
    let mut document = view.record.document.read();
    let mut spec = match document.pointer_mut(place).map(Value::take) {
        Some(Value::Object(spec)) => spec,
        _ => Map::new(),
    };
    // What Kubernetes fills in, and scripts read.
    let restart_policy = match view.template.spec.restart_policy {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    let grace = view.template.spec.termination_grace.as_secs();
    let defaults: [(&str, Value); 3] = [
        ("restartPolicy", restart_policy.into()),
        ("terminationGracePeriodSeconds", grace.into()),
        ("dnsPolicy", "ClusterFirst".into()),
    ];
    for (field, value) in defaults {
        spec.entry(field).or_insert(value);
    }
    spec.insert("nodeName".into(), node.name.clone().into());
    spec.insert("priority".into(), view.template.spec.priority.into());
    if let Some(class) = &view.template.spec.priority_class {
        spec.insert("priorityClassName".into(), class.clone().into());
    }
    Value::Object(spec)
}

fn ips(addresses: &[std::net::IpAddr]) -> Value {
    addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect()
}
