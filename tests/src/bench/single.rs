//! One pod at a time: started, changed, killed, removed.

use nix::sys::signal::Signal;
use serde_json::json;

use super::table::{Samples, row};
use super::{Bench, COMMAND_PATIENCE, IMAGE, milliseconds, now, run_within};
use crate::manifest::{Document, daemon_set};
use crate::process::Process;
use crate::wait::wait_for;

impl Bench {
    pub fn start_host_network(&mut self) {
        let samples =
            self.side_by_side(|bench| bench.one_start(|document| document), |bench| bench.podman_start("host"));
        row("manifest renamed to first instruction, host network", &samples, "0.8");
    }

    /// podman connects its container to a bridge of its own by the same plugins.
    pub fn start_pod_network(&mut self) {
        let samples =
            self.side_by_side(|bench| bench.one_start(Document::own_network), |bench| bench.podman_start("podman"));
        row("manifest renamed to first instruction, CNI", &samples, "1.3");
    }

    fn one_start(&mut self, change: fn(Document) -> Document) -> f64 {
        let name = self.name("pod");
        let at = self.put(&name, &change(self.document(&name)));
        let took = milliseconds(at, self.stamp("start", &name));
        self.take_away(&name);
        took
    }

    /// podman's update is `podman run -d --replace`.
    pub fn update(&mut self) {
        let name = self.name("ds");
        let mut old = format!("{name}-0");
        self.put(&name, &self.filled(daemon_set(&name), &old));
        self.stamp("start", &old);
        self.node.wait_running(&name);
        let mut round = 0;
        let samples = self.side_by_side(
            |bench| {
                round += 1;
                let new = format!("{name}-{round}");
                bench.put(&name, &bench.filled(daemon_set(&name), &new));
                let took = milliseconds(bench.stamp("end", &old), bench.stamp("start", &new));
                old = new;
                bench.node.wait_running(&name);
                took
            },
            |bench| {
                let name = bench.name("podman");
                let run = |bench: &Bench| {
                    let options = ["--replace", "--pull", "never", "--network", "host"];
                    run_within(COMMAND_PATIENCE, &mut bench.podman_run(&name, IMAGE, &options));
                };
                run(bench);
                bench.stamp("start", &name);
                run(bench);
                let started = bench.nth_stamp("start", &name, 1, COMMAND_PATIENCE);
                let took = milliseconds(bench.stamp("end", &name), started);
                bench.podman().ok(&["rm", "-f", "-t", "0", &name]);
                took
            },
        );
        row("template changed: old process's end to first instruction", &samples, "0.4");
    }

    pub fn kill(&mut self) {
        let samples = self.side_by_side(|bench| bench.one_kill(|document| document), Bench::one_podman_kill);
        row("container killed to its successor's first instruction", &samples, "0.8");
        let standing = |bench: &mut Self| {
            bench.one_kill(|document| document.set("/metadata/annotations", json!({"daemonlet.dev/standby": "true"})))
        };
        let samples = self.side_by_side(standing, Bench::one_podman_kill);
        row("  the same with a standing successor", &samples, "0.3");
    }

    fn one_kill(&mut self, change: fn(Document) -> Document) -> f64 {
        let name = self.name("pod");
        self.put(&name, &change(self.document(&name)));
        self.stamp("start", &name);
        let process = self.node.process(&self.node.wait_running(&name));
        let at = now();
        process.signal(Signal::SIGKILL);
        let took = milliseconds(at, self.nth_stamp("start", &name, 1, COMMAND_PATIENCE));
        self.node.remove(&format!("{name}.yaml"));
        self.node.wait_no_pod(&name);
        took
    }

    fn one_podman_kill(&mut self) -> f64 {
        let name = self.name("podman");
        let options = ["--restart", "always", "--pull", "never", "--network", "host"];
        run_within(COMMAND_PATIENCE, &mut self.podman_run(&name, IMAGE, &options));
        self.stamp("start", &name);
        let process = wait_for("podman knows the process", || {
            let pid = self.podman().ok(&["inspect", "--format", "{{.State.Pid}}", &name]);
            pid.trim().parse().ok().and_then(Process::find).ok_or(pid)
        });
        let at = now();
        process.signal(Signal::SIGKILL);
        let took = milliseconds(at, self.nth_stamp("start", &name, 1, COMMAND_PATIENCE));
        self.podman().ok(&["rm", "-f", "-t", "0", &name]);
        took
    }

    /// podman's removal is `podman rm -f`; `ctr` has none that asks first.
    pub fn remove(&mut self) {
        let mut samples = Samples::default();
        for _ in 0..self.rounds.single {
            let name = self.name("pod");
            self.put(&name, &self.document(&name));
            self.node.wait_running(&name);
            let at = self.take_away(&name);
            samples.ours.push(milliseconds(at, self.stamp("end", &name)));
            if self.podman.is_some() {
                let name = self.name("podman");
                let options = ["--pull", "never", "--network", "host"];
                run_within(COMMAND_PATIENCE, &mut self.podman_run(&name, IMAGE, &options));
                self.stamp("start", &name);
                let at = now();
                self.podman().ok(&["rm", "-f", &name]);
                samples.podman.push(milliseconds(at, self.stamp("end", &name)));
            }
        }
        row("manifest removed to process gone", &samples, "10 ms");
    }

    /// podman has no agent that could start: a `podman run -d` beside it.
    pub fn agent_start(&mut self) {
        let samples = self.side_by_side(
            |bench| {
                let name = bench.name("pod");
                bench.node.stop_agent();
                bench.put(&name, &bench.document(&name));
                let at = now();
                bench.node.start_agent();
                let took = milliseconds(at, bench.stamp("start", &name));
                bench.node.wait_agent();
                bench.take_away(&name);
                took
            },
            |bench| bench.podman_start("host"),
        );
        row("agent's start, all cached, to first instruction", &samples, "1.2");
    }
}
