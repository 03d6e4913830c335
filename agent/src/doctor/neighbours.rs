//! Who else runs containers here, and whether we are in each other's way.

use std::fs;
use std::path::{Path, PathBuf};

use super::Line;

/// Where a kubelet keeps pods' logs unless its configuration says otherwise (podLogsDir).
const KUBELET_LOGS: &str = "/var/log/pods";
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// containerd namespaces of others; what lies there is theirs to remove.
const FOREIGN_NAMESPACES: [(&str, &str); 3] = [("k8s.io", "the kubelet"), ("moby", "Docker"), ("buildkit", "BuildKit")];

#[derive(Debug, Default)]
pub struct Neighbours {
    /// `kubelet`, `docker`, `podman`.
    pub names: Vec<&'static str>,
    /// The log directory of a kubelet that runs or is set up here.
    pub kubelet_logs: Option<PathBuf>,
}

pub fn probe() -> Neighbours {
    let kubelet_runs = processes().any(|name| name == "kubelet");
    let kubelet = kubelet_runs || Path::new(KUBELET_CONFIG).exists();
    let sockets = [("docker", "/run/docker.sock"), ("podman", "/run/podman/podman.sock")];
    let by_socket = sockets.into_iter().filter(|(_, socket)| Path::new(socket).exists()).map(|(name, _)| name);
    Neighbours {
        names: kubelet.then_some("kubelet").into_iter().chain(by_socket).collect(),
        kubelet_logs: kubelet.then(|| kubelet_logs(&fs::read_to_string(KUBELET_CONFIG).unwrap_or_default())),
    }
}

/// Names of all processes (/proc/PID/comm).
fn processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned()))
}

/// `podLogsDir` of a KubeletConfiguration: a plain top-level scalar, so a line is enough.
fn kubelet_logs(config: &str) -> PathBuf {
    let given = config.lines().find_map(|line| line.strip_prefix("podLogsDir:"));
    let given = given.map(|value| value.trim().trim_matches(['"', '\''])).filter(|value| !value.is_empty());
    PathBuf::from(given.unwrap_or(KUBELET_LOGS))
}

pub fn judge_kubelet(found: &Neighbours, log_dir: &Path) -> Line {
    const NAME: &str = "log directory shared";
    let Some(theirs) = &found.kubelet_logs else { return Line::ok(NAME, "no kubelet is on this node") };
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
    match found.names.is_empty() {
        true => Line::ok(NAME, "nobody else runs containers here"),
        false => Line::ok(NAME, format!("{}; our containerd namespace is {namespace}", found.names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_kubelet_with_our_log_directory_fails_and_says_which_to_move() {
        let kubelet = |logs: &str| Neighbours { names: vec!["kubelet"], kubelet_logs: Some(logs.into()) };
        let line = judge_kubelet(&kubelet("/nonexistent/log/pods"), Path::new("/nonexistent/log"));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.fix.contains("--log-dir /var/log/daemonlet"), "{}", line.fix);
        assert_eq!(judge_kubelet(&kubelet("/nonexistent/log/pods"), Path::new("/elsewhere")).verdict, Verdict::Ok);
        assert_eq!(judge_kubelet(&Neighbours::default(), Path::new("/var/log")).verdict, Verdict::Ok);
    }

    #[test]
    fn the_kubelets_own_word_for_its_logs_counts() {
        assert_eq!(kubelet_logs("kind: KubeletConfiguration\npodLogsDir: \"/data/pods\"\n"), Path::new("/data/pods"));
        assert_eq!(kubelet_logs(""), Path::new(KUBELET_LOGS));
    }

    #[test]
    fn a_foreign_containerd_namespace_fails() {
        assert_eq!(judge_namespace(&Neighbours::default(), "k8s.io").verdict, Verdict::Fail);
        assert_eq!(judge_namespace(&Neighbours::default(), "daemonlet").verdict, Verdict::Ok);
        assert!(processes().next().is_some());
    }
}
