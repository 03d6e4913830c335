//! What is heard of nodes: when last, over what, and what they say of themselves. In memory only: an endpoint that starts anew listens
//! anew, and gives every node its time.
//!
//! Driven by the sessions (`fleet`) and by the polls of advertised health addresses (`loops::polls`); read by `loops::nodes`, which judges. It
//! must not know the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::daemonset::after;

/// Nothing heard for this long: the node is unknown (Kubernetes' `node-monitor-grace-period`).
pub const GRACE: Duration = Duration::from_secs(50);
/// Nodes that are remembered: more than any fleet that one endpoint serves. Beyond it the one that was silent longest is forgotten.
const NODES_MAX: usize = 20_000;
/// How often this endpoint notes that it runs itself ([`Contacts::tick`]).
pub const TICK: Duration = Duration::from_secs(5);
/// A note that comes later than this is no busy machine: the endpoint stood still (a machine that slept, a disk that hung), and heard nobody.
pub const LATE_MAX: Duration = Duration::from_secs(15);
/// Bytes of what keeps a node from being ready.
const WHY_MAX: usize = 1024;
/// A clock that has gone on by so much more, or less, than time has passed was set.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(1);
/// Nodes that have changed and that nobody has asked for: as many as there can be.
const CHANGED_MAX: usize = NODES_MAX;

/// See the top of the file. Clones are the same.
#[derive(Debug, Clone)]
pub struct Contacts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    book: Mutex<Book>,
    changed: Notify,
    /// Some node has another health address.
    moved: Notify,
}

#[derive(Debug, Default)]
struct Book {
    nodes: BTreeMap<String, Known>,
    /// Where nodes are asked for their health.
    addresses: BTreeMap<String, String>,
    /// The clock when it was looked at last, and how much time had passed then.
    looked: Option<(Timestamp, Duration)>,
    /// Whose health, connection or first sign of life has changed since [`Contacts::take_changed`].
    changed: Vec<String>,
    /// When it was last noted that this endpoint runs; None: nobody does.
    awake: Option<Timestamp>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ready,
    NotReady {
        /// As a person reads it: `containerd: not answering`.
        why: String,
    },
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The last sign of life; before there was one, when listening began.
    pub at: Timestamp,
    /// There was one.
    pub ever: bool,
    pub health: Health,
    /// Its session is open.
    pub connected: bool,
}

/// What was heard here, and what the node's Lease has told.
#[derive(Debug, Clone)]
struct Known {
    here: Heard,
    /// When the Lease was last seen to be renewed by another endpoint, by the clock of this one: theirs may be another.
    elsewhere: Option<Timestamp>,
    /// `renewTime` as it was seen last.
    lease: Option<Timestamp>,
    /// `renewTime` as this endpoint has written it last.
    ours: Option<Timestamp>,
}

impl Known {
    /// The clock was set, by so much: what was heard was heard as long ago as before.
    fn step(&mut self, by: SignedDuration) {
        for at in std::iter::once(&mut self.here.at).chain(&mut self.elsewhere) {
            *at = at.checked_add(by).unwrap_or(*at);
        }
    }

    fn heard(&self) -> Heard {
        let Some(elsewhere) = self.elsewhere else { return self.here.clone() };
        let at = if self.here.ever { self.here.at.max(elsewhere) } else { elsewhere };
        Heard { at, ever: true, ..self.here.clone() }
    }
}

impl Heard {
    /// A node for which listening begins at `now`.
    pub fn nothing(now: Timestamp) -> Heard {
        Heard { at: now, ever: false, health: Health::Ready, connected: false }
    }

    /// Why nothing is heard, without a time and without a full stop.
    pub fn silence(&self) -> &'static str {
        match (self.ever, self.connected) {
            (false, _) => "The node has not called since the control endpoint began to listen",
            (true, true) => "The node's session is open and silent",
            (true, false) => "The node's session has ended and nothing else is heard of it",
        }
    }

    /// A sign of life now is the first one, or the first after a silence.
    fn is_news(&self, now: Timestamp) -> bool {
        !self.ever || after(self.at, GRACE) <= now
    }
}

impl Contacts {
    pub fn new(clock: Clock) -> Contacts {
        let (book, changed, moved) = (Mutex::default(), Notify::new(), Notify::new());
        Contacts { shared: Arc::new(Shared { clock, book, changed, moved }) }
    }

    /// A sign of life: a heartbeat of the session, a poll that was answered. `failing`: what keeps the node from being ready; empty: it is.
    pub fn heard(&self, node: &str, failing: &str) {
        let health = match failing {
            "" => Health::Ready,
            why => Health::NotReady { why: why[..why.floor_char_boundary(WHY_MAX)].to_owned() },
        };
        self.change(node, |known, now| {
            let news = known.heard().is_news(now) || known.here.health != health;
            // A clock that was set back must not make a node silent for as long.
            known.here = Heard { at: now, ever: true, health, connected: known.here.connected };
            news
        });
    }

    /// Its session begins, which is a sign of life too.
    pub fn opened(&self, node: &str) {
        self.change(node, |known, now| {
            let news = known.heard().is_news(now) || !known.here.connected;
            (known.here.at, known.here.ever, known.here.connected) = (now, true, true);
            news
        });
    }

    /// Its session has ended. The node may be well: its time runs from the last sign of life.
    pub fn closed(&self, node: &str) {
        self.change(node, |known, _| std::mem::replace(&mut known.here.connected, false));
    }

    /// Where the node may be asked for its health (`HOST:PORT`); None: nowhere.
    pub fn advertised(&self, node: &str, address: Option<&str>) {
        let mut book = self.book();
        let known = book.addresses.get(node).map(String::as_str);
        if known == address {
            return;
        }
        match address {
            Some(address) => book.addresses.insert(node.to_owned(), address.to_owned()),
            None => book.addresses.remove(node),
        };
        self.shared.moved.notify_one();
    }

    /// Nodes that may be asked, each with its address.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        self.book().addresses.clone()
    }

    /// Waits until [`Contacts::addresses`] are others. Cancel-safe; one waits at a time.
    pub async fn moved(&self) {
        self.shared.moved.notified().await;
    }

    /// The node's Lease says now that it was renewed then. Where that is another moment than before and not our own doing, another endpoint has heard
    /// the node since: at which moment is by that one's clock, which is not compared with ours. What the node says of itself is not known here.
    pub fn heard_elsewhere(&self, node: &str, renewed: Timestamp) {
        self.change(node, |known, now| {
            let before = known.lease.replace(renewed);
            if before.is_none_or(|before| before == renewed) || known.ours == Some(renewed) {
                return false;
            }
            let news = known.heard().is_news(now);
            known.elsewhere = Some(now);
            news
        });
    }

    /// This endpoint is about to renew the node's Lease with this moment.
    pub fn renewing(&self, node: &str, renewed: Timestamp) {
        self.change(node, |known, _| {
            known.ours = Some(renewed);
            false
        });
    }

    /// What is known of `node`, from whomever; listening begins with the first question.
    pub fn of(&self, node: &str) -> Heard {
        self.known(node).heard()
    }

    /// What was heard of `node` here. Only that renews its Lease: two endpoints that renewed by what they read would keep a dead node alive.
    pub fn of_here(&self, node: &str) -> Heard {
        self.known(node).here
    }

    fn known(&self, node: &str) -> Known {
        let (mut book, now) = self.book_now();
        let known = book.entry(node, now);
        // The clock was set back: the node has its time from here.
        known.here.at = known.here.at.min(now);
        known.elsewhere = known.elsewhere.map(|at| at.min(now));
        known.clone()
    }

    /// This endpoint runs. To be called every [`TICK`].
    pub fn tick(&self) {
        let (mut book, now) = self.book_now();
        book.awake = Some(now);
    }

    /// This endpoint could hear nobody until now: every node has its time anew, as after a start.
    pub fn listen_anew(&self) {
        let (mut book, now) = self.book_now();
        book.listen_anew(now);
    }

    /// The node is gone from the fleet.
    pub fn forget(&self, node: &str) {
        let mut book = self.book();
        book.nodes.remove(node);
        if book.addresses.remove(node).is_some() {
            self.shared.moved.notify_one();
        }
    }

    /// Nodes of which something new is known, each once.
    pub fn take_changed(&self) -> Vec<String> {
        let mut changed = std::mem::take(&mut self.book().changed);
        changed.sort();
        changed.dedup();
        changed
    }

    /// Waits until there is one for [`Contacts::take_changed`]. Cancel-safe; one waits at a time.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    fn change(&self, node: &str, change: impl FnOnce(&mut Known, Timestamp) -> bool) {
        let (mut book, now) = self.book_now();
        let news = change(book.entry(node, now), now);
        if news && book.changed.len() < CHANGED_MAX {
            book.changed.push(node.to_owned());
            self.shared.changed.notify_one();
        }
    }

    /// As of now. Silence is time that passes: a clock that is put forward makes no node silent, and one that is put back makes none speak.
    fn book_now(&self) -> (std::sync::MutexGuard<'_, Book>, Timestamp) {
        let mut book = self.book();
        let (now, passed) = (self.shared.clock.now(), self.shared.clock.passed());
        if let Some((at, before)) = book.looked.replace((now, passed)) {
            let went = SignedDuration::try_from(passed.saturating_sub(before)).unwrap_or_default();
            let by = now.duration_since(at).saturating_sub(went);
            if by.abs() >= STEP_MIN {
                book.nodes.values_mut().for_each(|known| known.step(by));
                book.awake = book.awake.map(|awake| awake.checked_add(by).unwrap_or(now));
            }
        }
        book.catch_up(now);
        (book, now)
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Whoever looks first after the endpoint stood still must not find all nodes silent.
    fn catch_up(&mut self, now: Timestamp) {
        if self.awake.is_some_and(|awake| after(awake, TICK + LATE_MAX) <= now) {
            tracing::warn!("the control endpoint stood still: every node has its time anew");
            self.awake = Some(now);
            self.listen_anew(now);
        }
    }

    fn listen_anew(&mut self, now: Timestamp) {
        for known in self.nodes.values_mut() {
            (known.here.at, known.here.ever, known.elsewhere) = (now, false, None);
        }
    }

    fn entry(&mut self, node: &str, now: Timestamp) -> &mut Known {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(node) {
            let silent = self.nodes.iter().min_by_key(|(_, known)| known.heard().at).map(|(name, _)| name.clone());
            silent.and_then(|name| self.nodes.remove(&name));
        }
        self.nodes.entry(node.to_owned()).or_insert_with(|| {
            let here = Heard::nothing(now);
            Known { here, elsewhere: None, lease: None, ours: None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn only_news_is_told_and_once() {
        let clock = Clock::at(at(0));
        let contacts = Contacts::new(clock.clone());
        contacts.opened("a");
        for second in 1..4 {
            clock.set(at(second));
            contacts.heard("a", "");
        }
        assert_eq!(contacts.take_changed(), ["a"]);
        contacts.heard("a", "");
        assert!(contacts.take_changed().is_empty());
        clock.set(at(6));
        contacts.heard("a", "cni: no plugin");
        contacts.closed("a");
        contacts.closed("a");
        assert_eq!(contacts.take_changed(), ["a"]);
        let heard = contacts.of("a");
        assert_eq!((heard.at, heard.connected), (at(6), false));
        assert_eq!(heard.health, Health::NotReady { why: "cni: no plugin".into() });
    }

    #[test]
    fn a_sign_of_life_after_a_silence_is_news() {
        let clock = Clock::at(at(0));
        let contacts = Contacts::new(clock.clone());
        contacts.heard("a", "");
        contacts.take_changed();
        clock.set(at(49));
        contacts.heard("a", "");
        assert!(contacts.take_changed().is_empty());
        clock.set(at(99));
        contacts.heard("a", "");
        assert_eq!(contacts.take_changed(), ["a"]);
    }

    #[test]
    fn a_clock_that_is_set_makes_no_node_silent_and_none_speak() {
        let clock = Clock::at(at(5_000));
        let contacts = Contacts::new(clock.clone());
        contacts.heard("a", "");
        for (stepped, passes) in [(9_000, 10), (100, 10)] {
            clock.set(clock.now().checked_add(Duration::from_secs(passes)).unwrap());
            let before = clock.now().duration_since(contacts.of("a").at);
            clock.step(at(stepped));
            assert_eq!(clock.now().duration_since(contacts.of("a").at), before);
        }
        assert_eq!(contacts.of("a").at, at(80), "20 seconds ago");
    }

    #[test]
    fn an_endpoint_that_stood_still_gives_every_node_its_time() {
        let clock = Clock::at(at(0));
        let contacts = Contacts::new(clock.clone());
        contacts.tick();
        contacts.heard("a", "");
        contacts.heard("b", "");
        clock.set(at(19));
        assert_eq!(contacts.of("a").at, at(0), "a busy machine is late, too");
        contacts.tick();
        clock.set(at(200));
        // Whoever comes first: the judge, the clock, or a node.
        contacts.heard("b", "");
        let (a, b) = (contacts.of("a"), contacts.of("b"));
        assert_eq!((a.at, a.ever), (at(200), false));
        assert_eq!((b.at, b.ever), (at(200), true));
        contacts.tick();
        clock.set(at(204));
        assert_eq!(contacts.of("a").at, at(200), "its time runs");
    }

    #[test]
    fn listening_begins_with_the_first_question() {
        let clock = Clock::at(at(5));
        let contacts = Contacts::new(clock.clone());
        assert_eq!(contacts.of("a"), Heard::nothing(at(5)));
        clock.set(at(9));
        assert_eq!(contacts.of("a").at, at(5));
        contacts.forget("a");
        assert_eq!(contacts.of("a").at, at(9));
    }

    #[test]
    fn a_lease_that_another_endpoint_renews_is_a_sign_of_life_whatever_its_clock_says() {
        for ahead in [-1000, 0, 1000] {
            let clock = Clock::at(at(5000));
            let contacts = Contacts::new(clock.clone());
            contacts.heard_elsewhere("a", at(5000 + ahead));
            assert!(!contacts.of("a").ever, "it may have been written long ago");
            clock.set(at(5010));
            contacts.heard_elsewhere("a", at(5000 + ahead));
            assert!(!contacts.of("a").ever, "the Lease was not renewed");
            contacts.heard_elsewhere("a", at(5009 + ahead));
            assert_eq!((contacts.of("a").at, contacts.of("a").ever), (at(5010), true));
            assert_eq!(contacts.take_changed(), ["a"]);
            assert!(!contacts.of_here("a").ever, "what was read renews no Lease");
        }
    }

    #[test]
    fn what_this_endpoint_has_renewed_itself_says_nothing() {
        let clock = Clock::at(at(0));
        let contacts = Contacts::new(clock.clone());
        contacts.heard("a", "");
        contacts.renewing("a", at(0));
        contacts.heard_elsewhere("a", at(0));
        clock.set(at(20));
        contacts.renewing("a", at(10));
        contacts.heard_elsewhere("a", at(10));
        assert_eq!(contacts.of("a").at, at(0));
    }
}
