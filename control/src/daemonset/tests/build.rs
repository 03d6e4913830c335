//! Small valid values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pod::manifest::{self, Document};
use pod::name::Uid;
use pod::spec::{PodTemplate, Taint, TaintEffect};

use crate::daemonset::{Contact, DaemonSet, HASH_LABEL, Node, Phase, Pod, Revision, Status};
use crate::rollout::{Share, Strategy};
use crate::selector::Selector;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A template for nodes with the label `daemon=yes`, read as users write it.
pub fn template(annotations: &str) -> Arc<PodTemplate> {
    let text = format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: d}}\nspec:\n  selector: {{matchLabels: {{app: d}}}}\n  \
         template:\n    metadata: {{labels: {{app: d}}, annotations: {{{annotations}}}}}\n    spec:\n      \
         nodeSelector: {{daemon: 'yes'}}\n      containers: [{{name: main, image: 'busybox:1'}}]\n"
    );
    let parsed = manifest::parse("d.yaml", text.as_bytes(), &manifest::Context { node_name: "n".into() });
    match parsed.documents.into_iter().next().unwrap().result.unwrap() {
        Document::Workload(workload) => workload.template,
        other => panic!("a DaemonSet was read as {other:?}"),
    }
}

/// A DaemonSet with the template data `v1`.
pub fn daemonset(strategy: Strategy) -> DaemonSet {
    DaemonSet {
        namespace: "default".into(),
        name: "d".into(),
        uid: Uid("ds".into()),
        generation: 1,
        deleting: false,
        selector: Selector::of_labels(&labels(&[("app", "d")])),
        template: template(""),
        template_data: "v1".into(),
        template_generation: None,
        strategy,
        min_ready: Duration::ZERO,
        history_limit: 10,
        status: Status::default(),
    }
}

pub fn unavailable(count: u32) -> Strategy {
    Strategy::RollingUpdate { max_unavailable: Share::Count(count), max_surge: Share::Count(0) }
}

pub fn surge(count: u32) -> Strategy {
    Strategy::RollingUpdate { max_unavailable: Share::Count(0), max_surge: Share::Count(count) }
}

/// A node for the daemon, in reach.
pub fn node(name: &str) -> Node {
    let placed =
        pod::desired::Node { name: name.into(), labels: labels(&[("daemon", "yes")]), ..pod::desired::Node::default() };
    Node { placed, contact: Contact::Reached }
}

pub fn tainted(name: &str, effect: TaintEffect) -> Node {
    let mut node = node(name);
    node.placed.taints.push(Taint { key: "k".into(), value: "v".into(), effect });
    node
}

pub fn lost(name: &str, since: i64) -> Node {
    Node { contact: Contact::Lost { since: at(since), reason: "no heartbeat".into() }, ..node(name) }
}

/// A pod of the DaemonSet, made at 0 from the template with this hash and ready since then.
pub fn pod(name: &str, node: &str, hash: &str) -> Pod {
    Pod {
        name: name.into(),
        uid: Uid(format!("uid-{name}")),
        node: Some(node.into()),
        labels: labels(&[("app", "d"), (HASH_LABEL, hash)]),
        controller: Some(Uid("ds".into())),
        phase: Phase::Active,
        ready_since: Some(at(0)),
        created: at(0),
        deletion: None,
        restarts: 0,
        trouble: None,
    }
}

/// A revision of the DaemonSet called `d-<data>` whose hash is its data.
pub fn revision(data: &str, number: i64) -> Revision {
    Revision {
        name: format!("d-{data}"),
        labels: labels(&[("app", "d"), (HASH_LABEL, data)]),
        controller: Some(Uid("ds".into())),
        deleting: false,
        number,
        data: data.into(),
    }
}

impl Node {
    /// The second at which it was lost.
    pub fn since(&self) -> i64 {
        match &self.contact {
            Contact::Lost { since, .. } => since.as_second(),
            Contact::Reached => panic!("{} is reached", self.placed.name),
        }
    }
}
