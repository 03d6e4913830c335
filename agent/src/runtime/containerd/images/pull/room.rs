//! How much room a pull wants on containerd's disk, and how much there is, for the words about a disk that is full.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::PluginsRequest;

use super::Tried;
use crate::runtime::containerd::client::{Client, QUICK, bounded};

impl Tried {
    /// `; its configuration and layers have 1000 bytes, and 10 are free in /var/lib/containerd`, as far as it is known.
    pub(super) async fn room(&self) -> String {
        let wanted = match self.meter.progress().total_bytes {
            0 => String::new(),
            bytes => format!("; its configuration and layers have {bytes} bytes, and unpacked they need more"),
        };
        match root(self.images.client()).await {
            Some(root) => format!("{wanted}; {}", free(&root)),
            None => wanted,
        }
    }
}

/// Where containerd keeps content; its own directory lies in the root.
async fn root(client: &Client) -> Option<PathBuf> {
    let request = client.request(PluginsRequest { filters: vec!["type==io.containerd.content.v1".to_owned()] });
    let answer = bounded(QUICK, client.introspection().plugins(request)).await.ok()?;
    let store = answer.plugins.into_iter().find_map(|plugin| plugin.exports.get("root").cloned())?;
    Path::new(&store).parent().map(Path::to_owned)
}

/// Bytes that are free where containerd keeps content; None where it cannot be told, soon enough.
pub(super) async fn available(client: &Client) -> Option<u64> {
    let root = root(client).await?;
    let look = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&root));
    let disk = tokio::time::timeout(QUICK, look).await.ok()?.ok()?.ok()?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

fn free(root: &Path) -> String {
    match nix::sys::statvfs::statvfs(root) {
        Ok(disk) => {
            let bytes = disk.blocks_available().saturating_mul(disk.fragment_size());
            format!("{bytes} bytes are free in {}", root.display())
        }
        // containerd may live in another file system than the agent.
        Err(_) => format!("containerd keeps them in {}", root.display()),
    }
}
