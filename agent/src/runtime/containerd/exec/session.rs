//! Everything that a command has started: what is in its session, which runc makes for it, and what descends from it.
//!
//! Called when a command is killed; reads /proc and blocks. Nothing outside the command's container is touched.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Passes over /proc: what forks while it is being killed is met by the next one.
const PASSES_MAX: usize = 8;

/// Kills the command with this pid and what it has started. What has left its session and lost its parent stays.
pub fn kill(container: &str, command: u32) {
    let mut known = BTreeSet::from([command]);
    for _ in 0..PASSES_MAX {
        let found = members(container, &mut known);
        if found.is_empty() {
            return;
        }
        for member in found {
            kill_one(container, &member);
        }
    }
}

/// A process, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    session: u32,
    /// Clock ticks since the boot: with the pid it names a process for ever.
    started: u64,
}

/// Living processes of the command's container that are its own; `known` grows with them.
fn members(container: &str, known: &mut BTreeSet<u32>) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<Process> = pids.filter_map(read).collect();
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|it| !known.contains(&it.pid) && (known.contains(&it.parent) || known.contains(&it.session)))
            .map(|it| it.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        known.extend(more);
    }
    all.into_iter().filter(|it| known.contains(&it.pid) && is_of(container, it.pid)).collect()
}

fn kill_one(container: &str, process: &Process) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // From here on the descriptor is one process's; it is the one that was looked at if it began when that did.
    if read(process.pid).is_some_and(|it| it.started == process.started) && is_of(container, process.pid) {
        // It may have ended by now.
        let _ = pidfd_send_signal(&descriptor, Signal::KILL);
    }
}

/// Whether its cgroup is the container's: the id is in its path.
fn is_of(container: &str, pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
}

/// None for what has ended, zombies included.
fn read(pid: u32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): the command in parentheses may contain anything.
fn parse(pid: u32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let (state, field) = (*fields.first()?, |n: usize| fields.get(n - 3));
    let ended = matches!(state, "Z" | "X");
    let process = Process {
        pid,
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    };
    (!ended).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_hostile_name() {
        let rest = "S 4 5 6 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        let expected = Process { pid: 9, parent: 4, session: 6, started: 777 };
        assert_eq!(parse(9, &format!("9 (a) Z 1 1 (b) {rest}")), Some(expected));
        assert_eq!(parse(9, &format!("9 (a) {}", rest.replacen('S', "Z", 1))), None);
        assert_eq!(parse(9, "9 (a"), None);
    }

    #[test]
    fn nothing_outside_the_container_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        kill("0123456789abcdef0123456789abcdef", child.id());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
