//! What of an object goes down to its node, and what it says about that. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher as _};

use serde_json::{Map, Value, json};

use crate::loops::nodes::decide::{NOT_READY, UNREACHABLE};

/// On a mirror pod: the uid of the static pod that it stands for.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// A ConfigMap or Secret that a pod uses; it is of the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    pub name: String,
}

/// The uid of the static pod that this one mirrors.
pub fn mirrors(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][MIRROR].as_str()
}

/// The object without what only the endpoint needs: what is left changes when the node has something to do. Of a pod's status its end stays:
/// a node that has lost its records runs no pod twice.
pub fn outgoing(object: &Value) -> Value {
    let mut object = object.clone();
    let phase = object["status"]["phase"].as_str().map(str::to_owned);
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(phase) = phase.filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed")) {
            fields.insert("status".into(), json!({"phase": phase}));
        }
    }
    object
}

/// The uid of the Node object that owns a mirror pod.
pub fn mirror_owner(pod: &Value) -> Option<&str> {
    mirrors(pod)?;
    list(&pod["metadata"]["ownerReferences"]).find(|owner| owner["kind"] == "Node")?["uid"].as_str()
}

/// For comparison within this process.
pub fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value.to_string().as_bytes());
    hasher.finish()
}

/// Of what a Node object says of placement.
pub fn ruling_hash(node: &Value) -> u64 {
    hash(&json!([node["metadata"]["labels"], taints(node)]))
}

/// `key=value:Effect`, as taints are written. Without those by which the endpoint says how it hears the node: the node knows better how it is, and
/// the daemon that would make it ready must not wait until it is.
pub fn taints(node: &Value) -> Vec<String> {
    let of_contact = |taint: &&Value| [NOT_READY, UNREACHABLE].iter().any(|key| taint["key"] == *key);
    let taints = list(&node["spec"]["taints"]).filter(|taint| !of_contact(taint));
    let text = |taint: &Value| {
        let (key, effect) = (taint["key"].as_str()?, taint["effect"].as_str()?);
        Some(match taint["value"].as_str().unwrap_or_default() {
            "" => format!("{key}:{effect}"),
            value => format!("{key}={value}:{effect}"),
        })
    };
    taints.filter_map(text).collect()
}

/// Every ConfigMap and Secret that the pod's spec names.
pub fn uses(pod: &Value) -> BTreeSet<Use> {
    let mut uses = BTreeSet::new();
    let spec = &pod["spec"];
    let mut add = |kind: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            uses.insert(Use { kind, name: name.to_owned() });
        }
    };
    for secret in list(&spec["imagePullSecrets"]) {
        add("Secret", &secret["name"]);
    }
    for container in list(&spec["containers"]).chain(list(&spec["initContainers"])) {
        for from in list(&container["envFrom"]) {
            add("ConfigMap", &from["configMapRef"]["name"]);
            add("Secret", &from["secretRef"]["name"]);
        }
        for variable in list(&container["env"]) {
            add("ConfigMap", &variable["valueFrom"]["configMapKeyRef"]["name"]);
            add("Secret", &variable["valueFrom"]["secretKeyRef"]["name"]);
        }
    }
    for volume in list(&spec["volumes"]) {
        add("ConfigMap", &volume["configMap"]["name"]);
        add("Secret", &volume["secret"]["secretName"]);
        for source in list(&volume["projected"]["sources"]) {
            add("ConfigMap", &source["configMap"]["name"]);
            add("Secret", &source["secret"]["name"]);
        }
    }
    uses
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The pod object that stands for a static pod. `said`: v1 Pod as its node shows it; `owner`: the Node's uid.
pub fn mirror(said: &Value, uid: &str, node: &str, owner: &str) -> Value {
    let metadata = &said["metadata"];
    let mut annotations = metadata["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert("kubernetes.io/config.hash".into(), uid.into());
    annotations.insert(MIRROR.into(), uid.into());
    let mut made = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = metadata.get(field) {
            made.insert(field.into(), value.clone());
        }
    }
    made.insert("annotations".into(), annotations.into());
    let reference = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner, "controller": true});
    made.insert("ownerReferences".into(), json!([reference]));
    // Whatever shape the node's word has, it is an object here: the API's rules judge the rest.
    let mut spec = said["spec"].as_object().cloned().unwrap_or_default();
    spec.insert("nodeName".into(), node.into());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_use_a_config_map_or_secret_is_known() {
        let pod = json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "init"}}]}],
            "containers": [{
                "envFrom": [{"secretRef": {"name": "from"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "C", "value": "x"},
                ],
            }],
            "volumes": [
                {"configMap": {"name": "volume"}},
                {"secret": {"secretName": "volume"}},
                {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "projected"}}]}},
                {"emptyDir": {}},
            ],
        }});
        let named: Vec<String> = uses(&pod).into_iter().map(|it| format!("{} {}", it.kind, it.name)).collect();
        assert_eq!(
            named,
            [
                "ConfigMap init",
                "ConfigMap key",
                "ConfigMap kube-root-ca.crt",
                "ConfigMap volume",
                "Secret from",
                "Secret key",
                "Secret projected",
                "Secret pull",
                "Secret volume",
            ]
        );
    }

    #[test]
    fn a_mirror_is_the_nodes_and_says_whose_it_is() {
        let said = json!({
            "metadata": {"name": "web-n1", "namespace": "d", "uid": "s1", "creationTimestamp": "t", "generateName": "g-",
                "labels": {"a": "b"}, "annotations": {"kubernetes.io/config.source": "file"}, "ownerReferences": [{"kind": "DaemonSet"}]},
            "spec": {"containers": []},
        });
        let mirror = mirror(&said, "s1", "n1", "nu");
        assert_eq!(mirrors(&mirror), Some("s1"));
        assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.hash"], "s1");
        assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
        assert_eq!(mirror["metadata"]["ownerReferences"][0]["uid"], "nu");
        assert_eq!(mirror["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
        assert_eq!(mirror["spec"]["nodeName"], "n1");
        assert!(mirror["metadata"].get("uid").is_none() && mirror["metadata"].get("generateName").is_none());
    }

    #[test]
    fn taints_are_written_as_people_write_them() {
        let node = json!({"spec": {"taints": [
            {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute"}, {"key": "broken"},
        ]}});
        assert_eq!(taints(&node), ["a=b:NoSchedule", "c:NoExecute"]);
    }

    #[test]
    fn how_the_endpoint_hears_a_node_does_not_go_down() {
        let node = |taints: Value| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"taints": taints}});
        let ours = json!([{"key": NOT_READY, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]);
        assert!(taints(&node(ours.clone())).is_empty());
        assert_eq!(ruling_hash(&node(ours)), ruling_hash(&json!({"metadata": {"labels": {"a": "b"}}})));
    }
}
