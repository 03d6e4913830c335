//! What the endpoint is told of pods: the newest status of each, once, in batches; after a reconnect all of them, and now and then again.
//!
//! Driven by the session, which has it collect whenever the board moved and the connection has room. What is not collected in between
//! is never missed: the newest counts. Decides nothing about pods.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use pod::name::{Uid, WorkloadKey, WorkloadKind};
use proto::v1;
use serde_json::{Value, json};

use crate::board::{Board, FileOutcome, FileState, NodeFacts, Published};
use crate::sources::remote::{PodObject, Snapshot};
use crate::status;

/// Statuses of one message: the pods of a full node.
const BATCH_MAX: usize = 110;
/// Bytes of statuses after which a message is sent: well below the largest one.
const BATCH_BYTES: usize = 512 << 10;

/// What has been said in this session.
#[derive(Debug, Default)]
pub struct Reports {
    /// Of each pod what was said last.
    said: BTreeMap<Uid, Said>,
    /// What was looked at, to be passed over as long as it is the same.
    looked: BTreeMap<WorkloadKey, Weak<Published>>,
    /// The addresses of the node then: they are in every status.
    addresses: Vec<IpAddr>,
    /// All pods have been said once.
    whole: bool,
}

#[derive(Debug)]
struct Said {
    pod: v1::PodRef,
    /// None: it is to be said in any case.
    hash: Option<u64>,
    /// That no trace is left of it was said.
    gone: bool,
    /// It is the endpoint's own.
    own: bool,
}

impl Reports {
    /// What was said is said once more, as if the session had just begun: what the endpoint could not write then, or what another one has
    /// written over it, is mended by that.
    pub fn say_again(&mut self) {
        self.looked.clear();
        self.whole = false;
        for said in self.said.values_mut() {
            (said.hash, said.gone) = (None, false);
        }
    }

    /// What is to be said now, and whether there is more of it. `claimed`: whether the node has a record with this uid.
    pub fn collect(
        &mut self,
        board: &Board,
        snapshot: &Snapshot,
        claimed: impl Fn(&Uid) -> bool,
    ) -> (Option<v1::Statuses>, bool) {
        let node = board.node();
        if self.addresses != node.addresses {
            self.addresses.clone_from(&node.addresses);
            self.looked.clear();
        }
        let workloads = board.workloads();
        let mut batch = Batch::default();
        let mut here: BTreeSet<&Uid> = BTreeSet::new();
        self.looked.retain(|key, _| workloads.contains_key(key));
        for (key, published) in &workloads {
            here.extend(published.pods.iter().map(|view| &view.record.uid));
            let same = self.looked.get(key).is_some_and(|known| known.as_ptr() == Arc::as_ptr(published));
            // Of what has not been looked at yet the endpoint knows more than we: a daemon that runs is not ended by our start.
            if same || batch.is_full() || !published.known {
                continue;
            }
            for (uid, said) in statuses(published, &node) {
                self.say(uid, said, &mut batch);
            }
            self.looked.insert(key.clone(), Arc::downgrade(published));
        }
        let mut more = batch.is_full();
        // Until all that was heard is merged, a pod without a trace may be one that is about to be admitted.
        if board.merged() == snapshot.number && !more {
            self.of_objects(board, snapshot, |uid| here.contains(uid) || claimed(uid), &mut batch);
            more = batch.is_full();
        }
        for (uid, said) in self.said.iter_mut().filter(|(uid, said)| !said.own && !said.gone && !here.contains(uid)) {
            if !claimed(uid) {
                said.gone = true;
                batch.gone.push(said.pod.clone());
            }
        }
        self.said.retain(|uid, said| match said.own {
            true => snapshot.pods.contains_key(uid),
            false => !said.gone,
        });
        let Batch { pods, gone, .. } = batch;
        let whole = !more && !self.whole && workloads.values().all(|published| published.known);
        self.whole |= whole;
        let anything = whole || !pods.is_empty() || !gone.is_empty();
        (anything.then_some(v1::Statuses { pods, gone, whole }), more)
    }

    /// Of objects that nothing on the node stands for: what is to end has ended, what was refused has failed.
    fn of_objects(&mut self, board: &Board, snapshot: &Snapshot, traced: impl Fn(&Uid) -> bool, batch: &mut Batch) {
        let absent: Vec<(&Uid, &PodObject)> = snapshot.pods.iter().filter(|(uid, _)| !traced(uid)).collect();
        if absent.is_empty() {
            return;
        }
        let files = board.files();
        let files: BTreeMap<&str, &FileOutcome> = files.iter().map(|it| (it.file.as_str(), it)).collect();
        for (uid, object) in absent {
            let pod = reference(uid, &object.namespace, &object.name);
            if object.ends {
                let said = self.said.entry(uid.clone()).or_insert(Said { pod, hash: None, gone: false, own: true });
                if !std::mem::replace(&mut said.gone, true) {
                    batch.gone.push(said.pod.clone());
                }
            } else if let Some(outcome) = files.get(object.file.as_str()).filter(|it| it.state != FileState::Accepted) {
                let status = bytes(&refused(outcome));
                self.say(uid.clone(), Status { pod, status, mirror: Bytes::new() }, batch);
            }
        }
    }

    fn say(&mut self, uid: Uid, status: Status, batch: &mut Batch) {
        let Status { pod, status, mirror } = status;
        let mut hasher = DefaultHasher::new();
        hasher.write(&status);
        hasher.write(&mirror);
        let hash = Some(hasher.finish());
        if self.said.get(&uid).is_some_and(|said| said.hash == hash) {
            return;
        }
        let own = mirror.is_empty();
        self.said.insert(uid, Said { pod: pod.clone(), hash, gone: false, own });
        batch.bytes = batch.bytes.saturating_add(status.len()).saturating_add(mirror.len());
        batch.pods.push(v1::PodStatus { pod: Some(pod), status, mirror });
    }
}

#[derive(Debug, Default)]
struct Batch {
    pods: Vec<v1::PodStatus>,
    gone: Vec<v1::PodRef>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.pods.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES
    }
}

struct Status {
    pod: v1::PodRef,
    status: Bytes,
    mirror: Bytes,
}

/// Of every pod of a workload. Of two of one name only the newer: a static pod that ends while its successor stands has no mirror of its own.
fn statuses(published: &Published, node: &NodeFacts) -> Vec<(Uid, Status)> {
    let newer = |at: usize, name: &str| published.pods[at + 1..].iter().any(|later| later.record.name == name);
    let newest = published.pods.iter().enumerate().filter(|(at, view)| !newer(*at, &view.record.name));
    let each = newest.map(|(_, view)| {
        let record = &view.record;
        let mut pod = status::pod(published, view, node);
        let status = bytes(&pod["status"].take());
        let mirror = match record.workload.kind {
            WorkloadKind::Control => Bytes::new(),
            WorkloadKind::Pod | WorkloadKind::DaemonSet => {
                if let Some(pod) = pod.as_object_mut() {
                    pod.remove("status");
                }
                bytes(&pod)
            }
        };
        let pod = reference(&record.uid, &record.workload.namespace, &record.name);
        (record.uid.clone(), Status { pod, status, mirror })
    });
    each.collect()
}

fn reference(uid: &Uid, namespace: &str, name: &str) -> v1::PodRef {
    v1::PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.0.clone() }
}

/// v1 PodStatus of a pod that is not taken, with the kubelet's reasons where it has one.
fn refused(outcome: &FileOutcome) -> Value {
    let known = ["NodeAffinity", "NodePorts"];
    let reason = match outcome.state {
        FileState::OutOfPods => "OutOfpods",
        _ => {
            known.into_iter().find(|word| outcome.message.contains(&format!("{word}: "))).unwrap_or("FailedValidation")
        }
    };
    json!({"phase": "Failed", "reason": reason, "message": format!("Pod was rejected: {}", outcome.message)})
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    fn static_pod() -> (WorkloadKey, Published) {
        sample::running()
    }

    fn names(statuses: &Option<v1::Statuses>) -> Vec<String> {
        let pods = statuses.iter().flat_map(|it| &it.pods);
        pods.map(|it| it.pod.as_ref().unwrap().name.clone()).collect()
    }

    fn object(ends: bool) -> PodObject {
        PodObject { namespace: "default".into(), name: "a".into(), ends, file: "control/pod/default/a".into() }
    }

    fn heard(pods: Vec<(&str, PodObject)>) -> Snapshot {
        let pods: BTreeMap<_, _> = pods.into_iter().map(|(uid, it)| (Uid(uid.into()), it)).collect();
        Snapshot { number: 1, pods: pods.into(), ..Snapshot::default() }
    }

    #[test]
    fn of_a_pod_and_its_successor_of_the_same_name_only_the_successor_is_shown() {
        let (board, _commands) = Board::new();
        let (key, mut published) = static_pod();
        let mut successor = published.pods[0].clone();
        successor.record.uid = Uid("next".into());
        published.pods.push(successor);
        board.publish(&key, Some(published));
        let (said, _) = Reports::default().collect(&board, &Snapshot::default(), |_| true);
        let uids: Vec<String> = said.unwrap().pods.into_iter().map(|it| it.pod.unwrap().uid).collect();
        assert_eq!(uids, ["next"]);
    }

    #[test]
    fn a_status_is_said_once_and_again_when_it_is_another_one() {
        let (board, _commands) = Board::new();
        let (key, published) = static_pod();
        board.publish(&key, Some(published.clone()));
        let mut reports = Reports::default();
        let (first, more) = reports.collect(&board, &Snapshot::default(), |_| true);
        assert!(first.as_ref().unwrap().whole && !more);
        assert_eq!(names(&first).len(), published.pods.len());
        assert!(!first.unwrap().pods[0].mirror.is_empty(), "a static pod is to be mirrored");
        assert_eq!(reports.collect(&board, &Snapshot::default(), |_| true).0, None);
        board.publish(&key, Some(published.clone()));
        assert_eq!(reports.collect(&board, &Snapshot::default(), |_| true).0, None, "it says the same");
        board.set_node(|node| node.addresses = vec!["192.0.2.1".parse().unwrap()]);
        let (again, _) = reports.collect(&board, &Snapshot::default(), |_| true);
        assert!(!again.as_ref().unwrap().whole && !names(&again).is_empty());
        board.publish(&key, None);
        assert_eq!(reports.collect(&board, &Snapshot::default(), |_| true).0, None, "its record is still there");
        let (gone, _) = reports.collect(&board, &Snapshot::default(), |_| false);
        assert_eq!(gone.unwrap().gone.len(), published.pods.len());
        assert_eq!(reports.collect(&board, &Snapshot::default(), |_| false).0, None);
    }

    #[test]
    fn what_the_runtime_has_not_told_yet_is_not_said_and_is_not_gone() {
        let (board, _commands) = Board::new();
        let (key, published) = static_pod();
        board.announce(&key, Published { known: false, ..published.clone() });
        let mut reports = Reports::default();
        assert_eq!(reports.collect(&board, &Snapshot::default(), |_| false), (None, false), "nor are these all");
        board.publish(&key, Some(published));
        let (said, _) = reports.collect(&board, &Snapshot::default(), |_| true);
        let said = said.unwrap();
        assert!(said.whole && !said.pods.is_empty() && said.gone.is_empty());
    }

    #[test]
    fn all_is_said_again_when_asked_for_what_is_gone_too() {
        let (board, _commands) = Board::new();
        let (key, published) = static_pod();
        board.publish(&key, Some(published));
        board.set_merged(None, 1);
        let snapshot = heard(vec![("o1", object(true))]);
        let mut reports = Reports::default();
        let claimed = |uid: &Uid| uid.0 != "o1";
        let (first, _) = reports.collect(&board, &snapshot, claimed);
        assert!(first.is_some() && reports.collect(&board, &snapshot, claimed).0.is_none());
        reports.say_again();
        assert_eq!(reports.collect(&board, &snapshot, claimed).0, first);
        reports.say_again();
        board.publish(&key, None);
        let (gone, _) = reports.collect(&board, &snapshot, |_| false);
        assert_eq!(gone.unwrap().gone.len(), 2, "what has gone since is not forgotten");
    }

    #[test]
    fn an_object_that_is_to_end_is_gone_when_no_trace_is_left_and_all_is_merged() {
        let (board, _commands) = Board::new();
        let snapshot = heard(vec![("u1", object(true))]);
        let mut reports = Reports::default();
        let gone = |it: &(Option<v1::Statuses>, bool)| it.0.as_ref().map_or(0, |it| it.gone.len());
        assert_eq!(gone(&reports.collect(&board, &snapshot, |_| false)), 0, "it may be about to be admitted");
        board.set_merged(None, 1);
        assert_eq!(gone(&reports.collect(&board, &snapshot, |_| true)), 0, "it has a record");
        assert_eq!(gone(&reports.collect(&board, &snapshot, |_| false)), 1);
        assert_eq!(gone(&reports.collect(&board, &snapshot, |_| false)), 0, "said once a session");
    }

    #[test]
    fn a_refused_object_has_failed_and_says_why() {
        let (board, _commands) = Board::new();
        board.set_merged(None, 1);
        board.set_files(vec![FileOutcome {
            file: "control/pod/default/a".into(),
            line: 1,
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "a".into(),
            state: FileState::Refused,
            message: "control/pod/default/a:1: spec.x: is unknown".into(),
        }]);
        let mut reports = Reports::default();
        let (said, _) = reports.collect(&board, &heard(vec![("u1", object(false))]), |_| false);
        let status: Value = serde_json::from_slice(&said.unwrap().pods[0].status).unwrap();
        assert_eq!((status["phase"].as_str(), status["reason"].as_str()), (Some("Failed"), Some("FailedValidation")));
        assert!(status["message"].as_str().unwrap().contains("spec.x"));
    }

    #[test]
    fn many_statuses_come_in_batches_and_the_last_one_says_that_all_is_said() {
        let (board, _commands) = Board::new();
        let (key, published) = static_pod();
        for number in 0..300 {
            let mut published = published.clone();
            published.pods.truncate(1);
            published.pods[0].record.uid = Uid(format!("u{number}"));
            board.publish(&WorkloadKey { name: format!("d{number}"), ..key.clone() }, Some(published));
        }
        let mut reports = Reports::default();
        let mut counts = Vec::new();
        loop {
            let (said, more) = reports.collect(&board, &Snapshot::default(), |_| true);
            let said = said.unwrap();
            counts.push(said.pods.len());
            assert_eq!(said.whole, !more);
            if !more {
                break;
            }
        }
        assert_eq!((counts.iter().sum::<usize>(), counts.len()), (300, 3));
    }
}
