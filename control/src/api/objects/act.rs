//! What can be done with an object beside reading and writing it: create requests below its path.

use serde_json::{Value, json};

use super::create::{Owners, success};
use super::update::{Draft, TRIES, Target, Tried};
use super::{DeleteOptions, Objects, Preconditions, Propagation, WriteOptions, meta};
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::strategy::Action;

impl Objects {
    /// Does what a create request at a subresource asks for: `pods/eviction`, `pods/binding`. Gives the answer's body. 404 where it is another's to
    /// answer (`log`, `token`).
    pub async fn act(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let named = meta::text(&body, "name");
        if !named.is_empty() && named != name {
            let message = format!("the name in the body ({named}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(message));
        }
        match kind.strategy.action(sub).ok_or_else(ApiError::no_such_resource)? {
            Action::Evict => {
                let mut how = DeleteOptions::read(&body["deleteOptions"])?;
                how.dry_run |= options.dry_run;
                if let Some(guard) = &options.guard {
                    let object = self.get(kind, namespace, name).await?;
                    guard.check(kind, sub, &object, Some(&object)).await?;
                }
                let deleted = self.delete(kind, namespace, name, &how).await?;
                Ok(success(kind, name, meta::text(&deleted.object, "uid")))
            }
            Action::Bind => self.bind(Target { kind, namespace, name, sub }, &body, options).await,
        }
    }

    async fn bind(&self, target: Target<'_>, body: &Value, options: &WriteOptions) -> Result<Value, ApiError> {
        let Target { kind, namespace, name, .. } = target;
        let node = body["target"]["name"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value: the node's name"));
        }
        for _ in 0..TRIES {
            let found = self.current(kind, namespace, name).await?;
            let current = found.ok_or_else(|| ApiError::not_found(kind, name))?;
            let bound = current.object["spec"]["nodeName"].as_str().unwrap_or_default();
            if !bound.is_empty() || meta::is_ending(&current.object) {
                let why = match bound {
                    "" => format!("pod {name} is being deleted, cannot be assigned to a host"),
                    bound => format!("pod {name} is already assigned to node {bound:?}"),
                };
                return Err(ApiError::conflict(kind, name, &why));
            }
            let mut object = current.object.clone();
            object["spec"]["nodeName"] = json!(node);
            let draft = Draft { object, owners: Owners::ToBeNoted };
            if let Tried::Written(written) = self.replace(target, current, draft, options).await? {
                return Ok(success(kind, name, meta::text(&written.object, "uid")));
            }
        }
        Err(ApiError::modified(kind, name))
    }
}

impl DeleteOptions {
    /// A meta/v1 DeleteOptions; null: what goes without saying.
    pub fn read(body: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let named = text(&body["propagationPolicy"]);
        let mut propagation = named.as_deref().map(Propagation::of).transpose()?;
        match body["orphanDependents"].as_bool() {
            Some(_) if propagation.is_some() => {
                let message = "orphanDependents and propagationPolicy cannot be both set: leave the first out";
                return Err(ApiError::bad_request(message));
            }
            Some(true) => propagation = Some(Propagation::Orphan),
            Some(false) => propagation = Some(Propagation::Background),
            None => {}
        }
        let conditions = &body["preconditions"];
        Ok(DeleteOptions {
            grace: body["gracePeriodSeconds"].as_i64(),
            preconditions: Preconditions {
                uid: text(&conditions["uid"]),
                revision: text(&conditions["resourceVersion"]),
            },
            propagation,
            dry_run: is_dry_run(&body["dryRun"])?,
        })
    }
}

impl Propagation {
    /// As a request names it.
    pub fn of(name: &str) -> Result<Propagation, ApiError> {
        match name {
            "Background" => Ok(Propagation::Background),
            "Foreground" => Ok(Propagation::Foreground),
            "Orphan" => Ok(Propagation::Orphan),
            other => {
                let message = format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
                );
                Err(ApiError::bad_request(message))
            }
        }
    }
}

/// `dryRun: ["All"]`.
fn is_dry_run(value: &Value) -> Result<bool, ApiError> {
    match value.as_array().map(Vec::as_slice) {
        None | Some([]) => Ok(false),
        Some([all]) if all == "All" => Ok(true),
        Some(_) => Err(ApiError::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
    }
}
