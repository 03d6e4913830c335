//! The rule for a log that cannot be written (disk full, I/O error): for `BLOCK_MAX` the bytes stay in the pipe and a daemon that
//! fills it waits; then the oldest are dropped, so that a full disk never stops a daemon, and a marker line tells how many once
//! the log can be written again.

use std::io;
use std::time::{Duration, Instant};

use super::{Container, IN_MAX, Now, Shared};
use crate::cri::{FRAGMENT_MAX, Stream};
use crate::journal::Cause;

/// A daemon waits at most this long for a log that cannot be written: less than common liveness probes allow.
const BLOCK_MAX: Duration = Duration::from_secs(5);
/// A log that fails again this soon after it was written, as a disk does that has room for a line and not for ten,
/// is not waited for a second time.
const CALM: Duration = Duration::from_secs(60);
/// An unwritable log is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// The newest bytes that are kept for an unwritable log, so that its last words are there when it heals: as many as
/// leave room for more to be taken.
pub(super) const SHED_KEEP: u64 = FRAGMENT_MAX as u64;
/// A log that cannot be written.
#[derive(Debug)]
pub(super) struct Failing {
    pub(super) sheds_at: Instant,
    pub(super) next_try: Instant,
    pub(super) why: String,
}

impl Container {
    pub(super) fn fail(&mut self, error: &io::Error, now: Now) {
        let sheds_at = match (&self.failing, self.healed) {
            (Some(failing), _) => failing.sheds_at,
            (None, Some(healed)) if now.mono < healed + CALM => now.mono,
            (None, _) => now.mono + BLOCK_MAX,
        };
        if self.failing.is_none() {
            crate::say(&format!("container {}: {} cannot be written: {error}", self.id, self.target.log));
        }
        self.failing = Some(Failing { sheds_at, next_try: now.mono + RETRY, why: error.to_string() });
    }

    pub(super) fn healthy(&mut self, now: Now) {
        if self.failing.take().is_some() {
            crate::say(&format!("container {}: {} can be written again", self.id, self.target.log));
            self.healed = Some(now.mono);
        }
    }

    /// A turn that had nothing to write tells nothing about a log that failed, unless the log did not even exist.
    pub(super) fn heal(&mut self, shared: &mut Shared, now: Now) {
        if self.failing.is_none() {
            return;
        }
        let there = if self.log.is_some() { Ok(0) } else { self.log(shared) };
        match there {
            Ok(_) if self.backlog(Stream::Stdout) == 0 && self.backlog(Stream::Stderr) == 0 => self.healthy(now),
            Ok(_) => {
                if let Some(failing) = &mut self.failing {
                    failing.next_try = now.mono + RETRY;
                }
            }
            Err(error) => self.fail(&error, now),
        }
    }

    /// Drops the oldest bytes of the spool, to the end of a line, until `keep` are left.
    pub(super) fn shed(&mut self, stream: Stream, shared: &mut Shared, keep: u64) {
        let (done, end) = (self.record.progress(stream).done, self.source(stream).spool.end());
        if end.saturating_sub(done) <= keep {
            return;
        }
        let cut = end - keep;
        shared.input.resize(IN_MAX, 0);
        let rest = self.source(stream).spool.peek(cut.saturating_sub(1), &mut shared.input).unwrap_or(&[]);
        let new = match rest.iter().position(|byte| *byte == b'\n') {
            Some(newline) if keep > 0 => cut.saturating_add(newline as u64),
            _ => end,
        };
        self.record.lose(stream, new - done, Cause::Unwritable);
        self.record.progress(stream).done = new;
        self.remember();
        self.source(stream).spool.release(done, new);
    }
}

impl Failing {
    pub(super) fn sheds(&self, now: Now) -> bool {
        now.mono >= self.sheds_at
    }
}
