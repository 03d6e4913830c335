//! What a pod may be told of itself (Kubernetes' downward API): its labels and annotations, and its containers' resources.
//!
//! Used by environments, by files of volumes and by the status, so that all three say the same. Pure.

use std::collections::BTreeMap;

use crate::desired::Source;
use crate::manifest::quantity;
use crate::name::WorkloadKind;
use crate::record::Record;
use crate::spec::{ContainerResource, PodTemplate, Quantity, Resources};

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// What the node has: a limit that is absent is the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeSize {
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system with the state directory; 0: it cannot be asked.
    pub storage: u64,
}

/// The pod's labels as its status has them.
pub fn labels(record: &Record, template: &PodTemplate) -> BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    if record.workload.kind == WorkloadKind::DaemonSet {
        labels.insert("controller-revision-hash".into(), record.revision.clone());
    }
    labels
}

/// The pod's annotations as its status has them.
pub fn annotations(record: &Record, template: &PodTemplate) -> BTreeMap<String, String> {
    let mut annotations = template.annotations.clone();
    if record.workload.kind == WorkloadKind::Pod {
        annotations.insert("kubernetes.io/config.hash".into(), record.uid.0.clone());
    }
    annotations.insert("kubernetes.io/config.seen".into(), record.admitted_at.to_string());
    let source = match record.origin.source {
        Source::Static => "file",
        Source::Control => "api",
    };
    annotations.insert("kubernetes.io/config.source".into(), source.into());
    annotations
}

/// The resource in units of the divisor, rounded up. An absent limit is the pod's, else the node's whole, an absent request 0. None: the node
/// does not know its ephemeral storage.
pub fn resource(of: &Resources, resource: &ContainerResource, divisor: Quantity, node: &NodeSize) -> Option<String> {
    let milli = |units: u64| i128::from(units).saturating_mul(1000);
    let amount = match resource {
        ContainerResource::LimitsCpu => of.effective_cpu_limit_milli().map_or_else(|| milli(node.cpus), i128::from),
        ContainerResource::RequestsCpu => i128::from(of.cpu_request_milli.unwrap_or(0)),
        ContainerResource::LimitsMemory => milli(of.effective_memory_limit().unwrap_or(node.memory)),
        ContainerResource::RequestsMemory => milli(of.memory_request.unwrap_or(0)),
        ContainerResource::LimitsEphemeralStorage => match written(&of.limits, EPHEMERAL_STORAGE) {
            Some(limit) => limit,
            None if node.storage == 0 => return None,
            None => milli(node.storage),
        },
        ContainerResource::RequestsEphemeralStorage => written(&of.requests, EPHEMERAL_STORAGE).unwrap_or(0),
        ContainerResource::LimitsHugePages(name) => written(&of.limits, name).unwrap_or(0),
        ContainerResource::RequestsHugePages(name) => written(&of.requests, name).unwrap_or(0),
    };
    // An absent divisor is 1.
    let divisor = if divisor.milli > 0 { divisor.milli } else { 1000 };
    Some(amount.saturating_add(divisor - 1).div_euclid(divisor).to_string())
}

/// A resource that is only kept as written; 0 is none. In thousandths.
fn written(resources: &BTreeMap<String, String>, name: &str) -> Option<i128> {
    resources.get(name).and_then(|text| quantity::parse(text)).map(|it| it.milli).filter(|milli| *milli > 0)
}

/// Labels or annotations as a file has them: `key="value"` a line, sorted, the value as Go quotes it.
pub fn map_text(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// Go's strconv.Quote, as far as what is not printable ASCII goes by its rules: control characters are escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_as_kubernetes_writes_them() {
        let map = [("b", "2"), ("a.example/x", "say \"hi\"\n\u{1}ä")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(map_text(&map.into()), "a.example/x=\"say \\\"hi\\\"\\n\\x01ä\"\nb=\"2\"");
        assert_eq!(map_text(&BTreeMap::new()), "");
    }

    #[test]
    fn resources_are_the_limit_else_the_nodes_and_rounded_up() {
        use ContainerResource::{LimitsCpu, LimitsEphemeralStorage, LimitsHugePages, RequestsEphemeralStorage};
        let mut node = NodeSize { cpus: 2, memory: 1 << 30, storage: 8 << 30 };
        let mut of = Resources::default();
        let mib = Quantity { milli: 1000 << 20 };
        assert_eq!(resource(&of, &LimitsCpu, Quantity { milli: 1 }, &node).as_deref(), Some("2000"));
        assert_eq!(resource(&of, &LimitsEphemeralStorage, mib, &node).as_deref(), Some("8192"));
        assert_eq!(resource(&of, &RequestsEphemeralStorage, mib, &node).as_deref(), Some("0"));
        of.limits.insert(EPHEMERAL_STORAGE.into(), "1.5Gi".into());
        of.requests.insert(EPHEMERAL_STORAGE.into(), "100M".into());
        of.limits.insert("hugepages-2Mi".into(), "6Mi".into());
        assert_eq!(resource(&of, &LimitsEphemeralStorage, mib, &node).as_deref(), Some("1536"));
        // Rounded up, and an absent divisor is 1.
        assert_eq!(resource(&of, &RequestsEphemeralStorage, mib, &node).as_deref(), Some("96"));
        let one = Quantity { milli: 0 };
        assert_eq!(resource(&of, &RequestsEphemeralStorage, one, &node).as_deref(), Some("100000000"));
        let pages = |name: &str| LimitsHugePages(name.into());
        assert_eq!(resource(&of, &pages("hugepages-2Mi"), mib, &node).as_deref(), Some("6"));
        assert_eq!(resource(&of, &pages("hugepages-1Gi"), mib, &node).as_deref(), Some("0"));
        (node.storage, of) = (0, Resources::default());
        assert_eq!(resource(&of, &LimitsEphemeralStorage, one, &node), None);
    }
}
