//! Events over an agent's end and over a reboot: two copies of the ring, the newer one counts.
//!
//! Driven by the composition root. The copy in the run directory, which is memory, follows within seconds: it outlives a killed
//! agent. The one in the state directory is written rarely, for flash wears out, and at the agent's orderly end, which comes
//! before each orderly reboot. A disk that takes neither costs the events and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Events, Seen};
use crate::board::Board;
use crate::durable;
use crate::execute::chain;
use crate::seams::Files;

const NAME: &str = "events";
const FORMAT: &str = "daemonlet-events/1";
/// A full ring of the longest messages is some 1.5 MB.
const BYTES_MAX: u64 = 8 << 20;
/// What a killed agent loses at most. Events come in flocks: they are written together.
const RUN_PAUSE: Duration = Duration::from_secs(2);
/// What a power cut loses at most: some 30 KB at a time, less than 10 MB a day, and nothing where nothing happens.
const STATE_PAUSE: Duration = Duration::from_secs(300);
/// At the agent's end: a disk that hangs must not keep it.
const END_MAX: Duration = Duration::from_secs(2);

/// What a copy holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Oldest last-seen first.
    pub events: Vec<Seen>,
    /// How many were ever recorded.
    pub recorded: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    recorded: u64,
}

/// Where the copies lie.
#[derive(Debug, Clone)]
pub struct Places {
    run: PathBuf,
    state: PathBuf,
}

impl Places {
    pub fn new(run_dir: &Path, state_dir: &Path) -> Places {
        Places { run: run_dir.join(NAME), state: state_dir.join(NAME) }
    }

    /// The newer copy; nothing where none can be read.
    pub async fn load(&self, files: &impl Files) -> Known {
        let mut newest = Known::default();
        let [state, older] = durable::generations(&self.state).map(|(path, _)| path);
        for path in [&self.run, &state, &older] {
            let known = match files.read(path, BYTES_MAX).await {
                Ok(content) => decode(&content),
                Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
                Err(why) => Err(why.to_string()),
            };
            match known {
                Ok(known) if known.recorded > newest.recorded => newest = known,
                Ok(_) => {}
                Err(why) => tracing::warn!(path = %path.display(), why, "events of before cannot be read"),
            }
        }
        newest
    }

    async fn write_run(&self, files: &impl Files, board: &Board) -> io::Result<()> {
        let beside = self.run.with_extension("new");
        files.write(&beside, board.with_events(encode)).await?;
        files.rename(&beside, &self.run).await
    }

    async fn write_state(&self, files: &impl Files, board: &Board) -> io::Result<()> {
        durable::replace(files, &self.state, board.with_events(encode)).await
    }
}

/// Keeps the copies up to date until `end` is told or dropped, and brings both up to date then.
pub async fn keep(files: impl Files, board: Board, places: Places, mut end: oneshot::Receiver<()>) {
    let mut recorded = board.events_recorded();
    // Something may have been recorded before.
    recorded.mark_changed();
    // From the start on: what happens at a boot is written once.
    let mut state_due = Instant::now() + STATE_PAUSE;
    let mut state_lags = false;
    let mut said = Said::default();
    loop {
        let due = async {
            match state_lags {
                true => sleep_until(state_due).await,
                false => std::future::pending().await,
            }
        };
        // All arms only wait.
        tokio::select! {
            _ = &mut end => break,
            changed = recorded.changed() => if changed.is_err() { break },
            () = due => {
                state_lags = false;
                state_due = Instant::now() + STATE_PAUSE;
                said.say(&places.state, places.write_state(&files, &board).await);
                continue;
            }
        }
        // Both arms only wait.
        tokio::select! {
            _ = &mut end => break,
            () = sleep(RUN_PAUSE) => {}
        }
        recorded.mark_unchanged();
        state_lags = true;
        said.say(&places.run, places.write_run(&files, &board).await);
    }
    let last = async {
        said.say(&places.run, places.write_run(&files, &board).await);
        said.say(&places.state, places.write_state(&files, &board).await);
    };
    if tokio::time::timeout(END_MAX, last).await.is_err() {
        tracing::warn!("the last events are not written: the disk does not answer");
    }
}

/// A fault is logged once, not at each try.
#[derive(Debug, Default)]
struct Said(Option<String>);

impl Said {
    fn say(&mut self, path: &Path, written: io::Result<()>) {
        let now = written.err().map(|why| format!("{}: {}", path.display(), chain(&why)));
        if let Some(why) = now.as_ref().filter(|why| self.0.as_ref() != Some(why)) {
            tracing::warn!(why, "events are not written; they are known to this agent alone");
        }
        self.0 = now.or(self.0.take());
    }
}

fn encode(events: &Events) -> Vec<u8> {
    let mut body = Vec::new();
    line(&Head { recorded: events.recorded }, &mut body);
    events.ring.iter().for_each(|seen| line(seen, &mut body));
    durable::seal(FORMAT, &body)
}

fn line(value: &impl Serialize, body: &mut Vec<u8>) {
    serde_json::to_writer(&mut *body, value).expect("text keys, and a Vec takes everything");
    body.push(b'\n');
}

fn decode(content: &[u8]) -> Result<Known, String> {
    let body = durable::unseal(FORMAT, "list of events", content)?;
    let mut lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let head: Head = serde_json::from_slice(lines.next().ok_or("empty")?).map_err(|why| why.to_string())?;
    let events = lines.map(serde_json::from_slice).collect::<Result<_, _>>().map_err(|why| why.to_string())?;
    Ok(Known { events, recorded: head.recorded })
}

#[cfg(test)]
mod tests {
    use super::super::{About, Event, Severity};
    use super::*;
    use crate::disk::Disk;

    fn event(message: &str) -> Event {
        let about = About { kind: "Pod".into(), namespace: "a".into(), name: "b".into(), ..About::default() };
        let at = jiff::Timestamp::from_second(1_000_000).unwrap();
        Event { severity: Severity::Warning, reason: "BackOff".into(), about, message: message.into(), at }
    }

    struct Node {
        dir: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Node {
            let dir = tempfile::tempdir().unwrap();
            ["run", "state"].iter().for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
            Node { dir }
        }

        fn places(&self) -> Places {
            Places::new(&self.dir.path().join("run"), &self.dir.path().join("state"))
        }

        /// A board with what is known, and the keeping of it.
        async fn agent(&self) -> (Board, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
            let (board, _commands) = Board::new();
            board.restore_events(self.places().load(&Disk).await);
            let (end, ended) = oneshot::channel();
            let keeping = tokio::spawn(keep(Disk, board.clone(), self.places(), ended));
            (board, end, keeping)
        }
    }

    fn counts(board: &Board) -> Vec<(String, u64)> {
        board.events().into_iter().map(|seen| (seen.message, seen.count)).collect()
    }

    #[tokio::test]
    async fn an_orderly_stop_loses_no_count_and_a_reboot_neither() {
        let node = Node::new();
        let (board, end, keeping) = node.agent().await;
        board.record(event("x"));
        board.record(event("x"));
        board.record(event("y"));
        drop(end);
        keeping.await.unwrap();
        // A reboot: what lies in memory is gone.
        std::fs::remove_dir_all(node.dir.path().join("run")).unwrap();
        std::fs::create_dir(node.dir.path().join("run")).unwrap();
        let (board, _end, _keeping) = node.agent().await;
        board.record(event("x"));
        assert_eq!(counts(&board), [("y".to_owned(), 1), ("x".to_owned(), 3)]);
    }

    #[tokio::test]
    async fn a_killed_agent_loses_seconds_and_the_state_disk_is_left_alone() {
        let node = Node::new();
        let (board, _end, keeping) = node.agent().await;
        board.record(event("x"));
        let run = node.places().run;
        let written = async {
            while !run.exists() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(RUN_PAUSE * 5, written).await.expect("it is written soon");
        keeping.abort();
        assert!(!node.places().state.exists(), "a flash disk is not written for each event");
        let (board, _end, _keeping) = node.agent().await;
        assert_eq!(counts(&board), [("x".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn the_newer_copy_counts_and_a_damaged_one_does_not() {
        let node = Node::new();
        let places = node.places();
        let (board, _commands) = Board::new();
        board.record(event("old"));
        places.write_run(&Disk, &board).await.unwrap();
        board.record(event("new"));
        places.write_state(&Disk, &board).await.unwrap();
        assert_eq!(places.load(&Disk).await.recorded, 2);
        std::fs::write(&places.state, "torn").unwrap();
        assert_eq!(places.load(&Disk).await.recorded, 1);
        std::fs::write(&places.run, "torn").unwrap();
        assert_eq!(places.load(&Disk).await, Known::default());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_the_events_alone() {
        let node = Node::new();
        let (board, end, keeping) = node.agent().await;
        std::fs::remove_dir_all(node.dir.path().join("run")).unwrap();
        std::fs::remove_dir_all(node.dir.path().join("state")).unwrap();
        board.record(event("x"));
        drop(end);
        keeping.await.unwrap();
        assert_eq!(counts(&board).len(), 1);
    }
}
