//! systemd's units: installed, and started at boot.

use std::path::Path;

use super::Line;
use crate::config::RUN_DIR;

const UNITS: [&str; 2] = ["daemonlet.service", "daemonlet-logkeeper.service"];
/// systemd.unit(5), the system manager's search path without generators.
const UNIT_DIRS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

#[derive(Debug, Default, PartialEq)]
pub struct Units {
    /// systemd is this node's init.
    pub systemd: bool,
    pub missing: Vec<&'static str>,
    pub not_enabled: Vec<&'static str>,
}

pub fn probe() -> Units {
    probe_below(Path::new("/"))
}

/// The agent's unit is here.
pub fn is_installed() -> bool {
    !probe().missing.contains(&UNITS[0])
}

pub fn how_to_start(run_dir: &Path, installed: bool) -> String {
    match (run_dir == Path::new(RUN_DIR), installed) {
        (true, true) => "start it: systemctl start daemonlet (its log: journalctl -u daemonlet)".to_owned(),
        (true, false) => {
            "no unit daemonlet.service is installed here; an agent that was started otherwise (make run) has a run \
                          directory of its own: name it with --run-dir D"
                .to_owned()
        }
        (false, _) => format!(
            "start an agent with --run-dir {}, or name the run directory of the one that runs with --run-dir D",
            run_dir.display()
        ),
    }
}

fn probe_below(root: &Path) -> Units {
    let installed = |unit: &&str| UNIT_DIRS.iter().any(|dir| root.join(dir).join(unit).exists());
    // A link may point at nothing as seen from below another root: its being there is what counts.
    let enabled = |unit: &&str| root.join("etc/systemd/system/multi-user.target.wants").join(unit).is_symlink();
    let (there, missing): (Vec<&str>, Vec<&str>) = UNITS.into_iter().partition(installed);
    let not_enabled = there.into_iter().filter(|unit| !enabled(unit)).collect();
    Units { systemd: root.join("run/systemd/system").is_dir(), missing, not_enabled }
}

pub fn judge(found: &Units) -> Line {
    const NAME: &str = "systemd units";
    let Units { systemd, missing, not_enabled } = found;
    match () {
        () if !systemd => {
            Line::ok(NAME, "systemd is not this node's init; whoever starts the agent must start it again")
        }
        () if !missing.is_empty() => Line::warn(
            NAME,
            format!("not installed: {}", missing.join(", ")),
            "install the package, or copy the files of systemd/ to /etc/systemd/system and run systemctl daemon-reload",
        ),
        () if !not_enabled.is_empty() => {
            let units = not_enabled.join(" ");
            let found = format!("not enabled: {}; after a reboot no daemon is started", not_enabled.join(", "));
            Line::fail(NAME, found, format!("systemctl enable {units}"))
        }
        () => Line::ok(NAME, "installed and enabled"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn systemd_is_named_only_where_it_runs_the_agent() {
        let default = Path::new(RUN_DIR);
        assert!(how_to_start(default, true).contains("systemctl start daemonlet"));
        for advice in [how_to_start(default, false), how_to_start(Path::new("/x"), true)] {
            assert!(!advice.contains("systemctl") && advice.contains("--run-dir"), "{advice}");
        }
    }

    #[test]
    fn units_that_are_missing_warn_and_units_that_are_not_enabled_fail() {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        assert_eq!(judge(&probe_below(root.path())).verdict, Verdict::Ok, "no systemd");
        fs::create_dir_all(path("run/systemd/system")).unwrap();
        fs::create_dir_all(path("usr/lib/systemd/system")).unwrap();
        fs::create_dir_all(path("etc/systemd/system/multi-user.target.wants")).unwrap();
        assert_eq!(judge(&probe_below(root.path())).verdict, Verdict::Warn);
        for unit in UNITS {
            fs::write(path("usr/lib/systemd/system").join(unit), "").unwrap();
        }
        let line = judge(&probe_below(root.path()));
        assert_eq!(
            (line.verdict, line.fix.as_str()),
            (Verdict::Fail, "systemctl enable daemonlet.service daemonlet-logkeeper.service")
        );
        for unit in UNITS {
            symlink("/nowhere", path("etc/systemd/system/multi-user.target.wants").join(unit)).unwrap();
        }
        assert_eq!(judge(&probe_below(root.path())).verdict, Verdict::Ok);
    }
}
