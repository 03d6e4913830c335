//! Images that come and go by hand and for the disk's sake, against a real containerd of the test's own: what is kept, what is
//! removed, what that frees, and archives out of the content store.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use agent::board::Board;
use agent::collect::Collector;
use agent::config::ImageGc;
use agent::registry;
use agent::runtime::containerd::client::Client;
use agent::runtime::containerd::images::documents::OCI_INDEX;
use agent::runtime::containerd::images::export::ExportError;
use agent::runtime::containerd::images::pull::Settings;
use agent::runtime::containerd::images::reference::Reference;
use agent::runtime::containerd::images::store::Lease;
use agent::runtime::containerd::images::{ImageError, Images};
use agent::seams::{ImageShelf, ImageStore, Keep, Removed, ShelvedImage};
use pod::desired::DesiredSet;
use pod::secret::{DockerConfig, SecretKey};
use serde_json::{Value, json};
use support::containerd::Containerd;
use support::noise;
use tests::image::{Image, Layout, digest, oci_archive};
use tests::scripted_registry::{Act, ScriptedRegistry};
use tokio::sync::watch;

const NAMESPACE: &str = "daemonlet-shelf-test";
const MIB: u64 = 1 << 20;
const NO_SECRETS: (&str, &[String]) = ("default", &[]);
/// Any test's wait for something that takes moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    containerd: Containerd,
    images: Images,
}

impl Node {
    fn start() -> Option<Node> {
        Some(Node::on(Containerd::start()?))
    }

    fn on(containerd: Containerd) -> Node {
        let images = images(&containerd);
        // The image directory is empty.
        images.lying(BTreeSet::new());
        Node { containerd, images }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.containerd.dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    async fn import(&self, images: &[Image]) {
        let file = self.file("import.tar", &oci_archive(images));
        self.images.import_by_hand(&file).await.unwrap();
        std::fs::remove_file(file).unwrap();
    }

    /// What keeps each image, by the first of its names.
    async fn shelf(&self, wanted: &[&str]) -> Vec<(String, Option<Keep>)> {
        let shelf = self.images.shelf(&set(wanted)).await.unwrap();
        shelf
            .into_iter()
            .map(|image| (image.names[0].clone(), image.keep))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect()
    }

    async fn one(&self, name: &str) -> ShelvedImage {
        let shelf = self.images.shelf(&set(&[])).await.unwrap();
        shelf.into_iter().find(|image| image.names.contains(&full(name))).unwrap()
    }

    async fn remove(&self, name: &str) -> Removed {
        let image = self.one(name).await;
        self.images.remove(&image, &BTreeSet::new).await.unwrap()
    }

    fn ctr(&self, args: &[&str]) -> String {
        self.containerd.ctr(NAMESPACE, args)
    }
}

/// Another agent on the same containerd, as after a restart.
fn images(containerd: &Containerd) -> Images {
    let patience = registry::Patience {
        connect: Duration::from_secs(5),
        // Longer than any answer is held back.
        stall: PATIENCE,
        document: Duration::from_secs(5),
        ..registry::Patience::default()
    };
    let hosts_dir = containerd.dir().join("certs.d");
    std::fs::create_dir_all(hosts_dir.join("docker.io")).unwrap();
    std::fs::write(hosts_dir.join("docker.io/hosts.toml"), "server = \"http://127.0.0.1:1\"\n").unwrap();
    let registry = registry::Settings { patience, hosts_dir: Some(hosts_dir), ..Default::default() };
    let settings = Settings { registry, ..Settings::default() };
    Images::new(Client::new(&containerd.socket(), NAMESPACE).unwrap(), "overlayfs", settings)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn full(name: &str) -> String {
    reference(name).record_name()
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

/// An image of one layer of its own.
fn image(name: &str, seed: u64, mib: u64) -> Image {
    Image::empty(&full(name)).layer(noise(seed, mib * MIB))
}

fn collector(images: &Images, settings: ImageGc) -> (Collector<Images>, Board, watch::Sender<DesiredSet>) {
    let (board, _commands) = Board::new();
    let (desired, set) =
        watch::channel(DesiredSet { complete: true, heard: pod::desired::Source::ALL.into(), ..DesiredSet::default() });
    (Collector::new(images.clone(), settings, board.clone(), set), board, desired)
}

#[tokio::test]
async fn a_full_disk_loses_the_longest_unused_images_until_there_is_room() {
    let Some(containerd) = Containerd::start_small(120) else { return };
    let node = Node::on(containerd);
    // Each is there twice: packed, and unpacked.
    for (seed, name) in ["kept:1", "oldest:1", "older:1", "newest:1"].into_iter().enumerate() {
        node.import(&[image(name, seed as u64, 12)]).await;
    }
    assert!(node.images.pin(&reference("kept:1"), true).await.unwrap());
    let minimum_age = Duration::ZERO;
    let settings = ImageGc { high_threshold: 70, low_threshold: 65, minimum_age, maximum_age: None };
    let (collector, board, _desired) = collector(&node.images, settings);
    collector.look(jiff::Timestamp::now()).await;
    let left: Vec<String> = node.shelf(&[]).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, [full("kept:1"), full("newest:1"), full("older:1")], "80% of the disk were used, then 60%");
    assert_eq!(board.node().disk_pressure, None);

    let settings = ImageGc { high_threshold: 10, low_threshold: 5, ..settings };
    let (collector, board, _desired) = self::collector(&node.images, settings);
    collector.look(jiff::Timestamp::now()).await;
    assert_eq!(node.shelf(&[]).await, [(full("kept:1"), Some(Keep::Pinned))]);
    let said = board.node().disk_pressure.expect("the pinned one alone is too much");
    assert!(said.contains("1 pinned") && said.contains("/root"), "{said}");
}

#[tokio::test]
async fn what_pods_pins_containers_and_the_image_directory_need_stays() {
    let Some(node) = Node::start() else { return };
    let busybox = Image::busybox(&full("run:1")).unwrap();
    node.import(&[image("wanted:1", 1, 1), image("pinned:1", 2, 1), image("free:1", 3, 1), busybox]).await;
    let archive = node.file("lies.tar", &oci_archive(&[image("lies:1", 4, 1).also_named(&full("also:1"))]));
    node.images.import_archive(&archive, "stamp").await.unwrap();
    node.images.lying(set(&["stamp"]));
    assert!(node.images.pin(&reference("pinned:1"), true).await.unwrap());
    assert!(!node.images.pin(&reference("absent:1"), true).await.unwrap());
    let id = format!("shelf-test-{}", std::process::id());
    node.ctr(&["container", "create", &full("run:1"), &id]);

    let keeps = node.shelf(&["wanted:1"]).await;
    let expected = [
        ("also:1", Some(Keep::Lies)),
        ("free:1", None),
        ("pinned:1", Some(Keep::Pinned)),
        ("run:1", Some(Keep::Needed)),
        ("wanted:1", Some(Keep::Needed)),
    ];
    assert_eq!(keeps, expected.map(|(name, keep)| (full(name), keep)));
    let by_digest = format!("other.example/x@{}", node.one("free:1").await.digest);
    assert_eq!(node.shelf(&[&by_digest]).await[1], (full("free:1"), Some(Keep::Needed)));

    let (collector, ..) = collector(&node.images, ImageGc::default());
    let pruned = collector.prune(false).await.unwrap();
    // Neither manifest nor record wants anything here.
    let names: BTreeSet<String> = pruned.images.iter().map(|(image, _)| image.names[0].clone()).collect();
    assert_eq!(names, set(&[&full("free:1"), &full("wanted:1")]));

    node.ctr(&["container", "rm", &id]);
    assert!(node.images.pin(&reference("pinned:1"), false).await.unwrap());
    node.images.lying(BTreeSet::new());
    assert_eq!(collector.prune(false).await.unwrap().images.len(), 3);
    assert_eq!((node.ctr(&["content", "ls", "-q"]).trim(), node.ctr(&["leases", "ls", "-q"]).trim()), ("", ""));
}

#[tokio::test]
async fn an_image_that_becomes_wanted_while_it_is_removed_stays() {
    let Some(node) = Node::start() else { return };
    node.import(&[image("a:1", 1, 1)]).await;
    let image = node.one("a:1").await;
    assert_eq!(node.images.remove(&image, &|| set(&["a:1"])).await.unwrap(), Removed::Kept);
    assert_eq!(node.shelf(&[]).await.len(), 1);
    assert!(matches!(node.images.remove(&image, &BTreeSet::new).await.unwrap(), Removed::Gone { .. }));
    assert_eq!(node.images.remove(&image, &BTreeSet::new).await.unwrap(), Removed::Kept, "it is gone");
}

#[tokio::test]
async fn last_use_and_pins_outlive_the_agent() {
    let Some(node) = Node::start() else { return };
    node.import(&[image("a:1", 1, 1), image("b:1", 2, 1)]).await;
    let came = node.one("a:1").await;
    let later = came.last_used + Duration::from_secs(7);
    // What cannot be written down of one (containerd takes no message of this size) keeps nothing from the others.
    let odd = ShelvedImage { names: vec!["a".repeat(20 << 20)], ..came.clone() };
    node.images.mark_used(&[odd, came.clone()], later).await.unwrap_err();
    node.images.pin(&reference("b:1"), true).await.unwrap();
    let used = node.one("a:1").await.last_used;
    assert_eq!(used, later);

    let another = images(&node.containerd);
    another.lying(BTreeSet::new());
    let shelf = another.shelf(&set(&[])).await.unwrap();
    let find = |name: &str| shelf.iter().find(|image| image.names.contains(&full(name))).unwrap();
    assert_eq!((find("a:1").last_used, find("a:1").keep), (used, None));
    assert_eq!(find("b:1").keep, Some(Keep::Pinned));
    // And a pin outlives that its image is imported anew.
    node.import(&[image("b:1", 3, 1)]).await;
    assert_eq!(node.one("b:1").await.keep, Some(Keep::Pinned));
}

#[tokio::test]
async fn only_what_nothing_else_has_counts_as_freed() {
    let Some(node) = Node::start() else { return };
    let base = noise(1, 4 * MIB);
    let two = |name: &str, seed| Image::empty(&full(name)).layer(base.clone()).layer(noise(seed, 2 * MIB));
    node.import(&[two("a:1", 2), two("b:1", 3)]).await;
    let Removed::Gone { freed } = node.remove("a:1").await else { panic!("nothing keeps it") };
    assert!((4 * MIB..5 * MIB).contains(&freed), "its own layer, packed and unpacked: {freed}");

    // Another namespace has the same content.
    let file = node.file("b.tar", &oci_archive(&[two("b:1", 3)]));
    node.containerd.ctr("somebody-else", &["images", "import", "--no-unpack", file.to_str().unwrap()]);
    let Removed::Gone { freed } = node.remove("b:1").await else { panic!("nothing keeps it") };
    assert!((6 * MIB..7 * MIB).contains(&freed), "what it had unpacked: {freed}");
    let theirs = node.containerd.ctr("somebody-else", &["images", "check"]);
    assert!(theirs.contains("complete"), "{theirs}");
}

async fn exported(images: &Images, names: &[&str]) -> Result<Vec<u8>, ExportError> {
    let references: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<hyper::body::Bytes>(1);
    let read = async {
        let mut archive = Vec::new();
        while let Some(piece) = pieces.recv().await {
            archive.extend_from_slice(&piece);
        }
        archive
    };
    let write = async {
        let outcome = images.export(&references, &sender).await;
        drop(sender);
        outcome
    };
    let (outcome, archive) = tokio::join!(write, read);
    outcome.map(|_| archive)
}

#[tokio::test]
async fn an_exported_archive_brings_the_same_digests_to_us_and_to_ctr() {
    let Some(node) = Node::start() else { return };
    let busybox = Image::busybox(&full("multi:1")).unwrap().gzip();
    let other = Image::empty(&full("multi:1")).platform("linux", "s390x").layer(noise(9, 1024));
    let file = node.file("multi.tar", &Layout::multi_platform(&full("multi:1"), &[other, busybox]).bytes());
    node.images.import_by_hand(&file).await.unwrap();
    node.import(&[image("quay.io/x/plain:2", 1, 3)]).await;
    let before: Vec<String> = [node.one("multi:1").await.digest, node.one("quay.io/x/plain:2").await.digest].into();

    let archive = exported(&node.images, &["multi:1", "quay.io/x/plain:2"]).await.unwrap();
    assert_eq!(node.ctr(&["leases", "ls", "-q"]).trim(), "", "every lease was given back");
    let (collector, ..) = collector(&node.images, ImageGc::default());
    assert_eq!(collector.prune(false).await.unwrap().images.len(), 2);
    assert_eq!(node.ctr(&["content", "ls", "-q"]).trim(), "");

    let file = node.file("export.tar", &archive);
    node.containerd.ctr("somebody-else", &["images", "import", file.to_str().unwrap()]);
    let theirs = node.containerd.ctr("somebody-else", &["images", "ls"]);
    assert!(before.iter().all(|digest| theirs.contains(digest)), "{theirs}");
    node.images.import_by_hand(&file).await.unwrap();
    assert_eq!([node.one("multi:1").await.digest, node.one("quay.io/x/plain:2").await.digest], before[..]);
    let id = format!("shelf-test-export-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", &full("multi:1"), &id, "/bin/sh", "-c", "echo it runs"]);
    assert!(out.contains("it runs"), "{out}");
}

#[tokio::test]
async fn damaged_content_and_what_is_not_there_are_not_exported() {
    let Some(node) = Node::start() else { return };
    assert!(matches!(exported(&node.images, &["a:1"]).await, Err(ExportError::NotFound { .. })));
    let layer = noise(1, MIB);
    let digest = tests::image::digest(&layer);
    node.import(&[Image::empty(&full("a:1")).layer(layer)]).await;
    let blob = node.containerd.dir().join("root/io.containerd.content.v1.content/blobs").join(digest.replace(':', "/"));
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let Err(ExportError::Image(ImageError::Damaged { image, reason })) = exported(&node.images, &["a:1"]).await else {
        panic!("its bytes are wrong");
    };
    assert!(image == digest && reason.contains("have digest sha256:"), "{image} {reason}");
}

#[tokio::test]
async fn a_damaged_archive_leaves_nothing_and_one_may_not_take_a_name_of_the_image_directory() {
    let Some(node) = Node::start() else { return };
    let whole = oci_archive(&[image("a:1", 1, 1)]);
    let cut = node.file("cut.tar", &whole[..whole.len() / 2]);
    let error = node.images.import_by_hand(&cut).await.unwrap_err().sentence();
    assert!(error.contains("cut.tar"), "{error}");
    let fifo = node.containerd.dir().join("fifo.tar");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error =
        tokio::time::timeout(PATIENCE, node.images.import_by_hand(&fifo)).await.expect("a FIFO is not waited for");
    assert!(error.unwrap_err().sentence().contains("no regular file"));
    assert_eq!(node.shelf(&[]).await, []);

    let lies = node.file("lies.tar", &oci_archive(&[image("a:1", 2, 1)]));
    node.images.import_archive(&lies, "stamp").await.unwrap();
    node.images.lying(set(&["stamp"]));
    let digest = node.one("a:1").await.digest;
    let other = node.file("other.tar", &whole);
    let error = node.images.import_by_hand(&other).await.unwrap_err().sentence();
    assert!(error.contains("image directory") && error.contains("a:1"), "{error}");
    assert_eq!(node.one("a:1").await.digest, digest);
    let error = node.images.pull_by_hand("a:1", &reference("a:1"), NO_SECRETS).await.unwrap_err();
    assert!(error.contains("image directory"), "{error}");
    // The same again is no contradiction.
    node.images.import_by_hand(&lies).await.unwrap();
    assert_eq!(node.one("a:1").await.keep, Some(Keep::Lies));
}

#[tokio::test]
async fn what_an_archive_brought_once_is_forgotten_with_an_import_by_hand_of_another() {
    let Some(node) = Node::start() else { return };
    let lies = node.file("lies.tar", &oci_archive(&[image("a:1", 2, 1)]));
    node.images.import_archive(&lies, "stamp").await.unwrap();
    let first = node.one("a:1").await.digest;
    // Its archive is moved away, another image takes the name, and the archive comes back.
    let other = node.file("other.tar", &oci_archive(&[image("a:1", 1, 1)]));
    node.images.import_by_hand(&other).await.unwrap();
    assert_ne!(node.one("a:1").await.digest, first);
    node.images.lying(set(&["stamp"]));
    assert_eq!(node.one("a:1").await.keep, None, "no archive that lies there brought this one");
    node.images.import_archive(&lies, "stamp").await.unwrap();
    let again = node.one("a:1").await;
    assert_eq!((again.digest, again.keep), (first, Some(Keep::Lies)));
}

#[tokio::test]
async fn an_image_is_exported_without_what_is_wrong_with_another_platforms() {
    let Some(node) = Node::start() else { return };
    let name = full("multi:1");
    let layer = noise(9, 1024);
    let digest = tests::image::digest(&layer);
    let mut layout = Layout::of(&[Image::empty(&name).platform("linux", "s390x").layer(layer)]);
    let mut other = layout.manifests.remove(0);
    let mut manifest: Value =
        serde_json::from_slice(&layout.blobs.remove(other["digest"].as_str().unwrap()).unwrap()).unwrap();
    manifest["layers"][0]["size"] = json!(7);
    let mut add = |mut descriptor: Value, bytes: Vec<u8>| {
        let digest = tests::image::digest(&bytes);
        (descriptor["digest"], descriptor["size"]) = (json!(digest), json!(bytes.len()));
        layout.blobs.insert(digest, bytes);
        descriptor
    };
    other = add(other, manifest.to_string().into_bytes());
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let own = Layout::of(&[Image::busybox(&name).unwrap().gzip()]);
    let mut here = own.manifests[0].clone();
    here["platform"] = json!({"os": "linux", "architecture": tests::image::host_architecture()});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, here]});
    let mut target = add(json!({"mediaType": OCI_INDEX}), index.to_string().into_bytes());
    target["annotations"] = json!({"io.containerd.image.name": name});
    layout.blobs.extend(own.blobs);
    layout.manifests.push(target);
    let file = node.file("multi.tar", &layout.bytes());
    node.ctr(&["images", "import", "--no-unpack", "--all-platforms", file.to_str().unwrap()]);
    assert!(
        node.ctr(&["content", "ls", "-q"]).contains(&digest),
        "containerd has all of it, and does not compare sizes"
    );
    let archive = exported(&node.images, &["multi:1"]).await.unwrap();
    let hex = digest.trim_start_matches("sha256:");
    assert!(!archive.windows(hex.len()).any(|bytes| bytes == hex.as_bytes()), "it is left out");
    node.images.import_by_hand(&node.file("again.tar", &archive)).await.unwrap();
}

#[tokio::test]
async fn a_pull_by_hand_brings_what_the_registry_has_and_says_when_it_is_here_already() {
    let Some(node) = Node::start() else { return };
    let registry = ScriptedRegistry::start();
    let written = registry.push("a/b", "1", &Layout::of(&[image("any:1", 1, 1)]));
    let name = reference(&written);
    let pull = || tokio::time::timeout(PATIENCE, node.images.pull_by_hand(&written, &name, NO_SECRETS));
    let first = pull().await.unwrap().unwrap();
    assert!(first.brought.is_some_and(|(size, _)| size >= MIB), "{first:?}");
    let again = pull().await.unwrap().unwrap();
    assert_eq!((again.brought, again.digest), (None, first.digest.clone()));
    registry.push("a/b", "1", &Layout::of(&[image("any:1", 2, 1)]));
    let moved = pull().await.unwrap().unwrap();
    assert!(moved.brought.is_some() && moved.digest != first.digest);
    let absent = format!("{}/a/c:1", registry.host());
    for _ in 0..2 {
        // The second one does not wait for the end of the first one's pause.
        let asked = registry.asked("/a/c/");
        let error = node.images.pull_by_hand(&absent, &reference(&absent), NO_SECRETS).await.unwrap_err();
        assert!(error.contains("/a/c"), "{error}");
        assert!(registry.asked("/a/c/") > asked);
    }
}

#[tokio::test]
async fn a_pull_by_hand_has_the_logins_of_the_secrets_that_it_names() {
    let Some(node) = Node::start() else { return };
    let registry = ScriptedRegistry::start();
    registry.require("someone", "secret-word");
    let written = registry.push("a/b", "1", &Layout::of(&[image("any:1", 1, 1)]));
    let name = reference(&written);
    let config = json!({"auths": {registry.host(): {"username": "someone", "password": "secret-word"}}});
    let key = SecretKey { namespace: "ns".into(), name: "login".into() };
    node.images.set_secrets([(key, DockerConfig::new(config.to_string().into_bytes()))].into());
    let login = ["login".to_owned()];
    let pull = async |secrets: (&str, &[String])| node.images.pull_by_hand(&written, &name, secrets).await;
    for (secrets, why) in [(NO_SECRETS, "401"), (("default", &login[..]), "namespace default: login")] {
        let error = pull(secrets).await.unwrap_err();
        assert!(error.contains(why) && !error.contains("secret-word"), "{error}");
    }
    assert!(pull(("ns", &login)).await.unwrap().brought.is_some());
}

#[tokio::test]
async fn an_image_that_is_pulled_stands_a_prune() {
    let Some(node) = Node::start() else { return };
    node.import(&[image("free:1", 7, 1)]).await;
    let registry = ScriptedRegistry::start();
    let pushed = image("any:1", 1, 4);
    let layer = digest(&pushed.layers[0]);
    let written = registry.push("a/b", "1", &Layout::of(&[pushed]));
    let name = reference(&written);
    registry.fault(&layer, 1, Act::HoldAt(2 * MIB));
    let (collector, ..) = collector(&node.images, ImageGc::default());
    let prune = async {
        let arrives = async {
            while registry.served(&layer) < 2 * MIB {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, arrives).await.expect("half of the layer arrives");
        let pruned = collector.prune(false).await.unwrap();
        assert!(node.images.pulls().borrow().iter().any(|pull| pull.name == name.record_name()), "it is still pulled");
        registry.go_on();
        pruned
    };
    let pull = node.images.pull_by_hand(&written, &name, NO_SECRETS);
    let (pulled, pruned) = tokio::time::timeout(PATIENCE, async { tokio::join!(pull, prune) }).await.unwrap();
    assert_eq!(pruned.images.len(), 1);
    assert_eq!(pulled.unwrap().brought.unwrap().0 / MIB, 4);
    assert_eq!(exported(&node.images, &[&written]).await.unwrap().len() as u64 / MIB, 4, "it is whole");
}

#[tokio::test]
async fn what_an_abandoned_pull_has_brought_goes_and_a_wanted_ones_bytes_stay() {
    let Some(node) = Node::start() else { return };
    let client = Client::new(&node.containerd.socket(), NAMESPACE).unwrap();
    // As a killed agent leaves them.
    for image in ["abandoned:1", "wanted:1"] {
        let life = std::time::Duration::from_secs(3600);
        Lease::of_pull().take_for_pull(&client, &full(image), life).await.unwrap();
    }
    assert_eq!(node.images.drop_abandoned(&|| set(&["wanted:1"])).await.unwrap(), 1);
    let left = Lease::of_pulls(&client).await.unwrap();
    assert_eq!(left.into_iter().map(|(_, image)| image).collect::<Vec<_>>(), [full("wanted:1")]);
}
