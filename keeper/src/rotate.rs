//! Which log files there are, which go, and what a rotated one is called. Driven by `log_file` and `budget`; pure.

use std::time::Duration;

use crate::cri::file_stamp;

/// What a name in a container's log directory is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `<n>.log.<stamp>`: written to its end.
    Rotated,
    /// `<n>.log`: written now, or the last of an ended container.
    Current,
    /// Nothing of ours.
    Foreign,
}

/// Splits a name into `<n>.log` and what it is.
pub fn kind(name: &str) -> (&str, Kind) {
    match name.split_once(".log.") {
        None if name.ends_with(".log") => (name, Kind::Current),
        Some((n, stamp)) if is_stamp(stamp) => (&name[..n.len() + ".log".len()], Kind::Rotated),
        _ => (name, Kind::Foreign),
    }
}

/// `YYYYMMDD-HHMMSS`, optionally followed by `-NNNNNN`.
fn is_stamp(text: &str) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    digits(0..8)
        && text.get(8..9) == Some("-")
        && digits(9..15)
        && (text.len() == 15 || (text.get(15..16) == Some("-") && text.len() == 22 && digits(16..22)))
}

/// The name that `<n>.log` is rotated to: it sorts behind all that it was rotated to before, whatever the clock does.
/// `existing` are the names in the directory, sorted.
pub fn rotated_name(current: &str, existing: &[String], now: Duration) -> String {
    let fresh = format!("{current}.{}", file_stamp(now));
    let newest = existing.iter().rev().find(|name| kind(name) == (current, Kind::Rotated));
    match newest {
        Some(newest) if *newest >= fresh => {
            let second = &newest[..fresh.len()];
            let count: u32 = newest.get(fresh.len() + 1..).and_then(|n| n.parse().ok()).unwrap_or(0);
            // Six digits hold as many rotations as a second can have many times over.
            format!("{second}-{:06}", count.saturating_add(1))
        }
        _ => fresh,
    }
}

/// The rotated files of `current` that are too many when `max_files` are kept, the current one included. Oldest first;
/// `existing` is sorted.
pub fn surplus(current: &str, existing: &[String], max_files: u64) -> Vec<String> {
    let mut rotated: Vec<String> =
        existing.iter().filter(|name| kind(name) == (current, Kind::Rotated)).cloned().collect();
    let keep = usize::try_from(max_files.saturating_sub(1)).unwrap_or(usize::MAX);
    rotated.truncate(rotated.len().saturating_sub(keep));
    rotated
}

/// One file beneath `pods/`, as the budget sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `<pod>/<container>/<name>`.
    pub path: String,
    pub bytes: u64,
    /// Last written, since 1970.
    pub written: Duration,
    pub class: Class,
}

/// In which order the budget takes files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of a pod that was deleted.
    Deleted,
    /// Rotated, of any container.
    Rotated,
    /// The last file of a container that is not open.
    Ended,
    /// Being written: it is rotated first, and what it was is then taken.
    Active,
}

/// What has to go so that the files fit: those of deleted pods first, then rotated ones, then those of ended containers, oldest first; then,
/// because the budget is one for the whole node, files that are being written, largest first.
pub fn over_budget(mut files: Vec<Kept>, budget: u64) -> Vec<Kept> {
    let mut total = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    files.sort_by_key(|file| {
        let age = match file.class {
            Class::Active => Duration::from_secs(u64::MAX - file.bytes),
            _ => file.written,
        };
        (file.class, age, file.path.clone())
    });
    files.retain(|file| {
        let goes = total > budget && file.bytes > 0;
        if goes {
            total = total.saturating_sub(file.bytes);
        }
        goes
    });
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_315_579);

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(kind("3.log"), ("3.log", Kind::Current));
        assert_eq!(kind("3.log.20261122-024619"), ("3.log", Kind::Rotated));
        assert_eq!(kind("3.log.20261122-024619-000002"), ("3.log", Kind::Rotated));
        for foreign in
            ["3.log.gz", "3.log.20261122-024619.gz", "3.log.2026112-0246191", "x", "3.log.20261122-024619-002"]
        {
            assert_eq!(kind(foreign).1, Kind::Foreign, "{foreign}");
        }
    }

    #[test]
    fn rotated_names_are_unique_and_sort_by_rotation_even_when_the_clock_goes_back() {
        let mut have: Vec<String> = names(&["0.log"]);
        let mut made = Vec::new();
        for now in [NOW, NOW, NOW, NOW - Duration::from_secs(3600), NOW + Duration::from_secs(1)] {
            let name = rotated_name("0.log", &have, now);
            made.push(name.clone());
            have.push(name);
            have.sort();
        }
        assert_eq!(
            made,
            names(&[
                "0.log.20261122-024619",
                "0.log.20261122-024619-000001",
                "0.log.20261122-024619-000002",
                "0.log.20261122-024619-000003",
                "0.log.20261122-024620",
            ])
        );
        assert_eq!(&have[1..], made.as_slice());
    }

    #[test]
    fn the_oldest_rotated_files_are_surplus() {
        let have = names(&[
            "0.log",
            "0.log.20261122-000001",
            "1.log",
            "1.log.20261122-000001",
            "1.log.20261122-000002",
            "1.log.20261122-000003",
            "1.log.refused",
        ]);
        assert_eq!(surplus("1.log", &have, 3), &have[3..4]);
        assert_eq!(surplus("1.log", &have, 2), &have[3..5]);
        assert_eq!(surplus("1.log", &have, 5), names(&[]));
        assert_eq!(surplus("2.log", &have, 2), names(&[]));
    }

    #[test]
    fn the_budget_takes_deleted_then_rotated_then_ended_then_the_largest_active() {
        let file = |path: &str, bytes, written, class| Kept {
            path: path.into(),
            bytes,
            written: Duration::from_secs(written),
            class,
        };
        let files = vec![
            file("active-small", 10, 1, Class::Active),
            file("active-big", 50, 9, Class::Active),
            file("ended", 20, 1, Class::Ended),
            file("rotated-new", 20, 8, Class::Rotated),
            file("rotated-old", 20, 7, Class::Rotated),
            file("deleted", 5, 9, Class::Deleted),
        ];
        let taken =
            |budget| -> Vec<String> { over_budget(files.clone(), budget).into_iter().map(|file| file.path).collect() };
        assert_eq!(taken(125), names(&[]));
        assert_eq!(taken(120), names(&["deleted"]));
        assert_eq!(taken(119), names(&["deleted", "rotated-old"]));
        assert_eq!(taken(85), names(&["deleted", "rotated-old", "rotated-new"]));
        assert_eq!(taken(65), names(&["deleted", "rotated-old", "rotated-new", "ended"]));
        assert_eq!(taken(15), names(&["deleted", "rotated-old", "rotated-new", "ended", "active-big"]));
        assert_eq!(taken(0).len(), 6);
    }
}
