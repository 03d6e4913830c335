//! What the agent and the log keeper say to each other, and the names of what they share on disk.
//!
//! Both sides use it: `client` and the keeper's own program. A request is one line of text, an answer is any number of
//! lines that begin with `- ` and one last line: `ok`, `ok key=value …` or `err WHY`. Text, so that a person can speak
//! it with socat. Pure: no files, no sockets.

use std::collections::BTreeMap;
use std::fmt;

/// The keeper's socket, beneath the run directory.
pub const SOCKET: &str = "logkeeper.sock";
/// Locked by the one keeper that reads, beneath the run directory.
pub const LOCK: &str = "logkeeper.lock";
/// One directory per container, beneath the run directory: pipes, target, journal and spools.
pub const STREAMS: &str = "logs";
/// The limits last set with `limits`, beneath the run directory, so that a restarted keeper keeps them.
pub const LIMITS: &str = "logkeeper.limits";
/// The file that says where a container's lines go, in its directory.
pub const TARGET: &str = "target";
/// Beneath `pods`: the logs of deleted pods that are kept for a while. Not a pod's name, and one level too deep for those who
/// collect `pods/*/*/*.log`.
pub const DELETED: &str = ".deleted";
/// Longest request: an id or a path, both bounded by the file system's 255 a name, and three names at most.
pub const LINE_MAX: usize = 1024;
/// Longest target file: two paths of four names of 255 bytes, with room.
pub const TARGET_MAX: usize = 4096;

/// How large and how many log files may become. Bytes and counts, both at least the minimum that `check` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A log file that would grow beyond this many bytes is rotated (the kubelet's containerLogMaxSize).
    pub max_file_size: u64,
    /// Files per container, the one being written included (the kubelet's containerLogMaxFiles).
    pub max_files: u64,
    /// Bytes that all log files beneath `pods/` may take together.
    pub budget: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_file_size: 10 << 20, max_files: 5, budget: 1 << 30 }
    }
}

impl Limits {
    /// A file must hold at least a few lines of the largest kind, or every line would be a rotation.
    pub const FILE_SIZE_MIN: u64 = 4096;
    /// As the kubelet: the file being written and one before it.
    pub const FILES_MIN: u64 = 2;

    /// Refuses limits that cannot work, saying which and why.
    pub fn check(self) -> Result<Self, Refusal> {
        if self.max_file_size < Self::FILE_SIZE_MIN {
            return Err(Refusal(format!("max file size {} is below {}", self.max_file_size, Self::FILE_SIZE_MIN)));
        }
        if self.max_files < Self::FILES_MIN {
            return Err(Refusal(format!("max files {} is below {}", self.max_files, Self::FILES_MIN)));
        }
        if self.budget < self.max_file_size {
            return Err(Refusal(format!(
                "budget {} is below the max file size {}: not one file fits",
                self.budget, self.max_file_size
            )));
        }
        Ok(self)
    }

    /// Reads `<max_file_size> <max_files> <budget>`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let numbers: Vec<u64> = text
            .split_whitespace()
            .map(|word| word.parse().map_err(|_| Refusal(format!("{word:?} is not a number"))))
            .collect::<Result<_, _>>()?;
        match numbers[..] {
            [max_file_size, max_files, budget] => Self { max_file_size, max_files, budget }.check(),
            _ => Err(Refusal("limits are three numbers: max-file-size max-files budget".into())),
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.max_file_size, self.max_files, self.budget)
    }
}

/// Why a request, a name or a limit is not taken. Plain text for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// One line from a client, understood and its names checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Open the pipes of container `id`; the answer comes when both have a reader.
    Open(String),
    /// Write what container `id` has left in its pipes and forget it.
    Close(String),
    /// Remove `pods/<dir>` and the links to it.
    Forget(String),
    /// As `Forget`, but keep the directory aside for so many seconds.
    Retire(u64, String),
    /// New limits, from now on.
    Limits(Limits),
    /// What is being read, and what went wrong.
    Status,
    /// Stop reading and exit: another keeper has the pipes open.
    Handover,
}

impl Request {
    /// Reads one line without its newline.
    pub fn parse(line: &str) -> Result<Self, Refusal> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "open" => Ok(Self::Open(container_id(rest)?.into())),
            "close" => Ok(Self::Close(container_id(rest)?.into())),
            "forget" => Ok(Self::Forget(pod_dir(rest)?.into())),
            "retire" => match rest.split_once(' ').map(|(seconds, dir)| (seconds.parse(), dir)) {
                Some((Ok(seconds), dir)) => Ok(Self::Retire(seconds, pod_dir(dir)?.into())),
                _ => Err(Refusal("retire takes seconds and pods/<pod>".into())),
            },
            "limits" => Limits::parse(rest).map(Self::Limits),
            "status" if rest.is_empty() => Ok(Self::Status),
            "handover" if rest.is_empty() => Ok(Self::Handover),
            _ => Err(Refusal(
                "unknown request: open, close, forget, retire, limits, status and handover are known".into(),
            )),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(id) => write!(f, "open {id}"),
            Self::Close(id) => write!(f, "close {id}"),
            Self::Forget(dir) => write!(f, "forget {dir}"),
            Self::Retire(seconds, dir) => write!(f, "retire {seconds} {dir}"),
            Self::Limits(limits) => write!(f, "limits {limits}"),
            Self::Status => f.write_str("status"),
            Self::Handover => f.write_str("handover"),
        }
    }
}

/// Where one container's lines go. The agent writes it beside the pipes, the keeper reads it at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `pods/<ns>_<name>_<uid>/<container>/<n>.log`, relative to the log directory.
    pub log: String,
    /// `containers/<pod>_<ns>_<container>-<id>.log`, relative to the log directory; a link to `log`.
    pub link: String,
}

impl Target {
    /// Takes both paths after checking that they have the shape above and stay where they belong.
    pub fn new(log: &str, link: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = log.split('/').collect();
        match parts[..] {
            ["pods", pod, container, file] => {
                for part in [pod, container, file] {
                    name(part)?;
                }
                if file.strip_suffix(".log").is_none_or(str::is_empty) {
                    return Err(Refusal(format!("log path {log:?} does not end in <n>.log")));
                }
            }
            _ => return Err(Refusal(format!("log path {log:?} is not pods/<pod>/<container>/<n>.log"))),
        }
        match link.split('/').collect::<Vec<_>>()[..] {
            ["containers", file] if file.ends_with(".log") => name(file)?,
            _ => return Err(Refusal(format!("link {link:?} is not containers/<name>.log"))),
        };
        Ok(Self { log: log.into(), link: link.into() })
    }

    /// Reads the target file's text.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut log = None;
        let mut link = None;
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("log", path)) => log = Some(path),
                Some(("link", path)) => link = Some(path),
                _ => return Err(Refusal(format!("target line {line:?} is neither log nor link"))),
            }
        }
        match (log, link) {
            (Some(log), Some(link)) => Self::new(log, link),
            _ => Err(Refusal("the target needs a log and a link line".into())),
        }
    }

    /// `pods/<pod>`, the directory that `forget` takes.
    pub fn pod_dir(&self) -> &str {
        let end = self.log.match_indices('/').nth(1).map_or(self.log.len(), |(at, _)| at);
        &self.log[..end]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "log {}\nlink {}", self.log, self.link)
    }
}

/// A container's id: what containerd takes, at most 255 bytes of letters, digits, dot, dash and underscore, not begun
/// by a dot.
pub fn container_id(id: &str) -> Result<&str, Refusal> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if id.is_empty() || id.len() > 255 || id.starts_with('.') || !id.chars().all(fine) {
        return Err(Refusal(format!("{id:?} is not a container id")));
    }
    Ok(id)
}

/// `pods/<one name>`.
pub fn pod_dir(dir: &str) -> Result<&str, Refusal> {
    match dir.split_once('/') {
        Some(("pods", pod)) => name(pod).map(|_| dir),
        _ => Err(Refusal(format!("{dir:?} is not pods/<pod>"))),
    }
}

/// One name of a path: not empty, not `.` or `..`, no slash, no control character, at most 255 bytes.
fn name(part: &str) -> Result<&str, Refusal> {
    if part.is_empty()
        || part.len() > 255
        || part.starts_with('.')
        || part.contains('/')
        || part.contains(char::is_control)
    {
        return Err(Refusal(format!("{part:?} is not a plain file name")));
    }
    Ok(part)
}

/// What one container's streams have come to, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The container's id.
    pub id: String,
    /// The log file, relative to the log directory.
    pub log: String,
    /// Bytes that the container wrote and that are in its log, since it was opened.
    pub bytes: u64,
    /// Log lines written for them, partial ones each counted.
    pub lines: u64,
    /// Bytes that the container wrote and that reached no log file.
    pub lost: u64,
    /// Bytes of rotated log files of this container that the budget took.
    pub removed: u64,
    /// Times that something else than our own file stood at the log's name and was moved aside.
    pub refused: u64,
    /// Streams (0 to 2) that had a writer when they were last read; one that never wrote counts as ended.
    pub reading: u64,
    /// Why the log cannot be written just now; empty when it can.
    pub failing: String,
}

/// The keeper as a whole, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The keeper's process.
    pub pid: u64,
    /// The keeper's version.
    pub version: String,
    /// Bytes beneath `pods/`, as last counted plus what was written since.
    pub used: u64,
    /// Bytes of log files that the budget took, of ended containers too.
    pub removed: u64,
    /// The log directory; empty when a keeper tells that is too old to do so.
    pub logs: String,
    /// All containers, by id.
    pub containers: Vec<ContainerStatus>,
}

impl Status {
    /// The answer's lines, the last one first word `ok`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for c in &self.containers {
            text.push_str(&format!(
                "- id={} bytes={} lines={} lost={} removed={} refused={} reading={} log={} failing={}\n",
                c.id,
                c.bytes,
                c.lines,
                c.lost,
                c.removed,
                c.refused,
                c.reading,
                escape(&c.log),
                escape(&c.failing)
            ));
        }
        text.push_str(&format!(
            "ok pid={} version={} used={} removed={} logs={} containers={}\n",
            self.pid,
            self.version,
            self.used,
            self.removed,
            escape(&self.logs),
            self.containers.len()
        ));
        text
    }

    /// Reads what `render` made. Unknown keys are passed over, so that an older client reads a newer keeper.
    pub fn parse(lines: &[String], last: &str) -> Self {
        let number = |words: &BTreeMap<&str, &str>, key: &str| words.get(key).and_then(|v| v.parse().ok()).unwrap_or(0);
        let text = |words: &BTreeMap<&str, &str>, key: &str| unescape(words.get(key).copied().unwrap_or(""));
        let all = words(last);
        let containers = lines
            .iter()
            .map(|line| {
                let one = words(line);
                ContainerStatus {
                    id: text(&one, "id"),
                    log: text(&one, "log"),
                    bytes: number(&one, "bytes"),
                    lines: number(&one, "lines"),
                    lost: number(&one, "lost"),
                    removed: number(&one, "removed"),
                    refused: number(&one, "refused"),
                    reading: number(&one, "reading"),
                    failing: text(&one, "failing"),
                }
            })
            .collect();
        Self {
            pid: number(&all, "pid"),
            version: text(&all, "version"),
            used: number(&all, "used"),
            removed: number(&all, "removed"),
            logs: text(&all, "logs"),
            containers,
        }
    }
}

/// The `key=value` words of a line.
pub fn words(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(' ', "%20").replace('\n', "%0A")
}

fn unescape(text: &str) -> String {
    text.replace("%0A", "\n").replace("%20", " ").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_they_are_written() {
        for request in [
            Request::Open("abc-1".into()),
            Request::Close("abc_2".into()),
            Request::Forget("pods/ns_name_uid".into()),
            Request::Retire(3600, "pods/ns_name_uid".into()),
            Request::Limits(Limits::default()),
            Request::Status,
            Request::Handover,
        ] {
            assert_eq!(Request::parse(&request.to_string()), Ok(request));
        }
    }

    #[test]
    fn names_that_climb_are_refused() {
        for line in
            ["open ../x", "open a/b", "open", "open .", "close ", "forget pods/..", "forget pods", "forget /etc/x"]
        {
            assert!(Request::parse(line).is_err(), "{line}");
        }
        for line in ["retire pods/a", "retire x pods/a", "retire 5 pods/../a", "retire 5 pods/.deleted"] {
            assert!(Request::parse(line).is_err(), "{line}");
        }
        for line in ["forget pods/a/b", "forget pods/", "limits 1 2", "limits 10 5 100", "status now", "dance"] {
            assert!(Request::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn targets_stay_beneath_pods_and_containers() {
        let good = Target::new("pods/a_b_c/main/0.log", "containers/b_a_main-1.log").unwrap();
        assert_eq!(Target::parse(&good.to_string()), Ok(good.clone()));
        assert_eq!(good.pod_dir(), "pods/a_b_c");
        for log in [
            "pods/../../etc/0.log",
            "/pods/a/b/0.log",
            "pods/a/b/c/0.log",
            "pods/a/b/shadow",
            "pods/a//0.log",
            "pods/a/b/.log",
        ] {
            assert!(Target::new(log, "containers/x.log").is_err(), "{log}");
        }
        for link in ["containers/../x.log", "etc/x.log", "containers/x", "containers/a\nb.log"] {
            assert!(Target::new("pods/a/b/0.log", link).is_err(), "{link}");
        }
    }

    #[test]
    fn status_reads_as_it_is_written() {
        let status = Status {
            pid: 7,
            version: "0.1.0".into(),
            used: 12,
            removed: 3,
            logs: "/a dir".into(),
            containers: vec![ContainerStatus {
                id: "a".into(),
                log: "pods/a_b_c/my 100%20/0.log".into(),
                bytes: 1,
                lines: 2,
                lost: 3,
                removed: 4,
                refused: 5,
                reading: 2,
                failing: "No space left on device (os error 28)".into(),
            }],
        };
        let text = status.render();
        let lines: Vec<String> = text.lines().map(String::from).collect();
        let (last, rest) = lines.split_last().unwrap();
        assert_eq!(Status::parse(rest, last), status);
    }
}
