//! A made-up node: runs the pods that the store gives it, while its link is up; goes on with what it has while it is not.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::dice::Dice;

/// How long a pod takes at most to get ready, or to end.
const START_MAX: u64 = 20;
const STOP_MAX: u64 = 15;

pub struct Machine {
    pub name: String,
    pub up: bool,
    pods: BTreeMap<String, Running>,
}

struct Running {
    /// None: it never gets ready.
    ready_at: Option<Timestamp>,
    ready_since: Option<Timestamp>,
    failed: bool,
    gone_at: Option<Timestamp>,
    /// What the endpoint knows: nothing is sent twice.
    told: Option<(bool, bool)>,
}

/// What a machine tells the endpoint.
pub enum Report {
    Status { namespace: String, name: String, uid: String, status: Value },
    Gone { namespace: String, name: String, uid: String },
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        Machine { name: name.to_owned(), up: true, pods: BTreeMap::new() }
    }

    /// It starts anew: what it ran is started again.
    pub fn restart(&mut self, now: Timestamp, dice: &mut Dice) {
        for pod in self.pods.values_mut() {
            pod.ready_since = None;
            pod.told = None;
            if pod.ready_at.is_some() {
                pod.ready_at = Some(later(now, dice.below(START_MAX)));
            }
        }
    }

    /// A pod of it dies for good, as one that was evicted.
    pub fn fail_one(&mut self, dice: &mut Dice) {
        let uids: Vec<String> = self.pods.keys().cloned().collect();
        if let Some(pod) = dice.pick(&uids).and_then(|uid| self.pods.get_mut(uid)) {
            (pod.failed, pod.ready_since) = (true, None);
        }
    }

    /// The session begins anew: everything is told again.
    pub fn reconnect(&mut self) {
        self.up = true;
        self.pods.values_mut().for_each(|pod| pod.told = None);
    }

    /// When it has something to do by itself.
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        let of_pod = |pod: &Running| {
            let ready = pod.ready_at.filter(|_| pod.ready_since.is_none() && !pod.failed);
            [ready, pod.gone_at].into_iter().flatten().filter(|at| *at > now).min()
        };
        self.pods.values().filter_map(of_pod).min()
    }

    /// `wanted`: its pods as the store has them; None: the link is down.
    pub fn work(&mut self, wanted: Option<&[Value]>, now: Timestamp, dice: &mut Dice) -> Vec<Report> {
        if let Some(wanted) = wanted {
            self.pods.retain(|uid, _| wanted.iter().any(|pod| pod["metadata"]["uid"] == uid.as_str()));
            for pod in wanted {
                let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
                let bad = pod["spec"]["containers"][0]["image"].as_str().unwrap().contains("bad");
                let running = self.pods.entry(uid).or_insert_with(|| Running {
                    ready_at: (!bad).then(|| later(now, dice.below(START_MAX))),
                    ready_since: None,
                    failed: false,
                    gone_at: None,
                    told: None,
                });
                if !pod["metadata"]["deletionTimestamp"].is_null() && running.gone_at.is_none() {
                    running.gone_at = Some(later(now, dice.below(STOP_MAX)));
                }
            }
        }
        for pod in self.pods.values_mut().filter(|pod| !pod.failed) {
            if pod.ready_at.is_some_and(|at| at <= now) && pod.ready_since.is_none() {
                pod.ready_since = Some(now);
            }
        }
        let Some(wanted) = wanted else { return Vec::new() };
        let mut reports = Vec::new();
        for pod in wanted {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
            let running = self.pods.get_mut(&uid).unwrap();
            if running.gone_at.is_some_and(|at| at <= now) {
                self.pods.remove(&uid);
                reports.push(Report::Gone { namespace, name, uid });
                continue;
            }
            let state = (running.ready_since.is_some(), running.failed);
            if running.told != Some(state) {
                running.told = Some(state);
                reports.push(Report::Status { namespace, name, uid, status: status(running) });
            }
        }
        reports
    }
}

fn status(pod: &Running) -> Value {
    let ready = pod.ready_since.is_some();
    let since = pod.ready_since.unwrap_or_default();
    let condition = |name: &str| {
        json!({
            "type": name, "status": if ready { "True" } else { "False" }, "lastTransitionTime": format!("{since:.0}"),
            "reason": null, "message": null,
        })
    };
    let phase = if pod.failed { "Failed" } else { "Running" };
    json!({"phase": phase, "conditions": [condition("ContainersReady"), condition("Ready")]})
}

pub fn later(now: Timestamp, seconds: u64) -> Timestamp {
    now + jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap())
}
