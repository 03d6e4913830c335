//! Whether this node is drained: a record in the state directory that holds over restarts of the agent and ends with the boot.
//!
//! Driven by the words `drain` and `undrain` through the workers, and read once at the start. What a drain does is
//! `pod::turns`' and the plan's; this is only about its being known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pod::turns::seconds;
use serde::{Deserialize, Serialize};

use crate::board::{Board, Check};
use crate::durable;
use crate::seams::Files;
use crate::turns::Turns;

/// The first word of the file.
const FORMAT: &str = "daemonlet-drained-1";
/// A boot id and a time.
const FILE_BYTES_MAX: u64 = 4096;
/// A disk that hangs is not waited for any longer: the drain itself needs none.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// See the top of the file.
#[derive(Debug)]
pub struct Drain {
    path: PathBuf,
    /// Held while it is changed: drains and undrains come one after the other.
    since: tokio::sync::Mutex<Option<Timestamp>>,
}

/// What is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Drained {
    boot_id: String,
    since: Timestamp,
}

impl Drain {
    pub fn new(state_dir: &Path) -> Drain {
        Drain { path: state_dir.join("drained"), since: tokio::sync::Mutex::new(None) }
    }

    /// At the start, before anything is planned. A drain of another boot is over.
    pub async fn load(&self, files: &impl Files, boot_id: &str, turns: &Turns, board: &Board) {
        let mut found = None;
        for (path, _) in durable::generations(&self.path) {
            // Where nothing can be read the daemons run: nobody is to wait for a disk.
            let read = tokio::time::timeout(WRITTEN_WITHIN, files.read(&path, FILE_BYTES_MAX)).await;
            let Ok(Ok(content)) = read else { continue };
            let body = durable::unseal(FORMAT, "drain", &content);
            match body.and_then(|body| serde_json::from_slice::<Drained>(body).map_err(|why| why.to_string())) {
                Ok(drained) => {
                    found = Some(drained);
                    break;
                }
                Err(why) => tracing::warn!(path = %path.display(), why, "what is written of a drain cannot be read"),
            }
        }
        match found {
            Some(Drained { boot_id: of, since }) if of == boot_id => {
                tracing::info!(%since, "the node is drained");
                *self.since.lock().await = Some(since);
                show(Some(since), turns, board);
            }
            Some(_) => {
                tracing::info!("a drain ended with the boot");
                if let Err(why) = durable::remove(files, &self.path).await {
                    tracing::warn!(%why, path = %self.path.display(), "cannot be removed; it counts for nothing");
                }
            }
            None => {}
        }
    }

    /// From now on nothing starts and everything stops. What of it does not hold, in words; empty: all of it does.
    pub async fn begin(
        &self,
        files: &impl Files,
        boot_id: &str,
        now: Timestamp,
        turns: &Turns,
        board: &Board,
    ) -> String {
        let mut known = self.since.lock().await;
        let since = known.unwrap_or(now);
        *known = Some(since);
        show(Some(since), turns, board);
        let drained = Drained { boot_id: boot_id.to_owned(), since };
        let body = serde_json::to_vec(&drained).expect("strings and a time are JSON");
        let write = durable::replace(files, &self.path, durable::seal(FORMAT, &body));
        match written(write).await {
            Ok(()) => String::new(),
            Err(why) => format!(
                "it does not hold over a restart of the agent, because {} cannot be written: {why}",
                self.path.display()
            ),
        }
    }

    /// The daemons may run again.
    pub async fn end(&self, files: &impl Files, turns: &Turns, board: &Board) -> String {
        let mut known = self.since.lock().await;
        *known = None;
        show(None, turns, board);
        match written(durable::remove(files, &self.path)).await {
            Ok(()) => String::new(),
            Err(why) => format!(
                "a restart of the agent before the next boot would drain the node again, because {} cannot be removed: {why}",
                self.path.display()
            ),
        }
    }
}

fn show(since: Option<Timestamp>, turns: &Turns, board: &Board) {
    turns.drain(since);
    match since {
        Some(since) => {
            let why = format!(
                "the node is drained since {}: daemonlet undrain, or a reboot, starts it again",
                seconds(since)
            );
            board.set_check(Check::Drain, Err(why));
        }
        None => board.clear_check(Check::Drain),
    }
}

async fn written(write: impl Future<Output = std::io::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(WRITTEN_WITHIN, write).await {
        Ok(written) => written.map_err(|why| why.to_string()),
        Err(_) => Err(format!("the disk has not answered for {} s", WRITTEN_WITHIN.as_secs())),
    }
}
