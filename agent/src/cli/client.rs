//! The client's end of the socket: one request a connection, on a runtime of this thread alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Failure;
use crate::board::ImageWord;
use crate::doctor;
use crate::http::exec;
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

/// A piece of an answer to a word about images.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Line(Value),
    Bytes(Bytes),
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
            let mut answer = whole(self.request(Method::GET, &path, Bytes::new()).await?).await?;
            match answer["items"].take() {
                Value::Array(items) => Ok(items),
                _ => Err(Failure::Refused(format!("the agent's answer to {path} is no list; is it another version?"))),
            }
        })
    }

    /// Ends a pod. What of it does not hold; empty when all does.
    pub fn delete_pod(&self, uid: &str) -> Result<String, Failure> {
        self.on_runtime(async {
            let response = self.request(Method::POST, &format!("/v1/pods/{uid}/delete"), Bytes::new()).await?;
            let answer = whole(response).await?;
            Ok(answer["note"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// What the agent says to a word that needs no more words.
    pub fn post(&self, path: &str) -> Result<String, Failure> {
        self.on_runtime(async {
            let answer = whole(self.request(Method::POST, path, Bytes::new()).await?).await?;
            Ok(answer["note"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Joins the control endpoint anew. What the agent says to that.
    pub fn rejoin(&self, token: &str) -> Result<String, Failure> {
        self.on_runtime(async {
            let response = self.request(Method::POST, "/v1/control/join", Bytes::from(token.to_owned())).await?;
            let answer = whole(response).await?;
            Ok(answer["note"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// All that there is, then each change, until `each` has had enough (false) or the agent ends.
    pub fn watch(&self, kind: Kind, mut each: impl FnMut(Vec<Change>) -> Result<(), Failure>) -> Result<(), Failure> {
        self.on_runtime(self.changes(kind, |changes| each(changes).map(|()| true)))
    }

    /// The only thing of a kind as it is now and whenever it has changed, until `each` has had enough (false) or that moment has
    /// come.
    pub fn follow(
        &self,
        kind: Kind,
        until: Option<std::time::Instant>,
        mut each: impl FnMut(Value) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let changes = self.changes(kind, |changes| {
            for change in changes {
                if !each(change.object)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        self.on_runtime(async {
            match until {
                Some(until) => tokio::time::timeout_at(until.into(), changes).await.unwrap_or(Ok(())),
                None => changes.await,
            }
        })
    }

    async fn changes(
        &self,
        kind: Kind,
        mut each: impl FnMut(Vec<Change>) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let response = self.request(Method::GET, &format!("/v1/{}?watch=1", kind.name()), Bytes::new()).await?;
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
            if !each(lines)? {
                return Ok(());
            }
        }
        Err(Failure::Unreachable("the agent has ended the watch".into()))
    }

    /// Has the agent carry out a word about images; `each` gets the frames as they come. What it says at the end.
    pub fn image_word(
        &self,
        word: &ImageWord,
        mut each: impl FnMut(Frame) -> Result<(), Failure>,
    ) -> Result<Value, Failure> {
        self.on_runtime(async {
            let body = serde_json::to_vec(word).map_err(|why| Failure::Usage(why.to_string()))?;
            let response = self.request(Method::POST, "/v1/images/words", body.into()).await?;
            if !response.status().is_success() {
                return whole(response).await;
            }
            let (mut body, mut frames) = (response.into_body(), Frames::default());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|why| self.unreachable(&why))?;
                let Ok(bytes) = frame.into_data() else { continue };
                frames.take(&bytes);
                while let Some(frame) = frames.next()? {
                    match frame {
                        Frame::Line(mut line) if line.get("done").is_some() => return Ok(line["done"].take()),
                        Frame::Line(line) if line.get("error").is_some() => {
                            let said = |key: &str| line["error"][key].as_str().unwrap_or_default().to_owned();
                            return Err(match said("reason").as_str() {
                                "not found" => Failure::NotFound(said("message")),
                                "usage" => Failure::Usage(said("message")),
                                _ => Failure::Refused(said("message")),
                            });
                        }
                        other => each(other)?,
                    }
                }
            }
            Err(Failure::Unreachable("the agent's answer broke off; it may have been stopped".into()))
        })
    }

    /// A stream of frames about one command in a container.
    pub(super) async fn exec_stream(&self) -> Result<TokioIo<Upgraded>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| self.unreachable(&why))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| self.unreachable(&why))?;
        // As in `request`.
        tokio::spawn(async move {
            let _told_elsewhere = connection.with_upgrades().await;
        });
        let request = Request::post("/v1/exec").header("host", "daemonlet").header(CONNECTION, "upgrade");
        let request = request.header(UPGRADE, exec::PROTOCOL).body(Full::new(Bytes::new()));
        let request = request.map_err(|why| Failure::Refused(why.to_string()))?;
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, sender.send_request(request)).await;
        let late = |_| Failure::Unreachable(format!("the agent on {} does not answer", self.socket.display()));
        let response = answer.map_err(late)?.map_err(|why| self.unreachable(&why))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            whole(response).await?;
            return Err(Failure::Refused("the agent answers otherwise; is it another version?".into()));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(|why| self.unreachable(&why))
    }

    pub(super) fn on_runtime<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|why| Failure::Refused(format!("cannot start: {why}")))?.block_on(work)
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| self.unreachable(&why))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| self.unreachable(&why))?;
        // Ends with the connection; its error comes out of the request or the body too.
        tokio::spawn(async move {
            let _told_elsewhere = connection.await;
        });
        let request = Request::builder().method(method).uri(path).header("host", "daemonlet");
        let request = request.body(Full::new(body)).map_err(|why| Failure::Refused(why.to_string()))?;
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

/// Bytes of an answer on their way to being frames.
#[derive(Debug, Default)]
struct Frames {
    held: Vec<u8>,
    /// Bytes of an archive that are still to come.
    raw: usize,
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Result<Option<Frame>, Failure> {
        loop {
            if self.raw > 0 {
                let now = self.raw.min(self.held.len());
                if now == 0 {
                    return Ok(None);
                }
                let rest = self.held.split_off(now);
                self.raw -= now;
                return Ok(Some(Frame::Bytes(std::mem::replace(&mut self.held, rest).into())));
            }
            let Some(end) = self.held.iter().position(|b| *b == b'\n') else {
                return match self.held.len() > LINE_BYTES_MAX {
                    true => Err(Failure::Refused("the agent sent an endless line".into())),
                    false => Ok(None),
                };
            };
            let rest = self.held.split_off(end + 1);
            let line = std::mem::replace(&mut self.held, rest);
            let line: Value = serde_json::from_slice(&line).map_err(|why| {
                Failure::Refused(format!("the agent's answer is not understood: {why}; is it another version?"))
            })?;
            match line["bytes"].as_u64() {
                Some(bytes) => self.raw = usize::try_from(bytes).unwrap_or(usize::MAX),
                None => return Ok(Some(Frame::Line(line))),
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_however_the_bytes_are_cut() {
        let answer = b"{\"progress\":\"a\"}\n{\"bytes\":5}\n{\"b}\n{\"done\":1}\n";
        for cut in 1..answer.len() {
            let mut frames = Frames::default();
            let (mut lines, mut raw) = (Vec::new(), Vec::new());
            for piece in answer.chunks(cut) {
                frames.take(piece);
                while let Some(frame) = frames.next().unwrap() {
                    match frame {
                        Frame::Line(line) => lines.push(line.to_string()),
                        Frame::Bytes(bytes) => raw.extend_from_slice(&bytes),
                    }
                }
            }
            assert_eq!(lines, ["{\"progress\":\"a\"}", "{\"done\":1}"], "{cut}");
            assert_eq!(raw, b"{\"b}\n", "{cut}");
        }
    }
}
