//! The node's shutdown: whether logind lets it wait for pods, for as long as the agent asks, and whether the agent does ask.

use crate::shutdown::{self, Look, SPARE};

use super::Line;

#[derive(Debug)]
pub enum Found {
    /// systemd is not this node's init.
    NoSystemd,
    Logind(Look),
    /// Why it says nothing.
    Silent(String),
}

/// Blocking, for a few seconds.
pub fn probe() -> Found {
    if !shutdown::has_systemd() {
        return Found::NoSystemd;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|why| why.to_string()).and_then(|runtime| runtime.block_on(shutdown::look())) {
        Ok(look) => Found::Logind(look),
        Err(why) => Found::Silent(why),
    }
}

/// `grace`: seconds that the agent asks for. `runs`: it answers.
pub fn judge(found: &Found, grace: u64, runs: bool) -> Line {
    const NAME: &str = "shutdown";
    let needed = grace.saturating_add(SPARE.as_secs()).saturating_add(1);
    match found {
        _ if grace == 0 => Line::ok(NAME, "does not wait for pods, as configured (shutdown-grace-period: 0)"),
        Found::NoSystemd => {
            Line::ok(NAME, "systemd is not this node's init: a shutdown does not wait for pods; drain it before")
        }
        Found::Silent(why) => Line::warn(
            NAME,
            format!("logind does not answer, so a shutdown does not wait for pods: {why}"),
            "install and start dbus and systemd-logind; without them: daemonlet drain before each shutdown",
        ),
        Found::Logind(Look { longest, .. }) if longest.as_secs() < grace => Line::warn(
            NAME,
            format!(
                "logind lets it wait for {} s (InhibitDelayMaxSec), and pods are to have {grace} s (shutdown-grace-period): \
                 they get less, all in proportion",
                longest.as_secs()
            ),
            format!(
                "write InhibitDelayMaxSec={needed}s under [Login] in /etc/systemd/logind.conf.d/daemonlet.conf and run \
                 systemctl kill -s HUP systemd-logind"
            ),
        ),
        Found::Logind(Look { waits: false, .. }) if runs => Line::warn(
            NAME,
            "the agent holds no lock on it: it would not wait for pods",
            "see journalctl -u daemonlet; it is tried again by itself",
        ),
        Found::Logind(_) => Line::ok(NAME, format!("waits up to {grace} s for pods")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_logind_that_waits_less_or_is_not_asked_warns() {
        let logind = |seconds, waits| Found::Logind(Look { longest: Duration::from_secs(seconds), waits });
        for (found, grace, runs, verdict) in [
            (logind(32, true), 30, true, Verdict::Ok),
            (logind(30, true), 30, true, Verdict::Ok),
            (logind(5, true), 30, true, Verdict::Warn),
            (logind(5, false), 0, true, Verdict::Ok),
            (logind(32, false), 30, true, Verdict::Warn),
            (logind(32, false), 30, false, Verdict::Ok),
            (Found::Silent("no".into()), 30, true, Verdict::Warn),
            (Found::NoSystemd, 30, true, Verdict::Ok),
        ] {
            let line = judge(&found, grace, runs);
            assert_eq!(line.verdict, verdict, "{found:?} {grace} {runs}: {line:?}");
        }
        assert!(judge(&logind(5, true), 30, true).fix.contains("InhibitDelayMaxSec=31s"));
    }
}
