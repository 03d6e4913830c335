//! Which hosts failed lately: they are asked after the others, and no longer than for a while, so that a mirror that is ill costs one wait and
//! one that is well again is used again. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Hosts that are blamed at once; more mirrors nobody has. The one that was blamed first makes room.
const BLAMED_MAX: usize = 64;

/// When each host failed last, by its name.
#[derive(Debug, Default)]
pub struct Blamed {
    since: BTreeMap<String, Instant>,
}

impl Blamed {
    pub fn add(&mut self, host: &str, now: Instant) {
        if self.since.len() >= BLAMED_MAX
            && !self.since.contains_key(host)
            && let Some(first) = self.since.iter().min_by_key(|(_, since)| **since).map(|(host, _)| host.clone())
        {
            self.since.remove(&first);
        }
        self.since.insert(host.to_owned(), now);
    }

    /// The host's place among others: those without blame first, then those whose failure is longest ago. So who failed just now comes last,
    /// also where all have failed.
    pub fn place(&self, host: &str, now: Instant, life: Duration) -> Option<Instant> {
        self.since.get(host).copied().filter(|since| now.saturating_duration_since(*since) < life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    #[test]
    fn who_failed_last_is_asked_last_and_not_for_ever() {
        let begun = Instant::now();
        let at = |second: u64| begun + Duration::from_secs(second);
        let mut blamed = Blamed::default();
        blamed.add("mirror", at(0));
        blamed.add("registry", at(10));
        let order = |now: Instant| {
            let mut hosts = vec!["mirror", "other", "registry"];
            hosts.sort_by_key(|host| blamed.place(host, now, LIFE));
            hosts
        };
        assert_eq!(order(at(20)), ["other", "mirror", "registry"]);
        assert_eq!(order(at(305)), ["mirror", "other", "registry"], "the mirror has served its time");
        assert_eq!(order(at(311)), ["mirror", "other", "registry"]);
    }

    #[test]
    fn the_number_of_blamed_hosts_is_bounded_and_the_newest_stay() {
        let now = Instant::now();
        let mut blamed = Blamed::default();
        for n in 0..3 * BLAMED_MAX {
            blamed.add(&n.to_string(), now + Duration::from_millis(n as u64));
        }
        assert_eq!(blamed.since.len(), BLAMED_MAX);
        assert!(blamed.place(&(3 * BLAMED_MAX - 1).to_string(), now, LIFE).is_some());
    }
}
