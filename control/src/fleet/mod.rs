//! The fleet: one session per node. Desired sets down, statuses, events and heartbeats up; joining and renewing beside it.
//!
//! Started by `serve`. Who may join is [`Door`]'s to say, what silence means the loops' ([`Witness`]); objects are read and written
//! through [`Objects`] alone. The protocol's types are known here and nowhere else. Reading order: [`listener`] (connections),
//! [`service`] (what may be asked), [`session`] (one node), [`index`] (whose set a change is about), [`wanted`], [`statuses`].

mod complaints;
mod epoch;
mod events;
mod index;
mod joining;
mod listener;
mod manners;
mod nodes;
mod pace;
mod pods;
mod seams;
mod service;
mod session;
mod statuses;
mod strangers;
mod streams;
mod turns;
mod wanted;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::v1::{self, open};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::door::service_accounts::ServiceAccounts;

use index::Index;
use streams::Streams;

pub use listener::{ALPN, serve};
pub use wanted::{Api, Host};

/// An answer that takes its time.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A node's new certificate, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The node's first.
    pub chain: String,
    pub authority: String,
}

/// Why a node is not let in; the sentence is told to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It has no right to what it asks.
    Denied(String),
    /// It has to wait.
    TooMany(String),
    /// It may ask again: the fault is not its own.
    Failed(String),
}

/// Who may come in, and as whom.
pub trait Door: Send + Sync + 'static {
    /// Asked before a request to join, which is small, is looked at.
    fn admits(&self, from: IpAddr) -> Result<(), Refusal>;

    /// A token becomes a certificate. `request`: PKCS#10, DER.
    fn join<'a>(
        &'a self,
        from: IpAddr,
        token: &'a str,
        node: &'a str,
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>>;

    /// A certificate, perhaps an expired one, becomes its successor.
    fn renew<'a>(
        &'a self,
        shown: &'a [CertificateDer<'static>],
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>>;

    /// The node that may have a session with this certificate.
    fn node<'a>(&'a self, shown: &'a [CertificateDer<'static>]) -> Later<'a, Result<String, Refusal>>;
}

/// Which part of a container's log is asked for (v1 PodLogOptions).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogWanted {
    pub container: String,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Lines from the end.
    pub tail: Option<u64>,
    pub since: Option<jiff::Timestamp>,
    /// Bytes.
    pub limit: Option<u64>,
}

/// Told of every sign of life.
pub trait Witness: Send + Sync + 'static {
    fn opened(&self, node: &str);
    /// `failing`: what keeps the node from being ready; empty: it is.
    fn heard(&self, node: &str, failing: &str);
    fn closed(&self, node: &str);
    /// Where the node may be asked for its health; None: nowhere.
    fn advertised(&self, node: &str, address: Option<&str>);
}

/// See the top of the file. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Objects,
    door: Box<dyn Door>,
    witness: Box<dyn Witness>,
    api: Api,
    accounts: ServiceAccounts,
    index: Index,
    sessions: Mutex<BTreeMap<String, Seat>>,
    manners: manners::OfNodes,
}

/// A node's sessions: the newest one counts.
#[derive(Default)]
struct Seat {
    /// The newest one's number; a session whose number is passed ends.
    newest: watch::Sender<u64>,
    /// The newest one's.
    streams: Option<Arc<Streams>>,
}

impl Fleet {
    pub fn new(objects: Objects, door: impl Door, witness: impl Witness, accounts: ServiceAccounts, api: Api) -> Fleet {
        let (door, witness): (Box<dyn Door>, Box<dyn Witness>) = (Box::new(door), Box::new(witness));
        let (index, sessions, manners) = (Index::new(), Mutex::default(), manners::OfNodes::default());
        let inner = Inner { objects, door, witness, api, accounts, index, sessions, manners };
        Fleet { inner: Arc::new(inner) }
    }

    /// Follows the store, for ever: sessions need it.
    pub async fn follow(self) {
        let index = self.inner.index.clone().follow(self.inner.objects.clone());
        tokio::join!(index, joining::end_revoked(&self.inner));
    }

    /// A container's log from its node, as its reader takes it. Errors: there is no session, or the node's own words.
    pub async fn log(&self, pod: &Value, wanted: LogWanted) -> Result<mpsc::Receiver<Bytes>, ApiError> {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let streams = self.inner.sessions().get(node).and_then(|seat| seat.streams.clone());
        let streams = streams.ok_or_else(|| streams::error(503, format!("node {node:?} is not in session")))?;
        let metadata = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        // Of a mirror the node knows the static pod.
        let uid = pods::mirrors(pod).map_or_else(|| metadata("uid"), str::to_owned);
        let pod = v1::PodRef { namespace: metadata("namespace"), name: metadata("name"), uid };
        let LogWanted { container, follow, previous, timestamps, tail, since, limit } = wanted;
        let since = since.map(|since| since.as_millisecond());
        let logs = v1::Logs { pod: Some(pod), container, follow, previous, timestamps, tail, since, limit };
        streams.open(open::What::Logs(logs)).await
    }

    /// Nodes that are in session.
    pub fn connected(&self) -> usize {
        self.inner.sessions().values().filter(|seat| seat.newest.receiver_count() > 0).count()
    }
}

impl Inner {
    /// Ends a node's session as a newer one would.
    fn end(&self, node: &str) {
        if let Some(seat) = self.sessions().get(node) {
            seat.newest.send_modify(|number| *number = number.saturating_add(1));
            // There is no newer one that is heard of.
            self.witness.closed(node);
            tracing::info!(node, "a node is thrown out");
        }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Seat>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
