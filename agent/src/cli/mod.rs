//! The node-local command line: words in, text and an exit code out.
//!
//! Driven by `main`. Client words talk to the agent's root-only socket and print; they decide nothing about pods and
//! share no state with the agent. `check`, `doctor`, `version` and `completion` need no agent.

mod age;
mod check;
mod client;
mod debug;
mod delete;
mod describe;
mod doctor;
mod drain;
mod exec;
mod find;
mod get;
mod images;
mod log_place;
mod logs;
mod pod_row;
mod rejoin;
mod table;
mod wait;
mod why;
mod yaml;

#[cfg(test)]
pub mod served;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{RUN_DIR, SOCKET, Settings};
use client::Client;

/// Runs this node's daemons: a kubelet for daemons, through containerd.
#[derive(Debug, Parser)]
#[command(name = "daemonlet", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Where the agent's socket lies [default: /run/daemonlet]
    #[arg(long, value_name = "D", global = true)]
    pub run_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub word: Word,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Run the agent
    Agent(Box<AgentArgs>),
    /// Show pods, manifest files, images, events or the node
    Get(get::GetArgs),
    /// Show everything that is known of one thing
    #[command(subcommand)]
    Describe(Describe),
    /// Print a container's log
    Logs(logs::LogsArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// End something; what is still wanted is started anew
    #[command(subcommand)]
    Delete(Delete),
    /// Pull, import, export, list, prune and pin images
    #[command(subcommand)]
    Images(images::Images),
    /// Say what a daemon waits for
    Why(why::WhyArgs),
    /// Wait until every daemon of this node is ready
    Wait(wait::WaitArgs),
    /// Stop all pods, in their order; nothing starts until undrain or a reboot
    Drain(drain::DrainArgs),
    /// End a drain: the daemons run again
    Undrain,
    /// Join the control endpoint anew, with a new token; the daemons run on
    Rejoin(rejoin::RejoinArgs),
    /// Look for what on this node would keep daemons from running
    Doctor(doctor::DoctorArgs),
    /// Gather what a bug report needs
    #[command(subcommand)]
    Debug(debug::Debug),
    /// Judge manifest files as the agent would, without an agent
    Check(check::CheckArgs),
    /// Print the version
    Version,
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration file: YAML, keys are the flag names without dashes; a flag wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Subcommand)]
pub enum Describe {
    /// A pod, by its name or ds/NAME
    #[command(visible_aliases = ["pods", "po"])]
    Pod(Named),
}

#[derive(Debug, Subcommand)]
pub enum Delete {
    /// A pod, by its name or ds/NAME
    #[command(visible_aliases = ["pods", "po"])]
    Pod(Named),
}

/// One pod, or the pods of one DaemonSet.
#[derive(Debug, Clone, Args)]
pub struct Named {
    /// A pod's name, or ds/NAME
    pub name: String,
    /// Only needed where the name is ambiguous
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
}

/// `-o json` of words that print for people otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    Json,
}

/// How a word ended when not well. The codes are part of the contract.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1. May be empty where all has been said on stdout.
    #[error("{0}")]
    Refused(String),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("{0}")]
    Unreachable(String),
    /// Exit code 4.
    #[error("{0}")]
    NotFound(String),
    /// A command in a container: its exit code is ours.
    #[error("command terminated with exit code {0}")]
    Ended(u8),
    /// Writing to stdout failed; the reader of a pipe that has seen enough is no failure.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Output(why) if why.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Refused(_) | Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::NotFound(_) => 4,
            Failure::Ended(code) => *code,
        }
    }
}

/// Where client words find the agent.
pub fn socket(run_dir: Option<&PathBuf>) -> PathBuf {
    run_dir.map_or_else(|| PathBuf::from(RUN_DIR), Clone::clone).join(SOCKET)
}

/// Everything but `agent`, to its end.
pub fn run(run_dir: Option<&PathBuf>, word: Word) -> ExitCode {
    let socket = socket(run_dir);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let outcome = speak(&Client::new(socket), word, &mut out);
    let flushed = out.flush().map_err(Failure::from);
    match outcome.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, said) = (failure.code(), failure.to_string());
            if code != 0 && !said.is_empty() {
                // Nobody may be reading stderr either; the code says it too.
                let _unread = writeln!(io::stderr(), "daemonlet: {said}");
            }
            ExitCode::from(code)
        }
    }
}

fn speak(client: &Client, word: Word, out: &mut impl io::Write) -> Result<(), Failure> {
    match word {
        Word::Agent(_) => Err(Failure::Usage("the agent is started by main".into())),
        Word::Get(args) => get::run(client, &args, out),
        Word::Describe(Describe::Pod(named)) => describe::pod(client, &named, &mut Plain(out)),
        Word::Logs(args) => logs::run(client, &args, out),
        Word::Exec(args) => exec::run(client, &args, out),
        Word::Delete(Delete::Pod(named)) => delete::pod(client, &named, out),
        Word::Images(word) => images::run(client, word, out),
        Word::Why(args) => why::run(client, &args, &mut Plain(out)),
        Word::Wait(args) => wait::run(client, &args, out),
        Word::Drain(args) => drain::drain(client, &args, out),
        Word::Undrain => drain::undrain(client, out),
        Word::Rejoin(args) => rejoin::run(client, &args, out),
        Word::Doctor(args) => doctor::run(client, &args, out),
        Word::Debug(word) => debug::run(client, &word, out),
        Word::Check(args) => check::run(&args, &mut Plain(out)),
        Word::Version => Ok(writeln!(out, "daemonlet {}", env!("CARGO_PKG_VERSION"))?),
        Word::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "daemonlet", &mut script);
            Ok(out.write_all(&script)?)
        }
    }
}

/// For words that show texts which images and manifests gave: control characters other than line ends become blanks, since
/// to a terminal they may be commands.
struct Plain<'a, W>(&'a mut W);

impl<W: io::Write> io::Write for Plain<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Formatting hands over whole strings, so no character is torn.
        let text = String::from_utf8_lossy(bytes);
        let plain: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
        self.0.write_all(plain.as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether colours may be used on stdout (NO_COLOR, no-color.org: set and not empty).
fn colours() -> bool {
    use std::io::IsTerminal as _;
    let asked_not = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !asked_not && io::stdout().is_terminal()
}
