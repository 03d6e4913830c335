//! Whose turn it is among the pods of a node: who waits with its start until others are ready, and with its end until others
//! have ended. Values in, values out; driven by the agent whenever a workload stands otherwise than before.
//!
//! Order is kept at a start and at an end, and at no other time: a pod that has started goes on whatever becomes of those that
//! it is after, and one that ends alone waits for nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::after::{self, Edges, Named, Names};
use crate::desired::Wanted;
use crate::name::WorkloadKey;
use crate::observed::ContainerState;
use crate::plan::{PodView, StepKey, View, order};
use crate::record::Lifecycle;
use crate::spec::PodTemplate;
use crate::time::Moment;

/// From this priority on a pod is critical (Kubernetes' scheduling.SystemCriticalPriority).
const CRITICAL: i32 = 2_000_000_000;

/// The reason under which a pod waits for others to be ready, and the type of its condition.
pub const WAITS_FOR_OTHERS: &str = "WaitsForOthers";

/// The reason under which the pods of a drained node wait.
pub const NODE_DRAINED: &str = "NodeDrained";
/// The same of one that shuts down (Kubernetes' reason).
pub const NODE_SHUTDOWN: &str = "NodeShutdown";

/// How long those that wait for others at a shutdown have at least, when the others take all of their time.
const LAST_TURN: Duration = Duration::from_secs(2);

/// How long past its deadline what ends is waited for: kills have been sent more than once by then, and what is still there
/// may never end.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// How often the removal of what has ended may fail until nobody waits for it: the process is gone, and the log was written or never will be.
const REMOVALS_MAX: u32 = 3;

/// Everything on the node is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// Until somebody lifts it, each pod within its own grace period.
    Drained {
        since: jiff::Timestamp,
    },
    ShuttingDown(Shutdown),
}

/// What time a shutdown leaves: first to the pods that are not critical, then to those that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    pub begun: Moment,
    pub ordinary: Duration,
    pub critical: Duration,
}

/// What a halt means for one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Still {
    pub cause: Cause,
    pub since: Option<jiff::Timestamp>,
    /// From then on nobody is waited for; None: as long as it takes.
    pub told_by: Option<Moment>,
    /// SIGKILL follows then at the latest.
    pub kill_by: Option<Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Drained,
    ShuttingDown,
}

impl Still {
    pub fn reason(&self) -> &'static str {
        match self.cause {
            Cause::Drained => NODE_DRAINED,
            Cause::ShuttingDown => NODE_SHUTDOWN,
        }
    }

    pub fn words(&self) -> String {
        match (self.cause, self.since) {
            (Cause::Drained, Some(since)) => {
                format!("the node is drained since {}: daemonlet undrain, or a reboot, starts it again", seconds(since))
            }
            (Cause::Drained, None) => "the node is drained".into(),
            (Cause::ShuttingDown, _) => "the node is shutting down".into(),
        }
    }
}

/// RFC 3339 in whole seconds.
pub fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Halt {
    fn of(&self, priority: i32) -> Still {
        match self {
            Halt::Drained { since } => {
                Still { cause: Cause::Drained, since: Some(*since), told_by: None, kill_by: None }
            }
            Halt::ShuttingDown(Shutdown { begun, ordinary, critical }) => {
                let first = begun.after(*ordinary);
                let (kill_by, share) = match priority >= CRITICAL {
                    true => (first.after(*critical), *critical),
                    false => (first, *ordinary),
                };
                let last = LAST_TURN.min(share / 2);
                let told_by = Moment(kill_by.0.saturating_sub(u64::try_from(last.as_millis()).unwrap_or(u64::MAX)));
                Still { cause: Cause::ShuttingDown, since: None, told_by: Some(told_by), kill_by: Some(kill_by) }
            }
        }
    }
}

/// How one workload stands, as far as others wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The DaemonSet of which it is a pod object of the control endpoint.
    pub owner: Option<String>,
    /// Who is to be ready before it starts.
    pub after: Vec<Named>,
    /// It has a pod all of whose containers are ready, or are done well.
    pub ready: bool,
    /// Something of it runs, may run or is still to be cleared away.
    pub there: bool,
    /// It is to end, and nothing is to take its place.
    pub ends: bool,
    /// A pod of it is being ended and has containers that may run, long past its deadline: nobody waits for it any more.
    pub stuck: bool,
    /// v1 PodSpec.priority.
    pub priority: i32,
}

/// What a workload may do just now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// Why none of its pods may have its first start: one for each name. Empty: they may.
    pub start: Vec<Unready>,
    /// Who is to have ended before it. Empty: it may end.
    pub end: Vec<WorkloadKey>,
    /// Pods of its own DaemonSet that are being ended and have not: none of its pods has its first start beside them.
    pub room: Vec<WorkloadKey>,
    /// Such pods that were waited for long enough.
    pub beside: Vec<WorkloadKey>,
    /// The node is to stand still: nothing starts, everything ends.
    pub still: Option<Still>,
}

/// Somebody who is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    pub name: Named,
    /// There is somebody of that name.
    pub known: bool,
}

impl Turn {
    /// Whom a start waits for, in words; None: nobody.
    pub fn start_waits(&self) -> Option<String> {
        let each = |it: &Unready| match it.known {
            true => format!("waits until {} is ready (daemonlet.dev/after)", it.name),
            false => format!(
                "waits until {} is ready (daemonlet.dev/after), and this node runs no pod or DaemonSet of that name",
                it.name
            ),
        };
        (!self.start.is_empty()).then(|| self.start.iter().map(each).collect::<Vec<_>>().join("; "))
    }

    /// Whose end a start waits for, in words; None: nobody's.
    pub fn room_waits(&self) -> Option<String> {
        let names = || self.room.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        (!self.room.is_empty()).then(|| {
            format!("waits until the containers of {} have stopped: one pod of a DaemonSet runs at a time", names())
        })
    }

    /// Whom a start has waited for in vain, in words; None: nobody.
    pub fn waited_in_vain(&self) -> Option<String> {
        let names = || self.beside.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        (!self.beside.is_empty()).then(|| {
            format!("starts beside {} of the same DaemonSet, which should have ended long ago and has not", names())
        })
    }

    /// Whom an end waits for, in words; None: nobody.
    pub fn end_waits(&self) -> Option<String> {
        let names: Vec<String> = self.end.iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
        (!names.is_empty()).then(|| format!("stops when these have stopped: {}", names.join(", ")))
    }
}

/// How the workload of this view stands. `owner`: [`Standing::owner`].
pub fn standing(view: &View<'_>, owner: Option<String>) -> Standing {
    let ends = matches!(view.wanted, Wanted::Gone | Wanted::End { .. });
    let template = match view.wanted {
        Wanted::Run(wanted) => Some(&wanted.template),
        _ => view.pods.last().map(|pod| &pod.template),
    };
    let namespace = match view.wanted {
        Wanted::Run(wanted) => Some(&wanted.workload.namespace),
        _ => view.pods.last().map(|pod| &pod.record.workload.namespace),
    };
    let names = |(template, namespace): (&std::sync::Arc<PodTemplate>, &String)| after::of(template, namespace);
    Standing {
        owner,
        priority: template.map_or(0, |template| template.spec.priority),
        after: template.zip(namespace).map(names).unwrap_or_default(),
        ready: view.pods.iter().any(is_ready),
        there: view.pods.iter().any(|pod| is_there(view, pod)),
        ends,
        stuck: view.pods.iter().any(|pod| {
            let ending = ends || matches!(pod.record.lifecycle, Lifecycle::Terminating { .. });
            ending && pod.containers.iter().any(|it| it.state.may_run()) && !is_there(view, pod)
        }),
    }
}

/// Whether the pod is as those that are after it need it: all its containers are ready, or have done their work well.
pub fn is_ready(pod: &PodView) -> bool {
    if matches!(pod.record.lifecycle, Lifecycle::Terminating { .. }) || pod.record.course.failed.is_some() {
        return false;
    }
    order::all_ready(pod)
}

fn is_there(view: &View<'_>, pod: &PodView) -> bool {
    if pod.containers.is_empty() {
        return false;
    }
    match &pod.record.lifecycle {
        // Nobody can say when one ends whose shim is silent, and that is left as it is.
        Lifecycle::Running | Lifecycle::Finished => pod.containers.iter().any(|container| {
            let memory = pod.record.remembered(&container.run.container).and_then(|memory| memory.stopping.as_ref());
            let stopping = memory.filter(|stopping| stopping.attempt == container.run.attempt);
            // Whoever asked for its stop: what hangs since before the node was drained is not waited for either.
            let stuck = stopping.is_some_and(|it| view.now.boot > it.deadline.after(STUCK_AFTER));
            let removal = StepKey::removal(&container.run);
            let stays = !container.state.may_run()
                && view.failures.get(&removal).is_some_and(|failure| failure.count >= REMOVALS_MAX);
            container.state != ContainerState::Unanswered && !stuck && !stays
        }),
        // What a shim keeps silent about is ended later than anything else, and then in earnest.
        Lifecycle::Terminating { deadline, .. } => {
            pod.containers.iter().any(|c| c.state == ContainerState::Unanswered)
                || view.now.boot <= deadline.after(STUCK_AFTER)
        }
    }
}

/// The turn of each that has to wait for somebody, or to stand still.
pub fn decide(all: &BTreeMap<WorkloadKey, Standing>, halt: Option<&Halt>) -> BTreeMap<WorkloadKey, Turn> {
    let mut turns = if halt.is_none() { rooms(all) } else { BTreeMap::new() };
    if halt.is_none() && all.values().all(|standing| standing.after.is_empty()) {
        return turns;
    }
    let names = Names::new(all.iter().map(|(key, standing)| (key, standing.owner.as_deref())));
    let edges = edges(all, &names);
    if let Some(halt) = halt {
        let priorities = priorities(all, &edges);
        for (key, priority) in &priorities {
            let sooner = |(other, standing): &(&WorkloadKey, &Standing)| {
                let after = edges.get(*other).is_some_and(|before| before.contains(key));
                standing.there && *other != key && (priorities[*other] < *priority || after)
            };
            let end = all.iter().filter(sooner).map(|(other, _)| other.clone()).collect();
            turns.insert(key.clone(), Turn { end, still: Some(halt.of(*priority)), ..Turn::default() });
        }
        return turns;
    }
    for (key, standing) in all.iter().filter(|(_, standing)| !standing.after.is_empty()) {
        let waits = |name: &Named| unready(all, names.of(name), &edges, key, name);
        let start: Vec<Unready> = standing.after.iter().filter_map(waits).collect();
        if !start.is_empty() {
            turns.entry(key.clone()).or_default().start = start;
        }
    }
    for (later, before) in &edges {
        if !all.get(later).is_some_and(|standing| standing.ends && standing.there) {
            continue;
        }
        for key in before.iter().filter(|key| all.get(*key).is_some_and(|standing| standing.ends)) {
            turns.entry(key.clone()).or_default().end.push(later.clone());
        }
    }
    turns
}

/// Pods of the control endpoint are workloads of their own, and a DaemonSet that is deleted and made again, or whose node is, has a
/// new one before the old one has ended. One that is surging is not being ended when its successor starts.
fn rooms(all: &BTreeMap<WorkloadKey, Standing>) -> BTreeMap<WorkloadKey, Turn> {
    let mut ending: BTreeMap<(&str, &str), Vec<&WorkloadKey>> = BTreeMap::new();
    for (key, standing) in all.iter().filter(|(_, it)| it.ends && (it.there || it.stuck)) {
        if let Some(owner) = &standing.owner {
            ending.entry((&key.namespace, owner)).or_default().push(key);
        }
    }
    let turn = |(key, standing): (&WorkloadKey, &Standing)| {
        let before = ending.get(&(key.namespace.as_str(), standing.owner.as_deref()?))?;
        let (room, beside) = before.iter().map(|key| (*key).clone()).partition(|key| all[key].there);
        Some((key.clone(), Turn { room, beside, ..Turn::default() }))
    };
    match ending.is_empty() {
        true => BTreeMap::new(),
        false => all.iter().filter(|(_, it)| !it.ends).filter_map(turn).collect(),
    }
}

/// The priority of each; of one that others are after at least theirs: what they write while they end, it is to take. So the order
/// by priority never contradicts the other.
fn priorities(all: &BTreeMap<WorkloadKey, Standing>, edges: &Edges) -> BTreeMap<WorkloadKey, i32> {
    let mut priorities: BTreeMap<WorkloadKey, i32> =
        all.iter().map(|(key, standing)| (key.clone(), standing.priority)).collect();
    // The longest way has as many steps as there are pods.
    for _ in 0..all.len() {
        let mut settled = true;
        for (later, before) in edges {
            let least = priorities[later];
            for key in before {
                if let Some(priority) = priorities.get_mut(key).filter(|priority| **priority < least) {
                    *priority = least;
                    settled = false;
                }
            }
        }
        if settled {
            break;
        }
    }
    priorities
}

/// Of those that are there; without those that close a circle: their documents are refused, but what was admitted
/// before may still ask for it, and nobody may wait for himself.
fn edges(all: &BTreeMap<WorkloadKey, Standing>, names: &Names<'_>) -> Edges {
    let rounds = names.rounds(all.iter().map(|(key, standing)| (key, standing.after.as_slice())));
    let after = |(key, standing): (&WorkloadKey, &Standing)| {
        let open = |other: &&&WorkloadKey| match (rounds.get(key), rounds.get(**other)) {
            (Some(own), Some(others)) => own != others,
            _ => true,
        };
        let meant = standing.after.iter().flat_map(|name| names.of(name));
        (key.clone(), meant.filter(open).map(|other| (*other).clone()).collect())
    };
    all.iter().filter(|(_, standing)| !standing.after.is_empty()).map(after).collect()
}

/// Why `name` keeps `key` waiting, where it does. Of the pods of one DaemonSet of the endpoint (an update may have two of them
/// here) one that is ready will do.
fn unready(
    all: &BTreeMap<WorkloadKey, Standing>,
    meant: &[&WorkloadKey],
    edges: &Edges,
    key: &WorkloadKey,
    name: &Named,
) -> Option<Unready> {
    if meant.is_empty() {
        return Some(Unready { name: name.clone(), known: false });
    }
    let meant = || meant.iter().filter_map(|other| all.get_key_value(*other));
    let counts = |other: &WorkloadKey| edges.get(key).is_some_and(|before| before.contains(other));
    let counting = || meant().filter(|(other, _)| counts(other));
    let own_name = |(other, _): &(&WorkloadKey, &Standing)| other.name == name.name;
    let named = counting().filter(own_name).all(|(_, standing)| standing.ready);
    let mut owned = counting().filter(|it| !own_name(it)).peekable();
    let owned = owned.peek().is_none() || owned.any(|(_, standing)| standing.ready);
    (!named || !owned).then(|| Unready { name: name.clone(), known: true })
}
