//! The answers of the review kinds: whose token it is, who asks, and who may do what. They are answered and forgotten.

use serde_json::{Value, json};

use super::super::identity::{Authenticator, Identity};
use super::{Attributes, Authorizer};
use crate::api::error::{ApiError, Cause};
use crate::api::kinds::Kind;

/// Answers the review that `object` asks for; `namespace`: of the request, empty where the kind has none. `object` has been checked to be of the kind.
/// Errors: 422 where it asks for nothing; 503.
pub async fn review(
    doors: (&Authenticator, &Authorizer),
    kind: &Kind,
    namespace: &str,
    mut object: Value,
    user: &Identity,
) -> Result<Value, ApiError> {
    let (authenticator, authorizer) = doors;
    let spec = object["spec"].clone();
    let status = match kind.kind {
        "SelfSubjectReview" => json!({ "userInfo": user_info(user) }),
        "TokenReview" => token(authenticator, kind, &spec).await?,
        "SelfSubjectAccessReview" => access(authorizer, kind, &spec, user).await?,
        "SubjectAccessReview" => access(authorizer, kind, &spec, &subject(kind, &spec)?).await?,
        "LocalSubjectAccessReview" => {
            let asked = text(&spec["resourceAttributes"]["namespace"]);
            if asked != namespace {
                let why = format!("Invalid value: {asked:?}: must match metadata.namespace");
                return Err(invalid(kind, "spec.resourceAttributes.namespace", why));
            }
            access(authorizer, kind, &spec, &subject(kind, &spec)?).await?
        }
        "SelfSubjectRulesReview" => rules(authorizer, kind, &spec, user)?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    object["status"] = status;
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["creationTimestamp"] = Value::Null;
    // A token is not sent back to where it came from.
    if kind.kind == "TokenReview" {
        object["spec"].as_object_mut().and_then(|spec| spec.remove("token"));
    }
    Ok(object)
}

/// authentication/v1 UserInfo.
pub fn user_info(user: &Identity) -> Value {
    let mut shown = json!({ "username": user.name, "groups": user.groups });
    if let Some(uid) = &user.uid {
        shown["uid"] = json!(uid);
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

async fn token(authenticator: &Authenticator, kind: &Kind, spec: &Value) -> Result<Value, ApiError> {
    let token = text(&spec["token"]);
    if token.is_empty() {
        return Err(invalid(kind, "spec.token", "Required value: a token is required".into()));
    }
    let audiences = texts(&spec["audiences"]);
    match authenticator.accounts().who(token, &audiences).await {
        Ok((user, audiences)) => Ok(json!({ "authenticated": true, "user": user_info(&user), "audiences": audiences })),
        Err(error) if error.code == 401 => {
            Ok(json!({ "error": "the token is not good here, or not for these audiences" }))
        }
        Err(error) => Err(error),
    }
}

async fn access(authorizer: &Authorizer, kind: &Kind, spec: &Value, user: &Identity) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let asked = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            selector: text(&resource["fieldSelector"]["rawSelector"]),
            ..Attributes::default()
        },
        (false, true) => Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() },
        _ => {
            let why =
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid(kind, "spec.resourceAttributes", why.into()));
        }
    };
    let verdict = authorizer.may(user, &asked).await?;
    let mut status = json!({ "allowed": verdict.allowed });
    if !verdict.reason.is_empty() {
        status["reason"] = json!(verdict.reason);
    }
    Ok(status)
}

/// About whom a SubjectAccessReview asks.
fn subject(kind: &Kind, spec: &Value) -> Result<Identity, ApiError> {
    let groups = texts(&spec["groups"]);
    let name = text(&spec["user"]).to_owned();
    if name.is_empty() && groups.is_empty() {
        return Err(invalid(
            kind,
            "spec.user",
            "Invalid value: \"\": at least one of user or group must be specified".into(),
        ));
    }
    Ok(Identity { name, groups, ..Identity::default() })
}

fn rules(authorizer: &Authorizer, kind: &Kind, spec: &Value, user: &Identity) -> Result<Value, ApiError> {
    let namespace = text(&spec["namespace"]);
    if namespace.is_empty() {
        return Err(invalid(kind, "spec.namespace", "Required value: no namespace on request".into()));
    }
    let roles = authorizer.roles();
    let held = roles.held(user, namespace);
    let of_resources: Vec<Value> =
        held.iter().filter(|rule| !rule.resources.is_empty()).map(|rule| rule.to_resource_json()).collect();
    let of_paths: Vec<Value> = held
        .iter()
        .filter(|rule| !rule.urls.is_empty())
        .map(|rule| json!({ "verbs": rule.verbs, "nonResourceURLs": rule.urls }))
        .collect();
    // What a node may by being one is no rule that could be listed.
    let is_incomplete = user.node().is_some();
    Ok(json!({ "resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": is_incomplete }))
}

fn invalid(kind: &Kind, field: &str, message: String) -> ApiError {
    let reason = if message.starts_with("Required") { "FieldValueRequired" } else { "FieldValueInvalid" };
    ApiError::invalid(kind, "", vec![Cause::new(reason, field, message)])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}
