//! The directories: whose they are, who may write to them, how much room is left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Line, Places};

/// Below this no record is written any more.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// The kubelet's eviction thresholds for nodefs: 10 % of bytes, 5 % of inodes.
const FREE_BYTES_PERCENT: u64 = 10;
/// And for imagefs: 15 % of bytes.
const FREE_IMAGE_BYTES_PERCENT: u64 = 15;
const FREE_INODES_PERCENT: u64 = 5;

#[derive(Debug, Clone)]
pub struct Directory {
    pub path: PathBuf,
    /// None where nothing is there.
    pub state: Option<State>,
}

#[derive(Debug, Clone)]
pub struct State {
    pub is_directory: bool,
    pub owner: u32,
    /// Permission bits.
    pub mode: u32,
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub free_inodes: u64,
    pub total_inodes: u64,
}

pub fn lines(places: &Places) -> Vec<Line> {
    // Whether the agent makes it when it is missing.
    let all = [
        ("manifest directory", &places.manifest_dir, false),
        ("image directory", &places.image_dir, true),
        ("state directory", &places.state_dir, true),
        ("run directory", &places.run_dir, true),
        ("log directory", &places.log_dir, true),
    ];
    all.into_iter()
        .map(|(name, path, made)| if made { judge(name, &probe(path)) } else { judge_given(name, &probe(path)) })
        .collect()
}

pub fn probe(path: &Path) -> Directory {
    let state = fs::metadata(path).ok().map(|metadata| {
        let room = statvfs(path).ok();
        let bytes = |blocks: u64| room.as_ref().map_or(0, |room| blocks.saturating_mul(room.fragment_size()));
        State {
            is_directory: metadata.is_dir(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            free_bytes: bytes(room.as_ref().map_or(0, |room| room.blocks_available())),
            total_bytes: bytes(room.as_ref().map_or(0, |room| room.blocks())),
            free_inodes: room.as_ref().map_or(0, |room| room.files_available()),
            total_inodes: room.as_ref().map_or(0, |room| room.files()),
        }
    });
    Directory { path: path.to_owned(), state }
}

/// A directory that nobody makes but a person: missing is a fault.
pub fn judge_given(name: &str, found: &Directory) -> Line {
    let path = found.path.display();
    match found.state {
        None => Line::fail(name, format!("{path} is missing"), format!("mkdir -p {path}, or mount what belongs there")),
        Some(_) => judge(name, found),
    }
}

/// A directory that the agent makes.
pub fn judge(name: &str, found: &Directory) -> Line {
    let path = found.path.display();
    let Some(state) = &found.state else { return Line::ok(name, format!("{path} is made at the agent's start")) };
    if !state.is_directory {
        return Line::fail(name, format!("{path} is no directory"), "move it away, or name another place");
    }
    if state.owner != 0 {
        return Line::fail(name, format!("{path} belongs to user {}", state.owner), format!("chown root:root {path}"));
    }
    // A sticky directory such as /tmp lets nobody replace what is root's, but anybody add to it.
    if state.mode & 0o022 != 0 {
        return Line::fail(
            name,
            format!("{path} may be written by others than root (mode {:04o})", state.mode),
            format!("chmod go-w {path}: who writes there runs what he likes as root"),
        );
    }
    let fix = "make room: daemons cannot be started, logged or recorded on a full disk";
    judge_room(name, found, state, FREE_BYTES_PERCENT, fix)
}

/// The directory in which containerd keeps images and snapshots: its own business but for the room.
pub fn judge_containerd(root: Option<&Path>) -> Line {
    const NAME: &str = "containerd's disk";
    let Some(root) = root else {
        return Line::warn(NAME, "containerd does not tell its root", "see the line containerd");
    };
    let found = probe(root);
    match &found.state {
        Some(state) => judge_images(NAME, &found, state),
        None => Line::warn(
            NAME,
            format!("{} cannot be looked at from here", root.display()),
            "run doctor where containerd's root is mounted",
        ),
    }
}

fn judge_images(name: &str, found: &Directory, state: &State) -> Line {
    let fix = "make room: images cannot be unpacked, nor containers created, on a full disk";
    judge_room(name, found, state, FREE_IMAGE_BYTES_PERCENT, fix)
}

fn judge_room(name: &str, found: &Directory, state: &State, bytes_min: u64, fix: &str) -> Line {
    let path = found.path.display();
    let percent = |free: u64, total: u64| if total == 0 { 100 } else { u128::from(free) * 100 / u128::from(total) };
    let (bytes, inodes) =
        (percent(state.free_bytes, state.total_bytes), percent(state.free_inodes, state.total_inodes));
    let room = format!("{path}: {} MiB free ({bytes} %), {inodes} % of inodes free", state.free_bytes >> 20);
    match () {
        () if state.total_bytes > 0 && state.free_bytes < FREE_BYTES_MIN || inodes == 0 => Line::fail(name, room, fix),
        () if bytes < bytes_min.into() || inodes < FREE_INODES_PERCENT.into() => Line::warn(name, room, fix),
        () => Line::ok(name, room),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn good() -> State {
        State {
            is_directory: true,
            owner: 0,
            mode: 0o755,
            free_bytes: 50 << 30,
            total_bytes: 100 << 30,
            free_inodes: 50,
            total_inodes: 100,
        }
    }

    fn judged(change: impl FnOnce(&mut State)) -> Verdict {
        let mut state = good();
        change(&mut state);
        judge("d", &Directory { path: "/d".into(), state: Some(state) }).verdict
    }

    #[test]
    fn a_directory_fails_by_kind_owner_mode_and_room() {
        assert_eq!(judged(|_| {}), Verdict::Ok);
        assert_eq!(judged(|state| state.is_directory = false), Verdict::Fail);
        assert_eq!(judged(|state| state.owner = 1000), Verdict::Fail);
        assert_eq!(judged(|state| state.mode = 0o777), Verdict::Fail);
        assert_eq!(judged(|state| state.free_bytes = 1 << 20), Verdict::Fail);
        assert_eq!(judged(|state| state.free_bytes = 5 << 30), Verdict::Warn);
        assert_eq!(judged(|state| state.free_inodes = 0), Verdict::Fail);
        assert_eq!(judged(|state| state.free_inodes = 2), Verdict::Warn);
        // btrfs counts no inodes.
        assert_eq!(judged(|state| (state.free_inodes, state.total_inodes) = (0, 0)), Verdict::Ok);
    }

    #[test]
    fn a_full_disk_of_containerds_fails_and_one_that_is_hardly_free_warns() {
        let judged = |free_bytes, free_inodes| {
            let state = State { free_bytes, free_inodes, ..good() };
            judge_images("d", &Directory { path: "/d".into(), state: Some(state.clone()) }, &state).verdict
        };
        assert_eq!(judged(20 << 30, 50), Verdict::Ok);
        assert_eq!(judged(14 << 30, 50), Verdict::Warn);
        assert_eq!(judged(1 << 20, 50), Verdict::Fail);
        assert_eq!(judged(20 << 30, 0), Verdict::Fail);
        assert_eq!(judge_containerd(None).verdict, Verdict::Warn);
        assert_eq!(judge_containerd(Some(Path::new("/nonexistent/root"))).verdict, Verdict::Warn);
        let dir = tempfile::tempdir().unwrap();
        assert!(judge_containerd(Some(dir.path())).found.contains("of inodes free"));
    }

    #[test]
    fn only_the_manifest_directory_must_be_there_beforehand() {
        let missing = probe(Path::new("/nonexistent/directory"));
        assert_eq!(judge_given("manifests", &missing).verdict, Verdict::Fail);
        assert_eq!(judge("state", &missing).verdict, Verdict::Ok);
        let dir = tempfile::tempdir().unwrap();
        assert!(probe(dir.path()).state.is_some_and(|state| state.is_directory && state.total_bytes > 0));
    }
}
