//! `metadata` of a document.

use serde_json::{Map, Value};

/// Its metadata, which is made where there is none.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("it was made an object above")
}

pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    of(object).insert(field.to_owned(), value.into());
}

pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(field)
}

/// A field of the metadata as text; empty where there is none.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The field of `new` becomes what it is in `old`.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    match old["metadata"].get(field) {
        Some(value) => set(new, field, value.clone()),
        None => {
            remove(new, field);
        }
    }
}

/// The top field of `new` becomes what it is in `old`.
pub fn keep_top(new: &mut Value, old: &Value, field: &str) {
    let Some(object) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            object.insert(field.to_owned(), value.clone());
        }
        None => {
            object.remove(field);
        }
    }
}

pub fn labels(object: &Value) -> std::collections::BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object();
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(|f| Some(f.as_str()?.to_owned())).collect()
}

pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        remove(object, "finalizers");
    } else {
        set(object, "finalizers", finalizers.to_vec());
    }
}

/// Its deletion has been asked for.
pub fn is_ending(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// What its owner wants has changed.
pub fn raise_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    set(object, "generation", generation.saturating_add(1));
}
