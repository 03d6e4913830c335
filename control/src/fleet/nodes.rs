//! The Node object of a node that calls: made at its first call, kept to what the node is at every later one.
//!
//! Labels and taints are the node's to propose once, when there is no Node object, and never those by which others are kept off
//! (CVE-2025-5187's kind): afterwards the object rules. Conditions that tell whether it is ready are the loops'.

use serde_json::{Map, Value, json};

use super::index::kind;
use super::turns::turn;
use crate::api::error::ApiError;
use crate::api::objects::{FieldValidation, Objects, Patch, WriteOptions};
use crate::clock::seconds;
use crate::door::audit;
use crate::door::rules::may_propose;

/// Whoever writes for nodes.
const MANAGER: &str = "daemonlet";
/// How often a write is tried that another one's came before.
const TRIES: u32 = 8;
/// The loops judge it by what they hear.
const READY: &str = "Ready";

/// Of a Node that does not take what it is to have: no new pod of it comes to be, and none ends.
const REFUSED: &str = "daemonlet.dev/DesiredSetRefused";

/// How the fleet writes.
pub fn options(node: &str) -> WriteOptions {
    WriteOptions {
        manager: MANAGER.into(),
        validation: FieldValidation::Ignore,
        user: format!("system:node:{node}"),
        ..WriteOptions::default()
    }
}

/// Writes what the node says of itself. The object as it is then.
pub async fn register(objects: &Objects, node: &str, said: &Value) -> Result<Value, ApiError> {
    let _turn = turn().await;
    let mut last = None;
    for _ in 0..TRIES {
        let current = match objects.get(kind("Node"), "", node).await {
            Ok(current) => current,
            Err(error) if error.code == 404 => {
                let made = objects.create(kind("Node"), "", proposed(node, said), &options(node)).await;
                audit::of_node(
                    node,
                    "create",
                    "nodes",
                    ("", node),
                    made.as_ref().map_or_else(|error| error.code, |_| 201),
                );
                match made {
                    Ok(written) => written.object,
                    Err(error) if error.reason == "AlreadyExists" => continue,
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let mut wanted = current.clone();
        wanted["status"] = status(&current["status"], &said["status"]);
        if wanted == current {
            return Ok(current);
        }
        match objects.update(kind("Node"), "", node, "status", wanted, &options(node)).await {
            Ok(written) => return Ok(written.object),
            Err(error) if error.code == 409 || error.code == 404 => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| ApiError::internal(format!("node {node} cannot be written"))))
}

/// Whether the Node object says that its node refuses its desired set.
pub fn is_refusing(object: &Value) -> bool {
    object["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|it| it["type"] == REFUSED))
}

/// Says on the Node object why its node refuses its desired set; empty: that it does not.
pub async fn refuses(objects: &Objects, node: &str, why: &str) -> Result<(), ApiError> {
    let _turn = turn().await;
    let condition = match why {
        "" => json!({"type": REFUSED, "$patch": "delete"}),
        why => json!({
            "type": REFUSED, "status": "True", "reason": "Refused", "message": why,
            "lastTransitionTime": seconds(objects.clock().now()),
        }),
    };
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    objects.patch(kind("Node"), "", node, "status", patch, &options(node)).await.map(drop)
}

/// A new Node object.
fn proposed(node: &str, said: &Value) -> Value {
    let labels = said["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let mut labels: Map<String, Value> = labels.into_iter().filter(|(key, _)| may_propose(key)).collect();
    labels.insert("kubernetes.io/hostname".into(), node.into());
    let taints = said["spec"]["taints"].as_array().filter(|taints| !taints.is_empty());
    let mut spec = Map::new();
    if let Some(taints) = taints {
        spec.insert("taints".into(), taints.clone().into());
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}, "spec": spec})
}

/// What the node says of itself, beside what others say of it.
fn status(current: &Value, said: &Value) -> Value {
    let mut status = current.as_object().cloned().unwrap_or_default();
    for field in ["addresses", "capacity", "nodeInfo", "runtimeHandlers"] {
        if let Some(value) = said.get(field) {
            status.insert(field.into(), value.clone());
        }
    }
    let allocatable = said.get("allocatable").or_else(|| said.get("capacity"));
    if let Some(allocatable) = allocatable {
        status.insert("allocatable".into(), allocatable.clone());
    }
    let list = |value: &Value| value["conditions"].as_array().cloned().unwrap_or_default();
    let is = |condition: &Value, of: &Value| condition["type"] == of["type"];
    let is_news = |condition: &Value| condition.is_object() && condition["type"] != READY;
    let news: Vec<Value> = list(said).into_iter().filter(is_news).collect();
    let known: Vec<Value> = list(current).into_iter().filter(Value::is_object).collect();
    let mut conditions: Vec<Value> =
        known.iter().filter(|known| !news.iter().any(|condition| is(condition, known))).cloned().collect();
    conditions.extend(news.into_iter().map(|condition| {
        let before = known.iter().find(|known| is(known, &condition));
        match before {
            // The loops keep its times.
            Some(before) if before["status"] == condition["status"] => {
                let mut kept = before.clone();
                kept["reason"] = condition["reason"].clone();
                kept["message"] = condition["message"].clone();
                // A former version of the agent told none.
                for time in ["lastHeartbeatTime", "lastTransitionTime"] {
                    if kept.get(time).is_none_or(Value::is_null) && condition.get(time).is_some() {
                        kept[time] = condition[time].clone();
                    }
                }
                kept
            }
            _ => condition,
        }
    }));
    if !conditions.is_empty() {
        status.insert("conditions".into(), conditions.into());
    }
    status.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_proposes_what_it_is_and_not_what_keeps_others_off() {
        for (key, may) in [
            ("rack", true),
            ("example.org/rack", true),
            ("kubernetes.io/arch", true),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/anything", true),
            ("x.node.kubernetes.io/anything", true),
            ("node-restriction.kubernetes.io/tier", false),
            ("x.node-restriction.kubernetes.io/tier", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("kubernetes.io/role", false),
            ("x.k8s.io/y", false),
            ("notkubernetes.io/x", true),
        ] {
            assert_eq!(may_propose(key), may, "{key}");
        }
    }

    #[tokio::test]
    async fn a_set_that_is_refused_is_told_on_the_node_until_one_is_taken() {
        let place = crate::door::testing::place();
        let objects = Objects::new(place.store.clone(), crate::clock::Clock::system());
        let said = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
        assert!(!is_refusing(&register(&objects, "n1", &said).await.unwrap()));
        refuses(&objects, "n1", "a desired set has more than 5 bytes").await.unwrap();
        let told = register(&objects, "n1", &said).await.unwrap();
        let types = |node: &Value| -> Vec<String> {
            let all = node["status"]["conditions"].as_array().unwrap().iter();
            all.map(|it| it["type"].as_str().unwrap().to_owned()).collect()
        };
        assert!(is_refusing(&told) && types(&told).len() == 2, "{told}");
        refuses(&objects, "n1", "").await.unwrap();
        assert_eq!(types(&register(&objects, "n1", &said).await.unwrap()), ["DiskPressure"]);
    }

    #[test]
    fn what_others_say_of_a_node_stays() {
        let ready = json!({"type": "Ready", "status": "True"});
        let pressure = |status: &str, time: &str| json!({"type": "DiskPressure", "status": status, "lastTransitionTime": time, "reason": null, "message": null});
        let current = json!({"conditions": [ready, pressure("False", "t0")], "images": [], "capacity": {"cpu": "1"}});
        let said = json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "False"}],
            "capacity": {"cpu": "2"}, "addresses": []});
        let merged = status(&current, &said);
        assert_eq!(merged["conditions"], json!([ready, pressure("False", "t0")]));
        assert_eq!((&merged["capacity"]["cpu"], &merged["allocatable"]["cpu"]), (&json!("2"), &json!("2")));
        assert!(merged.get("images").is_some());
    }
}
