//! The garbage collection: knows which objects own others, and when one of those goes, or is about to, reads who depends on whom.
//!
//! Only the owners' uids are remembered. The graph is read when it is needed, which is when a DaemonSet, a Node or another owner goes.

pub mod decide;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use self::decide::{FOREGROUND, Id, ORPHAN, Owner, Ownership, Propagation, Step, Thing, decide};
use super::of::{self, writer};
use super::queue::Looked;
use super::runner::Looks;
use super::told::Change;
use crate::api::error::ApiError;
use crate::api::kinds::{Kind, by_api_version, kinds};
use crate::api::objects::{self, DeleteOptions, Objects, Preconditions};

/// See the top of the file.
pub struct Garbage {
    objects: Objects,
    /// Owners that were there when something of theirs was looked at.
    alive: BTreeSet<String>,
    /// Owners that wait for their dependents.
    waiting: BTreeSet<String>,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Who depends on whom, all of it.
    Graph,
    /// Whether an owner that was not known is there.
    Owner(Reference),
}

/// An owner as one of its dependents names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    api_version: String,
    kind: String,
    /// Of the dependent.
    namespace: String,
    name: String,
    uid: String,
}

impl Garbage {
    pub fn new(objects: Objects) -> Garbage {
        Garbage { objects, alive: BTreeSet::new(), waiting: BTreeSet::new() }
    }

    /// None: of a kind that we do not have, or in a place in which an owner cannot be.
    async fn owner(&self, reference: &Reference) -> Result<Option<Ownership>, ApiError> {
        let Some(kind) = by_api_version(&reference.api_version, &reference.kind).filter(|kind| kind.is_stored()) else {
            return Ok(None);
        };
        if kind.namespaced && reference.namespace.is_empty() {
            return Ok(None);
        }
        let namespace = if kind.namespaced { reference.namespace.as_str() } else { "" };
        match self.objects.get(kind, namespace, &reference.name).await {
            Ok(object) if of::meta(&object, "uid") != reference.uid => Ok(Some(Ownership::Gone)),
            Ok(object) if of::is_ending(&object) && of::has_finalizer(&object, FOREGROUND) => {
                Ok(Some(Ownership::Waits))
            }
            Ok(_) => Ok(Some(Ownership::Lives)),
            Err(error) if error.is_not_found() => Ok(Some(Ownership::Gone)),
            Err(error) => Err(error),
        }
    }

    async fn graph(&mut self) -> Result<Looked, ApiError> {
        let mut things = Vec::new();
        let mut named: Vec<Vec<Reference>> = Vec::new();
        let mut waiting = BTreeSet::new();
        let mut as_of = None;
        for (at, kind) in collected() {
            let revision = of::each(&self.objects, kind, None, as_of, |object| {
                let thing = thing(at, &object);
                if thing.deleting && (thing.foreground || thing.orphan) {
                    waiting.insert(thing.id.uid.clone());
                } else if thing.owners.is_empty() {
                    return;
                }
                named.push(of::owners(&object).iter().map(|owner| reference(&thing.id.namespace, owner)).collect());
                things.push(thing);
            })
            .await?;
            // All kinds as of one moment: an owner that is read later and is not there has gone since.
            as_of = Some(revision);
        }
        let mut owners: BTreeMap<Reference, Option<Ownership>> = BTreeMap::new();
        self.alive.clear();
        for (thing, named) in things.iter_mut().zip(named) {
            for (owner, reference) in thing.owners.iter_mut().zip(named) {
                owner.known = match owners.get(&reference) {
                    Some(known) => *known,
                    None => self.owner(&reference).await?,
                };
                if owner.known == Some(Ownership::Lives) {
                    self.alive.insert(reference.uid.clone());
                }
                owners.insert(reference, owner.known);
            }
        }
        self.waiting = waiting;
        let mut fine = true;
        let judged: BTreeMap<&Id, &Thing> = things.iter().map(|thing| (&thing.id, thing)).collect();
        for step in decide(&things) {
            tracing::info!(?step, "garbage");
            if let Err(error) = self.carry_out(&step, &judged).await {
                tracing::info!(?step, %error, "to be tried again");
                fine = false;
            }
        }
        Ok(if fine { Looked::Done(None) } else { Looked::Failed })
    }

    async fn carry_out(&self, step: &Step, judged: &BTreeMap<&Id, &Thing>) -> Result<(), ApiError> {
        match step {
            Step::Delete { id, propagation } => {
                let Some(revision) = self.still(id, judged).await? else { return Ok(()) };
                let propagation = match propagation {
                    Propagation::Background => objects::Propagation::Background,
                    Propagation::Foreground => objects::Propagation::Foreground,
                    Propagation::Orphan => objects::Propagation::Orphan,
                };
                let preconditions = Preconditions { uid: Some(id.uid.clone()), revision: Some(revision) };
                let options =
                    DeleteOptions { preconditions, propagation: Some(propagation), ..DeleteOptions::default() };
                match self.objects.delete(kind(id), &id.namespace, &id.name, &options).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            Step::Disown { id, owners } => {
                let theirs = |owner: &Value| owners.iter().any(|uid| owner["uid"] == uid.as_str());
                self.change(id, |object| retain(object, "ownerReferences", |owner| !theirs(owner))).await
            }
            Step::Unblock { id } => {
                let unblock = |object: &mut Value| {
                    let owners = object["metadata"]["ownerReferences"].as_array_mut();
                    owners.into_iter().flatten().for_each(|owner| owner["blockOwnerDeletion"] = Value::Bool(false));
                };
                self.change(id, unblock).await
            }
            Step::Finish { id, finalizer } => {
                self.change(id, |object| retain(object, "finalizers", |f| f != *finalizer)).await
            }
        }
    }

    /// The revision at which it has the owners for which it goes: somebody may have taken them away, to keep it. None: it has gone, or is another by now.
    /// Errors: it has others, and is looked at once more.
    async fn still(&self, id: &Id, judged: &BTreeMap<&Id, &Thing>) -> Result<Option<String>, ApiError> {
        let object = match self.objects.get(kind(id), &id.namespace, &id.name).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if of::meta(&object, "uid") != id.uid {
            return Ok(None);
        }
        let named = judged.get(id).into_iter().flat_map(|thing| &thing.owners).map(|owner| owner.uid.as_str());
        if !of::owners(&object).iter().map(|owner| owner["uid"].as_str().unwrap_or_default()).eq(named) {
            return Err(ApiError::modified(kind(id), &id.name));
        }
        Ok(Some(of::meta(&object, "resourceVersion").to_owned()))
    }

    /// What has gone, or is another by now, needs no change.
    async fn change(&self, id: &Id, change: impl FnOnce(&mut Value)) -> Result<(), ApiError> {
        let mut object = match self.objects.get(kind(id), &id.namespace, &id.name).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if of::meta(&object, "uid") != id.uid {
            return Ok(());
        }
        change(&mut object);
        self.objects.update(kind(id), &id.namespace, &id.name, "", object, &writer()).await.map(|_| ())
    }
}

impl Looks for Garbage {
    type Key = Key;
    const NAME: &'static str = "garbage";

    async fn begin(&mut self, _revision: u64, wake: &mut Vec<Key>) -> Result<(), ApiError> {
        wake.push(Key::Graph);
        Ok(())
    }

    fn told(&mut self, change: &Change, wake: &mut Vec<Key>) {
        let Some(object) = change.any() else { return };
        let uid = of::meta(object, "uid");
        let waits =
            of::is_ending(object) && (of::has_finalizer(object, FOREGROUND) || of::has_finalizer(object, ORPHAN));
        if change.is_deletion() && self.alive.remove(uid) || !change.is_deletion() && waits {
            wake.push(Key::Graph);
        }
        let sides = [change.before(), change.now()];
        let mut named = sides.into_iter().flatten().flat_map(of::owners);
        if named.any(|owner| owner["uid"].as_str().is_some_and(|uid| self.waiting.contains(uid))) {
            wake.push(Key::Graph);
        }
        for owner in change.now().map_or(&[][..], of::owners) {
            if !owner["uid"].as_str().is_some_and(|uid| self.alive.contains(uid)) {
                wake.push(Key::Owner(reference(&change.namespace, owner)));
            }
        }
    }

    async fn look(&mut self, key: &Key, _now: Timestamp, wake: &mut Vec<Key>) -> Result<Looked, ApiError> {
        let Key::Owner(reference) = key else { return self.graph().await };
        match self.owner(reference).await? {
            Some(Ownership::Lives) => {
                self.alive.insert(reference.uid.clone());
            }
            Some(Ownership::Gone | Ownership::Waits) => wake.push(Key::Graph),
            None => {}
        }
        Ok(Looked::Gone)
    }
}

/// Kinds whose objects may have owners, each once, with their places in the table. Events come and go by themselves.
fn collected() -> impl Iterator<Item = (usize, &'static Kind)> {
    let mut places = BTreeSet::new();
    let stored = kinds().iter().enumerate().filter(|(_, kind)| kind.is_stored() && **kind != **of::EVENTS);
    stored.filter(move |(_, kind)| places.insert(kind.place))
}

fn kind(id: &Id) -> &'static Kind {
    &kinds()[id.kind]
}

fn thing(kind: usize, object: &Value) -> Thing {
    let text = |field| of::meta(object, field).to_owned();
    let owner = |owner: &Value| Owner {
        uid: owner["uid"].as_str().unwrap_or_default().to_owned(),
        blocks: owner["blockOwnerDeletion"] == true,
        known: None,
    };
    Thing {
        id: Id { kind, namespace: text("namespace"), name: text("name"), uid: text("uid") },
        owners: of::owners(object).iter().map(owner).collect(),
        deleting: of::is_ending(object),
        foreground: of::has_finalizer(object, FOREGROUND),
        orphan: of::has_finalizer(object, ORPHAN),
    }
}

fn reference(namespace: &str, owner: &Value) -> Reference {
    let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
    Reference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        namespace: namespace.to_owned(),
        name: text("name"),
        uid: text("uid"),
    }
}

fn retain(object: &mut Value, field: &str, keep: impl FnMut(&Value) -> bool) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if let Some(list) = metadata.get_mut(field).and_then(Value::as_array_mut) {
        list.retain(keep);
        if list.is_empty() {
            metadata.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds::by_kind;
    use crate::clock::Clock;
    use crate::door::testing::place;

    #[tokio::test]
    async fn what_somebody_has_taken_from_its_owners_since_is_kept() {
        let place = place();
        let objects = Objects::new(place.store.clone(), Clock::system());
        let of = |kind| by_kind("", "v1", kind).unwrap();
        let node = json!({"metadata": {"name": "n"}});
        objects.create(of("Namespace"), "", node, &writer()).await.unwrap();
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u"});
        let map = json!({"metadata": {"name": "m", "ownerReferences": [owner]}});
        let map = objects.create(of("ConfigMap"), "n", map, &writer()).await.unwrap().object;
        let at = kinds().iter().position(|kind| *kind == *of("ConfigMap")).unwrap();
        let judged = thing(at, &map);
        let garbage = Garbage::new(objects.clone());
        let all = BTreeMap::from([(&judged.id, &judged)]);
        let revision = of::meta(&map, "resourceVersion").to_owned();
        assert_eq!(garbage.still(&judged.id, &all).await.unwrap(), Some(revision));
        let delete = Step::Delete { id: judged.id.clone(), propagation: Propagation::Background };
        let mut kept = map;
        kept["metadata"]["ownerReferences"] = json!([]);
        objects.update(of("ConfigMap"), "n", "m", "", kept, &writer()).await.unwrap();
        assert!(garbage.carry_out(&delete, &all).await.unwrap_err().is_conflict(), "it is looked at once more");
        assert!(objects.get(of("ConfigMap"), "n", "m").await.is_ok());
    }
}
