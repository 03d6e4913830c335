//! Layers to snapshots: one committed snapshot for each layer on top of the ones below, named by its chain id.
//!
//! Idempotent: what is there is left alone, what is missing is made again. One unpacking for each layer at a time,
//! however many pods and images wait for it. containerd applies the layers; its answer is compared with the configuration.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::{Descriptor as WireDescriptor, Mount};

use super::config::chain_id;
use super::digest::Digest;
use super::documents::Descriptor;
use super::resolve::Resolved;
use super::store::{self, Lease, to_i64};
use super::whole::{self, Stored};
use super::{ImageError, Images};
use crate::runtime::containerd::client::{QUICK, SLOW, bounded, found};
use crate::runtime::containerd::snapshots;

/// Applying one layer: 10 GB at 10 MB/s, and then something is wrong with the disk.
const APPLY: Duration = Duration::from_secs(1000);
/// Tells the snapshotter (and remote ones act on it) which chain the snapshot is to become.
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

impl Images {
    /// Whether the image's top snapshot is there: one call.
    pub async fn is_unpacked(&self, resolved: &Resolved) -> Result<bool, ImageError> {
        let Some(chain) = &resolved.chain_id else { return Ok(true) };
        self.snapshot_exists(chain).await.map_err(ImageError::containerd(format!("looking for snapshot {chain}")))
    }

    /// Makes what is missing of the image's snapshots.
    pub async fn unpack(&self, image: &str, resolved: &Resolved) -> Result<(), ImageError> {
        let lease = self.lease().await?;
        let outcome = self.unpack_under(image, resolved, &lease).await;
        // A lease that stays behind ends by itself.
        let _ = lease.give_back(self.client()).await;
        outcome
    }

    /// The same under a lease that the caller has, and with no look whether it is needed.
    pub(super) async fn unpack_under(&self, image: &str, resolved: &Resolved, lease: &Lease) -> Result<(), ImageError> {
        for index in 0..resolved.layers.len() {
            self.unpack_layer_of(image, resolved, index, lease).await?;
        }
        self.finish_unpacking(image, resolved).await
    }

    /// One layer; those below it are unpacked already.
    pub(super) async fn unpack_layer_of(
        &self,
        image: &str,
        resolved: &Resolved,
        index: usize,
        lease: &Lease,
    ) -> Result<(), ImageError> {
        let (layer, diff_id) = (&resolved.layers[index], &resolved.diff_ids[index]);
        let chain = chain_id(&resolved.diff_ids[..=index]).expect("it has at least this layer");
        let parent = chain_id(&resolved.diff_ids[..index]);
        // Also for another image with the same layers.
        let _turn = self.shared.unpacking.lock(&chain).await;
        self.unpack_layer(image, lease, &Layer { layer, diff_id, chain: &chain, parent: parent.as_ref() }).await
    }

    /// The image's configuration keeps its top snapshot from here on.
    pub(super) async fn finish_unpacking(&self, image: &str, resolved: &Resolved) -> Result<(), ImageError> {
        let Some(chain) = &resolved.chain_id else { return Ok(()) };
        let label =
            BTreeMap::from([(format!("containerd.io/gc.ref.snapshot.{}", self.shared.snapshotter), chain.to_string())]);
        store::label(self.client(), &resolved.config_digest, &label)
            .await
            .map_err(ImageError::containerd(format!("labelling the configuration of {image}")))
    }

    async fn unpack_layer(&self, image: &str, lease: &Lease, layer: &Layer<'_>) -> Result<(), ImageError> {
        let doing = |what: &str| format!("{what} layer {} of {image}", layer.layer.digest);
        // First held, then looked at: the other way round it could be collected in between.
        let held = store::hold_snapshot(self.client(), lease, &self.shared.snapshotter, layer.chain).await;
        held.map_err(ImageError::containerd(doing("holding")))?;
        if self.snapshot_exists(layer.chain).await.map_err(ImageError::containerd(doing("looking for")))? {
            return Ok(());
        }
        // As containerd's clients name it; the unique part keeps two tries apart.
        let key = format!("extract-{} {}", uuid::Uuid::new_v4().simple(), layer.chain);
        let mounts = match self.prepare_snapshot(lease, &key, layer).await {
            Ok(mounts) => mounts,
            // Somebody committed it meanwhile, or a remote snapshotter has it.
            Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
            Err(status) => return Err(ImageError::Containerd { doing: doing("preparing a snapshot for"), status }),
        };
        let made = self.apply_and_commit(image, lease, &key, layer, mounts).await;
        if made.is_err() {
            let request = RemoveSnapshotRequest { snapshotter: self.shared.snapshotter.clone(), key };
            // The lease's end collects it otherwise.
            let _ = bounded(QUICK, self.client().snapshots().remove(self.client().request(request))).await;
        }
        match made {
            Err(ImageError::Containerd { status, .. }) if status.code() == Code::AlreadyExists => Ok(()),
            Err(error) if may_be_damage(&error) => Err(self.drop_damaged(image, layer.layer, error).await),
            other => other,
        }
    }

    /// A layer that did not unpack: where its bytes are not what its name says they are dropped, so that whoever brings the image
    /// again brings them too. What is to be said of it.
    async fn drop_damaged(&self, image: &str, layer: &Descriptor, error: ImageError) -> ImageError {
        let reason = match whole::look(self.client(), layer).await {
            Ok(Stored::Damaged(reason)) => reason,
            Ok(Stored::OtherSize(size)) => return ImageError::other_size(image, layer, size),
            Ok(Stored::Whole) | Err(_) => return error,
        };
        tracing::warn!(image, layer = %layer.digest, reason, "damaged layer is dropped");
        if let Err(status) = store::remove(self.client(), &layer.digest).await {
            return ImageError::Containerd {
                doing: format!("removing damaged layer {} of {image}", layer.digest),
                status,
            };
        }
        let reason = format!("layer {} in containerd's content store: {reason}", layer.digest);
        ImageError::Damaged { image: image.to_owned(), reason }
    }

    async fn apply_and_commit(
        &self,
        image: &str,
        lease: &Lease,
        key: &str,
        layer: &Layer<'_>,
        mounts: Vec<Mount>,
    ) -> Result<(), ImageError> {
        let doing = |what: &str| format!("{what} layer {} of {image}", layer.layer.digest);
        let diff = WireDescriptor {
            media_type: layer.layer.media_type.clone(),
            digest: layer.layer.digest.to_string(),
            size: to_i64(layer.layer.size),
            ..WireDescriptor::default()
        };
        let apply = ApplyRequest { diff: Some(diff), mounts: mounts.clone(), sync_fs: true, ..ApplyRequest::default() };
        let mut service = self.client().diff();
        let applied = match bounded(APPLY, service.apply(lease.request(self.client(), apply))).await {
            Ok(answer) => answer.applied.unwrap_or_default().digest,
            Err(status) if status.code() == Code::NotFound => {
                let reason = format!("layer {} is missing in containerd's content store", layer.layer.digest);
                return Err(ImageError::Damaged { image: image.to_owned(), reason });
            }
            Err(status) => return Err(ImageError::Containerd { doing: doing("unpacking"), status }),
        };
        if applied != layer.diff_id.as_str() {
            let reason = format!(
                "layer {} unpacks to digest {applied}, its configuration (rootfs.diff_ids) expects {}",
                layer.layer.digest, layer.diff_id
            );
            return Err(ImageError::Refused { image: image.to_owned(), reason });
        }
        snapshots::sync(&mounts).await.map_err(|source| {
            let status = Status::unknown(format!("its files do not reach the disk: {source}"));
            ImageError::Containerd { doing: doing("unpacking"), status }
        })?;
        let commit = CommitSnapshotRequest {
            snapshotter: self.shared.snapshotter.clone(),
            name: layer.chain.to_string(),
            key: key.to_owned(),
            labels: layer.labels(),
        };
        bounded(SLOW, self.client().snapshots().commit(lease.request(self.client(), commit)))
            .await
            .map(drop)
            .map_err(ImageError::containerd(doing("committing the snapshot of")))
    }

    async fn prepare_snapshot(&self, lease: &Lease, key: &str, layer: &Layer<'_>) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.shared.snapshotter.clone(),
            key: key.to_owned(),
            parent: layer.parent.map(Digest::to_string).unwrap_or_default(),
            labels: layer.labels(),
        };
        bounded(SLOW, self.client().snapshots().prepare(lease.request(self.client(), request))).await.map(|a| a.mounts)
    }

    async fn snapshot_exists(&self, chain: &Digest) -> Result<bool, Status> {
        let request = StatSnapshotRequest { snapshotter: self.shared.snapshotter.clone(), key: chain.to_string() };
        Ok(found(bounded(QUICK, self.client().snapshots().stat(self.client().request(request))).await)?.is_some())
    }
}

/// Whether the bytes of the layer may be why it did not unpack.
fn may_be_damage(error: &ImageError) -> bool {
    match error {
        ImageError::Containerd { status, .. } => {
            !error.is_unavailable() && !error.is_disk_full() && status.code() != Code::DeadlineExceeded
        }
        ImageError::Refused { .. } => true,
        _ => false,
    }
}

struct Layer<'a> {
    layer: &'a Descriptor,
    diff_id: &'a Digest,
    chain: &'a Digest,
    parent: Option<&'a Digest>,
}

impl Layer<'_> {
    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(SNAPSHOT_REF.to_owned(), self.chain.to_string())])
    }
}
