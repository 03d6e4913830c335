//! What there is: the files of the directory, as far as they have been taken, and what is known of the directory itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pod::manifest::{Context, Parsed};
use tokio::sync::watch;

use super::chain::{self, Chain};
use super::file::{self, Found, Reading, Stamp};
use super::mounts::Mounts;
use super::notice::{Interest, Noticed, Touch, Watcher};
use super::{FULL_SCAN, Snapshot};
use crate::mountinfo;

/// Files that are read. A node runs 110 pods; a fleet's worth of manifests in one directory is a mistake.
const MAX_FILES: usize = 10_000;
/// Bytes of all files that are read: sixteen of the largest.
const MAX_BYTES: u64 = 16 * pod::manifest::MAX_FILE_BYTES as u64;
/// Names that are listed at all: what one listing may cost in memory and time.
const MAX_LISTED: usize = 100_000;
/// Directories outside that links of the directory lead to and that are watched for their sake.
const MAX_LINKED: usize = 64;
/// A file whose writer has neither written nor closed it for this long is taken as it is.
const WRITER_GONE: Duration = Duration::from_secs(60);

/// The directory and its files.
pub struct Directory {
    /// As configured: what people see.
    root: PathBuf,
    context: Context,
    mounts: Mounts,
    chain: Chain,
    /// Device and inode of the directory, and whether a file system is mounted there.
    identity: Option<Identity>,
    not_heard: Option<String>,
    files: BTreeMap<OsString, Entry>,
    /// Files that somebody writes in place, and when that was last seen.
    writing: BTreeMap<OsString, Instant>,
    /// Where links of the directory lead.
    linked: BTreeSet<PathBuf>,
    /// How many files were read, and their bytes.
    taken: (usize, u64),
    full_scan_at: Instant,
    changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    mount: bool,
}

struct Entry {
    /// None: not read, only reported.
    stamp: Option<Stamp>,
    parsed: Arc<Parsed>,
}

impl Directory {
    pub fn new(root: PathBuf, context: Context, mounts: Mounts) -> Directory {
        let root = std::path::absolute(&root).unwrap_or(root);
        Directory {
            root,
            context,
            mounts,
            chain: Chain::default(),
            identity: None,
            not_heard: Snapshot::default().not_heard,
            files: BTreeMap::new(),
            writing: BTreeMap::new(),
            linked: BTreeSet::new(),
            taken: (0, 0),
            full_scan_at: Instant::now(),
            changed: true,
        }
    }

    pub fn is_heard(&self) -> bool {
        self.not_heard.is_none()
    }

    /// Sends a snapshot if there is anything new to say.
    pub fn publish(&mut self, sender: &watch::Sender<Snapshot>) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.note_mounts();
        let files = self.files.values().map(|entry| (entry.parsed.file.clone(), entry.parsed.clone())).collect();
        let generation = sender.borrow().generation.saturating_add(1);
        sender.send_replace(Snapshot { generation, not_heard: self.not_heard.clone(), files });
    }

    /// Looks at what was noticed, and at everything when it is time or when events were lost.
    pub fn take(&mut self, noticed: Noticed, watcher: &mut Watcher) {
        let Some(real) = self.chain.real.clone().filter(|_| self.is_heard()) else {
            return self.reopen(watcher);
        };
        for path in noticed.names.keys().filter(|path| self.chain.names.contains(*path)) {
            // Its own watch went with it.
            watcher.lost(path);
        }
        let moved = noticed.names.keys().any(|path| self.chain.names.contains(path));
        if moved || noticed.all || self.full_scan_at <= Instant::now() || identity(&self.root).ok() != self.identity {
            for (path, touch) in &noticed.names {
                self.note_writing(&real, path, *touch);
            }
            return self.reopen(watcher);
        }
        let mut elsewhere = false;
        for (path, touch) in noticed.names {
            if path.parent() != Some(&real) {
                elsewhere |= path.parent().is_some_and(|dir| self.linked.contains(dir)) && touch != Touch::Writing;
                continue;
            }
            let Some(name) = path.file_name() else { continue };
            if !file::counts(name) {
                // `..data` of a ConfigMap's volume: the files are links through it.
                elsewhere |= !self.linked.is_empty() && touch != Touch::Writing;
                continue;
            }
            self.note_writing(&real, &path, touch);
            if !self.writing.contains_key(name) {
                let linked = self.look(&real, name, true);
                elsewhere |= linked.is_some_and(|dir| !self.linked.contains(&dir));
            }
        }
        let now = Instant::now();
        let gone = |since: &Instant| now.saturating_duration_since(*since) >= WRITER_GONE;
        let abandoned: Vec<OsString> = self.writing.iter().filter(|(_, s)| gone(s)).map(|(n, _)| n.clone()).collect();
        for name in abandoned {
            self.writing.remove(&name);
            self.look(&real, &name, true);
        }
        if elsewhere {
            self.reopen(watcher);
        }
    }

    /// Keeps account of who is being written.
    fn note_writing(&mut self, real: &Path, path: &Path, touch: Touch) {
        let Some(name) = path.file_name().filter(|name| path.parent() == Some(real) && file::counts(name)) else {
            return;
        };
        match touch {
            Touch::Settled => {
                self.writing.remove(name);
            }
            Touch::Created if !file::may_be_open(path) => {
                self.writing.remove(name);
            }
            Touch::Created | Touch::Writing => {
                self.writing.insert(name.to_owned(), Instant::now());
            }
            Touch::Attributes => {}
        }
    }

    /// Finds the directory, watches it and all that leads there, and reads what has changed.
    pub fn reopen(&mut self, watcher: &mut Watcher) {
        /// A directory that is replaced while we look is looked for again; after that the next check does it.
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            self.chain = chain::resolve(&self.root);
            let mut watch = self.chain.watch.clone();
            for dir in &self.linked {
                if let Ok(found) = std::fs::metadata(dir) {
                    watch.insert(dir.clone(), (found.dev(), found.ino()));
                }
            }
            let dirs = self.chain.real.iter().chain(&self.linked).cloned().collect();
            watcher.set(&watch, Interest { dirs, names: self.chain.names.clone() });
            let linked = self.linked.clone();
            self.read_all();
            let same = !self.is_heard() || identity(&self.root).ok() == self.identity;
            if same && linked == self.linked {
                break;
            }
        }
        self.full_scan_at = Instant::now() + FULL_SCAN;
    }

    fn read_all(&mut self) {
        match self.list() {
            Ok((real, names, identity)) => {
                self.identity = Some(identity);
                self.hear(None);
                self.read_names(&real, names);
                self.note_mounts();
            }
            Err(reason) => self.hear(Some(format!("{} {reason}", self.root.display()))),
        }
    }

    /// Where there are manifests, what is mounted on the way to them is as it should be.
    fn note_mounts(&mut self) {
        if self.is_heard() && !self.files.is_empty() {
            let mounted = mounted();
            self.mounts.found(&self.root, self.chain.names.intersection(&mounted).cloned().collect());
        }
    }

    fn hear(&mut self, not_heard: Option<String>) {
        if self.not_heard != not_heard {
            match &not_heard {
                Some(reason) => tracing::warn!(reason, "the manifest directory is not heard from: what runs stays"),
                None => tracing::info!(dir = %self.root.display(), "the manifest directory is read"),
            }
            self.not_heard = not_heard;
            self.changed = true;
        }
    }

    /// The names that count, sorted; or why the directory says nothing.
    fn list(&self) -> Result<(PathBuf, Vec<OsString>, Identity), String> {
        let real = match (&self.chain.real, &self.chain.fault) {
            (Some(real), _) => real.clone(),
            (None, Some(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err("does not exist: create it, or name another with --manifest-dir".into());
            }
            (None, Some(error)) => return Err(format!("cannot be reached: {error}")),
            (None, None) => return Err("has not been looked for".into()),
        };
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        let identity = identity(&real).map_err(unreadable)?;
        let mut names = Vec::new();
        let mut listed = 0;
        for entry in std::fs::read_dir(&real).map_err(unreadable)? {
            listed += 1;
            if listed > MAX_LISTED {
                return Err(format!("has more than {MAX_LISTED} entries: it is no manifest directory"));
            }
            let name = entry.map_err(unreadable)?.file_name();
            if file::counts(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            self.check_mount(identity)?;
        }
        names.sort();
        Ok((real, names, identity))
    }

    /// A directory without manifests may be one on which its file system is not mounted yet, or not any more.
    fn check_mount(&self, now: Identity) -> Result<(), String> {
        if self.identity.is_some_and(|before| before.mount && before.device != now.device) && !now.mount {
            return Err("holds no manifest, and the file system that was mounted there is gone".into());
        }
        let mounted = mounted();
        if let Some(reason) = self.mounts.awaited(&self.root, &mounted) {
            return Err(reason);
        }
        let fstab = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
        match chain::awaits_mount(&fstab, &mounted, &self.chain.names) {
            Some(point) => Err(format!("holds no manifest, and {} of /etc/fstab is not mounted yet", point.display())),
            None => Ok(()),
        }
    }

    fn read_names(&mut self, real: &Path, names: Vec<OsString>) {
        let there: BTreeSet<&OsString> = names.iter().collect();
        let gone: Vec<OsString> = self.files.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        self.writing.retain(|name, _| there.contains(name));
        let mut linked = BTreeSet::new();
        for name in &names {
            if self.writing.contains_key(name) {
                continue;
            }
            if let Some(dir) = self.look(real, name, false)
                && linked.len() < MAX_LINKED
            {
                linked.insert(dir);
            }
        }
        self.linked = linked;
    }

    /// Takes a file as it is now. `anew`: read it even if it looks unchanged, for a writer may be quicker than the
    /// file system's clock. The answer is the directory to watch as well, where the name is a link.
    fn look(&mut self, real: &Path, name: &OsStr, anew: bool) -> Option<PathBuf> {
        let path = real.join(name);
        let shown = self.root.join(name).to_string_lossy().into_owned();
        let (stamp, link) = match file::look(&path) {
            Found::Nothing => {
                self.forget(name);
                return None;
            }
            Found::Fault(reason) => {
                self.put(name, None, file::fault(&shown, &reason));
                return None;
            }
            Found::Regular(stamp, link) => (stamp, link),
        };
        let target = if link { std::fs::canonicalize(&path).ok() } else { None };
        let linked = target.and_then(|target| target.parent().map(Path::to_owned));
        let known = self.files.get(name).and_then(|entry| entry.stamp);
        if known == Some(stamp) && !anew {
            return linked;
        }
        if known.is_none() && !self.has_room(stamp.size) {
            let reason = format!("is one too many: {MAX_FILES} files or {MAX_BYTES} bytes are read; remove some");
            self.put(name, None, file::fault(&shown, &reason));
            return linked;
        }
        match file::read(&path, &shown, &self.context) {
            Reading::Done(parsed, stamp) => self.put(name, Some(stamp), parsed),
            Reading::Nothing => self.forget(name),
            Reading::Moving => {
                self.writing.insert(name.to_owned(), Instant::now());
            }
        }
        linked
    }

    fn has_room(&self, size: u64) -> bool {
        self.taken.0 < MAX_FILES && self.taken.1.saturating_add(size) <= MAX_BYTES
    }

    /// Keeps account of what was read when a file's stamp changes.
    fn count(&mut self, before: Option<Stamp>, after: Option<Stamp>) {
        if let Some(stamp) = before {
            self.taken = (self.taken.0.saturating_sub(1), self.taken.1.saturating_sub(stamp.size));
        }
        if let Some(stamp) = after {
            self.taken = (self.taken.0.saturating_add(1), self.taken.1.saturating_add(stamp.size));
        }
    }

    fn put(&mut self, name: &OsStr, stamp: Option<Stamp>, parsed: Parsed) {
        self.count(self.files.get(name).and_then(|entry| entry.stamp), stamp);
        if let Some(entry) = self.files.get_mut(name)
            && *entry.parsed == parsed
        {
            entry.stamp = stamp;
            return;
        }
        let (documents, refused) = (parsed.documents.len(), parsed.rejections().count());
        match parsed.rejections().next() {
            None => tracing::info!(file = parsed.file, documents, "manifest read"),
            Some(reason) => {
                tracing::warn!(file = parsed.file, documents, refused, %reason, "manifest refused in part or whole")
            }
        }
        self.files.insert(name.to_owned(), Entry { stamp, parsed: Arc::new(parsed) });
        self.changed = true;
    }

    fn forget(&mut self, name: &OsStr) {
        self.writing.remove(name);
        if let Some(entry) = self.files.remove(name) {
            self.count(entry.stamp, None);
            tracing::info!(file = entry.parsed.file, "manifest removed");
            self.changed = true;
        }
    }
}

/// All mount points. Where they cannot be read none counts as mounted, which only makes us wait.
fn mounted() -> BTreeSet<PathBuf> {
    let all = mountinfo::read().unwrap_or_default();
    all.into_iter().map(|mounted| mounted.point).collect()
}

/// What distinguishes one directory from another that takes its place.
fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::metadata(path)?;
    let above = std::fs::metadata(path.join(".."))?;
    Ok(Identity { device: found.dev(), inode: found.ino(), mount: found.dev() != above.dev() })
}
