//! A disk that loses at a power cut whatever was not synced: contents without `sync`, names without `sync_dir`.

use std::io;
use std::path::Path;

use super::world::{FakeDisk, Fate, HANG, World};
use crate::seams::Files;

impl World {
    async fn disk(&self, verb: &str) -> io::Result<Fate> {
        if self.state().disk == FakeDisk::ReadOnly {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.fate(verb).await.map_err(|e| io::Error::other(e.message))
    }

    fn disk_told(&self, verb: &str, fate: Fate) -> io::Result<()> {
        self.told(verb, fate).map_err(|e| io::Error::other(e.message))
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl Files for World {
    async fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.files.get(path).ok_or_else(|| not_found(path))?;
        if file.content.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(file.content.clone())
    }

    async fn write(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let fate = self.disk("write").await?;
        if self.state().disk == FakeDisk::Hangs {
            tokio::time::sleep(HANG).await;
            return Err(io::Error::other("the medium does not answer"));
        }
        let mut state = self.state();
        let full = state.disk == FakeDisk::Full;
        let content = if full { content[..content.len() / 2].to_vec() } else { content };
        let file = state.files.entry(path.to_owned()).or_default();
        file.content = content;
        file.unsynced = true;
        drop(state);
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk_told("write", fate)
    }

    async fn sync(&self, path: &Path) -> io::Result<()> {
        let fate = self.disk("sync").await?;
        self.state().files.get_mut(path).ok_or_else(|| not_found(path))?.unsynced = false;
        self.disk_told("sync", fate)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.state().files.contains_key(from) {
            return Err(not_found(from));
        }
        let fate = self.disk("rename").await?;
        let mut state = self.state();
        let file = state.files.remove(from).ok_or_else(|| not_found(from))?;
        state.files.insert(to.to_owned(), file);
        drop(state);
        self.disk_told("rename", fate)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.state().files.contains_key(path) {
            return Err(not_found(path));
        }
        let fate = self.disk("remove").await?;
        self.state().files.remove(path);
        self.disk_told("remove", fate)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let fate = self.disk("sync_dir").await?;
        let mut state = self.state();
        let inside = |path: &Path| path.parent() == Some(dir);
        state.durable_names.retain(|path, _| !inside(path));
        let now: Vec<_> =
            state.files.iter().filter(|(path, _)| inside(path)).map(|(p, f)| (p.clone(), f.clone())).collect();
        state.durable_names.extend(now);
        drop(state);
        self.disk_told("sync_dir", fate)
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect())
    }
}
