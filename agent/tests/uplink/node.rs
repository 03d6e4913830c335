//! An agent on a machine in memory, with a real uplink and a state directory of its own.

use std::path::Path;
use std::sync::Arc;

use agent::allowed::Allowed;
use agent::board::{Board, Check};
use agent::checkpoint::Checkpoint;
use agent::config::{ControlUrl, Following};
use agent::contents;
use agent::desired::{self, Merging};
use agent::disk::Disk;
use agent::fake::{FakeMachine, FakeState, World};
use agent::gate::Gate;
use agent::records::Records;
use agent::refusals::Refusals;
use agent::sources::remote::Remote;
use agent::sources::static_dir::Snapshot;
use agent::uplink::{Settings, Uplink};
use agent::worker::Shared;
use agent::workers::{Directory, Workers};
use pod::desired::DesiredSet;
use pod::manifest::{Context, parse};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::place::Place;

pub struct Node {
    pub world: World,
    pub board: Board,
    pub shared: Arc<Shared<FakeMachine>>,
    manifests: watch::Sender<Snapshot>,
    tasks: Vec<JoinHandle<()>>,
    // Dropped at the end: the workers then stop.
    _stop: watch::Sender<bool>,
    _following: watch::Sender<Following>,
    name: String,
    state: Option<tempfile::TempDir>,
}

impl Node {
    /// With this join token in a file.
    pub async fn start(name: &str, place: &Place, token: &str) -> Node {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("token"), token).unwrap();
        Node::again(name, place, state).await
    }

    /// On a machine on which nothing runs, with what an earlier life has left in its state directory.
    pub async fn again(name: &str, place: &Place, state: tempfile::TempDir) -> Node {
        let url = ControlUrl { host: place.address.ip().to_string(), port: place.address.port() };
        Node::at(name, url, state).await
    }

    pub async fn at(name: &str, url: ControlUrl, state: tempfile::TempDir) -> Node {
        let world = World::new(7);
        world.state().images.insert("image".into());
        let (board, commands) = Board::new();
        board.set_node(|node| {
            node.name = name.to_owned();
            node.addresses = vec!["192.0.2.7".parse().unwrap()];
            node.max_pods = 110;
        });
        let (desired, wanted) = watch::channel(DesiredSet::default());
        let (stop, stopping) = watch::channel(false);
        let context = Context { node_name: name.to_owned() };
        let shared = Arc::new(Shared {
            machine: FakeMachine::new(world.clone(), Instant::now()),
            records: Records::new(Path::new("/state")),
            gate: Gate::new(2),
            board: board.clone(),
            context: context.clone(),
            directory: Directory::default(),
            contents: watch::Sender::default(),
            turns: Default::default(),
            drain: agent::drain::Drain::new(Path::new("/state")),
            stopping,
        });
        let mut remote = Remote::new(Checkpoint::new(state.path(), Disk), context);
        remote.restore().await;
        let mut live = agent::config::Live::default();
        live.labels.insert("rack".into(), "r1".into());
        live.labels.insert("node-restriction.kubernetes.io/tier".into(), "gold".into());
        board.set_live(live.clone(), Vec::new(), None);
        let (following, followed) = watch::channel(Following { live, ..Following::default() });
        let (manifests, heard) = watch::channel(Snapshot { generation: 1, not_heard: None, ..Snapshot::default() });
        let (given, tokens) = watch::channel(agent::uplink::Given::new());
        let merging = Merging {
            node_name: name.to_owned(),
            max_pods: 110,
            manifests: heard,
            control: Some(desired::Control { snapshots: remote.snapshots(), tokens }),
            knows_no_control: false,
            following: followed,
            shared: shared.clone(),
            allowed: Allowed::default(),
            desired,
            refusals: Refusals::default(),
            kept: contents::All::new(),
            good: watch::Sender::default(),
            salt: vec![1],
        };
        let (tried, _) = oneshot::channel();
        let settings = Settings {
            url,
            join_token_file: Some(state.path().join("token")),
            health_advertise: None,
            node_name: name.to_owned(),
            state_dir: state.path().to_owned(),
        };
        let tasks = vec![
            tokio::spawn(Workers::new(shared.clone(), wanted, commands).run(Vec::new(), || {})),
            tokio::spawn(desired::follow(merging, tried)),
            tokio::spawn(Uplink::new(settings, shared.clone(), remote, Disk, given).run()),
        ];
        let (name, state) = (name.to_owned(), Some(state));
        Node { world, board, shared, manifests, tasks, _stop: stop, _following: following, name, state }
    }

    /// The manifest directory has a pod of this name, or nothing.
    pub fn manifest(&self, name: Option<&str>) {
        let file = |name: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, \
                 containers: [{{name: main, image: image}}]}}}}"
            );
            let context = Context { node_name: self.name.clone() };
            let path = format!("/manifests/{name}.yaml");
            (path.clone(), Arc::new(parse(&path, text.as_bytes(), &context)))
        };
        self.manifests.send_modify(|snapshot| {
            snapshot.generation += 1;
            snapshot.files = name.map(file).into_iter().collect();
        });
    }

    /// The uids of the pods whose containers run, sorted.
    pub fn running(&self) -> Vec<String> {
        let state = self.world.state();
        let running = state.containers.values().filter(|c| matches!(c.state, FakeState::Running { .. }));
        let mut uids: Vec<String> = running.map(|c| c.run.uid.0.clone()).collect();
        uids.sort();
        uids
    }

    /// A pod stands without its service account token.
    pub fn lacks_token(&self) -> bool {
        self.board.workloads().values().any(|published| published.lacks_token)
    }

    /// The file of tokens.
    pub fn kept_tokens(&self) -> Option<String> {
        std::fs::read_to_string(self.state.as_ref()?.path().join("control/tokens")).ok()
    }

    pub fn check(&self, name: &str) -> Option<Result<(), String>> {
        let checks = self.board.checks();
        checks.into_iter().find(|(check, _): &(Check, _)| check.name() == name).map(|(_, outcome)| outcome)
    }

    /// Ends it as a power cut does; what is left is its state directory.
    pub async fn stop(mut self) -> tempfile::TempDir {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
        self.state.take().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
