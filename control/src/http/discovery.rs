//! Which groups, versions and kinds there are: `/api`, `/apis` and below, in the old form and in the aggregated one.

use serde_json::{Map, Value, json};

use crate::api::kinds::{Kind, Subresource, kinds};

/// `/api`. `host`: where the client reached us.
pub fn versions(host: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": host }],
    })
}

/// `/apis`.
pub fn groups() -> Value {
    let groups: Vec<Value> = names().into_iter().filter(|name| !name.is_empty()).map(group_entry).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/apps`.
pub fn group(name: &str) -> Option<Value> {
    let known = names().into_iter().find(|own| *own == name && !own.is_empty())?;
    let mut group = group_entry(known);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1`, `/apis/apps/v1`.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    let of_it = |kind: &&Kind| kind.group == group && kind.version == version;
    for kind in kinds().iter().filter(of_it) {
        resources.push(resource(kind));
        resources.extend(kind.subresources.iter().map(|sub| subresource(kind, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
    }))
}

/// Everything below `/api` or `/apis` in one document, in this version of its form.
pub fn aggregated(is_core: bool, version: &str) -> Value {
    let items: Vec<Value> =
        names().into_iter().filter(|name| name.is_empty() == is_core).map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

/// The content type of [`aggregated`]: its parameters are how a client tells it from the old form.
pub fn aggregated_type(version: &str) -> &'static str {
    if version == "v2beta1" {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    }
}

/// The groups in the order of the table, each once; the first is the core group.
fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    for kind in kinds() {
        if !names.contains(&kind.group) {
            names.push(kind.group);
        }
    }
    names
}

fn versions_of(group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for kind in kinds().iter().filter(|kind| kind.group == group) {
        if !versions.contains(&kind.version) {
            versions.push(kind.version);
        }
    }
    versions
}

fn group_entry(name: &str) -> Value {
    let version = |version: &&str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let versions: Vec<Value> = versions_of(name).iter().map(version).collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

fn resource(kind: &Kind) -> Value {
    let mut resource = Map::new();
    let mut say = |name: &str, value: Value| resource.insert(name.to_owned(), value);
    say("name", kind.resource.into());
    say("singularName", kind.singular.into());
    say("namespaced", kind.namespaced.into());
    say("kind", kind.kind.into());
    say("verbs", json!(kind.verbs));
    if !kind.short.is_empty() {
        say("shortNames", json!(kind.short));
    }
    if !kind.categories.is_empty() {
        say("categories", json!(kind.categories));
    }
    Value::Object(resource)
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", kind.resource, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind.2,
        "verbs": sub.verbs,
    });
    if (sub.kind.0, sub.kind.1) != (kind.group, kind.version) {
        resource["group"] = sub.kind.0.into();
        resource["version"] = sub.kind.1.into();
    }
    resource
}

fn aggregated_group(name: &str) -> Value {
    let version = |version: &&str| {
        let of_it = |kind: &&Kind| kind.group == name && kind.version == *version;
        let resources: Vec<Value> = kinds().iter().filter(of_it).map(aggregated_resource).collect();
        json!({ "version": version, "freshness": "Current", "resources": resources })
    };
    let versions: Vec<Value> = versions_of(name).iter().map(version).collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut resource = json!({
        "resource": kind.resource,
        "responseKind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short.is_empty() {
        resource["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    let subresource = |sub: &Subresource| {
        json!({
            "subresource": sub.name,
            "responseKind": { "group": sub.kind.0, "version": sub.kind.1, "kind": sub.kind.2 },
            "verbs": sub.verbs,
        })
    };
    if !kind.subresources.is_empty() {
        resource["subresources"] = kind.subresources.iter().map(subresource).collect();
    }
    resource
}
