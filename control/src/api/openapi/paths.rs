//! What may be done with the kinds: each path with its methods, the parameters that kubectl looks for, and the types of bodies.

use serde_json::{Map, Value, json};

use super::{Form, root, schemas};
use crate::api::kinds::Kind;

/// What a body of a patch may be.
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// What other bodies may be.
const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const ANSWER: &str = "application/json";

/// Parameters of a query: the name, its type, what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Whether the answer is indented for people.");
const DRY_RUN: Parameter =
    ("dryRun", "string", "`All`: the request is checked in full and answered, and nothing is kept.");
const MANAGER: Parameter = ("fieldManager", "string", "The name under which the fields that change are owned.");
const VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What unknown and repeated fields are: `Ignore`d, a `Warn`ing or refused (`Strict`).",
);
const FORCE: Parameter = ("force", "boolean", "An applied configuration takes fields from their owners.");
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "A watch says now and then how far it is."),
    ("continue", "string", "Where the part before ended."),
    ("fieldSelector", "string", "Only objects whose fields have these values."),
    ("labelSelector", "string", "Only objects whose labels are like this."),
    ("limit", "integer", "So many objects at most; the answer says where to go on."),
    ("resourceVersion", "string", "Not older than this, or where a watch begins."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: `Exact` or `NotOlderThan`."),
    ("sendInitialEvents", "boolean", "A watch begins with what there is."),
    ("timeoutSeconds", "integer", "The longest time that the request may take."),
    ("watch", "boolean", "Changes as they happen in place of a list."),
];
const DELETE: &[Parameter] = &[
    ("gracePeriodSeconds", "integer", "How long the object has to end by itself."),
    ("orphanDependents", "boolean", "What depends on it stays; propagationPolicy is the newer word."),
    ("propagationPolicy", "string", "What becomes of what depends on it: `Orphan`, `Background` or `Foreground`."),
];

/// One method on a path.
struct Operation<'a> {
    method: &'static str,
    /// `list`, `post`: what Kubernetes calls it.
    action: &'static str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    id: String,
    query: Vec<Parameter>,
    body: &'static [&'static str],
}

/// The paths of these kinds.
pub fn paths(kinds: &[&Kind], form: Form) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let root = root(kind.group, kind.version);
        let space = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{space}/{}", kind.resource);
        let item = format!("{collection}/{{name}}");
        let on = |verbs: &[&str], wanted: &[&'static str], sub: &str, of: (&str, &str, &str)| {
            let of_verb = |verb: &&'static str| verbs.contains(verb).then(|| operation(verb, kind, sub, of));
            wanted.iter().filter_map(of_verb).map(|op| (op.method.to_owned(), op.write(form))).collect::<Map<_, _>>()
        };
        let own = (kind.group, kind.version, kind.kind);
        add(&mut paths, &collection, on(kind.verbs, &["list", "create", "deletecollection"], "", own), form);
        if kind.namespaced {
            add(&mut paths, &format!("{root}/{}", kind.resource), on(kind.verbs, &["list"], "", own), form);
        }
        add(&mut paths, &item, on(kind.verbs, &["get", "update", "patch", "delete"], "", own), form);
        for sub in kind.subresources {
            let all = ["get", "create", "update", "patch", "delete"];
            add(&mut paths, &format!("{item}/{}", sub.name), on(sub.verbs, &all, sub.name, sub.kind), form);
        }
    }
    paths
}

/// A path with its methods and the parameters in it.
fn add(paths: &mut Map<String, Value>, path: &str, mut operations: Map<String, Value>, form: Form) {
    if operations.is_empty() {
        return;
    }
    let named = |name: &&str| path.contains(&format!("{{{name}}}"));
    let mut parameters: Vec<Value> = ["name", "namespace"]
        .iter()
        .filter(|name| named(name))
        .map(|name| parameter((name, "string", "Of the object."), "path", form))
        .collect();
    parameters.push(parameter(PRETTY, "query", form));
    operations.insert("parameters".into(), parameters.into());
    paths.insert(path.to_owned(), Value::Object(operations));
}

fn operation<'a>(verb: &'static str, kind: &'a Kind, sub: &str, of: (&'a str, &'a str, &'a str)) -> Operation<'a> {
    let (method, action, query, body): (_, _, Vec<Parameter>, &'static [&'static str]) = match verb {
        "list" => ("get", "list", LIST.to_vec(), &[]),
        "get" => ("get", "get", Vec::new(), &[]),
        "create" => ("post", "post", vec![DRY_RUN, MANAGER, VALIDATION], BODIES),
        "update" => ("put", "put", vec![DRY_RUN, MANAGER, VALIDATION], BODIES),
        "patch" => ("patch", "patch", vec![DRY_RUN, MANAGER, VALIDATION, FORCE], PATCHES),
        "deletecollection" => ("delete", "deletecollection", [&[DRY_RUN], DELETE, LIST].concat(), &[]),
        _ => ("delete", "delete", [&[DRY_RUN], DELETE].concat(), &[]),
    };
    let space = if kind.namespaced { "Namespaced" } else { "" };
    let sub = sub.split('/').map(capitalized).collect::<String>();
    let group = capitalized(kind.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core"));
    let id = format!("{action}{group}{}{space}{}{sub}", capitalized(kind.version), kind.kind);
    Operation { method, action, group: of.0, version: of.1, kind: of.2, id, query, body }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Operation<'_> {
    fn write(&self, form: Form) -> Value {
        let name = schemas::name(self.group, self.kind);
        let mut operation = json!({
            "operationId": self.id,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": { "group": self.group, "version": self.version, "kind": self.kind },
            "responses": { "200": { "description": "OK" } },
        });
        let mut parameters: Vec<Value> = self.query.iter().map(|p| parameter(*p, "query", form)).collect();
        let answers_object = !matches!(self.action, "list" | "deletecollection" | "delete");
        let refers = |prefix: &str| name.as_ref().map(|name| json!({ "$ref": format!("{prefix}{name}") }));
        match form {
            Form::V3 => {
                if !self.body.is_empty() {
                    // A patch is any object; a whole body is the kind.
                    let schema = refers("#/components/schemas/").filter(|_| self.action != "patch");
                    let schema = schema.unwrap_or_else(|| json!({ "type": "object" }));
                    let content: Map<_, _> =
                        self.body.iter().map(|t| ((*t).to_owned(), json!({ "schema": schema }))).collect();
                    operation["requestBody"] = json!({ "content": content, "required": true });
                }
                if let Some(schema) = refers("#/components/schemas/").filter(|_| answers_object) {
                    operation["responses"]["200"]["content"] = json!({ ANSWER: { "schema": schema } });
                }
            }
            Form::V2 => {
                operation["produces"] = json!([ANSWER]);
                if !self.body.is_empty() {
                    operation["consumes"] = json!(self.body);
                    let schema = refers("#/definitions/").filter(|_| self.action != "patch");
                    let schema = schema.unwrap_or_else(|| json!({ "type": "object" }));
                    parameters.push(json!({ "name": "body", "in": "body", "required": true, "schema": schema }));
                }
                if let Some(schema) = refers("#/definitions/").filter(|_| answers_object) {
                    operation["responses"]["200"]["schema"] = schema;
                }
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        operation
    }
}

fn parameter((name, of, description): Parameter, place: &str, form: Form) -> Value {
    let mut parameter = json!({ "name": name, "in": place, "description": description });
    if place == "path" {
        parameter["required"] = true.into();
    }
    match form {
        Form::V3 => parameter["schema"] = json!({ "type": of, "uniqueItems": true }),
        Form::V2 => {
            parameter["type"] = of.into();
            parameter["uniqueItems"] = true.into();
        }
    }
    parameter
}
