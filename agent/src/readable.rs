//! Waiting for a descriptor that is no stream to become readable: a timer of the kernel's, a process that ends.
//!
//! Used where tokio has no type of its own for such a thing.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `descriptor` known to the event loop, to be waited for with `readable`. Must be called within a tokio runtime.
#[expect(deprecated, reason = "its successor is unsafe for descriptors that are not owned; this one is")]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
