//! Content of one image from its registry into containerd's store: documents whole, blobs as streams that are resumed.
//!
//! Driven by `attempt` and, for documents, by `resolve`. It knows one image and one lease; whether and when to try again it
//! leaves to `pull`, but for a cut connection that had brought something.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::Info;
use containerd_client::tonic::{Code, Status};
use tokio::time::Instant;

use super::conduct::{Conduct, Next};
use super::meter::Meter;
use crate::registry::{Blob, Credential, RegistryError, Repository, Target};
use crate::runtime::containerd::images::bundle::{Kind, gc_labels, kind_of};
use crate::runtime::containerd::images::digest::Digest;
use crate::runtime::containerd::images::documents::{Descriptor, MAX_DOCUMENT, ManifestOrIndex};
use crate::runtime::containerd::images::ingest::{CommitError, Ingest, Opened};
use crate::runtime::containerd::images::store::{self, Lease};
use crate::runtime::containerd::images::{ImageError, Images};

/// What goes to containerd at once. Times the downloads at once, it is what a pull of any size holds in memory.
const PIECE: usize = 256 << 10;
/// A slow link fills a piece in minutes: what a killed agent has to fetch again is at most what comes in this time.
const PIECE_AGE: Duration = Duration::from_secs(1);
/// containerd's label of where content may be had again: the registry in its key, repositories in its value.
const SOURCE_LABEL: &str = "containerd.io/distribution.source.";

/// See the top of the file. Cheap to clone.
#[derive(Clone)]
pub struct Fetch {
    pub images: Images,
    /// For the words of an error.
    pub image: Arc<str>,
    pub repository: Arc<Repository>,
    pub secrets: Arc<[Credential]>,
    pub lease: Lease,
    pub meter: Arc<Meter>,
}

/// A document that an image is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Or an index.
    Manifest,
    /// An image configuration, with its size in bytes.
    Config(u64),
}

/// Why the stream of a blob ended early.
enum Cut {
    Registry(RegistryError),
    Containerd(Status),
}

impl Fetch {
    /// What a tag or digest names now; it is in the store afterwards.
    pub async fn target(&self, target: &Target) -> Result<(Digest, String, u64), ImageError> {
        let registry = self.images.registry();
        let manifest =
            registry.manifest(&self.repository, target, &self.secrets).await.map_err(|e| self.registry(e))?;
        let digest: Digest = manifest.digest.parse().map_err(|e| self.refused(format!("{e}")))?;
        let size = manifest.bytes.len() as u64;
        self.put(&digest, manifest.bytes, Document::Manifest).await?;
        Ok((digest, manifest.media_type, size))
    }

    /// A document out of the store, or else out of the registry and then in the store; verified.
    pub async fn document(&self, digest: &Digest, document: Document) -> Result<Vec<u8>, ImageError> {
        let client = self.images.client();
        if let Some(info) = self.hold(digest).await? {
            match store::document(client, digest).await {
                Ok(Some(bytes)) => {
                    self.label(digest, &info, &self.labels(&bytes, document)).await?;
                    return Ok(bytes);
                }
                Ok(None) => {}
                // A power cut left other bytes than were written.
                Err(status) if status.code() == Code::DataLoss => {
                    let removed = store::remove(client, digest).await;
                    removed.map_err(self.containerd(format!("removing damaged content {digest}")))?;
                }
                Err(status) => return Err(self.containerd(format!("reading {digest}"))(status)),
            }
        }
        let bytes = match document {
            Document::Manifest => {
                let target = Target::Digest(digest.to_string());
                let manifest = self.images.registry().manifest(&self.repository, &target, &self.secrets).await;
                manifest.map_err(|e| self.registry(e))?.bytes
            }
            Document::Config(size) => self.small_blob(digest, size).await?,
        };
        self.put(digest, bytes.clone(), document).await?;
        if let Document::Config(size) = document {
            self.meter.fetched(size);
        }
        Ok(bytes)
    }

    /// A layer, in the store afterwards: it is there, or its rest is fetched. One download for all images that share it.
    pub async fn layer(&self, layer: &Descriptor) -> Result<(), ImageError> {
        let Descriptor { digest, size, .. } = layer;
        let pulls = &self.images.shared.pulls;
        let _turn = pulls.blobs.lock(digest).await;
        let labels = self.source_labels();
        if let Some(info) = self.hold(digest).await? {
            // containerd knows the size that it committed, whatever the disk has made of it.
            if let Ok(here) = u64::try_from(info.size)
                && here != *size
            {
                return Err(ImageError::other_size(&self.image, layer, here));
            }
            self.meter.present(*size);
            return self.label(digest, &info, &labels).await;
        }
        let _place = pulls.places.take(&self.repository.host).await;
        let mut conduct = Conduct::default();
        let mut lied_size = false;
        loop {
            let opened = Ingest::open(self.images.client(), &self.lease, digest, *size).await;
            let mut ingest = match opened.map_err(self.containerd(format!("writing layer {digest}")))? {
                Opened::Open(ingest) => ingest,
                Opened::Present => {
                    self.meter.present(*size);
                    let info = self.hold(digest).await?.unwrap_or_default();
                    return self.label(digest, &info, &labels).await;
                }
            };
            if ingest.offset() > *size {
                // Of another blob it cannot be: it is named by its digest. Then its size was a lie.
                ingest.abort().await;
                if std::mem::replace(&mut lied_size, true) {
                    return Err(self.refused(format!("layer {digest} is larger than its manifest says")));
                }
                continue;
            }
            conduct.begin(ingest.offset() > 0);
            self.meter.present(ingest.offset());
            if let Err(error) = self.download(&mut ingest, digest, *size, &mut conduct).await {
                if error.is_disk_full() || ingest.offset() == 0 {
                    // Its bytes are in everybody's way, or there are none to go on from.
                    ingest.abort().await;
                }
                return Err(error);
            }
            match ingest.commit(&labels).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Containerd(status)) => {
                    return Err(self.containerd(format!("committing layer {digest}"))(status));
                }
                Err(CommitError::Mismatch(reason)) => {
                    self.meter.dropped(*size);
                    tracing::warn!(image = %self.image, layer = %digest, hosts = conduct.hosts(), reason, "wrong bytes were dropped");
                    self.blame_for(&mut conduct, digest, reason)?;
                }
            }
        }
    }

    /// Brings the ingest to its end.
    async fn download(
        &self,
        ingest: &mut Ingest,
        digest: &Digest,
        size: u64,
        conduct: &mut Conduct,
    ) -> Result<(), ImageError> {
        while ingest.offset() < size {
            let before = ingest.offset();
            let mut blob = self.open(digest, size, before, conduct).await?;
            let streamed = self.stream(&mut blob, ingest, size).await;
            let progressed = ingest.offset() > before;
            if progressed {
                conduct.brought(&blob.host, blob.origin);
            }
            let cut = match streamed {
                Ok(()) if ingest.offset() == size => return Ok(()),
                Ok(()) => self.refused(format!("layer {digest}: {} sent nothing", blob.host)),
                Err(Cut::Containerd(status)) => {
                    return Err(self.containerd(format!("writing layer {digest}"))(status));
                }
                Err(Cut::Registry(error)) => self.registry(error),
            };
            self.after_cut(conduct.cut(&blob.host, progressed), &blob.host, cut)?;
            tracing::debug!(image = %self.image, layer = %digest, at = ingest.offset(), host = blob.host, "cut connection resumed");
        }
        Ok(())
    }

    /// The blob's rest, of a host that has not sent all of it wrong in this try.
    async fn open(&self, digest: &Digest, size: u64, from: u64, conduct: &Conduct) -> Result<Blob, ImageError> {
        let registry = self.images.registry();
        let blob = registry.blob(&self.repository, digest.as_str(), size, from, &self.secrets).await;
        let blob = blob.map_err(|e| self.registry(e))?;
        if let Some(reason) = conduct.lie_of(&blob.host) {
            return Err(self.wrong_bytes(&blob.host, digest, reason.to_owned()));
        }
        Ok(blob)
    }

    fn after_cut(&self, next: Next, host: &str, cut: ImageError) -> Result<(), ImageError> {
        match next {
            Next::Ask => Ok(()),
            Next::BlameAndAsk => {
                self.images.registry().blame(host);
                Ok(())
            }
            Next::GiveUp => Err(cut),
        }
    }

    /// The whole was wrong: whoever is to blame is asked last.
    fn blame_for(&self, conduct: &mut Conduct, digest: &Digest, reason: String) -> Result<(), ImageError> {
        let Some(blamed) = conduct.wrong(&reason) else {
            return Err(self.wrong_bytes(&conduct.hosts(), digest, reason));
        };
        for host in blamed {
            self.images.registry().blame(&host);
        }
        Ok(())
    }

    fn wrong_bytes(&self, host: &str, digest: &Digest, reason: String) -> ImageError {
        let (image, digest, host) = (self.image.to_string(), digest.to_string(), host.to_owned());
        ImageError::WrongBytes { image, digest, host, reason }
    }

    /// From one connection into the ingest. What came before a cut is kept.
    async fn stream(&self, blob: &mut Blob, ingest: &mut Ingest, size: u64) -> Result<(), Cut> {
        // A server without ranges begins at the beginning.
        let mut skip = usize::try_from(ingest.offset().saturating_sub(blob.from)).unwrap_or(usize::MAX);
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE);
        let mut begun = Instant::now();
        loop {
            // What waits for more bytes is written after a while, so that neither a stall nor the end of this try loses it.
            let next = match piece.is_empty() {
                true => blob.next().await,
                false => match tokio::time::timeout_at(begun + PIECE_AGE, blob.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        self.append(ingest, &mut piece).await?;
                        begun = Instant::now();
                        continue;
                    }
                },
            };
            let ended = match next {
                Ok(Some(mut bytes)) => {
                    self.images.shared.pulls.throttle.take(bytes.len()).await;
                    let skipped = skip.min(bytes.len());
                    skip -= skipped;
                    let mut bytes = bytes.split_off(skipped);
                    while !bytes.is_empty() {
                        let room = PIECE - piece.len();
                        piece.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
                        if piece.len() == PIECE {
                            self.append(ingest, &mut piece).await?;
                            begun = Instant::now();
                        }
                    }
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(error) => Some(Err(Cut::Registry(error))),
            };
            let missing = size.saturating_sub(ingest.offset()).saturating_sub(piece.len() as u64);
            if !piece.is_empty() && (ended.is_some() || missing == 0 || begun.elapsed() > PIECE_AGE) {
                self.append(ingest, &mut piece).await?;
                begun = Instant::now();
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn append(&self, ingest: &mut Ingest, piece: &mut Vec<u8>) -> Result<(), Cut> {
        let data = std::mem::replace(piece, Vec::with_capacity(PIECE));
        let length = data.len() as u64;
        ingest.write(data).await.map_err(Cut::Containerd)?;
        self.meter.fetched(length);
        Ok(())
    }

    /// A blob that is a document: into memory, which its size bounds.
    async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ImageError> {
        if size > MAX_DOCUMENT {
            return Err(self.refused(format!("its configuration has {size} bytes, more than {MAX_DOCUMENT}")));
        }
        let mut conduct = Conduct::default();
        loop {
            conduct.begin(false);
            let mut blob = self.open(digest, size, 0, &conduct).await?;
            conduct.brought(&blob.host, blob.origin);
            let bytes = match whole(&mut blob).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.after_cut(conduct.cut(&blob.host, false), &blob.host, self.registry(error))?;
                    continue;
                }
            };
            let mut hasher = digest.hasher();
            hasher.update(&bytes);
            let actual = hasher.finish();
            if actual == *digest && bytes.len() as u64 == size {
                return Ok(bytes);
            }
            let reason = format!("{} bytes with digest {actual}, {size} bytes expected", bytes.len());
            self.blame_for(&mut conduct, digest, reason)?;
        }
    }

    /// Writes a verified document.
    async fn put(&self, digest: &Digest, bytes: Vec<u8>, document: Document) -> Result<(), ImageError> {
        let labels = self.labels(&bytes, document);
        let writing = || self.containerd(format!("writing {digest}"));
        let opened = Ingest::open(self.images.client(), &self.lease, digest, bytes.len() as u64).await;
        let mut ingest = match opened.map_err(writing())? {
            Opened::Present => {
                let info = self.hold(digest).await?.unwrap_or_default();
                return self.label(digest, &info, &labels).await;
            }
            Opened::Open(ingest) => ingest,
        };
        let rest = usize::try_from(ingest.offset()).ok().and_then(|offset| bytes.get(offset..));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            ingest.write(rest.to_vec()).await.map_err(writing())?;
        }
        match ingest.commit(&labels).await {
            Ok(()) => Ok(()),
            Err(CommitError::Containerd(status)) => Err(writing()(status)),
            // Only an earlier try's bytes can be wrong; they are gone now.
            Err(CommitError::Mismatch(reason)) => Err(writing()(Status::aborted(reason))),
        }
    }

    /// Held under the lease, and its labels; None when it is not in the store.
    async fn hold(&self, digest: &Digest) -> Result<Option<Info>, ImageError> {
        let held = store::hold(self.images.client(), &self.lease, digest).await;
        held.map_err(self.containerd(format!("looking for content {digest}")))
    }

    /// Adds what is missing. A registry's label lists repositories, of which ours becomes one.
    async fn label(&self, digest: &Digest, info: &Info, labels: &BTreeMap<String, String>) -> Result<(), ImageError> {
        let lacking: BTreeMap<String, String> = labels
            .iter()
            .filter_map(|(key, value)| match info.labels.get(key) {
                Some(known) if known == value => None,
                Some(known) if key.starts_with(SOURCE_LABEL) => {
                    let listed = known.split(',').any(|repository| repository == value);
                    (!listed).then(|| (key.clone(), format!("{known},{value}")))
                }
                _ => Some((key.clone(), value.clone())),
            })
            .collect();
        let labelled = store::label(self.images.client(), digest, &lacking).await;
        labelled.map_err(self.containerd(format!("labelling content {digest}")))
    }

    /// What keeps a document's children, and where it came from. What cannot be read has no children: it will be refused.
    fn labels(&self, bytes: &[u8], document: Document) -> BTreeMap<String, String> {
        let mut labels = self.source_labels();
        if document == Document::Manifest
            && let Ok(parsed) = serde_json::from_slice::<ManifestOrIndex>(bytes)
        {
            labels.extend(match kind_of(&parsed) {
                Kind::Index(children) => gc_labels(children.iter().map(|c| ("m.", c))),
                Kind::Manifest(config, layers) => {
                    gc_labels([("config", config)].into_iter().chain(layers.iter().map(|l| ("l.", l))))
                }
                Kind::Neither(_) => BTreeMap::new(),
            });
        }
        labels
    }

    fn source_labels(&self) -> BTreeMap<String, String> {
        let Repository { host, path } = self.repository.as_ref();
        BTreeMap::from([(format!("{SOURCE_LABEL}{host}"), path.clone())])
    }

    pub fn registry(&self, error: RegistryError) -> ImageError {
        ImageError::Registry { image: self.image.to_string(), error }
    }

    fn containerd(&self, doing: String) -> impl FnOnce(Status) -> ImageError {
        ImageError::containerd(format!("{doing} of image {}", self.image))
    }

    fn refused(&self, reason: String) -> ImageError {
        ImageError::Refused { image: self.image.to_string(), reason }
    }
}

/// All of a blob that is small: it gives no more bytes than its size says.
async fn whole(blob: &mut Blob) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(more) = blob.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}
