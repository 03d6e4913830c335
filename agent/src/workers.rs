//! All workers: one for every workload that is wanted, recorded or running. Hands out what is wanted, routes wakes,
//! finds what nobody owns. Decides nothing about pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pod::desired::{DesiredSet, Wanted};
use pod::merge::Recorded;
use pod::name::{Uid, WorkloadKey};
use pod::observed::ObservedContainer;
use pod::record::Record;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

use crate::board::{Check, Command};
use crate::seams::{Clock, Leave, Machine, Runtime, Sandboxes, Wake};
use crate::worker::{Nudge, REQUESTS_MAX, Request, Shared, Worker};

/// How often everybody looks even though nothing woke them: the safety net under the event streams.
const FULL_LOOK: Duration = Duration::from_secs(300);

/// How often the loop shows that it moves, even when nothing happens: a third of the shortest watchdog that makes sense.
pub const BEAT: Duration = Duration::from_secs(10);

/// How often the runtime is asked whether it answers at all: one that is stopped, not dead, breaks no connection, and
/// /readyz is to say so within seconds.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// So many of them without an answer are a silence, after which everybody looks. One alone is a runtime that has much to do, and
/// is not to get more of it.
const SILENT_PROBES: u32 = 2;

/// How soon an unanswered look for strays is tried again while the runtime is away.
const SWEEP_RETRY: Duration = Duration::from_secs(10);

/// Which worker a container belongs to, and which uids are spoken for. Shared by all workers.
#[derive(Debug, Default)]
pub struct Directory {
    state: Mutex<DirectoryState>,
    /// Moves when a pod is gone: a name or a place has become free.
    freed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct DirectoryState {
    containers: HashMap<String, (WorkloadKey, Uid)>,
    uids: BTreeMap<Uid, Recorded>,
}

impl Directory {
    /// The container's events go to this workload's worker.
    pub fn own(&self, id: &str, uid: &Uid, key: &WorkloadKey) {
        self.state().containers.insert(id.to_owned(), (key.clone(), uid.clone()));
    }

    pub fn disown(&self, id: &str) {
        self.state().containers.remove(id);
    }

    fn owner(&self, id: &str) -> Option<WorkloadKey> {
        self.state().containers.get(id).map(|(key, _)| key.clone())
    }

    /// The uid has, or is about to have, this record.
    pub fn claim(&self, record: &Record) {
        self.state().uids.insert(record.uid.clone(), Recorded::from(record));
    }

    /// The pod is gone, and with it every run of it: also those whose creation never succeeded.
    pub fn unclaim(&self, uid: &Uid) {
        let mut state = self.state();
        state.uids.remove(uid);
        state.containers.retain(|_, (_, of)| of != uid);
        drop(state);
        self.freed.send_replace(());
    }

    /// Whether there is, or is about to be, a record with this uid.
    pub fn is_claimed(&self, uid: &Uid) -> bool {
        self.state().uids.contains_key(uid)
    }

    /// What the merge has to know of all records.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.state().uids.values().cloned().collect()
    }

    /// Uid and name of the workload's pods that are not on their way out.
    pub fn pods_of(&self, workload: &WorkloadKey) -> Vec<(Uid, String)> {
        let state = self.state();
        let live = state.uids.iter().filter(|(_, recorded)| recorded.live && recorded.workload == *workload);
        live.map(|(uid, recorded)| (uid.clone(), recorded.name.clone())).collect()
    }

    /// Changes whenever a pod is gone.
    pub fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, DirectoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the top of the file.
pub struct Workers<M: Machine> {
    shared: Arc<Shared<M>>,
    desired: watch::Receiver<DesiredSet>,
    commands: mpsc::Receiver<Command>,
    workers: BTreeMap<WorkloadKey, Seat>,
    tasks: JoinSet<()>,
    by_task: HashMap<Id, WorkloadKey>,
    /// The look for strays under way: beside the loop, because the runtime may take its time to answer. At most one.
    sweep: JoinSet<Option<Found>>,
    /// The question whether the runtime answers, under way: true, it does. At most one.
    probe: JoinSet<bool>,
    /// Drains that are being written down.
    drains: JoinSet<()>,
    /// Probes in a row that got no answer.
    unanswered: u32,
}

/// What a look for strays found: None of it is in the directory.
struct Found {
    containers: Vec<ObservedContainer>,
    /// Uids of sandboxes without containers.
    sandboxes: Vec<Uid>,
}

/// A worker as its owner sees it.
struct Seat {
    wanted: watch::Sender<Wanted>,
    requests: mpsc::Sender<Box<Request>>,
    nudge: Arc<Nudge>,
}

impl<M: Machine> Workers<M> {
    pub fn new(
        shared: Arc<Shared<M>>,
        desired: watch::Receiver<DesiredSet>,
        commands: mpsc::Receiver<Command>,
    ) -> Workers<M> {
        let (workers, tasks, by_task) = (BTreeMap::new(), JoinSet::new(), HashMap::new());
        Workers {
            shared,
            desired,
            commands,
            workers,
            tasks,
            by_task,
            sweep: JoinSet::new(),
            probe: JoinSet::new(),
            drains: JoinSet::new(),
            unanswered: 0,
        }
    }

    /// Runs until the agent stops: then the workers finish what is in flight and this returns. Calls `beat` at every turn of
    /// the loop, at least every [`BEAT`].
    pub async fn run(mut self, records: Vec<Record>, mut beat: impl FnMut()) {
        let Shared { machine, drain, turns, board, .. } = &*self.shared;
        drain.load(machine.files(), machine.boot_id(), turns, board).await;
        let mut by_key: BTreeMap<WorkloadKey, Vec<Record>> = BTreeMap::new();
        for record in records {
            self.shared.directory.claim(&record);
            by_key.entry(record.workload.clone()).or_default().push(record);
        }
        for (key, records) in by_key {
            self.seat(key, records);
        }
        self.distribute();
        let mut stopping = self.shared.stopping.clone();
        let mut next_sweep = self.shared.machine.clock().now().boot;
        let mut next_probe = next_sweep.after(PROBE_EVERY);
        loop {
            beat();
            let shared = self.shared.clone();
            let next_beat = shared.machine.clock().now().boot.after(BEAT);
            // Every arm may be dropped half-way: watches and channels keep what they hold, a wake that is dropped while
            // it waits has told nobody anything, and the timer is an absolute moment.
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                Some(joined) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => match joined {
                    Ok((id, ())) => self.ended(id),
                    Err(e) => panic!("a worker panicked: {e}"),
                },
                Some(written) = self.drains.join_next(), if !self.drains.is_empty() => {
                    written.expect("a drain that panicked is our own bug");
                }
                Some(found) = self.sweep.join_next(), if !self.sweep.is_empty() => {
                    let found = found.expect("a look that panicked is our own bug");
                    let again = if found.is_some() { FULL_LOOK } else { SWEEP_RETRY };
                    next_sweep = self.shared.machine.clock().now().boot.after(again);
                    self.adopt(found);
                }
                Some(answers) = self.probe.join_next(), if !self.probe.is_empty() => {
                    let answers = answers.expect("a probe that panicked is our own bug");
                    let now = self.shared.machine.clock().now().boot;
                    next_probe = now.after(PROBE_EVERY);
                    if answers && self.unanswered >= SILENT_PROBES {
                        // What failed meanwhile for want of an answer need not wait.
                        self.wake(Wake::All);
                        next_sweep = now;
                    }
                    self.unanswered = if answers { 0 } else { self.unanswered.saturating_add(1) };
                }
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.distribute(),
                    Err(_) => break,
                },
                wake = shared.machine.runtime().wake() => {
                    if self.wake(wake) {
                        next_sweep = self.shared.machine.clock().now().boot;
                    }
                }
                Some(command) = self.commands.recv() => self.command(command),
                () = shared.machine.clock().sleep_until(next_beat) => {}
                () = shared.machine.clock().sleep_until(next_probe), if self.probe.is_empty() => {
                    let shared = self.shared.clone();
                    self.probe.spawn(async move { version(&shared).await.is_some() });
                }
                () = shared.machine.clock().sleep_until(next_sweep), if self.sweep.is_empty() => {
                    self.sweep.spawn(look_for_strays(self.shared.clone()));
                }
            }
        }
        while let Some(joined) = self.tasks.join_next().await {
            joined.expect("a worker that panicked is our own bug");
        }
    }

    fn seat(&mut self, key: WorkloadKey, records: Vec<Record>) {
        let wanted = self.desired.borrow().wanted(&key);
        let (wanted, wanted_receiver) = watch::channel(wanted);
        let (requests, requests_receiver) = mpsc::channel(REQUESTS_MAX);
        let nudge = Arc::new(Nudge::default());
        let worker =
            Worker::new(key.clone(), self.shared.clone(), wanted_receiver, requests_receiver, nudge.clone(), records);
        let task = self.tasks.spawn(Box::new(worker).run());
        self.by_task.insert(task.id(), key.clone());
        self.workers.insert(key, Seat { wanted, requests, nudge });
    }

    fn ended(&mut self, id: Id) {
        if let Some(key) = self.by_task.remove(&id) {
            self.workers.remove(&key);
            // It may have been wanted again in the very moment in which it ended.
            // Only looked at: a set that has come meanwhile is still to be told to all the others.
            if matches!(self.desired.borrow().wanted(&key), Wanted::Run(_)) {
                self.seat(key, Vec::new());
            }
        }
    }

    /// Tells every worker what is wanted of it now, and seats those that are missing.
    fn distribute(&mut self) {
        let set = self.desired.borrow_and_update().clone();
        // Before anybody is told to use them.
        let contents_changed = self.shared.contents.send_if_modified(|known| {
            let changed = *known != set.contents;
            *known = set.contents.clone();
            changed
        });
        self.shared.turns.end(|key| matches!(set.wanted(key), Wanted::Gone | Wanted::End { .. }));
        for (key, seat) in &self.workers {
            let wanted = set.wanted(key);
            seat.wanted.send_if_modified(|known| {
                let changed = *known != wanted;
                *known = wanted;
                changed
            });
        }
        if contents_changed {
            self.workers.values().for_each(|seat| seat.nudge.again());
        }
        let missing: Vec<_> = set
            .workloads
            .iter()
            .filter(|(key, wanted)| matches!(wanted, Wanted::Run(_)) && !self.workers.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in missing {
            self.seat(key, Vec::new());
        }
    }

    /// True when strays are to be looked for.
    fn wake(&mut self, wake: Wake) -> bool {
        match wake {
            Wake::Container(id) => {
                if let Some(seat) = self.shared.directory.owner(&id).and_then(|key| self.workers.get(&key)) {
                    seat.nudge.look();
                }
                false
            }
            Wake::Images => {
                self.workers.values().for_each(|seat| seat.nudge.images());
                false
            }
            Wake::All => {
                self.workers.values().for_each(|seat| seat.nudge.all());
                true
            }
        }
    }

    fn command(&mut self, command: Command) {
        let (workload, uid, reply) = match command {
            Command::DeletePod { workload, uid, reply } => (workload, uid, reply),
            Command::EvictPod { workload, uid, message } => {
                if let Some(seat) = self.workers.get(&workload) {
                    // One that has no room just now is told at the next measurement.
                    let _ = seat.requests.try_send(Box::new(Request::Evict { uid, message }));
                }
                return;
            }
            Command::Drain { on, reply } => {
                let shared = self.shared.clone();
                self.drains.spawn(async move {
                    let Shared { machine, turns, board, drain, .. } = &*shared;
                    let note = match on {
                        true => {
                            let now = machine.clock().now().wall;
                            drain.begin(machine.files(), machine.boot_id(), now, turns, board).await
                        }
                        false => drain.end(machine.files(), turns, board).await,
                    };
                    // Who asked may have gone away.
                    let _ = reply.send(note);
                });
                return;
            }
            Command::Retry => {
                self.workers.values().for_each(|seat| seat.nudge.all());
                return;
            }
        };
        match self.workers.get(&workload) {
            Some(seat) => {
                if let Err(refused) = seat.requests.try_send(Box::new(Request::Delete { uid, reply }))
                    && let Request::Delete { reply, .. } = *refused.into_inner()
                {
                    answer(reply, "its worker has too many requests waiting: try again in a moment");
                }
            }
            None => answer(reply, "the pod is gone already"),
        }
    }

    /// Everybody looks; a workload without a worker gets one, which removes its strays and ends.
    fn adopt(&mut self, found: Option<Found>) {
        let Some(found) = found else { return };
        for container in found.containers {
            self.shared.directory.own(&container.id, &container.run.uid, &container.workload);
            if !self.workers.contains_key(&container.workload) {
                self.seat(container.workload, Vec::new());
            }
        }
        for uid in found.sandboxes.into_iter().filter(|uid| !self.shared.directory.is_claimed(uid)) {
            let shared = self.shared.clone();
            self.sweep.spawn(async move {
                match shared.machine.sandboxes().tear_down(&uid, Leave::Nothing).await {
                    Ok(()) => tracing::warn!(%uid, "a sandbox without a record was given back"),
                    Err(e) => {
                        tracing::warn!(%uid, reason = e.reason, message = e.message, "a sandbox cannot be given back")
                    }
                }
                None
            });
        }
        self.workers.values().for_each(|seat| seat.nudge.look());
    }
}

/// What carries our labels or our names and nobody's claim. None when the runtime does not answer.
async fn look_for_strays<M: Machine>(shared: Arc<Shared<M>>) -> Option<Found> {
    let machine = &shared.machine;
    // Sandboxes first: one that is made after this is claimed when the claims are read.
    let sandboxes = machine.sandboxes().list().await.unwrap_or_default();
    let version = version(&shared).await;
    let missing = version.is_some().then(|| machine.runtime().missing_capabilities());
    shared.board.set_node(|node| {
        node.runtime_version = version.or(node.runtime_version.take());
        if let Some(missing) = missing {
            node.missing_capabilities = missing;
        }
    });
    let containers = machine.runtime().observe(None).await.ok()?;
    let with_containers: BTreeSet<_> = containers.iter().map(|c| c.run.uid.clone()).collect();
    let sandboxes = sandboxes.into_iter().filter(|uid| !with_containers.contains(uid)).collect();
    Some(Found { containers, sandboxes })
}

/// The runtime's version, None when it does not answer, which the check for it then says.
async fn version<M: Machine>(shared: &Shared<M>) -> Option<String> {
    let version = shared.machine.runtime().version().await;
    shared.board.set_check(Check::Containerd, version.as_ref().map(|_| ()).map_err(|e| e.message.clone()));
    version.ok()
}

fn answer(reply: oneshot::Sender<Result<String, String>>, sentence: &str) {
    // Who asked may have gone away.
    let _ = reply.send(Err(sentence.to_owned()));
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
