//! The Rust shim (crate containerd-runc-shim) beside the Go shim of the same containerd, as two runtime classes of one node.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::memory::private;
use super::table::{Samples, median, megabytes, row, value};
use super::{Bench, Rounds, milliseconds};
use crate::manifest::Document;
use crate::node::TestNode;

/// Its class in the agent's configuration and containerd's name for it.
const CLASS: &str = "rust";
const RUNTIME: &str = "io.containerd.runc.v2-rs";

/// Pods whose shims are measured; the median of them is printed.
const PODS: u64 = 10;

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
    let builder = TestNode::empty_builder().flag("--runtime-class", &format!("{CLASS}={RUNTIME}"));
    let mut bench = Bench::on(rounds, builder, Some(&bin));
    bench.first_instructions();
    bench.shims_memory();
}

impl Bench {
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
