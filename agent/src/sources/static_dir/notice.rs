//! What inotify says, put together until somebody looks: which names changed, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Names that are kept apart; with more, everything is looked at.
const MAX_NAMES: usize = 4096;

/// What happened to a name last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// Complete as it is: closed by its writer, renamed to or away, removed.
    Settled,
    /// New; its writer may still have it open.
    Created,
    /// Being written in place.
    Writing,
    /// Its mode or owner changed.
    Attributes,
}

/// All that was said since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    pub names: BTreeMap<PathBuf, Touch>,
    /// Events were lost.
    pub all: bool,
}

/// What is worth a look. Directories on the way are watched for the one name in them that leads on, and their other names may
/// be as busy as they like (a log file in /srv/app must not wake the reader of /srv/app/manifests at every line).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Interest {
    /// Every name in these counts.
    pub dirs: BTreeSet<PathBuf>,
    /// These count, wherever they are.
    pub names: BTreeSet<PathBuf>,
}

impl Interest {
    fn covers(&self, path: &Path) -> bool {
        self.names.contains(path) || path.parent().is_some_and(|dir| self.dirs.contains(dir))
    }
}

#[derive(Debug, Default)]
struct State {
    noticed: Noticed,
    interest: Interest,
}

#[derive(Debug, Default, Clone)]
pub struct Notices {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Notices {
    pub fn new() -> Notices {
        Notices::default()
    }

    /// Waits for something to be noticed, at most this long.
    pub fn wait(&self, at_most: Duration) -> Noticed {
        let end = Instant::now() + at_most;
        let mut state = self.lock();
        while state.noticed == Noticed::default() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.1.wait_timeout(state, left).map_or_else(|e| e.into_inner().0, |(guard, _)| guard);
        }
        std::mem::take(&mut state.noticed)
    }

    /// A watcher that reports here; without inotify there is the slow scan alone.
    pub fn watcher(&self) -> Watcher {
        let notices = self.clone();
        let inotify = notify::recommended_watcher(move |event: notify::Result<Event>| notices.note(event));
        let inotify = match inotify {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                tracing::warn!(%error, "no inotify: the manifest directory is only scanned from time to time");
                None
            }
        };
        Watcher { inotify, watched: BTreeMap::new(), notices: self.clone() }
    }

    fn note(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "inotify failed");
                return self.note_all();
            }
        };
        if event.need_rescan() {
            return self.note_all();
        }
        let touch = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Touch::Settled,
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Touch::Settled,
            EventKind::Create(_) => Touch::Created,
            EventKind::Modify(ModifyKind::Data(_)) => Touch::Writing,
            EventKind::Modify(ModifyKind::Metadata(_)) => Touch::Attributes,
            // Opening is what we do ourselves.
            _ => return,
        };
        let mut state = self.lock();
        let State { noticed, interest } = &mut *state;
        for path in event.paths.into_iter().filter(|path| interest.covers(path)) {
            let known = noticed.names.get(&path);
            if touch != Touch::Attributes || known.is_none() {
                noticed.names.insert(path, touch);
            }
        }
        if noticed.names.len() > MAX_NAMES {
            *noticed = Noticed { names: BTreeMap::new(), all: true };
        }
        let anything = *noticed != Noticed::default();
        drop(state);
        if anything {
            self.shared.1.notify_one();
        }
    }

    fn note_all(&self) {
        self.lock().noticed.all = true;
        self.shared.1.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is inside stays whole at every moment, so a panic elsewhere does not spoil it.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watches that are set, each on one directory (not on what is below it).
pub struct Watcher {
    inotify: Option<RecommendedWatcher>,
    /// The device and inode that each path had when it was watched.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    notices: Notices,
}

impl Watcher {
    /// Watches exactly these directories, for what is of interest in them. One that is another directory by now is watched
    /// anew.
    pub fn set(&mut self, wanted: &BTreeMap<PathBuf, (u64, u64)>, interest: Interest) {
        self.notices.lock().interest = interest;
        let Some(inotify) = &mut self.inotify else { return };
        let stale: Vec<PathBuf> =
            self.watched.iter().filter(|(path, id)| wanted.get(*path) != Some(*id)).map(|(p, _)| p.clone()).collect();
        for path in stale {
            // Fails where the kernel has dropped it already, with the directory.
            let _ = inotify.unwatch(&path);
            self.watched.remove(&path);
        }
        for (path, id) in wanted {
            if !self.watched.contains_key(path) {
                match inotify.watch(path, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        self.watched.insert(path.clone(), *id);
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "cannot watch; it is scanned from time to time");
                    }
                }
            }
        }
    }

    /// Forgets a directory whose watch the kernel has dropped, so that [`Watcher::set`] sets it anew.
    pub fn lost(&mut self, path: &Path) {
        if self.watched.remove(path).is_some()
            && let Some(inotify) = &mut self.inotify
        {
            let _ = inotify.unwatch(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_busy_neighbour_on_the_way_is_not_noticed() {
        const BOUND: Duration = Duration::from_secs(20);
        let place = tempfile::tempdir().unwrap();
        let (above, manifests) = (place.path().to_owned(), place.path().join("manifests"));
        std::fs::create_dir(&manifests).unwrap();
        let id = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).unwrap();
        let notices = Notices::new();
        let mut watcher = notices.watcher();
        let wanted = BTreeMap::from([(above.clone(), id(&above)), (manifests.clone(), id(&manifests))]);
        let interest = Interest { dirs: [manifests.clone()].into(), names: [manifests.clone()].into() };
        watcher.set(&wanted, interest);

        std::fs::write(above.join("busy.log"), "line").unwrap();
        std::fs::write(manifests.join("a.yaml"), "").unwrap();
        // Events come in their order: the log's were there before.
        let noticed = notices.wait(BOUND);
        assert_eq!(noticed.names.keys().collect::<Vec<_>>(), [&manifests.join("a.yaml")]);
        std::fs::rename(&manifests, above.join("elsewhere")).unwrap();
        let mut noticed = notices.wait(BOUND);
        while !noticed.names.contains_key(&manifests) {
            assert!(noticed.names.keys().all(|path| path.starts_with(&manifests)), "{noticed:?}");
            noticed = notices.wait(BOUND);
            assert_ne!(noticed, Noticed::default(), "the directory that went away was not noticed");
        }
    }
}
