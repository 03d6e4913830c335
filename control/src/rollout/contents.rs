//! What a template that asks for it (`daemonlet.dev/restart-on-config-change`) is rolled by: the ConfigMaps and Secrets that it uses, and a digest of
//! what they hold, which becomes an annotation of it and so another revision. Pure; `loops::configs` and the DaemonSet's strategy drive it.

use std::collections::BTreeMap;

use pod::digest::letters;
use pod::spec::RESTART_ON_CONFIG_CHANGE_ANNOTATION;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Letters of a digest: as many as a node's own has.
const LETTERS: usize = 10;

/// A ConfigMap or Secret of the template's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    pub name: String,
}

/// What a template uses that asks to be rolled, each with whether it may be missing. None: it does not ask. What opens registries is not in it.
pub fn uses(template: &Value) -> Option<BTreeMap<Use, bool>> {
    if template["metadata"]["annotations"][RESTART_ON_CONFIG_CHANGE_ANNOTATION] != "true" {
        return None;
    }
    let mut uses = BTreeMap::new();
    let mut add = |kind: &'static str, reference: &Value, key: &str| {
        let optional = reference["optional"] == true;
        if let Some(name) = reference[key].as_str().filter(|name| !name.is_empty()) {
            let known = uses.entry(Use { kind, name: name.to_owned() }).or_insert(optional);
            *known &= optional;
        }
    };
    let spec = &template["spec"];
    for container in list(&spec["containers"]).chain(list(&spec["initContainers"])) {
        for from in list(&container["envFrom"]) {
            add("ConfigMap", &from["configMapRef"], "name");
            add("Secret", &from["secretRef"], "name");
        }
        for variable in list(&container["env"]) {
            add("ConfigMap", &variable["valueFrom"]["configMapKeyRef"], "name");
            add("Secret", &variable["valueFrom"]["secretKeyRef"], "name");
        }
    }
    for volume in list(&spec["volumes"]) {
        add("ConfigMap", &volume["configMap"], "name");
        add("Secret", &volume["secret"], "secretName");
        for source in list(&volume["projected"]["sources"]) {
            add("ConfigMap", &source["configMap"], "name");
            add("Secret", &source["secret"], "name");
        }
    }
    Some(uses)
}

/// Of what is there, in the order of [`uses`]. None: something is missing without which no pod starts, and running ones stay as they are.
///
/// A Secret's uid, which only its readers know, goes into it: who sees the annotation cannot try passwords.
pub fn digest<'a>(uses: &BTreeMap<Use, bool>, found: impl IntoIterator<Item = Option<&'a Value>>) -> Option<String> {
    let mut sum = Sha256::new();
    for ((Use { kind, name }, optional), found) in uses.iter().zip(found) {
        if found.is_none() && !optional {
            return None;
        }
        let mut feed = |text: &str| {
            // With its length, so that no two values meet.
            sum.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            sum.update(text);
        };
        feed(kind);
        feed(name);
        let Some(found) = found else {
            feed("missing");
            continue;
        };
        if *kind == "Secret" {
            feed(found["metadata"]["uid"].as_str().unwrap_or_default());
        }
        for field in ["data", "binaryData"] {
            feed(&found[field].to_string());
        }
    }
    Some(letters(&sum.finalize(), LETTERS))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({"metadata": {"annotations": {RESTART_ON_CONFIG_CHANGE_ANNOTATION: "true"}}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "envFrom": [{"configMapRef": {"name": "a", "optional": true}}],
                "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            }],
            "volumes": [{"configMap": {"name": "a"}}, {"projected": {"sources": [{"secret": {"name": "o", "optional": true}}]}}],
        }})
    }

    #[test]
    fn only_who_asks_is_rolled_and_only_by_what_its_containers_see() {
        let used = uses(&template()).unwrap();
        let named: Vec<_> = used.iter().map(|(it, optional)| (it.kind, it.name.as_str(), *optional)).collect();
        assert_eq!(named, [("ConfigMap", "a", false), ("Secret", "o", true), ("Secret", "s", false)]);
        let mut silent = template();
        silent["metadata"]["annotations"] = json!({RESTART_ON_CONFIG_CHANGE_ANNOTATION: "false"});
        assert_eq!(uses(&silent), None);
    }

    #[test]
    fn values_change_the_digest_and_labels_do_not() {
        let used = uses(&template()).unwrap();
        let map = |value: &str| json!({"metadata": {"labels": {"v": value}}, "data": {"k": "same"}});
        let secret = |uid: &str, value: &str| json!({"metadata": {"uid": uid}, "data": {"k": value}});
        let of = |a: &Value, o: Option<&Value>, s: &Value| digest(&used, [Some(a), o, Some(s)]);
        let first = of(&map("1"), None, &secret("u", "eA=="));
        assert!(first.as_ref().is_some_and(|text| text.len() == LETTERS));
        assert_eq!(first, of(&map("2"), None, &secret("u", "eA==")));
        assert_ne!(first, of(&map("1"), None, &secret("u", "eQ==")));
        assert_ne!(first, of(&map("1"), Some(&secret("o", "eA==")), &secret("u", "eA==")));
        assert_ne!(first, of(&map("1"), None, &secret("another", "eA==")), "nobody can guess by it");
        assert_eq!(digest(&used, [Some(&map("1")), None, None]), None, "what is missing stops nothing that runs");
    }
}
