//! Which keys the last writes wrote. Most writes are of what most watches do not watch (a thousand nodes renew a hundred leases a second): they are told
//! so without a read of the file.

use std::collections::VecDeque;

/// Writes that are remembered: a watch that is behind by more reads the file, as it would anyway. About 100 bytes each.
const KEPT: usize = 1024;

#[derive(Debug, Default)]
pub struct Recent {
    /// Every write after this revision is in `keys`.
    from: u64,
    /// In the order of their revisions.
    keys: VecDeque<(u64, Box<str>)>,
}

impl Recent {
    /// Nothing is known of what was up to this revision.
    pub fn after(from: u64) -> Recent {
        Recent { from, keys: VecDeque::new() }
    }

    pub fn extend<'a>(&mut self, written: impl Iterator<Item = (u64, &'a str)>) {
        for (revision, key) in written {
            if self.keys.len() == KEPT
                && let Some((oldest, _)) = self.keys.pop_front()
            {
                self.from = oldest;
            }
            self.keys.push_back((revision, key.into()));
        }
    }

    /// No write after `after`, up to `newest`, was of a key with this prefix. False also where that is not known.
    pub fn is_quiet(&self, prefix: &str, after: u64, newest: u64) -> bool {
        let known = after >= self.from && self.keys.back().is_some_and(|(last, _)| *last >= newest);
        let mut since = self.keys.iter().rev().take_while(|(revision, _)| *revision > after);
        known && since.all(|(revision, key)| *revision > newest || !key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_of_others_is_quiet() {
        let mut recent = Recent::after(10);
        assert!(!recent.is_quiet("/b/", 10, 11), "nothing is known of 11 yet");
        recent.extend([(11, "/a/x"), (12, "/b/x"), (13, "/a/y")].into_iter());
        assert!(recent.is_quiet("/b/", 10, 11) && recent.is_quiet("/b/", 12, 13) && recent.is_quiet("/c/", 10, 13));
        assert!(!recent.is_quiet("/b/", 10, 13) && !recent.is_quiet("/b/", 11, 12));
        assert!(!recent.is_quiet("/c/", 9, 13), "10 is not known");
        assert!(!recent.is_quiet("/c/", 10, 14), "14 is not known");
    }

    #[test]
    fn what_falls_out_is_not_known_any_more() {
        let mut recent = Recent::after(0);
        let count = u64::try_from(KEPT).unwrap() + 5;
        recent.extend((1..=count).map(|revision| (revision, if revision == 5 { "/b/" } else { "/a/" })));
        assert!(!recent.is_quiet("/b/", 4, count));
        assert!(recent.is_quiet("/b/", 5, count));
    }
}
