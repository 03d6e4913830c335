//! A pod's volumes on the host: each kind of source in a file of its own.
//!
//! Driven by `sandbox`. Blocking: a volume may lie on a file system that does not answer, so never on the runtime's thread.

mod host_path;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use pod::spec::{Volume, VolumeSource};

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
    #[error("volume {volume}: cannot make {path} on this node for hostPath type {kind:?}")]
    Make { volume: String, path: String, kind: &'static str, source: io::Error },
    #[error("volume {volume}: cannot look at {path} on this node")]
    Look { volume: String, path: String, source: io::Error },
}

/// Checks every volume, makes what is to be made, and answers where each is on the host.
pub fn resolve(volumes: &[Volume]) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let place = |volume: &Volume| {
        let place = match &volume.source {
            VolumeSource::HostPath { path, kind } => host_path::resolve(&volume.name, path, *kind)?,
        };
        Ok((volume.name.clone(), place))
    };
    volumes.iter().map(place).collect()
}
