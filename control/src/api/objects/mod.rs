//! The one way to read and write objects: for the HTTP door, the loops and the fleet alike. Who may do it has been decided before.
//!
//! An object is kept as JSON under `/registry/<group or core>/<resource>/<namespace>/<name>`, without its resourceVersion: that is the store's
//! revision of the key.

mod act;
mod create;
mod delete;
mod fields;
mod listing;
pub mod meta;
mod options;
mod patch;
mod read;
mod update;
mod watch;

use std::sync::Arc;

use serde_json::Value;

use super::depth::{DEPTH_MAX, is_deeper};
use super::error::ApiError;
use super::kinds::Kind;
use crate::clock::Clock;
use crate::store::any::{AnyStore, AnyWatch};
use crate::store::{Entry, Store};

pub use create::success;
pub use delete::{FOREGROUND, ORPHAN};
#[cfg(test)]
pub(super) use fields::without_nulls;
pub use listing::Listing;
pub use options::{
    DeleteOptions, Deleted, FieldValidation, Guard, ListQuery, Listed, Patch, Preconditions, Propagation, WatchQuery,
    WriteOptions, Written,
};
pub use watch::{EventKind, WatchEvent, Watching};

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: AnyStore,
    clock: Clock,
}

/// An object as it was read, and the revision to replace.
#[derive(Debug, Clone)]
struct Current {
    object: Value,
    revision: u64,
}

impl Objects {
    pub fn new(store: impl Into<AnyStore>, clock: Clock) -> Objects {
        Objects { inner: Arc::new(Inner { store: store.into(), clock }) }
    }

    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// For what is no object: compaction, backup, the authority of an endpoint whose store is etcd.
    pub fn store(&self) -> &AnyStore {
        &self.inner.store
    }

    /// Every change of the store below this prefix ([`prefix`]) after a revision, for the loops. [`object_of`] reads what it tells.
    pub async fn changes(&self, prefix: &str, after: u64) -> Result<AnyWatch, ApiError> {
        Ok(self.store().watch(prefix, after).await?)
    }

    async fn current(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Option<Current>, ApiError> {
        let found = self.store().get(&key(kind, namespace, name)).await?;
        let read = |entry: Entry| Ok(Current { revision: entry.revision, object: object_of(kind, &entry)? });
        found.entry.map(read).transpose()
    }
}

/// Where all objects of a kind are kept, or those of one namespace.
pub fn prefix(kind: &Kind, namespace: Option<&str>) -> String {
    match namespace.filter(|namespace| kind.namespaced && !namespace.is_empty()) {
        Some(namespace) => format!("/registry/{}/{namespace}/", kind.place),
        None => format!("/registry/{}/", kind.place),
    }
}

/// Where one object is kept.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}{name}", prefix(kind, Some(namespace)))
}

/// What the store has, as an object of this kind with its resourceVersion.
pub fn object_of(kind: &'static Kind, entry: &Entry) -> Result<Value, ApiError> {
    let broken = |error| {
        let what = kind.resource;
        ApiError::internal(format!(
            "{} cannot be read: {error}; until it is deleted (kubectl delete {what} NAME --grace-period=0 --force) no list of {what} is whole",
            entry.key
        ))
    };
    let mut object: Value = serde_json::from_slice(&entry.value).map_err(broken)?;
    meta::set(&mut object, "resourceVersion", entry.revision.to_string());
    Ok(kind.strategy.outward(object))
}

/// For the loops and the fleet: what cannot be read is as if it were not there, or one entry would stop them all; whoever asks for it by
/// name is told why.
pub fn readable(kind: &'static Kind, entry: &Entry) -> Option<Value> {
    object_of(kind, entry).inspect_err(|error| tracing::warn!(why = error.message, "an object is passed over")).ok()
}

/// What is written of an object. Error: 400 where it is nested too deep to be read again.
fn bytes_of(kind: &'static Kind, object: &Value) -> Result<Vec<u8>, ApiError> {
    if is_deeper(object, DEPTH_MAX) {
        let what = format!("the {} is nested deeper than {DEPTH_MAX} levels, its managedFields included", kind.kind);
        return Err(ApiError::bad_request(what));
    }
    let mut object = kind.strategy.inward(object.clone());
    meta::remove(&mut object, "resourceVersion");
    serde_json::to_vec(&object).map_err(|error| ApiError::internal(error.to_string()))
}
