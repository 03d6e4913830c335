//! hostPath with Kubernetes' checks (v1 HostPathVolumeSource).
//!
//! Driven by `volumes`. Blocking: a hostPath may lie on a file system that does not answer. Paths are followed through
//! links and judged on the descriptor that they lead to; what comes out is the real path of that descriptor.

use std::fs::{self, File, FileType, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::libc::O_PATH;
use pod::spec::HostPathKind;

use super::VolumeError;

/// Modes of what hostPath types make (Kubernetes).
const MADE_DIRECTORY_MODE: u32 = 0o755;
const MADE_FILE_MODE: u32 = 0o644;

/// Checks the path, makes what its type allows to make, and answers where it leads to.
pub(super) fn resolve(volume: &str, path: &str, kind: HostPathKind) -> Result<PathBuf, VolumeError> {
    let plain = Path::new(path);
    if !plain.is_absolute() || plain.components().any(|part| part == Component::ParentDir) || path.contains('\0') {
        return Err(VolumeError::NotPlain { volume: volume.into(), path: path.into() });
    }
    let look = |source| VolumeError::Look { volume: volume.into(), path: path.into(), source };
    let found = match open(plain) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(volume, path, kind)?;
            open(plain).map_err(look)?
        }
        Err(error) => return Err(look(error)),
    };
    let kind_of_file = found.metadata().map_err(look)?.file_type();
    if let Some(expected) = expected(kind)
        && !fits(kind, kind_of_file)
    {
        return Err(VolumeError::WrongType {
            volume: volume.into(),
            path: path.into(),
            found: describe(kind_of_file),
            kind: name(kind),
            expected,
        });
    }
    fs::read_link(format!("/proc/thread-self/fd/{}", found.as_raw_fd())).map_err(look)
}

/// Follows links to whatever is there, without opening it for use: a FIFO does not block, a device does not wake.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_PATH).open(path)
}

fn make(volume: &str, path: &str, kind: HostPathKind) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Make { volume: volume.into(), path: path.into(), kind: name(kind), source };
    match kind {
        HostPathKind::Unset | HostPathKind::DirectoryOrCreate => make_directories(Path::new(path)).map_err(failed),
        HostPathKind::FileOrCreate => {
            let file = OpenOptions::new().write(true).create_new(true).mode(MADE_FILE_MODE).open(path);
            match file {
                Ok(file) => file.set_permissions(Permissions::from_mode(MADE_FILE_MODE)).map_err(failed),
                // Somebody else was quicker: the check that follows judges what is there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && Path::new(path).exists() => Ok(()),
                Err(error) => Err(failed(error)),
            }
        }
        HostPathKind::Directory
        | HostPathKind::File
        | HostPathKind::Socket
        | HostPathKind::CharDevice
        | HostPathKind::BlockDevice => Err(VolumeError::Missing {
            volume: volume.into(),
            path: path.into(),
            kind: name(kind),
            instead: match kind {
                HostPathKind::Directory => "DirectoryOrCreate",
                HostPathKind::File => "FileOrCreate",
                _ => "another path",
            },
        }),
    }
}

/// Makes the directory and its missing parents, 0755 whatever the umask is.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(MADE_DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a type asks for; None: anything.
fn expected(kind: HostPathKind) -> Option<&'static str> {
    match kind {
        HostPathKind::Unset => None,
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => Some("a directory"),
        HostPathKind::FileOrCreate | HostPathKind::File => Some("a regular file"),
        HostPathKind::Socket => Some("a UNIX socket"),
        HostPathKind::CharDevice => Some("a character device"),
        HostPathKind::BlockDevice => Some("a block device"),
    }
}

fn fits(kind: HostPathKind, found: FileType) -> bool {
    match kind {
        HostPathKind::Unset => true,
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => found.is_dir(),
        HostPathKind::FileOrCreate | HostPathKind::File => found.is_file(),
        HostPathKind::Socket => found.is_socket(),
        HostPathKind::CharDevice => found.is_char_device(),
        HostPathKind::BlockDevice => found.is_block_device(),
    }
}

/// `hostPath.type` as written.
fn name(kind: HostPathKind) -> &'static str {
    match kind {
        HostPathKind::Unset => "",
        HostPathKind::DirectoryOrCreate => "DirectoryOrCreate",
        HostPathKind::Directory => "Directory",
        HostPathKind::FileOrCreate => "FileOrCreate",
        HostPathKind::File => "File",
        HostPathKind::Socket => "Socket",
        HostPathKind::CharDevice => "CharDevice",
        HostPathKind::BlockDevice => "BlockDevice",
    }
}

fn describe(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_file() {
        "a regular file"
    } else if found.is_socket() {
        "a UNIX socket"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_block_device() {
        "a block device"
    } else if found.is_fifo() {
        "a FIFO"
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn check(path: &Path, kind: HostPathKind) -> Result<PathBuf, String> {
        resolve("data", path.to_str().unwrap(), kind).map_err(|e| e.to_string())
    }

    #[test]
    fn each_type_takes_what_it_asks_for_and_says_what_it_found() {
        use HostPathKind::*;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let file = root.join("file");
        fs::write(&file, "").unwrap();
        let socket = root.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let device = Path::new("/dev/null");

        for (path, kind) in
            [(&*root, Directory), (&*file, File), (&*socket, Socket), (device, CharDevice), (device, Unset)]
        {
            assert_eq!(check(path, kind), Ok(path.to_owned()), "{kind:?}");
        }
        for (path, kind, found) in [
            (&*root, File, "is a directory, and type File asks for a regular file"),
            (&*file, Directory, "is a regular file, and type Directory asks for a directory"),
            (&*file, DirectoryOrCreate, "is a regular file"),
            (&*root, FileOrCreate, "is a directory"),
            (&*file, Socket, "asks for a UNIX socket"),
            (&*socket, File, "is a UNIX socket"),
            (device, BlockDevice, "is a character device, and type BlockDevice asks for a block device"),
        ] {
            let error = check(path, kind).unwrap_err();
            assert!(error.contains(found) && error.contains("volume data"), "{error}");
        }
    }

    #[test]
    fn only_the_or_create_types_and_the_unset_one_make_what_is_missing() {
        use HostPathKind::*;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for kind in [Directory, File, Socket, CharDevice, BlockDevice] {
            let missing = root.join("missing");
            assert!(check(&missing, kind).unwrap_err().contains("does not exist"), "{kind:?}");
            assert!(!missing.exists());
        }
        for (name, kind) in [("a/b/c", Unset), ("d/e", DirectoryOrCreate)] {
            let made = check(&root.join(name), kind).unwrap();
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o755);
        }
        let made = check(&root.join("f"), FileOrCreate).unwrap();
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o644);
        assert!(check(&root.join("no/parent"), FileOrCreate).unwrap_err().contains("cannot make"));
    }

    #[test]
    fn links_are_followed_and_judged_by_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(check(&root.join("link"), HostPathKind::Directory), Ok(root.join("real")));
        assert!(check(&root.join("link"), HostPathKind::File).unwrap_err().contains("is a directory"));
        assert!(check(&root.join("dangling"), HostPathKind::Unset).is_err());
        assert!(check(&root.join("loop"), HostPathKind::Unset).is_err());
    }

    #[test]
    fn climbing_and_relative_paths_are_refused() {
        for path in ["/var/../etc", "relative", "", "/a/.."] {
            assert!(matches!(resolve("v", path, HostPathKind::Unset), Err(VolumeError::NotPlain { .. })), "{path}");
        }
    }
}
