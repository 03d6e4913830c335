//! Which run of a container a log is asked of.

use serde_json::Value;

/// The run whose log is meant, by its v1 ContainerStatus: as the kubelet chooses (pods/log, `previous`). Between two runs, in
/// CrashLoopBackOff, that is the one that has ended, whichever of the two is asked for. None: there is no such run.
pub fn run_shown(status: &Value, previous: bool) -> Option<u64> {
    // Counts the runs that have begun: the newest one's number.
    let newest = status["restartCount"].as_u64().unwrap_or(0);
    let has_ended = status["lastState"]["terminated"].is_object();
    match (status["state"]["waiting"].is_object(), previous) {
        (true, _) => has_ended.then_some(newest),
        (false, false) => Some(newest),
        (false, true) => newest.checked_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn between_two_runs_both_words_mean_the_one_that_has_ended() {
        let waits = json!({"restartCount": 2, "state": {"waiting": {}}, "lastState": {"terminated": {}}});
        assert_eq!((run_shown(&waits, false), run_shown(&waits, true)), (Some(2), Some(2)));
        let first = json!({"restartCount": 0, "state": {"waiting": {}}, "lastState": {"terminated": {}}});
        assert_eq!((run_shown(&first, false), run_shown(&first, true)), (Some(0), Some(0)));
    }

    #[test]
    fn of_one_that_runs_or_has_ended_for_good_the_previous_is_the_one_before() {
        for state in ["running", "terminated"] {
            let runs = json!({"restartCount": 2, "state": {state: {}}, "lastState": {"terminated": {}}});
            assert_eq!((run_shown(&runs, false), run_shown(&runs, true)), (Some(2), Some(1)));
        }
        let first = json!({"restartCount": 0, "state": {"running": {}}, "lastState": {}});
        assert_eq!((run_shown(&first, false), run_shown(&first, true)), (Some(0), None));
    }

    #[test]
    fn one_that_has_never_begun_has_none() {
        let fresh = json!({"restartCount": 0, "state": {"waiting": {}}, "lastState": {}});
        assert_eq!((run_shown(&fresh, false), run_shown(&fresh, true)), (None, None));
    }
}
