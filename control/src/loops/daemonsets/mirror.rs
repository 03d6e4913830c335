//! What decisions about DaemonSets look at, kept as plain data and as new as what was told. It holds of every object only what a decision
//! judges: so a change of anything else wakes nobody, and nothing is read again for every look.

use std::collections::BTreeMap;
use std::sync::Arc;

use pod::spec::TaintEffect;
use serde_json::Value;

use super::super::nodes::decide::{NOT_READY, UNREACHABLE};
use super::super::of::{self, DAEMON_SETS, NODES, PODS, REVISIONS};
use super::super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::convert;
use crate::daemonset::{Contact, DaemonSet, Node, Pod, Revision, Seen};
use crate::rollout::revision_base;

/// A DaemonSet by its namespace and name.
pub type Key = (String, String);

#[derive(Debug, Default)]
pub struct Mirror {
    /// Up to here everything is in it.
    upto: u64,
    /// Each with its resourceVersion.
    sets: BTreeMap<Key, (Arc<DaemonSet>, u64)>,
    nodes: BTreeMap<String, Node>,
    /// By namespace, then by name.
    pods: BTreeMap<String, BTreeMap<String, Pod>>,
    revisions: BTreeMap<String, BTreeMap<String, Revision>>,
}

impl Mirror {
    /// Everything as of a revision.
    pub async fn read(objects: &Objects, revision: u64) -> Result<Mirror, ApiError> {
        let mut mirror = Mirror { upto: revision, ..Mirror::default() };
        // A store in which nothing was written has no revision that could be asked for.
        let as_of = (revision > 0).then_some(revision);
        for kind in [*DAEMON_SETS, *NODES, *PODS, *REVISIONS] {
            let place =
                |object: &Value| (of::meta(object, "namespace").to_owned(), of::meta(object, "name").to_owned());
            of::each(objects, kind, None, as_of, |object| {
                let (namespace, name) = place(&object);
                if kind == *DAEMON_SETS {
                    mirror.put_set((namespace, name), Some(&object));
                } else if kind == *NODES {
                    mirror.put_node(&name, Some(&object));
                } else if kind == *PODS {
                    mirror.put_pod(&namespace, &name, Some(&object));
                } else {
                    mirror.put_revision(&namespace, &name, Some(&object));
                }
            })
            .await?;
        }
        Ok(mirror)
    }

    pub fn upto(&self) -> u64 {
        self.upto
    }

    pub fn told_upto(&mut self, revision: u64) {
        self.upto = self.upto.max(revision);
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.sets.keys()
    }

    /// With its resourceVersion.
    pub fn set(&self, key: &Key) -> Option<(Arc<DaemonSet>, u64)> {
        self.sets.get(key).cloned()
    }

    /// Takes a change in, and wakes whom it concerns.
    pub fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        if change.revision <= self.upto {
            return;
        }
        let (namespace, name) = (&change.namespace, &change.name);
        if change.kind == *DAEMON_SETS {
            let key = (namespace.clone(), name.clone());
            if self.put_set(key.clone(), change.now()) {
                wake.push(key);
            }
        } else if change.kind == *NODES {
            if self.put_node(name, change.now()) {
                wake.extend(self.sets.keys().cloned());
            }
        } else if change.kind == *PODS {
            let before = self.pods.get(namespace).and_then(|pods| pods.get(name)).cloned();
            if self.put_pod(namespace, name, change.now()) {
                let now = self.pods.get(namespace).and_then(|pods| pods.get(name));
                for pod in before.iter().chain(now) {
                    self.concerned(namespace, pod.controller.as_ref(), &pod.labels, wake);
                }
            }
        } else if change.kind == *REVISIONS {
            let before = self.revisions.get(namespace).and_then(|all| all.get(name)).cloned();
            // A revision that somebody controls has been made by its controller, who knows.
            let known = change.is_creation() && change.now().is_some_and(|object| of::controller(object).is_some());
            if self.put_revision(namespace, name, change.now()) && !known {
                let now = self.revisions.get(namespace).and_then(|all| all.get(name));
                for revision in before.iter().chain(now) {
                    self.concerned(namespace, revision.controller.as_ref(), &revision.labels, wake);
                }
            }
        }
    }

    /// The DaemonSet that controls it, else those that might adopt it.
    fn concerned(
        &self,
        namespace: &str,
        controller: Option<&pod::name::Uid>,
        labels: &BTreeMap<String, String>,
        wake: &mut Vec<Key>,
    ) {
        let here = self.in_namespace(namespace);
        let concerned = here.filter(|(_, set)| match controller {
            Some(uid) => set.uid == *uid,
            None => set.selector.matches(labels),
        });
        wake.extend(concerned.map(|(key, _)| key.clone()));
    }

    fn in_namespace<'m>(&'m self, namespace: &'m str) -> impl Iterator<Item = (&'m Key, &'m Arc<DaemonSet>)> {
        let from = (namespace.to_owned(), String::new());
        let here = self.sets.range(from..).take_while(move |((of, _), _)| of == namespace);
        here.map(|(key, (set, _))| (key, set))
    }

    /// What a decision about `set` looks at.
    pub fn seen(&self, set: &DaemonSet) -> Seen {
        let theirs = |controller: Option<&pod::name::Uid>, labels: &BTreeMap<String, String>| match controller {
            Some(uid) => *uid == set.uid,
            None => set.selector.matches(labels),
        };
        let pods = self.pods.get(&set.namespace).into_iter().flat_map(BTreeMap::values);
        let revisions = self.revisions.get(&set.namespace).into_iter().flat_map(BTreeMap::values);
        Seen {
            version: self.upto,
            nodes: self.nodes.clone(),
            pods: pods.filter(|pod| theirs(pod.controller.as_ref(), &pod.labels)).cloned().collect(),
            revisions: revisions
                .filter(|r| theirs(r.controller.as_ref(), &r.labels) || r.name.starts_with(revision_base(&set.name)))
                .cloned()
                .collect(),
        }
    }

    /// A pod's name by its uid.
    pub fn pod_name(&self, namespace: &str, uid: &pod::name::Uid) -> Option<&str> {
        let mut pods = self.pods.get(namespace)?.values();
        pods.find(|pod| pod.uid == *uid).map(|pod| pod.name.as_str())
    }

    /// Whether there is anything to look at anew. What only the loop itself writes, the status, is not.
    fn put_set(&mut self, key: Key, object: Option<&Value>) -> bool {
        let Some(object) = object else { return self.sets.remove(&key).is_some() };
        let set = match convert::daemonset(object) {
            Ok(set) => Arc::new(set),
            Err(error) => {
                // What was wanted before is still wanted: nobody has said that its pods are to be left alone.
                tracing::warn!(daemonset = ?key, %error, "cannot be judged; what was known of it stands");
                return false;
            }
        };
        let known = self.sets.insert(key, (set.clone(), of::revision(object)));
        known.is_none_or(|(known, _)| DaemonSet { status: set.status.clone(), ..(*known).clone() } != *set)
    }

    fn put_node(&mut self, name: &str, object: Option<&Value>) -> bool {
        let Some(object) = object else { return self.nodes.remove(name).is_some() };
        let node = without_contact_taints(convert::node(object, contact(object)));
        self.nodes.get(name) != Some(&node) && {
            self.nodes.insert(name.to_owned(), node);
            true
        }
    }

    fn put_pod(&mut self, namespace: &str, name: &str, object: Option<&Value>) -> bool {
        let Some(object) = object else { return take(&mut self.pods, namespace, name) };
        put(&mut self.pods, namespace, name, convert::pod(object))
    }

    fn put_revision(&mut self, namespace: &str, name: &str, object: Option<&Value>) -> bool {
        let Some(object) = object else { return take(&mut self.revisions, namespace, name) };
        put(&mut self.revisions, namespace, name, convert::revision(object))
    }
}

/// As the loop of the nodes has judged it. A node of which nothing was ever heard can be told as much as any other: it has not been late yet.
fn contact(node: &Value) -> Contact {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.find(|c| c["type"] == "Ready" && c["status"] == "Unknown");
    match ready {
        None => Contact::Reached,
        Some(ready) => {
            let since = of::moment(&ready["lastHeartbeatTime"]).or_else(|| of::moment(&ready["lastTransitionTime"]));
            let message = ready["message"].as_str().unwrap_or_default();
            // What follows says what that means for its daemons.
            let reason = message.split(';').next().unwrap_or_default().trim_end_matches('.').to_owned();
            Contact::Lost { since: since.unwrap_or_default(), reason }
        }
    }
}

/// Whether a node can be reached is its contact: a daemon belongs on it all the same, and an update that it missed is said to be behind. In
/// Kubernetes such a node is none that should run the daemon.
fn without_contact_taints(mut node: Node) -> Node {
    let of_contact = |taint: &pod::spec::Taint| {
        [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) && taint.effect == TaintEffect::NoSchedule
    };
    node.placed.taints.retain(|taint| !of_contact(taint));
    node
}

type ByPlace<T> = BTreeMap<String, BTreeMap<String, T>>;

fn put<T: PartialEq>(all: &mut ByPlace<T>, namespace: &str, name: &str, value: T) -> bool {
    let here = all.entry(namespace.to_owned()).or_default();
    here.get(name) != Some(&value) && {
        here.insert(name.to_owned(), value);
        true
    }
}

fn take<T>(all: &mut ByPlace<T>, namespace: &str, name: &str) -> bool {
    let Some(here) = all.get_mut(namespace) else { return false };
    let was = here.remove(name).is_some();
    if here.is_empty() {
        all.remove(namespace);
    }
    was
}
