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

/// `10 bytes are free in /var/lib/containerd`; None: containerd does not say where it keeps content.
async fn free(images: &Images) -> Option<String> {
    let store = images.roots(vec![CONTENT.to_owned()]).await.ok()?.into_iter().next()?;
    // Its own directory lies in the root.
    let root = Path::new(&store).parent()?.to_str()?.to_owned();
    Some(match images.disks_at(vec![root.clone()]).await.ok().as_deref() {
        Some([disk, ..]) => format!("{} bytes are free in {root}", disk.available),
        // It hangs, or containerd lives in another file system than the agent.
        _ => format!("containerd keeps them in {root}"),
    })
}
