//! emptyDir: a directory on the state disk, or a file system in memory (v1 EmptyDirVolumeSource).
//!
//! Driven by `volumes`. Blocking. What is there already is left as it is: containers have written to it. Beside a volume
//! stands, under a name that no volume can have, one that is not finished.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use pod::spec::{EmptyDir, Medium};

use super::{Places, VolumeError, kept};
use crate::sandbox::mounts;

/// Any user of any container may write there (Kubernetes).
const MODE: u32 = 0o777;
const SET_GROUP: u32 = 0o2000;
/// What leads there is the agent's alone: programs with the set-uid bit may lie there.
const WAY_MODE: u32 = 0o700;

/// Makes the volume unless it is there, and answers where it is. `memory_limit`: the pod's, in bytes.
pub(super) fn make(
    volume: &str,
    wanted: &EmptyDir,
    memory_limit: Option<u64>,
    places: &Places,
) -> Result<PathBuf, VolumeError> {
    let below = |pod_dir: &Path| kept::place(pod_dir).join(volume);
    let (path, made) = match wanted.medium {
        Medium::Disk => {
            let path = below(&places.disk);
            let made = directory(&path, wanted.group);
            (path, made)
        }
        Medium::Memory => {
            let path = below(&places.memory);
            let limits = [wanted.size_limit, memory_limit, node_memory()];
            let size = limits.into_iter().flatten().filter(|bytes| *bytes > 0).min();
            let made = directory(&path, None).and_then(|()| in_memory(&path, size, wanted.group));
            (path, made)
        }
        Medium::HugePages(size) => {
            let path = below(&places.memory);
            let size = page_size(volume, size)?;
            let made = directory(&path, None).and_then(|()| of_huge_pages(&path, size, wanted));
            (path, made)
        }
    };
    match made {
        Ok(()) => Ok(path),
        Err(source) => Err(VolumeError::EmptyDir { volume: volume.into(), path, source }),
    }
}

/// Whole or not at all, so that a set-up that was interrupted leaves none with another mode.
fn directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::from(Errno::ENOTDIR)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL.into()) };
    DirBuilder::new().recursive(true).mode(WAY_MODE).create(parent)?;
    let beside = parent.join(format!(".{}.new", name.to_string_lossy()));
    match fs::create_dir(&beside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        // The group first: a change of it takes the bit away by which it is inherited.
        _ => chown(&beside, None, group)
            .and_then(|()| fs::set_permissions(&beside, Permissions::from_mode(mode(group))))?,
    }
    match renameat2(AT_FDCWD, &beside, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        // Another look at the same pod was quicker.
        Err(Errno::ENOENT) if path.is_dir() => Ok(()),
        Err(Errno::EEXIST) => fs::remove_dir(&beside),
        other => Ok(other?),
    }
}

/// With a group of its own, what is made in it belongs to that too.
fn mode(group: Option<u32>) -> u32 {
    if group.is_some() { MODE | SET_GROUP } else { MODE }
}

/// Of a file system in memory.
fn options(size: Option<u64>, group: Option<u32>) -> String {
    let mut options = format!("mode={:o}", mode(group));
    if let Some(group) = group {
        options.push_str(&format!(",gid={group}"));
    }
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    options
}

fn in_memory(path: &Path, size: Option<u64>, group: Option<u32>) -> io::Result<()> {
    if mounts::is_mount_root(path) {
        return Ok(());
    }
    let options = options(size, group);
    let with = |options: &str| mount(Some("daemonlet"), path, Some("tmpfs"), MsFlags::empty(), Some(options));
    match with(&format!("{options},noswap")) {
        // Kernels before 6.3 do not know the word.
        Err(Errno::EINVAL) => Ok(with(&options)?),
        other => Ok(other?),
    }
}

fn of_huge_pages(path: &Path, page: u64, wanted: &EmptyDir) -> io::Result<()> {
    if mounts::is_mount_root(path) {
        return Ok(());
    }
    let options = format!("{},pagesize={page}", options(wanted.size_limit, wanted.group));
    mount(Some("daemonlet"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?;
    // This file system takes no more than the nine bits from its option.
    fs::set_permissions(path, Permissions::from_mode(mode(wanted.group)))
}

/// The size in bytes of pages that the node has set aside.
fn page_size(volume: &str, asked: Option<u64>) -> Result<u64, VolumeError> {
    let size = asked.or_else(|| meminfo("Hugepagesize:")).unwrap_or(0);
    let of_size = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size / 1024));
    let has = |name: &str| {
        let text = fs::read_to_string(of_size.join(name)).ok();
        text.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
    };
    if has("nr_hugepages") || has("nr_overcommit_hugepages") {
        return Ok(size);
    }
    Err(VolumeError::NoHugePages { volume: volume.into(), size: size / 1024, file: of_size.join("nr_hugepages") })
}

fn node_memory() -> Option<u64> {
    meminfo("MemTotal:")
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn on_disk_it_is_for_everybody_and_what_is_in_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { disk: dir.path().join("disk"), memory: dir.path().join("memory") };
        // As a set-up leaves it that is interrupted.
        fs::create_dir_all(places.disk.join("volumes/empty-dir/.data.new")).unwrap();
        let made = make("data", &EmptyDir::default(), None, &places).unwrap();
        assert_eq!(made, places.disk.join("volumes/empty-dir/data"));
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(made.join("kept"), "").unwrap();
        fs::set_permissions(&made, Permissions::from_mode(0o1750)).unwrap();
        make("data", &EmptyDir::default(), None, &places).unwrap();
        assert!(made.join("kept").exists());
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o1750);
        let wanted = EmptyDir { group: Some(2000), ..EmptyDir::default() };
        let meta = fs::metadata(make("of-group", &wanted, None, &places).unwrap()).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (2000, 0o2777));
        fs::remove_dir_all(&made).unwrap();
        std::os::unix::fs::symlink(dir.path(), &made).unwrap();
        assert!(make("data", &EmptyDir::default(), None, &places).is_err());
    }

    #[test]
    fn huge_pages_that_the_node_lacks_are_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { disk: dir.path().join("disk"), memory: dir.path().join("memory") };
        let wanted = EmptyDir { medium: Medium::HugePages(Some(1 << 40)), ..EmptyDir::default() };
        let error = make("data", &wanted, None, &places).unwrap_err().to_string();
        assert!(error.contains("hugepages-1073741824kB/nr_hugepages"), "{error}");
    }
}
