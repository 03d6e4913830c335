//! The resource part of the OCI spec: processor, memory, devices, and who dies first when memory runs out.
//!
//! Pure; used by `oci`. The numbers are the kubelet's.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};

use pod::spec::{PodTemplate, Resources};

use super::host::HostDevice;
use super::oci::{Adapted, Inputs};

/// The CFS period in µs.
const CPU_PERIOD: u64 = 100_000;
/// The smallest quota that the kernel takes, in µs.
const CPU_QUOTA_MIN: u64 = 1_000;
/// The kernel's bounds of cpu.shares.
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// Priorities from here on are the system's own (system-cluster-critical).
const NODE_CRITICAL: &str = "system-node-critical";

/// `linux.resources` of a container.
pub fn of_container(inputs: &Inputs<'_>, adapted: &mut Vec<Adapted>) -> LinuxResources {
    let asked = &inputs.run.container.resources;
    let mut out = LinuxResources::default();
    out.set_devices(Some(device_rules(inputs))).set_cpu(Some(cpu(asked)));
    if let Some(limit) = asked.memory_limit {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit));
        if inputs.host.swap_limits {
            // Memory and swap together: no swap at all.
            memory.set_swap(Some(limit));
        } else {
            adapted.push(Adapted {
                what: "the memory limit does not count swap".into(),
                why: "the kernel does not account swap".into(),
            });
        }
        out.set_memory(Some(memory));
    }
    if inputs.host.cgroup_v2 {
        // Out of memory ends the whole container, not one process of it.
        out.set_unified(Some(HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())])));
    }
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
    let wanted = wanted_oom_score_adj(inputs.run.template, &inputs.run.container.resources, inputs.host.memory);
    let least = inputs.host.oom_score_adj_min;
    if wanted < least {
        adapted.push(Adapted {
            what: format!("oom_score_adj {least} instead of {wanted}"),
            why: "containerd lacks CAP_SYS_RESOURCE".into(),
        });
    }
    wanted.max(least)
}

fn cpu(asked: &Resources) -> LinuxCpu {
    let shares = asked.cpu_request_milli.unwrap_or(0).saturating_mul(1024) / 1000;
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(shares.clamp(*CPU_SHARES.start(), *CPU_SHARES.end())));
    if let Some(milli) = asked.cpu_limit_milli.filter(|milli| *milli > 0) {
        let quota = (milli.saturating_mul(CPU_PERIOD) / 1000).max(CPU_QUOTA_MIN);
        cpu.set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX))).set_period(Some(CPU_PERIOD));
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
            let mut one = rule(true, if mount.read_only { "r" } else { "rw" });
            one.set_typ(Some(kind(device))).set_major(Some(device.major)).set_minor(Some(device.minor));
            rules.push(one);
        }
    }
    rules
}

fn kind(device: &HostDevice) -> LinuxDeviceType {
    if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

fn wanted_oom_score_adj(template: &PodTemplate, own: &Resources, node_memory: u64) -> i32 {
    let all: Vec<&Resources> = template.spec.containers.iter().map(|it| &it.resources).collect();
    let guaranteed = |it: &Resources| {
        let equal = |request: Option<u64>, limit: Option<u64>| limit.is_some_and(|n| n > 0) && request == limit;
        equal(it.cpu_request_milli, it.cpu_limit_milli) && equal(it.memory_request, it.memory_limit)
    };
    let nothing = |it: &Resources| {
        let values = [it.cpu_request_milli, it.cpu_limit_milli, it.memory_request, it.memory_limit];
        values.iter().all(|value| value.unwrap_or(0) == 0)
    };
    if template.spec.priority_class.as_deref() == Some(NODE_CRITICAL) || all.iter().all(|it| guaranteed(it)) {
        return -997;
    }
    if all.iter().all(|it| nothing(it)) {
        return 1000;
    }
    let request = u128::from(own.memory_request.unwrap_or(0));
    let share = request.saturating_mul(1000) / u128::from(node_memory.max(1));
    let score = 1000 - i32::try_from(share).unwrap_or(1000).min(1000);
    // Never as safe as the guaranteed, never as exposed as the best effort.
    score.clamp(3, 999)
}
