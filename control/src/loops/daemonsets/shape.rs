//! The objects that a DaemonSet's decision has made: pods and revisions. Pure.

use serde_json::{Map, Value, json};

use crate::daemonset::{DaemonSet, GENERATION_LABEL, HASH_LABEL};
use crate::rollout::revision_name;

/// The automatic tolerations of daemon pods. The last is for pods with the node's network only.
const TOLERATIONS: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// The reference by which a DaemonSet controls something.
pub fn owner(set: &DaemonSet) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set.name, "uid": set.uid.0,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// `template`: `spec.template` of the DaemonSet. The node is the pod's from birth: there is no scheduler.
pub fn pod(set: &DaemonSet, template: &Value, name: &str, node: &str, hash: &str) -> Value {
    let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(HASH_LABEL.into(), json!(hash));
    if let Some(generation) = set.template_generation {
        labels.insert(GENERATION_LABEL.into(), json!(generation.to_string()));
    }
    let mut metadata = json!({
        "name": name, "generateName": format!("{}-", set.name), "namespace": set.namespace,
        "labels": labels, "ownerReferences": [owner(set)],
    });
    for field in ["annotations", "finalizers"] {
        if template["metadata"][field].as_object().is_some_and(|m| !m.is_empty())
            || template["metadata"][field].is_array()
        {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!(node);
    bind(&mut spec, node);
    tolerate(&mut spec);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// Required node affinity names the node and nothing else, so that clients that read it find the node there too.
fn bind(spec: &mut Value, node: &str) {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let affinity = object(spec, "affinity");
    let of_node = object(affinity, "nodeAffinity");
    of_node["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": [term]});
}

fn object<'a>(of: &'a mut Value, field: &str) -> &'a mut Value {
    let inner = &mut of[field];
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    inner
}

fn tolerate(spec: &mut Value) {
    let count = if spec["hostNetwork"] == true { TOLERATIONS.len() } else { TOLERATIONS.len() - 1 };
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for (key, effect) in &TOLERATIONS[..count] {
        let same = |t: &Value| {
            t["key"] == *key
                && t["effect"] == *effect
                && t["operator"] == "Exists"
                && t["value"].as_str().unwrap_or("").is_empty()
        };
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        match tolerations.iter_mut().find(|t| same(t)) {
            // One that was limited in time is not for daemons.
            Some(known) => *known = toleration,
            None => tolerations.push(toleration),
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
}

/// A ControllerRevision. `data`: as the decision has it.
pub fn revision(set: &DaemonSet, set_object: &Value, hash: &str, number: i64, data: &Value) -> Value {
    let mut labels = data["spec"]["template"]["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(HASH_LABEL.into(), json!(hash));
    let mut metadata = json!({
        "name": revision_name(&set.name, hash), "namespace": set.namespace, "labels": labels, "ownerReferences": [owner(set)],
    });
    if set_object["metadata"]["annotations"].is_object() {
        metadata["annotations"] = set_object["metadata"]["annotations"].clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "revision": number, "data": data})
}
