//! What is left over and has to go: containers without a record, deletions cut short, records of admissions that failed.
//! Repeated until it is gone; a name that a left-over container may still bear is not started meanwhile.

use pod::desired::Wanted;
use pod::name::RunKey;
use pod::observed::{ContainerState, ObservedContainer};
use pod::plan::{Plan, STRAY_GRACE, Step, StepKey, Stray, Waiting, end_strays};
use pod::record::Record;
use pod::time::{Moment, Now};

use super::{LEFTOVERS_MAX, Worker};
use crate::execute::Job;
use crate::seams::{Clock, Machine};

impl<M: Machine> Worker<M> {
    /// A former life of the agent may have been cut short between a run's removal and the closing of its log pipes.
    pub(super) fn resume_deletions(&mut self, record: &Record) {
        for (container, memory) in &record.containers {
            if let Some(last) = &memory.last {
                let attempt = last.attempt;
                let run = RunKey { uid: record.uid.clone(), container: container.clone(), attempt };
                self.deletions.insert(delete_key(&run), run);
            }
        }
    }

    /// Ends containers that no record speaks of; but where it is not known what is wanted, and no pod can take their
    /// place, the record may only be unreadable: what runs stays until the workload's source has been heard.
    pub(super) fn plan_strays(&mut self, planned: &mut Plan, now: Now) {
        if self.is_unknown() || !matches!(self.looked, Some(Ok(()))) {
            // Nobody has asked them to end so far: their time to do so has not begun.
            for stray in &mut self.strays {
                stray.deadline = stray.deadline.max(now.boot.after(STRAY_GRACE));
            }
            return;
        }
        if self.strays.is_empty() {
            return;
        }
        let wanted = self.wanted.borrow();
        let Plan { steps, wake_at, waiting_for } = end_strays(&self.whole(&wanted, now), &self.strays);
        planned.steps.extend(steps);
        planned.waiting_for.extend(waiting_for);
        planned.wake_at = [planned.wake_at, wake_at].into_iter().flatten().min();
    }

    /// Nobody has said what is wanted, and no pod stands for what runs.
    pub(super) fn is_unknown(&self) -> bool {
        self.pods.is_empty() && matches!(*self.wanted.borrow(), Wanted::Hold { .. })
    }

    /// A container without a record, as it is from now on.
    pub(super) fn stray(&self, container: ObservedContainer, known: &[Stray]) -> Stray {
        if let Some(before) = known.iter().find(|stray| stray.container.run == container.run) {
            return Stray { container, deadline: before.deadline };
        }
        tracing::warn!(workload = %self.key, run = %container.run, "a container without a record is to end");
        Stray { container, deadline: self.shared.machine.clock().now().boot.after(STRAY_GRACE) }
    }

    /// Repeats deletions that failed after the container was gone. What is still observed is the plan's to decide.
    pub(super) fn delete_again(&mut self, now: Now) {
        for (key, run) in self.deletions.clone() {
            let strays = self.strays.iter().map(|stray| &stray.container);
            let observed = self.pods.iter().flat_map(|view| &view.containers).chain(strays);
            if !observed.into_iter().any(|c| c.run == run)
                && !self.in_flight.contains(&key)
                && !self.is_waiting(&key, now)
            {
                self.spawn(key, Job::Delete { run, unsaid: None });
            }
        }
    }

    /// A container without a record may still run: no other of its name starts beside it.
    pub(super) fn hold_twins(&self, planned: &mut Plan) {
        let strays = self.strays.iter().map(|stray| &stray.container);
        for stray in strays.filter(|c| !matches!(c.state, ContainerState::Exited { .. })) {
            let twin = |step: &Step| matches!(step, Step::Start { container, .. } if *container == stray.run.container);
            if let Some(Step::Start { uid, container, .. }) = planned.steps.iter().find(|step| twin(step)) {
                planned.waiting_for.push(Waiting {
                    uid: Some(uid.clone()),
                    container: Some(container.clone()),
                    reason: "ContainerCreating".into(),
                    message: format!("waits for the end of {}, a container without a record", stray.run),
                    until: None,
                });
                planned.steps.retain(|step| !twin(step));
            }
        }
    }

    /// Nothing is admitted beside too many traces of admissions that failed.
    pub(super) fn hold_admission(&self, planned: &mut Plan) {
        if self.leftovers.len() < LEFTOVERS_MAX || !planned.steps.contains(&Step::Admit) {
            return;
        }
        planned.steps.retain(|step| *step != Step::Admit);
        let why = |record: &Record| self.failures.get(&StepKey::Forget(record.uid.clone()));
        let failure = self.leftovers.iter().find_map(why);
        let left = "what failed admissions of it left is removed first";
        planned.waiting_for.push(Waiting {
            uid: None,
            container: None,
            reason: failure.map_or_else(|| "Pending".into(), |failure| failure.reason.clone()),
            message: failure.map_or_else(|| left.into(), |failure| format!("{left}: {}", failure.message)),
            until: None,
        });
    }

    pub(super) fn remove_leftovers(&mut self, now: Now) {
        for record in self.leftovers.clone() {
            let key = StepKey::Forget(record.uid.clone());
            if !self.in_flight.contains(&key)
                && !self.in_flight.contains(&StepKey::Admit)
                && !self.in_flight.contains(&StepKey::SetUp(record.uid.clone()))
                && !self.is_waiting(&key, now)
            {
                self.spawn(key, Job::Forget { record: Box::new(record) });
            }
        }
    }

    /// When something that could not be removed, and that no plan speaks of, is tried again. What is in flight ends by
    /// itself.
    pub(super) fn removals_again(&self, now: Now) -> Option<Moment> {
        let leftovers = self.leftovers.iter().map(|record| StepKey::Forget(record.uid.clone()));
        let unreadable = self.unreadable.iter().map(|(record, _)| StepKey::TearDown(record.uid.clone()));
        let keys = leftovers.chain(self.deletions.keys().cloned()).chain(unreadable);
        keys.filter_map(|key| self.failures.get(&key).map(|f| f.not_before)).filter(|moment| *moment > now.boot).min()
    }
}

pub(super) fn delete_key(run: &RunKey) -> StepKey {
    Step::Delete { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt }.key()
}
