//! Waiting for a condition, with a bound, and with the last thing seen when the bound is reached. The only place of the tests that
//! sleeps.

use std::time::{Duration, Instant};

/// Short enough that a wait costs nothing that a person would notice, long enough to leave the processor to what is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// The bound of an ordinary wait: a pod's start takes a tenth of a second on an idle machine, and the machine may be busy with others.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Ok`. Panics after `bound` with the last `Err`, which should say what was seen instead.
#[track_caller]
pub fn wait_within<T>(bound: Duration, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + bound;
    loop {
        let seen = match ask() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(Instant::now() < end, "waited {bound:?} for: {what}\nlast seen: {seen}");
        pause(PAUSE);
    }
}

/// A pause between two looks of a caller that has a bound of its own, or a measured time.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// `wait_within` the ordinary bound.
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
    wait_within(PATIENCE, what, ask)
}

/// Asks for `period` and panics as soon as the answer is `Err`: for what must *not* happen. Keep the period short; a rule that can be
/// proved by what happens first should be.
#[track_caller]
pub fn holds_for(period: Duration, what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + period;
    while Instant::now() < end {
        if let Err(seen) = ask() {
            panic!("did not hold: {what}\nseen: {seen}");
        }
        pause(PAUSE);
    }
}
