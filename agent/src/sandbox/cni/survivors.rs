//! Plugins that outlive the agent that started them: SIGKILL leaves nobody to end them, and what they still make (an address,
//! an interface, a rule) would meet what the next agent makes for the same pod.
//!
//! Driven by `cni` at start, only where a mark says that a plugin was running. A process is ours when its environment, which
//! is the one that it was started with, names a CNI command, our run directory and a pod with such a mark; it is ended through a pidfd, so that
//! its number cannot become somebody else's in between.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pod::name::Uid;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::plugin::RUN_DIR;
use crate::readable;

/// A plugin's environment is half a kilobyte.
const ENVIRONMENT_MAX_BYTES: u64 = 64 * 1024;
/// A killed process that has not ended after this long is stuck in the kernel.
const END_WITHIN: Duration = Duration::from_secs(3);
/// A plugin may start another one between a look at the processes and its end.
const LOOKS: u32 = 5;

/// Ends them all. Blocking: the bound in all, milliseconds as a rule.
pub fn end(run_dir: &Path, begun: &[Uid]) -> io::Result<()> {
    let deadline = Instant::now() + END_WITHIN;
    for _ in 0..LOOKS {
        let found = find(run_dir, begun)?;
        if found.is_empty() {
            return Ok(());
        }
        for (pid, process) in &found {
            tracing::warn!(pid, "a network plugin of an agent that was killed still runs: it is ended");
            // It may have ended by itself.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        for (pid, process) in &found {
            if !readable::within(process, deadline.saturating_duration_since(Instant::now()))? {
                return Err(io::Error::other(format!("the network plugin {pid} of a killed agent does not end")));
            }
        }
    }
    Ok(())
}

fn find(run_dir: &Path, begun: &[Uid]) -> io::Result<Vec<(i32, OwnedFd)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if !is_ours(pid, run_dir, begun) {
            continue;
        }
        let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            continue;
        };
        // The number may have become another process's before it was opened.
        if is_ours(pid, run_dir, begun) {
            found.push((pid, process));
        }
    }
    Ok(found)
}

fn is_ours(pid: i32, run_dir: &Path, begun: &[Uid]) -> bool {
    let mut environment = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_MAX_BYTES).read_to_end(&mut environment));
    if read.is_err() {
        return false;
    }
    let value = |name: &str| {
        let prefix = [name.as_bytes(), b"="].concat();
        environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(prefix.as_slice()))
    };
    let of_begun = |id: &[u8]| begun.iter().any(|uid| uid.0.as_bytes() == id);
    value("CNI_COMMAND").is_some()
        && value(RUN_DIR) == Some(run_dir.as_os_str().as_bytes())
        && value("CNI_CONTAINERID").is_some_and(of_begun)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_plugins_of_this_run_directory_are_ended() {
        let begun = [Uid("a".into())];
        let start = |run_dir: &str, pod: &str, command: Option<&str>| {
            let mut sleep = Command::new("sleep");
            sleep.arg("1000").env(RUN_DIR, run_dir).env("CNI_CONTAINERID", pod).stdin(Stdio::null());
            command.map(|command| sleep.env("CNI_COMMAND", command));
            sleep.spawn().unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("run");
        let own_text = own.to_str().unwrap();
        let mut ours = start(own_text, "a", Some("ADD"));
        let mut others =
            [start("/run/another", "a", Some("ADD")), start(own_text, "a", None), start(own_text, "b", Some("ADD"))];
        // Between fork and exec the child has this test's environment.
        let deadline = Instant::now() + Duration::from_secs(20);
        while find(&own, &begun).unwrap().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        end(&own, &begun).unwrap();
        assert!(ours.wait().unwrap().code().is_none());
        for other in &mut others {
            assert_eq!(other.try_wait().unwrap(), None);
            other.kill().unwrap();
            other.wait().unwrap();
        }
        end(&own, &begun).unwrap();
    }
}
