//! How many bytes of the disk a directory tree takes that a container may be changing.
//!
//! Driven by `storage`. Blocking. Nothing is followed or opened for use, nothing that is mounted in the tree is entered, a
//! file with several names counts once, and there are bounds: of a tree beyond them the part that was seen counts.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

/// Each level holds a descriptor.
const DEPTH_MAX: usize = 128;
/// A tree that takes longer is not measured to its end; a million files take about two seconds.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Files with several names that are kept in mind.
const LINKED_MAX: usize = 65_536;

/// Bytes that the tree takes; 0 where there is none.
pub fn tree(path: &Path) -> u64 {
    let plain = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(root) = openat(AT_FDCWD, path, plain, Mode::empty()) else { return 0 };
    let Ok(device) = root.try_clone().and_then(|root| File::from(root).metadata()).map(|meta| meta.dev()) else {
        return 0;
    };
    let mut walk = Walk { device, linked: BTreeSet::new(), bytes: 0, ends: Instant::now() + TIME_MAX };
    walk.directory(root, DEPTH_MAX);
    walk.bytes
}

struct Walk {
    /// Of the file system: another one is something that is mounted here.
    device: u64,
    linked: BTreeSet<u64>,
    bytes: u64,
    ends: Instant,
}

impl Walk {
    fn directory(&mut self, directory: OwnedFd, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let Ok(mut directory) = Dir::from_fd(directory) else { return };
        let mut below = Vec::new();
        let Ok(at) = std::os::fd::AsFd::as_fd(&directory).try_clone_to_owned() else { return };
        for entry in directory.iter().flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if Instant::now() > self.ends {
                return;
            }
            let Ok(stat) = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != self.device {
                continue;
            }
            self.count(&stat);
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                below.push(name.to_owned());
            }
        }
        drop(directory);
        for name in below {
            let plain = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            if let Ok(found) = openat(&at, name.as_c_str(), plain, Mode::empty()) {
                self.directory(found, depth);
            }
        }
    }

    fn count(&mut self, stat: &FileStat) {
        let is_directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if !is_directory && stat.st_nlink > 1 {
            if self.linked.contains(&stat.st_ino) {
                return;
            }
            // Beyond the bound each name counts.
            if self.linked.len() < LINKED_MAX {
                self.linked.insert(stat.st_ino);
            }
        }
        // stat(2): in blocks of 512 bytes, whatever the file system's are.
        self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_lies_there_counts_and_once() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree_dir = dir.path().join("tree");
        fs::create_dir_all(tree_dir.join("a/b")).unwrap();
        let empty = tree(&tree_dir);
        fs::write(outside.path().join("big"), vec![1; 8 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), tree_dir.join("a/link")).unwrap();
        fs::write(tree_dir.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree_dir.join("a/b/file"), tree_dir.join("twin")).unwrap();
        let used = tree(&tree_dir) - empty;
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        // A hole takes nothing.
        fs::File::create(tree_dir.join("hole")).unwrap().set_len(1 << 30).unwrap();
        assert!(tree(&tree_dir) - empty < 2 << 20);
        assert_eq!(tree(&dir.path().join("absent")), 0);
    }
}
