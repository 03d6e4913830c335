//! Connections of nodes: TCP, TLS, HTTP/2 with pings, each answered by [`super::service`]. Everything before a node's certificate is known to be good is
//! bounded in size, in time and in number, of one address and of all ([`super::strangers`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use proto::MESSAGE_MAX;
use proto::v1::fleet_server::FleetServer;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::service::Connection;
use super::strangers::{Stranger, Strangers};
use super::{Fleet, Refusal};

/// What TLS of this listener speaks.
pub const ALPN: &[&[u8]] = &[b"h2"];
/// Nodes, and some that dial anew before their old connection is known to be dead.
const CONNECTIONS_MAX: usize = 12_000;
/// Handshakes at a time: they cost processor time, and a thousand nodes come back at once.
const HANDSHAKES_MAX: usize = 128;
/// Until it is a connection's turn for one.
const TURN_MAX: Duration = Duration::from_secs(10);
/// Until the whole of its first message has come: whoever has not said it takes nobody's turn.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// For the rest of it: one message each way.
const FLIGHT_MAX: Duration = Duration::from_secs(5);
/// A request to join, whole.
const JOIN_MAX: usize = 16 << 10;
/// How long a connection without a certificate that is good for a session may last: it joins, or renews, and goes.
const JOINING_MAX: Duration = Duration::from_secs(60);
/// Requests at a time of one node: its session, a renewal, and room.
const STREAMS_MAX: u32 = 8;
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_MAX: Duration = Duration::from_secs(10);
/// After an accept that failed (no descriptors left).
const AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop` is true. `tls`: its client certificates are the authority's, optional, and may have expired.
pub async fn serve(fleet: Fleet, listener: TcpListener, tls: Arc<ServerConfig>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let strangers = Strangers::new();
    loop {
        // Both arms only wait.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a node's connection cannot be accepted");
                sleep(AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let Some(stranger) = strangers.enter(from.ip()) else {
            tracing::debug!(%from, "an address with too many connections that are no node's is turned away");
            continue;
        };
        let (fleet, tls, handshakes, stop) = (fleet.clone(), tls.clone(), handshakes.clone(), stop.clone());
        tokio::spawn(async move { one(fleet, tls, handshakes, (tcp, from), (place, stranger), stop).await });
    }
}

/// A connection whose client has said the first message of TLS, whole.
async fn greeted(tcp: TcpStream) -> Option<StartHandshake<TcpStream>> {
    timeout(SILENT_MAX, LazyConfigAcceptor::new(Acceptor::default(), tcp)).await.ok()?.ok()
}

async fn one(
    fleet: Fleet,
    tls: Arc<ServerConfig>,
    handshakes: Arc<Semaphore>,
    (tcp, from): (TcpStream, SocketAddr),
    (_place, stranger): (OwnedSemaphorePermit, Stranger),
    mut stop: watch::Receiver<bool>,
) {
    let local = tcp.local_addr().ok().map(|address| address.ip());
    // Where it cannot be set, small messages are slower.
    let _ = tcp.set_nodelay(true);
    let Some(begun) = greeted(tcp).await else {
        return tracing::debug!(%from, "a node does not begin its handshake");
    };
    // Its own address's first.
    let Ok(turn) = timeout(TURN_MAX, async { (stranger.turn().await, handshakes.acquire().await) }).await else {
        return tracing::debug!(%from, "too many nodes shake hands");
    };
    let shaken = timeout(FLIGHT_MAX, begun.into_stream(tls)).await;
    drop(turn);
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "no TLS with a node"),
        Err(_) => return tracing::debug!(%from, "a node does not finish its handshake"),
    };
    let shown: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    // One that has ended, or is another machine's by now, is as good as none: it may ask to be renewed.
    let node = match fleet.inner.door.node(&shown).await {
        Err(Refusal::Failed(why)) => return tracing::debug!(%from, why, "whose connection this is cannot be told"),
        node => node.ok(),
    };
    let is_stranger = node.is_none();
    let _held = match is_stranger {
        true => match stranger.settle() {
            Some(settled) => Some((settled, stranger)),
            None => return tracing::debug!(%from, "there are too many connections that are no node's"),
        },
        false => {
            drop(stranger);
            None
        }
    };
    let connection = Connection { inner: fleet.inner.clone(), from: from.ip(), local, shown: Arc::new(shown) };
    let largest = if is_stranger { JOIN_MAX } else { MESSAGE_MAX };
    let service =
        FleetServer::new(connection).max_decoding_message_size(largest).max_encoding_message_size(MESSAGE_MAX);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(16 << 10);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let limit = async {
        match is_stranger {
            true => sleep(JOINING_MAX).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut served => if let Err(error) = ended {
            tracing::debug!(%from, %error, "a node's connection broke");
        },
        () = limit => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A handshake record that announces a first message, and the beginning of that.
    const BEGUN: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

    #[tokio::test(start_paused = true)]
    async fn whoever_says_but_the_beginning_of_his_greeting_gets_no_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for said in [&BEGUN[..0], &BEGUN[..1], &BEGUN[..5], &BEGUN] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(said).await.unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            assert!(greeted(tcp).await.is_none(), "{said:?}");
        }
    }
}
