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
    let path = format!("/proc/{}/environ", node.process(pod).pid);
    // For a moment after its start the process is still runc's.
    wait_for("the process is the container's", || {
        let bytes = fs::read(&path).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes).replace('\0', "\n");
        if text.is_empty() || text.contains("_LIBCONTAINER_") { Err(text) } else { Ok(text) }
    })
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

/// What the container sees in a file, in its own mount namespace.
fn seen(node: &TestNode, pod: &Pod, path: &str) -> String {
    let root = format!("/proc/{}/root", node.process(pod).pid);
    fs::read_to_string(format!("{root}{path}")).unwrap_or_else(|error| format!("({error})"))
}

/// With the ConfigMap `settings` at /etc/settings, and everything else at /etc/all.
fn mounting(document: Document) -> Document {
    let sources = json!([
        {"configMap": {"name": "settings", "items": [{"key": "mode", "path": "deep/mode"}]}},
        {"secret": {"name": "login"}},
        {"serviceAccountToken": {"path": "token"}},
        {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
        ]}},
    ]);
    document
        .field("resources", json!({"limits": {"cpu": "250m"}}))
        .field(
            "volumeMounts",
            json!([{"name": "settings", "mountPath": "/etc/settings"}, {"name": "all", "mountPath": "/etc/all"}]),
        )
        .pod_field(
            "volumes",
            json!([
                {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o755}},
                {"name": "all", "projected": {"defaultMode": 0o400, "sources": sources}},
            ]),
        )
}

#[test]
fn a_pod_waits_for_its_files_and_follows_them() {
    let mut node = TestNode::start();
    node.put("login.yaml", &secret("login", PASSWORD));
    node.put("a.yaml", &mounting(daemon_set("a")).text());
    let missing = "MountVolume.SetUp failed for volume \"settings\" : configmap \"settings\" not found";
    wait_for("it is told what is missing", || {
        let events = node.cli(&["get", "events", "-o", "json"]).ok().json().to_string();
        if events.contains("FailedMount") && events.contains(&missing.replace('"', "\\\"")) {
            Ok(())
        } else {
            Err(events)
        }
    });
    let begin = Instant::now();
    node.put("settings.yaml", &config_map("settings", &[("mode", "#!/bin/sh\necho fast")]));
    let pod = node.wait_running("a");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    assert_eq!(seen(&node, &pod, "/etc/settings/mode"), "#!/bin/sh\necho fast");
    assert_eq!(seen(&node, &pod, "/etc/all/deep/mode"), "#!/bin/sh\necho fast");
    assert_eq!(seen(&node, &pod, "/etc/all/password"), PASSWORD);
    assert_eq!(seen(&node, &pod, "/etc/all/name"), pod.name());
    assert_eq!(seen(&node, &pod, "/etc/all/cpu"), "250");
    let labels = seen(&node, &pod, "/etc/all/labels");
    assert!(labels.contains("app=\"a\"\ncontroller-revision-hash=\""), "{labels}");
    assert!(seen(&node, &pod, "/etc/all/token").contains("No such file"));
    assert_eq!(pod.condition("TokenNotProjected").expect("it is told")["status"], "True");
    let process = node.process(&pod);
    // A script in a ConfigMap runs, and nobody writes to a volume.
    assert_eq!(node.exec(process, &["/etc/settings/mode"]).ok().out.trim(), "fast");
    assert!(node.exec(process, &["touch", "/etc/settings/x"]).err.contains("Read-only"));
    assert_eq!(node.exec(process, &["stat", "-L", "-c", "%a %u", "/etc/all/password"]).ok().out.trim(), "400 0");

    // Edits reach the files, whoever started the container.
    for (round, restart) in [false, true].into_iter().enumerate() {
        if restart {
            node.stop_agent();
        }
        let mode = format!("slow {round}");
        let begin = Instant::now();
        node.put("settings.yaml", &config_map("settings", &[("mode", &mode), ("more", "new")]));
        node.put("login.yaml", &secret("login", &format!("{PASSWORD}{round}")));
        if restart {
            node.start_agent();
            node.wait_agent();
        }
        wait_for("the files follow", || {
            let all = ["/etc/settings/mode", "/etc/settings/more", "/etc/all/deep/mode", "/etc/all/password"];
            let found = all.map(|path| seen(&node, &pod, path));
            let expected = [mode.clone(), "new".into(), mode.clone(), format!("{PASSWORD}{round}")];
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
        eprintln!("seen after {:?}", begin.elapsed());
    }
    // What is taken away stays where it is mounted.
    node.remove("settings.yaml");
    holds_for(Duration::from_secs(2), "it stays", || match seen(&node, &pod, "/etc/settings/mode").as_str() {
        "slow 1" => Ok(()),
        other => Err(other.to_owned()),
    });
    let now = node.wait_running("a");
    assert_eq!((now.uid(), now.restarts(), process.alive()), (pod.uid(), 0, true));
    node.remove("a.yaml");
    node.wait_no_pod("a");
    node.wait_nothing_left();
}

#[test]
fn files_are_there_again_after_a_boot_without_the_manifests() {
    let mut node = TestNode::start();
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    node.put("login.yaml", &secret("login", PASSWORD));
    node.put("a.yaml", &mounting(daemon_set("a")).text());
    let pod = node.wait_running("a");
    node.power_cut();
    fs::rename(node.manifest_dir(), node.dir().join("manifests-away")).unwrap();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    let booted = node.wait_running("a");
    assert_eq!(booted.uid(), pod.uid());
    assert_eq!(
        [seen(&node, &booted, "/etc/settings/mode"), seen(&node, &booted, "/etc/all/password")],
        ["fast", PASSWORD]
    );
}

#[test]
fn what_a_container_plants_in_its_volume_touches_nothing_outside() {
    let node = TestNode::start();
    let victim = node.dir().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("mode"), "untouched").unwrap();
    node.put("settings.yaml", &config_map("settings", &[("mode", "fast")]));
    let run_dir = node.run_dir();
    let daemon = daemon_set("a")
        .field("securityContext", json!({"privileged": true}))
        .field(
            "volumeMounts",
            json!([
                {"name": "settings", "mountPath": "/etc/settings"},
                {"name": "run", "mountPath": "/node"},
            ]),
        )
        .pod_field(
            "volumes",
            json!([
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "run", "hostPath": {"path": run_dir.to_str().unwrap()}},
            ]),
        );
    node.put("a.yaml", &daemon.text());
    let pod = node.wait_running("a");
    let process = node.process(&pod);
    let volume = format!("/node/pods/{}/volumes/projected/settings", pod.uid());
    let plant = format!(
        "cd {volume} && rm mode ..data && ln -s {victim} ..data && ln -s {victim} ..2000_01_01 && ln -s {victim}/mode mode && ln -s {victim} ..data_tmp",
        victim = victim.display()
    );
    node.exec(process, &["sh", "-c", &plant]).ok();
    node.put("settings.yaml", &config_map("settings", &[("mode", "slow"), ("new", "x")]));
    wait_for("the volume is mended", || match seen(&node, &pod, "/etc/settings/mode").as_str() {
        "slow" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(seen(&node, &pod, "/etc/settings/new"), "x");
    node.exec(process, &["sh", "-c", &plant]).ok();
    node.remove("a.yaml");
    node.wait_no_pod("a");
    assert_eq!(fs::read_to_string(victim.join("mode")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}
