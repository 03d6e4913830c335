//! Where a container's working directory really leads: in its image before its task is made, and in the task itself.
//!
//! Driven by `containers`; knows directories and pids, not pods. The name alone is judged in `oci`. A layer may hold a link of that
//! name into `/proc/<n>/fd`, and a volume one that another container planted: runc, which changes into it while it still holds
//! descriptors of the host's, then starts the container outside of itself (CVE-2024-21626; newer ones look, too).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};

/// As many as the kernel follows.
const LINKS_MAX: u32 = 40;

/// The way of `dir` through an image's `layers` (topmost first) never leads below /proc. What is mounted over the image is not
/// looked at, and what is not there leads nowhere. Err: the place that it leads to. Blocking.
pub fn check_in_image(layers: &[String], dir: &Path) -> Result<(), PathBuf> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let layers: Vec<OwnedFd> = layers.iter().filter_map(|it| open(it.as_str(), flags, Mode::empty()).ok()).collect();
    let mut left: VecDeque<OsString> = parts(dir).collect();
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        // The kernel's is mounted there, whatever the image has.
        if at.starts_with("proc") {
            if at.components().count() > 1 {
                return Err(Path::new("/").join(at).join(left.into_iter().collect::<PathBuf>()));
            }
            continue;
        }
        let Some(target) = link(&layers, &at) else { continue };
        links += 1;
        if links > LINKS_MAX {
            return Err(Path::new("/").join(at));
        }
        at.pop();
        if Path::new(&target).is_absolute() {
            at = PathBuf::new();
        }
        for part in parts(Path::new(&target)).collect::<Vec<_>>().into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok(())
}

/// Without the root, and with what climbs.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// What the link there says, in the topmost layer that has something there; None where that is no link. The path has none before
/// its end: a layer where it has leads elsewhere and is under one that has not.
fn link(layers: &[OwnedFd], path: &Path) -> Option<OsString> {
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
    };
    let found = layers.iter().find_map(|layer| openat2(layer, path, how()).ok())?;
    let kind = SFlag::from_bits_truncate(fstat(&found).ok()?.st_mode) & SFlag::S_IFMT;
    (kind == SFlag::S_IFLNK).then(|| readlinkat(&found, "").ok()).flatten()
}

/// Whether the working directory of this process lies on a mount of its own mount namespace; what else there is, is the host's.
/// What cannot be looked at (it has ended, or containerd's processes are not ours to see) is no finding. Blocking.
pub fn is_its_own(pid: u32) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let Ok(dir) = open(format!("/proc/{pid}/cwd").as_str(), flags, Mode::empty()) else { return true };
    let Some(mount) = mount_of(&dir) else { return true };
    let Ok(mounts) = File::open(format!("/proc/{pid}/mountinfo")) else { return true };
    let mut any = false;
    // Line by line: a host's mounts may be a container's, in thousands.
    for line in BufReader::new(mounts).split(b'\n').map_while(Result::ok) {
        any = true;
        let id = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        if str::from_utf8(id).ok().and_then(|id| id.parse().ok()) == Some(mount) {
            return true;
        }
    }
    // Of a process that has just ended there are none.
    !any
}

/// The id of the mount on which this lies (proc_pid_fdinfo(5)).
fn mount_of(found: &OwnedFd) -> Option<u64> {
    let mut text = String::new();
    let place = format!("/proc/thread-self/fdinfo/{}", found.as_raw_fd());
    File::open(place).ok()?.take(4096).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn a_way_through_the_image_that_comes_to_proc_is_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (top, bottom) = (temp.path().join("top"), temp.path().join("bottom"));
        for dir in ["top/srv", "top/real", "bottom/srv/deep", "bottom/hidden"] {
            fs::create_dir_all(temp.path().join(dir)).expect("made");
        }
        let links = [
            ("top/fd", "/proc/self/fd/7"),
            ("top/climbs", "../../../proc/self/cwd"),
            ("top/itself", "itself"),
            ("top/proc-alone", "/proc"),
            ("top/back", "/proc/../srv"),
            ("top/good", "/srv/deep/next"),
            ("top/hidden", "/real"),
            ("bottom/srv/deep/next", "../../fd"),
            ("bottom/srv/deep/fine", "../deep/../../real"),
            ("bottom/real", "/proc/self/fd/7"),
            ("bottom/proc", "/srv"),
        ];
        for (place, target) in links {
            symlink(target, temp.path().join(place)).expect("linked");
        }
        let layers = [&top, &bottom].map(|layer| layer.to_str().expect("text").to_owned());
        let check = |dir: &str| check_in_image(&layers, Path::new(dir)).map_err(|it| it.display().to_string());
        for dir in [
            "/",
            "/srv",
            "/srv/deep/fine",
            "/absent/../fd-not",
            "/real",
            "/hidden",
            "/hidden/fd",
            "/proc-alone",
            "/proc",
        ] {
            assert_eq!(check(dir), Ok(()), "{dir}");
        }
        for (dir, place) in [
            ("/fd", "/proc/self/fd/7"),
            ("/fd/below", "/proc/self/fd/7/below"),
            ("/climbs", "/proc/self/cwd"),
            ("/good", "/proc/self/fd/7"),
            ("/srv/deep/next", "/proc/self/fd/7"),
            ("/proc-alone/1/root", "/proc/1/root"),
            ("/itself", "/itself"),
        ] {
            assert_eq!(check(dir), Err(place.into()), "{dir}");
        }
        // The upper layer's directory hides the lower one's link; without it the link is the image's.
        let bottom_alone = check_in_image(&layers[1..], Path::new("/real"));
        assert_eq!(bottom_alone, Err("/proc/self/fd/7".into()));
    }

    #[test]
    fn a_process_that_stands_on_the_hosts_mounts_is_found() {
        assert!(is_its_own(std::process::id()));
        let (say, hear) = mpsc::channel();
        // As a runtime does it: a descriptor from before it had mounts of its own.
        let standing = std::thread::spawn(move || {
            let outside = File::open("/tmp").expect("opened");
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                return say.send(Err(errno)).expect("somebody listens");
            }
            let of_its_own = is_its_own(nix::unistd::gettid().as_raw().unsigned_abs());
            nix::unistd::fchdir(&outside).expect("changed");
            let outside = is_its_own(nix::unistd::gettid().as_raw().unsigned_abs());
            say.send(Ok((of_its_own, outside))).expect("somebody listens");
        });
        let found = hear.recv().expect("it says");
        standing.join().expect("ended");
        match found {
            Ok(found) => assert_eq!(found, (true, false)),
            Err(errno) => eprintln!("skipped: no mount namespace can be made here: {errno}"),
        }
    }
}
