//! ConfigMaps and Secrets in a worker: what waits for one tries at once when it comes, and what was made of one that has
//! changed, and has not been started yet, is made anew. Files of volumes follow what the documents say.

use std::collections::BTreeMap;
use std::time::Duration;

use pod::content::{ContentKey, Contents, Used, of_creation, of_pod};
use pod::desired::Wanted;
use pod::name::{RunKey, Uid, WorkloadKind};
use pod::observed::{ContainerState, SandboxState};
use pod::plan::{PodView, RunStep, StepKey};
use pod::projection::{self, Unfilled};
use pod::received::Received;
use pod::record::{Lifecycle, Record};
use pod::spec::{PodTemplate, Projection, VolumeSource};
use pod::time::{Moment, Now};

use super::{Worker, step_uid};
use crate::events::Severity;
use crate::execute::{AGAIN, Admitted, Job};
use crate::seams::{Machine, Projected, Runtime, StepError};

/// A token comes a round trip after its pod: nothing is amiss before that.
const TOKEN_PATIENCE: Duration = Duration::from_secs(2);

/// What a worker remembers of them. In memory only.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// As they were when the worker last looked.
    seen: Contents,
    /// Of which values each environment was made; a run that is not here was created by an earlier life of the agent.
    created_with: BTreeMap<RunKey, Used>,
    /// What the projected volumes of pods show; of a pod that is not here nobody knows it.
    shown: BTreeMap<Uid, Shown>,
    /// What is being written.
    filling: BTreeMap<Uid, Shown>,
    /// Pods of which it was told that their files stay as they are, and why.
    told: BTreeMap<Uid, String>,
    /// Until when the first token of a pod that is to be set up is awaited.
    awaited: BTreeMap<Uid, Moment>,
}

/// Files, and of what they were made: where that is the same, so are they.
#[derive(Debug, Clone)]
struct Shown {
    files: Projected,
    contents: Contents,
    document: Received,
}

impl<M: Machine> Worker<M> {
    /// Takes what the documents say now. Before each plan.
    pub(super) fn take_contents(&mut self) {
        let now = self.shared.contents.borrow().clone();
        if now.is(&self.configs.seen) {
            return;
        }
        let before = std::mem::replace(&mut self.configs.seen, now);
        for view in &self.pods {
            let mut uses = of_pod(&view.template.spec, &self.key.namespace);
            uses.extend(projection::tokens(&view.record, &view.template));
            if uses.is_empty() || before.of(uses.clone()) == self.configs.seen.of(uses) {
                continue;
            }
            let uid = &view.record.uid;
            let waits = |key: &StepKey| {
                let made_of_them =
                    matches!(key, StepKey::SetUp(_) | StepKey::Fill(_) | StepKey::Run(_, _, _, RunStep::Create));
                made_of_them && step_uid(key) == Some(uid)
            };
            self.failures.iter_mut().filter(|(key, _)| waits(key)).for_each(|(_, f)| f.not_before = Moment(0));
        }
    }

    /// Runs that stand created with values that are no longer right are removed, and then created again. Before each plan, so
    /// that none of them is started. The moment at which a removal that failed is tried again.
    pub(super) fn remove_outdated(&mut self, now: Now) -> Option<Moment> {
        if !matches!(self.looked, Some(Ok(()))) {
            return None;
        }
        let outdated: Vec<RunKey> = self.pods.iter().flat_map(|view| self.outdated(view)).collect();
        let mut again = None;
        for run in outdated {
            let key = StepKey::Run(run.uid.clone(), run.container.clone(), run.attempt, RunStep::Delete);
            if let Some(failure) = self.failures.get(&key).filter(|failure| failure.not_before > now.boot) {
                again = [again, Some(failure.not_before)].into_iter().flatten().min();
                continue;
            }
            tracing::info!(workload = %self.key, container = run.container, attempt = run.attempt,
                "what it was created with has changed: it is created anew");
            self.spawn(key, Job::Delete { run, unsaid: None });
        }
        again
    }

    fn outdated(&self, view: &PodView) -> Vec<RunKey> {
        let mut outdated = Vec::new();
        for container in view.containers.iter().filter(|c| c.state == ContainerState::Created) {
            let run = &container.run;
            let Some(spec) = view.template.spec.container(&run.container) else { continue };
            let uses = of_creation(spec, &view.template.spec, &self.key.namespace);
            if uses.is_empty() || self.configs.created_with.get(run) == Some(&self.configs.seen.of(uses)) {
                continue;
            }
            let busy = |key: &StepKey| {
                let StepKey::Run(uid, name, attempt, _) = key else { return false };
                (uid, name, attempt) == (&run.uid, &run.container, &run.attempt)
            };
            let clears = |key: &StepKey| matches!(key, StepKey::TearDown(_)) && step_uid(key) == Some(&run.uid);
            if !self.in_flight.iter().any(|key| busy(key) || clears(key)) {
                outdated.push(run.clone());
            }
        }
        outdated
    }

    /// What a creation that begins now is to be made of.
    pub(super) fn contents_for(&mut self, run: &RunKey) -> Contents {
        let uses = self.view(&run.uid).and_then(|view| {
            let spec = &view.template.spec;
            Some(of_creation(spec.container(&run.container)?, spec, &self.key.namespace))
        });
        let uses = uses.unwrap_or_default();
        if !uses.is_empty() {
            self.configs.created_with.insert(run.clone(), self.configs.seen.of(uses));
        }
        self.configs.seen.clone()
    }

    /// The run is gone.
    pub(super) fn forget_contents_of(&mut self, run: &RunKey) {
        self.configs.created_with.remove(run);
    }

    /// The files with which a pod's surroundings are made, or why they cannot be.
    pub(super) fn files_for(&mut self, pod: &Admitted, now: Now) -> Result<Projected, StepError> {
        let uid = &pod.record.uid;
        if self.volume_without_token(&pod.record, &pod.template).is_some() {
            let until = *self.configs.awaited.entry(uid.clone()).or_insert(now.boot.after(TOKEN_PATIENCE));
            if until > now.boot {
                let wait = Some(until.since(now.boot));
                let message = "its service account token is asked for at the control endpoint";
                return Err(StepError { wait, ..StepError::waiting(message) });
            }
        }
        // What comes from the endpoint wakes; that of a pod which it does not speak of any more does not: the usual back-off.
        let wait = (self.key.kind != WorkloadKind::Control).then_some(AGAIN);
        let unfilled = |why: Unfilled| StepError { wait, ..StepError::new("FailedMount", why.to_string()) };
        let files = self.files(&pod.record, &pod.template).map_err(unfilled)?;
        self.forget_awaited(uid);
        if projection::is_needed(&pod.template) {
            self.note_filling(&pod.record, files.clone());
        }
        Ok(files)
    }

    fn files(&self, record: &Record, template: &PodTemplate) -> Result<Projected, Unfilled> {
        if !projection::is_needed(template) {
            return Ok(Projected::new());
        }
        if let Some(volume) = self.volume_without_token(record, template) {
            let why = "its service account token has not come from the control endpoint yet".to_owned();
            return Err(Unfilled { volume, why });
        }
        let node = self.shared.machine.runtime().node_size();
        projection::files(projection::Pod { record, template, node }, &self.configs.seen)
    }

    /// The volume that waits for a token. Where no endpoint can be reached the pod starts without, and has it later.
    fn volume_without_token(&self, record: &Record, template: &PodTemplate) -> Option<String> {
        let given =
            self.key.kind == WorkloadKind::Control && self.shared.board.control().is_some_and(|it| it.may_answer);
        if !given || projection::tokens(record, template).iter().all(|key| self.configs.seen.get(key).is_some()) {
            return None;
        }
        let shows = |source: &VolumeSource| match source {
            VolumeSource::Projected(projected) => {
                projected.sources.iter().any(|source| matches!(source, Projection::Token { .. }))
            }
            VolumeSource::HostPath { .. } | VolumeSource::EmptyDir(_) | VolumeSource::Image(_) => false,
        };
        template.spec.volumes.iter().find(|volume| shows(&volume.source)).map(|volume| volume.name.clone())
    }

    /// Whether a pod of the endpoint stands and a token that its volumes are to show has not come.
    pub(super) fn lacks_token(&self) -> bool {
        let lacks = |view: &PodView| {
            let stands = matches!(view.sandbox, SandboxState::Made | SandboxState::Connected { .. });
            let came = |key: &ContentKey| {
                self.configs.seen.get(key).is_some_and(|content| content.entries.contains_key(projection::TOKEN))
            };
            stands && projection::tokens(&view.record, &view.template).iter().any(|key| !came(key))
        };
        self.key.kind == WorkloadKind::Control && self.pods.iter().any(lacks)
    }

    fn note_filling(&mut self, record: &Record, files: Projected) {
        let (contents, document) = (self.configs.seen.clone(), record.document.clone());
        self.configs.filling.insert(record.uid.clone(), Shown { files, contents, document });
    }

    /// Brings the files of pods that stand to what they are to be. What cannot be made any more stays as it is.
    pub(super) fn refill(&mut self, now: Now) {
        let behind: Vec<Uid> =
            self.pods.iter().filter(|view| self.is_behind(view, now)).map(|view| view.record.uid.clone()).collect();
        for uid in behind {
            let Some(view) = self.view(&uid) else { continue };
            let record = view.record.clone();
            match self.files(&record, &view.template) {
                Ok(files) => {
                    self.configs.told.remove(&uid);
                    self.note_filling(&record, files.clone());
                    if self.configs.shown.get(&uid).is_some_and(|shown| shown.files == files) {
                        self.filled(&uid);
                    } else {
                        self.spawn(StepKey::Fill(uid.clone()), Job::Fill { uid, files });
                    }
                }
                Err(unfilled) => {
                    let why = unfilled.to_string();
                    if self.configs.told.get(&uid) != Some(&why) {
                        self.tell(&uid, None, Severity::Warning, "FailedMount", &why);
                        self.configs.told.insert(uid.clone(), why);
                    }
                    // Not looked at again before something changes.
                    let files = self.configs.shown.remove(&uid).map(|shown| shown.files).unwrap_or_default();
                    self.note_filling(&record, files);
                    self.filled(&uid);
                }
            }
        }
    }

    fn is_behind(&self, view: &PodView, now: Now) -> bool {
        let uid = &view.record.uid;
        let stands = matches!(view.sandbox, SandboxState::Made | SandboxState::Connected { .. });
        // As the kubelet: what a pod that ends shows stays as it was.
        let ends = matches!(&*self.wanted.borrow(), Wanted::End { .. } | Wanted::Gone);
        if !stands || ends || view.record.lifecycle != Lifecycle::Running || !projection::is_needed(&view.template) {
            return false;
        }
        let works = |key: &StepKey| {
            matches!(key, StepKey::SetUp(_) | StepKey::Fill(_) | StepKey::TearDown(_)) && step_uid(key) == Some(uid)
        };
        let same = self
            .configs
            .shown
            .get(uid)
            .is_some_and(|shown| shown.contents.is(&self.configs.seen) && shown.document == view.record.document);
        !same && !self.in_flight.iter().any(works) && !self.is_waiting(&StepKey::Fill(uid.clone()), now)
    }

    /// When a filling that failed is tried again.
    pub(super) fn refills_again(&self, now: Now) -> Option<Moment> {
        let fills = self.failures.iter().filter(|(key, _)| matches!(key, StepKey::Fill(_)));
        fills.map(|(_, failure)| failure.not_before).filter(|moment| *moment > now.boot).min()
    }

    /// The files are written.
    pub(super) fn filled(&mut self, uid: &Uid) {
        if let Some(shown) = self.configs.filling.remove(uid) {
            self.configs.shown.insert(uid.clone(), shown);
        }
    }

    /// The pod's volumes are gone.
    pub(super) fn forget_files_of(&mut self, uid: &Uid) {
        self.configs.shown.remove(uid);
        self.configs.filling.remove(uid);
        self.configs.told.remove(uid);
        self.forget_awaited(uid);
    }

    /// Gives back what the map held, too: most pods await one once.
    fn forget_awaited(&mut self, uid: &Uid) {
        self.configs.awaited.remove(uid);
        if self.configs.awaited.is_empty() {
            self.configs.awaited = BTreeMap::new();
        }
    }
}
