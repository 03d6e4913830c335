//! Objects over the embedded store, as every client of the endpoint sees them: one sentence of Kubernetes' rules a test.

use std::collections::BTreeMap;
use std::time::Duration;

use control::api::error::ApiError;
use control::api::kinds::{Kind, by_resource};
use control::api::objects::{
    DeleteOptions, EventKind, FieldValidation, ListQuery, Objects, Patch, Preconditions, Propagation, WatchEvent,
    WatchQuery, Watching, WriteOptions, Written, prefix,
};
use control::api::selector;
use control::clock::Clock;
use control::store::any::AnyStore;
use control::store::embedded::Embedded;
use control::store::etcd::{Connection, Etcd};
use control::store::{Expected, Store, Write};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::etcd::TestEtcd;

/// A watch that has to say something says it by then.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    objects: Objects,
    clock: Clock,
    _dir: Option<TempDir>,
}

fn kind(path: &str) -> &'static Kind {
    let (group, resource) = path.split_once('/').unwrap_or(("", path));
    by_resource(group, "v1", resource).unwrap_or_else(|| panic!("no kind {path}"))
}

fn options() -> WriteOptions {
    WriteOptions { manager: "test".into(), validation: FieldValidation::Strict, ..WriteOptions::default() }
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(&dir.path().join("store")).expect("a store can be made");
    world_over(store.into(), Some(dir)).await
}

async fn world_over(store: AnyStore, dir: Option<TempDir>) -> World {
    let clock = Clock::at(Timestamp::from_second(1_700_000_000).expect("a time"));
    let world = World { objects: Objects::new(store, clock.clone()), clock, _dir: dir };
    world.create("namespaces", "", json!({"metadata": {"name": "n"}})).await;
    world.create("serviceaccounts", "n", json!({"metadata": {"name": "default"}})).await;
    world
}

impl World {
    async fn create(&self, path: &str, namespace: &str, object: Value) -> Value {
        self.try_create(path, namespace, object).await.unwrap_or_else(|e| panic!("{e}")).object
    }

    async fn try_create(&self, path: &str, namespace: &str, object: Value) -> Result<Written, ApiError> {
        self.objects.create(kind(path), namespace, object, &options()).await
    }

    async fn get(&self, path: &str, namespace: &str, name: &str) -> Option<Value> {
        match self.objects.get(kind(path), namespace, name).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn patch(&self, path: &str, name: &str, sub: &str, patch: Patch) -> Result<Value, ApiError> {
        let namespace = if kind(path).namespaced { "n" } else { "" };
        Ok(self.objects.patch(kind(path), namespace, name, sub, patch, &options()).await?.object)
    }

    async fn delete(&self, path: &str, name: &str, options: DeleteOptions) -> Result<bool, ApiError> {
        let namespace = if kind(path).namespaced { "n" } else { "" };
        Ok(self.objects.delete(kind(path), namespace, name, &options).await?.gone)
    }

    async fn list(&self, path: &str, query: ListQuery) -> control::api::objects::Listed {
        self.objects.list(kind(path), Some("n"), &query).await.unwrap_or_else(|e| panic!("{e}"))
    }

    async fn watch(&self, path: &str, query: WatchQuery) -> Watching {
        self.objects.watch(kind(path), Some("n"), &query).await.unwrap_or_else(|e| panic!("{e}"))
    }
}

fn daemonset(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}}},
    })
}

fn pod(name: &str, node: &str) -> Value {
    let spec = match node {
        "" => json!({"containers": [{"name": "main", "image": "busybox"}]}),
        node => json!({"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]}),
    };
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn config(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"key": value}})
}

fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().expect("a name")).collect()
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("a text");
    text.parse().expect("a number")
}

async fn next(watching: &mut Watching) -> WatchEvent {
    let next = tokio::time::timeout(PATIENCE, watching.next()).await.expect("the watch says something");
    next.unwrap_or_else(|e| panic!("{e}"))
}

/// Kind and name of the next events.
async fn told(watching: &mut Watching, count: usize) -> Vec<(EventKind, String)> {
    let mut events = Vec::new();
    for _ in 0..count {
        let event = next(watching).await;
        events.push((event.kind, event.object["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
    }
    events
}

fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (u16, &'static str, String) {
    let error = result.expect_err("it is refused");
    (error.code, error.reason, error.message)
}

#[tokio::test]
async fn a_new_daemonset_has_its_defaults_its_generation_and_its_owner() {
    let world = world().await;
    let made = world.create("apps/daemonsets", "n", daemonset("d")).await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["annotations"], json!({"deprecated.daemonset.template.generation": "1"}));
    assert_eq!(made["metadata"]["creationTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "test");
    let spec = &made["spec"];
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    assert_eq!((&spec["updateStrategy"], &spec["revisionHistoryLimit"]), (&strategy, &json!(10)));
    let template = json!({
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
        "securityContext": {}, "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "main", "image": "busybox:1", "imagePullPolicy": "IfNotPresent", "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
    });
    assert_eq!(spec["template"]["spec"], template);
    assert_eq!(made["status"]["desiredNumberScheduled"], 0);
    assert_eq!(world.get("apps/daemonsets", "n", "d").await, Some(made));
    assert_eq!(
        refused(world.try_create("apps/daemonsets", "n", daemonset("d")).await),
        (409, "AlreadyExists", "daemonsets.apps \"d\" already exists".into())
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_daemonset_is_told_by_field_in_kubernetes_words() {
    let world = world().await;
    let mut object = daemonset("d");
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
    object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    object["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 0}});
    let error = world.try_create("apps/daemonsets", "n", object).await.unwrap_err();
    assert_eq!((error.code, error.reason), (422, "Invalid"));
    assert_eq!(
        error.message,
        "DaemonSet.apps \"d\" is invalid: [spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not \
         match template `labels`, spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\", \
         spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0 when `maxSurge` is 0]"
    );
    let status = error.to_status();
    assert_eq!(status["details"]["kind"], "DaemonSet");
    assert_eq!(status["details"]["causes"][1]["field"], "spec.template.spec.restartPolicy");
}

#[tokio::test]
async fn what_no_node_could_run_is_refused_or_warned_of_before_it_takes_the_place_of_what_runs() {
    let world = world().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let set =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    world.create("apps/daemonsets", "n", set).await;
    let spec = |spec: Value| Patch::Merge(json!({"spec": {"template": {"spec": spec}}}));
    let wrong = spec(json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}));
    let refused = world.patch("apps/daemonsets", "d", "", wrong).await.unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(
        refused.message.contains("spec.template.spec.hostAliases[0].ip: Invalid value: \"x\""),
        "{}",
        refused.message
    );

    let claim = spec(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}));
    let patched = world
        .objects
        .patch(kind("apps/daemonsets"), "n", "d", "", claim, &options())
        .await
        .expect("Kubernetes takes it");
    assert_eq!(patched.warnings.len(), 1);
    assert!(patched.warnings[0].starts_with("spec.template.spec.volumes[0].persistentVolumeClaim: "), "{patched:?}");
    // Whoever changes something else is not told again, and is in nobody's way.
    let label = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    let patched = world.objects.patch(kind("apps/daemonsets"), "n", "d", "", label, &options()).await.expect("a label");
    assert_eq!(patched.warnings, Vec::<String>::new());

    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"hostname": "A_B", "containers": [{"name": "c", "image": "i:1"}]}});
    let refused = world.try_create("pods", "n", pod).await.unwrap_err();
    assert!(refused.code == 422 && refused.message.contains(" spec.hostname: "), "{}", refused.message);
}

#[tokio::test]
async fn kubernetes_own_priority_classes_stay() {
    let world = world().await;
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    for (name, value) in [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)] {
        world.create("scheduling.k8s.io/priorityclasses", "", class(name, value)).await;
        let refused =
            world.delete("scheduling.k8s.io/priorityclasses", name, DeleteOptions::default()).await.unwrap_err();
        let why = "this is a system priority class and cannot be deleted";
        assert!(refused.code == 403 && refused.message.contains(why), "{}", refused.message);
    }
    world.create("scheduling.k8s.io/priorityclasses", "", class("own", 5)).await;
    assert!(world.delete("scheduling.k8s.io/priorityclasses", "own", DeleteOptions::default()).await.unwrap());
}

#[tokio::test]
async fn only_the_template_raises_the_templates_generation_and_labels_raise_none() {
    let world = world().await;
    world.create("apps/daemonsets", "n", daemonset("d")).await;
    let generations = |object: &Value| {
        let metadata = &object["metadata"];
        let template = metadata["annotations"]["deprecated.daemonset.template.generation"].as_str().unwrap();
        (metadata["generation"].as_i64().unwrap(), template.parse::<i64>().unwrap())
    };
    let merge = async |patch: Value| {
        generations(
            &world.patch("apps/daemonsets", "d", "", Patch::Merge(patch)).await.unwrap_or_else(|e| panic!("{e}")),
        )
    };
    assert_eq!(merge(json!({"metadata": {"labels": {"x": "y"}}})).await, (1, 1));
    assert_eq!(merge(json!({"spec": {"minReadySeconds": 3}})).await, (2, 1));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}}});
    assert_eq!(merge(image.clone()).await, (3, 2));
    assert_eq!(merge(image).await, (3, 2));
    let annotation = json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "9"}}});
    assert_eq!(merge(annotation).await, (3, 2));
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}});
    let error = world.patch("apps/daemonsets", "d", "", Patch::Merge(selector)).await.unwrap_err();
    assert!(
        error
            .message
            .contains("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable"),
        "{error}"
    );
}

#[tokio::test]
async fn a_status_is_written_by_its_own_door_and_by_no_other() {
    let world = world().await;
    world.create("apps/daemonsets", "n", daemonset("d")).await;
    let both =
        json!({"metadata": {"labels": {"no": "no"}}, "spec": {"minReadySeconds": 7}, "status": {"numberReady": 5}});
    let after = world.patch("apps/daemonsets", "d", "status", Patch::Merge(both.clone())).await.unwrap();
    assert_eq!((&after["status"]["numberReady"], &after["spec"]["minReadySeconds"]), (&json!(5), &Value::Null));
    assert_eq!((&after["metadata"]["labels"], &after["metadata"]["generation"]), (&Value::Null, &json!(1)));
    let owners: Vec<&Value> =
        after["metadata"]["managedFields"].as_array().unwrap().iter().map(|e| &e["subresource"]).collect();
    assert_eq!(owners, [&Value::Null, &json!("status")]);
    let mut other = both;
    other["status"]["numberReady"] = json!(6);
    let after = world.patch("apps/daemonsets", "d", "", Patch::Merge(other)).await.unwrap();
    assert_eq!((&after["status"]["numberReady"], &after["spec"]["minReadySeconds"]), (&json!(5), &json!(7)));
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_refused_warned_of_or_dropped_as_asked() {
    let world = world().await;
    let mut object = daemonset("d");
    object["spec"]["foo"] = json!(1);
    object["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x");
    let with = |validation, duplicates: &[&str]| WriteOptions {
        validation,
        duplicates: duplicates.iter().map(|d| (*d).to_owned()).collect(),
        dry_run: true,
        ..options()
    };
    let try_with = async |options: WriteOptions| {
        world.objects.create(kind("apps/daemonsets"), "n", object.clone(), &options).await
    };
    let (code, reason, message) = refused(try_with(with(FieldValidation::Strict, &["spec.selector"])).await);
    assert_eq!((code, reason), (400, "BadRequest"));
    assert!(
        message.ends_with(
            "strict decoding error: unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].imag\", \
             duplicate field \"spec.selector\""
        ),
        "{message}"
    );
    let warned = try_with(with(FieldValidation::Warn, &[])).await.unwrap();
    assert_eq!(
        warned.warnings,
        ["unknown field \"spec.foo\"", "unknown field \"spec.template.spec.containers[0].imag\""]
    );
    assert_eq!(warned.object["spec"].get("foo"), None);
    let ignored = try_with(with(FieldValidation::Ignore, &[])).await.unwrap();
    assert_eq!((ignored.warnings.len(), ignored.object["spec"].get("foo")), (0, None));
    assert_eq!(world.get("apps/daemonsets", "n", "d").await, None, "a dry run writes nothing");
}

#[tokio::test]
async fn a_generated_name_has_five_letters_more() {
    let world = world().await;
    let made = world.create("configmaps", "n", json!({"metadata": {"generateName": "c-"}})).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("c-") && name.len() == 7, "{name}");
    let (code, _, message) = refused(world.try_create("configmaps", "n", json!({"metadata": {}})).await);
    assert_eq!(code, 422);
    assert!(message.contains("metadata.name: Required value: name or generateName is required"), "{message}");
}

#[tokio::test]
async fn nothing_is_created_where_there_is_no_namespace_or_one_that_ends() {
    let world = world().await;
    let nowhere = world.try_create("configmaps", "x", config("a", "1")).await;
    assert_eq!(refused(nowhere), (404, "NotFound", "namespaces \"x\" not found".into()));
    let kept = world.create("configmaps", "n", config("kept", "1")).await;
    assert!(!world.delete("namespaces", "n", DeleteOptions::default()).await.unwrap(), "its content goes first");
    let namespace = world.get("namespaces", "", "n").await.unwrap();
    assert_eq!(
        (&namespace["status"]["phase"], &namespace["metadata"]["labels"]),
        (&json!("Terminating"), &json!({"kubernetes.io/metadata.name": "n"}))
    );
    let error = world.try_create("configmaps", "n", config("a", "1")).await.unwrap_err();
    assert_eq!((error.code, error.reason), (403, "Forbidden"));
    assert_eq!(error.details.as_ref().unwrap().causes[0].reason, "NamespaceTerminating");
    // What is there can still be changed, and must be, to go.
    let patched = world.patch("configmaps", "kept", "", Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    assert!(revision(&patched) > revision(&kept));

    let mut empty = namespace.clone();
    empty["spec"] = json!({"finalizers": []});
    world.objects.update(kind("namespaces"), "", "n", "finalize", empty, &options()).await.unwrap();
    assert_eq!(world.get("namespaces", "", "n").await, None);
    let system = world.objects.delete(kind("namespaces"), "", "kube-system", &DeleteOptions::default()).await;
    assert_eq!(refused(system).0, 403);
}

#[tokio::test]
async fn a_write_over_anothers_is_a_conflict_only_where_it_says_what_it_replaces() {
    let world = world().await;
    let first = world.create("configmaps", "n", config("a", "1")).await;
    world.patch("configmaps", "a", "", Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    let stale = world.objects.update(kind("configmaps"), "n", "a", "", first.clone(), &options()).await;
    assert_eq!(
        refused(stale),
        (
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again".into()
        )
    );
    let in_patch = json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"key": "3"}});
    assert_eq!(refused(world.patch("configmaps", "a", "", Patch::Merge(in_patch)).await).0, 409);
    let unconditional = world.objects.update(kind("configmaps"), "n", "a", "", config("a", "4"), &options()).await;
    assert_eq!(unconditional.unwrap().object["data"]["key"], "4");
    let mut other = config("a", "5");
    other["metadata"]["uid"] = json!("another");
    let (code, _, message) = refused(world.objects.update(kind("configmaps"), "n", "a", "", other, &options()).await);
    assert!(code == 409 && message.contains("UID in precondition: another"), "{message}");
    // Leases decide who leads: there is no unconditional write.
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}});
    let created = world
        .objects
        .update(kind("coordination.k8s.io/leases"), "n", "l", "", lease.clone(), &options())
        .await
        .unwrap();
    assert!(created.created);
    let (code, _, message) =
        refused(world.objects.update(kind("coordination.k8s.io/leases"), "n", "l", "", lease, &options()).await);
    assert!(
        code == 422 && message.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{message}"
    );
}

#[tokio::test]
async fn a_write_that_changes_nothing_takes_no_revision() {
    let world = world().await;
    let made = world.create("apps/daemonsets", "n", daemonset("d")).await;
    let again = world.objects.update(kind("apps/daemonsets"), "n", "d", "", made.clone(), &options()).await.unwrap();
    assert_eq!(again.object, made);
    let same = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "busybox:1"}]}}}});
    let patched = world.patch("apps/daemonsets", "d", "", Patch::Strategic(same)).await.unwrap();
    assert_eq!(revision(&patched), revision(&made));
}

#[tokio::test]
async fn patches_that_race_lose_nothing() {
    let world = world().await;
    world.create("configmaps", "n", json!({"metadata": {"name": "a"}})).await;
    let patches = (0..6).map(|n| {
        let objects = world.objects.clone();
        tokio::spawn(async move {
            let patch = Patch::Merge(json!({"data": {format!("k{n}"): "v"}}));
            objects.patch(kind("configmaps"), "n", "a", "", patch, &options()).await
        })
    });
    for patch in patches.collect::<Vec<_>>() {
        patch.await.unwrap().unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(world.get("configmaps", "n", "a").await.unwrap()["data"].as_object().unwrap().len(), 6);
}

#[tokio::test]
async fn all_four_patches_change_the_object_and_only_apply_creates_it() {
    let world = world().await;
    let json_patch = |operations: Value| world.patch("apps/daemonsets", "d", "", Patch::Json(operations));
    assert_eq!(refused(json_patch(json!([])).await).0, 404);
    let apply = |configuration: Value, manager: &str, force| {
        let options = WriteOptions { manager: manager.into(), ..options() };
        let objects = world.objects.clone();
        let patch = Patch::Apply { configuration, force };
        async move { objects.patch(kind("apps/daemonsets"), "n", "d", "", patch, &options).await }
    };
    let applied = apply(daemonset("d"), "a", false).await.unwrap();
    assert!(applied.created);
    assert_eq!(applied.object["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(applied.object["spec"]["revisionHistoryLimit"], 10);
    let again = apply(daemonset("d"), "a", false).await.unwrap();
    assert_eq!((again.created, &again.object), (false, &applied.object));

    let mut other = daemonset("d");
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("busybox:2");
    let error = apply(other.clone(), "b", false).await.unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    let cause = &error.details.as_ref().unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", ".spec.template.spec.containers[name=\"main\"].image")
    );
    let forced = apply(other, "b", true).await.unwrap().object;
    assert_eq!(
        (&forced["spec"]["template"]["spec"]["containers"][0]["image"], &forced["metadata"]["generation"]),
        (&json!("busybox:2"), &json!(2))
    );

    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "x"}]}}}});
    let two = world.patch("apps/daemonsets", "d", "", Patch::Strategic(strategic)).await.unwrap();
    assert_eq!(two["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(two["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"], "Always");
    let one = json_patch(json!([{"op": "remove", "path": "/spec/template/spec/containers/0"}])).await.unwrap();
    assert_eq!(one["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(refused(json_patch(json!([{"op": "test", "path": "/kind", "value": "x"}])).await).0, 422);
    let renamed = world.patch("apps/daemonsets", "d", "", Patch::Merge(json!({"metadata": {"name": "e"}}))).await;
    assert_eq!(refused(renamed).0, 400);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment() {
    let world = world().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.create("configmaps", "n", config(name, name)).await;
    }
    let first = world.list("configmaps", ListQuery { limit: Some(2), ..ListQuery::default() }).await;
    assert_eq!(names(&first.items), ["a", "b"]);
    assert_eq!(first.remaining, Some(3));
    world.delete("configmaps", "d", DeleteOptions::default()).await.unwrap();
    world.create("configmaps", "n", config("cc", "new")).await;
    let mut token = first.continue_.clone();
    let mut seen = Vec::new();
    while let Some(continue_) = token {
        let query = ListQuery { limit: Some(2), continue_: Some(continue_), ..ListQuery::default() };
        let page = world.list("configmaps", query).await;
        assert_eq!(page.revision, first.revision);
        seen.extend(names(&page.items).into_iter().map(str::to_owned));
        token = page.continue_;
    }
    assert_eq!(seen, ["c", "d", "e"]);
    let exact = ListQuery { revision: Some(first.revision), exact: true, ..ListQuery::default() };
    assert_eq!(names(&world.list("configmaps", exact).await.items), ["a", "b", "c", "d", "e"]);
    let now = world.list("configmaps", ListQuery::default()).await;
    assert_eq!(names(&now.items), ["a", "b", "c", "cc", "e"]);
    assert!(now.revision > first.revision && now.continue_.is_none());

    let future = ListQuery { revision: Some(now.revision + 1000), ..ListQuery::default() };
    let (code, reason, _) = refused(world.objects.list(kind("configmaps"), Some("n"), &future).await);
    assert_eq!((code, reason), (504, "Timeout"));
    let garbage = ListQuery { continue_: Some("???".into()), ..ListQuery::default() };
    assert_eq!(refused(world.objects.list(kind("configmaps"), Some("n"), &garbage).await).0, 400);
    world.objects.store().compact(now.revision).await.unwrap();
    let late = ListQuery { limit: Some(2), continue_: first.continue_, ..ListQuery::default() };
    let late = world.objects.list(kind("configmaps"), Some("n"), &late).await.unwrap_err();
    assert_eq!((late.code, late.reason), (410, "Expired"));
    // Whoever can live with it goes on as of now, and then consistently.
    let mut token = late.to_status()["metadata"]["continue"].as_str().map(str::to_owned);
    let mut seen = Vec::new();
    while let Some(continue_) = token {
        let query = ListQuery { limit: Some(2), continue_: Some(continue_), ..ListQuery::default() };
        let page = world.list("configmaps", query).await;
        assert_eq!(page.revision, now.revision);
        seen.extend(names(&page.items).into_iter().map(str::to_owned));
        token = page.continue_;
    }
    assert_eq!(seen, ["c", "cc", "e"]);
}

#[tokio::test]
async fn selectors_choose_by_labels_and_by_fields() {
    let world = world().await;
    world.create("pods", "n", pod("a", "n1")).await;
    world.create("pods", "n", pod("b", "n2")).await;
    let by = async |labels: &str, fields: &str| {
        let query = ListQuery {
            labels: selector::labels(labels).unwrap(),
            fields: selector::fields(fields, selector::selectable("", "Pod")).unwrap(),
            limit: Some(1),
            ..ListQuery::default()
        };
        names(&world.list("pods", query).await.items).concat()
    };
    assert_eq!(by("app=b", "").await, "b");
    assert_eq!(by("", "spec.nodeName=n2").await, "b");
    assert_eq!(by("", "metadata.name=a").await, "a");
    assert_eq!(by("app=b", "metadata.name=a").await, "");
    assert_eq!(by("", "status.phase=Pending,spec.nodeName!=n1").await, "b");
}

#[tokio::test]
async fn a_watch_replays_from_any_revision_and_goes_on() {
    let world = world().await;
    let a = world.create("configmaps", "n", config("a", "1")).await;
    world.create("configmaps", "n", config("b", "1")).await;
    let mut watching =
        world.watch("configmaps", WatchQuery { after: Some(revision(&a)), ..WatchQuery::default() }).await;
    world.patch("configmaps", "a", "", Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    world.delete("configmaps", "b", DeleteOptions::default()).await.unwrap();
    let wanted = [(EventKind::Added, "b"), (EventKind::Modified, "a"), (EventKind::Deleted, "b")];
    let mut last = revision(&a);
    for (kind, name) in wanted {
        let event = next(&mut watching).await;
        assert_eq!((event.kind, event.object["metadata"]["name"].as_str().unwrap()), (kind, name));
        assert!(revision(&event.object) > last);
        last = revision(&event.object);
    }
    world.objects.store().compact(last).await.unwrap();
    let query = WatchQuery { after: Some(revision(&a)), ..WatchQuery::default() };
    let (code, reason, _) = refused(world.objects.watch(kind("configmaps"), Some("n"), &query).await);
    assert_eq!((code, reason), (410, "Expired"));
}

#[tokio::test]
async fn a_watch_begins_with_what_there_is_and_says_when_that_is_told() {
    let world = world().await;
    world.create("configmaps", "n", config("a", "1")).await;
    let mut plain = world.watch("configmaps", WatchQuery::default()).await;
    let query = WatchQuery { send_initial: true, bookmarks: true, ..WatchQuery::default() };
    let mut listing = world.watch("configmaps", query).await;
    assert_eq!(told(&mut plain, 1).await, [(EventKind::Added, "a".into())]);
    assert_eq!(told(&mut listing, 1).await, [(EventKind::Added, "a".into())]);
    let end = next(&mut listing).await;
    assert_eq!(end.kind, EventKind::Bookmark);
    assert_eq!(end.object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let made = world.create("configmaps", "n", config("b", "1")).await;
    assert!(revision(&end.object) < revision(&made));
    assert_eq!(told(&mut plain, 1).await, [(EventKind::Added, "b".into())]);
    assert_eq!(told(&mut listing, 1).await, [(EventKind::Added, "b".into())]);
}

#[tokio::test]
async fn who_enters_a_selector_is_added_and_who_leaves_it_is_deleted() {
    let world = world().await;
    let query = WatchQuery {
        labels: selector::labels("x=1").unwrap(),
        after: Some(revision(&world.create("configmaps", "n", config("a", "1")).await)),
        ..WatchQuery::default()
    };
    let mut watching = world.watch("configmaps", query).await;
    for labels in [json!({"x": "1"}), json!({"y": "1"}), json!({"x": null})] {
        world.patch("configmaps", "a", "", Patch::Merge(json!({"metadata": {"labels": labels}}))).await.unwrap();
    }
    world.patch("configmaps", "a", "", Patch::Merge(json!({"metadata": {"labels": {"x": "1"}}}))).await.unwrap();
    let kinds: Vec<EventKind> = told(&mut watching, 4).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Modified, EventKind::Deleted, EventKind::Added]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_a_bookmark_of_how_far_it_is() {
    let world = world().await;
    let query = WatchQuery { send_initial: true, bookmarks: true, ..WatchQuery::default() };
    let mut watching = world.watch("configmaps", query).await;
    assert_eq!(told(&mut watching, 1).await[0].0, EventKind::Bookmark);
    // Of another kind: this watch is told nothing else of it.
    let pod = world.create("pods", "n", pod("a", "n1")).await;
    let event = tokio::time::timeout(Duration::from_secs(120), watching.next()).await.unwrap().unwrap();
    assert_eq!((event.kind, revision(&event.object)), (EventKind::Bookmark, revision(&pod)));
    assert_eq!(event.object["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn a_list_and_its_watch_together_are_the_present_state() {
    list_and_watch(&world().await).await;
}

#[tokio::test]
async fn over_etcd_too_a_list_and_its_watch_together_are_the_present_state() {
    let etcd = TestEtcd::start();
    let identity = etcd.client();
    let connection = Connection {
        endpoints: vec![etcd.url()],
        authority: Some(etcd.authority().into()),
        identity: Some((identity.cert.into(), identity.key.into())),
    };
    let store = Etcd::connect(connection).await.expect("it answers");
    list_and_watch(&world_over(store.into(), None).await).await;
}

async fn list_and_watch(world: &World) {
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    world.create("configmaps", "n", config("a", "1")).await;
    let listed = world.list("configmaps", ListQuery::default()).await;
    known.extend(listed.items.into_iter().map(|object| (object["metadata"]["name"].to_string(), object)));
    let mut changes = 0;
    for n in 0..30_u32 {
        let name = format!("c{}", n % 4);
        let there = world.get("configmaps", "n", &name).await.is_some();
        match (there, n % 3) {
            (false, _) => drop(world.create("configmaps", "n", config(&name, "0")).await),
            (true, 0) => drop(world.delete("configmaps", &name, DeleteOptions::default()).await.expect("it is there")),
            (true, _) => {
                let patch = Patch::Merge(json!({"data": {"key": n.to_string()}}));
                world.patch("configmaps", &name, "", patch).await.expect("it is there");
            }
        }
        changes += 1;
    }
    let mut watching =
        world.watch("configmaps", WatchQuery { after: Some(listed.revision), ..WatchQuery::default() }).await;
    for _ in 0..changes {
        let event = next(&mut watching).await;
        let name = event.object["metadata"]["name"].to_string();
        match event.kind {
            EventKind::Deleted => assert!(known.remove(&name).is_some()),
            EventKind::Added => assert!(known.insert(name, event.object).is_none()),
            EventKind::Modified => assert!(known.insert(name, event.object).is_some()),
            EventKind::Bookmark => panic!("none was asked for"),
        }
    }
    let now = world.list("configmaps", ListQuery::default()).await.items;
    assert_eq!(known.into_values().collect::<Vec<_>>(), now);
}

#[tokio::test]
async fn a_pod_has_its_grace_which_can_only_be_shortened_and_its_node_confirms_the_end() {
    let world = world().await;
    world.create("pods", "n", pod("a", "n1")).await;
    assert!(!world.delete("pods", "a", DeleteOptions::default()).await.unwrap());
    let ending = world.get("pods", "n", "a").await.unwrap();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(ending["metadata"]["deletionTimestamp"], "2023-11-14T22:13:50Z");
    assert_eq!(ending["metadata"]["generation"], 2);
    let grace = |seconds| DeleteOptions { grace: Some(seconds), ..DeleteOptions::default() };
    world.clock.set(Timestamp::from_second(1_700_000_010).unwrap());
    assert!(!world.delete("pods", "a", grace(60)).await.unwrap());
    assert_eq!(world.get("pods", "n", "a").await.unwrap(), ending);
    assert!(!world.delete("pods", "a", grace(5)).await.unwrap());
    let shorter = world.get("pods", "n", "a").await.unwrap();
    let told = (&shorter["metadata"]["deletionTimestamp"], &shorter["metadata"]["deletionGracePeriodSeconds"]);
    assert_eq!(told, (&json!("2023-11-14T22:13:25Z"), &json!(5)), "its end was asked for when it was first asked for");
    let foreign = DeleteOptions { preconditions: Preconditions { uid: Some("x".into()), revision: None }, ..grace(0) };
    assert_eq!(refused(world.delete("pods", "a", foreign).await).0, 409);
    assert!(world.delete("pods", "a", grace(0)).await.unwrap());
    assert_eq!(world.get("pods", "n", "a").await, None);

    world.create("pods", "n", pod("unbound", "")).await;
    assert!(world.delete("pods", "unbound", DeleteOptions::default()).await.unwrap());
    world.create("pods", "n", pod("ended", "n1")).await;
    world.patch("pods", "ended", "status", Patch::Merge(json!({"status": {"phase": "Failed"}}))).await.unwrap();
    assert!(world.delete("pods", "ended", DeleteOptions::default()).await.unwrap());
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let world = world().await;
    let mut object = config("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/x"]);
    world.create("configmaps", "n", object).await;
    assert!(!world.delete("configmaps", "a", DeleteOptions::default()).await.unwrap());
    let ending = world.get("configmaps", "n", "a").await.unwrap();
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    let (code, _, message) = refused(world.patch("configmaps", "a", "", Patch::Merge(more)).await);
    assert!(
        code == 422 && message.contains("no new finalizers can be added if the object is being deleted"),
        "{message}"
    );
    assert!(!world.delete("configmaps", "a", DeleteOptions::default()).await.unwrap());
    let none = json!({"metadata": {"finalizers": null}});
    world.patch("configmaps", "a", "", Patch::Merge(none)).await.unwrap();
    assert_eq!(world.get("configmaps", "n", "a").await, None);
}

#[tokio::test]
async fn the_propagation_is_a_finalizer_but_in_the_background() {
    let world = world().await;
    for (propagation, finalizer) in [
        (Propagation::Foreground, Some("foregroundDeletion")),
        (Propagation::Orphan, Some("orphan")),
        (Propagation::Background, None),
    ] {
        world.create("apps/daemonsets", "n", daemonset("d")).await;
        let how = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let gone = world.delete("apps/daemonsets", "d", how).await.unwrap();
        assert_eq!(gone, finalizer.is_none());
        if let Some(finalizer) = finalizer {
            let ending = world.get("apps/daemonsets", "n", "d").await.unwrap();
            assert_eq!(ending["metadata"]["finalizers"], json!([finalizer]));
            assert_eq!(ending["metadata"]["generation"], 2);
            world
                .patch("apps/daemonsets", "d", "", Patch::Merge(json!({"metadata": {"finalizers": []}})))
                .await
                .unwrap();
        }
        assert_eq!(world.get("apps/daemonsets", "n", "d").await, None);
    }
}

#[tokio::test]
async fn who_waits_for_dependents_can_be_told_not_to_and_what_is_emptied_is_not_left_behind() {
    let world = world().await;
    let how = |propagation| DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    for (first, second, left) in [
        (Propagation::Foreground, Propagation::Orphan, Some("foregroundDeletion")),
        (Propagation::Foreground, Propagation::Background, None),
        (Propagation::Orphan, Propagation::Foreground, Some("foregroundDeletion")),
        (Propagation::Orphan, Propagation::Background, None),
    ] {
        world.create("apps/daemonsets", "n", daemonset("d")).await;
        assert!(!world.delete("apps/daemonsets", "d", how(first)).await.unwrap());
        assert!(!world.delete("apps/daemonsets", "d", DeleteOptions::default()).await.unwrap());
        assert_eq!(world.delete("apps/daemonsets", "d", how(second)).await.unwrap(), left.is_none(), "{second:?}");
        let now = world.get("apps/daemonsets", "n", "d").await;
        assert_eq!(now.map(|it| it["metadata"]["finalizers"].clone()), left.map(|it| json!([it])), "{second:?}");
        let _ = world.delete("apps/daemonsets", "d", how(Propagation::Background)).await;
    }
}

#[tokio::test]
async fn what_has_a_default_only_since_an_upgrade_is_no_change_of_anybodys() {
    let world = world().await;
    let of_set = ("apps/daemonsets", daemonset("d"), "/spec/template", json!({"observedGeneration": 1}));
    for (path, object, template, status) in [of_set, ("pods", pod("d", "n1"), "", json!({"message": "x"}))] {
        let mut stored = world.create(path, "n", object).await;
        let spec = |object: &Value| object.pointer(template).unwrap()["spec"].clone();
        let revision = revision(&stored);
        let before = stored.pointer_mut(template).unwrap()["spec"].as_object_mut().unwrap().remove("dnsPolicy");
        assert!(before.is_some(), "it has a default");
        let key = format!("{}d", prefix(kind(path), Some("n")));
        let write = Write { key, value: Some(stored.to_string().into_bytes()), expected: Expected::At(revision) };
        world.objects.store().write(write).await.unwrap();

        let labelled = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
        let after = world.patch(path, "d", "", labelled).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!((&after["metadata"]["labels"]["x"], spec(&after)), (&json!("y"), spec(&stored)), "{path}");
        let said = Patch::Merge(json!({"status": status}));
        let after = world.patch(path, "d", "status", said).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(spec(&after), spec(&stored), "{path}");
        assert_eq!(after["metadata"]["generation"], 1, "{path}");
    }
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector_and_a_dry_run_deletes_nothing() {
    let world = world().await;
    for name in ["a", "b"] {
        let mut object = config(name, "1");
        object["metadata"]["labels"] = json!({"name": name});
        world.create("configmaps", "n", object).await;
    }
    let query = ListQuery { labels: selector::labels("name=a").unwrap(), ..ListQuery::default() };
    let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    for (how, left) in [(dry, vec!["a", "b"]), (DeleteOptions::default(), vec!["b"])] {
        let mut found = Vec::new();
        let with = |object| found.push(object);
        world.objects.delete_collection(kind("configmaps"), Some("n"), &query, &how, with).await.unwrap();
        assert_eq!(names(&found), ["a"]);
        assert_eq!(names(&world.list("configmaps", ListQuery::default()).await.items), left);
    }
}

#[tokio::test]
async fn a_pod_gets_its_account_its_token_and_its_priority() {
    let world = world().await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000, "globalDefault": true});
    world.create("scheduling.k8s.io/priorityclasses", "", class).await;
    let second = json!({"metadata": {"name": "higher"}, "value": 2000, "globalDefault": true});
    assert_eq!(refused(world.try_create("scheduling.k8s.io/priorityclasses", "", second).await).0, 403);
    let made = world.create("pods", "n", pod("a", "n1")).await;
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(1000)));
    assert_eq!((&spec["priorityClassName"], &spec["enableServiceLinks"]), (&json!("high"), &json!(true)));
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(mount["name"], spec["volumes"][0]["name"]);
    assert_eq!((&made["status"]["qosClass"], &made["status"]["phase"]), (&json!("BestEffort"), &json!("Pending")));

    let mut other = pod("b", "n1");
    other["spec"]["serviceAccountName"] = json!("nobody");
    let (code, _, message) = refused(world.try_create("pods", "n", other).await);
    assert!(code == 403 && message.contains("serviceaccount \"nobody\" not found"), "{message}");
    let mut other = pod("b", "n1");
    other["spec"]["priorityClassName"] = json!("none");
    let (code, _, message) = refused(world.try_create("pods", "n", other).await);
    assert!(code == 403 && message.contains("no PriorityClass with name none was found"), "{message}");

    let mut mirror = pod("static-n1", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let made = world.create("pods", "n", mirror).await;
    assert_eq!((made["spec"].get("volumes"), made["spec"].get("serviceAccountName")), (None, None));
    let unmirrored = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": null}}});
    assert_eq!(refused(world.patch("pods", "static-n1", "", Patch::Merge(unmirrored)).await).0, 422);
}

#[tokio::test]
async fn a_pod_keeps_its_spec_but_for_its_images_and_gets_a_node_only_once() {
    let world = world().await;
    world.create("pods", "n", pod("a", "")).await;
    let waiting = world.get("pods", "n", "a").await.unwrap();
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "NoScheduler");
    let by_hand = world.patch("pods", "a", "", Patch::Merge(json!({"spec": {"nodeName": "n1"}}))).await;
    assert_eq!(refused(by_hand).0, 422);
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    let options = options();
    let bind = || world.objects.act(kind("pods"), "n", "a", "binding", binding.clone(), &options);
    assert_eq!(bind().await.unwrap()["status"], "Success");
    assert_eq!(refused(bind().await).0, 409);
    let bound = world.get("pods", "n", "a").await.unwrap();
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["status"]),
        (&json!("n1"), &json!("True"))
    );
    let image = json!({"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}});
    let changed = world.patch("pods", "a", "", Patch::Strategic(image)).await.unwrap();
    assert_eq!(changed["spec"]["containers"][0]["image"], "busybox:2");
    let command = json!({"spec": {"containers": [{"name": "main", "command": ["x"]}]}});
    assert_eq!(refused(world.patch("pods", "a", "", Patch::Strategic(command)).await).0, 422);

    let eviction = json!({"metadata": {"name": "a"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    let evicted = world.objects.act(kind("pods"), "n", "a", "eviction", eviction, &options).await;
    assert_eq!(evicted.unwrap()["details"]["name"], "a");
    assert_eq!(world.get("pods", "n", "a").await.unwrap()["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn events_are_one_set_of_objects_with_two_names() {
    let world = world().await;
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "c",
        "reportingInstance": "i", "action": "A", "reason": "R", "note": "text", "type": "Normal",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "n"}});
    let made = world.create("events.k8s.io/events", "n", event).await;
    let old = world.get("events", "n", "e").await.unwrap();
    assert_eq!(
        (&old["apiVersion"], &old["message"], &old["involvedObject"]["name"]),
        (&json!("v1"), &json!("text"), &json!("p"))
    );
    assert_eq!(old["reportingComponent"], "c");
    assert_eq!(made["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
    let again = world.get("events.k8s.io/events", "n", "e").await.unwrap();
    assert_eq!((&again["apiVersion"], &again["note"]), (&json!("events.k8s.io/v1"), &json!("text")));
    let by = ListQuery {
        fields: selector::fields("involvedObject.name=p,source=c", selector::selectable("", "Event")).unwrap(),
        ..ListQuery::default()
    };
    assert_eq!(names(&world.list("events", by).await.items), ["e"]);
}

#[tokio::test]
async fn a_revisions_data_stays_as_it_came() {
    let world = world().await;
    let data = json!({"spec": {"template": {"$patch": "replace", "metadata": {"creationTimestamp": null}, "limits": {"cpu": "0.1"}}}});
    let revision = json!({"metadata": {"name": "r"}, "revision": 1, "data": data});
    world.create("apps/controllerrevisions", "n", revision).await;
    assert_eq!(world.get("apps/controllerrevisions", "n", "r").await.unwrap()["data"], data);
    let bumped = world.patch("apps/controllerrevisions", "r", "", Patch::Merge(json!({"revision": 2}))).await.unwrap();
    assert_eq!((&bumped["revision"], &bumped["data"]), (&json!(2), &data));
    let other = world.patch("apps/controllerrevisions", "r", "", Patch::Merge(json!({"data": {"x": 1}}))).await;
    assert_eq!(refused(other).0, 422);
}

/// One object of each kind that is kept, as users write it.
fn samples() -> Vec<(&'static str, Value)> {
    let metadata = json!({"name": "x"});
    let role = json!({"metadata": metadata, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let binding = json!({"metadata": metadata, "roleRef": {"kind": "ClusterRole", "name": "x"}, "subjects": [{"kind": "User", "name": "u"}]});
    vec![
        ("configmaps", config("x", "1")),
        ("events", json!({"metadata": metadata, "involvedObject": {"namespace": "n"}})),
        ("namespaces", json!({"metadata": metadata})),
        ("nodes", json!({"metadata": metadata, "status": {"capacity": {"cpu": 2}}})),
        ("pods", pod("x", "n1")),
        ("secrets", json!({"metadata": metadata, "stringData": {"a": "b"}})),
        ("serviceaccounts", json!({"metadata": metadata})),
        ("services", json!({"metadata": metadata, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}})),
        ("apps/controllerrevisions", json!({"metadata": metadata, "revision": 1, "data": {"a": null}})),
        ("apps/daemonsets", daemonset("x")),
        (
            "coordination.k8s.io/leases",
            json!({"metadata": metadata, "spec": {"renewTime": "2024-01-01T00:00:00.000000Z"}}),
        ),
        (
            "discovery.k8s.io/endpointslices",
            json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 1}]}),
        ),
        ("rbac.authorization.k8s.io/clusterrolebindings", binding.clone()),
        ("rbac.authorization.k8s.io/clusterroles", role.clone()),
        ("rbac.authorization.k8s.io/rolebindings", binding),
        ("rbac.authorization.k8s.io/roles", role),
        ("scheduling.k8s.io/priorityclasses", json!({"metadata": metadata, "value": 5})),
    ]
}

#[tokio::test]
async fn what_was_read_can_be_written_back_and_applied_and_nothing_changes() {
    let world = world().await;
    let samples = samples();
    let stored = control::api::kinds::kinds().iter().filter(|kind| kind.is_stored()).count();
    // The events of both groups are the same objects.
    assert_eq!(samples.len() + 1, stored, "a kind has no sample");
    for (path, object) in samples {
        let namespace = if kind(path).namespaced { "n" } else { "" };
        let made = world.create(path, namespace, object.clone()).await;
        assert_eq!(world.get(path, namespace, "x").await, Some(made.clone()), "{path}");
        let again = world.objects.update(kind(path), namespace, "x", "", made.clone(), &options()).await;
        assert_eq!(again.unwrap_or_else(|e| panic!("{path}: {e}")).object, made, "{path}");
        let labelled = world.patch(path, "x", "", Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}))).await;
        let labelled = labelled.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!((&labelled["metadata"]["labels"]["a"], revision(&labelled) > revision(&made)), (&json!("b"), true));
        assert_eq!(labelled["metadata"]["generation"], made["metadata"]["generation"], "{path}");
        let configuration = json!({"metadata": {"labels": {"c": "d"}}});
        let apply = Patch::Apply { configuration, force: false };
        let applied = world.patch(path, "x", "", apply).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(
            (&applied["metadata"]["labels"]["a"], &applied["metadata"]["labels"]["c"]),
            (&json!("b"), &json!("d"))
        );
        assert_eq!(applied.get("spec"), made.get("spec"), "{path}");
        let listed = world.objects.list(kind(path), None, &ListQuery::default()).await.unwrap().items;
        assert!(listed.contains(&applied), "{path}");
        let ending = DeleteOptions { grace: Some(0), ..DeleteOptions::default() };
        let gone = world.objects.delete(kind(path), namespace, "x", &ending).await.unwrap().gone;
        assert_eq!(gone, path != "namespaces", "{path}");
    }
}

/// What `manager` applies to the DaemonSet `d`.
async fn apply(world: &World, manager: &str, sub: &str, configuration: Value, force: bool) -> Result<Value, ApiError> {
    let options = WriteOptions { manager: manager.into(), ..options() };
    let patch = Patch::Apply { configuration, force };
    Ok(world.objects.patch(kind("apps/daemonsets"), "n", "d", sub, patch, &options).await?.object)
}

/// `daemonset("d")` with this in its template's spec beside the container.
fn templated(extra: Value) -> Value {
    let mut object = daemonset("d");
    for (field, value) in extra.as_object().into_iter().flatten() {
        object["spec"]["template"]["spec"][field] = value.clone();
    }
    object
}

#[tokio::test]
async fn what_is_no_longer_applied_goes_and_what_has_a_default_gets_it_back() {
    let world = world().await;
    let mut full = templated(json!({"nodeSelector": {"a": "b"}, "terminationGracePeriodSeconds": 5}));
    full["spec"]["minReadySeconds"] = json!(9);
    full["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let first = apply(&world, "m", "", full, false).await.unwrap();
    assert_eq!(
        (&first["spec"]["minReadySeconds"], &first["spec"]["updateStrategy"]),
        (&json!(9), &json!({"type": "OnDelete"}))
    );
    let second = apply(&world, "m", "", daemonset("d"), false).await.unwrap();
    let spec = &second["spec"];
    assert_eq!((spec.get("minReadySeconds"), spec["template"]["spec"].get("nodeSelector")), (None, None));
    assert_eq!(
        (&spec["updateStrategy"]["type"], &spec["template"]["spec"]["terminationGracePeriodSeconds"]),
        (&json!("RollingUpdate"), &json!(30))
    );
    assert_eq!(second["metadata"]["generation"], 2);
    let again = apply(&world, "m", "", daemonset("d"), false).await.unwrap();
    assert_eq!(again, second);
}

#[tokio::test]
async fn a_field_that_two_apply_stays_until_both_have_let_go() {
    let world = world().await;
    let with = |grace: Value| templated(json!({"terminationGracePeriodSeconds": grace}));
    let grace = |object: &Value| object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone();
    apply(&world, "a", "", with(json!(5)), false).await.unwrap();
    apply(&world, "b", "", with(json!(5)), false).await.unwrap();
    let refused = apply(&world, "b", "", with(json!(6)), false).await.unwrap_err();
    assert_eq!(refused.details.unwrap().causes.len(), 1);
    let taken = apply(&world, "b", "", with(json!(6)), true).await.unwrap();
    assert_eq!(grace(&taken), 6);
    // It is no longer a's, so a letting go of it takes nothing away.
    let let_go = apply(&world, "a", "", daemonset("d"), false).await.unwrap();
    assert_eq!(grace(&let_go), 6);
    let gone = apply(&world, "b", "", daemonset("d"), false).await.unwrap();
    assert_eq!(grace(&gone), 30);
    // A write that is no apply takes what it changes; whoever applied it is told.
    apply(&world, "a", "", with(json!(7)), false).await.unwrap();
    let edit = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 8}}}});
    world.patch("apps/daemonsets", "d", "", Patch::Merge(edit)).await.unwrap();
    let error = apply(&world, "a", "", with(json!(7)), false).await.unwrap_err();
    assert!(
        error
            .message
            .contains("conflict with \"test\" using apps/v1: .spec.template.spec.terminationGracePeriodSeconds"),
        "{error}"
    );
}

#[tokio::test]
async fn lists_with_keys_and_sets_are_shared_item_by_item() {
    let world = world().await;
    let mut first = daemonset("d");
    first["metadata"]["finalizers"] = json!(["example.com/a"]);
    first["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 53, "protocol": "UDP"}]);
    apply(&world, "a", "", first, false).await.unwrap();
    let second = json!({
        "metadata": {"finalizers": ["example.com/b"]},
        "spec": {"template": {"spec": {"containers": [
            {"name": "main", "ports": [{"containerPort": 53, "protocol": "TCP"}]},
            {"name": "side", "image": "busybox:1"}]}}},
    });
    let both = apply(&world, "b", "", second, false).await.unwrap();
    let containers = &both["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        containers.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["main", "side"]
    );
    assert_eq!(containers[0]["ports"].as_array().unwrap().len(), 2);
    assert_eq!(both["metadata"]["finalizers"], json!(["example.com/a", "example.com/b"]));
    // What b no longer says of its own goes; a's stays.
    let less = apply(&world, "b", "", json!({"metadata": {"labels": {"b": "b"}}}), false).await.unwrap();
    let containers = &less["spec"]["template"]["spec"]["containers"];
    assert_eq!((containers.as_array().unwrap().len(), containers[0]["ports"].as_array().unwrap().len()), (1, 1));
    assert_eq!(containers[0]["ports"][0]["protocol"], "UDP");
    assert_eq!(
        (&less["metadata"]["finalizers"], &less["metadata"]["labels"]),
        (&json!(["example.com/a"]), &json!({"b": "b"}))
    );
}

#[tokio::test]
async fn an_apply_has_a_manager_its_own_doors_and_its_conditions() {
    let world = world().await;
    let nobody = apply(&world, "", "", daemonset("d"), false).await;
    let (code, _, message) = refused(nobody);
    assert!(code == 422 && message.contains("fieldManager: Required value"), "{message}");
    let mut stale = daemonset("d");
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(refused(apply(&world, "a", "", stale.clone(), false).await).0, 409, "it does not exist");
    assert_eq!(refused(apply(&world, "a", "status", json!({"status": {}}), false).await).0, 404);
    apply(&world, "a", "", daemonset("d"), false).await.unwrap();
    assert_eq!(refused(apply(&world, "a", "", stale, false).await).0, 409);
    let condition = json!([{"type": "Mine", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]);
    let status = json!({"status": {"conditions": condition}, "spec": {"minReadySeconds": 5}});
    let after = apply(&world, "c", "status", status, false).await.unwrap();
    assert_eq!((&after["status"]["conditions"], after["spec"].get("minReadySeconds")), (&condition, None));
    // The other door does not own the status, and what it applies takes nothing of it away.
    let again = apply(&world, "a", "", daemonset("d"), false).await.unwrap();
    assert_eq!(again["status"]["conditions"], condition);
    let mut owners = daemonset("d");
    owners["metadata"]["managedFields"] = after["metadata"]["managedFields"].clone();
    assert_eq!(refused(apply(&world, "a", "", owners, false).await).0, 400);
    let with_unknown = json!({"spec": {"foo": 1}});
    let (code, _, message) = refused(apply(&world, "a", "", with_unknown, false).await);
    assert!(code == 400 && message.contains("unknown field \"spec.foo\""), "{message}");
}

#[tokio::test]
async fn an_agent_takes_a_pod_and_a_daemonset_as_they_are_kept() {
    let world = world().await;
    let mut with_all = pod("a", "n1");
    with_all["spec"]["containers"][0]["env"] = json!([{"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}, {"name": "E", "value": ""}]);
    with_all["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 80}});
    with_all["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": 1_000_000_000, "cpu": 0.5}});
    with_all["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": "/var/log"}}, {"name": "e"}]);
    with_all["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let kept = [world.create("pods", "n", with_all).await, world.create("apps/daemonsets", "n", daemonset("d")).await];
    for object in kept {
        let context = pod::manifest::Context { node_name: "n1".into() };
        let parsed = pod::manifest::parse("object.json", object.to_string().as_bytes(), &context);
        let refused: Vec<String> = parsed.rejections().map(ToString::to_string).collect();
        assert_eq!(refused, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_does_not_fit_in_one_read_is_listed_and_watched_whole() {
    const MANY: usize = 230;
    let world = world().await;
    let creations = (0..MANY).map(|n| {
        let objects = world.objects.clone();
        let object = json!({"metadata": {"name": format!("c{n:03}"), "labels": {"odd": (n % 2).to_string()}}});
        tokio::spawn(async move { objects.create(kind("configmaps"), "n", object, &options()).await })
    });
    for creation in creations.collect::<Vec<_>>() {
        creation.await.unwrap().unwrap();
    }
    let all = world.list("configmaps", ListQuery::default()).await.items;
    assert_eq!((all.len(), names(&all).is_sorted()), (MANY, true));
    let page = world.list("configmaps", ListQuery { limit: Some(150), ..ListQuery::default() }).await;
    assert_eq!((page.items.len(), page.remaining, page.continue_.is_some()), (150, Some(80), true));
    let rest = ListQuery { limit: Some(150), continue_: page.continue_, ..ListQuery::default() };
    let rest = world.list("configmaps", rest).await;
    assert_eq!((rest.items.len(), names(&rest.items)[0], rest.continue_), (80, "c150", None));
    let odd = ListQuery { labels: selector::labels("odd=1").unwrap(), limit: Some(110), ..ListQuery::default() };
    let page = world.list("configmaps", odd.clone()).await;
    assert_eq!((page.items.len(), page.remaining), (110, None));
    let rest = world.list("configmaps", ListQuery { continue_: page.continue_, ..odd }).await;
    assert_eq!(names(&rest.items), ["c221", "c223", "c225", "c227", "c229"]);
    let exactly = world.list("configmaps", ListQuery { limit: Some(MANY), ..ListQuery::default() }).await;
    assert_eq!((exactly.items.len(), exactly.continue_, exactly.remaining), (MANY, None, None));

    let query = WatchQuery { send_initial: true, bookmarks: true, ..WatchQuery::default() };
    let mut watching = world.watch("configmaps", query).await;
    let told = told(&mut watching, MANY + 1).await;
    assert!(told[..MANY].iter().all(|(kind, _)| *kind == EventKind::Added));
    assert!(told[..MANY].iter().map(|(_, name)| name).is_sorted());
    assert_eq!(told[MANY].0, EventKind::Bookmark);
}

/// Refuses what has the label `no`, and remembers what it was asked.
#[derive(Default)]
struct Refusing(std::sync::Mutex<Vec<(String, bool, i64)>>);

impl control::api::objects::Guard for Refusing {
    fn check<'a>(
        &'a self,
        kind: &'static Kind,
        sub: &'a str,
        new: &'a Value,
        old: Option<&'a Value>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>> {
        let limit = new["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(-1);
        self.0.lock().expect("nobody has panicked").push((sub.to_owned(), old.is_some(), limit));
        let refused = !new["metadata"]["labels"]["no"].is_null();
        Box::pin(async move { if refused { Err(ApiError::forbidden(kind, "d", "no")) } else { Ok(()) } })
    }
}

#[tokio::test]
async fn a_guard_sees_every_write_as_it_would_be_and_keeps_it_from_happening() {
    let world = world().await;
    let guard = std::sync::Arc::new(Refusing::default());
    let guarded = WriteOptions { guard: Some(guard.clone()), ..options() };
    let daemonsets = kind("apps/daemonsets");
    world.objects.create(daemonsets, "n", daemonset("d"), &guarded).await.unwrap();
    let label = || Patch::Merge(json!({"metadata": {"labels": {"no": "x"}}}));
    assert_eq!(refused(world.objects.patch(daemonsets, "n", "d", "", label(), &guarded).await).0, 403);
    assert_eq!(world.get("apps/daemonsets", "n", "d").await.unwrap()["metadata"].get("labels"), None);
    let ready = Patch::Merge(json!({"status": {"numberReady": 1}}));
    world.objects.patch(daemonsets, "n", "d", "status", ready, &guarded).await.unwrap();
    let configuration = json!({"spec": {"revisionHistoryLimit": 3}});
    let apply = Patch::Apply { configuration, force: true };
    world.objects.patch(daemonsets, "n", "d", "", apply, &guarded).await.unwrap();
    let asked = guard.0.lock().unwrap().clone();
    let wanted = [("", false, 10), ("", true, 10), ("status", true, 10), ("", true, 3)];
    assert_eq!(asked, wanted.map(|(sub, old, limit)| (sub.to_owned(), old, limit)));
}

#[tokio::test]
async fn a_quantity_in_another_form_is_no_conflict() {
    let world = world().await;
    let with = |cpu: Value| {
        let mut object = daemonset("d");
        object["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": cpu}});
        object
    };
    let first = apply(&world, "a", "", with(json!(0.5)), false).await.unwrap();
    assert_eq!(first["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"], "500m");
    let other = apply(&world, "b", "", with(json!("0.5")), false).await.unwrap();
    assert_eq!(other["metadata"]["generation"], 1);
    assert_eq!(refused(apply(&world, "b", "", with(json!("0.6")), false).await).0, 409);
}

#[tokio::test]
async fn what_is_too_deep_to_be_read_again_is_not_written_and_what_cannot_be_read_can_be_deleted() {
    let world = world().await;
    let revisions = kind("apps/controllerrevisions");
    let revision = |name: &str, levels: usize| {
        let data = (0..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        json!({"metadata": {"name": name}, "revision": 1, "data": data})
    };
    world.create("apps/controllerrevisions", "n", revision("fits", 80)).await;
    let refused = world.try_create("apps/controllerrevisions", "n", revision("deep", 120)).await.unwrap_err();
    assert!(refused.code == 400 && refused.message.contains("nested deeper"), "{refused:?}");
    let key = control::api::objects::key(revisions, "n", "broken");
    let write = control::store::Write { key, value: Some(b"{".to_vec()), expected: control::store::Expected::Absent };
    world.objects.store().write(write).await.expect("written");
    let now = DeleteOptions { grace: Some(0), ..DeleteOptions::default() };
    assert_eq!(world.objects.get(revisions, "n", "broken").await.unwrap_err().code, 500);
    assert_eq!(world.objects.delete(revisions, "n", "broken", &DeleteOptions::default()).await.unwrap_err().code, 500);
    let dry = DeleteOptions { dry_run: true, ..now.clone() };
    assert_eq!(world.objects.delete(revisions, "n", "broken", &dry).await.unwrap_err().code, 500);
    assert!(world.objects.delete(revisions, "n", "broken", &now).await.expect("deleted").gone);
    assert!(world.objects.get(revisions, "n", "broken").await.unwrap_err().is_not_found());
    assert_eq!(world.objects.list(revisions, Some("n"), &ListQuery::default()).await.expect("readable").items.len(), 1);
}
