//! What lies in the file of the embedded store: its tables, and what one transaction does with them. Knows nothing of threads and waiting.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::super::{
    CHANGES_BYTES, CHANGES_MAX, Change, Changes, Entry, Expected, Found, Page, Range, StoreError, Write,
};

/// Revisions that one transaction of a compaction forgets: writes get in between.
const FORGOTTEN_MAX: u64 = 2_000;

/// Bytes by which an object may grow that is said to end.
const LITTLE: usize = 4 << 10;

/// A page that has a limit ends behind this many bytes too: of large objects the number alone bounds nothing.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the file that redb keeps in memory, what is not written yet among them; beyond, the kernel has them. Of its own accord it keeps a gibibyte:
/// everything that was written in ten minutes.
const CACHE: usize = 4 << 20;

/// Key and revision; see [`packed`].
pub const OBJECTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("objects");
/// The newest revision of every object that exists.
const LIVE: TableDefinition<&str, u64> = TableDefinition::new("live");
/// Which key each revision wrote.
pub const LOG: TableDefinition<u64, &str> = TableDefinition::new("log");
pub const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
pub const NEWEST: &str = "newest";
pub const COMPACTED: &str = "compacted";
/// Bytes of all values that are kept, of objects and of history.
pub const BYTES: &str = "bytes";
/// Of the tables above. A later program reads what an earlier one wrote; the other way round it refuses.
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

/// Everything that redb may say, with its causes.
pub type Failed = redb::Error;

/// One object, and as of when.
pub fn get(database: &Database, key: &str) -> Result<Found, Failed> {
    let transaction = database.begin_read()?;
    let revision = value(&transaction.open_table(COUNTERS)?, NEWEST)?;
    let live = transaction.open_table(LIVE)?.get(key)?.map(|at| at.value());
    let entry = match live {
        Some(at) => object(&transaction.open_table(OBJECTS)?, key, at)?,
        None => None,
    };
    Ok(Found { entry, revision })
}

/// A page of a list.
pub fn list(database: &Database, range: &Range) -> Result<Result<Page, StoreError>, Failed> {
    let transaction = database.begin_read()?;
    let counters = transaction.open_table(COUNTERS)?;
    let (newest, compacted) = (value(&counters, NEWEST)?, value(&counters, COMPACTED)?);
    let at = range.at.unwrap_or(newest);
    if at > newest {
        return Ok(Err(StoreError::Future { asked: at, newest }));
    }
    if at < compacted {
        return Ok(Err(StoreError::Compacted { asked: at, oldest: compacted }));
    }
    let objects = transaction.open_table(OBJECTS)?;
    let limit = range.limit.unwrap_or(usize::MAX);
    let (mut entries, mut more, mut remaining) = (Vec::new(), false, 0_u64);
    let mut bytes = 0_usize;
    let mut take = |entry: Entry| {
        more = entries.len() >= limit || (range.limit.is_some() && bytes >= PAGE_BYTES_MAX);
        if !more {
            bytes = bytes.saturating_add(entry.value.len());
            entries.push(entry);
        }
        more
    };
    let behind = |key: &str| range.after.as_deref().is_none_or(|after| key > after);
    let from = range.after.as_deref().map_or(range.prefix.as_str(), |after| after.max(range.prefix.as_str()));
    if at == newest {
        for found in transaction.open_table(LIVE)?.range(from..)? {
            let (key, revision) = found?;
            if !key.value().starts_with(&range.prefix) {
                break;
            }
            if remaining > 0 {
                // The page is full: what follows is only counted.
                if !range.counted {
                    break;
                }
                remaining = remaining.saturating_add(1);
                continue;
            }
            let entry = if behind(key.value()) { object(&objects, key.value(), revision.value())? } else { None };
            if entry.is_some_and(&mut take) {
                remaining = 1;
            }
        }
        let remaining = (range.counted || !more).then_some(remaining);
        return Ok(Ok(Page { entries, revision: at, more, remaining }));
    }
    // All revisions of a key lie together: the last one that is not too new is the object as it was.
    let mut newest_of_key: Option<Entry> = None;
    for found in objects.range((from, 0)..)? {
        let (key, packed) = found?;
        let (key, revision) = key.value();
        if !key.starts_with(&range.prefix) {
            break;
        }
        if newest_of_key.as_ref().is_some_and(|entry| entry.key != key) && newest_of_key.take().is_some_and(&mut take) {
            return Ok(Ok(Page { entries, revision: at, more, remaining: None }));
        }
        if revision <= at && behind(key) {
            newest_of_key = unpacked(key, revision, packed.value());
        }
    }
    newest_of_key.map(take);
    Ok(Ok(Page { entries, revision: at, more, remaining: None }))
}

/// What a transaction moves.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub newest: u64,
    /// See [`BYTES`].
    pub bytes: u64,
}

impl Counted {
    pub fn read(counters: &impl ReadableTable<&'static str, u64>) -> Result<Counted, Failed> {
        Ok(Counted { newest: value(counters, NEWEST)?, bytes: value(counters, BYTES)? })
    }

    /// Whether there is room for a value where there are `most` bytes for all. Beyond, what exists may change without growing, so that nodes' Leases and
    /// statuses go on, and a little beyond that it may be said to end.
    fn has_room(&self, new: usize, old: Option<usize>, most: u64) -> bool {
        let bytes = self.bytes.saturating_add(u64::try_from(new).unwrap_or(u64::MAX));
        let grows_little = |old: usize| new <= old.saturating_add(LITTLE) && bytes <= most.saturating_add(most / 8);
        bytes <= most || old.is_some_and(|old| new <= old || grows_little(old))
    }
}

/// One write within a transaction; what is `counted` moves where it succeeds. `most`: bytes that there is room for.
pub fn apply(
    transaction: &WriteTransaction,
    write: &Write,
    counted: &mut Counted,
    most: u64,
) -> Result<Result<u64, StoreError>, Failed> {
    let key = write.key.as_str();
    let (mut live, mut objects) = (transaction.open_table(LIVE)?, transaction.open_table(OBJECTS)?);
    let revision = live.get(key)?.map(|at| at.value());
    let expected = match write.expected {
        Expected::Absent => None,
        Expected::At(revision) => Some(revision),
    };
    if revision != expected || (expected.is_none() && write.value.is_none()) {
        let current = match revision {
            Some(at) => object(&objects, key, at)?,
            None => None,
        };
        return Ok(Err(StoreError::Conflict { key: write.key.clone(), current }));
    }
    let current = match revision {
        Some(at) => object(&objects, key, at)?,
        None => None,
    };
    let old = current.as_ref().map(|entry| entry.value.len());
    if let Some(value) = &write.value
        && !counted.has_room(value.len(), old, most)
    {
        return Ok(Err(StoreError::Full { key: write.key.clone(), bytes: counted.bytes, most }));
    }
    counted.newest += 1;
    let newest = counted.newest;
    let packed = packed(current.map_or(newest, |entry| entry.created), write.value.as_deref());
    objects.insert((key, newest), packed.as_slice())?;
    counted.bytes = counted.bytes.saturating_add(size(&packed));
    transaction.open_table(LOG)?.insert(newest, key)?;
    match write.value {
        Some(_) => live.insert(key, newest)?,
        None => live.remove(key)?,
    };
    Ok(Ok(newest))
}

fn size(packed: &[u8]) -> u64 {
    u64::try_from(packed.len()).unwrap_or(u64::MAX)
}

/// Forgets some of what lies at or before this revision and is no object of it any more. Says whether there is more.
pub fn forget(database: &Database, upto: u64) -> Result<bool, Failed> {
    let transaction = database.begin_write()?;
    let more;
    {
        let mut counters = transaction.open_table(COUNTERS)?;
        let (newest, compacted) = (value(&counters, NEWEST)?, value(&counters, COMPACTED)?);
        let end = upto.min(newest).min(compacted.saturating_add(FORGOTTEN_MAX));
        more = end < upto.min(newest);
        let mut log = transaction.open_table(LOG)?;
        let mut objects = transaction.open_table(OBJECTS)?;
        // The newest of each key that this part of the log has written: what was before it goes, and so does a deletion itself.
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut freed = 0_u64;
        for found in log.range(..=end)? {
            let (revision, key) = found?;
            last.insert(key.value().to_owned(), revision.value());
        }
        for (key, revision) in &last {
            let gone: Vec<u64> = objects
                .range((key.as_str(), 0)..=(key.as_str(), *revision))?
                .map(|found| {
                    let (at, packed) = found?;
                    Ok((at.value().1, is_deletion(packed.value())))
                })
                .collect::<Result<Vec<_>, Failed>>()?
                .into_iter()
                .filter(|(at, deletion)| at < revision || *deletion)
                .map(|(at, _)| at)
                .collect();
            for at in gone {
                let removed = objects.remove((key.as_str(), at))?.map_or(0, |packed| size(packed.value()));
                freed = freed.saturating_add(removed);
            }
        }
        let bytes = value(&counters, BYTES)?.saturating_sub(freed);
        counters.insert(BYTES, bytes)?;
        log.retain_in(..=end, |_, _| false)?;
        if end > compacted {
            counters.insert(COMPACTED, end)?;
        }
    }
    transaction.commit()?;
    Ok(more)
}

/// What has happened after a revision to keys of this prefix, as far as one answer goes.
pub fn changes(database: &Database, prefix: &str, after: u64) -> Result<Result<Changes, StoreError>, Failed> {
    let transaction = database.begin_read()?;
    let counters = transaction.open_table(COUNTERS)?;
    let (newest, compacted) = (value(&counters, NEWEST)?, value(&counters, COMPACTED)?);
    if after < compacted {
        return Ok(Err(StoreError::Compacted { asked: after, oldest: compacted }));
    }
    let (log, objects) = (transaction.open_table(LOG)?, transaction.open_table(OBJECTS)?);
    let (mut changes, mut bytes) = (Vec::new(), 0_usize);
    for found in log.range(after.saturating_add(1)..)? {
        let (revision, key) = found?;
        let (revision, key) = (revision.value(), key.value());
        if !key.starts_with(prefix) {
            continue;
        }
        let before = match objects.range((key, 0)..(key, revision))?.next_back() {
            Some(found) => {
                let (at, packed) = found?;
                unpacked(key, at.value().1, packed.value())
            }
            None => None,
        };
        let now = object(&objects, key, revision)?;
        let values = [&now, &before].into_iter().flatten();
        bytes = values.fold(bytes, |sum, entry| sum.saturating_add(entry.value.len()));
        changes.push(Change { key: key.to_owned(), revision, now, before });
        if changes.len() == CHANGES_MAX || bytes >= CHANGES_BYTES {
            return Ok(Ok(Changes { changes, revision }));
        }
    }
    Ok(Ok(Changes { changes, revision: newest }))
}

/// The revision that created the object, and its value; nothing but the former where it was deleted.
fn packed(created: u64, value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + value.map_or(0, <[u8]>::len));
    bytes.extend_from_slice(&created.to_be_bytes());
    if let Some(value) = value {
        bytes.push(1);
        bytes.extend_from_slice(value);
    }
    bytes
}

fn is_deletion(packed: &[u8]) -> bool {
    packed.len() == 8
}

/// None for a deletion.
fn unpacked(key: &str, revision: u64, packed: &[u8]) -> Option<Entry> {
    let (created, value) = packed.split_first_chunk()?;
    let value = value.get(1..)?.to_vec();
    Some(Entry { key: key.to_owned(), value, revision, created: u64::from_be_bytes(*created) })
}

fn object(
    objects: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    key: &str,
    revision: u64,
) -> Result<Option<Entry>, Failed> {
    Ok(objects.get((key, revision))?.and_then(|packed| unpacked(key, revision, packed.value())))
}

pub fn value(counters: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Failed> {
    Ok(counters.get(name)?.map_or(0, |value| value.value()))
}

pub fn counter(database: &Database, name: &str) -> Result<u64, Failed> {
    value(&database.begin_read()?.open_table(COUNTERS)?, name)
}

/// Opens or makes the file, with all its tables.
pub fn open(path: &Path) -> Result<Database, Failed> {
    let database = Database::builder().set_cache_size(CACHE).create(path)?;
    let format = match database.begin_read()?.open_table(COUNTERS) {
        Ok(counters) => value(&counters, FORMAT)?,
        Err(TableError::TableDoesNotExist(_)) => 0,
        Err(error) => return Err(error.into()),
    };
    if format > FORMAT_NOW {
        let why = format!("its format is {format}, and this program knows {FORMAT_NOW}: a newer one wrote it");
        return Err(Failed::Io(io::Error::other(why)));
    }
    if format < FORMAT_NOW {
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(LIVE)?;
        transaction.open_table(LOG)?;
        let mut counters = transaction.open_table(COUNTERS)?;
        counters.insert(FORMAT, FORMAT_NOW)?;
        counters.insert(BYTES, 0)?;
        drop(counters);
        transaction.commit()?;
    }
    count_bytes(&database)?;
    Ok(database)
}

/// Counts the bytes of a store that was written before they were.
fn count_bytes(database: &Database) -> Result<(), Failed> {
    let read = database.begin_read()?;
    if read.open_table(COUNTERS)?.get(BYTES)?.is_some() {
        return Ok(());
    }
    let mut bytes = 0_u64;
    for found in read.open_table(OBJECTS)?.iter()? {
        bytes = bytes.saturating_add(size(found?.1.value()));
    }
    let transaction = database.begin_write()?;
    transaction.open_table(COUNTERS)?.insert(BYTES, bytes)?;
    transaction.commit()?;
    Ok(())
}

pub fn open_at(path: &Path) -> Result<(Database, u64), Failed> {
    let database = open(path)?;
    let newest = counter(&database, NEWEST)?;
    Ok((database, newest))
}

/// A whole copy, as of one moment.
pub fn copy(database: &Database, to: &Path) -> Result<(), Failed> {
    let _ = fs::remove_file(to);
    let copy = open(to)?;
    let from = database.begin_read()?;
    let into = copy.begin_write()?;
    {
        let mut table = into.open_table(OBJECTS)?;
        for found in from.open_table(OBJECTS)?.iter()? {
            let (key, value) = found?;
            table.insert(key.value(), value.value())?;
        }
        let mut table = into.open_table(LIVE)?;
        for found in from.open_table(LIVE)?.iter()? {
            let (key, value) = found?;
            table.insert(key.value(), value.value())?;
        }
        let mut table = into.open_table(LOG)?;
        for found in from.open_table(LOG)?.iter()? {
            let (key, value) = found?;
            table.insert(key.value(), value.value())?;
        }
        let mut table = into.open_table(COUNTERS)?;
        for found in from.open_table(COUNTERS)?.iter()? {
            let (key, value) = found?;
            table.insert(key.value(), value.value())?;
        }
    }
    into.commit()?;
    Ok(())
}
