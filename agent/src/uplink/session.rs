//! One session: hello both ways, then desired sets down, statuses, events and heartbeats up, until one side ends it.
//!
//! Driven by [`super::Uplink`], which dials. What goes up is collected when the connection has room for it, so a slow endpoint gets
//! fewer and newer statuses and never a queue of old ones.

use std::time::Duration;

use bytes::Bytes;
use proto::v1::fleet_client::FleetClient;
use proto::v1::{Down, Up, down, up};
use proto::{MESSAGE_MAX, VERSION, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::convert::{self, Assembly};
use super::kept::Shelf;
use super::reports::Reports;
use super::streams::Streams;
use super::tokens::Tokens;
use crate::board::{Board, Check};
use crate::seams::{Files, Machine};
use crate::sources::remote::{Remote, Snapshot, Verdict};
use crate::status::node::{self, Say, node_as};
use crate::workers::Directory;

/// Messages that wait for the connection; beyond, nothing is collected.
const UP_MAX: usize = 4;
/// Until the endpoint has answered the first message.
const HELLO_MAX: Duration = Duration::from_secs(20);
/// How often the node says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// That it is not ready any more, or is again, is said at once, but not more often than this: a check that flutters floods nobody.
const HEARTBEAT_PAUSE: Duration = Duration::from_secs(1);
/// A message that the connection does not take for so long: the other side is gone or hangs.
const STUCK_MAX: Duration = Duration::from_secs(30);
/// Changes come in flocks: they are collected at most this often.
const PAUSE: Duration = Duration::from_millis(20);
/// Events tell people what happened, and may come a little later.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);
/// Events of one message.
const EVENTS_MAX: u64 = 200;
/// How often all statuses are said once more, whatever was said before: what the endpoint could not write, or what another endpoint that was
/// late has written over it, does not stay wrong for longer.
const SAY_AGAIN: Duration = Duration::from_secs(300);
/// How soon a disk that did not take a set is tried again.
const DISK_RETRY: Duration = Duration::from_secs(30);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the control endpoint refuses the session: {}", .0.message())]
    Refused(Status),
    #[error("the control endpoint does not answer the first message")]
    NoHello,
    #[error("the control endpoint's first message is not its hello")]
    Unhailed,
    #[error("the session broke: {0}")]
    Broken(String),
    #[error("the control endpoint ended the session")]
    Ended,
    #[error("the control endpoint takes no message any more")]
    Stuck,
}

/// What a session works with.
pub struct Session<'s, M: Machine, F> {
    pub board: &'s Board,
    pub directory: &'s Directory,
    pub machine: &'s M,
    pub facts: &'s node::Machine,
    pub remote: &'s mut Remote<F>,
    pub health_address: &'s str,
    /// Of the URL by which the endpoint was reached.
    pub control_host: &'s str,
    /// Up to which event the endpoint has been told, in earlier sessions too.
    pub events_told: &'s mut u64,
    pub tokens: &'s mut Tokens,
    /// Where tokens are kept, and by what.
    pub shelf: (&'s Shelf, &'s F),
}

impl<M: Machine, F: Files> Session<'_, M, F> {
    /// Until the connection breaks.
    pub async fn run(mut self, channel: Channel) -> SessionError {
        match self.talk(channel).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn talk(&mut self, channel: Channel) -> Result<std::convert::Infallible, SessionError> {
        let (ups, waiting) = mpsc::channel(UP_MAX);
        let mut proposed = self.proposed();
        put(&ups, up::What::Hello(self.hello(proposed.clone()))).await?;
        let mut client = FleetClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        let opened = timeout(HELLO_MAX, client.session(ReceiverStream::new(waiting))).await;
        let mut downs = opened.map_err(|_| SessionError::NoHello)?.map_err(refused)?.into_inner();
        self.welcome(&mut downs).await?;

        let (mut reports, mut assembly, mut streams) = (Reports::default(), Assembly::default(), Streams::default());
        let (mut board, mut snapshots) = (self.board.version(), self.remote.snapshots());
        let mut events = self.board.events_recorded();
        let mut heartbeat = every(HEARTBEAT);
        let mut again_at = Instant::now() + SAY_AGAIN;
        // Which checks the last heartbeat said to fail, when the next one comes before its time, and when one may.
        let (mut said_failing, mut early, mut early_from) = (Vec::new(), None, Instant::now());
        // When something is to be collected, at the earliest; None: nothing moved.
        let (mut report_at, mut events_at) = (Some(Instant::now()), Some(Instant::now()));
        let mut pay_at = None;
        self.tokens.begin(Instant::now());
        self.tokens.follow(&snapshots.borrow_and_update().clone(), Instant::now());
        loop {
            if self.remote.owes() {
                pay_at.get_or_insert(Instant::now() + DISK_RETRY);
            }
            // Every arm may be dropped half-way: channels, watches and the stream keep what they hold, a permit is given back, and
            // timers are absolute.
            tokio::select! {
                down = downs.message() => match down {
                    Ok(Some(Down { what: Some(down::What::SayAgain(_)) })) => {
                        reports.say_again();
                        report_at.get_or_insert(Instant::now());
                    }
                    Ok(Some(Down { what })) => self.take(what, &mut assembly, &mut streams, &ups).await?,
                    Ok(None) => return Err(SessionError::Ended),
                    Err(status) => return Err(refused(status)),
                },
                () = beat(&mut heartbeat, early) => {
                    if early.take().is_some() {
                        early_from = Instant::now() + HEARTBEAT_PAUSE;
                    }
                    let (failing, why) = self.failing();
                    put(&ups, up::What::Heartbeat(v1::Heartbeat { failing: why })).await?;
                    said_failing = failing;
                    let now = self.proposed();
                    if now != proposed {
                        proposed = now;
                        put(&ups, up::What::Node(v1::Node { node: proposed.clone() })).await?;
                    }
                }
                () = sleep_until(again_at) => {
                    again_at = Instant::now() + SAY_AGAIN;
                    reports.say_again();
                    report_at.get_or_insert(Instant::now());
                }
                permit = room(&ups, report_at) => {
                    let snapshot: Snapshot = self.remote.snapshots().borrow().clone();
                    let claimed = |uid: &pod::name::Uid| self.directory.is_claimed(uid);
                    let (statuses, more) = reports.collect(self.board, &snapshot, claimed);
                    report_at = more.then(Instant::now);
                    if let Some(statuses) = statuses {
                        permit?.send(Up { what: Some(up::What::Statuses(statuses)) });
                    }
                    // Why a check fails may change with every look, which can wait for the next regular one.
                    early = (self.failing().0 != said_failing).then_some(early_from);
                }
                permit = room(&ups, events_at) => {
                    let (told, more) = self.news();
                    events_at = more.then(Instant::now);
                    if !told.is_empty() {
                        permit?.send(Up { what: Some(up::What::Events(v1::Events { events: told })) });
                    }
                }
                Ok(()) = board.changed(), if report_at.is_none() => report_at = Some(Instant::now() + PAUSE),
                Ok(()) = snapshots.changed() => {
                    report_at.get_or_insert(Instant::now() + PAUSE);
                    self.tokens.follow(&snapshots.borrow_and_update().clone(), Instant::now());
                }
                () = at(self.tokens.due()) => for ask in self.tokens.take_due(Instant::now()) {
                    put(&ups, up::What::Token(ask)).await?;
                },
                Ok(()) = events.changed(), if events_at.is_none() => events_at = Some(Instant::now() + EVENTS_PAUSE),
                () = at(self.tokens.keep_at()) => {
                    let ((shelf, files), kept) = (self.shelf, self.tokens.take_kept());
                    shelf.save(files, &kept).await;
                }
                () = at(pay_at) => {
                    pay_at = None;
                    self.remote.pay().await;
                }
            }
        }
    }

    fn hello(&self, node: Bytes) -> v1::Hello {
        v1::Hello {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.board.node().name,
            boot_id: self.machine.boot_id().to_owned(),
            health_address: self.health_address.to_owned(),
            node,
            accepted: self.remote.standing().map(|standing| convert::to_generation(standing.generation)),
            control_host: self.control_host.to_owned(),
        }
    }

    /// v1 Node as this node would have it.
    fn proposed(&self) -> Bytes {
        let mut node = node_as(self.board, self.facts, Say::Proposed);
        if let Some(fields) = node.as_object_mut() {
            // For people at this machine.
            fields.remove("daemonlet");
        }
        Bytes::from(node.to_string())
    }

    async fn welcome(&mut self, downs: &mut Streaming<Down>) -> Result<(), SessionError> {
        let first = timeout(HELLO_MAX, downs.message()).await.map_err(|_| SessionError::NoHello)?;
        let what = first.map_err(refused)?.ok_or(SessionError::Ended)?.what;
        let Some(down::What::Welcome(v1::Welcome { version, program })) = what else {
            return Err(SessionError::Unhailed);
        };
        tracing::info!(version, program, "in session with the control endpoint");
        self.board.set_control(|facts| (facts.connected, facts.may_answer, facts.why) = (true, true, String::new()));
        Ok(())
    }

    /// What the endpoint says. What this version does not know is passed over.
    async fn take(
        &mut self,
        what: Option<down::What>,
        assembly: &mut Assembly,
        streams: &mut Streams,
        ups: &mpsc::Sender<Up>,
    ) -> Result<(), SessionError> {
        match what {
            Some(down::What::Desired(piece)) => {
                let generation = piece.generation;
                let refused = match assembly.take(piece) {
                    Ok(None) => return Ok(()),
                    Ok(Some(set)) => match self.remote.offer(set).await {
                        Verdict::Taken | Verdict::Known => String::new(),
                        Verdict::Older => "the node works by a newer one".to_owned(),
                        Verdict::Contradicts => "the same generation said something else before".to_owned(),
                    },
                    Err(why) => why.to_string(),
                };
                let standing = self.remote.standing().map(|standing| standing.generation.to_string());
                self.board.set_control(|facts| facts.generation = standing);
                put(ups, up::What::Judged(v1::Judged { generation, refused })).await
            }
            Some(down::What::Token(token)) => {
                self.tokens.take(token, Instant::now(), jiff::Timestamp::now());
                Ok(())
            }
            Some(down::What::Restart(v1::Restart { pod: Some(pod) })) => {
                self.restart(pod);
                Ok(())
            }
            Some(down::What::Open(open)) => {
                streams.open(open, self.board, ups);
                Ok(())
            }
            Some(down::What::Credit(v1::Credit { stream, bytes })) => {
                streams.credit(stream, bytes);
                Ok(())
            }
            Some(down::What::Cancel(v1::Cancel { stream })) => {
                streams.cancel(stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends a pod whose document stands on this node; a successor follows where one is wanted.
    fn restart(&self, pod: v1::PodRef) {
        let workloads = self.board.workloads();
        let found = workloads.iter().find_map(|(key, published)| {
            let view = published.pods.iter().find(|view| view.record.uid.0 == pod.uid)?;
            Some((key.clone(), view.record.uid.clone()))
        });
        let Some((workload, uid)) = found else { return };
        let board = self.board.clone();
        tokio::spawn(async move {
            tracing::info!(pod = pod.name, "the control endpoint asks for a new pod in its place");
            if let Err(why) = board.delete_pod(workload, uid).await {
                tracing::warn!(pod = pod.name, why, "a pod is not ended although the control endpoint asks for it");
            }
        });
    }

    /// The readiness checks that fail, and why, as a heartbeat says it.
    fn failing(&self) -> (Vec<Check>, String) {
        let checks = self.board.checks();
        let failed = checks.into_iter().filter_map(|(check, outcome)| Some((check, outcome.err()?)));
        let (failing, why): (Vec<_>, Vec<_>) =
            failed.map(|(check, why)| (check, format!("{}: {why}", check.name()))).unzip();
        (failing, why.join("; "))
    }

    /// Events that the endpoint does not know yet, oldest first, and whether there are more.
    fn news(&mut self) -> (Vec<v1::Event>, bool) {
        let told = &mut *self.events_told;
        self.board.with_events(|events| {
            // What was recorded last stands last, a repetition too.
            let behind = events.recorded().saturating_sub(*told);
            let now = behind.min(EVENTS_MAX);
            let skipped = usize::try_from(behind).unwrap_or(usize::MAX).min(events.len());
            let news = events.newest(skipped).take(usize::try_from(now).unwrap_or(usize::MAX)).map(convert::event);
            let news: Vec<_> = news.collect();
            *told = if behind > EVENTS_MAX { told.saturating_add(EVENTS_MAX) } else { events.recorded() };
            (news, behind > EVENTS_MAX)
        })
    }
}

async fn put(ups: &mpsc::Sender<Up>, what: up::What) -> Result<(), SessionError> {
    let sent = timeout(STUCK_MAX, ups.send(Up { what: Some(what) })).await;
    sent.map_err(|_| SessionError::Stuck)?.map_err(|_| SessionError::Ended)
}

/// A place in the connection, from that moment on; never where there is none.
async fn room(ups: &mpsc::Sender<Up>, from: Option<Instant>) -> Result<mpsc::Permit<'_, Up>, SessionError> {
    at(from).await;
    ups.reserve().await.map_err(|_| SessionError::Ended)
}

/// The next heartbeat: the regular one, or the one before its time.
async fn beat(regular: &mut Interval, early: Option<Instant>) {
    tokio::select! {
        _ = regular.tick() => {}
        () = at(early) => {}
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn refused(status: Status) -> SessionError {
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::Internal => {
            SessionError::Broken(super::dial::chain(&status))
        }
        _ => SessionError::Refused(status),
    }
}
