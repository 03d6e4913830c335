//! The paths that are no object's: discovery, the OpenAPI documents, the version, metrics, and the keys of tokens.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::accept::{self, Accept, OFFERED};
use super::query::Query;
use super::reply::{self, JSON, Reply};
use super::{Door, discovery, metrics};
use crate::api::error::ApiError;
use crate::api::openapi;
use crate::door::identity::Identity;
use crate::door::rules::Attributes;

/// What old clients ask for.
const OPENAPI_V2_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What they can read the name of in an answer: `@` is none of a media type's letters.
const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What anybody may see: who cannot be known yet has to be able to find out what he talks to.
const OPEN: &[&str] = &["/version", "/version/"];

/// Whether this user may see it. Error: 403.
pub async fn may(door: &Door, user: &Identity, verb: &str, path: &str) -> Result<(), ApiError> {
    if OPEN.contains(&path) && verb == "get" {
        return Ok(());
    }
    let attributes = Attributes { verb, path, ..Attributes::default() };
    door.authorizer.check(user, &attributes, None).await
}

/// The document at a path. `host`: where the client reached us.
pub async fn answer(
    door: &Arc<Door>,
    path: &str,
    query: &Query,
    accepts: &str,
    host: &str,
    pretty: bool,
) -> Result<Reply, ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let found = match parts.as_slice() {
        ["openapi", "v2"] => return openapi_v2(accepts, pretty).await,
        ["openapi", "v3"] => Some(openapi::index()),
        ["openapi", "v3", rest @ ..] => return openapi_v3(rest, query, pretty).await,
        ["metrics"] => return metrics::answer(&door.objects).await,
        ["api" | "apis"] => return groups(parts == ["api"], accepts, host, pretty),
        ["api", version] => discovery::resources("", version),
        ["apis", group] => discovery::group(group),
        ["apis", group, version] => discovery::resources(group, version),
        ["version"] => Some(version()),
        [] => Some(json!({ "paths": PATHS })),
        ["openid", "v1", "jwks"] => Some(door.authenticator.accounts().public_keys()),
        [".well-known", "openid-configuration"] => Some(door.authenticator.accounts().configuration()),
        _ => None,
    };
    let found = found.ok_or_else(ApiError::no_such_resource)?;
    accept::accept(accepts).ok_or_else(|| ApiError::not_acceptable(OFFERED))?;
    Ok(reply::json(StatusCode::OK, JSON, &found, pretty))
}

const PATHS: &[&str] =
    &["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];

fn groups(is_core: bool, accepts: &str, host: &str, pretty: bool) -> Result<Reply, ApiError> {
    match accept::accept(accepts) {
        None => Err(ApiError::not_acceptable(OFFERED)),
        Some(Accept::Discovery { version }) => {
            let document = discovery::aggregated(is_core, version);
            Ok(reply::json(StatusCode::OK, discovery::aggregated_type(version), &document, pretty))
        }
        Some(_) => {
            let document = if is_core { discovery::versions(host) } else { discovery::groups() };
            Ok(reply::json(StatusCode::OK, JSON, &document, pretty))
        }
    }
}

/// What kubectl compares its own version with.
fn version() -> Value {
    let (major, minor) = openapi::KUBERNETES_RELEASE;
    let platform = format!("{}/{}", std::env::consts::OS, platform());
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": openapi::KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": platform,
    })
}

/// As Go names it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn openapi_v2(accepts: &str, pretty: bool) -> Result<Reply, ApiError> {
    if [OPENAPI_V2_ASKED, OPENAPI_V2].iter().any(|media| accept::names(accepts, media)) {
        return Ok(reply::bytes(StatusCode::OK, OPENAPI_V2, made(openapi::v2_protobuf).await?));
    }
    accept::accept(accepts).ok_or_else(|| ApiError::not_acceptable(&format!("{OFFERED}, {OPENAPI_V2}")))?;
    let document = made(openapi::v2).await?;
    Ok(reply::json(StatusCode::OK, JSON, &document, pretty))
}

async fn openapi_v3(parts: &[&str], query: &Query, pretty: bool) -> Result<Reply, ApiError> {
    let (group, version) = match parts {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(ApiError::no_such_resource()),
    };
    let (group, version) = (group.to_owned(), version.to_owned());
    let document = made(move || openapi::v3(&group, &version)).await?.ok_or_else(ApiError::no_such_resource)?;
    let mut reply = reply::json(StatusCode::OK, JSON, &document, pretty);
    let hash = openapi::hash();
    let headers = reply.headers_mut();
    // What was asked for by its content may be kept for ever.
    if query.get("hash") == Some(hash.as_str()) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        headers.insert(ETAG, tag);
    }
    Ok(reply)
}

/// Makes a large document where it is in nobody's way.
async fn made<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    // One after the other: they share their threads with all who read the store.
    static TURN: Semaphore = Semaphore::const_new(1);
    let _turn = TURN.acquire().await.map_err(|error| ApiError::internal(error.to_string()))?;
    tokio::task::spawn_blocking(make).await.map_err(|error| ApiError::internal(error.to_string()))
}
