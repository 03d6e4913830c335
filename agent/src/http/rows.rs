//! What can be listed and watched over the socket: each thing as JSON under a key that stays while it lives. Each is made into
//! text before the next one is looked at, because as a tree it takes ten times the memory.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::board::{Board, ImageOutcome, ImageState};
use crate::events::{PULL_PROGRESS, Seen};
use crate::image_pull::{ImagePull, Stage};
use crate::status;
use crate::status::node::Machine;

/// The lists of the internal interface, by their names in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Files,
    Images,
    Events,
    Node,
    Why,
    /// One row: whether all daemons are ready.
    Ready,
}

impl Kind {
    pub fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "pods" => Kind::Pods,
            "files" => Kind::Files,
            "images" => Kind::Images,
            "events" => Kind::Events,
            "node" => Kind::Node,
            "why" => Kind::Why,
            "ready" => Kind::Ready,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Pods => "pods",
            Kind::Files => "files",
            Kind::Images => "images",
            Kind::Events => "events",
            Kind::Node => "node",
            Kind::Why => "why",
            Kind::Ready => "ready",
        }
    }
}

/// All things of a kind, as JSON, in the order in which they are shown.
pub fn rows(board: &Board, machine: &Machine, kind: Kind) -> Vec<(String, String)> {
    let text = |(key, item): (String, Value)| (key, item.to_string());
    match kind {
        Kind::Pods => {
            let pods = status::pods(board, |pod| pod.to_string());
            pods.into_iter().map(|((_, _, uid), pod)| (uid, pod)).collect()
        }
        Kind::Files => board
            .files()
            .iter()
            .map(|file| {
                (format!("{}\0{}\0{}\0{}\0{}", file.file, file.line, file.kind, file.namespace, file.name), json!(file))
            })
            .map(text)
            .collect(),
        Kind::Images => {
            let present = board.images();
            let present =
                present.iter().map(|image| (format!("{}\0{}", image.file, image.names.join(",")), json!(image)));
            present.chain(board.pulls().iter().enumerate().map(pull)).map(text).collect()
        }
        Kind::Events => board.events().iter().map(event).map(text).collect(),
        Kind::Node => vec![text((String::new(), status::node::node(board, machine)))],
        Kind::Why => status::why::answers(board)
            .into_iter()
            .enumerate()
            .map(|(at, answer)| text((format!("{at:06}"), json!(answer))))
            .collect(),
        Kind::Ready => vec![text((String::new(), json!(status::ready::readiness(board))))],
    }
}

/// A pull as an image that is not there yet, with its numbers beside the words. One image may be pulled with several
/// pods' credentials at a time.
fn pull((at, pull): (usize, &ImagePull)) -> (String, Value) {
    let (state, size) = match &pull.stage {
        Stage::Asking => (ImageState::Pulling, 0),
        Stage::Fetching(progress) => (ImageState::Pulling, progress.total_bytes),
        Stage::Waiting { .. } => (ImageState::BackOff, 0),
    };
    let outcome = ImageOutcome {
        pinned: false,
        file: String::new(),
        names: vec![pull.name.clone()],
        digest: String::new(),
        size,
        state,
        message: pull.sentence(),
    };
    let mut row = json!(outcome);
    row["pull"] = json!(pull);
    (format!("pull\0{at}\0{}", pull.name), row)
}

/// v1 Event.
fn event(seen: &Seen) -> (String, Value) {
    let Seen { severity, reason, about, message, first, last, count } = seen;
    let said = if reason == PULL_PROGRESS { "" } else { message };
    let key = format!("{about:?}\0{reason}\0{said}");
    let hash: String = Sha256::digest(&key).iter().take(8).map(|b| format!("{b:02x}")).collect();
    let mut object = json!({"kind": about.kind, "namespace": about.namespace, "name": about.name, "uid": about.uid});
    if let Some(container) = &about.container {
        object["fieldPath"] = format!("spec.containers{{{container}}}").into();
    }
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{hash}", about.name),
            "namespace": about.namespace,
            "creationTimestamp": status::time(*first),
        },
        "involvedObject": object,
        "type": severity,
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": status::time(*first),
        "lastTimestamp": status::time(*last),
        "source": {"component": "daemonlet"},
        "reportingComponent": "daemonlet",
    });
    (key, event)
}
