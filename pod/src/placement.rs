//! Whether a workload belongs on this node. Driven by `merge`, with the node's labels and taints as they are now.
//!
//! A DaemonSet is judged as Kubernetes' controller does: `nodeName`, node selector, required node affinity, then
//! taints, with the tolerations that every daemon pod has by itself. `unschedulable`, conditions and capacity do not
//! count. A Pod document is judged as the kubelet does: taints do not apply to static pods.

use crate::desired::Node;
use crate::name::WorkloadKind;
use crate::spec::{NodeSelectorTerm, Operator, PodTemplate, Requirement, Taint, TaintEffect, Toleration};

/// What the node means for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    Runs,
    /// No new pod comes here; one that is here stays (an untolerated NoSchedule taint).
    Stays {
        reason: String,
    },
    /// It does not belong here, and a pod of it that is here ends.
    Not {
        reason: String,
    },
}

/// The automatic tolerations of daemon pods; the last one only with hostNetwork.
const AUTOMATIC: [(&str, TaintEffect); 7] = [
    ("node.kubernetes.io/not-ready", TaintEffect::NoExecute),
    ("node.kubernetes.io/unreachable", TaintEffect::NoExecute),
    ("node.kubernetes.io/disk-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/memory-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/pid-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/unschedulable", TaintEffect::NoSchedule),
    NETWORK_UNAVAILABLE,
];
const NETWORK_UNAVAILABLE: (&str, TaintEffect) = ("node.kubernetes.io/network-unavailable", TaintEffect::NoSchedule);

pub fn decide(node: &Node, kind: WorkloadKind, template: &PodTemplate) -> Placement {
    if let Some(reason) = repelled(node, template) {
        return Placement::Not { reason };
    }
    match kind {
        // Of an object the endpoint has looked at the taints.
        WorkloadKind::Pod | WorkloadKind::Control => Placement::Runs,
        WorkloadKind::DaemonSet => taints(node, template),
    }
}

/// Why the node is not one that the spec names, selects or requires.
fn repelled(node: &Node, template: &PodTemplate) -> Option<String> {
    let wishes = &template.spec.placement;
    if let Some(name) = wishes.node_name.as_ref().filter(|name| **name != node.name) {
        return Some(format!("nodeName asks for node {name}, this is {}", node.name));
    }
    let missing = wishes.node_selector.iter().find(|(key, value)| node.labels.get(*key) != Some(value));
    if let Some((key, value)) = missing {
        let have = match node.labels.get(key) {
            Some(other) => format!("the node's label is {key}={other}"),
            None => "the node has no such label".to_owned(),
        };
        return Some(format!("nodeSelector asks for {key}={value}, {have}"));
    }
    let terms = wishes.required_terms.as_ref()?;
    if terms.iter().any(|term| term_matches(term, node)) {
        return None;
    }
    Some("no term of the required node affinity matches the node's labels and name".to_owned())
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let NodeSelectorTerm { labels, fields } = term;
    let empty = labels.is_empty() && fields.is_empty();
    let label = |r: &Requirement| matches(r, node.labels.get(&r.key).map(String::as_str));
    let field = |r: &Requirement| matches(r, (r.key == "metadata.name").then_some(node.name.as_str()));
    !empty && labels.iter().all(label) && fields.iter().all(field)
}

/// Whether a requirement holds for the value of its key. Negative operators also match where the key is absent; numbers
/// that are none match nothing. Label selectors are judged by the same rule.
pub fn matches(requirement: &Requirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().any(|v| v == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = || Some((number(value?)?, number(requirement.values.first()?)?));
    match requirement.operator {
        Operator::In => value.is_some_and(listed),
        Operator::NotIn => !value.is_some_and(listed),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => numbers().is_some_and(|(have, bound)| have > bound),
        Operator::Lt => numbers().is_some_and(|(have, bound)| have < bound),
    }
}

fn taints(node: &Node, template: &PodTemplate) -> Placement {
    let untolerated =
        |effect: TaintEffect| node.taints.iter().find(|taint| taint.effect == effect && !tolerated(taint, template));
    let reason = |taint: &Taint, effect: &str| {
        format!("the node's taint {}={}:{effect} is not tolerated", taint.key, taint.value)
    };
    if let Some(taint) = untolerated(TaintEffect::NoExecute) {
        return Placement::Not { reason: reason(taint, "NoExecute") };
    }
    match untolerated(TaintEffect::NoSchedule) {
        Some(taint) => Placement::Stays { reason: reason(taint, "NoSchedule") },
        None => Placement::Runs,
    }
}

fn tolerated(taint: &Taint, template: &PodTemplate) -> bool {
    let automatic = AUTOMATIC.iter().any(|of| {
        (template.spec.host_network || *of != NETWORK_UNAVAILABLE) && *of == (taint.key.as_str(), taint.effect)
    });
    automatic || template.spec.placement.tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration { key, exists, value, effect } = toleration;
    effect.is_none_or(|effect| effect == taint.effect)
        && key.as_ref().map_or(*exists, |key| *key == taint.key)
        && (*exists || *value == taint.value)
}

#[cfg(test)]
mod tests;
