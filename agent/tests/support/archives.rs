//! Image archives made on the spot, right or wrong, in memory: what the tests of the images are fed with.

use std::collections::BTreeMap;
use std::io::Write as _;

use sha2::{Digest as _, Sha256};

/// A tar archive being written.
pub struct Tar {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for Tar {
    fn default() -> Tar {
        Tar { builder: tar::Builder::new(Vec::new()) }
    }
}

impl Tar {
    pub fn file(mut self, name: &str, bytes: &[u8]) -> Tar {
        let mut header = header(name, tar::EntryType::Regular, bytes.len() as u64, 0o644);
        header.set_cksum();
        self.builder.append(&header, bytes).expect("the test cannot go on without");
        self
    }

    pub fn program(mut self, name: &str, bytes: &[u8]) -> Tar {
        let mut header = header(name, tar::EntryType::Regular, bytes.len() as u64, 0o755);
        header.set_cksum();
        self.builder.append(&header, bytes).expect("the test cannot go on without");
        self
    }

    pub fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Tar {
        let mut header = header(name, kind, 0, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.builder.append(&header, &[][..]).expect("the test cannot go on without");
        self
    }

    pub fn directory(mut self, name: &str) -> Tar {
        let mut header = header(name, tar::EntryType::Directory, 0, 0o755);
        header.set_cksum();
        self.builder.append(&header, &[][..]).expect("the test cannot go on without");
        self
    }

    /// A header that announces this size, with fewer bytes behind it.
    pub fn liar(mut self, name: &str, size: u64, bytes: &[u8]) -> Tar {
        let mut header = header(name, tar::EntryType::Regular, size, 0o644);
        header.set_cksum();
        self.builder.get_mut().extend_from_slice(header.as_bytes());
        self.builder.get_mut().extend_from_slice(bytes);
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.builder.get_mut().extend_from_slice(bytes);
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.builder.into_inner().expect("the test cannot go on without")
    }
}

/// A header with the name's bytes as they are: the builder of the crate would refuse a hostile one.
pub fn header(name: impl AsRef<[u8]>, kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let name = name.as_ref();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("the test cannot go on without");
    encoder.finish().expect("the test cannot go on without")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("the test cannot go on without")
}

/// The architecture's name in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image's configuration for these uncompressed layers.
pub fn config(architecture: &str, layers: &[&[u8]], run: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
    serde_json::json!({
        "architecture": architecture, "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": []
    })
    .to_string()
    .into_bytes()
}

/// An OCI layout being put together: blobs, and the descriptors of its index.
#[derive(Default, Clone)]
pub struct Layout {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub index: Vec<serde_json::Value>,
}

impl Layout {
    /// Adds a blob; its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = sha256(bytes);
        self.blobs.insert(digest.clone(), bytes.to_vec());
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image of one gzipped layer; its manifest's descriptor.
    pub fn image(&mut self, architecture: &str, layer: &[u8], run: serde_json::Value) -> serde_json::Value {
        let config = config(architecture, &[layer], run);
        let config = self.blob("application/vnd.oci.image.config.v1+json", &config);
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]
        });
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    /// Puts a descriptor into the index under containerd's name annotation.
    pub fn named(&mut self, name: &str, mut descriptor: serde_json::Value) {
        descriptor["annotations"] = serde_json::json!({"io.containerd.image.name": name});
        self.index.push(descriptor);
    }

    /// The archive; the index last, which no reader may depend on.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar =
            Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).directory("blobs/sha256/");
        for (digest, bytes) in &self.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), bytes);
        }
        let index = serde_json::json!({"schemaVersion": 2, "manifests": self.index});
        tar.file("index.json", index.to_string().as_bytes()).end()
    }
}

/// An OCI archive of one image for this machine.
pub fn oci_archive(name: &str, layer: &[u8], run: serde_json::Value) -> Vec<u8> {
    let mut layout = Layout::default();
    let manifest = layout.image(architecture(), layer, run);
    layout.named(name, manifest);
    layout.tar()
}

/// An archive as `docker save` made it for years: a directory for each layer.
pub fn docker_archive(tags: &[&str], layers: &[&[u8]], run: serde_json::Value) -> Vec<u8> {
    let config = config(architecture(), layers, run);
    let mut tar = Tar::default();
    let mut paths = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let directory = format!("{i:064x}");
        tar = tar.directory(&format!("{directory}/")).file(&format!("{directory}/VERSION"), b"1.0");
        tar = tar.file(&format!("{directory}/layer.tar"), layer);
        paths.push(format!("{directory}/layer.tar"));
    }
    let name = format!("{}.json", sha256(&config).trim_start_matches("sha256:"));
    let manifest = serde_json::json!([{"Config": name, "RepoTags": tags, "Layers": paths}]);
    tar.file(&name, &config).file("manifest.json", manifest.to_string().as_bytes()).file("repositories", b"{}").end()
}
