//! What must hold after every step, and what at rest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::world::{Seen, World, place};

#[derive(Default)]
pub struct Judge {
    /// Pods that were ready and not told to end, by uid, with the DaemonSet's uid and the node.
    serving: BTreeMap<String, (String, String)>,
    /// Deleted by people: not the update's doing.
    forgiven: BTreeSet<String>,
    generations: BTreeMap<String, i64>,
}

impl Judge {
    pub fn forgive(&mut self, pod: &str) {
        self.forgiven.insert(pod.to_owned());
    }

    pub fn before_step(&mut self, seen: &Seen) {
        self.serving = seen.pods.iter().filter(|pod| serves(pod)).filter_map(known).collect();
    }

    pub fn after_step(&mut self, seen: &Seen) {
        let Seen { pods, sets, nodes, .. } = seen;
        for set in sets {
            let uid = set["metadata"]["uid"].as_str().unwrap();
            let of_set: Vec<&Value> = pods.iter().filter(|pod| owner(pod) == Some(uid)).collect();
            one_a_node(set, &of_set);
            self.within_budget(set, &of_set, nodes);
            self.forward(set);
        }
        self.before_step(seen);
    }

    /// An observed generation never goes back and is never ahead.
    fn forward(&mut self, set: &Value) {
        let observed = set["status"]["observedGeneration"].as_i64().unwrap_or(0);
        let before = self.generations.insert(set["metadata"]["uid"].as_str().unwrap().to_owned(), observed);
        assert!(before.is_none_or(|before| before <= observed), "a generation goes back: {set}");
        assert!(observed <= set["metadata"]["generation"].as_i64().unwrap(), "a generation is ahead: {set}");
    }

    /// Of the pods that were ready an update takes as many as leave enough nodes with one.
    fn within_budget(&self, set: &Value, pods: &[&Value], nodes: &[Value]) {
        let uid = set["metadata"]["uid"].as_str().unwrap();
        let wanted: BTreeSet<&str> = nodes.iter().filter(|node| wants(node)).filter_map(name).collect();
        let reached: BTreeSet<&str> =
            nodes.iter().filter(|node| wants(node) && !unknown(node)).filter_map(name).collect();
        let serving: BTreeSet<&str> = pods.iter().filter(|pod| serves(pod)).filter_map(|pod| node(pod)).collect();
        let taken = pods.iter().filter(|pod| {
            let before = self.serving.get(pod["metadata"]["uid"].as_str().unwrap());
            let was = before.is_some_and(|(of, on)| of == uid && wanted.contains(on.as_str()));
            let by_us = !self.forgiven.contains(name(pod).unwrap());
            // Where its successor serves already nobody is without.
            let bare = node(pod).is_none_or(|node| !serving.contains(node));
            was && by_us
                && bare
                && !pod["metadata"]["deletionTimestamp"].is_null()
                && set["metadata"]["deletionTimestamp"].is_null()
        });
        if taken.count() == 0 {
            return;
        }
        let rolling = &set["spec"]["updateStrategy"]["rollingUpdate"];
        let share = |field: &str| match &rolling[field] {
            Value::String(percent) => {
                let percent: usize = percent.trim_end_matches('%').parse().unwrap();
                (wanted.len() * percent).div_ceil(100)
            }
            number => usize::try_from(number.as_u64().unwrap_or(0)).unwrap(),
        };
        let allowed = if set["spec"]["updateStrategy"]["type"] == "OnDelete" {
            0
        } else if share("maxSurge") > 0 {
            share("maxSurge")
        } else {
            share("maxUnavailable").max(1)
        };
        let without: Vec<&&str> = reached.iter().filter(|node| !serving.contains(*node)).collect();
        assert!(without.len() <= allowed, "{:?} nodes are without a ready pod, {allowed} may be: {set:#}", without);
    }

    pub async fn at_rest(&self, world: &World) {
        let pods = world.list("v1", "Pod").await;
        let nodes = world.list("v1", "Node").await;
        let namespaces = world.list("v1", "Namespace").await;
        let sets = world.list("apps/v1", "DaemonSet").await;
        let names: BTreeSet<&str> = nodes.iter().filter_map(name).collect();
        for namespace in &namespaces {
            assert!(namespace["metadata"]["deletionTimestamp"].is_null(), "still there: {namespace:#}");
        }
        let spaces: BTreeSet<&str> = namespaces.iter().filter_map(name).collect();
        for (kind, wanted) in [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")] {
            let having: BTreeSet<String> =
                world.list("v1", kind).await.iter().filter(|o| name(o) == Some(wanted)).map(|o| place(o).0).collect();
            assert_eq!(having, spaces.iter().map(|s| (*s).to_owned()).collect(), "{kind} {wanted}");
        }
        for node in &nodes {
            let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
            assert_eq!(ready.map(|c| &c["status"]), Some(&"True".into()), "{node:#}");
            assert!(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), "{node:#}");
        }
        let leases = world.list("coordination.k8s.io/v1", "Lease").await;
        assert_eq!(leases.iter().filter_map(name).collect::<BTreeSet<_>>(), names, "a Lease a node");
        let mut owners: BTreeSet<&str> = sets.iter().filter_map(|set| set["metadata"]["uid"].as_str()).collect();
        owners.extend(nodes.iter().filter_map(|node| node["metadata"]["uid"].as_str()));
        let revisions = world.list("apps/v1", "ControllerRevision").await;
        for object in pods.iter().chain(&revisions).chain(&leases) {
            for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
                assert!(owners.contains(owner["uid"].as_str().unwrap()), "its owner is gone: {object:#}");
            }
        }
        for pod in &pods {
            assert!(node(pod).is_some_and(|node| names.contains(node)), "its node is gone: {pod:#}");
            assert!(pod["metadata"]["deletionTimestamp"].is_null(), "it ends for ever: {pod:#}");
        }
        for set in &sets {
            self.set_at_rest(set, &pods, &nodes);
        }
    }

    fn set_at_rest(&self, set: &Value, pods: &[Value], nodes: &[Value]) {
        assert!(set["metadata"]["deletionTimestamp"].is_null(), "still there: {set:#}");
        let wanted: BTreeSet<&str> = nodes.iter().filter(|node| wants(node)).filter_map(name).collect();
        let mine: Vec<&Value> = pods.iter().filter(|pod| owner(pod) == set["metadata"]["uid"].as_str()).collect();
        let serving: BTreeSet<&str> = mine.iter().filter(|pod| serves(pod)).filter_map(|pod| node(pod)).collect();
        assert_eq!(serving, wanted, "a ready pod a node: {set:#}");
        assert_eq!(mine.len(), wanted.len(), "and no more: {set:#}");
        for pod in mine {
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(pod["spec"]["containers"][0]["image"], *image, "of the newest template");
        }
        let status = &set["status"];
        for field in [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ] {
            assert_eq!(status[field].as_u64().unwrap_or(0), wanted.len() as u64, "{field}: {status:#}");
        }
        assert_eq!(status["observedGeneration"], set["metadata"]["generation"]);
        assert_eq!(status["numberMisscheduled"], 0);
    }
}

/// Never two pods from one template on a node, and with a budget for unavailable nodes never a pod beside one that still ends.
fn one_a_node(set: &Value, pods: &[&Value]) {
    let mut alive = BTreeSet::new();
    for pod in
        pods.iter().filter(|pod| pod["status"]["phase"] != "Failed" && pod["metadata"]["deletionTimestamp"].is_null())
    {
        let hash = &pod["metadata"]["labels"]["controller-revision-hash"];
        assert!(alive.insert((node(pod), hash.as_str())), "two pods of {} on {:?}", set["metadata"]["name"], node(pod));
    }
}

fn known(pod: &Value) -> Option<(String, (String, String))> {
    let uid = pod["metadata"]["uid"].as_str()?.to_owned();
    Some((uid, (owner(pod)?.to_owned(), node(pod)?.to_owned())))
}

fn serves(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] != "Failed"
}

fn owner(pod: &Value) -> Option<&str> {
    let mut owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.find(|owner| owner["controller"] == true)?["uid"].as_str()
}

fn name(object: &Value) -> Option<&str> {
    object["metadata"]["name"].as_str()
}

fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str()
}

fn wants(node: &Value) -> bool {
    node["metadata"]["labels"]["daemon"] == "yes"
}

fn unknown(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "Unknown")
}
