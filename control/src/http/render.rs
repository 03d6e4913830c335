//! Objects in the form that was asked for.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::accept::{self, Accept, OFFERED};
use super::query::Query;
use super::table::{self, Form};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::{EventKind, Listed};

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

    pub fn list(&self, kind: &Kind, listed: Listed, now: Timestamp) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), listed.revision.to_string().into());
        if let Some(continue_) = listed.continue_ {
            metadata.insert("continue".to_owned(), continue_.into());
        }
        if let Some(remaining) = listed.remaining {
            metadata.insert("remainingItemCount".to_owned(), remaining.into());
        }
        match self {
            Render::Table(form) => form.table(listed.items, metadata.into(), now, true),
            Render::Whole => {
                let items: Vec<Value> = listed.items.into_iter().map(bare).collect();
                json!({
                    "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                    "metadata": metadata, "items": items,
                })
            }
            Render::Partial { version } => {
                let items: Vec<Value> = listed.items.into_iter().map(|item| table::partial(item, version)).collect();
                json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata, "items": items,
                })
            }
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
