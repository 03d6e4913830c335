//! Where a container's log lies when no agent can say: found by the names that the log directory has for it.
//!
//! Driven by `logs`. The log keeper, which runs without an agent, knows the log directory; else the configuration does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keeper::client::Keeper;
use keeper::protocol;

use super::Failure;
use super::find::nearest;
use super::logs::{LogsArgs, Run};
use crate::records;

/// What a DaemonSet's pod has behind the set's name: a dash and so many letters.
const SUFFIX: usize = 5;

/// A pod's directory: `<ns>_<name>_<uid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PodDir {
    name: String,
    namespace: String,
    pod: String,
    uid: String,
    changed: SystemTime,
}

/// A log that was found, and the name of the pod's directory.
#[derive(Debug)]
pub struct Place {
    pub pod_dir: String,
    pub run: Run,
}

/// The log directory: the running keeper's, else the configured one.
pub fn log_dir(run_dir: &Path, configured: &Path) -> PathBuf {
    // Asked first because the client waits for a keeper that is being restarted, and a person waits for us.
    let answers = std::os::unix::net::UnixStream::connect(run_dir.join(protocol::SOCKET)).is_ok();
    let told = answers.then(|| Keeper::new(run_dir).status().ok()).flatten().map(|status| status.logs);
    told.filter(|dir| !dir.is_empty()).map_or_else(|| configured.to_owned(), PathBuf::from)
}

/// The run that `args` name. Err(None): there is no log directory, or nobody may read it.
pub fn find(log_dir: &Path, state_dir: &Path, args: &LogsArgs) -> Result<Place, Option<Failure>> {
    let dirs = pod_dirs(log_dir).map_err(|_| None)?;
    place(log_dir, state_dir, &dirs, args).map_err(Some)
}

fn place(log_dir: &Path, state_dir: &Path, dirs: &[PodDir], args: &LogsArgs) -> Result<Place, Failure> {
    let pod = pod(dirs, args)?;
    let path = log_dir.join("pods").join(&pod.name);
    let container = container(&path, state_dir, pod, args)?;
    let attempts = attempts(&path.join(&container));
    let Some(newest) = attempts.iter().max().copied() else {
        return Err(Failure::NotFound(format!("container {container} of {} has no log (yet)", pod.pod)));
    };
    let attempt = match (args.previous, newest.checked_sub(1)) {
        (false, _) => newest,
        (true, Some(before)) => before,
        (true, None) => {
            return Err(Failure::NotFound(format!("container {container} of {} has not been restarted", pod.pod)));
        }
    };
    Ok(Place { pod_dir: pod.name.clone(), run: Run { uid: pod.uid.clone(), container, attempt } })
}

/// Of an old pod and its successor the one whose directory is younger.
fn pod<'a>(dirs: &'a [PodDir], args: &LogsArgs) -> Result<&'a PodDir, Failure> {
    let wanted = args.name.as_str();
    let of_set = |pod: &str, set: &str| {
        pod.strip_prefix(set)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.len() == SUFFIX && !rest.contains('-'))
    };
    let fits = |dir: &&PodDir| {
        let name = match wanted.split_once('/') {
            Some(("ds" | "daemonset" | "daemonsets", set)) => of_set(&dir.pod, set),
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
fn container(path: &Path, state_dir: &Path, pod: &PodDir, args: &LogsArgs) -> Result<String, Failure> {
    let mut names = names(path).unwrap_or_default();
    // The keeper's mark is no container.
    names.retain(|name| !name.starts_with('.'));
    names.sort();
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
    let record = records::read(&records::directory(state_dir).join(&pod.uid)).ok();
    let first = record.and_then(|record| {
        let document = record.document.read();
        let spec = document.pointer("/spec/template/spec").or_else(|| document.pointer("/spec"))?;
        spec.pointer("/containers/0/name")?.as_str().map(str::to_owned)
    });
    match (first.filter(has), names.as_slice()) {
        (Some(first), _) => Ok(first),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Failure::NotFound(format!("pod {} has no log (yet)", pod.pod))),
        (None, names) => Err(Failure::Usage(format!(
            "pod {} has several containers: choose one with -c: {}",
            pod.pod,
            names.join(", ")
        ))),
    }
}

fn pod_dirs(log_dir: &Path) -> io::Result<Vec<PodDir>> {
    let dir = log_dir.join("pods");
    let of = |name: String| {
        let changed =
            fs::symlink_metadata(dir.join(&name)).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut parts = name.splitn(3, '_').map(str::to_owned);
        let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
        Some(PodDir { name, namespace, pod, uid, changed })
    };
    Ok(names(&dir)?.into_iter().filter_map(of).collect())
}

fn attempts(container_dir: &Path) -> Vec<u64> {
    let names = names(container_dir).unwrap_or_default();
    names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
}

/// Names only: what they lead to is opened by [`super::log_file`] alone, without links.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    Ok(fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
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
            let place = found.map_err(|failure| failure.map_or(3, |failure| failure.code()))?;
            Ok(format!("{}/{}/{}", place.pod_dir, place.run.container, place.run.attempt))
        }
    }

    #[test]
    fn a_log_is_found_by_its_names_alone() {
        let logs = Logs::with(&["ns_a-n1_u1/main/0.log", "ns_a-n1_u1/main/2.log", "kube_ds-abcde_u2/c/0.log"]);
        assert_eq!(logs.find(&["a-n1"]), Ok("ns_a-n1_u1/main/2".into()));
        assert_eq!(logs.find(&["a-n1", "--previous"]), Ok("ns_a-n1_u1/main/1".into()));
        assert_eq!(logs.find(&["ds/ds", "-n", "kube"]), Ok("kube_ds-abcde_u2/c/0".into()));
        assert_eq!(logs.find(&["ds/ds", "--previous"]), Err(4));
        assert_eq!(logs.find(&["ds/d"]), Err(4));
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
