//! What the collector decides: whether the disk is too full, which images may go, in which order, whose last use is to be
//! written down. Pure: values in, values out.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::ImageGc;
use crate::seams::{DiskUse, Keep, ShelvedImage};

/// The last use of an image that is in use all the time is written down this often: a restarted agent, or one that was
/// away when the use ended, is wrong by no more. Four writes a day and image.
const NOTED_EVERY: Duration = Duration::from_secs(6 * 3600);

impl DiskUse {
    /// Percent of bytes or inodes that are used, the larger; rounded as the kubelet does.
    pub fn percent(&self) -> u8 {
        let used = |capacity: u64, free: u64| match capacity {
            0 => 0,
            _ => 100 - u128::from(free.min(capacity)) * 100 / u128::from(capacity),
        };
        let percent = used(self.capacity, self.available).max(used(self.inodes, self.inodes_free));
        u8::try_from(percent).unwrap_or(100)
    }

    /// Bytes to be freed until `percent` are used.
    pub fn beyond(&self, percent: u8) -> u64 {
        let wanted = u128::from(self.capacity) * u128::from(100 - percent.min(100)) / 100;
        u64::try_from(wanted.saturating_sub(u128::from(self.available))).unwrap_or(u64::MAX)
    }
}

/// The fullest of these file systems.
pub fn fullest(disks: &[DiskUse]) -> Option<&DiskUse> {
    disks.iter().max_by_key(|disk| disk.percent())
}

/// Whether images are to be removed for the sake of room.
pub fn is_short(disks: &[DiskUse], settings: &ImageGc) -> bool {
    // Of a disk that is full to the last byte 100 percent are used: with 100 as the threshold it is still never.
    settings.high_threshold < 100 && disks.iter().any(|disk| disk.percent() >= settings.high_threshold)
}

/// Whether enough have been removed.
pub fn is_enough(disks: &[DiskUse], settings: &ImageGc) -> bool {
    disks.iter().all(|disk| disk.percent() <= settings.low_threshold)
}

/// Images that may go, the one first that was not used for the longest time.
pub fn may_go(shelf: &[ShelvedImage]) -> Vec<&ShelvedImage> {
    let mut images: Vec<&ShelvedImage> = shelf.iter().filter(|image| image.keep.is_none()).collect();
    images.sort_by(|a, b| (a.last_used, &a.digest).cmp(&(b.last_used, &b.digest)));
    images
}

/// Of those, the ones that are removed for room: without those that came or were used lately.
pub fn for_room<'a>(shelf: &'a [ShelvedImage], settings: &ImageGc, now: jiff::Timestamp) -> Vec<&'a ShelvedImage> {
    let young = |image: &ShelvedImage| {
        // A time in the future is one of a clock that was wrong: it protects for no longer than one in the past.
        let apart = now.duration_since(image.last_used).unsigned_abs();
        apart < settings.minimum_age
    };
    may_go(shelf).into_iter().filter(|image| !young(image)).collect()
}

/// Of those, the ones that were not used for too long, however much room there is.
pub fn for_age<'a>(shelf: &'a [ShelvedImage], settings: &ImageGc, now: jiff::Timestamp) -> Vec<&'a ShelvedImage> {
    let Some(maximum_age) = settings.maximum_age else { return Vec::new() };
    let old = |image: &ShelvedImage| {
        Duration::try_from(now.duration_since(image.last_used)).is_ok_and(|unused| unused > maximum_age)
    };
    for_room(shelf, settings, now).into_iter().filter(|image| old(image)).collect()
}

/// Images whose last use is to be written down: those whose use has ended (`used_before` are digests), and those in use of
/// which it is a while ago.
pub fn to_note(shelf: &[ShelvedImage], used_before: &BTreeSet<String>, now: jiff::Timestamp) -> Vec<ShelvedImage> {
    let stale = |image: &ShelvedImage| now.duration_since(image.last_used).unsigned_abs() >= NOTED_EVERY;
    let note = |image: &&ShelvedImage| match image.keep {
        Some(Keep::Needed) => stale(image),
        _ => used_before.contains(&image.digest),
    };
    shelf.iter().filter(note).cloned().collect()
}

/// Digests of the images in use.
pub fn in_use(shelf: &[ShelvedImage]) -> BTreeSet<String> {
    shelf.iter().filter(|image| image.keep == Some(Keep::Needed)).map(|image| image.digest.clone()).collect()
}

/// What is kept and why, in words: `4 needed, 1 pinned, 2 in the image directory`.
pub fn kept_words(shelf: &[ShelvedImage]) -> String {
    let count = |keep| shelf.iter().filter(|image| image.keep == Some(keep)).count();
    let words = [
        (count(Keep::Needed), "needed"),
        (count(Keep::Pinned), "pinned"),
        (count(Keep::Lies), "in the image directory"),
        (count(Keep::Pulling), "being pulled"),
    ];
    let words: Vec<String> = words.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    fn image(name: &str, last_used: i64, keep: Option<Keep>) -> ShelvedImage {
        ShelvedImage { names: vec![name.into()], digest: name.into(), last_used: at(last_used), keep }
    }

    fn names<'a>(images: impl IntoIterator<Item = &'a ShelvedImage>) -> Vec<&'a str> {
        images.into_iter().map(|image| image.digest.as_str()).collect()
    }

    fn disk(capacity: u64, available: u64) -> DiskUse {
        DiskUse { path: "/d".into(), capacity, available, inodes: 0, inodes_free: 0 }
    }

    #[test]
    fn percent_is_the_kubelets_and_inodes_count_too() {
        for (capacity, available, percent) in
            [(1000, 150, 85), (1000, 151, 85), (1000, 160, 84), (0, 0, 0), (9, 0, 100)]
        {
            assert_eq!(disk(capacity, available).percent(), percent, "{capacity} {available}");
        }
        let inodes = DiskUse { inodes: 100, inodes_free: 4, ..disk(1000, 900) };
        assert_eq!(inodes.percent(), 96);
        assert_eq!(disk(u64::MAX, 0).percent(), 100);
    }

    #[test]
    fn removing_begins_at_the_high_threshold_and_ends_at_the_low_one() {
        let settings = ImageGc::default();
        for (available, short, enough) in
            [(100, true, false), (150, true, false), (160, false, false), (200, false, true)]
        {
            let disks = [disk(1000, available), disk(1000, 1000)];
            assert_eq!((is_short(&disks, &settings), is_enough(&disks, &settings)), (short, enough), "{available}");
        }
        assert_eq!(disk(1000, 100).beyond(80), 100);
        assert_eq!(disk(1000, 300).beyond(80), 0);
        let never = ImageGc { high_threshold: 100, ..settings };
        assert!(!is_short(&[disk(1000, 0)], &never));
    }

    #[test]
    fn a_young_image_stays_and_a_wrong_clock_protects_nothing_for_ever() {
        let shelf = [image("old", 100, None), image("young", 950, None), image("future", 5000, None)];
        assert_eq!(names(for_room(&shelf, &ImageGc::default(), at(1000))), ["old", "future"]);
    }

    #[test]
    fn an_image_is_too_old_only_where_an_age_is_set() {
        let shelf = [image("a", 100, None), image("b", 800, None), image("c", 100, Some(Keep::Pinned))];
        assert!(for_age(&shelf, &ImageGc::default(), at(1000)).is_empty());
        let settings = ImageGc { maximum_age: Some(Duration::from_secs(500)), ..ImageGc::default() };
        assert_eq!(names(for_age(&shelf, &settings, at(1000))), ["a"]);
    }

    #[test]
    fn the_end_of_a_use_is_written_down_once_and_a_long_use_now_and_then() {
        let six_hours = 6 * 3600;
        let before = BTreeSet::from(["ended".to_owned()]);
        let shelf = [
            image("ended", 0, None),
            image("unused", 0, None),
            image("fresh", 100, Some(Keep::Needed)),
            image("long", 0, Some(Keep::Needed)),
        ];
        assert_eq!(names(&to_note(&shelf, &before, at(six_hours))), ["ended", "long"]);
        assert_eq!(in_use(&shelf), BTreeSet::from(["fresh".to_owned(), "long".to_owned()]));
    }

    fn shelves() -> impl Strategy<Value = Vec<ShelvedImage>> {
        let keep = prop_oneof![
            3 => Just(None),
            1 => Just(Some(Keep::Needed)),
            1 => Just(Some(Keep::Pinned)),
            1 => Just(Some(Keep::Lies)),
            1 => Just(Some(Keep::Pulling)),
        ];
        let one = (0_i64..2000, keep);
        proptest::collection::vec(one, 0..20).prop_map(|images| {
            images.into_iter().enumerate().map(|(n, (used, keep))| image(&format!("i{n}"), used, keep)).collect()
        })
    }

    proptest! {
        #[test]
        fn nothing_that_is_to_be_kept_may_go_and_the_longest_unused_goes_first(shelf in shelves(), now in 0_i64..3000) {
            let settings = ImageGc { maximum_age: Some(Duration::from_secs(700)), ..ImageGc::default() };
            let room = for_room(&shelf, &settings, at(now));
            prop_assert!(room.iter().all(|image| image.keep.is_none()));
            prop_assert!(room.windows(2).all(|pair| pair[0].last_used <= pair[1].last_used));
            let age = for_age(&shelf, &settings, at(now));
            prop_assert!(age.iter().all(|image| room.contains(image) && now - image.last_used.as_second() > 700));
            let free = shelf.iter().filter(|image| image.keep.is_none()).count();
            prop_assert_eq!(may_go(&shelf).len(), free);
        }
    }
}
