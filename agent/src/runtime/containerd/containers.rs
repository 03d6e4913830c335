//! Creating, deleting and observing containers: record, snapshot and task together.
//!
//! Driven by the Runtime verbs in `mod`. Order matters: the container's record comes before its snapshot, so that
//! garbage collection sees who owns it (an unowned active snapshot may be collected within milliseconds).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use containerd_client::services::v1::container::Runtime as RecordRuntime;
use containerd_client::services::v1::{
    Container as ContainerRecord, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    ListContainersRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use oci_spec::runtime::Spec;
use prost_types::Any;
use tokio::task::JoinSet;

use pod::allow::{Allow, HOST_PATH};
use pod::name::WorkloadKey;
use pod::observed::{ContainerState, ObservedContainer, RunUser};
use pod::spec::{AppArmor, Container, HostPathKind, RecursiveReadOnly, Seccomp, VolumeMount, VolumeSource};

use super::apparmor::IsNeeded;
use super::client::{Client, QUICK, bounded, found};
use super::events::Heard;
use super::host::{self, HostDevice};
use super::hung::Looks;
use super::image_facts::ImageFacts;
use super::oci::{self, Inputs};
use super::seccomp::localhost;
use super::sub_paths::{Bound, SubPath, reach};
use super::tasks::NewTask;
use super::volume_images::Views;
use super::{
    Containerd, OciRuntime, cgroup, cgroup_view, classes, env_files, environment, exec, huge_pages, image_volumes,
    labels, left, propagation, selinux, snapshots, stdin, sub_paths, tasks, working_dir,
};
use crate::execute::chain;
use crate::seams::{CgroupParent, CreateRun, CreatedRun, StepError};
use crate::threads;

/// containerd's name for a runtime spec; 2.x takes no other.
pub(super) const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// So many tasks are asked for at once: containerd waits two seconds for a shim that does not answer, and the shims of one
/// workload's pods may all be such.
const ASK_AT_ONCE_MAX: usize = 16;
impl Containerd {
    pub(super) async fn create_run(&self, run: &CreateRun<'_>, image: &ImageFacts) -> Result<CreatedRun, StepError> {
        let with_files = match env_files::resolved(run) {
            None => None,
            Some(resolve) => {
                let read = tokio::task::spawn_blocking(resolve).await.unwrap_or_else(|ended| Err(ended.to_string()));
                Some(read.map_err(|why| StepError::new("CreateContainerConfigError", why))?)
            }
        };
        let run = &CreateRun { container: with_files.as_ref().unwrap_or(run.container), ..run.clone() };
        let mut views = self.views(run).await?;
        let lease = views.take_lease();
        let created = Box::pin(self.create_with(run, image, views)).await;
        // The container's record keeps the views now, or there is none and they go.
        self.hand_over(lease).await;
        created
    }

    async fn create_with(
        &self,
        run: &CreateRun<'_>,
        image: &ImageFacts,
        views: Views,
    ) -> Result<CreatedRun, StepError> {
        let id = run.run.container_id();
        let refused = |what: &'static str, status: &Status| {
            self.client.step_error("CreateContainerError", &format!("{what} for container {}", run.run), status)
        };
        let begun = Instant::now();
        let image_volumes = image_volumes::places(&self.config.state_dir, run, image);
        let runtime = classes::of_pod(&self.config.classes, run.template.spec.runtime_class.as_deref())?;
        let version = self.containerd_version().await.map_err(|status| refused("containerd's version", &status))?;
        let shim_group = runtime.shim_group(&run.run.uid, &version);
        let allow = self.config.allowed.host_paths();
        let volumes = sub_paths::Volumes { allow: allow.as_ref(), images: &views.mounts };
        let sub_paths = sub_paths::places(&self.config.run_dir, run, volumes, |text| {
            environment::expanded(text, run, &self.host(), &self.config.node_name)
        });
        let sub_paths = sub_paths.map_err(|why| StepError::new("CreateContainerConfigError", why))?;
        let bound = self.bind(run, &sub_paths).await?;
        let strict = match allow {
            Some(allow) => self.read_only(run, &sub_paths, (&bound, &allow), &runtime).await,
            None => Ok(None),
        };
        let strict = match strict {
            Ok(strict) => strict,
            Err(error) => return Err(unbound(bound, error).await),
        };
        let run = &CreateRun { container: strict.as_ref().unwrap_or(run.container), ..run.clone() };
        let (mut spec, adapted) =
            match self.spec_of(run, image, (&image_volumes, &sub_paths, &bound), (&runtime, &shim_group)).await {
                Ok(made) => made,
                Err(error) => return Err(unbound(bound, error).await),
            };
        let user = user_of(&spec);
        // Beside the record and the snapshot.
        let view = self.cgroup_view(run, &runtime, &mut spec);
        let cwd = spec.process().as_ref().map(|process| process.cwd().clone()).filter(|dir| dir != Path::new("/"));
        let spec = serde_json::to_vec(&spec).expect("a spec has only text keys");
        let options = runtime.options(matches!(run.sandbox.cgroup, CgroupParent::Systemd(_)), run.sandbox.users);
        let mut labels = labels::of_run(run, image, &adapted, user.as_ref());
        labels.extend(views.labels);
        let created = CreatedRun {
            image_id: image.image_id(),
            adapted: labels.get(labels::ADAPTED).cloned().unwrap_or_default(),
            image: labels.get(labels::IMAGE).cloned().unwrap_or_default(),
            user: labels::user(&labels),
        };
        if !classes::tells_ends(&runtime.name) {
            self.ends.expect(&id);
        }
        let record = ContainerRecord {
            id: id.clone(),
            labels,
            image: image.name.clone(),
            runtime: Some(RecordRuntime { name: runtime.name.clone(), options: options.clone() }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec.clone() }),
            snapshotter: self.config.snapshotter.clone(),
            snapshot_key: id.clone(),
            ..ContainerRecord::default()
        };
        let spec_made = Instant::now();
        match create_record(&self.client, &record).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::AlreadyExists => {
                let left = self.complete(&id, &spec).await;
                if let Some(task) = left.map_err(|status| refused("looking at what is left", &status))? {
                    // A killed agent may have made it and not looked.
                    if task.status() == TaskStatus::Created
                        && let Err(error) = self.check_beginning(task.pid, cwd, &runtime).await
                    {
                        let _ = self.remove(&id).await;
                        return Err(error);
                    }
                    return Ok(created);
                }
                // Its views have the same names, and are in use again.
                let removed = self.remove_but(&id, &record.labels).await;
                removed.map_err(|status| refused("replacing what is left", &status))?;
                create_record(&self.client, &record).await.map_err(|status| refused("the record", &status))?;
            }
            Err(status) => return Err(refused("the record", &status)),
        }
        self.heard.forget(&id);
        let record_made = Instant::now();
        let mut snapshot_made = record_made;
        let made = async {
            let names = (id.as_str(), image.chain_id.as_str());
            let rootfs = snapshots::prepare(&self.client, &self.config.snapshotter, names, run.sandbox.users)
                .await
                .map_err(|status| refused("the snapshot", &status))?;
            if let Some(dir) = &cwd {
                check_directory(dir, &rootfs).await?;
            }
            snapshot_made = Instant::now();
            if !image_volumes.is_empty() {
                self.fill(run, image_volumes, rootfs.clone()).await?;
            }
            let text = |path: &Path| path.to_string_lossy().into_owned();
            let task = NewTask {
                id: id.clone(),
                rootfs,
                stdin: stdin::make(run, self.config.stdin(&id))?,
                stdout: text(&run.stdout),
                stderr: text(&run.stderr),
                terminal: run.container.tty,
                options,
            };
            propagation::check(run, &sub_paths).map_err(|why| StepError::new("CreateContainerError", why))?;
            let view = self.viewed(view).await?;
            let turn = self.turns.of(&run.run.uid).await;
            let created = tasks::create(&self.client, &task).await;
            drop(turn);
            cgroup_view::leave(view);
            // The container has its own copies by now.
            unbound(bound, ()).await;
            let pid = created.map_err(|status| refused("the task", &status))?;
            self.check_beginning(pid, cwd, &runtime).await
        };
        let outcome = made.await;
        let micros = |from: Instant, to: Instant| u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
        // Where the time of a slow start goes.
        tracing::debug!(
            run = %run.run,
            spec_us = micros(begun, spec_made),
            record_us = micros(spec_made, record_made),
            snapshot_us = micros(record_made, snapshot_made),
            task_us = micros(snapshot_made, Instant::now()),
            "create"
        );
        if outcome.as_ref().is_err_and(|error| !error.unavailable) {
            // What is left would be met by the next try anyway; the first error is the one to tell.
            let _ = self.remove(&id).await;
        }
        outcome.map(|()| created)
    }

    async fn spec_of(
        &self,
        run: &CreateRun<'_>,
        image: &ImageFacts,
        (image_volumes, sub_paths, bound): (&BTreeMap<PathBuf, PathBuf>, &BTreeMap<usize, SubPath>, &Bound),
        (runtime, shim_group): (&OciRuntime, &str),
    ) -> Result<(Spec, Vec<oci::Adapted>), StepError> {
        let default_profile = match (&run.container.security.apparmor, run.container.security.privileged) {
            (Some(AppArmor::Unconfined | AppArmor::Localhost(_)), _) | (_, true) => IsNeeded::No,
            (Some(AppArmor::RuntimeDefault) | None, false) => IsNeeded::Yes,
        };
        let (accounts, apparmor) = tokio::join!(self.accounts(image), self.apparmor.ready(default_profile));
        let accounts = accounts.map_err(|status| {
            self.client.step_error("CreateContainerError", &format!("the accounts in image {}", image.name), &status)
        })?;
        let host = self.host();
        let (host_devices, volume_devices) = devices(&self.device_looks, run, sub_paths, bound).await?;
        let recursive_read_only = self.recursion.asked(run, runtime).await;
        let seccomp_profile = self.seccomp_profile(run).await?;
        let selinux = match run.container.security.selinux {
            Some(_) => selinux::Node::read(),
            None => selinux::Node::Off,
        };
        let inputs = Inputs {
            run,
            image,
            accounts: &accounts,
            host: &host,
            apparmor: &apparmor,
            host_devices: &host_devices,
            volume_devices: &volume_devices,
            image_volumes,
            sub_paths,
            recursive_read_only: &recursive_read_only,
            node_name: &self.config.node_name,
            seccomp_default: self.config.seccomp_default,
            memory: self.config.memory,
            seccomp_abi: self.config.seccomp_abi,
            seccomp_profile: &seccomp_profile,
            huge_pages: &huge_pages::Node::read(host.cgroup_v2),
            selinux: &selinux,
            shim_group,
        };
        oci::spec(&inputs).map_err(|error| StepError::new(error.reason(), error.to_string()))
    }

    /// The file of the profile that the container asks for; empty where it asks for none.
    async fn seccomp_profile(&self, run: &CreateRun<'_>) -> Result<Vec<u8>, StepError> {
        let security = &run.container.security;
        let Some(Seccomp::Localhost(profile)) = security.seccomp.as_ref().filter(|_| !security.privileged) else {
            return Ok(Vec::new());
        };
        let (directory, path) = (self.config.seccomp_dir.clone(), profile.clone());
        let looked = self.device_looks.look(vec![directory.join(&path)], move || localhost::read(&directory, &path));
        let read = looked.await.unwrap_or_else(|hung| Err(hung.to_string()));
        read.map_err(|why| {
            let refused = oci::SpecError::SeccompProfile { profile: profile.clone(), why };
            StepError::new(refused.reason(), refused.to_string())
        })
    }

    /// Binds the parts of volumes that this container mounts; they are there until what is returned is dropped.
    async fn bind(&self, run: &CreateRun<'_>, sub_paths: &BTreeMap<usize, SubPath>) -> Result<Bound, StepError> {
        if sub_paths.is_empty() {
            return Ok(Bound::default());
        }
        let failed = |why: String| {
            let message = format!("the volumes of container {}: {why}", run.run);
            StepError::new("CreateContainerConfigError", message)
        };
        let parts: Vec<SubPath> = sub_paths.values().cloned().collect();
        let volumes = parts.iter().map(|part| part.volume.clone()).collect();
        let reach = reach(self.client.peer_pid())
            .map_err(|error| failed(format!("containerd's mount namespace cannot be looked at: {error}")))?;
        let binding = self.device_looks.look(volumes, move || sub_paths::bind(&parts, reach));
        let bound = binding.await.map_err(|hung| failed(hung.to_string()))?;
        bound.map_err(|error| failed(chain(&error)))
    }

    /// The container with everything made read-only below what it mounts of the host where only that is allowed: otherwise a
    /// file system that is mounted there could be written to. None: it mounts nothing of that kind.
    async fn read_only(
        &self,
        run: &CreateRun<'_>,
        parts: &BTreeMap<usize, SubPath>,
        (bound, allow): (&Bound, &Allow),
        runtime: &OciRuntime,
    ) -> Result<Option<Container>, StepError> {
        let ruled = only_readable(run.container, parts, bound, allow);
        if ruled.is_empty() {
            return Ok(None);
        }
        let mut strict = run.container.clone();
        for index in &ruled {
            strict.mounts[*index].recursive_read_only = RecursiveReadOnly::Enabled;
        }
        if let Err(why) = self.recursion.asked(&CreateRun { container: &strict, ..run.clone() }, runtime).await {
            for index in ruled {
                let (mount, asked) = (&mut strict.mounts[index], &run.container.mounts[index]);
                plainly_readable(run, &parts[&index], asked, &why)?;
                mount.recursive_read_only = asked.recursive_read_only;
            }
        }
        Ok(Some(strict))
    }

    /// What runc made of the working directory, before anything of the container's own has run: a volume may have held a link that no
    /// look at the image finds.
    async fn check_beginning(&self, pid: u32, dir: Option<PathBuf>, runtime: &OciRuntime) -> Result<(), StepError> {
        // Of a foreign process namespace the pids are not ours.
        let visible = runtime.has_processes_here() && self.client.peer_pid().is_some();
        let Some(dir) = dir.filter(|_| visible) else { return Ok(()) };
        let looked = threads::in_turn(move || if working_dir::is_its_own(pid) { None } else { Some(dir) });
        match looked.await {
            Ok(None) => Ok(()),
            Ok(Some(dir)) => Err(leads(dir, "the host's own files".into())),
            Err(ended) => {
                Err(StepError::new("CreateContainerError", format!("the look at its directory ended: {ended}")))
            }
        }
    }

    /// Makes the image's VOLUMEs for this run.
    async fn fill(
        &self,
        run: &CreateRun<'_>,
        places: BTreeMap<PathBuf, PathBuf>,
        rootfs: Vec<Mount>,
    ) -> Result<(), StepError> {
        let failed = |why: String| {
            StepError::new("CreateContainerError", format!("image volumes for container {}: {why}", run.run))
        };
        let Some(of_run) = image_volumes::of_run(&self.config.state_dir, &run.run) else { return Ok(()) };
        let filling = threads::in_turn(move || image_volumes::make(&of_run, &places, &rootfs));
        match filling.await {
            Ok(filled) => filled.map_err(|error| failed(chain(&error))),
            Err(ended) => Err(failed(ended.to_string())),
        }
    }

    /// Removes the VOLUMEs of a run that has ended. What fails is left to the pod's tear-down.
    async fn empty(&self, labels: &HashMap<String, String>) {
        let Some((_, run)) = labels::identity(labels) else { return };
        let of_run = image_volumes::of_run(&self.config.state_dir, &run).filter(|place| place.exists());
        let Some(of_run) = of_run else { return };
        if let Ok(Err(error)) = threads::in_turn(move || image_volumes::remove(&of_run)).await {
            tracing::warn!(%run, error = %error, "image volumes stay until the pod is torn down");
        }
    }

    /// The task, where what is there is what would be made: the same spec, and a task that has not ended.
    async fn complete(&self, id: &str, wanted: &[u8]) -> Result<Option<Process>, Status> {
        let Some(record) = get_record(&self.client, id).await? else { return Ok(None) };
        let same = record.spec.is_some_and(|spec| oci::is_same(&spec.value, wanted));
        let task = if same { tasks::get(&self.client, id).await? } else { None };
        Ok(task.filter(|it| matches!(it.status(), TaskStatus::Created | TaskStatus::Running)))
    }

    /// Task, record and snapshot; Ok when nothing is there.
    pub(super) async fn remove(&self, id: &str) -> Result<(), Status> {
        self.remove_but(id, &HashMap::new()).await
    }

    /// All but the views of image volumes that `kept`, the labels of a record to come, names.
    async fn remove_but(&self, id: &str, kept: &HashMap<String, String>) -> Result<(), Status> {
        let connection = self.client.connections();
        tasks::delete(&self.client, id).await?;
        let record = get_record(&self.client, id).await?;
        if let Some(record) = &record {
            // Before the record, which is what the next try knows them by.
            self.empty(&record.labels).await;
        }
        let (snapshotter, labels) = record.map(|it| (it.snapshotter, it.labels)).unwrap_or_default();
        let snapshotter = Some(snapshotter).filter(|name| !name.is_empty());
        let request = DeleteContainerRequest { id: id.to_owned() };
        found(bounded(QUICK, self.client.containers().delete(self.client.request(request))).await)?;
        if self.client.connections() != connection {
            // Another containerd than the one that had no task may have found one since.
            tokio::spawn(left::delete_orphans(self.client.clone()));
        }
        let snapshotter = snapshotter.as_ref().unwrap_or(&self.config.snapshotter);
        snapshots::remove(&self.client, snapshotter, id).await?;
        self.remove_views(&labels, kept).await?;
        self.heard.forget(id);
        self.late.forget(id);
        self.ends.forget(id);
        exec::forget(&self.config.exec_dir(), id);
        // Most have none.
        let _ = std::fs::remove_file(self.config.stdin(id));
        Ok(())
    }

    pub(super) async fn list(&self, workload: Option<&WorkloadKey>) -> Result<Vec<ObservedContainer>, Status> {
        let request = ListContainersRequest { filters: vec![labels::filter(workload)] };
        let mut containers = self.client.containers();
        // A stream of single records: a list of all, each with its spec, would be megabytes in one piece.
        let all = async {
            let mut stream = containers.list_stream(self.client.request(request)).await?.into_inner();
            let mut ours = Vec::new();
            while let Some(message) = stream.message().await? {
                let Some(ContainerRecord { id, labels, runtime, .. }) = message.container else { continue };
                if let Some((workload, run)) = labels::identity(&labels) {
                    let told = runtime.is_none_or(|runtime| classes::tells_ends(&runtime.name));
                    ours.push((id, workload, run, labels, told));
                }
            }
            Ok(containerd_client::tonic::Response::new(ours))
        };
        let ours = bounded(QUICK, all).await?;
        // One by one, so that only the pod's own shim can make its answer late.
        let ids: Vec<String> = ours.iter().map(|(id, ..)| id.clone()).collect();
        let mut asked = self.late.ask(&self.client, &self.heard, ids).await?;
        let mut observed = Vec::with_capacity(ours.len());
        let of_our_namespace = self.client.peer_pid().is_some();
        for (id, workload, run, labels, told) in ours {
            let mut asked = asked.remove(&id).unwrap_or(Asked::NoTask);
            if let Asked::Task(process) = &asked
                && process.status() == TaskStatus::Running
                && !told
                && of_our_namespace
                && self.ends.is_over(&self.heard, &id, process.pid)
            {
                asked = Asked::NoTask;
            }
            let state = state_of(&id, asked, &self.heard, labels.get(labels::CGROUP));
            let label = |name| labels.get(name).cloned().unwrap_or_default();
            let (image_id, adapted) = (label(labels::IMAGE_ID), label(labels::ADAPTED));
            let (not_refreshed, image) = (label(labels::NOT_REFRESHED), label(labels::IMAGE));
            let user = labels::user(&labels);
            observed.push(ObservedContainer {
                id,
                workload,
                run,
                image_id,
                adapted,
                not_refreshed,
                image,
                user,
                state,
            });
        }
        Ok(observed)
    }

    /// The label that holds the image's STOPSIGNAL; None when the container is gone or its image has none.
    pub(super) async fn stop_signal_label(&self, id: &str) -> Result<Option<String>, Status> {
        Ok(get_record(&self.client, id).await?.and_then(|mut record| record.labels.remove(labels::STOP_SIGNAL)))
    }
}

/// Whether the image itself leads the working directory into /proc; `rootfs`: the mounts of the run's fresh snapshot. One that
/// cannot be looked into is judged by its task alone.
async fn check_directory(dir: &Path, rootfs: &[Mount]) -> Result<(), StepError> {
    let Some(layers) = snapshots::image_layers(rootfs) else { return Ok(()) };
    let dir = dir.to_owned();
    let looked =
        threads::in_turn(move || working_dir::check_in_image(&layers, &dir).map_err(|place| leads(dir, place)));
    looked.await.unwrap_or_else(|ended| {
        Err(StepError::new("CreateContainerError", format!("the look at its directory ended: {ended}")))
    })
}

fn leads(dir: PathBuf, place: PathBuf) -> StepError {
    let refused = oci::SpecError::WorkingDirLeads { dir, place };
    StepError::new(refused.reason(), refused.to_string())
}

/// Undoes the binds, where that may take its time: a file system that is gone may hold whoever asks for it.
async fn unbound<T>(bound: Bound, then: T) -> T {
    if bound.is_empty() {
        return then;
    }
    // It does not panic, and what it cannot undo it says itself.
    let _ = tokio::task::spawn_blocking(move || drop(bound)).await;
    then
}

/// The mounts, by their place among the container's, of the host's paths where only reading is allowed.
fn only_readable(container: &Container, parts: &BTreeMap<usize, SubPath>, bound: &Bound, allow: &Allow) -> Vec<usize> {
    let real = |index: &usize| parts.get(index).and_then(|part| bound.real(&part.bound));
    let ruled = |index: &usize| real(index).is_some_and(|real| allow.may_write(real) != Some(true));
    (0..container.mounts.len()).filter(ruled).collect()
}

/// Where this node cannot make all read-only that is mounted below a host path, a path is good that has nothing mounted below.
/// Err: it has, or that cannot be told.
fn plainly_readable(run: &CreateRun<'_>, part: &SubPath, mount: &VolumeMount, why: &str) -> Result<(), StepError> {
    let refused = |what: String| {
        let message = format!(
            "{what} of container {}: {HOST_PATH} allows only reading there, and what is mounted below it on this node cannot be made read-only: {why}; {HOST_PATH} ...:ro needs Linux 5.12 and runc 1.1 for that",
            run.run
        );
        Err(StepError::new("CreateContainerConfigError", message))
    };
    match part.bound.canonicalize().and_then(|place| Bound::has_below(&place)) {
        Ok(false) => Ok(()),
        Ok(true) => refused(mount.mount_path.clone()),
        Err(error) => refused(format!("{} ({error})", mount.mount_path)),
    }
}

/// The node's devices where the container is privileged, and those of the volumes that it mounts.
async fn devices(
    looks: &Looks,
    run: &CreateRun<'_>,
    parts: &BTreeMap<usize, SubPath>,
    bound: &Bound,
) -> Result<(Vec<HostDevice>, BTreeMap<String, HostDevice>), StepError> {
    let privileged = run.container.security.privileged;
    let kind_of = |name: &String| {
        let volume = run.template.spec.volumes.iter().find(|volume| volume.name == *name);
        volume.map_or(Some(HostPathKind::Unset), |volume| match &volume.source {
            VolumeSource::HostPath { kind, .. } => Some(*kind),
            VolumeSource::EmptyDir(_) | VolumeSource::Projected(_) | VolumeSource::Image(_) => None,
        })
    };
    // Where it is to be looked at, what it is there, and as what it was asked for.
    let looked_at = |index: usize, name: &String| {
        let judged = parts.get(&index).and_then(|part| Some((part.bound.clone(), bound.real(&part.bound)?.to_owned())));
        let path = run.sandbox.volumes.get(name)?;
        let (at, path) = judged.unwrap_or_else(|| (path.clone(), path.clone()));
        Some((at, path, kind_of(name)?))
    };
    let mounted = run.container.mounts.iter().enumerate();
    let volumes: BTreeMap<String, (PathBuf, PathBuf, HostPathKind)> =
        mounted.filter_map(|(index, mount)| Some((mount.volume.clone(), looked_at(index, &mount.volume)?))).collect();
    if !privileged && volumes.is_empty() {
        return Ok(Default::default());
    }
    let paths = volumes.values().map(|(_, path, _)| path.clone()).collect();
    let looked = looks.look(paths, move || {
        let of_volumes = volumes.into_iter().filter_map(|(name, (at, path, kind))| {
            let device = host::device_at(&at, &path, kind)?;
            Some((name, device))
        });
        (of_volumes.collect(), if privileged { host::devices() } else { Vec::new() })
    });
    looked.await.map(|(of_volumes, all)| (all, of_volumes)).map_err(|why| {
        let message = format!("looking at the devices for container {}: {why}", run.run);
        StepError::new("CreateContainerError", message)
    })
}

/// What is learnt of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    NoTask,
    Task(Process),
    /// containerd has a task and did not learn from the shim how it stands: a shim that has ended has no task instead.
    Unanswered,
}

/// Asks for the tasks of these containers, by id. Err when containerd itself does not answer or refuses.
pub(super) async fn ask(client: &Client, ids: &[String]) -> Result<BTreeMap<String, Asked>, Status> {
    let one = |id: String| {
        let client = client.clone();
        async move {
            let asked = match tasks::get(&client, &id).await {
                Ok(None) => Asked::NoTask,
                Ok(Some(process)) if process.status() == TaskStatus::Unknown => Asked::Unanswered,
                Ok(Some(process)) => Asked::Task(process),
                // A containerd that waits longer for its shims than we for it.
                Err(status) if status.code() == Code::DeadlineExceeded => Asked::Unanswered,
                // It came over the connection and not out of an answer: there is nobody to ask.
                Err(status) if std::error::Error::source(&status).is_some() => return Err(status),
                // The container's own shim is in trouble; the others' are to be asked nonetheless.
                Err(_) => Asked::Unanswered,
            };
            Ok((id, asked))
        }
    };
    if let [id] = ids {
        return Ok(BTreeMap::from([one(id.clone()).await?]));
    }
    let mut answers = BTreeMap::new();
    for ids in ids.chunks(ASK_AT_ONCE_MAX) {
        let mut asking: JoinSet<_> = ids.iter().cloned().map(one).collect();
        while let Some(asked) = asking.join_next().await {
            let (id, asked) = asked.expect("neither panics nor is it aborted before the set is dropped")?;
            answers.insert(id, asked);
        }
    }
    Ok(answers)
}

fn state_of(id: &str, asked: Asked, heard: &Heard, cgroups_path: Option<&String>) -> ContainerState {
    let exited = |exit_code, finished_at| {
        let oom = heard.oom(id) || cgroups_path.is_some_and(|path| cgroup::oom_killed(path));
        ContainerState::Exited { exit_code, oom, finished_at }
    };
    let process = match asked {
        Asked::Task(process) => process,
        // Newer containerds forget what ended before they restarted; we have heard it.
        Asked::NoTask => return heard.exit(id).map_or(ContainerState::NoTask, |exit| exited(exit.code, exit.at)),
        Asked::Unanswered => return ContainerState::Unanswered,
    };
    match process.status() {
        TaskStatus::Created => ContainerState::Created,
        TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => ContainerState::Running { pid: process.pid },
        TaskStatus::Stopped => exited(process.exit_status, tasks::time(process.exited_at)),
        TaskStatus::Unknown => ContainerState::Unanswered,
    }
}

/// Whom the first process begins as.
fn user_of(spec: &Spec) -> Option<RunUser> {
    let user = spec.process().as_ref()?.user();
    Some(RunUser { uid: user.uid(), gid: user.gid(), groups: user.additional_gids().clone().unwrap_or_default() })
}

pub(super) async fn create_record(client: &Client, record: &ContainerRecord) -> Result<(), Status> {
    let request = CreateContainerRequest { container: Some(record.clone()) };
    bounded(QUICK, client.containers().create(client.request(request))).await.map(|_| ())
}

pub(super) async fn get_record(client: &Client, id: &str) -> Result<Option<ContainerRecord>, Status> {
    let request = GetContainerRequest { id: id.to_owned() };
    let answer = found(bounded(QUICK, client.containers().get(client.request(request))).await)?;
    Ok(answer.and_then(|it| it.container))
}
