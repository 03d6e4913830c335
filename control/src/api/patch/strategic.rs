//! Strategic merge patch: a merge patch that knows which lists have keys, with directives of its own.
//!
//! - `$patch: replace | delete | merge` in an object: take the patch's object, empty it, or merge as usual. In an item of a keyed list `delete`
//!   removes the item of that key, and an item `{$patch: replace}` makes the patch's list take the place of the whole.
//! - `$retainKeys: [...]`: fields of the object that are not named go.
//! - `$deleteFromPrimitiveList/<field>: [...]`: these values go from a list of scalars.
//! - `$setElementOrder/<field>: [...]`: the order of a merged list; items that it does not name keep their places among the named.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::PatchError;
use super::order::Order;
use crate::api::schema::{List, Patch, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// `application/strategic-merge-patch+json`. `of`: the type of the object's kind.
pub fn strategic(object: &Value, patch: &Value, of: &'static Type) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(refused("", "a strategic merge patch is a JSON object"));
    };
    Ok(Value::Object(objects(object.clone(), patch, of, "")?))
}

pub(super) fn refused(path: &str, reason: impl Into<String>) -> PatchError {
    PatchError::Directive {
        path: if path.is_empty() { "patch".into() } else { path.to_owned() },
        reason: reason.into(),
    }
}

fn objects(
    mut object: Map<String, Value>,
    patch: &Map<String, Value>,
    of: &'static Type,
    path: &str,
) -> Result<Map<String, Value>, PatchError> {
    match directive(patch, path)? {
        Some(Directive::Replace) => return new_object(patch, path),
        Some(Directive::Delete) => return Ok(Map::new()),
        Some(Directive::Merge) | None => {}
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain(&mut object, patch, retained, path)?;
    }
    let mut orders = Vec::new();
    for (key, wanted) in patch {
        if let Some(field) = key.strip_prefix(SET_ORDER)
            && let Some(Shape::List(list)) = of.field(field)
        {
            let order = Order::read(wanted, &list, &join(path, field))?;
            order.check(patch.get(field), &join(path, field))?;
            let before = object.get(field).and_then(Value::as_array).map(|items| order.places_in(items));
            orders.push((field, order, before.unwrap_or_default()));
        }
    }
    for (key, value) in patch {
        if is_directive(key) {
            continue;
        }
        let below = join(path, key);
        let merged = match (object.remove(key), value) {
            (_, Value::Null) => continue,
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(objects(old, new, of.object(key), &below)?),
            (Some(Value::Array(old)), Value::Array(new)) => match of.field(key) {
                Some(Shape::List(list)) => Value::Array(lists(old, new, &list, &below)?),
                Some(Shape::Object(_) | Shape::Atomic(_)) | None => fresh(value, &below)?,
            },
            (_, new) => fresh(new, &below)?,
        };
        object.insert(key.clone(), merged);
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            remove_scalars(&mut object, field, value, &join(path, key))?;
        }
    }
    // Last, so that what is put in order is what the patch has made.
    for (field, order, before) in orders {
        if let Some(Value::Array(items)) = object.remove(field) {
            object.insert(field.to_owned(), Value::Array(order.arrange(items, &before)));
        }
    }
    Ok(object)
}

/// Two lists of the same field. Items of the patch stand in its order, the others where they were.
fn lists(old: Vec<Value>, new: &[Value], list: &List, path: &str) -> Result<Vec<Value>, PatchError> {
    match list.patch {
        Patch::Replace => fresh_items(new, path),
        Patch::Union => {
            let order = Order::of(new, list);
            let before = order.places_in(&old);
            let mut merged = old;
            let mut known: BTreeSet<String> = merged.iter().map(Value::to_string).collect();
            merged.extend(new.iter().filter(|v| known.insert(v.to_string())).cloned());
            Ok(order.arrange(merged, &before))
        }
        Patch::ByKey(key) => keyed(old, new, key, list, path),
    }
}

fn keyed(old: Vec<Value>, new: &[Value], key: &str, list: &List, path: &str) -> Result<Vec<Value>, PatchError> {
    let mut plain = Vec::new();
    let mut deleted = BTreeSet::new();
    let mut replaces = false;
    for (n, item) in new.iter().enumerate() {
        let path = format!("{path}[{n}]");
        let Value::Object(item) = item else { return Err(refused(&path, "an item of this list is an object")) };
        match directive(item, &path)? {
            None => plain.push((path, item)),
            Some(Directive::Replace) => replaces = true,
            Some(Directive::Delete) => {
                deleted.insert(identity(item, key, &path)?);
            }
            Some(Directive::Merge) => return Err(refused(&path, "$patch: merge has no meaning in an item of a list")),
        }
    }
    if replaces {
        return plain.into_iter().map(|(path, item)| Ok(Value::Object(new_object(item, &path)?))).collect();
    }
    let order = Order::of(new, list);
    let before = order.places_in(&old);
    let kept = old.into_iter().filter(|item| item.get(key).is_none_or(|k| !deleted.contains(&k.to_string())));
    let mut merged: Vec<Value> = kept.collect();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for (n, item) in merged.iter().enumerate() {
        if let Some(value) = item.get(key) {
            at.entry(value.to_string()).or_insert(n);
        }
    }
    for (path, item) in plain {
        let identity = identity(item, key, &path)?;
        match at.get(&identity).map(|n| &mut merged[*n]) {
            Some(Value::Object(known)) => {
                let known_item = std::mem::take(known);
                *known = objects(known_item, item, list.item, &path)?;
            }
            Some(_) | None => {
                at.insert(identity, merged.len());
                merged.push(Value::Object(new_object(item, &path)?));
            }
        }
    }
    Ok(order.arrange(merged, &before))
}

/// The value of the merge key, as JSON.
fn identity(item: &Map<String, Value>, key: &str, path: &str) -> Result<String, PatchError> {
    let value =
        item.get(key).ok_or_else(|| refused(path, format!("the item has no {key}, by which it would be found")))?;
    Ok(value.to_string())
}

/// What a patch puts where nothing was: without directives and without fields to be removed.
fn fresh(value: &Value, path: &str) -> Result<Value, PatchError> {
    Ok(match value {
        Value::Object(object) => Value::Object(new_object(object, path)?),
        Value::Array(items) => Value::Array(fresh_items(items, path)?),
        scalar => scalar.clone(),
    })
}

fn new_object(patch: &Map<String, Value>, path: &str) -> Result<Map<String, Value>, PatchError> {
    if let Some(Directive::Delete) = directive(patch, path)? {
        return Ok(Map::new());
    }
    let members = patch.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
    members.map(|(key, value)| Ok((key.clone(), fresh(value, &join(path, key))?))).collect()
}

fn fresh_items(items: &[Value], path: &str) -> Result<Vec<Value>, PatchError> {
    let mut made = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let path = format!("{path}[{n}]");
        let dropped = match item {
            Value::Object(object) => match directive(object, &path)? {
                Some(Directive::Delete) => true,
                // It only says what is done with the list.
                Some(Directive::Replace | Directive::Merge) => object.len() == 1,
                None => false,
            },
            _ => false,
        };
        if !dropped {
            made.push(fresh(item, &path)?);
        }
    }
    Ok(made)
}

/// Fields that `$retainKeys` does not name go; what the patch sets must be named.
fn retain(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
    path: &str,
) -> Result<(), PatchError> {
    let path = join(path, RETAIN_KEYS);
    let names: Option<BTreeSet<&str>> = retained.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let names = names.ok_or_else(|| refused(&path, "must be a list of field names"))?;
    let set = patch.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
    if let Some((key, _)) = set.into_iter().find(|(key, _)| !names.contains(key.as_str())) {
        return Err(refused(&path, format!("does not name {key}, which the patch sets")));
    }
    object.retain(|key, _| names.contains(key.as_str()));
    Ok(())
}

fn remove_scalars(object: &mut Map<String, Value>, field: &str, values: &Value, path: &str) -> Result<(), PatchError> {
    let values = values.as_array().ok_or_else(|| refused(path, "must be a list of the values to be removed"))?;
    let gone: BTreeSet<String> = values.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = object.get_mut(field) {
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

enum Directive {
    Replace,
    Delete,
    Merge,
}

fn directive(patch: &Map<String, Value>, path: &str) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(text)) => match text.as_str() {
            "replace" => Ok(Some(Directive::Replace)),
            "delete" => Ok(Some(Directive::Delete)),
            "merge" => Ok(Some(Directive::Merge)),
            other => Err(refused(path, format!("$patch must be replace, delete or merge, not {other}"))),
        },
        Some(_) => Err(refused(path, "$patch must be replace, delete or merge")),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
