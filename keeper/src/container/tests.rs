//! What a successor does with every state that a killed keeper can leave behind, one by one.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use keeper::protocol::Limits;

use super::*;
use crate::beneath::Beneath;
use crate::journal::{Intent, Progress};

const LOG: &str = "pods/p/c/0.log";
const STAMP: Duration = Duration::from_secs(1_795_315_579);
const AT: &str = "2026-11-22T02:46:19.000000000Z";

/// A container's directory and a log directory, as a keeper finds them at its start.
struct Left {
    dir: tempfile::TempDir,
    shared: Shared,
    shim: File,
}

impl Left {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["stdout", "stderr"] {
            nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        std::fs::write(dir.path().join(TARGET), format!("log {LOG}\nlink containers/l.log\n")).unwrap();
        let shim = OpenOptions::new().read(true).write(true).open(dir.path().join("stdout")).unwrap();
        let shared = Shared::new(Beneath::new(&dir.path().join("log")).unwrap(), Limits::default());
        Self { dir, shared, shim }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log").join(LOG)
    }

    /// Puts `written` into the log and `spooled` into the spool, and leaves `record` with the log's identity.
    fn leave(&mut self, written: &str, spooled: &str, mut record: Record) {
        let mut opened = LogFile::open(&self.shared.logs, LOG, None).unwrap();
        opened.file.append(written.as_bytes()).unwrap();
        record.log = opened.file.identity();
        std::fs::write(self.dir.path().join("stdout.spool"), spooled).unwrap();
        Journal::open(self.dir.path()).unwrap().0.write(&record).unwrap();
    }

    /// Takes the container up, has it write all there is, and returns its log and what it counts.
    fn take_up(&mut self) -> (String, ContainerStatus) {
        let now = Now { wall: STAMP + Duration::from_secs(1), mono: Instant::now() };
        let mut container = Container::open(self.dir.path(), "id", &mut self.shared, now).unwrap();
        for _ in 0..10 {
            container.turn(Stream::Stdout, &mut self.shared, now);
        }
        (std::fs::read_to_string(self.log()).unwrap(), container.status())
    }
}

#[test]
fn a_batch_cut_at_any_byte_is_completed_once() {
    let batch = format!("{AT} stdout F one\n{AT} stdout F two\n");
    for cut in 0..=batch.len() {
        let mut left = Left::new();
        let before = format!("{AT} stdout F zero\n");
        let intent = Intent::Batch { stream: Stream::Stdout, end: 13, size: before.len() as u64, stamp: STAMP };
        let record =
            Record { stdout: Progress { done: 5, unsaid: 0 }, bytes: 5, intent: Some(intent), ..Record::default() };
        left.leave(&format!("{before}{}", &batch[..cut]), "zero\none\ntwo\nhel", record);
        left.shim.write_all(b"d\n").unwrap();
        let (log, status) = left.take_up();
        let after = format!("{} stdout F held\n", AT.replace("19.0", "20.0"));
        assert_eq!(log, format!("{before}{batch}{after}"), "cut at {cut}");
        assert_eq!((status.bytes, status.lost), (18, 0));
    }
}

#[test]
fn bytes_that_were_in_a_killed_keepers_memory_are_said_to_be_lost() {
    let mut left = Left::new();
    let intent = Intent::Direct { stream: Stream::Stdout, bytes: 65_536 };
    left.leave("", "", Record { intent: Some(intent), ..Record::default() });
    left.shim.write_all(b"next\n").unwrap();
    let (log, status) = left.take_up();
    let contents: Vec<&str> = log.lines().map(|line| &line[31..]).collect();
    assert_eq!(
        contents,
        ["stdout F [daemonlet-logkeeper] up to 65536 bytes lost here: the log keeper was killed", "stdout F next"]
    );
    assert_eq!(status.lost, 65_536);
}

#[test]
fn a_spool_without_a_readable_record_is_said_to_be_lost() {
    let mut left = Left::new();
    left.leave("", "whatever\n", Record::default());
    std::fs::write(left.dir.path().join(crate::journal::FILE), "garbage").unwrap();
    left.shim.write_all(b"next\n").unwrap();
    let (log, status) = left.take_up();
    assert!(log.contains("up to 9 bytes lost here") && log.ends_with("stdout F next\n"), "{log}");
    assert_eq!(status.lost, 9);
}

#[test]
fn whole_lines_left_in_a_spool_are_written() {
    let mut left = Left::new();
    left.leave("", "one\ntwo\nhalf", Record::default());
    let (log, status) = left.take_up();
    assert_eq!(log.lines().count(), 2);
    assert_eq!((status.bytes, status.lines, status.lost), (8, 2, 0));
}

#[test]
fn a_batch_whose_log_was_swapped_is_written_whole_to_a_new_file() {
    let mut left = Left::new();
    let intent = Intent::Batch { stream: Stream::Stdout, end: 4, size: 0, stamp: STAMP };
    left.leave("half", "one\n", Record { intent: Some(intent), ..Record::default() });
    // Renamed, since a removed file's inode is used again at once.
    std::fs::rename(left.log(), left.dir.path().join("taken")).unwrap();
    std::fs::write(left.log(), "planted").unwrap();
    let (log, status) = left.take_up();
    assert_eq!(log, format!("{AT} stdout F one\n"));
    assert_eq!(status.refused, 1);
}
