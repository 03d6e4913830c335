//! What a containerd that was killed half-way leaves, and does not clear away itself when it is back: bundles that no shim serves, and
//! tasks whose container's record is gone.
//!
//! Driven by the creation of a task that is refused by such a bundle, and by each new connection. Knows ids, not pods.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as RecordRuntime;
use containerd_client::services::v1::{
    Container as ContainerRecord, DeleteContainerRequest, ListContainersRequest, ListTasksRequest,
};
use containerd_client::tonic::{Code, Response, Status};
use prost_types::Any;

use super::client::{Client, QUICK, SLOW, bounded, found, is_unavailable};
use super::containers::{SPEC_TYPE, create_record};
use super::events::ID_LENGTH;
use super::{classes, labels, tasks};
use crate::{mountinfo, remove, threads};

/// A bundle that is younger may be one that containerd is just making: between its directory and its shim lie milliseconds.
const BUNDLE_IN_USE: Duration = Duration::from_secs(10);
/// containerd keeps bundles in a directory of this name in its state directory, wherever that is (1.6 to 2.1).
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// A containerd that is killed between making a task's bundle and its shim's first file in it fails to clear the bundle away when it is
/// back (its clean-up reads that file, `runtime`), and refuses the task for ever. Whether `refused` says so and the bundle is gone now.
///
/// The place is containerd's own word; that the bundle is ours its last two names say, our namespace and the container's id.
pub(super) async fn clear_bundle(client: &Client, id: &str, refused: &Status) -> bool {
    let Some(bundle) = left_bundle(refused.message(), client.namespace(), id) else { return false };
    // In a foreign PID namespace nobody can be seen who works there.
    let Some(containerd) = client.peer_pid() else { return false };
    let cleared = threads::in_turn(move || {
        if !is_left(&bundle, containerd) {
            return false;
        }
        match remove::tree(&bundle) {
            Ok(()) => {
                tracing::warn!(bundle = %bundle.display(), "cleared a task's bundle that a killed containerd had left");
                true
            }
            Err(error) => {
                tracing::warn!(bundle = %bundle.display(), %error, "a task's bundle that a killed containerd left stays");
                false
            }
        }
    });
    cleared.await.unwrap_or(false)
}

/// The directory that containerd could not make because it is there, if it is the bundle of this very task.
fn left_bundle(message: &str, namespace: &str, id: &str) -> Option<PathBuf> {
    // Nothing else before it: a runtime's errors name paths that others choose.
    let message = message.strip_prefix("failed to start shim: ").unwrap_or(message);
    let path = Path::new(message.strip_prefix("mkdir ")?.split_once(": file exists")?.0);
    let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    (plain && path.ends_with(Path::new(BUNDLES).join(namespace).join(id))).then(|| path.to_owned())
}

/// Whether nobody works in the bundle: a shim has it as its directory from its start on, and writes `runtime` before it mounts anything.
/// One that serves several containers works elsewhere, and writes the file at once.
fn is_left(bundle: &Path, containerd: i32) -> bool {
    let made = fs::symlink_metadata(bundle).and_then(|it| it.modified());
    // A time to come is one of before the clock was put right.
    let old = made.is_ok_and(|made| made.elapsed().map_or(true, |age| age >= BUNDLE_IN_USE));
    let mounts_below = |mounts: std::io::Result<Vec<mountinfo::Mounted>>| {
        mounts.map_or(true, |all| all.iter().any(|mounted| mounted.point.starts_with(bundle)))
    };
    old && !bundle.join("runtime").exists()
        && !mounts_below(mountinfo::read())
        && !mounts_below(mountinfo::read_of(containerd))
        && !is_anybodys_place(bundle)
}

/// Whether a process has this as its working directory.
fn is_anybodys_place(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.into_iter().any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == directory))
}

/// Deletes tasks of ours that have no container's record. No request about a task is answered without one, so each gets a record that
/// stands in for it meanwhile, and by which it is known if this is cut short.
///
/// One comes to be when an agent is killed while it has a task made: the next one finds no task yet and deletes the record, and a
/// containerd that is killed before it has given the task up finds the shim again (1.6).
pub(super) async fn delete_orphans(client: Client) {
    if let Err(status) = try_to_delete_orphans(&client).await {
        // With the next connection again.
        tracing::debug!(reason = status.message(), "not looked for tasks without a container");
    }
}

async fn try_to_delete_orphans(client: &Client) -> Result<(), Status> {
    // The tasks first: a record is there before its task and goes after it. A shim that does not answer takes two seconds.
    let request = ListTasksRequest::default();
    let tasks = bounded(SLOW, client.tasks().list(client.request(request))).await?.tasks;
    let mut orphans: BTreeSet<String> = tasks.into_iter().map(|task| task.id).filter(|id| is_ours(id)).collect();
    let mut stand_ins = BTreeSet::new();
    let mut containers = client.containers();
    let all = async {
        let mut stream = containers.list_stream(client.request(ListContainersRequest::default())).await?.into_inner();
        while let Some(message) = stream.message().await? {
            let Some(record) = message.container else { continue };
            orphans.remove(&record.id);
            if record.labels.contains_key(labels::STAND_IN) {
                stand_ins.insert(record.id);
            }
        }
        Ok(Response::new(()))
    };
    bounded(QUICK, all).await?;
    for id in orphans {
        match create_record(client, &stand_in(&id)).await {
            Ok(()) => {
                stand_ins.insert(id);
            }
            // It is being made anew, and that takes the task away.
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(status),
        }
    }
    for id in stand_ins {
        // One that cannot be deleted keeps none of the others.
        match delete_with_stand_in(client, &id).await {
            Ok(()) => tracing::info!(id, "deleted a task that had no container"),
            Err(status) if is_unavailable(&status) => return Err(status),
            Err(status) => tracing::warn!(id, reason = status.message(), "a task without a container stays"),
        }
    }
    Ok(())
}

async fn delete_with_stand_in(client: &Client, id: &str) -> Result<(), Status> {
    tasks::delete(client, id).await?;
    let request = DeleteContainerRequest { id: id.to_owned() };
    found(bounded(QUICK, client.containers().delete(client.request(request))).await).map(|_| ())
}

/// Ids as we make them; others in our namespace are somebody's who works there by hand.
fn is_ours(id: &str) -> bool {
    id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The least that containerd takes for a record. Its runtime matters not: the task is found by its id.
fn stand_in(id: &str) -> ContainerRecord {
    ContainerRecord {
        id: id.to_owned(),
        // containerd forgets labels without a value.
        labels: HashMap::from([(labels::STAND_IN.to_owned(), "true".to_owned())]),
        runtime: Some(RecordRuntime { name: classes::RUNC_SHIM.to_owned(), options: None }),
        spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: b"{}".to_vec() }),
        ..ContainerRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_known_again() {
        assert!(stand_in("id").labels.values().all(|value| !value.is_empty()), "containerd would drop the label");
    }

    #[test]
    fn only_the_bundle_of_this_very_task_is_one_that_was_left() {
        let said = |path: &str| left_bundle(&format!("mkdir {path}: file exists: unknown"), "ns", "id");
        let bundle = "/run/x/io.containerd.runtime.v2.task/ns/id";
        assert_eq!(said(bundle), Some(PathBuf::from(bundle)));
        let of_containerd = format!("failed to start shim: mkdir {bundle}: file exists: unknown");
        assert_eq!(left_bundle(&of_containerd, "ns", "id"), Some(PathBuf::from(bundle)));
        for other in [
            "/run/x/io.containerd.runtime.v2.task/ns/id2",
            "/run/x/io.containerd.runtime.v2.task/ns2/id",
            "/run/x/io.containerd.runtime.v2.task/ns/id/rootfs",
            "/run/../x/io.containerd.runtime.v2.task/ns/id",
            "x/io.containerd.runtime.v2.task/ns/id",
            "/run/x/ns/id",
            "",
        ] {
            assert_eq!(said(other), None, "{other}");
        }
        assert_eq!(left_bundle(&format!("mkdir {bundle}: no space left on device"), "ns", "id"), None);
        let of_the_runtime = format!("failed to create shim task: runc create failed: mkdir {bundle}: file exists");
        assert_eq!(left_bundle(&of_the_runtime, "ns", "id"), None);
    }
}
