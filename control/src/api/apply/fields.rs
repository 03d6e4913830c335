//! Sets of fields of an object, as a tree: who owns what. On the wire they are FieldsV1 of `metadata.managedFields`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One step from a value to a value in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// `f:<name>`: a field of an object or a key of a map.
    Field(String),
    /// `k:<json>`: the item of a keyed list with these keys, an object in JSON with its members in order.
    Key(String),
    /// `v:<json>`: this value of a set.
    Value(String),
    /// `i:<index>`: the item at this place. Never made here, but kept.
    Index(String),
}

/// A value's own membership and that of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// The value itself is in the set.
    pub member: bool,
    pub below: BTreeMap<Element, Fields>,
}

impl Fields {
    /// The value itself and nothing in it.
    pub fn leaf() -> Fields {
        Fields { member: true, below: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Sets what is known of an element; an empty set is not kept.
    pub fn put(&mut self, element: Element, fields: Fields) {
        if !fields.is_empty() {
            self.below.insert(element, fields);
        }
    }

    pub fn union(&self, other: &Fields) -> Fields {
        let mut all = Fields { member: self.member || other.member, below: self.below.clone() };
        for (element, fields) in &other.below {
            let merged = all.below.get(element).map_or_else(|| fields.clone(), |known| known.union(fields));
            all.below.insert(element.clone(), merged);
        }
        all
    }

    /// What is here and not in `other`.
    pub fn minus(&self, other: &Fields) -> Fields {
        self.keep(other, |here, there| here && !there)
    }

    /// What is here and in `other`.
    pub fn intersection(&self, other: &Fields) -> Fields {
        self.keep(other, |here, there| here && there)
    }

    fn keep(&self, other: &Fields, rule: fn(bool, bool) -> bool) -> Fields {
        static NOTHING: Fields = Fields { member: false, below: BTreeMap::new() };
        let mut kept = Fields { member: rule(self.member, other.member), below: BTreeMap::new() };
        for (element, fields) in &self.below {
            kept.put(element.clone(), fields.keep(other.below.get(element).unwrap_or(&NOTHING), rule));
        }
        kept
    }

    /// Every member as a person writes it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, path: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(if path.is_empty() { ".".to_owned() } else { path.to_owned() });
        }
        for (element, fields) in &self.below {
            let step = match element {
                Element::Field(name) => format!(".{name}"),
                Element::Key(keys) => format!("[{}]", shown(keys)),
                Element::Value(value) => format!("[={value}]"),
                Element::Index(index) => format!("[{index}]"),
            };
            fields.collect(&format!("{path}{step}"), paths);
        }
    }

    /// As FieldsV1.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        if self.member && !self.below.is_empty() {
            object.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, fields) in &self.below {
            let key = match element {
                Element::Field(name) => format!("f:{name}"),
                Element::Key(keys) => format!("k:{keys}"),
                Element::Value(value) => format!("v:{value}"),
                Element::Index(index) => format!("i:{index}"),
            };
            object.insert(key, fields.to_json());
        }
        Value::Object(object)
    }

    /// From FieldsV1. None: it is not.
    pub fn of_json(value: &Value) -> Option<Fields> {
        let mut root = Fields::read(value)?;
        root.member = false;
        Some(root)
    }

    fn read(value: &Value) -> Option<Fields> {
        let object = value.as_object()?;
        let mut fields = Fields { member: object.is_empty() || object.contains_key("."), below: BTreeMap::new() };
        for (key, below) in object.iter().filter(|(key, _)| *key != ".") {
            let (kind, text) = key.split_once(':')?;
            let element = match kind {
                "f" => Element::Field(text.to_owned()),
                // Written anew, so that the same keys are the same element however they were written.
                "k" => Element::Key(
                    serde_json::from_str::<BTreeMap<String, Value>>(text)
                        .ok()
                        .and_then(|m| serde_json::to_string(&m).ok())?,
                ),
                "v" => Element::Value(serde_json::from_str::<Value>(text).ok()?.to_string()),
                "i" => Element::Index(text.to_owned()),
                _ => return None,
            };
            fields.below.insert(element, Fields::read(below)?);
        }
        Some(fields)
    }
}

/// `name="a",port=80` of `{"name":"a","port":80}`.
fn shown(keys: &str) -> String {
    let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
    keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
