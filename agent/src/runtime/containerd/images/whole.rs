//! Whether a layer in containerd's content store is what its name says. A power cut may leave other bytes, or none, under the right
//! name; containerd does not look at them again, and unpacking fails with words that say little.
//!
//! Driven by `unpack`, where a layer did not unpack. Reads the layer once, piece by piece.

use containerd_client::services::v1::ReadContentRequest;
use containerd_client::tonic::{Code, Status};

use super::digest::Digest;
use super::documents::Descriptor;
use super::store::STALLED;
use crate::runtime::containerd::client::{Client, bounded, found};

/// What is stored under the layer's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Whole,
    /// Its bytes are what its name says, and another number than its manifest says: other images may have it as it is.
    OtherSize(u64),
    /// What is wrong with it.
    Damaged(String),
}

/// Reads it all. Err: it could not be read for a reason that says nothing about its bytes.
pub async fn look(client: &Client, layer: &Descriptor) -> Result<Stored, Status> {
    match digest(client, &layer.digest).await {
        Ok(None) => Ok(Stored::Damaged("it is missing".to_owned())),
        Ok(Some((size, digest))) if digest != layer.digest => {
            Ok(Stored::Damaged(format!("its bytes are {size} with digest {digest}")))
        }
        Ok(Some((size, _))) if size != layer.size => Ok(Stored::OtherSize(size)),
        Ok(Some(_)) => Ok(Stored::Whole),
        Err(status) if is_unreadable(&status) => {
            Ok(Stored::Damaged(format!("it cannot be read: {}", status.message())))
        }
        Err(status) => Err(status),
    }
}

/// Whether the disk has lost the bytes: the kernel's EIO comes in containerd's words and with no code of its own. Everything else
/// (a busy machine, too many open files, a permission) passes, and what is stored is good.
fn is_unreadable(status: &Status) -> bool {
    status.code() == Code::DataLoss || status.message().contains("input/output error")
}

/// Size and digest of what is stored; None where nothing is.
async fn digest(client: &Client, digest: &Digest) -> Result<Option<(u64, Digest)>, Status> {
    let request = client.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 });
    let Some(mut pieces) = found(bounded(STALLED, client.content().read(request)).await)? else { return Ok(None) };
    let (mut size, mut hasher) = (0_u64, digest.hasher());
    loop {
        let piece = tokio::time::timeout(STALLED, pieces.message()).await;
        match piece.unwrap_or_else(|_| Err(Status::deadline_exceeded("containerd sends no more of it"))) {
            Ok(Some(piece)) => {
                size = size.saturating_add(piece.data.len() as u64);
                hasher.update(&piece.data);
            }
            Ok(None) => return Ok(Some((size, hasher.finish()))),
            // containerd looks for it at the first piece.
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_disk_has_lost_counts_as_lost() {
        let lost = [Status::data_loss("x"), Status::unknown("read /var/lib/x: input/output error")];
        assert!(lost.iter().all(is_unreadable));
        let passing = [
            Status::unknown("open /var/lib/x: too many open files"),
            Status::resource_exhausted("message larger than max"),
            Status::permission_denied("x"),
            Status::unavailable("x"),
            Status::deadline_exceeded("x"),
            Status::internal("transport error"),
        ];
        assert!(!passing.iter().any(is_unreadable));
    }
}
