//! The images of the namespace, and [`ImageStore`] for the image directory and `get images`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::PoisonError;

use super::digest::Digest;
use super::import::ARCHIVES_LABEL;
use super::shelf::is_pinned;
use super::store;
use super::tarball::ArchiveError;
use super::{ImageError, Images};
use crate::seams::{ImageStore, Import, ImportFailure, Look, PresentImage, Reading};

impl ImageStore for Images {
    async fn images(&self, look: Look) -> Result<Vec<PresentImage>, ImportFailure> {
        self.list(look).await.map_err(failure)
    }

    async fn import(&self, archive: &Path, stamp: &str) -> Result<Import, ImportFailure> {
        self.import_archive(archive, stamp).await.map_err(failure)
    }

    fn lying(&self, stamps: BTreeSet<String>) {
        *self.shared.lying.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamps);
    }

    async fn changed(&self) {
        self.shared.arrived.notified().await;
    }

    fn first_reading(&self, reading: Reading) {
        match reading {
            Reading::Begins => Images::first_reading(self).begin(),
            Reading::IsOver => {
                Images::first_reading(self).end();
                // An agent that was killed while it imported left its lease, and perhaps nothing is imported any more.
                let images = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = images.clear_old_leases().await {
                        tracing::info!(error = error.sentence(), "old leases stay until the next import");
                    }
                });
            }
        }
    }
}

impl Images {
    /// All image records by name. One that is damaged is a row that says so.
    pub async fn list(&self, look: Look) -> Result<Vec<PresentImage>, ImageError> {
        let records = store::images(self.client(), None).await.map_err(ImageError::containerd("listing images"))?;
        let mut images = Vec::new();
        for record in records {
            let stamps = record.labels.get(ARCHIVES_LABEL).map(String::as_str).unwrap_or_default();
            let pinned = is_pinned(&record);
            let mut image = PresentImage {
                pinned,
                stamps: stamps.lines().map(str::to_owned).collect(),
                digest: record.target.map(|t| t.digest).unwrap_or_default(),
                name: record.name,
                size: None,
                problem: None,
            };
            if look == Look::Close {
                match self.look(&image).await {
                    Ok(size) => image.size = Some(size),
                    Err(error) if error.is_unavailable() => return Err(error),
                    Err(error) => image.problem = Some(error.sentence()),
                }
            }
            images.push(image);
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    async fn look(&self, image: &PresentImage) -> Result<u64, ImageError> {
        let refused =
            |e: super::digest::InvalidDigest| ImageError::Refused { image: image.name.clone(), reason: e.to_string() };
        let target: Digest = image.digest.parse().map_err(refused)?;
        self.resolve_anew(&image.name, &target).await.map(|r| r.size)
    }
}

fn failure(error: ImageError) -> ImportFailure {
    let words = error.sentence();
    match error {
        error if error.is_unavailable() => ImportFailure::Unavailable(words),
        // A disk that cannot be read today may be read tomorrow.
        ImageError::Archive { error: ArchiveError::Io(_) | ArchiveError::Cancelled, .. }
        | ImageError::Containerd { .. }
        | ImageError::Damaged { .. }
        | ImageError::Registry { .. }
        | ImageError::NoRoom { .. }
        | ImageError::WrongBytes { .. } => ImportFailure::Failed(words),
        ImageError::Archive { .. } | ImageError::Platform { .. } | ImageError::Refused { .. } => {
            ImportFailure::Refused(words)
        }
    }
}
