//! What a pod's spec has where a writer says nothing: Kubernetes' defaults, for templates and for pods.

use serde_json::{Map, Value, json};

use super::tidy;

/// Whose spec it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Template,
    /// A pod has a few defaults more.
    Pod,
}

/// `metadata` and `spec` of a template or a pod.
pub fn defaults(object: &mut Value, of: Of) {
    if let Some(metadata) = object.get_mut("metadata") {
        tidy::metadata(metadata);
    }
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    tidy::pod_spec(spec);
    let Some(fields) = spec.as_object_mut() else { return };
    let usual = [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(30)),
        ("schedulerName", json!("default-scheduler")),
    ];
    for (field, value) in usual {
        fields.entry(field).or_insert(value);
    }
    account(fields);
    let host_network = fields.get("hostNetwork") == Some(&json!(true));
    if of == Of::Pod {
        fields.entry("enableServiceLinks").or_insert(json!(true));
    }
    for volume in objects(fields, "volumes") {
        of_volume(volume);
    }
    for list in ["initContainers", "containers"] {
        for container in objects(fields, list) {
            of_container(container);
            if of == Of::Pod {
                requests(container);
                if host_network {
                    host_ports(container);
                }
            }
        }
    }
}

/// Both names of the account say the same.
fn account(fields: &mut Map<String, Value>) {
    let name = fields.get("serviceAccountName").or_else(|| fields.get("serviceAccount")).cloned();
    if let Some(name) = name {
        fields.insert("serviceAccountName".into(), name.clone());
        fields.insert("serviceAccount".into(), name);
    }
}

fn of_container(container: &mut Map<String, Value>) {
    let policy = pull_policy(container.get("image"));
    let usual = [
        ("imagePullPolicy", json!(policy)),
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
    ];
    for (field, value) in usual {
        container.entry(field).or_insert(value);
    }
    for port in objects(container, "ports") {
        port.entry("protocol").or_insert(json!("TCP"));
    }
    for variable in objects(container, "env") {
        if let Some(Value::Object(source)) = variable.get_mut("valueFrom") {
            references(source);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            of_probe(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            http_get(lifecycle.get_mut(hook));
        }
    }
}

fn of_probe(probe: &mut Map<String, Value>) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        probe.entry(field).or_insert(json!(value));
    }
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        grpc.entry("service").or_insert(json!(""));
    }
    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
        of_http_get(get);
    }
}

fn http_get(hook: Option<&mut Value>) {
    if let Some(Value::Object(get)) = hook.and_then(|hook| hook.get_mut("httpGet")) {
        of_http_get(get);
    }
}

fn of_http_get(get: &mut Map<String, Value>) {
    get.entry("path").or_insert(json!("/"));
    get.entry("scheme").or_insert(json!("HTTP"));
}

/// Of a variable, or of a file of the downward API.
fn references(source: &mut Map<String, Value>) {
    if let Some(Value::Object(field)) = source.get_mut("fieldRef") {
        field.entry("apiVersion").or_insert(json!("v1"));
    }
    if let Some(Value::Object(resource)) = source.get_mut("resourceFieldRef") {
        resource.entry("divisor").or_insert(json!("0"));
    }
}

fn of_volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            source.entry("defaultMode").or_insert(json!(0o644));
        }
    }
    if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
        path.entry("type").or_insert(json!(""));
    }
    if let Some(Value::Object(image)) = volume.get_mut("image") {
        let policy = pull_policy(image.get("reference"));
        image.entry("pullPolicy").or_insert(json!(policy));
    }
    if let Some(Value::Object(downward)) = volume.get_mut("downwardAPI") {
        objects(downward, "items").for_each(references);
    }
    if let Some(Value::Object(projected)) = volume.get_mut("projected") {
        for source in objects(projected, "sources") {
            if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
                token.entry("expirationSeconds").or_insert(json!(3600));
            }
            if let Some(Value::Object(downward)) = source.get_mut("downwardAPI") {
                objects(downward, "items").for_each(references);
            }
        }
    }
}

/// What is limited and not asked for is asked for.
fn requests(container: &mut Map<String, Value>) {
    let Some(Value::Object(resources)) = container.get_mut("resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert(json!({}));
    for (name, limit) in limits {
        if let Some(requests) = requests.as_object_mut() {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in objects(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            port.entry("hostPort").or_insert(number);
        }
    }
}

fn pull_policy(image: Option<&Value>) -> &'static str {
    let image = image.and_then(Value::as_str).unwrap_or_default();
    if is_latest(image) { "Always" } else { "IfNotPresent" }
}

/// Without a tag and without a digest, or with the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// The objects of a list.
fn objects<'a>(fields: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}
