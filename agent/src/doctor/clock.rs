//! The clock: whether it can be right, and whether anybody keeps it so. Only looked at, never set.
//!
//! The kernel's own word (adjtimex: STA_UNSYNC) is asked for through systemd's timedated, which has it from there: the call has no
//! interface without unsafe code.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::Line;
use super::neighbours::processes;
use super::runtimes::first_line;

/// Before this nobody can have built this program.
const BUILT_AFTER: i64 = 1_767_225_600;

/// Programs that keep a clock, by their process' name (15 bytes at most).
const KEEPERS: [&str; 7] = ["systemd-timesyn", "chronyd", "ntpd", "ntpd-rs", "ntp-daemon", "openntpd", "ptp4l"];

#[derive(Debug)]
pub struct Clock {
    pub now: Timestamp,
    /// When this program's file was written: an earlier time than that cannot be.
    pub made: Timestamp,
    /// The kernel's word, where systemd tells it.
    pub synchronised: Option<bool>,
    /// A program that keeps it.
    pub keeper: Option<String>,
}

pub fn probe() -> Clock {
    let written = || std::env::current_exe().ok()?.metadata().ok()?.modified().ok();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let made = written().and_then(|time| Timestamp::from_second(i64::try_from(seconds(time)).ok()?).ok());
    let built = Timestamp::from_second(BUILT_AFTER).expect("a constant within the range of times");
    let asked = Path::new("/run/systemd/system")
        .exists()
        .then(|| first_line(Path::new("timedatectl"), &["show", "--property=NTPSynchronized", "--value"]));
    let synchronised = asked.and_then(Result::ok).and_then(|line| match line.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    });
    let keeper = processes().into_iter().find(|name| KEEPERS.contains(&name.as_str()));
    Clock { now: Timestamp::now(), made: made.map_or(built, |made| made.max(built)), synchronised, keeper }
}

pub fn judge(found: &Clock) -> Line {
    const NAME: &str = "clock";
    let now = crate::status::time(found.now);
    if found.now < found.made {
        return Line::fail(
            NAME,
            format!("it says {now}, and this program was made on {}", crate::status::time(found.made)),
            "set the clock (systemd-timesyncd, chrony); daemons run all the same, but times shown and certificates are wrong",
        );
    }
    match (found.synchronised, &found.keeper) {
        (Some(true), _) => Line::ok(NAME, format!("{now}, synchronised")),
        (Some(false), Some(keeper)) => Line::warn(
            NAME,
            format!("{now}, not synchronised, though {keeper} runs"),
            format!("see what {keeper} says of its servers; certificates are refused when the clock is far off"),
        ),
        (None, Some(keeper)) => Line::ok(NAME, format!("{now}, kept by {keeper}")),
        (_, None) => Line::warn(
            NAME,
            format!("{now}, and no program here keeps it synchronised"),
            "apt-get install systemd-timesyncd (or chrony); where this node is a container, its host keeps the clock",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn clock(now: i64, synchronised: Option<bool>, keeper: Option<&str>) -> Line {
        let made = Timestamp::from_second(1_800_000_000).unwrap();
        let now = Timestamp::from_second(now).unwrap();
        judge(&Clock { now, made, synchronised, keeper: keeper.map(str::to_owned) })
    }

    #[test]
    fn a_clock_before_this_program_was_made_fails() {
        assert_eq!(clock(0, Some(true), None).verdict, Verdict::Fail);
        assert_eq!(clock(1_799_999_999, None, Some("chronyd")).verdict, Verdict::Fail);
        assert_eq!(clock(1_800_000_001, Some(true), None).verdict, Verdict::Ok);
    }

    #[test]
    fn a_clock_that_nobody_keeps_or_that_is_not_synchronised_warns() {
        let now = 1_800_000_001;
        assert_eq!(clock(now, None, None).verdict, Verdict::Warn);
        let line = clock(now, Some(false), Some("chronyd"));
        assert!(line.verdict == Verdict::Warn && line.fix.contains("chronyd"), "{line:?}");
        assert_eq!(clock(now, None, Some("chronyd")).verdict, Verdict::Ok);
        assert!(clock(now, Some(true), None).found.ends_with("synchronised"));
    }

    #[test]
    fn this_machines_clock_is_read() {
        let found = probe();
        assert!(found.made.as_second() >= BUILT_AFTER && found.now >= found.made, "{found:?}");
    }
}
