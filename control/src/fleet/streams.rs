//! Streams through a node's session, as the endpoint sees them: it opens them, grants credit as their readers take, and lets go.
//!
//! Driven by whoever wants one (logs so far) and by the session, which brings what the node sends. What a node sends without credit ends
//! its stream: a reader that is slow fills no memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::v1::{self, down, open};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::session::{Downs, put};
use crate::api::error::ApiError;

/// Bytes of one stream that are on their way or wait for its reader.
const WINDOW: u64 = 256 << 10;
/// Credit is granted anew once so much was taken.
const GRANT: u64 = WINDOW / 4;
/// Pieces that wait for the reader beside that.
const READY_MAX: usize = 4;
/// Streams of one node at a time.
const STREAMS_MAX: usize = 32;
/// Until the node has begun a stream, or said why not.
const BEGIN_MAX: Duration = Duration::from_secs(30);

/// The streams of one session.
#[derive(Debug)]
pub struct Streams {
    node: String,
    downs: Downs,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Stream>>,
}

#[derive(Debug)]
struct Stream {
    /// Bounded by credit.
    pieces: mpsc::UnboundedSender<Bytes>,
    /// Told once: it has begun, or why not.
    begun: Option<oneshot::Sender<Result<(), ApiError>>>,
    /// Bytes that the node may still send.
    credit: u64,
}

impl Streams {
    pub fn new(node: &str, downs: Downs) -> Arc<Streams> {
        Arc::new(Streams { node: node.to_owned(), downs, next: AtomicU64::new(1), open: Mutex::default() })
    }

    /// Opens one. Errors: the node does not begin it, with its own words.
    pub async fn open(self: &Arc<Self>, what: open::What) -> Result<mpsc::Receiver<Bytes>, ApiError> {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let (begun, begins) = oneshot::channel();
        let (pieces, taken) = mpsc::unbounded_channel();
        let (ready, reader) = mpsc::channel(READY_MAX);
        {
            let mut open = self.state();
            if open.len() >= STREAMS_MAX {
                let why = format!("too many streams of node {} are open: try again later", self.node);
                return Err(error(429, why));
            }
            open.insert(stream, Stream { pieces, begun: Some(begun), credit: WINDOW });
        }
        let guard = Open { streams: self.clone(), stream };
        let open = v1::Open { stream, credit: WINDOW, what: Some(what) };
        let gone = || error(503, format!("the session with node {} is over", self.node));
        put(&self.downs, down::What::Open(open)).await.map_err(|_| gone())?;
        match timeout(BEGIN_MAX, begins).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(why))) => return Err(why),
            Ok(Err(_)) => return Err(gone()),
            Err(_) => return Err(error(504, format!("node {} does not answer", self.node))),
        }
        tokio::spawn(guard.hand_on(taken, ready));
        Ok(reader)
    }

    /// What the node sends; nothing, when it has begun the stream.
    pub fn data(&self, data: v1::Data) {
        let v1::Data { stream, bytes } = data;
        let mut open = self.state();
        let Some(it) = open.get_mut(&stream) else { return };
        if let Some(begun) = it.begun.take() {
            // Who asked may have gone away.
            let _ = begun.send(Ok(()));
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match it.credit.checked_sub(size) {
            Some(left) => {
                it.credit = left;
                if size > 0 {
                    let _ = it.pieces.send(bytes);
                }
            }
            None => {
                tracing::warn!(node = self.node, stream, "a node sends more than it may: its stream is given up");
                open.remove(&stream);
            }
        }
    }

    /// The node has ended it.
    pub fn end(&self, end: v1::End) {
        let Some(stream) = self.state().remove(&end.stream) else { return };
        if let Some(begun) = stream.begun {
            let _ = begun.send(match end.error.is_empty() {
                true => Ok(()),
                false => Err(error(u16::try_from(end.code).unwrap_or(500), end.error)),
            });
        }
    }

    /// The session is over, and all its streams.
    pub fn close(&self) {
        self.state().clear();
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<u64, Stream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that somebody reads; given up when dropped.
struct Open {
    streams: Arc<Streams>,
    stream: u64,
}

impl Open {
    /// From the node to the reader, until either has had enough.
    async fn hand_on(self, mut pieces: mpsc::UnboundedReceiver<Bytes>, ready: mpsc::Sender<Bytes>) {
        let mut taken = 0_u64;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = ready.closed() => return,
            };
            let Some(piece) = piece else { return };
            taken = taken.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if ready.send(piece).await.is_err() {
                return;
            }
            if taken >= GRANT {
                let (stream, bytes) = (self.stream, std::mem::take(&mut taken));
                if let Some(it) = self.streams.state().get_mut(&stream) {
                    it.credit = it.credit.saturating_add(bytes);
                }
                if put(&self.streams.downs, down::What::Credit(v1::Credit { stream, bytes })).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Open { streams, stream } = self;
        if streams.state().remove(stream).is_some() {
            let (streams, stream) = (streams.clone(), *stream);
            // The node has not ended it: it need not go on.
            tokio::spawn(async move { put(&streams.downs, down::What::Cancel(v1::Cancel { stream })).await });
        }
    }
}

/// A Status with this code.
pub fn error(code: u16, message: String) -> ApiError {
    let reason = match code {
        400 => "BadRequest",
        404 => "NotFound",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    ApiError { code, reason, message, details: None }
}

#[cfg(test)]
mod tests {
    use proto::v1::Down;
    use tonic::Status;

    use super::*;

    fn streams() -> (Arc<Streams>, mpsc::Receiver<Box<Result<Down, Status>>>) {
        let (downs, sent) = mpsc::channel(64);
        (Streams::new("n1", downs), sent)
    }

    async fn told(sent: &mut mpsc::Receiver<Box<Result<Down, Status>>>) -> down::What {
        (*sent.recv().await.unwrap()).unwrap().what.unwrap()
    }

    fn data(stream: u64, bytes: &[u8]) -> v1::Data {
        v1::Data { stream, bytes: Bytes::copy_from_slice(bytes) }
    }

    fn logs() -> open::What {
        open::What::Logs(v1::Logs::default())
    }

    #[tokio::test]
    async fn credit_is_granted_as_the_reader_takes_and_more_than_that_ends_the_stream() {
        let (streams, mut sent) = streams();
        let opening = tokio::spawn({
            let streams = streams.clone();
            async move { streams.open(logs()).await }
        });
        assert!(matches!(told(&mut sent).await, down::What::Open(v1::Open { stream: 1, credit: WINDOW, .. })));
        streams.data(data(1, b""));
        let mut reader = opening.await.unwrap().unwrap();
        let piece = vec![b'x'; usize::try_from(GRANT).unwrap()];
        streams.data(data(1, &piece));
        assert_eq!(reader.recv().await.unwrap().len(), piece.len());
        assert!(matches!(told(&mut sent).await, down::What::Credit(v1::Credit { stream: 1, bytes: GRANT })));
        // Nobody takes: the window is full with the fourth.
        for _ in 0..4 {
            streams.data(data(1, &piece));
        }
        assert_eq!(streams.state().len(), 1);
        streams.data(data(1, b"x"));
        assert_eq!(streams.state().len(), 0);
        drop(reader);
    }

    #[tokio::test]
    async fn a_reader_that_goes_cancels_and_a_node_that_refuses_says_why() {
        let (streams, mut sent) = streams();
        for round in 1..=100 {
            let opening = tokio::spawn({
                let streams = streams.clone();
                async move { streams.open(logs()).await }
            });
            told(&mut sent).await;
            if round % 2 == 0 {
                streams.end(v1::End { stream: round, error: "no such run".into(), code: 400 });
                let why = opening.await.unwrap().unwrap_err();
                assert_eq!((why.code, why.message.as_str()), (400, "no such run"));
            } else {
                streams.data(data(round, b"a"));
                drop(opening.await.unwrap().unwrap());
                assert!(matches!(told(&mut sent).await, down::What::Cancel(v1::Cancel { stream }) if stream == round));
            }
        }
        assert_eq!(streams.state().len(), 0);
    }

    #[tokio::test]
    async fn streams_end_with_their_session() {
        let (streams, mut sent) = streams();
        let opening = tokio::spawn({
            let streams = streams.clone();
            async move { streams.open(logs()).await }
        });
        told(&mut sent).await;
        streams.close();
        assert_eq!(opening.await.unwrap().unwrap_err().code, 503);
    }
}
