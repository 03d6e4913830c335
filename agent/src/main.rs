//! `daemonlet`: the node agent and its node-local command line.
//!
//! Reads the words, sets up logging, and hands over: to `agent::run` or to a client word. Nothing else happens here.

use std::process::ExitCode;

use agent::agent::Start;
use agent::cli::{self, AgentArgs, Cli, Word};
use agent::config::Config;
use agent::threads::BLOCKING_MAX;
use clap::Parser as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let Cli { run_dir, word } = Cli::parse();
    match word {
        Word::Agent(args) => run_agent(*args, run_dir),
        word => cli::run(run_dir.as_ref(), word),
    }
}

fn run_agent(args: AgentArgs, run_dir: Option<std::path::PathBuf>) -> ExitCode {
    let AgentArgs { config: file, mut settings } = args;
    settings.run_dir = run_dir;
    // Before anything else may change the working directory.
    let absolute = |path: std::path::PathBuf| std::path::absolute(&path).unwrap_or(path);
    settings.run_dir = settings.run_dir.map(absolute);
    let file = file.map(absolute);
    let config = match Config::load(&settings, file.as_deref()) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("daemonlet: {why}");
            return ExitCode::from(2);
        }
    };
    log_to_stderr();
    // One thread: the agent waits far more than it works, and each further stack and heap is memory on every node.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = match runtime.enable_all().max_blocking_threads(BLOCKING_MAX).build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("daemonlet: cannot start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(agent::agent::run(Start { config, flags: settings, config_file: file }));
    // A thread may hang for ever in a dead network file system (a hostPath, a directory): a stop does not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("daemonlet: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// DAEMONLET_LOG filters: levels, also of single modules (`info,agent::worker=debug`); default: info. The journal stamps lines
/// itself.
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

/// Whether stderr is the journal's stream: systemd names its device and inode (systemd.exec(5)), which a child that has
/// its stderr elsewhere inherits too.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let stat = nix::sys::stat::fstat(std::io::stderr());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
