//! Bodies of answers: a whole text, or lines as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;

pub const JSON: &str = "application/json";

/// The body of an answer.
#[derive(Debug)]
pub enum Reply {
    /// None once it was sent.
    Whole(Option<Bytes>),
    /// The sender waits while the client does not read.
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Reply::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Lines(lines) => lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Reply::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Reply::Lines(_) => SizeHint::default(),
        }
    }
}

pub fn text(status: StatusCode, body: impl Into<String>) -> Response<Reply> {
    whole(status, "text/plain; charset=utf-8", body.into())
}

pub fn json(status: StatusCode, body: &Value) -> Response<Reply> {
    whole(status, JSON, format!("{body}\n"))
}

pub fn whole(status: StatusCode, kind: &'static str, body: String) -> Response<Reply> {
    with_head(status, kind, Reply::Whole(Some(Bytes::from(body))))
}

pub fn lines(lines: mpsc::Receiver<Bytes>) -> Response<Reply> {
    with_head(StatusCode::OK, JSON, Reply::Lines(lines))
}

pub fn not_found() -> Response<Reply> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

pub fn method_not_allowed(allowed: &'static str) -> Response<Reply> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// GET and HEAD ask for the same; hyper leaves the body of a HEAD's answer out.
pub fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn with_head(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
