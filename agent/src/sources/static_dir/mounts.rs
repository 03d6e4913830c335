//! What was mounted on the manifest directory's path when manifests were last found there: a note in the state directory.
//!
//! Driven by `directory`. At a boot the directory may be looked at before its file system is there (a mount unit, a network, a key), and an
//! empty mount point looks like a directory whose manifests were all removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The note in the state directory.
const NAME: &str = "manifest-mounts.json";
/// Its size in bytes: names of a path.
const SIZE_MAX: u64 = 64 << 10;

/// The note. Blocking, as all of this source.
#[derive(Debug)]
pub struct Mounts {
    place: PathBuf,
    noted: Option<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The manifest directory that it is about.
    directory: PathBuf,
    /// Mount points on its way, the directory itself included.
    points: BTreeSet<PathBuf>,
}

impl Mounts {
    /// What is noted. A note that cannot be read counts as none: it only makes the agent more careful.
    pub fn open(state_dir: &Path) -> Mounts {
        use std::io::Read as _;
        let place = state_dir.join(NAME);
        let mut content = Vec::new();
        let read = std::fs::File::open(&place).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut content));
        let noted = read.ok().and_then(|_| serde_json::from_slice(&content).ok());
        Mounts { place, noted }
    }

    /// Why a directory without manifests says nothing: something is not mounted that was when they were last found.
    pub fn awaited(&self, directory: &Path, mounted: &BTreeSet<PathBuf>) -> Option<String> {
        let noted = self.noted.as_ref().filter(|noted| noted.directory == directory)?;
        let missing = noted.points.iter().find(|point| !mounted.contains(*point))?;
        Some(format!(
            "holds no manifest, and {} is not mounted, which was when manifests were last found here: mount it, or remove {} where \
             that is as it should be",
            missing.display(),
            self.place.display()
        ))
    }

    /// Manifests were found while these mount points lay on the way.
    pub fn found(&mut self, directory: &Path, points: BTreeSet<PathBuf>) {
        let note = Some(Note { directory: directory.to_owned(), points }).filter(|note| !note.points.is_empty());
        if note == self.noted {
            return;
        }
        let written = match &note {
            Some(note) => self.write(note),
            None => std::fs::remove_file(&self.place),
        };
        if let Err(error) = written {
            tracing::warn!(%error, note = %self.place.display(), "what is mounted on the manifest directory cannot be noted");
        }
        self.noted = note;
    }

    fn write(&self, note: &Note) -> std::io::Result<()> {
        let new = self.place.with_extension("new");
        let content = serde_json::to_vec(note)?;
        std::fs::write(&new, content)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(names: &[&str]) -> BTreeSet<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_mount_that_was_there_with_manifests_is_awaited_by_the_next_start_until_manifests_are_found_without_it() {
        let state = tempfile::tempdir().unwrap();
        let dir = Path::new("/srv/manifests");
        Mounts::open(state.path()).found(dir, points(&["/srv"]));
        let mut next = Mounts::open(state.path());
        let why = next.awaited(dir, &points(&["/"])).unwrap();
        assert!(why.contains("/srv is not mounted") && why.contains(NAME), "{why}");
        assert_eq!(next.awaited(dir, &points(&["/", "/srv"])), None);
        // Another directory is another matter.
        assert_eq!(next.awaited(Path::new("/etc/manifests"), &points(&["/"])), None);
        next.found(dir, BTreeSet::new());
        assert_eq!(Mounts::open(state.path()).awaited(dir, &points(&["/"])), None);
        assert!(!state.path().join(NAME).exists());
    }

    #[test]
    fn a_note_that_is_none_keeps_nothing_from_being_read() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(NAME), "{\"directory\":").unwrap();
        assert_eq!(Mounts::open(state.path()).awaited(Path::new("/m"), &points(&["/"])), None);
    }
}
