//! How a node has talked of late, whatever the number of its sessions: one that breaks off and calls again goes on at the pace that it had, and has no
//! new lines in the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::complaints::Complaints;
use super::pace::Pace;

/// After so long nothing is left to remember: the pace is the first again, and the lines' minute over.
const KEPT: Duration = Duration::from_secs(60);
/// How often it is looked who is forgotten.
const TIDIED_EVERY: Duration = Duration::from_secs(5);
/// How often it is logged that a session of one node begins, and that one is over.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Of all nodes that have, or had of late, a session.
#[derive(Debug, Default)]
pub struct OfNodes(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    of: BTreeMap<Box<str>, Arc<Manners>>,
    tidied: Option<Instant>,
}

/// Of one node.
#[derive(Debug)]
pub struct Manners(Mutex<Of>);

#[derive(Debug)]
struct Of {
    pace: Pace,
    complaints: Complaints,
    told: [Option<Instant>; 2],
    /// When it was looked at last.
    at: Instant,
}

/// What is logged of each session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Begins,
    IsOver,
}

impl OfNodes {
    pub fn of(&self, node: &str, now: Instant) -> Arc<Manners> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.tidied.is_none_or(|tidied| now.saturating_duration_since(tidied) >= TIDIED_EVERY) {
            book.tidied = Some(now);
            // Those of a session that goes on are held by it.
            book.of.retain(|_, known| Arc::strong_count(known) > 1 || !known.is_old(now));
        }
        book.of.entry(node.into()).or_insert_with(|| Arc::new(Manners::new(now))).clone()
    }
}

impl Manners {
    pub fn new(now: Instant) -> Manners {
        Manners(Mutex::new(Of { pace: Pace::new(now), complaints: Complaints::default(), told: [None; 2], at: now }))
    }

    /// See [`Pace::spend`].
    pub fn spend(&self, things: usize, bytes: usize, now: Instant) -> Duration {
        self.with(now, |of| of.pace.spend(things, bytes, now))
    }

    /// See [`Complaints::may`].
    pub fn may_complain(&self, now: Instant) -> Option<u64> {
        self.with(now, |of| of.complaints.may(now))
    }

    /// Whether this is logged: once a second.
    pub fn is_told(&self, turn: Turn, now: Instant) -> bool {
        self.with(now, |of| {
            let told = &mut of.told[turn as usize];
            let is_time = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
            if is_time {
                *told = Some(now);
            }
            is_time
        })
    }

    fn with<T>(&self, now: Instant, act: impl FnOnce(&mut Of) -> T) -> T {
        let mut of = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        of.at = now;
        act(&mut of)
    }

    fn is_old(&self, now: Instant) -> bool {
        let at = self.0.lock().unwrap_or_else(PoisonError::into_inner).at;
        now.saturating_duration_since(at) >= KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_breaks_off_and_calls_again_talks_no_faster_and_says_no_more() {
        let (all, start) = (OfNodes::default(), Instant::now());
        let mut waits = Duration::ZERO;
        for _ in 0..4 {
            let session = all.of("n1", start);
            waits += session.spend(1, 8 << 20, start);
        }
        assert!(waits > Duration::from_secs(30), "{waits:?}");
        assert_eq!(all.of("n2", start).spend(1, 8 << 20, start), Duration::ZERO, "another node's pace is its own");
        let lines = (0..100).filter(|_| all.of("n1", start).may_complain(start).is_some()).count();
        assert!(lines < 100);
        let told = (0..100).filter(|_| all.of("n1", start).is_told(Turn::IsOver, start)).count();
        assert_eq!(told, 1);
        assert!(all.of("n1", start).is_told(Turn::Begins, start), "the other line is another");
        assert!(all.of("n1", start).is_told(Turn::IsOver, start + TOLD_EVERY));
        let held = all.of("n2", start);
        let later = start + KEPT * 2;
        assert_eq!(all.of("n3", later).spend(1, 0, later), Duration::ZERO);
        let known: Vec<_> = all.0.lock().unwrap().of.keys().cloned().collect();
        assert_eq!(known, ["n2".into(), "n3".into()], "who is in session, and who has just talked");
        drop(held);
    }
}
