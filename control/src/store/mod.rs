//! Where the endpoint keeps its objects: one interface, two stores behind it (`embedded`, `etcd`), and one suite of tests for both
//! (`control/tests/store.rs`).
//!
//! It is what Kubernetes' API server needs of etcd and no more: every write of a key gets the next number of one row of revisions; a write says which
//! revision it expects to replace; whoever watches is told of every change in order, from any revision that has not been compacted. Values are
//! bytes: what they mean is `api`'s to know.

use std::future::Future;
use std::sync::Arc;

pub mod any;
pub mod embedded;
pub mod etcd;

/// The largest value, in bytes: etcd's default for a request, and Kubernetes' own bound for that reason.
pub const VALUE_MAX: usize = 1_536 * 1024;
/// The longest key, in bytes. A kind's, a namespace's and an object's name have 253 each at most.
pub const KEY_MAX: usize = 1024;
/// Changes that are handed to a watch at once.
pub const CHANGES_MAX: usize = 500;
/// Bytes of values, old and new, after which no more changes are handed over at once: whoever is told holds them until he has passed them on, and
/// there may be a thousand of those. About forty pods.
pub const CHANGES_BYTES: usize = 256 * 1024;

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// Of the write that made it what it is: Kubernetes' `resourceVersion`.
    pub revision: u64,
    /// Of the write that created it.
    pub created: u64,
}

/// What was found, and as of which revision of the whole store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub entry: Option<Entry>,
    pub revision: u64,
}

/// Which objects to list, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    pub prefix: String,
    /// Only keys behind this one: where an earlier page ended.
    pub after: Option<String>,
    /// At most so many; there may be fewer though there is `more`.
    pub limit: Option<usize>,
    /// As of this revision, so that the pages of one list agree; None: the newest.
    pub at: Option<u64>,
    /// How much is behind the page is wanted too: where a store has to count it, it does only then.
    pub counted: bool,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// What the list is as of.
    pub revision: u64,
    /// There is more behind the last of `entries`.
    pub more: bool,
    /// How much, where the store can say so without reading it.
    pub remaining: Option<u64>,
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub key: String,
    /// None: the object is deleted.
    pub value: Option<Vec<u8>>,
    pub expected: Expected,
}

/// What the writer believes to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the object is created.
    Absent,
    /// The object as this write left it.
    At(u64),
}

/// A change that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub revision: u64,
    /// None: it was deleted.
    pub now: Option<Entry>,
    /// What it was before: a watch with a selector has to know who leaves it.
    pub before: Option<Entry>,
}

/// Changes in the order of their revisions, perhaps none, and the revision up to which nothing is missing: a bookmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    pub changes: Vec<Change>,
    pub revision: u64,
}

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The object is not what the writer expected; `current` is what it is.
    #[error("{key} is at revision {}, which is not what the write expects to replace", current.as_ref().map_or(0, |entry| entry.revision))]
    Conflict { key: String, current: Option<Entry> },
    /// Kubernetes' 410 Gone: the asker has to begin anew with a list.
    #[error("revision {asked} is no longer kept; what came after revision {oldest} is")]
    Compacted { asked: u64, oldest: u64 },
    /// A revision that no write has had yet, as after a store was put back.
    #[error("revision {asked} is none of this store's, which is at {newest}")]
    Future { asked: u64, newest: u64 },
    #[error("{key}: {why}")]
    Unfit { key: String, why: String },
    /// The store holds as much as it may. Deletions are taken, and what does not grow.
    #[error(
        "{key}: the store is full: it holds {bytes} bytes with its history, and may hold {most}; delete what is not needed"
    )]
    Full { key: String, bytes: u64, most: u64 },
    /// It may work later; a write may have happened all the same.
    #[error("the store at {place} cannot {operation}")]
    Unavailable {
        place: String,
        operation: &'static str,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// What every store does. Revisions begin at 1 and only grow.
pub trait Store: Send + Sync {
    type Watch: Watch;

    fn get(&self, key: &str) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// Errors: `Compacted` or `Future` where `at` is not kept or has not been.
    fn list(&self, range: &Range) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// The write's revision, once it is durable.
    fn write(&self, write: Write) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Every change of these keys after a revision, from now on and for ever. Errors: `Compacted`, here or from the watch.
    fn watch(&self, prefix: &str, after: u64) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// Forgets what was before this revision and has been replaced. Watches and lists that need it are told `Compacted`.
    fn compact(&self, upto: u64) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// What a watch is told.
pub trait Watch: Send {
    /// Waits for the next changes. Cancel-safe: what a dropped call would have returned comes with the next one.
    fn next(&mut self) -> impl Future<Output = Result<Changes, StoreError>> + Send;
}

/// Whether a store takes this key and value.
fn check(key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
    let unfit = |why: String| Err(StoreError::Unfit { key: key.to_owned(), why });
    if key.is_empty() || key.len() > KEY_MAX || key.contains('\0') {
        return unfit(format!("a key has 1 to {KEY_MAX} bytes and no NUL"));
    }
    match value.map_or(0, <[u8]>::len) {
        size if size > VALUE_MAX => {
            unfit(format!("its {size} bytes are more than the {VALUE_MAX} that an object may have"))
        }
        _ => Ok(()),
    }
}
