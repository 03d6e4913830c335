//! JSON values as YAML in block style, for `-o yaml`.
//!
//! Written here because it is one page: every scalar that could be read as something else (YAML 1.1 booleans, octals,
//! times included) is quoted as JSON quotes it, which YAML takes; only plain words stay bare. Tests read it back.

use serde_json::Value;

/// The value as a YAML document, with a line's end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        _ => {
            scalar(value, &mut out);
            out.push('\n');
        }
    }
    out
}

/// A map or a list that is not empty, each entry on a line of its own.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first key of a map in a list stands behind the dash.
                if at > 0 || !out.ends_with("- ") {
                    indent(depth, out);
                }
                text(key, out);
                out.push(':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => nested(value, depth + 1, out),
                    // kubectl does not indent a list below its key.
                    Value::Array(inner) if !inner.is_empty() => nested(value, depth, out),
                    _ => {
                        out.push(' ');
                        scalar(value, out);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                if at > 0 || !out.ends_with("- ") {
                    indent(depth, out);
                }
                out.push_str("- ");
                match value {
                    Value::Object(inner) if !inner.is_empty() => block(value, depth + 1, out),
                    Value::Array(inner) if !inner.is_empty() => block(value, depth + 1, out),
                    _ => {
                        scalar(value, out);
                        out.push('\n');
                    }
                }
            }
        }
        _ => scalar(value, out),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    out.push('\n');
    block(value, depth, out);
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(string) => text(string, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

fn text(string: &str, out: &mut String) {
    if is_plain(string) {
        out.push_str(string);
    } else {
        // JSON leaves DEL and the C1 controls, which YAML does not take, and the separators that YAML 1.1 ends lines at.
        for c in Value::from(string).to_string().chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => out.push(c),
            }
        }
    }
}

/// Words that nobody reads as anything but text: a letter first, then a narrow set, and no word that YAML 1.1 knows.
fn is_plain(string: &str) -> bool {
    const KNOWN: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    let mut bytes = string.bytes();
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
        && bytes.all(inner)
        && !KNOWN.contains(&string.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use saphyr_parser::{Event, Parser, ScalarStyle};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_reads_as_kubectl_writes_it() {
        let value = json!({
            "kind": "Pod", "args": ["a", "yes", {"b": 1, "c": [[], {}]}, [1, 2]], "empty": "", "n": null,
            "time": "2026-01-01T00:00:00Z",
        });
        let expected = "args:\n- a\n- \"yes\"\n- b: 1\n  c:\n  - []\n  - {}\n- - 1\n  - 2\n\
                        empty: \"\"\nkind: Pod\n\"n\": null\ntime: \"2026-01-01T00:00:00Z\"\n";
        assert_eq!(to_yaml(&value), expected);
    }

    /// What a YAML parser makes of the text.
    fn read(text: &str) -> Value {
        let mut events = Parser::new_from_str(text).map(|event| event.expect("is YAML").0);
        loop {
            match events.next().expect("a document") {
                Event::StreamStart | Event::DocumentStart(_) => {}
                first => return node(first, &mut events),
            }
        }
    }

    fn node<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if text == "null" => Value::Null,
            Event::Scalar(text, ScalarStyle::Plain, ..) => match serde_json::from_str(&text) {
                Ok(value) => value,
                Err(_) => Value::String(text.into_owned()),
            },
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match events.next().expect("an end") {
                        Event::SequenceEnd => return Value::Array(list),
                        item => list.push(node(item, events)),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = serde_json::Map::new();
                loop {
                    match events.next().expect("an end") {
                        Event::MappingEnd => return Value::Object(map),
                        Event::Scalar(key, ..) => {
                            let value = events.next().expect("a value");
                            map.insert(key.into_owned(), node(value, events));
                        }
                        other => panic!("{other:?} as a key"),
                    }
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            "[a-z0-9:# \\-\\[\\]{}&*!|>'\"%@,?~=.\n\t]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z0-9:./ \\-]{1,10}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(value in any_value()) {
            prop_assert_eq!(read(&to_yaml(&value)), value);
        }
    }
}
