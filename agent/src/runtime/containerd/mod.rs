//! The runtime over containerd's native gRPC services.
//!
//! [`Containerd`] implements [`Runtime`]; the workers drive it. Reading order: [`client`] is the connection,
//! [`containers`] joins record, snapshot and task, [`oci`] decides what a container gets, [`events`] wakes.
//! Nothing outside this folder knows containerd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use containerd_client::tonic::Status;
use tokio::task::JoinHandle;

use pod::downward::NodeSize;
use pod::name::WorkloadKey;
use pod::observed::ObservedContainer;
use pod::plan::Signal;
use pod::spec::{Container, PodSpec};

use crate::allowed::Allowed;
use crate::exec::{Exec, ExecError, ExecStreams};
use crate::seams::{CreateRun, CreatedRun, ImageWanted, Layers, PodRuns, Prepared, Runtime, ShimEnd, StepError, Wake};

use self::apparmor::Profiles;
use self::client::{Client, NamespaceInvalid, PROBE, QUICK, bounded};
use self::ends::Ends;
use self::events::Heard;
use self::host::Host;
use self::hung::Looks;
use self::image_facts::ImageFacts;
use self::images::Images;
use self::late::Late;
pub use self::resources::MemoryPolicy;
use self::user::Accounts;

pub use self::classes::OciRuntime;

pub mod apparmor;
pub mod capabilities;
mod cgroup;
mod cgroup_view;
mod classes;
pub mod client;
mod containers;
mod ends;
mod env_files;
mod environment;
pub mod events;
mod exec;
pub mod host;
mod huge_pages;
mod hung;
pub mod image_facts;
mod image_volumes;
pub mod images;
pub mod labels;
mod late;
mod left;
pub mod look;
pub mod oci;
mod own_users;
mod propagation;
mod recursion;
mod resize;
mod resources;
pub mod seccomp;
pub mod selinux;
mod shim;
mod snapshots;
mod stdin;
mod sub_paths;
mod tasks;
mod turns;
pub mod user;
mod volume_images;
mod working_dir;

/// Images whose accounts are kept in mind: more than a node's daemons have.
const ACCOUNTS_MAX: usize = 128;

/// What the composition root decides.
#[derive(Debug, Clone)]
pub struct Config {
    pub socket: PathBuf,
    /// containerd's namespace for all that is ours.
    pub namespace: String,
    /// `overlayfs` unless the machine needs another.
    pub snapshotter: String,
    pub node_name: String,
    /// The agent's: what lies in its file system is the node's ephemeral storage.
    pub state_dir: PathBuf,
    /// The agent's: mounts below its `pods` reach containerd.
    pub run_dir: PathBuf,
    /// Where profiles of seccomp lie (`Localhost`).
    pub seccomp_dir: PathBuf,
    /// Whether an unset seccomp profile means RuntimeDefault.
    pub seccomp_default: bool,
    pub seccomp_abi: seccomp::Abi,
    pub memory: MemoryPolicy,
    /// Runtimes other than the usual one, by the name that pods give.
    pub classes: BTreeMap<String, OciRuntime>,
    pub pulls: images::pull::Settings,
    /// Which host paths volumes may show.
    pub allowed: Allowed,
}

impl Config {
    /// The usual: namespace `daemonlet`, overlayfs.
    pub fn new(socket: impl Into<PathBuf>, node_name: impl Into<String>) -> Config {
        Config {
            socket: socket.into(),
            namespace: "daemonlet".into(),
            snapshotter: "overlayfs".into(),
            node_name: node_name.into(),
            state_dir: "/var/lib/daemonlet".into(),
            run_dir: "/run/daemonlet".into(),
            seccomp_dir: "/var/lib/daemonlet/seccomp".into(),
            seccomp_default: true,
            seccomp_abi: seccomp::Abi::default(),
            memory: MemoryPolicy::default(),
            classes: BTreeMap::new(),
            pulls: images::pull::Settings::default(),
            allowed: Allowed::default(),
        }
    }
}

impl Config {
    /// Pipes of commands in containers, by container and command.
    fn exec_dir(&self) -> PathBuf {
        self.run_dir.join("exec")
    }

    /// The stdin of a container that asks for one: a FIFO to which nobody writes.
    fn stdin(&self, id: &str) -> PathBuf {
        self.run_dir.join("stdin").join(id)
    }
}

/// containerd, reachable or not at present.
pub struct Containerd {
    client: Client,
    config: Config,
    heard: Arc<Heard>,
    /// What this containerd's machine can give, with the pid of the containerd that it was read for.
    host: Mutex<Option<(Option<i32>, Arc<Host>)>>,
    /// containerd's version, with the number of the connection over which it was asked.
    version: Mutex<Option<(u64, String)>>,
    /// Accounts of images by chain id, which names content: they never change.
    accounts: Mutex<BTreeMap<String, Arc<Accounts>>>,
    images: Images,
    apparmor: Profiles,
    /// Looks at hostPaths, which may hang.
    device_looks: Looks,
    recursion: recursion::Recursion,
    cgroup_hierarchies: cgroup_view::Hierarchies,
    /// Containers whose shim did not answer.
    late: Late,
    /// Ends that a shim may not tell.
    ends: Ends,
    execs: exec::Execs,
    /// Tasks that are being created.
    turns: turns::Turns,
    /// One look at an image's files at a time: its view has one name.
    looking: tokio::sync::Mutex<()>,
    follower: JoinHandle<()>,
}

impl Containerd {
    /// Does not wait for containerd: it may be down. Spawns the task that follows events, which ends with this value.
    /// Must be called within a tokio runtime.
    pub fn open(config: Config) -> Result<Containerd, NamespaceInvalid> {
        let client = Client::new(&config.socket, &config.namespace)?;
        let images = Images::new(client.clone(), &config.snapshotter, config.pulls.clone());
        exec::sweep(&client, &config.exec_dir());
        let heard = Arc::new(Heard::default());
        let follower = tokio::spawn(events::follow(client.clone(), Arc::clone(&heard)));
        Ok(Containerd {
            client,
            config,
            heard,
            host: Mutex::default(),
            version: Mutex::default(),
            accounts: Mutex::default(),
            images,
            apparmor: Profiles::default(),
            device_looks: Looks::default(),
            recursion: recursion::Recursion::default(),
            cgroup_hierarchies: cgroup_view::Hierarchies::default(),
            late: Late::default(),
            ends: Ends::default(),
            execs: exec::Execs::default(),
            turns: turns::Turns::default(),
            looking: tokio::sync::Mutex::default(),
            follower,
        })
    }

    /// The connection, for what else needs containerd (images, doctor).
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The writable layers of our containers.
    pub fn layers(&self) -> WritableLayers {
        WritableLayers { client: self.client.clone(), snapshotter: self.config.snapshotter.clone() }
    }

    /// The images, for the image directory and the command line.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// What the machine can give to containers, for `doctor`. Read anew when another containerd answers.
    pub fn host(&self) -> Arc<Host> {
        let peer = self.client.peer_pid();
        let mut known = self.host.lock().expect("nothing panics while it is held");
        match known.as_ref() {
            Some((read_for, host)) if *read_for == peer => Arc::clone(host),
            _ => {
                let host = Arc::new(Host::read(peer, &self.config.state_dir));
                *known = Some((peer, Arc::clone(&host)));
                host
            }
        }
    }

    /// containerd's own word for its version: asked once a connection, for another one may be another containerd's.
    async fn containerd_version(&self) -> Result<String, Status> {
        let connection = self.client.connections();
        let known = self.version.lock().expect("nothing panics while it is held").clone();
        if let Some((_, version)) = known.filter(|(asked_over, _)| *asked_over == connection) {
            return Ok(version);
        }
        let answer = bounded(QUICK, self.client.version().version(self.client.request(()))).await?;
        *self.version.lock().expect("nothing panics while it is held") = Some((connection, answer.version.clone()));
        Ok(answer.version)
    }

    /// Accounts of the image, read once.
    async fn accounts(&self, image: &ImageFacts) -> Result<Arc<Accounts>, Status> {
        let known = || self.accounts.lock().expect("nothing panics while it is held").get(&image.chain_id).cloned();
        if let Some(accounts) = known() {
            return Ok(accounts);
        }
        let _one = self.looking.lock().await;
        if let Some(accounts) = known() {
            return Ok(accounts);
        }
        let read = snapshots::accounts(&self.client, &self.config.snapshotter, &image.chain_id).await?;
        let accounts = Arc::new(read.unwrap_or_default());
        let mut all = self.accounts.lock().expect("nothing panics while it is held");
        if all.len() >= ACCOUNTS_MAX {
            all.pop_first();
        }
        all.insert(image.chain_id.clone(), Arc::clone(&accounts));
        Ok(accounts)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The same containerd, for whoever measures what containers have written.
#[derive(Debug, Clone)]
pub struct WritableLayers {
    client: Client,
    snapshotter: String,
}

impl Layers for WritableLayers {
    async fn bytes(&self, id: &str) -> Result<u64, StepError> {
        let bytes = snapshots::bytes(&self.client, &self.snapshotter, id).await;
        bytes.map_err(|status| self.client.step_error("FailedMeasure", &format!("the writable layer of {id}"), &status))
    }
}

impl Runtime for Containerd {
    async fn observe(&self, workload: Option<&WorkloadKey>) -> Result<Vec<ObservedContainer>, StepError> {
        self.list(workload).await.map_err(|status| {
            let whose = workload.map_or_else(|| "our".to_owned(), |key| format!("{key}'s"));
            self.client.step_error("RuntimeError", &format!("listing {whose} containers"), &status)
        })
    }

    async fn prepare_image(&self, wanted: ImageWanted<'_>) -> Result<Prepared, StepError> {
        self.images.prepare(wanted).await
    }

    async fn create(&self, run: &CreateRun<'_>) -> Result<CreatedRun, StepError> {
        let image = self.images.facts(&run.container.image).await?;
        self.create_run(run, &image).await
    }

    async fn start(&self, id: &str) -> Result<u32, StepError> {
        let pid = tasks::start(&self.client, id).await.map_err(|status| {
            self.client.step_error("RunContainerError", &format!("starting container {id}"), &status)
        })?;
        if self.client.peer_pid().is_some() {
            self.ends.started(&self.heard, id, pid);
        }
        Ok(pid)
    }

    async fn resize(&self, id: &str, container: &Container) -> Result<(), StepError> {
        self.resize_run(id, container).await
    }

    async fn signal(&self, id: &str, signal: Signal) -> Result<(), StepError> {
        let sent = async {
            match signal {
                Signal::Stop => {
                    let written = self.stop_signal_label(id).await?;
                    tasks::kill(&self.client, id, tasks::stop_signal(written.as_deref()), false).await
                }
                Signal::Kill => tasks::kill(&self.client, id, tasks::SIGKILL, true).await,
            }
        };
        sent.await.map_err(|status| {
            self.client.step_error("KillContainerError", &format!("signalling container {id}"), &status)
        })
    }

    async fn delete(&self, id: &str) -> Result<(), StepError> {
        self.remove(id).await.map_err(|status| {
            self.client.step_error("KillContainerError", &format!("deleting container {id}"), &status)
        })
    }

    async fn exec(&self, exec: Exec<'_>, streams: ExecStreams) -> Result<u32, ExecError> {
        self.exec_in(exec, streams).await
    }

    async fn end_shim(&self, pod: &PodRuns) -> Result<ShimEnd, StepError> {
        self.end_silent_shim(pod).await
    }

    async fn wake(&self) -> Wake {
        // All only wait, and keep what they were told when another wins.
        tokio::select! {
            wake = self.heard.next() => wake,
            // What is missing now lies not in the image directory.
            () = self.images.first_reading().over() => Wake::Images,
            // What a registry refused it may give now.
            () = self.images.secrets_changed() => Wake::Images,
        }
    }

    async fn version(&self) -> Result<String, StepError> {
        bounded(PROBE, self.client.version().version(self.client.request(())))
            .await
            .map(|answer| format!("containerd {}", answer.version))
            .map_err(|status| self.client.step_error("RuntimeError", "asking for the version", &status))
    }

    async fn takes(&self, spec: &PodSpec) -> Result<(), StepError> {
        let runtime = classes::of_pod(&self.config.classes, spec.runtime_class.as_deref())?;
        if !spec.own_users {
            return Ok(());
        }
        let possible = own_users::possible(&self.client, &self.config.snapshotter, &runtime).await;
        possible.map_err(|why| {
            let fix = "leave hostUsers out, or run the pod elsewhere";
            StepError::new(
                "CreatePodSandboxError",
                format!("hostUsers: false cannot be kept on this node: {why}; {fix}"),
            )
        })
    }

    fn node_size(&self) -> NodeSize {
        self.host().size()
    }

    fn missing_capabilities(&self) -> Vec<String> {
        self.host().missing_capabilities().into_iter().map(str::to_owned).collect()
    }
}
