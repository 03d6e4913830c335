//! Every admitted pod has its record on disk before its first container. Driven by the workers, one writer a record;
//! knows nothing of what a record means.
//!
//! `<state>/records/<uid>` holds the newest generation, `<uid>.old` the one before, both as [`crate::durable`] writes them. A
//! generation that does not match its checksum, or that nobody can read any more, is set aside for the older one, and where
//! neither is whole it is said so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pod::name::Uid;
use pod::record::Record;
use tokio::sync::watch;

use crate::durable;
use crate::seams::Files;

/// The first word of a record: a format that later versions go on reading.
const FORMAT: &str = "daemonlet-record-1";

/// A record is a document (at most 10 MiB as a manifest, and as JSON no larger) and a little memory.
const RECORD_LIMIT: u64 = 16 << 20;

/// Bytes of what the parser says of a record that is none: it repeats values of it.
const WHY_MAX: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot write the record {}: check the disk of the state directory", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot remove the record {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot list the records in {}: the state directory must exist and be writable", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The records of one node.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
    disk: Arc<DiskState>,
}

/// Whether the disk took the last write.
#[derive(Debug, Default)]
struct DiskState {
    refuses: AtomicBool,
    taken: watch::Sender<()>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Loaded {
    pub records: Vec<Record>,
    /// Records of which no generation is whole, with why. What is damaged is `<uid>.damaged` and `<uid>.damaged-old` now: it is
    /// said once, and lies there for a person.
    pub damaged: Vec<(Uid, String)>,
}

impl Records {
    pub fn new(state_dir: &Path) -> Records {
        Records { dir: directory(state_dir), disk: Arc::default() }
    }

    /// Makes this generation of the record durable.
    pub async fn save(&self, files: &impl Files, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.uid);
        let written = durable::replace(files, &path, encode(record)).await;
        if self.disk.refuses.swap(written.is_err(), Ordering::Relaxed) && written.is_ok() {
            self.disk.taken.send_replace(());
        }
        written.map_err(|source| RecordError::Write { path, source })
    }

    /// Moves when a record was written after one could not be.
    pub fn taken(&self) -> watch::Receiver<()> {
        self.disk.taken.subscribe()
    }

    /// Removes all generations. Ok when there is none.
    pub async fn remove(&self, files: &impl Files, uid: &Uid) -> Result<(), RecordError> {
        let path = self.path(uid);
        durable::remove(files, &path).await.map_err(|source| RecordError::Remove { path, source })
    }

    /// All records, from the newest whole generation of each that can be used. Where `unusable` says why of every one, the newest
    /// whole one is returned all the same: what it holds is to be given back.
    pub async fn load(
        &self,
        files: &impl Files,
        unusable: impl Fn(&Record) -> Option<String>,
    ) -> Result<Loaded, RecordError> {
        let names =
            files.list(&self.dir).await.map_err(|source| RecordError::List { path: self.dir.clone(), source })?;
        durable::sweep(files, &self.dir, &names).await;
        let mut loaded = Loaded::default();
        for uid in durable::names(&names).into_iter().map(Uid) {
            match self.load_one(files, &uid, &unusable).await {
                Ok(record) => loaded.records.push(record),
                Err(why) => loaded.damaged.push((uid, why)),
            }
        }
        // An agent that was killed between a rename and its sync has left names that only memory holds: what was just read is acted on.
        if let Err(error) = files.sync_dir(&self.dir).await {
            tracing::warn!(%error, dir = %self.dir.display(), "the records that were read may not survive a power cut yet");
        }
        Ok(loaded)
    }

    async fn load_one(
        &self,
        files: &impl Files,
        uid: &Uid,
        unusable: &impl Fn(&Record) -> Option<String>,
    ) -> Result<Record, String> {
        let newest = self.path(uid);
        let mut why = Vec::new();
        let mut fallback = None;
        for (path, aside) in durable::generations(&newest) {
            let decoded = match files.read(&path, RECORD_LIMIT).await {
                Ok(content) => decode(&content),
                Err(e) => {
                    // What cannot be read now may be whole: it stays where it is.
                    why.push(format!("{}: {e}", path.display()));
                    continue;
                }
            };
            match decoded {
                Ok(record) if record.uid == *uid => match unusable(&record) {
                    None if fallback.is_some() => {
                        // As below: the newest must not take the place of this one.
                        let _ = files.rename(&newest, &newest.with_extension("damaged")).await;
                        tracing::error!(%uid, "no pod can be made of a record's newest generation: the one before is used");
                        return Ok(record);
                    }
                    None => {
                        if !why.is_empty() {
                            let why = why.join("; ");
                            tracing::error!(%uid, why, "a record's newest generation cannot be read: the one before is used");
                        }
                        return Ok(record);
                    }
                    Some(_) => {
                        fallback = fallback.or(Some(record));
                        continue;
                    }
                },
                Ok(record) => why.push(format!("{}: holds the record of {}", path.display(), record.uid)),
                Err(e) => why.push(format!("{}: {e}", path.display())),
            }
            // Out of the way, or the next save would put it in the place of the older generation, which is whole. Kept for a
            // person to look at; a failure here changes nothing that matters.
            let _ = files.rename(&path, &aside).await;
        }
        fallback.ok_or_else(|| why.join("; "))
    }

    fn path(&self, uid: &Uid) -> PathBuf {
        self.dir.join(&uid.0)
    }
}

/// One generation of a record, for who only looks. Blocking.
pub fn read(path: &Path) -> Result<Record, String> {
    use std::io::Read as _;
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut content));
    read.map_err(|why| why.to_string()).and_then(|_| decode(&content))
}

/// Where the records of this state directory lie.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("records")
}

fn encode(record: &Record) -> Vec<u8> {
    sealed(&serde_json::to_vec(record).expect("a record has string keys only"))
}

/// A record's file with this body.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    durable::seal(FORMAT, body)
}

/// A record out of its file.
///
/// # Errors
/// In words that fit into a status: what stands in a damaged or foreign record is repeated in part only.
pub fn decode(content: &[u8]) -> Result<Record, String> {
    let body = durable::unseal(FORMAT, "record", content)?;
    serde_json::from_slice(body).map_err(|e| {
        let why = e.to_string();
        let why = why[..why.floor_char_boundary(WHY_MAX)].replace(char::is_control, "\u{fffd}");
        format!("not a record: {why}")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pod::desired::{Origin, Source};
    use pod::name::{WorkloadKey, WorkloadKind};
    use pod::record::Lifecycle;

    use super::*;
    use crate::disk::Disk;

    fn record(generation: u64) -> Record {
        Record {
            uid: Uid("0a1b".into()),
            workload: WorkloadKey { namespace: "ns".into(), kind: WorkloadKind::Pod, name: "a".into() },
            name: "a-node".into(),
            revision: "r".into(),
            origin: Origin { source: Source::Static, file: "a.yaml".into(), line: 1 },
            document: serde_json::json!({"kind": "Pod"}).into(),
            admitted_at: jiff::Timestamp::UNIX_EPOCH,
            generation,
            boot_id: "b".into(),
            lifecycle: Lifecycle::Running,
            containers: BTreeMap::new(),
            course: Default::default(),
        }
    }

    /// The disk, until the new generation would be put in its place.
    struct Cut;

    impl Files for Cut {
        async fn read(&self, path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
            Disk.read(path, limit).await
        }
        async fn write(&self, path: &Path, content: Vec<u8>) -> std::io::Result<()> {
            Disk.write(path, content).await
        }
        async fn sync(&self, path: &Path) -> std::io::Result<()> {
            Disk.sync(path).await
        }
        async fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            if from.extension().is_some_and(|e| e == "new") {
                return Err(std::io::Error::other("the power is cut"));
            }
            Disk.rename(from, to).await
        }
        async fn remove(&self, path: &Path) -> std::io::Result<()> {
            Disk.remove(path).await
        }
        async fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
            Disk.sync_dir(dir).await
        }
        async fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
            Disk.list(dir).await
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_record_that_cannot_be_read_now_is_not_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records/0a1b");
        std::fs::create_dir_all(&path).unwrap();
        let loaded = Records::new(dir.path()).load(&Disk, |_| None).await.unwrap();
        assert_eq!(loaded.damaged.len(), 1);
        assert!(path.exists(), "it was moved");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn damaged_newest_generation_falls_back_to_the_older() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        records.load(&Disk, |_| None).await.unwrap();
        records.save(&Disk, &record(1)).await.unwrap();
        records.save(&Disk, &record(2)).await.unwrap();
        assert_eq!(records.load(&Disk, |_| None).await.unwrap().records, [record(2)]);

        let path = dir.path().join("records/0a1b");
        let mut content = std::fs::read(&path).unwrap();
        let last = content.len() - 3;
        content[last] ^= 1;
        std::fs::write(&path, &content).unwrap();
        assert_eq!(records.load(&Disk, |_| None).await.unwrap().records, [record(1)]);

        assert!(dir.path().join("records/0a1b.damaged").exists());
        // A power cut in the middle of the next save: the whole generation is still the one that is found.
        std::fs::remove_file(dir.path().join("records/0a1b.damaged")).unwrap();
        records.save(&Cut, &record(3)).await.unwrap_err();
        assert_eq!(records.load(&Disk, |_| None).await.unwrap().records, [record(1)]);

        std::fs::write(&path, &content).unwrap();
        std::fs::write(dir.path().join("records/0a1b.old"), &content[..20]).unwrap();
        let loaded = records.load(&Disk, |_| None).await.unwrap();
        assert!(loaded.records.is_empty());
        assert!(loaded.damaged[0].1.contains("checksum"), "{:?}", loaded.damaged);
        // Said once; both lie there for a person.
        assert_eq!(records.load(&Disk, |_| None).await.unwrap().damaged.len(), 0);
        assert!(
            dir.path().join("records/0a1b.damaged-old").exists() && dir.path().join("records/0a1b.damaged").exists()
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_generation_that_nobody_can_use_falls_back_to_the_older() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        records.load(&Disk, |_| None).await.unwrap();
        records.save(&Disk, &record(1)).await.unwrap();
        records.save(&Disk, &record(2)).await.unwrap();
        let newer = |r: &Record| (r.generation > 1).then(|| "of a newer version".to_owned());
        // None can be used: the newest one, whose pod is to be ended.
        assert_eq!(records.load(&Disk, |_| Some(String::new())).await.unwrap().records, [record(2)]);
        assert_eq!(records.load(&Disk, newer).await.unwrap().records, [record(1)]);
        assert!(dir.path().join("records/0a1b.damaged").exists());
        records.save(&Cut, &record(3)).await.unwrap_err();
        assert_eq!(records.load(&Disk, newer).await.unwrap().records, [record(1)]);
    }

    /// A first generation that was never renamed has no record, so that nobody would ever remove it with one.
    #[tokio::test(flavor = "current_thread")]
    async fn what_a_killed_agent_has_half_written_is_gone_after_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        records.load(&Disk, |_| None).await.unwrap();
        records.save(&Cut, &record(1)).await.unwrap_err();
        assert!(dir.path().join("records/0a1b.new").exists());
        assert_eq!(records.load(&Disk, |_| None).await.unwrap().records, []);
        assert_eq!(std::fs::read_dir(dir.path().join("records")).unwrap().count(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn removed_record_leaves_no_generation() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        records.load(&Disk, |_| None).await.unwrap();
        records.save(&Disk, &record(1)).await.unwrap();
        records.save(&Disk, &record(2)).await.unwrap();
        records.remove(&Disk, &Uid("0a1b".into())).await.unwrap();
        records.remove(&Disk, &Uid("0a1b".into())).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("records")).unwrap().count(), 0);
    }
}
