//! `env` of a container: literal values, fieldRef, resourceFieldRef.

use std::collections::BTreeSet;

use super::container::Pod;
use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, quantity, resources};
use crate::spec::{ContainerResource, EnvValue, EnvVar, PodField, Quantity};

/// The fields that an environment variable may show, as they are spelled.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels['<key>']",
    "metadata.annotations['<key>']",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub fn read(container: &At<'_>, own_name: &str, pod: &Pod<'_>, findings: &mut Findings) -> Vec<EnvVar> {
    let mut vars = Vec::new();
    for item in container.list("env", findings) {
        let Some(at) = item.need("name", findings) else { continue };
        let Some(name) = at.text(findings) else { continue };
        if let Some(reason) = names::env(name) {
            findings.impossible(&at, reason);
        }
        let Some(value) = value(&item, own_name, pod, findings) else { continue };
        vars.push(EnvVar { name: name.to_owned(), value });
    }
    vars
}

/// A resourceFieldRef names a container of the pod: known only when all have been read.
pub fn check_containers(container: &At<'_>, containers: &BTreeSet<&str>, findings: &mut Findings) {
    for item in container.list("env", findings) {
        let Some(reference) = item.get("valueFrom").and_then(|v| v.get("resourceFieldRef")) else { continue };
        let Some(at) = reference.get("containerName") else { continue };
        if let Some(name) = at.text(findings)
            && !name.is_empty()
            && !containers.contains(name)
        {
            findings.impossible(&at, format!("the pod has no container {}", names::shown(name)));
        }
    }
}

fn value(item: &At<'_>, own_name: &str, pod: &Pod<'_>, findings: &mut Findings) -> Option<EnvValue> {
    let literal = match item.get("value") {
        Some(at) => Some(at.text(findings)?),
        None => None,
    };
    let Some(from) = item.get("valueFrom") else {
        let literal = literal.unwrap_or_default();
        if literal.contains('\0') {
            findings.impossible(item, "a variable cannot hold a NUL character");
        }
        return Some(EnvValue::Literal(literal.to_owned()));
    };
    if literal.is_some_and(|l| !l.is_empty()) {
        findings.impossible(&from, "cannot stand beside a value: leave one of them out");
        return None;
    }
    let sources: Vec<_> = from.entries(findings).into_iter().filter(|(_, at)| at.node.value != Value::Null).collect();
    match &sources[..] {
        [("fieldRef", at)] => field(at, pod, findings),
        [("resourceFieldRef", at)] => resource(at, own_name, findings),
        // The field table knows the reason; this only keeps a record with it from being run.
        [(_, at)] => {
            findings.impossible(at, "only fieldRef and resourceFieldRef can be used");
            None
        }
        [] => {
            findings.impossible(&from, "names no source: give it a fieldRef or resourceFieldRef");
            None
        }
        _ => {
            findings.impossible(&from, "names more than one source: leave one");
            None
        }
    }
}

fn field(at: &At<'_>, pod: &Pod<'_>, findings: &mut Findings) -> Option<EnvValue> {
    if let Some(version) = at.get("apiVersion")
        && version.text(findings).is_some_and(|v| v != "v1" && !v.is_empty())
    {
        findings.rule(&version, "must be v1");
    }
    let at = at.need("fieldPath", findings)?;
    let path = at.text(findings)?;
    let field = match path {
        "metadata.name" => PodField::Name,
        "metadata.namespace" => PodField::Namespace,
        "metadata.uid" => PodField::Uid,
        "spec.nodeName" => PodField::NodeName,
        // Known from the document alone. Names of accounts have no `$`, so nothing in it is expanded.
        "spec.serviceAccountName" => return Some(EnvValue::Literal(pod.service_account.clone())),
        "status.hostIP" => PodField::HostIp,
        "status.hostIPs" => PodField::HostIps,
        "status.podIP" => PodField::PodIp,
        "status.podIPs" => PodField::PodIps,
        _ => match (keyed(path, "metadata.labels['"), keyed(path, "metadata.annotations['")) {
            (Some(key), _) => PodField::Label(key),
            (_, Some(key)) => PodField::Annotation(key),
            _ => {
                findings.impossible(
                    &at,
                    format!("{} cannot be shown: use one of {}", names::shown(path), FIELDS.join(", ")),
                );
                return None;
            }
        },
    };
    if let PodField::Label(key) | PodField::Annotation(key) = &field
        && let Some(reason) = names::qualified(&key.to_lowercase())
    {
        findings.rule(&at, reason);
    }
    Some(EnvValue::Field(field))
}

/// The key in `metadata.labels['key']`.
fn keyed(path: &str, prefix: &str) -> Option<String> {
    Some(path.strip_prefix(prefix)?.strip_suffix("']")?.to_owned())
}

fn resource(at: &At<'_>, own_name: &str, findings: &mut Findings) -> Option<EnvValue> {
    let container = at.text_in("containerName", findings).filter(|n| !n.is_empty()).unwrap_or(own_name).to_owned();
    let named = at.need("resource", findings)?;
    let text = named.text(findings)?;
    let resource = match text {
        "limits.cpu" => ContainerResource::LimitsCpu,
        "limits.memory" => ContainerResource::LimitsMemory,
        "limits.ephemeral-storage" => ContainerResource::LimitsEphemeralStorage,
        "requests.cpu" => ContainerResource::RequestsCpu,
        "requests.memory" => ContainerResource::RequestsMemory,
        "requests.ephemeral-storage" => ContainerResource::RequestsEphemeralStorage,
        _ => {
            let reason =
                "cannot be shown: use limits or requests of cpu, memory or ephemeral-storage, such as limits.cpu";
            findings.impossible(&named, format!("{} {reason}", names::shown(text)));
            return None;
        }
    };
    Some(EnvValue::Resource { container, resource, divisor: divisor(at, resource, findings)? })
}

/// 0 and absent mean 1. Kubernetes allows only these.
fn divisor(at: &At<'_>, resource: ContainerResource, findings: &mut Findings) -> Option<Quantity> {
    const CPU: &[&str] = &["1m", "1"];
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    const ONE: Quantity = Quantity { milli: 1000 };
    let Some(at) = at.get("divisor") else { return Some(ONE) };
    let (_, quantity) = resources::quantity(&at, findings)?;
    if quantity.milli == 0 {
        return Some(ONE);
    }
    let allowed = match resource {
        ContainerResource::LimitsCpu | ContainerResource::RequestsCpu => CPU,
        ContainerResource::LimitsMemory
        | ContainerResource::LimitsEphemeralStorage
        | ContainerResource::RequestsMemory
        | ContainerResource::RequestsEphemeralStorage => BYTES,
    };
    if quantity.milli < 0 {
        findings.impossible(&at, "must not be negative");
    } else if !allowed.iter().any(|a| quantity::parse(a) == Some(quantity)) {
        findings.rule(&at, format!("must be one of {}", allowed.join(", ")));
    }
    Some(quantity)
}
