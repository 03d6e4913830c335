//! What the tests of this folder share: a store in a directory that goes away, and objects in it.

use jiff::Timestamp;
use serde_json::Value;

use super::stored;
use crate::store::any::AnyStore;
use crate::store::embedded::Embedded;
use crate::store::{Expected, Store as _, Write};

pub struct Place {
    _dir: tempfile::TempDir,
    pub store: AnyStore,
}

pub fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap().into();
    Place { _dir: dir, store }
}

/// A moment of 2026 and so many seconds.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

impl Place {
    /// Creates or replaces an object.
    pub async fn put(&self, group: &str, resource: &str, object: &Value) {
        let key = key(group, resource, object);
        let expected = self.store.get(&key).await.unwrap().entry.map_or(Expected::Absent, |e| Expected::At(e.revision));
        let value = Some(object.to_string().into_bytes());
        self.store.write(Write { key, value, expected }).await.unwrap();
    }

    pub async fn delete(&self, group: &str, resource: &str, object: &Value) {
        let key = key(group, resource, object);
        let revision = self.store.get(&key).await.unwrap().entry.unwrap().revision;
        self.store.write(Write { key, value: None, expected: Expected::At(revision) }).await.unwrap();
    }
}

fn key(group: &str, resource: &str, object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    stored(group, resource, text("namespace"), text("name"))
}
