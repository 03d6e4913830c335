//! Following what connects pods: the directories of configurations and of plugins.
//!
//! Spawned by the composition root. inotify on the directories, or on what is above one that is not there yet; a slow look
//! as the safety net. It only says that something changed: what is so is read by whoever is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

/// The safety net where inotify is not heard from.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A package is unpacked in several steps; one look after them is enough.
const SETTLE: Duration = Duration::from_millis(100);

/// Calls `changed` now and whenever something in a directory may have changed, for ever.
pub async fn follow(directories: Vec<PathBuf>, mut changed: impl FnMut()) {
    let (hints, mut hint) = watch::channel(());
    let told = move |event: notify::Result<notify::Event>| {
        // Reading a file is an event of its own, which must not wake us again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            hints.send_replace(());
        }
    };
    let mut watcher: Option<RecommendedWatcher> = notify::recommended_watcher(told).ok();
    loop {
        if let Some(watcher) = &mut watcher {
            for directory in &directories {
                // Again and again: one may have appeared. Adding a known watch is cheap.
                let _renewed = watcher.watch(existing(directory), RecursiveMode::NonRecursive);
            }
        }
        changed();
        tokio::select! {
            // Both arms only wait: nothing is lost when the other one wins.
            heard = hint.changed() => match heard {
                Ok(()) => tokio::time::sleep(SETTLE).await,
                // inotify is not to be had (no instances left): the slow look alone.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        hint.mark_unchanged();
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(directory: &Path) -> &Path {
    directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_appears_and_a_file_in_it_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("cni/net.d");
        let (looks, mut looked) = tokio::sync::mpsc::unbounded_channel();
        let target = conf.join("10.conflist");
        let file = target.clone();
        let following = tokio::spawn(follow(vec![conf.clone()], move || {
            let _ = looks.send(file.exists());
        }));
        assert_eq!(looked.recv().await, Some(false));
        std::fs::create_dir_all(&conf).unwrap();
        let seen = async {
            assert_eq!(looked.recv().await, Some(false));
            std::fs::write(&target, "{}").unwrap();
            while looked.recv().await != Some(true) {}
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("inotify tells it");
        following.abort();
    }
}
