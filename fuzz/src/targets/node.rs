//! What lies on the node: plugins' configurations and answers, seccomp profiles.

use agent::runtime::containerd::capabilities::CapSet;
use agent::runtime::containerd::seccomp::localhost;
use agent::sandbox::cni::configuration;
use agent::sandbox::cni::{addresses_of, plugin};
use serde_json::Value;

use super::{document, judged, nothing, value};
use crate::{Judged, Target};

const NETWORKS: &[&str] = &[
    "null",
    "true",
    "-1",
    "[]",
    "{}",
    "\\u0000",
    "cniVersion",
    "0.4.0",
    "name",
    "type",
    "plugins",
    "ipam",
    "capabilities",
    "portMappings",
    "runtimeConfig",
    "disableCheck",
    "ips",
    "address",
    "interface",
    "interfaces",
    "eth0",
    "ip4",
    "ip6",
    "code",
    "msg",
    "details",
    "198.18.0.2/15",
    "fd00::2/64",
    "../../bin/sh",
];

pub const NETWORK: Target = Target {
    name: "network",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: value,
    words: NETWORKS,
    more: nothing,
    judge: |input| {
        let read = [true, false].map(|list| configuration::parse(input, list));
        let [list, single] = read;
        judged(list.or(single), |found| {
            let typed = found.plugins.iter().all(|plugin| plugin["type"].as_str().is_some_and(|kind| !kind.is_empty()));
            let versioned = found.plugins.iter().all(|plugin| plugin["cniVersion"] == found.version.as_str());
            let programs = !found.programs().is_empty() && !found.programs().contains(&"");
            (!typed || !versioned || !programs || found.plugins.len() > 32).then(|| format!("{found:?} was accepted"))
        })
    },
};

pub const RESULT: Target = Target {
    name: "result",
    rounds: 3_000,
    input_max: 64 << 10,
    memory: value,
    words: NETWORKS,
    more: nothing,
    judge: |input| {
        // A plugin that fails says so in the same place.
        if let Some((said, _)) = plugin::refusal(input) {
            return Judged::Refused(said);
        }
        let result = serde_json::from_slice::<Value>(input).map_err(|error| error.to_string());
        let addresses = result.and_then(|result| addresses_of(&result).map_err(|error| error.to_string()));
        judged(addresses, |found| (found.is_empty() || found.len() > 16).then(|| format!("{} addresses", found.len())))
    },
};

pub const SECCOMP: Target = Target {
    name: "seccomp",
    rounds: 2_000,
    input_max: 64 << 10,
    memory: document,
    words: &[
        "null",
        "[]",
        "{}",
        "-1",
        "18446744073709551616",
        "\"\"",
        "\\u0000",
        "defaultAction",
        "archMap",
        "architectures",
        "subArchitectures",
        "syscalls",
        "names",
        "name",
        "action",
        "args",
        "includes",
        "excludes",
        "caps",
        "arches",
        "minKernel",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_NOTIFY",
        "SCMP_ARCH_X86_64",
        "CAP_SYS_ADMIN",
        "CAP_FLY",
        "6.1",
    ],
    more: nothing,
    judge: |input| {
        let circumstances = localhost::Circumstances {
            capabilities: CapSet::default_of_containers(),
            architecture: "x86_64",
            kernel: (6, 1),
        };
        judged(localhost::profile(input, &circumstances), |profile| {
            let rules = profile.syscalls().iter().flatten();
            let strange =
                |name: &String| name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let bad = rules.clone().any(|rule| rule.names().is_empty() || rule.names().iter().any(strange));
            let listens = profile.listener_path().is_some();
            (bad || listens).then(|| "a rule of no system call, or a listener".to_owned())
        })
    },
};
