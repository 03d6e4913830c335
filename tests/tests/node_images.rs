//! Images from the image directory: every archive format that people have, and every way in which one can lie.

use serde_json::json;
use tests::image::{Image, Layout, Tarball, docker_archive, host_architecture, oci_archive};
use tests::manifest::{OBEDIENT, pod};
use tests::node::TestNode;
use tests::wait::wait_for;

const NAME: &str = "docker.io/library/probe:1";

fn probe() -> Image {
    Image::busybox(NAME).expect("busybox-static is installed").cmd(&["sh", "-c", OBEDIENT])
}

fn document() -> tests::manifest::Document {
    pod("a").field("image", json!("probe:1")).field("imagePullPolicy", json!("Never"))
}

/// A pod whose command is the image's own.
fn by_image() -> String {
    let text = document().text();
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("it was written as JSON");
    value["spec"]["containers"][0].as_object_mut().expect("a container is an object").remove("command");
    value.to_string()
}

#[track_caller]
fn runs_from(archive: Vec<u8>) {
    let node = TestNode::empty_builder().archive("probe.tar", archive).manifest("a.yaml", &by_image()).start();
    node.wait_running("a");
}

/// The pod waits with a reason that names the image, the agent lives, and a good archive under the same name heals it.
#[track_caller]
fn is_refused(archive: Vec<u8>) -> TestNode {
    let node = TestNode::empty_builder().archive("probe.tar", archive).manifest("a.yaml", &by_image()).start();
    wait_for("the image is refused", || {
        let waiting = node.pods_of("a").first().map(|pod| pod.waiting("main")).unwrap_or_default();
        if waiting.contains("Image") { Ok(()) } else { Err(format!("{waiting:?} {}", node.tail("agent.log"))) }
    });
    assert!(node.agent_process().alive());
    node.place_image("probe.tar", &oci_archive(&[probe()]));
    node.wait_running("a");
    node
}

/// A volume's image is an image like a container's: waited for with its reason, kept while a pod needs it, there again after a boot.
#[test]
fn a_volumes_image_is_waited_for_kept_and_there_again_after_a_boot() {
    let content = |text: &str| {
        let layer = Tarball::new().file("file", 0o644, text.as_bytes()).bytes();
        oci_archive(&[Image::empty("docker.io/library/content:1").layer(layer)])
    };
    let volume = json!([{"name": "v", "image": {"reference": "content:1", "pullPolicy": "Never"}}]);
    let document = pod("a")
        .pod_field("volumes", volume)
        .field("volumeMounts", json!([{"name": "v", "mountPath": "/v"}]))
        .says("cat /v/file; touch /v/x || echo kept");
    let mut node = TestNode::builder().manifest("a.yaml", &document.text()).start();
    node.wait_pod("a", "waits for the volume's image", |pod| pod.waiting("main") == "ErrImageNeverPull");
    let why = node.cli(&["why", "a"]).out;
    assert!(why.contains("volume v: image docker.io/library/content:1 is not on this node"), "{why}");
    node.place_image("content.tar", &content("content\n"));
    let pod = node.wait_running("a");
    node.wait_log(&pod, "main", "kept");
    assert!(node.log_lines(&pod, "main", 0).join("\n").contains("content"));
    std::fs::remove_file(node.image_dir().join("content.tar")).expect("it is there");
    wait_for("only the pod's record keeps the image", || {
        let pruned = node.cli(&["images", "prune"]).ok().out;
        let there = node.ctr_lines(&["images", "ls", "-q"]).contains("docker.io/library/content:1");
        if there { Ok(()) } else { Err(pruned) }
    });

    node.power_cut();
    node.start_containerd();
    node.start_agent();
    node.wait_agent();
    let again = node.wait_pod("a", "runs again", |pod| pod.running() && pod.restarts() == 1);
    assert_eq!(again.uid(), pod.uid());
    node.exec(node.process(&again), &["cat", "/v/file"]).ok();
    node.remove("a.yaml");
    node.wait_no_pod("a");
    wait_for("nothing needs it any more", || {
        node.cli(&["images", "prune"]).ok();
        let images = node.ctr_lines(&["images", "ls", "-q"]);
        if images.contains("docker.io/library/content:1") { Err(format!("{images:?}")) } else { Ok(()) }
    });
}

#[test]
fn an_oci_archive_is_run_under_its_own_name() {
    runs_from(oci_archive(&[probe()]));
}

#[test]
fn compressed_layers_are_unpacked() {
    runs_from(oci_archive(&[probe().gzip()]));
}

#[test]
fn a_docker_archive_is_run() {
    runs_from(docker_archive(&[probe()]));
}

#[test]
fn several_images_and_names_in_one_archive_are_all_known() {
    let other = probe().also_named("quay.io/some/where:2");
    let node = TestNode::empty_builder()
        .archive("both.tar", oci_archive(&[other, Image::busybox("docker.io/library/third:3").unwrap()]))
        .start();
    wait_for("all three names", || {
        let images = node.cli(&["get", "images"]).out;
        if ["probe:1", "quay.io/some/where:2", "third:3"].iter().all(|name| images.contains(name)) {
            Ok(())
        } else {
            Err(images)
        }
    });
}

#[test]
fn an_archive_that_arrives_after_its_pod_starts_it() {
    let node = TestNode::empty_builder().manifest("a.yaml", &by_image()).start();
    node.wait_pod("a", "waits for its image", |pod| pod.waiting("main").contains("Image"));
    node.place_image("probe.tar", &oci_archive(&[probe()]));
    node.wait_running("a");
}

#[test]
fn of_several_platforms_the_right_one_is_taken() {
    let wrong = Image::empty(NAME).platform("linux", "s390x").layer(Tarball::new().file("wrong", 0o644, b"x").bytes());
    runs_from(Layout::multi_platform(NAME, &[wrong, probe()]).bytes());
}

#[test]
fn platforms_that_do_not_fit_are_listed_in_the_refusal() {
    let wrong = |arch: &str| {
        Image::empty(NAME).platform("linux", arch).layer(Tarball::new().file("wrong", 0o644, b"x").bytes())
    };
    let node = TestNode::empty_builder()
        .archive("probe.tar", Layout::multi_platform(NAME, &[wrong("s390x"), wrong("riscv64")]).bytes())
        .manifest("a.yaml", &by_image())
        .start();
    wait_for("why lists what is offered", || {
        let why = node.cli(&["why"]).out + &node.cli(&["get", "images", "-o", "wide"]).out;
        if why.contains("s390x") && why.contains("riscv64") && why.contains(host_architecture()) {
            Ok(())
        } else {
            Err(why)
        }
    });
}

#[test]
fn a_wrong_digest_is_refused_and_healed_by_a_good_archive() {
    is_refused(Layout::of(&[probe()]).with_wrong_digest().bytes());
}

#[test]
fn a_missing_layer_is_refused() {
    is_refused(Layout::of(&[probe()]).without_layer().bytes());
}

#[test]
fn a_truncated_archive_is_refused() {
    let whole = oci_archive(&[probe()]);
    is_refused(whole[..whole.len() / 2].to_vec());
}

#[test]
fn entries_that_climb_out_of_the_archive_write_nothing_outside() {
    let archive = Layout::of(&[probe()]).tarball();
    let archive =
        archive.file("../../escaped", 0o644, b"x").file("/tmp/dlt-escaped", 0o644, b"x").symlink("blobs/link", "/etc");
    let node = TestNode::empty_builder().archive("probe.tar", archive.bytes()).start();
    wait_for("the archive was looked at", || {
        let said = node.cli(&["get", "images", "-o", "wide"]).out
            + &node.cli(&["get", "events"]).out
            + &node.tail("agent.log");
        if said.contains("probe") { Ok(()) } else { Err(said) }
    });
    assert!(!node.dir().join("escaped").exists() && !std::path::Path::new("/tmp/dlt-escaped").exists());
    assert!(node.agent_process().alive());
}

#[test]
fn an_entry_that_claims_more_than_it_has_is_refused() {
    let lying = Tarball::new()
        .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)
        .lying_file("index.json", 1 << 40, b"{}")
        .bytes();
    is_refused(lying);
}

#[test]
fn a_layer_that_climbs_out_of_its_root_writes_nothing_outside() {
    let hostile = Tarball::new().file("../../../../../../tmp/dlt-layer-escaped", 0o644, b"x").bytes();
    let node = TestNode::empty_builder()
        .archive("probe.tar", oci_archive(&[probe().layer(hostile)]))
        .manifest("a.yaml", &by_image())
        .start();
    wait_for("the pod runs or is refused", || match node.pods_of("a").first() {
        Some(pod) if pod.running() || !pod.waiting("main").is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(!std::path::Path::new("/tmp/dlt-layer-escaped").exists());
}

#[test]
fn image_configuration_is_not_trusted() {
    for (key, value) in [
        ("User", json!("4294967295")),
        ("User", json!("../0")),
        ("Volumes", json!({"/../../escape": {}})),
        ("WorkingDir", json!("/proc/self/fd/8")),
    ] {
        let archive = oci_archive(&[probe().config(key, value.clone())]);
        let node = TestNode::empty_builder().archive("probe.tar", archive).manifest("a.yaml", &by_image()).start();
        wait_for(&format!("{key} {value} is refused"), || match node.pods_of("a").first() {
            Some(pod) if !pod.waiting("main").is_empty() && pod.waiting("main") != "ContainerCreating" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn the_images_user_directory_and_environment_are_used() {
    let image = probe()
        .config("User", json!("nobody"))
        .config("WorkingDir", json!("/tmp"))
        .config("Env", json!(["FROM_IMAGE=yes", "PATH=/bin"]));
    let image = image.cmd(&["sh", "-c", "echo $(id -u) $(pwd) $FROM_IMAGE; exec sleep 1000"]);
    let node = TestNode::empty_builder().image("probe.tar", &image).manifest("a.yaml", &by_image()).start();
    let pod = node.wait_running("a");
    assert_eq!(node.wait_log(&pod, "main", "yes"), "65534 /tmp yes");
}

#[test]
fn a_lease_of_an_import_that_was_killed_is_cleared_also_where_nothing_is_imported_any_more() {
    let mut node = TestNode::empty_builder().without_agent().start();
    node.ctr(&["leases", "create", "--id", "daemonlet-images-left"]).ok();
    node.ctr(&["leases", "create", "--id", "somebodys"]).ok();
    node.start_agent();
    node.wait_agent();
    wait_for("only the other's lease stands", || {
        let leases = node.ctr_lines(&["leases", "ls", "-q"]);
        if leases.iter().eq(["somebodys"]) { Ok(()) } else { Err(format!("{leases:?}")) }
    });
    node.ctr(&["leases", "rm", "somebodys"]).ok();
}
