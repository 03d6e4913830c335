//! What people ask of images: a pull whoever needs it, an import of one file.
//!
//! Driven by the words `images pull` and `images import`, on the ways that pods and the image directory use too.

use std::path::Path;
use std::time::Duration;

use super::bundle::BundledImage;
use super::import::ARCHIVES_LABEL;
use super::pull::{Ask, Refusal};
use super::reference::Reference;
use super::{ImageError, Images};
use crate::seams::{Import, StepError};

/// An image that is here as its name means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// Canonical.
    pub name: String,
    pub digest: String,
    /// Bytes, and for how long they were fetched; None: what was here is what the name still means.
    pub brought: Option<(u64, Duration)>,
}

impl Images {
    /// Pulls the image now, with the node's own credentials and those in `secrets` of the namespace, and unpacks it. Err in words.
    /// Dropped, it is not wanted any more.
    pub async fn pull_by_hand(
        &self,
        written: &str,
        reference: &Reference,
        (namespace, secrets): (&str, &[String]),
    ) -> Result<ByHand, String> {
        let logins = self.logins(namespace, secrets);
        if !logins.missing.is_empty() {
            return Err(format!(
                "no login can be read from these Secrets of namespace {namespace}: {}; the agent knows those of the types dockerconfigjson and \
                 dockercfg that lie in the manifest directory (daemonlet get files shows them)",
                logins.missing.join(", ")
            ));
        }
        let words = |error: StepError| error.message;
        let found = self.find(reference).await.map_err(words)?;
        if found.as_ref().is_some_and(|found| found.lies) {
            return Err(format!(
                "{reference} lies in the image directory, which comes before any registry; remove its archive there first \
                 (daemonlet get images shows it)"
            ));
        }
        let whole = match &found {
            Some(found) => self.make_ready(found).await.is_ok(),
            None => false,
        };
        let here = found.as_ref().filter(|_| whole).map(|found| &found.target);
        // Who asks by hand does not wait for the end of a pause.
        self.shared.pulls.try_again_now(&reference.record_name());
        let ask = Ask { reference, written, here, secrets: &logins };
        let arrived = self.pull(ask, |_| ()).await.map_err(|refusal| match refusal {
            Refusal::Failed { failure, .. } | Refusal::Pausing { failure, .. } => failure.message,
        })?;
        let gone = || format!("{reference} was removed while it was pulled; pull it again");
        let found = self.find(reference).await.map_err(words)?.ok_or_else(gone)?;
        self.make_ready(&found).await.map_err(|error| error.sentence())?;
        Ok(ByHand { name: reference.record_name(), digest: found.target.to_string(), brought: arrived.brought })
    }

    /// Imports an archive that lies anywhere. What an archive of the image directory claims is not changed by it.
    pub async fn import_by_hand(&self, archive: &Path) -> Result<Import, ImageError> {
        let import = self.import_archive(archive, NO_STAMP).await?;
        self.shared.arrived.notify_one();
        Ok(import)
    }

    /// The name of this image under which an archive in the image directory has brought another.
    pub(super) async fn claimed_otherwise(&self, image: &BundledImage) -> Result<Option<String>, ImageError> {
        for name in &image.names {
            let Some(record) = self.record_of(name).await? else { continue };
            let lies = record.labels.get(ARCHIVES_LABEL).is_some_and(|stamps| self.lies(stamps));
            if lies && record.target.is_none_or(|here| here.digest != image.target.digest.as_str()) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }
}

/// The stamp of an archive that is not of the image directory.
pub const NO_STAMP: &str = "";
