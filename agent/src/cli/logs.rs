//! `logs`: containers' output from their log files; the agent only says where they lie, and where none answers, or the pod is
//! gone, their names do.

mod follow;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::find::{self, field};
use super::log_place::Which;
use super::{Failure, exec, log_place, pod_row};
use crate::config::{self, Config, Settings};
use crate::http::rows::Kind;
use crate::log_file::{LogDir, LogFile, keep_last};
use crate::log_lines::{Printer, Shown};
use crate::status::run_shown;

/// Containers of a pod whose logs are shown at once; each takes a few descriptors.
const CONTAINERS_MAX: usize = 256;

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A pod's name, or ds/NAME; of a deleted pod what is kept of its log
    pub name: String,
    /// Only needed where the name is ambiguous
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// The container; the first one without
    #[arg(short, long, value_name = "C", conflicts_with = "all_containers")]
    pub container: Option<String>,
    /// All containers, those before the main ones first
    #[arg(long)]
    pub all_containers: bool,
    /// Go on with what comes: over restarts to the pod's end, and with the pod that takes its place
    #[arg(short, long)]
    pub follow: bool,
    /// Of the run before the present one; where there was none, of the pod before this one, if its log is kept
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last N lines of each container
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// Only lines of the last 90s, 5m, 1h30m …
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub since: Option<Duration>,
    /// Only lines from this moment on (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "since", value_parser = moment)]
    pub since_time: Option<jiff::Timestamp>,
    /// The time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// The pod's and the container's name before each line
    #[arg(long)]
    pub prefix: bool,
    /// The agent's configuration file: where the logs lie when neither agent nor log keeper answers
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// One run of one container of one pod, and where its log lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub pod: String,
    pub uid: String,
    /// The pod's directory beneath `pods`.
    pub pod_dir: String,
    pub container: String,
    pub attempt: u64,
}

/// What to show.
#[derive(Debug)]
struct Found {
    log_dir: PathBuf,
    places: Vec<Place>,
    /// The pod is gone: nothing follows.
    is_over: bool,
}

/// A log that is open.
struct Log {
    place: Place,
    dir: LogDir,
    /// The one that is written, or was last.
    current: LogFile,
    printer: Printer,
}

pub fn run(client: &Client, args: &LogsArgs, out: &mut impl Write) -> Result<(), Failure> {
    let found = match client.list(Kind::Pods) {
        Ok(pods) => told(client, pods, args)?,
        Err(Failure::Unreachable(why)) => found(client, args, why)?,
        Err(other) => return Err(other),
    };
    let Found { log_dir, places, is_over } = found;
    let last_lines = Some(args.tail.unwrap_or(usize::MAX));
    // A run before the present one is over.
    let then = if args.follow && !args.previous && !is_over { Then::Follow } else { Then::End };
    let mut logs = Vec::new();
    for place in places {
        match open(&log_dir, place, args, last_lines, then, out) {
            Ok(log) => logs.push(log),
            // Of several, one that has not begun yet.
            Err(Failure::NotFound(why)) if args.all_containers => note(&why),
            Err(why) => return Err(why),
        }
    }
    out.flush()?;
    match then {
        Then::Follow => follow::follow(client, &log_dir, args, logs, out),
        Then::End => Ok(()),
    }
}

/// What comes after what a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// More of it: what has no line's end yet waits for it.
    Follow,
    End,
}

/// Opens a log and prints what it holds. `tail`: how many lines of it; None: all.
fn open(
    log_dir: &Path,
    place: Place,
    args: &LogsArgs,
    tail: Option<usize>,
    then: Then,
    out: &mut impl Write,
) -> Result<Log, Failure> {
    let missing = |why: io::Error| cannot(&place, &why);
    let dir = LogDir::open(log_dir, &place.pod_dir, &place.container).map_err(missing)?;
    let mut files = dir.files(place.attempt).map_err(missing)?;
    let shown = shown(args);
    if let Some(since) = shown.since {
        // What was written last before it has no line of afterwards; a second's difference is the file system's.
        let since = SystemTime::from(since);
        let last = files.len().saturating_sub(1);
        let late = |file: &LogFile| file.written.checked_add(Duration::from_secs(1)).is_none_or(|it| it >= since);
        let first = files.iter().position(late).unwrap_or(last);
        files.drain(..first);
    }
    if let Some(most) = tail.filter(|most| *most < usize::MAX) {
        keep_last(&mut files, most).map_err(missing)?;
    }
    let prefix = if args.prefix { format!("[pod/{}/{}] ", place.pod, place.container) } else { String::new() };
    let mut printer = Printer::new(shown, prefix, args.all_containers && then == Then::Follow);
    let mut current = files.pop().expect("there is one, or it is an error");
    for file in &mut files {
        file.print(|line| printer.print(line, out))?;
        file.finish(|line| printer.print(line, out))?;
    }
    current.print(|line| printer.print(line, out))?;
    if then == Then::End {
        current.finish(|line| printer.print(line, out))?;
        if args.all_containers {
            // Another container's line does not go on with it.
            printer.cut(out)?;
        }
    }
    Ok(Log { place, dir, current, printer })
}

fn shown(args: &LogsArgs) -> Shown {
    let ago = args.since.map(|since| jiff::Timestamp::now().checked_sub(since).unwrap_or(jiff::Timestamp::MIN));
    Shown { since: args.since_time.or(ago), timestamps: args.timestamps }
}

fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| format!("{text:?} is no time of RFC 3339 (2026-01-31T12:00:00Z)"))
}

/// What the agent says; of a pod that it does not know, what the log directory says.
fn told(client: &Client, pods: Vec<Value>, args: &LogsArgs) -> Result<Found, Failure> {
    let node = client.list(Kind::Node)?;
    let log_dir = PathBuf::from(node.first().map_or("", |node| field(node, "/daemonlet/logDir")));
    let pods = match find::pods(pods, &args.name, args.namespace.as_deref()) {
        Ok(pods) => pods,
        Err(Failure::NotFound(why)) => {
            return kept(log_dir, args, Which::asked(args)).map_err(|near| not_kept(why, near));
        }
        Err(other) => return Err(other),
    };
    let pod = find::staying(&pods).ok_or_else(|| Failure::NotFound(format!("no pod {}", args.name)))?;
    match places(pod, args) {
        Ok(places) => {
            if let (false, Ok((_, Some(hint)))) = (args.all_containers, exec::container(pod, None)) {
                args.container.is_none().then(|| note(&hint));
            }
            Ok(Found { log_dir, places, is_over: false })
        }
        Err(Failure::NotFound(why)) if args.previous => {
            // The pod before this one: its last run came before this one's first.
            kept(log_dir, args, Which::Last).map_err(|_| Failure::NotFound(why))
        }
        Err(other) => Err(other),
    }
}

/// A deleted pod's.
fn kept(log_dir: PathBuf, args: &LogsArgs, which: Which) -> Result<Found, Failure> {
    let places = log_place::deleted(&log_dir, args, which)?;
    if let Some(place) = places.first() {
        note(&format!("pod {} was deleted; this is what is kept of its log", place.pod));
    }
    Ok(Found { log_dir, places, is_over: true })
}

/// Where neither a pod nor a kept log has the name, the agent's words say what is near; of a kept one its own.
fn not_kept(unknown: String, failure: Failure) -> Failure {
    match failure {
        Failure::NotFound(_) => Failure::NotFound(unknown),
        other => other,
    }
}

/// What lies in the log directory: the keeper writes it whether the agent lives or not.
fn found(client: &Client, args: &LogsArgs, why: String) -> Result<Found, Failure> {
    let run_dir = client.socket().parent().unwrap_or(Path::new("/"));
    let flags = Settings { run_dir: Some(run_dir.to_owned()), ..Settings::default() };
    let config = Config::load(&flags, args.config.as_deref()).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let log_dir = log_place::log_dir(run_dir, &config.log_dir);
    let said = format!("the agent is not running; this is what the log files in {} hold", log_dir.display());
    match log_place::find(&log_dir, &config.state_dir, args) {
        Ok(places) => {
            note(&said);
            Ok(Found { log_dir, places, is_over: false })
        }
        Err(None) => Err(Failure::Unreachable(why)),
        Err(Some(failure)) => {
            note(&said);
            match failure {
                Failure::NotFound(why) => kept(log_dir, args, Which::Last).map_err(|near| not_kept(why, near)),
                other => Err(other),
            }
        }
    }
}

/// On stderr, so that what is piped on is the log alone.
fn note(what: &str) {
    let _nobody_reads = writeln!(io::stderr(), "daemonlet: {what}");
}

/// The runs of a pod's containers that are asked for.
fn places(pod: &Value, args: &LogsArgs) -> Result<Vec<Place>, Failure> {
    let place = |container: &str, attempt: u64| {
        let uid = field(pod, "/metadata/uid").to_owned();
        let pod_dir = format!("{}_{}_{uid}", find::namespace(pod), find::name(pod));
        Place { pod: find::name(pod).to_owned(), uid, pod_dir, container: container.to_owned(), attempt }
    };
    if args.all_containers {
        let all = pod_row::inits(pod).iter().chain(pod_row::containers(pod)).take(CONTAINERS_MAX);
        let wanted = all.filter_map(|status| {
            // What has not begun has nothing to say yet, and may begin while it is followed.
            let to_come = (!args.previous).then_some(0);
            Some(place(field(status, "/name"), run_shown(status, args.previous).or(to_come)?))
        });
        let wanted: Vec<Place> = wanted.collect();
        return match wanted.is_empty() {
            true => Err(Failure::NotFound(format!("no container of {} has been restarted", find::name(pod)))),
            false => Ok(wanted),
        };
    }
    let (container, _) = exec::container(pod, args.container.as_deref())?;
    match status_of(pod, &container).and_then(|status| run_shown(status, args.previous)) {
        Some(attempt) => Ok(vec![place(&container, attempt)]),
        None if !args.previous => Ok(vec![place(&container, 0)]),
        None => {
            let why = format!("container {container} of {} has not been restarted", find::name(pod));
            Err(Failure::NotFound(why))
        }
    }
}

fn status_of<'p>(pod: &'p Value, container: &str) -> Option<&'p Value> {
    pod_row::containers(pod).iter().chain(pod_row::inits(pod)).find(|status| status["name"] == container)
}

fn cannot(place: &Place, why: &io::Error) -> Failure {
    let Place { container, attempt, .. } = place;
    match why.kind() {
        io::ErrorKind::NotFound => {
            Failure::NotFound(format!("container {container} has no log of its run {attempt} (yet)"))
        }
        _ => Failure::Refused(format!("the log of container {container} cannot be read: {why}")),
    }
}
