//! How much of this door one client, and all of them together, may have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::error::ApiError;

/// Requests in the works at a time, watches and logs aside: what two threads answer in a second.
const REQUESTS_MAX: usize = 200;
/// Watches and logs at a time. Each costs a few kilobytes; a thousand is far more than people and controllers of one endpoint have open.
const STREAMS_MAX: usize = 1000;
/// A watch's life where the client does not say: at least this long, and up to twice.
const WATCH_LEAST: Duration = Duration::from_secs(1800);
/// Requests of one user a second, on average and at once. A controller that reads everything anew makes some hundred.
const OF_USER: Rate = Rate { a_second: 200.0, at_once: 1000.0 };
/// Of one address without a credential: probes and mistakes.
const OF_NOBODY: Rate = Rate { a_second: 10.0, at_once: 50.0 };
/// Clients whose rates are remembered; those that have been quiet longest are forgotten.
const CLIENTS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    a_second: f64,
    at_once: f64,
}

#[derive(Debug)]
pub struct Limits {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    clients: Mutex<HashMap<String, Allowance>>,
    watches: AtomicU64,
}

/// What a client has left.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: Instant,
}

/// A request's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            clients: Mutex::default(),
            watches: AtomicU64::new(0),
        }
    }
}

impl Limits {
    /// A place among the requests; 429 where all are taken.
    pub fn request(&self) -> Result<Place, ApiError> {
        place(&self.requests, "requests")
    }

    /// A place among watches and logs.
    pub fn stream(&self) -> Result<Place, ApiError> {
        place(&self.streams, "watches")
    }

    /// Counts a request of this client; 429 where it has had too many.
    pub fn count(&self, client: &str, is_known: bool, now: Instant) -> Result<(), ApiError> {
        let rate = if is_known { OF_USER } else { OF_NOBODY };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(client) {
            let quiet = clients.iter().min_by_key(|(_, allowance)| allowance.at).map(|(client, _)| client.clone());
            quiet.map(|client| clients.remove(&client));
        }
        let had = clients.entry(client.to_owned()).or_insert(Allowance { left: rate.at_once, at: now });
        let since = now.saturating_duration_since(had.at).as_secs_f64();
        let left = (had.left + since * rate.a_second).min(rate.at_once);
        *had = Allowance { left: (left - 1.0).max(0.0), at: now };
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

fn place(of: &Arc<Semaphore>, what: &str) -> Result<Place, ApiError> {
    match of.clone().try_acquire_owned() {
        Ok(permit) => Ok(Place { _permit: permit }),
        Err(_) => Err(ApiError::too_many(1, format!("too many {what} at a time, please try again later"))),
    }
}
