//! The store of one machine: a file of redb's, written by one thread.
//!
//! Every object is kept under its key and revision until it is compacted, so that a list can be as of a revision and a watch can begin at
//! one. Writes that wait together share a transaction, and with it the disk's sync; a watch keeps nothing in memory but where it
//! is and reads on when the newest revision moves, so a slow reader costs nobody else anything.

mod recent;
mod table;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot, watch};

use self::recent::Recent;
use self::table::{
    BYTES, COMPACTED, COUNTERS, Counted, Failed, NEWEST, apply, changes, copy, counter, forget, open, open_at, value,
};
use super::{Changes, Found, Page, Range, Store, StoreError, Watch, Write, check};

/// Writes that may wait for the thread; whoever comes then waits for room.
const WRITES_MAX: usize = 1024;
/// Writes that share a transaction, so that the first of them does not wait for an endless row.
const TOGETHER_MAX: usize = 256;
/// Added to the revision of a store that is put back from a copy, so that no revision that somebody has seen since the copy is given to
/// another write. A thousand writes a second take twelve days for as many.
pub const RESTORED: u64 = 1_000_000_000;

/// How much a store may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of objects and history together. Beyond, nothing is added, as in etcd: a disk that is full takes no deletions either.
    pub most: u64,
    /// Bytes written since history was shortened last: see [`Growth`].
    pub much: u64,
    pub too_much: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { most: 2 << 30, much: 256 << 20, too_much: 1 << 30 }
    }
}

/// How much has been written since history was shortened last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growth {
    Little,
    /// History should be shortened soon.
    Much,
    /// History has to be shortened at once.
    TooMuch,
}

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// None: an error of the disk has closed it, and the next who needs it opens it.
    database: RwLock<Option<Database>>,
    newest: watch::Sender<u64>,
    /// What was written last, so that a watch is not read for what does not concern it.
    recent: Mutex<Recent>,
    bounds: Bounds,
    /// Bytes written since history was shortened last.
    written: AtomicU64,
    growth: watch::Sender<Growth>,
}

#[derive(Debug)]
enum Work {
    Write(Write, oneshot::Sender<Result<u64, StoreError>>),
    Compact(u64, oneshot::Sender<Result<(), StoreError>>),
}

impl Embedded {
    /// Opens the store at this file, or makes it. Blocks: a store that was not closed is checked.
    pub fn open(path: &Path) -> Result<Embedded, StoreError> {
        Embedded::open_bounded(path, Bounds::default())
    }

    /// As [`Embedded::open`], with other bounds.
    pub fn open_bounded(path: &Path, bounds: Bounds) -> Result<Embedded, StoreError> {
        let ((newest, _), (growth, _)) = (watch::channel(0), watch::channel(Growth::Little));
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            database: RwLock::new(None),
            newest,
            recent: Mutex::default(),
            bounds,
            written: AtomicU64::new(0),
            growth,
        });
        shared.with("be opened", |_| Ok(()))?;
        let (work, queue) = mpsc::channel(WRITES_MAX);
        let of_thread = shared.clone();
        let spawned = std::thread::Builder::new().name("store".to_owned()).spawn(move || of_thread.work(queue));
        spawned.map_err(|error| shared.unavailable("start its thread", error))?;
        Ok(Embedded { shared, work })
    }

    /// Writes a copy of the store as it is now to a new file, while it goes on. Blocks.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let work = beside(to);
        let copied = self.shared.with("be copied", |database| copy(database, &work));
        let placed = copied
            .and_then(|()| place(&work, to).map_err(|error| self.shared.unavailable("put its copy in place", error)));
        if placed.is_err() {
            let _ = fs::remove_file(&work);
        }
        placed
    }

    /// Waits until so much has been written since history was shortened last.
    pub async fn grown(&self, growth: Growth) {
        // The sender is in what is shared.
        let _ = self.shared.growth.subscribe().wait_for(|now| *now >= growth).await;
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || self.shared.unavailable("be written", io::Error::other("its thread has ended"));
        self.work.send(work(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Reads beside the loop: it is the disk that is asked.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<Result<T, StoreError>, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        let reading = tokio::task::spawn_blocking(move || shared.with("be read", read)?);
        reading.await.unwrap_or_else(|ended| Err(self.shared.unavailable("be read", ended)))
    }
}

/// Puts a copy in the place of a store that is not open. Watches and lists of before are told that their revisions are gone. Blocks.
pub fn restore(copy_of: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |operation, error: Failed| unavailable(path, operation, error);
    let work = beside(path);
    let put = || -> Result<(), StoreError> {
        // Both locks: nobody may have the store open, and the copy has to be one.
        let replaced = newest_of(path)?;
        fs::copy(copy_of, &work).map_err(|error| unavailable(copy_of, "be copied", error))?;
        let database = open(&work).map_err(|error| unavailable(copy_of, "be read", error))?;
        let skip = || -> Result<(), Failed> {
            let transaction = database.begin_write()?;
            {
                let mut counters = transaction.open_table(COUNTERS)?;
                // What is replaced may have been put back from the same copy before.
                let newest = value(&counters, NEWEST)?.saturating_add(RESTORED);
                let newest = newest.max(replaced.unwrap_or(0).saturating_add(1));
                counters.insert(NEWEST, newest)?;
                counters.insert(COMPACTED, newest)?;
            }
            transaction.commit()?;
            Ok(())
        };
        skip().map_err(|error| failed("be put back", error))?;
        drop(database);
        if replaced.is_none() {
            // Whoever wants to look into it finds it there.
            let aside = set_aside(path);
            fs::rename(path, &aside).map_err(|error| unavailable(path, "be set aside", error))?;
        }
        place(&work, path).map_err(|error| unavailable(path, "be put back", error))
    };
    let done = put();
    if done.is_err() {
        let _ = fs::remove_file(&work);
    }
    done
}

/// The newest revision of a store that is to be replaced, 0 where there is none; None: it cannot be read, which is what a backup is for.
fn newest_of(path: &Path) -> Result<Option<u64>, StoreError> {
    if !path.exists() {
        return Ok(Some(0));
    }
    match Database::open(path) {
        Ok(database) => Ok(counter(&database, NEWEST).ok()),
        Err(error @ (DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(unavailable(path, "be replaced", error))
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the store cannot be read; it is set aside");
            Ok(None)
        }
    }
}

impl Store for Embedded {
    type Watch = Following;

    async fn get(&self, key: &str) -> Result<Found, StoreError> {
        let key = key.to_owned();
        self.read(move |database| Ok(Ok(table::get(database, &key)?))).await
    }

    async fn list(&self, range: &Range) -> Result<Page, StoreError> {
        let range = range.clone();
        self.read(move |database| table::list(database, &range)).await
    }

    async fn write(&self, write: Write) -> Result<u64, StoreError> {
        check(&write.key, write.value.as_deref())?;
        self.ask(|reply| Work::Write(write, reply)).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Following, StoreError> {
        let mut following =
            Following { store: self.clone(), newest: self.shared.newest.subscribe(), prefix: prefix.to_owned(), after };
        // What is gone is said at once.
        following.newest.mark_changed();
        let newest = *self.shared.newest.borrow();
        if after > newest {
            return Err(StoreError::Future { asked: after, newest });
        }
        self.read(move |database| {
            let compacted = counter(database, COMPACTED)?;
            Ok(if after < compacted { Err(StoreError::Compacted { asked: after, oldest: compacted }) } else { Ok(()) })
        })
        .await?;
        Ok(following)
    }

    async fn compact(&self, upto: u64) -> Result<(), StoreError> {
        self.ask(|reply| Work::Compact(upto, reply)).await
    }
}

/// A watch of the embedded store.
#[derive(Debug)]
pub struct Following {
    store: Embedded,
    newest: watch::Receiver<u64>,
    prefix: String,
    after: u64,
}

impl Watch for Following {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        let after = self.after;
        let gone = || self.store.shared.unavailable("be watched", io::Error::other("it is closed"));
        let newest = *self.newest.wait_for(|newest| *newest > after).await.map_err(|_| gone())?;
        if self.store.shared.recent().is_quiet(&self.prefix, after, newest) {
            self.after = newest;
            return Ok(Changes { changes: Vec::new(), revision: newest });
        }
        let prefix = self.prefix.clone();
        let changes = self.store.read(move |database| changes(database, &prefix, after)).await?;
        self.after = changes.revision;
        Ok(changes)
    }
}

impl Shared {
    /// Does something with the database, which is opened where it is not. After an error of the disk redb wants to be opened anew.
    fn with<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&Database) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let closed = self.database.read().unwrap_or_else(PoisonError::into_inner).is_none();
        if closed {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if database.is_none() {
                let (opened, newest) = open_at(&self.path).map_err(|error| self.unavailable("be opened", error))?;
                *database = Some(opened);
                *self.recent() = Recent::after(newest);
                // A write whose success nobody could be told of may have happened.
                self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
            }
        }
        let acted = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            match database.as_ref() {
                Some(database) => act(database),
                None => Err(Failed::PreviousIo),
            }
        };
        acted.map_err(|error| {
            if matches!(error, Failed::Io(_) | Failed::PreviousIo | Failed::Corrupted(_)) {
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            self.unavailable(operation, error)
        })
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unavailable(
        &self,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> StoreError {
        unavailable(&self.path, operation, source)
    }

    /// The one writer's life: it ends when nobody can ask it any more.
    fn work(&self, mut queue: mpsc::Receiver<Work>) {
        while let Some(first) = queue.blocking_recv() {
            let mut writes = Vec::new();
            let mut next = Some(first);
            while let Some(work) = next.take() {
                match work {
                    Work::Write(write, reply) => writes.push((write, reply)),
                    Work::Compact(upto, reply) => {
                        self.write(std::mem::take(&mut writes));
                        let _ = reply.send(self.compact(upto, &mut queue));
                    }
                }
                if writes.len() < TOGETHER_MAX {
                    next = queue.try_recv().ok();
                }
            }
            self.write(writes);
        }
    }

    /// All in one transaction; who was refused does not keep the others from being written.
    fn write(&self, writes: Vec<(Write, oneshot::Sender<Result<u64, StoreError>>)>) {
        if writes.is_empty() {
            return;
        }
        let done = self.with("be written", |database| {
            let transaction = database.begin_write()?;
            let before = Counted::read(&transaction.open_table(COUNTERS)?)?;
            let mut now = before;
            let mut answers = Vec::with_capacity(writes.len());
            for (write, _) in &writes {
                answers.push(apply(&transaction, write, &mut now, self.bounds.most)?);
            }
            if now.newest > before.newest {
                let mut counters = transaction.open_table(COUNTERS)?;
                counters.insert(NEWEST, now.newest)?;
                counters.insert(BYTES, now.bytes)?;
                drop(counters);
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok((answers, now.newest, now.bytes.saturating_sub(before.bytes)))
        });
        match done {
            Ok((answers, newest, bytes)) => {
                let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
                self.grows(written);
                let written = writes.iter().zip(&answers);
                let written =
                    written.filter_map(|((write, _), answer)| Some((*answer.as_ref().ok()?, write.key.as_str())));
                self.recent().extend(written);
                self.newest.send_replace(newest);
                for ((_, reply), answer) in writes.into_iter().zip(answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for (_, reply) in writes {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn grows(&self, written: u64) {
        let growth = match written {
            written if written >= self.bounds.too_much => Growth::TooMuch,
            written if written >= self.bounds.much => Growth::Much,
            _ => Growth::Little,
        };
        self.growth.send_if_modified(|known| std::mem::replace(known, growth) != growth);
    }

    /// Step by step; what waits to be written is written in between.
    fn compact(&self, upto: u64, queue: &mut mpsc::Receiver<Work>) -> Result<(), StoreError> {
        loop {
            let more = self.with("be compacted", |database| forget(database, upto))?;
            if !more {
                self.written.store(0, Ordering::Relaxed);
                self.grows(0);
                return Ok(());
            }
            let mut writes = Vec::new();
            let mut later = Vec::new();
            while writes.len() < TOGETHER_MAX
                && let Ok(work) = queue.try_recv()
            {
                match work {
                    Work::Write(write, reply) => writes.push((write, reply)),
                    Work::Compact(upto, reply) => later.push((upto, reply)),
                }
            }
            self.write(writes);
            for (upto, reply) in later {
                let _ = reply.send(self.compact(upto, queue));
            }
        }
    }
}

/// Where a file is made before it gets its name.
fn beside(path: &Path) -> PathBuf {
    with(path, ".new")
}

/// The name of what cannot be read.
fn set_aside(path: &Path) -> PathBuf {
    with(path, ".damaged")
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Renames durably.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    match to.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn unavailable(
    path: &Path,
    operation: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable { place: path.display().to_string(), operation, source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};

    use super::super::Expected;
    use super::table::{LOG, OBJECTS};
    use super::*;

    /// Rows of the objects and of the log.
    fn rows(store: &Embedded) -> (u64, u64) {
        let counted = store.shared.with("be counted", |database| {
            let transaction = database.begin_read()?;
            Ok((transaction.open_table(OBJECTS)?.len()?, transaction.open_table(LOG)?.len()?))
        });
        counted.expect("read")
    }

    #[tokio::test]
    async fn compaction_leaves_what_exists_and_no_trace_of_the_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(&dir.path().join("store")).expect("made");
        let write = async |key: &str, value: Option<&str>, expected| {
            let write = Write { key: key.to_owned(), value: value.map(Into::into), expected };
            store.write(write).await.expect("as expected")
        };
        let mut newest = write("/kept", Some("0"), Expected::Absent).await;
        for value in 1..4 {
            newest = write("/kept", Some(&value.to_string()), Expected::At(newest)).await;
        }
        let dead = write("/dead", Some("d"), Expected::Absent).await;
        let upto = write("/dead", None, Expected::At(dead)).await;
        assert_eq!(rows(&store), (6, 6));
        store.compact(upto - 1).await.expect("compacted");
        assert_eq!(rows(&store), (3, 1), "the deletion has not been compacted yet");
        store.compact(upto).await.expect("compacted");
        assert_eq!(rows(&store), (1, 0));
    }

    fn bytes(store: &Embedded) -> u64 {
        let read = store.shared.with("be counted", |database| {
            let read = database.begin_read()?;
            let mut sum = 0;
            for found in read.open_table(OBJECTS)?.iter()? {
                sum += u64::try_from(found?.1.value().len()).expect("small");
            }
            assert_eq!(counter(database, BYTES)?, sum);
            Ok(sum)
        });
        read.expect("read")
    }

    #[tokio::test]
    async fn a_store_that_has_all_it_may_takes_what_does_not_grow_and_deletions_and_is_well_when_history_is_forgotten()
    {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let bounds = Bounds { most: 100_000, much: 40_000, too_much: 80_000 };
        let store = Embedded::open_bounded(&path, bounds).expect("made");
        let write = async |key: &str, size: Option<usize>, expected| {
            let write = Write { key: key.to_owned(), value: size.map(|size| vec![b'x'; size]), expected };
            store.write(write).await
        };
        let mut at = write("/object", Some(9_000), Expected::Absent).await.expect("there is room");
        for (count, growth) in [(4, Growth::Much), (6, Growth::TooMuch)] {
            for _ in 0..count {
                at = write("/object", Some(8_000), Expected::At(at)).await.expect("there is room");
            }
            store.grown(growth).await;
        }
        write("/more", Some(9_000), Expected::Absent).await.expect("there is room");
        bytes(&store);
        let refused = write("/another", Some(9_000), Expected::Absent).await.expect_err("there is none");
        assert!(matches!(&refused, StoreError::Full { key, .. } if key == "/another"), "{refused}");
        assert!(matches!(write("/object", Some(16_000), Expected::At(at)).await, Err(StoreError::Full { .. })));
        at = write("/object", Some(8_100), Expected::At(at)).await.expect("it is said to end");
        at = write("/object", Some(8_100), Expected::At(at)).await.expect("it does not grow");
        at = write("/object", None, Expected::At(at)).await.expect("deletions are taken");
        store.compact(at).await.expect("compacted");
        assert_eq!(bytes(&store), 9_009);
        assert_eq!(*store.shared.growth.borrow(), Growth::Little);
        write("/another", Some(9_000), Expected::Absent).await.expect("there is room again");
        drop(store);
        // The thread closes it.
        let before = bytes(&loop {
            match Embedded::open(&path) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        });
        assert_eq!(before, 18_018);
    }

    #[tokio::test]
    async fn a_watch_is_handed_a_bounded_number_of_bytes_at_once_and_all_of_them_in_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(&dir.path().join("store")).expect("made");
        let large = vec![b'x'; 100 * 1024];
        for name in 0..7 {
            let write = Write { key: format!("/{name}"), value: Some(large.clone()), expected: Expected::Absent };
            store.write(write).await.expect("as expected");
        }
        let mut watch = store.watch("/", 0).await.expect("it is kept");
        for count in [3, 3, 1] {
            assert_eq!(watch.next().await.expect("told").changes.len(), count);
        }
    }
}
