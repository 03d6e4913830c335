//! Images out of registries, on a real node: pulled when a pod needs them, shown while they come, swapped in when they are there.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use tests::client::Pod;
use tests::image::{Image, Layout, Tarball, digest};
use tests::manifest::{Document, OBEDIENT, daemon_set, pod};
use tests::node::TestNode;
use tests::scripted_registry::{Act, ScriptedRegistry, base64};
use tests::wait::{PATIENCE, holds_for, wait_for, wait_within};

/// Pauses between tries are Kubernetes' own: the first is 10 to 12 s.
const AFTER_A_PAUSE: Duration = Duration::from_secs(90);

/// A node without images, and a registry on its loopback.
fn node() -> (TestNode, ScriptedRegistry) {
    let node = TestNode::empty_builder().start();
    let registry = ScriptedRegistry::on(node.inside(|| TcpListener::bind("127.0.0.1:0")).expect("a port is free"));
    (node, registry)
}

/// Bytes that do not compress, in a layer.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    Tarball::new().file(&format!("noise-{seed}"), 0o644, &content).bytes()
}

/// An obedient daemon with a second layer of this size; that layer's digest and size.
fn image(seed: u64, bytes: usize) -> (Layout, String, u64) {
    let layer = noise(seed, bytes);
    let (name, size) = (digest(&layer), layer.len() as u64);
    let image = Image::busybox("any:1").expect("busybox-static is installed").cmd(&["sh", "-c", OBEDIENT]);
    (Layout::of(&[image.layer(layer)]), name, size)
}

fn of(document: Document, image: &str) -> String {
    document.field("image", json!(image)).text()
}

/// `why`, `get images` and `get events` together.
fn said(node: &TestNode) -> String {
    [&["why"][..], &["get", "images"], &["get", "events"]].map(|words| node.cli(words).out).concat()
}

#[track_caller]
fn wait_said(node: &TestNode, what: &str, bound: Duration) {
    wait_within(bound, &format!("{what:?} is said"), || {
        let said = said(node);
        if said.contains(what) { Ok(()) } else { Err(format!("{said}\n{}", node.tail("agent.log"))) }
    });
}

#[test]
fn an_image_is_pulled_when_a_pod_needs_it_and_events_say_so() {
    let (node, registry) = node();
    let (layout, ..) = image(1, 1 << 20);
    let name = registry.push("some/where", "v1", &layout);
    node.put("a.yaml", &of(pod("a"), &name));
    let running = node.wait_running("a");
    let events = node.cli(&["get", "events"]).ok().out;
    assert!(events.contains(&format!("Pulling image \"{name}\"")), "{events}");
    assert!(events.contains(&format!("Successfully pulled image \"{name}\" in ")), "{events}");
    wait_for("the image is listed", || {
        let images = node.cli(&["get", "images"]).out;
        if images.contains(&name) && images.contains("Imported") { Ok(()) } else { Err(images) }
    });
    let process = node.process(&running);
    node.put("b.yaml", &of(pod("b"), &name));
    node.wait_running("b");
    assert_eq!(registry.asked("GET"), 4, "{:?}", registry.requests());
    assert!(process.alive());
}

#[test]
fn an_update_stops_the_old_pod_only_when_the_new_image_is_unpacked() {
    let (node, registry) = node();
    let (old, ..) = image(2, 1 << 20);
    let (new, ..) = image(3, 16 << 20);
    let (old, new) = (registry.push("d", "1", &old), registry.push("d", "2", &new));
    node.put("a.yaml", &of(daemon_set("a"), &old));
    let first = node.wait_running("a");
    let process = node.process(&first);
    registry.slow(1 << 20);
    node.put("a.yaml", &of(daemon_set("a"), &new));
    // The same words at every door: bytes, layer, rate, and how long that will take.
    for words in [&["get", "images"][..], &["why"]] {
        wait_for("how far the pull is", || {
            let said = node.cli(words).out;
            let told = ["% (", " MiB of 1", "layer 2 of 2", "iB/s, ", "s left"].iter().all(|part| said.contains(part));
            if told { Ok(()) } else { Err(format!("{words:?}: {said}")) }
        });
    }
    assert!(process.alive(), "the old pod runs while the new image comes");
    registry.slow(0);
    node.wait_pod("a", "is replaced", |pod: &Pod| pod.uid() != first.uid() && pod.running() && pod.ready());
    assert!(!process.alive());
}

#[test]
fn a_pod_deleted_or_changed_in_the_middle_of_a_pull_does_not_wait_for_it() {
    let (node, registry) = node();
    let (slow, layer, _) = image(4, 1 << 20);
    let (quick, ..) = image(5, 1 << 20);
    let (slow, quick) = (registry.push("slow", "1", &slow), registry.push("quick", "1", &quick));
    registry.fault(&layer, 1000, Act::StallAt(1000));
    for name in ["a", "b"] {
        node.put(&format!("{name}.yaml"), &of(pod(name), &slow));
    }
    wait_said(&node, "Pulling:", PATIENCE);
    node.remove("a.yaml");
    node.put("b.yaml", &of(pod("b"), &quick));
    // Well before the stall counts as one.
    wait_within(Duration::from_secs(20), "the pod is gone", || match node.pods_of("a").as_slice() {
        [] => Ok(()),
        pods => Err(tests::node::summary(pods)),
    });
    node.wait_running("b");
}

#[test]
fn an_agent_killed_in_the_middle_of_a_layer_fetches_its_rest_only() {
    let (mut node, registry) = node();
    let (layout, layer, size) = image(6, 64 << 20);
    let name = registry.push("a", "1", &layout);
    registry.fault(&layer, 1, Act::StallAt(size * 9 / 10));
    node.put("a.yaml", &of(pod("a"), &name));
    wait_for("nine tenths were served", || match registry.served(&layer) {
        served if served >= size * 9 / 10 => Ok(()),
        served => Err(format!("{served} of {size}: {}", said(&node))),
    });
    wait_said(&node, "Pulling: 9", PATIENCE);
    node.kill_agent();
    registry.go_on();
    node.start_agent();
    node.wait_agent();
    node.wait_running("a");
    let again = registry.served(&layer) - size;
    println!("fetched again after kill -9 at 90 % of {size} bytes: {again}");
    assert!(again * 100 <= size, "{again} of {size} bytes were fetched again");
}

#[test]
fn a_refused_pull_is_said_with_its_reason_and_next_try_and_heals_by_itself() {
    let (node, registry) = node();
    let (layout, ..) = image(7, 1 << 20);
    let name = format!("{}/later:1", registry.host());
    node.put("a.yaml", &of(pod("a"), &name));
    node.wait_pod("a", "backs off", |pod| pod.waiting("main") == "ImagePullBackOff");
    let why = node.cli(&["why"]).out;
    assert!(why.contains("ErrImagePull") && why.contains("not found") && why.contains("next try in"), "{why}");
    let said = said(&node);
    assert!(
        said.contains(&format!("Failed to pull image \"{name}\"")) && said.contains("Error: ErrImagePull"),
        "{said}"
    );
    registry.push("later", "1", &layout);
    wait_within(AFTER_A_PAUSE, "the next try brings it", || match node.pods_of("a").as_slice() {
        [pod] if pod.running() => Ok(()),
        pods => Err(tests::node::summary(pods)),
    });
}

#[test]
fn always_without_its_registry_runs_what_is_here_with_a_condition() {
    let (mut node, registry) = node();
    let (layout, ..) = image(8, 1 << 20);
    let name = registry.push("a", "1", &layout);
    let document = of(pod("a").field("imagePullPolicy", json!("Always")), &name);
    node.put("a.yaml", &document);
    let process = node.process(&node.wait_running("a"));
    registry.fault("manifests", 1000, Act::Status(503, Vec::new()));
    node.restart_agent();
    holds_for(Duration::from_secs(1), "a running pod needs no registry", || {
        if process.alive() { Ok(()) } else { Err("it ended".into()) }
    });
    node.cli(&["delete", "pod", "a-node-a"]).ok();
    let again = node.wait_pod("a", "runs again", |pod| {
        pod.running() && pod.0["status"]["conditions"].to_string().contains("ImageNotRefreshed")
    });
    assert!(again.0["status"]["conditions"].to_string().contains("503"), "{}", again.0["status"]);
}

/// DAEMONLET_TEST_PULL_MB=1000 makes it the image that the budget is for.
#[test]
fn a_large_image_of_ten_layers_costs_the_agent_little_memory() {
    let megabytes = std::env::var("DAEMONLET_TEST_PULL_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(200usize);
    let (node, registry) = node();
    let base = Image::busybox("any:1").expect("busybox-static is installed").cmd(&["sh", "-c", OBEDIENT]);
    let layers = (0..9).map(|seed| noise(100 + seed, megabytes * 1_000_000 / 9));
    let name = registry.push("large", "1", &Layout::of(&[layers.fold(base, Image::layer)]));
    let agent = node.agent_process();
    let memory = |key: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid)).expect("the agent runs");
        let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel tells");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number of kB")
    };
    let idle = memory("VmRSS:");
    let begun = std::time::Instant::now();
    node.put("a.yaml", &of(pod("a"), &name));
    wait_within(Duration::from_secs(500), "it is pulled", || match node.pods_of("a").as_slice() {
        [pod] if pod.running() => Ok(()),
        pods => Err(format!("{}{}", tests::node::summary(pods), node.cli(&["get", "images"]).out)),
    });
    let peak = memory("VmHWM:");
    println!("{megabytes} MB in {:?}: agent {idle} kB idle, {peak} kB at its peak", begun.elapsed());
    assert!(peak < idle + 16 * 1024, "{idle} kB idle, {peak} kB at the peak");
}

#[test]
fn a_secret_in_the_manifest_directory_opens_a_registry_and_is_shown_nowhere() {
    let (node, registry) = node();
    let (layout, ..) = image(9, 1 << 20);
    let name = registry.push("private/a", "1", &layout);
    registry.require("someone", "hush-hush");
    node.put("a.yaml", &of(pod("a").pod_field("imagePullSecrets", json!([{"name": "login"}])), &name));
    node.wait_pod("a", "backs off", |pod| pod.waiting("main") == "ImagePullBackOff");
    let events = node.cli(&["get", "events"]).out;
    assert!(events.contains("FailedToRetrieveImagePullSecret") && events.contains("(login)"), "{events}");
    let config = json!({"auths": {registry.host(): {"auth": base64("someone:hush-hush")}}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": base64(&config.to_string())},
    });
    node.put("login.yaml", &secret.to_string());
    // At once: the pause of the refused try counts no longer.
    wait_within(Duration::from_secs(9), "the secret opens it", || match node.pods_of("a").as_slice() {
        [pod] if pod.running() => Ok(()),
        pods => Err(format!("{}{}", tests::node::summary(pods), node.tail("agent.log"))),
    });
    let files = node.cli(&["get", "files"]).ok().out;
    assert!(files.contains("Secret") && files.contains("Accepted"), "{files}");
    let shown = said(&node) + &files + &node.tail("agent.log") + &node.cli(&["get", "pods", "-o", "json"]).out;
    assert!(!shown.contains("hush-hush") && !shown.contains(&base64("someone:hush-hush")), "{shown}");
}
