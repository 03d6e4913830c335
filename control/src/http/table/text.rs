//! What cells are made of: fields of an object as text, and the words for fields that are not there.

use serde_json::Value;

/// Nothing is set.
pub const NONE: &str = "<none>";
/// Something should be there and is not.
pub const UNKNOWN: &str = "<unknown>";

pub fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// Text as it is; empty where there is none.
pub fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Text, or the word for nothing.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A number; 0 where none is said.
pub fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// The items of a list; none where there is no list.
pub fn items(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// How many entries a map or list has.
pub fn entries(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len).saturating_add(value.as_array().map_or(0, Vec::len))
}

/// `a=1,b=2`, or the word for nothing.
pub fn labels(value: &Value) -> Value {
    let pairs = value.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value)));
    or_none(&pairs.collect::<Vec<_>>().join(","))
}

/// One field of each item, with commas between.
pub fn joined(list: &Value, field: &str) -> String {
    items(list).map(|item| plain(&item[field])).collect::<Vec<_>>().join(",")
}

/// A label selector as people write it: `app=a,tier in (x,y),!old`.
pub fn selector(selector: &Value) -> Value {
    let same = selector["matchLabels"].as_object().into_iter().flatten();
    let same = same.map(|(key, value)| format!("{key}={}", plain(value)));
    let terms = items(&selector["matchExpressions"]).map(|term| {
        let key = plain(&term["key"]);
        let values = items(&term["values"]).map(plain).collect::<Vec<_>>().join(",");
        match plain(&term["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        }
    });
    or_none(&same.chain(terms).collect::<Vec<_>>().join(","))
}
