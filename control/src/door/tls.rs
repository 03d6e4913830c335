//! TLS of both listeners: the endpoint's certificate, which is replaced while it runs, and what client certificates are let through.
//!
//! Driven by `serve`, `http` and `fleet`. A client certificate is always the authority's; without one nobody is turned away here, because health,
//! version and joining need none. What its owner may do is decided behind.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::authority::{Authority, AuthorityError, CERTIFICATE_LASTS, Peer};

/// For how long a node whose certificate has ended may still renew it.
pub const EXPIRED_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot configure TLS")]
    Configure(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The endpoint's own certificate, the newest of which every new connection is shown.
#[derive(Debug)]
pub struct ServerCertificate {
    authority: Arc<Authority>,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    names: Names,
    not_after: Timestamp,
}

/// Under what the endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl ServerCertificate {
    /// Makes one for these names.
    pub fn new(authority: Arc<Authority>, names: Names, now: Timestamp) -> Result<ServerCertificate, TlsError> {
        let current = RwLock::new(make(&authority, names, now)?);
        Ok(ServerCertificate { authority, current })
    }

    /// Makes another where a third of its life is left or the names are others. True: it did.
    pub fn renew(&self, names: Names, now: Timestamp) -> Result<bool, TlsError> {
        let is_good = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            let later = now.checked_add(CERTIFICATE_LASTS / 3).unwrap_or(Timestamp::MAX);
            // After a clock that ran ahead was set back it would not be good yet: no harm, it is made anew then too.
            current.not_after > later && current.names == names
        };
        if is_good {
            return Ok(false);
        }
        let made = make(&self.authority, names, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(true)
    }

    /// When the present one ends.
    pub fn not_after(&self) -> Timestamp {
        self.current.read().unwrap_or_else(PoisonError::into_inner).not_after
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).key.clone())
    }
}

/// For clients of the API: a certificate that is shown has to be good today.
pub fn for_clients(certificate: Arc<ServerCertificate>, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let verifier = verifier(&certificate.authority)?;
    configure(certificate, verifier, alpn)
}

/// For nodes: one that ended less than [`EXPIRED_MAX`] ago is let through as well, to be renewed and for nothing else
/// ([`super::join::Joining::node`] tells them apart).
pub fn for_nodes(certificate: Arc<ServerCertificate>, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let inner = verifier(&certificate.authority)?;
    configure(certificate, Arc::new(ExpiredToo { inner }), alpn)
}

fn configure(
    certificate: Arc<ServerCertificate>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // A resumed session would bring the certificate of before along, whatever has become of it.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn verifier(authority: &Authority) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(unfit)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    builder.allow_unauthenticated().build().map_err(unfit)
}

fn make(authority: &Authority, names: Names, now: Timestamp) -> Result<Current, TlsError> {
    let issued = authority.server(&names.names, &names.addresses, now)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(unfit)?;
    let key = CertifiedKey::from_der(chain.map_err(unfit)?, key, &provider()).map_err(unfit)?;
    Ok(Current { key: Arc::new(key), names, not_after: issued.not_after })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unfit(source: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Configure(Box::new(source))
}

/// Lets what has ended be judged as of the moment before it did.
#[derive(Debug)]
struct ExpiredToo {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for ExpiredToo {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let judged = self.inner.verify_client_cert(end_entity, intermediates, now);
        let Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) =
            judged
        else {
            return judged;
        };
        let Ok(peer) = Peer::of(end_entity) else { return judged };
        let ended = u64::try_from(peer.not_after.as_second()).unwrap_or(0);
        if now.as_secs().saturating_sub(ended) > EXPIRED_MAX.as_secs() {
            return judged;
        }
        let before = UnixTime::since_unix_epoch(Duration::from_secs(ended.saturating_sub(1)));
        self.inner.verify_client_cert(end_entity, intermediates, before)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
