//! Logs of deleted pods: moved aside beneath `pods`, kept for a while, then removed, one pod at a time.
//!
//! Driven by `serve`. Nothing is remembered: a kept pod's directory carries, as its time of change, when it goes. Who may write to
//! the log directory can change that time; then the log goes at once, or with the budget, which takes kept logs first.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use keeper::protocol::DELETED;
use nix::errno::Errno;
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
        Ok(false) => budget::forget(logs, dir),
        Err(why) => {
            if why.kind() != io::ErrorKind::NotFound {
                crate::say(&format!("the log of {dir} is removed at once: it cannot be kept in {}: {why}", place()));
            }
            budget::forget(logs, dir)
        }
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
    logs.remove_tree(&all, pod, log_file::MARK)?;
    let until = TimeSpec::from_duration(until);
    futimens(&from, &until, &until)?;
    renameat(&logs.dir(pods)?, pod, &to, pod)?;
    Ok(true)
}

/// What a look at the kept logs came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// When to come again, since 1970; None: nothing is kept.
    pub due: Option<Duration>,
    /// What could not be looked at or removed, and why: it is tried again.
    pub failed: Option<String>,
}

/// Removes one pod's logs whose time has come, or that are too many.
pub fn sweep(logs: &Beneath, now: Duration) -> Swept {
    let all = place();
    let again = Some(now.saturating_add(TRY_AGAIN));
    let names = match logs.dir(&all).and_then(|dir| beneath::names(&dir)) {
        Ok(names) => names,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Swept::default(),
        Err(why) => return Swept { due: again, failed: Some(format!("{all} cannot be read: {why}")) },
    };
    let (mut kept, mut failed): (Vec<(Duration, String)>, Option<String>) = (Vec::new(), None);
    for name in names {
        let path = format!("{all}/{name}");
        match logs.dir(&path) {
            Ok(dir) => {
                let ours = Some(dir).filter(log_file::is_marked);
                kept.extend(ours.and_then(|dir| until(&dir)).map(|until| (until, name)));
            }
            Err(why) if is_foreign(&why) => {}
            Err(why) => failed = failed.or(Some(format!("{path} cannot be opened: {why}"))),
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_MAX);
    let goes = |(at, (until, _)): &(usize, &(Duration, String))| *at < surplus || *until <= now;
    let going: Vec<usize> = kept.iter().enumerate().take_while(goes).map(|(at, _)| at).collect();
    let mut removed = false;
    for at in going.iter().take(TRIES_MAX) {
        let name = &kept[*at].1;
        match logs.remove_tree(&all, name, log_file::MARK) {
            Ok(()) => {
                removed = true;
                break;
            }
            Err(why) => failed = failed.or(Some(format!("{all}/{name} cannot be removed: {why}"))),
        }
    }
    let due = match (going.len(), removed) {
        (0, _) => kept.first().map(|(until, _)| *until),
        (1, true) => kept.get(1).map(|(until, _)| *until),
        (_, true) => Some(now),
        (_, false) => again,
    };
    // The next look is not later than the next try at what failed.
    let due = if failed.is_some() { due.min(again).or(again) } else { due };
    Swept { due, failed }
}

/// No directory (any more): links and files that others put there are nobody's concern.
fn is_foreign(why: &io::Error) -> bool {
    let errno = why.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV))
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
        assert_eq!(sweep(&it.logs, NOW).due, Some(NOW + HOUR));
        assert_eq!(it.names("pods/.deleted"), ["a"]);
        assert_eq!(sweep(&it.logs, NOW + HOUR).due, None);
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
        assert_eq!(sweep(&it.logs, NOW + HOUR).due, None);
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
    fn a_removal_that_is_cut_short_is_gone_on_with() {
        let it = Logs::of(&["a"]);
        for n in 0..1500 {
            std::fs::write(it.root.path().join(format!("pods/a/c/0.log.{n:04}")), "x").unwrap();
            std::fs::write(it.root.path().join(format!("pods/a/planted-{n:04}")), "x").unwrap();
        }
        retire(&it.logs, "pods/a", HOUR, NOW).unwrap();
        // What a pass removes changes the time, to the machine's own.
        let late = NOW * 2;
        for pass in 0..3 {
            let swept = sweep(&it.logs, late);
            assert_eq!(swept.due, Some(late + TRY_AGAIN), "{pass}");
            assert!(swept.failed.as_ref().is_some_and(|why| why.contains("pods/.deleted/a cannot be removed")));
            assert!(log_file::is_marked(&it.logs.dir("pods/.deleted/a").unwrap()), "{pass}");
        }
        let ends = (0..3).find(|_| sweep(&it.logs, late) == Swept::default());
        assert!(ends.is_some() && it.names("pods/.deleted").is_empty());
    }

    #[test]
    fn a_place_that_cannot_be_read_is_tried_again_and_said() {
        let it = Logs::of(&["a"]);
        std::os::unix::fs::symlink("/etc", it.root.path().join("pods/.deleted")).unwrap();
        let swept = sweep(&it.logs, NOW);
        assert_eq!(swept.due, Some(NOW + TRY_AGAIN));
        assert!(swept.failed.unwrap().starts_with("pods/.deleted cannot be read: "));
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
        let passes = (0..10).take_while(|_| sweep(&it.logs, NOW).due == Some(NOW)).count();
        assert_eq!(passes, 2);
        assert_eq!(it.names("pods/.deleted"), pods[3..]);
    }
}
