//! Another amount of cpu or memory for a Pod document's containers: the pod stays, its cgroups change (KEP-1287).
//!
//! That the pod is to be resized is on record with the new document, before anything is done; so is that it has been. What lies in
//! between is done again after a restart of the agent, which harms nothing.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::pod::remember;
use super::{Change, PodView, Step, View, order};
use crate::desired::DesiredPod;
use crate::digest;
use crate::lifecycle;
use crate::manifest::with_written_priority;
use crate::name::WorkloadKind;
use crate::qos;
use crate::received::Received;
use crate::record::{Amounts, ContainerMemory, Lifecycle};
use crate::spec::{Container, PodTemplate, Resources, RestartPolicy, Role};

/// Why a run is ended whose resizePolicy asks for a new one.
pub const RESIZE_RESTARTS: &str = "its new resources need a restart";

/// The change that makes the pod what is wanted, where that differs in nothing but amounts of cpu and memory that a pod can be
/// given while it runs. None: it takes a new pod.
pub fn of(pod: &PodView, wanted: &DesiredPod) -> Option<Change> {
    let (record, kind) = (&pod.record, pod.record.workload.kind);
    let lives = record.lifecycle == Lifecycle::Running && record.course.failed.is_none();
    if kind != WorkloadKind::Pod || !lives {
        return None;
    }
    // What a priority class gives stays as it was at the admission.
    let written = |template, document: &Received| with_written_priority(template, kind, &document.read());
    if !fits(&written(&pod.template, &record.document), &written(&wanted.template, &wanted.document)) {
        return None;
    }
    let both = || pod.template.spec.containers.iter().zip(&wanted.template.spec.containers);
    let changed: Vec<(&Container, &Container)> = both().filter(|(old, new)| old.resources != new.resources).collect();
    let restarts: Vec<&str> =
        changed.iter().filter(|(old, new)| needs_restart(old, new)).map(|(_, new)| new.name.as_str()).collect();
    // A run that stands by, or that ends well and is not run again, would never have what it is created with for the new amounts.
    if !restarts.is_empty() && (pod.template.standby() || order::policy(pod) != RestartPolicy::Always) {
        return None;
    }
    let attempt = |name: &str| record.remembered(name).map_or(0, ContainerMemory::next_attempt);
    let amounts = |old: &Resources| Amounts { limits: old.limits.clone(), requests: old.requests.clone() };
    Some(Change::Resize {
        document: wanted.document.clone(),
        origin: wanted.origin.clone(),
        revision: wanted.revision.clone(),
        from: changed.iter().map(|(old, _)| (old.name.clone(), amounts(&old.resources))).collect(),
        restarts: restarts.into_iter().map(|name| (name.to_owned(), attempt(name))).collect::<BTreeMap<_, _>>(),
    })
}

/// Brings what is on record to the pod's cgroups.
pub fn carry_out(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) {
    let (uid, number) = (&pod.record.uid, pod.record.course.resizes);
    if pod.record.course.resize.as_ref().is_none_or(|resize| resize.applied) {
        return;
    }
    if view.resized.get(uid) == Some(&number) {
        remember(draft, pod, Change::Resized { number });
    } else {
        draft.step(Step::Resize { uid: uid.clone() });
    }
}

/// Until when the run has to end because its container is resized; None: it goes on.
pub fn ends(view: &View<'_>, pod: &PodView, container: &str, attempt: u32) -> Option<crate::record::Stopping> {
    let resize = pod.record.course.resize.as_ref()?;
    let deadline = lifecycle::deadline(&pod.template, view.now.boot);
    (resize.restarts.get(container) == Some(&attempt)).then(|| crate::record::Stopping {
        attempt,
        deadline,
        message: RESIZE_RESTARTS.to_owned(),
        halts: false,
    })
}

/// Whether the templates differ in resizable amounts only. As in Kubernetes neither is a limit or a request taken away, nor may the
/// QoS class become another, and an init container, which has run, keeps its own.
fn fits(old: &PodTemplate, new: &PodTemplate) -> bool {
    let (before, after) = (&old.spec.containers, &new.spec.containers);
    let same_names = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| a.name == b.name);
    if !same_names || qos::class(&old.spec) != qos::class(&new.spec) {
        return false;
    }
    let resizable = |(a, b): (&Container, &Container)| {
        a.resources == b.resources || (a.role != Role::Init && keeps(&a.resources, &b.resources))
    };
    if !before.iter().zip(after).all(resizable) {
        return false;
    }
    let mut grown = old.clone();
    for (container, wanted) in grown.spec.containers.iter_mut().zip(after) {
        container.resources.clone_from(&wanted.resources);
    }
    digest::of_template(WorkloadKind::Pod, &grown) == digest::of_template(WorkloadKind::Pod, new)
}

/// Everything that is limited or requested stays so, and what is neither cpu nor memory stays as it is.
fn keeps(old: &Resources, new: &Resources) -> bool {
    let stays = |old: Option<u64>, new: Option<u64>| old.is_none_or(|old| old == 0) || new.is_some_and(|new| new > 0);
    let others = |amounts: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let others = amounts.iter().filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"));
        others.map(|(name, amount)| (name.clone(), amount.clone())).collect()
    };
    stays(old.cpu_request_milli, new.cpu_request_milli)
        && stays(old.cpu_limit_milli, new.cpu_limit_milli)
        && stays(old.memory_request, new.memory_request)
        && stays(old.memory_limit, new.memory_limit)
        && others(&old.limits) == others(&new.limits)
        && others(&old.requests) == others(&new.requests)
}

fn needs_restart(old: &Container, new: &Container) -> bool {
    let cpu = |it: &Resources| (it.cpu_request_milli, it.cpu_limit_milli);
    let memory = |it: &Resources| (it.memory_request, it.memory_limit);
    (new.resize_policy.cpu_restarts && cpu(&old.resources) != cpu(&new.resources))
        || (new.resize_policy.memory_restarts && memory(&old.resources) != memory(&new.resources))
}
