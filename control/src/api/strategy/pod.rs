//! v1 Pod. There is no scheduler: a pod has its node from birth, or waits for somebody to bind it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod_admission::{self, MIRROR};
use super::pod_template::{self, Of};
use super::{Action, Reference, Strategy, pod_spec, runnable};
use crate::api::invalid::Causes;
use crate::api::validate::items;
use crate::clock::seconds;

#[derive(Debug)]
pub struct Pod;

impl Strategy for Pod {
    fn defaults(&self, object: &mut Value) {
        pod_template::defaults(object, Of::Pod);
    }

    fn references(&self, object: &Value) -> Vec<Reference> {
        pod_admission::references(object)
    }

    fn admit(&self, object: &mut Value, found: &[Option<Value>]) -> Result<(), String> {
        pod_admission::admit(object, found)
    }

    fn prepare_create(&self, object: &mut Value, now: Timestamp) {
        let mut status = json!({"phase": "Pending"});
        if node_of(object).is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "NoScheduler", "lastTransitionTime": seconds(now),
                "message": "there is no scheduler: set spec.nodeName, or let a DaemonSet make the pod",
            }]);
        }
        object["status"] = status;
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        pod_spec::validate(&object["spec"], "spec", causes);
        let field = format!("metadata.annotations[{MIRROR}]");
        let mirror = &object["metadata"]["annotations"][MIRROR];
        if !mirror.is_null() && node_of(object).is_empty() {
            causes.invalid(field, mirror, "must set spec.nodeName if mirror pod annotation is set");
        }
    }

    /// A mirror's node runs it already.
    fn judge(&self, new: &Value, old: Option<&Value>, causes: &mut Causes, warnings: &mut Vec<String>) {
        if new["metadata"]["annotations"][MIRROR].is_null() {
            runnable::judge(new, old, "", causes, warnings);
        }
    }

    fn prepare_update(&self, sub: &str, new: &mut Value, old: &Value, now: Timestamp) {
        if sub == "binding" {
            new["status"]["conditions"] =
                json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": seconds(now)}]);
        }
        if sub == "status"
            && let Some(class) = old["status"].get("qosClass")
        {
            new["status"]["qosClass"] = class.clone();
        }
    }

    fn validate_update(&self, sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        if sub == "status" {
            return;
        }
        let mirror = |object: &Value| object["metadata"]["annotations"][MIRROR].clone();
        if mirror(new) != mirror(old) {
            let field = format!("metadata.annotations[{MIRROR}]");
            causes.forbidden(field, "may not set (or remove) mirror pod annotation");
        }
        let (wanted, had) = (fixed(&new["spec"]), fixed(&old["spec"]));
        if sub == "binding" {
            return;
        }
        if wanted != had {
            causes.forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
                 `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), \
                 `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            );
        }
        let kept = |toleration: &Value| items(&new["spec"]["tolerations"]).any(|(_, t)| t == toleration);
        if items(&old["spec"]["tolerations"]).any(|(_, toleration)| !kept(toleration)) {
            causes
                .forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
        }
    }

    fn generation_of(&self) -> &'static [&'static str] {
        &["spec"]
    }

    /// A pod that no node has, or that has ended, goes at once. For the others the node has the time; it confirms the end with a grace of 0.
    fn grace(&self, object: &Value, asked: Option<i64>) -> Option<i64> {
        let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if node_of(object).is_empty() || ended {
            return Some(0);
        }
        let given = asked.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
        Some(if given < 0 { 1 } else { given })
    }

    fn action(&self, sub: &str) -> Option<Action> {
        match sub {
            "eviction" => Some(Action::Evict),
            "binding" => Some(Action::Bind),
            _ => None,
        }
    }
}

fn node_of(object: &Value) -> &str {
    object["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// What of a spec never changes.
fn fixed(spec: &Value) -> Value {
    let mut fixed = spec.clone();
    if let Some(fields) = fixed.as_object_mut() {
        fields.remove("activeDeadlineSeconds");
        fields.remove("tolerations");
        if fields.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds <= 1) {
            fields.remove("terminationGracePeriodSeconds");
        }
    }
    for list in ["containers", "initContainers"] {
        for container in fixed[list].as_array_mut().into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    fixed
}
