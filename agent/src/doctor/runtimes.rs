//! The OCI runtimes: runc, and those of the configured runtime classes, each with its version and known holes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use super::Line;
use super::advisories::{self, Advisory, Version};
use crate::config::RuntimeClass;

/// `runc --version` takes milliseconds.
const VERSION_TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of a package's changelog that are read: the longest in Debian are shorter, and the newest entries come first.
const CHANGELOG_MAX: u64 = 1 << 20;
/// Where shims are looked for when containerd's own PATH is unknown.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first line of `PROGRAM --version`.
pub fn probe_program(program: &Path) -> Result<String, String> {
    first_line(program, &["--version"])
}

/// The first line that a small program prints.
pub fn first_line(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|why| why.to_string())?;
    let end = Instant::now() + VERSION_TIME_MAX;
    while child.try_wait().map_err(|why| why.to_string())?.is_none() {
        if Instant::now() > end {
            // It may have ended by itself just now; either way it is waited for.
            let _ended = child.kill();
            let _reaped = child.wait();
            return Err(format!("no answer within {} s", VERSION_TIME_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its few lines fit into the pipe, so it has ended without anybody reading.
    let output = child.wait_with_output().map_err(|why| why.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

pub fn judge_runc(found: &Result<String, String>) -> Line {
    const NAME: &str = "runc";
    match found {
        Err(why) => Line::fail(
            NAME,
            format!("cannot be run: {why}"),
            "install it (apt-get install runc) into containerd's PATH",
        ),
        Ok(line) => program(NAME, line),
    }
}

/// What stands behind a runtime class: a program's first line of `--version`, or the place of a shim.
pub fn probe(class: &RuntimeClass, containerd: Option<i32>) -> Result<String, String> {
    match class {
        RuntimeClass::Program(program) => probe_program(program),
        RuntimeClass::Shim(name) => {
            let environment = containerd.map(|pid| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
            let path = path_of(&environment.unwrap_or_default());
            find_shim(name, &path).ok_or_else(|| format!("{} is not in containerd's PATH {path}", shim_program(name)))
        }
    }
}

pub fn judge(name: &str, class: &RuntimeClass, found: &Result<String, String>) -> Line {
    let line_name = format!("runtime class {name}");
    match (found, class) {
        (Ok(line), RuntimeClass::Program(_)) => program(&line_name, line),
        (Ok(place), RuntimeClass::Shim(_)) => Line::ok(&line_name, format!("{class}: {place}")),
        (Err(why), RuntimeClass::Program(program)) => Line::fail(
            &line_name,
            format!("{} cannot be run: {why}; pods of this class cannot start", program.display()),
            "install the runtime there, or correct `runtime-class` in the agent's configuration",
        ),
        (Err(why), RuntimeClass::Shim(_)) => Line::fail(
            &line_name,
            format!("{why}; pods of this class cannot start"),
            "install the shim there, or correct `runtime-class` in the agent's configuration",
        ),
    }
}

/// `crun version 1.8.1` and what is known of it. Other programs than runc and crun have no list here.
fn program(name: &str, line: &str) -> Line {
    let (kind, version) = (line.split(' ').next().unwrap_or_default(), line.rsplit(' ').next().unwrap_or_default());
    match kind {
        "runc" => versioned(name, line, version, &advisories::RUNC, &changelog("runc")),
        "crun" => versioned(name, line, version, &advisories::CRUN, &changelog("crun")),
        _ => Line::ok(name, line),
    }
}

/// A line about a program with this version; `changelog` is that of the package that it may have come with.
pub fn versioned(name: &str, found: &str, version: &str, list: &[Advisory], changelog: &str) -> Line {
    let Some(parsed) = Version::parse(version) else {
        return Line::warn(
            name,
            format!("{found}; its version cannot be read"),
            "compare it with the advisories by hand",
        );
    };
    let open = advisories::open(parsed, list);
    let (mended, open): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|advisory| advisories::backported(advisory, version, changelog));
    let mended = match mended.is_empty() {
        true => String::new(),
        false => format!("; mended by the distribution: {}", advisories::ids(&mended)),
    };
    match open.is_empty() {
        true => Line::ok(name, format!("{found}{mended}")),
        false => Line::warn(
            name,
            format!("{found}; known holes of {parsed}: {}{mended}", advisories::words(&open)),
            "upgrade it; its distribution's changelog, where there is one, tells of no mending",
        ),
    }
}

/// The Debian changelog of an installed package; empty where there is none.
pub fn changelog(package: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(format!("/usr/share/doc/{package}/changelog.Debian.gz")) {
        // What could be read counts: the newest entries come first.
        let _read = GzDecoder::new(file).take(CHANGELOG_MAX).read_to_string(&mut text);
    }
    text
}

/// The program that containerd starts for a shim of this name: made of the last two words.
fn shim_program(name: &str) -> String {
    let words: Vec<&str> = name.rsplitn(3, '.').take(2).collect();
    format!("containerd-shim-{}", words.into_iter().rev().collect::<Vec<_>>().join("-"))
}

/// `PATH` of a process's environment (proc_pid_environ(5)).
fn path_of(environment: &[u8]) -> String {
    let text = String::from_utf8_lossy(environment);
    text.split('\0').find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(USUAL_PATH).to_owned()
}

fn find_shim(name: &str, path: &str) -> Option<String> {
    let program = shim_program(name);
    let mut places = path.split(':').filter(|dir| !dir.is_empty()).map(|dir| PathBuf::from(dir).join(&program));
    places.find(|place| place.is_file()).map(|place| place.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_missing_runc_fails_and_an_old_one_is_named_with_its_advisories() {
        assert_eq!(judge_runc(&Err("not found".into())).verdict, Verdict::Fail);
        let line = versioned("runc", "runc version 1.1.5+ds1", "1.1.5+ds1", &advisories::RUNC, "");
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("CVE-2024-21626") && line.found.contains("CVE-2025-31133"), "{}", line.found);
        assert_eq!(judge_runc(&Ok("runc version 1.3.6".into())).verdict, Verdict::Ok);
        assert_eq!(versioned("runc", "x", "unknown", &advisories::RUNC, "").verdict, Verdict::Warn);
    }

    #[test]
    fn what_the_distribution_has_mended_is_no_hole() {
        let log = "runc (1.1.5+ds1-1+deb12u1) bookworm-security; urgency=high\n\n  * CVE-2024-21626: leaked fds\n";
        let judge = |log| versioned("runc", "runc version 1.1.5+ds1", "1.1.5+ds1", &advisories::RUNC, log);
        let line = judge(log);
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.ends_with("mended by the distribution: CVE-2024-21626"), "{}", line.found);
        let all = format!("{log}  * CVE-2024-45310, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2026-41579\n");
        assert_eq!(judge(&all).verdict, Verdict::Ok);
    }

    #[test]
    fn a_class_without_its_program_or_shim_fails_and_an_old_crun_is_named_with_its_advisories() {
        let crun = RuntimeClass::Program("/nonexistent/crun".into());
        let line = judge("crun", &crun, &probe(&crun, None));
        assert_eq!((line.verdict, line.name.as_str()), (Verdict::Fail, "runtime class crun"));
        assert!(line.found.contains("/nonexistent/crun"), "{}", line.found);
        let line = judge("crun", &crun, &Ok("crun version 1.3".into()));
        assert!(line.verdict == Verdict::Warn && line.found.contains("CVE-2022-27650"), "{}", line.found);
        assert_eq!(judge("crun", &crun, &Ok("crun version 1.28".into())).verdict, Verdict::Ok);
        let shim = RuntimeClass::Shim("io.containerd.nonexistent.v7".into());
        let line = judge("x", &shim, &probe(&shim, None));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.found.contains("containerd-shim-nonexistent-v7 is not in"), "{}", line.found);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("containerd-shim-runc-v2-rs"), "").unwrap();
        let path = path_of(format!("HOME=/\0PATH=/nonexistent:{}\0", dir.path().display()).as_bytes());
        assert!(find_shim("io.containerd.runc.v2-rs", &path).is_some());
    }
}
