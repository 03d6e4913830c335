//! Images out of containerd's content store as one OCI archive, streamed: an image layout that `ctr images import`, Docker and our
//! own import read, with containerd's names of the images in it.
//!
//! Driven by the word `images export`. Everything is held by a lease and found whole before the first byte goes out, and hashed
//! on its way; digests stay what they were. Of an image for several platforms what is here goes out.

use std::collections::{BTreeMap, BTreeSet};

use containerd_client::services::v1::ReadContentRequest;
use containerd_client::tonic::Status;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::bundle::{Kind, kind_of};
use super::digest::Digest;
use super::documents::{Descriptor, ManifestOrIndex, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::store::{self, Lease, STALLED};
use super::{ImageError, Images};

/// Manifests and indexes of one export.
const MAX_DOCUMENTS: usize = 4096;
/// Indexes in indexes, as in archives.
const MAX_DEPTH: usize = 4;
const BLOCK: usize = 512;

/// Why nothing, or not all, was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("there is no image {name} on this node")]
    NotFound { name: String },
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The reader has gone.
    #[error("nobody reads the archive any more")]
    Unread,
}

/// What went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Canonical names with their digests.
    pub images: Vec<(String, String)>,
    /// Bytes of all blobs.
    pub size: u64,
}

#[derive(Default)]
struct Plan {
    images: Vec<(String, Descriptor)>,
    /// All blobs with their sizes.
    blobs: BTreeMap<Digest, u64>,
    /// Docker's `manifest.json`, for readers older than the layout.
    docker: Vec<Value>,
}

impl Images {
    /// Streams the archive of these images to `out`.
    pub async fn export(&self, images: &[Reference], out: &mpsc::Sender<Bytes>) -> Result<Exported, ExportError> {
        let lease = self.lease().await?;
        let outcome = self.export_under(images, &lease, out).await;
        // A lease that stays behind ends by itself.
        let _ = lease.give_back(self.client()).await;
        outcome
    }

    async fn export_under(
        &self,
        images: &[Reference],
        lease: &Lease,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Exported, ExportError> {
        let mut plan = Plan::default();
        for reference in images.iter().collect::<BTreeSet<_>>() {
            self.plan_export(reference, lease, &mut plan).await?;
        }
        let index: Vec<Value> = plan.images.iter().map(|(name, target)| described(name, target)).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
        let documents = [
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("index.json", index),
            ("manifest.json", Value::Array(plan.docker)),
        ];
        for (name, document) in documents {
            let bytes = document.to_string().into_bytes();
            send(out, header(name, bytes.len() as u64)).await?;
            let padding = padding(bytes.len() as u64);
            send(out, [bytes, padding].concat().into()).await?;
        }
        for (digest, size) in &plan.blobs {
            send(out, header(&place(digest), *size)).await?;
            self.send_blob(digest, *size, out).await?;
            send(out, padding(*size).into()).await?;
        }
        send(out, vec![0; 2 * BLOCK].into()).await?;
        Ok(Exported {
            images: plan.images.into_iter().map(|(name, target)| (name, target.digest.to_string())).collect(),
            size: plan.blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size)),
        })
    }

    async fn plan_export(&self, reference: &Reference, lease: &Lease, plan: &mut Plan) -> Result<(), ExportError> {
        let name = reference.record_name();
        let refused = |reason: String| ImageError::Refused { image: name.clone(), reason };
        let record = match (self.record_of(&name).await?, reference.digest()) {
            (Some(record), _) => record,
            (None, Some(digest)) => {
                // Any record of this digest: a pod that asks for it would get that one too.
                let filter = Some(format!("target.digest=={digest}"));
                let records = store::images(self.client(), filter).await;
                let records = records.map_err(ImageError::containerd(format!("looking for image {name}")))?;
                records.into_iter().next().ok_or_else(|| ExportError::NotFound { name: name.clone() })?
            }
            (None, None) => return Err(ExportError::NotFound { name }),
        };
        let target = record.target.unwrap_or_default();
        let digest: Digest = target.digest.parse().map_err(|e: super::digest::InvalidDigest| refused(e.to_string()))?;
        let size = u64::try_from(target.size).unwrap_or(0);
        let mut part = Part { images: self, image: &name, lease, documents: 0, faults: BTreeMap::new(), first: None };
        let Some(found) = part.whole(&digest, 0).await? else {
            let reason = part.first.unwrap_or_else(|| "it has nothing in containerd's content store".to_owned());
            return Err(ImageError::Damaged { image: name, reason }.into());
        };
        // What runs here must be in it; of other platforms there may be less.
        let own = match self.resolve_anew(&name, &digest).await {
            Ok(own) => Some(own),
            Err(ImageError::Platform { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(own) = &own {
            let lacking = own.layers.iter().map(|layer| &layer.digest).chain([&own.manifest]);
            let lacking: Vec<&Digest> = lacking.filter(|digest| !found.contains_key(digest)).collect();
            if let Some(first) = lacking.first() {
                // One that is at fault leaves its whole manifest out.
                let fault = lacking.iter().find_map(|digest| part.faults.get(digest).cloned());
                let reason = fault.unwrap_or_else(|| format!("{first} is missing in containerd's content store"));
                return Err(ImageError::Damaged { image: name, reason }.into());
            }
            plan.docker.push(json!({
                "Config": place(&own.config_digest),
                "RepoTags": reference.tag().filter(|_| reference.digest().is_none()).map(|_| vec![name.clone()]),
                "Layers": own.layers.iter().map(|layer| place(&layer.digest)).collect::<Vec<_>>(),
            }));
        }
        let media_type = if target.media_type.is_empty() { OCI_MANIFEST.to_owned() } else { target.media_type };
        let size = found.get(&digest).copied().unwrap_or(size);
        let target = Descriptor { media_type, digest, size, platform: None, annotations: Default::default() };
        plan.images.push((name, target));
        plan.blobs.extend(found);
        Ok(())
    }

    /// The blob's bytes, compared with its name.
    async fn send_blob(&self, digest: &Digest, size: u64, out: &mpsc::Sender<Bytes>) -> Result<(), ExportError> {
        let doing = || format!("reading {digest}");
        let failed = |status: Status| ImageError::Containerd { doing: doing(), status };
        let request = self.client().request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 });
        let late = |_| failed(Status::deadline_exceeded(format!("no answer within {} s", STALLED.as_secs())));
        let mut content = self.client().content();
        let opened = tokio::time::timeout(STALLED, content.read(request)).await.map_err(late)?;
        let mut stream = opened.map_err(failed)?.into_inner();
        let (mut hasher, mut sent) = (digest.hasher(), 0_u64);
        let damaged = |reason: String| ImageError::Damaged { image: digest.to_string(), reason };
        loop {
            let piece = tokio::time::timeout(STALLED, stream.message()).await.map_err(late)?;
            let Some(piece) = piece.map_err(failed)? else { break };
            sent = sent.saturating_add(piece.data.len() as u64);
            if sent > size {
                return Err(damaged(format!("it has more than {size} bytes")).into());
            }
            hasher.update(&piece.data);
            send(out, piece.data.into()).await?;
        }
        let actual = hasher.finish();
        if sent != size || actual != *digest {
            return Err(damaged(format!("its {sent} bytes have digest {actual}")).into());
        }
        Ok(())
    }
}

/// The search for an image's blobs.
struct Part<'a> {
    images: &'a Images,
    image: &'a str,
    lease: &'a Lease,
    documents: usize,
    /// What is wrong with which blob: an index may be whole without it.
    faults: BTreeMap<Digest, String>,
    first: Option<String>,
}

impl Part<'_> {
    /// The blobs from this document down with their sizes, held; None where some are missing.
    async fn whole(&mut self, digest: &Digest, depth: usize) -> Result<Option<BTreeMap<Digest, u64>>, ImageError> {
        self.documents += 1;
        if self.documents > MAX_DOCUMENTS || depth > MAX_DEPTH {
            return Err(self.refused("it has too many manifests or indexes".into()));
        }
        let client = self.images.client();
        let doing = format!("reading {digest} of image {}", self.image);
        let Some(size) = self.hold(digest).await? else { return Ok(None) };
        let bytes = match store::document(client, digest).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(self.lacks(digest)),
            Err(status) if status.code() == containerd_client::tonic::Code::DataLoss => {
                return Ok(self.fault(digest, status.message().to_owned()));
            }
            Err(status) => return Err(ImageError::Containerd { doing, status }),
        };
        let document: ManifestOrIndex = serde_json::from_slice(&bytes)
            .map_err(|e| self.refused(format!("{digest} is neither a manifest nor an index: {e}")))?;
        let mut found = BTreeMap::from([(digest.clone(), size)]);
        match kind_of(&document) {
            Kind::Index(children) => {
                let mut any = false;
                for child in children {
                    if let Some(part) = Box::pin(self.whole(&child.digest, depth + 1)).await? {
                        found.extend(part);
                        any = true;
                    }
                }
                Ok(any.then_some(found))
            }
            Kind::Manifest(config, layers) => {
                for blob in std::iter::once(config).chain(layers) {
                    match self.hold(&blob.digest).await? {
                        None => return Ok(None),
                        Some(size) if size != blob.size => {
                            let reason = format!("{} has {size} bytes, its manifest says {}", blob.digest, blob.size);
                            return Ok(self.fault(&blob.digest, reason));
                        }
                        Some(size) => drop(found.insert(blob.digest.clone(), size)),
                    }
                }
                Ok(Some(found))
            }
            Kind::Neither(why) if depth == 0 => Err(self.refused(why)),
            // What else an index names is no image.
            Kind::Neither(_) => Ok(None),
        }
    }

    async fn hold(&mut self, digest: &Digest) -> Result<Option<u64>, ImageError> {
        let held = store::hold(self.images.client(), self.lease, digest).await;
        let held = held.map_err(ImageError::containerd(format!("holding {digest} of image {}", self.image)))?;
        match held {
            Some(info) => Ok(Some(u64::try_from(info.size).unwrap_or(0))),
            None => Ok(self.lacks(digest)),
        }
    }

    fn lacks<T>(&mut self, digest: &Digest) -> Option<T> {
        self.fault(digest, format!("{digest} is missing in containerd's content store"))
    }

    /// Leaves out what has this blob; of what runs here nothing may be left out, which is looked at afterwards.
    fn fault<T>(&mut self, digest: &Digest, reason: String) -> Option<T> {
        self.first.get_or_insert_with(|| reason.clone());
        self.faults.insert(digest.clone(), reason);
        None
    }

    fn refused(&self, reason: String) -> ImageError {
        ImageError::Refused { image: self.image.to_owned(), reason }
    }
}

async fn send(out: &mpsc::Sender<Bytes>, bytes: Bytes) -> Result<(), ExportError> {
    if bytes.is_empty() {
        return Ok(());
    }
    out.send(bytes).await.map_err(|_| ExportError::Unread)
}

/// A descriptor of the layout's index.
fn described(name: &str, target: &Descriptor) -> Value {
    let after = name.rsplit('/').next().unwrap_or(name);
    let tag = after.split_once(['@', ':']).map_or(name, |(_, tag)| tag);
    json!({
        "mediaType": target.media_type,
        "digest": target.digest.as_str(),
        "size": target.size,
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
    })
}

fn place(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The header of a regular file; a name that is too long for one block has an extension before it.
fn header(name: &str, size: u64) -> Bytes {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, std::io::empty()).expect("writing to memory cannot fail");
    Bytes::copy_from_slice(builder.get_ref())
}

fn padding(size: u64) -> Vec<u8> {
    let over = usize::try_from(size % BLOCK as u64).expect("a remainder is smaller than its divisor");
    vec![0; (BLOCK - over) % BLOCK]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_files_of_any_length_and_data_is_padded_to_blocks() {
        let long = Digest::of(b"").hasher().finish();
        assert_eq!(header(&place(&long), 7).len(), BLOCK);
        let sha512: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(header(&place(&sha512), 7).len() % BLOCK, 0);
        for (size, expected) in [(0, 0), (1, 511), (512, 0), (513, 511)] {
            assert_eq!(padding(size).len(), expected);
        }
    }

    #[test]
    fn an_image_is_described_by_its_whole_name_and_its_tag() {
        let digest = Digest::of(b"");
        let target = Descriptor {
            media_type: OCI_INDEX.into(),
            digest,
            size: 3,
            platform: None,
            annotations: Default::default(),
        };
        for (name, tag) in [("r:5000/a/b:v1", "v1"), ("docker.io/library/a@sha256:00", "sha256:00")] {
            let said = described(name, &target);
            assert_eq!(said["annotations"]["io.containerd.image.name"], name);
            assert_eq!(said["annotations"]["org.opencontainers.image.ref.name"], tag);
        }
    }
}
