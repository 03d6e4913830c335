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

#[test]
fn a_user_of_the_pods_group_writes_to_its_parts_of_a_volume() {
    let node = TestNode::start();
    let document = with_empty_dirs(pod("a"))
        .pod_field("securityContext", json!({"fsGroup": 2000, "runAsUser": 1000, "runAsGroup": 1000}))
        .field("env", json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]))
        .field(
            "volumeMounts",
            json!([
                {"name": "disk", "mountPath": "/whole"},
                {"name": "disk", "mountPath": "/part", "subPathExpr": "of/$(NAME)"},
                {"name": "memory", "mountPath": "/memory", "subPath": "deep/part"},
            ]),
        )
        .says("touch /part/x /memory/y; id -G; stat -c '%g %n' /part/x /memory/y; ls /whole/of; echo tried");
    node.put("a.yaml", &document.text());
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "tried");
    let lines = node.log_lines(&pod, "main", 0).join("\n");
    for wanted in ["1000 2000", "2000 /part/x", "2000 /memory/y", "a-node-a"] {
        assert!(lines.contains(wanted), "{wanted}: {lines}");
    }
    // What was bound for its creation is gone: a restart binds anew.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.lines().any(|line| line.contains(&pod.uid()) && line.contains("subpaths")), "{mounts}");
    node.process(&pod).kill_9();
    let again = restarted(&node, "a", 1);
    node.wait_log(&again, "main", "tried");
}

#[test]
fn a_device_is_waited_for_and_a_replaced_one_is_the_new_one() {
    let numbers = |path: &str| nix::sys::stat::stat(path).map(|stat| stat.st_rdev);
    let (Ok(first), Ok(second)) = (numbers("/dev/fuse"), numbers("/dev/net/tun")) else {
        return eprintln!("skipped: this machine has no two devices that are denied by default");
    };
    let node = TestNode::start();
    let device = node.dir().join("device");
    let plug = |number| {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&device, nix::sys::stat::SFlag::S_IFCHR, mode, number).expect("tests are root");
    };
    let path = device.display().to_string();
    let script = "( : < /dev/mine ) && echo opened $(stat -c %t:%T /dev/mine); \
                  mknod /tmp/n c $NEIGHBOUR; ( : < /tmp/n ) && echo leaked; echo tried";
    let document = pod("a").host_path(&path, "CharDevice", "/dev/mine").env("NEIGHBOUR", "4 0").says(script);
    node.put("a.yaml", &document.text());
    wait_for("why says what is missing", || {
        let why = node.cli(&["why", "a-node-a"]).out;
        if why.contains("FailedMount") && why.contains(&path) { Ok(()) } else { Err(why) }
    });
    plug(first);
    let show = |number| format!("opened {:x}:{:x}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "tried");
    let said = node.log_lines(&pod, "main", 0).join("\n");
    assert!(said.contains(&show(first)) && !said.contains("leaked"), "{said}");

    fs::remove_file(&device).expect("there");
    plug(second);
    node.process(&pod).kill_9();
    let again = restarted(&node, "a", 1);
    wait_for("the new device is opened", || {
        let said = node.log_lines(&again, "main", 1).join("\n");
        if said.contains(&show(second)) { Ok(()) } else { Err(said) }
    });
}

/// Waits until a pod of this name has failed by itself, and its successor runs.
fn evicted(node: &TestNode, name: &str, first: &Pod, message: &str) -> Pod {
    let next = node.wait_pod(name, "starts afresh", |pod| pod.uid() != first.uid() && pod.running());
    let events = node.cli(&["get", "events", "-o", "json"]).json();
    let told = |event: &&Value| event["reason"] == "Evicted" && event["involvedObject"]["uid"] == first.uid();
    let event = events["items"].as_array().expect("a list").iter().find(told);
    let event = event.unwrap_or_else(|| panic!("nobody was told: {events}"));
    assert!(event["message"].as_str().is_some_and(|text| text.contains(message)), "{event}");
    next
}

#[test]
fn a_pod_beyond_its_own_limit_fails_by_itself_and_starts_afresh() {
    let node = TestNode::start();
    let volumes = json!([{"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}}]);
    let mounts = json!([{"name": "small", "mountPath": "/small"}, {"name": "free", "mountPath": "/free"}]);
    // The grace is the least, not the pod's.
    let document = pod("volume").pod_field("volumes", volumes).field("volumeMounts", mounts);
    node.put("volume.yaml", &document.pod_field("terminationGracePeriodSeconds", json!(600)).text());
    let limit = |limit: &str| json!({"limits": {"ephemeral-storage": limit}});
    node.put("layer.yaml", &pod("layer").field("resources", limit("1Mi")).text());
    node.put("within.yaml", &pod("within").field("resources", limit("4Mi")).text());
    let (volume, layer) = (node.wait_running("volume"), node.wait_running("layer"));
    let within = node.wait_running("within");
    let writes = |pod: &Pod, file: &str, megabytes: &str| {
        let (of, count) = (format!("of={file}"), format!("count={megabytes}"));
        node.exec(node.process(pod), &["dd", "if=/dev/zero", &of, "bs=1M", &count]).ok();
    };
    writes(&within, "/big", "2");
    writes(&volume, "/free/big", "8");
    writes(&volume, "/small/big", "2");
    writes(&layer, "/big", "2");
    let fresh = evicted(&node, "volume", &volume, "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\"");
    node.exec(node.process(&fresh), &["test", "!", "-e", "/small/big", "-a", "!", "-e", "/free/big"]).ok();
    evicted(&node, "layer", &layer, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi");
    assert_eq!(node.wait_running("within").uid(), within.uid(), "it was within its limit");
}
