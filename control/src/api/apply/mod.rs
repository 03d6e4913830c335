//! Server-side apply: many write one object, and each says only what it wants. `metadata.managedFields` knows whose a field is.
//!
//! [`apply`] merges a configuration into an object and takes away what its owner no longer says; [`update`] notes who has changed what by any
//! other write. Both go by the rows of the kind ([`schema`](super::schema)). Whoever drives them has validated the object and gives
//! it its defaults afterwards; fields that only defaults have set are nobody's.
//!
//! A null in a configuration is as if it were not there.

mod fields;
mod managed;
#[cfg(test)]
mod tests;
mod typed;

use jiff::Timestamp;
use serde_json::Value;

use super::schema::{Shape, Type};
use fields::{Element, Fields};
use managed::{Operation, Owned, Owner, Owners};
use typed::Containers;

/// Kubernetes' name for the owner of all that an object had before its first apply.
const BEFORE: &str = "before-first-apply";

/// Fields of the metadata that nobody owns: the server sets them, or they say which object it is.
const SERVERS: [&str; 9] = [
    "clusterName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub kind: &'static Type,
    /// `fieldManager`.
    pub manager: &'a str,
    /// Of the request: `apps/v1`.
    pub api_version: &'a str,
    /// `status`, or empty.
    pub subresource: &'a str,
    /// Fields of the object that this door does not write: `status` at the main one.
    pub ignored: &'a [&'a str],
    pub now: Timestamp,
}

/// What becomes of fields that others own and that this configuration changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    No,
    /// `force=true`: they change hands.
    Yes,
}

/// Why a configuration is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 400 BadRequest.
    #[error("metadata.managedFields must not be in what is applied: leave it out")]
    ManagedFieldsGiven,
    /// 400 BadRequest.
    #[error("{path}: the items of this list need their keys, and each only once")]
    Keys { path: String },
    /// 500: what the store has is not what a server wrote.
    #[error("metadata.managedFields of the stored object cannot be read: remove it with a patch to `[{{}}]`")]
    Stored,
    /// 409 Conflict.
    #[error("Apply failed with {} conflict{}: {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, shown(.0))]
    Conflicts(Vec<Conflict>),
}

/// One field that another owns and would lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    /// `.spec.containers[name="a"].image`.
    pub field: String,
}

fn shown(conflicts: &[Conflict]) -> String {
    let of = |c: &Conflict| {
        let subresource =
            if c.subresource.is_empty() { String::new() } else { format!(" with subresource {:?}", c.subresource) };
        format!("conflict with {:?}{subresource} using {}: {}", c.manager, c.api_version, c.field)
    };
    conflicts.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// Applies a configuration. `live`: the object as it is stored; None: it is made. Gives the object with its new owners; exactly `live` where
/// nothing changes.
pub fn apply(live: Option<&Value>, applied: &Value, writer: &Writer<'_>, force: Force) -> Result<Value, ApplyError> {
    if applied["metadata"].get("managedFields").and_then(Value::as_array).is_some_and(|l| !l.is_empty()) {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    let shape = Some(Shape::Object(writer.kind));
    let applied = without_nulls(applied);
    if let Some(path) = typed::unkeyed(&applied, shape, "") {
        return Err(ApplyError::Keys { path });
    }
    let mut says = applied.clone();
    for field in writer.ignored {
        says.as_object_mut().and_then(|o| o.remove(*field));
    }
    let wanted = own(typed::fields_of(&says, shape, Containers::Items), writer);
    let mut owners = live.map_or(Some(Owners::new()), managed::read).ok_or(ApplyError::Stored)?;
    if let Some(live) = live.filter(|_| owners.is_empty()) {
        let fields = own(typed::fields_of(live, shape, Containers::All), writer);
        owners.insert(writer.owner(BEFORE, Operation::Update), Owned { fields, time: Some(writer.now) });
    }
    let me = writer.owner(writer.manager, Operation::Apply);
    let mine = owners.remove(&me);

    let merged = typed::merge(live, &says, shape);
    let changed = own(typed::compare(live, Some(&merged), shape).set, writer);
    let conflicts = conflicts(&owners, &changed);
    if force == Force::No && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    for owned in owners.values_mut() {
        lose(owned, &changed, writer.now);
    }
    let others = owners.values().fold(Fields::default(), |all, owned| all.union(&owned.fields));
    let kept = others.union(&wanted);
    let before = mine.as_ref().map(|m| m.fields.clone()).unwrap_or_default();
    let mut object =
        typed::prune(&merged, &before.minus(&kept), &kept, shape).unwrap_or(Value::Object(Default::default()));
    let unchanged = live.is_some_and(|live| *live == object) && mine.as_ref().is_some_and(|m| m.fields == wanted);
    let time = if unchanged { mine.and_then(|m| m.time) } else { Some(writer.now) };
    owners.insert(me, Owned { fields: wanted, time });
    managed::write(&mut object, &owners);
    Ok(object)
}

/// Notes who has changed what between two versions of an object by a write that is no apply. Gives `new` with its owners.
///
/// As in Kubernetes a `managedFields` in `new` of `[{}]` gives up all that is known of owners, and one that can be read and has entries is what the write
/// begins with: that is how kubectl makes an applier of who updated. A part of an object (`status`) does not write it.
pub fn update(live: Option<&Value>, new: &Value, writer: &Writer<'_>) -> Value {
    let shape = Some(Shape::Object(writer.kind));
    let given = new["metadata"].get("managedFields").and_then(Value::as_array);
    let given_up =
        given.is_some_and(|list| list.len() == 1 && list[0].as_object().is_some_and(|entry| entry.is_empty()));
    let mut object = new.clone();
    if given_up && live.is_some() {
        managed::write(&mut object, &Owners::new());
        return object;
    }
    let own_door = writer.subresource.is_empty();
    let said = managed::read(new).filter(|owners| own_door && !owners.is_empty());
    let mut owners = said.or_else(|| live.and_then(managed::read)).unwrap_or_default();
    let changes = typed::compare(live, Some(new), shape);
    let (set, removed) = (own(changes.set, writer), own(changes.removed, writer));
    let touched = set.union(&removed);
    let me = writer.owner(writer.manager, Operation::Update);
    for (_, owned) in owners.iter_mut().filter(|(owner, _)| **owner != me) {
        lose(owned, &touched, writer.now);
    }
    if !touched.is_empty() {
        let mine = owners.entry(me).or_insert(Owned { fields: Fields::default(), time: None });
        let fields = mine.fields.minus(&removed).union(&set);
        if fields != mine.fields {
            *mine = Owned { fields, time: Some(writer.now) };
        }
    }
    managed::bound(&mut owners);
    managed::write(&mut object, &owners);
    object
}

/// Another's write takes these fields away from an owner.
fn lose(owned: &mut Owned, taken: &Fields, now: Timestamp) {
    let left = owned.fields.minus(taken);
    if left != owned.fields {
        *owned = Owned { fields: left, time: Some(now) };
    }
}

impl Writer<'_> {
    fn owner(&self, manager: &str, operation: Operation) -> Owner {
        Owner {
            operation,
            manager: manager.to_owned(),
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// Fields that can be owned through this door.
fn own(mut fields: Fields, writer: &Writer<'_>) -> Fields {
    fields.member = false;
    for name in ["apiVersion", "kind"].iter().chain(writer.ignored) {
        fields.below.remove(&Element::Field((*name).to_owned()));
    }
    let metadata = Element::Field("metadata".to_owned());
    if let Some(mut below) = fields.below.remove(&metadata) {
        below.member = false;
        for name in SERVERS {
            below.below.remove(&Element::Field(name.to_owned()));
        }
        fields.put(metadata, below);
    }
    fields
}

fn conflicts(owners: &Owners, changed: &Fields) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (owner, owned) in owners {
        for field in owned.fields.intersection(changed).paths() {
            conflicts.push(Conflict {
                manager: owner.manager.clone(),
                api_version: owner.api_version.clone(),
                subresource: owner.subresource.clone(),
                field,
            });
        }
    }
    conflicts
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        scalar => scalar.clone(),
    }
}
