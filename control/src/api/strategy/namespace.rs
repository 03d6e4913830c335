//! v1 Namespace. Its deletion empties it first: a loop does that and then takes the finalizer of its spec away.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NameRule, Strategy};
use crate::api::objects::meta;

/// The label that names it, so that selectors can.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Debug)]
pub struct Namespace;

impl Strategy for Namespace {
    fn defaults(&self, object: &mut Value) {
        if let Some(name) = object["metadata"]["name"].as_str().filter(|name| !name.is_empty()) {
            object["metadata"]["labels"][NAME_LABEL] = json!(name);
        }
        if !object["spec"].is_object() {
            object["spec"] = json!({});
        }
        if object["status"]["phase"].is_null() {
            object["status"]["phase"] = json!("Active");
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        object["status"] = json!({"phase": "Active"});
        let finalizers = &mut object["spec"]["finalizers"];
        match finalizers.as_array_mut() {
            Some(list) if list.iter().any(|f| f == "kubernetes") => {}
            Some(list) => list.push(json!("kubernetes")),
            None => *finalizers = json!(["kubernetes"]),
        }
    }

    fn prepare_update(&self, sub: &str, new: &mut Value, old: &Value, _now: Timestamp) {
        match sub {
            "finalize" => {
                let finalizers = new["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
                let owners = new["metadata"]["managedFields"].clone();
                *new = old.clone();
                if !owners.is_null() {
                    meta::set(new, "managedFields", owners);
                }
                new["spec"] = match finalizers.is_empty() {
                    true => json!({}),
                    false => json!({"finalizers": finalizers}),
                };
            }
            _ => meta::keep_top(new, old, "spec"),
        }
    }

    fn keeps(&self, name: &str) -> Option<&'static str> {
        matches!(name, "default" | "kube-system" | "kube-public").then_some("this namespace may not be deleted")
    }

    fn begin_end(&self, object: &mut Value) -> bool {
        object["status"]["phase"] = json!("Terminating");
        !self.may_go(object)
    }

    fn may_go(&self, object: &Value) -> bool {
        object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}
