//! `securityContext.sysctls`: values of the kernel for the pod's own namespaces.
//!
//! Only those are taken that Kubernetes calls safe: they are the namespace's own and cannot harm other pods or the node. The
//! values become files' content, so their characters are judged here (a `+` in one has let a pod write any of the node's,
//! CVE-2022-0811); what they mean the kernel judges when they are set.

use std::collections::BTreeMap;

use super::findings::{At, Findings};
use super::names;

/// By names with dots, sorted.
const SAFE: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// The kernel reads at most a page; lists of reserved ports are the longest.
const MAX_VALUE: usize = 4095;

/// Of the pod whose `spec` this is, by names with dots.
pub fn read(spec: &At<'_>, findings: &mut Findings) -> BTreeMap<String, String> {
    let Some(security) = spec.get("securityContext") else { return BTreeMap::new() };
    let (host_network, host_ipc) = (is_true(spec, "hostNetwork"), is_true(spec, "hostIPC"));
    let mut sysctls = BTreeMap::new();
    for item in security.list("sysctls", findings) {
        let (name_at, value_at) = (item.need("name", findings), item.need("value", findings));
        let (Some(name_at), Some(value_at)) = (name_at, value_at) else { continue };
        let (Some(written), Some(value)) = (name_at.text(findings), value_at.text(findings)) else { continue };
        let name = with_dots(written);
        if !SAFE.contains(&name.as_str()) {
            let reason = format!(
                "{} is not among the sysctls that a pod may set without harm to others ({}): set it on the node",
                names::shown(written),
                SAFE.join(", ")
            );
            findings.impossible(&name_at, reason);
        } else if host_network && name.starts_with("net.") {
            findings.impossible(&name_at, "cannot be set with hostNetwork: it would be the node's own");
        } else if host_ipc && name.starts_with("kernel.") {
            findings.impossible(&name_at, "cannot be set with hostIPC: it would be the node's own");
        } else if let Some(reason) = no_value(value) {
            findings.impossible(&value_at, reason);
        } else if sysctls.insert(name, value.trim().to_owned()).is_some() {
            findings.impossible(&name_at, "is set twice: keep one of them");
        }
    }
    sysctls
}

/// That it is no boolean is told by whoever reads the field.
fn is_true(spec: &At<'_>, key: &str) -> bool {
    spec.boolean_in(key, &mut Findings::default()).unwrap_or(false)
}

/// sysctl(8)'s two forms: where a slash comes first, slashes part the name and dots are letters of it.
fn with_dots(name: &str) -> String {
    let slash_first = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    if slash_first { name.chars().map(swap).collect() } else { name.to_owned() }
}

/// All of them are numbers, lists and ranges of numbers.
fn no_value(value: &str) -> Option<String> {
    let number = value.chars().any(|c| c.is_ascii_digit());
    let plain = value.chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '\t' | ',' | '-'));
    let good = number && plain && value.len() <= MAX_VALUE;
    (!good).then(|| {
        format!(
            "{} is no value of it: numbers, parted by blanks, or a list such as 8080,9148-9150",
            names::shown(value)
        )
    })
}
