//! `daemonlet-control`: the control endpoint, and the words of whoever administers it.
//!
//! Reads the words, sets up logging, and hands over: to `serve` or to a word that ends. Nothing else happens here.

use std::process::ExitCode;

use clap::Parser as _;
use control::cli::{self, Cli, Word};
use control::config::Config;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Requests wait far more than they compute; two threads keep a slow one from holding up all others.
const THREADS: usize = 2;
/// Threads that wait for the disk: reads of the embedded store, a backup.
const BLOCKING_MAX: usize = 8;

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
