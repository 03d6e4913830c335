//! One node's session: its hello, then whole desired sets down and what it says up, until one side ends it.
//!
//! Driven by [`super::service`]. Three tasks: what the node says, what it is to have, and its events; the first one's end ends the others.
//! Nothing is queued for a slow node: its set is read anew when it has taken the last one. What writes or reads is a box of its own while it does: a session
//! waits nearly always, and a thousand of them have no room for it all that time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use proto::v1::{Down, Up, down, up};
use proto::{VERSION, v1};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::complaints::cut;
use super::index::Heard;
use super::manners::{Manners, Turn};
use super::service;
use super::statuses::Statuses;
use super::streams::Streams;
use super::wanted::{self, Host, Way};
use super::{Inner, epoch, events, nodes};
use crate::api::error::ApiError;
use crate::door::audit;
use crate::door::authority::{NODE_PREFIX, NODES};
use crate::door::identity::Identity;

/// Messages that wait for a node's connection; the largest of them are pieces of a desired set.
pub const DOWN_MAX: usize = 2;
/// Until a node has said who it is.
const HELLO_MAX: Duration = Duration::from_secs(20);
/// A node that says nothing for so long is gone: three heartbeats and a half.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// A message that a node does not take for so long: it is gone or hangs.
const STUCK_MAX: Duration = Duration::from_secs(30);
/// How soon a set that could not be read is tried again, and at first one that was refused.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it takes at most until a set that was refused is tried again.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Pods and events that one message may tell of: a node has 110 pods, or some hundreds, and says what is gone of them at once.
const THINGS_MAX: usize = 10_000;

/// How long a node that talks too fast is not read from at once: its heartbeats come behind what it has said. What it owes is not forgotten.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The certificates that a node has shown.
pub type Shown = Arc<Vec<CertificateDer<'static>>>;

/// Boxes: a channel has room for thirty-two from its beginning, whatever its bound is.
pub type Downs = mpsc::Sender<Box<Result<Down, Status>>>;

/// Until the connection breaks, or a newer session of the node begins.
///
/// `local`: our address that the node has reached.
pub async fn run(
    inner: Arc<Inner>,
    (shown, local): (Shown, Option<IpAddr>),
    node: String,
    mut ups: Streaming<Up>,
    downs: Downs,
) {
    let manners = inner.manners.of(&node, Instant::now());
    let ended = match Box::pin(begin(&inner, (&node, local, &manners), &mut ups, &downs)).await {
        Ok(begun) => talk(&inner, (&node, &shown, &manners), begun, ups, &downs).await,
        Err(status) => status,
    };
    if manners.is_told(Turn::IsOver, Instant::now()) {
        tracing::info!(node, why = ended.message(), "a session is over");
    }
    // Who has gone already does not hear it.
    let _ = timeout(STUCK_MAX, downs.send(Box::new(Err(ended)))).await;
}

struct Begun {
    statuses: Statuses,
    /// The Node object's uid.
    owner: String,
    /// Its Node object says that it refuses its set.
    is_refusing: bool,
    heard: Heard,
    /// Where the node's pods find it.
    api: Host,
    epoch: u64,
    newer: watch::Receiver<u64>,
    number: u64,
    streams: Arc<Streams>,
}

async fn begin(
    inner: &Arc<Inner>,
    (node, local, manners): (&str, Option<IpAddr>, &Arc<Manners>),
    ups: &mut Streaming<Up>,
    downs: &Downs,
) -> Result<Begun, Status> {
    let first = timeout(HELLO_MAX, ups.message()).await.map_err(|_| Status::deadline_exceeded("no hello"))??;
    let Some(Up { what: Some(up::What::Hello(hello)) }) = first else {
        return Err(Status::invalid_argument("the first message is not a hello"));
    };
    if hello.name != node {
        return Err(Status::permission_denied(format!("the certificate is node {node}'s, not {}'s", hello.name)));
    }
    let said: Value = serde_json::from_slice(&hello.node)
        .map_err(|error| Status::invalid_argument(format!("what the node says of itself is no JSON: {error}")))?;
    let api = inner.api.on(&Way { dialed: hello.control_host, local });
    inner.index.ready().await;
    let accepted = hello.accepted.map(|it| (it.epoch, it.number));
    let now = inner.objects.clock().now();
    let epoch = epoch::read(inner.objects.store(), node, accepted, now).await;
    let epoch = epoch.map_err(|error| Status::unavailable(error.to_string()))?;
    let object = nodes::register(&inner.objects, node, &said).await.map_err(unwritten)?;
    let owner = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let is_refusing = nodes::is_refusing(&object);
    let statuses = Statuses::new(inner.objects.clone(), inner.index.clone(), (node, &owner), manners.clone());
    let heard = inner.index.listen(node);
    let streams = Streams::new(node, downs.clone());
    let (newer, number) = newest(inner, node, &streams);
    let address = Some(hello.health_address.as_str()).filter(|address| !address.is_empty());
    inner.witness.advertised(node, address);
    inner.witness.opened(node);
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let welcome = v1::Welcome { version: VERSION.min(hello.version.max(1)), program };
    put(downs, down::What::Welcome(welcome)).await?;
    if manners.is_told(Turn::Begins, Instant::now()) {
        tracing::info!(node, program = cut(&hello.program), version = hello.version, "a session begins");
    }
    Ok(Begun { statuses, owner, is_refusing, heard, api, epoch, newer, number, streams })
}

/// This session is the node's; those before it end.
fn newest(inner: &Inner, node: &str, streams: &Arc<Streams>) -> (watch::Receiver<u64>, u64) {
    let mut sessions = inner.sessions();
    let seat = sessions.entry(node.to_owned()).or_default();
    seat.streams = Some(streams.clone());
    seat.newest.send_modify(|number| *number = number.saturating_add(1));
    let number = *seat.newest.borrow();
    (seat.newest.subscribe(), number)
}

async fn talk(
    inner: &Arc<Inner>,
    (node, shown, manners): (&str, &Shown, &Manners),
    begun: Begun,
    mut ups: Streaming<Up>,
    downs: &Downs,
) -> Status {
    let Begun { mut statuses, owner, is_refusing, heard, api, epoch, mut newer, number, streams } = begun;
    let Heard { moved, mut mirrors } = heard;
    // What the Node object says of it; empty: that it refuses nothing.
    let mut refusal = if is_refusing { "before".to_owned() } else { String::new() };
    let (events, waiting) = mpsc::channel(events::WAITING_MAX);
    let (refuse, refused) = watch::channel(0);
    // Asked once more: whoever throws a node out ends the sessions that have a seat, and this one had none when it was let in.
    let ended = if let Err(refusal) = inner.door.node(shown).await {
        service::refused(refusal)
    } else {
        // All three end with this block.
        let send = send_sets(inner, Recipient { node, owner: &owner, api: &api, epoch }, moved, refused, downs);
        let write = events::write(inner.objects.clone(), node.to_owned(), waiting);
        let listen = async {
            let mut spaces = inner.index.spaces();
            loop {
                // Every arm may be dropped half-way: streams, channels and watches keep what they hold.
                let up = tokio::select! {
                    up = timeout(SILENCE_MAX, ups.message()) => up,
                    Some(end) = mirrors.recv() => {
                        let fine = Box::pin(statuses.mirror_ends(&end)).await;
                        if let Err(status) = restart(&mut statuses, fine, downs).await {
                            return status;
                        }
                        continue;
                    }
                    Ok(()) = spaces.changed() => {
                        if statuses.may_be_shown().await
                            && let Err(status) = put(downs, down::What::SayAgain(v1::SayAgain {})).await
                        {
                            return status;
                        }
                        continue;
                    }
                    () = passed(&mut newer, number) => {
                        return Status::aborted("a newer session of the node has begun");
                    }
                };
                let what = match up {
                    Err(_) => return Status::deadline_exceeded("the node says nothing"),
                    Ok(Err(status)) => return status,
                    Ok(Ok(None)) => return Status::ok("the node has ended it"),
                    Ok(Ok(Some(up))) => {
                        // Data is bounded by credit, and written nowhere.
                        if !matches!(up.what, Some(up::What::Data(_))) {
                            let things = things(&up);
                            if things > THINGS_MAX {
                                return Status::invalid_argument(format!(
                                    "a message tells of {things} things, more than {THINGS_MAX}"
                                ));
                            }
                            let wait = manners.spend(things, up.encoded_len(), Instant::now()).min(WAIT_MAX);
                            tokio::select! {
                                () = sleep(wait) => {}
                                () = passed(&mut newer, number) => {
                                    return Status::aborted("a newer session of the node has begun");
                                }
                            }
                        }
                        up.what
                    }
                };
                match what {
                    Some(up::What::Heartbeat(v1::Heartbeat { failing })) => inner.witness.heard(node, &failing),
                    Some(up::What::Statuses(message)) => {
                        let fine = Box::pin(statuses.take(message)).await;
                        if let Err(status) = restart(&mut statuses, fine, downs).await {
                            return status;
                        }
                    }
                    // They are for people: more than can be written are dropped.
                    Some(up::What::Events(message)) => drop(events.try_send(message)),
                    Some(up::What::Node(v1::Node { node: said })) => {
                        let written = match serde_json::from_slice(&said) {
                            Ok(said) => Box::pin(nodes::register(&inner.objects, node, &said)).await.map(drop),
                            Err(error) => Err(ApiError::bad_request(error.to_string())),
                        };
                        if let Err(error) = written {
                            if let Some(unsaid) = manners.may_complain(Instant::now()) {
                                let why = cut(&error.message);
                                tracing::warn!(node, why, unsaid, "what a node says of itself is not written");
                            }
                            if error.is_passing() {
                                return unwritten(error);
                            }
                        }
                    }
                    Some(up::What::Judged(v1::Judged { generation, refused })) => {
                        let refused = cut(&refused);
                        if !refused.is_empty() {
                            if let Some(unsaid) = manners.may_complain(Instant::now()) {
                                tracing::warn!(node, ?generation, refused, unsaid, "a node refuses its desired set");
                            }
                            refuse.send_replace(generation.map_or(0, |generation| generation.number));
                        }
                        if refused != refusal {
                            match Box::pin(nodes::refuses(&inner.objects, node, refused)).await {
                                Err(error) if error.is_passing() => return unwritten(error),
                                // Its Node object is gone: the session ends for that.
                                Ok(()) | Err(_) => refused.clone_into(&mut refusal),
                            }
                        }
                    }
                    Some(up::What::Token(asked)) => {
                        if let Err(status) = put(downs, down::What::Token(token(inner, node, asked).await)).await {
                            return status;
                        }
                    }
                    Some(up::What::Data(data)) => streams.data(data),
                    Some(up::What::End(end)) => streams.end(end),
                    // What this version does not know is passed over.
                    _ => {}
                }
            }
        };
        tokio::select! {
            status = listen => status,
            status = send => status,
            () = write => Status::internal("events are not written any more"),
        }
    };
    drop(mirrors);
    streams.close();
    inner.index.forget(node);
    let is_newest = *newer.borrow() == number;
    drop(newer);
    if is_newest {
        inner.witness.closed(node);
    }
    let mut sessions = inner.sessions();
    if let Some(seat) = sessions.get_mut(node) {
        if seat.streams.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, &streams)) {
            seat.streams = None;
        }
        if seat.newest.receiver_count() == 0 {
            sessions.remove(node);
        }
    }
    ended
}

/// How much is looked up and written for a message.
fn things(up: &Up) -> usize {
    match &up.what {
        Some(up::What::Statuses(v1::Statuses { pods, gone, .. })) => pods.len().saturating_add(gone.len()),
        Some(up::What::Events(v1::Events { events })) => events.len(),
        _ => 1,
    }
}

/// Waits until a newer session of the node has begun.
async fn passed(newest: &mut watch::Receiver<u64>, number: u64) {
    // The sender is in the book of sessions as long as anybody has a receiver.
    let _ = newest.wait_for(|newest| *newest != number).await;
}

/// Tells the node which static pods are to end. `fine`: all that it said is written, else it has to call again and say it once more.
async fn restart(statuses: &mut Statuses, fine: bool, downs: &Downs) -> Result<(), Status> {
    for pod in statuses.take_restarts() {
        put(downs, down::What::Restart(v1::Restart { pod: Some(pod) })).await?;
    }
    if fine { Ok(()) } else { Err(Status::unavailable("what the node says of its pods cannot be written")) }
}

/// Whose sets they are.
#[derive(Clone, Copy)]
struct Recipient<'a> {
    node: &'a str,
    /// The uid of its Node object at its hello.
    owner: &'a str,
    /// Where its pods find it.
    api: &'a Host,
    epoch: u64,
}

/// The newest set, whenever it is another one than was sent last. `refused`: the number of the one that the node has refused last.
async fn send_sets(
    inner: &Arc<Inner>,
    to: Recipient<'_>,
    mut moved: watch::Receiver<u64>,
    mut refused: watch::Receiver<u64>,
    downs: &Downs,
) -> Status {
    let Recipient { node, owner, api, epoch } = to;
    let mut sent = None;
    let mut patience = AGAIN;
    // When a set that was refused is tried again, and its number.
    let mut again: Option<(Instant, u64)> = None;
    loop {
        moved.mark_unchanged();
        match Box::pin(wanted::read(&inner.objects, &inner.index, api, node)).await {
            // It calls again, and has a Node object then.
            Ok(None) => return Status::aborted("the Node object is gone"),
            Ok(Some(wanted)) if wanted.node_uid != owner => return Status::aborted("the Node object is another"),
            Ok(Some(wanted)) => {
                let digest = wanted.digest();
                if sent != Some(digest) {
                    for piece in wanted.pieces(epoch) {
                        if let Err(status) = put(downs, down::What::Desired(piece)).await {
                            return status;
                        }
                    }
                    sent = Some(digest);
                }
            }
            Err(error) => {
                tracing::warn!(node, why = error.message, "a node's desired set cannot be read; tried again");
                sleep(AGAIN).await;
                continue;
            }
        }
        loop {
            // All only wait.
            tokio::select! {
                changed = moved.changed() => {
                    if changed.is_err() {
                        let why = "a newer session of the node has begun, or an older state of the store has come back";
                        return Status::aborted(why);
                    }
                    break;
                }
                Ok(()) = refused.changed() => {
                    again = Some((Instant::now() + patience, *refused.borrow_and_update()));
                    patience = patience.saturating_mul(2).min(AGAIN_MAX);
                }
                number = due(again) => {
                    // The node works by what another endpoint has sent, and what is known here is behind that, or as new and another. Once
                    // more is known, the same set has a number that the node takes.
                    if inner.index.revision() > number {
                        (sent, again) = (None, None);
                        break;
                    }
                    again = Some((Instant::now() + AGAIN, number));
                }
            }
        }
    }
}

/// Waits for the moment at which a refused set is tried again; its number.
async fn due(again: Option<(Instant, u64)>) -> u64 {
    match again {
        Some((at, number)) => {
            sleep_until(at).await;
            number
        }
        None => std::future::pending().await,
    }
}

/// For a pod of this node: what the node may have is the accounts' to say.
async fn token(inner: &Inner, node: &str, asked: v1::TokenRequest) -> v1::Token {
    let v1::TokenRequest { request, pod, account, audience, expiration_seconds } = asked;
    let pod = pod.unwrap_or_default();
    let audiences: Vec<String> = Some(audience).filter(|audience| !audience.is_empty()).into_iter().collect();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid});
    let spec = json!({"audiences": audiences, "expirationSeconds": expiration_seconds, "boundObjectRef": bound});
    let by = Identity { name: format!("{NODE_PREFIX}{node}"), groups: vec![NODES.to_owned()], ..Identity::default() };
    let given = inner.accounts.request(&pod.namespace, &account, &json!({"spec": spec}), &by).await;
    let code = given.as_ref().map_or_else(|error| error.code, |_| 201);
    audit::of_node(node, "create", "serviceaccounts/token", (&pod.namespace, &account), code);
    match given {
        Ok(given) => {
            let status = &given["status"];
            let expires = status["expirationTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            let token = status["token"].as_str().unwrap_or_default().to_owned();
            v1::Token { request, token, expires: expires.map_or(0, Timestamp::as_second), error: String::new() }
        }
        Err(error) => v1::Token { request, error: error.message, ..v1::Token::default() },
    }
}

pub async fn put(downs: &Downs, what: down::What) -> Result<(), Status> {
    let sent = timeout(STUCK_MAX, downs.send(Box::new(Ok(Down { what: Some(what) })))).await;
    sent.map_err(|_| Status::deadline_exceeded("the node takes nothing"))?
        .map_err(|_| Status::cancelled("the node has gone"))
}

fn unwritten(error: ApiError) -> Status {
    Status::unavailable(format!("the Node object cannot be written: {}", error.message))
}
