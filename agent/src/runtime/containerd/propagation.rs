//! mountPropagation: what the OCI spec says of it, and whether the node's mounts can give it.
//!
//! Used by `oci` and `containers`.

use pod::spec::{Propagation, VolumeMount};

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
pub fn check(run: &CreateRun<'_>) -> Result<(), String> {
    let asking: Vec<&VolumeMount> =
        run.container.mounts.iter().filter(|mount| mount.propagation != Propagation::None).collect();
    if asking.is_empty() {
        return Ok(());
    }
    let all = mountinfo::read().map_err(|error| format!("cannot read this node's mounts: {error}"))?;
    asking.into_iter().try_for_each(|mount| judge(run, mount, &all))
}

fn judge(run: &CreateRun<'_>, mount: &VolumeMount, all: &[Mounted]) -> Result<(), String> {
    let Some(source) = run.sandbox.volumes.get(&mount.volume) else { return Ok(()) };
    let Some(mounted) = mountinfo::of(source, all) else { return Ok(()) };
    let lets_through = match mount.propagation {
        Propagation::None => true,
        Propagation::HostToContainer => mounted.shared || mounted.follows,
        Propagation::Bidirectional => mounted.shared,
    };
    if lets_through {
        return Ok(());
    }
    let (volume, source, point) = (&mount.volume, source.display(), mounted.point.display());
    Err(format!(
        "volume {volume}: mountPropagation {:?} needs a shared mount, and {source} lies on the mount at {point}, which is not; run `mount --make-rshared {point}` on this node",
        mount.propagation
    ))
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
