//! The collector of images: looks at containerd's disk now and then, and when images came or found no room, and removes what
//! nothing needs, at the kubelet's thresholds.
//!
//! Driven by the composition root; `images prune` asks it too, so that one at a time removes. Reading order: this, [`decide`],
//! [`needs`]. When an image was last used is kept with the image itself, so that a restarted agent knows it. Meets images only
//! through [`ImageShelf`], and removes nothing before every source of manifests has been heard from.

pub mod decide;
pub mod needs;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pod::desired::DesiredSet;
use tokio::sync::watch;

use crate::board::Board;
use crate::config::ImageGc;
use crate::events::{About, Event, Severity};
use crate::image_pull::bytes;
use crate::seams::{Clock, DiskUse, ImageShelf, Moved, Removed, ShelfError, ShelvedImage};

/// The kubelet's pace.
const EVERY: Duration = Duration::from_secs(300);
/// The first look waits until the node's pods have had theirs.
const FIRST: Duration = Duration::from_secs(60);
/// Images come in flocks: the look after one waits for the others.
const AFTER_ARRIVAL: Duration = Duration::from_secs(10);

/// See the top of the file.
pub struct Collector<S> {
    shelf: S,
    settings: ImageGc,
    board: Board,
    desired: watch::Receiver<DesiredSet>,
    /// Digests of the images that were in use at the last look.
    used: Mutex<BTreeSet<String>>,
    /// One removes at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Why images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Space,
    Age,
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// With the bytes that each freed; of one that would be removed, the bytes of its blobs.
    pub images: Vec<(ShelvedImage, u64)>,
    /// What is kept and why, in words.
    pub kept: String,
    /// Why it ended before all that may go was removed.
    pub ended: Option<CollectError>,
}

/// Why nothing is removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    #[error("no image is removed while a source of manifests has not been heard from: {why}")]
    Unheard { why: String },
    #[error("{0}")]
    Shelf(#[from] ShelfError),
}

impl<S: ImageShelf> Collector<S> {
    pub fn new(shelf: S, settings: ImageGc, board: Board, desired: watch::Receiver<DesiredSet>) -> Collector<S> {
        Collector { shelf, settings, board, desired, used: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Collects for ever.
    pub async fn follow(&self, clock: &impl Clock) {
        let mut next = clock.now().boot.after(FIRST);
        loop {
            // Both only wait; a move that was told stays told.
            tokio::select! {
                () = clock.sleep_until(next) => {}
                moved = self.shelf.disk_moved() => if moved == Moved::Arrived {
                    next = next.min(clock.now().boot.after(AFTER_ARRIVAL));
                    continue;
                },
            }
            self.look(clock.now().wall).await;
            next = clock.now().boot.after(EVERY);
        }
    }

    /// One look, and what follows from it.
    pub async fn look(&self, now: jiff::Timestamp) {
        let _turn = self.turn.lock().await;
        match self.collect(now).await {
            Ok(()) => {}
            Err(CollectError::Shelf(ShelfError { unavailable: true, message })) => {
                tracing::debug!(message, "images are not looked at while containerd is away");
            }
            Err(error) => {
                tracing::warn!(%error, "images were not collected");
                self.tell("ImageGCFailed", format!("{error}"), now);
            }
        }
    }

    /// Removes every image that may go, whatever the disk and its age, or says which it would be.
    pub async fn prune(&self, dry_run: bool) -> Result<Pruned, CollectError> {
        self.prune_while(dry_run, || true).await
    }

    /// As [`Collector::prune`], for as long as it is asked for: looked at before each removal. Err: nothing was removed.
    pub async fn prune_while(&self, dry_run: bool, asked: impl Fn() -> bool) -> Result<Pruned, CollectError> {
        let _turn = self.turn.lock().await;
        self.board.settled().await;
        self.heard()?;
        if !dry_run {
            self.shelf.drop_abandoned(&|| self.wanted()).await?;
        }
        let shelf = self.shelf.shelf(&self.wanted()).await?;
        let mut pruned = Pruned { images: Vec::new(), kept: decide::kept_words(&shelf), ended: None };
        for image in decide::may_go(&shelf) {
            if !asked() {
                break;
            }
            if dry_run {
                let stored =
                    self.board.images().iter().find(|row| row.digest == image.digest).map_or(0, |row| row.size);
                pruned.images.push((image.clone(), stored));
                continue;
            }
            match self.shelf.remove(image, &|| self.wanted()).await {
                Ok(Removed::Gone { freed }) => {
                    tracing::info!(image = image.names.join(","), freed, "image pruned");
                    pruned.images.push((image.clone(), freed));
                }
                Ok(Removed::Kept) => {}
                Err(error) if pruned.images.is_empty() => return Err(error.into()),
                Err(error) => {
                    pruned.ended = Some(error.into());
                    break;
                }
            }
        }
        if !dry_run && !pruned.images.is_empty() {
            self.make_use_of_room();
        }
        Ok(pruned)
    }

    async fn collect(&self, now: jiff::Timestamp) -> Result<(), CollectError> {
        self.board.settled().await;
        let mut shelf = self.shelf.shelf(&self.wanted()).await?;
        self.note(&shelf, now).await;
        let heard = self.heard();
        let old: Vec<ShelvedImage> = decide::for_age(&shelf, &self.settings, now).into_iter().cloned().collect();
        if !old.is_empty() && heard.is_ok() {
            for image in &old {
                self.remove(image, Reason::Age).await?;
            }
            shelf = self.shelf.shelf(&self.wanted()).await?;
        }
        let mut disks = self.shelf.disks().await?;
        if !decide::is_short(&disks, &self.settings) {
            self.board.set_node_disk(None);
            return Ok(());
        }
        if let Err(error) = heard {
            self.board.set_node_disk(Some(format!("{}; {error}", self.fullness(&disks))));
            return Err(error);
        }
        if self.shelf.drop_abandoned(&|| self.wanted()).await? > 0 {
            disks = self.shelf.disks().await?;
        }
        let (mut removed, mut freed) = (0_u32, 0_u64);
        for image in decide::for_room(&shelf, &self.settings, now) {
            if decide::is_enough(&disks, &self.settings) {
                break;
            }
            if let Some(bytes) = self.remove(image, Reason::Space).await? {
                removed += 1;
                freed = freed.saturating_add(bytes);
                disks = self.shelf.disks().await?;
            }
        }
        if removed > 0 {
            self.make_use_of_room();
        }
        if decide::is_enough(&disks, &self.settings) {
            self.board.set_node_disk(None);
            return Ok(());
        }
        let message = format!(
            "{}: images removed: {removed} ({}), no other may go (kept: {}); make room there, or stop or unpin what is not \
             needed",
            self.fullness(&disks),
            bytes(freed),
            decide::kept_words(&shelf)
        );
        tracing::warn!(message, "images do not free enough of the disk");
        // Its numbers move at every look: said once, and again when something was done about it.
        if removed > 0 || self.board.node().disk_pressure.is_none() {
            self.tell("FreeDiskSpaceFailed", message.clone(), now);
        }
        self.board.set_node_disk(decide::is_short(&disks, &self.settings).then_some(message));
        Ok(())
    }

    async fn remove(&self, image: &ShelvedImage, reason: Reason) -> Result<Option<u64>, CollectError> {
        let Removed::Gone { freed } = self.shelf.remove(image, &|| self.wanted()).await? else { return Ok(None) };
        let word = match reason {
            Reason::Space => "space",
            Reason::Age => "age",
        };
        tracing::info!(image = image.names.join(","), reason = word, freed, last_used = %image.last_used, "image collected");
        self.board.metrics().image_collected(word);
        Ok(Some(freed))
    }

    /// Has the ends of uses written down. What cannot be written down now is as it was written last.
    async fn note(&self, shelf: &[ShelvedImage], now: jiff::Timestamp) {
        let before = self.used.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let to_note = decide::to_note(shelf, &before, now);
        if !to_note.is_empty()
            && let Err(error) = self.shelf.mark_used(&to_note, now).await
        {
            tracing::debug!(%error, "the last use of images is not written down");
            return;
        }
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = decide::in_use(shelf);
    }

    fn make_use_of_room(&self) {
        self.shelf.room_made();
        self.board.retry();
    }

    fn wanted(&self) -> BTreeSet<String> {
        needs::wanted_images(&self.desired.borrow(), &self.board)
    }

    fn heard(&self) -> Result<(), CollectError> {
        if self.desired.borrow().complete {
            return Ok(());
        }
        let checks = self.board.checks();
        let sources = [crate::board::Check::SourceStatic, crate::board::Check::SourceControl];
        let unheard = sources.iter().find_map(|source| checks.get(source)?.as_ref().err());
        let why = unheard.map_or_else(|| "the manifest directory is being read".to_owned(), String::clone);
        Err(CollectError::Unheard { why })
    }

    fn fullness(&self, disks: &[DiskUse]) -> String {
        let ImageGc { high_threshold, low_threshold, .. } = self.settings;
        match decide::fullest(disks) {
            Some(disk) => format!(
                "containerd's disk at {} is {}% full (images are removed from {high_threshold}% on until {low_threshold}% \
                 is reached, {} to go)",
                disk.path.display(),
                disk.percent(),
                bytes(disk.beyond(low_threshold))
            ),
            None => "containerd's disk cannot be found".to_owned(),
        }
    }

    fn tell(&self, reason: &str, message: String, at: jiff::Timestamp) {
        let name = self.board.node().name;
        let about = About { kind: "Node".into(), uid: name.clone(), name, ..About::default() };
        self.board.record(Event { severity: Severity::Warning, reason: reason.into(), about, message, at });
    }
}

#[cfg(test)]
mod tests;
