//! What the worker remembers of pods whose shim does not answer, and tells of them. What is done about it is the plan's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pod::name::Uid;
use pod::observed::{ContainerState, ObservedContainer};
use pod::plan::{SHIM_PATIENCE, SHIM_SILENT, StepKey};
use pod::record::ContainerMemory;

use super::Worker;
use crate::events::Severity;
use crate::seams::{Clock, Machine, PodRuns, ShimEnd};

/// How soon and how late a shim that does not answer is asked again: each time costs containerd two seconds of waiting and
/// a line in its log.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(5);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);

impl<M: Machine> Worker<M> {
    /// After a look that the runtime answered. A silence goes on only as long as every such look finds it.
    pub(super) fn note_silence(&mut self, containers: &[ObservedContainer]) {
        let now = self.shared.machine.clock().now();
        let unanswered = containers.iter().filter(|c| c.state == ContainerState::Unanswered);
        let uids: BTreeSet<Uid> = unanswered.map(|c| c.run.uid.clone()).collect();
        let mut before = std::mem::take(&mut self.silent);
        // Looks are never that far apart, unless the machine slept, and the shims with it: their time begins anew.
        if self.silent_seen.replace(now.boot).is_some_and(|seen| now.boot.since(seen) > ASK_AGAIN_MAX * 2) {
            before.values_mut().for_each(|since| *since = now);
        }
        for uid in before.keys().filter(|uid| !uids.contains(uid)) {
            // One that was ended does not answer either: its containers are gone.
            if !self.delivered.contains_key(&StepKey::EndShim(uid.clone())) {
                tracing::info!(workload = %self.key, %uid, "the shim answers again");
                self.tell(
                    uid,
                    None,
                    Severity::Normal,
                    "ShimAnswering",
                    "The containerd shim of this pod answers again",
                );
            }
        }
        for uid in &uids {
            if !before.contains_key(uid) {
                tracing::warn!(workload = %self.key, %uid, "the shim does not answer");
                let message = format!(
                    "The containerd shim of this pod does not answer: its containers are left as they are; when the pod \
                     is to go, the shim is killed {} s after the grace period",
                    SHIM_PATIENCE.as_secs()
                );
                self.tell(uid, None, Severity::Warning, SHIM_SILENT, &message);
            }
        }
        self.delivered.retain(|key, _| match key {
            StepKey::EndShim(uid) => containers.iter().any(|c| c.run.uid == *uid),
            _ => true,
        });
        self.silent = uids
            .into_iter()
            .map(|uid| {
                let since = before.get(&uid).copied().unwrap_or(now);
                (uid, since)
            })
            .collect();
        let longest = self.silent.values().map(|since| now.boot.since(since.boot)).min();
        self.look_again = longest.map(|silent| now.boot.after((silent / 4).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)));
    }

    pub(super) fn shim_ended(&mut self, uid: Uid, end: ShimEnd) {
        // However it came out: what stands now is to be seen.
        self.looked = None;
        let ShimEnd::Ended { found } = end else { return };
        tracing::warn!(workload = %self.key, %uid, found, "a shim that did not answer was ended");
        let message = format!("Killed {found}, which did not answer, and the containers of this pod with it");
        self.tell(&uid, None, Severity::Warning, "ShimKilled", &message);
        let key = StepKey::EndShim(uid);
        let before = self.delivered.get(&key).copied().unwrap_or_default();
        self.delivered.insert(key, before.again(self.shared.machine.clock().now().boot));
    }

    /// All runs that the pod may have had, of a stray as far as they can be known.
    pub(super) fn runs_of(&self, uid: Uid) -> PodRuns {
        let mut newest: BTreeMap<String, u32> = BTreeMap::new();
        let mut seen = |container: &str, attempt: u32| {
            let known = newest.entry(container.to_owned()).or_default();
            *known = attempt.max(*known);
        };
        if let Some(view) = self.view(&uid) {
            for container in &view.template.spec.containers {
                let due = view.record.remembered(&container.name).map_or(0, ContainerMemory::next_attempt);
                // One more may stand created.
                seen(&container.name, due.saturating_add(1));
            }
            view.containers.iter().for_each(|c| seen(&c.run.container, c.run.attempt));
        }
        let strays = self.strays.iter().filter(|stray| stray.container.run.uid == uid);
        strays.for_each(|stray| seen(&stray.container.run.container, stray.container.run.attempt));
        PodRuns { uid, newest }
    }
}
