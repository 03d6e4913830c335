//! The loop of the namespaces that are deleted.

pub mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::decide::{Left, Verdict, decide};
use super::of::{self, NAMESPACES, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::kinds::{Kind, kinds};
use crate::api::objects::{DeleteOptions, Objects, Patch, Preconditions, Propagation};
use crate::daemonset::after;

/// The finalizer of a namespace's own, in its spec.
const FINALIZER: &str = "kubernetes";
/// What waits for its pods is looked at this often, whatever is told.
const AGAIN: Duration = Duration::from_secs(30);

/// For how long nothing may be found in it before it is let go: a request that was let in before its end was asked for writes within this.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// See the top of the file.
pub struct Namespaces {
    objects: Objects,
    ending: BTreeSet<String>,
    /// Those in which nothing was found, and since when.
    empty_since: BTreeMap<String, Timestamp>,
}

impl Namespaces {
    pub fn new(objects: Objects) -> Namespaces {
        Namespaces { objects, ending: BTreeSet::new(), empty_since: BTreeMap::new() }
    }

    /// Asks for the end of everything of a kind that is there.
    async fn empty(&self, kind: &'static Kind, namespace: &str) -> Left {
        let mut left = Left { resource: kind.group_resource(), ..Left::default() };
        let mut found = Vec::new();
        let listed = of::each(&self.objects, kind, Some(namespace), None, |object| {
            let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            let names: Vec<String> = finalizers.iter().filter_map(|f| Some(f.as_str()?.to_owned())).collect();
            found.push((of::meta(&object, "name").to_owned(), of::meta(&object, "uid").to_owned(), names));
        });
        if let Err(error) = listed.await {
            left.failure = Some(error.to_string());
            return left;
        }
        for (name, uid, finalizers) in found {
            let options = DeleteOptions {
                preconditions: Preconditions { uid: Some(uid), revision: None },
                propagation: Some(Propagation::Background),
                ..DeleteOptions::default()
            };
            match self.objects.delete(kind, namespace, &name, &options).await {
                Ok(deleted) if deleted.gone => continue,
                Err(error) if error.is_not_found() => continue,
                Ok(_) => {}
                Err(error) => left.failure = Some(error.to_string()),
            }
            left.count = left.count.saturating_add(1);
            for finalizer in finalizers {
                let count: &mut usize = left.finalizers.entry(finalizer).or_default();
                *count = count.saturating_add(1);
            }
        }
        left
    }
}

impl Looks for Namespaces {
    type Key = String;
    const NAME: &'static str = "namespaces";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<String>) -> Result<(), ApiError> {
        self.ending.clear();
        self.empty_since.clear();
        of::each(&self.objects, *NAMESPACES, None, None, |namespace| {
            if of::is_ending(&namespace) {
                self.ending.insert(of::meta(&namespace, "name").to_owned());
            }
        })
        .await?;
        wake.extend(self.ending.iter().cloned());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<String>) {
        if change.kind == *NAMESPACES {
            if !change.now().is_some_and(of::is_ending) {
                self.ending.remove(&change.name);
                self.empty_since.remove(&change.name);
            } else if self.ending.insert(change.name.clone()) {
                wake.push(change.name.clone());
            }
        } else if change.is_deletion() && self.ending.contains(&change.namespace) {
            wake.push(change.namespace.clone());
        }
    }

    async fn look(&mut self, name: &String, now: Timestamp, _wake: &mut Vec<String>) -> Result<Looked, ApiError> {
        let mut namespace = match self.objects.get(*NAMESPACES, "", name).await {
            Ok(namespace) if of::is_ending(&namespace) => namespace,
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(_) | Err(_) => return Ok(Looked::Gone),
        };
        let mut places = BTreeSet::new();
        let mut left = BTreeMap::new();
        for kind in kinds().iter().filter(|kind| kind.is_stored() && kind.namespaced) {
            if places.insert(kind.place) {
                left.insert(kind.group_resource(), self.empty(kind, name).await);
            }
        }
        let left: Vec<Left> = left.into_values().collect();
        let before = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        match decide(&left, &before, now) {
            // Whoever was let in just before the end was asked for may still be writing.
            Verdict::LetGo if self.empty_since.get(name).is_none_or(|since| now < after(*since, EMPTY_FOR)) => {
                let since = *self.empty_since.entry(name.clone()).or_insert(now);
                Ok(Looked::Done(Some(after(since, EMPTY_FOR))))
            }
            Verdict::LetGo => {
                self.empty_since.remove(name);
                tracing::info!(namespace = name, "empty");
                if let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() {
                    finalizers.retain(|finalizer| finalizer != FINALIZER);
                }
                self.objects.update(*NAMESPACES, "", name, "finalize", namespace, &writer()).await?;
                Ok(Looked::Done(None))
            }
            Verdict::Waits(conditions) => {
                self.empty_since.remove(name);
                if conditions != before {
                    let metadata = json!({"uid": namespace["metadata"]["uid"]});
                    let status = json!({"conditions": conditions});
                    let patch = Patch::Strategic(json!({"metadata": metadata, "status": status}));
                    self.objects.patch(*NAMESPACES, "", name, "status", patch, &writer()).await?;
                }
                let failed = left.iter().any(|left| left.failure.is_some());
                Ok(if failed { Looked::Failed } else { Looked::Done(Some(after(now, AGAIN))) })
            }
        }
    }
}

/// Whether it is a namespace in which new objects may be made.
pub fn is_open(namespace: &Value) -> bool {
    !of::is_ending(namespace) && namespace["status"]["phase"] != "Terminating"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::door::testing::{at, place};

    #[tokio::test]
    async fn a_namespace_is_let_go_when_two_looks_have_found_nothing_in_it() {
        let place = place();
        let objects = Objects::new(place.store.clone(), Clock::at(at(0)));
        let named = |name: &str| json!({"metadata": {"name": name}});
        let config_maps = crate::api::kinds::by_kind("", "v1", "ConfigMap").unwrap();
        objects.create(*NAMESPACES, "", named("n"), &writer()).await.unwrap();
        objects.create(config_maps, "n", named("first"), &writer()).await.unwrap();
        objects.delete(*NAMESPACES, "", "n", &DeleteOptions::default()).await.unwrap();
        let mut namespaces = Namespaces::new(objects.clone());
        let (name, mut wake) = ("n".to_owned(), Vec::new());
        let mut look = async |second| namespaces.look(&name, at(second), &mut wake).await.unwrap();
        for second in [0, 0] {
            assert_eq!(look(second).await, Looked::Done(Some(at(1))));
        }
        assert!(objects.get(*NAMESPACES, "", "n").await.is_ok());
        assert_eq!(look(1).await, Looked::Done(None));
        assert!(objects.get(*NAMESPACES, "", "n").await.is_err());
    }
}
