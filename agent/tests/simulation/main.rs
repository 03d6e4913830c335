//! The agent's workers over a machine in memory, from seeds: faults before, after and instead of every effect, kills
//! at every wait, shims that stop answering, a clock that jumps both ways, power cuts that lose what was not synced. Invariants are checked by the machine at every effect and
//! here after every event; when the faults end, everything must converge.
//!
//! `SEEDS=n` runs the seeds 1 to n (default 150), `SEED=x` one seed with its story. A failing seed prints itself.

mod full_disk;
mod order;
mod workloads;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::board::Board;
use agent::drain::Drain;
use agent::fake::{FakeContainer, FakeDisk, FakeMachine, FakeState, Faults, World};
use agent::gate::Gate;
use agent::records::Records;
use agent::seams::{CreatedRun, Machine, Wake};
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::{DesiredSet, Wanted};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::qos;
use pod::record::Lifecycle;
use pod::spec::{Resources, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use workloads::{SIZES, WORKLOADS, context, workload};

/// Events in one history.
const EVENTS: u64 = 60;

/// After the last fault: the longest back-off (300 s) several times.
const SETTLE: Duration = Duration::from_secs(3600);

/// Longer than all steps of a restart take at the simulation's latencies, shorter than any retry or slow look.
const PROMPT: Duration = Duration::from_secs(2);

/// Seconds by which the wall clock may be wrong, from one moment to the next: a battery that is empty (1970), summer time set by
/// hand, a typing error, the last year that Linux takes (2232) less a few.
const CLOCK_ERRORS: [i64; 5] = [-1_767_225_600, -3600, 0, 3600, 6_300_000_000];

/// One history: the world, the present life of the agent, and what is wanted of it.
struct Simulation {
    world: World,
    start: Instant,
    set: DesiredSet,
    desired: watch::Sender<DesiredSet>,
    stop: watch::Sender<bool>,
    board: Board,
    life: JoinHandle<()>,
    /// The present drain is on disk: a new life of the agent knows of it.
    drain_holds: bool,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let world = World::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        {
            let mut state = world.state();
            state.images.extend(["alpha", "beta", "gamma", "delta"].map(|name| format!("image-{name}")));
            let run = RunKey { uid: Uid("foreign".into()), container: "main".into(), attempt: 0 };
            let workload = WorkloadKey { name: "foreign".into(), ..workload(0, 0).workload };
            let foreign = FakeContainer {
                workload,
                run,
                state: FakeState::Running { pid: 1 },
                created: CreatedRun::default(),
                not_refreshed: String::new(),
                resources: Resources::default(),
                init: false,
                foreign: true,
            };
            state.containers.insert("foreign".into(), foreign);
            state.hung.insert(Uid("foreign".into()));
        }
        Simulation {
            world,
            start: Instant::now(),
            set: DesiredSet {
                workloads: BTreeMap::new(),
                complete: true,
                heard: pod::desired::Source::ALL.into(),
                ..DesiredSet::default()
            },
            desired: watch::channel(DesiredSet::default()).0,
            stop: watch::channel(false).0,
            board: Board::new().0,
            life: tokio::spawn(async {}),
            drain_holds: false,
        }
    }

    /// A new life of the agent over the same world: nothing is wanted for certain until its sources are heard.
    async fn begin(&mut self) {
        if !self.drain_holds {
            self.world.state().drained = false;
        }
        let machine = FakeMachine::new(self.world.clone(), self.start);
        let records = Records::new(Path::new("/state"));
        let (board, commands) = Board::new();
        let loaded = records.load(machine.files(), |_| None).await.expect("reading never fails in the simulation");
        assert!(loaded.damaged.is_empty(), "a record was lost: {:?}", loaded.damaged);
        let (desired, receiver) = watch::channel(DesiredSet::default());
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            machine,
            records,
            gate: Gate::new(2),
            board: board.clone(),
            context: context(),
            directory: Directory::default(),
            turns: Default::default(),
            drain: Drain::new(Path::new("/state")),
            contents: watch::Sender::default(),
            stopping,
        });
        (self.desired, self.stop, self.board) = (desired, stop, board);
        self.life = tokio::spawn(Workers::new(shared, receiver, commands).run(loaded.records, || {}));
    }

    fn hear(&self) {
        self.desired.send_replace(self.set.clone());
    }

    async fn kill(&mut self) {
        self.life.abort();
        if let Err(e) = (&mut self.life).await
            && e.is_panic()
        {
            std::panic::resume_unwind(e.into_panic());
        }
        self.world.forget_attempts();
    }

    fn random(&self, bound: u64) -> u64 {
        self.world.random(bound)
    }

    fn one_of<T: Clone>(&self, choices: &[T]) -> Option<T> {
        choices.get(usize::try_from(self.random(choices.len() as u64)).unwrap_or(0)).cloned()
    }

    async fn event(&mut self) {
        assert!(!self.life.is_finished(), "the agent ended by itself");
        match self.random(21) {
            0..=3 => self.wish(),
            4..=5 => {
                let gone = workload(self.random(WORKLOADS), 0).workload;
                self.set.workloads.remove(&gone);
                self.hear();
            }
            6..=8 => self.end_a_process(),
            9 => {
                self.kill().await;
                self.begin().await;
                sleep(Duration::from_millis(self.random(5000))).await;
                self.hear();
            }
            10 => {
                self.kill().await;
                self.world.reboot();
                self.begin().await;
                self.hear();
            }
            11 => {
                let down = self.random(2) == 0;
                self.world.state().runtime_down = down;
                self.world.wake(Wake::All);
            }
            12 => {
                let image = "image-alpha".to_owned();
                let gone = self.world.state().images.remove(&image);
                if !gone {
                    self.world.state().images.insert(image);
                }
                self.world.wake(Wake::Images);
            }
            13 => self.delete_a_pod(),
            15 => self.hang_a_shim(),
            16 => {
                // What was stopped goes on, one shim at a time.
                let hung: Vec<Uid> = self.world.state().hung.iter().filter(|uid| uid.0 != "foreign").cloned().collect();
                if let Some(uid) = self.one_of(&hung) {
                    self.world.state().hung.remove(&uid);
                }
            }
            14 => {
                // A stop finishes what is in flight, hung steps included.
                self.stop.send_replace(true);
                (&mut self.life).await.expect("the agent stops without a panic");
                self.world.forget_attempts();
                self.begin().await;
                self.hear();
            }
            17 => {
                let disks = [FakeDisk::Takes, FakeDisk::Full, FakeDisk::ReadOnly, FakeDisk::Hangs];
                let disk = self.one_of(&disks).unwrap_or_default();
                self.world.state().disk = disk;
            }
            18 => {
                let error = self.one_of(&CLOCK_ERRORS).unwrap_or_default();
                let mut state = self.world.state();
                state.story.push(format!("the clock is {error} s wrong"));
                state.clock_error = error;
            }
            19 => {
                let on = self.random(3) != 0;
                self.drain(on).await;
            }
            _ => {
                // The source falls silent, then speaks again.
                self.desired.send_replace(DesiredSet::default());
                sleep(Duration::from_millis(self.random(3000))).await;
                self.hear();
            }
        }
    }

    /// What is after another one runs only where that one is wanted too.
    fn complete(&mut self) {
        let last = workload(WORKLOADS - 1, 0);
        if self.set.workloads.contains_key(&workload(2, 0).workload) && !self.set.workloads.contains_key(&last.workload)
        {
            self.set.workloads.insert(last.workload.clone(), Wanted::Run(Box::new(last)));
            self.hear();
        }
    }

    /// Somebody types `drain` or `undrain` and waits for the answer.
    async fn drain(&mut self, on: bool) {
        if !on {
            self.world.state().drained = false;
        }
        let note = timeout(Duration::from_secs(60), self.board.drain(on)).await.expect("it is answered");
        let note = note.expect("the agent lives");
        let mut state = self.world.state();
        state.story.push(format!("drained: {on} {note}"));
        state.drained = on;
        self.drain_holds = note.is_empty();
    }

    fn wish(&mut self) {
        let wanted = workload(self.random(WORKLOADS), self.random(3 * SIZES));
        self.set.workloads.insert(wanted.workload.clone(), Wanted::Run(Box::new(wanted)));
        self.hear();
    }

    fn end_a_process(&self) {
        if let Some(id) = self.one_of(&self.running()) {
            self.world.end_process(&id, u32::from(self.random(2) == 0));
        }
    }

    fn hang_a_shim(&self) {
        let served: Vec<Uid> = {
            let state = self.world.state();
            let ours = state.containers.values().filter(|c| !c.foreign && c.state != FakeState::NoTask);
            ours.map(|c| c.run.uid.clone()).collect()
        };
        if let Some(uid) = self.one_of(&served) {
            let mut state = self.world.state();
            state.story.push(format!("the shim of {uid} hangs"));
            state.hung.insert(uid);
        }
    }

    /// Pods that were to go are gone although their shims hang; the others go on where their shims do.
    fn heal_shims(&self) {
        let mut ending = BTreeSet::new();
        for (key, published) in self.board.workloads() {
            let terminating = |it: &&pod::plan::PodView| matches!(it.record.lifecycle, Lifecycle::Terminating { .. });
            ending.extend(published.pods.iter().filter(terminating).map(|it| (key.clone(), it.record.uid.clone())));
        }
        assert!(ending.is_empty(), "pods that are to go are still there: {ending:?}");
        let mut state = self.world.state();
        assert!(state.hung.contains(&Uid("foreign".into())), "a foreign shim was ended");
        state.hung.retain(|uid| uid.0 == "foreign");
    }

    fn delete_a_pod(&self) {
        let mut pods = Vec::new();
        for (key, published) in self.board.workloads() {
            pods.extend(published.pods.iter().map(|view| (key.clone(), view.record.uid.clone())));
        }
        if let Some((key, uid)) = self.one_of(&pods) {
            let board = self.board.clone();
            tokio::spawn(async move { board.delete_pod(key, uid).await });
        }
    }

    /// True at every moment, whatever was killed when.
    fn check_always(&self) {
        let state = self.world.state();
        assert!(state.containers.contains_key("foreign"), "the foreign container is gone");
        for container in state.containers.values().filter(|c| !c.foreign) {
            let record = Path::new("/state/records").join(&container.run.uid.0);
            let recorded = [record.with_extension("old"), record].iter().any(|path| state.files.contains_key(path));
            assert!(recorded, "{} exists without a record", container.run);
        }
    }

    /// True once the faults have ended and everything had time.
    fn check_converged(&self) {
        let state = self.world.state();
        let mut live: BTreeMap<&WorkloadKey, Vec<&FakeContainer>> = BTreeMap::new();
        for container in state.containers.values().filter(|c| !c.foreign) {
            live.entry(&container.workload).or_default().push(container);
        }
        let mut uids = BTreeSet::new();
        for (key, wanted) in &self.set.workloads {
            let Wanted::Run(wanted) = wanted else { continue };
            let containers = live.remove(key).unwrap_or_default();
            let lasting = wanted.template.spec.containers.iter().filter(|container| container.role != Role::Init);
            assert_eq!(containers.len(), lasting.count(), "{key} has {containers:?}");
            for container in &containers {
                let asked = wanted.template.spec.container(&container.run.container).map(|spec| &spec.resources);
                let newest = key.kind == WorkloadKind::Pod;
                assert!(!newest || Some(&container.resources) == asked, "{key}: {container:?} has another size");
                assert!(!newest || state.sizes[&container.run.uid] == qos::of_pod(&wanted.template.spec), "{key}");
                assert!(matches!(container.state, FakeState::Running { .. }), "{key}: {container:?} does not run");
                uids.insert(container.run.uid.clone());
            }
        }
        assert!(live.is_empty(), "containers that nobody wants are left: {live:?}");
        let ids: BTreeSet<&String> = state.containers.iter().filter(|(_, c)| !c.foreign).map(|(id, _)| id).collect();
        assert_eq!(state.pipes.keys().collect::<BTreeSet<_>>(), ids, "log pipes are left or missing");
        assert_eq!(uids.len(), self.set.workloads.len(), "one pod for every workload");
        assert_eq!(state.sandboxes.keys().cloned().collect::<BTreeSet<_>>(), uids, "sandboxes are left or missing");
        assert_eq!(state.volumes, uids, "volumes are left or missing");
        let whole = state.files.keys().filter(|p| p.extension().is_none());
        let records: BTreeSet<Uid> = whole.filter_map(|p| Some(Uid(p.file_name()?.to_str()?.into()))).collect();
        assert_eq!(records, uids, "records are left or missing");
    }

    /// Every record that the workers act on is on disk, and would be after a power cut.
    async fn check_durable(&self) {
        // Before anything is loaded: that makes durable what it has read.
        {
            let state = self.world.state();
            for (path, file) in state.files.iter().filter(|(path, _)| path.extension().is_none()) {
                let durable = state.durable_names.get(path).filter(|durable| !durable.unsynced);
                assert_eq!(durable.map(|d| &d.content), Some(&file.content), "{} is not durable", path.display());
            }
        }
        let loaded =
            Records::new(Path::new("/state")).load(&self.world, |_| None).await.expect("reading never fails here");
        for view in self.board.workloads().values().flat_map(|published| &published.pods) {
            assert_eq!(view.owed, None, "{} is still owed", view.record.name);
            assert!(loaded.records.contains(&view.record), "{} is not what is on disk", view.record.name);
        }
    }

    /// The pods on the board carry the newest revision, unless only a deletion may replace them.
    fn check_revisions(&self) {
        let published = self.board.workloads();
        for (key, wanted) in &self.set.workloads {
            let Wanted::Run(wanted) = wanted else { continue };
            let pods = &published[key].pods;
            let newest = pods.iter().all(|view| view.record.revision == wanted.revision);
            assert!(newest || key.name == "beta", "{key} runs an old revision");
        }
    }

    async fn run(&mut self) {
        self.begin().await;
        self.hear();
        for _ in 0..EVENTS {
            let faults = Faults { fail_before: 60, fail_after: 60, hang: 4, lose_wake: 100 };
            let wild = self.random(4) == 0;
            self.world.state().faults = if wild { faults } else { Faults::default() };
            self.event().await;
            let pause = self.one_of(&[5, 50, 400, 15_000, 120_000]).unwrap_or(1);
            sleep(Duration::from_millis(self.random(pause))).await;
            self.check_always();
        }
        {
            let mut state = self.world.state();
            state.faults = Faults::default();
            state.disk = FakeDisk::Takes;
            state.runtime_down = false;
            state.images.insert("image-alpha".into());
        }
        self.drain(false).await;
        self.complete();
        self.world.wake(Wake::All);
        sleep(SETTLE).await;
        assert!(!self.life.is_finished(), "the agent ended by itself");
        self.heal_shims();
        self.world.wake(Wake::All);
        sleep(SETTLE).await;
        self.check_converged();
        self.check_revisions();
        self.check_durable().await;
        let before = self.world.state().story.len();
        sleep(SETTLE).await;
        assert_eq!(self.world.state().story.len(), before, "a converged node does nothing");
        self.check_prompt().await;
        self.kill().await;
    }

    /// Without faults a death is answered at once: by its wake, not by the slow look that would find it later.
    async fn check_prompt(&self) {
        self.check_restarts_within(PROMPT).await;
    }

    async fn check_restarts_within(&self, bound: Duration) {
        let before = self.running();
        before.iter().for_each(|id| self.world.end_process(id, 1));
        sleep(bound).await;
        let after = self.running();
        assert_eq!(after.len(), before.len(), "a death was not noticed within {bound:?}");
        assert!(after.iter().all(|id| !before.contains(id)), "a container that ended runs on");
    }

    /// Ids of our containers that run.
    fn running(&self) -> Vec<String> {
        let state = self.world.state();
        let ours = state.containers.iter().filter(|(_, c)| !c.foreign);
        ours.filter(|(_, c)| matches!(c.state, FakeState::Running { .. })).map(|(id, _)| id.clone()).collect()
    }
}

fn simulate(seed: u64, tell: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing");
    let world = RefCell::new(World::default());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut simulation = Simulation::new(seed);
            world.replace(simulation.world.clone());
            simulation.run().await;
        });
    }));
    if tell || outcome.is_err() {
        let story = std::mem::take(&mut world.borrow().state().story);
        story.iter().skip(story.len().saturating_sub(60)).for_each(|line| println!("  {line}"));
    }
    if let Err(panic) = outcome {
        println!("seed {seed} fails: SEED={seed} cargo test -p daemonlet --test simulation -- --nocapture");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_seed_keeps_the_invariants_and_converges() {
    if let Ok(seed) = std::env::var("SEED") {
        simulate(seed.parse().expect("SEED is a number"), true);
        return;
    }
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    (1..=seeds).for_each(|seed| simulate(seed, false));
    println!("{seeds} seeds");
}
