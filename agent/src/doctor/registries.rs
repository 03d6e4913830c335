//! Registries: every one that a manifest or a hosts.toml names, asked as a pull would ask it.
//!
//! All at once and each within a bound, because a person waits. An image that is here runs without its registry, so a registry that
//! cannot be reached warns; what is certain to be wrong (a broken file, a certificate that has ended, a refused login) fails.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use pod::manifest::{Context, Document, parse};
use pod::secret::{DockerConfig, SecretKey};
use pod::spec::PullPolicy;
use tokio::task::JoinSet;

use super::{Line, Places};
use crate::config::SOCKET;
use crate::registry::{
    Credential, HostReach, Patience, Proxy, Reach, Registry, RegistryError, Repository, Settings, Stage, Target,
    configured,
};
use crate::runtime::containerd::images::reference::Reference;

/// More registries than that no node's manifests name; what is left out is said.
const REGISTRIES_MAX: usize = 16;
/// Files of the manifest directory that are read.
const FILES_MAX: usize = 1_000;
/// Of one of them: what the agent reads of it.
const FILE_MAX: u64 = pod::manifest::MAX_FILE_BYTES as u64;
/// For each step, less than a pull has: a person waits.
const STEP_MAX: Duration = Duration::from_secs(5);
/// For all steps of one registry.
const REGISTRY_MAX: Duration = Duration::from_secs(15);
/// A certificate that ends sooner is to be renewed now.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

#[derive(Debug, Default)]
pub struct Registries {
    /// By name; Err says what is wrong before anybody is asked.
    asked: BTreeMap<String, Result<Reach, RegistryError>>,
    /// Beyond the bound.
    left_out: Vec<String>,
    /// Why the hosts directory cannot be read.
    unreadable: Option<String>,
}

/// What manifests say of registries.
#[derive(Debug, Default)]
struct Wanted {
    /// One image of each, with the Secrets for it.
    images: BTreeMap<String, (Repository, Target, Vec<SecretKey>)>,
    secrets: BTreeMap<SecretKey, DockerConfig>,
}

/// Blocking, at most [`REGISTRY_MAX`] and what reading takes.
pub fn probe(places: &Places) -> Registries {
    let mut found = Registries::default();
    let wanted = wanted(&places.manifest_dir);
    let mut names: Vec<String> = wanted.images.keys().cloned().collect();
    match configured(&places.registry_config) {
        Ok(configured) => names.extend(configured),
        Err(why) => found.unreadable = Some(format!("{}: {why}", places.registry_config.display())),
    }
    names.sort();
    names.dedup();
    found.left_out = names.split_off(names.len().min(REGISTRIES_MAX));
    if names.is_empty() {
        return found;
    }
    let registry = Registry::new(Settings {
        hosts_dir: Some(places.registry_config.clone()),
        auth_file: places.registry_auth.clone(),
        proxy: proxy(&places.run_dir),
        patience: Patience {
            connect: STEP_MAX,
            stall: STEP_MAX,
            document: STEP_MAX,
            ask: STEP_MAX,
            ..Patience::default()
        },
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Ok(runtime) = runtime {
        found.asked = runtime.block_on(ask(&registry, names, &wanted));
        // A file system that hangs must not hold us.
        runtime.shutdown_background();
    }
    found
}

async fn ask(
    registry: &Registry,
    names: Vec<String>,
    wanted: &Wanted,
) -> BTreeMap<String, Result<Reach, RegistryError>> {
    let mut asked = JoinSet::new();
    for name in names {
        let registry = registry.clone();
        let image = wanted.images.get(&name).cloned();
        let keys = image.iter().flat_map(|(_, _, keys)| keys);
        let configs = keys.filter_map(|key| wanted.secrets.get(key));
        let secrets: Vec<Credential> =
            configs.filter_map(|config| Credential::from_docker_config(config.reveal()).ok()).flatten().collect();
        asked.spawn(async move {
            let image = image.as_ref().map(|(repository, target, _)| (repository, target));
            let reach = tokio::time::timeout(REGISTRY_MAX, registry.reach(&name, image, &secrets)).await;
            let late = |_| {
                let reason = format!("no end of asking within {} s", REGISTRY_MAX.as_secs());
                Err(RegistryError::Hosts { registry: name.clone(), reason })
            };
            let reach = reach.unwrap_or_else(late);
            (name, reach)
        });
    }
    asked.join_all().await.into_iter().collect()
}

/// The agent's own, where it runs: its unit may have one that this shell has not.
fn proxy(run_dir: &Path) -> Proxy {
    let agent = UnixStream::connect(run_dir.join(SOCKET)).ok();
    let pid = agent.and_then(|socket| getsockopt(&socket, PeerCredentials).ok()).map(|peer| peer.pid());
    let environ = pid.and_then(|pid| fs::read(format!("/proc/{pid}/environ")).ok());
    environ.map_or_else(Proxy::from_environment, |environ| Proxy::from_environ(&environ))
}

fn wanted(manifest_dir: &Path) -> Wanted {
    let mut wanted = Wanted::default();
    let names = fs::read_dir(manifest_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_manifest = |path: &std::path::PathBuf| {
        path.extension().and_then(|end| end.to_str()).is_some_and(|end| matches!(end, "yaml" | "yml" | "json"))
            && path.is_file()
    };
    for path in names.filter(is_manifest).take(FILES_MAX) {
        let mut text = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        if read.is_ok() {
            wanted.read(&text);
        }
    }
    wanted
}

impl Wanted {
    fn read(&mut self, text: &[u8]) {
        for document in parse("", text, &Context::default()).documents {
            match document.result {
                Ok(Document::Workload(pod)) => {
                    let spec = &pod.template.spec;
                    let namespace = &pod.workload.namespace;
                    let key = |name: &String| SecretKey { namespace: namespace.clone(), name: name.clone() };
                    let keys: Vec<SecretKey> = spec.image_pull_secrets.iter().map(key).collect();
                    for container in spec.containers.iter().filter(|one| one.pull_policy != PullPolicy::Never) {
                        self.image(&container.image, &keys);
                    }
                    for container in &spec.containers {
                        for (_, of) in
                            spec.image_volumes(container).filter(|(_, of)| of.pull_policy != PullPolicy::Never)
                        {
                            self.image(&of.reference, &keys);
                        }
                    }
                }
                Ok(Document::Content { key, content }) => {
                    if let Some(login) = content.login() {
                        let key = SecretKey { namespace: key.namespace, name: key.name };
                        self.secrets.insert(key, login);
                    }
                }
                _ => {}
            }
        }
    }

    fn image(&mut self, image: &str, keys: &[SecretKey]) {
        let Ok(reference) = image.parse::<Reference>() else { return };
        let target = match reference.digest() {
            Some(digest) => Target::Digest(digest.to_string()),
            None => Target::Tag(reference.tag().unwrap_or("latest").to_owned()),
        };
        let host = reference.registry().to_owned();
        let repository = Repository { host: host.clone(), path: reference.repository().to_owned() };
        self.images.entry(host).or_insert_with(|| (repository, target, keys.to_vec()));
    }
}

pub fn lines(found: &Registries) -> Vec<Line> {
    let now = Timestamp::now();
    let mut lines: Vec<Line> = found.asked.iter().map(|(name, reach)| judge(name, reach, now)).collect();
    if let Some(why) = &found.unreadable {
        lines.push(Line::fail(
            "registries",
            format!("{why}: no mirror or authority in it counts"),
            "correct --registry-config",
        ));
    }
    if !found.left_out.is_empty() {
        let names = found.left_out.join(", ");
        lines.push(Line::warn("registries", format!("not asked: {names}"), "remove directories that nobody needs"));
    }
    if lines.is_empty() {
        lines.push(Line::ok("registries", "no manifest and no hosts.toml names one"));
    }
    lines
}

fn judge(name: &str, reach: &Result<Reach, RegistryError>, now: Timestamp) -> Line {
    let line = format!("registry {name}");
    let reach = match reach {
        Ok(reach) => reach,
        Err(why) => {
            return Line::fail(&line, why.to_string(), "correct what it names; nothing is pulled from there meanwhile");
        }
    };
    let worst = |fail: bool, found: String, fix: String| {
        if fail { Line::fail(&line, found, fix) } else { Line::warn(&line, found, fix) }
    };
    let mut asked = Vec::new();
    for host in &reach.hosts {
        if let Some((fail, found, fix)) = wrong(host, now) {
            return worst(fail, format!("{}: {found}", host.host), fix);
        }
        let way = host.proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
        asked.push(format!("{}{way}", host.host));
    }
    let asked = asked.join(", ");
    match &reach.image {
        Some(Err(error)) if error.is_denied() => Line::fail(
            &line,
            format!("{asked} answers, and refuses: {error}"),
            "give a login: --registry-auth FILE, or a Secret that the pod names in imagePullSecrets",
        ),
        Some(Err(error)) if error.is_not_found() => Line::warn(
            &line,
            format!("{asked} answers, and has it not: {error}"),
            "correct the image's name; where it comes from the image directory, nothing needs doing",
        ),
        Some(Err(error)) => Line::warn(&line, error.to_string(), "see what the registry says of itself"),
        Some(Ok(())) => Line::ok(&line, format!("{asked}: name, connection, certificate and login are good")),
        None => {
            Line::ok(&line, format!("{asked}: name, connection and certificate are good; no manifest names an image"))
        }
    }
}

/// Whether it is certain (Fail), what, and what to do.
fn wrong(host: &HostReach, now: Timestamp) -> Option<(bool, String, String)> {
    let time = crate::status::time;
    let soon = |ends: &Timestamp| now.checked_add(ENDS_SOON).is_ok_and(|soon| *ends < soon);
    // First, because a host that sees it refuses in words of its own.
    if let Some(ends) = host.client_certificate_ends.filter(|ends| soon(ends)) {
        let word = if ends < now { "has ended" } else { "ends" };
        let found = format!("our certificate for it {word} on {}", time(ends));
        return Some((ends < now, found, "renew the certificate that `client` of its hosts.toml names".into()));
    }
    if let Some((stage, why)) = &host.obstacle {
        let via = host.proxy.as_ref().map_or_else(String::new, |proxy| format!(" (proxy {proxy})"));
        let here = "images that are here go on being used";
        return Some(match stage {
            Stage::Files => (true, why.clone(), "correct the file; nothing is pulled from there meanwhile".into()),
            Stage::Name => (
                false,
                format!("its name is not known{via}: {why}"),
                format!("correct the name, or /etc/resolv.conf; {here}"),
            ),
            Stage::Connection => (
                false,
                format!("no connection{via}: {why}"),
                format!("open the way to it (route, firewall), or set HTTPS_PROXY in the agent's unit; {here}"),
            ),
            Stage::Tls if why.to_lowercase().contains("expired") => (
                true,
                format!("its certificate has ended: {why}"),
                "have it renewed at the registry; see also the line clock".into(),
            ),
            Stage::Tls => (
                true,
                format!("TLS{via}: {why}"),
                "name its authority with ca in its hosts.toml, and our certificate with client where it asks for one"
                    .into(),
            ),
            Stage::Answer => (
                false,
                format!("connects{via} and does not answer: {why}"),
                format!("see the registry's own logs; {here}"),
            ),
        });
    }
    let ends = host.certificate_ends.filter(|ends| soon(ends))?;
    Some((false, format!("its certificate ends on {}", time(ends)), "have it renewed at the registry".into()))
}

#[cfg(test)]
mod tests;
