//! What a worker publishes and counts, over a machine in memory and a clock that jumps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::board::{Board, NodeFacts};
use agent::drain::Drain;
use agent::fake::{FakeMachine, FakeState, World, WorldState};
use agent::gate::Gate;
use agent::metrics;
use agent::records::Records;
use agent::status;
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::{DesiredSet, Wanted};
use pod::manifest::{Context, Document, parse};
use pod::name::WorkloadKey;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// An agent over a fake world in which one pod `a` is wanted.
struct Agent {
    world: World,
    board: Board,
    key: WorkloadKey,
    life: JoinHandle<()>,
    _stop: watch::Sender<bool>,
    _desired: watch::Sender<DesiredSet>,
}

impl Agent {
    /// `container`: the fields of the pod's only container besides its name and image.
    fn start(container: &str) -> Agent {
        let context = Context { node_name: "n1".into() };
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  hostNetwork: true\n  containers:\n  - {{name: c, image: small:1, {container}}}\n"
        );
        let mut parsed = parse("a.yaml", text.as_bytes(), &context);
        let wanted = match parsed.documents.pop().map(|d| d.result) {
            Some(Ok(Document::Workload(wanted))) => wanted,
            other => panic!("{other:?} {:?}", parsed.whole),
        };
        let key = wanted.workload.clone();
        let workloads = [(key.clone(), Wanted::Run(wanted))].into();
        let world = World::new(7);
        world.state().images.insert("small:1".into());
        let (board, commands) = Board::new();
        let (stop, stopping) = watch::channel(false);
        let (desired, receiver) = watch::channel(DesiredSet {
            workloads,
            complete: true,
            heard: pod::desired::Source::ALL.into(),
            ..DesiredSet::default()
        });
        let shared = Arc::new(Shared {
            machine: FakeMachine::new(world.clone(), Instant::now()),
            records: Records::new(Path::new("/state")),
            gate: Gate::new(2),
            board: board.clone(),
            context,
            directory: Directory::default(),
            contents: watch::Sender::default(),
            turns: Default::default(),
            drain: Drain::new(Path::new("/state")),
            stopping,
        });
        let life = tokio::spawn(Workers::new(shared, receiver, commands).run(Vec::new(), || {}));
        Agent { world, board, key, life, _stop: stop, _desired: desired }
    }

    /// Waits until the board shows the pod so; the clock is virtual, so an hour costs nothing.
    async fn shows(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut version = self.board.version();
        let wait = async {
            loop {
                version.mark_unchanged();
                if let Some(pod) = self.pod().filter(&wanted) {
                    return pod;
                }
                version.changed().await.expect("the board lives");
            }
        };
        match tokio::time::timeout(Duration::from_secs(3600), wait).await {
            Ok(pod) => pod,
            Err(_) => panic!("never shown: {what}; at last {:?}", self.pod()),
        }
    }

    fn pod(&self) -> Option<Value> {
        let published = self.board.workloads().get(&self.key)?.clone();
        Some(status::pod(&published, published.pods.first()?, &NodeFacts::default()))
    }

    /// A sample of the metrics; 0 when it is not there.
    fn metric(&self, name: &str) -> f64 {
        let text = metrics::encode(&self.board);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    fn end_process(&self) {
        let running = |state: &WorldState| {
            let mut all = state.containers.iter();
            all.find(|(_, c)| matches!(c.state, FakeState::Running { .. })).map(|(id, _)| id.clone())
        };
        let id = running(&self.world.state()).expect("one runs");
        self.world.end_process(&id, 3);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.life.abort();
    }
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn runs(pod: &Value) -> bool {
    container(pod)["state"].get("running").is_some()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

#[tokio::test(start_paused = true)]
async fn the_image_id_is_known_as_soon_as_the_container_is_created() {
    let agent = Agent::start("imagePullPolicy: IfNotPresent");
    let seen = std::cell::Cell::new(false);
    agent
        .shows("it runs", |pod| {
            let id = container(pod)["imageID"].as_str() == Some("small:1@sha256:0");
            // From its creation on: never running without.
            assert!(id || container(pod)["containerID"].is_null(), "{pod}");
            seen.set(seen.get() | id);
            runs(pod)
        })
        .await;
    assert!(seen.get());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_no_registry_was_asked_about_is_a_condition_and_one_event() {
    let agent = Agent::start("imagePullPolicy: Always");
    let pod = agent.shows("it runs", runs).await;
    assert_eq!(condition(&pod, "ImageNotRefreshed").expect("is there")["status"], "True");
    agent.end_process();
    let pod = agent.shows("it runs again", |pod| runs(pod) && container(pod)["restartCount"] == 1).await;
    assert!(condition(&pod, "ImageNotRefreshed").is_some());
    let told: Vec<_> = agent.board.events().into_iter().filter(|event| event.reason == "ImageNotRefreshed").collect();
    assert_eq!(told.iter().map(|event| event.count).sum::<u64>(), 1, "{told:?}");

    let agent = Agent::start("imagePullPolicy: IfNotPresent");
    let pod = agent.shows("it runs", runs).await;
    assert_eq!(condition(&pod, "ImageNotRefreshed"), None);
}

#[tokio::test(start_paused = true)]
async fn the_registry_is_asked_before_each_creation_where_the_policy_is_always() {
    // Beside the record it is looked whether an image is simply here; no step is made of that.
    for (policy, asked) in [("Always", 2.0), ("IfNotPresent", 0.0)] {
        let agent = Agent::start(&format!("imagePullPolicy: {policy}"));
        agent.shows("it runs", runs).await;
        agent.end_process();
        agent.shows("it runs again", |pod| runs(pod) && container(pod)["restartCount"] == 1).await;
        let name = "kubelet_runtime_operations_total{operation_type=\"prepare_image\"}";
        assert_eq!(agent.metric(name), asked, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_machine_cannot_give_is_a_condition() {
    let agent = Agent::start("imagePullPolicy: Never, securityContext: {privileged: true}");
    let pod = agent.shows("it runs", runs).await;
    let message = condition(&pod, "Adapted").expect("is there")["message"].as_str();
    assert_eq!(message, Some("c: capabilities not given: the simulation has none"));
    assert_eq!(agent.board.node().missing_capabilities, ["SYS_RESOURCE"]);
}

#[tokio::test(start_paused = true)]
async fn calls_starts_and_restarts_are_counted() {
    let agent = Agent::start("imagePullPolicy: Never");
    agent.shows("it runs", runs).await;
    agent.end_process();
    agent.shows("it runs again", |pod| runs(pod) && container(pod)["restartCount"] == 1).await;
    for (name, least) in [
        ("kubelet_runtime_operations_total{operation_type=\"list_containers\"}", 1.0),
        ("kubelet_runtime_operations_total{operation_type=\"create_container\"}", 2.0),
        ("kubelet_runtime_operations_total{operation_type=\"start_container\"}", 2.0),
        ("kubelet_runtime_operations_duration_seconds_count{operation_type=\"create_container\"}", 2.0),
        ("kubelet_pod_worker_duration_seconds_count{operation_type=\"create\"}", 1.0),
        ("kubelet_pod_worker_duration_seconds_count{operation_type=\"sync\"}", 5.0),
    ] {
        assert!(agent.metric(name) >= least, "{name}: {}", agent.metric(name));
    }
    assert_eq!(agent.metric("daemonlet_container_restarts_total{reason=\"Error\"}"), 1.0);
    assert_eq!(agent.metric("kubelet_pod_start_duration_seconds_count"), 1.0);
    assert_eq!(agent.metric("kubelet_runtime_operations_errors_total{operation_type=\"create_container\"}"), 0.0);

    agent.world.state().runtime_down = true;
    agent.world.wake(agent::seams::Wake::All);
    let errors = "kubelet_runtime_operations_errors_total{operation_type=\"list_containers\"}";
    let failing = async {
        while agent.metric(errors) < 1.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), failing).await.expect("a failed call is counted");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_at_once_counts_as_kubernetes_does() {
    let agent = Agent::start("imagePullPolicy: Never");
    // Ends, is started at once (one restart), ends again: back-off with one restart and the second end.
    for restarts in 0..2 {
        agent.shows("it runs", |pod| runs(pod) && container(pod)["restartCount"] == restarts).await;
        agent.end_process();
    }
    let waits = |pod: &Value| container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = agent.shows("it backs off", waits).await;
    let status = container(&pod);
    assert_eq!((&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]), (&1.into(), &3.into()));
    let pod = agent.shows("it runs again", |pod| runs(pod) && container(pod)["restartCount"] == 2).await;
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 3);
}
