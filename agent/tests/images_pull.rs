//! Pulls against a real containerd of the test's own and a registry that fails as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::image_pull::Stage;
use agent::registry;
use agent::runtime::containerd::client::Client;
use agent::runtime::containerd::images::Images;
use agent::runtime::containerd::images::pull::Settings;
use agent::runtime::containerd::images::pull::schedule::Backoff;
use agent::seams::{ImageNews, ImageWanted, Prepared, StepError};
use containerd_client::services::v1::ListStatusesRequest;
use pod::secret::{DockerConfig, SecretKey};
use pod::spec::PullPolicy;
use serde_json::json;
use support::container;
use support::containerd::Containerd;
use tests::image::{Image, Layout, Tarball};
use tests::scripted_registry::{Act, ScriptedRegistry};

const NAMESPACE: &str = "daemonlet-pull-test";
/// Any test's wait for something that takes moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    containerd: Containerd,
    registry: ScriptedRegistry,
    images: Images,
}

impl Node {
    fn start() -> Option<Node> {
        Node::with(settings())
    }

    fn with(settings: Settings) -> Option<Node> {
        let containerd = Containerd::start()?;
        let images = images(&containerd, settings);
        Some(Node { containerd, registry: ScriptedRegistry::start(), images })
    }

    /// Another agent on the same containerd, as after a restart.
    fn another(&self) -> Images {
        images(&self.containerd, settings())
    }

    async fn prepare(&self, image: &str, policy: PullPolicy) -> Result<Prepared, StepError> {
        prepare(&self.images, image, policy).await
    }

    /// What comes of the first try after the pause of the one that failed.
    async fn after_its_pause(&self, image: &str, policy: PullPolicy) -> Result<Prepared, StepError> {
        wait_for(async || match self.prepare(image, policy).await {
            Err(error) if error.reason == "ImagePullBackOff" => None,
            other => Some(other),
        })
        .await
    }

    /// Bytes of this blob that containerd has, and that no commit has made content.
    async fn arrived(&self, digest: &str) -> u64 {
        let client = Client::new(&self.containerd.socket(), NAMESPACE).unwrap();
        let request = client.request(ListStatusesRequest { filters: Vec::new() });
        let statuses = client.content().list_statuses(request).await.unwrap().into_inner().statuses;
        let ours = statuses.iter().find(|status| status.r#ref.contains(digest));
        ours.map_or(0, |status| status.offset.try_into().unwrap())
    }

    fn ctr(&self, args: &[&str]) -> String {
        self.containerd.ctr(NAMESPACE, args)
    }
}

fn images(containerd: &Containerd, settings: Settings) -> Images {
    Images::new(Client::new(&containerd.socket(), NAMESPACE).unwrap(), "overlayfs", settings)
}

/// Pauses of moments, so that a test need not wait for minutes.
fn settings() -> Settings {
    let backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(2) };
    let patience = registry::Patience {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(2),
        document: Duration::from_secs(5),
        ..Default::default()
    };
    Settings { registry: registry::Settings { patience, ..Default::default() }, backoff, ..Default::default() }
}

/// A registry that is held until the test goes on is none that stalls, however busy the machine is.
fn unhurried() -> Settings {
    let mut settings = settings();
    (settings.registry.patience.stall, settings.registry.patience.document) = (PATIENCE, PATIENCE);
    settings
}

/// Looks again and again until there is something to see.
async fn wait_for<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(seen) => return seen,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it is seen in time")
}

async fn prepare(images: &Images, image: &str, policy: PullPolicy) -> Result<Prepared, StepError> {
    let container = container(image, policy);
    tokio::time::timeout(PATIENCE, images.prepare(ImageWanted::quietly(&container))).await.unwrap()
}

/// A layer of this many bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    Tarball::new().file(&format!("noise-{seed}"), 0o644, &words.collect::<Vec<u8>>()).bytes()
}

/// The layout, and its layers' digests and sizes, lowest first.
fn layout(image: Image) -> (Layout, Vec<(String, u64)>) {
    let layers = image.layers.iter().map(|layer| (tests::image::digest(layer), layer.len() as u64)).collect();
    (Layout::of(&[image]), layers)
}

fn two_layers(seed: u64) -> (Layout, Vec<(String, u64)>) {
    layout(Image::busybox("any:1").unwrap().layer(noise(seed, 8 << 20)))
}

#[tokio::test]
async fn a_tag_is_pulled_unpacked_labelled_and_runs() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(1);
    let image = node.registry.push("some/where", "v1", &pushed);
    let told = AtomicUsize::new(0);
    let news = |news| {
        assert_eq!(news, ImageNews::Pulling);
        told.fetch_add(1, Ordering::Relaxed);
    };
    let wanted = container(&image, PullPolicy::IfNotPresent);
    let prepared = node.images.prepare(ImageWanted { news: &news, ..ImageWanted::quietly(&wanted) }).await.unwrap();
    let Prepared::Pulled { message } = prepared else { panic!("{prepared:?}") };
    assert!(message.starts_with(&format!("Successfully pulled image \"{image}\" in ")), "{message}");
    assert!(message.ends_with(" bytes."), "{message}");
    assert_eq!(told.load(Ordering::Relaxed), 1);

    let facts = node.images.facts(&image).await.unwrap();
    assert!(node.ctr(&["snapshots", "info", &facts.chain_id]).contains("Committed"));
    let content = node.ctr(&["content", "ls"]);
    let source = format!("containerd.io/distribution.source.{}=some/where", node.registry.host());
    assert_eq!(content.matches(&source).count(), 4, "manifest, configuration and two layers: {content}");
    assert!(content.contains(&format!("containerd.io/gc.ref.content.l.1={}", layers[1].0)), "{content}");
    assert_eq!(node.ctr(&["leases", "ls", "-q"]).trim(), "", "every lease was given back");
    assert_eq!(node.prepare(&image, PullPolicy::IfNotPresent).await, Ok(Prepared::AsAsked));
    assert_eq!(node.registry.asked("GET"), 4, "what is here is asked of nobody: {:?}", node.registry.requests());
    let id = format!("pull-test-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", &image, &id, "/bin/sh", "-c", "echo from-the-image"]);
    assert!(out.contains("from-the-image"), "{out}");
}

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

/// A mirror with the same content before the node's registry, and an agent that knows it.
fn mirrored(node: &Node, layouts: &[(&str, &Layout)]) -> (ScriptedRegistry, Images) {
    let mirror = ScriptedRegistry::start();
    for (repository, layout) in layouts {
        mirror.push(repository, "1", layout);
    }
    let hosts_dir = node.containerd.dir().join("certs.d");
    let own = hosts_dir.join(node.registry.host());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("[host.\"http://{}\"]\n", mirror.host())).unwrap();
    let mut settings = settings();
    settings.registry.hosts_dir = Some(hosts_dir);
    (mirror, images(&node.containerd, settings))
}

#[tokio::test]
async fn a_mirror_that_cuts_stalls_lies_or_sends_nothing_is_passed_over_for_the_registry() {
    let Some(node) = Node::start() else { return };
    let cuts = |n: u64| Act::CutAt((n + 1) << 20);
    let ways: [(&str, Vec<Act>); 4] = [
        ("cuts", (0..5).map(cuts).collect()),
        ("nothing", vec![Act::CutAt(0); 9]),
        ("stalls", vec![Act::StallAt(1 << 20); 9]),
        ("lies", vec![Act::WrongAt(1000); 9]),
    ];
    for (seed, (way, acts)) in (30..).zip(ways) {
        let (layout, layers) = two_layers(seed);
        let (digest, size) = &layers[1];
        let image = node.registry.push(way, "1", &layout);
        let (mirror, images) = mirrored(&node, &[(way, &layout)]);
        for act in acts {
            mirror.fault(digest, 1, act);
        }
        let prepared = prepare(&images, &image, PullPolicy::IfNotPresent).await;
        assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{way}: {prepared:?}");
        let asked = mirror.asked(&format!("GET /v2/{way}/blobs/{digest}"));
        assert_eq!(asked, if way == "cuts" { 3 } else { 1 }, "{way}");
        let from_mirror = match way {
            "cuts" => 3 << 20,
            "stalls" => 1 << 20,
            _ => 0,
        };
        assert_eq!(node.registry.served(digest), size - from_mirror, "{way}: what came is not fetched again");
        mirror.go_on();
    }
}

#[tokio::test]
async fn a_mirror_that_lies_of_a_configuration_is_passed_over_too() {
    let Some(node) = Node::start() else { return };
    let (layout, _) = two_layers(34);
    let manifest: serde_json::Value =
        serde_json::from_slice(&layout.blobs[layout.manifests[0]["digest"].as_str().unwrap()]).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let image = node.registry.push("a", "1", &layout);
    let (mirror, images) = mirrored(&node, &[("a", &layout)]);
    mirror.fault(config, 9, Act::WrongAt(10));
    let prepared = prepare(&images, &image, PullPolicy::IfNotPresent).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    assert_eq!((mirror.asked(config), node.registry.asked(config)), (1, 1));
}

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

#[tokio::test]
async fn always_asks_and_pulls_only_what_has_changed() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(10);
    let image = node.registry.push("a", "1", &pushed);
    assert!(matches!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::Pulled { .. })));
    let before = node.images.facts(&image).await.unwrap().digest;
    let fetched = node.registry.asked("GET");
    assert_eq!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::AsAsked));
    assert_eq!((node.registry.asked("GET"), node.registry.asked("HEAD")), (fetched, 1));

    let (changed, _) = layout(Image::busybox("any:1").unwrap().layer(noise(11, 1 << 20)));
    node.registry.push("a", "1", &changed);
    assert_eq!(node.prepare(&image, PullPolicy::IfNotPresent).await, Ok(Prepared::AsAsked));
    assert!(matches!(node.prepare(&image, PullPolicy::Always).await, Ok(Prepared::Pulled { .. })));
    assert_ne!(node.images.facts(&image).await.unwrap().digest, before);
}

#[tokio::test]
async fn always_without_a_registry_uses_what_is_here_but_not_against_its_no() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(12);
    let image = node.registry.push("a", "1", &pushed);
    node.prepare(&image, PullPolicy::Always).await.unwrap();
    for (status, used, word) in [(503, true, "503"), (429, true, "429"), (401, false, "401"), (404, false, "not found")]
    {
        node.registry.go_on();
        node.registry.fault("manifests", 1000, Act::Status(status, Vec::new()));
        // The refusal before this one has its pause: until it is over, that refusal is what is said.
        let said = wait_for(async || {
            let said = node.prepare(&image, PullPolicy::Always).await;
            let text = match &said {
                Ok(Prepared::NotRefreshed { message }) => message.clone(),
                Err(error) => error.message.clone(),
                other => panic!("{status}: {other:?}"),
            };
            text.contains(word).then_some(said)
        });
        match said.await {
            Ok(Prepared::NotRefreshed { message }) => assert!(used, "{message}"),
            Err(error) => assert!(!used && error.reason == "ErrImagePull", "{status}: {error}"),
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn who_has_run_before_waits_only_a_moment_and_has_what_is_newer_the_next_time() {
    let Some(node) = Node::with(Settings { rate_limit: Some(1 << 20), ..settings() }) else { return };
    let (pushed, _) = layout(Image::empty("any:1").layer(noise(50, 1 << 10)));
    let image = node.registry.push("a", "1", &pushed);
    node.prepare(&image, PullPolicy::Always).await.unwrap();
    let before = node.images.facts(&image).await.unwrap().digest;
    let wanted = container(&image, PullPolicy::Always);
    let again = || ImageWanted { patience: Some(Duration::from_millis(500)), ..ImageWanted::quietly(&wanted) };
    assert_eq!(node.images.prepare(again()).await, Ok(Prepared::AsAsked), "a registry that answers is waited for");

    // Longer than a pull goes on that nobody wants.
    let (changed, _) = layout(Image::empty("any:1").layer(noise(51, 7 << 20)));
    node.registry.push("a", "1", &changed);
    match tokio::time::timeout(Duration::from_secs(4), node.images.prepare(again())).await.unwrap() {
        Ok(Prepared::NotRefreshed { message }) => assert!(message.contains("within 500ms"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.images.facts(&image).await.unwrap().digest, before);
    let newer = async || (node.images.facts(&image).await.unwrap().digest != before).then_some(());
    wait_for(newer).await;
    // Who comes while the last of it is done is told of it.
    wait_for(async || match node.images.prepare(again()).await {
        Ok(Prepared::AsAsked) => Some(()),
        Ok(Prepared::Pulled { .. }) => None,
        other => panic!("{other:?}"),
    })
    .await;
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
    let ended = tokio::time::timeout(Duration::from_secs(1), dying.prepare(ImageWanted::quietly(&wanted))).await;
    assert!(ended.is_err(), "it waits for the rest: {ended:?}");
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
async fn of_an_index_the_nodes_own_is_pulled_or_what_is_offered_is_listed() {
    let Some(node) = Node::start() else { return };
    let foreign = |arch: &str| Image::empty("any:1").platform("linux", arch).layer(noise(14, 1024));
    let own = Image::busybox("any:1").unwrap();
    let own_layer = tests::image::digest(&own.layers[0]);
    let pushed = Layout::multi_platform("any:1", &[foreign("s390x"), own]);
    let image = node.registry.push("a", "1", &pushed);
    assert!(matches!(node.prepare(&image, PullPolicy::IfNotPresent).await, Ok(Prepared::Pulled { .. })));
    assert_eq!(node.registry.asked("/blobs/"), 2, "its configuration and its layer: {:?}", node.registry.requests());
    assert!(node.registry.served(&own_layer) > 0);

    let image = node.registry.push("b", "1", &Layout::multi_platform("any:1", &[foreign("s390x"), foreign("riscv64")]));
    let error = node.prepare(&image, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(error.message.contains("linux/s390x") && error.message.contains("linux/riscv64"), "{error}");
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

#[tokio::test]
async fn layers_are_unpacked_while_later_ones_still_arrive_and_progress_shows() {
    let progress_after = Duration::from_millis(100);
    let Some(node) = Node::with(Settings { progress_after, ..settings() }) else { return };
    let (pushed, layers) = layout(Image::empty("any:1").layer(noise(18, 1 << 20)).layer(noise(19, 8 << 20)));
    let image = node.registry.push("a", "1", &pushed);
    node.registry.fault(&layers[1].0, 1, Act::StallAt(layers[1].1 / 2));
    let mut shown = node.images.pulls();
    let wanted = container(&image, PullPolicy::IfNotPresent);
    let seen = async {
        loop {
            shown.changed().await.unwrap();
            let half = shown.borrow_and_update().first().is_some_and(|pull| {
                matches!(pull.stage, Stage::Fetching(p) if (p.layers, p.total_layers) == (1, 2) && p.percent() >= 50)
            });
            if half {
                return;
            }
        }
    };
    let seen = async { tokio::time::timeout(PATIENCE, seen).await.expect("half of it shows, with a layer unpacked") };
    let told = Mutex::new(Vec::new());
    let news = |news| told.lock().unwrap().push(news);
    let (prepared, ()) =
        tokio::join!(node.images.prepare(ImageWanted { news: &news, ..ImageWanted::quietly(&wanted) }), seen);
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    let told = told.into_inner().unwrap();
    let said = |word: &str| told.iter().any(|news| matches!(news, ImageNews::Progress(words) if words.contains(word)));
    assert!(told[0] == ImageNews::Pulling && said("layer 2 of 2"), "{told:?}");
    // Each pause is twice the one before: of the two seconds of silence at most four words.
    assert!(told.len() < 12, "{told:?}");
}

#[tokio::test]
async fn an_archive_that_comes_during_a_pull_ends_the_wait() {
    let Some(node) = Node::start() else { return };
    let (pushed, layers) = two_layers(20);
    let image = node.registry.push("a", "1", &pushed);
    node.registry.fault(&layers[1].0, 9, Act::StallAt(0));
    let archive = node.containerd.dir().join("a.tar");
    let named = Image { names: vec![image.clone()], ..Image::busybox("any:1").unwrap() };
    std::fs::write(&archive, tests::image::oci_archive(&[named])).unwrap();
    let import = async {
        wait_for(async || (node.registry.asked(&layers[1].0) > 0).then_some(())).await;
        node.images.import_archive(&archive, "a.tar 1 2").await.unwrap();
    };
    let (prepared, ()) = tokio::join!(node.prepare(&image, PullPolicy::IfNotPresent), import);
    assert_eq!(prepared, Ok(Prepared::AsAsked));
}

#[tokio::test]
async fn a_pods_secret_opens_its_registry_and_a_missing_one_is_said() {
    let Some(node) = Node::start() else { return };
    let (pushed, _) = two_layers(21);
    let image = node.registry.push("private/a", "1", &pushed);
    node.registry.require("someone", "secret-word");
    let container = container(&image, PullPolicy::IfNotPresent);
    let missing = std::sync::Mutex::new(Vec::new());
    let news = |news| {
        if let ImageNews::SecretsMissing(names) = news {
            missing.lock().unwrap().extend(names);
        }
    };
    let secrets = ["login".to_owned()];
    let wanted = ImageWanted { namespace: "ns", secrets: &secrets, news: &news, ..ImageWanted::quietly(&container) };
    let error = node.images.prepare(wanted).await.unwrap_err();
    assert!(error.message.contains("401") && !error.message.contains("secret-word"), "{error}");
    assert_eq!(*missing.lock().unwrap(), ["login"]);

    let config = json!({"auths": {node.registry.host(): {"username": "someone", "password": "secret-word"}}});
    let key = |namespace: &str| SecretKey { namespace: namespace.into(), name: "login".into() };
    let config = DockerConfig::new(config.to_string().into_bytes());
    node.images.set_secrets([(key("other"), config.clone())].into());
    let error = node.images.prepare(wanted).await.unwrap_err();
    assert!(error.message.contains("401"), "another namespace's Secret opens nothing: {error}");
    node.images.set_secrets([(key("ns"), config)].into());
    tokio::time::timeout(PATIENCE, node.images.secrets_changed()).await.expect("whoever waits is woken");
    let prepared = node.images.prepare(wanted).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
}
