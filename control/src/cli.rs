//! The words of `daemonlet-control`: words in, text and an exit code out.
//!
//! Driven by `main`. `serve` is not carried out here; `token create` and `backup` ask the endpoint that is running with the data directory, and
//! do it themselves where none is; `restore` needs that none is.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{DATA_DIR, Settings, duration};
use crate::door::join::{USES, USES_MAX};
use crate::serve::copy::{self, CopyError};
use crate::serve::local::{self, Asked, LocalError};
use crate::serve::offline;

/// daemonlet's control endpoint: DaemonSets for a fleet, driven with kubectl.
#[derive(Debug, Parser)]
#[command(name = "daemonlet-control", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub word: Word,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Run the endpoint
    Serve(Box<ServeArgs>),
    /// Make join tokens
    #[command(subcommand)]
    Token(Token),
    /// Write a copy of everything that the endpoint knows, its authority included, while it runs
    Backup(CopyArgs),
    /// Put a copy in the place of what the data directory has; the endpoint must not be running
    Restore(CopyArgs),
    /// Print the version
    Version,
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration file: YAML, keys are the flag names without dashes; a flag wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Print a token with which nodes join: its id, its secret and the authority's pin
    Create(TokenArgs),
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// How long it lets nodes in
    #[arg(long, value_name = "D", value_parser = duration, default_value = "24h")]
    pub ttl: Duration,
    /// How many nodes it lets in
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(USES_MAX)), default_value_t = USES)]
    pub uses: u32,
    /// Only this node, also where another key had its name before
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Args)]
pub struct CopyArgs {
    pub file: PathBuf,
    #[command(flatten)]
    pub data: DataDir,
}

#[derive(Debug, Args)]
pub struct DataDir {
    /// Of the endpoint that is meant
    #[arg(long, value_name = "D", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
}

/// How a word ended when not well. The codes are part of the contract.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Refused(String),
    /// Exit code 3.
    #[error("{0}")]
    Unreachable(String),
    /// Exit code 4.
    #[error("{0}")]
    NotFound(String),
    /// Writing to stdout failed; the reader of a pipe that has seen enough is no failure.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Output(why) if why.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Refused(_) | Failure::Output(_) => 1,
            Failure::Unreachable(_) => 3,
            Failure::NotFound(_) => 4,
        }
    }
}

/// Everything but `serve`, to its end.
pub fn run(word: Word) -> ExitCode {
    let mut out = io::stdout().lock();
    let outcome = speak(word, &mut out).and_then(|()| Ok(out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.code() != 0 {
                // Nobody may be reading stderr either; the code says it too.
                let _unread = writeln!(io::stderr(), "daemonlet-control: {failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}

fn speak(word: Word, out: &mut impl io::Write) -> Result<(), Failure> {
    match word {
        Word::Serve(_) => Err(Failure::Refused("the endpoint is started by main".into())),
        Word::Token(Token::Create(TokenArgs { ttl, uses, node, data })) => {
            let asked = Asked::Token { ttl, uses, node };
            let token = match local::ask(&data.data_dir, &asked) {
                Ok(answer) => answer.token()?,
                Err(LocalError::NotRunning { .. }) => offline::token(&data.data_dir, &asked)?,
                Err(error) => return Err(error.into()),
            };
            Ok(writeln!(out, "{token}")?)
        }
        Word::Backup(CopyArgs { file, data }) => {
            match local::ask(&data.data_dir, &Asked::Backup) {
                Ok(answer) => copy::take(answer.into_stream(), &file)?,
                Err(LocalError::NotRunning { .. }) => offline::backup(&data.data_dir, &file)?,
                Err(error) => return Err(error.into()),
            }
            Ok(writeln!(
                out,
                "written to {}; whoever has this file has the authority: keep it as a key",
                file.display()
            )?)
        }
        Word::Restore(CopyArgs { file, data }) => restore(&file, &data.data_dir, out),
        Word::Version => Ok(writeln!(out, "daemonlet-control {}", env!("CARGO_PKG_VERSION"))?),
        Word::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "daemonlet-control", &mut script);
            Ok(out.write_all(&script)?)
        }
    }
}

fn restore(file: &Path, data_dir: &Path, out: &mut impl io::Write) -> Result<(), Failure> {
    let opened = File::open(file).map_err(|why| {
        let said = format!("cannot read {}: {why}", file.display());
        if why.kind() == io::ErrorKind::NotFound { Failure::NotFound(said) } else { Failure::Refused(said) }
    })?;
    let about = offline::restore(opened, file, data_dir)?;
    Ok(writeln!(
        out,
        "put back as of {}; start the endpoint again, and clients and nodes read everything anew",
        about.made
    )?)
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Failure {
        let said = chain(&error);
        match error {
            LocalError::NotRunning { .. } | LocalError::Silent { .. } => Failure::Unreachable(said),
            LocalError::Refused(_) | LocalError::Permission { .. } => Failure::Refused(said),
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Failure {
        Failure::Refused(chain(&error))
    }
}

impl From<offline::OfflineError> for Failure {
    fn from(error: offline::OfflineError) -> Failure {
        let said = chain(&error);
        match error {
            offline::OfflineError::Nothing { .. } => Failure::Unreachable(said),
            _ => Failure::Refused(said),
        }
    }
}

/// An error and what it comes from, as one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        said = format!("{said}: {error}");
        source = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_contract() {
        Cli::command().debug_assert();
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).map_err(|error| error.exit_code());
        for good in [
            "daemonlet-control serve",
            "daemonlet-control serve --listen :6443 --nodes-listen :6444 --data-dir /d --store embedded",
            "daemonlet-control serve --store etcd --etcd-endpoints https://a:2379 --etcd-ca /a --etcd-cert /b --etcd-key /c",
            "daemonlet-control token create --ttl 24h",
            "daemonlet-control token create --uses 3 --node worker --data-dir /d",
            "daemonlet-control backup /tmp/x",
            "daemonlet-control restore /tmp/x --data-dir /d",
            "daemonlet-control version",
            "daemonlet-control completion bash",
        ] {
            assert!(parses(good).is_ok(), "{good}");
        }
        for wrong in [
            "daemonlet-control",
            "daemonlet-control serve --listen nowhere",
            "daemonlet-control serve --port 1",
            "daemonlet-control token",
            "daemonlet-control token create --ttl 1d",
            "daemonlet-control token create --uses 0",
            "daemonlet-control token list",
            "daemonlet-control backup",
        ] {
            assert_eq!(parses(wrong).map(drop), Err(2), "{wrong}");
        }
    }
}
