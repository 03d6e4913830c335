//! The runs of one container: the one that is due is created ahead and started in its turn; what ended is remembered
//! before anything else happens to it, and removed when its successor stands.

use std::time::Duration;

use super::draft::{Draft, container_wait, delete, kill};
use super::pod::remember;
use super::roles::{another_runs, connected};
use super::{Change, PodView, RunStep, Step, StepKey, View, Waiting};
use crate::backoff;
use crate::observed::{ContainerState, ImageState, ObservedContainer, SandboxState};
use crate::record::{ContainerMemory, Record, Termination};
use crate::spec::{Container, EnvValue, PodField, RestartPolicy};
use crate::time::Moment;

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
        ContainerState::NoTask if started => Standing::Ended(ended(view, memory, container)),
        ContainerState::NoTask => Standing::Debris,
        // A run that has to wait for its time has not been started: what died there was only created.
        ContainerState::Exited { .. } if !started && held_back(view, memory) => Standing::Debris,
        ContainerState::Exited { .. } => Standing::Ended(ended(view, memory, container)),
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
fn ended(view: &View<'_>, memory: Option<&ContainerMemory>, container: &ObservedContainer) -> Change {
    let fresh = ContainerMemory::default();
    let memory = memory.unwrap_or(&fresh);
    let attempt = container.run.attempt;
    let started = memory.started_attempt == Some(attempt);
    let (exit_code, reason, message, finished_at) = match &container.state {
        ContainerState::Exited { exit_code, oom, finished_at } => {
            (*exit_code, exit_reason(*exit_code, *oom), exit_message(*exit_code), *finished_at)
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
        exit_code,
        reason: reason.into(),
        message: message.into(),
        started_at: memory.started_at.filter(|_| started),
        finished_at,
    };
    let began = memory.started_moment.filter(|_| started);
    if started && began.is_none() {
        // It was started in another boot: that the machine went down is no failure of the container.
        let (failures, not_before) = (memory.failures, memory.not_before);
        return Change::Ended { container: container.run.container.clone(), termination, failures, not_before };
    }
    let finished = finish_moment(view, began, finished_at);
    let ran = began.map_or(Duration::ZERO, |began| finished.since(began));
    let (failures, not_before) = backoff::after_end(memory.failures, ran, finished);
    Change::Ended { container: container.run.container.clone(), termination, failures, not_before }
}

/// The end of a run on the boot clock. Wall-clock nonsense (the future, a time before the start) is bounded away.
fn finish_moment(view: &View<'_>, began: Option<Moment>, finished_at: jiff::Timestamp) -> Moment {
    let ago = u64::try_from(view.now.wall.duration_since(finished_at).as_millis()).unwrap_or(0);
    Moment(view.now.boot.0.saturating_sub(ago)).max(began.unwrap_or_default())
}

/// Every container has ended for good (`restartPolicy` OnFailure and Never only).
pub fn all_done(pod: &PodView) -> bool {
    let mut containers = pod.template.spec.containers.iter();
    containers.all(|c| done(pod, &c.name)) && !pod.containers.iter().any(|c| c.state.may_run())
}

fn done(pod: &PodView, container: &str) -> bool {
    let last = pod.record.remembered(container).and_then(|m| m.last.as_ref());
    last.is_some_and(|last| !restarts(pod, last))
}

/// Whether the pod's restart policy wants another run after this end.
fn restarts(pod: &PodView, last: &Termination) -> bool {
    match pod.template.spec.restart_policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => last.exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Brings every container of the pod towards `until`.
pub fn converge(draft: &mut Draft<'_>, view: &View<'_>, index: usize, until: Until) {
    let pod = &view.pods[index];
    for container in &pod.containers {
        if !pod.template.spec.containers.iter().any(|c| c.name == container.run.container) {
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
        if done(self.pod, &self.container.name) {
            // Its last run stays until the pod has finished: the shim is the whole pod's.
            return;
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
            Some(Standing::Waits) => stands = !self.start(draft, due),
            Some(Standing::Runs) => {
                self.started(draft, due);
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
            let kept = attempt == after && next && other.state == ContainerState::Created;
            if before || (attempt > due && !kept) {
                remove(draft, other);
            }
        }
    }

    /// Whether the run after the one that is due is created already: where a successor stands by, and while the end
    /// of this one is being written down, because a creation takes longer than a write.
    fn next_is_wanted(&self, due: Option<&Standing>) -> bool {
        match due {
            Some(Standing::Runs) => self.pod.template.standby(),
            Some(Standing::Ended(Change::Ended { termination, .. })) => {
                self.until == Until::Started && restarts(self.pod, termination)
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

    fn delete(&self, attempt: u32) -> Step {
        delete(&self.pod.record.uid, &self.container.name, attempt)
    }

    fn started(&self, draft: &mut Draft<'_>, due: u32) {
        if self.memory().is_none_or(|m| m.started_attempt < Some(due)) {
            let change = Change::Started { container: self.container.name.clone(), attempt: due };
            remember(draft, self.pod, change);
        }
    }

    fn create(&self, draft: &mut Draft<'_>, attempt: u32) {
        let (uid, name) = (&self.pod.record.uid, &self.container.name);
        if self.pod.images.get(name) != Some(&ImageState::Ready) {
            draft.step(Step::PrepareImage { uid: uid.clone(), container: name.clone() });
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

    /// Whether the run's time has come.
    fn start(&self, draft: &mut Draft<'_>, attempt: u32) -> bool {
        let (uid, name) = (&self.pod.record.uid, &self.container.name);
        if held_back(self.view, self.memory()) {
            return false;
        }
        match self.in_the_way() {
            Some(message) => {
                draft.wait(container_wait(uid, name, "ContainerCreating", message, None));
                false
            }
            None => {
                draft.step(Step::Start { uid: uid.clone(), container: name.clone(), attempt });
                true
            }
        }
    }

    /// The back-off is the first thing to say of a container, whatever else is done for it meanwhile.
    fn back_off(&self, draft: &mut Draft<'_>) {
        if let Some(wait) = back_off(&self.pod.record, &self.container.name, self.view.now.boot) {
            draft.wait(wait);
        }
    }

    /// Why the created run is not started yet.
    fn in_the_way(&self) -> Option<String> {
        if self.until == Until::Created {
            return Some("stands created until the older pod has stopped".into());
        }
        if let Some(other) = another_runs(self.view, self.index) {
            let message = format!("waits until the containers of {} have stopped", other.record.name);
            return Some(message);
        }
        if !connected(self.pod) {
            return Some("waits for the pod's network".into());
        }
        let own = |c: &&ObservedContainer| c.run.container == self.container.name;
        if self.pod.containers.iter().filter(own).any(|c| matches!(c.state, ContainerState::Running { .. })) {
            return Some("waits for the end of another run of this container".into());
        }
        let earlier = self.pod.template.spec.containers[..self.position].iter();
        let first = earlier.map(|c| &c.name).find(|name| !self.had_its_turn(name))?;
        Some(format!("waits for the first start of container {first}"))
    }

    /// Containers start in the order of the spec, but one that cannot start holds nobody up (Kubernetes).
    fn had_its_turn(&self, container: &str) -> bool {
        let started = self.pod.record.containers.get(container).is_some_and(|m| m.started_moment.is_some());
        let runs =
            |c: &ObservedContainer| c.run.container == container && matches!(c.state, ContainerState::Running { .. });
        started || done(self.pod, container) || self.pod.containers.iter().any(runs) || self.failed(container)
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
