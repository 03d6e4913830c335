//! Containers that carry our labels and that no record speaks of: they end as a terminating pod's do, with a grace period
//! of our own, since their pod's is not known any more.

use std::time::Duration;

use super::draft::{Draft, delete};
use super::{Plan, View, ending, silence};
use crate::observed::{ContainerState, ObservedContainer};
use crate::time::Moment;

/// What a container without a record gets between its stop signal and SIGKILL. Shorter than Kubernetes' 30 s: whatever
/// takes its place waits for its end.
pub const STRAY_GRACE: Duration = Duration::from_secs(10);

/// A container without a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Stray {
    pub container: ObservedContainer,
    /// [`STRAY_GRACE`] after it was first seen.
    pub deadline: Moment,
}

/// What to do about strays now; the pods and what is wanted in `view` do not matter.
pub fn end_strays(view: &View<'_>, strays: &[Stray]) -> Plan {
    let mut draft = Draft::new(view);
    for Stray { container, deadline } in strays {
        let run = &container.run;
        match container.state {
            ContainerState::Running { .. } => ending::stop(&mut draft, view, None, container, *deadline),
            ContainerState::Unanswered => silence::end(&mut draft, view, &run.uid, *deadline),
            ContainerState::NoTask | ContainerState::Created | ContainerState::Exited { .. } => {
                draft.step(delete(&run.uid, &run.container, run.attempt));
            }
        }
    }
    draft.finish()
}
