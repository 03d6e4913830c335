//! Processes as /proc shows them, and how the tests end them: by id, after making sure that the id still means the same process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{wait_for, wait_within};

/// A process by id and start time, so that a reused id is never mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    start: u64,
}

impl Process {
    /// The living process with this id, if there is one. A zombie is not alive.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; the fields after the last `)` are plain. proc_pid_stat(5): 3 is state, 22 start.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        Some(Self { pid, start: fields.get(19)?.parse().ok()? })
    }

    pub fn alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// Sends a signal if it is still the same process.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            // It may end by itself between the look and the signal; that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// SIGSTOP, and waits until every thread stands still: until then one of them may answer once more.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        wait_for(&format!("every thread of process {} is stopped", self.pid), || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(|error| error.to_string())?.flatten();
            let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
            let moving = stats.filter(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')));
            match moving.count() {
                0 => Ok(()),
                some => Err(format!("{some} are not")),
            }
        });
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill_9(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_gone(Duration::from_secs(20));
    }

    #[track_caller]
    pub fn wait_gone(&self, bound: Duration) {
        wait_within(bound, &format!("process {} ends", self.pid), || {
            if self.alive() { Err(self.command_line()) } else { Ok(()) }
        });
    }

    pub fn command_line(&self) -> String {
        fs::read(format!("/proc/{}/cmdline", self.pid))
            .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned())
            .unwrap_or_default()
    }

    /// A field of /proc/PID/status, e.g. `CapEff` or `NoNewPrivs`.
    pub fn status(&self, field: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    }

    /// The namespace's identity, e.g. `net:[4026531840]`.
    pub fn namespace(&self, kind: &str) -> Option<String> {
        Some(fs::read_link(format!("/proc/{}/ns/{kind}", self.pid)).ok()?.display().to_string())
    }

    /// A path as the process sees it, reached from outside.
    pub fn root(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// The process's cgroup path under this v1 controller, or the v2 path where the controller has no hierarchy of its own.
    pub fn cgroup(&self, controller: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        let of = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let controllers = fields.next()?;
                let path = fields.next()?;
                controllers.split(',').any(|name| name == wanted).then(|| path.to_owned())
            })
        };
        of(controller).or_else(|| of(""))
    }
}

/// All living processes whose command line contains `text`.
pub fn with_command(text: &str) -> Vec<Process> {
    all().filter(|process| process.command_line().contains(text)).collect()
}

/// All living processes in this network namespace (by its identity, see [`Process::namespace`]).
pub fn in_network(namespace: &str) -> Vec<Process> {
    all().filter(|process| process.namespace("net").as_deref() == Some(namespace)).collect()
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_with_its_id() {
        let own = Process::find(std::process::id() as i32).unwrap();
        assert!(own.alive());
        assert!(!Process { start: own.start + 1, ..own }.alive());
        assert!(own.cgroup("memory").is_some());
    }
}
