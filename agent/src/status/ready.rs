//! Whether every daemon of this node that must be ready is ready, and what is missing: for `wait --for ready`.
//!
//! Pure, over the board. A daemon counts when this node has taken its document, or runs it from its record. A document that is
//! refused or for another node makes no daemon: no waiting would make it ready, so it is only told. One for which the node has no room
//! is missing all the same: it is wanted here, and comes when another goes.

use std::collections::BTreeSet;

use pod::name::{WorkloadKey, WorkloadKind};
use pod::observed::{ContainerState, ObservedContainer};
use pod::record::Lifecycle;
use pod::turns::is_ready;
use serde::{Deserialize, Serialize};

use crate::board::{Board, Check, FileOutcome, FileState, Published, WantedSummary};

/// How many of those without a place are named: a person sees what it is about, and a directory may hold ten thousand.
const NAMED_MAX: usize = 20;

/// What somebody who waits has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Daemons that count.
    pub daemons: usize,
    /// What is missing, a sentence each, with the daemon first; empty where all are ready.
    pub missing: Vec<String>,
    /// Documents that do not count although somebody may have meant them to.
    pub refused: usize,
    /// Nothing starts: `daemonlet drain`.
    pub drained: bool,
    /// Workloads of which something runs, or is still to be cleared away; those too of which the runtime has not said anything yet.
    pub there: Vec<String>,
    /// The agent has looked at everything once, so that `there` is all.
    #[serde(default)]
    pub settled: bool,
}

pub fn readiness(board: &Board) -> Readiness {
    let mut missing: Vec<String> = Vec::new();
    if !board.is_settled() {
        missing.push("the agent has just started and has not looked at everything that it knows".into());
    }
    for (check, outcome) in &board.checks() {
        // Without them nobody knows which daemons there are; the others show in the daemons themselves.
        if let (Check::SourceStatic | Check::SourceControl | Check::Drain | Check::Shutdown, Err(why)) =
            (check, outcome)
        {
            missing.push(format!("{}: {why}", check.name()));
        }
    }
    let workloads = board.workloads();
    let mut daemons = 0;
    for (key, published) in &workloads {
        let counts = match &published.wanted {
            WantedSummary::Run { .. } => true,
            WantedSummary::Hold { .. } => !published.pods.is_empty(),
            WantedSummary::Gone => false,
        };
        if !counts {
            continue;
        }
        daemons += 1;
        if !published.pods.iter().any(is_ready) {
            missing.push(format!("{}/{}: {}", key.namespace, key.name, reason(published)));
        }
    }
    // Taken so recently that its worker has not said a word.
    let known: BTreeSet<(&str, &str, &str)> = workloads.keys().map(identity).collect();
    let files = board.files();
    for file in files.iter().filter(|file| file.state == FileState::Accepted) {
        let identity = (file.kind.as_str(), file.namespace.as_str(), file.name.as_str());
        if matches!(identity.0, "Pod" | "DaemonSet") && !known.contains(&identity) {
            daemons += 1;
            missing.push(format!("{}/{}: its document has just been read", file.namespace, file.name));
        }
    }
    let beyond: Vec<&FileOutcome> = files.iter().filter(|file| file.state == FileState::OutOfPods).collect();
    daemons += beyond.len();
    missing.extend(beyond.iter().take(NAMED_MAX).map(|it| format!("{}/{}: {}", it.namespace, it.name, it.message)));
    if let Some(more) = beyond.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        missing.push(format!("{more} more have no place either, see: daemonlet get files"));
    }
    let refused = files.iter().filter(|file| file.state == FileState::Refused).count();
    let is_there = |published: &Published| {
        // One whose shim is silent is left as it is, and nobody waits for it.
        let answers = |container: &ObservedContainer| container.state != ContainerState::Unanswered;
        published.pods.iter().any(|pod| pod.containers.iter().any(answers))
            || !published.known && !published.pods.is_empty()
    };
    let there = workloads.iter().filter(|(_, published)| is_there(published));
    let there = there.map(|(key, _)| format!("{}/{}", key.namespace, key.name)).collect();
    let drained = board.checks().contains_key(&Check::Drain);
    Readiness { ready: missing.is_empty(), daemons, missing, refused, drained, there, settled: board.is_settled() }
}

fn identity(key: &WorkloadKey) -> (&'static str, &str, &str) {
    let kind = match key.kind {
        WorkloadKind::Pod | WorkloadKind::Control => "Pod",
        WorkloadKind::DaemonSet => "DaemonSet",
    };
    (kind, &key.namespace, &key.name)
}

/// The first thing that it waits for.
fn reason(published: &Published) -> String {
    match published.waiting.first() {
        Some(wait) => format!("{}: {}", wait.reason, wait.message),
        None if published.pods.is_empty() => "it has no pod yet".into(),
        None if published.pods.iter().all(|pod| pod.record.lifecycle == Lifecycle::Finished) => "it has failed".into(),
        None => "it runs and is not ready".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    fn file(name: &str, state: FileState) -> FileOutcome {
        FileOutcome {
            file: format!("{name}.yaml"),
            line: 1,
            kind: "Pod".into(),
            namespace: "default".into(),
            name: name.into(),
            state,
            message: String::new(),
        }
    }

    fn board() -> Board {
        let board = Board::new().0;
        board.set_check(Check::SourceStatic, Ok(()));
        board
    }

    #[test]
    fn a_node_is_ready_when_each_of_its_daemons_is_and_not_before_its_sources_were_heard() {
        let board = Board::new().0;
        assert!(!readiness(&board).ready);
        board.set_check(Check::SourceStatic, Ok(()));
        assert!(readiness(&board).ready, "there is nothing to wait for");
        let (key, published) = sample::running();
        board.publish(&key, Some(published));
        assert_eq!((readiness(&board).ready, readiness(&board).daemons), (true, 1));
        let (key, published) = sample::backing_off();
        board.publish(&key, Some(published));
        let found = readiness(&board);
        assert!(!found.ready && found.daemons == 2);
        let [missing] = &found.missing[..] else { panic!("{found:?}") };
        assert!(missing.starts_with("default/web: CrashLoopBackOff: "), "{missing}");
    }

    #[test]
    fn a_document_that_was_just_taken_counts_and_one_that_is_refused_is_told() {
        let board = board();
        board.set_files(vec![file("a", FileState::Accepted), file("b", FileState::Refused)]);
        let found = readiness(&board);
        assert_eq!((found.ready, found.daemons, found.refused), (false, 1, 1));
        board.set_files(vec![file("b", FileState::Refused), file("c", FileState::NotPlaced)]);
        assert!(readiness(&board).ready);
        board.set_files(vec![file("d", FileState::OutOfPods)]);
        let found = readiness(&board);
        assert_eq!((found.ready, found.daemons, found.refused), (false, 1, 0), "it is wanted here: {found:?}");
    }

    #[test]
    fn what_is_being_ended_is_not_waited_for_and_what_is_known_and_unlooked_at_is() {
        let board = board();
        let (key, mut published) = sample::backing_off();
        published.wanted = WantedSummary::Gone;
        board.publish(&key, Some(published));
        assert!(readiness(&board).ready);
        board.await_first_look([key]);
        assert!(!readiness(&board).ready);
    }
}
