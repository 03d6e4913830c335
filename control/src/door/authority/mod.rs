//! The certificate authority: who made it signs for the endpoint, its administrators and its nodes.
//!
//! Driven by [`keep`], which stores it, [`super::join`], which decides who gets a certificate, and `serve`. It knows keys and certificates and
//! nothing of tokens, roles or requests. All keys are on the curve P-256, which every client of the Kubernetes API speaks.

pub mod keep;
pub mod kubeconfig;
mod peer;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

pub use peer::{Peer, PeerError};

/// How long the authority lasts: longer than the machines that trust it.
const AUTHORITY_LASTS: Duration = Duration::from_secs(10 * YEAR);
/// Of the endpoint's, a node's and the administrator's certificates.
pub const CERTIFICATE_LASTS: Duration = Duration::from_secs(YEAR);
const YEAR: u64 = 365 * 24 * 3600;
/// A certificate is good from a little before it was made: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);
/// The largest request for a certificate, in bytes of DER: one of P-256 has 250, one of RSA with 4,096 bits 1,600.
pub const REQUEST_MAX: usize = 4096;
/// The group whose members may do everything, as in Kubernetes.
pub const MASTERS: &str = "system:masters";
/// What the user name of a node begins with, as in Kubernetes.
pub const NODE_PREFIX: &str = "system:node:";
/// The group of all nodes, as in Kubernetes.
pub const NODES: &str = "system:nodes";

/// A certificate authority, and the key that signs the tokens of service accounts.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    tokens: KeyPair,
}

/// A certificate and its key, both in PEM; the authority's own certificate follows in the chain.
#[derive(Clone)]
pub struct Issued {
    pub chain_pem: String,
    pub key_pem: String,
    pub not_after: Timestamp,
}

/// A certificate for a key that its owner keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate, in DER.
    pub certificate: Vec<u8>,
    /// The same and the authority's, in PEM.
    pub chain_pem: String,
    pub not_after: Timestamp,
    /// [`key_of`] its key.
    pub key: String,
}

/// What somebody asks a certificate for: a key whose owner has shown that it is his.
#[derive(Debug)]
pub struct Request {
    public: rcgen::PublicKey,
}

/// Why the authority does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make a certificate for {of}")]
    Make {
        of: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("the request for a certificate has {0} bytes, more than the {REQUEST_MAX} that one may have")]
    TooLarge(usize),
    #[error("the request for a certificate is none, or its signature is not its key's")]
    Request(#[source] rcgen::Error),
    #[error(
        "{place}: {why}; put it back from a backup, or remove it to make a new authority, which every node has to join anew"
    )]
    Damaged { place: String, why: String },
}

impl Authority {
    /// A new one.
    pub fn generate(now: Timestamp) -> Result<Authority, AuthorityError> {
        let make = |source| AuthorityError::Make { of: "the authority".into(), source };
        let key = KeyPair::generate().map_err(make)?;
        // Not the endpoint's own name: OpenSSL takes a certificate whose subject is its issuer for one that has signed itself.
        let mut params = params("daemonlet-authority", None, now, AUTHORITY_LASTS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(make)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        let tokens = KeyPair::generate().map_err(make)?;
        Ok(Authority { certificate: der, certificate_pem: pem, issuer: Issuer::new(params, key), tokens })
    }

    /// Its certificate: what clients and nodes trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What a node that has never been here recognizes it by: the SHA-256 of its certificate in DER, as hexadecimal digits.
    pub fn pin(&self) -> String {
        hex(&Sha256::digest(&self.certificate))
    }

    /// The key that signs the tokens of service accounts.
    pub fn tokens(&self) -> &KeyPair {
        &self.tokens
    }

    /// For the endpoint under these names and addresses.
    pub fn server(&self, names: &[String], addresses: &[IpAddr], now: Timestamp) -> Result<Issued, AuthorityError> {
        let make = |source| AuthorityError::Make { of: "the endpoint".into(), source };
        let mut params = params("daemonlet-control", None, now, CERTIFICATE_LASTS);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(make)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, "the endpoint", now)
    }

    /// For a user with a certificate, as `kubectl` uses it.
    pub fn user(&self, name: &str, group: &str, now: Timestamp) -> Result<Issued, AuthorityError> {
        let mut params = params(name, Some(group), now, CERTIFICATE_LASTS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, name, now)
    }

    /// For a node, which keeps its key. What the request says besides the key does not count.
    pub fn node(&self, name: &str, request: &Request, now: Timestamp) -> Result<Signed, AuthorityError> {
        let mut params = params(&format!("{NODE_PREFIX}{name}"), Some(NODES), now, CERTIFICATE_LASTS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.public, &self.issuer)
            .map_err(|source| AuthorityError::Make { of: format!("node {name}"), source })?;
        Ok(Signed {
            certificate: certificate.der().to_vec(),
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            not_after: end(now, CERTIFICATE_LASTS),
            key: request.key(),
        })
    }

    fn issue(&self, params: CertificateParams, of: &str, now: Timestamp) -> Result<Issued, AuthorityError> {
        let make = |source| AuthorityError::Make { of: of.to_owned(), source };
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Issued {
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            key_pem: key.serialize_pem(),
            not_after: end(now, CERTIFICATE_LASTS),
        })
    }
}

/// Keys are nobody's to print.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("pin", &self.pin()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Request {
    /// Of a request in DER (PKCS #10): its signature shows that the asker has the key.
    pub fn parse(der: &[u8]) -> Result<Request, AuthorityError> {
        if der.len() > REQUEST_MAX {
            return Err(AuthorityError::TooLarge(der.len()));
        }
        let parsed = CertificateSigningRequestParams::from_der(&der.into()).map_err(AuthorityError::Request)?;
        Ok(Request { public: parsed.public_key })
    }

    /// [`key_of`] its key.
    pub fn key(&self) -> String {
        key_of(&self.public.subject_public_key_info())
    }
}

/// By what a key is remembered: the SHA-256 of its SubjectPublicKeyInfo (RFC 5280, 4.1), as hexadecimal digits.
pub fn key_of(public_key_info: &[u8]) -> String {
    hex(&Sha256::digest(public_key_info))
}

/// The key for rustls.
pub fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn end(now: Timestamp, lasts: Duration) -> Timestamp {
    now.checked_add(lasts).unwrap_or(Timestamp::MAX)
}

/// A certificate of nothing yet for this subject.
fn params(name: &str, group: Option<&str>, now: Timestamp, lasts: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let begin = now.checked_sub(CLOCKS_DIFFER).unwrap_or(now);
    // rcgen counts in its own calendar; from 1970 on it is the same number of seconds.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    params.not_before = epoch + since(begin);
    params.not_after = epoch + since(end(now, lasts));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests;
