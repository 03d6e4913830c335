//! The runs of one container: the one that is due is created ahead and started in its turn; what ended is remembered
//! before anything else happens to it, and removed when its successor stands.

use std::time::Duration;

use super::draft::{Draft, container_wait, delete, kill};
use super::pod::remember;
use super::roles::{another_runs, connected};
use super::{Change, Hook, PodView, RunStep, Step, StepKey, View, Waiting, ending, order, resize};
use crate::backoff;
use crate::lifecycle;
use crate::name::RunKey;
use crate::observed::{ContainerState, ImageState, ObservedContainer, ProbeKind, SandboxState, is_no_time};
use crate::record::{ContainerMemory, Record, Stopping, Termination};
use crate::spec::{Container, EnvValue, PodField, RestartPolicy, Role};
use crate::time::Moment;
use crate::turns::WAITS_FOR_OTHERS;

/// Why a run is ended whose postStart hook failed.
pub const FAILED_HOOK: &str = "failed postStart hook";
/// Why a run is ended whose container has another image now.
pub const OTHER_IMAGE: &str = "definition changed";

/// How far the containers of a pod are brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Created,
    Started,
}

/// What an observed container is, in the light of what is remembered.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    Runs,
    /// Nobody says how it stands.
    Silent,
    /// Created and not started.
    Waits,
    /// It ran and ended, and that is not remembered yet.
    Ended(Change),
    /// Remembered already, or it never ran: only to be removed.
    Debris,
}

pub fn standing(view: &View<'_>, pod: &PodView, container: &ObservedContainer) -> Standing {
    let memory = pod.record.remembered(&container.run.container);
    let due = memory.map_or(0, ContainerMemory::next_attempt);
    let attempt = container.run.attempt;
    let started = memory.is_some_and(|m| m.started_attempt >= Some(attempt));
    match &container.state {
        ContainerState::Running { .. } => Standing::Runs,
        ContainerState::Unanswered => Standing::Silent,
        ContainerState::Created => Standing::Waits,
        // Only the run that is due can have ended unnoticed: older ones are remembered, later ones were not started.
        _ if attempt != due => Standing::Debris,
        ContainerState::NoTask if started => Standing::Ended(ended(view, pod, memory, container)),
        ContainerState::NoTask => Standing::Debris,
        // A run that has to wait for its time has not been started: what died there was only created.
        ContainerState::Exited { .. } if !started && held_back(view, memory) => Standing::Debris,
        // The runtime knows of no end where there was no start: it was ended while it stood created.
        ContainerState::Exited { finished_at, .. } if !started && is_no_time(*finished_at) => Standing::Debris,
        ContainerState::Exited { .. } if !started && order::has_not_had_its_turn(pod, &container.run.container) => {
            Standing::Debris
        }
        ContainerState::Exited { .. } => Standing::Ended(ended(view, pod, memory, container)),
    }
}

fn held_back(view: &View<'_>, memory: Option<&ContainerMemory>) -> bool {
    memory.and_then(|m| m.not_before).is_some_and(|not_before| not_before > view.now.boot)
}

/// The wait of a container whose last end is too fresh for another start (Kubernetes' CrashLoopBackOff).
pub fn back_off(pod: &Record, container: &str, now: Moment) -> Option<Waiting> {
    let memory = pod.containers.get(container)?;
    let not_before = memory.not_before.filter(|not_before| *not_before > now)?;
    let wait = backoff::crash(memory.failures).as_secs();
    let message = format!("back-off {wait}s restarting failed container={container} pod={}", pod.name);
    Some(container_wait(&pod.uid, container, "CrashLoopBackOff", message, Some(not_before)))
}

/// The change that remembers the end of `container`'s run and says when the next one may start.
fn ended(view: &View<'_>, pod: &PodView, memory: Option<&ContainerMemory>, container: &ObservedContainer) -> Change {
    let fresh = ContainerMemory::default();
    let memory = memory.unwrap_or(&fresh);
    let attempt = container.run.attempt;
    let started = memory.started_attempt == Some(attempt);
    let (exit_code, reason, message, finished_at) = match &container.state {
        ContainerState::Exited { exit_code, oom, finished_at } => {
            // Where the runtime does not know when, it is the moment in which it was noticed.
            let at = if is_no_time(*finished_at) { view.now.wall } else { *finished_at };
            (*exit_code, exit_reason(*exit_code, *oom), exit_message(*exit_code), at)
        }
        ContainerState::NoTask
        | ContainerState::Created
        | ContainerState::Running { .. }
        | ContainerState::Unanswered => {
            (137, "ContainerStatusUnknown", "the container runtime no longer knows how this run ended", view.now.wall)
        }
    };
    let termination = Termination {
        attempt,
        container_id: container.id.clone(),
        image_id: container.image_id.clone(),
        exit_code,
        reason: reason.into(),
        message: message.into(),
        started_at: memory.started_at.filter(|_| started),
        finished_at,
        halted: memory.stopping.as_ref().is_some_and(|stopping| stopping.halts && stopping.attempt == attempt),
    };
    let name = container.run.container.clone();
    if termination.halted {
        let failures = memory.failures;
        return Change::Ended { container: name, termination, failures, not_before: None, completed: false };
    }
    let init = pod.template.spec.container(&name).is_some_and(|container| container.role == Role::Init);
    if init && exit_code == 0 {
        return Change::Ended { container: name, termination, failures: 0, not_before: None, completed: true };
    }
    let began = memory.started_moment.filter(|_| started);
    if started && began.is_none() {
        // It was started in another boot: that the machine went down is no failure of the container.
        let (failures, not_before) = (memory.failures, memory.not_before);
        return Change::Ended { container: name, termination, failures, not_before, completed: false };
    }
    let stopping = memory.stopping.as_ref().filter(|stopping| stopping.attempt == attempt);
    if stopping.is_some_and(|stopping| stopping.message == OTHER_IMAGE) {
        // What comes next is another program, of which no failure is known.
        return Change::Ended { container: name, termination, failures: 0, not_before: None, completed: false };
    }
    if stopping.is_some_and(|stopping| stopping.message == resize::RESIZE_RESTARTS) {
        // We ended it for its new amounts: no crash, and nothing that makes up for one.
        let failures = memory.failures;
        return Change::Ended { container: name, termination, failures, not_before: None, completed: false };
    }
    let finished = finish_moment(view, began, finished_at);
    let ran = began.map_or(Duration::ZERO, |began| finished.since(began));
    let (failures, not_before) = backoff::after_end(memory.failures, ran, finished);
    Change::Ended { container: name, termination, failures, not_before, completed: false }
}

/// The end of a run on the boot clock. Wall-clock nonsense (the future, a time before the start) is bounded away.
fn finish_moment(view: &View<'_>, began: Option<Moment>, finished_at: jiff::Timestamp) -> Moment {
    let ago = u64::try_from(view.now.wall.duration_since(finished_at).as_millis()).unwrap_or(0);
    Moment(view.now.boot.0.saturating_sub(ago)).max(began.unwrap_or_default())
}

/// Every container has ended for good (`restartPolicy` OnFailure and Never, and what runs once).
pub fn all_done(view: &View<'_>, pod: &PodView) -> bool {
    let goes_on = |c: &ObservedContainer| c.state.may_run() || matches!(standing(view, pod, c), Standing::Ended(_));
    order::winds_down(pod) && !pod.containers.iter().any(goes_on)
}

/// Brings every container of the pod towards `until`.
pub fn converge(draft: &mut Draft<'_>, view: &View<'_>, index: usize, until: Until) {
    let pod = &view.pods[index];
    for container in &pod.containers {
        if pod.template.spec.container(&container.run.container).is_none() {
            remove(draft, container);
        }
    }
    for (position, container) in pod.template.spec.containers.iter().enumerate() {
        Runs { view, index, pod, position, container, until }.converge(draft);
    }
}

fn remove(draft: &mut Draft<'_>, container: &ObservedContainer) {
    let run = &container.run;
    match container.state {
        ContainerState::Running { .. } => {
            draft.signal(kill(&run.uid, &run.container, run.attempt), "was killed: it is not the run that is due");
        }
        _ => draft.step(delete(&run.uid, &run.container, run.attempt)),
    }
}

/// Kubernetes' reason for an end that was seen.
pub fn exit_reason(exit_code: u32, oom: bool) -> &'static str {
    match (oom, exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    }
}

/// What an exit code alone does not tell; empty for most.
pub fn exit_message(exit_code: u32) -> &'static str {
    const BY_SIGSYS: u32 = 128 + 31;
    match exit_code {
        BY_SIGSYS => {
            "ended by SIGSYS, as a seccomp profile ends a program built for 32 bits: if it is one, `seccomp-32-bit: true` in the \
             agent's configuration lets it run"
        }
        _ => "",
    }
}

pub fn over(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Exited { .. } | ContainerState::NoTask)
}

/// What the probes of a run find is on record, also while it ends: who drains wants to be seen as not ready.
pub fn remember_verdict(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, run: &RunKey) {
    let (Some(health), Some(memory)) = (view.health.get(run), pod.record.remembered(&run.container)) else { return };
    if memory.started_attempt != Some(run.attempt) {
        return;
    }
    let known = memory.verdict.as_ref().filter(|verdict| verdict.attempt == run.attempt);
    if known.is_none_or(|known| (known.started, known.ready) != (health.started, health.ready)) {
        let (container, attempt) = (run.container.clone(), run.attempt);
        let (started, ready) = (health.started, health.ready);
        remember(draft, pod, Change::Verdict { container, attempt, started, ready });
    }
}

/// All runs of one container of one pod.
struct Runs<'v> {
    view: &'v View<'v>,
    index: usize,
    pod: &'v PodView,
    position: usize,
    container: &'v Container,
    until: Until,
}

impl Runs<'_> {
    fn converge(&self, draft: &mut Draft<'_>) {
        if order::done(self.pod, self.container) {
            return self.wind_down(draft);
        }
        self.back_off(draft);
        let due = self.due();
        let found = self.observed(due).map(|c| standing(self.view, self.pod, c));
        let next = self.next_is_wanted(found.as_ref());
        // The shim is shared by the pod and ends with its last run: what ended goes when its successor stands. One that is
        // just being started comes first, since the deletion would take the processor that it starts on.
        let mut stands = false;
        match found {
            None => self.create(draft, due),
            Some(Standing::Waits) if self.has_other_image(due) => draft.step(self.delete(due)),
            Some(Standing::Waits) => stands = !self.start(draft, due),
            Some(Standing::Runs) => {
                self.runs(draft, due);
                stands = true;
            }
            // The whole pod waits then, before it gets here.
            Some(Standing::Silent) => {}
            Some(Standing::Ended(_)) if self.until == Until::Created => draft.step(self.delete(due)),
            Some(Standing::Ended(ended)) => remember(draft, self.pod, ended),
            Some(Standing::Debris) => draft.step(self.delete(due)),
        }
        let after = due.saturating_add(1);
        if next && self.observed(after).is_none() {
            self.create(draft, after);
        }
        for other in self.pod.containers.iter().filter(|c| c.run.container == self.container.name) {
            let attempt = other.run.attempt;
            let before = attempt < due && (stands || !over(other));
            let kept =
                attempt == after && next && other.state == ContainerState::Created && !self.has_other_image(attempt);
            if before || (attempt > due && !kept) {
                remove(draft, other);
            }
        }
    }

    /// Whether the run after the one that is due is created already: where a successor stands by, and while the end
    /// of this one is being written down, because a creation takes longer than a write.
    fn next_is_wanted(&self, due: Option<&Standing>) -> bool {
        match due {
            Some(Standing::Runs) => self.pod.template.standby() && self.container.role != Role::Init,
            Some(Standing::Ended(Change::Ended { termination, .. })) => {
                self.until == Until::Started && order::restarts(self.pod, self.container, termination)
            }
            _ => false,
        }
    }

    fn due(&self) -> u32 {
        self.memory().map_or(0, ContainerMemory::next_attempt)
    }

    fn memory(&self) -> Option<&ContainerMemory> {
        self.pod.record.remembered(&self.container.name)
    }

    fn observed(&self, attempt: u32) -> Option<&ObservedContainer> {
        self.pod.containers.iter().find(|c| c.run.container == self.container.name && c.run.attempt == attempt)
    }

    /// The run was created with another image than the container has now. Unlike a document's, the spec of an object changes under the
    /// same uid, and in this alone while it runs (Kubernetes).
    fn has_other_image(&self, attempt: u32) -> bool {
        self.observed(attempt).is_some_and(|run| !run.image.is_empty() && run.image != self.container.image)
    }

    /// Whether the run ends now because of that: one after which no other comes goes on to its own end.
    fn makes_way(&self, attempt: u32) -> bool {
        let another_comes = match self.container.role {
            Role::Main => order::policy(self.pod) == RestartPolicy::Always,
            Role::Sidecar => true,
            Role::Init => false,
        };
        another_comes && self.has_other_image(attempt)
    }

    fn delete(&self, attempt: u32) -> Step {
        delete(&self.pod.record.uid, &self.container.name, attempt)
    }

    /// Of a container that has run for the last time. A sidecar of a pod whose main containers are done is told to stop. The
    /// last run stays until another stands or the pod has finished: the shim is the whole pod's.
    fn wind_down(&self, draft: &mut Draft<'_>) {
        let own = || self.pod.containers.iter().filter(|c| c.run.container == self.container.name);
        let beside = || self.pod.containers.iter().any(|c| c.run.container != self.container.name && c.state.may_run());
        for run in own() {
            match standing(self.view, self.pod, run) {
                Standing::Runs => {
                    let failed = self.pod.record.course.failed.as_ref().map(|failure| failure.reason.as_str());
                    self.stop(draft, run, failed.unwrap_or("the pod's main containers are done"));
                }
                Standing::Ended(ended) => remember(draft, self.pod, ended),
                Standing::Waits => draft.step(self.delete(run.run.attempt)),
                Standing::Debris if self.container.role == Role::Init && beside() => {
                    draft.step(self.delete(run.run.attempt));
                }
                Standing::Debris | Standing::Silent => {}
            }
        }
    }

    /// Ends a run of a pod that lives on; from when on it has its grace period is on record first.
    fn stop(&self, draft: &mut Draft<'_>, run: &ObservedContainer, why: &str) {
        let attempt = run.run.attempt;
        match self.memory().and_then(|m| m.stopping.as_ref()).filter(|stopping| stopping.attempt == attempt) {
            Some(stopping) => ending::stop(draft, self.view, Some(self.pod), run, stopping.deadline),
            None => {
                let deadline = lifecycle::deadline(&self.pod.template, self.view.now.boot);
                self.is_to_stop(draft, Stopping { attempt, deadline, message: why.to_owned(), halts: false });
            }
        }
    }

    fn is_to_stop(&self, draft: &mut Draft<'_>, stopping: Stopping) {
        remember(draft, self.pod, Change::Stopping { container: self.container.name.clone(), stopping });
    }

    /// The run that is due runs: what is known of it is remembered, its hook and its probes decide whether it may go on.
    fn runs(&self, draft: &mut Draft<'_>, due: u32) {
        let container = || self.container.name.clone();
        if self.memory().is_none_or(|m| m.started_attempt < Some(due)) {
            return remember(draft, self.pod, Change::Started { container: container(), attempt: due });
        }
        let stopping = self.memory().and_then(|m| m.stopping.as_ref()).filter(|stopping| stopping.attempt == due);
        if let (Some(stopping), Some(run)) = (stopping, self.observed(due)) {
            return ending::stop(draft, self.view, Some(self.pod), run, stopping.deadline);
        }
        if self.makes_way(due) {
            let deadline = lifecycle::deadline(&self.pod.template, self.view.now.boot);
            return self
                .is_to_stop(draft, Stopping { attempt: due, deadline, message: OTHER_IMAGE.to_owned(), halts: false });
        }
        if let Some(stopping) = resize::ends(self.view, self.pod, &self.container.name, due) {
            return self.is_to_stop(draft, stopping);
        }
        if !order::hook_is_over(self.pod, self.container) {
            let uid = self.pod.record.uid.clone();
            let step = Step::Hook { uid, container: container(), attempt: due, hook: Hook::PostStart };
            match self.view.hooks.get(&step.key()).map(|end| &end.failed) {
                None => draft.step(step),
                Some(None) => remember(draft, self.pod, Change::PostStarted { container: container(), attempt: due }),
                Some(Some(_)) => {
                    let deadline = lifecycle::deadline(&self.pod.template, self.view.now.boot);
                    self.is_to_stop(
                        draft,
                        Stopping { attempt: due, deadline, message: FAILED_HOOK.to_owned(), halts: false },
                    );
                }
            }
            return;
        }
        self.judge(draft, due);
    }

    /// What the probes say of the run.
    fn judge(&self, draft: &mut Draft<'_>, due: u32) {
        let run = RunKey { uid: self.pod.record.uid.clone(), container: self.container.name.clone(), attempt: due };
        let Some(health) = self.view.health.get(&run) else { return };
        if let Some(failed) = &health.failed {
            let probe = match failed.probe {
                ProbeKind::Startup => &self.container.probes.startup,
                ProbeKind::Liveness | ProbeKind::Readiness => &self.container.probes.liveness,
            };
            let grace =
                probe.as_ref().and_then(|probe| probe.grace).unwrap_or(self.pod.template.spec.termination_grace);
            let deadline = self.view.now.boot.after(grace.max(lifecycle::GRACE_MIN));
            let message = format!("failed {} probe", failed.probe.to_string().to_lowercase());
            return self.is_to_stop(draft, Stopping { attempt: due, deadline, message, halts: false });
        }
        remember_verdict(draft, self.view, self.pod, &run);
    }

    fn create(&self, draft: &mut Draft<'_>, attempt: u32) {
        let (uid, name) = (&self.pod.record.uid, &self.container.name);
        if self.pod.images.get(name) != Some(&ImageState::Ready) {
            draft.step(Step::PrepareImage { uid: uid.clone(), container: name.clone() });
        } else if let Some(message) = self.before_creation() {
            draft.wait(container_wait(uid, name, "PodInitializing", message, None));
        } else if self.surroundings_suffice() {
            draft.step(Step::Create { uid: uid.clone(), container: name.clone(), attempt });
        } else {
            let message = "waits for the pod's namespaces, network and directories".to_owned();
            draft.wait(container_wait(uid, name, "ContainerCreating", message, None));
        }
    }

    /// Addresses in the environment are fixed at creation, so such a container waits for the network.
    fn surroundings_suffice(&self) -> bool {
        let addressed = |value: &EnvValue| matches!(value, EnvValue::Field(PodField::PodIp | PodField::PodIps));
        match self.pod.sandbox {
            SandboxState::Connected { .. } => true,
            SandboxState::Made => connected(self.pod) || !self.container.env.iter().any(|e| addressed(&e.value)),
            SandboxState::Absent | SandboxState::Broken { .. } => false,
        }
    }

    /// Why the run cannot even be created yet.
    fn before_creation(&self) -> Option<String> {
        (!order::may_be_created(self.pod, self.position)).then(|| self.held()).flatten()
    }

    /// Which container before this one has not had its turn.
    fn held(&self) -> Option<String> {
        let earlier = order::held_by(self.pod, self.position)?;
        Some(match earlier.role {
            Role::Sidecar => format!("waits until the sidecar {} has started", earlier.name),
            Role::Init | Role::Main => format!("waits until the init container {} has run to its end", earlier.name),
        })
    }

    /// Whether the run's time has come.
    fn start(&self, draft: &mut Draft<'_>, attempt: u32) -> bool {
        let (uid, name) = (&self.pod.record.uid, &self.container.name);
        if held_back(self.view, self.memory()) {
            return false;
        }
        if let Some(wait) = self.after_evictions() {
            draft.wait(wait);
            return false;
        }
        match self.in_the_way() {
            Some((reason, message)) => {
                draft.wait(container_wait(uid, name, reason, message, None));
                false
            }
            None => {
                draft.step(Step::Start { uid: uid.clone(), container: name.clone(), attempt });
                true
            }
        }
    }

    /// Pods before this one have filled the disk one after the other.
    fn after_evictions(&self) -> Option<Waiting> {
        let course = &self.pod.record.course;
        let not_before = course.not_before.filter(|not_before| *not_before > self.view.now.boot)?;
        let wait = backoff::crash(course.evictions).as_secs();
        let message = format!(
            "back-off {wait}s: {} pods before {} have failed one after the other by what they used of the disk",
            course.evictions, self.pod.record.name
        );
        let (uid, name) = (&self.pod.record.uid, &self.container.name);
        Some(container_wait(uid, name, "CrashLoopBackOff", message, Some(not_before)))
    }

    /// The back-off is the first thing to say of a container, whatever else is done for it meanwhile.
    fn back_off(&self, draft: &mut Draft<'_>) {
        if let Some(wait) = back_off(&self.pod.record, &self.container.name, self.view.now.boot) {
            draft.wait(wait);
        }
    }

    /// Why the created run is not started yet: Kubernetes' reason and a sentence.
    fn in_the_way(&self) -> Option<(&'static str, String)> {
        let creating = |message: &str| Some(("ContainerCreating", message.to_owned()));
        if self.until == Until::Created {
            return creating("stands created until the older pod has stopped");
        }
        if let Some(message) = self.view.turn.start_waits().filter(|_| !order::has_run_here(self.pod)) {
            return Some((WAITS_FOR_OTHERS, message));
        }
        if let Some(message) = self.view.turn.room_waits().filter(|_| !order::has_run_here(self.pod)) {
            return Some(("ContainerCreating", message));
        }
        if let Some(other) = another_runs(self.view, self.index) {
            return creating(&format!("waits until the containers of {} have stopped", other.record.name));
        }
        if !connected(self.pod) {
            return creating("waits for the pod's network");
        }
        let own = |c: &&ObservedContainer| c.run.container == self.container.name;
        if self.pod.containers.iter().filter(own).any(|c| matches!(c.state, ContainerState::Running { .. })) {
            return creating("waits for the end of another run of this container");
        }
        if let Some(message) = self.held() {
            return Some(("PodInitializing", message));
        }
        let earlier = self.pod.template.spec.containers[..self.position].iter();
        let mains = earlier.filter(|c| c.role == Role::Main && self.container.role == Role::Main);
        let first = mains.into_iter().find(|main| !self.had_its_turn(main))?;
        creating(&format!("waits for the first start of container {}", first.name))
    }

    /// Containers start in the order of the spec, each when the hook of the one before is over; but one that cannot start holds
    /// nobody up (Kubernetes).
    fn had_its_turn(&self, container: &Container) -> bool {
        let name = &container.name;
        let started = self.pod.record.containers.get(name).is_some_and(|m| m.started_moment.is_some());
        let runs = self
            .pod
            .containers
            .iter()
            .any(|c| c.run.container == *name && matches!(c.state, ContainerState::Running { .. }));
        if runs {
            return order::hook_is_over(self.pod, container);
        }
        started || order::done(self.pod, container) || self.failed(name)
    }

    fn failed(&self, container: &str) -> bool {
        let uid = &self.pod.record.uid;
        // What only waits for something else has not failed, and has no count.
        self.view.failures.iter().filter(|(_, failure)| failure.count > 0).any(|(key, _)| match key {
            StepKey::PrepareImage(of, name) | StepKey::Run(of, name, _, RunStep::Create | RunStep::Start) => {
                of == uid && name == container
            }
            _ => false,
        })
    }
}
