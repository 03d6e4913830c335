//! A daemon that prints as much as it can, up to a gigabyte a minute, and a reader that goes through its log files before they are rotated
//! away. Driven by `torture`, whose kills meet both; it knows log files and nothing of a node.
//!
//! Every line carries its life and its number. Each number is in the log once and in order; where some are missing, a marker of the keeper
//! stands right there and tells of at least as many bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::wait::pause;

/// A kilobyte a line; a pause after each hundred, without which it would take a processor for itself.
pub const SCRIPT: &str = "trap 'exit 0' TERM; life=$(cat /proc/sys/kernel/random/uuid); pad=$(printf %0970d 0); i=0; \
    while :; do echo $life n$i $pad; i=$((i+1)); [ $((i % 100)) != 0 ] || usleep 2000; done";

/// Limits under which the reader has half a minute and more for a file before it is rotated away.
pub const MAX_SIZE: &str = "16Mi";
pub const MAX_FILES: &str = "60";

/// A look at the directories. A file is full after a second at the quickest.
const LOOK: Duration = Duration::from_millis(300);

/// What was read.
#[derive(Debug, Default, Clone)]
pub struct Read {
    pub bytes: u64,
    pub lines: u64,
    pub lives: u64,
    /// Numbers that are missing, and what markers say of them.
    pub missing: u64,
    pub told_bytes: u64,
    pub markers: u64,
}

/// Reads until it is told to stop.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Read, String>>,
    begun: Instant,
}

impl Reader {
    /// `pods` is the node's directory of pods' logs.
    pub fn start(pods: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut following = Following::default();
            while !told.load(Ordering::Relaxed) {
                following.look(&pods, Until::Rotated)?;
                pause(LOOK);
            }
            following.look(&pods, Until::End)?;
            Ok(following.read)
        });
        Self { stop, thread, begun: Instant::now() }
    }

    /// Whether all was well so far: an error ends the thread.
    pub fn is_content(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Reads what is left, and tells the whole. The daemon is to have ended.
    pub fn end(self) -> Result<(Read, Duration), String> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.begun.elapsed();
        self.thread.join().map_err(|_| "the reader panicked".to_owned())?.map(|read| (read, took))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Files that nobody writes to any more.
    Rotated,
    /// All of them.
    End,
}

#[derive(Default)]
struct Following {
    done: BTreeSet<PathBuf>,
    attempts: BTreeMap<PathBuf, Attempt>,
    read: Read,
}

/// One attempt's files, as far as they are read.
#[derive(Default)]
struct Attempt {
    life: Option<String>,
    next: u64,
    /// Bytes that a marker has told of since the last number.
    told: Option<u64>,
    /// A line that is no number, and what it was: a piece of one, which only a marker explains.
    torn: Option<String>,
}

impl Following {
    fn look(&mut self, pods: &Path, until: Until) -> Result<(), String> {
        for pod in entries(pods).into_iter().filter(|pod| name(pod).contains("_chatty")) {
            for container in entries(&pod) {
                let mut files = entries(&container);
                // <n>.log.<time> in their order, <n>.log last.
                files.sort_by_key(|file| (attempt_of(file), name(file).ends_with(".log"), file.clone()));
                let newest = files.iter().filter_map(|file| number_of(file)).max();
                for file in files {
                    let written = name(&file).ends_with(".log") && number_of(&file) == newest;
                    if self.done.contains(&file) || (written && until == Until::Rotated) {
                        continue;
                    }
                    // The last file of an attempt that has ended may still be getting its last lines, and its successor's rotated ones come
                    // later: it is read when the next but one has begun, or at the end.
                    let ended = newest.zip(number_of(&file)).is_some_and(|(newest, this)| newest > this + 1);
                    if name(&file).ends_with(".log") && !ended && until == Until::Rotated {
                        continue;
                    }
                    self.file(&file)?;
                    self.done.insert(file);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), String> {
        let key = path.with_file_name(attempt_of(path));
        let attempt = self.attempts.entry(key).or_default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{} was rotated away before it was read: this reader is too slow", path.display()));
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let mut lines = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).map_err(|error| format!("{}: {error}", path.display()))?;
            if length == 0 {
                return Ok(());
            }
            self.read.bytes += length as u64;
            attempt.line(&line, &mut self.read).map_err(|why| {
                let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                format!("{}: {why}: {shown}", path.display())
            })?;
        }
    }
}

impl Attempt {
    fn line(&mut self, line: &[u8], read: &mut Read) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "no text".to_owned())?;
        let Some(text) = text.strip_suffix('\n') else { return Err("a line without its end".to_owned()) };
        let said = text.splitn(4, ' ').nth(3).ok_or("no line of a log")?;
        if let Some(marker) = said.strip_prefix("[daemonlet-logkeeper] ") {
            let bytes =
                marker.split(' ').find_map(|word| word.parse::<u64>().ok()).ok_or("a marker without a number")?;
            self.told = Some(self.told.unwrap_or(0).saturating_add(bytes));
            read.markers += 1;
            read.told_bytes = read.told_bytes.saturating_add(bytes);
            return Ok(());
        }
        let Some((life, number)) = number(said) else {
            let before = self.torn.replace(said.chars().take(120).collect());
            return if before.is_some() { Err("two pieces of lines".to_owned()) } else { Ok(()) };
        };
        read.lines += 1;
        if self.life.as_deref().is_some_and(|known| known != life) {
            return Err("two lives in one attempt".to_owned());
        }
        if self.life.is_none() {
            read.lives += 1;
            self.life = Some(life.to_owned());
        }
        if number < self.next {
            return Err(format!("said twice or late, {} was next", self.next));
        }
        let missing = number - self.next;
        let told = self.told.take();
        let torn = self.torn.take();
        match told {
            None if missing > 0 || torn.is_some() => {
                return Err(format!("{missing} numbers are missing and no marker tells it (piece: {torn:?})"));
            }
            // A piece of a line at either side counts as one.
            Some(told) if missing.saturating_sub(2).saturating_mul(text.len() as u64 / 2) > told => {
                return Err(format!("{missing} numbers are missing, and only {told} bytes are told"));
            }
            _ => {}
        }
        read.missing += missing;
        self.next = number + 1;
        Ok(())
    }
}

/// `<life> n<number> <padding>`.
fn number(said: &str) -> Option<(&str, u64)> {
    let mut words = said.split(' ');
    let (life, number, pad) = (words.next()?, words.next()?.strip_prefix('n')?, words.next()?);
    (life.len() == 36 && pad.len() == 970 && words.next().is_none()).then_some(())?;
    Some((life, number.parse().ok()?))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The part of a log file's name that says which attempt it belongs to.
fn attempt_of(path: &Path) -> String {
    let name = name(path);
    let number: u64 = name.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    format!("{number:020}")
}

fn number_of(path: &Path) -> Option<u64> {
    name(path).split('.').next().and_then(|number| number.parse().ok())
}

/// The audit itself finds what it is there for.
#[test]
fn a_line_that_is_lost_doubled_or_torn_is_found() {
    let pad = "0".repeat(970);
    let line = |number: u64| format!("2026-11-23T00:00:00Z stdout F {} n{number} {pad}\n", "a".repeat(36));
    let marker =
        |bytes| format!("2026-11-23T00:00:00Z stdout F [daemonlet-logkeeper] up to {bytes} bytes lost here: x\n");
    let piece = || "2026-11-23T00:00:00Z stdout F 0000\n".to_owned();
    let check = |lines: &[String]| {
        let (mut attempt, mut read) = (Attempt::default(), Read::default());
        lines.iter().try_for_each(|line| attempt.line(line.as_bytes(), &mut read)).map(|()| read.missing)
    };
    assert_eq!(check(&[line(0), line(1), line(2)]), Ok(0));
    assert_eq!(check(&[line(0), marker(65536), line(40)]), Ok(39));
    assert_eq!(check(&[line(0), piece(), marker(65536), line(40)]), Ok(39));
    for wrong in [
        vec![line(1)],
        vec![line(0), line(2)],
        vec![line(0), line(0)],
        vec![line(0), piece(), line(1)],
        vec![line(0), marker(100), line(40)],
        vec![line(0).replace('\n', "")],
    ] {
        assert!(check(&wrong).is_err(), "{wrong:?}");
    }
}
