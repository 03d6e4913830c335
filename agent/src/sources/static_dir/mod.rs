//! The manifest directory: watched through inotify, read as a whole, given on as snapshots.
//!
//! Driven by its own thread, so that a file system that hangs holds up nothing else; the composition root starts it
//! with [`follow`]. It must not know what the manifests ask for, what runs, or which of two claims counts: it delivers
//! the facts, `merge` decides. Reading order: [`directory`] (what there is), [`mod@file`] (one file), [`chain`] (where the
//! directory really lies), [`notice`] (what inotify says).

mod chain;
mod directory;
mod file;
mod mounts;
mod notice;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pod::manifest::{Context, Parsed};
use tokio::sync::watch;

use directory::Directory;
use mounts::Mounts;
use notice::Notices;

/// Everything is read anew this often, whatever inotify says: it loses events when its queue overflows and says
/// nothing of network file systems.
const FULL_SCAN: Duration = Duration::from_secs(300);
/// Whether the directory is still the same one is asked this often: a mount over it makes no event. One stat.
const IDENTITY_CHECK: Duration = Duration::from_secs(10);
/// While the directory cannot be read it is tried this often, because a file system that comes back makes no event.
const NOT_HEARD_RETRY: Duration = Duration::from_secs(2);

/// All that the directory says at one moment. A newer one replaces an unread older one.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Counts the snapshots, from 1; 0 is the one before the directory has been tried.
    pub generation: u64,
    /// Why the directory cannot be read at present: missing, not mounted, unreadable. `files` are then those of the
    /// last time, and a file that is not among them says nothing.
    pub not_heard: Option<String>,
    /// By path as the configuration names the directory. A file that cannot be read (a FIFO, a directory, a loop of
    /// links, too large …) has no documents, and `whole` says why.
    pub files: BTreeMap<String, Arc<Parsed>>,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        let not_heard = Some("the manifest directory has not been read yet".to_owned());
        Snapshot { generation: 0, not_heard, files: BTreeMap::new() }
    }
}

/// Follows a directory until the receiver and all its clones are dropped (noticed at the next event or check).
///
/// A receiver whose sender is gone means that the thread has died: a broken invariant, for the caller to end on.
///
/// `state_dir`: where it is noted what was mounted on the way to the manifests.
pub fn follow(dir: PathBuf, context: Context, state_dir: &Path) -> watch::Receiver<Snapshot> {
    let (sender, receiver) = watch::channel(Snapshot::default());
    let mounts = Mounts::open(state_dir);
    let run = move || run(Directory::new(dir, context, mounts), &sender);
    if let Err(error) = std::thread::Builder::new().name("static-dir".into()).spawn(run) {
        tracing::error!(%error, "no thread for the manifest directory");
    }
    receiver
}

fn run(mut directory: Directory, sender: &watch::Sender<Snapshot>) {
    let notices = Notices::new();
    let mut watcher = notices.watcher();
    directory.reopen(&mut watcher);
    directory.publish(sender);
    loop {
        let wait = if directory.is_heard() { IDENTITY_CHECK } else { NOT_HEARD_RETRY };
        let noticed = notices.wait(wait);
        if sender.is_closed() {
            return;
        }
        directory.take(noticed, &mut watcher);
        directory.publish(sender);
    }
}
