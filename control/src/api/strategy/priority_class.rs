//! scheduling.k8s.io/v1 PriorityClass.

use serde_json::{Value, json};

use super::{Reference, Strategy};
use crate::api::invalid::Causes;
use crate::api::validate::items;

/// Values above are Kubernetes' own.
const USERS_MAX: i64 = 1_000_000_000;
const RESERVED: &str = "system-";
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

#[derive(Debug)]
pub struct PriorityClass;

impl Strategy for PriorityClass {
    fn defaults(&self, object: &mut Value) {
        if object["preemptionPolicy"].is_null() {
            object["preemptionPolicy"] = json!("PreemptLowerPriority");
        }
        if object["value"].is_null() {
            object["value"] = json!(0);
        }
        if let Some(fields) = object.as_object_mut()
            && fields.get("globalDefault") == Some(&json!(false))
        {
            fields.remove("globalDefault");
        }
    }

    fn references(&self, object: &Value) -> Vec<Reference> {
        match object["globalDefault"] == true {
            true => vec![Reference::All { kind: "PriorityClass", api_version: "scheduling.k8s.io/v1" }],
            false => Vec::new(),
        }
    }

    fn admit(&self, object: &mut Value, found: &[Option<Value>]) -> Result<(), String> {
        let name = &object["metadata"]["name"];
        let all = found.iter().flatten().flat_map(|classes| items(classes).map(|(_, class)| class));
        let mut others = all.filter(|class| class["globalDefault"] == true && class["metadata"]["name"] != *name);
        match others.next() {
            Some(other) => Err(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other["metadata"]["name"].as_str().unwrap_or_default()
            )),
            None => Ok(()),
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let value = object["value"].as_i64().unwrap_or(0);
        if name.starts_with(RESERVED) {
            if !SYSTEM.contains(&(name, value)) {
                let why = "priority class names with 'system-' prefix are reserved for system use only";
                causes.forbidden("metadata.name", why);
            }
        } else if value > USERS_MAX {
            let why = format!("maximum allowed value of a user defined priority is {USERS_MAX}");
            causes.forbidden("value", why);
        }
        let policies = ["PreemptLowerPriority", "Never"];
        causes.one_of("preemptionPolicy", &object["preemptionPolicy"], &policies);
    }

    fn keeps(&self, name: &str) -> Option<&'static str> {
        SYSTEM
            .iter()
            .any(|(system, _)| *system == name)
            .then_some("this is a system priority class and cannot be deleted")
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        if new["value"] != old["value"] {
            causes.forbidden("value", "may not be changed in an update.");
        }
        causes.immutable("preemptionPolicy", &new["preemptionPolicy"], &old["preemptionPolicy"]);
    }
}
