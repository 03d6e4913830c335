//! Versions, and the advisories that name them. Pure.
//!
//! Distributions fix holes without moving the version. Debian's changelogs say which; where there is none no probe can see
//! it, so a known hole warns and does not fail.

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
pub const RUNC: [Advisory; 6] = [
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
    Advisory {
        id: "CVE-2026-41579",
        what: "an image whose /dev is a link removes and makes links on the host",
        fixed: &[Version::new(1, 3, 6), Version::new(1, 4, 3), Version::new(1, 5, 0).candidate(3)],
    },
];

/// Those of crun itself that reach a container of ours. Not CVE-2026-30892 (`crun exec --user` as it is typed: a shim hands over a
/// process as JSON), nor CVE-2026-88264 and CVE-2026-88265 (nothing mounted over /dev: every container here has a mount there).
pub const CRUN: [Advisory; 3] = [
    Advisory {
        id: "CVE-2022-27650",
        what: "containers begin with inheritable capabilities",
        fixed: &[Version::new(1, 4, 4)],
    },
    Advisory {
        id: "CVE-2025-24965",
        what: "an image writes files of the host, where krun is used",
        fixed: &[Version::new(1, 20, 0)],
    },
    Advisory {
        id: "CVE-2026-47766",
        what: "an image whose /dev is a link leads device set-up to the host",
        fixed: &[Version::new(1, 28, 0)],
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

/// Whether the changelog is that of this version's package and names every hole of the advisory.
pub fn backported(advisory: &Advisory, version: &str, changelog: &str) -> bool {
    // `runc (1.1.5+ds1-1+deb12u1) bookworm-security; …` is the package of the program that says 1.1.5+ds1.
    let package = changelog.split_once('(').map_or("", |(_, rest)| rest);
    let version = version.trim().trim_start_matches('v');
    let same = package.strip_prefix(version).is_some_and(|rest| rest.starts_with(['-', ')', '~', '+']));
    same && advisory.id.split(", ").all(|id| names(changelog, id))
}

/// Whether the text has this id, and not only a longer one that begins like it.
fn names(text: &str, id: &str) -> bool {
    text.match_indices(id).any(|(at, _)| !text[at + id.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

pub fn ids(advisories: &[&Advisory]) -> String {
    advisories.iter().map(|advisory| advisory.id).collect::<Vec<_>>().join(", ")
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
    fn a_changelog_counts_for_its_own_version_and_whole_ids() {
        let advisory = Advisory { id: "CVE-2024-2162", what: "", fixed: &[] };
        let log = |version: &str, id: &str| format!("runc ({version}) bookworm-security; urgency=high\n  * {id}: x\n");
        assert!(backported(&advisory, "v1.1.5+ds1", &log("1.1.5+ds1-1+deb12u1", "CVE-2024-2162")));
        assert!(!backported(&advisory, "1.1.5+ds1", &log("1.1.5+ds1-1+deb12u1", "CVE-2024-21626")));
        assert!(!backported(&advisory, "1.1.5", &log("1.1.51-1", "CVE-2024-2162")));
        assert!(!backported(&advisory, "1.1.5", ""));
    }

    #[test]
    fn a_hole_is_open_until_the_fix_of_its_branch() {
        let holes = |text: &str| open(Version::parse(text).unwrap(), &RUNC).len();
        for (version, count) in
            [("1.1.5", 4), ("1.1.12", 3), ("1.1.15", 2), ("1.2.8", 1), ("1.3.3", 1), ("1.3.6", 0), ("1.4.0-rc.2", 2)]
        {
            assert_eq!(holes(version), count, "{version}");
        }
        assert_eq!((holes("1.5.0-rc.2"), holes("1.5.0"), holes("1.6.0")), (1, 0, 0));
        let holes = |text: &str| open(Version::parse(text).unwrap(), &CRUN).len();
        for (version, count) in [("1.4.3", 3), ("1.4.5", 2), ("1.19.1", 2), ("1.20", 1), ("1.27.1", 1), ("1.29.1", 0)] {
            assert_eq!(holes(version), count, "{version}");
        }
        let holes = |text: &str| open(Version::parse(text).unwrap(), &CONTAINERD).len();
        for (version, count) in [("1.6.20", 1), ("1.7.29", 0), ("2.0.6", 1), ("2.1.9", 0), ("2.3.0", 0), ("1.4.2", 2)] {
            assert_eq!(holes(version), count, "{version}");
        }
    }
}
