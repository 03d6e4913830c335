//! Kubernetes' numbers, as histories: what a probe finds each time, and what is said of the run afterwards.

use super::*;
use crate::spec::Handler;

fn probe(initial_delay: u64, period: u64, success_threshold: u32, failure_threshold: u32) -> Option<Probe> {
    Some(Probe {
        handler: Handler::Exec(vec!["true".into()]),
        initial_delay: Duration::from_secs(initial_delay),
        period: Duration::from_secs(period),
        timeout: Duration::from_secs(1),
        success_threshold,
        failure_threshold,
        grace: None,
    })
}

/// The defaults: period 10, thresholds 1 and 3.
fn usual() -> Option<Probe> {
    probe(0, 10, 1, 3)
}

const START: Moment = Moment(100_000);

fn at(seconds: u64) -> Moment {
    START.after(Duration::from_secs(seconds))
}

fn new(probes: &Probes) -> Probing {
    Probing::new(probes, START, START, Begin::Started)
}

/// Carries out whatever is due until `until`; `finds` says what each finds. When each was carried out.
fn carry_out(
    probing: &mut Probing,
    until: Moment,
    mut finds: impl FnMut(ProbeKind, Moment) -> Found,
) -> Vec<(ProbeKind, u64)> {
    let mut done = Vec::new();
    while let Some((kind, moment)) = probing.due().filter(|(_, moment)| *moment <= until) {
        probing.begins(kind, moment);
        done.push((kind, moment.since(START).as_secs()));
        probing.ended(kind, finds(kind, moment), moment);
    }
    done
}

fn failure() -> Found {
    Found::Failure("no".into())
}

/// What is known after these outcomes of the one probe.
fn after(probes: &Probes, kind: ProbeKind, outcomes: &str) -> Health {
    let mut probing = new(probes);
    for (n, outcome) in outcomes.chars().enumerate() {
        let found = match outcome {
            '+' => Found::Success,
            '-' => failure(),
            _ => Found::Nothing,
        };
        let now = at(10 * n as u64);
        probing.begins(kind, now);
        probing.ended(kind, found, now);
    }
    probing.health()
}

#[test]
fn initial_results_are_kubernetes() {
    let started = |probes: Probes| (new(&probes).health().started, new(&probes).health().ready);
    assert_eq!(started(Probes { liveness: usual(), ..Probes::default() }), (true, true));
    assert_eq!(started(Probes { readiness: usual(), ..Probes::default() }), (true, false));
    assert_eq!(started(Probes { startup: usual(), ..Probes::default() }), (false, false));
}

#[test]
fn thresholds_count_outcomes_in_a_row() {
    let readiness = Probes { readiness: probe(0, 10, 2, 3), ..Probes::default() };
    for (outcomes, ready) in [
        ("", false),
        ("+", false),
        ("++", true),
        ("+-+", false),
        ("++--", true),
        ("++---", false),
        ("++--+--", true),
        ("++---+", false),
        ("++---++", true),
        // What could not be carried out breaks no row and makes none.
        ("+?+", true),
        ("++-?-?-", false),
        ("++????", true),
    ] {
        assert_eq!(after(&readiness, ProbeKind::Readiness, outcomes).ready, ready, "{outcomes}");
    }
    let liveness = Probes { liveness: usual(), ..Probes::default() };
    for (outcomes, failed) in [("--", false), ("---", true), ("--+--", false), ("--+---", true), ("????", false)] {
        assert_eq!(after(&liveness, ProbeKind::Liveness, outcomes).failed.is_some(), failed, "{outcomes}");
    }
    let startup = Probes { startup: probe(0, 10, 1, 2), ..Probes::default() };
    for (outcomes, started, failed) in
        [("-", false, false), ("--", false, true), ("-+", true, false), ("+--", true, false)]
    {
        let health = after(&startup, ProbeKind::Startup, outcomes);
        assert_eq!((health.started, health.failed.is_some()), (started, failed), "{outcomes}");
    }
}

#[test]
fn failure_says_which_probe_and_what_it_found() {
    let health = after(&Probes { liveness: probe(0, 10, 1, 1), ..Probes::default() }, ProbeKind::Liveness, "-");
    assert_eq!(health.failed, Some(ProbeFailure { probe: ProbeKind::Liveness, message: "no".into() }));
}

#[test]
fn startup_gates_the_others_and_ends_with_its_success() {
    let probes = Probes { startup: probe(0, 2, 1, 30), liveness: usual(), readiness: probe(3, 5, 1, 3) };
    let mut probing = new(&probes);
    let done = carry_out(&mut probing, at(30), |kind, moment| match kind {
        ProbeKind::Startup if moment < at(6) => failure(),
        _ => Found::Success,
    });
    let of =
        |wanted: ProbeKind| -> Vec<u64> { done.iter().filter(|(kind, _)| *kind == wanted).map(|it| it.1).collect() };
    assert_eq!(of(ProbeKind::Startup), [0, 2, 4, 6]);
    // At once, since their own delays are over.
    assert_eq!(of(ProbeKind::Liveness), [6, 16, 26]);
    assert_eq!(of(ProbeKind::Readiness), [6, 11, 16, 21, 26]);
    assert_eq!(probing.health(), Health { started: true, ready: true, failed: None });
}

#[test]
fn probes_begin_after_their_delay_and_keep_their_period() {
    let mut probing = new(&Probes { liveness: probe(7, 10, 1, 3), ..Probes::default() });
    let done = carry_out(&mut probing, at(40), |_, _| Found::Success);
    assert_eq!(done.iter().map(|it| it.1).collect::<Vec<_>>(), [7, 17, 27, 37]);
}

#[test]
fn late_probe_is_not_made_up_for() {
    let mut probing = new(&Probes { liveness: probe(0, 10, 1, 3), ..Probes::default() });
    probing.begins(ProbeKind::Liveness, at(0));
    assert_eq!(probing.due(), None);
    probing.ended(ProbeKind::Liveness, Found::Success, at(35));
    assert_eq!(probing.due(), Some((ProbeKind::Liveness, at(35))));
    probing.begins(ProbeKind::Liveness, at(35));
    probing.ended(ProbeKind::Liveness, Found::Success, at(36));
    assert_eq!(probing.due(), Some((ProbeKind::Liveness, at(45))));
}

#[test]
fn failed_liveness_is_on_hold_while_readiness_goes_on() {
    let mut probing = new(&Probes { liveness: probe(0, 1, 1, 3), readiness: probe(0, 1, 1, 3), ..Probes::default() });
    let done = carry_out(&mut probing, at(9), |kind, _| match kind {
        ProbeKind::Liveness => failure(),
        _ => Found::Success,
    });
    assert_eq!(done.iter().filter(|(kind, _)| *kind == ProbeKind::Liveness).count(), 3);
    assert_eq!(done.iter().filter(|(kind, _)| *kind == ProbeKind::Readiness).count(), 10);
    assert!(probing.health().failed.is_some());
}

#[test]
fn terminating_run_is_only_asked_whether_it_is_ready() {
    let mut probing = new(&Probes { startup: None, liveness: probe(0, 1, 1, 1), readiness: probe(0, 1, 1, 1) });
    probing.begins(ProbeKind::Liveness, at(0));
    probing.terminates();
    // One that was under way counts no more.
    probing.ended(ProbeKind::Liveness, failure(), at(0));
    let done = carry_out(&mut probing, at(2), |_, _| Found::Success);
    assert!(done.iter().all(|(kind, _)| *kind == ProbeKind::Readiness) && done.len() == 3, "{done:?}");
    assert_eq!(probing.health(), Health { started: true, ready: true, failed: None });
}

#[test]
fn adopted_run_keeps_its_verdict_and_its_first_probes_are_spread() {
    let probes = Probes { startup: usual(), liveness: usual(), readiness: usual() };
    let verdict = Verdict { attempt: 0, started: true, ready: true, since: jiff::Timestamp::UNIX_EPOCH };
    let now = at(500);
    let begin = Begin::Adopted { verdict: Some(&verdict), spread: [0, 64, 128] };
    let mut probing = Probing::new(&probes, START, now, begin);
    assert_eq!(probing.health(), Health { started: true, ready: true, failed: None });
    assert_eq!(probing.due(), Some((ProbeKind::Liveness, now.after(Duration::from_millis(2_500)))));
    let done = carry_out(&mut probing, now.after(Duration::from_secs(10)), |_, _| failure());
    assert_eq!(done, [(ProbeKind::Liveness, 502), (ProbeKind::Readiness, 505)]);
    assert!(probing.health().ready, "one failure of three flips nothing");

    let unready = Verdict { started: false, ready: true, ..verdict };
    let begin = Begin::Adopted { verdict: Some(&unready), spread: [0; 3] };
    let probing = Probing::new(&probes, START, now, begin);
    assert_eq!(probing.health(), Health { started: false, ready: false, failed: None });
    assert_eq!(probing.due(), Some((ProbeKind::Startup, now)));
}
