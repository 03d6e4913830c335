//! What this door asks of those who know users: who somebody is, what they may do, and the answers that are about just that.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::objects::Guard;

/// A user as Kubernetes knows one (authentication/v1 UserInfo).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
}

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
    /// The query's `fieldSelector`, as it came.
    pub selector: &'a str,
}

/// A call that waits for the store.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// See the top of the file.
pub trait Gate: Send + Sync {
    /// Whose request it is: by the chain that TLS has verified, or by what follows `Authorization: Bearer`. Error: 401.
    fn who<'a>(&'a self, peer: &'a [CertificateDer<'static>], bearer: Option<&'a str>) -> Answering<'a, Identity>;

    /// Error: 403. `kind`: of the resource, where it is one of ours.
    fn may<'a>(
        &'a self,
        user: &'a Identity,
        asked: &'a Attributes<'a>,
        kind: Option<&'static Kind>,
    ) -> Answering<'a, ()>;

    /// The answer to a review: the object with its status.
    fn review<'a>(
        &'a self,
        kind: &'static Kind,
        namespace: &'a str,
        object: Value,
        user: &'a Identity,
    ) -> Answering<'a, Value>;

    /// A TokenRequest for a service account: the object with its status.
    fn token<'a>(
        &'a self,
        namespace: &'a str,
        account: &'a str,
        request: Value,
        user: &'a Identity,
    ) -> Answering<'a, Value>;

    /// Who judges a write by what would be written.
    fn guard(&self, user: &Identity) -> Option<Arc<dyn Guard>>;

    /// The documents by which others verify tokens: `/openid/v1/jwks`, `/.well-known/openid-configuration`.
    fn document(&self, path: &str) -> Option<Value>;

    /// A write was answered with this code.
    fn wrote(&self, user: &Identity, what: &Attributes<'_>, from: IpAddr, code: u16);
}
