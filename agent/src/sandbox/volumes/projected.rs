//! The files of projected volumes (configMap, secret, downwardAPI, projected): in memory, and changed all at once.
//!
//! Driven by `sandbox`. Blocking. What a volume shows lies in a directory of its own, named by its time; `..data` is a link to it
//! and every name in the volume is a link through `..data`. A change makes a new directory and then renames one link over the
//! other, so that whoever reads sees all of the old or all of the new, as with Kubernetes' volumes.
//!
//! A container may have the node's tree mounted and plant what it likes in a volume (CVE-2017-1002102, CVE-2025-9566): the agent
//! goes by descriptors, name by name, and follows no link.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat, renameat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, UnlinkatFlags, fchown, symlinkat, unlinkat};
use pod::projection::{self, Files, MAX_POD_BYTES};

use crate::sandbox::mounts;

/// The link that is renamed over, and what it is called before.
const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
/// Whoever may look at a volume may look at all of its directories.
const DIRECTORY_MODE: u32 = 0o755;
/// Nobody but root comes to the volumes from outside.
const WAY_MODE: u32 = 0o700;
/// Files of one pod: Kubernetes has no limit, memory has.
const INODES_MAX: u32 = 65_536;

/// Where a pod's volumes lie in its directory in memory.
pub fn place(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes/projected")
}

/// Makes the file system in which the pod's volumes lie, unless it is there: of bounded size, two generations fit.
pub fn prepare(pod_dir: &Path) -> io::Result<()> {
    let place = place(pod_dir);
    DirBuilder::new().recursive(true).mode(WAY_MODE).create(&place)?;
    if mounts::is_mount_root(&place) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // A page for each file beside what it holds.
    let options = format!("size={},nr_inodes={INODES_MAX},mode={WAY_MODE:o}", 4 * MAX_POD_BYTES);
    let with = |options: &str| mount(Some("daemonlet"), &place, Some("tmpfs"), flags, Some(options));
    match with(&format!("{options},noswap")) {
        // Kernels before 6.3 do not know the word.
        Err(Errno::EINVAL) => Ok(with(&options)?),
        other => Ok(other?),
    }
}

/// Makes the volume show these files and no others. False: it did already.
pub fn write(volume: &Path, files: &Files) -> io::Result<bool> {
    match fs::create_dir(volume) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let root = open(volume, directory(), Mode::empty())?;
    fchmod(&root, Mode::from_bits_truncate(DIRECTORY_MODE))?;
    let shown: BTreeSet<&str> = files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    let before = current(&root);
    if let Some(name) = &before
        && shows(&root, name, files, &shown)
    {
        return Ok(false);
    }
    let name = new_directory(&root)?;
    let made = fill(&root, &name, files).and_then(|()| turn(&root, &name));
    if let Err(error) = made {
        let _ = remove(&root, &name);
        return Err(error);
    }
    for name in &shown {
        let target = format!("{DATA}/{name}");
        if readlinkat(&root, *name).ok().as_deref() != Some(OsStr::new(&target)) {
            remove(&root, OsStr::new(name))?;
            symlinkat(target.as_str(), &root, *name)?;
        }
    }
    tidy(&root, &name, &shown)?;
    Ok(true)
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW
}

/// The directory that the volume shows at present.
fn current(root: &OwnedFd) -> Option<OsString> {
    let name = readlinkat(root, DATA).ok()?;
    is_ours(&name).then_some(name)
}

/// A directory's name as this file gives them: no link and no planted name leads out of the volume.
fn is_ours(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b"..") && bytes.get(2).is_some_and(u8::is_ascii_digit) && !bytes.contains(&b'/')
}

/// Whether all is as it is to be.
fn shows(root: &OwnedFd, name: &OsStr, files: &Files, shown: &BTreeSet<&str>) -> bool {
    let Ok(data) = openat(root, name, directory(), Mode::empty()) else { return false };
    let links = shown.iter().all(|name| {
        let target = format!("{DATA}/{name}");
        readlinkat(root, *name).ok().as_deref() == Some(OsStr::new(&target))
    });
    let wanted: BTreeSet<&str> = files.keys().map(|path| path.as_str()).collect();
    let same_names = paths(&data)
        .is_ok_and(|found| found.len() == wanted.len() && found.iter().all(|path| wanted.contains(path.as_str())));
    links && same_names && files.iter().all(|(path, file)| is_as(&data, path, file).unwrap_or(false))
}

/// All files in the directory and below it, by their paths. Only we write there, so that it is no larger than what we wrote.
fn paths(data: &OwnedFd) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![(String::new(), data.try_clone()?)];
    while let Some((before, dir)) = waiting.pop() {
        for name in names(&dir)? {
            let path = format!("{before}{}", name.to_string_lossy());
            match openat(&dir, name.as_os_str(), directory(), Mode::empty()) {
                Ok(below) => waiting.push((format!("{path}/"), below)),
                Err(_) => drop(found.insert(path)),
            }
        }
    }
    Ok(found)
}

fn is_as(data: &OwnedFd, path: &str, wanted: &projection::File) -> io::Result<bool> {
    let (dir, name) = walk(data, path, Missing::Fails)?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::from(openat(dir.as_ref().unwrap_or(data), name, flags, Mode::empty())?);
    let found = file.metadata()?;
    let bytes = wanted.content.reveal();
    let same = found.is_file()
        && found.len() == bytes.len() as u64
        && found.mode() & 0o7777 == wanted.mode
        && found.uid() == 0
        && found.gid() == wanted.group.unwrap_or(0);
    if !same {
        return Ok(false);
    }
    let mut content = Vec::with_capacity(bytes.len());
    file.take(bytes.len() as u64 + 1).read_to_end(&mut content)?;
    Ok(content == bytes)
}

/// An empty directory under a name that was never there.
fn new_directory(root: &OwnedFd) -> io::Result<OsString> {
    /// Two changes within a nanosecond, or a clock that was set back.
    const TRIES: u32 = 100;
    for attempt in 0..TRIES {
        let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
        let name = OsString::from(if attempt == 0 { format!("..{now}") } else { format!("..{now}.{attempt}") });
        match mkdirat(root, name.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => return Ok(name),
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("no name is free for a new directory"))
}

fn fill(root: &OwnedFd, name: &OsStr, files: &Files) -> io::Result<()> {
    let data = openat(root, name, directory(), Mode::empty())?;
    for (path, file) in files {
        let (dir, name) = walk(&data, path, Missing::IsMade)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mut made = File::from(openat(dir.as_ref().unwrap_or(&data), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        made.write_all(file.content.reveal())?;
        fchown(&made, None, file.group.map(Gid::from_raw))?;
        fchmod(&made, Mode::from_bits_truncate(file.mode))?;
    }
    Ok(fchmod(&data, Mode::from_bits_truncate(DIRECTORY_MODE))?)
}

/// What becomes of a directory on the way that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsMade,
    Fails,
}

/// The directory of a path's last name, None: `from` itself; and that name.
fn walk<'p>(from: &OwnedFd, path: &'p str, missing: Missing) -> io::Result<(Option<OwnedFd>, &'p str)> {
    let mut at: Option<OwnedFd> = None;
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return Ok((at, part));
        }
        let dir = at.as_ref().unwrap_or(from);
        let mut is_new = false;
        if missing == Missing::IsMade {
            match mkdirat(dir, part, Mode::S_IRWXU) {
                Ok(()) => is_new = true,
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let next = openat(dir, part, directory(), Mode::empty())?;
        if is_new {
            fchmod(&next, Mode::from_bits_truncate(DIRECTORY_MODE))?;
        }
        at = Some(next);
    }
    Err(io::Error::from(Errno::EINVAL))
}

/// Lets the volume show the new directory: the one moment of the change.
fn turn(root: &OwnedFd, name: &OsStr) -> io::Result<()> {
    remove(root, OsStr::new(DATA_NEW))?;
    symlinkat(name, root, DATA_NEW)?;
    match renameat(root, DATA_NEW, root, DATA) {
        // Somebody has put a directory there.
        Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {
            remove(root, OsStr::new(DATA))?;
            Ok(renameat(root, DATA_NEW, root, DATA)?)
        }
        other => Ok(other?),
    }
}

/// Takes away what was shown before and is not any more. What else somebody has put there is his.
fn tidy(root: &OwnedFd, now: &OsStr, shown: &BTreeSet<&str>) -> io::Result<()> {
    for name in names(root)? {
        let stale = if is_ours(&name) {
            name != now
        } else {
            let target = [DATA.as_bytes(), b"/", name.as_bytes()].concat();
            let link = readlinkat(root, name.as_os_str()).is_ok_and(|link| link.as_bytes() == target);
            link && name.to_str().is_none_or(|name| !shown.contains(name))
        };
        if stale {
            remove(root, &name)?;
        }
    }
    Ok(())
}

/// Removes whatever has this name in the volume; nothing is followed.
fn remove(root: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(root, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => keeper::tree::remove(root, &CString::new(name.as_bytes())?, || Ok(())),
        Err(error) => Err(error.into()),
    }
}

/// All names in a directory but `.` and `..`.
fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut entries = Dir::openat(dir, ".", directory(), Mode::empty())?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use pod::content::Hidden;

    use super::*;

    fn files(all: &[(&str, u32, &str)]) -> Files {
        let file = |mode: u32, text: &str| projection::File {
            mode,
            group: None,
            content: Hidden::new(text.as_bytes().to_vec()),
        };
        all.iter().map(|(path, mode, text)| ((*path).to_owned(), file(*mode, text))).collect()
    }

    /// The names in a volume without the directories' times, sorted.
    fn listed(volume: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(volume).unwrap().map(name).collect();
        names.iter_mut().filter(|name| is_ours(OsStr::new(name.as_str()))).for_each(|name| *name = "..time".into());
        names.sort();
        names
    }

    fn text(volume: &Path, path: &str) -> String {
        fs::read_to_string(volume.join(path)).unwrap()
    }

    #[test]
    fn a_volume_shows_its_files_and_changes_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        assert!(write(&volume, &files(&[("a", 0o644, "1"), ("d/e/b", 0o400, "2"), ("d/c", 0o777, "3")])).unwrap());
        assert_eq!(listed(&volume), ["..data", "..time", "a", "d"]);
        assert_eq!([text(&volume, "a"), text(&volume, "d/e/b"), text(&volume, "d/c")], ["1", "2", "3"]);
        let mode = |path: &str| fs::metadata(volume.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(
            [mode("a"), mode("d/e/b"), mode("d/c"), mode("d/e"), mode("..data"), mode(".")],
            [0o644, 0o400, 0o777, 0o755, 0o755, 0o755]
        );
        // Whoever has opened the old directory goes on seeing it whole.
        let old = fs::read_link(volume.join(DATA)).unwrap();
        assert!(write(&volume, &files(&[("a", 0o644, "new"), ("z", 0o644, "")])).unwrap());
        assert_eq!(listed(&volume), ["..data", "..time", "a", "z"]);
        assert_eq!(text(&volume, "a"), "new");
        assert_ne!(fs::read_link(volume.join(DATA)).unwrap(), old);
        assert!(write(&volume, &Files::new()).unwrap());
        assert_eq!(listed(&volume), ["..data", "..time"]);
    }

    #[test]
    fn a_file_that_is_taken_out_of_a_directory_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        assert!(write(&volume, &files(&[("tls/ca.crt", 0o644, "1"), ("tls/tls.key", 0o400, "2")])).unwrap());
        assert!(write(&volume, &files(&[("tls/ca.crt", 0o644, "1")])).unwrap(), "it is not as it is to be");
        assert!(!volume.join("tls/tls.key").exists() && text(&volume, "tls/ca.crt") == "1");
        assert!(!write(&volume, &files(&[("tls/ca.crt", 0o644, "1")])).unwrap());
    }

    #[test]
    fn what_is_as_it_is_to_be_is_not_touched_and_anything_else_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        let wanted = files(&[("a", 0o644, "1"), ("d/b", 0o600, "2")]);
        assert!(write(&volume, &wanted).unwrap());
        let link = fs::read_link(volume.join(DATA)).unwrap();
        assert!(!write(&volume, &wanted).unwrap());
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), link);
        let data = volume.join(&link);
        for damage in [
            &(|| fs::write(data.join("a"), "2").unwrap()) as &dyn Fn(),
            &|| fs::remove_file(volume.join(fs::read_link(volume.join(DATA)).unwrap()).join("d/b")).unwrap(),
            &|| fs::write(volume.join(fs::read_link(volume.join(DATA)).unwrap()).join("more"), "").unwrap(),
            &|| fs::remove_file(volume.join("a")).unwrap(),
            &|| fs::remove_file(volume.join(DATA)).unwrap(),
            &|| {
                fs::remove_file(volume.join(DATA)).unwrap();
                fs::create_dir_all(volume.join(DATA).join("x")).unwrap();
            },
        ] {
            damage();
            assert!(write(&volume, &wanted).unwrap());
            assert_eq!(listed(&volume), ["..data", "..time", "a", "d"]);
            assert_eq!([text(&volume, "a"), text(&volume, "d/b")], ["1", "2"]);
        }
    }

    #[test]
    fn planted_links_lead_nowhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        fs::create_dir(outside.path().join("..2001_01_01")).unwrap();
        fs::write(&victim, "untouched").unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", 0o644, "1"), ("d/b", 0o644, "2")])).unwrap();
        for link in ["..2000_01_01_00_00_00.0", DATA_NEW, "planted"] {
            symlink(outside.path(), volume.join(link)).unwrap();
        }
        // In place of what the volume shows, of a directory in it, and of the directory itself.
        for (round, place) in ["a", "d", DATA, "..data/d"].into_iter().enumerate() {
            let path = volume.join(place);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            if is_dir {
                fs::remove_dir_all(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            symlink(outside.path(), &path).unwrap();
            let text_now = round.to_string();
            assert!(write(&volume, &files(&[("a", 0o644, &text_now), ("d/b", 0o644, &text_now)])).unwrap(), "{place}");
            assert_eq!([text(&volume, "a"), text(&volume, "d/b")], [text_now.clone(), text_now]);
            assert_eq!(listed(&volume), ["..data", "..time", "a", "d", "planted"], "{place}");
        }
        crate::remove::tree(&volume).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
        // Nor does the volume's own name.
        symlink(outside.path(), &volume).unwrap();
        assert!(write(&volume, &files(&[("a", 0o644, "1")])).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_reader_never_sees_half_of_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        let both = |text: &str| files(&[("a", 0o644, text), ("b", 0o644, text)]);
        write(&volume, &both("0")).unwrap();
        let path = volume.clone();
        let writer = std::thread::spawn(move || {
            for round in 1..200 {
                write(&path, &both(&round.to_string())).unwrap();
            }
        });
        while !writer.is_finished() {
            // As a careful reader does: one look at the link, then everything through it.
            let data = volume.join(fs::read_link(volume.join(DATA)).unwrap());
            if let (Ok(a), Ok(b)) = (fs::read_to_string(data.join("a")), fs::read_to_string(data.join("b"))) {
                assert_eq!(a, b);
            }
            assert!(!fs::read_to_string(volume.join("a")).unwrap_or("gone meanwhile".into()).is_empty());
        }
        writer.join().unwrap();
        assert_eq!(text(&volume, "b"), "199");
    }
}
