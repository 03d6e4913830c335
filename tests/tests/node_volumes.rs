//! Volumes of a pod's own on a real node: how long they live, and who sees them.

use std::fs;

use serde_json::{Value, json};
use tests::client::Pod;
use tests::manifest::{Document, pod};
use tests::node::TestNode;
use tests::wait::wait_for;

/// A pod with an emptyDir on disk at /disk and one in memory at /memory.
fn with_empty_dirs(document: Document) -> Document {
    let volumes = json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]);
    let mounts = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]);
    document.pod_field("volumes", volumes).field("volumeMounts", mounts)
}

fn restarted(node: &TestNode, name: &str, restarts: u64) -> Pod {
    node.wait_pod(name, "runs again", |pod| pod.running() && pod.restarts() == restarts)
}

#[test]
fn an_empty_dir_lives_as_long_as_its_pod() {
    let mut node = TestNode::start();
    node.put("a.yaml", &with_empty_dirs(pod("a").own_network()).text());
    let first = node.wait_running("a");
    let process = node.process(&first);
    node.exec(process, &["sh", "-c", "touch /disk/kept /memory/kept && test $(stat -c %a /disk) = 777"]).ok();
    // Its size is its own, whatever the memory of the node.
    assert_ne!(node.exec(process, &["dd", "if=/dev/zero", "of=/memory/x", "bs=1M", "count=2"]).code, 0);
    let keeps = |node: &TestNode, pod: &Pod| {
        node.exec(node.process(pod), &["test", "-e", "/disk/kept", "-a", "-e", "/memory/kept"]).ok();
    };

    process.kill_9();
    keeps(&node, &restarted(&node, "a", 1));
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    keeps(&node, &node.wait_running("a"));

    // The pod's surroundings are lost under it, and raised anew.
    let network = node.run_dir().join("pods").join(first.uid()).join("ns/net");
    nix::mount::umount2(&network, nix::mount::MntFlags::MNT_DETACH).expect("it is pinned");
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    let again = restarted(&node, "a", 2);
    assert_eq!(again.uid(), first.uid());
    keeps(&node, &again);

    node.power_cut();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    let booted = restarted(&node, "a", 3);
    assert_eq!(booted.uid(), first.uid());
    node.exec(node.process(&booted), &["sh", "-c", "test -e /disk/kept -a ! -e /memory/kept"]).ok();

    let of_pod = node.state_dir().join("pods").join(first.uid());
    assert!(of_pod.join("volumes/empty-dir/disk/kept").exists());
    node.remove("a.yaml");
    node.wait_no_pod("a");
    wait_for("its volumes are gone", || if of_pod.exists() { Err(of_pod.display().to_string()) } else { Ok(()) });
}

#[test]
fn containers_of_a_pod_share_it_and_a_new_pod_begins_empty() {
    let node = TestNode::start();
    let mut document: Value = serde_json::from_str(&with_empty_dirs(pod("a")).text()).expect("JSON");
    let mut second = document["spec"]["containers"][0].clone();
    second["name"] = json!("second");
    document["spec"]["containers"].as_array_mut().expect("a list").push(second);
    node.put("a.yaml", &document.to_string());
    let first = node.wait_running("a");
    let of = |pod: &Pod, name: &str| node.process_of(&pod.container_id(name));
    node.exec(of(&first, "main"), &["touch", "/disk/shared"]).ok();
    node.exec(of(&first, "second"), &["test", "-e", "/disk/shared"]).ok();
    document["spec"]["terminationGracePeriodSeconds"] = json!(4);
    node.put("a.yaml", &document.to_string());
    let new = node.wait_pod("a", "is another pod", |pod| pod.uid() != first.uid() && pod.running());
    node.exec(of(&new, "main"), &["test", "!", "-e", "/disk/shared"]).ok();
    let old = node.state_dir().join("pods").join(first.uid());
    wait_for("the old pod's volumes are gone", || {
        if fs::exists(&old).unwrap_or(true) { Err("there".to_owned()) } else { Ok(()) }
    });
}
