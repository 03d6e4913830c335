//! What the runtime and the node say exists: plain data, no policy.

use std::fmt;
use std::net::IpAddr;

use crate::name::{RunKey, WorkloadKey};

/// A container that containerd knows and that carries our labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub workload: WorkloadKey,
    pub run: RunKey,
    /// The image's digest as `<name>@sha256:…`, for `imageID`.
    pub image_id: String,
    /// What this machine could not give as asked, one sentence each, joined by `; `. Empty: all was given.
    pub adapted: String,
    /// Why its image is not as fresh as `imagePullPolicy: Always` asks. Empty: it is.
    pub not_refreshed: String,
    /// The image as the pod asked for it when the run was created. Only of the control endpoint's pods, whose image may become another
    /// one while they live; empty: it is nobody else's, or was created by a former version.
    pub image: String,
    /// Whom its first process began as; None: it was made by a version that did not say.
    pub user: Option<Box<RunUser>>,
    pub state: ContainerState,
}

/// v1 LinuxContainerUser.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunUser {
    pub uid: u32,
    pub gid: u32,
    /// The primary one is among them.
    pub groups: Vec<u32>,
}

impl fmt::Display for RunUser {
    /// `uid:gid:group,group`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        write!(f, "{}:{}:{}", self.uid, self.gid, groups.join(","))
    }
}

impl RunUser {
    /// The inverse of its Display. None: it is not such a text.
    pub fn parse(text: &str) -> Option<RunUser> {
        let mut parts = text.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let groups = parts.next()?.split(',').filter(|group| !group.is_empty());
        Some(RunUser { uid, gid, groups: groups.map(str::parse).collect::<Result<_, _>>().ok()? })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum ContainerState {
    /// A record without a task: creation was interrupted, or the run ended while containerd was down and forgot.
    NoTask,
    /// Waits for its start.
    Created,
    Running {
        pid: u32,
    },
    Exited {
        exit_code: u32,
        /// A process of its cgroup was killed for want of memory.
        oom: bool,
        finished_at: jiff::Timestamp,
    },
    /// It has a task, and the shim that knows how the task stands does not answer: it may run.
    Unanswered,
}

/// Whether the runtime does not know the moment: containerd's zero time is in the year 1.
pub fn is_no_time(at: jiff::Timestamp) -> bool {
    at < jiff::Timestamp::UNIX_EPOCH
}

impl ContainerState {
    /// Whether a process of it may be alive: what must not be started beside it, nor have its place taken away.
    pub fn may_run(&self) -> bool {
        match self {
            ContainerState::Running { .. } | ContainerState::Unanswered => true,
            ContainerState::NoTask | ContainerState::Created | ContainerState::Exited { .. } => false,
        }
    }
}

/// The pod's own surroundings: namespaces, cgroup, network, directories.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum SandboxState {
    /// Nothing is there.
    #[default]
    Absent,
    /// Something is there but not all of it (after a reboot or an interrupted set-up): tear down before use.
    Broken { reason: String },
    /// Namespaces, cgroup and files stand; the network is not connected yet (never with hostNetwork).
    Made,
    /// Complete. The first address is `podIP`; with hostNetwork the node's.
    Connected { ips: Vec<IpAddr> },
}

/// What is known of a container's image.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageState {
    /// Not looked at yet.
    Unknown,
    /// Present and unpacked.
    Ready,
    /// It cannot be had at present: reason as in Kubernetes (ErrImagePull, ErrImageNeverPull, InvalidImageName …).
    Missing { reason: String, message: String },
}

/// What the probes of a run say at present. A run that has no probes has no health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe is content (or there is none), and the container has started.
    pub ready: bool,
    /// The run is to be ended: a startup or liveness probe has failed often enough.
    pub failed: Option<ProbeFailure>,
}

/// A probe that ends its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    pub probe: ProbeKind,
    /// What it found, for people.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl fmt::Display for ProbeKind {
    /// As in the kubelet's events: `Liveness`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        })
    }
}
