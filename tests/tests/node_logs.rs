//! Logs: the CRI format under Kubernetes' names, written by a keeper that needs no agent, rotated, and never lost in between.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::json;
use tests::client::Pod;
use tests::manifest::pod;
use tests::node::{TestNode, program};
use tests::wait::{PATIENCE, wait_for, wait_within};

/// Prints numbers for ever, about a thousand a second.
const COUNTER: &str = "i=0; while :; do echo n$i; i=$((i+1)); [ $((i % 50)) != 0 ] || usleep 50000; done";

fn counter(name: &str) -> tests::manifest::Document {
    pod(name).script(COUNTER).pod_field("terminationGracePeriodSeconds", json!(1))
}

/// All lines of all files of attempt 0, oldest file first, without the CRI prefix.
fn numbers(node: &TestNode, pod: &Pod) -> Vec<String> {
    let file = node.log_file(pod, "main", 0);
    let mut files: Vec<_> = fs::read_dir(file.parent().expect("a file lies in a directory"))
        .expect("the log directory is there")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0.log")))
        .collect();
    // Rotated files carry their time in the name, the active one none.
    files.sort_by_key(|path| (path == &file, path.clone()));
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

/// Every number from the first to the last exactly once, in order.
#[track_caller]
fn assert_unbroken(lines: &[String]) {
    for (at, pair) in lines.windows(2).enumerate() {
        let number = |line: &str| line.strip_prefix('n').and_then(|text| text.parse::<u64>().ok());
        let (Some(one), Some(two)) = (number(&pair[0]), number(&pair[1])) else {
            panic!("torn line near {at}: {pair:?}")
        };
        assert_eq!(two, one + 1, "lost or doubled near line {at}: {pair:?}");
    }
}

#[track_caller]
fn wait_beyond(node: &TestNode, pod: &Pod, count: usize) -> usize {
    wait_within(PATIENCE, &format!("{count} lines"), || match numbers(node, pod).len() {
        n if n > count => Ok(n),
        n => Err(format!("{n} lines")),
    })
}

#[test]
fn lines_are_in_the_cri_format_under_kubernetes_names() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").says("echo to-out; echo to-err >&2; printf '%20000s\\n' long").text());
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "started");
    let lines = node.log_lines(&pod, "main", 0);
    let find =
        |text: &str| lines.iter().find(|line| line.ends_with(text)).unwrap_or_else(|| panic!("no {text} in {lines:?}"));
    for (text, stream) in [("to-out", "stdout"), ("to-err", "stderr")] {
        let fields: Vec<&str> = find(text).splitn(4, ' ').collect();
        assert_eq!(fields[1..], [stream, "F", text]);
        assert!(fields[0].len() >= 30 && fields[0].contains('T') && fields[0].contains('.'), "{}", fields[0]);
    }
    // A line longer than 16 KiB comes in pieces, all but the last marked P.
    assert!(lines.iter().any(|line| line.contains(" stdout P ")) && find("long").contains(" stdout F "));
    let link = format!("{}_{}_main-{}.log", pod.name(), pod.namespace(), pod.container_id("main"));
    let target = fs::canonicalize(node.log_dir().join("containers").join(link)).unwrap();
    assert_eq!(target, node.log_file(&pod, "main", 0));
}

/// `logs -f` of this pod, and the file that gets what it prints.
fn follow(node: &TestNode, name: &str) -> (Child, PathBuf) {
    let output = node.dir().join("followed");
    let file = fs::File::create(&output).expect("made");
    let mut command = node.command(program("daemonlet"));
    command.arg("--run-dir").arg(node.run_dir()).args(["logs", "-f", name]);
    (command.stdout(file).stderr(Stdio::null()).spawn().expect("started"), output)
}

#[test]
fn a_restarted_container_writes_its_own_file_and_is_followed_over_it_and_over_the_agents() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").says("echo attempt").text());
    let first = node.wait_running("a");
    node.wait_log(&first, "main", "started");
    let (mut following, output) = follow(&node, &first.name());
    let followed = |wanted: &str| {
        wait_for("the follower has all", || match fs::read_to_string(&output).unwrap_or_default() {
            text if text == wanted => Ok(()),
            text => Err(text),
        });
    };
    followed("attempt\nstarted\n");
    node.kill_agent();
    node.start_agent();
    node.wait_agent();
    node.process(&first).kill_9();
    let second = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    node.wait_log(&second, "main", "started");
    for attempt in [0, 1] {
        assert_eq!(node.log_lines(&second, "main", attempt).iter().filter(|line| line.ends_with("attempt")).count(), 1);
    }
    let previous = node.cli(&["logs", &second.name(), "--previous"]).ok().out;
    assert!(previous.contains("attempt"), "{previous}");
    followed("attempt\nstarted\nattempt\nstarted\n");
    node.remove("a.yaml");
    let end = wait_for("the follower ends with the pod", || following.try_wait().unwrap().ok_or("it runs".to_owned()));
    assert!(end.success(), "{end:?}");
}

#[test]
fn the_command_line_shows_and_follows() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").says("echo one; echo two").text());
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "started");
    assert_eq!(node.cli(&["logs", &pod.name()]).ok().out, "one\ntwo\nstarted\n");
    assert_eq!(node.cli(&["logs", &pod.name(), "-c", "main", "--tail", "1"]).ok().out, "started\n");
    node.cli(&["logs", "nobody"]).exits(4);
}

#[test]
fn without_an_agent_logs_are_shown_and_followed_across_rotations() {
    let mut node = TestNode::builder().flag("--log-max-size", "64Ki").flag("--log-max-files", "100").start();
    node.put("a.yaml", &counter("a").text());
    let pod = node.wait_running("a");
    wait_beyond(&node, &pod, 100);
    assert_eq!(node.stop_agent(), 0);
    let shown = node.cli(&["logs", &pod.name()]).ok();
    assert!(shown.out.starts_with("n0\nn1\n"), "{}", &shown.out[..40]);
    assert!(shown.err.contains("the agent is not running"), "{}", shown.err);
    node.cli(&["logs", "nobody"]).exits(4);

    let (mut following, output) = follow(&node, &pod.name());
    let dir = node.log_file(&pod, "main", 0).parent().expect("a file lies in a directory").to_owned();
    let files = || fs::read_dir(&dir).map_or(0, |entries| entries.count());
    let before = files();
    wait_for("two rotations", || if files() > before + 1 { Ok(()) } else { Err(format!("{} files", files())) });
    let written = numbers(&node, &pod).len();
    let followed = || fs::read_to_string(&output).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let caught_up = wait_within(PATIENCE, "the follower has what was written", || match followed() {
        lines if lines.len() > written => Ok(lines),
        lines => Err(format!("{} of {written} lines", lines.len())),
    });
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(caught_up[0], "n0");
    assert_unbroken(&caught_up[..written]);
}

#[test]
fn no_line_is_lost_while_the_agent_is_dead() {
    let mut node = TestNode::start();
    node.put("a.yaml", &counter("a").text());
    let pod = node.wait_running("a");
    let seen = wait_beyond(&node, &pod, 100);
    node.kill_agent();
    let seen = wait_beyond(&node, &pod, seen + 500);
    node.start_agent();
    node.wait_agent();
    wait_beyond(&node, &pod, seen + 500);
    assert_unbroken(&numbers(&node, &pod));
}

#[test]
fn no_line_is_lost_while_containerd_is_dead() {
    let mut node = TestNode::start();
    node.put("a.yaml", &counter("a").text());
    let pod = node.wait_running("a");
    let seen = wait_beyond(&node, &pod, 100);
    node.kill_containerd();
    let seen = wait_beyond(&node, &pod, seen + 300);
    node.start_containerd();
    wait_beyond(&node, &pod, seen + 300);
    assert_unbroken(&numbers(&node, &pod));
}

#[test]
fn a_killed_keeper_comes_back_and_the_daemon_goes_on() {
    let node = TestNode::start();
    node.put("a.yaml", &counter("a").text());
    let pod = node.wait_running("a");
    let process = node.process(&pod);
    let seen = wait_beyond(&node, &pod, 100);
    let keeper = node.keeper().expect("a keeper runs");
    keeper.kill_9();
    wait_for("another keeper", || node.keeper().ok_or_else(|| "none".to_owned()));
    wait_beyond(&node, &pod, seen + 500);
    assert!(process.alive());
    let lines = numbers(&node, &pod);
    let values: Vec<u64> = lines.iter().filter_map(|line| line.strip_prefix('n')?.parse().ok()).collect();
    assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "a line was doubled or out of order");
    // A gap is allowed when a marker says so; a marker is a line that is no number.
    let gaps = values.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(gaps <= lines.len() - values.len(), "{gaps} gaps, but only {} markers", lines.len() - values.len());
}

#[test]
fn a_file_is_rotated_by_rename_and_nothing_is_lost_between() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let say = |text: &str| fs::write(config.path(), text).unwrap();
    say("log-max-size: 64Ki\nlog-max-files: 4\n");
    let node = TestNode::builder().flag("--config", config.path().to_str().unwrap()).start();
    node.put("a.yaml", &counter("a").text());
    let pod = node.wait_running("a");
    let dir = node.log_file(&pod, "main", 0).parent().expect("a file lies in a directory").to_owned();
    wait_for("three files", || match fs::read_dir(&dir).map(|entries| entries.count()) {
        Ok(3..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_unbroken(&numbers(&node, &pod));

    // Other limits are taken while the agent and the keeper run.
    let agent = node.agent_process();
    say("log-max-size: 64Ki\nlog-max-files: 2\n");
    wait_for("two files are left", || match fs::read_dir(&dir).map(|entries| entries.count()) {
        Ok(..=2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(node.agent_process(), agent);
}

#[test]
fn a_planted_link_does_not_lead_the_reader_astray() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "started");
    let file = node.log_file(&pod, "main", 0);
    let secret = node.dir().join("secret");
    fs::write(&secret, "secret content\n").unwrap();
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&secret, &file).unwrap();
    let shown = node.cli(&["logs", &pod.name()]);
    assert!(!shown.out.contains("secret content"), "{shown:?}");
    node.process(&pod).kill_9();
    node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret content\n");
}

#[test]
fn logs_of_a_pod_go_with_it_and_are_kept_aside_for_their_time() {
    let node = TestNode::builder().flag("--log-retention", "1h").start();
    node.put("a.yaml", &pod("a").text());
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "started");
    node.remove("a.yaml");
    node.wait_no_pod("a");
    let left = |dir: &str| fs::read_dir(node.log_dir().join(dir)).map_or(0, |entries| entries.count());
    wait_for("only what is aside is left", || match (left("containers"), left("pods")) {
        (0, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let kept = node.cli(&["logs", &pod.name()]).ok();
    assert_eq!(kept.out, "started\n");
    assert!(kept.err.contains("was deleted"), "{}", kept.err);
}
