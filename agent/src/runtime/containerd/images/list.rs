//! The images of the namespace as rows, for `get images`.

use std::collections::BTreeMap;

use super::ImageError;
use super::Images;
use super::digest::Digest;
use super::import::ARCHIVES_LABEL;
use super::store;

/// One image record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    pub name: String,
    pub digest: String,
    /// This node's configuration and layers as stored, bytes; None when it cannot be read.
    pub size: Option<u64>,
    /// The platform that runs here.
    pub platform: Option<String>,
    pub unpacked: bool,
    /// Why the image cannot be used.
    pub problem: Option<String>,
}

impl Images {
    /// All image records by name. One that is damaged is a row that says so.
    pub async fn list(&self) -> Result<Vec<ImageRow>, ImageError> {
        let records = store::images(self.client(), None).await.map_err(ImageError::containerd("listing images"))?;
        let mut rows = BTreeMap::new();
        for record in records {
            let digest = record.target.map(|t| t.digest).unwrap_or_default();
            let mut row = ImageRow {
                name: record.name.clone(),
                digest,
                size: None,
                platform: None,
                unpacked: false,
                problem: None,
            };
            match self.look(&record.name, &row.digest).await {
                Ok((size, platform, unpacked)) => {
                    (row.size, row.platform, row.unpacked) = (Some(size), Some(platform), unpacked);
                }
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => row.problem = Some(error.sentence()),
            }
            rows.insert(record.name, row);
        }
        Ok(rows.into_values().collect())
    }

    async fn look(&self, name: &str, digest: &str) -> Result<(u64, String, bool), ImageError> {
        let refused =
            |e: super::digest::InvalidDigest| ImageError::Refused { image: name.into(), reason: e.to_string() };
        let target: Digest = digest.parse().map_err(refused)?;
        let resolved = self.resolve(name, &target).await?;
        let unpacked = self.is_unpacked(&resolved).await?;
        Ok((resolved.size, resolved.platform.clone(), unpacked))
    }

    /// The stamps of all archives that brought an image which is still here, with the images' names: one call.
    pub async fn archives(&self) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        let records = store::images(self.client(), None).await.map_err(ImageError::containerd("listing images"))?;
        let mut stamps: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in records {
            for stamp in record.labels.get(ARCHIVES_LABEL).map(String::as_str).unwrap_or_default().lines() {
                stamps.entry(stamp.to_owned()).or_default().push(record.name.clone());
            }
        }
        Ok(stamps)
    }
}
