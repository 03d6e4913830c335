//! Snapshots of all sources, the node's labels and the records to one desired set, and what became of every file to
//! the board. Driven by changes of any of them; the decisions are `pod::merge`'s.

use std::sync::Arc;

use pod::desired::{DesiredSet, Node, Source};
use pod::manifest::Parsed;
use pod::merge::{Fate, Outcome, Said, merge, stamp};
use pod::name::WorkloadKey;
use pod::spec::Taint;
use tokio::sync::{oneshot, watch};

use crate::allowed::Allowed;
use crate::board::{Board, Check, FileOutcome, FileState};
use crate::config::{Following, node_labels};
use crate::contents;
use crate::refusals::Refusals;
use crate::seams::{Clock, Machine};
use crate::sources::remote;
use crate::sources::static_dir::Snapshot;
use crate::uplink::Given;
use crate::worker::Shared;

/// Kubernetes' taints of nodes that are not heard of, or not well.
const BELIEFS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// What is merged, and where the outcome goes.
pub struct Merging<M> {
    pub node_name: String,
    pub max_pods: u32,
    pub manifests: watch::Receiver<Snapshot>,
    /// None: no control endpoint is configured.
    pub control: Option<Control>,
    /// Nor is anything of one on this node: there is nothing to wait for. Where there is, its daemons run on until an endpoint is heard again.
    pub knows_no_control: bool,
    pub following: watch::Receiver<Following>,
    pub shared: Arc<Shared<M>>,
    /// Told what the configuration allows before anything is merged under it.
    pub allowed: Allowed,
    pub desired: watch::Sender<DesiredSet>,
    pub refusals: Refusals,
    /// ConfigMaps and Secrets as they are good: of the last life of the agent at first.
    pub kept: contents::All,
    /// Where they are told, to be kept on disk.
    pub good: watch::Sender<contents::All>,
    /// [`contents::Loaded::salt`].
    pub salt: Vec<u8>,
}

/// What comes from a control endpoint.
pub struct Control {
    pub snapshots: watch::Receiver<remote::Snapshot>,
    /// Tokens for its pods' service accounts.
    pub tokens: watch::Receiver<Given>,
}

/// Merges whenever something changed, for ever. `tried` is told once the manifest directory has been read or found
/// unreadable.
pub async fn follow<M: Machine>(mut merging: Merging<M>, tried: oneshot::Sender<()>) {
    let mut tried = Some(tried);
    let mut freed = merging.shared.directory.freed();
    loop {
        let snapshot = merging.manifests.borrow_and_update().clone();
        let control = merging.control.as_mut().map(|control| control.snapshots.borrow_and_update().clone());
        let live = merging.following.borrow_and_update().live.clone();
        freed.borrow_and_update();
        merging.allowed.set(live.allow.clone());
        // Generation 0 is the one before the directory has been tried: nothing can be said yet.
        if snapshot.generation > 0 {
            // Once the node has joined, the endpoint's Node object counts.
            let (labels, taints) = match control.as_ref().and_then(|control| control.ruling.as_deref()) {
                Some(ruling) => (ruling.labels.clone(), without_beliefs(&ruling.taints)),
                None => (node_labels(&merging.node_name, &live), live.taints),
            };
            // One that has joined may have labels from the endpoint that nobody could read so far, or newer ones than those of before.
            let unsure = |control: &remote::Snapshot| control.ruling.is_none() || control.before.is_some();
            let provisional = control.as_ref().is_some_and(unsure);
            let node = Node { name: merging.node_name.clone(), labels, taints, allow: live.allow, provisional };
            merging.once(&snapshot, control.as_ref(), &node);
            if let Some(tried) = tried.take() {
                // The agent may have been told to stop meanwhile.
                let _ = tried.send(());
            }
        }
        // Every arm only waits; what changed is read at the top.
        tokio::select! {
            changed = merging.manifests.changed() => changed.expect("the thread that reads the manifest directory lives as long as the agent"),
            Ok(()) = merging.following.changed() => {}
            Ok(()) = spoken(merging.control.as_mut()) => {}
            Ok(()) = freed.changed() => {}
        }
    }
}

/// Taints that say what the endpoint believes of this node's health count for what it wants here, which it judges itself, and not for this
/// node's own documents: they are here so that they run whatever becomes of the endpoint, and it may be gone before it takes such a taint away.
fn without_beliefs(taints: &[Taint]) -> Vec<Taint> {
    taints.iter().filter(|taint| !BELIEFS.contains(&taint.key.as_str())).cloned().collect()
}

/// Waits for the control endpoint's next word; where there is no endpoint, for ever.
async fn spoken(control: Option<&mut Control>) -> Result<(), watch::error::RecvError> {
    match control {
        // Both only wait.
        Some(Control { snapshots, tokens }) => tokio::select! {
            changed = snapshots.changed() => changed,
            changed = tokens.changed() => changed,
        },
        None => std::future::pending().await,
    }
}

impl<M: Machine> Merging<M> {
    fn once(&mut self, snapshot: &Snapshot, control: Option<&remote::Snapshot>, node: &Node) {
        let said = match &snapshot.not_heard {
            None => Said::Files(snapshot.files.values().map(|parsed| Parsed::clone(parsed)).collect()),
            Some(reason) => Said::NotHeard { reason: reason.clone() },
        };
        let board = &self.shared.board;
        board.set_check(Check::SourceStatic, snapshot.not_heard.clone().map_or(Ok(()), Err));
        let of_static = self.kept.iter().filter(|((source, _), _)| *source == Source::Static);
        let kept = of_static.map(|((_, key), kept)| (key.clone(), kept.clone())).collect();
        let statics = pod::merge::Snapshot { source: Source::Static, said, kept };
        let recorded = self.shared.directory.recorded();
        let max_pods = usize::try_from(self.max_pods).unwrap_or(usize::MAX);
        let mut snapshots = vec![statics];
        if let Some(control) = control {
            let not_heard = control.not_heard();
            board.set_check(Check::SourceControl, not_heard.clone().map_or(Ok(()), Err));
            let files = || control.files.values().map(|parsed| Parsed::clone(parsed)).collect();
            let said = not_heard.map_or_else(|| Said::Files(files()), |reason| Said::NotHeard { reason });
            // Its checkpoint keeps what it said last; where that is damaged, what it said before.
            let kept = control.before.as_deref().map(remote::Snapshot::contents).unwrap_or_default();
            snapshots.push(pod::merge::Snapshot { source: Source::Control, said, kept });
        }
        if self.knows_no_control {
            let (said, kept) = (Said::Files(Vec::new()), std::collections::BTreeMap::new());
            snapshots.push(pod::merge::Snapshot { source: Source::Control, said, kept });
        }
        let mut merged = merge(&snapshots, &recorded, node, max_pods);
        stamp(&mut merged.set, &self.salt);
        if let Some(Control { tokens, .. }) = &mut self.control {
            merged.set.contents = merged.set.contents.with(&tokens.borrow_and_update());
        }
        merged.kept.retain(|(source, _), _| *source == Source::Static);
        self.kept.clone_from(&merged.kept);
        self.good.send_replace(std::mem::take(&mut merged.kept));
        tell(board, &merged.outcomes);
        if snapshot.not_heard.is_none() {
            let now = self.shared.machine.clock().now().wall;
            let pods = |key: &WorkloadKey| self.shared.directory.pods_of(key);
            self.refusals.follow(&merged, pods, now).into_iter().for_each(|event| board.record(event));
        }
        board.set_files(merged.outcomes.into_iter().map(file_outcome).collect());
        self.desired.send_replace(merged.set);
        if let Some(control) = control {
            board.set_merged(control.ruling.clone(), control.number);
        }
    }
}

/// Logs what was refused, once: as long as it is refused for the same reason it is not said again.
fn tell(board: &Board, outcomes: &[Outcome]) {
    let known = board.files();
    let known: std::collections::BTreeSet<_> = known.iter().map(words).collect();
    for outcome in outcomes {
        let shown = file_outcome(outcome.clone());
        if shown.state != FileState::Accepted && shown.state != FileState::NoEffect && !known.contains(&words(&shown)) {
            tracing::warn!(file = shown.file, line = shown.line, kind = shown.kind, name = shown.name,
                state = ?shown.state, why = shown.message, "document not taken");
        }
    }
}

/// All that is said of an outcome, in an order: there may be ten thousand of them.
fn words(shown: &FileOutcome) -> (&str, u32, &str, &str, &str, FileState, &str) {
    let FileOutcome { file, line, kind, namespace, name, state, message } = shown;
    (file, *line, kind, namespace, name, *state, message)
}

fn file_outcome(outcome: Outcome) -> FileOutcome {
    let Outcome { origin, identity, fate } = outcome;
    let (kind, namespace, name) = identity.map(|i| (i.kind, i.namespace, i.name)).unwrap_or_default();
    let (state, message) = match fate {
        Fate::Accepted => (FileState::Accepted, String::new()),
        Fate::NoEffect { reason } => (FileState::NoEffect, reason),
        Fate::Refused { rejections } => {
            let lines: Vec<String> = rejections.iter().map(ToString::to_string).collect();
            (FileState::Refused, lines.join("\n"))
        }
        Fate::NotForThisNode { reason } => (FileState::NotPlaced, reason),
        Fate::Duplicate { winner } => {
            (FileState::Conflict, format!("{}:{} has the same identity and comes first", winner.file, winner.line))
        }
        Fate::OutOfPods { reason } => (FileState::OutOfPods, reason),
    };
    FileOutcome { file: origin.file, line: origin.line, kind, namespace, name, state, message }
}

#[cfg(test)]
mod tests {
    use pod::spec::TaintEffect;

    use super::*;

    #[test]
    fn a_nodes_own_documents_do_not_wait_for_the_endpoint_to_think_well_of_it() {
        let taint = |key: &str, effect| Taint { key: key.into(), value: String::new(), effect };
        let dedicated = taint("dedicated", TaintEffect::NoSchedule);
        let said = [
            taint("node.kubernetes.io/not-ready", TaintEffect::NoSchedule),
            dedicated.clone(),
            taint("node.kubernetes.io/unreachable", TaintEffect::NoExecute),
        ];
        assert_eq!(without_beliefs(&said), [dedicated]);
    }
}
