//! One object, and lists of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{ListQuery, Listed, Objects, key, meta, object_of, prefix};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::selector::FieldSelector;
use crate::selector::Selector;
use crate::store::{Range, Store, StoreError};

/// Objects that are read from the store at once: the rest of a list is not in memory twice, and of a watch that begins with what there is not more than
/// these; a pod as a tree takes up to 100 kB.
pub(super) const AT_ONCE: usize = 100;

impl Objects {
    /// `namespace`: empty for kinds that have none.
    pub async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let found = self.current(kind, namespace, name).await?;
        found.map(|current| current.object).ok_or_else(|| ApiError::not_found(kind, name))
    }

    /// The objects of one namespace, or of all, in the order of their keys.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<Listed, ApiError> {
        if query.continue_.is_none()
            && !query.exact
            && let Some(place) = single(kind, namespace, &query.fields)
        {
            return self.list_one(kind, &place, query).await;
        }
        let start = query.continue_.as_deref().map(Continue::read).transpose()?;
        let mut range = Range { prefix: prefix(kind, namespace), ..Range::default() };
        match &start {
            Some(Continue { revision, after }) => {
                range.at = Some(*revision);
                range.after = Some(format!("{}{after}", range.prefix));
            }
            None if query.exact => range.at = query.revision,
            None => {}
        }
        let limit = query.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut items = Vec::new();
        loop {
            range.limit = Some(AT_ONCE.min(limit.saturating_add(1)));
            let page = self.store().list(&range).await.map_err(|error| too_old(error, start.is_some()))?;
            range.at = Some(page.revision);
            if start.is_none() && !query.exact && query.revision.is_some_and(|asked| asked > page.revision.max(1)) {
                return Err(ApiError::future_revision(query.revision.unwrap_or(0), page.revision));
            }
            let (count, mut read) = (page.entries.len(), 0);
            for entry in page.entries {
                read += 1;
                let object = object_of(kind, &entry)?;
                let chosen = selected(&object, &query.labels, &query.fields);
                range.after = Some(entry.key);
                if chosen {
                    items.push(object);
                }
                if items.len() >= limit {
                    break;
                }
            }
            let more = page.more || read < count;
            if !more || items.len() >= limit {
                let continue_ = more.then(|| Continue::after(&range).shown());
                // Of what is behind, nobody knows how much a selector means.
                let all = query.labels.is_empty() && query.fields == FieldSelector::default();
                let left = u64::try_from(count.saturating_sub(read)).unwrap_or(u64::MAX);
                let remaining = page.remaining.filter(|_| more && all).map(|behind| behind.saturating_add(left));
                return Ok(Listed { items, revision: page.revision.max(1), continue_, remaining });
            }
        }
    }

    /// Only one object can be meant: it is looked up.
    async fn list_one(&self, kind: &'static Kind, place: &str, query: &ListQuery) -> Result<Listed, ApiError> {
        let found = self.store().get(place).await?;
        if let Some(asked) = query.revision.filter(|asked| *asked > found.revision.max(1)) {
            return Err(ApiError::future_revision(asked, found.revision));
        }
        let object = found.entry.map(|entry| object_of(kind, &entry)).transpose()?;
        let items = object.into_iter().filter(|object| selected(object, &query.labels, &query.fields)).collect();
        Ok(Listed { items, revision: found.revision.max(1), continue_: None, remaining: None })
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

fn too_old(error: StoreError, continued: bool) -> ApiError {
    match error {
        StoreError::Compacted { .. } if continued => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        ),
        error => error.into(),
    }
}

/// Where the next page begins: a token that only we read.
struct Continue {
    revision: u64,
    /// The last key of the page, without the list's prefix: a token cannot lead out of its list.
    after: String,
}

impl Continue {
    fn after(range: &Range) -> Continue {
        let last = range.after.as_deref().and_then(|key| key.strip_prefix(&range.prefix)).unwrap_or_default();
        Continue { revision: range.at.unwrap_or(0), after: last.to_owned() }
    }

    fn shown(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn read(text: &str) -> Result<Continue, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let read = token.and_then(|token| {
            let after = token["start"].as_str().filter(|start| !start.contains('\0'))?;
            Some(Continue { revision: token["rv"].as_u64().filter(|rv| *rv > 0)?, after: after.to_owned() })
        });
        read.ok_or_else(|| ApiError::bad_request("continue key is not valid: it is the one of no list of this server"))
    }
}
