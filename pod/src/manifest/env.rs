//! `env` and `envFrom` of a container: literal values, fields of the pod, resources, values of ConfigMaps and Secrets.

use std::collections::BTreeSet;

use super::container::Pod;
use super::findings::{At, Findings};
use super::tree::Value;
use super::{content, names, quantity, resources};
use crate::content::ContentKind;
use crate::spec::{ContainerResource, EnvFrom, EnvValue, EnvVar, PodField, Quantity};

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

/// `envFrom`: each entry names one document.
pub fn read_from(container: &At<'_>, findings: &mut Findings) -> Vec<EnvFrom> {
    let mut all = Vec::new();
    for item in container.list("envFrom", findings) {
        let prefix = item.text_in("prefix", findings).unwrap_or_default().to_owned();
        if let (false, Some(reason), Some(at)) = (prefix.is_empty(), names::env(&prefix), item.get("prefix")) {
            findings.impossible(&at, reason);
        }
        let (kind, at) = match (item.get("configMapRef"), item.get("secretRef")) {
            (Some(at), None) => (ContentKind::ConfigMap, at),
            (None, Some(at)) => (ContentKind::Secret, at),
            (None, None) => {
                findings.impossible(&item, "names no source: give it a configMapRef or a secretRef");
                continue;
            }
            (Some(_), Some(at)) => {
                findings.impossible(&at, "cannot stand beside a configMapRef: make two entries of them");
                continue;
            }
        };
        let Some(name) = document_name(&at, "name", findings) else { continue };
        let optional = at.boolean_in("optional", findings).unwrap_or(false);
        all.push(EnvFrom { kind, name, prefix, optional });
    }
    all
}

/// The name of a ConfigMap or Secret in the pod's namespace.
pub fn document_name(at: &At<'_>, field: &str, findings: &mut Findings) -> Option<String> {
    let at = at.need(field, findings)?;
    let name = at.text(findings)?;
    if let Some(reason) = names::dns_subdomain(name) {
        findings.rule(&at, reason);
    }
    Some(name.to_owned())
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
        [("resourceFieldRef", at)] => {
            let (container, resource, divisor) = resource(at, own_name, findings)?;
            Some(EnvValue::Resource { container, resource, divisor })
        }
        [("configMapKeyRef", at)] => key_ref(at, ContentKind::ConfigMap, findings),
        [("secretKeyRef", at)] => key_ref(at, ContentKind::Secret, findings),
        [("fileKeyRef", at)] => file_ref(at, pod, findings),
        // The field table knows the reason; this only keeps a record with it from being run.
        [(_, at)] => {
            findings.impossible(
                at,
                "only fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef can be used",
            );
            None
        }
        [] => {
            findings.impossible(
                &from,
                "names no source: give it a fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef",
            );
            None
        }
        _ => {
            findings.impossible(&from, "names more than one source: leave one");
            None
        }
    }
}

fn key_ref(at: &At<'_>, kind: ContentKind, findings: &mut Findings) -> Option<EnvValue> {
    let name = document_name(at, "name", findings)?;
    let key = at.need("key", findings)?;
    let text = key.text(findings)?;
    if let Some(reason) = content::bad_key(text) {
        findings.rule(&key, reason);
    }
    let optional = at.boolean_in("optional", findings).unwrap_or(false);
    Some(EnvValue::Content { kind, name, key: text.to_owned(), optional })
}

/// A variable in a file of an emptyDir of the pod.
fn file_ref(at: &At<'_>, pod: &Pod<'_>, findings: &mut Findings) -> Option<EnvValue> {
    let (volume, path, key) = (at.need("volumeName", findings), at.need("path", findings), at.need("key", findings));
    let optional = at.boolean_in("optional", findings).unwrap_or(false);
    let (volume, path, key) = (volume?, path?, key?);
    let (of_volume, of_path, of_key) = (volume.text(findings)?, path.text(findings)?, key.text(findings)?);
    if !pod.empty_dirs.contains(of_volume) {
        findings.impossible(&volume, format!("the pod has no emptyDir {}", names::shown(of_volume)));
    }
    if of_path.is_empty()
        || of_path.starts_with('/')
        || of_path.split('/').any(|part| part == "..")
        || of_path.contains('\0')
    {
        findings.impossible(&path, "must name a file in the volume: relative, without `..`");
    }
    if let Some(reason) = names::env(of_key) {
        findings.rule(&key, reason);
    }
    Some(EnvValue::File { volume: of_volume.to_owned(), path: of_path.to_owned(), key: of_key.to_owned(), optional })
}

/// Where the path of a fieldRef (v1 ObjectFieldSelector) stands.
pub fn field_path<'a>(at: &At<'a>, findings: &mut Findings) -> Option<At<'a>> {
    if let Some(version) = at.get("apiVersion")
        && version.text(findings).is_some_and(|v| v != "v1" && !v.is_empty())
    {
        findings.rule(&version, "must be v1");
    }
    at.need("fieldPath", findings)
}

fn field(at: &At<'_>, pod: &Pod<'_>, findings: &mut Findings) -> Option<EnvValue> {
    let at = field_path(at, findings)?;
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
pub fn keyed(path: &str, prefix: &str) -> Option<String> {
    Some(path.strip_prefix(prefix)?.strip_suffix("']")?.to_owned())
}

/// A resourceFieldRef: the container that it is about, `own_name` where it names none; which of its resources, in what unit.
pub fn resource(at: &At<'_>, own_name: &str, findings: &mut Findings) -> Option<(String, ContainerResource, Quantity)> {
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
        _ => match (text.strip_prefix("limits."), text.strip_prefix("requests.")) {
            (Some(pages), _) if pages.starts_with(resources::HUGE_PAGES) => {
                ContainerResource::LimitsHugePages(pages.to_owned())
            }
            (_, Some(pages)) if pages.starts_with(resources::HUGE_PAGES) => {
                ContainerResource::RequestsHugePages(pages.to_owned())
            }
            _ => {
                let reason = "cannot be shown: use limits or requests of cpu, memory, ephemeral-storage or hugepages-<size>, such as limits.cpu";
                findings.impossible(&named, format!("{} {reason}", names::shown(text)));
                return None;
            }
        },
    };
    let divisor = divisor(at, &resource, findings)?;
    Some((container, resource, divisor))
}

/// 0 and absent mean 1. Kubernetes allows only these.
fn divisor(at: &At<'_>, resource: &ContainerResource, findings: &mut Findings) -> Option<Quantity> {
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
        | ContainerResource::RequestsEphemeralStorage
        | ContainerResource::LimitsHugePages(_)
        | ContainerResource::RequestsHugePages(_) => BYTES,
    };
    if quantity.milli < 0 {
        findings.impossible(&at, "must not be negative");
    } else if !allowed.iter().any(|a| quantity::parse(a) == Some(quantity)) {
        findings.rule(&at, format!("must be one of {}", allowed.join(", ")));
    }
    Some(quantity)
}
