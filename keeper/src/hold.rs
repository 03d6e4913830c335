//! The first process of a pod's shared process namespace: it keeps the namespace alive and takes in what its pod's containers
//! leave behind.
//!
//! Started by the agent as the namespace's process 1, in the pod's other namespaces; ended by a SIGKILL from outside, which
//! ends everything in the namespace. It is part of this program only because this one is small. The pod's containers see it, and one
//! that may trace processes could make it do anything: so before it says that it is ready it gives up whatever it could be made to
//! do harm with: the node's files, all capabilities, root's identity, and the right to user namespaces (which a process with another root than its
//! mounts' does not get).

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, chdir, chroot, mkdir, pivot_root, setgroups, setresgid, setresuid};

/// Nobody's.
const ID: u32 = 65534;
/// A directory that every node has; what is mounted there is seen by this process alone.
const PLACE: &str = "/proc";

/// Becomes harmless, says `held`, and stays once the agent has answered with a byte: an agent that ends before it has noted down this
/// process leaves none. Returns only where there is nothing to hold, or with an error.
pub fn hold() -> io::Result<()> {
    let child_ended = SigSet::from(Signal::SIGCHLD);
    // Blocked before anybody can be a child: none is missed.
    child_ended.thread_block()?;
    seclude()?;
    writeln!(io::stdout(), "held")?;
    if io::stdin().read(&mut [0])? == 0 {
        return Ok(());
    }
    loop {
        reap()?;
        child_ended.wait()?;
    }
}

/// The same for a pod with users of its own, whose namespaces are pinned in `ns`: its process namespace has to be made by a process in
/// its user namespace to be that one's, and a process with threads, as the agent is, cannot enter one. Starts the one that holds,
/// passes its word on with its number, and is done.
pub fn hold_among_own_users(uid: &str, ns: &Path) -> io::Result<()> {
    let pinned = |kind: &str| File::open(ns.join(kind));
    // Opened while the node's root may.
    let (users, others) = (pinned("user")?, ["net", "ipc", "uts"].map(pinned));
    setns(users, CloneFlags::CLONE_NEWUSER)?;
    let (group, user) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    for namespace in others {
        setns(namespace?, CloneFlags::empty())?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    // By no path: the pod's root may not walk the node's directories.
    let mut first = Command::new("/proc/self/exe");
    first.arg0("daemonlet-logkeeper").args(["hold", uid]).stdout(Stdio::piped());
    let mut first = first.spawn()?;
    let mut said = String::new();
    if let Some(stdout) = first.stdout.take() {
        BufReader::new(stdout).read_line(&mut said)?;
    }
    match said.trim() {
        "held" => writeln!(io::stdout(), "held {}", first.id()),
        said => writeln!(io::stdout(), "{said}"),
    }
}

/// Takes the exit status of every process that has ended and has nobody else.
fn reap() -> io::Result<()> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// An empty, read-only root, nobody's identity, and no way back.
fn seclude() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), PLACE, Some("tmpfs"), flags, Some("size=4k,nr_inodes=4,mode=0755"))?;
    chdir(PLACE)?;
    mkdir("empty", nix::sys::stat::Mode::empty())?;
    // The old root comes to lie on the new one, and goes.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    mount(NONE, "/", NONE, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)?;
    chroot("/empty")?;
    chdir("/")?;
    prctl::set_no_new_privs()?;
    setgroups(&[])?;
    let (group, user) = (Gid::from_raw(ID), Uid::from_raw(ID));
    setresgid(group, group, group)?;
    // The last: with it go all capabilities.
    setresuid(user, user, user)?;
    prctl::set_dumpable(false)
}
