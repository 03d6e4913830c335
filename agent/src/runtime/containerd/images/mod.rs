//! Images in containerd: found by name, imported from archives, unpacked, described.
//!
//! Driven by the runtime (`prepare`, `facts`), by the image directory (`import`), by the collector ([`shelf`]) and by words
//! ([`by_hand`], [`export`]). Reading order: [`mod@reference`],
//! [`tarball`], [`bundle`], [`import`], [`resolve`], [`unpack`], [`pull`], [`prepare`]. Knows nothing of pods but the container's
//! image and pull policy. Two ways lead in: archives of the image directory, and registries.

pub mod bundle;
pub mod by_hand;
pub mod config;
pub mod digest;
mod disk;
pub mod documents;
pub mod export;
pub mod first_reading;
pub mod import;
pub mod ingest;
pub mod list;
pub mod locks;
pub mod platform;
pub mod prepare;
pub mod pull;
pub mod reference;
pub mod resolve;
pub mod shelf;
pub mod store;
pub mod tarball;
pub mod unpack;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use containerd_client::tonic::Status;
use pod::secret::{DockerConfig, SecretKey};
use tokio::sync::{Notify, OnceCell, watch};

use crate::metrics::Metrics;
use crate::registry::RegistryError;

use self::disk::DiskLook;
use self::documents::Descriptor;
use self::first_reading::FirstReading;
use self::locks::Locks;
use self::platform::Platform;
use self::pull::Pulls;
use self::resolve::Cache;
use self::store::Lease;
use self::tarball::ArchiveError;
use super::client::{Client, is_unavailable};

/// The images of one containerd namespace. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    /// containerd's name of it: `overlayfs`.
    snapshotter: String,
    platform: Platform,
    cache: Cache,
    /// By chain id.
    unpacking: Locks,
    pulls: Pulls,
    /// Credentials out of Secret documents.
    secrets: watch::Sender<BTreeMap<SecretKey, DockerConfig>>,
    secrets_changed: Notify,
    /// Told when a pull has brought an image.
    arrived: Notify,
    /// Moves when an archive has brought images.
    imported: watch::Sender<u64>,
    /// Stamps of the archives in the image directory; None before it was looked at.
    lying: Mutex<Option<BTreeSet<String>>>,
    /// Held by the one import that is under way.
    importing: tokio::sync::Mutex<()>,
    swept: OnceCell<()>,
    /// Held while an image record is changed or removed; who begins to use an image waits for it once.
    shelf: tokio::sync::Mutex<()>,
    /// Told when an image has come by any way, for the collector.
    came: Notify,
    /// Told when an image found no room.
    no_room: Notify,
    disk: DiskLook,
    metrics: OnceLock<Metrics>,
    first_reading: FirstReading,
}

/// Of an error, in characters: it goes into statuses and events.
const SENTENCE_MAX: usize = 1_500;

/// What helps where containerd's disk is full.
const MAKE_ROOM: &str = "; make room on the disk of containerd's root directory (daemonlet images prune)";

/// Why an image cannot be had, imported or described.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("containerd failed while {doing}")]
    Containerd {
        doing: String,
        #[source]
        status: Status,
    },
    #[error("{archive} is refused")]
    Archive {
        archive: String,
        #[source]
        error: ArchiveError,
    },
    /// What containerd has of it is not whole.
    #[error(
        "image {image} is damaged: {reason}; put its archive into the image directory again, or remove it there first"
    )]
    Damaged { image: String, reason: String },
    #[error("image {image} has nothing for this node ({node}): offered {}", offered.join(", "))]
    Platform { image: String, node: String, offered: Vec<String> },
    #[error("image {image} is refused: {reason}")]
    Refused { image: String, reason: String },
    #[error("pulling {image} failed")]
    Registry {
        image: String,
        #[source]
        error: RegistryError,
    },
    /// Known before a byte of its layers is fetched.
    #[error("no space left on device for image {image}: {missing} bytes of it are to be fetched, {available} are free")]
    NoRoom { image: String, missing: u64, available: u64 },
    /// They were dropped.
    #[error("{host} sent wrong bytes for {digest} of image {image}, which were dropped: {reason}")]
    WrongBytes { image: String, digest: String, host: String, reason: String },
}

impl ImageError {
    pub fn containerd(doing: impl Into<String>) -> impl FnOnce(Status) -> ImageError {
        let doing = doing.into();
        move |status| ImageError::Containerd { doing, status }
    }

    /// A layer that is here, and whole, has this size and its manifest says another.
    fn other_size(image: &str, layer: &Descriptor, size: u64) -> ImageError {
        let reason = format!("layer {} has {size} bytes, its manifest says {}", layer.digest, layer.size);
        ImageError::Refused { image: image.to_owned(), reason }
    }

    /// containerd is not there at present: the same may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, ImageError::Containerd { status, .. } if is_unavailable(status))
    }

    /// The whole chain in one line of bounded length: images, archives and registries are quoted in it.
    pub fn sentence(&self) -> String {
        let whole = self.whole_sentence();
        let mut words: String =
            whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SENTENCE_MAX).collect();
        if words.len() < whole.len() {
            words.push('…');
        }
        words
    }

    fn whole_sentence(&self) -> String {
        match self {
            ImageError::NoRoom { .. } => format!("{self}{MAKE_ROOM}"),
            ImageError::Containerd { status, .. } => {
                let advice = if self.is_disk_full() { MAKE_ROOM } else { "" };
                format!("{self}: {}{advice}", super::client::shorten(status.message()))
            }
            ImageError::Registry { error, .. } => format!("{self}: {error}"),
            ImageError::Archive { archive, error } => match error {
                ArchiveError::Io(io) => format!("{archive}: {error}: {io}"),
                _ => format!("{archive}: {error}"),
            },
            ImageError::Damaged { .. }
            | ImageError::Platform { .. }
            | ImageError::Refused { .. }
            | ImageError::WrongBytes { .. } => self.to_string(),
        }
    }

    /// The registry could not be reached (network, 5xx, 429), as opposed to having said no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ImageError::Registry { error, .. } if error.unreachable())
    }

    /// How long the registry asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ImageError::Registry { error, .. } => error.retry_after(),
            _ => None,
        }
    }

    /// There is no room for it on containerd's disk. containerd hands the kernel's words on and no code of its own.
    pub fn is_disk_full(&self) -> bool {
        let full = |text: &str| text.contains("no space left on device") || text.contains("disk quota exceeded");
        match self {
            ImageError::Containerd { status, .. } => full(status.message()),
            ImageError::NoRoom { .. } => true,
            _ => false,
        }
    }
}

impl Images {
    /// Does not call containerd yet.
    pub fn new(client: Client, snapshotter: &str, pulls: pull::Settings) -> Images {
        Images::for_platform(client, snapshotter, pulls, Platform::of_this_node())
    }

    /// For tests: as if on a machine of this platform.
    pub fn for_platform(client: Client, snapshotter: &str, pulls: pull::Settings, platform: Platform) -> Images {
        let shared = Shared {
            client,
            snapshotter: snapshotter.to_owned(),
            platform,
            cache: Cache::default(),
            unpacking: Locks::default(),
            pulls: Pulls::new(pulls),
            secrets: watch::Sender::default(),
            secrets_changed: Notify::new(),
            arrived: Notify::new(),
            imported: watch::Sender::default(),
            lying: Mutex::default(),
            importing: tokio::sync::Mutex::default(),
            swept: OnceCell::new(),
            shelf: tokio::sync::Mutex::default(),
            came: Notify::new(),
            no_room: Notify::new(),
            disk: DiskLook::default(),
            metrics: OnceLock::new(),
            first_reading: FirstReading::default(),
        };
        Images { shared: Arc::new(shared) }
    }

    /// Where pulls are counted from here on. The first one told counts.
    pub fn count_in(&self, metrics: Metrics) {
        let _told_before = self.shared.metrics.set(metrics);
    }

    /// The image directory's first reading, which may bring what is missing.
    pub fn first_reading(&self) -> &FirstReading {
        &self.shared.first_reading
    }

    /// Once, before the first lease is taken, or when it is known that none has to be taken now.
    async fn clear_old_leases(&self) -> Result<(), ImageError> {
        let client = self.client();
        let cleared = self.shared.swept.get_or_try_init(|| Lease::sweep(client)).await;
        cleared.copied().map_err(ImageError::containerd("clearing old leases"))
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    /// A new lease, after those of an agent that was killed are cleared.
    async fn lease(&self) -> Result<Lease, ImageError> {
        let client = self.client();
        self.clear_old_leases().await?;
        Lease::take(client).await.map_err(ImageError::containerd("taking a lease"))
    }
}
