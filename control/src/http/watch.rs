//! Changes as they happen: one JSON document after the other, until the watch's time is over or its client goes.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
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

    async fn run(self, pieces: mpsc::Sender<Bytes>) {
        let Watch { mut watching, render, clock, lasts, place: _place } = self;
        let end = Instant::now() + lasts;
        let mut first = true;
        loop {
            let event = tokio::select! {
                event = watching.next() => event,
                () = sleep_until(end) => break,
                () = pieces.closed() => break,
            };
            let (document, last) = match event {
                Ok(event) => {
                    let now = clock.now();
                    let document = render.event(event.kind, event.object, now, first);
                    first &= event.kind == EventKind::Bookmark;
                    (line(event.kind.name(), document), false)
                }
                Err(error) => (line("ERROR", error.to_status()), true),
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

fn line(of: &str, object: Value) -> Bytes {
    let event = Map::from_iter([("type".to_owned(), of.into()), ("object".to_owned(), object)]);
    let mut line = Value::Object(event).to_string();
    line.push('\n');
    line.into()
}
