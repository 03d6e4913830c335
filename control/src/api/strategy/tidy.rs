//! Values that a Kubernetes server never keeps: its types leave out what is empty. Objects are compared byte for byte by clients (the template in a
//! ControllerRevision), so they have to look the same here.

use serde_json::{Map, Value};

/// Maps that are left out where they are empty; what is in them is the user's and stays.
const MAPS: [&str; 9] = [
    "annotations",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "options",
    "overhead",
    "requests",
    "volumeAttributes",
];
/// Texts without a meaning of their own where they are empty.
const TEXTS: [&str; 36] = [
    "apiVersion",
    "audience",
    "containerName",
    "dnsPolicy",
    "effect",
    "host",
    "hostIP",
    "hostname",
    "image",
    "imagePullPolicy",
    "key",
    "level",
    "medium",
    "name",
    "namespace",
    "nodeName",
    "operator",
    "path",
    "prefix",
    "priorityClassName",
    "protocol",
    "pullPolicy",
    "reference",
    "restartPolicy",
    "role",
    "schedulerName",
    "scheme",
    "secretName",
    "serviceAccount",
    "serviceAccountName",
    "subPath",
    "subPathExpr",
    "subdomain",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "workingDir",
];
/// The same, but only in these fields.
const TEXTS_IN: [(&str, &str); 4] =
    [("env", "value"), ("seLinuxOptions", "type"), ("seLinuxOptions", "user"), ("tolerations", "value")];
/// Left out where they are false.
const FLAGS: [&str; 7] = ["hostIPC", "hostNetwork", "hostPID", "readOnly", "stdin", "stdinOnce", "tty"];
/// But not there: what is false is not what is left out.
const FLAGS_NOT_IN: [&str; 2] = ["azureDisk", "csi"];
/// Left out where they are 0, or given their default.
const NUMBERS: [&str; 6] =
    ["failureThreshold", "hostPort", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds"];

/// A pod's spec.
pub fn pod_spec(spec: &mut Value) {
    if let Value::Object(fields) = spec {
        tidy(fields, "spec");
    }
}

/// Labels and the like of a metadata.
pub fn metadata(metadata: &mut Value) {
    let Some(fields) = metadata.as_object_mut() else { return };
    for field in ["annotations", "finalizers", "labels", "ownerReferences"] {
        drop_empty(fields, field);
    }
    for field in ["generateName", "namespace", "selfLink"] {
        if fields.get(field).and_then(Value::as_str) == Some("") {
            fields.remove(field);
        }
    }
}

/// Takes an empty map, list or null away.
pub fn drop_empty(fields: &mut Map<String, Value>, field: &str) {
    let empty = match fields.get(field) {
        Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    if empty {
        fields.remove(field);
    }
}

/// `of`: the field in which these stand, also where it is a list.
fn tidy(fields: &mut Map<String, Value>, of: &str) {
    fields.retain(|key, value| {
        let key = key.as_str();
        match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty() || !MAPS.contains(&key),
            Value::String(text) if text.is_empty() => !(TEXTS.contains(&key) || TEXTS_IN.contains(&(of, key))),
            Value::Bool(false) => !FLAGS.contains(&key) || FLAGS_NOT_IN.contains(&of),
            Value::Number(number) if number.as_i64() == Some(0) => !NUMBERS.contains(&key),
            _ => true,
        }
    });
    for (key, value) in fields.iter_mut() {
        if MAPS.contains(&key.as_str()) && value.as_object().is_some_and(|map| map.values().all(Value::is_string)) {
            continue;
        }
        match value {
            Value::Object(below) => tidy(below, key),
            Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| tidy(item, key)),
            _ => {}
        }
    }
}
