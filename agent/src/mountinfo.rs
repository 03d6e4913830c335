//! The mounts of this process as the kernel lists them (proc_pid_mountinfo(5)).
//!
//! Used by `sandbox` and by the runtime's mounts. Reading it takes some ten microseconds a hundred mounts.

use std::fs;
use std::io;
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
    Ok(parse(&fs::read_to_string("/proc/thread-self/mountinfo")?))
}

/// The mount in which `path`, absolute and without links, lies.
pub fn of<'a>(path: &Path, all: &'a [Mounted]) -> Option<&'a Mounted> {
    // Of two at one place the later one hides the earlier.
    all.iter().filter(|mounted| path.starts_with(&mounted.point)).max_by_key(|it| it.point.components().count())
}

fn parse(table: &str) -> Vec<Mounted> {
    let mounted = |line: &str| {
        let mut fields = line.split(' ');
        let point = PathBuf::from(unescape(fields.nth(4)?));
        let tags: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let tagged = |tag: &str| tags.iter().any(|field| field.starts_with(tag));
        Some(Mounted { point, shared: tagged("shared:"), follows: tagged("master:") })
    };
    table.lines().filter_map(mounted).collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
pub fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes_and_their_propagation() {
        let table = "22 27 0:21 / / rw - ext4 /dev/root rw\n\
                     36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime shared:7 master:1 - ext3 /dev/root rw\n\
                     37 35 98:0 / /mnt rw shared:8 - ext3 /dev/root rw\n38 35 98:0 / /mnt rw - ext3 shared:9 rw\n";
        let all = parse(table);
        let mounted = |point: &str, shared, follows| Mounted { point: point.into(), shared, follows };
        assert_eq!(all[1], mounted("/mnt/with space", true, true));
        assert_eq!(of(Path::new("/mnt/with space/below"), &all), Some(&all[1]));
        assert_eq!(of(Path::new("/mnt/with"), &all), Some(&mounted("/mnt", false, false)), "the topmost of two");
        assert_eq!(of(Path::new("/etc"), &all), Some(&mounted("/", false, false)));
    }
}
