//! What a loop has to look at and when: wakes of one key coalesce, failures wait longer each time, and a key that is woken without end
//! leaves time for everything else. Pure: the time is handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::daemonset::after;

/// After the first failure; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest wait after failures: a store that is back is noticed within this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A change hurries what has failed no sooner than this after its look: the change may be what helps (a node has joined that is not the one whose pod
/// is refused), and may be what is refused.
const HURRIED_AFTER: Duration = Duration::from_secs(1);
/// However long a look took, the next may begin after this.
const REST_MAX: Duration = Duration::from_secs(1);

/// Keys with the moment at which each is to be looked at.
#[derive(Debug)]
pub struct Queue<K> {
    keys: BTreeMap<K, Turn>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// None: nothing is to be done for now.
    at: Option<Timestamp>,
    /// Wakes before this wait for it: a look that takes long is not repeated for every pod that reports.
    rested: Option<Timestamp>,
    /// Failures in a row.
    failures: u32,
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nothing is left to do until something changes or, where there is one, this moment comes.
    Done(Option<Timestamp>),
    /// Nothing is left and the key does not exist any more.
    Gone,
    /// Something was refused or could not be reached: again after a while.
    Failed,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue::new()
    }
}

impl<K: Ord + Clone> Queue<K> {
    pub fn new() -> Queue<K> {
        Queue { keys: BTreeMap::new() }
    }

    /// Something that concerns the key has changed.
    pub fn wake(&mut self, key: K, now: Timestamp) {
        let turn = self.keys.entry(key).or_default();
        let earliest = turn.rested.filter(|rested| now < *rested).unwrap_or(now);
        turn.at = Some(turn.at.map_or(earliest, |at| at.min(earliest)));
    }

    /// The clock was set back: what was to come by it comes now.
    pub fn hurry(&mut self, now: Timestamp) {
        for turn in self.keys.values_mut() {
            turn.at = turn.at.map(|at| at.min(now));
            turn.rested = None;
        }
    }

    /// When the next look is due.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.keys.values().filter_map(|turn| turn.at).min()
    }

    /// The key that has waited longest, if one is due. Whoever takes it says how it ended with [`Queue::looked`].
    pub fn take(&mut self, now: Timestamp) -> Option<K> {
        let due = self.keys.iter().filter_map(|(key, turn)| Some((turn.at.filter(|at| *at <= now)?, key)));
        let key = due.min().map(|(_, key)| key.clone())?;
        if let Some(turn) = self.keys.get_mut(&key) {
            turn.at = None;
        }
        Some(key)
    }

    /// The look at `key` from `began` to `now` has ended so. A wake during it stays.
    pub fn looked(&mut self, key: &K, looked: Looked, began: Timestamp, now: Timestamp) {
        let Some(turn) = self.keys.get_mut(key) else { return };
        let took = Duration::try_from(now.duration_since(began)).unwrap_or_default();
        let rested = after(now, took.min(REST_MAX));
        turn.rested = Some(if looked == Looked::Failed { after(now, HURRIED_AFTER) } else { rested });
        match looked {
            Looked::Done(next) => {
                turn.failures = 0;
                let next = next.map(|next| next.max(rested));
                turn.at = match (turn.at, next) {
                    (Some(at), Some(next)) => Some(at.min(next)),
                    (at, next) => at.or(next),
                };
            }
            Looked::Gone => {
                turn.failures = 0;
                if turn.at.is_none() {
                    self.keys.remove(key);
                }
            }
            Looked::Failed => {
                turn.failures = turn.failures.saturating_add(1);
                turn.at = Some(after(now, backoff(turn.failures)));
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let factor = 2_u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn wakes_of_one_key_are_one_look() {
        let mut queue = Queue::new();
        for ms in 0..5 {
            queue.wake("a", at(ms));
        }
        assert_eq!(queue.take(at(5)), Some("a"));
        assert_eq!(queue.take(at(5)), None);
    }

    #[test]
    fn a_wake_during_a_look_is_not_lost() {
        let mut queue = Queue::new();
        queue.wake("a", at(0));
        queue.take(at(0));
        queue.wake("a", at(1));
        queue.looked(&"a", Looked::Gone, at(0), at(2));
        assert_eq!(queue.next_at(), Some(at(1)));
    }

    #[test]
    fn a_look_that_takes_long_is_not_repeated_at_once() {
        let mut queue = Queue::new();
        queue.wake("a", at(0));
        queue.take(at(0));
        queue.looked(&"a", Looked::Done(None), at(0), at(80));
        queue.wake("a", at(81));
        queue.wake("a", at(90));
        assert_eq!(queue.next_at(), Some(at(160)));
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_wake_hurries_them_once_a_second() {
        let mut queue = Queue::new();
        queue.wake("a", at(0));
        let mut waits = Vec::new();
        let mut now = at(0);
        for _ in 0..12 {
            queue.take(now).unwrap();
            queue.looked(&"a", Looked::Failed, now, now);
            let next = queue.next_at().unwrap();
            waits.push(next.as_millisecond() - now.as_millisecond());
            now = next;
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        queue.take(now);
        queue.looked(&"a", Looked::Failed, now, now);
        queue.wake("a", now);
        assert_eq!(queue.next_at().unwrap().as_millisecond() - now.as_millisecond(), 1_000);
        now = queue.next_at().unwrap();
        queue.take(now);
        queue.looked(&"a", Looked::Done(None), now, now);
        queue.wake("a", now);
        assert_eq!(queue.next_at(), Some(now));
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_what_is_gone_is_forgotten() {
        let mut queue = Queue::new();
        queue.wake("b", at(0));
        queue.wake("a", at(1));
        assert_eq!(queue.take(at(2)), Some("b"));
        queue.looked(&"b", Looked::Gone, at(2), at(2));
        assert_eq!(queue.take(at(2)), Some("a"));
        queue.looked(&"a", Looked::Done(Some(at(9))), at(2), at(2));
        assert_eq!((queue.take(at(8)), queue.take(at(9))), (None, Some("a")));
        assert_eq!(queue.keys.len(), 1);
    }
}
