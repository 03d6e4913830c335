//! Image volumes (v1 ImageVolumeSource): the files of an image, as a view that the run has to itself.
//!
//! Driven by `containers`. The run's container record refers to its views by containerd's own labels, so that garbage
//! collection keeps them, and the layers below them, exactly as long as the record; a lease keeps them until there is one. What is mounted
//! of them, and where, is `sub_paths`' to know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use containerd_client::services::v1::snapshots::{MountsRequest, StatSnapshotRequest, ViewSnapshotRequest};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;

use super::Containerd;
use super::client::{QUICK, bounded};
use super::images::store::{self, Lease};
use super::snapshots;
use crate::seams::{CreateRun, StepError};

/// containerd's label for what its garbage collector is to keep with a record; the snapshotter's name and a name follow.
const KEPT: &str = "containerd.io/gc.ref.snapshot.";
/// How the names of our views begin; the container's id and a number follow.
const VIEW: &str = "daemonlet-volume-";

/// The views of a run.
#[derive(Debug, Default)]
pub(super) struct Views {
    /// How each is mounted, by volume.
    pub mounts: BTreeMap<String, Arc<Vec<Mount>>>,
    /// For the container's record.
    pub labels: HashMap<String, String>,
    lease: Option<Lease>,
}

impl Containerd {
    /// Makes the views of the image volumes that the container mounts. Their images must be prepared.
    pub(super) async fn views(&self, run: &CreateRun<'_>) -> Result<Views, StepError> {
        let mut views = Views::default();
        let made = self.make_views(run, &mut views).await;
        if made.is_err() {
            self.hand_over(views.take_lease()).await;
        }
        made.map(|()| views)
    }

    async fn make_views(&self, run: &CreateRun<'_>, views: &mut Views) -> Result<(), StepError> {
        let failed = |volume: &str, status: &Status| {
            let doing = format!("the image of volume {volume} for container {}", run.run);
            self.client.step_error("CreateContainerError", &doing, status)
        };
        for (number, (volume, of)) in run.template.spec.image_volumes(run.container).enumerate() {
            let image = self.images.facts(&of.reference).await?;
            let lease = match views.lease.take() {
                Some(lease) => lease,
                None => Lease::take(&self.client).await.map_err(|status| failed(volume, &status))?,
            };
            let key = format!("{VIEW}{}-{number}", run.run.container_id());
            let viewed = self.view(&lease, &key, &image.chain_id).await;
            views.lease = Some(lease);
            let mounts = viewed.map_err(|status| failed(volume, &status))?;
            views.mounts.insert(volume.to_owned(), Arc::new(mounts));
            views.labels.insert(format!("{KEPT}{}/volume-{number}", self.config.snapshotter), key);
        }
        Ok(())
    }

    async fn view(&self, lease: &Lease, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let snapshotter = &self.config.snapshotter;
        // First held, then looked at: one that an interrupted try left could be collected in between.
        store::hold_view(&self.client, lease, snapshotter, key).await?;
        let request = || {
            let request = ViewSnapshotRequest {
                snapshotter: snapshotter.clone(),
                key: key.to_owned(),
                parent: parent.to_owned(),
                labels: HashMap::new(),
            };
            lease.request(&self.client, request)
        };
        match bounded(QUICK, self.client.snapshots().view(request())).await {
            Err(status) if status.code() == Code::AlreadyExists => {}
            answer => return Ok(answer?.mounts),
        }
        let stat = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.to_owned() };
        let stat = bounded(QUICK, self.client.snapshots().stat(self.client.request(stat))).await?;
        if stat.info.is_some_and(|info| info.parent == parent) {
            let request = MountsRequest { snapshotter: snapshotter.clone(), key: key.to_owned() };
            return Ok(bounded(QUICK, self.client.snapshots().mounts(self.client.request(request))).await?.mounts);
        }
        // The name stood for another image when that try was made.
        snapshots::remove(&self.client, snapshotter, key).await?;
        Ok(bounded(QUICK, self.client.snapshots().view(request())).await?.mounts)
    }

    /// Gives the lease back. One that cannot be ends by itself after a day.
    pub(super) async fn hand_over(&self, lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Err(status) = lease.give_back(&self.client).await
        {
            tracing::warn!(%status, "a lease for image volumes stays until it ends by itself");
        }
    }

    /// Removes the views of a container whose record is gone, but for those in `kept`, labels of the record that follows it.
    pub(super) async fn remove_views(
        &self,
        labels: &HashMap<String, String>,
        kept: &HashMap<String, String>,
    ) -> Result<(), Status> {
        for (label, key) in labels {
            let Some(rest) = label.strip_prefix(KEPT) else { continue };
            let snapshotter = rest.split('/').next().unwrap_or_default();
            if key.starts_with(VIEW) && kept.get(label) != Some(key) {
                snapshots::remove(&self.client, snapshotter, key).await?;
            }
        }
        Ok(())
    }
}

impl Views {
    /// What keeps them until there is a record.
    pub fn take_lease(&mut self) -> Option<Lease> {
        self.lease.take()
    }
}
