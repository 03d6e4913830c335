//! What an endpoint costs with a thousand nodes: simulated ones, which speak the real protocol over TLS connections of their own, on the same
//! machine and its processors.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::memory::{peak, processor_seconds, pss};
use super::table::{megabytes, value};
use super::{COMMAND_PATIENCE, Rounds, run_within};
use crate::fleet::{Kubectl, TestControl};
use crate::manifest::daemon_set;
use crate::process::Process;
use crate::simulated::Crowd;
use crate::wait::{pause, wait_within};

/// NODES changes it.
const NODES: usize = 1000;
/// For each act of the crowd, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

/// An endpoint and its crowd.
struct Fleet {
    endpoint: TestControl,
    count: usize,
}

pub fn fleet(rounds: Rounds) {
    let count = std::env::var("NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(NODES);
    let fleet = Fleet { endpoint: TestControl::start(), count };
    let process = fleet.endpoint.process();
    let before = processor_seconds(process);
    let began = Instant::now();
    let crowd = Crowd::join(&fleet.endpoint, count);
    wait_within(PATIENCE, "all nodes are in session", || match crowd.in_session() {
        all if all == count => Ok(()),
        some => Err(format!("{some} of {count}; {:?}\n{}", crowd.failures(), fleet.endpoint.tail())),
    });
    fleet.tell("joined, each with a certificate and a session", began, process, before);

    let (before, began) = (processor_seconds(process), Instant::now());
    let file = fleet
        .endpoint
        .file("crowd.json", &daemon_set("crowd").set("/spec/template/metadata/annotations/mark", json!("0")).text());
    fleet.kubectl(&["apply", "-f", &file]);
    fleet.settled(&crowd, "0");
    fleet.tell("a DaemonSet applied, every pod ready", began, process, before);

    for (mark, share) in [("1", "100%"), ("2", "10%")] {
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": share}});
        let change =
            json!({"spec": {"updateStrategy": strategy, "template": {"metadata": {"annotations": {"mark": mark}}}}});
        let (before, began) = (processor_seconds(process), Instant::now());
        fleet.kubectl(&["patch", "daemonset", "crowd", "-p", &change.to_string()]);
        fleet.settled(&crowd, mark);
        fleet.tell(
            &format!("a template changed, maxUnavailable {share}, every pod new and ready"),
            began,
            process,
            before,
        );
    }

    // What the last update still owes is done first.
    pause(Duration::from_secs(rounds.idle_seconds.min(10)));
    let before = processor_seconds(process);
    pause(Duration::from_secs(rounds.idle_seconds));
    let used = (processor_seconds(process) - before) * 60.0 / rounds.idle_seconds as f64;
    value(&format!("endpoint's processor time, idle minute, {count} nodes"), &format!("{used:.2} s"), "");
    value(&format!("endpoint's memory (PSS), {count} nodes with a pod each"), &megabytes(pss(process)), "");
    value("its highest until then (resident)", &megabytes(peak(process)), "");
    let (lost, why) = crowd.failures();
    if lost > 0 {
        println!("{lost} sessions or attempts failed; the first: {why}");
    }
}

impl Fleet {
    fn kubectl(&self, words: &[&str]) {
        run_within(COMMAND_PATIENCE, self.endpoint.kubectl_command(Kubectl::Debian, words).stdout(Stdio::piped()));
    }

    /// Every node runs this and nothing else, and the DaemonSet's status says so.
    fn settled(&self, crowd: &Crowd, mark: &str) {
        wait_within(PATIENCE, &format!("every node runs template {mark}"), || match crowd.running(mark) {
            all if all == self.count => Ok(()),
            some => Err(format!("{some} of {}; {:?}\n{}", self.count, crowd.failures(), self.endpoint.tail())),
        });
        wait_within(PATIENCE, "the status says so", || {
            let status = self.endpoint.get(&["daemonset", "crowd"])["status"].clone();
            let is_all = |field: &str| status[field] == self.count;
            if is_all("updatedNumberScheduled") && is_all("numberReady") { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn tell(&self, what: &str, began: Instant, process: Process, before: f64) {
        let took = began.elapsed().as_secs_f64();
        value(&format!("{} nodes: {what}", self.count), &format!("{took:.2} s"), "");
        let used = processor_seconds(process) - before;
        value("  the endpoint's processor time for that", &format!("{used:.2} s"), "");
    }
}
