//! Ports of the node, each to one pod: who has been admitted keeps his, newcomers come in by priority, then by name.
//!
//! Found here, before anything is stopped or created. What a pod that is ending still has is its own until it is gone.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::claims::Claims;
use super::{Recorded, WorkloadKind};
use crate::desired::{DesiredPod, DesiredSet, Wanted};
use crate::name::WorkloadKey;
use crate::ports::{self, HostPort};

/// Holds every workload whose pod asks for a port that another one has.
pub fn share(set: &mut DesiredSet, recorded: &[Recorded], claims: &mut Claims) {
    let live: BTreeSet<&WorkloadKey> = recorded.iter().filter(|r| r.live).map(|r| &r.workload).collect();
    let asking = set.workloads.iter().filter_map(|(key, wanted)| match wanted {
        Wanted::Run(pod) => Some((!live.contains(key), Reverse(pod.template.spec.priority), key.clone())),
        Wanted::Hold { .. } | Wanted::Forbidden { .. } | Wanted::End { .. } | Wanted::Gone => None,
    });
    let mut asking: Vec<_> = asking.collect();
    asking.sort();
    let mut taken: Vec<(WorkloadKey, HostPort, bool)> = Vec::new();
    for record in recorded {
        taken.extend(record.ports.iter().map(|port| (record.workload.clone(), port.clone(), record.live)));
    }
    taken.sort();
    for (_, _, key) in asking {
        let Some(Wanted::Run(pod)) = set.workloads.get(&key) else { continue };
        let asked = ports::of_spec(&pod.template.spec);
        let clash = asked.iter().find_map(|port| {
            let holder = taken.iter().find(|(of, other, _)| *of != key && port.clashes(other));
            holder.map(|(of, _, live)| (port, of, *live))
        });
        match clash {
            None => taken.extend(asked.into_iter().map(|port| (key.clone(), port, true))),
            Some((port, holder, live)) => {
                let advice = if live { "give one of them another hostPort" } else { "its pod is ending" };
                let reason = format!("NodePorts: port {port} of the node is taken by {holder}; {advice}");
                let path = path(pod, port);
                claims.refuse(pod, &path, reason.clone());
                set.workloads.insert(key, Wanted::Hold { reason: format!("{path}: {reason}") });
            }
        }
    }
}

fn path(pod: &DesiredPod, port: &HostPort) -> String {
    let spec = match pod.workload.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "spec",
        WorkloadKind::DaemonSet => "spec.template.spec",
    };
    let field = if pod.template.spec.host_network { "containerPort" } else { "hostPort" };
    format!("{spec}.{}.{field}", port.place)
}
