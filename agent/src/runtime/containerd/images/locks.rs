//! One at a time for each digest: whoever comes second to a blob or a layer waits, and finds it done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::digest::Digest;

/// Locks by digest; those that nobody holds or waits for are forgotten.
#[derive(Default)]
pub struct Locks {
    locks: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for one's turn. Cancel-safe.
    pub async fn lock(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = self.lock_of(digest);
        lock.lock_owned().await
    }

    fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }
}
