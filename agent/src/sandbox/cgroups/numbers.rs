//! A pod's share of the node in numbers: pure arithmetic over its containers' resources (Kubernetes' formulas).

use pod::spec::{PodSpec, Resources};

/// `cpu.shares` bounds (kernel).
pub const SHARES_MIN: u64 = 2;
pub const SHARES_MAX: u64 = 262_144;
/// The CFS period that quotas are given for (Kubernetes' default).
pub const PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas.
const QUOTA_MIN_US: u64 = 1_000;

/// Kubernetes' quality-of-service class; decides under which parent the pod's cgroup lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Guaranteed, Class::Burstable, Class::BestEffort];

    /// The parent's name below the root; None: directly under the root.
    pub fn parent(self) -> Option<&'static str> {
        match self {
            Class::Guaranteed => None,
            Class::Burstable => Some("burstable"),
            Class::BestEffort => Some("besteffort"),
        }
    }
}

/// What is set on a pod's cgroup. The containers' own limits lie below it and are the runtime's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub class: Class,
    /// `cpu.shares` of cgroup v1; see [`weight`] for v2.
    pub shares: u64,
    /// Processor time a [`PERIOD_US`]; None: no limit.
    pub quota_us: Option<u64>,
    /// Bytes; None: no limit.
    pub memory_max: Option<u64>,
}

/// Sums of the containers'; a limit of the pod only where every container has one.
pub fn limits(spec: &PodSpec) -> Limits {
    let all = || spec.containers.iter().map(|container| &container.resources);
    let requested = all().fold(0, |sum, r| r.cpu_request_milli.unwrap_or(0).saturating_add(sum));
    Limits {
        class: class(spec),
        shares: shares(requested),
        quota_us: sum_if_all(all().map(|r| positive(r.cpu_limit_milli))).map(quota_us),
        memory_max: sum_if_all(all().map(|r| positive(r.memory_limit))),
    }
}

/// Guaranteed when every container's requests equal its limits for both resources, BestEffort when nobody asks for
/// anything, Burstable otherwise.
fn class(spec: &PodSpec) -> Class {
    let nothing = |r: &Resources| {
        [r.cpu_request_milli, r.cpu_limit_milli, r.memory_request, r.memory_limit]
            .into_iter()
            .all(|value| positive(value).is_none())
    };
    let pinned = |r: &Resources| {
        positive(r.cpu_limit_milli).is_some()
            && positive(r.memory_limit).is_some()
            && r.cpu_request_milli.is_none_or(|request| Some(request) == r.cpu_limit_milli)
            && r.memory_request.is_none_or(|request| Some(request) == r.memory_limit)
    };
    if spec.containers.iter().all(|c| nothing(&c.resources)) {
        Class::BestEffort
    } else if spec.containers.iter().all(|c| pinned(&c.resources)) {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// Thousandths of a processor as `cpu.shares`.
pub fn shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// `cpu.weight` of cgroup v2 for these `cpu.shares` (the kubelet's linear mapping for pods).
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(SHARES_MIN, SHARES_MAX) - 2) * 9999 / 262_142
}

/// About the `cpu.shares` that [`weight`] was made of.
pub fn shares_of_weight(weight: u64) -> u64 {
    (2 + (weight.clamp(1, 10_000).saturating_sub(1) * 262_142).div_ceil(9999)).clamp(SHARES_MIN, SHARES_MAX)
}

fn quota_us(milli: u64) -> u64 {
    (milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US)
}

/// Kubernetes treats a quantity of 0 as not given.
fn positive(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value > 0)
}

fn sum_if_all(mut values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.try_fold(0u64, |sum, value| Some(sum.saturating_add(value?)))
}

#[cfg(test)]
mod tests {
    use pod::spec::*;

    use super::*;

    /// (cpu request, cpu limit, memory request, memory limit), 0 for none, a container each.
    fn spec(containers: &[(u64, u64, u64, u64)]) -> PodSpec {
        let some = |value: u64| (value > 0).then_some(value);
        let container = |&(cr, cl, mr, ml): &(u64, u64, u64, u64)| Container {
            name: "c".into(),
            image: "i".into(),
            pull_policy: PullPolicy::Never,
            command: vec![],
            args: vec![],
            working_dir: None,
            env: vec![],
            resources: Resources {
                cpu_request_milli: some(cr),
                cpu_limit_milli: some(cl),
                memory_request: some(mr),
                memory_limit: some(ml),
                ..Resources::default()
            },
            mounts: vec![],
            security: Security::default(),
            ports: vec![],
            stdin: false,
            tty: false,
        };
        PodSpec {
            containers: containers.iter().map(container).collect(),
            volumes: vec![],
            restart_policy: RestartPolicy::Always,
            termination_grace: std::time::Duration::from_secs(30),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            priority: 0,
            priority_class: None,
            placement: Placement::default(),
        }
    }

    #[test]
    fn classes_follow_requests_and_limits_of_all_containers() {
        for (containers, class) in [
            (&[(0, 0, 0, 0)][..], Class::BestEffort),
            (&[(100, 100, 1 << 20, 1 << 20)], Class::Guaranteed),
            (&[(100, 200, 1 << 20, 1 << 20)], Class::Burstable),
            (&[(100, 100, 0, 0)], Class::Burstable),
            (&[(100, 100, 1 << 20, 1 << 20), (0, 0, 0, 0)], Class::Burstable),
        ] {
            assert_eq!(limits(&spec(containers)).class, class, "{containers:?}");
        }
    }

    #[test]
    fn a_pod_is_limited_only_where_all_its_containers_are() {
        let both = limits(&spec(&[(100, 500, 0, 64 << 20), (200, 500, 0, 36 << 20)]));
        assert_eq!(both.shares, 307);
        assert_eq!(both.quota_us, Some(100_000));
        assert_eq!(both.memory_max, Some(100 << 20));
        let one = limits(&spec(&[(100, 500, 0, 64 << 20), (0, 0, 0, 0)]));
        assert_eq!((one.shares, one.quota_us, one.memory_max), (102, None, None));
        assert_eq!(limits(&spec(&[(0, 0, 0, 0)])).shares, 2);
        assert_eq!(limits(&spec(&[(1, 1, 1, 1)])).quota_us, Some(1000));
    }

    #[test]
    fn weights_span_the_range_of_shares() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(SHARES_MAX)], [1, 1, 39, 10_000]);
        assert_eq!(weight(shares_of_weight(39)), 39);
    }
}
