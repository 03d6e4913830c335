//! `/metrics`: what DaemonSets, pods and nodes are like, under kube-state-metrics' names, so that existing dashboards and alerts fit. Made from the
//! objects when it is asked for.

use std::fmt::Write as _;

use hyper::StatusCode;
use jiff::Timestamp;
use pod::manifest::quantity;
use serde_json::Value;

use super::reply::{self, Reply};
use crate::api::error::ApiError;
use crate::api::kinds::{Kind, by_kind};
use crate::api::objects::{ListQuery, Objects};

const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";
const PHASES: &[&str] = &["Pending", "Succeeded", "Failed", "Running", "Unknown"];

/// Samples of one name.
struct Family {
    name: &'static str,
    help: &'static str,
    of: &'static str,
    samples: String,
}

impl Family {
    fn gauge(name: &'static str, help: &'static str) -> Family {
        Family { name, help, of: "gauge", samples: String::new() }
    }

    fn counter(name: &'static str, help: &'static str) -> Family {
        Family { name, help, of: "counter", samples: String::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.samples, "{}", self.name);
        for (place, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.samples, "{}{name}=\"{value}\"", if place == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.samples, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn add_truth(&mut self, labels: &[(&str, &str)], value: bool) {
        self.add(labels, f64::from(u8::from(value)));
    }
}

/// Everything of one kind.
type Measure = fn(&Value, &mut [Family]);

pub async fn answer(objects: &Objects) -> Result<Reply, ApiError> {
    let mut text = String::new();
    let kinds: [(&str, &str, Vec<Family>, Measure); 3] = [
        ("apps", "DaemonSet", daemonset_families(), daemonset),
        ("", "Node", node_families(), node),
        ("", "Pod", pod_families(), pod_samples),
    ];
    for (group, kind, mut families, measure) in kinds {
        if let Some(kind) = by_kind(group, "v1", kind) {
            all(objects, kind, &mut families, measure).await?;
        }
        for Family { name, help, of, samples } in families {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {of}\n{samples}");
        }
    }
    Ok(reply::bytes(StatusCode::OK, MEDIA, text))
}

async fn all(
    objects: &Objects,
    kind: &'static Kind,
    families: &mut [Family],
    measure: Measure,
) -> Result<(), ApiError> {
    let mut listing = objects.listing(kind, None, &ListQuery::default()).await?;
    while let Some(object) = listing.next().await? {
        measure(&object, families);
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// Seconds since 1970; None: no time.
fn seconds(value: &Value) -> Option<f64> {
    let at: Timestamp = value.as_str()?.parse().ok()?;
    // Exact for the next 285 million years.
    #[expect(clippy::cast_precision_loss, reason = "seconds of a date have far fewer than 52 bits")]
    Some(at.as_second() as f64)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn daemonset_families() -> Vec<Family> {
    vec![
        Family::gauge("kube_daemonset_created", "Unix creation timestamp"),
        Family::gauge("kube_daemonset_metadata_generation", "Generation of the desired state."),
        Family::gauge("kube_daemonset_status_observed_generation", "The newest generation that was seen to."),
        Family::gauge("kube_daemonset_status_desired_number_scheduled", "Nodes that should run the daemon."),
        Family::gauge("kube_daemonset_status_current_number_scheduled", "Nodes that run one and should."),
        Family::gauge("kube_daemonset_status_number_misscheduled", "Nodes that run one and should not."),
        Family::gauge("kube_daemonset_status_number_ready", "Nodes whose daemon is ready."),
        Family::gauge("kube_daemonset_status_number_available", "Nodes whose daemon is available."),
        Family::gauge(
            "kube_daemonset_status_number_unavailable",
            "Nodes without an available daemon that should have one.",
        ),
        Family::gauge("kube_daemonset_status_updated_number_scheduled", "Nodes that run the newest template."),
    ]
}

fn daemonset(object: &Value, families: &mut [Family]) {
    let metadata = &object["metadata"];
    let labels = [("namespace", text(&metadata["namespace"])), ("daemonset", text(&metadata["name"]))];
    let status = &object["status"];
    let values = [
        seconds(&metadata["creationTimestamp"]).unwrap_or(0.0),
        number(&metadata["generation"]),
        number(&status["observedGeneration"]),
        number(&status["desiredNumberScheduled"]),
        number(&status["currentNumberScheduled"]),
        number(&status["numberMisscheduled"]),
        number(&status["numberReady"]),
        number(&status["numberAvailable"]),
        number(&status["numberUnavailable"]),
        number(&status["updatedNumberScheduled"]),
    ];
    families.iter_mut().zip(values).for_each(|(family, value)| family.add(&labels, value));
}

fn node_families() -> Vec<Family> {
    vec![
        Family::gauge("kube_node_created", "Unix creation timestamp"),
        Family::gauge("kube_node_info", "What the node says of itself."),
        Family::gauge("kube_node_spec_unschedulable", "Whether the node takes no new pods."),
        Family::gauge("kube_node_spec_taint", "The taints of the node."),
        Family::gauge("kube_node_status_condition", "The conditions of the node."),
        Family::gauge("kube_node_status_capacity", "What the node has."),
        Family::gauge("kube_node_status_allocatable", "What pods may have of it."),
    ]
}

fn node(object: &Value, families: &mut [Family]) {
    let [created, info, closed, taints, conditions, capacity, allocatable] = families else { return };
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let name = ("node", text(&metadata["name"]));
    created.add(&[name], seconds(&metadata["creationTimestamp"]).unwrap_or(0.0));
    let about = &status["nodeInfo"];
    let address = items(&status["addresses"]).find(|address| address["type"] == "InternalIP");
    let labels = [
        name,
        ("kernel_version", text(&about["kernelVersion"])),
        ("os_image", text(&about["osImage"])),
        ("container_runtime_version", text(&about["containerRuntimeVersion"])),
        ("kubelet_version", text(&about["kubeletVersion"])),
        ("system_uuid", text(&about["systemUUID"])),
        ("internal_ip", address.map(|address| text(&address["address"])).unwrap_or_default()),
    ];
    info.add(&labels, 1.0);
    closed.add_truth(&[name], spec["unschedulable"] == true);
    for taint in items(&spec["taints"]) {
        let labels =
            [name, ("key", text(&taint["key"])), ("value", text(&taint["value"])), ("effect", text(&taint["effect"]))];
        taints.add(&labels, 1.0);
    }
    for condition in items(&status["conditions"]) {
        for (word, value) in [("true", "True"), ("false", "False"), ("unknown", "Unknown")] {
            let labels = [name, ("condition", text(&condition["type"])), ("status", word)];
            conditions.add_truth(&labels, condition["status"] == value);
        }
    }
    for (family, of) in [(capacity, "capacity"), (allocatable, "allocatable")] {
        for (resource, value) in status[of].as_object().into_iter().flatten() {
            let Some(value) = amount(value) else { continue };
            let unit = match resource.as_str() {
                "cpu" => "core",
                "pods" => "integer",
                _ => "byte",
            };
            family.add(&[name, ("resource", &resource.replace(['-', '.', '/'], "_")), ("unit", unit)], value);
        }
    }
}

/// A quantity in its own unit; None: it is none.
fn amount(value: &Value) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a floating-point number anyway")]
    quantity::parse(value.as_str()?).map(|amount| amount.milli as f64 / 1000.0)
}

fn pod_families() -> Vec<Family> {
    vec![
        Family::gauge("kube_pod_created", "Unix creation timestamp"),
        Family::gauge("kube_pod_start_time", "When the node took the pod."),
        Family::gauge("kube_pod_info", "Where the pod is, and whose it is."),
        Family::gauge("kube_pod_owner", "Who owns the pod."),
        Family::gauge("kube_pod_status_phase", "The phase of the pod."),
        Family::gauge("kube_pod_status_ready", "Whether the pod is ready to serve requests."),
        Family::gauge("kube_pod_container_info", "The image that a container runs."),
        Family::gauge("kube_pod_container_status_ready", "Whether a container is ready."),
        Family::gauge("kube_pod_container_status_running", "Whether a container runs."),
        Family::gauge("kube_pod_container_status_terminated", "Whether a container has ended."),
        Family::gauge("kube_pod_container_status_waiting", "Whether a container waits."),
        Family::gauge("kube_pod_container_status_waiting_reason", "Why a container waits."),
        Family::gauge("kube_pod_container_status_last_terminated_reason", "Why its last run ended."),
        Family::counter("kube_pod_container_status_restarts_total", "How often a container was started again."),
    ]
}

/// Labels of a pod, and more.
fn with<'a>(own: &[(&'static str, &'a str)], more: &[(&'static str, &'a str)]) -> Vec<(&'static str, &'a str)> {
    [own, more].concat()
}

fn pod_samples(object: &Value, families: &mut [Family]) {
    let [created, started, info, owner, phase, ready, rest @ ..] = families else { return };
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let own = [
        ("namespace", text(&metadata["namespace"])),
        ("pod", text(&metadata["name"])),
        ("uid", text(&metadata["uid"])),
    ];
    created.add(&own, seconds(&metadata["creationTimestamp"]).unwrap_or(0.0));
    if let Some(at) = seconds(&status["startTime"]) {
        started.add(&own, at);
    }
    let controller = items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true);
    let (kind, name) = controller.map_or(("", ""), |owner| (text(&owner["kind"]), text(&owner["name"])));
    let host_network = if spec["hostNetwork"] == true { "true" } else { "false" };
    let about = [
        ("host_ip", text(&status["hostIP"])),
        ("pod_ip", text(&status["podIP"])),
        ("node", text(&spec["nodeName"])),
        ("created_by_kind", kind),
        ("created_by_name", name),
        ("priority_class", text(&spec["priorityClassName"])),
        ("host_network", host_network),
    ];
    info.add(&with(&own, &about), 1.0);
    let is_controller = if controller.is_some() { "true" } else { "" };
    let of = [("owner_kind", kind), ("owner_name", name), ("owner_is_controller", is_controller)];
    owner.add(&with(&own, &of), 1.0);
    for one in PHASES {
        phase.add_truth(&with(&own, &[("phase", one)]), status["phase"] == *one);
    }
    let is_ready = items(&status["conditions"]).find(|condition| condition["type"] == "Ready");
    for (word, value) in [("true", "True"), ("false", "False"), ("unknown", "Unknown")] {
        let is_it = is_ready.is_some_and(|condition| condition["status"] == value);
        ready.add_truth(&with(&own, &[("condition", word)]), is_it);
    }
    let [image, ready, runs, ended, waits, why, last, restarts] = rest else { return };
    for container in items(&status["containerStatuses"]) {
        let name = ("container", text(&container["name"]));
        let state = &container["state"];
        let images = [
            name,
            ("image", text(&container["image"])),
            ("image_id", text(&container["imageID"])),
            ("container_id", text(&container["containerID"])),
        ];
        image.add(&with(&own, &images), 1.0);
        let labels = with(&own, &[name]);
        ready.add_truth(&labels, container["ready"] == true);
        runs.add_truth(&labels, state["running"].is_object());
        ended.add_truth(&labels, state["terminated"].is_object());
        waits.add_truth(&labels, state["waiting"].is_object());
        restarts.add(&labels, number(&container["restartCount"]));

        for (family, reason) in [(&mut *why, &state["waiting"]), (&mut *last, &container["lastState"]["terminated"])] {
            if let Some(reason) = reason["reason"].as_str() {
                family.add(&with(&own, &[name, ("reason", reason)]), 1.0);
            }
        }
    }
}
