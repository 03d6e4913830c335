//! What an archive holds, decided before a byte of it goes to containerd: which images under which names, which blobs
//! belong to them for this node's platform, and where their bytes are.
//!
//! Driven by the import. Two forms are read: an OCI image layout (`index.json`, `blobs/`) and `docker save`
//! (`manifest.json`), which newer Dockers write together; then the layout wins, unless it gives no names. Knows nothing of
//! containerd but the garbage collector's labels that its own import sets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::config::{self, Config};
use super::digest::{Digest, Hasher};
use super::documents::{
    Annotations, DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, DockerImage, DockerImages, MAX_LIST,
    ManifestOrIndex, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, WrittenManifest,
};
use super::platform::Platform;
use super::reference::Reference;
use super::tarball::{ArchiveError, Entry, Tarball, read_failed};

/// Indexes in indexes: build tools nest two deep.
const MAX_INDEX_DEPTH: usize = 4;
/// Documents read of one archive: 100 images with an index, a manifest and a configuration each are 300.
const MAX_DOCUMENTS: usize = 1024;
/// Document bytes held until they are written, together.
const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// Everything of an archive that is to be imported.
#[derive(Debug, Default)]
pub struct Bundle {
    pub images: Vec<BundledImage>,
    pub blobs: BTreeMap<Digest, Blob>,
    /// Images that were left out, with the reason.
    pub skipped: Vec<String>,
}

/// One image: canonical names and what they will point at.
#[derive(Debug, Clone)]
pub struct BundledImage {
    pub names: Vec<String>,
    pub target: Descriptor,
}

/// Content to be in the store, with the labels that keep what it refers to.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub labels: BTreeMap<String, String>,
    pub source: Source,
}

#[derive(Debug)]
pub enum Source {
    Entry(Entry),
    Document(Vec<u8>),
}

/// Reads the archive's documents and decides. `fallback` is the repository name for an archive that gives only a tag:
/// its file name without the ending.
pub fn plan(tarball: &Tarball, node: &Platform, fallback: &str) -> Result<Bundle, ArchiveError> {
    let mut planner =
        Planner { tarball, node, bundle: Bundle::default(), offered: BTreeSet::new(), documents: 0, bytes: 0 };
    let (index, docker) = (tarball.entry("index.json"), tarball.entry("manifest.json"));
    match (index, docker) {
        (None, None) => {
            return Err(ArchiveError::Refused(
                "it is no image archive: neither index.json (OCI layout) nor manifest.json (docker save) is in it"
                    .into(),
            ));
        }
        (Some(index), docker) => {
            let named = planner.oci(&index.clone(), fallback)?;
            if let (false, Some(docker)) = (named, docker) {
                planner.docker(&docker.clone())?;
            }
        }
        (None, Some(docker)) => planner.docker(&docker.clone())?,
    }
    let Planner { bundle, offered, .. } = planner;
    if !bundle.images.is_empty() {
        return Ok(bundle);
    }
    if offered.is_empty() {
        let advice = "no image in it has a name: save it under one (docker save NAME, ctr image export FILE NAME, \
                      or the annotation io.containerd.image.name)";
        return Err(ArchiveError::Refused(advice.into()));
    }
    Err(ArchiveError::Platform { node: node.to_string(), offered: offered.into_iter().collect() })
}

struct Planner<'a> {
    tarball: &'a Tarball,
    node: &'a Platform,
    bundle: Bundle,
    /// Platforms of images that are not for this node.
    offered: BTreeSet<String>,
    documents: usize,
    bytes: usize,
}

/// A manifest that suits this node, and the blobs from the named descriptor down to it.
struct Chosen {
    rank: u8,
    blobs: Vec<Blob>,
}

impl Planner<'_> {
    /// The images of `index.json`; whether any descriptor in it has a name.
    fn oci(&mut self, index: &Entry, fallback: &str) -> Result<bool, ArchiveError> {
        let bytes = self.read(index)?;
        let document: ManifestOrIndex = parse(&index.name, &bytes)?;
        // One name may be given to a manifest for each platform; the one that suits best gets it.
        let mut best: BTreeMap<String, (u8, Descriptor)> = BTreeMap::new();
        let mut named = false;
        for descriptor in document.manifests.unwrap_or_default() {
            let Some(name) = layout_name(&descriptor.annotations, fallback).map_err(|e| bad(&index.name, e))? else {
                continue;
            };
            named = true;
            if is_attestation(&descriptor) {
                continue;
            }
            let Some(chosen) = self.choose(&descriptor, &index.name, 0)? else {
                self.bundle.skipped.push(format!("{name}: not for this node ({})", self.node));
                continue;
            };
            if best.get(&name).is_none_or(|(rank, _)| *rank < chosen.rank) {
                best.insert(name, (chosen.rank, descriptor));
                self.take(chosen.blobs);
            }
        }
        for (name, (_, target)) in best {
            self.name(name, target);
        }
        Ok(named)
    }

    /// Goes from a descriptor to this node's manifest. None when nothing in it suits, noted in `offered`.
    fn choose(
        &mut self,
        descriptor: &Descriptor,
        wanted_by: &str,
        depth: usize,
    ) -> Result<Option<Chosen>, ArchiveError> {
        if depth >= MAX_INDEX_DEPTH {
            return Err(ArchiveError::TooMany { what: "indexes in indexes", limit: MAX_INDEX_DEPTH as u64 });
        }
        let entry = self.blob_entry(descriptor, wanted_by)?;
        let bytes = self.read(&entry)?;
        verify(&entry.name, descriptor, &bytes)?;
        let document: ManifestOrIndex = parse(&entry.name, &bytes)?;
        match kind_of(&document) {
            Kind::Index(children) => self.choose_child(descriptor, &entry, bytes, children, depth),
            Kind::Manifest(config, layers) => self.manifest(descriptor, &entry, bytes, config, layers),
            Kind::Neither(why) => Err(bad(&entry.name, why)),
        }
    }

    fn choose_child(
        &mut self,
        descriptor: &Descriptor,
        entry: &Entry,
        bytes: Vec<u8>,
        children: &[Descriptor],
        depth: usize,
    ) -> Result<Option<Chosen>, ArchiveError> {
        let mut candidates = Vec::new();
        for child in children.iter().filter(|c| !is_attestation(c)) {
            match &child.platform {
                Some(platform) => match platform.rank_on(self.node) {
                    Some(rank) => candidates.push((rank, child)),
                    None => drop(self.offered.insert(platform.to_string())),
                },
                // Its configuration will say; a child that says so itself is preferred.
                None => candidates.push((0, child)),
            }
        }
        candidates.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (_, child) in candidates {
            if let Some(mut chosen) = self.choose(child, &entry.name, depth + 1)? {
                let labels = gc_labels(children.iter().map(|c| ("m.", c)));
                chosen.blobs.push(document_blob(descriptor, labels, bytes));
                return Ok(Some(chosen));
            }
        }
        Ok(None)
    }

    fn manifest(
        &mut self,
        descriptor: &Descriptor,
        entry: &Entry,
        bytes: Vec<u8>,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<Option<Chosen>, ArchiveError> {
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let why = format!("it is no container image: its configuration is {:?}", config.media_type);
            return Err(bad(&entry.name, why));
        }
        let config_entry = self.blob_entry(config, &entry.name)?;
        let config_bytes = self.read(&config_entry)?;
        verify(&config_entry.name, config, &config_bytes)?;
        let Some((rank, _)) = self.config(&config_entry.name, &config_bytes, layers.len())? else {
            return Ok(None);
        };
        let mut blobs = Vec::new();
        for layer in layers {
            let entry = self.blob_entry(layer, &entry.name)?;
            blobs.push(Blob {
                digest: layer.digest.clone(),
                size: layer.size,
                labels: BTreeMap::new(),
                source: Source::Entry(entry),
            });
        }
        blobs.push(document_blob(config, BTreeMap::new(), config_bytes));
        let labels = gc_labels([("config", config)].into_iter().chain(layers.iter().map(|l| ("l.", l))));
        blobs.push(document_blob(descriptor, labels, bytes));
        Ok(Some(Chosen { rank, blobs }))
    }

    /// Checks a configuration; None when it is for another platform.
    fn config(&mut self, name: &str, bytes: &[u8], layers: usize) -> Result<Option<(u8, Config)>, ArchiveError> {
        let config = config::read(bytes).map_err(|e| bad(name, e))?;
        let rank = match &config.platform {
            // Docker's oldest images say nothing; they are for the machine that they are found on.
            platform if platform.os.is_empty() && platform.architecture.is_empty() => Some(0),
            platform => platform.rank_on(self.node),
        };
        let Some(rank) = rank else {
            self.offered.insert(config.platform.to_string());
            return Ok(None);
        };
        if config.diff_ids.len() != layers {
            let why = format!("it lists {} layers (rootfs.diff_ids), its manifest {layers}", config.diff_ids.len());
            return Err(bad(name, why));
        }
        Ok(Some((rank, config)))
    }

    /// The images of docker's `manifest.json`.
    fn docker(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let bytes = self.read(entry)?;
        let document: DockerImages = parse(&entry.name, &bytes)?;
        for image in &document.images {
            let mut names = Vec::new();
            for tag in &image.repo_tags {
                names.push(tag.parse::<Reference>().map_err(|e| bad(&entry.name, e))?.record_name());
            }
            if names.is_empty() {
                self.bundle.skipped.push(format!("{}: an image without RepoTags", image.config));
                continue;
            }
            if let Some(target) = self.docker_image(image, entry)? {
                for name in names {
                    self.name(name, target.clone());
                }
            } else {
                self.bundle.skipped.push(format!("{}: not for this node ({})", names.join(", "), self.node));
            }
        }
        Ok(())
    }

    /// Gives an image of `docker save` the manifest that it lacks; the manifest's descriptor.
    fn docker_image(&mut self, image: &DockerImage, by: &Entry) -> Result<Option<Descriptor>, ArchiveError> {
        let config_entry = self.named_entry(&image.config, by)?;
        let config_bytes = self.read(&config_entry)?;
        let Some((_, config)) = self.config(&config_entry.name, &config_bytes, image.layers.len())? else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        for layer in &image.layers {
            entries.push(self.named_entry(layer, by)?);
        }
        let packed = self.digests_of_packed(&entries)?;
        let (mut layers, mut blobs) = (Vec::new(), Vec::new());
        for (entry, diff_id) in entries.into_iter().zip(config.diff_ids) {
            let (suffix, digest) = match (compression_of(&entry), packed.get(&entry.name)) {
                // Uncompressed, its digest is the one that the configuration has.
                (None, _) | (_, None) => ("", diff_id),
                (Some(suffix), Some(digest)) => (suffix, digest.clone()),
            };
            let media_type = format!("{OCI_LAYER}{suffix}");
            let size = entry.size;
            layers.push(descriptor(&media_type, digest.clone(), size));
            blobs.push(Blob { digest, size, labels: BTreeMap::new(), source: Source::Entry(entry) });
        }
        let config = descriptor(OCI_CONFIG, Digest::of(&config_bytes), config_bytes.len() as u64);
        let manifest = WrittenManifest {
            schema_version: 2,
            media_type: OCI_MANIFEST,
            config: (&config).into(),
            layers: layers.iter().map(Into::into).collect(),
        };
        let manifest_bytes = serde_json::to_vec(&manifest).expect("strings and numbers always serialise");
        let target = descriptor(OCI_MANIFEST, Digest::of(&manifest_bytes), manifest_bytes.len() as u64);
        blobs.push(document_blob(&config, BTreeMap::new(), config_bytes));
        let labels = gc_labels([("config", &config)].into_iter().chain(layers.iter().map(|l| ("l.", l))));
        blobs.push(document_blob(&target, labels, manifest_bytes));
        self.take(blobs);
        Ok(Some(target))
    }

    /// Digests of those layers that are compressed, in one pass: only their bytes tell them.
    fn digests_of_packed(&self, entries: &[Entry]) -> Result<BTreeMap<String, Digest>, ArchiveError> {
        let packed: Vec<&Entry> = entries.iter().filter(|e| compression_of(e).is_some()).collect();
        let mut digests = BTreeMap::new();
        if packed.is_empty() {
            return Ok(digests);
        }
        self.tarball.visit(&packed, |entry, reader| {
            digests.insert(entry.name.clone(), hash(reader)?);
            Ok(())
        })?;
        Ok(digests)
    }

    /// The entry of a blob in a layout, checked to have the size that the descriptor announces.
    fn blob_entry(&self, descriptor: &Descriptor, wanted_by: &str) -> Result<Entry, ArchiveError> {
        let name = format!("blobs/{}/{}", descriptor.digest.algorithm(), descriptor.digest.hex());
        let entry = self
            .tarball
            .entry(&name)
            .ok_or_else(|| ArchiveError::Missing { entry: name.clone(), wanted_by: wanted_by.to_owned() })?;
        if entry.size != descriptor.size {
            return Err(ArchiveError::WrongSize { entry: name, expected: descriptor.size, actual: entry.size });
        }
        Ok(entry.clone())
    }

    /// An entry that `manifest.json` names by its path.
    fn named_entry(&self, path: &str, by: &Entry) -> Result<Entry, ArchiveError> {
        if path.starts_with('/') || path.split('/').any(|p| p == "..") {
            return Err(bad(&by.name, format!("the path {path:?} leads out of the archive")));
        }
        let missing = || ArchiveError::Missing { entry: path.to_owned(), wanted_by: by.name.clone() };
        self.tarball.entry(path).cloned().ok_or_else(missing)
    }

    fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        self.documents += 1;
        if self.documents > MAX_DOCUMENTS {
            return Err(ArchiveError::TooMany { what: "documents", limit: MAX_DOCUMENTS as u64 });
        }
        self.bytes = self.bytes.saturating_add(usize::try_from(entry.size).unwrap_or(usize::MAX));
        if self.bytes > MAX_DOCUMENT_BYTES {
            return Err(ArchiveError::TooMany { what: "bytes of documents", limit: MAX_DOCUMENT_BYTES as u64 });
        }
        self.tarball.document(entry)
    }

    fn take(&mut self, blobs: Vec<Blob>) {
        for blob in blobs {
            self.bundle.blobs.entry(blob.digest.clone()).or_insert(blob);
        }
    }

    fn name(&mut self, name: String, target: Descriptor) {
        match self.bundle.images.iter_mut().find(|i| i.target.digest == target.digest) {
            Some(image) if image.names.contains(&name) => {}
            Some(image) => image.names.push(name),
            None => self.bundle.images.push(BundledImage { names: vec![name], target }),
        }
    }
}

/// The index or the manifest that a document is; never both (CVE-2021-41190).
pub enum Kind<'a> {
    Index(&'a [Descriptor]),
    Manifest(&'a Descriptor, &'a [Descriptor]),
    Neither(String),
}

pub fn kind_of(document: &ManifestOrIndex) -> Kind<'_> {
    let index_type = matches!(document.media_type.as_str(), "" | OCI_INDEX | DOCKER_INDEX);
    let manifest_type = matches!(document.media_type.as_str(), "" | OCI_MANIFEST | DOCKER_MANIFEST);
    match (&document.manifests, &document.config, &document.layers) {
        (Some(manifests), None, None) if index_type => Kind::Index(manifests),
        (None, Some(config), layers) if manifest_type => Kind::Manifest(config, layers.as_deref().unwrap_or_default()),
        _ if document.fs_layers.is_some() => {
            Kind::Neither("it is a manifest of schema 1, which is not read any more".into())
        }
        _ => Kind::Neither(format!(
            "it is neither an image index nor an image manifest, or says both (mediaType {:?})",
            document.media_type
        )),
    }
}

/// Entries that build tools add beside the images.
pub fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.reference_type.is_some() || descriptor.platform.as_ref().is_some_and(Platform::is_unknown)
}

/// The canonical name that a layout's index gives: containerd's annotation, or OCI's, which may be only a tag.
fn layout_name(annotations: &Annotations, fallback: &str) -> Result<Option<String>, String> {
    let name = match (&annotations.image_name, &annotations.ref_name) {
        (Some(name), _) if !name.is_empty() => name.clone(),
        (_, Some(name)) if name.contains(['/', ':', '@']) => name.clone(),
        (_, Some(tag)) if !tag.is_empty() => format!("{fallback}:{tag}"),
        _ => return Ok(None),
    };
    name.parse::<Reference>().map(|r| Some(r.record_name())).map_err(|e| e.to_string())
}

/// Labels by which containerd's collector follows a document to what it refers to, keyed as its own import does.
pub(super) fn gc_labels<'a>(
    children: impl Iterator<Item = (&'static str, &'a Descriptor)>,
) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut labels = BTreeMap::new();
    for (prefix, child) in children.take(2 * MAX_LIST) {
        let count = counts.entry(prefix).or_default();
        let key = if prefix.ends_with('.') { format!("{prefix}{count}") } else { prefix.to_owned() };
        *count += 1;
        labels.insert(format!("containerd.io/gc.ref.content.{key}"), child.digest.to_string());
    }
    labels
}

fn document_blob(descriptor: &Descriptor, labels: BTreeMap<String, String>, bytes: Vec<u8>) -> Blob {
    Blob { digest: descriptor.digest.clone(), size: descriptor.size, labels, source: Source::Document(bytes) }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: Annotations::default() }
}

/// The suffix of the layer's media type; None for a plain tar.
fn compression_of(entry: &Entry) -> Option<&'static str> {
    match entry.head {
        [0x1f, 0x8b, ..] => Some("+gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("+zstd"),
        _ => None,
    }
}

fn hash(reader: &mut dyn Read) -> Result<Digest, ArchiveError> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match reader.read(&mut buffer).map_err(read_failed)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn verify(entry: &str, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut hasher = descriptor.digest.hasher();
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual == descriptor.digest {
        return Ok(());
    }
    Err(ArchiveError::WrongDigest {
        entry: entry.to_owned(),
        expected: descriptor.digest.to_string(),
        actual: actual.to_string(),
    })
}

fn parse<T: serde::de::DeserializeOwned>(entry: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|e| bad(entry, format!("it is not the JSON expected: {e}")))
}

fn bad(entry: &str, reason: impl ToString) -> ArchiveError {
    ArchiveError::Document { entry: entry.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
