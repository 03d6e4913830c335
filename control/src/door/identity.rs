//! Who a request is from: the owner of a client certificate, a service account by its token, or nobody in particular.
//!
//! Driven by `http` for each request. It says who, never what that one may do.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;

use super::authority::Peer;
use super::join::Joining;
use super::service_accounts::ServiceAccounts;
use crate::api::error::ApiError;

/// Whoever shows nothing.
pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Everybody else is in this group too.
pub const AUTHENTICATED: &str = "system:authenticated";

/// A user as Kubernetes knows one (authentication/v1 UserInfo).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// The endpoint's own loops, who may do everything.
    pub fn endpoint() -> Identity {
        Identity::of("system:daemonlet-control", &[super::authority::MASTERS])
    }

    pub fn anonymous() -> Identity {
        Identity { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Identity::default() }
    }

    /// A user of these groups, and of that of all who are known.
    pub fn of(name: &str, groups: &[&str]) -> Identity {
        let groups = groups.iter().copied().chain([AUTHENTICATED]).map(str::to_owned).collect();
        Identity { name: name.into(), groups, ..Identity::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node that it is, if it is one.
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(super::authority::NODE_PREFIX)?;
        self.is_in(super::authority::NODES).then_some(name)
    }
}

/// Tells who somebody is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authenticator {
    joining: Joining,
    accounts: ServiceAccounts,
}

impl Authenticator {
    pub fn new(joining: Joining, accounts: ServiceAccounts) -> Authenticator {
        Authenticator { joining, accounts }
    }

    pub fn accounts(&self) -> &ServiceAccounts {
        &self.accounts
    }

    /// Of what a request shows: the chain that TLS has verified, and what follows `Authorization: Bearer`. Without either it is
    /// [`Identity::anonymous`]. Errors: 401, where something was shown and it is not good; 503.
    pub async fn who(&self, peer: &[CertificateDer<'_>], bearer: Option<&str>) -> Result<Identity, ApiError> {
        if let Some(certificate) = peer.first() {
            let peer = Peer::of(certificate).map_err(|_| ApiError::unauthorized())?;
            if let Some(node) = peer.node()
                && !self.joining.knows(&peer, node).await?
            {
                return Err(ApiError::unauthorized());
            }
            let Peer { name, mut groups, .. } = peer;
            // Nobody gets into these by a certificate of that name.
            groups.retain(|group| group != UNAUTHENTICATED);
            groups.push(AUTHENTICATED.into());
            return Ok(Identity { name, groups, ..Identity::default() });
        }
        match bearer {
            Some(token) => self.accounts.who(token, &[]).await.map(|(identity, _)| identity),
            None => Ok(Identity::anonymous()),
        }
    }
}
