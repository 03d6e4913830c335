//! What a container gets: exactly what its manifest asks for, CRI's duties included, and nothing more.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tests::client::{self, Pod};
use tests::image::{Image, Tarball};
use tests::manifest::{Document, OBEDIENT, daemon_set, pod};
use tests::node::{NODE_ADDRESS, TestNode};
use tests::process::{Process, with_command};
use tests::stand_in;
use tests::wait::wait_for;

/// A node that runs this one pod.
#[track_caller]
fn run(document: Document) -> (TestNode, Pod, Process) {
    let node = TestNode::start();
    node.put("a.yaml", &document.text());
    let pod = node.wait_running("a");
    let process = node.process(&pod);
    (node, pod, process)
}

/// The default set of CRI: chown, dac_override, fsetid, fowner, mknod, net_raw, setgid, setuid, setfcap, setpcap, net_bind_service,
/// sys_chroot, kill, audit_write.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

/// A boot without a network, and an address that changes later: an environment is never made of an address that is not there.
#[test]
fn a_node_may_get_its_address_after_its_daemons_and_another_one_later() {
    let mut node = TestNode::builder().without_agent().start();
    let namespace = node.id().to_owned();
    let on_the_node = |word: &str, address: &str| {
        let address = format!("{address}/24");
        client::run(std::process::Command::new("ip").args(["-n", &namespace, "addr", word, &address, "dev", "eth0"]))
            .ok();
    };
    on_the_node("del", NODE_ADDRESS);
    let env = json!([{"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]);
    node.put("a.yaml", &pod("a").text());
    node.put("b.yaml", &pod("b").field("env", env).text());
    node.start_agent();
    node.wait_agent();
    let plain = node.wait_running("a");
    assert_eq!(plain.0["status"].get("hostIP"), None, "{plain:?}");
    let waiting = node.wait_pod("b", "waits for the node's address", |pod| {
        pod.0.to_string().contains("this node has no address yet")
    });
    let state = &waiting.0["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
    assert_eq!(state, "CreateContainerConfigError", "{waiting:?}");

    on_the_node("add", NODE_ADDRESS);
    let addressed = node.wait_running("b");
    assert_eq!(addressed.0["status"]["hostIP"], NODE_ADDRESS);
    let environ = fs::read(format!("/proc/{}/environ", node.process(&addressed).pid)).expect("it runs");
    let wanted = format!("HOST={NODE_ADDRESS}");
    assert!(environ.split(|byte| *byte == 0).any(|line| line == wanted.as_bytes()));
    assert_eq!(node.process(&node.wait_running("a")), node.process(&plain), "nothing was restarted for it");

    on_the_node("del", NODE_ADDRESS);
    on_the_node("add", "198.19.0.77");
    node.wait_pod("a", "shows the node's new address", |pod| pod.0["status"]["hostIP"] == "198.19.0.77");
}

#[test]
fn an_ordinary_container_has_the_fourteen_default_capabilities() {
    let (_node, _, process) = run(pod("a"));
    assert_eq!(process.status("CapEff").as_deref(), Some(DEFAULT_CAPABILITIES));
    assert_eq!(process.status("CapBnd").as_deref(), Some(DEFAULT_CAPABILITIES));
    assert_eq!(process.status("CapInh").as_deref(), Some("0000000000000000"));
}

#[test]
fn capabilities_are_dropped_and_added() {
    let capabilities = json!({"drop": ["ALL"], "add": ["NET_ADMIN", "CHOWN"]});
    let (_node, _, process) = run(pod("a").field("securityContext/capabilities", capabilities));
    // Bits 0 (chown) and 12 (net_admin).
    assert_eq!(process.status("CapEff").as_deref(), Some("0000000000001001"));
}

#[test]
fn proc_and_sys_are_masked_and_read_only() {
    let (node, _, process) = run(pod("a").own_network());
    let masked = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats"];
    for path in masked {
        let size = node.exec(process, &["sh", "-c", &format!("[ ! -e {path} ] || wc -c < {path}")]).ok().out;
        assert!(size.trim().is_empty() || size.trim() == "0", "{path} shows {size}");
    }
    let firmware = node.exec(process, &["sh", "-c", "ls -A /sys/firmware 2>/dev/null"]).out;
    assert_eq!(firmware.trim(), "");
    for path in [
        "/proc/sys/kernel/domainname",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/proc/bus/x",
        "/proc/irq/x",
    ] {
        let write = node.exec(process, &["sh", "-c", &format!("echo x > {path}")]);
        assert_ne!(write.code, 0, "{path} could be written");
    }
}

#[test]
fn seccomp_is_on_unless_privileged_and_new_privileges_are_refused_when_asked() {
    let (_node, _, process) = run(pod("a"));
    assert_eq!(process.status("Seccomp").as_deref(), Some("2"));
    assert_eq!(process.status("NoNewPrivs").as_deref(), Some("0"));
    let (_node, _, process) = run(pod("a").field("securityContext/allowPrivilegeEscalation", json!(false)));
    assert_eq!(process.status("NoNewPrivs").as_deref(), Some("1"));
    let (_node, _, process) = run(pod("a").field("securityContext/privileged", json!(true)));
    assert_eq!(process.status("Seccomp").as_deref(), Some("0"));
}

#[test]
fn a_read_only_root_cannot_be_written_and_an_ordinary_one_can() {
    let (node, _, process) = run(pod("a").field("securityContext/readOnlyRootFilesystem", json!(true)));
    assert_ne!(node.exec(process, &["touch", "/new"]).code, 0);
    let (node, _, process) = run(pod("a"));
    node.exec(process, &["touch", "/new"]).ok();
}

#[test]
fn user_and_groups_are_what_was_asked_at_every_start() {
    let context = json!({"runAsUser": 1234, "runAsGroup": 77});
    let document =
        pod("a").pod_field("securityContext", json!({"supplementalGroups": [88]})).field("securityContext", context);
    let (node, first, process) = run(document);
    let expect = |process: Process| {
        assert_eq!(process.status("Uid").as_deref(), Some("1234\t1234\t1234\t1234"));
        assert_eq!(process.status("Gid").as_deref(), Some("77\t77\t77\t77"));
        let groups = process.status("Groups").unwrap_or_default();
        assert!(groups.split(' ').any(|group| group == "88"), "{groups}");
        assert_eq!(process.status("CapEff").as_deref(), Some("0000000000000000"));
    };
    expect(process);
    let shown = &first.0["status"]["containerStatuses"][0]["user"];
    assert_eq!(*shown, json!({"linux": {"uid": 1234, "gid": 77, "supplementalGroups": [77, 88]}}));
    process.kill_9();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.container_id("") != first.container_id(""));
    expect(node.process(&again));
}

#[test]
fn run_as_non_root_refuses_an_image_that_runs_as_root_also_where_it_is_here_and_in_use() {
    let accounts = || Tarball::new().file("etc/passwd", 0o644, b"root:x:0:0::/:\napp:x:100:101::/:\n").bytes();
    let of =
        |name: &str, user: &str| Image::busybox(name).expect("busybox").layer(accounts()).config("User", json!(user));
    let images = [of("docker.io/library/named:1", "app"), of("docker.io/library/numbered:1", "100")];
    let node = TestNode::builder().archive("users.tar", tests::image::oci_archive(&images)).start();
    let with = |name: &str, image: &str| {
        let document = pod(name).field("imagePullPolicy", json!("Never"));
        if image.is_empty() { document } else { document.field("image", json!(image)) }
    };
    // CVE-2019-11245: what the image runs as was forgotten once it was here.
    for (name, image) in [("root", ""), ("named", "named:1")] {
        node.put(&format!("{name}.yaml"), &with(name, image).text());
        node.wait_running(name);
    }
    let strict = |name: &str, image: &str| with(name, image).field("securityContext/runAsNonRoot", json!(true)).text();
    for (name, image, why) in [("a", "", "will run as root"), ("b", "named:1", "non-numeric user")] {
        node.put(&format!("{name}.yaml"), &strict(name, image));
        let refused = node.wait_pod(name, "is refused", |pod| pod.waiting("main") == "CreateContainerConfigError");
        assert!(refused.0.to_string().contains(why), "{refused:?}");
    }
    node.put("c.yaml", &strict("c", "numbered:1"));
    let process = node.process(&node.wait_running("c"));
    assert_eq!(process.status("Uid").as_deref(), Some("100\t100\t100\t100"));
}

#[test]
fn a_pod_has_the_name_the_sysctls_and_the_resources_that_it_asks_for_as_a_whole() {
    let resources = json!({"limits": {"cpu": "600m", "memory": "96Mi"}, "requests": {"memory": "48Mi"}});
    let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]);
    let document = pod("a")
        .own_network()
        .pod_field("hostnameOverride", json!("db.example"))
        .pod_field("securityContext", json!({"sysctls": sysctls}))
        .pod_field("resources", resources.clone());
    let (node, pod, process) = run(document);
    assert_eq!(node.exec(process, &["hostname"]).ok().out.trim(), "db.example");
    let hosts = node.exec(process, &["cat", "/etc/hosts"]).ok().out;
    assert!(hosts.contains("db.example") && !hosts.contains(&pod.name()), "{hosts}");
    let port = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(node.exec(process, &["cat", port]).ok().out.trim(), "80");
    assert_ne!(fs::read_to_string(port).expect("the node has it").trim(), "80");
    for place in ["", "../"] {
        let memory = format!("{place}memory.limit_in_bytes");
        let memory = node.cgroup_value(process, "memory", &memory, &format!("{place}memory.max"));
        assert_eq!(memory, (96u64 << 20).to_string(), "{place}");
        let quota = format!("{place}cpu.cfs_quota_us");
        let quota = node.cgroup_value(process, "cpu", &quota, &format!("{place}cpu.max"));
        assert!(["60000", "60000 100000"].contains(&quota.as_str()), "{place} {quota}");
    }
    assert_eq!(pod.0["status"]["qosClass"], "Burstable");
    assert_eq!(pod.0["status"]["resources"]["limits"], resources["limits"]);
}

#[test]
fn every_host_path_type_is_checked_or_made() {
    let node = TestNode::start();
    let host = node.dir().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "content").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.join("socket")).unwrap();
    let at = |name: &str| host.join(name).display().to_string();
    for (n, (path, kind, test)) in [
        (at(""), "Directory", "-d"),
        (at("made/deep"), "DirectoryOrCreate", "-d"),
        (at("file"), "File", "-f"),
        (at("made-file"), "FileOrCreate", "-f"),
        (at("socket"), "Socket", "-S"),
        ("/dev/null".to_owned(), "CharDevice", "-c"),
        (at("made-anyhow"), "", "-d"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("good{n}");
        node.put(&format!("{name}.yaml"), &pod(&name).host_path(&path, kind, "/v").text());
        let process = node.process(&node.wait_running(&name));
        node.exec(process, &["test", test, "/v"]).ok();
    }
    assert_eq!(fs::metadata(at("made/deep")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(at("made-file")).unwrap().permissions().mode() & 0o777, 0o644);
    for (n, (path, kind)) in [
        (at("file"), "Directory"),
        (at(""), "File"),
        (at("nowhere"), "Directory"),
        (at("file"), "Socket"),
        (at("file"), "BlockDevice"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad{n}");
        node.put(&format!("{name}.yaml"), &pod(&name).host_path(&path, kind, "/v").text());
        wait_for(&format!("why explains {kind} at {path}"), || {
            let why = node.cli(&["why", &format!("{name}-node-a")]).out;
            if why.contains(&path) { Ok(()) } else { Err(why) }
        });
        assert!(!node.pods_of(&name).iter().any(Pod::running));
    }
}

#[test]
fn a_read_only_mount_cannot_be_written_and_another_can() {
    let node = TestNode::start();
    let host = node.dir().join("host").display().to_string();
    let volumes = json!([{"name": "v", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/ro", "readOnly": true}, {"name": "v", "mountPath": "/rw"}]);
    node.put("a.yaml", &pod("a").pod_field("volumes", volumes).field("volumeMounts", mounts).text());
    let process = node.process(&node.wait_running("a"));
    node.exec(process, &["touch", "/rw/x"]).ok();
    assert_ne!(node.exec(process, &["touch", "/ro/y"]).code, 0);
    node.exec(process, &["test", "-e", "/ro/x"]).ok();
}

#[test]
fn privileged_means_all_that_this_machine_can_give_and_every_device() {
    let (node, _, process) = run(pod("a").field("securityContext/privileged", json!(true)));
    let all =
        |p: Process| u64::from_str_radix(&p.status("CapEff").expect("it runs"), 16).expect("a mask in hexadecimal");
    let ours = all(node.agent_process());
    assert_eq!(all(process) & ours, ours, "the container lacks what the agent has");
    node.exec(process, &["test", "-c", "/dev/kmsg"]).ok();
    node.exec(process, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).ok();
}

#[test]
fn a_device_host_path_gives_that_device_only() {
    // Opening is what the device's rule decides; reading may need a capability besides.
    let tries =
        "( : < /dev/fuse ) && echo fuse-opens; mknod /tmp/tty0 c 4 0; ( : < /tmp/tty0 ) && echo tty0-opens; echo tried";
    let (node, pod, _) = run(pod("a").host_path("/dev/fuse", "CharDevice", "/dev/fuse").says(tries));
    node.wait_log(&pod, "main", "tried");
    let lines = node.log_lines(&pod, "main", 0).join("\n");
    assert!(lines.contains("fuse-opens"), "{lines}");
    assert!(!lines.contains("tty0-opens"), "{lines}");
}

#[test]
fn host_pid_and_host_ipc_are_shared_only_when_asked() {
    let (node, _, process) = run(pod("a"));
    for kind in ["pid", "ipc", "mnt"] {
        assert_ne!(process.namespace(kind), node.agent_process().namespace(kind), "{kind}");
    }
    let (node, _, process) = run(pod("a").pod_field("hostPID", json!(true)).pod_field("hostIPC", json!(true)));
    for kind in ["pid", "ipc"] {
        assert_eq!(process.namespace(kind), node.agent_process().namespace(kind), "{kind}");
    }
}

#[test]
fn containers_share_their_processes_where_asked_and_start_anew_with_the_one_that_holds_them() {
    let container = |name: &str| json!({"name": name, "image": stand_in::BUSYBOX, "command": ["sh", "-c", OBEDIENT]});
    let mut side = container("side");
    side["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "ps | grep -q 'hold '"]}, "periodSeconds": 1});
    let document = pod("a").pod_field("shareProcessNamespace", json!(true));
    let document = document.pod_field("containers", json!([container("main"), side]));
    let (mut node, first, process) = run(document);
    let holders = |uid: &str| with_command(&format!("hold {uid}"));
    let [holder] = holders(&first.uid())[..] else { panic!("one process holds the namespace") };
    let namespace = holder.namespace("pid");
    for other in [process, node.process_of(&first.container_id("side"))] {
        assert_eq!(other.namespace("pid"), namespace);
    }
    assert_ne!(namespace, node.agent_process().namespace("pid"));
    assert!(holder.cgroup("memory").is_some_and(|path| path.contains(&first.uid())), "{:?}", holder.cgroup("memory"));
    assert_eq!(holder.status("CapEff").as_deref(), Some("0000000000000000"));
    // Seen from inside: all of the pod's processes, and a first one that leads nowhere.
    let look = "ps; ls /proc/1/root/ 2>&1; kill -9 1; true";
    let seen = node.cli(&["exec", &first.name(), "-c", "main", "--", "sh", "-c", look]).ok().out;
    assert!(seen.matches("sleep 1000").count() >= 2 && seen.contains("ermission denied"), "{seen}");

    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    let same = node.wait_running("a");
    assert_eq!((same.container_id("main"), same.restarts()), (first.container_id("main"), first.restarts()));
    node.process_of(&first.container_id("side")).kill_9();
    let again = node.wait_pod("a", "has its container again", |pod| {
        pod.running() && pod.container_id("side") != first.container_id("side")
    });
    assert_eq!(node.process_of(&again.container_id("side")).namespace("pid"), namespace, "the namespace outlives it");

    // All end with it. The side's next start is held back for a while: it was its second end.
    holder.kill_9();
    let anew = node.wait_pod("a", "has its container anew", |pod| {
        let running = pod.container("main").is_some_and(|it| it["state"].get("running").is_some());
        running && pod.container_id("main") != first.container_id("main")
    });
    let same = anew.running() && anew.container_id("side") == again.container_id("side");
    assert!(!same, "the other container ended too: {anew:?}");
    let [successor] = holders(&anew.uid())[..] else { panic!("one process holds the new namespace") };
    // Not by the namespaces' numbers, which the kernel gives again.
    assert_ne!(successor, holder);
    assert_eq!(node.process_of(&anew.container_id("main")).namespace("pid"), successor.namespace("pid"));
    node.remove("a.yaml");
    node.wait_no_pod("a");
    assert_eq!(holders(&anew.uid()), []);
    node.wait_nothing_left();
}

#[test]
fn hosts_names_the_pod_and_resolv_conf_is_the_nodes() {
    let (node, pod, process) = run(pod("a").own_network());
    let hosts = node.exec(process, &["cat", "/etc/hosts"]).ok().out;
    assert!(hosts.contains("127.0.0.1") && hosts.contains(&pod.ip()) && hosts.contains(&pod.name()), "{hosts}");
    let resolv = node.exec(process, &["cat", "/etc/resolv.conf"]).ok().out;
    let nodes = fs::read_to_string("/etc/resolv.conf").unwrap();
    for line in nodes.lines().filter(|line| line.starts_with("nameserver")) {
        assert!(resolv.lines().any(|have| have.trim() == line.trim()), "{line} is not in {resolv}");
    }
}

#[test]
fn a_pod_without_a_hostname_is_named_after_itself() {
    let (node, pod, process) = run(daemon_set("a").own_network());
    assert_eq!(node.exec(process, &["hostname"]).ok().out.trim(), pod.name());
}

#[test]
fn limits_and_requests_reach_the_cgroups_of_container_and_pod() {
    let resources = json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let (node, pod, process) = run(pod("a").field("resources", resources));
    assert_eq!(node.cgroup_value(process, "memory", "memory.limit_in_bytes", "memory.max"), (64u64 << 20).to_string());
    let quota = node.cgroup_value(process, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    let shares = node.cgroup_value(process, "cpu", "cpu.shares", "cpu.weight");
    assert!(["256", "10"].contains(&shares.as_str()), "{shares}");
    let path = process.cgroup("memory").expect("it has a cgroup");
    assert!(
        path.contains(&node.cgroup_root) && path.contains(&format!("pod{}", pod.uid())) && path.contains("burstable"),
        "{path}"
    );
    assert_eq!(pod.0["status"]["qosClass"], "Burstable");

    // Other amounts are the same process's: the pod shrinks in one and grows in the other.
    let resources = json!({"limits": {"cpu": "700m", "memory": "48Mi"}, "requests": {"cpu": "500m", "memory": "32Mi"}});
    node.put("a.yaml", &tests::manifest::pod("a").field("resources", resources.clone()).text());
    let resized = node.wait_pod("a", "is resized", |pod| {
        let conditions = pod.0["status"]["conditions"].as_array().expect("a list");
        let over = conditions.iter().all(|condition| condition["type"] != "PodResizeInProgress");
        over && pod.0["status"]["containerStatuses"][0]["resources"] == resources
    });
    assert_eq!((resized.uid(), resized.restarts(), process.alive()), (pod.uid(), 0, true));
    assert_eq!(node.cgroup_value(process, "memory", "memory.limit_in_bytes", "memory.max"), (48u64 << 20).to_string());
    let quota = node.cgroup_value(process, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(["70000", "70000 100000"].contains(&quota.as_str()), "{quota}");
    let parents = node.cgroup_value(process, "cpu", "../cpu.cfs_quota_us", "../cpu.max");
    assert_eq!(parents, quota, "the pod has what its one container has");
    let parents = node.cgroup_value(process, "memory", "../memory.limit_in_bytes", "../memory.max");
    assert_eq!(parents, (48u64 << 20).to_string());
    // Its devices stay what they were.
    let script = "echo > /dev/null && mknod /kmsg c 1 11 && ! head -c 1 /kmsg";
    node.cli(&["exec", &resized.name(), "--", "sh", "-c", script]).ok();
}

#[test]
fn what_uses_too_much_memory_is_killed_and_said_to_be() {
    let node = TestNode::start();
    // busybox's tail keeps in memory what it may have to print.
    let greedy = pod("a").field("resources", json!({"limits": {"memory": "16Mi"}}));
    let greedy = greedy.field("command", json!(["tail", "-c", "500000000", "/dev/zero"]));
    node.put("a.yaml", &greedy.text());
    node.wait_pod("a", "is OOMKilled", |pod| {
        let Some(status) = pod.container("main") else { return false };
        status["lastState"]["terminated"]["reason"] == "OOMKilled"
            || status["state"]["terminated"]["reason"] == "OOMKilled"
    });
}

#[test]
fn oom_score_adj_follows_the_class_as_far_as_this_process_may() {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()).unwrap();
    let total: i64 = total.parse::<i64>().unwrap() * 1024;
    let score = |process: Process| -> i64 {
        fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).unwrap().trim().parse().unwrap()
    };
    // An eighth of the node's memory, and all that its one container may have.
    let eighth = json!({"requests": {"memory": (total / 8).to_string()}});
    let all = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
    let node = TestNode::start();
    node.put("best.yaml", &pod("best").text());
    node.put("burst.yaml", &pod("burst").field("resources", eighth).text());
    node.put("sure.yaml", &pod("sure").field("resources", all).text());
    let scored = |name: &str, class: &str| {
        let pod = node.wait_running(name);
        assert_eq!(pod.0["status"]["qosClass"], class);
        (score(node.process(&pod)), pod)
    };
    assert_eq!(scored("best", "BestEffort").0, 1000);
    assert_eq!(scored("burst", "Burstable").0, 1000 - 1000 * (total / 8) / total);
    // Kubernetes' -997, or as low as containerd itself may go, which is said.
    let config = node.dir().join("containerd/config.toml");
    let containerd = with_command(config.to_str().unwrap()).into_iter().next().expect("containerd runs");
    let capabilities = u64::from_str_radix(&containerd.status("CapEff").unwrap(), 16).unwrap();
    const SYS_RESOURCE: u64 = 1 << 24;
    let least = if capabilities & SYS_RESOURCE != 0 { -1000 } else { score(containerd) };
    let (given, sure) = scored("sure", "Guaranteed");
    assert_eq!(given, least.max(-997));
    let said = format!("oom_score_adj {given} instead of -997");
    assert_eq!(sure.0["status"]["conditions"].to_string().contains(&said), given > -997, "{sure:?}");
}

#[test]
fn env_knows_the_pod_and_its_own_variables() {
    let env = json!([
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "BOTH", "value": "$(POD)@$(NODE) $$(POD) $(MISSING)"},
    ]);
    let document = pod("a").own_network().field("env", env).field("resources", json!({"limits": {"memory": "64Mi"}}));
    let document = document
        .field("command", json!(["sh", "-c"]))
        .field("args", json!(["echo '[$(BOTH)]' [$IP] [$MEM]; exec sleep 1000"]));
    let node = TestNode::start();
    node.put("a.yaml", &document.pod_field("terminationGracePeriodSeconds", json!(1)).text());
    let pod = node.wait_running("a");
    let said = node.wait_log(&pod, "main", "[");
    assert_eq!(said, format!("[a-node-a@node-a $(POD) $(MISSING)] [{}] [64]", pod.ip()));
}

#[test]
fn shared_memory_and_message_queues_are_mounted() {
    let (node, _, process) = run(pod("a").own_network());
    let mounts = node.exec(process, &["cat", "/proc/mounts"]).ok().out;
    for mount in [" /dev/shm tmpfs ", " /dev/mqueue mqueue ", " /sys sysfs ro", " /proc proc "] {
        assert!(mounts.contains(mount), "{mount:?} is not in {mounts}");
    }
}

#[test]
fn no_descriptor_of_ours_reaches_a_container() {
    let (node, pod, _) = run(pod("a").says("ls -l /proc/self/fd; echo listed"));
    node.wait_log(&pod, "main", "listed");
    let lines = node.log_lines(&pod, "main", 0);
    let beyond: Vec<&String> = lines
        .iter()
        .filter(|line| {
            line.contains(" -> ") && !line.contains("pipe:") && !line.contains("/dev/null") && !line.contains("/proc/")
        })
        .collect();
    let pipes = lines.iter().filter(|line| line.contains(" -> ")).count();
    assert!(pipes >= 3, "{lines:?}");
    assert!(beyond.iter().all(|line| line.contains("/logs/") || line.contains("/fifo")), "{beyond:?}");
}
