//! How the fields of each kind are put together when two versions of an object meet: which lists have keys, which are sets, and which
//! objects are one value.
//!
//! Only what differs from the usual has a row: an object is merged field by field, a list is one value, everything else is a scalar.
//! So a field that has no row, also one that this version does not know, is treated as Kubernetes treats fields without markers.
//!
//! Server-side apply and strategic merge patch have markers of their own, and they differ: a container's ports have the
//! keys containerPort and protocol in the one, and containerPort alone in the other.

pub(super) mod kinds;
#[cfg(test)]
mod tests;

pub use kinds::kind;

/// The rows of one type, in the order of their names.
#[derive(Debug)]
pub struct Type(pub &'static [(&'static str, Shape)]);

/// A type without rows.
pub static PLAIN: Type = Type(&[]);

/// What is special about a field.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// An object whose type has rows.
    Object(&'static Type),
    /// An object or map that server-side apply takes as one value; strategic merge patch merges it.
    Atomic(&'static Type),
    List(List),
}

/// A list that is not just one value.
#[derive(Debug, Clone, Copy)]
pub struct List {
    pub apply: Apply,
    pub patch: Patch,
    pub item: &'static Type,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// One value.
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects, told apart by these fields.
    Map(&'static [&'static str]),
}

/// `x-kubernetes-patch-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// The list of the patch takes its place.
    Replace,
    /// Scalars are added.
    Union,
    /// Objects are merged with the one that has the same value here.
    ByKey(&'static str),
}

impl Type {
    /// What is special about this field; None: nothing.
    pub fn field(&self, name: &str) -> Option<Shape> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, shape)| *shape)
    }

    /// The type of an object in this field.
    pub fn object(&self, name: &str) -> &'static Type {
        match self.field(name) {
            Some(Shape::Object(of) | Shape::Atomic(of)) => of,
            Some(Shape::List(_)) | None => &PLAIN,
        }
    }
}

/// What a key field means where an item leaves it out: the defaults of Kubernetes' schema.
pub fn key_default(key: &str) -> Option<&'static str> {
    match key {
        "protocol" => Some("TCP"),
        "name" => Some(""),
        _ => None,
    }
}

const fn atomic(of: &'static Type) -> Shape {
    Shape::Atomic(of)
}

/// A list with keys; a patch merges by the first of them.
const fn keyed(keys: &'static [&'static str], item: &'static Type) -> Shape {
    Shape::List(List { apply: Apply::Map(keys), patch: Patch::ByKey(keys[0]), item })
}

/// A list with keys that a patch replaces.
const fn keyed_replaced(keys: &'static [&'static str], item: &'static Type) -> Shape {
    Shape::List(List { apply: Apply::Map(keys), patch: Patch::Replace, item })
}

const fn set(patch: Patch) -> Shape {
    Shape::List(List { apply: Apply::Set, patch, item: &PLAIN })
}
