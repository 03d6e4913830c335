//! How deep a document is nested. What is deeper than [`DEPTH_MAX`] is neither stored nor made by a patch: everything that walks a document does so
//! by recursion, and what the store's parser cannot read again (128 levels) could not even be deleted.

use serde_json::Value;

/// Levels of a document, its managedFields included. Kubernetes' own types reach about twenty.
pub const DEPTH_MAX: usize = 100;

/// Whether there are more levels than this. Looks no deeper than that.
pub fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return true };
    match value {
        Value::Object(fields) => fields.values().any(|value| is_deeper(value, below)),
        Value::Array(items) => items.iter().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_from_the_document_itself() {
        let nested = |levels: usize| (1..levels).fold(Value::Null, |inner, _| vec![inner].into());
        assert!(!is_deeper(&nested(1), 1) && is_deeper(&nested(2), 1) && is_deeper(&Value::Null, 0));
        assert!(!is_deeper(&nested(DEPTH_MAX), DEPTH_MAX) && is_deeper(&nested(DEPTH_MAX + 1), DEPTH_MAX));
        let object = (1..5).fold(Value::Null, |inner, _| serde_json::json!({"a": 1, "b": inner}));
        assert!(!is_deeper(&object, 5) && is_deeper(&object, 4));
    }
}
