//! `why`: one answer a daemon to "why does it not run (as I want)?", from what is already published.
//!
//! Pure. The first reason of an answer is the one to look at; an answer without reasons runs as wanted. One that is
//! `running` with reasons runs, and they say what of it is not as its manifest asks.

use std::collections::BTreeSet;

use pod::name::{WorkloadKey, WorkloadKind};
use pod::observed::ImageState;
use pod::plan::{PodView, Waiting};
use pod::time::Moment;
use pod::turns::is_ready;
use serde::{Deserialize, Serialize};

use super::phase::{ADAPTED, NOT_REFRESHED, RECORD_OWED, phase};
use super::{containers, time};
use crate::board::{Board, FileOutcome, FileState, Published, WantedSummary};
use crate::image_pull::{ImagePull, Stage};

/// The plan's word for a workload that is kept as it is.
const HELD: &str = "Held";

/// The worker's word while the runtime does not answer.
const RUNTIME_AWAY: &str = "RuntimeUnavailable";

/// What stands between a daemon and its running as wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub namespace: String,
    /// `Pod` or `DaemonSet`; `Node` for what concerns every daemon; empty for a file that names nothing.
    pub kind: String,
    pub name: String,
    /// Names of its pods.
    pub pods: Vec<String>,
    pub state: State,
    /// In the order of importance.
    pub reasons: Vec<Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Runs, and nothing else is wanted.
    Running,
    Waiting,
    /// What runs is kept although its document cannot be taken at present.
    Held,
    /// No document of it is taken and nothing runs.
    Refused,
    /// Accepted, not for this node.
    Elsewhere,
    /// Nobody wants it any more: it is being ended.
    Leaving,
    /// It has run to its end and done its work; nothing else is wanted.
    Done,
    /// It has run to its end and failed; it is not run again.
    Failed,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Waiting => "waiting",
            State::Held => "held",
            State::Refused => "refused",
            State::Elsewhere => "elsewhere",
            State::Leaving => "leaving",
            State::Done => "done",
            State::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Kubernetes' reason where one exists.
    pub reason: String,
    pub message: String,
    pub pod: Option<String>,
    pub container: Option<String>,
    /// When it is tried next, RFC 3339.
    pub until: Option<String>,
    /// The manifest file and line that it is about.
    pub file: Option<String>,
}

impl Reason {
    fn new(reason: &str, message: impl Into<String>) -> Reason {
        let message = message.into();
        Reason { reason: reason.into(), message, pod: None, container: None, until: None, file: None }
    }
}

/// One answer a daemon, and one for the node where a check fails; those that wait first within a namespace's order. Each
/// fault stands in it once, however many know of it.
pub fn answers(board: &Board) -> Vec<Answer> {
    let files = board.files();
    let mut answers: Vec<Answer> = node(board).into_iter().collect();
    let pulls = board.pulls();
    let mut told: BTreeSet<usize> = BTreeSet::new();
    for (key, published) in &board.workloads() {
        let mut answer = workload(key, published, &pulls);
        for (at, file) in files.iter().enumerate() {
            if !about(file, key) && !holds(file, &answer) {
                continue;
            }
            told.insert(at);
            match file.state {
                FileState::Accepted | FileState::NoEffect | FileState::Ignored => {}
                FileState::Refused => drop(answer.reasons.splice(0..0, faults(file))),
                FileState::NotPlaced | FileState::Conflict | FileState::OutOfPods => {
                    answer.reasons.extend(faults(file))
                }
            }
        }
        // What holds it is told by its file already.
        let by_files = |held: &Reason| {
            let mut of_files = answer.reasons.iter().filter(|reason| reason.file.is_some());
            held.reason == HELD && of_files.any(|reason| held.message.contains(&reason.message))
        };
        let held: Vec<bool> = answer.reasons.iter().map(by_files).collect();
        let mut held = held.into_iter();
        answer.reasons.retain(|_| !held.next().unwrap_or(false));
        answers.push(answer);
    }
    for (_, file) in files.iter().enumerate().filter(|(at, _)| !told.contains(at)) {
        let state = match file.state {
            FileState::Accepted | FileState::NoEffect | FileState::Ignored => continue,
            FileState::NotPlaced => State::Elsewhere,
            FileState::Refused | FileState::Conflict => State::Refused,
            FileState::OutOfPods => State::Waiting,
        };
        let known = answers.iter_mut().find(|answer| {
            !file.name.is_empty()
                && (&answer.namespace, &answer.kind, &answer.name) == (&file.namespace, &file.kind, &file.name)
        });
        match known {
            Some(answer) => answer.reasons.extend(faults(file)),
            None => answers.push(Answer {
                namespace: file.namespace.clone(),
                kind: file.kind.clone(),
                name: file.name.clone(),
                pods: Vec::new(),
                state,
                reasons: faults(file),
            }),
        }
    }
    answers
}

/// A file that cannot be read as a whole, or a document whose name cannot, and that keeps this workload as it is.
fn holds(file: &FileOutcome, answer: &Answer) -> bool {
    let keeps = |held: &Reason| held.reason == HELD && file.message.lines().any(|fault| fault == held.message);
    file.state == FileState::Refused && file.name.is_empty() && answer.reasons.iter().any(keeps)
}

/// A reason for each fault of the document, with its own line.
fn faults(file: &FileOutcome) -> Vec<Reason> {
    let mut faults: Vec<Reason> = Vec::new();
    for line in file.message.lines() {
        let own = line.strip_prefix(file.file.as_str()).and_then(|rest| rest.strip_prefix(':')?.split_once(": "));
        let own = own.and_then(|(number, words)| Some((number.parse().ok()?, words)));
        let (number, words) = own.unwrap_or((file.line, line));
        match faults.last_mut() {
            // A fault's own words may go on over several lines.
            Some(before) if own.is_none() => before.message = format!("{}\n{line}", before.message),
            _ => {
                let mut reason = match file.state {
                    // Kubernetes' word.
                    FileState::OutOfPods => Reason::new("OutOfpods", words),
                    state => Reason::new(&format!("{state:?}"), words),
                };
                reason.file = Some(place(&file.file, number));
                faults.push(reason);
            }
        }
    }
    faults
}

fn node(board: &Board) -> Option<Answer> {
    let checks = board.checks();
    let mut reasons: Vec<Reason> = checks
        .iter()
        .filter_map(|(check, outcome)| outcome.as_ref().err().map(|why| Reason::new(check.name(), why.clone())))
        .collect();
    let needs_restart = board.needs_restart();
    if !needs_restart.is_empty() {
        reasons.push(Reason::new(
            "needs restart",
            format!("changed in the configuration file: {}", needs_restart.join(", ")),
        ));
    }
    reasons.extend(board.config_fault().map(|fault| Reason::new("configuration", fault)));
    let state = State::Waiting;
    let name = board.node().name;
    (!reasons.is_empty()).then(|| Answer {
        namespace: String::new(),
        kind: "Node".into(),
        name,
        pods: Vec::new(),
        state,
        reasons,
    })
}

fn workload(key: &WorkloadKey, published: &Published, pulls: &[ImagePull]) -> Answer {
    let mut reasons: Vec<Reason> = Vec::new();
    let state = match &published.wanted {
        WantedSummary::Hold { reason } => {
            // The plan says so too, where there was one.
            if !published.waiting.iter().any(|wait| wait.reason == HELD) {
                reasons.push(Reason::new(HELD, reason.clone()));
            }
            State::Held
        }
        WantedSummary::Gone => State::Leaving,
        WantedSummary::Run { .. } if published.waiting.is_empty() => {
            match published.pods.last().map(|pod| end_of(published, pod)) {
                Some(Some(Ok(()))) => State::Done,
                Some(Some(Err(why))) => {
                    reasons.push(why);
                    State::Failed
                }
                Some(None) | None => State::Running,
            }
        }
        // What ran when the runtime went away runs on without it.
        WantedSummary::Run { .. }
            if published.waiting.iter().all(|wait| wait.reason == RUNTIME_AWAY)
                && published.pods.iter().any(is_ready) =>
        {
            State::Running
        }
        WantedSummary::Run { .. } => State::Waiting,
    };
    for wait in &published.waiting {
        let pod = published.pods.iter().find(|pod| wait.uid.as_ref() == Some(&pod.record.uid));
        let mut reason = Reason::new(&wait.reason, wait.message.clone());
        reason.pod = pod.map(|pod| pod.record.name.clone());
        reason.container.clone_from(&wait.container);
        if let Some(pull) = pod.and_then(|pod| pull_of(pod, wait, pulls)) {
            reason.reason = "Pulling".into();
            reason.message = format!("{}: {}", pull.name, pull.sentence());
        }
        reason.until = wait.until.and_then(|until| wall(published, until));
        reasons.push(reason);
    }
    for view in &published.pods {
        if let Some(owed) = &view.owed {
            let message = format!("it goes on, what changes is not on disk: {}", owed.message);
            let mut reason = Reason::new(RECORD_OWED.0, message);
            reason.pod = Some(view.record.name.clone());
            reasons.push(reason);
        }
        for container in containers::states(published, view) {
            let told = [(NOT_REFRESHED.0, container.not_refreshed), (ADAPTED.0, container.adapted)];
            for (word, message) in told.into_iter().filter(|(_, message)| !message.is_empty()) {
                let mut reason = Reason::new(word, message);
                reason.pod = Some(view.record.name.clone());
                reason.container = Some(container.name.clone());
                reasons.push(reason);
            }
        }
    }
    Answer {
        namespace: key.namespace.clone(),
        kind: kind(key.kind).into(),
        name: key.name.clone(),
        pods: published.pods.iter().map(|pod| pod.record.name.clone()).collect(),
        state,
        reasons,
    }
}

/// How the pod has come out as a whole, where it has ended; Err with why it failed.
fn end_of(published: &Published, view: &PodView) -> Option<Result<(), Reason>> {
    let statuses = containers::states(published, view);
    match phase(view, &statuses) {
        "Succeeded" => return Some(Ok(())),
        "Failed" => {}
        _ => return None,
    }
    let failed = statuses.iter().find_map(|status| match &status.state {
        containers::State::Terminated(ended) if ended.exit_code != 0 => Some((status, ended)),
        _ => None,
    });
    let mut why = match (&view.record.course.failed, failed) {
        (Some(failure), _) => Reason::new(&failure.reason, failure.message.clone()),
        (None, Some((status, ended))) => {
            let mut message = format!("it ended with exit code {}", ended.exit_code);
            if !ended.message.is_empty() {
                message = format!("{message}: {}", ended.message);
            }
            let mut why = Reason::new(&ended.reason, message);
            why.container = Some(status.name.clone());
            why
        }
        (None, None) => Reason::new("Error", "it has failed"),
    };
    why.pod = Some(view.record.name.clone());
    Some(Err(why))
}

/// The pull under way for which this container waits.
fn pull_of<'p>(pod: &PodView, wait: &Waiting, pulls: &'p [ImagePull]) -> Option<&'p ImagePull> {
    let name = wait.container.as_ref().filter(|_| wait.reason == "ContainerCreating")?;
    if matches!(pod.images.get(name), Some(ImageState::Ready)) {
        return None;
    }
    let container = pod.template.spec.containers.iter().find(|container| container.name == *name)?;
    let under_way = |pull: &&ImagePull| !matches!(pull.stage, Stage::Waiting { .. });
    let spec = &pod.template.spec;
    let of_volumes = spec.image_volumes(container).map(|(_, of)| &of.reference);
    let mut images = std::iter::once(&container.image).chain(of_volumes);
    images.find_map(|image| pulls.iter().filter(under_way).find(|pull| pull.wanted_as.contains(image)))
}

/// A moment of the boot clock as people read it.
fn wall(published: &Published, until: Moment) -> Option<String> {
    let left = until.since(published.now.boot);
    published.now.wall.saturating_add(left).ok().map(time)
}

fn about(file: &FileOutcome, key: &WorkloadKey) -> bool {
    file.namespace == key.namespace && file.kind == kind(key.kind) && file.name == key.name
}

fn kind(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Pod | WorkloadKind::Control => "Pod",
        WorkloadKind::DaemonSet => "DaemonSet",
    }
}

fn place(file: &str, line: u32) -> String {
    if line == 0 { file.to_owned() } else { format!("{file}:{line}") }
}
