//! Where the authority is kept: in a file beside the embedded store, or with etcd in the store itself, so that several endpoints share it.
//!
//! In both it is one document with a checksum at its top: keys and certificate are whole and belong together, or it is damaged and said to be.
//! In etcd it is as secret as etcd: whoever may read the store may do everything anyway.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Authority, AuthorityError, hex};
use crate::store::{Expected, Store, StoreError, Write};

/// The file's name in the data directory.
pub const FILE: &str = "authority";
/// Its key in the store.
pub const KEY: &str = "/daemonlet/authority";
/// The first word of the document.
const FORMAT: &str = "daemonlet-authority-1";
/// The largest one that is read: ours has 2 KiB.
const DOCUMENT_MAX: u64 = 64 << 10;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot {operation}")]
    File {
        path: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The authority of this data directory, which is made when there is none. Blocks.
pub fn in_directory(directory: &Path, now: Timestamp) -> Result<Authority, KeepError> {
    let path = directory.join(FILE);
    let failed = |operation, source| KeepError::File { path: path.display().to_string(), operation, source };
    match File::open(&path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(DOCUMENT_MAX).read_to_string(&mut text).map_err(|error| failed("be read", error))?;
            Ok(parse(&text, &path.display().to_string(), now)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let authority = Authority::generate(now)?;
            write_private(&path, document(&authority).as_bytes()).map_err(|error| failed("be written", error))?;
            Ok(authority)
        }
        Err(error) => Err(failed("be read", error)),
    }
}

/// The authority of this store, which is made when there is none; of endpoints that start together one makes it.
pub async fn in_store(store: &impl Store, place: &str, now: Timestamp) -> Result<Authority, KeepError> {
    let read = |bytes: &[u8]| {
        let place = format!("{place}, key {KEY}");
        let text = std::str::from_utf8(bytes)
            .map_err(|_| AuthorityError::Damaged { place: place.clone(), why: "damaged: it is no text".into() })?;
        parse(text, &place, now)
    };
    if let Some(entry) = store.get(KEY).await?.entry {
        return Ok(read(&entry.value)?);
    }
    let authority = Authority::generate(now)?;
    let write = Write { key: KEY.into(), value: Some(document(&authority).into_bytes()), expected: Expected::Absent };
    match store.write(write).await {
        Ok(_) => Ok(authority),
        Err(StoreError::Conflict { current: Some(entry), .. }) => Ok(read(&entry.value)?),
        Err(error) => Err(error.into()),
    }
}

/// Makes the data directory, for root alone, or takes it back from others. Blocks.
pub fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes a file that only its owner reads, whole or not at all, durably. Blocks.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// The authority as it is kept.
pub fn document(authority: &Authority) -> String {
    let body = json!({
        "certificate": authority.certificate_pem,
        "key": authority.issuer.key().serialize_pem(),
        "serviceAccountKey": authority.tokens.serialize_pem(),
    });
    let body = format!("{body:#}\n");
    format!("{FORMAT} {}\n{body}", hex(&Sha256::digest(&body)))
}

/// Reads it back. `place`: where it lies, for the errors.
pub fn parse(text: &str, place: &str, now: Timestamp) -> Result<Authority, AuthorityError> {
    let damaged = |why: &str| AuthorityError::Damaged { place: place.to_owned(), why: why.to_owned() };
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged("damaged: it is cut short"))?;
    match head.split_once(' ') {
        Some((FORMAT, sum)) if sum == hex(&Sha256::digest(body)) => {}
        Some((FORMAT, _)) => return Err(damaged("damaged: its checksum does not match")),
        _ => return Err(damaged("not an authority of this version")),
    }
    let body: Value = serde_json::from_str(body).map_err(|_| damaged("damaged: it is no JSON"))?;
    let field = |name: &str| body[name].as_str().ok_or_else(|| damaged(&format!("damaged: it has no {name}")));
    let certificate_pem = field("certificate")?.to_owned();
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|_| damaged("damaged: its certificate is none"))?;
    let key =
        |name| KeyPair::from_pem(field(name)?).map_err(|_| damaged(&format!("damaged: its {name} is no private key")));
    let (key, tokens) = (key("key")?, key("serviceAccountKey")?);
    let (_, parsed) =
        X509Certificate::from_der(&certificate).map_err(|_| damaged("damaged: its certificate is none"))?;
    if !parsed.is_ca() || parsed.public_key().raw != key.subject_public_key_info().as_slice() {
        return Err(damaged("its key is not the one of its certificate, or that is no authority's"));
    }
    if parsed.validity().not_after.timestamp() <= now.as_second() {
        let ended = parsed.validity().not_after;
        return Err(damaged(&format!("the authority ended at {ended}, or this machine's clock ({now}) is wrong")));
    }
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| damaged("its certificate cannot be read"))?;
    Ok(Authority { certificate, certificate_pem, issuer, tokens })
}
