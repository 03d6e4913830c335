//! Registries, manifests and disks that fail in the middle of a pull, and agents that die in it.

use super::*;

#[tokio::test]
async fn a_layer_cut_at_ninety_percent_costs_its_rest_only() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(2);
    let image = node.registry.push("a", "1", &pushed);
    let (digest, size) = &layers[1];
    node.registry.fault(digest, 1, Act::CutAt(size * 9 / 10));
    let prepared = node.prepare(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    let again = node.registry.served(digest) - size;
    println!("fetched again after a cut at 90 % of {size} bytes: {again}");
    assert!(again * 100 <= *size, "{again} of {size}");
}

#[tokio::test]
async fn a_server_without_ranges_and_one_that_stalls_are_borne() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(3);
    let image = node.registry.push("a", "1", &pushed);
    let (digest, size) = &layers[1];
    node.registry.fault(digest, 1, Act::StallAt(size / 2));
    node.registry.fault(digest, 1, Act::NoRanges);
    let prepared = node.prepare(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    assert_eq!(node.registry.asked(&format!("GET /v2/a/blobs/{digest}")), 2);
}

#[tokio::test]
async fn wrong_bytes_are_dropped_and_said_and_the_next_try_heals() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(4);
    let image = node.registry.push("a", "1", &pushed);
    let (digest, _) = &layers[1];
    node.registry.fault(digest, 1, Act::WrongAt(1000));
    let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!(error.reason, "ErrImagePull");
    assert!(error.message.contains("wrong bytes") && error.message.contains(digest), "{error}");
    assert!(error.message.contains(&node.registry.host()), "{error}");
    assert!(!node.ctr(&["content", "ls", "-q"]).contains(digest), "wrong bytes are no content");
    assert!(!node.ctr(&["content", "active"]).contains(digest), "nor are they kept for later");
    let healed = node.after_its_pause(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(healed, Ok(Prepared::Pulled { .. })), "{healed:?}");
}

#[tokio::test]
async fn a_failed_pull_pauses_as_long_as_it_must_and_says_when() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(9);
    let image = node.registry.push("a", "1", &pushed);
    node.registry.fault("manifests", 1, Act::Status(429, vec!["Retry-After: 3".into()]));
    let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!(error.reason, "ErrImagePull");
    assert!(error.message.contains("429"), "{error}");
    let asked = node.registry.requests().len();
    let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!((error.reason, node.registry.requests().len()), ("ImagePullBackOff", asked), "nobody was asked");
    let wait = error.wait.unwrap();
    assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(3), "{wait:?}");
    let shown = node.images.pulls().borrow().clone();
    assert!(
        matches!(&shown[0].stage, Stage::Waiting { reason, until: Some(_) } if reason.contains("429")),
        "{shown:?}"
    );
    let begun = std::time::Instant::now();
    let healed = node.after_its_pause(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(healed, Ok(Prepared::Pulled { .. })), "{healed:?}");
    assert!(begun.elapsed() + Duration::from_millis(100) > wait, "{:?} of {wait:?}", begun.elapsed());
    assert_eq!(*node.images.pulls().borrow(), []);

    for status in [401, 403, 404, 500, 503] {
        node.registry.fault(&format!("missing{status}/manifests"), 9, Act::Status(status, Vec::new()));
        let image = format!("{}/missing{status}:1", node.registry.host());
        let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
        assert!(error.message.contains(&status.to_string()), "{error}");
        assert!(error.message.contains("image directory"), "{error}");
    }
}

/// Other bytes than were written under the same name, as a power cut leaves them, and no snapshots.
fn damage(node: &Node, digest: &str, image: &str) {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blob = node.containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256").join(hex);
    let size = std::fs::metadata(&blob).unwrap().len();
    std::fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&blob, vec![0; size as usize / 2]).unwrap();
    println!("half of {digest} of {image} is zeros");
    // Children first.
    for _ in 0..9 {
        for snapshot in node.ctr(&["snapshots", "ls"]).lines().skip(1).filter_map(|l| l.split_whitespace().next()) {
            node.containerd.try_ctr(NAMESPACE, &["snapshots", "rm", snapshot]);
        }
    }
    assert_eq!(node.ctr(&["snapshots", "ls"]).lines().count(), 1);
}

#[tokio::test]
async fn a_damaged_layer_is_dropped_and_fetched_again() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(80);
    let image = node.registry.push("a", "1", &pushed);
    node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap();
    let (digest, size) = &layers[1];
    damage(&node, digest, &image);
    let error = node.prepare(&image, PullPolicy::Never).await.unwrap_err();
    assert!(error.message.contains("damaged") && error.message.contains(digest), "{error}");
    let healed = node.prepare(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(healed, Ok(Prepared::Pulled { .. })), "{healed:?}");
    assert_eq!((node.registry.served(digest), node.registry.served(&layers[0].0)), (2 * size, layers[0].1));
    assert_eq!(node.prepare(&image, PullPolicy::IfNotPresent).await, Ok(Prepared::AsAsked));
}

#[tokio::test]
async fn a_damaged_layer_that_another_image_shares_is_fetched_within_its_pull() {
    let Some(node) = Node::start() else { return };
    let base = || Image::busybox("any:1").unwrap().layer(noise(81, 4 << 20));
    let ((first, shared), (second, _)) = (layout(base()), layout(base().layer(noise(82, 1 << 20))));
    let (a, b) = (node.registry.push("a", "1", &first), node.registry.push("b", "1", &second));
    node.prepare(&a, PullPolicy::IfNotPresent).await.unwrap();
    let (digest, size) = &shared[1];
    damage(&node, digest, &a);
    let pulled = node.prepare(&b, PullPolicy::IfNotPresent).await;
    assert!(matches!(pulled, Ok(Prepared::Pulled { .. })), "{pulled:?}");
    assert_eq!(node.registry.served(digest), 2 * size);
    assert!(node.prepare(&a, PullPolicy::Never).await.is_ok());
}

/// The same, but its manifest says that this layer has this size.
fn with_size(layout: &Layout, layer: &str, size: u64) -> Layout {
    let mut layout = layout.clone();
    let top = layout.manifests[0]["digest"].as_str().unwrap().to_owned();
    let mut manifest: serde_json::Value = serde_json::from_slice(&layout.blobs.remove(&top).unwrap()).unwrap();
    let listed = manifest["layers"].as_array_mut().unwrap().iter_mut().find(|listed| listed["digest"] == layer);
    listed.unwrap()["size"] = json!(size);
    let bytes = manifest.to_string().into_bytes();
    let digest = tests::image::digest(&bytes);
    layout.manifests[0]["digest"] = json!(digest);
    layout.manifests[0]["size"] = json!(bytes.len());
    layout.blobs.insert(digest, bytes);
    layout
}

#[tokio::test]
async fn a_manifest_that_lies_of_a_size_is_refused_and_what_others_share_stays() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(83);
    let (digest, size) = &layers[1];
    let good = node.registry.push("a", "1", &pushed);
    let lying = node.registry.push("b", "1", &with_size(&pushed, digest, size - 1));
    node.prepare(&good, PullPolicy::IfNotPresent).await.unwrap();
    let error = node.prepare(&lying, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(error.message.contains(&format!("has {size} bytes, its manifest says {}", size - 1)), "{error}");
    assert!(node.ctr(&["content", "ls", "-q"]).contains(digest));
    assert_eq!(node.registry.served(digest), *size);
    assert_eq!(node.prepare(&good, PullPolicy::Never).await, Ok(Prepared::AsAsked));
}

#[tokio::test]
async fn a_full_disk_is_said_with_what_is_needed_stops_nobody_else_and_heals() {
    let Some(containerd) = Containerd::start_small(48) else { return };
    let images = images(&containerd, settings());
    let node = Node { containerd, registry: ScriptedRegistry::start(), images };
    let small = |seed: u64| layout(Image::busybox("any:1").unwrap().layer(noise(seed, 1 << 20))).0;
    let (large, layers) =
        layout(Image::busybox("any:1").unwrap().layer(noise(90, 20 << 20)).layer(noise(91, 40 << 20)));
    let large = node.registry.push("large", "1", &large);
    let (before, after) = (node.registry.push("small", "1", &small(92)), node.registry.push("small", "2", &small(93)));
    node.prepare(&before, PullPolicy::IfNotPresent).await.unwrap();

    let error = node.prepare(&large, PullPolicy::IfNotPresent).await.unwrap_err();
    let root = node.containerd.dir().join("root");
    let bytes: u64 = layers.iter().map(|(_, size)| size).sum();
    assert_eq!(error.reason, "ErrImagePull");
    for part in ["no space left on device", "make room", &root.display().to_string(), "bytes are free in"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    let wanted = error.message.split("layers have ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(wanted.parse::<u64>().unwrap() >= bytes, "{error}");
    assert_eq!(node.registry.served(&layers[1].0) + node.registry.served(&layers[2].0), 0, "it is known beforehand");

    // What fits until it is unpacked.
    let (unpacked, unpacked_layers) =
        layout(Image::busybox("any:1").unwrap().layer(noise(94, 10 << 20)).layer(noise(95, 20 << 20)));
    let unpacked = node.registry.push("unpacked", "1", &unpacked);
    let error = node.prepare(&unpacked, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(error.message.contains("no space left on device"), "{error}");
    assert!(node.registry.served(&unpacked_layers[1].0) > 0);
    // Of what does not fit nothing stays: others need the room.
    assert_eq!(node.ctr(&["content", "active"]).lines().count(), 1, "{}", node.ctr(&["content", "active"]));
    for dropped in [&layers[1].0, &unpacked_layers[1].0] {
        assert!(!node.ctr(&["content", "ls", "-q"]).contains(dropped));
    }
    assert_eq!(node.ctr(&["leases", "ls", "-q"]).trim(), "");
    assert_eq!(node.prepare(&before, PullPolicy::IfNotPresent).await, Ok(Prepared::AsAsked));
    let other = node.prepare(&after, PullPolicy::IfNotPresent).await;
    assert!(matches!(other, Ok(Prepared::Pulled { .. })), "{other:?}");

    node.containerd.resize(400);
    let healed = wait_for(async || node.prepare(&large, PullPolicy::IfNotPresent).await.ok()).await;
    assert!(matches!(healed, Prepared::Pulled { .. }), "{healed:?}");
}

#[tokio::test]
async fn what_an_agent_that_died_had_fetched_is_not_fetched_again() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(13);
    let image = node.registry.push("a", "1", &pushed);
    let (digest, size) = &layers[1];
    node.registry.fault(digest, 9, Act::StallAt(size * 9 / 10));
    let dying = node.another();
    let wanted = container(&image, PullPolicy::IfNotPresent);
    tokio::select! {
        ended = dying.prepare(ImageWanted::quietly(&wanted)) => panic!("it waits for the rest: {ended:?}"),
        () = wait_for(async || (node.arrived(digest).await >= size * 9 / 10).then_some(())) => {}
    }
    // A killed process would be gone at once; here the pull ends by itself, at its stall or after its grace.
    let mut pulls = dying.pulls();
    drop(dying);
    let has = || node.ctr(&["content", "active"]).contains(digest);
    assert!(has(), "{}", node.ctr(&["content", "active"]));
    assert!(!node.ctr(&["leases", "ls", "-q"]).trim().is_empty());
    // What is shown is not to be held: the display would wait for it, on this thread.
    let ended = tokio::time::timeout(PATIENCE, pulls.wait_for(|pulls| pulls.is_empty())).await.is_ok();
    assert!(ended, "the pull that nobody wants ends");
    assert!(has(), "its bytes stay");
    node.registry.go_on();
    let prepared = prepare(&node.another(), &image, PullPolicy::IfNotPresent).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    let again = node.registry.served(digest) - size;
    assert!(again * 100 <= *size, "{again} of {size}");
    assert_eq!(node.ctr(&["leases", "ls", "-q"]).trim(), "", "also the dead agent's lease was given back");
}

#[tokio::test]
async fn layers_that_do_not_unpack_to_what_the_configuration_says_get_no_name() {
    let Some(node) = Node::start() else { return };
    let mut image = Image::busybox("any:1").unwrap().gzip();
    let (honest, _) = layout(image.clone());
    image.layers[0] = noise(15, 1024);
    let (other, _) = layout(image);
    // The manifest of one with the configuration of the other.
    let manifest = |layout: &Layout| -> serde_json::Value {
        serde_json::from_slice(&layout.blobs[layout.manifests[0]["digest"].as_str().unwrap()]).unwrap()
    };
    let mut lying = manifest(&honest);
    lying["config"] = manifest(&other)["config"].clone();
    let bytes = lying.to_string().into_bytes();
    let mut pushed = honest.clone();
    pushed.blobs.extend(other.blobs);
    pushed.manifests = vec![json!({
        "mediaType": honest.manifests[0]["mediaType"], "digest": tests::image::digest(&bytes), "size": bytes.len()
    })];
    pushed.blobs.insert(tests::image::digest(&bytes), bytes);
    let image = node.registry.push("liar", "1", &pushed);
    let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(error.message.contains("diff_ids"), "{error}");
    assert_eq!(node.ctr(&["images", "ls", "-q"]).trim(), "");
}
