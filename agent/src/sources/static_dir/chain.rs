//! Where a directory really lies: every name and link on the way to it, because each of them may be replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::mountinfo::unescape;

/// Links followed on the way, as in the kernel.
const MAX_LINKS: usize = 40;
/// A directory this close to the root holds much that does not concern us, and opening any of it would wake us: it is
/// watched only where the name in it is a link, is missing, or is the manifest directory.
const BUSY_DEPTH: usize = 1;

/// The way to a directory.
#[derive(Debug, Default)]
pub struct Chain {
    /// Every name on the way, in its real place. A change of one of them changes where the directory lies.
    pub names: BTreeSet<PathBuf>,
    /// The directories to watch, with device and inode.
    pub watch: BTreeMap<PathBuf, (u64, u64)>,
    /// Where the directory lies.
    pub real: Option<PathBuf>,
    /// Why it does not.
    pub fault: Option<io::Error>,
}

/// Follows an absolute path to its end, or to the first name that is missing.
pub fn resolve(path: &Path) -> Chain {
    let mut chain = Chain::default();
    let mut ahead: Vec<PathBuf> = parts(path).collect();
    ahead.reverse();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        chain.names.insert(next.clone());
        let found = std::fs::symlink_metadata(&next);
        let passing = found.as_ref().is_ok_and(|m| m.is_dir()) && !ahead.is_empty();
        if !passing || parts(&at).count() > BUSY_DEPTH {
            chain.watch(&at);
        }
        match found {
            Ok(found) if found.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    chain.fault = Some(io::Error::other("a loop of symbolic links"));
                    return chain;
                }
                match std::fs::read_link(&next) {
                    Ok(target) => {
                        if target.is_absolute() {
                            at = PathBuf::from("/");
                        }
                        let mut target: Vec<PathBuf> = parts(&target).collect();
                        target.reverse();
                        ahead.extend(target);
                    }
                    Err(error) => {
                        chain.fault = Some(error);
                        return chain;
                    }
                }
            }
            Ok(found) if found.is_dir() => at = next,
            Ok(_) => {
                chain.fault = Some(io::Error::from(io::ErrorKind::NotADirectory));
                return chain;
            }
            Err(error) => {
                chain.fault = Some(error);
                return chain;
            }
        }
    }
    chain.watch(&at);
    chain.real = Some(at);
    chain
}

impl Chain {
    fn watch(&mut self, dir: &Path) {
        if let Ok(found) = std::fs::metadata(dir) {
            self.watch.insert(dir.to_owned(), (found.dev(), found.ino()));
        }
    }
}

/// The names of a path, and its `..`.
fn parts(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Whether /etc/fstab says that something is to be mounted on one of these names and nothing is.
pub fn awaits_mount(fstab: &str, mounted: &BTreeSet<PathBuf>, names: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let wanted = fstab.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (point, options) = (words.next()?, words.nth(1).unwrap_or_default());
        (!options.split(',').any(|option| option == "noauto")).then_some(point)
    });
    wanted.map(|p| PathBuf::from(unescape(p))).find(|p| names.contains(p) && !mounted.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_point_of_fstab_without_mount_is_awaited() {
        let fstab = "# /dev/a /m ext4 defaults 0 0\n/dev/b /srv/my\\040disk ext4 defaults,nofail 0 2\n/dev/c /n ext4 noauto 0 0\n";
        let names = |path: &str| BTreeSet::from([PathBuf::from("/srv"), PathBuf::from(path)]);
        let mounted = BTreeSet::from([PathBuf::from("/")]);
        assert_eq!(awaits_mount(fstab, &mounted, &names("/srv/my disk")), Some(PathBuf::from("/srv/my disk")));
        assert_eq!(awaits_mount(fstab, &mounted, &names("/m")), None);
        assert_eq!(awaits_mount(fstab, &mounted, &names("/n")), None);
        let mounted = names("/srv/my disk");
        assert_eq!(awaits_mount(fstab, &mounted, &names("/srv/my disk")), None);
    }
}
