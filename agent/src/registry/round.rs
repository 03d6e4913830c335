//! The way of one call from host to host: which ones may answer it, in which order, as whom, and what all of them said. It reads the
//! configuration at its start; files that are read may be slow, so that happens off the loop's thread.

use std::time::Instant;

use reqwest::Client;
use tracing::debug;

use super::credentials::{AuthFile, Credential, Login, helper, matching};
use super::error::{Failure, HostFailure, RegistryError};
use super::helped;
use super::hosts::{Endpoint, endpoints};
use super::http::ClientKey;
use super::visit::{LOGINS_MAX, Visit};
use super::{Registry, Repository, Target, lock};

/// The name under which docker's tools keep the login for docker.io.
const DOCKER_HUB_KEY: &str = "index.docker.io";
const DOCKER_HUB_SERVER_URL: &str = "https://index.docker.io/v1/";

/// What a host must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Pull,
    Resolve,
}

impl Need {
    pub fn of(target: &Target) -> Need {
        match target {
            Target::Tag(_) => Need::Resolve,
            Target::Digest(_) => Need::Pull,
        }
    }
}

pub struct Round<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    secrets: &'a [Credential],
    what: String,
    hosts: Vec<(Endpoint, Client)>,
    auth: AuthFile,
    next: usize,
    failures: Vec<HostFailure>,
}

impl Registry {
    /// Reads what is configured for this registry now.
    pub(super) async fn round<'a>(
        &'a self,
        repository: &'a Repository,
        need: Need,
        secrets: &'a [Credential],
        what: String,
    ) -> Result<Round<'a>, RegistryError> {
        let (shared, registry) = (self.shared.clone(), repository.host.clone());
        let read = tokio::task::spawn_blocking(move || {
            let settings = &shared.settings;
            let failed = |reason: String| RegistryError::Hosts { registry: registry.clone(), reason };
            let routes = settings.proxy.routes().map_err(|error| failed(error.to_string()))?;
            let mut hosts = Vec::new();
            for endpoint in endpoints(settings.hosts_dir.as_deref(), &registry).map_err(|e| failed(e.to_string()))? {
                let may = match need {
                    Need::Pull => endpoint.capabilities.pull,
                    Need::Resolve => endpoint.capabilities.resolve,
                };
                if !may {
                    continue;
                }
                let key = ClientKey::of(&endpoint, &settings.patience).map_err(|error| failed(error.to_string()))?;
                let client = lock(&shared.clients).get(&key, &routes).map_err(|error| failed(error.to_string()))?;
                hosts.push((endpoint, client));
            }
            if hosts.is_empty() {
                let word = if need == Need::Pull { "pull" } else { "resolve" };
                return Err(failed(format!("no host of its hosts.toml has the capability {word}")));
            }
            Ok((hosts, settings.auth_file.as_deref().map(AuthFile::read).unwrap_or_default()))
        });
        let (mut hosts, auth) = read.await.map_err(|error| RegistryError::Hosts {
            registry: repository.host.clone(),
            reason: format!("its configuration could not be read: {error}"),
        })??;
        let (now, life) = (Instant::now(), self.shared.settings.patience.blame);
        let blamed = lock(&self.shared.blamed);
        hosts.sort_by_cached_key(|(endpoint, _)| blamed.place(&endpoint.name(), now, life));
        drop(blamed);
        Ok(Round { registry: self, repository, secrets, what, hosts, auth, next: 0, failures: Vec::new() })
    }
}

impl Round<'_> {
    /// The next host to ask, with the logins that are for it.
    pub async fn next(&mut self) -> Option<Visit<'_>> {
        let at = self.next;
        self.hosts.get(at)?;
        self.next += 1;
        let logins = self.logins(&self.hosts[at].0.clone()).await;
        let (endpoint, client) = &self.hosts[at];
        Some(Visit {
            shared: &self.registry.shared,
            endpoint,
            client: client.clone(),
            repository: &self.repository.path,
            logins,
        })
    }

    /// The host that was asked last gave no usable answer. What it says of the host itself counts for the calls that come after this one.
    pub fn failed(&mut self, failure: Failure) {
        if failure.blames_host()
            && let Some((endpoint, _)) = self.next.checked_sub(1).and_then(|at| self.hosts.get(at))
        {
            self.registry.blame(&endpoint.name());
        }
        self.said(failure);
    }

    /// The same where the host is not to blame, whatever the failure is.
    pub fn said(&mut self, failure: Failure) {
        let Some((endpoint, _)) = self.next.checked_sub(1).and_then(|at| self.hosts.get(at)) else { return };
        debug!(what = self.what, host = endpoint.name(), %failure, "registry host did not serve");
        self.failures.push(HostFailure { host: endpoint.name(), origin: endpoint.origin, failure });
    }

    /// What all of them said, and what helps.
    pub fn error(self) -> RegistryError {
        let unasked: Vec<String> = self.hosts.iter().skip(self.next).map(|(endpoint, _)| endpoint.name()).collect();
        let error = RegistryError::Asked { what: self.what, failures: self.failures, hint: None };
        let mut hint = if error.is_denied() {
            vec!["check the credentials for it in the agent's --registry-auth file".to_owned()]
        } else if error.is_not_found() {
            vec!["check the image's name, tag and digest".to_owned()]
        } else {
            Vec::new()
        };
        if error.is_denied() || error.is_not_found() {
            hint.extend(self.auth.problems);
            // What a helper gave may be what was refused: it is asked anew.
            lock(&self.registry.shared.helped).forget_logins();
        }
        if !unasked.is_empty() {
            hint.push(format!("no time was left to ask {}", unasked.join(", ")));
        }
        match error {
            RegistryError::Asked { what, failures, .. } if !hint.is_empty() => {
                RegistryError::Asked { what, failures, hint: Some(hint.join("; ")) }
            }
            error => error,
        }
    }

    /// Who to be at this host: the pod's own secrets first, then the node's file, its helpers, each by the longest match. The image's own
    /// host name counts for the registry itself; a mirror gets only what names the mirror, as does whoever serves for all registries.
    async fn logins(&mut self, endpoint: &Endpoint) -> Vec<Login> {
        let mut names = vec![endpoint.name()];
        if endpoint.speaks_for_registry {
            names.insert(0, self.repository.host.clone());
            if self.repository.host == "docker.io" {
                names.push(DOCKER_HUB_KEY.to_owned());
            }
        }
        names.dedup();
        let path = &self.repository.path;
        let mut logins: Vec<Login> =
            matching(self.secrets, &names, path).into_iter().map(|c| c.login.clone()).collect();
        let named = names.iter().find_map(|name| self.auth.helpers.get(name)).cloned();
        if let Some(helper) = &named {
            logins.extend(self.helped(helper, &names).await);
        }
        let own: Vec<Login> = matching(&self.auth.entries, &names, path).into_iter().map(|c| c.login.clone()).collect();
        let nothing = own.is_empty();
        logins.extend(own);
        if named.is_none()
            && nothing
            && let Some(store) = self.auth.store.clone()
        {
            logins.extend(self.helped(&store, &names).await);
        }
        logins.truncate(LOGINS_MAX);
        logins
    }

    async fn helped(&mut self, name: &str, names: &[String]) -> Option<Login> {
        let hub = names.iter().any(|name| name == DOCKER_HUB_KEY);
        let server = if hub { DOCKER_HUB_SERVER_URL } else { names.first()?.as_str() };
        let key = (name.to_owned(), server.to_owned());
        let (program, host) = key.clone();
        let asked = async move { helper::ask(&program, &host).await };
        match helped::said(&self.registry.shared.helped, key, asked).await {
            Ok(login) => login,
            Err(problem) => {
                self.auth.problems.push(problem);
                None
            }
        }
    }
}
