//! `make bench`: how fast and how small, side by side with `ctr run -d` of the same image and runtime, in one run.
//!
//! Prints medians with their spread and the ratio to what `ctr` needs; asserts nothing. `ROUNDS=n` (default 20) and
//! `ONLY=word,…` (one, network, update, restart, remove, burst, start, memory, import, idle) narrow it down. Times are
//! CLOCK_MONOTONIC, from the act (a rename, a kill, an unlink, `ctr`'s start) to the daemon's own first instruction.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use tests::image::Image;
use tests::manifest::{self, Document};
use tests::node::{TestNode, program};
use tests::process::Process;

const IMAGE: &str = "bench.example/stamp:1";

/// No single step of a benchmark takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let only = std::env::var("ONLY").unwrap_or_default();
    let wants = |word: &str| only.is_empty() || only.split(',').any(|o| o == word);
    let mut bench = Bench::new(rounds)?;
    bench.versions()?;
    if wants("one") {
        bench.one("one pod, host network, two hostPaths", "0.8", true)?;
    }
    if wants("network") {
        bench.one("one pod, CNI bridge, two hostPaths", "1.3", false)?;
    }
    if wants("update") {
        bench.update()?;
    }
    if wants("restart") {
        bench.restart("killed to its successor", "0.8", false)?;
        bench.restart("killed to a standing successor", "0.3", true)?;
    }
    if wants("remove") {
        bench.remove()?;
    }
    if wants("start") {
        bench.agent_start()?;
    }
    if wants("burst") {
        bench.burst(30, (rounds / 2).max(1))?;
        bench.burst(110, (rounds / 4).max(1))?;
    }
    if wants("memory") {
        bench.memory(30)?;
        bench.memory(110)?;
    }
    if wants("idle") {
        bench.idle()?;
    }
    if wants("import") {
        bench.import()?;
    }
    Ok(())
}

struct Bench {
    node: TestNode,
    out: PathBuf,
    rounds: usize,
    /// `ctr run -d` of one container, measured in each comparison again; the newest median, in ms.
    count: u32,
}

/// A row's numbers, in milliseconds.
struct Samples(Vec<f64>);

impl Samples {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    fn spread(&self) -> String {
        let (low, high) = self.0.iter().fold((f64::MAX, f64::MIN), |(low, high), ms| (low.min(*ms), high.max(*ms)));
        format!("{:.1} ({low:.1}–{high:.1}, n={})", self.median(), self.0.len())
    }
}

fn compare(what: &str, ours: &Samples, theirs: &Samples, target: &str) {
    let ratio = ours.median() / theirs.median();
    println!("{what}: {} ms, ctr run -d {} ms, ratio {ratio:.2}, to reach {target}", ours.spread(), theirs.spread());
}

fn monotonic_ns() -> i64 {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has CLOCK_MONOTONIC");
    t.tv_sec() * 1_000_000_000 + t.tv_nsec()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a benchmark fit a float many times over")]
fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

impl Bench {
    fn new(rounds: usize) -> Result<Bench> {
        let stamp = compile()?;
        let image = Image::scratch(IMAGE, &stamp)?.entrypoint(&["/stamp"]);
        let mut node = TestNode::empty_builder().image("stamp.tar", &image).without_agent().start();
        let out = node.dir().join("out");
        fs::create_dir(&out)?;
        node.start_agent();
        node.wait_agent();
        let mut bench = Bench { node, out, rounds, count: 0 };
        // The first pod waits for the image; from then on everything is cached, for ctr as well.
        let name = bench.pod_up(true)?.0;
        bench.pod_down(&name)?;
        Ok(bench)
    }

    fn versions(&self) -> Result<()> {
        let version = |words: &[&str]| -> Result<String> {
            let output = Command::new(words[0]).args(&words[1..]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
        };
        println!("{}; {}", version(&["containerd", "--version"])?, version(&["runc", "--version"])?);
        println!("{} processors, kernel {}", std::thread::available_parallelism()?, version(&["uname", "-r"])?);
        println!("agent: {}", program("daemonlet").display());
        Ok(())
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("p{}", self.count)
    }

    fn document(&self, name: &str, host_network: bool) -> Document {
        manifest::pod(name)
            .pod_field("hostNetwork", json!(host_network))
            .pod_field("terminationGracePeriodSeconds", json!(2))
            .field("image", json!(IMAGE))
            .field("command", json!(["/stamp", name]))
            .pod_field(
                "volumes",
                json!([
                    {"name": "out", "hostPath": {"path": self.out, "type": "Directory"}},
                    {"name": "dev", "hostPath": {"path": "/dev"}},
                ]),
            )
            .field(
                "volumeMounts",
                json!([{"name": "out", "mountPath": "/out"}, {"name": "dev", "mountPath": "/host_dev"}]),
            )
    }

    /// Drops a pod's manifest in; its name and the milliseconds to its first instruction.
    fn pod_up(&mut self, host_network: bool) -> Result<(String, f64)> {
        let name = self.name();
        let text = self.document(&name, host_network).text();
        let began = self.put(&name, &text)?;
        let started = self.wait_stamp(&name, "start", 1)?;
        Ok((name, ms(started - began)))
    }

    /// Writes beside and renames; the moment of the rename.
    fn put(&self, name: &str, text: &str) -> Result<i64> {
        let dir = self.node.manifest_dir();
        let beside = dir.join(format!(".{name}.new"));
        fs::write(&beside, text)?;
        let began = monotonic_ns();
        fs::rename(&beside, dir.join(format!("{name}.yaml")))?;
        Ok(began)
    }

    fn pod_down(&self, name: &str) -> Result<()> {
        fs::remove_file(self.node.manifest_dir().join(format!("{name}.yaml")))?;
        self.node.wait_no_pod(name);
        Ok(())
    }

    /// `ctr run -d` with the same mounts, in the node's namespace; milliseconds to the first instruction.
    fn ctr_up(&mut self) -> Result<(String, f64)> {
        let name = self.name();
        let began = monotonic_ns();
        let mut ctr = self.ctr_run(&name)?;
        ensure!(ctr.wait()?.success(), "ctr run failed");
        let started = self.wait_stamp(&name, "start", 1)?;
        Ok((name, ms(started - began)))
    }

    fn ctr_run(&self, name: &str) -> Result<Child> {
        let mut command = self.node.command("ctr");
        command.arg("--address").arg(self.node.containerd_socket()).args(["--namespace", self.node.id()]);
        command.args(["run", "-d", "--net-host"]);
        command.arg("--mount").arg(format!("type=bind,src={},dst=/out,options=rbind:rw", self.out.display()));
        command.args(["--mount", "type=bind,src=/dev,dst=/host_dev,options=rbind:rw"]);
        command.args([IMAGE, &format!("ctr-{}-{name}", self.node.id()), "/stamp", name]);
        Ok(command.stdout(Stdio::null()).spawn()?)
    }

    fn ctr_down(&self, name: &str) {
        let id = format!("ctr-{}-{name}", self.node.id());
        self.node.ctr(&["task", "rm", "--force", &id]);
        self.node.ctr(&["container", "rm", &id]);
    }

    fn stamps(&self) -> BTreeMap<(String, String), Vec<i64>> {
        let text = fs::read_to_string(self.out.join("stamps")).unwrap_or_default();
        let mut stamps: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some(event), Some(Ok(ns))) = (words.next(), words.next(), words.next().map(str::parse))
            {
                stamps.entry((name.to_owned(), event.to_owned())).or_default().push(ns);
            }
        }
        stamps
    }

    /// Waits for the nth stamp of this kind.
    fn wait_stamp(&self, name: &str, event: &str, nth: usize) -> Result<i64> {
        let key = (name.to_owned(), event.to_owned());
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(ns) = self.stamps().get(&key).and_then(|all| all.get(nth - 1)) {
                return Ok(*ns);
            }
            if Instant::now() > end {
                bail!("{name} has no {event} number {nth}\n{}", self.node.tail("agent.log"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn one(&mut self, what: &str, target: &str, host_network: bool) -> Result<()> {
        let (mut ours, mut theirs) = (Samples(Vec::new()), Samples(Vec::new()));
        for _ in 0..self.rounds {
            let (name, ms) = self.pod_up(host_network)?;
            ours.0.push(ms);
            self.pod_down(&name)?;
            let (name, ms) = self.ctr_up()?;
            theirs.0.push(ms);
            self.ctr_down(&name);
        }
        compare(what, &ours, &theirs, target);
        Ok(())
    }

    /// As many `ctr run -d` as there are rounds.
    fn ctr_samples(&mut self) -> Result<Samples> {
        let mut theirs = Samples(Vec::new());
        for _ in 0..self.rounds {
            let (name, ms) = self.ctr_up()?;
            theirs.0.push(ms);
            self.ctr_down(&name);
        }
        Ok(theirs)
    }

    fn update(&mut self) -> Result<()> {
        let mut ours = Samples(Vec::new());
        let name = self.name();
        let document = |version: usize| self.document(&name, true).env("VERSION", &version.to_string()).text();
        self.put(&name, &document(0))?;
        self.wait_stamp(&name, "start", 1)?;
        for round in 1..=self.rounds {
            self.put(&name, &document(round))?;
            let ended = self.wait_stamp(&name, "end", round)?;
            let started = self.wait_stamp(&name, "start", round + 1)?;
            ours.0.push(ms(started - ended));
            self.node.wait_running(&name);
        }
        self.pod_down(&name)?;
        let theirs = self.ctr_samples()?;
        compare("changed template, old process's end to the new one's first instruction", &ours, &theirs, "0.4");
        Ok(())
    }

    fn restart(&mut self, what: &str, target: &str, standby: bool) -> Result<()> {
        let mut ours = Samples(Vec::new());
        for _ in 0..self.rounds {
            let name = self.name();
            let document = self.document(&name, true);
            let document = match standby {
                true => document.set("/metadata/annotations", json!({"daemonlet.dev/standby": "true"})),
                false => document,
            };
            self.put(&name, &document.text())?;
            self.wait_stamp(&name, "start", 1)?;
            let pod = self.node.wait_running(&name);
            if standby {
                let end = Instant::now() + PATIENCE;
                while !self.node.ctr_lines(&["task", "ls"]).iter().any(|l| l.contains("CREATED")) {
                    ensure!(Instant::now() < end, "no successor stands by");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            let process = self.node.process(&pod);
            let began = monotonic_ns();
            process.signal(Signal::SIGKILL);
            ours.0.push(ms(self.wait_stamp(&name, "start", 2)? - began));
            self.pod_down(&name)?;
        }
        let theirs = self.ctr_samples()?;
        compare(what, &ours, &theirs, target);
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        let mut ours = Samples(Vec::new());
        for _ in 0..self.rounds {
            let (name, _) = self.pod_up(true)?;
            self.node.wait_running(&name);
            let file = self.node.manifest_dir().join(format!("{name}.yaml"));
            let began = monotonic_ns();
            fs::remove_file(file)?;
            ours.0.push(ms(self.wait_stamp(&name, "end", 1)? - began));
            self.node.wait_no_pod(&name);
        }
        println!("manifest removed to the process's end: {} ms, to reach 10 ms", ours.spread());
        Ok(())
    }

    fn agent_start(&mut self) -> Result<()> {
        let (mut ours, mut theirs) = (Samples(Vec::new()), Samples(Vec::new()));
        for _ in 0..self.rounds {
            self.node.stop_agent();
            let name = self.name();
            self.put(&name, &self.document(&name, true).text())?;
            let began = monotonic_ns();
            self.node.start_agent();
            ours.0.push(ms(self.wait_stamp(&name, "start", 1)? - began));
            self.node.wait_agent();
            self.pod_down(&name)?;
            let (name, ms) = self.ctr_up()?;
            theirs.0.push(ms);
            self.ctr_down(&name);
        }
        compare("the agent's start to the first daemon's first instruction", &ours, &theirs, "1.2");
        Ok(())
    }

    fn burst(&mut self, size: usize, rounds: usize) -> Result<()> {
        let (mut ours, mut theirs) = (Samples(Vec::new()), Samples(Vec::new()));
        for _ in 0..rounds {
            let names: Vec<String> = (0..size).map(|_| self.name()).collect();
            let texts: Vec<String> = names.iter().map(|name| self.document(name, true).text()).collect();
            let began = monotonic_ns();
            for (name, text) in names.iter().zip(&texts) {
                self.put(name, text)?;
            }
            ours.0.push(ms(self.last_start(&names)? - began));
            for name in &names {
                fs::remove_file(self.node.manifest_dir().join(format!("{name}.yaml")))?;
            }
            names.iter().for_each(|name| self.node.wait_no_pod(name));

            let names: Vec<String> = (0..size).map(|_| self.name()).collect();
            let began = monotonic_ns();
            let runs: Vec<Child> = names.iter().map(|name| self.ctr_run(name)).collect::<Result<_>>()?;
            for mut run in runs {
                ensure!(run.wait()?.success(), "ctr run failed");
            }
            theirs.0.push(ms(self.last_start(&names)? - began));
            names.iter().for_each(|name| self.ctr_down(name));
        }
        compare(&format!("{size} manifests at once, the last first instruction"), &ours, &theirs, "0.95");
        Ok(())
    }

    fn last_start(&self, names: &[String]) -> Result<i64> {
        let starts: Vec<i64> = names.iter().map(|name| self.wait_stamp(name, "start", 1)).collect::<Result<_>>()?;
        starts.into_iter().max().context("a burst has members")
    }

    fn processes(&self) -> Result<(Process, Process)> {
        let keeper = self.node.keeper().context("the log keeper runs")?;
        Ok((self.node.agent_process(), keeper))
    }

    fn memory(&mut self, size: usize) -> Result<()> {
        // A fresh agent: what earlier benchmarks made it touch is not what a node has.
        self.node.stop_agent();
        self.node.start_agent();
        self.node.wait_agent();
        let containerd = self.containerd()?;
        let (_, keeper) = self.processes()?;
        let before = (pss_kb(containerd)?, pss_kb(keeper)?);
        let names = self.many_up(size)?;
        let (agent, keeper) = self.processes()?;
        let helpers = pss_kb(keeper)?.saturating_sub(before.1);
        println!(
            "memory with {size} pods: agent {:.1} MB PSS, to reach {} MB; log keeper {:.1} MB, {:.2} MB a pod, to reach 0.3 MB; containerd grew by {:.1} MB",
            mb(pss_kb(agent)?),
            if size <= 30 { 12 } else { 16 },
            mb(pss_kb(keeper)?),
            mb(helpers) / f64::from(u32::try_from(size)?),
            mb(pss_kb(containerd)?.saturating_sub(before.0)),
        );
        self.many_down(&names)?;
        let before = pss_kb(containerd)?;
        let names: Vec<String> = (0..size).map(|_| self.ctr_up().map(|(name, _)| name)).collect::<Result<_>>()?;
        println!(
            "  {size} times ctr run -d: containerd grew by {:.1} MB",
            mb(pss_kb(containerd)?.saturating_sub(before))
        );
        names.iter().for_each(|name| self.ctr_down(name));
        Ok(())
    }

    fn many_up(&mut self, size: usize) -> Result<Vec<String>> {
        let names: Vec<String> = (0..size).map(|_| self.name()).collect();
        for name in &names {
            self.put(name, &self.document(name, true).text())?;
        }
        self.last_start(&names)?;
        names.iter().for_each(|name| drop(self.node.wait_running(name)));
        Ok(names)
    }

    fn many_down(&self, names: &[String]) -> Result<()> {
        for name in names {
            fs::remove_file(self.node.manifest_dir().join(format!("{name}.yaml")))?;
        }
        names.iter().for_each(|name| self.node.wait_no_pod(name));
        Ok(())
    }

    fn containerd(&self) -> Result<Process> {
        let config = self.node.containerd_socket();
        let dir = config.parent().context("the socket lies in a directory")?;
        tests::process::with_command(&dir.display().to_string())
            .into_iter()
            .find(|p| p.command_line().starts_with("containerd "))
            .context("containerd runs")
    }

    fn idle(&mut self) -> Result<()> {
        let names = self.many_up(30)?;
        std::thread::sleep(Duration::from_secs(5));
        let (agent, keeper) = self.processes()?;
        let before = (cpu_ticks(agent)?, cpu_ticks(keeper)?);
        std::thread::sleep(Duration::from_secs(60));
        let ticks = (cpu_ticks(agent)? - before.0, cpu_ticks(keeper)? - before.1);
        let seconds = |ticks: u64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / 100.0;
        println!(
            "processor in an idle minute with 30 pods: agent {:.2} s, to reach 0.05 s; log keeper {:.2} s",
            seconds(ticks.0),
            seconds(ticks.1)
        );
        self.many_down(&names)
    }

    fn import(&mut self) -> Result<()> {
        const SIZE: usize = 1 << 30;
        let file = self.node.dir().join("large.bin");
        let mut seed = 88_172_645_463_325_252_u64;
        let mut content = Vec::with_capacity(SIZE);
        while content.len() < SIZE {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            content.extend(seed.to_le_bytes());
        }
        fs::write(&file, &content)?;
        drop(content);
        let archive = tests::image::oci_archive(&[Image::scratch("bench.example/large:1", &file)?]);
        let (agent, _) = self.processes()?;
        let before = pss_kb(agent)?;
        let began = Instant::now();
        self.node.place_image("large.tar", &archive);
        let mut peak = before;
        while !self.node.ctr(&["image", "ls", "-q"]).out.contains("bench.example/large:1") {
            ensure!(began.elapsed() < PATIENCE, "the import does not end");
            peak = peak.max(pss_kb(agent)?);
            std::thread::sleep(Duration::from_millis(20));
        }
        println!(
            "importing a 1 GB image: {:.1} s, the agent grew by {:.1} MB PSS at its peak (from {:.1} MB), to reach 16 MB",
            began.elapsed().as_secs_f64(),
            mb(peak - before),
            mb(before)
        );
        Ok(())
    }
}

/// The stamp program, built on the spot.
fn compile() -> Result<PathBuf> {
    let dir = program("daemonlet").parent().context("programs lie in a directory")?.join("bench");
    fs::create_dir_all(&dir)?;
    let (source, stamp) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/stamp.c"), dir.join("stamp"));
    let status = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&stamp).arg(source).status()?;
    ensure!(status.success(), "cc cannot build the stamp program: install gcc and libc6-dev");
    Ok(stamp)
}

/// Proportional set size in kB (/proc/<pid>/smaps_rollup).
fn pss_kb(process: Process) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("smaps_rollup has Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn mb(kb: u64) -> f64 {
    f64::from(u32::try_from(kb).unwrap_or(u32::MAX)) / 1024.0
}

/// User and system time in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn cpu_ticks(process: Process) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat has a name")?.1.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
