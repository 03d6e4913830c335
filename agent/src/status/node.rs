//! This node as v1 Node JSON, with what only this program has under the key `daemonlet`.

use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::time;
use crate::board::{Board, Check};
use crate::config::{automatic_labels, node_labels, taint_text};

/// What a Node document shows of the machine itself; read once, it does not change while the machine runs.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    /// Processors that this process may use.
    pub processors: usize,
    pub memory_bytes: u64,
    /// Resources of huge pages (`hugepages-2Mi`), and how many bytes of each are set aside.
    pub huge_pages: Vec<(String, u64)>,
    /// Of the state directory's file system, when somebody has asked first.
    pub storage_bytes: OnceLock<u64>,
}

/// How often a kubelet moves `lastHeartbeatTime` of a condition that does not change, in seconds.
const HEARTBEAT: i64 = 300;

impl Machine {
    /// Blocking, a few small files.
    pub fn read() -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os_image = text("/etc/os-release")
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .unwrap_or_default();
        let memory_kib = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Machine {
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image,
            machine_id: text("/etc/machine-id"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_kib.saturating_mul(1024),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            storage_bytes: OnceLock::new(),
        }
    }
}

/// One a size that the machine has, by size: `hugepages-<size>kB/nr_hugepages` below this directory.
fn huge_pages(dir: &Path) -> Vec<(String, u64)> {
    let of = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((kib, pages.saturating_mul(kib).saturating_mul(1024)))
    };
    let mut sizes: Vec<(u64, u64)> = std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(of).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(|(kib, bytes)| (format!("hugepages-{}", binary(kib.saturating_mul(1024))), bytes)).collect()
}

/// A quantity with the largest binary suffix that divides it, as Kubernetes writes them.
fn binary(bytes: u64) -> String {
    let suffixes = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fits = suffixes.into_iter().find(|(power, _)| bytes > 0 && bytes.is_multiple_of(1 << power));
    fits.map_or_else(|| bytes.to_string(), |(power, suffix)| format!("{}{suffix}", bytes >> power))
}

/// Bytes of the file system in which this directory lies; 0: it cannot be told.
fn size_of(dir: &Path) -> u64 {
    nix::sys::statvfs::statvfs(dir).map_or(0, |it| it.blocks().saturating_mul(it.fragment_size()))
}

/// What the node has, and what of it pods can have.
fn resources(machine: &Machine, max_pods: u32, state_dir: &Path) -> (Value, Value) {
    let huge: u64 = machine.huge_pages.iter().map(|(_, bytes)| bytes).sum();
    let storage = *machine.storage_bytes.get_or_init(|| size_of(state_dir));
    let of = |memory: u64| {
        let mut amounts = json!({
            "cpu": machine.processors.to_string(),
            "ephemeral-storage": format!("{}Ki", storage / 1024),
            "memory": format!("{}Ki", memory / 1024),
            "pods": max_pods.to_string(),
        });
        for (size, bytes) in &machine.huge_pages {
            amounts[size] = binary(*bytes).into();
        }
        amounts
    };
    // What is set aside for huge pages is no memory for anything else.
    (of(machine.memory_bytes), of(machine.memory_bytes.saturating_sub(huge)))
}

/// Gives a condition its times. The heartbeat moves in steps, so that what does not change is not told anew.
fn stamp(board: &Board, condition: &mut Value) {
    let holds = condition["status"] == "True";
    let since = board.condition_since(condition["type"].as_str().unwrap_or_default(), holds);
    let now = Timestamp::now().as_second();
    let beat = Timestamp::from_second(now - now.rem_euclid(HEARTBEAT)).unwrap_or(since);
    condition["lastHeartbeatTime"] = time(beat.max(since)).into();
    condition["lastTransitionTime"] = time(since).into();
}

/// `containerd://1.7.24`, as clients split it.
fn runtime(version: Option<&str>) -> String {
    let version = version.unwrap_or_default();
    version.split_once(' ').map_or_else(|| version.to_owned(), |(name, number)| format!("{name}://{number}"))
}

/// Which labels and taints are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Those that count: the control endpoint's, once the node has joined one.
    Counting,
    /// Those of the configuration, which are proposed to a control endpoint.
    Proposed,
}

/// The node as v1 Node.
pub fn node(board: &Board, machine: &Machine) -> Value {
    node_as(board, machine, Say::Counting)
}

/// The same, with these labels and taints.
pub fn node_as(board: &Board, machine: &Machine, say: Say) -> Value {
    let facts = board.node();
    let live = board.live();
    let checks = board.checks();
    let failed: Vec<String> = checks
        .iter()
        .filter_map(|(check, outcome)| outcome.as_ref().err().map(|why| format!("{}: {why}", check.name())))
        .collect();
    let ready = match failed.is_empty() {
        true => json!({"type": "Ready", "status": "True", "reason": "DaemonletReady", "message": "all checks are ok"}),
        false => {
            json!({"type": "Ready", "status": "False", "reason": "DaemonletNotReady", "message": failed.join("; ")})
        }
    };
    let mut conditions = vec![ready];
    let needs_restart = board.needs_restart();
    if !needs_restart.is_empty() {
        let message = format!("changed in the configuration file: {}", needs_restart.join(", "));
        let reason = "ConfigurationChanged";
        conditions.push(json!({"type": "NeedsRestart", "status": "True", "reason": reason, "message": message}));
    }
    if !facts.missing_capabilities.is_empty() {
        let message = format!("containerd cannot give: {}", facts.missing_capabilities.join(", "));
        let reason = "ContainerdConfined";
        conditions.push(json!({"type": "MissingCapabilities", "status": "True", "reason": reason, "message": message}));
    }
    if let Some(Err(why)) = board.checks().get(&Check::Drain) {
        conditions.push(json!({"type": "Drained", "status": "True", "reason": "Drained", "message": why}));
    }
    // The only one of a kubelet's pressures that is ours to know.
    conditions.push(match &facts.disk_pressure {
        Some(message) => {
            json!({"type": "DiskPressure", "status": "True", "reason": "FreeDiskSpaceFailed", "message": message})
        }
        None => json!({
            "type": "DiskPressure",
            "status": "False",
            "reason": "DaemonletHasNoDiskPressure",
            "message": "containerd's disk has room, or images to make it",
        }),
    });
    conditions.iter_mut().for_each(|condition| stamp(board, condition));
    let (labels, taints) = match (say, board.ruling()) {
        (Say::Counting, Some(ruling)) => (ruling.labels.clone(), ruling.taints.clone()),
        (Say::Counting, None) | (Say::Proposed, _) => (node_labels(&facts.name, &live), live.taints.clone()),
    };
    let taints: Vec<Value> = taints
        .iter()
        .map(|taint| {
            let text = taint_text(taint);
            let effect = text.rsplit_once(':').map_or("", |(_, effect)| effect);
            json!({"key": taint.key, "value": taint.value, "effect": effect})
        })
        .collect();
    let addresses = facts.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    let addresses: Vec<Value> = addresses.chain([json!({"type": "Hostname", "address": facts.name})]).collect();
    let (capacity, allocatable) = resources(machine, facts.max_pods, &facts.state_dir);
    // The nameless one is what pods without a class get.
    let classes = std::iter::once("").chain(facts.runtime_classes.keys().map(String::as_str));
    let handlers: Vec<Value> = classes.map(|name| json!({"name": name})).collect();
    let checks: Vec<Value> = checks
        .iter()
        .map(|(check, outcome)| match outcome {
            Ok(()) => json!({"name": check.name(), "ok": true}),
            Err(why) => json!({"name": check.name(), "ok": false, "reason": why}),
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": facts.name, "labels": labels},
        "spec": {"taints": taints},
        "status": {
            "conditions": conditions,
            "addresses": addresses,
            "capacity": capacity,
            "allocatable": allocatable,
            "runtimeHandlers": handlers,
            "nodeInfo": {
                "architecture": automatic_labels(&facts.name)["kubernetes.io/arch"],
                "operatingSystem": "linux",
                "kernelVersion": machine.kernel,
                "osImage": machine.os_image,
                "machineID": machine.machine_id,
                // As the kubelet where the firmware says none.
                "systemUUID": machine.machine_id,
                "bootID": facts.boot_id,
                "containerRuntimeVersion": runtime(facts.runtime_version.as_deref()),
                "kubeletVersion": concat!("daemonlet-", env!("CARGO_PKG_VERSION")),
                // There is none; typed clients refuse a node without the word.
                "kubeProxyVersion": "",
            },
        },
        "daemonlet": {
            "checks": checks,
            "control": board.control(),
            "cgroup": facts.cgroup,
            "runtimeClasses": facts.runtime_classes,
            "missingCapabilities": facts.missing_capabilities,
            "needsRestart": needs_restart,
            "configFault": board.config_fault(),
            "logLimits": {
                "maxFileSize": live.log_limits.max_file_size,
                "maxFiles": live.log_limits.max_files,
                "budget": live.log_limits.budget,
            },
            "containerd": facts.containerd,
            "containerdNamespace": facts.containerd_namespace,
            "cniBinDirs": facts.cni_bin_dirs,
            "cniConfDir": facts.cni_conf_dir,
            "podCidrs": facts.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "cgroupRoot": facts.cgroup_root,
            "registryConfig": facts.registry_config,
            "registryAuth": facts.registry_auth,
            "listen": facts.listen,
            "logDir": facts.log_dir,
            "manifestDir": facts.manifest_dir,
            "imageDir": facts.image_dir,
            "stateDir": facts.state_dir,
            "shutdownGracePeriodSeconds": facts.shutdown_grace,
        },
    })
}
