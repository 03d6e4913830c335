//! The way to the control endpoint: join once, renew the certificate, keep a session, dial anew when it breaks.
//!
//! Started by the composition root where `--control` is given, and by nobody else: an agent without it has no TLS, no task and no
//! memory for this. Nothing else on the node notices that the endpoint is gone; what is known of it is on the board. The protocol's
//! types are known here alone. Reading order: [`identity`], [`mod@dial`], [`session`], [`reports`], [`convert`].

mod backoff;
pub mod convert;
mod dial;
pub mod identity;
mod kept;
mod logs;
mod reports;
mod session;
mod streams;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proto::v1;
use proto::v1::fleet_client::FleetClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::board::RejoinRequest;
use crate::config::ControlUrl;
use crate::seams::{Files, Machine};
use crate::sources::remote::Remote;
use crate::status::node;
use crate::worker::Shared;

use dial::{DialError, Known, chain, dial};
use identity::{IdentityError, Ticket};
use kept::Shelf;
use session::{Session, SessionError};
use tokens::Tokens;

pub use identity::{Identity, Place};
pub use tokens::Given;

/// Until a join or a renewal is answered.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The largest answer to them: a few certificates.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// So long pods of the checkpoint wait at a start for tokens that they had none of before; as soon as the endpoint is known to be out of
/// reach they go on without. Several times what a session and its first tokens take.
const TOKEN_PATIENCE: Duration = Duration::from_secs(2);
/// A renewal that failed is tried again so soon while the certificate is still good.
const RENEW_RETRY: Duration = Duration::from_secs(600);

/// What is configured.
#[derive(Debug, Clone)]
pub struct Settings {
    pub url: ControlUrl,
    pub join_token_file: Option<PathBuf>,
    /// `HOST:PORT`.
    pub health_advertise: Option<String>,
    pub node_name: String,
    pub state_dir: PathBuf,
}

/// See the top of the file.
pub struct Uplink<M: Machine, F> {
    line: Line<M, F>,
    rejoins: mpsc::Receiver<RejoinRequest>,
}

/// Everything but the requests that interrupt it.
struct Line<M: Machine, F> {
    settings: Settings,
    shared: Arc<Shared<M>>,
    remote: Remote<F>,
    files: F,
    place: Place,
    shelf: Shelf,
    identity: Option<Identity>,
    events_told: u64,
    tokens: Tokens,
    /// Read when it is first needed.
    facts: Option<node::Machine>,
}

/// Why there is no session at present.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the node has not joined, and there is no join token: give --join-token-file, or `daemonlet rejoin`")]
    NoTicket,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control endpoint does not let the node join: {}", .0.message())]
    Join(Status),
    #[error("the control endpoint does not renew the node's certificate: {}", .0.message())]
    Renew(Status),
    #[error("the control endpoint does not answer")]
    Silent,
    #[error("the control endpoint answers with another authority than its join token pins")]
    OtherAuthority,
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl<M: Machine, F: Files + Clone> Uplink<M, F> {
    /// `given`: told of tokens for service accounts.
    pub fn new(
        settings: Settings,
        shared: Arc<Shared<M>>,
        remote: Remote<F>,
        files: F,
        given: watch::Sender<Given>,
    ) -> Uplink<M, F> {
        shared.board.expect_control(settings.url.to_string());
        let rejoins = shared.board.take_rejoins();
        let (place, shelf) = (Place::new(&settings.state_dir), Shelf::new(&settings.state_dir));
        let (identity, tokens, facts) = (None, Tokens::new(given), None);
        let line = Line { settings, shared, remote, files, place, shelf, identity, events_told: 0, tokens, facts };
        Uplink { line, rejoins }
    }

    /// For ever.
    pub async fn run(self) {
        let Uplink { mut line, mut rejoins } = self;
        match line.place.load(&line.files).await {
            Ok(identity) => line.identity = identity,
            Err(why) => tracing::error!(why, "the node's certificate cannot be read: the node has to join anew"),
        }
        line.begin_with_kept().await;
        let (board, do_without) = (line.shared.board.clone(), line.tokens.do_without());
        let patience = async move {
            sleep(TOKEN_PATIENCE).await;
            if board.control().is_none_or(|control| !control.connected) {
                do_without();
            }
        };
        // It ends, the other one never does.
        tokio::join!(patience, Box::pin(line.keep_on(&mut rejoins)));
    }
}

impl<M: Machine, F: Files + Clone> Line<M, F> {
    /// For ever.
    async fn keep_on(&mut self, rejoins: &mut mpsc::Receiver<RejoinRequest>) {
        let line = self;
        let mut failures: u32 = 0;
        loop {
            let began = Instant::now();
            // A session that is interrupted is begun anew; what was accepted is on the disk, or is offered again.
            let trouble = tokio::select! {
                Err(trouble) = Box::pin(line.keep()) => trouble,
                Some(request) = rejoins.recv() => {
                    line.rejoin(request).await;
                    failures = 0;
                    continue;
                }
            };
            failures = if began.elapsed() >= backoff::GOOD { 1 } else { failures.saturating_add(1) };
            line.tell(&chain(&trouble));
            let random = uuid::Uuid::new_v4().as_fields().0;
            tokio::select! {
                () = sleep(backoff::wait(failures, random)) => {}
                Some(request) = rejoins.recv() => {
                    line.rejoin(request).await;
                    failures = 0;
                }
            }
            // A machine that boots may have been too slow to open it. Without it no pod of the endpoint has its Secrets.
            if line.remote.is_shut() {
                line.remote.restore().await;
                line.begin_with_kept().await;
                line.tokens.do_without()();
            }
        }
    }

    /// By the checkpoint as far as it could be read, with the tokens that are left of an earlier life.
    async fn begin_with_kept(&mut self) {
        let standing = self.remote.standing().map(|standing| standing.generation.to_string());
        self.shared.board.set_control(|facts| facts.generation = standing);
        let kept = self.shelf.load(&self.files).await;
        let snapshot = self.remote.snapshots().borrow().clone();
        self.tokens.restore(&snapshot, kept);
    }

    /// Joins where that has not been done, renews what ends, and keeps one session. Never Ok.
    async fn keep(&mut self) -> Result<std::convert::Infallible, Trouble> {
        let Line { settings, shared, remote, files, place, shelf, identity, events_told, tokens, facts } = self;
        let facts = &*facts.get_or_insert_with(node::Machine::read);
        let known = match identity.take_if(|known| known.node != settings.node_name) {
            Some(other) => {
                tracing::warn!(
                    certificate = other.node,
                    node = settings.node_name,
                    "the certificate is another name's: the node joins anew"
                );
                None
            }
            None => identity.clone(),
        };
        let mut known = match known {
            Some(known) => known,
            None => {
                let path = settings.join_token_file.as_ref().ok_or(Trouble::NoTicket)?;
                let ticket = Ticket::read(path, files).await?;
                let joined = join(settings, &ticket).await?;
                place.save(files, &joined).await?;
                tracing::info!(until = %joined.until, "joined the control endpoint");
                identity.insert(joined).clone()
            }
        };
        let mut renewal_failed = false;
        loop {
            let now = Timestamp::now();
            if known.renew_at() <= now && !renewal_failed {
                match renew(settings, &known).await {
                    Ok(renewed) => {
                        place.save(files, &renewed).await?;
                        tracing::info!(until = %renewed.until, "the node's certificate is renewed");
                        known = identity.insert(renewed).clone();
                    }
                    // It may be good for weeks.
                    Err(trouble) if known.until > now => {
                        tracing::warn!(why = chain(&trouble), "the node's certificate is not renewed; tried again");
                        renewal_failed = true;
                    }
                    Err(trouble) => return Err(trouble),
                }
            }
            let channel = dial(&settings.url, Known::By(&known)).await?;
            let session = Session {
                board: &shared.board,
                directory: &shared.directory,
                machine: &shared.machine,
                facts,
                remote,
                health_address: settings.health_advertise.as_deref().unwrap_or_default(),
                control_host: &settings.url.host,
                events_told,
                tokens,
                shelf: (shelf, files),
            };
            let due = if renewal_failed { RENEW_RETRY } else { until(known.renew_at()) };
            match timeout(due, session.run(channel)).await {
                Ok(ended) => return Err(ended.into()),
                // The certificate is due; the session goes on with the new one.
                Err(_) => renewal_failed = false,
            }
        }
    }

    async fn rejoin(&mut self, RejoinRequest { token, reply }: RejoinRequest) {
        let joined = async {
            let joined = join(&self.settings, &Ticket::parse(&token)?).await?;
            self.place.save(&self.files, &joined).await?;
            Ok::<_, Trouble>(joined)
        };
        let answer = match joined.await {
            Ok(joined) => {
                let said = format!("node {} has joined {} anew", self.settings.node_name, self.settings.url);
                tracing::info!(until = %joined.until, "joined the control endpoint anew");
                self.identity = Some(joined);
                Ok(said)
            }
            Err(trouble) => Err(chain(&trouble)),
        };
        // Who asked may have gone away.
        let _ = reply.send(answer);
    }

    /// Says why there is no session, once for each reason.
    fn tell(&self, why: &str) {
        let known = self.shared.board.control();
        if known.is_none_or(|known| known.connected || known.why != why) {
            tracing::warn!(why, endpoint = %self.settings.url, "no session with the control endpoint; what runs runs on");
        }
        self.shared
            .board
            .set_control(|facts| (facts.connected, facts.may_answer, facts.why) = (false, false, why.to_owned()));
        self.tokens.do_without()();
    }
}

fn until(moment: Timestamp) -> Duration {
    // A timer that goes farther than this is set again.
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO).min(LONGEST)
}

async fn join(settings: &Settings, ticket: &Ticket) -> Result<Identity, Trouble> {
    let (key, request) = identity::request()?;
    let channel = dial(&settings.url, Known::Pin(ticket.pin)).await?;
    let mut client = FleetClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let (token, node) = (ticket.token.clone(), settings.node_name.clone());
    let asked = client.join(v1::JoinRequest { token, node, request: Bytes::from(request) });
    let answer = timeout(ANSWER_MAX, asked).await.map_err(|_| Trouble::Silent)?.map_err(Trouble::Join)?;
    let v1::Certificate { chain, authority } = answer.into_inner();
    if !identity::is_pinned(&authority, &ticket.pin) {
        return Err(Trouble::OtherAuthority);
    }
    Ok(Identity::new(&settings.node_name, &key, chain, authority)?)
}

/// With another key: what was on the disk of a stolen backup is good for nothing then.
async fn renew(settings: &Settings, known: &Identity) -> Result<Identity, Trouble> {
    let (key, request) = identity::request()?;
    let channel = dial(&settings.url, Known::By(known)).await?;
    let mut client = FleetClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let asked = client.renew(v1::RenewRequest { request: Bytes::from(request) });
    let answer = timeout(ANSWER_MAX, asked).await.map_err(|_| Trouble::Silent)?.map_err(Trouble::Renew)?;
    let v1::Certificate { chain, authority } = answer.into_inner();
    Ok(Identity::new(&settings.node_name, &key, chain, authority)?)
}
