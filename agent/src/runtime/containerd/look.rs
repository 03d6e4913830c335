//! A look at containerd for `doctor`, which has no agent to ask: its version, its process, and whether it can snapshot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::ListNamespacesRequest;
use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::tonic::Code;

use super::classes::OciRuntime;
use super::client::{Client, bounded};
use super::own_users;

/// A person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What containerd says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub version: String,
    /// None when it lives in a foreign PID namespace.
    pub pid: Option<i32>,
    /// Err says why the snapshotter cannot be used.
    pub snapshotter: Result<(), String>,
    /// Err says why pods cannot have users of their own.
    pub own_users: Result<(), String>,
    /// All namespaces that it has, sorted; Err says why it did not tell.
    pub namespaces: Result<Vec<String>, String>,
    /// The directory with images and snapshots; None where it did not tell.
    pub root: Option<PathBuf>,
}

/// `name`: the snapshotter's. Changes nothing. Err says why nobody answers. Must be called within a tokio runtime.
pub async fn look(socket: &Path, namespace: &str, name: &str) -> Result<Look, String> {
    let client = Client::new(socket, namespace).map_err(|why| why.to_string())?;
    let version = bounded(PATIENCE, client.version().version(client.request(()))).await;
    let version = version.map_err(|status| super::client::causes(&status))?.version;
    // Nothing has this key: a snapshotter that is there says so, one that is not is refused as an argument.
    let request = StatSnapshotRequest { snapshotter: name.to_owned(), key: "daemonlet-look-for-nothing".into() };
    let snapshotter = match bounded(PATIENCE, client.snapshots().stat(client.request(request))).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status.message().to_owned()),
    };
    let own_users = own_users::possible(&client, name, &OciRuntime::default()).await;
    let request = client.request(ListNamespacesRequest { filter: String::new() });
    let namespaces = bounded(PATIENCE, client.namespaces().list(request)).await.map(|answer| {
        let mut names: Vec<String> = answer.namespaces.into_iter().map(|it| it.name).collect();
        names.sort();
        names
    });
    let namespaces = namespaces.map_err(|status| status.message().to_owned());
    // The content store exports its own directory, which lies in the root.
    let request = client.request(PluginsRequest { filters: vec!["type==io.containerd.content.v1".to_owned()] });
    let plugins = bounded(PATIENCE, client.introspection().plugins(request)).await.map(|answer| answer.plugins);
    let export =
        plugins.ok().and_then(|plugins| plugins.into_iter().find_map(|plugin| plugin.exports.get("root").cloned()));
    let root = export.and_then(|store| Path::new(&store).parent().map(Path::to_owned));
    Ok(Look { version, pid: client.peer_pid(), snapshotter, own_users, namespaces, root })
}
