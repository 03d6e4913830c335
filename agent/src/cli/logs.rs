//! `logs`: a container's output from its log files; the agent only says where they lie, and where none answers their names do.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use notify::{RecursiveMode, Watcher as _};
use serde_json::Value;

use super::client::Client;
use super::find::{self, field};
use super::{Failure, log_place, pod_row};
use crate::config::{Config, Settings};
use crate::http::rows::Kind;
use crate::log_file::{LogDir, LogFile};

/// While following: how often the agent is asked whether the container still runs, and the safety net for inotify.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A pod's name, or ds/NAME
    pub name: String,
    /// Only needed where the name is ambiguous
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// The container; the first one without
    #[arg(short, long, value_name = "C")]
    pub container: Option<String>,
    /// Go on with what comes, until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Of the run before the present one
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// The agent's configuration file: where the logs lie when neither agent nor log keeper answers
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which run of which container of which pod.
#[derive(Debug)]
pub struct Run {
    pub uid: String,
    pub container: String,
    pub attempt: u64,
}

pub fn run(client: &Client, args: &LogsArgs, out: &mut impl Write) -> Result<(), Failure> {
    let (dir, run) = match client.list(Kind::Pods) {
        Ok(pods) => told(client, pods, args)?,
        Err(Failure::Unreachable(why)) => found(client, args, why)?,
        Err(other) => return Err(other),
    };
    let missing = |why: io::Error| cannot(&run, &why);
    let mut files = dir.files(run.attempt).map_err(missing)?;
    if let Some(most) = args.tail {
        keep_last(&mut files, most).map_err(missing)?;
    }
    for file in &mut files {
        file.print(out)?;
        file.finish(out)?;
    }
    out.flush()?;
    match (args.follow, files.pop()) {
        (true, Some(current)) => follow(client, &dir, &run, current, out),
        _ => Ok(()),
    }
}

/// What the agent says.
fn told(client: &Client, pods: Vec<Value>, args: &LogsArgs) -> Result<(LogDir, Run), Failure> {
    let pods = find::pods(pods, &args.name, args.namespace.as_deref())?;
    // Of an old pod and its successor the one that stays.
    let leaving = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_some();
    let pod = pods.iter().rev().find(|pod| !leaving(pod)).or_else(|| pods.last());
    let pod = pod.ok_or_else(|| Failure::NotFound(format!("no pod {}", args.name)))?;
    let run = which(pod, args)?;
    Ok((open_dir(client, pod, &run)?, run))
}

/// What lies in the log directory: the keeper writes it whether the agent lives or not.
fn found(client: &Client, args: &LogsArgs, why: String) -> Result<(LogDir, Run), Failure> {
    let run_dir = client.socket().parent().unwrap_or(Path::new("/"));
    let flags = Settings { run_dir: Some(run_dir.to_owned()), ..Settings::default() };
    let config = Config::load(&flags, args.config.as_deref()).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let log_dir = log_place::log_dir(run_dir, &config.log_dir);
    let place = match log_place::find(&log_dir, &config.state_dir, args) {
        Ok(place) => place,
        Err(None) => return Err(Failure::Unreachable(why)),
        Err(Some(failure)) => {
            note(&log_dir);
            return Err(failure);
        }
    };
    let dir = LogDir::open(&log_dir, &place.pod_dir, &place.run.container).map_err(|why| cannot(&place.run, &why))?;
    note(&log_dir);
    Ok((dir, place.run))
}

/// On stderr, so that what is piped on is the log alone.
fn note(log_dir: &Path) {
    let _nobody_reads = writeln!(
        io::stderr(),
        "daemonlet: the agent is not running; this is what the log files in {} hold",
        log_dir.display()
    );
}

fn which(pod: &Value, args: &LogsArgs) -> Result<Run, Failure> {
    let statuses: Vec<&Value> = pod_row::containers(pod).iter().chain(pod_row::inits(pod)).collect();
    let names: Vec<&str> = statuses.iter().map(|status| field(status, "/name")).collect();
    let status = match &args.container {
        Some(name) => statuses.into_iter().find(|status| status["name"] == name.as_str()),
        None => statuses.into_iter().next(),
    };
    let Some(status) = status else {
        let asked = args.container.as_deref().unwrap_or("first");
        let why = format!("pod {} has no container {asked}; it has: {}", find::name(pod), names.join(", "));
        return Err(Failure::NotFound(why));
    };
    let attempt = status["restartCount"].as_u64().unwrap_or(0);
    let container = field(status, "/name").to_owned();
    let attempt = match (args.previous, attempt.checked_sub(1)) {
        (false, _) => attempt,
        (true, Some(before)) => before,
        (true, None) => {
            return Err(Failure::NotFound(format!(
                "container {container} of {} has not been restarted",
                find::name(pod)
            )));
        }
    };
    Ok(Run { uid: field(pod, "/metadata/uid").to_owned(), container, attempt })
}

fn open_dir(client: &Client, pod: &Value, run: &Run) -> Result<LogDir, Failure> {
    let node = client.list(Kind::Node)?;
    let log_dir = node.first().map_or("", |node| field(node, "/daemonlet/logDir"));
    let pod_dir = format!("{}_{}_{}", find::namespace(pod), find::name(pod), run.uid);
    LogDir::open(&PathBuf::from(log_dir), &pod_dir, &run.container).map_err(|why| cannot(run, &why))
}

fn cannot(run: &Run, why: &io::Error) -> Failure {
    let Run { container, attempt, .. } = run;
    match why.kind() {
        io::ErrorKind::NotFound => {
            Failure::NotFound(format!("container {container} has no log of its run {attempt} (yet)"))
        }
        _ => Failure::Refused(format!("the log of container {container} cannot be read: {why}")),
    }
}

/// Leaves the files that hold the last `most` lines, each standing where they begin.
fn keep_last(files: &mut Vec<LogFile>, most: usize) -> io::Result<()> {
    let mut left = most;
    for at in (0..files.len()).rev() {
        left -= files[at].seek_to_last(left)?.min(left);
        if left == 0 {
            files.drain(..at);
            break;
        }
    }
    Ok(())
}

fn follow(client: &Client, dir: &LogDir, run: &Run, mut current: LogFile, out: &mut impl Write) -> Result<(), Failure> {
    let (hints, hint) = mpsc::channel();
    // Without inotify (no instances left) the slow look alone goes on.
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own opening and reading are events too, and must not wake us.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Nobody listens any more when the word has ended.
            let _ended = hints.send(());
        }
    });
    if let Ok(watcher) = &mut watcher {
        let _slow_look_instead = watcher.watch(dir.watch_path().as_ref(), RecursiveMode::NonRecursive);
    }
    let mut asked: Option<Instant> = None;
    loop {
        // Asked before reading: what it wrote before its end is printed after we have learned of that.
        let due = asked.is_none_or(|asked| asked.elapsed() >= LOOK_AGAIN);
        let ended = due && has_ended(client, run);
        if due {
            asked = Some(Instant::now());
        }
        current.print(out)?;
        for file in newer(dir, run, &current)? {
            // What was written between our last read and the rotation.
            current.print(out)?;
            current.finish(out)?;
            current = file;
            current.print(out)?;
        }
        out.flush()?;
        if ended {
            return Ok(current.finish(out)?);
        }
        match hint.recv_timeout(LOOK_AGAIN) {
            // All hints that have come meanwhile say the same.
            Ok(()) => while hint.try_recv().is_ok() {},
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// The files that came after this one by rotation, oldest first.
fn newer(dir: &LogDir, run: &Run, current: &LogFile) -> Result<Vec<LogFile>, Failure> {
    let same = |why: io::Error| match why.kind() {
        // Between a rename and the new file, or the pod is gone: nothing newer at present.
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(cannot(run, &why)),
    };
    match dir.current(run.attempt) {
        Ok(named) if named.identity == current.identity => return Ok(Vec::new()),
        Ok(_) => {}
        Err(why) => return same(why),
    }
    let mut files = match dir.files(run.attempt) {
        Ok(files) => files,
        Err(why) => return same(why),
    };
    // Where ours is no longer kept, all that is kept is newer.
    if let Some(ours) = files.iter().position(|file| file.identity == current.identity) {
        files.drain(..=ours);
    }
    Ok(files)
}

/// The run is over. An agent that does not answer says nothing about it: the log goes on without an agent.
fn has_ended(client: &Client, run: &Run) -> bool {
    let Ok(pods) = client.list(Kind::Pods) else { return false };
    let Some(pod) = pods.iter().find(|pod| field(pod, "/metadata/uid") == run.uid) else { return true };
    let status = pod_row::containers(pod).iter().find(|status| status["name"] == run.container.as_str());
    status.is_none_or(|status| {
        let attempt = status["restartCount"].as_u64().unwrap_or(0);
        // A wait with an end behind it is a back-off.
        let over = status["state"]["running"].is_null() && !status["lastState"]["terminated"].is_null();
        attempt > run.attempt || over || !status["state"]["terminated"].is_null()
    })
}
