//! rbac.authorization.k8s.io/v1: roles and their bindings. That nobody gives more than he has is the door's check.

use pod::manifest::names;
use serde_json::{Value, json};

use super::{NameRule, Strategy};
use crate::api::invalid::Causes;
use crate::api::validate::items;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Role and ClusterRole.
#[derive(Debug)]
pub struct Role;

/// RoleBinding and ClusterRoleBinding.
#[derive(Debug)]
pub struct Binding;

impl Strategy for Role {
    fn defaults(&self, object: &mut Value) {
        if object["rules"].is_null() {
            object["rules"] = json!([]);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let in_namespace = !object["metadata"]["namespace"].is_null();
        let some = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
        for (n, rule) in items(&object["rules"]) {
            let field = format!("rules[{n}]");
            if !some(&rule["verbs"]) {
                causes.required(format!("{field}.verbs"), "verbs must contain at least one value");
            }
            if some(&rule["nonResourceURLs"]) {
                let field = format!("{field}.nonResourceURLs");
                let urls = &rule["nonResourceURLs"];
                if in_namespace {
                    causes.invalid(field, urls, "namespaced rules cannot apply to non-resource URLs");
                } else if some(&rule["resources"]) || some(&rule["apiGroups"]) || some(&rule["resourceNames"]) {
                    causes.invalid(field, urls, "rules cannot apply to both regular resources and non-resource URLs");
                }
                continue;
            }
            if !some(&rule["apiGroups"]) {
                let why = "resource rules must supply at least one api group";
                causes.required(format!("{field}.apiGroups"), why);
            }
            if !some(&rule["resources"]) {
                causes.required(format!("{field}.resources"), "resource rules must supply at least one resource");
            }
        }
    }

    fn update_creates(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Path
    }
}

impl Strategy for Binding {
    fn defaults(&self, object: &mut Value) {
        if object["roleRef"].is_object() && object["roleRef"]["apiGroup"].as_str().is_none_or(str::is_empty) {
            object["roleRef"]["apiGroup"] = json!(GROUP);
        }
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let people = matches!(subject["kind"].as_str(), Some("User" | "Group"));
            if people && subject["apiGroup"].as_str().is_none_or(str::is_empty) {
                subject["apiGroup"] = json!(GROUP);
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let role = &object["roleRef"];
        if role["apiGroup"] != GROUP {
            causes.unsupported("roleRef.apiGroup", &role["apiGroup"], &[GROUP]);
        }
        let in_namespace = !object["metadata"]["namespace"].is_null();
        let kinds: &[&str] = if in_namespace { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if role["kind"].as_str().is_none_or(|kind| !kinds.contains(&kind)) {
            causes.unsupported("roleRef.kind", &role["kind"], kinds);
        }
        if role["name"].as_str().is_none_or(str::is_empty) {
            causes.required("roleRef.name", "");
        }
        for (n, subject) in items(&object["subjects"]) {
            let field = format!("subjects[{n}]");
            let name = subject["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                causes.required(format!("{field}.name"), "");
            }
            match subject["kind"].as_str() {
                Some("ServiceAccount") => {
                    if let Some(why) = names::dns_subdomain(name).filter(|_| !name.is_empty()) {
                        causes.invalid(format!("{field}.name"), &subject["name"], why);
                    }
                    if !in_namespace && subject["namespace"].as_str().is_none_or(str::is_empty) {
                        causes.required(format!("{field}.namespace"), "");
                    }
                }
                Some("User" | "Group") if subject["apiGroup"] == GROUP => {}
                Some("User" | "Group") => {
                    causes.unsupported(format!("{field}.apiGroup"), &subject["apiGroup"], &[GROUP]);
                }
                _ => {
                    let kinds = ["ServiceAccount", "User", "Group"];
                    causes.unsupported(format!("{field}.kind"), &subject["kind"], &kinds);
                }
            }
        }
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        if new["roleRef"] != old["roleRef"] {
            causes.invalid("roleRef", &new["roleRef"], "cannot change roleRef");
        }
    }

    fn update_creates(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Path
    }
}
