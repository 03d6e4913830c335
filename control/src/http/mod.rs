//! The HTTP door: the part of the Kubernetes API that kubectl and client libraries speak, over TLS.
//!
//! [`connection`] takes connections, [`answer`] a request from its first line to its last byte: who it is from ([`crate::door`]), what it is about
//! ([`request`], [`query`]), in which form the answer goes back ([`accept`], [`render`], [`table`]). What the verbs do to objects is
//! [`crate::api::objects`]' business; nothing here knows a kind by its name but the rows of [`table`] and the names of [`metrics`].
//!
//! Everything that a client can make large, slow or many has a bound here. Documents are made when they are asked for and dropped.

mod accept;
mod acting;
mod answer;
mod body;
mod connection;
mod discovery;
mod health;
mod limits;
mod list;
mod logs;
mod metrics;
mod places;
pub mod query;
mod render;
mod reply;
pub mod request;
mod strangers;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod verbs;
mod watch;

use std::sync::Arc;

use crate::api::objects::Objects;
use crate::door::identity::Authenticator;
use crate::door::rules::Authorizer;

pub use connection::serve;
pub use health::{Check, Checks};
pub use logs::{LogOptions, LogStream, Logs};

/// ALPN names that this door speaks, the better one first.
pub const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What requests are answered from. Shared by all connections.
pub struct Door {
    objects: Objects,
    authenticator: Authenticator,
    authorizer: Authorizer,
    logs: Arc<dyn Logs>,
    checks: Checks,
    limits: limits::Limits,
}

impl Door {
    pub fn new(
        objects: Objects,
        authenticator: Authenticator,
        authorizer: Authorizer,
        logs: Arc<dyn Logs>,
        checks: Checks,
    ) -> Door {
        Door { objects, authenticator, authorizer, logs, checks, limits: limits::Limits::default() }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}
