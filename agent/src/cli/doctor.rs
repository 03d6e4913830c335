//! `doctor`: the lines of [`crate::doctor`], printed.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::client::Client;
use super::{Failure, Machine, colours};
use crate::config::{Config, Settings};
use crate::doctor::{Line, Places, Verdict, configuration, examine, how_to_start};
use crate::http::rows::Kind;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The agent's configuration file; an agent that answers tells its places itself
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Machine>,
}

/// Exit code 1 where a line fails.
pub fn run(client: &Client, args: &DoctorArgs, out: &mut impl Write) -> Result<(), Failure> {
    let flags = Settings { run_dir: client.socket().parent().map(PathBuf::from), ..Settings::default() };
    let config = Config::load(&flags, args.config.as_deref()).map_err(|why| Failure::Usage(why.to_string()))?;
    let (_, lines) = lines(client, &config, args.config.as_deref());
    match args.output {
        Some(Machine::Json) => writeln!(out, "{:#}", json!({"lines": lines}))?,
        None => print(&lines, colours(), out)?,
    }
    match lines.iter().any(|line| line.verdict == Verdict::Fail) {
        true => Err(Failure::Refused(String::new())),
        false => Ok(()),
    }
}

/// The places that were looked at, and what was found there.
pub fn lines(client: &Client, config: &Config, file: Option<&Path>) -> (Places, Vec<Line>) {
    // What to do about it is said beside it, as of any other line.
    let advice = format!("; {}", how_to_start(&config.run_dir));
    let agent = client.list(Kind::Node).map_err(|why| why.to_string().replace(&advice, ""));
    let agent = agent.and_then(|mut nodes| nodes.pop().ok_or_else(|| "the agent says nothing of its node".to_owned()));
    let mut lines = vec![configuration(client.socket(), file, &agent)];
    let places = Places::new(config, agent);
    lines.extend(examine(&places));
    (places, lines)
}

fn print(lines: &[Line], colours: bool, out: &mut impl Write) -> Result<(), Failure> {
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
    for Line { name, verdict, found, fix } in lines {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok  ", "32"),
            Verdict::Warn => ("warn", "33"),
            Verdict::Fail => ("FAIL", "31"),
        };
        let word = if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() };
        writeln!(out, "{word}  {name:width$}  {}", found.replace('\n', " "))?;
        if !fix.is_empty() {
            writeln!(out, "      {:width$}  fix: {fix}", "")?;
        }
    }
    Ok(())
}
