//! An endpoint's HTTP door on loopback, over the embedded store, as the program serves it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use control::api::error::ApiError;
use control::api::kinds::{by_kind, by_resource};
use control::api::objects::{Objects, WriteOptions};
use control::clock::Clock;
use control::door::authority::{Authority, kubeconfig};
use control::door::identity::Authenticator;
use control::door::join::Joining;
use control::door::rules::{Authorizer, bootstrap};
use control::door::service_accounts::ServiceAccounts;
use control::door::tls::{self, Names, ServerCertificate};
use control::http::{self, Check, Checks, Door, LogOptions, LogStream, Logs};
use control::store::embedded::Embedded;
use control::store::{Expected, Store as _, Write};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// A door that is served by a thread of its own until it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    pub dir: TempDir,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    pub fn start() -> Serving {
        Serving::with(Vec::new())
    }

    /// Over a store that has these entries already.
    pub fn with(entries: Vec<(String, Vec<u8>)>) -> Serving {
        let dir = tempfile::tempdir().expect("a directory");
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let place = dir.path().to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(place, entries, tell, stopped));
        });
        let address = told.blocking_recv().expect("it listens");
        Serving { address, dir, stop, thread: Some(thread) }
    }

    /// Of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
    }
}

async fn serve(
    place: PathBuf,
    entries: Vec<(String, Vec<u8>)>,
    tell: oneshot::Sender<SocketAddr>,
    stop: watch::Receiver<bool>,
) {
    let clock = Clock::system();
    let embedded = Embedded::open(&place.join("store")).expect("a store");
    let writes = entries.into_iter().map(|(key, value)| {
        let (embedded, value) = (embedded.clone(), Some(value));
        tokio::spawn(async move { embedded.write(Write { key, value, expected: Expected::Absent }).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.expect("it ends").expect("it is written");
    }
    let objects = Objects::new(embedded, clock.clone());
    begin(&objects).await;
    let store = objects.store().clone();
    let authority = Arc::new(Authority::generate(clock.now()).expect("an authority"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    kubeconfig::ensure(&place.join("kubeconfig"), &authority, address, clock.now()).expect("a kubeconfig");
    let names = Names { names: vec!["localhost".into()], addresses: vec![address.ip()] };
    let certificate = Arc::new(ServerCertificate::new(authority.clone(), names, clock.now()).expect("a certificate"));
    let config = tls::for_clients(certificate, http::PROTOCOLS).expect("TLS");
    let accounts = ServiceAccounts::new(&authority, store.clone(), clock.clone());
    let authenticator = Authenticator::new(Joining::new(authority, store.clone(), clock), accounts);
    let authorizer = Authorizer::start(store).await.expect("roles");
    let fails = Check {
        name: "nodes",
        of_life: false,
        look: Arc::new(|| Box::pin(async { Err("no node is here".to_owned()) })),
    };
    let door = Door::new(objects, authenticator, authorizer, Arc::new(NoNode), Checks(vec![fails]));
    tell.send(address).expect("it is waited for");
    http::serve(listener, Arc::new(config), Arc::new(door), stop).await;
}

/// What the program makes at its first start.
async fn begin(objects: &Objects) {
    let namespaces = ["default", "kube-system"]
        .map(|name| ("namespaces", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })));
    let accounts = by_kind("", "v1", "ServiceAccount").expect("a kind");
    for (resource, object) in namespaces.into_iter().chain(bootstrap::objects()) {
        let kind = by_kind("", "v1", "Namespace").filter(|kind| kind.resource == resource);
        let kind = kind.or_else(|| by_resource("rbac.authorization.k8s.io", "v1", resource)).expect("a kind");
        objects.create(kind, "", object, &WriteOptions::default()).await.expect("it is new");
    }
    for namespace in ["default", "kube-system"] {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
        objects.create(accounts, namespace, account, &WriteOptions::default()).await.expect("it is new");
    }
}

/// No node has a session: logs are two lines of our own for containers called `talks`.
struct NoNode;

impl Logs for NoNode {
    fn open<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        options: &'a LogOptions,
    ) -> Pin<Box<dyn Future<Output = Result<LogStream, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            if container != "talks" {
                let node = &pod["spec"]["nodeName"];
                return Err(ApiError::unavailable(format!("no session with node {node}")));
            }
            let (pieces, stream) = tokio::sync::mpsc::channel(2);
            let lines = if options.tail == Some(1) { vec!["two\n"] } else { vec!["one\n", "two\n"] };
            for line in lines {
                pieces.try_send(line.into()).expect("there is room");
            }
            Ok(stream)
        })
    }
}
