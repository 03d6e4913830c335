//! The administrator's kubeconfig: written at first start, made anew when it is missing, damaged, another authority's or near its end.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::keep::write_private;
use super::{Authority, AuthorityError, CERTIFICATE_LASTS, MASTERS, Peer};

/// The administrator's user name.
const ADMINISTRATOR: &str = "kubernetes-admin";
/// The largest kubeconfig that is read back: our own have 4 KiB.
const FILE_MAX: u64 = 64 << 10;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{path}: cannot be written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Sees to it that the file lets an administrator in at this address. True: it was written. Blocks.
pub fn ensure(path: &Path, authority: &Authority, listen: SocketAddr, now: Timestamp) -> Result<bool, KubeconfigError> {
    let server = server(listen);
    if std::fs::File::open(path).is_ok_and(|file| {
        use std::io::Read as _;
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).is_ok() && is_good(&text, authority, &server, now)
    }) {
        return Ok(false);
    }
    let text = make(authority, &server, now)?;
    write_private(path, text.as_bytes())
        .map_err(|source| KubeconfigError::Write { path: path.display().to_string(), source })?;
    Ok(true)
}

/// Where a program on this machine finds the endpoint.
pub fn server(listen: SocketAddr) -> String {
    // A socket that listens on [::] takes IPv4 too, and not every machine has an IPv6 loopback.
    let address = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    format!("https://{}", SocketAddr::new(address, listen.port()))
}

/// JSON is YAML; every client reads it.
fn make(authority: &Authority, server: &str, now: Timestamp) -> Result<String, AuthorityError> {
    let issued = authority.user(ADMINISTRATOR, MASTERS, now)?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "daemonlet", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority.certificate_pem()),
        }}],
        "users": [{ "name": ADMINISTRATOR, "user": {
            "client-certificate-data": STANDARD.encode(issued.chain_pem),
            "client-key-data": STANDARD.encode(issued.key_pem),
        }}],
        "contexts": [{ "name": "daemonlet", "context": { "cluster": "daemonlet", "user": ADMINISTRATOR } }],
        "current-context": "daemonlet",
    });
    Ok(format!("{config:#}\n"))
}

/// Whether this text, as far as it is ours, would still let an administrator in for a third of a certificate's life.
fn is_good(text: &str, authority: &Authority, server: &str, now: Timestamp) -> bool {
    let Ok(config) = serde_json::from_str::<Value>(text) else { return false };
    let pem = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok());
    let cluster = &config["clusters"][0]["cluster"];
    let trusted = pem(&cluster["certificate-authority-data"]);
    let certificate = pem(&config["users"][0]["user"]["client-certificate-data"]);
    let peer = certificate.and_then(|pem| Peer::of(&CertificateDer::from_pem_slice(&pem).ok()?).ok());
    let lasts = |peer: Peer| {
        now.checked_add(CERTIFICATE_LASTS / 3).is_ok_and(|later| peer.not_after > later) && peer.name == ADMINISTRATOR
    };
    trusted.as_deref() == Some(authority.certificate_pem().as_bytes())
        && cluster["server"] == server
        && peer.is_some_and(lasts)
}
