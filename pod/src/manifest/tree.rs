//! A document as a tree in which every value knows its line.
//!
//! Made by [`super::yaml`], [`super::json`] and from a record's JSON; read by everything after them. It must not know
//! what the fields mean.

use serde_json::Number;

/// A value and the line that a person should look at: for a field the line of its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub line: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the document's order. A key that stands twice is in here twice: [`Node::duplicates`] reports it.
    Map(Vec<(String, Node)>),
}

/// A key that stands twice in one mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    pub path: String,
    pub line: u32,
    pub first_line: u32,
}

impl Node {
    /// The value of a key; the first one where it stands twice. None for other values than mappings.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// A text, when it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// How many levels of lists and mappings this is, itself included.
    pub fn height(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Node::height).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|(_, v)| v.height()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// All keys that stand twice in one mapping, anywhere below.
    pub fn duplicates(&self) -> Vec<Duplicate> {
        let mut found = Vec::new();
        find_duplicates(self, &mut String::new(), &mut found);
        found
    }

    /// The tree as JSON, as kubectl would send it. Numbers that JSON does not have become null.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Integer(i) => match (i64::try_from(*i), u64::try_from(*i)) {
                (Ok(signed), _) => Json::Number(signed.into()),
                (_, Ok(unsigned)) => Json::Number(unsigned.into()),
                _ => Json::Null,
            },
            Value::Float(f) => Number::from_f64(*f).map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }

    /// A tree of a record's JSON. All its lines are `line`, where the document stood when it was read.
    pub fn from_json(json: &serde_json::Value, line: u32) -> Node {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(signed), _) => Value::Integer(signed.into()),
                (_, Some(unsigned)) => Value::Integer(unsigned.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(|i| Node::from_json(i, line)).collect()),
            Json::Object(map) => Value::Map(map.iter().map(|(k, v)| (k.clone(), Node::from_json(v, line))).collect()),
        };
        Node { line, value }
    }
}

impl Value {
    /// What this is, for sentences such as "must be a list, is a number".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Appends `.key` to a path, or `['key']` where the key is not a plain word (labels, annotations).
pub fn push_key(path: &mut String, key: &str) {
    let plain =
        !key.is_empty() && key.len() <= MAX_KEY_SHOWN && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push_str("['");
        path.extend(key.chars().take(MAX_KEY_SHOWN).flat_map(char::escape_debug));
        path.push_str("']");
    }
}

/// Enough of a key to find it; the longest that Kubernetes allows for a label is 317.
const MAX_KEY_SHOWN: usize = 320;

/// Appends `[index]` to a path.
pub fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

fn find_duplicates(node: &Node, path: &mut String, found: &mut Vec<Duplicate>) {
    let length = path.len();
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                if matches!(item.value, Value::List(_) | Value::Map(_)) {
                    push_index(path, index);
                    find_duplicates(item, path, found);
                    path.truncate(length);
                }
            }
        }
        Value::Map(entries) => {
            // Sorting instead of comparing each with each: a mapping may have many thousand keys.
            let mut order: Vec<usize> = (0..entries.len()).collect();
            order.sort_by_key(|&i| (&entries[i].0, i));
            for pair in order.windows(2) {
                let ((first, first_node), (second, second_node)) = (&entries[pair[0]], &entries[pair[1]]);
                if first == second {
                    push_key(path, second);
                    found.push(Duplicate { path: path.clone(), line: second_node.line, first_line: first_node.line });
                    path.truncate(length);
                }
            }
            for (key, value) in entries {
                if matches!(value.value, Value::List(_) | Value::Map(_)) {
                    push_key(path, key);
                    find_duplicates(value, path, found);
                    path.truncate(length);
                }
            }
        }
        _ => {}
    }
}
