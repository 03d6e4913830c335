//! v1 Service, as far as nothing has to be routed for it, and discovery.k8s.io/v1 EndpointSlice.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use pod::manifest::names;
use serde_json::{Value, json};

use super::pod_spec::number;
use super::{NameRule, Strategy};
use crate::api::invalid::Causes;
use crate::api::validate::{self, items};

/// Kubernetes' bounds.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;

#[derive(Debug)]
pub struct Service;

#[derive(Debug)]
pub struct EndpointSlice;

impl Strategy for Service {
    fn defaults(&self, object: &mut Value) {
        let own = is_own(object);
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let usual = [("type", "ClusterIP"), ("sessionAffinity", "None"), ("internalTrafficPolicy", "Cluster")];
        for (field, value) in usual {
            spec.entry(field).or_insert(json!(value));
        }
        if let Some(address) = spec.get("clusterIP").filter(|address| own || **address == "None").cloned() {
            spec.entry("clusterIPs").or_insert(json!([address]));
        }
        spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port["protocol"].is_null() {
                port["protocol"] = json!("TCP");
            }
            if port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "" {
                port["targetPort"] = port["port"].clone();
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        object["status"] = json!({"loadBalancer": {}});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        if !is_own(object) {
            let why = "no traffic is routed here: only headless Services are offered (clusterIP: None)";
            if spec["type"] != "ClusterIP" {
                causes.invalid("spec.type", &spec["type"], why);
            } else if spec["clusterIP"] != "None" {
                causes.invalid("spec.clusterIP", &spec["clusterIP"], why);
            }
        }
        validate::labels(&spec["selector"], "spec.selector", causes);
        let many = spec["ports"].as_array().map_or(0, Vec::len) > 1;
        for (n, port) in items(&spec["ports"]) {
            let field = format!("spec.ports[{n}]");
            match port["name"].as_str().filter(|name| !name.is_empty()) {
                None if many => causes.required(format!("{field}.name"), ""),
                None => {}
                Some(name) => {
                    if let Some(why) = names::dns_label(name) {
                        causes.invalid(format!("{field}.name"), &port["name"], why);
                    }
                }
            }
            if port["port"].is_null() {
                causes.required(format!("{field}.port"), "");
            }
            number(&port["port"], format!("{field}.port"), causes);
            causes.one_of(format!("{field}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        }
    }

    fn validate_update(&self, sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        if sub.is_empty() {
            causes.immutable("spec.clusterIP", &new["spec"]["clusterIP"], &old["spec"]["clusterIP"]);
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Service
    }
}

/// default/kubernetes: the endpoint's own address, which it makes itself.
fn is_own(object: &Value) -> bool {
    object["metadata"]["namespace"] == "default" && object["metadata"]["name"] == "kubernetes"
}

impl Strategy for EndpointSlice {
    fn defaults(&self, object: &mut Value) {
        if object["endpoints"].is_null() {
            object["endpoints"] = json!([]);
        }
        if object["ports"].is_null() {
            object["ports"] = json!([]);
        }
        for port in object["ports"].as_array_mut().into_iter().flatten() {
            for (field, value) in [("name", ""), ("protocol", "TCP")] {
                if port[field].is_null() {
                    port[field] = json!(value);
                }
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        match object["addressType"].as_str() {
            None | Some("") => causes.required("addressType", ""),
            Some(_) => causes.one_of("addressType", &object["addressType"], &["FQDN", "IPv4", "IPv6"]),
        }
        let endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
        if endpoints > ENDPOINTS_MAX {
            let why = format!("must have at most {ENDPOINTS_MAX} items");
            causes.invalid("endpoints", &json!(endpoints), why);
        }
        for (n, endpoint) in items(&object["endpoints"]) {
            match endpoint["addresses"].as_array().map_or(0, Vec::len) {
                0 => causes.required(format!("endpoints[{n}].addresses"), "must contain at least 1 address"),
                1..=ADDRESSES_MAX => {
                    addresses(endpoint, &object["addressType"], &format!("endpoints[{n}].addresses"), causes)
                }
                more => {
                    let why = format!("must have at most {ADDRESSES_MAX} items");
                    causes.invalid(format!("endpoints[{n}].addresses"), &json!(more), why);
                }
            }
        }
        for (n, port) in items(&object["ports"]) {
            number(&port["port"], format!("ports[{n}].port"), causes);
        }
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        causes.immutable("addressType", &new["addressType"], &old["addressType"]);
    }

    fn generation_of(&self) -> &'static [&'static str] {
        &["addressType", "endpoints", "ports"]
    }
}

/// Of one endpoint, all of the slice's family.
fn addresses(endpoint: &Value, family: &Value, field: &str, causes: &mut Causes) {
    for (n, address) in items(&endpoint["addresses"]) {
        let text = address.as_str().unwrap_or_default();
        let why = match family.as_str() {
            Some("IPv4") if text.parse::<Ipv4Addr>().is_err() => "must be an IPv4 address".to_owned(),
            Some("IPv6") if text.parse::<Ipv6Addr>().is_err() => "must be an IPv6 address".to_owned(),
            Some("FQDN") => match names::dns_subdomain(text) {
                Some(why) => why,
                None => continue,
            },
            _ => continue,
        };
        causes.invalid(format!("{field}[{n}]"), address, why);
    }
}
