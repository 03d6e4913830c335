//! When the endpoint is tried again: later each time, and never all nodes at once. Pure.

use std::time::Duration;

/// The first wait after a failure.
pub const FIRST: Duration = Duration::from_millis(500);
/// The longest wait: an endpoint that comes back has all its nodes within a minute.
pub const LONGEST: Duration = Duration::from_secs(60);
/// A session that lasted so long was a good one: the next failure is a first one.
pub const GOOD: Duration = Duration::from_secs(30);

/// The wait after so many failures in a row (from 1). `random`: any number; half of the wait is left to it.
pub fn wait(failures: u32, random: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX));
    let whole = doubled.min(LONGEST);
    whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_chance() {
        assert_eq!((wait(1, 0), wait(1, u32::MAX)), (FIRST / 2, FIRST));
        assert_eq!(wait(3, u32::MAX), FIRST * 4);
        assert_eq!((wait(u32::MAX, 0), wait(1000, u32::MAX)), (LONGEST / 2, LONGEST));
    }
}
