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
    /// Nobody takes the answer any more, so nobody is told.
    Unread,
}

/// Whoever asked has taken nothing for [`READER_TIME_MAX`].
struct Unread;

impl From<Unread> for Failure {
    fn from(_: Unread) -> Failure {
        Failure { reason: Reason::Unread, message: "nobody reads the answer".into() }
    }
}

/// Carries out words until the agent ends.
pub async fn serve(mut words: mpsc::Receiver<ImageRequest>, images: Images, collector: Arc<Collector<Images>>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while let Some(ImageRequest { word, said }) = words.recv().await {
        let (images, collector, permits) = (images.clone(), Arc::clone(&collector), Arc::clone(&permits));
        tokio::spawn(async move {
            let out = Said(said);
            let answer = async {
                // Held until the answer's end was taken: who reads nothing is given up, who waits in a queue would not see why.
                let permit = permits.try_acquire();
                let ended = match &permit {
                    Ok(_) => speak(&images, &collector, word, &out).await,
                    Err(_) => Err(refused(format!(
                        "too many words are under way: {AT_ONCE_MAX} about images at a time; try again when one has ended"
                    ))),
                };
                out.end(ended).await;
            };
            // Whoever asked may go: then a pull or an import is not wanted any more, and what it brought has no name.
            tokio::select! {
                () = answer => {}
                () = out.0.closed() => {}
            }
        });
    }
}

async fn speak(
    images: &Images,
    collector: &Arc<Collector<Images>>,
    word: ImageWord,
    out: &Said,
) -> Result<Value, Failure> {
    match word {
        ImageWord::Pull { image, namespace, secrets } => pull(images, &image, (&namespace, &secrets), out).await,
        ImageWord::Import { file } => import(images, &file).await,
        ImageWord::Export { images: names } => export(images, &names, out).await,
        ImageWord::Prune { dry_run } => prune(collector, dry_run, out).await,
        ImageWord::Pin { image, pinned } => pin(images, &image, pinned).await,
    }
}

async fn pull(images: &Images, written: &str, secrets: (&str, &[String]), out: &Said) -> Result<Value, Failure> {
    let reference = parse(written)?;
    let name = reference.record_name();
    let mut shown = images.pulls();
    let pulled = images.pull_by_hand(written, &reference, secrets);
    tokio::pin!(pulled);
    let pulled = loop {
        // The pull goes on when a line was sent; what is shown is read anew each time.
        tokio::select! {
            pulled = &mut pulled => break pulled,
            changed = shown.changed() => {
                let row = shown.borrow_and_update().iter().find(|row| row.name == name).cloned();
                if let (Some(row), Ok(())) = (row, changed) {
                    out.line(&json!({"progress": row.sentence(), "pull": row})).await?;
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
    // Ended, it drops its end of the channel, and with that the export ends and gives back what it holds.
    let forward = async move {
        while let Some(piece) = pieces.recv().await {
            out.piece(piece).await?;
        }
        Ok::<(), Unread>(())
    };
    let exporting = async {
        let exported = images.export(&references, &sender).await;
        drop(sender);
        exported
    };
    let (exported, forwarded) = tokio::join!(exporting, forward);
    forwarded?;
    let exported = exported.map_err(|error| match error {
        ExportError::NotFound { .. } => Failure { reason: Reason::NotFound, message: error.to_string() },
        ExportError::Image(error) => refused(error.sentence()),
        ExportError::Unread => refused(error.to_string()),
    })?;
    let named: Vec<Value> =
        exported.images.iter().map(|(name, digest)| json!({"name": name, "digest": digest})).collect();
    Ok(json!({"images": named, "size": exported.size}))
}

async fn prune(collector: &Arc<Collector<Images>>, dry_run: bool, out: &Said) -> Result<Value, Failure> {
    // In a task of its own: a removal that has begun is carried to its end, although nobody waits for it any more.
    let (collector, asker) = (Arc::clone(collector), out.0.clone());
    let pruning = tokio::spawn(async move { collector.prune_while(dry_run, || !asker.is_closed()).await });
    let pruned = pruning.await.map_err(|_| refused("the removal of images ended early".into()))?;
    let pruned = pruned.map_err(|error| match error {
        CollectError::Unheard { .. } | CollectError::Shelf(_) => refused(error.to_string()),
    })?;
    let freed = pruned.images.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    let removed: Vec<Value> = pruned
        .images
        .iter()
        .map(|(image, bytes)| json!({"names": image.names, "digest": image.digest, "bytes": bytes}))
        .collect();
    let mut done = json!({"dryRun": dry_run, "images": removed, "bytes": freed, "kept": pruned.kept});
    if let Some(error) = pruned.ended {
        done["endedEarly"] = error.to_string().into();
    }
    Ok(done)
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
    async fn line(&self, line: &Value) -> Result<(), Unread> {
        self.send(Bytes::from(format!("{line}\n"))).await
    }

    async fn piece(&self, piece: Bytes) -> Result<(), Unread> {
        self.line(&json!({"bytes": piece.len()})).await?;
        self.send(piece).await
    }

    async fn end(&self, ended: Result<Value, Failure>) {
        let line = match ended {
            Ok(done) => json!({"done": done}),
            Err(Failure { reason, message }) => {
                let reason = match reason {
                    Reason::Refused => "refused",
                    Reason::NotFound => "not found",
                    Reason::Usage => "usage",
                    Reason::Unread => return,
                };
                json!({"error": {"reason": reason, "message": message}})
            }
        };
        // Not taken, the answer is cut off: a connection may stay open for ever, the word does not.
        let _unread = self.line(&line).await;
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Unread> {
        self.0.send_timeout(bytes, READER_TIME_MAX).await.map_err(|_| {
            tracing::debug!("nobody reads the answer to a word about images");
            Unread
        })
    }
}

#[cfg(test)]
mod tests {
    use pod::desired::DesiredSet;
    use tokio::sync::watch;

    use super::*;
    use crate::board::Board;
    use crate::config::ImageGc;
    use crate::runtime::containerd::client::Client;
    use crate::runtime::containerd::images::pull::Settings;

    /// No image is named so: refused without a look at containerd.
    fn word() -> ImageWord {
        ImageWord::Pin { image: "NO:IMAGE:".into(), pinned: true }
    }

    #[tokio::test(start_paused = true)]
    async fn readers_who_stop_reading_keep_nobody_from_a_word_for_ever() {
        let client = Client::new(Path::new("/nowhere/containerd.sock"), "test").unwrap();
        let images = Images::new(client, "overlayfs", Settings::default());
        let (_desired, set) = watch::channel(DesiredSet::default());
        let collector = Arc::new(Collector::new(images.clone(), ImageGc::default(), Board::new().0, set));
        let (ask, words) = mpsc::channel(1);
        let serving = tokio::spawn(serve(words, images, collector));

        // Connected, but they take nothing: there is no room for their answers.
        let mut stopped = Vec::new();
        for _ in 0..AT_ONCE_MAX {
            let (said, hears) = mpsc::channel(1);
            said.try_send(Bytes::from_static(b"unread")).unwrap();
            ask.send(ImageRequest { word: word(), said }).await.unwrap();
            stopped.push(hears);
        }
        let next = async || {
            let (said, mut hears) = mpsc::channel(1);
            ask.send(ImageRequest { word: word(), said }).await.unwrap();
            let heard = tokio::time::timeout(Duration::from_secs(1), hears.recv()).await;
            String::from_utf8(heard.expect("an answer at once").unwrap().to_vec()).unwrap()
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        let said = next().await;
        assert!(said.contains("refused") && said.contains("too many words"), "{said}");
        tokio::time::sleep(READER_TIME_MAX).await;
        let said = next().await;
        assert!(said.contains("usage"), "it is carried out: {said}");
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_export_that_nobody_takes_ends() {
        let (said, _hears) = mpsc::channel(1);
        let out = Said(said);
        assert!(out.piece(Bytes::from_static(b"a")).await.is_err(), "its length was taken, its bytes were not");
    }
}
