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
    let mut failures: Vec<Failure> = Vec::new();
    for pod in meant {
        // One that may not be deleted holds up no other; an agent that is gone takes none.
        let note = match client.delete_pod(field(pod, "/metadata/uid")) {
            Ok(note) => note,
            Err(gone @ Failure::Unreachable(_)) => return Err(gone),
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        writeln!(out, "pod \"{}\" deleted", find::name(pod))?;
        if !note.is_empty() {
            writeln!(out, "  {note}")?;
        }
    }
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => Err(Failure::Refused(failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))),
    }
}
