//! Mounting and unmounting in the pods' directory: the few rules that the namespaces and the files share.
//!
//! Driven by `sandbox`, `namespaces` and `files`. Blocking, microseconds each. Must not know what a mount is for.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How many mounts may lie on top of each other at one place before we give up: an interrupted set-up leaves one or two.
const STACKED_MAX: usize = 8;

/// Makes `dir` a mount point of its own whose mounts reach other mount namespaces (shared propagation).
///
/// containerd may run in a mount namespace that was split off from ours, before or after this; with a shared mount, what
/// is mounted below appears there too, and what is unmounted goes there too. Done once: binding a second time would hide
/// the pods' mounts under the new one.
pub fn make_shared_root(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    if !mount_points(&fs::read_to_string("/proc/thread-self/mountinfo")?).any(|point| point == dir) {
        mount(Some(&dir), &dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    Ok(())
}

/// Mounts a small file system in memory at `dir`, unless one is there. `options` as in mount(8): `size=1m,mode=0755`.
pub fn tmpfs(dir: &Path, options: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_mount_root(dir) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("daemonlet"), dir, Some("tmpfs"), flags, Some(options))?;
    Ok(())
}

/// Whether another file system than its parent's is mounted at `dir`. Bind mounts of the same one are not seen.
pub fn is_mount_root(dir: &Path) -> bool {
    let parent = dir.parent().and_then(|p| fs::symlink_metadata(p).ok());
    match (fs::symlink_metadata(dir), parent) {
        (Ok(here), Some(parent)) => here.dev() != parent.dev(),
        _ => false,
    }
}

/// Takes away whatever is mounted at `path`, also when it is in use: a container that has it keeps its own copy. Ok when
/// nothing is mounted there.
pub fn unmount(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MAX {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other(format!("more than {STACKED_MAX} mounts lie on {}", path.display())))
}

/// Unmounts everything at and below `dir`, so that removing the directory cannot reach into something mounted there.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|point| point.starts_with(&dir)).collect();
    points.sort();
    // The deepest first.
    points.iter().rev().try_for_each(|point| unmount(point))
}

/// The mount points of a mountinfo table (proc_pid_mountinfo(5), fifth field, octal escapes undone).
fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
pub fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = "36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 - ext3 /dev/root rw\n22 27 0:21 / /proc rw - proc proc rw\n";
        let points: Vec<PathBuf> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/mnt/with space"), PathBuf::from("/proc")]);
    }

    #[test]
    fn unmounting_where_nothing_is_mounted_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        unmount(dir.path()).unwrap();
        unmount(&dir.path().join("absent")).unwrap();
        unmount_below(&dir.path().join("absent")).unwrap();
    }
}
