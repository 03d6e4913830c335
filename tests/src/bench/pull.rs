//! Images out of a registry on the node's loopback: large ones, many layers, many pods that want one, an update that needs one, a link
//! that breaks. Between two acts the image is removed from containerd (content and snapshots) and from podman, and what the registry has
//! sent tells that each pull was one.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::many::at_once;
use super::memory::{forget_peak, peak, resident};
use super::registry::{ADDRESS, Large, Registry};
use super::table::{Samples, median, megabytes, row, value, values};
use super::{Bench, end_within, milliseconds, now, run_within};
use crate::faulty::{Fault, FaultyProxy, Rule};
use crate::manifest::{Document, daemon_set, pod};
use crate::wait::wait_within;

/// One pull of a gigabyte takes some 5 s on a quiet machine, and the machine may be busy and its disk slow.
const PULL_PATIENCE: Duration = Duration::from_secs(600);

/// The large image: ten layers of this make a gigabyte.
const LARGE_LAYER_BYTES: usize = 100_000_000;

/// A layer of the image with a hundred of them.
const SMALL_LAYER_BYTES: usize = 20_000;

/// A layer of the image that 30 pods want: 100 MB in ten layers, because a rival that downloads it 30 times should come to an end.
const CROWD_LAYER_BYTES: usize = 10_000_000;

/// The layer in whose nine tenths the connection is cut.
const CUT_LAYER_BYTES: usize = 100_000_000;

/// A rival that does not go on by itself after a cut is started again so often.
const TRIES: u32 = 5;

/// What the registry sent, as a share of the image, below which something was not downloaded. Layers are the image but for some kB.
const REAL_PULL: f64 = 0.99;

/// One act of pulling.
struct Pulled {
    milliseconds: f64,
    /// What went over the loopback meanwhile, by the size of the image.
    share: f64,
}

impl Bench {
    /// 1 GB in ten layers.
    pub fn pull_large(&mut self) {
        let added = self.pull_rows("1 GB in ten layers pulled", 10, LARGE_LAYER_BYTES);
        value("  agent's peak memory above idle", &megabytes(median(&added)), "16 MB");
    }

    pub fn pull_layers(&mut self) {
        let added = self.pull_rows("100 layers of 20 kB pulled", 100, SMALL_LAYER_BYTES);
        value("  agent's peak memory above idle", &megabytes(median(&added)), "");
    }

    /// Ours is from the manifest's rename to the first instruction of its container; theirs only the pull (`ctr images pull`, `podman
    /// pull`), each unpacked. Returns what each pull added to the agent's memory at its peak.
    fn pull_rows(&mut self, name: &str, layers: u64, bytes: usize) -> Vec<f64> {
        let registry = Registry::on_loopback_of(&self.node);
        let large = registry.push("large", layers, bytes);
        let image = format!("{ADDRESS}/{}", large.name);
        let mut times = Samples::default();
        let mut added = Vec::new();
        for _ in 0..self.rounds.large {
            let agent = self.node.agent_process();
            forget_peak(agent);
            let idle = resident(agent);
            let ours = self.pulled(&large, |bench| {
                let name = bench.name("pod");
                let at = bench.put(&name, &bench.of(pod(&name), &image, &name));
                let took = milliseconds(at, bench.nth_stamp("start", &name, 0, PULL_PATIENCE));
                bench.take_away(&name);
                took
            });
            added.push(peak(agent) - idle);
            self.forget(&image);
            times.ours.push(ours.real());
            let ctr = self.pulled(&large, |bench| timed(&mut bench.ctr_pull(&image)));
            self.forget(&image);
            times.ctr.push(ctr.real());
            if self.podman.is_some() {
                let podman = self.pulled(&large, |bench| timed(&mut bench.podman_pull(&image)));
                self.podman_forget(&image);
                times.podman.push(podman.real());
            }
        }
        row(name, &times, "");
        added
    }

    /// The same image wanted by 30 pods at once, from nothing to the last one's first instruction. For `ctr` that is one pull and then
    /// 30 runs at once (30 of its pulls at once wait for each other's locks for minutes); podman's 30 runs pull by themselves.
    pub fn pull_crowd(&mut self) {
        let registry = Registry::on_loopback_of(&self.node);
        let large = registry.push("crowd", 10, CROWD_LAYER_BYTES);
        let image = format!("{ADDRESS}/{}", large.name);
        let (mut times, mut shares) = (Samples::default(), Samples::default());
        for _ in 0..self.rounds.large {
            let names = self.names("pod", 30);
            let ours = self.pulled(&large, |bench| {
                let documents: Vec<Document> = names.iter().map(|name| bench.of(pod(name), &image, name)).collect();
                let at = now();
                for (name, document) in names.iter().zip(&documents) {
                    bench.put(name, document);
                }
                milliseconds(at, bench.last_start(&names))
            });
            self.take_all_away(&names);
            self.forget(&image);
            shares.ours.push(ours.share);
            times.ours.push(ours.real());

            let names = self.names("ctr", 30);
            let ctr = self.pulled(&large, |bench| {
                let at = now();
                run_within(PULL_PATIENCE, &mut bench.ctr_pull(&image));
                at_once(names.iter().map(|name| bench.ctr_run(name, &image, &[])));
                milliseconds(at, bench.last_start(&names))
            });
            for name in &names {
                self.ctr_remove(name);
            }
            self.forget(&image);
            shares.ctr.push(ctr.share);
            times.ctr.push(ctr.real());

            if self.podman.is_some() {
                let names = self.names("podman", 30);
                let podman = self.pulled(&large, |bench| {
                    let at = now();
                    let options = ["--tls-verify=false", "--network", "host"];
                    at_once(names.iter().map(|name| bench.podman_run(name, &image, &options)));
                    milliseconds(at, bench.last_start(&names))
                });
                self.podman().ok(&["rm", "-f", "-a", "-t", "0"]);
                self.podman_forget(&image);
                shares.podman.push(podman.share);
                times.podman.push(podman.real());
            }
        }
        row("100 MB wanted by 30 pods, to the last first instruction", &times, "");
        values("  downloaded, by the image's size", &shares, |share| format!("{share:.2}"), "");
    }

    /// An update whose image, a gigabyte, is still to be pulled: the gap in which nothing runs.
    pub fn pull_swap(&mut self) {
        let registry = Registry::on_loopback_of(&self.node);
        let large = registry.push("swap", 10, LARGE_LAYER_BYTES);
        let image = format!("{ADDRESS}/{}", large.name);
        let name = self.name("ds");
        let mut samples = Samples::default();
        for round in 0..self.rounds.large {
            let (old, new) = (format!("{name}-{round}-old"), format!("{name}-{round}-new"));
            self.put(&name, &self.filled(daemon_set(&name), &old));
            self.stamp("start", &old);
            self.node.wait_running(&name);
            let pulled = self.pulled(&large, |bench| {
                bench.put(&name, &bench.of(daemon_set(&name), &image, &new));
                let started = bench.nth_stamp("start", &new, 0, PULL_PATIENCE);
                milliseconds(bench.stamp("end", &old), started)
            });
            samples.ours.push(pulled.real());
            samples.ctr.push(self.ctr_start(&[]));
            self.take_away_ds(&name, &new);
            self.forget(&image);
        }
        row("update with 1 GB to pull: old end to first instruction", &samples, "0.4");
    }

    /// A DaemonSet's pod ends with another stamp than its name.
    fn take_away_ds(&self, name: &str, stamp: &str) {
        self.node.remove(&format!("{name}.yaml"));
        self.stamp("end", stamp);
        self.node.wait_no_pod(name);
    }

    /// What is downloaded more than once when the connection is cut at nine tenths of a layer.
    pub fn pull_cut(&mut self) {
        let registry = Registry::on_loopback_of(&self.node);
        let large = registry.push("cut", 1, CUT_LAYER_BYTES);
        let listener = self.node.inside(|| TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let proxy = FaultyProxy::in_front_of(&registry.pushed).listener(listener).start();
        let image = format!("{}/{}", proxy.host(), large.name);
        let (layer, size) = large.layers.last().expect("it has a layer");
        let mut again = Samples::default();
        for _ in 0..self.rounds.large {
            let again_of = |act: &mut dyn FnMut()| {
                proxy.clear();
                proxy.add(Rule::on(&format!("/blobs/{layer}")).first(1).fault(Fault::Cut { after: size / 10 * 9 }));
                let before = proxy.body_bytes();
                act();
                let more = (proxy.body_bytes() - before) as f64 - large.bytes() as f64;
                more * 100.0 / *size as f64
            };
            let name = self.name("pod");
            let ours = again_of(&mut || {
                self.put(&name, &self.of(pod(&name), &image, &name));
                self.nth_stamp("start", &name, 0, PULL_PATIENCE);
            });
            self.take_away(&name);
            self.forget(&image);
            let ctr = again_of(&mut || until_done(|| self.ctr_pull(&image)));
            self.forget(&image);
            again.ours.push(ours);
            again.ctr.push(ctr);
            if self.podman.is_some() {
                again.podman.push(again_of(&mut || until_done(|| self.podman_pull(&image))));
                self.podman_forget(&image);
            }
        }
        values("downloaded again after a cut at 90 % of a layer", &again, |share| format!("{share:.2} %"), "1 %");
    }

    /// A document of this image, pulled if it is not there.
    fn of(&self, document: Document, image: &str, stamp: &str) -> Document {
        self.filled(document, stamp).field("image", json!(image)).field("imagePullPolicy", json!("IfNotPresent"))
    }

    /// An act that pulls, with a quiet disk before it.
    fn pulled(&mut self, large: &Large, act: impl FnOnce(&mut Self) -> f64) -> Pulled {
        nix::unistd::sync();
        let before = self.loopback_bytes();
        let milliseconds = act(self);
        Pulled { milliseconds, share: (self.loopback_bytes() - before) / large.bytes() as f64 }
    }

    /// What the node's loopback has sent so far: the registry's answers, and some headers.
    fn loopback_bytes(&self) -> f64 {
        let table = self.node.inside(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("the kernel tells");
        let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).expect("every namespace has lo");
        line.split_whitespace().nth(8).and_then(|bytes| bytes.parse().ok()).expect("bytes sent are the ninth number")
    }

    /// It is the client that asks the registry, so it has to be on the node's network.
    fn ctr_pull(&self, image: &str) -> Command {
        let mut command = self.node.command(&self.ctr);
        command.arg("--address").arg(self.node.containerd_socket()).args(["--namespace", self.node.id()]);
        command.args(["images", "pull", "--plain-http", image]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn podman_pull(&self, image: &str) -> Command {
        self.podman().command(&["pull", "--quiet", "--tls-verify=false", image])
    }

    /// Removes an image from containerd and waits until its content and snapshots are gone too.
    fn forget(&self, image: &str) {
        run_within(PULL_PATIENCE, &mut self.ctr_command(&["images", "rm", "--sync", image]));
        wait_within(PULL_PATIENCE, "content and snapshots of the image are gone", || {
            let content = self.node.ctr_lines(&["content", "ls", "-q"]);
            let snapshots = self.node.ctr_lines(&["snapshots", "ls"]);
            // What stays is the stamp image's: manifest, configuration, one layer.
            if content.len() <= 4 && snapshots.len() <= 1 { Ok(()) } else { Err(format!("{content:?} {snapshots:?}")) }
        });
    }

    fn podman_forget(&self, image: &str) {
        self.podman().ok(&["rmi", "--force", image]);
    }
}

impl Pulled {
    /// Its time, if it was a pull.
    fn real(&self) -> f64 {
        assert!(self.share >= REAL_PULL, "only {:.3} of the image was downloaded: it was there already", self.share);
        self.milliseconds
    }
}

/// A command from its start to its end, in milliseconds.
fn timed(command: &mut Command) -> f64 {
    let at = now();
    run_within(PULL_PATIENCE, command);
    milliseconds(at, now())
}

/// Runs a command again until it succeeds.
fn until_done(command: impl Fn() -> Command) {
    let done = (0..TRIES).any(|_| end_within(PULL_PATIENCE, &mut command()).0 == 0);
    assert!(done, "{:?} fails", command());
}
