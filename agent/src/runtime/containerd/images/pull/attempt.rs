//! One try at one image: what the registry means by the name, its documents, its layers, unpacked one by one while later
//! ones still arrive, and at the very end its name.
//!
//! Until the last step only the lease refers to what was brought: a try that fails, or an agent that dies, leaves nothing
//! that has a name, and the next try continues with what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use containerd_client::services::v1::Image;
use containerd_client::types::Descriptor as WireDescriptor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fetch::Fetch;
use super::room;
use crate::registry::Target;
use crate::runtime::containerd::images::digest::Digest;
use crate::runtime::containerd::images::import::ARCHIVES_LABEL;
use crate::runtime::containerd::images::ingest::Ingest;
use crate::runtime::containerd::images::reference::Reference;
use crate::runtime::containerd::images::resolve::{Resolved, Source};
use crate::runtime::containerd::images::store::{self, to_i64};
use crate::runtime::containerd::images::{ImageError, Images};

/// Layers of one image that are fetched at once: containerd's own number (max_concurrent_downloads).
const LAYERS_AT_ONCE: usize = 3;

/// How a try ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brought {
    /// The name still means what is here.
    Nothing,
    /// Bytes of configuration and layers.
    Image { size: u64 },
}

/// Brings the image unless `here` is what its name means now. `began` is called when it is to be fetched.
pub async fn bring(
    fetch: &Fetch,
    reference: &Reference,
    here: Option<&Digest>,
    began: impl Fn(),
) -> Result<Brought, ImageError> {
    let images = &fetch.images;
    let wanted = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Target::Digest(digest.to_string()),
        (None, tag) => Target::Tag(tag.unwrap_or("latest").to_owned()),
    };
    if let Some(here) = here {
        let named = images.registry().digest(&fetch.repository, &wanted, &fetch.secrets).await;
        if named.map_err(|e| fetch.registry(e))? == here.as_str() {
            return Ok(Brought::Nothing);
        }
    }
    began();
    let (target, media_type, size) = fetch.target(&wanted).await?;
    let resolved = images.search(&fetch.image, &target, Source::Registry(fetch)).await?;
    fetch.meter.expect(resolved.size, resolved.layers.len());
    room_for(fetch, &resolved).await?;
    layers(fetch, &resolved).await?;
    images.finish_unpacking(&fetch.image, &resolved).await?;
    let target =
        WireDescriptor { media_type, digest: target.to_string(), size: to_i64(size), ..WireDescriptor::default() };
    record(images, reference, target).await?;
    Ok(Brought::Image { size: resolved.size })
}

/// Refuses what cannot fit, before it fills a disk that others need. What fits as it is fetched may still be too large unpacked:
/// that shows when it is unpacked.
async fn room_for(fetch: &Fetch, resolved: &Resolved) -> Result<(), ImageError> {
    let client = fetch.images.client();
    // Where it is not known, containerd's own words are waited for.
    let Some(available) = room::available(&fetch.images).await else { return Ok(()) };
    if resolved.size <= available {
        return Ok(());
    }
    let asking = || ImageError::containerd(format!("asking what there is of image {}", fetch.image));
    let mut missing = 0_u64;
    // A layer that is listed twice is fetched once.
    for (digest, size) in resolved.layers.iter().map(|l| (&l.digest, l.size)).collect::<BTreeMap<_, _>>() {
        if store::info(client, digest).await.map_err(asking())?.is_none() {
            let arrived = Ingest::arrived(client, digest).await.map_err(asking())?;
            missing = missing.saturating_add(size.saturating_sub(arrived));
        }
    }
    if missing <= available {
        return Ok(());
    }
    Err(ImageError::NoRoom { image: fetch.image.to_string(), missing, available })
}

/// Fetches the layers side by side, lowest first, and unpacks each as soon as those below it are.
async fn layers(fetch: &Fetch, resolved: &Arc<Resolved>) -> Result<(), ImageError> {
    let places = Arc::new(Semaphore::new(LAYERS_AT_ONCE));
    // Dropped, it ends all downloads; their bytes stay.
    let mut downloads = JoinSet::new();
    for index in 0..resolved.layers.len() {
        let (fetch, resolved, places) = (fetch.clone(), Arc::clone(resolved), Arc::clone(&places));
        downloads.spawn(async move {
            let _place = places.acquire_owned().await.expect("the semaphore is never closed");
            fetch.layer(&resolved.layers[index]).await.map(|()| index)
        });
    }
    let mut here = vec![false; resolved.layers.len()];
    for index in 0..resolved.layers.len() {
        while !here[index] {
            let ended = downloads.join_next().await.expect("every layer has a download");
            here[ended.expect("a download that panicked is our own bug")?] = true;
        }
        let unpacked = fetch.images.unpack_layer_of(&fetch.image, resolved, index, &fetch.lease).await;
        match unpacked {
            // It was here before, and its bytes were lost: they are gone now, and are fetched like those of any other.
            Err(ImageError::Damaged { .. }) => {
                fetch.layer(&resolved.layers[index]).await?;
                fetch.images.unpack_layer_of(&fetch.image, resolved, index, &fetch.lease).await?;
            }
            unpacked => unpacked?,
        }
        fetch.meter.unpacked();
    }
    Ok(())
}

/// The name, pointed at what was brought. An archive that brought it before did not bring this.
async fn record(images: &Images, reference: &Reference, target: WireDescriptor) -> Result<(), ImageError> {
    let name = reference.record_name();
    let doing = || format!("recording image {name}");
    let _turn = images.shared.shelf.lock().await;
    let before = store::image(images.client(), &name).await.map_err(ImageError::containerd(doing()))?;
    let mut labels = before.map(|i| i.labels).unwrap_or_default();
    labels.remove(ARCHIVES_LABEL);
    images.note_arrival(&mut labels);
    let record = Image { name: name.clone(), labels, target: Some(target), ..Image::default() };
    store::put_image(images.client(), record).await.map_err(ImageError::containerd(doing()))
}
