//! What a node may do beyond what roles give it: read and write its own Node, Lease and pods, and read what those pods use. Nothing else.
//!
//! As Kubernetes' node authorizer. It asks the store which pods run on the node, as late as it can: nodes get all that they need through their
//! session, and hardly ever ask here.

use serde_json::Value;
use tokio::sync::Semaphore;

use super::super::stored;
use super::Attributes;
use crate::api::selector::{fields, selectable};
use crate::store::any::AnyStore;
use crate::store::{Range, Store as _, StoreError};

/// Pods that are read from the store at once.
const PAGE: usize = 500;
/// Who looks through the pods of a namespace at a time: it may have ten thousand, any node may ask, and the store is read by few threads.
static SEARCHES: Semaphore = Semaphore::const_new(2);
/// Where nodes' Leases are.
const LEASES: &str = "kube-node-lease";
/// Bytes of what a node writes here, as many as of what it says in its session.
pub const SAID_MAX: usize = 256 << 10;
/// Of an Event, of which there may be many: a kubelet's have one.
const EVENT_MAX: usize = 16 << 10;
/// The annotation of a static pod's mirror.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether the node may. Errors: the store does not answer.
pub async fn allows(store: &AnyStore, node: &str, asked: &Attributes<'_>) -> Result<bool, StoreError> {
    let Attributes { verb, group, resource, subresource, namespace, name, selector, .. } = *asked;
    let is_own = name == node;
    Ok(match (group, resource, subresource) {
        ("", "nodes", "") => match verb {
            // Its name is the object's, which admission looks at.
            "create" => name.is_empty() || is_own,
            "get" | "update" | "patch" => is_own,
            "list" | "watch" => selects(selector, "Node", "metadata.name", node),
            _ => false,
        },
        ("", "nodes", "status") => is_own && matches!(verb, "get" | "update" | "patch"),
        ("coordination.k8s.io", "leases", "") => {
            namespace == LEASES
                && match verb {
                    "create" => name.is_empty() || is_own,
                    _ => is_own && matches!(verb, "get" | "update" | "patch" | "delete"),
                }
        }
        ("", "pods", "") => match verb {
            "list" | "watch" => selects(selector, "Pod", "spec.nodeName", node),
            "get" | "delete" => runs(store, node, namespace, name).await?,
            _ => false,
        },
        ("", "pods", "status") => {
            matches!(verb, "get" | "update" | "patch") && runs(store, node, namespace, name).await?
        }
        ("", "pods", "eviction") => verb == "create" && runs(store, node, namespace, name).await?,
        ("" | "events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
        ("", "configmaps" | "secrets", "") => {
            let is_one = match verb {
                "get" => !name.is_empty(),
                "list" | "watch" => !name.is_empty() && selects(selector, "ConfigMap", "metadata.name", name),
                _ => false,
            };
            is_one && uses(store, node, namespace, &|pod| mentions(pod, resource, name)).await?
        }
        ("", "serviceaccounts", "") => {
            verb == "get" && uses(store, node, namespace, &|pod| account(pod) == name).await?
        }
        // That the token is bound to that very pod is seen to where it is made.
        ("", "serviceaccounts", "token") => {
            verb == "create" && uses(store, node, namespace, &|pod| account(pod) == name).await?
        }
        _ => false,
    })
}

/// Whether a field selector asks for this value of the field.
fn selects(selector: &str, kind: &str, field: &str, value: &str) -> bool {
    fields(selector, selectable("", kind)).is_ok_and(|parsed| parsed.exactly(field) == Some(value))
}

async fn runs(store: &AnyStore, node: &str, namespace: &str, name: &str) -> Result<bool, StoreError> {
    let found = store.get(&stored("", "pods", namespace, name)).await?.entry;
    let pod = found.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    Ok(pod.is_some_and(|pod| pod["spec"]["nodeName"] == node))
}

/// Whether a pod of the namespace that runs on the node is so.
async fn uses(
    store: &AnyStore,
    node: &str,
    namespace: &str,
    is_so: &(dyn Fn(&Value) -> bool + Sync),
) -> Result<bool, StoreError> {
    if namespace.is_empty() {
        return Ok(false);
    }
    // Nobody closes it.
    let _turn = SEARCHES.acquire().await;
    // Most pods are other nodes': they are not even parsed.
    let quoted = serde_json::json!(node).to_string();
    let prefix = format!("{}/", stored("", "pods", "", namespace));
    let mut range = Range { prefix, limit: Some(PAGE), ..Range::default() };
    loop {
        let page = store.list(&range).await?;
        for entry in &page.entries {
            let is_mentioned = entry.value.windows(quoted.len()).any(|window| window == quoted.as_bytes());
            if !is_mentioned {
                continue;
            }
            let Ok(pod) = serde_json::from_slice::<Value>(&entry.value) else { continue };
            let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if pod["spec"]["nodeName"] == node && !has_ended && !is_mirror(&pod) && is_so(&pod) {
                return Ok(true);
            }
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(false) };
        range.after = Some(last.key.clone());
    }
}

/// Whether the node itself says that there is this pod: it uses nothing of ours, or a node could help itself by naming it.
pub fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn account(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Why a node may not write this; None: it may. That the object is its own by name has been seen to, but for what is created.
pub fn refuses(node: &str, resource: &str, sub: &str, new: &Value, old: Option<&Value>) -> Option<&'static str> {
    let is_same = |path: &str| old.is_some_and(|old| is_alike(old.pointer(path), new.pointer(path)));
    let is_absent = |path: &str| is_alike(None, new.pointer(path));
    let most = if resource == "events" { EVENT_MAX } else { SAID_MAX };
    match (resource, old) {
        _ if serde_json::to_vec(new).map_or(usize::MAX, |bytes| bytes.len()) > most => {
            Some("what a node writes has at most 256 KiB, and an event 16")
        }
        ("nodes", _) if new["metadata"]["name"] != node => Some("a node can only write its own Node"),
        ("nodes", None) if !is_absent("/metadata/ownerReferences") || !is_absent("/metadata/finalizers") => {
            Some("a node cannot give its Node owners or finalizers")
        }
        ("nodes", None) if has_restricted_label(new) => {
            Some("a node cannot give itself labels of kubernetes.io or k8s.io but those that say what the machine is")
        }
        ("nodes", None) => None,
        ("nodes", Some(_)) if !is_same("/metadata/ownerReferences") || !is_same("/metadata/finalizers") => {
            Some("a node cannot change the owners or finalizers of its Node")
        }
        ("nodes", Some(_)) if !is_same("/metadata/labels") => {
            Some("a node proposes labels when it joins; afterwards only others change them")
        }
        ("nodes", Some(_)) if !is_same("/spec") => {
            Some("a node cannot change the taints and the rest of the spec of its Node")
        }
        ("nodes", Some(_)) => None,
        ("leases", _) if new["metadata"]["name"] != node => Some("a node can only write its own Lease"),
        ("pods", None) if sub.is_empty() => Some("a node shows its static pods in its session, and makes no pods here"),
        ("pods", Some(old)) if old["spec"]["nodeName"] != node => Some("a node can only write pods that run on it"),
        ("pods", Some(_)) if !["/metadata/labels", "/metadata/ownerReferences", "/spec"].into_iter().all(is_same) => {
            Some("a node can only change the status of a pod")
        }
        _ => None,
    }
}

fn has_restricted_label(node: &Value) -> bool {
    node["metadata"]["labels"].as_object().into_iter().flatten().any(|(key, _)| !may_propose(key))
}

/// Kubernetes' rule (admission plugin NodeRestriction): of its own names only those that say what the machine is.
pub fn may_propose(key: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    let Some((of, _)) = key.split_once('/') else { return true };
    let within = |domain: &str| of == domain || of.ends_with(&format!(".{domain}"));
    let theirs = within("kubernetes.io") || within("k8s.io");
    !theirs || OWN.contains(&key) || within("node.kubernetes.io") || within("kubelet.kubernetes.io")
}

/// Whether both are the same; what is absent, null or empty is nothing.
fn is_alike(one: Option<&Value>, other: Option<&Value>) -> bool {
    let is_nothing = |value: &&Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    };
    one.filter(|value| !is_nothing(value)) == other.filter(|value| !is_nothing(value))
}

/// Whether a pod refers to a ConfigMap or Secret of this name.
pub fn mentions(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let (volume, volume_key, environment, key) = match resource {
        "secrets" => ("secret", "secretName", "secretRef", "secretKeyRef"),
        _ => ("configMap", "name", "configMapRef", "configMapKeyRef"),
    };
    let is = |value: &Value| value.as_str() == Some(name);
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let in_volume = |one: &Value| {
        let sources = each(&one["projected"]["sources"]);
        is(&one[volume][volume_key]) || sources.iter().any(|source| is(&source[volume]["name"]))
    };
    let in_container = |one: &Value| {
        each(&one["envFrom"]).iter().any(|from| is(&from[environment]["name"]))
            || each(&one["env"]).iter().any(|variable| is(&variable["valueFrom"][key]["name"]))
    };
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    let pulls = resource == "secrets" && each(&spec["imagePullSecrets"]).iter().any(|secret| is(&secret["name"]));
    pulls
        || each(&spec["volumes"]).iter().any(in_volume)
        || containers.iter().any(|list| each(&spec[list]).iter().any(in_container))
}
