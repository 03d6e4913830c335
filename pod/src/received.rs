//! A document as received, kept as text: a tree of the same takes ten times the memory, and every pod of the node has one
//! for as long as it is wanted or runs, while it is read rarely.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// One JSON document. Cheap to clone; on disk it is the JSON itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Received(Arc<str>);

impl Received {
    /// The document as a tree.
    pub fn read(&self) -> Value {
        serde_json::from_str(&self.0).expect("it was written from a tree")
    }
}

impl From<Value> for Received {
    fn from(value: Value) -> Received {
        Received(value.to_string().into())
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Received {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.read().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Received, D::Error> {
        Value::deserialize(deserializer).map(Received::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_equal_whatever_the_order_of_their_fields_and_lie_on_disk_as_json() {
        let document: Received = json!({"b": [1, 2.5, -3, null], "a": {"c": "\u{1f600}\n"}}).into();
        assert_eq!(serde_json::to_value(&document).unwrap(), document.read());
        let again: Received = serde_json::from_str(r#"{"a":{"c":"\ud83d\ude00\n"},"b":[1,2.5,-3,null]}"#).unwrap();
        assert_eq!(again, document);
    }
}
