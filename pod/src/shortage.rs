//! What it means that the node runs short of memory, disk or processes, and whom that ends (Kubernetes' node-pressure eviction): pure.
//!
//! Driven by the agent's `pressure`, which measures. Daemons of this node's own documents never end for it, nor do critical pods; of the
//! control endpoint's others one at a time ends, in the kubelet's order, and none of them begins before it is over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::desired::DesiredPod;
use crate::manifest::quantity;
use crate::name::{Uid, WorkloadKind};
use crate::plan::PodView;
use crate::record::Lifecycle;
use crate::spec::{PodSpec, Role};
use crate::storage;
use crate::time::Moment;

/// From this priority on a pod is critical (Kubernetes' scheduling.SystemCriticalPriority).
pub const CRITICAL: i32 = 2_000_000_000;

/// So long a pressure stands after the node was last short (the kubelet's evictionPressureTransitionPeriod): one that comes and goes
/// makes no pods come and go.
pub const TRANSITION: Duration = Duration::from_secs(300);

/// What a node has a limited amount of. In the order in which the kubelet acts: memory kills before disks do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// In bytes, without what the kernel can drop at once (`memory.available`).
    Memory,
    /// Bytes of the file systems of state and logs (`nodefs.available`).
    Disk,
    /// Their inodes (`nodefs.inodesFree`).
    Inodes,
    /// Bytes of containerd's (`imagefs.available`).
    ImageDisk,
    /// `imagefs.inodesFree`.
    ImageInodes,
    /// Numbers that processes and threads may have (`pid.available`).
    Pids,
}

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    pub const ALL: [Pressure; 3] = [Pressure::Memory, Pressure::Disk, Pressure::Pid];

    /// The condition's type.
    pub fn name(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

impl Resource {
    /// The node is short of it below this: the kubelet's hard thresholds, which has none for processes. A twentieth of them leaves a
    /// machine of the usual 32,768 numbers 1,600, with which a person can still log in and look.
    fn threshold(self) -> Threshold {
        match self {
            Resource::Memory => Threshold::Amount(100 << 20),
            Resource::Disk => Threshold::Percent(10),
            Resource::ImageDisk => Threshold::Percent(15),
            Resource::Inodes | Resource::ImageInodes | Resource::Pids => Threshold::Percent(5),
        }
    }

    pub fn pressure(self) -> Pressure {
        match self {
            Resource::Memory => Pressure::Memory,
            Resource::Disk | Resource::Inodes | Resource::ImageDisk | Resource::ImageInodes => Pressure::Disk,
            Resource::Pids => Pressure::Pid,
        }
    }

    /// As Kubernetes names it where a pod was evicted.
    fn word(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Disk | Resource::ImageDisk => "ephemeral-storage",
            Resource::Inodes | Resource::ImageInodes => "inodes",
            Resource::Pids => "pids",
        }
    }

    fn written(self, amount: u64) -> String {
        match self {
            Resource::Memory | Resource::Disk | Resource::ImageDisk => storage::written(amount),
            Resource::Inodes | Resource::ImageInodes | Resource::Pids => amount.to_string(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Threshold {
    Amount(u64),
    Percent(u8),
}

/// What was measured of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub resource: Resource,
    pub available: u64,
    pub capacity: u64,
}

/// The node has less of it than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    pub resource: Resource,
    pub available: u64,
    /// Below which it is short.
    pub threshold: u64,
}

impl Short {
    /// For the node's condition.
    pub fn words(&self) -> String {
        let Short { resource, available, threshold } = self;
        format!(
            "the node is low on {}: {} available, at least {} are wanted",
            resource.word(),
            resource.written(*available),
            resource.written(*threshold)
        )
    }
}

/// What the node is short of: of each resource the worst, in the order of [`Resource`]. What has no capacity was not measured.
pub fn short(measured: &[Measured]) -> Vec<Short> {
    let mut found: BTreeMap<Resource, Short> = BTreeMap::new();
    for Measured { resource, available, capacity } in measured.iter().copied().filter(|it| it.capacity > 0) {
        let threshold = match resource.threshold() {
            // A node that has little more at all is not short of it for ever.
            Threshold::Amount(amount) => amount.min(capacity / 10),
            Threshold::Percent(percent) => {
                u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
            }
        };
        let short = Short { resource, available, threshold };
        // Compared by how much of the threshold is left.
        let share = |it: &Short| u128::from(it.available) * 1_000_000 / u128::from(it.threshold.max(1));
        if available < threshold && found.get(&resource).is_none_or(|known| share(&short) < share(known)) {
            found.insert(resource, short);
        }
    }
    found.into_values().collect()
}

/// Which pressures stand, and since when the node was not short any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pressures {
    last: BTreeMap<Pressure, (Moment, Short)>,
}

impl Pressures {
    /// After a look.
    pub fn follow(&mut self, short: &[Short], now: Moment) {
        for found in short {
            self.last.insert(found.resource.pressure(), (now, *found));
        }
        self.last.retain(|_, (seen, _)| *seen == now || now < seen.after(TRANSITION));
    }

    /// Those that stand, each with why.
    pub fn standing(&self, now: Moment) -> BTreeMap<Pressure, String> {
        let words = |(seen, short): &(Moment, Short)| match *seen == now {
            true => short.words(),
            false => format!("{}; that is over for {} s", short.words(), now.since(*seen).as_secs()),
        };
        self.last.iter().map(|(pressure, last)| (*pressure, words(last))).collect()
    }

    /// When one of them ends by itself, where nothing more is found.
    pub fn over_at(&self) -> Option<Moment> {
        self.last.values().map(|(seen, _)| seen.after(TRANSITION)).min()
    }
}

/// A pod that may end for the node's sake, as far as the order needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub uid: Uid,
    pub priority: i32,
    /// In the resource's own unit.
    pub usage: u64,
    pub requested: u64,
}

/// Whether the pod may end for the node's sake: one of the control endpoint's, not critical, that runs.
pub fn may_end(pod: &PodView) -> bool {
    pod.record.workload.kind == WorkloadKind::Control
        && pod.template.spec.priority < CRITICAL
        && pod.record.lifecycle == Lifecycle::Running
        && pod.record.course.failed.is_none()
        && pod.containers.iter().any(|container| container.state.may_run())
}

/// Whether the pod waits with its beginning until the node is no longer short: it might have to end for it at once.
pub fn must_wait(pod: &DesiredPod) -> bool {
    pod.workload.kind == WorkloadKind::Control && pod.template.spec.priority < CRITICAL
}

/// Of these in the kubelet's order the first: who uses more than was requested, the least priority, who is farthest above the request.
/// Of inodes and processes nobody requests any.
pub fn first_to_end(resource: Resource, candidates: &[Candidate]) -> Option<&Candidate> {
    let rank = |it: &&Candidate| {
        let above = i128::from(it.usage) - i128::from(it.requested);
        let over = matches!(resource.pressure(), Pressure::Memory | Pressure::Disk) && above > 0;
        (Reverse(over), it.priority, Reverse(above), it.uid.clone())
    };
    candidates.iter().min_by_key(rank)
}

/// What the pod has requested of it, in its own unit.
pub fn requested(spec: &PodSpec, resource: Resource) -> u64 {
    let name = match resource {
        Resource::Memory => "memory",
        Resource::Disk | Resource::ImageDisk => "ephemeral-storage",
        Resource::Inodes | Resource::ImageInodes | Resource::Pids => return 0,
    };
    let of = |list: &BTreeMap<String, String>| {
        let milli = quantity::parse(list.get(name)?)?.milli;
        u64::try_from(milli / 1000).ok()
    };
    let mut sum = 0_u64;
    for container in spec.containers.iter().filter(|container| container.role != Role::Init) {
        let resources = &container.resources;
        // A limit without a request is one, as in Kubernetes.
        let own = of(&resources.requests).or_else(|| of(&resources.limits)).unwrap_or(0);
        sum = sum.saturating_add(own);
    }
    sum
}

/// Why the pod was evicted, in Kubernetes' words.
pub fn message(short: &Short, candidate: &Candidate) -> String {
    let Short { resource, available, threshold } = short;
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        resource.word(),
        resource.written(*threshold),
        resource.written(*available)
    );
    let Candidate { usage, requested, .. } = candidate;
    if usage > requested {
        message.push_str(&format!(
            "Its containers were using {}, request is {}, has larger consumption of {}. ",
            resource.written(*usage),
            resource.written(*requested),
            resource.word()
        ));
    }
    message
}

/// Resources of which what a candidate uses has to be measured.
pub fn to_measure(short: &[Short]) -> BTreeSet<Resource> {
    short.iter().map(|short| short.resource).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn measured(resource: Resource, available: u64, capacity: u64) -> Measured {
        Measured { resource, available, capacity }
    }

    fn candidate(uid: &str, priority: i32, usage: u64, requested: u64) -> Candidate {
        Candidate { uid: Uid(uid.into()), priority, usage, requested }
    }

    #[test]
    fn the_thresholds_are_the_kubelets() {
        for (resource, available, capacity, is_short) in [
            (Resource::Memory, (100 << 20) - 1, 8 * GIB, true),
            (Resource::Memory, 100 << 20, 8 * GIB, false),
            (Resource::Memory, 20 << 20, 256 << 20, true),
            (Resource::Memory, 30 << 20, 256 << 20, false),
            (Resource::Disk, 9, 100, true),
            (Resource::Disk, 10, 100, false),
            (Resource::ImageDisk, 14, 100, true),
            (Resource::ImageDisk, 15, 100, false),
            (Resource::Inodes, 4, 100, true),
            (Resource::ImageInodes, 5, 100, false),
            (Resource::Pids, 1_637, 32_768, true),
            (Resource::Pids, 0, 0, false),
        ] {
            let found = short(&[measured(resource, available, capacity)]);
            assert_eq!(!found.is_empty(), is_short, "{resource:?} {available} of {capacity}: {found:?}");
        }
        let disks =
            [measured(Resource::Disk, 9, 100), measured(Resource::Disk, 1, 100), measured(Resource::Disk, 50, 100)];
        assert_eq!(short(&disks).iter().map(|it| it.available).collect::<Vec<_>>(), [1], "the worst of several");
    }

    #[test]
    fn a_pressure_stands_for_a_while_after_it_was_seen_last() {
        let mut pressures = Pressures::default();
        let low = short(&[measured(Resource::Memory, 0, GIB)]);
        pressures.follow(&low, Moment(1_000));
        assert_eq!(pressures.standing(Moment(1_000)).into_keys().collect::<Vec<_>>(), [Pressure::Memory]);
        pressures.follow(&[], Moment(11_000));
        assert!(pressures.standing(Moment(11_000))[&Pressure::Memory].contains("over for 10 s"));
        assert_eq!(pressures.over_at(), Some(Moment(301_000)));
        pressures.follow(&[], Moment(300_999));
        assert_eq!(pressures.standing(Moment(300_999)).len(), 1);
        pressures.follow(&[], Moment(301_000));
        assert!(pressures.standing(Moment(301_000)).is_empty() && pressures.over_at().is_none());
    }

    #[test]
    fn who_ends_first_uses_more_than_it_asked_for_then_counts_least_then_is_farthest_above() {
        let pods = [
            candidate("modest", 0, 10, 100),
            candidate("important", 1000, 500, 100),
            candidate("greedy", 0, 500, 100),
            candidate("greedier", 0, 600, 100),
        ];
        let order = |resource: Resource| {
            let mut left = pods.to_vec();
            let mut order = Vec::new();
            while let Some(next) = first_to_end(resource, &left).cloned() {
                left.retain(|it| *it != next);
                order.push(next.uid.0);
            }
            order
        };
        assert_eq!(order(Resource::Memory), ["greedier", "greedy", "important", "modest"]);
        assert_eq!(order(Resource::Pids), ["greedier", "greedy", "modest", "important"]);
        assert_eq!(first_to_end(Resource::Memory, &[]), None);
    }

    #[test]
    fn only_running_pods_of_the_endpoint_that_are_not_critical_may_end() {
        use crate::name::{RunKey, WorkloadKey};
        use crate::observed::{ContainerState, ObservedContainer, SandboxState};
        use crate::sample;
        let view = |kind: WorkloadKind, priority: i32, state: ContainerState| {
            let mut template = sample::template(&["a"]);
            template.spec.priority = priority;
            let mut record = sample::record("u");
            record.workload = WorkloadKey { kind, ..record.workload };
            let run = RunKey { uid: record.uid.clone(), container: "a".into(), attempt: 0 };
            let container = ObservedContainer {
                id: run.container_id(),
                workload: record.workload.clone(),
                run,
                image_id: String::new(),
                adapted: String::new(),
                not_refreshed: String::new(),
                image: String::new(),
                user: None,
                state,
            };
            let (sandbox, images) = (SandboxState::Absent, BTreeMap::new());
            PodView { record, template: template.into(), sandbox, containers: vec![container], images, owed: None }
        };
        let runs = || ContainerState::Running { pid: 1 };
        for (kind, priority, state, may) in [
            (WorkloadKind::Control, 0, runs(), true),
            (WorkloadKind::Control, CRITICAL - 1, runs(), true),
            (WorkloadKind::Control, CRITICAL, runs(), false),
            (WorkloadKind::Control, 0, ContainerState::Created, false),
            (WorkloadKind::Pod, 0, runs(), false),
            (WorkloadKind::DaemonSet, 0, runs(), false),
        ] {
            assert_eq!(may_end(&view(kind, priority, state)), may, "{kind:?} {priority}");
        }
        let mut ends = view(WorkloadKind::Control, 0, runs());
        ends.record.lifecycle = Lifecycle::Finished;
        assert!(!may_end(&ends));
    }

    #[test]
    fn what_is_requested_is_of_all_that_run_at_a_time() {
        let mut spec = crate::sample::template(&["i", "s", "a"]).spec;
        for (container, role) in spec.containers.iter_mut().zip([Role::Init, Role::Sidecar, Role::Main]) {
            container.role = role;
            container.resources.requests.insert("memory".into(), "1Mi".into());
        }
        spec.containers[2].resources.requests.clear();
        spec.containers[2].resources.limits.insert("memory".into(), "3Mi".into());
        assert_eq!(requested(&spec, Resource::Memory), 4 << 20);
        assert_eq!(requested(&spec, Resource::Pids), 0);
    }

    #[test]
    fn the_message_is_kubernetes() {
        let short = Short { resource: Resource::Memory, available: 50 << 20, threshold: 100 << 20 };
        assert_eq!(
            message(&short, &candidate("u", 0, 30 << 20, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Its containers were using 30Mi, request \
             is 0, has larger consumption of memory. "
        );
    }

    proptest! {
        /// Whoever ends first: nobody who keeps to the request before one who does not, and among those alike nobody of more priority.
        #[test]
        fn nobody_ends_before_one_who_deserves_it_more(
            pods in proptest::collection::vec((0_i32..4, 0_u64..10, 0_u64..10), 1..8),
            memory in any::<bool>(),
        ) {
            let resource = if memory { Resource::Memory } else { Resource::Pids };
            let pods: Vec<Candidate> = pods.into_iter().enumerate()
                .map(|(at, (priority, usage, requested))| candidate(&at.to_string(), priority, usage, requested)).collect();
            let first = first_to_end(resource, &pods).unwrap();
            let over = |it: &Candidate| memory && it.usage > it.requested;
            for other in &pods {
                prop_assert!(over(first) || !over(other));
                if over(first) == over(other) {
                    prop_assert!(first.priority <= other.priority);
                    if first.priority == other.priority {
                        let above = |it: &Candidate| i128::from(it.usage) - i128::from(it.requested);
                        prop_assert!(above(first) >= above(other));
                    }
                }
            }
            let mut turned = pods.clone();
            turned.reverse();
            prop_assert_eq!(first_to_end(resource, &turned), Some(first));
        }

        /// A pressure is never said of a node that has enough for long, and always of one that is short.
        #[test]
        fn a_pressure_follows_what_is_measured(looks in proptest::collection::vec((any::<bool>(), 1_u64..200_000), 1..40)) {
            let (mut pressures, mut now, mut last) = (Pressures::default(), 0, None);
            for (low, later) in looks {
                now += later;
                let available = if low { 0 } else { GIB };
                pressures.follow(&short(&[measured(Resource::Memory, available, GIB)]), Moment(now));
                if low {
                    last = Some(now);
                }
                let stands = pressures.standing(Moment(now)).contains_key(&Pressure::Memory);
                prop_assert_eq!(stands, last.is_some_and(|last| now - last < 300_000));
            }
        }
    }
}
