//! The connection to containerd: one lazily connected HTTP/2 channel, our namespace on every request, a deadline on
//! every call, and the one place that tells "containerd is not there" from "containerd said no".
//!
//! Used by everything under `runtime::containerd`; knows nothing of pods.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::tonic::metadata::{Ascii, MetadataValue};
use containerd_client::tonic::transport::{Channel, Endpoint, Uri};
use containerd_client::tonic::{Code, Request, Response, Status};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::seams::StepError;

/// For calls that only look something up or change one record: milliseconds when containerd is well, and more than
/// any fsync on a slow disk.
pub const QUICK: Duration = Duration::from_secs(10);
/// For the call that only asks whether containerd answers: it takes part of a millisecond and touches no disk, and who
/// watches /readyz is to learn of a stopped containerd within seconds.
pub const PROBE: Duration = Duration::from_secs(3);
/// For calls that start processes or mount (Tasks.Create, Start, Delete): runc on a machine that is booting under
/// load has been seen to need tens of seconds.
pub const SLOW: Duration = Duration::from_secs(120);
/// How long the socket may take to accept: it is local, so a full backlog is the only reason to wait.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest message taken from containerd: its own limit for what it sends.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Metadata key in which containerd expects the namespace.
const NAMESPACE_KEY: &str = "containerd-namespace";

/// A connection that may be up or down. Cheap to clone; all clones share one HTTP/2 channel.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    socket: Arc<Path>,
    /// containerd's process as seen at the newest connection; 0 before the first.
    peer: Arc<AtomicI32>,
    connections: Arc<AtomicU64>,
}

/// The namespace is no containerd identifier.
#[derive(Debug, thiserror::Error)]
#[error("containerd namespace {0:?} is not valid: letters, digits, and . _ - between them, at most 76 of them")]
pub struct NamespaceInvalid(pub String);

impl Client {
    /// Does not connect: the first call does, and every call after a loss. Must be called within a tokio runtime.
    pub fn new(socket: &Path, namespace: &str) -> Result<Client, NamespaceInvalid> {
        let invalid = || NamespaceInvalid(namespace.to_owned());
        if !is_identifier(namespace) {
            return Err(invalid());
        }
        let path: PathBuf = socket.to_owned();
        let peer = Arc::new(AtomicI32::new(0));
        let connected = Arc::clone(&peer);
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        let connector = tower::service_fn(move |_: Uri| {
            let (path, connected, counted) = (path.clone(), Arc::clone(&connected), Arc::clone(&counted));
            async move {
                let stream = UnixStream::connect(&path).await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid()).unwrap_or(0);
                connected.store(pid, Ordering::Relaxed);
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        // The address is never looked at: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://containerd.invalid").connect_timeout(CONNECT);
        Ok(Client {
            channel: endpoint.connect_with_connector_lazy(connector),
            namespace: namespace.parse().map_err(|_| invalid())?,
            socket: socket.into(),
            peer,
            connections,
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The containerd namespace that every request carries.
    pub fn namespace(&self) -> &str {
        self.namespace.to_str().expect("it was made from a str that passed is_identifier")
    }

    /// containerd's process id, once a connection stood; None before, or when it lives in a foreign PID namespace.
    pub fn peer_pid(&self) -> Option<i32> {
        Some(self.peer.load(Ordering::Relaxed)).filter(|pid| *pid > 0)
    }

    /// How many connections there have been: when it has grown, another containerd may answer.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// `message` as a request in our namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE_KEY, self.namespace.clone());
        request
    }

    /// `message` as a request in another namespace, to look only.
    pub fn request_in<T>(&self, namespace: &str, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let namespace = namespace.parse().map_err(|_| Status::invalid_argument(format!("namespace {namespace:?}")))?;
        request.metadata_mut().insert(NAMESPACE_KEY, namespace);
        Ok(request)
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    pub fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }

    pub fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    pub fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    /// The error of a step that failed at `what` (a few words with the id in them).
    pub fn step_error(&self, reason: &'static str, what: &str, status: &Status) -> StepError {
        if is_unavailable(status) {
            let message = format!(
                "{what}: containerd does not answer at {}: {}; it is asked again when it is back",
                self.socket.display(),
                causes(status)
            );
            return StepError::unavailable(reason, message);
        }
        StepError::new(reason, format!("{what}: {}", shorten(status.message())))
    }
}

/// Waits for one unary call, at most `deadline`; past it the call is cancelled and counts as DeadlineExceeded.
///
/// The call lies on the heap while it is under way: the future of a gRPC call takes kilobytes, and everything that may
/// make one would be that large all the time, for every pod.
pub fn bounded<'a, T: 'a>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>> + Send + 'a,
) -> impl Future<Output = Result<T, Status>> + Send + 'a {
    let call: Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>> = Box::pin(call);
    async move {
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", deadline.as_secs()))),
        }
    }
}

/// `NotFound` as None.
pub fn found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Whether containerd could not be reached, as opposed to having refused.
///
/// A status that came over the wire has no source; one that the transport made has the transport's error.
/// A deadline that passed is no such case: it may be this one container, and its retries must slow down.
pub fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// The messages of a status and of what caused it, without repetitions.
pub fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = error.source();
    }
    text
}

/// What of a refusal matters to a reader: without the wrapping of shim and runc, without line ends.
pub fn shorten(message: &str) -> String {
    const WRAPPINGS: [&str; 8] = [
        "failed to create shim task: ",
        "failed to create task: ",
        "failed to start shim: ",
        "OCI runtime create failed: ",
        "OCI runtime start failed: ",
        "runc create failed: ",
        "runc run failed: ",
        "unable to start container process: ",
    ];
    let mut text = message.trim();
    'strip: loop {
        for wrapping in WRAPPINGS {
            if let Some(rest) = text.strip_prefix(wrapping) {
                text = rest;
                continue 'strip;
            }
        }
        break;
    }
    let text = text.trim_end_matches(": unknown").replace(['\n', '\r'], " ");
    if text.contains("can't get final child's PID from pipe: EOF") {
        return format!("{text} (an oom_score_adj that may not be set is known to say this: look at CAP_SYS_RESOURCE)");
    }
    text
}

/// containerd's identifiers: words of letters and digits joined by single `.`, `_` or `-`.
fn is_identifier(text: &str) -> bool {
    text.len() <= 76
        && text
            .split(['.', '_', '-'])
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_listening_is_unavailable_and_names_the_socket() {
        let client = Client::new(Path::new("/nonexistent/c.sock"), "daemonlet").expect("valid");
        let status = bounded(QUICK, client.version().version(client.request(()))).await.expect_err("nobody listens");
        let error = client.step_error("X", "asking for the version", &status);
        assert!(error.unavailable, "{status:?}");
        assert!(error.message.contains("/nonexistent/c.sock"), "{}", error.message);
        assert!(error.message.contains("No such file"), "{}", error.message);
    }

    #[tokio::test]
    async fn a_refusal_or_a_deadline_is_not_unavailable() {
        assert!(!is_unavailable(&Status::unknown("no")));
        let late = bounded(Duration::from_millis(1), std::future::pending::<Result<Response<()>, Status>>()).await;
        assert!(!is_unavailable(&late.expect_err("never answers")));
    }

    #[test]
    fn runc_errors_lose_their_wrapping() {
        let wrapped = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                       container process: exec: \"/x\": stat /x: no such file or directory: unknown";
        assert_eq!(shorten(wrapped), "exec: \"/x\": stat /x: no such file or directory");
    }

    #[test]
    fn namespaces_are_identifiers() {
        for (name, valid) in [("daemonlet", true), ("a.b-c_1", true), ("", false), ("a b", false), ("-a", false)] {
            assert_eq!(is_identifier(name), valid, "{name}");
        }
    }
}
