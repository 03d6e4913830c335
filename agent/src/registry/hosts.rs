//! Which hosts are asked for a registry, in which order and how: containerd's hosts directory (its documentation, hosts.md). Driven by
//! [`super::Registry`], for every call anew, so that an edit counts at once. It reads files and knows nothing of HTTP.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

pub use file::parse;

/// A hosts.toml has a few lines a mirror; more is not one. While it is read, what is wrong in it may hold two hundred times that.
const FILE_MAX: u64 = 64 << 10;

/// What Docker's names mean: the registry behind `docker.io`.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host, port, and the path before the repository, normally `/v2`. Without a slash at its end.
    pub url: Url,
    pub capabilities: Capabilities,
    pub tls: Tls,
    /// Sent with each request to this host, and to no other that it redirects to.
    pub headers: Vec<(String, String)>,
    pub dial_timeout: Option<Duration>,
    /// The registry itself, as opposed to a mirror: the last one.
    pub origin: bool,
    /// Credentials for the image's own host are sent to it, and to no other: it is the registry by its name, or the `server` that the
    /// registry's own directory names. The `server` of `_default` serves for every registry and is shown the credentials of none.
    pub speaks_for_registry: bool,
    /// `?ns=`: which registry is meant, for a host with another name.
    pub namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// May serve content by digest.
    pub pull: bool,
    /// May say what a tag names.
    pub resolve: bool,
}

/// Files and rules for TLS with one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities in PEM, beside the system's.
    pub ca: Vec<PathBuf>,
    /// Certificates in PEM with their keys; no key: it is in the same file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
}

/// A hosts directory that cannot be used: which file, which line, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsError {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub reason: String,
}

impl Endpoint {
    /// `host` or `host:port`, as credentials and people name it.
    pub fn name(&self) -> String {
        authority(&self.url)
    }
}

/// `host` or `host:port` of a URL; the scheme's own port is left out.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// This machine itself, by name or address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    }
}

/// The hosts for this registry in the order in which they are asked. Never empty; the last one is the registry itself.
pub fn endpoints(hosts_dir: Option<&Path>, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let Some(dir) = hosts_dir.and_then(|dir| directory(dir, registry)) else {
        return Ok(vec![origin(registry, Tls::default())?]);
    };
    let path = dir.join("hosts.toml");
    match read(&path) {
        Ok(text) => file::parse(&text, &path, registry),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![origin(registry, docker_style(&dir)?)?]),
        Err(error) => Err(HostsError { file: path, line: None, reason: error.to_string() }),
    }
}

/// The registry's own endpoint where no file says another: HTTPS, and for loopback plain HTTP unless its port or its certificates say TLS.
fn origin(registry: &str, tls: Tls) -> Result<Endpoint, HostsError> {
    let server = if registry == DOCKER_HUB { DOCKER_HUB_SERVER } else { registry };
    let invalid = |_| HostsError {
        file: PathBuf::from(registry),
        line: None,
        reason: "is no host name with an optional port".to_owned(),
    };
    let mut url = Url::parse(&format!("https://{server}/v2")).map_err(invalid)?;
    // A port that was written down and is the scheme's own is dropped by the parser, so 443 shows as none.
    let default_port = url.port().is_none() && server.ends_with(":443");
    if is_loopback(&url) && tls == Tls::default() && !default_port {
        url = Url::parse(&format!("http://{server}/v2")).map_err(invalid)?;
    }
    Ok(Endpoint {
        url,
        capabilities: Capabilities { pull: true, resolve: true },
        tls,
        headers: Vec::new(),
        dial_timeout: None,
        origin: true,
        speaks_for_registry: true,
        namespace: None,
    })
}

/// The directory for registries that have none of their own.
const DEFAULT_DIR: &str = "_default";

/// The first directory that exists: `host_port_`, `host:port`, `_default`.
fn directory(dir: &Path, registry: &str) -> Option<PathBuf> {
    let underscored = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_owned(),
    };
    [underscored.as_str(), registry, DEFAULT_DIR].iter().map(|name| dir.join(name)).find(|path| path.is_dir())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("is larger than {FILE_MAX} bytes")));
    }
    Ok(text)
}

/// Docker's layout, which containerd takes where there is no hosts.toml: `*.crt` are authorities, `x.cert` is a certificate and `x.key` its
/// key.
fn docker_style(dir: &Path) -> Result<Tls, HostsError> {
    let failed = |reason: io::Error| HostsError { file: dir.to_owned(), line: None, reason: reason.to_string() };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    let mut tls = Tls::default();
    for path in &files {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(path.clone()),
            Some("cert") => {
                let key = path.with_extension("key");
                if !files.contains(&key) {
                    let reason = format!("the key of this certificate is missing: expected {}", key.display());
                    return Err(HostsError { file: path.clone(), line: None, reason });
                }
                tls.client.push((path.clone(), Some(key)));
            }
            _ => {}
        }
    }
    Ok(tls)
}

impl fmt::Display for HostsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
            None => write!(f, "{}: {}", self.file.display(), self.reason),
        }
    }
}
