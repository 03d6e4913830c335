//! containerd is replaced by another version under running pods: on one node, with the same root and state directories, as an upgrade
//! of its package does. What runs is not touched, what dies comes back, what is no longer wanted goes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tests::audit::Traces;
use tests::client::Pod;
use tests::manifest::{Document, daemon_set, pod};
use tests::node::TestNode;
use tests::process::Process;
use tests::skip::skipped;
use tests::wait::{PATIENCE, wait_for};

/// Counts for ever, a line a number, and ends at once when told to.
const COUNTING: &str = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo \"line $i\"; sleep 0.05 & wait $!; done";

/// Where other versions of containerd lie, oldest first: directories of programs joined by colons.
const OTHERS: &str = "DAEMONLET_TEST_CONTAINERDS";

/// The machine's own containerd, and the others that there are. One alone means that there is nothing to upgrade to.
fn versions() -> Vec<Option<PathBuf>> {
    let others = std::env::var(OTHERS).unwrap_or_default();
    let others = others.split(':').filter(|bin| !bin.is_empty()).map(|bin| Some(PathBuf::from(bin)));
    std::iter::once(None).chain(others).collect()
}

/// A pod whose container `still` runs from the beginning to the end, and whose `main` is killed at every step.
fn pair(name: &str) -> Document {
    let still = json!({"name": "still", "image": tests::stand_in::BUSYBOX, "command": ["sh", "-c", COUNTING]});
    let main = json!({"name": "main", "image": tests::stand_in::BUSYBOX, "command": ["sh", "-c", COUNTING]});
    daemon_set(name).own_network().pod_field("containers", json!([still, main]))
}

/// What runs, by pod and container.
fn processes(node: &TestNode, pods: &[Pod]) -> BTreeMap<(String, String), Process> {
    let mut all = BTreeMap::new();
    for pod in pods {
        for status in pod.0["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let name = status["name"].as_str().unwrap_or_default().to_owned();
            all.insert((pod.name(), name.clone()), node.process_of(&pod.container_id(&name)));
        }
    }
    all
}

/// The numbers of a log, without a gap, a double or a torn line; how many.
#[track_caller]
fn counted(node: &TestNode, pod: &Pod, container: &str, attempt: u64) -> usize {
    let lines = node.log_lines(pod, container, attempt);
    for (n, line) in lines.iter().enumerate() {
        assert!(line.ends_with(&format!(" F line {}", n + 1)), "line {} of {container} is {line:?}", n + 1);
    }
    lines.len()
}

/// Goes through the versions in this order and proves the same after each.
#[track_caller]
fn travel(route: &[Option<PathBuf>]) {
    let mut node = TestNode::builder().without_agent().start();
    node.stop_containerd();
    node.use_containerd(route[0].as_deref());
    node.start_containerd();
    let mut version = node.containerd_version();
    println!("upgrade: begins on {version}");
    node.start_agent();
    node.wait_agent();
    node.put("untouched.yaml", &pod("untouched").script(COUNTING).text());
    node.put("single.yaml", &pod("single").script(COUNTING).text());
    node.put("pair.yaml", &pair("pair").text());
    // Shims that containerd itself forgets and leaves idle.
    let mut left_by_containerd = Vec::new();
    for (step, bin) in route.iter().enumerate().skip(1) {
        let leaving = format!("leaving{step}");
        node.put("leaving.yaml", &daemon_set(&leaving).own_network().text());
        let before: Vec<Pod> =
            ["untouched", "single", "pair", leaving.as_str()].map(|name| node.wait_running(name)).into();
        let running = processes(&node, &before);
        let [untouched, single, pair, _] = before.as_slice() else { unreachable!("four pods were waited for") };

        node.stop_containerd();
        node.use_containerd(bin.as_deref());
        node.start_containerd();
        let now_on = node.containerd_version();
        println!("upgrade: now on {now_on}");
        if !keeps_what_runs(&version, &now_on) {
            left_by_containerd = node.shims();
            fall(&node, &before, &running);
            break;
        }
        version = now_on;

        // Only what the agent says after it has reached the new containerd counts: it starts a pod of its own there.
        let fresh = format!("fresh{step}");
        node.put("fresh.yaml", &pod(&fresh).text());
        node.wait_running(&fresh);
        for pod in &before {
            let now = node.wait_running(&pod.name());
            assert_eq!((now.uid(), now.ip(), now.restarts()), (pod.uid(), pod.ip(), pod.restarts()));
        }
        assert_eq!(processes(&node, &before), running, "a process was replaced by the upgrade");

        // A container of each pod dies and comes back, alone; the other one of its pod does not notice.
        for pod in [single, pair] {
            running[&(pod.name(), "main".to_owned())].kill_9();
            let restarts = pod.restarts() + 1;
            let again = node.wait_pod(&pod.name(), "runs again", |now| now.running() && now.restarts() == restarts);
            assert_eq!((again.uid(), again.ip()), (pod.uid(), pod.ip()));
            wait_for("the successor counts", || match counted(&node, &again, "main", step as u64) {
                0 => Err("nothing yet".to_owned()),
                _ => Ok(()),
            });
            assert!(counted(&node, pod, "main", step as u64 - 1) > 0);
        }
        assert!(running[&(pair.name(), "still".to_owned())].alive(), "the death of one container took the other");
        assert!(running[&(untouched.name(), "main".to_owned())].alive());

        // What was begun before can be ended after, and a successor of the whole pod takes its place.
        node.remove("leaving.yaml");
        running[&(before[3].name(), "main".to_owned())].wait_gone(PATIENCE);
        node.wait_no_pod(&leaving);
        for (pod, container) in [(untouched, "main"), (pair, "still")] {
            let so_far = counted(&node, pod, container, 0);
            wait_for("the log goes on", || match counted(&node, pod, container, 0) {
                now if now > so_far => Ok(()),
                now => Err(format!("{now} lines")),
            });
        }
    }
    for manifest in fs::read_dir(node.manifest_dir()).expect("the directory is the test's own").flatten() {
        fs::remove_file(manifest.path()).expect("the file is the test's own");
    }
    let idle = left_by_containerd.iter().map(Process::command_line).collect();
    wait_for("nothing of a pod is left", || {
        let traces = Traces::of(&node);
        Traces { shims: traces.shims.difference(&idle).cloned().collect(), ..traces }.none()
    });
}

/// Whether containerd can go from one to the other and keep what runs: a shim that 2.x began speaks no language of 1.x, which therefore
/// takes its containers for dead and ends them.
fn keeps_what_runs(from: &str, to: &str) -> bool {
    let major = |version: &str| version.trim_start_matches('v').split('.').next().map(str::to_owned);
    major(from) <= major(to)
}

/// After a downgrade that containerd does not survive with its containers: each ends, once, and runs again.
fn fall(node: &TestNode, before: &[Pod], running: &BTreeMap<(String, String), Process>) {
    for process in running.values() {
        process.wait_gone(PATIENCE);
    }
    for pod in before {
        let again = node.wait_pod(&pod.name(), "runs again", |now| {
            let all = now.0["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            now.running() && now.ready() && all.iter().all(|status| status["restartCount"] == 1)
        });
        assert_eq!((again.uid(), again.ip()), (pod.uid(), pod.ip()));
    }
}

#[test]
fn an_upgrade_through_every_version_touches_no_process_and_loses_no_line() {
    let route = versions();
    if route.len() < 2 {
        skipped(&format!("{OTHERS} names no other containerd; scripts/containerds.sh fetches some"));
        return;
    }
    travel(&route);
}

/// As when an upgrade is taken back, a version at a time.
#[test]
fn a_downgrade_by_one_version_touches_no_process_where_containerd_can_keep_it() {
    let versions = versions();
    if versions.len() < 2 {
        skipped(&format!("{OTHERS} names no other containerd; scripts/containerds.sh fetches some"));
        return;
    }
    for pair in versions.windows(2) {
        travel(&[pair[1].clone(), pair[0].clone()]);
    }
}
