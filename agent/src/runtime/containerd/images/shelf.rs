//! Images as their collector sees them: what speaks for keeping each, when it was last used, and its removal with all that only
//! it has.
//!
//! Implements [`ImageShelf`]. Last use and pins are labels of containerd's image records, so that a restarted agent finds
//! them. Only our own containerd namespace is changed; others are only asked which content they share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use containerd_client::services::v1::snapshots::UsageRequest;
use containerd_client::services::v1::{
    DeleteImageRequest, Image, ListContainersRequest, ListContentRequest, ListNamespacesRequest, UpdateImageRequest,
};
use containerd_client::tonic::{Request, Status};
use prost_types::FieldMask;

use super::config::chain_id;
use super::digest::Digest;
use super::disk::CONTENT;
use super::import::ARCHIVES_LABEL;
use super::reference::Reference;
use super::store::{self, Lease};
use super::{ImageError, Images};
use crate::runtime::containerd::client::{QUICK, SLOW, bounded, found};
use crate::seams::{DiskUse, ImageShelf, Keep, Moved, Removed, ShelfError, ShelvedImage};

/// When the image came or was last used: RFC 3339.
pub const LAST_USED_LABEL: &str = "daemonlet.dev/last-used";
/// Ours, and the one by which a kubelet's collector leaves the image alone too; each pins.
pub const PINNED_LABELS: [(&str, &str); 2] = [("daemonlet.dev/pinned", "true"), ("io.cri-containerd.pinned", "pinned")];

impl ImageShelf for Images {
    async fn shelf(&self, wanted: &BTreeSet<String>) -> Result<Vec<ShelvedImage>, ShelfError> {
        self.look_at_shelf(wanted).await.map_err(shelf_error)
    }

    async fn mark_used(&self, images: &[ShelvedImage], now: jiff::Timestamp) -> Result<(), ShelfError> {
        let (now, mut outcome) = (written(now), Ok(()));
        for image in images {
            // One of its names is enough: the latest of all counts.
            let Some(name) = image.names.first() else { continue };
            // Those behind one that cannot be labelled are not forgotten for it.
            let labelled = self.set_labels(name, [(LAST_USED_LABEL, now.as_str())]).await.map_err(shelf_error);
            outcome = outcome.and(labelled);
        }
        outcome
    }

    async fn remove(
        &self,
        image: &ShelvedImage,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> Result<Removed, ShelfError> {
        self.remove_image(image, wanted).await.map_err(shelf_error)
    }

    async fn drop_abandoned(&self, wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync)) -> Result<usize, ShelfError> {
        self.drop_abandoned_pulls(wanted).await.map_err(|status| {
            shelf_error(ImageError::Containerd { doing: "dropping what abandoned pulls have brought".into(), status })
        })
    }

    async fn disks(&self) -> Result<Vec<DiskUse>, ShelfError> {
        let snapshotter = format!("type==io.containerd.snapshotter.v1,id=={}", self.shared.snapshotter);
        let roots = self.roots(vec![snapshotter, CONTENT.to_owned()]).await.map_err(shelf_error)?;
        self.disks_at(roots).await
    }

    async fn disk_moved(&self) -> Moved {
        // Both only wait, and keep what they were told when the other wins.
        tokio::select! {
            biased;
            () = self.shared.no_room.notified() => Moved::Full,
            () = self.shared.came.notified() => Moved::Arrived,
        }
    }

    fn room_made(&self) {
        self.shared.pulls.room_made();
    }
}

impl Images {
    /// Pins the image of this name, or no longer. False: there is none.
    pub async fn pin(&self, reference: &Reference, pinned: bool) -> Result<bool, ImageError> {
        let _turn = self.shared.shelf.lock().await;
        let name = reference.record_name();
        let Some(_) = self.record_of(&name).await? else { return Ok(false) };
        // An empty value removes a label.
        self.set_labels(&name, PINNED_LABELS.map(|(key, value)| (key, if pinned { value } else { "" }))).await?;
        self.shared.arrived.notify_one();
        Ok(true)
    }

    /// The labels of a record that comes now.
    pub(super) fn note_arrival(&self, labels: &mut std::collections::HashMap<String, String>) {
        labels.insert(LAST_USED_LABEL.to_owned(), written(jiff::Timestamp::now()));
        self.shared.came.notify_one();
    }

    /// An image found no room.
    pub(super) fn note_failure(&self, error: &ImageError) {
        if error.is_disk_full() {
            self.shared.no_room.notify_one();
        }
    }

    pub(super) async fn record_of(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let record = store::image(self.client(), name).await;
        record.map_err(ImageError::containerd(format!("looking for image {name}")))
    }

    async fn set_labels<const N: usize>(&self, name: &str, labels: [(&str, &str); N]) -> Result<(), ImageError> {
        let paths = labels.iter().map(|(key, _)| format!("labels.{key}")).collect();
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        // The target is not in the mask, but containerd wants to see a sound one.
        let Some(record) = self.record_of(name).await? else { return Ok(()) };
        let update = UpdateImageRequest {
            image: Some(Image { name: name.to_owned(), labels, target: record.target, ..Image::default() }),
            update_mask: Some(FieldMask { paths }),
            ..UpdateImageRequest::default()
        };
        let updated = found(bounded(SLOW, self.client().images().update(self.client().request(update))).await);
        updated.map(drop).map_err(ImageError::containerd(format!("labelling image {name}")))
    }

    async fn look_at_shelf(&self, wanted: &BTreeSet<String>) -> Result<Vec<ShelvedImage>, ImageError> {
        let records = store::images(self.client(), None).await.map_err(ImageError::containerd("listing images"))?;
        let wanted: Vec<Reference> = wanted.iter().filter_map(|image| image.parse().ok()).collect();
        let mut names: BTreeSet<String> =
            wanted.iter().filter(|image| image.digest().is_none()).map(Reference::record_name).collect();
        let digests: BTreeSet<&str> = wanted.iter().filter_map(|image| image.digest().map(Digest::as_str)).collect();
        let pulling = self.shared.pulls.names();
        let mut shelf: BTreeMap<String, ShelvedImage> = BTreeMap::new();
        for record in records {
            let digest = record.target.as_ref().map(|target| target.digest.clone()).unwrap_or_default();
            let keep = if names.contains(&record.name) || digests.contains(digest.as_str()) {
                Some(Keep::Needed)
            } else if is_pinned(&record) {
                Some(Keep::Pinned)
            } else if record.labels.get(ARCHIVES_LABEL).is_some_and(|stamps| self.lies(stamps)) {
                Some(Keep::Lies)
            } else if pulling.contains(&record.name) {
                Some(Keep::Pulling)
            } else {
                None
            };
            let last_used = last_used(&record);
            let image = shelf.entry(digest.clone()).or_insert_with(|| ShelvedImage {
                names: Vec::new(),
                digest,
                last_used,
                keep: None,
            });
            image.names.push(record.name);
            image.last_used = image.last_used.max(last_used);
            // Any of its names keeps it; the strongest reason is the first.
            image.keep = match (image.keep, keep) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        // Pods' own containers have records; what is left are those whose record was lost, and guests in our namespace.
        if shelf.values().any(|image| image.keep.is_none()) {
            names = self.images_of_containers().await?;
            for image in shelf.values_mut().filter(|image| image.names.iter().any(|name| names.contains(name))) {
                image.keep = Some(Keep::Needed);
            }
        }
        let mut shelf: Vec<ShelvedImage> = shelf.into_values().collect();
        shelf.iter_mut().for_each(|image| image.names.sort());
        Ok(shelf)
    }

    /// Streamed: a container comes with its whole specification.
    async fn images_of_containers(&self) -> Result<BTreeSet<String>, ImageError> {
        let listed = async {
            let request = self.client().request(ListContainersRequest { filters: Vec::new() });
            let mut stream = self.client().containers().list_stream(request).await?.into_inner();
            let mut images = BTreeSet::new();
            while let Some(message) = stream.message().await? {
                images.extend(message.container.map(|container| container.image));
            }
            Ok(images)
        };
        within(SLOW, listed).await.map_err(ImageError::containerd("listing containers"))
    }

    async fn remove_image(
        &self,
        image: &ShelvedImage,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> Result<Removed, ImageError> {
        let content = |what: &str| ImageError::containerd(format!("{what} content"));
        let before = self.content(self.client().namespace()).await.map_err(content("listing"))?;
        let snapshots = self.snapshots_of(image).await?;
        {
            // Who begins to use an image waits for this turn, after its pod is among the wanted ones.
            let _turn = self.shared.shelf.lock().await;
            let shelf = self.look_at_shelf(&wanted()).await?;
            let now = shelf.into_iter().find(|now| now.digest == image.digest);
            if now.is_none_or(|now| now.keep.is_some() || now.names != image.names) {
                return Ok(Removed::Kept);
            }
            for name in &image.names {
                let request = DeleteImageRequest { name: name.clone(), ..DeleteImageRequest::default() };
                let deleted = found(bounded(SLOW, self.client().images().delete(self.client().request(request))).await);
                deleted.map_err(ImageError::containerd(format!("removing image {name}")))?;
            }
        }
        let collected = store::collect_garbage(self.client()).await;
        collected.map_err(ImageError::containerd(format!("collecting what image {} had", image.names.join(", "))))?;
        let after = self.content(self.client().namespace()).await.map_err(content("listing"))?;
        let mut gone: BTreeMap<String, u64> =
            before.into_iter().filter(|(digest, _)| !after.contains_key(digest)).collect();
        for namespace in self.other_namespaces().await.map_err(ImageError::containerd("listing namespaces"))? {
            // Content is stored once: what another namespace has too is still on the disk.
            let theirs = self.content(&namespace).await.map_err(content("comparing"))?;
            gone.retain(|digest, _| !theirs.contains_key(digest));
        }
        let mut freed = gone.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
        for (chain, size) in snapshots {
            if self.snapshot_use(&chain).await?.is_none() {
                freed = freed.saturating_add(size);
            }
        }
        // Its row goes.
        self.shared.arrived.notify_one();
        Ok(Removed::Gone { freed })
    }

    async fn drop_abandoned_pulls(
        &self,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> Result<usize, Status> {
        let leases = Lease::of_pulls(self.client()).await?;
        if leases.is_empty() {
            return Ok(0);
        }
        // Asked after the leases: whoever pulls was among them before it took one.
        let mut names = self.shared.pulls.names();
        names.extend(
            wanted().iter().filter_map(|image| image.parse::<Reference>().ok()).map(|image| image.record_name()),
        );
        let mut dropped = 0;
        for (id, image) in leases.into_iter().filter(|(_, image)| !names.contains(image)) {
            tracing::info!(image, "what an abandoned pull has brought is dropped");
            Lease::give_back_id(self.client(), id).await?;
            dropped += 1;
        }
        if dropped > 0 {
            store::collect_garbage(self.client()).await?;
        }
        Ok(dropped)
    }

    /// Chain ids of the image's snapshots with their bytes. None of one that cannot be read.
    async fn snapshots_of(&self, image: &ShelvedImage) -> Result<BTreeMap<Digest, u64>, ImageError> {
        let mut snapshots = BTreeMap::new();
        let Ok(target) = image.digest.parse::<Digest>() else { return Ok(snapshots) };
        let resolved = match self.resolve_anew(&image.names.join(", "), &target).await {
            Ok(resolved) => resolved,
            Err(error) if error.is_unavailable() => return Err(error),
            Err(_) => return Ok(snapshots),
        };
        for index in 0..resolved.diff_ids.len() {
            let Some(chain) = chain_id(&resolved.diff_ids[..=index]) else { continue };
            if let Some(size) = self.snapshot_use(&chain).await? {
                snapshots.insert(chain, size);
            }
        }
        Ok(snapshots)
    }

    /// Bytes of a committed snapshot, as containerd noted them; None when it is not there.
    async fn snapshot_use(&self, chain: &Digest) -> Result<Option<u64>, ImageError> {
        let request = UsageRequest { snapshotter: self.shared.snapshotter.clone(), key: chain.to_string() };
        let usage = found(bounded(QUICK, self.client().snapshots().usage(self.client().request(request))).await);
        let usage = usage.map_err(ImageError::containerd(format!("asking for the size of snapshot {chain}")))?;
        Ok(usage.map(|usage| u64::try_from(usage.size).unwrap_or(0)))
    }

    /// Sizes of all content that a namespace has, by digest.
    async fn content(&self, namespace: &str) -> Result<BTreeMap<String, u64>, Status> {
        let listed = async {
            let request = self.client().request_in(namespace, ListContentRequest { filters: Vec::new() })?;
            let mut stream = self.client().content().list(request).await?.into_inner();
            let mut sizes = BTreeMap::new();
            while let Some(message) = stream.message().await? {
                sizes.extend(message.info.into_iter().map(|i| (i.digest, u64::try_from(i.size).unwrap_or(0))));
            }
            Ok(sizes)
        };
        within(SLOW, listed).await
    }

    async fn other_namespaces(&self) -> Result<Vec<String>, Status> {
        let request = Request::new(ListNamespacesRequest { filter: String::new() });
        let namespaces = bounded(QUICK, self.client().namespaces().list(request)).await?.namespaces;
        let own = self.client().namespace();
        Ok(namespaces.into_iter().map(|namespace| namespace.name).filter(|name| name != own).collect())
    }
}

pub fn is_pinned(record: &Image) -> bool {
    PINNED_LABELS.iter().any(|(key, value)| record.labels.get(*key).is_some_and(|label| label == value))
}

/// As written down, or when the record was made.
fn last_used(record: &Image) -> jiff::Timestamp {
    let written = record.labels.get(LAST_USED_LABEL).and_then(|text| text.parse().ok());
    let made = || jiff::Timestamp::from_second(record.created_at.as_ref()?.seconds).ok();
    written.or_else(made).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn written(last_used: jiff::Timestamp) -> String {
    format!("{last_used:.3}")
}

fn shelf_error(error: ImageError) -> ShelfError {
    ShelfError { message: error.sentence(), unavailable: error.is_unavailable() }
}

pub(super) fn shelf_failed(message: String) -> ShelfError {
    ShelfError { message, unavailable: false }
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded(format!("no answer within {} s", patience.as_secs())));
    tokio::time::timeout(patience, work).await.unwrap_or_else(late)
}
