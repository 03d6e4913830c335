//! Registries: what a tag names, manifests, and blobs as streams, from any registry that speaks the OCI distribution protocol (or
//! Docker's, of which it grew). Driven by whoever pulls images; it knows hosts, credentials and HTTP, and nothing of containerd, of pods
//! or of the agent's configuration.
//!
//! One call goes through the hosts of its registry in turn ([`hosts`]: mirrors first, the registry itself last), at each of them through
//! the logins that are for it ([`credentials`], [`visit`]), and returns the first good answer, or what every host said.

mod blame;
mod blob;
pub mod certificate;
pub mod challenge;
pub mod credentials;
mod error;
mod helped;
pub mod hosts;
mod http;
pub mod manifest;
pub mod names;
mod proxy;
mod reach;
mod round;
mod tls;
mod tokens;
mod visit;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

use blame::Blamed;
pub use blob::Blob;
pub use credentials::{Credential, Login, Secret};
pub use error::{Failure, HostFailure, RegistryError};
pub use names::Names;
pub use proxy::Proxy;
pub use reach::{HostReach, Reach, Stage, configured};
use round::Need;
pub use tls::unverified;
use visit::{Question, Visit};

/// The largest index or manifest that is read. The distribution specification asks registries to take at least 4 MiB and lets them refuse
/// more; containerd reads no larger ones.
pub const MANIFEST_MAX: u64 = 4 << 20;

/// How many hosts' time ([`Patience::ask`]) all hosts together have to say what a name means: a mirror, a second one, the registry.
const ASKED_MAX: u32 = 3;

/// A host that had less than this part of its time, because others have used up what there is for all, is not to blame for its silence.
const FAIR_PART: u32 = 2;

/// Access to registries. Cheap to clone; clones share connections and tokens. Nothing is read or connected before the first call.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// What the calls share. The locks are held for moments, never over a wait.
struct Shared {
    settings: Settings,
    /// Locked where files are read, off the loop's thread.
    clients: Mutex<http::Clients>,
    grants: Mutex<tokens::Grants>,
    /// Shared with helpers that run: their answers are kept, also where nobody waits for them any more.
    helped: Arc<Mutex<helped::Helped>>,
    blamed: Mutex<Blamed>,
}

/// Where registries' configuration lies, and how to get out of this network.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// containerd's `certs.d`: a directory a registry, with a `hosts.toml` (`--registry-config`).
    pub hosts_dir: Option<PathBuf>,
    /// A docker `config.json` (`--registry-auth`). Read anew for each call, so that a changed file counts at once.
    pub auth_file: Option<PathBuf>,
    /// HTTP_PROXY, HTTPS_PROXY and NO_PROXY: [`Proxy::from_environment`].
    pub proxy: Proxy,
    /// How long to wait for what. The default is for the field; tests have less time.
    pub patience: Patience,
}

/// How long a host may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the name to a connection that is ready to be asked, TLS included (`dial_timeout` of a hosts.toml wins).
    pub connect: Duration,
    /// Without a single byte, before the answer begins or inside of it. A blob has no bound as a whole: links may be slow.
    pub stall: Duration,
    /// For all of a document (manifest, token): small, so that a host that drips them is no host.
    pub document: Duration,
    /// For one host to say what a name means ([`Registry::digest`]), connection and token included, and before that for its logins to
    /// come from a helper; all together have three times that.
    pub ask: Duration,
    /// How long a host that failed is asked after the others.
    pub blame: Duration,
}

/// An image's name without its tag or digest, as the user wrote it after Docker's rules for short names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    /// With the port where there is one: `docker.io`, `registry:5000`, `[::1]:5000`.
    pub host: String,
    /// `library/busybox`.
    pub path: String,
}

/// Which of a repository's manifests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Tag(String),
    /// `sha256:…` (or sha512).
    Digest(String),
}

/// An index or manifest as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// One of the four that are known: OCI index and manifest, Docker manifest list and manifest of schema 2.
    pub media_type: String,
    /// Of `bytes`, computed here: sha256, or the algorithm that was asked for.
    pub digest: String,
    /// At most [`MANIFEST_MAX`].
    pub bytes: Vec<u8>,
}

impl Registry {
    pub fn new(settings: Settings) -> Registry {
        Registry {
            shared: Arc::new(Shared {
                settings,
                clients: Mutex::default(),
                grants: Mutex::default(),
                helped: Arc::default(),
                blamed: Mutex::default(),
            }),
        }
    }

    /// What a tag or digest names. The digest is verified where one was asked for. `secrets` are the pod's own (imagePullSecrets): they
    /// are tried before those of the credentials file.
    pub async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        secrets: &[Credential],
    ) -> Result<Manifest, RegistryError> {
        check(repository, target)?;
        let need = Need::of(target);
        let mut round = self.round(repository, need, secrets, format!("manifest {repository}{target}")).await?;
        while let Some(visit) = round.next().await {
            // A host that may resolve and not serve says what the tag is; who may serve is asked for that.
            if need == Need::Resolve && !visit.endpoint.capabilities.pull {
                match digest_at(&visit, target).await {
                    Ok(digest) => {
                        let target = Target::Digest(digest);
                        return Box::pin(self.manifest(repository, &target, secrets)).await;
                    }
                    Err(failure) => round.failed(failure),
                }
                continue;
            }
            match manifest_at(&visit, target).await {
                Ok(manifest) => return Ok(manifest),
                Err(failure) => round.failed(failure),
            }
        }
        Err(round.error())
    }

    /// The digest (`sha256:…`) that a tag names now, by HEAD: cheap, and not counted by registries that limit pulls. Somebody waits who has
    /// the image already, so each host and all of them together have little time ([`Patience::ask`]).
    pub async fn digest(
        &self,
        repository: &Repository,
        target: &Target,
        secrets: &[Credential],
    ) -> Result<String, RegistryError> {
        check(repository, target)?;
        let what = format!("digest of {repository}{target}");
        let (begun, each) = (Instant::now(), self.shared.settings.patience.ask);
        let all = each.saturating_mul(ASKED_MAX);
        let mut round =
            match tokio::time::timeout(all, self.round(repository, Need::of(target), secrets, what.clone())).await {
                Ok(round) => round?,
                // The disk with the configuration hangs: the registry counts as unreachable.
                Err(_) => {
                    return Err(RegistryError::one(&what, &repository.host, true, Failure::Stalled { time: all }));
                }
            };
        loop {
            let left = || each.min(all.saturating_sub(begun.elapsed()));
            let time = left();
            if time.is_zero() {
                return Err(round.error());
            }
            // The logins for the host, which a helper may take its time for: that is not the host's.
            let visit = match tokio::time::timeout(time, round.next()).await {
                Ok(Some(visit)) => visit,
                Ok(None) => return Err(round.error()),
                Err(_) => {
                    round.failed(Failure::Login { time });
                    continue;
                }
            };
            let time = left();
            let asked = tokio::time::timeout(time, digest_at(&visit, target)).await;
            match asked {
                Ok(Ok(digest)) => return Ok(digest),
                Ok(Err(failure)) => round.failed(failure),
                Err(_) if time < each / FAIR_PART => round.said(Failure::Stalled { time }),
                Err(_) => round.failed(Failure::Stalled { time }),
            }
        }
    }

    /// The blob's bytes from offset `from` on; `size` is the whole blob's, as its descriptor says.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &str,
        size: u64,
        from: u64,
        secrets: &[Credential],
    ) -> Result<Blob, RegistryError> {
        check(repository, &Target::Digest(digest.to_owned()))?;
        let what = format!("blob {digest} of {repository}");
        let mut round = self.round(repository, Need::Pull, secrets, what.clone()).await?;
        while let Some(visit) = round.next().await {
            let (host, origin) = (visit.endpoint.name(), visit.endpoint.origin);
            let blob = |from, body, left| Blob {
                from,
                host: host.clone(),
                what: what.clone(),
                origin,
                body,
                left,
                registry: self.clone(),
            };
            if from >= size {
                return Ok(blob(size, None, 0));
            }
            match blob_at(&visit, digest, size, from).await {
                Ok((begin, response)) => return Ok(blob(begin, Some(response), size - begin)),
                Err(failure) => round.failed(failure),
            }
        }
        Err(round.error())
    }

    /// This host ([`Blob::host`]) served wrong bytes, or ended its answers early too often: for some minutes the others are asked before it.
    /// Hosts that do not answer, stall or cannot be used are blamed without the reader's help.
    pub fn blame(&self, host: &str) {
        lock(&self.shared.blamed).add(host, Instant::now());
    }

    /// Lets go of connections, roots, clients and tokens; the next call makes them again. For whoever knows that nothing more is to be
    /// pulled. Streams that are open go on.
    pub fn rest(&self) {
        lock(&self.shared.clients).clear();
        lock(&self.shared.grants).clear();
        lock(&self.shared.helped).clear();
    }
}

async fn manifest_at(visit: &Visit<'_>, target: &Target) -> Result<Manifest, Failure> {
    let patience = &visit.shared.settings.patience;
    let path = format!("manifests/{}", target.reference());
    let question = Question { method: Method::GET, path: &path, accept: manifest::ACCEPT, from: 0 };
    let response = visit.ask(&question).await?;
    let content_type = text_of(response.headers(), CONTENT_TYPE.as_str());
    let stated = text_of(response.headers(), DIGEST_HEADER).filter(|digest| manifest::is_digest(digest));
    let bytes = http::body(response, MANIFEST_MAX, patience).await?;
    let wanted = match target {
        Target::Digest(digest) => Some(digest.clone()),
        Target::Tag(_) => stated,
    };
    let digest = manifest::digest(&bytes, wanted.as_deref());
    match wanted {
        Some(wanted) if wanted != digest => {
            Err(Failure::Unusable { reason: format!("sent wrong bytes: their digest is {digest}, expected {wanted}") })
        }
        _ => match manifest::media_type(content_type.as_deref(), &bytes) {
            Ok(media_type) => Ok(Manifest { media_type, digest, bytes }),
            Err(reason) => Err(Failure::Unusable { reason }),
        },
    }
}

async fn digest_at(visit: &Visit<'_>, target: &Target) -> Result<String, Failure> {
    let path = format!("manifests/{}", target.reference());
    let question = Question { method: Method::HEAD, path: &path, accept: manifest::ACCEPT, from: 0 };
    let response = match visit.ask(&question).await {
        Ok(response) => response,
        // A registry that knows no HEAD.
        Err(Failure::Unusable { .. }) => return manifest_at(visit, target).await.map(|manifest| manifest.digest),
        Err(failure) => return Err(failure),
    };
    let content_type = text_of(response.headers(), CONTENT_TYPE.as_str());
    manifest::known_type(content_type.as_deref()).map_err(|reason| Failure::Unusable { reason })?;
    match text_of(response.headers(), DIGEST_HEADER).filter(|digest| manifest::is_digest(digest)) {
        Some(digest) => Ok(digest),
        None => manifest_at(visit, target).await.map(|manifest| manifest.digest),
    }
}

async fn blob_at(visit: &Visit<'_>, digest: &str, size: u64, from: u64) -> Result<(u64, reqwest::Response), Failure> {
    let path = format!("blobs/{digest}");
    // Once from where it is wanted, and once more from the start if that range is not understood.
    for from in [from, 0] {
        let question = Question { method: Method::GET, path: &path, accept: "*/*", from };
        let response = visit.ask(&question).await?;
        if response.status() == reqwest::StatusCode::RANGE_NOT_SATISFIABLE {
            continue;
        }
        if let Some(begin) = blob::begin(&response, size, from)? {
            return Ok((begin, response));
        }
    }
    Err(Failure::Unusable { reason: "answers with ranges that were not asked for".to_owned() })
}

/// The distribution specification's header with the digest of what is served.
const DIGEST_HEADER: &str = "docker-content-digest";

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Names that can stand in a URL's path as they are: whoever parsed them knows the grammar, this is the last look.
fn check(repository: &Repository, target: &Target) -> Result<(), RegistryError> {
    let plain = |text: &str, more: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && plain(part, b"._-");
    let host = &repository.host;
    let good = !host.is_empty() && host.len() <= 255 && !host.starts_with('.') && plain(host, b".-_:[]");
    let good = good && repository.path.len() <= 255 && repository.path.split('/').all(part);
    let good = good
        && match target {
            Target::Tag(tag) => tag.len() <= 128 && part(tag),
            Target::Digest(digest) => manifest::is_digest(digest),
        };
    if good {
        Ok(())
    } else {
        Err(RegistryError::Name { reason: format!("{repository}{target} is no image reference") })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// As it stands in a URL.
    fn reference(&self) -> &str {
        match self {
            Target::Tag(text) | Target::Digest(text) => text,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tag(tag) => write!(f, ":{tag}"),
            Target::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            // containerd's own bound; a lost SYN is repeated four times within it.
            connect: Duration::from_secs(30),
            // Longer than a TCP connection over a bad link takes to recover from a few lost packets.
            stall: Duration::from_secs(30),
            // 4 MiB over a link of 64 kbit/s take ten minutes, but real manifests have 10 kB and tokens 4 kB.
            document: Duration::from_secs(60),
            // A pod whose image is here waits for it, also where a firewall swallows every packet.
            ask: Duration::from_secs(5),
            // Longer than a retry, shorter than a repair.
            blame: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_helper_that_takes_its_time_is_not_the_registrys_fault() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        // Nobody listens there.
        let repository = Repository { host: "127.0.0.1:1".to_owned(), path: "a".to_owned() };
        std::fs::write(&file, r#"{"credHelpers": {"127.0.0.1:1": "slow"}}"#).unwrap();
        let patience = Patience { ask: Duration::from_millis(500), ..Patience::default() };
        let registry = Registry::new(Settings { auth_file: Some(file), patience, ..Settings::default() });
        let blamed = || lock(&registry.shared.blamed).place("127.0.0.1:1", Instant::now(), patience.blame).is_some();
        let target = Target::Tag("1".to_owned());
        // As if it ran.
        let turn = lock(&registry.shared.helped).turn(&("slow".to_owned(), "127.0.0.1:1".to_owned()));
        let running = turn.lock().await;
        let error = registry.digest(&repository, &target, &[]).await.unwrap_err();
        assert!(error.unreachable() && error.to_string().contains("credential helper"), "{error}");
        assert!(!blamed(), "{error}");
        drop(running);
        let error = registry.digest(&repository, &target, &[]).await.unwrap_err();
        assert!(error.unreachable() && blamed(), "{error}");
    }
}
