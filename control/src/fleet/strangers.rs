//! Connections that have shown no node's certificate, or not yet: how many there may be, and how many of them of one address. Whoever has no
//! right to be here keeps waiting others of his address, and nobody else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::door::join::host;

/// Of one address: a fleet behind one address comes back at once.
const OF_ADDRESS_MAX: usize = 1_024;
/// Handshakes of one address at a time: a quarter of all.
const TURNS_OF_ADDRESS: usize = 32;
/// Of all addresses, with a finished handshake and no good certificate: a quarter of all connections.
const SETTLED_MAX: usize = 3_000;

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Strangers {
    of: Arc<Mutex<BTreeMap<IpAddr, OfAddress>>>,
    settled: Arc<Semaphore>,
}

#[derive(Debug)]
struct OfAddress {
    count: usize,
    turns: Arc<Semaphore>,
}

/// One of them; until it is dropped it counts.
#[derive(Debug)]
pub struct Stranger {
    all: Strangers,
    host: IpAddr,
    turns: Arc<Semaphore>,
}

impl Strangers {
    pub fn new() -> Strangers {
        Strangers { of: Arc::default(), settled: Arc::new(Semaphore::new(SETTLED_MAX)) }
    }

    /// None: its address has too many already.
    pub fn enter(&self, from: IpAddr) -> Option<Stranger> {
        let host = host(from);
        let mut of = self.of();
        let fresh = || OfAddress { count: 0, turns: Arc::new(Semaphore::new(TURNS_OF_ADDRESS)) };
        let known = of.entry(host).or_insert_with(fresh);
        if known.count >= OF_ADDRESS_MAX {
            return None;
        }
        known.count = known.count.saturating_add(1);
        Some(Stranger { all: self.clone(), host, turns: known.turns.clone() })
    }

    fn of(&self) -> MutexGuard<'_, BTreeMap<IpAddr, OfAddress>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Waits for its address's turn to shake hands.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        self.turns.clone().acquire_owned().await.ok()
    }

    /// It has shown nothing that makes it a node. None: there are too many of those.
    pub fn settle(&self) -> Option<OwnedSemaphorePermit> {
        self.all.settled.clone().try_acquire_owned().ok()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut of = self.all.of();
        if let Some(known) = of.get_mut(&self.host) {
            known.count = known.count.saturating_sub(1);
            if known.count == 0 {
                of.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_take_the_places_and_the_turns_of_others() {
        let strangers = Strangers::new();
        let network = |n: usize| address(&format!("2001:db8::{n:x}"));
        let mut many: Vec<Stranger> = (0..OF_ADDRESS_MAX).map(|n| strangers.enter(network(n)).unwrap()).collect();
        assert!(strangers.enter(network(9_999)).is_none(), "the same network");
        let other = strangers.enter(address("192.0.2.1")).unwrap();
        let mut turns = Vec::new();
        for stranger in many.iter().take(TURNS_OF_ADDRESS) {
            turns.push(stranger.turn().await.unwrap());
        }
        assert_eq!(many[0].turns.available_permits(), 0);
        assert!(other.turn().await.is_some());
        many.truncate(1);
        assert!(strangers.enter(network(9_999)).is_some());
        drop((many, other));
        assert!(strangers.of().is_empty(), "who has gone is forgotten");
    }
}
