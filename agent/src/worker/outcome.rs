//! What a step that ended makes of the worker's view: its effect where it succeeded, a back-off where it failed.

use std::sync::Arc;
use std::time::Duration;

use pod::backoff;
use pod::name::{RunKey, Uid};
use pod::observed::{ContainerState, ImageState, ObservedContainer, SandboxState, is_no_time};
use pod::plan::{Change, Failure, Hook, HookEnd, Step, StepKey, exit_reason};
use pod::record::{Lifecycle, Record, Termination};
use pod::spec::PullPolicy;
use pod::time::Now;

use super::removal::delete_key;
use super::tell::event_reason;
use super::{UNAVAILABLE_RETRY, Worker, new_view, step_uid};
use crate::events::Severity;
use crate::execute::Outcome;
use crate::seams::{Clock, Machine, Prepared, StepError, Warned};

/// What only waits is woken when its wait is over; this is for a wake that was lost.
const WAITING_RETRY: Duration = Duration::from_secs(60);

impl<M: Machine> Worker<M> {
    /// Takes a step's end into the view.
    pub(super) fn finish(&mut self, key: StepKey, result: Result<Outcome, StepError>) {
        self.in_flight.remove(&key);
        let awaited = self.waits.remove(&key).is_some();
        let now = self.shared.machine.clock().now();
        match result {
            Ok(outcome) => {
                self.failures.remove(&key);
                self.stale.remove(&key);
                match outcome {
                    // It was given up as it ended: of an image that is not asked for any more.
                    Outcome::ImageReady { .. } if !awaited => {}
                    outcome => self.succeed(outcome),
                }
            }
            Err(error) => match key {
                StepKey::Remember(uid) => self.not_saved(&uid, &error, now),
                key => self.fail(key, error, now),
            },
        }
    }

    pub(super) fn succeed(&mut self, outcome: Outcome) {
        // What is noted in the view's record alone goes to the disk with the pod's next change.
        let now = self.shared.machine.clock().now().wall;
        match outcome {
            Outcome::Admitted { wanted, record } => {
                tracing::info!(workload = %self.key, pod = record.name, uid = %record.uid, revision = record.revision,
                    "pod admitted");
                self.leftovers.retain(|r| r.uid != record.uid);
                self.owner = wanted.object.as_ref().and_then(|object| object.owner.clone());
                // One pod is the rule.
                self.pods.reserve_exact(1);
                let uid = record.uid.clone();
                self.pods.push(new_view(*record, *wanted));
                self.take_ahead(&uid);
            }
            Outcome::Ahead(ahead) => self.made_ahead(ahead),
            Outcome::Saved { record } => self.saved(*record),
            Outcome::ImageReady { uid, container, prepared } => {
                self.image_ready(&uid, &container, prepared);
                if let Some(view) = self.view_mut(&uid) {
                    view.images.insert(container, ImageState::Ready);
                }
            }
            Outcome::GivenUp => {}
            Outcome::Hooked { run, hook, failed } => self.hooked(&run, hook, failed),
            Outcome::Filled { uid } => self.filled(&uid),
            Outcome::SetUp { uid, warned } => {
                self.filled(&uid);
                for Warned { reason, message } in warned {
                    self.tell(&uid, None, Severity::Warning, reason, &message);
                }
                if let Some(view) = self.view_mut(&uid) {
                    view.sandbox = SandboxState::Made;
                    if view.template.spec.host_network {
                        view.record.course.network_since = Some(now);
                        // Its addresses are the node's, which a look at the node alone tells.
                        self.inspect_again = true;
                    }
                }
            }
            Outcome::Connected { uid, ips } => {
                if let Some(view) = self.view_mut(&uid) {
                    view.record.course.network_since = Some(now);
                    view.sandbox = SandboxState::Connected { ips };
                }
            }
            Outcome::Created { run, created, not_refreshed } => {
                self.tell(&run.uid, Some(&run.container), Severity::Normal, "Created", "Created container");
                let (key, of) = (self.key.clone(), run.container.clone());
                if let Some(view) = self.view_mut(&run.uid) {
                    match view.containers.iter_mut().find(|c| c.run == run) {
                        Some(known) if known.state == ContainerState::NoTask => known.state = ContainerState::Created,
                        Some(_) => {}
                        None => view.containers.push(ObservedContainer {
                            id: run.container_id(),
                            workload: key,
                            run,
                            image_id: created.image_id,
                            adapted: created.adapted,
                            not_refreshed,
                            image: created.image,
                            user: created.user,
                            state: ContainerState::Created,
                        }),
                    }
                    // As in Kubernetes the registry is asked again before each creation.
                    let template = Arc::clone(&view.template);
                    let container = template.spec.container(&of);
                    if let Some(container) = container.filter(|container| container.pull_policy == PullPolicy::Always) {
                        view.images.insert(container.name.clone(), ImageState::Unknown);
                    }
                }
            }
            Outcome::Resized { uid, number } => {
                self.resized.insert(uid, number);
            }
            Outcome::Started { run, pid } => self.started(&run, pid),
            Outcome::Signalled { run, signal } => {
                let step = Step::Signal { uid: run.uid, container: run.container, attempt: run.attempt, signal };
                let now = self.shared.machine.clock().now().boot;
                let before = self.delivered.get(&step.key()).copied().unwrap_or_default();
                self.delivered.insert(step.key(), before.again(now));
            }
            Outcome::Deleted { run, last_lines } => {
                self.note_last_end(&run);
                self.last_lines.retain(|known, _| (&known.uid, &known.container) != (&run.uid, &run.container));
                if let Some(lines) = last_lines {
                    self.last_lines.insert(run.clone(), lines);
                }
                self.shared.directory.disown(&run.container_id());
                self.deletions.remove(&delete_key(&run));
                self.forget_contents_of(&run);
                self.strays.retain(|stray| stray.container.run != run);
                self.delivered.retain(|key, _| !is_of_run(key, &run));
                self.starts.remove(&run);
                self.hooks.retain(|key, _| !is_of_run(key, &run));
                self.health.remove(&run);
                self.failures.retain(|key, _| !is_of_run(key, &run));
                if let Some(view) = self.view_mut(&run.uid) {
                    view.containers.retain(|c| c.run != run);
                }
            }
            Outcome::ShimEnd { uid, end } => self.shim_ended(uid, end),
            Outcome::TornDown { uid } => {
                self.forget_files_of(&uid);
                if let Some(view) = self.view_mut(&uid) {
                    let since = &mut view.record.course.network_since;
                    *since = since.map(|_| now);
                    view.sandbox = SandboxState::Absent;
                }
                self.given_back(&uid);
            }
            Outcome::Forgotten { uid } => {
                self.pods.retain(|v| v.record.uid != uid);
                self.leftovers.retain(|r| r.uid != uid);
                self.debts.remove(&uid);
                self.resized.remove(&uid);
                self.failures.retain(|key, _| step_uid(key) != Some(&uid));
                self.not_refreshed.retain(|(of, _), _| *of != uid);
                self.silent.remove(&uid);
                self.starts.retain(|run, _| run.uid != uid);
                self.last_lines.retain(|run, _| run.uid != uid);
                self.forget_files_of(&uid);
                self.shared.directory.unclaim(&uid);
                tracing::info!(workload = %self.key, %uid, "pod gone");
            }
        }
    }

    pub(super) fn started(&mut self, run: &RunKey, pid: u32) {
        self.tell(&run.uid, Some(&run.container), Severity::Normal, "Started", "Started container");
        tracing::info!(workload = %self.key, container = run.container, attempt = run.attempt, pid, "container started");
        // What was seen meanwhile is newer: a run that has ended already stays ended.
        if let Some(view) = self.view_mut(&run.uid)
            && let Some(known) = view.containers.iter_mut().find(|c| c.run == *run)
            && known.state == ContainerState::Created
        {
            known.state = ContainerState::Running { pid };
            let last = view.record.remembered(&run.container).and_then(|memory| memory.last.as_ref());
            if let Some(reason) = last.map(|last| last.reason.clone()) {
                self.shared.board.metrics().container_restarted(&reason);
            }
        }
    }

    /// How a run of a pod that ends has ended, for who looks at the pod until it is gone. The plan writes such an end down only
    /// where others of the pod still run.
    fn note_last_end(&mut self, run: &RunKey) {
        let Some(view) = self.view(&run.uid) else { return };
        let Some(known) = view.containers.iter().find(|known| known.run == *run) else { return };
        let memory = view.record.remembered(&run.container);
        let noted = memory.is_none_or(|it| it.next_attempt() > run.attempt || it.started_attempt < Some(run.attempt));
        let ContainerState::Exited { exit_code, oom, finished_at } = known.state else { return };
        if noted || !matches!(view.record.lifecycle, Lifecycle::Terminating { .. }) {
            return;
        }
        let now = self.shared.machine.clock().now();
        let termination = Termination {
            attempt: run.attempt,
            container_id: known.id.clone(),
            image_id: known.image_id.clone(),
            exit_code,
            reason: exit_reason(exit_code, oom).into(),
            message: String::new(),
            started_at: memory.and_then(|it| it.started_at),
            finished_at: if is_no_time(finished_at) { now.wall } else { finished_at },
            halted: false,
        };
        let failures = memory.map_or(0, |it| it.failures);
        let container = run.container.clone();
        let ended = Change::Ended { container, termination, failures, not_before: None, completed: false };
        let boot_id = self.shared.machine.boot_id().to_owned();
        if let Some(view) = self.view_mut(&run.uid) {
            view.record.remember(ended, now, &boot_id);
        }
    }

    /// A hook is over; one that failed is told, and what follows from it is the plan's to know.
    fn hooked(&mut self, run: &RunKey, hook: Hook, failed: Option<String>) {
        if let Some(why) = &failed {
            let (reason, name) = match hook {
                Hook::PostStart => ("FailedPostStartHook", "PostStartHook"),
                Hook::PreStop => ("FailedPreStopHook", "PreStopHook"),
            };
            self.tell(&run.uid, Some(&run.container), Severity::Warning, reason, &format!("{name} failed: {why}"));
            tracing::warn!(workload = %self.key, container = run.container, attempt = run.attempt, reason, why, "hook failed");
        }
        let (uid, container, attempt) = (run.uid.clone(), run.container.clone(), run.attempt);
        self.hooks.insert(Step::Hook { uid, container, attempt, hook }.key(), HookEnd { failed });
    }

    /// Whether the image is fresh is told once a pod and container, however often it is looked for.
    pub(super) fn image_ready(&mut self, uid: &Uid, container: &str, prepared: Prepared) {
        let of = (uid.clone(), container.to_owned());
        match prepared {
            Prepared::AsAsked => {
                self.not_refreshed.remove(&of);
            }
            Prepared::Pulled { message } => {
                self.not_refreshed.remove(&of);
                self.tell_exactly(uid, Some(container), Severity::Normal, "Pulled", message);
            }
            Prepared::NotRefreshed { message } => {
                let known = self.not_refreshed.insert(of, message.clone()).is_some();
                // A later run of a pod that was adopted: it was told when the pod was new.
                let ran = self.view(uid).is_some_and(|view| view.record.containers.contains_key(container));
                if !known && !ran {
                    self.tell(uid, Some(container), Severity::Warning, "ImageNotRefreshed", &message);
                }
            }
        }
    }

    /// The moment in which the last of a pod's containers has its first start on record.
    pub(super) fn count_start(&self, record: &Record) {
        let Some(view) = self.view(&record.uid) else { return };
        let complete = |record: &Record| {
            let started =
                |name: &str| record.containers.get(name).is_some_and(|memory| memory.started_attempt.is_some());
            view.template.spec.containers.iter().all(|container| started(&container.name))
        };
        if complete(record) && !complete(&view.record) {
            let last = record.containers.values().filter_map(|memory| memory.started_at).max();
            let took = last.map(|at| Duration::try_from(at.duration_since(record.admitted_at)).unwrap_or_default());
            self.shared.board.metrics().pod_started(took.unwrap_or_default());
        }
    }

    pub(super) fn fail(&mut self, key: StepKey, error: StepError, now: Now) {
        if !error.is_waiting() {
            // What is there now is not what was thought.
            self.looked = None;
        }
        let count = match (&error.unavailable, self.failures.get(&key)) {
            (true, Some(before)) => before.count,
            (true, None) => 0,
            (false, before) => before.map_or(0, |f| f.count).saturating_add(1),
        };
        let wait = match error.wait {
            // An image came while this looked for it, perhaps too early: nobody wakes it again.
            _ if self.stale.remove(&key) => Duration::ZERO,
            Some(wait) => wait,
            None if error.is_waiting() => WAITING_RETRY,
            None if error.unavailable => UNAVAILABLE_RETRY,
            None => backoff::step(&key, count),
        };
        if let StepKey::PrepareImage(uid, container) = &key {
            let state = ImageState::Missing { reason: error.reason.into(), message: error.message.clone() };
            if let Some(view) = self.view_mut(uid) {
                view.images.insert(container.clone(), state);
            }
        }
        if let StepKey::Run(uid, container, _, pod::plan::RunStep::Create) = &key
            && let Some(view) = self.view_mut(uid)
        {
            // Perhaps it failed because the image went away.
            view.images.insert(container.clone(), ImageState::Unknown);
        }
        if error.is_waiting() {
            tracing::info!(workload = %self.key, step = ?key, message = error.message, "step waits");
        } else {
            tracing::warn!(workload = %self.key, step = ?key, reason = error.reason, message = error.message, count,
                "step failed");
        }
        match &key {
            _ if error.is_waiting() => {}
            StepKey::PrepareImage(uid, container) => self.tell_image_failure(uid, container, &error),
            _ => {
                if let Some(uid) = step_uid(&key) {
                    let container = step_container(&key);
                    self.tell(uid, container, Severity::Warning, event_reason(error.reason), &error.message);
                }
            }
        }
        let failure =
            Failure { count, not_before: now.boot.after(wait), reason: error.reason.into(), message: error.message };
        self.failures.insert(key, failure);
    }
}

fn is_of_run(key: &StepKey, run: &RunKey) -> bool {
    matches!(key, StepKey::Run(uid, container, attempt, _) if (uid, container, *attempt) == (&run.uid, &run.container, run.attempt))
}

fn step_container(key: &StepKey) -> Option<&str> {
    match key {
        StepKey::PrepareImage(_, container) | StepKey::Run(_, container, ..) => Some(container),
        _ => None,
    }
}
