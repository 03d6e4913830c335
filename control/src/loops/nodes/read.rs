//! Between a v1 Node as JSON and what is judged of it.

use serde_json::{Value, json};

use super::decide::{Condition, Seen, Status, Taint};
use crate::clock::seconds;
use crate::loops::of;

pub fn seen(node: &Value) -> Seen {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let condition = |c: &Value| Condition {
        name: text(&c["type"]),
        status: match c["status"].as_str() {
            Some("True") => Status::True,
            Some("False") => Status::False,
            Some(_) | None => Status::Unknown,
        },
        reason: text(&c["reason"]),
        message: text(&c["message"]),
        heartbeat: of::moment(&c["lastHeartbeatTime"]).unwrap_or_default(),
        transition: of::moment(&c["lastTransitionTime"]).unwrap_or_default(),
    };
    let taint = |t: &Value| Taint {
        key: text(&t["key"]),
        value: text(&t["value"]),
        effect: text(&t["effect"]),
        added: of::moment(&t["timeAdded"]),
    };
    Seen {
        conditions: list(&node["status"]["conditions"]).iter().map(condition).collect(),
        taints: list(&node["spec"]["taints"]).iter().map(taint).collect(),
        cordoned: node["spec"]["unschedulable"] == true,
    }
}

pub fn condition(condition: &Condition) -> Value {
    let Condition { name, status, reason, message, heartbeat, transition } = condition;
    let status = match status {
        Status::True => "True",
        Status::False => "False",
        Status::Unknown => "Unknown",
    };
    json!({
        "type": name, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": seconds(*heartbeat), "lastTransitionTime": seconds(*transition),
    })
}

pub fn taint(taint: &Taint) -> Value {
    let Taint { key, value, effect, added } = taint;
    let mut json = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        json["value"] = json!(value);
    }
    if let Some(added) = added {
        json["timeAdded"] = json!(seconds(*added));
    }
    json
}
