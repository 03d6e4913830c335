//! ConfigMaps and Secrets in a worker: what waits for one tries at once when it comes, and what was made of one that has
//! changed, and has not been started yet, is made anew.

use std::collections::BTreeMap;

use pod::content::{Contents, Used, of_environment, of_pod};
use pod::name::RunKey;
use pod::observed::ContainerState;
use pod::plan::{PodView, RunStep, StepKey};
use pod::time::Moment;

use super::{Worker, step_uid};
use crate::execute::Job;
use crate::seams::Machine;

/// What a worker remembers of them. In memory only.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// As they were when the worker last looked.
    seen: Contents,
    /// Of which values each environment was made; a run that is not here was created by an earlier life of the agent.
    created_with: BTreeMap<RunKey, Used>,
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
            let uses = of_pod(&view.template.spec, &self.key.namespace);
            if uses.is_empty() || before.of(uses.clone()) == self.configs.seen.of(uses) {
                continue;
            }
            let uid = &view.record.uid;
            let waits = |key: &StepKey| {
                let made_of_them = matches!(key, StepKey::SetUp(_) | StepKey::Run(_, _, _, RunStep::Create));
                made_of_them && step_uid(key) == Some(uid)
            };
            self.failures.iter_mut().filter(|(key, _)| waits(key)).for_each(|(_, f)| f.not_before = Moment(0));
        }
    }

    /// Runs that stand created with values that are no longer right are removed, and then created again. Before each plan, so
    /// that none of them is started.
    pub(super) fn remove_outdated(&mut self) {
        let outdated: Vec<RunKey> = self.pods.iter().flat_map(|view| self.outdated(view)).collect();
        for run in outdated {
            let key = StepKey::Run(run.uid.clone(), run.container.clone(), run.attempt, RunStep::Delete);
            tracing::info!(workload = %self.key, container = run.container, attempt = run.attempt,
                "what its environment is made of has changed: it is created anew");
            self.spawn(key, Job::Delete { run, unsaid: None });
        }
    }

    fn outdated(&self, view: &PodView) -> Vec<RunKey> {
        let mut outdated = Vec::new();
        for container in view.containers.iter().filter(|c| c.state == ContainerState::Created) {
            let run = &container.run;
            let Some(spec) = view.template.spec.container(&run.container) else { continue };
            let uses = of_environment(spec, &self.key.namespace);
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
        let uses = self.view(&run.uid).and_then(|view| view.template.spec.container(&run.container));
        let uses = uses.map(|spec| of_environment(spec, &self.key.namespace)).unwrap_or_default();
        if !uses.is_empty() {
            self.configs.created_with.insert(run.clone(), self.configs.seen.of(uses));
        }
        self.configs.seen.clone()
    }

    /// The run is gone.
    pub(super) fn forget_contents_of(&mut self, run: &RunKey) {
        self.configs.created_with.remove(run);
    }
}
