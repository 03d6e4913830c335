//! Who else runs containers here, and whether we are in each other's way.
//!
//! The line names what was looked for, and claims no more.

use std::fs;
use std::path::{Path, PathBuf};

use super::Line;

/// Where a kubelet keeps pods' logs unless its configuration says otherwise (podLogsDir).
const KUBELET_LOGS: &str = "var/log/pods";
pub const KUBELET_CONFIG: &str = "var/lib/kubelet/config.yaml";
/// A program that runs containers: its process (/proc/PID/comm, 15 bytes at most), and files that are there while it
/// runs or once it has been set up.
const PROGRAMS: [(&str, &[&str], &[&str]); 8] = [
    (
        KUBELET,
        &["kubelet"],
        &["var/lib/kubelet/device-plugins/kubelet.sock", KUBELET_CONFIG, "etc/kubernetes/kubelet.conf"],
    ),
    // A kubelet within one program with the rest of Kubernetes, and a containerd of its own.
    (
        MICROK8S,
        &["kubelite"],
        &["var/snap/microk8s/common/run/containerd.sock", "var/snap/microk8s/current/args/kubelet"],
    ),
    (K3S, &["k3s-server", "k3s-agent"], &["run/k3s/containerd/containerd.sock"]),
    (K0S, &["k0s"], &["run/k0s/containerd.sock"]),
    ("Docker", &["dockerd"], &["run/docker.sock"]),
    ("podman", &["podman"], &["run/podman/podman.sock"]),
    ("CRI-O", &["crio"], &["run/crio/crio.sock"]),
    ("Nomad", &["nomad"], &[]),
];
const KUBELET: &str = "the kubelet";
const MICROK8S: &str = "MicroK8s";
const K3S: &str = "K3s or RKE2";
const K0S: &str = "k0s";
/// Each with a kubelet in it.
const KUBELETS: [&str; 4] = [KUBELET, MICROK8S, K3S, K0S];
/// containerd namespaces of others; what lies there is theirs to remove.
const FOREIGN_NAMESPACES: [(&str, &str); 4] =
    [("k8s.io", KUBELET), ("moby", "Docker"), ("buildkit", "BuildKit"), ("nomad", "Nomad")];

#[derive(Debug)]
pub struct Neighbours {
    /// Who was found, with what gave it away.
    pub found: Vec<(&'static str, String)>,
    /// The log directory of a kubelet that runs or is set up here.
    pub kubelet_logs: Option<PathBuf>,
    /// containerd's, all of them; Err says why they are not known.
    pub namespaces: Result<Vec<String>, String>,
}

pub fn probe(namespaces: Result<Vec<String>, String>) -> Neighbours {
    probe_below(Path::new("/"), &processes(), namespaces)
}

fn probe_below(root: &Path, processes: &[String], namespaces: Result<Vec<String>, String>) -> Neighbours {
    let evidence = |own: &[&str], files: &[&str]| {
        let file = || files.iter().find(|file| root.join(file).exists());
        match own.iter().find(|process| processes.iter().any(|name| name == *process)) {
            Some(process) => Some(format!("process {process}")),
            None => file().map(|file| format!("/{file}")),
        }
    };
    let found: Vec<_> = PROGRAMS
        .into_iter()
        .filter_map(|(name, own, files)| evidence(own, files).map(|evidence| (name, evidence)))
        .collect();
    let kubelet = found.iter().any(|(name, _)| KUBELETS.contains(name));
    let config = || fs::read_to_string(root.join(KUBELET_CONFIG)).unwrap_or_default();
    Neighbours { found, kubelet_logs: kubelet.then(|| kubelet_logs(&config())), namespaces }
}

/// Names of all processes (/proc/PID/comm).
pub fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned())).collect()
}

/// `podLogsDir` of a KubeletConfiguration.
fn kubelet_logs(config: &str) -> PathBuf {
    top_level(config, "podLogsDir").map_or_else(|| Path::new("/").join(KUBELET_LOGS), PathBuf::from)
}

/// A plain top-level scalar of a KubeletConfiguration, for which a line is enough.
pub fn top_level(config: &str, key: &str) -> Option<String> {
    let value = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

pub fn judge_kubelet(found: &Neighbours, log_dir: &Path) -> Line {
    const NAME: &str = "log directory shared";
    let Some(theirs) = &found.kubelet_logs else {
        return Line::ok(NAME, "no kubelet: neither its process nor its socket or configuration is here");
    };
    let ours = log_dir.join("pods");
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match real(&ours) == real(theirs) {
        true => Line::fail(
            NAME,
            format!("a kubelet has {} too, and deletes logs of pods that it does not know", theirs.display()),
            "move ours: start daemonlet (and its log keeper) with --log-dir /var/log/daemonlet; leave the kubelet's",
        ),
        false => Line::ok(NAME, format!("the kubelet's is {}, ours {}", theirs.display(), ours.display())),
    }
}

pub fn judge_namespace(found: &Neighbours, namespace: &str) -> Line {
    const NAME: &str = "neighbours";
    if let Some((_, whose)) = FOREIGN_NAMESPACES.iter().find(|(name, _)| *name == namespace) {
        return Line::fail(
            NAME,
            format!("--containerd-namespace {namespace} is {whose}'s, which removes containers that it does not know"),
            "leave it at its default, daemonlet",
        );
    }
    let names: Vec<&str> = PROGRAMS.iter().map(|(name, ..)| name.trim_start_matches("the ")).collect();
    let looked_for = names.join(", ");
    let programs = match found.found.is_empty() {
        true => format!("none found of {looked_for}"),
        false => {
            let found: Vec<String> =
                found.found.iter().map(|(name, evidence)| format!("{name} ({evidence})")).collect();
            format!("{} (looked for {looked_for})", found.join(", "))
        }
    };
    let in_containerd = match &found.namespaces {
        Err(_) => {
            return Line::warn(
                NAME,
                format!("{programs}; containerd does not tell whose namespaces it has"),
                "see the line containerd",
            );
        }
        Ok(names) => {
            let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != namespace).collect();
            match others.is_empty() {
                true => "containerd has no namespaces but ours".to_owned(),
                false => format!("containerd's other namespaces: {}", others.join(", ")),
            }
        }
    };
    Line::ok(NAME, format!("{programs}; {in_containerd}; ours is {namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    /// A node with these files and processes.
    fn node(files: &[&str], processes: &[&str], namespaces: &[&str]) -> (tempfile::TempDir, Neighbours) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "podLogsDir: /nonexistent/log/pods\n").unwrap();
        }
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let found = probe_below(root.path(), &own(processes), Ok(own(namespaces)));
        (root, found)
    }

    #[test]
    fn a_kubelet_with_our_log_directory_fails_and_says_which_to_move() {
        let (_root, kubelet) = node(&[KUBELET_CONFIG], &[], &[]);
        let line = judge_kubelet(&kubelet, Path::new("/nonexistent/log"));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.fix.contains("--log-dir /var/log/daemonlet"), "{}", line.fix);
        assert_eq!(judge_kubelet(&kubelet, Path::new("/elsewhere")).verdict, Verdict::Ok);
        // Running without a configuration file that we know: it keeps its logs at the usual place.
        let (_root, running) = node(&[], &["kubelet"], &[]);
        assert_eq!(judge_kubelet(&running, Path::new("/var/log")).verdict, Verdict::Fail);
        // One that is called otherwise, or stands still just now.
        for (files, processes) in [
            (&[][..], &["kubelite"][..]),
            (&["var/snap/microk8s/common/run/containerd.sock"], &[]),
            (&[], &["k3s-agent"]),
        ] {
            let (_root, found) = node(files, processes, &[]);
            assert_eq!(judge_kubelet(&found, Path::new("/var/log")).verdict, Verdict::Fail, "{files:?} {processes:?}");
        }
        let (_root, nobody) = node(&[], &["dockerd"], &[]);
        assert_eq!(judge_kubelet(&nobody, Path::new("/var/log")).verdict, Verdict::Ok);
    }

    #[test]
    fn the_kubelets_own_word_for_its_logs_counts() {
        assert_eq!(kubelet_logs("kind: KubeletConfiguration\npodLogsDir: \"/data/pods\"\n"), Path::new("/data/pods"));
        assert_eq!(kubelet_logs(""), Path::new("/var/log/pods"));
    }

    #[test]
    fn each_neighbour_is_told_with_what_gave_it_away() {
        let found = |files: &[&str], processes: &[&str]| {
            let line = judge_namespace(&node(files, processes, &["daemonlet"]).1, "daemonlet");
            assert_eq!(line.verdict, Verdict::Ok);
            line.found.split(" (looked for").next().unwrap().to_owned()
        };
        for (name, own, files) in PROGRAMS {
            for process in own {
                assert_eq!(found(&[], &[process]), format!("{name} (process {process})"));
            }
            for file in files {
                assert_eq!(found(&[file], &[]), format!("{name} (/{file})"));
            }
        }
        assert_eq!(found(&[], &["dockerd", "crio"]), "Docker (process dockerd), CRI-O (process crio)");
        assert_eq!(
            found(&[], &["bash"]),
            "none found of kubelet, MicroK8s, K3s or RKE2, k0s, Docker, podman, CRI-O, Nomad; containerd has no namespaces but ours; ours is daemonlet"
        );
        assert!(!processes().is_empty());
    }

    #[test]
    fn other_namespaces_are_told_and_ones_that_cannot_be_asked_for_warn() {
        let (_root, mut found) = node(&[], &[], &["daemonlet", "default", "k8s.io"]);
        let line = judge_namespace(&found, "daemonlet");
        assert_eq!(line.verdict, Verdict::Ok);
        assert!(line.found.contains("other namespaces: default, k8s.io;"), "{}", line.found);
        found.namespaces = Err("down".into());
        assert_eq!(judge_namespace(&found, "daemonlet").verdict, Verdict::Warn);
    }

    #[test]
    fn a_foreign_containerd_namespace_fails() {
        let (_root, nobody) = node(&[], &[], &[]);
        for (foreign, whose) in FOREIGN_NAMESPACES {
            let line = judge_namespace(&nobody, foreign);
            assert_eq!(line.verdict, Verdict::Fail);
            assert!(line.found.contains(whose), "{}", line.found);
        }
    }
}
