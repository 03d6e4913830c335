//! A list as it is read: page by page as of one revision, and object by object, so that whoever passes them on holds no more than one of them as a tree.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::read::{selected, single};
use super::{ListQuery, Objects, object_of, prefix};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::selector::FieldSelector;
use crate::selector::Selector;
use crate::store::{Entry, Range, Store, StoreError};

/// Objects that are read from the store at once. As the store has them a pod takes some 4 kB; as a tree it takes up to 100.
pub(super) const AT_ONCE: usize = 100;

/// A list that is being read. The first page has been.
#[derive(Debug)]
pub struct Listing {
    objects: Objects,
    kind: &'static Kind,
    labels: Selector,
    fields: FieldSelector,
    range: Range,
    /// How many objects may still be given.
    left: usize,
    /// What has been read and not been looked at.
    read: VecDeque<Entry>,
    /// There is something behind that, and how much where it is known.
    more: bool,
    behind: Option<u64>,
    revision: u64,
}

impl Objects {
    /// Begins a list, by its first page: whatever can be wrong with the query is said here. Errors: 400, 410, 504.
    pub async fn listing(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<Listing, ApiError> {
        let mut listing = Listing {
            objects: self.clone(),
            kind,
            labels: query.labels.clone(),
            fields: query.fields.clone(),
            range: Range { prefix: prefix(kind, namespace), ..Range::default() },
            left: query.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX),
            read: VecDeque::new(),
            more: false,
            behind: None,
            revision: 0,
        };
        let start = query.continue_.as_deref().map(Continue::read).transpose()?;
        let not_older = query.revision.filter(|_| !query.exact && start.is_none());
        let one = single(kind, namespace, &query.fields).filter(|_| !query.exact && start.is_none());
        match (&start, one) {
            (Some(Continue { revision, after }), _) => {
                listing.range.at = *revision;
                listing.range.after = Some(format!("{}{after}", listing.range.prefix));
                listing.page().await.map_err(|error| too_old(error, after))?;
            }
            // Only one object can be meant: it is looked up.
            (None, Some(place)) => {
                let found = self.store().get(&place).await?;
                listing.read.extend(found.entry);
                listing.revision = found.revision;
            }
            (None, None) => {
                listing.range.at = query.revision.filter(|_| query.exact);
                listing.page().await?;
            }
        }
        if let Some(asked) = not_older.filter(|asked| *asked > listing.revision()) {
            return Err(ApiError::future_revision(asked, listing.revision));
        }
        Ok(listing)
    }
}

impl Listing {
    /// What the list is as of; never 0.
    pub fn revision(&self) -> u64 {
        self.revision.max(1)
    }

    /// The next object, in the order of their keys. Error: the store does not answer, or has forgotten this revision meanwhile.
    pub async fn next(&mut self) -> Result<Option<Value>, ApiError> {
        while self.left > 0 {
            let Some(entry) = self.read.pop_front() else {
                if !self.more {
                    break;
                }
                self.page().await?;
                continue;
            };
            let object = object_of(self.kind, &entry)?;
            self.range.after = Some(entry.key);
            if selected(&object, &self.labels, &self.fields) {
                self.left -= 1;
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// After the last object: `continue` and `remainingItemCount` of the list's metadata.
    pub fn end(&self) -> (Option<String>, Option<u64>) {
        if !self.more && self.read.is_empty() {
            return (None, None);
        }
        // Of what is behind, nobody knows how much a selector means.
        let all = self.labels.is_empty() && self.fields == FieldSelector::default();
        let read = u64::try_from(self.read.len()).unwrap_or(u64::MAX);
        let remaining = self.behind.filter(|_| all).map(|behind| behind.saturating_add(read));
        let last = self.range.after.as_deref().and_then(|key| key.strip_prefix(&self.range.prefix)).unwrap_or_default();
        (Some(Continue { revision: Some(self.revision()), after: last.to_owned() }.shown()), remaining)
    }

    async fn page(&mut self) -> Result<(), StoreError> {
        let limit = AT_ONCE.min(self.left.saturating_add(1));
        self.range.limit = Some(limit);
        // Only the last page is asked for what is behind it: that is counted.
        self.range.counted = self.left <= limit;
        let page = self.objects.store().list(&self.range).await?;
        (self.more, self.behind, self.revision) = (page.more, page.remaining, page.revision);
        self.range.at = Some(page.revision);
        self.read.extend(page.entries);
        // An empty page with more behind it would be asked for again and again.
        self.more &= !self.read.is_empty();
        Ok(())
    }
}

/// What a continued list answers when its revision is forgotten: with a token by which a client that can live with it goes on as of now.
fn too_old(error: StoreError, after: &str) -> ApiError {
    match error {
        StoreError::Compacted { .. } => {
            let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                 without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
                 Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted \
                 between the time the first chunk was returned and now may show up in the list.";
            let mut error = ApiError::expired(message);
            let goes_on = Continue { revision: None, after: after.to_owned() };
            error.details.get_or_insert_default().continue_ = Some(goes_on.shown());
            error
        }
        error => error.into(),
    }
}

/// Where the next page begins: a token that only we read.
struct Continue {
    /// None: as of whatever is the newest then.
    revision: Option<u64>,
    /// The last key of the page, without the list's prefix: a token cannot lead out of its list.
    after: String,
}

impl Continue {
    fn shown(&self) -> String {
        // Kubernetes writes -1 for the newest.
        let revision = self.revision.map_or(json!(-1), |revision| json!(revision));
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn read(text: &str) -> Result<Continue, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let read = token.and_then(|token| {
            let after = token["start"].as_str().filter(|start| !start.contains('\0'))?.to_owned();
            let revision = match token["rv"].as_i64()? {
                -1 => None,
                revision => Some(u64::try_from(revision).ok().filter(|revision| *revision > 0)?),
            };
            Some(Continue { revision, after })
        });
        read.ok_or_else(|| ApiError::bad_request("continue key is not valid: it is the one of no list of this server"))
    }
}
