//! The manifest directory: what counts, what is reported, and that nothing in it can stop what runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use tests::image::{Image, Tarball};
use tests::manifest::{daemon_set, pod};
use tests::node::TestNode;
use tests::wait::{holds_for, wait_for};

/// Waits until `get files` says this of a file.
#[track_caller]
fn wait_file(node: &TestNode, file: &str, says: &str) {
    wait_for(&format!("get files says {says:?} of {file}"), || {
        let files = node.cli(&["get", "files", "-o", "wide"]).out + &node.cli(&["why"]).out;
        let told = files.lines().any(|line| line.contains(file) && line.to_lowercase().contains(&says.to_lowercase()));
        if told { Ok(()) } else { Err(files) }
    });
}

/// As at a boot where the directory's file system comes late, by a unit that the agent knows nothing of.
#[test]
fn a_directory_whose_file_system_is_not_mounted_yet_at_the_start_is_not_heard_from() {
    let mut node = TestNode::builder().without_agent().start();
    let (dir, nothing) = (node.manifest_dir(), None::<&str>);
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), nothing).expect("root may mount");
    node.start_agent();
    node.wait_agent();
    node.put("a.yaml", &pod("a").text());
    let before = node.process(&node.wait_running("a"));
    node.stop_agent();
    umount2(&dir, MntFlags::MNT_DETACH).expect("it is mounted");
    node.start_agent();
    node.wait_agent();
    wait_for("readyz says what is not mounted", || {
        let said = node.get("/readyz?verbose").map_err(|error| error.to_string())?.body;
        if said.contains("is not mounted, which was when manifests were last found") { Ok(()) } else { Err(said) }
    });
    assert_eq!(node.process(&node.wait_running("a")).pid, before.pid);
    // It comes, and what was there is taken as it is: here, nothing.
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), nothing).expect("root may mount");
    node.wait_no_pod("a");
    node.stop_agent();
    umount2(&dir, MntFlags::MNT_DETACH).expect("it is mounted");
}

#[test]
fn a_file_dropped_into_the_directory_runs_and_its_removal_ends_it() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let running = node.wait_running("a");
    assert_eq!(running.name(), "a-node-a");
    node.remove("a.yaml");
    node.wait_no_pod("a");
    node.wait_nothing_left();
}

#[test]
fn an_image_that_the_first_reading_brings_is_waited_for_without_a_warning() {
    // The oldest archive is read first, and takes its time.
    let slow = Tarball::new().file("large", 0o644, &vec![b'x'; 8 << 20]).bytes();
    let node = TestNode::empty_builder()
        .image("a-slow.tar", &Image::empty("docker.io/library/slow:1").layer(slow))
        .image("busybox.tar", &tests::stand_in::busybox().expect("busybox-static is installed"))
        .manifest("a.yaml", &pod("a").text())
        .manifest("never.yaml", &pod("never").field("image", json!("docker.io/library/nowhere:1")).text())
        .start();
    node.wait_running("a");
    // After the first reading what is missing is missing.
    node.wait_pod("never", "has no image", |pod| pod.waiting("main").contains("Image"));
    let events = node.cli(&["get", "events", "-o", "json"]).ok().json();
    let warned = |pod: &str| {
        let items = events["items"].as_array().expect("a list");
        items.iter().any(|event| event["type"] == "Warning" && event.to_string().contains(pod))
    };
    assert!(!warned("a-node-a") && warned("never-node-a"), "{events:#}");
}

#[test]
fn several_documents_and_a_list_in_one_file_all_run() {
    let node = TestNode::start();
    let list = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}, {}]}}",
        pod("c").text(),
        daemon_set("d").text()
    );
    node.put("many.yaml", &format!("---\n{}\n---\n{}\n---\n{list}\n", pod("a").text(), pod("b").text()));
    for name in ["a", "b", "c", "d"] {
        node.wait_running(name);
    }
}

#[test]
fn one_refused_document_does_not_keep_its_neighbours_from_running() {
    let node = TestNode::start();
    let bad = pod("bad").pod_field("noSuchField", json!(1));
    // CVE-2024-10220: git would run as root on the node.
    let git = json!([{"name": "git", "gitRepo": {"repository": "https://198.19.0.1/hooks.git"}}]);
    let git = pod("git").pod_field("volumes", git);
    let sysctls =
        json!({"sysctls": [{"name": "kernel.core_pattern", "value": "|/bin/sh"}, {"name": "a+b", "value": "1"}]});
    let unsafe_values = pod("unsafe").own_network().pod_field("securityContext", sysctls);
    let texts = [bad, git, unsafe_values, pod("good")].map(|document| document.text());
    node.put("some.yaml", &format!("---\n{}\n", texts.join("\n---\n")));
    node.wait_running("good");
    for reason in ["noSuchField", "CVE-2024-10220", "kernel.core_pattern", "a+b"] {
        wait_file(&node, "some.yaml", reason);
    }
    let [good] = &node.pods()[..] else { panic!("{}", tests::node::summary(&node.pods())) };
    assert_eq!(node.ctr_lines(&["containers", "list", "-q"]), [good.container_id("")].into());
}

#[test]
fn what_cannot_be_read_is_reported_by_name_and_stops_nothing() {
    let node = TestNode::start();
    node.put("good.yaml", &pod("good").text());
    let before = node.process(&node.wait_running("good"));
    let dir = node.manifest_dir();
    let half = pod("half").text();
    fs::write(dir.join("half.json"), &half[..half.len() / 2]).unwrap();
    fs::write(dir.join("malformed.yaml"), "a: [1, 2\nb: }").unwrap();
    fs::write(dir.join("binary.yaml"), [0u8, 159, 146, 150, 255, 0]).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    fs::create_dir(dir.join("directory.yaml")).unwrap();
    symlink("loop-b.yaml", dir.join("loop-a.yaml")).unwrap();
    symlink("loop-a.yaml", dir.join("loop-b.yaml")).unwrap();
    fs::write(dir.join("huge.yaml"), vec![b'#'; 64 << 20]).unwrap();
    for file in
        ["half.json", "malformed.yaml", "binary.yaml", "fifo.yaml", "directory.yaml", "loop-a.yaml", "huge.yaml"]
    {
        wait_file(&node, file, "");
    }
    // The directory is still read.
    node.put("late.yaml", &pod("late").text());
    node.wait_running("late");
    assert!(before.alive());
}

#[test]
fn hidden_files_and_leftovers_of_editors_do_not_count() {
    let node = TestNode::start();
    let dir = node.manifest_dir();
    for file in [".hidden.yaml", "a.yaml~", "a.yaml.swp", "#a.yaml#", "a.yaml.bak", "4913", "a.txt"] {
        fs::write(dir.join(file), pod("no").text()).unwrap();
    }
    node.put("yes.yml", &pod("yes").text());
    node.wait_running("yes");
    assert!(node.pods_of("no").is_empty());
    let files = node.cli(&["get", "files"]).ok().out;
    assert!(files.contains("yes.yml") && !files.contains(".hidden") && !files.contains(".bak"), "{files}");
}

#[test]
fn a_bad_edit_keeps_the_last_good_pod_also_across_an_agent_restart() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let good = node.wait_running("a");
    let process = node.process(&good);
    node.put("a.yaml", &pod("a").pod_field("noSuchField", json!(true)).text());
    wait_file(&node, "a.yaml", "noSuchField");
    assert!(process.alive());
    node.restart_agent();
    wait_file(&node, "a.yaml", "noSuchField");
    assert_eq!(node.wait_running("a").uid(), good.uid());
    assert!(process.alive());
}

#[test]
fn a_refused_edit_is_an_event_on_what_it_keeps_and_its_repair_is_another() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let good = node.wait_running("a");
    let events = |reason: &str| {
        let list = node.cli(&["get", "events", "-o", "json"]).ok().json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let ours = |event: &serde_json::Value| {
            event["reason"] == reason && event["involvedObject"]["uid"].as_str() == Some(&good.uid())
        };
        items.into_iter().filter(ours).collect::<Vec<_>>()
    };
    let wait_event = |reason: &str, count: u64| {
        wait_for(&format!("{count} times {reason}"), || match events(reason).as_slice() {
            [event] if event["count"] == count => Ok(event.clone()),
            other => Err(format!("{other:?}")),
        })
    };
    let bad = pod("a").pod_field("noSuchField", json!(true)).text();
    for edit in 1..=2 {
        node.put("a.yaml", &bad);
        let refused = wait_event("FailedValidation", edit);
        assert!(refused["type"] == "Warning" && refused.to_string().contains("noSuchField"), "{refused}");
        // Another file's change is no reason to say it again.
        node.put("other.yaml", &pod(&format!("other{edit}")).text());
        node.wait_running(&format!("other{edit}"));
        wait_event("FailedValidation", edit);
        node.put("a.yaml", &pod("a").text());
        wait_event("ManifestAccepted", edit);
    }
    assert!(node.cli(&["describe", "pod", &good.name()]).ok().out.contains("FailedValidation"));
    assert_eq!(node.wait_running("a").uid(), good.uid());
}

#[test]
fn why_tells_a_refused_edit_once() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.wait_running("a");
    node.put(
        "a.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: main, imagee: x}\n",
    );
    // What the start still waits for has a line of its own until it is done.
    wait_for("why tells it in two lines and the fault once", || {
        let why = node.cli(&["why", "a"]).ok().out;
        // What this machine cannot give is said of every container.
        let lines = why.lines().filter(|line| !line.contains(": Adapted: ")).count();
        if (lines, why.matches("did you mean `image`?").count()) == (2, 1) { Ok(()) } else { Err(why) }
    });
}

#[test]
fn an_emptied_file_that_had_a_pod_is_a_bad_edit() {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    fs::write(node.manifest_dir().join("a.yaml"), "").unwrap();
    wait_file(&node, "a.yaml", "");
    holds_for(
        Duration::from_secs(2),
        "the pod runs on",
        || if process.alive() { Ok(()) } else { Err("it ended".into()) },
    );
}

#[test]
fn of_two_claims_to_one_pod_the_one_that_runs_stays() {
    let node = TestNode::start();
    node.put("b.yaml", &pod("a").env("FILE", "b").text());
    let process = node.process(&node.wait_running("a"));
    node.put("a.yaml", &pod("a").env("FILE", "a").text());
    wait_file(&node, "a.yaml", "b.yaml");
    assert_eq!(node.pods_of("a").len(), 1);
    assert!(process.alive());
    // When the first claim goes, the second gets its turn.
    node.remove("b.yaml");
    process.wait_gone(tests::wait::PATIENCE);
    node.wait_running("a");
}

#[test]
fn a_directory_that_is_swapped_by_a_symlink_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, link) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("current"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    fs::write(one.join("a.yaml"), pod("a").text()).unwrap();
    fs::write(two.join("b.yaml"), pod("b").text()).unwrap();
    symlink(&one, &link).unwrap();
    let node = TestNode::builder().flag("--manifest-dir", link.to_str().unwrap()).start();
    node.wait_running("a");
    symlink(&two, dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &link).unwrap();
    node.wait_running("b");
    node.wait_no_pod("a");
}

#[test]
fn a_directory_that_disappears_is_not_an_empty_one() {
    let mut node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    let process = node.process(&node.wait_running("a"));
    let aside = node.dir().join("aside");
    fs::rename(node.manifest_dir(), &aside).unwrap();
    wait_for("readyz says so", || match node.get("/readyz?verbose") {
        Ok(answer) if answer.status == 500 && answer.body.contains("[-]source-static") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    node.restart_agent();
    assert!(process.alive());
    fs::rename(&aside, node.manifest_dir()).unwrap();
    wait_for("readyz recovers", || match node.get("/readyz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(process.alive());
}

#[test]
fn labels_and_taints_decide_where_a_daemon_belongs() {
    let node = TestNode::builder().flag("--node-label", "disk=ssd").start();
    node.put("ssd.yaml", &daemon_set("ssd").pod_field("nodeSelector", json!({"disk": "ssd"})).text());
    node.put("hdd.yaml", &daemon_set("hdd").pod_field("nodeSelector", json!({"disk": "hdd"})).text());
    node.put("linux.yaml", &daemon_set("linux").pod_field("nodeSelector", json!({"kubernetes.io/os": "linux"})).text());
    node.wait_running("ssd");
    node.wait_running("linux");
    wait_for("why names the label", || {
        let why = node.cli(&["why"]).out;
        if why.contains("disk") { Ok(()) } else { Err(why) }
    });
    assert!(node.pods_of("hdd").is_empty());
}

#[test]
fn changed_labels_and_taints_are_followed_while_the_agent_runs() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let say = |text: &str| std::fs::write(config.path(), text).unwrap();
    say("node-label: {disk: ssd}\n");
    let node = TestNode::builder().flag("--config", config.path().to_str().unwrap()).start();
    node.put("hdd.yaml", &daemon_set("hdd").pod_field("nodeSelector", json!({"disk": "hdd"})).text());
    node.put("any.yaml", &daemon_set("any").text());
    let any = node.wait_running("any");
    assert!(node.pods_of("hdd").is_empty());

    say("node-label: {disk: hdd}\n");
    node.wait_running("hdd");
    say("node-label: {disk: ssd}\nnode-taint: [busy=yes:NoExecute]\n");
    node.wait_no_pod("hdd");
    node.wait_no_pod("any");
    say("node-label: {disk: ssd}\nnode-taint: [busy=yes:NoSchedule]\nmax-pods: 7\n");
    wait_for("a key that needs a restart is named", || {
        let shown = node.cli(&["get", "node", "-o", "json"]).out;
        if shown.contains("max-pods") { Ok(()) } else { Err(shown) }
    });
    say("node-label: {disk: ssd}\n");
    assert_ne!(node.wait_running("any").uid(), any.uid());
}

#[test]
fn what_the_node_does_not_allow_is_refused_by_its_rule_and_ends_nothing_that_runs() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let say = |text: &str| std::fs::write(config.path(), text).unwrap();
    say("");
    let node = TestNode::builder().flag("--config", config.path().to_str().unwrap()).start();
    let (shown, hidden) = (node.dir().join("shown"), node.dir().join("hidden"));
    for directory in [&shown, &hidden] {
        std::fs::create_dir(directory).unwrap();
    }
    let at = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let privileged = daemon_set("priv").field("securityContext/privileged", json!(true));
    node.put("priv.yaml", &privileged.text());
    node.put("path.yaml", &daemon_set("path").host_path(&at(&shown), "Directory", "/data").text());
    let (admitted, first) = (node.wait_running("priv"), node.wait_running("path"));

    say(&format!("allow-host-path: {}\nallow-privileged: false\nallow-host-namespace: network\n", shown.display()));
    let privileged_field = "spec.template.spec.containers[0].securityContext.privileged: is not allowed on this node: allow-privileged in the configuration file";
    wait_file(&node, "priv.yaml", privileged_field);
    let why = node.cli(&["why", "priv"]).out;
    assert!(why.contains("allow-privileged") && why.contains(config.path().to_str().unwrap()), "{why}");
    node.put("pid.yaml", &pod("pid").pod_field("hostPID", json!(true)).text());
    wait_file(&node, "pid.yaml", "spec.hostPID: is not allowed on this node: allow-host-namespace in");
    assert_eq!(node.wait_running("priv").uid(), admitted.uid(), "a rule ended what runs");

    // As it is written, and as what it leads to: neither ends the pod that is to be replaced.
    node.put("path.yaml", &daemon_set("path").host_path(&at(&hidden), "Directory", "/data").text());
    wait_file(&node, "path.yaml", "spec.template.spec.volumes[0].hostPath.path: ");
    std::os::unix::fs::symlink("../hidden", shown.join("link")).unwrap();
    node.put(
        "path.yaml",
        &daemon_set("path").host_path(&at(&shown.join("link/made")), "DirectoryOrCreate", "/data").text(),
    );
    let leads = format!("leads to {}/made, which is not allowed on this node: allow-host-path in", hidden.display());
    wait_for("the link is refused", || {
        let why = node.cli(&["why", "path"]).out;
        if why.contains(&leads) { Ok(()) } else { Err(why) }
    });
    let runs = node.pods_of("path").into_iter().any(|pod| pod.uid() == first.uid() && pod.running());
    assert!(runs, "{}", tests::node::summary(&node.pods()));
    assert!(!hidden.join("made").exists());

    // What is taken away is allowed again, at once.
    say("");
    node.wait_running("pid");
    let again = node.wait_pod("path", "runs anew", |pod| pod.uid() != first.uid() && pod.running());
    assert!(hidden.join("made").is_dir());
    assert_eq!(node.wait_running("path").uid(), again.uid());
}

#[test]
fn pods_beyond_max_pods_are_listed_and_run_when_there_is_room() {
    let node = TestNode::builder()
        .flag("--max-pods", "2")
        .manifest("a.yaml", &pod("a").text())
        .manifest("b.yaml", &pod("b").text())
        .manifest("c.yaml", &pod("c").text())
        .start();
    node.wait_running("a");
    let kept = node.wait_running("b");
    wait_file(&node, "c.yaml", "OutOfpods: the node takes 2 pods (--max-pods)");
    let why = node.cli(&["why", "c", "-o", "json"]).out;
    assert!(why.contains("\"OutOfpods\"") && why.contains("c.yaml"), "{why}");
    let told = |reason: &str| {
        let events = node.cli(&["get", "events", "-o", "json"]).ok().json();
        let about = |event: &&serde_json::Value| event["reason"] == reason && event["involvedObject"]["name"] == "c";
        events["items"].as_array().expect("a list").iter().filter(about).count()
    };
    assert_eq!((told("OutOfpods"), told("ManifestAccepted")), (1, 0));
    assert_eq!(node.pods().len(), 2, "{}", tests::node::summary(&node.pods()));
    node.remove("a.yaml");
    node.wait_running("c");
    assert_eq!((told("OutOfpods"), told("ManifestAccepted")), (1, 1));
    assert_eq!(node.wait_running("b").uid(), kept.uid());
}

/// A directory full of nonsense, or of another cluster: the node takes what it has places for, says what it does with the
/// rest, and its memory is bounded.
#[test]
fn ten_thousand_manifests_at_once_are_refused_one_by_one_beyond_max_pods() {
    const FILES: usize = 10;
    const IN_EACH: usize = 1000;
    /// What they may add to the agent at its peak, the list of all outcomes included: twice what it was when this was written.
    const ADDED_MAX: u64 = 136 << 20;
    let node = TestNode::builder().flag("--max-pods", "2").start();
    let agent = node.agent_process();
    let kilobytes = |field: &str| -> u64 {
        let text = agent.status(field).expect("the agent lives");
        text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number of kB")
    };
    let before = kilobytes("VmHWM");
    for file in 0..FILES {
        let all = (0..IN_EACH).map(|n| pod(&format!("p{:05}", file * IN_EACH + n)).text());
        node.put(&format!("{file}.yaml"), &all.collect::<Vec<_>>().join("\n---\n"));
    }
    node.wait_running("p00000");
    let outcomes = || node.cli(&["get", "files", "-o", "json"]).ok().json();
    let files = wait_for("every document has an outcome", || {
        let files = outcomes();
        let all = files["items"].as_array().cloned().unwrap_or_default();
        if all.len() == FILES * IN_EACH { Ok(all) } else { Err(format!("{} of them", all.len())) }
    });
    let refused = files.iter().filter(|file| file["state"] == "OutOfpods").count();
    assert_eq!(refused, FILES * IN_EACH - 2);
    assert_eq!(node.pods().iter().filter(|pod| pod.running()).count(), 2);
    let added = (kilobytes("VmHWM") - before) << 10;
    println!("they add {} MB at the peak", added >> 20);
    assert!(added <= ADDED_MAX, "they add {} MB at the peak", added >> 20);
}
