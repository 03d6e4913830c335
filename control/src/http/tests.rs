//! Requests as they come, and what is made of them before anything is read or written.

use hyper::Method;
use serde_json::json;

use super::accept::{Accept, accept, names};
use super::query::Query;
use super::request::{Resource, Target, Verb};
use super::{body, discovery, limits, reply};
use crate::api::kinds::by_kind;
use crate::api::objects::{FieldValidation, Propagation};

fn resource(path: &str) -> Resource {
    match Target::of(path).unwrap() {
        Target::Resource(resource) => resource,
        Target::Path(path) => panic!("{path}"),
    }
}

/// Group, namespace, resource, name, part.
fn parts(path: &str) -> (String, String, String, String, String) {
    let Resource { group, namespace, resource, name, subresource, .. } = resource(path);
    (group, namespace, resource, name, subresource)
}

fn of(group: &str, namespace: &str, resource: &str, name: &str, sub: &str) -> (String, String, String, String, String) {
    (group.into(), namespace.into(), resource.into(), name.into(), sub.into())
}

#[test]
fn a_path_names_its_object() {
    assert_eq!(parts("/api/v1/pods"), of("", "", "pods", "", ""));
    assert_eq!(parts("/api/v1/namespaces/a/pods/p"), of("", "a", "pods", "p", ""));
    assert_eq!(parts("/apis/apps/v1/namespaces/a/daemonsets/d/status"), of("apps", "a", "daemonsets", "d", "status"));
    assert_eq!(parts("/api/v1/namespaces"), of("", "", "namespaces", "", ""));
    assert_eq!(parts("/api/v1/namespaces/a"), of("", "a", "namespaces", "a", ""));
    assert_eq!(parts("/api/v1/namespaces/a/finalize"), of("", "a", "namespaces", "a", "finalize"));
    assert_eq!(parts("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode").3, "system:node");
    for path in ["/api", "/apis/apps", "/apis/apps/v1", "/version", "/"] {
        assert_eq!(Target::of(path), Ok(Target::Path(path.into())));
    }
    assert!(Target::of("/api/v1/namespaces/a%2Fb/pods").is_err());
    assert!(Target::of("/api/v1/pods/%ff").is_err());
}

#[test]
fn a_method_is_a_verb_by_what_it_is_about() {
    let verb = |method: Method, path: &str, query: &str| Verb::of(&method, &resource(path), &Query::of(query));
    let (all, one) = ("/api/v1/pods", "/api/v1/namespaces/a/pods/p");
    assert_eq!(verb(Method::GET, all, ""), Some(Verb::List));
    assert_eq!(verb(Method::GET, all, "watch=true"), Some(Verb::Watch));
    assert_eq!(verb(Method::GET, all, "watch=0"), Some(Verb::List));
    assert_eq!(verb(Method::GET, one, ""), Some(Verb::Get));
    assert_eq!(verb(Method::DELETE, one, ""), Some(Verb::Delete));
    assert_eq!(verb(Method::DELETE, all, ""), Some(Verb::DeleteCollection));
    assert_eq!(verb(Method::PUT, all, ""), None);
    assert_eq!(verb(Method::OPTIONS, one, ""), None);
}

#[test]
fn the_first_form_that_is_offered_is_the_answers() {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    assert_eq!(accept(table), Some(Accept::Table { version: "v1" }));
    assert_eq!(accept("application/vnd.kubernetes.protobuf,application/json"), Some(Accept::Whole));
    assert_eq!(accept("application/vnd.kubernetes.protobuf, */*"), Some(Accept::Whole));
    assert_eq!(accept("application/vnd.kubernetes.protobuf"), None);
    assert_eq!(accept(""), Some(Accept::Whole));
    assert_eq!(accept("application/json;as=Cake;v=v1;g=meta.k8s.io,application/json"), Some(Accept::Whole));
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(accept(metadata), Some(Accept::Partial { version: "v1" }));
    let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    assert_eq!(accept(discovery), Some(Accept::Discovery { version: "v2" }));
    assert!(names(
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    ));
}

#[test]
fn initial_events_are_asked_for_rightly_or_refused_and_never_passed_over() {
    let kind = by_kind("", "v1", "Pod").unwrap();
    let watch = |text: &str| Query::of(text).watch(kind);
    let (query, from_now) =
        watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").unwrap();
    assert!(query.send_initial && query.bookmarks && query.after.is_none() && !from_now);
    for refused in [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        let error = watch(refused).unwrap_err();
        assert_eq!((error.code, error.reason), (422, "Invalid"), "{refused}");
    }
    assert_eq!(Query::of("sendInitialEvents=true").list(kind).unwrap_err().code, 422);
    assert!(watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan").unwrap().1);
    assert_eq!(watch("resourceVersion=12").unwrap().0.after, Some(12));
    assert_eq!(watch("resourceVersion=0").unwrap().0.after, None);
    assert_eq!(watch("resourceVersion=x").unwrap_err().code, 400);
}

#[test]
fn a_list_is_as_of_the_revision_that_was_asked_for() {
    let kind = by_kind("apps", "v1", "DaemonSet").unwrap();
    let list = |text: &str| Query::of(text).list(kind);
    let query = list("limit=5&resourceVersion=7&resourceVersionMatch=Exact").unwrap();
    assert_eq!((query.limit, query.revision, query.exact), (Some(5), Some(7), true));
    assert_eq!(list("limit=0").unwrap().limit, None);
    for refused in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Some",
    ] {
        assert_eq!(list(refused).unwrap_err().code, 422, "{refused}");
    }
    assert_eq!(list("labelSelector=a%20in").unwrap_err().code, 400);
}

#[test]
fn options_of_writes_are_read_or_refused() {
    let write = |text: &str| Query::of(text).write("PatchOptions", "kubectl/v1.37 (linux)");
    let options = write("").unwrap();
    assert_eq!(
        (options.manager.as_str(), options.dry_run, options.validation),
        ("kubectl", false, FieldValidation::Warn)
    );
    let options = write("dryRun=All&fieldManager=me&fieldValidation=Strict").unwrap();
    assert_eq!((options.manager.as_str(), options.dry_run, options.validation), ("me", true, FieldValidation::Strict));
    for refused in ["dryRun=Some", "fieldValidation=Sloppy"] {
        assert_eq!(write(refused).unwrap_err().code, 422, "{refused}");
    }
    assert_eq!(Query::of("").force(true).unwrap_err().code, 422);
    assert_eq!(Query::of("force=true").force(false).unwrap_err().code, 422);
    assert!(Query::of("force=true&fieldManager=a").force(true).unwrap());
}

#[test]
fn a_deletion_is_told_by_its_body_or_by_the_query() {
    let body = json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Foreground", "preconditions": { "uid": "u" }, "dryRun": ["All"] });
    let options = Query::of("gracePeriodSeconds=9").delete(Some(&body)).unwrap();
    assert_eq!((options.grace, options.propagation, options.dry_run), (Some(0), Some(Propagation::Foreground), true));
    assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
    let options = Query::of("gracePeriodSeconds=9&orphanDependents=true").delete(None).unwrap();
    assert_eq!((options.grace, options.propagation), (Some(9), Some(Propagation::Orphan)));
    assert_eq!(Query::of("").delete(Some(&json!({ "propagationPolicy": "Slow" }))).unwrap_err().code, 400);
}

#[test]
fn a_body_is_read_by_its_type() {
    let headers = |media: &str| {
        let mut headers = hyper::HeaderMap::new();
        headers.insert(hyper::header::CONTENT_TYPE, media.parse().unwrap());
        headers
    };
    let yaml = body::document(&headers("application/yaml"), &"a: 1\na: 2\n".into()).unwrap();
    assert_eq!((yaml.value, yaml.duplicates), (json!({ "a": 2 }), vec!["a".to_owned()]));
    let json = body::document(&headers("application/json; charset=utf-8"), &"{\"a\": [1]}".into()).unwrap();
    assert_eq!(json.value, json!({ "a": [1] }));
    assert_eq!(body::document(&headers("text/html"), &"x".into()).unwrap_err().code, 415);
    let unknown = b"k8s\0\x0a\x12\x0a\x07apps/v1\x12\x07ReplSet";
    assert_eq!(
        body::document(&headers("application/vnd.kubernetes.protobuf"), &unknown[..].into()).unwrap_err().code,
        415
    );
    assert_eq!(body::patch(&headers("application/json"), &"{}".into()).unwrap_err().code, 415);
    let apply = body::patch(&headers("application/apply-patch+yaml"), &"kind: A\n".into()).unwrap();
    assert_eq!((apply.0, apply.1.value), (body::PatchType::Apply, json!({ "kind": "A" })));
}

#[test]
fn a_client_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let limits = limits::Limits::default();
    let now = std::time::Instant::now();
    let refused = (0..60).filter(|_| limits.of_nobody(address("198.18.0.1"), now).is_err()).count();
    assert_eq!(refused, 10);
    assert!(limits.of_nobody(address("198.18.0.2"), now).is_ok());
    let later = now + std::time::Duration::from_secs(1);
    assert!(limits.of_nobody(address("198.18.0.1"), later).is_ok());
    let error = (0..60).find_map(|_| limits.of_nobody(address("198.18.0.1"), later).err()).unwrap();
    let reply = reply::error(&error, false);
    assert_eq!((reply.status().as_u16(), reply.headers()["retry-after"].to_str().unwrap()), (429, "1"));
}

#[test]
fn nobody_has_the_places_of_all_and_administrators_find_one() {
    use crate::door::identity::Identity;
    let limits = limits::Limits::default();
    let [one, two] = ["198.18.0.1", "198.18.0.2"].map(|text| text.parse().unwrap());
    let (greedy, admin) = (Identity::of("greedy", &[]), Identity::of("admin", &["system:masters"]));
    let mut held: Vec<_> = (0..60).filter_map(|_| limits.request(&greedy, one).ok()).collect();
    assert_eq!(held.len(), 50);
    for other in 0..10 {
        let other = Identity::of(&format!("user-{other}"), &[]);
        held.extend((0..50).filter_map(|_| limits.request(&other, one).ok()));
    }
    assert_eq!(held.len(), 180);
    let of_admin: Vec<_> = (0..60).filter_map(|_| limits.request(&admin, one).ok()).collect();
    assert_eq!(of_admin.len(), 20);
    drop(held);
    assert!(limits.request(&greedy, one).is_ok(), "what is given back is there again");
    // The daemon of every node of a large fleet, and one of them that begins too many.
    let held: Vec<_> = (0..1100).filter_map(|_| limits.stream(&greedy, one).ok()).collect();
    assert_eq!(held.len(), 1000);
    assert!((0..1000).all(|_| limits.stream(&greedy, two).is_ok()));
    drop(held);
    assert!(limits.stream(&greedy, one).is_ok());
}

#[test]
fn wrong_tokens_are_counted_by_host_and_lock_out_no_good_one() {
    let limits = limits::Limits::default();
    let now = std::time::Instant::now();
    let [one, same, other] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
    let mark = |text: &str| limits.mark(text.as_bytes());
    limits.tried(one, mark("good"), true, now);
    for _ in 0..1000 {
        assert!(limits.may_try(one, mark("another"), now).is_ok());
    }
    // A daemon with a dead token is one guess however often it tries, and is not looked at each time.
    for _ in 0..1000 {
        limits.tried(one, mark("dead"), false, now);
    }
    assert_eq!(limits.may_try(one, mark("dead"), now).unwrap_err().code, 401);
    assert!(limits.may_try(one, mark("another"), now).is_ok());
    for guess in 0..200 {
        limits.tried(one, mark(&guess.to_string()), false, now);
    }
    assert_eq!(limits.may_try(same, mark("another"), now).unwrap_err().code, 429, "a /64 is one host");
    assert!(limits.may_try(same, mark("good"), now).is_ok(), "who was known goes on");
    assert!(limits.may_try(other, mark("another"), now).is_ok());
    assert!(limits.may_try(one, mark("another"), now + std::time::Duration::from_secs(1)).is_ok());
}

#[test]
fn warnings_are_headers_that_nobody_can_break_out_of() {
    let mut reply = reply::bytes(hyper::StatusCode::OK, reply::JSON, "");
    reply::warn(&mut reply, &["unknown field \"a\"\r\nX: y".to_owned()]);
    assert_eq!(reply.headers()["warning"].to_str().unwrap(), "299 - \"unknown field \\\"a\\\"  X: y\"");
}

#[test]
fn both_forms_of_discovery_say_the_same() {
    let old = discovery::resources("apps", "v1").unwrap();
    let names: Vec<&str> = old["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["controllerrevisions", "daemonsets", "daemonsets/status"]);
    let new = discovery::aggregated(false, "v2");
    let apps = new["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "apps").unwrap();
    let daemonsets = &apps["versions"][0]["resources"][1];
    assert_eq!((&daemonsets["resource"], &daemonsets["scope"]), (&json!("daemonsets"), &json!("Namespaced")));
    assert_eq!(daemonsets["subresources"][0]["subresource"], "status");
    assert_eq!(daemonsets["shortNames"], json!(["ds"]));
    assert_eq!(discovery::aggregated(true, "v2")["items"].as_array().unwrap().len(), 1);
    assert_eq!(discovery::group("apps").unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(discovery::group("batch"), None);
    let token = discovery::resources("", "v1").unwrap();
    let token = token["resources"].as_array().unwrap().iter().find(|r| r["name"] == "serviceaccounts/token").unwrap();
    assert_eq!((&token["group"], &token["kind"]), (&json!("authentication.k8s.io"), &json!("TokenRequest")));
}

#[tokio::test]
async fn half_a_document_is_no_document() {
    use http_body_util::BodyExt as _;
    for (is_whole, wanted) in [(true, Ok("ab".into())), (false, Err(reply::Broken))] {
        let (pieces, answer) = tokio::sync::mpsc::channel(2);
        pieces.try_send(reply::Part::More("a".into())).unwrap();
        if is_whole {
            pieces.try_send(reply::Part::Last("b".into())).unwrap();
        }
        drop(pieces);
        let read = reply::parts(reply::JSON, answer).into_body().collect().await;
        assert_eq!(read.map(|body| body.to_bytes()), wanted);
    }
}

#[tokio::test]
async fn a_long_answer_that_is_read_goes_on_and_ends_alone_when_it_takes_too_long() {
    use http_body_util::BodyExt as _;
    let limits = limits::Limits::default();
    let place = limits.request(&crate::door::identity::Identity::anonymous(), [127, 0, 0, 1].into()).unwrap();
    let mut reply = reply::bytes(hyper::StatusCode::OK, reply::JSON, vec![b'x'; reply::PIECE * 3]);
    reply::hold(&mut reply, place);
    let held = reply::unsent(&reply).unwrap().upgrade().unwrap();
    let body = reply.body_mut();
    for read in 0..2 {
        assert_eq!(held.moves(), read);
        assert!(body.frame().await.unwrap().is_ok());
    }
    held.give_up();
    assert_eq!(body.frame().await.unwrap().unwrap_err(), reply::Broken);
}
