//! Tokens of service accounts on disk: a node that boots without its endpoint goes on with those that are still good.
//!
//! Driven by [`super::tokens`]. One file, `<state>/control/tokens`, mode 0600, beside the key by which the node may ask for every one
//! of them. What cannot be read or written is done without: the endpoint gives them anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pod::content::{ContentKey, ContentKind};
use serde::{Deserialize, Serialize};

use crate::checkpoint::DIRECTORY;
use crate::durable;
use crate::seams::Files;

/// The first word of the file: a format that later versions go on reading.
const FORMAT: &str = "daemonlet-tokens-1";
/// Tokens of a full node with several of them in each pod, 2 KiB each, and room.
const FILE_LIMIT: u64 = 4 << 20;
/// A disk that hangs does not hold up the session.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// A token and how long it is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub namespace: String,
    /// Of [`pod::projection::token_key`].
    pub name: String,
    pub token: String,
    /// Seconds since 1970.
    pub expires: i64,
}

impl Kept {
    pub fn key(&self) -> ContentKey {
        ContentKey { kind: ContentKind::Secret, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Where they are kept.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    pub fn new(state_dir: &Path) -> Shelf {
        Shelf { path: state_dir.join(DIRECTORY).join("tokens") }
    }

    /// Those too whose time is over by this clock: it may be wrong, and a token that is refused keeps no daemon from starting as a file does
    /// that is not there. They are asked for anew at once.
    pub async fn load(&self, files: &impl Files) -> Vec<Kept> {
        for (path, _) in durable::generations(&self.path) {
            let Ok(content) = files.read(&path, FILE_LIMIT).await else { continue };
            let body = durable::unseal(FORMAT, "node's tokens", &content);
            match body.and_then(|body| serde_json::from_slice::<Vec<Kept>>(body).map_err(|e| e.to_string())) {
                Ok(kept) => return kept,
                Err(why) => tracing::warn!(path = %path.display(), why, "tokens that were kept cannot be read"),
            }
        }
        Vec::new()
    }

    pub async fn save(&self, files: &impl Files, kept: &[Kept]) {
        let body = serde_json::to_vec(kept).expect("it has string keys only");
        let written = durable::replace(files, &self.path, durable::seal(FORMAT, &body));
        let why = match tokio::time::timeout(DISK_PATIENCE, written).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the disk does not answer".to_owned(),
        };
        tracing::warn!(path = %self.path.display(), why, "tokens are not kept: a boot without the endpoint has to do without them");
    }
}
