//! Removing a directory tree that a container wrote: as deep and as wide as it liked.
//!
//! Driven by `sandbox` and by the image volumes of the runtime. Blocking. A walk down costs a descriptor and stack for each level, and a container needs no
//! right to make a hundred thousand levels: that would end this process, at every start anew. So nothing is walked down:
//! what lies in a subdirectory is moved up beside it, and three descriptors do for any depth. Nothing is followed, and a
//! mount is an error: it can be neither removed nor moved.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Somebody who adds while we remove must not hold a thread for ever; ten million files take less.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// Removes the directory and everything in it; Ok when it is not there.
pub fn tree(path: &Path) -> io::Result<()> {
    let top = match open(path, directory(), Mode::empty()) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let begun = Instant::now();
    let mut moved = 0u64;
    loop {
        let mut any = false;
        for entry in entries(&top)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if is_own(name) {
                continue;
            }
            any = true;
            if !unlink(&top, name)? {
                flatten(&top, name, &mut moved)?;
            }
            if begun.elapsed() > GIVE_UP_AFTER {
                let path = path.display();
                return Err(io::Error::other(format!("{path} does not become empty; does something write to it?")));
            }
        }
        if !any {
            break;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves what cannot be removed at once from a subdirectory of `top` up into `top`, and removes the subdirectory. What is
/// there under a new name is met by the next pass.
fn flatten(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let sub = match openat(top, name, directory(), Mode::empty()) {
        Ok(sub) => sub,
        Err(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for child in entries(&sub)?.iter() {
        let child = child?;
        if is_own(child.file_name()) || unlink(&sub, child.file_name())? {
            continue;
        }
        loop {
            *moved += 1;
            match renameat(&sub, child.file_name(), top, format!(".removed-{moved}").as_str()) {
                Ok(()) | Err(Errno::ENOENT) => break,
                // The container has made this name before us; the next number.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    match unlinkat(top, name, UnlinkatFlags::RemoveDir) {
        // Something was added meanwhile: the next pass meets it.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes one name that is no directory, or an empty one; false where it is a directory with something in it.
fn unlink(dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let refused = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(error @ (Errno::EISDIR | Errno::EPERM)) => error,
        Err(error) => return Err(error.into()),
    };
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        // An immutable file: the first answer says why.
        Err(Errno::ENOTDIR) => Err(refused.into()),
        Err(error) => Err(error.into()),
    }
}

/// A directory's entries, read by a descriptor of their own.
fn entries(dir: &OwnedFd) -> io::Result<Dir> {
    Ok(Dir::from_fd(openat(dir, ".", directory(), Mode::empty())?)?)
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn is_own(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    /// More levels than a thread's stack has room for, with descriptors for a fraction of them.
    const LEVELS: usize = 20_000;

    #[test]
    fn a_tree_deeper_than_stack_and_descriptors_is_removed() {
        // Where it happens, and in memory: a disk takes many seconds for so many directories.
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let tree_dir = root.path().join("shm");
        fs::create_dir(&tree_dir).unwrap();
        let mut at = open(&tree_dir, directory(), Mode::empty()).unwrap();
        for _ in 0..LEVELS {
            mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat(&at, "d", directory(), Mode::empty()).unwrap();
        }
        drop(at);
        tree(&tree_dir).unwrap();
        assert!(!tree_dir.exists());
    }

    #[test]
    fn links_are_removed_and_not_followed_and_planted_names_do_not_stop_it() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("keep"), "x").unwrap();
        let tree_dir = root.path().join("shm");
        for dir in ["a/b/c", ".removed-1/x", ".removed-2", "e/f"] {
            fs::create_dir_all(tree_dir.join(dir)).unwrap();
        }
        fs::write(tree_dir.join("a/.removed-3"), "x").unwrap();
        fs::write(tree_dir.join("a/b/c/file"), "x").unwrap();
        symlink(outside.path(), tree_dir.join("a/b/link")).unwrap();
        symlink(outside.path(), tree_dir.join("link")).unwrap();
        tree(&tree_dir).unwrap();
        assert!(!tree_dir.exists() && outside.path().join("keep").exists());
        tree(&tree_dir).unwrap();
        symlink(outside.path(), &tree_dir).unwrap();
        assert!(tree(&tree_dir).is_err());
        assert!(outside.path().join("keep").exists());
    }
}
