//! Events are kept for an hour, and not more of them than the store is meant for.

use std::time::Duration;

use jiff::Timestamp;

use crate::daemonset::after;

/// Kubernetes' `event-ttl`.
const KEPT: Duration = Duration::from_secs(3600);
/// All Events together: a node in trouble must not fill the disk. A fleet of a thousand nodes has a few a node.
pub const EVENTS_MAX: usize = 20_000;

/// A v1 Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub namespace: String,
    pub name: String,
    /// When it was last said.
    pub said: Timestamp,
}

/// Those that go, and when the next one does.
pub fn decide(mut events: Vec<Kept>, now: Timestamp) -> (Vec<Kept>, Option<Timestamp>) {
    events.sort_by_key(|event| event.said);
    let beyond = events.len().saturating_sub(EVENTS_MAX);
    let old = events.iter().take_while(|event| after(event.said, KEPT) <= now).count();
    let left = events.split_off(beyond.max(old));
    let next = left.first().map(|event| after(event.said, KEPT));
    (events, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn event(second: i64) -> Kept {
        Kept { namespace: "n".into(), name: format!("e{second}"), said: at(second) }
    }

    #[test]
    fn events_go_after_an_hour_and_not_before() {
        let (gone, next) = decide(vec![event(1), event(0), event(1000)], at(3600));
        assert_eq!((gone, next), (vec![event(0)], Some(at(3601))));
        assert_eq!(decide(Vec::new(), at(0)), (Vec::new(), None));
    }

    #[test]
    fn the_oldest_beyond_the_bound_go_at_once() {
        let all = (0..20_003).map(event).collect();
        let (gone, _) = decide(all, at(0));
        assert_eq!(gone, [event(0), event(1), event(2)]);
    }
}
