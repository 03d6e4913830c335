//! What has changed in the store, read once for all loops. One watch over every object follows the store; whoever falls behind what is kept is told to
//! read everything anew.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::api::error::ApiError;
use crate::api::kinds::{Kind, kinds};
use crate::api::objects::{Objects, readable};
use crate::store::{self, Entry, Store as _, StoreError, Watch as _};

/// Below it are all objects.
const REGISTRY: &str = "/registry/";
/// Batches that wait for a loop that is busy. Beyond it the watch waits, which costs nothing: it reads on where it stopped.
pub const BATCHES_MAX: usize = 64;
/// KiB of the values of changes that the loops have not looked at yet, all loops together; read as trees they take ten times as much. The largest object
/// with what it was before, or five hundred pods.
const HELD_MAX: u32 = 4 * 1024;
/// After an error of the store: how long until the watch is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// A message to the loops.
#[derive(Debug, Clone)]
pub enum Told {
    /// Read everything as of this revision; changes after it follow.
    Anew {
        revision: u64,
    },
    Changed(Arc<Batch>),
}

/// Changes in the order of the store, and the revision up to which nothing is missing.
#[derive(Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
    pub revision: u64,
    /// Its share of [`HELD_MAX`], given back when the last loop has looked at it.
    room: Option<OwnedSemaphorePermit>,
}

impl Batch {
    pub fn new(changes: Vec<Change>, revision: u64) -> Batch {
        Batch { changes, revision, room: None }
    }

    /// KiB of values.
    fn size(&self) -> u32 {
        let entries = self.changes.iter().flat_map(|change| [&change.now.entry, &change.before.entry]).flatten();
        let bytes = entries.fold(0_usize, |sum, entry| sum.saturating_add(entry.value.len()));
        u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(1, HELD_MAX)
    }
}

/// An object was created, changed or deleted.
#[derive(Debug)]
pub struct Change {
    pub kind: &'static Kind,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
    pub revision: u64,
    now: Side,
    before: Side,
}

/// Read when somebody asks for it.
#[derive(Debug)]
struct Side {
    entry: Option<Entry>,
    object: OnceLock<Option<Value>>,
}

impl Change {
    /// None: it was deleted.
    pub fn now(&self) -> Option<&Value> {
        self.now.object(self.kind)
    }

    /// None: it was created.
    pub fn before(&self) -> Option<&Value> {
        self.before.object(self.kind)
    }

    /// As it is, or as it was last.
    pub fn any(&self) -> Option<&Value> {
        self.now().or_else(|| self.before())
    }

    pub fn is_deletion(&self) -> bool {
        self.now.entry.is_none()
    }

    pub fn is_creation(&self) -> bool {
        self.before.entry.is_none()
    }
}

impl Side {
    fn object(&self, kind: &'static Kind) -> Option<&Value> {
        let read = || readable(kind, self.entry.as_ref()?);
        self.object.get_or_init(read).as_ref()
    }
}

/// Follows the store for all loops.
pub struct Tower {
    objects: Objects,
    /// The kinds by the places of their objects.
    places: BTreeMap<&'static str, &'static Kind>,
    watch: Option<store::any::AnyWatch>,
}

impl Tower {
    pub fn new(objects: Objects) -> Tower {
        let mut places = BTreeMap::new();
        for kind in kinds().iter().filter(|kind| kind.is_stored()) {
            places.entry(kind.place).or_insert(kind);
        }
        Tower { objects, places, watch: None }
    }

    /// What is to be told next. Cancel-safe.
    pub async fn next(&mut self) -> Result<Told, ApiError> {
        let Some(watch) = &mut self.watch else {
            let revision = self.objects.store().get(REGISTRY).await?.revision;
            self.watch = Some(self.objects.changes(REGISTRY, revision).await?);
            return Ok(Told::Anew { revision });
        };
        match watch.next().await {
            // Gone, and nothing says any more what it was.
            Ok(store::Changes { changes, .. }) if changes.iter().any(|it| it.now.is_none() && it.before.is_none()) => {
                self.watch = None;
                tracing::warn!("what was deleted is compacted: the loops begin anew");
                Err(ApiError::expired("what was deleted is compacted"))
            }
            Ok(store::Changes { changes, revision }) => {
                let changes = changes.into_iter().filter_map(|change| self.change(change)).collect();
                Ok(Told::Changed(Arc::new(Batch::new(changes, revision))))
            }
            Err(error) => {
                self.watch = None;
                if matches!(error, StoreError::Compacted { .. }) {
                    tracing::warn!(%error, "the loops begin anew");
                }
                Err(error.into())
            }
        }
    }

    /// Tells the loops until all of them have ended.
    pub async fn run(mut self, loops: Vec<mpsc::Sender<Told>>) {
        let room = Arc::new(Semaphore::new(usize::try_from(HELD_MAX).unwrap_or(usize::MAX)));
        loop {
            match self.next().await {
                Ok(mut told) => {
                    // Nobody else has it yet.
                    if let Told::Changed(batch) = &mut told
                        && let Some(batch) = Arc::get_mut(batch)
                    {
                        batch.room = room.clone().acquire_many_owned(batch.size()).await.ok();
                    }
                    for each in &loops {
                        if each.send(told.clone()).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be followed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn change(&self, change: store::Change) -> Option<Change> {
        let (kind, namespace, name) = self.parse(&change.key)?;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let side = |entry| Side { entry, object: OnceLock::new() };
        Some(Change {
            kind,
            namespace,
            name,
            revision: change.revision,
            now: side(change.now),
            before: side(change.before),
        })
    }

    /// `/registry/apps/daemonsets/default/d`.
    fn parse<'k>(&self, key: &'k str) -> Option<(&'static Kind, &'k str, &'k str)> {
        let rest = key.strip_prefix(REGISTRY)?;
        let (group_end, _) = rest.match_indices('/').nth(1)?;
        let (place, rest) = rest.split_at(group_end);
        let kind = *self.places.get(place)?;
        let rest = rest.strip_prefix('/')?;
        let (namespace, name) = if kind.namespaced { rest.split_once('/')? } else { ("", rest) };
        Some((kind, namespace, name))
    }
}
