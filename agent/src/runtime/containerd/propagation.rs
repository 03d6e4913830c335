//! mountPropagation: what the OCI spec says of it, and whether the node's mounts can give it.
//!
//! Used by `oci` and `containers`.

use std::collections::BTreeMap;
use std::path::Path;

use pod::spec::{Propagation, VolumeMount};

use super::sub_paths::SubPath;
use crate::mountinfo::{self, Mounted};
use crate::seams::CreateRun;

/// The mount option.
pub fn word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// `linux.rootfsPropagation`: a container's mounts can propagate no further than its root does. None: the runtime's choice.
pub fn of_root(mounts: &[VolumeMount]) -> Option<String> {
    let farthest = mounts.iter().map(|mount| mount.propagation).max()?;
    (farthest != Propagation::None).then(|| word(farthest).to_owned())
}

/// Whether each volume lies on a mount that lets through what its mount asks for; without it nothing would ever cross, and
/// nobody would be told. Reads the table of mounts only for a container that asks.
pub fn check(run: &CreateRun<'_>, sub_paths: &BTreeMap<usize, SubPath>) -> Result<(), String> {
    if run.container.mounts.iter().all(|mount| mount.propagation == Propagation::None) {
        return Ok(());
    }
    let all = mountinfo::read().map_err(|error| format!("cannot read this node's mounts: {error}"))?;
    run.container.mounts.iter().enumerate().try_for_each(|(index, mount)| {
        let Some(source) = run.sandbox.volumes.get(&mount.volume) else { return Ok(()) };
        // The bind of a part propagates as the mount in which the part lies.
        let bound = sub_paths.get(&index).filter(|part| !part.is_whole()).map(|part| &part.bound);
        let Some(mounted) = mountinfo::of(bound.unwrap_or(source), &all) else { return Ok(()) };
        judge(source, mount, mounted)
    })
}

fn judge(source: &Path, mount: &VolumeMount, mounted: &Mounted) -> Result<(), String> {
    let lets_through = match mount.propagation {
        Propagation::None => true,
        Propagation::HostToContainer => mounted.shared || mounted.follows,
        Propagation::Bidirectional => mounted.shared,
    };
    if lets_through {
        return Ok(());
    }
    let (volume, source) = (&mount.volume, source.display());
    let (asked, point) = (mount.propagation, mounted.point.display());
    Err(match mount.sub_path {
        None => format!(
            "volume {volume}: mountPropagation {asked:?} needs a shared mount, and {source} lies on the mount at {point}, which is not; run `mount --make-rshared {point}` on this node"
        ),
        Some(_) => format!(
            "volume {volume}: mountPropagation {asked:?} needs a shared mount, and the subPath in {source} lies on one that is not; run `mount --make-rshared` for it on this node"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_propagates_as_far_as_the_farthest_mount() {
        let mount = |propagation| VolumeMount { propagation, ..VolumeMount::default() };
        assert_eq!(of_root(&[]), None);
        assert_eq!(of_root(&[mount(Propagation::None)]), None);
        let slave = [mount(Propagation::HostToContainer), mount(Propagation::None)];
        assert_eq!(of_root(&slave).as_deref(), Some("rslave"));
        let shared = [mount(Propagation::Bidirectional), mount(Propagation::HostToContainer)];
        assert_eq!(of_root(&shared).as_deref(), Some("rshared"));
    }
}
