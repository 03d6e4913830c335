//! A pod to show, for tests here and of the command line.

use std::collections::BTreeMap;

use pod::desired::{Origin, Source, UpdateStrategy};
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::{ContainerState, ObservedContainer, SandboxState};
use pod::plan::{PodView, Waiting};
use pod::record::{ContainerMemory, Lifecycle, Record, Termination};
use pod::spec::{Container, Placement, PodSpec, PodTemplate, PullPolicy, Resources, RestartPolicy, Security};
use pod::time::{Moment, Now};
use serde_json::json;

use crate::board::{Published, WantedSummary};

pub fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

/// A DaemonSet's pod with one container `c`, admitted at 100 s.
pub fn view() -> PodView {
    let container = Container {
        name: "c".into(),
        image: "img:1".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        env_from: vec![],
        resources: Resources::default(),
        resize_policy: Default::default(),
        mounts: vec![],
        security: Security::default(),
        ports: vec![],
        stdin: false,
        tty: false,
        role: Default::default(),
        probes: Default::default(),
        hooks: Default::default(),
        last_words: Default::default(),
    };
    let spec = PodSpec {
        containers: vec![container],
        volumes: vec![],
        restart_policy: RestartPolicy::Always,
        termination_grace: std::time::Duration::from_secs(30),
        active_deadline: None,
        host_network: true,
        host_pid: false,
        host_ipc: false,
        own_users: false,
        share_processes: false,
        sysctls: Default::default(),
        priority: 0,
        priority_class: None,
        runtime_class: None,
        placement: Placement::default(),
        naming: Default::default(),
        image_pull_secrets: Vec::new(),
        resources: None,
    };
    let workload = WorkloadKey { namespace: "kube-system".into(), kind: WorkloadKind::DaemonSet, name: "ds".into() };
    let record = Record {
        uid: Uid("u1".into()),
        workload,
        name: "ds-abcde".into(),
        revision: "rev1".into(),
        origin: Origin { source: Source::Static, file: "/m/ds.yaml".into(), line: 1 },
        document: json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "img:1"}]}}}}).into(),
        admitted_at: at(100),
        generation: 1,
        boot_id: "b".into(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Default::default(),
    };
    let labels = [("name".to_owned(), "ds".to_owned())].into();
    PodView {
        record,
        template: PodTemplate { labels, annotations: BTreeMap::new(), spec }.into(),
        sandbox: SandboxState::Connected { ips: vec!["10.0.0.5".parse().unwrap()] },
        containers: vec![],
        images: BTreeMap::new(),
        owed: None,
    }
}

pub fn run(attempt: u32, state: ContainerState) -> ObservedContainer {
    let run = RunKey { uid: Uid("u1".into()), container: "c".into(), attempt };
    ObservedContainer {
        id: run.container_id(),
        workload: view().record.workload,
        run,
        image_id: "img@sha256:0".into(),
        adapted: String::new(),
        not_refreshed: String::new(),
        image: String::new(),
        user: None,
        state,
    }
}

pub fn ended(attempt: u32, exit_code: u32) -> Termination {
    Termination {
        attempt,
        container_id: "id".into(),
        image_id: String::new(),
        exit_code,
        reason: "Error".into(),
        message: String::new(),
        started_at: Some(at(110)),
        finished_at: at(120),
        halted: false,
    }
}

/// What a worker publishes of one pod.
pub fn published(view: PodView, waiting: Vec<Waiting>) -> Published {
    Published {
        wanted: WantedSummary::Run { revision: "rev1".into(), update: UpdateStrategy::RollingUpdate },
        known: true,
        pods: vec![view],
        waiting,
        failures: BTreeMap::new(),
        silent: BTreeMap::new(),
        lacks_token: false,
        now: Now { boot: Moment(50_000), wall: at(200) },
    }
}

/// `ds-abcde` of kube-system, which runs.
pub fn running() -> (WorkloadKey, Published) {
    let mut view = view();
    let memory = ContainerMemory { started_attempt: Some(0), started_at: Some(at(101)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    view.containers.push(run(0, ContainerState::Running { pid: 7 }));
    (view.record.workload.clone(), published(view, vec![]))
}

/// `web-n1` of default, a Pod document's, whose container crashes.
pub fn backing_off() -> (WorkloadKey, Published) {
    let mut view = view();
    let key = WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: "web".into() };
    view.record.workload = key.clone();
    view.record.name = "web-n1".into();
    view.record.uid = Uid("u2".into());
    let memory = ContainerMemory { started_attempt: Some(2), last: Some(ended(2, 3)), ..Default::default() };
    view.record.containers.insert("c".into(), memory.into());
    let wait = waits(&view.record.uid);
    (key, published(view, vec![wait]))
}

pub fn waits(uid: &Uid) -> Waiting {
    Waiting {
        uid: Some(uid.clone()),
        container: Some("c".into()),
        reason: "CrashLoopBackOff".into(),
        message: "back-off 40s".into(),
        until: Some(Moment(60_000)),
    }
}
