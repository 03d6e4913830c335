//! `wait --for ready`: ends when every daemon of this node that must be ready is ready.
//!
//! The agent tells each change; nothing is asked again and again. An agent that is away (it starts, it is upgraded) is one that
//! is not ready: its coming back is waited for too.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Failure;
use super::client::Client;
use crate::config::duration;
use crate::http::rows::Kind;
use crate::status::ready::Readiness;

/// How soon an agent that does not answer is called again: a restart takes some 50 ms, an upgrade a second or two.
const CALL_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// ready: every daemon of this node that must be ready is ready, or has run once and is done
    #[arg(long = "for", value_name = "STATE", required = true)]
    pub state: State,
    /// Not longer than this (90s, 5m); 0: only look [default: as long as it takes]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Ready,
}

/// Exit code 1 where the time is over first, 3 where no agent has answered then.
pub fn run(client: &Client, args: &WaitArgs, out: &mut impl Write) -> Result<(), Failure> {
    let State::Ready = args.state;
    let until = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut last: Option<Readiness> = None;
    let mut told = false;
    if args.timeout == Some(Duration::ZERO) {
        let found = client.list(Kind::Ready)?.pop().map(read).transpose()?;
        return finish(found, out);
    }
    loop {
        let mut seen = |readiness: Readiness| {
            let ready = readiness.ready;
            last = Some(readiness);
            !ready
        };
        let outcome = client.follow(Kind::Ready, until, |object| read(object).map(&mut seen));
        if last.as_ref().is_some_and(|readiness| readiness.ready) {
            return finish(last, out);
        }
        let over = until.is_some_and(|until| Instant::now() >= until);
        match outcome {
            // The agent ended, or the time is over.
            Ok(()) if last.is_none() => return Err(Failure::Unreachable("the agent does not answer".into())),
            Ok(()) => return finish(last, out),
            Err(Failure::Unreachable(why)) => {
                if over || may_not(client) {
                    return Err(Failure::Unreachable(why));
                }
                if !told {
                    told = true;
                    // Nobody may be reading stderr.
                    let _unread = writeln!(std::io::stderr(), "daemonlet: {why}; waiting for it");
                }
            }
            Err(other) => return Err(other),
        }
        let pause = until.map_or(CALL_AGAIN, |until| CALL_AGAIN.min(until.saturating_duration_since(Instant::now())));
        std::thread::sleep(pause);
    }
}

pub fn read(object: Value) -> Result<Readiness, Failure> {
    let unknown =
        |why| Failure::Refused(format!("the agent's answer is not understood: {why}; is it another version?"));
    serde_json::from_value(object).map_err(unknown)
}

/// No waiting gives a user the right to ask.
fn may_not(client: &Client) -> bool {
    let tried = std::os::unix::net::UnixStream::connect(client.socket());
    tried.is_err_and(|why| why.kind() == std::io::ErrorKind::PermissionDenied)
}

fn finish(found: Option<Readiness>, out: &mut impl Write) -> Result<(), Failure> {
    let Some(Readiness { ready: true, daemons, refused, .. }) = found else {
        return Err(Failure::Refused(missing(found)));
    };
    writeln!(out, "ready: {daemons} {}", if daemons == 1 { "daemon" } else { "daemons" })?;
    if refused > 0 {
        writeln!(
            out,
            "not counted: {refused} {} that this node does not take, see: daemonlet get files",
            documents(refused)
        )?;
    }
    Ok(())
}

fn documents(count: usize) -> &'static str {
    if count == 1 { "document" } else { "documents" }
}

fn missing(last: Option<Readiness>) -> String {
    let missing = last.map(|readiness| readiness.missing).unwrap_or_default();
    let each: BTreeSet<&String> = missing.iter().collect();
    let lines: Vec<String> = each.into_iter().map(|sentence| format!("\n  {sentence}")).collect();
    format!("not ready:{}", lines.concat())
}
