//! ConfigMaps and Secrets as they were good last, on disk: a bad edit, a directory that is away and a boot without it find
//! them again. Driven by `desired`, which says what is good of each source after every merge; what counts is `merge`'s.
//!
//! `<state>/contents/<source>/<letters>` holds one document, as [`crate::durable`] writes it, mode 0600 in directories of mode
//! 0700; the letters are a digest of its kind and name. Nothing of a document's values is ever said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pod::content::{ContentKey, Contents, Kept};
use pod::desired::{Origin, Source};
use pod::manifest::parse_kept;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::durable;
use crate::seams::Files;

/// The first word of a file: a format that later versions go on reading.
const FORMAT: &str = "daemonlet-content-1";

/// A document holds 1 MiB at most; base64 and JSON's escapes make it larger, six times at the worst.
const FILE_LIMIT: u64 = 8 << 20;

/// How soon a disk that did not take a document is tried again.
const RETRY: Duration = Duration::from_secs(30);

const SALT: &str = "salt";

/// What is good of every source.
pub type All = BTreeMap<(Source, ContentKey), Kept>;

#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    #[error("cannot list {}: the state directory must exist and be writable", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read or write {}: see --state-dir", path.display())]
    Salt {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The documents of one node.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Loaded {
    pub all: All,
    /// Belongs to this node for ever and is told nobody ([`pod::merge::stamp`]).
    pub salt: Vec<u8>,
}

/// What counts of it before any source has said more: of the first source that has it.
pub fn counting(all: &All) -> Contents {
    let mut counting = BTreeMap::new();
    for ((_, key), kept) in all {
        counting.entry(key.clone()).or_insert_with(|| kept.content.clone());
    }
    Contents::new(counting)
}

/// One file's body.
#[derive(Serialize, Deserialize)]
struct Stored {
    origin: Origin,
    document: serde_json::Value,
}

impl Store {
    pub fn new(state_dir: &Path) -> Store {
        Store { dir: state_dir.join("contents") }
    }

    /// All documents, from the newest whole generation of each. `random`: a salt for a node that has none yet.
    pub async fn load(&self, files: &impl Files, random: [u8; 16]) -> Result<Loaded, ContentsError> {
        let list = |path: PathBuf| async move {
            files.list(&path).await.map_err(|source| ContentsError::List { path: path.clone(), source })
        };
        list(self.dir.clone()).await?;
        let mut loaded = Loaded { salt: self.salt(files, random).await?, all: All::new() };
        for source in [Source::Static, Source::Control] {
            let dir = self.dir.join(folder(source));
            let listed = list(dir.clone()).await?;
            durable::sweep(files, &dir, &listed).await;
            for name in durable::names(&listed) {
                match load_one(files, &dir.join(&name)).await {
                    Ok((key, kept)) => drop(loaded.all.insert((source, key), kept)),
                    Err(why) => tracing::error!(file = %dir.join(name).display(), why,
                        "a ConfigMap or Secret that was kept cannot be read: until its document can, it is not there"),
                }
            }
        }
        Ok(loaded)
    }

    async fn salt(&self, files: &impl Files, random: [u8; 16]) -> Result<Vec<u8>, ContentsError> {
        let path = self.dir.join(SALT);
        let failed = |source| ContentsError::Salt { path: path.clone(), source };
        match files.read(&path, 64).await {
            Ok(salt) if !salt.is_empty() => Ok(salt),
            Ok(_) => durable::replace(files, &path, random.to_vec()).await.map_err(failed).map(|()| random.to_vec()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                durable::replace(files, &path, random.to_vec()).await.map_err(failed).map(|()| random.to_vec())
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Brings the disk from what it has to what is good now, and goes on until nobody says more. What the disk does not take
    /// is tried again.
    pub async fn follow(self, files: impl Files, mut on_disk: All, mut good: watch::Receiver<All>) {
        let mut told = false;
        loop {
            let wanted = good.borrow_and_update().clone();
            let failed = self.write(&files, &mut on_disk, &wanted).await;
            if let Some(why) = &failed
                && !told
            {
                tracing::error!(why, dir = %self.dir.display(),
                    "ConfigMaps and Secrets cannot be kept on disk: after a restart they are those of the manifests alone");
            }
            told = failed.is_some();
            let again = async {
                match failed {
                    Some(_) => tokio::time::sleep(RETRY).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = good.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// The first thing that went wrong.
    async fn write(&self, files: &impl Files, on_disk: &mut All, wanted: &All) -> Option<String> {
        let mut failed = None;
        let gone: Vec<_> = on_disk.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            match durable::remove(files, &self.path(&key)).await {
                Ok(()) => drop(on_disk.remove(&key)),
                Err(e) => failed = failed.or_else(|| Some(e.to_string())),
            }
        }
        for (key, kept) in wanted {
            if on_disk.get(key).is_some_and(|known| is_same(known, kept)) {
                continue;
            }
            let stored = Stored { origin: kept.origin.clone(), document: kept.content.to_document(&key.1) };
            let body = serde_json::to_vec(&stored).expect("a document has string keys only");
            match durable::replace(files, &self.path(key), durable::seal(FORMAT, &body)).await {
                Ok(()) => drop(on_disk.insert(key.clone(), kept.clone())),
                Err(e) => failed = failed.or_else(|| Some(e.to_string())),
            }
        }
        failed
    }

    fn path(&self, (source, key): &(Source, ContentKey)) -> PathBuf {
        let digest = Sha256::digest(key.to_string());
        let name: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.dir.join(folder(*source)).join(name)
    }
}

/// A document that moved within its file need not be written again.
fn is_same(a: &Kept, b: &Kept) -> bool {
    (a.origin.source, &a.origin.file, &a.content) == (b.origin.source, &b.origin.file, &b.content)
}

fn folder(source: Source) -> &'static str {
    match source {
        Source::Static => "static",
        Source::Control => "control",
    }
}

async fn load_one(files: &impl Files, path: &Path) -> Result<(ContentKey, Kept), String> {
    let mut why = Vec::new();
    for (path, aside) in durable::generations(path) {
        let read = match files.read(&path, FILE_LIMIT).await {
            Ok(content) => read(&content),
            Err(e) => {
                why.push(e.to_string());
                continue;
            }
        };
        match read {
            Ok(found) => return Ok(found),
            Err(reason) => why.push(reason),
        }
        // Out of the way, or the next generation would put it in the place of the older one, which is whole.
        let _ = files.rename(&path, &aside).await;
    }
    Err(why.join("; "))
}

fn read(content: &[u8]) -> Result<(ContentKey, Kept), String> {
    let body = durable::unseal(FORMAT, "kept document", content)?;
    let Stored { origin, document } = serde_json::from_slice(body).map_err(|e| format!("not a kept document: {e}"))?;
    let parsed = parse_kept(&document, &origin);
    let (key, content) = parsed.map_err(|faults| faults.first().map(ToString::to_string).unwrap_or_default())?;
    Ok((key, Kept { origin, content: Arc::new(content) }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use pod::manifest::{Context, Document, parse};

    use super::*;
    use crate::disk::Disk;

    const SALT_OF: [u8; 16] = *b"0123456789abcdef";

    fn all(text: &str) -> All {
        let parsed = parse("a.yaml", text.as_bytes(), &Context::default());
        let kept = |document: pod::manifest::DocumentOutcome| {
            let Ok(Document::Content { key, content }) = document.result else { panic!("{:?}", document.result) };
            let origin = Origin { source: Source::Static, file: "a.yaml".into(), line: document.line };
            ((Source::Static, key), Kept { origin, content })
        };
        parsed.documents.into_iter().map(kept).collect()
    }

    fn secret(password: &str) -> All {
        all(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{password: {password}}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{a: b}}\n"
        ))
    }

    async fn written(dir: &Path, histories: &[All]) -> Loaded {
        let store = Store::new(dir);
        let loaded = store.load(&Disk, SALT_OF).await.unwrap();
        let mut on_disk = loaded.all;
        for all in histories {
            assert_eq!(store.write(&Disk, &mut on_disk, all).await, None);
        }
        store.load(&Disk, [0; 16]).await.unwrap()
    }

    fn entries(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_good_last_is_found_again_and_what_is_gone_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let loaded = written(dir.path(), &[secret("one"), secret("two")]).await;
        assert_eq!((loaded.all, loaded.salt), (secret("two"), SALT_OF.to_vec()));
        let mut less = secret("two");
        less.retain(|(_, key), _| key.name == "m");
        assert_eq!(written(dir.path(), &[less.clone()]).await.all, less);
        assert_eq!(written(dir.path(), &[All::new()]).await.all, All::new());
        assert_eq!(entries(&dir.path().join("contents/static")), Vec::<PathBuf>::new());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_root_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[secret("one"), secret("two")]).await;
        let root = dir.path().join("contents");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&root), mode(&root.join("static"))), (0o700, 0o700));
        let files = entries(&root.join("static"));
        assert_eq!(files.len(), 3, "two documents, one of them with the generation before: {files:?}");
        assert!(files.iter().chain([&root.join("salt")]).all(|path| mode(path) == 0o600));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_damaged_generation_falls_back_to_the_older() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[secret("one"), secret("two")]).await;
        let root = dir.path().join("contents/static");
        let damaged = entries(&root)
            .into_iter()
            .find(|path| path.extension().is_none() && path.with_extension("old").exists())
            .unwrap();
        let mut content = fs::read(&damaged).unwrap();
        let last = content.len() - 3;
        content[last] ^= 1;
        fs::write(&damaged, &content).unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.load(&Disk, [0; 16]).await.unwrap().all, secret("one"));
        assert!(damaged.with_extension("damaged").exists());
    }
}
