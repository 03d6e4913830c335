//! Pulls beside each other: of one image, of shared layers, of slow registries, under one limit, each with its lease.

use super::*;

#[tokio::test]
async fn thirty_pods_are_one_pull() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(5);
    let image = node.registry.push("a", "1", &pushed);
    let mut pods = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (images, image) = (node.images.clone(), image.clone());
        pods.spawn(async move { prepare(&images, &image, PullPolicy::Always).await });
    }
    while let Some(prepared) = pods.join_next().await {
        assert!(matches!(prepared.unwrap(), Ok(Prepared::Pulled { .. })));
    }
    assert_eq!(node.registry.asked("GET /v2/a/manifests/1"), 1, "{:?}", node.registry.requests());
    assert_eq!(node.registry.served(&layers[1].0), layers[1].1);
}

#[tokio::test]
async fn images_that_share_layers_fetch_them_once() {
    let Some(node) = Node::start() else { return };
    let base = || Image::busybox("any:1").unwrap().layer(noise(6, 8 << 20));
    let (first, shared) = layout(base().layer(noise(7, 1 << 20)));
    let (second, _) = layout(base().layer(noise(8, 1 << 20)));
    let (a, b) = (node.registry.push("a", "1", &first), node.registry.push("b", "1", &second));
    let both = tokio::join!(node.prepare(&a, PullPolicy::IfNotPresent), node.prepare(&b, PullPolicy::IfNotPresent));
    assert!(matches!(both, (Ok(Prepared::Pulled { .. }), Ok(Prepared::Pulled { .. }))), "{both:?}");
    for (digest, size) in &shared[..2] {
        assert_eq!(node.registry.served(digest), *size);
    }
}

/// Two pods' login Secrets of one name in two namespaces.
fn two_secrets(images: &Images, host: &str) {
    let config = |user: &str| {
        let config = json!({"auths": {host: {"username": user, "password": "any"}}});
        DockerConfig::new(config.to_string().into_bytes())
    };
    let key = |namespace: &str| SecretKey { namespace: namespace.into(), name: "login".into() };
    images.set_secrets([(key("a"), config("a")), (key("b"), config("b"))].into());
}

#[tokio::test]
async fn a_pull_that_ends_leaves_the_lease_of_another_pull_of_the_same_image() {
    let Some(node) = Node::with(unhurried()) else { return };
    let (pushed, _) = two_layers(40);
    let image = node.registry.push("a", "1", &pushed);
    two_secrets(&node.images, &node.registry.host());
    node.registry.fault("manifests/1", 1, Act::HoldAt(0));
    let container = container(&image, PullPolicy::IfNotPresent);
    let secrets = ["login".to_owned()];
    let of = |namespace| {
        let wanted = ImageWanted { namespace, secrets: &secrets, ..ImageWanted::quietly(&container) };
        tokio::time::timeout(PATIENCE, node.images.prepare(wanted))
    };
    let leases = || node.ctr(&["leases", "ls", "-q"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let first = async {
        let prepared = of("a").await.unwrap();
        assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    };
    let second = async {
        wait_for(async || (node.registry.asked("manifests/1") == 1).then_some(())).await;
        let [held] = leases().try_into().expect("the first pull's lease");
        let prepared = of("b").await.unwrap();
        assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
        assert_eq!(leases(), [held], "the first pull goes on under it");
        node.registry.go_on();
    };
    tokio::join!(first, second);
    assert!(leases().is_empty(), "{:?}", leases());
}

#[tokio::test]
async fn a_pull_whose_lease_was_taken_away_takes_another_at_once() {
    let Some(node) = Node::with(unhurried()) else { return };
    let (pushed, _) = two_layers(41);
    let image = node.registry.push("a", "1", &pushed);
    node.registry.fault("manifests/1", 1, Act::HoldAt(0));
    let thief = async {
        wait_for(async || (node.registry.asked("manifests/1") == 1).then_some(())).await;
        for lease in node.ctr(&["leases", "ls", "-q"]).lines() {
            node.ctr(&["leases", "delete", lease]);
        }
        node.registry.go_on();
    };
    let (prepared, ()) = tokio::join!(node.prepare(&image, PullPolicy::IfNotPresent), thief);
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
}

#[tokio::test]
async fn a_try_that_takes_longer_than_its_lease_lives_loses_nothing() {
    let mut settings = settings();
    // Longer than what is done between two renewals takes on a busy machine.
    settings.lease_life = Duration::from_secs(20);
    settings.registry.patience.stall = PATIENCE;
    let Some(node) = Node::with(settings) else { return };
    let (pushed, layers) = two_layers(42);
    let image = node.registry.push("a", "1", &pushed);
    let (digest, size) = &layers[1];
    node.registry.fault(digest, 99, Act::StallAt(size * 9 / 10));
    let slow = async {
        // Nine tenths of the 8 MiB have arrived; what was on its way when a lease was renewed was fetched again.
        wait_for(async || (node.arrived(digest).await >= size * 9 / 10).then_some(())).await;
        let served = node.registry.served(digest);
        let first = node.ctr(&["leases", "ls", "-q"]);
        wait_for(async || {
            // Whatever ends lets containerd collect what has expired.
            node.ctr(&["leases", "create", "--id", "other"]);
            node.ctr(&["leases", "delete", "--sync", "other"]);
            let now = node.ctr(&["leases", "ls", "-q"]);
            first.lines().all(|lease| !now.contains(lease)).then_some(())
        })
        .await;
        node.registry.go_on();
        served
    };
    let (prepared, before) = tokio::join!(node.prepare(&image, PullPolicy::IfNotPresent), slow);
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    let after = node.registry.served(digest) - before;
    assert!(after <= size / 10 + size / 100, "{after} of {size} after nine tenths were there");
}

#[tokio::test]
async fn two_slow_registries_do_not_keep_a_third_image_waiting() {
    let mut settings = settings();
    settings.registry.patience.stall = PATIENCE;
    let Some(node) = Node::with(settings) else { return };
    let slow = [ScriptedRegistry::start(), ScriptedRegistry::start()];
    for (n, registry) in (0..).zip(&slow) {
        let layers = (0..4).map(|seed| noise(50 + 10 * n + seed, 1 << 20));
        let image = registry.push("slow", "1", &Layout::of(&[layers.fold(Image::empty("any:1"), Image::layer)]));
        registry.fault("/blobs/", 999, Act::StallAt(1000));
        let images = node.images.clone();
        tokio::spawn(async move { prepare(&images, &image, PullPolicy::IfNotPresent).await });
    }
    let (pushed, _) = two_layers(70);
    let image = node.registry.push("quick", "1", &pushed);
    // Their configurations, which are short, and then three layers each: all places are taken.
    wait_for(async || slow.iter().all(|registry| registry.asked("/blobs/") >= 4).then_some(())).await;
    let prepared = tokio::time::timeout(PATIENCE / 2, node.prepare(&image, PullPolicy::IfNotPresent)).await;
    assert!(matches!(prepared, Ok(Ok(Prepared::Pulled { .. }))), "{prepared:?}");
}

#[tokio::test]
async fn the_nodes_limit_holds_over_all_downloads() {
    let Some(node) = Node::with(Settings { rate_limit: Some(4 << 20), ..settings() }) else { return };
    let (pushed, _) = layout(Image::empty("any:1").layer(noise(16, 4 << 20)).layer(noise(17, 4 << 20)));
    let image = node.registry.push("a", "1", &pushed);
    let begun = std::time::Instant::now();
    node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap();
    // Two seconds' worth, less the burst.
    assert!(begun.elapsed() > Duration::from_millis(1700), "{:?}", begun.elapsed());
}
