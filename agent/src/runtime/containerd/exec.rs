//! Commands in containers that run: an exec process of containerd, its pipes, its end, and what is left of it.
//!
//! Driven by the Runtime verb in `mod`. Each command is a task of its own, which outlives the caller: whoever drops the
//! caller's future has the command killed, and the task takes everything away in either case. The pipes' directory says
//! which commands there are: what a killed agent left is found by it at the next start ([`sweep`]).

mod pipes;
mod session;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetRequest, KillRequest, ResizePtyRequest, StartRequest,
    WaitRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::v1::Status as TaskStatus;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use pod::name::Uid;
use prost_types::Any;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::client::{Client, QUICK, SLOW, bounded, causes, found, is_unavailable, shorten};
use super::{Containerd, containers, labels, tasks};
use crate::exec::{Caller, Exec, ExecError, ExecStreams, PIECE_BYTES_MAX, Stage, Stream, TerminalSize};
use crate::threads;
use pipes::{Pipes, Writer};

/// containerd's name for a process specification; 2.x takes no other.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Commands of probes and hooks that run in one container at once, so that what hangs there takes no other's turn: a container
/// has three probes and a hook.
const NODE_EXECS_MAX: usize = 4;
/// Commands of people in one pod: nobody types in more windows.
const PERSON_EXECS_MAX: usize = 16;
/// How long output may be quiet after the command's end until it counts as complete: what the command left running in
/// the background may keep the pipes open for ever.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// How long a killed command may take to end: only one in uninterruptible sleep takes longer.
const KILLED_WAIT: Duration = Duration::from_secs(10);
/// Between two tries to take away what is left, and how many there are (ten minutes); the next start tries again.
const CLEAN_PAUSE_MAX: Duration = Duration::from_secs(30);
const CLEAN_TRIES_MAX: u32 = 24;
/// How often the end of a command is asked for again when the connection breaks.
const WAIT_TRIES_MAX: u32 = 60;
const WAIT_PAUSE: Duration = Duration::from_secs(1);
/// What is left of killed agents' commands in one directory; more are left to the containers' end.
const LEFT_MAX: usize = 1024;

/// A request that a killed agent had sent may still be carried out: what containerd does not know is looked for once more.
const SENT_BEFORE: Duration = Duration::from_secs(3);

/// Who may run how many commands.
#[derive(Debug, Default)]
pub(super) struct Execs {
    turns: Mutex<BTreeMap<Turns, Weak<Semaphore>>>,
}

/// Whose turns they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Turns {
    Container(String),
    People(Uid),
    /// To look at the container's working directory.
    Directory(String),
}

impl Execs {
    /// Of a container's few turns each may be held by a command that hangs: who counts the time (`stage`) counts from here.
    async fn enter(
        &self,
        uid: &Uid,
        container: &str,
        caller: Caller,
        stage: Option<&watch::Sender<Stage>>,
    ) -> Result<OwnedSemaphorePermit, ExecError> {
        if let Some(stage) = stage {
            stage.send_replace(Stage::Starts);
        }
        let (whose, most) = match caller {
            Caller::Node => (Turns::Container(container.to_owned()), NODE_EXECS_MAX),
            Caller::Person => (Turns::People(uid.clone()), PERSON_EXECS_MAX),
        };
        let semaphore = self.turns(whose, most);
        match caller {
            Caller::Node => semaphore.acquire_owned().await.map_err(|_| ExecError::NotRunning),
            Caller::Person => semaphore.try_acquire_owned().map_err(|_| ExecError::TooMany(most)),
        }
    }

    fn turns(&self, whose: Turns, most: usize) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().expect("nothing panics while it is held");
        turns.retain(|_, held| held.strong_count() > 0);
        let weak = turns.entry(whose).or_default();
        weak.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Semaphore::new(most));
            *weak = Arc::downgrade(&made);
            made
        })
    }

    /// Looks at a container's working directory. One in a file system that does not answer holds a thread: one of few, and as
    /// long as it does nobody looks at the same container's again.
    async fn look(
        &self,
        container: &str,
        limit: Duration,
        look: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), ExecError> {
        let hangs = || ExecError::NotStarted("the working directory does not answer; is its file system gone?".into());
        let turn = self.turns(Turns::Directory(container.to_owned()), 1).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(limit, turn).await else { return Err(hangs()) };
        let Ok(Ok(place)) = tokio::time::timeout(limit, LOOKS.acquire()).await else {
            let why = "the working directories of other containers do not answer and take every thread for such looks";
            return Err(ExecError::Failed(why.into()));
        };
        let looking = tokio::task::spawn_blocking(move || {
            let looked = look();
            // Not before: whoever waits may have given up, the thread has not.
            drop((turn, place));
            looked
        });
        match tokio::time::timeout(limit, looking).await {
            Ok(Ok(looked)) => looked.map_err(ExecError::NotStarted),
            Ok(Err(ended)) => Err(ExecError::Failed(format!("the look at the working directory ended: {ended}"))),
            Err(_) => Err(hangs()),
        }
    }
}

static LOOKS: Semaphore = Semaphore::const_new(threads::WORKING_DIRECTORIES);
/// Opening a directory takes microseconds.
const LOOK_MAX: Duration = Duration::from_secs(5);

impl Containerd {
    pub(super) async fn exec_in(&self, exec: Exec<'_>, streams: ExecStreams) -> Result<u32, ExecError> {
        let failed = |what: &str, status: &Status| failed(&self.client, what, status);
        let record = containers::get_record(&self.client, exec.id).await;
        let record = record.map_err(|status| failed("the container's record", &status))?;
        let record = record.ok_or(ExecError::NotRunning)?;
        let (_, run) = labels::identity(&record.labels).ok_or(ExecError::NotRunning)?;
        // Before its turn: what is asked of the runtime may not count against the container, and the wait for a turn does.
        let task = tasks::get(&self.client, exec.id).await.map_err(|status| failed("the container's task", &status))?;
        let permit = self.execs.enter(&run.uid, exec.id, exec.caller, streams.stage.as_ref()).await?;
        let task = task.filter(|it| it.status() == TaskStatus::Running).ok_or(ExecError::NotRunning)?;
        let own = record.spec.and_then(|any| serde_json::from_slice::<Spec>(&any.value).ok());
        let own = own.ok_or_else(|| ExecError::Failed("its specification cannot be read".into()))?;
        let process = process(own.process, &exec);
        let (pid, dir) = (task.pid, cwd(&process));
        // The root itself leads nowhere.
        if dir != Path::new("/") {
            self.execs.look(exec.id, LOOK_MAX, move || check_directory(pid, &dir)).await?;
        }
        let command = Command {
            client: self.client.clone(),
            container: exec.id.to_owned(),
            id: format!("e{}", uuid::Uuid::new_v4().simple()),
            dir: self.config.exec_dir().join(exec.id),
            terminal: exec.terminal,
        };
        let (_caller_lives, caller_gone) = oneshot::channel::<()>();
        let task = tokio::spawn(command.drive(process, streams, caller_gone, permit));
        task.await.unwrap_or_else(|ended| Err(ExecError::Failed(format!("the command's task ended: {ended}"))))
    }
}

/// The container's own process with another command: user, groups, environment, directory, capabilities, limits and
/// profiles are the container's.
/// What a container is made of, as far as its commands need it. What runc reads as a process is kept as it was written: to read all
/// that a specification may say would take code and memory that nothing else here needs.
#[derive(Deserialize)]
struct Spec {
    process: Process,
}

type Process = Map<String, Value>;

fn process(mut process: Process, exec: &Exec<'_>) -> Process {
    process.insert("args".into(), json!(exec.command));
    process.insert("terminal".into(), json!(exec.terminal.is_some()));
    process.remove("consoleSize");
    if let Some(TerminalSize { columns, rows }) = exec.terminal {
        // From its first instruction on; later sizes follow.
        process.insert("consoleSize".into(), json!({"width": columns, "height": rows}));
        let env = process.entry("env").or_insert_with(|| json!([]));
        if let Value::Array(env) = env
            && !env.iter().any(|variable| variable.as_str().is_some_and(|it| it.starts_with("TERM=")))
        {
            env.push(json!("TERM=xterm"));
        }
    }
    process
}

/// The container's working directory; every specification names one.
fn cwd(process: &Process) -> PathBuf {
    process.get("cwd").and_then(Value::as_str).unwrap_or("/").into()
}

/// The working directory lies in the container's hands: one that has become a link into `/proc/<n>/fd` has led out of
/// containers (CVE-2024-21626).
fn check_directory(pid: u32, dir: &Path) -> Result<(), String> {
    let root = format!("/proc/{pid}/root");
    // Without it there is nothing to look at: containerd lives in another PID namespace.
    let Ok(root) = open(root.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&root, dir, how).map(drop).map_err(|why| {
        format!(
            "the working directory {} cannot be used: {} (no links through /proc are followed)",
            dir.display(),
            why.desc()
        )
    })
}

/// One command, from its pipes to its end.
struct Command {
    client: Client,
    container: String,
    id: String,
    /// Of all commands of its container.
    dir: PathBuf,
    terminal: Option<TerminalSize>,
}

/// How a command's run ended for its caller.
enum End {
    Exited(u32),
    CallerGone,
}

impl Command {
    /// To the end, whatever happens. `caller_gone` ends when nobody waits any more; `permit` is held until nothing is left.
    async fn drive(
        self,
        process: Process,
        streams: ExecStreams,
        caller_gone: oneshot::Receiver<()>,
        permit: OwnedSemaphorePermit,
    ) -> Result<u32, ExecError> {
        let dir = self.dir.join(&self.id);
        let made = Pipes::make(&dir, streams.stdin.is_some(), self.terminal.is_some());
        let pipes = match made {
            Ok(pipes) => pipes,
            Err(why) => {
                // Of pipes alone nobody else knows.
                let _ = std::fs::remove_dir_all(&dir);
                return Err(ExecError::Failed(format!("cannot make pipes in {}: {why}", dir.display())));
            }
        };
        let left = Left { client: self.client.clone(), container: self.container.clone(), id: self.id.clone(), dir };
        let outcome = match self.start(process, &pipes).await {
            Ok(()) => {
                if let Some(stage) = &streams.stage {
                    stage.send_replace(Stage::Runs);
                }
                self.follow(pipes, streams, caller_gone).await
            }
            Err(why) => Err(why),
        };
        match outcome {
            Ok(End::Exited(code)) => {
                // The caller has its answer; what is left is taken away behind it.
                tokio::spawn(async move {
                    left.take_away(Kill::No).await;
                    drop(permit);
                });
                Ok(code)
            }
            Ok(End::CallerGone) => {
                left.take_away(Kill::First).await;
                Err(ExecError::Failed("nobody waits for it any more".into()))
            }
            Err(why) => {
                tokio::spawn(async move {
                    left.take_away(Kill::First).await;
                    drop(permit);
                });
                Err(why)
            }
        }
    }

    /// These calls are never dropped half-way: what containerd began would be nobody's.
    async fn start(&self, process: Process, pipes: &Pipes) -> Result<(), ExecError> {
        let value = serde_json::to_vec(&process).expect("a process has only text keys");
        let request = ExecProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            stdin: pipes.stdin_path(),
            stdout: pipes.stdout_path(),
            stderr: pipes.stderr_path(),
            terminal: self.terminal.is_some(),
            spec: Some(Any { type_url: PROCESS_TYPE.to_owned(), value }),
        };
        let mut tasks = self.client.tasks();
        let not_running = |status: &Status| status.code() == Code::NotFound;
        match bounded(SLOW, tasks.exec(self.client.request(request))).await {
            Ok(()) => {}
            Err(status) if not_running(&status) => return Err(ExecError::NotRunning),
            Err(status) => return Err(failed(&self.client, "the command", &status)),
        }
        let request = StartRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        match bounded(SLOW, tasks.start(self.client.request(request))).await {
            Ok(_) => Ok(()),
            Err(status) if not_running(&status) => Err(ExecError::NotRunning),
            Err(status) if is_unavailable(&status) || status.code() == Code::DeadlineExceeded => {
                Err(failed(&self.client, "starting the command", &status))
            }
            Err(status) => Err(ExecError::NotStarted(what_runc_says(status.message()))),
        }
    }

    async fn follow(
        &self,
        pipes: Pipes,
        streams: ExecStreams,
        mut caller_gone: oneshot::Receiver<()>,
    ) -> Result<End, ExecError> {
        let ExecStreams { stdin, output, stage: _, size } = streams;
        let Pipes { stdout, stderr, stdin: writer, .. } = pipes;
        let flow = Flow::default();
        let outputs = async {
            let out = pump(stdout, Stream::Out, output.clone(), &flow);
            let err = async {
                match stderr {
                    Some(stderr) => pump(stderr, Stream::Err, output.clone(), &flow).await,
                    None => Ok(()),
                }
            };
            tokio::join!(out, err)
        };
        let inputs = async { tokio::join!(self.feed(stdin, writer), self.resize(size)) };
        tokio::pin!(outputs, inputs);
        let exit = self.exit();
        tokio::pin!(exit);
        let (mut outputs_ended, mut inputs_ended) = (false, false);
        let code = loop {
            // Every arm keeps its state in a pinned future.
            tokio::select! {
                code = &mut exit => break code?,
                read = &mut outputs, if !outputs_ended => {
                    outputs_ended = true;
                    if let (Err(why), _) | (_, Err(why)) = read {
                        return Err(ExecError::Failed(format!("its output cannot be read: {why}")));
                    }
                }
                _ = &mut inputs, if !inputs_ended => inputs_ended = true,
                _ = &mut caller_gone => return Ok(End::CallerGone),
            }
        };
        while !outputs_ended {
            let before = flow.moved.load(Ordering::Relaxed);
            // As above.
            tokio::select! {
                _ = &mut outputs => break,
                _ = &mut caller_gone => break,
                () = tokio::time::sleep(QUIET_MAX) => {
                    outputs_ended = flow.moved.load(Ordering::Relaxed) == before && flow.waiting.load(Ordering::Relaxed) == 0;
                }
            }
        }
        Ok(End::Exited(code))
    }

    /// The exit code, once it has ended. A connection that breaks is no end.
    async fn exit(&self) -> Result<u32, ExecError> {
        let mut tries = 0;
        loop {
            let wait = WaitRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
            match self.client.tasks().wait(self.client.request(wait)).await {
                Ok(answer) => return Ok(answer.into_inner().exit_status),
                Err(status) if is_unavailable(&status) && tries < WAIT_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(WAIT_PAUSE).await;
                }
                Err(status) if status.code() == Code::NotFound => {
                    return Err(ExecError::Failed("the container ended, and the command with it".into()));
                }
                Err(status) => return Err(failed(&self.client, "the command's end", &status)),
            }
        }
    }

    async fn feed(&self, stdin: Option<mpsc::Receiver<Bytes>>, writer: Option<Writer>) {
        let (Some(mut stdin), Some(mut writer)) = (stdin, writer) else { return };
        while let Some(bytes) = stdin.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        drop(writer);
        let request = CloseIoRequest { container_id: self.container.clone(), exec_id: self.id.clone(), stdin: true };
        // It fails where the command has ended meanwhile, which is as good.
        let _ = bounded(QUICK, self.client.tasks().close_io(self.client.request(request))).await;
    }

    async fn resize(&self, size: Option<watch::Receiver<TerminalSize>>) {
        let (Some(mut size), Some(_)) = (size, self.terminal) else { return };
        loop {
            let TerminalSize { columns, rows } = *size.borrow_and_update();
            if columns > 0 && rows > 0 {
                let request = ResizePtyRequest {
                    container_id: self.container.clone(),
                    exec_id: self.id.clone(),
                    width: columns.into(),
                    height: rows.into(),
                };
                // A terminal of the wrong size is no reason to end it.
                let _ = bounded(QUICK, self.client.tasks().resize_pty(self.client.request(request))).await;
            }
            if size.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Whether output moves.
#[derive(Debug, Default)]
struct Flow {
    moved: AtomicU64,
    /// Streams of which somebody does not take what is there.
    waiting: AtomicUsize,
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    stream: Stream,
    to: mpsc::Sender<(Stream, Bytes)>,
    flow: &Flow,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        flow.moved.fetch_add(1, Ordering::Relaxed);
        flow.waiting.fetch_add(1, Ordering::Relaxed);
        let taken = to.send((stream, Bytes::copy_from_slice(&buffer[..read]))).await;
        flow.waiting.fetch_sub(1, Ordering::Relaxed);
        flow.moved.fetch_add(1, Ordering::Relaxed);
        if taken.is_err() {
            return Ok(());
        }
    }
}

/// A command that is over, or is to be.
#[derive(Debug, Clone)]
struct Left {
    client: Client,
    container: String,
    id: String,
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// It has ended by itself.
    No,
    First,
}

impl Left {
    /// Until nothing is left, or for ten minutes: the directory stays then, and the next start knows by it.
    async fn take_away(&self, kill: Kill) {
        let mut pause = Duration::from_millis(100);
        for _ in 0..CLEAN_TRIES_MAX {
            match self.try_take_away(kill).await {
                Ok(()) => {
                    if let Err(why) = std::fs::remove_dir_all(&self.dir)
                        && why.kind() != io::ErrorKind::NotFound
                    {
                        tracing::warn!(dir = %self.dir.display(), error = %why, "pipes of a command stay");
                    }
                    return;
                }
                Err(status) => {
                    tracing::debug!(
                        container = self.container,
                        exec = self.id,
                        reason = causes(&status),
                        "a command is not taken away yet"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLEAN_PAUSE_MAX);
        }
        tracing::warn!(container = self.container, exec = self.id, "a command is left to the next start");
    }

    async fn may_be_known(&self) -> bool {
        let get = GetRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        !matches!(found(bounded(QUICK, self.client.tasks().get(self.client.request(get))).await), Ok(None))
    }

    async fn try_take_away(&self, kill: Kill) -> Result<(), Status> {
        let mut tasks = self.client.tasks();
        if kill == Kill::First {
            let get = GetRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
            let answer = found(bounded(QUICK, tasks.get(self.client.request(get))).await)?;
            let Some(process) = answer.and_then(|it| it.process) else { return Ok(()) };
            if process.status() == TaskStatus::Running && process.pid > 0 {
                let (container, pid) = (self.container.clone(), process.pid);
                // What it has started may be anywhere in its container: /proc is read.
                let _ = tokio::task::spawn_blocking(move || session::kill(&container, pid)).await;
                self.kill().await?;
                let wait = WaitRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
                // Its outcome does not matter: the deletion tells.
                let _ = bounded(KILLED_WAIT, tasks.wait(self.client.request(wait))).await;
            }
        }
        let request = || DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        match found(bounded(SLOW, tasks.delete_process(self.client.request(request()))).await) {
            Ok(_) => Ok(()),
            // The container's end took it along; older shims say so without the code.
            Err(status) if status.message().contains("does not exist") => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn kill(&self) -> Result<(), Status> {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal: tasks::SIGKILL,
            all: false,
        };
        match found(bounded(QUICK, self.client.tasks().kill(self.client.request(request))).await) {
            Err(status) if status.message().contains("process already finished") => Ok(()),
            answer => answer.map(|_| ()),
        }
    }
}

/// What earlier agents left: to be called before the first command of this one. The removal waits for containerd.
pub(super) fn sweep(client: &Client, dir: &Path) {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).take(LEFT_MAX).collect()
    };
    let left = names(dir).into_iter().flat_map(|container| {
        let of_container = dir.join(&container);
        names(&of_container).into_iter().map(move |id| (container.clone(), of_container.join(&id), id))
    });
    let mut of_containers: BTreeMap<String, Vec<Left>> = BTreeMap::new();
    let mut commands = 0;
    for (container, dir, id) in left.take(LEFT_MAX) {
        commands += 1;
        let one = Left { client: client.clone(), container: container.clone(), id, dir };
        of_containers.entry(container).or_default().push(one);
    }
    if commands == 0 {
        return;
    }
    tracing::info!(commands, "commands of an earlier agent are taken away");
    for left in of_containers.into_values() {
        // One that cannot be taken away for now keeps none of another container.
        tokio::spawn(async move {
            for one in left {
                let _held = pipes::hold(&one.dir);
                if !one.may_be_known().await {
                    tokio::time::sleep(SENT_BEFORE).await;
                }
                one.take_away(Kill::First).await;
            }
        });
    }
}

/// The container is gone, and all of its commands with it.
pub(super) fn forget(dir: &Path, container: &str) {
    let dir = dir.join(container);
    if let Err(why) = std::fs::remove_dir_all(&dir)
        && why.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), error = %why, "pipes of commands stay");
    }
}

fn failed(client: &Client, what: &str, status: &Status) -> ExecError {
    let error = client.step_error("ExecError", what, status);
    match error.unavailable {
        true => ExecError::Unavailable(error.message),
        false => ExecError::Failed(error.message),
    }
}

/// The reason alone: `exec: "x": executable file not found in $PATH`.
fn what_runc_says(message: &str) -> String {
    let text = shorten(message);
    let text = text.strip_prefix("failed to exec in container: ").unwrap_or(&text);
    let from = ["unable to start container process: ", "exec failed: "]
        .into_iter()
        .find_map(|wrapping| text.find(wrapping).map(|at| at + wrapping.len()));
    text[from.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_everything_of_the_containers_process_but_its_arguments() {
        let own: Spec = serde_json::from_str(
            r#"{"process": {"terminal": false, "user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "args": ["daemon"],
                "env": ["A=b"], "cwd": "/work", "noNewPrivileges": true, "apparmorProfile": "p",
                "capabilities": {"bounding": ["CAP_CHOWN"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 5, "soft": 5}]}, "ociVersion": "1.0.2"}"#,
        )
        .unwrap();
        let own = own.process;
        let command = ["ls".to_owned(), "-l".to_owned()];
        let mut exec = Exec { id: "c", command: &command, terminal: None, caller: Caller::Node };
        let mut expected = own.clone();
        expected["args"] = json!(["ls", "-l"]);
        assert_eq!(process(own.clone(), &exec), expected);
        assert_eq!(cwd(&own), Path::new("/work"));
        exec.terminal = Some(TerminalSize { columns: 80, rows: 24 });
        let with_terminal = process(own, &exec);
        expected["terminal"] = json!(true);
        expected["env"] = json!(["A=b", "TERM=xterm"]);
        expected.insert("consoleSize".into(), json!({"width": 80, "height": 24}));
        assert_eq!(with_terminal, expected);
    }

    #[tokio::test]
    async fn commands_of_people_do_not_take_the_probes_turn() {
        let (execs, uid) = (Execs::default(), Uid("u".into()));
        let mut held = Vec::new();
        for _ in 0..PERSON_EXECS_MAX {
            held.push(execs.enter(&uid, "c", Caller::Person, None).await.unwrap());
        }
        assert_eq!(
            execs.enter(&uid, "c", Caller::Person, None).await.unwrap_err(),
            ExecError::TooMany(PERSON_EXECS_MAX)
        );
        for _ in 0..NODE_EXECS_MAX {
            held.push(execs.enter(&uid, "c", Caller::Node, None).await.unwrap());
        }
        let waits = tokio::time::timeout(Duration::from_millis(20), execs.enter(&uid, "c", Caller::Node, None));
        assert!(waits.await.is_err());
        assert!(
            execs.enter(&uid, "d", Caller::Node, None).await.is_ok(),
            "what hangs in one container takes no other's turn"
        );
        assert!(execs.enter(&Uid("other".into()), "c", Caller::Person, None).await.is_ok());
        drop(held);
        assert!(execs.enter(&uid, "c", Caller::Person, None).await.is_ok());
    }

    #[tokio::test]
    async fn a_probe_that_waits_for_hung_starts_counts_its_time() {
        let (execs, uid) = (Execs::default(), Uid("u".into()));
        let mut hung = Vec::new();
        for _ in 0..NODE_EXECS_MAX {
            hung.push(execs.enter(&uid, "c", Caller::Node, None).await.unwrap());
        }
        let (stage, reached) = watch::channel(Stage::default());
        let one_more = execs.enter(&uid, "c", Caller::Node, Some(&stage));
        assert!(tokio::time::timeout(Duration::from_millis(20), one_more).await.is_err());
        assert_eq!(*reached.borrow(), Stage::Starts);
    }

    #[tokio::test]
    async fn a_working_directory_that_hangs_holds_one_thread_and_no_other_containers_look() {
        let (execs, short) = (Execs::default(), Duration::from_millis(100));
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let look = execs.look("c", short, move || {
            let _ = hangs.recv();
            Ok(())
        });
        assert!(look.await.unwrap_err().to_string().contains("does not answer"));
        let again = execs.look("c", short, || panic!("a second thread for what hangs"));
        assert!(again.await.unwrap_err().to_string().contains("does not answer"));
        assert_eq!(execs.look("d", short, || Ok(())).await, Ok(()));
        drop(answer);
        assert_eq!(execs.look("c", LOOK_MAX, || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_stream_that_is_not_taken_waits_whatever_the_other_does() {
        let (to, mut pieces) = mpsc::channel(1);
        let (flow, long) = (Flow::default(), vec![b'x'; PIECE_BYTES_MAX * 4]);
        let pumps = async {
            let out = pump(&long[..], Stream::Out, to.clone(), &flow);
            tokio::join!(out, pump(&b"done"[..], Stream::Err, to.clone(), &flow))
        };
        let reading = async {
            while pieces.recv().await.expect("more comes").0 == Stream::Out {}
            // The other's turn has come and gone.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        };
        tokio::select! {
            _ = pumps => panic!("the long one is not taken"),
            () = reading => {}
        }
        assert_eq!(flow.waiting.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn runc_is_quoted_without_its_wrapping() {
        let said = "failed to exec in container: failed to start exec \"e1\": OCI runtime exec failed: exec failed: \
                    unable to start container process: exec: \"x\": executable file not found in $PATH: unknown";
        assert_eq!(what_runc_says(said), "exec: \"x\": executable file not found in $PATH");
        assert_eq!(what_runc_says("anything else"), "anything else");
    }

    #[test]
    fn a_working_directory_through_a_magic_link_is_refused() {
        let own = std::process::id();
        assert_eq!(check_directory(own, Path::new("/")), Ok(()));
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("cwd");
        std::os::unix::fs::symlink("/proc/self/cwd", &link).unwrap();
        assert!(check_directory(own, &link).unwrap_err().contains("cannot be used"));
    }
}
