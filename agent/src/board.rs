//! The board: what the core publishes and everybody at the edge reads.
//!
//! Workers, sources and the composition root write; the doors (http, metrics) read and wait for the version to move.
//! Cheap to clone. Latest wins: a reader that is slow misses intermediate states, never the last one. Nothing here is
//! decided, and of what is here only events outlive the process ([`kept`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use hyper::body::Bytes;
use pod::desired::{UpdateStrategy, Wanted};
use pod::name::{Uid, WorkloadKey};
use pod::plan::{Failure, PodView, StepKey, Waiting};
use pod::spec::Taint;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::{Cidr, Live};
use crate::events::{Event, Events, Seen, kept};
use crate::exec::serve::ExecRequest;
use crate::image_pull::ImagePull;
use crate::metrics::Metrics;

/// Commands that wait for the composition root; a person types them one at a time.
pub const COMMANDS_MAX: usize = 16;

/// How long after a start readers wait for what is known on disk: less than a scraper's patience, and far more than a
/// container runtime needs that is well.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// What one worker says of its workload.
#[derive(Debug, Clone)]
pub struct Published {
    pub wanted: WantedSummary,
    /// The runtime has said at least once since the agent's start what runs; before that the pods are as their records say.
    pub known: bool,
    /// Oldest first, as the last plan saw them.
    pub pods: Vec<PodView>,
    /// In the order of importance.
    pub waiting: Vec<Waiting>,
    pub failures: BTreeMap<StepKey, Failure>,
    /// Pods whose shim does not answer, and since when.
    pub silent: BTreeMap<pod::name::Uid, pod::time::Now>,
    /// A pod of the control endpoint stands without a service account token that its volumes are to show.
    pub lacks_token: bool,
    /// When that was, on the boot clock: what the moments in `waiting` and in the records are compared with.
    pub now: pod::time::Now,
}

/// [`Wanted`], without the pod.
#[derive(Debug, Clone, PartialEq)]
pub enum WantedSummary {
    Run { revision: String, update: UpdateStrategy },
    Hold { reason: String },
    Gone,
}

impl From<&Wanted> for WantedSummary {
    fn from(wanted: &Wanted) -> WantedSummary {
        match wanted {
            Wanted::Run(desired) => WantedSummary::Run { revision: desired.revision.clone(), update: desired.update },
            Wanted::Hold { reason } | Wanted::Forbidden { reason } => WantedSummary::Hold { reason: reason.clone() },
            Wanted::End { .. } | Wanted::Gone => WantedSummary::Gone,
        }
    }
}

/// What became of one document of a manifest file, or of the file where it has no readable document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileOutcome {
    /// The path as the user knows it.
    pub file: String,
    /// The document's first line, or the line of the fault; 0 where the whole file is meant.
    pub line: u32,
    /// `Pod`, `DaemonSet`, `ConfigMap` …; empty where it could not be read.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub state: FileState,
    /// Why, in words; empty for what simply runs. Several faults: one a line, `field.path: reason`.
    pub message: String,
}

/// The verdict on a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileState {
    /// Accepted; its pod is wanted on this node.
    Accepted,
    /// Accepted; its template does not belong on this node.
    NotPlaced,
    /// Accepted without effect (ServiceAccount, RBAC, Service …).
    NoEffect,
    /// Refused by a field, or unreadable; the last good version stays.
    Refused,
    /// Another document has the same claim.
    Conflict,
    /// Beyond --max-pods: Kubernetes' word.
    #[serde(rename = "OutOfpods")]
    OutOfPods,
    /// Not read: not a manifest by its name, or a FIFO, a directory, a device.
    Ignored,
}

/// What became of one archive in the image directory, or an image that came otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageOutcome {
    /// Never removed to make room.
    #[serde(default)]
    pub pinned: bool,
    /// The archive's path; empty for an image that no archive brought.
    pub file: String,
    /// Canonical references that it brought.
    pub names: Vec<String>,
    /// `sha256:…` of the manifest for this platform; empty where there is none.
    pub digest: String,
    /// Bytes of the image's blobs.
    pub size: u64,
    pub state: ImageState,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageState {
    Importing,
    /// From an archive, or present otherwise.
    Imported,
    Refused,
    /// From a registry, now.
    Pulling,
    /// The last pull failed; the next one waits for its time.
    BackOff,
}

/// What is known of this node. Labels, taints and log limits are in [`Live`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeFacts {
    pub name: String,
    /// `containerd://1.7.24`; None until it answered.
    pub runtime_version: Option<String>,
    /// `v1` or `v2`, and the driver: `v2/systemd`.
    pub cgroup: String,
    pub addresses: Vec<IpAddr>,
    pub boot_id: String,
    pub log_dir: PathBuf,
    pub manifest_dir: PathBuf,
    pub image_dir: PathBuf,
    pub state_dir: PathBuf,
    pub containerd: PathBuf,
    pub containerd_namespace: String,
    pub cni_bin_dirs: Vec<PathBuf>,
    pub cni_conf_dir: PathBuf,
    pub pod_cidrs: Vec<Cidr>,
    pub cgroup_root: String,
    pub registry_config: PathBuf,
    pub registry_auth: Option<PathBuf>,
    pub listen: String,
    pub max_pods: u32,
    /// What the node's shutdown leaves its pods, in seconds; 0: it does not wait for them.
    pub shutdown_grace: u64,
    /// Configured runtime classes, each with its runtime as it is written.
    pub runtime_classes: BTreeMap<String, String>,
    /// Capabilities that this process lacks and containers may ask for, without `CAP_`.
    pub missing_capabilities: Vec<String>,
    /// That containerd's disk is too full although every image that may go is gone, in words; None: it is not.
    pub disk_pressure: Option<String>,
}

/// How it stands with the control endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlFacts {
    pub endpoint: String,
    pub connected: bool,
    /// It is connected, or has not been tried yet.
    #[serde(skip)]
    pub may_answer: bool,
    /// Why not; empty where it is connected.
    pub why: String,
    /// The newest desired set that was accepted, `epoch/number`.
    pub generation: Option<String>,
}

/// What the control endpoint says beside its objects: labels and taints of its Node object, which count instead of the
/// configuration's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruling {
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Where its pods find the API, and on which port.
    pub api: Option<(String, u16)>,
}

/// The readiness checks, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The workers make progress.
    Loop,
    Containerd,
    SourceStatic,
    /// Only where a control endpoint is configured.
    SourceControl,
    Cni,
    /// Only while the node is drained, and then failed.
    Drain,
    /// Only while the node shuts down, and then failed.
    Shutdown,
}

impl Check {
    /// Those that every agent has.
    pub const ALL: [Check; 4] = [Check::Loop, Check::Containerd, Check::SourceStatic, Check::Cni];

    /// As in `/readyz/<name>`.
    pub fn name(self) -> &'static str {
        match self {
            Check::Loop => "loop",
            Check::Containerd => "containerd",
            Check::SourceStatic => "source-static",
            Check::SourceControl => "source-control",
            Check::Cni => "cni",
            Check::Drain => "drain",
            Check::Shutdown => "shutdown",
        }
    }
}

/// What a person asks of the workers.
#[derive(Debug)]
pub enum Command {
    /// End this pod; a successor follows where one is wanted. The reply comes once termination is on record; where the disk
    /// does not take it, a sentence says what that means. Err with a sentence where it cannot begin.
    DeletePod { workload: WorkloadKey, uid: Uid, reply: oneshot::Sender<Result<String, String>> },
    /// End this pod, which has used more of the disk than it allows itself; a successor follows where one is wanted.
    EvictPod { workload: WorkloadKey, uid: Uid, message: String },
    /// All pods stop and none starts, until it is said otherwise. The reply says what of it does not hold.
    Drain { on: bool, reply: oneshot::Sender<String> },
    /// What was missing may be there now: whatever waits after a failure is tried at once.
    Retry,
}

/// A word about images (`daemonlet images …`), as it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "lowercase")]
pub enum ImageWord {
    Pull {
        image: String,
        /// Of the Secrets.
        #[serde(default)]
        namespace: String,
        /// Names of Secrets with logins.
        #[serde(default)]
        secrets: Vec<String>,
    },
    Import {
        /// Absolute.
        file: PathBuf,
    },
    Export {
        images: Vec<String>,
    },
    Prune {
        dry_run: bool,
    },
    Pin {
        image: String,
        /// Or no longer.
        pinned: bool,
    },
}

/// A word about images, and where its answer goes piece by piece.
#[derive(Debug)]
pub struct ImageRequest {
    pub word: ImageWord,
    pub said: mpsc::Sender<Bytes>,
}

/// A join token that a person brings, and where the answer goes: a sentence either way.
#[derive(Debug)]
pub struct RejoinRequest {
    pub token: String,
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
    /// Set once, by whoever carries out the words about images.
    image_words: OnceLock<mpsc::Sender<ImageRequest>>,
    /// Set once, by whoever carries out people's commands in containers.
    execs: OnceLock<mpsc::Sender<ExecRequest>>,
    /// Set once, where a control endpoint is configured.
    rejoins: OnceLock<mpsc::Sender<RejoinRequest>>,
    /// Moves with every event.
    recorded: watch::Sender<()>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    workloads: BTreeMap<WorkloadKey, Arc<Published>>,
    files: Arc<Vec<FileOutcome>>,
    images: Arc<Vec<ImageOutcome>>,
    pulls: Arc<Vec<ImagePull>>,
    node: NodeFacts,
    live: Live,
    needs_restart: Vec<String>,
    config_fault: Option<String>,
    checks: BTreeMap<Check, Result<(), String>>,
    events: Events,
    awaited: Awaited,
    control: Option<Arc<ControlFacts>>,
    ruling: Option<Arc<Ruling>>,
    merged: u64,
    /// Since when each condition of the node is True, or is not.
    conditions: BTreeMap<String, (bool, jiff::Timestamp)>,
}

impl State {
    /// Notes which conditions have become other ones.
    fn stamp(&mut self) {
        let State { checks, node, needs_restart, .. } = &*self;
        let now = [
            ("Ready", checks.values().all(Result::is_ok)),
            ("NeedsRestart", !needs_restart.is_empty()),
            ("MissingCapabilities", !node.missing_capabilities.is_empty()),
            ("Drained", checks.contains_key(&Check::Drain)),
            ("DiskPressure", node.disk_pressure.is_some()),
        ];
        for (kind, holds) in now {
            self.since(kind, holds);
        }
    }

    /// Since when this condition holds or does not; of one that nobody has asked for: from now on.
    fn since(&mut self, kind: &str, holds: bool) -> jiff::Timestamp {
        match self.conditions.get(kind) {
            Some((known, since)) if *known == holds => *since,
            _ => {
                let now = jiff::Timestamp::now();
                self.conditions.insert(kind.to_owned(), (holds, now));
                now
            }
        }
    }
}

/// What was known before this agent started and has not been looked at by it yet.
#[derive(Debug, Default)]
struct Awaited {
    workloads: BTreeSet<WorkloadKey>,
    files: bool,
    /// None: nothing was ever awaited.
    until: Option<Instant>,
}

impl Board {
    /// A board on which every check has failed ("not looked at yet"), and the end at which commands come out.
    pub fn new() -> (Board, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let unknown = || Err("not looked at yet".to_owned());
        let state = State {
            workloads: BTreeMap::new(),
            files: Arc::default(),
            images: Arc::default(),
            pulls: Arc::default(),
            node: NodeFacts::default(),
            live: Live::default(),
            needs_restart: Vec::new(),
            config_fault: None,
            checks: Check::ALL.into_iter().map(|check| (check, unknown())).collect(),
            events: Events::default(),
            awaited: Awaited::default(),
            control: None,
            ruling: None,
            merged: 0,
            conditions: BTreeMap::new(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            version: watch::Sender::new(0),
            commands,
            image_words: OnceLock::new(),
            execs: OnceLock::new(),
            rejoins: OnceLock::new(),
            recorded: watch::Sender::new(()),
            metrics: Metrics::default(),
        };
        (Board { shared: Arc::new(shared) }, receiver)
    }

    /// The agent has just started, with pods of these workloads on record: [`Board::settled`] waits for their first
    /// [`Board::publish`] and for the files.
    pub fn await_first_look(&self, recorded: impl IntoIterator<Item = WorkloadKey>) {
        let workloads = recorded.into_iter().collect();
        self.change(|state| {
            state.awaited = Awaited { workloads, files: true, until: Some(Instant::now() + SETTLE_MAX) };
        });
    }

    /// Returns once the board shows at least what was known on disk at the start, in its true state; after
    /// [`SETTLE_MAX`] in any case, with what there is.
    pub async fn settled(&self) {
        let Some(until) = self.state().awaited.until else { return };
        let mut version = self.version();
        let all = async {
            loop {
                let done = {
                    let awaited = &self.state().awaited;
                    awaited.workloads.is_empty() && !awaited.files
                };
                if done || version.changed().await.is_err() {
                    return;
                }
            }
        };
        // Too late: a reader who comes after the bound is answered at once.
        let _late = tokio::time::timeout_at(until, all).await;
    }

    /// Whether everything that was known on disk at the start has been looked at.
    pub fn is_settled(&self) -> bool {
        let awaited = &self.state().awaited;
        awaited.workloads.is_empty() && !awaited.files
    }

    /// What a worker knows from its records before it has looked.
    pub fn announce(&self, key: &WorkloadKey, published: Published) {
        self.change(|state| {
            state.workloads.insert(key.clone(), Arc::new(published));
        });
    }

    /// What a worker says now; None takes its workload off the board.
    pub fn publish(&self, key: &WorkloadKey, published: Option<Published>) {
        self.change(|state| {
            state.awaited.workloads.remove(key);
            match published {
                Some(published) => {
                    state.workloads.insert(key.clone(), Arc::new(published));
                }
                None => {
                    state.workloads.remove(key);
                }
            }
        });
    }

    /// What became of every document, replacing what was said before.
    pub fn set_files(&self, files: Vec<FileOutcome>) {
        self.change(|state| {
            state.awaited.files = false;
            state.files = Arc::new(files);
        });
    }

    /// What became of every image archive, replacing what was said before.
    pub fn set_images(&self, images: Vec<ImageOutcome>) {
        self.change(|state| state.images = Arc::new(images));
    }

    /// Pulls under way and those that wait for their next try, replacing what was said before.
    pub fn set_pulls(&self, pulls: Vec<ImagePull>) {
        self.change(|state| state.pulls = Arc::new(pulls));
    }

    pub fn set_node(&self, change: impl FnOnce(&mut NodeFacts)) {
        self.change(|state| change(&mut state.node));
    }

    /// Whether the disk is too full and no image can be removed; wakes nobody when nothing changed.
    pub fn set_node_disk(&self, pressure: Option<String>) {
        if self.state().node.disk_pressure != pressure {
            self.set_node(|node| node.disk_pressure = pressure);
        }
    }

    /// The live part of the configuration, the changed keys that wait for a restart, and why the file could not be
    /// taken when it could not.
    pub fn set_live(&self, live: Live, needs_restart: Vec<String>, fault: Option<String>) {
        self.change(|state| {
            state.live = live;
            state.needs_restart = needs_restart;
            state.config_fault = fault;
        });
    }

    /// How it stands with the control endpoint; wakes nobody when nothing changed.
    pub fn set_control(&self, change: impl FnOnce(&mut ControlFacts)) {
        let Some(known) = self.control() else { return };
        let mut facts = ControlFacts::clone(&known);
        change(&mut facts);
        if facts != *known {
            self.change(|state| state.control = Some(facts.into()));
        }
    }

    /// There is a control endpoint, which has not been reached yet.
    pub fn expect_control(&self, endpoint: String) {
        let why = "not reached yet".to_owned();
        let facts = ControlFacts { endpoint, connected: false, may_answer: true, why, generation: None };
        self.change(|state| state.control = Some(facts.into()));
    }

    /// The control endpoint's labels and taints, and the number of its snapshot up to which all of it has been merged.
    pub fn set_merged(&self, ruling: Option<Arc<Ruling>>, snapshot: u64) {
        self.change(|state| (state.ruling, state.merged) = (ruling, snapshot));
    }

    pub fn set_check(&self, check: Check, outcome: Result<(), String>) {
        let same = self.state().checks.get(&check) == Some(&outcome);
        if !same {
            self.change(|state| {
                state.checks.insert(check, outcome);
            });
        }
    }

    /// A check that is no longer one.
    pub fn clear_check(&self, check: Check) {
        if self.state().checks.contains_key(&check) {
            self.change(|state| {
                state.checks.remove(&check);
            });
        }
    }

    pub fn record(&self, event: Event) {
        self.change(|state| state.events.record(event));
        self.shared.recorded.send_replace(());
    }

    /// What an earlier agent knew, before anything is recorded.
    pub fn restore_events(&self, known: kept::Known) {
        self.change(|state| state.events.restore(known));
    }

    /// Moves with every event.
    pub fn events_recorded(&self) -> watch::Receiver<()> {
        self.shared.recorded.subscribe()
    }

    /// The ring as it stands, without a copy of it.
    pub fn with_events<T>(&self, read: impl FnOnce(&Events) -> T) -> T {
        read(&self.state().events)
    }

    /// Hands a pod's end to the workers and waits for their answer.
    pub async fn delete_pod(&self, workload: WorkloadKey, uid: Uid) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let command = Command::DeletePod { workload, uid, reply };
        self.shared.commands.send(command).await.map_err(|_| "the agent is stopping".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the agent stopped before it answered".into()))
    }

    /// Drains the node, or ends that. Ok with what of it does not hold.
    pub async fn drain(&self, on: bool) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        self.shared
            .commands
            .send(Command::Drain { on, reply })
            .await
            .map_err(|_| "the agent is stopping".to_owned())?;
        answer.await.map_err(|_| "the agent stopped before it answered".into())
    }

    /// Hands the end of a pod that exceeds its own limit to the workers. Where nobody listens any more, nobody is there to
    /// end it.
    pub async fn evict_pod(&self, workload: WorkloadKey, uid: Uid, message: String) {
        let _ = self.shared.commands.send(Command::EvictPod { workload, uid, message }).await;
    }

    /// From here on words about images are carried out at the other end. Once.
    pub fn take_image_words(&self) -> mpsc::Receiver<ImageRequest> {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let set = self.shared.image_words.set(sender);
        set.expect("the composition root does this once");
        receiver
    }

    /// Where join tokens that people bring (`rejoin`) come out; to be taken once.
    pub fn take_rejoins(&self) -> mpsc::Receiver<RejoinRequest> {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let set = self.shared.rejoins.set(sender);
        set.expect("the composition root does this once");
        receiver
    }

    /// Joins the control endpoint anew with this token. Err: a sentence.
    pub async fn rejoin(&self, token: String) -> Result<String, String> {
        let none = "no control endpoint is configured: see --control";
        let sender = self.shared.rejoins.get().ok_or(none)?;
        let (reply, answer) = oneshot::channel();
        sender.send(RejoinRequest { token, reply }).await.map_err(|_| "the agent is stopping".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the agent stopped before it answered".into()))
    }

    /// Hands on a word about images. Err: the agent cannot take any at present.
    pub fn image_word(&self, request: ImageRequest) -> Result<(), String> {
        let sender = self.shared.image_words.get().ok_or("the agent is just starting; ask again")?;
        sender.try_send(request).map_err(|_| "too many words about images are under way; ask again later".to_owned())
    }

    /// Where people's commands in containers come out; to be taken once.
    pub fn take_execs(&self) -> mpsc::Receiver<ExecRequest> {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let set = self.shared.execs.set(sender);
        set.expect("the composition root does this once");
        receiver
    }

    /// Hands on a command for a container. Err: the agent cannot take any at present.
    pub fn exec(&self, request: ExecRequest) -> Result<(), String> {
        let sender = self.shared.execs.get().ok_or("the agent is just starting; ask again")?;
        sender.try_send(request).map_err(|_| "too many commands are on their way; ask again".to_owned())
    }

    /// Has the workers try again what failed. Not said twice where nobody listens just now: back-off does the rest.
    pub fn retry(&self) {
        let _ = self.shared.commands.try_send(Command::Retry);
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Moves with every change; subscribe before reading, so that nothing is missed.
    /// How many are told of each change.
    #[cfg(test)]
    pub fn followers(&self) -> usize {
        self.shared.version.receiver_count()
    }

    pub fn version(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    pub fn workloads(&self) -> BTreeMap<WorkloadKey, Arc<Published>> {
        self.state().workloads.clone()
    }

    pub fn files(&self) -> Arc<Vec<FileOutcome>> {
        self.state().files.clone()
    }

    pub fn images(&self) -> Arc<Vec<ImageOutcome>> {
        self.state().images.clone()
    }

    pub fn pulls(&self) -> Arc<Vec<ImagePull>> {
        self.state().pulls.clone()
    }

    pub fn node(&self) -> NodeFacts {
        self.state().node.clone()
    }

    pub fn live(&self) -> Live {
        self.state().live.clone()
    }

    pub fn needs_restart(&self) -> Vec<String> {
        self.state().needs_restart.clone()
    }

    pub fn config_fault(&self) -> Option<String> {
        self.state().config_fault.clone()
    }

    pub fn control(&self) -> Option<Arc<ControlFacts>> {
        self.state().control.clone()
    }

    pub fn ruling(&self) -> Option<Arc<Ruling>> {
        self.state().ruling.clone()
    }

    /// The number of the control endpoint's snapshot that was merged last.
    pub fn merged(&self) -> u64 {
        self.state().merged
    }

    /// Since when this condition of the node holds, or does not.
    pub fn condition_since(&self, kind: &str, holds: bool) -> jiff::Timestamp {
        self.state().since(kind, holds)
    }

    pub fn checks(&self) -> BTreeMap<Check, Result<(), String>> {
        self.state().checks.clone()
    }

    pub fn events(&self) -> Vec<Seen> {
        self.state().events.list()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.stamp();
        drop(state);
        self.shared.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held ends the process in release builds, and in tests the values are still whole.
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_failed_until_somebody_looked() {
        let (board, _commands) = Board::new();
        assert!(board.checks().values().all(Result::is_err));
        board.set_check(Check::Containerd, Ok(()));
        assert_eq!(board.checks()[&Check::Containerd], Ok(()));
    }

    #[test]
    fn an_unchanged_check_wakes_nobody() {
        let (board, _commands) = Board::new();
        board.set_check(Check::Loop, Ok(()));
        let before = *board.version().borrow();
        board.set_check(Check::Loop, Ok(()));
        assert_eq!(*board.version().borrow(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_wait_for_the_first_look_at_everything_on_record_and_not_for_ever() {
        let (board, _commands) = Board::new();
        let waits = async || tokio::time::timeout(Duration::from_millis(1), board.settled()).await.is_err();
        assert!(!waits().await, "nothing is awaited");
        let key =
            |name: &str| WorkloadKey { namespace: "a".into(), kind: pod::name::WorkloadKind::Pod, name: name.into() };
        board.await_first_look([key("a"), key("b")]);
        let (_, published) = crate::status::sample::running();
        board.announce(&key("a"), published.clone());
        board.publish(&key("b"), None);
        board.set_files(Vec::new());
        assert!(waits().await, "the first pod is only announced");
        board.publish(&key("a"), Some(published));
        assert!(!waits().await);
        board.await_first_look([key("a")]);
        let began = Instant::now();
        board.settled().await;
        assert_eq!(began.elapsed(), SETTLE_MAX);
        assert!(!waits().await, "the bound has passed");
    }

    #[tokio::test]
    async fn a_command_without_workers_is_an_answer_not_a_hang() {
        let (board, commands) = Board::new();
        drop(commands);
        let key = WorkloadKey { namespace: "a".into(), kind: pod::name::WorkloadKind::Pod, name: "b".into() };
        let answer = board.delete_pod(key, Uid("u".into())).await;
        assert_eq!(answer, Err("the agent is stopping".into()));
    }
}
