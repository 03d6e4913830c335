//! Events are kept for an hour, and not more of them than the store is meant for.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::daemonset::after;

/// Kubernetes' `event-ttl`.
const KEPT: Duration = Duration::from_secs(3600);
/// All Events together: a node in trouble must not fill the disk. A fleet of a thousand nodes has a few a node.
pub const EVENTS_MAX: usize = 20_000;

/// What is left where there are more: the next Event over the bound is not the next look at all of them.
const LEFT: usize = EVENTS_MAX / 10 * 9;

/// A v1 Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub namespace: String,
    pub name: String,
    /// Whose it is: `source.host`, empty for the endpoint's own.
    pub host: String,
    /// When it was last said.
    pub said: Timestamp,
}

/// Those that go, and when the next one does.
pub fn decide(mut events: Vec<Kept>, now: Timestamp) -> (Vec<Kept>, Option<Timestamp>) {
    events.sort_by_key(|event| event.said);
    let old = events.iter().take_while(|event| after(event.said, KEPT) <= now).count();
    let mut left = events.split_off(old);
    if left.len() > EVENTS_MAX {
        let surplus = surplus(&left);
        let mut nth: BTreeMap<String, usize> = BTreeMap::new();
        let is_surplus = |event: &Kept| {
            let nth = nth.entry(event.host.clone()).or_default();
            *nth += 1;
            surplus.get(&event.host).is_some_and(|surplus| *nth <= *surplus)
        };
        let (beyond, kept): (Vec<Kept>, Vec<Kept>) = left.into_iter().partition(is_surplus);
        events.extend(beyond);
        left = kept;
    }
    let next = left.first().map(|event| after(event.said, KEPT));
    (events, next)
}

/// How many each host has too many: the same share for all, of which those that say little leave something to the others.
fn surplus(events: &[Kept]) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        *counts.entry(event.host.clone()).or_default() += 1;
    }
    let mut ascending: Vec<usize> = counts.values().copied().collect();
    ascending.sort_unstable();
    let (mut room, mut hosts, mut share) = (LEFT, ascending.len(), 0);
    for count in ascending {
        share = room / hosts.max(1);
        if count > share {
            break;
        }
        room = room.saturating_sub(count);
        hosts = hosts.saturating_sub(1);
    }
    counts.into_iter().map(|(host, count)| (host, count.saturating_sub(share))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn event(second: i64) -> Kept {
        Kept { namespace: "n".into(), name: format!("e{second}"), host: String::new(), said: at(second) }
    }

    #[test]
    fn events_go_after_an_hour_and_not_before() {
        let (gone, next) = decide(vec![event(1), event(0), event(1000)], at(3600));
        assert_eq!((gone, next), (vec![event(0)], Some(at(3601))));
        assert_eq!(decide(Vec::new(), at(0)), (Vec::new(), None));
    }

    #[test]
    fn beyond_the_bound_the_oldest_of_whoever_says_most_go_and_not_one_at_a_time() {
        let all = (0..20_003).map(event).collect();
        let (gone, _) = decide(all, at(0));
        assert_eq!(gone, (0..2_003).map(event).collect::<Vec<_>>());
        let of = |host: &str, count: i64| {
            let host = host.to_owned();
            (0..count).map(move |second| Kept { host: host.clone(), ..event(second) })
        };
        let all = of("a", 3_000).chain(of("noisy", 15_000)).chain(of("b", 10)).chain(of("c", 3_000)).collect();
        let (gone, next) = decide(all, at(3_601));
        // Two of each are over an hour old.
        let count = |host: &str| gone.iter().filter(|event| event.host == host).count();
        assert_eq!(["a", "b", "c", "noisy"].map(count), [2, 2, 2, 15_000 - (18_000 - 2_998 - 2_998 - 8)]);
        assert_eq!(next, Some(at(3_602)));
    }
}
