//! Rows as kubectl's users know them.

use serde_json::{Value, json};

use super::*;
use crate::api::kinds::{by_kind, kinds};

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn cells(group: &str, kind: &str, object: Value) -> Vec<Value> {
    (shown(by_kind(group, "v1", kind).unwrap()).cells)(&object, now())
}

/// READY, STATUS and RESTARTS of a pod.
fn pod(object: Value) -> (String, String, String) {
    let cells = cells("", "Pod", object);
    let text = |place: usize| cells[place].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

fn seen(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
    (ready.into(), status.into(), restarts.into())
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for kind in kinds() {
        let shown = shown(kind);
        let empty = (shown.cells)(&json!({}), now());
        assert_eq!(empty.len(), shown.columns.len(), "{kind:?}");
        assert!(shown.columns.iter().any(|column| column.cell == Cell::Name), "{kind:?}");
    }
}

#[test]
fn an_age_has_two_units_while_the_smaller_one_matters() {
    let ages = [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_000, "3h3m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_072_000, "2y"),
        (63_172_000, "2y1d"),
        (252_288_000, "8y"),
    ];
    for (seconds, age) in ages {
        assert_eq!(age::short(seconds), age, "{seconds}");
    }
}

#[test]
fn a_daemonset_shows_its_counts() {
    let object = json!({
        "metadata": { "name": "d", "creationTimestamp": "2026-01-01T23:58:00Z" },
        "spec": {
            "selector": { "matchLabels": { "name": "d" }, "matchExpressions": [{ "key": "t", "operator": "In", "values": ["a", "b"] }] },
            "template": { "spec": { "nodeSelector": { "disk": "ssd" }, "containers": [{ "name": "a", "image": "x:1" }, { "name": "b", "image": "y" }] } },
        },
        "status": { "desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "numberAvailable": 1 },
    });
    let expected = json!(["d", 3, 2, 1, 0, 1, "disk=ssd", "2m", "a,b", "x:1,y", "name=d,t in (a,b)"]);
    assert_eq!(Value::from(cells("apps", "DaemonSet", object)), expected);
}

#[test]
fn a_running_pod_counts_its_containers_and_restarts() {
    let object = json!({
        "metadata": { "name": "p", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "a" }, { "name": "b" }] },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }], "containerStatuses": [
            { "name": "a", "ready": true, "restartCount": 2, "state": { "running": {} },
              "lastState": { "terminated": { "finishedAt": "2026-01-01T23:59:00Z" } } },
            { "name": "b", "ready": true, "restartCount": 0, "state": { "running": {} } }] },
    });
    let expected = json!(["p", "2/2", "Running", "2 (60s ago)", "24h", "10.0.0.1", "n1", "<none>", "<none>"]);
    assert_eq!(Value::from(cells("", "Pod", object)), expected);
}

#[test]
fn a_pods_status_is_the_reason_of_its_first_container_that_is_not_well() {
    let with = |state: Value| {
        json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }] }, "status": { "phase": "Running", "containerStatuses": [
            { "name": "a", "restartCount": 1, "state": state },
            { "name": "b", "ready": true, "state": { "running": {} } }] } })
    };
    assert_eq!(pod(with(json!({ "waiting": { "reason": "CrashLoopBackOff" } }))), seen("1/2", "CrashLoopBackOff", "1"));
    assert_eq!(pod(with(json!({ "terminated": { "reason": "Error", "exitCode": 1 } }))), seen("1/2", "Error", "1"));
    assert_eq!(pod(with(json!({ "terminated": { "exitCode": 3 } }))), seen("1/2", "ExitCode:3", "1"));
    assert_eq!(pod(with(json!({ "terminated": { "signal": 9 } }))), seen("1/2", "Signal:9", "1"));
    let mut done = with(json!({ "terminated": { "reason": "Completed", "exitCode": 0 } }));
    assert_eq!(pod(done.clone()), seen("1/2", "NotReady", "1"));
    done["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
    assert_eq!(pod(done), seen("1/2", "Running", "1"));
}

#[test]
fn init_containers_are_in_the_way_until_they_are_done_and_sidecars_count() {
    let with = |states: Value| {
        json!({ "spec": { "initContainers": [{ "name": "i" }, { "name": "s", "restartPolicy": "Always" }], "containers": [{ "name": "a" }] },
            "status": { "phase": "Pending", "initContainerStatuses": states,
                "containerStatuses": [{ "name": "a", "restartCount": 5, "state": { "waiting": { "reason": "PodInitializing" } } }] } })
    };
    let i = |state: Value| json!({ "name": "i", "restartCount": 1, "state": state });
    assert_eq!(pod(with(json!([i(json!({ "running": {} }))]))), seen("0/2", "Init:0/2", "1"));
    assert_eq!(
        pod(with(json!([i(json!({ "terminated": { "exitCode": 1, "reason": "Error" } }))]))),
        seen("0/2", "Init:Error", "1")
    );
    assert_eq!(pod(with(json!([i(json!({ "terminated": { "exitCode": 7 } }))]))), seen("0/2", "Init:ExitCode:7", "1"));
    let waiting = i(json!({ "waiting": { "reason": "ImagePullBackOff" } }));
    assert_eq!(pod(with(json!([waiting]))), seen("0/2", "Init:ImagePullBackOff", "1"));
    let done = i(json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }));
    let sidecar = json!({ "name": "s", "started": true, "ready": true, "restartCount": 2, "state": { "running": {} } });
    assert_eq!(pod(with(json!([done, sidecar]))), seen("1/2", "PodInitializing", "7"));
}

#[test]
fn a_pod_that_is_being_deleted_says_so_and_that_of_a_lost_node_is_unknown() {
    let mut object =
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" }, "status": { "phase": "Running" } });
    assert_eq!(pod(object.clone()), seen("0/0", "Terminating", "0"));
    object["status"]["phase"] = "Failed".into();
    assert_eq!(pod(object.clone()), seen("0/0", "Failed", "0"));
    object["status"]["reason"] = "NodeLost".into();
    assert_eq!(pod(object), seen("0/0", "Unknown", "0"));
}

#[test]
fn a_node_shows_whether_it_is_ready_and_takes_pods() {
    let object = json!({
        "metadata": { "name": "n", "labels": { "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge" } },
        "spec": { "unschedulable": true },
        "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }], "addresses": [{ "type": "InternalIP", "address": "10.0.0.9" }],
            "nodeInfo": { "kubeletVersion": "v1", "kernelVersion": "6.1", "architecture": "arm64", "osImage": "Debian" } },
    });
    let expected = json!([
        "n",
        "NotReady,SchedulingDisabled",
        "control-plane,edge",
        "<unknown>",
        "v1",
        "10.0.0.9",
        "<none>",
        "Debian",
        "6.1 (arm64)",
        "<unknown>",
    ]);
    assert_eq!(Value::from(cells("", "Node", object)), expected);
    assert_eq!(cells("", "Node", json!({}))[1], "Unknown");
}

#[test]
fn events_of_both_groups_show_the_same() {
    let old = json!({ "metadata": { "name": "e" }, "involvedObject": { "kind": "Pod", "name": "p", "fieldPath": "spec" }, "type": "Normal", "reason": "Started",
        "message": "it began\n", "firstTimestamp": "2026-01-01T23:59:00Z", "lastTimestamp": "2026-01-01T23:59:50Z", "count": 3,
        "source": { "component": "daemonlet", "host": "n1" } });
    let expected = json!(["10s", "Normal", "Started", "pod/p", "spec", "daemonlet, n1", "it began", "60s", 3, "e"]);
    assert_eq!(Value::from(cells("", "Event", old)), expected);
    let new = json!({ "metadata": { "name": "e" }, "regarding": { "kind": "Pod", "name": "p" }, "type": "Normal", "reason": "Started", "note": "it began",
        "eventTime": "2026-01-01T23:59:00.000001Z", "series": { "count": 4, "lastObservedTime": "2026-01-01T23:59:50.000000Z" },
        "reportingController": "daemonlet", "reportingInstance": "n1" });
    let expected = json!(["10s", "Normal", "Started", "pod/p", "", "daemonlet, n1", "it began", "60s", 4, "e"]);
    assert_eq!(Value::from(cells("events.k8s.io", "Event", new)), expected);
}

#[test]
fn rows_carry_of_their_object_what_was_asked_for() {
    let kind = by_kind("", "v1", "ConfigMap").unwrap();
    let object = json!({ "metadata": { "name": "c", "resourceVersion": "7" }, "data": { "a": "b" } });
    let row = |include| {
        let form = Form { shown: shown(kind), include, version: "v1" };
        form.table(vec![object.clone()], json!({ "resourceVersion": "9" }), now(), true)
    };
    let table = row(Include::Metadata);
    assert_eq!(
        table["columnDefinitions"][0],
        json!({ "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0 })
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"].get("data"), None);
    assert_eq!(row(Include::Nothing)["rows"][0].get("object"), None);
    assert_eq!(row(Include::Object)["rows"][0]["object"]["data"]["a"], "b");
}
