//! `hold`: the first process of a shared process namespace, started as the agent starts it. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAIT_MAX: Duration = Duration::from_secs(30);

/// A holder that has said that it is ready, as process 1 of a new namespace.
struct Held {
    /// util-linux's unshare, which ends with it.
    parent: Child,
    stdin: Option<ChildStdin>,
    pid: i32,
}

impl Held {
    fn start() -> Held {
        let mut parent = Command::new("unshare")
            .args(["--pid", "--fork", env!("CARGO_BIN_EXE_daemonlet-logkeeper"), "hold", "0a-1b"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap();
        let pid = children.trim().parse().unwrap();
        Held { stdin: parent.stdin.take(), parent, pid }
    }

    fn stay(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.stdin = None;
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// A command in its namespace.
    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--pid"]).args(words);
        command
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.parent.try_wait().unwrap().is_none() {
            kill(Pid::from_raw(self.pid), Signal::SIGKILL).unwrap();
            self.parent.wait().unwrap();
        }
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_gives_up_what_it_could_do_harm_with() {
    let held = Held::start();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(held.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(held.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(held.status("Gid"), "65534\t65534\t65534\t65534");
    assert_eq!((held.status("Groups"), held.status("NoNewPrivs")), (String::new(), "1".to_owned()));
    // Whoever gets at its root finds nothing, and can put nothing there.
    let root = format!("/proc/{}/root", held.pid);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert!(fs::write(format!("{root}/x"), "").is_err());
    let above = fs::read_dir(format!("{root}/..")).unwrap().map(|it| it.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(above, ["empty"], "nothing is above it but what it lies in");
    let own = fs::read_link(format!("/proc/{}/ns/mnt", held.pid)).unwrap();
    assert_ne!(own, fs::read_link("/proc/self/ns/mnt").unwrap());
}

#[test]
fn without_an_answer_it_ends_and_with_one_it_stays_until_it_is_killed() {
    let mut unanswered = Held::start();
    unanswered.stdin = None;
    assert!(unanswered.parent.wait().unwrap().success());

    let mut held = Held::start();
    held.stay();
    // Nobody inside can end it.
    let _ = held.inside(&["sh", "-c", "kill -9 1; kill -15 1; kill -2 1"]).status().unwrap();
    let mut inside = held.inside(&["sleep", "600"]).spawn().unwrap();
    assert!(held.parent.try_wait().unwrap().is_none() && inside.try_wait().unwrap().is_none());
    kill(Pid::from_raw(held.pid), Signal::SIGKILL).unwrap();
    assert!(!inside.wait().unwrap().success(), "all that is in the namespace ends with it");
    held.parent.wait().unwrap();
}

#[test]
fn what_loses_its_parent_leaves_no_zombie() {
    let mut held = Held::start();
    held.stay();
    let children = format!("/proc/{0}/task/{0}/children", held.pid);
    for _ in 0..3 {
        assert!(held.inside(&["sh", "-c", "sleep 0.05 & sleep 0.05 &"]).status().unwrap().success());
        wait_until("its children are gone", || fs::read_to_string(&children).unwrap().is_empty());
    }
}
