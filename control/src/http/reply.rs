//! Answers: their bodies and headers.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use super::limits::Place;
use crate::api::error::ApiError;

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";
/// A client that has read nothing of a long answer for so long is cut off: its place is another's.
pub const UNREAD_TIME_MAX: Duration = Duration::from_secs(60);
/// One that reads, however slowly, has so long: 20 MB over half a megabit a second take half of it.
pub const SEND_TIME_MAX: Duration = Duration::from_secs(600);
/// What is handed on at once of a long answer.
pub const PIECE: usize = 64 << 10;
/// Warnings of one answer, as many as Kubernetes sends before it cuts them off by size.
const WARNINGS_MAX: usize = 32;
/// The text of one warning.
const WARNING_MAX: usize = 256;
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

pub type Reply = Response<Payload>;

/// What goes back: all of it, or pieces as they come.
#[derive(Debug)]
pub enum Payload {
    Whole {
        bytes: Bytes,
        held: Option<Arc<Held>>,
    },
    /// Ends when the sender is dropped.
    Pieces(mpsc::Receiver<Bytes>),
    /// Ends with its last part. None: that has gone.
    Parts {
        parts: Option<mpsc::Receiver<Part>>,
        held: Option<Arc<Held>>,
    },
}

/// A request's place while its answer is sent, and how that goes on.
#[derive(Debug)]
pub struct Held {
    _place: Place,
    moves: AtomicU64,
    given_up: AtomicBool,
}

impl Held {
    /// How often more of the answer was asked for.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// The answer breaks off, and with it its stream alone.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// A part of one document.
#[derive(Debug)]
pub enum Part {
    More(Bytes),
    Last(Bytes),
}

/// A document whose end never came: the client is cut off, so that it does not take the half for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer could not be made to its end")]
pub struct Broken;

impl Body for Payload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let payload = self.get_mut();
        if let Payload::Whole { held: Some(held), .. } | Payload::Parts { held: Some(held), .. } = payload {
            held.moves.fetch_add(1, Ordering::Relaxed);
            if held.given_up.load(Ordering::Relaxed) {
                return Poll::Ready(Some(Err(Broken)));
            }
        }
        match payload {
            Payload::Whole { bytes, .. } if bytes.is_empty() => Poll::Ready(None),
            // In pieces: what is handed on is out of our sight, read or not.
            Payload::Whole { bytes, .. } => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Payload::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            Payload::Parts { parts, .. } => {
                let Some(receiver) = parts else { return Poll::Ready(None) };
                let part = std::task::ready!(receiver.poll_recv(context));
                if !matches!(part, Some(Part::More(_))) {
                    *parts = None;
                }
                Poll::Ready(Some(match part {
                    Some(Part::More(bytes) | Part::Last(bytes)) => Ok(Frame::data(bytes)),
                    None => Err(Broken),
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole { bytes, .. } => bytes.is_empty(),
            Payload::Pieces(_) => false,
            Payload::Parts { parts, .. } => parts.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Payload::Pieces(_) | Payload::Parts { .. } => SizeHint::default(),
        }
    }
}

pub fn bytes(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Reply {
    with_payload(code, media, Payload::Whole { bytes: body.into(), held: None })
}

/// Pieces as they come.
pub fn pieces(media: &'static str, pieces: mpsc::Receiver<Bytes>) -> Reply {
    with_payload(StatusCode::OK, media, Payload::Pieces(pieces))
}

/// Parts of one document.
pub fn parts(media: &'static str, parts: mpsc::Receiver<Part>) -> Reply {
    with_payload(StatusCode::OK, media, Payload::Parts { parts: Some(parts), held: None })
}

/// The request's place is taken until the answer has been sent: what nobody reads takes room.
pub fn hold(reply: &mut Reply, place: Place) {
    match reply.body_mut() {
        Payload::Whole { held, .. } | Payload::Parts { held, .. } => {
            let (moves, given_up) = (AtomicU64::new(0), AtomicBool::new(false));
            *held = Some(Arc::new(Held { _place: place, moves, given_up }));
        }
        Payload::Pieces(_) => {}
    }
}

/// Of a long answer: gone when it has been sent.
pub fn unsent(reply: &Reply) -> Option<Weak<Held>> {
    match reply.body() {
        Payload::Whole { bytes, held } if bytes.len() > PIECE => held.as_ref().map(Arc::downgrade),
        Payload::Parts { held, .. } => held.as_ref().map(Arc::downgrade),
        Payload::Whole { .. } | Payload::Pieces(_) => None,
    }
}

fn with_payload(code: StatusCode, media: &'static str, payload: Payload) -> Reply {
    let mut reply = Response::new(payload);
    *reply.status_mut() = code;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    reply
}

/// A document. `pretty`: indented for people.
pub fn json(code: StatusCode, media: &'static str, document: &Value, pretty: bool) -> Reply {
    bytes(code, media, self::document(document, pretty))
}

/// A document's bytes.
pub fn document(document: &Value, pretty: bool) -> Vec<u8> {
    let written = if pretty { serde_json::to_vec_pretty(document) } else { serde_json::to_vec(document) };
    let mut written = written.expect("a JSON value has text keys alone");
    written.push(b'\n');
    written
}

pub fn error(error: &ApiError, pretty: bool) -> Reply {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(code, JSON, &error.to_status(), pretty);
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// The client has it already.
pub fn not_modified() -> Reply {
    let mut reply = bytes(StatusCode::NOT_MODIFIED, JSON, "");
    reply.headers_mut().remove(CONTENT_TYPE);
    reply
}

/// Adds what kubectl prints as `Warning: …`.
pub fn warn(reply: &mut Reply, warnings: &[String]) {
    for warning in warnings.iter().take(WARNINGS_MAX) {
        let mut text = String::from("299 - \"");
        for letter in warning.chars().take(WARNING_MAX) {
            match letter {
                '"' | '\\' => text.extend(['\\', letter]),
                letter if letter.is_control() => text.push(' '),
                letter => text.push(letter),
            }
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            reply.headers_mut().append(WARNING, value);
        }
    }
}
