//! Versions, and the advisories that name them. Pure.
//!
//! Distributions fix holes without moving the version, which no probe can see: a known hole warns and does not fail.

use std::fmt;

/// `major.minor.patch`, with the number of a release candidate before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// u32::MAX for a release: it comes after its candidates.
    candidate: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch, candidate: u32::MAX }
    }

    const fn candidate(self, number: u32) -> Version {
        Version { candidate: number, ..self }
    }

    /// `v2.1.9`, `1.6.20~ds1`, `1.1.5+ds1`, `1.4.0-rc.3`, `1.0.0-rc95`. None for what begins with no version.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let mut numbers = numbers.split('.').map(|n| n.parse::<u32>());
        let mut next = || numbers.next().and_then(Result::ok);
        let version = Version::new(next()?, next()?, next().unwrap_or(0));
        let candidate = rest.strip_prefix(['-', '~']).and_then(|rest| rest.strip_prefix("rc"));
        let Some(candidate) = candidate else { return Some(version) };
        let digits: String = candidate.trim_start_matches('.').chars().take_while(char::is_ascii_digit).collect();
        Some(version.candidate(digits.parse().unwrap_or(0)))
    }

    fn branch(self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.candidate == u32::MAX { Ok(()) } else { write!(f, "-rc.{}", self.candidate) }
    }
}

/// A hole and the versions that closed it, one a branch, oldest first.
#[derive(Debug)]
pub struct Advisory {
    pub id: &'static str,
    pub what: &'static str,
    fixed: &'static [Version],
}

/// Sources: the projects' security advisories.
pub const RUNC: [Advisory; 5] = [
    Advisory {
        id: "CVE-2019-5736",
        what: "a container overwrites runc on the host",
        fixed: &[Version::new(1, 0, 0).candidate(7)],
    },
    Advisory {
        id: "CVE-2021-30465",
        what: "a mount is led out of the container through swapped links",
        fixed: &[Version::new(1, 0, 0).candidate(95)],
    },
    Advisory {
        id: "CVE-2024-21626",
        what: "a working directory in /proc/self/fd leads to the host",
        fixed: &[Version::new(1, 1, 12)],
    },
    Advisory {
        id: "CVE-2024-45310",
        what: "empty files and directories are made on the host",
        fixed: &[Version::new(1, 1, 14), Version::new(1, 2, 0).candidate(3)],
    },
    Advisory {
        id: "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        what: "masked paths, /dev/console and writes to /proc lead to the host",
        fixed: &[Version::new(1, 2, 8), Version::new(1, 3, 3), Version::new(1, 4, 0).candidate(3)],
    },
];

/// Only holes that reach a client of the native API; those of the CRI plugin do not.
pub const CONTAINERD: [Advisory; 2] = [
    Advisory {
        id: "CVE-2020-15257",
        what: "a container with the host's network reaches the shims' sockets",
        fixed: &[Version::new(1, 3, 9), Version::new(1, 4, 3)],
    },
    Advisory {
        id: "CVE-2024-25621",
        what: "directories of containerd are open to every user of the node",
        fixed: &[Version::new(1, 7, 29), Version::new(2, 0, 7), Version::new(2, 1, 5), Version::new(2, 2, 0)],
    },
];

/// The advisories of the list that this version does not close.
pub fn open(version: Version, list: &[Advisory]) -> Vec<&Advisory> {
    list.iter().filter(|advisory| !is_fixed(version, advisory.fixed)).collect()
}

fn is_fixed(version: Version, fixed: &[Version]) -> bool {
    match fixed.iter().find(|fix| fix.branch() == version.branch()) {
        Some(fix) => version >= *fix,
        // A branch that was never mended is only safe when it began after the last one that was.
        None => fixed.last().is_none_or(|newest| version.branch() > newest.branch()),
    }
}

/// The advisories in words.
pub fn words(open: &[&Advisory]) -> String {
    open.iter().map(|advisory| format!("{} ({})", advisory.id, advisory.what)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, shown) in [
            ("v2.1.9", "2.1.9"),
            ("1.6.20~ds1", "1.6.20"),
            ("1.1.5+ds1", "1.1.5"),
            ("1.4.0-rc.3", "1.4.0-rc.3"),
            ("1.0.0~rc95+ds1", "1.0.0-rc.95"),
            ("1.7", "1.7.0"),
        ] {
            assert_eq!(Version::parse(text).expect(text).to_string(), shown);
        }
        assert_eq!(Version::parse("unknown"), None);
        assert!(Version::parse("1.4.0-rc.3") < Version::parse("1.4.0"));
    }

    #[test]
    fn a_hole_is_open_until_the_fix_of_its_branch() {
        let holes = |text: &str| open(Version::parse(text).unwrap(), &RUNC).len();
        for (version, count) in
            [("1.1.5", 3), ("1.1.12", 2), ("1.1.15", 1), ("1.2.7", 1), ("1.2.8", 0), ("1.3.3", 0), ("1.4.0-rc.2", 1)]
        {
            assert_eq!(holes(version), count, "{version}");
        }
        assert_eq!(holes("1.5.0"), 0);
        let holes = |text: &str| open(Version::parse(text).unwrap(), &CONTAINERD).len();
        for (version, count) in [("1.6.20", 1), ("1.7.29", 0), ("2.0.6", 1), ("2.1.9", 0), ("2.3.0", 0), ("1.4.2", 2)] {
            assert_eq!(holes(version), count, "{version}");
        }
    }
}
