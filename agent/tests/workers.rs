//! Moments of the workers that seeds meet too seldom, each made on purpose, on a machine in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::board::{Board, Check};
use agent::drain::Drain;
use agent::fake::{FakeContainer, FakeMachine, FakeState, World};
use agent::gate::Gate;
use agent::records::Records;
use agent::worker::{Shared, UNREADABLE};
use agent::workers::{Directory, Workers};
use pod::content::Contents;
use pod::desired::{DesiredPod, DesiredSet, Object, Wanted};
use pod::manifest::{Context, Document, parse};
use pod::name::{RunKey, Uid};
use pod::plan::{SHIM_PATIENCE, SHIM_SILENT, STRAY_GRACE};
use pod::record::{Lifecycle, Record};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// On a clock that jumps: far more than anything here waits for.
const LONG: Duration = Duration::from_secs(600);

struct Node {
    world: World,
    board: Board,
    desired: watch::Sender<DesiredSet>,
    shared: Arc<Shared<FakeMachine>>,
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

/// A pod whose container has a variable of the ConfigMap `c`, with a successor that stands by or not.
fn configured(standby: bool) -> DesiredPod {
    let text = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: configured, annotations: {{daemonlet.dev/standby: \"{standby}\"}}}}
spec:
  containers:
  - {{name: main, image: image, env: [{{name: V, valueFrom: {{configMapKeyRef: {{name: c, key: k}}}}}}]}}
"
    );
    match parse("test.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
        Some(Ok(Document::Workload(desired))) => *desired,
        other => panic!("the test's own manifest is refused: {other:?}"),
    }
}

/// The pod [`configured`] is wanted, and this is what its ConfigMap says.
fn with_config(standby: bool, value: Option<&str>) -> DesiredSet {
    let pod = configured(standby);
    let document = |value: &str| {
        let text = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, data: {{k: {value}}}}}");
        match parse("c.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
            Some(Ok(Document::Content { key, content })) => (key, content),
            other => panic!("the test's own ConfigMap is refused: {other:?}"),
        }
    };
    DesiredSet {
        workloads: [(pod.workload.clone(), Wanted::Run(Box::new(pod)))].into(),
        complete: true,
        heard: pod::desired::Source::ALL.into(),
        contents: Contents::new(value.map(document).into_iter().collect()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_waits_for_its_config_and_starts_as_soon_as_it_is_there() {
    for seed in 1..=10 {
        let node = Node::start(World::new(seed));
        node.desired.send_replace(with_config(false, None));
        tokio::time::sleep(LONG).await;
        assert_eq!(node.running(), []);
        let list: serde_json::Value = serde_json::from_str(&agent::status::pod_list(&node.board)).unwrap();
        let waiting = &list["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(waiting["reason"], "CreateContainerConfigError", "{list:#}");
        assert_eq!(waiting["message"], "configmap \"c\" not found");
        let tries = node.board.events().iter().filter(|event| event.reason == "Failed").count();
        assert!(tries <= 3, "it is not asked again and again: {tries}");
        let begin = Instant::now();
        node.desired.send_replace(with_config(false, Some("one")));
        node.until_running(&["configured"]).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "seed {seed}: it took {:?}", begin.elapsed());
        // What runs keeps what it has.
        let before = node.running();
        for value in [Some("two"), None] {
            node.desired.send_replace(with_config(false, value));
            tokio::time::sleep(LONG).await;
            assert_eq!(node.running(), before);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_created_with_old_values_is_created_anew_before_it_is_started() {
    let node = Node::start(World::new(3));
    node.desired.send_replace(with_config(true, Some("one")));
    node.until_running(&["configured"]).await;
    tokio::time::sleep(LONG).await;
    let deleted = || node.world.state().story.iter().filter(|line| line.starts_with("deleted")).count();
    let stands = || {
        let state = node.world.state();
        state.containers.values().any(|c| matches!(c.state, FakeState::Created))
    };
    assert!(stands() && deleted() == 0);
    for (round, value) in ["two", "three"].into_iter().enumerate() {
        node.desired.send_replace(with_config(true, Some(value)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(stands() && deleted() == round + 1, "{:?}", node.world.state().story);
    }
    // The same again: nothing is to be done.
    node.desired.send_replace(with_config(true, Some("three")));
    tokio::time::sleep(LONG).await;
    assert_eq!((node.running().len(), deleted()), (1, 2));
}

fn set(wanted: &[&str]) -> DesiredSet {
    let run = |name: &&str| {
        let pod = workload(name);
        (pod.workload.clone(), Wanted::Run(Box::new(pod)))
    };
    DesiredSet {
        workloads: wanted.iter().map(run).collect::<BTreeMap<_, _>>(),
        complete: true,
        heard: pod::desired::Source::ALL.into(),
        ..DesiredSet::default()
    }
}

impl Node {
    /// An agent on `world`, whose sources have not been heard from.
    fn start(world: World) -> Node {
        Node::with(world, Vec::new())
    }

    /// One that finds these records.
    fn with(world: World, records: Vec<Record>) -> Node {
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
            turns: Default::default(),
            drain: Drain::new(Path::new("/state")),
            contents: watch::Sender::default(),
            stopping,
        });
        records.iter().for_each(|record| shared.directory.claim(record));
        tokio::spawn(Workers::new(shared.clone(), receiver, commands).run(records, || {}));
        Node { world, board, desired, shared, _stop: stop }
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

/// A pod whose containers `a`, `b` and `c` may have so much memory (MiB); `c` takes other amounts only with a new run.
fn sized(a: u64, b: u64, c: u64) -> DesiredSet {
    let container = |name: &str, memory: u64, rest: &str| {
        format!("  - {{name: {name}, image: image, resources: {{limits: {{memory: {memory}Mi}}}}{rest}}}\n")
    };
    let restarts = ", resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: sized}}\nspec:\n  containers:\n{}{}{}",
        container("a", a, ""),
        container("b", b, ""),
        container("c", c, restarts)
    );
    let pod = match parse("test.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
        Some(Ok(Document::Workload(desired))) => *desired,
        other => panic!("the test's own manifest is refused: {other:?}"),
    };
    DesiredSet {
        workloads: [(pod.workload.clone(), Wanted::Run(Box::new(pod)))].into(),
        complete: true,
        heard: pod::desired::Source::ALL.into(),
        contents: Contents::default(),
    }
}

/// What `a`, `b` and `c` of [`sized`] have, and their pod (MiB).
fn sizes(world: &World) -> (BTreeMap<String, u64>, u64) {
    let state = world.state();
    let of = |c: &FakeContainer| (c.run.container.clone(), c.resources.memory_limit.unwrap_or(0) >> 20);
    let pod = state.sizes.values().next().and_then(|size| size.memory_max).unwrap_or(0);
    (state.containers.values().map(of).collect(), pod >> 20)
}

fn all_sized(a: u64, b: u64, c: u64) -> (BTreeMap<String, u64>, u64) {
    ([("a".to_owned(), a), ("b".to_owned(), b), ("c".to_owned(), c)].into(), a + b + c)
}

#[tokio::test(start_paused = true)]
async fn a_container_that_keeps_its_memory_keeps_no_other_from_its_own() {
    for seed in 1..=10 {
        let node = Node::start(World::new(seed));
        node.desired.send_replace(sized(40, 40, 40));
        tokio::time::sleep(LONG).await;
        assert_eq!(sizes(&node.world), all_sized(40, 40, 40));
        let before = node.running();

        node.world.state().unresizable.insert("a".into());
        node.desired.send_replace(sized(10, 20, 40));
        tokio::time::sleep(LONG).await;
        let (containers, pod) = sizes(&node.world);
        assert_eq!((containers["a"], containers["b"]), (40, 20), "seed {seed}");
        assert_eq!(pod, 120, "seed {seed}: it is less than its containers may have");

        // The next edit is tried at once, not when the back-off of the last is over.
        node.world.state().unresizable.clear();
        node.desired.send_replace(sized(30, 20, 40));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(sizes(&node.world), all_sized(30, 20, 40), "seed {seed}");
        assert_eq!(node.running(), before, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_for_other_amounts_is_not_given_them_first() {
    for seed in 1..=10 {
        let node = Node::start(World::new(seed));
        node.desired.send_replace(sized(40, 40, 40));
        tokio::time::sleep(LONG).await;
        node.world.state().unresizable.insert("c".into());
        node.desired.send_replace(sized(40, 50, 10));
        tokio::time::sleep(LONG).await;
        assert_eq!(sizes(&node.world), all_sized(40, 50, 10), "seed {seed}");
        assert!(!node.board.events().iter().any(|event| event.message.contains("uses more")), "seed {seed}");
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
        resources: Default::default(),
        init: false,
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

#[tokio::test(start_paused = true)]
async fn a_stray_is_told_to_stop_and_killed_only_after_its_grace() {
    // The world's daemons are deaf to all but SIGKILL where their id begins with f.
    for deaf in [false, true] {
        let world = World::new(1);
        let attempt = (0..).find(|n| id_of_stray(*n).starts_with('f') == deaf).expect("one in sixteen");
        let run = stray(&world, "alpha", attempt);
        let node = Node::start(world);
        node.desired.send_replace(set(&[]));
        let there = || node.world.state().containers.contains_key(&run.container_id());
        tokio::time::sleep(STRAY_GRACE / 2).await;
        assert_eq!(there(), deaf);
        tokio::time::sleep(STRAY_GRACE).await;
        assert!(!there());
        let code = if deaf { "137" } else { "143" };
        let story = node.world.state().story.join("\n");
        assert!(story.contains(&format!("ends with {code}")), "{story}");
    }
}

fn id_of_stray(attempt: u32) -> String {
    RunKey { uid: Uid("00000000-stray".into()), container: "main".into(), attempt }.container_id()
}

#[tokio::test(start_paused = true)]
async fn a_stray_whose_shim_does_not_answer_goes_with_its_shim() {
    let world = World::new(1);
    let run = stray(&world, "alpha", 3);
    world.state().hung.insert(run.uid.clone());
    let node = Node::start(world);
    node.desired.send_replace(set(&["alpha"]));
    tokio::time::sleep(SHIM_PATIENCE).await;
    assert!(node.world.state().hung.contains(&run.uid), "it was ended too early");
    tokio::time::sleep(LONG).await;
    node.until_running(&["alpha"]).await;
    assert!(!node.world.state().containers.contains_key(&run.container_id()));
}

#[tokio::test(start_paused = true)]
async fn a_shim_that_does_not_answer_is_told_and_left_alone_until_its_pod_is_to_go() {
    let node = Node::start(World::new(1));
    node.desired.send_replace(set(&["alpha"]));
    node.until_running(&["alpha"]).await;
    let uid = Uid(node.running()[0].1.clone());
    node.world.state().hung.insert(uid.clone());
    node.world.wake(agent::seams::Wake::All);
    tokio::time::sleep(LONG).await;
    assert_eq!(node.running().len(), 1);
    let condition = || {
        let list: serde_json::Value = serde_json::from_str(&agent::status::pod_list(&node.board)).unwrap();
        let conditions = list["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|it| it["type"] == SHIM_SILENT)
    };
    assert_eq!(condition().expect("it is told")["status"], "True");

    node.desired.send_replace(set(&[]));
    tokio::time::sleep(SHIM_PATIENCE).await;
    assert_eq!(node.running().len(), 1, "its shim was ended too early");
    let told = condition().expect("it is told")["message"].to_string();
    assert!(told.contains("is killed with them at 2026-01-01T00:1"), "{told}");
    tokio::time::sleep(LONG).await;
    assert!(node.world.state().containers.is_empty());
    let events: Vec<String> = node.board.events().into_iter().map(|event| event.reason).collect();
    assert!(events.contains(&SHIM_SILENT.to_owned()) && events.contains(&"ShimKilled".to_owned()), "{events:?}");
    assert!(!events.contains(&"ShimAnswering".to_owned()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_stops_answering_fails_its_check_within_seconds_and_heals() {
    let node = Node::start(World::new(1));
    node.desired.send_replace(set(&["alpha"]));
    node.until_running(&["alpha"]).await;
    // Nobody is woken: it is stopped, and the connection stands.
    for down in [true, false] {
        node.world.state().runtime_down = down;
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(node.board.checks()[&Check::Containerd].is_err(), down);
    }
}

/// A record of the stray's pod, with a document that this version refuses.
fn unreadable(name: &str) -> Record {
    let workload = workload(name);
    Record {
        uid: Uid("00000000-stray".into()),
        workload: workload.workload,
        name: format!("{name}-n1"),
        revision: "r".into(),
        origin: workload.origin,
        document: serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": 7,
                "ports": [{"containerPort": 80, "hostPort": 8080}]}]}})
        .into(),
        admitted_at: jiff::Timestamp::UNIX_EPOCH,
        generation: 1,
        boot_id: "boot-0".into(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Default::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_said_and_gives_back_what_it_holds() {
    for (seed, wanted) in (1..=10).flat_map(|seed| [(seed, &["alpha"][..]), (seed, &[][..])]) {
        let world = World::new(seed);
        let run = stray(&world, "alpha", 3);
        world.state().sandboxes.insert(run.uid.clone(), true);
        let record = unreadable("alpha");
        Records::new(Path::new("/state")).save(&world, &record).await.unwrap();
        let node = Node::with(world, vec![record]);
        // Nobody has been heard: what runs goes on running, and it is said.
        tokio::time::sleep(LONG).await;
        assert!(node.world.state().containers.contains_key(&run.container_id()), "seed {seed}");
        assert_eq!(node.shared.directory.recorded().len(), 1);
        let waits: Vec<_> = node.board.workloads().values().flat_map(|published| published.waiting.clone()).collect();
        assert!(
            waits.iter().any(|it| it.reason == UNREADABLE && it.message.contains("spec.containers[0].image")),
            "{waits:?}"
        );
        assert!(node.board.events().iter().any(|event| event.reason == UNREADABLE));

        node.world.state().faults.fail_before = 100;
        node.desired.send_replace(set(wanted));
        tokio::time::sleep(LONG).await;
        node.world.state().faults.fail_before = 0;
        tokio::time::sleep(LONG).await;
        node.until_running(wanted).await;
        let state = node.world.state();
        assert!(!state.containers.contains_key(&run.container_id()), "seed {seed}: its container is left");
        assert!(!state.sandboxes.contains_key(&run.uid), "seed {seed}: its sandbox is left");
        let named = |path: &&std::path::PathBuf| path.to_string_lossy().contains("stray");
        assert_eq!(state.files.keys().find(named), None, "seed {seed}: its record is left");
        drop(state);
        assert!(
            node.shared.directory.recorded().iter().all(|it| it.ports.is_empty()),
            "seed {seed}: its ports are left"
        );
        assert_eq!(node.shared.directory.recorded().len(), wanted.len());
        let waits: Vec<_> = node.board.workloads().values().flat_map(|published| published.waiting.clone()).collect();
        assert!(waits.iter().all(|it| it.reason != UNREADABLE), "{waits:?}");
    }
}

/// A pod of the control endpoint's DaemonSet `slow`.
fn of_daemonset(name: &str, uid: &str) -> DesiredSet {
    let mut pod = workload(name);
    pod.workload.kind = pod::name::WorkloadKind::Control;
    let object = Object { uid: Uid(uid.into()), ends: None, finished: false, owner: Some("slow".into()) };
    pod.object = Some(Box::new(object));
    DesiredSet {
        workloads: [(pod.workload.clone(), Wanted::Run(Box::new(pod)))].into(),
        complete: true,
        heard: pod::desired::Source::ALL.into(),
        ..DesiredSet::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_pod_of_a_daemonset_starts_when_the_one_before_it_has_stopped() {
    // One that is deaf to SIGTERM: it has its whole grace period.
    let run = |uid: &String| RunKey { uid: Uid(uid.clone()), container: "main".into(), attempt: 0 };
    let mut uids = (0..).map(|n| format!("00000000-0000-4000-8000-{n:012}"));
    let deaf = uids.find(|uid| run(uid).container_id().starts_with('f')).expect("there is one");
    for seed in 1..=5 {
        let node = Node::start(World::new(seed));
        node.desired.send_replace(of_daemonset("slow-1", &deaf));
        node.until_running(&["slow-1"]).await;
        tokio::time::sleep(LONG).await;
        // Deleted and made again: the endpoint names the new pod alone.
        let begun = Instant::now();
        node.desired.send_replace(of_daemonset("slow-2", "00000000-0000-4000-9000-000000000000"));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(node.running(), [("slow-1".to_owned(), deaf.clone())]);
        let said = agent::status::why::answers(&node.board).into_iter().find(|answer| answer.name == "slow-2");
        let said = said.expect("it is known").reasons.remove(0).message;
        assert!(said.contains("until the containers of slow-1 have stopped"), "{said}");
        node.until_running(&["slow-2"]).await;
        assert!(begun.elapsed() < Duration::from_secs(35), "it started {:?} after", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_before_its_start_is_on_record_has_its_start_in_the_status() {
    let container = |name: &str| format!("{{name: {name}, image: image}}");
    let names = ["a", "b", "c", "d"].map(container).join(", ");
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: short}}, spec: {{restartPolicy: Never, containers: [{names}]}}}}"
    );
    for seed in 1..=20 {
        let node = Node::start(World::new(seed));
        let pod = match parse("test.yaml", text.as_bytes(), &context()).documents.pop().map(|d| d.result) {
            Some(Ok(Document::Workload(desired))) => *desired,
            other => panic!("the test's own manifest is refused: {other:?}"),
        };
        let wanted = DesiredSet {
            workloads: [(pod.workload.clone(), Wanted::Run(Box::new(pod)))].into(),
            complete: true,
            heard: pod::desired::Source::ALL.into(),
            ..DesiredSet::default()
        };
        let world = node.world.clone();
        let ends = tokio::spawn(async move {
            for _ in 0..4 {
                loop {
                    let runs = |c: &FakeContainer| matches!(c.state, FakeState::Running { .. });
                    let found = world.state().containers.iter().find(|(_, c)| runs(c)).map(|(id, _)| id.clone());
                    if let Some(id) = found {
                        world.end_process(&id, 3);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        node.desired.send_replace(wanted);
        timeout(LONG, ends).await.expect("all of them start").unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let list: serde_json::Value = serde_json::from_str(&agent::status::pod_list(&node.board)).unwrap();
        let statuses = list["items"][0]["status"]["containerStatuses"].as_array().unwrap().clone();
        for status in &statuses {
            assert!(status["state"]["terminated"]["startedAt"].is_string(), "seed {seed}: {status:#}");
        }
        assert_eq!(statuses.len(), 4);
    }
}
