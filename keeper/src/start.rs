//! From the command line to a serving keeper: options, taking over from a keeper that runs, telling systemd.
//!
//! Driven by `main`. A keeper that runs holds the lock. The new one opens every pipe first, so that there is a reader at
//! every moment, then asks the old one to stop, and takes up what its journals say once it holds the lock.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::protocol::{self, Limits, Refusal, Request};
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::beneath::Beneath;
use crate::container::Shared;
use crate::own;
use crate::serve::{End, Serve};

pub const USAGE: &str = "\
Reads the output of this node's containers and writes CRI log files.

usage: daemonlet-logkeeper --run-dir D --log-dir L [options]
       daemonlet-logkeeper hold UID [NS]     only for the agent: holds a pod's process namespace; NS: of users of its own, pinned there
       daemonlet-logkeeper own UID HOSTNAME [SYSCTL=VALUE…]
                                             only for the agent: namespaces of a pod with users of its own

  --run-dir D           where the pipes and the socket logkeeper.sock are (/run/daemonlet)
  --log-dir L           gets pods/ and containers/ (/var/log)
  --max-file-size N     bytes at which a log file is rotated (default 10485760)
  --max-files N         files kept per container, the current one included (default 5)
  --budget N            bytes for all files beneath pods/ (default 1073741824)
  --version             prints the version
  --help                prints this text

A keeper that runs on the same run directory hands over and exits.";

/// An old keeper answers between two turns, which take milliseconds; a disk that hangs takes longer.
const HANDOVER_MAX: Duration = Duration::from_secs(10);
/// Between two looks at the lock of a keeper that exits.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Run(Options),
    /// Hold the process namespace of a pod, whose uid is for whoever looks at the list of processes.
    Hold,
    /// The same for a pod with users of its own, whose namespaces are pinned in this directory.
    HoldAmongOwnUsers {
        uid: String,
        ns: PathBuf,
    },
    /// Make the namespaces of a pod with users of its own; the uid is for whoever looks at the list of processes.
    Own(own::Wanted),
    Say(String),
}

/// The keeper's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    pub limits: Limits,
}

impl Options {
    /// Reads the words behind the program's name. A value follows its flag or stands behind `=`.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, Refusal> {
        let (mut run_dir, mut log_dir, mut limits) = (None, None, Limits::default());
        let mut args = args.into_iter().peekable();
        if args.next_if(|word| word == "hold").is_some() {
            return match (args.next().map(OsString::into_string), args.next(), args.next()) {
                (Some(Ok(_)), None, _) => Ok(Asked::Hold),
                (Some(Ok(uid)), Some(ns), None) => Ok(Asked::HoldAmongOwnUsers { uid, ns: ns.into() }),
                _ => Err(Refusal("hold takes the uid of a pod, and the directory of its namespaces".into())),
            };
        }
        if args.next_if(|word| word == "own").is_some() {
            let words: Result<Vec<String>, _> = args.skip(1).map(OsString::into_string).collect();
            let wanted = words.ok().and_then(|words| own::Wanted::parse(&words));
            let refused = || Refusal("own takes the uid of a pod, its host name, and sysctls as NAME=VALUE".into());
            return wanted.map(Asked::Own).ok_or_else(refused);
        }
        while let Some(arg) = args.next() {
            let arg = arg.into_string().map_err(|arg| Refusal(format!("{arg:?} is not text")))?;
            let (flag, joined) = match arg.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(OsString::from(value))),
                None => (arg, None),
            };
            match flag.as_str() {
                "--version" => return Ok(Asked::Say(format!("daemonlet-logkeeper {}", env!("CARGO_PKG_VERSION")))),
                "--help" | "-h" => return Ok(Asked::Say(USAGE.into())),
                "--run-dir" | "--log-dir" | "--max-file-size" | "--max-files" | "--budget" => {}
                other => return Err(Refusal(format!("unknown option {other:?}"))),
            }
            let value = joined.or_else(|| args.next()).ok_or_else(|| Refusal(format!("{flag} needs a value")))?;
            let number = || -> Result<u64, Refusal> {
                value
                    .to_str()
                    .and_then(|v| v.parse().ok())
                    .ok_or_else(|| Refusal(format!("{flag}: {value:?} is not a number")))
            };
            match flag.as_str() {
                "--run-dir" => run_dir = Some(PathBuf::from(&value)),
                "--log-dir" => log_dir = Some(PathBuf::from(&value)),
                "--max-file-size" => limits.max_file_size = number()?,
                "--max-files" => limits.max_files = number()?,
                _ => limits.budget = number()?,
            }
        }
        let run_dir = run_dir.ok_or_else(|| Refusal("--run-dir is missing".into()))?;
        let log_dir = log_dir.ok_or_else(|| Refusal("--log-dir is missing".into()))?;
        Ok(Asked::Run(Self { run_dir, log_dir, limits: limits.check()? }))
    }
}

/// Runs until the keeper is told to end.
pub fn run(options: &Options) -> io::Result<End> {
    // Whatever it was started with: others read log directories, and nobody else writes anything of ours.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    more_files();
    let streams = options.run_dir.join(protocol::STREAMS);
    DirBuilder::new().recursive(true).mode(0o700).create(&streams).map_err(|error| at(&streams, &error))?;
    let lock_path = options.run_dir.join(protocol::LOCK);
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| at(&lock_path, &error))?;
    // Held open until this keeper has its own descriptors, and longer than the old one's.
    let pipes = take_over(&options.run_dir, &lock)?;
    let logs = Beneath::new(&options.log_dir).map_err(|error| at(&options.log_dir, &error))?;
    let mut serve = Serve::new(&options.run_dir, Shared::new(logs, limits(options)))?;
    serve.take_up_all()?;
    drop(pipes);
    serve.listen()?;
    ready();
    serve.run()
}

/// Takes the lock; where a keeper holds it, opens all pipes and asks that keeper to end first.
fn take_over(run_dir: &Path, lock: &File) -> io::Result<Vec<File>> {
    if locked(lock)? {
        return Ok(Vec::new());
    }
    let mut pipes = Vec::new();
    for entry in std::fs::read_dir(run_dir.join(protocol::STREAMS))? {
        let dir = entry?.path();
        for name in ["stdout", "stderr"] {
            let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
            pipes.extend(OpenOptions::new().read(true).custom_flags(flags.bits()).open(dir.join(name)).ok());
        }
    }
    let deadline = Instant::now() + HANDOVER_MAX;
    let mut asked = false;
    loop {
        // The old keeper may be gone without an answer, or may not listen yet: the lock alone tells who reads.
        if !asked {
            asked = ask(&run_dir.join(protocol::SOCKET)).is_ok();
        }
        if locked(lock)? {
            return Ok(pipes);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!(
                "another keeper holds {} and did not hand over within {} s: end it (its pid is in `status`) and start again",
                run_dir.join(protocol::LOCK).display(),
                HANDOVER_MAX.as_secs()
            )));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

fn ask(socket: &Path) -> io::Result<()> {
    let mut socket = UnixStream::connect(socket)?;
    socket.set_read_timeout(Some(HANDOVER_MAX))?;
    writeln!(socket, "{}", Request::Handover)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    if answer == "ok\n" { Ok(()) } else { Err(io::Error::other(answer)) }
}

fn locked(lock: &File) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The limits that the agent set last, or those of the command line.
fn limits(options: &Options) -> Limits {
    std::fs::read_to_string(options.run_dir.join(protocol::LIMITS))
        .ok()
        .and_then(|text| Limits::parse(&text).ok())
        .unwrap_or(options.limits)
}

/// A container takes up to six descriptors, and the usual soft limit is 1,024. Fewer than wanted only means fewer
/// containers, each refused with its reason.
fn more_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Tells systemd (sd_notify's protocol) that requests are answered. Nobody listening is fine.
fn ready() {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text = format!("READY=1\nMAINPID={}\n", std::process::id());
    let sent = UnixDatagram::unbound().and_then(|socket| match to.as_bytes().strip_prefix(b"@") {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(text.as_bytes(), &address)
        }
        None => socket.send_to(text.as_bytes(), Path::new(&to)),
    });
    if let Err(error) = sent {
        crate::say(&format!("NOTIFY_SOCKET {to:?}: {error}"));
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Asked, Refusal> {
        Options::parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let asked = parse("--run-dir /r --log-dir=/l --max-file-size 5000 --max-files=3 --budget 6000").unwrap();
        let limits = Limits { max_file_size: 5000, max_files: 3, budget: 6000 };
        assert_eq!(asked, Asked::Run(Options { run_dir: "/r".into(), log_dir: "/l".into(), limits }));
        let Ok(Asked::Run(options)) = parse("--run-dir /r --log-dir /l") else { panic!() };
        assert_eq!(parse("hold 0a-1b"), Ok(Asked::Hold));
        assert_eq!(parse("hold 0a /n"), Ok(Asked::HoldAmongOwnUsers { uid: "0a".into(), ns: "/n".into() }));
        assert_eq!(options.limits, Limits { max_file_size: 10_485_760, max_files: 5, budget: 1_073_741_824 });
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in [
            "",
            "--run-dir /r",
            "--run-dir /r --log-dir",
            "--run-dir /r --log-dir /l --max-files 1",
            "--run-dir /r --log-dir /l --budget x",
            "--run-dir /r --log-dir /l --unknown",
            "serve",
            "hold",
            "hold a b c",
            "--run-dir /r hold a",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
