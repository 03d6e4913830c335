//! The Kubernetes types as OpenAPI schemas, each with the rules by which its lists and maps are merged.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps, authentication, authorization, coordination, core, discovery, events, policy, rbac, scheduling,
};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Form;
use crate::api::kinds::Kind;
use crate::api::schema::{self, Apply, PLAIN, Patch, Shape, Type};

type Make = fn(&mut SchemaGenerator) -> Schema;

/// The type of each kind that bodies and documents know.
static TYPES: &[(&str, &str, Make)] = &[
    ("", "Binding", SchemaGenerator::subschema_for::<core::v1::Binding>),
    ("", "ConfigMap", SchemaGenerator::subschema_for::<core::v1::ConfigMap>),
    ("", "Event", SchemaGenerator::subschema_for::<core::v1::Event>),
    ("", "Namespace", SchemaGenerator::subschema_for::<core::v1::Namespace>),
    ("", "Node", SchemaGenerator::subschema_for::<core::v1::Node>),
    ("", "Pod", SchemaGenerator::subschema_for::<core::v1::Pod>),
    ("", "Secret", SchemaGenerator::subschema_for::<core::v1::Secret>),
    ("", "Service", SchemaGenerator::subschema_for::<core::v1::Service>),
    ("", "ServiceAccount", SchemaGenerator::subschema_for::<core::v1::ServiceAccount>),
    ("apps", "ControllerRevision", SchemaGenerator::subschema_for::<apps::v1::ControllerRevision>),
    ("apps", "DaemonSet", SchemaGenerator::subschema_for::<apps::v1::DaemonSet>),
    (
        "authentication.k8s.io",
        "SelfSubjectReview",
        SchemaGenerator::subschema_for::<authentication::v1::SelfSubjectReview>,
    ),
    ("authentication.k8s.io", "TokenRequest", SchemaGenerator::subschema_for::<authentication::v1::TokenRequest>),
    ("authentication.k8s.io", "TokenReview", SchemaGenerator::subschema_for::<authentication::v1::TokenReview>),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        SchemaGenerator::subschema_for::<authorization::v1::LocalSubjectAccessReview>,
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        SchemaGenerator::subschema_for::<authorization::v1::SelfSubjectAccessReview>,
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        SchemaGenerator::subschema_for::<authorization::v1::SelfSubjectRulesReview>,
    ),
    (
        "authorization.k8s.io",
        "SubjectAccessReview",
        SchemaGenerator::subschema_for::<authorization::v1::SubjectAccessReview>,
    ),
    ("coordination.k8s.io", "Lease", SchemaGenerator::subschema_for::<coordination::v1::Lease>),
    ("discovery.k8s.io", "EndpointSlice", SchemaGenerator::subschema_for::<discovery::v1::EndpointSlice>),
    ("events.k8s.io", "Event", SchemaGenerator::subschema_for::<events::v1::Event>),
    ("policy", "Eviction", SchemaGenerator::subschema_for::<policy::v1::Eviction>),
    ("rbac.authorization.k8s.io", "ClusterRole", SchemaGenerator::subschema_for::<rbac::v1::ClusterRole>),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", SchemaGenerator::subschema_for::<rbac::v1::ClusterRoleBinding>),
    ("rbac.authorization.k8s.io", "Role", SchemaGenerator::subschema_for::<rbac::v1::Role>),
    ("rbac.authorization.k8s.io", "RoleBinding", SchemaGenerator::subschema_for::<rbac::v1::RoleBinding>),
    ("scheduling.k8s.io", "PriorityClass", SchemaGenerator::subschema_for::<scheduling::v1::PriorityClass>),
];

/// Where references of either form point.
const V3_PREFIX: &str = "#/components/schemas/";
const V2_PREFIX: &str = "#/definitions/";

/// The name of a kind's schema; None: it has none.
pub fn name(group: &str, kind: &str) -> Option<String> {
    let (_, _, make) = TYPES.iter().find(|row| row.0 == group && row.1 == kind)?;
    let mut generator = generator();
    reference(make(&mut generator).as_value()).map(str::to_owned)
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into()).into_generator()
}

/// What a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

/// What a whole object is, and how it is merged.
struct Root {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    rows: &'static Type,
}

/// The schemas of these kinds, of what is posted to their parts, and of all that they consist of.
pub fn schemas(kinds: &[&Kind], form: Form) -> Map<String, Value> {
    let own = kinds.iter().map(|k| Root { group: k.group, version: k.version, kind: k.kind, rows: k.schema });
    let of_parts = kinds.iter().flat_map(|kind| kind.subresources).map(|sub| {
        let (group, version, kind) = sub.kind;
        Root { group, version, kind, rows: schema::kind(group, kind).unwrap_or(&PLAIN) }
    });
    let mut generator = generator();
    let mut roots: BTreeMap<String, Root> = BTreeMap::new();
    for root in own.chain(of_parts) {
        let Some((_, _, make)) = TYPES.iter().find(|row| row.0 == root.group && row.1 == root.kind) else { continue };
        if let Some(name) = reference(make(&mut generator).as_value()) {
            roots.insert(name.to_owned(), root);
        }
    }
    let definitions = generator.take_definitions(false);
    let mut rows = BTreeMap::new();
    for (name, root) in &roots {
        follow(&definitions, name, root.rows, &mut rows);
    }
    let mut schemas = Map::new();
    for (name, definition) in definitions {
        let mut schema = convert(definition, &name, form);
        annotate(&mut schema, rows.get(&name).copied().unwrap_or(&PLAIN));
        if let Some(root) = roots.get(&name) {
            whole_object(&mut schema, root);
        }
        schemas.insert(name, schema);
    }
    schemas
}

/// Notes which rows belong to which definition, from a kind down.
fn follow(definitions: &Map<String, Value>, name: &str, of: &'static Type, rows: &mut BTreeMap<String, &'static Type>) {
    if of.0.is_empty() || rows.insert(name.to_owned(), of).is_some() {
        return;
    }
    for (field, shape) in of.0 {
        let property = &definitions[name]["properties"][*field];
        let (inner, of) = match shape {
            Shape::Object(of) | Shape::Atomic(of) => (property, of),
            Shape::List(list) => (&property["items"], &list.item),
        };
        if let Some(inner) = reference(inner) {
            follow(definitions, inner, of, rows);
        }
    }
}

/// An object that is written and read by itself: its group, version and kind, and nothing of it has to be said by a client.
fn whole_object(schema: &mut Value, root: &Root) {
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": root.group, "version": root.version, "kind": root.kind }]);
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Array(mut required)) = schema.remove("required") {
        required.retain(|name| name != "metadata");
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
    }
}

/// Puts the merge rules beside the properties that have some.
fn annotate(schema: &mut Value, of: &'static Type) {
    for (field, shape) in of.0 {
        let Some(Value::Object(property)) = schema["properties"].get_mut(*field) else { continue };
        let mut say = |name: &str, value: Value| {
            property.insert(format!("x-kubernetes-{name}"), value);
        };
        match shape {
            Shape::Object(_) => {}
            Shape::Atomic(_) => say("map-type", "atomic".into()),
            Shape::List(list) => {
                match list.apply {
                    Apply::Atomic => say("list-type", "atomic".into()),
                    Apply::Set => say("list-type", "set".into()),
                    Apply::Map(keys) => {
                        say("list-type", "map".into());
                        say("list-map-keys", json!(keys));
                    }
                }
                match list.patch {
                    Patch::Replace => {}
                    Patch::Union => say("patch-strategy", "merge".into()),
                    Patch::ByKey(key) => {
                        // A volume that changes its kind loses what belonged to the former.
                        let strategy = if *field == "volumes" { "merge,retainKeys" } else { "merge" };
                        say("patch-strategy", strategy.into());
                        say("patch-merge-key", key.into());
                    }
                }
            }
        }
    }
}

/// A schema as schemars makes it, in the words of the form.
fn convert(schema: Value, name: &str, form: Form) -> Value {
    let Value::Object(mut schema) = schema else { return schema };
    if schema.remove("x-kubernetes-int-or-string").is_some() {
        let quantity = name.ends_with(".Quantity");
        match (form, quantity) {
            (Form::V2, _) => schema.insert("type".into(), "string".into()),
            (Form::V3, true) => schema.insert("oneOf".into(), json!([{ "type": "string" }, { "type": "number" }])),
            (Form::V3, false) => schema.insert("oneOf".into(), json!([{ "type": "integer" }, { "type": "string" }])),
        };
        if !quantity {
            schema.insert("format".into(), "int-or-string".into());
        }
    }
    if let Some(Value::String(to)) = schema.remove("$ref") {
        let to = to.rsplit('/').next().unwrap_or_default();
        if form == Form::V2 {
            schema.insert("$ref".into(), format!("{V2_PREFIX}{to}").into());
        } else if schema.is_empty() {
            schema.insert("$ref".into(), format!("{V3_PREFIX}{to}").into());
        } else {
            schema.insert("allOf".into(), json!([{ "$ref": format!("{V3_PREFIX}{to}") }]));
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.remove(key) {
            schema.insert(key.into(), convert(inner, "", form));
        }
    }
    if let Some(Value::Object(properties)) = schema.remove("properties") {
        let properties = properties.into_iter().map(|(name, inner)| (name, convert(inner, "", form)));
        schema.insert("properties".into(), Value::Object(properties.collect()));
    }
    Value::Object(schema)
}
