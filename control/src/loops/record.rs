//! Events that the loops write: what was said before is counted and not said again, and nobody can fill the store with them.
//!
//! An Event's name is made from what it says, so that a repetition finds it in the store and nothing has to be remembered of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pod::digest::letters;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::of::{EVENTS, MANAGER, writer};
use crate::api::error::ApiError;
use crate::api::objects::{Objects, Patch};
use crate::clock::seconds;
use crate::daemonset::EventKind;

/// Events about one object at once: Kubernetes' burst.
const BURST: u32 = 25;
/// One more each so often: Kubernetes' rate.
const REFILL_EVERY: Duration = Duration::from_secs(300);
/// Objects that are counted; of more the one that was quiet longest is forgotten.
const OBJECTS_MAX: usize = 1000;
/// Bytes of a message: Kubernetes' bound.
const MESSAGE_MAX: usize = 1024;
/// Letters that make an Event's name.
const LETTERS: usize = 16;

/// See the top of the file. Clones count together.
#[derive(Debug, Clone)]
pub struct Recorder {
    objects: Objects,
    buckets: Arc<Mutex<BTreeMap<String, Bucket>>>,
}

/// What an Event is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

/// How many more Events an object may have.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    filled: Timestamp,
}

impl Recorder {
    pub fn new(objects: Objects) -> Recorder {
        Recorder { objects, buckets: Arc::default() }
    }

    /// An Event that cannot be written is lost: nothing else waits for it.
    pub async fn record(&self, about: &About<'_>, kind: EventKind, reason: &str, message: &str) {
        let now = self.objects.clock().now();
        if !self.may(about.uid, now) {
            return;
        }
        if let Err(error) = self.write(about, kind, reason, message, now).await {
            tracing::debug!(about = about.name, reason, %error, "event not written");
        }
    }

    async fn write(
        &self,
        about: &About<'_>,
        kind: EventKind,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let event = event(about, kind, reason, message, now);
        let (namespace, name) = (event["metadata"]["namespace"].clone(), event["metadata"]["name"].clone());
        let (namespace, name) = (namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
        match self.objects.create(*EVENTS, namespace, event, &writer()).await {
            Err(error) if error.is_already_exists() => {}
            created => return created.map(|_| ()),
        }
        let known = self.objects.get(*EVENTS, namespace, name).await?;
        let count = known["count"].as_i64().unwrap_or(1).saturating_add(1);
        let again = Patch::Merge(json!({"count": count, "lastTimestamp": seconds(now)}));
        self.objects.patch(*EVENTS, namespace, name, "", again, &writer()).await.map(|_| ())
    }

    fn may(&self, uid: &str, now: Timestamp) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= OBJECTS_MAX && !buckets.contains_key(uid) {
            let quiet = buckets.iter().min_by_key(|(_, bucket)| bucket.filled).map(|(uid, _)| uid.clone());
            quiet.and_then(|uid| buckets.remove(&uid));
        }
        buckets.entry(uid.to_owned()).or_insert(Bucket { left: BURST, filled: now }).take(now)
    }
}

impl Bucket {
    fn take(&mut self, now: Timestamp) -> bool {
        let passed = Duration::try_from(now.duration_since(self.filled)).unwrap_or_default();
        let more = u32::try_from(passed.as_secs() / REFILL_EVERY.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.filled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

fn event(about: &About<'_>, kind: EventKind, reason: &str, message: &str, now: Timestamp) -> Value {
    let About { api_version, kind: of, namespace, name, uid } = about;
    // Events about what is in no namespace are kept in this one, as Kubernetes does it.
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let kind = match kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    let mut message = message.to_owned();
    message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    let sum = Sha256::digest(format!("{uid}/{kind}/{reason}/{message}"));
    let event_name: String = name.chars().take(200).collect();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{event_name}.{}", letters(&sum, LETTERS))},
        "involvedObject": {"apiVersion": api_version, "kind": of, "namespace": about.namespace, "name": name, "uid": uid},
        "type": kind, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": seconds(now), "lastTimestamp": seconds(now),
        "source": {"component": MANAGER}, "reportingComponent": MANAGER, "reportingInstance": "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_burst_of_events_and_then_one_now_and_again() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut bucket = Bucket { left: BURST, filled: at(0) };
        assert_eq!((0..100).filter(|_| bucket.take(at(1))).count(), 25);
        assert!(!bucket.take(at(299)));
        assert!(bucket.take(at(300)) && !bucket.take(at(301)));
    }

    #[test]
    fn what_says_the_same_has_the_same_name() {
        let about = About { api_version: "apps/v1", kind: "DaemonSet", namespace: "n", name: "d", uid: "u" };
        let at = |second| Timestamp::from_second(second).unwrap();
        let name = |message: &str, second| {
            event(&about, EventKind::Normal, "r", message, at(second))["metadata"]["name"].clone()
        };
        assert_eq!(name("m", 0), name("m", 9));
        assert_ne!(name("m", 0), name("other", 0));
    }
}
