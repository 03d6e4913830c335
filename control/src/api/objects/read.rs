//! One object, and whole lists of them.

use serde_json::Value;

use super::{ListQuery, Listed, Objects, key, meta};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::selector::FieldSelector;
use crate::selector::Selector;

impl Objects {
    /// `namespace`: empty for kinds that have none.
    pub async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let found = self.current(kind, namespace, name).await?;
        found.map(|current| current.object).ok_or_else(|| ApiError::not_found(kind, name))
    }

    /// The objects of one namespace, or of all, in the order of their keys. All of them are in memory then: [`Objects::listing`] is for many.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<Listed, ApiError> {
        let mut listing = self.listing(kind, namespace, query).await?;
        let mut items = Vec::new();
        while let Some(object) = listing.next().await? {
            items.push(object);
        }
        let (continue_, remaining) = listing.end();
        Ok(Listed { items, revision: listing.revision(), continue_, remaining })
    }
}

/// The key of the one object that a field selector can mean.
pub(super) fn single(kind: &Kind, namespace: Option<&str>, fields: &FieldSelector) -> Option<String> {
    let name = fields.exactly("metadata.name").filter(|name| !name.is_empty() && !name.contains('/'))?;
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).or(fields.exactly("metadata.namespace"));
    match kind.namespaced {
        true => namespace.filter(|n| !n.is_empty() && !n.contains('/')).map(|namespace| key(kind, namespace, name)),
        false => Some(key(kind, "", name)),
    }
}

/// Whether a query means this object.
pub(super) fn selected(object: &Value, labels: &Selector, fields: &FieldSelector) -> bool {
    (labels.is_empty() || labels.matches(&meta::labels(object))) && fields.matches(object)
}
