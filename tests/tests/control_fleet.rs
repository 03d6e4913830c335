//! What an endpoint and its nodes do when one of them goes away and comes back, with real agents and containerd.

use serde_json::Value;
use tests::client::Pod;
use tests::fleet::{TestControl, condition};
use tests::manifest;
use tests::node::TestNode;
use tests::wait::{holds_for, wait_for};

#[track_caller]
fn apply(control: &TestControl, name: &str, word: &str) {
    let script = manifest::OBEDIENT.replace("started", word);
    let file = control.file(&format!("{name}.yaml"), &manifest::daemon_set(name).script(&script).text());
    control.kubectl(&["apply", "-f", &file]).ok();
}

#[track_caller]
fn wait_available(control: &TestControl, name: &str, count: u64) -> Value {
    control.wait(&format!("{count} of {name} are available"), &["daemonset", name], |daemonset| {
        daemonset["status"]["numberAvailable"].as_u64().unwrap_or(0) == count
            && daemonset["status"]["observedGeneration"] == daemonset["metadata"]["generation"]
            && daemonset["status"]["updatedNumberScheduled"].as_u64().unwrap_or(0) == count
    })
}

fn processes(node: &TestNode, pod: &Pod) -> (i32, String) {
    (node.process(pod).pid, pod.uid())
}

#[test]
fn daemons_run_on_without_the_endpoint_and_without_the_agent() {
    let mut control = TestControl::start();
    let mut node = control.node("node-a");
    apply(&control, "steady", "one");
    wait_available(&control, "steady", 1);
    let before = processes(&node, &node.wait_running("steady"));

    // The endpoint is gone: nothing else on the node notices, also not an agent that starts meanwhile.
    control.kill();
    node.restart_agent();
    assert_eq!(processes(&node, &node.wait_running("steady")), before);
    // A daemon that dies meanwhile comes back.
    node.process(&node.wait_running("steady")).kill_9();
    let pod = node.wait_pod("steady", "has been started again", |pod| {
        pod.running() && pod.container("main").is_some_and(|status| status["restartCount"] == 1)
    });
    let after = processes(&node, &pod);
    assert!(after.0 != before.0 && after.1 == before.1);

    // A power cut too, and the machine starts without a network.
    node.power_cut();
    control.cable(&node, "down");
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    assert_eq!(node.wait_running("steady").uid(), before.1);

    // Back again, it is the same pod, and the next change arrives.
    control.cable(&node, "up");
    control.up();
    control.wait_node_ready("node-a");
    let listed = control.get(&["pods", "-l", "app=steady"]);
    assert_eq!(listed["items"][0]["metadata"]["uid"], before.1.as_str(), "{listed}");
    apply(&control, "steady", "two");
    wait_available(&control, "steady", 1);
    let pod = node.wait_running("steady");
    assert_ne!(pod.uid(), before.1);
    node.wait_log(&pod, "main", "two");
}

#[test]
fn a_daemon_comes_to_a_node_that_joins_and_goes_with_one_that_is_deleted() {
    let control = TestControl::start();
    apply(&control, "roving", "here");
    let daemonset = control.wait("the DaemonSet is observed", &["daemonset", "roving"], |daemonset| {
        daemonset["status"]["observedGeneration"] == 1
    });
    assert_eq!(daemonset["status"]["desiredNumberScheduled"], 0);
    let first = control.node("node-a");
    wait_available(&control, "roving", 1);
    let second = control.node("node-b");
    wait_available(&control, "roving", 2);

    // Labels and taints are followed.
    control.kubectl(&["taint", "node", "node-b", "dedicated=other:NoExecute"]).ok();
    wait_available(&control, "roving", 1);
    second.wait_no_pod("roving");
    control.kubectl(&["taint", "node", "node-b", "dedicated-"]).ok();
    wait_available(&control, "roving", 2);
    second.wait_running("roving");

    drop(second);
    control.kubectl(&["delete", "node", "node-b"]).ok();
    wait_available(&control, "roving", 1);
    let pods = control.get(&["pods", "-l", "app=roving"]);
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(1), "{pods}");
    drop(first);
}

#[test]
fn static_pods_are_visible_and_a_deleted_mirror_restarts_them() {
    let mut control = TestControl::start();
    let token = control.token();
    control.kill();
    let builder = TestNode::builder().manifest("local.yaml", &manifest::pod("local").text());
    let node = control.node_with(builder, "node-a", &token);
    let before = node.wait_running("local");
    control.up();
    let mirror = control
        .wait("the mirror pod is there and ready", &["pod", "local-node-a"], |pod| condition(pod, "Ready") == "True");
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");

    let process = node.process(&before);
    control.kubectl(&["delete", "pod", "local-node-a"]).ok();
    process.wait_gone(tests::wait::PATIENCE);
    node.wait_running("local");
    control.wait("the mirror pod is back", &["pod", "local-node-a"], |pod| {
        pod["metadata"]["uid"] != mirror["metadata"]["uid"] && condition(pod, "Ready") == "True"
    });
    node.remove("local.yaml");
    node.wait_no_pod("local");
    wait_for("the mirror pod goes with its manifest", || match control.kubectl(&["get", "pod", "local-node-a"]) {
        output if output.code == 1 && output.err.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn logs_come_through_the_session() {
    let control = TestControl::start();
    let node = control.node("node-a");
    apply(&control, "talker", "hello-from-the-node");
    wait_available(&control, "talker", 1);
    let pod = node.wait_running("talker");
    let said = control.kubectl(&["logs", &pod.name()]).ok();
    assert_eq!(said.out, "hello-from-the-node\n");
    let stamped = control.kubectl(&["logs", "ds/talker", "--timestamps", "--tail", "1"]).ok();
    assert!(stamped.out.trim_end().ends_with("Z hello-from-the-node"), "{}", stamped.out);
    node.process(&pod).kill_9();
    node.wait_pod("talker", "has been started again", |pod| {
        pod.running() && pod.container("main").is_some_and(|status| status["restartCount"] == 1)
    });
    wait_for("the earlier run's log is shown", || {
        let previous = control.kubectl(&["logs", &pod.name(), "--previous"]);
        if previous.out == "hello-from-the-node\n" { Ok(()) } else { Err(format!("{previous:?}")) }
    });
}

#[test]
fn unknown_is_not_dead() {
    let control = TestControl::start();
    let node = control.node("node-a");
    apply(&control, "faithful", "still-here");
    wait_available(&control, "faithful", 1);
    let before = processes(&node, &node.wait_running("faithful"));
    control.cable(&node, "down");
    control.wait("the node is called unreachable", &["node", "node-a"], |node| condition(node, "Ready") == "Unknown");
    let taints = control.get(&["node", "node-a"])["spec"]["taints"].to_string();
    assert!(taints.contains("node.kubernetes.io/unreachable"), "{taints}");
    holds_for(std::time::Duration::from_secs(2), "the daemon runs on and its pod stays", || {
        let pods = control.get(&["pods", "-l", "app=faithful"]);
        match pods["items"].as_array().map(Vec::as_slice) {
            Some([pod]) if pod["metadata"]["deletionTimestamp"].is_null() => Ok(()),
            _ => Err(pods.to_string()),
        }
    });
    control.cable(&node, "up");
    control.wait_node_ready("node-a");
    wait_available(&control, "faithful", 1);
    assert_eq!(processes(&node, &node.wait_running("faithful")), before);
    let taints = control.get(&["node", "node-a"])["spec"]["taints"].to_string();
    assert!(!taints.contains("unreachable"), "{taints}");
}

#[test]
fn a_daemonset_made_again_starts_when_the_pod_before_it_has_stopped() {
    let control = TestControl::start();
    let node = control.node("node-a");
    // It takes its time to end, and says when it is done.
    let script = "trap 'sleep 2; echo ended; exit 0' TERM\necho started\nwhile true; do sleep 0.1; done\n";
    let file = control.file("slow.yaml", &manifest::daemon_set("slow").script(script).text());
    control.kubectl(&["apply", "-f", &file]).ok();
    wait_available(&control, "slow", 1);
    let first = node.wait_running("slow");
    let before = node.process(&first);
    control.kubectl(&["delete", "daemonset", "slow", "--wait=false"]).ok();
    control.kubectl(&["apply", "-f", &file]).ok();
    wait_for("the next pod runs", || {
        let pods = node.pods_of("slow");
        let runs = pods.iter().any(|pod| pod.uid() != first.uid() && pod.running());
        if runs { Ok(()) } else { Err(tests::node::summary(&pods)) }
    });
    assert!(!before.alive(), "both run at once");
}
