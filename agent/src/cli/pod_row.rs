//! A v1 Pod as a row: READY, STATUS and RESTARTS by kubectl's rules. Pure.

use serde_json::Value;

use super::age;
use super::find::{field, name, namespace};

pub const HEADS: [&str; 6] = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"];
pub const WIDE_HEADS: [&str; 8] = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"];

/// The cells of [`HEADS`], or of [`WIDE_HEADS`].
pub fn row(pod: &Value, wide: bool, now: jiff::Timestamp) -> Vec<String> {
    let sidecars = || inits(pod).iter().filter(|status| is_sidecar(pod, status));
    let ready = containers(pod).iter().chain(sidecars()).filter(|status| status["ready"] == true).count();
    let total = |place: &str| pod.pointer(place).and_then(Value::as_array).map_or(0, Vec::len);
    let mains = total("/spec/containers").max(containers(pod).len());
    let created = pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    // While the pod is initialized what counts is the restarts of all that runs before its main containers.
    let restarted: Vec<&Value> = match initializing(pod) {
        Some(_) => inits(pod).iter().collect(),
        None => containers(pod).iter().chain(sidecars()).collect(),
    };
    let mut row = vec![
        namespace(pod).to_owned(),
        name(pod).to_owned(),
        format!("{ready}/{}", mains + sidecars().count()),
        status(pod),
        restarts(&restarted, now),
        age::since(created, now),
    ];
    if wide {
        let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        row.extend([or_none(field(pod, "/status/podIP")), or_none(field(pod, "/spec/nodeName"))]);
    }
    row
}

/// Statuses of init containers and sidecars.
pub fn inits(pod: &Value) -> &[Value] {
    pod.pointer("/status/initContainerStatuses").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether this status of an init container is one of a container that runs as long as the pod.
pub fn is_sidecar(pod: &Value, status: &Value) -> bool {
    let spec = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    spec.into_iter().flatten().any(|init| init["name"] == status["name"] && init["restartPolicy"] == "Always")
}

/// `Init:…` of the first init container that is not through; None: all are, or the pod is initialized.
fn initializing(pod: &Value) -> Option<String> {
    if condition_is_true(pod, "Initialized") {
        return None;
    }
    let all = inits(pod);
    let (position, status) = all.iter().enumerate().find(|(_, status)| {
        let through = status.pointer("/state/terminated/exitCode").is_some_and(|code| code == 0);
        let up = is_sidecar(pod, status) && status["started"] == true;
        !through && !up
    })?;
    let state = &status["state"];
    let told = |reason: &str| format!("Init:{reason}");
    Some(match (field(state, "/waiting/reason"), field(state, "/terminated/reason")) {
        ("" | "PodInitializing", "") if state["terminated"].is_object() => {
            format!("Init:ExitCode:{}", state["terminated"]["exitCode"])
        }
        ("" | "PodInitializing", "") => format!("Init:{position}/{}", all.len()),
        ("" | "PodInitializing", ended) => told(ended),
        (waiting, _) => told(waiting),
    })
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
    let initializing = initializing(pod);
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
    if let Some(initializing) = initializing {
        reason = initializing;
    } else if reason == "Completed" && running {
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

fn restarts(containers: &[&Value], now: jiff::Timestamp) -> String {
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
    fn pod_that_is_being_initialized_is_shown_by_its_init_containers() {
        let now = jiff::Timestamp::from_second(1000).unwrap();
        let shown = |first: Value, second: Value, initialized: &str| {
            let pod = json!({
                "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:15:00Z"},
                "spec": {"containers": [{}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]},
                "status": {
                    "phase": "Pending",
                    "conditions": [{"type": "Initialized", "status": initialized}],
                    "initContainerStatuses": [first, second],
                    "containerStatuses": [{"ready": false, "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}],
                },
            });
            row(&pod, false, now)[2..5].to_vec()
        };
        let of = |name: &str, state: Value| json!({"name": name, "ready": false, "restartCount": 2, "state": state});
        let waits = |name: &str| of(name, json!({"waiting": {"reason": "PodInitializing"}}));
        let through = of("i", json!({"terminated": {"exitCode": 0, "reason": "Completed"}}));
        assert_eq!(shown(of("i", json!({"running": {}})), waits("s"), "False"), ["0/2", "Init:0/2", "4"]);
        assert_eq!(shown(through.clone(), waits("s"), "False"), ["0/2", "Init:1/2", "4"]);
        let failed = of("i", json!({"terminated": {"exitCode": 3, "reason": "Error"}}));
        assert_eq!(shown(failed, waits("s"), "False")[1], "Init:Error");
        let back_off = of("i", json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        assert_eq!(shown(back_off, waits("s"), "False")[1], "Init:CrashLoopBackOff");
        let up = json!({"name": "s", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}});
        assert_eq!(shown(through, up, "True"), ["1/2", "PodInitializing", "1"]);
    }

    #[test]
    fn an_end_is_told_by_its_reason_or_its_code() {
        let ended = |reason: &str| json!({"state": {"terminated": {"reason": reason, "exitCode": 3}}});
        assert_eq!(shown(json!([ended("OOMKilled")]))[3], "OOMKilled");
        assert_eq!(shown(json!([ended("")]))[3], "ExitCode:3");
    }
}
