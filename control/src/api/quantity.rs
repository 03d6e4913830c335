//! Quantities as a Kubernetes server shows them: `1` becomes `"1"`, `0.1` `100m`, `1000m` `1`, `1024Mi` `1Gi`. Clients compare what they read with what
//! they make themselves.

use pod::manifest::quantity;
use serde_json::{Value, json};

/// Maps of quantities, wherever they stand.
const MAPS: [&str; 5] = ["allocatable", "capacity", "limits", "overhead", "requests"];
/// Fields of one quantity.
const FIELDS: [&str; 2] = ["divisor", "sizeLimit"];
/// What is the user's own, whatever it is called.
const FOREIGN: [&str; 7] = ["annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "stringData"];
const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Every quantity of an object.
pub fn canonical_in(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                let key = key.as_str();
                match value {
                    _ if FOREIGN.contains(&key) => {}
                    Value::Object(map) if MAPS.contains(&key) => map.values_mut().for_each(canonical_at),
                    Value::String(_) | Value::Number(_) if FIELDS.contains(&key) => canonical_at(value),
                    _ => canonical_in(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(canonical_in),
        _ => {}
    }
}

fn canonical_at(value: &mut Value) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    // What is none is told by the validation.
    *value = json!(canonical(&text).unwrap_or(text));
}

/// None: it is no quantity, or one whose form says more than its value.
fn canonical(text: &str) -> Option<String> {
    let milli = quantity::parse(text)?.milli;
    let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    if suffix.contains(['e', 'u', 'n']) || (suffix.starts_with('E') && suffix.len() > 1 && suffix != "Ei") {
        return None;
    }
    if milli == 0 {
        return Some("0".to_owned());
    }
    if suffix.ends_with('i') && milli % 1000 == 0 {
        return Some(shown(milli / 1000, 1024, &BINARY));
    }
    match milli % 1000 {
        0 => Some(shown(milli / 1000, 1000, &DECIMAL)),
        _ => Some(format!("{milli}m")),
    }
}

/// With the largest suffix that leaves no fraction.
fn shown(mut number: i128, step: i128, suffixes: &[&str]) -> String {
    let mut at = 0;
    while at + 1 < suffixes.len() && number % step == 0 {
        number /= step;
        at += 1;
    }
    format!("{number}{}", suffixes[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_get_the_form_that_a_server_gives_them() {
        let cases = [
            ("1", "1"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1000", "1k"),
            ("100Mi", "100Mi"),
            ("1e3", "1e3"),
            ("0", "0"),
            ("5G", "5G"),
            ("x", "x"),
        ];
        for (given, wanted) in cases {
            let mut object = json!({"resources": {"limits": {"cpu": given}}, "data": {"divisor": "0.1"}});
            canonical_in(&mut object);
            assert_eq!(object["resources"]["limits"]["cpu"], wanted, "{given}");
            assert_eq!(object["data"]["divisor"], "0.1");
        }
        let mut number = json!({"emptyDir": {"sizeLimit": 1}, "requests": {"cpu": 0.5, "memory": 2}});
        canonical_in(&mut number);
        assert_eq!(number, json!({"emptyDir": {"sizeLimit": "1"}, "requests": {"cpu": "500m", "memory": "2"}}));
    }
}
