//! Ports of the node that pods take: which are asked for, and which two cannot be had together.
//!
//! Used by `merge`, which lets nobody have a port twice. A pod's ports are read off its template, and off a record's
//! document, which need not be parseable any more.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

use crate::name::WorkloadKind;
use crate::spec::{PodSpec, Role};

/// Ports of one record that are looked at: far more than any pod has.
const PORTS_MAX: usize = 1000;

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// None: every address of the node.
    pub ip: Option<IpAddr>,
    pub place: Place,
}

/// Where in `spec` a port stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Among `initContainers`; else among `containers`.
    pub init: bool,
    /// Indices in the document.
    pub container: usize,
    pub port: usize,
}

impl fmt::Display for Place {
    /// `containers[0].ports[1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.init { "initContainers" } else { "containers" };
        write!(f, "{list}[{}].ports[{}]", self.container, self.port)
    }
}

impl HostPort {
    /// Whether both cannot be had at once: the same port of the same protocol on a common address. An unspecified
    /// address stands for every address of its family.
    pub fn clashes(&self, other: &HostPort) -> bool {
        let common =
            |a: IpAddr, b: IpAddr| a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
        let on_one = match (self.ip, other.ip) {
            (Some(a), Some(b)) => common(a, b),
            (None, _) | (_, None) => true,
        };
        self.port == other.port && self.protocol == other.protocol && on_one
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)?;
        match self.ip {
            Some(ip) => write!(f, " of {ip}"),
            None => Ok(()),
        }
    }
}

/// What a pod with this spec takes; with hostNetwork every declared port.
pub fn of_spec(spec: &PodSpec) -> Vec<HostPort> {
    let mut taken = Vec::new();
    let inits = spec.containers.iter().filter(|container| container.role != Role::Main).enumerate();
    for (index, container) in inits.chain(spec.mains().enumerate()) {
        for (port, asked) in container.ports.iter().enumerate() {
            let Some(number) = asked.host_port else { continue };
            let place = Place { init: container.role != Role::Main, container: index, port };
            taken.push(HostPort { port: number, protocol: asked.protocol.clone(), ip: asked.host_ip, place });
        }
    }
    taken
}

/// What a pod takes whose document was admitted once.
pub fn of_document(kind: WorkloadKind, document: &Value) -> Vec<HostPort> {
    let spec = match kind {
        WorkloadKind::Pod | WorkloadKind::Control => &document["spec"],
        WorkloadKind::DaemonSet => &document["spec"]["template"]["spec"],
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let host_network = spec["hostNetwork"] == true;
    let mut taken = Vec::new();
    let ports_of = |key: &str| -> Vec<Vec<Value>> { list(&spec[key]).iter().map(|one| list(&one["ports"])).collect() };
    let lists = [(true, ports_of("initContainers")), (false, ports_of("containers"))];
    for (init, containers) in &lists {
        let ports =
            containers.iter().enumerate().flat_map(|(at, ports)| ports.iter().enumerate().map(move |p| (at, p)));
        for (container, (index, port)) in ports {
            let number = |key: &str| crate::manifest::whole_number(&port[key]).filter(|&port| port > 0);
            let asked = number("hostPort").or_else(|| number("containerPort").filter(|_| host_network));
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let ip = port["hostIP"].as_str().and_then(|ip| ip.parse().ok());
            let place = Place { init: *init, container, port: index };
            taken.extend(asked.map(|port| HostPort { port, protocol, ip, place }));
        }
    }
    taken.truncate(PORTS_MAX);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16, protocol: &str, ip: Option<&str>) -> HostPort {
        HostPort { port, protocol: protocol.into(), ip: ip.map(|ip| ip.parse().unwrap()), place: Place::default() }
    }

    #[test]
    fn two_ports_clash_where_they_meet_on_an_address() {
        let of = |ip| port(80, "TCP", ip);
        assert!(of(None).clashes(&of(None)) && of(None).clashes(&of(Some("::1"))));
        assert!(of(Some("1.1.1.1")).clashes(&of(Some("0.0.0.0"))) && of(Some("::")).clashes(&of(Some("fd00::1"))));
        assert!(!of(Some("1.1.1.1")).clashes(&of(Some("1.1.1.2"))) && !of(Some("0.0.0.0")).clashes(&of(Some("::"))));
        assert!(!of(None).clashes(&port(81, "TCP", None)) && !of(None).clashes(&port(80, "UDP", None)));
    }

    #[test]
    fn a_document_gives_what_its_template_gives() {
        let pod = serde_json::json!({"spec": {"hostNetwork": true, "containers": [{}, {"ports": [
            {"containerPort": 80}, {"containerPort": 53.0, "protocol": "UDP"}]}]}});
        let taken = of_document(WorkloadKind::Pod, &pod);
        assert_eq!(taken.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80/TCP", "53/UDP"]);
        assert_eq!(taken[1].place.to_string(), "containers[1].ports[1]");
        let set = serde_json::json!({"spec": {"template": {"spec": {"containers": [{"ports": [
            {"containerPort": 80}, {"containerPort": 81, "hostPort": 8081, "hostIP": "127.0.0.1"}]}]}}}});
        let taken = of_document(WorkloadKind::DaemonSet, &set);
        assert_eq!(taken.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8081/TCP of 127.0.0.1"]);
        assert_eq!(of_document(WorkloadKind::Pod, &Value::Null), []);
    }
}
