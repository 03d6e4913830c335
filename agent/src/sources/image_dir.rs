//! The image directory: archives put there become images, without a registry.
//!
//! Driven by the composition root, which spawns [`follow`] and shows what it publishes. Meets images only through
//! [`ImageStore`]. What was imported is remembered with the images themselves (a stamp of the file's inode, size and time), so
//! a start with everything in place is one directory listing and one call. Among archives that bring the same name the
//! one written last wins. An archive that goes away takes nothing with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use crate::board::{ImageOutcome, ImageState};
use crate::seams::{ImageStore, Import, ImportFailure, Look, PresentImage, Reading};

/// Archives in the directory: more than any node has images.
const MAX_FILES: usize = 1024;
/// The safety net under inotify.
const SLOW_SCAN: Duration = Duration::from_secs(60);
/// While the directory is missing there is nothing to watch.
const MISSING_SCAN: Duration = Duration::from_secs(5);
/// While the store is away.
const UNAVAILABLE_SCAN: Duration = Duration::from_secs(1);
/// A file that nobody was seen to close counts as written when it has been still for so long.
const STILL: Duration = Duration::from_secs(2);
/// After a start, the closer look waits until the pods have had theirs.
const CLOSE_LOOK_AFTER: Duration = Duration::from_secs(3);
const ENDINGS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"];

/// Watches `dir` until dropped. The receiver always has the latest outcome of every archive, and every other image.
pub fn follow<S: ImageStore>(
    dir: PathBuf,
    store: S,
) -> (watch::Receiver<Vec<ImageOutcome>>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = watch::channel(Vec::new());
    let heard = Arc::new(Heard::default());
    store.first_reading(Reading::Begins);
    let source = ImageDir {
        dir,
        store,
        published: sender,
        heard,
        watched: None,
        failed: BTreeMap::new(),
        skipped: BTreeMap::new(),
        scans: 0,
        read: false,
    };
    (receiver, source.run())
}

/// What inotify said since the last scan.
#[derive(Default)]
struct Heard {
    wake: Notify,
    /// Files that were closed after writing or moved in: whole, however young.
    whole: Mutex<BTreeSet<OsString>>,
}

struct ImageDir<S> {
    dir: PathBuf,
    store: S,
    published: watch::Sender<Vec<ImageOutcome>>,
    heard: Arc<Heard>,
    /// The watcher with the directory's inode: a replaced directory is watched anew.
    watched: Option<(u64, RecommendedWatcher)>,
    /// Why the archive with this stamp is not imported, and whether to try again.
    failed: BTreeMap<String, ImportFailure>,
    /// Images of an archive that were left out, by stamp.
    skipped: BTreeMap<String, Vec<String>>,
    scans: u64,
    /// Every archive has had its turn once.
    read: bool,
}

/// An archive in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    path: PathBuf,
    stamp: String,
    modified: SystemTime,
    whole: bool,
}

impl<S: ImageStore> ImageDir<S> {
    async fn run(mut self) {
        loop {
            let next = self.scan().await;
            tokio::select! {
                // All only say "look again"; nothing is lost when the other wins.
                () = self.heard.wake.notified() => {}
                () = self.store.changed() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// One look at the directory, importing what is new; how long to wait at most before the next.
    async fn scan(&mut self) -> Duration {
        self.scans = self.scans.saturating_add(1);
        let look = if self.scans == 1 { Look::Quick } else { Look::Close };
        let listed = self.arm().and_then(|()| self.list());
        let mut next = if self.scans == 1 { CLOSE_LOOK_AFTER } else { SLOW_SCAN };
        let files = match listed {
            Ok(files) => {
                self.store.lying(files.iter().map(|file| file.stamp.clone()).collect());
                files
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(dir = %self.dir.display(), %error, "image directory cannot be read");
                }
                self.watched = None;
                next = next.min(MISSING_SCAN);
                Vec::new()
            }
        };
        let known = match self.store.images(look).await {
            Ok(images) => images,
            Err(error) => {
                self.unavailable(&files, &error);
                return UNAVAILABLE_SCAN;
            }
        };
        self.failed.retain(|stamp, failure| {
            matches!(failure, ImportFailure::Refused(_)) && files.iter().any(|f| f.stamp == *stamp)
        });
        self.skipped.retain(|stamp, _| files.iter().any(|f| f.stamp == *stamp));
        let imported = sound_stamps(&known);
        let mut changed = false;
        for file in &files {
            if imported.contains(file.stamp.as_str()) || self.failed.contains_key(&file.stamp) {
                continue;
            }
            if !file.whole {
                next = next.min(STILL);
                continue;
            }
            self.publish(&files, &known, Some(&file.stamp));
            changed |= self.import(file).await;
            if let Some(ImportFailure::Unavailable(_)) = self.failed.get(&file.stamp) {
                next = UNAVAILABLE_SCAN;
                break;
            }
        }
        let known = match (changed, self.store.images(if changed { Look::Close } else { look })) {
            (false, _) => known,
            (true, images) => images.await.unwrap_or(known),
        };
        self.publish(&files, &known, None);
        if !self.read && next != UNAVAILABLE_SCAN {
            self.read = true;
            self.store.first_reading(Reading::IsOver);
        }
        next
    }

    /// Whether it brought something.
    async fn import(&mut self, file: &File) -> bool {
        let started = std::time::Instant::now();
        match self.store.import(&file.path, &file.stamp).await {
            Ok(Import { images, skipped }) => {
                let names: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
                let took_ms = started.elapsed().as_millis();
                tracing::info!(file = %file.path.display(), images = names.join(","), took_ms, "archive imported");
                self.skipped.insert(file.stamp.clone(), skipped);
                true
            }
            Err(failure) => {
                tracing::warn!(file = %file.path.display(), reason = %failure, "archive not imported");
                self.failed.insert(file.stamp.clone(), failure);
                false
            }
        }
    }

    fn publish(&self, files: &[File], known: &[PresentImage], importing: Option<&str>) {
        let rows = rows(files, known, &self.failed, &self.skipped, importing);
        self.published.send_if_modified(|before| {
            let differs = *before != rows;
            *before = rows;
            differs
        });
    }

    /// Keeps what is shown and says of each archive that waits what it waits for.
    fn unavailable(&mut self, files: &[File], error: &ImportFailure) {
        self.published.send_if_modified(|rows| {
            let shown: BTreeSet<String> = rows.iter().map(|r| r.file.clone()).collect();
            let waiting = files.iter().filter(|f| !shown.contains(&f.path.display().to_string()));
            let before = rows.len();
            rows.extend(waiting.map(|f| row(f, ImageState::Importing, format!("waits: {error}"))));
            rows.len() != before
        });
    }

    /// Watches the directory that is there now.
    fn arm(&mut self) -> io::Result<()> {
        let inode = std::fs::metadata(&self.dir)?.ino();
        if self.watched.as_ref().is_some_and(|(watched, _)| *watched == inode) {
            return Ok(());
        }
        let heard = Arc::clone(&self.heard);
        let armed = notify::recommended_watcher(move |event| hear(&heard, event)).and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match armed {
            Ok(watcher) => self.watched = Some((inode, watcher)),
            // The slow scan still finds everything (no inotify watches left on this machine).
            Err(error) => tracing::warn!(dir = %self.dir.display(), %error, "image directory cannot be watched"),
        }
        Ok(())
    }

    /// The archives, the one written last at the end.
    fn list(&self) -> io::Result<Vec<File>> {
        let heard_whole = std::mem::take(&mut *self.heard.whole.lock().unwrap_or_else(PoisonError::into_inner));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !is_archive_name(&entry.file_name()) {
                continue;
            }
            // Links are followed: an archive may lie elsewhere. What cannot be looked at is not there.
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            if !meta.is_file() {
                continue;
            }
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let age = SystemTime::now().duration_since(modified);
            let whole = self.scans == 1
                || heard_whole.contains(&entry.file_name())
                // A time in the future tells nothing.
                || age.map_or(true, |age| age >= STILL);
            let stamp = format!("{}-{}-{}.{:09}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
            files.push(File { path: entry.path(), stamp, modified, whole });
            if files.len() >= MAX_FILES {
                tracing::warn!(dir = %self.dir.display(), limit = MAX_FILES, "image directory has too many archives");
                break;
            }
        }
        files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
        Ok(files)
    }
}

/// Stamps of archives all of whose images are well: a damaged image asks for its archive again.
fn sound_stamps(known: &[PresentImage]) -> BTreeSet<&str> {
    let stamps = |damaged: bool| {
        known.iter().filter(move |i| i.problem.is_some() == damaged).flat_map(|i| i.stamps.iter().map(String::as_str))
    };
    // Only the newest archive of a damaged image can mend it.
    let newest = known.iter().filter(|i| i.problem.is_some()).filter_map(|i| i.stamps.last());
    let broken: BTreeSet<&str> = newest.map(String::as_str).collect();
    stamps(false).chain(stamps(true)).filter(|s| !broken.contains(s)).collect()
}

/// A row for each archive and digest that it brought, and for each image that no archive here brought.
fn rows(
    files: &[File],
    known: &[PresentImage],
    failed: &BTreeMap<String, ImportFailure>,
    skipped: &BTreeMap<String, Vec<String>>,
    importing: Option<&str>,
) -> Vec<ImageOutcome> {
    let mut rows = Vec::new();
    // The archive that an image has its present digest from is the newest of its stamps.
    let of_file = |file: &File| known.iter().filter(|i| i.stamps.last() == Some(&file.stamp)).collect::<Vec<_>>();
    for file in files {
        let images = of_file(file);
        if importing == Some(file.stamp.as_str()) {
            rows.push(row(file, ImageState::Importing, String::new()));
        } else if let Some(failure) = failed.get(&file.stamp) {
            let state = match failure {
                ImportFailure::Refused(_) | ImportFailure::Failed(_) => ImageState::Refused,
                ImportFailure::Unavailable(_) => ImageState::Importing,
            };
            rows.push(row(file, state, failure.to_string()));
        } else if images.is_empty() {
            let replaced = known.iter().find(|i| i.stamps.contains(&file.stamp));
            rows.push(match replaced {
                Some(image) => {
                    let message = format!("a newer archive brought {}", image.name);
                    row(file, ImageState::Imported, message)
                }
                None => row(file, ImageState::Importing, "still being written".into()),
            });
        } else {
            let message = skipped.get(&file.stamp).map(|s| s.join("; ")).unwrap_or_default();
            rows.extend(by_digest(&images).into_iter().map(|image| ImageOutcome {
                file: file.path.display().to_string(),
                message: if image.message.is_empty() { message.clone() } else { image.message.clone() },
                ..image
            }));
        }
    }
    let here = |i: &&PresentImage| !i.stamps.last().is_some_and(|s| files.iter().any(|f| f.stamp == *s));
    rows.extend(by_digest(&known.iter().filter(here).collect::<Vec<_>>()));
    rows
}

/// One row for all names of a digest.
fn by_digest(images: &[&PresentImage]) -> Vec<ImageOutcome> {
    let mut rows: BTreeMap<&str, ImageOutcome> = BTreeMap::new();
    for image in images {
        let row = rows.entry(&image.digest).or_insert_with(|| ImageOutcome {
            pinned: false,
            file: String::new(),
            names: Vec::new(),
            digest: image.digest.clone(),
            size: image.size.unwrap_or(0),
            state: if image.problem.is_some() { ImageState::Refused } else { ImageState::Imported },
            message: image.problem.clone().unwrap_or_default(),
        });
        row.names.push(image.name.clone());
        row.pinned |= image.pinned;
    }
    rows.into_values().collect()
}

fn row(file: &File, state: ImageState, message: String) -> ImageOutcome {
    ImageOutcome {
        pinned: false,
        file: file.path.display().to_string(),
        names: Vec::new(),
        digest: String::new(),
        size: 0,
        state,
        message,
    }
}

/// The names that count: archives' endings, neither hidden nor on their way.
fn is_archive_name(name: &std::ffi::OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    !name.starts_with(['.', '#', '~'])
        && !name.chars().any(char::is_control)
        && ENDINGS.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// Runs on the watcher's thread: notes which files are whole, and wakes.
fn hear(heard: &Heard, event: notify::Result<notify::Event>) {
    let Ok(event) = event else {
        heard.wake.notify_one();
        return;
    };
    let whole = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) => true,
        EventKind::Create(_) | EventKind::Remove(_) => false,
        // Also written to: its close will follow.
        _ => return,
    };
    let names = event.paths.iter().filter_map(|p: &PathBuf| Path::file_name(p)).filter(|n| is_archive_name(n));
    let mut any = matches!(event.kind, EventKind::Remove(_));
    let mut noted = heard.whole.lock().unwrap_or_else(PoisonError::into_inner);
    for name in names {
        any = true;
        if whole && noted.len() < MAX_FILES {
            noted.insert(name.to_owned());
        }
    }
    drop(noted);
    if any {
        heard.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
