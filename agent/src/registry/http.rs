//! One request to one host: clients, redirects, and what a bad answer means. Driven by [`super::visit`]; it knows no repositories and no
//! tokens, only that some headers are for one host alone.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
};
use reqwest::header::{LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
use rustls::RootCertStore;
use serde_json::Value;
use url::Url;

use super::Patience;
use super::error::Failure;
use super::hosts::{Endpoint, authority, is_loopback};
use super::names::Names;
use super::proxy::Routes;
use super::tls::{Material, TlsError, system_roots};

/// What browsers and Go follow; registries redirect once or twice.
const REDIRECTS_MAX: usize = 10;

/// Of the body of an error, which is JSON of some hundred bytes.
const ERROR_BODY_MAX: u64 = 8 << 10;

/// Of what a server says about an error, in an error of ours.
const MESSAGE_MAX: usize = 200;

/// Longer than this nobody wants to do nothing because a server said so.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// After that a client is made anew, so that changed authorities and resolvers count.
const CLIENT_LIFE: Duration = Duration::from_secs(600);

/// Different authorities, certificates and timeouts that are in use at once.
const CLIENTS_MAX: usize = 16;

const AGENT: &str = concat!("daemonlet/", env!("CARGO_PKG_VERSION"));

/// The clients that are open: one per set of TLS files and connect timeout, shared by all hosts that have the same.
#[derive(Default)]
pub struct Clients {
    open: BTreeMap<([u8; 32], Duration), (Client, Instant)>,
    roots: Option<(Arc<RootCertStore>, Instant)>,
}

/// Who is asked: a registry's host or its token service.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    pub client: &'a Client,
    pub url: &'a Url,
    /// Sent to the host of `url` and to no other that it redirects to.
    pub headers: &'a [(String, String)],
    pub connect: Duration,
}

/// What is asked.
pub struct Request<'a> {
    pub method: Method,
    pub url: Url,
    pub accept: &'static str,
    /// First byte wanted, 0 for all.
    pub from: u64,
    /// For the host's own origin only, like its headers.
    pub authorization: Option<&'a HeaderValue>,
    /// A form, sent by POST. It carries a secret and is never redirected.
    pub form: Option<String>,
}

/// What makes a client, and what identifies it.
pub struct ClientKey {
    material: Material,
    connect: Duration,
}

impl ClientKey {
    /// Reads the endpoint's files.
    pub fn of(endpoint: &Endpoint, patience: &Patience) -> Result<ClientKey, TlsError> {
        Ok(ClientKey {
            material: Material::read(&endpoint.tls)?,
            connect: endpoint.dial_timeout.unwrap_or(patience.connect),
        })
    }
}

impl Clients {
    /// May read the system's authorities: not on the loop's thread.
    pub fn get(&mut self, key: &ClientKey, routes: &Routes) -> Result<Client, TlsError> {
        let id = (key.material.fingerprint(), key.connect);
        let now = Instant::now();
        self.open.retain(|_, (_, made)| now.duration_since(*made) < CLIENT_LIFE);
        if let Some((client, _)) = self.open.get(&id) {
            return Ok(client.clone());
        }
        let roots = match &self.roots {
            Some((roots, read)) if now.duration_since(*read) < CLIENT_LIFE => roots.clone(),
            _ => Arc::new(system_roots()),
        };
        self.roots = Some((roots.clone(), now));
        let routes = routes.clone();
        let client = Client::builder()
            .tls_backend_preconfigured(key.material.config(&roots)?)
            .user_agent(AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(key.connect)
            .proxy(reqwest::Proxy::custom(move |url| routes.of(url)))
            .dns_resolver(Names::default())
            .build()
            .expect("the configuration has no part that could be wrong: TLS is made already, the rest is constant");
        if self.open.len() >= CLIENTS_MAX
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (_, made))| *made).map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.open.insert(id, (client.clone(), now));
        Ok(client)
    }

    /// Connections that are in use end with their streams.
    pub fn clear(&mut self) {
        self.open.clear();
        self.roots = None;
    }
}

/// Sends, follows redirects, and returns the last answer whatever its status.
pub async fn send(host: Host<'_>, request: &Request<'_>, patience: &Patience) -> Result<Response, Failure> {
    let mut url = request.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let mut sent = host.client.request(request.method.clone(), url.clone()).headers(headers(host, request, &url)?);
        if let Some(form) = &request.form {
            sent = sent.body(form.clone());
        }
        let bound = host.connect.saturating_add(patience.stall);
        let response = match tokio::time::timeout(bound, sent.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::Network { reason: describe(&error, &url, host.url) }),
            Err(_) => return Err(Failure::Stalled { time: bound }),
        };
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        if request.form.is_some() {
            return Err(Failure::Unusable { reason: "redirects a request that carries a secret".to_owned() });
        }
        url = redirected(&url, response.headers())?;
    }
    Err(Failure::Unusable { reason: format!("redirects more than {REDIRECTS_MAX} times") })
}

fn headers(host: Host<'_>, request: &Request<'_>, url: &Url) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(request.accept));
    // Bytes are counted and hashed as they are stored: no compression of the transport's own.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if request.from > 0 {
        headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={}-", request.from)).expect("digits are a value"));
    }
    if request.form.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    if url.origin() != host.url.origin() {
        return Ok(headers);
    }
    for (name, value) in host.headers {
        let invalid = || Failure::Unusable { reason: format!("header {name} of its hosts.toml cannot be sent") };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    if let Some(authorization) = request.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    Ok(headers)
}

/// Where a redirect leads. Never from TLS to plain text, except on this machine.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let unusable = |reason: String| Failure::Unusable { reason };
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| unusable("redirects to nowhere: its answer has no Location".to_owned()))?;
    let to = from.join(location).map_err(|_| unusable("redirects to something that is no URL".to_owned()))?;
    match to.scheme() {
        "https" => Ok(to),
        "http" if from.scheme() == "http" || (is_loopback(from) && is_loopback(&to)) => Ok(to),
        "http" => Err(unusable(format!("redirects from https to plain http at {}, which is refused", authority(&to)))),
        other => Err(unusable(format!("redirects to a URL of scheme {other}"))),
    }
}

/// The failure that a status stands for; none for a good one, and for 401 and 416, which have an answer. `masked`: texts that are not shown
/// even if the server repeats them.
pub async fn judge(response: Response, patience: &Patience, masked: &[String]) -> Result<Response, Failure> {
    let status = response.status();
    if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
        return match response.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                Err(Failure::Unusable { reason: "compresses its answer although it was asked not to".to_owned() })
            }
            _ => Ok(response),
        };
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::RANGE_NOT_SATISFIABLE) {
        return Ok(response);
    }
    Err(failed(response, patience, masked).await)
}

/// What a bad status means, with what the server says about it.
pub async fn failed(response: Response, patience: &Patience, masked: &[String]) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let body = body(response, ERROR_BODY_MAX, patience).await.unwrap_or_default();
    let said = message(&body, masked);
    let reason = said.unwrap_or_else(|| status.canonical_reason().unwrap_or("unknown status").to_lowercase());
    match status.as_u16() {
        401 | 403 => Failure::Denied { status: status.as_u16(), reason },
        404 => Failure::NotFound { reason },
        429 => Failure::Limited { retry_after, reason },
        500..=599 => Failure::Server { status: status.as_u16(), retry_after, reason },
        code => Failure::Unusable { reason: format!("status {code}: {reason}") },
    }
}

/// A whole small body. More than `max` bytes are refused, as are bytes that take longer than a document may.
pub async fn body(mut response: Response, max: u64, patience: &Patience) -> Result<Vec<u8>, Failure> {
    let too_large = || Failure::Unusable { reason: format!("its answer is larger than {max} bytes") };
    if response.content_length().is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let read = async {
        let mut bytes = Vec::new();
        loop {
            match tokio::time::timeout(patience.stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) if (bytes.len() + chunk.len()) as u64 > max => return Err(too_large()),
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(bytes),
                Ok(Err(error)) => return Err(Failure::Network { reason: causes(&error) }),
                Err(_) => return Err(Failure::Stalled { time: patience.stall }),
            }
        }
    };
    match tokio::time::timeout(patience.document, read).await {
        Ok(read) => read,
        Err(_) => Err(Failure::Stalled { time: patience.document }),
    }
}

/// Seconds, or a date, which counts from the server's own date where it says one. Bounded.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp());
    let served = headers.get(DATE).and_then(|value| date(value.to_str().ok()?));
    let from = served.or_else(|| jiff::Timestamp::try_from(now).ok())?;
    let wait = date(text)?.duration_since(from);
    Some(Duration::try_from(wait).unwrap_or_default().min(RETRY_AFTER_MAX))
}

/// `{"errors": [{"code": …, "message": …}]}` in one line without control characters, or nothing.
fn message(body: &[u8], masked: &[String]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let first = value.get("errors").and_then(|errors| errors.get(0)).unwrap_or(&value);
    let part = |name: &str| first.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let text = match (part("code").or(part("error")), part("message").or(part("details")).or(part("error_description")))
    {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => return None,
    };
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for secret in masked.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "…");
    }
    Some(text.chars().take(MESSAGE_MAX).collect())
}

/// Why a request failed, and what helps where that is known.
pub fn describe(error: &reqwest::Error, url: &Url, asked: &Url) -> String {
    let reason = causes(error);
    let host = authority(url);
    let at = if host == authority(asked) { String::new() } else { format!("at {host}, to which it redirects: ") };
    let advice = if reason.contains("UnknownIssuer") {
        "; name its authority with ca in its hosts.toml"
    } else if reason.contains("certificate expired") || reason.contains("certificate not valid yet") {
        "; the registry has to renew it, unless this machine's clock is wrong"
    } else if reason.contains("InvalidContentType") {
        "; it seems to speak plain HTTP: name it with http:// in a hosts.toml"
    } else {
        ""
    };
    format!("{at}{reason}{advice}")
}

/// The innermost causes of an error without its URL, which may be a signed one.
pub fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    // The outer ones say "error sending request" and "client error (Connect)"; what is wrong stands at the end.
    let kept = texts.len().saturating_sub(2);
    let mut inner: Vec<String> = Vec::new();
    for text in texts.drain(kept..) {
        if !inner.iter().any(|seen| seen.contains(&text)) {
            inner.push(text);
        }
    }
    match inner.as_slice() {
        [] if error.is_timeout() => "timed out".to_owned(),
        [] => "the request failed".to_owned(),
        inner => inner.join(": "),
    }
}
