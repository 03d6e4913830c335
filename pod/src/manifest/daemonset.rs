//! `spec` of apps/v1 DaemonSet: selector, update strategy and template.

use std::collections::BTreeMap;

use super::findings::{At, Findings, integral};
use super::tree::Value;
use super::{names, pod};
use crate::desired::UpdateStrategy;
use crate::spec::{PodTemplate, RestartPolicy};

/// Reads the whole object. None: nothing can be run from it.
pub fn read(object: &At<'_>, findings: &mut Findings) -> Option<(PodTemplate, UpdateStrategy)> {
    let spec = object.need("spec", findings)?;
    if let Some(metadata) = object.get("metadata") {
        pod::labels(&metadata, findings);
    }
    let update = strategy(&spec, findings);
    for key in ["minReadySeconds", "revisionHistoryLimit"] {
        if let Some(at) = spec.get(key)
            && integral(&at.node.value).is_some_and(|i| i < 0)
        {
            findings.rule(&at, "must be 0 or more");
        }
    }
    let template_at = spec.need("template", findings)?;
    let template = pod::template(&template_at, findings)?;
    if template.spec.restart_policy != RestartPolicy::Always
        && let Some(at) = template_at.get("spec").and_then(|s| s.get("restartPolicy"))
    {
        findings.rule(&at, "must be Always in a DaemonSet: use a Pod for something that ends");
    }
    if let Some(at) = template_at.get("spec").and_then(|spec| spec.get("activeDeadlineSeconds")) {
        findings.rule(&at, "cannot stand in a DaemonSet: use a Pod for something that ends");
    }
    selector(&spec, &template_at, &template.labels, findings);
    Some((template, update?))
}

fn strategy(spec: &At<'_>, findings: &mut Findings) -> Option<UpdateStrategy> {
    let Some(at) = spec.get("updateStrategy") else { return Some(UpdateStrategy::RollingUpdate) };
    match at.text_in("type", findings) {
        None | Some("" | "RollingUpdate") => {
            if let Some(rolling) = at.get("rollingUpdate") {
                rolling_update(&rolling, findings);
            }
            Some(UpdateStrategy::RollingUpdate)
        }
        Some("OnDelete") => Some(UpdateStrategy::OnDelete),
        Some(other) => pod::one_of(&at, "type", other, &["RollingUpdate", "OnDelete"], findings),
    }
}

/// maxUnavailable and maxSurge: exactly one of them is not zero.
fn rolling_update(at: &At<'_>, findings: &mut Findings) {
    let mut share = |key| at.get(key).map(|field| share(&field, findings));
    let unavailable = share("maxUnavailable").unwrap_or(Some(1));
    let surge = share("maxSurge").unwrap_or(Some(0));
    match (unavailable, surge) {
        (Some(0), Some(0)) => {
            findings.rule(at, "maxUnavailable and maxSurge cannot both be 0: nothing could be replaced")
        }
        (Some(1..), Some(1..)) => {
            findings.rule(at, "maxUnavailable must be 0 where maxSurge is not: exactly one of them counts");
        }
        _ => {}
    }
}

/// An absolute number or a percentage, for the comparison with 0.
fn share(at: &At<'_>, findings: &mut Findings) -> Option<u32> {
    let number = match &at.node.value {
        Value::Text(text) => {
            let percent = text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            percent.and_then(|d| d.parse::<u32>().ok()).filter(|p| *p <= 100)
        }
        value => integral(value).and_then(|i| u32::try_from(i).ok()),
    };
    if number.is_none() {
        findings.rule(at, "must be 0 or more, or a percentage between \"0%\" and \"100%\"");
    }
    number
}

fn selector(spec: &At<'_>, template: &At<'_>, labels: &BTreeMap<String, String>, findings: &mut Findings) {
    let Some(at) = spec.get("selector") else {
        let reason = "is missing: set matchLabels to the template's labels".to_owned();
        findings.fault(spec.node.line, spec.path_of("selector"), reason, super::findings::Class::Rule);
        return;
    };
    let judge = |key: &str, value: &str| names::qualified(key).or_else(|| names::label_value(value));
    let wanted = pod::text_map(&at, "matchLabels", findings, judge);
    let expressions = at.list("matchExpressions", findings);
    if wanted.is_empty() && expressions.is_empty() {
        findings.rule(&at, "must not be empty: set matchLabels to the template's labels");
        return;
    }
    let mut matches = wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
    for expression in &expressions {
        matches &= expression_matches(expression, labels, findings).unwrap_or(true);
    }
    if !matches {
        let metadata = template.get("metadata");
        let at = metadata.as_ref().and_then(|m| m.get("labels")).or(metadata).unwrap_or_else(|| template.clone());
        findings.rule(&at, "do not match spec.selector: give the template the labels that the selector asks for");
    }
}

/// None: the expression itself is at fault.
fn expression_matches(at: &At<'_>, labels: &BTreeMap<String, String>, findings: &mut Findings) -> Option<bool> {
    let key_at = at.need("key", findings)?;
    let key = key_at.text(findings)?;
    if let Some(reason) = names::qualified(key) {
        findings.rule(&key_at, reason);
    }
    let operator = at.need("operator", findings)?.text(findings)?;
    let values = at.texts_in("values", findings);
    let values_at = at.get("values").unwrap_or_else(|| at.clone());
    let label = labels.get(key);
    match operator {
        "In" | "NotIn" => {
            if values.is_empty() {
                findings.rule(&values_at, "must have at least one value with In and NotIn");
                return None;
            }
            let found = label.is_some_and(|label| values.contains(label));
            Some(found == (operator == "In"))
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                findings.rule(&values_at, "must have no values with Exists and DoesNotExist");
                return None;
            }
            Some(label.is_some() == (operator == "Exists"))
        }
        other => {
            let allowed = ["In", "NotIn", "Exists", "DoesNotExist"];
            pod::one_of(at, "operator", other, &allowed, findings)
        }
    }
}
