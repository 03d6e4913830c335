//! From the spool to the log file, batch by batch, with an intent before and the progress after; and past the spool where it fails.

use std::io::{self, Read};

use super::{Container, IN_MAX, Now, OUT_MAX, Shared};
use crate::beneath;
use crate::cri::{self, Stream, Tail};
use crate::journal::{Cause, Intent, Record};
use crate::log_file::{LogFile, Opened};

impl Container {
    /// Writes the spool's next lines, `OUT_MAX` bytes of them at most. True when there are more.
    pub(super) fn write(&mut self, stream: Stream, tail: Tail, shared: &mut Shared, now: Now) -> io::Result<bool> {
        let done = self.record.progress(stream).done;
        let mut input = std::mem::take(&mut shared.input);
        input.resize(IN_MAX, 0);
        let mut output = std::mem::take(&mut shared.output);
        let outcome = match self.source(stream).spool.peek(done, &mut input) {
            Ok(bytes) => {
                output.clear();
                let stamp = cri::rfc3339(now.wall);
                markers(&self.record, stream, &stamp, &mut output);
                let room = OUT_MAX.min(usize::try_from(shared.limits.max_file_size).unwrap_or(usize::MAX));
                let framed = cri::frame(bytes, tail, &stamp, stream, &mut output, room);
                self.append(stream, framed, &output, shared, now).map(|()| framed.more)
            }
            Err(_) => {
                // The spool's own file system fails: what it holds is gone, and saying so is all that is left to do.
                self.shed(stream, shared, 0);
                Ok(false)
            }
        };
        (shared.input, shared.output) = (input, output);
        outcome
    }

    /// Puts one batch into the log file, with its intent before and its progress after.
    pub(super) fn append(
        &mut self,
        stream: Stream,
        framed: cri::Framed,
        output: &[u8],
        shared: &mut Shared,
        now: Now,
    ) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        let size = self.room_for(output.len() as u64, shared, now)?;
        let done = self.record.progress(stream).done;
        let end = done.saturating_add(framed.taken as u64);
        self.record.intent = Some(Intent::Batch { stream, end, size, stamp: now.wall });
        self.remember();
        let written = match &mut self.log {
            Some(log) => log.append(output),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        self.record.intent = None;
        match written {
            Ok(()) => {
                self.written(stream, framed);
                self.source(stream).spool.release(done, end);
                shared.used = shared.used.saturating_add(output.len() as u64);
                self.healthy(now);
                Ok(())
            }
            Err(error) => {
                self.remember();
                Err(error)
            }
        }
    }

    /// Records a batch as written, its markers too.
    pub(super) fn written(&mut self, stream: Stream, framed: cri::Framed) {
        let progress = self.record.progress(stream);
        progress.done = progress.done.saturating_add(framed.taken as u64);
        progress.unsaid = 0;
        self.record.removed_unsaid = 0;
        self.record.bytes = self.record.bytes.saturating_add(framed.taken as u64);
        self.record.lines = self.record.lines.saturating_add(framed.lines);
        self.record.intent = None;
        self.remember();
    }

    /// The log file's size, after rotating it if `more` bytes would be too many.
    pub(super) fn room_for(&mut self, more: u64, shared: &mut Shared, now: Now) -> io::Result<u64> {
        let size = self.log(shared)?;
        if size == 0 || size.saturating_add(more) <= shared.limits.max_file_size {
            return Ok(size);
        }
        self.rotate(shared, now)?;
        self.log(shared)
    }

    /// Makes sure that there is a log file with a name, and returns its size.
    pub(super) fn log(&mut self, shared: &mut Shared) -> io::Result<u64> {
        if let Some(log) = &self.log
            && let Some(size) = log.size()?
        {
            return Ok(size);
        }
        let known = Some(self.record.log).filter(|known| *known != (0, 0));
        let opened = LogFile::open(&shared.logs, &self.target.log, known)?;
        self.opened(opened);
        self.link_failing = self.link(shared).err().map(|error| format!("{}: {error}", self.target.link));
        match &self.log {
            Some(log) => Ok(log.size()?.unwrap_or(0)),
            None => Ok(0),
        }
    }

    pub(super) fn opened(&mut self, opened: Opened) {
        self.record.log = opened.file.identity();
        if opened.refused > 0 {
            crate::say(&format!("container {}: something foreign at {} was moved aside", self.id, self.target.log));
        }
        self.record.refused = self.record.refused.saturating_add(opened.refused);
        self.log = Some(opened.file);
    }

    /// The link has a relative text, so that it leads to the log wherever the log directory is mounted.
    pub(super) fn link(&self, shared: &Shared) -> io::Result<()> {
        let (dir, name) = self.target.link.rsplit_once('/').expect("a checked link has a directory");
        beneath::link(&shared.logs.make_dirs(dir)?, name, &format!("../{}", self.target.log))
    }

    /// The run directory is full: what is in the pipe goes to the log through memory, as it is.
    pub(super) fn read_directly(&mut self, stream: Stream, shared: &mut Shared, now: Now) {
        if self.write(stream, Tail::Flush, shared, now).is_err() {
            self.shed(stream, shared, 0);
        }
        let mut input = std::mem::take(&mut shared.input);
        input.resize(IN_MAX, 0);
        self.record.intent = Some(Intent::Direct { stream, bytes: IN_MAX as u64 });
        self.remember();
        let source = self.source(stream);
        let read = match (&source.pipe).read(&mut input) {
            Ok(0) => {
                (source.ready, source.ended) = (false, true);
                0
            }
            Ok(read) => {
                source.ended = false;
                read
            }
            Err(_) => {
                (source.ready, source.ended) = (false, false);
                0
            }
        };
        if read > 0 {
            let mut output = Vec::new();
            let stamp = cri::rfc3339(now.wall);
            markers(&self.record, stream, &stamp, &mut output);
            let framed = cri::frame(&input[..read], Tail::Flush, &stamp, stream, &mut output, usize::MAX);
            let done = self.record.progress(stream).done;
            let written = self.room_for(output.len() as u64, shared, now).and_then(|_| match &mut self.log {
                Some(log) => log.append(&output),
                None => Err(io::ErrorKind::NotFound.into()),
            });
            match written {
                Ok(()) => {
                    self.written(stream, framed);
                    // These bytes never were in the spool, whose offsets go on where they were.
                    self.record.progress(stream).done = done;
                    shared.used = shared.used.saturating_add(output.len() as u64);
                }
                Err(_) => self.record.lose(stream, read as u64, Cause::Unwritable),
            }
        }
        self.record.intent = None;
        self.remember();
        shared.input = input;
    }
}

/// The lines that tell what is missing before the next line of `stream`.
pub(super) fn markers(record: &Record, stream: Stream, stamp: &str, output: &mut Vec<u8>) {
    let mut copy = *record;
    let unsaid = copy.progress(stream).unsaid;
    if unsaid > 0 {
        let text = match record.cause {
            Cause::Unwritable => format!("{unsaid} bytes lost here: the log file could not be written"),
            Cause::Killed => format!("up to {unsaid} bytes lost here: the log keeper was killed"),
        };
        cri::marker(&text, stamp, stream, output);
    }
    if record.removed_unsaid > 0 {
        let text = format!("{} bytes of older log removed: the node's log budget was used up", record.removed_unsaid);
        cri::marker(&text, stamp, stream, output);
    }
}
