//! How much of this door one client, and all of them together, may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api::error::ApiError;
use crate::door::authority::MASTERS;
use crate::door::identity::Identity;
use crate::door::join::host;

/// Requests in the works at a time, watches and logs aside: what two threads answer in a second. One is in the works until its answer is sent.
const REQUESTS: Share = Share { what: "requests", most: 200, of_one: 50, kept: 20 };
/// Watches and logs at a time. Each costs a few kilobytes. One account may be that of a daemon on every node of a fleet.
const STREAMS: Share = Share { what: "watches", most: 2000, of_one: 1000, kept: 100 };
/// A watch's life where the client does not say: at least this long, and up to twice.
const WATCH_LEAST: Duration = Duration::from_secs(1800);
/// Requests of one user a second, on average and at once. A controller that reads everything anew makes some hundred.
const OF_USER: Rate = Rate { a_second: 200.0, at_once: 1000.0 };
/// Of one address without a credential: probes and mistakes.
const OF_NOBODY: Rate = Rate { a_second: 10.0, at_once: 50.0 };
/// Credentials of one address that are not good. A daemon whose token has ended must not lock out its neighbours at once.
const OF_WRONG: Rate = Rate { a_second: 20.0, at_once: 200.0 };
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
    /// For administrators alone, who have no bound of their own.
    kept: usize,
}

#[derive(Debug)]
pub struct Limits {
    requests: Arc<Places>,
    streams: Arc<Places>,
    clients: Mutex<HashMap<String, Allowance>>,
    watches: AtomicU64,
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
    taken: Mutex<HashMap<String, usize>>,
}

/// A request's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Places>,
    user: String,
}

impl Places {
    fn new(share: Share) -> Arc<Places> {
        Arc::new(Places { share, taken: Mutex::default() })
    }

    /// 429 where there is none for this user.
    fn take(self: &Arc<Places>, user: &Identity) -> Result<Place, ApiError> {
        let Share { what, most, of_one, kept } = self.share;
        let (most, of_one) = if user.is_in(MASTERS) { (most, most) } else { (most - kept, of_one) };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&user.name).copied().unwrap_or(0);
        if all >= most || own >= of_one {
            return Err(ApiError::too_many(1, format!("too many {what} at a time, please try again later")));
        }
        taken.insert(user.name.clone(), own + 1);
        Ok(Place { of: self.clone(), user: user.name.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.user);
            }
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
        }
    }
}

impl Limits {
    /// A place among the requests; 429 where all are taken, or all that one user may have.
    pub fn request(&self, user: &Identity) -> Result<Place, ApiError> {
        self.requests.take(user)
    }

    /// A place among watches and logs.
    pub fn stream(&self, user: &Identity) -> Result<Place, ApiError> {
        self.streams.take(user)
    }

    /// Counts a request of this user; 429 where it has had too many.
    pub fn of_user(&self, name: &str, now: Instant) -> Result<(), ApiError> {
        self.count(format!("user {name}"), OF_USER, 1.0, now)
    }

    /// Counts a request of this address that comes without a credential.
    pub fn of_nobody(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        self.count(host(address).to_string(), OF_NOBODY, 1.0, now)
    }

    /// Whether this address may show another token: 429 where too many were not good.
    pub fn may_try(&self, address: IpAddr, now: Instant) -> Result<(), ApiError> {
        self.count(format!("wrong {}", host(address)), OF_WRONG, 0.0, now)
    }

    /// Counts one that was not.
    pub fn was_wrong(&self, address: IpAddr, now: Instant) {
        // It is refused anyway; the next is not looked at.
        let _ = self.count(format!("wrong {}", host(address)), OF_WRONG, 1.0, now);
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
