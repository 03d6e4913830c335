//! An image made ready for a container, or the reason why not, in Kubernetes' words; and its facts.
//!
//! Driven by the runtime. When all is well it costs two calls: the record, and its top snapshot.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use containerd_client::services::v1::Image;
use pod::spec::PullPolicy;
use tokio::sync::watch;
use tokio::time::Instant;

use super::digest::Digest;
use super::import::ARCHIVES_LABEL;
use super::pull::{Arrived, Ask, PullNews, Refusal};
use super::reference::Reference;
use super::store;
use super::{ImageError, Images};
use crate::runtime::containerd::image_facts::ImageFacts;
use crate::seams::{ImageNews, ImageWanted, Prepared, StepError};

/// How long a pull that failed is shown as ErrImagePull before it is one that waits (ImagePullBackOff): the kubelet's pods are looked at
/// again after 10 s, which is the shortest pause between two tries; half of it shows both.
const FAILURE_SHOWN: Duration = Duration::from_secs(5);
/// Names offered in place of one that is not there.
const MAX_OFFERED: usize = 5;

const ERR_IMAGE_PULL: &str = "ErrImagePull";
const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
const INVALID_IMAGE_NAME: &str = "InvalidImageName";
const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";

impl Images {
    /// Makes the container's image present and unpacked, by its pull policy: what is here is used where that suffices, the
    /// registry is asked and the image pulled where it does not.
    pub async fn prepare(&self, wanted: ImageWanted<'_>) -> Result<Prepared, StepError> {
        let ImageWanted { image, pull_policy, .. } = wanted;
        let (reference, begun) = (parse(image)?, Instant::now());
        // From here on nobody removes it: its pod is among those that are asked for before a removal.
        drop(self.shared.shelf.lock().await);
        let news = Once::new(wanted);
        let mut imported = self.shared.imported.subscribe();
        loop {
            imported.mark_unchanged();
            // Asked before the image is looked for: it may come in between.
            let unread = self.first_reading().may_bring_it();
            let found = self.find(&reference).await?;
            let lies = found.as_ref().is_some_and(|found| found.lies);
            let pulled = match way(pull_policy, &reference, found.as_ref().map(|_| lies)) {
                Way::Use => {
                    let found = found.expect("only what is here is used");
                    match self.make_ready(&found).await {
                        Ok(()) => return Ok(as_it_is(pull_policy, &reference, &found)),
                        // Bytes were lost under it; where a registry may be asked, it has them.
                        Err(ImageError::Damaged { reason, .. }) if !lies && pull_policy != PullPolicy::Never => {
                            tracing::warn!(image = found.name, reason, "damaged image is pulled again");
                            self.pulled(&reference, None, &mut imported, &news).await
                        }
                        Err(error) => return Err(step(ERR_IMAGE_PULL, &error)),
                    }
                }
                Way::Ask => {
                    let here = found.as_ref().map(|found| &found.target);
                    let asked = self.pulled(&reference, here, &mut imported, &news);
                    let asked = match (wanted.patience, &found) {
                        (Some(patience), Some(found)) => match tokio::time::timeout(patience, asked).await {
                            Ok(asked) => asked,
                            Err(_) => {
                                self.make_ready(found).await.map_err(|e| step(ERR_IMAGE_PULL, &e))?;
                                self.bring_nonetheless(&reference, found, wanted);
                                return Ok(late(found, patience));
                            }
                        },
                        _ => asked.await,
                    };
                    match (asked, found) {
                        (
                            Some(Err(Refusal::Failed { failure, .. } | Refusal::Pausing { failure, .. })),
                            Some(found),
                        ) if failure.unreachable => {
                            self.make_ready(&found).await.map_err(|e| step(ERR_IMAGE_PULL, &e))?;
                            let message = format!(
                                "imagePullPolicy is Always, but {}: {} is used as it is on this node",
                                failure.message, found.name
                            );
                            return Ok(Prepared::NotRefreshed { message });
                        }
                        (asked, _) => asked,
                    }
                }
                Way::Pull | Way::Refuse if unread => {
                    return Err(StepError::waiting(format!(
                        "image {reference} is not on this node; waiting for the image directory's first reading"
                    )));
                }
                Way::Pull => self.pulled(&reference, None, &mut imported, &news).await,
                Way::Refuse => return Err(self.absent(&reference).await),
            };
            match pulled {
                // An archive has brought something: perhaps this.
                None => {}
                Some(Err(refusal)) => return Err(self.refused(&reference, image, refusal).await),
                Some(Ok(arrived)) => {
                    let Some(found) = self.find(&reference).await? else { continue };
                    self.make_ready(&found).await.map_err(|e| step(ERR_IMAGE_PULL, &e))?;
                    let Some((size, took)) = arrived.brought else { return Ok(Prepared::AsAsked) };
                    let (took, waited) = (took.as_secs_f64(), begun.elapsed().as_secs_f64());
                    let message = format!(
                        "Successfully pulled image \"{}\" in {took:.3}s ({waited:.3}s including waiting). Image size: {size} bytes.",
                        image
                    );
                    return Ok(Prepared::Pulled { message });
                }
            }
        }
    }

    /// None when an archive was imported meanwhile.
    async fn pulled(
        &self,
        reference: &Reference,
        here: Option<&Digest>,
        imported: &mut watch::Receiver<u64>,
        news: &Once<'_>,
    ) -> Option<Result<Arrived, Refusal>> {
        let secrets = self.logins(news.wanted.namespace, news.wanted.secrets);
        if !secrets.missing.is_empty() {
            news.missing(&secrets.missing);
        }
        let ask = Ask { reference, written: news.wanted.image, here, secrets: &secrets };
        // Either may be dropped: the pull itself goes on for a while, and the counter keeps what it was told.
        tokio::select! {
            biased;
            pulled = self.pull(ask, |said| match said {
                PullNews::Fetching => news.pulling(),
                PullNews::Progress(words) => (news.wanted.news)(ImageNews::Progress(words)),
            }) => Some(pulled),
            Ok(()) = imported.changed() => None,
        }
    }

    /// What the registry has newer is there for the next start then. One try, which ends by itself.
    fn bring_nonetheless(&self, reference: &Reference, found: &Found, wanted: ImageWanted<'_>) {
        let (images, reference, here) = (self.clone(), reference.clone(), found.target.clone());
        let (written, secrets) = (wanted.image.to_owned(), self.logins(wanted.namespace, wanted.secrets));
        tokio::spawn(async move {
            let ask = Ask { reference: &reference, written: &written, here: Some(&here), secrets: &secrets };
            // How it ends is in the log, and in `get images` meanwhile.
            let _ = Box::pin(images.pull(ask, |_| ())).await;
        });
    }

    /// What running needs to know of an image, by the name as a manifest writes it. The image must be prepared.
    pub async fn facts(&self, image: &str) -> Result<ImageFacts, StepError> {
        let reference = parse(image)?;
        let Some(found) = self.find(&reference).await? else {
            let message = format!("image {reference} is not on this node any more");
            return Err(StepError::new(ERR_IMAGE_PULL, message));
        };
        let resolved = self.resolve(&found.name, &found.target).await.map_err(|e| step(IMAGE_INSPECT_ERROR, &e))?;
        Ok(ImageFacts {
            name: found.name,
            digest: resolved.manifest.to_string(),
            chain_id: resolved.chain_id.as_ref().map(Digest::to_string).unwrap_or_default(),
            config: resolved.run.clone(),
        })
    }

    pub(super) async fn make_ready(&self, found: &Found) -> Result<(), ImageError> {
        let resolved = self.resolve(&found.name, &found.target).await?;
        if self.is_unpacked(&resolved).await? {
            return Ok(());
        }
        self.unpack(&found.name, &resolved).await
    }

    /// The record of this name, or of any name with this digest.
    pub(super) async fn find(&self, reference: &Reference) -> Result<Option<Found>, StepError> {
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
        let Some(record) = record else { return Ok(None) };
        let lies = record.labels.get(ARCHIVES_LABEL).is_some_and(|stamps| self.lies(stamps));
        let Some(target) = record.target else { return Ok(None) };
        let target = target.digest.parse::<Digest>().map_err(|e| {
            StepError::new(IMAGE_INSPECT_ERROR, format!("image {name} has a target that is not understood: {e}"))
        })?;
        Ok(Some(Found { name, target, lies }))
    }

    /// Whether one of these archives lies in the image directory; before that was looked at, each may.
    pub(super) fn lies(&self, stamps: &str) -> bool {
        let lying = self.shared.lying.lock().unwrap_or_else(PoisonError::into_inner);
        lying.as_ref().is_none_or(|lying| stamps.lines().any(|stamp| lying.contains(stamp)))
    }

    async fn absent(&self, reference: &Reference) -> StepError {
        let offered = self.offered(reference).await;
        let message = format!("image {reference} is not on this node and imagePullPolicy is Never; {offered}");
        StepError::new(ERR_IMAGE_NEVER_PULL, message)
    }

    async fn refused(&self, reference: &Reference, written: &str, refusal: Refusal) -> StepError {
        let (reason, failure, wait) = match refusal {
            Refusal::Failed { failure, wait } => (ERR_IMAGE_PULL, failure, wait.map(|wait| wait.min(FAILURE_SHOWN))),
            Refusal::Pausing { failure, wait } => (IMAGE_PULL_BACK_OFF, failure, Some(wait)),
        };
        if failure.unavailable {
            return StepError::unavailable(reason, failure.message);
        }
        let offered = self.offered(reference).await;
        let what = match reason {
            IMAGE_PULL_BACK_OFF => format!("Back-off pulling image \"{written}\": {ERR_IMAGE_PULL}: "),
            _ => String::new(),
        };
        let message = format!(
            "{what}{}; an OCI or docker archive with this name in the image directory would do too; {offered}",
            failure.message
        );
        StepError { wait, ..StepError::new(reason, message) }
    }

    async fn offered(&self, reference: &Reference) -> String {
        match store::images(self.client(), None).await {
            Ok(images) => offered(reference, images.into_iter().map(|i| i.name).collect()),
            Err(_) => "images known: could not be asked for".to_owned(),
        }
    }
}

/// An image record.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// As it is shown: the reference's own.
    name: String,
    pub(super) target: Digest,
    /// An archive that brought it lies in the image directory.
    pub(super) lies: bool,
}

/// What to do for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What is here is used.
    Use,
    /// What is here is used if its name still means it.
    Ask,
    Pull,
    Refuse,
}

/// `here`: whether an image of this name is here, and then whether its archive lies in the image directory, which is the
/// first way in: its name means what lies there. A digest cannot mean anything newer.
fn way(policy: PullPolicy, reference: &Reference, here: Option<bool>) -> Way {
    match (policy, here) {
        (PullPolicy::Always, Some(false)) if reference.digest().is_none() => Way::Ask,
        (_, Some(_)) => Way::Use,
        (PullPolicy::Never, None) => Way::Refuse,
        (PullPolicy::Always | PullPolicy::IfNotPresent, None) => Way::Pull,
    }
}

/// Of an image that is used unasked.
fn as_it_is(policy: PullPolicy, reference: &Reference, found: &Found) -> Prepared {
    if policy != PullPolicy::Always || reference.digest().is_some() || !found.lies {
        return Prepared::AsAsked;
    }
    Prepared::NotRefreshed {
        message: format!(
            "imagePullPolicy is Always, but no registry is asked for what lies in the image directory: {} is used as it \
             is on this node",
            found.name
        ),
    }
}

/// Of an image whose registry has not answered in time.
fn late(found: &Found, patience: Duration) -> Prepared {
    Prepared::NotRefreshed {
        message: format!(
            "imagePullPolicy is Always, but its registry has neither answered nor brought what is newer within {:?}, and a container \
             that has run does not wait longer: {} is used as it is on this node",
            patience, found.name
        ),
    }
}

/// Tells each kind of news once, however often the wait for an image begins anew.
struct Once<'a> {
    wanted: ImageWanted<'a>,
    pulling: AtomicBool,
    missing: AtomicBool,
}

impl<'a> Once<'a> {
    fn new(wanted: ImageWanted<'a>) -> Once<'a> {
        Once { wanted, pulling: AtomicBool::new(false), missing: AtomicBool::new(false) }
    }

    fn pulling(&self) {
        if !self.pulling.swap(true, Ordering::Relaxed) {
            (self.wanted.news)(ImageNews::Pulling);
        }
    }

    fn missing(&self, names: &[String]) {
        if !self.missing.swap(true, Ordering::Relaxed) {
            (self.wanted.news)(ImageNews::SecretsMissing(names.to_vec()));
        }
    }
}

fn parse(image: &str) -> Result<Reference, StepError> {
    image.parse().map_err(|e: super::reference::InvalidReference| StepError::new(INVALID_IMAGE_NAME, e.to_string()))
}

fn step(reason: &'static str, error: &ImageError) -> StepError {
    StepError { unavailable: error.is_unavailable(), ..StepError::new(reason, error.sentence()) }
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
    fn the_registry_is_asked_by_policy_and_never_for_what_lies_in_the_image_directory() {
        let tag: Reference = "a.b/c:1".parse().unwrap();
        let pinned: Reference = format!("a.b/c:1@sha256:{}", "0".repeat(64)).parse().unwrap();
        let (pulled, lies) = (Some(false), Some(true));
        for (policy, reference, here, expected) in [
            (PullPolicy::IfNotPresent, &tag, None, Way::Pull),
            (PullPolicy::IfNotPresent, &tag, pulled, Way::Use),
            (PullPolicy::Never, &tag, None, Way::Refuse),
            (PullPolicy::Never, &tag, pulled, Way::Use),
            (PullPolicy::Always, &tag, None, Way::Pull),
            (PullPolicy::Always, &tag, pulled, Way::Ask),
            (PullPolicy::Always, &tag, lies, Way::Use),
            (PullPolicy::Always, &pinned, None, Way::Pull),
            (PullPolicy::Always, &pinned, pulled, Way::Use),
        ] {
            assert_eq!(way(policy, reference, here), expected, "{policy:?} {reference} {here:?}");
        }
    }

    #[test]
    fn only_always_of_a_name_that_may_move_is_not_refreshed() {
        let of = |image: &str, policy| {
            let found = Found { name: image.into(), target: Digest::of(b""), lies: true };
            as_it_is(policy, &image.parse().unwrap(), &found)
        };
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
