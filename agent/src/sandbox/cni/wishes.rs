//! What a pod asks of its connection beyond an address, and how plugins are told (CNI conventions, "capabilities" and
//! `runtimeConfig`): only what a plugin says that it understands.
//!
//! Driven by `cni`. Pure.

use std::collections::BTreeMap;

use pod::manifest::quantity;
use pod::spec::{PodSpec, PodTemplate};
use serde_json::{Map, Value, json};

use super::cidr::Cidr;
use crate::sandbox::dns::Settings;

/// Kubernetes' annotations for a pod's bandwidth, bits a second: into the pod and out of it.
const INGRESS: &str = pod::spec::INGRESS_BANDWIDTH_ANNOTATION;
const EGRESS: &str = pod::spec::EGRESS_BANDWIDTH_ANNOTATION;
/// Bits that may pass at once: as many as the plugin takes, as containerd's CRI asks for.
const BURST: u64 = u32::MAX as u64;

/// Everything that plugins may be told, by the capability's name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wishes {
    by_capability: BTreeMap<&'static str, Value>,
}

impl Wishes {
    /// The wishes of a pod with a network of its own.
    pub fn of(template: &PodTemplate, dns: &Settings, cidrs: &[Cidr]) -> Wishes {
        let mut by_capability = BTreeMap::new();
        let ports = port_mappings(&template.spec);
        if !ports.is_empty() {
            by_capability.insert("portMappings", Value::Array(ports));
        }
        by_capability.extend(bandwidth(&template.annotations).map(|limits| ("bandwidth", limits)));
        let Settings { servers, searches, options } = dns;
        by_capability.insert("dns", json!({"servers": servers, "searches": searches, "options": options}));
        let ranges: Vec<Value> = cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
        by_capability.insert("ipRanges", Value::Array(ranges));
        Wishes { by_capability }
    }

    pub fn has_ports(&self) -> bool {
        self.by_capability.contains_key("portMappings")
    }

    pub fn has_bandwidth(&self) -> bool {
        self.by_capability.contains_key("bandwidth")
    }

    /// The plugin's configuration with what it understands of this.
    pub fn told(&self, plugin: &Value) -> Value {
        let mut plugin = plugin.clone();
        let understands = |name: &str| plugin["capabilities"][name] == true;
        let told: Map<String, Value> = self
            .by_capability
            .iter()
            .filter(|(name, _)| understands(name))
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        if let (Some(object), false) = (plugin.as_object_mut(), told.is_empty()) {
            object.insert("runtimeConfig".into(), Value::Object(told));
        }
        plugin
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<Value> {
    let ports = spec.containers.iter().flat_map(|container| &container.ports);
    let mapping = |port: &pod::spec::ContainerPort| {
        let mut mapping = json!({
            "hostPort": port.host_port?,
            "containerPort": port.port,
            "protocol": port.protocol.to_ascii_lowercase(),
        });
        if let Some(ip) = port.host_ip {
            mapping["hostIP"] = ip.to_string().into();
        }
        Some(mapping)
    };
    ports.filter_map(mapping).collect()
}

/// What the manifest's reader has let through; a limit that is not given is none.
fn bandwidth(annotations: &BTreeMap<String, String>) -> Option<Value> {
    let bits = |key: &str| {
        let quantity = quantity::parse(annotations.get(key)?)?;
        u64::try_from(quantity.milli / 1000).ok().filter(|bits| *bits > 0)
    };
    let mut limits = Map::new();
    for (key, rate, burst) in [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")] {
        if let Some(bits) = bits(key) {
            limits.insert(rate.into(), bits.into());
            limits.insert(burst.into(), BURST.into());
        }
    }
    (!limits.is_empty()).then_some(Value::Object(limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod::spec::ContainerPort;

    #[test]
    fn a_plugin_is_told_only_what_it_understands() {
        let mut template = (*crate::status::sample::view().template).clone();
        template.annotations.insert(INGRESS.into(), "10M".into());
        let port = |host_port, host_ip: Option<&str>| ContainerPort {
            name: None,
            port: 80,
            protocol: "UDP".into(),
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        template.spec.containers[0].ports = vec![port(Some(8080), Some("127.0.0.1")), port(None, None)];
        let wishes = Wishes::of(&template, &Settings::default(), &["198.18.0.0/15".parse().unwrap()]);
        let told = |capabilities: Value| wishes.told(&json!({"capabilities": capabilities}))["runtimeConfig"].clone();
        assert_eq!(
            told(json!({"portMappings": true, "bandwidth": false})),
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"}]})
        );
        assert_eq!(
            told(json!({"bandwidth": true})),
            json!({"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX}})
        );
        assert_eq!(told(json!({"ipRanges": true}))["ipRanges"], json!([[{"subnet": "198.18.0.0/15"}]]));
        assert_eq!(told(json!({})), Value::Null);
        assert_eq!(told(Value::Null), Value::Null);
        assert!(wishes.has_ports() && wishes.has_bandwidth());
    }
}
