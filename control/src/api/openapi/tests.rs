//! The documents as their readers look things up in them.

use serde_json::{Value, json};

use super::*;
use crate::api::protobuf::read::{Field, Reader};

fn references(of: &Value, found: &mut Vec<String>) {
    match of {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

fn all_lead_somewhere(document: &Value) {
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(found.len() > 10);
    for reference in found {
        let place = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
        assert!(document.pointer(place).is_some(), "{reference}");
    }
}

#[test]
fn every_reference_leads_somewhere_in_both_forms() {
    for (group, version) in group_versions() {
        all_lead_somewhere(&v3(group, version).unwrap());
    }
    all_lead_somewhere(&v2());
    assert_eq!(v3("batch", "v1"), None);
}

#[test]
fn every_kind_is_found_by_its_group_version_and_kind_and_takes_field_validation() {
    for kind in kinds() {
        let document = v3(kind.group, kind.version).unwrap();
        let gvk = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let own: Vec<_> =
            schemas.values().filter(|schema| schema["x-kubernetes-group-version-kind"] == json!([gvk])).collect();
        assert_eq!(own.len(), 1, "{kind:?}");
        assert!(
            own[0]["required"].as_array().is_none_or(|required| !required.contains(&json!("metadata"))),
            "{kind:?}"
        );
        if !kind.verbs.contains(&"patch") {
            continue;
        }
        let of_it = |path: &&Value| path["patch"]["x-kubernetes-group-version-kind"] == gvk;
        let path = document["paths"].as_object().unwrap().values().find(of_it).unwrap_or_else(|| panic!("{kind:?}"));
        let parameters = path["patch"]["parameters"].as_array().unwrap();
        for wanted in ["fieldValidation", "dryRun", "force", "fieldManager"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == wanted), "{kind:?} {wanted}");
        }
        assert!(path["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    }
}

#[test]
fn lists_say_how_they_are_merged() {
    let document = v3("apps", "v1").unwrap();
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    let containers = &pod["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(pod["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(pod["nodeSelector"]["x-kubernetes-map-type"], "atomic");
    assert_eq!(pod["tolerations"].get("x-kubernetes-patch-strategy"), None);
}

#[test]
fn numbers_or_texts_are_said_as_each_form_says_them() {
    let either = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
    let v3 = v3("apps", "v1").unwrap();
    let schema = &v3["components"]["schemas"][either];
    assert_eq!(schema["oneOf"], json!([{ "type": "integer" }, { "type": "string" }]));
    let v2 = v2();
    assert_eq!(v2["definitions"][either]["type"], "string");
    for document in [v3.to_string(), v2.to_string()] {
        assert!(!document.contains("x-kubernetes-int-or-string") && !document.contains("$defs"));
    }
}

#[test]
fn the_address_of_a_document_changes_with_what_is_in_it() {
    let index = index();
    let place = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(place, format!("/openapi/v3/apis/apps/v1?hash={}", hash()));
    assert!(index["paths"]["api/v1"].is_object());
}

/// The message in the field of this number whose first field is this name.
fn named<'a>(bytes: &'a [u8], number: u32, name: &str) -> Option<&'a [u8]> {
    Reader(bytes).find_map(|field| match field.unwrap() {
        (of, Field::Bytes(entry)) if of == number && text(entry, 1) == name => inner(entry, 2),
        _ => None,
    })
}

fn inner(bytes: &[u8], number: u32) -> Option<&[u8]> {
    Reader(bytes).find_map(|field| match field.unwrap() {
        (of, Field::Bytes(bytes)) if of == number => Some(bytes),
        _ => None,
    })
}

fn text(bytes: &[u8], number: u32) -> String {
    String::from_utf8(inner(bytes, number).unwrap_or_default().to_vec()).unwrap()
}

#[test]
fn the_protobuf_of_v2_has_the_same_in_gnostics_numbers() {
    let document = v2_protobuf();
    assert_eq!(text(&document, 1), "2.0");
    let definitions = inner(&document, 9).unwrap();
    let daemonset = named(definitions, 1, "io.k8s.api.apps.v1.DaemonSet").unwrap();
    assert_eq!(text(inner(daemonset, 22).unwrap(), 1), "object");
    let gvk = named(daemonset, 31, "x-kubernetes-group-version-kind").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text(gvk, 2)).unwrap()[0]["kind"], "DaemonSet");
    let spec = named(inner(daemonset, 25).unwrap(), 1, "spec").unwrap();
    assert_eq!(text(spec, 1), "#/definitions/io.k8s.api.apps.v1.DaemonSetSpec");
    let paths = inner(&document, 8).unwrap();
    let path = named(paths, 2, "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}").unwrap();
    let patch = inner(path, 8).unwrap();
    let of_patch = named(patch, 13, "x-kubernetes-group-version-kind").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text(of_patch, 2)).unwrap()["kind"], "DaemonSet");
    // Parameter, not in the body, of the query.
    let is_dry_run = |field: &[u8]| {
        let parameter = inner(field, 1).and_then(|p| inner(p, 2)).and_then(|p| inner(p, 3));
        parameter.is_some_and(|parameter| text(parameter, 4) == "dryRun" && text(parameter, 6) == "string")
    };
    let parameters = Reader(patch).filter_map(|field| match field.unwrap() {
        (8, Field::Bytes(bytes)) => Some(bytes),
        _ => None,
    });
    assert_eq!(parameters.filter(|parameter| is_dry_run(parameter)).count(), 1);
}
