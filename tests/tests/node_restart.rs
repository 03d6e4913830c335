//! Keeping them running: killed containers come back, a killed agent is not noticed, and what was wanted while it was away happens.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::audit::Traces;
use tests::client::{self, Pod};
use tests::manifest::{daemon_set, pod};
use tests::node::{TestNode, summary};
use tests::process::{Process, with_command};
use tests::wait::{PATIENCE, holds_for, wait_for, wait_within};

#[test]
fn a_killed_container_comes_back_and_is_counted() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let first = node.wait_running("a");
    node.process(&first).kill_9();
    let second = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert_eq!(first.uid(), second.uid());
    assert_ne!(first.container_id(""), second.container_id(""));
    let last = second.container("main").unwrap().pointer("/lastState/terminated/exitCode").cloned();
    assert_eq!(last, Some(serde_json::json!(137)));
}

#[test]
fn a_container_that_fails_at_once_backs_off_and_says_until_when() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").script("echo failing; exit 3").text());
    let waiting =
        node.wait_pod("a", "backs off", |pod| pod.waiting("main") == "CrashLoopBackOff" && pod.restarts() >= 1);
    assert_eq!(waiting.container("main").unwrap()["lastState"]["terminated"]["exitCode"], 3);
    let why = node.cli(&["why", "a"]).out + &node.cli(&["why", &waiting.name()]).out;
    assert!(why.contains("back-off") || why.contains("CrashLoopBackOff"), "{why}");
    // Between two runs both words show the one that has ended, as with a kubelet; it may be running again by now.
    for words in [&["logs", "a-node"][..], &["logs", "--previous", "a-node"]] {
        let mut words = words.to_vec();
        let name = waiting.name();
        *words.last_mut().unwrap() = &name;
        assert_eq!(node.cli(&words).ok().out, "failing\n", "{words:?}");
    }
}

/// One that ignores SIGTERM, and two that put themselves into the background as old daemons do, among the pod's processes and
/// among the node's.
#[test]
fn what_does_not_obey_or_hides_in_the_background_is_ended_all_the_same() {
    const GRACE: Duration = Duration::from_secs(1);
    let node = TestNode::start();
    let deaf = pod("deaf").script("trap '' TERM; echo started; while :; do sleep 1000; done").own_network();
    node.put("deaf.yaml", &deaf.pod_field("terminationGracePeriodSeconds", json!(GRACE.as_secs())).text());
    // The number is the node's, so that no other test's process is taken for one of these.
    let number = 100_000 + std::process::id();
    let background = format!("setsid sleep {number} & exit 0");
    node.put("forks.yaml", &pod("forks").script(&background).text());
    node.put("among.yaml", &pod("among").script(&background).pod_field("hostPID", json!(true)).text());
    for name in ["forks", "among"] {
        // The first restart is at once: two lives are over by now.
        node.wait_pod(name, "backs off", |pod| pod.waiting("main") == "CrashLoopBackOff" && pod.restarts() >= 1);
    }
    wait_for("nothing of them runs", || match with_command(&format!("sleep {number}")).as_slice() {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    });

    let process = node.process(&node.wait_running("deaf"));
    let removed = Instant::now();
    ["deaf.yaml", "forks.yaml", "among.yaml"].iter().for_each(|file| node.remove(file));
    process.wait_gone(PATIENCE);
    assert!(removed.elapsed() >= GRACE, "it was killed before its time");
    node.wait_nothing_left();
}

#[test]
fn a_killed_agent_leaves_every_process_and_adopts_it() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.put("b.yaml", &daemon_set("b").own_network().text());
    let before = [node.wait_running("a"), node.wait_running("b")];
    let processes = before.each_ref().map(|pod| node.process(pod));
    node.process(&before[0]).kill_9();
    let restarted = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    let first = node.process(&restarted);
    for kill in [true, false, true] {
        if kill {
            node.kill_agent()
        } else {
            assert_eq!(node.stop_agent(), 0)
        }
        assert!(first.alive() && processes[1].alive());
        node.start_agent();
        node.wait_agent();
        let (a, b) = (node.wait_running("a"), node.wait_running("b"));
        assert_eq!((a.uid(), a.restarts()), (restarted.uid(), 1));
        assert_eq!((b.uid(), b.ip(), b.restarts()), (before[1].uid(), before[1].ip(), 0));
        assert_eq!((node.process(&a), node.process(&b)), (first, processes[1]));
    }
}

#[test]
fn an_adopting_agent_never_shows_less_than_what_runs() {
    const PODS: usize = 5;
    let mut node = TestNode::start();
    for n in 0..PODS {
        let pod = pod(&format!("p{n}"));
        node.put(&format!("p{n}.yaml"), &if n == 0 { pod.own_network().text() } else { pod.text() });
    }
    for n in 0..PODS {
        node.wait_running(&format!("p{n}"));
    }
    for _ in 0..3 {
        node.kill_agent();
        node.start_agent();
        let seen = |answer: &serde_json::Value| {
            let pods: Vec<Pod> = answer["items"].as_array().unwrap().iter().cloned().map(Pod).collect();
            assert_eq!(pods.len(), PODS, "{}", summary(&pods));
            assert!(pods.iter().all(|pod| pod.ready() && pod.running()), "{}", summary(&pods));
        };
        let socket = node.run_dir().join("daemonlet.sock");
        // As early as it answers, and again and again, through both doors and by a client's word.
        let mut answers = 0;
        wait_for("many answers", || {
            for _ in 0..10 {
                let told = [client::get_unix(&socket, "/v1/pods"), node.get("/pods")];
                for answer in told.into_iter().flatten().filter(|answer| answer.status == 200) {
                    seen(&answer.json());
                    answers += 1;
                }
            }
            if answers >= 100 { Ok(()) } else { Err(answers.to_string()) }
        });
        seen(&node.cli(&["get", "pods", "-o", "json"]).ok().json());
    }
}

#[test]
fn a_manifest_that_vanished_meanwhile_is_ended_with_its_grace() {
    let mut node = TestNode::start();
    let farewell =
        pod("a").script("trap 'echo farewell > /out/farewell; exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    let out = node.dir().join("out");
    node.put("a.yaml", &farewell.host_path(out.to_str().unwrap(), "DirectoryOrCreate", "/out").text());
    node.put("b.yaml", &pod("b").text());
    let process = node.process(&node.wait_running("a"));
    let other = node.process(&node.wait_running("b"));
    node.kill_agent();
    node.remove("a.yaml");
    assert!(process.alive());
    node.start_agent();
    process.wait_gone(PATIENCE);
    node.wait_agent();
    node.wait_no_pod("a");
    assert_eq!(std::fs::read_to_string(out.join("farewell")).unwrap().trim(), "farewell");
    assert!(other.alive());
}

#[test]
fn a_container_that_died_while_the_agent_was_away_is_started_again() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    node.kill_agent();
    process.kill_9();
    node.start_agent();
    node.wait_agent();
    node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
}

#[test]
fn a_killed_containerd_stops_no_container_and_is_used_again() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    node.kill_containerd();
    holds_for(Duration::from_secs(1), "the agent and the container live on", || {
        if process.alive() && node.agent_process().alive() { Ok(()) } else { Err("one of them ended".into()) }
    });
    node.start_containerd();
    node.put("b.yaml", &pod("b").text());
    node.wait_running("b");
    assert_eq!(node.process(&node.wait_running("a")), process);
}

#[test]
fn a_killed_shim_counts_as_a_failed_container() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    for shim in node.shims() {
        shim.kill_9();
    }
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert_ne!(node.process(&again), process);
    process.wait_gone(PATIENCE);
}

#[test]
fn after_a_power_cut_daemons_run_again_from_the_disk_alone() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.put("b.yaml", &daemon_set("b").own_network().text());
    let before = [node.wait_running("a"), node.wait_running("b")];
    node.power_cut();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    let after = [node.wait_running("a"), node.wait_running("b")];
    assert_eq!(before.each_ref().map(|pod| pod.uid()), after.each_ref().map(|pod| pod.uid()));
    // The address of the dead namespace was given back: one pod, one address.
    assert_eq!(Traces::of(&node).addresses.len(), 1);
}

#[test]
fn a_stopped_shim_is_told_and_ended_after_its_patience_once_its_pod_is_to_go() {
    let node = TestNode::start();
    let brief = |name: &str| pod(name).pod_field("terminationGracePeriodSeconds", json!(1)).text();
    node.put("a.yaml", &brief("a"));
    node.put("b.yaml", &brief("b"));
    let (a, b) = (node.wait_running("a"), node.wait_running("b"));
    let (process, other) = (node.process(&a), node.process(&b));
    let parent = process.status("PPid").and_then(|pid| pid.trim().parse().ok()).and_then(Process::find);
    let shim = parent.expect("a container's process is its shim's child");
    assert!(shim.command_line().contains("containerd-shim"), "{}", shim.command_line());
    shim.stop();
    let began = Instant::now();
    node.remove("a.yaml");
    let told = node.wait_pod("a", "tells of its shim", |pod| pod.condition("ShimNotAnswering").is_some());
    assert_eq!(told.condition("ShimNotAnswering").unwrap()["status"], "True");
    assert!(node.cli(&["why"]).out.contains("ShimNotAnswering"));
    assert!(process.alive() && shim.alive(), "it was ended before its patience was over");
    // A new pod beside it is not kept waiting.
    node.put("c.yaml", &brief("c"));
    node.wait_running("c");
    wait_within(Duration::from_secs(110), "the pod goes with its shim", || match node.pods_of("a").is_empty() {
        true => Ok(()),
        false => Err(summary(&node.pods())),
    });
    assert!(began.elapsed() >= Duration::from_secs(60), "the shim was ended after {:?}", began.elapsed());
    assert!(!process.alive() && !shim.alive());
    assert!(node.cli(&["get", "events"]).ok().out.contains("ShimKilled"));
    assert!(other.alive() && node.wait_running("b").uid() == b.uid());
}

#[test]
fn what_is_foreign_in_containerd_is_not_touched() {
    let node = TestNode::builder().without_agent().start();
    let archive = node.image_dir().join("busybox.tar").display().to_string();
    let foreign = format!("{}-foreign", node.id());
    let mut node = node;
    // In our own containerd namespace, without our labels, and in another namespace.
    node.ctr(&["images", "import", &archive]).ok();
    node.ctr(&["run", "-d", tests::stand_in::BUSYBOX, &foreign, "sleep", "1000"]).ok();
    let process = node.process_of(&foreign);
    node.put("a.yaml", &pod("a").text());
    node.start_agent();
    node.wait_agent();
    node.wait_running("a");
    node.remove("a.yaml");
    node.wait_no_pod("a");
    assert!(process.alive());
    assert!(node.ctr_lines(&["containers", "ls", "-q"]).contains(&foreign));
    // Its network namespace and cgroup are its own, so the node's end would not end it.
    node.ctr(&["tasks", "rm", "-f", &foreign]).ok();
    process.wait_gone(PATIENCE);
}

#[test]
fn a_standing_successor_waits_created_and_takes_over() {
    let node = TestNode::start();
    node.put(
        "a.yaml",
        &pod("a").set("/metadata/annotations", serde_json::json!({"daemonlet.dev/standby": "true"})).text(),
    );
    let first = node.wait_running("a");
    let standing = wait_for("a successor stands by", || {
        let tasks = node.ctr_lines(&["task", "ls"]);
        let created =
            tasks.iter().find(|line| line.contains("CREATED")).and_then(|line| line.split_whitespace().next());
        created.map(str::to_owned).ok_or(format!("{tasks:?}"))
    });
    node.process(&first).kill_9();
    let second = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert!(second.container_id("main").ends_with(&standing), "the one that stood by was not the one that was started");
    node.remove("a.yaml");
    node.wait_nothing_left();
}
