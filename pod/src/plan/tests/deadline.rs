use std::sync::Arc;
use std::time::Duration;

use super::model::{Model, revision};
use crate::plan::{Change, DEADLINE_EXCEEDED, Step};
use crate::record::Lifecycle;
use crate::time::Moment;

/// A pod with that many seconds, which runs.
fn running(seconds: u64) -> Model {
    let mut pod = revision(0, &["a", "b"]);
    Arc::make_mut(&mut pod.template).spec.active_deadline = Some(Duration::from_secs(seconds));
    let mut model = Model::new(pod);
    model.settle_for(1_000);
    assert_eq!(model.all_running().len(), 2);
    model
}

fn failed(model: &Model) -> Option<&str> {
    model.pods[0].record.course.failed.as_ref().map(|failure| failure.reason.as_str())
}

#[test]
fn pod_that_was_active_for_longer_ends_within_its_grace_and_has_failed_for_good() {
    let mut model = running(60);
    assert_eq!(model.plan().wake_at, Some(Moment(1_060_000)), "admitted a million milliseconds after the start");
    model.pass_time(58_000);
    model.settle_for(500);
    assert_eq!(failed(&model), None);
    model.settle();
    assert_eq!(failed(&model), Some(DEADLINE_EXCEEDED));
    assert_eq!(model.pods[0].record.lifecycle, Lifecycle::Finished);
    assert!(model.pods[0].containers.is_empty() && model.admitted == 1);
    assert!(model.plan().steps.is_empty());
}

#[test]
fn deadline_is_of_the_boot_clock_and_of_the_other_one_after_a_reboot() {
    let mut model = running(60);
    // Somebody sets the clock back by a year: what the boot clock says stays so.
    model.pods[0].record.admitted_at = model.now().wall.saturating_add(Duration::from_secs(365 * 86_400)).unwrap();
    model.pass_time(60_000);
    let fails = |model: &Model| {
        model.plan().steps.iter().any(|step| matches!(step, Step::Remember { change: Change::Failed(_), .. }))
    };
    assert!(fails(&model));
    let mut model = running(60);
    model.reboot();
    model.settle_for(1);
    assert_eq!(model.pods[0].record.course.admitted_moment, None);
    assert_eq!(failed(&model), None);
    let admitted = model.now().wall.checked_sub(jiff::SignedDuration::from_secs(61)).unwrap();
    model.pods[0].record.admitted_at = admitted;
    assert!(fails(&model));
}

#[test]
fn clock_that_was_never_set_ends_no_pod_after_a_reboot() {
    let mut model = running(60);
    // Admitted before the clock came, which is right now.
    model.pods[0].record.admitted_at = jiff::Timestamp::UNIX_EPOCH;
    model.reboot();
    model.settle_for(1);
    assert_eq!(failed(&model), None);
    model.pass_time(60_000);
    model.settle();
    assert_eq!(failed(&model), Some(DEADLINE_EXCEEDED), "it counts from the boot then");
}
