//! The measurements of `make bench`: each makes a node, does one thing often, and prints rows. Driven by `bin/bench.rs`.
//!
//! Here is what all of them share: a node whose agent knows the image of `stamp`, the moments that its containers write down, and the
//! rivals' way to start the same program (`ctr run -d`, `podman run -d`).

mod control;
mod fleet;
mod many;
mod memory;
mod podman;
mod pull;
mod registry;
mod shims;
mod single;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::image::Image;
use crate::manifest::{Document, pod};
use crate::node::{Builder, TestNode};
use crate::wait::{wait_for, wait_within};

use podman::Podman;
use table::Samples;

pub use control::control;
pub use fleet::fleet;
pub use shims::shims;
pub use table::head;

const IMAGE: &str = "docker.io/library/stamp:1";

/// 110 containers at once take some 10 s on a quiet machine, 110 of podman's four times as long.
const CROWD_PATIENCE: Duration = Duration::from_secs(300);

/// One start of a rival, on a machine that may be busy.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub struct Rounds {
    /// Of acts that take a moment.
    pub single: u64,
    /// Of acts that move a gigabyte, or a crowd.
    pub large: u64,
    pub idle_seconds: u64,
}

pub struct Bench {
    // Dropped before the node, which ends what is left in its network namespace and cgroups.
    podman: Option<Podman>,
    node: TestNode,
    /// The client of the containerd that the node runs.
    ctr: PathBuf,
    rounds: Rounds,
    count: u64,
}

/// Nanoseconds on the machine's clock, as `stamp` writes them.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

fn milliseconds(from: u128, to: u128) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// The static program of the benchmark's containers, built by scripts/bench.sh.
fn stamp_program() -> PathBuf {
    crate::node::program("stamp")
}

/// Runs a command to its end and returns what it printed, where its stdout is a pipe. It must print little.
#[track_caller]
fn run_within(bound: Duration, command: &mut Command) -> String {
    let (code, out, err) = end_within(bound, command);
    assert_eq!(code, 0, "{command:?}: {out}{err}");
    out
}

/// Runs a command to its end: its exit code, output and errors.
#[track_caller]
fn end_within(bound: Duration, command: &mut Command) -> (i32, String, String) {
    let mut child =
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    wait_within(bound, &format!("{command:?} ends"), || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let output = child.wait_with_output().expect("an own child can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

impl Bench {
    /// A node whose agent runs and knows the image, on the machine's own containerd.
    pub fn new(rounds: Rounds) -> Self {
        Self::on(rounds, TestNode::empty_builder(), None)
    }

    /// The same on the containerd of this directory, with what the builder has.
    fn on(rounds: Rounds, builder: Builder, containerd: Option<&Path>) -> Self {
        let image = Image::scratch(IMAGE, &stamp_program()).expect("the stamp program was built");
        let mut node = builder.image("stamp.tar", &image).without_agent().start();
        if containerd.is_some() {
            node.stop_containerd();
            node.use_containerd(containerd);
            node.start_containerd();
        }
        node.start_agent();
        node.wait_agent();
        let ctr = containerd.map_or_else(|| PathBuf::from("ctr"), |bin| bin.join("ctr"));
        let podman = Podman::beside(&node);
        let mut bench = Self { podman, node, ctr, rounds, count: 0 };
        fs::create_dir_all(bench.stamp_dir()).expect("a directory can be made in an own directory");
        wait_for("the image is known to containerd", || {
            let names = bench.node.ctr_lines(&["images", "ls", "-q"]);
            if names.contains(IMAGE) { Ok(()) } else { Err(format!("{names:?}")) }
        });
        // The first container pays for what all later ones find cached, on every side.
        let name = bench.name("warm");
        bench.put(&name, &bench.document(&name));
        bench.stamp("start", &name);
        bench.take_away(&name);
        bench.ctr_start(&[]);
        if bench.podman.is_some()
            && let Err(why) = bench.podman_warm()
        {
            println!("podman cannot run here, so its column stays empty: {why}");
            bench.podman = None;
        }
        bench
    }

    /// podman's first container; Err with what it says where it cannot run on this machine.
    fn podman_warm(&mut self) -> Result<(), String> {
        let archive = self.node.image_dir().join("stamp.tar").display().to_string();
        let name = self.name("podman");
        let load = self.podman().command(&["load", "--quiet", "--input", &archive]);
        let run = self.podman_run(&name, IMAGE, &["--pull", "never", "--network", "host"]);
        for mut command in [load, run] {
            let (code, _, errors) = end_within(COMMAND_PATIENCE, &mut command);
            if code != 0 {
                return Err(errors.trim().to_owned());
            }
        }
        self.stamp("start", &name);
        self.podman().ok(&["rm", "-f", "-t", "0", &name]);
        Ok(())
    }

    fn stamp_dir(&self) -> PathBuf {
        self.node.dir().join("stamps")
    }

    fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn names(&mut self, prefix: &str, count: u64) -> Vec<String> {
        (0..count).map(|_| self.name(prefix)).collect()
    }

    /// A pod with the stamp program and two hostPath volumes.
    fn document(&self, name: &str) -> Document {
        self.filled(pod(name), name)
    }

    fn filled(&self, document: Document, stamp: &str) -> Document {
        let volumes = json!([
            {"name": "stamps", "hostPath": {"path": self.stamp_dir()}}, {"name": "dev", "hostPath": {"path": "/dev"}},
        ]);
        document
            .pod_field("volumes", volumes)
            .field("image", json!("stamp:1"))
            .field("imagePullPolicy", json!("Never"))
            .field("command", json!(["/stamp", "/stamps/all", stamp]))
            .field(
                "volumeMounts",
                json!([{"name": "stamps", "mountPath": "/stamps"}, {"name": "dev", "mountPath": "/host_dev"}]),
            )
    }

    /// Puts a manifest in place and returns the moment of the rename.
    fn put(&self, name: &str, document: &Document) -> u128 {
        let file = self.node.manifest_dir().join(format!("{name}.yaml"));
        let hidden = self.node.manifest_dir().join(format!(".{name}"));
        fs::write(&hidden, document.text()).expect("a manifest can be written");
        let at = now();
        fs::rename(hidden, file).expect("a manifest can be renamed");
        at
    }

    fn take_away(&self, name: &str) -> u128 {
        let at = now();
        self.node.remove(&format!("{name}.yaml"));
        self.stamp("end", name);
        self.node.wait_no_pod(name);
        at
    }

    /// Removes the manifests of these pods and waits until no pod is left.
    fn take_all_away(&self, names: &[String]) {
        for name in names {
            self.node.remove(&format!("{name}.yaml"));
        }
        wait_within(CROWD_PATIENCE, "all pods are gone", || match self.node.pods().len() {
            0 => Ok(()),
            n => Err(format!("{n} left")),
        });
    }

    /// All stamps so far: `start NAME` or `end NAME` to the moments.
    fn stamps(&self) -> BTreeMap<String, Vec<u128>> {
        let text = fs::read_to_string(self.stamp_dir().join("all")).unwrap_or_default();
        let mut stamps: BTreeMap<String, Vec<u128>> = BTreeMap::new();
        for line in text.lines() {
            if let Some((key, moment)) = line.rsplit_once(' ')
                && let Ok(moment) = moment.parse()
            {
                stamps.entry(key.to_owned()).or_default().push(moment);
            }
        }
        stamps
    }

    /// The moment of the first such stamp.
    fn stamp(&self, kind: &str, name: &str) -> u128 {
        self.nth_stamp(kind, name, 0, COMMAND_PATIENCE)
    }

    fn nth_stamp(&self, kind: &str, name: &str, nth: usize, bound: Duration) -> u128 {
        wait_within(bound, &format!("stamp {kind} {name} number {nth}"), || {
            let found = self.stamps().get(&format!("{kind} {name}")).and_then(|moments| moments.get(nth).copied());
            found.ok_or_else(|| self.node.tail("agent.log"))
        })
    }

    /// The moment of the last first instruction of these.
    fn last_start(&self, names: &[String]) -> u128 {
        wait_within(CROWD_PATIENCE, "everybody's first instruction", || {
            let stamps = self.stamps();
            let starts: Vec<u128> =
                names.iter().filter_map(|name| stamps.get(&format!("start {name}"))?.first().copied()).collect();
            if starts.len() == names.len() { Ok(starts) } else { Err(format!("{} of {}", starts.len(), names.len())) }
        })
        .into_iter()
        .max()
        .unwrap_or_default()
    }

    /// `ctr WORDS…` in the containerd namespace of the node.
    fn ctr_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.node.containerd_socket()).args(["--namespace", self.node.id()]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// `ctr run -d` of the same program with the same mounts, out of this image.
    fn ctr_run(&self, name: &str, image: &str, options: &[&str]) -> Command {
        let mount = format!("type=bind,src={},dst=/stamps,options=rbind:rw", self.stamp_dir().display());
        let mut command = self.ctr_command(&["run", "-d", "--net-host"]);
        command.args(options);
        command.args(["--mount", &mount, "--mount", "type=bind,src=/dev,dst=/host_dev,options=rbind:rw"]);
        command.args(["--cgroup", &format!("{}/ctr/{name}", self.node.cgroup_root)]);
        command.args([image, &format!("{}-{name}", self.node.id()), "/stamp", "/stamps/all", name]);
        command
    }

    /// One `ctr run -d` to the first instruction, in milliseconds.
    fn ctr_start(&mut self, options: &[&str]) -> f64 {
        let name = self.name("ctr");
        let at = now();
        run_within(COMMAND_PATIENCE, &mut self.ctr_run(&name, IMAGE, options));
        let took = milliseconds(at, self.stamp("start", &name));
        self.ctr_remove(&name);
        took
    }

    fn ctr_remove(&self, name: &str) {
        let id = format!("{}-{name}", self.node.id());
        self.node.ctr(&["tasks", "rm", "-f", &id]);
        self.node.ctr(&["containers", "rm", &id]);
    }

    fn podman(&self) -> &Podman {
        self.podman.as_ref().expect("asked only where it is there")
    }

    /// `podman run -d` of the same program with the same mounts.
    fn podman_run(&self, name: &str, image: &str, options: &[&str]) -> Command {
        let mut words: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
        for mount in [format!("{}:/stamps", self.stamp_dir().display()), "/dev:/host_dev".to_owned()] {
            words.extend(["-v".to_owned(), mount]);
        }
        self.podman().run(name, &words, image, &["/stamp", "/stamps/all", name])
    }

    /// One `podman run -d` on this network to the first instruction, in milliseconds.
    fn podman_start(&mut self, network: &str) -> f64 {
        let name = self.name("podman");
        let at = now();
        run_within(COMMAND_PATIENCE, &mut self.podman_run(&name, IMAGE, &["--pull", "never", "--network", network]));
        let took = milliseconds(at, self.stamp("start", &name));
        self.podman().ok(&["rm", "-f", "-t", "0", &name]);
        took
    }

    /// Ours, `ctr run -d`, and podman's way to do it where podman is there, in turn.
    fn side_by_side(
        &mut self,
        mut ours: impl FnMut(&mut Self) -> f64,
        mut podman: impl FnMut(&mut Self) -> f64,
    ) -> Samples {
        let mut samples = Samples::default();
        for _ in 0..self.rounds.single {
            samples.ours.push(ours(self));
            samples.ctr.push(self.ctr_start(&[]));
            if self.podman.is_some() {
                samples.podman.push(podman(self));
            }
        }
        samples
    }
}
