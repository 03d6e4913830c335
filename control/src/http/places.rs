//! The paths that are no object's: discovery, the OpenAPI documents, the version, metrics, and the keys of tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT, CACHE_CONTROL, ETAG, HOST, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::accept::{self, Accept, OFFERED};
use super::answer::header;
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

/// The document at a path.
pub async fn answer(
    door: &Arc<Door>,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
    pretty: bool,
) -> Result<Reply, ApiError> {
    let (accepts, host) = (header(headers, &ACCEPT), header(headers, &HOST));
    let has = header(headers, &IF_NONE_MATCH);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let found = match parts.as_slice() {
        ["openapi", "v2"] => return openapi_v2(accepts, has, pretty).await,
        ["openapi", "v3"] => Some(openapi::index()),
        ["openapi", "v3", rest @ ..] => return openapi_v3(rest, query, has, pretty).await,
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

async fn openapi_v2(accepts: &str, has: &str, pretty: bool) -> Result<Reply, ApiError> {
    if [OPENAPI_V2_ASKED, OPENAPI_V2].iter().any(|media| accept::names(accepts, media)) {
        let make = || Some(openapi::v2_protobuf());
        return openapi("v2 protobuf".to_owned(), OPENAPI_V2, has, make).await;
    }
    accept::accept(accepts).ok_or_else(|| ApiError::not_acceptable(&format!("{OFFERED}, {OPENAPI_V2}")))?;
    openapi(format!("v2 {pretty}"), JSON, has, move || Some(reply::document(&openapi::v2(), pretty))).await
}

async fn openapi_v3(parts: &[&str], query: &Query, has: &str, pretty: bool) -> Result<Reply, ApiError> {
    let (group, version) = match parts {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Err(ApiError::no_such_resource()),
    };
    if discovery::resources(group, version).is_none() {
        return Err(ApiError::no_such_resource());
    }
    let name = format!("v3 {group} {version} {pretty}");
    let (group, version) = (group.to_owned(), version.to_owned());
    let make = move || Some(reply::document(&openapi::v3(&group, &version)?, pretty));
    let mut reply = openapi(name, JSON, has, make).await?;
    // What was asked for by its content may be kept for ever.
    if query.get("hash") == Some(openapi::hash().as_str()) {
        let for_ever = HeaderValue::from_static("public, immutable, max-age=31536000");
        reply.headers_mut().insert(CACHE_CONTROL, for_ever);
    }
    Ok(reply)
}

/// A large document, made where it is in nobody's way, or just a word that the client `has` it already. `name`: what tells it from others.
async fn openapi(
    name: String,
    media: &'static str,
    has: &str,
    make: impl FnOnce() -> Option<Vec<u8>> + Send + 'static,
) -> Result<Reply, ApiError> {
    let tag = format!("\"{}-{}\"", openapi::hash().to_lowercase(), name.replace(' ', "-"));
    let mut reply = match has.split(',').any(|has| has.trim().trim_start_matches("W/") == tag) {
        true => reply::not_modified(),
        false => reply::bytes(StatusCode::OK, media, made(&name, make).await?),
    };
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Ok(reply)
}

/// How long a document is kept for others who want the same: a kubectl asks once, and a thousand daemons that begin together ask together.
const KEPT: Duration = Duration::from_secs(20);
/// What was made of late.
static MADE: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());

fn kept() -> MutexGuard<'static, BTreeMap<String, Bytes>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn made(name: &str, make: impl FnOnce() -> Option<Vec<u8>> + Send + 'static) -> Result<Bytes, ApiError> {
    // One after the other: they share their threads with all who read the store. Who waits finds what the one before him has made.
    static TURN: Semaphore = Semaphore::const_new(1);
    if let Some(document) = kept().get(name) {
        return Ok(document.clone());
    }
    let _turn = TURN.acquire().await.map_err(|error| ApiError::internal(error.to_string()))?;
    if let Some(document) = kept().get(name) {
        return Ok(document.clone());
    }
    let made = tokio::task::spawn_blocking(make).await.map_err(|error| ApiError::internal(error.to_string()))?;
    let document = Bytes::from(made.ok_or_else(ApiError::no_such_resource)?);
    kept().insert(name.to_owned(), document.clone());
    let name = name.to_owned();
    tokio::spawn(async move {
        sleep(KEPT).await;
        kept().remove(&name);
    });
    Ok(document)
}
