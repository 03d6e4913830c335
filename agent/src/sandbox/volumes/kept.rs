//! Volumes that outlive their pod's surroundings: what containers wrote to them is there again when these are raised anew.
//!
//! Driven by `sandbox`, for the pod's directory on the state disk and for the one in memory alike: in both they lie at
//! `volumes/empty-dir`. Blocking; the looks take a few system calls.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sandbox::mounts;

/// The way to them from a pod's directory.
const WAY: [&str; 2] = ["volumes", "empty-dir"];

/// Where those of a pod lie.
pub fn place(pod_dir: &Path) -> PathBuf {
    WAY.iter().fold(pod_dir.to_owned(), |path, part| path.join(part))
}

/// Whether there are any.
pub fn some(pod_dir: &Path) -> bool {
    place(pod_dir).exists()
}

/// Whether there are some, and beside them nothing.
pub fn only(pod_dir: &Path) -> bool {
    some(pod_dir) && nothing_else(pod_dir)
}

/// Whether there is nothing beside them, or nothing at all.
pub fn nothing_else(pod_dir: &Path) -> bool {
    let is_alone = |dir: &Path, name: &str| match fs::read_dir(dir) {
        Ok(entries) => entries.into_iter().all(|entry| entry.is_ok_and(|entry| entry.file_name() == name)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    is_alone(pod_dir, WAY[0]) && is_alone(&pod_dir.join(WAY[0]), WAY[1])
}

/// Removes all but them. Nothing that is mounted is emptied by it, and no link is followed.
pub fn remove_others(pod_dir: &Path) -> io::Result<()> {
    remove_beside(pod_dir, WAY[0])?;
    remove_beside(&pod_dir.join(WAY[0]), WAY[1])
}

fn remove_beside(dir: &Path, name: &str) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == name {
            continue;
        }
        if entry.file_type()?.is_dir() {
            mounts::unmount_below(&entry.path())?;
            crate::remove::tree(&entry.path())?;
        } else {
            mounts::unmount(&entry.path())?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_volumes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("pod");
        assert!(nothing_else(&pod_dir) && !only(&pod_dir));
        remove_others(&pod_dir).unwrap();
        for made in ["volumes/empty-dir/data", "volumes/image/main/0/~data", "etc"] {
            fs::create_dir_all(pod_dir.join(made)).unwrap();
        }
        for made in ["made", "volumes/empty-dir/data/kept"] {
            fs::write(pod_dir.join(made), "").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), pod_dir.join("volumes/link")).unwrap();
        assert!(some(&pod_dir) && !nothing_else(&pod_dir) && !only(&pod_dir));
        remove_others(&pod_dir).unwrap();
        assert!(only(&pod_dir) && pod_dir.join("volumes/empty-dir/data/kept").exists());
        assert_eq!(fs::read_dir(pod_dir.join("volumes")).unwrap().count(), 1);
    }
}
