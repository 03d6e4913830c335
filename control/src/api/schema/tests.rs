//! The tables against the Kubernetes types: their schemas say which fields there are, and their own merging says which lists have
//! which keys. That merging follows the markers of strategic merge patch where a list has them and those of server-side apply where not.

use std::collections::BTreeSet;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::{apps, coordination, core, discovery, events, rbac, scheduling};
use serde_json::{Value, json};

use super::{Apply, List, PLAIN, Patch, Shape, Type, kind};

/// Merges two documents as the Kubernetes type does.
type Merge = dyn Fn(&Value, &Value) -> Value;

struct Walk<'a> {
    root: &'a Value,
    merge: &'a Merge,
    /// How many lists and maps were tried, so that a walk that sees nothing fails.
    tried: usize,
    /// Rows that were met.
    met: BTreeSet<String>,
}

/// Where a value stands in a document: fields, and lists with the key values of the item.
#[derive(Clone)]
enum Step {
    Field(String),
    Item(Value),
}

fn document(path: &[Step], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, step| match step {
        Step::Field(name) => json!({ name: inner }),
        Step::Item(keys) => {
            let mut item = keys.clone();
            for (key, value) in inner.as_object().into_iter().flatten() {
                item[key] = value.clone();
            }
            json!([item])
        }
    })
}

fn at<'v>(document: &'v Value, path: &[Step]) -> &'v Value {
    path.iter().fold(document, |value, step| match step {
        Step::Field(name) => &value[name],
        Step::Item(_) => &value[0],
    })
}

impl<'a> Walk<'a> {
    /// Follows references, and the one schema of a list of alternatives that is not null.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
            return self.resolve(&self.root["$defs"][name]);
        }
        for list in ["allOf", "anyOf"] {
            if let Some(inner) = schema[list].as_array().and_then(|l| l.iter().find(|s| s["type"] != "null")) {
                return self.resolve(inner);
            }
        }
        schema
    }

    fn object(&mut self, schema: &'a Value, of: &'static Type, path: &[Step], depth: usize) {
        let schema = self.resolve(schema);
        // JSONSchemaProps and the like refer to themselves; no kind of ours is as deep.
        assert!(depth < 20);
        let Some(properties) = schema["properties"].as_object() else {
            assert!(of.0.is_empty(), "{} has no fields", name(path));
            return;
        };
        for (name, _) in of.0 {
            assert!(properties.contains_key(*name), "Kubernetes has no field {name} beside {:?}", properties.keys());
        }
        for (name, property) in properties {
            let property = self.resolve(property);
            let mut below = path.to_vec();
            below.push(Step::Field(name.clone()));
            let is =
                |t: &str| property["type"] == t || property["type"].as_array().is_some_and(|l| l.contains(&json!(t)));
            if is("array") {
                self.list(property, of.field(name), &below, depth);
            } else if property["properties"].is_object() {
                assert!(!matches!(of.field(name), Some(Shape::List(_))), "{name} is no list");
                self.object(property, of.object(name), &below, depth + 1);
            } else if property["additionalProperties"].is_object() {
                self.map(property, of.field(name), &below);
            }
        }
    }

    fn merged(&mut self, path: &[Step], one: Value, other: Value) -> usize {
        self.tried += 1;
        let merged = (self.merge)(&document(path, one.clone()), &document(path, other.clone()));
        let value = at(&merged, path);
        match (value.as_array(), value.as_object()) {
            (Some(list), _) => list.len(),
            (_, Some(map)) => map.len(),
            _ => panic!("{merged} lost {one} and {other}"),
        }
    }

    fn map(&mut self, schema: &'a Value, shape: Option<Shape>, path: &[Step]) {
        if self.resolve(&schema["additionalProperties"])["type"] != "string" {
            return;
        }
        // Base64, for the maps whose values are bytes.
        let merged = self.merged(path, json!({"a": "MQ=="}), json!({"b": "Mg=="}));
        assert_eq!(merged == 1, matches!(shape, Some(Shape::Atomic(_))), "{:?}", name(path));
    }

    fn list(&mut self, schema: &'a Value, shape: Option<Shape>, path: &[Step], depth: usize) {
        let item = self.resolve(&schema["items"]);
        let replace = List { apply: Apply::Atomic, patch: Patch::Replace, item: &PLAIN };
        let list = match shape {
            Some(Shape::List(list)) => list,
            None => replace,
            Some(other) => panic!("{}: a list is {other:?}", name(path)),
        };
        self.met.insert(name(path));
        let Some(properties) = item["properties"].as_object() else {
            let (one, other) =
                if item["type"] == "integer" { (json!([1]), json!([2])) } else { (json!(["a"]), json!(["b"])) };
            let united = list.patch == Patch::Union || list.apply == Apply::Set;
            assert_eq!(self.merged(path, one, other), if united { 2 } else { 1 }, "{}", name(path));
            return;
        };
        let keys: Vec<&str> = match (list.patch, list.apply) {
            (Patch::ByKey(key), _) => vec![key],
            (_, Apply::Map(keys)) => keys.to_vec(),
            _ => Vec::new(),
        };
        let sample = |n: i64, only: &dyn Fn(&str) -> bool| {
            let mut made = json!({});
            for (name, schema) in properties.iter().filter(|(name, _)| only(name)) {
                let schema = self.resolve(schema);
                let is =
                    |t: &str| schema["type"] == t || schema["type"].as_array().is_some_and(|l| l.contains(&json!(t)));
                // Quantities are strings with a format, and no keys.
                if is("integer") {
                    made[name] = json!(n);
                } else if is("string") && schema["format"].is_null() && schema["enum"].is_null() {
                    made[name] = json!(format!("v{n}"));
                } else if schema["format"] == "date-time" {
                    made[name] = json!(format!("2026-01-01T00:00:0{n}Z"));
                }
            }
            made
        };
        let all = |_: &str| true;
        let key = |name: &str| keys.contains(&name);
        let (one, other, same) = (sample(1, &all), sample(2, &all), sample(1, &key));
        assert_eq!(
            self.merged(path, json!([one]), json!([other])),
            if keys.is_empty() { 1 } else { 2 },
            "{}",
            name(path)
        );
        if keys.is_empty() {
            return;
        }
        let mut renamed = other;
        for key in &keys {
            renamed[key] = same[key].clone();
        }
        assert_eq!(self.merged(path, json!([one]), json!([renamed])), 1, "{} by {keys:?}", name(path));
        if let Apply::Map(keys) = list.apply {
            assert!(keys.iter().all(|k| properties.contains_key(*k)), "{} has no {keys:?}", name(path));
        }
        let mut below = path.to_vec();
        below.push(Step::Item(same));
        self.object(item, list.item, &below, depth + 1);
    }
}

fn name(path: &[Step]) -> String {
    let fields = path.iter().filter_map(|s| match s {
        Step::Field(name) => Some(name.as_str()),
        Step::Item(_) => None,
    });
    fields.collect::<Vec<_>>().join(".")
}

fn check<T>(group: &str, name: &str) -> BTreeSet<String>
where
    T: DeepMerge + serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema,
{
    let root = schemars::schema_for!(T).to_value();
    let merge = |one: &Value, other: &Value| {
        let read = |v: &Value| serde_json::from_value::<T>(v.clone()).unwrap_or_else(|e| panic!("{v}: {e}"));
        let mut merged = read(one);
        merged.merge_from(read(other));
        serde_json::to_value(merged).unwrap()
    };
    let of = kind(group, name).unwrap_or_else(|| panic!("{name} has no row"));
    let mut walk = Walk { root: &root, merge: &merge, tried: 0, met: BTreeSet::new() };
    walk.object(&root, of, &[], 0);
    assert!(walk.tried > 2, "{name}: the walk saw nothing");
    walk.met
}

#[test]
fn every_list_and_map_is_what_it_is_in_the_kubernetes_types() {
    check::<core::v1::Namespace>("", "Namespace");
    check::<core::v1::Node>("", "Node");
    check::<core::v1::Event>("", "Event");
    check::<core::v1::ConfigMap>("", "ConfigMap");
    check::<core::v1::Secret>("", "Secret");
    check::<core::v1::Service>("", "Service");
    check::<core::v1::ServiceAccount>("", "ServiceAccount");
    check::<apps::v1::ControllerRevision>("apps", "ControllerRevision");
    check::<coordination::v1::Lease>("coordination.k8s.io", "Lease");
    check::<discovery::v1::EndpointSlice>("discovery.k8s.io", "EndpointSlice");
    check::<events::v1::Event>("events.k8s.io", "Event");
    check::<rbac::v1::Role>("rbac.authorization.k8s.io", "Role");
    check::<rbac::v1::RoleBinding>("rbac.authorization.k8s.io", "RoleBinding");
    check::<rbac::v1::ClusterRole>("rbac.authorization.k8s.io", "ClusterRole");
    check::<rbac::v1::ClusterRoleBinding>("rbac.authorization.k8s.io", "ClusterRoleBinding");
    check::<scheduling::v1::PriorityClass>("scheduling.k8s.io", "PriorityClass");
    let pod = check::<core::v1::Pod>("", "Pod");
    let daemonset = check::<apps::v1::DaemonSet>("apps", "DaemonSet");
    assert!(pod.contains("spec.containers.volumeMounts") && pod.contains("status.containerStatuses"), "{pod:?}");
    assert!(daemonset.contains("spec.template.spec.initContainers.env"), "{daemonset:?}");
}

#[test]
fn what_the_types_cannot_tell_is_what_the_document_says() {
    let container = |field: &str| {
        let Some(Shape::List(list)) = kind("", "Pod").unwrap().object("spec").field("containers") else { panic!() };
        list.item.field(field)
    };
    let Some(Shape::List(ports)) = container("ports") else { panic!("ports") };
    assert_eq!((ports.apply, ports.patch), (Apply::Map(&["containerPort", "protocol"]), Patch::ByKey("containerPort")));
    let Some(Shape::List(claims)) =
        super::kinds::kind("", "Pod").unwrap().object("spec").object("resources").field("claims")
    else {
        panic!("claims")
    };
    assert_eq!((claims.apply, claims.patch), (Apply::Map(&["name"]), Patch::Replace));
    assert!(matches!(kind("apps", "DaemonSet").unwrap().object("spec").field("selector"), Some(Shape::Atomic(_))));
    assert!(matches!(kind("apps", "ControllerRevision").unwrap().field("data"), Some(Shape::Atomic(_))));
}

#[test]
fn rows_stand_in_order_and_once() {
    fn walk(of: &'static Type) {
        assert!(of.0.is_sorted_by(|a, b| a.0 < b.0), "{of:?}");
        for (_, shape) in of.0 {
            match shape {
                Shape::Object(of) | Shape::Atomic(of) => walk(of),
                Shape::List(list) => walk(list.item),
            }
        }
    }
    walk(kind("", "Pod").unwrap());
    walk(kind("apps", "DaemonSet").unwrap());
    walk(kind("", "Node").unwrap());
}
