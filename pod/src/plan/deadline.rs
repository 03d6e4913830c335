//! `activeDeadlineSeconds`: a pod that has been here longer has failed, whatever it has achieved.

use std::time::Duration;

use super::draft::Draft;
use super::{Change, PodView, View};
use crate::record::PodFailure;
use crate::time::Moment;

/// Kubernetes' reason, of the pod's status and of the event.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// The failure of a pod whose time is over. Where it is not, there is a look when it will be.
pub fn exceeded(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) -> Option<Change> {
    let limit = pod.template.spec.active_deadline.filter(|_| pod.record.course.failed.is_none())?;
    let left = limit.saturating_sub(age(view, pod));
    if left > Duration::ZERO {
        draft.look(view.now.boot.after(left));
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(Change::Failed(PodFailure { reason: DEADLINE_EXCEEDED.to_owned(), message }))
}

/// Earlier than this program: a clock that shows it has never been set.
const UNSET_BEFORE: jiff::Timestamp = jiff::Timestamp::constant(1_767_225_600, 0);

/// Since the admission. In the boot of the admission by the clock that nobody sets; afterwards only the other one knows, and where
/// that one was never set the pod begins anew with the boot: better too long than ended by a clock that came back from 1970.
fn age(view: &View<'_>, pod: &PodView) -> Duration {
    match pod.record.course.admitted_moment {
        Some(admitted) => view.now.boot.since(admitted),
        None if view.now.wall.min(pod.record.admitted_at) < UNSET_BEFORE => view.now.boot.since(Moment(0)),
        None => Duration::try_from(view.now.wall.duration_since(pod.record.admitted_at)).unwrap_or_default(),
    }
}
