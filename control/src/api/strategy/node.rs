//! v1 Node. It is made by the session of its agent; people label, taint and cordon it.

use std::collections::BTreeSet;

use pod::manifest::names;
use serde_json::{Value, json};

use super::Strategy;
use crate::api::invalid::Causes;
use crate::api::validate::items;

#[derive(Debug)]
pub struct Node;

impl Strategy for Node {
    fn defaults(&self, object: &mut Value) {
        if !object["spec"].is_object() {
            object["spec"] = json!({});
        }
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.retain(|key, value| match key.as_str() {
                "unschedulable" => *value != json!(false),
                "taints" | "podCIDRs" => value.as_array().is_some_and(|list| !list.is_empty()),
                _ => true,
            });
        }
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        let status = &mut object["status"];
        if status["allocatable"].is_null() {
            match status["capacity"].is_null() {
                true => {
                    if let Some(status) = status.as_object_mut() {
                        status.remove("allocatable");
                        status.remove("capacity");
                    }
                }
                false => status["allocatable"] = status["capacity"].clone(),
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut seen = BTreeSet::new();
        for (n, taint) in items(&object["spec"]["taints"]) {
            let field = format!("spec.taints[{n}]");
            match taint["key"].as_str() {
                None | Some("") => causes.required(format!("{field}.key"), ""),
                Some(key) => {
                    if let Some(why) = names::qualified(key) {
                        causes.invalid(format!("{field}.key"), &taint["key"], why);
                    }
                }
            }
            if let Some(why) = taint["value"].as_str().and_then(names::label_value) {
                causes.invalid(format!("{field}.value"), &taint["value"], why);
            }
            match taint["effect"].as_str() {
                None | Some("") => causes.required(format!("{field}.effect"), ""),
                Some(_) => {
                    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                    causes.one_of(format!("{field}.effect"), &taint["effect"], &effects);
                }
            }
            if !seen.insert((taint["key"].as_str(), taint["effect"].as_str())) {
                causes.duplicate(field, taint);
            }
        }
    }
}
