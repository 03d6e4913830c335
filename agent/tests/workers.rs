//! Moments of the workers that seeds meet too seldom, each made on purpose, on a machine in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::board::Board;
use agent::fake::{FakeContainer, FakeMachine, FakeState, World};
use agent::gate::Gate;
use agent::records::Records;
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::{DesiredPod, DesiredSet, Wanted};
use pod::manifest::{Context, Document, parse};
use pod::name::{RunKey, Uid};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// On a clock that jumps: far more than anything here waits for.
const LONG: Duration = Duration::from_secs(600);

struct Node {
    world: World,
    board: Board,
    desired: watch::Sender<DesiredSet>,
    // Dropped at the end of the test: the workers then stop.
    _stop: watch::Sender<bool>,
}

fn context() -> Context {
    Context { node_name: "n1".into() }
}

fn workload(name: &str) -> DesiredPod {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: main, image: image}}]}}}}"
    );
    match parse("test.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
        Some(Ok(Document::Workload(desired))) => *desired,
        other => panic!("the test's own manifest is refused: {other:?}"),
    }
}

fn set(wanted: &[&str]) -> DesiredSet {
    let run = |name: &&str| {
        let pod = workload(name);
        (pod.workload.clone(), Wanted::Run(Box::new(pod)))
    };
    DesiredSet {
        workloads: wanted.iter().map(run).collect::<BTreeMap<_, _>>(),
        complete: true,
        ..DesiredSet::default()
    }
}

impl Node {
    /// An agent on `world`, whose sources have not been heard from.
    fn start(world: World) -> Node {
        world.state().images.insert("image".into());
        let (board, commands) = Board::new();
        let (desired, receiver) = watch::channel(DesiredSet::default());
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            machine: FakeMachine::new(world.clone(), Instant::now()),
            records: Records::new(Path::new("/state")),
            gate: Gate::new(2),
            board: board.clone(),
            context: context(),
            directory: Directory::default(),
            stopping,
        });
        tokio::spawn(Workers::new(shared, receiver, commands).run(Vec::new(), || {}));
        Node { world, board, desired, _stop: stop }
    }

    fn running(&self) -> Vec<(String, String)> {
        let state = self.world.state();
        let running = state.containers.values().filter(|c| matches!(c.state, FakeState::Running { .. }));
        running.map(|c| (c.workload.name.clone(), c.run.uid.0.clone())).collect()
    }

    /// Waits until exactly these workloads have a container that runs.
    async fn until_running(&self, names: &[&str]) {
        let mut version = self.board.version();
        let reached = timeout(LONG, async {
            loop {
                let mut now: Vec<_> = self.running().into_iter().map(|(name, _)| name).collect();
                now.sort();
                if now == names {
                    return;
                }
                let _ = timeout(Duration::from_secs(1), version.changed()).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?} run instead of {names:?}", self.running());
    }
}

/// A container of `name` that runs and that no record speaks of: its record could not be read.
fn stray(world: &World, name: &str, attempt: u32) -> RunKey {
    let run = RunKey { uid: Uid("00000000-stray".into()), container: "main".into(), attempt };
    let container = FakeContainer {
        workload: workload(name).workload,
        run: run.clone(),
        state: FakeState::Running { pid: 7 },
        created: agent::seams::CreatedRun::default(),
        not_refreshed: String::new(),
        foreign: false,
    };
    world.state().containers.insert(run.container_id(), container);
    run
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_comes_while_another_worker_ends_is_not_lost() {
    let node = Node::start(World::new(1));
    node.desired.send_replace(set(&["alpha"]));
    node.until_running(&["alpha"]).await;
    // The very moment in which the worker says that it is over, before anybody has seen its end.
    let (board, desired) = (node.board.clone(), node.desired.clone());
    let wisher = tokio::spawn(async move {
        let mut version = board.version();
        while board.workloads().keys().any(|key| key.name == "alpha") {
            version.changed().await.unwrap();
        }
        desired.send_replace(set(&["beta"]));
    });
    node.desired.send_replace(set(&[]));
    wisher.await.unwrap();
    node.until_running(&["beta"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stray_runs_until_its_source_was_heard_and_no_twin_starts_beside_it() {
    for seed in 1..=20 {
        let world = World::new(seed);
        // So many that the deletion of one of them takes longer than all that a new pod needs.
        let runs: Vec<RunKey> = (0..60).map(|attempt| stray(&world, "alpha", attempt)).collect();
        let there = |node: &Node| {
            let state = node.world.state();
            runs.iter().filter(|run| state.containers.contains_key(&run.container_id())).count()
        };
        let node = Node::start(world);
        tokio::time::sleep(LONG).await;
        assert_eq!(there(&node), runs.len(), "seed {seed}: one was ended before anything was known");
        // Its deletion fails again and again; the world itself asserts that no twin is started.
        node.world.state().faults.fail_before = 300;
        node.desired.send_replace(set(&["alpha"]));
        tokio::time::sleep(Duration::from_secs(30)).await;
        node.world.state().faults.fail_before = 0;
        tokio::time::sleep(Duration::from_secs(60)).await;
        node.until_running(&["alpha"]).await;
        assert_eq!(there(&node), 0, "seed {seed}: one is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stray_that_cannot_be_deleted_at_once_is_tried_again_soon() {
    for seed in 1..=20 {
        let world = World::new(seed);
        let run = stray(&world, "alpha", 0);
        let node = Node::start(world);
        node.world.state().faults.fail_before = 500;
        node.desired.send_replace(set(&[]));
        tokio::time::sleep(Duration::from_secs(seed)).await;
        node.world.state().faults.fail_before = 0;
        // Less than the next look at everything takes to come.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!node.world.state().containers.contains_key(&run.container_id()), "seed {seed}: it is still there");
    }
}
