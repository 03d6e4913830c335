//! The node's limit of bytes a second over all downloads. A download that waits here does not read, and so its sender waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What may pass at once after a pause: keeps the average exact and the stream smooth.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket. Those who wait are served in the order in which they came.
pub struct Throttle {
    /// None: no limit.
    bytes_per_second: Option<u64>,
    free: Mutex<Option<Instant>>,
}

impl Throttle {
    /// None or 0: no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), free: Mutex::default() }
    }

    /// Waits until these bytes fit the limit.
    pub async fn take(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let turn = self.turn(rate, bytes as u64, Instant::now());
        tokio::time::sleep_until(turn).await;
    }

    /// When who asks now may go on.
    fn turn(&self, rate: u64, bytes: u64, now: Instant) -> Instant {
        let costs = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = free.map_or(earliest, |free| free.max(earliest)) + costs;
        *free = Some(turn);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_downloads_share_one_limit_and_a_pause_saves_up_little() {
        let throttle = Throttle::new(Some(1000));
        let now = Instant::now();
        // Two who take a kilobyte each in turn: the burst, then a second each.
        let turns: Vec<Instant> = (0..4).map(|_| throttle.turn(1000, 1000, now)).collect();
        let waits: Vec<u128> = turns.iter().map(|turn| turn.saturating_duration_since(now).as_millis()).collect();
        assert_eq!(waits, [750, 1750, 2750, 3750]);
        let later = now + Duration::from_secs(100);
        assert_eq!(throttle.turn(1000, 1000, later), later + Duration::from_millis(750));
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let begun = Instant::now();
        Throttle::new(None).take(usize::MAX).await;
        Throttle::new(Some(0)).take(usize::MAX).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
