//! Connections on which nobody has shown yet who he is: how many there may be, and which of them goes when another comes. Nobody is turned away
//! at the door, because he may be anybody; who makes room is the oldest of the host that has most, so whoever comes with many pushes out his own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// At a time, in their handshake or behind it. One costs some 40 KB with its TLS; who shows a credential is one for some milliseconds.
pub const MOST: usize = 500;

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Strangers(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// The next one's number: the oldest has the smallest.
    next: u64,
    of: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
}

/// One of them; until it is dropped it counts.
#[derive(Debug)]
pub struct Stranger {
    all: Strangers,
    number: u64,
    cut: Arc<Notify>,
}

impl Strangers {
    /// A new one, and the host whose oldest one has to go for it.
    pub fn enter(&self, host: IpAddr) -> (Stranger, Option<IpAddr>) {
        let mut book = self.book();
        let cut = Arc::new(Notify::new());
        let number = book.next;
        book.next = book.next.saturating_add(1);
        book.of.insert(number, (host, cut.clone()));
        let out = if book.of.len() > MOST { book.turn_out() } else { None };
        drop(book);
        (Stranger { all: self.clone(), number, cut }, out)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn turn_out(&mut self) -> Option<IpAddr> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (host, _) in self.of.values() {
            *counts.entry(*host).or_default() += 1;
        }
        let most = counts.values().max().copied()?;
        // Of hosts with as many each, the one with the oldest.
        let (number, _) = self.of.iter().find(|(_, (host, _))| counts.get(host) == Some(&most))?;
        let number = *number;
        let (host, cut) = self.of.remove(&number)?;
        cut.notify_one();
        Some(host)
    }
}

impl Stranger {
    /// Told when the connection has to go.
    pub fn cut(&self) -> Arc<Notify> {
        self.cut.clone()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.book().of.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_with_many_pushes_out_his_own_oldest_and_nobody_elses() {
        let strangers = Strangers::default();
        let host = |last: u8| IpAddr::from([192, 0, 2, last]);
        let (alone, out) = strangers.enter(host(200));
        assert_eq!(out, None);
        let many: Vec<Stranger> =
            (1..MOST).map(|number| strangers.enter(host(u8::try_from(number % 8).unwrap())).0).collect();
        assert_eq!(strangers.book().of.len(), MOST);
        let mut late = Vec::new();
        for _ in 0..8 {
            let (stranger, out) = strangers.enter(host(100));
            assert!(out.is_some_and(|out| out != host(100) && out != host(200)), "{out:?}");
            late.push(stranger);
        }
        // It is told, also before it listens.
        many[0].cut().notified().await;
        assert!(strangers.book().of.contains_key(&alone.number), "who has but one stays");
        assert!(late.iter().all(|late| strangers.book().of.contains_key(&late.number)));
        drop((alone, many, late));
        assert!(strangers.book().of.is_empty());
    }
}
