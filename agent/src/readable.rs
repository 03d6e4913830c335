//! Waiting for a descriptor that is no stream to become readable: a timer of the kernel's, a process that ends.
//!
//! Used where tokio has no type of its own for such a thing, and where a thread that may block waits for another process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `descriptor` known to the event loop, to be waited for with `readable`. Must be called within a tokio runtime.
#[expect(deprecated, reason = "its successor is unsafe for descriptors that are not owned; this one is")]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Blocks until `descriptor` is readable, or at its end; false: not within this time. A signal, a child's end for one, does not end the wait:
/// poll(2) is never begun again by itself.
pub fn within(descriptor: impl AsFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
