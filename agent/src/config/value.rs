//! Values of flags and keys: text in, a checked value or a reason out. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pod::allow::{AllowedPath, HostNamespace};
use pod::spec::{Taint, TaintEffect};
use serde::{Deserialize, Serialize};

use super::RuntimeClass;

/// The longest name of a node (an RFC 1123 subdomain, as Kubernetes has it).
const NODE_NAME_MAX: usize = 253;

/// The longest duration that a key takes: a hundred years, which no clock's arithmetic overflows.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The kernel's PID_MAX_LIMIT on 64 bits: `pids.max` takes no more.
pub const PIDS_MAX: u64 = 4_194_304;

/// A range of addresses: `10.88.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub fn v4(address: [u8; 4], prefix: u8) -> Cidr {
        Cidr { address: IpAddr::V4(Ipv4Addr::from(address)), prefix }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        cidr(text)
    }
}

/// One range, or one of each family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidrs(pub Vec<Cidr>);

pub fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.contains('\0') || !path.is_absolute() {
        return Err(format!("{text:?} is not an absolute path"));
    }
    Ok(path)
}

/// A path from the working directory or absolute; absolute afterwards.
pub fn path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|why| format!("{text:?} is no path: {why}"))
}

pub fn node_name(text: &str) -> Result<String, String> {
    let label = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() > NODE_NAME_MAX || !text.split('.').all(label) {
        return Err(format!("{text:?} is no node name: lower-case letters, digits, '-' and '.' (RFC 1123)"));
    }
    Ok(text.to_owned())
}

pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

/// The domain of a cluster, without a dot at its end.
pub fn cluster_domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    node_name(name).map_err(|_| format!("{text:?} is no domain (cluster.local)"))
}

/// containerd's rule for identifiers: letters and digits, joined by single `-`, `_` or `.`; at most 76.
pub fn containerd_namespace(text: &str) -> Result<String, String> {
    let parts = text.split(['-', '_', '.']);
    if text.len() > 76 || !parts.into_iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric())) {
        return Err(format!("{text:?} is no containerd namespace: letters and digits, joined by '-', '_' or '.'"));
    }
    Ok(text.to_owned())
}

pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    text.parse().map_err(|_| format!("{text:?} is no address with a port (127.0.0.1:10348, [::1]:10348)"))
}

/// The port on which a control endpoint listens for nodes, where none is said.
const NODES_PORT: u16 = 6444;

/// Where a control endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlUrl {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// `https://HOST[:PORT]`.
pub fn control(text: &str) -> Result<ControlUrl, String> {
    let wrong = || format!("{text:?} is no control endpoint: write https://HOST or https://HOST:PORT");
    let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let with_port = match rest.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() && !rest.ends_with(']') => rest.to_owned(),
        _ => format!("{rest}:{NODES_PORT}"),
    };
    let (host, port) = split_host_port(&with_port).ok_or_else(wrong)?;
    Ok(ControlUrl { host, port })
}

/// `HOST:PORT`, `[ADDRESS]:PORT`.
pub fn host_port(text: &str) -> Result<String, String> {
    match split_host_port(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("{text:?} is no host with a port (node1.example.org:10348, [fd00::1]:10348)")),
    }
}

fn split_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            Some(host).filter(|host| !host.is_empty() && host.chars().all(plain))?.to_owned()
        }
    };
    Some((host, port))
}

/// `key=value`, by Kubernetes' rules for labels.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no label: write KEY=VALUE"))?;
    label_key(key)?;
    label_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `key=value:Effect` or `key:Effect`.
pub fn taint(text: &str) -> Result<Taint, String> {
    let no_taint = || format!("{text:?} is no taint: write KEY=VALUE:EFFECT or KEY:EFFECT");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(no_taint)?;
    let effect = match effect {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        _ => return Err(format!("{effect:?} is no effect: NoSchedule, PreferNoSchedule or NoExecute")),
    };
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    label_key(key)?;
    label_value(value)?;
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect })
}

/// `NAME=/path/of/a/program` or `NAME=io.containerd.x.v1`; the name as Kubernetes has that of a RuntimeClass.
pub fn runtime_class(text: &str) -> Result<(String, RuntimeClass), String> {
    let (name, runtime) = text.split_once('=').ok_or_else(|| format!("{text:?}: write NAME=RUNTIME"))?;
    node_name(name)
        .map_err(|_| format!("{name:?} is no name of a runtime class: lower-case letters, digits, '-' and '.'"))?;
    // Of a shim's name containerd makes a program's out of the last two words.
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let class = RuntimeClass::of(runtime);
    match &class {
        RuntimeClass::Program(_) => absolute(runtime).map(|_| (name.to_owned(), class)),
        RuntimeClass::Shim(shim) if shim.contains('.') && shim.split('.').all(word) => Ok((name.to_owned(), class)),
        RuntimeClass::Shim(_) => Err(format!(
            "{runtime:?} is no runtime: an absolute path (/usr/bin/crun) or containerd's name for a shim (io.containerd.kata.v2)"
        )),
    }
}

pub fn cidrs(text: &str) -> Result<Cidrs, String> {
    let cidrs: Vec<Cidr> = text.split(',').map(cidr).collect::<Result<_, _>>()?;
    match cidrs.as_slice() {
        [_] => Ok(Cidrs(cidrs)),
        [a, b] if a.address.is_ipv4() != b.address.is_ipv4() => Ok(Cidrs(cidrs)),
        _ => Err(format!("{text:?}: one range, or one of IPv4 and one of IPv6, joined by a comma")),
    }
}

fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || format!("{text:?} is no range of addresses (10.88.0.0/16)");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let (bits, host_bits) = match address {
        IpAddr::V4(v4) => (32_u32, u128::from(v4.to_bits()) << 96 << prefix.min(32)),
        IpAddr::V6(v6) => (128, v6.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0)),
    };
    if u32::from(prefix) > bits {
        return Err(wrong());
    }
    if host_bits != 0 {
        return Err(format!("{text:?} has bits set behind its prefix"));
    }
    // Bridge and host-local need the network's, the gateway's and the broadcast address besides one for a pod.
    if u32::from(prefix) + 2 > bits {
        return Err(format!("{text:?} is too small for a pod"));
    }
    Ok(Cidr { address, prefix })
}

pub fn cgroup_root(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    // '-' nests systemd slices and '/' would nest cgroups: one name is one level with both drivers.
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err(format!("{text:?} is no name of a cgroup: letters, digits and '_'"));
    }
    if text.starts_with("kubepods") {
        return Err("kubepods is the kubelet's: it kills what it does not know there".into());
    }
    Ok(text.to_owned())
}

/// Bytes: a whole number with Ki, Mi, Gi, k, M, G or nothing behind it.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(format!("{text:?} is no size: a whole number with Ki, Mi, Gi, k, M or G")),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    match bytes {
        // The keeper's least: below it each line would be a rotation.
        Some(bytes) if bytes >= 4096 => Ok(bytes),
        Some(bytes) => Err(format!("{text:?} is too small ({bytes} bytes): at least 4Ki")),
        None => Err(format!("{text:?} is no size: a whole number with Ki, Mi, Gi, k, M or G")),
    }
}

pub fn percent(text: &str) -> Result<u8, String> {
    whole(text, 0, 100)
}

/// As Go writes durations, in whole numbers: `90s`, `2m`, `1h30m`, `48h`; 0 needs no unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: whole numbers with h, m or s (90s, 1h30m)");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let factor = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(factor).and_then(|n| seconds.checked_add(n)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    match text.is_empty() || seconds > DURATION_MAX.as_secs() {
        true => Err(wrong()),
        false => Ok(Duration::from_secs(seconds)),
    }
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// One entry of an allow-list; `none`, alone, is a list without entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<T> {
    Nothing,
    One(T),
}

fn entry<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Entry<T>, String> {
    if text == "none" { Ok(Entry::Nothing) } else { read(text).map(Entry::One) }
}

/// `/var/log`, `/var/log:ro`.
pub fn allowed_path(text: &str) -> Result<Entry<AllowedPath>, String> {
    entry(text, |text| {
        let (path, read_only) = match text.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let plain = absolute(path)?;
        if plain.components().any(|part| part == std::path::Component::ParentDir) {
            return Err(format!("{path:?} must not contain `..`"));
        }
        let path: PathBuf = plain.components().collect();
        let path = path.to_str().ok_or_else(|| format!("{path:?} is not text"))?.to_owned();
        Ok(AllowedPath { path, read_only })
    })
}

pub fn capability(text: &str) -> Result<Entry<String>, String> {
    entry(text, pod::manifest::capability)
}

pub fn host_namespace(text: &str) -> Result<Entry<HostNamespace>, String> {
    entry(text, |text| match text {
        "network" => Ok(HostNamespace::Network),
        "pid" => Ok(HostNamespace::Pid),
        "ipc" => Ok(HostNamespace::Ipc),
        _ => Err(format!("{text:?} is not one of network, pid, ipc, none")),
    })
}

/// A registry, or the beginning of images' names, as they are called in full: `docker.io/library`.
pub fn registry(text: &str) -> Result<Entry<String>, String> {
    entry(text, |text| {
        let name = text.trim_end_matches('/');
        let registry = name.split('/').next().unwrap_or_default();
        let is_host = registry.contains(['.', ':', '[']) || registry == "localhost";
        if !is_host || name.split('/').any(str::is_empty) || name.contains('@') || !name.is_ascii() {
            return Err(format!(
                "{text:?} is no registry: docker.io, registry.example:5000, or with the beginning of a name, docker.io/library"
            ));
        }
        if name.split_once('/').is_some_and(|(_, repository)| repository.contains(':')) {
            return Err(format!("{text:?} has a tag: allowed are whole repositories, or all that begin so"));
        }
        Ok(match name.strip_prefix("index.docker.io") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("docker.io{rest}"),
            _ => name.to_owned(),
        })
    })
}

pub fn whole<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    least: N,
    most: N,
) -> Result<N, String> {
    match text.parse::<N>() {
        Ok(n) if n >= least && n <= most => Ok(n),
        _ => Err(format!("{text:?} is not a whole number from {least} to {most}")),
    }
}

pub fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.is_empty() || !qualified(name) || prefix.is_some_and(|p| node_name(p).is_err()) {
        return Err(format!("{key:?} is no label key: [domain/]name, 63 letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

pub fn label_value(value: &str) -> Result<(), String> {
    if !value.is_empty() && !qualified(value) {
        return Err(format!("{value:?} is no label value: 63 letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

fn qualified(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    bytes.len() <= 63 && inner && ends(bytes.first()) && ends(bytes.last())
}
