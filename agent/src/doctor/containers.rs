//! What starts containers: containerd, its snapshotter and runc.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::advisories::{self, Version};
use super::{Line, Places};
use crate::runtime::containerd::look::{Look, look};

/// The one that images are unpacked with.
const SNAPSHOTTER: &str = "overlayfs";
/// `runc --version` takes milliseconds.
const RUNC_TIME_MAX: Duration = Duration::from_secs(3);

pub fn probe_containerd(places: &Places) -> Result<Look, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    runtime.block_on(look(&places.containerd, &places.containerd_namespace, SNAPSHOTTER))
}

pub fn judge_containerd(found: &Result<Look, String>, places: &Places) -> Line {
    const NAME: &str = "containerd";
    let socket = places.containerd.display();
    match found {
        Err(why) => Line::fail(
            NAME,
            format!("no answer on {socket}: {why}"),
            "start containerd (systemctl enable --now containerd) or name its socket with --containerd",
        ),
        Ok(look) => {
            versioned(NAME, &format!("{} answers on {socket}", look.version), &look.version, &advisories::CONTAINERD)
        }
    }
}

pub fn judge_snapshotter(found: &Result<Look, String>) -> Line {
    const NAME: &str = "snapshotter";
    match found.as_ref().map(|look| &look.snapshotter) {
        Ok(Ok(())) => Line::ok(NAME, SNAPSHOTTER),
        Ok(Err(why)) => Line::fail(
            NAME,
            format!("containerd has no usable {SNAPSHOTTER}: {why}"),
            "load the module overlay, keep containerd's root on ext4, xfs or btrfs, and do not list it in disabled_plugins",
        ),
        Err(_) => Line::fail(NAME, "not asked: containerd does not answer", "see the line containerd"),
    }
}

/// The first line of `runc --version`.
pub fn probe_runc() -> Result<String, String> {
    let mut child = Command::new("runc")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|why| why.to_string())?;
    let end = Instant::now() + RUNC_TIME_MAX;
    while child.try_wait().map_err(|why| why.to_string())?.is_none() {
        if Instant::now() > end {
            // It may have ended by itself just now; either way it is waited for.
            let _ended = child.kill();
            let _reaped = child.wait();
            return Err(format!("no answer within {} s", RUNC_TIME_MAX.as_secs()));
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
        Ok(line) => versioned(NAME, line, line.rsplit(' ').next().unwrap_or_default(), &advisories::RUNC),
    }
}

fn versioned(name: &str, found: &str, version: &str, list: &[advisories::Advisory]) -> Line {
    let Some(version) = Version::parse(version) else {
        return Line::warn(
            name,
            format!("{found}; its version cannot be read"),
            "compare it with the advisories by hand",
        );
    };
    let open = advisories::open(version, list);
    match open.is_empty() {
        true => Line::ok(name, found),
        false => Line::warn(
            name,
            format!("{found}; known holes of {version}: {}", advisories::words(&open)),
            "upgrade, or make sure that your distribution has backported the fixes (its version then stays the same)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};
    use crate::doctor::Verdict;

    fn places() -> Places {
        let mut config = Config::load(&Settings::default(), None).unwrap();
        config.containerd = "/nonexistent/containerd.sock".into();
        Places::new(&config, Err(String::new()))
    }

    fn answering(version: &str, snapshotter: Result<(), String>) -> Result<Look, String> {
        Ok(Look { version: version.into(), pid: None, snapshotter, namespaces: Ok(vec![]) })
    }

    #[test]
    fn a_silent_containerd_fails_and_an_old_one_is_named_with_its_advisories() {
        let line = judge_containerd(&probe_containerd(&places()), &places());
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.found.contains("/nonexistent/containerd.sock"), "{}", line.found);
        let line = judge_containerd(&answering("1.6.20~ds1", Ok(())), &places());
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("CVE-2024-25621"), "{}", line.found);
        assert_eq!(judge_containerd(&answering("v2.2.1", Ok(())), &places()).verdict, Verdict::Ok);
    }

    #[test]
    fn a_missing_snapshotter_fails() {
        assert_eq!(judge_snapshotter(&answering("2.2.1", Ok(()))).verdict, Verdict::Ok);
        assert_eq!(judge_snapshotter(&answering("2.2.1", Err("not loaded".into()))).verdict, Verdict::Fail);
        assert_eq!(judge_snapshotter(&Err("down".into())).verdict, Verdict::Fail);
    }

    #[test]
    fn a_missing_runc_fails_and_an_old_one_is_named_with_its_advisories() {
        assert_eq!(judge_runc(&Err("not found".into())).verdict, Verdict::Fail);
        let line = judge_runc(&Ok("runc version 1.1.5+ds1".into()));
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("CVE-2024-21626") && line.found.contains("CVE-2025-31133"), "{}", line.found);
        assert_eq!(judge_runc(&Ok("runc version 1.3.3".into())).verdict, Verdict::Ok);
    }
}
