//! The process that holds a pod's shared process namespace (`shareProcessNamespace`): the only namespace that ends with its
//! first process, so that a mount cannot keep it.
//!
//! Driven by `sandbox`. The process is the log keeper's program with a word of its own (`keeper/src/hold.rs`); it outlives the agent. A
//! note in the run directory names it by number and time of start. The order of things leaves no process without a note,
//! wherever the agent is killed: it stays only after it was told to, which comes last. What is noted and lives is killed
//! through a descriptor of it, so that its number cannot have become another's. Blocking, milliseconds.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use pod::name::Uid;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::namespaces::{self, Kind};
use crate::readable;

/// The pinned namespace's file, and its name in an OCI spec.
pub const FILE: &str = "pid";
/// It makes a dozen system calls; a node under load may need a while.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// A killed process that has not ended after this long is stuck in the kernel.
const END_WITHIN: Duration = Duration::from_secs(3);
/// What it says is one line.
const SAID_MAX: usize = 512;
/// As the kubelet gives to a pod's first process: not what the kernel should end for memory.
const OOM_SCORE: &str = "-998";
/// The thread only starts a program.
const THREAD_STACK_BYTES: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error("cannot start {program}, which holds the pod's process namespace")]
    Start { program: PathBuf, source: io::Error },
    #[error("the process that holds the pod's process namespace does not come up: {said}")]
    NotReady { said: String },
    #[error("cannot pin the pod's process namespace at {path}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("cannot write {path}, which names the process that holds the pod's process namespace")]
    Note { path: PathBuf, source: io::Error },
    #[error("cannot tell from {path} whether the process that holds the pod's process namespace lives")]
    Look { path: PathBuf, source: io::Error },
    #[error("the process {pid} that holds the pod's process namespace cannot be ended")]
    End { pid: i32, source: io::Error },
}

/// Where a pod's holder is noted and pinned.
#[derive(Debug, Clone)]
pub struct Place {
    /// `<run-dir>/holders/<uid>`: `pid start-time`, beside what may be unmounted.
    pub note: PathBuf,
    /// The pod's pinned namespaces.
    pub ns: PathBuf,
}

impl Place {
    pub fn pin(&self) -> PathBuf {
        self.ns.join(FILE)
    }

    /// Whether the noted process lives and its namespace is pinned. Err: that cannot be told now (no descriptors or memory are
    /// left), which says nothing about the process.
    pub fn is_held(&self) -> Result<bool, HolderError> {
        if !namespaces::is_pinned(&self.pin()) {
            return Ok(false);
        }
        let lives = || noted(&self.note)?.map_or(Ok(false), |noted| noted.lives());
        lives().map_err(|source| self.look(source))
    }

    /// Kills the noted process, and with it all that is in its namespace, and waits for its end. Ok when there is none. After an
    /// error the note stays: without it nobody would know the process.
    pub fn end(&self) -> Result<(), HolderError> {
        if let Some(noted) = noted(&self.note).map_err(|source| self.look(source))? {
            noted.end().map_err(|source| HolderError::End { pid: noted.pid, source })?;
        }
        match fs::remove_file(&self.note) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(HolderError::Note { path: self.note.clone(), source })
            }
            _ => Ok(()),
        }
    }

    fn look(&self, source: io::Error) -> HolderError {
        HolderError::Look { path: self.note.clone(), source }
    }
}

/// A process that is ready and ends by itself unless it is told to stay.
#[derive(Debug)]
pub struct Ready {
    pub pid: i32,
    stay: io::PipeWriter,
}

/// How the process gets into the pod's other namespaces.
#[derive(Debug, Clone, Copy)]
pub enum Way<'a> {
    /// The thread that starts it enters these of them.
    Through(&'a [Kind]),
    /// It enters all of them by itself, because they belong to the pod's own users.
    AmongOwnUsers,
}

/// Starts the process in a new process namespace and in those of the pod's that are pinned in `ns`. Must be called within the
/// agent's runtime, which takes its exit status.
pub fn start(program: &Path, uid: &Uid, ns: &Path, way: Way<'_>) -> Result<Ready, HolderError> {
    let failed = |source| HolderError::Start { program: program.to_owned(), source };
    let (stdin, stay) = io::pipe().map_err(failed)?;
    let (said, stdout) = io::pipe().map_err(failed)?;
    let runtime = tokio::runtime::Handle::current();
    // The thread's namespaces go with it.
    let started = std::thread::scope(|scope| {
        let begin = || {
            let mut command = std::process::Command::new(program);
            command.args(["hold", &uid.0]).env_clear().current_dir("/");
            match way {
                Way::Through(kinds) => {
                    for kind in kinds {
                        setns(fs::File::open(ns.join(kind.file()))?, kind.flag())?;
                    }
                    unshare(CloneFlags::CLONE_NEWPID)?;
                }
                Way::AmongOwnUsers => drop(command.arg(ns)),
            }
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::null());
            let _runtime = runtime.enter();
            // Dropped, it runs on, and its exit status is taken when it ends.
            tokio::process::Command::from(command).spawn().map(|child| child.id())
        };
        let thread = std::thread::Builder::new().name("holder".into()).stack_size(THREAD_STACK_BYTES);
        thread.spawn_scoped(scope, begin)?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    });
    let pid = started.map_err(failed)?.and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| failed(io::Error::other("it ended at once")))?;
    match first_line(said) {
        Ok(line) if line == "held" => Ok(Ready { pid, stay }),
        Ok(said) => match number(&said) {
            // Another one than was started, which is done.
            Some(pid) => Ok(Ready { pid, stay }),
            None if said.is_empty() => Err(HolderError::NotReady { said: "it ended at once".into() }),
            None => Err(HolderError::NotReady { said }),
        },
        Err(error) => Err(HolderError::NotReady { said: error.to_string() }),
    }
}

/// The process in `held 123`.
fn number(line: &str) -> Option<i32> {
    line.strip_prefix("held ")?.parse().ok()
}

impl Ready {
    /// Pins its namespace, notes it down, and has it stay. After an error it ends.
    pub fn stay(mut self, place: &Place) -> Result<(), HolderError> {
        // Without CAP_SYS_RESOURCE it keeps the agent's, which is good enough.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", self.pid), OOM_SCORE);
        let pin = place.pin();
        let pinned = || {
            // There is none where all its other namespaces are the node's.
            fs::create_dir_all(&place.ns)?;
            if !pin.exists() {
                fs::OpenOptions::new().write(true).create_new(true).open(&pin)?;
            }
            super::mounts::unmount(&pin)?;
            let own = format!("/proc/{}/ns/pid", self.pid);
            Ok(mount(Some(own.as_str()), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
        };
        pinned().map_err(|source: io::Error| HolderError::Pin { path: pin.clone(), source })?;
        let noted = || {
            let start = start_time(self.pid)?.ok_or_else(|| io::Error::other("it has ended"))?;
            fs::create_dir_all(place.note.parent().unwrap_or(Path::new("/")))?;
            let beside = place.note.with_extension("tmp");
            fs::write(&beside, format!("{} {start}", self.pid))?;
            fs::rename(&beside, &place.note)
        };
        let note = |source| HolderError::Note { path: place.note.clone(), source };
        noted().map_err(note)?;
        self.stay.write_all(b"\n").map_err(note)
    }
}

/// What it says; empty when it ends without a word.
fn first_line(mut said: io::PipeReader) -> io::Result<String> {
    if !readable::within(&said, READY_WITHIN)? {
        return Err(io::Error::other(format!("it says nothing within {} s", READY_WITHIN.as_secs())));
    }
    let mut bytes = [0; SAID_MAX];
    // Written at once, and shorter than what a pipe takes at once.
    let length = said.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
}

/// A process by its number and its time of start, in the kernel's ticks since the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    pid: i32,
    start: u64,
}

/// None: nothing is noted, or what a power cut left of it.
fn noted(note: &Path) -> io::Result<Option<Noted>> {
    let parsed = |text: String| {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Noted { pid: pid.parse().ok()?, start: start.parse().ok()? })
    };
    match fs::read(note) {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok().and_then(parsed)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Noted {
    fn lives(&self) -> io::Result<bool> {
        Ok(start_time(self.pid)? == Some(self.start))
    }

    fn end(&self) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            // EINVAL: a number that no process has, from a torn note.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        // Whoever has its number now is another, and was opened for nothing.
        if !self.lives()? {
            return Ok(());
        }
        // It may have ended by itself.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        match readable::within(&process, END_WITHIN)? {
            true => Ok(()),
            false => Err(io::Error::other(format!("it still runs {} s after a SIGKILL", END_WITHIN.as_secs()))),
        }
    }
}

/// Field 22 of /proc/PID/stat (proc(5)); None: there is no such process, or it has ended.
fn start_time(pid: i32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // ESRCH: it went while it was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = String::from_utf8_lossy(&stat);
    let odd = || io::Error::other(format!("/proc/{pid}/stat is not understood"));
    // The name, in parentheses, may have any characters.
    let mut fields = stat.rsplit_once(')').ok_or_else(odd)?.1.split_whitespace();
    if matches!(fields.next().ok_or_else(odd)?, "Z" | "X") {
        return Ok(None);
    }
    fields.nth(18).and_then(|start| start.parse().ok()).map(Some).ok_or_else(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { note: dir.path().join("holders/0a"), ns: dir.path().join("ns") };
        place.end().unwrap();
        fs::create_dir_all(dir.path().join("holders")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_time(pid).unwrap().unwrap();
        // Another process that has got the number since.
        fs::write(&place.note, format!("{pid} {}", start + 1)).unwrap();
        place.end().unwrap();
        assert!(child.try_wait().unwrap().is_none() && !place.note.exists());
        fs::write(&place.note, format!("{pid} {start}")).unwrap();
        assert!(noted(&place.note).unwrap().unwrap().lives().unwrap());
        assert!(!place.is_held().unwrap(), "nothing is pinned");
        place.end().unwrap();
        assert_eq!(start_time(pid).unwrap(), None, "it has ended, and nobody has taken its status yet");
        assert!(!child.wait().unwrap().success());
        place.end().unwrap();
        fs::write(&place.note, "torn").unwrap();
        place.end().unwrap();
        assert!(!place.note.exists());
    }
    #[test]
    fn what_cannot_be_read_is_neither_gone_nor_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { note: dir.path().join("holders/0a"), ns: dir.path().join("ns") };
        fs::create_dir_all(dir.path().join("ns")).unwrap();
        fs::write(place.pin(), "").unwrap();
        let own = "/proc/self/ns/pid";
        mount(Some(own), &place.pin(), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("these tests need root");
        // A directory cannot be read, as a file cannot when no descriptors are left.
        fs::create_dir_all(&place.note).unwrap();
        let (held, ended, kept) = (place.is_held(), place.end(), place.note.exists());
        super::super::mounts::unmount(&place.pin()).unwrap();
        assert!(matches!(held, Err(HolderError::Look { .. })), "{held:?}");
        assert!(matches!(ended, Err(HolderError::Look { .. })) && kept, "{ended:?}");
    }
}
