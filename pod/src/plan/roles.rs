//! Who is who among a workload's pods: the one that runs, its successor, those that are to end. This is where updates
//! happen; everything below looks at one pod and its goal only.

use std::time::Duration;

use serde_json::Value;

use super::draft::pod_wait;
use super::{PodView, RunStep, StepKey, View, Waiting, order, resize};
use crate::desired::{DesiredPod, UpdateStrategy, Wanted};
use crate::digest;
use crate::manifest::with_written_priority;
use crate::observed::{ContainerState, ImageState, SandboxState};
use crate::record::Lifecycle;
use crate::turns::{Cause, Still, WAITS_FOR_OTHERS};

/// More pods of one workload than this are not admitted: edits that come faster than old pods go must not pile up.
const PODS_MAX: usize = 8;

/// What one pod is converged to.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// All its containers run.
    Run,
    /// All its containers stand created and none is started: another pod of the workload still runs.
    Prepare,
    /// It is left as it is: never started and soon to be replaced.
    Rest,
    /// It is stopped, or left as it is until its turn, and is to run again when the node does.
    Halt,
    /// It ends, within its own grace period or this one.
    End { reason: String, grace: Option<Duration> },
}

#[derive(Debug, Default)]
pub struct Roles {
    /// One per pod of the view, in its order.
    pub goals: Vec<Goal>,
    /// A pod is to be admitted.
    pub admit: bool,
    pub waiting: Vec<Waiting>,
}

pub fn decide(view: &View<'_>) -> Roles {
    if let Some(still) = &view.turn.still
        && let Some(roles) = halted(view, still)
    {
        return roles;
    }
    match view.wanted {
        Wanted::Gone | Wanted::End { .. } if !view.turn.end.is_empty() => last(view),
        Wanted::Gone => all(view, |_| Goal::End { reason: "no source wants it any more".into(), grace: None }),
        Wanted::End { grace } => {
            all(view, |_| Goal::End { reason: "its pod object is being deleted".into(), grace: Some(*grace) })
        }
        Wanted::Hold { reason } => hold(view, reason, oldest_that_ran(view).or_else(|| newest_live(view))),
        Wanted::Forbidden { reason } => hold(view, reason, oldest_that_ran(view)),
        Wanted::Run(wanted) => run(view, wanted),
    }
}

/// The pod is what `wanted` asks for, or is made so as it is.
pub fn is_of(pod: &PodView, wanted: &DesiredPod) -> bool {
    says_the_same(pod, wanted) || resize::of(pod, wanted).is_some()
}

/// The pod is what `wanted` asks for. A record of a version that hashed differently is hashed again: an upgrade of
/// the agent restarts nobody.
pub fn says_the_same(pod: &PodView, wanted: &DesiredPod) -> bool {
    let (record, kind) = (&pod.record, pod.record.workload.kind);
    if let Some(object) = &wanted.object {
        return record.uid == object.uid;
    }
    let written = |template, document: &Value| with_written_priority(template, kind, document);
    record.revision == wanted.revision
        || record.revision == digest::of_template(kind, &written(&wanted.template, &wanted.document.read()))
        || {
            let document = record.document.read();
            digest::revision(kind, &written(&pod.template, &document), &document) == wanted.revision
        }
}

/// Nothing is admitted and nothing ends; what runs is kept running. An update that had begun waits.
fn hold(view: &View<'_>, reason: &str, runs: Option<usize>) -> Roles {
    let mut roles = kept(view, runs);
    roles.waiting.push(workload_wait("Held", reason.to_owned()));
    roles
}

/// The node is drained or shuts down. None: it ends for good, and its turn has come.
fn halted(view: &View<'_>, still: &Still) -> Option<Roles> {
    let halt = || all(view, |_| Goal::Halt);
    let wanted = match view.wanted {
        Wanted::Run(wanted) => wanted,
        Wanted::Gone | Wanted::End { .. } => {
            let waits = !view.turn.end.is_empty() && still.told_by.is_none_or(|told_by| told_by > view.now.boot);
            return waits.then(halt);
        }
        Wanted::Hold { .. } | Wanted::Forbidden { .. } => return Some(halt()),
    };
    let target = live(view).filter(|&index| is_of(&view.pods[index], wanted)).last();
    let rolls = wanted.update == UpdateStrategy::RollingUpdate;
    // What runs no more is not started once more to be replaced then.
    let replaced = |index: usize| target.is_some_and(|target| target != index) && rolls;
    let mut roles = all(view, |index| match replaced(index) && view.pods[index].containers.is_empty() {
        true => Goal::End { reason: format!("replaced by revision {}", wanted.revision), grace: None },
        false => Goal::Halt,
    });
    // So that it is seen. A node that shuts down has better things to do.
    let newcomer = target.is_none() && (rolls || live(view).next().is_none());
    roles.admit = newcomer && still.cause == Cause::Drained && view.pods.len() < PODS_MAX;
    if target.is_none() {
        roles.waiting.push(workload_wait(still.reason(), still.words()));
    }
    Some(roles)
}

/// It is to end, and those that are after it have not ended: they may need it until then.
fn last(view: &View<'_>) -> Roles {
    let mut roles = kept(view, oldest_that_ran(view));
    let message = view.turn.end_waits().unwrap_or_default();
    roles.waiting.push(workload_wait("Terminating", message));
    roles
}

fn kept(view: &View<'_>, runs: Option<usize>) -> Roles {
    all(view, |index| match runs {
        Some(runs) if runs == index => Goal::Run,
        Some(runs) if runs < index => Goal::Prepare,
        _ => Goal::Rest,
    })
}

fn run(view: &View<'_>, wanted: &DesiredPod) -> Roles {
    let of_wanted = |index: &usize| is_of(&view.pods[*index], wanted);
    let target =
        live(view).filter(of_wanted).find(|&i| has_run(view, i)).or_else(|| live(view).filter(of_wanted).last());
    match target {
        Some(target) => with_target(view, wanted, target),
        None => without_target(view, wanted),
    }
}

/// The wanted pod has been admitted. Others that have run are kept until it stands created, then end.
fn with_target(view: &View<'_>, wanted: &DesiredPod, target: usize) -> Roles {
    let old: Vec<usize> = live(view).filter(|&i| i != target && has_run(view, i)).collect();
    let successor = !old.is_empty() && !has_run(view, target);
    let waits = view.turn.start_waits();
    let ready = stands_created(&view.pods[target]) && waits.is_none();
    let end = || Goal::End { reason: format!("replaced by revision {}", wanted.revision), grace: None };
    let mut roles = all(view, |index| {
        if index == target {
            if successor { Goal::Prepare } else { Goal::Run }
        } else if successor && old.contains(&index) && (wanted.update == UpdateStrategy::OnDelete || !ready) {
            Goal::Run
        } else {
            end()
        }
    });
    if successor {
        let message = match wanted.update {
            UpdateStrategy::OnDelete => "waits for the deletion of the pod that runs (updateStrategy OnDelete)",
            UpdateStrategy::RollingUpdate => {
                "the pod of the older revision runs until all containers of this one stand created"
            }
        };
        let uid = &view.pods[target].record.uid;
        roles.waiting.push(pod_wait(uid, "ContainerCreating", message.into(), None));
        roles.waiting.extend(waits.map(|message| pod_wait(uid, WAITS_FOR_OTHERS, message, None)));
    }
    roles
}

/// The wanted pod is still to be admitted, unless an older one stays by `OnDelete`.
fn without_target(view: &View<'_>, wanted: &DesiredPod) -> Roles {
    let current = oldest_that_ran(view).or_else(|| live(view).next());
    let stays = wanted.update == UpdateStrategy::OnDelete && current.is_some();
    let mut roles = all(view, |index| {
        if Some(index) != current {
            Goal::End { reason: "replaced before it started".into(), grace: None }
        } else if stays || has_run(view, index) {
            Goal::Run
        } else {
            Goal::Rest
        }
    });
    if stays {
        let message =
            format!("revision {} waits for the deletion of the pod (updateStrategy OnDelete)", wanted.revision);
        roles.waiting.push(workload_wait("OnDelete", message));
    } else if view.pods.len() < PODS_MAX {
        roles.admit = true;
    } else {
        let message = format!("{PODS_MAX} older pods of this workload have not ended yet");
        roles.waiting.push(workload_wait("Pending", message));
    }
    roles
}

fn workload_wait(reason: &str, message: String) -> Waiting {
    Waiting { uid: None, container: None, reason: reason.into(), message, until: None }
}

fn all(view: &View<'_>, goal: impl Fn(usize) -> Goal) -> Roles {
    Roles { goals: (0..view.pods.len()).map(goal).collect(), ..Roles::default() }
}

/// Pods that are not ending, oldest first.
fn live<'v>(view: &'v View<'_>) -> impl Iterator<Item = usize> + 'v {
    let ends = |pod: &PodView| matches!(pod.record.lifecycle, Lifecycle::Terminating { .. });
    view.pods.iter().enumerate().filter(move |(_, pod)| !ends(pod)).map(|(index, _)| index)
}

fn newest_live(view: &View<'_>) -> Option<usize> {
    live(view).last()
}

fn oldest_that_ran(view: &View<'_>) -> Option<usize> {
    live(view).find(|&index| has_run(view, index))
}

/// Whether any container of the pod was ever started, or is being started.
fn has_run(view: &View<'_>, index: usize) -> bool {
    let pod = &view.pods[index];
    let remembered = pod.record.containers.values().any(|m| m.started_attempt.is_some() || m.last.is_some());
    remembered || pod.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. })) || starts(view, pod)
}

fn starts(view: &View<'_>, pod: &PodView) -> bool {
    let start = |key: &StepKey| matches!(key, StepKey::Run(uid, _, _, RunStep::Start) if *uid == pod.record.uid);
    view.in_flight.iter().any(start)
}

/// Whether the pod could be started now: connected, and every container that can be created beforehand waits for its start or
/// runs.
fn stands_created(pod: &PodView) -> bool {
    connected(pod)
        && pod.template.spec.containers.iter().enumerate().all(|(position, container)| {
            let attempt = pod.record.containers.get(&container.name).map_or(0, |m| m.next_attempt());
            let stands = pod.containers.iter().any(|c| {
                c.run.container == container.name
                    && c.run.attempt == attempt
                    && matches!(c.state, ContainerState::Created | ContainerState::Running { .. })
            });
            let ready = pod.images.get(&container.name) == Some(&ImageState::Ready);
            stands || (ready && !order::may_be_created(pod, position))
        })
}

/// Whether the pod's network is as it is to be.
pub fn connected(pod: &PodView) -> bool {
    match pod.sandbox {
        SandboxState::Connected { .. } => true,
        SandboxState::Made => pod.template.spec.host_network,
        SandboxState::Absent | SandboxState::Broken { .. } => false,
    }
}

/// Whether another pod of the workload than `index` still runs, may still run, or is being started.
pub fn another_runs<'v>(view: &'v View<'_>, index: usize) -> Option<&'v PodView> {
    let runs = |pod: &PodView| pod.containers.iter().any(|c| c.state.may_run());
    let mut others = view.pods.iter().enumerate().filter(|(other, _)| *other != index);
    others.find(|(_, pod)| runs(pod) || starts(view, pod)).map(|(_, pod)| pod)
}
