//! Objects in the form that was asked for.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{self, Accept, OFFERED};
use super::query::Query;
use super::table::{self, Form};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::EventKind;

/// The form of an answer about one kind.
#[derive(Debug, Clone, Copy)]
pub enum Render {
    Whole,
    Table(Form),
    Partial { version: &'static str },
}

impl Render {
    pub fn of(header: &str, query: &Query, kind: &'static Kind) -> Result<Render, ApiError> {
        match accept::accept(header) {
            None => Err(ApiError::not_acceptable(OFFERED)),
            Some(Accept::Whole | Accept::Discovery { .. }) => Ok(Render::Whole),
            Some(Accept::Partial { version }) => Ok(Render::Partial { version }),
            Some(Accept::Table { version }) => {
                let text = query.get("includeObject");
                let include = accept::include(text).ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "includeObject={}: None, Metadata or Object",
                        text.unwrap_or_default()
                    ))
                })?;
                Ok(Render::Table(Form { shown: table::shown(kind), include, version }))
            }
        }
    }

    pub fn object(&self, object: Value, now: Timestamp) -> Value {
        match self {
            Render::Whole => object,
            Render::Partial { version } => table::partial(object, version),
            Render::Table(form) => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                form.table(vec![object], metadata, now, true)
            }
        }
    }

    /// What stands in a list's document before its items.
    pub fn head(&self, kind: &Kind) -> Vec<(&'static str, Value)> {
        let (of, api_version) = match self {
            Render::Whole => (format!("{}List", kind.kind), kind.api_version()),
            Render::Partial { version } => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
            Render::Table(form) => ("Table".to_owned(), format!("meta.k8s.io/{}", form.version)),
        };
        let mut head = vec![("kind", of.into()), ("apiVersion", api_version.into())];
        if let Render::Table(form) = self {
            head.push(("columnDefinitions", form.definitions()));
        }
        head
    }

    /// The field of a list's document that has its items.
    pub fn items(&self) -> &'static str {
        if matches!(self, Render::Table(_)) { "rows" } else { "items" }
    }

    pub fn item(&self, object: Value, now: Timestamp) -> Value {
        match self {
            Render::Table(form) => form.row(object, now),
            Render::Whole => bare(object),
            Render::Partial { version } => table::partial(object, version),
        }
    }

    /// The object of a watch's event. `first`: nothing has been sent yet.
    pub fn event(&self, of: EventKind, object: Value, now: Timestamp, first: bool) -> Value {
        match self {
            Render::Table(form) => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let rows = if of == EventKind::Bookmark { Vec::new() } else { vec![object] };
                form.table(rows, metadata, now, first)
            }
            other => other.object(object, now),
        }
    }
}

/// An item of a list, which says once what its items are.
fn bare(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    object
}
