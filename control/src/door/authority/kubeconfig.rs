//! The administrator's kubeconfig: written at first start, and put right when it is missing, damaged, another authority's or near its end. What
//! people have added to it with `kubectl config` (a namespace, other clusters) stays.

use std::io::{self, Read as _};
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
/// The cluster and the context.
const CLUSTER: &str = "daemonlet";
/// The largest kubeconfig that is read back: our own have 4 KiB, and people keep those of many clusters in one.
const FILE_MAX: u64 = 1 << 20;

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
    let found = read(path);
    if found.as_ref().is_some_and(|config| is_good(config, authority, &server, now)) {
        return Ok(false);
    }
    let text = make(found.unwrap_or_default(), authority, &server, now)?;
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

/// None: there is none that a client could read. kubectl writes YAML.
fn read(path: &Path) -> Option<Value> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
    let (config, _) = pod::manifest::yaml_document(&text).ok()?;
    (config["kind"] == "Config").then_some(config)
}

/// `config`: what there is, or null. JSON is YAML; every client reads it.
fn make(mut config: Value, authority: &Authority, server: &str, now: Timestamp) -> Result<String, AuthorityError> {
    let issued = authority.user(ADMINISTRATOR, MASTERS, now)?;
    (config["apiVersion"], config["kind"]) = (json!("v1"), json!("Config"));
    let cluster = json!({
        "server": server,
        "certificate-authority-data": STANDARD.encode(authority.certificate_pem()),
    });
    put(&mut config["clusters"], CLUSTER, "cluster", cluster);
    let user = json!({
        "client-certificate-data": STANDARD.encode(issued.chain_pem),
        "client-key-data": STANDARD.encode(issued.key_pem),
    });
    put(&mut config["users"], ADMINISTRATOR, "user", user);
    if named(&config["contexts"], CLUSTER).is_none() {
        put(&mut config["contexts"], CLUSTER, "context", json!({"cluster": CLUSTER, "user": ADMINISTRATOR}));
    }
    if config["current-context"].as_str().is_none_or(str::is_empty) {
        config["current-context"] = json!(CLUSTER);
    }
    Ok(format!("{config:#}\n"))
}

/// The entry of this name.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry["name"] == name)
}

/// The entry of this name gets this value; the others stay.
fn put(list: &mut Value, name: &str, key: &str, value: Value) {
    let mut entries = list.as_array_mut().map(std::mem::take).unwrap_or_default();
    entries.retain(|entry| entry["name"] != name);
    entries.insert(0, json!({"name": name, key: value}));
    *list = entries.into();
}

/// Whether this, as far as it is ours, would still let an administrator in for a third of a certificate's life.
fn is_good(config: &Value, authority: &Authority, server: &str, now: Timestamp) -> bool {
    let pem = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok());
    let none = Value::Null;
    let cluster = named(&config["clusters"], CLUSTER).map_or(&none, |entry| &entry["cluster"]);
    let user = named(&config["users"], ADMINISTRATOR).map_or(&none, |entry| &entry["user"]);
    let trusted = pem(&cluster["certificate-authority-data"]);
    let certificate = pem(&user["client-certificate-data"]);
    let peer = certificate.and_then(|pem| Peer::of(&CertificateDer::from_pem_slice(&pem).ok()?).ok());
    let lasts = |peer: Peer| {
        now.checked_add(CERTIFICATE_LASTS / 3).is_ok_and(|later| peer.not_after > later) && peer.name == ADMINISTRATOR
    };
    trusted.as_deref() == Some(authority.certificate_pem().as_bytes())
        && cluster["server"] == server
        && peer.is_some_and(lasts)
}
