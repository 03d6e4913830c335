//! Which steps may not run at the same time: they work on the same thing.

use super::{RunStep, StepKey};
use crate::name::Uid;

/// Whether `a` and `b` must not overlap. Symmetric; a step conflicts with itself.
pub fn conflict(a: &StepKey, b: &StepKey) -> bool {
    a == b || one_way(a, b) || one_way(b, a)
}

fn one_way(a: &StepKey, b: &StepKey) -> bool {
    match a {
        // The last trace: everything else of the pod must be over.
        StepKey::Forget(uid) => pod_of(b) == Some(uid),
        StepKey::TearDown(uid) => {
            let uses = matches!(
                b,
                StepKey::SetUp(_)
                    | StepKey::Fill(_)
                    | StepKey::Connect(_)
                    | StepKey::Resize(_)
                    | StepKey::Run(..)
                    | StepKey::EndShim(_)
            );
            uses && pod_of(b) == Some(uid)
        }
        StepKey::SetUp(uid) => matches!(b, StepKey::Connect(other) | StepKey::Fill(other) if other == uid),
        // What is being made may be made of the old amounts: it is resized when it is there.
        StepKey::Resize(uid) => {
            let makes = matches!(b, StepKey::SetUp(_) | StepKey::Run(_, _, _, RunStep::Create));
            makes && pod_of(b) == Some(uid)
        }
        StepKey::Run(uid, container, attempt, step) => {
            let StepKey::Run(other_uid, other_container, other_attempt, other) = b else { return false };
            (uid, container, attempt) == (other_uid, other_container, other_attempt) && clash(*step, *other)
        }
        // A shim is ended under whatever waits for its answer: that is what frees it.
        StepKey::Admit
        | StepKey::Remember(_)
        | StepKey::PrepareImage(..)
        | StepKey::Connect(_)
        | StepKey::Fill(_)
        | StepKey::EndShim(_) => false,
    }
}

/// Two steps of one run. A kill may overtake a stop that hangs, and a hook ends with the container that it is part of.
fn clash(a: RunStep, b: RunStep) -> bool {
    let signal = |step| matches!(step, RunStep::SignalStop | RunStep::SignalKill);
    let hook = |step| matches!(step, RunStep::PostStart | RunStep::PreStop);
    a == b || !((signal(a) || hook(a)) && (signal(b) || hook(b)))
}

fn pod_of(key: &StepKey) -> Option<&Uid> {
    match key {
        StepKey::Admit => None,
        StepKey::Remember(uid)
        | StepKey::PrepareImage(uid, _)
        | StepKey::SetUp(uid)
        | StepKey::Fill(uid)
        | StepKey::Connect(uid)
        | StepKey::Resize(uid)
        | StepKey::Run(uid, ..)
        | StepKey::EndShim(uid)
        | StepKey::TearDown(uid)
        | StepKey::Forget(uid) => Some(uid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(step: RunStep) -> StepKey {
        StepKey::Run(Uid("u".into()), "c".into(), 0, step)
    }

    #[test]
    fn a_kill_overtakes_a_stop_but_a_deletion_waits_for_a_creation() {
        assert!(!conflict(&run(RunStep::SignalKill), &run(RunStep::SignalStop)));
        assert!(conflict(&run(RunStep::Delete), &run(RunStep::Create)));
        assert!(conflict(&run(RunStep::SignalStop), &run(RunStep::Start)));
    }

    #[test]
    fn a_shim_is_ended_under_what_waits_for_it_and_before_the_sandbox_goes() {
        let uid = Uid("u".into());
        let end = StepKey::EndShim(uid.clone());
        for step in [RunStep::Create, RunStep::Start, RunStep::SignalKill, RunStep::Delete] {
            assert!(!conflict(&end, &run(step)), "{step:?}");
        }
        assert!(conflict(&end, &end.clone()));
        assert!(conflict(&end, &StepKey::TearDown(uid.clone())));
        assert!(conflict(&end, &StepKey::Forget(uid)));
    }

    #[test]
    fn tearing_down_and_forgetting_wait_for_the_pods_other_steps_only() {
        let uid = Uid("u".into());
        assert!(conflict(&run(RunStep::Create), &StepKey::TearDown(uid.clone())));
        assert!(conflict(&StepKey::SetUp(uid.clone()), &StepKey::TearDown(uid.clone())));
        assert!(!conflict(&StepKey::SetUp(Uid("v".into())), &StepKey::TearDown(uid.clone())));
        assert!(!conflict(&StepKey::Remember(uid.clone()), &StepKey::TearDown(uid.clone())));
        assert!(conflict(&StepKey::Remember(uid.clone()), &StepKey::Forget(uid)));
    }
}
