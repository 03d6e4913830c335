//! `daemonlet-logkeeper`: one small process per node that reads the output of all containers and writes their log files,
//! whether the agent lives or not.
//!
//! Started by its own systemd unit (or by hand), spoken to by the agent through the library of this crate. It knows
//! nothing of pods, containerd or the agent. Reading order: `serve` (the loop), `container` (a turn), `journal` (why a
//! kill loses nothing), then `cri`, `spool`, `log_file`, `rotate`, `budget`, `beneath`, `door`.

mod beneath;
mod budget;
mod container;
mod cri;
mod door;
mod journal;
mod log_file;
mod rotate;
mod serve;
mod spool;
mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    match start::Options::parse(std::env::args_os().skip(1)) {
        Ok(start::Asked::Run(options)) => match start::run(&options) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("daemonlet-logkeeper: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(start::Asked::Say(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("daemonlet-logkeeper: {error}\n\n{}", start::USAGE);
            ExitCode::from(2)
        }
    }
}
