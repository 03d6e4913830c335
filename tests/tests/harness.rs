//! The harness proved by itself, without the agent: a node's containerd runs our images, and nothing of a node outlives it.

use std::fs;
use std::process::Command;

use tests::audit::{Traces, cgroups_under, mounts_under};
use tests::client;
use tests::node::TestNode;
use tests::process::Process;
use tests::{stand_in, wait};

/// A container that lives until it is killed, started without the agent.
fn start_sleeper(node: &TestNode, id: &str) -> Process {
    let archive = node.image_dir().join("busybox.tar");
    node.ctr(&["images", "import", &archive.display().to_string()]).ok();
    let cgroup = format!("{}/pod00000000-0000-0000-0000-000000000000/{id}", node.cgroup_root);
    node.ctr(&["run", "-d", "--cgroup", &cgroup, stand_in::BUSYBOX, id, "sleep", "1000"]).ok();
    node.process_of(id)
}

#[test]
fn containerd_takes_our_archives_under_their_own_names() {
    let node = TestNode::builder().without_agent().start();
    for file in ["busybox.tar", "random-generator.tar", "fluentd-elasticsearch.tar"] {
        node.ctr(&["images", "import", &node.image_dir().join(file).display().to_string()]).ok();
    }
    let names = node.ctr_lines(&["images", "ls", "-q"]);
    for name in [stand_in::BUSYBOX, stand_in::RANDOM_GENERATOR, stand_in::FLUENTD_ELASTICSEARCH] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

#[test]
fn stand_in_java_writes_into_the_file_it_is_given() {
    let node = TestNode::builder().without_agent().start();
    node.ctr(&["images", "import", &node.image_dir().join("random-generator.tar").display().to_string()]).ok();
    let script = "java RandomRunner /tmp/numbers 10 && stat -c %s /tmp/numbers";
    let run =
        node.ctr(&["run", "--rm", stand_in::RANDOM_GENERATOR, &format!("{}-j", node.id()), "sh", "-c", script]).ok();
    assert_eq!(run.out.lines().last(), Some("40"), "{run:?}");
}

#[test]
fn an_audit_sees_a_container_and_not_its_absence() {
    let node = TestNode::builder().without_agent().start();
    assert_eq!(Traces::of(&node).none(), Ok(()));
    let id = format!("{}-c", node.id());
    let process = start_sleeper(&node, &id);
    let traces = Traces::of(&node);
    assert!(traces.containers.contains(&id) && traces.tasks.contains(&id), "{traces}");
    assert!(!traces.cgroups.is_empty() && !traces.shims.is_empty() && !traces.active_snapshots.is_empty(), "{traces}");
    assert!(process.cgroup("memory").unwrap().contains(&node.cgroup_root));
    let seen = node.exec(process, &["cat", "/etc/passwd"]).ok();
    assert!(seen.out.contains("nobody"), "{seen:?}");
}

#[test]
fn nothing_of_a_node_outlives_it() {
    let node = TestNode::builder().without_agent().start();
    let process = start_sleeper(&node, &format!("{}-c", node.id()));
    let (id, dir, cgroup_root, shims) =
        (node.id().to_owned(), node.dir().to_owned(), node.cgroup_root.clone(), node.shims());
    assert_eq!(shims.len(), 1);
    drop(node);
    assert!(!process.alive() && shims.iter().all(|shim| !shim.alive()));
    assert!(!dir.exists() && mounts_under(&dir).is_empty() && cgroups_under(&cgroup_root).is_empty());
    assert!(
        !fs::exists(format!("/run/netns/{id}")).unwrap() && !fs::exists(format!("/run/containerd/runc/{id}")).unwrap()
    );
}

#[test]
fn a_node_that_lost_its_power_starts_again_with_its_disk_only() {
    let mut node = TestNode::builder().without_agent().start();
    let process = start_sleeper(&node, &format!("{}-c", node.id()));
    node.power_cut();
    assert!(!process.alive());
    node.start_containerd();
    assert_eq!(node.ctr_lines(&["containers", "ls", "-q"]).len(), 1);
    assert!(node.ctr_lines(&["tasks", "ls", "-q"]).is_empty());
}

#[test]
fn a_node_has_a_network_of_its_own() {
    let node = TestNode::builder().without_agent().start();
    assert_eq!(node.links().into_iter().collect::<Vec<_>>(), ["eth0", "eth0-far", "lo"]);
    let here = client::run(Command::new("ip").args(["-o", "addr"])).out;
    assert!(!here.contains(tests::node::NODE_ADDRESS));
    let refused = node.connect("127.0.0.1:10348").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
#[should_panic(expected = "last seen: nothing")]
fn a_wait_that_fails_says_what_it_saw_last() {
    wait::wait_within(std::time::Duration::from_millis(30), "something", || Err::<(), _>("nothing".to_owned()));
}
