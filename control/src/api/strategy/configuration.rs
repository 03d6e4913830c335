//! v1 ConfigMap and Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Strategy, tidy};
use crate::api::invalid::Causes;

/// Bytes of all values of one object: Kubernetes' bound.
const DATA_MAX: usize = 1024 * 1024;
const KEY_MAX: usize = 253;

#[derive(Debug)]
pub struct ConfigMap;

#[derive(Debug)]
pub struct Secret;

impl Strategy for ConfigMap {
    fn defaults(&self, object: &mut Value) {
        empty_away(object);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut size = 0_usize;
        for field in ["data", "binaryData"] {
            for (key, value) in object[field].as_object().into_iter().flatten() {
                judge_key(key, field, causes);
                let length = value.as_str().map_or(0, str::len);
                size = size.saturating_add(if field == "data" { length } else { decoded(length) });
                if field == "data" && object["binaryData"].get(key).is_some() {
                    let why = "duplicate of key present in binaryData";
                    causes.invalid(format!("data[{key}]"), &json!(key), why);
                }
            }
        }
        if size > DATA_MAX {
            causes.too_long("", DATA_MAX);
        }
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        immutable(&["data", "binaryData"], new, old, causes);
    }
}

impl Strategy for Secret {
    fn defaults(&self, object: &mut Value) {
        let given = object.as_object_mut().and_then(|object| object.remove("stringData"));
        for (key, text) in given.as_ref().and_then(Value::as_object).into_iter().flatten() {
            object["data"][key] = json!(STANDARD.encode(text.as_str().unwrap_or_default()));
        }
        if object["type"].as_str().is_none_or(str::is_empty) {
            object["type"] = json!("Opaque");
        }
        empty_away(object);
    }

    fn prepare_create(&self, _object: &mut Value, _now: Timestamp) {}

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut size = 0_usize;
        for (key, value) in object["data"].as_object().into_iter().flatten() {
            judge_key(key, "data", causes);
            size = size.saturating_add(decoded(value.as_str().map_or(0, str::len)));
        }
        if size > DATA_MAX {
            causes.too_long("data", DATA_MAX);
        }
        of_type(object, causes);
    }

    fn validate_update(&self, _sub: &str, new: &Value, old: &Value, causes: &mut Causes) {
        causes.immutable("type", &new["type"], &old["type"]);
        immutable(&["data"], new, old, causes);
    }
}

/// What a type of Secret must have.
fn of_type(object: &Value, causes: &mut Causes) {
    let data = &object["data"];
    let needed: &[&str] = match object["type"].as_str().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotation = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            if annotation.as_str().is_none_or(str::is_empty) {
                causes.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
            &[]
        }
        "kubernetes.io/basic-auth" => {
            if data["username"].is_null() && data["password"].is_null() {
                causes.required("data[username]", "");
                causes.required("data[password]", "");
            }
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed {
        match data[*key].as_str() {
            None => causes.required(format!("data[{key}]"), ""),
            Some(text) if key.starts_with(".docker") => {
                let bytes = STANDARD.decode(text).unwrap_or_default();
                if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() {
                    causes.invalid(format!("data[{key}]"), &json!("<secret contents redacted>"), "must be JSON");
                }
            }
            Some(_) => {}
        }
    }
}

/// What is immutable stays so, and its data with it.
fn immutable(fields: &[&str], new: &Value, old: &Value, causes: &mut Causes) {
    if old["immutable"] != true {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if new[*field] != old[*field] {
            causes.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}

fn judge_key(key: &str, field: &str, causes: &mut Causes) {
    let good = (1..=KEY_MAX).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..");
    if !good {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        causes.invalid(format!("{field}[{key}]"), &json!(key), why);
    }
}

/// Bytes behind so many characters of base64.
fn decoded(length: usize) -> usize {
    length / 4 * 3
}

fn empty_away(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        for field in ["data", "binaryData"] {
            tidy::drop_empty(fields, field);
        }
    }
}
