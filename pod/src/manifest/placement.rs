//! nodeName, nodeSelector, required node affinity and tolerations: which nodes a pod may run on.

use super::findings::{At, Findings};
use super::{names, pod};
use crate::spec::{NodeSelectorTerm, Operator, Placement, Requirement, TaintEffect, Toleration};

pub fn read(spec: &At<'_>, findings: &mut Findings) -> Placement {
    let node_name = spec.text_in("nodeName", findings).filter(|n| !n.is_empty());
    if let (Some(name), Some(at)) = (node_name, spec.get("nodeName"))
        && let Some(reason) = names::dns_subdomain(name)
    {
        findings.rule(&at, reason);
    }
    let judge = |key: &str, value: &str| names::qualified(key).or_else(|| names::label_value(value));
    Placement {
        node_name: node_name.map(str::to_owned),
        node_selector: pod::text_map(spec, "nodeSelector", findings, judge),
        required_terms: required_terms(spec, findings),
        tolerations: spec.list("tolerations", findings).iter().filter_map(|t| toleration(t, findings)).collect(),
    }
}

fn required_terms(spec: &At<'_>, findings: &mut Findings) -> Option<Vec<NodeSelectorTerm>> {
    let node_affinity = spec.get("affinity")?.get("nodeAffinity")?;
    let required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")?;
    let list = required.need("nodeSelectorTerms", findings)?;
    let items = list.items(findings);
    if items.is_empty() {
        findings.rule(&list, "must have at least one term");
    }
    let mut terms = Vec::with_capacity(items.len());
    for item in items {
        let labels = item.list("matchExpressions", findings);
        let fields = item.list("matchFields", findings);
        terms.push(NodeSelectorTerm {
            labels: labels.iter().filter_map(|at| label_requirement(at, findings)).collect(),
            fields: fields.iter().filter_map(|at| field_requirement(at, findings)).collect(),
        });
    }
    Some(terms)
}

fn label_requirement(at: &At<'_>, findings: &mut Findings) -> Option<Requirement> {
    let requirement = requirement(at, findings)?;
    if let (Some(reason), Some(key)) = (names::qualified(&requirement.key), at.get("key")) {
        findings.rule(&key, reason);
    }
    Some(requirement)
}

fn field_requirement(at: &At<'_>, findings: &mut Findings) -> Option<Requirement> {
    let requirement = requirement(at, findings)?;
    if requirement.key != "metadata.name"
        && let Some(key) = at.get("key")
    {
        findings.impossible(&key, "only metadata.name can be matched");
    }
    if !matches!(requirement.operator, Operator::In | Operator::NotIn)
        && let Some(operator) = at.get("operator")
    {
        findings.rule(&operator, "only In and NotIn can be used with a field");
    }
    if requirement.values.len() != 1 {
        findings.rule(at.get("values").as_ref().unwrap_or(at), "must have exactly one value");
    }
    Some(requirement)
}

/// Key, operator and values, with the rules that hold for all operators.
fn requirement(at: &At<'_>, findings: &mut Findings) -> Option<Requirement> {
    let key = at.need("key", findings)?.text(findings)?.to_owned();
    let operator = match at.need("operator", findings)?.text(findings)? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        other => {
            let allowed = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
            return pod::one_of(at, "operator", other, &allowed, findings);
        }
    };
    let values = at.texts_in("values", findings);
    let fault = match operator {
        Operator::In | Operator::NotIn if values.is_empty() => Some("must have at least one value with In and NotIn"),
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            Some("must have no values with Exists and DoesNotExist")
        }
        Operator::Gt | Operator::Lt if !matches!(&values[..], [one] if one.parse::<i64>().is_ok()) => {
            Some("must have one value, an integer in quotes, with Gt and Lt")
        }
        _ => None,
    };
    if let Some(reason) = fault {
        findings.rule(at.get("values").as_ref().unwrap_or(at), reason);
    }
    Some(Requirement { key, operator, values })
}

fn toleration(at: &At<'_>, findings: &mut Findings) -> Option<Toleration> {
    let key = at.text_in("key", findings).filter(|k| !k.is_empty());
    let value = at.text_in("value", findings).unwrap_or_default();
    let exists = match at.text_in("operator", findings) {
        None | Some("" | "Equal") => false,
        Some("Exists") => true,
        Some(other) => return pod::one_of(at, "operator", other, &["Equal", "Exists"], findings),
    };
    let effect = match at.text_in("effect", findings) {
        None | Some("") => None,
        Some("NoSchedule") => Some(TaintEffect::NoSchedule),
        Some("PreferNoSchedule") => Some(TaintEffect::PreferNoSchedule),
        Some("NoExecute") => Some(TaintEffect::NoExecute),
        Some(other) => {
            return pod::one_of(at, "effect", other, &["NoSchedule", "PreferNoSchedule", "NoExecute"], findings);
        }
    };
    if let (Some(reason), Some(at)) = (key.and_then(names::qualified), at.get("key")) {
        findings.rule(&at, reason);
    }
    if key.is_none() && !exists {
        findings.rule(at, "a toleration without key tolerates everything: it needs `operator: Exists`");
    }
    if exists && !value.is_empty() {
        findings.rule(at.get("value").as_ref().unwrap_or(at), "must be left out with `operator: Exists`");
    } else if let (Some(reason), Some(at)) = (names::label_value(value), at.get("value")) {
        findings.rule(&at, reason);
    }
    if let Some(seconds) = at.get("tolerationSeconds")
        && effect != Some(TaintEffect::NoExecute)
    {
        findings.rule(&seconds, "goes only with `effect: NoExecute`");
    }
    Some(Toleration { key: key.map(str::to_owned), exists, value: value.to_owned(), effect })
}
