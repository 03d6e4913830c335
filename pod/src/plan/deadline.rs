//! `activeDeadlineSeconds`: a pod that has been here longer has failed, whatever it has achieved.

use std::time::Duration;

use super::draft::Draft;
use super::{Change, PodView, View};
use crate::record::PodFailure;

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

/// Since the admission. In the boot of the admission by the clock that nobody sets; afterwards only the other one knows.
fn age(view: &View<'_>, pod: &PodView) -> Duration {
    match pod.record.course.admitted_moment {
        Some(admitted) => view.now.boot.since(admitted),
        None => Duration::try_from(view.now.wall.duration_since(pod.record.admitted_at)).unwrap_or_default(),
    }
}
