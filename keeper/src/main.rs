//! `daemonlet-logkeeper`: one small process per node that reads the output of all containers and writes their log files,
//! whether the agent lives or not.
//!
//! Started by its own systemd unit (or by hand), spoken to by the agent through the library of this crate. It knows
//! nothing of pods, containerd or the agent. Reading order: `serve` (the loop), `container` (a turn), `journal` (why a
//! kill loses nothing), then `cri`, `spool`, `log_file`, `rotate`, `budget`, `beneath`, `door`. `hold`
//! is another program in the same file: the first process of a shared process namespace; `own` makes the namespaces of a pod with users of
//! its own.

mod beneath;
mod budget;
mod container;
mod cri;
mod deleted;
mod door;
mod hold;
mod journal;
mod log_file;
mod own;
mod rotate;
mod serve;
mod spool;
mod start;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match start::Options::parse(std::env::args_os().skip(1)) {
        Ok(start::Asked::Run(options)) => match start::run(&options) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Ok(start::Asked::Hold) => told(hold::hold()),
        Ok(start::Asked::HoldAmongOwnUsers { uid, ns }) => told(hold::hold_among_own_users(&uid, &ns)),
        Ok(start::Asked::Own(wanted)) => told(own::make(&wanted)),
        Ok(start::Asked::Say(text)) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error}\n\n{}", start::USAGE));
            ExitCode::from(2)
        }
    }
}

/// What went wrong goes to the agent, which waits for a word.
fn told(done: std::io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stdout(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// One line for the operator. Nobody reading it must not end the keeper, which `eprintln` would.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "daemonlet-logkeeper: {line}");
}
