//! Changes as they happen: one JSON document after the other, until the watch's time is over or its client goes.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::limits::Place;
use super::render::Render;
use super::reply::{self, JSON, Reply};
use crate::api::objects::{EventKind, Watching};
use crate::clock::Clock;

/// Events that wait for a slow client; the store holds the rest.
const QUEUE_MAX: usize = 16;

/// A watch about to begin.
pub struct Watch {
    pub watching: Watching,
    pub render: Render,
    pub clock: Clock,
    pub lasts: Duration,
    /// Held until it ends.
    pub place: Place,
}

impl Watch {
    pub fn answer(self) -> Reply {
        let (pieces, answer) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(self.run(pieces));
        reply::pieces(JSON, answer)
    }

    async fn run(mut self, pieces: mpsc::Sender<Bytes>) {
        let end = Instant::now() + self.lasts;
        let mut first = true;
        loop {
            let event = tokio::select! {
                event = self.watching.next() => event,
                () = sleep_until(end) => break,
                () = pieces.closed() => break,
            };
            let (document, last) = match event {
                Ok(event) => {
                    let now = self.clock.now();
                    let document = self.render.event(event.kind, event.object, now, first);
                    first &= event.kind == EventKind::Bookmark;
                    (line(word(event.kind), &document), false)
                }
                Err(error) => (line("ERROR", &error.to_status()), true),
            };
            let sent = tokio::select! {
                sent = pieces.send(document) => sent.is_ok(),
                () = sleep_until(end) => false,
            };
            if last || !sent {
                break;
            }
        }
    }
}

fn word(of: EventKind) -> &'static str {
    match of {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
        EventKind::Bookmark => "BOOKMARK",
    }
}

fn line(of: &str, object: &Value) -> Bytes {
    let mut line = json!({ "type": of, "object": object }).to_string();
    line.push('\n');
    line.into()
}
