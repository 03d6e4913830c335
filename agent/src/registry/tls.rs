//! TLS for one host: the system's authorities and those of its hosts.toml, client certificates, or no verification where a hosts.toml says
//! so. Driven by [`super::http`] when a client is made; it reads files and connects nothing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::hosts::Tls;

/// The largest bundle of a system has 250 kB.
const PEM_MAX: u64 = 2 << 20;

/// A file that TLS needs and that cannot be used. Contents are not shown: one of them is a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct TlsError {
    pub file: PathBuf,
    pub reason: String,
}

/// The files' contents, read at one moment: what a client is made of, and what tells two clients apart.
pub struct Material {
    authorities: Vec<(PathBuf, Vec<u8>)>,
    /// Certificate and key; containerd takes several, of which the first one serves.
    client: Option<(PathBuf, Vec<u8>, PathBuf, Vec<u8>)>,
    skip_verify: bool,
}

impl Material {
    pub fn read(tls: &Tls) -> Result<Material, TlsError> {
        let mut authorities = Vec::new();
        for path in &tls.ca {
            authorities.push((path.clone(), read(path)?));
        }
        let client = match tls.client.first() {
            Some((cert, key)) => {
                let key = key.as_ref().unwrap_or(cert);
                Some((cert.clone(), read(cert)?, key.clone(), read(key)?))
            }
            None => None,
        };
        Ok(Material { authorities, client, skip_verify: tls.skip_verify })
    }

    /// The same for the same contents and rules.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&[u8::from(self.skip_verify), u8::from(self.client.is_some())]);
        for (_, bytes) in &self.authorities {
            part(bytes);
        }
        if let Some((_, cert, _, key)) = &self.client {
            part(cert);
            part(key);
        }
        hash.finalize().into()
    }

    /// `system`: the roots of this machine.
    pub fn config(&self, system: &Arc<RootCertStore>) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for both versions");
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            // Shared where nothing is added: the system's roots are the largest part of a client.
            let mut roots = system.clone();
            for (path, bytes) in &self.authorities {
                for certificate in certificates(path, bytes)? {
                    Arc::make_mut(&mut roots).add(certificate).map_err(|error| TlsError {
                        file: path.clone(),
                        reason: format!("a certificate in it is no authority: {error}"),
                    })?;
                }
            }
            builder.with_root_certificates(roots)
        };
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((path, cert, key_path, key)) => {
                let chain = certificates(path, cert)?;
                let failed = |reason: String| TlsError { file: key_path.clone(), reason };
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| failed("holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)".to_owned()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| failed(format!("does not fit {}: {error}", path.display())))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// For whoever may show any certificate: the node's own daemons, when they are probed.
pub fn unverified() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for both versions");
    let verifier = Arc::new(Anyone(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The authorities that this machine trusts (SSL_CERT_FILE and SSL_CERT_DIR count). Reads some hundred files: not on the loop's thread.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// When the first of these certificates ends; None where none can be read.
pub fn first_end(tls: &Tls) -> Option<jiff::Timestamp> {
    let (path, _) = tls.client.first()?;
    let found = certificates(path, &read(path).ok()?).ok()?;
    found.iter().filter_map(|certificate| super::certificate::ends(certificate)).min()
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: &str| TlsError { file: path.to_owned(), reason: reason.to_owned() };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(failed("holds no certificate in PEM")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |reason: String| TlsError { file: path.to_owned(), reason };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 <= PEM_MAX => Ok(bytes),
        Ok(_) => Err(failed(format!("is larger than {PEM_MAX} bytes"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// `skip_verify`: whoever holds the key of the certificate that was shown. Signatures are still checked, names and authorities are not.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_huge_or_empty_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let tls = Tls { ca: vec![path.clone()], ..Tls::default() };
        let error = Material::read(&tls).err().unwrap();
        assert!(error.to_string().contains("ca.pem"), "{error}");
        std::fs::write(&path, "no certificate").unwrap();
        let error = Material::read(&tls).unwrap().config(&Arc::new(RootCertStore::empty())).err().unwrap();
        assert!(error.to_string().contains("holds no certificate"), "{error}");
        std::fs::write(&path, vec![b'x'; PEM_MAX as usize + 1]).unwrap();
        assert!(Material::read(&tls).err().unwrap().to_string().contains("larger"));
    }

    #[test]
    fn a_changed_file_makes_another_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let tls = Tls { ca: vec![path.clone()], ..Tls::default() };
        let of = |text: &str, tls: &Tls| {
            std::fs::write(&path, text).unwrap();
            Material::read(tls).unwrap().fingerprint()
        };
        assert_eq!(of("a", &tls), of("a", &tls));
        assert_ne!(of("a", &tls), of("b", &tls));
        assert_ne!(of("a", &tls), of("a", &Tls { skip_verify: true, ..tls.clone() }));
        assert_ne!(of("", &tls), of("", &Tls::default()));
    }
}
