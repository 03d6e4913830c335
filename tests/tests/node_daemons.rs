//! DaemonSets as people publish them, on a real node: `tests/daemonsets` with an exporter and a log collector from Debian's packages, and
//! with stand-ins for what Debian does not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tests::client::{self, Pod};
use tests::image::{Image, Tarball, oci_archive};
use tests::manifest::{OBEDIENT, pod};
use tests::node::TestNode;
use tests::skip::skipped;
use tests::wait::{wait_for, wait_within};

/// Where scripts/daemons.sh has put their root directories.
const DAEMONS: &str = "DAEMONLET_TEST_DAEMONS";
/// Set in the process that has the mounts of its own.
const INSIDE: &str = "DAEMONLET_TEST_SHARED_MOUNTS";
/// Some of them are probed every five seconds before they are called ready, beside many other tests.
const PATIENCE: Duration = Duration::from_secs(90);
const LINES: usize = 30_000;

/// Runs the rest of a test in a mount namespace in which all mounts are shared, as systemd has them on a real node and containers that
/// pass mounts on need them. Says whether that is where the caller is.
fn with_shared_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "shared", "--"]).arg(own).args([test, "--exact", "--nocapture"]);
    let status = command.env(INSIDE, "1").status().expect("unshare is there");
    assert!(status.success(), "{status}");
    false
}

/// A manifest of the folder. What it writes on the host lies under the node's directory; the root, /sys and /dev are the machine's.
fn published(node: &TestNode, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonsets").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = text.replace("/var/log", &node.log_dir().display().to_string());
    for dir in ["etc/", "lib/", "opt/", "run/", "var/"] {
        text = text.replace(&format!(" path: /{dir}"), &format!(" path: {}", host(node, dir).display()));
    }
    text
}

fn host(node: &TestNode, path: &str) -> PathBuf {
    node.dir().join("host").join(path)
}

fn packaged(daemons: &Path, name: &str, file: &str, program: &[&str]) -> Image {
    let layer = fs::read(daemons.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    Image::empty(name).layer(layer).entrypoint(program)
}

fn wait_ready(node: &TestNode, name: &str) -> Pod {
    wait_within(PATIENCE, &format!("{name} is ready"), || {
        let pods = node.pods_of(name);
        let found = pods.iter().find(|pod| pod.ready());
        found.cloned().ok_or_else(|| format!("{}{}", tests::node::summary(&pods), node.cli(&["why"]).out))
    })
}

#[test]
fn an_exporter_and_a_log_collector_see_the_whole_node() {
    let Some(daemons) = std::env::var_os(DAEMONS).filter(|dir| !dir.is_empty()).map(PathBuf::from) else {
        skipped(&format!("{DAEMONS} names no daemons; scripts/daemons.sh fetches some"));
        return;
    };
    if !with_shared_mounts("an_exporter_and_a_log_collector_see_the_whole_node") {
        return;
    }
    let exporter = "registry.example/exporter:1.8";
    let collector = "registry.example/collector:3.0";
    let rsyslogd = ["/usr/sbin/rsyslogd", "-n", "-iNONE", "-f", "/etc/collector/collector.conf"];
    let mut node = TestNode::builder()
        .image(
            "exporter.tar",
            &packaged(&daemons, exporter, "node-exporter.tar", &["/usr/bin/prometheus-node-exporter"]),
        )
        .image("collector.tar", &packaged(&daemons, collector, "rsyslog.tar", &rsyslogd))
        .flag("--log-max-size", "1Mi")
        .start();
    node.put("exporter.yaml", &published(&node, "exporter.yaml"));
    node.put("collector.yaml", &published(&node, "log-collector.yaml"));

    wait_ready(&node, "exporter");
    let scraped = wait_for("the exporter answers", || {
        let answer = node.inside(|| client::get_tcp("127.0.0.1:9100", "/metrics", "127.0.0.1:9100"));
        answer.map(|it| it.body).map_err(|error| error.to_string())
    });
    let value = |name: &str| {
        let line = scraped.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let value: f64 = line.and_then(|it| it.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name}"));
        value as u64
    };
    let memory = fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let memory = memory.lines().find_map(|it| it.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")).expect("there");
    assert_eq!(value("node_memory_MemTotal_bytes"), memory.parse::<u64>().expect("a number") * 1024);
    let root = nix::sys::statvfs::statvfs("/").expect("there");
    let device = fs::read_to_string("/proc/self/mounts").expect("proc is mounted");
    let device = device.lines().find_map(|it| it.split_once(" / ")).expect("a root");
    let kind = device.1.split(' ').next().expect("a type");
    let name = format!("node_filesystem_size_bytes{{device=\"{}\",fstype=\"{kind}\",mountpoint=\"/\"}}", device.0);
    assert_eq!(
        value(&name),
        root.blocks() * root.fragment_size(),
        "the node's own root, by the path that it has there"
    );

    // Every line of a chatty daemon arrives, through a killed agent and a log that is rotated.
    wait_ready(&node, "collector");
    let script = format!("i=0; while [ $i -lt {LINES} ]; do echo \"chatty says $i\"; i=$((i+1)); done; {OBEDIENT}");
    node.put("chatty.yaml", &pod("chatty").script(&script).text());
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    let collected = node.pods_of("collector").pop().expect("it is adopted");
    let lines = node.state_dir().join("pods").join(collected.uid()).join("volumes/empty-dir/buffer/lines");
    let expected: BTreeSet<String> = (0..LINES).map(|line| format!("chatty says {line}")).collect();
    wait_within(PATIENCE, "every line has arrived", || {
        let text = fs::read_to_string(&lines).map_err(|error| format!("{}: {error}", lines.display()))?;
        let chatty = text.lines().filter(|line| line.contains("/containers/chatty"));
        let seen: BTreeSet<String> =
            chatty.filter_map(|line| Some(format!("chatty says {}", line.split_once(" F chatty says ")?.1))).collect();
        let missing = expected.difference(&seen).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {LINES} are missing")) }
    });

    for file in ["exporter.yaml", "collector.yaml", "chatty.yaml"] {
        node.remove(file);
    }
    node.wait_nothing_left();
}

/// A stand-in: busybox with these programs, of which the first is the entrypoint.
fn stand_in(name: &str, programs: &[(&str, &str)]) -> Image {
    let mut layer = Tarball::new();
    for (path, script) in programs {
        layer = layer.file(path, 0o755, format!("#!/bin/sh\n# A stand-in.\n{script}\n").as_bytes());
    }
    let entrypoint = format!("/{}", programs[0].0);
    Image::busybox(name).expect("busybox-static is installed").layer(layer.bytes()).entrypoint(&[&entrypoint])
}

#[test]
fn agents_plugins_and_speakers_run_with_all_that_they_ask_for() {
    if !with_shared_mounts("agents_plugins_and_speakers_run_with_all_that_they_ask_for") {
        return;
    }
    // Each proves from inside what its manifest asks for, and ends if it is not there.
    let agent = format!(
        "case \"$1\" in --alive | --ready) exec test -e /tmp/up ;; --shutdown) exec umount /sys/fs/bpf ;; esac\n\
         set -e\ntest \"$MTU\" = 1450\ntest \"$NODE\" = node-a\ntest -f /run/xtables.lock\ngrep -q bridge /etc/net-agent/plugin.conflist\n\
         mount -t tmpfs pinned /sys/fs/bpf\ntouch /tmp/up\n{OBEDIENT}"
    );
    let install = "set -e\ntest \"$mtu\" = 1450\ntest \"$*\" = '--to /host/bin'\necho plugin >/host/bin/net-agent\necho '{}' >/host/etc/10-pods.conflist";
    let driver = "set -e\ntest \"$1\" = --node=node-a\ntest -b /dev/loop0 -o -c /dev/kmsg\nuntil [ -e /csi/registered ]; do sleep 0.1; done\n\
         mkdir -p /var/lib/kubelet/pods/a && mount -t tmpfs volume /var/lib/kubelet/pods/a\n\
         trap 'umount /var/lib/kubelet/pods/a; exit 0' TERM\nmkdir -p /www && echo fine >/www/healthz\nhttpd -f -p 9808 -h /www &\nwait $!";
    let registrar = format!("set -e\ntouch /csi/registered /registration/csi-reg.sock\n{OBEDIENT}");
    // The device is there and may be opened; its neighbour is not there at all.
    let plugin = format!(
        "set -e\ntest \"$FAIL_ON_INIT_ERROR\" = false\nexec 3<>/dev/fuse\ntest ! -e /dev/kmsg\n\
         touch /var/lib/kubelet/device-plugins/example.sock\n{OBEDIENT}"
    );
    let detector =
        format!("set -e\ndd if=/dev/kmsg of=/dev/null bs=8k count=1\ntest -f /etc/localtime\necho reads\n{OBEDIENT}");
    let proxy = format!(
        "set -e\ntest \"$2\" = --hostname-override=node-a\ngrep -q 'mode: nft' /var/lib/proxy/config.conf\n\
         grep -q 'k8s-app=\"proxy\"' /var/lib/proxy/labels\nip link add dummy-p type dummy 2>/dev/null && ip link del dummy-p\n{OBEDIENT}"
    );
    let speaker = "set -e\ntest \"$NAMESPACE\" = load-balancer\ntest -n \"$HOST_IP\"\ntest -d /etc/members\n! touch /x 2>/dev/null\nexec httpd -f -p 7472 -h /www";
    let speaker = stand_in("registry.example/speaker:0.14", &[("speaker", speaker)])
        .layer(Tarball::new().dir("www", 0o755).file("www/metrics", 0o644, b"up 1\n").bytes());
    let images = [
        stand_in("registry.example/net-agent:1.4", &[("bin/agent", &agent), ("bin/install", install)]),
        stand_in("registry.example/csi-driver:1.8", &[("driver", driver)]),
        stand_in("registry.example/csi-registrar:2.9", &[("registrar", &registrar)]),
        stand_in("registry.example/device-plugin:0.14", &[("plugin", &plugin)]),
        stand_in("registry.example/problem-detector:0.8", &[("detector", &detector)]),
        stand_in("registry.example/proxy:v1.36.0", &[("usr/local/bin/proxy", &proxy)]),
        speaker,
    ];
    let node = TestNode::empty_builder()
        .archive("stand-ins.tar", oci_archive(&images))
        .flag("--node-label", "example.com/accelerator=yes")
        .start();
    let sets = [
        ("cni-agent.yaml", "net-agent"),
        ("csi-node.yaml", "csi-node"),
        ("device-plugin.yaml", "device-plugin"),
        ("load-balancer-speaker.yaml", "speaker"),
        ("problem-detector.yaml", "problem-detector"),
        ("proxy.yaml", "proxy"),
    ];
    for dir in ["etc/cni/net.d", "lib/modules", "opt/cni", "run", "var/lib"] {
        fs::create_dir_all(host(&node, dir)).expect("made");
    }
    for (file, _) in sets {
        node.put(file, &published(&node, file));
    }
    for (_, name) in sets.iter().filter(|(_, name)| *name != "proxy") {
        wait_ready(&node, name);
    }
    // Its configuration is nowhere yet: it waits, says for what, and starts when it comes.
    node.wait_pod("proxy", "waits for its ConfigMap", |pod| pod.waiting("proxy").contains("ContainerCreating"));
    assert!(node.cli(&["why"]).out.contains("kube-system/proxy"), "{}", node.cli(&["why"]).out);
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "proxy", "namespace": "kube-system"},
                        "data": {"config.conf": "mode: nft\n"}});
    node.put("proxy-config.yaml", &config.to_string());
    wait_ready(&node, "proxy");

    assert_eq!(fs::read_to_string(host(&node, "opt/cni/bin/net-agent")).expect("installed"), "plugin\n");
    assert!(host(&node, "etc/cni/net.d/10-pods.conflist").exists());
    assert!(host(&node, "var/lib/kubelet/device-plugins/example.sock").exists());
    assert!(host(&node, "var/lib/kubelet/plugins_registry/csi-reg.sock").exists());
    let mounted = |what: &str| {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("proc is mounted");
        mounts.lines().filter(|line| line.starts_with(what)).count()
    };
    assert!(mounted("pinned /sys/fs/bpf ") == 1 && mounted("volume ") == 1, "what they mount arrives on the node");
    assert_eq!(node.pods().iter().map(Pod::restarts).sum::<u64>(), 0);

    for (file, _) in sets {
        node.remove(file);
    }
    node.wait_nothing_left();
    // The agent's hook and the driver's last act were theirs to do.
    assert_eq!([mounted("pinned "), mounted("volume ")], [0, 0]);
}
