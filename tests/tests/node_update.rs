//! Edits: which make a new pod, and when.

use std::time::Duration;

use serde_json::json;
use tests::manifest::{daemon_set, pod};
use tests::node::TestNode;
use tests::wait::{PATIENCE, holds_for};

fn environment(node: &TestNode, pod: &tests::client::Pod) -> String {
    let bytes =
        std::fs::read(format!("/proc/{}/environ", node.process(pod).pid)).expect("the process has an environment");
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

#[test]
fn a_changed_template_replaces_the_pod() {
    let node = TestNode::start();
    node.put("a.yaml", &daemon_set("a").env("testenv", "value").text());
    let old = node.wait_running("a");
    let process = node.process(&old);
    node.put("a.yaml", &daemon_set("a").env("testenv", "value01").text());
    let new = node.wait_pod("a", "is replaced", |pod| pod.uid() != old.uid() && pod.running() && pod.ready());
    assert!(!process.alive());
    assert!(environment(&node, &new).contains("testenv=value01"));
    assert_ne!(old.name(), new.name());
    let revision = |pod: &tests::client::Pod| pod.0["metadata"]["labels"]["controller-revision-hash"].clone();
    assert!(revision(&old).is_string() && revision(&old) != revision(&new));
}

#[test]
fn two_containers_of_one_daemon_never_run_at_once() {
    let node = TestNode::start();
    // An exclusive lock on a file of the host: a second holder would fail and be counted as a restart.
    let lock = node.dir().join("lock");
    let script =
        "mkdir /lock/held || exit 7; trap 'rmdir /lock/held; exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let daemon = |value: &str| {
        let made = daemon_set("a").env("testenv", value).script(script);
        made.host_path(lock.to_str().unwrap(), "DirectoryOrCreate", "/lock").text()
    };
    node.put("a.yaml", &daemon("0"));
    let mut last = node.wait_running("a");
    for round in 1..4 {
        node.put("a.yaml", &daemon(&round.to_string()));
        let next = node.wait_pod("a", "is replaced", |pod| pod.uid() != last.uid() && pod.running() && pod.ready());
        assert_eq!(next.restarts(), 0, "the successor found the lock held");
        last = next;
    }
}

#[test]
fn on_delete_waits_until_the_pod_is_deleted_by_hand() {
    let node = TestNode::start();
    let daemon = |value: &str| {
        daemon_set("a").env("testenv", value).set("/spec/updateStrategy", json!({"type": "OnDelete"})).text()
    };
    node.put("a.yaml", &daemon("value02"));
    let old = node.wait_running("a");
    let process = node.process(&old);
    node.put("a.yaml", &daemon("value03"));
    holds_for(Duration::from_secs(2), "the old pod runs on", || {
        if process.alive() { Ok(()) } else { Err("it ended".into()) }
    });
    let deleted = node.cli(&["delete", "pod", &old.name()]).ok();
    assert!(deleted.out.contains(&old.name()), "{deleted:?}");
    let new = node.wait_pod("a", "is replaced", |pod| pod.uid() != old.uid() && pod.running());
    assert!(environment(&node, &new).contains("testenv=value03"));
}

#[test]
fn on_delete_survives_an_agent_restart() {
    let mut node = TestNode::start();
    let daemon = |value: &str| {
        daemon_set("a").env("testenv", value).set("/spec/updateStrategy", json!({"type": "OnDelete"})).text()
    };
    node.put("a.yaml", &daemon("value02"));
    let old = node.wait_running("a");
    node.kill_agent();
    node.put("a.yaml", &daemon("value03"));
    node.start_agent();
    node.wait_agent();
    let adopted = node.wait_running("a");
    assert_eq!(adopted.uid(), old.uid());
    assert!(environment(&node, &adopted).contains("testenv=value02"));
}

#[test]
fn a_deleted_pod_of_an_unchanged_daemon_set_comes_back_as_a_new_one() {
    let node = TestNode::start();
    node.put("a.yaml", &daemon_set("a").text());
    let old = node.wait_running("a");
    node.cli(&["delete", "pod", "ds/a"]).ok();
    let new = node.wait_pod("a", "is replaced", |pod| pod.uid() != old.uid() && pod.running());
    assert_ne!(old.name(), new.name());
}

#[test]
fn an_edited_static_pod_is_a_new_pod_of_the_same_name() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").env("x", "1").text());
    let old = node.wait_running("a");
    let process = node.process(&old);
    node.put("a.yaml", &pod("a").env("x", "2").text());
    let new = node.wait_pod("a", "is replaced", |pod| pod.uid() != old.uid() && pod.running());
    assert_eq!(old.name(), new.name());
    process.wait_gone(PATIENCE);
}

#[test]
fn metadata_of_a_daemon_set_changes_no_pod() {
    let node = TestNode::start();
    node.put("a.yaml", &daemon_set("a").text());
    let process = node.process(&node.wait_running("a"));
    node.put("a.yaml", &daemon_set("a").set("/metadata/labels", json!({"x": "y"})).text());
    // A second manifest that runs proves that the first was read.
    node.put("b.yaml", &pod("b").text());
    node.wait_running("b");
    assert!(process.alive());
}

#[test]
fn an_update_to_an_image_that_is_not_there_keeps_the_old_pod() {
    let node = TestNode::start();
    node.put("a.yaml", &daemon_set("a").text());
    let process = node.process(&node.wait_running("a"));
    let missing =
        daemon_set("a").field("image", json!("docker.io/library/nowhere:1")).field("imagePullPolicy", json!("Never"));
    node.put("a.yaml", &missing.text());
    tests::wait::wait_for("why names the image", || {
        let why = node.cli(&["why"]).out;
        if why.contains("nowhere") { Ok(()) } else { Err(why) }
    });
    assert!(process.alive());
}
