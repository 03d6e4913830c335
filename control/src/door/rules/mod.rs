//! Who may do what: Kubernetes' RBAC, and what nodes may.
//!
//! Driven by `http` before each request ([`Authorizer::may`]), at each write of what gives rights ([`admission`]), and for the review kinds
//! ([`review`]). Roles are kept parsed and followed by a watch of the store: a request costs no read.

pub mod admission;
pub mod bootstrap;
mod impersonation;
pub mod node;
pub mod review;
mod roles;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

pub use self::node::{is_mirror, may_propose};
use self::roles::{GROUP, Roles};
use super::authority::MASTERS;
use super::identity::Identity;
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::store::any::AnyStore;
use crate::store::{Range, Store as _, StoreError, Watch as _};

/// Objects that are read from the store at once.
const PAGE: usize = 500;
/// After an error of the store it is tried again this much later.
const AGAIN: Duration = Duration::from_secs(1);

/// What is asked for. Texts are empty where they do not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes<'a> {
    /// get list watch create update patch delete deletecollection; of paths that are no resource's, the method in small letters.
    pub verb: &'a str,
    pub group: &'a str,
    /// Empty: it is about `path`.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The query's `fieldSelector`, as it came: what nodes may list.
    pub selector: &'a str,
}

/// Whether it may be, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

/// Judges. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer {
    store: AnyStore,
    roles: Arc<RwLock<Roles>>,
}

impl Authorizer {
    /// Reads all roles, and follows them in a task of its own, which ends with the runtime.
    pub async fn start(store: AnyStore) -> Result<Authorizer, StoreError> {
        let (roles, revision) = read(&store).await?;
        let authorizer = Authorizer { store, roles: Arc::new(RwLock::new(roles)) };
        tokio::spawn(authorizer.clone().follow(revision));
        Ok(authorizer)
    }

    /// Whether this user may. Errors: the store does not answer.
    pub async fn may(&self, user: &Identity, asked: &Attributes<'_>) -> Result<Verdict, ApiError> {
        if user.is_in(MASTERS) {
            return Ok(Verdict { allowed: true, reason: format!("member of {MASTERS}") });
        }
        if let Some(reason) = self.roles().allow(user, asked) {
            return Ok(Verdict { allowed: true, reason });
        }
        if let Some(node) = user.node() {
            if node::allows(&self.store, node, asked).await? {
                return Ok(Verdict { allowed: true, reason: format!("node {node:?}: its own") });
            }
            let reason =
                format!("node {node:?} reads and writes its own Node, Lease and pods, and reads what those use");
            return Ok(Verdict { allowed: false, reason });
        }
        Ok(Verdict { allowed: false, reason: String::new() })
    }

    /// [`Authorizer::may`] for a request, as the error that answers it. `kind`: of the resource, where it is one.
    pub async fn check(&self, user: &Identity, asked: &Attributes<'_>, kind: Option<&Kind>) -> Result<(), ApiError> {
        let verdict = self.may(user, asked).await?;
        match (verdict.allowed, kind) {
            (true, _) => Ok(()),
            (false, Some(kind)) => Err(ApiError::forbidden(kind, asked.name, &refusal(user, asked, &verdict.reason))),
            (false, None) => Err(ApiError::forbidden_path(&refusal(user, asked, &verdict.reason))),
        }
    }

    fn roles(&self) -> std::sync::RwLockReadGuard<'_, Roles> {
        self.roles.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(self, mut revision: u64) {
        loop {
            let error = match self.store.watch(&prefix(), revision).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(changes) => {
                            let mut roles = self.roles.write().unwrap_or_else(PoisonError::into_inner);
                            for change in changes.changes {
                                match (change.now, change.before) {
                                    (Some(now), _) => put(&mut roles, &now.key, &now.value),
                                    (None, Some(before)) => remove(&mut roles, &before.key, &before.value),
                                    (None, None) => {}
                                }
                            }
                            revision = changes.revision;
                        }
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            // What is gone is read anew; what does not answer is asked again.
            if !matches!(error, StoreError::Compacted { .. } | StoreError::Future { .. }) {
                tracing::warn!(%error, "roles are judged as they were, until the store answers again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            match read(&self.store).await {
                Ok((roles, at)) => {
                    *self.roles.write().unwrap_or_else(PoisonError::into_inner) = roles;
                    revision = at;
                }
                Err(error) => {
                    tracing::warn!(%error, "roles are judged as they were, until the store answers again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Why not, in Kubernetes' words, which people search for.
fn refusal(user: &Identity, asked: &Attributes<'_>, reason: &str) -> String {
    let Attributes { verb, group, resource, subresource, namespace, path, .. } = *asked;
    let user = &user.name;
    let mut why = if resource.is_empty() {
        format!("User {user:?} cannot {verb} path {path:?}")
    } else {
        let of = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let place = match namespace {
            "" => "at the cluster scope".to_owned(),
            _ => format!("in the namespace {namespace:?}"),
        };
        format!("User {user:?} cannot {verb} resource {of:?} in API group {group:?} {place}")
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    why
}

fn prefix() -> String {
    format!("/registry/{GROUP}/")
}

/// `/registry/GROUP/RESOURCE/…`.
fn resource(key: &str) -> &str {
    key.split('/').nth(3).unwrap_or_default()
}

fn put(roles: &mut Roles, key: &str, value: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Value>(value) {
        roles.put(resource(key), &object);
    }
}

fn remove(roles: &mut Roles, key: &str, value: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Value>(value) {
        roles.remove(resource(key), &object);
    }
}

async fn read(store: &AnyStore) -> Result<(Roles, u64), StoreError> {
    let mut roles = Roles::default();
    let mut range = Range { prefix: prefix(), limit: Some(PAGE), ..Range::default() };
    loop {
        let page = store.list(&range).await?;
        for entry in &page.entries {
            put(&mut roles, &entry.key, &entry.value);
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok((roles, page.revision)) };
        range.after = Some(last.key.clone());
        range.at = Some(page.revision);
    }
}

#[cfg(test)]
mod tests;
