//! How a worker is woken: flags that coalesce, no data.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Wakes a worker. Cheap, never blocks, coalesces.
#[derive(Debug, Default)]
pub struct Nudge {
    flags: AtomicU8,
    notify: Notify,
}

pub(super) const LOOK: u8 = 1;
pub(super) const IMAGES: u8 = 2;
pub(super) const RETRY: u8 = 4;

impl Nudge {
    /// Something may have happened to its containers.
    pub fn look(&self) {
        self.set(LOOK);
    }

    /// An image came or went: what waits for one tries at once.
    pub fn images(&self) {
        self.set(IMAGES);
    }

    /// Everything may be different: look, and try at once what failed for want of the other side.
    pub fn all(&self) {
        self.set(LOOK | IMAGES | RETRY);
    }

    /// What is known has changed: plan again, without another look.
    pub fn again(&self) {
        self.set(0);
    }

    /// What was told since the last time.
    pub(super) fn take(&self) -> u8 {
        self.flags.swap(0, Ordering::AcqRel)
    }

    /// Until something is told; at once where it already was.
    pub(super) async fn told(&self) {
        self.notify.notified().await;
    }

    fn set(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.notify.notify_one();
    }
}
