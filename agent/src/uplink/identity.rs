//! Who this node is to the control endpoint: its key and certificate, the authority that it knows the endpoint by, and the token by
//! which it joins. One file, so that they always belong together: `<state>/control/identity`, mode 0600.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::DIRECTORY;
use crate::durable;
use crate::registry::certificate;
use crate::seams::Files;

/// The first word of the file: a format that later versions go on reading.
const FORMAT: &str = "daemonlet-identity-1";
/// A key, three certificates, and room.
const FILE_LIMIT: u64 = 256 << 10;
/// A token file with its line's end; more is another file.
const TOKEN_FILE_LIMIT: u64 = 4096;

/// What a node shows, and by what it knows the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name that the certificate is for.
    pub node: String,
    /// PEM.
    pub key: String,
    /// PEM, the node's own first.
    pub chain: String,
    /// PEM.
    pub authority: String,
    /// When it was given.
    pub since: Timestamp,
    /// When the certificate ends.
    pub until: Timestamp,
}

/// A join token in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// `id.secret`: what the endpoint is shown.
    pub token: String,
    /// SHA-256 of the authority's certificate: what the endpoint is known by until then.
    pub pin: [u8; 32],
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read the join token from {}: {why}", path.display())]
    TokenFile { path: PathBuf, why: String },
    #[error("no join token: its form is ID.SECRET.PIN, as `daemonlet-control token create` prints it")]
    NoToken,
    #[error("cannot make a key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the control endpoint's answer is no certificate: {0}")]
    Answer(&'static str),
    #[error("cannot keep the node's certificate in {}: see --state-dir", path.display())]
    Save {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Ticket {
    /// `ID.SECRET.PIN`.
    pub fn parse(text: &str) -> Result<Ticket, IdentityError> {
        let (token, pin) = text.trim().rsplit_once('.').ok_or(IdentityError::NoToken)?;
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        let (id, secret) = token.split_once('.').ok_or(IdentityError::NoToken)?;
        let pin = unhex(pin).filter(|_| word(id) && word(secret) && token.len() < 256).ok_or(IdentityError::NoToken)?;
        Ok(Ticket { token: token.to_owned(), pin })
    }

    pub async fn read(path: &Path, files: &impl Files) -> Result<Ticket, IdentityError> {
        let unreadable = |why: String| IdentityError::TokenFile { path: path.to_owned(), why };
        let content = files.read(path, TOKEN_FILE_LIMIT).await.map_err(|e| unreadable(e.to_string()))?;
        Ticket::parse(&String::from_utf8_lossy(&content)).map_err(|e| unreadable(e.to_string()))
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// A new key and the request for its certificate: PKCS#10, DER.
pub fn request() -> Result<(KeyPair, Vec<u8>), IdentityError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

/// Whether this is the authority (PEM) that a token pins.
pub fn is_pinned(authority: &str, pin: &[u8; 32]) -> bool {
    let first = CertificateDer::from_pem_slice(authority.as_bytes());
    first.is_ok_and(|authority| <[u8; 32]>::from(Sha256::digest(&authority)) == *pin)
}

impl Identity {
    /// From what the endpoint answered to a request.
    pub fn new(node: &str, key: &KeyPair, chain: String, authority: String) -> Result<Identity, IdentityError> {
        let first = CertificateDer::pem_slice_iter(chain.as_bytes()).next();
        let own = first.and_then(Result::ok).ok_or(IdentityError::Answer("its chain is none"))?;
        let until = certificate::ends(&own).ok_or(IdentityError::Answer("it does not say when it ends"))?;
        if CertificateDer::from_pem_slice(authority.as_bytes()).is_err() {
            return Err(IdentityError::Answer("it has no authority"));
        }
        let (node, key) = (node.to_owned(), key.serialize_pem());
        Ok(Identity { node, key, chain, authority, since: Timestamp::now(), until })
    }

    /// When its successor is asked for: a third of its life is left.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.until.duration_since(self.since);
        self.until.checked_sub(life / 3).unwrap_or(self.until)
    }
}

/// What becomes of a generation that is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damaged {
    Aside,
    Stays,
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    pub fn new(state_dir: &Path) -> Place {
        Place { path: state_dir.join(DIRECTORY).join("identity") }
    }

    /// As [`Place::load`], and changes nothing.
    pub async fn look(&self, files: &impl Files) -> Result<Option<Identity>, String> {
        self.read(files, Damaged::Stays).await
    }

    /// None: the node has not joined. Err: it has, and what it was given cannot be read.
    pub async fn load(&self, files: &impl Files) -> Result<Option<Identity>, String> {
        self.read(files, Damaged::Aside).await
    }

    async fn read(&self, files: &impl Files, damaged: Damaged) -> Result<Option<Identity>, String> {
        let mut faults = Vec::new();
        for (path, aside) in durable::generations(&self.path) {
            let content = match files.read(&path, FILE_LIMIT).await {
                Ok(content) => content,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => {
                    faults.push(format!("{}: {e}", path.display()));
                    continue;
                }
            };
            let body = durable::unseal(FORMAT, "node's certificate", &content);
            match body.and_then(|body| serde_json::from_slice(body).map_err(|e| e.to_string())) {
                Ok(identity) => return Ok(Some(identity)),
                Err(why) => faults.push(format!("{}: {why}", path.display())),
            }
            if damaged == Damaged::Aside {
                let _ = files.rename(&path, &aside).await;
            }
        }
        if faults.is_empty() { Ok(None) } else { Err(faults.join("; ")) }
    }

    /// Durable when it returns.
    pub async fn save(&self, files: &impl Files, identity: &Identity) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Save { path: self.path.clone(), source };
        files.list(self.path.parent().expect("it is in a directory of ours")).await.map_err(failed)?;
        let body = serde_json::to_vec(identity).expect("it has string keys only");
        durable::replace(files, &self.path, durable::seal(FORMAT, &body)).await.map_err(failed)
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_id_secret_and_pin() {
        let pin = "0f".repeat(32);
        let ticket = Ticket::parse(&format!("abc.def.{pin}\n")).unwrap();
        assert_eq!((ticket.token.as_str(), ticket.pin), ("abc.def", [15; 32]));
        assert!(!format!("{ticket:?}").contains("def"));
        for text in ["", "a.b", &format!("a.{pin}"), &format!(".b.{pin}"), &format!("a.b.c.{pin}"), "a.b.zz"] {
            assert!(Ticket::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_successor_is_asked_for_when_a_third_of_the_life_is_left() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let texts = || String::new();
        let identity = Identity {
            node: texts(),
            key: texts(),
            chain: texts(),
            authority: texts(),
            since: at(1000),
            until: at(4000),
        };
        assert_eq!(identity.renew_at(), at(3000));
    }
}
