//! Objects that are changed by a patch.

use serde_json::Value;

use super::create::Owners;
use super::fields::identify;
use super::update::{Draft, TRIES, Target, Tried};
use super::{Objects, Patch, WriteOptions, Written, meta};
use crate::api::apply::{self, Force};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::patch;
use crate::api::quantity;

impl Objects {
    /// Changes an object; what another writes meanwhile is no conflict, unless the patch names a resourceVersion. An apply creates what is not there.
    pub async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: &str,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let target = Target { kind, namespace, name, sub };
        target.check("patch")?;
        if matches!(patch, Patch::Apply { .. }) && options.manager.is_empty() {
            let mut error = ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            );
            error.code = 422;
            error.reason = "Invalid";
            return Err(error);
        }
        for _ in 0..TRIES {
            let Some(current) = self.current(kind, namespace, name).await? else {
                match &patch {
                    Patch::Apply { configuration, .. } if sub.is_empty() => {
                        match self.apply_new(target, configuration, options).await {
                            Err(error) if error.is_already_exists() => continue,
                            other => return other,
                        }
                    }
                    _ => return Err(ApiError::not_found(kind, name)),
                }
            };
            let draft = self.draft(target, &current.object, &patch, options)?;
            if let Tried::Written(written) = self.replace(target, current, draft, options).await? {
                return Ok(written);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    fn draft(&self, target: Target<'_>, old: &Value, patch: &Patch, options: &WriteOptions) -> Result<Draft, ApiError> {
        let noted = |object| Draft { object, owners: Owners::ToBeNoted };
        Ok(match patch {
            Patch::Json(operations) => noted(patch::json(old, operations)?),
            Patch::Merge(changes) => noted(patch::merge(old, changes)),
            Patch::Strategic(changes) => noted(patch::strategic(old, changes, target.kind.schema)?),
            Patch::Apply { configuration, force } => {
                let mut configuration = configuration.clone();
                identify(target.kind, target.namespace, target.name, &mut configuration)?;
                // `0.5` is no other's `500m` changed.
                quantity::canonical_in(&mut configuration);
                let force = if *force { Force::Yes } else { Force::No };
                let noted = self.writer(target.kind, target.sub, options);
                // What the configuration says of the revision is a condition; it is nobody's field.
                let given = meta::text(&configuration, "resourceVersion").to_owned();
                if !given.is_empty() && given != meta::text(old, "resourceVersion") {
                    return Err(ApiError::modified(target.kind, target.name));
                }
                let object = apply::apply(Some(old), &configuration, &noted.as_writer(), force)?;
                Draft { object, owners: Owners::Noted }
            }
        })
    }

    async fn apply_new(
        &self,
        target: Target<'_>,
        configuration: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let Target { kind, namespace, name, sub } = target;
        if !meta::text(configuration, "resourceVersion").is_empty() {
            return Err(ApiError::conflict(kind, name, "the object does not exist: leave out its resourceVersion"));
        }
        let mut configuration = configuration.clone();
        identify(kind, namespace, name, &mut configuration)?;
        quantity::canonical_in(&mut configuration);
        let noted = self.writer(kind, sub, options);
        let object = apply::apply(None, &configuration, &noted.as_writer(), Force::No)?;
        self.create_from(kind, namespace, object, options, Owners::Noted).await
    }
}
