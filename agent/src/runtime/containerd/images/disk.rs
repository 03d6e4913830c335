//! Looks at the file systems on which containerd keeps images: how large they are, and how full.
//!
//! Driven by the collector (through `shelf`) and by pulls that find no room. A file system may hang for ever (a network's, a
//! failing disk's): looks are on threads that may block, one at a time, so one that hangs costs one thread and every other
//! is told so. Knows nothing of images.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::PluginsRequest;
use containerd_client::tonic::Status;
use tokio::sync::Semaphore;

use super::shelf::shelf_failed;
use super::{ImageError, Images};
use crate::runtime::containerd::client::{QUICK, bounded};
use crate::seams::{DiskUse, ShelfError};
use crate::threads;

/// containerd's filter for its content store.
pub const CONTENT: &str = "type==io.containerd.content.v1";
/// A file system that does not answer for so long is not asked now; a look takes less than a millisecond.
const DISK_TIME_MAX: Duration = Duration::from_secs(10);

/// See the top of the file.
pub struct DiskLook {
    limit: Duration,
    place: Arc<Semaphore>,
}

impl Default for DiskLook {
    fn default() -> DiskLook {
        DiskLook { limit: DISK_TIME_MAX, place: Arc::new(Semaphore::new(threads::IMAGE_DISKS)) }
    }
}

impl DiskLook {
    /// What `look` finds; None: it, or one before it, does not end.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let looked = async {
            let place = Arc::clone(&self.place).acquire_owned().await.ok()?;
            let looking = tokio::task::spawn_blocking(move || {
                let found = look();
                // Only now, however long it took: who waited for it may be gone.
                drop(place);
                found
            });
            looking.await.ok()
        };
        tokio::time::timeout(self.limit, looked).await.ok().flatten()
    }
}

impl Images {
    /// Where the plugins of these filters keep what they have, as containerd sees it.
    pub(super) async fn roots(&self, filters: Vec<String>) -> Result<Vec<String>, ImageError> {
        let mut introspection = self.client().introspection();
        let asked = bounded(QUICK, introspection.plugins(self.client().request(PluginsRequest { filters })));
        let plugins = asked.await.map_err(ImageError::containerd("asking where images are kept"))?.plugins;
        let roots: Vec<String> = plugins.into_iter().filter_map(|mut plugin| plugin.exports.remove("root")).collect();
        match roots.is_empty() {
            true => Err(ImageError::Containerd {
                doing: "asking where images are kept".into(),
                status: Status::not_found("it names no directory of its content store or snapshotter"),
            }),
            false => Ok(roots),
        }
    }

    /// The file systems of these directories of containerd's, by the paths under which they are seen from here, sorted.
    pub(super) async fn disks_at(&self, roots: Vec<String>) -> Result<Vec<DiskUse>, ShelfError> {
        let process = self.client().peer_pid().map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
        let look = move || {
            let seen = |root: String| match &process {
                // containerd may have mounts of its own.
                Some(process) if is_elsewhere(process, &root) => process.join(root.trim_start_matches('/')),
                _ => PathBuf::from(root),
            };
            let mut paths: Vec<PathBuf> = roots.into_iter().map(seen).collect();
            paths.sort();
            paths.dedup();
            paths.iter().map(|path| disk_use(path)).collect::<Result<Vec<_>, _>>()
        };
        let late =
            || Err(shelf_failed(format!("containerd's disk does not answer within {} s", DISK_TIME_MAX.as_secs())));
        self.shared.disk.look(look).await.unwrap_or_else(late)
    }
}

/// Whether containerd's process sees another directory there than this one does.
fn is_elsewhere(process: &Path, root: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let theirs = id(&process.join(root.trim_start_matches('/')));
    theirs.is_some() && theirs != id(Path::new(root))
}

fn disk_use(path: &Path) -> Result<DiskUse, ShelfError> {
    let use_ = nix::sys::statvfs::statvfs(path)
        .map_err(|why| shelf_failed(format!("containerd's disk at {} cannot be looked at: {why}", path.display())))?;
    let bytes = |blocks: u64| blocks.saturating_mul(use_.fragment_size());
    Ok(DiskUse {
        path: path.to_owned(),
        capacity: bytes(use_.blocks()),
        available: bytes(use_.blocks_available()),
        inodes: use_.files(),
        inodes_free: use_.files_available(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_costs_one_thread_until_it_answers() {
        let disk = DiskLook { limit: Duration::from_millis(200), ..DiskLook::default() };
        let (go_on, wait) = mpsc::channel::<()>();
        assert_eq!(disk.look(move || wait.recv().is_ok()).await, None);
        for _ in 0..3 {
            assert_eq!(disk.look(|| -> bool { panic!("a second thread looks") }).await, None);
        }
        go_on.send(()).unwrap();
        let again = DiskLook { limit: Duration::from_secs(60), place: disk.place };
        assert_eq!(again.look(|| 7).await, Some(7));
    }
}
