//! One document as JSON, for a reader who does not ask what it means: the bodies that clients send to the control endpoint.

use serde_json::Value;

use super::tree::Node;
use super::yaml::Broken;
use super::{json, yaml};

/// A YAML document as kubectl reads it, and the paths of fields that stand in it twice, of which the last one counts. Error: it is not YAML, or not
/// exactly one document.
pub fn yaml_document(text: &str) -> Result<(Value, Vec<String>), String> {
    one(text, yaml::read)
}

/// The same of JSON.
pub fn json_document(text: &str) -> Result<(Value, Vec<String>), String> {
    one(text, json::read)
}

type Read = fn(&str, &mut dyn FnMut(Node) -> bool) -> Result<(), Broken>;

fn one(text: &str, read: Read) -> Result<(Value, Vec<String>), String> {
    let mut nodes = Vec::new();
    let mut take = |node| {
        nodes.push(node);
        nodes.len() < 2
    };
    read(text, &mut take).map_err(|broken| format!("line {}: {}", broken.line, broken.reason))?;
    let mut nodes = nodes.into_iter();
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => {
            let duplicates = node.duplicates().into_iter().map(|duplicate| duplicate.path).collect();
            Ok((node.to_json(), duplicates))
        }
        (None, _) => Err("there is nothing in it".to_owned()),
        (Some(_), Some(_)) => Err("there is more than one document in it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_one_document_and_says_what_stands_in_it_twice() {
        let (value, twice) = yaml_document("a: yes\nb:\n- {c: 0644}\n").unwrap();
        assert_eq!((value, twice), (json!({"a": true, "b": [{"c": 420}]}), vec![]));
        let (value, twice) = json_document(r#"{"a": {"b": 1, "b": 2}}"#).unwrap();
        assert_eq!((value, twice), (json!({"a": {"b": 2}}), vec!["a.b".to_owned()]));
        assert!(yaml_document("a: 1\n---\nb: 2\n").unwrap_err().contains("more than one"));
        assert!(json_document("").unwrap_err().contains("nothing"));
        assert!(json_document("{\n\"a\"").unwrap_err().starts_with("line 2"));
    }
}
