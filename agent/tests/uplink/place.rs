//! A control endpoint as far as nodes see it: an embedded store, the authority, the fleet on a port of loopback. It can be stopped and
//! goes on with what its store holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use agent::durable;
use control::api::kinds::by_kind;
use control::api::objects::{DeleteOptions, Objects, Patch, WriteOptions};
use control::clock::Clock;
use control::door::authority::{Authority, Request};
use control::door::join::{Joining, Wanted};
use control::door::service_accounts::ServiceAccounts;
use control::door::tls::{Names, ServerCertificate, for_nodes};
use control::fleet::{self, ALPN, Api, Fleet, Host, Witness};
use control::store::any::AnyStore;
use control::store::embedded::Embedded;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct Place {
    _dir: Vec<tempfile::TempDir>,
    pub address: SocketAddr,
    pub witness: Heard,
    authority: Arc<Authority>,
    store: AnyStore,
    objects: Objects,
    running: Option<Running>,
}

struct Running {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Who was heard, and what fails there.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<BTreeMap<String, String>>>);

impl Heard {
    pub fn heard(&self, node: &str) -> Option<String> {
        self.0.lock().unwrap().get(node).cloned()
    }
}

impl Witness for Heard {
    fn opened(&self, _: &str) {}

    fn heard(&self, node: &str, failing: &str) {
        self.0.lock().unwrap().insert(node.to_owned(), failing.to_owned());
    }

    fn closed(&self, _: &str) {}

    fn advertised(&self, _: &str, _: Option<&str>) {}
}

async fn store() -> (tempfile::TempDir, AnyStore, Objects) {
    let dir = tempfile::tempdir().unwrap();
    let store: AnyStore = Embedded::open(&dir.path().join("store")).unwrap().into();
    let objects = Objects::new(store.clone(), Clock::system());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    let namespaces = by_kind("", "v1", "Namespace").unwrap();
    objects.create(namespaces, "", namespace, &WriteOptions::default()).await.unwrap();
    // What the endpoint's loops make in every namespace: its pods use them.
    for (kind, object) in [
        ("ServiceAccount", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})),
        (
            "ConfigMap",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"}}),
        ),
    ] {
        objects.create(by_kind("", "v1", kind).unwrap(), "default", object, &WriteOptions::default()).await.unwrap();
    }
    (dir, store, objects)
}

impl Place {
    pub async fn start() -> Place {
        let (dir, store, objects) = store().await;
        // Older than every certificate of it.
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(3 * 365 * 24);
        let authority = Arc::new(Authority::generate(since).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, witness) = (listener.local_addr().unwrap(), Heard::default());
        let mut place = Place { _dir: vec![dir], address, witness, authority, store, objects, running: None };
        place.serve(listener);
        place
    }

    pub fn joining(&self) -> Joining {
        Joining::new(self.authority.clone(), self.store.clone(), Clock::system())
    }

    fn serve(&mut self, listener: TcpListener) {
        let now = jiff::Timestamp::now();
        let certificate = ServerCertificate::new(self.authority.clone(), Names::default(), now).unwrap();
        let tls = for_nodes(Arc::new(certificate), ALPN).unwrap();
        // The name by which nodes dial it here counts for their pods, too.
        let own = Host { host: "192.0.2.1".into(), port: 6443 };
        let api = Api { advertised: None, own, is_everywhere: true, names: vec!["127.0.0.1".into()] };
        let accounts = ServiceAccounts::new(&self.authority, self.store.clone(), Clock::system());
        let fleet = Fleet::new(self.objects.clone(), self.joining(), self.witness.clone(), accounts, api);
        let (stop, stopping) = watch::channel(false);
        let follow = tokio::spawn(fleet.clone().follow());
        let serve = tokio::spawn(fleet::serve(fleet, listener, Arc::new(tls), stopping));
        self.running = Some(Running { stop, tasks: vec![follow, serve] });
    }

    /// No connection is left and none is taken.
    pub async fn stop(&mut self) {
        if let Some(Running { stop, tasks }) = self.running.take() {
            stop.send_replace(true);
            for task in tasks {
                task.abort();
                let _ = task.await;
            }
        }
    }

    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    /// An empty one.
    pub async fn replace_store(&mut self) {
        let (dir, store, objects) = store().await;
        self._dir.push(dir);
        (self.store, self.objects) = (store, objects);
    }

    pub async fn token(&self) -> String {
        self.joining().create(&Wanted::default()).await.unwrap()
    }

    /// For this node and no other.
    pub async fn token_for(&self, node: &str) -> String {
        self.joining().create(&Wanted { node: Some(node.to_owned()), ..Wanted::default() }).await.unwrap()
    }

    pub async fn create(&self, kind: &str, object: Value) -> Value {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let kind = by_kind("", "v1", kind).unwrap();
        self.objects.create(kind, &namespace, object, &WriteOptions::default()).await.unwrap().object
    }

    /// Of a kind without namespace.
    pub async fn update(&self, kind: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut object = object;
        object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let kind = by_kind("", "v1", kind).unwrap();
        self.objects.update(kind, "", &name, "", object, &WriteOptions::default()).await.unwrap();
    }

    /// The node's certificate becomes one that the authority signed so many hours ago.
    pub async fn give_old_certificate(&self, state: &Path, hours: i64) {
        const FORMAT: &str = "daemonlet-identity-1";
        let path = state.join("control/identity");
        let content = std::fs::read(&path).unwrap();
        let mut identity: Value =
            serde_json::from_slice(durable::unseal(FORMAT, "identity", &content).unwrap()).unwrap();
        let key = rcgen::KeyPair::from_pem(identity["key"].as_str().unwrap()).unwrap();
        let asked = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        let signed = self.authority.node("n1", &Request::parse(asked.der()).unwrap(), since).unwrap();
        identity["chain"] = signed.chain_pem.into();
        identity["since"] = since.to_string().into();
        identity["until"] = signed.not_after.to_string().into();
        std::fs::write(&path, durable::seal(FORMAT, identity.to_string().as_bytes())).unwrap();
    }

    /// The image of the first container of a pod in the namespace `default`.
    pub async fn set_image(&self, pod: &str, image: &str) {
        let patch = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": image}]);
        let (pods, options) = (by_kind("", "v1", "Pod").unwrap(), WriteOptions::default());
        self.objects.patch(pods, "default", pod, "", Patch::Json(patch), &options).await.unwrap();
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(by_kind("", "v1", kind).unwrap(), namespace, name).await.ok()
    }

    /// In the namespace `default`.
    pub async fn delete(&self, kind: &str, name: &str, grace: Option<i64>) {
        let options = DeleteOptions { grace, ..DeleteOptions::default() };
        self.objects.delete(by_kind("", "v1", kind).unwrap(), "default", name, &options).await.unwrap();
    }

    pub async fn delete_node(&self, name: &str) {
        let nodes = by_kind("", "v1", "Node").unwrap();
        self.objects.delete(nodes, "", name, &DeleteOptions::default()).await.unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Running { stop, tasks }) = self.running.take() {
            stop.send_replace(true);
            tasks.iter().for_each(JoinHandle::abort);
        }
    }
}
