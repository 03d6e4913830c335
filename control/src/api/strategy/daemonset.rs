//! apps/v1 DaemonSet.

use jiff::Timestamp;
use pod::spec::CONFIG_DIGEST_ANNOTATION;
use serde_json::{Value, json};

use super::pod_template::{self, Of};
use super::{Reference, Strategy, pod_spec, runnable};
use crate::api::invalid::Causes;
use crate::api::validate;
use crate::convert::{self, TEMPLATE_GENERATION};
use crate::rollout::Share;
use crate::rollout::contents::{self, Use};

#[derive(Debug)]
pub struct DaemonSet;

impl Strategy for DaemonSet {
    fn defaults(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let strategy = spec.entry("updateStrategy").or_insert(json!({}));
        if let Some(strategy) = strategy.as_object_mut() {
            let kind = strategy.entry("type").or_insert(json!("RollingUpdate"));
            if kind == "" {
                *kind = json!("RollingUpdate");
            }
            if kind == "RollingUpdate" {
                let rolling = strategy.entry("rollingUpdate").or_insert(json!({}));
                if let Some(rolling) = rolling.as_object_mut() {
                    rolling.entry("maxUnavailable").or_insert(json!(1));
                    rolling.entry("maxSurge").or_insert(json!(0));
                }
            }
        }
        if spec.get("minReadySeconds") == Some(&json!(0)) {
            spec.remove("minReadySeconds");
        }
        spec.entry("revisionHistoryLimit").or_insert(json!(10));
        if let Some(template) = spec.get_mut("template") {
            pod_template::defaults(template, Of::Template);
        }
    }

    /// What the template is rolled by, so that a new one is not rolled at once.
    fn references(&self, object: &Value) -> Vec<Reference> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let used = contents::uses(&object["spec"]["template"]).unwrap_or_default();
        let reference = |used: Use| Reference::One {
            kind: used.kind,
            api_version: "v1",
            namespace: namespace.to_owned(),
            name: used.name,
        };
        used.into_keys().map(reference).collect()
    }

    fn admit(&self, object: &mut Value, found: &[Option<Value>]) -> Result<(), String> {
        let template = &mut object["spec"]["template"];
        let used = contents::uses(template);
        if let Some(digest) = used.and_then(|used| contents::digest(&used, found.iter().map(Option::as_ref))) {
            template["metadata"]["annotations"][CONFIG_DIGEST_ANNOTATION] = json!(digest);
        }
        Ok(())
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        object["status"] = empty_status();
        let generation = template_generation(object).filter(|generation| *generation > 0).unwrap_or(1);
        set_template_generation(object, Some(generation));
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        selector(spec, causes);
        let template = &spec["template"];
        let field = "spec.template.metadata";
        validate::labels(&template["metadata"]["labels"], &format!("{field}.labels"), causes);
        validate::annotations(&template["metadata"]["annotations"], &format!("{field}.annotations"), causes);
        pod_spec::validate(&template["spec"], "spec.template.spec", causes);
        let restart = &template["spec"]["restartPolicy"];
        if restart != "Always" {
            causes.unsupported("spec.template.spec.restartPolicy", restart, &["Always"]);
        }
        if !template["spec"]["activeDeadlineSeconds"].is_null() {
            let why = "activeDeadlineSeconds in DaemonSet is not Supported";
            causes.forbidden("spec.template.spec.activeDeadlineSeconds", why);
        }
        if !template["spec"]["ephemeralContainers"].is_null() {
            causes.forbidden(
                "spec.template.spec.ephemeralContainers",
                "ephemeral containers not allowed in pod template",
            );
        }
        causes.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
        causes.not_negative("spec.revisionHistoryLimit", &spec["revisionHistoryLimit"]);
        strategy(&spec["updateStrategy"], causes);
        // By the reader by which it will be judged: what that does not understand would be nobody's.
        if causes.is_empty() {
            // Its own name is judged elsewhere.
            let mut named = object.clone();
            (named["metadata"]["name"], named["metadata"]["namespace"]) = (json!("d"), json!("default"));
            if let Err(unreadable) = convert::daemonset(&named) {
                causes.invalid("spec.template.spec", &json!({}), &unreadable.reason);
            }
        }
    }

    fn judge(&self, new: &Value, old: Option<&Value>, causes: &mut Causes, warnings: &mut Vec<String>) {
        let old = old.map(|old| &old["spec"]["template"]);
        runnable::judge(&new["spec"]["template"], old, "spec.template", causes, warnings);
    }

    fn prepare_update(&self, sub: &str, new: &mut Value, old: &Value, _now: Timestamp) {
        if sub.is_empty() {
            let generation = template_generation(old);
            let changed = new["spec"]["template"] != old["spec"]["template"];
            set_template_generation(new, generation.map(|g| g.saturating_add(i64::from(changed))));
        }
    }

    fn validate_update(&self, sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        causes.immutable("spec.selector", &new["spec"]["selector"], &old["spec"]["selector"]);
        if sub == "status" {
            for (field, value) in new["status"].as_object().into_iter().flatten() {
                causes.not_negative(format!("status.{field}"), value);
            }
        }
    }

    fn generation_of(&self) -> &'static [&'static str] {
        &["spec"]
    }
}

fn empty_status() -> Value {
    json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
}

fn template_generation(object: &Value) -> Option<i64> {
    object["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|text| text.parse().ok())
}

/// None: there is no such annotation.
fn set_template_generation(object: &mut Value, generation: Option<i64>) {
    match generation {
        Some(generation) => object["metadata"]["annotations"][TEMPLATE_GENERATION] = json!(generation.to_string()),
        None => {
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.remove(TEMPLATE_GENERATION);
            }
        }
    }
}

fn selector(spec: &Value, causes: &mut Causes) {
    let selector = &spec["selector"];
    if selector.is_null() {
        causes.required("spec.selector", "");
        return;
    }
    validate::labels(&selector["matchLabels"], "spec.selector.matchLabels", causes);
    for (n, expression) in validate::items(&selector["matchExpressions"]) {
        let field = format!("spec.selector.matchExpressions[{n}]");
        let operator = &expression["operator"];
        let values = expression["values"].as_array().map_or(0, Vec::len);
        match operator.as_str() {
            Some("In" | "NotIn") if values == 0 => {
                causes.required(format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            Some("Exists" | "DoesNotExist") if values > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(format!("{field}.values"), why);
            }
            Some("In" | "NotIn" | "Exists" | "DoesNotExist") => {}
            _ => causes.invalid(format!("{field}.operator"), operator, "not a valid selector operator"),
        }
    }
    let parsed = convert::selector(selector);
    if parsed.is_empty() {
        causes.invalid("spec.selector", selector, "empty selector is invalid for daemonset");
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let of = labels.as_object().into_iter().flatten();
    if !parsed.matches(&of.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()) {
        causes.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`");
    }
}

fn strategy(strategy: &Value, causes: &mut Causes) {
    let field = "spec.updateStrategy";
    match strategy["type"].as_str() {
        Some("OnDelete") => return,
        Some("RollingUpdate") => {}
        _ => {
            causes.unsupported(format!("{field}.type"), &strategy["type"], &["RollingUpdate", "OnDelete"]);
            return;
        }
    }
    let rolling = &strategy["rollingUpdate"];
    let mut share = |key: &str| {
        let value = &rolling[key];
        let field = format!("{field}.rollingUpdate.{key}");
        match Share::read(value) {
            Some(Share::Percent(percent)) if percent > 100 => {
                causes.invalid(field, value, "must not be greater than 100%");
                None
            }
            Some(Share::Percent(number) | Share::Count(number)) => Some(number),
            None => {
                let why = "must be an integer from 0, or a percentage as \"10%\"";
                causes.invalid(field, value, why);
                None
            }
        }
    };
    match (share("maxUnavailable"), share("maxSurge")) {
        (Some(0), Some(0)) => {
            let field = format!("{field}.rollingUpdate.maxUnavailable");
            causes.invalid(field, &rolling["maxUnavailable"], "cannot be 0 when `maxSurge` is 0");
        }
        (Some(1..), Some(1..)) => {
            let field = format!("{field}.rollingUpdate.maxSurge");
            causes.invalid(field, &rolling["maxSurge"], "may not be set when `maxUnavailable` is non-zero");
        }
        _ => {}
    }
}
