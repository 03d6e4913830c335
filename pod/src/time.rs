//! Time as the decisions see it: always handed in, never asked for.
//!
//! Waiting is measured on the boot clock (CLOCK_BOOTTIME), so that a wall clock that jumps from 1970 to today neither
//! ends nor stretches a wait. The wall clock is only for people: it stamps what is shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on the boot clock, in milliseconds since the machine started (CLOCK_BOOTTIME). Valid within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus `d`, saturating.
    pub fn after(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For waiting.
    pub boot: Moment,
    /// For people.
    pub wall: jiff::Timestamp,
}
