//! How many connections one address may have at a time, so that one client that hangs or floods leaves room for the others:
//! a probe of the node's health is answered whoever else holds the door.
//!
//! Used by the loopback listener's door; the socket is root's alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shares {
    most: usize,
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One connection of an address; given back when dropped.
#[derive(Debug)]
pub struct Share {
    of: IpAddr,
    shares: Shares,
}

impl Shares {
    /// At most so many connections an address.
    pub fn new(most: usize) -> Shares {
        Shares { most, taken: Arc::default() }
    }

    /// None: the address has as many as it may.
    pub fn take(&self, of: IpAddr) -> Option<Share> {
        let of = of.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(of).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { of, shares: self.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let shares = Shares::new(2);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap());
        let first = shares.take(a);
        let second = shares.take(b);
        assert!(first.is_some() && second.is_some());
        assert!(shares.take(a).is_none(), "written as IPv6 it is the same address");
        assert!(shares.take("192.0.2.2".parse().unwrap()).is_some());
        drop(first);
        assert!(shares.take(a).is_some());
        drop(second);
        assert!(shares.taken.lock().unwrap().is_empty());
    }
}
