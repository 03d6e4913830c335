//! Whether a pod's spec is one: what Kubernetes' server refuses, in its words. Whether a node could run it says `runnable`.

use std::collections::BTreeSet;

use pod::manifest::names;
use pod::manifest::quantity;
use serde_json::{Value, json};

use crate::api::invalid::Causes;
use crate::api::validate::items;

const HANDLERS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `field`: `spec` or `spec.template.spec`.
pub fn validate(spec: &Value, field: &str, causes: &mut Causes) {
    causes.one_of(format!("{field}.restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    causes.one_of(format!("{field}.dnsPolicy"), &spec["dnsPolicy"], &dns);
    causes.not_negative(format!("{field}.terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds < 1) {
        let field = format!("{field}.activeDeadlineSeconds");
        causes.invalid(field, &spec["activeDeadlineSeconds"], "must be between 1 and 2147483647, inclusive");
    }
    for (key, rule) in [("nodeName", names::dns_subdomain as Rule), ("serviceAccountName", names::dns_subdomain)] {
        named(&spec[key], format!("{field}.{key}"), rule, causes);
    }
    crate::api::validate::labels(&spec["nodeSelector"], &format!("{field}.nodeSelector"), causes);
    tolerations(&spec["tolerations"], field, causes);
    let volumes = volumes(&spec["volumes"], &format!("{field}.volumes"), causes);
    let containers = &spec["containers"];
    if containers.as_array().is_none_or(Vec::is_empty) {
        causes.required(format!("{field}.containers"), "");
    }
    let mut seen = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (n, container) in items(&spec[list]) {
            let at = format!("{field}.{list}[{n}]");
            of_container(container, &at, &volumes, causes);
            if let Some(name) = container["name"].as_str().filter(|name| !seen.insert(*name)) {
                causes.duplicate(format!("{at}.name"), &json!(name));
            }
            if spec["hostNetwork"] == true {
                host_ports(container, &at, causes);
            }
            if list == "initContainers" && container["restartPolicy"] != "Always" {
                for probe in PROBES.iter().chain(&["lifecycle"]).filter(|probe| !container[**probe].is_null()) {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    causes.forbidden(format!("{at}.{probe}"), why);
                }
            }
        }
    }
}

type Rule = fn(&str) -> Option<String>;

/// A name, where there is one.
fn named(value: &Value, field: String, rule: Rule, causes: &mut Causes) {
    if let Some(why) = value.as_str().and_then(rule) {
        causes.invalid(field, value, why);
    }
}

fn of_container(container: &Value, at: &str, volumes: &BTreeSet<&str>, causes: &mut Causes) {
    match container["name"].as_str() {
        None | Some("") => causes.required(format!("{at}.name"), ""),
        Some(_) => named(&container["name"], format!("{at}.name"), names::dns_label, causes),
    }
    match container["image"].as_str() {
        None | Some("") => causes.required(format!("{at}.image"), ""),
        Some(image) if image.trim() != image => {
            causes.invalid(format!("{at}.image"), &container["image"], "must not have leading or trailing whitespace");
        }
        Some(_) => {}
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    causes.one_of(format!("{at}.imagePullPolicy"), &container["imagePullPolicy"], &policies);
    let message = &container["terminationMessagePolicy"];
    causes.one_of(format!("{at}.terminationMessagePolicy"), message, &["File", "FallbackToLogsOnError"]);
    ports(&container["ports"], &format!("{at}.ports"), causes);
    for (n, variable) in items(&container["env"]) {
        let at = format!("{at}.env[{n}]");
        match variable["name"].as_str() {
            None | Some("") => causes.required(format!("{at}.name"), ""),
            Some(_) => named(&variable["name"], format!("{at}.name"), names::env, causes),
        }
        if !variable["valueFrom"].is_null() && variable["value"].as_str().is_some_and(|value| !value.is_empty()) {
            causes.invalid(format!("{at}.valueFrom"), &json!(""), "may not be specified when `value` is not empty");
        }
    }
    mounts(&container["volumeMounts"], &format!("{at}.volumeMounts"), volumes, causes);
    resources(&container["resources"], &format!("{at}.resources"), causes);
    for probe in PROBES.iter().filter(|probe| !container[**probe].is_null()) {
        of_probe(&container[*probe], &format!("{at}.{probe}"), *probe != "readinessProbe", causes);
    }
    for hook in ["postStart", "preStop"] {
        let hook_of = &container["lifecycle"][hook];
        if !hook_of.is_null() {
            let handlers = ["exec", "httpGet", "sleep", "tcpSocket"];
            one_handler(hook_of, &handlers, &format!("{at}.lifecycle.{hook}"), causes);
        }
    }
    for key in ["runAsUser", "runAsGroup"] {
        causes.not_negative(format!("{at}.securityContext.{key}"), &container["securityContext"][key]);
    }
}

fn ports(ports: &Value, field: &str, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for (n, port) in items(ports) {
        let at = format!("{field}[{n}]");
        named(&port["name"], format!("{at}.name"), names::port, causes);
        if let Some(name) = port["name"].as_str().filter(|name| !seen.insert(*name)) {
            causes.duplicate(format!("{at}.name"), &json!(name));
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => causes.required(format!("{at}.containerPort"), ""),
            Some(_) => number(&port["containerPort"], format!("{at}.containerPort"), causes),
        }
        number(&port["hostPort"], format!("{at}.hostPort"), causes);
        causes.one_of(format!("{at}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

/// The number of a port, where there is one.
pub fn number(value: &Value, field: String, causes: &mut Causes) {
    if value.as_i64().is_some_and(|port| !(1..=65535).contains(&port)) {
        causes.invalid(field, value, "must be between 1 and 65535, inclusive");
    }
}

fn host_ports(container: &Value, at: &str, causes: &mut Causes) {
    for (n, port) in items(&container["ports"]) {
        if !port["hostPort"].is_null() && port["hostPort"] != port["containerPort"] {
            let field = format!("{at}.ports[{n}].containerPort");
            causes.invalid(field, &port["containerPort"], "must match `hostPort` when `hostNetwork` is true");
        }
    }
}

fn mounts(mounts: &Value, field: &str, volumes: &BTreeSet<&str>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for (n, mount) in items(mounts) {
        let at = format!("{field}[{n}]");
        match mount["name"].as_str() {
            None | Some("") => causes.required(format!("{at}.name"), ""),
            Some(name) if !volumes.contains(name) => causes.not_found(format!("{at}.name"), &mount["name"]),
            Some(_) => {}
        }
        match mount["mountPath"].as_str() {
            None | Some("") => causes.required(format!("{at}.mountPath"), ""),
            Some(path) if !seen.insert(path) => {
                causes.invalid(format!("{at}.mountPath"), &mount["mountPath"], "must be unique");
            }
            Some(_) => {}
        }
        if let Some(path) = mount["subPath"].as_str()
            && (path.starts_with('/') || path.split('/').any(|part| part == ".."))
        {
            causes.invalid(
                format!("{at}.subPath"),
                &mount["subPath"],
                "must be a relative path and must not contain '..'",
            );
        }
    }
}

fn resources(resources: &Value, field: &str, causes: &mut Causes) {
    let read = |value: &Value| value.as_str().and_then(quantity::parse);
    for key in ["limits", "requests"] {
        for (name, value) in resources[key].as_object().into_iter().flatten() {
            match read(value) {
                Some(quantity) if quantity.milli >= 0 => {}
                _ => causes.invalid(
                    format!("{field}.{key}[{name}]"),
                    value,
                    "must be a quantity of 0 or more, as 100m or 64Mi",
                ),
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Some(asked), Some(most)) = (read(request), read(limit))
            && asked.milli > most.milli
        {
            let why = format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            causes.invalid(format!("{field}.requests"), request, why);
        }
    }
}

fn of_probe(probe: &Value, field: &str, success_is_one: bool, causes: &mut Causes) {
    one_handler(probe, &HANDLERS, field, causes);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        causes.not_negative(format!("{field}.{key}"), &probe[key]);
    }
    if success_is_one && probe["successThreshold"].as_i64().is_some_and(|threshold| threshold != 1) {
        causes.invalid(format!("{field}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
}

fn one_handler(of: &Value, handlers: &[&str], field: &str, causes: &mut Causes) {
    let given: Vec<&&str> = handlers.iter().filter(|handler| !of[**handler].is_null()).collect();
    match given.as_slice() {
        [] => causes.required(field, "must specify a handler type"),
        [_] => {}
        [_, second, ..] => causes.forbidden(format!("{field}.{second}"), "may not specify more than 1 handler type"),
    }
}

/// Their names.
fn volumes<'a>(volumes: &'a Value, field: &str, causes: &mut Causes) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (n, volume) in items(volumes) {
        let at = format!("{field}[{n}]");
        match volume["name"].as_str() {
            None | Some("") => causes.required(format!("{at}.name"), ""),
            Some(name) => {
                named(&volume["name"], format!("{at}.name"), names::dns_label, causes);
                if !seen.insert(name) {
                    causes.duplicate(format!("{at}.name"), &volume["name"]);
                }
            }
        }
        let sources: Vec<&String> =
            volume.as_object().into_iter().flat_map(|v| v.keys()).filter(|key| *key != "name").collect();
        match sources.as_slice() {
            [] => causes.required(at, "must specify a volume type"),
            [_] => {}
            [_, second, ..] => causes.forbidden(format!("{at}.{second}"), "may not specify more than 1 volume type"),
        }
    }
    seen
}

/// Of a pod, or the taints of a node.
fn tolerations(tolerations: &Value, field: &str, causes: &mut Causes) {
    for (n, toleration) in items(tolerations) {
        let at = format!("{field}.tolerations[{n}]");
        named(&toleration["key"], format!("{at}.key"), names::qualified, causes);
        causes.one_of(format!("{at}.operator"), &toleration["operator"], &["Equal", "Exists"]);
        causes.one_of(format!("{at}.effect"), &toleration["effect"], &EFFECTS);
        let exists = toleration["operator"] == "Exists";
        if toleration["key"].is_null() && !exists {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(format!("{at}.operator"), &toleration["operator"], why);
        }
        if exists && toleration["value"].as_str().is_some_and(|value| !value.is_empty()) {
            causes.invalid(
                format!("{at}.operator"),
                &toleration["operator"],
                "value must be empty when `operator` is 'Exists'",
            );
        }
        if !toleration["tolerationSeconds"].is_null() && toleration["effect"] != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(format!("{at}.effect"), &toleration["effect"], why);
        }
    }
}
