//! Changes as they happen: one JSON document after the other, until the watch's time is over or its client goes.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::Stream;
use super::render::Render;
use super::reply::{self, JSON, Reply};
use crate::api::objects::{EventKind, Watching};
use crate::clock::Clock;

/// Events that wait for a slow client; the store holds the rest.
const QUEUE_MAX: usize = 4;
/// A client that has read nothing for so long is cut off.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(120);

/// A watch about to begin.
pub struct Watch {
    pub watching: Watching,
    pub render: Render,
    pub clock: Clock,
    pub lasts: Duration,
    /// Held until it ends.
    pub stream: Stream,
}

impl Watch {
    pub fn answer(self) -> Reply {
        let (pieces, answer) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(self.run(pieces));
        reply::pieces(JSON, answer)
    }

    async fn run(self, pieces: mpsc::Sender<Bytes>) {
        let Watch { mut watching, render, clock, lasts, stream } = self;
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
                sent = timeout(UNREAD_TIME_MAX, pieces.send(document)) => sent,
                () = sleep_until(end) => break,
            };
            if sent.is_err() {
                // What waits for it would stay in memory as long as the connection.
                stream.peer.cut();
            }
            let sent = sent.is_ok_and(|sent| sent.is_ok());
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
