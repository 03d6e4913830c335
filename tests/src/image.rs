//! Image archives made on the spot: OCI layouts and `docker save` files, whole or deliberately broken. Driven by the tests and by
//! `stand-in-image`. It knows the archive formats and nothing of who reads them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The static busybox of Debian's package busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";

/// The commands that the images offer: what daemons' command lines in the tests use.
const APPLETS: &[&str] = &[
    "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "dmesg", "echo", "env",
    "expr", "false", "find", "grep", "head", "hostname", "httpd", "id", "ip", "ipcs", "kill", "ln", "ls", "mkdir",
    "mkfifo", "mknod", "mount", "mv", "nc", "nproc", "ping", "printf", "ps", "pwd", "readlink", "realpath", "rm",
    "rmdir", "sed", "seq", "sh", "sleep", "sort", "stat", "sync", "tail", "tar", "tee", "test", "time", "timeout",
    "top", "touch", "tr", "true", "umount", "uname", "uniq", "uptime", "usleep", "wc", "wget", "which", "whoami",
    "xargs", "yes",
];

/// `sha256:<hex>` of these bytes, as OCI writes digests.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture by OCI's (Go's) name.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar file being written. Names go into the header as given, so that hostile ones (`../x`, `/x`) can be written too.
pub struct Tarball {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for Tarball {
    fn default() -> Self {
        Self::new()
    }
}

impl Tarball {
    pub fn new() -> Self {
        Self { builder: tar::Builder::new(Vec::new()) }
    }

    fn header(name: &str, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        assert!(name.len() < field.len(), "entry name {name} does not fit a plain tar header");
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    }

    fn append(mut self, mut header: tar::Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.builder.append(&header, content).expect("writing to memory does not fail");
        self
    }

    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.append(Self::header(name, tar::EntryType::Directory, mode, 0), &[])
    }

    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.append(Self::header(name, tar::EntryType::Regular, mode, content.len() as u64), content)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, name, target)
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, name, target)
    }

    fn link(self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = Self::header(name, kind, 0o777, 0);
        let field = &mut header.as_old_mut().linkname;
        assert!(target.len() < field.len(), "link target {target} does not fit a plain tar header");
        field[..target.len()].copy_from_slice(target.as_bytes());
        self.append(header, &[])
    }

    /// A header that promises `claimed` bytes, followed by `content` only: what a lying archive says.
    pub fn lying_file(self, name: &str, claimed: u64, content: &[u8]) -> Self {
        self.append(Self::header(name, tar::EntryType::Regular, 0o644, claimed), content)
    }

    pub fn bytes(self) -> Vec<u8> {
        self.builder.into_inner().expect("writing to memory does not fail")
    }
}

/// An image of one platform, to be written into an archive.
#[derive(Clone)]
pub struct Image {
    /// Full names, e.g. `docker.io/library/busybox:1`.
    pub names: Vec<String>,
    pub architecture: String,
    pub os: String,
    pub variant: Option<String>,
    /// The `config` object of the OCI image configuration: Env, Entrypoint, Cmd, User, WorkingDir, Volumes, StopSignal.
    pub config: Value,
    /// Uncompressed layers, lowest first.
    pub layers: Vec<Vec<u8>>,
    pub gzip: bool,
}

impl Image {
    /// An image without a layer.
    pub fn empty(name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            architecture: host_architecture().to_owned(),
            os: "linux".to_owned(),
            variant: None,
            config: json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}),
            layers: Vec::new(),
            gzip: false,
        }
    }

    /// One layer with the static busybox and its commands; runs `sh` unless told otherwise.
    pub fn busybox(name: &str) -> io::Result<Self> {
        let layer = busybox_tree()?;
        Ok(Self::empty(name).layer(layer.bytes()).cmd(&["sh"]))
    }

    /// Nothing but one static program at `/<file name>`, which is the entrypoint.
    pub fn scratch(name: &str, program: &Path) -> io::Result<Self> {
        let file = program.file_name().and_then(|n| n.to_str()).unwrap_or("program");
        let layer = Tarball::new().file(file, 0o755, &std::fs::read(program)?).bytes();
        Ok(Self::empty(name).layer(layer).entrypoint(&[&format!("/{file}")]))
    }

    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.config("Entrypoint", json!(words))
    }

    pub fn cmd(self, words: &[&str]) -> Self {
        self.config("Cmd", json!(words))
    }

    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.os = os.to_owned();
        self.architecture = architecture.to_owned();
        self
    }

    pub fn also_named(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    fn packed_layer(&self, tar: &[u8]) -> Vec<u8> {
        if !self.gzip {
            return tar.to_vec();
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).expect("writing to memory does not fail");
        encoder.finish().expect("writing to memory does not fail")
    }

    fn config_json(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let mut config = json!({
            "architecture": self.architecture, "os": self.os, "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(variant) = &self.variant {
            config["variant"] = json!(variant);
        }
        config.to_string().into_bytes()
    }

    fn platform_json(&self) -> Value {
        let mut platform = json!({"architecture": self.architecture, "os": self.os});
        if let Some(variant) = &self.variant {
            platform["variant"] = json!(variant);
        }
        platform
    }
}

fn busybox_tree() -> io::Result<Tarball> {
    let program = std::fs::read(BUSYBOX)
        .map_err(|e| io::Error::new(e.kind(), format!("{BUSYBOX}: {e} (it is in Debian's package busybox-static)")))?;
    let mut tree = Tarball::new();
    for dir in ["bin", "etc", "tmp", "root", "var", "usr", "usr/bin"] {
        tree = tree.dir(dir, if dir == "tmp" { 0o1777 } else { 0o755 });
    }
    tree = tree.file("bin/busybox", 0o755, &program);
    for applet in APPLETS {
        tree = tree.hardlink(&format!("bin/{applet}"), "bin/busybox");
    }
    Ok(tree
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\ndaemon:x:2:3::/:/bin/sh\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\ndaemon:x:3:daemon\nnogroup:x:65534:\nextra:x:77:daemon\n"))
}

/// The blobs and top files of an OCI layout before they become a tar file; tests break it in between.
#[derive(Clone, Default)]
pub struct Layout {
    /// Digest to content. A broken one has content that does not match.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Descriptors of index.json.
    pub manifests: Vec<Value>,
}

impl Layout {
    /// One descriptor a name and image.
    pub fn of(images: &[Image]) -> Self {
        let mut layout = Self::default();
        for image in images {
            let descriptor = layout.add(image);
            for name in &image.names {
                layout.list(descriptor.clone(), name);
            }
        }
        layout
    }

    /// Several platforms of one image behind an inner index, as `docker buildx` and `skopeo copy --all` write them.
    pub fn multi_platform(name: &str, images: &[Image]) -> Self {
        let mut layout = Self::default();
        let inner: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = layout.add(image);
                descriptor["platform"] = image.platform_json();
                descriptor
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": inner}).to_string().into_bytes();
        let descriptor = layout.blob(INDEX_TYPE, index);
        layout.list(descriptor, name);
        layout
    }

    fn list(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
    }

    fn blob(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.blobs.insert(digest, content);
        descriptor
    }

    fn add(&mut self, image: &Image) -> Value {
        let layer_type = if image.gzip { LAYER_GZIP_TYPE } else { LAYER_TYPE };
        let layers: Vec<Value> =
            image.layers.iter().map(|layer| self.blob(layer_type, image.packed_layer(layer))).collect();
        let config = self.blob(CONFIG_TYPE, image.config_json());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers});
        self.blob(MANIFEST_TYPE, manifest.to_string().into_bytes())
    }

    /// Changes the content of the largest blob (the layer) and leaves its name, so that its digest is wrong.
    pub fn with_wrong_digest(mut self) -> Self {
        let largest = self.blobs.values_mut().max_by_key(|content| content.len()).expect("the layout has blobs");
        let last = largest.len() - 1;
        largest[last] ^= 0xff;
        self
    }

    /// Leaves the largest blob out.
    pub fn without_layer(mut self) -> Self {
        let largest = self.blobs.iter().max_by_key(|(_, content)| content.len()).map(|(name, _)| name.clone());
        self.blobs.remove(&largest.expect("the layout has blobs"));
        self
    }

    /// The layout's files as tar entries, to which a test may add hostile ones before calling `bytes`.
    pub fn tarball(&self) -> Tarball {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": self.manifests});
        let mut tar = Tarball::new()
            .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", 0o644, index.to_string().as_bytes())
            .dir("blobs", 0o755)
            .dir("blobs/sha256", 0o755);
        for (digest, content) in &self.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), 0o644, content);
        }
        tar
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.tarball().bytes()
    }
}

/// An OCI layout in a tar file.
pub fn oci_archive(images: &[Image]) -> Vec<u8> {
    Layout::of(images).bytes()
}

/// The older format of `docker save`: manifest.json, a configuration and layers by name; digests only by what they contain.
pub fn docker_archive(images: &[Image]) -> Vec<u8> {
    let mut tar = Tarball::new();
    let mut manifest = Vec::new();
    for image in images {
        let config = image.config_json();
        let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
        let mut layer_names = Vec::new();
        for layer in &image.layers {
            let dir = digest(layer).trim_start_matches("sha256:").to_owned();
            let name = format!("{dir}/layer.tar");
            tar = tar.dir(&dir, 0o755).file(&name, 0o644, layer);
            layer_names.push(name);
        }
        tar = tar.file(&config_name, 0o644, &config);
        let tags: Vec<&str> = image.names.iter().map(|name| name.trim_start_matches("docker.io/")).collect();
        manifest.push(json!({"Config": config_name, "RepoTags": tags, "Layers": layer_names}));
    }
    tar.file("manifest.json", 0o644, Value::Array(manifest).to_string().as_bytes()).bytes()
}

/// Writes an archive the way a careful person does: under a hidden name first, then renamed.
pub fn place(dir: &Path, file: &str, content: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let hidden = dir.join(format!(".{file}.part"));
    std::fs::write(&hidden, content)?;
    std::fs::rename(hidden, dir.join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_of_an_archive_names_its_blob_and_size() {
        let image = Image::empty("docker.io/library/a:1").layer(Tarball::new().file("a", 0o644, b"a").bytes()).gzip();
        let layout = Layout::of(&[image]);
        for (name, content) in &layout.blobs {
            assert_eq!(name, &digest(content));
        }
        let manifest: Value =
            serde_json::from_slice(&layout.blobs[layout.manifests[0]["digest"].as_str().unwrap()]).unwrap();
        let layer = &manifest["layers"][0];
        assert_eq!(layer["size"], layout.blobs[layer["digest"].as_str().unwrap()].len());
    }

    #[test]
    fn hostile_names_reach_the_archive_unchanged() {
        let bytes = Tarball::new().file("../../etc/evil", 0o644, b"x").symlink("abs", "/etc").bytes();
        let names: Vec<String> = tar::Archive::new(&bytes[..])
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
            .collect();
        assert_eq!(names, ["../../etc/evil", "abs"]);
    }

    #[test]
    fn a_wrong_digest_is_wrong_in_exactly_one_blob() {
        let image = Image::empty("docker.io/library/a:1").layer(vec![0; 4096]);
        let broken = Layout::of(&[image]).with_wrong_digest();
        assert_eq!(broken.blobs.iter().filter(|(name, content)| **name != digest(content)).count(), 1);
    }
}
