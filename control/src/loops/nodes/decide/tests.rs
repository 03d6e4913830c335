use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn heard(second: i64) -> Heard {
    Heard { at: at(second), ever: true, health: Health::Ready, connected: true }
}

fn sick(second: i64) -> Heard {
    Heard { health: Health::NotReady { why: "containerd: not answering".into() }, ..heard(second) }
}

/// Carries out what is decided, as the loop does.
fn settle(seen: &mut Seen, heard: &Heard, now: i64) -> Verdict {
    let verdict = decide(seen, heard, at(now));
    for condition in &verdict.conditions {
        seen.conditions.retain(|c| c.name != condition.name);
        seen.conditions.push(condition.clone());
    }
    seen.taints = verdict.taints.clone().unwrap_or(std::mem::take(&mut seen.taints));
    verdict
}

fn ready(seen: &Seen) -> (Status, &str, i64) {
    let ready = seen.conditions.iter().find(|c| c.name == "Ready").unwrap();
    (ready.status, ready.reason.as_str(), ready.heartbeat.as_second())
}

fn taints(seen: &Seen) -> Vec<(&str, &str)> {
    seen.taints.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect()
}

#[test]
fn a_silent_node_is_unknown_after_its_grace_and_not_before() {
    let mut seen = Seen::default();
    settle(&mut seen, &heard(100), 100);
    assert_eq!(ready(&seen), (Status::True, "AgentReady", 100));
    let verdict = settle(&mut seen, &heard(100), 149);
    assert_eq!((verdict.reach, verdict.look_at), (Reach::Heard, at(150)));
    assert_eq!(settle(&mut seen, &heard(100), 150).reach, Reach::Silent);
    assert_eq!(ready(&seen), (Status::Unknown, STATUS_UNKNOWN, 100));
    assert_eq!(taints(&seen), [(UNREACHABLE, "NoExecute"), (UNREACHABLE, "NoSchedule")]);
    settle(&mut seen, &heard(200), 200);
    assert_eq!(ready(&seen), (Status::True, "AgentReady", 200));
    assert!(taints(&seen).is_empty());
}

#[test]
fn a_node_that_is_not_ready_says_why_and_is_tainted() {
    let mut seen = Seen::default();
    settle(&mut seen, &sick(100), 100);
    assert_eq!(ready(&seen).0, Status::False);
    assert_eq!(seen.conditions[0].message, "containerd: not answering");
    assert_eq!(taints(&seen), [(NOT_READY, "NoExecute"), (NOT_READY, "NoSchedule")]);
    settle(&mut seen, &sick(100), 150);
    assert_eq!(taints(&seen), [(UNREACHABLE, "NoExecute"), (UNREACHABLE, "NoSchedule")]);
}

#[test]
fn an_endpoint_that_starts_gives_every_node_its_time() {
    let mut seen = Seen::default();
    settle(&mut seen, &heard(100), 100);
    let before = seen.clone();
    let nothing = Heard::nothing(at(1000));
    assert_eq!(settle(&mut seen, &nothing, 1059).look_at, at(1060));
    assert_eq!(seen, before);
    settle(&mut seen, &nothing, 1060);
    assert_eq!(ready(&seen), (Status::Unknown, STATUS_UNKNOWN, 100), "the last heartbeat that is known stays");
}

#[test]
fn a_node_that_never_called_is_said_to() {
    let mut seen = Seen::default();
    let nothing = Heard::nothing(at(0));
    settle(&mut seen, &nothing, 59);
    assert!(seen.conditions.is_empty());
    settle(&mut seen, &nothing, 60);
    assert_eq!(ready(&seen).1, NEVER_HEARD);
}

#[test]
fn pressures_and_a_cordon_are_taints_and_other_taints_stay() {
    let condition = |name: &str, status| Condition {
        name: name.into(),
        status,
        reason: "r".into(),
        message: "m".into(),
        heartbeat: at(0),
        transition: at(0),
    };
    let taint = |key: &str| Taint { key: key.into(), value: "v".into(), effect: "NoSchedule".into(), added: None };
    let mut seen = Seen {
        conditions: vec![condition("DiskPressure", Status::True), condition("PIDPressure", Status::False)],
        taints: vec![taint("mine"), taint("node.kubernetes.io/pid-pressure")],
        cordoned: true,
    };
    settle(&mut seen, &heard(0), 0);
    let expected = ["mine", "node.kubernetes.io/disk-pressure", UNSCHEDULABLE];
    assert_eq!(taints(&seen), expected.map(|key| (key, "NoSchedule")));
    seen.cordoned = false;
    settle(&mut seen, &heard(0), 50);
    let disk = seen.conditions.iter().find(|c| c.name == "DiskPressure").unwrap();
    assert_eq!((disk.status, disk.reason.as_str()), (Status::Unknown, STATUS_UNKNOWN));
    assert_eq!(taints(&seen), [("mine", "NoSchedule"), (UNREACHABLE, "NoExecute"), (UNREACHABLE, "NoSchedule")]);
}

proptest! {
    /// Whatever a node says or does not: what is decided is decided once, the conditions say what was heard, and taints of others stay.
    #[test]
    fn nodes_are_said_to_be_what_was_heard(signs in prop::collection::vec((0_i64..90, 0_u8..4), 1..60)) {
        let other = Taint { key: "other".into(), value: String::new(), effect: "NoExecute".into(), added: None };
        let mut seen = Seen { taints: vec![other.clone()], ..Seen::default() };
        let (mut now, mut said) = (0, heard(0));
        for (pause, sign) in signs {
            now += pause;
            match sign {
                0 => said = heard(now),
                1 => said = sick(now),
                2 => said.connected = !said.connected,
                _ => {}
            }
            let verdict = settle(&mut seen, &said, now);
            let silent = now - said.at.as_second() >= 50;
            prop_assert_eq!(verdict.reach, if silent { Reach::Silent } else { Reach::Heard });
            let expected = match (&said.health, silent) {
                (_, true) => Status::Unknown,
                (Health::Ready, false) => Status::True,
                (Health::NotReady { .. }, false) => Status::False,
            };
            let (status, _, heartbeat) = ready(&seen);
            prop_assert_eq!(status, expected);
            prop_assert!(heartbeat <= said.at.as_second() && now - heartbeat <= 350 || silent);
            prop_assert!(seen.taints.contains(&other));
            prop_assert_eq!(seen.taints.len(), if status == Status::True { 1 } else { 3 });
            prop_assert!(verdict.look_at > at(now));
            let again = decide(&seen, &said, at(now));
            prop_assert!(again.conditions.is_empty() && again.taints.is_none());
        }
    }
}
