//! When a pull that failed is tried again. Pure.

use std::time::Duration;

/// Kubernetes' numbers: 10 s, doubling, at most 300 s (image back-off of the kubelet).
const FIRST: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);
/// A registry may ask for a longer pause than ours, not for a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The pauses of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: FIRST, max: MAX }
    }
}

/// What a failed try knows of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    /// The registry's Retry-After.
    pub retry_after: Option<Duration>,
    /// Trying again soon cannot help (the disk is full).
    pub late: bool,
}

impl Backoff {
    /// The pause after the `failures`-th failure in a row (from 1). `random` (0 to 255) makes it up to a fifth longer, so that
    /// the nodes of a fleet do not come back to their registry in step.
    pub fn pause(&self, failures: u32, hint: Hint, random: u8) -> Duration {
        let doubled = 2_u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let base = if hint.late { self.max } else { self.first.saturating_mul(doubled).min(self.max) };
        let jitter = base / 5 * u32::from(random) / 255;
        let asked = hint.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        (base + jitter).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_ten_seconds_to_five_minutes_and_never_end() {
        let pauses = |n| Backoff::default().pause(n, Hint::default(), 0).as_secs();
        assert_eq!((1..8).map(pauses).collect::<Vec<_>>(), [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pauses(u32::MAX), 300);
        assert_eq!(Backoff::default().pause(1, Hint::default(), 255).as_secs(), 12);
    }

    #[test]
    fn the_registrys_wish_counts_within_reason_and_a_full_disk_is_left_alone() {
        let pause = |retry_after, late| {
            let hint = Hint { retry_after: Some(Duration::from_secs(retry_after)), late };
            Backoff::default().pause(1, hint, 0).as_secs()
        };
        assert_eq!((pause(90, false), pause(1, false), pause(1 << 40, false)), (90, 10, 3600));
        assert_eq!(pause(0, true), 300);
    }
}
