//! Objects as rows for people: the tables that kubectl prints, made here because every client shows what the server says.
//!
//! Driven by [`super::render`]. A kind has columns and a function that makes the cells of one object; a kind without a row of its own
//! has a name and an age. Cells that are only shown with `-o wide` have priority 1 and are always sent.

mod age;
mod core;
mod node;
mod pod;
mod rbac;
#[cfg(test)]
mod tests;
mod text;
mod workload;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::kinds::Kind;

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// The object's name, by which clients find it.
    Name,
    Text,
    Number,
    Truth,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub cell: Cell,
    /// Shown only with `-o wide`.
    pub wide: bool,
}

const fn column(name: &'static str, cell: Cell) -> Column {
    Column { name, cell, wide: false }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, cell, wide: true }
}

const NAME: Column = column("Name", Cell::Name);
const AGE: Column = column("Age", Cell::Text);

/// How one kind is shown. `cells`: of one object at this time, one a column.
#[derive(Debug)]
pub struct Shown {
    pub columns: &'static [Column],
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// What a row carries of its object: `includeObject` of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

static PLAIN: Shown =
    Shown { columns: &[NAME, AGE], cells: |object, now| vec![text::name(object), age::created(object, now)] };

static KINDS: &[(&str, &str, &Shown)] = &[
    ("", "ConfigMap", &core::CONFIG_MAP),
    ("", "Event", &core::EVENT),
    ("", "Namespace", &core::NAMESPACE),
    ("", "Node", &node::NODE),
    ("", "Pod", &pod::POD),
    ("", "Secret", &core::SECRET),
    ("", "Service", &core::SERVICE),
    ("apps", "ControllerRevision", &workload::CONTROLLER_REVISION),
    ("apps", "DaemonSet", &workload::DAEMON_SET),
    ("coordination.k8s.io", "Lease", &core::LEASE),
    ("discovery.k8s.io", "EndpointSlice", &core::ENDPOINT_SLICE),
    ("events.k8s.io", "Event", &core::EVENTS_EVENT),
    ("rbac.authorization.k8s.io", "ClusterRole", &rbac::ROLE),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", &rbac::BINDING),
    ("rbac.authorization.k8s.io", "Role", &rbac::ROLE),
    ("rbac.authorization.k8s.io", "RoleBinding", &rbac::BINDING),
    ("scheduling.k8s.io", "PriorityClass", &workload::PRIORITY_CLASS),
];

/// How a kind is shown.
pub fn shown(kind: &Kind) -> &'static Shown {
    KINDS.iter().find(|row| row.0 == kind.group && row.1 == kind.kind).map_or(&PLAIN, |row| row.2)
}

/// A table being made.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub shown: &'static Shown,
    pub include: Include,
    /// `v1` or `v1beta1`, as the client asked.
    pub version: &'static str,
}

impl Form {
    /// A Table of these objects. `metadata`: of the list. `columns`: the definitions too; a watch says them once.
    pub fn table(&self, items: Vec<Value>, metadata: Value, now: Timestamp, columns: bool) -> Value {
        let definitions = if columns { self.definitions() } else { json!([]) };
        let rows: Vec<Value> = items.into_iter().map(|object| self.row(object, now)).collect();
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        })
    }

    pub fn definitions(&self) -> Value {
        self.shown.columns.iter().map(Column::definition).collect()
    }

    pub fn row(&self, object: Value, now: Timestamp) -> Value {
        let mut row = Map::new();
        row.insert("cells".to_owned(), (self.shown.cells)(&object, now).into());
        match self.include {
            Include::Nothing => {}
            Include::Metadata => {
                row.insert("object".to_owned(), partial(object, self.version));
            }
            Include::Object => {
                row.insert("object".to_owned(), object);
            }
        }
        Value::Object(row)
    }
}

/// An object's metadata alone.
pub fn partial(mut object: Value, version: &str) -> Value {
    let metadata = object["metadata"].take();
    json!({ "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata })
}

impl Column {
    fn definition(&self) -> Value {
        let (of, format) = match self.cell {
            Cell::Name => ("string", "name"),
            Cell::Text => ("string", ""),
            Cell::Number => ("integer", ""),
            Cell::Truth => ("boolean", ""),
        };
        json!({ "name": self.name, "type": of, "format": format, "description": "", "priority": i32::from(self.wide) })
    }
}
