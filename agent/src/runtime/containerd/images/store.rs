//! The calls to containerd's content store, image store and leases that images need, one function each.
//!
//! Driven by `import` and `unpack`. Knows nothing of archives or pods. Blobs go over in pieces and one at a time is on
//! its way, so that an image of any size costs a few pieces of memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::time::Duration;

use containerd_client::services::v1::{
    AbortRequest, AddResourceRequest, CreateImageRequest, CreateRequest, DeleteContentRequest, DeleteRequest,
    GetImageRequest, Image, Info, InfoRequest, ListImagesRequest, ListRequest, ReadContentRequest, Resource,
    UpdateImageRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use containerd_client::tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use containerd_client::tonic::metadata::{Ascii, MetadataValue};
use containerd_client::tonic::{Code, Request, Status};
use prost_types::FieldMask;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::digest::Digest;
use super::documents::MAX_DOCUMENT;
use crate::runtime::containerd::client::{Client, QUICK, SLOW, bounded, found};

/// A piece of a blob on its way to containerd, whose largest message is 16 MiB. Few and small is what bounds our memory.
const PIECE: usize = 256 << 10;
/// containerd may take so long for one piece: then its disk is stuck, and the import fails instead of hanging.
pub(super) const STALLED: Duration = Duration::from_secs(120);
/// And so long to commit a blob, which it syncs to disk, or to remove what nothing refers to.
pub(super) const COMMIT: Duration = Duration::from_secs(600);
/// Our leases' names begin so.
const LEASE_PREFIX: &str = "daemonlet-images-";
/// And those of pulls, which outlive the agent that took them: what has arrived is to be found again.
const PULL_PREFIX: &str = "daemonlet-pull-";
/// The image that a pull's lease is for.
const PULL_LABEL: &str = "daemonlet.dev/pull";
/// After this a lease that nobody gave back (we were killed) lets go. Longer than any import.
pub(super) const LEASE_LIFE: Duration = Duration::from_secs(24 * 3600);
const LEASE_KEY: &str = "containerd-lease";
/// Waits between tries to give a lease back, doubled up to the longest: ten minutes in all, as an upgrade of containerd may take.
const GIVE_BACK_FIRST: Duration = Duration::from_secs(1);
const GIVE_BACK_MAX: Duration = Duration::from_secs(60);
const GIVE_BACK_TRIES: u32 = 15;

/// A lease in containerd: what is written under it stays until it is given back.
#[derive(Debug, Clone)]
pub struct Lease {
    id: String,
    header: MetadataValue<Ascii>,
}

/// How writing a blob failed.
#[derive(Debug)]
pub enum WriteError {
    /// The bytes could not be had.
    Source(io::Error),
    /// Fewer or other bytes than announced came; nothing was committed.
    Size {
        actual: u64,
    },
    Digest {
        actual: Digest,
    },
    Containerd(Status),
}

impl Lease {
    /// A lease of our own that ends by itself after a day.
    pub async fn take(client: &Client) -> Result<Lease, Status> {
        let lease = Lease::named(LEASE_PREFIX);
        lease.create(client, HashMap::new(), LEASE_LIFE).await?;
        Ok(lease)
    }

    /// A lease for a pull, which containerd does not know yet.
    pub fn of_pull() -> Lease {
        Lease::named(PULL_PREFIX)
    }

    /// Takes it for the pull of this image. It stays when this process dies, and ends by itself after `life`.
    pub async fn take_for_pull(&self, client: &Client, image: &str, life: Duration) -> Result<(), Status> {
        self.create(client, HashMap::from([(PULL_LABEL.to_owned(), image.to_owned())]), life).await
    }

    /// Gives back every lease that was taken for pulls of this image, by whichever process, but for those whose ids `others`
    /// names when it is asked: after the leases were listed, so that one taken meanwhile is not met. `sync`: what they held
    /// alone is gone from the disk afterwards.
    pub async fn give_back_of(
        client: &Client,
        image: &str,
        others: impl FnOnce() -> BTreeSet<String>,
        sync: bool,
    ) -> Result<(), Status> {
        let list = bounded(QUICK, client.leases().list(client.request(ListRequest { filters: Vec::new() }))).await?;
        let of_image = |labels: &HashMap<String, String>| labels.get(PULL_LABEL).is_some_and(|label| label == image);
        let others = others();
        let ours = |id: &str| id.starts_with(PULL_PREFIX) && !others.contains(id);
        for left in list.leases.into_iter().filter(|l| ours(&l.id) && of_image(&l.labels)) {
            let request = client.request(DeleteRequest { id: left.id, sync });
            found(bounded(SLOW, client.leases().delete(request)).await)?;
        }
        Ok(())
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Leases of pulls, with the image that each is for.
    pub async fn of_pulls(client: &Client) -> Result<Vec<(String, String)>, Status> {
        let list = bounded(QUICK, client.leases().list(client.request(ListRequest { filters: Vec::new() }))).await?;
        let of_pull = list.leases.into_iter().filter(|lease| lease.id.starts_with(PULL_PREFIX));
        Ok(of_pull.filter_map(|mut lease| Some((lease.id, lease.labels.remove(PULL_LABEL)?))).collect())
    }

    /// Gives back the lease of this id.
    pub async fn give_back_id(client: &Client, id: String) -> Result<(), Status> {
        let request = client.request(DeleteRequest { id, sync: false });
        found(bounded(QUICK, client.leases().delete(request)).await).map(drop)
    }

    fn named(prefix: &str) -> Lease {
        let id = format!("{prefix}{}", uuid::Uuid::new_v4());
        let header = id.parse().expect("a UUID behind our prefix is ASCII");
        Lease { id, header }
    }

    async fn create(&self, client: &Client, mut labels: HashMap<String, String>, life: Duration) -> Result<(), Status> {
        let expires = jiff::Timestamp::now().saturating_add(life).unwrap_or(jiff::Timestamp::MAX);
        labels.insert("containerd.io/gc.expire".to_owned(), format!("{expires:.0}"));
        let request = client.request(CreateRequest { id: self.id.clone(), labels });
        bounded(QUICK, client.leases().create(request)).await.map(drop)
    }

    /// Gives it back; what an image record refers to stays, the rest is collected. A containerd that does not take it just now is
    /// asked again behind the caller's back: else what it holds would stay on the disk for a day.
    pub async fn give_back(self, client: &Client) -> Result<(), Status> {
        let given_back = Lease::give_back_id(client, self.id.clone()).await;
        if given_back.is_err() {
            let client = client.clone();
            tokio::spawn(async move {
                let mut pause = GIVE_BACK_FIRST;
                for _ in 0..GIVE_BACK_TRIES {
                    tokio::time::sleep(pause).await;
                    if Lease::give_back_id(&client, self.id.clone()).await.is_ok() {
                        break;
                    }
                    pause = (pause * 2).min(GIVE_BACK_MAX);
                }
            });
        }
        given_back
    }

    /// Removes what an earlier agent left. Only before this one takes its first.
    pub async fn sweep(client: &Client) -> Result<(), Status> {
        let list = bounded(QUICK, client.leases().list(client.request(ListRequest { filters: Vec::new() }))).await?;
        for left in list.leases.into_iter().filter(|l| l.id.starts_with(LEASE_PREFIX)) {
            let request = client.request(DeleteRequest { id: left.id, sync: false });
            found(bounded(QUICK, client.leases().delete(request)).await)?;
        }
        Ok(())
    }

    /// The request under this lease.
    pub fn request<T>(&self, client: &Client, message: T) -> Request<T> {
        let mut request = client.request(message);
        request.metadata_mut().insert(LEASE_KEY, self.header.clone());
        request
    }
}

/// Holds what is in the store already under the lease; its size and labels, or None when it is not there. Err(NotFound): the lease
/// is gone, and nothing is held.
pub async fn hold(client: &Client, lease: &Lease, digest: &Digest) -> Result<Option<Info>, Status> {
    // First held, then looked at: the other way round it could be collected in between.
    add_to_lease(client, lease, "content".into(), digest).await?;
    info(client, digest).await
}

/// Holds a snapshot, if it is there, under the lease.
pub async fn hold_snapshot(client: &Client, lease: &Lease, snapshotter: &str, chain: &Digest) -> Result<(), Status> {
    add_to_lease(client, lease, format!("snapshots/{snapshotter}"), chain).await
}

/// The same of a snapshot that has a name of its own.
pub async fn hold_view(client: &Client, lease: &Lease, snapshotter: &str, key: &str) -> Result<(), Status> {
    add_to_lease(client, lease, format!("snapshots/{snapshotter}"), key).await
}

async fn add_to_lease(client: &Client, lease: &Lease, kind: String, id: impl ToString) -> Result<(), Status> {
    let resource = Resource { id: id.to_string(), r#type: kind };
    let request = client.request(AddResourceRequest { id: lease.id.clone(), resource: Some(resource) });
    bounded(QUICK, client.leases().add_resource(request)).await.map(drop)
}

/// Size and labels of content; None when it is not in the store.
pub async fn info(client: &Client, digest: &Digest) -> Result<Option<Info>, Status> {
    let request = client.request(InfoRequest { digest: digest.to_string() });
    Ok(found(bounded(QUICK, client.content().info(request)).await)?.and_then(|i| i.info))
}

/// Sets labels on content, leaving its others.
pub async fn label(client: &Client, digest: &Digest, labels: &BTreeMap<String, String>) -> Result<(), Status> {
    if labels.is_empty() {
        return Ok(());
    }
    let update = UpdateRequest {
        info: Some(Info {
            digest: digest.to_string(),
            labels: labels.clone().into_iter().collect(),
            ..Info::default()
        }),
        update_mask: Some(FieldMask { paths: labels.keys().map(|k| format!("labels.{k}")).collect() }),
    };
    bounded(QUICK, client.content().update(client.request(update))).await.map(drop)
}

/// A small document out of the store, verified. Err(DataLoss) when its bytes are not what its name says.
pub async fn document(client: &Client, digest: &Digest) -> Result<Option<Vec<u8>>, Status> {
    let read = async {
        let request = client.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 });
        let mut stream = client.content().read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            if (bytes.len() + piece.data.len()) as u64 > MAX_DOCUMENT {
                return Err(Status::data_loss(format!("{digest} has more than {MAX_DOCUMENT} bytes")));
            }
            bytes.extend_from_slice(&piece.data);
        }
        Ok(bytes)
    };
    let read = tokio::time::timeout(QUICK, read).await;
    let Some(bytes) = found(read.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("reading {digest}")))))?
    else {
        return Ok(None);
    };
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != *digest {
        return Err(Status::data_loss(format!("content {digest} is damaged: its bytes have digest {actual}")));
    }
    Ok(Some(bytes))
}

/// Removes content whose bytes are of no use, from the disk too.
pub async fn remove(client: &Client, digest: &Digest) -> Result<(), Status> {
    let request = client.request(DeleteContentRequest { digest: digest.to_string() });
    found(bounded(QUICK, client.content().delete(request)).await)?;
    // That only forgot it: until the collector ran, writing it anew would find the old file.
    collect_garbage(client).await
}

/// Has containerd remove what nothing refers to, and waits until it is gone from the disk: the end of a lease does that.
pub async fn collect_garbage(client: &Client) -> Result<(), Status> {
    let lease = Lease::take(client).await?;
    let request = client.request(DeleteRequest { id: lease.id, sync: true });
    found(bounded(COMMIT, client.leases().delete(request)).await).map(drop)
}

/// What is to be written, and under which lease.
pub struct Write<'a> {
    pub client: &'a Client,
    pub lease: &'a Lease,
    pub digest: &'a Digest,
    pub size: u64,
    pub labels: &'a BTreeMap<String, String>,
}

/// Streams a blob into the store, verified on the way. Blocking: for a thread that may wait, inside a tokio runtime.
pub fn write_blocking(write: &Write<'_>, source: &mut dyn Read, handle: &Handle) -> Result<(), WriteError> {
    let (pieces, receiver) = mpsc::channel::<WriteContentRequest>(1);
    // Its own for every import: one that was given up aborts what it had begun a moment later, and the next may write the same blob by then.
    let reference = format!("{}-{}", write.lease.id, write.digest);
    let request = write.lease.request(write.client, ReceiverStream::new(receiver));
    let mut content = write.client.content();
    let call = handle.spawn(async move {
        let mut answers = content.write(request).await?.into_inner();
        let mut last = None;
        while let Some(answer) = answers.message().await? {
            last = Some(answer);
        }
        Ok::<Option<WriteContentResponse>, Status>(last)
    });
    let abort_call = call.abort_handle();
    let mut push = |message| {
        let pushed = handle.block_on(async { tokio::time::timeout(STALLED, pieces.send(message)).await });
        match pushed {
            Ok(Ok(())) => Ok(()),
            // The receiver goes when the call has ended early; why is in its answer.
            Ok(Err(_)) => Err(WriteError::Containerd(Status::aborted("containerd ended the write"))),
            Err(_) => {
                abort_call.abort();
                Err(WriteError::Containerd(Status::deadline_exceeded("containerd takes no more of the write")))
            }
        }
    };
    let sent = send(write, source, &reference, &mut push);
    drop(pieces);
    let answer = match handle.block_on(async { tokio::time::timeout(COMMIT, call).await }) {
        Ok(Ok(answer)) => answer,
        Ok(Err(ended)) => Err(Status::deadline_exceeded(format!("the write was given up: {ended}"))),
        Err(_) => {
            abort_call.abort();
            Err(Status::deadline_exceeded(format!("no answer within {} s", COMMIT.as_secs())))
        }
    };
    let outcome = match (sent, answer) {
        // Ours to blame first: a stream that we broke off makes containerd complain too.
        (Err(e @ (WriteError::Source(_) | WriteError::Size { .. } | WriteError::Digest { .. })), _) => Err(e),
        (_, Err(status)) if status.code() == Code::AlreadyExists => Ok(Some(())),
        (_, Err(status)) => Err(WriteError::Containerd(status)),
        (Err(e), Ok(_)) => Err(e),
        (Ok(()), Ok(Some(last))) if last.action == WriteAction::Commit as i32 => Ok(None),
        (Ok(()), Ok(_)) => {
            Err(WriteError::Containerd(Status::internal("containerd ended the write without committing")))
        }
    };
    match outcome {
        Ok(None) => Ok(()),
        // Somebody else wrote it, or another namespace has it: only its labels are ours to set.
        Ok(Some(())) => handle
            .block_on(async {
                hold(write.client, write.lease, write.digest).await?;
                label(write.client, write.digest, write.labels).await
            })
            .map_err(WriteError::Containerd),
        Err(e) => {
            let abort = write.client.request(AbortRequest { r#ref: reference });
            // What is left of it costs only disk until containerd's own expiry.
            let _ = handle.block_on(bounded(QUICK, write.client.content().abort(abort)));
            Err(e)
        }
    }
}

/// Reads to the end and sends piece by piece; the last message commits, and is not sent unless size and digest are right.
fn send(
    write: &Write<'_>,
    source: &mut dyn Read,
    reference: &str,
    push: &mut dyn FnMut(WriteContentRequest) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let message = |action: WriteAction, offset: u64, data: Vec<u8>| WriteContentRequest {
        action: action as i32,
        r#ref: reference.to_owned(),
        total: to_i64(write.size),
        expected: write.digest.to_string(),
        offset: to_i64(offset),
        data,
        labels: HashMap::new(),
    };
    let mut hasher = write.digest.hasher();
    let mut offset = 0u64;
    loop {
        let mut data = Vec::with_capacity(PIECE);
        source.take(PIECE as u64).read_to_end(&mut data).map_err(WriteError::Source)?;
        if data.is_empty() {
            break;
        }
        hasher.update(&data);
        let length = data.len() as u64;
        push(message(WriteAction::Write, offset, data))?;
        offset = offset.saturating_add(length);
    }
    if offset != write.size {
        return Err(WriteError::Size { actual: offset });
    }
    let actual = hasher.finish();
    if actual != *write.digest {
        return Err(WriteError::Digest { actual });
    }
    let mut commit = message(WriteAction::Commit, offset, Vec::new());
    commit.labels = write.labels.clone().into_iter().collect();
    push(commit)
}

/// The image record of this name.
pub async fn image(client: &Client, name: &str) -> Result<Option<Image>, Status> {
    let request = client.request(GetImageRequest { name: name.to_owned() });
    Ok(found(bounded(QUICK, client.images().get(request)).await)?.and_then(|a| a.image))
}

/// Image records, all or those that match a filter of containerd's.
pub async fn images(client: &Client, filter: Option<String>) -> Result<Vec<Image>, Status> {
    let request = client.request(ListImagesRequest { filters: filter.into_iter().collect() });
    bounded(QUICK, client.images().list(request)).await.map(|a| a.images)
}

/// Creates the record or points it at its new target.
pub async fn put_image(client: &Client, image: Image) -> Result<(), Status> {
    let create = CreateImageRequest { image: Some(image.clone()), ..CreateImageRequest::default() };
    match bounded(SLOW, client.images().create(client.request(create))).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let paths = vec!["target".to_owned(), "labels".to_owned()];
            let update = UpdateImageRequest {
                image: Some(image),
                update_mask: Some(FieldMask { paths }),
                ..UpdateImageRequest::default()
            };
            bounded(SLOW, client.images().update(client.request(update))).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// containerd's sizes are signed.
pub fn to_i64(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
