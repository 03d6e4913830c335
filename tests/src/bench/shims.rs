//! The Rust shim (crate containerd-runc-shim) beside the Go shim of the same containerd, as two runtime classes of one node.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::memory::private;
use super::table::{Samples, median, megabytes, row, value};
use super::{Bench, Rounds, milliseconds};
use crate::manifest::{Document, pod};
use crate::node::TestNode;
use crate::process::Process;
use crate::wait::{pause, wait_for};

/// Its class in the agent's configuration and containerd's name for it.
const CLASS: &str = "rust";
const RUNTIME: &str = "io.containerd.runc.v2-rs";

/// Pods whose shims are measured; the median of them is printed.
const PODS: u64 = 10;

/// How long an end may go unnoticed; on a working shim it is some milliseconds.
const TOLD_SECONDS: u32 = 20;

/// After a restart of containerd the agent has subscribed again and looked at everything long before.
const SETTLED: Duration = Duration::from_secs(3);

/// Where scripts/bench.sh says that the shim and a containerd 2.x lie.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let path = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    Some((path("DAEMONLET_BENCH_RUST_SHIM")?, path("DAEMONLET_BENCH_CONTAINERD2")?))
}

/// containerd looks for shims in its own PATH: a directory with its programs and the shim.
fn together(dir: &Path, shim: &Path, containerd: &Path) -> PathBuf {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("a directory can be made in an own directory");
    let entries = std::fs::read_dir(containerd).expect("scripts/bench.sh named a directory");
    for program in entries.flatten().map(|entry| entry.path()).chain([shim.to_owned()]) {
        let name = program.file_name().expect("a program has a name");
        symlink(&program, bin.join(name)).expect("a link can be made in an own directory");
    }
    bin
}

/// Measures on a node of its own, where the shim and a containerd 2.x are there.
pub fn shims(rounds: Rounds) {
    let Some((shim, containerd)) = programs() else {
        println!("the Rust shim or a containerd 2.x is not there: its rows are left out");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let bin = together(dir.path(), &shim, &containerd);
    let builder = TestNode::builder().flag("--runtime-class", &format!("{CLASS}={RUNTIME}"));
    let mut bench = Bench::on(rounds, builder, Some(&bin));
    bench.life_under_it();
    bench.first_instructions();
    bench.shims_memory();
    bench.after_containerd();
}

impl Bench {
    /// What is measured has to work first: a pod under the shim starts and logs, is restarted after a kill, outlives the agent, and
    /// goes without a trace.
    fn life_under_it(&mut self) {
        self.put_ticking("life");
        let first = self.node.wait_running("life");
        self.node.wait_log(&first, "main", "tick");
        let shims: Vec<String> = self.node.shims().iter().map(Process::command_line).collect();
        assert!(shims.len() == 1 && shims[0].contains("containerd-shim-runc-v2-rs "), "{shims:?}");

        self.node.process(&first).kill_9();
        let again = self.node.wait_pod("life", "runs again", |pod| pod.running() && pod.restarts() == 1);
        self.node.wait_log(&again, "main", "tick");
        let process = self.node.process(&again);

        self.node.restart_agent();
        let adopted = self.node.wait_running("life");
        assert_eq!((self.node.process(&adopted), adopted.restarts()), (process, 1), "it is adopted as it was");
        let lines = self.node.log_lines(&adopted, "main", 1).len();
        wait_for("its log goes on", || {
            let now = self.node.log_lines(&adopted, "main", 1).len();
            if now > lines { Ok(()) } else { Err(now.to_string()) }
        });

        self.node.remove("life.yaml");
        self.node.wait_no_pod("life");
        wait_for("its process and its shim are gone", || {
            let left = self.node.shims().len();
            if left == 0 && !process.alive() { Ok(()) } else { Err(format!("{left} shims")) }
        });
        println!(
            "the Rust shim: a pod started, logged, was restarted after a kill, adopted by a new agent, and removed"
        );
    }

    fn put_ticking(&self, name: &str) {
        let script = "trap 'exit 0' TERM; while :; do echo tick; usleep 100000; done";
        self.node.put(&format!("{name}.yaml"), &of_class(pod(name).script(script).own_network()).text());
    }

    /// Whether an end is noticed when containerd has been restarted. Version 0.2.0 of the shim tells of none then: the agent waits for
    /// the process itself.
    fn after_containerd(&mut self) {
        self.put_ticking("after");
        let process = self.node.process(&self.node.wait_running("after"));
        self.node.stop_containerd();
        self.node.start_containerd();
        assert_eq!(self.node.process(&self.node.wait_running("after")), process, "it outlives containerd");
        // An end while the agent is still looking around after the restart is seen by that look.
        pause(SETTLED);
        process.kill_9();
        let restarted = (0..TOLD_SECONDS).any(|_| {
            pause(Duration::from_secs(1));
            self.node.pods_of("after").iter().any(|pod| pod.running() && pod.restarts() == 1)
        });
        let said = if restarted { "is noticed" } else { "IS NOT NOTICED: do not restart containerd under it" };
        println!("the Rust shim, after a restart of containerd: a container that ends {said}");
    }

    fn first_instructions(&mut self) {
        let (mut usual, mut rust) = (Samples::default(), Samples::default());
        for _ in 0..self.rounds.single {
            usual.ours.push(self.shim_start(|document| document));
            usual.ctr.push(self.ctr_start(&[]));
            rust.ours.push(self.shim_start(of_class));
            rust.ctr.push(self.ctr_start(&["--runtime", RUNTIME]));
        }
        let version = self.node.containerd_version();
        row(&format!("first instruction, the Go shim, containerd {version}"), &usual, "");
        row("first instruction, the Rust shim (both sides)", &rust, "");
    }

    fn shim_start(&mut self, change: fn(Document) -> Document) -> f64 {
        let name = self.name("pod");
        let at = self.put(&name, &change(self.document(&name)));
        let took = milliseconds(at, self.stamp("start", &name));
        self.take_away(&name);
        took
    }

    fn shims_memory(&mut self) {
        let of = |bench: &mut Self, change: fn(Document) -> Document| {
            let names = bench.names("pod", PODS);
            for name in &names {
                bench.put(name, &change(bench.document(name)));
            }
            bench.last_start(&names);
            for name in &names {
                bench.node.wait_running(name);
            }
            let shims = bench.node.shims();
            assert_eq!(shims.len() as u64, PODS, "a shim a pod");
            let memory: Vec<f64> = shims.into_iter().map(private).collect();
            bench.take_all_away(&names);
            median(&memory)
        };
        let (usual, rust) = (of(self, |document| document), of(self, of_class));
        value("private memory of a pod's shim, Go", &megabytes(usual), "");
        value("private memory of a pod's shim, Rust", &megabytes(rust), "");
    }
}

fn of_class(document: Document) -> Document {
    document.pod_field("runtimeClassName", json!(CLASS))
}
