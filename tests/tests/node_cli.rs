//! The words that a person types, the exit codes that a script reads, and the loopback endpoint.

use std::fs;
use std::process::Command;

use serde_json::json;
use tests::client;
use tests::manifest::{daemon_set, pod};
use tests::node::{TestNode, program};
use tests::wait::wait_for;

#[test]
fn get_pods_prints_the_contracts_columns() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").namespace("other").text());
    node.wait_running("a");
    let table = node.cli(&["get", "pods"]).ok().out;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows[1][..5], ["other", "a-node-a", "1/1", "Running", "0"]);
    let list = node.cli(&["get", "pods", "-o", "json"]).ok().json();
    assert_eq!((list["apiVersion"].as_str(), list["kind"].as_str()), (Some("v1"), Some("PodList")));
    assert!(!node.cli(&["get", "pods", "-n", "default"]).ok().out.contains("a-node-a"));
    node.cli(&["get", "pods", "a-node-a", "-o", "yaml"]).ok();
    node.cli(&["get", "pods", "-o", "wide"]).ok();
}

#[test]
fn exit_codes_tell_refusal_usage_silence_and_absence_apart() {
    let mut node = TestNode::start();
    node.cli(&["get", "pods", "nobody"]).exits(4);
    node.cli(&["describe", "pod", "nobody"]).exits(4);
    node.cli(&["delete", "pod", "nobody"]).exits(4);
    node.cli(&["no-such-word"]).exits(2);
    node.cli(&["get", "pods", "--no-such-flag"]).exits(2);
    let file = node.dir().join("bad.yaml");
    fs::write(&file, pod("bad").pod_field("noSuchField", json!(1)).text()).unwrap();
    node.cli(&["check", file.to_str().unwrap()]).exits(1);
    node.stop_agent();
    let silence = node.cli(&["get", "pods"]).exits(3).err;
    assert!(silence.contains(&node.run_dir().display().to_string()) && !silence.contains("systemctl"), "{silence}");
    // Words that need no agent.
    node.cli(&["version"]).ok();
    node.cli(&["completion", "bash"]).ok();
}

#[test]
fn check_names_file_line_field_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: c\n    image: i\n    imagge: j\n").unwrap();
    let output = client::run(Command::new(program("daemonlet")).arg("check").arg(&file)).exits(1);
    let line = output.out.lines().next().unwrap_or_default().to_owned();
    assert!(line.starts_with(&format!("{}:9: spec.containers[0].imagge: ", file.display())), "{output:?}");
    fs::write(&file, pod("a").text()).unwrap();
    client::run(Command::new(program("daemonlet")).arg("check").arg(&file)).ok();
}

#[test]
fn run_dir_is_understood_before_and_after_a_word() {
    let node = TestNode::start();
    let run_dir = node.run_dir();
    let run_dir = run_dir.to_str().unwrap();
    for words in [["--run-dir", run_dir, "get", "pods"], ["get", "pods", "--run-dir", run_dir]] {
        client::run(node.command(program("daemonlet")).args(words)).ok();
    }
}

#[test]
fn describe_shows_what_a_person_asks_for() {
    let node = TestNode::start();
    node.put("a.yaml", &daemon_set("a").env("testenv", "value01").text());
    let pod = node.wait_running("a");
    let text = node.cli(&["describe", "pod", &pod.name()]).ok().out;
    for word in [pod.name().as_str(), pod.uid().as_str(), "testenv", "value01", "busybox", "Running"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert_eq!(node.cli(&["describe", "pod", "ds/a"]).ok().out.lines().next(), text.lines().next());
}

#[test]
fn why_names_the_missing_image() {
    let node = TestNode::start();
    let missing =
        pod("a").field("image", json!("docker.io/library/nowhere:1")).field("imagePullPolicy", json!("Never"));
    node.put("a.yaml", &missing.text());
    wait_for("why names the image", || {
        let why = node.cli(&["why", "a-node-a"]);
        if why.out.contains("docker.io/library/nowhere:1") { Ok(()) } else { Err(format!("{why:?}")) }
    });
    let all = node.cli(&["why", "-o", "json"]).json();
    assert!(all.to_string().contains("a-node-a"), "{all}");
}

#[test]
fn doctor_answers_line_by_line() {
    let node = TestNode::start();
    let text = node.cli(&["doctor"]);
    assert!([0, 1].contains(&text.code), "{text:?}");
    assert!(text.out.to_lowercase().contains("containerd"), "{text:?}");
    node.cli(&["doctor", "-o", "json"]).json();
    // The agent's own places, also those that only it knows.
    assert!(text.out.contains(&node.manifest_dir().display().to_string()), "{text:?}");
    assert!(
        text.out.lines().next().is_some_and(|line| line.contains("that of the agent which answers on")),
        "{text:?}"
    );
}

#[test]
fn get_node_files_images_and_events_answer() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.wait_running("a");
    assert!(node.cli(&["get", "files"]).ok().out.contains("a.yaml"));
    assert!(node.cli(&["get", "images"]).ok().out.contains("busybox"));
    assert!(node.cli(&["get", "node"]).ok().out.contains("node-a"));
    assert!(node.cli(&["get", "events"]).ok().out.contains("Started"));
    assert!(node.files().to_string().contains("a.yaml"));
    // Over an agent's end, and over a boot, of which only what lies on the disk is left.
    assert_eq!(node.stop_agent(), 0);
    std::fs::remove_file(node.run_dir().join("events")).expect("its copy in memory");
    node.start_agent();
    node.wait_agent();
    assert!(node.cli(&["get", "events"]).ok().out.contains("Started"));
}

#[test]
fn the_loopback_listener_answers_health_pods_and_metrics() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.wait_running("a");
    for path in ["/livez", "/readyz", "/healthz"] {
        let answer = node.get(path).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let verbose = node.get("/readyz?verbose").unwrap().body;
    for check in ["[+]loop ok", "[+]containerd ok", "[+]source-static ok"] {
        assert!(verbose.contains(check), "{check} is not in {verbose}");
    }
    let list = node.get("/pods").unwrap().json();
    assert_eq!(list["items"][0]["metadata"]["name"], "a-node-a");
    let metrics = node.get("/metrics").unwrap().body;
    assert!(metrics.lines().any(|line| line.starts_with("kubelet_running_pods")), "{metrics}");
}

#[test]
fn a_foreign_host_header_is_refused() {
    let node = TestNode::start();
    for host in ["evil.example", "evil.example:10348", ""] {
        let status = node.get_as("/pods", host).map_or(400, |answer| answer.status);
        assert!((400..500).contains(&status), "{host:?} got {status}");
    }
    for host in ["localhost:10348", "127.0.0.1:10348", "[::1]:10348"] {
        assert_eq!(node.get_as("/pods", host).unwrap().status, 200, "{host}");
    }
}

#[test]
fn a_dead_containerd_fails_readiness_only() {
    let mut node = TestNode::start();
    node.kill_containerd();
    wait_for("readyz fails", || match node.get("/readyz?verbose") {
        Ok(answer) if answer.status == 500 && answer.body.contains("[-]containerd failed") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(node.get("/livez").unwrap().status, 200);
    node.start_containerd();
    wait_for("readyz recovers", || match node.get("/readyz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn the_socket_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = TestNode::start();
    let mode = fs::metadata(node.run_dir().join("daemonlet.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn a_second_agent_on_the_same_directories_refuses_to_start() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    let second = client::run(node.command(program("daemonlet")).args(node.agent_arguments()));
    assert_eq!(second.code, 1, "{second:?}");
    assert!(process.alive() && node.agent_process().alive());
    node.cli(&["get", "pods"]).ok();
}
