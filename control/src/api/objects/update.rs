//! Objects that are replaced, as a whole or by a part of their own (`status`).

use serde_json::Value;

use super::create::Owners;
use super::fields::{check_fields, identify};
use super::{Current, Objects, WriteOptions, Written, bytes_of, key, meta};
use crate::api::apply;
use crate::api::error::ApiError;
use crate::api::invalid::Causes;
use crate::api::kinds::Kind;
use crate::api::validate;
use crate::store::{Expected, Store, StoreError, Write};

/// How often a write is tried that another has overtaken and that may be tried again. Kubernetes tries a patch five times; each try sees what the
/// other has written.
pub(super) const TRIES: usize = 8;

/// Which object is meant, and by which door.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub kind: &'static Kind,
    pub namespace: &'a str,
    pub name: &'a str,
    pub sub: &'a str,
}

/// What an object shall become.
pub(super) struct Draft {
    pub object: Value,
    pub owners: Owners,
}

/// What became of one try.
pub(super) enum Tried {
    Written(Written),
    /// Another has written in between.
    Overtaken,
}

impl Objects {
    /// Replaces an object; `sub`: `status` and the like, or empty. A resourceVersion in it must be the present one.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = Target { kind, namespace, name, sub };
        target.check("update")?;
        for _ in 0..TRIES {
            let Some(current) = self.current(kind, namespace, name).await? else {
                if sub.is_empty() && kind.strategy.update_creates() && is_unconditional(&object) {
                    let mut object = object;
                    identify(kind, namespace, name, &mut object)?;
                    return self.create(kind, namespace, object, options).await;
                }
                return Err(ApiError::not_found(kind, name));
            };
            let draft = Draft { object: object.clone(), owners: Owners::ToBeNoted };
            if let Tried::Written(written) = self.replace(target, current, draft, options).await? {
                return Ok(written);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// One try to put a draft in the place of what there is.
    pub(super) async fn replace(
        &self,
        target: Target<'_>,
        current: Current,
        draft: Draft,
        options: &WriteOptions,
    ) -> Result<Tried, ApiError> {
        let Target { kind, namespace, name, sub } = target;
        let Current { object: old, revision } = current;
        let Draft { object: mut new, owners } = draft;
        identify(kind, namespace, name, &mut new)?;
        target.check_precondition(&new, &old)?;
        meta::set(&mut new, "resourceVersion", revision.to_string());
        let mut warnings = check_fields(kind, &mut new, options)?;
        warnings.extend(self.settle(target, &mut new, &old)?);
        if owners == Owners::ToBeNoted {
            new = apply::update(Some(&old), &new, &self.writer(kind, sub, options).as_writer());
        }
        if new == old {
            return Ok(Tried::Written(Written { object: new, created: false, warnings }));
        }
        if let Some(guard) = &options.guard {
            guard.check(kind, sub, &new, Some(&old)).await?;
        }
        if options.dry_run {
            return Ok(Tried::Written(Written { object: new, created: false, warnings }));
        }
        let value = if may_go(kind, &new) { None } else { Some(bytes_of(kind, &new)?) };
        let write = Write { key: key(kind, namespace, name), value, expected: Expected::At(revision) };
        match self.store().write(write).await {
            Ok(revision) => {
                meta::set(&mut new, "resourceVersion", revision.to_string());
                Ok(Tried::Written(Written { object: new, created: false, warnings }))
            }
            Err(StoreError::Conflict { .. }) => Ok(Tried::Overtaken),
            Err(error) => Err(error.into()),
        }
    }

    /// What this door cannot change is put back, what is left out gets its value, and the rest is judged. Gives warnings.
    fn settle(&self, target: Target<'_>, new: &mut Value, old: &Value) -> Result<Vec<String>, ApiError> {
        let Target { kind, name, sub, .. } = target;
        for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            meta::keep(new, old, field);
        }
        meta::remove(new, "selfLink");
        match sub {
            "" if kind.subresource("status").is_some() => meta::keep_top(new, old, "status"),
            "status" => {
                let mut kept = old.clone();
                meta::keep_top(&mut kept, new, "status");
                let owners = new["metadata"].get("managedFields").cloned();
                if let Some(owners) = owners {
                    meta::set(&mut kept, "managedFields", owners);
                }
                *new = kept;
            }
            _ => {}
        }
        // What a version before this one has written may be without what has a default by now: that is no change of anybody's, neither to be refused nor
        // to be carried out.
        let stored = old;
        let mut old = stored.clone();
        kind.strategy.defaults(&mut old);
        let old = &old;
        kind.strategy.defaults(new);
        kind.strategy.prepare_update(sub, new, old, self.clock().now());
        if kind.strategy.generation_of().iter().any(|field| new.get(*field) != old.get(*field)) {
            meta::raise_generation(new);
        }
        let mut causes = Causes::default();
        validate::metadata(kind, new, &mut causes);
        validate::metadata_update(new, old, &mut causes);
        kind.strategy.validate(new, &mut causes);
        kind.strategy.validate_update(sub, new, old, &mut causes);
        for (field, value) in old.as_object().into_iter().flatten().filter(|(field, _)| *field != "metadata") {
            if new.get(field) == Some(value) {
                meta::keep_top(new, stored, field);
            }
        }
        let mut warnings = Vec::new();
        if causes.is_empty() {
            kind.strategy.judge(new, Some(old), &mut causes, &mut warnings);
        }
        if causes.is_empty() { Ok(warnings) } else { Err(ApiError::invalid(kind, name, causes.into_vec())) }
    }
}

impl Target<'_> {
    /// Whether there is such a door.
    pub(super) fn check(&self, verb: &str) -> Result<(), ApiError> {
        let verbs = match self.sub {
            "" => Some(self.kind.verbs),
            sub => self.kind.subresource(sub).map(|sub| sub.verbs),
        };
        match verbs {
            None => Err(ApiError::no_such_resource()),
            Some(verbs) if !verbs.contains(&verb) => Err(ApiError::method_not_allowed()),
            Some(_) => Ok(()),
        }
    }

    /// The uid and the resourceVersion of the document, where it has them, are those of the object.
    fn check_precondition(&self, new: &Value, old: &Value) -> Result<(), ApiError> {
        let (given, present) = (meta::text(new, "uid"), meta::text(old, "uid"));
        if !given.is_empty() && given != present {
            let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {present}");
            return Err(ApiError::conflict(self.kind, self.name, &why));
        }
        let (given, present) = (meta::text(new, "resourceVersion"), meta::text(old, "resourceVersion"));
        if is_unconditional(new) {
            if self.kind.strategy.takes_unconditional_update() {
                return Ok(());
            }
            let mut causes = Causes::default();
            causes.invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            return Err(ApiError::invalid(self.kind, self.name, causes.into_vec()));
        }
        if given == present { Ok(()) } else { Err(ApiError::modified(self.kind, self.name)) }
    }
}

fn is_unconditional(object: &Value) -> bool {
    matches!(meta::text(object, "resourceVersion"), "" | "0")
}

/// Its deletion was asked for and nothing holds it any more.
pub(super) fn may_go(kind: &'static Kind, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    meta::is_ending(object) && grace == 0 && meta::finalizers(object).is_empty() && kind.strategy.may_go(object)
}
