//! What a change does to a record: the only place where one is altered after its admission. Driven by the worker,
//! which then writes the record. Lifecycles go forward only, deadlines only shrink, attempts only grow.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::name::WorkloadKind;
use crate::plan::Change;
use crate::received::Received;
use crate::record::{Amounts, ContainerMemory, Lifecycle, Record, Resize, Stopping, Verdict};
use crate::spec::PodTemplate;
use crate::time::{Moment, Now};

/// Kubernetes' least grace period: a deletion never means an instant kill.
pub const GRACE_MIN: Duration = Duration::from_secs(1);
/// What is left for acting on the stop signal when a hook, or the containers that had to end before, have used up the grace
/// period (Kubernetes' minimumGracePeriodInSeconds).
pub const LAST_MOMENT: Duration = Duration::from_secs(2);

/// When SIGKILL follows for a pod whose termination begins at `now` (`terminationGracePeriodSeconds`).
pub fn deadline(template: &PodTemplate, now: Moment) -> Moment {
    deadline_within(template.spec.termination_grace, now)
}

/// The same for a grace period that somebody asked for.
pub fn deadline_within(grace: Duration, now: Moment) -> Moment {
    now.after(grace.max(GRACE_MIN))
}

impl Record {
    /// Applies `change`. Stale changes (an attempt that is known to have ended, a later deadline) alter nothing.
    pub fn remember(&mut self, change: Change, now: Now, boot_id: &str) {
        match change {
            Change::Started { container, attempt } => {
                let memory = self.memory(container);
                if memory.started_attempt < Some(attempt) {
                    memory.started(attempt, now);
                    self.course.begun = true;
                }
            }
            Change::Ended { container, termination, failures, not_before, completed } => {
                let memory = self.containers.entry(container).or_default();
                if memory.next_attempt() <= termination.attempt {
                    // One of which nobody wrote the start down has begun as well.
                    self.course.begun |= memory.started_attempt < Some(termination.attempt);
                    self.course.begun &= !termination.halted;
                    memory.ended_unrecorded(termination.attempt, now);
                    memory.before = memory.last.replace(termination);
                    memory.failures = failures;
                    memory.not_before = not_before;
                    memory.completed |= completed;
                    memory.verdict = None;
                    memory.stopping = None;
                }
            }
            Change::Stopping { container, stopping } => self.memory(container).stop(stopping),
            Change::PostStarted { container, attempt } => {
                let memory = self.memory(container);
                memory.post_started = memory.post_started.max(Some(attempt));
            }
            Change::Verdict { container, attempt, started, ready } => {
                self.memory(container).judged(attempt, (started, ready), now);
            }
            Change::Words { container, attempt, message } => {
                let last = self.memory(container).last.as_mut().filter(|last| last.attempt == attempt);
                if let Some(last) = last.filter(|last| last.message.is_empty()) {
                    last.message = message;
                }
            }
            Change::Renewed => {
                for memory in self.containers.values_mut() {
                    memory.completed = false;
                    memory.started_moment = None;
                }
            }
            Change::Terminating { deadline, reason } => self.terminate(deadline, reason, now),
            Change::Failed(failure) => {
                self.course.failed.get_or_insert(Box::new(failure));
            }
            Change::Finished => {
                if self.lifecycle == Lifecycle::Running {
                    self.lifecycle = Lifecycle::Finished;
                }
            }
            Change::Document { document, origin } => {
                if self.workload.kind == WorkloadKind::Control {
                    self.forgive_other_images(&document);
                }
                self.document = document;
                self.origin = origin;
            }
            Change::Resize { document, origin, revision, from, restarts } => {
                self.document = document;
                self.origin = origin;
                self.revision = revision;
                self.resize(from, restarts, now);
            }
            Change::Resized { number } => {
                if let Some(resize) = self.course.resize.as_mut().filter(|_| self.course.resizes == number) {
                    resize.applied = true;
                }
            }
            Change::NewBoot => self.new_boot(now, boot_id),
        }
        self.settle_resize();
    }

    /// Of a container with another image in `document` no failure is known.
    fn forgive_other_images(&mut self, document: &Received) {
        let (before, after) = (self.document.read(), document.read());
        let (before, after) = (images(&before), images(&after));
        for (container, memory) in &mut self.containers {
            if before.get(container.as_str()) != after.get(container.as_str()) {
                (memory.failures, memory.not_before) = (0, None);
            }
        }
    }

    /// One that comes before the last is over adds to it: what containers have is what they had before both.
    fn resize(&mut self, from: BTreeMap<String, Amounts>, restarts: BTreeMap<String, u32>, now: Now) {
        let fresh = || Resize { since: now.wall, from: BTreeMap::new(), restarts: BTreeMap::new(), applied: false };
        let resize = self.course.resize.get_or_insert_with(|| Box::new(fresh()));
        if resize.applied {
            resize.from.clear();
        }
        for (container, amounts) in from {
            resize.from.entry(container).or_insert(amounts);
        }
        resize.restarts.extend(restarts);
        resize.applied = false;
        self.course.resizes = self.course.resizes.saturating_add(1);
    }

    /// It is over when the cgroups are as they are to be and the runs that were to end have ended.
    fn settle_resize(&mut self) {
        let over = self.course.resize.as_ref().is_some_and(|resize| {
            let ended = |(container, attempt): (&String, &u32)| {
                self.containers
                    .get(container)
                    .is_none_or(|memory| memory.next_attempt() > *attempt || memory.started_attempt < Some(*attempt))
            };
            resize.applied && resize.restarts.iter().all(ended)
        });
        if over {
            self.course.resize = None;
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
        self.course.admitted_moment = None;
        (self.course.evictions, self.course.not_before) = (0, None);
        self.course.begun = false;
        // Whatever is made now is made with what the document says.
        self.course.resize = None;
        self.course.network_since = self.course.network_since.map(|_| now.wall);
        for memory in self.containers.values_mut() {
            memory.started_moment = None;
            memory.failures = 0;
            memory.not_before = None;
            memory.completed = false;
            memory.verdict = None;
            memory.stopping = None;
        }
        if let Lifecycle::Terminating { deadline, .. } = &mut self.lifecycle {
            *deadline = now.boot;
        }
    }
}

/// The images of a pod object's containers, by the containers' names.
fn images(object: &Value) -> BTreeMap<&str, &str> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| object["spec"][list].as_array());
    lists.flatten().filter_map(|it| Some((it["name"].as_str()?, it["image"].as_str()?))).collect()
}

impl ContainerMemory {
    /// The attempt that runs or is to run: one more than the newest that ended. Equals the restart count.
    pub fn next_attempt(&self) -> u32 {
        self.last.as_ref().map_or(0, |last| last.attempt.saturating_add(1))
    }

    /// Of the run that is due; its deadline only shrinks.
    fn stop(&mut self, stopping: Stopping) {
        if self.next_attempt() > stopping.attempt {
            return;
        }
        match &mut self.stopping {
            Some(known) if known.attempt == stopping.attempt => {
                known.deadline = known.deadline.min(stopping.deadline);
            }
            known => *known = Some(stopping),
        }
    }

    /// Of the run that is due.
    fn judged(&mut self, attempt: u32, (started, ready): (bool, bool), now: Now) {
        if self.next_attempt() > attempt {
            return;
        }
        let known = self.verdict.take().filter(|known| known.attempt == attempt && known.ready == ready);
        let since = known.map_or(now.wall, |known| known.since);
        self.verdict = Some(Verdict { attempt, started, ready, since });
    }

    fn started(&mut self, attempt: u32, now: Now) {
        self.started_attempt = Some(attempt);
        self.started_at = Some(now.wall);
        self.started_moment = Some(now.boot);
    }

    /// What ended had been started, even if nobody had come to write it down: at an unknown time before now.
    fn ended_unrecorded(&mut self, attempt: u32, now: Now) {
        if self.started_attempt < Some(attempt) {
            self.started_attempt = Some(attempt);
            self.started_at = None;
            self.started_moment = Some(now.boot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Termination;
    use crate::sample;

    fn at(ms: u64) -> Now {
        let wall = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        Now { boot: Moment(ms), wall: wall.expect("a small number") }
    }

    fn ended(attempt: u32) -> Change {
        let termination = Termination {
            attempt,
            container_id: "id".into(),
            image_id: String::new(),
            exit_code: 1,
            reason: "Error".into(),
            message: String::new(),
            started_at: None,
            finished_at: at(5).wall,
            halted: false,
        };
        Change::Ended {
            container: "a".into(),
            termination,
            failures: attempt + 1,
            not_before: Some(Moment(9)),
            completed: false,
        }
    }

    fn terminating(deadline: u64) -> Change {
        Change::Terminating { deadline: Moment(deadline), reason: "r".into() }
    }

    fn deadline_of(record: &Record) -> Option<Moment> {
        match record.lifecycle {
            Lifecycle::Terminating { deadline, .. } => Some(deadline),
            Lifecycle::Running | Lifecycle::Finished => None,
        }
    }

    #[test]
    fn deadline_only_shrinks_and_nothing_comes_back_to_life() {
        let mut record = sample::record("u");
        for (deadline, expected) in [(50, 50), (60, 50), (40, 40)] {
            record.remember(terminating(deadline), at(1), "boot");
            assert_eq!(deadline_of(&record), Some(Moment(expected)));
        }
        record.remember(Change::Finished, at(1), "boot");
        assert_eq!(deadline_of(&record), Some(Moment(40)));
    }

    #[test]
    fn grace_is_at_least_a_second() {
        let mut template = sample::template(&["a"]);
        template.spec.termination_grace = Duration::ZERO;
        assert_eq!(deadline(&template, Moment(10)), Moment(1_010));
        template.spec.termination_grace = Duration::MAX;
        assert_eq!(deadline(&template, Moment(10)), Moment(u64::MAX));
    }

    #[test]
    fn stale_changes_alter_nothing() {
        let mut record = sample::record("u");
        record.remember(Change::Started { container: "a".into(), attempt: 1 }, at(3), "boot");
        record.remember(ended(1), at(5), "boot");
        let before = record.clone();
        record.remember(ended(0), at(6), "boot");
        record.remember(ended(1), at(6), "boot");
        record.remember(Change::Started { container: "a".into(), attempt: 1 }, at(6), "boot");
        assert_eq!(record, before);
        assert_eq!(record.containers["a"].next_attempt(), 2);
    }

    #[test]
    fn a_pod_has_begun_until_the_node_stands_still_or_boots_whatever_becomes_of_its_surroundings() {
        let mut record = sample::record("u");
        let started = |attempt| Change::Started { container: "a".into(), attempt };
        let halted = |attempt| match ended(attempt) {
            Change::Ended { container, termination, failures, not_before, completed } => {
                let termination = Termination { halted: true, ..termination };
                Change::Ended { container, termination, failures, not_before, completed }
            }
            other => other,
        };
        for (change, begun) in [
            (started(0), true),
            (ended(0), true),
            (Change::Renewed, true),
            (started(1), true),
            (halted(1), false),
            (ended(1), false),
            (started(1), false),
            (ended(2), true),
            (Change::NewBoot, false),
        ] {
            record.remember(change.clone(), at(7), "boot");
            assert_eq!(record.course.begun, begun, "after {change:?}");
        }
    }

    #[test]
    fn run_that_ended_had_been_started() {
        let mut record = sample::record("u");
        record.remember(ended(0), at(5), "boot");
        let memory = &record.containers["a"];
        assert_eq!((memory.started_attempt, memory.started_at), (Some(0), None));
    }

    #[test]
    fn another_boot_voids_moments_and_keeps_counts() {
        let mut record = sample::record("u");
        record.remember(ended(3), at(5), "boot");
        record.remember(terminating(50_000), at(6), "boot");
        record.remember(Change::NewBoot, at(1), "next");
        let memory = &record.containers["a"];
        assert_eq!((memory.failures, memory.not_before, memory.started_moment), (0, None, None));
        assert_eq!((memory.next_attempt(), record.boot_id.as_str()), (4, "next"));
        assert_eq!(deadline_of(&record), Some(Moment(1)));
    }
}
