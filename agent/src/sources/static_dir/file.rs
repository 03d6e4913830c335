//! One file of the directory: does its name count, has it changed, what does it say.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use pod::manifest::{Context, MAX_FILE_BYTES, Parsed, Rejection, parse};

/// What tells two states of a file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// `*.yaml`, `*.yml` and `*.json`, unless hidden or an editor's leftover. Backups (`x.yaml~`, `x.yaml.bak`, `x.yaml.swp`,
/// `#x.yaml#`) end otherwise.
pub fn counts(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let suffixes: [&[u8]; 3] = [b".yaml", b".yml", b".json"];
    !name.starts_with(b".") && !name.starts_with(b"#") && suffixes.iter().any(|s| name.ends_with(s))
}

/// What lies at a path, without opening it.
pub enum Found {
    /// Nothing: removed.
    Nothing,
    /// A file that can be read; and whether the name is a link to it.
    Regular(Stamp, bool),
    /// Something else, or something that cannot be looked at: the reason.
    Fault(String),
}

/// Looks at a name, through links.
pub fn look(path: &Path) -> Found {
    let link = match std::fs::symlink_metadata(path) {
        Ok(found) => found.is_symlink(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Fault(unreadable(&error)),
    };
    match std::fs::metadata(path) {
        Ok(found) => match oddity(&found) {
            None => Found::Regular(Stamp::of(&found), link),
            Some(reason) => Found::Fault(reason),
        },
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            Found::Fault("is a loop of symbolic links: point it at a file".into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && link => {
            Found::Fault("is a symbolic link to something that does not exist: point it at a file, or remove it".into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Fault(unreadable(&error)),
    }
}

/// A new file whose writer may still have it open; a hard link, a symbolic link and all else is complete at once.
pub fn may_be_open(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

/// What reading came to.
pub enum Reading {
    Done(Parsed, Stamp),
    /// It changed while it was read: its writer is not done.
    Moving,
    Nothing,
}

/// Reads and parses a file that [`look`] found regular.
pub fn read(path: &Path, shown: &str, context: &Context) -> Reading {
    let before = match open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Reading::Nothing,
        Err(error) => return fault_reading(shown, &error),
    };
    let (mut file, stamp) = before;
    if stamp.size > MAX_FILE_BYTES as u64 {
        let reason = format!("has {} bytes, more than the {MAX_FILE_BYTES} allowed: split it", stamp.size);
        return Reading::Done(fault(shown, &reason), stamp);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0).saturating_add(1));
    // One byte more than allowed, so that a file that grows meanwhile is not read for ever.
    if let Err(error) = file.by_ref().take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes) {
        return fault_reading(shown, &error);
    }
    match file.metadata() {
        Ok(after) if Stamp::of(&after) == stamp => Reading::Done(parse(shown, &bytes, context), stamp),
        Ok(_) => Reading::Moving,
        Err(error) => fault_reading(shown, &error),
    }
}

/// Neither a FIFO nor a device that took the file's place meanwhile can block us: O_NONBLOCK.
fn open(path: &Path) -> io::Result<(File, Stamp)> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    match oddity(&found) {
        None => Ok((file, Stamp::of(&found))),
        Some(reason) => Err(io::Error::other(reason)),
    }
}

/// Why this is no file to read from.
fn oddity(found: &Metadata) -> Option<String> {
    let kind = found.file_type();
    let what = match kind {
        _ if kind.is_file() => return None,
        _ if kind.is_dir() => "a directory: manifests lie in the manifest directory itself",
        _ if kind.is_fifo() => "a FIFO: put a file in its place",
        _ if kind.is_socket() => "a socket: put a file in its place",
        _ => "a device: put a file in its place",
    };
    Some(format!("is {what}"))
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

fn fault_reading(shown: &str, error: &io::Error) -> Reading {
    // Without a stamp of its own it is read again at every look.
    let never = Stamp { device: 0, inode: 0, size: 0, modified: (0, 0), changed: (0, 0) };
    Reading::Done(fault(shown, &unreadable(error)), never)
}

/// A file that is not read, and why.
pub fn fault(shown: &str, reason: &str) -> Parsed {
    let whole =
        Rejection { file: shown.to_owned(), line: 1, path: String::new(), reason: format!("the file {reason}") };
    Parsed { file: shown.to_owned(), documents: Vec::new(), whole: Some(whole) }
}
