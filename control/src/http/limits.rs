//! How much of this door one client, and all of them together, may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tokens::{Mark, Seen, Tokens};
use crate::api::error::ApiError;
use crate::door::authority::MASTERS;
use crate::door::identity::Identity;
use crate::door::join::host;

/// Requests in the works at a time, watches and logs aside: what two threads answer in a second. One is in the works until its answer is sent.
const REQUESTS: Share = Share { what: "requests", most: 200, of_one: 50, at_one: 50, kept: 20 };
/// Watches and logs at a time. Each costs a few kilobytes. One account may be that of a daemon on every node of a fleet, with some watches each.
const STREAMS: Share = Share { what: "watches", most: 5000, of_one: 4000, at_one: 1000, kept: 200 };
/// A watch's life where the client does not say: at least this long, and up to twice.
const WATCH_LEAST: Duration = Duration::from_secs(1800);
/// Requests of one user a second, on average and at once. A controller that reads everything anew makes some hundred.
const OF_USER: Rate = Rate { a_second: 200.0, at_once: 1000.0 };
/// Of one address without a credential: probes and mistakes.
const OF_NOBODY: Rate = Rate { a_second: 10.0, at_once: 50.0 };
/// Credentials of one address that are not good. A daemon whose token has ended must not lock out its neighbours at once.
const OF_WRONG: Rate = Rate { a_second: 20.0, at_once: 200.0 };
/// Writes of one node: its agent makes none here.
const OF_NODE: Rate = Rate { a_second: 10.0, at_once: 100.0 };
/// Clients whose rates are remembered; those that have been quiet longest are forgotten.
const CLIENTS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    a_second: f64,
    at_once: f64,
}

/// How many places there are, and who may have how many.
#[derive(Debug, Clone, Copy)]
struct Share {
    what: &'static str,
    most: usize,
    of_one: usize,
    /// Of one user at one address.
    at_one: usize,
    /// For administrators alone, who have no bound of their own.
    kept: usize,
}

#[derive(Debug)]
pub struct Limits {
    requests: Arc<Places>,
    streams: Arc<Places>,
    clients: Mutex<HashMap<String, Allowance>>,
    watches: AtomicU64,
    tokens: Tokens,
}

/// What a client has left.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: Instant,
}

#[derive(Debug)]
struct Places {
    share: Share,
    taken: Mutex<HashMap<String, Taken>>,
}

/// One user's places.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    at: HashMap<IpAddr, usize>,
}

/// A request's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Places>,
    user: String,
    host: IpAddr,
}

impl Places {
    fn new(share: Share) -> Arc<Places> {
        Arc::new(Places { share, taken: Mutex::default() })
    }

    /// 429 where there is none for this user.
    fn take(self: &Arc<Places>, user: &Identity, from: IpAddr) -> Result<Place, ApiError> {
        let Share { what, most, of_one, at_one, kept } = self.share;
        let is_master = user.is_in(MASTERS);
        let (most, of_one, at_one) = if is_master { (most, most, most) } else { (most - kept, of_one, at_one) };
        let host = host(from);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().map(|own| own.all).sum();
        let own = taken.get(&user.name);
        let here = own.and_then(|own| own.at.get(&host)).copied().unwrap_or(0);
        if all >= most || own.is_some_and(|own| own.all >= of_one) || here >= at_one {
            return Err(ApiError::too_many(1, format!("too many {what} at a time, please try again later")));
        }
        let own = taken.entry(user.name.clone()).or_default();
        own.all += 1;
        *own.at.entry(host).or_default() += 1;
        Ok(Place { of: self.clone(), user: user.name.clone(), host })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = taken.get_mut(&self.user) else { return };
        own.all -= 1;
        if let Some(here) = own.at.get_mut(&self.host) {
            *here -= 1;
            if *here == 0 {
                own.at.remove(&self.host);
            }
        }
        if own.all == 0 {
            taken.remove(&self.user);
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests: Places::new(REQUESTS),
            streams: Places::new(STREAMS),
            clients: Mutex::default(),
            watches: AtomicU64::new(0),
            tokens: Tokens::default(),
        }
    }
}

impl Limits {
    /// A place among the requests; 429 where all are taken, or all that one user may have.
    pub fn request(&self, user: &Identity, from: IpAddr) -> Result<Place, ApiError> {
        self.requests.take(user, from)
    }

    /// A place among watches and logs.
    pub fn stream(&self, user: &Identity, from: IpAddr) -> Result<Place, ApiError> {
        self.streams.take(user, from)
    }

    /// Counts a request of this user; 429 where it has had too many.
    pub fn of_user(&self, name: &str, now: Instant) -> Result<(), ApiError> {
        self.count(format!("user {name}"), OF_USER, 1.0, now)
    }

    /// Counts a request of this address that comes without a credential.
    pub fn of_nobody(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        self.count(host(address).to_string(), OF_NOBODY, 1.0, now)
    }

    /// Counts a write of a node: it says what it has to say in its session.
    pub fn of_node(&self, name: &str, now: Instant) -> Result<(), ApiError> {
        self.count(format!("node {name}"), OF_NODE, 1.0, now)
    }

    /// Whether this token may be looked at: one that was good of late, or not; another, as long as the address has not shown too many that were not
    /// good. Errors: 429, and 401 for one that was refused just now.
    pub fn may_try(&self, address: IpAddr, token: Mark, now: Instant) -> Result<(), ApiError> {
        match self.tokens.seen(token, now) {
            Seen::Good | Seen::Wrong { lately: false } => Ok(()),
            Seen::Wrong { lately: true } => Err(ApiError::unauthorized()),
            Seen::New => self.count(format!("wrong {}", host(address)), OF_WRONG, 0.0, now),
        }
    }

    /// It was looked at. One that is not good counts once, however often it is shown.
    pub fn tried(&self, address: IpAddr, token: Mark, is_good: bool, now: Instant) {
        if !is_good && self.tokens.seen(token, now) == Seen::New {
            // It is refused anyway; the next is not looked at.
            let _ = self.count(format!("wrong {}", host(address)), OF_WRONG, 1.0, now);
        }
        self.tokens.note(token, is_good, now);
    }

    pub fn mark(&self, token: &[u8]) -> Mark {
        self.tokens.mark(token)
    }

    fn count(&self, client: String, rate: Rate, cost: f64, now: Instant) -> Result<(), ApiError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&client) {
            let quiet = clients.iter().min_by_key(|(_, allowance)| allowance.at).map(|(client, _)| client.clone());
            quiet.map(|client| clients.remove(&client));
        }
        let had = clients.entry(client).or_insert(Allowance { left: rate.at_once, at: now });
        let since = now.saturating_duration_since(had.at).as_secs_f64();
        let left = (had.left + since * rate.a_second).min(rate.at_once);
        *had = Allowance { left: (left - cost).max(0.0), at: now };
        if left < 1.0 {
            return Err(ApiError::too_many(1, "too many requests of this client, please try again later"));
        }
        Ok(())
    }

    /// How long a watch lives whose client does not say: not all of them end, and come again, at once.
    pub fn watch_lasts(&self) -> Duration {
        let step = self.watches.fetch_add(1, Ordering::Relaxed).wrapping_mul(397) % WATCH_LEAST.as_secs();
        WATCH_LEAST + Duration::from_secs(step)
    }
}
