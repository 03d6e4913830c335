//! One entry of `spec.containers`, with Kubernetes' defaults and rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::findings::{At, Findings};
use super::{env, handlers, mounts, names, pod, resources, security};
use crate::spec::{AppArmor, Container, ContainerPort, LastWords, PullPolicy, Role, Security};

/// What a container needs to know of its pod.
pub struct Pod<'a> {
    pub host_network: bool,
    pub own_users: bool,
    pub service_account: String,
    pub security: Security,
    pub volumes: BTreeSet<&'a str>,
    /// Those of them that are emptyDirs.
    pub empty_dirs: BTreeSet<&'a str>,
    /// `terminationGracePeriodSeconds`, within which a hook has its time.
    pub grace: Duration,
    /// `restartPolicy: Never`.
    pub never_restarts: bool,
    /// By annotation: container, place, profile.
    pub apparmor: Vec<(&'a str, At<'a>, AppArmor)>,
}

/// One of `initContainers` or of `containers`.
pub fn read(at: &At<'_>, list: Listed, pod: &Pod<'_>, findings: &mut Findings) -> Option<Container> {
    let role = role(at, list, findings);
    let name = name(at, findings);
    let image = image_name(at, "image", findings);
    let pull_policy = pull_policy(at, "imagePullPolicy", image.as_deref().unwrap_or_default(), findings);
    let working_dir = working_dir(at, findings);
    let env = env::read(at, name.as_deref().unwrap_or_default(), pod, findings);
    let env_from = env::read_from(at, findings);
    let resources = at.get("resources").map(|at| resources::read(&at, findings)).unwrap_or_default();
    let resize_policy = resources::resize_policy(at, role, pod.never_restarts, findings);
    let mut security = match at.get("securityContext") {
        Some(at) => security::container(&at, &pod.security, pod.own_users, findings),
        None => pod.security.clone(),
    };
    let annotated = pod.apparmor.iter().find(|(of, ..)| Some(*of) == name.as_deref());
    if let Some((_, annotation, profile)) = annotated {
        let own = at.get("securityContext").is_some_and(|at| at.get("appArmorProfile").is_some());
        if own && security.apparmor.as_ref() != Some(profile) {
            findings.rule(annotation, "says something else than the container's appArmorProfile: drop one of the two");
        }
        security.apparmor = security.apparmor.filter(|_| own).or_else(|| Some(profile.clone()));
    }
    let mounts = mounts::read(at, pod, security.privileged, findings);
    let ports = ports(at, pod, findings);
    let probes = handlers::probes(at, role, findings);
    let hooks = handlers::hooks(at, role, pod.grace, findings);
    let last_words = last_words(at, findings);
    Some(Container {
        name: name?,
        image: image?,
        pull_policy: pull_policy?,
        command: at.texts_in("command", findings),
        args: at.texts_in("args", findings),
        working_dir,
        env,
        env_from,
        resources,
        resize_policy,
        mounts,
        security,
        ports,
        stdin: at.boolean_in("stdin", findings).unwrap_or(false),
        tty: at.boolean_in("tty", findings).unwrap_or(false),
        role,
        probes,
        hooks,
        last_words,
    })
}

/// Which list of the pod a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    InitContainers,
    Containers,
}

fn role(at: &At<'_>, list: Listed, findings: &mut Findings) -> Role {
    let policy = at.text_in("restartPolicy", findings).filter(|policy| !policy.is_empty());
    match (list, policy) {
        (Listed::Containers, None) => Role::Main,
        (Listed::InitContainers, None) => Role::Init,
        (Listed::InitContainers, Some("Always")) => Role::Sidecar,
        (list, Some(_)) => {
            if let Some(at) = at.get("restartPolicy") {
                let reason = "can only be Always, on an init container, which makes it a sidecar: remove it, the pod's \
                              restartPolicy counts";
                findings.impossible(&at, reason);
            }
            if list == Listed::Containers { Role::Main } else { Role::Init }
        }
    }
}

/// `terminationMessagePath` and `terminationMessagePolicy`.
fn last_words(at: &At<'_>, findings: &mut Findings) -> LastWords {
    let mut words = LastWords::default();
    if let Some(at) = at.get("terminationMessagePath")
        && let Some(path) = at.text(findings).filter(|path| !path.is_empty())
    {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains(['\0', ':']) {
            findings.impossible(&at, "must be an absolute path without `..`, `:` or NUL");
        } else if normal(path).is_empty() {
            findings.impossible(&at, "cannot be the root of the container's file system");
        }
        path.clone_into(&mut words.path);
    }
    words.or_log = match at.text_in("terminationMessagePolicy", findings) {
        None | Some("" | "File") => false,
        Some("FallbackToLogsOnError") => true,
        Some(other) => {
            let allowed = ["File", "FallbackToLogsOnError"];
            pod::one_of(at, "terminationMessagePolicy", other, &allowed, findings).unwrap_or(false)
        }
    };
    words
}

/// Rules that look at all containers of the pod.
pub fn across(items: &[At<'_>], containers: &[Container], pod: &Pod<'_>, findings: &mut Findings) {
    let names: BTreeSet<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    for (name, annotation, _) in &pod.apparmor {
        if !names.contains(name) {
            findings.rule(annotation, format!("the pod has no container {}", self::names::shown(name)));
        }
    }
    let mut taken_by_all = BTreeSet::new();
    for item in items {
        env::check_containers(item, &names, findings);
        // A container that ends before the others start shares no port with them.
        let alone = item.path.contains("initContainers[") && item.get("restartPolicy").is_none();
        let mut taken_by_one = BTreeSet::new();
        let open = if alone { &mut taken_by_one } else { &mut taken_by_all };
        for port in item.list("ports", findings) {
            let number = |key: &str| {
                let number = super::findings::integral(&port.node.get(key)?.value)?;
                (number != 0).then_some(number)
            };
            let taken = number("hostPort").or_else(|| number("containerPort").filter(|_| pod.host_network));
            let Some(taken) = taken else { continue };
            let text = |key: &str| port.node.get(key).and_then(|p| p.text()).unwrap_or_default();
            let protocol = if text("protocol").is_empty() { "TCP" } else { text("protocol") };
            if !open.insert((taken, protocol, text("hostIP"))) {
                findings.rule(&port, format!("port {taken}/{protocol} of the node is taken twice by this pod"));
            }
        }
    }
}

fn name(at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let at = at.need("name", findings)?;
    let name = at.text(findings)?;
    if let Some(reason) = names::dns_label(name) {
        // It becomes a directory of the log: nothing else may ever get through.
        findings.impossible(&at, reason);
    }
    Some(name.to_owned())
}

/// The image that is named at this key.
pub fn image_name(at: &At<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let at = at.need(key, findings)?;
    let image = at.text(findings)?;
    if image.is_empty() {
        findings.impossible(&at, "must not be empty");
    } else if image.trim() != image {
        findings.impossible(&at, "must not begin or end with white space");
    }
    Some(image.to_owned())
}

/// The policy at this key, or what the image's tag makes of none.
pub fn pull_policy(at: &At<'_>, key: &str, image: &str, findings: &mut Findings) -> Option<PullPolicy> {
    match at.text_in(key, findings) {
        Some("Always") => Some(PullPolicy::Always),
        Some("IfNotPresent") => Some(PullPolicy::IfNotPresent),
        Some("Never") => Some(PullPolicy::Never),
        None | Some("") => Some(if is_latest(image) { PullPolicy::Always } else { PullPolicy::IfNotPresent }),
        Some(other) => pod::one_of(at, key, other, &["Always", "IfNotPresent", "Never"], findings),
    }
}

/// The tag is `latest`, or there is neither tag nor digest.
fn is_latest(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest,
    }
}

/// Absolute, and never a way back to the host through a descriptor of the runtime (CVE-2024-21626).
fn working_dir(at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let at = at.get("workingDir")?;
    let dir = at.text(findings)?;
    if dir.is_empty() {
        return None;
    }
    if !dir.starts_with('/') {
        findings.impossible(&at, format!("{} must be an absolute path", names::shown(dir)));
    }
    let parts = normal(dir);
    if matches!(parts[..], ["proc", ..] | ["dev", "fd", ..]) {
        findings.impossible(&at, "must not be in /proc or /dev/fd (CVE-2024-21626)");
    }
    Some(dir.to_owned())
}

/// The parts of a path, with `.` and `..` worked out.
pub fn normal(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

fn ports(at: &At<'_>, pod: &Pod<'_>, findings: &mut Findings) -> Vec<ContainerPort> {
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for item in at.list("ports", findings) {
        let name = item.get("name").and_then(|at| {
            let name = at.text(findings).filter(|n| !n.is_empty())?;
            if let Some(reason) = names::port(name) {
                findings.rule(&at, reason);
            } else if !seen.insert(name) {
                findings.rule(&at, format!("two ports are named {}: give each its own name", names::shown(name)));
            }
            Some(name.to_owned())
        });
        let protocol = item.text_in("protocol", findings).unwrap_or("TCP");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            pod::one_of::<()>(&item, "protocol", protocol, &["TCP", "UDP", "SCTP"], findings);
        }
        let Some(port) = item.need("containerPort", findings).and_then(|at| port_number(&at, findings)) else {
            continue;
        };
        let host_port = host_port(&item, port, pod, findings);
        let host_ip = host_ip(&item, pod, findings);
        ports.push(ContainerPort { name, port, protocol: protocol.to_owned(), host_port, host_ip });
    }
    ports
}

/// 0 counts as absent, as in Kubernetes; with hostNetwork every port is the node's.
fn host_port(port: &At<'_>, number: u16, pod: &Pod<'_>, findings: &mut Findings) -> Option<u16> {
    let own = pod.host_network.then_some(number);
    let Some(at) = port.get("hostPort") else { return own };
    if super::findings::integral(&at.node.value) == Some(0) {
        return own;
    }
    let asked = port_number(&at, findings)?;
    if pod.host_network && asked != number {
        findings.impossible(&at, format!("must be {number}, the containerPort, since hostNetwork is true"));
    }
    Some(asked)
}

fn host_ip(port: &At<'_>, pod: &Pod<'_>, findings: &mut Findings) -> Option<IpAddr> {
    let at = port.get("hostIP")?;
    let text = at.text(findings).filter(|text| !text.is_empty())?;
    let address = text.parse().ok();
    match address {
        None => findings.impossible(&at, format!("{} is no IP address", names::shown(text))),
        Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) if !pod.host_network => findings.rule(
            &at,
            "a port of ::1 leads to no pod: the kernel lets no packet from ::1 leave the loopback (IPv6 has no route_localnet); take 127.0.0.1, \
             leave hostIP out, or use hostNetwork",
        ),
        Some(_) => {}
    }
    address
}

fn port_number(at: &At<'_>, findings: &mut Findings) -> Option<u16> {
    let number = at.integer(findings)?;
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            findings.impossible(at, "must be between 1 and 65535");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_or_no_tag_is_pulled_always() {
        for image in ["a", "a:latest", "r:5000/a", "r:5000/a:latest", "docker.io/library/a", "a:latest@sha256:00"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["a:1", "r:5000/a:1", "a@sha256:00", "a:1@sha256:00"] {
            assert!(!is_latest(image), "{image}");
        }
    }
}
