//! How far a pull is: counters that downloads move and the display reads, and the rate made of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::image_pull::Progress;

/// The rate is that of the last while: short enough to show a stall, long enough not to flicker.
const RATE_OVER: Duration = Duration::from_secs(5);
/// Looks kept for it: more than come within that time.
const SAMPLES_MAX: usize = 32;

/// Counters of one try.
#[derive(Debug, Default)]
pub struct Meter {
    here: AtomicU64,
    total: AtomicU64,
    fetched: AtomicU64,
    layers: AtomicUsize,
    total_layers: AtomicUsize,
}

impl Meter {
    pub fn expect(&self, bytes: u64, layers: usize) {
        self.total.store(bytes, Ordering::Relaxed);
        self.total_layers.store(layers, Ordering::Relaxed);
    }

    /// These bytes were here before.
    pub fn present(&self, bytes: u64) {
        self.here.fetch_add(bytes, Ordering::Relaxed);
    }

    /// These bytes came over the network.
    pub fn fetched(&self, bytes: u64) {
        self.here.fetch_add(bytes, Ordering::Relaxed);
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// These bytes are dropped again.
    pub fn dropped(&self, bytes: u64) {
        // Nothing is dropped that was not counted.
        self.here.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn unpacked(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes that this try has brought over the network.
    pub fn brought(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// What is here, without a rate.
    pub fn progress(&self) -> Progress {
        Progress {
            bytes: self.here.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
            layers: self.layers.load(Ordering::Relaxed),
            total_layers: self.total_layers.load(Ordering::Relaxed),
            bytes_per_second: 0,
        }
    }
}

/// The last looks at a meter.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes a look; bytes a second lately.
    pub fn look(&mut self, now: Instant, fetched: u64) -> u64 {
        self.samples.push_back((now, fetched));
        let old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) > RATE_OVER;
        while self.samples.len() > SAMPLES_MAX || (self.samples.len() > 2 && self.samples.get(1).is_some_and(old)) {
            self.samples.pop_front();
        }
        let Some((first, before)) = self.samples.front() else { return 0 };
        let millis = u64::try_from(now.saturating_duration_since(*first).as_millis()).unwrap_or(u64::MAX);
        fetched.saturating_sub(*before).saturating_mul(1000).checked_div(millis).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let begun = Instant::now();
        assert_eq!(rate.look(begun, 0), 0);
        let at = |second: u64| begun + Duration::from_secs(second);
        for second in 1..=10 {
            assert_eq!(rate.look(at(second), second * 1000), 1000);
        }
        for second in 11..=15 {
            rate.look(at(second), 10_000);
        }
        assert_eq!(rate.look(at(16), 10_000), 0, "a stall shows");
    }
}
