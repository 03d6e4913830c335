//! A registry on the node's loopback, and images made on the spot: layers of bytes that do not compress, as large as wanted, pushed one
//! by one, so that no image is ever in memory as a whole.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::stamp_program;
use crate::image::{Tarball, digest, host_architecture};
use crate::node::TestNode;
use crate::registry::{self, TestRegistry};
use crate::wait::wait_within;

/// Where it listens in the node's network namespace.
pub const ADDRESS: &str = "127.0.0.1:5000";

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// docker-registry twice over one storage: on a Unix socket, where images are pushed, and on the node's loopback, where all are served
/// by it without anything in between. Dropped, both end.
pub struct Registry {
    pub pushed: TestRegistry,
    serving: Child,
}

/// An image that was pushed.
pub struct Large {
    /// `repository:tag`.
    pub name: String,
    /// Digest and bytes of each layer, as they are transferred.
    pub layers: Vec<(String, u64)>,
}

impl Large {
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|(_, size)| size).sum()
    }
}

impl Registry {
    pub fn on_loopback_of(node: &TestNode) -> Registry {
        let pushed = TestRegistry::start();
        let storage = pushed.socket().with_file_name("storage");
        let file = node.dir().join("registry.yml");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {ADDRESS}\n  secret: test\n",
            storage.display()
        );
        fs::write(&file, config).expect("a file can be written in an own directory");
        let mut command = node.command(registry::program());
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let serving =
            command.spawn().unwrap_or_else(|e| panic!("docker-registry: {e}; scripts/setup.sh test fetches it"));
        wait_within(Duration::from_secs(30), "docker-registry serves", || {
            node.inside(|| TcpStream::connect(ADDRESS)).map(drop).map_err(|e| e.to_string())
        });
        Registry { pushed, serving }
    }

    /// Pushes an image with the stamp program and, above it, so many layers of so many bytes that do not compress.
    pub fn push(&self, repository: &str, layers: u64, bytes: usize) -> Large {
        let program = fs::read(stamp_program()).expect("the stamp program was built");
        // Its own layer in each image: one that is known from another image already is not downloaded again by everybody.
        let program = Tarball::new().file("stamp", 0o755, &program).file("image", 0o644, repository.as_bytes()).bytes();
        let mut diff_ids = Vec::new();
        let mut descriptors = Vec::new();
        let mut sizes = Vec::new();
        // The repository's name goes into the seeds, so that two images share no layer but the program.
        let base = repository.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let noises = (0..layers).map(|n| {
            let content = noise(base.wrapping_add(n), bytes);
            Tarball::new().file(&format!("noise-{n}"), 0o644, &content).bytes()
        });
        for tar in std::iter::once(program).chain(noises) {
            diff_ids.push(digest(&tar));
            let packed = stored(&tar);
            let name = digest(&packed);
            self.pushed.push_blob(repository, &name, &packed);
            descriptors.push(json!({"mediaType": LAYER_TYPE, "digest": name, "size": packed.len()}));
            sizes.push((name, packed.len() as u64));
        }
        let config = json!({
            "architecture": host_architecture(), "os": "linux", "config": {"Entrypoint": ["/stamp"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        self.pushed.push_blob(repository, &digest(&config), &config);
        let manifest: Value = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": descriptors,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest(&config), "size": config.len()},
        });
        self.pushed.put_manifest(repository, "1", MANIFEST_TYPE, manifest.to_string().as_bytes());
        Large { name: format!("{repository}:1"), layers: sizes }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // An own child; it may have ended by itself.
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

/// gzip without trying: what any level makes of bytes that do not compress, in a fraction of the time.
fn stored(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(tar.len()), flate2::Compression::none());
    encoder.write_all(tar).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_compress_and_differs_by_its_seed() {
        let content = noise(1, 100_000);
        assert_eq!(content.len(), 100_000);
        assert_ne!(content, noise(2, 100_000));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&content).unwrap();
        assert!(encoder.finish().unwrap().len() > 99_000);
    }
}
