//! `metadata.managedFields`: who has set which fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::Fields;

/// Owners by Update that an object remembers; what older ones had is put together under one name (Kubernetes' number).
const MAX_UPDATERS: usize = 10;
/// Kubernetes' name for that.
const ANCIENT: &str = "ancient-changes";

/// Who owns fields. Ordered as Kubernetes writes them: Apply first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub operation: Operation,
    /// `fieldManager` of the request.
    pub manager: String,
    pub api_version: String,
    /// Empty: the object itself.
    pub subresource: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// What one owner has, and when it changed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub fields: Fields,
    pub time: Option<Timestamp>,
}

pub type Owners = BTreeMap<Owner, Owned>;

/// Reads the entries of an object. None: they are not what a server has written.
pub fn read(object: &Value) -> Option<Owners> {
    let mut owners = Owners::new();
    let Some(entries) = object["metadata"].get("managedFields") else { return Some(owners) };
    for entry in entries.as_array()? {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let owner = Owner {
            operation,
            manager: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        };
        let fields = Fields::of_json(entry.get("fieldsV1")?)?;
        let time = entry.get("time").and_then(Value::as_str).and_then(|t| t.parse().ok());
        owners.insert(owner, Owned { fields, time });
    }
    Some(owners)
}

/// Writes the entries into an object. An owner of nothing is none.
pub fn write(object: &mut Value, owners: &Owners) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let mut owned: Vec<_> = owners.iter().filter(|(_, owned)| !owned.fields.is_empty()).collect();
    owned.sort_by_key(|(owner, owned)| (owner.operation, owned.time));
    let entries: Vec<Value> = owned.into_iter().map(|(owner, owned)| entry(owner, owned)).collect();
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

fn entry(owner: &Owner, owned: &Owned) -> Value {
    let operation = match owner.operation {
        Operation::Apply => "Apply",
        Operation::Update => "Update",
    };
    let mut entry = Map::new();
    entry.insert("manager".into(), json!(owner.manager));
    entry.insert("operation".into(), json!(operation));
    entry.insert("apiVersion".into(), json!(owner.api_version));
    if let Some(time) = owned.time {
        entry.insert("time".into(), json!(format!("{time:.0}")));
    }
    entry.insert("fieldsType".into(), json!("FieldsV1"));
    entry.insert("fieldsV1".into(), owned.fields.to_json());
    if !owner.subresource.is_empty() {
        entry.insert("subresource".into(), json!(owner.subresource));
    }
    Value::Object(entry)
}

/// The oldest owners by Update become one when there are too many.
pub fn bound(owners: &mut Owners) {
    let updaters = |owners: &Owners| {
        let of = |o: &&Owner| o.operation == Operation::Update && o.manager != ANCIENT;
        let mut list: Vec<Owner> = owners.keys().filter(of).cloned().collect();
        list.sort_by_key(|o| owners[o].time);
        list
    };
    let list = updaters(owners);
    for owner in list.iter().take(list.len().saturating_sub(MAX_UPDATERS)) {
        let Some(old) = owners.remove(owner) else { continue };
        let ancient = Owner { manager: ANCIENT.into(), ..owner.clone() };
        let known = owners.entry(ancient).or_insert(Owned { fields: Fields::default(), time: old.time });
        known.fields = known.fields.union(&old.fields);
        known.time = known.time.max(old.time);
    }
}
