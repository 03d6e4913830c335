//! coordination.k8s.io/v1 Lease: who leads, and whether a node lives. A write says which version it replaces, so that two cannot both win.

use serde_json::Value;

use super::Strategy;
use crate::api::invalid::Causes;

#[derive(Debug)]
pub struct Lease;

impl Strategy for Lease {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
            causes.invalid("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"], "must be greater than 0");
        }
        causes.not_negative("spec.leaseTransitions", &spec["leaseTransitions"]);
        if spec["holderIdentity"].as_str() == Some("") {
            causes.required("spec.holderIdentity", "must not be empty");
        }
    }

    fn takes_unconditional_update(&self) -> bool {
        false
    }

    fn update_creates(&self) -> bool {
        true
    }
}
