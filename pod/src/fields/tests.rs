use serde_json::Value;

use super::{Place, Shape, Verdict, document, status};
use crate::name::WorkloadKind;

/// Committed beside the code, and made by [`document`].
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pod-fields.md");

#[test]
fn committed_page_is_the_tables() {
    let page = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(committed == page, "docs/pod-fields.md is old: run `UPDATE_DOCS=1 cargo test -p pod fields`");
}

#[test]
fn every_row_has_its_parents() {
    fn walk(place: &Place, path: &str) {
        for (name, below) in &place.below {
            let path = format!("{path}.{name}");
            assert!(below.field.is_some(), "{path} has no row of its own");
            walk(below, &path);
        }
    }
    walk(Place::root(WorkloadKind::Pod), "");
    walk(Place::root(WorkloadKind::DaemonSet), "");
}

/// What a field's type must be by its schema.
fn shape_fits(shape: Shape, schema: &Value) -> bool {
    let kind = schema["type"].as_str().unwrap_or_default();
    let items = schema["items"]["type"].as_str().unwrap_or_default();
    match shape {
        Shape::Text => kind == "string",
        Shape::Integer => kind == "integer",
        Shape::Boolean => kind == "boolean",
        Shape::Object => kind == "object" && schema["additionalProperties"].is_null(),
        Shape::Objects => kind == "array" && items == "object",
        Shape::Texts => kind == "array" && items == "string",
        Shape::Integers => kind == "array" && items == "integer",
        Shape::TextMap | Shape::QuantityMap => kind == "object" && !schema["additionalProperties"].is_null(),
        Shape::Quantity | Shape::IntegerOrText => !matches!(kind, "object" | "array" | "boolean"),
        Shape::Any => true,
    }
}

/// Follows references, and `anyOf`/`allOf` of one, until a schema stands there.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return resolve(&root["$defs"][name], root);
    }
    for list in ["allOf", "anyOf"] {
        if let Some(inner) = schema[list].as_array().and_then(|l| l.iter().find(|s| s["type"] != "null")) {
            return resolve(inner, root);
        }
    }
    schema
}

/// Compares a place with the schema of the same object; pushes what does not agree.
fn compare(place: &Place, schema: &Value, root: &Value, path: &str, wrong: &mut Vec<String>) {
    let schema = resolve(schema, root);
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    assert!(!properties.is_empty(), "{path} has no fields in its schema: {schema}");
    for (name, schema) in &properties {
        let path = format!("{path}.{name}");
        let Some((below, field)) = place.below(name).and_then(|p| Some((p, p.field?))) else {
            wrong.push(format!("{path} has no row"));
            continue;
        };
        let mut value = resolve(schema, root).clone();
        value["items"] = resolve(&value["items"], root).clone();
        if !shape_fits(field.shape, &value) {
            wrong.push(format!("{path} is no {:?}: {value}", field.shape));
        }
        if matches!(field.verdict, Verdict::Honoured(_)) {
            match field.shape {
                Shape::Object => compare(below, &value, root, &path, wrong),
                Shape::Objects => compare(below, &value["items"], root, &path, wrong),
                _ => {}
            }
        }
    }
    for name in place.names().filter(|name| !properties.contains_key(*name)) {
        wrong.push(format!("{path}.{name} does not exist in Kubernetes"));
    }
}

#[test]
fn every_field_of_kubernetes_has_a_row() {
    let mut wrong = Vec::new();
    let pod = schemars::schema_for!(k8s_openapi::api::core::v1::Pod).to_value();
    compare(Place::root(WorkloadKind::Pod), &pod, &pod, "", &mut wrong);
    let daemon_set = schemars::schema_for!(k8s_openapi::api::apps::v1::DaemonSet).to_value();
    compare(Place::root(WorkloadKind::DaemonSet), &daemon_set, &daemon_set, "", &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All paths of a status by its schema, below fields that are left out none.
fn status_paths(schema: &Value, root: &Value, path: &str, paths: &mut Vec<String>) {
    let schema = resolve(schema, root);
    let empty = serde_json::Map::new();
    for (name, schema) in schema["properties"].as_object().unwrap_or(&empty) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        paths.push(path.clone());
        if matches!(status::shown(&path), Some(status::Shown::Yes(_))) {
            let schema = resolve(schema, root);
            status_paths(schema, root, &path, paths);
            status_paths(&schema["items"], root, &format!("{path}[]"), paths);
        }
    }
}

#[test]
fn every_field_of_a_status_is_shown_or_left_out_for_a_reason() {
    let schema = schemars::schema_for!(k8s_openapi::api::core::v1::PodStatus).to_value();
    let mut paths = Vec::new();
    status_paths(&schema, &schema, "", &mut paths);
    let missing: Vec<&String> = paths.iter().filter(|path| status::shown(path).is_none()).collect();
    assert!(missing.is_empty(), "no row in pod/src/fields/status.rs for {missing:#?}");
    let of_container = status::CONTAINER.iter().map(|(path, _)| format!("containerStatuses[].{path}"));
    let rows = status::POD.iter().map(|(path, _)| (*path).to_owned()).chain(of_container);
    let unknown: Vec<String> = rows.filter(|path| !paths.contains(path)).collect();
    assert!(unknown.is_empty(), "Kubernetes has no {unknown:#?}");
}
