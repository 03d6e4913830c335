//! What is found while a document is judged, and a cursor into its tree that knows its own path.
//!
//! Two classes of faults: *impossible* (nothing can be run from this) and *rule* (it could be run, but Kubernetes or
//! we refuse it). A record's document was accepted once, so its rule faults are forgiven; a rule that a later version
//! adds can therefore never end a running pod.

use std::collections::BTreeSet;

use super::tree::{Node, Value, push_index, push_key};

/// Findings of one document that are kept. Nobody reads more, and a hostile file must not fill the memory.
const MAX_FINDINGS: usize = 100;

/// Bytes of a path and of a reason: whatever a document says, what is said of it fits into a status.
const MAX_PATH: usize = 700;
const MAX_REASON: usize = 1_000;

/// At most so many bytes of a text, with a sign where it goes on.
fn clipped(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// Everything found so far.
#[derive(Debug, Default)]
pub struct Findings {
    pub faults: Vec<Fault>,
    pub no_effect: Vec<super::NoEffect>,
    /// How many faults were not kept.
    pub dropped: usize,
    /// Paths of the fields that unknown ones were probably meant to be.
    meant: BTreeSet<String>,
}

/// How the reason of a fault begins that is about a field which is not there.
const MISSING: &str = "is missing";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: u32,
    pub path: String,
    pub reason: String,
    pub class: Class,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Impossible,
    Rule,
}

impl Findings {
    /// Nothing can be run from this.
    pub fn impossible(&mut self, at: &At<'_>, reason: impl Into<String>) {
        self.fault(at.node.line, at.path.clone(), reason.into(), Class::Impossible);
    }

    /// It could be run, but is refused.
    pub fn rule(&mut self, at: &At<'_>, reason: impl Into<String>) {
        self.fault(at.node.line, at.path.clone(), reason.into(), Class::Rule);
    }

    /// One fault a path: the first says enough.
    pub fn fault(&mut self, line: u32, path: String, reason: String, class: Class) {
        let (path, reason) = (clipped(path, MAX_PATH), clipped(reason, MAX_REASON));
        if self.is_full() {
            self.dropped += 1;
        } else if let Some(known) = self.faults.iter_mut().find(|f| f.line == line && f.path == path) {
            if class == Class::Impossible {
                known.class = Class::Impossible;
            }
        } else {
            self.faults.push(Fault { line, path, reason, class });
        }
    }

    /// An unknown field of the object at `parent`, probably a slip of the pen for the field `meant`.
    pub fn slip(&mut self, line: u32, path: String, parent: &str, meant: &str) {
        self.fault(line, path, format!("unknown field: did you mean `{meant}`?"), Class::Rule);
        if self.meant.len() < MAX_FINDINGS {
            let mut path = parent.to_owned();
            push_key(&mut path, meant);
            self.meant.insert(path);
        }
    }

    /// A field that is missing only because its name was written wrong: that is told already, and mends both.
    pub fn is_explained(&self, fault: &Fault) -> bool {
        fault.reason.starts_with(MISSING) && self.meant.contains(&fault.path)
    }

    /// Nothing more is kept: advice need not be worked out.
    pub fn is_full(&self) -> bool {
        self.faults.len() >= MAX_FINDINGS
    }

    /// Accepted, but does nothing.
    pub fn no_effect(&mut self, line: u32, path: String, reason: impl Into<String>) {
        if self.no_effect.len() < MAX_FINDINGS {
            let (path, reason) = (clipped(path, MAX_PATH), clipped(reason.into(), MAX_REASON));
            self.no_effect.push(super::NoEffect { line, path, reason });
        }
    }
}

/// A value of the document and the path that leads to it.
#[derive(Debug, Clone)]
pub struct At<'a> {
    pub node: &'a Node,
    pub path: String,
}

impl<'a> At<'a> {
    /// A field's value; None where it is absent or null.
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        let node = self.node.get(key)?;
        if node.value == Value::Null {
            return None;
        }
        Some(At { node, path: self.path_of(key) })
    }

    /// The path of a field of this mapping, whether it is there or not.
    pub fn path_of(&self, key: &str) -> String {
        let mut path = self.path.clone();
        push_key(&mut path, key);
        path
    }

    /// A field that must be there: its absence is reported under its own path.
    pub fn need(&self, key: &str, findings: &mut Findings) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            let reason = format!("{MISSING}: it is required");
            findings.fault(self.node.line, self.path_of(key), reason, Class::Impossible);
        }
        found
    }

    /// The items of a list, or a fault.
    pub fn items(&self, findings: &mut Findings) -> Vec<At<'a>> {
        let Value::List(items) = &self.node.value else {
            findings.impossible(self, format!("must be a list, is {}", self.node.value.kind()));
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Node)| {
            let mut path = self.path.clone();
            push_index(&mut path, index);
            At { node, path }
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The items of the list in a field; none where it is absent.
    pub fn list(&self, key: &str, findings: &mut Findings) -> Vec<At<'a>> {
        self.get(key).map(|list| list.items(findings)).unwrap_or_default()
    }

    /// The entries of a mapping, or a fault.
    pub fn entries(&self, findings: &mut Findings) -> Vec<(&'a str, At<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            findings.impossible(self, format!("must be a mapping, is {}", self.node.value.kind()));
            return Vec::new();
        };
        entries.iter().map(|(key, node)| (key.as_str(), At { node, path: self.path_of(key) })).collect()
    }

    /// This value as a text, or a fault.
    pub fn text(&self, findings: &mut Findings) -> Option<&'a str> {
        let text = self.node.text();
        if text.is_none() {
            findings.impossible(self, wrong_kind("a text", &self.node.value));
        }
        text
    }

    /// The text in a field; None where it is absent.
    pub fn text_in(&self, key: &str, findings: &mut Findings) -> Option<&'a str> {
        self.get(key)?.text(findings)
    }

    /// The texts of the list in a field.
    pub fn texts_in(&self, key: &str, findings: &mut Findings) -> Vec<String> {
        let items = self.list(key, findings);
        items.iter().filter_map(|item| item.text(findings)).map(str::to_owned).collect()
    }

    /// This value as an integer (`80`, also `8e1`), or a fault.
    pub fn integer(&self, findings: &mut Findings) -> Option<i128> {
        let integer = integral(&self.node.value);
        if integer.is_none() {
            findings.impossible(self, wrong_kind("an integer", &self.node.value));
        }
        integer
    }

    /// The boolean in a field; None where it is absent.
    pub fn boolean_in(&self, key: &str, findings: &mut Findings) -> Option<bool> {
        let at = self.get(key)?;
        match at.node.value {
            Value::Bool(b) => Some(b),
            _ => {
                findings.impossible(&at, wrong_kind("true or false", &at.node.value));
                None
            }
        }
    }
}

/// An integer that is written as one, or as a number without fraction.
pub fn integral(value: &Value) -> Option<i128> {
    /// Integers beyond this are not exact in a floating point number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Integer(i) => Some(*i),
        Value::Float(f) if f.fract() == 0.0 && f.abs() <= EXACT => Some(*f as i128),
        _ => None,
    }
}

/// "must be a text, is a number: put it in quotes".
pub fn wrong_kind(wanted: &str, value: &Value) -> String {
    let scalar = matches!(value, Value::Bool(_) | Value::Integer(_) | Value::Float(_));
    let advice = match value {
        _ if wanted == "a text" && scalar => ": put it in quotes",
        Value::Text(_) if wanted == "an integer" || wanted == "true or false" => ": remove its quotes",
        _ => "",
    };
    format!("must be {wanted}, is {}{advice}", value.kind())
}
