//! Probes in the workers, on a machine in memory with a clock that jumps: what they make of a run, and what outlives the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::board::Board;
use agent::drain::Drain;
use agent::fake::{FakeExec, FakeMachine, World};
use agent::gate::Gate;
use agent::records::Records;
use agent::seams::Machine as _;
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::{DesiredPod, DesiredSet, Wanted};
use pod::manifest::{Context, Document, parse};
use pod::record::{ContainerMemory, Record};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// On a clock that jumps: far more than anything here waits for.
const LONG: Duration = Duration::from_secs(3600);

fn context() -> Context {
    Context { node_name: "n1".into() }
}

fn workload(probes: &str) -> DesiredPod {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: main, image: image, {probes}}}]}}}}"
    );
    match parse("test.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
        Some(Ok(Document::Workload(desired))) => *desired,
        other => panic!("the test's own manifest is refused: {other:?}"),
    }
}

/// One life of an agent that wants a pod with these probes.
struct Life {
    board: Board,
    // Dropped at the end: the workers would stop.
    _desired: watch::Sender<DesiredSet>,
    stop: watch::Sender<bool>,
    workers: JoinHandle<()>,
}

impl Life {
    async fn start(world: &World, began: Instant, probes: &str) -> Life {
        world.state().images.insert("image".into());
        let (board, commands) = Board::new();
        let pod = workload(probes);
        let wanted = DesiredSet {
            workloads: [(pod.workload.clone(), Wanted::Run(Box::new(pod)))].into(),
            complete: true,
            heard: pod::desired::Source::ALL.into(),
            ..DesiredSet::default()
        };
        let (desired, receiver) = watch::channel(wanted);
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared {
            machine: FakeMachine::new(world.clone(), began),
            records: Records::new(Path::new("/state")),
            gate: Gate::new(2),
            board: board.clone(),
            context: context(),
            directory: Directory::default(),
            turns: Default::default(),
            drain: Drain::new(Path::new("/state")),
            contents: watch::Sender::default(),
            stopping,
        });
        let loaded = shared.records.load(shared.machine.files(), |_| None).await.expect("the disk is well");
        loaded.records.iter().for_each(|record| shared.directory.claim(record));
        let workers = tokio::spawn(Workers::new(shared.clone(), receiver, commands).run(loaded.records, || {}));
        Life { board, _desired: desired, stop, workers }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.workers.await.expect("ends well");
    }

    fn record(&self) -> Option<Record> {
        self.board.workloads().values().find_map(|it| Some(it.pods.first()?.record.clone()))
    }

    fn memory(&self) -> ContainerMemory {
        self.record().and_then(|record| record.remembered("main").cloned()).unwrap_or_default()
    }

    /// What the record says of the run's probes: started, ready.
    fn verdict(&self) -> Option<(bool, bool)> {
        self.memory().verdict.map(|verdict| (verdict.started, verdict.ready))
    }

    async fn until(&self, what: &str, reached: impl Fn(&Life) -> bool) {
        let mut version = self.board.version();
        let waits = timeout(LONG, async {
            while !reached(self) {
                let _ = timeout(Duration::from_secs(1), version.changed()).await;
            }
        });
        assert!(waits.await.is_ok(), "{what}: {:?}", self.memory());
    }

    fn events(&self) -> Vec<(String, String, u64)> {
        self.board.events().into_iter().map(|seen| (seen.reason, seen.message, seen.count)).collect()
    }
}

fn script(world: &World, command: &str, exit_code: u32, hangs: bool) {
    let exec = FakeExec { exit_code, output: String::new(), hangs };
    world.state().execs.insert(command.to_owned(), exec);
}

#[tokio::test(start_paused = true)]
async fn liveness_ends_the_run_at_its_threshold_and_the_next_one_is_probed_anew() {
    let (world, began) = (World::new(1), Instant::now());
    let life = Life::start(&world, began, "livenessProbe: {exec: {command: [live]}, periodSeconds: 10}").await;
    life.until("it runs", |life| life.memory().started_attempt == Some(0)).await;
    let healthy = Instant::now();
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(life.memory().last, None);
    script(&world, "live", 1, false);
    let broken = Instant::now();
    life.until("the run was ended", |life| life.memory().last.is_some()).await;
    // Three failures, ten seconds apart; the first within ten seconds.
    let took = broken.elapsed();
    assert!(took > Duration::from_secs(19) && took < Duration::from_secs(33), "{took:?} after {healthy:?}");
    script(&world, "live", 0, false);
    life.until("its successor runs", |life| life.memory().started_attempt == Some(1)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(life.memory().started_attempt, Some(1));
    let events = life.events();
    let unhealthy = events.iter().find(|(reason, message, _)| {
        reason == "Unhealthy" && message == "Liveness probe failed: the command exited with code 1 and said nothing"
    });
    assert!(unhealthy.is_some_and(|(.., count)| *count == 3), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_fails_and_one_that_cannot_be_run_does_not() {
    let (world, began) = (World::new(1), Instant::now());
    let probes = "livenessProbe: {exec: {command: [live]}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 2}";
    let life = Life::start(&world, began, probes).await;
    life.until("it runs", |life| life.memory().started_attempt == Some(0)).await;
    world.state().runtime_down = true;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.state().runtime_down = false;
    world.wake(agent::seams::Wake::All);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(life.memory().last, None, "a runtime that was away has ended a daemon");
    script(&world, "live", 0, true);
    life.until("the run was ended", |life| life.memory().last.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn an_agents_restart_flips_no_readiness() {
    let (world, began) = (World::new(1), Instant::now());
    let probes =
        "startupProbe: {exec: {command: [up]}}, readinessProbe: {exec: {command: [ready]}, failureThreshold: 2}";
    script(&world, "ready", 1, false);
    let life = Life::start(&world, began, probes).await;
    life.until("it has started", |life| life.verdict() == Some((true, false))).await;
    script(&world, "ready", 0, false);
    life.until("it is ready", |life| life.verdict() == Some((true, true))).await;
    let since = life.memory().verdict;
    life.end().await;

    // Both would say otherwise, if they were asked at once and believed at once.
    script(&world, "up", 1, false);
    script(&world, "ready", 0, true);
    let life = Life::start(&world, began, probes).await;
    life.until("it is adopted", |life| life.record().is_some()).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        assert_eq!(life.memory().verdict, since);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    life.until("it is found not ready", |life| life.verdict() == Some((true, false))).await;
    assert_eq!(life.memory().started_attempt, Some(0));
}
