//! Between Services, pods and EndpointSlices as JSON and what is decided about them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::decide::{Endpoint, Family, Port, Shape, Slice};
use crate::door::rules::node::is_mirror;
use crate::loops::of;

/// The label that says whose a slice is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who writes it, and its value: others leave slices with it alone.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What a headless Service selects. None: it has no cluster address to leave out, selects nothing, or is being deleted.
pub fn selector(service: &Value) -> Option<BTreeMap<String, String>> {
    let spec = &service["spec"];
    let headless = spec["clusterIP"] == "None" && spec["type"] != "ExternalName" && !of::is_ending(service);
    let selector = spec["selector"].as_object().filter(|selector| headless && !selector.is_empty())?;
    Some(selector.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect())
}

/// Whose slice it is.
pub fn of_service(slice: &Value) -> Option<String> {
    slice["metadata"]["labels"][SERVICE_NAME].as_str().map(str::to_owned)
}

/// Whether nothing of a pod that a slice could tell has changed.
pub fn says_the_same(before: Option<&Value>, now: Option<&Value>) -> bool {
    let (Some(before), Some(now)) = (before, now) else { return false };
    let told = |pod: &Value| {
        let ready = is_ready(pod);
        let (labels, ips) = (pod["metadata"]["labels"].clone(), pod["status"]["podIPs"].clone());
        (
            labels,
            ips,
            ready,
            of::is_ending(pod),
            is_over(pod),
            pod["status"]["podIP"].clone(),
            pod["metadata"]["uid"].clone(),
        )
    };
    told(before) == told(now)
}

/// What a pod contributes: an endpoint for each family of its addresses. A static pod's mirror contributes nothing: its node says alone in which
/// namespace it is, under which labels and at which address, and would put itself among the endpoints of anybody's Service.
pub fn endpoints(service: &Value, pod: &Value) -> Vec<(Shape, Endpoint)> {
    if is_over(pod) || is_mirror(pod) {
        return Vec::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut addresses: Vec<&str> =
        status["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()).collect();
    addresses.extend(status["podIP"].as_str().filter(|_| addresses.is_empty()));
    let terminating = of::is_ending(pod);
    let serving = is_ready(pod);
    let published = service["spec"]["publishNotReadyAddresses"] == true;
    let named = spec["subdomain"] == service["metadata"]["name"];
    let endpoint = |address: &str| Endpoint {
        address: address.to_owned(),
        pod: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        node: text(&spec["nodeName"]),
        hostname: spec["hostname"].as_str().filter(|_| named).map(str::to_owned),
        ready: published || serving && !terminating,
        serving,
        terminating,
    };
    let ports = ports(service, pod);
    let families = addresses.into_iter().filter_map(|address| {
        let family = match address.parse().ok()? {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        wanted(service, family).then(|| (Shape { family, ports: ports.clone() }, endpoint(address)))
    });
    families.collect()
}

fn wanted(service: &Value, family: Family) -> bool {
    let families = service["spec"]["ipFamilies"].as_array().filter(|families| !families.is_empty());
    let name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    families.is_none_or(|families| families.iter().any(|f| f == name))
}

/// The Service's ports as this pod has them: a name of a port may be another number in each pod. One that the pod lacks is left out.
fn ports(service: &Value, pod: &Value) -> Vec<Port> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let of_pod: Vec<&Value> = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten()).collect();
    let port = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let target = &port["targetPort"];
        let by_name = |name: &str| {
            let same = |p: &&&Value| p["name"] == name && p["protocol"].as_str().unwrap_or("TCP") == protocol;
            number(&of_pod.iter().find(same)?["containerPort"])
        };
        let found = match target {
            Value::String(name) => by_name(name)?,
            Value::Number(_) if target != 0 => number(target)?,
            _ => number(&port["port"])?,
        };
        Some(Port {
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            protocol: protocol.to_owned(),
            port: found,
            app_protocol: port["appProtocol"].as_str().map(str::to_owned),
        })
    };
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(port).collect()
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn is_over(pod: &Value) -> bool {
    ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
}

/// An EndpointSlice as it is in the store.
pub fn slice(object: &Value) -> Slice {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let port = |port: &Value| Port {
        name: text(&port["name"]),
        protocol: text(&port["protocol"]),
        port: port["port"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        app_protocol: port["appProtocol"].as_str().map(str::to_owned),
    };
    let endpoint = |endpoint: &Value| Endpoint {
        address: text(&endpoint["addresses"][0]),
        pod: text(&endpoint["targetRef"]["name"]),
        uid: text(&endpoint["targetRef"]["uid"]),
        node: text(&endpoint["nodeName"]),
        hostname: endpoint["hostname"].as_str().map(str::to_owned),
        ready: endpoint["conditions"]["ready"] == true,
        serving: endpoint["conditions"]["serving"] == true,
        terminating: endpoint["conditions"]["terminating"] == true,
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Slice {
        name: text(&object["metadata"]["name"]),
        shape: Shape {
            family: if object["addressType"] == "IPv6" { Family::V6 } else { Family::V4 },
            ports: list(&object["ports"]).iter().map(port).collect(),
        },
        endpoints: list(&object["endpoints"]).iter().map(endpoint).collect(),
    }
}

/// A whole EndpointSlice of a Service.
pub fn slice_json(service: &Value, slice: &Slice) -> Value {
    let (name, namespace) = (of::meta(service, "name"), of::meta(service, "namespace"));
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), json!(name));
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    labels.insert("service.kubernetes.io/headless".into(), json!(""));
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    });
    let endpoint = |e: &Endpoint| {
        let mut json = json!({
            "addresses": [e.address],
            "conditions": {"ready": e.ready, "serving": e.serving, "terminating": e.terminating},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": e.pod, "uid": e.uid},
        });
        if !e.node.is_empty() {
            json["nodeName"] = json!(e.node);
        }
        if let Some(hostname) = &e.hostname {
            json["hostname"] = json!(hostname);
        }
        json
    };
    let port = |p: &Port| {
        let mut json = json!({"name": p.name, "protocol": p.protocol, "port": p.port});
        if let Some(protocol) = &p.app_protocol {
            json["appProtocol"] = json!(protocol);
        }
        json
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": slice.name, "namespace": namespace, "labels": labels, "ownerReferences": [owner]},
        "addressType": match slice.shape.family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": slice.shape.ports.iter().map(port).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "u"},
            "spec": {"clusterIP": "None", "selector": {"app": "d"}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
        })
    }

    fn pod(number: u16, ready: &str) -> Value {
        json!({
            "metadata": {"name": "p", "uid": "pu", "labels": {"app": "d"}},
            "spec": {"nodeName": "a", "containers": [{"ports": [{"name": "http", "containerPort": number}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}],
                "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn a_pod_has_an_endpoint_a_family_with_its_own_number_of_a_named_port() {
        let endpoints = endpoints(&service(), &pod(8080, "True"));
        let families: Vec<Family> = endpoints.iter().map(|(shape, _)| shape.family).collect();
        assert_eq!(families, [Family::V4, Family::V6]);
        assert_eq!(endpoints[0].0.ports[0].port, 8080);
        assert!(endpoints[0].1.ready && endpoints[0].1.node == "a");
    }

    #[test]
    fn what_is_not_ready_is_listed_as_that_and_what_is_over_is_not() {
        let of = |pod: &Value| endpoints(&service(), pod).first().map(|(_, e)| e.ready);
        assert_eq!(of(&pod(1, "False")), Some(false));
        let mut over = pod(1, "False");
        over["status"]["phase"] = json!("Failed");
        assert_eq!(of(&over), None);
        let mut ending = pod(1, "True");
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(of(&ending), Some(false));
        let mut mirror = pod(1, "True");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
        assert_eq!(of(&mirror), None, "a node says of it what it likes");
    }

    #[test]
    fn a_slice_is_read_as_it_was_written() {
        let (shape, endpoint) = endpoints(&service(), &pod(8080, "True")).remove(0);
        let written = Slice { name: "s-x".into(), shape, endpoints: vec![endpoint] };
        assert_eq!(slice(&slice_json(&service(), &written)), written);
    }

    #[test]
    fn only_headless_services_with_a_selector_have_slices_of_ours() {
        assert!(selector(&service()).is_some());
        let mut other = service();
        other["spec"]["clusterIP"] = json!("10.0.0.1");
        assert!(selector(&other).is_none());
    }
}
