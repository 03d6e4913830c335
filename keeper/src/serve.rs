//! The keeper's one loop: pipes that have something, clients that ask, the budget, the end.
//!
//! Driven by `main`. It decides whose turn it is; what a turn does is `container`'s. Pipes are watched edge-triggered:
//! an event only marks a stream as ready, and a stream stays ready until its pipe was found empty, so that every ready
//! stream gets its bounded turn in each round and a flood of one delays the others by their turns only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeper::protocol::{self, Limits, Refusal, Request, Status};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::budget;
use crate::container::{CLOSE_MAX, Container, Now, Shared};
use crate::cri::Stream;
use crate::deleted;
use crate::door::{Door, Line};

/// Events taken from the kernel at once; those beyond come with the next round.
const EVENTS_MAX: usize = 64;
/// Tokens below are the loop's own; connections and pipes have theirs.
const DOOR: u64 = 0;
const SIGNALS: u64 = 1;
/// Connections' tokens are below the pipes'.
const CONNECTIONS: u64 = 2;
const PIPES: u64 = 1 << 32;

/// Why the loop ended. The process then exits with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// A newer keeper reads from now on.
    Handover,
}

/// Everything that the loop has.
#[derive(Debug)]
pub struct Serve {
    run_dir: PathBuf,
    epoll: Epoll,
    signals: SignalFd,
    door: Option<Door>,
    shared: Shared,
    containers: BTreeMap<u64, Container>,
    next_key: u64,
    /// Bytes at which the budget is looked at again, so that a full node is not counted at every line.
    check_at: u64,
    removed: u64,
    /// When the next log of a deleted pod goes, since 1970.
    deleted_due: Option<Duration>,
}

impl Serve {
    pub fn new(run_dir: &Path, shared: Shared) -> io::Result<Self> {
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGTERM);
        ends.add(Signal::SIGINT);
        ends.thread_block()?;
        let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(Self {
            run_dir: run_dir.into(),
            epoll,
            signals,
            door: None,
            shared,
            containers: BTreeMap::new(),
            next_key: 0,
            check_at: 0,
            removed: 0,
            deleted_due: None,
        })
    }

    /// Opens every container that the run directory has. One that cannot be opened is told on standard error and left.
    pub fn take_up_all(&mut self) -> io::Result<()> {
        let now = Now::read();
        for entry in std::fs::read_dir(self.run_dir.join(protocol::STREAMS))? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().filter(|id| protocol::container_id(id).is_ok()) else { continue };
            // Without a target the agent is still making it, and will ask.
            let made = self.run_dir.join(protocol::STREAMS).join(id).join(protocol::TARGET).exists();
            if made && let Err(error) = self.open(id, now) {
                crate::say(&format!("container {id}: not taken up: {error}"));
            }
        }
        self.check_budget(now);
        self.deleted_due = deleted::sweep(&self.shared.logs, now.wall);
        Ok(())
    }

    /// Opens the door: from here on requests are answered.
    pub fn listen(&mut self) -> io::Result<()> {
        let door = Door::open(&self.run_dir.join(protocol::SOCKET))?;
        self.epoll.add(&door.listener, EpollEvent::new(EpollFlags::EPOLLIN, DOOR))?;
        self.door = Some(door);
        Ok(())
    }

    /// Serves until a signal or a successor ends it.
    pub fn run(&mut self) -> io::Result<End> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let timeout = self.timeout();
            if timeout != Some(Duration::ZERO) {
                self.shared.rest();
            }
            let timeout = match timeout {
                // Rounded up, or the loop would spin through the last millisecond.
                Some(wait) => EpollTimeout::try_from(wait.as_millis().saturating_add(u128::from(!wait.is_zero())))
                    .unwrap_or(EpollTimeout::MAX),
                None => EpollTimeout::NONE,
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                if let Some(end) = self.event(event.data())? {
                    return Ok(end);
                }
            }
            self.turns();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Now::read();
        let due = self.containers.values().filter_map(|container| container.due(now)).min();
        let due = due.map(|due| due.saturating_duration_since(now.mono));
        let deleted = self.deleted_due.map(|due| due.saturating_sub(now.wall));
        due.into_iter().chain(deleted).min()
    }

    fn event(&mut self, token: u64) -> io::Result<Option<End>> {
        match token {
            DOOR => {
                if let Some(door) = &mut self.door {
                    for (connection, key) in door.accept() {
                        let events =
                            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                        self.epoll.add(connection, EpollEvent::new(events, CONNECTIONS + key))?;
                    }
                }
                Ok(None)
            }
            SIGNALS => Ok(self.signals.read_signal()?.map(|_| End::Signal)),
            pipe if pipe >= PIPES => {
                let stream = Stream::BOTH[usize::from(pipe & 1 == 1)];
                if let Some(container) = self.containers.get_mut(&((pipe - PIPES) >> 1)) {
                    container.wake(stream);
                }
                Ok(None)
            }
            connection => Ok(self.connection(connection - CONNECTIONS)),
        }
    }

    fn turns(&mut self) {
        let now = Now::read();
        for container in self.containers.values_mut() {
            if container.due(now).is_some_and(|due| due <= now.mono) {
                for stream in Stream::BOTH {
                    container.turn(stream, &mut self.shared, now);
                }
            }
        }
        if self.deleted_due.is_some_and(|due| due <= now.wall) {
            self.deleted_due = deleted::sweep(&self.shared.logs, now.wall);
        }
        if self.shared.used > self.check_at {
            self.check_budget(now);
        }
    }

    fn check_budget(&mut self, now: Now) {
        let taken = budget::enforce(&mut self.shared, &mut self.containers, now);
        self.removed = self.removed.saturating_add(taken);
        // Where nothing more can go, the next look comes after another 64th of the budget.
        let over = self.shared.used.saturating_add(self.shared.limits.budget / 64);
        self.check_at = if self.shared.used < self.shared.limits.budget { self.shared.limits.budget } else { over };
    }

    /// Answers every whole line that a connection has sent.
    fn connection(&mut self, key: u64) -> Option<End> {
        loop {
            let line = self.door.as_mut()?.read(key);
            let answer = match line {
                Line::Request(line) => match Request::parse(&line) {
                    Ok(Request::Handover) => {
                        self.door.as_mut()?.answer(key, "ok\n");
                        return Some(End::Handover);
                    }
                    Ok(request) => self.answer(request),
                    Err(refusal) => err(&refusal),
                },
                Line::None => return None,
            };
            self.door.as_mut()?.answer(key, &answer);
        }
    }

    fn answer(&mut self, request: Request) -> String {
        let now = Now::read();
        let outcome = match request {
            Request::Open(id) => self.open(&id, now).map(|()| "ok\n".into()),
            Request::Close(id) => Ok(self.close(&id, now)),
            Request::Forget(dir) => self.forget(&dir, Duration::ZERO, now).map(|()| "ok\n".into()),
            Request::Retire(keep, dir) => self.forget(&dir, Duration::from_secs(keep), now).map(|()| "ok\n".into()),
            Request::Limits(limits) => self.limits(limits, now).map(|()| "ok\n".into()),
            Request::Status => Ok(self.status().render()),
            // Answered by the loop itself, which it ends.
            Request::Handover => Ok("ok\n".into()),
        };
        outcome.unwrap_or_else(|error| err(&error))
    }

    fn open(&mut self, id: &str, now: Now) -> io::Result<()> {
        if self.key(id).is_some() {
            return Ok(());
        }
        let dir = self.run_dir.join(protocol::STREAMS).join(id);
        let container = Container::open(&dir, id, &mut self.shared, now)?;
        let key = self.next_key;
        for (stream, pipe) in container.pipes() {
            let token = PIPES + (key << 1) + u64::from(stream == Stream::Stderr);
            self.epoll.add(pipe, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token))?;
        }
        self.next_key += 1;
        let target = container.target.clone();
        self.containers.insert(key, container);
        let active: BTreeSet<&str> = self.containers.values().map(|c| c.target.log.as_str()).collect();
        // Old attempts that stay are the budget's to take.
        let _ = budget::prune_attempts(&self.shared.logs, &target, &active);
        Ok(())
    }

    /// An id that is not open is closed already: an answer may have been lost.
    fn close(&mut self, id: &str, now: Now) -> String {
        match self.key(id).and_then(|key| self.drain(key)) {
            Some(container) => {
                let record = container.close(&mut self.shared, now);
                format!("ok bytes={} lines={} lost={}\n", record.bytes, record.lines, record.lost)
            }
            None => "ok bytes=0 lines=0 lost=0\n".into(),
        }
    }

    /// Takes a container out after the turns that its pipes need. It is one of the open ones until then, so that the
    /// budget's removals are still told in its log.
    fn drain(&mut self, key: u64) -> Option<Container> {
        let container = self.containers.get_mut(&key)?;
        let stop = container.settled().saturating_add(2 * CLOSE_MAX);
        Stream::BOTH.into_iter().for_each(|stream| container.wake(stream));
        loop {
            let now = Now::read();
            let container = self.containers.get_mut(&key)?;
            if container.settled() >= stop || container.due(now).is_none_or(|due| due > now.mono) {
                return self.containers.remove(&key);
            }
            Stream::BOTH.into_iter().for_each(|stream| container.turn(stream, &mut self.shared, now));
            if self.shared.used > self.check_at {
                self.check_budget(now);
            }
        }
    }

    fn forget(&mut self, dir: &str, keep: Duration, now: Now) -> io::Result<()> {
        if let Some(open) = self.containers.values().find(|container| container.target.pod_dir() == dir) {
            return Err(io::Error::other(format!("{dir} is still written by container {}: close it first", open.id)));
        }
        match keep.is_zero() {
            true => budget::forget(&self.shared.logs, dir)?,
            false => {
                deleted::retire(&self.shared.logs, dir, keep, now.wall)?;
                self.deleted_due = deleted::sweep(&self.shared.logs, now.wall);
            }
        }
        self.check_budget(now);
        Ok(())
    }

    fn limits(&mut self, limits: Limits, now: Now) -> io::Result<()> {
        let path = self.run_dir.join(protocol::LIMITS);
        let beside = path.with_extension("new");
        std::fs::write(&beside, limits.to_string()).and_then(|()| std::fs::rename(&beside, &path))?;
        self.shared.limits = limits;
        self.check_budget(now);
        Ok(())
    }

    fn status(&self) -> Status {
        let mut containers: Vec<_> = self.containers.values().map(Container::status).collect();
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        Status {
            pid: u64::from(std::process::id()),
            version: env!("CARGO_PKG_VERSION").into(),
            used: self.shared.used,
            removed: self.removed,
            logs: self.shared.logs.place().display().to_string(),
            containers,
        }
    }

    fn key(&self, id: &str) -> Option<u64> {
        self.containers.iter().find(|(_, container)| container.id == id).map(|(key, _)| *key)
    }
}

fn err(why: &dyn std::fmt::Display) -> String {
    let Refusal(line) = Refusal(why.to_string().replace('\n', " "));
    format!("err {line}\n")
}
