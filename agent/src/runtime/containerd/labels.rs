//! The labels of our containers: written at create, read back at observe. What they say is remembered nowhere else.
//!
//! Pure. containerd allows 4,096 bytes for a label's key and value together.

use std::collections::{BTreeMap, HashMap};

use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::RunUser;

use super::image_facts::ImageFacts;
use super::oci::Adapted;
use crate::seams::CreateRun;

pub const WORKLOAD: &str = "daemonlet.dev/workload";
pub const UID: &str = "daemonlet.dev/uid";
pub const POD: &str = "daemonlet.dev/pod";
pub const CONTAINER: &str = "daemonlet.dev/container";
pub const ATTEMPT: &str = "daemonlet.dev/attempt";
pub const IMAGE_ID: &str = "daemonlet.dev/image-id";
/// The image's STOPSIGNAL as written; absent where it has none.
pub const STOP_SIGNAL: &str = "daemonlet.dev/stop-signal";
/// `linux.cgroupsPath` of the container.
pub const CGROUP: &str = "daemonlet.dev/cgroup";
/// What this machine could not give as asked, one sentence each, joined by `; `.
pub const ADAPTED: &str = "daemonlet.dev/adapted";

/// The image as the pod asks for it; only of the control endpoint's pods, where it may become another one.
pub const IMAGE: &str = "daemonlet.dev/image";

/// Why the image is not as fresh as its pull policy asks; absent where it is.
pub const NOT_REFRESHED: &str = "daemonlet.dev/image-not-refreshed";

/// Whom its first process begins as ([`RunUser`]).
pub const USER: &str = "daemonlet.dev/user";

/// A record that was made only so that the task of its id can be deleted.
pub const STAND_IN: &str = "daemonlet.dev/stand-in";

/// containerd's limit for key and value of one label together, in bytes.
const LABEL_BYTES_MAX: usize = 4096;

/// Labels of a container that is created.
pub fn of_run(
    run: &CreateRun<'_>,
    image: &ImageFacts,
    adapted: &[Adapted],
    user: Option<&RunUser>,
) -> HashMap<String, String> {
    let mut labels = BTreeMap::from([
        (WORKLOAD, run.workload.to_string()),
        (UID, run.run.uid.to_string()),
        (POD, run.record.name.clone()),
        (CONTAINER, run.run.container.clone()),
        (ATTEMPT, run.run.attempt.to_string()),
        (IMAGE_ID, image.image_id()),
        (CGROUP, run.sandbox.cgroup.cgroups_path(&run.run.container_id())),
        // The names that node tools of Kubernetes look for.
        ("io.kubernetes.pod.name", run.record.name.clone()),
        ("io.kubernetes.pod.namespace", run.workload.namespace.clone()),
        ("io.kubernetes.pod.uid", run.run.uid.to_string()),
        ("io.kubernetes.container.name", run.run.container.clone()),
    ]);
    if let Some(signal) = run.container.hooks.stop_signal.as_ref().or(image.config.stop_signal.as_ref()) {
        labels.insert(STOP_SIGNAL, signal.clone());
    }
    if !run.not_refreshed.is_empty() {
        labels.insert(NOT_REFRESHED, run.not_refreshed.to_owned());
    }
    let asked = run.image_asked();
    if !asked.is_empty() {
        labels.insert(IMAGE, asked.to_owned());
    }
    // Thousands of groups are not told: half of them would be wrong.
    if let Some(user) = user.map(ToString::to_string).filter(|text| text.len() <= LABEL_BYTES_MAX - USER.len()) {
        labels.insert(USER, user);
    }
    if !adapted.is_empty() {
        let sentences: Vec<String> = adapted.iter().map(ToString::to_string).collect();
        labels.insert(ADAPTED, sentences.join("; "));
    }
    labels.into_iter().map(|(key, value)| (key.to_owned(), cut(value, LABEL_BYTES_MAX - key.len()))).collect()
}

/// Whom the container's first process began as.
pub fn user(labels: &HashMap<String, String>) -> Option<Box<RunUser>> {
    RunUser::parse(labels.get(USER)?).map(Box::new)
}

/// Whose container it is. None: not one of ours, or labels that we did not write.
pub fn identity(labels: &HashMap<String, String>) -> Option<(WorkloadKey, RunKey)> {
    let run = RunKey {
        uid: Uid(labels.get(UID)?.clone()),
        container: labels.get(CONTAINER)?.clone(),
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
    };
    Some((parse_workload(labels.get(WORKLOAD)?)?, run))
}

/// containerd's filter for all our containers, or those of one workload.
pub fn filter(workload: Option<&WorkloadKey>) -> String {
    match workload {
        // Namespaces and names are DNS words: nothing in them needs escaping within the quotes.
        Some(key) => format!("labels.\"{WORKLOAD}\"==\"{key}\""),
        None => format!("labels.\"{UID}\""),
    }
}

/// containerd's filter for the containers of one pod. A uid is hexadecimal digits and dashes.
pub fn filter_of_pod(uid: &Uid) -> String {
    format!("labels.\"{UID}\"==\"{uid}\"")
}

/// The inverse of [`WorkloadKey`]'s Display.
fn parse_workload(text: &str) -> Option<WorkloadKey> {
    let mut parts = text.splitn(3, '/');
    let kind = match parts.next()? {
        "pod" => WorkloadKind::Pod,
        "ds" => WorkloadKind::DaemonSet,
        "control" => WorkloadKind::Control,
        _ => return None,
    };
    Some(WorkloadKey { kind, namespace: parts.next()?.to_owned(), name: parts.next()?.to_owned() })
}

/// At most `max` bytes, cut between characters.
fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_reads_back_as_it_was_written() {
        for kind in [WorkloadKind::Pod, WorkloadKind::DaemonSet, WorkloadKind::Control] {
            let key = WorkloadKey { namespace: "kube-system".into(), kind, name: "a.b-c".into() };
            assert_eq!(parse_workload(&key.to_string()), Some(key));
        }
        for foreign in ["", "pod", "pod/a", "job/a/b"] {
            assert_eq!(parse_workload(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_user_reads_back_as_it_was_written() {
        for groups in [vec![], vec![5], vec![5, 7]] {
            let who = RunUser { uid: 1, gid: 2, groups };
            assert_eq!(RunUser::parse(&who.to_string()), Some(who));
        }
        for foreign in ["", "1", "1:2", "1:x:3", "1:2:3,x"] {
            assert_eq!(RunUser::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn labels_of_others_are_not_ours() {
        let some = HashMap::from([(UID.to_owned(), "u".to_owned()), (ATTEMPT.to_owned(), "x".to_owned())]);
        assert_eq!(identity(&some), None);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(cut("aé".repeat(3), 5), "aéa");
    }
}
