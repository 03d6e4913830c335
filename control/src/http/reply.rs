//! Answers: their bodies and headers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::error::ApiError;

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Warnings of one answer, as many as Kubernetes sends before it cuts them off by size.
const WARNINGS_MAX: usize = 32;
/// The text of one warning.
const WARNING_MAX: usize = 256;
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

pub type Reply = Response<Payload>;

/// What goes back: all of it, or pieces as they come.
#[derive(Debug)]
pub enum Payload {
    Whole(Bytes),
    /// Ends when the sender is dropped.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        match self.get_mut() {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Payload::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Pieces(_) => SizeHint::default(),
        }
    }
}

pub fn bytes(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Reply {
    with_payload(code, media, Payload::Whole(body.into()))
}

/// Pieces as they come.
pub fn pieces(media: &'static str, pieces: mpsc::Receiver<Bytes>) -> Reply {
    with_payload(StatusCode::OK, media, Payload::Pieces(pieces))
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
    let written = if pretty { serde_json::to_vec_pretty(document) } else { serde_json::to_vec(document) };
    let mut written = written.expect("a JSON value has text keys alone");
    written.push(b'\n');
    bytes(code, media, written)
}

pub fn error(error: &ApiError, pretty: bool) -> Reply {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(code, JSON, &error.to_status(), pretty);
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
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
