//! A pod's volumes on the host: each kind of source in a file of its own.
//!
//! Driven by `sandbox`. Blocking: a volume may lie on a file system that does not answer, so never on the runtime's thread.

mod empty_dir;
mod host_path;
pub mod kept;
pub mod projected;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pod::allow::{self, Access, Allow};
use pod::qos;
use pod::spec::{EmptyDir, Medium, PodSpec, Volume, VolumeSource};

/// A volume that cannot be given to the pod; Kubernetes' reason is FailedMount.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {volume}: hostPath {path:?} has to be absolute and without `..`")]
    NotPlain { volume: String, path: String },
    #[error(
        "volume {volume}: hostPath type check failed: {path} does not exist, and type {kind} does not make it; make it on this node, or choose {instead}"
    )]
    Missing { volume: String, path: String, kind: &'static str, instead: &'static str },
    #[error("volume {volume}: hostPath type check failed: {path} is {found}, and type {kind} asks for {expected}")]
    WrongType { volume: String, path: String, found: &'static str, kind: &'static str, expected: &'static str },
    #[error("volume {volume}: hostPath {path} {why}")]
    Forbidden { volume: String, path: String, why: String },
    #[error("volume {volume}: cannot make {path} on this node for hostPath type {kind:?}")]
    Make { volume: String, path: String, kind: &'static str, source: io::Error },
    #[error("volume {volume}: cannot make the emptyDir {path}")]
    EmptyDir { volume: String, path: PathBuf, source: io::Error },
    #[error(
        "volume {volume}: this node has set no huge pages of {size} KiB aside; write their number to {file}, or choose another medium"
    )]
    NoHugePages { volume: String, size: u64, file: PathBuf },
    #[error("volume {volume}: its files are not there yet")]
    Unfilled { volume: String },
    #[error("volume {volume}: cannot look at {path} on this node")]
    Look { volume: String, path: String, source: io::Error },
}

/// What is wanted of a pod's volumes.
#[derive(Debug, Clone)]
pub struct Wanted {
    volumes: Vec<Volume>,
    /// Bytes that all containers together may use, where every one has a limit.
    memory_limit: Option<u64>,
    judged: Option<Judged>,
}

/// By which rules the host paths of a pod are judged.
#[derive(Debug, Clone)]
struct Judged {
    allow: Arc<Allow>,
    /// Whether any container writes to it, by volume.
    access: BTreeMap<String, Access>,
    when: When,
}

/// What the volumes are looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// For a first word on whether they can be had: a hostPath without a type is not made.
    SetUp,
    /// For a container that mounts them.
    Create,
}

impl Wanted {
    /// `allow`: the rules for host paths, where the node has some.
    pub fn of(spec: &PodSpec, allow: Option<Arc<Allow>>, when: When) -> Wanted {
        let access = || spec.volumes.iter().map(|it| (it.name.clone(), allow::access(spec, &it.name))).collect();
        let judged = allow.map(|allow| Judged { allow, access: access(), when });
        Wanted { volumes: spec.volumes.clone(), memory_limit: qos::of_pod(spec).memory_max, judged }
    }
}

/// The pod's directories.
#[derive(Debug, Clone)]
pub struct Places {
    /// On the state disk.
    pub disk: PathBuf,
    /// In memory: its mounts reach the runtime.
    pub memory: PathBuf,
}

/// Whether the pod's directory in memory has to be there before this volume.
pub fn needs_pod_dir(volume: &Volume) -> bool {
    match &volume.source {
        VolumeSource::HostPath { .. } | VolumeSource::Image(_) => false,
        // It stands before all else.
        VolumeSource::Projected(_) => true,
        VolumeSource::EmptyDir(EmptyDir { medium, .. }) => *medium != Medium::Disk,
    }
}

/// Checks every volume, makes what is to be made, and answers where each is on the host. What is there already stays as
/// it is.
pub fn resolve(wanted: &Wanted, places: &Places) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let place = |volume: &Volume| {
        let place = match &volume.source {
            VolumeSource::HostPath { path, kind } => {
                let judge = wanted.judged.as_ref().map(|judged| host_path::Judge {
                    allow: &judged.allow,
                    access: judged.access.get(&volume.name).copied().unwrap_or(Access::Write),
                    when: judged.when,
                });
                host_path::resolve(&volume.name, path, *kind, judge.as_ref())?
            }
            VolumeSource::Projected(_) => filled(&volume.name, places)?,
            // The runtime's, which has the image.
            VolumeSource::Image(_) => return Ok(None),
            VolumeSource::EmptyDir(of) => empty_dir::make(&volume.name, of, wanted.memory_limit, places)?,
        };
        Ok(Some((volume.name.clone(), place)))
    };
    wanted.volumes.iter().filter_map(|volume| place(volume).transpose()).collect()
}

/// Where the files of a projected volume are.
fn filled(volume: &str, places: &Places) -> Result<PathBuf, VolumeError> {
    let place = projected::place(&places.memory).join(volume);
    if place.is_dir() { Ok(place) } else { Err(VolumeError::Unfilled { volume: volume.into() }) }
}
