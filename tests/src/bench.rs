//! The measurements of `make bench`: each makes a node, does one thing often, and prints a row. Driven by `bin/bench.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::client;
use crate::image::{self, Image, Tarball};
use crate::manifest::{Document, daemon_set, pod};
use crate::node::TestNode;
use crate::process::Process;
use crate::wait::{pause, wait_for, wait_within};

const IMAGE: &str = "docker.io/library/stamp:1";

/// 110 containers at once take some 10 s on a quiet machine.
const CROWD_PATIENCE: Duration = Duration::from_secs(180);

/// Size of the layer in the import measurement.
const BIG_BYTES: usize = 1 << 30;

#[derive(Clone, Copy)]
pub struct Rounds {
    pub single: u64,
    pub idle_seconds: u64,
}

pub struct Bench {
    node: TestNode,
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

/// The value below which this share of the samples lies.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Prints a row of times; the ratio is of medians.
fn row(name: &str, ours: &[f64], theirs: &[f64], target: &str) {
    let median = quantile(ours, 0.5);
    let spread = format!("{:.1} – {:.1}", quantile(ours, 0.1), quantile(ours, 0.9));
    let (their, ratio) = if theirs.is_empty() {
        (String::new(), String::new())
    } else {
        let their = quantile(theirs, 0.5);
        (format!("{their:.1} ms"), format!("{:.2}", median / their))
    };
    println!("{name:<58} {:>9} {spread:>17} {their:>9} {ratio:>7} {target:>8}", format!("{median:.1} ms"));
}

fn value(name: &str, value: &str, target: &str) {
    println!("{name:<58} {value:>9} {:>17} {:>9} {:>7} {target:>8}", "", "", "");
}

impl Bench {
    /// A node whose agent runs and knows the image.
    pub fn new(rounds: Rounds) -> Self {
        let image = Image::scratch(IMAGE, &stamp_program()).expect("the stamp program was built");
        let node = TestNode::empty_builder().image("stamp.tar", &image).start();
        let bench = Self { node, rounds, count: 0 };
        fs::create_dir_all(bench.stamp_dir()).expect("a directory can be made in an own directory");
        wait_for("the image is known to containerd", || {
            let names = bench.node.ctr_lines(&["images", "ls", "-q"]);
            if names.contains(IMAGE) { Ok(()) } else { Err(format!("{names:?}")) }
        });
        // The first container pays for what all later ones find cached, on both sides.
        let mut bench = bench;
        let name = bench.name("warm");
        bench.put(&name, &bench.document(&name));
        bench.stamp("start", &name);
        bench.take_away(&name);
        bench.ctr_start();
        bench
    }

    fn stamp_dir(&self) -> PathBuf {
        self.node.dir().join("stamps")
    }

    fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
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
        self.nth_stamp(kind, name, 0)
    }

    fn nth_stamp(&self, kind: &str, name: &str, nth: usize) -> u128 {
        wait_for(&format!("stamp {kind} {name} number {nth}"), || {
            let found = self.stamps().get(&format!("{kind} {name}")).and_then(|moments| moments.get(nth).copied());
            found.ok_or_else(|| self.node.tail("agent.log"))
        })
    }

    /// `ctr run -d` of the same program with the same mounts, in a containerd namespace of its own.
    fn ctr_command(&self, name: &str) -> Command {
        let mut command = Command::new("ctr");
        let mount = format!("type=bind,src={},dst=/stamps,options=rbind:rw", self.stamp_dir().display());
        command.arg("--address").arg(self.node.containerd_socket()).args([
            "--namespace",
            self.node.id(),
            "run",
            "-d",
            "--net-host",
        ]);
        command.args(["--mount", &mount, "--mount", "type=bind,src=/dev,dst=/host_dev,options=rbind:rw"]);
        command.args(["--cgroup", &format!("{}/ctr/{name}", self.node.cgroup_root)]);
        command.args([IMAGE, &format!("{}-{name}", self.node.id()), "/stamp", "/stamps/all", name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// One `ctr run -d` to the first instruction, in milliseconds.
    fn ctr_start(&mut self) -> f64 {
        let name = self.name("ctr");
        let at = now();
        let output = client::run(&mut self.ctr_command(&name));
        assert_eq!(output.code, 0, "{output:?}");
        let took = milliseconds(at, self.stamp("start", &name));
        self.ctr_remove(&name);
        took
    }

    fn ctr_remove(&self, name: &str) {
        let id = format!("{}-{name}", self.node.id());
        self.node.ctr(&["tasks", "rm", "-f", &id]);
        self.node.ctr(&["containers", "rm", &id]);
    }

    /// Ours and `ctr`'s in turn.
    fn side_by_side(&mut self, mut ours: impl FnMut(&mut Self) -> f64) -> (Vec<f64>, Vec<f64>) {
        let mut both = (Vec::new(), Vec::new());
        for _ in 0..self.rounds.single {
            both.0.push(ours(self));
            both.1.push(self.ctr_start());
        }
        both
    }

    pub fn start_host_network(&mut self) {
        let (ours, theirs) = self.side_by_side(|bench| bench.one_start(|document| document));
        row("manifest renamed to first instruction, host network", &ours, &theirs, "0.8");
    }

    pub fn start_pod_network(&mut self) {
        let (ours, theirs) = self.side_by_side(|bench| bench.one_start(Document::own_network));
        row("manifest renamed to first instruction, CNI", &ours, &theirs, "1.3");
    }

    fn one_start(&mut self, change: fn(Document) -> Document) -> f64 {
        let name = self.name("pod");
        let at = self.put(&name, &change(self.document(&name)));
        let took = milliseconds(at, self.stamp("start", &name));
        self.take_away(&name);
        took
    }

    pub fn update(&mut self) {
        let name = self.name("ds");
        let mut old = format!("{name}-0");
        self.put(&name, &self.filled(daemon_set(&name), &old));
        self.stamp("start", &old);
        self.node.wait_running(&name);
        let mut round = 0;
        let (ours, theirs) = self.side_by_side(|bench| {
            round += 1;
            let new = format!("{name}-{round}");
            bench.put(&name, &bench.filled(daemon_set(&name), &new));
            let took = milliseconds(bench.stamp("end", &old), bench.stamp("start", &new));
            old = new;
            bench.node.wait_running(&name);
            took
        });
        row("template changed: old process's end to first instruction", &ours, &theirs, "0.4");
    }

    pub fn kill(&mut self) {
        let plain = |bench: &mut Self| bench.one_kill(|document| document);
        let (ours, theirs) = self.side_by_side(plain);
        row("container killed to its successor's first instruction", &ours, &theirs, "0.8");
        let standing = |bench: &mut Self| {
            bench.one_kill(|document| document.set("/metadata/annotations", json!({"daemonlet.dev/standby": "true"})))
        };
        let (ours, theirs) = self.side_by_side(standing);
        row("  the same with a standing successor", &ours, &theirs, "0.3");
    }

    fn one_kill(&mut self, change: fn(Document) -> Document) -> f64 {
        let name = self.name("pod");
        self.put(&name, &change(self.document(&name)));
        self.stamp("start", &name);
        let process = self.node.process(&self.node.wait_running(&name));
        let at = now();
        process.signal(nix::sys::signal::Signal::SIGKILL);
        let took = milliseconds(at, self.nth_stamp("start", &name, 1));
        self.node.remove(&format!("{name}.yaml"));
        self.node.wait_no_pod(&name);
        took
    }

    pub fn remove(&mut self) {
        let mut ours = Vec::new();
        for _ in 0..self.rounds.single {
            let name = self.name("pod");
            self.put(&name, &self.document(&name));
            self.node.wait_running(&name);
            let at = self.take_away(&name);
            ours.push(milliseconds(at, self.stamp("end", &name)));
        }
        row("manifest removed to process gone", &ours, &[], "10 ms");
    }

    pub fn agent_start(&mut self) {
        let (ours, theirs) = self.side_by_side(|bench| {
            let name = bench.name("pod");
            bench.node.stop_agent();
            bench.put(&name, &bench.document(&name));
            let at = now();
            bench.node.start_agent();
            let took = milliseconds(at, bench.stamp("start", &name));
            bench.node.wait_agent();
            bench.take_away(&name);
            took
        });
        row("agent's start, all cached, to first instruction", &ours, &theirs, "1.2");
    }

    /// 30 and 110 at once, and what they cost while they run.
    pub fn many(&mut self) {
        for (count, memory_target) in [(30u64, "12 MB"), (110, "16 MB")] {
            let names: Vec<String> = (0..count).map(|_| self.name("pod")).collect();
            let texts: Vec<Document> = names.iter().map(|name| self.document(name)).collect();
            let at = now();
            for (name, document) in names.iter().zip(&texts) {
                self.put(name, document);
            }
            let ours = milliseconds(at, self.last_start(&names));
            self.resident(count, memory_target);
            if count == 30 {
                self.idle();
            }
            let containerd_ours = self.containerd_pss();
            for name in &names {
                self.node.remove(&format!("{name}.yaml"));
            }
            wait_within(CROWD_PATIENCE, "all pods are gone", || match self.node.pods().len() {
                0 => Ok(()),
                n => Err(format!("{n} left")),
            });
            let names: Vec<String> = (0..count).map(|_| self.name("ctr")).collect();
            let at = now();
            let children: Vec<Child> =
                names.iter().map(|name| self.ctr_command(name).spawn().expect("ctr is installed")).collect();
            for child in children {
                let ended = child.wait_with_output().expect("an own child can be waited for");
                assert!(ended.status.success(), "ctr: {}", String::from_utf8_lossy(&ended.stderr));
            }
            let theirs = milliseconds(at, self.last_start(&names));
            let containerd_theirs = self.containerd_pss();
            for name in &names {
                self.ctr_remove(name);
            }
            row(&format!("{count} at once, last first instruction"), &[ours], &[theirs], "0.95");
            let growth = format!("{containerd_ours:.1} MB");
            value(&format!("  containerd with {count} pods (ctr: {containerd_theirs:.1} MB)"), &growth, "");
        }
    }

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

    fn resident(&self, count: u64, target: &str) {
        value(
            &format!("agent's memory (PSS), {count} pods"),
            &format!("{:.1} MB", pss(self.node.agent_process())),
            target,
        );
        let keeper = self.node.keeper().map_or(0.0, pss);
        value(
            &format!("our helpers' memory a pod (PSS), {count} pods"),
            &format!("{:.2} MB", keeper / count as f64),
            "0.3 MB",
        );
    }

    fn containerd_pss(&self) -> f64 {
        let config = self.node.dir().join("containerd/config.toml").display().to_string();
        crate::process::with_command(&config).first().map_or(0.0, |process| pss(*process))
    }

    fn idle(&self) {
        let agent = self.node.agent_process();
        let before = processor_seconds(agent);
        pause(Duration::from_secs(self.rounds.idle_seconds));
        let used = (processor_seconds(agent) - before) * 60.0 / self.rounds.idle_seconds as f64;
        value("agent's processor time, idle minute, 30 pods", &format!("{used:.2} s"), "0.05 s");
    }

    pub fn import(&mut self) {
        let name = "docker.io/library/big:1";
        // Numbers that do not repeat at short distances, so that nothing is saved by being the same.
        let content: Vec<u8> =
            (0..BIG_BYTES as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let layer = Tarball::new().file("big", 0o644, &content).bytes();
        drop(content);
        let archive = image::oci_archive(&[Image::empty(name).layer(layer)]);
        let agent = self.node.agent_process();
        let before = peak(agent);
        let at = now();
        self.node.place_image("big.tar", &archive);
        drop(archive);
        wait_within(CROWD_PATIENCE, "the big image is known", || {
            let names = self.node.ctr_lines(&["images", "ls", "-q"]);
            if names.contains(name) { Ok(()) } else { Err(self.node.tail("agent.log")) }
        });
        let took = milliseconds(at, now()) / 1e3;
        value(
            &format!("import of 1 GB ({took:.1} s) adds at its peak"),
            &format!("{:.1} MB", peak(agent) - before),
            "16 MB",
        );
    }
}

/// The static program of the benchmark's containers, built by scripts/bench.sh.
fn stamp_program() -> PathBuf {
    crate::node::program("stamp")
}

/// Proportional set size in MB (10^6 bytes), from /proc/PID/smaps_rollup.
fn pss(process: Process) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap_or_default();
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// Highest resident memory so far, in MB.
fn peak(process: Process) -> f64 {
    let kilobytes = process.status("VmHWM").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// User and system time in seconds.
fn processor_seconds(process: Process) -> f64 {
    // User and system time in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15), threads that have ended included.
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
