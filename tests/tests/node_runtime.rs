//! Runtime classes: a pod's `runtimeClassName` chooses among the OCI runtimes of the agent's configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::json;
use tests::client::Pod;
use tests::manifest::{Document, daemon_set, pod};
use tests::node::TestNode;
use tests::wait::{PATIENCE, wait_for};

/// A runtime that can be told from the usual one: it is runc, and it writes down that it was called.
fn other_runtime(node: &TestNode) -> PathBuf {
    let program = node.dir().join("other-runc");
    let calls = calls_file(node);
    fs::write(&program, format!("#!/bin/sh\necho \"$*\" >> {}\nexec runc \"$@\"\n", calls.display()))
        .expect("the node's directory is the test's own");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the node's directory is the test's own");
    program
}

fn calls_file(node: &TestNode) -> PathBuf {
    node.dir().join("other-runc.calls")
}

/// Whether the other runtime was called with this word and container.
fn called(node: &TestNode, word: &str, pod: &Pod) -> bool {
    let calls = fs::read_to_string(calls_file(node)).unwrap_or_default();
    let id = pod.container_id("");
    calls.lines().any(|call| call.split(' ').any(|part| part == word) && call.contains(&id))
}

fn of_class(document: Document, class: &str) -> String {
    document.pod_field("runtimeClassName", json!(class)).text()
}

/// A node whose configuration file knows the class `other`.
fn node_with_other() -> (TestNode, PathBuf) {
    let mut node = TestNode::builder().without_agent().start();
    let program = other_runtime(&node);
    let config = node.dir().join("config.yaml");
    fs::write(&config, format!("runtime-class:\n  other: {}\n", program.display()))
        .expect("the node's directory is the test's own");
    node.set_flag("--config", &config.display().to_string());
    node.start_agent();
    node.wait_agent();
    (node, config)
}

#[test]
fn a_pod_runs_under_the_runtime_of_its_class_through_its_whole_life() {
    let (node, _) = node_with_other();
    node.put("usual.yaml", &pod("usual").text());
    node.put("other.yaml", &of_class(daemon_set("other").own_network(), "other"));
    let (usual, other) = (node.wait_running("usual"), node.wait_running("other"));
    assert!(called(&node, "create", &other) && called(&node, "start", &other));
    assert!(!called(&node, "create", &usual), "a pod without a class ran under the other runtime");
    node.process(&other).kill_9();
    let again = node.wait_pod("other", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert!(called(&node, "create", &again));
    node.remove("other.yaml");
    node.remove("usual.yaml");
    node.wait_nothing_left();
    assert!(called(&node, "delete", &again));
}

/// As containerd's shim in Rust after a restart of containerd: it answers, and tells nothing by itself.
#[test]
fn the_end_of_a_container_whose_shim_tells_nobody_is_noticed_at_once() {
    let mut node = TestNode::builder().without_agent().start();
    let bin = node.dir().join("mute");
    fs::create_dir(&bin).unwrap();
    let given = std::env::var_os("DAEMONLET_TEST_CONTAINERD_BIN").map(PathBuf::from);
    for program in given.iter().flat_map(|given| fs::read_dir(given).unwrap()) {
        let program = program.unwrap();
        std::os::unix::fs::symlink(program.path(), bin.join(program.file_name())).unwrap();
    }
    let shim = bin.join("containerd-shim-mute-v2");
    fs::write(&shim, "#!/bin/sh\nexport TTRPC_ADDRESS=/nonexistent/daemonlet\nexec containerd-shim-runc-v2 \"$@\"\n")
        .unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    node.stop_containerd();
    node.use_containerd(Some(&bin));
    node.start_containerd();
    node.set_flag("--runtime-class", "mute=io.containerd.mute.v2");
    node.start_agent();
    node.wait_agent();
    node.put("a.yaml", &of_class(daemon_set("a").own_network(), "mute"));
    let first = node.wait_running("a");
    node.process(&first).kill_9();
    let begun = std::time::Instant::now();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    println!("noticed and started again within {:?}", begun.elapsed());
    let process = node.process(&again);
    node.remove("a.yaml");
    process.wait_gone(PATIENCE);
    node.wait_no_pod("a");
}

#[test]
fn an_unknown_class_keeps_the_pod_waiting_and_names_those_that_there_are() {
    let (node, _) = node_with_other();
    node.put("a.yaml", &of_class(pod("a"), "gvisor"));
    let said = wait_for("the event says why", || {
        let said = node.cli(&["describe", "pod", "a-node-a"]).out;
        if said.contains("FailedCreatePodSandBox") && said.contains("gvisor") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("configured are: other"), "{said}");
    assert_eq!(node.pods_of("a")[0].phase(), "Pending");
    // The name of a class that is known is all that it lacks.
    node.put("a.yaml", &of_class(pod("a"), "other"));
    let pod = node.wait_running("a");
    assert!(called(&node, "create", &pod));
}

#[test]
fn an_update_to_an_unknown_class_leaves_the_old_pod_running() {
    let (node, _) = node_with_other();
    node.put("a.yaml", &of_class(daemon_set("a"), "other"));
    let process = node.process(&node.wait_running("a"));
    node.put("a.yaml", &of_class(daemon_set("a"), "gvisor"));
    wait_for("the refusal is told", || {
        let said = node.cli(&["get", "events", "-A"]).out;
        if said.contains("gvisor") { Ok(()) } else { Err(said) }
    });
    assert!(process.alive(), "the old pod was ended for a successor that cannot start");
    node.put("a.yaml", &of_class(daemon_set("a"), "other"));
    node.wait_running("a");
    assert!(process.alive());
}

#[test]
fn a_class_that_is_configured_no_more_harms_no_running_pod_and_hinders_no_end() {
    let (mut node, config) = node_with_other();
    node.put("a.yaml", &of_class(pod("a"), "other"));
    node.put("b.yaml", &of_class(pod("b"), "other"));
    let before = [node.wait_running("a"), node.wait_running("b")];
    let processes = before.each_ref().map(|pod| node.process(pod));
    fs::write(&config, "max-pods: 10\n").unwrap();
    node.restart_agent();
    assert_eq!([node.wait_running("a"), node.wait_running("b")].each_ref().map(|pod| node.process(pod)), processes);

    // What has to be started anew cannot be, and says so.
    processes[1].kill_9();
    wait_for("b says why it does not run", || {
        let said = node.cli(&["why", "b"]).out;
        if said.contains("no runtime class is configured") { Ok(()) } else { Err(said) }
    });
    // What is to end does, by the runtime that began it.
    node.remove("a.yaml");
    processes[0].wait_gone(PATIENCE);
    node.wait_no_pod("a");
    assert!(called(&node, "delete", &before[0]));

    let program = node.dir().join("other-runc");
    fs::write(&config, format!("runtime-class: {{other: {}}}\n", program.display())).unwrap();
    node.restart_agent();
    node.wait_pod("b", "runs again", |pod| pod.running() && pod.restarts() > 0);
}

/// A pod with users of its own, of the runtime class where there is one.
fn with_own_users(name: &str, script: &str) -> Document {
    pod(name).own_network().pod_field("hostUsers", json!(false)).says(script)
}

#[test]
fn users_of_a_pods_own_are_refused_with_the_reason_where_the_runtime_cannot_map_them() {
    let node = TestNode::start();
    // The runc of Debian 12, which is called under every containerd, knows nothing of it; nor does a containerd before 2.0.
    let refused = |said: &str| said.contains("hostUsers: false cannot be kept on this node");
    node.put("a.yaml", &with_own_users("a", "").text());
    let said = wait_for("the event says why", || {
        let said = node.cli(&["describe", "pod", "a-node-a"]).out;
        if refused(&said) { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("cannot map the ids of images") || said.contains("with mapped ids"), "{said}");
    assert!(said.contains("FailedCreatePodSandBox"), "{said}");
    assert!(!node.pods_of("a")[0].running());
    let doctor = node.cli(&["doctor", "-o", "json"]).out;
    let line = serde_json::from_str::<serde_json::Value>(&doctor).expect("JSON");
    let line =
        line["lines"].as_array().and_then(|all| all.iter().find(|line| line["name"] == "user namespaces")).cloned();
    let found = line.expect("a line")["found"].to_string();
    assert!(found.contains("hostUsers: false are refused"), "{found}");
    node.put("a.yaml", &with_own_users("a", "").pod_field("hostUsers", json!(true)).text());
    node.wait_running("a");
}

/// A node whose runtime class `maps` can give pods users of their own. None: said and skipped.
fn node_that_maps() -> Option<TestNode> {
    let runc = std::env::var_os("DAEMONLET_TEST_CONTAINERD_BIN").map(|bin| PathBuf::from(bin).join("../../runc/runc"));
    let Some(runc) = runc.filter(|runc| runc.is_file()) else {
        tests::skip::skipped("no containerd 2 with a runc that maps ids (scripts/containerds.sh)");
        return None;
    };
    let mut node = TestNode::builder().without_agent().start();
    let config = node.dir().join("config.yaml");
    fs::write(&config, format!("runtime-class:\n  maps: {}\n", runc.display()))
        .expect("the node's directory is the test's own");
    // As the directories of an installed containerd are: its containers' root looks for its file system below.
    fs::set_permissions(node.dir(), fs::Permissions::from_mode(0o711)).expect("the node's directory is the test's own");
    node.set_flag("--config", &config.display().to_string());
    node.start_agent();
    node.wait_agent();
    Some(node)
}

/// The ids of the node that own this process.
fn owner(process: tests::process::Process) -> u32 {
    let found = fs::metadata(format!("/proc/{}", process.pid)).expect("it runs");
    std::os::unix::fs::MetadataExt::uid(&found)
}

#[test]
fn a_privileged_pod_with_users_of_its_own_has_every_right_in_it_and_none_on_the_node() {
    let Some(node) = node_that_maps() else { return };
    let shared = node.dir().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    let group = |path: &std::path::Path| std::os::unix::fs::MetadataExt::gid(&fs::metadata(path).unwrap());
    let before = group(&shared);
    // Root with all capabilities mounts and changes what is its own; the node's devices and values are not.
    let tries = "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted\n\
                 mknod /k c 1 11 && head -c 1 /k && echo device; cd /proc/sys/kernel; was=$(cat printk_ratelimit); (echo $was >printk_ratelimit) && echo value\n\
                 hostname changed && echo named $(hostname)\n\
                 touch /disk/made /memory/made; stat -c 'group %g of %n' /disk/made /memory/made /shared\n\
                 echo member $(id -G)";
    let document = with_own_users("own", tries)
        .pod_field("runtimeClassName", json!("maps"))
        .pod_field("securityContext/fsGroup", json!(2000))
        .pod_field(
            "volumes",
            json!([
                {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "shared", "hostPath": {"path": shared}}
            ]),
        )
        .field("securityContext", json!({"privileged": true}))
        .field(
            "volumeMounts",
            json!([
                {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                {"name": "shared", "mountPath": "/shared"}
            ]),
        );
    node.put("own.yaml", &document.text());
    let pod = node.wait_running("own");
    node.wait_log(&pod, "main", "member ");
    let lines = node.log_lines(&pod, "main", 0);
    let said: Vec<&str> = lines.iter().filter_map(|line| line.split_once(" F ").map(|(_, text)| text)).collect();
    let has = |line: &str| said.contains(&line);
    assert!(has("mounted") && has("named changed"), "{said:#?}");
    assert!(!has("device") && !has("value"), "{said:#?}");
    let capabilities = said.iter().find_map(|it| it.strip_prefix("CapEff:\t")).expect("the line is there");
    assert!(u64::from_str_radix(capabilities, 16).unwrap() & 1 << 21 != 0, "SYS_ADMIN is in {capabilities}");
    // fsGroup is a group of the pod's, and a hostPath is never given to it.
    assert!(has("group 2000 of /disk/made") && has("group 2000 of /memory/made"), "{said:#?}");
    assert!(has("group 0 of /shared") && group(&shared) == before, "{said:#?}");
    assert!(said.iter().any(|it| it.starts_with("member ") && it.ends_with(" 2000")), "{said:#?}");
    assert!(owner(node.process(&pod)) >= 0x7000_0000);
    node.remove("own.yaml");
    node.wait_nothing_left();
}

#[test]
fn a_pod_with_users_of_its_own_is_nobody_on_the_node_and_root_among_its_files() {
    let Some(mut node) = node_that_maps() else { return };
    let host = node.dir().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("before"), "").unwrap();
    let sees = "echo map $(cat /proc/self/uid_map); echo id $(id -u):$(id -g); touch /empty/made /host/made /etc/made /dev/shm/made\n\
                for it in /empty/made /host/before /etc/passwd /etc/hosts /data; do echo \"owner $it $(stat -c %u:%g $it)\"; done\n\
                echo masked $(grep -c ' /proc/' /proc/self/mountinfo); cat /proc/sys/net/ipv4/tcp_fin_timeout; hostname\n\
                echo bye > /dev/termination-log; echo node $(ip route | grep -c default)";
    let own = with_own_users("own", sees)
        .pod_field("runtimeClassName", json!("maps"))
        .pod_field("hostname", json!("inside"))
        .pod_field("securityContext/sysctls", json!([{"name": "kernel.shm_rmid_forced", "value": "1"}]))
        .pod_field("volumes", json!([{"name": "host", "hostPath": {"path": host}}, {"name": "empty", "emptyDir": {}}]))
        .field(
            "volumeMounts",
            json!([{"name": "host", "mountPath": "/host"}, {"name": "empty", "mountPath": "/empty"}]),
        )
        .field("securityContext/procMount", json!("Unmasked"))
        .field("readinessProbe", json!({"exec": {"command": ["test", "-e", "/empty/made"]}, "periodSeconds": 1}));
    node.put("own.yaml", &own.text());
    let more = with_own_users("more", "").pod_field("runtimeClassName", json!("maps"));
    node.put("more.yaml", &more.pod_field("shareProcessNamespace", json!(true)).text());
    let pod = node.wait_pod("own", "ready", |pod| pod.ready());
    let more = node.wait_running("more");
    // Its processes are in the namespace that one of its own users holds.
    let shared = node.cli(&["exec", &more.name(), "--", "ps"]).ok().out;
    assert!(shared.contains("hold ") && shared.contains("sleep 1000"), "{shared}");
    let said = |text: &str| node.wait_log(&pod, "main", text);
    assert_eq!(said("id "), "id 0:0");
    for file in ["/empty/made", "/host/before", "/etc/passwd", "/etc/hosts"] {
        assert_eq!(said(&format!("owner {file} ")), format!("owner {file} 0:0"));
    }
    assert_eq!(said("inside"), "inside");
    assert_eq!(said("masked "), "masked 0");
    let (process, other) = (node.process(&pod), node.process(&more));
    let (first, second) = (owner(process), owner(other));
    assert!(first >= 0x7000_0000 && second >= 0x7000_0000, "{first} {second}");
    assert!(first.abs_diff(second) >= 65536, "{first} {second}");
    assert_eq!(said("map "), format!("map 0 {first} 65536"));
    let of_file = fs::metadata(host.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&of_file), 0, "the volume's ids are mapped");
    // Nothing of the node is root's there, and an agent that comes back takes the pod as it is.
    node.restart_agent();
    node.wait_pod("own", "is taken up", |pod| pod.ready() && pod.restarts() == 0);
    assert!(process.alive());
    node.remove("own.yaml");
    node.remove("more.yaml");
    node.wait_nothing_left();
}
