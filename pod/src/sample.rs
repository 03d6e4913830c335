//! Small valid values for the tests of this crate.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::desired::{DesiredPod, Origin, Source, UpdateStrategy};
use crate::digest;
use crate::name::{Uid, WorkloadKey, WorkloadKind};
use crate::record::{Lifecycle, Record};
use crate::spec::{
    Container, Placement, PodSpec, PodTemplate, PullPolicy, Resources, RestartPolicy, Role, Security, VolumeMount,
};

/// A DaemonSet's key in the namespace `default`.
pub fn daemonset(name: &str) -> WorkloadKey {
    WorkloadKey { namespace: "default".into(), kind: WorkloadKind::DaemonSet, name: name.into() }
}

/// A Pod document's key in the namespace `default`.
pub fn static_pod(name: &str) -> WorkloadKey {
    WorkloadKey { namespace: "default".into(), kind: WorkloadKind::Pod, name: name.into() }
}

/// A template with these containers, restarted always, in its own network.
pub fn template(containers: &[&str]) -> PodTemplate {
    PodTemplate {
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: PodSpec {
            containers: containers.iter().map(|name| container(name)).collect(),
            volumes: Vec::new(),
            restart_policy: RestartPolicy::Always,
            termination_grace: Duration::from_secs(30),
            active_deadline: None,
            host_network: false,
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
        },
    }
}

pub fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: "busybox:1".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env: Vec::new(),
        env_from: Vec::new(),
        resources: Resources::default(),
        resize_policy: Default::default(),
        mounts: Vec::new(),
        security: Security::default(),
        ports: Vec::new(),
        stdin: false,
        tty: false,
        role: Role::Main,
        probes: Default::default(),
        hooks: Default::default(),
        last_words: Default::default(),
    }
}

/// The whole volume, writable.
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        volume: volume.into(),
        mount_path: path.into(),
        read_only: false,
        propagation: Default::default(),
        recursive_read_only: Default::default(),
        sub_path: Default::default(),
    }
}

pub fn origin(file: &str) -> Origin {
    Origin { source: Source::Static, file: file.into(), line: 1 }
}

/// What a document of this workload with this template asks for.
pub fn desired(workload: &WorkloadKey, template: PodTemplate) -> DesiredPod {
    DesiredPod {
        object: None,
        workload: workload.clone(),
        revision: digest::of_template(workload.kind, &template),
        template: template.into(),
        update: UpdateStrategy::RollingUpdate,
        origin: origin("a.yaml"),
        document: serde_json::json!({}).into(),
    }
}

/// A record of the DaemonSet `d`, fresh.
pub fn record(uid: &str) -> Record {
    Record {
        uid: Uid(uid.into()),
        workload: daemonset("d"),
        name: "d-xxxxx".into(),
        revision: "r".into(),
        origin: origin("a.yaml"),
        document: serde_json::json!({}).into(),
        admitted_at: jiff::Timestamp::UNIX_EPOCH,
        generation: 1,
        boot_id: "boot".into(),
        lifecycle: Lifecycle::Running,
        containers: BTreeMap::new(),
        course: Default::default(),
    }
}
