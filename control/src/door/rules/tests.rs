//! Roles, nodes, what may be given away, and the reviews.

use std::sync::Arc;

use serde_json::json;

use super::super::authority::Authority;
use super::super::identity::Authenticator;
use super::super::join::Joining;
use super::super::service_accounts::ServiceAccounts;
use super::super::testing::{Place, at, place};
use super::roles::{RoleRef, Rule, missing};
use super::*;
use crate::api::kinds;
use crate::clock::Clock;

/// The watch of the roles has to tell by then.
const PATIENCE: Duration = Duration::from_secs(20);

fn user(name: &str, groups: &[&str]) -> Identity {
    Identity::of(name, groups)
}

fn node(name: &str) -> Identity {
    user(&format!("system:node:{name}"), &["system:nodes"])
}

/// `verb resource[/sub] [namespace [name]]`, of a group in front: `get apps:daemonsets/status default a`.
fn asked(text: &str) -> Attributes<'_> {
    let mut words = text.split(' ');
    let verb = words.next().unwrap();
    let resource = words.next().unwrap();
    if resource.starts_with('/') {
        return Attributes { verb, path: resource, ..Attributes::default() };
    }
    let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let namespace = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": groups, "resources": resources })
}

fn role(namespace: &str, name: &str, rules: &[Value]) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name }, "rules": rules })
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name },
        "roleRef": { "kind": role.0, "name": role.1, "apiGroup": GROUP },
        "subjects": [subject],
    })
}

fn person(name: &str) -> Value {
    json!({ "kind": "User", "name": name, "apiGroup": GROUP })
}

/// The roles that are there from the beginning, and these.
fn roles(more: &[(&str, Value)]) -> Roles {
    let mut roles = Roles::default();
    for (resource, object) in bootstrap::objects() {
        roles.put(resource, &object);
    }
    for (resource, object) in more {
        roles.put(resource, object);
    }
    roles
}

fn check(roles: &Roles, who: &Identity, may: &[&str], may_not: &[&str]) {
    for text in may {
        assert!(roles.allow(who, &asked(text)).is_some(), "{} may {text}", who.name);
    }
    for text in may_not {
        assert_eq!(roles.allow(who, &asked(text)), None, "{} may not {text}", who.name);
    }
}

#[test]
fn without_a_credential_there_is_health_and_version_and_nothing_else() {
    let roles = roles(&[]);
    let public = ["get /healthz", "get /livez", "get /readyz", "get /version"];
    let hidden = [
        "get /metrics",
        "get /api",
        "get /openapi/v3",
        "post /version",
        "get pods default a",
        "list nodes",
        "get /healthz/x",
    ];
    check(&roles, &Identity::anonymous(), &public, &hidden);
    let known =
        ["get /api", "get /apis/apps/v1", "get /openapi/v3", "create authorization.k8s.io:selfsubjectaccessreviews"];
    check(
        &roles,
        &user("someone", &[]),
        &known,
        &["list pods default", "get /metrics", "create authorization.k8s.io:subjectaccessreviews"],
    );
    check(&roles, &user("root", &[MASTERS]), &["delete nodes a", "get /metrics", "x y:z/q n m"], &[]);
}

#[test]
fn a_rule_is_as_wide_as_it_is_written() {
    let rules = [
        rule(&["get"], &[""], &["pods"]),
        rule(&["*"], &["apps"], &["daemonsets/status"]),
        rule(&["patch"], &["*"], &["*/scale"]),
        rule(&["list"], &["batch"], &["*"]),
        json!({ "verbs": ["get", "create"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"] }),
    ];
    let more = [("roles", role("a", "r", &rules)), ("rolebindings", binding("a", "b", ("Role", "r"), person("ann")))];
    check(
        &roles(&more),
        &user("ann", &[]),
        &[
            "get pods a x",
            "delete apps:daemonsets/status a x",
            "patch x:y/scale a z",
            "list batch:jobs/status a",
            "get secrets a one",
        ],
        &[
            "get pods b x",
            "get pods",
            "list pods a",
            "get pods/log a x",
            "get apps:pods a x",
            "delete apps:daemonsets a x",
            "patch x:y a z",
            "get secrets a two",
            "list secrets a",
            "create secrets a",
            "get /healthz/etc",
        ],
    );
    check(&roles(&more), &user("bob", &[]), &[], &["get pods a x"]);
}

#[test]
fn bindings_reach_users_groups_and_service_accounts_of_their_namespace() {
    let account = |namespace: Option<&str>| match namespace {
        Some(namespace) => json!({ "kind": "ServiceAccount", "name": "d", "namespace": namespace }),
        None => json!({ "kind": "ServiceAccount", "name": "d" }),
    };
    let more = [
        ("rolebindings", binding("a", "1", ("ClusterRole", "view"), json!({ "kind": "Group", "name": "ops" }))),
        ("rolebindings", binding("a", "2", ("ClusterRole", "edit"), account(None))),
        ("clusterrolebindings", binding("", "3", ("ClusterRole", "view"), account(Some("kube-system")))),
        ("rolebindings", binding("a", "4", ("Role", "gone"), person("ann"))),
    ];
    let mut roles = roles(&more);
    check(
        &roles,
        &user("x", &["ops"]),
        &["list pods a", "get pods/log a p"],
        &["list pods b", "list secrets a", "delete pods a p"],
    );
    check(&roles, &user("system:serviceaccount:a:d", &[]), &["delete pods a p", "get secrets a s"], &["list pods b"]);
    check(&roles, &user("system:serviceaccount:kube-system:d", &[]), &["list pods", "watch pods b"], &["list nodes"]);
    check(&roles, &user("ann", &[]), &[], &["get pods a x"]);
    roles.remove("rolebindings", &more[0].1);
    check(&roles, &user("x", &["ops"]), &[], &["list pods a"]);
}

#[test]
fn labelled_roles_extend_those_that_aggregate() {
    let mut extra = role("", "crontabs", &[rule(&["get"], &["stable"], &["crontabs"])]);
    extra["metadata"]["labels"] = json!({ "rbac.authorization.k8s.io/aggregate-to-view": "true" });
    let bound = binding("", "b", ("ClusterRole", "view"), person("ann"));
    let mut roles = roles(&[("clusterroles", extra.clone()), ("clusterrolebindings", bound)]);
    check(&roles, &user("ann", &[]), &["get stable:crontabs a x", "get pods a x"], &["list stable:crontabs a"]);
    roles.remove("clusterroles", &extra);
    check(&roles, &user("ann", &[]), &["get pods a x"], &["get stable:crontabs a x"]);
}

#[test]
fn nobody_is_given_what_the_giver_does_not_have() {
    let held = [
        Rule::of(&rule(&["get", "list"], &[""], &["pods"])),
        Rule::of(&rule(&["watch"], &[""], &["pods", "nodes"])),
        Rule::of(
            &json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"] }),
        ),
        Rule::of(&json!({ "verbs": ["get"], "nonResourceURLs": ["/metrics/*"] })),
        Rule::of(&json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["*"] })),
    ];
    let held: Vec<&Rule> = held.iter().collect();
    let lacks = |rule: Value| !missing(&held, &[Rule::of(&rule)]).is_empty();
    // Put together from several.
    assert!(!lacks(rule(&["get", "watch"], &[""], &["pods"])));
    assert!(!lacks(json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["b"] })));
    assert!(!lacks(json!({ "verbs": ["get"], "nonResourceURLs": ["/metrics/a"] })));
    for more in [
        rule(&["get"], &[""], &["nodes"]),
        rule(&["*"], &[""], &["pods"]),
        rule(&["get"], &["*"], &["pods"]),
        rule(&["get"], &[""], &["*"]),
        rule(&["get"], &[""], &["pods/log"]),
        rule(&["get"], &[""], &["secrets"]),
        json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "c"] }),
        json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["x"] }),
        json!({ "verbs": ["get"], "nonResourceURLs": ["*"] }),
        json!({ "verbs": ["get"], "nonResourceURLs": ["/metrics"] }),
    ] {
        assert!(lacks(more.clone()), "{more}");
    }
}

#[test]
fn a_newer_version_adds_its_rules_unless_it_is_told_not_to() {
    let wanted = role("", "system:x", &[rule(&["get"], &[""], &["pods"]), rule(&["list"], &[""], &["pods"])]);
    assert_eq!(bootstrap::amended(&wanted, &wanted), None);
    let mut stored = role("", "system:x", &[rule(&["get"], &[""], &["pods", "nodes"])]);
    let amended = bootstrap::amended(&stored, &wanted).unwrap();
    assert_eq!(amended["rules"].as_array().unwrap().len(), 2, "{amended}");
    assert_eq!(bootstrap::amended(&amended, &wanted), None);
    stored["metadata"]["annotations"] = json!({ "rbac.authorization.kubernetes.io/autoupdate": "false" });
    assert_eq!(bootstrap::amended(&stored, &wanted), None);
}

struct World {
    place: Place,
    authorizer: Authorizer,
    authenticator: Authenticator,
}

async fn world(more: &[(&str, Value)]) -> World {
    let place = place();
    for (resource, object) in bootstrap::objects().iter().chain(more) {
        place.put(GROUP, resource, object).await;
    }
    let (clock, authority) = (Clock::at(at(0)), Arc::new(Authority::generate(at(0)).unwrap()));
    let accounts = ServiceAccounts::new(&authority, place.store.clone(), clock.clone());
    let authenticator = Authenticator::new(Joining::new(authority, place.store.clone(), clock), accounts);
    let authorizer = Authorizer::start(place.store.clone()).await.unwrap();
    World { place, authorizer, authenticator }
}

impl World {
    async fn check(&self, who: &Identity, may: &[&str], may_not: &[&str]) {
        for (texts, expected) in [(may, true), (may_not, false)] {
            for text in texts {
                // What follows a `?` is the query's fieldSelector.
                let (text, selector) = text.split_once('?').unwrap_or((text, ""));
                let asked = Attributes { selector, ..asked(text) };
                let verdict = self.authorizer.may(who, &asked).await.unwrap();
                assert_eq!(verdict.allowed, expected, "{}: {text} {selector}", who.name);
            }
        }
    }

    /// Whether a write is let through, and what is said otherwise.
    async fn write(&self, who: &Identity, kind: (&str, &str), new: &Value, old: Option<&Value>) -> Result<(), String> {
        let verb = if old.is_none() { "create" } else { "update" };
        let Some(guard) = self.authorizer.guard(who, verb) else { return Ok(()) };
        let kind = kinds::by_kind(kind.0, "v1", kind.1).unwrap();
        guard.check(kind, "", new, old).await.map_err(|error| {
            assert_eq!(error.code, 403);
            error.message
        })
    }

    async fn review(&self, kind: &str, namespace: &str, spec: Value, who: &Identity) -> Result<Value, ApiError> {
        let group = if kind.ends_with("SubjectReview") || kind == "TokenReview" {
            "authentication.k8s.io"
        } else {
            "authorization.k8s.io"
        };
        let kind = kinds::by_kind(group, "v1", kind).unwrap();
        let object = json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "spec": spec });
        review::review((&self.authenticator, &self.authorizer), kind, namespace, object, who).await
    }
}

#[tokio::test]
async fn a_binding_counts_as_soon_as_it_is_written_and_no_longer_than_it_is_there() {
    let world = world(&[]).await;
    let ann = user("ann", &[]);
    let list = asked("list pods a");
    let becomes = async |expected: bool| {
        let turned = async {
            while world.authorizer.may(&ann, &list).await.unwrap().allowed != expected {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, turned).await.expect("the watch tells of it");
    };
    becomes(false).await;
    let bound = binding("a", "b", ("ClusterRole", "view"), person("ann"));
    world.place.put(GROUP, "rolebindings", &bound).await;
    becomes(true).await;
    world.place.delete(GROUP, "rolebindings", &bound).await;
    becomes(false).await;
    let error = world.authorizer.check(&ann, &list, kinds::by_resource("", "v1", "pods")).await.unwrap_err();
    let words =
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"a\"";
    assert_eq!((error.code, error.message.as_str()), (403, words));
}

fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut pod = json!({ "metadata": { "namespace": "a", "name": name, "uid": name }, "spec": spec });
    pod["spec"]["nodeName"] = json!(node);
    pod
}

#[tokio::test]
async fn a_node_reaches_its_own_and_what_its_pods_use_and_nothing_else() {
    let world = world(&[]).await;
    let uses = json!({
        "serviceAccountName": "daemon",
        "imagePullSecrets": [{ "name": "pull" }],
        "volumes": [
            { "name": "s", "secret": { "secretName": "s-volume" } },
            { "name": "c", "configMap": { "name": "c-volume" } },
            { "name": "p", "projected": { "sources": [{ "secret": { "name": "s-projected" } }, { "configMap": { "name": "c-projected" } }] } },
        ],
        "containers": [{ "envFrom": [{ "secretRef": { "name": "s-from" } }], "env": [{ "valueFrom": { "configMapKeyRef": { "name": "c-key" } } }] }],
        "initContainers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "s-init" } } }] }],
    });
    world.place.put("", "pods", &pod("own", "w1", uses.clone())).await;
    world
        .place
        .put(
            "",
            "pods",
            &pod(
                "foreign",
                "w2",
                json!({ "volumes": [{ "secret": { "secretName": "s-foreign" } }], "hostname": "w1" }),
            ),
        )
        .await;
    let mut ended = pod("ended", "w1", json!({ "volumes": [{ "secret": { "secretName": "s-ended" } }] }));
    ended["status"] = json!({ "phase": "Succeeded" });
    world.place.put("", "pods", &ended).await;
    let mut mirror = pod(
        "mirror",
        "w1",
        json!({ "volumes": [{ "secret": { "secretName": "s-mirror" } }], "serviceAccountName": "mirrored" }),
    );
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    world.place.put("", "pods", &mirror).await;
    world
        .check(
            &node("w1"),
            &[
                "get nodes  w1",
                "create nodes",
                "update nodes  w1",
                "patch nodes/status  w1",
                "list nodes?metadata.name=w1",
                "watch nodes?metadata.name=w1",
                "get pods a own",
                "delete pods a own",
                "patch pods/status a own",
                "list pods?spec.nodeName=w1",
                "watch pods?spec.nodeName=w1,status.phase!=Failed",
                "create pods/eviction a own",
                "get secrets a pull",
                "get secrets a s-volume",
                "get secrets a s-projected",
                "get secrets a s-from",
                "get secrets a s-init",
                "get configmaps a c-volume",
                "get configmaps a c-projected",
                "watch configmaps a c-key?metadata.name=c-key",
                "get serviceaccounts a daemon",
                "create serviceaccounts/token a daemon",
                "update coordination.k8s.io:leases kube-node-lease w1",
                "create coordination.k8s.io:leases kube-node-lease",
                "create events a",
                "patch events.k8s.io:events a e",
                "get /api",
            ],
            &[
                "get nodes  w2",
                "list nodes",
                "delete nodes  w1",
                "patch nodes/status  w2",
                "watch nodes?metadata.name=w2",
                "create pods a",
                "get pods a foreign",
                "delete pods a foreign",
                "update pods/status a foreign",
                "update pods a own",
                "patch pods a own",
                "list pods a",
                "list pods?spec.nodeName=w2",
                "list pods?spec.nodeName!=w1",
                "get pods a none",
                "get pods/log a own",
                "create pods/exec a own",
                "deletecollection pods a",
                "get secrets a s-foreign",
                "get secrets a s-ended",
                "get secrets a s-mirror",
                "get secrets b s-volume",
                "list secrets a",
                "list secrets",
                "watch secrets a?metadata.name=pull",
                "update secrets a pull",
                "get configmaps a s-volume",
                "get secrets a c-volume",
                "create serviceaccounts/token a default",
                "create serviceaccounts/token a mirrored",
                "list serviceaccounts a",
                "get serviceaccounts a default",
                "update coordination.k8s.io:leases kube-node-lease w2",
                "update coordination.k8s.io:leases kube-system w1",
                "list coordination.k8s.io:leases kube-node-lease",
                "list events a",
                "get namespaces  a",
                "list apps:daemonsets a",
                "create rbac.authorization.k8s.io:clusterrolebindings",
                "get /metrics",
                "create authentication.k8s.io:tokenreviews",
            ],
        )
        .await;
    // The name alone makes nobody a node.
    world.check(&user("system:node:w1", &["people"]), &[], &["get nodes  w1", "get pods a own"]).await;
}

#[tokio::test]
async fn a_node_writes_nothing_that_would_give_it_more() {
    let world = world(&[]).await;
    let w1 = node("w1");
    let own =
        json!({ "metadata": { "name": "w1", "labels": { "zone": "a" } }, "spec": { "taints": [{ "key": "k" }] } });
    let of_node = ("", "Node");
    assert_eq!(world.write(&w1, of_node, &own, None).await, Ok(()), "it proposes labels and taints when it joins");
    let changed = |path: &str, value: Value| {
        let mut node = own.clone();
        *node.pointer_mut(path).unwrap() = value;
        node
    };
    let with = |key: &str, value: Value| {
        let mut node = own.clone();
        node["metadata"][key] = value;
        node
    };
    let restricted = |key: &str| with("labels", json!({ key: "true" }));
    for bad in [
        restricted("node-restriction.kubernetes.io/trusted"),
        restricted("x.node-restriction.kubernetes.io/trusted"),
        restricted("node-role.kubernetes.io/control-plane"),
        with("ownerReferences", json!([{ "kind": "Node", "name": "w2" }])),
        with("finalizers", json!(["x/y"])),
        changed("/metadata/name", json!("w2")),
    ] {
        assert!(world.write(&w1, of_node, &bad, None).await.is_err(), "{bad}");
    }
    let mut reported = own.clone();
    reported["status"] = json!({ "conditions": [] });
    reported["metadata"]["annotations"] = json!({ "a": "b" });
    assert_eq!(world.write(&w1, of_node, &reported, Some(&own)).await, Ok(()));
    for bad in [
        changed("/metadata/labels", json!({ "zone": "b" })),
        changed("/metadata/labels", json!({})),
        changed("/spec/taints", json!([])),
        with("ownerReferences", json!([{ "kind": "Pod", "name": "x" }])),
    ] {
        assert!(world.write(&w1, of_node, &bad, Some(&own)).await.is_err(), "{bad}");
    }
    assert_eq!(
        world.write(&user("admin", &[MASTERS]), of_node, &restricted("node-restriction.kubernetes.io/x"), None).await,
        Ok(())
    );

    let of_pod = ("", "Pod");
    let mirror = json!({
        "metadata": { "name": "s-w1", "annotations": { "kubernetes.io/config.mirror": "h" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "w1", "uid": "u" }] },
        "spec": { "nodeName": "w1", "volumes": [{ "hostPath": { "path": "/" } }], "containers": [{ "env": [{ "name": "A", "value": "b" }] }] },
    });
    assert!(world.write(&w1, of_pod, &mirror, None).await.is_err(), "static pods are shown in the session");
    let with_status = |size: usize| {
        let mut pod = mirror.clone();
        pod["status"] = json!({ "message": "x".repeat(size) });
        pod
    };
    assert_eq!(world.write(&w1, of_pod, &with_status(200 << 10), Some(&mirror)).await, Ok(()));
    assert!(world.write(&w1, of_pod, &with_status(300 << 10), Some(&mirror)).await.is_err(), "it would fill the store");
    let event = |size: usize| json!({ "metadata": { "name": "e" }, "message": "x".repeat(size) });
    assert_eq!(world.write(&w1, ("", "Event"), &event(1024), None).await, Ok(()));
    assert!(world.write(&w1, ("", "Event"), &event(20 << 10), None).await.is_err());
    let mut foreign = mirror.clone();
    foreign["spec"]["nodeName"] = json!("w2");
    assert!(world.write(&w1, of_pod, &foreign, Some(&foreign)).await.is_err());
    let lease = json!({ "metadata": { "name": "w2" } });
    assert!(world.write(&w1, ("coordination.k8s.io", "Lease"), &lease, None).await.is_err());
}

#[tokio::test]
async fn rights_are_given_by_who_has_them_or_may_give_them() {
    let reader = role("a", "reader", &[rule(&["get"], &[""], &["pods"])]);
    let more = [
        ("roles", reader.clone()),
        ("rolebindings", binding("a", "1", ("Role", "reader"), person("ann"))),
        (
            "clusterroles",
            role(
                "",
                "giver",
                &[
                    json!({ "verbs": ["bind", "escalate"], "apiGroups": [GROUP], "resources": ["clusterroles", "roles"], "resourceNames": ["view", "wide"] }),
                ],
            ),
        ),
        ("clusterrolebindings", binding("", "2", ("ClusterRole", "giver"), person("bob"))),
    ];
    let world = world(&more).await;
    let (ann, bob) = (user("ann", &[]), user("bob", &[]));
    let (of_role, of_binding) = ((GROUP, "Role"), (GROUP, "RoleBinding"));
    let same = role("a", "mine", &[rule(&["get"], &[""], &["pods"])]);
    let wide = role("a", "wide", &[rule(&["get"], &[""], &["pods", "secrets"])]);
    assert_eq!(world.write(&ann, of_role, &same, None).await, Ok(()));
    let said = world.write(&ann, of_role, &wide, None).await.unwrap_err();
    assert!(
        said.contains("attempting to grant RBAC permissions not currently held") && said.contains("secrets"),
        "{said}"
    );
    let elsewhere = role("b", "mine", &[rule(&["get"], &[""], &["pods"])]);
    assert!(world.write(&ann, of_role, &elsewhere, None).await.is_err(), "held in another namespace only");
    let mut labelled = wide.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert!(
        world.write(&ann, of_role, &labelled, Some(&wide)).await.is_err(),
        "another role may take it up by its labels"
    );
    let mut collected = wide.clone();
    collected["metadata"]["finalizers"] = json!(["orphan"]);
    assert_eq!(world.write(&ann, of_role, &collected, Some(&wide)).await, Ok(()), "what it gives is as it was");
    assert_eq!(world.write(&bob, of_role, &wide, None).await, Ok(()), "he may escalate this one");
    assert!(world.write(&bob, of_role, &role("a", "other", &[rule(&["get"], &[""], &["pods"])]), None).await.is_err());
    let mut aggregating = role("", "wide-open", &[]);
    aggregating["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "x": "y" } }] });
    assert!(world.write(&ann, (GROUP, "ClusterRole"), &aggregating, None).await.is_err());

    let bound = |role| binding("a", "b", role, person("carl"));
    assert_eq!(world.write(&ann, of_binding, &bound(("Role", "reader")), None).await, Ok(()));
    assert!(world.write(&ann, of_binding, &bound(("ClusterRole", "view")), None).await.is_err());
    assert!(world.write(&ann, of_binding, &bound(("Role", "none-yet")), None).await.is_err());
    assert_eq!(world.write(&bob, of_binding, &bound(("ClusterRole", "view")), None).await, Ok(()));
    assert!(world.write(&bob, of_binding, &bound(("ClusterRole", "cluster-admin")), None).await.is_err());
    let mut more_subjects = bound(("ClusterRole", "view"));
    more_subjects["subjects"] = json!([person("ann")]);
    assert!(world.write(&ann, of_binding, &more_subjects, Some(&bound(("ClusterRole", "view")))).await.is_err());
}

#[tokio::test]
async fn who_may_only_change_creates_nothing() {
    let rules =
        [rule(&["patch", "update"], &[""], &["pods"]), rule(&["create"], &["coordination.k8s.io"], &["leases"])];
    let more = [("roles", role("a", "r", &rules)), ("rolebindings", binding("a", "b", ("Role", "r"), person("ann")))];
    let world = world(&more).await;
    let by = |verb| world.authorizer.guard(&user("ann", &[]), verb).expect("she may not do everything");
    let object = |namespace: &str| json!({ "metadata": { "name": "x", "namespace": namespace } });
    let (pods, leases) =
        (kinds::by_kind("", "v1", "Pod").unwrap(), kinds::by_kind("coordination.k8s.io", "v1", "Lease").unwrap());
    let said = by("patch").check(pods, "", &object("a"), None).await.unwrap_err();
    let words = "pods \"x\" is forbidden: User \"ann\" cannot create resource \"pods\" in API group \"\" in the namespace \"a\"";
    assert_eq!((said.code, said.message.as_str()), (403, words));
    assert!(by("patch").check(pods, "", &object("a"), Some(&object("a"))).await.is_ok());
    assert!(by("update").check(leases, "", &object("a"), None).await.is_ok());
    assert!(by("update").check(leases, "", &object("b"), None).await.is_err());
}

#[tokio::test]
async fn reviews_answer_as_kubernetes_does() {
    let world = world(&[("rolebindings", binding("a", "b", ("ClusterRole", "view"), person("ann")))]).await;
    let ann = user("ann", &["team"]);
    let list = |namespace: &str| json!({ "resourceAttributes": { "verb": "list", "resource": "pods", "namespace": namespace } });
    let own = async |spec| world.review("SelfSubjectAccessReview", "", spec, &ann).await.unwrap();
    let answer = own(list("a")).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(answer["status"]["reason"], r#"RBAC: allowed by RoleBinding "b/a" of ClusterRole "view""#);
    assert_eq!(own(list("b")).await["status"], json!({ "allowed": false }));
    assert_eq!(
        own(json!({ "nonResourceAttributes": { "verb": "get", "path": "/version" } })).await["status"]["allowed"],
        true
    );
    let neither = world.review("SelfSubjectAccessReview", "", json!({}), &ann).await.unwrap_err();
    assert_eq!(neither.code, 422);

    let mut of_ann = list("a");
    of_ann["user"] = json!("ann");
    let admin = user("admin", &[MASTERS]);
    let other = world.review("SubjectAccessReview", "", of_ann.clone(), &admin).await.unwrap();
    assert_eq!(other["status"]["allowed"], true);
    assert_eq!(world.review("SubjectAccessReview", "", list("a"), &admin).await.unwrap_err().code, 422, "about nobody");
    assert_eq!(world.review("LocalSubjectAccessReview", "b", of_ann.clone(), &admin).await.unwrap_err().code, 422);
    assert_eq!(world.review("LocalSubjectAccessReview", "a", of_ann, &admin).await.unwrap()["status"]["allowed"], true);

    let rules = world.review("SelfSubjectRulesReview", "", json!({ "namespace": "a" }), &ann).await.unwrap();
    let of_pods =
        |rule: &Value| rule["resources"].as_array().is_some_and(|all| all.iter().any(|one| one == "pods/log"));
    assert!(rules["status"]["resourceRules"].as_array().unwrap().iter().any(of_pods));
    assert_eq!(rules["status"]["incomplete"], false);
    let me = world.review("SelfSubjectReview", "", Value::Null, &ann).await.unwrap();
    assert_eq!(me["status"]["userInfo"], json!({ "username": "ann", "groups": ["team", "system:authenticated"] }));

    let account = json!({ "metadata": { "namespace": "a", "name": "d", "uid": "u" } });
    world.place.put("", "serviceaccounts", &account).await;
    let token = world.authenticator.accounts().request("a", "d", &json!({}), &admin).await.unwrap();
    let token = token["status"]["token"].clone();
    let answer = world.review("TokenReview", "", json!({ "token": token }), &admin).await.unwrap();
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:a:d");
    assert_eq!(answer["spec"].get("token"), None, "it is not sent back");
    let answer = world.review("TokenReview", "", json!({ "token": "x.y.z" }), &admin).await.unwrap();
    assert!(answer["status"]["authenticated"].is_null() && answer["status"]["error"].is_string());
}

#[test]
fn the_roles_of_the_beginning_give_nothing_but_what_is_served() {
    for (resource, object) in bootstrap::objects() {
        for rule in Rule::all_of(&object["rules"]) {
            for (group, named) in rule.groups.iter().flat_map(|g| rule.resources.iter().map(move |r| (g, r))) {
                let (plural, sub) = named.split_once('/').unwrap_or((named, ""));
                if group == "*" {
                    continue;
                }
                let kind = kinds::by_resource(group, "v1", plural).unwrap_or_else(|| panic!("{group}/{named}"));
                let comes_later = ["exec", "attach", "portforward"].contains(&sub);
                assert!(sub.is_empty() || comes_later || kind.subresource(sub).is_some(), "{group}/{named}");
            }
        }
        if resource == "clusterrolebindings" {
            let role = RoleRef::of(&object);
            assert!(role.is_cluster && !roles(&[]).rules("", &role).is_empty(), "{object}");
        }
    }
}
