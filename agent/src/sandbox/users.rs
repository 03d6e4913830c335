//! Users of a pod's own (`hostUsers: false`): which of the node's numbers they are, and namespaces that belong to them.
//!
//! Driven by `sandbox`; blocking, milliseconds. A range is the pod's as long as its surroundings stand: it is noted in the pod's
//! directory in memory, and nothing on disk depends on it, since volumes are mounted with mapped ids and each run has a new layer. The
//! namespaces are made by a process of the log keeper's program (`keeper/src/own.rs`), which ends before there is a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use pod::name::Uid;

use super::namespaces::Kind;
use super::netlink;
use crate::readable;
use crate::seams::OwnUsers;

/// The pinned namespace's file, and its name in an OCI spec.
pub const FILE: &str = "user";
/// In the pod's directory: the first of its ids on the node.
const NOTE: &str = "users";
/// The first range: above what systemd gives to containers (UIDS-GIDS of systemd.io), and above what useradd writes to /etc/subuid.
const FIRST: u32 = 0x7000_0000;
/// More pods than a node runs; all lie below 2^31, above which ids are not safe everywhere.
const RANGES: u32 = 1024;
/// It makes a dozen system calls; a node under load may need a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What it says is one line.
const SAID_MAX: usize = 512;
/// The thread only brings an interface up.
const THREAD_STACK_BYTES: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("all {RANGES} ranges of users are taken")]
    NoneLeft,
    #[error("cannot note the pod's range of users at {path}")]
    Note { path: PathBuf, source: io::Error },
    #[error("cannot start {program}, which makes the pod's user namespace")]
    Start { program: PathBuf, source: io::Error },
    #[error("the pod's user namespace cannot be made: {said}")]
    NotMade { said: String },
    #[error("cannot map the pod's users (is CAP_SETUID there?)")]
    Map(#[source] io::Error),
    #[error("cannot pin a namespace at {path}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("cannot bring up the loopback interface of the pod's network namespace")]
    Loopback(#[source] io::Error),
}

/// One taker at a time: two pods never get the same range.
#[derive(Debug, Default)]
pub struct Ranges {
    taking: Mutex<()>,
}

impl Ranges {
    /// The pod's range: the one that it has, else a free one. `pods`: the directory with all pods' directories.
    pub fn take(&self, pods: &Path, uid: &Uid) -> Result<OwnUsers, UsersError> {
        let pod_dir = pods.join(&uid.0);
        if let Some(own) = noted(&pod_dir) {
            return Ok(own);
        }
        let _one = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let note = pod_dir.join(NOTE);
        let failed = |source| UsersError::Note { path: note.clone(), source };
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(pods).map_err(failed)? {
            taken.extend(noted(&entry.map_err(failed)?.path()).map(|own| own.first));
        }
        let all = (0..RANGES).map(|range| FIRST.saturating_add(range.saturating_mul(OwnUsers::COUNT)));
        let first = all.into_iter().find(|first| !taken.contains(first)).ok_or(UsersError::NoneLeft)?;
        let beside = note.with_extension("tmp");
        fs::write(&beside, first.to_string()).and_then(|()| fs::rename(&beside, &note)).map_err(failed)?;
        Ok(OwnUsers { first })
    }
}

/// The range of the pod whose directory this is. None: it has none.
pub fn noted(pod_dir: &Path) -> Option<OwnUsers> {
    let first = fs::read_to_string(pod_dir.join(NOTE)).ok()?.trim().parse().ok()?;
    Some(OwnUsers { first })
}

/// How the namespaces are to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub users: OwnUsers,
    pub hostname: &'a str,
    pub sysctls: &'a BTreeMap<String, String>,
}

/// Makes a user namespace and in it the others, pinned at `<dir>/{user,net,ipc,uts}`; nothing may be pinned there before. After an
/// error the caller removes what there is.
pub fn make(program: &Path, uid: &Uid, dir: &Path, wanted: &Wanted<'_>) -> Result<(), UsersError> {
    let failed = |source| UsersError::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(["own", &uid.0, wanted.hostname]).env_clear().current_dir("/");
    command.args(wanted.sysctls.iter().map(|(name, value)| format!("{name}={value}")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let pid = child.id();
    let made = match (child.stdin.take(), child.stdout.take()) {
        (Some(mut answer), Some(said)) => {
            let mut said = BufReader::new(said);
            expect(&mut said, "users").and_then(|()| {
                map(pid, wanted.users).map_err(UsersError::Map)?;
                answer.write_all(b"\n").map_err(failed)?;
                expect(&mut said, "made")?;
                pin(pid, dir)
            })
        }
        _ => Err(failed(io::Error::other("it has no pipes"))),
    };
    // It has no more to do, whatever became of it.
    let _ = child.kill();
    let _ = child.wait();
    made?;
    loopback(dir).map_err(UsersError::Loopback)
}

/// The next line must be this; another says what is wrong.
fn expect(said: &mut BufReader<ChildStdout>, word: &str) -> Result<(), UsersError> {
    let not_made = |said: String| UsersError::NotMade { said };
    if !readable::within(said.get_ref(), ANSWER_WITHIN).map_err(|error| not_made(error.to_string()))? {
        return Err(not_made(format!("it says nothing within {} s", ANSWER_WITHIN.as_secs())));
    }
    let mut line = String::new();
    let read = io::Read::take(&mut *said, SAID_MAX as u64).read_line(&mut line);
    read.map_err(|error| not_made(error.to_string()))?;
    match line.trim() {
        line if line == word => Ok(()),
        "" => Err(not_made("the process that makes it ended at once".into())),
        line => Err(not_made(line.to_owned())),
    }
}

fn map(pid: u32, users: OwnUsers) -> io::Result<()> {
    let line = format!("0 {} {}\n", users.first, OwnUsers::COUNT);
    ["uid_map", "gid_map"].iter().try_for_each(|file| {
        // The kernel takes it in one write.
        OpenOptions::new().write(true).open(format!("/proc/{pid}/{file}"))?.write_all(line.as_bytes())
    })
}

fn pin(pid: u32, dir: &Path) -> Result<(), UsersError> {
    for file in Kind::ALL.map(Kind::file).into_iter().chain([FILE]) {
        let path = dir.join(file);
        let pinned = || {
            OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
            let of_process = format!("/proc/{pid}/ns/{file}");
            mount(Some(of_process.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        };
        pinned().map_err(|source: io::Error| UsersError::Pin { path: path.clone(), source })?;
    }
    Ok(())
}

fn loopback(dir: &Path) -> io::Result<()> {
    // The thread's namespace goes with it.
    std::thread::scope(|scope| {
        let up = || {
            setns(fs::File::open(dir.join(Kind::Network.file()))?, CloneFlags::CLONE_NEWNET)?;
            netlink::loopback_up()
        };
        let thread = std::thread::Builder::new().name("loopback".into()).stack_size(THREAD_STACK_BYTES);
        thread.spawn_scoped(scope, up)?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_pods_until_its_directory_is_gone() {
        let pods = tempfile::tempdir().unwrap();
        let ranges = Ranges::default();
        let uids = ["a", "b", "c"].map(|uid| Uid(uid.into()));
        for uid in &uids {
            fs::create_dir(pods.path().join(&uid.0)).unwrap();
        }
        let take = |uid: &Uid| ranges.take(pods.path(), uid).unwrap().first;
        let [a, b] = [take(&uids[0]), take(&uids[1])];
        assert_eq!((a, b), (FIRST, FIRST + OwnUsers::COUNT));
        assert_eq!(Ranges::default().take(pods.path(), &uids[0]).unwrap().first, a, "an agent later");
        fs::remove_dir_all(pods.path().join("a")).unwrap();
        assert_eq!(take(&uids[2]), a);
        assert!(FIRST + (RANGES - 1) * OwnUsers::COUNT < i32::MAX as u32 - OwnUsers::COUNT);
    }
}
