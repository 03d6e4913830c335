//! How a node comes in: a join token is traded for a node certificate, and a certificate for its successor.
//!
//! Driven by `fleet`, which brings what a node said, and by the program's `token create`. What is stored, through the store's own trait:
//! `/daemonlet/tokens/ID` (a hash of the secret) and `/daemonlet/nodes/NAME` (whose keys are good for that name).
//!
//! A name belongs to the key that joined under it. Another key gets it where nobody has it any more: its Node has been deleted, or
//! its certificate ended more than [`EXPIRED_MAX`] ago; or where the token was made for this very node (`token create --node NAME`). The key of
//! before is then good for nothing.

mod attempts;
mod revoke;
mod token;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pod::manifest::names;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use self::attempts::Attempts;
pub use self::attempts::{FAILURES_MAX, WINDOW, host};
pub use self::revoke::{KEYS, Known, nobodys};
pub use self::token::{Bad, TOKEN_MAX};
use self::token::{Shown, Token};
use super::authority::{Authority, AuthorityError, Peer, Request, Signed};
use super::random::NoRandomness;
use super::tls::EXPIRED_MAX;
use crate::clock::Clock;
use crate::store::any::AnyStore;
use crate::store::{Expected, Range, Store as _, StoreError, Write};

const TOKENS: &str = "/daemonlet/tokens/";
const NODES: &str = "/daemonlet/nodes/";
/// Tokens that exist at a time: one for each rack of a large fleet.
pub const TOKENS_LIMIT: usize = 256;
/// How long a token lasts, unless it is said.
pub const TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest that one may last.
pub const TTL_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// How many nodes may join with one, unless it is said.
pub const USES: u32 = 1000;
pub const USES_MAX: u32 = 100_000;
/// So long a name is the first key's that it was given to though that node has not come yet: it is about to. No longer: a machine that the answer did not
/// reach asks again with another key.
const COMING: Duration = Duration::from_secs(60);
/// How often a write is tried that another endpoint's came before.
const TRIES: u32 = 8;

/// Takes nodes in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Joining {
    authority: Arc<Authority>,
    store: AnyStore,
    clock: Clock,
    attempts: Arc<Mutex<Attempts>>,
    /// Who uses a token up does it alone: a thousand nodes with one token do not fight over it.
    one_at_a_time: Arc<tokio::sync::Mutex<()>>,
}

/// What a new token is to be good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub ttl: Duration,
    pub uses: u32,
    /// Only this node, which may have another key than before.
    pub node: Option<String>,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted { ttl: TTL, uses: USES, node: None }
    }
}

/// A node that TLS and the store know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Its certificate has ended: it may renew it and do nothing else.
    pub is_expired: bool,
    pub not_after: Timestamp,
}

/// Why a node does not come in. What it says may be told to the node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("too many failed attempts from this address; try again in {} s", .0.as_secs().max(1))]
    TooMany(Duration),
    #[error("{0}; `daemonlet-control token create` makes one")]
    Token(Bad),
    #[error("the node's name: {0}")]
    Name(String),
    #[error(
        "node {0} has joined before, with another key; if that node is gone, delete its Node (kubectl delete node {0}), or join with a token of its own (daemonlet-control token create --node {0})"
    )]
    Taken(String),
    #[error(
        "a machine has joined as node {0} within the last minute and is about to come; give this one another name (--node-name) if it is another one, else it is tried again"
    )]
    Coming(String),
    #[error("no node's certificate was shown")]
    NoNode,
    #[error(
        "node {0} was revoked, or has joined anew since with another key, so this certificate is no longer good; join again with a new token"
    )]
    Replaced(String),
    #[error("the certificate of node {0} has ended; renew it first")]
    Ended(String),
    #[error(transparent)]
    Request(AuthorityError),
    #[error("there are {TOKENS_LIMIT} join tokens already; wait for one to expire")]
    TooManyTokens,
    #[error("{0}")]
    Unfit(String),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whose keys are good for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys {
    /// The newest last, and the one that it was renewed with.
    keys: Vec<String>,
    /// When the newest certificate ends.
    until: Timestamp,
    /// When the name was given to its key, as long as no node has come with that.
    coming: Option<Timestamp>,
}

impl Joining {
    pub fn new(authority: Arc<Authority>, store: AnyStore, clock: Clock) -> Joining {
        Joining { authority, store, clock, attempts: Arc::default(), one_at_a_time: Arc::default() }
    }

    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Makes a join token, as it is handed to a node: `id.secret.pin`.
    pub async fn create(&self, wanted: &Wanted) -> Result<String, JoinError> {
        let Wanted { ttl, uses, node } = wanted;
        if *ttl > TTL_MAX || ttl.is_zero() {
            return Err(JoinError::Unfit(format!("a token lasts between 1 s and {} h", TTL_MAX.as_secs() / 3600)));
        }
        if !(1..=USES_MAX).contains(uses) {
            return Err(JoinError::Unfit(format!("a token has between 1 and {USES_MAX} uses")));
        }
        if let Some(node) = node {
            fit(node)?;
        }
        let now = self.clock.now();
        self.forget_expired(now).await?;
        let expires = now.checked_add(*ttl).unwrap_or(Timestamp::MAX);
        let (token, secret) = Token::generate(now, expires, *uses, node.clone())?;
        let key = format!("{TOKENS}{}", token.id);
        self.store.write(Write { key, value: Some(token.to_bytes()), expected: Expected::Absent }).await?;
        Ok(format!("{}.{secret}.{}", token.id, self.authority.pin()))
    }

    /// Whether this address may try to join at all: asked before its request is read. A failure is counted by [`Joining::join`].
    pub fn admits(&self, from: IpAddr) -> Result<(), JoinError> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.wait(from, self.clock.now()).map_or(Ok(()), |wait| Err(JoinError::TooMany(wait)))
    }

    /// Trades a token for a certificate. `request`: PKCS #10 in DER.
    pub async fn join(&self, from: IpAddr, token: &str, node: &str, request: &[u8]) -> Result<Signed, JoinError> {
        self.admits(from)?;
        let joined = self.decide(token, node, request).await;
        // Only who guesses is counted: ten machines of one image, whose name is taken, would lock out all others behind their address.
        let is_guess = matches!(joined, Err(JoinError::Token(Bad::Unknown)));
        let counted =
            || self.attempts.lock().unwrap_or_else(PoisonError::into_inner).failed(from, token, self.clock.now());
        if is_guess && counted() {
            tracing::warn!(%from, "an address has shown {FAILURES_MAX} unknown join tokens; nobody joins from there for a minute");
        }
        joined
    }

    async fn decide(&self, token: &str, node: &str, request: &[u8]) -> Result<Signed, JoinError> {
        let now = self.clock.now();
        let shown = Shown::parse(token).ok_or(JoinError::Token(Bad::Unknown))?;
        let key = format!("{TOKENS}{}", shown.id);
        let (known, _) = self.token(&key).await?;
        known.judge(shown.secret, node, now).map_err(JoinError::Token)?;
        fit(node)?;
        let request = Request::parse(request).map_err(JoinError::Request)?;
        let _alone = self.one_at_a_time.lock().await;
        for _ in 0..TRIES {
            let (mut known, revision) = self.token(&key).await?;
            known.judge(shown.secret, node, now).map_err(JoinError::Token)?;
            let is_free = known.node.as_deref() == Some(node);
            let expected = self.takes(node, &request.key(), is_free, now).await?;
            known.uses = known.uses.saturating_sub(1);
            let used = Write { key: key.clone(), value: Some(known.to_bytes()), expected: Expected::At(revision) };
            match self.store.write(used).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            let signed = self.authority.node(node, &request, now).map_err(JoinError::Request)?;
            let keys = Keys { keys: vec![signed.key.clone()], until: signed.not_after, coming: Some(now) };
            return match self.remember(node, &keys, expected).await {
                Ok(()) => Ok(signed),
                // Two of this name at the same moment: one has it.
                Err(StoreError::Conflict { .. }) => Err(JoinError::Taken(node.to_owned())),
                Err(error) => Err(error.into()),
            };
        }
        Err(JoinError::Token(Bad::UsedUp))
    }

    /// Trades a node's certificate, which may have ended, for its successor. The key may be another one.
    pub async fn renew(&self, shown: &[CertificateDer<'_>], request: &[u8]) -> Result<Signed, JoinError> {
        let (peer, name) = node_of(shown)?;
        let now = self.clock.now();
        let request = Request::parse(request).map_err(JoinError::Request)?;
        for _ in 0..TRIES {
            let expected = match self.keys(&name).await? {
                Some((keys, revision)) if keys.know(&peer) => Expected::At(revision),
                Some(_) => return Err(JoinError::Replaced(name)),
                // The store was put back from before it joined: the certificate is the authority's all the same.
                None => Expected::Absent,
            };
            let signed = self.authority.node(&name, &request, now).map_err(JoinError::Request)?;
            // The one that asks stays good: the node may die before it has saved what it is given.
            let keys = vec![peer.key.clone(), signed.key.clone()];
            let mut keys = Keys { keys, until: signed.not_after, coming: None };
            keys.keys.dedup();
            match self.remember(&name, &keys, expected).await {
                Ok(()) => return Ok(signed),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(JoinError::Replaced(name))
    }

    /// The node that a verified certificate chain belongs to, and whether it may do more than renew.
    pub async fn node(&self, shown: &[CertificateDer<'_>]) -> Result<Node, JoinError> {
        let (peer, name) = node_of(shown)?;
        let known = self.keys(&name).await?;
        if known.as_ref().is_some_and(|(keys, _)| !keys.know(&peer)) {
            return Err(JoinError::Replaced(name));
        }
        if let Some((keys, revision)) = known.filter(|(keys, _)| keys.coming.is_some()) {
            // It has come: from now on its Node says whether the name is taken. Where that cannot be written, it is at its next connection.
            if let Err(error) = self.remember(&name, &Keys { coming: None, ..keys }, Expected::At(revision)).await {
                tracing::debug!(node = name, %error, "that a node has come is not written");
            }
        }
        let is_expired = peer.not_after <= self.clock.now();
        Ok(Node { name, is_expired, not_after: peer.not_after })
    }

    /// Whether the key is one of the node's. A node that the store knows nothing of has the authority's word.
    pub async fn knows(&self, peer: &Peer, name: &str) -> Result<bool, StoreError> {
        Ok(self.keys(name).await?.is_none_or(|(keys, _)| keys.know(peer)))
    }

    async fn token(&self, key: &str) -> Result<(Token, u64), JoinError> {
        let entry = self.store.get(key).await?.entry;
        let read = entry.and_then(|entry| Some((Token::from_bytes(&entry.value)?, entry.revision)));
        read.ok_or(JoinError::Token(Bad::Unknown))
    }

    async fn keys(&self, node: &str) -> Result<Option<(Keys, u64)>, StoreError> {
        let entry = self.store.get(&format!("{NODES}{node}")).await?.entry;
        Ok(entry.and_then(|entry| Some((Keys::from_bytes(&entry.value)?, entry.revision))))
    }

    /// Whether the name may go to this key, and what is to be replaced then.
    async fn takes(&self, node: &str, key: &str, is_free: bool, now: Timestamp) -> Result<Expected, JoinError> {
        let Some((keys, revision)) = self.keys(node).await? else { return Ok(Expected::Absent) };
        let is_dead = keys.until.checked_add(EXPIRED_MAX).is_ok_and(|end| end <= now);
        let has_it = keys.keys.iter().any(|known| known == key);
        let is_free = is_free || has_it || is_dead || {
            let object = self.store.get(&super::stored("", "nodes", "", node)).await?;
            let is_absent = object.entry.is_none();
            // A clock that was set back does not keep it for longer.
            let is_coming = |since: Timestamp| since <= now && since.checked_add(COMING).is_ok_and(|end| now < end);
            if is_absent && keys.coming.is_some_and(is_coming) {
                return Err(JoinError::Coming(node.to_owned()));
            }
            is_absent
        };
        if is_free { Ok(Expected::At(revision)) } else { Err(JoinError::Taken(node.to_owned())) }
    }

    async fn remember(&self, node: &str, keys: &Keys, expected: Expected) -> Result<(), StoreError> {
        let write = Write { key: format!("{NODES}{node}"), value: Some(keys.to_bytes()), expected };
        self.store.write(write).await.map(drop)
    }

    /// Removes tokens that let nobody in any more. Errors: there are too many of those that do.
    async fn forget_expired(&self, now: Timestamp) -> Result<(), JoinError> {
        let range = Range { prefix: TOKENS.into(), limit: Some(TOKENS_LIMIT), ..Range::default() };
        let page = self.store.list(&range).await?;
        let mut good = page.entries.len();
        for entry in page.entries {
            if Token::from_bytes(&entry.value).is_some_and(|token| token.expires > now && token.uses > 0) {
                continue;
            }
            good -= 1;
            let gone = Write { key: entry.key, value: None, expected: Expected::At(entry.revision) };
            match self.store.write(gone).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if good < TOKENS_LIMIT { Ok(()) } else { Err(JoinError::TooManyTokens) }
    }
}

impl Keys {
    /// A certificate that ends later than any that this knows of was made after it was written: the store was put back from a copy.
    fn know(&self, peer: &Peer) -> bool {
        self.keys.contains(&peer.key) || peer.not_after > self.until
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut stored = json!({ "keys": self.keys, "until": self.until.to_string() });
        if let (Some(coming), Some(fields)) = (self.coming, stored.as_object_mut()) {
            fields.insert("coming".to_owned(), coming.to_string().into());
        }
        stored.to_string().into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Keys> {
        let stored: Value = serde_json::from_slice(bytes).ok()?;
        let keys = stored["keys"].as_array()?.iter().map(|key| key.as_str().map(str::to_owned));
        let (until, coming) = (stored["until"].as_str()?.parse().ok()?, stored["coming"].as_str());
        let coming = coming.and_then(|coming| coming.parse().ok());
        Some(Keys { keys: keys.collect::<Option<_>>()?, until, coming })
    }
}

fn node_of(shown: &[CertificateDer<'_>]) -> Result<(Peer, String), JoinError> {
    let peer = shown.first().and_then(|certificate| Peer::of(certificate).ok()).ok_or(JoinError::NoNode)?;
    let name = peer.node().ok_or(JoinError::NoNode)?.to_owned();
    Ok((peer, name))
}

fn fit(node: &str) -> Result<(), JoinError> {
    names::dns_subdomain(node).map_or(Ok(()), |why| Err(JoinError::Name(why)))
}

#[cfg(test)]
mod tests;
