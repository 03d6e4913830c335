//! Pulls against a real containerd of the test's own and a registry that fails as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod faults;
mod mirrors;
mod policies;
#[path = "../support/mod.rs"]
mod support;
mod together;

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
use support::containerd::Containerd;
use support::{container, noise, soon_seen};
use tests::image::{Image, Layout};
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
    soon_seen("there is something to see", async || look().await.ok_or_else(|| "nothing".to_owned())).await
}

async fn prepare(images: &Images, image: &str, policy: PullPolicy) -> Result<Prepared, StepError> {
    let container = container(image, policy);
    tokio::time::timeout(PATIENCE, images.prepare(ImageWanted::quietly(&container))).await.unwrap()
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
async fn a_digest_alone_or_beside_a_tag_is_these_bytes_wherever_the_tag_points() {
    let Some(node) = Node::start() else { return };
    let (first, _) = two_layers(22);
    let tagged = node.registry.push("a", "1", &first);
    let digest = first.manifests[0]["digest"].as_str().unwrap().to_owned();
    let (moved, _) = layout(Image::empty("any:1").layer(noise(23, 1 << 10)));
    node.registry.push("a", "1", &moved);
    let (alone, both) = (format!("{}/a@{digest}", node.registry.host()), format!("{tagged}@{digest}"));
    let pulled = node.prepare(&both, PullPolicy::IfNotPresent).await;
    assert!(matches!(pulled, Ok(Prepared::Pulled { .. })), "{pulled:?}");
    assert_eq!(node.images.facts(&both).await.unwrap().digest, digest);
    // The bytes are here, and nothing else can be meant: nobody is asked again.
    let asked = node.registry.requests().len();
    for (image, policy) in [(&alone, PullPolicy::IfNotPresent), (&both, PullPolicy::Always)] {
        assert_eq!(node.prepare(image, policy).await, Ok(Prepared::AsAsked), "{image}");
        assert_eq!(node.images.facts(image).await.unwrap().digest, digest);
    }
    assert_eq!(node.registry.requests().len(), asked, "{:?}", node.registry.requests());
    assert_eq!(node.registry.asked("manifests/1"), 0, "the tag is asked of nobody");

    node.prepare(&tagged, PullPolicy::IfNotPresent).await.unwrap();
    assert_ne!(node.images.facts(&tagged).await.unwrap().digest, digest, "the tag alone is what it is now");
    let absent = format!("{}/a@sha256:{}", node.registry.host(), "0".repeat(64));
    let error = node.prepare(&absent, PullPolicy::IfNotPresent).await.unwrap_err();
    assert!(error.message.contains("not found"), "{error}");
}

/// The same with the media types of Docker's schema 2, behind a manifest list.
fn of_docker(image: Image) -> Layout {
    let renamed = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let docker = |kind: &str| format!("application/vnd.docker.{kind}");
        text.replace("application/vnd.oci.image.manifest.v1+json", &docker("distribution.manifest.v2+json"))
            .replace("application/vnd.oci.image.config.v1+json", &docker("container.image.v1+json"))
            .replace("application/vnd.oci.image.layer.v1.tar+gzip", &docker("image.rootfs.diff.tar.gzip"))
    };
    let mut layout = Layout::of(&[image]);
    let manifest = renamed(&layout.blobs[layout.manifests[0]["digest"].as_str().unwrap()]);
    let list_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let list = json!({"schemaVersion": 2, "mediaType": list_type, "manifests": [{
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": tests::image::digest(manifest.as_bytes()), "size": manifest.len(),
        "platform": {"os": "linux", "architecture": tests::image::host_architecture()},
    }]});
    let list = list.to_string();
    layout.manifests = vec![json!({"mediaType": list_type, "digest": tests::image::digest(list.as_bytes())})];
    for document in [manifest, list] {
        layout.blobs.insert(tests::image::digest(document.as_bytes()), document.into_bytes());
    }
    layout
}

#[tokio::test]
async fn an_image_in_docker_s_own_format_is_pulled_unpacked_and_runs() {
    let Some(node) = Node::start() else { return };
    let image = node.registry.push("a", "1", &of_docker(Image::busybox("any:1").unwrap().gzip()));
    let pulled = node.prepare(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(pulled, Ok(Prepared::Pulled { .. })), "{pulled:?}");
    let id = format!("docker-test-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", &image, &id, "/bin/sh", "-c", "echo from-the-image"]);
    assert!(out.contains("from-the-image"), "{out}");
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
