//! The mounts of this process as the kernel lists them (proc_pid_mountinfo(5)).
//!
//! Used by `sandbox` and by the runtime's mounts. Reading it takes some ten microseconds a hundred mounts.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub point: PathBuf,
    /// What is mounted and unmounted here goes to its peers, and theirs comes here.
    pub shared: bool,
    /// What is mounted in a group of others comes here.
    pub follows: bool,
}

/// All mounts that this thread sees, in the order in which they were made.
pub fn read() -> io::Result<Vec<Mounted>> {
    Ok(parse(&fs::read("/proc/thread-self/mountinfo")?))
}

/// All mounts that a process sees.
pub fn read_of(pid: i32) -> io::Result<Vec<Mounted>> {
    Ok(parse(&fs::read(format!("/proc/{pid}/mountinfo"))?))
}

/// The mount in which `path`, absolute and without links, lies.
pub fn of<'a>(path: &Path, all: &'a [Mounted]) -> Option<&'a Mounted> {
    // Of two at one place the later one hides the earlier.
    all.iter().filter(|mounted| path.starts_with(&mounted.point)).max_by_key(|it| it.point.components().count())
}

/// Names of mount points need not be UTF-8.
fn parse(table: &[u8]) -> Vec<Mounted> {
    let mounted = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = PathBuf::from(OsString::from_vec(unescape_bytes(fields.nth(4)?)));
        let tags: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
        let tagged = |tag: &[u8]| tags.iter().any(|field| field.starts_with(tag));
        Some(Mounted { point, shared: tagged(b"shared:"), follows: tagged(b"master:") })
    };
    table.split(|byte| *byte == b'\n').filter_map(mounted).collect()
}

fn unescape_bytes(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after.get(..3)) {
            (b'\\', Some(b"040")) => Some(b' '),
            (b'\\', Some(b"011")) => Some(b'\t'),
            (b'\\', Some(b"012")) => Some(b'\n'),
            (b'\\', Some(b"134")) => Some(b'\\'),
            _ => None,
        };
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    plain
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
pub fn unescape(field: &str) -> String {
    String::from_utf8_lossy(&unescape_bytes(field.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes_and_their_propagation() {
        let table = "22 27 0:21 / / rw - ext4 /dev/root rw\n\
                     36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime shared:7 master:1 - ext3 /dev/root rw\n\
                     37 35 98:0 / /mnt rw shared:8 - ext3 /dev/root rw\n38 35 98:0 / /mnt rw - ext3 shared:9 rw\n";
        let all = parse(table.as_bytes());
        let mounted = |point: &str, shared, follows| Mounted { point: point.into(), shared, follows };
        assert_eq!(all[1], mounted("/mnt/with space", true, true));
        assert_eq!(of(Path::new("/mnt/with space/below"), &all), Some(&all[1]));
        assert_eq!(of(Path::new("/mnt/with"), &all), Some(&mounted("/mnt", false, false)), "the topmost of two");
        assert_eq!(of(Path::new("/etc"), &all), Some(&mounted("/", false, false)));
    }
}
