//! What a pod may use of the node's disk, and whether it uses more (Kubernetes' local ephemeral storage): pure.
//!
//! Driven by the agent's `storage`, which measures. The messages are Kubernetes'.

use std::collections::BTreeMap;

use crate::manifest::quantity;
use crate::spec::{EmptyDir, Medium, PodSpec, Resources, Role, VolumeSource};

/// Kubernetes' reason of a pod that has failed by what it uses of the disk.
pub const EVICTED: &str = "Evicted";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// The limits of a pod, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// `emptyDir.sizeLimit` of those on disk, by volume.
    pub volumes: BTreeMap<String, u64>,
    /// `resources.limits.ephemeral-storage`, by container.
    pub containers: BTreeMap<String, u64>,
    /// Of all containers that have one together; None where none has.
    pub pod: Option<u64>,
}

/// What a pod uses, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// emptyDirs on disk.
    pub volumes: BTreeMap<String, u64>,
    /// Writable layers and logs.
    pub containers: BTreeMap<String, u64>,
}

impl Limits {
    /// None: nothing is limited, so nothing needs to be measured.
    pub fn of(spec: &PodSpec) -> Option<Limits> {
        let mut limits = Limits::default();
        for volume in &spec.volumes {
            if let VolumeSource::EmptyDir(EmptyDir { medium: Medium::Disk, size_limit: Some(limit), .. }) =
                volume.source
            {
                limits.volumes.insert(volume.name.clone(), limit);
            }
        }
        // In the order of starts: an init container runs beside the sidecars before it, the main ones beside all.
        let (mut together, mut most_before) = (0_u64, 0_u64);
        for container in &spec.containers {
            let Some(limit) = of_container(&container.resources) else { continue };
            limits.containers.insert(container.name.clone(), limit);
            match container.role {
                Role::Init => most_before = most_before.max(together.saturating_add(limit)),
                Role::Sidecar | Role::Main => together = together.saturating_add(limit),
            }
        }
        limits.pod = (!limits.containers.is_empty()).then(|| together.max(most_before));
        (limits != Limits::default()).then_some(limits)
    }

    /// Why the pod is to end: the first limit that it exceeds, in Kubernetes' order.
    pub fn exceeded(&self, usage: &Usage) -> Option<String> {
        let over = |limits: &BTreeMap<String, u64>, used: &BTreeMap<String, u64>| {
            let mut over = limits.iter().filter(|(name, limit)| used.get(*name).is_some_and(|used| used > *limit));
            over.next().map(|(name, limit)| (name.clone(), written(*limit)))
        };
        if let Some((name, limit)) = over(&self.volumes, &usage.volumes) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}."));
        }
        let all = usage.volumes.values().chain(usage.containers.values());
        let total = all.fold(0_u64, |sum, used| sum.saturating_add(*used));
        if let Some(limit) = self.pod.filter(|limit| total > *limit) {
            let limit = written(limit);
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}."));
        }
        let (name, limit) = over(&self.containers, &usage.containers)?;
        Some(format!("Container {name} exceeded its local ephemeral storage limit {limit:?}."))
    }
}

/// 0 is none.
fn of_container(resources: &Resources) -> Option<u64> {
    let written = resources.limits.get(EPHEMERAL_STORAGE)?;
    let bytes = quantity::parse(written)?.milli / 1000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// A quantity in its shortest form: `1536Mi`.
pub fn written(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let fits = |power: &usize| bytes.is_multiple_of(1_u64 << (10 * power));
    let power = (0..UNITS.len()).rev().find(fits).filter(|_| bytes > 0).unwrap_or(0);
    format!("{}{}", bytes >> (10 * power), UNITS[power])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::spec::Volume;

    fn spec(limits: &[(&str, Role, &str)]) -> PodSpec {
        let names: Vec<&str> = limits.iter().map(|(name, ..)| *name).collect();
        let mut spec = sample::template(&names).spec;
        for (container, (_, role, limit)) in spec.containers.iter_mut().zip(limits) {
            container.role = *role;
            if !limit.is_empty() {
                container.resources.limits.insert(EPHEMERAL_STORAGE.into(), (*limit).into());
            }
        }
        spec
    }

    fn empty_dir(name: &str, medium: Medium, size_limit: u64) -> Volume {
        let of = EmptyDir { medium, size_limit: Some(size_limit), group: None };
        Volume { name: name.into(), source: VolumeSource::EmptyDir(of) }
    }

    #[test]
    fn a_pod_without_limits_is_not_measured() {
        let mut spec = spec(&[("a", Role::Main, ""), ("b", Role::Main, "0")]);
        spec.volumes = vec![empty_dir("memory", Medium::Memory, 1)];
        assert_eq!(Limits::of(&spec), None);
    }

    #[test]
    fn the_pods_limit_is_of_what_runs_at_a_time() {
        let pod = |limits: &[(&str, Role, &str)]| Limits::of(&spec(limits)).and_then(|limits| limits.pod);
        assert_eq!(pod(&[("a", Role::Main, "1Mi"), ("b", Role::Main, "2Mi"), ("c", Role::Main, "")]), Some(3 << 20));
        assert_eq!(pod(&[("i", Role::Init, "9Mi"), ("a", Role::Main, "1Mi")]), Some(9 << 20));
        let beside = [("s", Role::Sidecar, "2Mi"), ("i", Role::Init, "9Mi"), ("a", Role::Main, "1Mi")];
        assert_eq!(pod(&beside), Some(11 << 20));
    }

    #[test]
    fn what_is_exceeded_is_said_in_kubernetes_words() {
        let mut spec = spec(&[("a", Role::Main, "1Mi"), ("b", Role::Main, "2Mi")]);
        spec.volumes = vec![empty_dir("data", Medium::Disk, 3 << 19)];
        let limits = Limits::of(&spec).unwrap();
        let check = |volume: u64, a: u64, b: u64| {
            let of = |name: &str, used: u64| (name.to_owned(), used);
            let usage = Usage { volumes: [of("data", volume)].into(), containers: [of("a", a), of("b", b)].into() };
            limits.exceeded(&usage).unwrap_or_default()
        };
        assert_eq!(check(3 << 19, 1 << 20, 1 << 19), "");
        assert_eq!(check((3 << 19) + 1, 0, 0), "Usage of EmptyDir volume \"data\" exceeds the limit \"1536Ki\".");
        assert_eq!(check(0, (1 << 20) + 1, 0), "Container a exceeded its local ephemeral storage limit \"1Mi\".");
        let total = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi.";
        assert_eq!(check(3 << 19, 1 << 20, 1 << 20), total);
    }
}
