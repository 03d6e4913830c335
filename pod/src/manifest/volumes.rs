//! `spec.volumes`: each volume with its one source, by Kubernetes' rules.

use std::collections::BTreeSet;

use super::findings::{At, Findings};
use super::tree::Value;
use super::{container, names, pod, projected, quantity, resources, security};
use crate::spec::{EmptyDir, HostPathKind, ImageVolume, Medium, Volume, VolumeSource};

/// The pod's volumes. One whose source is refused is there under its name, so that its mounts are not blamed as well.
pub fn read(spec: &At<'_>, findings: &mut Findings) -> Vec<Volume> {
    let mut seen = BTreeSet::new();
    let mut volumes = Vec::new();
    let group = security::fs_group(spec);
    for item in spec.list("volumes", findings) {
        let Some(at) = item.need("name", findings) else { continue };
        let Some(name) = at.text(findings) else { continue };
        if let Some(reason) = names::dns_label(name) {
            findings.rule(&at, reason);
        }
        if !seen.insert(name) {
            findings.impossible(&at, format!("two volumes are named {}: give each its own name", names::shown(name)));
        }
        let source = source(&item, group, findings).unwrap_or_else(nowhere);
        volumes.push(Volume { name: name.to_owned(), source });
    }
    volumes.shrink_to_fit();
    volumes
}

/// Stands for a source that was refused: a document with one is refused.
fn nowhere() -> VolumeSource {
    VolumeSource::HostPath { path: "/nonexistent".into(), kind: HostPathKind::Directory }
}

/// `group`: the pod's `fsGroup`.
fn source(volume: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<VolumeSource> {
    let mut named = volume.entries(findings);
    named.retain(|(key, at)| *key != "name" && at.node.value != Value::Null);
    match named.as_slice() {
        [] => {
            findings.impossible(volume, "names no source: give it a hostPath, an emptyDir, a configMap or a secret");
            None
        }
        [("hostPath", at)] => host_path(at, findings),
        [("configMap", at)] => projected::config_map(at, group, findings).map(VolumeSource::Projected),
        [("secret", at)] => projected::secret(at, group, findings).map(VolumeSource::Projected),
        [("downwardAPI", at)] => projected::downward_api(at, group, findings).map(VolumeSource::Projected),
        [("projected", at)] => projected::projected(at, group, findings).map(VolumeSource::Projected),
        [("emptyDir", at)] => empty_dir(at, group, findings),
        [("image", at)] => image(at, findings),
        // The field table knows the reason; this only keeps a record with it from being run.
        [(_, other)] => {
            findings.impossible(other, "cannot be used here: use hostPath or emptyDir");
            None
        }
        _ => {
            findings.impossible(volume, "names more than one source: leave only one of them");
            None
        }
    }
}

fn host_path(at: &At<'_>, findings: &mut Findings) -> Option<VolumeSource> {
    let path = at.need("path", findings)?;
    let text = path.text(findings)?;
    if !text.starts_with('/') {
        findings.impossible(&path, format!("{} must be an absolute path", names::shown(text)));
    }
    if text.split('/').any(|part| part == "..") {
        findings.impossible(&path, "must not contain `..`: write the path that is meant");
    }
    if text.contains('\0') {
        findings.impossible(&path, "must not contain a NUL character");
    }
    let kind = match at.text_in("type", findings) {
        None | Some("") => HostPathKind::Unset,
        Some("DirectoryOrCreate") => HostPathKind::DirectoryOrCreate,
        Some("Directory") => HostPathKind::Directory,
        Some("FileOrCreate") => HostPathKind::FileOrCreate,
        Some("File") => HostPathKind::File,
        Some("Socket") => HostPathKind::Socket,
        Some("CharDevice") => HostPathKind::CharDevice,
        Some("BlockDevice") => HostPathKind::BlockDevice,
        Some(other) => {
            let allowed =
                ["DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
            return pod::one_of(at, "type", other, &allowed, findings);
        }
    };
    Some(VolumeSource::HostPath { path: text.to_owned(), kind })
}

fn image(at: &At<'_>, findings: &mut Findings) -> Option<VolumeSource> {
    let reference = container::image_name(at, "reference", findings)?;
    let pull_policy = container::pull_policy(at, "pullPolicy", &reference, findings)?;
    Some(VolumeSource::Image(ImageVolume { reference, pull_policy }))
}

fn empty_dir(at: &At<'_>, group: Option<u32>, findings: &mut Findings) -> Option<VolumeSource> {
    let medium = medium(at, findings)?;
    let size_limit = match at.get("sizeLimit") {
        None => None,
        Some(limit) => {
            let (_, quantity) = resources::quantity(&limit, findings)?;
            if quantity.milli < 0 {
                findings.impossible(&limit, "must not be negative");
            }
            // As in Kubernetes 0 is no limit.
            Some(resources::bytes(quantity)).filter(|bytes| *bytes > 0)
        }
    };
    Some(VolumeSource::EmptyDir(EmptyDir { medium, size_limit, group }))
}

fn medium(at: &At<'_>, findings: &mut Findings) -> Option<Medium> {
    let written = match at.text_in("medium", findings) {
        None | Some("") => return Some(Medium::Disk),
        Some("Memory") => return Some(Medium::Memory),
        Some("HugePages") => return Some(Medium::HugePages(None)),
        Some(written) => written,
    };
    let size = written.strip_prefix("HugePages-").and_then(quantity::parse).map(resources::bytes);
    match size.filter(|bytes| bytes.is_power_of_two() && *bytes >= 1024) {
        Some(bytes) => Some(Medium::HugePages(Some(bytes))),
        None => pod::one_of(at, "medium", written, &["Memory", "HugePages", "HugePages-2Mi and its like"], findings),
    }
}
