//! Objects that end: at once, after a grace, or when their finalizers are gone.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::update::{TRIES, may_go};
use super::{
    Current, DeleteOptions, Deleted, ListQuery, Objects, Preconditions, Propagation, bytes_of, key, meta, object_of,
};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::clock::seconds;
use crate::store::{Expected, Store, StoreError, Write};

/// The finalizers of the garbage collection.
pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

impl Objects {
    /// Asks for an object's end.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        if let Some(why) = kind.strategy.keeps(name) {
            return Err(ApiError::forbidden(kind, name, why));
        }
        for _ in 0..TRIES {
            let current = match self.current(kind, namespace, name).await {
                Err(error) if options.grace == Some(0) && !options.dry_run => {
                    return self.remove_unreadable(kind, namespace, name, error).await;
                }
                found => found?.ok_or_else(|| ApiError::not_found(kind, name))?,
            };
            options.preconditions.check(kind, name, &current.object)?;
            let next = end(kind, &current.object, options, self.clock().now());
            if let Some(deleted) = self.carry_out(kind, namespace, name, current, next, options).await? {
                return Ok(deleted);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// All objects of a query, one after the other. `with` is given each as it was found. The revision of which they were found.
    pub async fn delete_collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &ListQuery,
        options: &DeleteOptions,
        mut with: impl FnMut(Value) + Send,
    ) -> Result<u64, ApiError> {
        let mut listing = self.listing(kind, namespace, query).await?;
        while let Some(object) = listing.next().await? {
            let of = (meta::text(&object, "namespace"), meta::text(&object, "name"));
            match self.delete(kind, of.0, of.1, options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(_) | Err(_) => {}
            }
            with(object);
        }
        Ok(listing.revision())
    }

    /// What the store has cannot be read, so that nothing can be judged: it goes where that is asked for at once, or nobody could ever mend it.
    /// `why`: given back where it is not so.
    async fn remove_unreadable(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        why: ApiError,
    ) -> Result<Deleted, ApiError> {
        let key = key(kind, namespace, name);
        let Some(entry) = self.store().get(&key).await?.entry.filter(|entry| object_of(kind, entry).is_err()) else {
            return Err(why);
        };
        tracing::warn!(key, "an object that cannot be read is deleted");
        let revision = self.store().write(Write { key, value: None, expected: Expected::At(entry.revision) }).await?;
        let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind});
        meta::set(&mut object, "name", name);
        if kind.namespaced {
            meta::set(&mut object, "namespace", namespace);
        }
        meta::set(&mut object, "resourceVersion", revision.to_string());
        Ok(Deleted { object, gone: true })
    }

    /// None: another has written in between.
    async fn carry_out(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        current: Current,
        next: End,
        options: &DeleteOptions,
    ) -> Result<Option<Deleted>, ApiError> {
        let (mut object, value, gone) = match next {
            End::Stays => return Ok(Some(Deleted { object: current.object, gone: false })),
            End::Goes(object) => (object, None, true),
            End::Changes(object) => {
                let bytes = bytes_of(kind, &object)?;
                (object, Some(bytes), false)
            }
        };
        if options.dry_run {
            return Ok(Some(Deleted { object, gone }));
        }
        let write = Write { key: key(kind, namespace, name), value, expected: Expected::At(current.revision) };
        match self.store().write(write).await {
            Ok(revision) => {
                meta::set(&mut object, "resourceVersion", revision.to_string());
                Ok(Some(Deleted { object, gone }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Preconditions {
    fn check(&self, kind: &'static Kind, name: &str, object: &Value) -> Result<(), ApiError> {
        let fields = [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.revision)];
        for (shown, field, wanted) in fields {
            let present = meta::text(object, field);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != present) {
                let why = format!(
                    "the {shown} in the precondition ({wanted}) does not match the {shown} in record ({present}). The object \
                     might have been deleted and then recreated"
                );
                return Err(ApiError::conflict(kind, name, &why));
            }
        }
        Ok(())
    }
}

/// What a deletion does to an object now.
#[derive(Debug, PartialEq)]
enum End {
    /// Its end is under way, and nothing about it changes.
    Stays,
    Changes(Value),
    Goes(Value),
}

/// Kubernetes' rules: a grace can only be shortened, and what the dependents need is said by finalizers, which can only be set before.
fn end(kind: &'static Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> End {
    let mut ended = object.clone();
    if meta::is_ending(object) && repropagate(&mut ended, options.propagation) {
        return finish(kind, ended);
    }
    if meta::is_ending(object) {
        let present = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if present == 0 {
            return if may_go(kind, object) { End::Goes(ended) } else { End::Stays };
        }
        return match options.grace.map(|asked| if asked < 0 { 1 } else { asked }) {
            Some(asked) if asked < present => {
                // From when it was first asked for, which stays to be read from the two.
                let since = SignedDuration::from_secs(present);
                let end = meta::text(object, "deletionTimestamp").parse::<Timestamp>();
                let first = end.ok().and_then(|end| end.checked_sub(since).ok()).unwrap_or(now);
                stamp(&mut ended, first, asked);
                finish(kind, ended)
            }
            Some(_) | None => End::Stays,
        };
    }
    propagate(&mut ended, options.propagation);
    let held = kind.strategy.begin_end(&mut ended);
    let grace = kind.strategy.grace(object, options.grace);
    if grace.is_none_or(|seconds| seconds == 0) && !held && meta::finalizers(&ended).is_empty() {
        return End::Goes(ended);
    }
    stamp(&mut ended, now, grace.unwrap_or(0));
    if ended["metadata"]["generation"].is_i64() {
        meta::raise_generation(&mut ended);
    }
    finish(kind, ended)
}

fn finish(kind: &'static Kind, ended: Value) -> End {
    if may_go(kind, &ended) { End::Goes(ended) } else { End::Changes(ended) }
}

fn stamp(object: &mut Value, now: Timestamp, grace: i64) {
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    meta::set(object, "deletionTimestamp", seconds(at));
    meta::set(object, "deletionGracePeriodSeconds", grace);
}

/// Somebody who has waited for the dependents wants something else of them now. What is being emptied is not left behind: some of it has gone. False:
/// nothing changes.
fn repropagate(object: &mut Value, propagation: Option<Propagation>) -> bool {
    let before = meta::finalizers(object);
    let waits = |finalizer: &str| before.iter().any(|it| it == finalizer);
    let changes = match propagation {
        Some(Propagation::Background) => waits(FOREGROUND) || waits(ORPHAN),
        Some(Propagation::Foreground) => waits(ORPHAN),
        Some(Propagation::Orphan) | None => false,
    };
    if changes {
        propagate(object, propagation);
    }
    changes
}

/// The finalizer by which the garbage collection knows what becomes of the dependents.
fn propagate(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers = meta::finalizers(object);
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    meta::set_finalizers(object, &finalizers);
}
