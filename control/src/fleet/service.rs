//! What may be asked on one connection, by what certificate it shows: none may join, an expired one may renew, a good one has a session.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use proto::v1;
use proto::v1::fleet_server::Fleet;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::complaints::cut;
use super::{Certificate, Inner, Refusal, session};
use crate::door::audit;
use crate::door::authority::Peer;

/// What is put into a session's queue.
type Queued = Box<Result<v1::Down, Status>>;

/// Answers one connection.
#[derive(Clone)]
pub struct Connection {
    pub inner: Arc<Inner>,
    pub from: IpAddr,
    /// Ours, at which the node has found us.
    pub local: Option<IpAddr>,
    /// What TLS has verified; empty: nothing was shown.
    pub shown: session::Shown,
}

#[tonic::async_trait]
impl Fleet for Connection {
    type SessionStream = Map<ReceiverStream<Queued>, fn(Queued) -> Result<v1::Down, Status>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::Certificate>, Status> {
        let v1::JoinRequest { token, node, request } = request.into_inner();
        let door = &self.inner.door;
        door.admits(self.from).map_err(refused)?;
        let given = door.join(self.from, &token, &node, &request).await;
        tracing::info!(node = ?cut(&node), from = %self.from, joined = given.is_ok(), "a node asks to join");
        Ok(Response::new(answer(given.map_err(refused)?)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Certificate>, Status> {
        let request: Bytes = request.into_inner().request;
        let given = self.inner.door.renew(&self.shown, &request).await;
        let peer = self.shown.first().and_then(|shown| Peer::of(shown).ok());
        let node = peer.as_ref().and_then(Peer::node).unwrap_or_default();
        let code = match &given {
            Ok(_) => 201,
            Err(Refusal::Denied(_)) => 403,
            Err(Refusal::TooMany(_)) => 429,
            Err(Refusal::Failed(_)) => 503,
        };
        audit::of_node(node, "renew", "certificates", ("", node), code);
        let given = given.map_err(refused)?;
        Ok(Response::new(answer(given)))
    }

    async fn session(&self, request: Request<Streaming<v1::Up>>) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.inner.door.node(&self.shown).await.map_err(refused)?;
        let (downs, sent) = mpsc::channel(session::DOWN_MAX);
        let from = (self.shown.clone(), self.local);
        tokio::spawn(session::run(self.inner.clone(), from, node, request.into_inner(), downs));
        Ok(Response::new(ReceiverStream::new(sent).map(|queued| *queued)))
    }
}

fn answer(given: Certificate) -> v1::Certificate {
    let Certificate { chain, authority } = given;
    v1::Certificate { chain, authority }
}

pub(super) fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Denied(why) => Status::permission_denied(why),
        Refusal::TooMany(why) => Status::resource_exhausted(why),
        Refusal::Failed(why) => Status::unavailable(why),
    }
}
