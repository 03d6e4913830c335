use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::*;

#[path = "../../../../../tests/support/archives.rs"]
#[expect(dead_code, reason = "shared with the tests against real containerd")]
mod archives;
use archives::{Layout, Tar, docker_archive, gzip, header, oci_archive, sha256, zstd};

fn plan_for(bytes: &[u8], node: &Platform) -> Result<Bundle, ArchiveError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let tarball = Tarball::open(file.path(), Arc::new(AtomicBool::new(false)))?;
    plan(&tarball, node, "from-file")
}

fn read(bytes: &[u8]) -> Result<Bundle, ArchiveError> {
    plan_for(bytes, &Platform::new("linux", archives::architecture(), "v1"))
}

fn names(bundle: &Bundle) -> Vec<&str> {
    bundle.images.iter().flat_map(|i| i.names.iter().map(String::as_str)).collect()
}

fn check_refused(bytes: &[u8], words: &[&str]) {
    let error = read(bytes).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} lacks {word:?}");
    }
}

fn layer() -> Vec<u8> {
    Tar::default().file("etc/x", b"x").end()
}

fn good() -> Layout {
    let mut layout = Layout::default();
    let manifest = layout.image(archives::architecture(), &layer(), json!({"Cmd": ["/x"]}));
    layout.named("a/b:c", manifest);
    layout
}

#[test]
fn an_oci_layout_is_read_whatever_it_is_packed_in() {
    let plain = oci_archive("busybox", &layer(), json!({}));
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let bundle = read(&bytes).unwrap();
        assert_eq!(names(&bundle), ["docker.io/library/busybox:latest"]);
        assert_eq!(bundle.blobs.len(), 3, "manifest, configuration, layer");
        let manifest = &bundle.blobs[&bundle.images[0].target.digest];
        let refs: Vec<&str> = manifest.labels.keys().map(String::as_str).collect();
        assert_eq!(refs, ["containerd.io/gc.ref.content.config", "containerd.io/gc.ref.content.l.0"]);
    }
}

#[test]
fn a_docker_archive_gets_a_manifest_that_is_always_the_same() {
    let bytes = docker_archive(&["x:1", "y/z:2"], &[&layer(), b"second"], json!({}));
    let bundle = read(&bytes).unwrap();
    assert_eq!(names(&bundle), ["docker.io/library/x:1", "docker.io/y/z:2"]);
    assert_eq!(bundle.images[0].target, read(&gzip(&bytes)).unwrap().images[0].target);
    assert!(bundle.blobs.contains_key(&sha256(b"second").parse().unwrap()));
}

#[test]
fn old_docker_archives_link_equal_layers() {
    let layer = layer();
    let config = archives::config(archives::architecture(), &[&layer, &layer, &layer], json!({}));
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]);
    let bytes = Tar::default()
        .file("manifest.json", manifest.to_string().as_bytes())
        .link(tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar")
        .link(tar::EntryType::Link, "c/layer.tar", "a/layer.tar")
        .file("./a/layer.tar", &layer)
        .file("c.json", &config)
        .end();
    let bundle = read(&bytes).unwrap();
    assert_eq!(bundle.blobs.len(), 3);
}

#[test]
fn compressed_layers_of_a_docker_archive_are_known_by_their_own_digest() {
    let (layer, packed) = (layer(), gzip(&layer()));
    let config = archives::config(archives::architecture(), &[&layer], json!({}));
    let manifest = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["l"]}]);
    let bytes = Tar::default()
        .file("c", &config)
        .file("l", &packed)
        .file("manifest.json", manifest.to_string().as_bytes())
        .end();
    assert!(read(&bytes).unwrap().blobs.contains_key(&sha256(&packed).parse().unwrap()));
}

#[test]
fn a_name_may_be_full_or_a_tag_or_be_missing() {
    let named = |annotations: serde_json::Value| {
        let mut layout = good();
        layout.index[0]["annotations"] = annotations;
        read(&layout.tar())
    };
    let reference = "org.opencontainers.image.ref.name";
    assert_eq!(names(&named(json!({reference: "v1"})).unwrap()), ["docker.io/library/from-file:v1"]);
    assert_eq!(names(&named(json!({reference: "q.io/a:v1"})).unwrap()), ["q.io/a:v1"]);
    let both = json!({reference: "v1", "io.containerd.image.name": "q.io/b:v1"});
    assert_eq!(names(&named(both).unwrap()), ["q.io/b:v1"]);
    let error = named(json!({})).unwrap_err().to_string();
    assert!(error.contains("no image in it has a name"), "{error}");
    let error = named(json!({reference: "Bad/Name:x"})).unwrap_err().to_string();
    assert!(error.contains("index.json") && error.contains("upper-case"), "{error}");
}

#[test]
fn of_several_platforms_this_nodes_is_taken_and_only_its_blobs_must_be_there() {
    let mut layout = Layout::default();
    let mut arm = layout.image("arm64", &layer(), json!({}));
    arm["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    layout.blobs.clear();
    let mut amd = layout.image("amd64", &layer(), json!({}));
    amd["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let attestation = json!({"mediaType": OCI_MANIFEST, "digest": sha256(b"gone"), "size": 4,
        "platform": {"os": "unknown", "architecture": "unknown"}});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [arm, attestation, amd]});
    let index = layout.blob(OCI_INDEX, index.to_string().as_bytes());
    layout.named("m:1", index.clone());
    let bundle = plan_for(&layout.tar(), &Platform::new("linux", "amd64", "v3")).unwrap();
    assert_eq!(
        bundle.images[0].target.digest.as_str(),
        index["digest"].as_str().unwrap(),
        "the index keeps its digest"
    );
    assert_eq!(bundle.blobs.len(), 4);

    let error = plan_for(&layout.tar(), &Platform::new("linux", "riscv64", "")).unwrap_err().to_string();
    assert!(error.contains("linux/riscv64") && error.contains("linux/amd64, linux/arm64/v8"), "{error}");
}

#[test]
fn two_manifests_under_one_name_are_two_platforms() {
    let mut layout = Layout::default();
    for architecture in ["arm64", "amd64", "s390x"] {
        let manifest = layout.image(architecture, &layer(), json!({}));
        layout.named("m:1", manifest);
    }
    let bundle = plan_for(&layout.tar(), &Platform::new("linux", "amd64", "v1")).unwrap();
    assert_eq!((names(&bundle).len(), bundle.skipped.len()), (1, 2));
}

#[test]
fn wrong_bytes_of_a_document_are_refused_with_both_digests() {
    let mut layout = good();
    let digest = layout.index[0]["digest"].as_str().unwrap().to_owned();
    let manifest = layout.blobs.get_mut(&digest).unwrap();
    let last = manifest.len() - 1;
    manifest[last] = b' ';
    let actual = sha256(manifest);
    check_refused(&layout.tar(), &["blobs/sha256/", "expected digest", &digest, &actual]);
}

#[test]
fn a_blob_of_another_size_or_none_at_all_is_refused() {
    let mut layout = good();
    layout.index[0]["size"] = json!(7);
    check_refused(&layout.tar(), &["blobs/sha256/", "expected 7 bytes"]);
    let mut layout = good();
    let digest = layout.index[0]["digest"].as_str().unwrap().to_owned();
    layout.blobs.remove(&digest);
    check_refused(&layout.tar(), &[&digest[7..], "missing", "wanted by index.json"]);
}

#[test]
fn paths_out_of_the_archive_lead_nowhere() {
    let manifest = |layer: &str| {
        let config = archives::config(archives::architecture(), &[b""], json!({}));
        let manifest = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": [layer]}]).to_string();
        Tar::default()
            .file("c", &config)
            .file("manifest.json", manifest.as_bytes())
            .file("../l", b"")
            .file("/etc/l", b"")
    };
    check_refused(&manifest("../l").end(), &["leads out of the archive", "../l"]);
    check_refused(&manifest("/etc/l").end(), &["leads out of the archive"]);
    check_refused(&manifest("etc/l").end(), &["missing"]);
    for target in ["/etc/passwd", "../../../../etc/passwd", "l", "m"] {
        let bytes = manifest("l").link(tar::EntryType::Symlink, "l", target).link(tar::EntryType::Link, "m", "l").end();
        check_refused(&bytes, &["l: missing"]);
    }
}

#[test]
fn an_index_bomb_is_refused() {
    // Each index holds the next one many times.
    let mut layout = good();
    let mut below = layout.index.pop().unwrap();
    for _ in 0..6 {
        let index = json!({"schemaVersion": 2, "manifests": vec![&below; 900]}).to_string();
        below = layout.blob(OCI_INDEX, index.as_bytes());
    }
    layout.named("b:1", below);
    check_refused(&layout.tar(), &["more than"]);
    // None of the many is for this node: each would be read.
    let mut layout = Layout::default();
    let other = layout.image("s390x", &layer(), json!({}));
    let index = json!({"schemaVersion": 2, "manifests": vec![&other; 1000]}).to_string();
    let index = layout.blob(OCI_INDEX, index.as_bytes());
    layout.named("b:1", index);
    check_refused(&layout.tar(), &["documents"]);
}

#[test]
fn a_document_that_is_index_and_manifest_at_once_is_refused() {
    let mut layout = good();
    let d = layout.index[0].clone();
    let both = json!({"schemaVersion": 2, "manifests": [d], "config": d, "layers": []}).to_string();
    let both = layout.blob(OCI_INDEX, both.as_bytes());
    layout.named("b:1", both);
    check_refused(&layout.tar(), &["neither an image index nor"]);
}

#[test]
fn a_configuration_that_climbs_or_lies_about_its_layers_is_refused() {
    let refused = |run: serde_json::Value, word: &str| check_refused(&oci_archive("x", &layer(), run), &[word]);
    refused(json!({"Volumes": {"/../../etc": {}}}), "VOLUME");
    refused(json!({"User": "4294967296"}), "USER");
    let config = archives::config(archives::architecture(), &[b"1", b"2"], json!({}));
    let manifest = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["l"]}]).to_string();
    check_refused(
        &Tar::default().file("c", &config).file("l", b"1").file("manifest.json", manifest.as_bytes()).end(),
        &["c: it lists 2 layers"],
    );
}

#[test]
fn what_is_no_image_archive_says_so() {
    check_refused(b"", &["empty"]);
    check_refused(b"hello", &["no tar archive"]);
    check_refused(&[b'x'; 2048], &["no tar archive"]);
    check_refused(&Tar::default().file("readme", b"x").end(), &["neither index.json"]);
    check_refused(&Tar::default().file("index.json", b"{").end(), &["index.json", "JSON"]);
    check_refused(&Tar::default().file("index.json", b"{}").file("./index.json", b"{}").end(), &["twice"]);
}

#[test]
fn headers_that_lie_are_refused() {
    check_refused(&Tar::default().liar("index.json", 1 << 62, b"{}").end(), &["index.json", "announced"]);
    check_refused(&gzip(&Tar::default().liar("a", 1 << 62, b"").end()), &["a: ", "more than"]);
    check_refused(&gzip(&Tar::default().liar("a", 1 << 20, b"").raw(&[0; 9]).end()), &["a: ", "announced"]);
    let mut long = header("long", tar::EntryType::GNULongName, 1 << 40, 0);
    long.set_cksum();
    check_refused(&gzip(long.as_bytes()), &["extension header"]);
    let mut header = header(b"\xff\xfe", tar::EntryType::Regular, 0, 0);
    header.set_cksum();
    check_refused(&Tar::default().raw(header.as_bytes()).end(), &["neither index.json"]);
    let document = vec![b' '; 5 << 20];
    check_refused(&Tar::default().file("index.json", &document).end(), &["a document"]);
}

#[test]
fn a_compressed_archive_that_wants_much_memory_or_is_damaged_is_refused() {
    use std::io::Write as _;
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&oci_archive("x", &vec![b'x'; 1 << 20], json!({}))).unwrap();
    check_refused(&encoder.finish().unwrap(), &["cannot be decompressed", "memory"]);
    let mut damaged = gzip(&oci_archive("x", &layer(), json!({})));
    damaged.truncate(damaged.len() / 2);
    check_refused(&damaged, &["cannot be decompressed"]);
}

#[test]
fn a_cut_archive_is_refused_and_never_half_taken() {
    let whole = oci_archive("busybox", &layer(), json!({}));
    let all: Vec<Digest> = read(&whole).unwrap().blobs.into_keys().collect();
    for bytes in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let mut refused = 0;
        for cut in (0..bytes.len()).step_by(97) {
            match read(&bytes[..cut]) {
                Err(_) => refused += 1,
                // Only padding is gone.
                Ok(bundle) => assert_eq!(bundle.blobs.into_keys().collect::<Vec<_>>(), all, "cut at {cut}"),
            }
        }
        assert!(refused * 97 > bytes.len() / 2, "{refused} cuts of {} bytes were refused", bytes.len());
    }
}

/// Every byte counts, and none makes it panic. Deterministic: a failing round prints itself.
#[test]
fn mutated_archives_never_panic() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1000u64);
    let oci = oci_archive("busybox", &layer(), json!({"Volumes": {"/v": {}}}));
    let docker = docker_archive(&["x:1"], &[&layer()], json!({}));
    let seeds = [oci.clone(), gzip(&oci), zstd(&oci), docker];
    for round in 0..rounds {
        let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut bytes = seeds[random(seeds.len())].clone();
        for _ in 0..=random(8) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => drop(bytes.drain(at..(at + random(600)).min(bytes.len()))),
                _ => {
                    let piece = bytes[at..(at + random(600)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let outcome = std::panic::catch_unwind(|| drop(read(&bytes)));
        assert!(outcome.is_ok(), "round {round}");
    }
}
