//! From the outcomes of one run's probes to what they say of it: which probe is due when, and how often it must fail or
//! succeed until that counts (the kubelet's prober, with its numbers).
//!
//! Pure; driven by the agent's prober, which carries the probes out. One value a run: a new run begins anew.

use std::time::Duration;

use crate::observed::{Health, ProbeFailure, ProbeKind};
use crate::record::Verdict;
use crate::spec::{Probe, Probes};
use crate::time::Moment;

/// Kinds in the order in which they matter.
pub const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Success,
    /// For people.
    Failure(String),
    /// It could not be carried out: that counts for nothing.
    Nothing,
}

/// How a run came to be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin<'a> {
    /// It was started in this life of the agent.
    Started,
    /// It was running when the agent started: what was known of it holds, and its first probes are spread over their
    /// periods by these fractions (in 256ths, by kind), so that an agent's start is no storm.
    Adopted { verdict: Option<&'a Verdict>, spread: [u8; 3] },
}

/// The probes of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    started_at: Moment,
    /// By kind.
    tracks: [Option<Track>; 3],
    started: bool,
    /// What the readiness probe says; true where there is none.
    content: bool,
    failed: Option<ProbeFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Track {
    period: Duration,
    initial_delay: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    next: Moment,
    /// It is being carried out.
    runs: bool,
    /// It has nothing more to say of this run.
    over: bool,
    /// Whether the last outcomes were successes, and how many in a row.
    row: Option<(bool, u32)>,
}

impl Probing {
    /// `started_at`: when the run started, on the boot clock.
    pub fn new(probes: &Probes, started_at: Moment, now: Moment, begin: Begin<'_>) -> Probing {
        let Probes { startup, liveness, readiness } = probes;
        let (verdict, spread) = match begin {
            Begin::Started => (None, [0; 3]),
            Begin::Adopted { verdict, spread } => (verdict, spread),
        };
        let track = |probe: &Option<Probe>, spread: u8| {
            let Probe { initial_delay, period, success_threshold, failure_threshold, .. } = probe.as_ref()?;
            let first = started_at.after(*initial_delay).max(now).after(*period * u32::from(spread) / 256);
            Some(Track {
                period: *period,
                initial_delay: *initial_delay,
                success_threshold: *success_threshold,
                failure_threshold: *failure_threshold,
                next: first,
                runs: false,
                over: false,
                row: None,
            })
        };
        let started = startup.is_none() || verdict.is_some_and(|verdict| verdict.started);
        let mut probing = Probing {
            started_at,
            tracks: [track(startup, spread[0]), track(liveness, spread[1]), track(readiness, spread[2])],
            started,
            content: readiness.is_none() || (started && verdict.is_some_and(|verdict| verdict.ready)),
            failed: None,
        };
        if started {
            probing.end(ProbeKind::Startup);
        }
        probing
    }

    pub fn health(&self) -> Health {
        Health { started: self.started, ready: self.started && self.content, failed: self.failed.clone() }
    }

    /// The probe that is to be carried out next, and when. None: only those that run may change that.
    pub fn due(&self) -> Option<(ProbeKind, Moment)> {
        let waits = |kind: ProbeKind| {
            let track = self.tracks[place(kind)].as_ref()?;
            let may = !track.runs && !track.over && (self.started || kind == ProbeKind::Startup);
            may.then_some((kind, track.next))
        };
        KINDS.into_iter().filter_map(waits).min_by_key(|(_, moment)| *moment)
    }

    /// It is being carried out from now on.
    pub fn begins(&mut self, kind: ProbeKind, now: Moment) {
        if let Some(track) = &mut self.tracks[place(kind)] {
            track.runs = true;
            // A probe that is late is not made up for.
            let next = track.next.after(track.period);
            track.next = if next <= now { now.after(track.period) } else { next };
        }
    }

    /// It was carried out.
    pub fn ended(&mut self, kind: ProbeKind, found: Found, now: Moment) {
        let Some(track) = &mut self.tracks[place(kind)] else { return };
        track.runs = false;
        track.next = track.next.max(now);
        if track.over {
            return;
        }
        let success = match &found {
            Found::Nothing => return,
            Found::Success => true,
            Found::Failure(_) => false,
        };
        let count = match track.row {
            Some((same, count)) if same == success => count.saturating_add(1),
            _ => 1,
        };
        track.row = Some((success, count));
        if count < if success { track.success_threshold } else { track.failure_threshold } {
            return;
        }
        match (kind, found) {
            (_, Found::Nothing) => {}
            (ProbeKind::Readiness, found) => self.content = found == Found::Success,
            (ProbeKind::Liveness, Found::Success) => {}
            (ProbeKind::Startup, Found::Success) => self.start(now),
            (ProbeKind::Startup | ProbeKind::Liveness, Found::Failure(message)) => {
                self.end(kind);
                self.failed = Some(ProbeFailure { probe: kind, message });
            }
        }
    }

    /// The run is to end: nothing that would end it is asked any more; readiness is, as long as it runs.
    pub fn terminates(&mut self) {
        self.end(ProbeKind::Startup);
        self.end(ProbeKind::Liveness);
    }

    fn start(&mut self, now: Moment) {
        self.started = true;
        self.end(ProbeKind::Startup);
        for track in self.tracks.iter_mut().flatten() {
            track.next = self.started_at.after(track.initial_delay).max(now);
        }
    }

    fn end(&mut self, kind: ProbeKind) {
        if let Some(track) = &mut self.tracks[place(kind)] {
            track.over = true;
        }
    }
}

fn place(kind: ProbeKind) -> usize {
    match kind {
        ProbeKind::Startup => 0,
        ProbeKind::Liveness => 1,
        ProbeKind::Readiness => 2,
    }
}

#[cfg(test)]
mod tests;
