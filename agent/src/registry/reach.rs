//! Whether a registry can be reached, step by step, for `doctor`: its name, a connection, TLS, an answer, and, where an image is known,
//! whether it may be asked for. Goes to every host of the registry at once and changes nothing anywhere.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Client;
use reqwest::dns::Resolve as _;
use rustls::RootCertStore;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::{Host, Url};

use super::hosts::{Endpoint, authority, endpoints};
use super::http::{causes, describe};
use super::names::Names;
use super::proxy::Routes;
use super::tls::{Material, first_end, system_roots};
use super::{Credential, Patience, Registry, RegistryError, Repository, Target};

/// How far one got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Authorities and certificates that a hosts.toml names.
    Files,
    Name,
    Connection,
    Tls,
    Answer,
}

/// One host of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReach {
    pub host: String,
    /// The registry itself, as opposed to a mirror.
    pub origin: bool,
    /// The proxy through which it is asked, without its password.
    pub proxy: Option<String>,
    /// Where one got no further, and why.
    pub obstacle: Option<(Stage, String)>,
    /// When the certificate that it shows ends.
    pub certificate_ends: Option<Timestamp>,
    /// When the certificate ends that is shown to it.
    pub client_certificate_ends: Option<Timestamp>,
}

/// A registry with its mirrors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// In the order in which they are asked; the registry itself is the last one.
    pub hosts: Vec<HostReach>,
    /// Whether the registry tells the image; None where none was named, or no host can be reached.
    pub image: Option<Result<(), RegistryError>>,
}

/// The registries that this hosts directory (containerd's `certs.d`) names, sorted. None for a directory that is missing.
pub fn configured(hosts_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(hosts_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == "_default" || name.starts_with('.') || !entry.path().is_dir() {
            continue;
        }
        // `host_port_` is `host:port`.
        let port = name.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
        names.push(port.map_or_else(|| name.clone(), |(host, port)| format!("{host}:{port}")));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

impl Registry {
    /// `image`: one that is wanted of this registry, asked for by HEAD with the logins that are for it.
    pub async fn reach(
        &self,
        registry: &str,
        image: Option<(&Repository, &Target)>,
        secrets: &[Credential],
    ) -> Result<Reach, RegistryError> {
        let (shared, name) = (self.shared.clone(), registry.to_owned());
        let failed = |reason: String| RegistryError::Hosts { registry: registry.to_owned(), reason };
        let read = tokio::task::spawn_blocking(move || {
            let routes = shared.settings.proxy.routes().map_err(|error| error.to_string())?;
            let found = endpoints(shared.settings.hosts_dir.as_deref(), &name).map_err(|error| error.to_string())?;
            Ok::<_, String>((routes, found, Arc::new(system_roots())))
        });
        let (routes, found, roots) = read.await.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        let mut asked = JoinSet::new();
        for (place, endpoint) in found.into_iter().enumerate() {
            let (routes, roots, patience) = (routes.clone(), roots.clone(), self.shared.settings.patience);
            asked.spawn(async move { (place, host(&endpoint, &routes, &roots, &patience).await) });
        }
        let mut hosts = asked.join_all().await;
        hosts.sort_by_key(|(place, _)| *place);
        let hosts: Vec<HostReach> = hosts.into_iter().map(|(_, host)| host).collect();
        let image = match image {
            Some((repository, target)) if hosts.iter().any(|host| host.obstacle.is_none()) => {
                Some(self.digest(repository, target, secrets).await.map(|_| ()))
            }
            _ => None,
        };
        Ok(Reach { hosts, image })
    }
}

async fn host(endpoint: &Endpoint, routes: &Routes, roots: &Arc<RootCertStore>, patience: &Patience) -> HostReach {
    let proxy = routes.of(&endpoint.url);
    let mut reach = HostReach {
        host: endpoint.name(),
        origin: endpoint.origin,
        proxy: proxy.as_ref().map(authority),
        obstacle: None,
        certificate_ends: None,
        client_certificate_ends: first_end(&endpoint.tls),
    };
    let asked = async {
        let client = client(endpoint, proxy.as_ref(), roots, patience).map_err(|why| (Stage::Files, why))?;
        let first = proxy.as_ref().unwrap_or(&endpoint.url);
        let connect = endpoint.dial_timeout.unwrap_or(patience.connect);
        let late = |stage| move |_| (stage, format!("no answer within {} s", connect.as_secs_f32()));
        let addresses = tokio::time::timeout(connect, addresses(first)).await.map_err(late(Stage::Name))?;
        let addresses = addresses.map_err(|why| (Stage::Name, why))?;
        let stream = tokio::time::timeout(connect, TcpStream::connect(addresses.as_slice())).await;
        drop(stream.map_err(late(Stage::Connection))?.map_err(|why| (Stage::Connection, why.to_string()))?);
        answer(&client, endpoint, patience).await
    };
    match asked.await {
        Ok(ends) => reach.certificate_ends = ends,
        Err(obstacle) => reach.obstacle = Some(obstacle),
    }
    reach
}

fn client(
    endpoint: &Endpoint,
    proxy: Option<&Url>,
    roots: &Arc<RootCertStore>,
    patience: &Patience,
) -> Result<Client, String> {
    let config = Material::read(&endpoint.tls).and_then(|material| material.config(roots));
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config.map_err(|error| error.to_string())?)
        .tls_info(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(endpoint.dial_timeout.unwrap_or(patience.connect))
        .dns_resolver(Names::default())
        .no_proxy();
    if let Some(proxy) = proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(|error| causes(&error))?);
    }
    builder.build().map_err(|error| causes(&error))
}

async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let port = url.port_or_known_default().unwrap_or(443);
    let found = match url.host() {
        Some(Host::Ipv4(address)) => return Ok(vec![SocketAddr::from((address, port))]),
        Some(Host::Ipv6(address)) => return Ok(vec![SocketAddr::from((address, port))]),
        Some(Host::Domain(name)) => name.parse().map(|name| Names::default().resolve(name)),
        None => return Err("names no host".to_owned()),
    };
    let found = found.map_err(|_| "is no name that can be resolved".to_owned())?;
    let addresses: Vec<SocketAddr> =
        found.await.map_err(|why| why.to_string())?.map(|address| SocketAddr::new(address.ip(), port)).collect();
    if addresses.is_empty() { Err("has no address".to_owned()) } else { Ok(addresses) }
}

/// The base of its API: 200 or 401 of a registry; what it says else is looked at when an image is asked for.
async fn answer(
    client: &Client,
    endpoint: &Endpoint,
    patience: &Patience,
) -> Result<Option<Timestamp>, (Stage, String)> {
    let mut url = endpoint.url.clone();
    url.set_path(&format!("{}/", url.path().trim_end_matches('/')));
    let request = client.get(url.clone()).timeout(patience.stall).send();
    let response = request.await.map_err(|error| {
        let secure = endpoint.url.scheme() == "https" && error.is_connect();
        (if secure { Stage::Tls } else { Stage::Answer }, describe(&error, &url, &endpoint.url))
    })?;
    if response.status().is_server_error() {
        return Err((Stage::Answer, format!("answers {}", response.status())));
    }
    let shown = response.extensions().get::<reqwest::tls::TlsInfo>();
    Ok(shown.and_then(|shown| super::certificate::ends(shown.peer_certificate()?)))
}
