//! Connections: taken, encrypted, counted, and handed to HTTP/2 or HTTP/1.1 as the client chose.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Door;
use super::answer::{Peer, answer};

/// Connections at a time. One costs some 40 KB with its TLS.
const CONNECTIONS_MAX: usize = 1000;
/// Of one address: people behind one NAT, and the daemons of a node.
const OF_ONE_PEER_MAX: usize = 250;
/// Until TLS is agreed on.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// HTTP/1.1: until the next request's head is complete, so also how long a connection may idle. Longer than the 90 s after which Go's clients
/// give up idle connections by themselves, so that no request meets a connection that is being closed.
const HEAD_TIME_MAX: Duration = Duration::from_secs(100);
/// HTTP/1.1: the line and headers of a request together.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// HTTP/2: the same, once decoded.
const HEADERS_MAX: u32 = 64 << 10;
/// HTTP/2: requests and watches of one connection at a time, Kubernetes' default.
const STREAMS_MAX: u32 = 250;
/// HTTP/2: how often a silent peer is asked whether it is still there, and how long it has to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_TIME_MAX: Duration = Duration::from_secs(15);
/// HTTP/2: what one stream may send before it is read; bodies are small.
const WINDOW: u32 = 128 << 10;
/// After a failed accept (no descriptors left), so that it is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For answers in progress at the stop. Watches do not end by themselves.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Serves until `stop` becomes true or its sender is dropped.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = Arc::new(Peers::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A connection that is too many is closed: there is no room for words before TLS.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let Some(counted) = Counted::of(&peers, address.ip()) else { continue };
        let (acceptor, door, stop) = (acceptor.clone(), door.clone(), stop.clone());
        connections.spawn(async move {
            let _held = (place, counted);
            // A broken connection is its client's business; there is nobody to tell.
            let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME_MAX, handshake(acceptor, socket)).await else { return };
            converse(stream, address, door, stop).await;
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_TIME_MAX, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn handshake(acceptor: TlsAcceptor, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    acceptor.accept(socket).await
}

async fn converse(stream: TlsStream<TcpStream>, address: SocketAddr, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let session = stream.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer { address, certificates });
    let service = service_fn(move |request| {
        let (door, peer) = (door.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(door, peer, request).await) }
    });
    let stream = TokioIo::new(stream);
    let stopped = async move {
        // A dropped sender is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 2)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_TIME_MAX);
        let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopped => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
        let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopped => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place among those of its address; given back when it is dropped.
#[derive(Debug)]
struct Counted {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Counted {
    /// None: the address has as many as it may.
    fn of(peers: &Arc<Peers>, address: IpAddr) -> Option<Counted> {
        let mut open = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= OF_ONE_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Counted { peers: peers.clone(), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}
