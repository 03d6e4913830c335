//! The log keeper as the agent sees it: pipes for the workers, and somebody who notices when it is gone.
//!
//! The keeper is a program of its own ([`keeper`]), because the daemons' output must be read while the agent is dead.
//! Under systemd its unit restarts it; elsewhere this module starts it, detached, beside this program. Never stopped
//! from here.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keeper::client::{Keeper, StreamTarget};
use keeper::protocol::Limits;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pod::name::RunKey;
use pod::record::Record;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::config::{Following, LogLimits};
use crate::execute::chain;
use crate::log_file::{Line, LogDir};
use crate::seams::{LogPipes, StepError};
use crate::threads;

/// Between two tries to start a keeper that does not come up: soon, because daemons block while nobody reads.
const START_RETRY: Duration = Duration::from_secs(1);

/// How long a keeper that was just started, by us or by its unit, may take until it answers.
const START_MAX: Duration = Duration::from_secs(3);

/// Of the log of what failed, as much as the kubelet shows.
const TAIL_LINES: usize = 80;
const TAIL_BYTES: usize = 2048;
/// Read for it: lines have heads, and some are not printed.
const TAIL_READ: u64 = 64 << 10;
/// The disk of the logs may not answer: then nothing is shown.
const TAIL_MAX: Duration = Duration::from_secs(5);
/// Threads that it may hold meanwhile.
static TAILS: Semaphore = Semaphore::const_new(threads::TAILS);

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pipes {
    keeper: Keeper,
    log_dir: PathBuf,
    live: watch::Receiver<Following>,
}

impl Pipes {
    pub fn new(run_dir: &Path, log_dir: &Path, live: watch::Receiver<Following>) -> Pipes {
        Pipes { keeper: Keeper::new(run_dir), log_dir: log_dir.to_owned(), live }
    }

    /// Runs a call of the blocking client beside the loop.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Keeper) -> Result<T, keeper::client::Error> + Send + 'static,
    ) -> Result<T, StepError> {
        let keeper = self.keeper.clone();
        match threads::in_turn(move || call(&keeper)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(StepError::new("CreateContainerError", chain(&e))),
            Err(e) => Err(StepError::new("CreateContainerError", format!("a call to the log keeper ended: {e}"))),
        }
    }
}

/// `<ns>_<name>_<uid>`: the kubelet's name for a pod's log directory.
pub fn pod_dir(record: &Record) -> String {
    format!("{}_{}_{}", record.workload.namespace, record.name, record.uid)
}

fn target(record: &Record, run: &RunKey) -> StreamTarget {
    let id = run.container_id();
    let (namespace, container) = (&record.workload.namespace, &run.container);
    // The name of the link is what log collectors take apart; it is cut where a file name may not be longer.
    let stem = format!("{}_{namespace}_{container}", record.name);
    let room = 255 - "-.log".len() - id.len();
    let stem: String = stem.chars().take(room).collect();
    StreamTarget {
        log_path: format!("pods/{}/{container}/{}.log", pod_dir(record), run.attempt),
        link: format!("containers/{stem}-{id}.log"),
        id,
    }
}

impl LogPipes for Pipes {
    async fn open(&self, record: &Record, run: &RunKey) -> Result<(PathBuf, PathBuf), StepError> {
        let target = target(record, run);
        let pipes = self.ask(move |keeper| keeper.open(&target)).await?;
        Ok((pipes.stdout, pipes.stderr))
    }

    async fn close(&self, id: &str) -> Result<(), StepError> {
        let id = id.to_owned();
        let closed = self.ask(move |keeper| keeper.close(&id).map(|closed| (id, closed))).await?;
        if closed.1.lost > 0 {
            tracing::warn!(container = closed.0, lost_bytes = closed.1.lost, "output was lost");
        }
        Ok(())
    }

    async fn last_lines(&self, record: &Record, run: &RunKey) -> Option<String> {
        let (log_dir, pod, run) = (self.log_dir.clone(), pod_dir(record), run.clone());
        let reading = async {
            let turn = TAILS.acquire().await.ok()?;
            let reading = tokio::task::spawn_blocking(move || {
                let lines = last_lines(&log_dir, &pod, &run).ok();
                drop(turn);
                lines
            });
            reading.await.ok()?
        };
        tokio::time::timeout(TAIL_MAX, reading).await.ok()?.filter(|lines| !lines.is_empty())
    }

    async fn forget(&self, record: &Record) -> Result<(), StepError> {
        let dir = format!("pods/{}", pod_dir(record));
        let keep = self.live.borrow().live.log_limits.retention;
        self.ask(move |keeper| forget(keeper, &dir, keep)).await
    }
}

/// The end of a run's log, at most [`TAIL_LINES`] and [`TAIL_BYTES`].
fn last_lines(log_dir: &Path, pod: &str, run: &RunKey) -> std::io::Result<String> {
    let mut files = LogDir::open(log_dir, pod, &run.container)?.files(run.attempt.into())?;
    let Some(file) = files.last_mut() else { return Ok(String::new()) };
    let mut printed = Vec::new();
    file.seek_near_end(TAIL_READ)?;
    let mut each = |line: Line<'_>| printed.write_all(line.content);
    file.print(&mut each)?;
    file.finish(each)?;
    let text = String::from_utf8_lossy(&printed);
    let text = text.trim_end();
    let begin = text.rmatch_indices('\n').nth(TAIL_LINES - 1).map_or(0, |(at, _)| at + 1);
    let text = &text[begin..];
    let cut = text.len().saturating_sub(TAIL_BYTES);
    let cut = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok(text[cut..].to_owned())
}

/// Removes a pod's logs, or has them kept aside for a while. Runs whose creation never succeeded, or whose closing was cut
/// short, are still open in the keeper, and nobody else knows them any more: they are closed here, since no container of the
/// pod is left.
fn forget(keeper: &Keeper, dir: &str, keep: Duration) -> Result<(), keeper::client::Error> {
    let forget = || if keep.is_zero() { keeper.forget(dir) } else { keeper.retire(dir, keep) };
    let refused = match forget() {
        Err(refused @ keeper::client::Error::Keeper { .. }) => refused,
        done => return done,
    };
    let below = format!("{dir}/");
    let open = keeper.status()?.containers.into_iter().filter(|container| container.log.starts_with(&below));
    let mut closed = false;
    for container in open {
        keeper.close(&container.id)?;
        closed = true;
    }
    if closed { forget() } else { Err(refused) }
}

/// Keeps a keeper running and told of its limits, for as long as the agent lives.
pub async fn supervise(run_dir: PathBuf, log_dir: PathBuf, program: PathBuf, mut live: watch::Receiver<Following>) {
    let pipes = Pipes::new(&run_dir, &log_dir, live.clone());
    let socket = run_dir.join(keeper::protocol::SOCKET);
    loop {
        let at = socket.clone();
        // To connect waits for a keeper that hangs, and a thread of its own may.
        let Some(process) = tokio::task::spawn_blocking(move || present(&at)).await.ok().flatten() else {
            start(&program, &run_dir, &log_dir, live.borrow().live.log_limits);
            if !comes_up(&socket).await {
                tracing::error!(program = %program.display(), "the log keeper does not come up: daemons will block");
                tokio::time::sleep(START_RETRY).await;
            }
            continue;
        };
        let expected = log_dir.clone();
        let told = pipes.ask(Keeper::status).await.map(|status| PathBuf::from(status.logs));
        if let Ok(told) = told
            && !told.as_os_str().is_empty()
            && expected.canonicalize().is_ok_and(|expected| expected != told)
        {
            tracing::error!(
                keeper = %told.display(), agent = %expected.display(),
                "the log keeper writes elsewhere than the agent reads: give both the same --log-dir (for the units: \
                 DAEMONLET_LOGKEEPER_OPTIONS in /etc/default/daemonlet) and restart daemonlet-logkeeper"
            );
        }
        let limits = async {
            loop {
                let LogLimits { max_file_size, max_files, budget, retention: _ } =
                    live.borrow_and_update().live.log_limits;
                let limits = Limits { max_file_size, max_files, budget };
                if let Err(e) = pipes.ask(move |keeper| keeper.limits(limits)).await {
                    tracing::warn!(why = e.message, "the log keeper does not take its limits");
                }
                if live.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            _ = end_of(process) => tracing::warn!("the log keeper ended"),
            () = limits => {}
        }
    }
}

/// A handle of the process that serves the socket, readable once it has ended. None when nobody serves it.
fn present(socket: &Path) -> Option<OwnedFd> {
    let stream = UnixStream::connect(socket).ok()?;
    let pid = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?.pid();
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()
}

/// Answers when the process has ended. A thread waits for it, because a safe way to wait for a pidfd on tokio's reactor
/// does not exist; it costs a few kilobytes and wakes never.
fn end_of(process: OwnedFd) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        // Nobody may be waiting any more.
        let _ = ended.send(());
    });
    end
}

async fn comes_up(socket: &Path) -> bool {
    let deadline = tokio::time::Instant::now() + START_MAX;
    while tokio::time::Instant::now() < deadline {
        // Not the blocking one: a keeper that hangs has a full queue, and the loop would wait in it.
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Starts a keeper in a process group of its own, so that what ends the agent does not end it.
fn start(program: &Path, run_dir: &Path, log_dir: &Path, limits: LogLimits) {
    let mut command = Command::new(program);
    command.arg("--run-dir").arg(run_dir).arg("--log-dir").arg(log_dir);
    command.arg("--max-file-size").arg(limits.max_file_size.to_string());
    command.arg("--max-files").arg(limits.max_files.to_string());
    command.arg("--budget").arg(limits.budget.to_string());
    // Without the agent's notification socket: the keeper would speak for the agent.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    match command.spawn() {
        Ok(mut child) => {
            tracing::info!(pid = child.id(), program = %program.display(), "log keeper started");
            // Its end is noticed by its pidfd; somebody has to take its exit status.
            std::thread::spawn(move || child.wait());
        }
        Err(e) => tracing::error!(program = %program.display(), error = %e, "the log keeper cannot be started"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use keeper::protocol::{ContainerStatus, Status};

    use super::*;

    /// A keeper that has one container of pod `a` and one of pod `b` open, and what it was asked.
    fn stand_in(run_dir: &Path) -> std::thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(run_dir.join(keeper::protocol::SOCKET)).unwrap();
        std::thread::spawn(move || {
            let open = |pod: &str| ContainerStatus {
                id: format!("id-{pod}"),
                log: format!("pods/ns_{pod}_u/c/0.log"),
                ..ContainerStatus::default()
            };
            let mut status = Status { containers: vec![open("a"), open("b")], ..Status::default() };
            let mut asked = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let words: Vec<&str> = line.split_whitespace().collect();
                let (answer, last) = match words.as_slice() {
                    ["status"] => (status.render(), false),
                    ["close", id] => {
                        status.containers.retain(|c| c.id != *id);
                        ("ok bytes=0 lines=0 lost=0\n".to_owned(), false)
                    }
                    ["forget", dir] if status.containers.iter().any(|c| c.log.starts_with(dir)) => {
                        ("err close it first\n".to_owned(), false)
                    }
                    _ => ("ok\n".to_owned(), true),
                };
                stream.write_all(answer.as_bytes()).unwrap();
                asked.push(line.trim().to_owned());
                if last {
                    return asked;
                }
            }
        })
    }

    #[test]
    fn a_pod_whose_run_was_never_created_can_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = stand_in(dir.path());
        forget(&Keeper::new(dir.path()), "pods/ns_a_u", Duration::ZERO).unwrap();
        let asked = keeper.join().unwrap();
        assert_eq!(asked, ["forget pods/ns_a_u", "status", "close id-a", "forget pods/ns_a_u"]);
    }
}
