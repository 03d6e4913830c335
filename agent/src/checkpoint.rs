//! The control endpoint's desired set as it was accepted last, on disk: what a node starts from when no endpoint is there.
//!
//! Driven by [`crate::sources::remote`]. `<state>/control/checkpoint` is one file as [`crate::durable`] writes it, mode 0600 in a
//! directory of mode 0700, because Secrets are in it: objects as they were received, to be read by the parser that reads them from the
//! wire. One with Secrets is sealed where this machine can do that ([`sealing`]).

mod sealing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::seams::Files;
use crate::sources::remote::{Generation, Object, Set, Surroundings};

pub use sealing::Sealing;

/// The directory of everything that has to do with the control endpoint, beneath the state directory.
pub const DIRECTORY: &str = "control";

/// The first word of the file: a format that later versions go on reading.
const FORMAT: &str = "daemonlet-checkpoint-1";

/// The same of a file whose body is sealed.
const SEALED: &str = "daemonlet-checkpoint-sealed-1";
/// Of objects that are not to be read by whoever comes by the disk.
const SECRET: &str = "Secret";

/// The largest set there is, with base64 around the worst of it.
const FILE_LIMIT: u64 = 200 << 20;

/// Where the set is kept.
pub struct Checkpoint<F> {
    path: PathBuf,
    files: F,
    /// None: nothing is sealed, and nothing that is can be opened.
    sealing: Option<Sealing>,
    /// The older generation is known to be sealed.
    old_is_sealed: AtomicBool,
}

/// What a generation of the file is good for.
enum Fault {
    Damaged(String),
    /// It is whole, as far as can be seen, and cannot be opened at present.
    Sealed(String),
}

/// What a node starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// There never was a set.
    Nothing,
    /// What was accepted last, with its digest.
    Newest { set: Set, digest: [u8; 32], sealed: bool },
    /// One that was accepted before that, and why what came after it is lost. It knows nothing of pods that came since.
    Older { set: Set, why: String },
}

/// Why there is nothing to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub why: String,
    /// It is whole and could not be opened: another try may.
    pub shut: bool,
}

/// What lies there, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    /// With how many Secrets.
    Open {
        secrets: usize,
    },
    Sealed,
    /// It counts for nothing until the endpoint is heard.
    Unreadable(String),
}

/// The file's body.
#[derive(Serialize, Deserialize)]
struct Stored {
    epoch: u64,
    number: u64,
    /// [`Set::digest`], in hexadecimal digits.
    digest: String,
    labels: BTreeMap<String, String>,
    taints: Vec<String>,
    api_host: String,
    api_port: u16,
    objects: Vec<StoredObject>,
}

#[derive(Serialize, Deserialize)]
struct StoredObject {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    /// As received; what is no text is in `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl<F: Files> Checkpoint<F> {
    pub fn new(state_dir: &Path, files: F) -> Checkpoint<F> {
        Checkpoint {
            path: state_dir.join(DIRECTORY).join("checkpoint"),
            files,
            sealing: None,
            old_is_sealed: AtomicBool::new(false),
        }
    }

    pub fn sealed_by(self, sealing: Sealing) -> Checkpoint<F> {
        Checkpoint { sealing: Some(sealing), ..self }
    }

    /// What lies there. Changes nothing.
    pub async fn look(&self) -> Kept {
        let [newest, older] = durable::generations(&self.path).map(|(path, _)| path);
        match (self.look_at(&newest).await, self.look_at(&older).await) {
            // The older one shows them as well.
            (Kept::Sealed, Kept::Open { secrets }) if secrets > 0 => Kept::Open { secrets },
            (newest, _) => newest,
        }
    }

    async fn look_at(&self, path: &Path) -> Kept {
        let content = match self.files.read(path, FILE_LIMIT).await {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Kept::Nothing,
            Err(e) => return Kept::Unreadable(e.to_string()),
        };
        match self.read(&content).await {
            Ok(_) if is_sealed(&content) => Kept::Sealed,
            Ok((set, _)) => Kept::Open { secrets: set.objects.iter().filter(|object| object.kind == SECRET).count() },
            Err(Fault::Damaged(why) | Fault::Sealed(why)) => Kept::Unreadable(why),
        }
    }

    /// The newest generation of the file, or the one before where that is damaged.
    pub async fn load(&self) -> Result<Loaded, Unreadable> {
        let dir = self.path.parent().expect("it is in a directory of ours");
        let lost = |why: String| Unreadable { why, shut: false };
        let listed = self.files.list(dir).await;
        let listed = listed.map_err(|e| lost(format!("cannot list {}: {e}", dir.display())))?;
        let mut faults = Vec::new();
        for (path, aside) in durable::generations(&self.path) {
            let content = match self.files.read(&path, FILE_LIMIT).await {
                Ok(content) => content,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    // An earlier start has set it aside, and nothing was written since.
                    if aside.file_name().is_some_and(|name| listed.iter().any(|it| name == it.as_str())) {
                        faults.push(format!("{} was damaged", path.display()));
                    }
                    continue;
                }
                Err(e) => {
                    faults.push(format!("{}: {e}", path.display()));
                    continue;
                }
            };
            match self.read(&content).await {
                Ok((set, digest)) if faults.is_empty() => {
                    return Ok(Loaded::Newest { set, digest, sealed: is_sealed(&content) });
                }
                Ok((set, _)) => return Ok(Loaded::Older { set, why: faults.join("; ") }),
                Err(Fault::Damaged(why)) => faults.push(format!("{}: {why}", path.display())),
                // An older one would end pods that it does not know; the records of this node know them all. It stays for the next try, which
                // may be able to open it.
                Err(Fault::Sealed(why)) => {
                    let why = format!("{} is sealed and cannot be opened: {why}", path.display());
                    return Err(Unreadable { why, shut: true });
                }
            }
            // Out of the way, or the next generation would put it in the place of the older one, which is whole.
            let _ = self.files.rename(&path, &aside).await;
        }
        if faults.is_empty() { Ok(Loaded::Nothing) } else { Err(lost(faults.join("; "))) }
    }

    /// Durable when it returns.
    pub async fn write(&self, set: &Set, digest: &[u8; 32]) -> Result<(), String> {
        let key = self.key_for(set).await;
        self.replace(set, digest, key).await
    }

    /// Writes once more, sealed, what lies there open with Secrets in it. Nothing where nothing can be sealed.
    pub async fn seal_anew(&self, set: &Set, digest: &[u8; 32]) -> Result<(), String> {
        match self.key_for(set).await {
            Some(key) => self.replace(set, digest, Some(key)).await,
            None => Ok(()),
        }
    }

    async fn replace(&self, set: &Set, digest: &[u8; 32], key: Option<Arc<sealing::Key>>) -> Result<(), String> {
        let body = serde_json::to_vec(&stored(set, digest)).expect("it has string keys only");
        let content = match &key {
            Some(key) => {
                let sealed = key.seal(body).ok_or("cannot seal the checkpoint: there are no random numbers")?;
                durable::seal(SEALED, &sealed)
            }
            None => durable::seal(FORMAT, &body),
        };
        let written = durable::replace(&self.files, &self.path, content).await;
        written.map_err(|e| format!("cannot write {}: {e}", self.path.display()))?;
        if let Err(error) = self.clear(key.is_some()).await {
            tracing::warn!(%error, path = %self.path.display(), "an older generation, which may show Secrets, cannot be removed");
        }
        Ok(())
    }

    /// What was damaged is of no use any more; and where Secrets are sealed no older generation may show them. A version that knows nothing
    /// of seals finds nothing then, and not a set that is older than its pods.
    async fn clear(&self, sealed: bool) -> std::io::Result<()> {
        let aside = |extension: &str| self.path.with_extension(extension);
        let mut gone = vec![aside("damaged"), aside("damaged-old")];
        if sealed && !self.old_is_sealed.load(Ordering::Relaxed) {
            let old = aside("old");
            match self.files.read(&old, FILE_LIMIT).await {
                Ok(content) if is_sealed(&content) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Ok(_) | Err(_) => gone.push(old),
            }
        }
        for path in gone {
            match self.files.remove(&path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        // What stands now is the older one of the next time.
        self.old_is_sealed.store(sealed, Ordering::Relaxed);
        Ok(())
    }

    /// None: the set has no Secrets, or nothing can be sealed here.
    async fn key_for(&self, set: &Set) -> Option<Arc<sealing::Key>> {
        let sealing = self.sealing.as_ref().filter(|_| set.objects.iter().any(|object| object.kind == SECRET))?;
        sealing.key().await
    }

    async fn read(&self, content: &[u8]) -> Result<(Set, [u8; 32]), Fault> {
        if !is_sealed(content) {
            return read(durable::unseal(FORMAT, "checkpoint", content).map_err(Fault::Damaged)?)
                .map_err(Fault::Damaged);
        }
        let body = durable::unseal(SEALED, "checkpoint", content).map_err(Fault::Damaged)?;
        let sealing = self.sealing.as_ref().ok_or_else(|| Fault::Sealed("nothing here opens it".to_owned()))?;
        read(&sealing.open(body).await.map_err(Fault::Sealed)?).map_err(Fault::Damaged)
    }
}

fn is_sealed(content: &[u8]) -> bool {
    content.starts_with(format!("{SEALED} ").as_bytes())
}

fn stored(set: &Set, digest: &[u8; 32]) -> Stored {
    let Set { generation: Generation { epoch, number }, objects, surroundings } = set;
    let Surroundings { labels, taints, api_host, api_port } = surroundings.clone();
    let object = |it: &Object| {
        let Object { kind, namespace, name, uid, json } = it.clone();
        let (json, base64) = match String::from_utf8(json.into()) {
            Ok(text) => (Some(text), None),
            Err(none) => (None, Some(STANDARD.encode(none.as_bytes()))),
        };
        StoredObject { kind, namespace, name, uid, json, base64 }
    };
    let digest = digest.iter().map(|b| format!("{b:02x}")).collect();
    let objects = objects.iter().map(object).collect();
    Stored { epoch: *epoch, number: *number, digest, labels, taints, api_host, api_port, objects }
}

fn read(body: &[u8]) -> Result<(Set, [u8; 32]), String> {
    let stored: Stored = serde_json::from_slice(body).map_err(|e| format!("not a checkpoint: {e}"))?;
    let Stored { epoch, number, digest, labels, taints, api_host, api_port, objects } = stored;
    let object = |it: StoredObject| {
        let StoredObject { kind, namespace, name, uid, json, base64 } = it;
        let bytes = match (json, base64) {
            (Some(text), _) => Some(text.into_bytes()),
            (None, Some(text)) => STANDARD.decode(text).ok(),
            (None, None) => None,
        };
        let json = Bytes::from(bytes.ok_or("not a checkpoint: an object is not whole")?);
        Ok::<_, String>(Object { kind, namespace, name, uid, json })
    };
    let objects = objects.into_iter().map(object).collect::<Result<_, _>>()?;
    let surroundings = Surroundings { labels, taints, api_host, api_port };
    let digest = unhex(&digest).ok_or("not a checkpoint: its digest is none")?;
    Ok((Set { generation: Generation { epoch, number }, objects, surroundings }, digest))
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
mod tests;
