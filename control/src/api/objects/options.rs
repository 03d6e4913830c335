//! What is asked for and what comes back.

use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::super::error::ApiError;
use super::super::kinds::Kind;
use super::super::selector::FieldSelector;
use crate::selector::Selector;

/// Which objects a list means.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub labels: Selector,
    pub fields: FieldSelector,
    pub limit: Option<usize>,
    /// Of the page before.
    pub continue_: Option<String>,
    /// As of this revision or a newer one; None (or 0): the newest.
    pub revision: Option<u64>,
    /// As of exactly this revision: `resourceVersionMatch=Exact`.
    pub exact: bool,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub items: Vec<Value>,
    /// Of the list's metadata; never 0.
    pub revision: u64,
    pub continue_: Option<String>,
    /// `remainingItemCount`, where it is known.
    pub remaining: Option<u64>,
}

/// Which changes a watch tells.
#[derive(Debug, Clone, Default)]
pub struct WatchQuery {
    pub labels: Selector,
    pub fields: FieldSelector,
    /// What comes after this revision. None: what there is now as ADDED, then what comes (Kubernetes' "" and "0").
    pub after: Option<u64>,
    /// `sendInitialEvents`: what there is now (at least as new as `after`) as ADDED, then a bookmark that says so, then what comes.
    pub send_initial: bool,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
}

/// How a write is done, and by whom.
#[derive(Clone, Default)]
pub struct WriteOptions {
    /// Everything but the write itself.
    pub dry_run: bool,
    /// `fieldManager`; empty: nobody's name is known.
    pub manager: String,
    pub validation: FieldValidation,
    /// The identity's name, for the record of who wrote.
    pub user: String,
    /// Fields that the body had twice, as `spec.replicas`: only who has read the bytes knows.
    pub duplicates: Vec<String>,
    /// Asked before the write with what would be written.
    pub guard: Option<Arc<dyn Guard>>,
}

/// Decides about a write by what would be written: no role that gives more than its writer has, no foreign pod's status by a node.
pub trait Guard: Send + Sync {
    /// `old`: None where the object is created. Called once for each try of a write.
    fn check<'a>(
        &'a self,
        kind: &'static Kind,
        sub: &'a str,
        new: &'a Value,
        old: Option<&'a Value>,
    ) -> Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>>;
}

/// `fieldValidation`: what becomes of fields that the kind does not have, or that are there twice. They are never kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    /// Kubernetes' default.
    #[default]
    Warn,
    Strict,
}

/// A changed object.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub object: Value,
    /// It was created: 201.
    pub created: bool,
    /// For headers `Warning: 299 - "…"`.
    pub warnings: Vec<String>,
}

/// How an object is to be changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// Server-side apply.
    Apply {
        configuration: Value,
        /// Fields of others change hands.
        force: bool,
    },
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace: Option<i64>,
    pub preconditions: Preconditions,
    /// None: what the object's finalizers say, else Background.
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

/// What the object must be; otherwise 409.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub revision: Option<String>,
}

/// `propagationPolicy`: what becomes of the objects that it owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// It goes at once, they follow.
    Background,
    /// They go first.
    Foreground,
    /// They stay, without their owner.
    Orphan,
}

/// An object whose deletion was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Deleted {
    /// As it is now, or as it was last.
    pub object: Value,
    /// It is no more; otherwise it waits for its grace to end or its finalizers to go.
    pub gone: bool,
}

impl std::fmt::Debug for WriteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteOptions")
            .field("dry_run", &self.dry_run)
            .field("manager", &self.manager)
            .field("validation", &self.validation)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
