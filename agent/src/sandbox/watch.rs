//! Whether pods' connections still stand: all of them once after the agent's start, what lies on the node for them whenever
//! packet rules went, and what was wrong until it is right.
//!
//! Spawned by the composition root, beside everything else: one pod at a time, so that pods that start come first. What is
//! found is told. A pod that has lost its network has a broken sandbox from then on (`inspect`), which the workers make anew.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::PoisonError;
use std::time::Duration;

use pod::name::Uid;

use super::cni::check::Checked;
use super::cni::flushes::Flushes;
use super::cni::mapped::Listed;
use super::{NodeSandboxes, chain};

pub use super::cni::check::Scope;

/// After the start: the pods that are to be started come first.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// A flush is many rules, and who flushed often puts rules of its own in place at once.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two looks for rules' sake: programs that write rules all the time must not keep us busy.
const LOOKS_APART: Duration = Duration::from_secs(5);
/// The safety net: rules whose end the kernel does not tell of, and notes that wait for the state disk.
const SLOW_LOOK: Duration = Duration::from_secs(300);
/// Between two looks at what a plugin is not content with.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What was found of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It was put right under the running pod.
    Mended(String),
    /// It is looked at again and again.
    Fault(String),
    /// The pod's surroundings are made anew, and its containers start again in them.
    Gone(String),
    /// A fault is over.
    Over,
}

impl NodeSandboxes {
    /// Calls `tell` with each finding that is new; for ever.
    pub async fn watch_connections(&self, mut tell: impl FnMut(&Uid, &Finding)) {
        let flushes = Flushes::open();
        if let Err(error) = &flushes {
            tracing::warn!(%error, "packet rules that go are noticed by the slow look only");
        }
        let mut faults = BTreeMap::new();
        tokio::time::sleep(FIRST_LOOK).await;
        self.look(Scope::Everything, self.connected(), &mut faults, &mut tell).await;
        loop {
            let gone = async {
                match &flushes {
                    Ok(flushes) => flushes.next().await,
                    Err(_) => pending().await,
                }
            };
            tokio::select! {
                // All only wait, and what they wait for is looked at anew each time.
                () = gone => {
                    tokio::time::sleep(SETTLE).await;
                    self.look(Scope::Ports, self.connected(), &mut faults, &mut tell).await;
                    tokio::time::sleep(LOOKS_APART).await;
                }
                () = tokio::time::sleep(LOOK_AGAIN), if !faults.is_empty() => {
                    let suspects = faults.keys().cloned().collect();
                    self.look(Scope::Everything, suspects, &mut faults, &mut tell).await;
                }
                () = tokio::time::sleep(SLOW_LOOK) => {
                    self.look(Scope::Ports, self.connected(), &mut faults, &mut tell).await;
                    // The state disk may hang.
                    let shared = self.shared.clone();
                    if let Err(error) = super::blocking(move || shared.network.settle()).await {
                        tracing::warn!(error = chain(&error), "notes of addresses still wait for the state disk");
                    }
                }
            }
        }
    }

    /// Looks once at these pods, and at the node's rules.
    async fn look(
        &self,
        scope: Scope,
        pods: Vec<Uid>,
        faults: &mut BTreeMap<Uid, String>,
        tell: &mut impl FnMut(&Uid, &Finding),
    ) {
        if self.shared.network.has_own().unwrap_or(false) {
            // What fails is in the log, and tried again with the next look and the next pod.
            let _ = self.shared.network.renew_rules().await;
        }
        let mut listed = Listed::default();
        for uid in pods {
            let found = self.check_among(&uid, scope, &mut listed).await;
            let before = faults.remove(&uid);
            match &found {
                Some(Finding::Fault(reason)) => {
                    faults.insert(uid.clone(), reason.clone());
                    if before.as_ref() != Some(reason) {
                        tell(&uid, &Finding::Fault(reason.clone()));
                    }
                }
                Some(finding) => tell(&uid, finding),
                // A look at ports alone says nothing of the rest.
                None if scope == Scope::Ports => faults.extend(before.map(|before| (uid, before))),
                None if before.is_some() => tell(&uid, &Finding::Over),
                None => {}
            }
        }
    }

    /// Looks at one pod's connection and puts right what can be. None: it is sound.
    pub async fn check(&self, uid: &Uid, scope: Scope) -> Option<Finding> {
        self.check_among(uid, scope, &mut Listed::default()).await
    }

    async fn check_among(&self, uid: &Uid, scope: Scope, listed: &mut Listed) -> Option<Finding> {
        match self.shared.network.check(uid, &self.shared.netns(uid), scope, listed).await {
            Ok(Checked::Sound) => None,
            Ok(Checked::Mended { reason }) => Some(Finding::Mended(reason)),
            Ok(Checked::Fault { reason }) => Some(Finding::Fault(reason)),
            Ok(Checked::Gone { reason }) => {
                let mut lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
                // It is told once; until the workers have made it anew it is found again and again.
                lost.insert(uid.clone(), reason.clone()).is_none().then_some(Finding::Gone(reason))
            }
            // The next thing that needs the record says so.
            Err(_) => None,
        }
    }

    fn connected(&self) -> Vec<Uid> {
        self.shared.network.all_connected().unwrap_or_default()
    }
}
