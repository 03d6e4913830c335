//! The loop of the EndpointSlices of headless Services: which ready pods a name stands for.

pub mod decide;
mod read;

use std::collections::BTreeMap;

use jiff::Timestamp;
use pod::digest::letters;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::decide::{Shape, Step, decide};
use super::of::{self, ENDPOINT_SLICES, PODS, SERVICES, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::objects::{DeleteOptions, ListQuery, Objects};
use crate::selector::Selector;

/// A Service by its namespace and name.
type Key = (String, String);
/// Letters after the Service's name in a slice's.
const LETTERS: usize = 8;

/// See the top of the file.
pub struct Slices {
    objects: Objects,
    /// The headless Services that select pods.
    services: BTreeMap<Key, BTreeMap<String, String>>,
}

impl Slices {
    pub fn new(objects: Objects) -> Slices {
        Slices { objects, services: BTreeMap::new() }
    }

    async fn list(
        &self,
        kind: &'static crate::api::kinds::Kind,
        namespace: &str,
        labels: Selector,
    ) -> Result<Vec<Value>, ApiError> {
        let query = ListQuery { labels, ..ListQuery::default() };
        Ok(self.objects.list(kind, Some(namespace), &query).await?.items)
    }

    async fn write(&self, service: &Value, step: Step, known: &[Value]) -> Result<(), ApiError> {
        let namespace = of::meta(service, "namespace");
        match step {
            Step::Create(slice) => {
                let object = read::slice_json(service, &slice);
                self.objects.create(*ENDPOINT_SLICES, namespace, object, &writer()).await?;
            }
            Step::Replace(slice) => {
                let before = known.iter().find(|object| of::meta(object, "name") == slice.name);
                let mut object = before.cloned().unwrap_or_default();
                object["endpoints"] = read::slice_json(service, &slice)["endpoints"].take();
                self.objects.update(*ENDPOINT_SLICES, namespace, &slice.name, "", object, &writer()).await?;
            }
            Step::Delete { name } => {
                match self.objects.delete(*ENDPOINT_SLICES, namespace, &name, &DeleteOptions::default()).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

impl Looks for Slices {
    type Key = Key;
    const NAME: &'static str = "slices";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<Key>) -> Result<(), ApiError> {
        self.services.clear();
        of::each(&self.objects, *SERVICES, None, None, |service| {
            let key = (of::meta(&service, "namespace").to_owned(), of::meta(&service, "name").to_owned());
            if let Some(selector) = read::selector(&service) {
                self.services.insert(key, selector);
            }
        })
        .await?;
        wake.extend(self.services.keys().cloned());
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        let here = (change.namespace.clone(), change.name.clone());
        if change.kind == *SERVICES {
            match change.now().and_then(read::selector) {
                Some(selector) => {
                    self.services.insert(here.clone(), selector);
                    wake.push(here);
                }
                None => {
                    // Its slices go with it; one that is headless no more has none of ours.
                    if self.services.remove(&here).is_some() {
                        wake.push(here);
                    }
                }
            }
        } else if change.kind == *PODS {
            let from = (change.namespace.clone(), String::new());
            let services = self.services.range(from..).take_while(|((namespace, _), _)| *namespace == change.namespace);
            let mut services = services.peekable();
            if services.peek().is_none() || read::says_the_same(change.before(), change.now()) {
                return;
            }
            let labels: Vec<_> = [change.before(), change.now()].into_iter().flatten().map(of::labels).collect();
            let selected = services.filter(|(_, selector)| {
                labels.iter().any(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
            });
            wake.extend(selected.map(|(key, _)| key.clone()));
        } else if change.kind == *ENDPOINT_SLICES
            && let Some(service) = change.any().and_then(read::of_service)
        {
            let key = (change.namespace.clone(), service);
            if self.services.contains_key(&key) {
                wake.push(key);
            }
        }
    }

    async fn look(&mut self, key: &Key, _now: Timestamp, _wake: &mut Vec<Key>) -> Result<Looked, ApiError> {
        let (namespace, name) = key;
        let service = match self.objects.get(*SERVICES, namespace, name).await {
            Ok(service) => service,
            Err(error) if error.is_not_found() => return Ok(Looked::Gone),
            Err(error) => return Err(error),
        };
        let ours = BTreeMap::from([
            (read::SERVICE_NAME.to_owned(), name.clone()),
            (read::MANAGED_BY.to_owned(), read::MANAGER.to_owned()),
        ]);
        let known = self.list(*ENDPOINT_SLICES, namespace, Selector::of_labels(&ours)).await?;
        let endpoints = match read::selector(&service) {
            None => Vec::new(),
            Some(selector) => {
                let pods = self.list(*PODS, namespace, Selector::of_labels(&selector)).await?;
                pods.iter().flat_map(|pod| read::endpoints(&service, pod)).collect()
            }
        };
        let uid = of::meta(&service, "uid");
        let fresh = |shape: &Shape, nth: usize| {
            let sum = Sha256::digest(format!("{uid}/{shape:?}/{nth}"));
            format!("{name}-{}", letters(&sum, LETTERS))
        };
        let slices: Vec<_> = known.iter().map(read::slice).collect();
        for step in decide(&endpoints, &slices, fresh) {
            self.write(&service, step, &known).await?;
        }
        Ok(if read::selector(&service).is_some() { Looked::Done(None) } else { Looked::Gone })
    }
}
