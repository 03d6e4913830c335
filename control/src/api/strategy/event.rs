//! Events: one store, two views. They are kept as v1 Events; events.k8s.io/v1 names the same fields otherwise.

use serde_json::{Value, json};

use super::Strategy;
use crate::api::invalid::Causes;

#[derive(Debug)]
pub struct Event;

#[derive(Debug)]
pub struct EventsEvent;

/// Names in events.k8s.io/v1, and in v1.
const NAMES: [(&str, &str); 8] = [
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("reportingInstance", "reportingInstance"),
];
/// What v1 always shows, empty or not.
const ALWAYS: [&str; 4] = ["involvedObject", "reportingComponent", "reportingInstance", "source"];

impl Strategy for Event {
    fn defaults(&self, object: &mut Value) {
        for field in ALWAYS {
            if object[field].is_null() {
                object[field] = if field.starts_with("reporting") { json!("") } else { json!({}) };
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let about = object["involvedObject"]["namespace"].as_str().unwrap_or_default();
        let own = object["metadata"]["namespace"].as_str().unwrap_or_default();
        // What has no namespace is told in `default`, and by some in kube-system.
        if about != own && !(about.is_empty() && matches!(own, "default" | "kube-system")) {
            let field = "involvedObject.namespace";
            causes.invalid(field, &object["involvedObject"]["namespace"], "does not match event.namespace");
        }
    }

    fn update_creates(&self) -> bool {
        true
    }
}

impl Strategy for EventsEvent {
    fn inward(&self, object: Value) -> Value {
        let mut event = renamed(object, |(new, old)| (new, old));
        event["apiVersion"] = json!("v1");
        event
    }

    fn outward(&self, object: Value) -> Value {
        let mut event = renamed(object, |(new, old)| (old, new));
        event["apiVersion"] = json!("events.k8s.io/v1");
        event
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        for field in ["reportingController", "reportingInstance", "action", "reason"] {
            if object[field].as_str().is_none_or(str::is_empty) && object["deprecatedSource"]["component"].is_null() {
                causes.required(field, "");
            }
        }
        if object["note"].as_str().is_some_and(|note| note.len() > 1024) {
            causes.too_long("note", 1024);
        }
    }

    fn update_creates(&self) -> bool {
        true
    }
}

fn renamed(object: Value, way: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Value {
    let Value::Object(mut fields) = object else { return object };
    for (from, to) in NAMES.map(way) {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    Value::Object(fields)
}
