//! The plan in the making: takes every step that is due and keeps those that may be done now.

use super::conflict::conflict;
use super::silence::SHIM_SILENT;
use super::{Change, Failure, Hook, Plan, Signal, Step, StepKey, View, Waiting};
use crate::backoff;
use crate::name::Uid;
use crate::time::Moment;

pub struct Draft<'a> {
    view: &'a View<'a>,
    plan: Plan,
    keys: Vec<StepKey>,
    /// Moments to plan anew at that are no wait's end.
    looks: Vec<Moment>,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a View<'a>) -> Draft<'a> {
        Draft { view, plan: Plan::default(), keys: Vec::new(), looks: Vec::new() }
    }

    /// Takes a step that is due. What cannot be done now becomes a reason to wait.
    pub fn step(&mut self, step: Step) {
        let key = step.key();
        if let Some(busy) = self.view.in_flight.iter().find(|busy| conflict(busy, &key)) {
            let message = if *busy == key { doing(&step) } else { format!("{} first", doing_key(busy)) };
            self.wait(about(&step, waiting_reason(&step), message));
            return;
        }
        if let Some(failure) = self.failure(&key)
            && failure.not_before > self.view.now.boot
        {
            self.looks.push(failure.not_before);
            let until = (!is_of_just_now(&step, failure)).then_some(failure.not_before);
            self.wait(Waiting { until, ..about(&step, &failure.reason, failure.message.clone()) });
            return;
        }
        // What collides with a step of this very plan comes with the next one.
        if !self.keys.iter().any(|other| conflict(other, &key)) {
            self.keys.push(key);
            self.plan.steps.push(step);
        }
    }

    /// As [`Draft::step`], but a stop signal that was delivered is not sent again, and a kill, of a run or of a shim, only
    /// when it is still there after a while: it may have met nobody, or a process that could not die just then.
    pub fn signal(&mut self, step: Step, message: &str) {
        let again = match self.view.delivered.get(&step.key()) {
            None => return self.step(step),
            Some(delivery) => matches!(step, Step::Signal { signal: Signal::Kill, .. } | Step::EndShim { .. })
                .then(|| delivery.at.after(backoff::kill(delivery.count))),
        };
        match again {
            Some(again) if again <= self.view.now.boot => self.step(step),
            until => self.wait(Waiting { until, ..about(&step, waiting_reason(&step), message.to_owned()) }),
        }
    }

    pub fn wait(&mut self, waiting: Waiting) {
        self.plan.waiting_for.push(waiting);
    }

    /// Plan anew then, although nothing waits.
    pub fn look(&mut self, at: Moment) {
        self.looks.push(at);
    }

    pub fn failure(&self, key: &StepKey) -> Option<&'a Failure> {
        self.view.failures.get(key)
    }

    /// Records before deeds, starts before everything that is less urgent.
    pub fn finish(mut self) -> Plan {
        self.plan.steps.sort_by_key(|step| match step {
            Step::Remember { .. } => 0,
            Step::Signal { .. } | Step::EndShim { .. } => 1,
            Step::Start { .. } => 2,
            _ => 3,
        });
        self.plan.wake_at = self.plan.waiting_for.iter().filter_map(|w| w.until).chain(self.looks).min();
        self.plan
    }
}

/// A wait of a container of a pod.
pub fn container_wait(uid: &Uid, container: &str, reason: &str, message: String, until: Option<Moment>) -> Waiting {
    Waiting { uid: Some(uid.clone()), container: Some(container.to_owned()), reason: reason.into(), message, until }
}

/// A wait of a whole pod.
pub fn pod_wait(uid: &Uid, reason: &str, message: String, until: Option<Moment>) -> Waiting {
    Waiting { uid: Some(uid.clone()), container: None, reason: reason.into(), message, until }
}

fn about(step: &Step, reason: &str, message: String) -> Waiting {
    let (uid, container) = match step {
        Step::Admit => (None, None),
        Step::Remember {
            uid,
            change:
                Change::Started { container, .. }
                | Change::Ended { container, .. }
                | Change::Stopping { container, .. }
                | Change::PostStarted { container, .. }
                | Change::Words { container, .. }
                | Change::Verdict { container, .. },
        }
        | Step::PrepareImage { uid, container }
        | Step::Create { uid, container, .. }
        | Step::Start { uid, container, .. }
        | Step::Signal { uid, container, .. }
        | Step::Hook { uid, container, .. }
        | Step::Delete { uid, container, .. } => (Some(uid), Some(container)),
        Step::Remember { uid, .. }
        | Step::SetUp { uid }
        | Step::Connect { uid }
        | Step::Resize { uid }
        | Step::EndShim { uid }
        | Step::TearDown { uid }
        | Step::Forget { uid } => (Some(uid), None),
    };
    Waiting { uid: uid.cloned(), container: container.cloned(), reason: reason.into(), message, until: None }
}

fn waiting_reason(step: &Step) -> &'static str {
    match step {
        Step::Admit => "Pending",
        Step::Remember { .. }
        | Step::PrepareImage { .. }
        | Step::SetUp { .. }
        | Step::Connect { .. }
        | Step::Resize { .. }
        | Step::Create { .. }
        | Step::Start { .. }
        | Step::Hook { hook: Hook::PostStart, .. } => "ContainerCreating",
        Step::EndShim { .. } => SHIM_SILENT,
        Step::Hook { hook: Hook::PreStop, .. }
        | Step::Signal { .. }
        | Step::Delete { .. }
        | Step::TearDown { .. }
        | Step::Forget { .. } => "Terminating",
    }
}

/// As in Kubernetes a pull that failed is first shown as what went wrong (ErrImagePull) and then, at the next look, as waiting for its
/// next try (ImagePullBackOff, which the runtime says by itself). Only that tells when the try comes: a look is none.
fn is_of_just_now(step: &Step, failure: &Failure) -> bool {
    matches!(step, Step::PrepareImage { .. }) && failure.reason == "ErrImagePull"
}

fn doing(step: &Step) -> String {
    doing_key(&step.key())
}

fn doing_key(key: &StepKey) -> String {
    use super::RunStep::{Create, Delete, PostStart, PreStop, SignalKill, SignalStop, Start};
    match key {
        StepKey::Admit => "the pod's record is being written".into(),
        StepKey::Remember(_) => "a change of the pod's record is being written".into(),
        StepKey::PrepareImage(_, container) => format!("the image of {container} is being prepared"),
        StepKey::SetUp(_) => "the pod's namespaces and directories are being made".into(),
        StepKey::Connect(_) => "the pod's network is being connected".into(),
        StepKey::Resize(_) => "the pod's resources are being changed".into(),
        StepKey::Run(_, container, attempt, step) => {
            let verb = match step {
                Create => "being created",
                Start => "being started",
                PostStart => "running its postStart hook",
                PreStop => "running its preStop hook",
                SignalStop => "being told to stop",
                SignalKill => "being killed",
                Delete => "being deleted",
            };
            format!("run {attempt} of {container} is {verb}")
        }
        StepKey::Fill(_) => "the files of the pod's volumes are being written".into(),
        StepKey::EndShim(_) => "the pod's shim, which does not answer, is being ended".into(),
        StepKey::TearDown(_) => "the pod's namespaces and directories are being removed".into(),
        StepKey::Forget(_) => "the pod's record and logs are being removed".into(),
    }
}

/// The step that ends a run.
pub fn kill(uid: &Uid, container: &str, attempt: u32) -> Step {
    Step::Signal { uid: uid.clone(), container: container.to_owned(), attempt, signal: Signal::Kill }
}

pub fn delete(uid: &Uid, container: &str, attempt: u32) -> Step {
    Step::Delete { uid: uid.clone(), container: container.to_owned(), attempt }
}
