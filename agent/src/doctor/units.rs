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

    const AGENT: &str = include_str!("../../../systemd/daemonlet.service");
    const CONTROL: &str = include_str!("../../../systemd/daemonlet-control.service");
    const KEEPER: &str = include_str!("../../../systemd/daemonlet-logkeeper.service");

    /// The values of a directive, one entry a word, over all its lines.
    fn words<'a>(unit: &'a str, directive: &str) -> Vec<&'a str> {
        let lines = unit.lines().filter(|line| !line.starts_with(['#', ';']));
        let values = lines.filter_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == directive));
        values.flat_map(|(_, value)| value.split_whitespace()).collect()
    }

    /// Each of these has cost somebody's daemons: systemd.exec(5), systemd.kill(5), systemd.unit(5).
    #[test]
    fn the_units_have_none_of_the_directives_that_take_daemons_down() {
        for (name, unit) in [("daemonlet", AGENT), ("daemonlet-logkeeper", KEEPER)] {
            // Pinned namespaces, pipes and sockets would go at each stop.
            let deletes = ["RuntimeDirectory", "ExecStopPost", "ExecStop"];
            // A mount namespace of its own: containerd would not see our mounts.
            let hides = [
                "PrivateTmp",
                "PrivateMounts",
                "PrivateDevices",
                "PrivateUsers",
                "PrivateNetwork",
                "ProtectSystem",
                "ProtectHome",
                "ProtectControlGroups",
                "ProtectKernelTunables",
                "ProtectKernelModules",
                "ProtectKernelLogs",
                "ProtectProc",
                "ReadOnlyPaths",
                "ReadWritePaths",
                "InaccessiblePaths",
                "TemporaryFileSystem",
                "BindPaths",
                "BindReadOnlyPaths",
                "RootDirectory",
                "RootImage",
                "MountFlags",
                "DynamicUser",
                "ProcSubset",
            ];
            // Its stop would be ours; its absence would keep us from starting.
            let binds =
                ["Requires", "Requisite", "BindsTo", "PartOf", "Upholds", "ConditionPathExists", "AssertPathExists"];
            for directive in deletes.iter().chain(&hides).chain(&binds) {
                assert_eq!(words(unit, directive), Vec::<&str>::new(), "{directive}= in {name}.service");
            }
            let waits: Vec<&str> = ["After", "Wants"].iter().flat_map(|directive| words(unit, directive)).collect();
            for target in
                ["network.target", "network-online.target", "time-sync.target", "time-set.target", "nss-lookup.target"]
            {
                assert!(!waits.contains(&target), "{name}.service waits for {target}");
            }
            assert_eq!(words(unit, "KillMode"), ["process"], "{name}: containers' helpers are spared");
            assert_eq!(words(unit, "Type"), ["notify"], "{name}");
            assert_eq!(words(unit, "Restart"), ["always"], "{name}");
            assert_eq!(words(unit, "StartLimitIntervalSec"), ["0"], "{name}: it is tried for ever");
            assert_eq!(words(unit, "WantedBy"), ["multi-user.target"], "{name}");
        }
        assert_eq!(words(AGENT, "Wants"), ["containerd.service", "daemonlet-logkeeper.service"]);
        assert_eq!(words(AGENT, "After"), words(AGENT, "Wants"));
        for scheduler in ["kubelet.service", "k3s.service", "nomad.service"] {
            assert!(words(AGENT, "Before").contains(&scheduler), "{scheduler} may schedule before the daemons");
        }
        let seconds = |directive: &str| words(AGENT, directive)[0].parse::<u64>().unwrap();
        // A beat every 10 s, and steps in flight have 10 s at the end.
        assert!(seconds("WatchdogSec") >= 20 && seconds("TimeoutStopSec") > 10);
    }

    /// The endpoint runs no daemons, so it may be locked in as much as can be; but what takes it down, or keeps it down, is the same.
    #[test]
    fn the_endpoints_unit_comes_back_and_waits_for_nobody() {
        for directive in
            ["Requires", "Requisite", "BindsTo", "PartOf", "ConditionPathExists", "ExecStopPost", "DynamicUser"]
        {
            assert_eq!(words(CONTROL, directive), Vec::<&str>::new(), "{directive}=");
        }
        let waits: Vec<&str> = ["After", "Wants"].iter().flat_map(|directive| words(CONTROL, directive)).collect();
        assert!(!waits.contains(&"network-online.target"), "addresses that come later are taken up");
        assert_eq!(words(CONTROL, "Type"), ["notify"]);
        assert_eq!(words(CONTROL, "Restart"), ["always"]);
        assert_eq!(words(CONTROL, "StartLimitIntervalSec"), ["0"], "it is tried for ever");
        assert_eq!(words(CONTROL, "WantedBy"), ["multi-user.target"]);
        assert_eq!(words(CONTROL, "StateDirectoryMode"), ["0700"], "the authority's key is in it");
        let seconds = |directive: &str| words(CONTROL, directive)[0].parse::<u64>().unwrap();
        // A beat every 15 s, and 5 s for requests in flight.
        assert!(seconds("WatchdogSec") >= 30 && seconds("TimeoutStopSec") > 5);
    }

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
