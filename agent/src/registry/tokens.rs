//! Tokens: asked of a registry's token service (the distribution project's token protocol, and its OAuth2 form for identity tokens), and
//! what was granted, kept until it expires. Driven by [`super::visit`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;
use url::form_urlencoded;

use super::Patience;
use super::credentials::{Login, basic};
use super::error::Failure;
use super::hosts::{Endpoint, authority, is_loopback};
use super::http::{self, Host, Request};

/// A token of a cloud has 4 kB, with its frame 8.
const TOKEN_BODY_MAX: u64 = 64 << 10;

/// Hosts times repositories times credentials that are being pulled from; the one that expires first makes room.
const GRANTS_MAX: usize = 64;

/// What the protocol says where a service says nothing, and the least that it allows.
const LIFE_DEFAULT: Duration = Duration::from_secs(60);

/// A token is used no longer without asking again, whatever its service says.
const LIFE_MAX: Duration = Duration::from_secs(12 * 3_600);

/// How a service counts who asks.
const CLIENT_ID: &str = "daemonlet";

/// What was accepted or granted, by whom, for what, for which login.
#[derive(Default)]
pub struct Grants {
    held: BTreeMap<GrantKey, Grant>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantKey {
    endpoint: String,
    repository: String,
    /// A hash: the key is no second place for a secret.
    login: [u8; 32],
}

#[derive(Clone)]
pub struct Grant {
    /// The value of the Authorization header.
    pub authorization: HeaderValue,
    until: Instant,
}

impl GrantKey {
    pub fn new(endpoint: &Endpoint, repository: &str, login: Option<&Login>) -> GrantKey {
        let mut hash = Sha256::new();
        let parts = match login {
            None => ["", "", ""],
            Some(Login::Basic { user, password }) => ["basic", user, password.reveal()],
            Some(Login::Identity(token)) => ["identity", token.reveal(), ""],
            Some(Login::Bearer(token)) => ["bearer", token.reveal(), ""],
        };
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        GrantKey {
            endpoint: endpoint.url.to_string(),
            repository: repository.to_owned(),
            login: hash.finalize().into(),
        }
    }
}

impl Grants {
    pub fn get(&mut self, key: &GrantKey, now: Instant) -> Option<Grant> {
        self.held.retain(|_, grant| grant.until > now);
        self.held.get(key).cloned()
    }

    pub fn put(&mut self, key: GrantKey, grant: Grant) {
        if self.held.len() >= GRANTS_MAX
            && !self.held.contains_key(&key)
            && let Some(first) = self.held.iter().min_by_key(|(_, held)| held.until).map(|(key, _)| key.clone())
        {
            self.held.remove(&first);
        }
        self.held.insert(key, grant);
    }

    pub fn drop(&mut self, key: &GrantKey) {
        self.held.remove(key);
    }

    pub fn clear(&mut self) {
        self.held.clear();
    }
}

impl Grant {
    /// What must not be shown of it: the header's value without its scheme.
    pub fn secret(&self) -> Option<String> {
        let text = self.authorization.to_str().ok()?;
        Some(text.split_once(' ').map_or(text, |(_, secret)| secret).to_owned())
    }

    /// The login itself, where the registry wants it as it is.
    pub fn plain(login: &Login, now: Instant) -> Option<Grant> {
        let text = match login {
            Login::Basic { user, password } => format!("Basic {}", basic(user, password)),
            Login::Bearer(token) => format!("Bearer {}", token.reveal()),
            Login::Identity(_) => return None,
        };
        Some(Grant { authorization: secret_header(&text)?, until: now + LIFE_MAX })
    }
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a Bearer challenge asks for.
pub struct Wanted<'a> {
    pub realm: &'a str,
    pub service: Option<&'a str>,
    pub scope: &'a str,
}

/// Asks the token service. Without a login: for whoever asks.
pub async fn ask(
    client: &Client,
    endpoint: &Endpoint,
    wanted: Wanted<'_>,
    login: Option<&Login>,
    patience: &Patience,
) -> Result<Grant, Failure> {
    let mut url = realm(wanted.realm, endpoint)?;
    let mut authorization = None;
    let mut form = None;
    match login {
        Some(Login::Identity(token)) => {
            let mut body = form_urlencoded::Serializer::new(String::new());
            body.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT_ID);
            body.append_pair("scope", wanted.scope).append_pair("refresh_token", token.reveal());
            if let Some(service) = wanted.service {
                body.append_pair("service", service);
            }
            form = Some(body.finish());
        }
        other => {
            let mut query = url.query_pairs_mut();
            query.append_pair("client_id", CLIENT_ID);
            if let Some(service) = wanted.service {
                query.append_pair("service", service);
            }
            for scope in wanted.scope.split_whitespace() {
                query.append_pair("scope", scope);
            }
            if let Some(Login::Basic { user, password }) = other {
                query.append_pair("account", user);
                authorization = secret_header(&format!("Basic {}", basic(user, password)));
            }
        }
    }
    let service = authority(&url);
    let host = Host { client, url: &url, headers: &[], connect: endpoint.dial_timeout.unwrap_or(patience.connect) };
    let request = Request {
        method: if form.is_some() { Method::POST } else { Method::GET },
        url: url.clone(),
        accept: "application/json",
        from: 0,
        authorization: authorization.as_ref(),
        form,
    };
    let masked: Vec<String> = login.iter().flat_map(|login| login.secrets()).collect();
    let asked = async {
        let response = http::send(host, &request, patience).await?;
        match response.status() {
            StatusCode::OK => granted(&http::body(response, TOKEN_BODY_MAX, patience).await?, Instant::now()),
            _ => Err(http::failed(response, patience, &masked).await),
        }
    };
    asked.await.map_err(|failure| at_service(failure, &service))
}

/// A token service with a registry's credentials in hand must not be weaker than the registry: no plain text beside TLS.
fn realm(realm: &str, endpoint: &Endpoint) -> Result<Url, Failure> {
    let unusable = |reason: String| Failure::Unusable { reason };
    let url = Url::parse(realm).map_err(|_| unusable("names a token service that is no URL".to_owned()))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if endpoint.url.scheme() == "http" || (is_loopback(&endpoint.url) && is_loopback(&url)) => Ok(url),
        _ => Err(unusable(format!("names the token service {}, which is not https: refused", authority(&url)))),
    }
}

/// `token` or `access_token`, good for `expires_in` seconds.
fn granted(body: &[u8], now: Instant) -> Result<Grant, Failure> {
    let unusable = |reason: &str| Failure::Unusable { reason: reason.to_owned() };
    let value: Value = serde_json::from_slice(body).map_err(|_| unusable("answered with something that is no JSON"))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("token").or(text("access_token")).ok_or_else(|| unusable("answered without a token"))?;
    let authorization = secret_header(&format!("Bearer {token}"));
    let authorization = authorization.ok_or_else(|| unusable("granted a token that no header can carry"))?;
    let life = value.get("expires_in").and_then(Value::as_u64).map_or(LIFE_DEFAULT, Duration::from_secs);
    let life = life.clamp(LIFE_DEFAULT, LIFE_MAX);
    // A tenth less, so that it does not expire on its way.
    Ok(Grant { authorization, until: now + life - life / 10 })
}

/// The failure was the token service's: say so.
fn at_service(failure: Failure, service: &str) -> Failure {
    let said = |reason: String| format!("its token service {service}: {reason}");
    match failure {
        Failure::Network { reason } => Failure::Network { reason: said(reason) },
        Failure::Denied { status, reason } => Failure::Denied { status, reason: said(reason) },
        Failure::Limited { retry_after, reason } => Failure::Limited { retry_after, reason: said(reason) },
        Failure::Server { status, retry_after, reason } => {
            Failure::Server { status, retry_after, reason: said(reason) }
        }
        Failure::Unusable { reason } => Failure::Unusable { reason: said(reason) },
        // It is the service that is missing, not the image.
        Failure::NotFound { reason } => Failure::Unusable { reason: said(format!("404: {reason}")) },
        Failure::Stalled { time } => Failure::Stalled { time },
        Failure::Login { time } => Failure::Login { time },
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Secret;
    use super::super::hosts::endpoints;
    use super::*;

    fn endpoint(registry: &str) -> Endpoint {
        endpoints(None, registry).unwrap().remove(0)
    }

    fn login(password: &str) -> Login {
        Login::Basic { user: "u".to_owned(), password: Secret::new(password) }
    }

    #[test]
    fn a_token_is_read_under_both_names_and_lives_as_long_as_it_says() {
        let now = Instant::now();
        let of = |text: &str| granted(text.as_bytes(), now).map(|g| (g.authorization, g.until - now));
        let (header, life) = of(r#"{"token": "t", "expires_in": 300}"#).unwrap();
        assert_eq!((header.to_str().unwrap(), life.as_secs()), ("Bearer t", 270));
        assert!(header.is_sensitive());
        assert_eq!(of(r#"{"access_token": "a"}"#).unwrap().1.as_secs(), 54);
        assert_eq!(of(r#"{"token": "t", "expires_in": 1}"#).unwrap().1.as_secs(), 54);
        assert!(of(r#"{"token": "t", "expires_in": 18446744073709551615}"#).unwrap().1 < LIFE_MAX);
        for bad in ["", "{}", r#"{"token": ""}"#, r#"{"token": 5}"#, r#"{"token": "a\nb"}"#, "[1]"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_service_in_plain_text_beside_tls_is_refused() {
        assert!(realm("https://auth.example/token", &endpoint("r.example")).is_ok());
        assert!(realm("http://auth.example/token", &endpoint("r.example")).is_err());
        assert!(realm("http://auth.example/token", &endpoint("localhost:5000")).is_ok());
        assert!(realm("file:///etc/passwd", &endpoint("localhost:5000")).is_err());
        assert!(realm("/token", &endpoint("r.example")).is_err());
    }

    #[test]
    fn a_grant_is_for_one_host_repository_and_login() {
        let now = Instant::now();
        let mut grants = Grants::default();
        let key = |repository: &str, password: &str| GrantKey::new(&endpoint("r"), repository, Some(&login(password)));
        grants.put(key("a", "p"), Grant::plain(&login("p"), now).unwrap());
        assert!(grants.get(&key("a", "p"), now).is_some());
        assert!(grants.get(&key("b", "p"), now).is_none());
        assert!(grants.get(&key("a", "q"), now).is_none());
        assert!(grants.get(&GrantKey::new(&endpoint("r"), "a", None), now).is_none());
        assert!(grants.get(&GrantKey::new(&endpoint("s"), "a", Some(&login("p"))), now).is_none());
        assert!(grants.get(&key("a", "p"), now + LIFE_MAX).is_none());
    }

    #[test]
    fn the_number_of_grants_is_bounded() {
        let now = Instant::now();
        let mut grants = Grants::default();
        for n in 0..3 * GRANTS_MAX {
            let key = GrantKey::new(&endpoint("r"), &n.to_string(), None);
            grants.put(key, Grant::plain(&login("p"), now).unwrap());
        }
        assert_eq!(grants.held.len(), GRANTS_MAX);
    }
}
