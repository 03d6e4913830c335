//! ConfigMap and Secret documents beside the pods that use them.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::Pod;
use tests::manifest::{Document, daemon_set, pod};
use tests::node::TestNode;
use tests::wait::{holds_for, wait_for};

/// It may be nowhere but in the container, in the store and in the manifest.
const PASSWORD: &str = "hush-4711-hush";

fn config_map(name: &str, values: &[(&str, &str)]) -> String {
    let data: serde_json::Map<String, Value> =
        values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
}

fn secret(name: &str, password: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": password}})
        .to_string()
}

/// With the variables MODE and PASSWORD.
fn configured(document: Document) -> Document {
    document.field(
        "env",
        json!([
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "URL", "value": "$(MODE)://$(PASSWORD)"},
            {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "none", "optional": true}}},
        ]),
    )
}

fn environment(node: &TestNode, pod: &Pod) -> String {
    let bytes = fs::read(format!("/proc/{}/environ", node.process(pod).pid)).expect("the process has an environment");
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

fn waiting_message(pod: &Pod) -> String {
    let status = pod.container("main").cloned().unwrap_or_default();
    status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_pod_waits_for_what_its_environment_is_made_of_and_starts_when_it_comes() {
    let node = TestNode::start();
    node.put("a.yaml", &configured(pod("a")).text());
    let waits = node.wait_pod("a", "waits", |pod| pod.waiting("main") == "CreateContainerConfigError");
    assert_eq!(waiting_message(&waits), "configmap \"settings\" not found");
    node.put("settings.yaml", &config_map("settings", &[("other", "x")]));
    node.wait_pod("a", "waits", |pod| waiting_message(pod) == "couldn't find key mode in ConfigMap default/settings");
    node.put("login.json", &secret("login", PASSWORD));
    let begin = Instant::now();
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    let running = node.wait_running("a");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    assert_eq!(running.restarts(), 0);
    let environment = environment(&node, &running);
    for line in ["MODE=fast", &format!("PASSWORD={PASSWORD}"), &format!("URL=fast://{PASSWORD}")] {
        assert!(environment.lines().any(|found| found == line), "{line} is not in {environment}");
    }
    assert!(!environment.contains("ABSENT"), "{environment}");
    let files = node.cli(&["get", "files"]).ok().out;
    assert!(files.contains("settings.yaml") && files.contains("login.json"), "{files}");
}

#[test]
fn all_values_of_a_document_are_variables_and_env_wins() {
    let node = TestNode::start();
    node.put("c.yaml", &config_map("c", &[("A", "1"), ("b.c", "2")]));
    let from = json!([{"configMapRef": {"name": "c"}}, {"prefix": "P_", "configMapRef": {"name": "c"}},
        {"secretRef": {"name": "none", "optional": true}}]);
    node.put("a.yaml", &pod("a").field("envFrom", from).env("A", "own").text());
    let environment = environment(&node, &node.wait_running("a"));
    for line in ["A=own", "b.c=2", "P_A=1", "P_b.c=2"] {
        assert!(environment.lines().any(|found| found == line), "{line} is not in {environment}");
    }
}

#[test]
fn what_was_good_last_outlives_a_bad_edit_a_missing_directory_and_the_power() {
    let mut node = TestNode::start();
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    node.put("login.yaml", &secret("login", PASSWORD));
    node.put("a.yaml", &configured(daemon_set("a")).text());
    node.wait_running("a");
    // A bad edit, and an agent that has never seen the good one.
    node.put("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: [wrong]\n");
    wait_for("the edit is refused", || {
        let files = node.cli(&["get", "files"]).ok().out;
        if files.contains("Refused") { Ok(()) } else { Err(files) }
    });
    node.restart_agent();
    let pod = node.wait_running("a");
    let process = node.process(&pod);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = node.wait_pod("a", "runs again", |pod| pod.restarts() == 1 && pod.running());
    assert!(environment(&node, &again).contains("MODE=fast"));
    // A boot at which the directory is not there.
    node.power_cut();
    let away = node.dir().join("manifests-away");
    fs::rename(node.manifest_dir(), &away).unwrap();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    let booted = node.wait_running("a");
    assert_eq!(booted.uid(), pod.uid());
    let environment = environment(&node, &booted);
    assert!(environment.contains("MODE=fast") && environment.contains(PASSWORD), "{environment}");
    fs::rename(&away, node.manifest_dir()).unwrap();
    holds_for(Duration::from_secs(3), "it goes on", || match node.pods_of("a").as_slice() {
        [pod] if pod.uid() == booted.uid() && pod.running() => Ok(()),
        other => Err(tests::node::summary(other)),
    });
}

#[test]
fn changed_values_restart_only_who_asks_for_it() {
    let node = TestNode::start();
    let rolled = |document: Document, pointer: &str| {
        configured(document).set(pointer, json!({"daemonlet.dev/restart-on-config-change": "true"}))
    };
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    node.put("login.yaml", &secret("login", PASSWORD));
    node.put("stays.yaml", &configured(daemon_set("stays")).text());
    node.put("pod.yaml", &rolled(pod("pod"), "/metadata/annotations").text());
    node.put("rolls.yaml", &rolled(daemon_set("rolls"), "/spec/template/metadata/annotations").text());
    let on_delete = rolled(daemon_set("waits"), "/spec/template/metadata/annotations");
    node.put("waits.yaml", &on_delete.set("/spec/updateStrategy", json!({"type": "OnDelete"})).text());
    let before = ["stays", "pod", "rolls", "waits"].map(|name| node.wait_running(name));
    node.put("settings.yaml", &config_map("settings", &[("mode", "slow")]));
    for old in [&before[1], &before[2]] {
        let name = if old.name().starts_with("pod") { "pod" } else { "rolls" };
        let new = node.wait_pod(name, "is replaced", |pod| pod.uid() != old.uid() && pod.running() && pod.ready());
        assert!(environment(&node, &new).contains("MODE=slow"));
    }
    for (name, old) in [("stays", &before[0]), ("waits", &before[3])] {
        let pods = node.pods_of(name);
        assert!(pods.iter().any(|pod| pod.uid() == old.uid() && pod.running()), "{}", tests::node::summary(&pods));
        assert!(environment(&node, old).contains("MODE=fast"));
    }
    node.cli(&["delete", "pod", &before[3].name()]).ok();
    let new = node.wait_pod("waits", "is replaced", |pod| pod.uid() != before[3].uid() && pod.running());
    assert!(environment(&node, &new).contains("MODE=slow"));
}

#[test]
fn a_secret_is_told_nobody() {
    let mut node = TestNode::start();
    node.put("login.yaml", &secret("login", PASSWORD));
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    node.put("a.yaml", &configured(daemon_set("a")).text());
    node.wait_running("a");
    // Also where things go wrong.
    let broken = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bad}}\ndata: {{password: '{PASSWORD}!'}}\nstringdata: {{a: {PASSWORD}}}\n"
    );
    node.put("bad.yaml", &broken);
    node.put("half.yaml", &format!("{broken}  x: [{PASSWORD}\n"));
    wait_for("both are refused", || {
        let files = node.cli(&["get", "files"]).ok().out;
        if files.contains("bad.yaml") && files.contains("half.yaml") { Ok(()) } else { Err(files) }
    });
    node.restart_agent();
    let pod = node.wait_running("a");
    let mut told = Vec::new();
    let bad = node.manifest_dir().join("bad.yaml");
    for words in [
        vec!["get", "pods", "-o", "json"],
        vec!["get", "pods", "-o", "yaml"],
        vec!["get", "files", "-o", "json"],
        vec!["get", "events", "-o", "json"],
        vec!["get", "node", "-o", "json"],
        vec!["describe", "pod", &pod.name()],
        vec!["why", "-o", "json"],
        vec!["check", "-o", "json", bad.to_str().unwrap()],
        vec!["check", bad.to_str().unwrap()],
    ] {
        let output = node.cli(&words);
        told.push((words.join(" "), output.out + &output.err));
    }
    told.push(("/pods".into(), node.get("/pods").expect("it answers").body));
    told.push(("the agent's log".into(), fs::read_to_string(node.dir().join("agent.log")).expect("there is a log")));
    let mut records = String::new();
    for entry in fs::read_dir(node.state_dir().join("records")).unwrap() {
        records += &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap());
    }
    told.push(("records".into(), records));
    for (place, text) in told {
        assert!(!text.is_empty(), "{place} says nothing");
        assert!(!text.contains(PASSWORD), "{place}: {text}");
    }
}
