//! A backup: one file with the store as it was at one moment and the authority, and with their digests, by which a file that was cut short or
//! changed is known. It is a tar archive, so that it can be looked into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::door::authority::Authority;
use crate::door::authority::keep;
use crate::store::StoreError;
use crate::store::embedded::Embedded;

/// The entries. What they are is written last, so that an archive that ends early has no end.
const STORE: &str = "store";
const AUTHORITY: &str = "authority";
const ABOUT: &str = "about.json";
/// What a copy of this kind says of itself.
const FORMAT: u64 = 1;
/// The authority and what the copy is are pages of text.
const SMALL_MAX: u64 = 64 << 10;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{path}: cannot {operation}")]
    File {
        path: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the store cannot be copied")]
    Store(#[source] StoreError),
    #[error("{path} is no whole backup: {why}")]
    Broken { path: String, why: String },
}

/// What a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub made: Timestamp,
}

/// A copy of a store, in a file that goes away with it, and the authority.
pub struct Copy {
    store: Temporary,
    authority: String,
}

/// A copy that has been unpacked and looked at.
pub struct Unpacked {
    pub about: About,
    pub authority: String,
    store: Temporary,
}

impl Unpacked {
    pub fn store(&self) -> &Path {
        &self.store.0
    }
}

/// A file that is deleted when nobody needs it any more.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Copies the store as it is now, while it goes on. Blocks.
pub fn of(store: &Embedded, authority: &Authority, data_dir: &Path) -> Result<Copy, CopyError> {
    // Two backups at a time are two files.
    let name = format!("backup-{}", uuid::Uuid::new_v4());
    let store_copy = Temporary(data_dir.join(name));
    store.backup(&store_copy.0).map_err(CopyError::Store)?;
    Ok(Copy { store: store_copy, authority: keep::document(authority) })
}

impl Copy {
    /// Writes it out. Blocks.
    pub fn write(self, to: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        let mut file = File::open(&self.store.0)?;
        let size = file.metadata()?.len();
        let mut hashed = Hashed { inner: (&mut file).take(size), hash: Sha256::new() };
        archive.append_data(&mut header(size), STORE, &mut hashed)?;
        let store = digest(hashed.hash);
        archive.append_data(&mut header(len(&self.authority)), AUTHORITY, self.authority.as_bytes())?;
        let about = json!({
            "format": FORMAT,
            "made": Timestamp::now().to_string(),
            "sha256": { STORE: store, AUTHORITY: digest(Sha256::new_with_prefix(&self.authority)) },
        });
        let about = format!("{about:#}\n");
        archive.append_data(&mut header(len(&about)), ABOUT, about.as_bytes())?;
        archive.into_inner()?.flush()
    }
}

/// Writes what comes to a file for root alone, once it is there and whole. Blocks.
pub fn take(mut from: impl Read, to: &Path) -> Result<(), CopyError> {
    let failed = |operation, source| CopyError::File { path: to.display().to_string(), operation, source };
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = Temporary(to.with_file_name(name));
    let _ = fs::remove_file(&beside.0);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside.0)
        .map_err(|error| failed("be written", error))?;
    io::copy(&mut from, &mut file).and_then(|_| file.sync_all()).map_err(|error| failed("be written", error))?;
    drop(file);
    let written = File::open(&beside.0).map_err(|error| failed("be read back", error))?;
    look(written, to, &mut io::sink())?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(&beside.0, to)
        .and_then(|()| File::open(parent)?.sync_all())
        .map_err(|error| failed("be put in place", error))
}

/// Unpacks a copy into the data directory, beside what is there. `path`: of the copy, for the errors. Blocks.
pub fn unpack(from: File, path: &Path, data_dir: &Path) -> Result<Unpacked, CopyError> {
    let store = Temporary(data_dir.join("restore.new"));
    let failed = |source| CopyError::File { path: store.0.display().to_string(), operation: "be written", source };
    let _ = fs::remove_file(&store.0);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&store.0);
    let mut file = file.map_err(failed)?;
    let (about, authority) = look(from, path, &mut file)?;
    file.sync_all().map_err(failed)?;
    Ok(Unpacked { about, authority, store })
}

/// Reads a copy from its beginning to its end; the store in it goes to `store`. What it is, and the authority.
fn look(from: File, path: &Path, store: &mut dyn Write) -> Result<(About, String), CopyError> {
    let broken = |why: String| CopyError::Broken { path: path.display().to_string(), why };
    let cut = |error: io::Error| broken(format!("it cannot be read to its end: {error}"));
    let mut archive = tar::Archive::new(from);
    let (mut digests, mut authority, mut about) = (Vec::new(), None, None);
    for entry in archive.entries().map_err(cut)? {
        let entry = entry.map_err(cut)?;
        let name = entry.path().map_err(cut)?.display().to_string();
        if !entry.header().entry_type().is_file() {
            return Err(broken(format!("{name} does not belong into it")));
        }
        match name.as_str() {
            STORE => {
                let mut hashed = Hashed { inner: entry, hash: Sha256::new() };
                io::copy(&mut hashed, store).map_err(cut)?;
                digests.push((STORE, digest(hashed.hash)));
            }
            AUTHORITY | ABOUT => {
                let mut text = String::new();
                entry.take(SMALL_MAX).read_to_string(&mut text).map_err(cut)?;
                if name == ABOUT {
                    about = serde_json::from_str::<Value>(&text).ok();
                } else {
                    digests.push((AUTHORITY, digest(Sha256::new_with_prefix(&text))));
                    authority = Some(text);
                }
            }
            _ => return Err(broken(format!("{name} does not belong into it"))),
        }
    }
    let about = about.ok_or_else(|| broken("its end is missing".into()))?;
    if about["format"] != FORMAT {
        return Err(broken(format!("it is of format {}, which this version does not read", about["format"])));
    }
    for name in [STORE, AUTHORITY] {
        let found = digests.iter().find(|(of, _)| *of == name);
        if found.is_none_or(|(_, digest)| about["sha256"][name] != *digest) {
            return Err(broken(format!("{name} is missing or damaged")));
        }
    }
    let made = about["made"].as_str().and_then(|text| text.parse().ok());
    let about = About { made: made.ok_or_else(|| broken("it does not say when it was made".into()))? };
    Ok((about, authority.unwrap_or_default()))
}

/// Counts what is read into a digest.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header
}

fn len(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn digest(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::authority::Authority;

    #[test]
    fn a_copy_is_whole_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store.live")).unwrap();
        let authority = Authority::generate(Timestamp::now()).unwrap();
        let mut archive = Vec::new();
        of(&store, &authority, dir.path()).unwrap().write(&mut archive).unwrap();
        let file = dir.path().join("backup");
        take(archive.as_slice(), &file).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let unpack_file = |file: &Path| unpack(File::open(file).unwrap(), file, dir.path());
        let unpacked = unpack_file(&file).unwrap();
        assert_eq!(unpacked.authority, keep::document(&authority));
        Embedded::open(unpacked.store()).unwrap();
        drop(unpacked);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");

        let cut = dir.path().join("cut");
        for length in [0, 100, 512, archive.len() / 2, archive.len() - 2 * 512 - 1024] {
            assert!(matches!(take(&archive[..length], &cut), Err(CopyError::Broken { .. })), "{length} bytes");
        }
        assert!(!cut.exists(), "nothing is left that looks like a backup");
        let mut changed = archive.clone();
        changed[archive.len() / 3] ^= 1;
        fs::write(&cut, &changed).unwrap();
        assert!(matches!(unpack_file(&cut), Err(CopyError::Broken { .. })));
    }
}
