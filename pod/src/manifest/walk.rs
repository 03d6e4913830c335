//! A document against the field table: unknown, refused and idle fields, and values of the wrong shape.

use super::findings::{Class, Findings, integral, wrong_kind};
use super::tree::{Node, Value, push_index, push_key};
use crate::fields::{Field, Place, Shape, Verdict};

/// Judges every field of an object. `path` is where the object itself stands (empty, or `items[0]`).
pub fn check(object: &Node, place: &Place, path: &str, findings: &mut Findings) {
    fields(object, place, &mut path.to_owned(), findings);
}

fn fields(object: &Node, place: &Place, path: &mut String, findings: &mut Findings) {
    let Value::Map(entries) = &object.value else {
        fault(object, path, wrong_kind("a mapping", &object.value), findings);
        return;
    };
    let length = path.len();
    for (key, value) in entries {
        push_key(path, key);
        match place.below(key) {
            None if findings.is_full() => findings.dropped += 1,
            None => match nearest(key, place.names()) {
                Some(meant) => findings.slip(value.line, path.clone(), &path[..length], meant),
                None => {
                    fault(value, path, "unknown field: Kubernetes has none of this name here".to_owned(), findings);
                }
            },
            Some(_) if value.value == Value::Null => {}
            Some(below) => field(value, below, path, findings),
        }
        path.truncate(length);
    }
}

fn field(value: &Node, place: &Place, path: &mut String, findings: &mut Findings) {
    let Some(&Field { shape, verdict, .. }) = place.field else { return };
    match verdict {
        Verdict::Honoured(_) => shaped(value, shape, place, path, findings),
        Verdict::NoEffect(reason) => findings.no_effect(value.line, path.clone(), reason),
        Verdict::Only(only, reason) => {
            let is_only = match &value.value {
                Value::Text(text) => shape == Shape::Text && text == only,
                Value::Bool(b) => shape == Shape::Boolean && b.to_string() == only,
                _ => false,
            };
            if !fits(value, shape) {
                fault(value, path, wrong_kind(shape.words(), &value.value), findings);
            } else if !is_only {
                fault(value, path, reason.to_owned(), findings);
            }
        }
        Verdict::Refused(reason) => {
            if !matches!(&value.value, Value::List(items) if items.is_empty()) {
                fault(value, path, reason.to_owned(), findings);
            }
        }
    }
}

/// The shape of an honoured field, and all that is below it.
fn shaped(value: &Node, shape: Shape, place: &Place, path: &mut String, findings: &mut Findings) {
    let length = path.len();
    match (shape, &value.value) {
        (Shape::Object, _) => fields(value, place, path, findings),
        (Shape::Objects, Value::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                push_index(path, index);
                fields(item, place, path, findings);
                path.truncate(length);
            }
        }
        (Shape::Texts, Value::List(items)) => all(items.iter(), Shape::Text, path, findings),
        (Shape::Integers, Value::List(items)) => all(items.iter(), Shape::Integer, path, findings),
        (Shape::TextMap | Shape::QuantityMap, Value::Map(entries)) => {
            let wanted = if shape == Shape::TextMap { Shape::Text } else { Shape::Quantity };
            for (key, entry) in entries {
                push_key(path, key);
                if !fits(entry, wanted) && entry.value != Value::Null {
                    fault(entry, path, wrong_kind(wanted.words(), &entry.value), findings);
                }
                path.truncate(length);
            }
        }
        _ if fits(value, shape) => {}
        _ => fault(value, path, wrong_kind(shape.words(), &value.value), findings),
    }
}

fn all<'a>(items: impl Iterator<Item = &'a Node>, shape: Shape, path: &mut String, findings: &mut Findings) {
    let length = path.len();
    for (index, item) in items.enumerate() {
        push_index(path, index);
        if !fits(item, shape) {
            fault(item, path, wrong_kind(shape.words(), &item.value), findings);
        }
        path.truncate(length);
    }
}

/// Whether a value has this shape itself; what is in a list or mapping is not looked at.
fn fits(value: &Node, shape: Shape) -> bool {
    let value = &value.value;
    match shape {
        Shape::Text => matches!(value, Value::Text(_)),
        Shape::Integer => integral(value).is_some(),
        Shape::Boolean => matches!(value, Value::Bool(_)),
        Shape::Object | Shape::TextMap | Shape::QuantityMap => matches!(value, Value::Map(_)),
        Shape::Objects | Shape::Texts | Shape::Integers => matches!(value, Value::List(_)),
        Shape::Quantity => matches!(value, Value::Text(_) | Value::Integer(_) | Value::Float(_)),
        Shape::IntegerOrText => matches!(value, Value::Text(_)) || integral(value).is_some(),
        Shape::Any => true,
    }
}

fn fault(value: &Node, path: &str, reason: String, findings: &mut Findings) {
    findings.fault(value.line, path.to_owned(), reason, Class::Rule);
}

/// The candidate that one would most likely have meant: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words than any field has are not compared.
    const LONGEST: usize = 64;
    /// Of a pod with ten thousand volumes not every one is compared with every mount.
    const COMPARED: usize = 200;
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .take(COMPARED)
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
