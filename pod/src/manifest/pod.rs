//! A Pod's (or template's) metadata and spec to a [`PodTemplate`], with Kubernetes' defaults and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::container::Listed;
use super::findings::{At, Findings};
use super::{container, content, names, naming, placement, resources, security, sysctls, volumes};
use crate::after;
use crate::spec::{
    AFTER_ANNOTATION, AppArmor, Container, EGRESS_BANDWIDTH_ANNOTATION, INGRESS_BANDWIDTH_ANNOTATION, PodSpec,
    PodTemplate, RESTART_ON_CONFIG_CHANGE_ANNOTATION, RUN_ONCE_ANNOTATION, RestartPolicy, STANDBY_ANNOTATION,
    VolumeSource,
};

/// Bytes of all annotations of one object, as in Kubernetes.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;
/// Values of Kubernetes' two built-in priority classes.
pub const PRIORITY_CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// Reads `metadata` (perhaps absent) and `spec` of the object at `object`. None: nothing can be run from it; the
/// findings say why.
pub fn template(object: &At<'_>, findings: &mut Findings) -> Option<PodTemplate> {
    let metadata = object.get("metadata");
    let (labels, annotations) = match &metadata {
        Some(metadata) => (labels(metadata, findings), annotations(metadata, findings)),
        None => Default::default(),
    };
    let apparmor = metadata.as_ref().map(|metadata| security::annotated(metadata, findings)).unwrap_or_default();
    let spec = spec(&object.need("spec", findings)?, apparmor, findings)?;
    Some(PodTemplate { labels, annotations, spec })
}

/// `labels` of a metadata.
pub fn labels(metadata: &At<'_>, findings: &mut Findings) -> BTreeMap<String, String> {
    text_map(metadata, "labels", findings, |key, value| names::qualified(key).or_else(|| names::label_value(value)))
}

fn annotations(metadata: &At<'_>, findings: &mut Findings) -> BTreeMap<String, String> {
    let annotations = text_map(metadata, "annotations", findings, |key, value| match key {
        STANDBY_ANNOTATION | RUN_ONCE_ANNOTATION | RESTART_ON_CONFIG_CHANGE_ANNOTATION
            if !matches!(value, "true" | "false") =>
        {
            Some("must be \"true\" or \"false\"".to_owned())
        }
        AFTER_ANNOTATION => after::fault(value),
        INGRESS_BANDWIDTH_ANNOTATION | EGRESS_BANDWIDTH_ANNOTATION => bandwidth(value),
        key => names::qualified(&key.to_lowercase()),
    });
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_ANNOTATIONS_BYTES
        && let Some(at) = metadata.get("annotations")
    {
        findings.rule(&at, format!("annotations have {size} bytes, more than the {MAX_ANNOTATIONS_BYTES} allowed"));
    }
    annotations
}

/// Kubernetes' bounds: a kilobit to a petabit a second.
fn bandwidth(value: &str) -> Option<String> {
    const LEAST: i128 = 1_000;
    const MOST: i128 = 1_000_000_000_000_000;
    let bits = super::quantity::parse(value).map(|quantity| quantity.milli / 1000);
    let good = bits.is_some_and(|bits| (LEAST..=MOST).contains(&bits));
    (!good).then(|| format!("{} is no bandwidth such as 10M: bits a second from 1k to 1P", names::shown(value)))
}

/// A mapping of texts; `judge` says what is wrong with an entry.
pub fn text_map(
    at: &At<'_>,
    key: &str,
    findings: &mut Findings,
    judge: impl Fn(&str, &str) -> Option<String>,
) -> BTreeMap<String, String> {
    let Some(map) = at.get(key) else { return BTreeMap::new() };
    let mut texts = BTreeMap::new();
    for (key, entry) in map.entries(findings) {
        // `key:` without a value is an empty text, as in Kubernetes.
        let null = entry.node.value == super::tree::Value::Null;
        let Some(text) = (if null { Some("") } else { entry.text(findings) }) else { continue };
        if let Some(reason) = judge(key, text) {
            findings.rule(&entry, reason);
        }
        texts.entry(key.to_owned()).or_insert_with(|| text.to_owned());
    }
    texts
}

fn spec(spec: &At<'_>, apparmor: Vec<(&str, At<'_>, AppArmor)>, findings: &mut Findings) -> Option<PodSpec> {
    let volumes = volumes::read(spec, findings);
    let pod = container::Pod {
        host_network: spec.boolean_in("hostNetwork", findings).unwrap_or(false),
        own_users: own_users(spec, findings),
        service_account: service_account(spec, findings),
        security: spec.get("securityContext").map(|at| security::pod(&at, findings)).unwrap_or_default(),
        volumes: volumes.iter().map(|v| v.name.as_str()).collect(),
        empty_dirs: volumes
            .iter()
            .filter(|v| matches!(v.source, VolumeSource::EmptyDir(_)))
            .map(|v| v.name.as_str())
            .collect(),
        grace: grace(spec, findings),
        never_restarts: spec.node.get("restartPolicy").and_then(|policy| policy.text()) == Some("Never"),
        apparmor,
    };
    let mut containers = containers(spec, &pod, findings)?;
    let resources = resources::of_pod(spec, &mut containers, findings);
    let restart_policy = match spec.text_in("restartPolicy", findings) {
        None | Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(other) => one_of(spec, "restartPolicy", other, &["Always", "OnFailure", "Never"], findings)?,
    };
    let (priority, priority_class) = priority(spec, findings);
    Some(PodSpec {
        containers,
        restart_policy,
        termination_grace: pod.grace,
        active_deadline: active_deadline(spec, findings),
        host_network: pod.host_network,
        host_pid: spec.boolean_in("hostPID", findings).unwrap_or(false),
        host_ipc: spec.boolean_in("hostIPC", findings).unwrap_or(false),
        own_users: pod.own_users,
        share_processes: share_processes(spec, findings),
        sysctls: sysctls::read(spec, findings),
        priority,
        priority_class,
        runtime_class: runtime_class(spec, findings),
        placement: placement::read(spec, findings),
        naming: naming::read(spec, findings),
        image_pull_secrets: content::pull_secrets(spec, findings),
        resources,
        volumes,
    })
}

/// Reports a value that is none of the allowed ones. Always None, so that the caller can leave with `?`.
pub fn one_of<T>(at: &At<'_>, key: &str, value: &str, allowed: &[&str], findings: &mut Findings) -> Option<T> {
    let at = at.get(key)?;
    findings.impossible(&at, format!("{} is not one of {}", names::shown(value), allowed.join(", ")));
    None
}

fn containers(spec: &At<'_>, pod: &container::Pod<'_>, findings: &mut Findings) -> Option<Vec<Container>> {
    let list = spec.need("containers", findings)?;
    let items = list.items(findings);
    if items.is_empty() {
        findings.impossible(&list, "must have at least one container");
        return None;
    }
    let inits = spec.list("initContainers", findings);
    let listed = inits.iter().map(|item| (Listed::InitContainers, item));
    let listed = listed.chain(items.iter().map(|item| (Listed::Containers, item)));
    let mut seen = BTreeSet::new();
    let mut containers = Vec::with_capacity(inits.len() + items.len());
    for (list, item) in listed {
        // Judged to the end, so that one reading names all faults.
        let Some(container) = container::read(item, list, pod, findings) else { continue };
        if !seen.insert(container.name.clone()) {
            let name = item.get("name");
            let reason = format!("two containers are named {}: give each its own name", names::shown(&container.name));
            findings.impossible(name.as_ref().unwrap_or(item), reason);
        }
        containers.push(container);
    }
    let items: Vec<At<'_>> = inits.into_iter().chain(items).collect();
    let names: BTreeSet<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    super::projected::check_containers(spec, &names, findings);
    container::across(&items, &containers, pod, findings);
    Some(containers)
}

/// What `fieldRef: spec.serviceAccountName` shows: Kubernetes' default is `default`.
fn service_account(spec: &At<'_>, findings: &mut Findings) -> String {
    let named = spec.text_in("serviceAccountName", findings).filter(|n| !n.is_empty());
    let named = named.or_else(|| spec.text_in("serviceAccount", findings).filter(|n| !n.is_empty()));
    let name = named.unwrap_or("default");
    if let (Some(reason), Some(at)) = (names::dns_subdomain(name), spec.get("serviceAccountName")) {
        findings.rule(&at, reason);
    }
    name.to_owned()
}

fn grace(spec: &At<'_>, findings: &mut Findings) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(30);
    let Some(at) = spec.get("terminationGracePeriodSeconds") else { return DEFAULT };
    let Some(seconds) = at.integer(findings) else { return DEFAULT };
    if seconds < 0 {
        findings.rule(&at, "must be 0 or more seconds");
    }
    // Kubernetes reads an int64 and treats a negative one as 1.
    Duration::from_secs(if seconds < 0 { 1 } else { u64::try_from(seconds).unwrap_or(u64::MAX).min(i64::MAX as u64) })
}

/// `hostUsers: false`. As in Kubernetes nothing else may be the node's then: its root would be nobody there.
fn own_users(spec: &At<'_>, findings: &mut Findings) -> bool {
    let own = spec.boolean_in("hostUsers", findings) == Some(false);
    let Some(at) = spec.get("hostUsers").filter(|_| own) else { return false };
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.boolean_in(key, findings) == Some(true) {
            let why = format!("cannot be false with {key} (Kubernetes does not allow it): drop one of the two");
            findings.impossible(&at, why);
        }
    }
    true
}

/// `shareProcessNamespace`.
fn share_processes(spec: &At<'_>, findings: &mut Findings) -> bool {
    let shared = spec.boolean_in("shareProcessNamespace", findings).unwrap_or(false);
    let nodes_own = spec.boolean_in("hostPID", findings).unwrap_or(false);
    if shared
        && nodes_own
        && let Some(at) = spec.get("shareProcessNamespace")
    {
        findings.impossible(&at, "cannot be true with hostPID: drop one of the two");
    }
    shared && !nodes_own
}

/// Kubernetes' bounds: 1 second to those of 32 bits.
fn active_deadline(spec: &At<'_>, findings: &mut Findings) -> Option<Duration> {
    let at = spec.get("activeDeadlineSeconds")?;
    let seconds = u64::try_from(at.integer(findings)?).ok().filter(|seconds| (1..=i32::MAX as u64).contains(seconds));
    if seconds.is_none() {
        findings.rule(&at, format!("must be 1 to {} seconds", i32::MAX));
    }
    seconds.map(Duration::from_secs)
}

/// The empty name is the node's usual runtime, as in Kubernetes.
fn runtime_class(spec: &At<'_>, findings: &mut Findings) -> Option<String> {
    let at = spec.get("runtimeClassName")?;
    let name = at.text(findings).filter(|name| !name.is_empty())?;
    if let Some(reason) = names::dns_subdomain(name) {
        findings.rule(&at, reason);
    }
    Some(name.to_owned())
}

fn priority(spec: &At<'_>, findings: &mut Findings) -> (i32, Option<String>) {
    let given = spec.get("priority").and_then(|at| {
        let value = i32::try_from(at.integer(findings)?);
        if value.is_err() {
            findings.impossible(&at, "must be a 32-bit integer");
        }
        value.ok()
    });
    let Some(at) = spec.get("priorityClassName") else { return (given.unwrap_or(0), None) };
    let Some(name) = at.text(findings).filter(|n| !n.is_empty()) else { return (given.unwrap_or(0), None) };
    if let Some(reason) = names::dns_subdomain(name) {
        findings.rule(&at, reason);
    }
    let known = PRIORITY_CLASSES.iter().find(|(class, _)| *class == name).map(|(_, value)| *value);
    match (known, given) {
        (Some(value), Some(other)) if value != other => {
            if let Some(priority) = spec.get("priority") {
                findings.rule(&priority, format!("must be {value}, the value of {name}, or be left out"));
            }
        }
        _ => {}
    }
    (known.or(given).unwrap_or(0), Some(name.to_owned()))
}
