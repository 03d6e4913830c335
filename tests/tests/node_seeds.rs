//! The two example DaemonSets, unchanged from `manifests/`, reach Running on a real containerd, with stand-ins for their images.

use std::path::Path;

use tests::node::TestNode;
use tests::wait::wait_for;

fn example(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn both_examples_run_unchanged() {
    let node = TestNode::start();
    node.put("random-refresher.yaml", &example("random-refresher.yaml"));
    node.put("fluentd-elasticsearch.yaml", &example("fluentd-elasticsearch.yaml"));
    let random = node.wait_running("random-refresher");
    let fluentd = node.wait_running("fluentd-elasticsearch");
    assert_eq!((random.namespace().as_str(), fluentd.namespace().as_str()), ("default", "kube-system"));
    assert_eq!(node.pods().len(), 2);
}

#[test]
fn random_refresher_writes_to_the_hosts_random_device() {
    let node = TestNode::start();
    node.put("random-refresher.yaml", &example("random-refresher.yaml"));
    let pod = node.wait_running("random-refresher");
    let process = node.process(&pod);
    node.exec(process, &["test", "-c", "/host_dev/random"]).ok();
    node.wait_log(&pod, "random-generator", "writing 100000 random numbers to /host_dev/random");
    // The stand-in fails loudly when it may not write; its script then says so in the log.
    node.exec(process, &["sh", "-c", "echo x > /host_dev/random"]).ok();
}

#[test]
fn a_tainted_master_is_tolerated() {
    let node = TestNode::builder()
        .flag("--node-taint", "node-role.kubernetes.io/master=:NoSchedule")
        .manifest("random-refresher.yaml", &example("random-refresher.yaml"))
        .manifest("fluentd-elasticsearch.yaml", &example("fluentd-elasticsearch.yaml"))
        .start();
    node.wait_running("random-refresher");
    wait_for("why names the taint", || {
        let why = node.cli(&["why"]);
        if why.out.contains("node-role.kubernetes.io/master") { Ok(()) } else { Err(format!("{why:?}")) }
    });
    assert!(node.pods_of("fluentd-elasticsearch").is_empty());
}

#[test]
fn fluentd_has_its_environment_and_its_limits() {
    let node = TestNode::start();
    node.put("fluentd-elasticsearch.yaml", &example("fluentd-elasticsearch.yaml"));
    let pod = node.wait_running("fluentd-elasticsearch");
    let process = node.process(&pod);
    let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.split('\0').any(|entry| entry == "testenv=value"), "{environment:?}");
    assert_eq!(node.cgroup_value(process, "memory", "memory.limit_in_bytes", "memory.max"), (200 << 20).to_string());
    // 100m are 102 of 1024 shares, or a weight of 4 on cgroup v2.
    let shares = node.cgroup_value(process, "cpu", "cpu.shares", "cpu.weight");
    assert!(["102", "4"].contains(&shares.as_str()), "{shares}");
    assert_eq!(pod.0["status"]["qosClass"], "Burstable");
}

#[test]
fn nothing_is_left_of_an_example_that_was_removed() {
    let node = TestNode::start();
    node.put("fluentd-elasticsearch.yaml", &example("fluentd-elasticsearch.yaml"));
    let pod = node.wait_running("fluentd-elasticsearch");
    let process = node.process(&pod);
    node.remove("fluentd-elasticsearch.yaml");
    process.wait_gone(tests::wait::PATIENCE);
    node.wait_no_pod("fluentd-elasticsearch");
    node.wait_nothing_left();
}
