//! Registries: what a tag names, manifests, and blobs as streams, from any registry that speaks the OCI distribution protocol (or
//! Docker's, of which it grew). Driven by whoever pulls images; it knows hosts, credentials and HTTP, and nothing of containerd, of pods
//! or of the agent's configuration.
//!
//! One call goes through the hosts of its registry in turn (mirrors first, the registry itself last), at each of them through
//! the credentials that name it ([`credentials`]), and returns the first good answer, or what every host said.

pub mod credentials;
mod error;
mod proxy;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

pub use credentials::{Credential, Login, Secret};
pub use error::{Failure, HostFailure, RegistryError};
pub use proxy::Proxy;

/// The largest index or manifest that is read. The distribution specification asks registries to take at least 4 MiB and lets them refuse
/// more; containerd reads no larger ones.
pub const MANIFEST_MAX: u64 = 4 << 20;

/// Access to registries. Cheap to clone; clones share connections and tokens. Nothing is read or connected before the first call.
#[derive(Clone)]
pub struct Registry {}

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

/// A blob's bytes as they arrive. Never more than the size that was asked for; whether they are the right ones is the reader's to verify.
pub struct Blob {
    /// Where the bytes really begin: what was asked for, or 0 where the server ignores ranges.
    pub from: u64,
    /// Which host serves them, for progress, for a reason, and for [`Registry::blame`].
    pub host: String,
}

impl Registry {
    pub fn new(settings: Settings) -> Registry {
        let _ = settings;
        Registry {}
    }

    /// What a tag or digest names. The digest is verified where one was asked for. `secrets` are the pod's own (imagePullSecrets): they
    /// are tried before those of the credentials file.
    pub async fn manifest(
        &self,
        repository: &Repository,
        target: &Target,
        secrets: &[Credential],
    ) -> Result<Manifest, RegistryError> {
        let _ = (repository, target, secrets);
        Err(RegistryError::Hosts { registry: String::new(), reason: String::new() })
    }

    /// The digest (`sha256:…`) that a tag names now, by HEAD: cheap, and not counted by registries that limit pulls.
    pub async fn digest(
        &self,
        repository: &Repository,
        target: &Target,
        secrets: &[Credential],
    ) -> Result<String, RegistryError> {
        Ok(self.manifest(repository, target, secrets).await?.digest)
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
        let _ = (repository, digest, size, from, secrets);
        Err(RegistryError::Hosts { registry: String::new(), reason: String::new() })
    }

    /// This host ([`Blob::host`]) served bytes with a wrong digest: for some minutes the others are asked before it.
    pub fn blame(&self, host: &str) {
        let _ = host;
    }

    /// Lets go of connections, roots and clients; the next call makes them again. For whoever knows that nothing more is to be pulled.
    pub fn rest(&self) {}
}

impl Blob {
    /// The next bytes, or none when the blob is complete. After an error the rest has to be asked for anew.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        Ok(None)
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
        }
    }
}
