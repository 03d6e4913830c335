//! Logs of deleted pods: moved aside beneath `pods`, kept for a while, then removed, one pod at a time.
//!
//! Driven by `serve`. Nothing is remembered: a kept pod's directory carries, as its time of change, when it goes. Who may write to
//! the log directory can change that time; then the log goes at once, or with the budget, which takes kept logs first.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use keeper::protocol::DELETED;
use nix::fcntl::renameat;
use nix::sys::stat::{fstat, futimens};
use nix::sys::time::TimeSpec;

use crate::beneath::{self, Beneath};
use crate::budget;
use crate::log_file;

/// Pods whose logs are kept: an edit a minute would leave more in a day, and every count of the budget looks at each.
const KEPT_MAX: usize = 500;
/// Until what could not be removed is tried again: a mount that somebody made there, or more names than one pass takes.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Pods that one pass tries; others that cannot be removed must not hold it up.
const TRIES_MAX: usize = 8;

/// Moves a pod's logs aside until `now` + `keep`, its links gone. What cannot be moved is removed, and so is what we did not mark.
pub fn retire(logs: &Beneath, dir: &str, keep: Duration, now: Duration) -> io::Result<()> {
    match set_aside(logs, dir, now.saturating_add(keep)) {
        Ok(true) => {
            budget::remove_links(logs, &format!("{dir}/"));
            Ok(())
        }
        _ => budget::forget(logs, dir),
    }
}

fn set_aside(logs: &Beneath, dir: &str, until: Duration) -> io::Result<bool> {
    let (pods, pod) = dir.split_once('/').expect("a checked pod directory has two names");
    let from = logs.dir(dir)?;
    if !log_file::is_marked(&from) {
        return Ok(false);
    }
    let all = place();
    let to = logs.make_dirs(&all)?;
    // Of an earlier request that was cut short; uids are not used twice.
    logs.remove_tree(&all, pod)?;
    let until = TimeSpec::from_duration(until);
    futimens(&from, &until, &until)?;
    renameat(&logs.dir(pods)?, pod, &to, pod)?;
    Ok(true)
}

/// Removes one pod's logs whose time has come, or that are too many. When to come again, since 1970; None: nothing is kept.
pub fn sweep(logs: &Beneath, now: Duration) -> Option<Duration> {
    let all = place();
    let dir = logs.dir(&all).ok()?;
    let kept = |name: String| {
        let at = logs.dir(&format!("{all}/{name}")).ok().filter(log_file::is_marked)?;
        Some((until(&at)?, name))
    };
    let mut kept: Vec<(Duration, String)> = beneath::names(&dir).ok()?.into_iter().filter_map(kept).collect();
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_MAX);
    let goes = |(at, (until, _)): &(usize, &(Duration, String))| *at < surplus || *until <= now;
    let going: Vec<usize> = kept.iter().enumerate().take_while(goes).map(|(at, _)| at).collect();
    let removed = going.iter().take(TRIES_MAX).find(|at| logs.remove_tree(&all, &kept[**at].1).is_ok());
    match (going.len(), removed) {
        (0, _) => kept.first().map(|(until, _)| *until),
        (1, Some(_)) => kept.get(1).map(|(until, _)| *until),
        (_, Some(_)) => Some(now),
        (_, None) => Some(now.saturating_add(TRY_AGAIN)),
    }
}

fn until(dir: &OwnedFd) -> Option<Duration> {
    let stat = fstat(dir).ok()?;
    Some(Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)))
}

/// Beneath the log directory.
pub fn place() -> String {
    format!("pods/{DELETED}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_file::LogFile;

    const NOW: Duration = Duration::from_secs(1_795_315_579);
    const HOUR: Duration = Duration::from_secs(3600);

    struct Logs {
        root: tempfile::TempDir,
        logs: Beneath,
    }

    impl Logs {
        /// Each pod with a log of ours and a link to it.
        fn of(pods: &[&str]) -> Logs {
            let root = tempfile::tempdir().unwrap();
            let logs = Beneath::new(root.path()).unwrap();
            for pod in pods {
                let path = format!("pods/{pod}/c/0.log");
                LogFile::open(&logs, &path, None).unwrap().file.append(b"x\n").unwrap();
                let links = logs.make_dirs("containers").unwrap();
                beneath::link(&links, &format!("{pod}.log"), &format!("../{path}")).unwrap();
            }
            Logs { root, logs }
        }

        fn names(&self, dir: &str) -> Vec<String> {
            beneath::names(&self.logs.dir(dir).unwrap()).unwrap()
        }
    }

    #[test]
    fn a_deleted_pods_log_is_kept_for_its_time_and_its_link_goes_at_once() {
        let it = Logs::of(&["a", "b"]);
        retire(&it.logs, "pods/a", HOUR, NOW).unwrap();
        assert_eq!(it.names("containers"), ["b.log"]);
        assert_eq!(it.names("pods"), [DELETED, "b"]);
        assert_eq!(std::fs::read(it.root.path().join("pods/.deleted/a/c/0.log")).unwrap(), b"x\n");
        assert_eq!(sweep(&it.logs, NOW), Some(NOW + HOUR));
        assert_eq!(it.names("pods/.deleted"), ["a"]);
        assert_eq!(sweep(&it.logs, NOW + HOUR), None);
        assert!(it.names("pods/.deleted").is_empty());
        retire(&it.logs, "pods/a", HOUR, NOW).unwrap();
        assert_eq!(it.names("pods"), [DELETED, "b"]);
    }

    #[test]
    fn what_is_not_ours_is_neither_kept_nor_removed_in_time() {
        let it = Logs::of(&["a"]);
        it.logs.make_dirs("pods/.deleted/theirs").unwrap();
        std::os::unix::fs::symlink("/etc", it.root.path().join("pods/.deleted/link")).unwrap();
        retire(&it.logs, "pods/a", Duration::ZERO, NOW).unwrap();
        assert_eq!(sweep(&it.logs, NOW + HOUR), None);
        assert_eq!(it.names("pods/.deleted"), ["link", "theirs"]);
        assert!(std::fs::exists("/etc/hostname").unwrap());
    }

    #[test]
    fn where_nothing_can_be_kept_the_log_goes_with_its_pod() {
        let it = Logs::of(&["a"]);
        std::os::unix::fs::symlink("/etc", it.root.path().join("pods/.deleted")).unwrap();
        retire(&it.logs, "pods/a", HOUR, NOW).unwrap();
        assert_eq!(it.names("pods"), [DELETED]);
        assert!(!std::fs::exists("/etc/a").unwrap());
    }

    #[test]
    fn of_too_many_the_oldest_go() {
        let pods: Vec<String> = (0..KEPT_MAX + 3).map(|n| format!("p{n:04}")).collect();
        let it = Logs::of(&[]);
        for (n, pod) in pods.iter().enumerate() {
            LogFile::open(&it.logs, &format!("pods/{pod}/c/0.log"), None).unwrap();
            let later = NOW + Duration::from_secs(n as u64);
            retire(&it.logs, &format!("pods/{pod}"), HOUR, later).unwrap();
        }
        let passes = (0..10).take_while(|_| sweep(&it.logs, NOW) == Some(NOW)).count();
        assert_eq!(passes, 2);
        assert_eq!(it.names("pods/.deleted"), pods[3..]);
    }
}
