//! The time, as whoever drives the endpoint hands it down: the machine's, or a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Cheap to clone; all clones of a test's clock show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Microseconds since 1970. None: the machine's clock.
    set: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The machine's.
    pub fn system() -> Clock {
        Clock::default()
    }

    /// One that stands still until it is [`set`](Clock::set).
    pub fn at(now: Timestamp) -> Clock {
        Clock { set: Some(Arc::new(AtomicI64::new(now.as_microsecond()))) }
    }

    pub fn now(&self) -> Timestamp {
        match &self.set {
            None => Timestamp::now(),
            Some(micros) => Timestamp::from_microsecond(micros.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// Moves a test's clock; the machine's stays as it is.
    pub fn set(&self, now: Timestamp) {
        if let Some(micros) = &self.set {
            micros.store(now.as_microsecond(), Ordering::SeqCst);
        }
    }
}

/// As `metadata.creationTimestamp` and its like have it: RFC 3339, in seconds.
pub fn seconds(moment: Timestamp) -> String {
    format!("{moment:.0}")
}

/// As a Lease's and an Event's `MicroTime` has it.
pub fn micros(moment: Timestamp) -> String {
    format!("{moment:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_a_test_moves_only_when_it_is_set() {
        let clock = Clock::at(Timestamp::from_second(1000).unwrap());
        let same = clock.clone();
        clock.set(Timestamp::from_microsecond(1_001_500_000).unwrap());
        assert_eq!(seconds(same.now()), "1970-01-01T00:16:41Z");
        assert_eq!(micros(same.now()), "1970-01-01T00:16:41.500000Z");
    }
}
