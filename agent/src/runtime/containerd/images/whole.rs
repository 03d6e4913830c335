//! Whether a layer in containerd's content store is what its name says. A power cut may leave other bytes, or none, under the right
//! name; containerd does not look at them again, and unpacking fails with words that say little.
//!
//! Driven by `unpack`, where a layer did not unpack. Reads the layer once, piece by piece.

use containerd_client::services::v1::ReadContentRequest;
use containerd_client::tonic::{Code, Status};

use super::digest::Digest;
use super::documents::Descriptor;
use super::store::STALLED;
use crate::runtime::containerd::client::{Client, bounded, found, is_unavailable};

/// What is wrong with it; None: it is whole. Err: containerd could not be asked.
pub async fn damage(client: &Client, layer: &Descriptor) -> Result<Option<String>, Status> {
    match digest(client, &layer.digest).await {
        Ok(None) => Ok(Some("it is missing".to_owned())),
        Ok(Some((size, digest))) if size != layer.size || digest != layer.digest => {
            Ok(Some(format!("its bytes are {size} with digest {digest}, {} expected", layer.size)))
        }
        Ok(Some(_)) => Ok(None),
        Err(status) if is_unavailable(&status) || status.code() == Code::DeadlineExceeded => Err(status),
        // A disk that cannot read it says so in containerd's words.
        Err(status) => Ok(Some(format!("it cannot be read: {}", status.message()))),
    }
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
