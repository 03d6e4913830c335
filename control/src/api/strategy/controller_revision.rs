//! apps/v1 ControllerRevision: a template as it was. Clients compare its data byte for byte, so nothing of it is touched.

use serde_json::Value;

use super::Strategy;
use crate::api::invalid::Causes;

#[derive(Debug)]
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn verbatim(&self) -> &'static [&'static str] {
        &["data"]
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        match &object["data"] {
            Value::Null => causes.required("data", "data is mandatory"),
            Value::Object(_) => {}
            other => causes.invalid("data", other, "must be a JSON object"),
        }
        causes.not_negative("revision", &object["revision"]);
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        causes.immutable("data", &new["data"], &old["data"]);
    }
}
