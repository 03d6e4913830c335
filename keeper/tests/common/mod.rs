//! A keeper of a test's own, the containers that write to it, and their logs read back. Used by the tests beside it;
//! needs root only where a test says so, and no containerd: what writes to the pipes does not matter to the keeper.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keeper::client::{Keeper, Pipes, StreamTarget};

pub const BIN: &str = env!("CARGO_BIN_EXE_daemonlet-logkeeper");
/// Everything that a test waits for happens within milliseconds; this is for a machine under load.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// A run directory, a log directory and the keepers started on them. Dropping it ends what it started.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub keeper: Keeper,
    options: Vec<String>,
    processes: Vec<Child>,
}

impl Node {
    /// Directories and a keeper that answers.
    pub fn start(options: &[&str]) -> Self {
        let mut node = Self::prepare(options);
        node.spawn();
        node.keeper.status().unwrap();
        node
    }

    /// Directories without a keeper.
    pub fn prepare(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(dir.path().join("run"));
        let options = options.iter().map(|option| option.to_string()).collect();
        Self { dir, keeper, options, processes: Vec::new() }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// One more keeper on the same directories.
    pub fn spawn(&mut self) {
        let mut command = Command::new(BIN);
        command.arg("--run-dir").arg(self.run_dir()).arg("--log-dir").arg(self.log_dir()).args(&self.options);
        self.adopt(command);
    }

    pub fn adopt(&mut self, mut command: Command) {
        self.processes.push(command.stdin(Stdio::null()).spawn().unwrap());
    }

    pub fn pid(&self) -> u32 {
        self.processes.last().unwrap().id()
    }

    /// SIGKILL to the newest keeper.
    pub fn kill(&mut self) {
        let mut process = self.processes.pop().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits for the oldest keeper's end.
    pub fn oldest_ends(&mut self) -> ExitStatus {
        let mut oldest = self.processes.remove(0);
        let mut ended = None;
        wait("the keeper's end", || {
            ended = oldest.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Opens container `id` of pod `pod`, attempt 0.
    pub fn open(&self, pod: &str, id: &str) -> Container {
        self.open_attempt(pod, id, 0)
    }

    pub fn open_attempt(&self, pod: &str, id: &str, attempt: u32) -> Container {
        let target = StreamTarget {
            id: id.into(),
            log_path: format!("pods/ns_{pod}_uid/main/{attempt}.log"),
            link: format!("containers/{pod}_ns_main-{id}.log"),
        };
        let pipes = self.keeper.open(&target).unwrap();
        Container::new(&self.log_dir(), &target, &pipes)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A container's pipes, held open for reading and writing as containerd's shim does.
pub struct Container {
    pub log: PathBuf,
    pub link: PathBuf,
    stdout: File,
    stderr: File,
}

impl Container {
    fn new(log_dir: &Path, target: &StreamTarget, pipes: &Pipes) -> Self {
        let shim = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self {
            log: log_dir.join(&target.log_path),
            link: log_dir.join(&target.link),
            stdout: shim(&pipes.stdout),
            stderr: shim(&pipes.stderr),
        }
    }

    pub fn say(&self, text: &str) {
        (&self.stdout).write_all(text.as_bytes()).unwrap();
    }

    pub fn complain(&self, text: &str) {
        (&self.stderr).write_all(text.as_bytes()).unwrap();
    }

    /// Writes numbered lines on standard output until told to stop; then returns how many.
    pub fn count(&self) -> Counter {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, pipe) = (Arc::clone(&stop), self.stdout.try_clone().unwrap());
        let writer = std::thread::spawn(move || {
            let mut number = 0u64;
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                // Lines of very different lengths, several in one write: partial ones end every read.
                let mut text = String::new();
                for _ in 0..20 {
                    text += &format!("{number} {}\n", "x".repeat(usize::try_from(number % 97).unwrap()));
                    number += 1;
                }
                let start = Instant::now();
                (&pipe).write_all(text.as_bytes()).unwrap();
                longest = longest.max(start.elapsed());
            }
            (number, longest)
        });
        Counter { stop, writer }
    }

    /// The content of all log lines of standard output in order, rotated files first, each checked to be a whole line
    /// in the CRI format.
    pub fn lines(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.log.parent().unwrap())
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().starts_with(&format!("{}.", self.log.display())))
            .filter(|path| !path.to_str().unwrap().contains("refused"))
            .collect();
        files.sort();
        files.push(self.log.clone());
        files.iter().flat_map(|file| contents(file)).collect()
    }

    /// Waits until the log has `count` lines and returns their contents.
    pub fn wait_lines(&self, count: usize) -> Vec<String> {
        wait(&format!("{count} lines in {}", self.log.display()), || self.lines().len() >= count);
        self.lines()
    }
}

/// A writer of numbered lines.
pub struct Counter {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<(u64, Duration)>,
}

impl Counter {
    /// Stops it. Returns how many lines it wrote and the longest time that one write took.
    pub fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap()
    }
}

/// The log lines' contents, after checking time, stream and tag of each.
pub fn contents(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", file.display());
    text.lines()
        .map(|line| {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            let [time, stream, tag, content] = parts[..] else { panic!("torn line {line:?} in {}", file.display()) };
            assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line:?}");
            assert!(matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P"), "{line:?}");
            content.to_owned()
        })
        .collect()
}

/// Checks that the lines are 0, 1, 2, … `count`, each whole and once.
pub fn assert_counted(lines: &[String], count: u64) {
    for (number, line) in lines.iter().enumerate() {
        let wanted = format!("{number} {}", "x".repeat(number % 97));
        let shown: String = line.chars().take(200).collect();
        assert!(*line == wanted, "line {number} is {shown:?}");
    }
    assert_eq!(lines.len() as u64, count);
}

/// Waits for a condition, bounded.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within {} s", WAIT_MAX.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
