//! The documents in which kubectl looks up what an object may have: OpenAPI v3, a document a group, and v2 for old clients.
//!
//! Served by the HTTP door, which keeps neither: a document is made from the Kubernetes types when it is asked for and dropped once it is sent,
//! because it is megabytes that a client asks for once. [`schemas`] are the types with the merge rules of [`super::schema`], [`paths`] what may
//! be done with them; [`gnostic`] is the protobuf of v2.

mod gnostic;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::kinds::{Kind, kinds};

/// Which of the two forms a document has; they differ in where references point and in how parameters are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    V2,
    V3,
}

/// What clients take us for: the release of Kubernetes whose kinds these are, and our own version as its build.
pub const KUBERNETES_VERSION: &str = concat!("v1.36.0+daemonlet.", env!("CARGO_PKG_VERSION"));
/// Major and minor of the same.
pub const KUBERNETES_RELEASE: (&str, &str) = ("1", "36");

/// To be raised when a document changes and neither the program's version nor the table of kinds does.
const REVISION: u32 = 1;

/// The documents of v3 and where they are: what `/openapi/v3` answers. The hash in an address changes with what is there, so that clients may
/// keep what they have.
pub fn index() -> Value {
    let hash = hash();
    let paths = group_versions().into_iter().map(|(group, version)| {
        let path = root(group, version);
        let place = json!({ "serverRelativeURL": format!("/openapi/v3{path}?hash={hash}") });
        (path.trim_start_matches('/').to_owned(), place)
    });
    json!({ "paths": paths.collect::<Map<String, Value>>() })
}

/// What the documents are made from, as a number that changes with it.
pub fn hash() -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {REVISION}", env!("CARGO_PKG_VERSION")));
    for kind in kinds() {
        hash.update(format!("{} {} {} {:?}\n", kind.group, kind.version, kind.kind, kind.verbs));
        kind.subresources.iter().for_each(|sub| hash.update(format!("{} {:?}\n", sub.name, sub.verbs)));
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

/// The v3 document of a group; None: no kind of ours is in it.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = kinds().iter().filter(|kind| kind.group == group && kind.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::paths(&kinds, Form::V3),
        "components": { "schemas": schemas::schemas(&kinds, Form::V3) },
    }))
}

/// The v2 document of everything, as JSON.
pub fn v2() -> Value {
    let kinds: Vec<&Kind> = kinds().iter().collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::paths(&kinds, Form::V2),
        "definitions": schemas::schemas(&kinds, Form::V2),
    })
}

/// The same in gnostic's protobuf, the only form that old kubectl asks for.
pub fn v2_protobuf() -> Vec<u8> {
    gnostic::document(&v2())
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": KUBERNETES_VERSION })
}

/// `/api/v1`, `/apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// In the order of the table, each once.
fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for kind in kinds() {
        if !seen.contains(&(kind.group, kind.version)) {
            seen.push((kind.group, kind.version));
        }
    }
    seen
}
