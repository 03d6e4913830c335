//! Who shows a certificate. That the authority signed it has been seen to by TLS; here it is only read.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{NODE_PREFIX, key_of};

/// The owner of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The common name.
    pub name: String,
    /// The organizations, which are groups.
    pub groups: Vec<String>,
    pub not_after: Timestamp,
    /// [`key_of`] its key.
    pub key: String,
}

/// Why it is nobody's.
#[derive(Debug, thiserror::Error)]
#[error("the client certificate cannot be read: {0}")]
pub struct PeerError(String);

impl Peer {
    /// Of the first certificate of a chain that TLS has verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Peer, PeerError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| PeerError(error.to_string()))?;
        let subject = parsed.subject();
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|error| PeerError(error.to_string()))
        };
        let mut names = subject.iter_common_name();
        let name = match (names.next(), names.next()) {
            (Some(name), None) => text(name)?,
            _ => return Err(PeerError("it has no common name, or more than one".into())),
        };
        let groups = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())
            .map_err(|error| PeerError(error.to_string()))?;
        Ok(Peer { name, groups, not_after, key: key_of(parsed.public_key().raw) })
    }

    /// The node whose certificate it is, if it is one's.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|_| self.groups.iter().any(|group| group == super::NODES))
    }
}
