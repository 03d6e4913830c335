//! What a pod's and a container's resources mean in numbers: quality of service, cgroup values, who dies first when
//! memory runs out. Kubernetes' formulas; the sandbox and the runtime only write the results.

use std::fmt;

use crate::spec::{Container, PodSpec, Resources, Role};

/// The CFS period that quotas are given for, in µs (Kubernetes' default).
pub const CPU_PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota, in µs.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// The kernel's bounds of cpu.shares; a container without request gets the least.
pub const SHARES_MIN: u64 = 2;
pub const SHARES_MAX: u64 = 262_144;

/// The priority class whose pods are as safe as guaranteed ones.
const NODE_CRITICAL: &str = "system-node-critical";
const OOM_GUARANTEED: i32 = -997;
const OOM_BEST_EFFORT: i32 = 1000;
/// Burstable pods lie between: never as safe as guaranteed ones, never as exposed as best effort ones.
const OOM_BURSTABLE: std::ops::RangeInclusive<i64> = 3..=999;

/// v1 PodQOSClass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Guaranteed, Class::Burstable, Class::BestEffort];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        })
    }
}

/// What is written to a cgroup. None: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup {
    /// cgroup v1 `cpu.shares`; [`weight`] makes `cpu.weight` of it.
    pub shares: u64,
    /// Processor time in µs a [`CPU_PERIOD_US`].
    pub quota_us: Option<u64>,
    /// Bytes.
    pub memory_max: Option<u64>,
}

/// Limits of a cgroup as it stands. None: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub quota_us: Option<u64>,
    pub memory_max: Option<u64>,
}

impl Cgroup {
    /// The same where no limit is less than that one.
    pub fn widened_to(self, present: Bounds) -> Cgroup {
        let wider = |own: Option<u64>, present: Option<u64>| Some(own?.max(present?));
        Cgroup {
            quota_us: wider(self.quota_us, present.quota_us),
            memory_max: wider(self.memory_max, present.memory_max),
            ..self
        }
    }
}

/// Guaranteed: every container's requests are its limits, for both resources. BestEffort: nobody asks for anything.
/// Where the pod has resources of its own, only those count. A quantity of 0 is none.
pub fn class(spec: &PodSpec) -> Class {
    match &spec.resources {
        Some(of_pod) => class_of(std::iter::once(of_pod.as_ref())),
        None => class_of(spec.containers.iter().map(|c| &c.resources)),
    }
}

fn class_of<'a>(mut all: impl Iterator<Item = &'a Resources> + Clone) -> Class {
    if all.clone().all(asks_for_nothing) {
        Class::BestEffort
    } else if all.all(is_pinned) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// The cgroup of one container.
pub fn of_container(resources: &Resources) -> Cgroup {
    let cpu_limit = resources.effective_cpu_limit_milli();
    Cgroup {
        shares: shares(resources.cpu_request_milli.or(cpu_limit).unwrap_or(0)),
        quota_us: some(cpu_limit).map(quota_us),
        memory_max: some(resources.effective_memory_limit()),
    }
}

/// The cgroup of the pod: what it asks for itself; else what its containers need at the same time, and a limit only where every
/// container has one.
pub fn of_pod(spec: &PodSpec) -> Cgroup {
    let own = |of: fn(&Resources) -> Option<u64>| spec.resources.as_deref().and_then(of);
    let limit = |of: fn(&Resources) -> Option<u64>| {
        let all = spec.containers.iter().all(|container| some(of(&container.resources)).is_some());
        some(own(of)).or_else(|| all.then(|| at_once(spec, of)))
    };
    Cgroup {
        shares: shares(own(|r| r.cpu_request_milli).unwrap_or_else(|| at_once(spec, |r| r.cpu_request_milli))),
        quota_us: limit(|r| r.cpu_limit_milli).map(quota_us),
        memory_max: limit(|r| r.memory_limit),
    }
}

/// The most that the pod has of something at a time: main containers and sidecars together, or an init container beside the
/// sidecars that started before it (KEP-753).
fn at_once(spec: &PodSpec, of: fn(&Resources) -> Option<u64>) -> u64 {
    needed_at_once(&spec.containers, of)
}

/// The same of a list of containers, in the order of starts.
pub fn needed_at_once(containers: &[Container], of: impl Fn(&Resources) -> Option<u64>) -> u64 {
    let (mut sidecars, mut most) = (0_u64, 0_u64);
    for container in containers {
        let own = of(&container.resources).unwrap_or(0);
        match container.role {
            Role::Init => most = most.max(sidecars.saturating_add(own)),
            Role::Sidecar => sidecars = sidecars.saturating_add(own),
            Role::Main => {}
        }
    }
    let mains = containers.iter().filter(|container| container.role == Role::Main);
    let mains = mains.fold(0_u64, |sum, main| sum.saturating_add(of(&main.resources).unwrap_or(0)));
    most.max(mains.saturating_add(sidecars))
}

/// cgroup v2 `memory.high` of a container, from which on the kernel slows it down and reclaims: nine tenths of the way from its
/// request to its limit, in whole pages (KEP-2570 with the kubelet's factor). None where there is no such way: without a limit,
/// and where the request is the limit.
pub fn memory_high(resources: &Resources) -> Option<u64> {
    const PAGE: u64 = 4096;
    let (limit, request) = (some(resources.effective_memory_limit())?, resources.memory_request.unwrap_or(0));
    let way = limit.checked_sub(request)?;
    let high = (request + way / 10 * 9 + way % 10 * 9 / 10) / PAGE * PAGE;
    (high > request).then_some(high)
}

/// `oom_score_adj` of a container of this pod on a node with `node_memory` bytes. A sidecar lives as long as the main containers
/// that it serves.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    let critical = spec.priority_class.as_deref() == Some(NODE_CRITICAL);
    match class(spec) {
        _ if critical => OOM_GUARANTEED,
        Class::Guaranteed => OOM_GUARANTEED,
        Class::BestEffort => OOM_BEST_EFFORT,
        Class::Burstable => {
            let left = |resources: &Resources| {
                let share = resources.within.as_ref().map_or(0, |within| within.memory_share);
                let asked = resources.memory_request.unwrap_or(0).saturating_add(share);
                let asked = u128::from(asked) * 1000 / u128::from(node_memory.max(1));
                1000 - i64::try_from(asked).unwrap_or(i64::MAX).min(1000)
            };
            let served = spec.mains().map(|main| left(&main.resources)).max();
            let served = served.filter(|_| container.role == Role::Sidecar).unwrap_or(i64::MAX);
            let left = left(&container.resources).min(served);
            let score = left.clamp(*OOM_BURSTABLE.start(), *OOM_BURSTABLE.end());
            i32::try_from(score).expect("the bounds fit")
        }
    }
}

/// cgroup v2 `cpu.weight` for these shares, as the kubelet maps them for pods (linear).
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(SHARES_MIN, SHARES_MAX) - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN)
}

/// The size of a huge page, in bytes, as cgroups and the OCI specification name it: `64KB`, `2MB`, `1GB`.
pub fn page_name(size: u64) -> String {
    match size {
        size if size.is_multiple_of(1 << 30) => format!("{}GB", size >> 30),
        size if size.is_multiple_of(1 << 20) => format!("{}MB", size >> 20),
        size => format!("{}KB", size >> 10),
    }
}

/// About the `cpu.shares` that [`weight`] was made of.
pub fn shares_of_weight(weight: u64) -> u64 {
    let above = (weight.clamp(1, 10_000) - 1) * (SHARES_MAX - SHARES_MIN);
    (SHARES_MIN + above.div_ceil(9999)).clamp(SHARES_MIN, SHARES_MAX)
}

/// Thousandths of a processor as `cpu.shares`.
pub fn shares(cpu_milli: u64) -> u64 {
    (cpu_milli.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

fn quota_us(cpu_milli: u64) -> u64 {
    (cpu_milli.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_MIN_US)
}

fn asks_for_nothing(resources: &Resources) -> bool {
    let Resources { cpu_request_milli, cpu_limit_milli, memory_request, memory_limit, .. } = resources;
    [cpu_request_milli, cpu_limit_milli, memory_request, memory_limit].into_iter().all(|value| some(*value).is_none())
}

fn is_pinned(resources: &Resources) -> bool {
    let pinned = |request: Option<u64>, limit: Option<u64>| some(limit).is_some() && request == limit;
    pinned(resources.cpu_request_milli, resources.cpu_limit_milli)
        && pinned(resources.memory_request, resources.memory_limit)
}

fn some(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::spec::Within;

    const GIB: u64 = 1 << 30;

    /// (processor request, limit, memory request, limit); 0 for none.
    fn spec(containers: &[(u64, u64, u64, u64)]) -> PodSpec {
        let names = vec!["c"; containers.len()];
        let mut spec = sample::template(&names).spec;
        let given = |value: u64| (value > 0).then_some(value);
        for (container, (cpu_request, cpu_limit, memory_request, memory_limit)) in
            spec.containers.iter_mut().zip(containers)
        {
            container.resources.cpu_request_milli = given(*cpu_request);
            container.resources.cpu_limit_milli = given(*cpu_limit);
            container.resources.memory_request = given(*memory_request);
            container.resources.memory_limit = given(*memory_limit);
        }
        spec
    }

    #[test]
    fn class_is_kubernetes_class() {
        assert_eq!(class(&spec(&[(0, 0, 0, 0)])), Class::BestEffort);
        assert_eq!(class(&spec(&[(1, 1, 1, 1), (2, 2, 2, 2)])), Class::Guaranteed);
        assert_eq!(class(&spec(&[(1, 1, 1, 1), (0, 0, 0, 0)])), Class::Burstable);
        assert_eq!(class(&spec(&[(1, 2, 1, 1)])), Class::Burstable);
        assert_eq!(class(&spec(&[(1, 1, 0, 0)])), Class::Burstable);
    }

    #[test]
    fn cgroup_values_are_the_kubelets() {
        let none = of_pod(&spec(&[(0, 0, 0, 0)]));
        assert_eq!(none, Cgroup { shares: 2, quota_us: None, memory_max: None });
        let fluentd = spec(&[(100, 0, 200 << 20, 200 << 20)]);
        let expected = Cgroup { shares: 102, quota_us: None, memory_max: Some(200 << 20) };
        assert_eq!(of_pod(&fluentd), expected);
        assert_eq!(of_container(&fluentd.containers[0].resources), expected);
        assert_eq!(of_container(&spec(&[(500, 5, 0, 0)]).containers[0].resources).quota_us, Some(1000));
        assert_eq!(of_container(&spec(&[(u64::MAX, 0, 0, 0)]).containers[0].resources).shares, SHARES_MAX);
    }

    #[test]
    fn container_is_slowed_down_at_nine_tenths_of_the_way_to_its_limit() {
        let high = |request, limit| memory_high(&spec(&[(0, 0, request, limit)]).containers[0].resources);
        assert_eq!(high(0, 100 << 20), Some(94_371_840));
        assert_eq!(high(50 << 20, 100 << 20), Some(99_614_720));
        assert_eq!((high(100 << 20, 100 << 20), high(50 << 20, 0), high(0, 0), high(0, 1)), (None, None, None, None));
    }

    #[test]
    fn pod_that_grows_first_loses_no_limit_and_gets_none_that_is_less() {
        let wanted = Cgroup { shares: 2, quota_us: Some(10), memory_max: Some(10) };
        let widened = |quota_us, memory_max| wanted.widened_to(Bounds { quota_us, memory_max });
        assert_eq!(widened(Some(5), Some(20)), Cgroup { memory_max: Some(20), ..wanted });
        assert_eq!(widened(None, None), Cgroup { quota_us: None, memory_max: None, ..wanted });
    }

    #[test]
    fn pod_has_a_limit_only_where_every_container_has_one() {
        let one_without = of_pod(&spec(&[(100, 200, 1, 5), (100, 0, 1, 0)]));
        assert_eq!(one_without, Cgroup { shares: 204, quota_us: None, memory_max: None });
        let both = of_pod(&spec(&[(100, 200, 1, 5), (100, 300, 1, 6)]));
        assert_eq!(both, Cgroup { shares: 204, quota_us: Some(50_000), memory_max: Some(11) });
    }

    #[test]
    fn init_container_counts_for_the_pod_as_far_as_it_asks_for_more_than_what_runs_later() {
        let mut all = spec(&[(100, 100, 1, 10), (900, 900, 1, 1), (200, 200, 1, 5)]);
        all.containers[0].role = Role::Sidecar;
        all.containers[1].role = Role::Init;
        let expected = Cgroup { shares: 1024, quota_us: Some(100_000), memory_max: Some(15) };
        assert_eq!(of_pod(&all), expected);
    }

    #[test]
    fn what_the_pod_asks_for_itself_counts_and_its_containers_have_its_limits() {
        let mut all = spec(&[(0, 0, 0, 0), (200, 300, GIB, GIB)]);
        let within =
            Within { cpu_limit_milli: Some(1000), memory_limit: Some(4 * GIB), memory_share: GIB, ..Within::default() };
        for container in &mut all.containers {
            container.resources.within = Some(within.clone().into());
        }
        let of_pod = |request, limit| Resources {
            cpu_request_milli: Some(1000),
            cpu_limit_milli: Some(1000),
            memory_request: Some(request),
            memory_limit: Some(limit),
            ..Resources::default()
        };
        all.resources = Some(of_pod(4 * GIB, 4 * GIB).into());
        assert_eq!(class(&all), Class::Guaranteed);
        assert_eq!(super::of_pod(&all), Cgroup { shares: 1024, quota_us: Some(100_000), memory_max: Some(4 * GIB) });
        all.resources = Some(of_pod(3 * GIB, 4 * GIB).into());
        assert_eq!(class(&all), Class::Burstable);
        let [bare, own] = [0, 1].map(|index: usize| of_container(&all.containers[index].resources));
        assert_eq!(bare, Cgroup { shares: 1024, quota_us: Some(100_000), memory_max: Some(4 * GIB) });
        assert_eq!(own, Cgroup { shares: 204, quota_us: Some(30_000), memory_max: Some(GIB) });
        let score = |index: usize| oom_score_adj(&all, &all.containers[index], 8 * GIB);
        assert_eq!((score(0), score(1)), (875, 750));
    }

    #[test]
    fn sidecar_is_no_sooner_killed_than_what_it_serves() {
        let mut both = spec(&[(1, 0, 0, 0), (1, 0, 2 * GIB, 0)]);
        both.containers[0].role = Role::Sidecar;
        assert_eq!(oom_score_adj(&both, &both.containers[0], 8 * GIB), 750);
    }

    #[test]
    fn oom_score_follows_class_and_request() {
        let score = |spec: &PodSpec| oom_score_adj(spec, &spec.containers[0], 8 * GIB);
        assert_eq!(score(&spec(&[(0, 0, 0, 0)])), 1000);
        assert_eq!(score(&spec(&[(1, 1, GIB, GIB)])), -997);
        assert_eq!(score(&spec(&[(0, 0, 2 * GIB, 0)])), 750);
        assert_eq!(score(&spec(&[(1, 0, 0, 0)])), 999);
        assert_eq!(score(&spec(&[(1, 0, u64::MAX, 0)])), 3);
        let mut critical = spec(&[(0, 0, 0, 0)]);
        critical.priority_class = Some(NODE_CRITICAL.into());
        assert_eq!(score(&critical), -997);
    }

    #[test]
    fn pages_are_named_as_cgroups_name_them() {
        assert_eq!([64 << 10, 2 << 20, GIB, 512 << 20].map(page_name), ["64KB", "2MB", "1GB", "512MB"]);
    }

    #[test]
    fn weight_spans_its_whole_range() {
        assert_eq!((weight(0), weight(SHARES_MIN), weight(1024), weight(SHARES_MAX)), (1, 1, 39, 10_000));
        assert_eq!(weight(shares_of_weight(39)), 39);
    }
}
