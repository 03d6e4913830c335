//! The control endpoint's desired set: judged by its generation, kept on disk, read object by object, given on as snapshots.
//!
//! Driven by the uplink, which brings whole sets, and once at start by the composition root, which brings the checkpoint. It must not
//! know how a set travels, what the objects ask for, or what runs. An object that cannot be read is a rejection beside all others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pod::content::{ContentKey, Kept};
use pod::desired::{Origin, Source};
use pod::manifest::{Context, Document, DocumentOutcome, Parsed, Rejection, parse_object};
use pod::name::Uid;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::board::Ruling;
use crate::checkpoint::{Checkpoint, Loaded, Unreadable};
use crate::config;
use crate::seams::Files;

/// How long a set waits for the disk before it is acted on all the same: a disk that hangs keeps no daemon from running.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// Of a desired set: greater is newer. The epoch tells a store that was put back, whose numbers begin anew, from one that is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    pub epoch: u64,
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.number)
    }
}

/// An object as the endpoint has it, and what it is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// JSON, as received.
    pub json: Bytes,
}

impl Object {
    /// How the object is called among the documents of this node.
    fn file(&self) -> String {
        let Object { kind, namespace, name, .. } = self;
        format!("control/{}/{namespace}/{name}", kind.to_lowercase())
    }
}

/// What comes along with the objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect`.
    pub taints: Vec<String>,
    /// Where pods find the API; empty: nowhere.
    pub api_host: String,
    pub api_port: u16,
}

/// Everything that the endpoint wants of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub generation: Generation,
    pub objects: Vec<Object>,
    pub surroundings: Surroundings,
}

impl Set {
    /// Of all that the set says; its generation aside, and in whatever order it says it.
    pub fn digest(&self) -> [u8; 32] {
        let mut objects: Vec<&Object> = self.objects.iter().collect();
        objects.sort_by_key(|it| (&it.kind, &it.namespace, &it.name, &it.uid));
        let mut sum = Sha256::new();
        let mut feed = |bytes: &[u8]| {
            // With its length, so that no two values meet.
            sum.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            sum.update(bytes);
        };
        for Object { kind, namespace, name, uid, json } in objects {
            [kind, namespace, name, uid].into_iter().for_each(|text| feed(text.as_bytes()));
            feed(json);
        }
        let Surroundings { labels, taints, api_host, api_port } = &self.surroundings;
        for (key, value) in labels {
            feed(key.as_bytes());
            feed(value.as_bytes());
        }
        feed(b"taints");
        taints.iter().for_each(|taint| feed(taint.as_bytes()));
        feed(api_host.as_bytes());
        feed(&api_port.to_le_bytes());
        sum.finalize().into()
    }
}

/// What the node works by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub generation: Generation,
    /// [`Set::digest`].
    pub digest: [u8; 32],
}

/// What becomes of a set that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// It says what the node works by already.
    Known,
    /// The node works by a newer one.
    Older,
    /// The same generation said something else before.
    Contradicts,
}

/// Latest wins, and a generation says one thing for ever.
pub fn judge(standing: Option<&Standing>, generation: Generation, digest: &[u8; 32]) -> Verdict {
    match standing {
        None => Verdict::Taken,
        Some(known) if generation > known.generation => Verdict::Taken,
        Some(known) if generation < known.generation => Verdict::Older,
        Some(known) if known.digest == *digest => Verdict::Known,
        Some(_) => Verdict::Contradicts,
    }
}

/// A pod of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObject {
    pub namespace: String,
    pub name: String,
    /// It is to end.
    pub ends: bool,
    /// [`Parsed::file`] of what was read of it.
    pub file: String,
}

/// All that the endpoint says at one moment. A newer one replaces an unread older one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Counts the snapshots of this life of the agent, from 1; 0: nothing was heard.
    pub number: u64,
    /// By how the objects are called among this node's documents.
    pub files: BTreeMap<String, Arc<Parsed>>,
    pub pods: Arc<BTreeMap<Uid, PodObject>>,
    pub ruling: Option<Arc<Ruling>>,
    /// Nothing was heard, and this is what it said before what it said last: contents and tokens are those of then, and its pods stay as their
    /// records say.
    pub before: Option<Arc<Snapshot>>,
}

impl Snapshot {
    /// Its ConfigMaps and Secrets.
    pub fn contents(&self) -> BTreeMap<ContentKey, Kept> {
        let documents =
            self.files.values().flat_map(|parsed| parsed.documents.iter().map(move |it| (&parsed.file, it)));
        let content = |(file, document): (&String, &DocumentOutcome)| match &document.result {
            Ok(Document::Content { key, content }) => {
                let origin = Origin { source: Source::Control, file: file.clone(), line: document.line };
                Some((key.clone(), Kept { origin, content: content.clone() }))
            }
            _ => None,
        };
        documents.filter_map(content).collect()
    }

    /// Why nothing can be said of what the endpoint wants; None: it was heard, or its checkpoint read.
    pub fn not_heard(&self) -> Option<String> {
        (self.number == 0)
            .then(|| "the control endpoint has not been heard from, and no checkpoint was read".to_owned())
    }
}

/// See the top of the file.
pub struct Remote<F> {
    context: Context,
    checkpoint: Checkpoint<F>,
    standing: Option<Standing>,
    /// Of each object's bytes, so that one that is still the same is not read again.
    read: BTreeMap<String, ([u8; 32], Arc<Parsed>)>,
    snapshots: watch::Sender<Snapshot>,
    /// The set that the disk did not take.
    owed: Option<Owed>,
    /// Why the checkpoint could not be opened when it was tried last.
    shut: Option<String>,
}

#[derive(Clone)]
struct Owed {
    set: Arc<Set>,
    digest: [u8; 32],
}

impl<F: Files> Remote<F> {
    /// Of which nothing was read yet: see [`Remote::restore`].
    pub fn new(checkpoint: Checkpoint<F>, context: Context) -> Remote<F> {
        let (snapshots, _) = watch::channel(Snapshot::default());
        Remote { context, checkpoint, standing: None, read: BTreeMap::new(), snapshots, owed: None, shut: None }
    }

    /// Works by what the checkpoint holds, where that can be read.
    pub async fn restore(&mut self) {
        let loaded = self.checkpoint.load().await;
        let shut = loaded.as_ref().err().filter(|it| it.shut).map(|it| it.why.clone());
        let said = shut.is_some() && shut == self.shut;
        self.shut = shut;
        match loaded {
            Ok(Loaded::Newest { set, digest, sealed }) => {
                tracing::info!(generation = %set.generation, objects = set.objects.len(), "works by the control endpoint's checkpoint");
                self.standing = Some(Standing { generation: set.generation, digest });
                self.publish(&set);
                // Kept by a version that sealed nothing, or when nothing could be sealed.
                if !sealed && let Err(why) = self.checkpoint.seal_anew(&set, &digest).await {
                    tracing::warn!(why, "the checkpoint's Secrets stay unsealed until the set changes");
                }
            }
            Ok(Loaded::Older { set, why }) => {
                tracing::error!(
                    why,
                    generation = %set.generation,
                    "the control endpoint's checkpoint is damaged: until the endpoint is heard its pods stay as their records say, with \
                     the ConfigMaps and Secrets of the generation before"
                );
                let before = Some(Arc::new(self.snapshot(&set)));
                self.snapshots.send_modify(|snapshot| {
                    let ruling = before.as_ref().and_then(|before: &Arc<Snapshot>| before.ruling.clone());
                    *snapshot = Snapshot { ruling, before, ..Snapshot::default() };
                });
            }
            // Once is enough: it may be tried for days.
            Err(_) if said => {}
            Ok(Loaded::Nothing) => {}
            Err(Unreadable { why, .. }) => tracing::error!(
                why,
                "the control endpoint's checkpoint cannot be read: until the endpoint is heard its pods stay as their records say"
            ),
        }
    }

    /// There is a checkpoint that could not be opened so far, and nothing else was heard: another try may be luckier.
    pub fn is_shut(&self) -> bool {
        self.shut.is_some() && self.standing.is_none()
    }

    pub fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.subscribe()
    }

    pub fn standing(&self) -> Option<Standing> {
        self.standing
    }

    /// Takes a whole set where it is newer: on disk first, then by whoever works by it.
    pub async fn offer(&mut self, set: Set) -> Verdict {
        let digest = set.digest();
        let verdict = judge(self.standing.as_ref(), set.generation, &digest);
        let generation = set.generation;
        match verdict {
            Verdict::Taken => {}
            Verdict::Known => return verdict,
            Verdict::Older | Verdict::Contradicts => {
                let standing = self.standing.map(|standing| standing.generation.to_string());
                tracing::warn!(%generation, standing, ?verdict, "a desired set of the control endpoint is refused");
                return verdict;
            }
        }
        let same = self.standing.is_some_and(|standing| standing.digest == digest);
        let set = Arc::new(set);
        self.owed = Some(Owed { set: set.clone(), digest });
        self.pay().await;
        // Only now: whoever drops this while it waits for the disk is offered the set again.
        self.standing = Some(Standing { generation, digest });
        if !same || self.snapshots.borrow().number == 0 {
            tracing::info!(%generation, objects = set.objects.len(), "works by a new desired set of the control endpoint");
            self.publish(&set);
        }
        verdict
    }

    /// Whether the disk has not taken what the node works by.
    pub fn owes(&self) -> bool {
        self.owed.is_some()
    }

    /// Brings it to the disk.
    pub async fn pay(&mut self) {
        let Some(Owed { set, digest }) = self.owed.clone() else { return };
        let written = tokio::time::timeout(DISK_PATIENCE, self.checkpoint.write(&set, &digest)).await;
        match written {
            Ok(Ok(())) => self.owed = None,
            Ok(Err(why)) => tracing::error!(why, "the control endpoint's set cannot be kept on disk; tried again"),
            Err(_) => tracing::error!("the disk does not take the control endpoint's set; tried again"),
        }
    }

    fn publish(&mut self, set: &Set) {
        let next = self.snapshot(set);
        self.snapshots.send_modify(|snapshot| {
            let number = snapshot.number.saturating_add(1);
            *snapshot = Snapshot { number, ..next };
        });
    }

    /// Without a number.
    fn snapshot(&mut self, set: &Set) -> Snapshot {
        let mut uids: BTreeSet<&str> = BTreeSet::new();
        let mut files = BTreeMap::new();
        let mut pods = BTreeMap::new();
        let mut read = std::mem::take(&mut self.read);
        for object in &set.objects {
            let file = object.file();
            let sum: [u8; 32] = Sha256::digest(&object.json).into();
            let known = read.remove(&file).filter(|(known, _)| *known == sum).map(|(_, parsed)| parsed);
            let mut parsed = known.unwrap_or_else(|| Arc::new(parse_object(&file, &object.json, &self.context)));
            self.read.insert(file.clone(), (sum, parsed.clone()));
            if object.kind == "Pod" {
                if !uids.insert(&object.uid) {
                    let reason = "another pod of the set has its uid".to_owned();
                    let whole = Some(Rejection { file: file.clone(), line: 1, path: "metadata.uid".into(), reason });
                    parsed = Arc::new(Parsed { file: file.clone(), documents: Vec::new(), whole });
                } else {
                    let Object { namespace, name, .. } = object.clone();
                    let pod = PodObject { namespace, name, ends: ends(&parsed), file: file.clone() };
                    pods.insert(Uid(object.uid.clone()), pod);
                }
            }
            files.insert(file, parsed);
        }
        let Surroundings { labels, taints, api_host, api_port } = &set.surroundings;
        let ruling = Ruling {
            api: (!api_host.is_empty()).then(|| (api_host.clone(), *api_port)),
            labels: labels.clone(),
            // What this version cannot read repels nobody.
            taints: taints.iter().filter_map(|taint| config::taint(taint).ok()).collect(),
        };
        Snapshot { number: 0, files, pods: pods.into(), ruling: Some(ruling.into()), before: None }
    }
}

fn ends(parsed: &Parsed) -> bool {
    parsed.documents.iter().any(|document| match &document.result {
        Ok(Document::Workload(pod)) => pod.object.as_ref().is_some_and(|object| object.ends.is_some()),
        _ => document.ends.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::disk::Disk;

    fn generation(epoch: u64, number: u64) -> Generation {
        Generation { epoch, number }
    }

    fn object(kind: &str, name: &str, uid: &str, json: &str) -> Object {
        let [kind, namespace, name, uid] = [kind, "default", name, uid].map(str::to_owned);
        Object { kind, namespace, name, uid, json: Bytes::from(json.to_owned()) }
    }

    fn pod(name: &str, uid: &str) -> Object {
        let json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": uid},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        object("Pod", name, uid, &json.to_string())
    }

    fn set(number: u64, objects: Vec<Object>) -> Set {
        Set { generation: generation(1, number), objects, surroundings: Surroundings::default() }
    }

    async fn open(dir: &std::path::Path) -> Remote<Disk> {
        let mut remote = Remote::new(Checkpoint::new(dir, Disk), Context { node_name: "n".into() });
        remote.restore().await;
        remote
    }

    #[test]
    fn latest_wins_and_a_generation_says_one_thing_for_ever() {
        let standing = Standing { generation: generation(5, 10), digest: [1; 32] };
        for (offered, digest, verdict) in [
            (generation(5, 11), [2; 32], Verdict::Taken),
            (generation(5, 11), [1; 32], Verdict::Taken),
            (generation(5, 10), [1; 32], Verdict::Known),
            (generation(5, 10), [2; 32], Verdict::Contradicts),
            (generation(5, 9), [1; 32], Verdict::Older),
            (generation(4, 99), [2; 32], Verdict::Older),
            (generation(6, 1), [2; 32], Verdict::Taken),
        ] {
            assert_eq!(judge(Some(&standing), offered, &digest), verdict, "{offered}");
        }
        assert_eq!(judge(None, generation(0, 0), &[0; 32]), Verdict::Taken);
    }

    #[test]
    fn digest_depends_on_all_that_a_set_says_and_not_on_the_order() {
        let (a, b) = (pod("a", "u1"), pod("b", "u2"));
        let base = set(1, vec![a.clone(), b.clone()]);
        assert_eq!(base.digest(), set(2, vec![b.clone(), a.clone()]).digest());
        let surroundings = Surroundings { api_port: 1, ..Surroundings::default() };
        let label = Surroundings { labels: [("a".into(), "b".into())].into(), ..Surroundings::default() };
        for other in [
            set(1, vec![a.clone()]),
            set(1, vec![a.clone(), Object { json: "{}".into(), ..b.clone() }]),
            set(1, vec![a.clone(), Object { uid: "u3".into(), ..b }]),
            Set { surroundings, ..base.clone() },
            Set { surroundings: label, ..base.clone() },
        ] {
            assert_ne!(base.digest(), other.digest());
        }
    }

    #[tokio::test]
    async fn malformed_pod_is_a_rejection_beside_the_others_and_a_uid_is_one_pods() {
        let dir = tempfile::tempdir().unwrap();
        let mut remote = open(dir.path()).await;
        let objects = vec![
            pod("a", "u1"),
            object("Pod", "b", "u2", "{\"kind\":"),
            pod("c", "u1"),
            object("Widget", "d", "u4", "{}"),
        ];
        assert_eq!(remote.offer(set(1, objects)).await, Verdict::Taken);
        let snapshot = remote.snapshots().borrow().clone();
        assert_eq!((snapshot.not_heard(), snapshot.files.len(), snapshot.pods.len()), (None, 4, 2));
        assert!(snapshot.files["control/pod/default/a"].is_accepted());
        for file in ["control/pod/default/b", "control/pod/default/c", "control/widget/default/d"] {
            assert!(!snapshot.files[file].is_accepted(), "{file}");
        }
    }

    #[tokio::test]
    async fn what_was_accepted_is_found_after_a_restart_and_what_is_older_is_still_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut remote = open(dir.path()).await;
        assert!(remote.snapshots().borrow().not_heard().is_some());
        let newest = Set {
            surroundings: Surroundings {
                labels: [("a".into(), "b".into())].into(),
                taints: vec!["k=v:NoExecute".into(), "nonsense".into()],
                api_host: "h".into(),
                api_port: 6443,
            },
            ..set(7, vec![pod("a", "u1"), object("Pod", "b", "u2", "\u{0}{")])
        };
        assert_eq!(remote.offer(newest.clone()).await, Verdict::Taken);
        let before = remote.snapshots().borrow().clone();
        drop(remote);

        let mut remote = open(dir.path()).await;
        let after = remote.snapshots().borrow().clone();
        assert_eq!(after, before);
        let ruling = after.ruling.unwrap();
        assert_eq!((ruling.taints.len(), ruling.api.clone()), (1, Some(("h".into(), 6443))));
        assert_eq!(remote.offer(newest.clone()).await, Verdict::Known);
        assert_eq!(remote.offer(set(6, vec![])).await, Verdict::Older);
        assert_eq!(remote.offer(set(7, vec![])).await, Verdict::Contradicts);
        assert_eq!(remote.snapshots().borrow().pods.len(), 2, "what is refused changes nothing");
        assert_eq!(remote.offer(Set { generation: generation(2, 1), ..set(0, vec![]) }).await, Verdict::Taken);
        assert!(remote.snapshots().borrow().pods.is_empty());
    }

    /// A node is not rolled back to pods of the day before: its records say what runs, and what that needs is found as it was then.
    #[tokio::test]
    async fn of_a_damaged_checkpoint_the_generation_before_lends_its_contents_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut remote = open(dir.path()).await;
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default", "uid": "u9"},
            "data": {"a": "b"}});
        let config = object("ConfigMap", "c", "u9", &config.to_string());
        remote.offer(set(1, vec![pod("a", "u1"), config.clone()])).await;
        remote.offer(set(2, vec![pod("a", "u1"), pod("b", "u2"), config])).await;
        drop(remote);
        std::fs::write(dir.path().join("control/checkpoint"), "torn").unwrap();
        for _ in 0..2 {
            let remote = open(dir.path()).await;
            let found = remote.snapshots().borrow().clone();
            assert!(found.not_heard().is_some() && found.pods.is_empty() && remote.standing().is_none(), "{found:?}");
            let before = found.before.unwrap();
            assert_eq!((before.contents().len(), before.pods.len()), (1, 1));
            assert!(!remote.is_shut(), "nothing will make it whole");
        }
        let mut remote = open(dir.path()).await;
        assert_eq!(remote.offer(set(3, vec![pod("b", "u2")])).await, Verdict::Taken);
        let found = remote.snapshots().borrow().clone();
        assert!(found.not_heard().is_none() && found.before.is_none());
    }

    #[tokio::test]
    async fn unchanged_object_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut remote = open(dir.path()).await;
        remote.offer(set(1, vec![pod("a", "u1"), pod("b", "u2")])).await;
        let before = remote.snapshots().borrow().files["control/pod/default/a"].clone();
        remote.offer(set(2, vec![pod("a", "u1")])).await;
        assert!(Arc::ptr_eq(&before, &remote.snapshots().borrow().files["control/pod/default/a"]));
    }
}
