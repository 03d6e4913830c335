//! A container's task: its processes under the shim. Create, start, signal, delete, and how it stands.
//!
//! Driven by `containers` and by the Runtime verbs in `mod`; knows ids, not pods.

use std::time::Duration;

use containerd_client::services::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, StartRequest, WaitRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use prost_types::{Any, Timestamp};

use super::client::{Client, QUICK, SLOW, bounded, found};
use super::left;

/// How long killed processes may take to end before the deletion is tried anyway: only a process in
/// uninterruptible sleep takes longer.
const KILLED_WAIT: Duration = Duration::from_secs(10);

/// What a task is created from.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub id: String,
    pub rootfs: Vec<Mount>,
    /// A FIFO, of which the shim has both ends; empty: /dev/null.
    pub stdin: String,
    /// FIFOs with a reader.
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// For the shim; the same as in the container's record.
    pub options: Option<Any>,
}

/// Creates the task; the pid of its first process, which waits.
pub async fn create(client: &Client, task: &NewTask) -> Result<u32, Status> {
    let request = || CreateTaskRequest {
        container_id: task.id.clone(),
        rootfs: task.rootfs.clone(),
        stdin: task.stdin.clone(),
        stdout: task.stdout.clone(),
        // A terminal has one output.
        stderr: if task.terminal { String::new() } else { task.stderr.clone() },
        terminal: task.terminal,
        options: task.options.clone(),
        ..CreateTaskRequest::default()
    };
    match bounded(SLOW, client.tasks().create(client.request(request()))).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            delete(client, &task.id).await?;
            bounded(SLOW, client.tasks().create(client.request(request()))).await
        }
        Err(status) if left::clear_bundle(client, &task.id, &status).await => {
            bounded(SLOW, client.tasks().create(client.request(request()))).await
        }
        answer => answer,
    }
    .map(|created| created.pid)
}

/// Starts a created task; its pid.
pub async fn start(client: &Client, id: &str) -> Result<u32, Status> {
    let request = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
    match bounded(SLOW, client.tasks().start(client.request(request))).await {
        Ok(started) => Ok(started.pid),
        // Starting twice is refused with different words by different shims: ask how it stands.
        Err(refused) => match get(client, id).await {
            Ok(Some(process)) if process.status() == TaskStatus::Running => Ok(process.pid),
            _ => Err(refused),
        },
    }
}

/// The task's first process; None when there is no task.
pub async fn get(client: &Client, id: &str) -> Result<Option<Process>, Status> {
    let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let answer = found(bounded(QUICK, client.tasks().get(client.request(request))).await)?;
    Ok(answer.and_then(|it| it.process))
}

/// Sends a signal; Ok when nobody is there to get it.
pub async fn kill(client: &Client, id: &str, signal: u32, all: bool) -> Result<(), Status> {
    let request = KillRequest { container_id: id.to_owned(), exec_id: String::new(), signal, all };
    match found(bounded(QUICK, client.tasks().kill(client.request(request))).await) {
        // An old shim says so without the code.
        Err(status) if status.message().contains("process already finished") => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// Deletes the task, killing what still runs; Ok when there is none.
pub async fn delete(client: &Client, id: &str) -> Result<(), Status> {
    let request = || DeleteTaskRequest { container_id: id.to_owned() };
    let Err(refused) = found(bounded(SLOW, client.tasks().delete(client.request(request()))).await) else {
        return Ok(());
    };
    tracing::debug!(id, reason = refused.message(), "a task is not deleted at once");
    // Refused, most likely because it runs. It may have ended since: then the second try is enough.
    let Some(process) = get(client, id).await? else { return Ok(()) };
    if process.status() != TaskStatus::Stopped {
        kill(client, id, SIGKILL, true).await?;
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        // Its outcome does not matter: the deletion tells.
        let _ = bounded(KILLED_WAIT, client.tasks().wait(client.request(wait))).await;
    }
    found(bounded(SLOW, client.tasks().delete(client.request(request()))).await).map(|_| ())
}

pub const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
/// First and last real-time signal as programs number them (glibc and musl keep two and three for themselves; the
/// images' STOPSIGNAL counts from 34).
const SIGRTMIN: u32 = 34;
const SIGRTMAX: u32 = 64;

/// The number of an image's STOPSIGNAL (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`); SIGTERM where it has none or one that
/// does not exist.
pub fn stop_signal(written: Option<&str>) -> u32 {
    written.and_then(parse_signal).unwrap_or(SIGTERM)
}

fn parse_signal(written: &str) -> Option<u32> {
    let upper = written.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = bare.parse::<u32>() {
        number
    } else if let Some(rest) = bare.strip_prefix("RTMIN") {
        SIGRTMIN.checked_add(if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? })?
    } else if let Some(rest) = bare.strip_prefix("RTMAX") {
        SIGRTMAX.checked_sub(if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? })?
    } else {
        let signal: nix::sys::signal::Signal = format!("SIG{bare}").parse().ok()?;
        u32::try_from(signal as i32).ok()?
    };
    (1..=SIGRTMAX).contains(&number).then_some(number)
}

/// containerd's time as ours; the epoch where it makes no sense.
pub fn time(stamp: Option<Timestamp>) -> jiff::Timestamp {
    let Some(stamp) = stamp else { return jiff::Timestamp::UNIX_EPOCH };
    jiff::Timestamp::new(stamp.seconds, stamp.nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_as_images_write_them() {
        for (written, number) in [
            (None, 15),
            (Some("SIGQUIT"), 3),
            (Some("quit"), 3),
            (Some("9"), 9),
            (Some("SIGRTMIN+3"), 37),
            (Some("RTMAX-1"), 63),
            (Some("SIGNONSENSE"), 15),
            (Some("0"), 15),
            (Some("65"), 15),
            (Some("RTMIN+4294967295"), 15),
        ] {
            assert_eq!(stop_signal(written), number, "{written:?}");
        }
    }
}
