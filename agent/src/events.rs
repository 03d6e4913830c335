//! What happened lately, for `get events` and `describe`: a bounded ring, counted instead of repeated.
//!
//! Anybody may record; only the doors read, and [`kept`], through which they outlive the agent. Nothing is decided from events.

pub mod kept;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many different events are kept; the oldest goes first. 110 pods with a handful of different events each.
pub const EVENTS_MAX: usize = 1000;

/// How long one is kept after it was last seen; it goes when the next event comes. Kubernetes keeps events for an hour, but a node
/// is looked at the next morning.
pub const AGE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// The longest message that is kept, in bytes: a runtime's error may quote a whole specification.
const MESSAGE_MAX: usize = 1024;

/// How far a pull is. Kubernetes has no event for it.
pub const PULL_PROGRESS: &str = "PullProgress";

/// v1 Event, `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    Normal,
    Warning,
}

/// What an event is about (v1 ObjectReference).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// `Pod`, `DaemonSet` or `Node`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Empty where the object has none.
    pub uid: String,
    pub container: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub severity: Severity,
    /// Kubernetes' reason where one exists: Pulled, Created, Started, Killing, BackOff, FailedMount …
    pub reason: String,
    pub about: About,
    pub message: String,
    pub at: jiff::Timestamp,
}

/// An event with how often it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub severity: Severity,
    pub reason: String,
    pub about: About,
    pub message: String,
    pub first: jiff::Timestamp,
    pub last: jiff::Timestamp,
    pub count: u64,
}

/// The ring. Oldest last-seen first.
#[derive(Debug, Default)]
pub struct Events {
    ring: VecDeque<Seen>,
    /// How many were ever recorded: tells the newer of two copies.
    recorded: u64,
    /// How many of this agent's were no repetition: what is lost with them is more than a count.
    added: u64,
}

impl Events {
    /// Counts a repetition (same object, reason and message; of [`PULL_PROGRESS`] the newest message counts, which replaces the one
    /// before) or adds the event, dropping the oldest beyond [`EVENTS_MAX`].
    pub fn record(&mut self, event: Event) {
        let Event { severity, reason, about, mut message, at } = event;
        self.recorded = self.recorded.saturating_add(1);
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        while self.ring.front().is_some_and(|oldest| at.duration_since(oldest.last) > AGE_MAX) {
            self.ring.pop_front();
        }
        let said = |seen: &Seen| seen.message == message || reason == PULL_PROGRESS;
        let same = |seen: &Seen| seen.reason == reason && seen.about == about && said(seen);
        if let Some(at_index) = self.ring.iter().rposition(same)
            && let Some(mut seen) = self.ring.remove(at_index)
        {
            seen.count = seen.count.saturating_add(1);
            seen.last = at;
            seen.message = message;
            self.ring.push_back(seen);
            return;
        }
        self.added = self.added.saturating_add(1);
        if self.ring.len() >= EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(Seen { severity, reason, about, message, first: at, last: at, count: 1 });
    }

    /// Takes back what an earlier agent knew; to be called before anything is recorded.
    pub fn restore(&mut self, known: kept::Known) {
        self.ring = known.events.into();
        self.recorded = known.recorded;
        let surplus = self.ring.len().saturating_sub(EVENTS_MAX);
        self.ring.drain(..surplus);
    }

    /// How many were ever recorded, repetitions included.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The last so many, in their order.
    pub fn newest(&self, count: usize) -> impl Iterator<Item = &Seen> {
        self.ring.iter().skip(self.ring.len().saturating_sub(count))
    }

    /// All that is kept, oldest last-seen first.
    pub fn list(&self) -> Vec<Seen> {
        self.ring.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str, second: i64) -> Event {
        Event {
            severity: Severity::Warning,
            reason: "BackOff".into(),
            about: About { kind: "Pod".into(), namespace: "default".into(), name: "web-n1".into(), ..About::default() },
            message: message.into(),
            at: jiff::Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn a_repeated_event_is_counted_and_moves_to_the_end() {
        let mut events = Events::default();
        events.record(event("a", 1));
        events.record(event("b", 2));
        events.record(event("a", 3));
        let seen: Vec<_> = events.list().iter().map(|s| (s.message.clone(), s.count, s.last.as_second())).collect();
        assert_eq!(seen, [("b".to_owned(), 1, 2), ("a".to_owned(), 2, 3)]);
        assert_eq!(events.list()[1].first.as_second(), 1);
    }

    #[test]
    fn the_progress_of_a_pull_is_one_event_whose_newest_message_counts() {
        let mut events = Events::default();
        for (percent, second) in [(10, 1), (50, 2), (90, 3)] {
            events.record(Event { reason: PULL_PROGRESS.into(), ..event(&format!("{percent}%"), second) });
            events.record(event("else", second));
        }
        let seen = events.list();
        let shown: Vec<_> = seen.iter().map(|s| (s.message.as_str(), s.count, s.last.as_second())).collect();
        assert_eq!(shown, [("90%", 3, 3), ("else", 3, 3)]);
        assert_eq!(events.added, 2, "what only moves is not written to the disk at once");
    }

    #[test]
    fn the_ring_is_bounded_and_drops_the_oldest() {
        let mut events = Events::default();
        for n in 0..=EVENTS_MAX {
            events.record(event(&n.to_string(), 0));
        }
        assert_eq!(events.list().len(), EVENTS_MAX);
        assert_eq!(events.list()[0].message, "1");
    }

    #[test]
    fn what_was_not_seen_for_a_day_goes_with_the_next_event() {
        let day = AGE_MAX.as_secs();
        let mut events = Events::default();
        events.record(event("old", 0));
        events.record(event("seen again", 0));
        events.record(event("seen again", 1));
        events.record(event("new", day + 1));
        let messages: Vec<_> = events.list().into_iter().map(|seen| seen.message).collect();
        assert_eq!(messages, ["seen again", "new"]);
    }

    #[test]
    fn a_huge_message_is_cut_at_a_character() {
        let mut events = Events::default();
        events.record(event(&"ü".repeat(5000), 0));
        assert!(events.list()[0].message.len() <= MESSAGE_MAX + '…'.len_utf8());
    }
}
