//! What a node says of its pods, written to the store: statuses, pods that are gone, and mirrors of static pods.
//!
//! Driven by the session with one message at a time. A node writes its own pods and no others: a pod with another node's name, or
//! another uid, is not touched. What cannot be written because of the store ends the session, so that the node calls again and says everything
//! anew; what is the node's own fault is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use proto::v1;
use serde_json::Value;
use tokio::time::Instant;

use super::complaints::cut;
use super::index::{Index, MirrorEnd, PodKey, kind};
use super::manners::Manners;
use super::nodes::options;
use super::pods;
use super::turns::turn;
use crate::api::error::ApiError;
use crate::api::objects::{DeleteOptions, Objects, Preconditions};
use crate::clock::seconds;
use crate::door::audit;

/// Static pods of a node: several times what a node runs.
const STATICS_MAX: usize = 1_000;
/// Namespaces that are waited for; static pods of others are shown when the node says them again by itself.
const MISSING_MAX: usize = 100;
/// Bytes of a status, and of what is shown of a static pod: a pod of twenty containers has 30 kB of either.
const SAID_MAX: usize = 256 << 10;
/// Characters of a namespace's name and of a pod's.
const NAMES_MAX: (usize, usize) = (63, 253);
/// How often a write is tried that another one's came before.
const TRIES: u32 = 8;

/// What is known of a node in one session.
#[derive(Debug)]
pub struct Statuses {
    objects: Objects,
    index: Index,
    node: String,
    /// Of the Node object: it owns mirrors.
    owner: String,
    /// Static pods that the node has, by the names of their mirrors.
    statics: BTreeMap<PodKey, Static>,
    /// Static pods whose end somebody has asked for, and which the node has not been told of yet.
    restarts: Vec<v1::PodRef>,
    /// Namespaces that static pods are in and that are not there, or that are ending.
    missing: BTreeSet<String>,
    manners: Arc<Manners>,
}

#[derive(Debug)]
struct Static {
    uid: String,
    /// Its end was asked of the node.
    asked: bool,
}

impl Statuses {
    /// `owner`: the uid of the node's Node object.
    pub fn new(objects: Objects, index: Index, (node, owner): (&str, &str), manners: Arc<Manners>) -> Statuses {
        let (node, owner) = (node.to_owned(), owner.to_owned());
        let (statics, missing) = (BTreeMap::new(), BTreeSet::new());
        Statuses { objects, index, node, owner, statics, restarts: Vec::new(), missing, manners }
    }

    /// Writes what a message says. What the node itself got wrong is logged and does not hold up the rest. False: the store was at fault, and
    /// the node has to say it again. Nothing more is written then: each further write would wait as long for a store that does not answer, and come
    /// after what the node says in its next session.
    pub async fn take(&mut self, message: v1::Statuses) -> bool {
        let v1::Statuses { pods, gone, whole } = message;
        for v1::PodStatus { pod, status, mirror } in pods {
            let Some(pod) = pod else { continue };
            let written = self.status(&pod, &status, &mirror).await;
            if written.as_ref().is_err_and(wants_namespace) && !self.wait_for(&pod.namespace) {
                // It was told before.
                continue;
            }
            if !self.tell(&pod, "its status is not written", written) {
                return false;
            }
        }
        for pod in gone {
            let written = self.gone(&pod).await;
            if !self.tell(&pod, "it is gone, and its object is not removed", written) {
                return false;
            }
        }
        !whole || self.remove_orphans().await
    }

    /// A mirror pod ends or has gone. Where a person has deleted it, its static pod is to end, which is asked for once; where it goes with its
    /// namespace or with its Node object, the static pod runs on, as a kubelet's would, and the mirror waits for nothing. False: as
    /// [`Statuses::take`].
    pub async fn mirror_ends(&mut self, end: &MirrorEnd) -> bool {
        let MirrorEnd { pod: (namespace, name), uid, owner } = end;
        let pod = v1::PodRef { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
        let looked = self.ends(&pod, owner.as_deref()).await;
        self.tell(&pod, "its mirror is deleted, and it is not known why", looked)
    }

    /// True: there is a Namespace by now that static pods have waited for, and the node is to say them once more.
    pub async fn may_be_shown(&mut self) -> bool {
        let mut there = Vec::new();
        for name in &self.missing {
            let found = self.objects.get(kind("Namespace"), "", name).await;
            if found.is_ok_and(|space| !is_ending(&space)) {
                there.push(name.clone());
            }
        }
        self.missing.retain(|name| !there.contains(name));
        !there.is_empty()
    }

    /// True: it is not waited for yet.
    fn wait_for(&mut self, namespace: &str) -> bool {
        (self.missing.len() < MISSING_MAX || self.missing.contains(namespace))
            && self.missing.insert(namespace.to_owned())
    }

    /// Static pods that are to end because somebody has deleted their mirrors.
    pub fn take_restarts(&mut self) -> Vec<v1::PodRef> {
        std::mem::take(&mut self.restarts)
    }

    async fn ends(&mut self, pod: &v1::PodRef, owner: Option<&str>) -> Result<(), ApiError> {
        let key = (pod.namespace.clone(), pod.name.clone());
        if self.statics.get(&key).is_none_or(|known| known.uid != pod.uid || known.asked) {
            return Ok(());
        }
        if self.is_asked_for(&pod.namespace, owner).await? {
            if let Some(known) = self.statics.get_mut(&key) {
                known.asked = true;
            }
            self.restarts.push(pod.clone());
            return Ok(());
        }
        // Where it has gone with its namespace, it is shown again when that is back.
        self.wait_for(&pod.namespace);
        match self.own(&pod.namespace, &pod.name).await? {
            Some(current) if pods::mirrors(&current) == Some(pod.uid.as_str()) && is_ending(&current) => {
                self.delete(&current).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether nobody but a person can have deleted a mirror: its namespace and its owner are there.
    async fn is_asked_for(&self, namespace: &str, owner: Option<&str>) -> Result<bool, ApiError> {
        let stands = |read: Result<Value, ApiError>| match read {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        let space = stands(self.objects.get(kind("Namespace"), "", namespace).await)?;
        let node = stands(self.objects.get(kind("Node"), "", &self.node).await)?;
        let owns = |node: &Value| owner.is_none_or(|owner| node["metadata"]["uid"] == owner);
        Ok(space.is_some_and(|space| !is_ending(&space)) && node.is_some_and(|node| owns(&node)))
    }

    /// False: the store was at fault.
    fn tell(&self, pod: &v1::PodRef, what: &str, written: Result<(), ApiError>) -> bool {
        let Err(error) = written else { return true };
        if let Some(unsaid) = self.manners.may_complain(Instant::now()) {
            let (name, namespace, why) = (cut(&pod.name), cut(&pod.namespace), cut(&error.message));
            tracing::warn!(node = self.node, pod = name, namespace, why, unsaid, "{what}");
        }
        !error.is_passing()
    }

    async fn status(&mut self, pod: &v1::PodRef, status: &[u8], mirror: &[u8]) -> Result<(), ApiError> {
        if pod.namespace.len() > NAMES_MAX.0 || pod.name.len() > NAMES_MAX.1 {
            return Err(ApiError::bad_request("no pod has so long a name"));
        }
        let _turn = turn().await;
        let status = said_object("status", status)?;
        if mirror.is_empty() {
            return self
                .write(pod, &status, |object| object["metadata"]["uid"].as_str() == Some(pod.uid.as_str()))
                .await;
        }
        let said = said_object("mirror", mirror)?;
        let key = (pod.namespace.clone(), pod.name.clone());
        if self.statics.len() >= STATICS_MAX && !self.statics.contains_key(&key) {
            let why = format!("the node has more than {STATICS_MAX} static pods; those beyond are not shown");
            return Err(ApiError::bad_request(why));
        }
        let mirror = self.mirror(pod, &said).await?;
        // Only what there may be a mirror of is remembered.
        if self.statics.get(&key).is_none_or(|known| known.uid != pod.uid) {
            self.statics.insert(key, Static { uid: pod.uid.clone(), asked: false });
        }
        let Some(mirror) = mirror else { return Ok(()) };
        self.write(pod, &status, |object| pods::mirrors(object) == Some(pod.uid.as_str())).await?;
        // Its end may have been asked for while nobody heard it.
        if is_ending(&mirror) { self.ends(pod, pods::mirror_owner(&mirror)).await } else { Ok(()) }
    }

    /// Replaces the status of an object that is this node's and that `is_it`. One that is another's by now, or gone, is passed over.
    async fn write(&self, pod: &v1::PodRef, status: &Value, is_it: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        for _ in 0..TRIES {
            let Some(current) = self.own(&pod.namespace, &pod.name).await?.filter(&is_it) else { return Ok(()) };
            let mut wanted = current.clone();
            wanted["status"] = merged(&current["status"], status, self.objects.clock().now());
            if wanted == current {
                return Ok(());
            }
            let options = options(&self.node);
            match self.objects.update(kind("Pod"), &pod.namespace, &pod.name, "status", wanted, &options).await {
                Ok(_) => return Ok(()),
                Err(error) if error.code == 409 || error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Err(ApiError::unavailable("others have written it each time before"))
    }

    /// The pod's object, where it is this node's.
    async fn own(&self, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        match self.objects.get(kind("Pod"), namespace, name).await {
            Ok(object) => Ok(Some(object).filter(|it| it["spec"]["nodeName"].as_str() == Some(self.node.as_str()))),
            Err(error) if error.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The mirror of a static pod, which is made where there is none. None: there is another pod of that name by now.
    async fn mirror(&self, pod: &v1::PodRef, said: &Value) -> Result<Option<Value>, ApiError> {
        let wanted = pods::mirror(said, &pod.uid, &self.node, &self.owner);
        let named = |field: &str| wanted["metadata"][field].as_str().unwrap_or_default();
        if (named("namespace"), named("name")) != (pod.namespace.as_str(), pod.name.as_str()) {
            return Err(ApiError::bad_request("what the node shows is another pod"));
        }
        match self.objects.get(kind("Pod"), &pod.namespace, &pod.name).await {
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
            Ok(current) => {
                let of_node = current["spec"]["nodeName"].as_str() == Some(self.node.as_str());
                let owner = pods::mirror_owner(&current).filter(|owner| *owner != self.owner);
                match pods::mirrors(&current) {
                    // While it ends it shows how its pod ends. One of a Node object that is no more would be collected.
                    Some(uid) if of_node && uid == pod.uid && owner.is_none() => {
                        return self.relabelled(current, &wanted).await.map(Some);
                    }
                    Some(_) if of_node => self.delete(&current).await?,
                    _ => {
                        let why = "another pod has its name; the static pod runs on and is not shown";
                        return Err(ApiError::conflict(kind("Pod"), &pod.name, why));
                    }
                }
            }
        }
        let made = self.objects.create(kind("Pod"), &pod.namespace, wanted, &options(&self.node)).await;
        // What is refused is a complaint, of which there is a bounded number.
        if made.is_ok() {
            audit::of_node(&self.node, "create", "pods", (&pod.namespace, &pod.name), 201);
        }
        match made {
            Ok(written) => Ok(Some(written.object)),
            Err(error) if error.reason == "AlreadyExists" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The mirror with the labels and annotations that its pod has by now: they are edited without another pod.
    async fn relabelled(&self, current: Value, wanted: &Value) -> Result<Value, ApiError> {
        let mut mirror = current.clone();
        let has = |object: &Value, field: &str| object["metadata"][field].as_object().cloned().unwrap_or_default();
        let differ = |field: &&str| has(&mirror, field) != has(wanted, field);
        let changed: Vec<&str> = ["labels", "annotations"].into_iter().filter(differ).collect();
        if changed.is_empty() {
            return Ok(mirror);
        }
        for field in changed {
            mirror["metadata"][field] = has(wanted, field).into();
        }
        let metadata = |field: &str| mirror["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (metadata("namespace"), metadata("name"));
        let written = self.objects.update(kind("Pod"), &namespace, &name, "", mirror, &options(&self.node)).await;
        audit::of_node(
            &self.node,
            "update",
            "pods",
            (&namespace, &name),
            written.as_ref().map_or_else(|error| error.code, |_| 200),
        );
        match written {
            Ok(written) => Ok(written.object),
            // Another has written it just now; the next status brings it.
            Err(error) if error.code == 409 || error.code == 404 => Ok(current),
            Err(error) => Err(error),
        }
    }

    /// No trace of it is left on the node: its object, or its mirror, goes.
    async fn gone(&mut self, pod: &v1::PodRef) -> Result<(), ApiError> {
        let _turn = turn().await;
        let key = (pod.namespace.clone(), pod.name.clone());
        if self.statics.get(&key).is_some_and(|known| known.uid == pod.uid) {
            self.statics.remove(&key);
        }
        let Some(current) = self.own(&pod.namespace, &pod.name).await? else { return Ok(()) };
        let is_mirror = pods::mirrors(&current) == Some(pod.uid.as_str());
        let ends = is_ending(&current);
        let is_object = current["metadata"]["uid"].as_str() == Some(pod.uid.as_str());
        if is_mirror || (is_object && ends) { self.delete(&current).await } else { Ok(()) }
    }

    /// Mirrors of pods that the node has no more.
    async fn remove_orphans(&mut self) -> bool {
        for known in self.index.pods_of(&self.node) {
            let Some(uid) = &known.mirrors else { continue };
            if self.statics.get(&known.key).is_some_and(|it| it.uid == *uid) {
                continue;
            }
            let pod = v1::PodRef { namespace: known.key.0.clone(), name: known.key.1.clone(), uid: uid.clone() };
            let removed = self.gone(&pod).await;
            if !self.tell(&pod, "a mirror of a pod that is no more is not removed", removed) {
                return false;
            }
        }
        true
    }

    /// At once, and only this very object.
    async fn delete(&self, object: &Value) -> Result<(), ApiError> {
        let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let preconditions = Preconditions { uid: Some(metadata("uid").to_owned()), revision: None };
        let options = DeleteOptions { grace: Some(0), preconditions, ..DeleteOptions::default() };
        let deleted = self.objects.delete(kind("Pod"), metadata("namespace"), metadata("name"), &options).await;
        if deleted.is_ok() {
            audit::of_node(&self.node, "delete", "pods", (metadata("namespace"), metadata("name")), 200);
        }
        match deleted {
            Ok(_) => Ok(()),
            // It is gone, or another pod by now.
            Err(error) if error.code == 404 || error.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether only the Namespace is in the way.
fn wants_namespace(error: &ApiError) -> bool {
    let details = error.details.as_deref();
    let is_of_it = |reason: &str| details.is_some_and(|details| details.causes.iter().any(|it| it.reason == reason));
    (error.is_not_found() && details.is_some_and(|details| details.kind == "namespaces"))
        || is_of_it("NamespaceTerminating")
}

fn is_ending(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// What a node says, which is a JSON object or nothing that is worked with: indexing another shape for writing would panic.
fn said_object(what: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.len() > SAID_MAX {
        return Err(ApiError::bad_request(format!("the {what} that the node says has more than {SAID_MAX} bytes")));
    }
    let said: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the {what} that the node says is no JSON: {error}")))?;
    match said.is_object() {
        true => Ok(said),
        false => Err(ApiError::bad_request(format!("the {what} that the node says is no JSON object"))),
    }
}

/// What the node says, and conditions that others have put beside it (readiness gates, disruption).
fn merged(current: &Value, said: &Value, now: Timestamp) -> Value {
    let mut status = said.clone();
    let list = |value: &Value| value["conditions"].as_array().cloned().unwrap_or_default();
    let mut news = list(said);
    for new in news.iter_mut().filter(|new| is_ahead(new, now)) {
        let same = |it: &&Value| it["type"] == new["type"] && it["status"] == new["status"] && !is_ahead(it, now);
        let since = list(current).iter().find(same).map(|it| it["lastTransitionTime"].clone());
        new["lastTransitionTime"] = since.unwrap_or_else(|| seconds(now).into());
    }
    let mut conditions = news.clone();
    // One of the node's own that is over is dropped with the next status.
    let others = list(current).into_iter().filter(is_others);
    conditions.extend(others.filter(|it| !news.iter().any(|new| new["type"] == it["type"])));
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    for kept in ["nominatedNodeName", "resourceClaimStatuses"] {
        if let Some(value) = current.get(kept) {
            status[kept] = value.clone();
        }
    }
    if status.get("qosClass").is_none()
        && let Some(class) = current.get("qosClass")
    {
        status["qosClass"] = class.clone();
    }
    status
}

/// By a clock of the node's that is fast: a pod would not have been ready for as long as it has to be until that much time has passed here.
fn is_ahead(condition: &Value, now: Timestamp) -> bool {
    let since = condition["lastTransitionTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    condition.is_object() && since.is_some_and(|since| since > now)
}

/// Whether somebody else than a node sets conditions of this type: those with a domain of their own, and Kubernetes' for disruptions.
fn is_others(condition: &Value) -> bool {
    let named = condition["type"].as_str().unwrap_or_default();
    named.contains('/') || named == "DisruptionTarget"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::nodes;
    use super::*;
    use crate::api::objects::{ListQuery, WriteOptions};
    use crate::clock::Clock;
    use crate::door::testing::{at, place};
    use crate::store::embedded::Embedded;

    const NAME: &str = "local-n1";
    const SPACE: &str = "space";

    async fn create(objects: &Objects, of: &'static str, name: &str) -> String {
        let object = json!({"apiVersion": "v1", "kind": of, "metadata": {"name": name}});
        let made = objects.create(kind(of), "", object, &WriteOptions::default()).await.unwrap();
        made.object["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// What a node says of its one static pod.
    fn said() -> v1::Statuses {
        let pod = v1::PodRef { namespace: SPACE.into(), name: NAME.into(), uid: "s1".into() };
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let mirror = json!({"metadata": {"name": NAME, "namespace": SPACE}, "spec": spec}).to_string().into();
        let status = json!({"phase": "Running"}).to_string().into();
        v1::Statuses { pods: vec![v1::PodStatus { pod: Some(pod), status, mirror }], gone: Vec::new(), whole: true }
    }

    async fn mirror(objects: &Objects) -> Option<Value> {
        objects.get(kind("Pod"), SPACE, NAME).await.ok()
    }

    async fn delete(objects: &Objects, of: &'static str, namespace: &str, name: &str) {
        objects.delete(kind(of), namespace, name, &DeleteOptions::default()).await.unwrap();
    }

    fn ends(owner: &str) -> MirrorEnd {
        MirrorEnd { pod: (SPACE.into(), NAME.into()), uid: "s1".into(), owner: Some(owner.to_owned()) }
    }

    #[tokio::test]
    async fn a_static_pod_is_shown_as_soon_as_its_namespace_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(Embedded::open(&dir.path().join("store")).unwrap(), Clock::system());
        let node = create(&objects, "Node", "n1").await;
        let mut statuses = Statuses::new(objects.clone(), Index::new(), ("n1", &node), manners());
        assert!(statuses.take(said()).await && mirror(&objects).await.is_none());
        assert!(!statuses.may_be_shown().await, "it is not there yet");
        create(&objects, "Namespace", SPACE).await;
        assert!(statuses.may_be_shown().await && !statuses.may_be_shown().await, "the node is asked once");
        assert!(statuses.take(said()).await && mirror(&objects).await.is_some());

        // It goes with its namespace, and comes back with it.
        delete(&objects, "Namespace", "", SPACE).await;
        delete(&objects, "Pod", SPACE, NAME).await;
        assert!(statuses.mirror_ends(&ends(&node)).await && statuses.take_restarts().is_empty());
        assert!(!statuses.may_be_shown().await, "it is ending");
    }

    #[tokio::test]
    async fn a_static_pod_ends_with_its_mirror_only_where_a_person_has_deleted_that() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(Embedded::open(&dir.path().join("store")).unwrap(), Clock::system());
        create(&objects, "Namespace", SPACE).await;
        let first = create(&objects, "Node", "n1").await;
        let session = |owner: &str| Statuses::new(objects.clone(), Index::new(), ("n1", owner), manners());
        let mut statuses = session(&first);
        assert!(statuses.take(said()).await && statuses.take_restarts().is_empty());

        // Its labels are edited: the same pod has others.
        let made = mirror(&objects).await.unwrap();
        let mut edited = said();
        let mut shown: Value = serde_json::from_slice(&edited.pods[0].mirror).unwrap();
        shown["metadata"]["labels"] = json!({"tier": "edge"});
        edited.pods[0].mirror = shown.to_string().into();
        assert!(statuses.take(edited).await && statuses.take_restarts().is_empty());
        let labelled = mirror(&objects).await.unwrap();
        assert_eq!(labelled["metadata"]["labels"], json!({"tier": "edge"}));
        assert_eq!(labelled["metadata"]["uid"], made["metadata"]["uid"]);

        // Nobody heard of it: the next status does.
        delete(&objects, "Pod", SPACE, NAME).await;
        assert!(statuses.take(said()).await);
        assert_eq!(statuses.take_restarts().len(), 1);
        assert!(statuses.take(said()).await && statuses.mirror_ends(&ends(&first)).await);
        assert!(statuses.take_restarts().is_empty(), "it is asked for once");
        assert!(
            session(&first)
                .take(v1::Statuses {
                    pods: Vec::new(),
                    gone: said().pods.into_iter().filter_map(|it| it.pod).collect(),
                    whole: false
                })
                .await
        );
        assert!(mirror(&objects).await.is_none());

        // With its Node object.
        let mut statuses = session(&first);
        assert!(statuses.take(said()).await);
        delete(&objects, "Node", "", "n1").await;
        delete(&objects, "Pod", SPACE, NAME).await;
        assert!(mirror(&objects).await.is_some());
        assert!(statuses.mirror_ends(&ends(&first)).await && statuses.take_restarts().is_empty());
        assert!(mirror(&objects).await.is_none(), "it waits for nothing");
        assert!(statuses.take(said()).await);
        let second = create(&objects, "Node", "n1").await;
        let mut statuses = session(&second);
        assert!(statuses.take(said()).await && statuses.mirror_ends(&ends(&first)).await);
        assert!(statuses.take_restarts().is_empty());
        let made = mirror(&objects).await.unwrap();
        assert_eq!(pods::mirror_owner(&made), Some(second.as_str()), "it is the new object's");

        // With its namespace.
        delete(&objects, "Namespace", "", SPACE).await;
        delete(&objects, "Pod", SPACE, NAME).await;
        assert!(statuses.mirror_ends(&ends(&second)).await && statuses.take_restarts().is_empty());
        assert!(mirror(&objects).await.is_none());
    }

    fn manners() -> Arc<Manners> {
        Arc::new(Manners::new(Instant::now()))
    }

    #[tokio::test]
    async fn whatever_shape_a_nodes_words_have_it_is_refused_and_nothing_breaks() {
        let place = place();
        let objects = Objects::new(place.store.clone(), Clock::at(at(0)));
        for (of, name) in [("Namespace", "d"), ("Namespace", "default")] {
            objects.create(kind(of), "", json!({"metadata": {"name": name}}), &options("n1")).await.unwrap();
        }
        let account = json!({"metadata": {"name": "default"}});
        objects.create(kind("ServiceAccount"), "d", account, &options("n1")).await.unwrap();
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
        let own = json!({"metadata": {"name": "own"}, "spec": spec});
        let own = objects.create(kind("Pod"), "d", own, &options("n1")).await.unwrap().object;
        let uid = own["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut statuses = Statuses::new(objects.clone(), Index::new(), ("n1", "node-uid"), manners());
        let shapes = ["[]", "[null]", "1", "\"x\"", "null", "true", "{}", r#"{"a":[]}"#, "no json"];
        let within = |field: &str| {
            shapes.iter().filter(|it| **it != "no json").map(|it| format!(r#"{{"{field}":{it}}}"#)).collect::<Vec<_>>()
        };
        let nested = ["metadata", "spec", "status", "conditions"].into_iter().flat_map(within);
        for said in shapes.into_iter().map(str::to_owned).chain(nested) {
            let own = v1::PodRef { namespace: "d".into(), name: "own".into(), uid: uid.clone() };
            let fixed = v1::PodRef { namespace: "d".into(), name: "static".into(), uid: "s1".into() };
            let said = said.into_bytes();
            let pods = vec![
                v1::PodStatus { pod: Some(own), status: said.clone().into(), mirror: Default::default() },
                v1::PodStatus { pod: Some(fixed.clone()), status: "{}".into(), mirror: said.clone().into() },
                v1::PodStatus { pod: Some(fixed), status: said.clone().into(), mirror: said.clone().into() },
            ];
            statuses.take(v1::Statuses { pods, gone: Vec::new(), whole: false }).await;
            if let Ok(said) = serde_json::from_slice(&said) {
                let _ = nodes::register(&objects, "n1", &said).await;
                let _ = nodes::register(&objects, "n1", &json!({"metadata": said, "spec": said, "status": said})).await;
                let conditions = json!({"status": {"conditions": [said]}});
                let _ = nodes::register(&objects, "n1", &conditions).await;
            }
        }
        let named = json!({"metadata": {"namespace": "d", "name": "static"}, "spec": []}).to_string();
        let pod = Some(v1::PodRef { namespace: "d".into(), name: "static".into(), uid: "s1".into() });
        let last = v1::PodStatus { pod, status: "{}".into(), mirror: named.into() };
        statuses.take(v1::Statuses { pods: vec![last], gone: Vec::new(), whole: false }).await;
        let pods = objects.list(kind("Pod"), Some("d"), &ListQuery::default()).await.unwrap();
        assert_eq!(pods.items.len(), 1, "a pod without containers is none: {pods:?}");
        assert!(statuses.statics.is_empty(), "what is shown by nothing is not remembered");
    }

    #[test]
    fn conditions_of_others_stay_and_those_of_the_node_are_what_it_says_now() {
        let current = json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [
            {"type": "Ready", "status": "False"}, {"type": "example.org/gate", "status": "True"}, {"type": "ImageNotRefreshed", "status": "True"},
            {"type": "DisruptionTarget", "status": "True"},
        ]});
        let said = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let merged = merged(&current, &said, at(0));
        let types: Vec<&str> =
            merged["conditions"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["Ready", "example.org/gate", "DisruptionTarget"]);
        assert_eq!((&merged["phase"], &merged["qosClass"]), (&json!("Running"), &json!("BestEffort")));
    }

    #[test]
    fn no_condition_of_a_node_whose_clock_is_fast_lies_ahead() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let said = |status: &str| json!({"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T01:00:00Z"}]});
        let since = |status: &Value| status["conditions"][0]["lastTransitionTime"].clone();
        let first = merged(&json!({}), &said("True"), at(60));
        assert_eq!(since(&first), "1970-01-01T00:01:00Z");
        // It has been ready since then, however often it is said.
        assert_eq!(merged(&first, &said("True"), at(90)), first);
        assert_eq!(since(&merged(&first, &said("False"), at(90))), "1970-01-01T00:01:30Z");
        assert_eq!(since(&merged(&first, &said("True"), at(7200))), "1970-01-01T01:00:00Z");
    }
}
