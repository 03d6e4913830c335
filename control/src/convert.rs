//! Objects of the API as the decision about a DaemonSet looks at them ([`crate::daemonset`]), and its status on the way back. Pure; the loops drive it.
//!
//! What is read here was validated when it was written, so anything that is missing has the value that it would have by default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pod::desired::{Origin, Source};
use pod::manifest;
use pod::name::Uid;
use pod::spec::{Operator, PodTemplate, Requirement, Taint, TaintEffect};
use serde_json::{Map, Value, json};

use crate::clock::seconds;
use crate::daemonset::{Condition, Contact, DaemonSet, Node, Phase, Pod, Revision, Status};
use crate::rollout::{Share, Strategy};
use crate::selector::Selector;

/// The annotation in which the generation of the template is kept for clients older than apps/v1.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// `revisionHistoryLimit` where it is not given.
const HISTORY_LIMIT: usize = 10;
/// Fields of a pod's spec that say where it belongs. The rest of a template is the node's to judge: what no node can run is refused there, by name.
const PLACING: [&str; 5] = ["affinity", "hostNetwork", "nodeName", "nodeSelector", "tolerations"];

/// A stored object that cannot be what it says: another program wrote to the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the DaemonSet {namespace}/{name} cannot be read: {reason}")]
pub struct Unreadable {
    pub namespace: String,
    pub name: String,
    pub reason: String,
}

/// An apps/v1 DaemonSet.
pub fn daemonset(object: &Value) -> Result<DaemonSet, Unreadable> {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let annotation = metadata["annotations"][TEMPLATE_GENERATION].as_str();
    Ok(DaemonSet {
        namespace: text(&metadata["namespace"]),
        name: text(&metadata["name"]),
        uid: Uid(text(&metadata["uid"])),
        generation: metadata["generation"].as_i64().unwrap_or(0),
        deleting: !metadata["deletionTimestamp"].is_null(),
        selector: selector(&spec["selector"]),
        template: template(object)?,
        template_data: template_data(object).into(),
        template_generation: annotation.and_then(|number| number.parse().ok()),
        strategy: strategy(&spec["updateStrategy"]),
        min_ready: Duration::from_secs(spec["minReadySeconds"].as_u64().unwrap_or(0)),
        history_limit: number(&spec["revisionHistoryLimit"]).unwrap_or(HISTORY_LIMIT),
        status: status(&object["status"]),
    })
}

/// What the DaemonSet's ControllerRevision keeps, as Go's `json.Marshal` writes it: clients compare these bytes.
pub fn template_data(daemonset: &Value) -> String {
    let mut template = daemonset["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    go_json(&json!({"spec": {"template": template}}))
}

/// JSON with sorted keys and the escapes of Go's encoder.
pub fn go_json(value: &Value) -> String {
    let plain = value.to_string();
    let mut text = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            // They stand in strings only.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

/// A v1 Pod.
pub fn pod(object: &Value) -> Pod {
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let ready = items(&status["conditions"]).find(|c| c["type"] == "Ready" && c["status"] == "True");
    let created = time(&metadata["creationTimestamp"]).unwrap_or(Timestamp::UNIX_EPOCH);
    let statuses = || items(&status["initContainerStatuses"]).chain(items(&status["containerStatuses"]));
    let restarts = statuses().map(|c| c["restartCount"].as_u64().unwrap_or(0)).sum::<u64>();
    Pod {
        name: text(&metadata["name"]),
        uid: Uid(text(&metadata["uid"])),
        node: node_of(spec),
        labels: texts(&metadata["labels"]),
        controller: controller(metadata),
        phase: match status["phase"].as_str() {
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Active,
        },
        ready_since: ready.map(|c| time(&c["lastTransitionTime"]).unwrap_or(created)),
        created,
        deletion: deletion(metadata),
        restarts: u32::try_from(restarts).unwrap_or(u32::MAX),
        trouble: trouble(status, statuses()),
    }
}

/// A v1 Node, with what is known of whether it can be reached.
pub fn node(object: &Value, contact: Contact) -> Node {
    let taint = |taint: &Value| {
        let effect = match taint["effect"].as_str()? {
            "NoSchedule" => TaintEffect::NoSchedule,
            "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
            "NoExecute" => TaintEffect::NoExecute,
            _ => return None,
        };
        Some(Taint { key: text(&taint["key"]), value: text(&taint["value"]), effect })
    };
    let placed = pod::desired::Node {
        name: text(&object["metadata"]["name"]),
        labels: texts(&object["metadata"]["labels"]),
        taints: items(&object["spec"]["taints"]).filter_map(taint).collect(),
        ..pod::desired::Node::default()
    };
    Node { placed, contact }
}

/// An apps/v1 ControllerRevision.
pub fn revision(object: &Value) -> Revision {
    let metadata = &object["metadata"];
    Revision {
        name: text(&metadata["name"]),
        labels: texts(&metadata["labels"]),
        controller: controller(metadata),
        deleting: !metadata["deletionTimestamp"].is_null(),
        number: object["revision"].as_i64().unwrap_or(0),
        data: go_json(&object["data"]).into(),
    }
}

/// A meta/v1 LabelSelector. One that asks for nothing is empty.
pub fn selector(object: &Value) -> Selector {
    let mut selector = Selector::of_labels(&texts(&object["matchLabels"]));
    for expression in items(&object["matchExpressions"]) {
        let operator = match expression["operator"].as_str() {
            Some("NotIn") => Operator::NotIn,
            Some("Exists") => Operator::Exists,
            Some("DoesNotExist") => Operator::DoesNotExist,
            // Validation takes no others.
            _ => Operator::In,
        };
        let values = items(&expression["values"]).map(text).collect();
        selector.requirements.push(Requirement { key: text(&expression["key"]), operator, values });
    }
    selector
}

/// `status` of a DaemonSet, as the API shows it.
pub fn status_json(status: &Status) -> Value {
    let mut json = json!({
        "currentNumberScheduled": status.current_number_scheduled,
        "numberMisscheduled": status.number_misscheduled,
        "desiredNumberScheduled": status.desired_number_scheduled,
        "numberReady": status.number_ready,
    });
    let counts = [
        ("updatedNumberScheduled", i64::from(status.updated_number_scheduled)),
        ("numberAvailable", i64::from(status.number_available)),
        ("numberUnavailable", i64::from(status.number_unavailable)),
        ("observedGeneration", status.observed_generation),
    ];
    // Go leaves these out where they are 0.
    for (field, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        json[field] = json!(count);
    }
    if let Some(collisions) = status.collision_count {
        json["collisionCount"] = json!(collisions);
    }
    if !status.conditions.is_empty() {
        let condition = |c: &Condition| {
            let mut json = Map::new();
            json.insert("type".into(), json!(&*c.name));
            json.insert("status".into(), json!(&*c.status));
            json.insert("lastTransitionTime".into(), json!(seconds(c.last_transition)));
            for (field, text) in [("reason", &c.reason), ("message", &c.message)] {
                if !text.is_empty() {
                    json.insert(field.into(), json!(&**text));
                }
            }
            Value::Object(json)
        };
        json["conditions"] = status.conditions.iter().map(condition).collect();
    }
    json
}

fn status(object: &Value) -> Status {
    let count = |field: &str| number(&object[field]).unwrap_or(0);
    let condition = |c: &Value| Condition {
        name: text(&c["type"]).into(),
        status: text(&c["status"]).into(),
        reason: text(&c["reason"]).into(),
        message: text(&c["message"]).into(),
        last_transition: time(&c["lastTransitionTime"]).unwrap_or(Timestamp::UNIX_EPOCH),
    };
    Status {
        current_number_scheduled: count("currentNumberScheduled"),
        number_misscheduled: count("numberMisscheduled"),
        desired_number_scheduled: count("desiredNumberScheduled"),
        number_ready: count("numberReady"),
        updated_number_scheduled: count("updatedNumberScheduled"),
        number_available: count("numberAvailable"),
        number_unavailable: count("numberUnavailable"),
        observed_generation: object["observedGeneration"].as_i64().unwrap_or(0),
        collision_count: object["collisionCount"].as_i64().and_then(|n| i32::try_from(n).ok()),
        conditions: items(&object["conditions"]).map(condition).collect(),
    }
}

/// What of the template says where its pods belong and when they are done.
fn template(object: &Value) -> Result<Arc<PodTemplate>, Unreadable> {
    let (metadata, template) = (&object["metadata"], &object["spec"]["template"]);
    let mut spec = json!({"containers": [{"name": "any", "image": "any"}]});
    for field in PLACING {
        if let Some(value) = template["spec"].get(field) {
            spec[field] = value.clone();
        }
    }
    let document = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {"selector": object["spec"]["selector"], "template": {"metadata": template["metadata"], "spec": spec}},
    });
    let origin = Origin { source: Source::Control, file: String::new(), line: 1 };
    let context = manifest::Context::default();
    match manifest::parse_recorded(&document.into(), &origin, &context) {
        Ok(desired) => Ok(desired.template),
        Err(rejections) => Err(Unreadable {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            reason: rejections.iter().map(|r| format!("{}: {}", r.path, r.reason)).collect::<Vec<_>>().join("; "),
        }),
    }
}

fn strategy(object: &Value) -> Strategy {
    if object["type"] == "OnDelete" {
        return Strategy::OnDelete;
    }
    let share = |field: &str, default| {
        object["rollingUpdate"].get(field).and_then(Share::read).unwrap_or(Share::Count(default))
    };
    Strategy::RollingUpdate { max_unavailable: share("maxUnavailable", 1), max_surge: share("maxSurge", 0) }
}

/// When its deletion was asked for: `deletionTimestamp` is when its grace will be over.
fn deletion(metadata: &Value) -> Option<Timestamp> {
    let end = time(&metadata["deletionTimestamp"])?;
    let grace = SignedDuration::from_secs(metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0));
    Some(end.checked_sub(grace).unwrap_or(end))
}

/// `spec.nodeName`, else the node that the required affinity names.
fn node_of(spec: &Value) -> Option<String> {
    if let Some(name) = spec["nodeName"].as_str().filter(|name| !name.is_empty()) {
        return Some(name.to_owned());
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = items(&required["nodeSelectorTerms"]).flat_map(|term| items(&term["matchFields"]));
    let mut named = terms.filter(|field| field["key"] == "metadata.name" && field["operator"] == "In");
    named.find_map(|field| Some(field["values"].as_array()?.first()?.as_str()?.to_owned()))
}

/// The uid of the owner that controls it.
fn controller(metadata: &Value) -> Option<Uid> {
    let owner = items(&metadata["ownerReferences"]).find(|owner| owner["controller"] == true)?;
    Some(Uid(text(&owner["uid"])))
}

/// The first container that is not ready and says why; else what the pod itself says.
fn trouble<'a>(status: &Value, mut statuses: impl Iterator<Item = &'a Value>) -> Option<String> {
    let of_container = statuses.find_map(|container| {
        if container["ready"] == true {
            return None;
        }
        let state = &container["state"];
        let why = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str())?;
        (why != "Completed").then(|| format!("{}: {why}", text(&container["name"])))
    });
    of_container.or_else(|| status["reason"].as_str().filter(|r| !r.is_empty()).map(str::to_owned))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64().and_then(|number| T::try_from(number).ok())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests;
