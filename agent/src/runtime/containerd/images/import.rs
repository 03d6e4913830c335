//! An archive into containerd: everything verified and unpacked first, the image's name last.
//!
//! Driven by the image directory. Until the last step only our lease refers to what was written: an import that fails, or an
//! agent that dies, leaves nothing behind that has a name, and containerd collects the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use containerd_client::services::v1::{Image, Info};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Descriptor as WireDescriptor;
use tokio::runtime::Handle;

use super::bundle::{self, Blob, Bundle, BundledImage, Source};
use super::by_hand::NO_STAMP;
use super::digest::Digest;
use super::store::{self, Lease, Write, WriteError, to_i64};
use super::tarball::{ArchiveError, Entry, Tarball, read_failed, truncated};
use super::{ImageError, Images};
use crate::seams::Import;

/// Which archives brought an image: the last few file stamps, one a line, newest last.
pub const ARCHIVES_LABEL: &str = "daemonlet.dev/archives";
/// A label's key and value share 4,096 bytes in containerd.
const MAX_ARCHIVES_LABEL: usize = 4000;

impl Images {
    /// Imports every image of the archive that suits this node. `stamp` tells the file's state (one line) and is kept
    /// with the images; [`NO_STAMP`] is that of a file outside the image directory. One import is under way at a time; dropping the future gives it up.
    pub async fn import_archive(&self, archive: &Path, stamp: &str) -> Result<Import, ImageError> {
        let _turn = self.shared.importing.lock().await;
        let job = Job { images: self.clone(), path: archive.to_owned(), cancelled: Arc::new(AtomicBool::new(false)) };
        let _give_up = GiveUp(Arc::clone(&job.cancelled));
        let lease = self.lease().await?;
        let outcome = self.import_under(&job, &lease, stamp).await;
        // A lease that stays behind ends by itself.
        let _ = lease.give_back(self.client()).await;
        match &outcome {
            Ok(_) => self.shared.imported.send_modify(|count| *count = count.wrapping_add(1)),
            Err(error) => self.note_failure(error),
        }
        outcome
    }

    async fn import_under(&self, job: &Job, lease: &Lease, stamp: &str) -> Result<Import, ImageError> {
        let (tarball, bundle) = job.read().await?;
        let missing = self.hold_present(lease, &bundle).await?;
        let bundle = Arc::new(bundle);
        job.write(tarball, Arc::clone(&bundle), missing, lease.clone()).await?;
        let mut imported = Import { images: Vec::new(), skipped: bundle.skipped.clone() };
        for image in &bundle.images {
            let name = image.names.first().map(String::as_str).unwrap_or_default();
            let resolved = self.resolve_anew(name, &image.target.digest).await?;
            // Also when it is unpacked: the lease then holds the snapshots until the record does.
            self.unpack_under(name, &resolved, lease).await?;
        }
        if stamp == NO_STAMP {
            for image in &bundle.images {
                if let Some(name) = self.claimed_otherwise(image).await? {
                    let reason = format!(
                        "an archive in the image directory brought another image of the name {name}; put this one there \
                         too, or remove that one there first"
                    );
                    return Err(job.refused(ArchiveError::Refused(reason)));
                }
            }
        }
        for image in &bundle.images {
            self.record(image, stamp).await?;
            imported.images.extend(image.names.iter().map(|n| (n.clone(), image.target.digest.to_string())));
        }
        imported.images.sort();
        Ok(imported)
    }

    /// Blobs of the bundle that are not in the store; the others are held and get their labels.
    async fn hold_present(&self, lease: &Lease, bundle: &Bundle) -> Result<BTreeSet<Digest>, ImageError> {
        let mut missing = BTreeSet::new();
        for blob in bundle.blobs.values() {
            let doing = || format!("looking for content {}", blob.digest);
            let present = self.hold_whole(lease, blob).await;
            match present.map_err(ImageError::containerd(doing()))? {
                None => drop(missing.insert(blob.digest.clone())),
                Some(info) => {
                    let lacking: BTreeMap<String, String> = blob
                        .labels
                        .iter()
                        .filter(|(k, v)| info.labels.get(*k) != Some(v))
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    let labelled = store::label(self.client(), &blob.digest, &lacking).await;
                    labelled.map_err(ImageError::containerd(doing()))?;
                }
            }
        }
        Ok(missing)
    }

    /// As `store::hold`, but a document whose bytes were damaged (a power cut) is removed: it will be written again.
    async fn hold_whole(&self, lease: &Lease, blob: &Blob) -> Result<Option<Info>, Status> {
        let held = store::hold(self.client(), lease, &blob.digest).await?;
        if held.is_none() || matches!(blob.source, Source::Entry(_)) {
            return Ok(held);
        }
        match store::document(self.client(), &blob.digest).await {
            Err(status) if status.code() == Code::DataLoss => {
                store::remove(self.client(), &blob.digest).await?;
                Ok(None)
            }
            read => read.map(|_| held),
        }
    }

    /// Creates the image records, or points them here.
    async fn record(&self, image: &BundledImage, stamp: &str) -> Result<(), ImageError> {
        for name in &image.names {
            let doing = || format!("recording image {name}");
            let _turn = self.shared.shelf.lock().await;
            let before = store::image(self.client(), name).await.map_err(ImageError::containerd(doing()))?;
            let another = |digest: &str| digest != image.target.digest.as_str();
            let moved = before.as_ref().and_then(|i| i.target.as_ref()).is_some_and(|was| another(&was.digest));
            let mut labels = before.map(|i| i.labels).unwrap_or_default();
            if stamp == NO_STAMP {
                if moved {
                    // An archive that brought the name before did not bring this.
                    labels.remove(ARCHIVES_LABEL);
                }
            } else {
                let stamps = add_stamp(labels.get(ARCHIVES_LABEL).map(String::as_str).unwrap_or_default(), stamp);
                labels.insert(ARCHIVES_LABEL.into(), stamps);
            }
            self.note_arrival(&mut labels);
            let target = WireDescriptor {
                media_type: media_type(image),
                digest: image.target.digest.to_string(),
                size: to_i64(image.target.size),
                ..WireDescriptor::default()
            };
            let record = Image { name: name.clone(), labels, target: Some(target), ..Image::default() };
            store::put_image(self.client(), record).await.map_err(ImageError::containerd(doing()))?;
        }
        Ok(())
    }
}

/// containerd goes by the record's media type; an index may leave it out.
fn media_type(image: &BundledImage) -> String {
    if image.target.media_type.is_empty() {
        super::documents::OCI_MANIFEST.to_owned()
    } else {
        image.target.media_type.clone()
    }
}

/// Adds a line, as the newest, and drops the oldest beyond what a label holds.
fn add_stamp(before: &str, stamp: &str) -> String {
    let mut lines: Vec<&str> = before.lines().filter(|l| *l != stamp).collect();
    lines.push(stamp);
    while lines.len() > 1 && lines.iter().map(|l| l.len() + 1).sum::<usize>() > MAX_ARCHIVES_LABEL {
        lines.remove(0);
    }
    lines.join("\n")
}

/// Ends the blocking part when the import's future is dropped.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The part of an import that reads the file: on threads that may block.
struct Job {
    images: Images,
    path: PathBuf,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    async fn read(&self) -> Result<(Tarball, Bundle), ImageError> {
        let (path, cancelled) = (self.path.clone(), Arc::clone(&self.cancelled));
        let (platform, fallback) = (self.images.shared.platform.clone(), repository_of(&self.path));
        let read = move || {
            let tarball = Tarball::open(&path, cancelled)?;
            let bundle = bundle::plan(&tarball, &platform, &fallback)?;
            Ok((tarball, bundle))
        };
        self.blocking(read).await?.map_err(|error| self.refused(error))
    }

    /// Streams the missing blobs: entries in one pass over the archive, then documents.
    async fn write(
        &self,
        tarball: Tarball,
        bundle: Arc<Bundle>,
        missing: BTreeSet<Digest>,
        lease: Lease,
    ) -> Result<(), ImageError> {
        let (handle, images) = (Handle::current(), self.images.clone());
        let write = move || {
            let writer = Writer { images: &images, lease: &lease, handle: &handle };
            let wanted = || bundle.blobs.values().filter(|b| missing.contains(&b.digest));
            let entries: Vec<&Entry> = wanted().filter_map(|b| entry_of(b)).collect();
            // One entry may be several blobs only by different algorithms; each is written for itself.
            let mut failed = None;
            let visited = tarball.visit(&entries, |entry, reader| {
                for blob in wanted().filter(|b| entry_of(b) == Some(entry)).take(1) {
                    if let Err(error) = writer.put(blob, Some(entry), reader) {
                        failed = Some(error);
                        return Err(ArchiveError::Cancelled);
                    }
                }
                Ok(())
            });
            match (failed, visited) {
                (Some(error), _) => return Err(error),
                (None, Err(error)) => return Err(Failure::Archive(error)),
                (None, Ok(())) => {}
            }
            for blob in wanted() {
                if let Source::Document(bytes) = &blob.source {
                    writer.put(blob, None, &mut bytes.as_slice())?;
                }
            }
            Ok(())
        };
        self.blocking(write).await?.map_err(|failure| match failure {
            Failure::Archive(error) => self.refused(error),
            Failure::Containerd(digest, status) => {
                ImageError::Containerd { doing: format!("writing {digest} of {}", self.path.display()), status }
            }
        })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImageError> {
        let ended = |e| ArchiveError::Refused(format!("reading it failed in a way that it should not: {e}"));
        tokio::task::spawn_blocking(work).await.map_err(|e| self.refused(ended(e)))
    }

    fn refused(&self, error: ArchiveError) -> ImageError {
        ImageError::Archive { archive: self.path.display().to_string(), error }
    }
}

enum Failure {
    Archive(ArchiveError),
    Containerd(Digest, Status),
}

struct Writer<'a> {
    images: &'a Images,
    lease: &'a Lease,
    handle: &'a Handle,
}

impl Writer<'_> {
    fn put(&self, blob: &Blob, entry: Option<&Entry>, source: &mut dyn io::Read) -> Result<(), Failure> {
        let write = Write {
            client: self.images.client(),
            lease: self.lease,
            digest: &blob.digest,
            size: blob.size,
            labels: &blob.labels,
        };
        let name = entry.map_or_else(|| blob.digest.to_string(), |e| e.name.clone());
        store::write_blocking(&write, source, self.handle).map_err(|error| match error {
            WriteError::Source(io) => Failure::Archive(read_failed(io)),
            WriteError::Size { actual } => Failure::Archive(match entry {
                Some(entry) => truncated(entry, actual),
                None => ArchiveError::WrongSize { entry: name, expected: blob.size, actual },
            }),
            WriteError::Digest { actual } => Failure::Archive(ArchiveError::WrongDigest {
                entry: name,
                expected: blob.digest.to_string(),
                actual: actual.to_string(),
            }),
            WriteError::Containerd(status) => Failure::Containerd(blob.digest.clone(), status),
        })
    }
}

fn entry_of(blob: &Blob) -> Option<&Entry> {
    match &blob.source {
        Source::Entry(entry) => Some(entry),
        Source::Document(_) => None,
    }
}

/// A repository name from the archive's file name, for archives that give only a tag.
fn repository_of(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let stem = [".tar.gz", ".tar.zst", ".tgz", ".tzst", ".tar"].iter().find_map(|e| name.strip_suffix(e));
    stem.unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_remembered_newest_last_and_bounded() {
        assert_eq!(add_stamp("", "a"), "a");
        assert_eq!(add_stamp("a\nb", "a"), "b\na");
        let many = (0..200).fold(String::new(), |s, i| add_stamp(&s, &format!("file-{i}.tar 1234567890 1234567890")));
        assert!(many.len() <= MAX_ARCHIVES_LABEL && many.ends_with("file-199.tar 1234567890 1234567890"));
    }

    #[test]
    fn an_archive_with_only_a_tag_is_named_after_its_file() {
        for (file, name) in [("/x/Fluentd.tar.gz", "fluentd"), ("a.tar", "a"), ("b.tgz", "b"), ("c.tar.zst", "c")] {
            assert_eq!(repository_of(Path::new(file)), name);
        }
    }
}
