//! The loop of the nodes: conditions and taints by what was heard, and what their pods' conditions say while nothing is.

pub mod decide;
mod leases;
mod read;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::leases::Leases;

use self::decide::{STATUS_UNKNOWN, Status, Verdict, decide};
use super::of::{self, LEASES, NODES, PODS, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::{Objects, Patch};
use crate::clock::seconds;
use crate::contacts::{Contacts, LATE_MAX};
use crate::daemonset::after;

/// The namespace of the nodes' Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// See the top of the file.
pub struct Nodes {
    objects: Objects,
    contacts: Contacts,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Node(String),
    /// The pods of all nodes whose reach has changed: read once for all.
    Pods,
}

impl Nodes {
    pub fn new(objects: Objects, contacts: Contacts) -> Nodes {
        Nodes { objects, contacts }
    }

    async fn node(&self, name: &str, now: Timestamp) -> Result<Looked, ApiError> {
        let object = match self.objects.get(*NODES, "", name).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                self.contacts.forget(name);
                return Ok(Looked::Gone);
            }
            Err(error) => return Err(error),
        };
        if after(now, LATE_MAX) <= self.objects.clock().now() {
            // The store hung, and sessions that wait for it take no heartbeat.
            self.contacts.listen_anew();
        }
        let verdict = decide(&read::seen(&object), &self.contacts.of(name), now);
        self.write(name, &object, &verdict).await?;
        Ok(Looked::Done(Some(verdict.look_at)))
    }

    async fn write(&self, name: &str, object: &Value, verdict: &Verdict) -> Result<(), ApiError> {
        let uid = &object["metadata"]["uid"];
        if !verdict.conditions.is_empty() {
            for condition in verdict.conditions.iter().filter(|c| c.name == "Ready") {
                tracing::info!(node = name, ready = ?condition.status, why = condition.message, "node");
            }
            let conditions: Vec<Value> = verdict.conditions.iter().map(read::condition).collect();
            // By their types: what the agent's session writes beside them stays.
            let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": conditions}});
            self.objects.patch(*NODES, "", name, "status", Patch::Strategic(patch), &writer()).await?;
        }
        if let Some(taints) = &verdict.taints {
            let taints: Vec<Value> = taints.iter().map(read::taint).collect();
            let mut changed = self.objects.get(*NODES, "", name).await?;
            if changed["metadata"]["uid"] != *uid || changed["spec"]["taints"] != object["spec"]["taints"] {
                return Err(ApiError::modified(*NODES, name));
            }
            changed["spec"]["taints"] = Value::Array(taints);
            self.objects.update(*NODES, "", name, "", changed, &writer()).await?;
        }
        Ok(())
    }

    /// A pod of a node that is silent is not known to be ready; it is again when the node is back.
    async fn pods(&self, now: Timestamp) -> Result<Looked, ApiError> {
        let mut silent: BTreeMap<String, bool> = BTreeMap::new();
        of::each(&self.objects, *NODES, None, None, |node| {
            let ready = read::seen(&node).conditions.into_iter().find(|c| c.name == "Ready");
            silent.insert(of::meta(&node, "name").to_owned(), ready.is_some_and(|c| c.status == Status::Unknown));
        })
        .await?;
        let mut marks = Vec::new();
        of::each(&self.objects, *PODS, None, None, |pod| {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if let Some(condition) = silent.get(node).and_then(|silent| mark(&pod, *silent, now)) {
                let text = |field| of::meta(&pod, field).to_owned();
                marks.push((text("namespace"), text("name"), text("uid"), condition));
            }
        })
        .await?;
        for (namespace, name, uid, condition) in marks {
            let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
            match self.objects.patch(*PODS, &namespace, &name, "status", Patch::Strategic(patch), &writer()).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Looked::Gone)
    }
}

impl Looks for Nodes {
    type Key = Key;
    const NAME: &'static str = "nodes";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<Key>) -> Result<(), ApiError> {
        of::each(&self.objects, *NODES, None, None, |node| wake.push(Key::Node(of::meta(&node, "name").to_owned())))
            .await?;
        wake.push(Key::Pods);
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        if change.kind == *NODES {
            let ready = |node: Option<&Value>| {
                let conditions = read::seen(node?).conditions;
                conditions.into_iter().find(|c| c.name == "Ready").map(|c| c.status)
            };
            let (before, now) = (ready(change.before()), ready(change.now()));
            if before != now && [before, now].contains(&Some(Status::Unknown)) {
                wake.push(Key::Pods);
            }
            wake.push(Key::Node(change.name.clone()));
        }
        if change.kind == *LEASES && change.namespace == LEASE_NAMESPACE {
            let renewed = change.now().and_then(|lease| of::moment(&lease["spec"]["renewTime"]));
            if let Some(at) = renewed {
                self.contacts.heard_elsewhere(&change.name, at);
            }
        }
    }

    async fn nudged(&self) {
        self.contacts.changed().await;
    }

    fn nudges(&mut self, wake: &mut Vec<Key>) {
        wake.extend(self.contacts.take_changed().into_iter().map(Key::Node));
    }

    async fn look(&mut self, key: &Key, now: Timestamp, _wake: &mut Vec<Key>) -> Result<Looked, ApiError> {
        match key {
            Key::Node(name) => self.node(name, now).await,
            Key::Pods => self.pods(now).await,
        }
    }
}

/// The condition Ready that a pod of a node should have instead of its own, if another.
fn mark(pod: &Value, silent: bool, now: Timestamp) -> Option<Value> {
    let find = |name: &str| pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == name);
    let ready = find("Ready")?;
    if silent {
        let ended = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
        return (ready["status"] == "True" && !ended).then(|| {
            json!({
                "type": "Ready", "status": "False", "lastTransitionTime": seconds(now), "reason": STATUS_UNKNOWN,
                "message": "Nothing is heard of the pod's node; the pod runs on as far as is known.",
            })
        });
    }
    let ours = ready["reason"] == STATUS_UNKNOWN && ready["status"] == "False";
    let ready_again = ours && find("ContainersReady").is_some_and(|c| c["status"] == "True");
    ready_again.then(|| {
        json!({
            "type": "Ready", "status": "True", "lastTransitionTime": seconds(now), "reason": null, "message": null,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: &str, reason: &str) -> Value {
        json!({"status": {"phase": "Running", "conditions": [
            {"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": ready, "reason": reason},
        ]}})
    }

    #[test]
    fn pods_of_a_silent_node_are_not_ready_until_it_is_back() {
        let now = Timestamp::from_second(60).unwrap();
        let gone = mark(&pod("True", ""), true, now).unwrap();
        assert_eq!((&gone["status"], &gone["reason"]), (&json!("False"), &json!(STATUS_UNKNOWN)));
        assert_eq!(mark(&pod("False", STATUS_UNKNOWN), true, now), None);
        assert_eq!(mark(&pod("False", STATUS_UNKNOWN), false, now).unwrap()["status"], "True");
        assert_eq!(mark(&pod("False", "ContainersNotReady"), false, now), None);
        assert_eq!(mark(&pod("True", ""), false, now), None);
    }
}
