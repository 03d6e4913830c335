//! The real [`Files`]: std's file calls on tokio's blocking threads, so that a slow disk never stops the loop.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use tokio::sync::Semaphore;

use crate::seams::Files;
use crate::threads;

/// The machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    async fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        blocking(move || {
            let mut content = Vec::new();
            File::open(&path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
            if content.len() as u64 > limit {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
            }
            Ok(content)
        })
        .await
    }

    async fn write(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || {
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?.write_all(&content)
        })
        .await
    }

    async fn sync(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || File::open(&path)?.sync_all()).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::remove_file(path)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || File::open(dir)?.sync_all()).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_owned();
        blocking(move || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let mut names = Vec::new();
            for entry in fs::read_dir(&dir)? {
                // A name that is not UTF-8 is not one of ours.
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }
}

/// Calls of the disk at once: a disk that hangs keeps as many threads and no more.
static PLACES: Semaphore = Semaphore::const_new(threads::DISK);

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let place = PLACES.acquire().await.map_err(io::Error::other)?;
    let work = move || {
        let done = work();
        // Not before: whoever waits may have given up, the thread has not.
        drop(place);
        done
    };
    threads::in_turn(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
