//! What a new pod gets from other objects: its service account's token and pull secrets, its priority. Then its class of service.

use pod::digest::letters;
use pod::manifest::quantity;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Reference;
use crate::api::validate::items;

/// The annotation of a static pod's image in the API. Such a pod runs already, and gets nothing.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where containers find the token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Seconds: the lifetime that Kubernetes gives a token which somebody might keep longer than the hour that is asked for, and renews at.
const TOKEN_LIFE: u32 = 3607;
/// Kubernetes' own classes, which need no object.
const CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// The account, then all priority classes.
pub fn references(object: &Value) -> Vec<Reference> {
    if is_mirror(object) {
        return Vec::new();
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let name = account(object).to_owned();
    vec![
        Reference::One { kind: "ServiceAccount", api_version: "v1", namespace, name },
        Reference::All { kind: "PriorityClass", api_version: "scheduling.k8s.io/v1" },
    ]
}

/// Error: why the pod is forbidden.
pub fn admit(object: &mut Value, found: &[Option<Value>]) -> Result<(), String> {
    object["status"]["qosClass"] = json!(class_of_service(&object["spec"]));
    if is_mirror(object) {
        return Ok(());
    }
    let none = Value::Null;
    priority(object, found.get(1).and_then(Option::as_ref).unwrap_or(&none))?;
    let name = account(object).to_owned();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let Some(account) = found.first().and_then(Option::as_ref) else {
        return Err(format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"));
    };
    object["spec"]["serviceAccountName"] = json!(name);
    object["spec"]["serviceAccount"] = json!(name);
    if object["spec"]["imagePullSecrets"].is_null() && !account["imagePullSecrets"].is_null() {
        object["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let wanted = object["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(&mut object["spec"]);
    }
    Ok(())
}

fn is_mirror(object: &Value) -> bool {
    !object["metadata"]["annotations"][MIRROR].is_null()
}

fn account(object: &Value) -> &str {
    let spec = &object["spec"];
    let name = spec["serviceAccountName"].as_str().or(spec["serviceAccount"].as_str()).unwrap_or_default();
    if name.is_empty() { "default" } else { name }
}

fn priority(object: &mut Value, classes: &Value) -> Result<(), String> {
    let name = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let known = CLASSES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let class = items(classes).map(|(_, class)| class).find(|class| match name.is_empty() {
        true => class["globalDefault"] == true,
        false => class["metadata"]["name"] == name.as_str(),
    });
    let value = match (class.and_then(|class| class["value"].as_i64()), known) {
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) if name.is_empty() => 0,
        (None, None) => return Err(format!("no PriorityClass with name {name} was found")),
    };
    let given = object["spec"]["priority"].as_i64();
    if given.is_some_and(|given| given != value) {
        return Err(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} \
             from the given PriorityClass name",
            given.unwrap_or(0)
        ));
    }
    if name.is_empty()
        && let Some(default) = class.and_then(|class| class["metadata"]["name"].as_str())
    {
        object["spec"]["priorityClassName"] = json!(default);
    }
    object["spec"]["priority"] = json!(value);
    let policy = class.and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
    object["spec"]["preemptionPolicy"] = json!(policy);
    Ok(())
}

/// The token, the authority and the namespace, for every container that has nothing else there.
fn mount_token(spec: &mut Value) {
    let has = |container: &Value| items(&container["volumeMounts"]).any(|(_, mount)| mount["mountPath"] == TOKEN_PATH);
    let lists = ["initContainers", "containers"];
    if lists.iter().all(|list| items(&spec[*list]).all(|(_, container)| has(container))) {
        return;
    }
    let given = items(&spec["volumes"]).filter_map(|(_, volume)| volume["name"].as_str());
    let given = given.into_iter().find(|name| name.starts_with(TOKEN_VOLUME)).map(str::to_owned);
    let is_new = given.is_none();
    let name = given.unwrap_or_else(|| format!("{TOKEN_VOLUME}{}", letters(Uuid::new_v4().as_bytes(), 5)));
    for list in lists {
        for container in spec[list].as_array_mut().into_iter().flatten().filter(|container| !has(container)) {
            let mount = json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true});
            push(&mut container["volumeMounts"], mount);
        }
    }
    for list in lists {
        if spec[list].is_null()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove(list);
        }
    }
    if is_new {
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFE, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        push(&mut spec["volumes"], volume);
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// `status.qosClass`.
fn class_of_service(spec: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    for list in ["initContainers", "containers"] {
        for (_, container) in items(&spec[list]) {
            let read = |key: &str, name: &str| {
                let quantity = container["resources"][key][name].as_str().and_then(quantity::parse);
                quantity.filter(|quantity| quantity.milli > 0).map(|quantity| quantity.milli)
            };
            for name in ["cpu", "memory"] {
                let (limit, request) = (read("limits", name), read("requests", name));
                any |= limit.is_some() || request.is_some();
                all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
