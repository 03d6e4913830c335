//! `resources` of a container.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, pod, quantity};
use crate::spec::{Quantity, ResizePolicy, Resources, Role};

/// The three resources that a container has here, by their names in Kubernetes.
#[derive(Debug, Default)]
struct Amounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    written: BTreeMap<String, String>,
}

pub fn read(at: &At<'_>, findings: &mut Findings) -> Resources {
    let limits = amounts(at, "limits", findings);
    let mut requests = amounts(at, "requests", findings);
    let limit_of = |name: &str| match name {
        "cpu" => limits.cpu,
        "memory" => limits.memory,
        _ => limits.written.get(name).and_then(|w| quantity::parse(w)),
    };
    for (name, written) in &requests.written {
        let request = quantity::parse(written);
        if let (Some(request), Some(limit)) = (request, limit_of(name))
            && request > limit
            && let Some(field) = at.get("requests").and_then(|r| r.get(name))
        {
            findings.rule(&field, format!("{written} is more than the limit, {}", limits.written[name]));
        }
    }
    for (name, written) in &limits.written {
        requests.written.entry(name.clone()).or_insert_with(|| written.clone());
    }
    let cpu_request = requests.cpu.or(limits.cpu);
    let memory_request = requests.memory.or(limits.memory);
    Resources {
        cpu_request_milli: cpu_request.map(milli),
        cpu_limit_milli: limits.cpu.map(milli),
        memory_request: memory_request.map(bytes),
        memory_limit: limits.memory.map(bytes),
        limits: limits.written,
        requests: requests.written,
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

fn amounts(at: &At<'_>, key: &str, findings: &mut Findings) -> Amounts {
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
            "ephemeral-storage" => {}
            name if name.starts_with("hugepages-") => findings.rule(&entry, "not built yet: there are no huge pages"),
            name if name.contains('/') => {
                findings
                    .rule(&entry, "not supported: no device plugins are asked; use a hostPath volume of the device");
            }
            _ => findings.rule(&entry, "unknown resource: use cpu, memory or ephemeral-storage"),
        }
        amounts.written.insert(name.to_owned(), written);
    }
    amounts
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
