//! The socket's interface for client words, version 1. Internal: the same program speaks both ends.
//!
//! `GET /v1/<kind>`: `{"items": […]}`; with ?watch=1 one `{"type": …, "object": …}` a line: all that there is as ADDED,
//! then each change as it comes. `POST /v1/pods/<uid>/delete`. `POST /v1/drain` and `/v1/undrain`. `POST /v1/control/join` with a join token. `POST /v1/images/words` with a word about images is answered
//! with its frames (`image_words`). `POST /v1/exec` is upgraded to a stream (`exec`). Errors are `{"error": "…"}`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use pod::name::{WorkloadKey, WorkloadKind};
use serde_json::json;
use tokio::sync::mpsc;

use super::exec;
use super::reply::{self, Reply};
use super::rows::{Kind, rows};
use crate::board::{Board, ImageRequest, ImageWord};
use crate::status::node::Machine;

/// The largest body: a word about images with some hundred names.
const BODY_BYTES_MAX: u64 = 64 << 10;
/// Until it is here.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);
/// Lines that wait for a slow reader besides what the kernel holds; it then skips to the newest state.
const LINES_MAX: usize = 1;
/// A reader that takes nothing for so long is gone.
const READER_TIME_MAX: Duration = Duration::from_secs(120);
/// Changes come in flocks: a watch looks at most this often.
const WATCH_PAUSE: Duration = Duration::from_millis(20);
/// Until workers have answered a command.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(20);

/// Until the control endpoint has answered, with all that is tried to reach it.
const REJOIN_TIME_MAX: Duration = Duration::from_secs(90);

pub async fn answer(board: Board, machine: Arc<Machine>, request: Request<Incoming>) -> Response<Reply> {
    if request.body().size_hint().upper().is_none_or(|bytes| bytes > BODY_BYTES_MAX) {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "no request here takes a body of that size");
    }
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match path.as_slice() {
        ["v1", "pods", uid, "delete"] => match *request.method() {
            Method::POST => delete(&board, uid).await,
            _ => reply::method_not_allowed("POST"),
        },
        ["v1", word @ ("drain" | "undrain")] => match *request.method() {
            Method::POST => drain(&board, *word == "drain").await,
            _ => reply::method_not_allowed("POST"),
        },
        ["v1", "control", "join"] => match *request.method() {
            Method::POST => rejoin(&board, request).await,
            _ => reply::method_not_allowed("POST"),
        },
        ["v1", "exec"] => match *request.method() {
            Method::POST => exec::open(board, request),
            _ => reply::method_not_allowed("POST"),
        },
        ["v1", "images", "words"] => match *request.method() {
            Method::POST => image_word(&board, request).await,
            _ => reply::method_not_allowed("POST"),
        },
        ["v1", kind] => match Kind::parse(kind) {
            None => error(StatusCode::NOT_FOUND, "no such list"),
            Some(_) if !reply::reads(request.method()) => reply::method_not_allowed("GET, HEAD"),
            Some(kind) => list(board, machine, kind, &request).await,
        },
        _ => error(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn list(board: Board, machine: Arc<Machine>, kind: Kind, request: &Request<Incoming>) -> Response<Reply> {
    match kind {
        // Right after a start: never less than what is known on disk.
        Kind::Pods | Kind::Files | Kind::Why => board.settled().await,
        // That not all has been looked at is what it says.
        Kind::Images | Kind::Events | Kind::Node | Kind::Ready => {}
    }
    if request.method() == Method::GET && request.uri().query() == Some("watch=1") {
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        tokio::spawn(watch(board, machine, kind, sender));
        return reply::lines(receiver);
    }
    let items: Vec<String> = rows(&board, &machine, kind).into_iter().map(|(_, item)| item).collect();
    reply::whole(StatusCode::OK, reply::JSON, format!("{{\"items\":[{}]}}\n", items.join(",")))
}

async fn delete(board: &Board, uid: &str) -> Response<Reply> {
    board.settled().await;
    let found = board.workloads().iter().find_map(|(key, published)| {
        let view = published.pods.iter().find(|view| view.record.uid.0 == uid)?;
        Some((key.clone(), view.record.uid.clone()))
    });
    let Some((workload, uid)) = found else { return error(StatusCode::NOT_FOUND, "no such pod") };
    if workload.kind == WorkloadKind::Control {
        let (WorkloadKey { namespace, name, .. }, url) = (&workload, board.control().map(|it| it.endpoint.clone()));
        let whose = url.unwrap_or_else(|| "a control endpoint".to_owned());
        let why = format!(
            "pod {name} is wanted by {whose}: ended here it would start again. Delete its object: kubectl delete pod -n {namespace} {name}"
        );
        return error(StatusCode::CONFLICT, &why);
    }
    match tokio::time::timeout(COMMAND_TIME_MAX, board.delete_pod(workload, uid)).await {
        Ok(Ok(note)) => reply::json(StatusCode::OK, &json!({"note": note})),
        Ok(Err(why)) => error(StatusCode::CONFLICT, &why),
        Err(_) => {
            error(StatusCode::GATEWAY_TIMEOUT, "the workers have not answered in time; the pod may still be ended")
        }
    }
}

async fn drain(board: &Board, on: bool) -> Response<Reply> {
    match tokio::time::timeout(COMMAND_TIME_MAX, board.drain(on)).await {
        Ok(Ok(note)) => reply::json(StatusCode::OK, &json!({"note": note})),
        Ok(Err(why)) => error(StatusCode::CONFLICT, &why),
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "the workers have not answered in time; ask again"),
    }
}

async fn rejoin(board: &Board, request: Request<Incoming>) -> Response<Reply> {
    let body = tokio::time::timeout(BODY_TIME_MAX, request.into_body().collect()).await;
    let Ok(Ok(body)) = body else { return error(StatusCode::BAD_REQUEST, "the request's body did not arrive") };
    let token = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    match tokio::time::timeout(REJOIN_TIME_MAX, board.rejoin(token)).await {
        Ok(Ok(note)) => reply::json(StatusCode::OK, &json!({"note": note})),
        Ok(Err(why)) => error(StatusCode::CONFLICT, &why),
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "the control endpoint has not answered in time; ask again"),
    }
}

async fn image_word(board: &Board, request: Request<Incoming>) -> Response<Reply> {
    let body = tokio::time::timeout(BODY_TIME_MAX, request.into_body().collect()).await;
    let Ok(Ok(body)) = body else { return error(StatusCode::BAD_REQUEST, "the request's body did not arrive") };
    let word: ImageWord = match serde_json::from_slice(&body.to_bytes()) {
        Ok(word) => word,
        Err(why) => return error(StatusCode::BAD_REQUEST, &format!("this word about images is not known: {why}")),
    };
    let (said, frames) = mpsc::channel(LINES_MAX);
    match board.image_word(ImageRequest { word, said }) {
        Ok(()) => reply::lines(frames),
        Err(why) => error(StatusCode::CONFLICT, &why),
    }
}

async fn watch(board: Board, machine: Arc<Machine>, kind: Kind, lines: mpsc::Sender<Bytes>) {
    let mut version = board.version();
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    loop {
        version.mark_unchanged();
        for line in changes(&mut sent, rows(&board, &machine, kind)) {
            if lines.send_timeout(Bytes::from(format!("{line}\n")), READER_TIME_MAX).await.is_err() {
                return;
            }
        }
        // Both arms only wait.
        tokio::select! {
            () = lines.closed() => return,
            changed = version.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// What differs from what was sent, which is brought up to date.
fn changes(sent: &mut BTreeMap<String, String>, now: Vec<(String, String)>) -> Vec<String> {
    let line = |object: &str, kind: &str| format!(r#"{{"object":{object},"type":"{kind}"}}"#);
    let mut lines = Vec::new();
    let mut gone = std::mem::take(sent);
    for (key, object) in now {
        match gone.remove(&key) {
            None => lines.push(line(&object, "ADDED")),
            Some(before) if before != object => lines.push(line(&object, "MODIFIED")),
            Some(_) => {}
        }
        sent.insert(key, object);
    }
    lines.extend(gone.into_values().map(|object| line(&object, "DELETED")));
    lines
}

pub(super) fn error(status: StatusCode, why: &str) -> Response<Reply> {
    reply::json(status, &json!({"error": why}))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_watch_sends_what_changed_and_nothing_else() {
        let mut sent = BTreeMap::new();
        let row = |key: &str, value: u32| (key.to_owned(), value.to_string());
        assert_eq!(changes(&mut sent, vec![row("a", 1), row("b", 1)]).len(), 2);
        assert_eq!(changes(&mut sent, vec![row("a", 1), row("b", 1)]), Vec::<String>::new());
        let lines = changes(&mut sent, vec![row("a", 2), row("c", 1)]);
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"type": "MODIFIED", "object": 2}));
        let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["MODIFIED", "ADDED", "DELETED"]);
    }
}
