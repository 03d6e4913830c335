//! The log file of one container that is being written: opening, appending, rotating.
//!
//! Driven by `container`. It trusts no name: the file is the one whose identity it knows, whatever stands at its path.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::beneath::{self, Beneath, Identity};
use crate::rotate;

/// Something that puts itself at our name again and again within one opening is fighting us; the log then counts as
/// unwritable and is tried again later.
const TRIES_MAX: usize = 4;
/// What was found at our name keeps its content under this suffix and a number.
const REFUSED: &str = "refused";

/// In each pod's directory whose logs we write. Others, a kubelet above all, keep theirs in the same place under such names.
pub const MARK: &str = ".daemonlet-logkeeper";

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    dir: String,
    name: String,
    file: File,
    identity: Identity,
}

/// What opening or rotating came to.
#[derive(Debug)]
pub struct Opened {
    pub file: LogFile,
    /// Foreign things that stood at the name and were moved aside.
    pub refused: u64,
}

impl LogFile {
    /// Opens `path`, making it and its directories. An existing file is taken when it is the `known` one, or, when none
    /// is known, a regular file of ours with one name. Anything else is moved aside, unopened, and a new file is made.
    pub fn open(logs: &Beneath, path: &str, known: Option<Identity>) -> io::Result<Opened> {
        let (dir, name) = path.rsplit_once('/').expect("a checked target has directories");
        let at = logs.make_dirs(dir)?;
        // A disk that is full now has room for it another time: until then these files are only outside the budget.
        let _ = mark(logs, dir);
        let mut refused = 0;
        for _ in 0..TRIES_MAX {
            let file = match beneath::create(&at, name) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match beneath::append(&at, name) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            };
            if let Some(file) = file {
                let (identity, size, _) = beneath::look(&file)?;
                // A new file is empty, and so is one that somebody else made and that may as well be used.
                if size == 0 || known.is_none_or(|known| known == identity) {
                    let file = Self { dir: dir.into(), name: name.into(), file, identity };
                    return Ok(Opened { file, refused });
                }
            }
            move_aside(&at, name)?;
            refused += 1;
        }
        Err(io::Error::other(format!("{path} is replaced again and again by something that is not our log file")))
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The file's size, `None` when it has been removed.
    pub fn size(&self) -> io::Result<Option<u64>> {
        let (_, size, named) = beneath::look(&self.file)?;
        Ok(named.then_some(size))
    }

    /// Appends all of `bytes`. On an error nothing of them stays, as far as the file system lets us.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (_, size, _) = beneath::look(&self.file)?;
        self.file.write_all(bytes).inspect_err(|_| {
            let _ = self.file.set_len(size);
        })
    }

    /// Takes back what is behind `size`, as far as the file system lets us.
    pub fn cut(&self, size: u64) {
        let _ = self.file.set_len(size);
    }

    /// Gives the file a rotated name, makes a new one and removes what is more than `max_files`. Returns the new one
    /// and the rotated name, `None` when the name was no longer this file's.
    pub fn rotate(&self, logs: &Beneath, now: Duration, max_files: u64) -> io::Result<(Opened, Option<String>)> {
        let at = logs.dir(&self.dir)?;
        let mut rotated = None;
        if beneath::stat(&at, &self.name)?.is_some_and(|stat| beneath::identity(&stat) == self.identity) {
            let name = rotate::rotated_name(&self.name, &beneath::names(&at)?, now);
            beneath::rename(&at, &self.name, &name)?;
            rotated = Some(name);
        }
        // Identity (0, 0) is no file's: whatever stands there now is not to be appended to, unless it is empty.
        let opened = Self::open(logs, &format!("{}/{}", self.dir, self.name), Some((0, 0)))?;
        for name in rotate::surplus(&self.name, &beneath::names(&at)?, max_files) {
            beneath::unlink(&at, &name)?;
        }
        Ok((opened, rotated))
    }
}

/// Makes the pod's directory known as ours, for as long as it is there.
fn mark(logs: &Beneath, dir: &str) -> io::Result<()> {
    let (pod, _) = dir.rsplit_once('/').expect("a checked target has directories");
    let pod = logs.make_dirs(pod)?;
    match is_marked(&pod) {
        true => Ok(()),
        false => beneath::create(&pod, MARK).map(drop),
    }
}

/// Whether the pod in this directory is ours.
pub fn is_marked(pod: &OwnedFd) -> bool {
    beneath::stat(pod, MARK).is_ok_and(|found| found.is_some_and(|stat| beneath::is_regular(&stat)))
}

/// Renames what is at `name` to a free name beside it. A rename follows nothing.
fn move_aside(at: &OwnedFd, name: &str) -> io::Result<()> {
    for number in 1..=99 {
        let aside = format!("{name}.{REFUSED}-{number:02}");
        if beneath::stat(at, &aside)?.is_none() {
            return match beneath::rename(at, name, &aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            };
        }
    }
    Err(io::Error::other(format!("{name} was replaced 99 times by something that is not our log file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const LOG: &str = "pods/p/c/0.log";
    const NOW: Duration = Duration::from_secs(1_795_315_579);

    #[test]
    fn a_planted_link_gets_nothing_and_the_log_is_written_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        logs.make_dirs("pods/p/c").unwrap();
        let (log, victim) = (root.path().join(LOG), root.path().join("victim"));
        std::fs::write(&victim, "mine").unwrap();
        symlink(&victim, &log).unwrap();
        let mut opened = LogFile::open(&logs, LOG, None).unwrap();
        opened.file.append(b"line\n").unwrap();
        assert_eq!(opened.refused, 1);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "line\n");
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_every_line_of_them() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        let mut file = LogFile::open(&logs, LOG, None).unwrap().file;
        for number in 0..6 {
            file.append(format!("{number}\n").as_bytes()).unwrap();
            file = file.rotate(&logs, NOW, 3).unwrap().0.file;
        }
        let mut text = String::new();
        for name in beneath::names(&logs.dir("pods/p/c").unwrap()).unwrap() {
            text += &format!("{name}={}", std::fs::read_to_string(root.path().join("pods/p/c").join(&name)).unwrap());
        }
        assert_eq!(text, "0.log=0.log.20261122-024619-000004=4\n0.log.20261122-024619-000005=5\n");
    }

    #[test]
    fn a_file_swapped_while_it_is_written_is_not_rotated() {
        let root = tempfile::tempdir().unwrap();
        let logs = Beneath::new(root.path()).unwrap();
        let mut file = LogFile::open(&logs, LOG, None).unwrap().file;
        file.append(b"1\n").unwrap();
        let log = root.path().join(LOG);
        std::fs::remove_file(&log).unwrap();
        assert_eq!(file.size().unwrap(), None);
        symlink("/etc/hostname", &log).unwrap();
        let (opened, rotated) = file.rotate(&logs, NOW, 3).unwrap();
        assert_eq!((opened.refused, rotated), (1, None));
        assert!(std::fs::symlink_metadata(&log).unwrap().is_file());
    }
}
