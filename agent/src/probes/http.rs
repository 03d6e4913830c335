//! An HTTP GET as the kubelet's probes and hooks do it: no proxy, no verification of certificates, a connection of its
//! own each time, few redirects. Driven by `handlers`, which bounds the time.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pod::spec::{HttpGet, Scheme};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use super::handlers::{Answer, Blame, Host, NotDone, Purpose, SAID_BYTES_MAX};
use super::tcp;
use crate::registry::unverified;

/// The Kubernetes whose probes these are, for servers that tell probes from people by it.
pub const VERSION: &str = "1.36";
/// Redirects that are followed: Kubernetes' number.
const REDIRECTS_MAX: usize = 10;
/// Of an answer's status line and headers; hyper's least is 8 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Carries out the request. A hook is content with any answer.
pub async fn get(get: &HttpGet, host: Host, port: u16, purpose: Purpose) -> Result<Answer, NotDone> {
    let shown = shown_url(get, &format!("{}:{port}", host.for_url()));
    let url = Url::parse(&shown).map_err(|why| NotDone(format!("{shown:?} is no address: {why}"), Blame::Asked))?;
    let headers = headers(get, purpose)?;
    let answer = match follow(&url, &headers).await {
        // The server speaks HTTP where HTTPS was asked: a hook is content with that (KEP-3332), without the secret.
        Err(Fault::SpeaksHttp(_)) if purpose == Purpose::Hook => {
            let mut plain = url.clone();
            let mut headers = headers;
            headers.remove(AUTHORIZATION);
            // Only refused where the scheme cannot have a host.
            let _ = plain.set_scheme("http");
            let _ = plain.set_port(Some(port));
            follow(&plain, &headers).await
        }
        answer => answer,
    };
    Ok(match answer {
        Err(Fault::SpeaksHttp(at) | Fault::Other(at)) => Answer::Failure(format!("Get {shown:?}: {at}")),
        Ok(_) if purpose == Purpose::Hook => Answer::Success,
        Ok((status, body)) if status.is_redirection() => {
            Answer::Warning(format!("Probe terminated redirects, Response body: {}", body.trim_end()))
        }
        Ok((status, _)) if status.is_success() => Answer::Success,
        Ok((status, _)) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
    })
}

/// What is asked for, with this `host:port`.
pub fn shown_url(get: &HttpGet, place: &str) -> String {
    let scheme = match get.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let slash = if get.path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{place}{slash}{}", get.path)
}

enum Fault {
    /// Instead of TLS.
    SpeaksHttp(String),
    Other(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Other(why)
    }
}

fn headers(get: &HttpGet, purpose: Purpose) -> Result<HeaderMap, NotDone> {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        let unusable =
            |why: &dyn std::error::Error| NotDone(format!("the header {name:?} cannot be sent: {why}"), Blame::Asked);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|why| unusable(&why))?;
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(|why| unusable(&why))?);
    }
    if !headers.contains_key(USER_AGENT) {
        let agent = match purpose {
            Purpose::Probe => format!("kube-probe/{VERSION}"),
            Purpose::Hook => format!("kube-lifecycle/{VERSION}"),
        };
        headers.insert(USER_AGENT, agent.parse().expect("letters, digits and a dot"));
    }
    match headers.get(ACCEPT).map(HeaderValue::is_empty) {
        None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
        Some(true) => drop(headers.remove(ACCEPT)),
        Some(false) => {}
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// The last answer, redirects on the same host followed.
async fn follow(first: &Url, headers: &HeaderMap) -> Result<(StatusCode, String), Fault> {
    let (mut url, mut headers) = (first.clone(), headers.clone());
    for _ in 0..=REDIRECTS_MAX {
        let (status, next, body) = once(&url, &headers).await?;
        let Some(location) = next.filter(|_| status.is_redirection()) else { return Ok((status, body)) };
        let Ok(target) = url.join(&location) else {
            return Err(Fault::Other(format!("failed to parse Location header {location:?}")));
        };
        if target.host_str() != first.host_str() || !matches!(target.scheme(), "http" | "https") {
            return Ok((status, body));
        }
        if Url::parse(&location).is_ok() {
            // It names its own host: what was asked for in its place is over.
            headers.remove(HOST);
        }
        url = target;
    }
    Err(Fault::Other(format!("stopped after {REDIRECTS_MAX} redirects")))
}

async fn once(url: &Url, headers: &HeaderMap) -> Result<(StatusCode, Option<String>, String), Fault> {
    let (host, port) = (host(url), url.port_or_known_default().unwrap_or(80));
    let stream = tcp::connect(&host, port).await?;
    let response = match url.scheme() {
        "https" => ask(secure(stream, &host).await?, url, headers).await,
        _ => ask(Box::pin(stream), url, headers).await,
    };
    let (response, connection) = response?;
    let status = response.status();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = read(response).await;
    drop(connection);
    Ok((status, location, body?))
}

fn host(url: &Url) -> Host {
    match url.host() {
        Some(url::Host::Ipv4(address)) => Host::Address(address.into()),
        Some(url::Host::Ipv6(address)) => Host::Address(address.into()),
        Some(url::Host::Domain(name)) => Host::Name(name.to_owned()),
        None => Host::Name(String::new()),
    }
}

trait Connection: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Connection for T {}

/// Ends the connection with its value.
struct Driven(tokio::task::JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(
    stream: Pin<Box<dyn Connection>>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<(Response<Incoming>, Driven), Fault> {
    let said = |why: hyper::Error| Fault::Other(crate::execute::chain(&why));
    let handshake =
        hyper::client::conn::http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(said)?;
    let driven = Driven(tokio::spawn(async move {
        // Its fault is the request's too, which tells it.
        let _ = connection.await;
    }));
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::get(format!("{}{query}", url.path()));
    let own = request.headers_mut().expect("nothing has failed yet");
    own.clone_from(headers);
    if own.get(HOST).is_none_or(HeaderValue::is_empty) {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let value = format!("{}{port}", url.host_str().unwrap_or_default());
        own.insert(HOST, value.parse().map_err(|_| format!("{value:?} is no host"))?);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|why| why.to_string())?;
    let response = sender.send_request(request).await.map_err(said)?;
    Ok((response, driven))
}

/// At most so much as is kept; the rest is left unread.
async fn read(response: Response<Incoming>) -> Result<String, Fault> {
    let (mut body, mut said) = (response.into_body(), Vec::new());
    while said.len() < SAID_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|why| Fault::Other(crate::execute::chain(&why)))?;
        let Ok(bytes) = frame.into_data() else { continue };
        let room = SAID_BYTES_MAX - said.len();
        said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn secure(stream: tokio::net::TcpStream, host: &Host) -> Result<Pin<Box<dyn Connection>>, Fault> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(unverified()));
    let name = match host {
        Host::Address(address) => ServerName::from(*address),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|why| why.to_string())?,
    };
    match TlsConnector::from(Arc::clone(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::pin(stream)),
        Err(why) => {
            let cause = why.get_ref().and_then(|why| why.downcast_ref::<rustls::Error>());
            if matches!(cause, Some(rustls::Error::InvalidMessage(_))) {
                return Err(Fault::SpeaksHttp("http: server gave HTTP response to HTTPS client".into()));
            }
            Err(Fault::Other(format!("tls: {why}")))
        }
    }
}
