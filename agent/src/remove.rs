//! Removing a directory tree that a container wrote: as deep and as wide as it liked.
//!
//! Driven by `sandbox` and by the image volumes of the runtime. Blocking. How it is done, and what is an error, [`keeper::tree`] says.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Somebody who adds while we remove must not hold a thread for ever; ten million files take less.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// Removes the directory and everything in it; Ok when it is not there.
pub fn tree(path: &Path) -> io::Result<()> {
    // What stands there must be a directory: a link is not ours.
    match open(path, directory() | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other(format!("{} is no directory in another one", path.display())));
    };
    let parent = open(parent, directory(), Mode::empty())?;
    let begun = Instant::now();
    keeper::tree::remove(&parent, &CString::new(name.as_bytes())?, || match begun.elapsed() > GIVE_UP_AFTER {
        false => Ok(()),
        true => {
            let path = path.display();
            Err(io::Error::other(format!("{path} does not become empty; does something write to it?")))
        }
    })
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::fcntl::openat;
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
