//! Who has failed to join too often is not listened to for a while: looked at before a byte of his request is parsed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;

/// Failures within [`WINDOW`], each with another token, after which an address is turned away: a person mistypes a few times, a guesser never ends. Those who
/// succeed are not counted: a thousand nodes may stand behind one address.
pub const FAILURES_MAX: usize = 10;
pub const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered, so that many of them fill no memory; beyond, the one whose window began first is forgotten.
const ADDRESSES_MAX: usize = 4096;

/// The failures of each address.
#[derive(Debug, Default)]
pub struct Attempts {
    of: BTreeMap<IpAddr, Failures>,
    /// Of the marks by which tokens are told apart: nobody can aim at one.
    keyed: RandomState,
}

#[derive(Debug)]
struct Failures {
    since: Timestamp,
    /// Of the tokens that were shown. The same one again is no further guess: machines of one image show yesterday's for as long as they run.
    shown: Vec<u64>,
}

impl Attempts {
    /// How long this address has to wait; None: it may try.
    pub fn wait(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        let failures = self.of.get(&host(from)).filter(|failures| failures.shown.len() >= FAILURES_MAX)?;
        let passed = passed(failures.since, now);
        (passed < WINDOW).then(|| WINDOW.saturating_sub(passed))
    }

    /// It failed with this token. True: with this it is turned away.
    pub fn failed(&mut self, from: IpAddr, token: &str, now: Timestamp) -> bool {
        let from = host(from);
        if !self.of.contains_key(&from) && self.of.len() >= ADDRESSES_MAX {
            let oldest = self.of.iter().min_by_key(|(_, failures)| failures.since).map(|(address, _)| *address);
            oldest.and_then(|address| self.of.remove(&address));
        }
        let mark = self.keyed.hash_one(token);
        let failures = self.of.entry(from).or_insert(Failures { since: now, shown: Vec::new() });
        if passed(failures.since, now) >= WINDOW {
            *failures = Failures { since: now, shown: Vec::new() };
        }
        if failures.shown.len() >= FAILURES_MAX || failures.shown.contains(&mark) {
            return false;
        }
        failures.shown.push(mark);
        failures.shown.len() == FAILURES_MAX
    }
}

/// A clock that was set back counts as a window that has passed: nobody waits for hours.
fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(WINDOW)
}

/// Whoever has one address of IPv6 has its /64.
pub fn host(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_fails_is_turned_away_until_its_minute_is_over_and_no_other() {
        let mut attempts = Attempts::default();
        let (guesser, node) = (address("2001:db8::1"), address("192.0.2.1"));
        for second in 0..10 {
            for _ in 0..20 {
                attempts.failed(guesser, &format!("guess {second}"), at(second));
            }
            let is_out = attempts.wait(guesser, at(second)).is_some();
            assert_eq!(is_out, second == 9, "the same token is the same guess");
        }
        assert_eq!(attempts.wait(guesser, at(20)), Some(Duration::from_secs(40)));
        assert!(attempts.wait(address("2001:db8::ffff:1"), at(20)).is_some(), "the same network");
        assert_eq!(attempts.wait(node, at(20)), None);
        assert_eq!(attempts.wait(guesser, at(60)), None);
        attempts.failed(guesser, "guess", at(61));
        assert_eq!(attempts.wait(guesser, at(61)), None, "a new window");
        assert_eq!(attempts.wait(guesser, at(-3600)), None, "the clock was set back");
    }

    #[test]
    fn however_many_addresses_fail_a_bounded_number_is_remembered() {
        let mut attempts = Attempts::default();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 100 {
            attempts.failed(std::net::Ipv4Addr::from_bits(number).into(), "guess", at(0));
        }
        assert_eq!(attempts.of.len(), ADDRESSES_MAX);
    }
}
