//! What is remembered of a pod's network: one small file per pod, written before an address is asked for.
//!
//! Driven by `cni`. A file without a result says that an ADD was begun: whatever it got has to be given back. The files
//! survive the agent. Those of our own network lie in the run directory, beside the address plugin's reservations: a power
//! cut ends every network namespace, and takes both with it. A network of the node's keeps its reservations where we do
//! not look, on a disk: its files lie on the state disk, so that what they hold is given back after a power cut. A state
//! disk that takes none (it is full) keeps no pod from its network: the file lies in the run directory until it does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pod::name::Uid;
use serde::{Deserialize, Serialize};

/// A result of a few plugins is a few kilobytes.
const RECORD_MAX_BYTES: u64 = 4 << 20;

/// One attachment of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Of this file's form.
    pub version: u32,
    pub uid: Uid,
    /// The interface's name in the pod.
    pub interface: String,
    /// The pinned network namespace, and the kernel's number of it: a file with another number is another namespace.
    pub netns: PathBuf,
    pub netns_number: u64,
    /// CNI_ARGS of the ADD, which the DEL repeats.
    pub args: String,
    /// The plugins' configurations in the order of the ADD, complete.
    pub plugins: Vec<serde_json::Value>,
    /// The node's configuration file that they come from; None: our own network.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The configuration asks not to be checked.
    #[serde(default)]
    pub no_check: bool,
    /// What the last plugin answered; None: the ADD has not ended well (yet).
    pub result: Option<serde_json::Value>,
    /// From the result, without prefixes; the first is `podIP`.
    pub addresses: Vec<IpAddr>,
}

impl NetworkRecord {
    pub const VERSION: u32 = 1;
}

/// A record on disk.
#[derive(Debug)]
pub enum Found {
    Nothing,
    /// Cut off by a power failure, or written by something else.
    Unreadable,
    Record(Box<NetworkRecord>),
}

/// Where the files lie.
#[derive(Debug, Clone)]
pub struct Notes {
    /// In memory: ends with the boot.
    pub run: PathBuf,
    /// On the state disk.
    pub disk: PathBuf,
}

impl Notes {
    /// The newer one, where there are two.
    pub fn read(&self, uid: &Uid) -> io::Result<Found> {
        match read(&self.run, uid)? {
            Found::Nothing => read(&self.disk, uid),
            found => Ok(found),
        }
    }

    /// Where it belongs; Ok also where the disk does not take it and the run directory does.
    pub fn write(&self, record: &NetworkRecord) -> io::Result<()> {
        if record.file.is_none() {
            return write(&self.run, record, false);
        }
        match write(&self.disk, record, true) {
            Ok(()) => remove(&self.run, &record.uid),
            Err(error) => {
                tracing::warn!(pod = %record.uid, %error, "a network record waits in the run directory for the state disk");
                write(&self.run, record, false)
            }
        }
    }

    /// Ok when there is none.
    pub fn remove(&self, uid: &Uid) -> io::Result<()> {
        remove(&self.run, uid).and(remove(&self.disk, uid))
    }

    /// The pods of which there is a record, readable or not.
    pub fn list(&self) -> io::Result<BTreeSet<Uid>> {
        Ok(list(&self.run, ".json")?.into_iter().chain(list(&self.disk, ".json")?).collect())
    }

    /// Brings to the disk what waits for it.
    pub fn settle(&self) -> io::Result<()> {
        for uid in list(&self.run, ".json")? {
            if let Found::Record(record) = read(&self.run, &uid)?
                && record.file.is_some()
            {
                self.write(&record)?;
            }
        }
        Ok(())
    }

    /// A plugin runs for this pod from now on: whoever finds the mark after the agent's death looks for the plugin.
    pub fn begin(&self, uid: &Uid) {
        let marked = fs::create_dir_all(&self.run).and_then(|()| fs::write(self.mark(uid), ""));
        if let Err(error) = marked {
            tracing::warn!(pod = %uid, %error, "a plugin that outlives this agent will not be looked for");
        }
    }

    /// The plugin has ended.
    pub fn end(&self, uid: &Uid) {
        // One that stays costs the next start a look at the processes.
        let _ = fs::remove_file(self.mark(uid));
    }

    /// Pods for which a plugin ran when the agent before this one ended.
    pub fn begun(&self) -> io::Result<Vec<Uid>> {
        list(&self.run, BEGUN)
    }

    fn mark(&self, uid: &Uid) -> PathBuf {
        self.run.join(format!("{uid}{BEGUN}"))
    }
}

/// The end of a mark's name.
const BEGUN: &str = ".begun";

fn path(directory: &Path, uid: &Uid) -> PathBuf {
    directory.join(format!("{uid}.json"))
}

fn read(directory: &Path, uid: &Uid) -> io::Result<Found> {
    let mut bytes = Vec::new();
    match fs::File::open(path(directory, uid)) {
        Ok(file) => file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    Ok(match serde_json::from_slice::<NetworkRecord>(&bytes) {
        Ok(record) if record.version == NetworkRecord::VERSION && record.uid == *uid => Found::Record(Box::new(record)),
        _ => Found::Unreadable,
    })
}

/// Written beside and renamed: another reader sees the old or the new one. A durable one is there after a power cut too.
fn write(directory: &Path, record: &NetworkRecord, durable: bool) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!(".{}.tmp", record.uid));
    let written = fs::write(&beside, serde_json::to_vec(record)?);
    if written.is_err() {
        // A full disk takes the name and not the content.
        let _ = fs::remove_file(&beside);
    }
    written?;
    if durable {
        fs::File::open(&beside)?.sync_all()?;
    }
    fs::rename(&beside, path(directory, &record.uid))?;
    if durable { fs::File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Ok when there is none.
fn remove(directory: &Path, uid: &Uid) -> io::Result<()> {
    match fs::remove_file(path(directory, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Pods of which there is a file with this end.
fn list(directory: &Path, end: &str) -> io::Result<Vec<Uid>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(uid) = name.to_str().and_then(|n| n.strip_suffix(end)).filter(|n| super::is_safe_name(n)) {
            found.push(Uid(uid.to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NetworkRecord {
        NetworkRecord {
            version: 1,
            uid: Uid("0a".into()),
            interface: "eth0".into(),
            netns: "/run/x".into(),
            netns_number: 7,
            args: String::new(),
            plugins: vec![],
            file: None,
            no_check: false,
            result: None,
            addresses: vec!["198.18.0.2".parse().unwrap()],
        }
    }

    #[test]
    fn a_record_comes_back_and_a_torn_one_is_known_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes { run: dir.path().join("run"), disk: dir.path().join("disk") };
        let uid = record().uid;
        assert!(matches!(notes.read(&uid).unwrap(), Found::Nothing));
        notes.write(&record()).unwrap();
        assert!(matches!(notes.read(&uid).unwrap(), Found::Record(r) if *r == record()));
        assert_eq!(notes.list().unwrap(), BTreeSet::from([uid.clone()]));
        assert!(!notes.disk.exists(), "our own network's ends with the boot");
        fs::write(path(&notes.run, &uid), "").unwrap();
        assert!(matches!(notes.read(&uid).unwrap(), Found::Unreadable));
        notes.remove(&uid).unwrap();
        notes.remove(&uid).unwrap();
        assert_eq!(notes.list().unwrap(), BTreeSet::new());
    }

    #[test]
    fn a_disk_that_takes_no_record_gets_it_later() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes { run: dir.path().join("run"), disk: dir.path().join("disk") };
        let theirs = NetworkRecord { file: Some("/c/10.conflist".into()), ..record() };
        fs::write(&notes.disk, "in the way").unwrap();
        notes.write(&theirs).unwrap();
        assert!(matches!(notes.read(&theirs.uid).unwrap(), Found::Record(r) if *r == theirs));
        assert!(notes.settle().is_ok(), "it still waits");
        fs::remove_file(&notes.disk).unwrap();
        notes.settle().unwrap();
        assert!(path(&notes.disk, &theirs.uid).exists() && !path(&notes.run, &theirs.uid).exists());
        notes.remove(&theirs.uid).unwrap();
        assert!(matches!(notes.read(&theirs.uid).unwrap(), Found::Nothing));
    }

    #[test]
    fn a_plugin_that_runs_leaves_its_mark_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes { run: dir.path().join("run"), disk: dir.path().join("disk") };
        let uid = record().uid;
        notes.begin(&uid);
        assert_eq!((notes.begun().unwrap(), notes.list().unwrap()), (vec![uid.clone()], BTreeSet::new()));
        notes.end(&uid);
        assert_eq!(notes.begun().unwrap(), []);
    }

    /// The form on disk: an old file must stay readable.
    #[test]
    fn version_1_stays_readable() {
        let golden = r#"{"version":1,"uid":"0a","interface":"eth0","netns":"/run/x","netns_number":7,"args":"",
            "plugins":[],"result":null,"addresses":["198.18.0.2"]}"#;
        assert_eq!(serde_json::from_str::<NetworkRecord>(golden).unwrap(), record());
    }
}
