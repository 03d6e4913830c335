//! Writing records, and going on where the disk does not take one: the change is acted on and owed, and written as soon as
//! any write of this node succeeds. What may not be done before it is durable is the plan's to know.

use std::time::Duration;

use pod::backoff;
use pod::lifecycle::{GRACE_MIN, deadline};
use pod::name::{RunKey, Uid, WorkloadKind};
use pod::observed::ImageState;
use pod::plan::{Change, Owed, RunStep, StepKey};
use pod::record::{ContainerMemory, Lifecycle, PodFailure, Record, Termination};
use pod::spec::{Container, PodTemplate};
use pod::storage::EVICTED;
use pod::time::{Moment, Now};

use super::Worker;
use super::removal::delete_key;
use crate::events::Severity;
use crate::execute::Job;
use crate::seams::{Machine, Sandboxes, StepError};

/// A write that has not ended after this long hangs: its pod goes on. Far longer than a busy disk takes.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// How many runs back log pipes are closed that a former life of the agent may have left: the newest are the likely ones.
const UNSEEN_MAX: u32 = 8;

/// A record on its way to the disk. At most one a pod: two would overwrite each other.
#[derive(Debug)]
pub(super) struct Saving {
    begun: Moment,
    /// None: the view has it already.
    record: Option<Box<Record>>,
}

/// The view's record is newer than the disk's.
#[derive(Debug, Default)]
pub(super) struct Debt {
    /// Failures in a row.
    count: u32,
    not_before: Moment,
}

impl<M: Machine> Worker<M> {
    /// Changes a pod's record: on disk first, in the view then; where the disk owes already, in the view at once.
    pub(super) fn remember(&mut self, uid: &Uid, mut change: Change, now: Now) {
        let Some(view) = self.view(uid) else { return };
        let mut record = view.record.clone();
        if let Change::Ended { container, termination, .. } = &mut change {
            let attempt = termination.attempt;
            let run = RunKey { uid: uid.clone(), container: container.clone(), attempt };
            if let Some(said) = self.shared.machine.sandboxes().last_words(&run) {
                termination.message = said;
            }
            // It ended before its start was on record.
            let told = self.starts.get(&run).map(|at| at.wall.min(termination.finished_at));
            termination.started_at = termination.started_at.or(told);
        }
        if let Change::Started { container, attempt }
        | Change::Ended { container, termination: Termination { attempt, .. }, .. } = &change
        {
            self.starts.remove(&RunKey { uid: uid.clone(), container: container.clone(), attempt: *attempt });
        }
        if let Change::Words { container, attempt, .. } = &change {
            let (container, attempt) = (container.clone(), *attempt);
            self.last_lines.remove(&RunKey { uid: uid.clone(), container, attempt });
        }
        self.tell_change(&record, &change, now);
        if let Change::Ended { container, termination, .. } = &change {
            self.close_unseen(&record, container, termination.attempt);
        }
        record.remember(change, now, self.shared.machine.boot_id());
        if !self.debts.contains_key(uid) {
            self.in_flight.insert(StepKey::Remember(uid.clone()));
            self.save(record, now);
        } else if self.view(uid).is_some_and(|view| view.record != record) {
            self.take(record);
            // What follows from it is planned at once.
            self.nudge.again();
        }
    }

    fn save(&mut self, record: Record, now: Now) {
        let key = StepKey::Remember(record.uid.clone());
        let waits = self.in_flight.contains(&key).then(|| Box::new(record.clone()));
        self.saving.insert(record.uid.clone(), Saving { begun: now.boot, record: waits });
        self.spawn_job(key, Job::Save { record: Box::new(record) });
    }

    /// Writes what is owed and due.
    pub(super) fn pay_debts(&mut self, now: Now) {
        if !self.debts.is_empty() && self.disk_taken.has_changed().unwrap_or(false) {
            self.disk_taken.mark_unchanged();
            self.debts.values_mut().for_each(|debt| debt.not_before = Moment(0));
        }
        let due = |uid: &&Uid| {
            let busy = self.saving.contains_key(*uid) || self.in_flight.contains(&StepKey::Forget((*uid).clone()));
            !busy && self.debts[*uid].not_before <= now.boot
        };
        for uid in self.debts.keys().filter(due).cloned().collect::<Vec<_>>() {
            match self.view(&uid).map(|view| view.record.clone()) {
                Some(record) => self.save(record, now),
                None => {
                    self.debts.remove(&uid);
                }
            }
        }
    }

    /// Goes on without the writes that hang.
    pub(super) fn lose_patience(&mut self, now: Now) {
        let hangs = |saving: &Saving| saving.record.is_some() && now.boot >= saving.begun.after(WRITE_PATIENCE);
        let hanging: Vec<Uid> =
            self.saving.iter().filter(|(_, saving)| hangs(saving)).map(|(uid, _)| uid.clone()).collect();
        for uid in hanging {
            self.owe(&uid, "the disk of the state directory does not answer: check it", now);
        }
    }

    /// When something is to be done about what is owed.
    pub(super) fn debts_again(&self, stopping: bool) -> Option<Moment> {
        let hanging = self.saving.values().filter(|saving| saving.record.is_some());
        // An agent that stops begins no write any more.
        let forgets = |uid: &Uid| self.in_flight.contains(&StepKey::Forget(uid.clone()));
        let owed = self.debts.iter().filter(|(uid, _)| !stopping && !self.saving.contains_key(uid) && !forgets(uid));
        hanging.map(|saving| saving.begun.after(WRITE_PATIENCE)).chain(owed.map(|(_, debt)| debt.not_before)).min()
    }

    /// The disk has it.
    pub(super) fn saved(&mut self, record: Record) {
        let uid = record.uid.clone();
        if let Some(waiting) = self.saving.remove(&uid).and_then(|saving| saving.record) {
            self.take(*waiting);
        }
        let newest = self.view(&uid).is_none_or(|view| view.record == record);
        match self.debts.get_mut(&uid) {
            None => {}
            Some(debt) if !newest => *debt = Debt::default(),
            Some(_) => {
                self.debts.remove(&uid);
                self.tell(&uid, None, Severity::Normal, "RecordWritten", "The disk has the pod's record again");
                tracing::info!(workload = %self.key, %uid, "the record that was owed is written");
                if let Some(view) = self.view_mut(&uid) {
                    view.owed = None;
                }
            }
        }
    }

    /// The disk does not take it.
    pub(super) fn not_saved(&mut self, uid: &Uid, error: &StepError, now: Now) {
        self.owe(uid, &error.message, now);
        self.saving.remove(uid);
        if let Some(debt) = self.debts.get_mut(uid) {
            debt.count = debt.count.saturating_add(1);
            debt.not_before = now.boot.after(backoff::owed(debt.count));
        }
    }

    fn owe(&mut self, uid: &Uid, why: &str, now: Now) {
        self.in_flight.remove(&StepKey::Remember(uid.clone()));
        if let Some(waiting) = self.saving.get_mut(uid).and_then(|saving| saving.record.take()) {
            self.take(*waiting);
        }
        if self.view(uid).is_none() {
            return;
        }
        if !self.debts.contains_key(uid) {
            self.disk_taken.mark_unchanged();
            self.debts.insert(uid.clone(), Debt::default());
            tracing::error!(workload = %self.key, %uid, why, "a record is owed: its pod goes on without");
            let message = format!("The pod goes on, what changes is not on disk: {why}");
            self.tell(uid, None, Severity::Warning, "RecordOwed", &message);
        }
        if let Some(view) = self.view_mut(uid) {
            let since = view.owed.as_ref().map_or(now.wall, |owed| owed.since);
            view.owed = Some(Owed { since, message: why.to_owned() });
        }
    }

    /// Puts a record into the view.
    fn take(&mut self, mut record: Record) {
        // Noted while it was on its way to the disk.
        if let Some(view) = self.view(&record.uid).filter(|view| view.record.boot_id == record.boot_id) {
            record.course.network_since = view.record.course.network_since;
        }
        self.shared.directory.claim(&record);
        let reread = self.view(&record.uid).filter(|v| v.record.document != record.document).map(|_| {
            // Labels or annotations changed: what runs is the same, its status is not.
            record.read_back(&self.shared.context)
        });
        self.count_start(&record);
        if record.course.resize.is_none() {
            self.resized.remove(&record.uid);
        }
        if self.view(&record.uid).is_some_and(|view| view.record.course.resizes != record.course.resizes) {
            // What refused the amounts before says nothing of these.
            let key = StepKey::Resize(record.uid.clone());
            self.failures.remove(&key);
            if self.in_flight.contains(&key) {
                self.stale.insert(key);
            }
        }
        let uid = record.uid.clone();
        let mut others = Vec::new();
        if let Some(view) = self.view_mut(&uid) {
            if let Some(Ok(desired)) = reread {
                others = with_other_image(&view.template, &desired.template);
                view.template = desired.template;
            }
            view.record = record;
        }
        others.into_iter().for_each(|container| self.forget_image_of(&uid, container));
    }

    /// The container has another image now: what is known of the former says nothing of it.
    fn forget_image_of(&mut self, uid: &Uid, container: String) {
        if let Some(view) = self.view_mut(uid) {
            view.images.insert(container.clone(), ImageState::Unknown);
        }
        self.failures.retain(|key, _| match key {
            StepKey::PrepareImage(of, name) | StepKey::Run(of, name, _, RunStep::Create) => {
                (of, name) != (uid, &container)
            }
            _ => true,
        });
        let key = StepKey::PrepareImage(uid.clone(), container);
        if self.in_flight.contains(&key) {
            // It is given up.
            self.waits.remove(&key);
            self.stale.insert(key);
        }
    }

    /// Runs up to `ended` that are gone and of which the record does not know: whoever removed them may not have come to
    /// close their log pipes.
    fn close_unseen(&mut self, record: &Record, container: &str, ended: u32) {
        let due = record.remembered(container).map_or(0, ContainerMemory::next_attempt);
        for attempt in due.max(ended.saturating_sub(UNSEEN_MAX))..=ended {
            let run = RunKey { uid: record.uid.clone(), container: container.to_owned(), attempt };
            if !self.view(&run.uid).is_some_and(|view| view.containers.iter().any(|c| c.run == run)) {
                self.deletions.insert(delete_key(&run), run);
            }
        }
    }

    /// Begins the end of pods that exceed their own limits, with the least grace (the kubelet's for such pods).
    pub(super) fn evict(&mut self, now: Now) {
        for (uid, message) in std::mem::take(&mut self.evictions) {
            let Some(view) = self.view(&uid).filter(|view| view.record.lifecycle == Lifecycle::Running) else {
                continue;
            };
            if self.in_flight.contains(&StepKey::Remember(view.record.uid.clone())) {
                self.evictions.insert(uid, message);
                continue;
            }
            self.tell(&uid, None, Severity::Warning, EVICTED, &message);
            let change = match self.key.kind {
                WorkloadKind::Pod | WorkloadKind::DaemonSet => {
                    Change::Terminating { deadline: now.boot.after(GRACE_MIN), reason: EVICTED.into() }
                }
                // Its object has failed: a new one is the endpoint's to make.
                WorkloadKind::Control => Change::Failed(PodFailure { reason: EVICTED.into(), message }),
            };
            self.remember(&uid, change, now);
        }
    }

    /// Begins the end of pods that a person wants ended, and answers those whose end is on record, or would be.
    pub(super) fn grant_wishes(&mut self, now: Now) {
        for (uid, reply) in std::mem::take(&mut self.wishes) {
            let Some(view) = self.view(&uid) else {
                let _ = reply.send(Err(format!("the pod with uid {uid} is gone already")));
                continue;
            };
            if matches!(view.record.lifecycle, Lifecycle::Terminating { .. }) {
                let _ = reply.send(Ok(view.owed.as_ref().map(|owed| deletion_note(&owed.message)).unwrap_or_default()));
                continue;
            }
            if !self.in_flight.contains(&StepKey::Remember(uid.clone())) {
                let deadline = deadline(&view.template, now.boot);
                self.remember(&uid, Change::Terminating { deadline, reason: "Deleted".into() }, now);
            }
            self.wishes.push((uid, reply));
        }
    }
}

/// Containers that have another image.
fn with_other_image(before: &PodTemplate, after: &PodTemplate) -> Vec<String> {
    let other = |it: &&Container| before.spec.container(&it.name).is_some_and(|known| known.image != it.image);
    after.spec.containers.iter().filter(other).map(|it| it.name.clone()).collect()
}

fn deletion_note(why: &str) -> String {
    format!(
        "it ends now, but the disk did not take that: if the agent ends before the disk does, the pod comes back ({why})"
    )
}
