//! An endpoint that lies: what it must not say is refused and said, and what runs runs on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use agent::config::ControlUrl;
use control::clock::Clock;
use control::door::authority::Authority;
use control::door::tls::{Names, ServerCertificate, for_nodes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::v1;
use proto::v1::fleet_server::{Fleet, FleetServer};
use proto::v1::{Down, down, up};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;
use crate::{pod, until};

/// Says what it is told to say, and keeps what it is answered.
#[derive(Clone)]
struct Liar {
    authority: Arc<Authority>,
    says: Arc<Mutex<VecDeque<down::What>>>,
    heard: mpsc::UnboundedSender<up::What>,
}

#[tonic::async_trait]
impl Fleet for Liar {
    type SessionStream = ReceiverStream<Result<Down, Status>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::Certificate>, Status> {
        let request = request.into_inner();
        let asked = control::door::authority::Request::parse(&request.request).unwrap();
        let signed = self.authority.node(&request.node, &asked, Clock::system().now()).unwrap();
        let authority = self.authority.certificate_pem().to_owned();
        Ok(Response::new(v1::Certificate { chain: signed.chain_pem, authority }))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::Certificate>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn session(&self, request: Request<Streaming<v1::Up>>) -> Result<Response<Self::SessionStream>, Status> {
        let (downs, sent) = mpsc::channel(64);
        let says: Vec<down::What> = self.says.lock().unwrap().drain(..).collect();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            let mut ups = request.into_inner();
            for what in says {
                let _ = downs.send(Ok(Down { what: Some(what) })).await;
            }
            while let Ok(Some(up)) = ups.message().await {
                if let Some(what) = up.what {
                    let _ = heard.send(what);
                }
            }
            drop(downs);
        });
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

struct Lies {
    heard: mpsc::UnboundedReceiver<up::What>,
    node: Node,
}

/// A node whose endpoint says this in its first session.
async fn told(says: Vec<down::What>) -> Lies {
    let now = Clock::system().now();
    let authority = Arc::new(Authority::generate(now).unwrap());
    let certificate = ServerCertificate::new(authority.clone(), Names::default(), now).unwrap();
    let tls = for_nodes(Arc::new(certificate), &[b"h2"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, said) = mpsc::unbounded_channel();
    let pin = authority.pin();
    let liar = Liar { authority, says: Arc::new(Mutex::new(says.into())), heard };
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, liar) = (acceptor.clone(), liar.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(FleetServer::new(liar));
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("token"), format!("abcd.efgh.{pin}")).unwrap();
    let url = ControlUrl { host: address.ip().to_string(), port: address.port() };
    Lies { heard: said, node: Node::at("n1", url, state).await }
}

fn welcome(version: u32) -> down::What {
    down::What::Welcome(v1::Welcome { version, program: "x".into() })
}

fn desired(number: u64, names: &[&str]) -> down::What {
    let object = |name: &&str| {
        let mut json = pod(name, "n1");
        json["metadata"]["uid"] = format!("0a-{name}").into();
        v1::Object {
            json: json.to_string().into(),
            kind: "Pod".into(),
            namespace: "default".into(),
            name: (*name).to_owned(),
            uid: format!("0a-{name}"),
        }
    };
    let generation = Some(v1::Generation { epoch: 1, number });
    let objects = names.iter().map(object).collect();
    down::What::Desired(v1::Desired { generation, piece: 0, last: true, objects, surroundings: None })
}

impl Lies {
    /// What the node says of the next sets, as number and why it is refused.
    async fn judged(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut judged = Vec::new();
        let heard = &mut self.heard;
        tokio::time::timeout(crate::PATIENCE, async {
            while judged.len() < count {
                if let up::What::Judged(v1::Judged { generation, refused }) = heard.recv().await.expect("it goes on") {
                    judged.push((generation.map_or(0, |it| it.number), refused));
                }
            }
        })
        .await
        .expect("all sets are judged");
        judged
    }
}

#[tokio::test]
async fn older_sets_and_others_under_the_same_number_are_refused_and_said() {
    let mut lies = told(vec![
        welcome(1),
        desired(5, &["a"]),
        desired(4, &[]),
        desired(5, &["b"]),
        desired(5, &["a"]),
        desired(6, &["a", "c"]),
    ])
    .await;
    let judged = lies.judged(5).await;
    let refused: Vec<bool> = judged.iter().map(|(_, why)| !why.is_empty()).collect();
    assert_eq!(refused, [false, true, true, false, false], "{judged:?}");
    until("what is newest runs", async || (lies.node.running() == ["0a-a", "0a-c"]).then_some(())).await;
}

#[tokio::test]
async fn broken_objects_and_pieces_end_no_session_and_stop_nothing() {
    let generation = Some(v1::Generation { epoch: 1, number: 9 });
    let broken =
        v1::Object { json: "{\"kind\": \"Pod\"".into(), kind: "Pod".into(), name: "x".into(), ..v1::Object::default() };
    let mut whole = match desired(7, &["a"]) {
        down::What::Desired(desired) => desired,
        _ => unreachable!("it is one"),
    };
    whole.objects.push(broken);
    let mut lies = told(vec![
        welcome(1),
        down::What::Desired(v1::Desired { generation, piece: 3, last: true, ..v1::Desired::default() }),
        down::What::Desired(v1::Desired { piece: 0, last: true, ..v1::Desired::default() }),
        down::What::Desired(whole),
        desired(8, &["a", "b"]),
    ])
    .await;
    let judged = lies.judged(4).await;
    let refused: Vec<bool> = judged.iter().map(|(_, why)| !why.is_empty()).collect();
    assert_eq!(refused, [true, true, false, false], "{judged:?}");
    until("both run", async || (lies.node.running() == ["0a-a", "0a-b"]).then_some(())).await;
}

#[tokio::test]
async fn a_newer_endpoint_is_understood() {
    let unknown = down::What::Open(v1::Open { stream: 7, credit: 0, what: None });
    let mut lies = told(vec![welcome(2), unknown, desired(1, &["a"])]).await;
    assert_eq!(lies.judged(1).await, [(1, String::new())]);
    until("it runs", async || (lies.node.running() == ["0a-a"]).then_some(())).await;
}
