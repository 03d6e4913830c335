//! `volumeMounts` of a container: which volume is where, and how mounts cross.

use std::collections::BTreeSet;

use super::container::{Pod, normal};
use super::findings::{At, Findings};
use super::{names, pod, walk};
use crate::spec::{Propagation, RecursiveReadOnly, SubPath, VolumeMount};

/// Reads the mounts of the container at `at`, which is `privileged` or not.
pub fn read(at: &At<'_>, of_pod: &Pod<'_>, privileged: bool, findings: &mut Findings) -> Vec<VolumeMount> {
    let mut seen = BTreeSet::new();
    let mut mounts = Vec::new();
    for item in at.list("volumeMounts", findings) {
        let read_only = item.boolean_in("readOnly", findings).unwrap_or(false);
        let propagation = propagation(&item, privileged, findings);
        let recursive_read_only = recursive_read_only(&item, read_only, propagation, findings);
        let sub_path = sub_path(&item, findings);
        let name = item.need("name", findings);
        let path = item.need("mountPath", findings);
        let (Some(name), Some(path)) = (name, path) else { continue };
        let (Some(volume), Some(mount_path)) = (name.text(findings), path.text(findings)) else { continue };
        if !of_pod.volumes.contains(volume) {
            let near = if findings.is_full() { None } else { walk::nearest(volume, of_pod.volumes.iter().copied()) };
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None => "add it to spec.volumes".to_owned(),
            };
            findings.impossible(&name, format!("the pod has no volume {}: {hint}", names::shown(volume)));
        }
        if !mount_path.starts_with('/') {
            findings.impossible(&path, format!("{} must be an absolute path", names::shown(mount_path)));
        } else if mount_path.split('/').any(|part| part == "..") || mount_path.contains(['\0', ':']) {
            findings.impossible(&path, "must not contain `..`, `:` or NUL: write the path that is meant");
        }
        let parts = normal(mount_path);
        if parts.is_empty() {
            findings.impossible(&path, "cannot be the root of the container's file system");
        } else if !seen.insert(parts) {
            findings
                .rule(&path, format!("{} is mounted twice: give each mount its own path", names::shown(mount_path)));
        }
        mounts.push(VolumeMount {
            volume: volume.to_owned(),
            mount_path: mount_path.to_owned(),
            read_only,
            propagation,
            recursive_read_only,
            sub_path,
        });
    }
    mounts.shrink_to_fit();
    mounts
}

fn sub_path(mount: &At<'_>, findings: &mut Findings) -> Option<SubPath> {
    let literal = descending(mount, "subPath", findings);
    let expression = descending(mount, "subPathExpr", findings);
    if literal.is_some()
        && expression.is_some()
        && let Some(at) = mount.get("subPathExpr")
    {
        findings.impossible(&at, "cannot stand beside subPath: drop one of the two");
    }
    literal.map(SubPath::Literal).or(expression.map(SubPath::Expression))
}

/// A relative path that does not climb; None where it is absent or empty.
fn descending(mount: &At<'_>, key: &str, findings: &mut Findings) -> Option<String> {
    let at = mount.get(key)?;
    let path = at.text(findings).filter(|path| !path.is_empty())?;
    if path.starts_with('/') {
        findings.impossible(&at, format!("{} must be relative to the volume", names::shown(path)));
    }
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        findings.impossible(&at, "must not contain `..` or NUL: write the path that is meant");
    }
    Some(path.to_owned())
}

fn propagation(mount: &At<'_>, privileged: bool, findings: &mut Findings) -> Propagation {
    const ALLOWED: [&str; 3] = ["None", "HostToContainer", "Bidirectional"];
    let Some(at) = mount.get("mountPropagation") else { return Propagation::None };
    match at.text(findings) {
        None | Some("None") => Propagation::None,
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => {
            if !privileged {
                findings.impossible(&at, "Bidirectional is for privileged containers only");
            }
            Propagation::Bidirectional
        }
        Some(other) => {
            pod::one_of::<()>(mount, "mountPropagation", other, &ALLOWED, findings);
            Propagation::None
        }
    }
}

fn recursive_read_only(
    mount: &At<'_>,
    read_only: bool,
    propagation: Propagation,
    findings: &mut Findings,
) -> RecursiveReadOnly {
    const ALLOWED: [&str; 3] = ["Disabled", "IfPossible", "Enabled"];
    let Some(at) = mount.get("recursiveReadOnly") else { return RecursiveReadOnly::Disabled };
    let asked = match at.text(findings) {
        None | Some("Disabled") => return RecursiveReadOnly::Disabled,
        Some("IfPossible") => RecursiveReadOnly::IfPossible,
        Some("Enabled") => RecursiveReadOnly::Enabled,
        Some(other) => {
            pod::one_of::<()>(mount, "recursiveReadOnly", other, &ALLOWED, findings);
            return RecursiveReadOnly::Disabled;
        }
    };
    if !read_only {
        findings.impossible(&at, "may be used only where readOnly is true");
    }
    if propagation != Propagation::None {
        findings.impossible(&at, "may be used only where mountPropagation is None");
    }
    asked
}
