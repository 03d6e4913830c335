//! One container's output, from its two pipes to its log file.
//!
//! Driven by `serve`, one bounded `turn` of one stream at a time. `journal` explains why a kill at any instruction loses
//! nothing. Reading order: `pipe` is where lines come from, `write` is how they reach the file, `failing` the rule for a file
//! that cannot be written, `recover` what a successor does.
//!
//! Rotated files are not compressed: what ships them (fluent-bit and others) reads plain ones, and the keeper stays small.

mod failing;
mod pipe;
mod recover;
mod shared;
mod write;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use keeper::protocol::{ContainerStatus, TARGET, Target};

use crate::cri::{FRAGMENT_MAX, Stream, Tail};
use crate::journal::{Journal, Record};
use crate::log_file::LogFile;
use crate::spool::{Spool, Take};

use self::failing::{Failing, SHED_KEEP};
use self::pipe::{PIPE_MAX, Source, open_pipe, read_target};
pub use self::shared::{Now, Shared};

/// Bytes of one stream in one turn: a default pipe's worth, so that no stream waits long for the others.
const IN_MAX: usize = 64 * 1024;
/// Bytes of log lines in one turn. Short lines grow threefold and more, so it is larger than the input.
const OUT_MAX: usize = 128 * 1024;
/// Bytes read from each pipe at `close`: the largest pipe. A writer that lives on is not followed for ever.
pub const CLOSE_MAX: u64 = PIPE_MAX as u64 + IN_MAX as u64;

/// A container whose pipes are open.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub target: Target,
    dir: PathBuf,
    journal: Journal,
    record: Record,
    log: Option<LogFile>,
    failing: Option<Failing>,
    /// When a log that had failed was written again.
    healed: Option<Instant>,
    /// Why the link could not be made when the log file last was; that stops no line.
    link_failing: Option<String>,
    stdout: Source,
    stderr: Source,
}

impl Container {
    /// Opens the pipes in `dir`, finishes what a killed keeper had begun, and makes the log file and its link. Fails
    /// only where the pipes, the target or the journal do: a log that cannot be made is tried again later.
    pub fn open(dir: &Path, id: &str, shared: &mut Shared, now: Now) -> io::Result<Self> {
        let at = |path: PathBuf| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let target = read_target(&dir.join(TARGET)).map_err(at(dir.join(TARGET)))?;
        let mut source = |stream: Stream| -> io::Result<Source> {
            let path = dir.join(stream.name());
            let (pipe, grown) = open_pipe(&path, shared.pipes_room).map_err(at(path.clone()))?;
            shared.pipes_room = shared.pipes_room.saturating_sub(grown);
            let spool = Spool::open(&path.with_extension("spool")).map_err(at(path))?;
            Ok(Source { pipe, spool, grown, ready: true, ended: false })
        };
        let (stdout, stderr) = (source(Stream::Stdout)?, source(Stream::Stderr)?);
        let (journal, found) = Journal::open(dir).map_err(at(dir.into()))?;
        let mut container = Self {
            id: id.into(),
            target,
            dir: dir.into(),
            journal,
            record: Record::default(),
            log: None,
            failing: None,
            healed: None,
            link_failing: None,
            stdout,
            stderr,
        };
        container.take_up(found, shared, now);
        if let Err(error) = container.log(shared) {
            container.fail(&error, now);
        }
        container.remember();
        Ok(container)
    }

    /// The two pipes, for epoll.
    pub fn pipes(&self) -> [(Stream, &File); 2] {
        [(Stream::Stdout, &self.stdout.pipe), (Stream::Stderr, &self.stderr.pipe)]
    }

    /// Something may have come.
    pub fn wake(&mut self, stream: Stream) {
        self.source(stream).ready = true;
    }

    /// When this container wants a turn: `None` when only a wake-up can tell.
    pub fn due(&self, now: Now) -> Option<Instant> {
        let waiting = |stream| -> bool { self.backlog(stream) > 0 };
        match &self.failing {
            None if self.stdout.ready || self.stderr.ready => Some(now.mono),
            None => None,
            Some(failing) if self.stdout.ready || self.stderr.ready => {
                Some(if failing.sheds(now) { now.mono } else { failing.next_try.min(failing.sheds_at) })
            }
            Some(failing) if waiting(Stream::Stdout) || waiting(Stream::Stderr) => Some(failing.next_try),
            Some(failing) => self.log.is_none().then_some(failing.next_try),
        }
    }

    /// Moves up to `IN_MAX` bytes of one stream towards the log.
    pub fn turn(&mut self, stream: Stream, shared: &mut Shared, now: Now) {
        if let Some(failing) = &self.failing
            && now.mono < failing.next_try
        {
            if failing.sheds(now) && self.source(stream).ready {
                self.take(stream, shared, now);
                self.shed(stream, shared, SHED_KEEP);
            }
            return;
        }
        if !self.source(stream).ready && self.failing.is_none() {
            return;
        }
        self.take(stream, shared, now);
        let tail = if self.source(stream).ended { Tail::Flush } else { Tail::Hold };
        match self.write(stream, tail, shared, now) {
            Ok(more) => {
                self.heal(shared, now);
                // Whole lines that did not fit into this turn's output are the next turn's.
                self.source(stream).ready |= more;
            }
            Err(error) => {
                self.source(stream).ready = true;
                self.fail(&error, now);
            }
        }
    }

    /// Bytes of the container's that are in its log, or known not to come there: what all its turns came to.
    pub fn settled(&self) -> u64 {
        self.record.bytes.saturating_add(self.record.lost)
    }

    /// Writes what is left in the pipes, bounded, and removes the container's directory. The record tells what was lost.
    pub fn close(mut self, shared: &mut Shared, now: Now) -> Record {
        for stream in Stream::BOTH {
            let stop = self.source(stream).spool.end().saturating_add(CLOSE_MAX);
            self.source(stream).ready = true;
            let mut fine = true;
            while fine && self.source(stream).ready && self.source(stream).spool.end() < stop {
                self.take(stream, shared, now);
                fine = self.write(stream, Tail::Hold, shared, now).is_ok();
            }
            while fine && self.backlog(stream) > 0 {
                fine = self.write(stream, Tail::Flush, shared, now).is_ok();
            }
            self.shed(stream, shared, 0);
        }
        shared.pipes_room = shared.pipes_room.saturating_add(self.stdout.grown + self.stderr.grown);
        for name in ["stdout", "stderr", "stdout.spool", "stderr.spool", TARGET, crate::journal::FILE] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        let _ = std::fs::remove_dir(&self.dir);
        self.record
    }

    /// Rotates the log file now, for the budget. Returns the rotated file's name.
    pub fn rotate(&mut self, shared: &mut Shared, now: Now) -> io::Result<Option<String>> {
        self.log(shared)?;
        let Some(log) = &self.log else { return Ok(None) };
        let (opened, rotated) = log.rotate(&shared.logs, now.wall, shared.limits.max_files)?;
        self.opened(opened);
        self.remember();
        Ok(rotated)
    }

    /// The budget took a rotated file of this container.
    pub fn removed(&mut self, bytes: u64) {
        self.record.removed = self.record.removed.saturating_add(bytes);
        self.record.removed_unsaid = self.record.removed_unsaid.saturating_add(bytes);
        self.remember();
    }

    pub fn status(&self) -> ContainerStatus {
        ContainerStatus {
            id: self.id.clone(),
            log: self.target.log.clone(),
            bytes: self.record.bytes,
            lines: self.record.lines,
            lost: self.record.lost,
            removed: self.record.removed,
            refused: self.record.refused,
            reading: u64::from(!self.stdout.ended) + u64::from(!self.stderr.ended),
            failing: match &self.failing {
                Some(failing) => failing.why.clone(),
                None => self.link_failing.clone().unwrap_or_default(),
            },
        }
    }

    fn source(&mut self, stream: Stream) -> &mut Source {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Bytes in the spool that are not in the log.
    fn backlog(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout.spool.end().saturating_sub(self.record.stdout.done),
            Stream::Stderr => self.stderr.spool.end().saturating_sub(self.record.stderr.done),
        }
    }

    /// Fills the spool up to `IN_MAX`, unless whole lines wait in it.
    fn take(&mut self, stream: Stream, shared: &mut Shared, now: Now) {
        let backlog = self.backlog(stream);
        if backlog > FRAGMENT_MAX as u64 {
            return;
        }
        let source = self.source(stream);
        match source.spool.take(&source.pipe, IN_MAX - FRAGMENT_MAX) {
            Take::Took => source.ended = false,
            Take::Empty => (source.ready, source.ended) = (false, false),
            Take::End => (source.ready, source.ended) = (false, true),
            Take::Failed => self.read_directly(stream, shared, now),
        }
    }

    /// Writes the record. A run directory that fails leaves the old record; reading goes on, a daemon must not stop.
    fn remember(&self) {
        let _ = self.journal.write(&self.record);
    }
}

#[cfg(test)]
mod tests;
