//! The loops as tasks over the embedded store, by the machine's clock: they start, they act on what is written, they stop and give back what they hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use control::api::kinds::by_api_version;
use control::api::objects::{DeleteOptions, ListQuery, Objects, WriteOptions};
use control::clock::Clock;
use control::contacts::Contacts;
use control::loops::itself::Address;
use control::loops::{Loops, Settings, start};
use control::store::embedded::Embedded;
use serde_json::{Value, json};

struct World {
    objects: Objects,
    contacts: Contacts,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(Embedded::open(&dir.path().join("store")).unwrap(), Clock::system());
        let contacts = Contacts::new(Clock::system());
        let world = World { objects, contacts, _dir: dir };
        for name in ["default", "kube-system", "kube-node-lease"] {
            world.create("", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        }
        world
    }

    fn start(&self, election: Option<&str>) -> Loops {
        let address = Some(Address { ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port: 6443 });
        let settings = Settings { root_ca: "a root".into(), address, election: election.map(str::to_owned) };
        start(self.objects.clone(), self.contacts.clone(), settings)
    }

    async fn create(&self, namespace: &str, object: Value) {
        let kind = by_api_version(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
        self.objects.create(kind, namespace, object, &WriteOptions::default()).await.unwrap();
    }

    async fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(by_api_version(api_version, kind).unwrap(), namespace, name).await.ok()
    }

    async fn pods(&self) -> Vec<Value> {
        self.objects.list(by_api_version("v1", "Pod").unwrap(), None, &ListQuery::default()).await.unwrap().items
    }

    async fn create_set(&self) {
        let labels = json!({"app": "d"});
        let containers = json!([{"name": "main", "image": "busybox:1"}]);
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
        let spec = json!({"selector": {"matchLabels": labels}, "template": template});
        let metadata = json!({"name": "d", "namespace": "default"});
        let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec});
        self.create("default", set).await;
    }
}

/// Waits until it holds, with a bound that only a machine without time reaches.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: it never comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_daemon_its_lease_and_its_namespace_what_belongs_there() {
    let world = World::new().await;
    let loops = world.start(None);
    world.create_set().await;
    world.create("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    world.contacts.opened("a");
    until("a pod", || async { world.pods().await.iter().any(|pod| pod["spec"]["nodeName"] == "a") }).await;
    until("the node is ready", || async {
        let node = world.get("v1", "Node", "", "a").await.unwrap();
        node["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["status"] == "True"))
    })
    .await;
    until("its Lease", || async {
        world.get("coordination.k8s.io/v1", "Lease", "kube-node-lease", "a").await.is_some()
    })
    .await;
    until("the account", || async { world.get("v1", "ServiceAccount", "default", "default").await.is_some() }).await;
    until("the authority", || async { world.get("v1", "ConfigMap", "default", "kube-root-ca.crt").await.is_some() })
        .await;
    until("the endpoint's own Service", || async {
        let slice = world.get("discovery.k8s.io/v1", "EndpointSlice", "default", "kubernetes").await;
        slice.is_some_and(|slice| slice["endpoints"][0]["addresses"][0] == "192.0.2.1")
            && world.get("v1", "Service", "default", "kubernetes").await.is_some()
    })
    .await;
    until("an event", || async {
        let events = by_api_version("v1", "Event").unwrap();
        let events = world.objects.list(events, Some("default"), &ListQuery::default()).await.unwrap();
        events.items.iter().any(|event| event["reason"] == "SuccessfulCreate")
    })
    .await;
    let nodes = by_api_version("v1", "Node").unwrap();
    world.objects.delete(nodes, "", "a", &DeleteOptions::default()).await.unwrap();
    until("no pod", || async { world.pods().await.is_empty() }).await;
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemonset_that_asks_for_it_is_rolled_when_what_it_uses_holds_something_else() {
    let world = World::new().await;
    let map = |value: &str| {
        let metadata = json!({"name": "m", "namespace": "default"});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": value}})
    };
    world.create("default", map("1")).await;
    let labels = json!({"app": "c"});
    let set = |name: &str, asks: &str| {
        let annotations = json!({"daemonlet.dev/restart-on-config-change": asks});
        let containers = json!([{"name": "main", "image": "busybox:1", "envFrom": [{"configMapRef": {"name": "m"}}]}]);
        let template =
            json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": {"containers": containers}});
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": labels}, "template": template}})
    };
    world.create("default", set("asks", "true")).await;
    world.create("default", set("silent", "false")).await;
    let read = async |name: &str| {
        let set = world.get("apps/v1", "DaemonSet", "default", name).await.unwrap();
        let annotations = &set["spec"]["template"]["metadata"]["annotations"];
        (annotations["daemonlet.dev/config-digest"].as_str().map(str::to_owned), set["metadata"]["generation"].clone())
    };
    let (first, generation) = read("asks").await;
    assert!(first.is_some() && generation == 1, "a new one is not rolled at once: {first:?}");
    let loops = world.start(None);
    let maps = by_api_version("v1", "ConfigMap").unwrap();
    world.objects.update(maps, "default", "m", "", map("2"), &WriteOptions::default()).await.unwrap();
    until("another template", || async { read("asks").await.0 != first }).await;
    assert_eq!(read("asks").await.1, 2);
    world.objects.update(maps, "default", "m", "", map("1"), &WriteOptions::default()).await.unwrap();
    until("the template of before", || async { read("asks").await.0 == first }).await;
    assert_eq!(read("silent").await, (None, json!(1)));
    loops.stop().await;
}

/// Somebody writes, in a namespace of his own, an object that says it is owned by another namespace's DaemonSet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_owner_reference_does_not_end_what_the_owner_has() {
    let world = World::new().await;
    let loops = world.start(None);
    world.create_set().await;
    world.create("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    world.create("", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})).await;
    until("a pod", || async { world.pods().await.len() == 1 }).await;
    loops.stop().await;
    let set = world.get("apps/v1", "DaemonSet", "default", "d").await.unwrap();
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nothing", "uid": set["metadata"]["uid"]});
    let metadata = json!({"name": "m", "namespace": "other", "ownerReferences": [reference], "finalizers": ["x.io/y"]});
    world.create("other", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})).await;
    let before = world.pods().await;
    let loops = world.start(None);
    until("it is nobody's", || async {
        let made = world.get("v1", "ConfigMap", "other", "m").await.unwrap();
        !made["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    let looked = |pods: Vec<Value>| -> Vec<Value> {
        pods.into_iter().map(|pod| json!([pod["metadata"]["uid"], pod["metadata"]["deletionTimestamp"]])).collect()
    };
    assert_eq!(looked(world.pods().await), looked(before));
    loops.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_endpoints_one_runs_the_loops_and_another_follows_at_once_when_it_stops() {
    let world = World::new().await;
    let holder = || async {
        let lease = world.get("coordination.k8s.io/v1", "Lease", "kube-system", "daemonlet-control").await;
        lease.map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let first = world.start(Some("first"));
    until("a holder", || async { holder().await.as_deref() == Some("first") }).await;
    let second = world.start(Some("second"));
    world.create("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}})).await;
    world.create_set().await;
    until("a pod", || async { world.pods().await.len() == 1 }).await;
    assert_eq!(holder().await.as_deref(), Some("first"));
    first.stop().await;
    assert_eq!(holder().await.as_deref(), Some(""), "it is given back");
    until("the other", || async { holder().await.as_deref() == Some("second") }).await;
    world.create("", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}})).await;
    until("a second pod", || async { world.pods().await.len() == 2 }).await;
    second.stop().await;
}
