//! How long to wait before the next try: of a container that ended, and of a step that failed.

use std::time::Duration;

use crate::plan::{RunStep, StepKey};
use crate::time::Moment;

/// Kubernetes' first wait of a crashing container; the very first restart does not wait at all.
pub const CRASH_FIRST: Duration = Duration::from_secs(10);
/// Kubernetes' longest wait of a crashing container (MaxContainerBackOff).
pub const CRASH_MAX: Duration = Duration::from_secs(300);
/// A run of more than this long was no crash: counting starts anew (twice the longest wait, as in Kubernetes).
pub const CRASH_FORGIVEN: Duration = Duration::from_secs(600);

/// An image that cannot be had: Kubernetes' numbers. A change in the image directory wakes earlier.
const IMAGE_FIRST: Duration = Duration::from_secs(10);
const IMAGE_MAX: Duration = Duration::from_secs(300);
/// Set-up and creation fail for reasons that others mend (a missing directory): soon at first, then rarely.
const STEP_FIRST: Duration = Duration::from_secs(1);
const STEP_MAX: Duration = Duration::from_secs(60);
/// A SIGKILL that was delivered and had no effect is sent again: a process in uninterruptible sleep gets it when it can,
/// so this is for a kill that met nobody. Seldom, since each is a runc.
const KILL_FIRST: Duration = Duration::from_secs(5);
const KILL_MAX: Duration = Duration::from_secs(60);
/// Records that the state disk does not take: one write in this time a pod, for weeks if need be. The first that is
/// taken sends all others on their way.
const OWED_MAX: Duration = Duration::from_secs(15);
/// Signals, removal and admission: nobody wants to wait minutes for the end of a full disk.
const URGENT_MAX: Duration = Duration::from_secs(5);

/// The wait after the `failures`-th run in a row that ended: 0, 10, 20, 40 … 300 s.
pub fn crash(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => doubled(CRASH_FIRST, n - 1, CRASH_MAX),
    }
}

/// The failures in a row after one more end, and the moment before which the next run does not start.
pub fn after_end(failures_before: u32, ran: Duration, finished: Moment) -> (u32, Option<Moment>) {
    let failures = if ran > CRASH_FORGIVEN { 1 } else { failures_before.saturating_add(1) };
    let wait = crash(failures);
    (failures, (wait > Duration::ZERO).then(|| finished.after(wait)))
}

/// The wait after the `count`-th SIGKILL (from 1) that ended nothing.
pub fn kill(count: u32) -> Duration {
    doubled(KILL_FIRST, count.max(1), KILL_MAX)
}

/// The wait after the `count`-th time in a row (from 1) that the disk did not take a record's change.
pub fn owed(count: u32) -> Duration {
    doubled(STEP_FIRST, count.max(1), OWED_MAX)
}

/// The wait after the `count`-th failure in a row (from 1) of this step.
pub fn step(key: &StepKey, count: u32) -> Duration {
    let (first, max) = match key {
        StepKey::PrepareImage(..) => (IMAGE_FIRST, IMAGE_MAX),
        StepKey::SetUp(_)
        | StepKey::Connect(_)
        | StepKey::Resize(_)
        | StepKey::Fill(_)
        | StepKey::Run(_, _, _, RunStep::Create | RunStep::Start | RunStep::PostStart)
        | StepKey::EndShim(_) => (STEP_FIRST, STEP_MAX),
        StepKey::Admit
        | StepKey::Remember(_)
        | StepKey::Run(_, _, _, RunStep::PreStop | RunStep::SignalStop | RunStep::SignalKill | RunStep::Delete)
        | StepKey::TearDown(_)
        | StepKey::Forget(_) => (STEP_FIRST, URGENT_MAX),
    };
    doubled(first, count.max(1), max)
}

/// `first` doubled `nth - 1` times, at most `max`.
fn doubled(first: Duration, nth: u32, max: Duration) -> Duration {
    let factor = 2_u32.checked_pow(nth.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_ends_at_once_starts_at_kubernetes_instants() {
        let mut now = Moment(0);
        let mut failures = 0;
        let mut starts = vec![0];
        for _ in 0..8 {
            let (count, not_before) = after_end(failures, Duration::ZERO, now);
            failures = count;
            now = not_before.unwrap_or(now);
            starts.push(now.0 / 1000);
        }
        assert_eq!(starts, [0, 0, 10, 30, 70, 150, 310, 610, 910]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let long = CRASH_FORGIVEN + Duration::from_millis(1);
        assert_eq!(after_end(7, long, Moment(0)), (1, None));
        assert_eq!(after_end(7, CRASH_FORGIVEN, Moment(0)), (8, Some(Moment(300_000))));
    }

    #[test]
    fn it_never_gives_up_and_never_waits_longer_than_the_bound() {
        assert_eq!(crash(u32::MAX), CRASH_MAX);
        assert_eq!(step(&StepKey::Admit, u32::MAX), URGENT_MAX);
        let image = StepKey::PrepareImage(crate::name::Uid("u".into()), "c".into());
        assert_eq!(step(&image, 0), IMAGE_FIRST);
        assert_eq!(step(&image, 3), Duration::from_secs(40));
        assert_eq!(step(&image, u32::MAX), IMAGE_MAX);
    }
}
