//! The words about images on a real node, and images that go when the disk is short.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;
use tests::client::run;
use tests::image::{Image, Layout, Tarball, oci_archive};
use tests::manifest::{OBEDIENT, pod};
use tests::node::TestNode;
use tests::scripted_registry::ScriptedRegistry;
use tests::wait::wait_for;

const SPARE: &str = "docker.io/library/spare:1";

fn probe(name: &str) -> Image {
    Image::busybox(name).expect("busybox-static is installed").cmd(&["sh", "-c", OBEDIENT])
}

/// An image with this many MiB that do not compress.
fn large(name: &str, seed: u64, mib: usize) -> Image {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..(mib << 20) / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    Image::empty(name).layer(Tarball::new().file(&format!("noise-{seed}"), 0o644, &words.collect::<Vec<u8>>()).bytes())
}

fn file(node: &TestNode, name: &str, bytes: &[u8]) -> String {
    let path = node.dir().join(name);
    std::fs::write(&path, bytes).expect("a file can be written in an own directory");
    path.display().to_string()
}

fn digest_of(said: &str) -> String {
    said.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap_or_default().to_owned()
}

#[test]
fn an_image_is_imported_listed_pinned_exported_pruned_and_imported_again() {
    let node = TestNode::empty_builder().start();
    let archive = file(&node, "spare.tar", &oci_archive(&[large(SPARE, 1, 1)]));
    let imported = node.cli(&["images", "import", &archive]).ok().out;
    let digest = digest_of(&imported);
    assert!(imported.starts_with(SPARE) && digest.len() == 71, "{imported}");
    wait_for("it is listed by both words alike", || {
        let (ls, get) = (node.cli(&["images", "ls"]).ok().out, node.cli(&["get", "images"]).ok().out);
        if ls == get && ls.contains(SPARE) { Ok(()) } else { Err(ls) }
    });

    let said = node.cli(&["images", "pin", "spare:1"]).ok().out;
    assert_eq!(said.trim(), format!("{SPARE} is pinned"));
    wait_for("the pin is shown", || {
        let rows = node.cli(&["images", "ls", "-o", "json"]).ok().json();
        if rows["items"][0]["pinned"] == true { Ok(()) } else { Err(rows.to_string()) }
    });
    let pruned = node.cli(&["images", "prune"]).ok().out;
    assert_eq!(pruned.trim(), "nothing to remove (kept: 1 pinned)");
    let near = node.cli(&["images", "pin", "spar:1"]).exits(4).err;
    assert!(near.contains("spare:1"), "{near}");
    assert!(node.cli(&["images", "pin", "Spare:1"]).exits(2).err.contains("no image name"));

    let out = node.dir().join("out.tar").display().to_string();
    assert!(node.cli(&["images", "export", "spare:1", &out]).ok().out.contains(&digest));
    node.cli(&["images", "export", "absent:1", &format!("{out}.2")]).exits(4);
    let leftovers = std::fs::read_dir(node.dir()).expect("an own directory can be read").flatten();
    assert!(leftovers.filter(|entry| entry.file_name().to_string_lossy().contains(".partial")).count() == 0);
    let mut stdout = node.command(tests::node::program("daemonlet"));
    let run_dir = node.run_dir();
    let words = ["images", "export", "spare:1", "-"];
    let piped = stdout.arg("--run-dir").arg(run_dir).args(words).output().expect("the program can be run");
    assert_eq!(piped.stdout, std::fs::read(&out).expect("it was written"), "stdout gets the same archive");

    node.cli(&["images", "pin", "--remove", "spare:1"]).ok();
    let would = node.cli(&["images", "prune", "--dry-run"]).ok().out;
    assert!(would.contains(SPARE) && would.contains("would be removed"), "{would}");
    let pruned = node.cli(&["images", "prune", "-o", "json"]).ok().json();
    assert!(pruned["bytes"].as_u64().is_some_and(|freed| freed >= 2 << 20), "{pruned}");
    wait_for("it is gone from the list", || {
        let rows = node.cli(&["images", "ls", "-o", "json"]).ok().json();
        if rows["items"] == json!([]) { Ok(()) } else { Err(rows.to_string()) }
    });
    assert_eq!(digest_of(&node.cli(&["images", "import", &out]).ok().out), digest);
}

#[test]
fn a_damaged_archive_and_one_that_is_not_there_are_refused_with_a_reason() {
    let node = TestNode::empty_builder().start();
    let whole = oci_archive(&[large(SPARE, 1, 1)]);
    let cut = file(&node, "cut.tar", &whole[..whole.len() / 2]);
    let said = node.cli(&["images", "import", &cut]).exits(1).err;
    assert!(said.contains("cut.tar"), "{said}");
    let said = node.cli(&["images", "import", "/nonexistent.tar"]).exits(1).err;
    assert!(said.contains("/nonexistent.tar") && said.contains("No such file"), "{said}");
    assert!(node.ctr_lines(&["content", "ls", "-q"]).is_empty());
}

#[test]
fn a_pull_by_hand_is_what_the_pod_then_finds() {
    let node = TestNode::empty_builder().start();
    let registry = ScriptedRegistry::on(node.inside(|| TcpListener::bind("127.0.0.1:0")).expect("a port is free"));
    let name = registry.push("some/where", "v1", &Layout::of(&[probe("any:1")]));
    let pulled = node.cli(&["images", "pull", &name]).ok().out;
    assert!(pulled.starts_with(&name) && pulled.contains("pulled: "), "{pulled}");
    assert!(node.cli(&["images", "pull", &name]).ok().out.contains("is what the registry has"));
    let absent = format!("{}/no/such:1", registry.host());
    let said = node.cli(&["images", "pull", &absent]).exits(1).err;
    assert!(said.contains("no/such"), "{said}");
    let asked = registry.requests().len();
    node.put("a.yaml", &pod("a").field("image", json!(name)).field("imagePullPolicy", json!("IfNotPresent")).text());
    node.wait_running("a");
    assert_eq!(registry.requests().len(), asked, "{:?}", registry.requests());
    let metrics = node.get("/metrics").expect("the agent answers").body;
    assert!(
        metrics.contains("kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"0-10MB\"} 1"),
        "{metrics}"
    );
}

#[test]
fn an_image_that_a_waiting_pod_needs_is_never_pruned() {
    let mut node = TestNode::empty_builder().start();
    let archive = file(&node, "both.tar", &oci_archive(&[probe("docker.io/library/crash:1"), large(SPARE, 1, 1)]));
    node.cli(&["images", "import", &archive]).ok();
    let crash = pod("crash").script("exit 1").field("image", json!("crash:1"));
    node.put("crash.yaml", &crash.field("imagePullPolicy", json!("Never")).text());
    node.wait_pod("crash", "waits in back-off", |pod| pod.waiting("main").contains("CrashLoopBackOff"));
    // Also right after a start, when nothing runs and the records have just been read.
    node.restart_agent();
    let pruned = node.cli(&["images", "prune"]).ok().out;
    assert!(pruned.contains(SPARE) && pruned.contains("1 needed") && !pruned.contains("crash:1"), "{pruned}");
    node.remove("crash.yaml");
    node.wait_no_pod("crash");
    assert!(node.cli(&["images", "prune"]).ok().out.contains("crash:1"));
}

#[test]
fn nothing_is_pruned_while_the_manifest_directory_is_away() {
    let node = TestNode::empty_builder().start();
    let archive = file(&node, "spare.tar", &oci_archive(&[large(SPARE, 1, 1)]));
    node.cli(&["images", "import", &archive]).ok();
    let away = node.dir().join("manifests.away");
    std::fs::rename(node.manifest_dir(), &away).expect("an own directory can be moved");
    wait_for("prune is refused", || {
        let pruned = node.cli(&["images", "prune", "--dry-run"]);
        if pruned.code == 1 && pruned.err.contains("manifests") { Ok(()) } else { Err(format!("{pruned:?}")) }
    });
    std::fs::rename(&away, node.manifest_dir()).expect("an own directory can be moved");
    wait_for("prune is taken again", || {
        let pruned = node.cli(&["images", "prune"]);
        if pruned.code == 0 && pruned.out.contains(SPARE) { Ok(()) } else { Err(format!("{pruned:?}")) }
    });
}

#[test]
fn a_short_disk_loses_unused_images_by_itself_and_says_when_that_is_not_enough() {
    let mut node = TestNode::empty_builder()
        .flag("--image-gc-high-threshold", "60")
        .flag("--image-gc-low-threshold", "50")
        .flag("--image-minimum-gc-age", "0")
        .without_agent()
        .start();
    // containerd's root, with what it has made so far, on a small disk.
    node.stop_containerd();
    let root = node.dir().join("containerd/root");
    std::fs::remove_dir_all(&root)
        .and_then(|()| std::fs::create_dir(&root))
        .expect("an own directory can be made anew");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=100m", "tmpfs"]).arg(&root)).ok();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();

    let import = |node: &TestNode, image: Image| {
        let archive = file(node, "x.tar", &oci_archive(&[image]));
        node.cli(&["images", "import", &archive]).ok();
    };
    import(&node, large("docker.io/library/old:1", 1, 14));
    import(&node, probe("docker.io/library/needed:1"));
    let needed = pod("a").field("image", json!("needed:1")).field("imagePullPolicy", json!("Never"));
    node.put("a.yaml", &needed.text());
    let running = node.wait_running("a");
    let process = node.process(&running);
    // Packed and unpacked 28 and 32 of 100 MiB, and the needed one: the older of the two has to go.
    import(&node, large("docker.io/library/new:1", 2, 16));
    wait_for("the longest unused image is collected", || {
        let images = node.cli(&["images", "ls"]).ok().out;
        if !images.contains("old:1") && images.contains("new:1") && images.contains("needed:1") {
            Ok(())
        } else {
            Err(format!("{images}{}", node.tail("agent.log")))
        }
    });
    let metrics = node.get("/metrics").expect("the agent answers").body;
    assert!(metrics.contains("kubelet_image_garbage_collected_total{reason=\"space\"} 1"), "{metrics}");

    // Bytes that are no image's.
    let other = root.join("somebody-elses");
    std::fs::write(&other, vec![1; 58 << 20]).expect("there is room for that");
    import(&node, large("docker.io/library/last:1", 3, 1));
    wait_for("it is said that images do not free enough", || {
        let node_said = node.cli(&["get", "node", "-o", "json"]).ok().out;
        let events = node.cli(&["get", "events"]).ok().out;
        if node_said.contains("FreeDiskSpaceFailed") && events.contains("FreeDiskSpaceFailed") {
            Ok(())
        } else {
            Err(format!("{node_said}{events}{}", node.tail("agent.log")))
        }
    });
    let images = node.cli(&["images", "ls"]).ok().out;
    assert!(images.contains("needed:1") && !images.contains("new:1") && process.alive(), "{images}");
}
