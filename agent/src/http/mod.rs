//! The doors: the root-only socket for client words, and the loopback listener for probes, scrapers and `/pods`.
//!
//! Opened and served by the composition root; they read the board and hand over commands, nothing else. Everything a
//! client can make large or slow has a bound here.

pub mod exec;
mod health;
mod internal;
mod loopback;
mod reply;
pub mod rows;
mod share;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::config::SOCKET;
use crate::status::node::Machine;
use reply::Reply;
use share::{Share, Shares};

/// Connections at a time, each door for itself: probes, a scraper or two, people.
const CONNECTIONS_MAX: usize = 64;
/// Connections of one address to the listener at a time: the rest is for the others.
const OF_ONE_PEER_MAX: usize = 48;
/// A request's line and headers together.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Until the next request's head is complete: also how long a connection may idle.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A loopback connection's whole life; scrapers and probes come again.
const LOOPBACK_TIME_MAX: Duration = Duration::from_secs(300);
/// After a failed accept (no descriptors left), so that it is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For answers in progress at the stop.
const STOP_TIME_MAX: Duration = Duration::from_millis(500);

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("the run directory {path} cannot be used", path = path.display())]
    RunDirectory { path: PathBuf, source: io::Error },
    #[error("another agent has {path} locked; two agents cannot share a run directory (see --run-dir)", path = path.display())]
    Locked { path: PathBuf },
    #[error("somebody answers on {path} already; two agents cannot share a run directory (see --run-dir)", path = path.display())]
    Answered { path: PathBuf },
    #[error("cannot make the socket {path}", path = path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}; give another address with --listen")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Both doors, open and not yet served: connections wait in the kernel's queue.
#[derive(Debug)]
pub struct Doors {
    socket: UnixListener,
    listener: TcpListener,
    path: PathBuf,
    // Held as long as the doors: one agent a run directory.
    _lock: Flock<File>,
}

impl Doors {
    /// Takes the run directory (made 0700 where it is missing) and listens. A socket that a dead agent left is replaced,
    /// one that answers is not. Must be called within a tokio runtime.
    pub async fn open(run_dir: &Path, listen: SocketAddr) -> Result<Doors, DoorError> {
        let in_run_dir = |source| DoorError::RunDirectory { path: run_dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(in_run_dir)?;
        let lock_path = run_dir.join("daemonlet.lock");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let lock = options.open(&lock_path).map_err(in_run_dir)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| DoorError::Locked { path: lock_path.clone() })?;
        let path = run_dir.join(SOCKET);
        if BlockingUnixStream::connect(&path).is_ok() {
            return Err(DoorError::Answered { path });
        }
        let socket = root_only(&path).map_err(|source| DoorError::Socket { path: path.clone(), source })?;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| DoorError::Listen { address: listen, source })?;
        Ok(Doors { socket, listener, path, _lock: lock })
    }

    /// Where the loopback door listens: the port that was chosen where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` ends; afterwards answers in progress have half a second, and the socket is gone.
    pub async fn serve(self, board: Board, stop: impl Future<Output = ()>) {
        let machine = Arc::new(Machine::read());
        let mut connections = tokio::task::JoinSet::new();
        let (inside, outside) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let shares = Shares::new(OF_ONE_PEER_MAX);
        tokio::pin!(stop);
        loop {
            // All arms only wait: an accepted connection is handled before the next turn.
            tokio::select! {
                () = &mut stop => break,
                accepted = accept_unix(&self.socket, &inside) => match accepted {
                    Ok((stream, permit)) => {
                        let (board, machine) = (board.clone(), machine.clone());
                        connections.spawn(async move {
                            let _permit = permit;
                            serve_one(stream, |request| internal::answer(board.clone(), machine.clone(), request)).await;
                        });
                    }
                    Err(why) => refused(&why).await,
                },
                accepted = accept_tcp(&self.listener, &outside, &shares) => match accepted {
                    // Closed at once: the address has as many as it may.
                    Ok(None) => {}
                    Ok(Some((stream, place))) => {
                        let board = board.clone();
                        let loopback = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
                        connections.spawn(async move {
                            let _place = place;
                            let one = serve_one(stream, |request| {
                                let (board, request) = (board.clone(), request);
                                async move { loopback::answer(&board, loopback, &request).await }
                            });
                            if tokio::time::timeout(LOOPBACK_TIME_MAX, one).await.is_err() {
                                tracing::debug!("a connection on the loopback listener was closed at its age limit");
                            }
                        });
                    }
                    Err(why) => refused(&why).await,
                },
                Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop((self.socket, self.listener));
        let rest = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIME_MAX, rest).await.is_err() {
            connections.abort_all();
        }
        // It would only say "refused" from now on; the next agent makes its own.
        if let Err(why) = fs::remove_file(&self.path) {
            tracing::debug!(%why, "the socket was not removed");
        }
    }
}

async fn accept_unix(
    listener: &UnixListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// None: a connection of an address that has its share already.
async fn accept_tcp(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    shares: &Shares,
) -> io::Result<Option<(tokio::net::TcpStream, (tokio::sync::OwnedSemaphorePermit, Share))>> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok(shares.take(peer.ip()).map(|share| (stream, (permit, share))))
}

async fn refused(why: &io::Error) {
    tracing::warn!(%why, "a connection was not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve_one<S, A, F>(stream: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Reply>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        // For commands in containers, on the socket; the other door never answers so.
        .with_upgrades()
        .await;
    if let Err(why) = served {
        tracing::debug!(%why, "a connection ended early");
    }
}

/// Made beside, made private, then moved into place: at no moment can anybody else connect.
fn root_only(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}
