//! Mounting and unmounting in the pods' directory: the few rules that the namespaces and the files share.
//!
//! Driven by `sandbox`, `namespaces` and `files`. Blocking, microseconds each. Must not know what a mount is for.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mountinfo;

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
    if !mountinfo::read()?.iter().any(|mounted| mounted.point == dir) {
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
    let points = points_below(&dir)?;
    points.iter().try_for_each(|point| seclude(point))?;
    // The deepest first.
    points.iter().rev().try_for_each(|point| unmount(point))
}

/// Cuts what is mounted below `dir`, by a container for example, off from what it shows: taken away here, it stays there.
pub fn seclude_below(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    points_below(&dir)?.iter().filter(|point| **point != dir).try_for_each(|point| seclude(point))
}

/// At and below, parents before what is mounted in them.
fn points_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let all = mountinfo::read()?.into_iter().map(|mounted| mounted.point);
    let mut points: Vec<PathBuf> = all.filter(|point| point.starts_with(dir)).collect();
    points.sort();
    points.dedup();
    Ok(points)
}

/// The mount at `point` is no peer of others any more: what is unmounted below it is unmounted nowhere else.
fn seclude(point: &Path) -> io::Result<()> {
    match mount(None::<&str>, point, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>) {
        // It is gone already, or hidden.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmounting_where_nothing_is_mounted_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        unmount(dir.path()).unwrap();
        unmount(&dir.path().join("absent")).unwrap();
        unmount_below(&dir.path().join("absent")).unwrap();
    }
}
