//! Connections: taken, encrypted, counted, and handed to HTTP/2 or HTTP/1.1 as the client chose.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Door;
use super::answer::answer;
use super::limits::Place;
use super::strangers::{Stranger, Strangers};
use crate::api::error::ApiError;
use crate::door::authority::MASTERS;
use crate::door::identity::Identity;
use crate::door::join::host;

/// Connections at a time of those who have shown who they are: the daemons of a fleet, some with two. One costs some 40 KB with its TLS.
const CONNECTIONS_MAX: usize = 3000;
/// Beyond, for administrators.
const KEPT: usize = 50;
/// Of one host: people and daemons behind one NAT.
const OF_ONE_PEER_MAX: usize = 1500;
/// So long it may take; a probe that comes more seldom connects anew.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(30);
/// How often it is said that connections are turned away.
const TELL_EVERY: Duration = Duration::from_secs(60);
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
    let (known, strangers) = (Arc::new(Peers::default()), Strangers::default());
    let mut connections = JoinSet::new();
    let mut told: Option<Instant> = None;
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
        let (stranger, out) = strangers.enter(host(address.ip()));
        if let Some(host) = out
            && told.is_none_or(|told| told.elapsed() >= TELL_EVERY)
        {
            told = Some(Instant::now());
            tracing::warn!(%host, "connections of this address are closed: there are too many on which nobody says who he is");
        }
        let (acceptor, door, stop, known) = (acceptor.clone(), door.clone(), stop.clone(), known.clone());
        connections.spawn(async move {
            let cut = stranger.cut();
            // A broken connection is its client's business; there is nobody to tell.
            let shaken = tokio::select! {
                shaken = timeout(HANDSHAKE_TIME_MAX, handshake(acceptor, socket)) => shaken,
                () = cut.notified() => return,
            };
            let Ok(Ok(stream)) = shaken else { return };
            converse(stream, (address, stranger), known, door, stop).await;
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

async fn converse(
    stream: TlsStream<TcpStream>,
    (address, stranger): (SocketAddr, Stranger),
    known: Arc<Peers>,
    door: Arc<Door>,
    stop: watch::Receiver<bool>,
) {
    let session = stream.get_ref().1;
    let certificates: Vec<_> =
        session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let (cut, standing) = (stranger.cut(), Mutex::new(Standing::Stranger { _place: stranger, known }));
    let peer = Arc::new(Peer { address, certificates, standing, cut });
    let of_service = peer.clone();
    let service = service_fn(move |request| {
        let (door, peer) = (door.clone(), of_service.clone());
        async move { Ok::<_, Infallible>(answer(door, peer, request).await) }
    });
    let stream = TokioIo::new(stream);
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
        let connection = std::pin::pin!(builder.serve_connection(stream, service));
        attend(connection, |connection| connection.graceful_shutdown(), &peer, stop).await;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
        let connection = std::pin::pin!(builder.serve_connection(stream, service));
        attend(connection, |connection| connection.graceful_shutdown(), &peer, stop).await;
    }
}

/// A connection until it ends, is cut off, or has to go: at the stop, or because nobody has been heard of on it. `end`: lets it finish what it does.
async fn attend<C: Future>(
    mut connection: Pin<&mut C>,
    end: fn(Pin<&mut C>),
    peer: &Peer,
    mut stop: watch::Receiver<bool>,
) {
    let mut patience = std::pin::pin!(sleep(STRANGER_TIME_MAX));
    let mut stopped = std::pin::pin!(async move {
        // A dropped sender is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
    });
    let mut is_late = false;
    loop {
        // Each arm is cancel-safe: all of them go on where they were.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = peer.cut.notified() => return,
            () = stopped.as_mut() => break,
            () = patience.as_mut(), if !is_late => {
                is_late = true;
                if peer.is_stranger() {
                    break;
                }
            }
        }
    }
    end(connection.as_mut());
    tokio::select! {
        _ = connection => {}
        () = peer.cut.notified() => {}
        () = sleep(STRANGER_TIME_MAX), if peer.is_stranger() => {}
    }
}

/// Who is on the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// As TLS has verified it; empty without one.
    pub certificates: Vec<CertificateDer<'static>>,
    standing: Mutex<Standing>,
    cut: Arc<Notify>,
}

/// Among whom a connection counts.
#[derive(Debug)]
enum Standing {
    /// Nobody has said on it who he is. `known`: those on whose connections somebody has.
    Stranger {
        _place: Stranger,
        known: Arc<Peers>,
    },
    Known {
        _place: Counted,
    },
}

impl Peer {
    /// Ends the connection with everything that is on it: what nobody reads takes room.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// It has shown who it is. Error: there are too many connections.
    pub fn known(&self, user: &Identity) -> Result<(), ApiError> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let Standing::Stranger { known, .. } = &*standing else { return Ok(()) };
        let most = if user.is_in(MASTERS) { Most::OF_MASTERS } else { Most::OF_OTHERS };
        let Some(place) = Counted::of(known, host(self.address.ip()), most) else {
            return Err(ApiError::too_many(10, "too many connections at a time, please try again later"));
        };
        *standing = Standing::Known { _place: place };
        Ok(())
    }

    fn is_stranger(&self) -> bool {
        matches!(*self.standing.lock().unwrap_or_else(PoisonError::into_inner), Standing::Stranger { .. })
    }
}

/// An answer without an end, and the connection that it goes to.
#[derive(Debug)]
pub struct Stream {
    pub peer: Arc<Peer>,
    /// Among the streams, while it lasts.
    _place: Place,
}

impl Stream {
    pub fn new(place: Place, peer: Arc<Peer>) -> Stream {
        Stream { peer, _place: place }
    }
}

/// How many connections each host has: an address, or a /64 of IPv6.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place among those of its host; given back when it is dropped.
#[derive(Debug)]
struct Counted {
    peers: Arc<Peers>,
    host: IpAddr,
}

/// How many there may be, and how many of one host.
#[derive(Debug, Clone, Copy)]
struct Most {
    all: usize,
    of_one: usize,
}

impl Most {
    const OF_OTHERS: Most = Most { all: CONNECTIONS_MAX, of_one: OF_ONE_PEER_MAX };
    const OF_MASTERS: Most = Most { all: CONNECTIONS_MAX + KEPT, of_one: CONNECTIONS_MAX + KEPT };
}

impl Counted {
    /// None: the host, or all together, have as many as they may.
    fn of(peers: &Arc<Peers>, host: IpAddr, most: Most) -> Option<Counted> {
        let mut open = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&host).copied().unwrap_or(0);
        if own >= most.of_one || open.values().sum::<usize>() >= most.all {
            return None;
        }
        open.insert(host, own + 1);
        Some(Counted { peers: peers.clone(), host })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.host);
            }
        }
    }
}
