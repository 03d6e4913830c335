//! Whether a document is of the kind and at the place that the request names, and what becomes of fields that the kind does not have.

use serde_json::Value;

use super::{FieldValidation, Objects, WriteOptions, meta};
use crate::api::apply::Writer;
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::quantity;
use crate::api::strategy::tidy;
use crate::api::typed::Mistyped;

/// Unknown fields that are named; there may be any number.
const NAMED_MAX: usize = 20;

/// The document says what the path says; what it leaves out is filled in. `name`: empty where the path has none.
pub(super) fn identify(kind: &Kind, namespace: &str, name: &str, object: &mut Value) -> Result<(), ApiError> {
    let Some(document) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!("the body is no {}: it must be a JSON object", kind.kind)));
    };
    if !matches!(document.get("metadata"), None | Some(Value::Null | Value::Object(_))) {
        return Err(ApiError::bad_request(format!("metadata of the {} must be a JSON object", kind.kind)));
    }
    let api_version = kind.api_version();
    for (field, what, wanted) in [("apiVersion", "API version", api_version.as_str()), ("kind", "kind", kind.kind)] {
        let given = document.entry(field).or_insert(Value::Null);
        match given.as_str() {
            None | Some("") => *given = wanted.into(),
            Some(given) if given == wanted => {}
            Some(given) => {
                let message = format!("the {what} in the data ({given}) does not match the expected {what} ({wanted})");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    match meta::text(object, "namespace") {
        _ if !kind.namespaced => {
            meta::remove(object, "namespace");
        }
        "" => meta::set(object, "namespace", namespace),
        given if given == namespace => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: {given} is not {namespace}"
            )));
        }
    }
    match meta::text(object, "name") {
        _ if name.is_empty() => {}
        "" => meta::set(object, "name", name),
        given if given == name => {}
        given => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
    }
    Ok(())
}

/// Takes away what the kind does not have, and nulls. Gives warnings; an error where a value has the wrong type, or where unknown fields are
/// not allowed.
pub(super) fn check_fields(
    kind: &'static Kind,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    quantity::canonical_in(object);
    let unknown = (kind.check)(object).map_err(|Mistyped { path, reason }| {
        let of = format!("{} in version {:?} cannot be handled as a {}", kind.kind, kind.version, kind.kind);
        ApiError::bad_request(format!("{of}: {path}: {reason}"))
    })?;
    for place in &unknown {
        place.remove_from(object);
    }
    without_nulls(object, kind.strategy.verbatim());
    if let Some(metadata) = object.get_mut("metadata") {
        tidy::metadata(metadata);
    }
    let unknown = unknown.iter().map(|place| format!("unknown field \"{place}\""));
    let duplicate = options.duplicates.iter().map(|path| format!("duplicate field \"{path}\""));
    let found: Vec<String> = unknown.chain(duplicate).take(NAMED_MAX).collect();
    match options.validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(found),
        FieldValidation::Strict if found.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => {
            let of = format!("{} in version {:?} cannot be handled as a {}", kind.kind, kind.version, kind.kind);
            Err(ApiError::bad_request(format!("{of}: strict decoding error: {}", found.join(", "))))
        }
    }
}

/// A null is as if it were not there, except in what is kept as it came.
pub(in crate::api) fn without_nulls(object: &mut Value, verbatim: &[&str]) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|_, value| !value.is_null());
    for (_, value) in fields.iter_mut().filter(|(field, _)| !verbatim.contains(&field.as_str())) {
        nulls_below(value);
    }
}

fn nulls_below(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(nulls_below);
        }
        Value::Array(items) => items.iter_mut().for_each(nulls_below),
        _ => {}
    }
}

/// Who writes, for `metadata.managedFields`; owns what [`Writer`] borrows.
pub(super) struct Noted<'a> {
    kind: &'static Kind,
    manager: &'a str,
    api_version: String,
    sub: &'a str,
    now: jiff::Timestamp,
}

impl Objects {
    pub(super) fn writer<'a>(&self, kind: &'static Kind, sub: &'a str, options: &'a WriteOptions) -> Noted<'a> {
        let manager = if options.manager.is_empty() { "unknown" } else { &options.manager };
        Noted { kind, manager, api_version: kind.api_version(), sub, now: self.clock().now() }
    }
}

impl Noted<'_> {
    pub(super) fn as_writer(&self) -> Writer<'_> {
        let ignored: &[&str] = match self.sub {
            "" if self.kind.subresource("status").is_some() => &["status"],
            "status" => &["spec"],
            _ => &[],
        };
        Writer {
            kind: self.kind.schema,
            manager: self.manager,
            api_version: &self.api_version,
            subresource: self.sub,
            ignored,
            now: self.now,
        }
    }
}
