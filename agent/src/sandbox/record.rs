//! What is remembered of a pod's network: one small file per pod, written before an address is asked for.
//!
//! Driven by `cni`. A file without a result says that an ADD was begun: whatever it got has to be given back. The files
//! survive the agent (the page cache keeps them). Those of our own network are not synced, because a power cut ends every
//! network namespace anyway and what it leaves of an address is found in the address plugin's own directory (`cni`).

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

pub fn path(directory: &Path, uid: &Uid) -> PathBuf {
    directory.join(format!("{uid}.json"))
}

pub fn read(directory: &Path, uid: &Uid) -> io::Result<Found> {
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
pub fn write(directory: &Path, record: &NetworkRecord, durable: bool) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!(".{}.tmp", record.uid));
    fs::write(&beside, serde_json::to_vec(record)?)?;
    if durable {
        fs::File::open(&beside)?.sync_all()?;
    }
    fs::rename(&beside, path(directory, &record.uid))?;
    if durable { fs::File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Ok when there is none.
pub fn remove(directory: &Path, uid: &Uid) -> io::Result<()> {
    match fs::remove_file(path(directory, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The pods of which there is a record, readable or not.
pub fn list(directory: &Path) -> io::Result<Vec<Uid>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(uid) = name.to_str().and_then(|n| n.strip_suffix(".json")).filter(|n| super::is_safe_name(n)) {
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
        let uid = record().uid;
        assert!(matches!(read(dir.path(), &uid).unwrap(), Found::Nothing));
        write(dir.path(), &record(), true).unwrap();
        assert!(matches!(read(dir.path(), &uid).unwrap(), Found::Record(r) if *r == record()));
        assert_eq!(list(dir.path()).unwrap(), std::slice::from_ref(&uid));
        fs::write(path(dir.path(), &uid), "").unwrap();
        assert!(matches!(read(dir.path(), &uid).unwrap(), Found::Unreadable));
        remove(dir.path(), &uid).unwrap();
        remove(dir.path(), &uid).unwrap();
    }

    /// The form on disk: an old file must stay readable.
    #[test]
    fn version_1_stays_readable() {
        let golden = r#"{"version":1,"uid":"0a","interface":"eth0","netns":"/run/x","netns_number":7,"args":"",
            "plugins":[],"result":null,"addresses":["198.18.0.2"]}"#;
        assert_eq!(serde_json::from_str::<NetworkRecord>(golden).unwrap(), record());
    }
}
