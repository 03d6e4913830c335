//! One container's output, from its two pipes to its log file.
//!
//! Driven by `serve`, one bounded `turn` of one stream at a time. `journal` explains why a kill at any instruction loses
//! nothing. What this file adds is the rule for a log that cannot be written (disk full, I/O error): for `BLOCK_MAX` the
//! bytes stay in the pipe and a daemon that fills it waits; then the oldest are dropped, so that a full disk never stops
//! a daemon, and a marker line tells how many once the log can be written again.
//!
//! Rotated files are not compressed: what ships them (fluent-bit and others) reads plain ones, and the keeper stays small.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::protocol::{ContainerStatus, Limits, TARGET, Target};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::beneath::{self, Beneath};
use crate::cri::{self, FRAGMENT_MAX, Stream, Tail};
use crate::journal::{Cause, Found, Intent, Journal, Record};
use crate::log_file::{LogFile, Opened};
use crate::spool::{Spool, Take};

/// Bytes of one stream in one turn: a default pipe's worth, so that no stream waits long for the others.
const IN_MAX: usize = 64 * 1024;
/// Bytes of log lines in one turn. Short lines grow threefold and more, so it is larger than the input.
const OUT_MAX: usize = 128 * 1024;
/// A daemon waits at most this long for a log that cannot be written: less than common liveness probes allow.
pub const BLOCK_MAX: Duration = Duration::from_secs(5);
/// A log that fails again this soon after it was written, as a disk does that has room for a line and not for ten,
/// is not waited for a second time.
const CALM: Duration = Duration::from_secs(60);
/// An unwritable log is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// The newest bytes that are kept for an unwritable log, so that its last words are there when it heals: as many as
/// leave room for more to be taken.
const SHED_KEEP: u64 = FRAGMENT_MAX as u64;
/// Bytes read from each pipe at `close`: the largest pipe. A writer that lives on is not followed for ever.
pub const CLOSE_MAX: u64 = PIPE_MAX as u64 + IN_MAX as u64;
/// The most that one pipe gets; the kernel's own default bound for those without privilege.
const PIPE_MAX: usize = 1024 * 1024;
/// Linux gives every pipe this much.
const PIPE_MIN: usize = 64 * 1024;
/// What all pipes get together beyond the least: half of what the kernel lets one user have (pipe-user-pages-soft, 64 MiB)
/// before it shrinks new pipes of that user, and root in containers is the same user.
pub const PIPES_ROOM: usize = 32 * 1024 * 1024;

/// What all containers share.
#[derive(Debug)]
pub struct Shared {
    pub logs: Beneath,
    pub limits: Limits,
    /// Bytes beneath `pods/`, as last counted plus what was written since.
    pub used: u64,
    /// What the pipes may still grow by.
    pub pipes_room: usize,
    /// Used for one turn at a time, so that idle streams need none.
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Shared {
    pub fn new(logs: Beneath, limits: Limits) -> Self {
        Self { logs, limits, used: 0, pipes_room: PIPES_ROOM, input: Vec::new(), output: Vec::new() }
    }

    /// Gives the buffers back, when nothing is being written.
    pub fn rest(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
    }
}

/// The time, taken once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since 1970.
    pub wall: Duration,
    pub mono: Instant,
}

impl Now {
    pub fn read() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { wall, mono: Instant::now() }
    }
}

/// One of the two pipes.
#[derive(Debug)]
struct Source {
    pipe: File,
    spool: Spool,
    /// What the pipe got out of the shared room.
    grown: usize,
    /// There may be something in the pipe or a whole line in the spool.
    ready: bool,
    /// Nobody had the pipe open for writing when it was last read.
    ended: bool,
}

/// A log that cannot be written.
#[derive(Debug)]
struct Failing {
    sheds_at: Instant,
    next_try: Instant,
    why: String,
}

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

    /// Writes the spool's next lines, `OUT_MAX` bytes of them at most. True when there are more.
    fn write(&mut self, stream: Stream, tail: Tail, shared: &mut Shared, now: Now) -> io::Result<bool> {
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
    fn append(
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
    fn written(&mut self, stream: Stream, framed: cri::Framed) {
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
    fn room_for(&mut self, more: u64, shared: &mut Shared, now: Now) -> io::Result<u64> {
        let size = self.log(shared)?;
        if size == 0 || size.saturating_add(more) <= shared.limits.max_file_size {
            return Ok(size);
        }
        self.rotate(shared, now)?;
        self.log(shared)
    }

    /// Makes sure that there is a log file with a name, and returns its size.
    fn log(&mut self, shared: &mut Shared) -> io::Result<u64> {
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

    fn opened(&mut self, opened: Opened) {
        self.record.log = opened.file.identity();
        if opened.refused > 0 {
            crate::say(&format!("container {}: something foreign at {} was moved aside", self.id, self.target.log));
        }
        self.record.refused = self.record.refused.saturating_add(opened.refused);
        self.log = Some(opened.file);
    }

    /// The link has a relative text, so that it leads to the log wherever the log directory is mounted.
    fn link(&self, shared: &Shared) -> io::Result<()> {
        let (dir, name) = self.target.link.rsplit_once('/').expect("a checked link has a directory");
        beneath::link(&shared.logs.make_dirs(dir)?, name, &format!("../{}", self.target.log))
    }

    fn fail(&mut self, error: &io::Error, now: Now) {
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

    fn healthy(&mut self, now: Now) {
        if self.failing.take().is_some() {
            crate::say(&format!("container {}: {} can be written again", self.id, self.target.log));
            self.healed = Some(now.mono);
        }
    }

    /// A turn that had nothing to write tells nothing about a log that failed, unless the log did not even exist.
    fn heal(&mut self, shared: &mut Shared, now: Now) {
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
    fn shed(&mut self, stream: Stream, shared: &mut Shared, keep: u64) {
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

    /// The run directory is full: what is in the pipe goes to the log through memory, as it is.
    fn read_directly(&mut self, stream: Stream, shared: &mut Shared, now: Now) {
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

    /// Goes on where a former keeper ended.
    fn take_up(&mut self, found: Found, shared: &mut Shared, now: Now) {
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
    fn finish(
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

    /// Writes the record. A run directory that fails leaves the old record; reading goes on, a daemon must not stop.
    fn remember(&self) {
        let _ = self.journal.write(&self.record);
    }
}

impl Failing {
    fn sheds(&self, now: Now) -> bool {
        now.mono >= self.sheds_at
    }
}

/// The lines that tell what is missing before the next line of `stream`.
fn markers(record: &Record, stream: Stream, stamp: &str, output: &mut Vec<u8>) {
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

fn read_target(path: &Path) -> io::Result<Target> {
    let file = OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    let mut text = String::new();
    file.take(keeper::protocol::TARGET_MAX as u64).read_to_string(&mut text)?;
    Target::parse(&text).map_err(io::Error::other)
}

/// Opens a pipe for reading without waiting for a writer, and gives it a share of `room`.
fn open_pipe(path: &Path, room: usize) -> io::Result<(File, usize)> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let pipe = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("is not a pipe"));
    }
    // The first pipes get the most, later ones less and less, so that there is always a share left.
    let share = (room / 8).min(PIPE_MAX);
    let mut wanted = if share < 2 * PIPE_MIN { 0 } else { 1 << share.ilog2() };
    let mut size = usize::try_from(fcntl(&pipe, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(PIPE_MIN);
    while wanted > size {
        match fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(i32::try_from(wanted).unwrap_or(i32::MAX))) {
            Ok(got) => size = usize::try_from(got).unwrap_or(size),
            Err(_) => wanted /= 2,
        }
    }
    Ok((pipe, size.saturating_sub(PIPE_MIN)))
}

#[cfg(test)]
mod tests;
