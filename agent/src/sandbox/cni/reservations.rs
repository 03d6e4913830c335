//! What the address plugin of our own network has given out: one file an address, in a directory of ours.
//!
//! Driven by `cni`. Reads and removes; the files are written by host-local alone. Addresses that a configuration of the
//! node's gives out are in other directories, which are never touched: their records are enough.

use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pod::name::Uid;

/// A reservation of host-local is a container id and an interface's name.
const RESERVATION_MAX_BYTES: u64 = 1024;

/// host-local's files: named by address, the container's id in the first line; None where that is not written.
pub fn all(directory: &Path) -> Vec<(IpAddr, Option<Uid>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let address = address(entry.file_name().to_str()?)?;
        let mut text = String::new();
        fs::File::open(entry.path()).ok()?.take(RESERVATION_MAX_BYTES).read_to_string(&mut text).ok()?;
        let owner = text.lines().next().map(str::trim).filter(|id| super::super::is_safe_name(id));
        Some((address, owner.map(|id| Uid(id.to_owned()))))
    };
    entries.filter_map(read).collect()
}

/// Whether the address plugin has given this pod an address.
pub fn has(directory: &Path, uid: &Uid) -> bool {
    all(directory).iter().any(|(_, owner)| owner.as_ref() == Some(uid))
}

/// Frees an address.
pub fn free(directory: &Path, address: IpAddr) -> Result<(), (PathBuf, io::Error)> {
    let path = directory.join(address.to_string());
    fs::remove_file(&path).map_err(|source| (path, source))
}

fn address(file_name: &str) -> Option<IpAddr> {
    file_name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_of_both_families_are_found_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("198.18.0.2", "0a\neth0"),
            ("fd00::2", "0a\r\neth0"),
            ("fd00::3", ""),
            ("last_reserved_ip.0", "x"),
            ("lock", ""),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut found = all(dir.path());
        found.sort();
        let owner = Some(Uid("0a".into()));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(found, [(ip("198.18.0.2"), owner.clone()), (ip("fd00::2"), owner), (ip("fd00::3"), None)]);
        assert!(has(dir.path(), &Uid("0a".into())) && !has(dir.path(), &Uid("0b".into())));
        free(dir.path(), ip("fd00::3")).unwrap();
        assert_eq!(all(dir.path()).len(), 2);
    }
}
