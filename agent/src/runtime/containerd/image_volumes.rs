//! The VOLUMEs of an image: a directory of the host for each, made and filled before the run, removed with it.
//!
//! Driven by `containers`; must not know what a container does with them. As with CRI, each run has its own, so a restart
//! begins with the image's content again. One that the container mounts itself, or that lies in something it mounts, is
//! the mount's: what a person keeps there stays in sight. (CRI would cover a VOLUME below a mount with an empty directory.)
//!
//! They lie at `<state-dir>/pods/<uid>/volumes/image/<container>/<attempt>/<name>`; the pod's tear-down removes whatever
//! is left at `<state-dir>/pods/<uid>`. Directories, regular files and links are copied with owner, mode and time, not
//! their extended attributes, and no devices, FIFOs and sockets. The image is a stranger's: paths in it are resolved with
//! its root for `/`, and there are bounds.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File, FileTimes, Metadata, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Component, Path, PathBuf};

use containerd_client::types::Mount;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use pod::name::RunKey;
use sha2::{Digest as _, Sha256};

use super::image_facts::ImageFacts;
use super::snapshots;
use crate::seams::CreateRun;

/// Bytes that all VOLUMEs of a container may hold in its image: initial content, not data sets.
const BYTES_MAX: u64 = 1 << 30;
/// Files and directories in them.
const ENTRIES_MAX: u32 = 65_536;
/// Directories in directories; each level holds two descriptors.
const DEPTH_MAX: u32 = 64;
/// A longer name of a directory becomes its digest; file systems take 255 bytes.
const NAME_MAX: usize = 200;
/// Mount options must fit into a page; some fifty layers do.
const OPTIONS_MAX: usize = 4095;
/// Where the image is mounted for a look, beside the VOLUMEs, whose names begin otherwise.
const LOOK: &str = "image";

/// Why VOLUMEs cannot be made; the reason is CreateContainerError.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("cannot make the directory {path} for the image's VOLUMEs")]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot look into the image for its VOLUMEs; mount a volume at each of them")]
    Look(#[source] io::Error),
    #[error("cannot fill the image's VOLUME {place} with what the image has there; mount a volume there")]
    Copy { place: PathBuf, source: io::Error },
}

/// The VOLUMEs that the container gets, by their place in it, each with its directory on the host. Pure.
pub fn places(state_dir: &Path, run: &CreateRun<'_>, image: &ImageFacts) -> BTreeMap<PathBuf, PathBuf> {
    let Some(of_run) = of_run(state_dir, &run.run) else { return BTreeMap::new() };
    let plain = image.config.volumes.iter().map(|volume| Path::new(volume).components().collect::<PathBuf>());
    plain
        .filter(|place| !is_covered(run, place) && !is_the_kernels(place))
        .map(|place| (place.clone(), of_run.join(name(&place))))
        .collect()
}

/// Whether something else that is mounted is there, or holds the place.
fn is_covered(run: &CreateRun<'_>, place: &Path) -> bool {
    let mounts = run.container.mounts.iter().map(|mount| &mount.mount_path);
    let mut all = mounts.chain(run.sandbox.files.keys());
    all.any(|other| place.starts_with(Path::new(other).components().collect::<PathBuf>()))
}

/// Places where no directory can be put: the root itself, and what the kernel shows.
pub fn is_the_kernels(place: &Path) -> bool {
    place == Path::new("/") || ["/proc", "/sys", "/dev"].iter().any(|kernels| place.starts_with(kernels))
}

/// Where the VOLUMEs of a run lie. None for names that we did not give: they could climb.
pub fn of_run(state_dir: &Path, run: &RunKey) -> Option<PathBuf> {
    Some(state_dir.join("pods").join(&run.uid.0).join("volumes/image").join(way_of_run(run)?))
}

/// `<container>/<attempt>`, where neither these nor the uid can climb.
pub fn way_of_run(run: &RunKey) -> Option<PathBuf> {
    let safe = |name: &str| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        plain && !name.is_empty() && !name.starts_with('.')
    };
    let attempt = run.attempt.to_string();
    (safe(&run.uid.0) && safe(&run.container)).then(|| Path::new(&run.container).join(attempt))
}

/// One name on disk whatever the path is, so that an image cannot climb.
fn name(place: &Path) -> String {
    let mut name = String::new();
    for part in place.components() {
        if let Component::Normal(part) = part {
            name.push('~');
            name.push_str(&part.to_string_lossy().replace('%', "%25").replace('~', "%7e"));
        }
    }
    if name.len() > NAME_MAX {
        return Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    }
    name
}

/// Removes a run's VOLUMEs; Ok when there are none. Blocking.
pub fn remove(of_run: &Path) -> io::Result<()> {
    // The container wrote there: its trees may be of any depth.
    crate::remove::tree(of_run)
}

/// Makes the directories anew and fills them from the image. `rootfs`: the mounts of the run's fresh snapshot. Blocking.
pub fn make(of_run: &Path, places: &BTreeMap<PathBuf, PathBuf>, rootfs: &[Mount]) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Make { path: of_run.to_owned(), source };
    remove(of_run).map_err(failed)?;
    // The agent's alone: programs with the set-uid bit may lie there.
    DirBuilder::new().recursive(true).mode(0o700).create(of_run).map_err(failed)?;
    let layers = snapshots::image_layers(rootfs).ok_or(VolumeError::Look(io::Error::other(
        "its snapshots are no directories; only overlayfs and native can be looked into",
    )))?;
    let look = of_run.join(LOOK);
    let filled = if let [layer] = layers.as_slice() {
        open_directory(Path::new(layer)).map_err(VolumeError::Look).and_then(|root| fill(places, &root))
    } else {
        fs::create_dir(&look).map_err(failed)?;
        // In a mount namespace that ends with its thread, so that nothing is left mounted whatever happens.
        let working = std::thread::scope(|scope| {
            let work = || fill(places, &mounted(&look, &layers).map_err(VolumeError::Look)?);
            std::thread::Builder::new().name("image-volumes".into()).spawn_scoped(scope, work).map(|it| it.join())
        });
        match working.map_err(VolumeError::Look)? {
            Ok(filled) => filled,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    };
    // Empty, and hidden from the container, which has only what lies beside it.
    let _ = fs::remove_dir(&look);
    filled
}

/// The image, read-only and merged, mounted for this thread alone. `layers`: topmost first.
fn mounted(at: &Path, layers: &[String]) -> io::Result<OwnedFd> {
    let options = format!("lowerdir={}", layers.join(":"));
    if options.len() > OPTIONS_MAX {
        return Err(io::Error::other(format!("it has {} layers, too many to be mounted", layers.len())));
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is unmounted outside goes here too: a copy that takes long keeps no other pod's file system.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("overlay"), at, Some("overlay"), flags, Some(options.as_str()))?;
    open_directory(at)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn fill(places: &BTreeMap<PathBuf, PathBuf>, root: &OwnedFd) -> Result<(), VolumeError> {
    let mut left = Left { bytes: BYTES_MAX, entries: ENTRIES_MAX };
    for (place, directory) in places {
        let failed = |source| VolumeError::Copy { place: place.clone(), source };
        mkdirat(AT_FDCWD, directory, Mode::S_IRWXU).map_err(|errno| failed(errno.into()))?;
        // A link in the image leads where it leads for the container: runc resolves the place in the same way.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(root, place, how) {
            Ok(from) => {
                let to = open_directory(directory).map_err(failed)?;
                left.copy_directory(from, to, DEPTH_MAX).map_err(failed)?;
            }
            // The image names it and has nothing there: root's and empty.
            Err(Errno::ENOENT) => {
                fs::set_permissions(directory, Permissions::from_mode(0o755)).map_err(failed)?;
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Ok(())
}

/// What may still be copied.
struct Left {
    bytes: u64,
    entries: u32,
}

impl Left {
    /// Nothing that is met is followed: neither in the image nor where it is copied to.
    fn copy_directory(&mut self, from: OwnedFd, to: OwnedFd, depth: u32) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other(format!("more than {DEPTH_MAX} levels")))?;
        let meta = File::from(from.try_clone()?).metadata()?;
        let mut directory = Dir::from_fd(from.try_clone()?)?;
        for entry in directory.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entries = self.entries.checked_sub(1).ok_or_else(|| {
                io::Error::other(format!("more than {ENTRIES_MAX} files in all of its VOLUMEs together"))
            })?;
            self.copy(&from, &to, name, depth)?;
        }
        finish(&File::from(to), &meta)
    }

    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> io::Result<()> {
        const PLAIN: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK);
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let below = |at: &OwnedFd| openat(at, name, PLAIN | OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
            self.copy_directory(below(from)?, below(to)?, depth)
        } else if kind == SFlag::S_IFREG {
            let source = File::from(openat(from, name, PLAIN | OFlag::O_RDONLY, Mode::empty())?);
            let made = PLAIN | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let mut target = File::from(openat(to, name, made, Mode::S_IRUSR | Mode::S_IWUSR)?);
            let meta = source.metadata()?;
            let copied = io::copy(&mut source.take(self.bytes.saturating_add(1)), &mut target)?;
            self.bytes = self.bytes.checked_sub(copied).ok_or_else(|| {
                io::Error::other(format!("more than {} MiB in all of its VOLUMEs together", BYTES_MAX >> 20))
            })?;
            finish(&target, &meta)
        } else if kind == SFlag::S_IFLNK {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            Ok(fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
        } else {
            Ok(())
        }
    }
}

/// Owner, mode and time as in the image. The owner first: a change of it takes the set-uid bit away.
fn finish(copy: &File, meta: &Metadata) -> io::Result<()> {
    fchown(copy.as_fd(), Some(meta.uid()), Some(meta.gid()))?;
    copy.set_permissions(Permissions::from_mode(meta.mode() & 0o7777))?;
    copy.set_times(FileTimes::new().set_modified(meta.modified()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_volume_is_one_name_below_its_run() {
        assert_eq!(name(Path::new("/var/lib/x")), "~var~lib~x");
        assert_eq!(name(Path::new("/../../etc")), "~etc");
        assert_ne!(name(Path::new("/a/b")), name(Path::new("/a~b")));
        assert!(name(Path::new(&"/x".repeat(3000))).len() < 255);
        let run = |uid: &str, container: &str| RunKey {
            uid: pod::name::Uid(uid.into()),
            container: container.into(),
            attempt: 2,
        };
        let expected = Path::new("/s/pods/0a/volumes/image/main/2");
        assert_eq!(of_run(Path::new("/s"), &run("0a", "main")).as_deref(), Some(expected));
        for (uid, container) in [("..", "main"), ("0a", ".."), ("0a/..", "main"), ("", "main"), ("0a", "a/b")] {
            assert_eq!(of_run(Path::new("/s"), &run(uid, container)), None, "{uid} {container}");
        }
    }

    #[test]
    fn links_in_an_image_do_not_lead_out_of_it_and_nothing_below_is_followed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (image, of_run) = (temp.path().join("image"), temp.path().join("run"));
        fs::create_dir_all(image.join("real/sub")).expect("made");
        fs::write(image.join("real/sub/file"), "content").expect("written");
        fs::set_permissions(image.join("real/sub/file"), Permissions::from_mode(0o4751)).expect("set");
        symlink("/real", image.join("inside")).expect("linked");
        symlink(temp.path().join("secret"), image.join("outside")).expect("linked");
        symlink("/etc/passwd", image.join("real/link")).expect("linked");
        fs::create_dir(temp.path().join("secret")).expect("made");
        fs::write(temp.path().join("secret/key"), "secret").expect("written");
        nix::unistd::mkfifo(&image.join("real/fifo"), Mode::S_IRWXU).expect("made");
        fs::write(image.join("file"), "").expect("written");

        let rootfs = Mount { r#type: "bind".into(), source: image.to_str().expect("text").into(), ..Mount::default() };
        let places = |volumes: &[&str]| -> BTreeMap<PathBuf, PathBuf> {
            volumes.iter().map(|it| (PathBuf::from(it), of_run.join(name(Path::new(it))))).collect()
        };
        make(&of_run, &places(&["/inside", "/outside", "/absent/here"]), std::slice::from_ref(&rootfs)).expect("made");
        let copy = of_run.join("~inside");
        assert_eq!(fs::read_to_string(copy.join("sub/file")).expect("read"), "content");
        assert_eq!(fs::metadata(copy.join("sub/file")).expect("there").mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_link(copy.join("link")).expect("a link"), Path::new("/etc/passwd"));
        assert!(fs::symlink_metadata(copy.join("fifo")).is_err());
        for empty in ["~outside", "~absent~here"] {
            assert_eq!(fs::read_dir(of_run.join(empty)).expect("there").count(), 0, "{empty}");
        }
        let error = make(&of_run, &places(&["/file"]), &[rootfs]).expect_err("no directory");
        assert!(error.to_string().contains("/file"), "{error}");
        remove(&of_run).expect("removed");
        remove(&of_run).expect("gone already");
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        fs::create_dir_all(from.join("a/b")).expect("made");
        fs::write(from.join("a/b/c"), "four").expect("written");
        let copy = |bytes, entries, depth| {
            let _ = fs::remove_dir_all(&to);
            fs::create_dir(&to).expect("made");
            let (from, to) = (open_directory(&from).expect("opened"), open_directory(&to).expect("opened"));
            Left { bytes, entries }.copy_directory(from, to, depth)
        };
        copy(4, 3, 3).expect("just fits");
        assert!(copy(3, 3, 3).is_err());
        assert!(copy(4, 2, 3).is_err());
        assert!(copy(4, 3, 2).is_err());
    }
}
