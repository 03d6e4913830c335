//! The seams between decisions and the machine: what a simulation replaces. Few verbs, plain data in and out.
//!
//! The workers act only through these traits. The real ones live in `runtime::containerd` (Runtime), `sandbox`
//! (Sandboxes), `logs` (LogPipes), `records` over [`Files`], and [`SystemClock`]; the fakes stand beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use pod::downward::NodeSize;
use pod::name::{RunKey, Uid, WorkloadKey, WorkloadKind};
use pod::observed::{ObservedContainer, RunUser, SandboxState};
use pod::plan::Signal;
use pod::record::Record;
use pod::spec::{Container, PodSpec, PodTemplate, PullPolicy};
use pod::time::{Moment, Now};
use tokio::io::unix::AsyncFd;

use crate::exec::{Exec, ExecError, ExecStreams};
use crate::readable;

/// Kubernetes' reason of a container that is on its way.
const WAITING: &str = "ContainerCreating";

/// Why a resize fails: the event's reason, as in Kubernetes.
pub const RESIZE_ERROR: &str = "ResizeError";

/// A step that did not succeed: a reason in the status and a back-off, never the end of the loop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// Kubernetes' reason: CreateContainerError, RunContainerError, CreatePodSandboxError, ErrImagePull …
    pub reason: &'static str,
    /// What, where, why and what to do next, in one sentence or two; the whole chain of causes is in it.
    pub message: String,
    /// The other side cannot be reached at present (containerd down): no back-off grows, a wake follows when it is back.
    pub unavailable: bool,
    /// How long the next try has to wait, where the other side knows better than the step's own back-off.
    pub wait: Option<Duration>,
}

impl StepError {
    pub fn new(reason: &'static str, message: impl Into<String>) -> StepError {
        StepError { reason, message: message.into(), unavailable: false, wait: None }
    }

    /// Of another side that cannot be reached at present.
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> StepError {
        StepError { unavailable: true, ..StepError::new(reason, message) }
    }

    /// Nothing is wrong: something else comes first, and a wake follows when it is done.
    pub fn waiting(message: impl Into<String>) -> StepError {
        StepError::unavailable(WAITING, message)
    }

    /// Whether it is no fault at all.
    pub fn is_waiting(&self) -> bool {
        self.reason == WAITING
    }
}

/// An image that a container or one of its volumes needs, and who is told of its pull.
#[derive(Clone, Copy)]
pub struct ImageWanted<'a> {
    /// As the manifest writes it.
    pub image: &'a str,
    pub pull_policy: PullPolicy,
    /// The pod's, in which its Secrets are.
    pub namespace: &'a str,
    /// Names of Secrets with credentials of registries (`imagePullSecrets`).
    pub secrets: &'a [String],
    /// How long a registry may take to say that the name means something newer than what is here; then what is here is used, and what
    /// is newer is brought nonetheless. None: as long as it takes.
    pub patience: Option<Duration>,
    /// Told what happens in between: how far a pull is now and then, all else at most once.
    pub news: &'a (dyn Fn(ImageNews) + Send + Sync),
}

/// What happens while an image is made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageNews {
    /// A registry is asked for the image's bytes.
    Pulling,
    /// How far that is, in words.
    Progress(String),
    /// These Secrets are not known: the pull is tried without them.
    SecretsMissing(Vec<String>),
}

impl<'a> ImageWanted<'a> {
    /// For whom a pull is no news.
    pub fn quietly(container: &'a Container) -> ImageWanted<'a> {
        let (image, pull_policy) = (container.image.as_str(), container.pull_policy);
        ImageWanted { image, pull_policy, namespace: "default", secrets: &[], patience: None, news: &|_| {} }
    }
}

/// What the runtime must know to create one run of one container. Everything is decided; nothing is looked up.
#[derive(Debug, Clone)]
pub struct CreateRun<'a> {
    pub run: RunKey,
    pub workload: &'a WorkloadKey,
    pub record: &'a Record,
    pub template: &'a PodTemplate,
    pub container: &'a Container,
    /// Where the pod's surroundings are.
    pub sandbox: &'a Sandbox,
    /// Paths of the FIFOs that the log keeper has open.
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    /// Why the image is not as fresh as the pull policy asks ([`Prepared::NotRefreshed`]); empty: it is.
    pub not_refreshed: &'a str,
}

impl CreateRun<'_> {
    /// [`ObservedContainer::image`].
    pub fn image_asked(&self) -> &str {
        match self.workload.kind {
            WorkloadKind::Control => &self.container.image,
            WorkloadKind::Pod | WorkloadKind::DaemonSet => "",
        }
    }
}

/// How an image was made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// As the pull policy asks, with what was here.
    AsAsked,
    /// It was pulled just now: how much and how long, in Kubernetes' words.
    Pulled { message: String },
    /// `imagePullPolicy: Always`, and the image that is here is used without having asked a registry for a newer one:
    /// why, in one sentence.
    NotRefreshed { message: String },
}

/// How a message begins that is about the image of a volume.
pub const OF_VOLUME: &str = "volume ";

impl Prepared {
    /// What is to be told of both.
    pub fn and(self, other: Prepared) -> Prepared {
        let joined = |a: String, b: String| format!("{a}; {b}");
        match (self, other) {
            (Prepared::AsAsked, one) | (one, Prepared::AsAsked) => one,
            (Prepared::NotRefreshed { message: a }, Prepared::NotRefreshed { message: b }) => {
                Prepared::NotRefreshed { message: joined(a, b) }
            }
            (Prepared::Pulled { message: a }, Prepared::Pulled { message: b }) => {
                Prepared::Pulled { message: joined(a, b) }
            }
            // The one that lasts.
            (Prepared::NotRefreshed { message }, Prepared::Pulled { .. })
            | (Prepared::Pulled { .. }, Prepared::NotRefreshed { message }) => Prepared::NotRefreshed { message },
        }
    }
}

/// What is known of a run as soon as it is created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreatedRun {
    /// [`ObservedContainer::image_id`].
    pub image_id: String,
    /// [`ObservedContainer::adapted`].
    pub adapted: String,
    /// [`ObservedContainer::image`].
    pub image: String,
    /// [`ObservedContainer::user`].
    pub user: Option<Box<RunUser>>,
}

/// A pod's surroundings on this node, as made by [`Sandboxes::set_up`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sandbox {
    /// Namespace files to join, by OCI name (`network`, `ipc`, `uts`, `pid`); a namespace that is not here is the host's, a
    /// `pid` that is not here each container's own unless the pod has the host's.
    pub namespaces: BTreeMap<String, PathBuf>,
    /// The pod's cgroup in the form that `linux.cgroupsPath` of a container takes; see [`CgroupParent::cgroups_path`].
    pub cgroup: CgroupParent,
    /// Bind mounts that every container gets unless it mounts the place itself: container path to host path
    /// (/etc/hosts, /etc/hostname, /etc/resolv.conf, /dev/shm).
    pub files: BTreeMap<String, PathBuf>,
    /// Volumes by name, as checked and made on the host.
    pub volumes: BTreeMap<String, PathBuf>,
    pub hostname: String,
    pub host_ips: Vec<IpAddr>,
    /// Empty until connected.
    pub pod_ips: Vec<IpAddr>,
    /// None: the node's.
    pub users: Option<OwnUsers>,
}

/// Users, and groups, of a pod's own: its 0 to 65535 by the node's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUsers {
    /// The pod's root.
    pub first: u32,
}

impl OwnUsers {
    /// As many as Kubernetes gives a pod.
    pub const COUNT: u32 = 65_536;
}

/// Something to be told of a pod as a Warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warned {
    /// Kubernetes' reason.
    pub reason: &'static str,
    pub message: String,
}

/// The cgroup under which a pod's containers lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupParent {
    /// Absolute in the hierarchy: `/daemonlet/burstable/pod<uid>`.
    Cgroupfs(String),
    /// A slice: `daemonlet-burstable-pod<uid with _>.slice`.
    Systemd(String),
}

impl Default for CgroupParent {
    fn default() -> Self {
        CgroupParent::Cgroupfs("/daemonlet".into())
    }
}

impl CgroupParent {
    /// OCI `linux.cgroupsPath` for the container with this id (runc's forms of the two drivers).
    pub fn cgroups_path(&self, container_id: &str) -> String {
        match self {
            CgroupParent::Cgroupfs(parent) => format!("{parent}/{container_id}"),
            CgroupParent::Systemd(slice) => format!("{slice}:daemonlet:{container_id}"),
        }
    }
}

/// All runs that a pod may have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRuns {
    pub uid: Uid,
    /// The newest attempt that may exist, by container name.
    pub newest: BTreeMap<String, u32>,
}

/// What became of a shim that was to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShimEnd {
    /// It answers again: it was left alone.
    Answers,
    /// It is gone, and with it all processes of the pod's containers. `found`: which process it was and what it did, in a
    /// few words.
    Ended { found: String },
}

/// Why a worker should look again. Carries no data: what is so is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Something happened to this container.
    Container(String),
    /// An image came or went.
    Images,
    /// Events may have been lost (the stream broke, containerd came back): everybody looks.
    All,
}

/// What stays of a pod's surroundings when they are torn down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The pod lives on: what its containers have written to its volumes is theirs.
    Volumes,
    /// It has ended.
    Nothing,
}

/// How far a pod's cgroup is resized: it grows before its containers do, and shrinks after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// No limit becomes less than it is.
    Widened,
    Exact,
}

/// The container runtime.
pub trait Runtime: Send + Sync + 'static {
    /// Our containers, of one workload or of all. One whose shim does not answer is [`Unanswered`] and makes no other late.
    ///
    /// [`Unanswered`]: pod::observed::ContainerState::Unanswered
    fn observe(
        &self,
        workload: Option<&WorkloadKey>,
    ) -> impl Future<Output = Result<Vec<ObservedContainer>, StepError>> + Send;
    /// Makes the image ready: found in the content store under its canonical name, for this platform, unpacked; else
    /// pulled, which may take hours. Idempotent, and quick when it is there. Dropped, the image is no longer wanted by this
    /// caller. Err: `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`.
    fn prepare_image(&self, wanted: ImageWanted<'_>) -> impl Future<Output = Result<Prepared, StepError>> + Send;
    /// Snapshot, container and task, not started. Idempotent: what an interrupted try left is completed or replaced.
    fn create(&self, run: &CreateRun<'_>) -> impl Future<Output = Result<CreatedRun, StepError>> + Send;
    /// Starts a created task; the pid. Ok when it already runs.
    fn start(&self, id: &str) -> impl Future<Output = Result<u32, StepError>> + Send;
    /// Gives a created or running container the cpu and memory that `container` asks for. Ok when nothing is there. Err where it uses
    /// more memory than it would be left.
    fn resize(&self, id: &str, container: &Container) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Sends the signal to the container's first process (Stop) or all (Kill). Ok when it is gone.
    fn signal(&self, id: &str, signal: Signal) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Deletes task, container and snapshot, killing what still runs. Ok when nothing is there.
    fn delete(&self, id: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Runs a command in a container that runs, with the container's own user, environment, directory and limits; its
    /// exit code (128 + n for a signal). Dropped, the command and what it started are killed, and nothing of it stays.
    fn exec(&self, exec: Exec<'_>, streams: ExecStreams) -> impl Future<Output = Result<u32, ExecError>> + Send;
    /// Ends the process through which the runtime serves the pod's containers, and their processes, if it still does not
    /// answer. Only what is proven to be this pod's is touched. The deletion of the containers remains to be done.
    fn end_shim(&self, pod: &PodRuns) -> impl Future<Output = Result<ShimEnd, StepError>> + Send;
    /// The next wake. Waits; never ends while the runtime lives. Lost events become [`Wake::All`].
    fn wake(&self) -> impl Future<Output = Wake> + Send;
    /// Name and version for `version`, `get node` and /readyz. Err within seconds when it cannot be reached.
    fn version(&self) -> impl Future<Output = Result<String, StepError>> + Send;
    /// Whether such a pod can be run here: its `runtimeClassName` is known, and it can have users of its own where it asks for them.
    fn takes(&self, spec: &PodSpec) -> impl Future<Output = Result<(), StepError>> + Send;
    /// What the node has: what a container without a limit is told of its resources.
    fn node_size(&self) -> NodeSize;
    /// Capabilities of this kernel that no container can be given here, without `CAP_`, sorted.
    fn missing_capabilities(&self) -> Vec<String>;
}

/// Where images are kept, as the image directory sees it.
pub trait ImageStore: Send + Sync + 'static {
    /// All images, by name. A quick look leaves sizes and problems out and costs one call.
    fn images(&self, look: Look) -> impl Future<Output = Result<Vec<PresentImage>, ImportFailure>> + Send;
    /// Imports an archive and remembers `stamp` (one line that tells the file's state) with each of its images. Dropped,
    /// it is given up and nothing of it has a name.
    fn import(&self, archive: &Path, stamp: &str) -> impl Future<Output = Result<Import, ImportFailure>> + Send;
    /// Stamps of the archives that lie in the directory now: what one of them brought needs no registry.
    fn lying(&self, _stamps: BTreeSet<String>) {}
    /// Until an image came or went by other ways than an import. Cancel-safe.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
    /// Told before anybody asks for an image, and when every archive has had its turn: in between an image that is missing
    /// is not missed yet.
    fn first_reading(&self, reading: Reading);
}

/// The writable layers of containers, as whoever measures them sees them.
pub trait Layers: Send + Sync + 'static {
    /// Bytes that the container of this id has written beside its volumes.
    fn bytes(&self, id: &str) -> impl Future<Output = Result<u64, StepError>> + Send;
}

/// Where images are kept, as their collector sees it.
pub trait ImageShelf: Send + Sync + 'static {
    /// All images with what speaks for keeping each. `wanted`: images as manifests write them.
    fn shelf(&self, wanted: &BTreeSet<String>) -> impl Future<Output = Result<Vec<ShelvedImage>, ShelfError>> + Send;
    /// Writes down with these images that they were used at `now`; with all that it can, Err is the first failure.
    fn mark_used(
        &self,
        images: &[ShelvedImage],
        now: jiff::Timestamp,
    ) -> impl Future<Output = Result<(), ShelfError>> + Send;
    /// Removes all names of the image, unless it is other than it was or something speaks for keeping it by now: `wanted` is
    /// asked when no pod can begin to use it any more. What only it had is gone from the disk when this returns.
    fn remove(
        &self,
        image: &ShelvedImage,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> impl Future<Output = Result<Removed, ShelfError>> + Send;
    /// Drops what pulls have brought that nobody wants any more; how many pulls.
    fn drop_abandoned(
        &self,
        wanted: &(dyn Fn() -> BTreeSet<String> + Send + Sync),
    ) -> impl Future<Output = Result<usize, ShelfError>> + Send;
    /// The file systems that hold images and their snapshots.
    fn disks(&self) -> impl Future<Output = Result<Vec<DiskUse>, ShelfError>> + Send;
    /// Until images have come, or one found no room. Cancel-safe.
    fn disk_moved(&self) -> impl Future<Output = Moved> + Send;
    /// There is room again: what failed for want of it is tried at once.
    fn room_made(&self);
}

/// An image with all of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelvedImage {
    /// Canonical, sorted; at least one.
    pub names: Vec<String>,
    /// What they point at: `sha256:…`.
    pub digest: String,
    /// When it came or was last known to be used.
    pub last_used: jiff::Timestamp,
    /// None: it may go.
    pub keep: Option<Keep>,
}

/// What speaks for keeping an image: the strongest reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// A pod's record, a manifest or a container needs it.
    Needed,
    Pinned,
    /// Its archive lies in the image directory, from which it would come back.
    Lies,
    Pulling,
}

/// What happened to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Images have come.
    Arrived,
    /// One found no room.
    Full,
}

/// What became of an image that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// Bytes that its content and its snapshots took, and that nothing else has.
    Gone { freed: u64 },
    /// Something speaks for it by now, or it is another.
    Kept,
}

/// How full a file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUse {
    /// A directory in it.
    pub path: PathBuf,
    /// Bytes; what only root may use does not count.
    pub capacity: u64,
    pub available: u64,
    /// 0 where the file system does not count them.
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The shelf could not be asked, or did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ShelfError {
    pub message: String,
    /// The store is not there at present.
    pub unavailable: bool,
}

/// Where the image directory's first reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Begins,
    IsOver,
}

/// How closely to look at images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Quick,
    Close,
}

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PresentImage {
    /// Canonical.
    pub name: String,
    /// What the name points at: `sha256:…`.
    pub digest: String,
    /// Configuration and layers as stored, bytes.
    pub size: Option<u64>,
    /// Stamps of the archives that brought it, oldest first.
    pub stamps: Vec<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// It is never removed to make room.
    pub pinned: bool,
}

/// What an archive brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Import {
    /// Canonical names with the digest that each points at now.
    pub images: Vec<(String, String)>,
    /// Images that were left out, with the reason.
    pub skipped: Vec<String>,
}

/// Why an archive did not become images.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportFailure {
    /// The archive is at fault: it is not tried again until it changes.
    #[error("{0}")]
    Refused(String),
    /// Something else is: it is tried again after a while.
    #[error("{0}")]
    Failed(String),
    /// The store is not there at present: it is tried again soon.
    #[error("{0}")]
    Unavailable(String),
}

/// Files of a pod's projected volumes, by the volumes' names.
pub type Projected = BTreeMap<String, pod::projection::Files>;

/// Pods' surroundings on the node: namespaces, network, cgroups, volumes, files.
pub trait Sandboxes: Send + Sync + 'static {
    /// What stands of this pod's sandbox.
    fn inspect(&self, uid: &Uid, template: &PodTemplate) -> impl Future<Output = SandboxState> + Send;
    /// Makes the pod's projected volumes show these files and no others, each changed as a whole. Before [`Sandboxes::set_up`], and
    /// whenever the files are others. Idempotent.
    fn fill(&self, uid: &Uid, files: &Projected) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Makes everything but the network connection. Idempotent over what an interrupted try left. What of it is not as the pod asks and
    /// keeps it from nothing.
    fn set_up(
        &self,
        record: &Record,
        template: &PodTemplate,
    ) -> impl Future<Output = Result<Vec<Warned>, StepError>> + Send;
    /// Gives the pod's cgroup the amounts of cpu and memory that the template asks for; Ok when there is none.
    fn resize(
        &self,
        uid: &Uid,
        template: &PodTemplate,
        reach: Reach,
    ) -> impl Future<Output = Result<(), StepError>> + Send;
    /// CNI ADD into the pod's namespace, addresses recorded before this returns, /etc/hosts completed.
    fn connect(
        &self,
        record: &Record,
        template: &PodTemplate,
    ) -> impl Future<Output = Result<Vec<IpAddr>, StepError>> + Send;
    /// Where everything is, for [`CreateRun`].
    fn describe(
        &self,
        record: &Record,
        template: &PodTemplate,
    ) -> impl Future<Output = Result<Sandbox, StepError>> + Send;
    /// Gives back all but what is to be left; Ok when nothing is there. Works without the template: the record may be
    /// unreadable.
    fn tear_down(&self, uid: &Uid, leave: Leave) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Makes the file in which the run may say why it ends (`terminationMessagePath`), and answers where it is. Microseconds.
    fn make_words(&self, run: &RunKey) -> Result<PathBuf, StepError>;
    /// What the run has said there. Microseconds.
    fn last_words(&self, run: &RunKey) -> Option<String>;
    /// The run is gone.
    fn remove_words(&self, run: &RunKey);
    /// Uids of all sandboxes of which anything is left on this node, for finding orphans.
    fn list(&self) -> impl Future<Output = Result<Vec<Uid>, StepError>> + Send;
}

/// The log keeper, as the worker sees it.
pub trait LogPipes: Send + Sync + 'static {
    /// FIFOs of this run, open for reading in the keeper.
    fn open(&self, record: &Record, run: &RunKey)
    -> impl Future<Output = Result<(PathBuf, PathBuf), StepError>> + Send;
    /// The run is over: drain, forget. Ok when it was not open.
    fn close(&self, id: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// The last lines of the run's log, whose run is over. None: there are none, or they cannot be read.
    fn last_lines(&self, record: &Record, run: &RunKey) -> impl Future<Output = Option<String>> + Send;
    /// The pod is gone: its log directory and links go too.
    fn forget(&self, record: &Record) -> impl Future<Output = Result<(), StepError>> + Send;
}

/// The state directory's disk: primitives, so that a fault layer can lose whatever was not synced. Small files only.
pub trait Files: Send + Sync + 'static {
    /// The whole file; one of more than `limit` bytes is `FileTooLarge`.
    fn read(&self, path: &Path, limit: u64) -> impl Future<Output = io::Result<Vec<u8>>> + Send;
    /// Creates or truncates. Not durable before [`Files::sync`]. Mode 0600.
    fn write(&self, path: &Path, content: Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;
    /// The file's content is durable afterwards; its name is not.
    fn sync(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + Send;
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Names made, moved and removed in the directory are durable afterwards.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// File names in a directory, sorted; an absent directory is made (0700).
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>> + Send;
}

/// Both clocks, and waiting on one of them.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
    /// Until then on the boot clock.
    fn sleep_until(&self, moment: Moment) -> impl Future<Output = ()> + Send;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A timer of the kernel on the boot clock: one of tokio stands still while the machine is suspended.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    fn at(moment: Moment) -> io::Result<Alarm> {
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // Zero would disarm it.
        let at = TimeSpec::from_duration(Duration::from_millis(moment.0.max(1)));
        timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        Ok(Alarm(readable::watch(timer.into())?))
    }

    async fn wait(&self) {
        // An error can only mean that the loop is ending.
        let _ = self.0.readable().await;
    }
}

/// Everything the workers act through, under one name, so that one type parameter carries it.
pub trait Machine: Send + Sync + 'static {
    type Runtime: Runtime;
    type Sandboxes: Sandboxes;
    type Logs: LogPipes;
    type Files: Files;
    type Clock: Clock;
    fn runtime(&self) -> &Self::Runtime;
    fn sandboxes(&self) -> &Self::Sandboxes;
    fn logs(&self) -> &Self::Logs;
    fn files(&self) -> &Self::Files;
    fn clock(&self) -> &Self::Clock;
    /// Sixteen bytes for a uid and letters for a name.
    fn random(&self) -> [u8; 16];
    /// The present boot (/proc/sys/kernel/random/boot_id).
    fn boot_id(&self) -> &str;
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(|t| Duration::from(t).as_millis())
            .expect("CLOCK_BOOTTIME exists on every kernel that containerd runs on");
        Now { boot: Moment(u64::try_from(boot).unwrap_or(u64::MAX)), wall: jiff::Timestamp::now() }
    }

    async fn sleep_until(&self, moment: Moment) {
        if moment <= self.now().boot {
            return;
        }
        match Alarm::at(moment) {
            Ok(alarm) => alarm.wait().await,
            // No descriptor is left: late by a suspend is better than never.
            Err(_) => tokio::time::sleep(moment.since(self.now().boot)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_are_on_the_boot_clock_which_goes_on_while_the_machine_is_suspended() {
        let alarm = Alarm::at(SystemClock.now().boot.after(Duration::from_secs(600))).expect("descriptors are left");
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&alarm.0);
        let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).expect("it is open");
        // CLOCK_BOOTTIME of linux/time.h; TFD_TIMER_ABSTIME of linux/timerfd.h.
        assert!(said.lines().any(|line| line == "clockid: 7"), "{said}");
        assert!(said.lines().any(|line| line == "settime flags: 01"), "{said}");
    }

    #[tokio::test]
    async fn wait_ends_at_its_moment_and_at_once_when_that_has_passed() {
        let begin = SystemClock.now().boot;
        SystemClock.sleep_until(begin).await;
        SystemClock.sleep_until(Moment(0)).await;
        let end = begin.after(Duration::from_millis(40));
        SystemClock.sleep_until(end).await;
        assert!(SystemClock.now().boot >= end);
    }

    #[tokio::test]
    async fn wait_for_the_end_of_time_is_only_long() {
        let wait = SystemClock.sleep_until(Moment(u64::MAX));
        assert!(tokio::time::timeout(Duration::from_millis(20), wait).await.is_err());
    }
}
