//! How much room a pull wants on containerd's disk, and how much there is, for the words about a disk that is full.

use std::path::Path;

use super::Tried;
use crate::runtime::containerd::images::Images;
use crate::runtime::containerd::images::disk::CONTENT;

impl Tried {
    /// `; its configuration and layers have 1000 bytes, and 10 are free in /var/lib/containerd`, as far as it is known.
    pub(super) async fn room(&self) -> String {
        let wanted = match self.meter.progress().total_bytes {
            0 => String::new(),
            bytes => format!("; its configuration and layers have {bytes} bytes, and unpacked they need more"),
        };
        match free(&self.images).await {
            Some(free) => format!("{wanted}; {free}"),
            None => wanted,
        }
    }
}

/// Bytes that are free where containerd keeps content; None where it cannot be told, soon enough.
pub(super) async fn available(images: &Images) -> Option<u64> {
    let disks = images.disks_at(vec![root(images).await?]).await.ok()?;
    disks.first().map(|disk| disk.available)
}

/// Where containerd keeps content; its own directory lies in the root. None: it does not say.
async fn root(images: &Images) -> Option<String> {
    let store = images.roots(vec![CONTENT.to_owned()]).await.ok()?.into_iter().next()?;
    Some(Path::new(&store).parent()?.to_str()?.to_owned())
}

/// `10 bytes are free in /var/lib/containerd`.
async fn free(images: &Images) -> Option<String> {
    let root = root(images).await?;
    Some(match available(images).await {
        Some(bytes) => format!("{bytes} bytes are free in {root}"),
        // It hangs, or containerd lives in another file system than the agent.
        None => format!("containerd keeps them in {root}"),
    })
}
