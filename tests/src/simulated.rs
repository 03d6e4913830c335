//! Nodes that are none: each joins a real endpoint, keeps a session over a TLS connection of its own, and takes every pod for running at once.
//! For what an endpoint costs with a thousand of them; what a node does with a pod is the node suites' business.
//!
//! All of them live on one thread, in the endpoint's network namespace. Beside the contract they know the protocol's definition.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use proto::v1::fleet_client::FleetClient;
use proto::v1::{self, Down, Up, down, up};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::client;
use crate::fleet::{ADDRESS, TestControl};

/// Where nodes find the endpoint.
const PORT: u16 = 6444;
/// The first node's own address; all of 127.0.0.0/8 is this machine.
const FIRST: u32 = Ipv4Addr::new(127, 1, 0, 1).to_bits();
/// As a node does.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Nodes that join at a time: as many as the endpoint shakes hands with.
const JOINING: usize = 128;
/// Before a node that lost its session dials anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Of what a node says, waiting for its connection.
const UPS: usize = 16;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Many nodes. Dropped, all of them end.
pub struct Crowd {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    authority: CertificateDer<'static>,
    token: String,
    /// By node: the annotation `mark` of each pod that runs there.
    pods: Mutex<BTreeMap<usize, BTreeMap<String, String>>>,
    joining: Semaphore,
    in_session: AtomicUsize,
    lost: AtomicUsize,
    first_failure: Mutex<Option<String>>,
}

impl Crowd {
    /// Begins to join so many.
    pub fn join(endpoint: &TestControl, count: usize) -> Crowd {
        let kubeconfig = std::fs::read(endpoint.data_dir().join("admin.kubeconfig")).expect("the endpoint runs");
        let kubeconfig: Value = serde_json::from_slice(&kubeconfig).expect("it is JSON");
        let authority =
            kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str().expect("it is there");
        let authority = STANDARD.decode(authority).expect("it is base64");
        let token = endpoint.token();
        let (token, _pin) = token.rsplit_once('.').expect("id.secret.pin");
        let shared = Arc::new(Shared {
            authority: CertificateDer::from_pem_slice(&authority).expect("it is a certificate"),
            token: token.to_owned(),
            pods: Mutex::default(),
            joining: Semaphore::new(JOINING),
            in_session: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            first_failure: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let (namespace, all) = (endpoint.id().to_owned(), shared.clone());
        let thread = std::thread::spawn(move || client::inside(&namespace, || live(&all, count, stopped)));
        Crowd { shared, stop, thread: Some(thread) }
    }

    /// How many are in session.
    pub fn in_session(&self) -> usize {
        self.shared.in_session.load(Ordering::Relaxed)
    }

    /// How many run exactly one pod, with this value of the annotation `mark`.
    pub fn running(&self, mark: &str) -> usize {
        let pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.values().filter(|pods| pods.len() == 1 && pods.values().all(|it| it == mark)).count()
    }

    /// Sessions and attempts that failed, and why the first one did.
    pub fn failures(&self) -> (usize, String) {
        let first = self.shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.shared.lost.load(Ordering::Relaxed), first.unwrap_or_default())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic is told already.
            let _ = thread.join();
        }
    }
}

fn live(shared: &Arc<Shared>, count: usize, mut stopped: watch::Receiver<bool>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        for index in 0..count {
            tokio::spawn(Node { shared: shared.clone(), index, name: format!("simulated-{index}") }.live());
        }
        // All end with the runtime.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
}

struct Node {
    shared: Arc<Shared>,
    index: usize,
    name: String,
}

impl Node {
    async fn live(self) {
        let mut known = None;
        let mut accepted = None;
        loop {
            if let Err(failure) = self.once(&mut known, &mut accepted).await {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                let mut first = self.shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| format!("{}: {failure:?}", self.name));
            }
            sleep(AGAIN).await;
        }
    }

    async fn once(
        &self,
        known: &mut Option<Arc<ClientConfig>>,
        accepted: &mut Option<v1::Generation>,
    ) -> Result<(), Failure> {
        let place = self.shared.joining.acquire().await?;
        let config = match known {
            Some(config) => config.clone(),
            None => known.insert(self.join().await?).clone(),
        };
        let (ups, says) = mpsc::channel(UPS);
        let hello = v1::Hello {
            version: proto::VERSION,
            program: "simulated".into(),
            name: self.name.clone(),
            boot_id: "1".into(),
            health_address: String::new(),
            node: self.object().to_string().into(),
            accepted: *accepted,
            control_host: String::new(),
        };
        let whole = v1::Statuses { whole: true, ..v1::Statuses::default() };
        for what in [up::What::Hello(hello), up::What::Statuses(whole), heartbeat()] {
            ups.send(Up { what: Some(what) }).await?;
        }
        let mut client =
            FleetClient::new(dial(self.index, config).await?).max_decoding_message_size(proto::MESSAGE_MAX);
        let mut downs = client.session(ReceiverStream::new(says)).await?.into_inner();
        let welcome = downs.message().await?.and_then(|down| down.what);
        if !matches!(welcome, Some(down::What::Welcome(_))) {
            return Err(format!("no welcome but {welcome:?}").into());
        }
        drop(place);
        self.shared.in_session.fetch_add(1, Ordering::Relaxed);
        let ended = self.talk(&ups, &mut downs, accepted).await;
        self.shared.in_session.fetch_sub(1, Ordering::Relaxed);
        ended
    }

    async fn talk(
        &self,
        ups: &mpsc::Sender<Up>,
        downs: &mut Streaming<Down>,
        accepted: &mut Option<v1::Generation>,
    ) -> Result<(), Failure> {
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut objects = Vec::new();
        loop {
            let down = tokio::select! {
                down = downs.message() => down?.ok_or("the endpoint ends the session")?,
                _ = beats.tick() => {
                    ups.send(Up { what: Some(heartbeat()) }).await?;
                    continue;
                }
            };
            let Some(down::What::Desired(mut desired)) = down.what else { continue };
            if desired.piece == 0 {
                objects.clear();
            }
            objects.append(&mut desired.objects);
            if desired.last {
                *accepted = desired.generation;
                let judged = v1::Judged { generation: desired.generation, refused: String::new() };
                ups.send(Up { what: Some(up::What::Judged(judged)) }).await?;
                let statuses = self.run(&std::mem::take(&mut objects))?;
                if !(statuses.pods.is_empty() && statuses.gone.is_empty()) {
                    ups.send(Up { what: Some(up::What::Statuses(statuses)) }).await?;
                }
            }
        }
    }

    /// A pod that is new runs, one that is to end is gone.
    fn run(&self, objects: &[v1::Object]) -> Result<v1::Statuses, Failure> {
        let mut statuses = v1::Statuses::default();
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = pods.entry(self.index).or_default();
        let wanted: Vec<&v1::Object> = objects.iter().filter(|object| object.kind == "Pod").collect();
        pods.retain(|uid, _| wanted.iter().any(|object| object.uid == *uid));
        for object in wanted {
            let pod: Value = serde_json::from_slice(&object.json)?;
            let v1::Object { namespace, name, uid, .. } = object.clone();
            let reference = v1::PodRef { namespace, name, uid: uid.clone() };
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                pods.remove(&uid);
                statuses.gone.push(reference);
            } else if let Entry::Vacant(place) = pods.entry(uid) {
                place.insert(pod["metadata"]["annotations"]["mark"].as_str().unwrap_or_default().to_owned());
                let status = status(&pod).to_string().into();
                statuses.pods.push(v1::PodStatus { pod: Some(reference), status, ..v1::PodStatus::default() });
            }
        }
        Ok(statuses)
    }

    async fn join(&self) -> Result<Arc<ClientConfig>, Failure> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let stranger = builder(&self.shared.authority)?.with_no_client_auth();
        let mut client = FleetClient::new(dial(self.index, with_http2(stranger)).await?);
        let (token, node) = (self.shared.token.clone(), self.name.clone());
        let asked = v1::JoinRequest { token, node, request: request.der().to_vec().into() };
        let v1::Certificate { chain, .. } = client.join(asked).await?.into_inner();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        Ok(with_http2(builder(&self.shared.authority)?.with_client_auth_cert(chain, key)?))
    }

    /// v1 Node, as an agent says it.
    fn object(&self) -> Value {
        let resources = json!({"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "20Gi"});
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": self.name}],
                "capacity": resources, "allocatable": resources,
                "nodeInfo": {
                    "architecture": "amd64", "bootID": "1", "containerRuntimeVersion": "containerd://1.6.20",
                    "kernelVersion": "6.1", "kubeProxyVersion": "", "kubeletVersion": "simulated", "machineID": "1",
                    "operatingSystem": "linux", "osImage": "none", "systemUUID": "1",
                },
            },
        })
    }
}

fn builder(
    authority: &CertificateDer<'static>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}

fn with_http2(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// From an address of this node's own: the endpoint bounds what one address may do.
async fn dial(index: usize, config: Arc<ClientConfig>) -> Result<Channel, Failure> {
    let own = FIRST.saturating_add(u32::try_from(index)?);
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from_bits(own), 0).into())?;
    let tcp = socket.connect((ADDRESS.parse::<Ipv4Addr>()?, PORT).into()).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(ServerName::try_from(ADDRESS)?, tcp).await?;
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection is lost")) }
    });
    Ok(Endpoint::from_static("http://control").connect_with_connector(connector).await?)
}

fn heartbeat() -> up::What {
    up::What::Heartbeat(v1::Heartbeat { failing: String::new() })
}

/// v1 PodStatus of a pod that runs and is ready.
fn status(pod: &Value) -> Value {
    const SINCE: &str = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": SINCE});
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
            "restartCount": 0, "containerID": "containerd://1", "state": {"running": {"startedAt": SINCE}},
        })
    });
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    json!({
        "phase": "Running", "startTime": SINCE, "hostIP": ADDRESS, "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}
