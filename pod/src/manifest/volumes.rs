//! `spec.volumes`: each volume with its one source, by Kubernetes' rules.

use std::collections::BTreeSet;

use super::findings::{At, Findings};
use super::tree::Value;
use super::{names, pod};
use crate::spec::{HostPathKind, Volume, VolumeSource};

/// The pod's volumes. One whose source is refused is there under its name, so that its mounts are not blamed as well.
pub fn read(spec: &At<'_>, findings: &mut Findings) -> Vec<Volume> {
    let mut seen = BTreeSet::new();
    let mut volumes = Vec::new();
    for item in spec.list("volumes", findings) {
        let Some(at) = item.need("name", findings) else { continue };
        let Some(name) = at.text(findings) else { continue };
        if let Some(reason) = names::dns_label(name) {
            findings.rule(&at, reason);
        }
        if !seen.insert(name) {
            findings.impossible(&at, format!("two volumes are named {}: give each its own name", names::shown(name)));
        }
        let source = source(&item, findings).unwrap_or_else(nowhere);
        volumes.push(Volume { name: name.to_owned(), source });
    }
    volumes
}

/// Stands for a source that was refused: a document with one is refused.
fn nowhere() -> VolumeSource {
    VolumeSource::HostPath { path: "/nonexistent".into(), kind: HostPathKind::Directory }
}

fn source(volume: &At<'_>, findings: &mut Findings) -> Option<VolumeSource> {
    let mut named = volume.entries(findings);
    named.retain(|(key, at)| *key != "name" && at.node.value != Value::Null);
    match named.as_slice() {
        [] => {
            findings.impossible(volume, "names no source: give it a hostPath");
            None
        }
        [("hostPath", at)] => host_path(at, findings),
        // The field table knows the reason; this only keeps a record with it from being run.
        [(_, other)] => {
            findings.impossible(other, "only hostPath volumes can be used");
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
