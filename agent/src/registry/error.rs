//! What can go wrong at registries, in words for a person: what was wanted, which host, why, what to do next. Never a credential, a token or
//! the query of a URL (signed ones carry access).

use std::fmt;
use std::time::Duration;

/// A call that no host could answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryError {
    /// The registry's own configuration (hosts.toml, certificates) is broken: nothing was asked. Other registries are not concerned.
    Hosts { registry: String, reason: String },
    /// The name can be no repository, tag or digest.
    Name { reason: String },
    /// Every host was asked, in this order; what the registry itself said decides what kind of failure it is, else the last host.
    Asked { what: String, failures: Vec<HostFailure>, hint: Option<String> },
}

/// What one host said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFailure {
    pub host: String,
    /// The registry itself, as opposed to a mirror.
    pub origin: bool,
    pub failure: Failure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection, a broken one, TLS refused, no name.
    Network { reason: String },
    /// Not a byte for this long.
    Stalled { time: Duration },
    /// Not asked: the login for it had not come from its credential helper after this long.
    Login { time: Duration },
    /// 401 or 403, of the registry or its token service.
    Denied { status: u16, reason: String },
    /// 404.
    NotFound { reason: String },
    /// 429.
    Limited { retry_after: Option<Duration>, reason: String },
    /// 5xx.
    Server { status: u16, retry_after: Option<Duration>, reason: String },
    /// An answer that cannot be used: wrong digest, schema 1, too large, an unknown status, a forbidden redirect.
    Unusable { reason: String },
}

impl Failure {
    /// Whether it says something about the host itself, whatever is asked of it: others are asked before it for a while. A mirror that lacks
    /// an image, or does not know who asks, may well serve the next one.
    pub(super) fn blames_host(&self) -> bool {
        match self {
            Failure::Network { .. }
            | Failure::Stalled { .. }
            | Failure::Limited { .. }
            | Failure::Server { .. }
            | Failure::Unusable { .. } => true,
            Failure::Login { .. } | Failure::Denied { .. } | Failure::NotFound { .. } => false,
        }
    }
}

impl RegistryError {
    /// One host's failure in the middle of its answer.
    pub(super) fn one(what: &str, host: &str, origin: bool, failure: Failure) -> RegistryError {
        let failures = vec![HostFailure { host: host.to_owned(), origin, failure }];
        RegistryError::Asked { what: what.to_owned(), failures, hint: None }
    }

    /// Network error, timeout (also of its credential helper), 5xx or 429: an image that is here may be used, and trying again may help.
    pub fn unreachable(&self) -> bool {
        matches!(
            self.decisive(),
            Some(
                Failure::Network { .. }
                    | Failure::Stalled { .. }
                    | Failure::Login { .. }
                    | Failure::Limited { .. }
                    | Failure::Server { .. }
            )
        )
    }

    /// What the registry asked for with Retry-After, bounded.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.decisive()? {
            Failure::Limited { retry_after, .. } | Failure::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self.decisive(), Some(Failure::NotFound { .. }))
    }

    /// 401 or 403.
    pub fn is_denied(&self) -> bool {
        matches!(self.decisive(), Some(Failure::Denied { .. }))
    }

    /// A mirror may lack what its registry has, so the registry's own word counts where it was asked.
    fn decisive(&self) -> Option<&Failure> {
        match self {
            RegistryError::Asked { failures, .. } => {
                failures.iter().rfind(|f| f.origin).or(failures.last()).map(|f| &f.failure)
            }
            RegistryError::Hosts { .. } | RegistryError::Name { .. } => None,
        }
    }
}

impl std::error::Error for RegistryError {}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistryError::Hosts { registry, reason } => write!(f, "registry {registry}: {reason}"),
            RegistryError::Name { reason } => f.write_str(reason),
            RegistryError::Asked { what, failures, hint } => {
                write!(f, "{what}: ")?;
                for (i, failure) in failures.iter().enumerate() {
                    let gap = if i == 0 { "" } else { "; " };
                    write!(f, "{gap}{}: {}", failure.host, failure.failure)?;
                }
                match hint {
                    Some(hint) => write!(f, " ({hint})"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Network { reason } | Failure::Unusable { reason } | Failure::NotFound { reason } => {
                f.write_str(reason)
            }
            Failure::Stalled { time } => write!(f, "sent nothing for {} s", time.as_secs_f32()),
            Failure::Login { time } => {
                write!(f, "not asked: its credential helper has not answered for {} s", time.as_secs_f32())
            }
            Failure::Denied { status, reason } => write!(f, "{status}: {reason}"),
            Failure::Limited { retry_after, reason } => write!(f, "429: {reason}{}", Later(*retry_after)),
            Failure::Server { status, retry_after, reason } => write!(f, "{status}: {reason}{}", Later(*retry_after)),
        }
    }
}

/// `, asks to wait 30 s`.
struct Later(Option<Duration>);

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, ", asks to wait {} s", time.as_secs()),
            None => Ok(()),
        }
    }
}
