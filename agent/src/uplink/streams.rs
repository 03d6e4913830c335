//! Streams within a session: each with its own credit, so that a slow reader of one holds up no other and nothing else of the session.
//!
//! Driven by the session. So far a stream carries a log up; one that carries bytes both ways has the same messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::{self, Up, open, up};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::logs::{self, NoLog, Reading, Wanted};
use crate::board::Board;

/// Streams of one session at a time: people who look at logs of one node.
const STREAMS_MAX: usize = 32;
/// Credit of one stream: whoever grants more gets no more than this at once.
const CREDIT_MAX: usize = 1 << 20;
/// A message that the connection does not take for so long: the session is over anyway.
const STUCK_MAX: Duration = Duration::from_secs(60);

/// The streams of one session; all end with it.
#[derive(Debug, Default)]
pub struct Streams {
    open: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    /// Bytes that may be sent.
    credit: Arc<Semaphore>,
    task: AbortHandle,
}

impl Streams {
    /// Begins a stream. One that cannot begin ends at once, with the reason.
    pub fn open(&mut self, asked: v1::Open, board: &Board, ups: &mpsc::Sender<Up>) {
        let v1::Open { stream, credit, what } = asked;
        self.open.retain(|_, it| !it.task.is_finished());
        let refusal = match &what {
            None => Some((501, "this version of the agent does not offer it")),
            Some(_) if self.open.contains_key(&stream) => Some((400, "the stream is open already")),
            Some(_) if self.open.len() >= STREAMS_MAX => Some((429, "the node serves too many streams at present")),
            Some(open::What::Logs(_)) => None,
        };
        let ups = ups.clone();
        if let Some((code, error)) = refusal {
            let end = v1::End { stream, error: error.to_owned(), code };
            tokio::spawn(put(ups, up::What::End(end)));
            return;
        }
        let Some(open::What::Logs(asked)) = what else { return };
        let credits = Arc::new(Semaphore::new(bounded(credit)));
        let reading = logs::read(board, wanted(asked));
        let task = tokio::spawn(pump(stream, reading, credits.clone(), ups)).abort_handle();
        self.open.insert(stream, Stream { credit: credits, task });
    }

    /// More may be sent of it.
    pub fn credit(&mut self, stream: u64, bytes: u64) {
        if let Some(Stream { credit, .. }) = self.open.get(&stream) {
            let room = CREDIT_MAX.saturating_sub(credit.available_permits());
            credit.add_permits(bounded(bytes).min(room));
        }
    }

    /// Nobody wants more of it.
    pub fn cancel(&mut self, stream: u64) {
        if let Some(Stream { task, .. }) = self.open.remove(&stream) {
            task.abort();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.open.values().for_each(|stream| stream.task.abort());
    }
}

fn bounded(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(CREDIT_MAX)
}

/// Sends what is read, as far as there is credit, and then how it ended.
async fn pump(stream: u64, reading: Reading, credit: Arc<Semaphore>, ups: mpsc::Sender<Up>) {
    let Reading { mut bytes, ended } = reading;
    while let Some(mut piece) = bytes.recv().await {
        if piece.is_empty() && !put(ups.clone(), up::What::Data(v1::Data { stream, bytes: piece.clone() })).await {
            return;
        }
        while !piece.is_empty() {
            let Ok(one) = credit.acquire().await else { return };
            one.forget();
            // As much as there is credit for, one byte of which is ours already.
            let more = credit.available_permits().min(piece.len() - 1);
            let taken = credit.forget_permits(more);
            let part = piece.split_to(taken + 1);
            if !put(ups.clone(), up::What::Data(v1::Data { stream, bytes: part })).await {
                return;
            }
        }
    }
    let ended = ended.await.unwrap_or_else(|_| Err(NoLog { code: 500, why: "the log cannot be read".into() }));
    let (code, error) = ended.map_or_else(|NoLog { code, why }| (code, why), |()| (0, String::new()));
    put(ups, up::What::End(v1::End { stream, error, code })).await;
}

/// False: the session is over.
async fn put(ups: mpsc::Sender<Up>, what: up::What) -> bool {
    timeout(STUCK_MAX, ups.send(Up { what: Some(what) })).await.is_ok_and(|sent| sent.is_ok())
}

fn wanted(asked: v1::Logs) -> Wanted {
    let v1::Logs { pod, container, follow, previous, timestamps, tail, since, limit } = asked;
    let uid = pod.map(|pod| pod.uid).unwrap_or_default();
    let since = since.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    Wanted { uid, container, follow, previous, timestamps, tail, since, limit }
}
