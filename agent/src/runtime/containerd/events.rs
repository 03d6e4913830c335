//! containerd's events as wakes: one subscription that is made anew for ever, and a small queue that may forget
//! details but never that something happened.
//!
//! Driven by the task that `Containerd::open` spawns; read by `Containerd::wake` and `observe`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::tonic::{Status, Streaming};
use containerd_client::types::Envelope;
use prost::Message as _;
use prost_types::Any;
use tokio::sync::Notify;

use super::client::{Client, QUICK, bounded};
use super::{left, tasks};
use crate::seams::Wake;

/// Wakes that wait for their reader: more than one per pod of a full node; past it everybody looks.
const QUEUE_MAX: usize = 256;
/// Containers of which an exit or a lack of memory is kept in mind: several runs of every container of a full node.
const REMEMBERED_MAX: usize = 1024;
/// First and longest pause before subscribing again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often our marker is published until the subscription has shown that it is live, and for how long.
const MARKER_EVERY: Duration = Duration::from_millis(5);
const MARKER_MAX: Duration = Duration::from_secs(10);
/// Topic of the marker: containerd answers a subscription only with its first event, so we send one.
const MARKER: &str = "/daemonlet/subscribed";
/// Topics that wake somebody.
const TOPICS: [&str; 5] = ["/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete"];
/// Length of our container ids; other ids are somebody else's.
pub(super) const ID_LENGTH: usize = 64;

/// What has been heard and not been asked for yet.
#[derive(Debug, Default)]
pub struct Heard {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Wake>,
    oom: BTreeSet<String>,
    exits: BTreeMap<String, Exit>,
}

/// How a container's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: u32,
    pub at: jiff::Timestamp,
}

impl Heard {
    /// The next wake, when there is one. Cancel-safe: a wake is taken only when it is returned.
    pub async fn next(&self) -> Wake {
        loop {
            let arrived = self.arrived.notified();
            if let Some(wake) = self.lock().queue.pop_front() {
                return wake;
            }
            arrived.await;
        }
    }

    /// Whether a process of this container was killed for want of memory.
    pub fn oom(&self, id: &str) -> bool {
        self.lock().oom.contains(id)
    }

    /// How the container ended, if it was heard: newer containerds forget it when they restart.
    pub fn exit(&self, id: &str) -> Option<Exit> {
        self.lock().exits.get(id).copied()
    }

    /// The container is gone, or is made anew under its id.
    pub fn forget(&self, id: &str) {
        let mut state = self.lock();
        state.oom.remove(id);
        state.exits.remove(id);
    }

    /// Queues a wake; equal ones are one, and too many are [`Wake::All`].
    pub fn push(&self, wake: Wake) {
        let mut state = self.lock();
        if state.queue.contains(&wake) || state.queue.contains(&Wake::All) {
            return;
        }
        if wake == Wake::All || state.queue.len() >= QUEUE_MAX {
            state.queue.clear();
            state.queue.push_back(Wake::All);
        } else {
            state.queue.push_back(wake);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Takes in one event; whether it was understood does not matter to the stream.
    fn take(&self, envelope: &Envelope) {
        let value = envelope.event.as_ref().map_or(&[][..], |event| event.value.as_slice());
        match envelope.topic.as_str() {
            "/tasks/exit" => {
                let Ok(exit) = TaskExit::decode(value) else { return self.push(Wake::All) };
                // An exec's exit has another id than its container.
                if exit.id == exit.container_id && exit.id.len() == ID_LENGTH {
                    let mut state = self.lock();
                    if state.exits.len() >= REMEMBERED_MAX {
                        state.exits.pop_first();
                    }
                    let at = tasks::time(exit.exited_at);
                    state.exits.insert(exit.id.clone(), Exit { code: exit.exit_status, at });
                    drop(state);
                    self.push(Wake::Container(exit.id));
                }
            }
            "/tasks/oom" => {
                let Ok(oom) = TaskOom::decode(value) else { return };
                if oom.container_id.len() == ID_LENGTH {
                    let mut state = self.lock();
                    if state.oom.len() >= REMEMBERED_MAX {
                        state.oom.pop_first();
                    }
                    state.oom.insert(oom.container_id);
                }
            }
            topic if topic.starts_with("/images/") => self.push(Wake::Images),
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }
}

/// Listens for ever. Each time a subscription is live everybody is woken: what came before it is unknown.
pub async fn follow(client: Client, heard: std::sync::Arc<Heard>) {
    let mut pause = RETRY_MIN;
    loop {
        match subscribe(&client).await {
            Ok(mut stream) => {
                pause = RETRY_MIN;
                heard.push(Wake::All);
                // It may be another containerd than before, or we another agent.
                tokio::spawn(left::delete_orphans(client.clone()));
                tracing::debug!(socket = %client.socket().display(), "events subscribed");
                let ended = loop {
                    match stream.message().await {
                        Ok(Some(envelope)) => heard.take(&envelope),
                        Ok(None) => break "end of stream".to_owned(),
                        Err(status) => break status.message().to_owned(),
                    }
                };
                tracing::info!(reason = ended, "event stream ended, subscribing again");
                // Everybody learns at once that containerd is away, and again when it is back.
                heard.push(Wake::All);
            }
            Err(status) => tracing::debug!(reason = status.message(), "no event stream yet"),
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// A stream that has shown that it is live.
async fn subscribe(client: &Client) -> Result<Streaming<Envelope>, Status> {
    let namespace = client.namespace();
    let topics = TOPICS.iter().chain([&MARKER]);
    let filters = topics.map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\"")).collect();
    let mut events = client.events();
    let answer = events.subscribe(client.request(SubscribeRequest { filters }));
    let markers = async {
        loop {
            let event = Any { type_url: "google.protobuf.Empty".to_owned(), value: Vec::new() };
            let request = PublishRequest { topic: MARKER.to_owned(), event: Some(event) };
            if let Err(status) = bounded(QUICK, client.events().publish(client.request(request))).await {
                return status;
            }
            tokio::time::sleep(MARKER_EVERY).await;
        }
    };
    // Either arm may be dropped: an unanswered subscription ends with its future, a marker is only a marker.
    tokio::select! {
        answer = answer => answer.map(|it| it.into_inner()),
        status = markers => Err(status),
        () = tokio::time::sleep(MARKER_MAX) => Err(Status::deadline_exceeded("the subscription gets no events")),
    }
}

/// Between half and all of the pause, so that nodes of a fleet do not step in line.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause / 2 + pause / 2 * random / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str, message: &impl prost::Message) -> Envelope {
        let event = Any { type_url: "bare.Name".into(), value: message.encode_to_vec() };
        Envelope { topic: topic.into(), event: Some(event), ..Envelope::default() }
    }

    fn exit(container: &str, id: &str) -> Envelope {
        let message = TaskExit { container_id: container.into(), id: id.into(), exit_status: 3, ..TaskExit::default() };
        event("/tasks/exit", &message)
    }

    fn queued(heard: &Heard) -> Vec<Wake> {
        heard.lock().queue.iter().cloned().collect()
    }

    #[test]
    fn exits_of_first_processes_of_our_containers_wake() {
        let (heard, ours) = (Heard::default(), "a".repeat(64));
        heard.take(&exit(&ours, "exec-1"));
        heard.take(&exit("foreign", "foreign"));
        assert_eq!(queued(&heard), []);
        heard.take(&exit(&ours, &ours));
        heard.take(&exit(&ours, &ours));
        assert_eq!(queued(&heard), [Wake::Container(ours.clone())]);
        assert_eq!(heard.exit(&ours).map(|it| it.code), Some(3));
        heard.forget(&ours);
        assert_eq!(heard.exit(&ours), None);
    }

    #[test]
    fn oom_is_remembered_until_forgotten() {
        let (heard, ours) = (Heard::default(), "a".repeat(64));
        heard.take(&event("/tasks/oom", &TaskOom { container_id: ours.clone() }));
        assert!(heard.oom(&ours));
        heard.forget(&ours);
        assert!(!heard.oom(&ours));
    }

    #[test]
    fn too_many_wakes_become_one_for_all() {
        let heard = Heard::default();
        for n in 0..=QUEUE_MAX {
            heard.push(Wake::Container(n.to_string()));
        }
        assert_eq!(queued(&heard), [Wake::All]);
        heard.push(Wake::Images);
        assert_eq!(queued(&heard), [Wake::All]);
    }

    #[test]
    fn memory_of_exits_is_bounded() {
        let heard = Heard::default();
        for n in 0..REMEMBERED_MAX + 5 {
            let id = format!("{n:064}");
            heard.take(&exit(&id, &id));
        }
        assert_eq!(heard.lock().exits.len(), REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn a_wake_is_handed_out_once() {
        let heard = Heard::default();
        heard.push(Wake::Images);
        assert_eq!(heard.next().await, Wake::Images);
        assert!(tokio::time::timeout(Duration::from_millis(20), heard.next()).await.is_err());
    }

    #[test]
    fn jitter_stays_within_the_pause() {
        for _ in 0..100 {
            let it = jittered(RETRY_MAX);
            assert!(it >= RETRY_MAX / 2 && it <= RETRY_MAX);
        }
    }
}
