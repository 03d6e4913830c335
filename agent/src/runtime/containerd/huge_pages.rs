//! Huge pages: what the node has set aside, and a container's limits of them.
//!
//! Read from /sys by `containers` before each create; `oci` sees the values. Whoever asks for none gets none where the kernel can
//! see to that, as in Kubernetes: pages that are set aside for others would be gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxHugepageLimit;
use pod::qos::page_name;
use pod::spec::Resources;

use super::oci::Adapted;

/// Where the kernel tells of its pages: `hugepages-2048kB/nr_hugepages`.
const PAGES: &str = "/sys/kernel/mm/hugepages";

/// What the node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Bytes that are set aside, by the size of a page in bytes: of each size that the kernel knows.
    pub set_aside: BTreeMap<u64, u64>,
    /// cgroups can limit them (the controller hugetlb).
    pub limited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HugePagesError {
    #[error("this node's kernel has no huge pages of {kib} KiB: choose another size")]
    NoSuchSize { kib: u64 },
    #[error(
        "this node has set {has} bytes of huge pages of {kib} KiB aside, and {asked} are asked for; write how many pages there are to be to {PAGES}/hugepages-{kib}kB/nr_hugepages"
    )]
    TooFew { kib: u64, has: u64, asked: u64 },
}

impl Node {
    pub fn read(cgroup_v2: bool) -> Node {
        let hierarchy = Path::new("/sys/fs/cgroup");
        let limited = if cgroup_v2 {
            let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_whitespace().any(|name| name == "hugetlb")
        } else {
            hierarchy.join("hugetlb").is_dir()
        };
        Node { set_aside: set_aside(Path::new(PAGES)), limited }
    }

    /// `hugepageLimits` of a container; empty where nothing is to be said.
    pub fn limits(
        &self,
        asked: &Resources,
        adapted: &mut Vec<Adapted>,
    ) -> Result<Vec<LinuxHugepageLimit>, HugePagesError> {
        let asked = asked.effective_huge_pages();
        for (size, bytes) in asked.iter().filter(|(_, bytes)| **bytes > 0) {
            let kib = size / 1024;
            match self.set_aside.get(size) {
                None => return Err(HugePagesError::NoSuchSize { kib }),
                Some(has) if has < bytes => return Err(HugePagesError::TooFew { kib, has: *has, asked: *bytes }),
                Some(_) => {}
            }
        }
        if !self.limited {
            if !asked.is_empty() {
                adapted.push(Adapted {
                    what: "huge pages are not limited".into(),
                    why: "the kernel has no cgroup controller hugetlb".into(),
                });
            }
            return Ok(Vec::new());
        }
        let some = self.set_aside.iter().filter(|(size, bytes)| **bytes > 0 || asked.contains_key(size));
        let limit = |(size, _): (&u64, &u64)| {
            let mut limit = LinuxHugepageLimit::default();
            let bytes = asked.get(size).copied().unwrap_or(0);
            limit.set_page_size(page_name(*size)).set_limit(i64::try_from(bytes).unwrap_or(i64::MAX));
            limit
        };
        Ok(some.map(limit).collect())
    }
}

/// What may be made at need counts too.
fn set_aside(pages: &Path) -> BTreeMap<u64, u64> {
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file: &str| {
            let text = fs::read_to_string(entry.path().join(file)).ok();
            text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let pages = count("nr_hugepages").saturating_add(count("nr_overcommit_hugepages"));
        let size = kib.saturating_mul(1024);
        Some((size, pages.saturating_mul(size)))
    };
    fs::read_dir(pages).into_iter().flatten().flatten().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn asking(pages: &[(u64, u64)]) -> Resources {
        Resources { huge_pages: pages.iter().copied().collect(), ..Resources::default() }
    }

    fn limits(node: &Node, asked: &Resources) -> Result<Vec<(String, i64)>, HugePagesError> {
        let limits = node.limits(asked, &mut Vec::new())?;
        Ok(limits.iter().map(|limit| (limit.page_size().clone(), limit.limit())).collect())
    }

    #[test]
    fn who_asks_for_none_gets_none_of_what_is_set_aside() {
        let node = Node { set_aside: [(2 * MIB, 64 * MIB), (1 << 30, 0)].into(), limited: true };
        assert_eq!(limits(&node, &asking(&[])).unwrap(), [("2MB".to_owned(), 0)]);
        assert_eq!(limits(&node, &asking(&[(2 * MIB, 32 * MIB)])).unwrap(), [("2MB".to_owned(), 32 << 20)]);
    }

    #[test]
    fn pages_that_the_node_lacks_are_said_with_what_to_do() {
        let node = Node { set_aside: [(2 * MIB, 4 * MIB)].into(), limited: true };
        let error = limits(&node, &asking(&[(2 * MIB, 6 * MIB)])).unwrap_err().to_string();
        assert!(error.contains("hugepages-2048kB/nr_hugepages") && error.contains("6291456"), "{error}");
        assert_eq!(limits(&node, &asking(&[(1 << 30, 1 << 30)])), Err(HugePagesError::NoSuchSize { kib: 1 << 20 }));
    }

    #[test]
    fn a_kernel_without_the_controller_limits_nothing_and_it_is_said() {
        let node = Node { set_aside: [(2 * MIB, 4 * MIB)].into(), limited: false };
        let mut adapted = Vec::new();
        assert!(node.limits(&asking(&[(2 * MIB, 2 * MIB)]), &mut adapted).unwrap().is_empty());
        assert!(adapted[0].why.contains("hugetlb"));
        adapted.clear();
        assert!(node.limits(&asking(&[]), &mut adapted).unwrap().is_empty() && adapted.is_empty());
    }

    #[test]
    fn pages_are_read_as_the_kernel_shows_them() {
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in [("nr_hugepages", "3\n"), ("nr_overcommit_hugepages", "1\n")] {
            let place = dir.path().join("hugepages-2048kB");
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(name), count).unwrap();
        }
        fs::create_dir(dir.path().join("hugepages-1048576kB")).unwrap();
        assert_eq!(set_aside(dir.path()), [(2 * MIB, 8 * MIB), (1 << 30, 0)].into());
    }
}
