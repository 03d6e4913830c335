//! What can be listed and watched over the socket: each thing as JSON under a key that stays while it lives.

use serde_json::{Value, json};

use crate::board::Board;
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
        }
    }
}

/// All things of a kind, in the order in which they are shown.
pub fn rows(board: &Board, machine: &Machine, kind: Kind) -> Vec<(String, Value)> {
    match kind {
        Kind::Pods => {
            let mut pods = status::pods(board);
            pods.sort_by(|(a, _), (b, _)| a.cmp(b));
            pods.into_iter().map(|((_, _, uid), pod)| (uid, pod)).collect()
        }
        Kind::Files => board
            .files()
            .iter()
            .map(|file| {
                (format!("{}\0{}\0{}\0{}\0{}", file.file, file.line, file.kind, file.namespace, file.name), json!(file))
            })
            .collect(),
        Kind::Images => board
            .images()
            .iter()
            .map(|image| (format!("{}\0{}", image.file, image.names.join(",")), json!(image)))
            .collect(),
        Kind::Events => board
            .events()
            .into_iter()
            .map(|seen| (format!("{:?}\0{}\0{}", seen.about, seen.reason, seen.message), json!(seen)))
            .collect(),
        Kind::Node => vec![(String::new(), status::node::node(board, machine))],
        Kind::Why => status::why::answers(board)
            .into_iter()
            .enumerate()
            .map(|(at, answer)| (format!("{at:06}"), json!(answer)))
            .collect(),
    }
}
