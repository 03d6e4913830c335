//! From an image record's target to what runs on this node: index, manifest, configuration, out of containerd's store.
//!
//! Content is named by its digest and never changes, so what was found is kept, bounded, without a way to grow stale.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::bundle::{Kind, is_attestation, kind_of};
use super::config::{self, chain_id};
use super::digest::Digest;
use super::documents::{Descriptor, ManifestOrIndex};
use super::pull::fetch::{Document, Fetch};
use super::store;
use super::{ImageError, Images};
use crate::runtime::containerd::image_facts::ImageConfig;

/// Images kept resolved: more than a node's pods have, a few kilobytes each.
const MAX_CACHED: usize = 128;
/// Indexes in indexes, as in archives.
const MAX_DEPTH: usize = 4;
/// Manifests tried within one image.
const MAX_TRIED: usize = 32;

/// This node's part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub manifest: Digest,
    pub config_digest: Digest,
    pub layers: Vec<Descriptor>,
    pub diff_ids: Vec<Digest>,
    /// None without layers.
    pub chain_id: Option<Digest>,
    pub platform: String,
    pub run: ImageConfig,
    /// Configuration and layers as stored, bytes.
    pub size: u64,
}

/// By target digest.
#[derive(Default)]
pub struct Cache {
    resolved: Mutex<BTreeMap<Digest, Arc<Resolved>>>,
}

impl Cache {
    fn get(&self, target: &Digest) -> Option<Arc<Resolved>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned()
    }

    fn put(&self, target: Digest, resolved: &Arc<Resolved>) {
        let mut cache = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED && !cache.contains_key(&target) {
            // Which one goes does not matter: reading it again costs three calls.
            cache.pop_first();
        }
        cache.insert(target, Arc::clone(resolved));
    }
}

impl Images {
    /// What of `target` runs here. `image` is for the words of an error.
    pub async fn resolve(&self, image: &str, target: &Digest) -> Result<Arc<Resolved>, ImageError> {
        if let Some(resolved) = self.shared.cache.get(target) {
            return Ok(resolved);
        }
        self.resolve_anew(image, target).await
    }

    /// The same from the store's bytes, whatever was found before: tells whether they are whole.
    pub async fn resolve_anew(&self, image: &str, target: &Digest) -> Result<Arc<Resolved>, ImageError> {
        self.search(image, target, Source::Store).await
    }

    /// The same, with documents from this source.
    pub(super) async fn search(
        &self,
        image: &str,
        target: &Digest,
        source: Source<'_>,
    ) -> Result<Arc<Resolved>, ImageError> {
        let mut search = Search { images: self, source, image, offered: Vec::new(), tried: 0 };
        match search.descend(target).await? {
            Some(resolved) => {
                let resolved = Arc::new(resolved);
                self.shared.cache.put(target.clone(), &resolved);
                Ok(resolved)
            }
            None => Err(ImageError::Platform {
                image: image.to_owned(),
                node: self.shared.platform.to_string(),
                offered: search.offered,
            }),
        }
    }
}

/// Where documents are had.
pub(super) enum Source<'a> {
    /// containerd's store, and nowhere else.
    Store,
    /// What is not in the store comes out of the registry, and is in the store afterwards.
    Registry(&'a Fetch),
}

struct Search<'a> {
    images: &'a Images,
    source: Source<'a>,
    image: &'a str,
    offered: Vec<String>,
    tried: usize,
}

impl Search<'_> {
    /// Depth first over what suits, best first, without recursion.
    async fn descend(&mut self, target: &Digest) -> Result<Option<Resolved>, ImageError> {
        let mut open = vec![(target.clone(), 0usize)];
        while let Some((digest, depth)) = open.pop() {
            self.tried += 1;
            if self.tried > MAX_TRIED || depth > MAX_DEPTH {
                return Err(self.damaged("it has too many manifests or indexes"));
            }
            let bytes = self.document(&digest, Document::Manifest).await?;
            let document: ManifestOrIndex =
                serde_json::from_slice(&bytes).map_err(|e| self.damaged(format!("{digest}: {e}")))?;
            match kind_of(&document) {
                Kind::Index(children) => open.extend(self.candidates(children, depth + 1)),
                Kind::Manifest(config, layers) => {
                    if let Some(resolved) = self.manifest(digest, config, layers).await? {
                        return Ok(Some(resolved));
                    }
                }
                Kind::Neither(why) => return Err(self.refused(why)),
            }
        }
        Ok(None)
    }

    /// The children for this node, the best one last.
    fn candidates(&mut self, children: &[Descriptor], depth: usize) -> Vec<(Digest, usize)> {
        let node = &self.images.shared.platform;
        let mut ranked = Vec::new();
        for child in children.iter().filter(|c| !is_attestation(c)) {
            match child.platform.as_ref().map(|p| (p, p.rank_on(node))) {
                None => ranked.push((0, child)),
                Some((_, Some(rank))) => ranked.push((rank, child)),
                Some((platform, None)) => self.offered.push(platform.to_string()),
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, c)| (c.digest.clone(), depth)).collect()
    }

    async fn manifest(
        &mut self,
        manifest: Digest,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<Option<Resolved>, ImageError> {
        let bytes = self.document(&config.digest, Document::Config(config.size)).await?;
        let parsed = config::read(&bytes).map_err(|e| self.refused(e))?;
        let silent = parsed.platform.os.is_empty() && parsed.platform.architecture.is_empty();
        if !silent && parsed.platform.rank_on(&self.images.shared.platform).is_none() {
            self.offered.push(parsed.platform.to_string());
            return Ok(None);
        }
        if parsed.diff_ids.len() != layers.len() {
            return Err(self.refused("its manifest and its configuration list different numbers of layers".into()));
        }
        let size = layers.iter().fold(config.size, |sum, l| sum.saturating_add(l.size));
        Ok(Some(Resolved {
            manifest,
            config_digest: config.digest.clone(),
            layers: layers.to_vec(),
            chain_id: chain_id(&parsed.diff_ids),
            diff_ids: parsed.diff_ids,
            platform: parsed.platform.to_string(),
            run: parsed.run,
            size,
        }))
    }

    async fn document(&self, digest: &Digest, document: Document) -> Result<Vec<u8>, ImageError> {
        if let Source::Registry(fetch) = self.source {
            return fetch.document(digest, document).await;
        }
        let doing = || format!("reading {digest} of image {}", self.image);
        match store::document(self.images.client(), digest).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(self.damaged(format!("{digest} is missing in containerd's content store"))),
            Err(status) if status.code() == containerd_client::tonic::Code::DataLoss => {
                Err(self.damaged(status.message().to_owned()))
            }
            Err(status) => Err(ImageError::Containerd { doing: doing(), status }),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Damaged { image: self.image.to_owned(), reason: reason.into() }
    }

    fn refused(&self, reason: String) -> ImageError {
        ImageError::Refused { image: self.image.to_owned(), reason }
    }
}
