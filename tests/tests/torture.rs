//! Anything killed at any instant: agent, containerd, shims, the log keeper, containers and CNI plugins half-way, while pods come, change and go.
//! Afterwards everything wanted runs exactly once, no log line is lost, doubled or torn, and nothing is left on the machine.
//!
//! `make torture ROUNDS=n` runs it for longer; `SEED=n` repeats a choice of acts, though not the instants at which the kernel carries them out.
//! `CHATTY=1`, as `make torture` sets it: a daemon beside them prints up to a gigabyte a minute, and every line of it is accounted for.

#[path = "torture/chatty.rs"]
mod chatty;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::audit::Traces;
use tests::client::Pod;
use tests::manifest::{Document, daemon_set, pod};
use tests::node::{TestNode, summary};
use tests::process::{Process, in_network};
use tests::wait::{PATIENCE, pause, wait_within};

/// Rounds in `make test`: less than a minute.
const ROUNDS: u64 = 6;
/// Acts between two looks at everything.
const ACTS: u64 = 8;
/// The longest pause after an act. What it did is still under way after most of them.
const PAUSE_MAX: u64 = 300;
/// How long everything may take to be as it is wanted after the last kill. A container that was killed often waits in back-off, which is
/// 10 s at first and doubles.
const SETTLED: Duration = Duration::from_secs(170);
/// Pods that come and go at a time.
const BRIEF: u64 = 4;

/// Pods that never end by themselves.
const COUNTERS: [&str; 2] = ["counter-a", "counter-b"];

/// Says which life it is and counts, and tells a file what it has said before it says more.
const COUNTER: &str = "trap 'exit 0' TERM; life=$(cat /proc/sys/kernel/random/uuid); i=0; \
    while :; do echo $life n$i; echo $i > /told/$life; i=$((i+1)); [ $((i % 20)) != 0 ] || usleep 20000; done";

/// SplitMix64 (Steele, Lea, Flood 2014): enough chance for choosing, and the same again from the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn of<T: Copy>(&mut self, things: &[T]) -> Option<T> {
        let bound = u64::try_from(things.len()).ok().filter(|bound| *bound > 0)?;
        usize::try_from(self.below(bound)).ok().and_then(|at| things.get(at).copied())
    }
}

#[test]
fn nothing_is_lost_doubled_or_leaked_whatever_is_killed() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = asked("ROUNDS").unwrap_or(ROUNDS);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = asked("SEED").unwrap_or(now);
    eprintln!("torture: SEED={seed} ROUNDS={rounds}");
    let mut torture = Torture::start(seed);
    for round in 1..=rounds {
        for _ in 0..ACTS {
            torture.act();
        }
        if round.is_multiple_of(6) || round == rounds {
            torture.settle();
            eprintln!("torture: round {round}: as it should be ({})", torture.done());
        }
    }
    torture.end();
}

struct Torture {
    node: TestNode,
    chance: Chance,
    /// Brief pods by number, with how often they were changed.
    brief: BTreeMap<u64, u64>,
    changes: u64,
    keeper_killed: bool,
    acts: BTreeMap<&'static str, u64>,
    /// Reads the log of the daemon that prints a lot, where there is one.
    reader: Option<chatty::Reader>,
}

impl Torture {
    fn start(seed: u64) -> Self {
        let chatty = std::env::var_os("CHATTY").is_some();
        let (size, files) = if chatty { (chatty::MAX_SIZE, chatty::MAX_FILES) } else { ("128Ki", "1000") };
        let node = TestNode::builder().flag("--log-max-size", size).flag("--log-max-files", files);
        let node = node.flag("--log-budget", "4Gi").start();
        let counting = |name: &str, document: Document| {
            let document = document.script(COUNTER).pod_field("terminationGracePeriodSeconds", json!(2));
            let told = node.dir().join("told").join(name);
            document.host_path(told.to_str().expect("a path in UTF-8"), "DirectoryOrCreate", "/told").text()
        };
        node.put("counter-a.yaml", &counting("counter-a", pod("counter-a")));
        node.put("counter-b.yaml", &counting("counter-b", pod("counter-b").own_network()));
        node.put("fails.yaml", &pod("fails").script("exit 1").text());
        let reader = chatty.then(|| {
            let document = pod("chatty").script(chatty::SCRIPT);
            node.put("chatty.yaml", &document.pod_field("terminationGracePeriodSeconds", json!(2)).text());
            chatty::Reader::start(node.log_dir().join("pods"))
        });
        let mut it = Torture {
            reader,
            node,
            chance: Chance(seed),
            brief: BTreeMap::new(),
            changes: 0,
            keeper_killed: false,
            acts: BTreeMap::new(),
        };
        it.change_daemon_set();
        it.settle();
        it
    }

    fn done(&self) -> String {
        self.acts.iter().map(|(act, count)| format!("{count} {act}")).collect::<Vec<_>>().join(", ")
    }

    /// One act and a pause.
    fn act(&mut self) {
        let what = match self.chance.below(20) {
            0..3 => self.agent_killed(),
            3 => {
                self.node.stop_agent();
                self.node.start_agent();
                "agent restarted"
            }
            4..6 => self.containerd_killed(),
            6..8 => self.kill("shim killed", |it| it.node.shims()),
            8 => {
                self.keeper_killed = true;
                self.kill("log keeper killed", |it| it.node.keeper().into_iter().collect())
            }
            9..11 => self.kill("container killed", |it| it.containers().into_values().flatten().collect()),
            11..13 => self.kill("plugin or runtime killed", |it| {
                let mut found = in_network(it.node.id());
                found.retain(|process| {
                    let line = process.command_line();
                    let program = line.split(' ').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
                    ["runc", "bridge", "host-local", "loopback", "portmap"].contains(&program)
                });
                found
            }),
            13..16 => self.put_brief(),
            16..19 => self.remove_brief(),
            _ => self.change_daemon_set(),
        };
        *self.acts.entry(what).or_default() += 1;
        let time = self.chance.below(PAUSE_MAX);
        pause(Duration::from_millis(time));
    }

    fn agent_killed(&mut self) -> &'static str {
        self.node.kill_agent();
        let away = self.chance.below(PAUSE_MAX);
        pause(Duration::from_millis(away));
        self.node.start_agent();
        "agent killed"
    }

    fn containerd_killed(&mut self) -> &'static str {
        self.node.kill_containerd();
        let away = self.chance.below(PAUSE_MAX);
        pause(Duration::from_millis(away));
        self.node.start_containerd();
        "containerd killed"
    }

    fn kill(&mut self, what: &'static str, among: impl Fn(&Self) -> Vec<Process>) -> &'static str {
        if let Some(process) = self.chance.of(&among(self)) {
            process.signal(Signal::SIGKILL);
        }
        what
    }

    fn put_brief(&mut self) -> &'static str {
        let number = self.chance.below(BRIEF);
        let change = self.brief.entry(number).or_default();
        *change += 1;
        let name = format!("brief-{number}");
        let document =
            pod(&name).env("CHANGE", &change.to_string()).pod_field("terminationGracePeriodSeconds", json!(1));
        let document = if number.is_multiple_of(2) { document.own_network() } else { document };
        self.node.put(&format!("{name}.yaml"), &document.text());
        "manifest written"
    }

    fn remove_brief(&mut self) -> &'static str {
        let numbers: Vec<u64> = self.brief.keys().copied().collect();
        if let Some(number) = self.chance.of(&numbers) {
            self.brief.remove(&number);
            self.node.remove(&format!("brief-{number}.yaml"));
        }
        "manifest removed"
    }

    fn change_daemon_set(&mut self) -> &'static str {
        self.changes += 1;
        let document = daemon_set("changing").env("CHANGE", &self.changes.to_string()).own_network();
        self.node.put("changing.yaml", &document.pod_field("terminationGracePeriodSeconds", json!(1)).text());
        "template changed"
    }

    /// Names of the pods that run in the end, without what the node adds.
    fn wanted(&self) -> BTreeSet<String> {
        let brief = self.brief.keys().map(|number| format!("brief-{number}"));
        let chatty = self.reader.iter().map(|_| "chatty".to_owned());
        ["counter-a", "counter-b", "changing"].map(str::to_owned).into_iter().chain(brief).chain(chatty).collect()
    }

    /// The first process of each running container, by the container's id.
    fn containers(&self) -> BTreeMap<String, Option<Process>> {
        let tasks = self.node.ctr(&["tasks", "ls"]).out;
        let rows = tasks.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (id, pid, state) = (fields.next()?, fields.next()?, fields.next()?);
            (state == "RUNNING").then(|| (id.to_owned(), pid.parse().ok().and_then(Process::find)))
        });
        rows.collect()
    }

    /// Waits until everything that is wanted runs, once, and nothing else does, and looks at the logs.
    fn settle(&mut self) {
        if self.reader.as_ref().is_some_and(|reader| !reader.is_content()) {
            let found = self.reader.take().map(chatty::Reader::end);
            panic!("the log of chatty: {found:?}");
        }
        self.node.wait_agent();
        let wanted = self.wanted();
        let pods = wait_within(SETTLED, "everything wanted runs, and nothing else", || self.settled(&wanted));
        for name in COUNTERS {
            let pod = pods.iter().find(|pod| pod.name().starts_with(name)).expect("it was waited for");
            // What was told by now is in a pipe at least.
            let told = self.told(name);
            wait_within(PATIENCE, &format!("the log of {name} has what it said"), || {
                let logged = self.logged(pod);
                let missing = told.iter().find(|(life, said)| logged.get(*life).is_none_or(|logged| logged < said));
                match missing.filter(|_| !self.keeper_killed) {
                    Some((life, said)) => Err(format!("{life} said {said}, logged is {:?}", logged.get(life))),
                    None => Ok(()),
                }
            });
        }
    }

    fn settled(&self, wanted: &BTreeSet<String>) -> Result<Vec<Pod>, String> {
        let answer = self.node.get("/pods").map_err(|why| why.to_string())?;
        if answer.status != 200 {
            return Err(format!("/pods answers {}", answer.status));
        }
        let mut pods: Vec<Pod> = answer.json()["items"].as_array().into_iter().flatten().cloned().map(Pod).collect();
        pods.retain(|pod| !pod.name().starts_with("fails"));
        let running: BTreeSet<String> =
            pods.iter().filter(|pod| pod.running() && pod.ready()).map(|pod| pod.container_id("")).collect();
        let of_wanted =
            |name: &String| pods.iter().filter(|pod| pod.name().starts_with(&format!("{name}-"))).count() == 1;
        if running.len() != wanted.len() || pods.len() != wanted.len() || !wanted.iter().all(of_wanted) {
            return Err(format!("wanted {wanted:?}, there are\n{}", summary(&pods)));
        }
        let tasks: BTreeMap<_, _> = self.containers();
        // The one that fails may just be alive.
        let fails = self.node.pods_of("fails").iter().map(|pod| pod.container_id("")).collect::<BTreeSet<_>>();
        let alive: BTreeSet<String> = tasks.keys().filter(|id| !fails.contains(*id)).cloned().collect();
        if alive != running {
            return Err(format!("containers that run: {alive:?}, that the agent says run: {running:?}"));
        }
        Ok(pods)
    }

    /// How far each life of a counter had got when it had last said so.
    fn told(&self, name: &str) -> BTreeMap<String, u64> {
        let files = fs::read_dir(self.node.dir().join("told").join(name)).into_iter().flatten().flatten();
        let of = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse().ok();
        files.filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), of(entry.path())?))).collect()
    }

    /// The last number of each life that the pod's log files tell of. Each life is told from its first line on, in order, once, in one
    /// attempt's files, without a gap or a torn line that no marker explains.
    fn logged(&self, pod: &Pod) -> BTreeMap<String, u64> {
        let active = self.node.log_file(pod, "main", 0);
        let dir = active.parent().expect("a file lies in a directory");
        // A rotation between the list and the reading would hide a file: then both again.
        let texts = wait_within(PATIENCE, "log files that are not rotated while they are read", || {
            let listed = attempts(dir);
            let text = |files: &Vec<PathBuf>| {
                files.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect::<String>()
            };
            let texts: BTreeMap<u64, String> = listed.iter().map(|(attempt, files)| (*attempt, text(files))).collect();
            if attempts(dir) == listed { Ok(texts) } else { Err("they were".to_owned()) }
        });
        let mut lives: BTreeMap<String, u64> = BTreeMap::new();
        for (attempt, text) in texts {
            let mut life: Option<(String, u64)> = None;
            let mut markers = 0;
            // The last line may be in the making.
            for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                let at = format!("{} attempt {attempt}: {line}", pod.name());
                let said = line.splitn(4, ' ').nth(3).unwrap_or_default();
                let parsed = said.split_once(" n").and_then(|(life, number)| Some((life, number.parse::<u64>().ok()?)));
                let Some((uuid, number)) = parsed.filter(|(uuid, _)| uuid.len() == 36) else {
                    markers += 1;
                    assert!(self.keeper_killed, "neither a number nor a marker's time: {at}");
                    continue;
                };
                match &mut life {
                    None => {
                        assert!(number == 0 || markers > 0, "its beginning is lost: {at}");
                        assert!(!lives.contains_key(uuid), "one life in two attempts: {at}");
                        life = Some((uuid.to_owned(), number));
                    }
                    Some((known, last)) => {
                        assert_eq!(known, uuid, "two lives in one attempt: {at}");
                        assert!(number > *last && (number == *last + 1 || markers > 0), "after {last}: {at}");
                        *last = number;
                    }
                }
            }
            lives.extend(life);
        }
        lives
    }

    /// Takes everything away and looks for what is left.
    fn end(mut self) {
        if let Some(reader) = self.reader.take() {
            // Ends its pod and leaves its log where it is.
            let drained = self.node.cli(&["drain"]);
            assert_eq!(drained.code, 0, "{}", drained.err);
            let (read, took) = reader.end().expect("every line of chatty is accounted for");
            let (megabytes, seconds) = (read.bytes >> 20, took.as_secs().max(1));
            eprintln!(
                "torture: chatty: {megabytes} MiB in {seconds} s ({} MiB a minute): {read:?}",
                megabytes * 60 / seconds
            );
        }
        for entry in fs::read_dir(self.node.manifest_dir()).into_iter().flatten().flatten() {
            fs::remove_file(entry.path()).expect("the manifest was there");
        }
        wait_within(SETTLED, "nothing of a pod is left", || Traces::of(&self.node).none());
    }
}

/// The log files of each attempt, oldest first.
fn attempts(dir: &Path) -> BTreeMap<u64, Vec<PathBuf>> {
    let mut found: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let attempt = name.split_once(".log").and_then(|(number, _)| number.parse().ok());
        if let Some(attempt) = attempt {
            found.entry(attempt).or_default().push(entry.path());
        }
    }
    for (attempt, files) in &mut found {
        let active = format!("{attempt}.log");
        // Rotated files carry their time in the name, the active one none.
        files.sort_by_key(|path| (path.file_name().is_some_and(|name| *name == *active), path.clone()));
    }
    found
}
