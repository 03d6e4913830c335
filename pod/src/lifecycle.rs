//! What a change does to a record: the only place where one is altered after its admission. Driven by the worker,
//! which then writes the record. Lifecycles go forward only, deadlines only shrink, attempts only grow.

use std::time::Duration;

use crate::plan::Change;
use crate::record::{ContainerMemory, Lifecycle, Record};
use crate::spec::PodTemplate;
use crate::time::{Moment, Now};

/// Kubernetes' least grace period: a deletion never means an instant kill.
pub const GRACE_MIN: Duration = Duration::from_secs(1);

/// When SIGKILL follows for a pod whose termination begins at `now` (`terminationGracePeriodSeconds`).
pub fn deadline(template: &PodTemplate, now: Moment) -> Moment {
    now.after(template.spec.termination_grace.max(GRACE_MIN))
}

impl Record {
    /// Applies `change`. Stale changes (an attempt that is known to have ended, a later deadline) alter nothing.
    pub fn remember(&mut self, change: Change, now: Now, boot_id: &str) {
        match change {
            Change::Started { container, attempt } => self.memory(container).started(attempt, now),
            Change::Ended { container, termination, failures, not_before } => {
                let memory = self.memory(container);
                if memory.next_attempt() <= termination.attempt {
                    memory.last = Some(termination);
                    memory.failures = failures;
                    memory.not_before = not_before;
                }
            }
            Change::Terminating { deadline, reason } => self.terminate(deadline, reason, now),
            Change::Finished => {
                if self.lifecycle == Lifecycle::Running {
                    self.lifecycle = Lifecycle::Finished;
                }
            }
            Change::Document { document, origin } => {
                self.document = document;
                self.origin = origin;
            }
            Change::NewBoot => self.new_boot(now, boot_id),
        }
    }

    fn memory(&mut self, container: String) -> &mut ContainerMemory {
        self.containers.entry(container).or_default()
    }

    fn terminate(&mut self, sooner: Moment, new_reason: String, now: Now) {
        match &mut self.lifecycle {
            Lifecycle::Terminating { deadline, .. } => *deadline = sooner.min(*deadline),
            Lifecycle::Running | Lifecycle::Finished => {
                self.lifecycle = Lifecycle::Terminating { since: now.wall, deadline: sooner, reason: new_reason };
            }
        }
    }

    /// Moments of another boot mean nothing. No process has outlived it, so nothing is left to be patient with.
    fn new_boot(&mut self, now: Now, boot_id: &str) {
        boot_id.clone_into(&mut self.boot_id);
        for memory in self.containers.values_mut() {
            memory.started_moment = None;
            memory.failures = 0;
            memory.not_before = None;
        }
        if let Lifecycle::Terminating { deadline, .. } = &mut self.lifecycle {
            *deadline = now.boot;
        }
    }
}

impl ContainerMemory {
    /// The attempt that runs or is to run: one more than the newest that ended. Equals the restart count.
    pub fn next_attempt(&self) -> u32 {
        self.last.as_ref().map_or(0, |last| last.attempt.saturating_add(1))
    }

    fn started(&mut self, attempt: u32, now: Now) {
        if self.started_attempt < Some(attempt) {
            self.started_attempt = Some(attempt);
            self.started_at = Some(now.wall);
            self.started_moment = Some(now.boot);
        }
    }
}
