//! Images against a real containerd of the test's own: imported, unpacked, described, kept by its collector.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::path::PathBuf;

use agent::registry;
use agent::runtime::containerd::client::Client;
use agent::runtime::containerd::images::Images;
use agent::runtime::containerd::images::pull::Settings;
use agent::seams::{ImageWanted, Look, Prepared};
use pod::spec::{Container, PullPolicy};
use serde_json::json;
use support::archives::{Layout, Tar, architecture, docker_archive, gzip, oci_archive, zstd};
use support::container;
use support::containerd::Containerd;

const NAMESPACE: &str = "daemonlet-images-test";

struct Node {
    containerd: Containerd,
    images: Images,
}

impl Node {
    fn start() -> Option<Node> {
        let containerd = Containerd::start()?;
        let images =
            Images::new(Client::new(&containerd.socket(), NAMESPACE).unwrap(), "overlayfs", pulls(&containerd));
        Some(Node { containerd, images })
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.containerd.dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn ctr(&self, args: &[&str]) -> String {
        self.containerd.ctr(NAMESPACE, args)
    }
}

/// Registries that refuse every connection: nothing of these tests leaves the machine.
fn pulls(containerd: &Containerd) -> Settings {
    let hosts_dir = containerd.dir().join("certs.d");
    for registry in ["docker.io", "quay.io"] {
        let hosts = hosts_dir.join(registry);
        std::fs::create_dir_all(&hosts).unwrap();
        std::fs::write(hosts.join("hosts.toml"), "server = \"http://127.0.0.1:1\"\n").unwrap();
    }
    Settings { registry: registry::Settings { hosts_dir: Some(hosts_dir), ..Default::default() }, ..Default::default() }
}

/// A layer with a static shell in it.
fn busybox() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    Tar::default().directory("bin/").program("bin/sh", &busybox).directory("etc/").end()
}

fn run() -> serde_json::Value {
    json!({"Cmd": ["/bin/sh", "-c", "echo from-the-image"], "Env": ["PATH=/bin"], "User": "7", "StopSignal": "SIGINT"})
}

fn quiet(container: &Container) -> ImageWanted<'_> {
    ImageWanted::quietly(container)
}

#[tokio::test]
async fn an_oci_archive_is_imported_unpacked_and_runs() {
    let Some(node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("busybox:test", &busybox(), run()));
    let imported = node.images.import_archive(&archive, "a.tar 1 2").await.unwrap();
    assert_eq!(imported.images[0].0, "docker.io/library/busybox:test");

    let facts = node.images.facts("busybox:test").await.unwrap();
    assert_eq!((facts.config.user.as_str(), facts.config.cmd.len()), ("7", 3));
    assert!(node.ctr(&["snapshots", "info", &facts.chain_id]).contains("Committed"));
    let id = format!("images-test-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", "docker.io/library/busybox:test", &id]);
    assert!(out.contains("from-the-image"), "{out}");
}

#[tokio::test]
async fn a_docker_archive_is_imported_unpacked_and_runs() {
    let Some(node) = Node::start() else { return };
    let second = Tar::default().file("etc/second", b"2").end();
    let layers: [&[u8]; 2] = [&busybox(), &second];
    let archive = node.file("d.tar", &docker_archive(&["quay.io/x/y:v1", "y"], &layers, run()));
    let imported = node.images.import_archive(&archive, "d.tar 1 2").await.unwrap();
    let names: Vec<&str> = imported.images.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["docker.io/library/y:latest", "quay.io/x/y:v1"]);
    let id = format!("images-test-d-{}", std::process::id());
    let out = node.ctr(&["run", "--rm", "quay.io/x/y:v1", &id, "/bin/sh", "-c", "read x < /etc/second; echo got $x"]);
    assert!(out.contains("got 2"), "{out}");
}

#[tokio::test]
async fn importing_twice_changes_nothing_and_compressed_is_the_same() {
    let Some(node) = Node::start() else { return };
    let plain = oci_archive("x:1", &busybox(), run());
    let mut seen = Vec::new();
    for (name, bytes) in
        [("a.tar", plain.clone()), ("a.tgz", gzip(&plain)), ("a.tar.zst", zstd(&plain)), ("b.tar", plain)]
    {
        let archive = node.file(name, &bytes);
        node.images.import_archive(&archive, name).await.unwrap();
        seen.push((node.ctr(&["content", "ls", "-q"]), node.ctr(&["snapshots", "ls"])));
    }
    assert!(seen.windows(2).all(|w| w[0].0 == w[1].0), "{seen:?}");
    assert_eq!(node.images.list(Look::Close).await.unwrap()[0].stamps, ["a.tar", "a.tgz", "a.tar.zst", "b.tar"]);
    assert_eq!(node.ctr(&["leases", "ls", "-q"]).trim(), "", "every lease was given back");
}

#[tokio::test]
async fn the_collector_keeps_what_an_image_refers_to_and_takes_what_failed() {
    let Some(node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("x:1", &busybox(), run()));
    node.images.import_archive(&archive, "s").await.unwrap();
    let before = node.ctr(&["content", "ls", "-q"]);

    // A second image whose layer does not unpack to what its configuration says.
    let mut layout = Layout::default();
    let layer =
        layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&Tar::default().file("y", b"y").end()));
    let config = support::archives::config(architecture(), &[b"something else"], run());
    let config = layout.blob("application/vnd.oci.image.config.v1+json", &config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    layout.named("liar:1", manifest);
    let liar = node.file("liar.tar", &layout.tar());
    let error = node.images.import_archive(&liar, "s").await.unwrap_err().sentence();
    assert!(error.contains("diff_ids") && error.contains("unpacks to digest"), "{error}");

    // Removing an image makes containerd collect at once.
    let other = node.file("o.tar", &oci_archive("other:1", &Tar::default().file("z", b"z").end(), run()));
    node.images.import_archive(&other, "s").await.unwrap();
    node.ctr(&["images", "rm", "--sync", "docker.io/library/other:1"]);
    assert_eq!(node.ctr(&["content", "ls", "-q"]), before);
    let facts = node.images.facts("x:1").await.unwrap();
    assert!(node.ctr(&["snapshots", "info", &facts.chain_id]).contains("Committed"));
    assert_eq!(node.ctr(&["images", "ls", "-q"]).trim(), "docker.io/library/x:1");
}

#[tokio::test]
async fn of_an_index_only_this_nodes_blobs_are_imported_and_kept() {
    let Some(node) = Node::start() else { return };
    let mut layout = Layout::default();
    let mut other = layout.image("s390x", &Tar::default().file("other", b"").end(), run());
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    layout.blobs.clear();
    let mut own = layout.image(architecture(), &busybox(), run());
    own["platform"] = json!({"os": "linux", "architecture": architecture()});
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [other, own]});
    let index = layout.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes());
    layout.named("multi:1", index.clone());
    let archive = node.file("m.tar", &layout.tar());
    let imported = node.images.import_archive(&archive, "s").await.unwrap();
    assert_eq!(imported.images[0].1, index["digest"].as_str().unwrap());
    let throw_away = node.file("t.tar", &oci_archive("t:1", &Tar::default().file("t", b"t").end(), run()));
    node.images.import_archive(&throw_away, "s").await.unwrap();
    node.ctr(&["images", "rm", "--sync", "docker.io/library/t:1"]);
    assert_eq!(node.ctr(&["content", "ls", "-q"]).lines().count(), 4, "index, manifest, configuration, layer");
    let id = format!("images-test-m-{}", std::process::id());
    assert!(node.ctr(&["run", "--rm", "docker.io/library/multi:1", &id]).contains("from-the-image"));
}

#[tokio::test]
async fn images_that_share_layers_are_unpacked_side_by_side() {
    let Some(node) = Node::start() else { return };
    let base = busybox();
    for (i, name) in ["a:1", "b:1", "c:1"].into_iter().enumerate() {
        let top = Tar::default().file("top", i.to_string().as_bytes()).end();
        let archive = node.file(&format!("{i}.tar"), &docker_archive(&[name], &[&base, &top], run()));
        node.images.import_archive(&archive, "s").await.unwrap();
    }
    let snapshots = node.ctr(&["snapshots", "ls"]);
    for name in ["a:1", "b:1", "c:1"] {
        node.ctr(&["snapshots", "rm", &node.images.facts(name).await.unwrap().chain_id]);
    }
    let bottom = snapshots.lines().find(|l| l.contains(&support::archives::sha256(&base))).unwrap();
    // The collector may have been quicker.
    let _ = node.containerd.try_ctr(NAMESPACE, &["snapshots", "rm", bottom.split_whitespace().next().unwrap()]);
    let containers = ["a:1", "b:1", "c:1"].map(|name| container(name, PullPolicy::Never));
    let [a, b, c] = &containers;
    let outcomes =
        tokio::join!(node.images.prepare(quiet(a)), node.images.prepare(quiet(b)), node.images.prepare(quiet(c)));
    assert_eq!(outcomes, (Ok(Prepared::AsAsked), Ok(Prepared::AsAsked), Ok(Prepared::AsAsked)));
    assert_eq!(node.ctr(&["snapshots", "ls"]).lines().count(), snapshots.lines().count());
}

#[tokio::test]
async fn a_damaged_document_is_found_and_written_again() {
    let Some(node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("x:1", &busybox(), run()));
    node.images.import_archive(&archive, "s").await.unwrap();
    let manifest = node.images.list(Look::Quick).await.unwrap()[0].digest.clone();
    let blob = node.containerd.dir().join("root/io.containerd.content.v1.content/blobs/sha256").join(&manifest[7..]);
    let length = std::fs::metadata(&blob).unwrap().len();
    // As a power cut leaves it: the length is there, the bytes are not.
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![0u8; usize::try_from(length).unwrap()]).unwrap();
    let problem = node.images.list(Look::Close).await.unwrap()[0].problem.clone().unwrap();
    assert!(problem.contains("damaged"), "{problem}");
    node.images.import_archive(&archive, "s").await.unwrap();
    assert_eq!(node.images.list(Look::Close).await.unwrap()[0].problem, None);
}

#[tokio::test]
async fn an_import_that_is_dropped_ends_and_leaves_no_name() {
    let Some(node) = Node::start() else { return };
    let big = Tar::default().file("big", &vec![7u8; 64 << 20]).end();
    let archive = node.file("big.tar", &docker_archive(&["big:1"], &[&big], run()));
    let given_up =
        tokio::time::timeout(std::time::Duration::from_millis(300), node.images.import_archive(&archive, "s"));
    assert!(given_up.await.is_err(), "64 MiB take longer than that");
    assert_eq!(node.ctr(&["images", "ls", "-q"]).trim(), "");
    node.images.import_archive(&archive, "s").await.unwrap();
}

#[tokio::test]
async fn a_lease_that_containerd_could_not_take_back_is_given_back_when_it_is_there_again() {
    let Some(mut node) = Node::start() else { return };
    let big = Tar::default().file("big", &vec![7u8; 64 << 20]).end();
    let archive = node.file("big.tar", &docker_archive(&["big:1"], &[&big], run()));
    let leases = |node: &Node| node.ctr(&["leases", "ls", "-q"]).trim().to_owned();
    let import = node.images.import_archive(&archive, "s");
    tokio::pin!(import);
    // A lease is its first act.
    let begun = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        loop {
            tokio::select! {
                biased;
                ended = &mut import => panic!("it was to take longer: {ended:?}"),
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
            if !leases(&node).is_empty() {
                break;
            }
        }
    });
    begun.await.expect("a lease is taken");
    node.containerd.stop();
    import.await.expect_err("containerd is gone");
    node.containerd.restart();
    support::soon("the lease is given back", || match leases(&node) {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    })
    .await;
}

#[tokio::test]
async fn a_layer_with_wrong_bytes_leaves_nothing_with_a_name() {
    let Some(node) = Node::start() else { return };
    let mut layout = Layout::default();
    let manifest = layout.image(architecture(), &busybox(), run());
    layout.named("x:1", manifest);
    let (digest, layer) = layout.blobs.iter_mut().max_by_key(|(_, b)| b.len()).unwrap();
    let middle = layer.len() / 2;
    layer[middle] ^= 1;
    let digest = digest.clone();
    let archive = node.file("bad.tar", &layout.tar());
    let error = node.images.import_archive(&archive, "s").await.unwrap_err().sentence();
    assert!(
        error.contains("bad.tar: blobs/sha256/") && error.contains("expected digest") && error.contains(&digest),
        "{error}"
    );
    assert_eq!(node.ctr(&["images", "ls", "-q"]).trim(), "");
    assert!(!node.ctr(&["content", "ls", "-q"]).contains(&digest));
}

#[tokio::test]
async fn a_lost_snapshot_is_unpacked_again_once_however_many_wait() {
    let Some(node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("x:1", &busybox(), run()));
    node.images.import_archive(&archive, "s").await.unwrap();
    let chain = node.images.facts("x:1").await.unwrap().chain_id;
    node.ctr(&["snapshots", "rm", &chain]);
    let container = container("x:1", PullPolicy::IfNotPresent);
    let prepare = || node.images.prepare(quiet(&container));
    let (a, b, c, d) = tokio::join!(prepare(), prepare(), prepare(), prepare());
    assert_eq!([a, b, c, d], [const { Ok(Prepared::AsAsked) }; 4]);
    assert!(node.ctr(&["snapshots", "info", &chain]).contains("Committed"));
    assert!(!node.ctr(&["snapshots", "ls"]).contains("extract-"));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_kubernetes_words() {
    let Some(mut node) = Node::start() else { return };
    let archive = node.file("a.tar", &oci_archive("quay.io/a/fluentd:v2.5.1", &busybox(), run()));
    node.images.import_archive(&archive, "s").await.unwrap();
    let error =
        node.images.prepare(quiet(&container("quay.io/a/fluentd:v2.5.2", PullPolicy::IfNotPresent))).await.unwrap_err();
    assert_eq!(error.reason, "ErrImagePull");
    assert!(error.message.contains("image directory") && error.message.contains("quay.io/a/fluentd:v2.5.1"), "{error}");
    let error = node.images.prepare(quiet(&container("y", PullPolicy::Never))).await.unwrap_err();
    assert_eq!(error.reason, "ErrImageNeverPull");
    let error = node.images.prepare(quiet(&container("Not/A Name", PullPolicy::Always))).await.unwrap_err();
    assert_eq!(error.reason, "InvalidImageName");

    let used = node.images.prepare(quiet(&container("quay.io/a/fluentd:v2.5.1", PullPolicy::Always))).await;
    assert!(matches!(used, Ok(Prepared::NotRefreshed { .. })), "{used:?}");
    let digest = node.images.list(Look::Quick).await.unwrap()[0].digest.clone();
    let by_digest = format!("quay.io/a/fluentd:any@{digest}");
    assert_eq!(node.images.prepare(quiet(&container(&by_digest, PullPolicy::Always))).await, Ok(Prepared::AsAsked));
    assert!(node.images.facts(&by_digest).await.unwrap().name.ends_with(&digest));

    node.containerd.stop();
    let error = node.images.prepare(quiet(&container("y", PullPolicy::Never))).await.unwrap_err();
    assert!(error.unavailable, "{error}");
}

#[tokio::test]
async fn a_containerd_killed_in_the_middle_is_met_again() {
    let Some(mut node) = Node::start() else { return };
    let big = Tar::default().file("big", &vec![7u8; 64 << 20]).end();
    let archive = node.file("big.tar", &docker_archive(&["big:1"], &[&big], run()));
    let images = node.images.clone();
    let path = archive.clone();
    let import = tokio::spawn(async move { images.import_archive(&path, "s").await });
    node.containerd.restart();
    // It may have been quick enough, or it failed; either way the next one succeeds.
    drop(import.await.unwrap());
    node.images.import_archive(&archive, "s").await.unwrap();
    assert_eq!(node.ctr(&["images", "ls", "-q"]).trim(), "docker.io/library/big:1");
}

/// Prints what a large image costs this process; nothing is asserted but that it arrives.
#[tokio::test]
async fn a_large_image_costs_little_memory() {
    let Some(node) = Node::start() else { return };
    let mib: usize = std::env::var("IMAGE_MIB").ok().and_then(|m| m.parse().ok()).unwrap_or(128);
    let path = node.containerd.dir().join("large.tar");
    large_docker_archive(&path, mib);
    // Forgets the peak so far, so that the next is the import's.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_kib();
    let started = std::time::Instant::now();
    node.images.import_archive(&path, "s").await.unwrap();
    let after = peak_kib();
    println!("importing {mib} MiB: peak memory {before} KiB before, {after} KiB after, {:?}", started.elapsed());
}

/// One layer of zeros, made without holding it.
fn large_docker_archive(path: &std::path::Path, mib: usize) {
    use sha2::Digest as _;
    use std::io::Write as _;
    let mut layer = support::archives::header("zeros", tar::EntryType::Regular, (mib as u64) << 20, 0o644);
    layer.set_cksum();
    let block = vec![0u8; 1 << 20];
    let mut hash = sha2::Sha256::new();
    hash.update(layer.as_bytes());
    (0..mib).for_each(|_| hash.update(&block));
    hash.update([0u8; 1024]);
    let diff_id: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let config = json!({"os": "linux", "architecture": architecture(), "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]}})
    .to_string();
    let manifest = json!([{"Config": "c", "RepoTags": ["large:1"], "Layers": ["l"]}]).to_string();
    let start = Tar::default().file("c", config.as_bytes()).file("manifest.json", manifest.as_bytes()).end();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&start[..start.len() - 1024]).unwrap();
    let mut outer = support::archives::header("l", tar::EntryType::Regular, ((mib as u64) << 20) + 512 + 1024, 0o644);
    outer.set_cksum();
    file.write_all(outer.as_bytes()).unwrap();
    file.write_all(layer.as_bytes()).unwrap();
    (0..mib).for_each(|_| file.write_all(&block).unwrap());
    file.write_all(&[0u8; 1024 + 1024]).unwrap();
    file.flush().unwrap();
}

/// The most memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
