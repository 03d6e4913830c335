//! The words of the command line where no endpoint runs: done with the data directory itself, which is locked meanwhile.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::copy::{self, About, CopyError};
use super::local::Asked;
use crate::clock::Clock;
use crate::door::authority::Authority;
use crate::door::authority::keep::{self, KeepError};
use crate::door::join::{JoinError, Joining};
use crate::store::StoreError;
use crate::store::embedded::{self, Embedded};

/// The store's name in the data directory.
pub const STORE: &str = "store";
/// Locked by whoever works with the data directory.
const LOCK: &str = "lock";

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(
        "no control endpoint runs with the data directory {place}, and it has no authority and store of its own; start one (daemonlet-control serve), or name its --data-dir"
    )]
    Nothing { place: String },
    #[error(
        "the data directory {place} is in use: by an endpoint that starts, runs or stops, or by another word; stop it first"
    )]
    InUse { place: String },
    #[error("the data directory {place} cannot be used")]
    Directory {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Authority(#[from] KeepError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// The data directory, which nobody else works with while this exists.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Makes the data directory root's own, and locks it. Blocks.
pub fn lock(data_dir: &Path) -> Result<Lock, OfflineError> {
    let place = || data_dir.display().to_string();
    let failed = |source| OfflineError::Directory { place: place(), source };
    keep::directory(data_dir).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(data_dir.join(LOCK));
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(OfflineError::InUse { place: place() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Does what concerns who may join, and says what a running endpoint would answer. Blocks.
pub fn answer(data_dir: &Path, asked: Asked) -> Result<Value, OfflineError> {
    let (_lock, authority, store) = open(data_dir)?;
    let joining = Joining::new(Arc::new(authority), store.into(), Clock::system());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime =
        runtime.map_err(|source| OfflineError::Directory { place: data_dir.display().to_string(), source })?;
    Ok(runtime.block_on(asked.carry_out(&joining))?)
}

/// Makes a backup. Blocks.
pub fn backup(data_dir: &Path, to: &Path) -> Result<(), OfflineError> {
    let (_lock, authority, store) = open(data_dir)?;
    let copy = copy::of(&store, &authority, data_dir)?;
    let (reader, writer) =
        io::pipe().map_err(|source| OfflineError::Directory { place: data_dir.display().to_string(), source })?;
    std::thread::scope(|scope| {
        // A reader that stops early is what `take` tells of.
        scope.spawn(move || copy.write(writer));
        copy::take(reader, to)
    })?;
    Ok(())
}

/// Puts a backup in the place of what the data directory has. Blocks.
pub fn restore(from: File, path: &Path, data_dir: &Path) -> Result<About, OfflineError> {
    let _lock = lock(data_dir)?;
    let unpacked = copy::unpack(from, path, data_dir)?;
    // What could not be read afterwards does not replace what can.
    keep::parse(&unpacked.authority, &path.display().to_string(), Timestamp::now()).map_err(KeepError::from)?;
    let failed = |source| OfflineError::Directory { place: data_dir.display().to_string(), source };
    // What is more likely to fail comes first; done again, it is whole.
    embedded::restore(unpacked.store(), &data_dir.join(STORE))?;
    keep::write_private(&data_dir.join(keep::FILE), unpacked.authority.as_bytes()).map_err(failed)?;
    Ok(unpacked.about.clone())
}

fn open(data_dir: &Path) -> Result<(Lock, Authority, Embedded), OfflineError> {
    let has = |name: &str| data_dir.join(name).exists();
    if !has(keep::FILE) || !has(STORE) {
        return Err(OfflineError::Nothing { place: data_dir.display().to_string() });
    }
    let lock = lock(data_dir)?;
    let authority = keep::in_directory(data_dir, Timestamp::now())?;
    Ok((lock, authority, Embedded::open(&data_dir.join(STORE))?))
}
