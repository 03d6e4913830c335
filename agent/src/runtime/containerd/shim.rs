//! The end of a shim that does not answer: found in /proc by what containerd started it with, looked at again through a
//! descriptor that no other process can take over, killed, and with it what still lives in its containers' cgroups.
//!
//! Driven by the Runtime verb `end_shim`, which the plan asks for only of pods that are to go. containerd notices the end
//! by itself and cleans up; the ordinary deletion follows.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::ListContainersRequest;
use containerd_client::tonic::{Response, Status};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::client::{Client, QUICK, bounded};
use super::containers::{Asked, ask};
use super::{Containerd, cgroup, labels};
use crate::readable;
use crate::seams::{PodRuns, Runtime as _, ShimEnd, StepError};

/// How long a killed shim may take to be gone: only one in uninterruptible sleep takes longer.
const GONE_WAIT: Duration = Duration::from_secs(10);
/// containerd's shims are called so, whatever the runtime.
const PROGRAM_PREFIX: &str = "containerd-shim-";
const REASON: &str = "KillPodSandboxError";

/// A process that serves containers of the pod.
struct Shim {
    pid: i32,
    /// A letter of proc_pid_stat(5).
    state: char,
    descriptor: OwnedFd,
}

impl Containerd {
    pub(super) async fn end_silent_shim(&self, pod: &PodRuns) -> Result<ShimEnd, StepError> {
        let refused = |what: &str, status: &Status| {
            self.client().step_error(REASON, &format!("{what} of pod {}", pod.uid), status)
        };
        let containers =
            of_pod(self.client(), pod).await.map_err(|status| refused("listing the containers", &status))?;
        let ids: Vec<String> = containers.iter().map(|(id, _)| id.clone()).collect();
        let asked = ask(self.client(), &ids).await.map_err(|status| refused("asking for the tasks", &status))?;
        self.late.note(&asked);
        if !asked.values().any(|it| *it == Asked::Unanswered) {
            return Ok(ShimEnd::Answers);
        }
        // A containerd that is itself stopped knows of no shim whether it answers.
        self.version().await?;
        let shims = self.shims_of(pod.clone()).await?;
        if shims.is_empty() {
            return Err(StepError::new(
                REASON,
                format!(
                    "the shim of pod {} does not answer and no process of it is found: it should be a {PROGRAM_PREFIX}* with \
                     -namespace {} and -address {}; end what is left of the pod by hand",
                    pod.uid,
                    self.client().namespace(),
                    self.client().socket().display()
                ),
            ));
        }
        let mut found = Vec::new();
        for shim in shims {
            found.push(format!("{} ({})", shim.pid, in_words(shim.state)));
            shim.kill().await?;
        }
        for (id, cgroups_path) in containers {
            if let Some(path) = cgroups_path.filter(|path| cgroup::is_of(path, &id)) {
                let left = tokio::task::spawn_blocking(move || cgroup::kill(&path, GONE_WAIT)).await;
                if !left.unwrap_or(true) {
                    let message = format!("processes of container {id} were killed and have not ended yet");
                    return Err(StepError::new(REASON, message));
                }
            }
        }
        Ok(ShimEnd::Ended { found: format!("shim {}", found.join(", ")) })
    }

    async fn shims_of(&self, pod: PodRuns) -> Result<Vec<Shim>, StepError> {
        let (namespace, socket) = (self.client().namespace().to_owned(), self.client().socket().to_owned());
        let search = tokio::task::spawn_blocking(move || {
            let mut ids = None;
            let mut is_ours = |id: &str| ids.get_or_insert_with(|| pod.container_ids()).contains(id);
            let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
            pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .filter_map(|pid| shim_at(pid, &namespace, &socket, &mut is_ours))
                .collect()
        });
        search.await.map_err(|ended| StepError::new(REASON, format!("looking for the shim: {ended}")))
    }
}

/// Ids and cgroups of the pod's containers.
async fn of_pod(client: &Client, pod: &PodRuns) -> Result<Vec<(String, Option<String>)>, Status> {
    let request = ListContainersRequest { filters: vec![labels::filter_of_pod(&pod.uid)] };
    let mut containers = client.containers();
    let all = async {
        let mut stream = containers.list_stream(client.request(request)).await?.into_inner();
        let mut of_pod = Vec::new();
        while let Some(message) = stream.message().await? {
            let Some(mut record) = message.container else { continue };
            if labels::identity(&record.labels).is_some_and(|(_, run)| run.uid == pod.uid) {
                of_pod.push((record.id, record.labels.remove(labels::CGROUP)));
            }
        }
        Ok(Response::new(of_pod))
    };
    bounded(QUICK, all).await
}

/// The process, when it serves containers of ours as a shim: looked at before it is held and again afterwards, when its
/// number can have become nobody else's.
fn shim_at(pid: i32, namespace: &str, socket: &Path, is_ours: &mut impl FnMut(&str) -> bool) -> Option<Shim> {
    let mut serves = || {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let named = program.file_name()?.to_str()?.starts_with(PROGRAM_PREFIX);
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let id = named.then(|| served(&command, namespace, socket)).flatten()?;
        is_ours(&id).then_some(())
    };
    serves()?;
    let descriptor = pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    serves()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
    Some(Shim { pid, state, descriptor })
}

/// The id of the container for which containerd started this shim. None for the commands `start` and `delete` of the same
/// program, and for a shim of another namespace or another containerd.
fn served(command: &[u8], namespace: &str, socket: &Path) -> Option<String> {
    let words: Vec<&str> = command.split(|byte| *byte == 0).map(|word| str::from_utf8(word).unwrap_or("")).collect();
    // The last word of a command is its verb; after `-debug`, which has no value, it would pass for one.
    if matches!(words.iter().rfind(|word| !word.is_empty()), Some(&("start" | "delete"))) {
        return None;
    }
    let mut flags = std::collections::BTreeMap::new();
    let mut rest = words.get(1..)?.iter().filter(|word| !word.is_empty()).peekable();
    while let Some(word) = rest.next() {
        let flag = word.strip_prefix('-')?.trim_start_matches('-');
        let value = rest.next_if(|next| !next.starts_with('-')).copied().unwrap_or("");
        if flags.insert(flag, value).is_some() {
            return None;
        }
    }
    let address = Path::new(flags.get("address")?);
    let same = address == socket
        || fs::canonicalize(address).is_ok_and(|place| fs::canonicalize(socket).is_ok_and(|ours| ours == place));
    (flags.get("namespace") == Some(&namespace) && same).then(|| flags.get("id").map(|id| (*id).to_owned())).flatten()
}

impl Shim {
    async fn kill(self) -> Result<(), StepError> {
        let Shim { pid, descriptor, .. } = self;
        let failed = |why: String| StepError::new(REASON, format!("killing the shim with pid {pid}: {why}"));
        match pidfd_send_signal(&descriptor, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(failed(errno.to_string())),
        }
        let descriptor =
            readable::watch(descriptor).map_err(|error| failed(format!("its end cannot be waited for: {error}")))?;
        match tokio::time::timeout(GONE_WAIT, descriptor.readable()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(failed(format!("it has not ended within {} s", GONE_WAIT.as_secs()))),
        }
    }
}

impl PodRuns {
    /// Ids of all containers that the pod has had or is about to have: a shim bears that of the first it was started for.
    fn container_ids(&self) -> BTreeSet<String> {
        let runs = self.newest.iter().flat_map(|(container, newest)| {
            (0..=*newest).map(|attempt| {
                let (uid, container) = (self.uid.clone(), container.clone());
                pod::name::RunKey { uid, container, attempt }.container_id()
            })
        });
        runs.collect()
    }
}

fn in_words(state: char) -> String {
    match state {
        'T' | 't' => "stopped".into(),
        'D' => "in uninterruptible sleep".into(),
        'R' => "running".into(),
        'S' => "sleeping".into(),
        other => format!("in state {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id_of(words: &[&str]) -> Option<String> {
        let command = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<_>>();
        served(&command, "daemonlet", Path::new("/run/c.sock"))
    }

    #[test]
    fn only_a_serving_shim_of_our_namespace_and_containerd_is_one() {
        let shim = "/usr/bin/containerd-shim-runc-v2";
        let ours = [shim, "-namespace", "daemonlet", "-id", "abc", "-address", "/run/c.sock"];
        assert_eq!(id_of(&ours).as_deref(), Some("abc"));
        assert_eq!(id_of(&[&ours[..], &["-debug"]].concat()).as_deref(), Some("abc"));
        for (words, why) in [
            (vec![shim, "-namespace", "daemonlet2", "-id", "abc", "-address", "/run/c.sock"], "another namespace"),
            (vec![shim, "-namespace", "daemonlet", "-id", "abc", "-address", "/run/d.sock"], "another containerd"),
            (vec![shim, "-namespace", "daemonlet", "-address", "/run/c.sock"], "no id"),
            ([&ours[..], &["delete"]].concat(), "a command"),
            ([&ours[..], &["-bundle", "/b", "start"]].concat(), "a command"),
            ([&ours[..], &["-debug", "delete"]].concat(), "a command of a containerd that debugs"),
            ([&ours[..], &["-namespace", "daemonlet"]].concat(), "said twice"),
            (vec!["sh", "-c", "containerd-shim-runc-v2 -namespace daemonlet"], "other words"),
            (vec![], "a kernel thread"),
        ] {
            assert_eq!(id_of(&words), None, "{why}");
        }
    }

    #[test]
    fn earlier_attempts_of_every_container_are_the_pods() {
        let newest = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 0)]);
        let ids = PodRuns { uid: pod::name::Uid("u".into()), newest }.container_ids();
        assert_eq!(ids.len(), 4);
        let run = pod::name::RunKey { uid: pod::name::Uid("u".into()), container: "a".into(), attempt: 0 };
        assert!(ids.contains(&run.container_id()));
    }
}
