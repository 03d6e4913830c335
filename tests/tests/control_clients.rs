//! Other clients than kubectl: Python's `kubernetes` package as Debian has it, and Rust's `kube`, each with its own types, codecs and watches.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use tests::client;
use tests::fleet::TestControl;
use tests::manifest::daemon_set;
use tests::wait::PATIENCE;
use tokio_stream::StreamExt;

/// The package lies where Debian's own interpreter looks.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = r#"
import json, sys
from kubernetes import client, config, watch
config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()

def refused(status, call, *args, **words):
    try:
        call(*args, **words)
    except client.ApiException as error:
        body = json.loads(error.body)
        assert error.status == status and body["kind"] == "Status" and body["code"] == status, (error.status, body)
        return body["reason"]
    raise AssertionError("not refused")

names = [node.metadata.name for node in core.list_node().items]
assert names == ["node-a"], names
body = json.load(open(sys.argv[1]))
made = apps.create_namespaced_daemon_set("default", body)
assert made.metadata.generation == 1 and made.spec.update_strategy.type == "RollingUpdate", made
assert refused(409, apps.create_namespaced_daemon_set, "default", body) == "AlreadyExists"
assert refused(404, apps.read_namespaced_daemon_set, "nobody", "default") == "NotFound"

seen = 0
for event in watch.Watch().stream(apps.list_namespaced_daemon_set, "default", resource_version=made.metadata.resource_version, timeout_seconds=60):
    seen += 1
    if event["object"].status.number_available == 1:
        break
else:
    raise AssertionError("never available")
pods = core.list_namespaced_pod("default", label_selector="app=snake").items
assert [pod.status.phase for pod in pods] == ["Running"], pods
assert pods[0].metadata.owner_references[0].uid == made.metadata.uid

live = apps.read_namespaced_daemon_set("snake", "default")
live.spec.template.metadata.annotations = {"changed": "yes"}
updated = apps.replace_namespaced_daemon_set("snake", "default", live)
assert updated.metadata.generation == 2, updated.metadata
assert refused(409, apps.replace_namespaced_daemon_set, "snake", "default", live) == "Conflict"
core.create_namespaced_secret("default", client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"k": "v"}))
assert core.read_namespaced_secret("s", "default").data == {"k": "dg=="}
apps.delete_namespaced_daemon_set("snake", "default")
print("done", seen > 0)
"#;

#[test]
fn pythons_client_creates_watches_changes_and_deletes() {
    let control = TestControl::start();
    let node = control.node("node-a");
    control.wait_node_ready("node-a");
    let (script, body) = (control.file("client.py", SCRIPT), control.file("body.json", &daemon_set("snake").text()));
    let mut command = control.command(PYTHON);
    command.args([&script, &body]).env("KUBECONFIG", control.data_dir().join("admin.kubeconfig"));
    assert_eq!(client::run(&mut command).ok().out, "done True\n");
    node.wait_no_pod("snake");
}

/// A client in the endpoint's network namespace: connections are made on the runtime's own thread, which has entered it.
fn with_client<F: Future<Output = ()>>(control: &TestControl, work: impl FnOnce(Client) -> F + Send) {
    let kubeconfig = Kubeconfig::read_from(control.data_dir().join("admin.kubeconfig")).expect("kubectl reads it too");
    control.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a kubeconfig");
            let client = Client::try_from(config).expect("a client");
            tokio::time::timeout(PATIENCE * 2, work(client)).await.expect("everything ends within its bound");
        });
    });
}

#[test]
fn rusts_client_applies_watches_and_loses_a_conflict() {
    let control = TestControl::start();
    let node = control.node("node-a");
    control.wait_node_ready("node-a");
    with_client(&control, |client| async move {
        let daemonsets: Api<DaemonSet> = Api::default_namespaced(client.clone());
        let document: serde_json::Value = serde_json::from_str(&daemon_set("crab").text()).unwrap();
        let applied = daemonsets.patch("crab", &PatchParams::apply("one"), &Patch::Apply(&document)).await.unwrap();
        assert_eq!(applied.metadata.generation, Some(1));

        // A watch as operators have it: initial events, then what changes, until the pod is ready.
        let events = watcher(daemonsets.clone(), watcher::Config::default().streaming_lists()).applied_objects();
        let mut stream = std::pin::pin!(events);
        loop {
            let seen = stream.next().await.unwrap().unwrap();
            if seen.name_any() == "crab" && seen.status.and_then(|status| status.number_available) == Some(1) {
                break;
            }
        }
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let listed = pods.list(&ListParams::default().labels("app=crab").limit(1)).await.unwrap();
        assert_eq!(listed.items.len(), 1);
        assert_eq!(listed.items[0].owner_references()[0].name, "crab");

        // Another owner of the same field is told whose it is, and may take it by force.
        let theirs = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "crab"}, "spec": {
            "selector": {"matchLabels": {"app": "crab"}}, "template": {"metadata": {"labels": {"app": "crab"}},
            "spec": {"containers": [{"name": "main", "image": "busybox:none"}]}}}});
        let refused = daemonsets.patch("crab", &PatchParams::apply("two"), &Patch::Apply(&theirs)).await.unwrap_err();
        let kube::Error::Api(status) = refused else { panic!("{refused}") };
        assert!(status.code == 409 && status.message.contains("conflict with \"one\""), "{status:?}");
        daemonsets.patch("crab", &PatchParams::apply("two").force().dry_run(), &Patch::Apply(&theirs)).await.unwrap();

        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta { name: Some("m".into()), ..Default::default() },
            ..Default::default()
        };
        let made = maps.create(&PostParams::default(), &map).await.unwrap();
        let changed = ConfigMap { data: Some([("k".to_owned(), "v".to_owned())].into()), ..made.clone() };
        maps.replace("m", &PostParams::default(), &changed).await.unwrap();
        let stale = maps.replace("m", &PostParams::default(), &changed).await.unwrap_err();
        assert!(matches!(stale, kube::Error::Api(ref status) if status.code == 409), "{stale}");
        daemonsets.delete("crab", &DeleteParams::foreground()).await.unwrap();
    });
    node.wait_no_pod("crab");
}

/// The client's half of the next test, run by the same program in a pod.
#[test]
#[ignore = "runs in the pod that a_daemon_reaches_the_endpoint_with_its_account makes"]
fn inside_a_daemon() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config =
            Config::incluster().expect("the endpoint's address, the token and the authority are where they belong");
        let client = Client::try_from(config).expect("a client");
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let names: Vec<_> =
            pods.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::default_namespaced(client);
        let refused = secrets.list(&ListParams::default()).await.unwrap_err();
        let kube::Error::Api(status) = refused else { panic!("{refused}") };
        println!("account says: {} pods, secrets {}", names.len(), status.code);
    });
    // It is a daemon: it lives until it is told to end.
    loop {
        std::thread::park();
    }
}

#[test]
fn a_daemon_reaches_the_endpoint_with_its_account() {
    let control = TestControl::start();
    let node = control.node("node-a");
    control.wait_node_ready("node-a");
    let rights = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
         "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
         "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]},
    ]});
    control.kubectl(&["apply", "-f", &control.file("rights.json", &rights.to_string())]).ok();
    let program = std::env::current_exe().expect("a running program has a path");
    let host = ["/lib", "/lib64", "/usr"].into_iter().filter(|path| std::path::Path::new(path).exists());
    let shared: Vec<_> = host.map(|path| (path, path.trim_start_matches('/').to_owned())).collect();
    let mut volumes: Vec<_> =
        shared.iter().map(|(path, name)| json!({"name": name, "hostPath": {"path": path}})).collect();
    let mut mounts: Vec<_> =
        shared.iter().map(|(path, name)| json!({"name": name, "mountPath": path, "readOnly": true})).collect();
    volumes.push(json!({"name": "program", "hostPath": {"path": program, "type": "File"}}));
    mounts.push(json!({"name": "program", "mountPath": "/client", "readOnly": true}));
    let document = daemon_set("insider")
        .pod_field("serviceAccountName", json!("reader"))
        .pod_field("volumes", json!(volumes))
        .field("volumeMounts", json!(mounts))
        .field("command", json!(["/client", "--exact", "inside_a_daemon", "--ignored", "--nocapture"]));
    control.kubectl(&["apply", "-f", &control.file("insider.json", &document.text())]).ok();
    let pod = node.wait_running("insider");
    assert_eq!(node.wait_log(&pod, "main", "account says"), "account says: 1 pods, secrets 403");
}
