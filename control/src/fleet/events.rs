//! Events of nodes, as v1 Events: one object for each thing that happened to one pod, counted.
//!
//! Driven by a task of the session, so that many of them hold up no status. What cannot be written is dropped: events are for people.

use jiff::Timestamp;
use proto::v1;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::complaints::cut;
use super::index::kind;
use super::nodes::options;
use super::turns::turn;
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::clock::seconds;

/// Messages of events that wait to be written; beyond, they are dropped.
pub const WAITING_MAX: usize = 8;
/// Letters of an event's name that tell it from others of its pod.
const LETTERS: usize = 16;
/// Of a message, as Kubernetes' events have it.
const MESSAGE_MAX: usize = 1024;
/// Of a reason, as Kubernetes' events have it.
const REASON_MAX: usize = 128;
/// Of a name, and what is as long as one at most; one character more, so that what is too long is still told from what fits.
const NAME_MAX: usize = 254;

/// Writes until nobody sends any more.
pub async fn write(objects: Objects, node: String, mut events: mpsc::Receiver<v1::Events>) {
    while let Some(v1::Events { events }) = events.recv().await {
        for event in events {
            if let Err(error) = Box::pin(one(&objects, &node, &event)).await {
                tracing::debug!(
                    node,
                    reason = cut(&event.reason),
                    name = cut(&event.name),
                    why = cut(&error.message),
                    "an event is not written"
                );
            }
        }
    }
}

async fn one(objects: &Objects, node: &str, event: &v1::Event) -> Result<(), ApiError> {
    let _turn = turn().await;
    let wanted = object(node, event);
    let text = |field: &str| wanted["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let of_event = kind("Event");
    match objects.get(of_event, &namespace, &name).await {
        Err(error) if error.code == 404 => {
            match objects.create(of_event, &namespace, wanted, &options(node)).await {
                // Another session of the node was faster.
                Err(error) if error.reason == "AlreadyExists" => Ok(()),
                other => other.map(drop),
            }
        }
        Err(error) => Err(error),
        Ok(mut current) => {
            for field in ["count", "lastTimestamp"] {
                current[field] = wanted[field].clone();
            }
            objects.update(of_event, &namespace, &name, "", current, &options(node)).await.map(drop)
        }
    }
}

/// As v1 Event. Its name follows from what it says, so that the same is counted and not written twice.
fn object(node: &str, event: &v1::Event) -> Value {
    let v1::Event { kind, namespace, name, uid, container, warning, reason, message, first, last, count } = event;
    let first_of = |text: &String, count: usize| -> String { text.chars().take(count).collect() };
    let (message, reason) = (first_of(message, MESSAGE_MAX), first_of(reason, REASON_MAX));
    // What is longer is no name of anything: the validation refuses it.
    let [kind, namespace, name, uid, container] =
        [kind, namespace, name, uid, container].map(|it| first_of(it, NAME_MAX));
    let (kind, namespace, name, uid) = (&kind, &namespace, &name, &uid);
    let mut sum = Sha256::new();
    for part in [kind, namespace, name, uid, &container, &reason, &message] {
        sum.update(part.len().to_le_bytes());
        sum.update(part);
    }
    let letters: String = sum.finalize().iter().take(LETTERS / 2).map(|b| format!("{b:02x}")).collect();
    // As in Kubernetes: what has no namespace happens in `default`.
    let place = if namespace.is_empty() { "default" } else { namespace };
    let time = |millis: i64| seconds(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH));
    let api_version = if kind == "DaemonSet" { "apps/v1" } else { "v1" };
    let mut involved = json!({"apiVersion": api_version, "kind": kind, "name": name});
    let more = [("namespace", namespace), ("uid", uid)];
    for (field, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        involved[field] = value.clone().into();
    }
    if !container.is_empty() {
        involved["fieldPath"] = format!("spec.containers{{{container}}}").into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": place, "name": format!("{name}.{letters}")},
        "involvedObject": involved,
        "reason": reason,
        "message": message,
        "type": if *warning { "Warning" } else { "Normal" },
        "source": {"component": "daemonlet", "host": node},
        "reportingComponent": "daemonlet",
        "reportingInstance": node,
        "firstTimestamp": time(*first),
        "lastTimestamp": time(*last),
        "count": i64::try_from(*count).unwrap_or(i64::MAX).min(i64::from(i32::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_event_has_the_same_name_however_often_it_happens() {
        let event = v1::Event {
            kind: "Pod".into(),
            namespace: "d".into(),
            name: "a".into(),
            uid: "u".into(),
            container: "c".into(),
            reason: "BackOff".into(),
            message: "m".into(),
            last: 61_000,
            count: 1,
            ..v1::Event::default()
        };
        let again = v1::Event { count: u64::MAX, last: 99_000, ..event.clone() };
        let other = v1::Event { message: "n".into(), ..event.clone() };
        let name = |event: &v1::Event| object("n1", event)["metadata"]["name"].clone();
        assert_eq!(name(&event), name(&again));
        assert_ne!(name(&event), name(&other));
        let shown = object("n1", &event);
        assert_eq!(shown["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!(shown["lastTimestamp"], "1970-01-01T00:01:01Z");
        assert_eq!(object("n1", &again)["count"], i64::from(i32::MAX));
        let long = v1::Event { reason: "r".repeat(9_000), uid: "u".repeat(9_000), ..event.clone() };
        assert!(object("n1", &long).to_string().len() < 2_000);
        let of_node = v1::Event { kind: "Node".into(), namespace: String::new(), ..event };
        assert_eq!(object("n1", &of_node)["metadata"]["namespace"], "default");
    }
}
