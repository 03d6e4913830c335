//! Where a run may say why it ends: a file of its own in the pod's file system in memory, which containers see at their
//! `terminationMessagePath` (v1 Container).
//!
//! Driven by `sandbox`. Blocking, microseconds. The container writes the file and cannot replace it; all the same it is opened as if
//! it could.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use pod::name::RunKey;

/// Of a message, in bytes: Kubernetes' bound. The last ones count.
const BYTES_MAX: u64 = 4096;

fn place(pod_dir: &Path, run: &RunKey) -> PathBuf {
    pod_dir.join("words").join(format!("{}.{}", run.container, run.attempt))
}

/// Makes the file, empty, and answers where it is.
pub fn make(pod_dir: &Path, run: &RunKey) -> io::Result<PathBuf> {
    let place = place(pod_dir, run);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(O_NOFOLLOW).open(&place)?;
    // Whatever user the container runs as may write.
    file.set_permissions(Permissions::from_mode(0o666))?;
    Ok(place)
}

/// What the run has said. None: nothing, or the file is not there any more.
pub fn read(pod_dir: &Path, run: &RunKey) -> Option<String> {
    let open = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(place(pod_dir, run));
    let mut file = open.ok().filter(|file| file.metadata().is_ok_and(|about| about.is_file()))?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX))).ok()?;
    let mut said = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut said).ok()?;
    Some(String::from_utf8_lossy(&said).into_owned()).filter(|said| !said.is_empty())
}

/// The run is gone.
pub fn remove(pod_dir: &Path, run: &RunKey) {
    // What cannot be removed goes with the pod.
    let _ = fs::remove_file(place(pod_dir, run));
}

#[cfg(test)]
mod tests {
    use pod::name::Uid;

    use super::*;

    #[test]
    fn last_bytes_of_what_was_said_count_and_nothing_but_the_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunKey { uid: Uid("u".into()), container: "c".into(), attempt: 3 };
        let place = make(dir.path(), &run).unwrap();
        assert_eq!(read(dir.path(), &run), None);
        fs::write(&place, format!("{}end", "x".repeat(5000))).unwrap();
        let said = read(dir.path(), &run).unwrap();
        assert!(said.len() == 4096 && said.ends_with("xend"));
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &place).unwrap();
        assert_eq!(read(dir.path(), &run), None);
        fs::remove_file(&place).unwrap();
        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(dir.path(), &run), None);
        remove(dir.path(), &run);
        assert!(!place.exists());
    }
}
