//! A blob on its way into containerd's content store: an ingest, named after its digest, that outlives this process and is
//! continued where it ended.
//!
//! Driven by pulls. containerd computes the digest and compares digest and size when it commits. One piece at a time is on
//! its way and each is answered, so that a full disk shows at once and a blob of any size costs one piece of memory.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use containerd_client::services::v1::{
    AbortRequest, StatusRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use containerd_client::tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use containerd_client::tonic::{Code, Status, Streaming};
use tokio::sync::mpsc;

use super::digest::Digest;
use super::store::{COMMIT, Lease, STALLED, to_i64};
use crate::runtime::containerd::client::{Client, QUICK, bounded, found};

/// containerd frees a name a moment after the stream of its last writer (a killed agent's) has ended.
const LOCKED_MAX: Duration = Duration::from_secs(10);
const LOCKED_PAUSE: Duration = Duration::from_millis(100);

/// See the top of the file.
pub struct Ingest {
    client: Client,
    name: String,
    digest: Digest,
    size: u64,
    offset: u64,
    pieces: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

/// What opening found.
pub enum Opened {
    Open(Box<Ingest>),
    /// The blob is in the store.
    Present,
}

/// Why a blob was not committed.
#[derive(Debug)]
pub enum CommitError {
    /// Its bytes have another digest or size.
    Mismatch(String),
    Containerd(Status),
}

impl Ingest {
    /// Opens the ingest of this blob under the lease: a new one, or the one that an earlier try has left, whose bytes
    /// containerd then reads once to hash them.
    pub async fn open(client: &Client, lease: &Lease, digest: &Digest, size: u64) -> Result<Opened, Status> {
        let begun = tokio::time::Instant::now();
        loop {
            match Ingest::open_once(client, lease, digest, size).await {
                Err(status) if is_locked(&status) && begun.elapsed() < LOCKED_MAX => {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                // Locked is no sign that containerd is away, which its code says.
                Err(status) if is_locked(&status) => return Err(Status::aborted(status.message())),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(Opened::Present),
                other => return other.map(|ingest| Opened::Open(Box::new(ingest))),
            }
        }
    }

    /// Bytes that an earlier try has left of this blob.
    pub async fn arrived(client: &Client, digest: &Digest) -> Result<u64, Status> {
        let request = client.request(StatusRequest { r#ref: Ingest::name_of(digest) });
        let status = found(bounded(QUICK, client.content().status(request)).await)?.and_then(|answer| answer.status);
        Ok(status.and_then(|status| u64::try_from(status.offset).ok()).unwrap_or(0))
    }

    /// The ingest's name in containerd.
    fn name_of(digest: &Digest) -> String {
        format!("daemonlet-pull-{digest}")
    }

    async fn open_once(client: &Client, lease: &Lease, digest: &Digest, size: u64) -> Result<Ingest, Status> {
        let (pieces, receiver) = mpsc::channel::<WriteContentRequest>(1);
        let name = Ingest::name_of(digest);
        let first = WriteContentRequest {
            action: WriteAction::Stat as i32,
            r#ref: name.clone(),
            total: to_i64(size),
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        let queued = pieces.try_send(first);
        queued.expect("the channel is new and has room for one");
        let request = lease.request(client, ReceiverStream::new(receiver));
        let mut content = client.content();
        let opened = async {
            let mut answers = content.write(request).await?.into_inner();
            let first = answers.message().await?;
            let first = first.ok_or_else(|| Status::internal("containerd ended the write at its beginning"))?;
            let offset = u64::try_from(first.offset).unwrap_or(0);
            let (client, digest) = (client.clone(), digest.clone());
            Ok(Ingest { client, name, digest, size, offset, pieces, answers })
        };
        // Hashing what is there may take as long as a commit.
        let opened = tokio::time::timeout(COMMIT, opened).await;
        opened.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {} s", COMMIT.as_secs()))))
    }

    /// Bytes that containerd has.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends; returns when containerd has them.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<(), Status> {
        let length = data.len() as u64;
        let message = self.message(WriteAction::Write, data);
        self.call(message, STALLED).await?;
        self.offset = self.offset.saturating_add(length);
        Ok(())
    }

    /// Verifies and makes it content. The ingest is gone afterwards where its bytes were wrong.
    pub async fn commit(mut self, labels: &BTreeMap<String, String>) -> Result<(), CommitError> {
        let mut message = self.message(WriteAction::Commit, Vec::new());
        message.labels = labels.clone().into_iter().collect();
        match self.call(message, COMMIT).await {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => {
                self.abort().await;
                Err(CommitError::Mismatch(status.message().to_owned()))
            }
            Err(status) => Err(CommitError::Containerd(status)),
        }
    }

    /// Drops its bytes. What cannot be dropped now goes with the lease.
    pub async fn abort(self) {
        let Ingest { client, name, pieces, answers, .. } = self;
        // The writer lets go first.
        drop((pieces, answers));
        let abort = client.request(AbortRequest { r#ref: name });
        if let Err(status) = bounded(QUICK, client.content().abort(abort)).await {
            tracing::debug!(reason = status.message(), "an ingest stays until its lease ends");
        }
    }

    fn message(&self, action: WriteAction, data: Vec<u8>) -> WriteContentRequest {
        WriteContentRequest {
            action: action as i32,
            r#ref: self.name.clone(),
            total: to_i64(self.size),
            expected: self.digest.to_string(),
            offset: to_i64(self.offset),
            data,
            labels: HashMap::new(),
        }
    }

    async fn call(&mut self, message: WriteContentRequest, patience: Duration) -> Result<(), Status> {
        let answered = async {
            // The receiver goes when the call has ended early; why is in its answer.
            let _ended = self.pieces.send(message).await;
            match self.answers.message().await? {
                Some(_) => Ok(()),
                None => Err(Status::aborted("containerd ended the write")),
            }
        };
        let answered = tokio::time::timeout(patience, answered).await;
        answered
            .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {} s", patience.as_secs()))))
    }
}

/// containerd's word for a name that another writer has: Unavailable, as if it were away itself.
fn is_locked(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("locked")
}
