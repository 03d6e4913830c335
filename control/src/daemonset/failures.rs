//! What is remembered of nodes whose pods failed: how long to wait before the next is tried, and that it has to prove itself.
//!
//! Remembered in memory only: an endpoint that starts anew tries once at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::decision::Ending;
use super::local::{Health, Local, LocalPod};
use super::time::after;

/// Kubernetes' first wait of a daemon pod that failed; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Kubernetes' longest wait.
const MAX: Duration = Duration::from_secs(15 * 60);
/// After this long without a failure counting starts anew: twice the longest wait, as in Kubernetes.
const FORGIVEN: Duration = Duration::from_secs(30 * 60);

/// What is remembered, by node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failures {
    /// Failures of another template do not count.
    failed: BTreeMap<String, Failure>,
    /// A pod here failed, or was not ready when its successor came, and none has proven itself since.
    broken: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    hash: String,
    count: u32,
    /// When the last failed pod was deleted.
    at: Timestamp,
}

impl Failures {
    /// Before this moment the failed pod on `node` stays where it is. None: its turn is now.
    pub fn not_before(&self, node: &str, hash: &str, now: Timestamp) -> Option<Timestamp> {
        let failure = self.failed.get(node).filter(|f| f.hash == hash)?;
        let until = after(failure.at, wait(failure.count));
        (now < until).then_some(until)
    }

    /// A failed pod of `node` is deleted.
    pub fn add(&mut self, node: &str, hash: &str, now: Timestamp) {
        let before = self.failed.get(node).filter(|f| f.hash == hash && now <= after(f.at, FORGIVEN));
        let count = before.map_or(0, |f| f.count).saturating_add(1);
        self.failed.insert(node.to_owned(), Failure { hash: hash.to_owned(), count, at: now });
    }

    /// Forgets what no longer counts: other templates, long ago, nodes that are gone.
    pub fn prune(&mut self, hash: &str, now: Timestamp, exists: impl Fn(&str) -> bool) {
        self.failed.retain(|node, f| f.hash == hash && now <= after(f.at, FORGIVEN) && exists(node));
        self.broken.retain(|node| exists(node));
    }
}

impl Failures {
    /// A pod of this node has to show that it stays.
    pub fn is_broken(&self, node: &str) -> bool {
        self.broken.contains(node)
    }

    /// What this decision has seen and done on a node that is reached.
    pub fn note(&mut self, local: &Local<'_>) {
        let fails = |p: &LocalPod<'_>| {
            let replaced = !p.updated && p.health == Health::Down;
            p.health == Health::Unproven || p.ended_by == Some(Ending::Failed) || replaced
        };
        if local.pods.iter().any(|p| !p.pod.is_ending() && fails(p)) {
            self.broken.insert(local.name.to_owned());
        } else if local.health() == Health::Up {
            self.broken.remove(local.name);
        }
    }
}

/// 1, 2, 4 … 900 s.
fn wait(count: u32) -> Duration {
    let factor = 2_u32.checked_pow(count.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(factor).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour() {
        let mut failures = Failures::default();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(failures.not_before("n", "h", now), None);
            failures.add("n", "h", now);
            let until = failures.not_before("n", "h", now).unwrap();
            waits.push(until.as_second() - now.as_second());
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
    }

    #[test]
    fn another_template_another_node_and_half_an_hour_start_anew() {
        let mut failures = Failures::default();
        for _ in 0..5 {
            failures.add("n", "h", at(0));
        }
        assert_eq!(failures.not_before("n", "other", at(0)), None);
        assert_eq!(failures.not_before("m", "h", at(0)), None);
        failures.add("n", "h", at(1801));
        assert_eq!(failures.not_before("n", "h", at(1801)), Some(at(1802)));
    }

    #[test]
    fn what_no_longer_counts_is_forgotten() {
        let mut failures = Failures::default();
        failures.add("old", "g", at(0));
        failures.add("gone", "h", at(0));
        failures.add("long-ago", "h", at(-1801));
        failures.add("kept", "h", at(0));
        failures.prune("h", at(0), |node| node != "gone");
        assert_eq!(failures.failed.keys().collect::<Vec<_>>(), ["kept"]);
    }
}
