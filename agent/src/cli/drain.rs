//! `drain` and `undrain`: all pods of this node stop, in their order, and stay so; and run again.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::client::Client;
use super::wait::read;
use crate::config::duration;
use crate::http::rows::Kind;

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Do not wait longer than this until all have stopped (90s, 5m); the drain goes on [default: as long as it takes]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Ends when nothing of any pod is left. Exit code 1 where the time is over first, or the agent ended: the drain goes on.
pub fn drain(client: &Client, args: &DrainArgs, out: &mut impl Write) -> Result<(), Failure> {
    let until = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    note(&client.post("/v1/drain")?, out)?;
    let mut there: BTreeSet<String> = BTreeSet::new();
    let mut over = false;
    let mut undrained = false;
    client.follow(Kind::Ready, until, |object| {
        let now = read(object)?;
        let left: BTreeSet<String> = now.there.into_iter().collect();
        for name in there.difference(&left) {
            writeln!(out, "{name} stopped")?;
        }
        out.flush()?;
        there = left;
        (over, undrained) = (there.is_empty() && now.settled, !now.drained);
        Ok(!over && !undrained)
    })?;
    match (over, undrained) {
        (_, true) => Err(Failure::Refused("somebody has undrained the node".into())),
        (true, false) => Ok(writeln!(out, "the node is drained")?),
        (false, false) => {
            let left: Vec<String> = there.iter().map(|name| format!("\n  {name}")).collect();
            Err(Failure::Refused(format!("these have not stopped in time; the drain goes on:{}", left.concat())))
        }
    }
}

pub fn undrain(client: &Client, out: &mut impl Write) -> Result<(), Failure> {
    note(&client.post("/v1/undrain")?, out)?;
    Ok(writeln!(out, "the node is undrained: its daemons start")?)
}

fn note(note: &str, out: &mut impl Write) -> Result<(), Failure> {
    if !note.is_empty() {
        writeln!(out, "  {note}")?;
    }
    Ok(())
}
