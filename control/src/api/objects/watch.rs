//! What happens to the objects of a query, from a revision on.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::listing::AT_ONCE;
use super::read::{selected, single};
use super::{Objects, WatchQuery, meta, object_of, prefix};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::store::any::AnyWatch;
use crate::store::{Change, Changes, Entry, Range, Store, StoreError, Watch};

/// How long a watch that asked for bookmarks is told nothing: what it knows stays younger than what is compacted.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// Says that what there was is told. Kubernetes' own.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Events of one watch, in the order in which they happened.
#[derive(Debug)]
pub struct Watching {
    objects: Objects,
    kind: &'static Kind,
    query: WatchQuery,
    prefix: String,
    /// The one object that is meant, where it is only one.
    single: Option<String>,
    phase: Phase,
    queue: VecDeque<Due>,
    /// Up to here everything has been told, and up to there the watcher has been told so.
    known: u64,
    marked: u64,
    mark_at: Instant,
}

#[derive(Debug)]
enum Phase {
    /// What there is now is being read, page by page as of one revision.
    Listing {
        at: Option<u64>,
        after: Option<String>,
    },
    Opening {
        after: u64,
    },
    Following(AnyWatch),
}

/// What is still to be told. It stays as the store gave it until it is: what waits would take twenty times the room as trees.
#[derive(Debug)]
enum Due {
    There(Entry),
    Changed(Change),
    /// Everything up to this revision has been told.
    Known(u64),
    /// So has everything that there was.
    InitialEnd,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    pub kind: EventKind,
    /// Of a Deleted one: as it was last, with the revision of its end. Of a bookmark: nothing but the kind and the revision.
    pub object: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl EventKind {
    /// `ADDED`, as in a watch's answer.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
            EventKind::Bookmark => "BOOKMARK",
        }
    }
}

impl Objects {
    /// Begins a watch. Error: 410 where what came after `after` is not kept any more.
    pub async fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &WatchQuery,
    ) -> Result<Watching, ApiError> {
        let single = single(kind, namespace, &query.fields);
        let prefix = single.clone().unwrap_or_else(|| prefix(kind, namespace));
        let phase = match query.after.filter(|after| *after > 0) {
            Some(after) if !query.send_initial => Phase::Following(self.follow(&prefix, after).await?),
            _ => Phase::Listing { at: None, after: None },
        };
        let known = query.after.unwrap_or(0);
        Ok(Watching {
            objects: self.clone(),
            kind,
            query: query.clone(),
            prefix,
            single,
            phase,
            queue: VecDeque::new(),
            known,
            marked: known,
            mark_at: Instant::now() + BOOKMARK_EVERY,
        })
    }

    async fn follow(&self, prefix: &str, after: u64) -> Result<AnyWatch, ApiError> {
        match self.store().watch(prefix, after).await {
            // A list of a store without any write is said to be of revision 1.
            Err(StoreError::Future { asked: 1, newest: 0 }) => Ok(self.store().watch(prefix, 0).await?),
            other => Ok(other?),
        }
    }
}

impl Watching {
    /// Waits for the next event. Cancel-safe: what a dropped call would have returned comes with the next one. After an error the watch is over.
    pub async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        loop {
            if let Some(due) = self.queue.pop_front() {
                if let Some(event) = self.told(due)? {
                    self.mark_at = Instant::now() + BOOKMARK_EVERY;
                    return Ok(event);
                }
                continue;
            }
            match &mut self.phase {
                Phase::Listing { .. } => self.list().await?,
                Phase::Opening { after } => {
                    let after = *after;
                    self.phase = Phase::Following(self.objects.follow(&self.prefix, after).await?);
                }
                Phase::Following(watch) => {
                    let due = self.query.bookmarks && self.known > self.marked;
                    // Both arms are cancel-safe: the watch by its own promise, the time by what it is.
                    let changes = tokio::select! {
                        changes = watch.next() => changes?,
                        () = sleep_until(self.mark_at), if due => {
                            self.mark_at = Instant::now() + BOOKMARK_EVERY;
                            return Ok(self.bookmark(false));
                        }
                    };
                    let Changes { changes, revision } = changes;
                    self.queue.extend(changes.into_iter().map(Due::Changed));
                    self.queue.push_back(Due::Known(revision));
                }
            }
        }
    }

    /// One page of what there is.
    async fn list(&mut self) -> Result<(), ApiError> {
        let Phase::Listing { at, after } = &self.phase else { return Ok(()) };
        let (prefix, after) = (self.prefix.clone(), after.clone());
        let range = Range { prefix, after, limit: Some(AT_ONCE), at: *at, ..Range::default() };
        let page = self.objects.store().list(&range).await?;
        if let Some(asked) = self.query.after.filter(|asked| *asked > page.revision.max(1)) {
            return Err(ApiError::future_revision(asked, page.revision));
        }
        let last = page.entries.last().map(|entry| entry.key.clone());
        self.queue.extend(page.entries.into_iter().map(Due::There));
        if page.more {
            self.phase = Phase::Listing { at: Some(page.revision), after: last };
        } else {
            self.phase = Phase::Opening { after: page.revision };
            self.queue.push_back(Due::Known(page.revision.max(1)));
            self.queue.extend(self.query.send_initial.then_some(Due::InitialEnd));
        }
        Ok(())
    }

    /// None: the watcher is not told of it.
    fn told(&mut self, due: Due) -> Result<Option<WatchEvent>, ApiError> {
        match due {
            Due::There(entry) if self.is_meant(&entry.key) => {
                let object = object_of(self.kind, &entry)?;
                let chosen = selected(&object, &self.query.labels, &self.query.fields);
                Ok(chosen.then_some(WatchEvent { kind: EventKind::Added, object }))
            }
            Due::There(_) => Ok(None),
            Due::Changed(change) => self.event(&change),
            Due::Known(revision) => {
                self.known = self.known.max(revision);
                Ok(None)
            }
            Due::InitialEnd => Ok(Some(self.bookmark(true))),
        }
    }

    fn is_meant(&self, key: &str) -> bool {
        self.single.as_deref().is_none_or(|single| single == key)
    }

    fn bookmark(&mut self, initial_end: bool) -> WatchEvent {
        let mut metadata = json!({"resourceVersion": self.known.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        self.marked = self.known;
        WatchEvent { kind: EventKind::Bookmark, object }
    }

    /// What a change is to whoever sees only what the query means: an object that begins to match is added, one that no longer does is deleted.
    fn event(&self, change: &Change) -> Result<Option<WatchEvent>, ApiError> {
        if !self.is_meant(&change.key) {
            return Ok(None);
        }
        let chosen = |object: &Value| selected(object, &self.query.labels, &self.query.fields);
        let now = match &change.now {
            Some(entry) => Some(object_of(self.kind, entry)?).filter(&chosen),
            None => None,
        };
        if let Some(object) = now {
            let was = match &change.before {
                // Without selectors what it was makes no difference.
                Some(_) if self.query.labels.is_empty() && self.query.fields == Default::default() => true,
                Some(before) => chosen(&object_of(self.kind, before)?),
                // What it was is compacted: it was there, and a client takes a MODIFIED of what it does not know for ADDED.
                None => change.now.as_ref().is_some_and(|entry| entry.created != entry.revision),
            };
            let kind = if was { EventKind::Modified } else { EventKind::Added };
            return Ok(Some(WatchEvent { kind, object }));
        }
        let before = match &change.before {
            Some(before) => before,
            // It is gone, and nothing says any more what it was: the client has to list anew, or it keeps it for ever.
            None if change.now.is_none() => return Err(ApiError::expired("what was deleted is compacted")),
            None => return Ok(None),
        };
        let mut object = object_of(self.kind, before)?;
        if !chosen(&object) {
            return Ok(None);
        }
        meta::set(&mut object, "resourceVersion", change.revision.to_string());
        Ok(Some(WatchEvent { kind: EventKind::Deleted, object }))
    }
}
