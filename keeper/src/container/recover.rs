//! What a successor does with what a killed keeper had begun.

use std::io;
use std::time::Duration;

use super::write::markers;
use super::{Container, IN_MAX, Now, Shared};
use crate::cri::{self, Stream, Tail};
use crate::journal::{Cause, Found, Intent};

impl Container {
    /// Goes on where a former keeper ended.
    pub(super) fn take_up(&mut self, found: Found, shared: &mut Shared, now: Now) {
        let ends = Stream::BOTH.map(|stream| (stream, self.source(stream).spool.end()));
        match found {
            Found::Record(record) => self.record = record,
            Found::Nothing if ends.iter().all(|(_, end)| *end == 0) => {}
            Found::Nothing | Found::Unreadable => {
                for (stream, end) in ends {
                    if end > 0 {
                        // At most a batch is in a spool; the rest of its length was written and punched out.
                        self.record.lose(stream, end.min(IN_MAX as u64), Cause::Killed);
                        self.record.progress(stream).done = end;
                    }
                }
            }
        }
        match self.record.intent.take() {
            None => {}
            Some(Intent::Direct { stream, bytes }) => self.record.lose(stream, bytes, Cause::Killed),
            Some(Intent::Batch { stream, end, size, stamp }) => {
                if let Err(error) = self.finish(stream, end, size, stamp, shared) {
                    self.fail(&error, now);
                }
            }
        }
    }

    /// Makes a killed keeper's batch again and appends what of it has not reached the file.
    pub(super) fn finish(
        &mut self,
        stream: Stream,
        end: u64,
        before: u64,
        stamp: Duration,
        shared: &mut Shared,
    ) -> io::Result<()> {
        let done = self.record.progress(stream).done;
        let mut input = vec![0; usize::try_from(end.saturating_sub(done)).unwrap_or(0).min(IN_MAX)];
        let bytes = self.source(stream).spool.peek(done, &mut input)?;
        let stamp = cri::rfc3339(stamp);
        let mut output = Vec::new();
        markers(&self.record, stream, &stamp, &mut output);
        let framed = cri::frame(bytes, Tail::Flush, &stamp, stream, &mut output, usize::MAX);
        let known = self.record.log;
        let size = self.log(shared)?;
        let arrived = match known == self.record.log {
            true => usize::try_from(size.saturating_sub(before)).unwrap_or(usize::MAX).min(output.len()),
            false => 0,
        };
        if let Some(log) = &mut self.log {
            // Without room for the rest the whole batch waits in the spool, and none of it stays in the file.
            log.append(&output[arrived..]).inspect_err(|_| log.cut(size.saturating_sub(arrived as u64)))?;
        }
        self.written(stream, framed);
        self.source(stream).spool.release(done, end);
        Ok(())
    }
}
