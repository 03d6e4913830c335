//! Who of several endpoints over one store runs the loops: whoever holds the Lease. Pure.
//!
//! The holder's clock is not trusted: a Lease has ended when it has not changed for its duration by the clock of who looks.

use std::time::Duration;

use jiff::Timestamp;

use crate::daemonset::after;

/// Kubernetes' controllers': a holder that dies is followed after this long.
pub const LEASE_SECONDS: i64 = 15;
/// A holder that cannot renew stops this long after its last renewal, well before another begins.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often the Lease is renewed, or looked at.
pub const RETRY: Duration = Duration::from_secs(2);

/// coordination.k8s.io/v1 LeaseSpec, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// `holderIdentity`; empty: given back.
    pub holder: String,
    /// `leaseDurationSeconds`.
    pub duration: Duration,
    /// `renewTime`, only to be compared with itself.
    pub renewed: Option<Timestamp>,
    /// `leaseTransitions`.
    pub transitions: u32,
}

/// What one has seen of the Lease so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    seen: Option<(Lease, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is ours: renew it.
    Renew,
    /// Nobody has it, or not any more: write our name, with this number of transitions.
    Take { transitions: u32 },
    /// Another has it.
    Wait,
}

/// `lease`: as it is now; None: there is none.
pub fn decide(lease: Option<&Lease>, memory: &mut Memory, me: &str, now: Timestamp) -> Verdict {
    let Some(lease) = lease else { return Verdict::Take { transitions: 0 } };
    if lease.holder == me {
        return Verdict::Renew;
    }
    let transitions = lease.transitions.saturating_add(1);
    if lease.holder.is_empty() {
        return Verdict::Take { transitions };
    }
    let since = match &memory.seen {
        Some((seen, since)) if seen == lease => *since,
        _ => now,
    };
    memory.seen = Some((lease.clone(), since));
    if after(since, lease.duration) <= now { Verdict::Take { transitions } } else { Verdict::Wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lease(holder: &str, renewed: i64) -> Lease {
        Lease { holder: holder.into(), duration: Duration::from_secs(15), renewed: Some(at(renewed)), transitions: 3 }
    }

    #[test]
    fn a_lease_that_is_renewed_is_never_taken_whatever_its_clock_says() {
        let mut memory = Memory::default();
        for second in 0..100 {
            // The holder's clock is hours behind.
            let verdict = decide(Some(&lease("other", second - 9000)), &mut memory, "me", at(second));
            assert_eq!(verdict, Verdict::Wait);
        }
    }

    #[test]
    fn a_lease_that_stands_still_is_taken_after_its_duration() {
        let mut memory = Memory::default();
        let ahead = lease("other", 9000);
        assert_eq!(decide(Some(&ahead), &mut memory, "me", at(0)), Verdict::Wait);
        assert_eq!(decide(Some(&ahead), &mut memory, "me", at(14)), Verdict::Wait);
        assert_eq!(decide(Some(&ahead), &mut memory, "me", at(15)), Verdict::Take { transitions: 4 });
    }

    #[test]
    fn what_is_given_back_or_ours_needs_no_waiting() {
        let mut memory = Memory::default();
        assert_eq!(decide(None, &mut memory, "me", at(0)), Verdict::Take { transitions: 0 });
        assert_eq!(decide(Some(&lease("", 0)), &mut memory, "me", at(0)), Verdict::Take { transitions: 4 });
        assert_eq!(decide(Some(&lease("me", 0)), &mut memory, "me", at(99)), Verdict::Renew);
    }
}
