//! How fast a node may talk: what it says is written to the store, which keeps every version of ten minutes. Beyond that it is not read from, and
//! HTTP/2 makes it wait.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second for as long as a node likes. A node with 110 pods that all change their status each second says less.
const RATE: u32 = 512 << 10;
/// Bytes at once: everything about a node's pods, several times over.
const BURST: u32 = 16 << 20;
/// What each thing that a message tells of costs beside its bytes: an empty status costs a lookup too.
const THING: u32 = 4 << 10;

/// Of one node.
#[derive(Debug)]
pub struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { left: f64::from(BURST), at: now }
    }

    /// How long to wait after a message of so many things, and bytes.
    pub fn spend(&mut self, things: usize, bytes: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let things = u32::try_from(things.max(1)).unwrap_or(u32::MAX);
        let cost = things.saturating_mul(THING).saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.left = (self.left + passed * f64::from(RATE)).min(f64::from(BURST)) - f64::from(cost);
        self.at = now;
        Duration::from_secs_f64((-self.left).max(0.0) / f64::from(RATE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_much_at_once_and_not_much_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.spend(1, 15 << 20, start), Duration::ZERO);
        let wait = pace.spend(1, 3 << 19, start);
        assert!(wait > Duration::from_millis(900) && wait < Duration::from_millis(1100), "{wait:?}");
        assert_eq!(pace.spend(0, 0, start + wait + Duration::from_millis(10)), Duration::ZERO);
        // Nothing is saved beyond the burst.
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.spend(1, 16 << 20, later).as_millis(), 7);
        // Empty messages count too.
        let mut pace = Pace::new(start);
        let wait = (0..10_000).fold(Duration::ZERO, |_, _| pace.spend(0, 0, start));
        assert!(wait > Duration::from_secs(40), "{wait:?}");
        assert!(Pace::new(start).spend(10_000, 0, start) > Duration::from_secs(40));
    }
}
