//! What the node's owner lets pods have: the allow-list of the agent's configuration, and what it says of a pod.
//!
//! Asked by `merge` for every document, whatever source it came from, and by the agent for each host path at the moment of its
//! mount: a path is judged twice, as it is written and as what it leads to, because links on it are others' to change. Pure.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::spec::{Container, ImageVolume, PodSpec, Role, VolumeSource};

/// The keys of the configuration, which are also the flags.
pub const HOST_PATH: &str = "allow-host-path";
pub const CAPABILITY: &str = "allow-capability";
pub const PRIVILEGED: &str = "allow-privileged";
pub const HOST_NAMESPACE: &str = "allow-host-namespace";
pub const REGISTRY: &str = "allow-registry";

/// A rule that is None allows everything, as Kubernetes does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allow {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_paths: Option<Rule<AllowedPath>>,
    /// Beyond those that every container has. Without `CAP_`, upper case; `ALL` stands for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Rule<String>>,
    /// False: no container may be privileged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<Rule<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_namespaces: Option<Rule<HostNamespace>>,
    /// Registries, or beginnings of image names: `docker.io/library`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries: Option<Rule<String>>,
}

/// What is allowed of a kind; empty: nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule<T> {
    pub only: Vec<T>,
    /// Where the rule stands: `the configuration file /etc/daemonlet/config.yaml`, `the agent's flags`.
    pub place: String,
}

impl<T: fmt::Display> Rule<T> {
    /// `allow-x in the configuration file F allows only a, b`.
    fn says(&self, key: &str) -> String {
        let only: Vec<String> = self.only.iter().map(T::to_string).collect();
        let only = if only.is_empty() { "none".to_owned() } else { format!("only {}", only.join(", ")) };
        format!("{key} in {} allows {only}", self.place)
    }
}

/// A part of the host's tree that volumes may show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedPath {
    /// Absolute and without `..`. It and all below it is allowed.
    pub path: String,
    /// Containers may only read there.
    pub read_only: bool,
}

/// As it is written.
impl fmt::Display for AllowedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.read_only { ":ro" } else { "" })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostNamespace {
    Network,
    Pid,
    Ipc,
}

impl fmt::Display for HostNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostNamespace::Network => "network",
            HostNamespace::Pid => "pid",
            HostNamespace::Ipc => "ipc",
        })
    }
}

/// What may be done below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// To it and to all below it.
    Write,
    /// To make it where nothing is.
    Make,
}

/// What a pod asks for that the node does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    /// The field's path below the pod's spec.
    pub path: String,
    /// As the end of a sentence: what, which rule, what to do.
    pub reason: String,
}

impl Allow {
    /// Everything in the pod that a rule does not allow, in the order of its fields. A host path is judged as it is written;
    /// what it leads to is to be judged when it is mounted ([`Allow::host_path`]).
    pub fn judge(&self, spec: &PodSpec) -> Vec<Forbidden> {
        let mut forbidden = Vec::new();
        self.judge_namespaces(spec, &mut forbidden);
        let (mut inits, mut mains) = (0, 0);
        for container in &spec.containers {
            let (list, count) = match container.role {
                Role::Init | Role::Sidecar => ("initContainers", &mut inits),
                Role::Main => ("containers", &mut mains),
            };
            self.judge_container(container, &format!("{list}[{count}]"), &mut forbidden);
            *count += 1;
        }
        for (index, volume) in spec.volumes.iter().enumerate() {
            match &volume.source {
                VolumeSource::HostPath { path, .. } => {
                    if let Err(why) = self.host_path(Path::new(path), access(spec, &volume.name)) {
                        let reason = format!("{path} {why}");
                        forbidden.push(Forbidden { path: format!("volumes[{index}].hostPath.path"), reason });
                    }
                }
                VolumeSource::Image(ImageVolume { reference, .. }) => {
                    self.judge_image(reference, format!("volumes[{index}].image.reference"), &mut forbidden);
                }
                VolumeSource::EmptyDir(_) | VolumeSource::Projected(_) => {}
            }
        }
        forbidden
    }

    fn judge_namespaces(&self, spec: &PodSpec, forbidden: &mut Vec<Forbidden>) {
        let Some(rule) = &self.host_namespaces else { return };
        for (field, asked, namespace) in [
            ("hostNetwork", spec.host_network, HostNamespace::Network),
            ("hostPID", spec.host_pid, HostNamespace::Pid),
            ("hostIPC", spec.host_ipc, HostNamespace::Ipc),
        ] {
            if asked && !rule.only.contains(&namespace) {
                let says = rule.says(HOST_NAMESPACE);
                let reason = format!("is not allowed on this node: {says}; leave it out, or allow {namespace} there");
                forbidden.push(Forbidden { path: field.into(), reason });
            }
        }
    }

    fn judge_container(&self, container: &Container, at: &str, forbidden: &mut Vec<Forbidden>) {
        self.judge_image(&container.image, format!("{at}.image"), forbidden);
        let security = &container.security;
        if let Some(rule) = &self.privileged
            && security.privileged
            && !rule.only.contains(&true)
        {
            let place = &rule.place;
            let reason = format!(
                "is not allowed on this node: {PRIVILEGED} in {place} is false; ask for the capabilities and devices that are needed, or allow it there"
            );
            forbidden.push(Forbidden { path: format!("{at}.securityContext.privileged"), reason });
        }
        let Some(rule) = &self.capabilities else { return };
        let allowed = |name: &String| rule.only.iter().any(|only| only == name || only == "ALL");
        for (index, name) in security.capabilities_add.iter().enumerate().filter(|(_, name)| !allowed(name)) {
            let says = rule.says(CAPABILITY);
            let reason = format!("{name} is not allowed on this node: {says}; leave it out, or allow it there");
            forbidden.push(Forbidden { path: format!("{at}.securityContext.capabilities.add[{index}]"), reason });
        }
    }

    fn judge_image(&self, image: &str, path: String, forbidden: &mut Vec<Forbidden>) {
        let Some(rule) = &self.registries else { return };
        let name = image_name(image);
        if !rule.only.iter().any(|allowed| is_below(&name, allowed)) {
            let says = rule.says(REGISTRY);
            let reason = format!("{name} is not allowed on this node: {says}; use an image of these, or allow its own");
            forbidden.push(Forbidden { path, reason });
        }
    }

    /// Whether a volume may show this path, absolute and without `..`. Err: why not, as the end of a sentence about it.
    pub fn host_path(&self, path: &Path, access: Access) -> Result<(), String> {
        let Some(rule) = &self.host_paths else { return Ok(()) };
        let says = || rule.says(HOST_PATH);
        let Some(entry) = rule.narrowest(path) else {
            return Err(format!("is not allowed on this node: {}; use a path below these, or allow it there", says()));
        };
        match (access, rule.read_only_below(path)) {
            (Access::Read, _) => Ok(()),
            _ if entry.read_only => Err(format!(
                "may only be read on this node: {}; set readOnly: true where it is mounted, or allow it without :ro",
                says()
            )),
            (Access::Write, Some(below)) => Err(format!(
                "may only be read on this node, because {} in it may: {}; mount a path beside that, or set readOnly: true where it is mounted",
                below.path,
                says()
            )),
            (Access::Write | Access::Make, _) => Ok(()),
        }
    }

    /// Whether a volume that may show this path may be written to: the narrowest entry decides, and nothing in it may be for
    /// reading only. None: it may not show it.
    pub fn may_write(&self, path: &Path) -> Option<bool> {
        let Some(rule) = &self.host_paths else { return Some(true) };
        rule.narrowest(path).map(|entry| !entry.read_only && rule.read_only_below(path).is_none())
    }
}

impl Rule<AllowedPath> {
    /// The entry that decides about this path.
    fn narrowest(&self, path: &Path) -> Option<&AllowedPath> {
        let above = self.only.iter().filter(|allowed| path.starts_with(&allowed.path));
        above.max_by_key(|allowed| Path::new(&allowed.path).components().count())
    }

    /// An entry for reading only that lies below this path and not at it.
    fn read_only_below(&self, path: &Path) -> Option<&AllowedPath> {
        let below = |entry: &Path| entry.starts_with(path) && !path.starts_with(entry);
        self.only.iter().find(|entry| entry.read_only && below(Path::new(&entry.path)))
    }
}

/// Whether any container may write to the volume.
pub fn access(spec: &PodSpec, volume: &str) -> Access {
    let mounts = spec.containers.iter().flat_map(|container| &container.mounts);
    match mounts.filter(|mount| mount.volume == volume).all(|mount| mount.read_only) {
        true => Access::Read,
        false => Access::Write,
    }
}

/// A reference as the runtime understands it, without tag and digest: `busybox:1` is `docker.io/library/busybox`.
pub fn image_name(reference: &str) -> String {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let name = name[last..].find(':').map_or(name, |at| &name[..last + at]);
    let is_registry = |first: &str| {
        first.contains(['.', ':', '[']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => ("docker.io", name),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    match registry == "docker.io" && !repository.contains('/') {
        true => format!("docker.io/library/{repository}"),
        false => format!("{registry}/{repository}"),
    }
}

/// Whether an image's name is this one or begins with it, part by part.
fn is_below(name: &str, beginning: &str) -> bool {
    let rest = name.strip_prefix(beginning.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
