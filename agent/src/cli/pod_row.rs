//! A v1 Pod as a row: READY, STATUS and RESTARTS by kubectl's rules. Pure.

use serde_json::Value;

use super::age;
use super::find::{field, name, namespace};

pub const HEADS: [&str; 6] = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"];
pub const WIDE_HEADS: [&str; 8] = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"];

/// The cells of [`HEADS`], or of [`WIDE_HEADS`].
pub fn row(pod: &Value, wide: bool, now: jiff::Timestamp) -> Vec<String> {
    let containers = containers(pod);
    let ready = containers.iter().filter(|status| status["ready"] == true).count();
    let total = pod.pointer("/spec/containers").and_then(Value::as_array).map_or(containers.len(), Vec::len);
    let created = pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let mut row = vec![
        namespace(pod).to_owned(),
        name(pod).to_owned(),
        format!("{ready}/{total}"),
        status(pod),
        restarts(containers, now),
        age::since(created, now),
    ];
    if wide {
        let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        row.extend([or_none(field(pod, "/status/podIP")), or_none(field(pod, "/spec/nodeName"))]);
    }
    row
}

pub fn containers(pod: &Value) -> &[Value] {
    pod.pointer("/status/containerStatuses").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The STATUS cell.
pub fn status(pod: &Value) -> String {
    let phase = field(pod, "/status/phase");
    let mut reason = match field(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let mut running = false;
    // From the last to the first: the first container with something to say has the word.
    for status in containers(pod).iter().rev() {
        let state = &status["state"];
        let waiting = field(state, "/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            reason = match field(state, "/terminated/reason") {
                "" => format!("ExitCode:{}", state["terminated"]["exitCode"]),
                reason => reason.to_owned(),
            };
        } else if state["running"].is_object() && status["ready"] == true {
            running = true;
        }
    }
    if reason == "Completed" && running {
        reason = if condition_is_true(pod, "Ready") { "Running".into() } else { "NotReady".into() };
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        reason = "Terminating".into();
    }
    if reason.is_empty() { "Unknown".into() } else { reason }
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}

fn restarts(containers: &[Value], now: jiff::Timestamp) -> String {
    let count: u64 = containers.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let ends = containers.iter().filter_map(|status| status.pointer("/lastState/terminated/finishedAt")?.as_str());
    match ends.max() {
        // Both are RFC 3339 in UTC: the greatest text is the latest time.
        Some(last) if count > 0 => format!("{count} ({} ago)", age::since(Some(last), now)),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(statuses: Value) -> Vec<String> {
        let now = jiff::Timestamp::from_second(1000).unwrap();
        let pod = json!({
            "metadata": {"namespace": "default", "name": "p", "creationTimestamp": "1970-01-01T00:15:00Z"},
            "spec": {"containers": [{}, {}], "nodeName": "n1"},
            "status": {"phase": "Running", "containerStatuses": statuses},
        });
        row(&pod, true, now)
    }

    #[test]
    fn a_row_has_kubectls_cells() {
        let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        let backing_off = json!({
            "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "1970-01-01T00:16:10Z"}},
        });
        assert_eq!(
            shown(json!([running, backing_off])),
            ["default", "p", "1/2", "CrashLoopBackOff", "3 (30s ago)", "100s", "<none>", "n1"]
        );
        assert_eq!(shown(json!([running, running]))[3], "Running");
    }

    #[test]
    fn an_end_is_told_by_its_reason_or_its_code() {
        let ended = |reason: &str| json!({"state": {"terminated": {"reason": reason, "exitCode": 3}}});
        assert_eq!(shown(json!([ended("OOMKilled")]))[3], "OOMKilled");
        assert_eq!(shown(json!([ended("")]))[3], "ExitCode:3");
    }
}
