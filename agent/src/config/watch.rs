//! Following the configuration file: labels, taints, log limits and the allow-list apply live, other changes are named.
//!
//! Spawned by the composition root. inotify on the file's directory (an editor replaces the file, a mounted directory
//! swaps a symlink), a slow look as the safety net. A file that cannot be taken changes nothing and is reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::{Config, Live, Settings};

/// The safety net where inotify is not heard from.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Editors write in several steps; one look after them is enough.
const SETTLE: Duration = Duration::from_millis(20);

/// The configuration as the file says at present.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Following {
    pub live: Live,
    /// Keys whose change waits for a restart, in the order of the documentation.
    pub needs_restart: Vec<String>,
    /// Why the file could not be taken: the values above are those of the last good one.
    pub fault: Option<String>,
}

/// Follows `file` for ever; without a file the first value is the last. Must be called within a tokio runtime.
pub fn follow(started: Config, flags: Settings, file: Option<PathBuf>) -> watch::Receiver<Following> {
    let first = Following { live: started.live.clone(), ..Following::default() };
    let (sender, receiver) = watch::channel(first);
    if let Some(file) = file {
        tokio::spawn(run(started, flags, file, sender));
    }
    receiver
}

async fn run(started: Config, flags: Settings, file: PathBuf, sender: watch::Sender<Following>) {
    let (hints, mut hint) = watch::channel(());
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let told = move |event: notify::Result<notify::Event>| {
        // Reading the file is an event of its own, which must not wake us again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            hints.send_replace(());
        }
    };
    let mut watcher: Option<RecommendedWatcher> = notify::recommended_watcher(told).ok();
    loop {
        if let Some(watcher) = &mut watcher {
            // Again and again: the directory itself may have been replaced. Adding a known watch is cheap.
            let _renewed = watcher.watch(&directory, RecursiveMode::NonRecursive);
        }
        look(&started, &flags, &file, &sender);
        tokio::select! {
            // Both arms only wait: nothing is lost when the other one wins.
            changed = hint.changed() => match changed {
                Ok(()) => tokio::time::sleep(SETTLE).await,
                // inotify is not to be had (no instances left): the slow look alone.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = sender.closed() => return,
        }
        hint.mark_unchanged();
    }
}

fn look(started: &Config, flags: &Settings, file: &Path, sender: &watch::Sender<Following>) {
    let next = match Config::load(flags, Some(file)) {
        Ok(new) => Following { needs_restart: started.restart_keys(&new), live: new.live, fault: None },
        Err(why) => Following { fault: Some(why.to_string()), ..sender.borrow().clone() },
    };
    let changed = sender.send_if_modified(|now| {
        let changed = *now != next;
        now.clone_from(&next);
        changed
    });
    if !changed {
        return;
    }
    match &next.fault {
        Some(fault) => tracing::warn!(%fault, "the configuration file is not taken; what was in force stays"),
        None => tracing::info!(needs_restart = ?next.needs_restart, "configuration taken"),
    }
}
