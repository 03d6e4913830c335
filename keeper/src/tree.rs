//! Removing a directory tree that somebody else writes to, as deep and as wide as he likes. Driven by the keeper for logs and by the
//! agent for what containers leave.
//!
//! Blocking. A walk down costs a descriptor and stack for each level, and nobody needs a right to make a hundred thousand levels: so
//! nothing is walked down. What lies in a subdirectory is moved up beside it, and three descriptors do for any depth. Nothing is
//! followed, and a mount is an error: it can be neither removed nor moved.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes `name` in `parent`, whatever it is; Ok when it is not there. `go_on` is asked before each name that is dealt with, and ends
/// the removal with its error: what is left is removed by the next one. Another error keeps nothing else from being removed.
pub fn remove(parent: impl AsFd, name: &CStr, go_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    remove_with_last(parent, name, None, go_on)
}

/// As [`remove`]; what is called `last` in the directory itself goes after everything else, so that who knows the directory by it
/// knows it again where a removal was cut short.
pub fn remove_with_last(
    parent: impl AsFd,
    name: &CStr,
    mut last: Option<&CStr>,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    if unlink(&parent, name)? {
        return Ok(());
    }
    let Some(top) = directory(&parent, name)? else { return Ok(()) };
    let mut moved = 0;
    loop {
        let (mut done, mut first) = (false, Ok(()));
        for entry in entries(&top)?.iter() {
            let entry = entry?;
            if !is_own(entry.file_name()) && Some(entry.file_name()) != last {
                let dealt = flatten(&top, entry.file_name(), &mut moved, &mut go_on);
                done |= dealt.did;
                first = first.and(dealt.outcome);
                if dealt.ended {
                    return first;
                }
            }
        }
        if !done {
            first?;
            if last.take().is_some() {
                continue;
            }
            return gone(unlinkat(&parent, name, UnlinkatFlags::RemoveDir));
        }
    }
}

/// What came of one name.
struct Dealt {
    /// Something was removed or moved.
    did: bool,
    /// `go_on` said no.
    ended: bool,
    outcome: io::Result<()>,
}

/// Removes one name in `top`. Of a directory, what cannot be removed at once moves up, for the next pass.
fn flatten(top: &OwnedFd, name: &CStr, moved: &mut u64, go_on: &mut impl FnMut() -> io::Result<()>) -> Dealt {
    let mut dealt = Dealt { did: false, ended: false, outcome: Ok(()) };
    dealt.outcome = (|| {
        let asked = go_on();
        dealt.ended = asked.is_err();
        asked?;
        if unlink(top, name)? {
            dealt.did = true;
            return Ok(());
        }
        let Some(sub) = directory(top, name)? else { return Ok(()) };
        let mut first = Ok(());
        for child in entries(&sub)?.iter() {
            let child = child?;
            if is_own(child.file_name()) {
                continue;
            }
            let asked = go_on();
            dealt.ended = asked.is_err();
            asked?;
            let up = lift(&sub, child.file_name(), top, moved);
            dealt.did |= up.is_ok();
            first = first.and(up);
        }
        // Something may have been added meanwhile: the next pass meets it.
        dealt.did |= unlink(top, name)?;
        first
    })();
    dealt
}

/// Removes a name, or moves it up under one that nobody has.
fn lift(sub: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    while !unlink(sub, name)? {
        *moved += 1;
        match renameat(sub, name, top, format!(".removed-{moved}").as_str()) {
            // Left by an earlier removal, or planted: the next number.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            done => return gone(done),
        }
    }
    Ok(())
}

/// Removes one name that is no directory, or an empty one; false where it is a directory with something in it.
fn unlink(dir: impl AsFd, name: &CStr) -> io::Result<bool> {
    let refused = match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(error @ (Errno::EISDIR | Errno::EPERM)) => error,
        Err(error) => return Err(error.into()),
    };
    match unlinkat(&dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        // A file that may not be removed: the first answer says why.
        Err(Errno::ENOTDIR) => Err(refused.into()),
        Err(error) => Err(error.into()),
    }
}

fn gone(done: nix::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opened without following anything; None when it is gone.
fn directory(at: impl AsFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(at, name, flags, Mode::empty()) {
        Ok(sub) => Ok(Some(sub)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A directory stream keeps its own place, so it gets a descriptor of its own.
fn entries(dir: &OwnedFd) -> io::Result<Dir> {
    let own = directory(dir, c".")?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Dir::from_fd(own)?)
}

fn is_own(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
