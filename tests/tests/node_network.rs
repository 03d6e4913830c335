//! Pods' networks: their own namespace without a pause container, an address from CNI that is given back whatever happens, or the host's.

use std::io::{Read as _, Write as _};

use serde_json::json;
use tests::audit::Traces;
use tests::manifest::{daemon_set, pod};
use tests::node::{NODE_ADDRESS, TestNode};
use tests::wait::wait_for;

#[test]
fn a_pod_has_a_network_namespace_and_an_address_of_its_own() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").own_network().text());
    let running = node.wait_running("a");
    let process = node.process(&running);
    assert!(running.ip().starts_with("198.18."), "{}", running.ip());
    assert_ne!(process.namespace("net"), node.agent_process().namespace("net"));
    let addresses = node.exec(process, &["ip", "-o", "-4", "addr"]).ok().out;
    assert!(addresses.contains(&format!("{}/", running.ip())) && addresses.contains("127.0.0.1/8"), "{addresses}");
    let routes = node.exec(process, &["ip", "route"]).ok().out;
    assert!(routes.contains("default via"), "{routes}");
}

#[test]
fn containers_of_a_pod_share_network_ipc_and_names_but_not_processes() {
    let node = TestNode::start();
    let containers = json!([
        {"name": "one", "image": "busybox:1.36", "command": ["sleep", "1000"]},
        {"name": "two", "image": "busybox:1.36", "command": ["sleep", "1000"]},
    ]);
    node.put("a.yaml", &pod("a").own_network().pod_field("containers", containers).text());
    let running = node.wait_running("a");
    let one = node.process_of(&running.container_id("one"));
    let two = node.process_of(&running.container_id("two"));
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(one.namespace(kind), two.namespace(kind), "{kind}");
        assert_ne!(one.namespace(kind), node.agent_process().namespace(kind), "{kind}");
    }
    assert_ne!(one.namespace("pid"), two.namespace("pid"));
    // One shim for the whole pod, once the processes that containerd starts shims with have ended.
    wait_for("one shim serves the pod", || match node.shims().len() {
        1 => Ok(()),
        more => Err(format!("{more} shims")),
    });
}

#[test]
fn pods_reach_each_other_and_the_node_reaches_them() {
    let node = TestNode::start();
    let server = pod("server").own_network().script("echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
    node.put("server.yaml", &server.pod_field("terminationGracePeriodSeconds", json!(1)).text());
    node.put("client.yaml", &pod("client").own_network().text());
    let server = node.wait_running("server");
    let client = node.process(&node.wait_running("client"));
    // Not wget: the static busybox's crashes in glibc's resolver.
    let ask = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {} 8080", server.ip());
    wait_for("the server answers a pod", || {
        let answer = node.exec(client, &["sh", "-c", &ask]);
        if answer.out.contains("hello") { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    node.connect(&format!("{}:8080", server.ip())).expect("the node reaches its pod");
}

#[test]
fn every_address_is_given_back_when_pods_go() {
    let node = TestNode::start();
    for name in ["a", "b", "c"] {
        node.put(&format!("{name}.yaml"), &pod(name).own_network().text());
    }
    let addresses: std::collections::BTreeSet<String> =
        ["a", "b", "c"].iter().map(|name| node.wait_running(name).ip()).collect();
    assert_eq!(addresses.len(), 3);
    assert_eq!(Traces::of(&node).addresses.len(), 3);
    for name in ["a", "b", "c"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_nothing_left();
}

#[test]
fn an_address_is_given_back_after_everything_was_killed() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").own_network().text());
    node.wait_running("a");
    node.power_cut();
    node.remove("a.yaml");
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    node.wait_no_pod("a");
    node.wait_nothing_left();
}

#[test]
fn many_updates_do_not_use_up_addresses() {
    let node = TestNode::builder().flag("--pod-cidr", "198.18.7.0/29").start();
    // Six addresses, one of them the bridge's; a leak of one a round would end the series.
    node.put("a.yaml", &daemon_set("a").own_network().env("round", "0").text());
    let mut last = node.wait_running("a");
    for round in 1..9 {
        node.put("a.yaml", &daemon_set("a").own_network().env("round", &round.to_string()).text());
        last =
            node.wait_pod("a", "is replaced", |pod| pod.uid() != last.uid() && pod.running() && !pod.ip().is_empty());
    }
    wait_for("one address in use", || match Traces::of(&node).addresses.len() {
        1 => Ok(()),
        n => Err(format!("{n} in use")),
    });
}

#[test]
fn host_network_shares_the_nodes_namespace_and_address() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let running = node.wait_running("a");
    let process = node.process(&running);
    assert_eq!(process.namespace("net"), node.agent_process().namespace("net"));
    assert_eq!(running.ip(), NODE_ADDRESS);
    assert_eq!(running.0["status"]["hostIP"], NODE_ADDRESS);
}

#[test]
fn nothing_is_written_to_the_machines_own_network_configuration() {
    let configuration = || {
        let entries = std::fs::read_dir("/etc/cni/net.d").into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = configuration();
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").own_network().text());
    node.wait_running("a");
    assert_eq!(configuration(), before);
    // Bridges and addresses are made in the network namespace of the agent, which is the node's.
    assert!(node.links().iter().any(|link| link.starts_with("veth")));
}

#[test]
fn a_pod_is_called_and_finds_others_as_its_manifest_says() {
    let node = TestNode::builder().flag("--cluster-dns", "198.18.0.10").start();
    let named = pod("named")
        .own_network()
        .pod_field("hostname", json!("web"))
        .pod_field("subdomain", json!("db"))
        .pod_field("setHostnameAsFQDN", json!(true))
        .pod_field("hostAliases", json!([{"ip": "198.18.9.1", "hostnames": ["foo", "bar"]}]))
        .pod_field("dnsConfig", json!({"nameservers": ["198.18.9.53"], "options": [{"name": "ndots", "value": "2"}]}));
    node.put("named.yaml", &named.text());
    let running = node.wait_running("named");
    let process = node.process(&running);
    let see = |words: &[&str]| node.exec(process, words).ok().out;
    assert_eq!(see(&["hostname"]).trim(), "web.db.default.svc.cluster.local");
    let hosts = see(&["cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{}\tweb.db.default.svc.cluster.local\tweb\n", running.ip())), "{hosts}");
    assert!(hosts.ends_with("198.18.9.1\tfoo\tbar\n"), "{hosts}");
    let resolv_conf = see(&["cat", "/etc/resolv.conf"]);
    assert!(
        resolv_conf.starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv_conf}"
    );
    assert!(
        resolv_conf.ends_with("nameserver 198.18.0.10\nnameserver 198.18.9.53\noptions ndots:2\n"),
        "{resolv_conf}"
    );
}

/// What the server there has to say.
fn index(node: &TestNode, address: &str) -> std::io::Result<String> {
    let mut connection = node.connect(address)?;
    connection.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    connection.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    connection.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn a_host_port_leads_to_its_pod_across_updates_and_belongs_to_one() {
    let node = TestNode::start();
    let server = |name: &str, word: &str| {
        daemon_set(name)
            .own_network()
            .field("ports", json!([{"containerPort": 80, "hostPort": 8088}]))
            .script(&format!("echo {word} > /tmp/index.html; trap 'exit 0' TERM; httpd -f -p 80 -h /tmp & wait"))
    };
    let says = |word: &str| {
        wait_for("the port of the node answers", || {
            for address in ["127.0.0.1", NODE_ADDRESS] {
                let answer = index(&node, &format!("{address}:8088"));
                if !answer.as_ref().is_ok_and(|answer| answer.contains(word)) {
                    return Err(format!("{address}: {answer:?}"));
                }
            }
            Ok(())
        });
    };
    node.put("a.yaml", &server("a", "first").text());
    node.wait_running("a");
    says("first");
    node.put("a.yaml", &server("a", "second").text());
    says("second");
    // Another workload does not get the port, and what runs is not touched.
    node.put("b.yaml", &server("b", "other").text());
    wait_for("the clash is said", || {
        let why = node.cli(&["why", "b"]);
        if why.out.contains("port 8088/TCP of the node is taken by ds/default/a") {
            Ok(())
        } else {
            Err(format!("{why:?}"))
        }
    });
    says("second");
    // Until the port is free.
    node.remove("a.yaml");
    node.wait_running("b");
    says("other");
}

#[test]
fn a_missing_plugin_is_said_and_heals_by_itself_when_it_appears() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("cni/bin");
    let node = TestNode::builder().flag("--cni-bin-dir", bin.to_str().unwrap()).start();
    node.put("a.yaml", &pod("a").own_network().text());
    node.put("host.yaml", &pod("host").text());
    node.wait_running("host");
    wait_for("the missing plugin is said", || {
        let why = node.cli(&["why", "a"]);
        let ready = node.get("/readyz?verbose").map(|answer| answer.body).unwrap_or_default();
        if why.out.contains("the CNI plugin bridge is in none of")
            && ready.contains("[-]cni failed: bridge, host-local not in")
        {
            Ok(())
        } else {
            Err(format!("{why:?} {ready}"))
        }
    });
    std::fs::create_dir_all(dir.path().join("cni")).unwrap();
    std::os::unix::fs::symlink("/usr/lib/cni", &bin).unwrap();
    node.wait_running("a");
}

#[test]
fn a_pod_of_two_ranges_has_an_address_of_each_family_in_status_and_environment() {
    let mut node = TestNode::builder().flag("--pod-cidr", "198.18.0.0/16,fd00:88::/64").without_agent().start();
    let far = ["-n", node.id(), "addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad"];
    assert!(std::process::Command::new("ip").args(far).status().expect("ip is installed").success());
    node.start_agent();
    node.wait_agent();
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let env = json!([field("POD", "status.podIPs"), field("HOST", "status.hostIPs"), field("ONE", "status.podIP")]);
    node.put("a.yaml", &pod("a").own_network().field("env", env).text());
    let running = node.wait_running("a");
    let listed = |key: &str| {
        let list = running.0["status"][key].as_array().cloned().unwrap_or_default();
        list.iter().map(|ip| ip["ip"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let (pods, hosts) = (listed("podIPs"), listed("hostIPs"));
    assert!(pods[0].starts_with("198.18.") && pods[1].starts_with("fd00:88::"), "{pods:?}");
    assert_eq!(hosts, [NODE_ADDRESS, "fd00:99::1"]);
    let process = node.process(&running);
    let environ = std::fs::read(format!("/proc/{}/environ", process.pid)).expect("its process lives");
    let environ = String::from_utf8_lossy(&environ).into_owned();
    let has = |line: String| environ.split('\0').any(|have| have == line);
    assert!(has(format!("POD={}", pods.join(","))) && has(format!("HOST={}", hosts.join(","))), "{environ}");
    assert!(has(format!("ONE={}", pods[0])), "{environ}");
    // Both are given back after a power cut.
    node.power_cut();
    node.remove("a.yaml");
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    node.wait_no_pod("a");
    node.wait_nothing_left();
}

#[test]
fn a_plugin_that_outlives_its_killed_agent_is_ended_and_its_pod_connected_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (bin, begun) = (dir.path().join("bin"), dir.path().join("begun"));
    std::fs::create_dir(&bin).expect("made");
    for plugin in ["host-local", "portmap", "bandwidth"] {
        std::os::unix::fs::symlink(format!("/usr/lib/cni/{plugin}"), bin.join(plugin)).expect("linked");
    }
    // The first ADD takes its time, before and after its address.
    let slow = format!(
        "#!/bin/sh\nif [ $CNI_COMMAND = ADD ] && mkdir {0} 2>/dev/null; then echo $$ > {0}/pid; sleep 5; fi\nexec /usr/lib/cni/bridge\n",
        begun.display()
    );
    std::fs::write(bin.join("bridge"), slow).expect("written");
    std::fs::set_permissions(bin.join("bridge"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut node = TestNode::builder().flag("--cni-bin-dir", bin.to_str().expect("UTF-8")).start();
    node.put("a.yaml", &pod("a").own_network().text());
    let plugin: i32 = wait_for("the slow plugin runs", || {
        let text = std::fs::read_to_string(begun.join("pid")).map_err(|e| e.to_string())?;
        text.trim().parse().map_err(|_| text)
    });
    node.kill_agent();
    assert!(tests::process::Process::find(plugin).is_some(), "the plugin outlives its agent");
    node.start_agent();
    node.wait_agent();
    let ended = || {
        let stat = std::fs::read_to_string(format!("/proc/{plugin}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    assert!(ended(), "the plugin of the killed agent still runs");
    node.wait_running("a");
    assert_eq!(Traces::of(&node).addresses.len(), 1);
    node.remove("a.yaml");
    node.wait_nothing_left();
}

#[test]
fn a_port_that_a_process_of_the_node_has_is_said_before_anything_stops_and_taken_when_it_is_free() {
    let node = TestNode::start();
    let server =
        |port: u16| daemon_set("a").own_network().field("ports", json!([{"containerPort": 80, "hostPort": port}]));
    node.put("a.yaml", &server(8088).text());
    let before = node.wait_running("a");
    let foreign = node.inside(|| std::net::TcpListener::bind("127.0.0.1:8089").expect("the port is free"));
    node.put("a.yaml", &server(8089).text());
    wait_for("the listener is named", || {
        let why = node.cli(&["why", "a"]).out;
        let said = "port 8089/TCP of the node is taken by ";
        if why.contains(said) && why.contains("listens on 127.0.0.1:8089") { Ok(()) } else { Err(why) }
    });
    assert!(node.pods_of("a").iter().any(|pod| pod.uid() == before.uid() && pod.running()), "the old pod runs on");
    drop(foreign);
    node.wait_pod("a", "the new one runs", |pod| pod.uid() != before.uid() && pod.running());
}

#[test]
fn a_pod_whose_network_was_damaged_while_the_agent_was_away_is_made_anew_and_a_sound_one_is_not_touched() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").own_network().text());
    node.put("b.yaml", &pod("b").own_network().text());
    let (a, b) = (node.wait_running("a"), node.wait_running("b"));
    let (hurt, sound) = (node.process(&a), node.process(&b));
    node.stop_agent();
    let entered = ["-t", &hurt.pid.to_string(), "-n", "ip", "link", "del", "eth0"];
    assert!(std::process::Command::new("nsenter").args(entered).status().expect("nsenter is there").success());
    node.start_agent();
    node.wait_agent();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1 && !pod.ip().is_empty());
    assert_eq!(again.uid(), a.uid());
    let events = node.cli(&["get", "events"]).out;
    assert!(events.contains("SandboxChanged") && events.contains("its interface eth0 is gone"), "{events}");
    let links = node.exec(node.process(&again), &["ip", "-o", "-4", "addr"]).ok().out;
    assert!(links.contains(&again.ip()), "{links}");
    let untouched = node.wait_running("b");
    assert_eq!((untouched.restarts(), untouched.ip(), node.process(&untouched)), (0, b.ip(), sound));
    assert_eq!(Traces::of(&node).addresses.len(), 2);
}

#[test]
fn a_flush_of_packet_rules_heals_without_a_new_pod() {
    let node = TestNode::start();
    let server = daemon_set("a")
        .own_network()
        .field("ports", json!([{"containerPort": 80, "hostPort": 8088}]))
        .script("echo here > /tmp/index.html; exec httpd -f -p 80 -h /tmp");
    node.put("a.yaml", &server.text());
    let before = node.wait_running("a");
    let answers = |address: &str| index(&node, address).is_ok_and(|answer| answer.contains("here"));
    let wait_answer = || {
        wait_for("the port leads to the pod", || {
            if answers(&format!("{NODE_ADDRESS}:8088")) && answers("127.0.0.1:8088") {
                Ok(())
            } else {
                Err("it does not".to_owned())
            }
        });
    };
    wait_answer();
    for table in ["nat", "filter"] {
        assert!(
            node.command("iptables").args(["-w", "-t", table, "-F"]).status().expect("iptables is there").success()
        );
        wait_answer();
    }
    wait_for("the rules stand again", || {
        let listed = node.command("iptables").args(["-w", "-S", "INPUT"]).output().expect("iptables is there");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        if listed.contains("127.0.0.0/8") { Ok(()) } else { Err(listed) }
    });
    let after = node.wait_running("a");
    assert_eq!((after.uid(), node.process(&after)), (before.uid(), node.process(&before)));
    assert_eq!(after.restarts(), 0);
}
