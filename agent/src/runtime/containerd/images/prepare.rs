//! An image made ready for a container, or the reason why not, in Kubernetes' words; and its facts.
//!
//! Driven by the runtime. When all is well it costs two calls: the record, and its top snapshot.

use containerd_client::services::v1::Image;
use pod::spec::{Container, PullPolicy};

use super::digest::Digest;
use super::reference::Reference;
use super::store;
use super::{ImageError, Images};
use crate::runtime::containerd::image_facts::ImageFacts;
use crate::seams::{Prepared, StepError};

/// Names offered in place of one that is not there.
const MAX_OFFERED: usize = 5;

const ERR_IMAGE_PULL: &str = "ErrImagePull";
const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
const INVALID_IMAGE_NAME: &str = "InvalidImageName";
const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";

impl Images {
    /// Makes the container's image present and unpacked. Whatever the pull policy, an image that is here is used: a
    /// registry cannot be asked for a newer one yet, which is said where one was to be asked.
    pub async fn prepare(&self, container: &Container) -> Result<Prepared, StepError> {
        let reference = parse(&container.image)?;
        let unread = self.first_reading().may_bring_it();
        let Some((name, target)) = self.find(&reference).await? else {
            return Err(match unread {
                true => StepError::waiting(format!(
                    "image {reference} is not on this node; waiting for the image directory's first reading"
                )),
                false => self.absent(&reference, container.pull_policy).await,
            });
        };
        self.make_ready(&name, &target).await?;
        Ok(prepared(&reference, &name, container.pull_policy))
    }

    /// What running needs to know of an image, by the name as a manifest writes it. The image must be prepared.
    pub async fn facts(&self, image: &str) -> Result<ImageFacts, StepError> {
        let reference = parse(image)?;
        let Some((name, target)) = self.find(&reference).await? else {
            return Err(self.absent(&reference, PullPolicy::IfNotPresent).await);
        };
        let resolved = self.resolve(&name, &target).await.map_err(|e| step(IMAGE_INSPECT_ERROR, &e))?;
        Ok(ImageFacts {
            name,
            digest: resolved.manifest.to_string(),
            chain_id: resolved.chain_id.as_ref().map(Digest::to_string).unwrap_or_default(),
            config: resolved.run.clone(),
        })
    }

    async fn make_ready(&self, name: &str, target: &Digest) -> Result<(), StepError> {
        let resolved = self.resolve(name, target).await.map_err(|e| step(ERR_IMAGE_PULL, &e))?;
        if self.is_unpacked(&resolved).await.map_err(|e| step(ERR_IMAGE_PULL, &e))? {
            return Ok(());
        }
        self.unpack(name, &resolved).await.map_err(|e| step(ERR_IMAGE_PULL, &e))
    }

    /// The record of this name, or of any name with this digest: name shown and target.
    async fn find(&self, reference: &Reference) -> Result<Option<(String, Digest)>, StepError> {
        let name = reference.record_name();
        let doing = || format!("looking for image {name}");
        let failed = |status| step(IMAGE_INSPECT_ERROR, &ImageError::Containerd { doing: doing(), status });
        let record = match reference.digest() {
            None => store::image(self.client(), &name).await.map_err(failed)?,
            Some(digest) => {
                let filter = format!("target.digest=={digest}");
                let records = store::images(self.client(), Some(filter)).await.map_err(failed)?;
                let own = |i: &&Image| i.name.parse::<Reference>().is_ok_and(|r| r.name() == reference.name());
                records.iter().find(own).or(records.first()).cloned()
            }
        };
        let Some(target) = record.and_then(|r| r.target) else { return Ok(None) };
        let digest = target.digest.parse::<Digest>().map_err(|e| {
            StepError::new(IMAGE_INSPECT_ERROR, format!("image {name} has a target that is not understood: {e}"))
        })?;
        Ok(Some((name, digest)))
    }

    async fn absent(&self, reference: &Reference, policy: PullPolicy) -> StepError {
        let offered = match store::images(self.client(), None).await {
            Ok(images) => offered(reference, images.into_iter().map(|i| i.name).collect()),
            Err(_) => "images known: could not be asked for".to_owned(),
        };
        match policy {
            PullPolicy::Never => StepError::new(
                ERR_IMAGE_NEVER_PULL,
                format!("image {reference} is not on this node and imagePullPolicy is Never; {offered}"),
            ),
            PullPolicy::Always | PullPolicy::IfNotPresent => StepError::new(
                ERR_IMAGE_PULL,
                format!(
                    "image {reference} is not on this node, and pulling from registries is not built yet: put an OCI or \
                     docker archive with this name into the image directory; {offered}"
                ),
            ),
        }
    }
}

/// A reference with a digest cannot have become newer: nothing is to be asked.
fn prepared(reference: &Reference, name: &str, policy: PullPolicy) -> Prepared {
    match policy {
        PullPolicy::Always if reference.digest().is_none() => Prepared::NotRefreshed {
            message: format!(
                "imagePullPolicy is Always, but pulling from registries is not built yet: {name} is used as it is on \
                 this node"
            ),
        },
        PullPolicy::Always | PullPolicy::IfNotPresent | PullPolicy::Never => Prepared::AsAsked,
    }
}

fn parse(image: &str) -> Result<Reference, StepError> {
    image.parse().map_err(|e: super::reference::InvalidReference| StepError::new(INVALID_IMAGE_NAME, e.to_string()))
}

fn step(reason: &'static str, error: &ImageError) -> StepError {
    StepError { reason, message: error.sentence(), unavailable: error.is_unavailable() }
}

/// The names that look most like the one asked for.
fn offered(wanted: &Reference, mut known: Vec<String>) -> String {
    if known.is_empty() {
        return "no image is known yet".into();
    }
    let wanted = wanted.record_name();
    known.sort();
    known.sort_by_key(|name| std::cmp::Reverse(likeness(&wanted, name)));
    let more = known.len().saturating_sub(MAX_OFFERED);
    known.truncate(MAX_OFFERED);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("images known: {}{tail}", known.join(", "))
}

/// How many words of the names are the same; a slip in one of them still leaves the others.
fn likeness(a: &str, b: &str) -> usize {
    let words = |s: &str| s.split(['/', ':', '@', '-', '.', '_']).map(str::to_owned).collect::<Vec<_>>();
    let b = words(b);
    words(a).iter().filter(|w| w.len() > 1 && b.contains(w)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_always_of_a_name_that_may_move_is_not_refreshed() {
        let of = |image: &str, policy| prepared(&image.parse().unwrap(), image, policy);
        let pinned = format!("a.b/c@sha256:{}", "0".repeat(64));
        assert!(
            matches!(of("a.b/c:1", PullPolicy::Always), Prepared::NotRefreshed { message } if message.contains("a.b/c:1"))
        );
        assert_eq!(of(&pinned, PullPolicy::Always), Prepared::AsAsked);
        assert_eq!(of("a.b/c:1", PullPolicy::IfNotPresent), Prepared::AsAsked);
        assert_eq!(of("a.b/c:1", PullPolicy::Never), Prepared::AsAsked);
    }

    #[test]
    fn the_names_nearest_to_the_wanted_one_come_first() {
        let wanted = "quay.io/fluentd_elasticsearch/fluentd:v2.5.2".parse().unwrap();
        let known = ["docker.io/library/busybox:latest", "quay.io/fluentd_elasticsearch/fluentd:v2.5.1", "a.b/c:d"];
        let text = offered(&wanted, known.iter().map(|s| s.to_string()).collect());
        assert!(text.starts_with("images known: quay.io/fluentd_elasticsearch/fluentd:v2.5.1,"), "{text}");
        assert_eq!(offered(&wanted, Vec::new()), "no image is known yet");
    }
}
