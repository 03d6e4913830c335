//! What a killed keeper's successor has to know about one container: how far each stream is written.
//!
//! Driven by `container`. It must not know of pipes or log files; a record is plain data, and its text form is the disk
//! format (a later keeper must read an earlier one's).
//!
//! # Why nothing is lost, doubled or torn by `kill -9`
//!
//! A keeper that reads bytes into its memory loses them when it is killed before they are in the log. So it does not
//! read: it lets the kernel move them with `splice` from the pipe into a file of the run directory, the *spool*
//! (`spool`). A kill cannot come between taking bytes from the pipe and the file growing by them, both are one system
//! call. A held partial line is simply a spool's end that is not written yet. From there each batch goes
//!
//! 1. record an intent: which stream, up to which spool offset, the log file's size, the time stamp;
//! 2. append the batch's lines to the log file;
//! 3. record how far the stream is now written, without intent.
//!
//! The lines of a batch follow from its bytes and its stamp alone (`cri`). A successor that finds an intent makes the
//! same lines again, sees by the log file's size how many of their bytes have arrived (none, some or all), and appends
//! the others. Then it goes on behind the batch.
//!
//! Only where the spool cannot grow (the run directory is full) does the keeper read into its memory, so that daemons
//! do not block. Then the intent says how many bytes may be lost, and a successor says so in a marker line. A missing or
//! unreadable record beside a spool is told the same way.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::cri::Stream;

/// The record's file, in the container's directory.
pub const FILE: &str = "journal";
/// Every record takes this many bytes: one write within one page, which a kill cannot cut.
const SIZE: usize = 512;
const MAGIC: &str = "daemonlet-logkeeper/1";

/// Why bytes did not reach the log. The words are part of the disk format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// The log file could not be written for longer than a daemon may be kept waiting.
    #[default]
    Unwritable,
    /// The keeper was killed while it held bytes in memory, or its record is gone.
    Killed,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Self::Unwritable => "unwritable",
            Self::Killed => "killed",
        }
    }
}

/// What is being done at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The spool's bytes up to `end` are being appended to the log file, which had `size` bytes, stamped `stamp`.
    Batch { stream: Stream, end: u64, size: u64, stamp: Duration },
    /// Up to `bytes` are being read into memory, because the spool cannot take them.
    Direct { stream: Stream, bytes: u64 },
}

/// One stream's part of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Spool offset up to which the log has everything.
    pub done: u64,
    /// Bytes lost that no marker line tells yet.
    pub unsaid: u64,
}

/// Everything remembered of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Device and inode of the log file that is being written; zeros before the first.
    pub log: (u64, u64),
    pub stdout: Progress,
    pub stderr: Progress,
    /// Why the bytes in `unsaid` were lost.
    pub cause: Cause,
    /// Bytes of the container's in log files.
    pub bytes: u64,
    /// Lines written for them.
    pub lines: u64,
    /// Bytes of the container's that reached no log file.
    pub lost: u64,
    /// Bytes of rotated files that the budget took.
    pub removed: u64,
    /// Those of `removed` that no marker line tells yet.
    pub removed_unsaid: u64,
    /// Foreign things found at the log's name.
    pub refused: u64,
    pub intent: Option<Intent>,
}

impl Record {
    pub fn progress(&mut self, stream: Stream) -> &mut Progress {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Counts bytes that no log file will have, to be told in a marker line of `stream`.
    pub fn lose(&mut self, stream: Stream, bytes: u64, cause: Cause) {
        self.lost = self.lost.saturating_add(bytes);
        self.cause = cause;
        let progress = self.progress(stream);
        progress.unsaid = progress.unsaid.saturating_add(bytes);
    }

    fn render(&self) -> String {
        let (dev, ino) = self.log;
        let intent = match self.intent {
            None => "-".into(),
            Some(Intent::Batch { stream, end, size, stamp }) => {
                format!("batch:{}:{end}:{size}:{}:{}", stream.name(), stamp.as_secs(), stamp.subsec_nanos())
            }
            Some(Intent::Direct { stream, bytes }) => format!("direct:{}:{bytes}", stream.name()),
        };
        format!(
            "{MAGIC} {dev}:{ino} {}:{} {}:{} {} {} {} {} {} {} {} {intent} .",
            self.stdout.done,
            self.stdout.unsaid,
            self.stderr.done,
            self.stderr.unsaid,
            self.cause.word(),
            self.bytes,
            self.lines,
            self.lost,
            self.removed,
            self.removed_unsaid,
            self.refused,
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[magic, log, stdout, stderr, cause, bytes, lines, lost, removed, removed_unsaid, refused, intent, "."] =
            words.as_slice()
        else {
            return None;
        };
        let pair = |word: &str| -> Option<(u64, u64)> {
            let (left, right) = word.split_once(':')?;
            Some((left.parse().ok()?, right.parse().ok()?))
        };
        let progress = |word| pair(word).map(|(done, unsaid)| Progress { done, unsaid });
        let intent = match intent.split(':').collect::<Vec<_>>()[..] {
            ["-"] => None,
            ["batch", stream, end, size, secs, nanos] => Some(Intent::Batch {
                stream: Stream::parse(stream)?,
                end: end.parse().ok()?,
                size: size.parse().ok()?,
                stamp: Duration::new(secs.parse().ok()?, nanos.parse().ok().filter(|n| *n < 1_000_000_000)?),
            }),
            ["direct", stream, bytes] => {
                Some(Intent::Direct { stream: Stream::parse(stream)?, bytes: bytes.parse().ok()? })
            }
            _ => return None,
        };
        (magic == MAGIC).then_some(())?;
        Some(Self {
            log: pair(log)?,
            stdout: progress(stdout)?,
            stderr: progress(stderr)?,
            cause: [Cause::Unwritable, Cause::Killed].into_iter().find(|c| c.word() == cause)?,
            bytes: bytes.parse().ok()?,
            lines: lines.parse().ok()?,
            lost: lost.parse().ok()?,
            removed: removed.parse().ok()?,
            removed_unsaid: removed_unsaid.parse().ok()?,
            refused: refused.parse().ok()?,
            intent,
        })
    }
}

/// What stood in a container's directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// No file, or an empty one: the container is new.
    Nothing,
    /// A file that this version cannot read.
    Unreadable,
}

/// The open record file of one container.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens the record in `dir`, making the file when it is missing.
    pub fn open(dir: &Path) -> io::Result<(Self, Found)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join(FILE))?;
        let mut text = vec![0; SIZE];
        let mut len = 0;
        while len < SIZE {
            match file.read_at(&mut text[len..], len as u64)? {
                0 => break,
                more => len += more,
            }
        }
        let found = match std::str::from_utf8(&text[..len]).ok().and_then(Record::parse) {
            Some(record) => Found::Record(record),
            None if len == 0 => Found::Nothing,
            None => Found::Unreadable,
        };
        Ok((Self { file }, found))
    }

    /// Replaces the record. An error leaves the old one; the caller goes on, since a daemon must not stop for it.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let text = format!("{:<width$}\n", record.render(), width = SIZE - 1);
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Record {
        Record {
            log: (u64::MAX, u64::MAX),
            stdout: Progress { done: u64::MAX, unsaid: u64::MAX },
            stderr: Progress { done: u64::MAX, unsaid: u64::MAX },
            cause: Cause::Unwritable,
            bytes: u64::MAX,
            lines: u64::MAX,
            lost: u64::MAX,
            removed: u64::MAX,
            removed_unsaid: u64::MAX,
            refused: u64::MAX,
            intent: Some(Intent::Batch {
                stream: Stream::Stderr,
                end: u64::MAX,
                size: u64::MAX,
                stamp: Duration::new(u64::MAX, 999_999_999),
            }),
        }
    }

    #[test]
    fn the_largest_record_fits_and_reads_as_written() {
        assert!(full().render().len() < SIZE, "{}", full().render().len());
        let dir = tempfile::tempdir().unwrap();
        for record in [
            Record::default(),
            full(),
            Record { intent: Some(Intent::Direct { stream: Stream::Stdout, bytes: 9 }), ..full() },
        ] {
            let (journal, _) = Journal::open(dir.path()).unwrap();
            journal.write(&record).unwrap();
            assert_eq!(Journal::open(dir.path()).unwrap().1, Found::Record(record));
        }
    }

    #[test]
    fn the_first_format_stays_readable() {
        let golden =
            "daemonlet-logkeeper/1 8:99 100:0 7:3 killed 11 22 33 44 55 66 batch:stdout:120:4096:1795315579:5 .";
        let record = Record::parse(golden).unwrap();
        assert_eq!(
            record.intent,
            Some(Intent::Batch {
                stream: Stream::Stdout,
                end: 120,
                size: 4096,
                stamp: Duration::new(1_795_315_579, 5)
            })
        );
        assert_eq!((record.log, record.stderr.unsaid, record.refused), ((8, 99), 3, 66));
        assert_eq!(record.render(), golden);
    }

    #[test]
    fn a_foreign_file_is_unreadable_and_an_empty_one_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1, Found::Nothing);
        std::fs::write(dir.path().join(FILE), "something else").unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1, Found::Unreadable);
    }
}
