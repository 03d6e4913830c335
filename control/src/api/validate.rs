//! What must hold of the metadata of every object.

use std::collections::BTreeSet;

use pod::manifest::names;
use serde_json::{Value, json};

use super::invalid::Causes;
use super::kinds::Kind;
use super::strategy::NameRule;

/// Bytes of all annotations together: Kubernetes' bound.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Name, namespace, labels, annotations, finalizers and owners.
pub fn metadata(kind: &Kind, object: &Value, causes: &mut Causes) {
    let metadata = &object["metadata"];
    name(kind, metadata, causes);
    if kind.namespaced {
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        if let Some(why) = names::dns_label(namespace) {
            causes.invalid("metadata.namespace", &metadata["namespace"], why);
        }
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    annotations(&metadata["annotations"], "metadata.annotations", causes);
    for (n, finalizer) in items(&metadata["finalizers"]) {
        let text = finalizer.as_str().unwrap_or_default();
        let field = format!("metadata.finalizers[{n}]");
        match names::qualified(text) {
            Some(why) => causes.invalid(field, finalizer, why),
            None if !text.contains('/') && !["foregroundDeletion", "orphan", "kubernetes"].contains(&text) => {
                causes.invalid(field, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
            }
            None => {}
        }
    }
    owners(&metadata["ownerReferences"], causes);
}

fn name(kind: &Kind, metadata: &Value, causes: &mut Causes) {
    let Some(name) = metadata["name"].as_str().filter(|name| !name.is_empty()) else {
        causes.required("metadata.name", "name or generateName is required");
        return;
    };
    let why = match kind.strategy.name_rule() {
        NameRule::Subdomain => names::dns_subdomain(name),
        NameRule::Label => names::dns_label(name),
        NameRule::Service => names::dns_label(name).or_else(|| {
            let letter = name.starts_with(|c: char| c.is_ascii_lowercase());
            (!letter).then(|| format!("{name:?} must begin with a letter"))
        }),
        NameRule::Path => {
            let bad = name == "." || name == ".." || name.contains(['/', '%']);
            bad.then(|| format!("{name:?} may not be '.' or '..' and may not contain '/' or '%'"))
        }
    };
    if let Some(why) = why {
        causes.invalid("metadata.name", &metadata["name"], why);
    }
}

/// Labels at any place of an object.
pub fn labels(labels: &Value, field: &str, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Some(why) = names::qualified(key) {
            causes.invalid(field, &json!(key), why);
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            causes.invalid(field, value, why);
        }
    }
}

/// Annotations at any place of an object.
pub fn annotations(annotations: &Value, field: &str, causes: &mut Causes) {
    let mut size = 0_usize;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size = size.saturating_add(key.len()).saturating_add(value.as_str().map_or(0, str::len));
        // Kubernetes takes capitals before the slash.
        if let Some(why) = names::qualified(&key.to_lowercase()) {
            causes.invalid(field, &json!(key), why);
        }
    }
    if size > ANNOTATIONS_MAX {
        causes.too_long(field, ANNOTATIONS_MAX);
    }
}

fn owners(owners: &Value, causes: &mut Causes) {
    let mut controllers = 0;
    let mut uids = BTreeSet::new();
    for (n, owner) in items(owners) {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().is_none_or(str::is_empty) {
                causes.required(format!("metadata.ownerReferences[{n}].{key}"), "must not be empty");
            }
        }
        if !uids.insert(owner["uid"].as_str()) {
            causes.duplicate(format!("metadata.ownerReferences[{n}].uid"), &owner["uid"]);
        }
        controllers += usize::from(owner["controller"] == json!(true));
    }
    if controllers > 1 {
        causes.invalid("metadata.ownerReferences", owners, "Only one reference can have Controller set to true");
    }
}

/// What must hold of the metadata of an object that is changed.
pub fn metadata_update(new: &Value, old: &Value, causes: &mut Causes) {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let had: BTreeSet<String> = items(&old["metadata"]["finalizers"]).map(|(_, f)| f.to_string()).collect();
    let added: Vec<String> =
        items(&new["metadata"]["finalizers"]).map(|(_, f)| f.to_string()).filter(|f| !had.contains(f)).collect();
    if !added.is_empty() {
        let why = "no new finalizers can be added if the object is being deleted, found new finalizers";
        causes.forbidden("metadata.finalizers", format!("{why} [{}]", added.join(" ")));
    }
}

/// The items of a list, none where there is no list.
pub fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}
