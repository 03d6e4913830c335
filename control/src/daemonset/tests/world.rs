//! A small fleet as the endpoint's store shows it, that carries out decisions and in which time passes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pod::name::Uid;
use serde_json::json;

use super::build::{at, daemonset, labels, node};
use super::judge;
use crate::convert;
use crate::daemonset::{
    Contact, DaemonSet, Decision, Ending, Failures, HASH_LABEL, Phase, Pod, Revision, Seen, Step, decide,
};
use crate::rollout::Strategy;

pub struct World {
    pub daemonset: DaemonSet,
    pub seen: Seen,
    pub failures: Failures,
    pub second: i64,
    /// Seconds that a pod has to end.
    pub grace: i64,
    /// When the deletion of each pod was asked for.
    pub asked: BTreeMap<Uid, Timestamp>,
    /// Template data by hash: what contains `bad` never gets ready, `flash` for a moment again and again.
    made_from: BTreeMap<String, String>,
    edits: u32,
    pods_made: u32,
}

impl World {
    pub fn new(strategy: Strategy, nodes: usize) -> World {
        let mut seen = Seen::default();
        for n in 0..nodes {
            seen.nodes.insert(format!("n{n}"), node(&format!("n{n}")));
        }
        World {
            daemonset: daemonset(strategy),
            seen,
            failures: Failures::default(),
            second: 0,
            grace: 30,
            asked: BTreeMap::new(),
            made_from: BTreeMap::new(),
            edits: 1,
            pods_made: 0,
        }
    }

    /// A new template.
    pub fn edit(&mut self, quality: &str) {
        self.edits += 1;
        self.daemonset.template_data = format!("v{}-{quality}", self.edits).into();
        self.daemonset.generation += 1;
    }

    /// Decides, has the decision judged, and carries out the steps that do not fail.
    pub fn decide(&mut self, fails: impl Fn(usize) -> bool) -> Decision {
        self.seen.version += 1;
        let decision = decide(&self.daemonset, &self.seen, &self.failures, at(self.second));
        judge::judge(self, &decision);
        self.failures = decision.failures.clone();
        self.daemonset.status = decision.status.clone();
        for (n, step) in decision.steps.iter().enumerate() {
            let of_claims = !matches!(step, Step::DeletePod { .. } | Step::CreatePod { .. });
            if fails(n) {
                if of_claims {
                    break;
                }
                continue;
            }
            self.carry_out(step);
        }
        decision
    }

    fn pod(&mut self, uid: &Uid) -> &mut Pod {
        self.seen.pods.iter_mut().find(|p| p.uid == *uid).expect("a step names a pod that was seen")
    }

    /// Somebody deletes the pod. It is shown to the decision as the API keeps it.
    pub fn ask(&mut self, uid: &Uid) {
        let (now, grace) = (at(self.second), self.grace);
        let metadata = json!({
            "deletionTimestamp": at(self.second + grace).to_string(), "deletionGracePeriodSeconds": grace,
        });
        let pod = self.pod(uid);
        if pod.deletion.is_none() {
            pod.deletion = convert::pod(&json!({"metadata": metadata})).deletion;
            self.asked.insert(uid.clone(), now);
        }
    }

    fn revision(&mut self, name: &str) -> &mut Revision {
        self.seen.revisions.iter_mut().find(|r| r.name == name).expect("a step names a revision that was seen")
    }

    pub fn carry_out(&mut self, step: &Step) {
        let owner = Some(self.daemonset.uid.clone());
        match step.clone() {
            Step::AdoptPod { uid } => self.pod(&uid).controller = owner,
            Step::ReleasePod { uid } => self.pod(&uid).controller = None,
            Step::LabelPod { uid, hash } => {
                self.pod(&uid).labels.insert(HASH_LABEL.into(), hash);
            }
            Step::AdoptRevision { name } => self.revision(&name).controller = owner,
            Step::ReleaseRevision { name } => self.revision(&name).controller = None,
            Step::RenumberRevision { name, number } => self.revision(&name).number = number,
            Step::LabelRevision { name, hash } => {
                self.revision(&name).labels.insert(HASH_LABEL.into(), hash);
            }
            Step::DeleteRevision { name } => {
                self.revision(&name);
                self.seen.revisions.retain(|r| r.name != name);
            }
            Step::CreateRevision { name, hash, number, data } => {
                assert!(self.seen.revisions.iter().all(|r| r.name != name), "revision {name} exists");
                self.made_from.insert(hash.clone(), data.to_string());
                let labels = labels(&[("app", "d"), (HASH_LABEL, &hash)]);
                self.seen.revisions.push(Revision { name, labels, controller: owner, deleting: false, number, data });
            }
            Step::DeletePod { uid, why, .. } => {
                self.ask(&uid);
                let pod = self.pod(&uid);
                // As the API does it: what no agent has to end vanishes at once.
                let at_once = why == Ending::NodeGone || pod.phase != Phase::Active;
                if at_once {
                    self.seen.pods.retain(|p| p.uid != uid);
                }
            }
            Step::CreatePod { name, node, hash } => self.add_pod(&name, &node, &hash),
        }
    }

    pub fn add_pod(&mut self, name: &str, node: &str, hash: &str) {
        assert!(self.seen.pods.iter().all(|p| p.name != name), "pod {name} exists");
        self.pods_made += 1;
        let fresh = super::build::pod(name, node, hash);
        self.seen.pods.push(Pod {
            uid: Uid(format!("{}", self.pods_made)),
            created: at(self.second),
            ready_since: None,
            ..fresh
        });
    }

    /// The agent of this node has done what it was told: what ends has ended, what can get ready is.
    pub fn settle(&mut self, node: &str) {
        if self.seen.nodes.get(node).is_none_or(|n| n.contact != Contact::Reached) {
            return;
        }
        self.seen.pods.retain(|p| p.node.as_deref() != Some(node) || !p.is_ending());
        let now = at(self.second);
        for pod in self.seen.pods.iter_mut().filter(|p| p.node.as_deref() == Some(node)) {
            let bad = self.made_from.get(&pod.labels[HASH_LABEL]).is_some_and(|data| data.contains("bad"));
            let flashes = self.made_from.get(&pod.labels[HASH_LABEL]).is_some_and(|data| data.contains("flash"));
            if flashes && pod.ready_since.take().is_some() {
                pod.restarts += 1;
            } else if !bad && pod.phase == Phase::Active {
                pod.ready_since = pod.ready_since.or(Some(now));
            }
        }
    }

    pub fn settle_all(&mut self) {
        let nodes: Vec<String> = self.seen.nodes.keys().cloned().collect();
        nodes.iter().for_each(|n| self.settle(n));
    }

    /// Decides and lets the agents work, a second each, until nothing more happens. How many pods were ready at the worst moment.
    pub fn run(&mut self) -> usize {
        let mut fewest = self.ready();
        for _ in 0..200 {
            let decision = self.decide(|_| false);
            fewest = fewest.min(self.ready());
            self.second += 1;
            let before = self.seen.pods.clone();
            self.settle_all();
            if decision.steps.is_empty() && self.seen.pods == before {
                match decision.wake_at {
                    Some(later) => self.second = self.second.max(later.as_second()),
                    None => return fewest,
                }
            }
        }
        panic!("it does not come to rest: {:#?}", self.seen);
    }

    /// Nodes with a pod that serves and is not told to end.
    pub fn ready(&self) -> usize {
        let ready = self.seen.pods.iter().filter(|p| p.ready_since.is_some() && !p.is_ending());
        ready.filter_map(|p| p.node.as_deref()).collect::<BTreeSet<_>>().len()
    }

    /// Nodes with a ready pod of the present template.
    pub fn updated(&self) -> usize {
        let data = self.daemonset.template_data.as_ref();
        let present = |p: &&Pod| self.made_from.get(&p.labels[HASH_LABEL]).is_some_and(|d| d == data);
        let ready = self.seen.pods.iter().filter(|p| p.ready_since.is_some() && !p.is_ending());
        ready.filter(present).filter_map(|p| p.node.as_deref()).collect::<BTreeSet<_>>().len()
    }
}
