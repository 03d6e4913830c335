//! The loop of the DaemonSets: one at a time is looked at, [`decide`] says what to do, [`carry`] does it.
//!
//! What the loop has written itself it sees before it decides again: otherwise it would make a pod twice.

mod carry;
mod mirror;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use self::carry::{Carry, Job};
use self::mirror::{Key, Mirror};
use super::queue::Looked;
use super::record::Recorder;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::daemonset::{DaemonSet, Failures, decide};
use crate::store::Store as _;
use pod::name::Uid;

/// Writes that are under way together: a portion of pods that are made or deleted. The store makes them durable together.
const TOGETHER_MAX: usize = 32;

/// How long what was decided is asked for again where it had no answer: a template, a label or a taint may be another by then.
const WANTED_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How long a write may be under way after it was asked for: twice the patience with a store that does not answer.
const UNDER_WAY_MAX: SignedDuration = SignedDuration::from_secs(20);

/// See the top of the file.
pub struct DaemonSets {
    objects: Objects,
    recorder: Recorder,
    mirror: Mirror,
    /// What is remembered of failed pods, by the DaemonSet's name and for its uid.
    failures: BTreeMap<Key, (Uid, Failures)>,
    /// The newest of our own writes.
    written: u64,
    /// Those that were to be looked at before that was seen.
    waiting: BTreeSet<Key>,
    /// Pods whose making or deletion had no answer: it may happen yet, and until that is settled nothing else is decided.
    unanswered: BTreeMap<Key, Unanswered>,
    together: usize,
}

/// What may have happened, or may happen yet.
struct Unanswered {
    /// When it was decided.
    since: Timestamp,
    /// When it was asked for last.
    tried: Timestamp,
    jobs: Vec<Job>,
}

impl DaemonSets {
    pub fn new(objects: Objects, recorder: Recorder) -> DaemonSets {
        DaemonSets {
            objects,
            recorder,
            mirror: Mirror::default(),
            failures: BTreeMap::new(),
            written: 0,
            waiting: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            together: TOGETHER_MAX,
        }
    }

    async fn newest(&self) -> Result<u64, ApiError> {
        Ok(self.objects.store().get("/registry/").await?.revision)
    }

    /// Does once more what had no answer: the same pods by the same names, so that nothing happens twice. After a while nobody knows whether it is still
    /// wanted: then it is only waited until it cannot happen any more. False: it is not settled.
    async fn settle(&mut self, key: &Key, set: &DaemonSet, now: Timestamp) -> Result<bool, ApiError> {
        let Some(Unanswered { since, tried, jobs }) = self.unanswered.remove(key) else { return Ok(true) };
        if now.duration_since(since) < WANTED_MAX {
            tracing::info!(daemonset = ?key, writes = jobs.len(), "writes without an answer are asked for again");
            let mut carry = Carry::new(&self.objects, &self.recorder, set, self.together);
            carry.all(jobs.clone()).await;
            let (written, left) = (carry.written(), carry.take_unanswered());
            self.written = self.written.max(written);
            if !left.is_empty() {
                let tried = self.objects.clock().now();
                self.unanswered.insert(key.clone(), Unanswered { since, tried, jobs: left });
                return Ok(false);
            }
        } else if now.duration_since(tried) < UNDER_WAY_MAX {
            self.unanswered.insert(key.clone(), Unanswered { since, tried, jobs });
            return Ok(false);
        }
        // What has happened before is in the store by now, at the latest as of this.
        match self.newest().await {
            Ok(newest) => self.written = self.written.max(newest),
            Err(error) => {
                self.unanswered.insert(key.clone(), Unanswered { since, tried, jobs });
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Writes one after the other, so that a simulation goes the same way each time.
    pub fn in_order(self) -> DaemonSets {
        DaemonSets { together: 1, ..self }
    }
}

impl Looks for DaemonSets {
    type Key = Key;
    const NAME: &'static str = "daemonsets";

    async fn begin(&mut self, revision: u64, wake: &mut Vec<Key>) -> Result<(), ApiError> {
        self.mirror = match Mirror::read(&self.objects, revision).await {
            // It took so long to begin that this revision is not kept any more.
            Err(error) if error.code == 410 => {
                let newest = self.newest().await?;
                Mirror::read(&self.objects, newest).await?
            }
            read => read?,
        };
        // Where an older state of the store has come back, what was written is not in it and never comes.
        self.written = self.written.min(self.newest().await?);
        wake.extend(self.mirror.keys().cloned());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        self.mirror.told(change, wake);
    }

    fn told_upto(&mut self, revision: u64, wake: &mut Vec<Key>) {
        self.mirror.told_upto(revision);
        if self.mirror.upto() >= self.written {
            wake.extend(std::mem::take(&mut self.waiting));
        }
    }

    async fn look(&mut self, key: &Key, now: Timestamp, _wake: &mut Vec<Key>) -> Result<Looked, ApiError> {
        let Some((set, version)) = self.mirror.set(key) else {
            self.failures.remove(key);
            self.unanswered.remove(key);
            return Ok(Looked::Gone);
        };
        if !self.settle(key, &set, now).await? {
            return Ok(Looked::Failed);
        }
        if self.mirror.upto() < self.written {
            self.waiting.insert(key.clone());
            return Ok(Looked::Done(None));
        }
        let memory = self.failures.remove(key).filter(|(uid, _)| *uid == set.uid);
        let (_, failures) = memory.unwrap_or_else(|| (set.uid.clone(), Failures::default()));
        let decision = decide(&set, &self.mirror.seen(&set), &failures, now);
        self.failures.insert(key.clone(), (set.uid.clone(), decision.failures.clone()));

        let mut carry = Carry::new(&self.objects, &self.recorder, &set, self.together);
        let done = carry.out(&decision, &self.mirror).await;
        let status = carry.status(&decision.status, version).await;
        self.written = self.written.max(carry.written());
        let jobs = carry.take_unanswered();
        if !jobs.is_empty() {
            self.unanswered.insert(key.clone(), Unanswered { since: now, tried: self.objects.clock().now(), jobs });
        }
        if let Err(error) = &status {
            tracing::debug!(daemonset = ?key, %error, "status not written");
        }
        match (done, status) {
            (true, Ok(())) => Ok(Looked::Done(decision.wake_at)),
            _ => Ok(Looked::Failed),
        }
    }
}
