//! hostPath with Kubernetes' checks (v1 HostPathVolumeSource).
//!
//! Driven by `volumes`. Blocking: a hostPath may lie on a file system that does not answer. Paths are followed through
//! links and judged on the descriptor that they lead to; what comes out is the real path of that descriptor. Where the node
//! has rules for host paths, whoever mounts judges again what it mounts; here they keep anything from being made elsewhere.

use std::fs::{self, File, FileType, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc::{O_DIRECTORY, O_PATH};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use pod::allow::{Access, Allow};
use pod::spec::HostPathKind;

use super::{VolumeError, When};

/// Modes of what hostPath types make (Kubernetes).
const MADE_DIRECTORY_MODE: u32 = 0o755;
const MADE_FILE_MODE: u32 = 0o644;

/// By which rules a path is judged.
pub(super) struct Judge<'a> {
    pub allow: &'a Allow,
    pub access: Access,
    pub when: When,
}

/// Checks the path, makes what its type allows to make, and answers where it leads to. Without a judge every path is allowed.
pub(super) fn resolve(
    volume: &str,
    path: &str,
    kind: HostPathKind,
    judge: Option<&Judge<'_>>,
) -> Result<PathBuf, VolumeError> {
    let plain = Path::new(path);
    if !plain.is_absolute() || plain.components().any(|part| part == Component::ParentDir) || path.contains('\0') {
        return Err(VolumeError::NotPlain { volume: volume.into(), path: path.into() });
    }
    let look = |source| VolumeError::Look { volume: volume.into(), path: path.into(), source };
    let found = match open(plain) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match judge {
                None => make(volume, path, kind)?,
                Some(judge) if kind == HostPathKind::Unset && judge.when == When::SetUp => return Ok(plain.to_owned()),
                Some(judge) => make_judged(volume, path, kind, judge)?,
            }
            open(plain).map_err(look)?
        }
        Err(error) => return Err(look(error)),
    };
    let real = real(&found).map_err(look)?;
    if let Some(judge) = judge {
        let judged = judge.allow.host_path(&real, judge.access);
        judged.map_err(|why| forbidden(volume, path, &real, &why))?;
    }
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
    Ok(real)
}

fn real(found: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
}

fn forbidden(volume: &str, path: &str, real: &Path, why: &str) -> VolumeError {
    let why = match real == Path::new(path) {
        true => why.to_owned(),
        false => format!("leads to {}, which {why}", real.display()),
    };
    VolumeError::Forbidden { volume: volume.into(), path: path.into(), why }
}

/// Makes what is missing in the directory that the path's last part that is there leads to, where that is allowed. Each
/// directory is made in one that is held open, so that a link put in its way leads nowhere.
fn make_judged(volume: &str, path: &str, kind: HostPathKind, judge: &Judge<'_>) -> Result<(), VolumeError> {
    let is_file = kind == HostPathKind::FileOrCreate;
    if !is_file && !matches!(kind, HostPathKind::Unset | HostPathKind::DirectoryOrCreate) {
        return make(volume, path, kind);
    }
    let failed = |source| VolumeError::Make { volume: volume.into(), path: path.into(), kind: name(kind), source };
    let plain = Path::new(path);
    let mut there = None;
    for above in plain.ancestors().skip(1) {
        match OpenOptions::new().read(true).custom_flags(O_DIRECTORY).open(above) {
            Ok(found) => {
                there = Some((found, above));
                break;
            }
            // The kubelet makes a file where its directory is.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_file => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let (found, above) = there.ok_or_else(|| failed(Errno::ENOENT.into()))?;
    let missing = plain.strip_prefix(above).map_err(|_| failed(Errno::EINVAL.into()))?;
    let target = real(&found).map_err(failed)?.join(missing);
    let judged = judge.allow.host_path(&target, Access::Make);
    judged.map_err(|why| forbidden(volume, path, &target, &format!("{why} (it is not there and would be made)")))?;
    let mut parent = OwnedFd::from(found);
    let mut parts = missing.components().peekable();
    while let Some(part) = parts.next() {
        let part = Path::new(part.as_os_str());
        let made = match is_file && parts.peek().is_none() {
            true => make_file(&parent, part),
            false => make_directory(&parent, part),
        };
        parent = made.map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

fn make_directory(parent: &OwnedFd, name: &Path) -> nix::Result<OwnedFd> {
    let is_new = match mkdirat(parent, name, Mode::from_bits_truncate(MADE_DIRECTORY_MODE)) {
        Ok(()) => true,
        // Somebody else was quicker.
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(errno),
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(parent, name, flags, Mode::empty())?;
    if is_new {
        fchmod(&made, Mode::from_bits_truncate(MADE_DIRECTORY_MODE))?;
    }
    Ok(made)
}

fn make_file(parent: &OwnedFd, name: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(parent, name, flags, Mode::from_bits_truncate(MADE_FILE_MODE))?;
    fchmod(&made, Mode::from_bits_truncate(MADE_FILE_MODE))?;
    Ok(made)
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
        resolve("data", path.to_str().unwrap(), kind, None).map_err(|e| e.to_string())
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
            assert!(
                matches!(resolve("v", path, HostPathKind::Unset, None), Err(VolumeError::NotPlain { .. })),
                "{path}"
            );
        }
    }

    /// Within `root/in`, which may be written to, and `root/ro`, which may not.
    fn judged(root: &Path, path: &Path, kind: HostPathKind, access: Access) -> Result<PathBuf, String> {
        let entry = |name: &str, read_only| {
            let path = root.join(name).to_str().unwrap().to_owned();
            pod::allow::AllowedPath { path, read_only }
        };
        let only = vec![entry("in", false), entry("ro", true)];
        let rule = pod::allow::Rule { only, place: "the configuration file /c".into() };
        let allow = Allow { host_paths: Some(rule), ..Allow::default() };
        let judge = Judge { allow: &allow, access, when: When::Create };
        resolve("data", path.to_str().unwrap(), kind, Some(&judge)).map_err(|e| e.to_string())
    }

    #[test]
    fn where_there_are_rules_nothing_else_is_shown_and_nothing_is_made_elsewhere() {
        use HostPathKind::*;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for made in ["in/real", "ro", "out"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        symlink("real", root.join("in/link")).unwrap();
        symlink("../out", root.join("in/escape")).unwrap();
        symlink("../out/dangling", root.join("in/dangling")).unwrap();
        symlink(root.join("in"), root.join("way")).unwrap();
        let is = |path: &str, kind, access| judged(&root, &root.join(path), kind, access);
        assert_eq!(is("in/link", Directory, Access::Write), Ok(root.join("in/real")));
        assert_eq!(is("way/real", Unset, Access::Write), Ok(root.join("in/real")));
        assert_eq!(is("ro", Unset, Access::Read), Ok(root.join("ro")));
        assert!(is("ro", Unset, Access::Write).unwrap_err().contains("may only be read on this node"));
        let why = is("in/escape", Unset, Access::Read).unwrap_err();
        let leads = format!(
            "hostPath {0}/in/escape leads to {0}/out, which is not allowed on this node: allow-host-path in the configuration file /c allows only {0}/in, {0}/ro:ro",
            root.display()
        );
        assert!(why.contains("volume data") && why.contains(&leads), "{why}");

        for (path, kind) in [("in/a/b", DirectoryOrCreate), ("way/c", Unset), ("in/f", FileOrCreate)] {
            let made = is(path, kind, Access::Write).unwrap();
            let mode = if kind == FileOrCreate { 0o644 } else { 0o755 };
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, mode, "{path}");
        }
        for (path, kind) in [
            ("in/escape/a/b", DirectoryOrCreate),
            ("in/escape/a", Unset),
            ("in/escape/f", FileOrCreate),
            ("in/dangling", DirectoryOrCreate),
            ("in/dangling", FileOrCreate),
            ("ro/a", DirectoryOrCreate),
            ("out/a", Unset),
        ] {
            assert!(is(path, kind, Access::Read).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(root.join("out")).unwrap().count() + fs::read_dir(root.join("ro")).unwrap().count(), 0);
    }
}
