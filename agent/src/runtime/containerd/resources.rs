//! The resource part of the OCI spec: processor, memory, devices, and who dies first when memory runs out.
//!
//! Pure; used by `oci`. The numbers are `pod::qos`'s; here they become OCI.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};

use pod::qos;
use pod::spec::Resources;

use super::host::HostDevice;
use super::huge_pages::HugePagesError;
use super::oci::{Adapted, Inputs};

/// What this node does with containers that want more memory than there is. Of cgroup v2 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPolicy {
    /// One process ends, not the whole container.
    pub single_process_oom_kill: bool,
    /// Containers are slowed down before they reach their limit ([`qos::memory_high`]).
    pub throttled: bool,
}

/// memory.high of a container; None: it is not slowed down.
pub fn memory_high(asked: &Resources, policy: MemoryPolicy) -> Option<u64> {
    qos::memory_high(asked).filter(|_| policy.throttled)
}

/// What memory.high of a container that is there is to say: it may have a value of the amounts or of the policy before.
pub fn memory_high_again(asked: &Resources, policy: MemoryPolicy) -> String {
    memory_high(asked, policy).map_or_else(|| "max".to_owned(), |high| high.to_string())
}

/// `linux.resources` of a container.
pub fn of_container(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> Result<LinuxResources, HugePagesError> {
    let asked = &inputs.run.container.resources;
    let mut out = LinuxResources::default();
    out.set_devices(Some(device_rules(inputs))).set_cpu(Some(cpu(asked)));
    if let Some(memory) = memory(asked, inputs.host.swap_limits) {
        if !inputs.host.swap_limits {
            adapted.push(Adapted {
                what: "the memory limit does not count swap".into(),
                why: "the kernel does not account swap".into(),
            });
        }
        out.set_memory(Some(memory));
    }
    if inputs.host.cgroup_v2 {
        let mut unified = HashMap::new();
        if !inputs.memory.single_process_oom_kill {
            // Out of memory ends the whole container, not one process of it.
            unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        }
        if let Some(high) = memory_high(asked, inputs.memory) {
            unified.insert("memory.high".to_owned(), high.to_string());
        }
        if inputs.host.swap_limits {
            // No swap, with a memory limit or without one: the kubelet's NoSwap, its default. v1 cannot say it without.
            unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
        out.set_unified(Some(unified));
    }
    let huge_pages = inputs.huge_pages.limits(asked, adapted)?;
    out.set_hugepage_limits((!huge_pages.is_empty()).then_some(huge_pages));
    Ok(out)
}

/// What a container that is there is given instead of what it has: everything that is limited stays so.
pub fn of_update(asked: &Resources, swap_limits: bool) -> LinuxResources {
    let mut out = LinuxResources::default();
    out.set_devices(None).set_cpu(Some(cpu(asked))).set_memory(memory(asked, swap_limits));
    out
}

/// `linux.devices`: nodes that runc makes in the container's /dev.
pub fn device_nodes(devices: &[HostDevice]) -> Vec<LinuxDevice> {
    let node = |device: &HostDevice| {
        let mut node = LinuxDevice::default();
        node.set_path(PathBuf::from(&device.path))
            .set_typ(kind(device))
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(Some(device.mode))
            .set_uid(Some(device.uid))
            .set_gid(Some(device.gid));
        node
    };
    devices.iter().map(node).collect()
}

/// oom_score_adj by Kubernetes' formula, not below what may be set here.
pub fn oom_score_adj(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> i32 {
    let wanted = qos::oom_score_adj(&inputs.run.template.spec, inputs.run.container, inputs.host.memory);
    let least = inputs.host.oom_score_adj_min;
    if wanted < least {
        adapted.push(Adapted {
            what: format!("oom_score_adj {least} instead of {wanted}"),
            why: "containerd lacks CAP_SYS_RESOURCE".into(),
        });
    }
    wanted.max(least)
}

/// None: no limit.
fn memory(asked: &Resources, swap_limits: bool) -> Option<LinuxMemory> {
    let limit = i64::try_from(qos::of_container(asked).memory_max?).unwrap_or(i64::MAX);
    let mut memory = LinuxMemory::default();
    // Memory and swap together are no more than memory: no swap at all.
    memory.set_limit(Some(limit)).set_swap(swap_limits.then_some(limit));
    Some(memory)
}

fn cpu(asked: &Resources) -> LinuxCpu {
    let wanted = qos::of_container(asked);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(wanted.shares));
    if let Some(quota) = wanted.quota_us {
        cpu.set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX))).set_period(Some(qos::CPU_PERIOD_US));
    }
    cpu
}

/// Nothing but what runc always allows (null, zero, full, random, urandom, tty, pts), and the devices that are
/// mounted by name; everything where privileged.
fn device_rules(inputs: &Inputs<'_>) -> Vec<LinuxDeviceCgroup> {
    let rule = |allow, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_access(Some(access.to_owned()));
        rule
    };
    if inputs.run.container.security.privileged {
        return vec![rule(true, "rwm")];
    }
    let mut rules = vec![rule(false, "rwm")];
    for mount in &inputs.run.container.mounts {
        if let Some(device) = inputs.volume_devices.get(&mount.volume) {
            let mut one = rule(true, if mount.read_only { "r" } else { "rwm" });
            one.set_typ(Some(kind(device))).set_major(Some(device.major)).set_minor(Some(device.minor));
            rules.push(one);
        }
    }
    rules
}

fn kind(device: &HostDevice) -> LinuxDeviceType {
    if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resized_container_keeps_no_memory_high_of_before() {
        let asked = |request, limit| Resources {
            memory_request: Some(request),
            memory_limit: Some(limit),
            ..Resources::default()
        };
        let policy = |throttled| MemoryPolicy { throttled, ..MemoryPolicy::default() };
        assert_eq!(memory_high_again(&asked(50 << 20, 100 << 20), policy(true)), "99614720");
        assert_eq!(memory_high_again(&asked(100 << 20, 100 << 20), policy(true)), "max");
        assert_eq!(memory_high_again(&asked(50 << 20, 100 << 20), policy(false)), "max");
    }
}
