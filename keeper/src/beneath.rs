//! Opening, renaming and removing beneath the log directory without ever leaving it.
//!
//! Log shippers have this directory mounted, many of them writable, and may plant links, pipes and devices in it at any
//! moment. Every path is resolved by the kernel with openat2 (beneath, no symlinks, no magic links) to a directory, and
//! the last name is then used relative to that directory. Nothing here knows what the files mean.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, symlinkat, unlinkat};

/// The kernel says EAGAIN when a rename raced with the resolution; more races than this in a row are an attack.
const RACES_MAX: usize = 16;
/// Names that one request removes: some tens of milliseconds, in which no pipe is read. Where more were planted, the request
/// fails and is made again.
const REMOVED_MAX: u32 = 1_000;
/// A log directory's modes, as the kubelet's.
const DIR_MODE: Mode = Mode::from_bits_truncate(0o755);
/// A log file's mode, as containerd's.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o640);

/// A file's identity on this machine: device and inode.
pub type Identity = (u64, u64);

/// The directory that nothing leaves.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    /// As it was named, without links where they could be followed.
    place: PathBuf,
}

impl Beneath {
    /// Opens `root`, making it when it is missing. Links on the way to it are the administrator's.
    pub fn new(root: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(DIR_MODE.bits()).create(root)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let place = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        Ok(Self { root: open(root, flags, Mode::empty())?, place })
    }

    /// Where it lies, for who asks.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Opens a directory; `path` is relative, `.` is the root itself.
    pub fn dir(&self, path: &str) -> io::Result<OwnedFd> {
        resolve(&self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
    }

    /// Opens a directory, making what is missing on the way.
    pub fn make_dirs(&self, path: &str) -> io::Result<OwnedFd> {
        let mut at = self.dir(".")?;
        for name in path.split('/') {
            match mkdirat(&at, name, DIR_MODE) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = resolve(&at, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    /// Removes a directory and everything in it, what is called `last` after everything else. Absent is fine. Links in it are
    /// removed, never followed.
    pub fn remove_tree(&self, parent: &str, name: &str, last: &str) -> io::Result<()> {
        match self.dir(parent) {
            Ok(parent) => remove(&parent, name, last),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Makes `name` in `dir` a new file for appending; it fails when anything has that name.
pub fn create(dir: &OwnedFd, name: &str) -> io::Result<File> {
    resolve(dir, name, OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL, FILE_MODE).map(File::from)
}

/// Opens `name` in `dir` for appending if it is a regular file of ours with no second name, `None` if it is anything
/// else. What it is gets decided on a descriptor that opens nothing (O_PATH), since opening alone wakes pipes and devices.
pub fn append(dir: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let path = match resolve(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(path) => path,
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !is_ours(&fstat(&path)?) {
        return Ok(None);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = open(format!("/proc/self/fd/{}", path.as_raw_fd()).as_str(), flags, Mode::empty())?;
    Ok(Some(File::from(file)))
}

/// A regular file of this user with one name: what the keeper makes and nothing else.
fn is_ours(stat: &FileStat) -> bool {
    is_regular(stat) && stat.st_nlink == 1 && stat.st_uid == geteuid().as_raw()
}

/// Whether a directory entry is a plain file (not followed).
pub fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// An open file's identity and size, and whether it still has a name.
pub fn look(file: &File) -> io::Result<(Identity, u64, bool)> {
    let stat = fstat(file)?;
    Ok((identity(&stat), u64::try_from(stat.st_size).unwrap_or(0), stat.st_nlink > 0))
}

pub fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// What `name` in `dir` is, itself and not what it points to; `None` when there is nothing.
pub fn stat(dir: &OwnedFd, name: &str) -> io::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Renames within one directory. What stands at the new name is replaced, unless it is a directory.
pub fn rename(dir: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    Ok(renameat(dir, from, dir, to)?)
}

/// Removes one name that is not a directory. Absent is fine.
pub fn unlink(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes `name` in `dir` a link with this text, replacing what is there: written beside and renamed.
pub fn link(dir: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    if read_link(dir, name).as_deref() == Some(text) {
        return Ok(());
    }
    // A container's link has a name of up to 255 bytes, so the one beside has a short name of its own.
    let beside = format!(".logkeeper-{}", std::process::id());
    unlink(dir, &beside)?;
    symlinkat(text, dir, beside.as_str())?;
    rename(dir, &beside, name).inspect_err(|_| {
        let _ = unlink(dir, &beside);
    })
}

/// A link's text, `None` when it is no link or not text.
pub fn read_link(dir: &OwnedFd, name: &str) -> Option<String> {
    readlinkat(dir, name).ok()?.into_string().ok()
}

/// The names in a directory that are text, sorted. Ours all are; others are nobody's concern here.
pub fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries(dir)?.iter() {
        let entry = entry?;
        if let (false, Ok(name)) = (is_own(entry.file_name()), entry.file_name().to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a tree within one request's bound.
fn remove(parent: &OwnedFd, name: &str, last: &str) -> io::Result<()> {
    let mut left = REMOVED_MAX;
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    keeper::tree::remove_with_last(parent, &text(name)?, Some(&text(last)?), || {
        left = left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other(format!("{REMOVED_MAX} names in {name} are removed, more are there")))?;
        Ok(())
    })
}

/// A directory stream keeps its own place, so it gets a descriptor of its own.
fn entries(dir: &OwnedFd) -> io::Result<Dir> {
    Ok(Dir::from_fd(resolve(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?)?)
}

fn is_own(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn resolve(at: &OwnedFd, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    for _ in 0..RACES_MAX {
        match openat2(at, path, how(flags, mode)) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
    Err(Errno::EAGAIN.into())
}

fn how(flags: OFlag, mode: Mode) -> OpenHow {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_our_own_regular_file_is_appended_to() {
        let root = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(root.path()).unwrap();
        let dir = beneath.make_dirs("pods/a/b").unwrap();
        let here = root.path().join("pods/a/b");
        create(&dir, "ours").unwrap().write_all(b"x").unwrap();
        assert!(append(&dir, "ours").unwrap().is_some());
        assert!(create(&dir, "ours").is_err());
        std::fs::hard_link(here.join("ours"), here.join("second")).unwrap();
        symlink("/etc/hostname", here.join("link")).unwrap();
        nix::unistd::mkfifo(&here.join("fifo"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(here.join("dir")).unwrap();
        for name in ["ours", "second", "link", "fifo", "dir"] {
            assert!(append(&dir, name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn planted_depth_and_number_only_delay_a_removal() {
        let root = tempfile::tempdir().unwrap();
        let beneath = Beneath::new(root.path()).unwrap();
        let mut at = beneath.make_dirs("pods/a/.removed-999/x").unwrap();
        for _ in 0..REMOVED_MAX {
            mkdirat(&at, "d", DIR_MODE).unwrap();
            at = resolve(&at, "d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        assert!(beneath.remove_tree("pods", "a", "mark").is_err());
        let requests = (1..10).find(|_| beneath.remove_tree("pods", "a", "mark").is_ok());
        assert!(requests.is_some() && !root.path().join("pods/a").exists());
    }

    #[test]
    fn a_planted_directory_link_is_not_walked() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let beneath = Beneath::new(root.path()).unwrap();
        beneath.make_dirs("pods/a").unwrap();
        symlink(outside.path(), root.path().join("pods/a/b")).unwrap();
        assert!(beneath.make_dirs("pods/a/b").is_err());
        assert!(beneath.dir("pods/a/b").is_err());
        assert!(beneath.dir("..").is_err());
        beneath.remove_tree("pods", "a", "mark").unwrap();
        assert!(!root.path().join("pods/a").exists());
        assert!(outside.path().join("keep").exists());
        beneath.remove_tree("pods", "a", "mark").unwrap();
    }
}
