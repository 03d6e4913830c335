//! Where a container's log lies when no agent can say: found by the names that the log directory has for it.
//!
//! Driven by `logs`. The log keeper, which runs without an agent, knows the log directory; else the configuration does.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keeper::client::Keeper;
use keeper::protocol;
use pod::digest::ALPHABET;
use pod::name::WorkloadKind;
use pod::record::Record;

use super::Failure;
use super::find::nearest;
use super::logs::{LogsArgs, Place};
use crate::log_file;
use crate::records;

/// What a DaemonSet's pod has behind the set's name: a dash and so many letters.
const SUFFIX: usize = 5;

/// A pod's directory: `<ns>_<name>_<uid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PodDir {
    /// Its path beneath `pods`.
    name: String,
    namespace: String,
    pod: String,
    uid: String,
    changed: SystemTime,
}

/// The log directory: the running keeper's, else the configured one.
pub fn log_dir(run_dir: &Path, configured: &Path) -> PathBuf {
    // Asked first because the client waits for a keeper that is being restarted, and a person waits for us.
    let answers = std::os::unix::net::UnixStream::connect(run_dir.join(protocol::SOCKET)).is_ok();
    let told = answers.then(|| Keeper::new(run_dir).status().ok()).flatten().map(|status| status.logs);
    told.filter(|dir| !dir.is_empty()).map_or_else(|| configured.to_owned(), PathBuf::from)
}

/// The runs that `args` name. Err(None): there is no log directory, or nobody may read it.
pub fn find(log_dir: &Path, state_dir: &Path, args: &LogsArgs) -> Result<Vec<Place>, Option<Failure>> {
    let dirs = pod_dirs(log_dir, "").map_err(|_| None)?;
    places(log_dir, Some(state_dir), &dirs, args, Which::asked(args)).map_err(Some)
}

/// Runs of the pod of this name that was deleted last, of those whose logs are kept.
pub fn deleted(log_dir: &Path, args: &LogsArgs, which: Which) -> Result<Vec<Place>, Failure> {
    let dirs = pod_dirs(log_dir, &format!("{}/", protocol::DELETED)).unwrap_or_default();
    places(log_dir, None, &dirs, args, which)
}

/// Of a container's runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Last,
    Before,
}

impl Which {
    pub fn asked(args: &LogsArgs) -> Which {
        if args.previous { Which::Before } else { Which::Last }
    }
}

fn places(
    log_dir: &Path,
    state_dir: Option<&Path>,
    dirs: &[PodDir],
    args: &LogsArgs,
    which: Which,
) -> Result<Vec<Place>, Failure> {
    let pod = pod(dirs, state_dir, args)?;
    let below = format!("pods/{}", pod.name);
    let mut names = texts(log_dir, &below);
    // The keeper's mark is no container.
    names.retain(|name| !name.starts_with('.'));
    let containers = match args.all_containers {
        true => names,
        false => vec![container(&names, state_dir, pod, args)?],
    };
    let run = |container: String| {
        let attempts = texts(log_dir, &format!("{below}/{container}"));
        let newest = attempts.iter().filter_map(|name| name.strip_suffix(".log")?.parse::<u64>().ok()).max();
        let newest = newest
            .ok_or_else(|| Failure::NotFound(format!("container {container} of {} has no log (yet)", pod.pod)))?;
        let attempt = if which == Which::Before { newest.checked_sub(1) } else { Some(newest) };
        let attempt = attempt
            .ok_or_else(|| Failure::NotFound(format!("container {container} of {} has not been restarted", pod.pod)))?;
        let PodDir { name, pod, uid, .. } = pod.clone();
        Ok(Place { pod, uid, pod_dir: name, container, attempt })
    };
    let found: Vec<Result<Place, Failure>> = containers.into_iter().map(run).collect();
    match args.all_containers {
        true if found.iter().any(Result::is_ok) => Ok(found.into_iter().flatten().collect()),
        _ => found.into_iter().collect(),
    }
}

/// Of an old pod and its successor the one whose directory is younger.
fn pod<'a>(dirs: &'a [PodDir], state_dir: Option<&Path>, args: &LogsArgs) -> Result<&'a PodDir, Failure> {
    let wanted = args.name.as_str();
    let of_set = |dir: &PodDir, set: &str| {
        let rest = dir.pod.strip_prefix(set).and_then(|rest| rest.strip_prefix('-'));
        let named = rest.is_some_and(|rest| rest.len() == SUFFIX && rest.bytes().all(|b| ALPHABET.contains(&b)));
        // A static pod is named after its node, whose name may look the same: the record knows.
        let record = state_dir.filter(|_| named).and_then(|state_dir| record(state_dir, dir));
        named && record.is_none_or(|record| record.workload.kind == WorkloadKind::DaemonSet)
    };
    let fits = |dir: &&PodDir| {
        let name = match wanted.split_once('/') {
            Some(("ds" | "daemonset" | "daemonsets", set)) => of_set(dir, set),
            Some(("pod" | "pods" | "po", plain)) => dir.pod == plain,
            _ => dir.pod == wanted,
        };
        name && args.namespace.as_ref().is_none_or(|namespace| dir.namespace == *namespace)
    };
    let found: Vec<&PodDir> = dirs.iter().filter(fits).collect();
    if let [first, rest @ ..] = found.as_slice()
        && let Some(other) = rest.iter().find(|dir| dir.namespace != first.namespace)
    {
        let (one, two) = (&first.namespace, &other.namespace);
        return Err(Failure::Usage(format!("{wanted} is in the namespaces {one} and {two}: choose one with -n")));
    }
    found.into_iter().max_by_key(|dir| dir.changed).ok_or_else(|| {
        let near = nearest(wanted, dirs.iter().map(|dir| format!("{} (-n {})", dir.pod, dir.namespace)));
        let near = if near.is_empty() { String::new() } else { format!("; near: {}", near.join(", ")) };
        Failure::NotFound(format!("no pod {wanted} has a log{near}"))
    })
}

/// The one that is named; else the record's first, which is what the agent would show; else the only one.
fn container(names: &[String], state_dir: Option<&Path>, pod: &PodDir, args: &LogsArgs) -> Result<String, Failure> {
    let has = |name: &String| names.contains(name);
    if let Some(name) = &args.container {
        return match has(name) {
            true => Ok(name.clone()),
            false => Err(Failure::NotFound(format!(
                "pod {} has no log of a container {name}; it has: {}",
                pod.pod,
                names.join(", ")
            ))),
        };
    }
    let record = state_dir.and_then(|state_dir| record(state_dir, pod));
    let first = record.and_then(|record| {
        let document = record.document.read();
        let spec = document.pointer("/spec/template/spec").or_else(|| document.pointer("/spec"))?;
        spec.pointer("/containers/0/name")?.as_str().map(str::to_owned)
    });
    match (first.filter(has), names) {
        (Some(first), _) => Ok(first),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Failure::NotFound(format!("pod {} has no log (yet)", pod.pod))),
        (None, names) => Err(Failure::Usage(format!(
            "pod {} has several containers: choose one with -c, or --all-containers: {}",
            pod.pod,
            names.join(", ")
        ))),
    }
}

fn record(state_dir: &Path, pod: &PodDir) -> Option<Record> {
    records::read(&records::directory(state_dir).join(&pod.uid)).ok()
}

/// `below`: nothing, or a directory beneath `pods` with a slash.
fn pod_dirs(log_dir: &Path, below: &str) -> io::Result<Vec<PodDir>> {
    let of = |(name, changed): (String, SystemTime)| {
        let mut parts = name.splitn(3, '_').map(str::to_owned);
        let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
        Some(PodDir { name: format!("{below}{name}"), namespace, pod, uid, changed })
    };
    let dir = format!("pods/{below}");
    Ok(log_file::names(log_dir, dir.trim_end_matches('/'))?.into_iter().filter_map(of).collect())
}

fn texts(log_dir: &Path, below: &str) -> Vec<String> {
    let names = log_file::names(log_dir, below).unwrap_or_default();
    names.into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Word};

    fn args(words: &[&str]) -> LogsArgs {
        match Cli::parse_from(["daemonlet", "logs"].iter().chain(words)).word {
            Word::Logs(args) => args,
            other => panic!("{other:?}"),
        }
    }

    struct Logs(tempfile::TempDir);

    impl Logs {
        fn with(files: &[&str]) -> Logs {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join("pods").join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Logs(dir)
        }

        fn find(&self, words: &[&str]) -> Result<String, u8> {
            let found = find(self.0.path(), self.0.path(), &args(words));
            found.map(shown).map_err(|failure| failure.map_or(3, |failure| failure.code()))
        }

        fn deleted(&self, words: &[&str]) -> Result<String, u8> {
            let args = args(words);
            deleted(self.0.path(), &args, Which::asked(&args)).map(shown).map_err(|failure| failure.code())
        }
    }

    fn shown(places: Vec<Place>) -> String {
        let each = places.iter().map(|place| format!("{}/{}/{}", place.pod_dir, place.container, place.attempt));
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_log_is_found_by_its_names_alone() {
        let logs = Logs::with(&["ns_a-n1_u1/main/0.log", "ns_a-n1_u1/main/2.log", "kube_ds-bcdfg_u2/c/0.log"]);
        assert_eq!(logs.find(&["a-n1"]), Ok("ns_a-n1_u1/main/2".into()));
        assert_eq!(logs.find(&["a-n1", "--previous"]), Ok("ns_a-n1_u1/main/1".into()));
        assert_eq!(logs.find(&["ds/ds", "-n", "kube"]), Ok("kube_ds-bcdfg_u2/c/0".into()));
        assert_eq!(logs.find(&["ds/ds", "--previous"]), Err(4));
        assert_eq!(logs.find(&["ds/d"]), Err(4));
        assert_eq!(logs.find(&["ds/a"]), Err(4), "n1 is the node's name");
        assert_eq!(logs.find(&["a-n1", "-c", "other"]), Err(4));
        assert_eq!(logs.find(&["a-n1", "-n", "other"]), Err(4));
    }

    #[test]
    fn what_is_ambiguous_is_asked_for() {
        let logs = Logs::with(&["one_a_u1/c/0.log", "two_a_u2/c/0.log", "ns_b_u3/c/0.log", "ns_b_u3/d/0.log"]);
        assert_eq!(logs.find(&["a"]), Err(2));
        assert_eq!(logs.find(&["a", "-n", "two"]), Ok("two_a_u2/c/0".into()));
        assert_eq!(logs.find(&["b"]), Err(2));
        assert_eq!(logs.find(&["b", "-c", "d"]), Ok("ns_b_u3/d/0".into()));
        assert_eq!(logs.find(&["b", "--all-containers"]), Ok("ns_b_u3/c/0 ns_b_u3/d/0".into()));
    }

    #[test]
    fn a_deleted_pods_log_is_found_by_its_name_and_only_where_it_is_kept() {
        let logs = Logs::with(&[".deleted/ns_a_u1/c/0.log", ".deleted/ns_a_u1/c/1.log", "ns_b_u2/c/0.log"]);
        assert_eq!(logs.deleted(&["a"]), Ok(".deleted/ns_a_u1/c/1".into()));
        assert_eq!(logs.deleted(&["a", "--previous"]), Ok(".deleted/ns_a_u1/c/0".into()));
        assert_eq!(logs.deleted(&["b"]), Err(4));
        assert_eq!(logs.find(&["a"]), Err(4));
    }

    #[test]
    fn of_two_pods_of_one_name_the_younger_is_shown() {
        let logs = Logs::with(&["ns_a_old/c/0.log"]);
        let old = logs.0.path().join("pods/ns_a_old");
        let past = nix::sys::time::TimeSpec::new(1_000, 0);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &old,
            &past,
            &past,
            nix::sys::stat::UtimensatFlags::FollowSymlink,
        )
        .unwrap();
        fs::create_dir_all(logs.0.path().join("pods/ns_a_new/c")).unwrap();
        fs::write(logs.0.path().join("pods/ns_a_new/c/0.log"), "").unwrap();
        assert_eq!(logs.find(&["a"]), Ok("ns_a_new/c/0".into()));
    }

    #[test]
    fn without_a_log_directory_nothing_is_said_of_pods() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(find(&dir.path().join("none"), dir.path(), &args(&["a"])), Err(None)));
    }
}
