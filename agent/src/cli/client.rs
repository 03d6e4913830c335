//! The client's end of the socket: one request a connection, on a runtime of this thread alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Failure;
use crate::doctor;
use crate::http::rows::Kind;

/// The largest list that is taken: ten thousand pods of 10 kB.
const BODY_BYTES_MAX: usize = 128 << 20;
/// One object of a watch.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Until an answer begins; a command to the workers takes up to 20 s.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Asks the agent.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A line of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub deleted: bool,
    pub object: Value,
}

impl Client {
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All things of a kind.
    pub fn list(&self, kind: Kind) -> Result<Vec<Value>, Failure> {
        self.on_runtime(async {
            let path = format!("/v1/{}", kind.name());
            let mut answer = whole(self.request(Method::GET, &path).await?).await?;
            match answer["items"].take() {
                Value::Array(items) => Ok(items),
                _ => Err(Failure::Refused(format!("the agent's answer to {path} is no list; is it another version?"))),
            }
        })
    }

    /// Ends a pod.
    pub fn delete_pod(&self, uid: &str) -> Result<(), Failure> {
        self.on_runtime(async {
            let response = self.request(Method::POST, &format!("/v1/pods/{uid}/delete")).await?;
            whole(response).await.map(drop)
        })
    }

    /// All that there is, then each change, until `each` has had enough (false) or the agent ends.
    pub fn watch(&self, kind: Kind, mut each: impl FnMut(Vec<Change>) -> Result<(), Failure>) -> Result<(), Failure> {
        self.on_runtime(async {
            let response = self.request(Method::GET, &format!("/v1/{}?watch=1", kind.name())).await?;
            let mut body = response.into_body();
            let mut rest: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|why| self.unreachable(&why))?;
                let Ok(bytes) = frame.into_data() else { continue };
                rest.extend_from_slice(&bytes);
                let Some(end) = rest.iter().rposition(|b| *b == b'\n') else {
                    if rest.len() > LINE_BYTES_MAX {
                        return Err(Failure::Refused("the agent sent an endless line".into()));
                    }
                    continue;
                };
                let after = rest.split_off(end + 1);
                let lines: Vec<Change> = rest.split(|b| *b == b'\n').filter_map(change).collect();
                rest = after;
                each(lines)?;
            }
            Err(Failure::Unreachable("the agent has ended the watch".into()))
        })
    }

    fn on_runtime<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|why| Failure::Refused(format!("cannot start: {why}")))?.block_on(work)
    }

    async fn request(&self, method: Method, path: &str) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| self.unreachable(&why))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| self.unreachable(&why))?;
        // Ends with the connection; its error comes out of the request or the body too.
        tokio::spawn(async move {
            let _told_elsewhere = connection.await;
        });
        let request = Request::builder().method(method).uri(path).header("host", "daemonlet");
        let request = request.body(Empty::<Bytes>::new()).map_err(|why| Failure::Refused(why.to_string()))?;
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, sender.send_request(request)).await;
        let late = |_| Failure::Unreachable(format!("the agent on {} does not answer", self.socket.display()));
        answer.map_err(late)?.map_err(|why| self.unreachable(&why))
    }

    fn unreachable(&self, why: &(dyn std::error::Error + 'static)) -> Failure {
        let socket = self.socket.display();
        let io = why.downcast_ref::<io::Error>().map(io::Error::kind);
        Failure::Unreachable(match io {
            Some(io::ErrorKind::PermissionDenied) => {
                format!("may not connect to {socket}: only root may ask the agent")
            }
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                let run_dir = self.socket.parent().unwrap_or(Path::new("/"));
                format!("no agent answers on {socket} ({why}); {}", doctor::how_to_start(run_dir))
            }
            _ => format!("cannot reach the agent on {socket}: {why}"),
        })
    }
}

fn change(line: &[u8]) -> Option<Change> {
    let mut line: Value = serde_json::from_slice(line).ok()?;
    let deleted = line["type"] == "DELETED";
    Some(Change { deleted, object: line["object"].take() })
}

async fn whole(response: Response<Incoming>) -> Result<Value, Failure> {
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|why| Failure::Unreachable(format!("the agent's answer broke off: {why}")))?.to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let why = value["error"].as_str().map_or_else(|| format!("the agent answered {status}"), str::to_owned);
    match status.as_u16() {
        404 => Err(Failure::NotFound(why)),
        504 => Err(Failure::Unreachable(why)),
        _ => Err(Failure::Refused(why)),
    }
}
