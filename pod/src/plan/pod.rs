//! One pod and its goal: what comes first, and who takes it from there.

use super::draft::{Draft, delete, pod_wait};
use super::roles::{self, Goal};
use super::{Change, PodView, Step, View, deadline, ending, halt, missed, resize, run, sandbox, silence};
use crate::desired::Wanted;
use crate::lifecycle;
use crate::name::RunKey;
use crate::observed::ContainerState;
use crate::record::{Lifecycle, Termination};

pub fn converge(draft: &mut Draft<'_>, view: &View<'_>, index: usize, goal: Goal) {
    let pod = &view.pods[index];
    if pod.record.boot_id != view.boot_id {
        // Until the moments of the other boot are gone, no wait of this pod means anything.
        remember(draft, pod, Change::NewBoot);
        return;
    }
    match (&pod.record.lifecycle, goal) {
        (Lifecycle::Terminating { deadline, reason, .. }, goal) => {
            if let Goal::End { grace: Some(grace), .. } = goal {
                let sooner = lifecycle::deadline_within(grace, view.now.boot);
                if sooner < *deadline {
                    remember(draft, pod, Change::Terminating { deadline: sooner, reason: reason.clone() });
                }
            }
            let kill_by = view.turn.still.as_ref().and_then(|still| still.kill_by);
            if let Some(sooner) = kill_by.filter(|kill_by| kill_by < deadline) {
                remember(draft, pod, Change::Terminating { deadline: sooner, reason: reason.clone() });
            }
            ending::end(draft, view, pod, *deadline);
        }
        (Lifecycle::Running | Lifecycle::Finished, Goal::End { reason, grace }) => {
            let grace = grace.unwrap_or(pod.template.spec.termination_grace);
            let deadline = lifecycle::deadline_within(grace, view.now.boot);
            remember(draft, pod, Change::Terminating { deadline, reason });
        }
        (Lifecycle::Running, Goal::Halt) => match &view.turn.still {
            Some(still) => halt::converge(draft, view, pod, still),
            None => unreachable!("only a node that stands still has this goal"),
        },
        (Lifecycle::Running, Goal::Rest) => {
            let message = "it has not started and is not to: a newer pod takes its place".to_owned();
            draft.wait(pod_wait(&pod.record.uid, "Pending", message, None));
        }
        (Lifecycle::Finished, _) => {
            document(draft, view, pod);
            words(draft, view, pod);
            if silence::is_silent(pod) {
                silence::leave(draft, view, pod);
            } else if let Some(owed) = &pod.owed {
                // What ended is the only other witness that it ran: without it a power cut would make it run once more.
                let message = format!("its containers stay until that it has finished is on disk: {}", owed.message);
                draft.wait(pod_wait(&pod.record.uid, "RecordOwed", message, None));
            } else {
                ending::clear(draft, pod);
            }
        }
        (Lifecycle::Running, Goal::Run) => live(draft, view, index, run::Until::Started),
        (Lifecycle::Running, Goal::Prepare) => live(draft, view, index, run::Until::Created),
    }
}

fn live(draft: &mut Draft<'_>, view: &View<'_>, index: usize, until: run::Until) {
    let pod = &view.pods[index];
    if let Some(end) = missed::end(view, pod) {
        return remember(draft, pod, end);
    }
    if let Some(failed) = deadline::exceeded(draft, view, pod) {
        return remember(draft, pod, failed);
    }
    if let Document::First = document(draft, view, pod) {
        return;
    }
    words(draft, view, pod);
    if silence::is_silent(pod) {
        silence::leave(draft, view, pod);
    } else if run::all_done(view, pod) {
        remember(draft, pod, Change::Finished);
    } else if sandbox::lost(pod) {
        sandbox::clear(draft, view, pod);
    } else {
        sandbox::raise(draft, pod);
        resize::carry_out(draft, view, pod);
        run::converge(draft, view, index, until);
    }
}

/// Whether anything else of the pod may be done beside what its document brings.
enum Document {
    Beside,
    First,
}

/// The wanted document says the same thing in other words, other labels, another place; or with other amounts.
fn document(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) -> Document {
    let Wanted::Run(wanted) = view.wanted else { return Document::Beside };
    if !roles::says_the_same(pod, wanted) {
        return resize::of(pod, wanted).map_or(Document::Beside, |change| resized(draft, view, pod, change));
    }
    if pod.record.document != wanted.document || pod.record.origin != wanted.origin {
        let change = Change::Document { document: wanted.document.clone(), origin: wanted.origin.clone() };
        remember(draft, pod, change);
    }
    Document::Beside
}

/// What was created for a later start and is to have other amounts from its start on goes before these are on record: then nothing
/// but its absence is to be known.
fn resized(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView, change: Change) -> Document {
    let Change::Resize { restarts, .. } = &change else { return Document::Beside };
    let uid = &pod.record.uid;
    let mut stands = false;
    for (container, attempt) in restarts {
        let run = RunKey { uid: uid.clone(), container: container.clone(), attempt: *attempt };
        if pod.containers.iter().any(|it| it.run == run && it.state == ContainerState::Created) {
            draft.step(delete(uid, container, *attempt));
            stands = true;
        }
        let create = Step::Create { uid: uid.clone(), container: container.clone(), attempt: *attempt };
        stands |= view.in_flight.contains(&create.key());
    }
    let alone = stands || !restarts.is_empty();
    if !stands {
        remember(draft, pod, change);
    }
    // Nothing is created with the old amounts meanwhile.
    if alone { Document::First } else { Document::Beside }
}

/// The last lines of what failed without a word, once they are there.
pub fn words(draft: &mut Draft<'_>, view: &View<'_>, pod: &PodView) {
    for (container, memory) in &pod.record.containers {
        let Some(last) = memory.last.as_ref().filter(|last| is_unsaid(last)) else { continue };
        let attempt = last.attempt;
        let run = RunKey { uid: pod.record.uid.clone(), container: container.clone(), attempt };
        if let Some(message) = view.last_lines.get(&run) {
            let change = Change::Words { container: container.clone(), attempt, message: message.clone() };
            return remember(draft, pod, change);
        }
    }
}

/// It failed, and nothing is known of why.
pub fn is_unsaid(end: &Termination) -> bool {
    end.exit_code != 0 && end.message.is_empty()
}

pub fn remember(draft: &mut Draft<'_>, pod: &PodView, change: Change) {
    draft.step(Step::Remember { uid: pod.record.uid.clone(), change });
}
