//! A container's log for whoever asks through the control endpoint: read by a thread of its own, as its reader takes it.
//!
//! Driven by [`super::streams`]. A thread, because files of the log directory may hang and a reader may be slow, and neither may hold
//! one of the few threads by which records reach the disk.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc as hints;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::board::Board;
use crate::log_file::{LogDir, LogFile, keep_last};
use crate::log_lines::{Printer, Shown};
use crate::status;

/// Bytes of one message.
const CHUNK: usize = 32 << 10;
/// How often it is looked whether the run goes on: the safety net for inotify, and when a reader that has gone is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Of the thread: it reads lines of files.
const STACK: usize = 256 << 10;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub uid: String,
    pub container: String,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub since: Option<jiff::Timestamp>,
    pub limit: Option<u64>,
}

/// Why there is no log: a sentence, and the HTTP status that fits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLog {
    pub code: u32,
    pub why: String,
}

/// The run that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    /// The pod's directory beneath `pods`.
    pod_dir: String,
    attempt: u64,
    /// It may still write.
    lives: bool,
}

/// Bytes of the log as they come, first none, which says that there is one; and how it ended.
pub struct Reading {
    pub bytes: mpsc::Receiver<Bytes>,
    pub ended: tokio::sync::oneshot::Receiver<Result<(), NoLog>>,
}

/// Begins to read.
pub fn read(board: &Board, wanted: Wanted) -> Reading {
    let (sender, bytes) = mpsc::channel(1);
    let (tell, ended) = tokio::sync::oneshot::channel();
    let board = board.clone();
    let work = move || {
        // Who asked may have gone away.
        let _ = tell.send(serve(&board, &wanted, sender));
    };
    if let Err(error) = std::thread::Builder::new().name("log".into()).stack_size(STACK).spawn(work) {
        // The end's sender is gone with the work, which says that it failed.
        tracing::warn!(%error, "no thread for a log");
    }
    Reading { bytes, ended }
}

fn serve(board: &Board, wanted: &Wanted, sender: mpsc::Sender<Bytes>) -> Result<(), NoLog> {
    let run = find(board, wanted)?;
    let mut out = Out { sender, waiting: Vec::with_capacity(CHUNK), left: wanted.limit };
    match show(board, wanted, &run, board.node().log_dir, &mut out) {
        // The reader has seen enough, or as much as it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Wanted { container, .. } = wanted;
            let why = format!("container {container:?} has no log of its run {} (yet)", run.attempt);
            Err(NoLog { code: 404, why })
        }
        Err(error) => Err(NoLog { code: 500, why: format!("the log cannot be read: {error}") }),
        Ok(()) => Ok(()),
    }
}

/// What the board says of the pod, with Kubernetes' words where there is no log.
fn find(board: &Board, wanted: &Wanted) -> Result<Run, NoLog> {
    let Wanted { uid, container, previous, .. } = wanted;
    let node = board.node();
    let workloads = board.workloads();
    let found = workloads.values().find_map(|published| {
        let view = published.pods.iter().find(|view| view.record.uid.0 == *uid)?;
        Some((status::pod(published, view, &node), view))
    });
    let Some((pod, view)) = found else {
        return Err(NoLog { code: 404, why: format!("the node knows no pod {uid}") });
    };
    let name = &view.record.name;
    let of = |list: &str| pod["status"][list].as_array().cloned().unwrap_or_default();
    let all = of("initContainerStatuses").into_iter().chain(of("containerStatuses"));
    let status = all.into_iter().find(|status| status["name"] == container.as_str());
    let Some(status) = status else {
        return Err(NoLog { code: 400, why: format!("container {container} is not valid for pod {name}") });
    };
    let running = status["state"]["running"].is_object();
    let attempt = match (status::run_shown(&status, *previous), status["state"]["waiting"]["reason"].as_str()) {
        (Some(attempt), _) => attempt,
        // As in Kubernetes: the run that is to come has nothing to say yet.
        (None, Some(reason)) if !previous => {
            let why = format!("container {container:?} in pod {name:?} is waiting to start: {reason}");
            return Err(NoLog { code: 400, why });
        }
        (None, _) => {
            let why = format!("previous terminated container {container:?} in pod {name:?} not found");
            return Err(NoLog { code: 400, why });
        }
    };
    let pod_dir = format!("{}_{name}_{uid}", view.record.workload.namespace);
    Ok(Run { pod_dir, attempt, lives: running && !previous })
}

fn show(board: &Board, wanted: &Wanted, run: &Run, log_dir: PathBuf, out: &mut Out) -> io::Result<()> {
    let dir = LogDir::open(&log_dir, &run.pod_dir, &wanted.container)?;
    let mut files = dir.files(run.attempt)?;
    // There is one: who follows a silent one waits no longer for that.
    out.begin()?;
    if let Some(since) = wanted.since {
        // What was written last before it has no line of afterwards; a second's difference is the file system's.
        let since = SystemTime::from(since);
        let last = files.len().saturating_sub(1);
        let late = |file: &LogFile| file.written.checked_add(Duration::from_secs(1)).is_none_or(|it| it >= since);
        let first = files.iter().position(late).unwrap_or(last);
        files.drain(..first);
    }
    if let Some(most) = wanted.tail {
        keep_last(&mut files, usize::try_from(most).unwrap_or(usize::MAX))?;
    }
    let shown = Shown { since: wanted.since, timestamps: wanted.timestamps };
    let mut printer = Printer::new(shown, String::new(), false);
    let mut current = files.pop().ok_or(io::ErrorKind::NotFound)?;
    for file in &mut files {
        file.print(|line| printer.print(line, out))?;
        file.finish(|line| printer.print(line, out))?;
    }
    drop(files);
    current.print(|line| printer.print(line, out))?;
    if wanted.follow && run.lives {
        follow(board, wanted, run, &dir, &mut current, &mut printer, out)?;
    }
    current.finish(|line| printer.print(line, out))?;
    out.flush()
}

/// What comes, over rotations, until the run is over.
fn follow(
    board: &Board,
    wanted: &Wanted,
    run: &Run,
    dir: &LogDir,
    current: &mut LogFile,
    printer: &mut Printer,
    out: &mut Out,
) -> io::Result<()> {
    // All hints say the same: one that waits is enough.
    let (tell, hint) = hints::sync_channel(1);
    // Without inotify (no instances left) the slow look alone goes on.
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own opening and reading are events too, and must not wake us.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _waits_already = tell.try_send(());
        }
    })
    .ok();
    if let Some(watcher) = &mut watcher {
        let _slow_look_instead = watcher.watch(dir.watch_path().as_ref(), RecursiveMode::NonRecursive);
    }
    loop {
        // Asked before reading: what it wrote before its end is shown after we have learned of that.
        let lives = find(board, &Wanted { previous: false, ..wanted.clone() }).is_ok_and(|now| now == *run);
        current.print(|line| printer.print(line, out))?;
        while let Some(newer) = rotated(dir, run, current)? {
            // What was written between our last read and the rotation.
            current.print(|line| printer.print(line, out))?;
            current.finish(|line| printer.print(line, out))?;
            *current = newer;
            current.print(|line| printer.print(line, out))?;
        }
        out.flush()?;
        if !lives {
            return Ok(());
        }
        match hint.recv_timeout(LOOK_AGAIN) {
            Ok(()) => while hint.try_recv().is_ok() {},
            Err(hints::RecvTimeoutError::Timeout) => {}
            Err(hints::RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_AGAIN),
        }
        if out.sender.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// The file after this one, where there is one.
fn rotated(dir: &LogDir, run: &Run, current: &LogFile) -> io::Result<Option<LogFile>> {
    let same = |error: io::Error| match error.kind() {
        // Between a rename and the new file, or the pod is gone: nothing newer at present.
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    match dir.current(run.attempt) {
        Ok(named) if named.identity == current.identity => return Ok(None),
        Ok(_) => {}
        Err(error) => return same(error),
    }
    match dir.files(run.attempt) {
        Ok(mut files) => {
            // Where ours is no longer kept, all that is kept is newer.
            let after = files.iter().position(|file| file.identity == current.identity).map_or(0, |at| at + 1);
            Ok((after < files.len()).then(|| files.remove(after)))
        }
        Err(error) => same(error),
    }
}

/// Sends what is written, in pieces, up to a limit. Waits for whoever takes them.
struct Out {
    sender: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
    /// Bytes that may still be sent; None: any number.
    left: Option<u64>,
}

impl Out {
    fn begin(&self) -> io::Result<()> {
        self.sender.blocking_send(Bytes::new()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK.saturating_sub(self.waiting.len()).min(bytes.len());
        let most = self.left.map_or(room, |left| usize::try_from(left).unwrap_or(usize::MAX).min(room));
        self.waiting.extend_from_slice(&bytes[..most]);
        self.left = self.left.map(|left| left.saturating_sub(u64::try_from(most).unwrap_or(u64::MAX)));
        if self.left == Some(0) {
            self.flush()?;
            // It has what it asked for.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.waiting));
        self.sender.blocking_send(bytes).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_ends_a_log_where_it_is_reached() {
        for (limit, sent) in [(Some(5), "hello"), (Some(100), "hello world"), (None, "hello world")] {
            let (sender, mut bytes) = mpsc::channel(4);
            let mut out = Out { sender, waiting: Vec::new(), left: limit };
            let written = out.write_all(b"hello world").and_then(|()| out.flush());
            assert_eq!(written.is_err(), limit == Some(5), "{limit:?}");
            drop(out);
            let mut all = Vec::new();
            while let Some(piece) = bytes.blocking_recv() {
                all.extend_from_slice(&piece);
            }
            assert_eq!(String::from_utf8(all).unwrap(), sent);
        }
    }

    #[test]
    fn what_is_large_is_sent_in_pieces() {
        let (sender, mut bytes) = mpsc::channel(16);
        let mut out = Out { sender, waiting: Vec::new(), left: None };
        out.write_all(&vec![b'x'; 3 * CHUNK + 7]).unwrap();
        out.flush().unwrap();
        drop(out);
        let sizes: Vec<usize> = std::iter::from_fn(|| bytes.blocking_recv().map(|piece| piece.len())).collect();
        assert_eq!(sizes, [CHUNK, CHUNK, CHUNK, 7]);
    }
}
