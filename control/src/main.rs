//! `daemonlet-control`: the control endpoint, and the words of whoever administers it.
//!
//! Reads the words, sets up logging, and hands over: to `serve` or to a word that ends. Nothing else happens here.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use clap::Parser as _;
use control::cli::{self, Cli, Word};
use control::config::Config;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::execve;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Requests wait far more than they compute; two threads keep a slow one from holding up all others.
const THREADS: usize = 2;
/// Threads that wait for the disk: reads of the embedded store, a backup.
const BLOCKING_MAX: usize = 8;

/// What the C library's allocator can be told by the environment only, when a program begins: one heap for all threads instead of one for
/// each, and what is free goes back to the system. Without it a few documents made for kubectl cost 15 MB for good.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "131072")];
/// Set once that was said: it is not said twice, also where the variables do not reach the program.
const SAID: &str = "DAEMONLET_CONTROL_ALLOCATOR";

fn main() -> ExitCode {
    match Cli::parse().word {
        Word::Serve(args) => serve(*args),
        word => cli::run(word),
    }
}

fn serve(args: cli::ServeArgs) -> ExitCode {
    let config = match Config::load(args.settings, args.config.as_deref()) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("daemonlet-control: {why}");
            return ExitCode::from(2);
        }
    };
    begin_with_allocator();
    raise_descriptors();
    log_to_stderr();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().worker_threads(THREADS).max_blocking_threads(BLOCKING_MAX).build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("daemonlet-control: cannot start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(control::serve::run(config));
    // A disk that hangs does not keep the program from ending.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("daemonlet-control: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Begins anew in the same process where the allocator was not told; returns where it was, or cannot be. Whoever starts the program may set
/// the variables otherwise.
fn begin_with_allocator() {
    if std::env::var_os(SAID).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let variable = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
    let mut environment: BTreeMap<OsString, OsString> =
        ALLOCATOR.iter().map(|(name, value)| variable(name, value)).collect();
    environment.extend(std::env::vars_os());
    environment.extend([variable(SAID, "told")]);
    let text = |text: OsString| CString::new(text.into_vec());
    let words = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>();
    let environment = environment.into_iter().map(|(mut entry, value)| {
        entry.push("=");
        entry.push(value);
        text(entry)
    });
    let (Ok(program), Ok(words), Ok(environment)) =
        (text(program.into()), words, environment.collect::<Result<Vec<_>, _>>())
    else {
        return;
    };
    // The plain call: the standard library's leaves SIGPIPE deadly where it fails. It comes back only then (the file was replaced): more memory,
    // and nothing else.
    let _ = execve(&program, &words, &environment);
}

/// A shell's soft limit is 1,024; a fleet has a connection for each node.
fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Up to the hard limit anybody may; where not, connections wait for one another.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// DAEMONLET_LOG filters: levels, also of single modules (`info,audit=off`); default: info. The journal stamps lines itself.
fn log_to_stderr() {
    let asked = std::env::var("DAEMONLET_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_max_level(LevelFilter::TRACE);
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if is_journal() {
        builder.with_ansi(false).without_time().finish().with(filter).init();
    } else {
        builder.with_ansi(colours).finish().with(filter).init();
    }
}

/// Whether stderr is the journal's stream: systemd names its device and inode (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let stat = nix::sys::stat::fstat(std::io::stderr());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
