//! A connection to the control endpoint: names, TCP, TLS by the authority that the node knows, HTTP/2 with pings.
//!
//! The endpoint is known by its authority and not by its name: that signs a server's certificate for nobody else, and a node may reach
//! the endpoint by a name or an address that the endpoint itself does not know.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::identity::Identity;
use crate::config::ControlUrl;
use crate::registry::names::Names;

/// For each address of the endpoint, until TCP stands.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Until TLS stands.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often the other side is asked whether it is there: a connection that is cut one way only says nothing by itself.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Until it has to answer that.
const PONG_MAX: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the node's key or certificate cannot be used: {0}")]
    Identity(String),
    #[error("cannot find {host}: {why}")]
    Name { host: String, why: String },
    #[error("cannot connect to {address}: {why}")]
    Connect { address: SocketAddr, why: String },
    #[error("no TLS with {address}: {why}")]
    Tls { address: SocketAddr, why: String },
    #[error("no HTTP/2 with {address}: {why}")]
    Http { address: SocketAddr, why: String },
}

/// By what the endpoint is known.
pub enum Known<'a> {
    /// SHA-256 of its authority's certificate; the node shows no certificate.
    Pin([u8; 32]),
    By(&'a Identity),
}

/// Connects. Everything is bounded in time.
pub async fn dial(url: &ControlUrl, known: Known<'_>) -> Result<Channel, DialError> {
    let config = Arc::new(config(known)?);
    let (address, tcp) = connect(url).await?;
    let tls = |why: String| DialError::Tls { address, why };
    // It is asked for and not judged by.
    let name = ServerName::try_from(url.host.clone()).map_err(|e| tls(e.to_string()))?;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    let stream = tokio::time::timeout(HANDSHAKE_MAX, handshake)
        .await
        .map_err(|_| tls(format!("no answer for {} s", HANDSHAKE_MAX.as_secs())))?
        .map_err(|e| tls(chain(&e)))?;
    // A connection that is lost ends the session, which dials anew with a back-off of its own.
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection is lost")) }
    });
    Endpoint::from_static("http://control")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
        .keep_alive_while_idle(true)
        .connect_timeout(HANDSHAKE_MAX)
        .connect_with_connector(connector)
        .await
        .map_err(|e| DialError::Http { address, why: chain(&e) })
}

async fn connect(url: &ControlUrl) -> Result<(SocketAddr, TcpStream), DialError> {
    let addresses = match url.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, url.port)],
        Err(_) => {
            let found = Names::default().addresses(&url.host, url.port).await;
            found.map_err(|e| DialError::Name { host: url.host.clone(), why: e.to_string() })?
        }
    };
    let mut last = DialError::Name { host: url.host.clone(), why: "it has no address".into() };
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        let why = match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small messages both ways; where it cannot be set they are slower.
                let _ = stream.set_nodelay(true);
                return Ok((address, stream));
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer for {} s", CONNECT_MAX.as_secs()),
        };
        last = DialError::Connect { address, why };
    }
    Err(last)
}

fn config(known: Known<'_>) -> Result<ClientConfig, DialError> {
    let provider = Arc::new(ring::default_provider());
    let unfit = |why: String| DialError::Identity(why);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for both versions")
        .dangerous();
    let mut config = match known {
        Known::Pin(pin) => builder
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, known: Root::Pin(pin) }))
            .with_no_client_auth(),
        Known::By(identity) => {
            let mut roots = RootCertStore::empty();
            for authority in CertificateDer::pem_slice_iter(identity.authority.as_bytes()) {
                let authority = authority.map_err(|e| unfit(format!("the authority: {e}")))?;
                roots.add(authority).map_err(|e| unfit(format!("the authority: {e}")))?;
            }
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect();
            let chain = chain.map_err(|e| unfit(e.to_string()))?;
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| unfit(e.to_string()))?;
            builder
                .with_custom_certificate_verifier(Arc::new(Verifier { provider, known: Root::Store(roots) }))
                .with_client_auth_cert(chain, key)
                .map_err(|e| unfit(e.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is resumed would bring the certificate of before along.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Takes whoever has a server's certificate of the one authority.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    known: Root,
}

#[derive(Debug)]
enum Root {
    /// The authority is among what is shown, and is this very certificate.
    Pin([u8; 32]),
    Store(RootCertStore),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned;
        let roots = match &self.known {
            Root::Store(roots) => roots,
            Root::Pin(pin) => {
                let is_it = |it: &&CertificateDer<'_>| <[u8; 32]>::from(Sha256::digest(it)) == *pin;
                let shown = intermediates.iter().find(is_it);
                let authority = shown.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                pinned = roots;
                &pinned
            }
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}
