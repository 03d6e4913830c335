//! The time, as whoever drives the endpoint hands it down: the machine's, or a test's own.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Cheap to clone; all clones of a test's clock show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// None: the machine's clock.
    set: Option<Arc<Hands>>,
}

/// Of a test's clock.
#[derive(Debug)]
struct Hands {
    /// Microseconds since 1970.
    now: AtomicI64,
    /// Microseconds by which the clock was put forward, or back, without any time passing.
    stepped: AtomicI64,
}

/// Where [`Clock::passed`] begins on a machine.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// The machine's.
    pub fn system() -> Clock {
        Clock::default()
    }

    /// One that stands still until it is [`set`](Clock::set).
    pub fn at(now: Timestamp) -> Clock {
        let (now, stepped) = (AtomicI64::new(now.as_microsecond()), AtomicI64::new(0));
        Clock { set: Some(Arc::new(Hands { now, stepped })) }
    }

    pub fn now(&self) -> Timestamp {
        match &self.set {
            None => Timestamp::now(),
            Some(hands) => {
                Timestamp::from_microsecond(hands.now.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
            }
        }
    }

    /// How much time has passed since some moment, whatever was done to the clock meanwhile; a machine that sleeps counts nothing.
    pub fn passed(&self) -> Duration {
        match &self.set {
            None => BEGAN.elapsed(),
            Some(hands) => {
                let passed = hands.now.load(Ordering::SeqCst).saturating_sub(hands.stepped.load(Ordering::SeqCst));
                Duration::from_micros(u64::try_from(passed).unwrap_or(0))
            }
        }
    }

    /// Moves a test's clock; the machine's stays as it is.
    pub fn set(&self, now: Timestamp) {
        if let Some(hands) = &self.set {
            hands.now.store(now.as_microsecond(), Ordering::SeqCst);
        }
    }

    /// Puts a test's clock forward, or back, as a person or NTP does: no time passes.
    pub fn step(&self, now: Timestamp) {
        if let Some(hands) = &self.set {
            let before = hands.now.swap(now.as_microsecond(), Ordering::SeqCst);
            hands.stepped.fetch_add(now.as_microsecond().saturating_sub(before), Ordering::SeqCst);
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
