//! Init containers, sidecars, hooks and last words on a real node: in which order things happen, and what is said of it.

use serde_json::{Value, json};
use tests::client::Pod;
use tests::manifest::pod;
use tests::node::TestNode;
use tests::wait::wait_for;

/// A pod whose containers write down what happens, line by line, into one file of an emptyDir that outlives none of it.
fn noted(containers: Value, inits: Value, journal: &str) -> String {
    let mut document: Value = serde_json::from_str(&pod("a").text()).expect("JSON");
    let image = document["spec"]["containers"][0]["image"].clone();
    let list = |list: Value| -> Value {
        let complete = |container: &Value| {
            let mut container = container.clone();
            container["image"] = image.clone();
            container["imagePullPolicy"] = json!("Never");
            let mut mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            mounts.push(json!({"name": "journal", "mountPath": "/journal"}));
            container["volumeMounts"] = json!(mounts);
            container
        };
        list.as_array().expect("a list").iter().map(complete).collect()
    };
    document["spec"]["containers"] = list(containers);
    document["spec"]["initContainers"] = list(inits);
    document["spec"]["volumes"] = json!([{"name": "journal", "hostPath": {"path": journal, "type": "DirectoryOrCreate"}}, {"name": "words", "emptyDir": {}}]);
    document.to_string()
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["sh", "-c", script]})
}

fn sidecar(name: &str, script: &str) -> Value {
    let mut container = shell(name, script);
    container["restartPolicy"] = json!("Always");
    container
}

/// Says its name, ends on TERM with another word.
fn daemon(name: &str) -> String {
    format!(
        "trap 'echo {name} ends >> /journal/all; exit 0' TERM; echo {name} begins >> /journal/all; while :; do sleep 0.05; done"
    )
}

fn journal(node: &TestNode) -> Vec<String> {
    let text = std::fs::read_to_string(node.dir().join("journal/all")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_journal(node: &TestNode, expected: &[&str]) {
    wait_for(&format!("the journal says {expected:?}"), || {
        let found = journal(node);
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn init(pod: &Pod, name: &str) -> Value {
    let all = pod.0["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|status| status["name"] == name).unwrap_or_default()
}

#[test]
fn init_containers_and_sidecars_have_their_turn_and_stop_last() {
    let mut node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    // It is told a word by an init container, in a file that it does not mount.
    let reader = |file: &str| {
        let key = json!({"volumeName": "words", "path": file, "key": "WORD"});
        let mut main = shell("main", &format!("[ \"$WORD\" = 'two words' ] || exit 1; {}", daemon("main")));
        main["env"] = json!([{"name": "WORD", "valueFrom": {"fileKeyRef": key}}]);
        main
    };
    let mut second = shell(
        "second",
        "echo second >> /journal/all; echo said by second; \
         printf \"# for main\\nWORD='two words'\\n\" > /words/env",
    );
    second["volumeMounts"] = json!([{"name": "words", "mountPath": "/words"}]);
    let wait =
        "echo first waits >> /journal/all; until [ -e /journal/go ]; do sleep 0.05; done; echo first >> /journal/all";
    let inits = json!([sidecar("log", &daemon("log")), shell("first", wait), second,]);
    node.put("a.yaml", &noted(json!([reader("env")]), inits, &place));
    let waiting = node
        .wait_pod("a", "waits for its first init container", |pod| init(pod, "first")["state"]["running"].is_object());
    assert_eq!(waiting.phase(), "Pending");
    assert_eq!(waiting.waiting("main"), "PodInitializing");
    let condition = waiting.condition("Initialized").expect("is there");
    assert_eq!(condition["reason"], "ContainersNotInitialized", "{condition}");
    let row = node.cli(&["get", "pods"]).ok().out;
    assert!(row.contains("1/2") && row.contains("Init:1/3"), "{row}");
    wait_journal(&node, &["log begins", "first waits"]);

    std::fs::write(node.dir().join("journal/go"), "").expect("it can be written");
    let running = node.wait_running("a");
    wait_journal(&node, &["log begins", "first waits", "first", "second", "main begins"]);
    assert_eq!(init(&running, "first")["state"]["terminated"]["reason"], "Completed");
    assert_eq!(init(&running, "first")["imageID"], running.container("main").expect("is there")["imageID"]);
    assert_eq!(init(&running, "log")["ready"], true);
    let said = node.cli(&["logs", &running.name(), "-c", "second"]).ok().out;
    assert_eq!(said, "said by second\n");

    // Nothing of it happens again: neither with the agent nor with a main container.
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    node.process(&node.wait_running("a")).kill_9();
    wait_journal(&node, &["log begins", "first waits", "first", "second", "main begins", "main begins"]);
    node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);

    node.remove("a.yaml");
    node.wait_no_pod("a");
    let last = journal(&node).split_off(6);
    assert_eq!(last, ["main ends", "log ends"]);
    node.wait_nothing_left();
}

#[test]
fn a_new_boot_runs_the_init_containers_again() {
    let mut node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let inits = json!([shell("first", "echo first >> /journal/all")]);
    node.put("a.yaml", &noted(json!([shell("main", "echo main >> /journal/all; exec sleep 3600")]), inits, &place));
    let before = node.wait_running("a");
    node.power_cut();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    wait_journal(&node, &["first", "main", "first", "main"]);
    assert_eq!(node.wait_running("a").uid(), before.uid());
}

#[test]
fn hooks_run_at_their_time_and_the_stop_signal_is_the_containers() {
    let node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let mut main = shell(
        "main",
        "trap 'echo told >> /journal/all; exit 0' USR1; trap 'echo wrong signal >> /journal/all' TERM; while :; do sleep 0.05; done",
    );
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo started >> /journal/all"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "sleep 0.3; echo stops >> /journal/all"]}},
        "stopSignal": "SIGUSR1",
    });
    let next = shell("next", "echo next >> /journal/all; exec sleep 3600");
    node.put("a.yaml", &noted(json!([main, next]), json!([]), &place));
    node.wait_running("a");
    wait_journal(&node, &["started", "next"]);
    node.remove("a.yaml");
    node.wait_no_pod("a");
    assert_eq!(journal(&node), ["started", "next", "stops", "told"]);
}

#[test]
fn a_hook_that_fails_ends_its_container_and_says_why() {
    let node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let mut main = shell("main", "trap 'exit 0' TERM; while :; do sleep 0.05; done");
    main["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo no such thing; exit 7"]}}});
    node.put("a.yaml", &noted(json!([main]), json!([]), &place));
    node.wait_pod("a", "starts again and again", |pod| pod.restarts() >= 1);
    let events = node.cli(&["get", "events"]).ok().out;
    assert!(events.contains("FailedPostStartHook") && events.contains("no such thing"), "{events}");
    assert!(events.contains("Killing"), "{events}");
}

#[test]
fn why_a_container_ended_is_what_it_said_or_the_end_of_its_log() {
    let node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let mut words = shell("words", "echo because > /tmp/why; echo only in the log; exit 3");
    words["terminationMessagePath"] = json!("/tmp/why");
    words["securityContext"] = json!({"runAsUser": 1234});
    let silent = shell("silent", "for i in $(seq 100); do echo line $i; done; exit 4");
    // As large as it likes, and then something else in its place: the agent reads the file that it made, and of it the end.
    let planted = "head -c 9000 /dev/zero | tr '\\0' x >/dev/termination-log; printf last >>/dev/termination-log; \
        rm -f /dev/termination-log; mkfifo /dev/termination-log; ln -sf /etc/passwd /dev/termination-log; exit 5";
    let greedy = shell("greedy", planted);
    node.put("a.yaml", &noted(json!([words, silent, greedy]), json!([]), &place));
    let message = |pod: &Pod, name: &str| {
        let container = pod.container(name).cloned().unwrap_or_default();
        container["lastState"]["terminated"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let pod = node.wait_pod("a", "says why", |pod| {
        ["words", "silent", "greedy"].iter().all(|name| !message(pod, name).is_empty())
    });
    assert_eq!(message(&pod, "words"), "because\n");
    let end = message(&pod, "greedy");
    assert!(end.len() == 4096 && end.starts_with("xxx") && end.ends_with("last"), "{} bytes", end.len());
    let lines: Vec<String> = message(&pod, "silent").lines().map(str::to_owned).collect();
    assert_eq!(
        (lines.len(), lines.first().map(String::as_str), lines.last().map(String::as_str)),
        (80, Some("line 21"), Some("line 100"))
    );
}

#[test]
fn what_runs_once_is_done() {
    let mut node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let text = noted(json!([shell("main", "echo ran >> /journal/all")]), json!([]), &place);
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    let template = json!({
        "metadata": {"labels": {"app": "once"}, "annotations": {"daemonlet.dev/run-once": "true"}},
        "spec": document["spec"].take(),
    });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "once"},
        "spec": {"selector": {"matchLabels": {"app": "once"}}, "template": template},
    });
    let mut set = set;
    // A DaemonSet's pods are always restarted.
    set["spec"]["template"]["spec"].as_object_mut().expect("a mapping").remove("restartPolicy");
    node.put("once.yaml", &set.to_string());
    let done = |node: &TestNode| {
        wait_for("it is done", || {
            let pods = node.pods();
            match pods.iter().find(|pod| pod.phase() == "Succeeded") {
                Some(pod) => Ok(pod.uid()),
                None => Err(tests::node::summary(&pods)),
            }
        })
    };
    let uid = done(&node);
    node.restart_agent();
    assert_eq!(done(&node), uid);
    wait_journal(&node, &["ran"]);
}

/// A pod that is after `after`, and ready when the file of its name is there.
fn after(name: &str, after: &str, journal: &str) -> String {
    let mut main = shell("main", &daemon(name));
    main["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", format!("/journal/{name}")]}, "periodSeconds": 1});
    let mut document: Value = serde_json::from_str(&noted(json!([main]), json!([]), journal)).expect("JSON");
    document["metadata"]["name"] = json!(name);
    if !after.is_empty() {
        document["metadata"]["annotations"] = json!({"daemonlet.dev/after": after});
    }
    document.to_string()
}

#[test]
fn a_pod_starts_when_the_one_that_it_is_after_is_ready_and_wait_ends_when_all_are() {
    let mut node = TestNode::start();
    let place = node.dir().join("journal").display().to_string();
    let b = after("b", "a", &place);
    node.put("all.yaml", &b);
    let waiting = node.wait_pod("b", "waits for a", |pod| pod.waiting("main") == "WaitsForOthers");
    let condition = waiting.condition("WaitsForOthers").expect("is there");
    assert!(condition["message"].as_str().is_some_and(|text| text.contains("default/a")), "{condition}");
    node.put("all.yaml", &format!("{b}\n---\n{}", after("a", "", &place)));
    wait_journal(&node, &["a begins"]);
    let early = node.cli(&["wait", "--for", "ready", "--timeout", "0"]);
    assert!(early.code == 1 && early.err.contains("default/b: WaitsForOthers"), "{early:?}");
    // Nobody is stopped because another is not ready, also by a new agent.
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    for name in ["b", "a"] {
        std::fs::write(node.dir().join("journal").join(name), "").expect("it can be written");
    }
    // A command of the test may take half a minute; a node that was just restarted on a busy machine may take longer.
    node.wait_pod("b", "has been started", |pod| pod.running());
    assert_eq!(node.cli(&["wait", "--for", "ready", "--timeout", "25s"]).ok().out, "ready: 2 daemons\n");
    wait_journal(&node, &["a begins", "b begins"]);

    // A drain keeps to that order, holds over a death of the agent and lets nothing new start.
    let said = node.cli(&["drain", "--timeout", "25s"]).ok().out;
    assert_eq!(said, "default/b stopped\ndefault/a stopped\nthe node is drained\n");
    assert_eq!(journal(&node).split_off(2), ["b ends", "a ends"]);
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    node.put("c.yaml", &after("c", "", &place));
    for name in ["a", "b", "c"] {
        node.wait_pod(name, "is drained", |pod| pod.waiting("main") == "NodeDrained");
    }
    let rows = node.cli(&["get", "pods"]).ok().out;
    assert_eq!(rows.matches("NodeDrained").count(), 3, "{rows}");
    let checks = node.get("/readyz").expect("the agent answers").body;
    assert!(checks.contains("[-]drain failed: the node is drained since"), "{checks}");
    assert_eq!(journal(&node).len(), 4);
    node.cli(&["undrain"]).ok();
    wait_for("all run again, in their order", || {
        let again = journal(&node).split_off(4);
        let place = |line: &str| again.iter().position(|it| it == line);
        let (a, b, c) = (place("a begins"), place("b begins"), place("c begins"));
        if a.is_some() && a < b && c.is_some() && again.len() == 3 { Ok(()) } else { Err(format!("{again:?}")) }
    });
    node.remove("c.yaml");
    node.remove("all.yaml");
    node.wait_no_pod("a");
    node.wait_nothing_left();
}
