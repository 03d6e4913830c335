//! What this machine, and the containerd that runs on it, can give to containers. Read from /proc and /sys; values out.
//!
//! Driven by `containers` before each create; `oci` only sees the values. What counts is containerd's process, not
//! ours: runc is its descendant, and our unit may be confined more narrowly.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use pod::downward::NodeSize;
use pod::spec::HostPathKind;

use super::capabilities::CapSet;
use super::seccomp::localhost::version;

/// Facts that hold as long as this containerd runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// containerd's bounding set: what it cannot lose to a container it cannot give.
    pub capabilities: CapSet,
    /// What this kernel knows.
    pub kernel_capabilities: CapSet,
    /// containerd's hard RLIMIT_NOFILE.
    pub nofile_hard: u64,
    /// The lowest oom_score_adj that may be set: containerd's own, unless it has CAP_SYS_RESOURCE.
    pub oom_score_adj_min: i32,
    /// cgroup v2 alone (`unified`), with its controllers.
    pub cgroup_v2: bool,
    /// The kernel accounts swap, so that a swap limit may be written.
    pub swap_limits: bool,
    /// Places in /sys that tell how hot each processor is, where this one tells it: `…/cpu0/thermal_throttle`.
    pub thermal: Vec<String>,
    /// `std::env::consts::ARCH`.
    pub architecture: &'static str,
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// Processors.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system that holds the state directory: the node's ephemeral storage. 0: it cannot be asked.
    pub storage: u64,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    pub path: String,
    pub block: bool,
    pub major: i64,
    pub minor: i64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Directories of /dev that are no devices of the machine: terminals, shared memory, message queues, descriptors.
const DEV_SKIPPED: [&str; 8] = ["pts", "shm", "fd", "mqueue", "hugepages", ".lxc", ".lxd-mounts", ".udev"];
/// How deep /dev is searched: by-path links end at three levels; deeper is a loop of mounts.
const DEV_DEPTH_MAX: u32 = 5;

impl Host {
    /// Reads the facts for the containerd with this pid; None (not connected yet, foreign PID namespace) reads ours.
    pub fn read(containerd: Option<i32>, state_dir: &Path) -> Host {
        let process = containerd.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let text = |name: &str| {
            fs::read_to_string(format!("{process}/{name}"))
                .or_else(|_| fs::read_to_string(format!("/proc/self/{name}")))
                .unwrap_or_default()
        };
        let capabilities = bounding_set(&text("status")).unwrap_or_default();
        let own_score = text("oom_score_adj").trim().parse().unwrap_or(0);
        let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let swap_limits = if cgroup_v2 {
            let own = text("cgroup").lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned));
            own.is_some_and(|own| counts_swap(Path::new(&format!("/sys/fs/cgroup{own}"))))
        } else {
            Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        };
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok());
        Host {
            capabilities,
            kernel_capabilities: last.map_or(CapSet::ALL, CapSet::up_to),
            nofile_hard: nofile_hard(&text("limits")).unwrap_or(1024),
            oom_score_adj_min: if capabilities.has("SYS_RESOURCE") { -1000 } else { own_score },
            cgroup_v2,
            swap_limits,
            thermal: thermal(Path::new("/sys/devices/system/cpu")),
            architecture: std::env::consts::ARCH,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .and_then(|text| version(&text))
                .unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or(0),
            storage: storage_total(state_dir),
        }
    }

    /// What no container can be given here although the kernel knows it: names without `CAP_`, sorted.
    pub fn size(&self) -> NodeSize {
        NodeSize { cpus: self.cpus, memory: self.memory, storage: self.storage }
    }

    pub fn missing_capabilities(&self) -> BTreeSet<&'static str> {
        self.kernel_capabilities.without(self.capabilities).names()
    }
}

/// All device nodes under /dev, for privileged containers, sorted by path.
pub fn devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    collect_devices(Path::new("/dev"), 0, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The device node that a volume at `path`, which has no links left in it, lets a container use. An unset type asks for
/// whatever is there, and a container that writes there could put a node of any disk in its place: only /dev is then
/// believed. Blocking: the path may lie in a file system that does not answer.
pub fn device_of_volume(path: &Path, kind: HostPathKind) -> Option<HostDevice> {
    device_at(path, path, kind)
}

/// The same of a volume that was judged at `path` and is to be looked at where it is bound.
pub fn device_at(bound: &Path, path: &Path, kind: HostPathKind) -> Option<HostDevice> {
    let believed = match kind {
        HostPathKind::CharDevice | HostPathKind::BlockDevice => true,
        HostPathKind::Unset => path.strip_prefix("/dev").is_ok_and(|below| {
            let first = below.components().next().and_then(|part| part.as_os_str().to_str());
            first.is_some_and(|name| !DEV_SKIPPED.contains(&name))
        }),
        HostPathKind::DirectoryOrCreate
        | HostPathKind::Directory
        | HostPathKind::FileOrCreate
        | HostPathKind::File
        | HostPathKind::Socket => false,
    };
    // Not followed: it is what the volume was resolved to, or somebody has changed it since.
    let meta = believed.then(|| fs::symlink_metadata(bound).ok()).flatten()?;
    device_of(path, &meta)
}

fn collect_devices(dir: &Path, depth: u32, found: &mut Vec<HostDevice>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // Not followed: a link's target is listed where it is.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let skipped = depth == 0 && entry.file_name().to_str().is_none_or(|name| DEV_SKIPPED.contains(&name));
            if !skipped && depth < DEV_DEPTH_MAX {
                collect_devices(&path, depth + 1, found);
            }
        } else if path != Path::new("/dev/console") {
            found.extend(device_of(&path, &meta));
        }
    }
}

fn device_of(path: &Path, meta: &fs::Metadata) -> Option<HostDevice> {
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Some(HostDevice {
        path: path.to_str()?.to_owned(),
        block: kind.is_block_device(),
        major: number(nix::sys::stat::major(meta.rdev())),
        minor: number(nix::sys::stat::minor(meta.rdev())),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// Whether groups at or below this place of the unified hierarchy count swap. The topmost group has no such file.
fn counts_swap(group: &Path) -> bool {
    let has = |group: &Path| group.join("memory.swap.max").exists();
    let mut below = fs::read_dir(group).into_iter().flatten().flatten();
    has(group) || below.any(|entry| has(&entry.path()))
}

/// `CapBnd:` of /proc/pid/status.
fn bounding_set(status: &str) -> Option<CapSet> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(hex.trim(), 16).ok().map(|bits| CapSet(bits).and(CapSet::ALL))
}

/// The second number of `Max open files` in /proc/pid/limits.
fn nofile_hard(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `MemTotal:` of /proc/meminfo, in bytes.
fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes of the file system that `place`, or the nearest parent of it that exists, lies in.
fn storage_total(place: &Path) -> u64 {
    let found = place.ancestors().find_map(|place| nix::sys::statvfs::statvfs(place).ok());
    found.map_or(0, |it| it.blocks().saturating_mul(it.fragment_size()))
}

/// `thermal_throttle` of every processor in this directory that has one (Intel's), sorted. Counts of thermal events tell
/// what others compute (GHSA-6fw5-f8r9-fgfm).
fn thermal(processors: &Path) -> Vec<String> {
    let entries = fs::read_dir(processors).into_iter().flatten().flatten();
    let places = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.strip_prefix("cpu")?.to_owned();
        let place = entry.path().join("thermal_throttle");
        let is_one = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && place.is_dir();
        is_one.then(|| place.to_str().map(str::to_owned)).flatten()
    });
    let mut places: Vec<String> = places.collect();
    places.sort();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_proc_5_says() {
        assert_eq!(bounding_set("Name:\tx\nCapBnd:\t0000000001000001\n"), CapSet::of(&["CHOWN", "SYS_RESOURCE"]).ok());
        assert_eq!(
            nofile_hard("Max open files            1024                 20000                files\n"),
            Some(20000)
        );
        assert_eq!(memory_total("MemTotal:       100 kB\n"), Some(102_400));
    }

    #[test]
    fn devices_of_the_machine_without_terminals() {
        let all = devices();
        let null = all.iter().find(|device| device.path == "/dev/null").expect("every machine has it");
        assert_eq!((null.block, null.major, null.minor), (false, 1, 3));
        assert!(!all.iter().any(|device| device.path.starts_with("/dev/pts/")));
    }

    #[test]
    fn only_what_lies_in_dev_or_is_asked_for_as_a_device_is_given() {
        let null = Path::new("/dev/null");
        for kind in [HostPathKind::Unset, HostPathKind::CharDevice] {
            assert_eq!(device_of_volume(null, kind).map(|it| (it.major, it.minor)), Some((1, 3)), "{kind:?}");
        }
        assert_eq!(device_of_volume(null, HostPathKind::File), None);
        for nothing in ["/dev", "/dev/shm", "/dev/not-there", "/etc/hostname"] {
            assert_eq!(device_of_volume(Path::new(nothing), HostPathKind::Unset), None, "{nothing}");
        }
        let dir = tempfile::tempdir().expect("made");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).expect("made");
        assert_eq!(device_of_volume(&link, HostPathKind::CharDevice), None, "changed since it was resolved");
        // Where nodes may be made and are believed in, one that lies elsewhere is not.
        let planted = dir.path().join("planted");
        let mode = nix::sys::stat::Mode::S_IRUSR;
        nix::sys::stat::mknod(&planted, nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 3))
            .expect("tests are root");
        assert_eq!(device_of_volume(&planted, HostPathKind::Unset), None);
        assert!(device_of_volume(&planted, HostPathKind::CharDevice).is_some());
    }

    #[test]
    fn the_topmost_group_counts_swap_when_its_children_do() {
        let dir = tempfile::tempdir().expect("made");
        fs::create_dir(dir.path().join("system.slice")).expect("made");
        assert!(!counts_swap(dir.path()));
        fs::write(dir.path().join("system.slice/memory.swap.max"), "max").expect("written");
        assert!(counts_swap(dir.path()) && counts_swap(&dir.path().join("system.slice")));
    }

    #[test]
    fn processors_that_tell_their_heat_are_found() {
        let dir = tempfile::tempdir().expect("made");
        for name in ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2/cache", "cpufreq/thermal_throttle"] {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        assert_eq!(thermal(dir.path()), [at("cpu0/thermal_throttle"), at("cpu11/thermal_throttle")]);
        assert_eq!(thermal(&dir.path().join("none")), [""; 0]);
    }

    #[test]
    fn what_containerd_lacks_of_the_kernels_capabilities_is_missing() {
        let mut host = Host::read(None, Path::new("/"));
        host.kernel_capabilities = CapSet::up_to(24);
        host.capabilities = host.kernel_capabilities.without(CapSet::of(&["SYS_RESOURCE", "MKNOD"]).unwrap());
        assert_eq!(host.missing_capabilities().into_iter().collect::<Vec<_>>(), ["SYS_RESOURCE"]);
    }

    #[test]
    fn this_machine_can_be_read() {
        let host = Host::read(None, Path::new("/var/lib/not-there/yet"));
        assert!(
            host.capabilities.has("CHOWN")
                && host.cpus > 0
                && host.memory > 0
                && host.nofile_hard > 0
                && host.storage > 0
        );
    }
}
