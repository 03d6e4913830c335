//! A container's log files as the keeper leaves them: opened safely, in order, read as CRI lines.
//!
//! Driven by the command line's `logs`, by the uplink, and by the agent for the last lines of what failed. Daemons may have the log directory
//! mounted, writable, and plant links, pipes and devices in it at any moment: every path is resolved by the kernel beneath the
//! directory without links, and what is not a regular file of ours with one name is refused before it is opened.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;

/// Read at a time.
const CHUNK: usize = 64 << 10;
/// A CRI line's head (time, stream, tag) and its 16 KiB of content fit twice; longer ones are not the keeper's.
const LINE_MAX: usize = 40 << 10;
/// The kernel says EAGAIN when a rename raced with the resolution.
const RACES_MAX: usize = 16;

/// Device and inode.
pub type Identity = (u64, u64);

/// The log directory of one container.
#[derive(Debug)]
pub struct LogDir {
    dir: OwnedFd,
}

/// One opened log file.
#[derive(Debug)]
pub struct LogFile {
    pub identity: Identity,
    /// When it was last written.
    pub written: SystemTime,
    file: File,
    rest: Vec<u8>,
}

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339; None: it is no CRI line, and all of it is content.
    pub time: Option<&'a [u8]>,
    /// With its end where the line that the daemon wrote ends here, without where it goes on.
    pub content: &'a [u8],
}

/// The names beneath a directory of the log directory (`pods`), sorted, with when each was changed; nothing is followed
/// on the way. Names that are no text are nobody's.
pub fn names(log_dir: &Path, below: &str) -> io::Result<Vec<(String, SystemTime)>> {
    let root = open(log_dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let dir = beneath(&root, below, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let own = beneath(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(own)?.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        // Gone by now: so is its name.
        let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if let (false, Ok(stat)) = (matches!(name, "." | ".."), stat) {
            names.push((name.to_owned(), written(&stat)));
        }
    }
    names.sort();
    Ok(names)
}

impl LogDir {
    /// `<log-dir>/pods/<pod>/<container>`. Links on the way to the log directory itself are the administrator's.
    pub fn open(log_dir: &Path, pod: &str, container: &str) -> io::Result<LogDir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(log_dir, flags, Mode::empty())?;
        Ok(LogDir { dir: beneath(&root, &format!("pods/{pod}/{container}"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)? })
    }

    /// The directory for inotify: this very one, whatever its path leads to by now.
    pub fn watch_path(&self) -> String {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd())
    }

    /// All files of an attempt, oldest first; the last is the one that is written, or was a moment ago. Err(NotFound)
    /// where there is none.
    pub fn files(&self, attempt: u64) -> io::Result<Vec<LogFile>> {
        let current_name = format!("{attempt}.log");
        // First, so that a rotation in between makes it appear twice and not never.
        let current = match self.file(&current_name) {
            Ok(file) => Some(file),
            // Perhaps between a rotation's rename and the new file: then the newest rotated one is the last.
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) => return Err(why),
        };
        // Gone by now, or planted beside the keeper's: neither keeps the others from being shown.
        let mut files: Vec<LogFile> =
            self.rotated(&current_name)?.iter().filter_map(|name| self.file(name).ok()).collect();
        // Rotated since it was opened, it has its place among them, perhaps before others.
        files.extend(current.filter(|current| files.iter().all(|file| file.identity != current.identity)));
        if files.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(files) }
    }

    /// What has the name of the attempt's written file now.
    pub fn current(&self, attempt: u64) -> io::Result<LogFile> {
        self.file(&format!("{attempt}.log"))
    }

    fn file(&self, name: &str) -> io::Result<LogFile> {
        // Opening a pipe or a device already does something: what it is, is decided on a descriptor that opens nothing.
        let found = beneath(&self.dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let stat = fstat(&found)?;
        let regular = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if !regular || stat.st_nlink > 1 || stat.st_uid != geteuid().as_raw() {
            return Err(io::Error::other("it is not the regular file that the log keeper made; somebody replaced it"));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = open(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str(), flags, Mode::empty())?;
        let identity = (stat.st_dev, stat.st_ino);
        Ok(LogFile { identity, written: written(&stat), file: File::from(file), rest: Vec::new() })
    }

    /// `<n>.log.<stamp>`, which sort by age. A name that comes while a directory is read may be missed though a later
    /// one is not: only two equal lists are believed.
    fn rotated(&self, current: &str) -> io::Result<Vec<String>> {
        let mut names = self.rotated_once(current)?;
        for _ in 0..RACES_MAX {
            let again = self.rotated_once(current)?;
            if again == names {
                break;
            }
            names = again;
        }
        Ok(names)
    }

    fn rotated_once(&self, current: &str) -> io::Result<Vec<String>> {
        let own = beneath(&self.dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(own)?.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let stamp = name.strip_prefix(current).and_then(|rest| rest.strip_prefix('.'));
            if stamp.is_some_and(|stamp| !stamp.is_empty() && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'-')) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

impl LogFile {
    /// Hands on the lines that have come since the last call.
    pub fn print(&mut self, mut each: impl FnMut(Line<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self.file.read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&chunk[..read]);
            let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else {
                if self.rest.len() > LINE_MAX {
                    self.finish(&mut each)?;
                }
                continue;
            };
            let after = self.rest.split_off(end + 1);
            for line in self.rest.split_inclusive(|b| *b == b'\n') {
                each(parse(line))?;
            }
            self.rest = after;
        }
    }

    /// Hands on what no line's end follows: nothing more is coming.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>) -> io::Result<()>) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { each(parse(&rest)) }
    }

    /// Moves the place of reading to the first line that begins in the last `bytes`.
    pub fn seek_near_end(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.file.seek(SeekFrom::End(0))?;
        let from = end.saturating_sub(bytes);
        self.file.seek(SeekFrom::Start(from.saturating_sub(1)))?;
        let mut skipped = 0;
        let mut byte = [0];
        // The byte before is a line's end where a line begins here.
        while from > 0 && skipped <= bytes && self.file.read(&mut byte)? == 1 && byte != [b'\n'] {
            skipped += 1;
        }
        Ok(())
    }

    /// How many full lines (pieces tagged P belong to the line that they begin) are kept, up to `most`, and where the
    /// first of the last `most` begins. The place of reading is moved there.
    pub fn seek_to_last(&mut self, most: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut starts: VecDeque<u64> = VecDeque::new();
        let (mut at, mut line_start, mut within) = (0_u64, 0_u64, false);
        let mut line: Vec<u8> = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self.file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            for piece in chunk[..read].split_inclusive(|b| *b == b'\n') {
                // Only the head is looked at.
                line.extend_from_slice(&piece[..piece.len().min(64_usize.saturating_sub(line.len()))]);
                at += piece.len() as u64;
                if !piece.ends_with(b"\n") {
                    continue;
                }
                if !within {
                    starts.push_back(line_start);
                    if starts.len() > most {
                        starts.pop_front();
                    }
                }
                within = is_partial(&line);
                line_start = at;
                line.clear();
            }
        }
        // Not within a line that is being written.
        let begin = starts.front().copied().unwrap_or(line_start);
        self.file.seek(SeekFrom::Start(begin))?;
        Ok(starts.len())
    }
}

/// Leaves the files that hold the last `most` lines, each standing where they begin.
pub fn keep_last(files: &mut Vec<LogFile>, most: usize) -> io::Result<()> {
    let mut left = most;
    for at in (0..files.len()).rev() {
        left -= files[at].seek_to_last(left)?.min(left);
        if left == 0 {
            files.drain(..at);
            break;
        }
    }
    Ok(())
}

/// `<time> <stream> <F|P> <content>\n`. What is no CRI line is content as it is.
fn parse(line: &[u8]) -> Line<'_> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(time), Some(b"stdout" | b"stderr"), Some(tag), Some(content)) => match tag {
            b"P" => Line { time: Some(time), content: content.strip_suffix(b"\n").unwrap_or(content) },
            _ => Line { time: Some(time), content },
        },
        _ => Line { time: None, content: line },
    }
}

fn written(stat: &FileStat) -> SystemTime {
    let since_1970 = u64::try_from(stat.st_mtime).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_1970)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn is_partial(head: &[u8]) -> bool {
    head.splitn(4, |b| *b == b' ').nth(2) == Some(b"P")
}

fn beneath(at: &OwnedFd, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..RACES_MAX {
        match openat2(at, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ELOOP | Errno::EXDEV) => {
                return Err(io::Error::other("a symbolic link lies in the way; it is not followed"));
            }
            done => return Ok(done?),
        }
    }
    Err(Errno::EAGAIN.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn line(text: &str) -> String {
        format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n")
    }

    struct Logs {
        root: tempfile::TempDir,
    }

    impl Logs {
        fn new() -> Logs {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("pods/ns_p_u/c")).unwrap();
            Logs { root }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.root.path().join("pods/ns_p_u/c").join(name)
        }

        fn dir(&self) -> LogDir {
            LogDir::open(self.root.path(), "ns_p_u", "c").unwrap()
        }
    }

    fn printed(file: &mut LogFile) -> String {
        let mut out = Vec::new();
        file.print(|line| out.write_all(line.content)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rotated_files_come_first_and_foreign_ones_not_at_all() {
        let logs = Logs::new();
        fs::write(logs.path("0.log"), line("three")).unwrap();
        fs::write(logs.path("0.log.20260101-000001"), line("two")).unwrap();
        fs::write(logs.path("0.log.20260101-000000"), line("one")).unwrap();
        fs::write(logs.path("0.log.bak"), line("foreign")).unwrap();
        fs::write(logs.path("1.log"), line("other attempt")).unwrap();
        symlink("/etc/hostname", logs.path("0.log.20260101-000002")).unwrap();
        let all: String = logs.dir().files(0).unwrap().iter_mut().map(printed).collect();
        assert_eq!(all, "one\ntwo\nthree\n");
    }

    #[test]
    fn planted_links_pipes_and_second_names_are_refused() {
        let logs = Logs::new();
        let secret = logs.root.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, logs.path("0.log")).unwrap();
        fs::hard_link(&secret, logs.path("1.log")).unwrap();
        nix::unistd::mkfifo(&logs.path("2.log"), Mode::S_IRWXU).unwrap();
        fs::create_dir(logs.path("3.log")).unwrap();
        for attempt in 0..4 {
            assert!(logs.dir().files(attempt).is_err(), "{attempt}");
        }
        symlink(logs.root.path().join("pods/ns_p_u"), logs.root.path().join("pods/link")).unwrap();
        assert!(LogDir::open(logs.root.path(), "link", "c").is_err());
        assert!(LogDir::open(logs.root.path(), "..", "c").is_err());
    }

    #[test]
    fn pieces_of_a_long_line_are_joined_and_a_torn_line_waits() {
        let logs = Logs::new();
        let partial = "2026-01-01T00:00:00Z stdout P ab\n2026-01-01T00:00:00Z stderr F cd\n2026-01-01T00:00:00Z stdo";
        fs::write(logs.path("0.log"), partial).unwrap();
        let mut file = logs.dir().current(0).unwrap();
        assert_eq!(printed(&mut file), "abcd\n");
        fs::OpenOptions::new().append(true).open(logs.path("0.log")).unwrap().write_all(b"ut F ef\n").unwrap();
        assert_eq!(printed(&mut file), "ef\n");
    }

    #[test]
    fn the_last_lines_are_found_and_pieces_count_once() {
        let logs = Logs::new();
        let text =
            format!("{}2026-01-01T00:00:00Z stdout P x\n2026-01-01T00:00:00Z stdout F y\n{}", line("a"), line("b"));
        fs::write(logs.path("0.log"), text).unwrap();
        for (most, shown, kept) in [(0, "", 0), (1, "b\n", 1), (2, "xy\nb\n", 2), (9, "a\nxy\nb\n", 3)] {
            let mut file = logs.dir().current(0).unwrap();
            assert_eq!(file.seek_to_last(most).unwrap(), kept);
            assert_eq!(printed(&mut file), shown);
        }
    }
}
