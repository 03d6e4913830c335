//! What is heard of nodes: when last, over what, and what they say of themselves. In memory only: an endpoint that starts anew listens
//! anew, and gives every node its time.
//!
//! Driven by the sessions (`fleet`) and by the polls of advertised health addresses (`loops::polls`); read by `loops::nodes`, which judges. It
//! must not know the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::daemonset::after;

/// Nothing heard for this long: the node is unknown (Kubernetes' `node-monitor-grace-period`).
pub const GRACE: Duration = Duration::from_secs(50);
/// Nodes that are remembered: more than any fleet that one endpoint serves. Beyond it the one that was silent longest is forgotten.
const NODES_MAX: usize = 20_000;
/// Nodes that have changed and that nobody has asked for: as many as there can be.
const CHANGED_MAX: usize = NODES_MAX;

/// See the top of the file. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Contacts {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    nodes: BTreeMap<String, Heard>,
    /// Whose health, connection or first sign of life has changed since [`Contacts::take_changed`].
    changed: Vec<String>,
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

impl Heard {
    /// A node for which listening begins at `now`.
    pub fn nothing(now: Timestamp) -> Heard {
        Heard { at: now, ever: false, health: Health::Ready, connected: false }
    }

    /// Why nothing is heard, without a time and without a full stop.
    pub fn silence(&self) -> &'static str {
        match (self.ever, self.connected) {
            (false, _) => "The node has not called since the control endpoint started",
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
    /// A sign of life: a heartbeat of the session, a poll that was answered.
    pub fn heard(&self, node: &str, health: Health, now: Timestamp) {
        self.change(node, now, |heard| {
            let news = heard.is_news(now) || heard.health != health;
            // A clock that was set back must not make a node silent for as long.
            *heard = Heard { at: now, ever: true, health, connected: heard.connected };
            news
        });
    }

    /// Its session begins, which is a sign of life too.
    pub fn opened(&self, node: &str, now: Timestamp) {
        self.change(node, now, |heard| {
            let news = heard.is_news(now) || !heard.connected;
            (heard.at, heard.ever, heard.connected) = (now, true, true);
            news
        });
    }

    /// Its session has ended. The node may be well: its time runs from the last sign of life.
    pub fn closed(&self, node: &str, now: Timestamp) {
        self.change(node, now, |heard| std::mem::replace(&mut heard.connected, false));
    }

    /// What is known of `node`; listening begins with the first question.
    pub fn of(&self, node: &str, now: Timestamp) -> Heard {
        let mut book = self.book();
        let heard = book.entry(node, now);
        // The clock was set back: the node has its time from here.
        heard.at = heard.at.min(now);
        heard.clone()
    }

    /// Another endpoint has heard it then, as the node's Lease says. What it says of itself is not known here.
    pub fn heard_elsewhere(&self, node: &str, at: Timestamp, now: Timestamp) {
        self.change(node, now, |heard| {
            let newer = at <= now && (!heard.ever || heard.at < at);
            let news = newer && heard.is_news(at);
            if newer {
                (heard.at, heard.ever) = (at, true);
            }
            news
        });
    }

    /// The node is gone from the fleet.
    pub fn forget(&self, node: &str) {
        self.book().nodes.remove(node);
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

    fn change(&self, node: &str, now: Timestamp, change: impl FnOnce(&mut Heard) -> bool) {
        let mut book = self.book();
        let news = change(book.entry(node, now));
        if news && book.changed.len() < CHANGED_MAX {
            book.changed.push(node.to_owned());
            self.shared.changed.notify_one();
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn entry(&mut self, node: &str, now: Timestamp) -> &mut Heard {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(node) {
            let silent = self.nodes.iter().min_by_key(|(_, heard)| heard.at).map(|(name, _)| name.clone());
            silent.and_then(|name| self.nodes.remove(&name));
        }
        self.nodes.entry(node.to_owned()).or_insert_with(|| Heard::nothing(now))
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
        let contacts = Contacts::default();
        contacts.opened("a", at(0));
        for second in 1..4 {
            contacts.heard("a", Health::Ready, at(second));
        }
        assert_eq!(contacts.take_changed(), ["a"]);
        contacts.heard("a", Health::Ready, at(5));
        assert!(contacts.take_changed().is_empty());
        contacts.heard("a", Health::NotReady { why: "cni".into() }, at(6));
        contacts.closed("a", at(7));
        contacts.closed("a", at(8));
        assert_eq!(contacts.take_changed(), ["a"]);
        let heard = contacts.of("a", at(9));
        assert_eq!((heard.at, heard.connected), (at(6), false));
    }

    #[test]
    fn a_sign_of_life_after_a_silence_is_news() {
        let contacts = Contacts::default();
        contacts.heard("a", Health::Ready, at(0));
        contacts.take_changed();
        contacts.heard("a", Health::Ready, at(49));
        assert!(contacts.take_changed().is_empty());
        contacts.heard("a", Health::Ready, at(99));
        assert_eq!(contacts.take_changed(), ["a"]);
    }

    #[test]
    fn listening_begins_with_the_first_question() {
        let contacts = Contacts::default();
        assert_eq!(contacts.of("a", at(5)), Heard::nothing(at(5)));
        assert_eq!(contacts.of("a", at(9)).at, at(5));
        contacts.forget("a");
        assert_eq!(contacts.of("a", at(9)).at, at(9));
    }
}
