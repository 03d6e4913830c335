//! What stands of a pod's sandbox, without changing anything: some thirty system calls, a tenth of a millisecond.
//!
//! Driven by `sandbox`, inline. Every part is looked at, because any of them may be missing after a power cut, an
//! interrupted set-up or a stranger's unmount.

use std::sync::PoisonError;

use pod::name::Uid;
use pod::observed::SandboxState;
use pod::qos;
use pod::spec::PodTemplate;

use super::{Shared, chain, files, mounts, namespaces, users, volumes};

impl Shared {
    pub(super) fn inspect(&self, uid: &Uid, template: &PodTemplate) -> SandboxState {
        let broken = |reason: String| SandboxState::Broken { reason };
        let (pod_dir, spec) = (self.pod_dir(uid), &template.spec);
        let connection = self.network.is_stale(uid, &self.netns(uid));
        if !pod_dir.exists() || volumes::kept::only(&pod_dir) {
            return match connection {
                Ok(_) if self.holder(uid).note.exists() => broken("the process of its namespace is left over".into()),
                Ok(true) => broken("its network namespace is gone, its address is still recorded".into()),
                Err(error) => broken(chain(&error)),
                Ok(false) if !volumes::kept::nothing_else(&self.state_dir(uid)) => {
                    broken("its directory is left over".into())
                }
                Ok(false) if self.cgroups.exists(uid) => broken("its cgroup is left over".into()),
                Ok(false) => SandboxState::Absent,
            };
        }
        if !pod_dir.join("made").exists() {
            return broken("its set-up was interrupted".into());
        }
        for kind in namespaces::own_kinds(spec.host_network, spec.host_ipc) {
            let path = pod_dir.join("ns").join(kind.file());
            if !namespaces::is_pinned(&path) {
                return broken(format!("its {} namespace is not pinned at {}", kind.oci(), path.display()));
            }
        }
        if spec.own_users && !namespaces::is_pinned(&pod_dir.join("ns").join(users::FILE)) {
            return broken("its user namespace is not pinned".into());
        }
        // What cannot be told now (no descriptors left) is not broken for it.
        if spec.share_processes && matches!(self.holder(uid).is_held(), Ok(false)) {
            return broken("the process that holds its shared process namespace is gone".into());
        }
        if !mounts::is_mount_root(&pod_dir) {
            return broken(format!("{} is not mounted", pod_dir.display()));
        }
        if pod::projection::is_needed(template) && !mounts::is_mount_root(&volumes::projected::place(&pod_dir)) {
            return broken("the files of its volumes are gone".into());
        }
        if let Some(reason) = files::missing(&pod_dir, spec.host_ipc) {
            return broken(reason);
        }
        if !self.cgroups.stands(uid, qos::class(spec)) {
            return broken("its cgroup is gone".into());
        }
        if let Some(reason) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            return broken(format!("its network is damaged: {reason}"));
        }
        if spec.host_network {
            return SandboxState::Connected { ips: self.node_addresses.get(&self.config.bridge) };
        }
        match (connection, self.network.addresses(uid, &self.netns(uid))) {
            (Ok(true), _) => broken("its recorded address belongs to another network namespace".into()),
            (Ok(false), Ok(Some(ips))) => SandboxState::Connected { ips },
            (Ok(false), Ok(None)) => SandboxState::Made,
            // Its record cannot be read just now (no descriptors left, a failing disk). What stands is not broken for it:
            // connecting says why, and what runs goes on.
            (Err(_), _) | (_, Err(_)) => SandboxState::Made,
        }
    }
}
