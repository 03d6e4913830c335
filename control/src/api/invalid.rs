//! What is wrong with an object, gathered while it is validated, in the words of Kubernetes' field errors.

use serde_json::Value;

use super::error::Cause;

/// Every fault of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Causes {
    found: Vec<Cause>,
    /// Those that are not named.
    more: usize,
}

/// Faults that are named. There may be one for each item of a list, and every one is longer than the item.
const NAMED_MAX: usize = 100;

impl Causes {
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn into_vec(mut self) -> Vec<Cause> {
        if self.more > 0 {
            self.found.push(Cause::new("FieldValueInvalid", "", format!("and {} more", self.more)));
        }
        self.found
    }

    fn push(&mut self, cause: Cause) {
        if self.found.len() < NAMED_MAX {
            self.found.push(cause);
        } else {
            self.more += 1;
        }
    }

    /// `why` may be empty.
    pub fn required(&mut self, field: impl Into<String>, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.push(Cause::new("FieldValueRequired", field, format!("Required value{why}")));
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, why: impl std::fmt::Display) {
        let message = format!("Invalid value: {}: {why}", shown(value));
        self.push(Cause::new("FieldValueInvalid", field, message));
    }

    pub fn forbidden(&mut self, field: impl Into<String>, why: impl std::fmt::Display) {
        self.push(Cause::new("FieldValueForbidden", field, format!("Forbidden: {why}")));
    }

    pub fn unsupported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
        self.push(Cause::new("FieldValueNotSupported", field, message));
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.push(Cause::new("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value))));
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.push(Cause::new("FieldValueNotFound", field, format!("Not found: {}", shown(value))));
    }

    /// `most`: bytes.
    pub fn too_long(&mut self, field: impl Into<String>, most: usize) {
        let message = format!("Too long: may not be more than {most} bytes");
        self.push(Cause::new("FieldValueTooLong", field, message));
    }

    /// `value` must be what it was.
    pub fn immutable(&mut self, field: &str, new: &Value, old: &Value) {
        if new != old {
            self.invalid(field, new, "field is immutable");
        }
    }

    /// `value`, if there is one, must be one of these.
    pub fn one_of(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        if !value.is_null() && !value.as_str().is_some_and(|text| supported.contains(&text)) {
            self.unsupported(field, value, supported);
        }
    }

    /// `value`, if there is one, must be a number from 0.
    pub fn not_negative(&mut self, field: impl Into<String>, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }
}

/// A value in a message; a large one is cut.
fn shown(value: &Value) -> String {
    const MOST: usize = 256;
    // What is not there is what a client could have written there: nothing.
    let text = if value.is_null() { "\"\"".to_owned() } else { value.to_string() };
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_not_as_long_as_its_request_has_faults() {
        let mut causes = Causes::default();
        (0..1000).for_each(|n| causes.required(format!("spec.x[{n}]"), ""));
        let named = causes.into_vec();
        assert_eq!((named.len(), named[NAMED_MAX].to_string().as_str()), (NAMED_MAX + 1, "and 900 more"));
    }
}
