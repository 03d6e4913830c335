//! Objects seen through the rows of their kind: which fields there are, what two versions differ in, and how they are put together.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{Element, Fields};
use crate::api::interleave::interleave;
use crate::api::schema::{Apply, PLAIN, Shape, Type, key_default};

/// What a value is to server-side apply.
enum View<'a> {
    /// One value, however large.
    Leaf,
    /// Fields, or the keys of a map.
    Object(&'a Map<String, Value>, &'static Type),
    Set(&'a [Value]),
    Keyed(Vec<(String, &'a Value)>, &'static Type),
}

fn view<'a>(value: &'a Value, shape: Option<Shape>) -> View<'a> {
    match (value, shape) {
        (Value::Object(map), None) => View::Object(map, &PLAIN),
        (Value::Object(map), Some(Shape::Object(of))) => View::Object(map, of),
        (Value::Array(items), Some(Shape::List(list))) => match list.apply {
            Apply::Atomic => View::Leaf,
            Apply::Set => View::Set(items),
            Apply::Map(keys) => {
                let keyed: Option<Vec<_>> = items.iter().map(|item| Some((identity(item, keys)?, item))).collect();
                // A list without its keys, or with one of them twice, cannot be taken apart.
                let keyed = keyed.filter(|k| k.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len() == k.len());
                keyed.map_or(View::Leaf, |items_by_key| View::Keyed(items_by_key, list.item))
            }
        },
        _ => View::Leaf,
    }
}

/// The keys of an item as JSON, members in order. None: it lacks one that has no default.
fn identity(item: &Value, keys: &[&str]) -> Option<String> {
    let item = item.as_object()?;
    let of = |key: &&str| {
        let value = item.get(*key).cloned().or_else(|| key_default(key).map(Value::from))?;
        Some(((*key).to_owned(), value))
    };
    let keys: BTreeMap<String, Value> = keys.iter().map(of).collect::<Option<_>>()?;
    serde_json::to_string(&keys).ok()
}

fn field(of: &'static Type, name: &str) -> Option<Shape> {
    of.field(name)
}

/// Where a list of the value cannot be taken apart by its keys: the path, for whoever applies it.
pub fn unkeyed(value: &Value, shape: Option<Shape>, path: &str) -> Option<String> {
    match (view(value, shape), shape) {
        (View::Leaf, Some(Shape::List(list))) if value.is_array() && list.apply != Apply::Atomic => {
            Some(path.to_owned())
        }
        (View::Object(map, of), _) => {
            map.iter().find_map(|(name, value)| unkeyed(value, field(of, name), &format!("{path}.{name}")))
        }
        (View::Keyed(items, of), _) => {
            let below = |(n, (_, item)): (usize, &(String, &Value))| {
                unkeyed(item, Some(Shape::Object(of)), &format!("{path}[{n}]"))
            };
            items.iter().enumerate().find_map(below)
        }
        (View::Set(_) | View::Leaf, _) => None,
    }
}

/// Whether objects and lists that are not empty are members themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containers {
    /// Only items of keyed lists: what an applied configuration owns.
    Items,
    /// All: what comes into being or goes.
    All,
}

/// Every field of a value.
pub fn fields_of(value: &Value, shape: Option<Shape>, containers: Containers) -> Fields {
    let mut fields = Fields { member: containers == Containers::All, below: BTreeMap::new() };
    match view(value, shape) {
        View::Leaf => {}
        View::Object(map, of) => {
            for (name, value) in map {
                fields.put(Element::Field(name.clone()), fields_of(value, field(of, name), containers));
            }
        }
        View::Set(items) => {
            for item in items {
                fields.put(Element::Value(item.to_string()), Fields::leaf());
            }
        }
        View::Keyed(items, of) => {
            for (key, item) in items {
                let below = fields_of(item, Some(Shape::Object(of)), containers);
                fields.put(Element::Key(key), Fields { member: true, ..below });
            }
        }
    }
    fields.member |= fields.below.is_empty();
    fields
}

/// What two versions of an object differ in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Added, or with another value.
    pub set: Fields,
    pub removed: Fields,
}

impl Changes {
    fn put(&mut self, element: Element, changes: Changes) {
        self.set.put(element.clone(), changes.set);
        self.removed.put(element, changes.removed);
    }
}

pub fn compare(old: Option<&Value>, new: Option<&Value>, shape: Option<Shape>) -> Changes {
    let (old, new) = match (old, new) {
        (None, None) => return Changes::default(),
        (None, Some(new)) => return Changes { set: fields_of(new, shape, Containers::All), ..Changes::default() },
        (Some(old), None) => return Changes { removed: fields_of(old, shape, Containers::All), ..Changes::default() },
        (Some(old), Some(new)) if old == new => return Changes::default(),
        (Some(old), Some(new)) => (old, new),
    };
    let mut changes = Changes::default();
    match (view(old, shape), view(new, shape)) {
        (View::Object(was, of), View::Object(is, _)) => {
            for name in was.keys().chain(is.keys().filter(|k| !was.contains_key(*k))) {
                let below = compare(was.get(name), is.get(name), field(of, name));
                changes.put(Element::Field(name.clone()), below);
            }
        }
        (View::Set(was), View::Set(is)) => {
            let texts = |items: &[Value]| items.iter().map(Value::to_string).collect::<BTreeSet<_>>();
            let (was, is) = (texts(was), texts(is));
            is.difference(&was).for_each(|v| changes.set.put(Element::Value(v.clone()), Fields::leaf()));
            was.difference(&is).for_each(|v| changes.removed.put(Element::Value(v.clone()), Fields::leaf()));
        }
        (View::Keyed(was, of), View::Keyed(is, _)) => {
            let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) = (was.into_iter().collect(), is.into_iter().collect());
            for key in was.keys().chain(is.keys().filter(|k| !was.contains_key(*k))) {
                let below = compare(was.get(key).copied(), is.get(key).copied(), Some(Shape::Object(of)));
                changes.put(Element::Key(key.clone()), below);
            }
        }
        _ => {
            changes.set = fields_of(new, shape, Containers::All);
            changes.removed = fields_of(old, shape, Containers::All).minus(&changes.set);
        }
    }
    changes
}

/// `live` with what `applied` says. Lists stand in the order of `applied`; what only `live` has keeps its place.
pub fn merge(live: Option<&Value>, applied: &Value, shape: Option<Shape>) -> Value {
    let Some(live) = live else { return applied.clone() };
    match (view(live, shape), view(applied, shape)) {
        (View::Object(was, of), View::Object(says, _)) => {
            let mut merged = was.clone();
            for (name, value) in says {
                merged.insert(name.clone(), merge(was.get(name), value, field(of, name)));
            }
            Value::Object(merged)
        }
        (View::Set(was), View::Set(says)) => {
            let keyed = |items: &[Value]| items.iter().map(|v| (v.to_string(), v.clone())).collect::<Vec<_>>();
            let mut once = BTreeSet::new();
            let mut says = keyed(says);
            says.retain(|(id, _)| once.insert(id.clone()));
            Value::Array(in_order(keyed(was), says))
        }
        (View::Keyed(was, of), View::Keyed(says, _)) => {
            let known: BTreeMap<&String, &Value> = was.iter().map(|(id, item)| (id, *item)).collect();
            let merged = |(id, item): &(String, &Value)| {
                (id.clone(), merge(known.get(id).copied(), item, Some(Shape::Object(of))))
            };
            let says = says.iter().map(merged).collect();
            Value::Array(in_order(was.iter().map(|(id, item)| (id.clone(), (*item).clone())).collect(), says))
        }
        _ => applied.clone(),
    }
}

fn in_order(was: Vec<(String, Value)>, says: Vec<(String, Value)>) -> Vec<Value> {
    let named: BTreeSet<&String> = says.iter().map(|(id, _)| id).collect();
    let places: BTreeMap<&String, usize> = was.iter().enumerate().map(|(n, (id, _))| (id, n)).collect();
    let others = was.iter().enumerate().filter(|(_, (id, _))| !named.contains(id));
    let others = others.map(|(n, (_, item))| (item.clone(), n)).collect();
    let named = says.iter().map(|(id, item)| (item.clone(), places.get(id).copied())).collect();
    interleave(named, others)
}

/// `value` without the fields of `gone`. What `kept` has stays, and so does all on the way there; objects and lists that lose everything go
/// too. None: nothing is left.
pub fn prune(value: &Value, gone: &Fields, kept: &Fields, shape: Option<Shape>) -> Option<Value> {
    static NOTHING: Fields = Fields { member: false, below: BTreeMap::new() };
    if gone.is_empty() {
        return Some(value.clone());
    }
    let view = view(value, shape);
    // An item goes with everything in it, also what nobody owns; so does what was one value.
    if gone.member && kept.is_empty() && (gone.below.is_empty() || matches!(view, View::Leaf)) {
        return None;
    }
    let child = |element: &Element, value: &Value, shape: Option<Shape>| {
        let gone = gone.below.get(element).unwrap_or(&NOTHING);
        let kept = kept.below.get(element).unwrap_or(&NOTHING);
        let item = matches!(element, Element::Key(_) | Element::Value(_));
        if item && gone.member && kept.is_empty() { None } else { prune(value, gone, kept, shape) }
    };
    let pruned = match view {
        View::Leaf => return Some(value.clone()),
        View::Object(map, of) => {
            let left = map.iter().filter_map(|(name, value)| {
                Some((name.clone(), child(&Element::Field(name.clone()), value, field(of, name))?))
            });
            Value::Object(left.collect())
        }
        View::Set(items) => {
            let left = items.iter().filter_map(|item| child(&Element::Value(item.to_string()), item, None));
            Value::Array(left.collect())
        }
        View::Keyed(items, of) => {
            let left =
                items.into_iter().filter_map(|(id, item)| child(&Element::Key(id), item, Some(Shape::Object(of))));
            Value::Array(left.collect())
        }
    };
    let empty = pruned.as_object().is_some_and(Map::is_empty) || pruned.as_array().is_some_and(Vec::is_empty);
    (!empty || kept.member).then_some(pruned)
}
