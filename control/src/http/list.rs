//! Lists, written while they are read: a small one as a whole, the rest of a large one in pieces behind its first, so that it is nowhere in memory at
//! once.

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::render::Render;
use super::reply::{self, JSON, PIECE, Part, Reply};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::Listing;

/// Pieces that wait for a slow client.
const QUEUE_MAX: usize = 2;

/// A list's document in the making. Its metadata come last: only then is known whether and where it goes on.
pub struct Writer {
    render: Render,
    now: Timestamp,
    pretty: bool,
    out: Vec<u8>,
    items: usize,
}

impl Writer {
    pub fn new(render: Render, kind: &Kind, now: Timestamp, pretty: bool) -> Writer {
        let mut writer = Writer { render, now, pretty, out: Vec::new(), items: 0 };
        writer.out.push(b'{');
        for (field, value) in writer.render.head(kind) {
            writer.field(field);
            writer.value(&value, 1);
            writer.out.push(b',');
        }
        writer.field(writer.render.items());
        writer.out.push(b'[');
        writer
    }

    pub fn add(&mut self, object: Value) {
        if self.items > 0 {
            self.out.push(b',');
        }
        self.items += 1;
        let item = self.render.item(object, self.now);
        self.line(2);
        self.value(&item, 2);
    }

    /// `metadata`: of the list.
    pub fn end(mut self, metadata: Map<String, Value>) -> Vec<u8> {
        if self.items > 0 {
            self.line(1);
        }
        self.out.extend_from_slice(b"],");
        self.field("metadata");
        self.value(&metadata.into(), 1);
        self.line(0);
        self.out.extend_from_slice(b"}\n");
        self.out
    }

    fn field(&mut self, name: &str) {
        self.line(1);
        self.out.extend_from_slice(format!("{name:?}:{}", if self.pretty { " " } else { "" }).as_bytes());
    }

    fn line(&mut self, depth: usize) {
        if self.pretty {
            self.out.push(b'\n');
            self.out.extend(std::iter::repeat_n(b' ', depth * 2));
        }
    }

    fn value(&mut self, value: &Value, depth: usize) {
        const WHY: &str = "a JSON value has text keys alone, and a vector takes everything";
        if !self.pretty {
            return serde_json::to_writer(&mut self.out, value).expect(WHY);
        }
        // A line's end in a text is escaped: these are all the document's own.
        let shown = serde_json::to_string_pretty(value).expect(WHY);
        let indented = shown.replace('\n', &format!("\n{}", "  ".repeat(depth)));
        self.out.extend_from_slice(indented.as_bytes());
    }
}

/// Of a list: what it is as of, and where it goes on.
pub fn metadata(revision: u64, (continue_, remaining): (Option<String>, Option<u64>)) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    if let Some(continue_) = continue_ {
        metadata.insert("continue".to_owned(), continue_.into());
    }
    if let Some(remaining) = remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    metadata
}

/// The answer to a list.
pub async fn answer(mut listing: Listing, mut writer: Writer) -> Result<Reply, ApiError> {
    while let Some(object) = listing.next().await? {
        writer.add(object);
        if writer.out.len() >= PIECE {
            let (pieces, answer) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(async move {
                // Whose client goes too slowly, or away, drops the other end of the pieces.
                if let Err(error) = send(listing, writer, pieces).await {
                    tracing::warn!(error = error.message, "a list could not be read to its end");
                }
            });
            return Ok(reply::parts(JSON, answer));
        }
    }
    let metadata = metadata(listing.revision(), listing.end());
    Ok(reply::bytes(StatusCode::OK, JSON, writer.end(metadata)))
}

/// Error: the list cannot be read on. A client that is gone is none.
async fn send(mut listing: Listing, mut writer: Writer, pieces: mpsc::Sender<Part>) -> Result<(), ApiError> {
    loop {
        if writer.out.len() >= PIECE {
            let piece = std::mem::replace(&mut writer.out, Vec::with_capacity(PIECE + PIECE / 4));
            if pieces.send(Part::More(piece.into())).await.is_err() {
                return Ok(());
            }
        }
        let Some(object) = listing.next().await? else { break };
        writer.add(object);
    }
    let metadata = metadata(listing.revision(), listing.end());
    let _ = pieces.send(Part::Last(writer.end(metadata).into())).await;
    Ok(())
}
