//! The roles that are there from the beginning, as Kubernetes has them, for the kinds that are served here; and who is bound to them.
//!
//! `serve` creates what is missing at each start and adds rules that a newer version has, as Kubernetes does; an object annotated
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use serde_json::{Value, json};

use super::super::authority::MASTERS;
use super::super::identity::{AUTHENTICATED, UNAUTHENTICATED};
use super::super::service_accounts;
use super::roles::{GROUP, Rule, missing};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// Cluster roles and their bindings, as (resource, object).
pub fn objects() -> Vec<(&'static str, Value)> {
    let roles = roles().into_iter().map(|role| ("clusterroles", role));
    let bindings = [
        ("cluster-admin", &[MASTERS][..]),
        ("system:basic-user", &[AUTHENTICATED]),
        ("system:discovery", &[AUTHENTICATED]),
        ("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
        ("system:service-account-issuer-discovery", &[service_accounts::GROUP]),
        ("system:monitoring", &["system:monitoring"]),
    ];
    let bindings = bindings.into_iter().map(|(role, groups)| ("clusterrolebindings", binding(role, groups)));
    roles.chain(bindings).collect()
}

/// What an object that is there lacks of what it began with: the object as it is to be. None: nothing, or it wants none of it.
pub fn amended(stored: &Value, wanted: &Value) -> Option<Value> {
    if stored["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let key = if wanted["roleRef"].is_object() { "subjects" } else { "rules" };
    let all = |object: &Value| object[key].as_array().cloned().unwrap_or_default();
    let mut amended = all(stored);
    if key == "rules" {
        let held = Rule::all_of(&stored["rules"]);
        let held: Vec<&Rule> = held.iter().collect();
        let lacks = |rule: &Value| !missing(&held, &[Rule::of(rule)]).is_empty();
        amended.extend(all(wanted).into_iter().filter(lacks));
    } else {
        // The store gives subjects their group when it has none.
        let is_known = |subject: &Value| {
            all(stored).iter().any(|own| own["name"] == subject["name"] && own["kind"] == subject["kind"])
        };
        amended.extend(all(wanted).into_iter().filter(|subject| !is_known(subject)));
    }
    if amended.len() == all(stored).len() {
        return None;
    }
    let mut object = stored.clone();
    object[key] = Value::Array(amended);
    Some(object)
}

fn roles() -> Vec<Value> {
    let mut edit = view();
    edit.extend([
        rule(&WRITE, &[""], &["pods", "configmaps", "secrets", "serviceaccounts", "services", "events"]),
        rule(&READ, &[""], &["secrets"]),
        rule(&["impersonate"], &[""], &["serviceaccounts"]),
        rule(
            &["create"],
            &[""],
            &["pods/eviction", "serviceaccounts/token", "pods/attach", "pods/exec", "pods/portforward"],
        ),
        rule(&["get"], &[""], &["pods/attach", "pods/exec", "pods/portforward"]),
        rule(&WRITE, &["apps"], &["daemonsets", "controllerrevisions"]),
        rule(&WRITE, &["coordination.k8s.io"], &["leases"]),
        rule(&WRITE, &["discovery.k8s.io"], &["endpointslices"]),
        rule(&["create", "patch", "update"], &["events.k8s.io"], &["events"]),
    ]);
    let mut admin = edit.clone();
    let both: Vec<&str> = READ.into_iter().chain(WRITE).collect();
    admin.extend([
        rule(&both, &[GROUP], &["roles", "rolebindings"]),
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
    ]);
    vec![
        role("cluster-admin", vec![rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])]),
        aggregated("admin", admin),
        aggregated("edit", edit),
        aggregated("view", view()),
        role(
            "system:basic-user",
            vec![
                rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
            ],
        ),
        role(
            "system:discovery",
            vec![paths(
                &["get"],
                &[
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                    "/version/",
                ],
            )],
        ),
        role(
            "system:public-info-viewer",
            vec![paths(&["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![paths(
                &["get"],
                &[
                    "/.well-known/openid-configuration",
                    "/.well-known/openid-configuration/",
                    "/openid/v1/jwks",
                    "/openid/v1/jwks/",
                ],
            )],
        ),
        role(
            "system:monitoring",
            vec![paths(
                &["get"],
                &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"],
            )],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            ],
        ),
        // Bound to nobody, as in Kubernetes: what a node may depends on what runs on it, which no role can say.
        role("system:node", Vec::new()),
    ]
}

fn view() -> Vec<Value> {
    vec![
        rule(
            &READ,
            &[""],
            &["pods", "pods/log", "pods/status", "configmaps", "events", "namespaces", "serviceaccounts", "services"],
        ),
        rule(&READ, &["apps"], &["daemonsets", "daemonsets/status", "controllerrevisions"]),
        rule(&READ, &["discovery.k8s.io"], &["endpointslices"]),
        rule(&READ, &["events.k8s.io"], &["events"]),
    ]
}

fn meta(name: &str) -> Value {
    json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { AUTOUPDATE: "true" },
    })
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": meta(name), "rules": rules })
}

/// A role that others extend by a label, as `rbac.authorization.k8s.io/aggregate-to-view: "true"`.
fn aggregated(name: &str, rules: Vec<Value>) -> Value {
    let mut role = role(name, rules);
    let label = format!("{GROUP}/aggregate-to-{name}");
    role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
    role
}

fn binding(role: &str, groups: &[&str]) -> Value {
    let subject = |group: &&str| json!({ "apiGroup": GROUP, "kind": "Group", "name": group });
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": meta(role),
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
        "subjects": groups.iter().map(subject).collect::<Vec<_>>(),
    })
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn paths(verbs: &[&str], urls: &[&str]) -> Value {
    json!({ "nonResourceURLs": urls, "verbs": verbs })
}
