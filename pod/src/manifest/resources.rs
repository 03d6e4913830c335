//! `resources` of a container, and of a pod as a whole (KEP-2837).

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, pod, quantity};
use crate::qos;
use crate::spec::{Container, Quantity, ResizePolicy, Resources, Role, Within};

/// How the names of huge pages begin; the size of a page follows.
pub const HUGE_PAGES: &str = "hugepages-";

/// Whose resources they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Container,
    Pod,
}

/// What is limited, or requested, by its name in Kubernetes.
#[derive(Debug, Default)]
struct Amounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    /// Bytes by the size of a page in bytes.
    huge_pages: BTreeMap<u64, u64>,
    written: BTreeMap<String, String>,
}

/// Of a container.
pub fn read(at: &At<'_>, findings: &mut Findings) -> Resources {
    let (limits, requests) = both(at, Of::Container, findings);
    let mut resources = defaulted(limits, requests);
    for (name, written) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert_with(|| written.clone());
    }
    resources.cpu_request_milli = resources.cpu_request_milli.or(resources.cpu_limit_milli);
    resources.memory_request = resources.memory_request.or(resources.memory_limit);
    resources
}

/// Of the pod at `spec`: each container then knows what it has where it has no limit of its own. A request that is not there is
/// what the containers ask for together, else the limit, as in Kubernetes. None: the containers' count.
pub fn of_pod(spec: &At<'_>, containers: &mut [Container], findings: &mut Findings) -> Option<Box<Resources>> {
    let at = spec.get("resources")?;
    let (limits, requests) = both(&at, Of::Pod, findings);
    let mut of_pod = defaulted(limits, requests);
    if of_pod.limits.is_empty() && of_pod.requests.is_empty() {
        return None;
    }
    let cpu = qos::needed_at_once(containers, |it| it.cpu_request_milli);
    let memory = qos::needed_at_once(containers, |it| it.memory_request);
    let given = |needed: u64| (needed > 0).then_some(needed);
    for (name, needed, of_pod) in [
        ("cpu", cpu, of_pod.cpu_request_milli.or(of_pod.cpu_limit_milli)),
        ("memory", memory, of_pod.memory_request.or(of_pod.memory_limit)),
    ] {
        if of_pod.is_some_and(|of_pod| of_pod < needed) {
            let field = ["requests", "limits"].iter().find_map(|key| at.get(key)?.get(name));
            let reason =
                "is less than what the pod's containers request together: ask for more, or let them ask for less";
            findings.rule(field.as_ref().unwrap_or(&at), reason);
        }
    }
    let written = |milli: u64, per_unit: u64| match per_unit {
        1000 => format!("{milli}m"),
        _ => milli.to_string(),
    };
    for (name, needed, per_unit) in [("cpu", given(cpu), 1000), ("memory", given(memory), 1)] {
        if let (Some(needed), false) = (needed, of_pod.requests.contains_key(name)) {
            of_pod.requests.insert(name.to_owned(), written(needed, per_unit));
        }
    }
    for (name, limit) in &of_pod.limits {
        of_pod.requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    of_pod.cpu_request_milli = of_pod.cpu_request_milli.or(given(cpu)).or(of_pod.cpu_limit_milli);
    of_pod.memory_request = of_pod.memory_request.or(given(memory)).or(of_pod.memory_limit);
    let over = |own: Option<u64>, of_pod: Option<u64>| own.zip(of_pod).is_some_and(|(own, of_pod)| own > of_pod);
    for container in containers.iter() {
        let own = &container.resources;
        let beyond = [
            ("cpu", over(own.cpu_limit_milli, of_pod.cpu_limit_milli)),
            ("memory", over(own.memory_limit, of_pod.memory_limit)),
        ];
        for (name, _) in beyond.into_iter().filter(|(_, beyond)| *beyond) {
            let reason =
                format!("container {} has a limit of {name} beyond that of the pod", names::shown(&container.name));
            findings.rule(&at, reason);
        }
        if own.huge_pages.iter().any(|(size, bytes)| of_pod.huge_pages.get(size).is_some_and(|most| bytes > most)) {
            let reason = format!("container {} has more huge pages than the pod", names::shown(&container.name));
            findings.rule(&at, reason);
        }
    }
    let mains = containers.iter().filter(|container| container.role == Role::Main).count();
    let within = Within {
        cpu_limit_milli: of_pod.cpu_limit_milli.filter(|limit| *limit > 0),
        memory_limit: of_pod.memory_limit.filter(|limit| *limit > 0),
        huge_pages: of_pod.huge_pages.clone(),
        memory_share: of_pod.memory_request.unwrap_or(0).saturating_sub(memory) / (mains.max(1) as u64),
    };
    for container in containers {
        container.resources.within = Some(within.clone().into());
    }
    Some(of_pod.into())
}

/// Limits and requests, judged one by the other.
fn both(at: &At<'_>, of: Of, findings: &mut Findings) -> (Amounts, Amounts) {
    let limits = amounts(at, "limits", of, findings);
    let requests = amounts(at, "requests", of, findings);
    let limit_of = |name: &str| match name {
        "cpu" => limits.cpu,
        "memory" => limits.memory,
        _ => limits.written.get(name).and_then(|w| quantity::parse(w)),
    };
    for (name, written) in &requests.written {
        let (Some(request), Some(field)) = (quantity::parse(written), at.get("requests").and_then(|r| r.get(name)))
        else {
            continue;
        };
        match limit_of(name) {
            limit if name.starts_with(HUGE_PAGES) && limit != Some(request) => {
                findings.rule(&field, "must be the same as its limit: huge pages are set aside and not overcommitted");
            }
            Some(limit) if request > limit => {
                findings.rule(&field, format!("{written} is more than the limit, {}", limits.written[name]));
            }
            _ => {}
        }
    }
    let bare = [&limits, &requests].iter().all(|amounts| amounts.cpu.is_none() && amounts.memory.is_none());
    if bare && !limits.huge_pages.is_empty() {
        findings.rule(at, "asks for huge pages alone: Kubernetes wants cpu or memory beside them");
    }
    (limits, requests)
}

fn defaulted(limits: Amounts, requests: Amounts) -> Resources {
    Resources {
        cpu_request_milli: requests.cpu.map(milli),
        cpu_limit_milli: limits.cpu.map(milli),
        memory_request: requests.memory.map(bytes),
        memory_limit: limits.memory.map(bytes),
        limits: limits.written,
        requests: requests.written,
        huge_pages: limits.huge_pages,
        within: None,
    }
}

/// `resizePolicy` of the container at `at`, as Kubernetes validates it.
pub fn resize_policy(at: &At<'_>, role: Role, never_restarts: bool, findings: &mut Findings) -> ResizePolicy {
    let mut policy = ResizePolicy::default();
    if let Some(list) = at.get("resizePolicy").filter(|_| role == Role::Init) {
        findings.rule(&list, "cannot stand on an init container, which is never resized: remove it");
    }
    let mut seen = BTreeSet::new();
    for item in at.list("resizePolicy", findings) {
        let Some(resource) = item.need("resourceName", findings) else { continue };
        let Some(name) = resource.text(findings) else { continue };
        let restarts = match item.need("restartPolicy", findings).and_then(|at| at.text(findings)) {
            Some("NotRequired") | None => false,
            Some("RestartContainer") => true,
            Some(other) => pod::one_of(&item, "restartPolicy", other, &["NotRequired", "RestartContainer"], findings)
                .unwrap_or(false),
        };
        if restarts && never_restarts {
            findings.rule(&item, "must be NotRequired in a pod with restartPolicy Never");
        }
        if !seen.insert(name) {
            findings.rule(&resource, format!("{name} stands twice: leave one"));
        }
        match name {
            "cpu" => policy.cpu_restarts = restarts,
            "memory" => policy.memory_restarts = restarts,
            other => {
                pod::one_of::<()>(&item, "resourceName", other, &["cpu", "memory"], findings);
            }
        }
    }
    policy
}

fn amounts(at: &At<'_>, key: &str, of: Of, findings: &mut Findings) -> Amounts {
    let mut amounts = Amounts::default();
    let Some(map) = at.get(key) else { return amounts };
    for (name, entry) in map.entries(findings) {
        if entry.node.value == Value::Null {
            continue;
        }
        let Some((written, quantity)) = quantity(&entry, findings) else { continue };
        if quantity.milli < 0 {
            findings.impossible(&entry, "must not be negative");
            continue;
        }
        match name {
            "cpu" => amounts.cpu = Some(quantity),
            "memory" => amounts.memory = Some(quantity),
            "ephemeral-storage" if of == Of::Container => {}
            name if name.starts_with(HUGE_PAGES) => {
                if let Some(size) = page_size(name, &entry, findings) {
                    let asked = bytes(quantity);
                    if !asked.is_multiple_of(size) {
                        findings
                            .rule(&entry, format!("must be whole pages: a multiple of {}", &name[HUGE_PAGES.len()..]));
                    }
                    amounts.huge_pages.insert(size, asked);
                }
            }
            _ if of == Of::Pod => {
                findings.rule(&entry, "a pod as a whole has cpu, memory and hugepages-<size>: give it to a container");
            }
            name if name.contains('/') => {
                findings
                    .rule(&entry, "not supported: no device plugins are asked; use a hostPath volume of the device");
            }
            _ => findings.rule(&entry, "unknown resource: use cpu, memory, ephemeral-storage or hugepages-<size>"),
        }
        amounts.written.insert(name.to_owned(), written);
    }
    amounts
}

/// The size in bytes of the pages that a resource names.
fn page_size(name: &str, at: &At<'_>, findings: &mut Findings) -> Option<u64> {
    let size = name.strip_prefix(HUGE_PAGES).and_then(quantity::parse).map(bytes);
    let size = size.filter(|size| size.is_power_of_two() && *size >= 1024);
    if size.is_none() {
        findings.rule(at, format!("{} names no size of pages: write hugepages-2Mi or its like", names::shown(name)));
    }
    size
}

/// A quantity and how it was written, or a fault.
pub fn quantity(at: &At<'_>, findings: &mut Findings) -> Option<(String, Quantity)> {
    let written = match &at.node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        other => {
            findings.impossible(at, format!("must be a quantity such as 100m or 200Mi, is {}", other.kind()));
            return None;
        }
    };
    let quantity = quantity::parse(&written);
    if quantity.is_none() {
        let reason = format!(
            "{} is not a quantity: write a number and a unit, such as 100m, 1.5 or 200Mi",
            names::shown(&written)
        );
        findings.impossible(at, reason);
    }
    Some((written, quantity?))
}

fn milli(quantity: Quantity) -> u64 {
    u64::try_from(quantity.milli).unwrap_or(u64::MAX)
}

/// Whole bytes, rounded up.
pub fn bytes(quantity: Quantity) -> u64 {
    let whole = quantity.milli / 1000 + i128::from(quantity.milli % 1000 > 0);
    u64::try_from(whole).unwrap_or(u64::MAX)
}
