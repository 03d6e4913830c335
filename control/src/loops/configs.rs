//! DaemonSets that are rolled when a ConfigMap or Secret that they use holds something else: their templates get another digest as an annotation,
//! which is a new revision; the rest is the rollout's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pod::spec::CONFIG_DIGEST_ANNOTATION;
use serde_json::{Value, json};

use super::of::{self, CONFIG_MAPS, DAEMON_SETS, SECRETS, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::{Objects, Patch};
use crate::rollout::contents::{Use, digest, uses};

/// A DaemonSet by its namespace and name.
type Key = (String, String);

/// See the top of the file.
pub struct Configs {
    objects: Objects,
    /// What those use that ask for it, and whether it may be missing.
    uses: BTreeMap<Key, BTreeMap<Use, bool>>,
}

impl Configs {
    pub fn new(objects: Objects) -> Configs {
        Configs { objects, uses: BTreeMap::new() }
    }

    /// True: it asks to be rolled.
    fn note(&mut self, key: &Key, set: Option<&Value>) -> bool {
        match set.filter(|set| !of::is_ending(set)).and_then(|set| uses(&set["spec"]["template"])) {
            Some(used) => {
                self.uses.insert(key.clone(), used);
                true
            }
            None => {
                self.uses.remove(key);
                false
            }
        }
    }

    async fn find(&self, namespace: &str, used: &Use) -> Result<Option<Value>, ApiError> {
        let kind = if used.kind == "Secret" { *SECRETS } else { *CONFIG_MAPS };
        match self.objects.get(kind, namespace, &used.name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Looks for Configs {
    type Key = Key;
    const NAME: &'static str = "configs";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<Key>) -> Result<(), ApiError> {
        self.uses.clear();
        let objects = self.objects.clone();
        of::each(&objects, *DAEMON_SETS, None, None, |set| {
            let key = (of::meta(&set, "namespace").to_owned(), of::meta(&set, "name").to_owned());
            if self.note(&key, Some(&set)) {
                wake.push(key);
            }
        })
        .await?;
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        if change.kind == *DAEMON_SETS {
            let key = (change.namespace.clone(), change.name.clone());
            // Its status changes with every pod.
            let template = |side: Option<&Value>| side.map(|set| set["spec"]["template"].clone());
            let is_other = template(change.before()) != template(change.now());
            if self.note(&key, change.now()) && is_other {
                wake.push(key);
            }
            return;
        }
        let kind = match () {
            () if change.kind == *CONFIG_MAPS => "ConfigMap",
            () if change.kind == *SECRETS => "Secret",
            () => return,
        };
        let changed = Use { kind, name: change.name.clone() };
        let concerned = self
            .uses
            .iter()
            .filter(|((namespace, _), used)| *namespace == change.namespace && used.contains_key(&changed));
        wake.extend(concerned.map(|(key, _)| key.clone()));
    }

    async fn look(&mut self, key: &Key, _now: Timestamp, _wake: &mut Vec<Key>) -> Result<Looked, ApiError> {
        let (namespace, name) = key;
        let set = match self.objects.get(*DAEMON_SETS, namespace, name).await {
            Ok(set) => set,
            Err(error) if error.is_not_found() => return Ok(Looked::Gone),
            Err(error) => return Err(error),
        };
        let template = &set["spec"]["template"];
        let Some(used) = uses(template).filter(|_| !of::is_ending(&set)) else { return Ok(Looked::Gone) };
        let mut found = Vec::with_capacity(used.len());
        for it in used.keys() {
            found.push(self.find(namespace, it).await?);
        }
        // What is missing tells when it comes.
        let Some(digest) = digest(&used, found.iter().map(Option::as_ref)) else { return Ok(Looked::Gone) };
        if template["metadata"]["annotations"][CONFIG_DIGEST_ANNOTATION] == digest.as_str() {
            return Ok(Looked::Gone);
        }
        tracing::info!(namespace, daemonset = name, "what it uses holds something else: it is rolled");
        let template = json!({"metadata": {"annotations": {CONFIG_DIGEST_ANNOTATION: digest}}});
        // As it was read: a template that is another by now is looked at again.
        let read = json!({"uid": set["metadata"]["uid"], "resourceVersion": set["metadata"]["resourceVersion"]});
        let patch = Patch::Merge(json!({"metadata": read, "spec": {"template": template}}));
        match self.objects.patch(*DAEMON_SETS, namespace, name, "", patch, &writer()).await {
            Ok(_) => Ok(Looked::Gone),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Looked::Failed),
            Err(error) => Err(error),
        }
    }
}
