//! Small files that survive a power cut whole: written beside, synced, the newest moved to `.old`, the new one renamed into its
//! place, the directory synced. At every instant one whole generation stands; a line at its top carries format and checksum.
//!
//! Driven by `records` and `contents`; knows nothing of what the files mean.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::seams::Files;

/// The file's content for this body.
pub fn seal(format: &str, body: &[u8]) -> Vec<u8> {
    let mut content = format!("{format} {}\n", checksum(body)).into_bytes();
    content.extend(body);
    content
}

/// The body again, or why it cannot be trusted. `what`: for the sentence.
pub fn unseal<'c>(format: &str, what: &str, content: &'c [u8]) -> Result<&'c [u8], String> {
    let end = content.iter().position(|b| *b == b'\n').ok_or("cut short")?;
    let head = std::str::from_utf8(&content[..end]).map_err(|_| format!("not a {what}"))?;
    let body = &content[end + 1..];
    match head.split_once(' ') {
        Some((found, sum)) if found == format && sum == checksum(body) => Ok(body),
        Some((found, _)) if found == format => Err("its checksum does not match: damaged".into()),
        _ => Err(format!("unknown format {head:?}: written by a newer version?")),
    }
}

/// Makes this the newest generation.
pub async fn replace(files: &impl Files, path: &Path, content: Vec<u8>) -> io::Result<()> {
    let beside = path.with_extension("new");
    files.write(&beside, content).await?;
    files.sync(&beside).await?;
    match files.rename(path, &path.with_extension("old")).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    files.rename(&beside, path).await?;
    files.sync_dir(parent(path)).await
}

/// Removes all generations. Ok when there is none.
pub async fn remove(files: &impl Files, path: &Path) -> io::Result<()> {
    // The older generation first: a crash in between must not bring an outlived one back.
    let aside = ["new", "damaged", "damaged-old", "old"].map(|extension| path.with_extension(extension));
    for path in aside.into_iter().chain([path.to_owned()]) {
        match files.remove(&path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    files.sync_dir(parent(path)).await
}

/// The generations of a file, newest first, with what each is called when it is damaged and set aside.
pub fn generations(path: &Path) -> [(PathBuf, PathBuf); 2] {
    let aside = |extension: &str| path.with_extension(extension);
    [(path.to_owned(), aside("damaged")), (path.with_extension("old"), aside("damaged-old"))]
}

/// Removes what a writer that was killed has left of a generation that never came to be: nothing of it is ever read. Only for a start, when
/// nobody writes. What cannot be removed stays for the next one.
pub async fn sweep(files: &impl Files, dir: &Path, listed: &[String]) {
    for name in listed.iter().filter(|name| name.ends_with(".new")) {
        let _ = files.remove(&dir.join(name)).await;
    }
}

/// Of the names in a directory those of which any generation is there.
pub fn names(listed: &[String]) -> Vec<String> {
    let mut names: Vec<String> = listed
        .iter()
        .map(|name| name.strip_suffix(".old").unwrap_or(name))
        .filter(|name| !name.contains('.'))
        .map(str::to_owned)
        .collect();
    names.dedup();
    names
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("it is a file in a directory of ours")
}

fn checksum(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect()
}
