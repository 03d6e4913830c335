//! The words of `daemonlet-control`: words in, text and an exit code out.
//!
//! Driven by `main`. `serve` is not carried out here; the words about tokens and nodes and `backup` ask the endpoint that is running with the data directory, and
//! do it themselves where none is; `restore` needs that none is.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::Value;

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
    /// Make, show and revoke join tokens
    #[command(subcommand)]
    Token(Token),
    /// Throw nodes out
    #[command(subcommand)]
    Node(Node),
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
    /// Print the tokens that still let nodes in, without their secrets
    List(DataDir),
    /// Make a token good for nothing; nodes that have joined with it stay
    Revoke {
        /// The first part of the token
        id: String,
        #[command(flatten)]
        data: DataDir,
    },
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// Make a node's certificates good for nothing, and end its session; its daemons run on
    Revoke {
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
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

/// From the endpoint that runs with the data directory, or from the directory itself.
fn answer(data: &DataDir, asked: Asked) -> Result<Value, Failure> {
    match local::ask(&data.data_dir, &asked) {
        Ok(answer) => Ok(answer.into_line()),
        Err(LocalError::NotRunning { .. }) => Ok(offline::answer(&data.data_dir, asked)?),
        Err(error) => Err(error.into()),
    }
}

fn list(answer: &Value, out: &mut impl io::Write) -> Result<(), Failure> {
    writeln!(out, "{:<10}{:<22}{:<8}NODE", "ID", "EXPIRES", "USES")?;
    for token in answer["tokens"].as_array().into_iter().flatten() {
        let text = |field: &str| token[field].as_str().unwrap_or_default();
        let node = token["node"].as_str().unwrap_or("<any>");
        writeln!(out, "{:<10}{:<22}{:<8}{node}", text("id"), text("expires"), token["uses"].to_string())?;
    }
    Ok(())
}

fn speak(word: Word, out: &mut impl io::Write) -> Result<(), Failure> {
    match word {
        Word::Serve(_) => Err(Failure::Refused("the endpoint is started by main".into())),
        Word::Token(Token::Create(TokenArgs { ttl, uses, node, data })) => {
            let answer = answer(&data, Asked::Token { ttl, uses, node })?;
            let another = "the endpoint is of another version: it gave no token";
            let token = answer["token"].as_str().ok_or_else(|| Failure::Refused(another.into()))?;
            Ok(writeln!(out, "{token}")?)
        }
        Word::Token(Token::List(data)) => list(&answer(&data, Asked::Tokens)?, out),
        Word::Token(Token::Revoke { id, data }) => {
            // The whole token is what people have at hand.
            let id = id.split('.').next().unwrap_or_default().to_owned();
            if answer(&data, Asked::RevokeToken { id: id.clone() })?["revoked"] != true {
                return Err(Failure::NotFound(format!(
                    "there is no join token {id:?}; daemonlet-control token list shows them"
                )));
            }
            Ok(writeln!(out, "token {id} lets nobody in any more")?)
        }
        Word::Node(Node::Revoke { name, data }) => {
            if answer(&data, Asked::RevokeNode { node: name.clone() })?["revoked"] != true {
                return Err(Failure::NotFound(format!(
                    "no node {name:?} has joined, as far as is known here; a certificate that it may have from before the store was put back is good \
                     for nothing from now on"
                )));
            }
            Ok(writeln!(
                out,
                "no certificate of node {name} is good any more; kubectl delete node {name} removes its object, and makes its name free"
            )?)
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
            "daemonlet-control token list",
            "daemonlet-control token revoke id",
            "daemonlet-control node revoke worker",
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
            "daemonlet-control token revoke",
            "daemonlet-control node",
            "daemonlet-control backup",
        ] {
            assert_eq!(parses(wrong).map(drop), Err(2), "{wrong}");
        }
    }
}
