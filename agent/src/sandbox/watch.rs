//! Whether pods' connections still stand: all of them once after the agent's start, what lies on the node for them whenever
//! packet rules went, and what was wrong until it is right.
//!
//! Spawned by the composition root, beside everything else: rules and plugins by themselves, one pod at a time each, so that pods that
//! start come first. What is found is told. A pod that has lost its network has a broken sandbox from then on (`inspect`), which the workers make anew.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pod::name::Uid;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cni::check::{Checked, Once};
use super::cni::flushes::Flushes;
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

/// What is wrong with pods' connections, as it was last told.
#[derive(Debug, Default)]
struct Faults {
    by_pod: Mutex<BTreeMap<Uid, String>>,
    /// Told when there is a first one.
    arrived: Notify,
    /// Told when packet rules went, of which other plugins than ours may have had some.
    flushed: Notify,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uid, String>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pods with one, as soon as there is one.
    async fn suspects(&self) -> Vec<Uid> {
        loop {
            let arrived = self.arrived.notified();
            let suspects: Vec<Uid> = self.lock().keys().cloned().collect();
            if !suspects.is_empty() {
                return suspects;
            }
            arrived.await;
        }
    }

    /// Takes in what a look has found of a pod; what of it is to be told.
    fn take(&self, uid: &Uid, scope: Scope, found: Option<Finding>) -> Option<Finding> {
        let mut by_pod = self.lock();
        match found {
            Some(Finding::Fault(reason)) => {
                let before = by_pod.insert(uid.clone(), reason.clone());
                self.arrived.notify_one();
                (before.as_ref() != Some(&reason)).then_some(Finding::Fault(reason))
            }
            Some(finding) => {
                by_pod.remove(uid);
                Some(finding)
            }
            // A look at ports alone says nothing of the rest.
            None if scope != Scope::Everything => None,
            None => by_pod.remove(uid).map(|_| Finding::Over),
        }
    }
}

impl NodeSandboxes {
    /// Calls `tell` with each finding that is new; for ever. What lies on the node is looked after beside the plugins' opinions,
    /// which take as long as plugins take: no pod's rules wait for another pod's plugin.
    pub async fn watch_connections(&self, tell: impl Fn(&Uid, &Finding)) {
        let faults = Faults::default();
        tokio::time::sleep(FIRST_LOOK).await;
        tokio::join!(self.watch_rules(&faults, &tell), self.watch_plugins(&faults, &tell));
    }

    async fn watch_rules(&self, faults: &Faults, tell: &impl Fn(&Uid, &Finding)) {
        let flushes = Flushes::open();
        if let Err(error) = &flushes {
            tracing::warn!(%error, "packet rules that go are noticed by the slow look only");
        }
        self.look(Scope::Ports, self.connected(), faults, tell).await;
        loop {
            let gone = async {
                match &flushes {
                    Ok(flushes) => flushes.next().await,
                    Err(_) => pending().await,
                }
            };
            tokio::select! {
                // Both only wait, and what they wait for is looked at anew each time.
                () = gone => {
                    tokio::time::sleep(SETTLE).await;
                    self.look(Scope::Ports, self.connected(), faults, tell).await;
                    faults.flushed.notify_one();
                    tokio::time::sleep(LOOKS_APART).await;
                }
                () = tokio::time::sleep(SLOW_LOOK) => {
                    self.look(Scope::Ports, self.connected(), faults, tell).await;
                    // The state disk may hang.
                    let shared = self.shared.clone();
                    if let Err(error) = super::blocking(move || shared.network.settle()).await {
                        tracing::warn!(error = chain(&error), "notes of addresses still wait for the state disk");
                    }
                }
            }
        }
    }

    async fn watch_plugins(&self, faults: &Faults, tell: &impl Fn(&Uid, &Finding)) {
        self.look(Scope::Everything, self.connected(), faults, tell).await;
        let mut due = None;
        loop {
            let again = async {
                faults.suspects().await;
                // The same moment however often rules go meanwhile.
                tokio::time::sleep_until(*due.get_or_insert_with(|| Instant::now() + LOOK_AGAIN)).await;
                faults.suspects().await
            };
            tokio::select! {
                // Both only wait.
                () = faults.flushed.notified() => {
                    self.look(Scope::OthersPorts, self.connected(), faults, tell).await;
                }
                suspects = again => {
                    due = None;
                    self.look(Scope::Everything, suspects, faults, tell).await;
                }
            }
        }
    }

    /// Looks once at these pods, and for ports' sake at the node's rules.
    async fn look(&self, scope: Scope, pods: Vec<Uid>, faults: &Faults, tell: &impl Fn(&Uid, &Finding)) {
        if scope == Scope::Ports && self.shared.network.has_own().unwrap_or(false) {
            // What fails is in the log, and tried again with the next look and the next pod.
            let _ = self.shared.network.renew_rules().await;
        }
        let mut once = Once::default();
        for uid in pods {
            let found = self.check_among(&uid, scope, &mut once).await;
            if let Some(finding) = faults.take(&uid, scope, found) {
                tell(&uid, &finding);
            }
        }
    }

    /// Looks at one pod's connection and puts right what can be. None: it is sound.
    pub async fn check(&self, uid: &Uid, scope: Scope) -> Option<Finding> {
        self.check_among(uid, scope, &mut Once::default()).await
    }

    async fn check_among(&self, uid: &Uid, scope: Scope, once: &mut Once) -> Option<Finding> {
        match self.shared.network.check(uid, &self.shared.netns(uid), scope, once).await {
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
