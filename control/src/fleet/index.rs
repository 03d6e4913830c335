//! Which node's desired set a change is about: one watch over the store feeds all sessions.
//!
//! Driven by its own task. Of pods it keeps their node and what they use, of nodes what their Node object says of placement; contents stay
//! in the store. A session waits for its node's number to move and reads what it needs then: latest wins, and nothing is queued.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::pods::{self, Use};
use crate::api::error::ApiError;
use crate::api::kinds::{Kind, by_kind};
use crate::api::objects::{Objects, prefix, readable};
use crate::store::{Change, Entry, Range, Store as _, Watch as _};

/// How soon a watch that broke is begun anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Entries that are read at once.
const PAGE: usize = 500;
/// Deletions of mirror pods that wait for one session; beyond, the mirror is made anew without a word to the node.
const MIRRORS_MAX: usize = 128;

/// Namespace and name.
pub type PodKey = (String, String);

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Index {
    state: Arc<Mutex<State>>,
    /// True once everything was read.
    ready: watch::Sender<bool>,
    /// Counts changes of Namespaces.
    spaces: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Up to here everything is known.
    revision: u64,
    pods: BTreeMap<PodKey, Pod>,
    by_node: BTreeMap<String, BTreeSet<PodKey>>,
    /// Of each Node object, what of it goes down.
    rulings: BTreeMap<String, u64>,
    listeners: BTreeMap<String, Listener>,
}

#[derive(Debug)]
struct Pod {
    node: String,
    uid: String,
    /// Of all that goes down of it.
    hash: u64,
    uses: BTreeSet<Use>,
    /// The uid of the static pod that it stands for.
    mirrors: Option<String>,
    /// Of a mirror: the uid of the Node object that owns it.
    owner: Option<String>,
    ends: bool,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    moved: watch::Sender<u64>,
    mirrors: mpsc::Sender<Box<MirrorEnd>>,
}

/// A mirror pod that ends or has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorEnd {
    pub pod: PodKey,
    /// The static pod's.
    pub uid: String,
    /// The uid of the Node object that owned it.
    pub owner: Option<String>,
}

/// What a session hears.
#[derive(Debug)]
pub struct Heard {
    /// Moves with every change of what its node is to have.
    pub moved: watch::Receiver<u64>,
    /// Boxes: a channel has room for thirty-two from its beginning.
    pub mirrors: mpsc::Receiver<Box<MirrorEnd>>,
}

/// A pod of a node, as far as it is known without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub key: PodKey,
    pub uid: String,
    pub mirrors: Option<String>,
}

impl Index {
    pub fn new() -> Index {
        Index { state: Arc::default(), ready: watch::Sender::new(false), spaces: watch::Sender::new(0) }
    }

    /// Follows the store, for ever.
    pub async fn follow(self, objects: Objects) {
        loop {
            if let Err(why) = self.once(&objects).await {
                tracing::warn!(why = why.message, "the fleet's watch of the store broke; it is begun anew");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until everything was read once.
    pub async fn ready(&self) {
        // The sender lives in us.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Moves when there may be another Namespace.
    pub fn spaces(&self) -> watch::Receiver<u64> {
        self.spaces.subscribe()
    }

    /// What is known, and as of which revision.
    pub fn revision(&self) -> u64 {
        self.state().revision
    }

    /// The pods of a node, mirrors too.
    pub fn pods_of(&self, node: &str) -> Vec<Known> {
        let state = self.state();
        let keys = state.by_node.get(node).into_iter().flatten();
        let known = |key: &PodKey| {
            let pod = state.pods.get(key)?;
            Some(Known { key: key.clone(), uid: pod.uid.clone(), mirrors: pod.mirrors.clone() })
        };
        keys.filter_map(known).collect()
    }

    /// Listens for a node; whoever listened before hears no more.
    pub fn listen(&self, node: &str) -> Heard {
        let mut state = self.state();
        let number = state.listeners.get(node).map_or(1, |before| before.number.saturating_add(1));
        let (moved, heard) = watch::channel(number);
        let (mirrors, ends) = mpsc::channel(MIRRORS_MAX);
        state.listeners.insert(node.to_owned(), Listener { number, moved, mirrors });
        Heard { moved: heard, mirrors: ends }
    }

    /// Nobody listens for the node any more.
    pub fn forget(&self, node: &str) {
        let mut state = self.state();
        if state.listeners.get(node).is_some_and(|listener| listener.moved.is_closed()) {
            state.listeners.remove(node);
        }
    }

    async fn once(&self, objects: &Objects) -> Result<(), ApiError> {
        let [pods, nodes, config_maps, secrets] = ["Pod", "Node", "ConfigMap", "Secret"].map(kind);
        let (found, revision) = read_all(objects, pods, None).await?;
        let (of_nodes, _) = read_all(objects, nodes, Some(revision)).await?;
        self.state().restart(found, of_nodes, revision);
        self.ready.send_replace(true);
        self.spaces.send_modify(|count| *count = count.saturating_add(1));
        let of_spaces = prefix(kind("Namespace"), None);
        // One watch over all of them, so that there is one order of changes.
        let [of_pods, of_nodes] = [pods, nodes].map(|kind| prefix(kind, None));
        let [of_config_maps, of_secrets] = [config_maps, secrets].map(|kind| prefix(kind, None));
        let shared = common(&[&of_pods, &of_nodes, &of_config_maps, &of_secrets, &of_spaces]);
        let mut changes = objects.changes(&shared, revision).await?;
        loop {
            let batch = changes.next().await?;
            let mut state = self.state();
            for Change { key, revision, now, .. } in &batch.changes {
                state.revision = state.revision.max(*revision);
                if let Some(name) = key.strip_prefix(&of_pods) {
                    state.pod(name, now.as_ref().and_then(|entry| readable(pods, entry)));
                } else if let Some(name) = key.strip_prefix(&of_nodes) {
                    state.node(name, now.as_ref().and_then(|entry| readable(nodes, entry)));
                } else if let Some(name) = key.strip_prefix(&of_config_maps) {
                    state.used("ConfigMap", name);
                } else if let Some(name) = key.strip_prefix(&of_secrets) {
                    state.used("Secret", name);
                } else if key.starts_with(&of_spaces) && now.is_some() {
                    self.spaces.send_modify(|count| *count = count.saturating_add(1));
                }
            }
            state.revision = state.revision.max(batch.revision);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Index {
    fn default() -> Index {
        Index::new()
    }
}

impl State {
    /// All anew; everybody looks.
    fn restart(&mut self, pods: Vec<Value>, nodes: Vec<Value>, revision: u64) {
        if revision < self.revision {
            // An older state of the store has come back: numbers of the present epoch would say less than what nodes work by. Sessions
            // whose listener is gone end, and the next hello raises the epoch.
            self.listeners.clear();
        }
        self.pods.clear();
        self.by_node.clear();
        self.rulings.clear();
        self.revision = revision;
        for object in pods {
            let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let key = (metadata("namespace"), metadata("name"));
            self.put(key, &object);
        }
        for object in nodes {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.rulings.insert(name, pods::ruling_hash(&object));
        }
        let all: Vec<String> = self.listeners.keys().cloned().collect();
        all.iter().for_each(|node| self.wake(node));
    }

    fn pod(&mut self, name: &str, now: Option<Value>) {
        let Some((namespace, name)) = name.split_once('/') else { return };
        let key = (namespace.to_owned(), name.to_owned());
        let before = self.pods.remove(&key);
        if let Some(before) = &before
            && let Some(of_node) = self.by_node.get_mut(&before.node)
        {
            of_node.remove(&key);
            if of_node.is_empty() {
                self.by_node.remove(&before.node);
            }
        }
        if let Some(object) = &now {
            self.put(key.clone(), object);
        }
        let after = self.pods.get(&key);
        let said = |pod: Option<&Pod>| pod.map(|pod| (pod.node.clone(), pod.hash));
        let (was, is) = (said(before.as_ref()), said(after));
        let ended = mirror_end(&key, before.as_ref(), after);
        if was != is {
            let nodes: BTreeSet<String> = was.into_iter().chain(is).map(|(node, _)| node).collect();
            nodes.iter().for_each(|node| self.wake(node));
        }
        if let Some((node, end)) = ended
            && let Some(listener) = self.listeners.get(&node)
        {
            // Of one that has no room the node's next status tells.
            let _ = listener.mirrors.try_send(Box::new(end));
        }
    }

    fn put(&mut self, key: PodKey, object: &Value) {
        let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else { return };
        let pod = Pod {
            node: node.to_owned(),
            uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            hash: pods::hash(&pods::outgoing(object)),
            uses: pods::uses(object),
            mirrors: pods::mirrors(object).map(str::to_owned),
            owner: pods::mirror_owner(object).map(str::to_owned),
            ends: !object["metadata"]["deletionTimestamp"].is_null(),
        };
        self.by_node.entry(node.to_owned()).or_default().insert(key.clone());
        self.pods.insert(key, pod);
    }

    fn node(&mut self, name: &str, now: Option<Value>) {
        let hash = now.as_ref().map(pods::ruling_hash);
        let before = match hash {
            Some(hash) => self.rulings.insert(name.to_owned(), hash),
            None => self.rulings.remove(name),
        };
        if before != hash {
            self.wake(name);
        }
    }

    /// A ConfigMap or Secret has changed.
    fn used(&mut self, kind: &'static str, name: &str) {
        let Some((namespace, name)) = name.split_once('/') else { return };
        let used = Use { kind, name: name.to_owned() };
        let whose =
            |((of, _), pod): (&PodKey, &Pod)| (of == namespace && pod.uses.contains(&used)).then(|| pod.node.clone());
        let nodes: BTreeSet<String> = self.pods.iter().filter_map(whose).collect();
        nodes.iter().for_each(|node| self.wake(node));
    }

    fn wake(&mut self, node: &str) {
        if let Some(listener) = self.listeners.get_mut(node) {
            listener.number = listener.number.saturating_add(1);
            listener.moved.send_replace(listener.number);
        }
    }
}

/// Whether a mirror pod begins to end, or has gone, with this change.
fn mirror_end(key: &PodKey, before: Option<&Pod>, after: Option<&Pod>) -> Option<(String, MirrorEnd)> {
    let pod = before.or(after)?;
    let uid = pod.mirrors.clone()?;
    let is_news = match (before, after) {
        (_, None) => true,
        (before, Some(after)) => after.ends && before.is_none_or(|before| !before.ends),
    };
    is_news.then(|| (pod.node.clone(), MirrorEnd { pod: key.clone(), uid, owner: pod.owner.clone() }))
}

async fn read_all(objects: &Objects, kind: &'static Kind, at: Option<u64>) -> Result<(Vec<Value>, u64), ApiError> {
    let mut range = Range { prefix: prefix(kind, None), limit: Some(PAGE), at, ..Range::default() };
    let mut all = Vec::new();
    loop {
        let page = objects.store().list(&range).await?;
        all.extend(page.entries.iter().filter_map(|entry| readable(kind, entry)));
        range.at = Some(page.revision);
        match page.entries.last() {
            Some(Entry { key, .. }) if page.more => range.after = Some(key.clone()),
            _ => return Ok((all, page.revision)),
        }
    }
}

/// The longest beginning that all have in common.
fn common(texts: &[&str]) -> String {
    let first = texts.first().copied().unwrap_or_default();
    let same = |(index, byte): (usize, u8)| {
        texts.iter().all(|text| text.as_bytes().get(index) == Some(&byte)).then_some(index)
    };
    let length = first.bytes().enumerate().map_while(same).count();
    first.get(..length).unwrap_or_default().to_owned()
}

/// A kind of v1.
pub fn kind(name: &'static str) -> &'static Kind {
    by_kind("", "v1", name).expect("the table of kinds has it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, uid: &str, more: Value) -> Value {
        let mut pod = json!({"metadata": {"namespace": "d", "name": "a", "uid": uid}, "spec": {"nodeName": node}});
        json_merge(&mut pod, more);
        pod
    }

    fn json_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| json_merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    fn moved(heard: &mut Heard) -> bool {
        let moved = heard.moved.has_changed().unwrap();
        heard.moved.mark_unchanged();
        moved
    }

    #[test]
    fn a_node_hears_of_what_is_its_own_and_of_nothing_else() {
        let index = Index::new();
        let (mut n1, mut n2) = (index.listen("n1"), index.listen("n2"));
        let change = |change: &dyn Fn(&mut State)| change(&mut index.state());
        change(&|state| state.pod("d/a", Some(pod("n1", "u1", json!({})))));
        assert_eq!((moved(&mut n1), moved(&mut n2)), (true, false));
        // What the node itself says, and who wrote what, goes down to nobody.
        let status = json!({"status": {"phase": "Running"}, "metadata": {"resourceVersion": "9", "managedFields": []}});
        change(&|state| state.pod("d/a", Some(pod("n1", "u1", status.clone()))));
        assert!(!moved(&mut n1));
        let uses = json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "m"}}]}});
        change(&|state| state.pod("d/a", Some(pod("n1", "u1", uses.clone()))));
        assert!(moved(&mut n1));
        for (kind, name, hears) in [("ConfigMap", "d/m", true), ("ConfigMap", "e/m", false), ("Secret", "d/m", false)] {
            change(&|state| state.used(kind, name));
            assert_eq!(moved(&mut n1), hears, "{kind} {name}");
        }
        change(&|state| state.node("n1", Some(json!({"metadata": {"labels": {"a": "b"}}}))));
        assert_eq!((moved(&mut n1), moved(&mut n2)), (true, false));
        change(&|state| state.node("n1", Some(json!({"metadata": {"labels": {"a": "b"}}, "status": {"x": 1}}))));
        assert!(!moved(&mut n1));
        change(&|state| state.pod("d/a", None));
        assert!(moved(&mut n1) && index.pods_of("n1").is_empty());
    }

    #[test]
    fn the_end_of_a_mirror_pod_is_told_once() {
        let index = Index::new();
        let mut heard = index.listen("n1");
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "s1"}}});
        let mut ending = mirror.clone();
        json_merge(&mut ending, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        for (now, ends) in [(Some(mirror.clone()), 0), (Some(ending.clone()), 1), (Some(ending), 0), (None, 1)] {
            index.state().pod("d/a", now.map(|more| pod("n1", "u1", more)));
            let told: Vec<MirrorEnd> = std::iter::from_fn(|| heard.mirrors.try_recv().ok()).map(|end| *end).collect();
            assert_eq!(told.len(), ends);
            assert!(told.iter().all(|end| end.uid == "s1"));
        }
    }

    #[test]
    fn sessions_end_where_an_older_state_of_the_store_has_come_back() {
        let index = Index::new();
        index.state().restart(Vec::new(), Vec::new(), 9000);
        let same = index.listen("n1");
        index.state().restart(Vec::new(), Vec::new(), 9000);
        assert!(same.moved.has_changed().unwrap());
        index.state().restart(Vec::new(), Vec::new(), 7000);
        assert!(same.moved.has_changed().is_err() && index.revision() == 7000);
    }

    #[test]
    fn who_listens_later_is_the_one_who_hears() {
        let index = Index::new();
        let mut first = index.listen("n1");
        let second = index.listen("n1");
        assert!(first.moved.has_changed().is_err() && first.mirrors.try_recv().is_err());
        index.forget("n1");
        index.state().wake("n1");
        assert!(second.moved.has_changed().unwrap(), "it still listens");
        drop(second);
        index.forget("n1");
        assert!(index.state().listeners.is_empty());
    }

    #[test]
    fn one_watch_covers_all_kinds() {
        assert_eq!(common(&["/r/core/pods/", "/r/core/nodes/", "/r/core/secrets/"]), "/r/core/");
    }
}
