//! One request from its first line to its answer: whose it is, what it is about, whether it may be, and only then what it is for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::connection::Peer;
use super::query::Query;
use super::reply::{self, JSON, Reply};
use super::request::{Resource, Target, Verb};
use super::verbs::Call;
use super::{Door, acting, body, health, places};
use crate::api::error::ApiError;
use crate::api::kinds::{self, Kind};
use crate::door::audit;
use crate::door::identity::Identity;
use crate::door::rules::{Attributes, node};

/// Reading a body and answering; watches and logs go on from there.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

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
    let reply = answered.unwrap_or_else(|error| reply::error(&error, pretty));
    if let Some(unsent) = reply::unsent(&reply) {
        // A connection that has ended is not kept among those that there are.
        let peer = Arc::downgrade(&peer);
        tokio::spawn(async move {
            let (begun, mut before) = (Instant::now(), 0);
            loop {
                tokio::time::sleep(reply::UNREAD_TIME_MAX).await;
                let Some(unsent) = unsent.upgrade() else { return };
                let moves = unsent.moves();
                if moves == before {
                    // A stream whose client reads nothing can only be ended with its connection.
                    if let Some(peer) = peer.upgrade() {
                        peer.cut();
                    }
                    return;
                }
                before = moves;
                if begun.elapsed() >= reply::SEND_TIME_MAX {
                    unsent.give_up();
                }
            }
        });
    }
    reply
}

async fn answered(
    door: &Arc<Door>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
    query: Query,
    pretty: bool,
) -> Result<Reply, ApiError> {
    let (head, incoming) = request.into_parts();
    let path = head.uri.path();
    let (headers, method) = (&head.headers, &head.method);
    let (limits, address, now) = (&door.limits, peer.address.ip(), Instant::now());
    let (by_certificate, by_token) = (!peer.certificates.is_empty(), headers.contains_key(AUTHORIZATION));
    // Probes come without a credential, and while everything else is busy or the store is down. A credential that nobody has looked at is none.
    let is_probe = is_read(method) && health::is_place(path);
    if !by_certificate && (!by_token || is_probe) {
        limits.of_nobody(address, now)?;
    }
    if is_probe && let Some(reply) = health::answer(&door.checks, path, &query).await {
        return Ok(reply);
    }
    let token = headers.get(AUTHORIZATION).filter(|_| !by_certificate).map(|shown| limits.mark(shown.as_bytes()));
    if let Some(token) = token {
        limits.may_try(address, token, now)?;
    }
    let who = async { door.authenticator.who(&peer.certificates, bearer(headers)?).await };
    let who = who.await;
    let is_good = who.as_ref().map_or_else(|error| (error.code == 401).then_some(false), |_| Some(true));
    if let (Some(token), Some(is_good)) = (token, is_good) {
        limits.tried(address, token, is_good, now);
    }
    let user = who?;
    if by_certificate || by_token {
        limits.of_user(&user.name, now)?;
        peer.known(&user)?;
    }
    let place = limits.request(&user, address)?;
    let (sender, user) = match acting::wanted(headers)? {
        None => (None, user),
        Some(wanted) => {
            let asked = Attributes {
                verb: "impersonate",
                resource: "users",
                name: &wanted.name.clone(),
                ..Attributes::default()
            };
            match door.authorizer.act_as(&user, wanted).await {
                Ok(other) => (Some(user), other),
                Err(error) => {
                    audit::write((&user, None), &asked, peer.address.ip(), error.code);
                    return Err(error);
                }
            }
        }
    };
    let target = Target::of(path).map_err(ApiError::bad_request)?;
    let resource = match target {
        Target::Path(path) => {
            let verb = method.as_str().to_ascii_lowercase();
            places::may(door, &user, &verb, &path).await?;
            if !is_read(method) {
                return Err(ApiError::method_not_allowed());
            }
            let mut reply = places::answer(door, &path, &query, headers, pretty).await?;
            reply::hold(&mut reply, place);
            return Ok(reply);
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
    let who = sender.as_ref().map_or((&user, None), |sender| (sender, Some(&user)));
    let mut line = verb.writes().then(|| Line { who, asked: &attributes, from: address, code: audit::CUT_OFF });
    let result = async {
        door.authorizer.check(&user, &attributes, kind).await?;
        let Some(kind) = kind else {
            let custom =
                is_custom(&resource, verb).then(|| reply::json(StatusCode::OK, JSON, &no_custom_kinds(), pretty));
            return custom.ok_or_else(ApiError::no_such_resource);
        };
        offered(kind, &resource, verb)?;
        let body = match user.node() {
            _ if !verb.writes() => bytes::Bytes::new(),
            Some(node) => {
                limits.of_node(node, now)?;
                body::read(headers, incoming, node::SAID_MAX).await?
            }
            None => body::read(headers, incoming, body::BODY_MAX).await?,
        };
        let call =
            Call { door, kind, resource: &resource, query: &query, headers, body, user: &user, verb, peer, pretty };
        call.carry_out(place).await
    }
    .await;
    if let Some(line) = &mut line {
        line.code = result.as_ref().map_or_else(|error| error.code, |reply| reply.status().as_u16());
    }
    result
}

/// The audit line of a write: written however it ends. Who goes away before the answer has perhaps had what he wanted.
struct Line<'a> {
    who: (&'a Identity, Option<&'a Identity>),
    asked: &'a Attributes<'a>,
    from: IpAddr,
    code: u16,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        audit::write(self.who, self.asked, self.from, self.code);
    }
}

/// kubectl asks it about every kind that it does not find, before it says that there is none.
fn is_custom(resource: &Resource, verb: Verb) -> bool {
    let of = (resource.group.as_str(), resource.version.as_str(), resource.resource.as_str());
    of == ("apiextensions.k8s.io", "v1", "customresourcedefinitions") && verb == Verb::List
}

fn no_custom_kinds() -> Value {
    json!({ "kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": { "resourceVersion": "1" }, "items": [] })
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
