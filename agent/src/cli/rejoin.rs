//! `rejoin`: joins the control endpoint anew with a new token, while the daemons run.

use std::io::{Read as _, Write};
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::client::Client;

/// A token file with its line's end; more is another file.
const TOKEN_FILE_LIMIT: u64 = 4096;

#[derive(Debug, Args)]
pub struct RejoinArgs {
    /// A file with the token that `daemonlet-control token create` printed
    #[arg(long, value_name = "F", required = true)]
    pub join_token_file: PathBuf,
}

pub fn run(client: &Client, args: &RejoinArgs, out: &mut impl Write) -> Result<(), Failure> {
    let path = &args.join_token_file;
    let mut token = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_LIMIT).read_to_string(&mut token));
    read.map_err(|why| Failure::Refused(format!("cannot read {}: {why}", path.display())))?;
    writeln!(out, "{}", client.rejoin(token.trim())?)?;
    Ok(())
}
