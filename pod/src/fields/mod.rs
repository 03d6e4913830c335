//! The one field table: what becomes of every field of a Pod and a DaemonSet.
//!
//! Drives `check`, the agent (both through `manifest`) and docs/pod-fields.md ([`document`]). A test walks the
//! Kubernetes types and fails for a field that has no row. Rows are in [`table`]; this file finds them.

mod page;
pub mod status;
mod table;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use crate::name::WorkloadKind;

pub use page::document;

/// One field, by its path in the object: `spec.containers[].name`. A row speaks for all that lies below it where no
/// longer path has a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub path: &'static str,
    pub shape: Shape,
    pub verdict: Verdict,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done as Kubernetes does it, within the limits that the note names (empty: none).
    Honoured(&'static str),
    /// Accepted, listed, and without any effect, for this reason.
    NoEffect(&'static str),
    /// Accepted with this one value, which is Kubernetes' default or means "off"; refused with any other.
    Only(&'static str, &'static str),
    /// The document is refused, for this reason. An empty list or mapping of lists counts as absent.
    Refused(&'static str),
}

/// What a field's value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Text,
    Integer,
    Boolean,
    /// A mapping with the fields that the table lists below it.
    Object,
    /// A list of such mappings.
    Objects,
    Texts,
    Integers,
    /// A mapping of free keys to texts.
    TextMap,
    /// A mapping of free keys to quantities.
    QuantityMap,
    /// A text or a number.
    Quantity,
    IntegerOrText,
    /// Not looked at.
    Any,
}

impl Shape {
    /// For sentences such as "must be a list of texts".
    pub fn words(self) -> &'static str {
        match self {
            Shape::Text => "a text",
            Shape::Integer => "an integer",
            Shape::Boolean => "true or false",
            Shape::Object => "a mapping",
            Shape::Objects => "a list of mappings",
            Shape::Texts => "a list of texts",
            Shape::Integers => "a list of integers",
            Shape::TextMap => "a mapping of texts",
            Shape::QuantityMap => "a mapping of quantities",
            Shape::Quantity => "a quantity such as 100m or 200Mi",
            Shape::IntegerOrText => "an integer or a percentage",
            Shape::Any => "anything",
        }
    }
}

/// A place in the table's tree. The root stands for the object itself.
#[derive(Debug, Default)]
pub struct Place {
    pub field: Option<&'static Field>,
    /// By name. A list, because there are a thousand places and the agent keeps them for ever.
    below: Vec<(&'static str, Place)>,
}

impl Place {
    /// The table of a kind.
    pub fn root(kind: WorkloadKind) -> &'static Place {
        static POD: OnceLock<Place> = OnceLock::new();
        static OBJECT: OnceLock<Place> = OnceLock::new();
        static DAEMON_SET: OnceLock<Place> = OnceLock::new();
        match kind {
            WorkloadKind::Pod => POD.get_or_init(|| Place::build(kind)),
            WorkloadKind::Control => OBJECT.get_or_init(|| Place::build(kind)),
            WorkloadKind::DaemonSet => DAEMON_SET.get_or_init(|| Place::build(kind)),
        }
    }

    /// The place of a field in this one (or in each item of this list).
    pub fn below(&self, name: &str) -> Option<&Place> {
        self.find(name).ok().map(|at| &self.below[at].1)
    }

    /// The names of all fields in this one.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.below.iter().map(|(name, _)| *name)
    }

    fn build(kind: WorkloadKind) -> Place {
        let mut root = Place::default();
        for (prefix, rows) in table::parts(kind) {
            for row in *rows {
                root.place(prefix, row);
            }
        }
        let spec: &[&str] = match kind {
            WorkloadKind::Pod | WorkloadKind::Control => &["spec"],
            WorkloadKind::DaemonSet => &["spec", "template", "spec"],
        };
        let spec = spec.iter().fold(&mut root, |place, name| place.entry(name));
        // An init container has the fields of a container, and a few rows of its own.
        let container = std::mem::take(spec.entry("containers"));
        spec.entry("initContainers").fill_from(&container);
        *spec.entry("containers") = container;
        root.tighten();
        root
    }

    /// Takes over the rows of `other` below this place, where it has none of its own.
    fn fill_from(&mut self, other: &Place) {
        for (name, theirs) in &other.below {
            let ours = self.entry(name);
            ours.field = ours.field.or(theirs.field);
            ours.fill_from(theirs);
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.below.binary_search_by_key(&name, |(name, _)| name)
    }

    /// The place of this name, made where there is none.
    fn entry(&mut self, name: &'static str) -> &mut Place {
        let at = self.find(name).unwrap_or_else(|at| {
            self.below.insert(at, (name, Place::default()));
            at
        });
        &mut self.below[at].1
    }

    /// Gives back the room that the lists have for more.
    fn tighten(&mut self) {
        self.below.shrink_to_fit();
        self.below.iter_mut().for_each(|(_, place)| place.tighten());
    }

    fn place(&mut self, prefix: &'static str, field: &'static Field) {
        let steps = prefix.split('.').chain(field.path.split('.')).filter(|s| !s.is_empty());
        let place = steps.fold(self, |place, step| place.entry(step.strip_suffix("[]").unwrap_or(step)));
        place.field = Some(field);
    }
}
