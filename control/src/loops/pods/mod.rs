//! The loop of the pods that nobody will end. It reads them when a node goes, and when a pod comes whose node is not known.

pub mod decide;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use self::decide::{Pod, decide};
use super::of::{self, NODES, PODS};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::{DeleteOptions, Objects, Preconditions};

/// See the top of the file.
pub struct Pods {
    objects: Objects,
    nodes: BTreeSet<String>,
    /// Whose deletion was seen and whose pods are not gone yet.
    removed: BTreeSet<String>,
    missing: BTreeMap<String, Timestamp>,
}

impl Pods {
    pub fn new(objects: Objects) -> Pods {
        Pods { objects, nodes: BTreeSet::new(), removed: BTreeSet::new(), missing: BTreeMap::new() }
    }
}

impl Looks for Pods {
    type Key = ();
    const NAME: &'static str = "pods";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<()>) -> Result<(), ApiError> {
        let mut nodes = BTreeSet::new();
        of::each(&self.objects, *NODES, None, None, |node| {
            nodes.insert(of::meta(&node, "name").to_owned());
        })
        .await?;
        self.nodes = nodes;
        wake.push(());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<()>) {
        if change.kind == *NODES {
            if change.is_deletion() {
                self.nodes.remove(&change.name);
                self.removed.insert(change.name.clone());
                wake.push(());
            } else {
                self.nodes.insert(change.name.clone());
                self.removed.remove(&change.name);
            }
        }
        if change.kind == *PODS && change.is_creation() {
            let node = change.now().and_then(|pod| pod["spec"]["nodeName"].as_str()).unwrap_or_default();
            if !node.is_empty() && !self.nodes.contains(node) {
                wake.push(());
            }
        }
    }

    async fn look(&mut self, (): &(), now: Timestamp, _wake: &mut Vec<()>) -> Result<Looked, ApiError> {
        let mut pods = Vec::new();
        let nodes = &self.nodes;
        of::each(&self.objects, *PODS, None, None, |object| {
            let text = |field| of::meta(&object, field).to_owned();
            let node = object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            let terminated = ["Succeeded", "Failed"].iter().any(|phase| object["status"]["phase"] == *phase);
            if terminated || !node.is_empty() && !nodes.contains(&node) {
                let created = of::moment(&object["metadata"]["creationTimestamp"]).unwrap_or_default();
                let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
                pods.push(Pod { namespace, name, uid, node, terminated, created });
            }
        })
        .await?;
        let verdict = decide(&pods, &self.nodes, &self.removed, &mut self.missing, now);
        for pod in &verdict.delete {
            tracing::info!(pod = pod.name, node = pod.node, "nobody will end it: deleted");
            let preconditions = Preconditions { uid: Some(pod.uid.clone()), revision: None };
            let options = DeleteOptions { grace: Some(0), preconditions, ..DeleteOptions::default() };
            match self.objects.delete(*PODS, &pod.namespace, &pod.name, &options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        let wake_at = verdict.wake_at;
        self.removed.clear();
        Ok(Looked::Done(wake_at))
    }
}
