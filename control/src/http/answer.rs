//! One request from its first line to its answer: whose it is, what it is about, whether it may be, and only then what it is for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderName, USER_AGENT};
use hyper::{Method, Request};
use rustls::pki_types::CertificateDer;

use super::query::Query;
use super::reply::{self, Reply};
use super::request::{Resource, Target, Verb};
use super::verbs::Call;
use super::{Door, body, health, places};
use crate::api::error::ApiError;
use crate::api::kinds::{self, Kind};
use crate::door::audit;
use crate::door::rules::Attributes;

/// Reading a body and answering; watches and logs go on from there.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Acting as somebody else. Whoever asks for it means less than his own rights, so it is refused and not passed over.
const IMPERSONATE: HeaderName = HeaderName::from_static("impersonate-user");

/// Who is on the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// As TLS has verified it; empty without one.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// A request's header as text; empty where there is none.
pub fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Never fails: what goes wrong is a Status.
pub async fn answer(door: Arc<Door>, peer: Arc<Peer>, request: Request<Incoming>) -> Reply {
    let query = Query::of(request.uri().query().unwrap_or_default());
    let pretty = query.truth("pretty")
        || (query.get("pretty").is_none() && header(request.headers(), &USER_AGENT).starts_with("curl/"));
    let answered = match tokio::time::timeout(ANSWER_TIME_MAX, answered(&door, &peer, request, query, pretty)).await {
        Ok(answered) => answered,
        Err(_) => Err(ApiError {
            code: 504,
            reason: "Timeout",
            message: format!("Timeout: request did not complete within {} s", ANSWER_TIME_MAX.as_secs()),
            details: None,
        }),
    };
    answered.unwrap_or_else(|error| reply::error(&error, pretty))
}

async fn answered(
    door: &Arc<Door>,
    peer: &Peer,
    request: Request<Incoming>,
    query: Query,
    pretty: bool,
) -> Result<Reply, ApiError> {
    let (head, incoming) = request.into_parts();
    let path = head.uri.path();
    let (headers, method) = (&head.headers, &head.method);
    let bearer = bearer(headers)?;
    let shows_nothing = peer.certificates.is_empty() && bearer.is_none();
    if shows_nothing {
        door.limits.count(&peer.address.ip().to_string(), false, Instant::now())?;
    }
    // Probes come without a credential, and while everything else is busy or the store is down.
    if is_read(method)
        && let Some(reply) = health::answer(&door.checks, path, &query).await
    {
        return Ok(reply);
    }
    let place = door.limits.request()?;
    let user = door.authenticator.who(&peer.certificates, bearer).await?;
    if !shows_nothing {
        door.limits.count(&user.name, true, Instant::now())?;
    }
    if headers.contains_key(IMPERSONATE) {
        return Err(ApiError::bad_request("acting as another user is not offered here: send the request without --as"));
    }
    let target = Target::of(path).map_err(ApiError::bad_request)?;
    let resource = match target {
        Target::Path(path) => {
            let verb = method.as_str().to_ascii_lowercase();
            places::may(door, &user, &verb, &path).await?;
            if !is_read(method) {
                return Err(ApiError::method_not_allowed());
            }
            return places::answer(door, &path, &query, header(headers, &ACCEPT), header(headers, &HOST), pretty).await;
        }
        Target::Resource(resource) => resource,
    };
    let verb = Verb::of(method, &resource, &query).ok_or_else(ApiError::method_not_allowed)?;
    let kind = kinds::by_resource(&resource.group, &resource.version, &resource.resource);
    let name = named(&resource, verb, &query);
    let attributes = Attributes {
        verb: verb.name(),
        group: &resource.group,
        resource: &resource.resource,
        subresource: &resource.subresource,
        namespace: &resource.namespace,
        name: &name,
        path,
        selector: query.get("fieldSelector").unwrap_or_default(),
    };
    let result = async {
        door.authorizer.check(&user, &attributes, kind).await?;
        let kind = kind.ok_or_else(ApiError::no_such_resource)?;
        offered(kind, &resource, verb)?;
        let body = if verb.writes() { body::read(headers, incoming).await? } else { bytes::Bytes::new() };
        let call = Call { door, kind, resource: &resource, query: &query, headers, body, user: &user, pretty };
        call.carry_out(verb, place).await
    }
    .await;
    if verb.writes() {
        let code = result.as_ref().map_or_else(|error| error.code, |reply| reply.status().as_u16());
        audit::write(&user, &attributes, peer.address.ip(), code);
    }
    result
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// What follows `Bearer`. Error: 401, there is a header and it is something else.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.filter(|token| !token.is_empty()).map(Some).ok_or_else(ApiError::unauthorized)
}

/// The object's name; of a list or watch, that of the one object that its selector means.
fn named(resource: &Resource, verb: Verb, query: &Query) -> String {
    let selector = query.get("fieldSelector").unwrap_or_default();
    let one = selector.strip_prefix("metadata.name=").map(|name| name.trim_start_matches('='));
    match (verb, one) {
        (Verb::List | Verb::Watch, Some(name)) if resource.name.is_empty() && !name.contains(',') => name.to_owned(),
        _ => resource.name.clone(),
    }
}

/// Whether the kind has this path and verb. Errors: 404, 405.
fn offered(kind: &'static Kind, resource: &Resource, verb: Verb) -> Result<(), ApiError> {
    let in_namespace = !resource.namespace.is_empty() && resource.resource != "namespaces";
    let all_namespaces = matches!(verb, Verb::List | Verb::Watch) && resource.name.is_empty();
    if in_namespace && !kind.namespaced || kind.namespaced && !in_namespace && !all_namespaces {
        return Err(ApiError::no_such_resource());
    }
    let verbs = match resource.subresource.as_str() {
        "" => kind.verbs,
        sub => kind.subresource(sub).ok_or_else(ApiError::no_such_resource)?.verbs,
    };
    if verbs.contains(&verb.name()) { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}
