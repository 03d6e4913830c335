//! What is left over and has to go: containers without a record, deletions cut short, records of admissions that failed.
//! Repeated until it is gone; a name that a left-over container may still bear is not started meanwhile.

use pod::desired::Wanted;
use pod::name::RunKey;
use pod::observed::ContainerState;
use pod::plan::{Plan, Step, StepKey, Waiting};
use pod::record::Record;
use pod::time::{Moment, Now};

use super::{LEFTOVERS_MAX, Worker};
use crate::execute::Job;
use crate::seams::Machine;

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
    pub(super) fn remove_strays(&mut self, now: Now) {
        if self.pods.is_empty() && matches!(*self.wanted.borrow(), Wanted::Hold { .. }) {
            return;
        }
        for run in self.strays.iter().map(|stray| stray.run.clone()).collect::<Vec<_>>() {
            let key = delete_key(&run);
            if !self.in_flight.contains(&key) && !self.is_waiting(&key, now) {
                tracing::warn!(workload = %self.key, %run, "a container without a record is removed");
                self.spawn(key, Job::Delete { run });
            }
        }
    }

    /// Repeats deletions that failed after the container was gone. What is still observed is the plan's to decide.
    pub(super) fn delete_again(&mut self, now: Now) {
        for (key, run) in self.deletions.clone() {
            let observed = self.pods.iter().flat_map(|view| &view.containers).chain(&self.strays);
            if !observed.into_iter().any(|c| c.run == run)
                && !self.in_flight.contains(&key)
                && !self.is_waiting(&key, now)
            {
                self.spawn(key, Job::Delete { run });
            }
        }
    }

    /// A container without a record may still run: no other of its name starts beside it.
    pub(super) fn hold_twins(&self, planned: &mut Plan) {
        for stray in self.strays.iter().filter(|c| !matches!(c.state, ContainerState::Exited { .. })) {
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
        let strays = self.strays.iter().map(|stray| delete_key(&stray.run));
        let keys = leftovers.chain(strays).chain(self.deletions.keys().cloned());
        keys.filter_map(|key| self.failures.get(&key).map(|f| f.not_before)).filter(|moment| *moment > now.boot).min()
    }
}

pub(super) fn delete_key(run: &RunKey) -> StepKey {
    Step::Delete { uid: run.uid.clone(), container: run.container.clone(), attempt: run.attempt }.key()
}
