//! `delete pod`: ends pods; a successor follows where one is still wanted.

use std::io::Write;

use super::client::Client;
use super::find::{self, field};
use super::{Failure, Named};
use crate::http::rows::Kind;

/// Says so once the end is on record; it does not wait for the grace period.
pub fn pod(client: &Client, named: &Named, out: &mut impl Write) -> Result<(), Failure> {
    let pods = find::pods(client.list(Kind::Pods)?, &named.name, named.namespace.as_deref())?;
    let live: Vec<_> = pods.iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()).collect();
    // Those that end already are asked once more only when nothing else is meant.
    let meant = if live.is_empty() { pods.iter().collect() } else { live };
    for pod in meant {
        let note = client.delete_pod(field(pod, "/metadata/uid"))?;
        writeln!(out, "pod \"{}\" deleted", find::name(pod))?;
        if !note.is_empty() {
            writeln!(out, "  {note}")?;
        }
    }
    Ok(())
}
