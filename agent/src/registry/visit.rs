//! One host, one repository: the same question with each login that may be for it, and with what the host wants to see before it answers.
//! Driven by [`super::Registry`], which goes from host to host.

use std::time::Instant;

use reqwest::header::HeaderValue;
use reqwest::{Client, Method, Response, StatusCode};
use url::Url;

use super::Shared;
use super::challenge::{self, Challenge};
use super::credentials::Login;
use super::error::Failure;
use super::hosts::Endpoint;
use super::http::{self, Host, Request};
use super::tokens::{self, Grant, GrantKey, Wanted};

/// A pod has a handful of imagePullSecrets; each of them that is refused is one more failed login at the registry.
pub const LOGINS_MAX: usize = 8;

/// A host and who to be there.
pub struct Visit<'a> {
    pub shared: &'a Shared,
    pub endpoint: &'a Endpoint,
    pub client: Client,
    /// `library/busybox`.
    pub repository: &'a str,
    /// In the order in which they are tried; after them nobody in particular.
    pub logins: Vec<Login>,
}

/// `manifests/latest`, and how.
pub struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    pub accept: &'static str,
    pub from: u64,
}

impl Visit<'_> {
    /// The answer: 200, 206, or 416. Every other status is a failure.
    pub async fn ask(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let mut logins: Vec<Option<&Login>> = self.logins.iter().map(Some).chain([None]).collect();
        // What was accepted before is tried first: the pod's second blob does not repeat the refusals of its first.
        logins.sort_by_key(|login| self.held(*login).is_none());
        let mut refused: Option<Failure> = None;
        for login in logins {
            match self.ask_as(login, question).await {
                // Registries hide what one may not see behind 404 as well.
                Err(failure @ (Failure::Denied { .. } | Failure::NotFound { .. })) => {
                    let better = match (&refused, login) {
                        (None, _) => true,
                        // Somebody whom the registry knows was told that there is no such thing.
                        (Some(Failure::Denied { .. }), Some(_)) => matches!(failure, Failure::NotFound { .. }),
                        _ => false,
                    };
                    if better {
                        refused = Some(failure);
                    }
                }
                answer => return answer,
            }
        }
        Err(refused.expect("at least nobody in particular was tried"))
    }

    async fn ask_as(&self, login: Option<&Login>, question: &Question<'_>) -> Result<Response, Failure> {
        let mut masked: Vec<String> = login.iter().flat_map(|login| login.secrets()).collect();
        let held = self.held(login);
        masked.extend(held.as_ref().and_then(Grant::secret));
        let response = self.send(question, held.as_ref().map(|grant| &grant.authorization)).await?;
        let response = http::judge(response, &self.shared.settings.patience, &masked).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.grants(|grants| grants.drop(&self.key(login)));
        // A 401 of a host that was redirected to is not the registry's question.
        if response.url().origin() != self.endpoint.url.origin() {
            return Err(http::failed(response, &self.shared.settings.patience, &masked).await);
        }
        let Some(grant) = self.answer(&challenge::of(response.headers()), login).await? else {
            return Err(http::failed(response, &self.shared.settings.patience, &masked).await);
        };
        masked.extend(grant.secret());
        let response = self.send(question, Some(&grant.authorization)).await?;
        let response = http::judge(response, &self.shared.settings.patience, &masked).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(http::failed(response, &self.shared.settings.patience, &masked).await);
        }
        self.grants(|grants| grants.put(self.key(login), grant));
        Ok(response)
    }

    /// What to show for these challenges as this login; none where it has nothing to show.
    async fn answer(&self, challenges: &[Challenge], login: Option<&Login>) -> Result<Option<Grant>, Failure> {
        if let Some(login @ Login::Bearer(_)) = login {
            return Ok(Grant::plain(login, Instant::now()));
        }
        let own = format!("repository:{}:pull", self.repository);
        for challenge in challenges {
            match (challenge, login) {
                (Challenge::Bearer { realm, service, scope }, login) => {
                    let scope = scope.as_deref().unwrap_or(&own);
                    let wanted = Wanted { realm, service: service.as_deref(), scope };
                    let patience = &self.shared.settings.patience;
                    return tokens::ask(&self.client, self.endpoint, wanted, login, patience).await.map(Some);
                }
                (Challenge::Basic, Some(login @ Login::Basic { .. })) => {
                    return Ok(Grant::plain(login, Instant::now()));
                }
                (Challenge::Basic, _) => {}
            }
        }
        Ok(None)
    }

    async fn send(&self, question: &Question<'_>, authorization: Option<&HeaderValue>) -> Result<Response, Failure> {
        let patience = &self.shared.settings.patience;
        let host = Host {
            client: &self.client,
            url: &self.endpoint.url,
            headers: &self.endpoint.headers,
            connect: self.endpoint.dial_timeout.unwrap_or(patience.connect),
        };
        let request = Request {
            method: question.method.clone(),
            url: self.url(question.path),
            accept: question.accept,
            from: question.from,
            authorization,
            form: None,
        };
        http::send(host, &request, patience).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}/{path}", self.repository));
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    fn key(&self, login: Option<&Login>) -> GrantKey {
        GrantKey::new(self.endpoint, self.repository, login)
    }

    fn held(&self, login: Option<&Login>) -> Option<Grant> {
        self.grants(|grants| grants.get(&self.key(login), Instant::now()))
    }

    fn grants<T>(&self, act: impl FnOnce(&mut tokens::Grants) -> T) -> T {
        act(&mut super::lock(&self.shared.grants))
    }
}
