//! Sums of moments that cannot overflow.

use std::time::Duration;

use jiff::Timestamp;

/// `moment` plus `d`; the end of time where that is later.
pub fn after(moment: Timestamp, d: Duration) -> Timestamp {
    moment.checked_add(d).unwrap_or(Timestamp::MAX)
}

/// The earlier of both, where there are two.
pub fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
