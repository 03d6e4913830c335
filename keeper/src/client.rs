//! The agent's side of the log keeper: makes a container's pipes and speaks to the keeper's socket.
//!
//! Calls block, for `ANSWER_MAX` at most; an async caller wraps them in `spawn_blocking`. All are idempotent, and a
//! keeper that is just being restarted or upgraded is waited for (`RECONNECT_MAX`), so a caller need not try again by
//! itself within one call.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::Mode;

use crate::protocol::{self, Limits, Refusal, Request, Status, Target};

/// The longest wait for an answer. `close` writes up to two pipes of 1 MiB, `forget` removes a directory: both are
/// quick unless the disk hangs.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a keeper may be gone between two of its lives before a call fails: systemd restarts it at once.
const RECONNECT_MAX: Duration = Duration::from_secs(3);
/// Between two tries to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// An answer's longest size: a status line of some 400 bytes for a thousand containers fits twice.
const RESPONSE_MAX: u64 = 1024 * 1024;

/// A container whose output is to be read, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTarget {
    /// The container's id in containerd: letters, digits, dot, dash, underscore, at most 255.
    pub id: String,
    /// `pods/<ns>_<name>_<uid>/<container>/<n>.log`, relative to the log directory.
    pub log_path: String,
    /// `containers/<pod>_<ns>_<container>-<id>.log`, relative to the log directory.
    pub link: String,
}

/// The pipes to give to containerd. Both have a reader when `open` returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipes {
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

/// What a closed container's log came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Bytes that the container wrote and that are in its log.
    pub bytes: u64,
    pub lines: u64,
    /// Bytes that it wrote and that reached no log file.
    pub lost: u64,
}

/// Why a call failed.
#[derive(Debug)]
pub enum Error {
    /// The id, a path or a limit is not one that the keeper takes.
    Refused(Refusal),
    /// The pipes or the target could not be made.
    Files { path: PathBuf, source: io::Error },
    /// Nobody answers at the socket.
    Unreachable { socket: PathBuf, source: io::Error },
    /// The keeper answered with an error.
    Keeper { request: String, why: String },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Files { path, .. } => write!(f, "cannot make {}", path.display()),
            Self::Unreachable { socket, .. } => write!(
                f,
                "the log keeper does not answer at {}: start daemonlet-logkeeper (systemctl restart daemonlet-logkeeper)",
                socket.display()
            ),
            Self::Keeper { request, why } => write!(f, "the log keeper refused {request:?}: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Files { source, .. } | Self::Unreachable { source, .. } => Some(source),
            Self::Refused(_) | Self::Keeper { .. } => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The keeper that serves one run directory. Cheap to make and to copy; every call has a connection of its own.
#[derive(Clone, Debug)]
pub struct Keeper {
    run_dir: PathBuf,
}

impl Keeper {
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self { run_dir: run_dir.into() }
    }

    /// Makes the container's pipes (0600) and has the keeper open them. Calling it again for the same id is fine.
    pub fn open(&self, stream: &StreamTarget) -> Result<Pipes, Error> {
        let id = protocol::container_id(&stream.id)?;
        let target = Target::new(&stream.log_path, &stream.link)?;
        let dir = self.run_dir.join(protocol::STREAMS).join(id);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(files(&dir))?;
        let pipes = Pipes { stdout: dir.join("stdout"), stderr: dir.join("stderr") };
        for pipe in [&pipes.stdout, &pipes.stderr] {
            make_pipe(pipe).map_err(files(pipe))?;
        }
        let path = dir.join(protocol::TARGET);
        write_beside(&path, &target.to_string()).map_err(files(&path))?;
        self.ask(&Request::Open(id.into()))?;
        Ok(pipes)
    }

    /// Has what is left in the pipes written, and the container's pipes and journal removed. Its log stays.
    pub fn close(&self, id: &str) -> Result<Closed, Error> {
        let (_, last) = self.ask(&Request::Close(protocol::container_id(id)?.into()))?;
        let words = protocol::words(&last);
        let number = |key| words.get(key).and_then(|value| value.parse().ok()).unwrap_or(0);
        Ok(Closed { bytes: number("bytes"), lines: number("lines"), lost: number("lost") })
    }

    /// Removes a pod's log directory (`pods/<ns>_<name>_<uid>`) and the links to it. Its containers must be closed.
    pub fn forget(&self, pod_dir: &str) -> Result<(), Error> {
        self.ask(&Request::Forget(protocol::pod_dir(pod_dir)?.into())).map(|_| ())
    }

    /// As [`Keeper::forget`], but the directory is kept aside for `keep`, unless the budget takes it.
    pub fn retire(&self, pod_dir: &str, keep: Duration) -> Result<(), Error> {
        let request = |dir: &str| Request::Retire(keep.as_secs(), dir.into());
        match self.ask(&request(protocol::pod_dir(pod_dir)?)) {
            // A keeper of an earlier version keeps nothing.
            Err(Error::Keeper { why, .. }) if why.starts_with("unknown request") => self.forget(pod_dir),
            answer => answer.map(|_| ()),
        }
    }

    /// Sets the limits, for this keeper and those after it until the run directory is gone.
    pub fn limits(&self, limits: Limits) -> Result<(), Error> {
        self.ask(&Request::Limits(limits.check()?)).map(|_| ())
    }

    /// What the keeper reads, and what went wrong.
    pub fn status(&self) -> Result<Status, Error> {
        let (lines, last) = self.ask(&Request::Status)?;
        Ok(Status::parse(&lines, &last))
    }

    /// Sends one request, once more where a keeper ended before it answered.
    fn ask(&self, request: &Request) -> Result<(Vec<String>, String), Error> {
        let path = self.run_dir.join(protocol::SOCKET);
        let deadline = Instant::now() + RECONNECT_MAX;
        loop {
            match exchange(&path, request, ANSWER_MAX) {
                Ok((lines, last)) => {
                    return match last.strip_prefix("err ") {
                        Some(why) => Err(Error::Keeper { request: request.to_string(), why: why.into() }),
                        None => Ok((lines, last)),
                    };
                }
                Err(error) if is_gone(&error) && Instant::now() < deadline => std::thread::sleep(RECONNECT_PAUSE),
                Err(source) => return Err(Error::Unreachable { socket: path, source }),
            }
        }
    }
}

/// The keeper is between two lives, or its queue is full: worth another try.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
        || error.raw_os_error() == Some(Errno::EAGAIN as i32) && error.kind() != io::ErrorKind::TimedOut
}

fn exchange(path: &Path, request: &Request, patience: Duration) -> io::Result<(Vec<String>, String)> {
    // Connecting to a stopped keeper whose queue is full would block for ever, so it is done without blocking.
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let mut stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    writeln!(stream, "{request}")?;
    let mut lines = Vec::new();
    let mut reader = BufReader::new(stream.take(RESPONSE_MAX));
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).map_err(|error| no_answer(error, patience))?;
        match line.strip_suffix('\n') {
            Some(line) if line.starts_with("- ") => lines.push(line.into()),
            Some(line) => return Ok((lines, line.into())),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A read that ran into its timeout says EAGAIN, which would look like a full queue.
fn no_answer(error: io::Error, patience: Duration) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", patience.as_millis()))
        }
        _ => error,
    }
}

fn make_pipe(path: &Path) -> io::Result<()> {
    match nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) if std::fs::symlink_metadata(path)?.file_type().is_fifo() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_beside(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&beside, path)
}

fn files(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Files { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_dead_keeper_is_an_error_that_names_its_socket_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Keeper::new(dir.path()).status().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{}/logkeeper.sock", dir.path().display())), "{text}");
        assert!(text.contains("systemctl restart daemonlet-logkeeper"), "{text}");
        assert!(error.source().is_some());
    }

    #[test]
    fn a_keeper_that_hangs_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(protocol::SOCKET);
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = exchange(&path, &Request::Status, Duration::from_millis(50)).unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && !is_gone(&error), "{error:?}");
    }

    #[test]
    fn bad_names_never_reach_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(dir.path());
        let target =
            StreamTarget { id: "../x".into(), log_path: "pods/a/b/0.log".into(), link: "containers/x.log".into() };
        assert!(matches!(keeper.open(&target), Err(Error::Refused(_))));
        assert!(matches!(keeper.forget("pods/.."), Err(Error::Refused(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
