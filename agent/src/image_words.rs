//! The words about images (`daemonlet images …`) carried out in the agent: one task a word, a few at a time.
//!
//! Driven by the socket's door through the board; spawned by the composition root. An answer is frames, as they come: lines of
//! JSON, `{"bytes": n}` followed by n bytes of an archive, and at the end `{"done": …}` or `{"error": {"reason", "message"}}`;
//! an answer without an end was cut off.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::board::{ImageRequest, ImageWord};
use crate::collect::{CollectError, Collector};
use crate::runtime::containerd::images::Images;
use crate::runtime::containerd::images::export::ExportError;
use crate::runtime::containerd::images::reference::Reference;

/// Words carried out at a time; people type them. Each export costs a piece or two of memory.
const AT_ONCE_MAX: usize = 4;
/// Pieces of an archive between containerd and the door; containerd sends at most 1 MiB a piece.
const PIECES_MAX: usize = 1;
/// A reader who takes nothing for so long is gone.
const READER_TIME_MAX: Duration = Duration::from_secs(600);

/// How a word ended when not well.
struct Failure {
    reason: Reason,
    message: String,
}

enum Reason {
    Refused,
    NotFound,
    Usage,
}

/// Carries out words until the agent ends.
pub async fn serve(mut words: mpsc::Receiver<ImageRequest>, images: Images, collector: Arc<Collector<Images>>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while let Some(ImageRequest { word, said }) = words.recv().await {
        let (images, collector, permits) = (images.clone(), Arc::clone(&collector), Arc::clone(&permits));
        tokio::spawn(async move {
            let _permit = permits.acquire().await.expect("the semaphore is never closed");
            let out = Said(said);
            // Whoever asked may go: then a pull or an import is not wanted any more, and what it brought has no name.
            tokio::select! {
                ended = speak(&images, &collector, word, &out) => out.end(ended).await,
                () = out.0.closed() => {}
            }
        });
    }
}

async fn speak(images: &Images, collector: &Collector<Images>, word: ImageWord, out: &Said) -> Result<Value, Failure> {
    match word {
        ImageWord::Pull { image } => pull(images, &image, out).await,
        ImageWord::Import { file } => import(images, &file).await,
        ImageWord::Export { images: names } => export(images, &names, out).await,
        ImageWord::Prune { dry_run } => prune(collector, dry_run).await,
        ImageWord::Pin { image, pinned } => pin(images, &image, pinned).await,
    }
}

async fn pull(images: &Images, written: &str, out: &Said) -> Result<Value, Failure> {
    let reference = parse(written)?;
    let name = reference.record_name();
    let mut shown = images.pulls();
    let pulled = images.pull_by_hand(written, &reference);
    tokio::pin!(pulled);
    let pulled = loop {
        // The pull goes on when a line was sent; what is shown is read anew each time.
        tokio::select! {
            pulled = &mut pulled => break pulled,
            changed = shown.changed() => {
                let row = shown.borrow_and_update().iter().find(|row| row.name == name).cloned();
                if let (Some(row), Ok(())) = (row, changed) {
                    out.line(&json!({"progress": row.sentence(), "pull": row})).await;
                }
            }
        }
    };
    let pulled = pulled.map_err(refused)?;
    Ok(match pulled.brought {
        None => json!({"name": pulled.name, "digest": pulled.digest}),
        Some((size, took)) => {
            json!({"name": pulled.name, "digest": pulled.digest, "size": size, "seconds": took.as_secs_f64()})
        }
    })
}

async fn import(images: &Images, file: &Path) -> Result<Value, Failure> {
    let imported = images.import_by_hand(file).await.map_err(|error| refused(error.sentence()))?;
    let named: Vec<Value> =
        imported.images.iter().map(|(name, digest)| json!({"name": name, "digest": digest})).collect();
    Ok(json!({"images": named, "skipped": imported.skipped}))
}

async fn export(images: &Images, names: &[String], out: &Said) -> Result<Value, Failure> {
    let references = names.iter().map(|name| parse(name)).collect::<Result<Vec<_>, _>>()?;
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let forward = async {
        while let Some(piece) = pieces.recv().await {
            out.piece(piece).await;
        }
    };
    let exporting = async {
        let exported = images.export(&references, &sender).await;
        drop(sender);
        exported
    };
    let (exported, ()) = tokio::join!(exporting, forward);
    let exported = exported.map_err(|error| match error {
        ExportError::NotFound { .. } => Failure { reason: Reason::NotFound, message: error.to_string() },
        ExportError::Image(error) => refused(error.sentence()),
        ExportError::Unread => refused(error.to_string()),
    })?;
    let named: Vec<Value> =
        exported.images.iter().map(|(name, digest)| json!({"name": name, "digest": digest})).collect();
    Ok(json!({"images": named, "size": exported.size}))
}

async fn prune(collector: &Collector<Images>, dry_run: bool) -> Result<Value, Failure> {
    let pruned = collector.prune(dry_run).await.map_err(|error| match error {
        CollectError::Unheard { .. } | CollectError::Shelf(_) => refused(error.to_string()),
    })?;
    let freed = pruned.images.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    let removed: Vec<Value> = pruned
        .images
        .iter()
        .map(|(image, bytes)| json!({"names": image.names, "digest": image.digest, "bytes": bytes}))
        .collect();
    Ok(json!({"dryRun": dry_run, "images": removed, "bytes": freed, "kept": pruned.kept}))
}

async fn pin(images: &Images, written: &str, pinned: bool) -> Result<Value, Failure> {
    let reference = parse(written)?;
    match images.pin(&reference, pinned).await {
        Ok(true) => Ok(json!({"name": reference.record_name(), "pinned": pinned})),
        Ok(false) => {
            let message = format!("there is no image {reference} on this node; pull or import it first");
            Err(Failure { reason: Reason::NotFound, message })
        }
        Err(error) => Err(refused(error.sentence())),
    }
}

fn parse(written: &str) -> Result<Reference, Failure> {
    let usage = |error: crate::runtime::containerd::images::reference::InvalidReference| error.to_string();
    written.parse().map_err(|error| Failure { reason: Reason::Usage, message: usage(error) })
}

fn refused(message: String) -> Failure {
    Failure { reason: Reason::Refused, message }
}

/// Where frames go. Whether somebody reads them shows at the channel's end, which [`serve`] waits for.
struct Said(mpsc::Sender<Bytes>);

impl Said {
    async fn line(&self, line: &Value) {
        self.send(Bytes::from(format!("{line}\n"))).await;
    }

    async fn piece(&self, piece: Bytes) {
        self.line(&json!({"bytes": piece.len()})).await;
        self.send(piece).await;
    }

    async fn end(&self, ended: Result<Value, Failure>) {
        let line = match ended {
            Ok(done) => json!({"done": done}),
            Err(Failure { reason, message }) => {
                let reason = match reason {
                    Reason::Refused => "refused",
                    Reason::NotFound => "not found",
                    Reason::Usage => "usage",
                };
                json!({"error": {"reason": reason, "message": message}})
            }
        };
        self.line(&line).await;
    }

    async fn send(&self, bytes: Bytes) {
        if self.0.send_timeout(bytes, READER_TIME_MAX).await.is_err() {
            // Waits for its own end: a reader who is gone ends the word.
            tracing::debug!("nobody reads the answer to a word about images");
            self.0.closed().await;
        }
    }
}
